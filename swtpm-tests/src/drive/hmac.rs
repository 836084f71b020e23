//! HMAC, whole or cut to the length that the parameter says.

use cryptoki_sys::*;

use super::hash::*;
use super::{Drive, Family, Outcome, Random, Row, secret_key};
use crate::ck::{Mechanism, flag};
use crate::openssl;

pub(super) static ROWS: &[Row] = &[
    (CKM_SHA_1_HMAC, &Hmac(SHA1, false)),
    (CKM_SHA224_HMAC, &Hmac(SHA224, false)),
    (CKM_SHA256_HMAC, &Hmac(SHA256, false)),
    (CKM_SHA384_HMAC, &Hmac(SHA384, false)),
    (CKM_SHA512_HMAC, &Hmac(SHA512, false)),
    (CKM_SHA512_224_HMAC, &Hmac(SHA512_224, false)),
    (CKM_SHA512_256_HMAC, &Hmac(SHA512_256, false)),
    (CKM_SHA3_224_HMAC, &Hmac(SHA3_224, false)),
    (CKM_SHA3_256_HMAC, &Hmac(SHA3_256, false)),
    (CKM_SHA3_384_HMAC, &Hmac(SHA3_384, false)),
    (CKM_SHA3_512_HMAC, &Hmac(SHA3_512, false)),
    (CKM_SHA_1_HMAC_GENERAL, &Hmac(SHA1, true)),
    (CKM_SHA224_HMAC_GENERAL, &Hmac(SHA224, true)),
    (CKM_SHA256_HMAC_GENERAL, &Hmac(SHA256, true)),
    (CKM_SHA384_HMAC_GENERAL, &Hmac(SHA384, true)),
    (CKM_SHA512_HMAC_GENERAL, &Hmac(SHA512, true)),
    (CKM_SHA512_224_HMAC_GENERAL, &Hmac(SHA512_224, true)),
    (CKM_SHA512_256_HMAC_GENERAL, &Hmac(SHA512_256, true)),
    (CKM_SHA3_224_HMAC_GENERAL, &Hmac(SHA3_224, true)),
    (CKM_SHA3_256_HMAC_GENERAL, &Hmac(SHA3_256, true)),
    (CKM_SHA3_384_HMAC_GENERAL, &Hmac(SHA3_384, true)),
    (CKM_SHA3_512_HMAC_GENERAL, &Hmac(SHA3_512, true)),
];

/// With this hash; cut or whole.
#[derive(Debug)]
struct Hmac(Hash, bool);

impl Family for Hmac {
    fn section(&self) -> &'static str {
        "HMAC"
    }

    fn does(&self) -> u64 {
        CKF_SIGN | CKF_VERIFY
    }

    /// With a key that OpenSSL knows, too.
    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let length = 1 + random.below(64);
        let value = random.bytes(length);
        let roles = [flag(CKA_SIGN, true), flag(CKA_VERIFY, true)];
        drive.with_object(&secret_key(CKK_GENERIC_SECRET, &value, &roles), |key| {
            let length = *random.one_of(&[0, 1, 63, 64, 65, 300, 1024, 1025, 2500]);
            let data = random.bytes(length);
            let mut expected = openssl::hmac(self.0.2, &value, &data);
            let mut mechanism = Mechanism::from(drive.kind());
            if self.1 {
                expected.truncate(1 + random.below(self.0.3));
                mechanism = Mechanism::cut(drive.kind(), expected.len() as u64);
            }
            drive.mac(key, mechanism, &data, &expected, random)
        })
    }
}
