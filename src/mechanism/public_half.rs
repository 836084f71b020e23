//! The public key that belongs to a private one, as an object of its own. What the private key's object
//! says is enough, so that no TPM is asked. PKCS#11 3.2 §6.43 "Public key from private key".

use cryptoki_sys::{CKK_EC, CKK_RSA, CKM_PUB_KEY_FROM_PRIV_KEY};

use super::{Derive, Does, Keys, Mechanism, NOTHING, Size};
use crate::object::keyspec::Derives;

pub(super) static ROWS: &[Mechanism] = &[Mechanism {
    id: CKM_PUB_KEY_FROM_PRIV_KEY,
    name: "CKM_PUB_KEY_FROM_PRIV_KEY",
    keys: Keys::Private(&[CKK_RSA, CKK_EC]),
    size: Size::Bits(256, 4096),
    hash: None,
    chip: &[],
    does: Does { derive: Some((Derives::Public, Derive::Nothing)), ..NOTHING },
}];
