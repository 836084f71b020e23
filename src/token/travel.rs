//! A key goes to another host's TPM, or comes from there. For the tool.

use cryptoki_sys::{
    CK_INVALID_HANDLE, CKA_CLASS, CKA_DECRYPT, CKA_EC_PARAMS, CKA_EC_POINT, CKA_ENCRYPT, CKA_ID,
    CKA_KEY_TYPE, CKA_LABEL, CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_SIGN, CKA_SIGN_RECOVER,
    CKA_SUBJECT, CKA_TOKEN, CKA_VERIFY, CKA_VERIFY_RECOVER, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY,
};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::mechanism::Params;
use crate::object::Template;
use crate::object::rules::CKM_TPM11_DUPLICATE;

use super::operation::{Answer, Room};
use super::session::Session;

impl Session {
    /// The key, which the TPM of `target` alone can open. `target` is a storage key that the SO trusts.
    ///
    /// # Errors
    /// Those of [`wrap_key`](Session::wrap_key).
    pub fn send(&self, key: u64, target: u64) -> Result<Zeroizing<Vec<u8>>> {
        let room = Room::Bytes(usize::MAX);
        match self.wrap_key(CKM_TPM11_DUPLICATE, &Params::None, target, key, room)? {
            Answer::Done(blob) => Ok(blob),
            Answer::Length(_) | Answer::TooSmall(_) => Err(Error::Bug("more than all the room")),
        }
    }

    /// What [`send`](Session::send) gave on the other host, as a key of the token: its handle, and behind that
    /// of a private key the handle of its public key, which goes by the same name. If that
    /// cannot be made the private key is taken back.
    ///
    /// # Errors
    /// Those of [`unwrap_key`](Session::unwrap_key) and [`create_object`](Session::create_object).
    pub fn receive(&self, blob: &[u8]) -> Result<Vec<u64>> {
        let own = Template::new().with_bool(CKA_TOKEN, true);
        let none = Params::None;
        let key = self.unwrap_key(CKM_TPM11_DUPLICATE, &none, CK_INVALID_HANDLE, blob, &own)?;
        let attributes = self.token.object(key)?.attributes;
        if attributes.ulong(CKA_CLASS) != Some(CKO_PRIVATE_KEY) {
            return Ok(vec![key]);
        }
        let mut public = own.with_ulong(CKA_CLASS, CKO_PUBLIC_KEY);
        for (id, its) in OF_THE_PRIVATE_KEY {
            if let Some(value) = attributes.get(its) {
                public.push(id, value);
            }
        }
        let public = self.create_object(&public).inspect_err(|_| {
            // The blob is still there for another try.
            let _ = self.destroy_object(key);
        })?;
        Ok(vec![key, public])
    }
}

/// What a public key that is made for a private one has of it: (its own attribute, the private key's). What
/// limits the private key is no limit of the public one.
const OF_THE_PRIVATE_KEY: [(u64, u64); 11] = [
    (CKA_KEY_TYPE, CKA_KEY_TYPE),
    (CKA_MODULUS, CKA_MODULUS),
    (CKA_PUBLIC_EXPONENT, CKA_PUBLIC_EXPONENT),
    (CKA_EC_PARAMS, CKA_EC_PARAMS),
    (CKA_EC_POINT, CKA_EC_POINT),
    (CKA_LABEL, CKA_LABEL),
    (CKA_ID, CKA_ID),
    (CKA_SUBJECT, CKA_SUBJECT),
    (CKA_VERIFY, CKA_SIGN),
    (CKA_VERIFY_RECOVER, CKA_SIGN_RECOVER),
    (CKA_ENCRYPT, CKA_DECRYPT),
];
