//! Verification. PKCS#11 3.2 §5.15. With a public key in the host, without login, never waiting for the
//! TPM; a MAC's with the key that made it, in the TPM.

use cryptoki_sys::{CKF_VERIFY, CKF_VERIFY_RECOVER, CKO_SECRET_KEY};
use zeroize::Zeroizing;

use crate::error::Result;
use crate::mechanism::Params;
use crate::tpm::Call;

use super::operation::{Answer, Kind, Need, Room};
use super::session::{Right, Session, Verification};
use super::token::Token;

impl Session {
    /// C_VerifyInit. With a public key neither this nor what follows needs a login or the TPM.
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
        let call = self.call(CKF_VERIFY);
        let mut operations = self.operations.lock();
        operations.verification(false)?.whole(|mut verification| {
            verification.update(&self.token, data)?;
            self.verdict(&call, verification, signature)
        })
    }

    /// C_VerifyUpdate
    ///
    /// # Errors
    /// `OperationNotInitialized`; the mechanism's.
    pub fn verify_update(&self, data: &[u8]) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.verification(false)?.update(|operation| operation.update(&self.token, data))
    }

    /// C_VerifyFinal
    ///
    /// # Errors
    /// As [`Session::verify`].
    pub fn verify_final(&self, signature: &[u8]) -> Result<()> {
        self.alive()?;
        let call = self.call(CKF_VERIFY);
        let mut operations = self.operations.lock();
        operations
            .verification(false)?
            .last(|verification| self.verdict(&call, verification, signature))
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
        let call = self.call(CKF_VERIFY);
        let mut operations = self.operations.lock();
        operations.verification(true)?.whole(|mut verification| {
            verification.update(&self.token, data)?;
            let signature = verification.signature.take().unwrap_or_default();
            self.verdict(&call, verification, &signature)
        })
    }

    /// C_VerifySignatureUpdate
    ///
    /// # Errors
    /// As [`Session::verify_update`].
    pub fn verify_signature_update(&self, data: &[u8]) -> Result<()> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.verification(true)?.update(|operation| operation.update(&self.token, data))
    }

    /// C_VerifySignatureFinal
    ///
    /// # Errors
    /// As [`Session::verify`].
    pub fn verify_signature_final(&self) -> Result<()> {
        self.alive()?;
        let call = self.call(CKF_VERIFY);
        let mut operations = self.operations.lock();
        operations.verification(true)?.last(|mut verification| {
            let signature = verification.signature.take().unwrap_or_default();
            self.verdict(&call, verification, &signature)
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
            Ok(Verification {
                work: row.verify(params, &object)?,
                signature,
                right: Right::to(&object, &self.token),
                secret: object.class() == CKO_SECRET_KEY,
            })
        })?;
        operations.last_init = Some(Kind::Verify);
        Ok(())
    }

    /// Compares, with the TPM's help where the key is a secret one.
    fn verdict(&self, call: &Call, verification: Verification, signature: &[u8]) -> Result<()> {
        let Verification { work, right, secret, .. } = verification;
        right.permits(&self.token)?;
        if secret {
            return self.with_chip(call, None, |chip| work.finish(signature, chip));
        }
        self.with_known_chip(call, None, |chip| work.finish(signature, chip))
    }
}

impl Verification {
    fn update(&mut self, token: &Token, data: &[u8]) -> Result<()> {
        self.right.holds(token)?;
        self.work.update(data)
    }
}
