//! The functions of SP 800-108.

use cryptoki_sys::*;

use super::{Drive, Family, Outcome, Random, Row};
use crate::ck::{Mechanism, bytes, number};
use crate::door::Memory;
use crate::openssl;

pub(super) static ROWS: &[Row] = &[
    (CKM_SP800_108_COUNTER_KDF, &Sp800),
    (CKM_SP800_108_FEEDBACK_KDF, &Sp800),
    (CKM_SP800_108_DOUBLE_PIPELINE_KDF, &Sp800),
];

#[derive(Debug)]
struct Sp800;

impl Family for Sp800 {
    fn section(&self) -> &'static str {
        "key derivation"
    }

    fn does(&self) -> u64 {
        CKF_DERIVE
    }

    /// A key of a base key that OpenSSL knows, too, and the chip works with.
    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let kind = drive.kind();
        let value = random.bytes(32);
        let base = [number(CKA_KEY_TYPE, CKK_GENERIC_SECRET), bytes(CKA_VALUE, value.clone())];
        let length = *random.one_of(&[16, 32, 45]);
        let label = random.bytes(20);
        let expected = openssl::sp800(kind, &value, &label, length);
        let mut counter = Memory::word(0);
        counter.push_word(32);
        let mut fields = vec![(CK_SP800_108_BYTE_ARRAY, Memory::of(label))];
        if kind == CKM_SP800_108_COUNTER_KDF {
            fields.insert(0, (CK_SP800_108_ITERATION_VARIABLE, counter));
        } else {
            fields.insert(0, (CK_SP800_108_ITERATION_VARIABLE, Memory::default()));
            fields.insert(1, (CK_SP800_108_COUNTER, counter));
        }
        let mechanism = Mechanism::sp800(kind, CKM_SHA256_HMAC, &fields, &[], &[]);
        drive.derives_hidden(&base, mechanism, &expected)
    }
}
