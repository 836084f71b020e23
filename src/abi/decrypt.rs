//! Decryption functions: PKCS#11 3.2 §5.10.

use cryptoki_sys::*;

use super::ptr::{Input, Output, wide};
use super::{enter, exchange, operation, start};
use crate::mechanism::Params;
use crate::token::{Kind, Session};

/// Starts a decryption; a NULL mechanism ends the one in progress.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter("C_DecryptInit", |module| {
        let init = |session: &Session, mechanism, params: &Params| {
            session.decrypt_init(mechanism, params, wide(hKey))
        };
        // SAFETY: this function's own contract.
        unsafe { start(module, hSession, Kind::Decrypt, pMechanism, init) }
    })
}

/// Decrypts in one part. Ends the operation unless it only tells a length.
///
/// # Safety
/// `pEncryptedData` is NULL or readable for `ulEncryptedDataLen` bytes; `pulDataLen` is NULL or valid;
/// `pData` is NULL or writable for `*pulDataLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Decrypt(
    hSession: CK_SESSION_HANDLE,
    pEncryptedData: CK_BYTE_PTR,
    ulEncryptedDataLen: CK_ULONG,
    pData: CK_BYTE_PTR,
    pulDataLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_Decrypt", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (
                Input::new("pEncryptedData", pEncryptedData, ulEncryptedDataLen).ciphertext(),
                Output::new(pData, pulDataLen),
            )
        };
        exchange(module, hSession, &[Kind::Decrypt], input, output, Session::decrypt)
    })
}

/// Decrypts a part.
///
/// # Safety
/// `pEncryptedPart` is NULL or readable for `ulEncryptedPartLen` bytes; `pulPartLen` is NULL or valid;
/// `pPart` is NULL or writable for `*pulPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptUpdate(
    hSession: CK_SESSION_HANDLE,
    pEncryptedPart: CK_BYTE_PTR,
    ulEncryptedPartLen: CK_ULONG,
    pPart: CK_BYTE_PTR,
    pulPartLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_DecryptUpdate", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (
                Input::new("pEncryptedPart", pEncryptedPart, ulEncryptedPartLen).ciphertext(),
                Output::new(pPart, pulPartLen),
            )
        };
        exchange(module, hSession, &[Kind::Decrypt], input, output, Session::decrypt_update)
    })
}

/// Gives the rest. Ends the operation unless it only tells a length.
///
/// # Safety
/// `pulLastPartLen` is NULL or valid; `pLastPart` is NULL or writable for
/// `*pulLastPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptFinal(
    hSession: CK_SESSION_HANDLE,
    pLastPart: CK_BYTE_PTR,
    pulLastPartLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_DecryptFinal", |module| {
        // SAFETY: this function's own contract.
        let output = unsafe { Output::new(pLastPart, pulLastPartLen) };
        let (session, room) = operation(module, hSession, &[Kind::Decrypt], output.room())?;
        output.put(session.decrypt_final(room)?)
    })
}
