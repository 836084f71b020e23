//! Key agreement with a key of OpenSSL's.

use cryptoki_sys::*;

use super::pair::point;
use super::{Drive, Family, Kind, Outcome, Pair, Random, Row, right};
use crate::ck::{Mechanism, flag, number, open};
use crate::openssl::{self, Key};

pub(super) static ROWS: &[Row] = &[(CKM_ECDH1_DERIVE, &Ecdh), (CKM_ECDH1_COFACTOR_DERIVE, &Ecdh)];

#[derive(Debug)]
struct Ecdh;

impl Family for Ecdh {
    fn section(&self) -> &'static str {
        "ECDH"
    }

    fn does(&self) -> u64 {
        CKF_DERIVE
    }

    fn pair(&self) -> Option<Kind> {
        Some(Kind::Ec)
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let pair = drive.pair();
        let other = Key::generate("EC", &[&format!("ec_paramgen_curve:{}", pair.curve().1)]);
        let shared = drive.openssl(other.agree(&pair.key()?))?;
        let (kdf, expected) = if random.once_in(2) {
            (CKD_NULL, shared)
        } else {
            // ANSI X9.63: the hash of secret and counter.
            (CKD_SHA256_KDF, openssl::digest("sha256", &[&shared[..], &[0, 0, 0, 1]].concat()))
        };
        let own = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            number(CKA_VALUE_LEN, expected.len() as u64),
            flag(CKA_TOKEN, false),
        ];
        let mechanism = mechanism(drive, kdf, &other.info());
        let template = [&own[..], &open()].concat();
        drive.with_derived(mechanism, pair.private, &template, |secret| {
            right(drive.value(secret)? == expected, || drive.named("another secret"))
        })
    }

    fn sample(&self, drive: &Drive<'_>, pair: &Pair, _: &mut Random) -> (Mechanism, Vec<u8>) {
        (mechanism(drive, CKD_NULL, &pair.info), Vec::new())
    }
}

/// Agreement with the key of this SubjectPublicKeyInfo.
fn mechanism(drive: &Drive<'_>, kdf: u64, info: &[u8]) -> Mechanism {
    Mechanism { kind: drive.kind(), ..Mechanism::ecdh(kdf, &[], point(info)) }
}
