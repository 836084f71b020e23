//! An object, and how it becomes a row of the store and a key of the TPM.
use std::sync::Arc;

use zeroize::Zeroizing;

use super::value::Attributes;
use crate::tpm::KeyBlob;

/// What an object is besides its attributes.
#[derive(Debug, Clone)]
pub enum Material {
    /// Nothing: data, certificates, public keys.
    None,
    /// A private key that the TPM can load.
    Key(Arc<KeyBlob>),
    /// The value of a secret key (CKA_VALUE); never among the attributes.
    Value(Arc<Zeroizing<Vec<u8>>>),
}

/// An object, of the store or of a session. Cheap to clone, so that an operation keeps its own.
#[derive(Debug, Clone)]
pub struct Object {
    /// CKA_UNIQUE_ID as bytes.
    pub uuid: [u8; 16],
    /// Complete and consistent.
    pub attributes: Arc<Attributes>,
    /// Key or value.
    pub material: Material,
}

impl Object {
    /// CKA_CLASS
    pub fn class(&self) -> u64 {
        todo!()
    }
    /// CKA_KEY_TYPE
    pub fn key_type(&self) -> Option<u64> {
        todo!()
    }
    /// Whether a truth attribute is TRUE; absent is FALSE.
    pub fn is(&self, id: u64) -> bool {
        self.attributes.is(id)
    }
    /// CKA_TOKEN
    pub fn token(&self) -> bool {
        todo!()
    }
    /// CKA_PRIVATE
    pub fn private(&self) -> bool {
        todo!()
    }
    /// Whether CKA_ALLOWED_MECHANISMS permits this mechanism (absent or empty: every one).
    pub fn allows(&self, _mechanism: u64) -> bool {
        todo!()
    }
    /// The secret key's value.
    pub fn value(&self) -> Option<&[u8]> {
        todo!()
    }
    /// C_GetObjectSize, in bytes; does not depend on secret values.
    pub fn size(&self) -> u64 {
        todo!()
    }
}
