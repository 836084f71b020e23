//! Parallel function management (PKCS#11 3.2 §5.20), which the specification itself has retired, and
//! asynchronous function management (§5.21), which it allows a token not to have: our calls return
//! when they are done.

use cryptoki_sys::*;

use super::ptr::wide;
use super::{enter, unsupported};
use crate::error::Error;

/// Always says that nothing runs in parallel.
///
/// # Safety
/// None beyond being called from C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionStatus(hSession: CK_SESSION_HANDLE) -> CK_RV {
    enter("C_GetFunctionStatus", |module| {
        module.session(wide(hSession))?;
        Err(Error::NotParallel)
    })
}

/// Always says that nothing runs in parallel; C_SessionCancel is what cancels.
///
/// # Safety
/// None beyond being called from C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CancelFunction(hSession: CK_SESSION_HANDLE) -> CK_RV {
    enter("C_CancelFunction", |module| {
        module.session(wide(hSession))?;
        Err(Error::NotParallel)
    })
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_AsyncComplete(
    _hSession: CK_SESSION_HANDLE,
    _pFunctionName: CK_UTF8CHAR_PTR,
    _pResult: CK_ASYNC_DATA_PTR,
) -> CK_RV {
    unsupported("C_AsyncComplete")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_AsyncGetID(
    _hSession: CK_SESSION_HANDLE,
    _pFunctionName: CK_UTF8CHAR_PTR,
    _pulID: CK_ULONG_PTR,
) -> CK_RV {
    unsupported("C_AsyncGetID")
}

/// Not implemented.
///
/// # Safety
/// None beyond being called from C: nothing is followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_AsyncJoin(
    _hSession: CK_SESSION_HANDLE,
    _pFunctionName: CK_UTF8CHAR_PTR,
    _ulID: CK_ULONG,
    _pData: CK_BYTE_PTR,
    _ulData: CK_ULONG,
) -> CK_RV {
    unsupported("C_AsyncJoin")
}
