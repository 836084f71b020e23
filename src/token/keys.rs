//! Making keys: what C_GenerateKey and C_GenerateKeyPair do, and how any key gets into the TPM.
//! PKCS#11 3.2 §5.18.1, §5.18.2.

use std::sync::Arc;

use cryptoki_sys::{CKA_PRIVATE, CKA_VALUE_LEN, CKF_GENERATE, CKF_GENERATE_KEY_PAIR};
use zeroize::Zeroizing;

use crate::crypto::drbg;
use crate::error::{Error, Refusal, Result};
use crate::mechanism::{Chip, Params, Value};
use crate::object::keyspec::{Pair, Private, Secret};
use crate::object::{Attributes, Material, Object, Template};
use crate::tpm::{Call, KeyBlob};

use super::objects::new_uuid;
use super::session::Session;

impl Session {
    /// C_GenerateKey
    ///
    /// # Errors
    /// `MechanismInvalid`, those of the rules (`object/rule.rs`), `SessionReadOnly`, `NotLoggedIn`,
    /// `TokenWriteProtected`; the TPM's and the store's.
    pub fn generate_key(
        &self,
        mechanism: u64,
        params: &Params,
        template: &Template,
    ) -> Result<u64> {
        self.alive()?;
        let row = self.row(mechanism, CKF_GENERATE)?;
        let key_types = row.generates_secrets()?;
        let setting = self.token.setting()?;
        self.may_make(template)?;
        let plan = Secret::generate(mechanism, key_types, template, &setting)?;
        let length = plan.length;
        let call = self.call(CKF_GENERATE);
        let made = self.with_chip(&call, None, |chip| row.generate(params, length, chip)).and_then(
            |value| {
                let plan = if matches!(value, Value::Known(_)) { plan.known() } else { plan };
                self.make_secret(&call, plan, value)
            },
        );
        made.map_err(|error| match error {
            Error::KeySizeRange(why) => {
                log::info!("{why}");
                Error::AttributeValueInvalid(CKA_VALUE_LEN, "no such keys here")
            }
            other => other,
        })
    }

    /// Puts the value of a planned secret key into the TPM, and the key where its CKA_TOKEN says; its
    /// handle. What C_GenerateKey, C_CreateObject, C_DeriveKey and C_UnwrapKey end with.
    ///
    /// # Errors
    /// Those of [`Chip::make`](crate::mechanism::Chip::make); `NotLoggedIn`, the store's.
    pub(super) fn make_secret(&self, call: &Call, plan: Secret, value: Value) -> Result<u64> {
        let object = self.secret_object(call, plan, value)?;
        self.place_one(object)
    }

    /// The same, as an object that is nowhere yet.
    pub(super) fn secret_object(&self, call: &Call, plan: Secret, value: Value) -> Result<Object> {
        let private = plan.attributes.is(CKA_PRIVATE);
        self.make(call, private, |chip, uuid, authorization| {
            chip.make(plan, value, uuid, authorization)
        })
    }

    /// Puts a checked private key that was outside into the TPM, and the key where its CKA_TOKEN says; its
    /// handle. What C_CreateObject and C_UnwrapKey end with.
    ///
    /// # Errors
    /// Those of [`Chip::bring_in`](crate::mechanism::Chip::bring_in); `NotLoggedIn`, the store's.
    pub(super) fn make_private(&self, call: &Call, key: Private) -> Result<u64> {
        let private = key.attributes.is(CKA_PRIVATE);
        let object = self.make(call, private, |chip, uuid, authorization| {
            chip.bring_in(key, uuid, authorization)
        })?;
        self.place_one(object)
    }

    /// Names a key and has `make` put it into the TPM.
    fn make(
        &self,
        call: &Call,
        private: bool,
        make: impl FnOnce(&Chip<'_>, [u8; 16], Zeroizing<[u8; 32]>) -> Result<(Attributes, Material)>,
    ) -> Result<Object> {
        let (uuid, authorization) = self.name(call, private)?;
        let (attributes, material) = self
            .with_chip(call, None, |chip| make(chip, uuid, authorization))
            .map_err(|error| match error {
                Error::Refused(Refusal::KeySize, why) => Error::KeySizeRange(why),
                other => other,
            })?;
        Ok(Object { uuid, attributes: Arc::new(attributes), material })
    }

    /// A uuid for a new key, and the authorization that goes with it: derived where a login opened the
    /// means, else random (a public session key before a login).
    pub(super) fn name(
        &self,
        call: &Call,
        private: bool,
    ) -> Result<([u8; 16], Zeroizing<[u8; 32]>)> {
        let uuid = new_uuid()?;
        let authorization = match self.token.open(call) {
            Ok(opened) => opened.sealer.authorization(&uuid),
            Err(Error::NotLoggedIn) if !private => drbg::os_bytes::<32>()?,
            Err(error) => return Err(error),
        };
        Ok((uuid, authorization))
    }

    /// C_GenerateKeyPair: the public key's handle and the private key's. Both templates are checked
    /// before the TPM is asked; both halves of a token pair are stored in one commit.
    ///
    /// # Errors
    /// `MechanismInvalid`, those of the rules (`object/rule.rs`), `SessionReadOnly`, `NotLoggedIn`,
    /// `TokenWriteProtected`; the TPM's and the store's.
    pub fn generate_key_pair(
        &self,
        mechanism: u64,
        params: &Params,
        public: &Template,
        private: &Template,
    ) -> Result<(u64, u64)> {
        self.alive()?;
        let row = self.row(mechanism, CKF_GENERATE_KEY_PAIR)?;
        let key_type = row.generates()?;
        let (setting, pin) = {
            let state = self.token.state()?;
            // Where the user has no PIN, there is none that the TPM could ask for.
            (
                state.setting(&self.token.home),
                state.gate.user_index_name().filter(|_| !state.row.pinless),
            )
        };
        self.may_make(public)?;
        self.may_make(private)?;
        let plan = Pair::plan(mechanism, key_type, public, private, &setting, pin.as_ref())?;
        let call = self.call(CKF_GENERATE_KEY_PAIR);
        let opened = self.token.open(&call)?;
        let uuid = new_uuid()?;
        let authorization = opened.sealer.authorization(&uuid);
        let made = self.with_chip(&call, None, |chip| {
            row.generate_pair(params, &plan.spec, &authorization, chip)
        })?;
        let (public, private) = plan.finish(&made)?;
        let blob = KeyBlob { id: uuid, public: made.public, private: made.private, authorization };
        let public =
            Object { uuid: new_uuid()?, attributes: Arc::new(public), material: Material::None };
        let private =
            Object { uuid, attributes: Arc::new(private), material: Material::Key(Arc::new(blob)) };
        match self.place_all(vec![public, private])?.as_slice() {
            [public, private] => Ok((*public, *private)),
            _ => Err(Error::Bug("two objects, two handles")),
        }
    }
}
