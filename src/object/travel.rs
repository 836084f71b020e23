//! A key on its way from one TPM to another (CKM_TPM11_DUPLICATE): what C_WrapKey gives and C_UnwrapKey takes.
//! The key itself is in the TPM's own wrapper; its attributes travel beside it, sealed with a secret that both
//! TPMs give to their hosts and nobody else knows, so that they belong to this key and no other.
//!
//! That secret proves nothing about who sent the key: anybody can make one for a storage key that he
//! knows. So the receiver takes of the attributes what limits or describes, and nothing that opens.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use cryptoki_sys::*;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::keyspec::{Private, Secret};
use super::rule::Setting;
use super::rules;
use super::template::Template;
use super::value::{Attributes, boolean};
use crate::error::{Error, Result};
use crate::tpm::key::{movable, public_key};
use crate::tpm::{KeyUse, Parcel};

/// What it begins with: whose it is, and its layout.
const MAGIC: &[u8; 8] = b"TPM11KM1";
/// One key for one blob.
const LABEL: &[u8] = b"tpm11 1 attributes of a moved key";
/// Of AES-GCM, in bytes.
const TAG: usize = 16;

/// The attributes that go with a key.
const TRAVELS: [u64; 19] = [
    CKA_CLASS,
    CKA_KEY_TYPE,
    CKA_LABEL,
    CKA_ID,
    CKA_SUBJECT,
    CKA_START_DATE,
    CKA_END_DATE,
    CKA_VALUE_LEN,
    CKA_ENCRYPT,
    CKA_DECRYPT,
    CKA_SIGN,
    CKA_SIGN_RECOVER,
    CKA_VERIFY,
    CKA_DERIVE,
    CKA_ALLOWED_MECHANISMS,
    CKA_DERIVE_TEMPLATE,
    CKA_WRAP_WITH_TRUSTED,
    CKA_COPYABLE,
    CKA_MODIFIABLE,
];

/// The most that [`pack`] gives for a key with these attributes whose parcel has so many bytes.
pub fn length(parcel: usize, attributes: &Attributes) -> usize {
    MAGIC.len() + 4 + parcel + told(attributes).to_bytes().len() + TAG
}

fn told(attributes: &Attributes) -> Template {
    let mut told = Template::new();
    for id in TRAVELS {
        if let Some(value) = attributes.get(id) {
            told.push(id, value);
        }
    }
    told
}

/// Parcel and attributes as one blob.
///
/// # Errors
/// Bug
pub fn pack(parcel: &Parcel, secret: &[u8; 32], attributes: &Attributes) -> Result<Vec<u8>> {
    let parcel = parcel.to_bytes();
    let count = u32::try_from(parcel.len()).map_err(|_| Error::Bug("a parcel of 4 GiB"))?;
    let mut blob = [&MAGIC[..], &count.to_be_bytes(), &parcel].concat();
    let plain = Zeroizing::new(told(attributes).to_bytes());
    let sealed = cipher(secret)?
        .encrypt(&Nonce::default(), Payload { msg: &plain, aad: &blob })
        .map_err(|_| Error::Bug("attributes that cannot be sealed"))?;
    blob.extend(sealed);
    Ok(blob)
}

/// What arrived: the parcel for the TPM, and what is sealed for who has its secret.
pub struct Arrived<'a> {
    /// For TPM2_Import.
    pub parcel: Parcel,
    open: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Arrived<'a> {
    /// Reads a blob.
    ///
    /// # Errors
    /// WrappedKeyInvalid
    pub fn read(blob: &'a [u8]) -> Result<Self> {
        Self::split(blob).ok_or(Error::WrappedKeyInvalid)
    }

    fn split(blob: &'a [u8]) -> Option<Self> {
        let rest = blob.strip_prefix(MAGIC)?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_be_bytes(*count)).ok()?;
        let (parcel, sealed) = rest.split_at_checked(count)?;
        let open = blob.get(..blob.len() - sealed.len())?;
        Some(Self { parcel: Parcel::from_bytes(parcel)?, open, sealed })
    }

    /// The key's attributes on this token, upon which the caller's template comes. It is as closed as one
    /// that was unwrapped (P10).
    ///
    /// # Errors
    /// WrappedKeyInvalid if the attributes are not those that were sent with this key, or describe
    /// another; as [`rule::create`](super::rule::create) for the caller's.
    pub fn attributes(
        &self,
        secret: &[u8; 32],
        template: &Template,
        setting: &Setting,
    ) -> Result<Attributes> {
        let plain = cipher(secret)?
            .decrypt(&Nonce::default(), Payload { msg: self.sealed, aad: self.open })
            .map(Zeroizing::new)
            .map_err(|_| Error::WrappedKeyInvalid)?;
        let sent = Template::from_bytes(&plain).ok_or(Error::WrappedKeyInvalid)?;
        let usage = movable(&self.parcel.public).map_err(|_| Error::WrappedKeyInvalid)?;
        let secret_key = matches!(usage, KeyUse::Aes { .. } | KeyUse::Keyed);
        let class = if secret_key { CKO_SECRET_KEY } else { CKO_PRIVATE_KEY };
        let key_type = sent.ulong(CKA_KEY_TYPE).ok_or(Error::WrappedKeyInvalid)?;
        if sent.ulong(CKA_CLASS) != Some(class) || !is_of(usage, key_type, &sent) {
            return Err(Error::WrappedKeyInvalid);
        }
        let mut prescribed = Template::new().with_bool(CKA_SENSITIVE, true);
        for (id, value) in sent.iter().filter(|(id, _)| TRAVELS.contains(id)) {
            let opens = match id {
                CKA_WRAP_WITH_TRUSTED => boolean(value) != Some(true),
                CKA_DERIVE => secret_key,
                _ => false,
            };
            if !opens && prescribed.get(id).is_none() {
                prescribed.push(id, value);
            }
        }
        let mut by = Attributes::new();
        by.set(CKA_UNWRAP_TEMPLATE, prescribed.to_bytes());
        by.set_bool(CKA_PRIVATE, true);
        if secret_key {
            let template = &without_wrapping(template);
            let plan = Secret::unwrap(template, setting, &by)?;
            let length = plan.length.ok_or(Error::WrappedKeyInvalid)?;
            return plan.finish(length, super::Residence::Imported, None);
        }
        let plan = Private::unwrap(template, setting, &by)?;
        let (_, public) = public_key(&self.parcel.public).map_err(|_| Error::WrappedKeyInvalid)?;
        plan.adopt(&public, usage)
    }
}

/// The caller's template for a secret key: whoever sent it may know it, so under no policy it wraps others.
/// That is stored FALSE, not refused.
fn without_wrapping(template: &Template) -> Template {
    let mut kept = Template::new();
    for (id, value) in template.iter() {
        let wraps = [CKA_WRAP, CKA_UNWRAP].contains(&id) && boolean(value) == Some(true);
        kept.push(id, if wraps { &[0] } else { value });
    }
    kept
}

/// Whether the TPM's key can be one of this CKK_.
fn is_of(usage: KeyUse, key_type: u64, sent: &Template) -> bool {
    match usage {
        KeyUse::Rsa { .. } => key_type == CKK_RSA,
        KeyUse::Ec { .. } => key_type == CKK_EC,
        KeyUse::Aes { bits } => {
            key_type == CKK_AES && sent.ulong(CKA_VALUE_LEN) == Some(u64::from(bits) / 8)
        }
        _ => key_type != CKK_AES && rules::roles(rules::SECRET, key_type).is_some(),
    }
}

fn cipher(secret: &[u8; 32]) -> Result<Aes256Gcm> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, secret)
        .expand(LABEL, key.as_mut())
        .map_err(|_| Error::Bug("HKDF gives 32 bytes"))?;
    Ok(Aes256Gcm::new(key.as_ref().into()))
}
