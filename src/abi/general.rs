//! General-purpose functions: PKCS#11 3.2 §5.4. (C_GetFunctionList, C_GetInterfaceList and
//! C_GetInterface are in `interface.rs`, beside the tables that they hand out.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cryptoki_sys::*;

use super::ptr::{self, Place};
use super::{enter, leave, state};
use crate::config::{Config, ForkMode};
use crate::error::{Error, Result};
use crate::fork;
use crate::recorder::{self, Clock};
use crate::token::Module;

/// Reads the configuration and makes the slots. Fails for its arguments only: no TPM, no store or
/// a mistake in the configuration show as slots that say so.
///
/// # Safety
/// `pInitArgs` is NULL or points to a CK_C_INITIALIZE_ARGS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Initialize(pInitArgs: CK_VOID_PTR) -> CK_RV {
    // SAFETY: this function's own contract.
    let threads = unsafe { may_make_threads(pInitArgs) };
    let (clock, _during) = (Clock::start(), crate::log::during("C_Initialize"));
    let outcome = state().initialize(|forked| {
        let threads = threads?;
        if forked {
            // What the parent had open is its own: nothing of it is used or closed in here.
            crate::store::leak();
        }
        watch_forks();
        let config = Config::load(is_secure());
        let resume = |config: &Config| config.process.fork_mode == ForkMode::Resume;
        crate::crypto::secret::leave_to_children(config.as_ref().is_ok_and(resume));
        match &config {
            Ok(config) => crate::log::start(&config.log),
            // The mistake itself is logged by the module, which makes it a slot.
            Err(_) => crate::log::start(&Config::log_of_environment(is_secure())),
        }
        let stores = config.iter().flat_map(|config| &config.tpm).flat_map(|tpm| &tpm.stores);
        recorder::start(&stores.cloned().collect::<Vec<_>>(), is_secure());
        let patience = patience(config.as_ref().ok());
        Ok((Module::new(config, threads)?, patience))
    });
    leave("C_Initialize", clock, outcome)
}

/// Has fork(2) call us (`fork.rs`), from now on: this library is never unloaded (`-z nodelete`), so there
/// is something to call as long as the process lives.
fn watch_forks() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    unsafe extern "C" fn before() {
        fork::before();
    }
    unsafe extern "C" fn in_parent() {
        fork::in_parent();
    }
    unsafe extern "C" fn in_child() {
        for descriptor in fork::in_child() {
            // Not rustix's: the kernel copies descriptors before memory, so that one that another thread
            // opened in between is listed here, and not open, which rustix takes for a mistake.
            // SAFETY: it is ours or not open, no code of the host has run in this process, and what
            // owned it here is never used or dropped.
            unsafe { libc::close(descriptor) };
        }
    }
    if !WATCHED.swap(true, Ordering::AcqRel) {
        // SAFETY: the three neither panic nor wait without end, and stay where they are.
        let failed =
            unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } != 0;
        if failed {
            WATCHED.store(false, Ordering::Release);
        }
    }
}

/// Checks CK_C_INITIALIZE_ARGS; whether the library may make threads of its own.
///
/// Without arguments the application promises that one thread alone will call. We lock all the
/// same, with the operating system's own locks, and so can take an application at its word or not.
/// One that insists on its own mutexes (functions given, CKF_OS_LOCKING_OK clear) cannot be served.
///
/// # Safety
/// `arguments` is NULL or points to a CK_C_INITIALIZE_ARGS.
unsafe fn may_make_threads(arguments: CK_VOID_PTR) -> Result<bool> {
    if arguments.is_null() {
        return Ok(true);
    }
    // SAFETY: this function's own contract.
    let given: CK_C_INITIALIZE_ARGS = unsafe { ptr::read("pInitArgs", arguments.cast())? };
    if !given.pReserved.is_null() {
        return Err(Error::ArgumentsBad("pReserved is not NULL"));
    }
    let mutexes = [
        given.CreateMutex.is_some(),
        given.DestroyMutex.is_some(),
        given.LockMutex.is_some(),
        given.UnlockMutex.is_some(),
    ];
    match mutexes.iter().filter(|given| **given).count() {
        0 => {}
        4 if given.flags & CKF_OS_LOCKING_OK != 0 => {}
        4 => return Err(Error::CantLock),
        _ => return Err(Error::ArgumentsBad("some mutex functions are given and some are not")),
    }
    Ok(given.flags & CKF_LIBRARY_CANT_CREATE_OS_THREADS == 0)
}

/// Whether the process has rights that its caller has not (set-uid and the like): then the
/// environment is not to be trusted.
fn is_secure() -> bool {
    /// The entry's number in the auxiliary vector (getauxval(3)).
    const AT_SECURE: std::ffi::c_ulong = 23;
    unsafe extern "C" {
        fn getauxval(kind: std::ffi::c_ulong) -> std::ffi::c_ulong;
    }
    // SAFETY: reads a number that the kernel gave at the start; always allowed.
    unsafe { getauxval(AT_SECURE) != 0 }
}

/// How long C_Finalize waits for calls that are still inside: until the last of them is past its
/// own deadline. (They are told to end at once; only one that hangs in the kernel takes longer.)
pub(super) fn patience(config: Option<&Config>) -> Duration {
    let longest = config
        .into_iter()
        .flat_map(|config| &config.tpm)
        .map(|tpm| tpm.call_timeout.max(tpm.keygen_timeout))
        .max();
    longest.unwrap_or_default().saturating_add(Duration::from_secs(5))
}

/// Ends everything: calls inside are cancelled and waited for, then sessions, logins and the TPM's
/// connections go.
///
/// # Safety
/// None beyond being called from C: `pReserved` is not followed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Finalize(pReserved: CK_VOID_PTR) -> CK_RV {
    let (clock, _during) = (Clock::start(), crate::log::during("C_Finalize"));
    let outcome = if state().is_initialized() && !pReserved.is_null() {
        Err(Error::ArgumentsBad("pReserved is not NULL"))
    } else {
        state().finalize()
    };
    let ended = outcome.is_ok();
    let rv = leave("C_Finalize", clock, outcome);
    if ended {
        recorder::finish();
        crate::log::stop();
    }
    rv
}

/// What this library is.
///
/// # Safety
/// `pInfo` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInfo(pInfo: CK_INFO_PTR) -> CK_RV {
    enter("C_GetInfo", |_| {
        // SAFETY: this function's own contract.
        let info = unsafe { Place::new("pInfo is NULL", pInfo)? };
        info.put(CK_INFO {
            cryptokiVersion: CK_VERSION { major: 3, minor: 2 },
            manufacturerID: padded("tpm11 project"),
            flags: 0,
            libraryDescription: padded("PKCS#11 for the TPM 2.0"),
            libraryVersion: LIBRARY_VERSION,
        });
        Ok(())
    })
}

/// Our own version, of which PKCS#11 can say two numbers.
const LIBRARY_VERSION: CK_VERSION = CK_VERSION {
    major: number(env!("CARGO_PKG_VERSION_MAJOR")),
    minor: number(env!("CARGO_PKG_VERSION_MINOR")),
};

/// A decimal number, at compile time: one that does not fit stops the build.
const fn number(text: &str) -> u8 {
    let mut rest = text.as_bytes();
    let mut value = 0;
    while let [digit, others @ ..] = rest {
        value = value * 10 + (*digit - b'0');
        rest = others;
    }
    value
}

/// Text as a blank-padded field. PKCS#11 3.2 §3.1.
pub(super) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    field.iter_mut().zip(text.bytes()).for_each(|(place, byte)| *place = byte);
    field
}
