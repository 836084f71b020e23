//! Keys that leave the token encrypted, and come in so. PKCS#11 3.2 §5.18.3, §5.18.4.

use std::sync::Arc;

use cryptoki_sys::{CK_INVALID_HANDLE, CKA_ALWAYS_AUTHENTICATE, CKA_TRUSTED, CKF_UNWRAP, CKF_WRAP};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::mechanism::params::Message;
use crate::mechanism::{Generator, Mechanism, Params, Value, wrap};
use crate::object::policy::{Guard, Policy};
use crate::object::travel::{self, Arrived};
use crate::object::wrapping::{Plan, Unwrapped, guards_by_counter, may_wrap};
use crate::object::{Material, Object, Template, rule};
use crate::tpm::{Call, KeyBlob};

use super::message::Sealed;
use super::operation::{Answer, Room};
use super::session::Session;

/// Whether the key's value may not be read.
fn sensitive(key: &Object) -> bool {
    !rule::shown(&key.attributes, Policy::PREVENT)
}

/// The most that a TPM's duplicate of a key has with its public area and the credential beside it, for who
/// asks for a length: a key of RSA 4096 under a storage key of RSA 4096.
const PARCEL: usize = 4096;

/// What the caller is told without any work: `need` is the length, or with `exact` false a bound of it, below
/// which the room may still do.
fn beforehand(room: Room, need: usize, exact: bool) -> Option<Answer> {
    room.lacks(need).filter(|_| exact || room == Room::Query)
}

impl Session {
    /// C_WrapKey
    ///
    /// # Errors
    /// `WrappingKeyInvalid`, `KeyInvalid`; those of [`may_wrap`] and of the mechanism; the TPM's.
    pub fn wrap_key(
        &self,
        mechanism: u64,
        params: &Params,
        wrapping: u64,
        key: u64,
        room: Room,
    ) -> Result<Answer> {
        self.alive()?;
        self.proves(CKF_WRAP)?;
        let (row, wrapping) = self.wrapping_key(mechanism, wrapping)?;
        let key = self.key_object(key)?;
        if row.does.moves {
            return self.send_key(row, params, &wrapping, &key, room);
        }
        let cipher = row.wrap(params, &wrapping)?;
        may_wrap(&wrapping, &key, row.wrapper(), self.token.home.policy)?;
        self.vouched(&wrapping, &key)?;
        let (length, exact) = wrap::length(&key)?;
        let need = cipher.update_length(length) + cipher.finish_length(length);
        if let Some(answer) = beforehand(room, need, exact) {
            return Ok(answer);
        }
        let pin = self.token.state()?.gate.user_index_name();
        let call = self.call(CKF_WRAP);
        let wrapped = self.with_chip(&call, None, |chip| {
            wrap::seal(cipher, &chip.extract(&key, pin.as_ref())?, chip)
        })?;
        Ok(room.give(wrapped))
    }

    /// C_UnwrapKey
    ///
    /// # Errors
    /// `UnwrappingKeyInvalid`; those of the rules and of the mechanism; `WrappedKeyInvalid`,
    /// `WrappedKeyLength`; `NotLoggedIn` if the key that unwraps asks for a login of its own, for which
    /// C_UnwrapKey leaves no moment; the TPM's and the store's.
    pub fn unwrap_key(
        &self,
        mechanism: u64,
        params: &Params,
        unwrapping: u64,
        wrapped: &[u8],
        template: &Template,
    ) -> Result<u64> {
        self.alive()?;
        if self.row(mechanism, CKF_UNWRAP).is_ok_and(|row| row.does.moves) {
            return self.receive_key(params, unwrapping, wrapped, template);
        }
        let (row, unwrapping) = self.unwrapping_key(mechanism, unwrapping)?;
        let cipher = row.unwrap(params, &unwrapping)?;
        let plan = self.plan(template, &unwrapping)?;
        let call = self.call(CKF_UNWRAP);
        let value = self.with_chip(&call, None, |chip| wrap::open(cipher, wrapped, chip))?;
        self.unwrapped(&call, row, plan, value)
    }

    /// What was unwrapped, in the TPM; its handle.
    fn unwrapped(
        &self,
        call: &Call,
        row: &Mechanism,
        plan: Plan,
        value: Zeroizing<Vec<u8>>,
    ) -> Result<u64> {
        let made = match plan.finish(value, row.wrapper())? {
            Unwrapped::Secret(plan, value) => self.make_secret(call, plan, Value::Known(value)),
            Unwrapped::Private(key) => self.make_private(call, key),
        };
        made.map_err(|error| match error {
            Error::KeySizeRange(why) => {
                log::info!("{why}");
                Error::WrappedKeyLength
            }
            other => other,
        })
    }

    /// C_WrapKeyAuthenticated, and without `apart` C_WrapKey with a mechanism that authenticates: the key is
    /// one message. With `apart` its tag is not behind it.
    ///
    /// # Errors
    /// As [`Session::wrap_key`].
    pub fn wrap_message(
        &self,
        mechanism: u64,
        message: &Message,
        (additional, apart): (&[u8], bool),
        wrapping: u64,
        key: u64,
        room: Room,
    ) -> Result<Sealed> {
        self.alive()?;
        self.proves(CKF_WRAP)?;
        let handle = wrapping;
        let (row, wrapping) = self.wrapping_key(mechanism, handle)?;
        let key = self.key_object(key)?;
        let (length, exact) = wrap::length(&key)?;
        // How long the key is, the token knows and not the caller.
        let start = |nonce: &[u8], length: usize| {
            let message = Message { length: length as u64, ..message.clone() };
            row.wrap(&row.message_params(&message, nonce, additional)?, &wrapping)
        };
        start(&Generator::default().next(message)?.0, length)?;
        let policy = self.token.home.policy;
        may_wrap(&wrapping, &key, row.wrapper(), policy)?;
        self.vouched(&wrapping, &key)?;
        let guarded = sensitive(&key) || guards_by_counter(&wrapping, policy);
        if guarded && policy.has(Guard::SoundWrapping) {
            message.is_sound()?;
        }
        let tag = message.tag_bytes();
        let need = if apart { length } else { length + tag };
        if let Some(answer) = beforehand(room, need, exact) {
            return Ok(answer.into());
        }
        let pin = self.token.state()?.gate.user_index_name();
        let nonce = {
            let kind = (handle, message.generator, message.fixed_bits, message.nonce.len());
            let mut nonces = self.nonces.lock();
            let (nonce, next) = nonces.entry(kind).or_default().next(message)?;
            nonces.insert(kind, next);
            nonce
        };
        let call = self.call(CKF_WRAP);
        let mut wrapped = self.with_chip(&call, None, |chip| {
            let bytes = chip.extract(&key, pin.as_ref())?;
            wrap::seal(start(&nonce, bytes.len())?, &bytes, chip)
        })?;
        let tag = apart.then(|| {
            let length = wrapped.len().saturating_sub(tag);
            Zeroizing::new(wrapped.split_off(length))
        });
        if let Some(answer) = room.lacks(wrapped.len()) {
            return Ok(answer.into());
        }
        Ok(Sealed { answer: Answer::Done(wrapped), nonce: Some(nonce), tag })
    }

    /// C_UnwrapKeyAuthenticated, and without `apart` C_UnwrapKey with a mechanism that authenticates.
    ///
    /// # Errors
    /// As [`Session::unwrap_key`].
    pub fn unwrap_message(
        &self,
        mechanism: u64,
        message: &Message,
        (additional, apart): (&[u8], bool),
        unwrapping: u64,
        wrapped: &[u8],
        template: &Template,
    ) -> Result<u64> {
        self.alive()?;
        let (row, unwrapping) = self.unwrapping_key(mechanism, unwrapping)?;
        let sealed = if apart { [wrapped, &message.tag].concat() } else { wrapped.to_vec() };
        let length = sealed.len().checked_sub(message.tag_bytes());
        let given = Message { length: length.unwrap_or_default() as u64, ..message.clone() };
        let params = row.message_params(&given, &message.nonce, additional)?;
        let cipher = row.unwrap(&params, &unwrapping)?;
        if self.token.home.policy.has(Guard::SoundWrapping) {
            message.is_authentic()?;
        }
        let plan = self.plan(template, &unwrapping)?;
        if length.is_none() {
            return Err(Error::WrappedKeyLength);
        }
        let call = self.call(CKF_UNWRAP);
        let value = self.with_chip(&call, None, |chip| wrap::open(cipher, &sealed, chip))?;
        self.unwrapped(&call, row, plan, value)
    }

    /// Trust is read from rows that are proven, where somebody is logged in.
    fn proves(&self, flag: u64) -> Result<()> {
        match self.token.open(&self.call(flag)) {
            Ok(_) | Err(Error::NotLoggedIn) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn wrapping_key(&self, mechanism: u64, key: u64) -> Result<(&'static Mechanism, Object)> {
        self.tool(mechanism, key, CKF_WRAP, Error::WrappingKeyInvalid)
    }

    fn unwrapping_key(&self, mechanism: u64, key: u64) -> Result<(&'static Mechanism, Object)> {
        self.tool(mechanism, key, CKF_UNWRAP, Error::UnwrappingKeyInvalid)
    }

    /// A key that works on another, for which its functions have their own error.
    fn tool(
        &self,
        mechanism: u64,
        key: u64,
        flag: u64,
        invalid: Error,
    ) -> Result<(&'static Mechanism, Object)> {
        self.key(mechanism, key, flag).map_err(|error| match error {
            Error::KeyInvalid => invalid,
            other => other,
        })
    }

    /// The template of a key that is to be unwrapped.
    fn plan(&self, template: &Template, unwrapping: &Object) -> Result<Plan> {
        let setting = self.token.setting()?;
        self.may_make(template)?;
        let plan = Plan::new(template, &setting, &unwrapping.attributes)?;
        if unwrapping.is(CKA_ALWAYS_AUTHENTICATE) {
            return Err(Error::NotLoggedIn);
        }
        Ok(plan)
    }

    /// Without a login no row is proven to be as the SO left it.
    fn vouched(&self, wrapping: &Object, key: &Object) -> Result<()> {
        if wrapping.is(CKA_TRUSTED) && sensitive(key) && !self.token.setting()?.user {
            return Err(Error::NotLoggedIn);
        }
        Ok(())
    }

    /// C_WrapKey to another TPM.
    fn send_key(
        &self,
        row: &Mechanism,
        params: &Params,
        wrapping: &Object,
        key: &Object,
        room: Room,
    ) -> Result<Answer> {
        let target = row.target(params, wrapping)?;
        may_wrap(wrapping, key, row.wrapper(), self.token.home.policy)?;
        self.vouched(wrapping, key)?;
        if let Some(answer) = beforehand(room, travel::length(PARCEL, &key.attributes), false) {
            return Ok(answer);
        }
        let call = self.call(CKF_WRAP);
        let (parcel, secret) = self.with_chip(&call, None, |chip| chip.send(key, target))?;
        let blob = Zeroizing::new(travel::pack(&parcel, &secret, &key.attributes)?);
        Ok(room.give(blob))
    }

    /// C_UnwrapKey of a key that another TPM sent to this one's storage key, which no object stands for.
    fn receive_key(
        &self,
        params: &Params,
        unwrapping: u64,
        blob: &[u8],
        template: &Template,
    ) -> Result<u64> {
        if unwrapping != CK_INVALID_HANDLE {
            return Err(Error::UnwrappingKeyInvalid);
        }
        params.none()?;
        let setting = self.token.setting()?;
        if !setting.user {
            return Err(Error::NotLoggedIn);
        }
        self.may_make(template)?;
        let arrived = Arrived::read(blob)?;
        let call = self.call(CKF_UNWRAP);
        let (uuid, authorization) = self.name(&call, true)?;
        let (made, secret) =
            self.with_chip(&call, None, |chip| chip.receive(&arrived.parcel, &authorization))?;
        let attributes = arrived.attributes(&secret, template, &setting)?;
        let blob = KeyBlob { id: uuid, public: made.public, private: made.private, authorization };
        let material = Material::of(blob, &attributes);
        self.place_one(Object { uuid, attributes: Arc::new(attributes), material })
    }
}
