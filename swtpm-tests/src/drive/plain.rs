//! Derivation from the bytes of readable keys.

use cryptoki_sys::*;

use super::hash::*;
use super::{Drive, Family, Outcome, Random, Row, right, secret_key};
use crate::ck::{Mechanism, flag, number, open};
use crate::door::Memory;
use crate::openssl;

pub(super) static ROWS: &[Row] = &[
    (CKM_CONCATENATE_BASE_AND_KEY, &Plain(None)),
    (CKM_CONCATENATE_BASE_AND_DATA, &Plain(None)),
    (CKM_CONCATENATE_DATA_AND_BASE, &Plain(None)),
    (CKM_XOR_BASE_AND_DATA, &Plain(None)),
    (CKM_EXTRACT_KEY_FROM_KEY, &Plain(None)),
    (CKM_SHAKE_128_KEY_DERIVATION, &Plain(None)),
    (CKM_SHAKE_256_KEY_DERIVATION, &Plain(None)),
    (CKM_SHA1_KEY_DERIVATION, &Plain(Some(SHA1))),
    (CKM_SHA224_KEY_DERIVATION, &Plain(Some(SHA224))),
    (CKM_SHA256_KEY_DERIVATION, &Plain(Some(SHA256))),
    (CKM_SHA384_KEY_DERIVATION, &Plain(Some(SHA384))),
    (CKM_SHA512_KEY_DERIVATION, &Plain(Some(SHA512))),
    (CKM_SHA512_224_KEY_DERIVATION, &Plain(Some(SHA512_224))),
    (CKM_SHA512_256_KEY_DERIVATION, &Plain(Some(SHA512_256))),
    (CKM_SHA3_224_KEY_DERIVATION, &Plain(Some(SHA3_224))),
    (CKM_SHA3_256_KEY_DERIVATION, &Plain(Some(SHA3_256))),
    (CKM_SHA3_384_KEY_DERIVATION, &Plain(Some(SHA3_384))),
    (CKM_SHA3_512_KEY_DERIVATION, &Plain(Some(SHA3_512))),
];

/// On the bytes of a key; with a hash, its digest.
#[derive(Debug)]
struct Plain(Option<Hash>);

impl Family for Plain {
    fn section(&self) -> &'static str {
        "derivation from the bytes of keys"
    }

    fn does(&self) -> u64 {
        CKF_DERIVE
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let value = random.bytes(32);
        let more = [&open()[..], &[flag(CKA_DERIVE, true)]].concat();
        drive.with_object(&secret_key(CKK_GENERIC_SECRET, &value, &more), |key| {
            let (mechanism, expected) = self.expected(drive.kind(), key, &value, random);
            let length = number(CKA_VALUE_LEN, expected.len() as u64);
            let template = [&[length][..], &open()].concat();
            drive.with_derived(mechanism, key, &template, |made| {
                right(drive.value(made)? == expected, || drive.named("another key"))
            })
        })
    }
}

impl Plain {
    /// The mechanism with a parameter for this key, and what must come out.
    fn expected(
        &self,
        kind: u64,
        key: u64,
        value: &[u8],
        random: &mut Random,
    ) -> (Mechanism, Vec<u8>) {
        let data = random.bytes(20);
        let string = || Mechanism::string(kind, &[], &data);
        match (kind, self.0) {
            (_, Some(hash)) => (kind.into(), openssl::digest(hash.2, value)),
            (CKM_SHAKE_128_KEY_DERIVATION, _) => (kind.into(), openssl::xof("shake128", value, 32)),
            (CKM_SHAKE_256_KEY_DERIVATION, _) => (kind.into(), openssl::xof("shake256", value, 64)),
            (CKM_CONCATENATE_BASE_AND_KEY, _) => {
                (Mechanism::with(kind, Memory::word(key)), [value, value].concat())
            }
            (CKM_CONCATENATE_BASE_AND_DATA, _) => (string(), [value, &data].concat()),
            (CKM_CONCATENATE_DATA_AND_BASE, _) => (string(), [&data, value].concat()),
            (CKM_XOR_BASE_AND_DATA, _) => {
                (string(), value.iter().zip(&data).map(|(one, other)| one ^ other).collect())
            }
            _ => {
                let at = random.below(32);
                let turned = value.iter().cycle().skip(at).take(16).copied().collect();
                (Mechanism::with(kind, Memory::word(8 * at as u64)), turned)
            }
        }
    }
}
