//! Faults: which command meets what.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Changes a response, knowing its command.
pub type Change = Arc<dyn Fn(&[u8], &mut Vec<u8>) + Send + Sync>;

/// What happens to a command.
#[derive(Clone)]
pub enum Action {
    /// The TPM never sees it; the client gets this response code.
    Answer(u32),
    /// The TPM executes it; the client gets this response code all the same.
    AnswerAfter(u32),
    /// It is late by so much.
    Delay(Duration),
    /// A byte of the response is changed: `at` from the front, or from the end if negative.
    Garble {
        /// Index; -1 is the last byte.
        at: isize,
        /// The bits that change.
        xor: u8,
    },
    /// The connection is cut and the TPM never sees the command.
    DropBefore,
    /// The connection is cut when so many bytes of the command were read; the rest is not.
    DropCommand(usize),
    /// The TPM executes it, and the connection is cut before the response.
    DropAfter,
    /// The TPM executes it, and the connection is cut after so many bytes of the response.
    DropInside(usize),
    /// Nobody ever answers.
    Silence,
    /// The response is whatever this makes of it.
    Rewrite(Change),
    /// It is held until the test has done something and says what happens to it.
    Hold(Hold),
}

/// A command that is held on its way to the TPM.
#[derive(Clone, Default)]
pub struct Hold(Arc<(Mutex<Held>, Condvar)>);

#[derive(Default)]
struct Held {
    is_here: bool,
    then: Option<Option<Action>>,
}

impl Hold {
    /// Nothing is held yet.
    pub fn new() -> Hold {
        Hold::default()
    }

    /// Waits until a command is here, at most for `patience`; whether one is.
    pub fn wait(&self, patience: Duration) -> bool {
        let (held, change) = &*self.0;
        let until = Instant::now() + patience;
        let mut held = held.lock().expect("nobody panics here");
        while !held.is_here {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            held = change.wait_timeout(held, left).expect("nobody panics here").0;
        }
        true
    }

    /// Lets it go: to the TPM, or into this.
    pub fn release(&self, action: Option<Action>) {
        let (held, change) = &*self.0;
        held.lock().expect("nobody panics here").then = Some(action);
        change.notify_all();
    }

    /// The shim's side. `stop` is looked at from time to time.
    pub(super) fn hold(&self, stop: impl Fn() -> bool) -> Option<Action> {
        let (held, change) = &*self.0;
        let mut held = held.lock().expect("nobody panics here");
        held.is_here = true;
        change.notify_all();
        loop {
            match &held.then {
                Some(action) => return action.clone(),
                None if stop() => return Some(Action::DropBefore),
                None => {}
            }
            let turn = Duration::from_millis(10);
            held = change.wait_timeout(held, turn).expect("nobody panics here").0;
        }
    }
}

impl std::fmt::Debug for Action {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Action::Answer(code) => write!(out, "answer {code:#x}"),
            Action::AnswerAfter(code) => write!(out, "execute and answer {code:#x}"),
            Action::Delay(pause) => write!(out, "delay {pause:?}"),
            Action::Garble { at, xor } => write!(out, "change byte {at} by {xor:#x}"),
            Action::DropBefore => out.write_str("cut before"),
            Action::DropCommand(bytes) => write!(out, "cut after {bytes} bytes of the command"),
            Action::DropAfter => out.write_str("cut after"),
            Action::DropInside(bytes) => write!(out, "cut after {bytes} bytes"),
            Action::Silence => out.write_str("silence"),
            Action::Rewrite(_) => out.write_str("rewrite"),
            Action::Hold(_) => out.write_str("hold"),
        }
    }
}

/// A fault: the commands it waits for, and what happens to them.
#[derive(Debug, Clone)]
pub struct Fault {
    code: Option<u32>,
    skip: usize,
    times: usize,
    action: Action,
}

impl Fault {
    /// Meets the next command of this kind, once.
    pub fn at(code: u32, action: Action) -> Fault {
        Fault { code: Some(code), skip: 0, times: 1, action }
    }

    /// Meets the next command of any kind, once.
    pub fn at_any(action: Action) -> Fault {
        Fault { code: None, skip: 0, times: 1, action }
    }

    /// Lets so many matching commands pass first.
    pub fn after(mut self, skip: usize) -> Fault {
        self.skip = skip;
        self
    }

    /// Meets so many in a row.
    pub fn times(mut self, times: usize) -> Fault {
        self.times = times;
        self
    }

    /// Meets all from then on.
    pub fn always(self) -> Fault {
        self.times(usize::MAX)
    }
}

/// A fault at work.
#[derive(Debug)]
pub struct Injected {
    fault: Fault,
    /// How many commands it met.
    pub met: usize,
}

impl Injected {
    pub(super) fn new(fault: Fault) -> Injected {
        Injected { fault, met: 0 }
    }
}

/// The action for a command, if one of the faults meets it.
pub(super) fn meet(faults: &mut [Injected], code: u32) -> Option<Action> {
    for injected in faults {
        let fault = &mut injected.fault;
        if fault.code.is_some_and(|wanted| wanted != code) || injected.met >= fault.times {
            continue;
        }
        if fault.skip > 0 {
            fault.skip -= 1;
            continue;
        }
        injected.met += 1;
        return Some(fault.action.clone());
    }
    None
}
