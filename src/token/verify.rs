//! Verification. PKCS#11 3.2 §5.15. In the host, without login, never waiting for the TPM.

use cryptoki_sys::{CKF_VERIFY, CKF_VERIFY_RECOVER};
use zeroize::Zeroizing;

use crate::error::Result;
use crate::mechanism::Params;

use super::operation::{Answer, Kind, Need, Room};
use super::session::{Session, Verification};

impl Session {
    /// C_VerifyInit. Neither this nor what follows needs a login or the TPM.
    ///
    /// # Errors
    /// As [`Session::encrypt_init`].
    pub fn verify_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        self.begin_verification(mechanism, params, key, None)
    }

    /// C_Verify
    ///
    /// # Errors
    /// `OperationNotInitialized`, `SignatureInvalid`, `SignatureLenRange`, `DataLenRange`
    pub fn verify(&self, data: &[u8], signature: &[u8]) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.verification(false)?.whole(|Verification { mut work, .. }| {
            work.update(data)?;
            work.finish(signature)
        })
    }

    /// C_VerifyUpdate
    ///
    /// # Errors
    /// `OperationNotInitialized`; the mechanism's.
    pub fn verify_update(&self, data: &[u8]) -> Result<()> {
        self.alive()?;
        self.operations.lock().verification(false)?.update(|operation| operation.work.update(data))
    }

    /// C_VerifyFinal
    ///
    /// # Errors
    /// As [`Session::verify`].
    pub fn verify_final(&self, signature: &[u8]) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.verification(false)?.last(|Verification { work, .. }| work.finish(signature))
    }

    /// C_VerifyRecoverInit
    ///
    /// # Errors
    /// As [`Session::encrypt_init`].
    pub fn verify_recover_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.verify_recover.begin(|| {
            let (row, object) = self.key(mechanism, key, CKF_VERIFY)?;
            row.verify_recover(params, &object)
        })?;
        operations.last_init = Some(Kind::VerifyRecover);
        Ok(())
    }

    /// C_VerifyRecover
    ///
    /// # Errors
    /// As [`Session::verify`].
    pub fn verify_recover(&self, signature: &[u8], room: Room) -> Result<Answer> {
        self.alive()?;
        self.operations.lock().verify_recover.whole_into(
            signature,
            room,
            |work| Need::AtMost(work.length()),
            |work| Ok(Zeroizing::new(work.finish(signature)?)),
        )
    }

    /// C_VerifySignatureInit: the signature first, the data afterwards.
    ///
    /// # Errors
    /// As [`Session::encrypt_init`].
    pub fn verify_signature_init(
        &self,
        mechanism: u64,
        params: &Params,
        key: u64,
        signature: &[u8],
    ) -> Result<()> {
        self.begin_verification(mechanism, params, key, Some(signature.to_vec()))
    }

    /// C_VerifySignature
    ///
    /// # Errors
    /// As [`Session::verify`].
    pub fn verify_signature(&self, data: &[u8]) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.verification(true)?.whole(|Verification { mut work, signature }| {
            work.update(data)?;
            work.finish(signature.as_deref().unwrap_or_default())
        })
    }

    /// C_VerifySignatureUpdate
    ///
    /// # Errors
    /// As [`Session::verify_update`].
    pub fn verify_signature_update(&self, data: &[u8]) -> Result<()> {
        self.alive()?;
        self.operations.lock().verification(true)?.update(|operation| operation.work.update(data))
    }

    /// C_VerifySignatureFinal
    ///
    /// # Errors
    /// As [`Session::verify`].
    pub fn verify_signature_final(&self) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.verification(true)?.last(|Verification { work, signature }| {
            work.finish(signature.as_deref().unwrap_or_default())
        })
    }

    fn begin_verification(
        &self,
        mechanism: u64,
        params: &Params,
        key: u64,
        signature: Option<Vec<u8>>,
    ) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.verify.begin(|| {
            let (row, object) = self.key(mechanism, key, CKF_VERIFY_RECOVER)?;
            Ok(Verification { work: row.verify(params, &object)?, signature })
        })?;
        operations.last_init = Some(Kind::Verify);
        Ok(())
    }
}
