//! Key pair generation: the TPM makes the key, and what came back is looked at before it is kept.
//! PKCS#11 3.2 §6.1.4, §6.3.9.

use cryptoki_sys::{CKK_EC, CKK_RSA, CKM_EC_KEY_PAIR_GEN, CKM_RSA_PKCS_KEY_PAIR_GEN};

use super::{Chip, Does, Mechanism, NOTHING, Params, Size};
use crate::error::Result;
use crate::tpm::command::{Command as _, Create};
use crate::tpm::{KeySpec, NewKey};

pub(super) static ROWS: &[Mechanism] = &[
    row(CKM_RSA_PKCS_KEY_PAIR_GEN, "CKM_RSA_PKCS_KEY_PAIR_GEN", CKK_RSA, Size::Bits(1024, 4096)),
    row(CKM_EC_KEY_PAIR_GEN, "CKM_EC_KEY_PAIR_GEN", CKK_EC, Size::Bits(256, 521)),
];

const fn row(id: u64, name: &'static str, key_type: u64, size: Size) -> Mechanism {
    Mechanism {
        id,
        name,
        key_type: Some(key_type),
        size,
        hash: None,
        chip: &[Create::CODE],
        does: Does { generate_pair: Some(generate), ..NOTHING },
    }
}

fn generate(
    _row: &'static Mechanism,
    params: &Params,
    spec: &KeySpec,
    authorization: &[u8; 32],
    chip: &Chip<'_>,
) -> Result<NewKey> {
    params.none()?;
    Ok(chip.tpm.create(chip.call, chip.srk, spec, authorization)?)
}
