//! Templates of C_GenerateKeyPair and C_DeriveKey -> what to create; what came back -> attributes.
use zeroize::Zeroizing;

use super::object::Material;
use super::rule::Setting;
use super::template::Template;
use super::value::Attributes;
use crate::error::Result;
use crate::tpm::{KeySpec, Name, NewKey};

/// A key pair that may be created: both templates are checked and completed before the TPM is asked.
pub struct Pair {
    /// What the TPM shall create.
    pub spec: KeySpec,
    /// The public key's attributes, but for what only the TPM knows.
    pub public: Attributes,
    /// The private key's.
    pub private: Attributes,
}

impl Pair {
    /// C_GenerateKeyPair: checks both templates. `key_type` is the mechanism's CKK_; `pin` is the Name of
    /// the user's PIN index if the token has one (for CKA_ALWAYS_AUTHENTICATE).
    pub fn plan(
        _mechanism: u64,
        _key_type: u64,
        _public: &Template,
        _private: &Template,
        _setting: &Setting,
        _pin: Option<&Name>,
    ) -> Result<Self> {
        todo!()
    }

    /// Both halves' attributes (public, private) once the TPM has made the key.
    pub fn finish(self, _made: &NewKey) -> Result<(Attributes, Attributes)> {
        todo!()
    }
}

/// A secret key that may be derived.
pub struct Secret {
    /// CKA_VALUE_LEN if the template or the key type says it, in bytes.
    pub length: Option<usize>,
    /// Its attributes, but for what depends on the value.
    pub attributes: Attributes,
}

impl Secret {
    /// C_DeriveKey: checks the template. `base` is the key derived from.
    pub fn plan(_template: &Template, _setting: &Setting, _base: &Attributes) -> Result<Self> {
        todo!()
    }

    /// The key, from the value that the mechanism computed. A longer value loses its leading bytes.
    pub fn finish(self, _value: Zeroizing<Vec<u8>>) -> Result<(Attributes, Material)> {
        todo!()
    }
}
