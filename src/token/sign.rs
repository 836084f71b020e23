//! Signatures. PKCS#11 3.2 §5.13.

use cryptoki_sys::{CKF_SIGN, CKF_SIGN_RECOVER};
use zeroize::Zeroizing;

use crate::error::Result;
use crate::mechanism::{self, Chip, Params, Sign};
use crate::object::keyspec;
use crate::tpm::Call;

use super::operation::{Answer, Kind, Need, Progress, Room};
use super::session::{Operation, Session};

impl Session {
    /// C_SignInit. No TPM command.
    ///
    /// # Errors
    /// As [`Session::encrypt_init`].
    pub fn sign_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.sign.begin(|| {
            let (row, object) = self.key(mechanism, key, CKF_SIGN)?;
            let work = row.sign(params, &object)?;
            if row.does.tells.is_some_and(|tells| tells(params)) {
                keyspec::may_sign(&object.attributes, mechanism, self.token.home.policy)?;
            }
            Ok(Operation::new(work, params, &object, &self.token))
        })?;
        operations.last_init = Some(Kind::Sign);
        Ok(())
    }

    /// C_Sign
    ///
    /// # Errors
    /// `OperationNotInitialized`; `NotLoggedIn` without the login that the key asks for; the
    /// mechanism's; the TPM's.
    pub fn sign(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_SIGN);
        let finish = mechanism::signature;
        self.sign_whole(&call, &mut self.operations.lock().sign, data, room, finish)
    }

    /// C_SignUpdate
    ///
    /// # Errors
    /// `OperationNotInitialized`; the mechanism's.
    pub fn sign_update(&self, data: &[u8]) -> Result<()> {
        self.alive()?;
        self.operations.lock().sign.update(|operation| {
            operation.right.holds(&self.token)?;
            operation.work.update(data)
        })
    }

    /// C_SignFinal
    ///
    /// # Errors
    /// As [`Session::sign`].
    pub fn sign_final(&self, room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_SIGN);
        self.operations.lock().sign.last_into(
            room,
            |operation| Need::Exactly(operation.work.length()),
            |Operation { work, right, .. }| {
                right.permits(&self.token)?;
                self.with_chip(&call, right.grant.as_ref(), |chip| {
                    mechanism::signature(work, chip).map(Zeroizing::new)
                })
            },
        )
    }

    /// C_SignRecoverInit
    ///
    /// # Errors
    /// As [`Session::encrypt_init`].
    pub fn sign_recover_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.sign_recover.begin(|| {
            let (row, object) = self.key(mechanism, key, CKF_SIGN_RECOVER)?;
            Ok(Operation::new(row.sign_recover(params, &object)?, params, &object, &self.token))
        })?;
        operations.last_init = Some(Kind::SignRecover);
        Ok(())
    }

    /// C_SignRecover
    ///
    /// # Errors
    /// As [`Session::sign`].
    pub fn sign_recover(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_SIGN_RECOVER);
        // The list of this function's codes is another one.
        let finish = |work: Box<dyn Sign>, chip: &Chip<'_>| work.finish(chip);
        self.sign_whole(&call, &mut self.operations.lock().sign_recover, data, room, finish)
    }

    fn sign_whole(
        &self,
        call: &Call,
        progress: &mut Progress<Operation<Box<dyn Sign>>>,
        data: &[u8],
        room: Room,
        finish: impl FnOnce(Box<dyn Sign>, &Chip<'_>) -> Result<Vec<u8>>,
    ) -> Result<Answer> {
        progress.whole_into(
            data,
            room,
            |operation| Need::Exactly(operation.work.length()),
            |Operation { mut work, right, .. }| {
                right.permits(&self.token)?;
                work.update(data)?;
                self.with_chip(call, right.grant.as_ref(), |chip| {
                    finish(work, chip).map(Zeroizing::new)
                })
            },
        )
    }
}
