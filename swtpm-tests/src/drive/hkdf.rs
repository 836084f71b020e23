//! HKDF: keys, data, and the keys for it.

use cryptoki_sys::*;

use super::hash::{SHA1, SHA256};
use super::{Drive, Family, Outcome, Random, Row, right};
use crate::ck::{Mechanism, bytes, flag, number, open};
use crate::openssl;

pub(super) static ROWS: &[Row] =
    &[(CKM_HKDF_DERIVE, &Hkdf), (CKM_HKDF_DATA, &Hkdf), (CKM_HKDF_KEY_GEN, &HkdfKeys)];

#[derive(Debug)]
struct Hkdf;

impl Family for Hkdf {
    fn section(&self) -> &'static str {
        "HKDF"
    }

    fn does(&self) -> u64 {
        CKF_DERIVE
    }

    /// A key, or data, of a base key that OpenSSL knows, too, and the chip works with.
    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let value = random.bytes(32);
        let base = [
            number(CKA_KEY_TYPE, CKK_HKDF),
            bytes(CKA_ALLOWED_MECHANISMS, drive.kind().to_ne_bytes()),
            bytes(CKA_VALUE, value.clone()),
        ];
        drive
            .with_hidden(&base, CKA_DERIVE, |key| expands(drive, drive.kind(), key, &value, random))
    }
}

/// What `kind` makes of a base key with this value.
fn expands(drive: &Drive<'_>, kind: u64, key: u64, value: &[u8], random: &mut Random) -> Outcome {
    let hash = *random.one_of(&[SHA1, SHA256]);
    let length = *random.one_of(&[16, 32, 45]);
    let info = random.bytes(20);
    let expected = openssl::hkdf_expand(hash.2, value, &info, length);
    let mechanism = Mechanism::hkdf(kind, hash.0, None, Some(&info));
    let length = number(CKA_VALUE_LEN, length as u64);
    if kind == CKM_HKDF_DATA {
        return drive.with_derived(mechanism, key, &[length], |made| {
            right(drive.value(made)? == expected, || drive.named("other data"))
        });
    }
    // It is as hidden as the base key, or treated so.
    drive.with_derived(mechanism, key, &[length, flag(CKA_SIGN, true)], |made| {
        drive.is_hidden(made, &expected)
    })
}

#[derive(Debug)]
struct HkdfKeys;

impl Family for HkdfKeys {
    fn section(&self) -> &'static str {
        "HKDF"
    }

    fn does(&self) -> u64 {
        CKF_GENERATE
    }

    /// A new key, so that OpenSSL can do what it does.
    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let own = [number(CKA_VALUE_LEN, 32), flag(CKA_TOKEN, false)];
        let template = [&own[..], &open()].concat();
        drive.with_generated(drive.kind(), &template, |key| {
            expands(drive, CKM_HKDF_DERIVE, key, &drive.value(key)?, random)
        })
    }
}
