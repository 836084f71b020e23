//! Secret keys and the TPM: how a value gets into it, and how an operation reaches it there.

use std::sync::{Arc, OnceLock};

use cryptoki_sys::{CKA_TOKEN, CKK_AES};
use zeroize::Zeroizing;

use super::{Chip, generate, random};
use crate::error::{Error, Refusal, Result};
use crate::object::keyspec::{Private, PrivateValue, Secret, secret_spec};
use crate::object::{Attributes, Material, Object, Residence, SecretKey};
use crate::tpm::command::{Command as _, EncryptDecrypt2};
use crate::tpm::{Key, KeyBlob, KeySpec, KeyUse, NewKey, PlainKey};

/// What the value of a new secret key is to be.
pub enum Value {
    /// So many random bytes: where it can, the TPM draws them, and nobody else ever sees them.
    Fresh(usize),
    /// These bytes: of a template, of a derivation, of a wrapped key.
    Known(Zeroizing<Vec<u8>>),
}

/// `[keys]`: which keys may be sealed in the TPM instead of living there as keys. A sealed key leaves the
/// chip for the moment of each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sealing {
    /// `sealed_keys`: keys that no TPM could use (HMAC with SHA-224, SHA-512/t, SHA-3).
    pub keys: bool,
    /// `secret_keys = "sealed"`: AES keys, where this TPM lacks TPM2_EncryptDecrypt2 or keys of the size.
    pub ciphers: bool,
}

/// A secret key in the hands of an operation.
pub enum Held {
    /// The TPM works with it.
    Chip(Key),
    /// It was sealed, or is readable and of a size that the TPM does not have: the host works with its value,
    /// for this one operation.
    Host(Zeroizing<Vec<u8>>),
}

/// Bytes that a TPM draws itself for a [`KeyUse::Keyed`].
const KEYED_BY_THE_TPM: usize = 32;

impl Chip<'_> {
    /// A secret key that a plan describes, with this value, in the TPM; its finished attributes. `id` and
    /// `authorization` are the key's own, or what its object in the TPM will have.
    ///
    /// The value of a key that is not readable is given to the TPM at once, or drawn there, and wiped
    /// here; that of a readable session key waits here for its first use in the TPM.
    ///
    /// # Errors
    /// [`Error::KeySizeRange`] for what the TPM cannot hold; those of the plan; the TPM's.
    pub fn make(
        &self,
        plan: Secret,
        value: Value,
        id: [u8; 16],
        authorization: Zeroizing<[u8; 32]>,
    ) -> Result<(Attributes, Material)> {
        let keeps = plan.keeps_value();
        let (length, known) = match value {
            Value::Fresh(length) => (length, None),
            Value::Known(value) => {
                let value = plan.cut(value)?;
                (value.len(), Some(value))
            }
        };
        let sealed = self.seals(plan.key_type(), length)?;
        let value = match known {
            None if keeps || sealed || !self.draws(plan.key_type(), length) => {
                Some(random::generate(self, length)?)
            }
            known => known,
        };
        let residence = match (sealed, &value) {
            (true, _) => Residence::Sealed,
            (false, Some(_)) => Residence::Imported,
            (false, None) => Residence::Tpm,
        };
        let session = !plan.attributes.is(CKA_TOKEN);
        let attributes = plan.finish(length, residence, value.as_ref().map(|value| &value[..]))?;
        let spec = secret_spec(&attributes);
        let key = SecretKey { id, authorization, spec, blob: OnceLock::new(), value };
        let made = match &key.value {
            None => {
                self.offers(&key.spec)?;
                self.tpm.create(self.call, self.srk, &key.spec, &key.authorization)?
            }
            Some(_) if keeps && session => {
                return Ok((attributes, Material::Secret(Arc::new(key))));
            }
            Some(value) => match self.give(&key, value) {
                // Who may read it may have it, and use it: the host works with it.
                Err(error) if keeps && no_such_size(&error) => {
                    return Ok((attributes, Material::Secret(Arc::new(key))));
                }
                made => made?,
            },
        };
        let blob = OnceLock::from(Arc::new(at_rest(&key, made)));
        let value = key.value.filter(|_| keeps);
        let SecretKey { id, authorization, spec, .. } = key;
        let key = SecretKey { id, authorization, spec, blob, value };
        Ok((attributes, Material::Secret(Arc::new(key))))
    }

    /// A private key that is brought in, in the TPM; its finished attributes. Nothing of it stays here.
    ///
    /// # Errors
    /// [`Error::KeySizeRange`], [`Error::CurveNotSupported`] for what the TPM does not have; the TPM's.
    pub fn bring_in(
        &self,
        key: Private,
        id: [u8; 16],
        authorization: Zeroizing<[u8; 32]>,
    ) -> Result<(Attributes, Material)> {
        let Private { attributes, value, spec } = key;
        self.offers(&spec)?;
        let plain = match (value, spec.usage) {
            (PrivateValue::Rsa(key), KeyUse::Rsa { exponent, .. }) => {
                PlainKey::Rsa { modulus: key.modulus, exponent, prime: key.prime_1 }
            }
            (PrivateValue::Ec { d, point, .. }, _) => {
                PlainKey::Ec { x: point.x().to_vec(), y: point.y().to_vec(), scalar: d }
            }
            _ => return Err(Error::Bug("a private key planned as another")),
        };
        let made = self.tpm.import(self.call, self.srk, &spec, &authorization, &plain)?;
        let NewKey { public, private } = made;
        let blob = KeyBlob { id, public, private, authorization };
        Ok((attributes, Material::Key(Arc::new(blob))))
    }

    /// The same key under changed attributes: one that was readable and no longer is gets an object in
    /// the TPM that keeps what they say, and the host forgets its value.
    ///
    /// # Errors
    /// [`Error::KeySizeRange`] if the TPM cannot hold it; the TPM's.
    pub fn close(
        &self,
        attributes: &Attributes,
        value: &Zeroizing<Vec<u8>>,
        id: [u8; 16],
        authorization: Zeroizing<[u8; 32]>,
    ) -> Result<Material> {
        let spec = secret_spec(attributes);
        let key = SecretKey { id, authorization, spec, blob: OnceLock::new(), value: None };
        let made = self.give(&key, value)?;
        let _ = key.blob.set(Arc::new(at_rest(&key, made)));
        Ok(Material::Secret(Arc::new(key)))
    }

    /// Gives the TPM the value of a readable key that waits for its first use, as far as the TPM can hold
    /// it.
    ///
    /// # Errors
    /// The TPM's.
    pub fn settle(&self, key: &SecretKey) -> Result<()> {
        match self.blob(key) {
            Err(error) if !no_such_size(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The key for one operation. A readable one of a size that the TPM does not have is the host's.
    ///
    /// # Errors
    /// [`Error::KeyFunctionNotPermitted`] if it is no secret key; the TPM's.
    pub fn secret(&self, key: &Object) -> Result<Held> {
        let secret = secret_of(key)?;
        let blob = match (self.blob(secret), &secret.value) {
            (Err(error), Some(value)) if no_such_size(&error) => {
                return Ok(Held::Host(value.clone()));
            }
            (blob, _) => blob?,
        };
        let loadable = self.key(&blob);
        if secret.is_sealed() {
            return Ok(Held::Host(self.tpm.unseal(self.call, &loadable)?));
        }
        Ok(Held::Chip(loadable))
    }

    /// The key's value, for what works with it as data: of a readable key, or of one that is sealed.
    ///
    /// # Errors
    /// [`Error::KeyFunctionNotPermitted`] for a key that lives in the TPM alone; the TPM's.
    pub fn value(&self, key: &Object) -> Result<Zeroizing<Vec<u8>>> {
        let secret = secret_of(key)?;
        if let Some(value) = &secret.value {
            return Ok(value.clone());
        }
        if secret.is_sealed() {
            return Ok(self.tpm.unseal(self.call, &self.key(&self.blob(secret)?))?);
        }
        log::info!(
            "key {}: the mechanism works on the key's value, which the TPM does not give out",
            key.unique_id()
        );
        Err(Error::KeyFunctionNotPermitted("its value lives in the TPM alone"))
    }

    /// Its object in the TPM, made now if the key had none.
    fn blob(&self, key: &SecretKey) -> Result<Arc<KeyBlob>> {
        if let Some(blob) = key.blob.get() {
            return Ok(blob.clone());
        }
        let value = key.value.as_ref().ok_or(Error::Bug("a secret key without value or blob"))?;
        let blob = Arc::new(at_rest(key, self.give(key, value)?));
        // Another thread may have been faster; both objects have the value and the authorization.
        Ok(key.blob.get_or_init(|| blob).clone())
    }

    fn give(&self, key: &SecretKey, value: &[u8]) -> Result<NewKey> {
        self.offers(&key.spec)?;
        Ok(self.tpm.create_with(self.call, self.srk, &key.spec, &key.authorization, value)?)
    }

    /// Whether keys of this type and length [bytes] are sealed here.
    ///
    /// # Errors
    /// [`Error::KeySizeRange`] if the TPM cannot work with their type and they may not be sealed.
    fn seals(&self, key_type: u64, length: usize) -> Result<bool> {
        let lacks = |command| self.facts.is_some_and(|facts| !facts.has_command(command));
        let has = |size| {
            self.facts
                .is_none_or(|facts| facts.aes_bits.iter().any(|bits| usize::from(*bits) == size))
        };
        let (needed, allowed) = match key_type {
            CKK_AES if self.sealing.ciphers && !has(8 * length) => (true, true),
            CKK_AES => (lacks(EncryptDecrypt2::CODE), self.sealing.ciphers),
            _ => (generate::are_sealed(key_type), self.sealing.keys),
        };
        if needed && !allowed {
            return Err(Error::KeySizeRange(
                "this TPM works with no keys of this type; `[keys]` in the configuration allows to \
                 seal them"
                    .into(),
            ));
        }
        Ok(needed)
    }

    /// Whether the TPM makes such a key by itself.
    fn draws(&self, key_type: u64, length: usize) -> bool {
        key_type == CKK_AES || length == KEYED_BY_THE_TPM
    }

    /// Whether the TPM has keys of this size, so that it need not be asked.
    fn offers(&self, spec: &KeySpec) -> Result<()> {
        match (spec.usage, self.facts) {
            (KeyUse::Aes { bits }, Some(facts)) if !facts.aes_bits.contains(&bits) => {
                Err(Error::KeySizeRange(format!(
                    "this TPM has AES keys of {:?} bits, none of {bits}",
                    facts.aes_bits
                )))
            }
            (KeyUse::Rsa { bits, .. }, Some(facts)) if !facts.rsa_bits.contains(&bits) => {
                Err(Error::KeySizeRange(format!(
                    "this TPM has RSA keys of {:?} bits, none of {bits}",
                    facts.rsa_bits
                )))
            }
            (KeyUse::Ec { curve, .. }, Some(facts)) if !facts.curves.contains(&curve) => {
                Err(Error::CurveNotSupported)
            }
            _ => Ok(()),
        }
    }
}

/// Refuses a key whose value the host can never have, for what the TPM cannot do.
pub(super) fn in_the_host(key: &Object) -> Result<()> {
    let secret = secret_of(key)?;
    if secret.value.is_some() || secret.is_sealed() {
        return Ok(());
    }
    Err(Error::KeyFunctionNotPermitted(
        "the TPM does not have this hash, and the key's value lives in the TPM alone",
    ))
}

/// Whether the TPM refused a key for its size: one that a readable key may have all the same.
fn no_such_size(error: &Error) -> bool {
    matches!(error, Error::Refused(Refusal::KeySize, _) | Error::KeySizeRange(_))
}

/// What a secret key object is made of.
pub(super) fn secret_of(key: &Object) -> Result<&Arc<SecretKey>> {
    key.secret()
        .ok_or(Error::KeyFunctionNotPermitted("it is no secret key, or nobody is logged in"))
}

fn at_rest(key: &SecretKey, made: NewKey) -> KeyBlob {
    KeyBlob {
        id: key.id,
        public: made.public,
        private: made.private,
        authorization: key.authorization.clone(),
    }
}
