//! RSA: the paddings of signatures and ciphertexts, and none.

use cryptoki_sys::*;

use super::asymmetric::{Asymmetric, Shape};
use super::hash::*;
use super::{Drive, Failure, Family, Kind, Outcome, Pair, Random, Row, wrap};
use crate::ck::Mechanism;
use crate::openssl;

pub(super) static ROWS: &[Row] = &[
    (CKM_RSA_PKCS, &Rsa::Pkcs1(None)),
    (CKM_SHA1_RSA_PKCS, &Rsa::Pkcs1(Some(SHA1))),
    (CKM_SHA224_RSA_PKCS, &Rsa::Pkcs1(Some(SHA224))),
    (CKM_SHA256_RSA_PKCS, &Rsa::Pkcs1(Some(SHA256))),
    (CKM_SHA384_RSA_PKCS, &Rsa::Pkcs1(Some(SHA384))),
    (CKM_SHA512_RSA_PKCS, &Rsa::Pkcs1(Some(SHA512))),
    (CKM_SHA3_224_RSA_PKCS, &Rsa::Pkcs1(Some(SHA3_224))),
    (CKM_SHA3_256_RSA_PKCS, &Rsa::Pkcs1(Some(SHA3_256))),
    (CKM_SHA3_384_RSA_PKCS, &Rsa::Pkcs1(Some(SHA3_384))),
    (CKM_SHA3_512_RSA_PKCS, &Rsa::Pkcs1(Some(SHA3_512))),
    (CKM_RSA_PKCS_PSS, &Rsa::Pss(None)),
    (CKM_SHA1_RSA_PKCS_PSS, &Rsa::Pss(Some(SHA1))),
    (CKM_SHA224_RSA_PKCS_PSS, &Rsa::Pss(Some(SHA224))),
    (CKM_SHA256_RSA_PKCS_PSS, &Rsa::Pss(Some(SHA256))),
    (CKM_SHA384_RSA_PKCS_PSS, &Rsa::Pss(Some(SHA384))),
    (CKM_SHA512_RSA_PKCS_PSS, &Rsa::Pss(Some(SHA512))),
    (CKM_SHA3_224_RSA_PKCS_PSS, &Rsa::Pss(Some(SHA3_224))),
    (CKM_SHA3_256_RSA_PKCS_PSS, &Rsa::Pss(Some(SHA3_256))),
    (CKM_SHA3_384_RSA_PKCS_PSS, &Rsa::Pss(Some(SHA3_384))),
    (CKM_SHA3_512_RSA_PKCS_PSS, &Rsa::Pss(Some(SHA3_512))),
    (CKM_RSA_PKCS_OAEP, &Rsa::Oaep),
    (CKM_RSA_X_509, &Rsa::Raw),
];

/// A padding, of a message where it names a hash.
#[derive(Debug)]
enum Rsa {
    Pkcs1(Option<Hash>),
    Pss(Option<Hash>),
    Oaep,
    Raw,
}

impl Family for Rsa {
    fn section(&self) -> &'static str {
        match self {
            Rsa::Pkcs1(_) => "RSA PKCS #1 v1.5",
            Rsa::Pss(_) => "RSA PSS",
            Rsa::Oaep => "RSA OAEP",
            Rsa::Raw => "RSA without padding",
        }
    }

    fn does(&self) -> u64 {
        let both = CKF_SIGN | CKF_VERIFY;
        let recovers = both | CKF_SIGN_RECOVER | CKF_VERIFY_RECOVER | CKF_ENCRYPT | CKF_DECRYPT;
        match self {
            Rsa::Pkcs1(Some(_)) | Rsa::Pss(_) => both,
            // By P9 it unwraps nothing, where that holds.
            Rsa::Pkcs1(None) => recovers | CKF_WRAP,
            Rsa::Raw => recovers,
            Rsa::Oaep => CKF_ENCRYPT | CKF_DECRYPT | CKF_WRAP | CKF_UNWRAP,
        }
    }

    fn pair(&self) -> Option<Kind> {
        Some(Kind::Rsa)
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        match drive.driver.operation {
            CKF_WRAP => {
                let shape = self.to_encrypt(drive.kind(), random);
                wrap::with_rsa(drive, &shape, random, |wrapped, key| {
                    key.decrypt(wrapped, &shape.options())
                })
            }
            CKF_UNWRAP => {
                let shape = self.to_encrypt(drive.kind(), random);
                wrap::opened_with_rsa(drive, &shape, random, |value, key| {
                    key.encrypt(value, &shape.options())
                })
            }
            _ => self.operate(drive, random),
        }
    }

    fn sample(&self, drive: &Drive<'_>, pair: &Pair, random: &mut Random) -> (Mechanism, Vec<u8>) {
        self.sampled(drive, pair, random)
    }
}

const PKCS1: &str = "rsa_padding_mode:pkcs1";
const NONE: &str = "rsa_padding_mode:none";

impl Asymmetric for Rsa {
    const KIND: Kind = Kind::Rsa;

    fn to_sign(&self, kind: u64, random: &mut Random) -> Shape {
        let message = random.fewer(300);
        match *self {
            Rsa::Pkcs1(None) => {
                let length = 1 + random.below(245);
                Shape::new(kind, random.bytes(length), &[PKCS1])
            }
            Rsa::Pkcs1(Some(hash)) => {
                let seen = openssl::digest(hash.2, &message);
                let digest = format!("digest:{}", hash.2);
                Shape { seen, ..Shape::new(kind, message, &[PKCS1, &digest]) }
            }
            Rsa::Pss(fixed) => {
                let hash = fixed.unwrap_or(*random.one_of(&[SHA1, SHA256, SHA512, SHA3_256]));
                let salt = *random.one_of(&[0, hash.3]);
                let seen = openssl::digest(hash.2, &message);
                let data = if fixed.is_some() { message } else { seen.clone() };
                Shape {
                    mechanism: Mechanism::pss(kind, hash.0, hash.1, salt as u64),
                    data,
                    seen,
                    options: vec![
                        "rsa_padding_mode:pss".to_owned(),
                        format!("digest:{}", hash.2),
                        format!("rsa_mgf1_md:{}", hash.2),
                        format!("rsa_pss_saltlen:{salt}"),
                    ],
                }
            }
            // Below any modulus: the first byte is zero.
            Rsa::Raw => Shape::new(kind, [vec![0], random.bytes(255)].concat(), &[NONE]),
            Rsa::Oaep => unreachable!("it signs nothing"),
        }
    }

    fn to_encrypt(&self, kind: u64, random: &mut Random) -> Shape {
        match self {
            Rsa::Pkcs1(_) => Shape::new(kind, random.fewer(246), &[PKCS1]),
            Rsa::Oaep => {
                let hash = *random.one_of(&[SHA1, SHA256, SHA384, SHA3_256]);
                let data = random.fewer(255 - 2 * hash.3);
                let mechanism = Mechanism::oaep(hash.0, hash.1, b"");
                Shape { options: oaep_options(hash), ..Shape::new(mechanism, data, &[]) }
            }
            Rsa::Raw => Shape::new(kind, [vec![0], random.bytes(255)].concat(), &[NONE]),
            Rsa::Pss(_) => unreachable!("it encrypts nothing"),
        }
    }

    fn hashes(&self) -> bool {
        matches!(self, Rsa::Pkcs1(Some(_)) | Rsa::Pss(Some(_)))
    }

    fn is_good(&self, pair: &Pair, shape: &Shape, signature: &[u8]) -> Result<bool, Failure> {
        let (key, options) = (pair.key()?, shape.options());
        Ok(match self {
            // What raw RSA carries has no padding to verify.
            Rsa::Raw => key.recover(signature, &options).as_ref() == Some(&shape.seen),
            _ => key.verifies(&shape.seen, signature, &options),
        })
    }
}

/// OpenSSL's options for OAEP with this hash.
pub(super) fn oaep_options(hash: Hash) -> Vec<String> {
    vec![
        "rsa_padding_mode:oaep".to_owned(),
        format!("rsa_oaep_md:{}", hash.2),
        format!("rsa_mgf1_md:{}", hash.2),
    ]
}
