//! Message digesting functions: PKCS#11 3.2 §5.12. In the host, without login.

use cryptoki_sys::*;

use super::ptr::{Input, Output, wide};
use super::{enter, exchange, operation, start};
use crate::mechanism::Params;
use crate::token::{Kind, Session};

/// Starts a digest; a NULL mechanism ends the one in progress.
///
/// # Safety
/// `pMechanism` is NULL or points to a mechanism with a readable parameter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
) -> CK_RV {
    enter("C_DigestInit", |module| {
        let init =
            |session: &Session, mechanism, params: &Params| session.digest_init(mechanism, params);
        // SAFETY: this function's own contract.
        unsafe { start(module, hSession, Kind::Digest, pMechanism, init) }
    })
}

/// Digests in one part. Ends the operation unless it only tells a length.
///
/// # Safety
/// `pData` is NULL or readable for `ulDataLen` bytes; `pulDigestLen` is NULL or valid;
/// `pDigest` is NULL or writable for `*pulDigestLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Digest(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
    pDigest: CK_BYTE_PTR,
    pulDigestLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_Digest", |module| {
        // SAFETY: this function's own contract.
        let (input, output) = unsafe {
            (Input::new("pData", pData, ulDataLen).bytes(), Output::new(pDigest, pulDigestLen))
        };
        exchange(module, hSession, &[Kind::Digest], input, output, Session::digest)
    })
}

/// Digests a part.
///
/// # Safety
/// `pPart` is NULL or readable for `ulPartLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestUpdate(
    hSession: CK_SESSION_HANDLE,
    pPart: CK_BYTE_PTR,
    ulPartLen: CK_ULONG,
) -> CK_RV {
    enter("C_DigestUpdate", |module| {
        // SAFETY: this function's own contract.
        let input = unsafe { Input::new("pPart", pPart, ulPartLen) }.bytes();
        let (session, input) = operation(module, hSession, &[Kind::Digest], input)?;
        session.digest_update(&input)
    })
}

/// Digests the value of a secret key.
///
/// # Safety
/// None beyond being called from C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestKey(hSession: CK_SESSION_HANDLE, hKey: CK_OBJECT_HANDLE) -> CK_RV {
    enter("C_DigestKey", |module| module.session(wide(hSession))?.digest_key(wide(hKey)))
}

/// Gives the digest. Ends the operation unless it only tells a length.
///
/// # Safety
/// `pulDigestLen` is NULL or valid; `pDigest` is NULL or writable for
/// `*pulDigestLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestFinal(
    hSession: CK_SESSION_HANDLE,
    pDigest: CK_BYTE_PTR,
    pulDigestLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_DigestFinal", |module| {
        // SAFETY: this function's own contract.
        let output = unsafe { Output::new(pDigest, pulDigestLen) };
        let (session, room) = operation(module, hSession, &[Kind::Digest], output.room())?;
        output.put(session.digest_final(room)?)
    })
}
