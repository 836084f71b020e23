//! The judge of return values: a door that every call of a worker's thread goes through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use cryptoki_sys::*;

use super::figures::{Figures, count};
use super::weather::Weather;
use crate::app::{GONE, HUNG};
use crate::ck::{Door, Rv};
use crate::door::Call;

/// A process under torture, as its threads and the adversary share it.
#[derive(Debug)]
pub struct Process {
    /// The process id.
    pub id: u32,
    /// Set before it is killed.
    pub killed: AtomicBool,
    /// Disruptions begun: C_Finalize, C_Logout.
    pub begun: AtomicU64,
    /// Disruptions over.
    pub over: AtomicU64,
    /// A child of a process: nothing may work there before C_Initialize.
    pub child: AtomicBool,
}

impl Process {
    pub fn new(id: u32) -> Arc<Process> {
        Arc::new(Process {
            id,
            killed: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            over: AtomicU64::new(0),
            child: AtomicBool::new(false),
        })
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        if let Some(id) = rustix::process::Pid::from_raw(self.id as i32) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
    }

    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// The disruptions so far, if none is going on.
    pub fn calm(&self) -> Option<u64> {
        let (begun, over) = (self.begun.load(Ordering::SeqCst), self.over.load(Ordering::SeqCst));
        (begun == over).then_some(begun)
    }
}

/// What a call may return when another thread finalised the module or logged out meanwhile.
const DISRUPTED: &[u64] = &[
    CKR_CRYPTOKI_NOT_INITIALIZED,
    CKR_SESSION_HANDLE_INVALID,
    CKR_SESSION_CLOSED,
    CKR_USER_NOT_LOGGED_IN,
    CKR_USER_ALREADY_LOGGED_IN,
    CKR_OBJECT_HANDLE_INVALID,
    CKR_KEY_HANDLE_INVALID,
    CKR_WRAPPING_KEY_HANDLE_INVALID,
    CKR_UNWRAPPING_KEY_HANDLE_INVALID,
    CKR_OPERATION_NOT_INITIALIZED,
    CKR_FUNCTION_CANCELED,
];

/// The judge of one thread.
#[derive(Debug)]
pub struct Judge {
    pub door: Arc<dyn Door>,
    pub process: Arc<Process>,
    pub figures: Arc<Figures>,
    pub weather: Arc<Weather>,
    /// The disruptions that this thread's sessions have lived through: those before they were opened.
    pub seen: AtomicU64,
    /// Who it is, for a person.
    pub name: String,
}

impl Judge {
    /// Whether its sessions were disturbed.
    pub fn is_disrupted(&self) -> bool {
        self.process.begun.load(Ordering::SeqCst) != self.seen.load(Ordering::SeqCst)
    }

    fn permits(&self, function: &str, rv: u64, began: Instant) -> bool {
        let child = self.process.child.load(Ordering::SeqCst);
        rv == CKR_OK
            // A driver shows it a wrong signature or ciphertext or a storage key that nobody trusts, or asks
            // for a secret, and says so if the answer was another.
            || (function.starts_with("C_Verify") && rv == CKR_SIGNATURE_INVALID)
            || (function == "C_Decrypt" && rv == CKR_ENCRYPTED_DATA_INVALID)
            || (function == "C_WrapKey" && rv == CKR_KEY_NOT_WRAPPABLE)
            || (function == "C_GetAttributeValue" && rv == CKR_ATTRIBUTE_SENSITIVE)
            || (child && rv == CKR_CRYPTOKI_NOT_INITIALIZED)
            || (self.is_disrupted() && DISRUPTED.contains(&rv))
            || self.weather.permits(function, rv, began)
    }
}

impl Door for Judge {
    fn call(&self, call: &mut Call) -> u64 {
        let began = Instant::now();
        let rv = self.door.call(call);
        count(&self.figures.calls);
        match rv {
            GONE if self.process.is_killed() => {}
            GONE => {
                let what = format!("{}: the process crashed in {}", self.name, call.function);
                self.figures.complain(&self.figures.crashes, what);
                self.process.killed.store(true, Ordering::SeqCst);
            }
            HUNG => {
                let (name, function) = (&self.name, &call.function);
                let what = format!("{name}: {function} hangs ({})", self.weather.lately());
                self.figures.complain(&self.figures.hangs, what);
                self.process.kill();
            }
            rv if self.permits(&call.function, rv, began) => {}
            rv => {
                let what = format!(
                    "{}: {} returned {:?} after {} ms ({})",
                    self.name,
                    call.function,
                    Rv(rv),
                    began.elapsed().as_millis(),
                    self.weather.lately()
                );
                self.figures.complain(&self.figures.codes, what);
            }
        }
        rv
    }
}
