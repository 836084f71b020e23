//! One method per C_ function, named the same. PKCS#11 3.2 §5.6 and after.
//!
//! What the door finds wrong with the arguments of a function that ends an operation, it says
//! with [`Session::end`] before it returns the error. A NULL mechanism at C_XxxInit is
//! [`Session::end`] as well, and CKR_OK.

use zeroize::Zeroizing;

use super::SessionInfo;
use super::operation::{Answer, Kind, Room};
use crate::error::Result;
use crate::mechanism::Params;
use crate::token::Template;

/// A session of the application with a token.
pub struct Session {}

#[allow(unused_variables)]
impl Session {
    /// Ends the operation of this kind, if there is one: bad arguments, or a NULL mechanism at Init.
    pub fn end(&self, kind: Kind) {
        todo!()
    }

    // ---- session management, §5.6 ----------------------------------------------------------

    /// C_GetSessionInfo
    pub fn session_info(&self) -> Result<SessionInfo> {
        todo!()
    }
    /// C_GetOperationState
    pub fn get_operation_state(&self, room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_SetOperationState
    pub fn set_operation_state(
        &self,
        state: &[u8],
        encryption_key: u64,
        authentication_key: u64,
    ) -> Result<()> {
        todo!()
    }
    /// C_Login. `user` is a CKU_ number; a NULL PIN of length 0 is an empty slice.
    pub fn login(&self, user: u64, pin: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_LoginUser. Our tokens have no user names: an empty one is C_Login.
    pub fn login_user(&self, user: u64, pin: &[u8], name: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_Logout
    pub fn logout(&self) -> Result<()> {
        todo!()
    }
    /// C_InitPIN. An empty PIN makes the token PIN-less.
    pub fn init_pin(&self, pin: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_SetPIN
    pub fn set_pin(&self, old: &[u8], new: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_GetSessionValidationFlags
    pub fn session_validation_flags(&self, kind: u64) -> Result<u64> {
        todo!()
    }

    // ---- objects, §5.7 ---------------------------------------------------------------------

    /// C_CreateObject
    pub fn create_object(&self, template: &Template) -> Result<u64> {
        todo!()
    }
    /// C_CopyObject
    pub fn copy_object(&self, object: u64, template: &Template) -> Result<u64> {
        todo!()
    }
    /// C_DestroyObject
    pub fn destroy_object(&self, object: u64) -> Result<()> {
        todo!()
    }
    /// C_GetObjectSize, in bytes
    pub fn get_object_size(&self, object: u64) -> Result<u64> {
        todo!()
    }
    /// C_GetAttributeValue: for each type its value in the library's own encoding (`object/`), or why
    /// there is none (`AttributeSensitive`, `AttributeTypeInvalid`); the door converts and copies.
    pub fn get_attribute_value(
        &self,
        object: u64,
        types: &[u64],
    ) -> Result<Vec<Result<Zeroizing<Vec<u8>>>>> {
        todo!()
    }
    /// C_SetAttributeValue
    pub fn set_attribute_value(&self, object: u64, template: &Template) -> Result<()> {
        todo!()
    }
    /// C_FindObjectsInit
    pub fn find_objects_init(&self, template: &Template) -> Result<()> {
        todo!()
    }
    /// C_FindObjects: at most `most` more handles
    pub fn find_objects(&self, most: usize) -> Result<Vec<u64>> {
        todo!()
    }
    /// C_FindObjectsFinal
    pub fn find_objects_final(&self) -> Result<()> {
        todo!()
    }

    // ---- encryption, §5.8 ------------------------------------------------------------------

    /// C_EncryptInit
    pub fn encrypt_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        todo!()
    }
    /// C_Encrypt
    pub fn encrypt(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_EncryptUpdate
    pub fn encrypt_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_EncryptFinal
    pub fn encrypt_final(&self, room: Room) -> Result<Answer> {
        todo!()
    }

    // ---- decryption, §5.10 -----------------------------------------------------------------

    /// C_DecryptInit
    pub fn decrypt_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        todo!()
    }
    /// C_Decrypt
    pub fn decrypt(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_DecryptUpdate
    pub fn decrypt_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_DecryptFinal
    pub fn decrypt_final(&self, room: Room) -> Result<Answer> {
        todo!()
    }

    // ---- digests, §5.12 --------------------------------------------------------------------

    /// C_DigestInit
    pub fn digest_init(&self, mechanism: u64, params: &Params) -> Result<()> {
        todo!()
    }
    /// C_Digest
    pub fn digest(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_DigestUpdate
    pub fn digest_update(&self, data: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_DigestKey
    pub fn digest_key(&self, key: u64) -> Result<()> {
        todo!()
    }
    /// C_DigestFinal
    pub fn digest_final(&self, room: Room) -> Result<Answer> {
        todo!()
    }

    // ---- signatures, §5.13 -----------------------------------------------------------------

    /// C_SignInit
    pub fn sign_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        todo!()
    }
    /// C_Sign
    pub fn sign(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_SignUpdate
    pub fn sign_update(&self, data: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_SignFinal
    pub fn sign_final(&self, room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_SignRecoverInit
    pub fn sign_recover_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        todo!()
    }
    /// C_SignRecover
    pub fn sign_recover(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }

    // ---- verification, §5.15 ---------------------------------------------------------------

    /// C_VerifyInit
    pub fn verify_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        todo!()
    }
    /// C_Verify
    pub fn verify(&self, data: &[u8], signature: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_VerifyUpdate
    pub fn verify_update(&self, data: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_VerifyFinal
    pub fn verify_final(&self, signature: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_VerifyRecoverInit
    pub fn verify_recover_init(&self, mechanism: u64, params: &Params, key: u64) -> Result<()> {
        todo!()
    }
    /// C_VerifyRecover
    pub fn verify_recover(&self, signature: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_VerifySignatureInit
    pub fn verify_signature_init(
        &self,
        mechanism: u64,
        params: &Params,
        key: u64,
        signature: &[u8],
    ) -> Result<()> {
        todo!()
    }
    /// C_VerifySignature
    pub fn verify_signature(&self, data: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_VerifySignatureUpdate
    pub fn verify_signature_update(&self, data: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_VerifySignatureFinal
    pub fn verify_signature_final(&self) -> Result<()> {
        todo!()
    }

    // ---- dual functions, §5.17 -------------------------------------------------------------

    /// C_DigestEncryptUpdate
    pub fn digest_encrypt_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_DecryptDigestUpdate
    pub fn decrypt_digest_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_SignEncryptUpdate
    pub fn sign_encrypt_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }
    /// C_DecryptVerifyUpdate
    pub fn decrypt_verify_update(&self, data: &[u8], room: Room) -> Result<Answer> {
        todo!()
    }

    // ---- keys, §5.18 -----------------------------------------------------------------------

    /// C_GenerateKey
    pub fn generate_key(
        &self,
        mechanism: u64,
        params: &Params,
        template: &Template,
    ) -> Result<u64> {
        todo!()
    }
    /// C_GenerateKeyPair: the public key's handle and the private key's
    pub fn generate_key_pair(
        &self,
        mechanism: u64,
        params: &Params,
        public: &Template,
        private: &Template,
    ) -> Result<(u64, u64)> {
        todo!()
    }
    /// C_DeriveKey
    pub fn derive_key(
        &self,
        mechanism: u64,
        params: &Params,
        base: u64,
        template: &Template,
    ) -> Result<u64> {
        todo!()
    }

    // ---- random numbers, §5.19 -------------------------------------------------------------

    /// C_SeedRandom
    pub fn seed_random(&self, seed: &[u8]) -> Result<()> {
        todo!()
    }
    /// C_GenerateRandom
    pub fn generate_random(&self, bytes: usize) -> Result<Zeroizing<Vec<u8>>> {
        todo!()
    }
}
