//! Signing and MACing functions: PKCS#11 3.2 §5.13.

use cryptoki_sys::*;

use super::ptr::{Input, Output, wide};
use super::{enter, exchange, operation, start};
use crate::mechanism::Params;
use crate::token::{Kind, Session};

/// Starts a signature; a NULL mechanism ends the one in progress.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter("C_SignInit", |module| {
        let init = |session: &Session, mechanism, params: &Params| {
            session.sign_init(mechanism, params, wide(hKey))
        };
        // SAFETY: this function's own contract.
        unsafe { start(module, hSession, Kind::Sign, pMechanism, init) }
    })
}

/// Signs in one part. Ends the operation, bad arguments included, unless it only tells a length.
///
/// # Safety
/// `pData` is NULL or readable for `ulDataLen` bytes; `pulSignatureLen` is NULL or valid;
/// `pSignature` is NULL or writable for `*pulSignatureLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Sign(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
    pSignature: CK_BYTE_PTR,
    pulSignatureLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_Sign", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (Input::new("pData", pData, ulDataLen).data(), Output::new(pSignature, pulSignatureLen))
        };
        exchange(module, hSession, &[Kind::Sign], input, output, Session::sign)
    })
}

/// Takes a part of the data.
///
/// # Safety
/// `pPart` is NULL or readable for `ulPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignUpdate(
    hSession: CK_SESSION_HANDLE,
    pPart: CK_BYTE_PTR,
    ulPartLen: CK_ULONG,
) -> CK_RV {
    enter("C_SignUpdate", |module| {
        // SAFETY: this function's own contract.
        let input = unsafe { Input::new("pPart", pPart, ulPartLen) }.data();
        let (session, input) = operation(module, hSession, &[Kind::Sign], input)?;
        session.sign_update(&input)
    })
}

/// Signs what came. Ends the operation unless it only tells a length.
///
/// # Safety
/// `pulSignatureLen` is NULL or valid; `pSignature` is NULL or writable for
/// `*pulSignatureLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignFinal(
    hSession: CK_SESSION_HANDLE,
    pSignature: CK_BYTE_PTR,
    pulSignatureLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_SignFinal", |module| {
        // SAFETY: this function's own contract.
        let output = unsafe { Output::new(pSignature, pulSignatureLen) };
        let (session, room) = operation(module, hSession, &[Kind::Sign], output.room())?;
        output.put(session.sign_final(room)?)
    })
}

/// Starts a signature from which the data can be recovered.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignRecoverInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter("C_SignRecoverInit", |module| {
        let init = |session: &Session, mechanism, params: &Params| {
            session.sign_recover_init(mechanism, params, wide(hKey))
        };
        // SAFETY: this function's own contract.
        unsafe { start(module, hSession, Kind::SignRecover, pMechanism, init) }
    })
}

/// Signs so that the data can be recovered. Ends the operation unless it only tells a length.
///
/// # Safety
/// `pData` is NULL or readable for `ulDataLen` bytes; `pulSignatureLen` is NULL or valid;
/// `pSignature` is NULL or writable for `*pulSignatureLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignRecover(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
    pSignature: CK_BYTE_PTR,
    pulSignatureLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_SignRecover", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (Input::new("pData", pData, ulDataLen).data(), Output::new(pSignature, pulSignatureLen))
        };
        exchange(module, hSession, &[Kind::SignRecover], input, output, Session::sign_recover)
    })
}
