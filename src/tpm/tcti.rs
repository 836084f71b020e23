//! The TCTI loader of tpm2-tss, for every conf string that is not ours (tabrmd and others). The
//! one file of this room with `unsafe`. TCG TSS 2.0 TPM Command Transmission Interface (TCTI) API
//! Specification §3.2, §3.5.
//!
//! What the loaded library does with descriptors, signals and stderr is its own affair; that is why
//! the device, swtpm and mssim have transports of ours.
//!
//! Here, too, for the same reason: `without_signals`.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use tss_esapi::tss2_esys as sys;

use super::transport::{Broken, BrokenKind, LARGEST, SLICE, Transport};
use super::{Call, Fault};
use crate::sync::plain::Instant;

/// TSS2_TCTI_RC_*, the layer's number included.
const NOT_IMPLEMENTED: u32 = 0xA_0002;
const TRY_AGAIN: u32 = 0xA_0009;
const BAD_VALUE: u32 = 0xA_000B;
const NOT_PERMITTED: u32 = 0xA_000C;
const NOT_SUPPORTED: u32 = 0xA_0015;
/// The part of a return code that says what happened, without the layer.
const REASON: u32 = 0xFFFF;

/// A TCTI that the loader opened, with the three functions we use.
struct Loaded {
    context: NonNull<sys::TSS2_TCTI_CONTEXT>,
    transmit: unsafe extern "C" fn(*mut sys::TSS2_TCTI_CONTEXT, sys::size_t, *const u8) -> u32,
    receive:
        unsafe extern "C" fn(*mut sys::TSS2_TCTI_CONTEXT, *mut sys::size_t, *mut u8, i32) -> u32,
    cancel: Option<unsafe extern "C" fn(*mut sys::TSS2_TCTI_CONTEXT) -> u32>,
    name: String,
}

// SAFETY: a TCTI context has no thread affinity (TCTI specification §3.1: the caller serialises
// calls); `Loaded` is its only owner and is used through `&mut`.
unsafe impl Send for Loaded {}

/// Opens `tcti` through the loader.
pub(super) fn open(tcti: &str) -> Result<Box<dyn Transport>, Broken> {
    let settings = |why: &str| Broken::unsent(BrokenKind::Settings, format!("\"{tcti}\": {why}"));
    let conf = CString::new(tcti).map_err(|_| settings("contains a NUL"))?;
    if !is_installed(tcti.split(':').next().unwrap_or(tcti)) {
        return Err(settings("no TCTI library of this name can be loaded"));
    }
    let mut context = null_mut();
    // SAFETY: `conf` is NUL-terminated and lives through the call; `context` is a valid place.
    let code = unsafe { sys::Tss2_TctiLdr_Initialize(conf.as_ptr(), &mut context) };
    let context = match NonNull::new(context) {
        Some(context) if code == 0 => context,
        _ => {
            let kind = match code {
                NOT_PERMITTED => BrokenKind::Denied,
                // Also: no library of this name is installed.
                _ if [BAD_VALUE, NOT_SUPPORTED]
                    .iter()
                    .any(|known| code & REASON == known & REASON) =>
                {
                    BrokenKind::Settings
                }
                _ => BrokenKind::Absent,
            };
            let what = format!("\"{tcti}\": the TCTI loader answers {code:#x}");
            return Err(Broken::unsent(kind, what));
        }
    };
    // SAFETY: every TCTI context begins with the common part of version 1 (TCTI specification §3.2.1),
    // and the loader hands out initialised contexts only.
    let common = unsafe { context.cast::<sys::TSS2_TCTI_CONTEXT_COMMON_V1>().as_ref() };
    match (common.transmit, common.receive) {
        (Some(transmit), Some(receive)) => {
            // tpm2-abrmd cannot cancel, and its client library says so on standard error.
            let cancel = common.cancel.filter(|_| !tcti.contains("tabrmd"));
            Ok(Box::new(Loaded { context, transmit, receive, cancel, name: tcti.to_owned() }))
        }
        _ => {
            let mut context = context.as_ptr();
            // SAFETY: opened above and used by nobody else.
            unsafe { sys::Tss2_TctiLdr_Finalize(&mut context) };
            Err(settings("the TCTI has no transmit or receive"))
        }
    }
}

/// Whether the loader will find a library for this name. It prints to standard error if it does not, which
/// is not ours to write to; so it is not asked then.
fn is_installed(name: &str) -> bool {
    // What the loader makes of a name, in its order.
    let files =
        [("", ""), ("libtss2-tcti-", ".so.0"), ("libtss2-tcti-", ".so"), ("libtss2-", ".so.0")];
    files.iter().any(|(before, after)| {
        let Ok(file) = CString::new(format!("{before}{name}{after}")) else { return false };
        // SAFETY: `file` is NUL-terminated; what a library does when it is loaded is what it would do for
        // the loader.
        let handle = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return false;
        }
        // SAFETY: from the dlopen above, and not used.
        unsafe { libc::dlclose(handle) };
        true
    })
}

impl Loaded {
    fn closed(&self, code: u32) -> Broken {
        let what = format!("\"{}\": the TCTI answers {code:#x}", self.name);
        Broken { kind: BrokenKind::Closed, sent: true, what }
    }

    fn give_up(&mut self, broken: Broken) -> Broken {
        if let Some(cancel) = self.cancel {
            // SAFETY: the context is open; cancel may be called while a response is outstanding.
            let _ = unsafe { cancel(self.context.as_ptr()) };
        }
        broken
    }
}

impl Transport for Loaded {
    fn transmit(&mut self, command: &[u8], call: &Call, limit: Duration) -> Result<Vec<u8>, Fault> {
        let until = (Instant::now() + limit).min(call.deadline);
        // SAFETY: the context is open, and `command` is readable for its length.
        let code = unsafe {
            (self.transmit)(self.context.as_ptr(), command.len() as sys::size_t, command.as_ptr())
        };
        if code != 0 {
            return Err(self.closed(code).into());
        }
        let mut response = vec![0; LARGEST];
        let mut timeout = i32::try_from(SLICE.as_millis()).unwrap_or(50);
        loop {
            let mut size = response.len() as sys::size_t;
            // SAFETY: the context is open, and `response` is writable for `size` bytes.
            let code = unsafe {
                (self.receive)(self.context.as_ptr(), &mut size, response.as_mut_ptr(), timeout)
            };
            match code {
                0 => {
                    response.truncate(size as usize);
                    return Ok(response);
                }
                TRY_AGAIN => {}
                // A TCTI that can only block.
                NOT_IMPLEMENTED | BAD_VALUE if timeout != sys::TSS2_TCTI_TIMEOUT_BLOCK => {
                    timeout = sys::TSS2_TCTI_TIMEOUT_BLOCK;
                }
                _ => return Err(self.closed(code).into()),
            }
            if call.is_canceled() {
                return Err(self.give_up(Broken::canceled(true)).into());
            }
            if Instant::now() >= until {
                let what = format!("\"{}\": no answer in time", self.name);
                let late = Broken { kind: BrokenKind::Late, sent: true, what };
                return Err(self.give_up(late).into());
            }
        }
    }

    fn leak(self: Box<Self>) {
        let _ = ManuallyDrop::new(self);
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let mut context = self.context.as_ptr();
        // SAFETY: opened by the loader in `open`, finalized only here.
        unsafe { sys::Tss2_TctiLdr_Finalize(&mut context) };
    }
}

/// Runs `spawn` with all signals blocked, so that a thread made in it never runs a signal handler of
/// the application's.
pub(super) fn without_signals<T>(spawn: impl FnOnce() -> T) -> T {
    // SAFETY: sigset_t is plain data, and both calls only write to the places given.
    let before = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        let code = libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        (code == 0).then_some(before)
    };
    let outcome = spawn();
    if let Some(before) = before {
        // SAFETY: `before` is the mask that the call above gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::super::testing::Swtpm;
    use super::*;

    #[test]
    fn the_loader_opens_what_we_have_no_transport_for() {
        // `cmd` runs a program that carries the bytes.
        let swtpm = Swtpm::start();
        let program = "import socket,sys,os,threading\n\
            s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n\
            def back():\n\
            \u{20}while True:\n\
            \u{20}\u{20}data=s.recv(4096)\n\
            \u{20}\u{20}if not data: os._exit(0)\n\
            \u{20}\u{20}os.write(1,data)\n\
            threading.Thread(target=back,daemon=True).start()\n\
            while True:\n\
            \u{20}data=os.read(0,4096)\n\
            \u{20}if not data: break\n\
            \u{20}s.sendall(data)\n";
        let script = swtpm.path("carry.py");
        std::fs::write(&script, program).unwrap();
        let tcti = format!("cmd:python3 {} {}", script.display(), swtpm.path("swtpm").display());
        let mut line = open(&tcti).unwrap();
        let call = Call::within(Duration::from_secs(10));
        let random = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 8];
        for _ in 0..2 {
            let answer = line.transmit(&random, &call, Duration::from_secs(5)).unwrap();
            assert_eq!(answer.get(..10), Some(&[0x80, 1, 0, 0, 0, 20, 0, 0, 0, 0][..]));
        }
    }

    #[test]
    fn what_the_loader_does_not_know_is_an_error() {
        assert!(open("no-such-tcti:x").is_err());
        assert_eq!(open("a\0b").err().unwrap().kind, BrokenKind::Settings);
    }

    #[test]
    fn a_thread_made_without_signals_has_all_of_them_blocked() {
        fn read() -> u64 {
            let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = text.lines().find(|line| line.starts_with("SigBlk:")).unwrap();
            u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
        }
        let before = read();
        let inside = without_signals(|| std::thread::spawn(read)).join().unwrap();
        // All but SIGKILL, SIGSTOP and the two that the C library keeps for itself.
        assert_eq!(inside | 1 << 8 | 1 << 18 | 1 << 31 | 1 << 32, u64::MAX, "{inside:x}");
        assert_eq!(read(), before);
    }
}
