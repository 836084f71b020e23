//! New secret keys: so that OpenSSL can do what they do; or ones that nobody knows.

use cryptoki_sys::*;

use super::hash::*;
use super::{Drive, Family, Outcome, Random, Row, by, right};
use crate::ck::{flag, hidden, number, open};
use crate::openssl;

pub(super) static ROWS: &[Row] = &[
    (CKM_AES_KEY_GEN, &AesKey),
    (CKM_GENERIC_SECRET_KEY_GEN, &Secret(CKK_GENERIC_SECRET, CKM_SHA256_HMAC, SHA256)),
    (CKM_SHA_1_KEY_GEN, &Secret(CKK_SHA_1_HMAC, CKM_SHA_1_HMAC, SHA1)),
    (CKM_SHA224_KEY_GEN, &Secret(CKK_SHA224_HMAC, CKM_SHA224_HMAC, SHA224)),
    (CKM_SHA256_KEY_GEN, &Secret(CKK_SHA256_HMAC, CKM_SHA256_HMAC, SHA256)),
    (CKM_SHA384_KEY_GEN, &Secret(CKK_SHA384_HMAC, CKM_SHA384_HMAC, SHA384)),
    (CKM_SHA512_KEY_GEN, &Secret(CKK_SHA512_HMAC, CKM_SHA512_HMAC, SHA512)),
    (CKM_SHA512_224_KEY_GEN, &Secret(CKK_SHA512_224_HMAC, CKM_SHA512_224_HMAC, SHA512_224)),
    (CKM_SHA512_256_KEY_GEN, &Secret(CKK_SHA512_256_HMAC, CKM_SHA512_256_HMAC, SHA512_256)),
    (CKM_SHA3_224_KEY_GEN, &Secret(CKK_SHA3_224_HMAC, CKM_SHA3_224_HMAC, SHA3_224)),
    (CKM_SHA3_256_KEY_GEN, &Secret(CKK_SHA3_256_HMAC, CKM_SHA3_256_HMAC, SHA3_256)),
    (CKM_SHA3_384_KEY_GEN, &Secret(CKK_SHA3_384_HMAC, CKM_SHA3_384_HMAC, SHA3_384)),
    (CKM_SHA3_512_KEY_GEN, &Secret(CKK_SHA3_512_HMAC, CKM_SHA3_512_HMAC, SHA3_512)),
];

/// Keys of this CKK_x, for this CKM_x, the HMAC of this hash.
#[derive(Debug)]
struct Secret(u64, u64, Hash);

impl Family for Secret {
    fn section(&self) -> &'static str {
        "secret keys"
    }

    fn does(&self) -> u64 {
        CKF_GENERATE
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let Secret(key_type, hmac, hash) = *self;
        let (ck, session) = (drive.ck, drive.session);
        let length = *random.one_of(&[16, 20, 32, 64]);
        let seen = random.once_in(2);
        let secrecy = if seen { open() } else { hidden() };
        let own =
            [number(CKA_VALUE_LEN, length as u64), flag(CKA_TOKEN, false), flag(CKA_SIGN, true)];
        drive.with_generated(drive.kind(), &[&own[..], &secrecy].concat(), |key| {
            let said = by("C_GetAttributeValue", ck.attribute(session, key, CKA_KEY_TYPE))?;
            right(said == key_type.to_ne_bytes(), || drive.named("a key of another type"))?;
            let data = random.bytes(100);
            let made = by("C_Sign", ck.sign(session, hmac, key, &data))?;
            by("C_Verify", ck.verify(session, hmac, key, &data, &made))?;
            drive.reads(key, seen, |value| {
                let same = value.len() == length && made == openssl::hmac(hash.2, value, &data);
                right(same, || drive.named("another MAC"))
            })
        })
    }
}

#[derive(Debug)]
struct AesKey;

impl Family for AesKey {
    fn section(&self) -> &'static str {
        "AES"
    }

    fn does(&self) -> u64 {
        CKF_GENERATE
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let (ck, session) = (drive.ck, drive.session);
        let seen = random.once_in(2);
        let secrecy = if seen { open() } else { hidden() };
        let own = [
            number(CKA_VALUE_LEN, *random.one_of(&[16, 32])),
            flag(CKA_TOKEN, false),
            flag(CKA_ENCRYPT, true),
            flag(CKA_DECRYPT, true),
        ];
        drive.with_generated(drive.kind(), &[&own[..], &secrecy].concat(), |key| {
            let plain = random.bytes(64);
            let sealed = by("C_Encrypt", ck.encrypt(session, CKM_AES_ECB, key, &plain))?;
            let opened = by("C_Decrypt", ck.decrypt(session, CKM_AES_ECB, key, &sealed))?;
            right(opened == plain, || drive.named("another plaintext"))?;
            drive.reads(key, seen, |value| {
                let expected = openssl::aes("ECB", true, false, value, &[], &plain);
                right(expected == Some(sealed), || drive.named("another ciphertext"))
            })
        })
    }
}
