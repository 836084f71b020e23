//! Encryption and decryption. PKCS#11 3.2 §5.8 and §5.10. Encryption with a public key needs neither login
//! nor TPM; a secret key is in the TPM both ways.

use crate::error::Result;
use crate::mechanism::{Cipher, Params};
use crate::tpm::Call;
use cryptoki_sys::{CKF_DECRYPT, CKF_ENCRYPT};

use super::operation::{Answer, Kind, Need, Progress, Room};
use super::session::{Operation, Session};

impl Session {
    /// C_EncryptInit
    ///
    /// # Errors
    /// `OperationActive`, `KeyInvalid`, `MechanismInvalid`, …: those of the mechanism
    pub fn encrypt_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.encrypt.begin(|| {
            let (row, object) = self.key(mechanism, key, CKF_ENCRYPT)?;
            Ok(Operation::new(row.encrypt(params, &object)?, params, &object, &self.token))
        })?;
        operations.last_init = Some(Kind::Encrypt);
        Ok(())
    }

    /// C_Encrypt
    ///
    /// # Errors
    /// `OperationNotInitialized`; the mechanism's. An error ends the operation, here and below.
    pub fn encrypt(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_ENCRYPT);
        self.cipher_whole(&call, &mut self.operations.lock().encrypt, data, room)
    }

    /// C_EncryptUpdate
    ///
    /// # Errors
    /// As [`Session::encrypt`].
    pub fn encrypt_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_ENCRYPT);
        self.cipher_update(&call, &mut self.operations.lock().encrypt, data, room)
    }

    /// C_EncryptFinal
    ///
    /// # Errors
    /// As [`Session::encrypt`].
    pub fn encrypt_final(&self, room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_ENCRYPT);
        self.cipher_last(&call, &mut self.operations.lock().encrypt, room)
    }

    /// C_DecryptInit
    ///
    /// # Errors
    /// As [`Session::encrypt_init`].
    pub fn decrypt_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.decrypt.begin(|| {
            let (row, object) = self.key(mechanism, key, CKF_DECRYPT)?;
            Ok(Operation::new(row.decrypt(params, &object)?, params, &object, &self.token))
        })?;
        operations.last_init = Some(Kind::Decrypt);
        Ok(())
    }

    /// C_Decrypt
    ///
    /// # Errors
    /// As [`Session::encrypt`].
    pub fn decrypt(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_DECRYPT);
        self.cipher_whole(&call, &mut self.operations.lock().decrypt, data, room)
    }

    /// C_DecryptUpdate
    ///
    /// # Errors
    /// As [`Session::encrypt`].
    pub fn decrypt_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_DECRYPT);
        self.cipher_update(&call, &mut self.operations.lock().decrypt, data, room)
    }

    /// C_DecryptFinal
    ///
    /// # Errors
    /// As [`Session::encrypt`].
    pub fn decrypt_final(&self, room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_DECRYPT);
        self.cipher_last(&call, &mut self.operations.lock().decrypt, room)
    }

    fn cipher_whole(
        &self,
        call: &Call,
        progress: &mut Progress<Operation<Box<dyn Cipher>>>,
        data: &[u8],
        room: Room,
    ) -> Result<Answer> {
        let most = |operation: &Operation<Box<dyn Cipher>>| {
            let work = &operation.work;
            Need::AtMost(
                work.update_length(data.len()).saturating_add(work.finish_length(data.len())),
            )
        };
        progress.whole_into(data, room, most, |Operation { work, right, .. }| {
            right.permits(&self.token)?;
            self.with_chip(call, right.grant.as_ref(), |chip| work.whole(data, chip))
        })
    }

    pub(super) fn cipher_update(
        &self,
        call: &Call,
        progress: &mut Progress<Operation<Box<dyn Cipher>>>,
        data: &[u8],
        room: Room,
    ) -> Result<Answer> {
        let most =
            |operation: &Operation<Box<dyn Cipher>>| operation.work.update_length(data.len());
        progress.update_into(room, most, |operation| {
            operation.right.holds(&self.token)?;
            let Operation { work, right, .. } = operation;
            self.with_chip(call, right.grant.as_ref(), |chip| work.update(data, chip))
        })
    }

    fn cipher_last(
        &self,
        call: &Call,
        progress: &mut Progress<Operation<Box<dyn Cipher>>>,
        room: Room,
    ) -> Result<Answer> {
        let most =
            |operation: &Operation<Box<dyn Cipher>>| Need::AtMost(operation.work.finish_length(0));
        progress.last_into(room, most, |Operation { work, right, .. }| {
            right.permits(&self.token)?;
            self.with_chip(call, right.grant.as_ref(), |chip| work.finish(chip))
        })
    }
}
