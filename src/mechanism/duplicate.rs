//! CKM_TPM11_DUPLICATE: a key moves from this TPM to another one, or from another one to this, and is in
//! clear in neither host. A mechanism of ours: TPM2_Duplicate to a storage key that the SO trusts, and
//! TPM2_Import under the token's own, for which C_UnwrapKey is given the handle 0.

use cryptoki_sys::{CKA_TRUSTED, CKA_WRAP, CKK_EC, CKK_RSA};
use zeroize::Zeroizing;

use super::{Chip, Does, Keys, Mechanism, NOTHING, Params, Size};
use crate::error::{Error, Result};
use crate::object::rules::{CKA_TPM11_STORAGE_KEY, CKM_TPM11_DUPLICATE};
use crate::object::{Material, Object};
use crate::tpm::command::{ActivateCredential, Command as _, Duplicate, Import, ObjectChangeAuth};
use crate::tpm::fault::Trouble;
use crate::tpm::{Fault, NewKey, Parcel};

pub(super) static ROWS: &[Mechanism] = &[Mechanism {
    id: CKM_TPM11_DUPLICATE,
    name: "CKM_TPM11_DUPLICATE",
    keys: Keys::Storage(&[CKK_RSA, CKK_EC]),
    size: Size::Bits(256, 4096),
    hash: None,
    chip: &[Duplicate::ID, Import::ID, ObjectChangeAuth::ID, ActivateCredential::ID],
    does: Does { moves: true, sound: true, ..NOTHING },
}];

impl Mechanism {
    /// C_WrapKey with a storage key: its public area, if the SO trusts it.
    ///
    /// # Errors
    /// As [`wrap`](Self::wrap); [`Error::KeyNotWrappable`] for a storage key that nobody trusts.
    pub fn target<'k>(&self, params: &Params, key: &'k Object) -> Result<&'k [u8]> {
        params.none()?;
        self.admit(key, true, CKA_WRAP, "CKA_WRAP is FALSE").map_err(|error| match error {
            Error::KeyTypeInconsistent => Error::WrappingKeyType,
            other => other,
        })?;
        match key.attributes.get(CKA_TPM11_STORAGE_KEY) {
            Some(area) if key.is(CKA_TRUSTED) => Ok(area),
            Some(_) => {
                log::info!("key {}: a storage key that the SO does not trust", key.unique_id());
                Err(Error::KeyNotWrappable)
            }
            None => Err(Error::WrappingKeyType),
        }
    }
}

impl Chip<'_> {
    /// A key that lives in the TPM and may leave it, for the TPM with this storage key.
    ///
    /// # Errors
    /// [`Error::KeyNotWrappable`]; the TPM's.
    pub fn send(&self, key: &Object, target: &[u8]) -> Result<(Parcel, Zeroizing<[u8; 32]>)> {
        let blob = match &key.material {
            Material::Key(blob) => blob,
            Material::Secret(secret) if secret.value.is_none() && !secret.is_sealed() => {
                secret.blob.get().ok_or(Error::Bug("a secret key that is nowhere"))?
            }
            Material::Secret(_) | Material::None => {
                log::info!(
                    "key {}: its value is in the host's hands, readable or sealed; a TPM duplicates only what \
                     lives in it",
                    key.unique_id()
                );
                return Err(Error::KeyNotWrappable);
            }
        };
        self.tpm.duplicate(self.call, &self.key(blob), target).map_err(|fault| match fault.kind() {
            Trouble::Policy | Trouble::Unsound(_) => {
                log::info!("key {}: {fault}", key.unique_id());
                Error::KeyNotWrappable
            }
            _ => fault.into(),
        })
    }

    /// A key that another TPM sent here, from now on with this authorization; and the secret that came
    /// with it.
    ///
    /// # Errors
    /// [`Error::WrappedKeyInvalid`]; the TPM's.
    pub fn receive(
        &self,
        parcel: &Parcel,
        authorization: &[u8; 32],
    ) -> Result<(NewKey, Zeroizing<[u8; 32]>)> {
        let refused = |fault: Fault| match fault.kind() {
            Trouble::Policy
            | Trouble::Integrity
            | Trouble::AuthFail
            | Trouble::Parameter
            | Trouble::KeySize
            | Trouble::EccPoint
            | Trouble::Malformed(_)
            | Trouble::Tampered(_) => {
                log::info!("a key from another TPM: {fault}");
                Error::WrappedKeyInvalid
            }
            _ => fault.into(),
        };
        self.tpm.import_duplicate(self.call, self.srk, parcel, authorization).map_err(refused)
    }
}
