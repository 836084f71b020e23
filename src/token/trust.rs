//! What the SO vouches for: keys that may wrap sensitive keys. Public keys he marks himself, as every
//! CKA_TRUSTED; a secret key he does not see, so the user shows it to him. For the tool.

use cryptoki_sys::{
    CKA_ALWAYS_SENSITIVE, CKA_CLASS, CKA_ID, CKA_LABEL, CKA_NEVER_EXTRACTABLE, CKA_SENSITIVE,
    CKA_TOKEN, CKA_TRUSTED, CKA_UNWRAP_TEMPLATE, CKO_CERTIFICATE, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY,
    CKO_SECRET_KEY,
};

use crate::error::{Error, Result};
use crate::object::policy::Guard;
use crate::object::rules::CKA_TPM11_STORAGE_KEY;
use crate::object::{Setting, Template, storage_key, wrapping};
use crate::tpm::key::name_of;
use crate::tpm::pin::Role;

use super::session::Session;

/// An object as the tool shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its label.
    pub label: String,
    /// Its id.
    pub id: Vec<u8>,
    /// What it is.
    pub kind: ShownKind,
}

/// What an object is that may be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShownKind {
    /// A public key.
    PublicKey,
    /// The storage key of another TPM, with its Name.
    StorageKey(Vec<u8>),
    /// A private key.
    PrivateKey,
    /// A secret key.
    SecretKey,
    /// A certificate.
    Certificate,
    /// Anything else.
    Other,
}

/// Which keys are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// Public keys, storage keys of TPMs among them.
    PublicKeys,
    /// Secret keys.
    SecretKeys,
    /// Private and secret keys.
    HiddenKeys,
}

impl Session {
    /// All that is trusted and can be seen now.
    ///
    /// # Errors
    /// The store's.
    pub fn trusted(&self) -> Result<Vec<Shown>> {
        let trusted = Template::new().with_bool(CKA_TRUSTED, true);
        self.found(&trusted)?.into_iter().map(|handle| self.shown(handle)).collect()
    }

    /// The keys of the token that have this label, or this id.
    ///
    /// # Errors
    /// The store's.
    pub fn keys_called(&self, label: &str, id: Option<&[u8]>, among: Among) -> Result<Vec<u64>> {
        let classes: &[u64] = match among {
            Among::PublicKeys => &[CKO_PUBLIC_KEY],
            Among::SecretKeys => &[CKO_SECRET_KEY],
            Among::HiddenKeys => &[CKO_PRIVATE_KEY, CKO_SECRET_KEY],
        };
        let mut found = Vec::new();
        for class in classes {
            let keys = Template::new().with_bool(CKA_TOKEN, true).with_ulong(CKA_CLASS, *class);
            found.extend(self.found(&keys.clone().with(CKA_LABEL, label))?);
            if let Some(id) = id {
                found.extend(self.found(&keys.with(CKA_ID, id))?);
            }
        }
        // One may have both.
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// What an object is.
    ///
    /// # Errors
    /// `ObjectInvalid`
    pub fn shown(&self, handle: u64) -> Result<Shown> {
        let attributes = self.token.object(handle)?.attributes;
        let bytes = |id| attributes.get(id).unwrap_or_default();
        let kind = match (attributes.ulong(CKA_CLASS), attributes.get(CKA_TPM11_STORAGE_KEY)) {
            (Some(CKO_PUBLIC_KEY), Some(area)) => {
                ShownKind::StorageKey(name_of(area).unwrap_or_default())
            }
            (Some(CKO_PUBLIC_KEY), None) => ShownKind::PublicKey,
            (Some(CKO_PRIVATE_KEY), _) => ShownKind::PrivateKey,
            (Some(CKO_SECRET_KEY), _) => ShownKind::SecretKey,
            (Some(CKO_CERTIFICATE), _) => ShownKind::Certificate,
            _ => ShownKind::Other,
        };
        let label = String::from_utf8_lossy(bytes(CKA_LABEL)).into_owned();
        Ok(Shown { label, id: bytes(CKA_ID).to_vec(), kind })
    }

    fn found(&self, template: &Template) -> Result<Vec<u64>> {
        self.find_objects_init(template)?;
        let found = self.find_objects(usize::MAX);
        self.find_objects_final()?;
        found
    }

    /// The SO, who is logged in, trusts a public key or a certificate, or does no longer.
    ///
    /// # Errors
    /// Those of [`set_attribute_value`](Session::set_attribute_value).
    pub fn trust(&self, handle: u64, trusted: bool) -> Result<()> {
        self.set_attribute_value(handle, &Template::new().with_bool(CKA_TRUSTED, trusted))
    }

    /// The SO, who is logged in, trusts the TPM with this storage key (a TPMT_PUBLIC): keys may move there.
    ///
    /// # Errors
    /// `AttributeValueInvalid` if it is none; those of [`create_object`](Session::create_object).
    pub fn trust_storage_key(&self, area: &[u8], label: &str) -> Result<u64> {
        let template = storage_key::template(area, label)?;
        self.create_object(&template.with_bool(CKA_TRUSTED, true))
    }

    /// The public area (TPMT_PUBLIC) of the storage key that the token's keys are under: what another token
    /// is given, so that its SO may trust it.
    ///
    /// # Errors
    /// The TPM's.
    pub fn storage_key(&self) -> Result<Vec<u8>> {
        self.alive()?;
        let call = self.call(0);
        let srk = self.token.anchor().srk;
        let area =
            self.token.home.tpm.with(&call, Some(&srk), |lease| Ok(lease.srk()?.public().to_vec()));
        Ok(area?)
    }

    /// Sets CKA_TRUSTED of a secret key: the user is logged in, and the SO gives his PIN. (P8: no call of
    /// PKCS #11 does it.) Trusted is only a key that nobody ever saw and that does nothing but wrap.
    ///
    /// # Errors
    /// `NotLoggedIn`, `ObjectInvalid`; `KeyFunctionNotPermitted` if it is no such key; as
    /// [`Session::login`] for the PIN; those of
    /// [`set_attribute_value`](Session::set_attribute_value).
    pub fn trust_secret(&self, handle: u64, trusted: bool, so_pin: &[u8]) -> Result<()> {
        self.alive()?;
        let object = self.token.object(handle)?;
        let hidden = object.is(CKA_ALWAYS_SENSITIVE) && object.is(CKA_NEVER_EXTRACTABLE);
        let wraps = object.class() == CKO_SECRET_KEY && wrapping::does_nothing_else(&object);
        if !object.token() || trusted && !(hidden && wraps) {
            return Err(Error::KeyFunctionNotPermitted(
                "trusted is a secret key of the token that was never outside and only wraps",
            ));
        }
        let opens = object.attributes.get(CKA_UNWRAP_TEMPLATE).and_then(Template::from_bytes);
        if trusted && opens.is_some_and(|opens| opens.bool(CKA_SENSITIVE) == Some(false)) {
            // With the SO's trust it would read out whatever it may wrap.
            return Err(Error::KeyFunctionNotPermitted(
                "what this key unwraps is readable (CKA_UNWRAP_TEMPLATE)",
            ));
        }
        {
            let _turn = self.token.turn.lock();
            let gate = self.token.state()?.gate.clone();
            let call = self.call(0);
            let outcome = self.token.home.tpm.login(&call, &gate, Role::So, so_pin);
            drop(self.token.counted(&call, &gate, Role::So, outcome)?);
        }
        let setting = self.token.setting()?;
        let policy = setting.policy.without(Guard::LimitsTravel);
        let setting = Setting { so: true, policy, ..setting };
        self.change(handle, &Template::new().with_bool(CKA_TRUSTED, trusted), &setting)?;
        log::info!(
            "token {}: the SO {} the secret key {}",
            self.token.name(),
            if trusted { "trusts" } else { "trusts no longer" },
            object.unique_id()
        );
        Ok(())
    }
}
