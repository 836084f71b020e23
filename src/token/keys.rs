//! Making keys: pairs in the TPM, and secrets derived with its help. PKCS#11 3.2 §5.18.

use std::sync::Arc;

use cryptoki_sys::{CKA_TOKEN, CKF_DERIVE, CKF_GENERATE_KEY_PAIR};

use crate::error::{Error, Result};
use crate::mechanism::Params;
use crate::object::keyspec::{Pair, Secret};
use crate::object::{Material, Object, Template};
use crate::tpm::KeyBlob;

use super::objects::new_uuid;
use super::session::Session;

impl Session {
    /// C_GenerateKey: no mechanism of ours makes secret keys.
    ///
    /// # Errors
    /// `MechanismInvalid`
    pub fn generate_key(
        &self,
        mechanism: u64,
        _params: &Params,
        _template: &Template,
    ) -> Result<u64> {
        self.alive()?;
        Err(Error::MechanismInvalid(mechanism))
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
            (state.setting(), state.gate.user_index_name().filter(|_| !state.row.pinless))
        };
        if [public, private].iter().any(|template| template.bool(CKA_TOKEN) == Some(true)) {
            self.may_write()?;
        }
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

    /// C_DeriveKey
    ///
    /// # Errors
    /// `KeyInvalid`, `MechanismInvalid`, those of the rules; `NotLoggedIn` if the base key asks for a
    /// login of its own, for which C_DeriveKey leaves no moment; the TPM's and the store's.
    pub fn derive_key(
        &self,
        mechanism: u64,
        params: &Params,
        base: u64,
        template: &Template,
    ) -> Result<u64> {
        self.alive()?;
        let (row, base) = self.key(mechanism, base, CKF_DERIVE)?;
        let setting = self.token.state()?.setting();
        if template.bool(CKA_TOKEN) == Some(true) {
            self.may_write()?;
        }
        let plan = Secret::plan(template, &setting, &base.attributes)?;
        if base.is(cryptoki_sys::CKA_ALWAYS_AUTHENTICATE) {
            return Err(Error::NotLoggedIn);
        }
        let call = self.call(CKF_DERIVE);
        let value =
            self.with_chip(&call, None, |chip| row.derive(params, &base, plan.length, chip))?;
        let (attributes, material) = plan.finish(value)?;
        self.place(attributes, material)
    }
}
