//! Dual-function cryptographic functions: PKCS#11 3.2 §5.17.

use cryptoki_sys::*;

use super::ptr::{Input, Output};
use super::{enter, operation};
use crate::token::Kind;

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
                Input::new("pPart", pPart, ulPartLen),
                Output::new(pEncryptedPart, pulEncryptedPartLen),
            )
        };
        let arguments = input.data().and_then(|input| Ok((input, output.room()?)));
        let (session, (input, room)) =
            operation(module, hSession, &[Kind::Digest, Kind::Encrypt], arguments)?;
        output.put(session.digest_encrypt_update(&input, room)?)
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
                Input::new("pEncryptedPart", pEncryptedPart, ulEncryptedPartLen),
                Output::new(pPart, pulPartLen),
            )
        };
        let arguments = input.ciphertext().and_then(|input| Ok((input, output.room()?)));
        let (session, (input, room)) =
            operation(module, hSession, &[Kind::Decrypt, Kind::Digest], arguments)?;
        output.put(session.decrypt_digest_update(&input, room)?)
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
                Input::new("pPart", pPart, ulPartLen),
                Output::new(pEncryptedPart, pulEncryptedPartLen),
            )
        };
        let arguments = input.data().and_then(|input| Ok((input, output.room()?)));
        let (session, (input, room)) =
            operation(module, hSession, &[Kind::Sign, Kind::Encrypt], arguments)?;
        output.put(session.sign_encrypt_update(&input, room)?)
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
                Input::new("pEncryptedPart", pEncryptedPart, ulEncryptedPartLen),
                Output::new(pPart, pulPartLen),
            )
        };
        let arguments = input.ciphertext().and_then(|input| Ok((input, output.room()?)));
        let (session, (input, room)) =
            operation(module, hSession, &[Kind::Decrypt, Kind::Verify], arguments)?;
        output.put(session.decrypt_verify_update(&input, room)?)
    })
}
