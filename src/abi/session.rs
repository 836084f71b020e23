//! Session management functions: PKCS#11 3.2 §5.6.

use cryptoki_sys::*;

use super::ptr::{Input, Output, Place, wide};
use super::{both, enter, session};

/// Opens a session. The callback is never called: no token of ours surrenders its session.
///
/// # Safety
/// `phSession` is NULL or writable; `pApplication` and `Notify` are not used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_OpenSession(
    slotID: CK_SLOT_ID,
    flags: CK_FLAGS,
    _pApplication: CK_VOID_PTR,
    _Notify: CK_NOTIFY,
    phSession: CK_SESSION_HANDLE_PTR,
) -> CK_RV {
    enter("C_OpenSession", |module| {
        // SAFETY: this function's own contract.
        let place = unsafe { Place::new("phSession is NULL", phSession)? };
        place.put(module.open_session(wide(slotID), wide(flags))? as CK_SESSION_HANDLE);
        Ok(())
    })
}

/// Closes a session; its objects go, and with the last one the login.
///
/// # Safety
/// None beyond being called from C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseSession(hSession: CK_SESSION_HANDLE) -> CK_RV {
    enter("C_CloseSession", |module| module.close_session(wide(hSession)))
}

/// Closes all sessions of this process with a token.
///
/// # Safety
/// None beyond being called from C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseAllSessions(slotID: CK_SLOT_ID) -> CK_RV {
    enter("C_CloseAllSessions", |module| module.close_all_sessions(wide(slotID)))
}

/// State and flags of a session, and the last failure code of its TPM.
///
/// # Safety
/// `pInfo` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSessionInfo(
    hSession: CK_SESSION_HANDLE,
    pInfo: CK_SESSION_INFO_PTR,
) -> CK_RV {
    enter("C_GetSessionInfo", |module| {
        // SAFETY: this function's own contract.
        let place = unsafe { Place::new("pInfo is NULL", pInfo)? };
        let info = module.session(wide(hSession))?.session_info()?;
        place.put(CK_SESSION_INFO {
            slotID: info.slot as CK_SLOT_ID,
            state: info.state as CK_STATE,
            flags: info.flags as CK_FLAGS,
            ulDeviceError: info.device_error as CK_ULONG,
        });
        Ok(())
    })
}

/// Ends operations of a session, also those that another thread is just running.
///
/// # Safety
/// None beyond being called from C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SessionCancel(hSession: CK_SESSION_HANDLE, flags: CK_FLAGS) -> CK_RV {
    enter("C_SessionCancel", |module| module.session_cancel(wide(hSession), wide(flags)))
}

/// The state of the operation in progress, to be set in another session.
///
/// # Safety
/// `pulOperationStateLen` is NULL or valid; `pOperationState` is NULL or writable for that many
/// bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetOperationState(
    hSession: CK_SESSION_HANDLE,
    pOperationState: CK_BYTE_PTR,
    pulOperationStateLen: CK_ULONG_PTR,
) -> CK_RV {
    enter("C_GetOperationState", |module| {
        // SAFETY: this function's own contract.
        let output = unsafe { Output::new(pOperationState, pulOperationStateLen) };
        let room = output.room()?;
        output.put(module.session(wide(hSession))?.get_operation_state(room)?)
    })
}

/// Goes on with an operation whose state was saved.
///
/// # Safety
/// `pOperationState` is NULL or readable for `ulOperationStateLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetOperationState(
    hSession: CK_SESSION_HANDLE,
    pOperationState: CK_BYTE_PTR,
    ulOperationStateLen: CK_ULONG,
    hEncryptionKey: CK_OBJECT_HANDLE,
    hAuthenticationKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter("C_SetOperationState", |module| {
        // SAFETY: this function's own contract.
        let state =
            unsafe { Input::new("pOperationState", pOperationState, ulOperationStateLen) }.state();
        let (session, state) = session(module, hSession, state)?;
        session.set_operation_state(&state, wide(hEncryptionKey), wide(hAuthenticationKey))
    })
}

/// Logs in. A wrong PIN costs a try, which the TPM counts.
///
/// # Safety
/// `pPin` is NULL or readable for `ulPinLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Login(
    hSession: CK_SESSION_HANDLE,
    userType: CK_USER_TYPE,
    pPin: CK_UTF8CHAR_PTR,
    ulPinLen: CK_ULONG,
) -> CK_RV {
    enter("C_Login", |module| {
        // SAFETY: this function's own contract.
        let pin = unsafe { Input::new("pPin", pPin, ulPinLen) }.pin();
        let (session, pin) = session(module, hSession, pin)?;
        session.login(wide(userType), &pin)
    })
}

/// Logs in by name. Our tokens have one user, who has none.
///
/// # Safety
/// `pPin` and `pUsername` are NULL or readable for `ulPinLen` and `ulUsernameLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_LoginUser(
    hSession: CK_SESSION_HANDLE,
    userType: CK_USER_TYPE,
    pPin: CK_UTF8CHAR_PTR,
    ulPinLen: CK_ULONG,
    pUsername: CK_UTF8CHAR_PTR,
    ulUsernameLen: CK_ULONG,
) -> CK_RV {
    enter("C_LoginUser", |module| {
        // SAFETY: this function's own contract.
        let (pin, name) = unsafe {
            (Input::new("pPin", pPin, ulPinLen), Input::new("pUsername", pUsername, ulUsernameLen))
        };
        let arguments = both(pin.pin(), name.bytes());
        let (session, (pin, name)) = session(module, hSession, arguments)?;
        session.login_user(wide(userType), &pin, &name)
    })
}

/// Logs out in all sessions of this process with the token.
///
/// # Safety
/// None beyond being called from C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Logout(hSession: CK_SESSION_HANDLE) -> CK_RV {
    enter("C_Logout", |module| module.session(wide(hSession))?.logout())
}

/// Which validation the session's last operation had: none of ours is validated.
///
/// # Safety
/// `pFlags` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSessionValidationFlags(
    hSession: CK_SESSION_HANDLE,
    type_: CK_SESSION_VALIDATION_FLAGS_TYPE,
    pFlags: CK_FLAGS_PTR,
) -> CK_RV {
    enter("C_GetSessionValidationFlags", |module| {
        // SAFETY: this function's own contract.
        let place = unsafe { Place::new("pFlags is NULL", pFlags)? };
        let flags = module.session(wide(hSession))?.session_validation_flags(wide(type_))?;
        place.put(flags as CK_FLAGS);
        Ok(())
    })
}
