//! Functions for verifying signatures and MACs: PKCS#11 3.2 §5.15. In the host, without login.

use cryptoki_sys::*;

use super::ptr::{Input, Output, wide};
use super::{both, enter, exchange, operation, readable, start};
use crate::mechanism::Params;
use crate::token::{Kind, Session};

/// Starts a verification; a NULL mechanism ends the one in progress.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter("C_VerifyInit", |module| {
        let init = |session: &Session, mechanism, params: &Params| {
            session.verify_init(mechanism, params, wide(hKey))
        };
        // SAFETY: this function's own contract.
        unsafe { start(module, hSession, Kind::Verify, pMechanism, init) }
    })
}

/// Verifies in one part. Ends the operation always.
///
/// # Safety
/// `pData` and `pSignature` are NULL or readable for `ulDataLen` and `ulSignatureLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Verify(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
    pSignature: CK_BYTE_PTR,
    ulSignatureLen: CK_ULONG,
) -> CK_RV {
    enter("C_Verify", |module| {
        // SAFETY: this function's own contract.
        let (data, signature) = unsafe {
            (
                Input::new("pData", pData, ulDataLen),
                Input::new("pSignature", pSignature, ulSignatureLen),
            )
        };
        let arguments = both(data.data(), signature.signature());
        let (session, (data, signature)) = operation(module, hSession, &[Kind::Verify], arguments)?;
        session.verify(&data, &signature)
    })
}

/// Takes a part of the data.
///
/// # Safety
/// `pPart` is NULL or readable for `ulPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyUpdate(
    hSession: CK_SESSION_HANDLE,
    pPart: CK_BYTE_PTR,
    ulPartLen: CK_ULONG,
) -> CK_RV {
    enter("C_VerifyUpdate", |module| {
        // SAFETY: this function's own contract.
        let input = unsafe { Input::new("pPart", pPart, ulPartLen) }.data();
        let (session, input) = operation(module, hSession, &[Kind::Verify], input)?;
        session.verify_update(&input)
    })
}

/// Verifies what came. Ends the operation always.
///
/// # Safety
/// `pSignature` is NULL or readable for `ulSignatureLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyFinal(
    hSession: CK_SESSION_HANDLE,
    pSignature: CK_BYTE_PTR,
    ulSignatureLen: CK_ULONG,
) -> CK_RV {
    enter("C_VerifyFinal", |module| {
        // SAFETY: this function's own contract.
        let input = unsafe { Input::new("pSignature", pSignature, ulSignatureLen) }.signature();
        let (session, input) = operation(module, hSession, &[Kind::Verify], input)?;
        session.verify_final(&input)
    })
}

/// Starts a verification that gives the data out of the signature.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyRecoverInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter("C_VerifyRecoverInit", |module| {
        let init = |session: &Session, mechanism, params: &Params| {
            session.verify_recover_init(mechanism, params, wide(hKey))
        };
        // SAFETY: this function's own contract.
        unsafe { start(module, hSession, Kind::VerifyRecover, pMechanism, init) }
    })
}

/// Gives the data out of a signature. Ends the operation unless it only tells a length.
///
/// # Safety
/// `pSignature` is NULL or readable for `ulSignatureLen` bytes; `pulDataLen` is NULL or valid;
/// `pData` is NULL or writable for `*pulDataLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyRecover(
    hSession: CK_SESSION_HANDLE,
    pSignature: CK_BYTE_PTR,
    ulSignatureLen: CK_ULONG,
    pData: CK_BYTE_PTR,
    pulDataLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_VerifyRecover", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (
                Input::new("pSignature", pSignature, ulSignatureLen).signature(),
                Output::new(pData, pulDataLen),
            )
        };
        exchange(module, hSession, &[Kind::VerifyRecover], input, output, Session::verify_recover)
    })
}

/// Starts a verification of a signature that is given before the data.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
/// `pSignature` is NULL or readable for `ulSignatureLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignatureInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
    pSignature: CK_BYTE_PTR,
    ulSignatureLen: CK_ULONG,
) -> CK_RV {
    enter("C_VerifySignatureInit", |module| {
        // SAFETY: this function's own contract.
        let signature = unsafe { Input::new("pSignature", pSignature, ulSignatureLen) }.signature();
        let signature = readable(signature)?;
        let init = |session: &Session, mechanism, params: &Params| {
            session.verify_signature_init(mechanism, params, wide(hKey), &signature?)
        };
        // SAFETY: this function's own contract.
        unsafe { start(module, hSession, Kind::Verify, pMechanism, init) }
    })
}

/// Verifies in one part. Ends the operation always.
///
/// # Safety
/// `pData` is NULL or readable for `ulDataLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignature(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
) -> CK_RV {
    enter("C_VerifySignature", |module| {
        // SAFETY: this function's own contract.
        let input = unsafe { Input::new("pData", pData, ulDataLen) }.data();
        let (session, input) = operation(module, hSession, &[Kind::Verify], input)?;
        session.verify_signature(&input)
    })
}

/// Takes a part of the data.
///
/// # Safety
/// `pPart` is NULL or readable for `ulPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignatureUpdate(
    hSession: CK_SESSION_HANDLE,
    pPart: CK_BYTE_PTR,
    ulPartLen: CK_ULONG,
) -> CK_RV {
    enter("C_VerifySignatureUpdate", |module| {
        // SAFETY: this function's own contract.
        let input = unsafe { Input::new("pPart", pPart, ulPartLen) }.data();
        let (session, input) = operation(module, hSession, &[Kind::Verify], input)?;
        session.verify_signature_update(&input)
    })
}

/// Verifies what came. Ends the operation always.
///
/// # Safety
/// None beyond being called from C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignatureFinal(hSession: CK_SESSION_HANDLE) -> CK_RV {
    enter("C_VerifySignatureFinal", |module| {
        module.session(wide(hSession))?.verify_signature_final()
    })
}
