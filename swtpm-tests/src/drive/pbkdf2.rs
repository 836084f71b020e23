//! Keys from passwords.

use cryptoki_sys::*;

use super::{Drive, Family, Outcome, Random, Row, right};
use crate::ck::{Mechanism, flag, number, open};
use crate::openssl;

pub(super) static ROWS: &[Row] = &[(CKM_PKCS5_PBKD2, &Password)];

#[derive(Debug)]
struct Password;

impl Family for Password {
    fn section(&self) -> &'static str {
        "keys from passwords"
    }

    fn does(&self) -> u64 {
        CKF_GENERATE
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let (password, salt) = (random.bytes(12), random.bytes(16));
        let iterations = 1 + random.below(50) as u64;
        let (prf, name) = *random.one_of(&[
            (CKP_PKCS5_PBKD2_HMAC_SHA1, "sha1"),
            (CKP_PKCS5_PBKD2_HMAC_SHA256, "sha256"),
            (CKP_PKCS5_PBKD2_HMAC_SHA512, "sha512"),
        ]);
        let own = [
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            number(CKA_VALUE_LEN, 48),
            flag(CKA_TOKEN, false),
        ];
        let mechanism = Mechanism::pbkdf2(prf, &password, &salt, iterations);
        let expected = openssl::pbkdf2(name, &password, &salt, iterations, 48);
        drive.with_generated(mechanism, &[&own[..], &open()].concat(), |key| {
            right(drive.value(key)? == expected, || drive.named("another key"))
        })
    }
}
