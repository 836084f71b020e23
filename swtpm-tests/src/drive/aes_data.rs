//! Keys that a mode of AES makes of data.

use cryptoki_sys::*;

use super::{Drive, Family, Outcome, Random, Row};
use crate::ck::{Mechanism, bytes, number};
use crate::openssl;

pub(super) static ROWS: &[Row] =
    &[(CKM_AES_ECB_ENCRYPT_DATA, &AesData("ECB")), (CKM_AES_CBC_ENCRYPT_DATA, &AesData("CBC"))];

/// OpenSSL's name of the mode.
#[derive(Debug)]
struct AesData(&'static str);

impl Family for AesData {
    fn section(&self) -> &'static str {
        "key derivation"
    }

    fn does(&self) -> u64 {
        CKF_DERIVE
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let value = random.bytes(32);
        let base = [
            number(CKA_KEY_TYPE, CKK_AES),
            bytes(CKA_ALLOWED_MECHANISMS, drive.kind().to_ne_bytes()),
            bytes(CKA_VALUE, value.clone()),
        ];
        let iv = if self.0 == "ECB" { Vec::new() } else { random.bytes(16) };
        let data = random.bytes(48);
        let length = *random.one_of(&[16, 32, 45]);
        let sealed = openssl::aes(self.0, true, false, &value, &iv, &data);
        let expected = &drive.openssl(sealed)?[..length];
        drive.derives_hidden(&base, Mechanism::string(drive.kind(), &iv, &data), expected)
    }
}
