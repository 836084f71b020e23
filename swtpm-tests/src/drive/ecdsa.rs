//! ECDSA, of a digest or of a message.

use cryptoki_sys::*;

use super::asymmetric::{Asymmetric, Shape};
use super::hash::*;
use super::pair::curve_of;
use super::{Drive, Failure, Family, Kind, Outcome, Pair, Random, Row};
use crate::ck::Mechanism;
use crate::openssl::{self, Key, ecdsa_der, ecdsa_raw};

pub(super) static ROWS: &[Row] = &[
    (CKM_ECDSA, &Ecdsa(None)),
    (CKM_ECDSA_SHA1, &Ecdsa(Some(SHA1))),
    (CKM_ECDSA_SHA224, &Ecdsa(Some(SHA224))),
    (CKM_ECDSA_SHA256, &Ecdsa(Some(SHA256))),
    (CKM_ECDSA_SHA384, &Ecdsa(Some(SHA384))),
    (CKM_ECDSA_SHA512, &Ecdsa(Some(SHA512))),
    (CKM_ECDSA_SHA3_224, &Ecdsa(Some(SHA3_224))),
    (CKM_ECDSA_SHA3_256, &Ecdsa(Some(SHA3_256))),
    (CKM_ECDSA_SHA3_384, &Ecdsa(Some(SHA3_384))),
    (CKM_ECDSA_SHA3_512, &Ecdsa(Some(SHA3_512))),
];

#[derive(Debug)]
struct Ecdsa(Option<Hash>);

impl Family for Ecdsa {
    fn section(&self) -> &'static str {
        "ECDSA"
    }

    fn does(&self) -> u64 {
        CKF_SIGN | CKF_VERIFY
    }

    fn pair(&self) -> Option<Kind> {
        Some(Kind::Ec)
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        self.operate(drive, random)
    }

    fn sample(&self, drive: &Drive<'_>, pair: &Pair, random: &mut Random) -> (Mechanism, Vec<u8>) {
        self.sampled(drive, pair, random)
    }
}

impl Asymmetric for Ecdsa {
    const KIND: Kind = Kind::Ec;

    fn to_sign(&self, kind: u64, random: &mut Random) -> Shape {
        match self.0 {
            None => {
                let length = *random.one_of(&[20, 32, 48, 64]);
                Shape::new(kind, random.bytes(length), &[])
            }
            Some(hash) => {
                let message = random.fewer(300);
                let seen = openssl::digest(hash.2, &message);
                Shape { seen, ..Shape::new(kind, message, &[]) }
            }
        }
    }

    fn hashes(&self) -> bool {
        self.0.is_some()
    }

    fn is_good(&self, pair: &Pair, shape: &Shape, signature: &[u8]) -> Result<bool, Failure> {
        let whole = signature.len() == 2 * pair.curve().2;
        Ok(whole && pair.key()?.verifies(&shape.seen, &ecdsa_der(signature), &[]))
    }

    fn theirs(&self, key: &Key, signature: Vec<u8>) -> Vec<u8> {
        ecdsa_raw(&signature, curve_of(&key.info()).2)
    }
}
