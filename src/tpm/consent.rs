//! Context-specific login: the TPM sees the PIN before the one use of a key that asks for it.

use super::pin::Gate;
use super::{Call, Grant, Key, Tpm};
use crate::error::{Error, Result};

impl Tpm {
    /// Has the TPM check the PIN for one use of `key`.
    ///
    /// # Errors
    /// Not built yet: `NotSupported`.
    pub fn authorize_once(
        &self,
        _call: &Call,
        _key: &Key,
        _gate: &Gate,
        _pin: &[u8],
    ) -> Result<Grant> {
        Err(Error::NotSupported("keys that ask for the PIN at each use"))
    }
}
