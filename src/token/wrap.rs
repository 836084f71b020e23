//! Keys that leave the token encrypted, and come in so. PKCS#11 3.2 §5.18.3, §5.18.4.

use cryptoki_sys::{CKA_ALWAYS_AUTHENTICATE, CKA_TOKEN, CKF_UNWRAP, CKF_WRAP};

use crate::error::{Error, Result};
use crate::mechanism::{Params, Value, wrap};
use crate::object::Template;
use crate::object::wrapping::{Plan, Unwrapped, may_wrap};

use super::operation::{Answer, Room};
use super::session::Session;

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
        let (row, wrapping) =
            self.key(mechanism, wrapping, CKF_WRAP).map_err(|error| match error {
                Error::KeyInvalid => Error::WrappingKeyInvalid,
                other => other,
            })?;
        let key = self.key_object(key)?;
        let cipher = row.wrap(params, &wrapping)?;
        may_wrap(&wrapping, &key, row.wrapper(), self.token.home.policy)?;
        let (length, exact) = wrap::length(&key)?;
        let need = cipher.update_length(length) + cipher.finish_length(length);
        match room {
            Room::Query => return Ok(Answer::Length(need)),
            Room::Bytes(room) if exact && room < need => return Ok(Answer::TooSmall(need)),
            Room::Bytes(_) => {}
        }
        let pin = self.token.state()?.gate.user_index_name();
        let call = self.call(CKF_WRAP);
        let wrapped = self.with_chip(&call, None, |chip| {
            wrap::seal(cipher, &chip.extract(&key, pin.as_ref())?, chip)
        })?;
        Ok(match room {
            Room::Bytes(room) if room < wrapped.len() => Answer::TooSmall(wrapped.len()),
            _ => Answer::Done(wrapped),
        })
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
        let (row, unwrapping) =
            self.key(mechanism, unwrapping, CKF_UNWRAP).map_err(|error| match error {
                Error::KeyInvalid => Error::UnwrappingKeyInvalid,
                other => other,
            })?;
        let cipher = row.unwrap(params, &unwrapping)?;
        let setting = self.token.setting()?;
        if template.bool(CKA_TOKEN) == Some(true) {
            self.may_write()?;
        }
        let plan = Plan::new(template, &setting, &unwrapping.attributes)?;
        if unwrapping.is(CKA_ALWAYS_AUTHENTICATE) {
            return Err(Error::NotLoggedIn);
        }
        let call = self.call(CKF_UNWRAP);
        let value = self.with_chip(&call, None, |chip| wrap::open(cipher, wrapped, chip))?;
        let made = match plan.finish(value, row.wrapper())? {
            Unwrapped::Secret(plan, value) => self.make_secret(&call, plan, Value::Known(value)),
            Unwrapped::Private(key) => self.make_private(&call, key),
        };
        made.map_err(|error| match error {
            Error::KeySizeRange(why) => {
                log::info!("{why}");
                Error::WrappedKeyLength
            }
            other => other,
        })
    }
}
