//! RSA AES key wrap: an AES key of the moment under RSA, the key under that.

use cryptoki_sys::*;

use super::asymmetric::Shape;
use super::hash::SHA256;
use super::rsa::oaep_options;
use super::{Drive, Family, Outcome, Random, Row, wrap};
use crate::ck::Mechanism;
use crate::openssl;

pub(super) static ROWS: &[Row] = &[(CKM_RSA_AES_KEY_WRAP, &RsaAes)];

#[derive(Debug)]
struct RsaAes;

/// The length of what RSA of 2048 bits gives, in bytes.
const RSA: usize = 256;

impl Family for RsaAes {
    fn section(&self) -> &'static str {
        "RSA AES key wrap"
    }

    fn does(&self) -> u64 {
        CKF_WRAP | CKF_UNWRAP
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let bytes = *random.one_of(&[16, 24, 32]);
        let moment = random.bytes(bytes);
        let mechanism = Mechanism::rsa_aes(8 * bytes as u64, SHA256.0, SHA256.1);
        let shape =
            Shape { options: oaep_options(SHA256), ..Shape::new(mechanism, moment.clone(), &[]) };
        let inner = |encrypt, key: &[u8], data: &[u8]| {
            openssl::aes("WRAP-PAD", encrypt, false, key, &[], data)
        };
        if drive.driver.operation == CKF_WRAP {
            return wrap::with_rsa(drive, &shape, random, |wrapped, key| {
                let (first, second) = wrapped.split_at_checked(RSA)?;
                inner(false, &key.decrypt(first, &shape.options())?, second)
            });
        }
        wrap::opened_with_rsa(drive, &shape, random, |value, key| {
            let first = key.encrypt(&moment, &shape.options())?;
            Some([first, inner(true, &moment, value)?].concat())
        })
    }
}
