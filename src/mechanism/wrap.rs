//! Wrapping: what C_WrapKey and C_UnwrapKey share, whatever the mechanism. The key's bytes are encrypted as
//! data are, by a key that has CKA_WRAP. PKCS#11 3.2 §5.18.3, §5.18.4, §6.7.

use cryptoki_sys::{
    CKA_ALWAYS_AUTHENTICATE, CKA_UNWRAP, CKA_VALUE_LEN, CKA_WRAP, CKM_AES_KEY_WRAP, CKO_PRIVATE_KEY,
};
use zeroize::Zeroizing;

use super::{Chip, Cipher, Mechanism, Params};
use crate::error::{Error, Refusal, Result};
use crate::object::wrapping::Wrapper;
use crate::object::{Material, Object, pkcs8};
use crate::tpm::{Name, PlainKey};

impl Mechanism {
    /// C_WrapKey: checks that the key is one that wraps so, and begins. No TPM command.
    ///
    /// # Errors
    /// [`Error::MechanismInvalid`] (also by CKA_ALLOWED_MECHANISMS), [`Error::WrappingKeyType`],
    /// [`Error::WrappingKeySize`], [`Error::KeyFunctionNotPermitted`], [`Error::MechanismParamInvalid`].
    pub fn wrap(&'static self, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
        let start = self.does.wrap.ok_or(Error::MechanismInvalid(self.id))?;
        self.admit(key, true, CKA_WRAP, "CKA_WRAP is FALSE")
            .and_then(|()| start(self, params, key))
            .map_err(|error| match error {
                Error::KeyTypeInconsistent => Error::WrappingKeyType,
                Error::KeySizeRange(why) => Error::WrappingKeySize(why),
                other => other,
            })
    }

    /// C_UnwrapKey; see [`wrap`](Self::wrap).
    ///
    /// # Errors
    /// As [`wrap`](Self::wrap), but of the key that unwraps.
    pub fn unwrap(&'static self, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
        let start = self.does.unwrap.ok_or(Error::MechanismInvalid(self.id))?;
        self.admit(key, false, CKA_UNWRAP, "CKA_UNWRAP is FALSE")
            .and_then(|()| start(self, params, key))
            .map_err(|error| match error {
                Error::KeyTypeInconsistent => Error::UnwrappingKeyType,
                Error::KeySizeRange(why) => Error::UnwrappingKeySize(why),
                other => other,
            })
    }
}

impl Mechanism {
    /// What the rules of wrapping ask of it.
    pub fn wrapper(&self) -> Wrapper {
        Wrapper { mechanism: self.id, sound: self.does.sound, fills: self.id == CKM_AES_KEY_WRAP }
    }
}

/// How long the bytes of a key are that is wrapped; of a private key, the most that they may be.
///
/// # Errors
/// [`Error::KeyNotWrappable`]
pub fn length(key: &Object) -> Result<(usize, bool)> {
    if key.class() == CKO_PRIVATE_KEY {
        let most = pkcs8::length(&key.attributes).map_err(|_| Error::KeyNotWrappable)?;
        return Ok((most, false));
    }
    let length =
        key.attributes.ulong(CKA_VALUE_LEN).and_then(|length| usize::try_from(length).ok());
    Ok((length.ok_or(Error::KeyNotWrappable)?, true))
}

/// Encrypts the bytes of a key.
///
/// # Errors
/// [`Error::KeySizeRange`] if the mechanism cannot take so many; the TPM's.
pub fn seal(cipher: Box<dyn Cipher>, key: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
    cipher.whole(key, chip).map_err(|error| match error {
        Error::DataLenRange(why) | Error::DataInvalid(why) => Error::KeySizeRange(why.into()),
        other => other,
    })
}

/// Decrypts the bytes of a key.
///
/// # Errors
/// [`Error::WrappedKeyInvalid`], [`Error::WrappedKeyLength`]; the TPM's.
pub fn open(
    cipher: Box<dyn Cipher>,
    wrapped: &[u8],
    chip: &Chip<'_>,
) -> Result<Zeroizing<Vec<u8>>> {
    cipher.whole(wrapped, chip).map_err(|error| match error {
        Error::EncryptedDataInvalid => Error::WrappedKeyInvalid,
        Error::EncryptedDataLenRange => Error::WrappedKeyLength,
        other => other,
    })
}

impl Chip<'_> {
    /// The bytes of an extractable key: a secret key's value, or PrivateKeyInfo. What lives in the TPM
    /// alone leaves it by TPM2_Duplicate, in an inner wrapper. `pin` is the Name of the user's PIN index.
    ///
    /// # Errors
    /// [`Error::KeyNotWrappable`] if the TPM does not give it out; the TPM's.
    pub fn extract(&self, key: &Object, pin: Option<&Name>) -> Result<Zeroizing<Vec<u8>>> {
        let kept = |error| match error {
            Error::Refused(Refusal::Policy, why) => {
                log::info!("key {}: {why}", key.unique_id());
                Error::KeyNotWrappable
            }
            other => other,
        };
        match &key.material {
            Material::Secret(secret) if secret.value.is_some() || secret.is_sealed() => {
                self.value(key)
            }
            Material::Secret(secret) => {
                let blob = secret.blob.get().ok_or(Error::Bug("a secret key that is nowhere"))?;
                match self.tpm.export(self.call, &self.key(blob), None) {
                    Ok(PlainKey::Secret(value)) => Ok(value),
                    Ok(_) => Err(Error::Device("the TPM gave out a key of another kind".into())),
                    Err(fault) => Err(kept(fault.into())),
                }
            }
            Material::Key(blob) => {
                let pin = pin.filter(|_| key.is(CKA_ALWAYS_AUTHENTICATE));
                let plain = self.tpm.export(self.call, &self.key(blob), pin);
                pkcs8::encode(&plain.map_err(|fault| kept(fault.into()))?, &key.attributes)
            }
            Material::None => Err(Error::KeyNotWrappable),
        }
    }
}
