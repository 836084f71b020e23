//! Encryption functions: PKCS#11 3.2 §5.8. With a public key: in the host, without login.

use cryptoki_sys::*;

use super::ptr::{Input, Output, wide};
use super::{enter, exchange, operation, start};
use crate::mechanism::Params;
use crate::token::{Kind, Session};

/// Starts an encryption; a NULL mechanism ends the one in progress.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter("C_EncryptInit", |module| {
        let init = |session: &Session, mechanism, params: &Params| {
            session.encrypt_init(mechanism, params, wide(hKey))
        };
        // SAFETY: this function's own contract.
        unsafe { start(module, hSession, Kind::Encrypt, pMechanism, init) }
    })
}

/// Encrypts in one part. Ends the operation unless it only tells a length.
///
/// # Safety
/// `pData` is NULL or readable for `ulDataLen` bytes; `pulEncryptedDataLen` is NULL or valid;
/// `pEncryptedData` is NULL or writable for `*pulEncryptedDataLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Encrypt(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
    pEncryptedData: CK_BYTE_PTR,
    pulEncryptedDataLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_Encrypt", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (
                Input::new("pData", pData, ulDataLen).data(),
                Output::new(pEncryptedData, pulEncryptedDataLen),
            )
        };
        exchange(module, hSession, &[Kind::Encrypt], input, output, Session::encrypt)
    })
}

/// Encrypts a part.
///
/// # Safety
/// `pPart` is NULL or readable for `ulPartLen` bytes; `pulEncryptedPartLen` is NULL or valid;
/// `pEncryptedPart` is NULL or writable for `*pulEncryptedPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptUpdate(
    hSession: CK_SESSION_HANDLE,
    pPart: CK_BYTE_PTR,
    ulPartLen: CK_ULONG,
    pEncryptedPart: CK_BYTE_PTR,
    pulEncryptedPartLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_EncryptUpdate", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (
                Input::new("pPart", pPart, ulPartLen).data(),
                Output::new(pEncryptedPart, pulEncryptedPartLen),
            )
        };
        exchange(module, hSession, &[Kind::Encrypt], input, output, Session::encrypt_update)
    })
}

/// Gives the rest. Ends the operation unless it only tells a length.
///
/// # Safety
/// `pulLastEncryptedPartLen` is NULL or valid; `pLastEncryptedPart` is NULL or writable for
/// `*pulLastEncryptedPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptFinal(
    hSession: CK_SESSION_HANDLE,
    pLastEncryptedPart: CK_BYTE_PTR,
    pulLastEncryptedPartLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_EncryptFinal", |module| {
        // SAFETY: this function's own contract.
        let output = unsafe { Output::new(pLastEncryptedPart, pulLastEncryptedPartLen) };
        let (session, room) = operation(module, hSession, &[Kind::Encrypt], output.room())?;
        output.put(session.encrypt_final(room)?)
    })
}
