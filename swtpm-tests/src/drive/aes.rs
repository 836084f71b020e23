//! The modes of AES that only encrypt, key wrap among them.

use cryptoki_sys::*;

use super::wrap::{self, Sealing};
use super::{Drive, Family, Outcome, Random, Row, right, secret_key};
use crate::ck::{Mechanism, flag};
use crate::openssl;

pub(super) static ROWS: &[Row] = &[
    (CKM_AES_ECB, &Aes("ECB", Lengths::Whole)),
    (CKM_AES_CBC, &Aes("CBC", Lengths::Whole)),
    (CKM_AES_CBC_PAD, &Aes("CBC", Lengths::Padded)),
    (CKM_AES_CTS, &Aes("CBC-CTS", Lengths::Block)),
    (CKM_AES_CTR, &Aes("CTR", Lengths::Any)),
    (CKM_AES_OFB, &Aes("OFB", Lengths::Any)),
    (CKM_AES_CFB128, &Aes("CFB", Lengths::Any)),
    (CKM_AES_CFB8, &Aes("CFB8", Lengths::Slow)),
    (CKM_AES_KEY_WRAP, &Aes("WRAP", Lengths::Semiblocks)),
    (CKM_AES_KEY_WRAP_KWP, &Aes("WRAP-PAD", Lengths::Counted)),
    (CKM_AES_KEY_WRAP_PAD, &Aes("WRAP", Lengths::Filled)),
    (CKM_AES_KEY_WRAP_PKCS7, &Aes("WRAP", Lengths::Filled)),
];

/// OpenSSL's name of the mode, and the lengths that it takes.
#[derive(Debug)]
struct Aes(&'static str, Lengths);

/// What a mode of AES takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lengths {
    /// Blocks of 16 bytes.
    Whole,
    /// Any, padded.
    Padded,
    /// 16 bytes and more.
    Block,
    /// Any.
    Any,
    /// Any, and each byte costs a command.
    Slow,
    /// Key wrap: 16 bytes and more in units of 8.
    Semiblocks,
    /// Key wrap: 1 byte and more.
    Counted,
    /// Key wrap: 8 bytes and more, padded.
    Filled,
}

impl Lengths {
    fn one(self, random: &mut Random) -> usize {
        match self {
            Lengths::Whole => 16 * random.below(140),
            Lengths::Padded | Lengths::Any => random.below(2200),
            Lengths::Block => 16 + random.below(2200),
            Lengths::Slow => random.below(24),
            Lengths::Semiblocks => 16 + 8 * random.below(5),
            Lengths::Counted => 1 + random.below(40),
            Lengths::Filled => 8 + random.below(40),
        }
    }
}

impl Family for Aes {
    fn section(&self) -> &'static str {
        "AES"
    }

    fn does(&self) -> u64 {
        let ciphers = CKF_ENCRYPT | CKF_DECRYPT;
        match self.1 {
            // By P9 it unwraps nothing, where that holds.
            Lengths::Padded => ciphers | CKF_WRAP,
            Lengths::Semiblocks | Lengths::Counted | Lengths::Filled => {
                ciphers | CKF_WRAP | CKF_UNWRAP
            }
            _ => ciphers,
        }
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let wraps = |value, random: &mut Random| self.wraps(drive, value, random);
        match drive.driver.operation {
            // These take no parameter and may wrap keys that nobody reads.
            CKF_WRAP
                if matches!(self.1, Lengths::Semiblocks | Lengths::Counted)
                    && random.once_in(2) =>
            {
                wrap::there_and_back(drive, random)
            }
            CKF_WRAP => wrap::with_aes(drive, random, wraps),
            CKF_UNWRAP => wrap::opened_with_aes(drive, random, wraps),
            _ => with_key(drive, random, |key, value, random| {
                let length = self.1.one(random);
                let plain = random.bytes(length);
                let (mechanism, seal) = self.wraps(drive, plain.clone(), random);
                let sealed = seal(value)?;
                if drive.driver.operation == CKF_ENCRYPT {
                    let made = drive.cipher(mechanism, key, &plain, random)?;
                    return right(made == sealed, || drive.named("another ciphertext"));
                }
                let made = drive.cipher(mechanism, key, &sealed, random)?;
                right(made == plain, || drive.named("another plaintext"))
            }),
        }
    }
}

impl Aes {
    /// The mechanism with an IV, and what OpenSSL makes of a plaintext under a key.
    fn wraps<'a>(
        &'a self,
        drive: &'a Drive<'_>,
        plain: Vec<u8>,
        random: &mut Random,
    ) -> (Mechanism, Sealing<'a>) {
        let Aes(mode, lengths) = *self;
        // That of key wrap may be left away.
        let length = match mode {
            "ECB" => 0,
            "WRAP" => *random.one_of(&[0, 8]),
            "WRAP-PAD" => *random.one_of(&[0, 4]),
            _ => 16,
        };
        let iv = random.bytes(length);
        let mechanism = match (mode, <[u8; 16]>::try_from(&iv[..])) {
            ("CTR", Ok(block)) => Mechanism::counter(128, block),
            _ if iv.is_empty() => drive.kind().into(),
            _ => Mechanism::bytes(drive.kind(), &iv),
        };
        let fill = if lengths == Lengths::Filled { 8 - plain.len() % 8 } else { 0 };
        let filled = [plain, vec![fill as u8; fill]].concat();
        let padded = lengths == Lengths::Padded;
        let seal =
            move |key: &[u8]| drive.openssl(openssl::aes(mode, true, padded, key, &iv, &filled));
        (mechanism, Box::new(seal))
    }
}

/// A key that OpenSSL knows, too, for the length of `job`.
pub(super) fn with_key(
    drive: &Drive<'_>,
    random: &mut Random,
    job: impl FnOnce(u64, &[u8], &mut Random) -> Outcome,
) -> Outcome {
    let size = *random.one_of(&[16, 32]);
    let value = random.bytes(size);
    let roles = [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY].map(|role| flag(role, true));
    drive.with_object(&secret_key(CKK_AES, &value, &roles), |key| job(key, &value, random))
}
