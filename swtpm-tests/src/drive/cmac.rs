//! The MACs of AES: CMAC, whole or cut to the length that the parameter says, and that of GCM.

use cryptoki_sys::*;

use super::aes::with_key;
use super::{Drive, Family, Outcome, Random, Row};
use crate::ck::Mechanism;
use crate::openssl;

pub(super) static ROWS: &[Row] = &[
    (CKM_AES_CMAC, &AesMac::Cmac),
    (CKM_AES_CMAC_GENERAL, &AesMac::CutCmac),
    (CKM_AES_GMAC, &AesMac::Gmac),
];

#[derive(Debug)]
enum AesMac {
    Cmac,
    CutCmac,
    Gmac,
}

impl Family for AesMac {
    fn section(&self) -> &'static str {
        "AES"
    }

    fn does(&self) -> u64 {
        CKF_SIGN | CKF_VERIFY
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let kind = drive.kind();
        with_key(drive, random, |key, value, random| {
            let length = *random.one_of(&[0, 1, 15, 16, 17, 300, 1008, 1009, 2500]);
            let data = random.bytes(length);
            let (mechanism, expected) = match self {
                AesMac::Gmac => {
                    let (nonce, tag) = (random.bytes(12), 12 + random.below(5));
                    let made = openssl::aead("GCM", true, value, &nonce, &data, tag, &[]);
                    (Mechanism::gcm(kind, &nonce, &[], 8 * tag as u64), drive.openssl(made)?)
                }
                AesMac::CutCmac => {
                    let mut made = openssl::cmac(value, &data);
                    made.truncate(1 + random.below(16));
                    (Mechanism::cut(kind, made.len() as u64), made)
                }
                AesMac::Cmac => (kind.into(), openssl::cmac(value, &data)),
            };
            drive.mac(key, mechanism, &data, &expected, random)
        })
    }
}
