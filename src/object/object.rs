//! An object: its attributes and what it is made of.

use std::fmt;
use std::sync::Arc;

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::value::Attributes;
use crate::tpm::KeyBlob;

/// What an object is besides its attributes.
#[derive(Clone)]
pub enum Material {
    /// Nothing: data, certificates, public keys.
    None,
    /// A private key that the TPM can load.
    Key(Arc<KeyBlob>),
    /// The value of a secret key (CKA_VALUE); never among the attributes.
    Value(Arc<Zeroizing<Vec<u8>>>),
}

impl fmt::Debug for Material {
    /// Says which, not what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Material::None => "None",
            Material::Key(_) => "Key",
            Material::Value(_) => "Value",
        })
    }
}

/// An object, of the store or of a session. Cheap to clone, so that an operation keeps its own.
#[derive(Debug, Clone)]
pub struct Object {
    /// Draws the line between this object and all others, for ever; as text it is CKA_UNIQUE_ID.
    pub uuid: [u8; 16],
    /// Complete and consistent, but for CKA_UNIQUE_ID, which is never among them.
    pub attributes: Arc<Attributes>,
    /// Key or value.
    pub material: Material,
}

impl Object {
    /// CKA_CLASS
    pub fn class(&self) -> u64 {
        self.attributes.ulong(CKA_CLASS).unwrap_or(u64::MAX)
    }

    /// CKA_KEY_TYPE; `None` if it is no key.
    pub fn key_type(&self) -> Option<u64> {
        self.attributes.ulong(CKA_KEY_TYPE)
    }

    /// Whether a truth attribute is TRUE; absent is FALSE.
    pub fn is(&self, id: u64) -> bool {
        self.attributes.is(id)
    }

    /// CKA_TOKEN
    pub fn token(&self) -> bool {
        self.is(CKA_TOKEN)
    }

    /// CKA_PRIVATE
    pub fn private(&self) -> bool {
        self.is(CKA_PRIVATE)
    }

    /// Whether CKA_ALLOWED_MECHANISMS permits this mechanism. Without the attribute every one is
    /// allowed; an empty list allows none.
    pub fn allows(&self, mechanism: u64) -> bool {
        self.attributes
            .ulongs(CKA_ALLOWED_MECHANISMS)
            .is_none_or(|allowed| allowed.contains(&mechanism))
    }

    /// The secret key's value, whatever its attributes say about showing it: for mechanisms.
    pub fn value(&self) -> Option<&[u8]> {
        match &self.material {
            Material::Value(value) => Some(value.as_slice()),
            Material::None | Material::Key(_) => None,
        }
    }

    /// CKA_UNIQUE_ID
    pub fn unique_id(&self) -> String {
        uuid_text(&self.uuid)
    }

    /// C_GetObjectSize: roughly what the object takes in the store, in bytes. It depends on lengths
    /// alone, so that it tells nothing about a key's value.
    pub fn size(&self) -> u64 {
        /// The type and the length of an attribute.
        const HEADER: usize = 16;
        let attributes: usize = self.attributes.iter().map(|(_, value)| HEADER + value.len()).sum();
        let material = match &self.material {
            Material::None => 0,
            Material::Key(blob) => blob.public.len() + blob.private.len(),
            Material::Value(value) => HEADER + value.len(),
        };
        (HEADER + 36 + attributes + material) as u64
    }
}

/// A uuid in the text form of RFC 9562 §4: 36 characters.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    uuid.iter().enumerate().fold(String::with_capacity(36), |mut text, (at, byte)| {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for nibble in [byte >> 4, byte & 0x0F] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        text
    })
}
