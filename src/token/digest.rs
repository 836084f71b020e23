//! Digests. PKCS#11 3.2 §5.12. In the host, without login.

use cryptoki_sys::{CKA_EXTRACTABLE, CKA_SENSITIVE, CKF_DIGEST};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::mechanism::{self, Params};
use crate::object::policy::Guard;

use super::operation::{Answer, Kind, Need, Room};
use super::session::Session;

impl Session {
    /// C_DigestInit
    ///
    /// # Errors
    /// `OperationActive`, `MechanismInvalid`, `MechanismParamInvalid`
    pub fn digest_init(&self, mechanism: u64, params: &Params) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.digest.begin(|| mechanism::lookup(mechanism)?.digest(params))?;
        operations.last_init = Some(Kind::Digest);
        Ok(())
    }

    /// C_Digest
    ///
    /// # Errors
    /// `OperationNotInitialized`
    pub fn digest(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        self.operations.lock().digest.whole_into(
            data,
            room,
            |work| Need::Exactly(work.length()),
            |mut work| {
                work.update(data)?;
                Ok(Zeroizing::new(work.finish()?))
            },
        )
    }

    /// C_DigestUpdate
    ///
    /// # Errors
    /// `OperationNotInitialized`
    pub fn digest_update(&self, data: &[u8]) -> Result<()> {
        self.alive()?;
        self.operations.lock().digest.update(|work| work.update(data))
    }

    /// C_DigestKey. Only a key that can be read anyway is digested: the digest of a short or guessable
    /// one would give it away.
    ///
    /// # Errors
    /// `OperationNotInitialized`, `KeyInvalid`, `KeyIndigestible`
    pub fn digest_key(&self, key: u64) -> Result<()> {
        self.alive()?;
        let object = self.key_object(key);
        let mut operations = self.operations.lock();
        if object.is_err() {
            operations.digest.end();
        }
        let object = object?;
        if !operations.digest.active() {
            return Err(Error::OperationNotInitialized);
        }
        // The digest goes on without such a key: nothing of it was taken.
        let readable = !object.is(CKA_SENSITIVE) && object.is(CKA_EXTRACTABLE);
        if self.token.home.policy.has(Guard::Indigestible) && !readable {
            return Err(Error::KeyIndigestible);
        }
        let value = self
            .with_chip(&self.call(CKF_DIGEST), None, |chip| chip.value(&object))
            .map_err(|_| Error::KeyIndigestible)?;
        operations.digest.update(|work| work.update(&value))
    }

    /// C_DigestFinal
    ///
    /// # Errors
    /// `OperationNotInitialized`
    pub fn digest_final(&self, room: Room) -> Result<Answer> {
        self.alive()?;
        self.operations.lock().digest.last_into(
            room,
            |work| Need::Exactly(work.length()),
            |work| Ok(Zeroizing::new(work.finish()?)),
        )
    }
}
