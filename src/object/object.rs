//! An object: its attributes and what it is made of.

use std::fmt;
use std::sync::{Arc, OnceLock};

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::value::Attributes;
use crate::tpm::{KeyBlob, KeySpec, KeyUse};

/// What an object is besides its attributes.
#[derive(Clone)]
pub enum Material {
    /// Nothing: data, certificates, public keys.
    None,
    /// A private key that the TPM can load.
    Key(Arc<KeyBlob>),
    /// A secret key, in the TPM or on the way there.
    Secret(Arc<SecretKey>),
}

impl Material {
    /// What a key with these finished attributes is made of that lives in the TPM alone.
    pub fn of(blob: KeyBlob, attributes: &Attributes) -> Self {
        if attributes.ulong(CKA_CLASS) != Some(CKO_SECRET_KEY) {
            return Material::Key(Arc::new(blob));
        }
        Material::Secret(Arc::new(SecretKey {
            id: blob.id,
            authorization: blob.authorization.clone(),
            spec: super::keyspec::secret_spec(attributes),
            blob: OnceLock::from(Arc::new(blob)),
            value: None,
        }))
    }
}

/// Where the value of a key lives: CKA_TPM11_RESIDENCE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// In the TPM, which made it: it was never anywhere else.
    Tpm,
    /// In the TPM, which was given it. (The value of a readable key is in its row or session too.)
    Imported,
    /// Sealed by the TPM, which gives it out for each use.
    Sealed,
}

impl Residence {
    /// The attribute's value.
    pub const fn text(self) -> &'static str {
        match self {
            Residence::Tpm => "tpm",
            Residence::Imported => "tpm-imported",
            Residence::Sealed => "sealed",
        }
    }

    /// The reverse of [`text`](Self::text).
    pub fn of_text(text: &[u8]) -> Option<Self> {
        [Residence::Tpm, Residence::Imported, Residence::Sealed]
            .into_iter()
            .find(|residence| residence.text().as_bytes() == text)
    }
}

/// What a secret key is made of.
pub struct SecretKey {
    /// Names it in the TPM's cache, and is what its authorization is derived from.
    pub id: [u8; 16],
    /// The authorization of its object in the TPM, also of one that is yet to be made.
    pub authorization: Zeroizing<[u8; 32]>,
    /// What its object in the TPM is, or will be.
    pub spec: KeySpec,
    /// That object. A readable session key gets it when it is first used in the TPM: most secrets of TLS
    /// never are.
    pub blob: OnceLock<Arc<KeyBlob>>,
    /// The value (CKA_VALUE) of a readable key; never among the attributes.
    pub value: Option<Zeroizing<Vec<u8>>>,
}

impl SecretKey {
    /// Whether the TPM only keeps it, and the host works with its value.
    pub fn is_sealed(&self) -> bool {
        self.spec.usage == KeyUse::Sealed
    }
}

impl fmt::Debug for Material {
    /// Says which, not what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Material::None => "None",
            Material::Key(_) => "Key",
            Material::Secret(_) => "Secret",
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
    /// allowed; an empty list, which only a derivation leaves, allows none.
    pub fn allows(&self, mechanism: u64) -> bool {
        self.attributes
            .ulongs(CKA_ALLOWED_MECHANISMS)
            .is_none_or(|allowed| allowed.contains(&mechanism))
    }

    /// The secret key's value where the host has it, whatever the attributes say about showing it: for
    /// mechanisms.
    pub fn value(&self) -> Option<&[u8]> {
        self.secret().and_then(|key| key.value.as_ref()).map(|value| value.as_slice())
    }

    /// What the secret key is made of.
    pub fn secret(&self) -> Option<&Arc<SecretKey>> {
        match &self.material {
            Material::Secret(key) => Some(key),
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
            // What the TPM's object takes depends on when it is made: the length says it better.
            Material::Secret(_) => {
                HEADER + self.attributes.ulong(CKA_VALUE_LEN).unwrap_or_default() as usize
            }
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
