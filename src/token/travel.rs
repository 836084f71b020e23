//! A key goes to another host's TPM, or comes from there. For the tool.

use cryptoki_sys::{
    CK_INVALID_HANDLE, CKA_CLASS, CKA_ID, CKA_LABEL, CKA_TOKEN, CKM_PUB_KEY_FROM_PRIV_KEY,
    CKO_PRIVATE_KEY,
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
    /// of a private key the handle of its public key, which goes by the same name.
    ///
    /// # Errors
    /// Those of [`unwrap_key`](Session::unwrap_key); those of [`derive_key`](Session::derive_key), when the
    /// private key is there already.
    pub fn receive(&self, blob: &[u8]) -> Result<Vec<u64>> {
        let own = Template::new().with_bool(CKA_TOKEN, true);
        let none = Params::None;
        let key = self.unwrap_key(CKM_TPM11_DUPLICATE, &none, CK_INVALID_HANDLE, blob, &own)?;
        let attributes = self.token.object(key)?.attributes;
        let mut keys = vec![key];
        if attributes.ulong(CKA_CLASS) == Some(CKO_PRIVATE_KEY) {
            let named = [CKA_LABEL, CKA_ID]
                .into_iter()
                .fold(own, |named, id| named.with(id, attributes.get(id).unwrap_or_default()));
            let mechanism = CKM_PUB_KEY_FROM_PRIV_KEY;
            keys.extend(self.derive_key(mechanism, &none, key, &named, &mut None)?.keys);
        }
        Ok(keys)
    }
}
