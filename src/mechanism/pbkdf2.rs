//! Secret keys from passwords: PBKDF2 (PKCS #5 v2.1, RFC 8018 §5.2) with HMAC. The host computes it; the key
//! goes into the TPM as one that was brought in, because whoever knows the password knows the key. PKCS#11
//! 3.2 "PKCS #5 PBKDF2 key generation".

use cryptoki_sys::*;

use super::{Chip, Does, Keys, Mechanism, NOTHING, Params, Value, hmac};
use crate::crypto::kdf;
use crate::error::{Error, Result};
use crate::tpm::key::KEYED_LIMIT;

pub(super) static ROWS: &[Mechanism] = &[Mechanism {
    id: CKM_PKCS5_PBKD2,
    name: "CKM_PKCS5_PBKD2",
    keys: Keys::Secret(&[
        CKK_GENERIC_SECRET,
        CKK_AES,
        CKK_HKDF,
        CKK_SHA_1_HMAC,
        CKK_SHA224_HMAC,
        CKK_SHA256_HMAC,
        CKK_SHA384_HMAC,
        CKK_SHA512_HMAC,
        CKK_SHA512_224_HMAC,
        CKK_SHA512_256_HMAC,
        CKK_SHA3_224_HMAC,
        CKK_SHA3_256_HMAC,
        CKK_SHA3_384_HMAC,
        CKK_SHA3_512_HMAC,
    ]),
    size: hmac::SIZE,
    hash: None,
    chip: &[],
    does: Does { generate: Some(generate), ..NOTHING },
}];

/// About ten times what is recommended for the fastest hash; within it the call's deadline ends what takes too long.
const MAX_ITERATIONS: u64 = 10_000_000;

fn generate(
    _row: &'static Mechanism,
    params: &Params,
    length: Option<usize>,
    chip: &Chip<'_>,
) -> Result<Value> {
    let Params::Pbkdf2 { hash, salt, iterations, password } = params else {
        return Err(params.refused("CK_PKCS5_PBKD2_PARAMS2 is missing"));
    };
    if !(1..=MAX_ITERATIONS).contains(iterations) {
        return Err(Error::MechanismParamInvalid("1 to 10000000 iterations are possible"));
    }
    let length = length.ok_or(Error::TemplateIncomplete(CKA_VALUE_LEN))?;
    if length > KEYED_LIMIT {
        return Err(Error::KeySizeRange(format!(
            "keys from passwords have at most {KEYED_LIMIT} bytes, {length} were asked"
        )));
    }
    let call = chip.call;
    let go_on = || !call.is_canceled() && !call.is_late();
    match kdf::pbkdf2(*hash, &password.0, salt, *iterations, length, go_on) {
        Some(value) => Ok(Value::Known(value)),
        None if call.is_canceled() => Err(Error::Canceled),
        None => Err(Error::FunctionFailed(
            "so many iterations take longer than a call may (call_timeout_s)".into(),
        )),
    }
}
