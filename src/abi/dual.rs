//! Dual-function cryptographic functions: PKCS#11 3.2 §5.17.

use cryptoki_sys::*;

use super::ptr::{Input, Output};
use super::{enter, exchange};
use crate::token::{Kind, Session};

/// Digests a part and encrypts it.
///
/// # Safety
/// `pPart` is NULL or readable for `ulPartLen` bytes; `pulEncryptedPartLen` is NULL or valid;
/// `pEncryptedPart` is NULL or writable for `*pulEncryptedPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestEncryptUpdate(
    hSession: CK_SESSION_HANDLE,
    pPart: CK_BYTE_PTR,
    ulPartLen: CK_ULONG,
    pEncryptedPart: CK_BYTE_PTR,
    pulEncryptedPartLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_DigestEncryptUpdate", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (
                Input::new("pPart", pPart, ulPartLen).data(),
                Output::new(pEncryptedPart, pulEncryptedPartLen),
            )
        };
        exchange(
            module,
            hSession,
            &[Kind::Digest, Kind::Encrypt],
            input,
            output,
            Session::digest_encrypt_update,
        )
    })
}

/// Decrypts a part and digests what it was.
///
/// # Safety
/// `pEncryptedPart` is NULL or readable for `ulEncryptedPartLen` bytes; `pulPartLen` is NULL or valid;
/// `pPart` is NULL or writable for `*pulPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptDigestUpdate(
    hSession: CK_SESSION_HANDLE,
    pEncryptedPart: CK_BYTE_PTR,
    ulEncryptedPartLen: CK_ULONG,
    pPart: CK_BYTE_PTR,
    pulPartLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_DecryptDigestUpdate", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (
                Input::new("pEncryptedPart", pEncryptedPart, ulEncryptedPartLen).ciphertext(),
                Output::new(pPart, pulPartLen),
            )
        };
        exchange(
            module,
            hSession,
            &[Kind::Decrypt, Kind::Digest],
            input,
            output,
            Session::decrypt_digest_update,
        )
    })
}

/// Takes a part to sign and encrypts it.
///
/// # Safety
/// `pPart` is NULL or readable for `ulPartLen` bytes; `pulEncryptedPartLen` is NULL or valid;
/// `pEncryptedPart` is NULL or writable for `*pulEncryptedPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignEncryptUpdate(
    hSession: CK_SESSION_HANDLE,
    pPart: CK_BYTE_PTR,
    ulPartLen: CK_ULONG,
    pEncryptedPart: CK_BYTE_PTR,
    pulEncryptedPartLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_SignEncryptUpdate", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (
                Input::new("pPart", pPart, ulPartLen).data(),
                Output::new(pEncryptedPart, pulEncryptedPartLen),
            )
        };
        exchange(
            module,
            hSession,
            &[Kind::Sign, Kind::Encrypt],
            input,
            output,
            Session::sign_encrypt_update,
        )
    })
}

/// Decrypts a part and takes what it was for the verification.
///
/// # Safety
/// `pEncryptedPart` is NULL or readable for `ulEncryptedPartLen` bytes; `pulPartLen` is NULL or valid;
/// `pPart` is NULL or writable for `*pulPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptVerifyUpdate(
    hSession: CK_SESSION_HANDLE,
    pEncryptedPart: CK_BYTE_PTR,
    ulEncryptedPartLen: CK_ULONG,
    pPart: CK_BYTE_PTR,
    pulPartLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_DecryptVerifyUpdate", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (
                Input::new("pEncryptedPart", pEncryptedPart, ulEncryptedPartLen).ciphertext(),
                Output::new(pPart, pulPartLen),
            )
        };
        exchange(
            module,
            hSession,
            &[Kind::Decrypt, Kind::Verify],
            input,
            output,
            Session::decrypt_verify_update,
        )
    })
}
