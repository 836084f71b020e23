//! Dual functions: one part of the data, two operations. PKCS#11 3.2 §5.17. The cipher decides first whether
//! there is room; only what went through it reaches the other.

use cryptoki_sys::{CKF_DECRYPT, CKF_DIGEST, CKF_ENCRYPT, CKF_SIGN, CKF_VERIFY};

use crate::error::{Error, Result};

use super::operation::{Answer, Room};
use super::session::Session;

impl Session {
    /// C_DigestEncryptUpdate
    ///
    /// # Errors
    /// `OperationNotInitialized` unless both are in progress; those of the two.
    pub fn digest_encrypt_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_DIGEST | CKF_ENCRYPT);
        let operations = &mut *self.operations.lock();
        both(operations.digest.active(), operations.encrypt.active())?;
        let answer = self.cipher_update(&call, &mut operations.encrypt, data, room)?;
        if let Answer::Done(_) = answer {
            operations.digest.update(|work| work.update(data))?;
        }
        Ok(answer)
    }

    /// C_DecryptDigestUpdate
    ///
    /// # Errors
    /// As [`Session::digest_encrypt_update`].
    pub fn decrypt_digest_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_DIGEST | CKF_DECRYPT);
        let operations = &mut *self.operations.lock();
        both(operations.digest.active(), operations.decrypt.active())?;
        let answer = self.cipher_update(&call, &mut operations.decrypt, data, room)?;
        if let Answer::Done(plain) = &answer {
            operations.digest.update(|work| work.update(plain))?;
        }
        Ok(answer)
    }

    /// C_SignEncryptUpdate
    ///
    /// # Errors
    /// As [`Session::digest_encrypt_update`].
    pub fn sign_encrypt_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_SIGN | CKF_ENCRYPT);
        let operations = &mut *self.operations.lock();
        both(operations.sign.active(), operations.encrypt.active())?;
        let answer = self.cipher_update(&call, &mut operations.encrypt, data, room)?;
        if let Answer::Done(_) = answer {
            operations.sign.update(|operation| {
                operation.right.holds(&self.token)?;
                operation.work.update(data)
            })?;
        }
        Ok(answer)
    }

    /// C_DecryptVerifyUpdate
    ///
    /// # Errors
    /// As [`Session::digest_encrypt_update`].
    pub fn decrypt_verify_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        let call = self.call(CKF_DECRYPT | CKF_VERIFY);
        let operations = &mut *self.operations.lock();
        both(operations.verify.active(), operations.decrypt.active())?;
        let answer = self.cipher_update(&call, &mut operations.decrypt, data, room)?;
        if let Answer::Done(plain) = &answer {
            operations.verification(false)?.update(|operation| operation.work.update(plain))?;
        }
        Ok(answer)
    }
}

fn both(one: bool, other: bool) -> Result<()> {
    if one && other { Ok(()) } else { Err(Error::OperationNotInitialized) }
}
