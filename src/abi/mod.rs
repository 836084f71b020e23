//! Floor 6: the C door. `CK_` pointers in, `CK_RV` out.
//!
//! Every exported function is an ordinary Rust function: its contract, its pointers made into the
//! values of `ptr.rs`, and one call into floor 5 inside `enter`, the guard that all of them
//! share. The files are the chapters of the specification's "Functions" (PKCS#11 3.2 §5), the
//! functions in its order and with its names.
//!
//! The module's state hangs on one atomic pointer. A forked child finds that the state belongs to
//! another process and hangs up one of its own; the parent's (its locks, its connections, its
//! secrets) is neither used nor dropped there: a lock that another thread held at the fork would
//! never be free, and closing the parent's database would roll back its transactions. Where the child is
//! to go on, its first call makes it a module of the parent's (`Module::take_over`); C_Initialize as the
//! first call begins anew there, too, as the specification wants it of a child.

#![allow(unsafe_code)]
#![allow(non_snake_case)] // parameters are called as the specification calls them
#![allow(clippy::too_many_arguments)] // and are as many

mod decrypt;
mod digest;
mod dual;
mod encrypt;
mod general;
mod interface;
mod key;
mod legacy;
mod message;
mod object;
mod params;
mod ptr;
mod random;
mod rv;
#[cfg(all(test, feature = "schedules"))]
mod schedules;
mod session;
mod sign;
mod slot;
mod verify;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use cryptoki_sys::{CK_MECHANISM, CK_RV, CK_SESSION_HANDLE};

use crate::config::{Config, ForkMode};
use crate::crypto::secret::Wiped;
use crate::error::{Error, Result};
use crate::fork;
use crate::mechanism::Params;
use crate::recorder::{self, Clock};
use crate::sync::plain::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use crate::sync::plain::{Condvar, Instant, Mutex, MutexGuard, PoisonError, thread_local};
use crate::token::{Answer, Kind, Module, Room, Session};
use ptr::{Output, wide};

/// The state of this process, or of the process that it was forked from. Never freed: one per
/// process that used the module.
static STATE: AtomicPtr<State> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    /// The state that a call of this thread is inside of. Const-initialised and without Drop, so
    /// that it works in exit handlers and needs no code at unloading.
    static INSIDE: Cell<*const State> = const { Cell::new(std::ptr::null()) };
}

/// What one process knows of the module.
struct State {
    /// The process that this state belongs to.
    process: u64,
    /// Whether the process is a fork of one that had used the module.
    forked: bool,
    stage: Mutex<Stage>,
    /// Told when a stage ends and when the last call leaves.
    changed: Condvar,
    /// A panic stopped at the door: locks and data may be half-updated.
    poisoned: AtomicBool,
    /// The module, for children that are to go on with it; null if there is none, or they begin anew.
    /// Read where no lock can be: in a child.
    heritage: AtomicPtr<Module>,
}

/// Between C_Initialize and C_Finalize.
#[derive(Default)]
enum Stage {
    /// Not initialised.
    #[default]
    Out,
    /// Forked, and nothing was called yet: the parent's module.
    Left(&'static Module),
    /// A thread is inside C_Initialize.
    Coming,
    /// Initialised.
    In(Run),
    /// A thread is inside C_Finalize and waits for the calls that are still running.
    Going,
}

/// What one C_Initialize made.
struct Run {
    module: Arc<Module>,
    /// How many calls are inside. Changed under the stage's lock.
    guests: Arc<AtomicUsize>,
    /// How long C_Finalize waits for them.
    patience: Duration,
}

/// The state of this process; after a fork a new one.
fn state() -> &'static State {
    let process = fork::process();
    let mut found = STATE.load(Ordering::Acquire);
    loop {
        // SAFETY: what hangs on the pointer came from `Box::into_raw` below and is never freed.
        if let Some(state) = unsafe { found.as_ref() } {
            if state.process == process {
                return state;
            }
        }
        // SAFETY: as above.
        let parent = unsafe { found.as_ref() };
        let heritage =
            parent.map_or(std::ptr::null_mut(), |of| of.heritage.load(Ordering::Acquire));
        // SAFETY: the pointer was there at the fork, so the module was; and nothing in this process
        // drops what its parent had.
        let left = unsafe { heritage.as_ref() };
        let new = Box::into_raw(Box::new(State {
            process,
            forked: parent.is_some(),
            stage: Mutex::new(left.map_or(Stage::Out, Stage::Left)),
            changed: Condvar::new(),
            poisoned: AtomicBool::new(false),
            heritage: AtomicPtr::new(heritage),
        }));
        match STATE.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: never freed from here on.
            Ok(_) => return unsafe { &*new },
            Err(other) => {
                // SAFETY: made above, and no other thread has seen it.
                drop(unsafe { Box::from_raw(new) });
                found = other;
            }
        }
    }
}

/// Marks the thread as inside; taken back when dropped.
struct Mark;

impl Mark {
    /// `None` if the thread is inside a call already: a signal handler, a library that the TPM's
    /// transport loaded, or a callback calls us again.
    fn set(state: &'static State) -> Option<Self> {
        INSIDE.with(|inside| {
            if std::ptr::eq(inside.get(), state) {
                return None;
            }
            inside.set(state);
            Some(Self)
        })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(std::ptr::null()));
    }
}

/// A call inside: keeps the module from being freed by C_Finalize.
struct Visit {
    state: &'static State,
    /// `None` only while being dropped.
    module: Option<Arc<Module>>,
    guests: Arc<AtomicUsize>,
    _mark: Mark,
}

impl Drop for Visit {
    fn drop(&mut self) {
        // First the module, then the count: so that C_Finalize frees it.
        self.module = None;
        let stage = self.state.stage();
        self.guests.fetch_sub(1, Ordering::Relaxed);
        if matches!(*stage, Stage::Going) {
            self.state.changed.notify_all();
        }
    }
}

impl State {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_initialized(&self) -> bool {
        matches!(*self.stage(), Stage::In(_) | Stage::Left(_))
    }

    /// What a module is between C_Initialize and C_Finalize; its children may find it from now on.
    fn run_of(&self, module: Arc<Module>, patience: Duration) -> Run {
        let resume = |config: &Config| config.process.fork_mode == ForkMode::Resume;
        if module.config().is_some_and(resume) {
            self.heritage.store(Arc::as_ptr(&module).cast_mut(), Ordering::Release);
        }
        Run { module, guests: Arc::default(), patience }
    }

    /// Children find nothing any more.
    fn leave_nothing(&self) {
        self.heritage.store(std::ptr::null_mut(), Ordering::Release);
    }

    /// Counts a call in.
    fn arrive(&'static self) -> Result<Visit> {
        let mut stage = self.stage();
        if let Stage::Left(parents) = *stage {
            self.leave_nothing();
            *stage = match caught(|| parents.take_over()) {
                Ok(module) => {
                    let patience = general::patience(module.config());
                    Stage::In(self.run_of(module, patience))
                }
                Err(error) => {
                    log::error!("forked: cannot go on in this process: {error}");
                    Stage::Out
                }
            };
        }
        let Stage::In(run) = &*stage else { return Err(Error::NotInitialized) };
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(Error::Bug(
                "an earlier call panicked; only C_Finalize and C_Initialize help",
            ));
        }
        let mark = Mark::set(self).ok_or_else(|| {
            Error::FunctionFailed("called from inside another call of the same thread".into())
        })?;
        run.guests.fetch_add(1, Ordering::Relaxed);
        let (module, guests) = (Some(run.module.clone()), run.guests.clone());
        Ok(Visit { state: self, module, guests, _mark: mark })
    }

    /// Runs `body` as a call. A panic inside poisons the module.
    fn run(&'static self, body: impl FnOnce(&Module) -> Result<()>) -> Result<()> {
        let visit = self.arrive()?;
        let Some(module) = &visit.module else { return Err(Error::NotInitialized) };
        let body = || {
            #[cfg(test)]
            tests::panic_if_told();
            let _waits = module.stops_with_us();
            body(module)
        };
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
            self.poisoned.store(true, Ordering::Relaxed);
            self.leave_nothing();
            Err(Error::Bug("a panic stopped at the door"))
        })
    }

    /// C_Initialize: makes the module with `build`, once. `build` also says for how long
    /// C_Finalize may have to wait for calls that are still running.
    fn initialize(
        &'static self,
        build: impl FnOnce(bool) -> Result<(Arc<Module>, Duration)>,
    ) -> Result<()> {
        let Some(_mark) = Mark::set(self) else { return Err(Error::AlreadyInitialized) };
        {
            let mut stage = self.stage();
            // Another thread's C_Initialize may still fail, another's C_Finalize will end.
            while matches!(*stage, Stage::Coming | Stage::Going) {
                stage = self.changed.wait(stage).unwrap_or_else(PoisonError::into_inner);
            }
            if matches!(*stage, Stage::In(_)) {
                return Err(Error::AlreadyInitialized);
            }
            *stage = Stage::Coming;
            self.leave_nothing();
        }
        let built = caught(|| build(self.forked));
        self.poisoned.store(false, Ordering::Relaxed);
        let (next, outcome) = match built {
            Ok((module, patience)) => (Stage::In(self.run_of(module, patience)), Ok(())),
            Err(error) => (Stage::Out, Err(error)),
        };
        *self.stage() = next;
        self.changed.notify_all();
        outcome
    }

    /// C_Finalize: no call comes in any more, those inside are told to end and waited for, then
    /// the module is freed.
    fn finalize(&'static self) -> Result<()> {
        let Some(_mark) = Mark::set(self) else {
            return Err(Error::FunctionFailed(
                "called from inside another call of the same thread".into(),
            ));
        };
        let Run { module, guests, patience } = {
            let mut stage = self.stage();
            match std::mem::replace(&mut *stage, Stage::Going) {
                Stage::In(run) => run,
                Stage::Left(_) => {
                    // The parent's module is its own to end.
                    *stage = Stage::Out;
                    self.leave_nothing();
                    return Ok(());
                }
                other => {
                    *stage = other;
                    return Err(Error::NotInitialized);
                }
            }
        };
        self.leave_nothing();
        // A panic in here must not keep the next C_Initialize out; what it leaves is leaked.
        let outcome = caught(|| {
            module.finalize();
            Ok(())
        });
        let deadline = Instant::now() + patience;
        let mut stage = self.stage();
        while guests.load(Ordering::Relaxed) > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break; // the last call inside frees the module
            }
            stage =
                self.changed.wait_timeout(stage, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(stage);
        let poisoned = self.poisoned.swap(false, Ordering::Relaxed);
        if poisoned || outcome.is_err() {
            module.leak();
        } else {
            let outcome = caught(|| {
                drop(module);
                Ok(())
            });
            if let Err(error) = outcome {
                log::error!("{error}");
            }
        }
        *self.stage() = Stage::Out;
        self.changed.notify_all();
        outcome
    }
}

/// Runs `body` and makes a panic an error.
fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let body = || {
        #[cfg(test)]
        tests::panic_if_told();
        body()
    };
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Error::Bug("a panic stopped at the door")))
}

/// The way in for every exported function that needs C_Initialize: finds the module, runs `body`,
/// stops a panic, logs, and turns the outcome into the function's return value.
fn enter(function: &'static str, body: impl FnOnce(&Module) -> Result<()>) -> CK_RV {
    let (clock, _during) = (Clock::start(), crate::log::during(function));
    leave(function, clock, state().run(body))
}

/// The way in for the few functions that work without C_Initialize.
fn enter_early(function: &'static str, body: impl FnOnce() -> Result<()>) -> CK_RV {
    let (clock, _during) = (Clock::start(), crate::log::during(function));
    leave(function, clock, caught(body))
}

/// Says at once that memory cannot be read. What is wrong with what was read comes later: a session
/// handle that is none goes before it (PKCS#11 3.2 §5.1.7).
fn readable<T>(arguments: Result<T>) -> Result<Result<T>> {
    match arguments {
        Err(error @ (Error::ArgumentsBad(_) | Error::HostMemory)) => Err(error),
        other => Ok(other),
    }
}

/// Two arguments: of what is wrong with both, memory that cannot be read goes first.
fn both<A, B>(one: Result<A>, other: Result<B>) -> Result<(A, B)> {
    let other = readable(other)?;
    Ok((one?, other?))
}

/// The session and the arguments of a call, which were read before.
fn session<T>(
    module: &Module,
    handle: CK_SESSION_HANDLE,
    arguments: Result<T>,
) -> Result<(Arc<Session>, T)> {
    let arguments = readable(arguments)?;
    let session = module.session(wide(handle))?;
    Ok((session, arguments?))
}

/// The same for a call that ends operations when it fails: bad arguments end them, too.
fn operation<T>(
    module: &Module,
    handle: CK_SESSION_HANDLE,
    kinds: &[Kind],
    arguments: Result<T>,
) -> Result<(Arc<Session>, T)> {
    if arguments.is_err() {
        if let Ok(session) = module.session(wide(handle)) {
            kinds.iter().for_each(|kind| session.end(*kind));
        }
    }
    session(module, handle, arguments)
}

/// The body of all functions that hand input to operations and take an answer of variable length.
/// The input was copied before.
fn exchange(
    module: &Module,
    handle: CK_SESSION_HANDLE,
    kinds: &[Kind],
    input: Result<Wiped>,
    output: Output,
    step: impl FnOnce(&Session, &[u8], Room) -> Result<Answer>,
) -> Result<()> {
    let arguments = both(input, output.room());
    let (session, (input, room)) = operation(module, handle, kinds, arguments)?;
    output.put(step(&session, &input, room)?)
}

/// The body of all C_XxxInit with a mechanism: copies it and starts the operation, or, if the
/// mechanism is NULL, ends the one in progress (PKCS#11 3.2 §5.8.1 and the like).
///
/// # Safety
/// As [`params::mechanism`].
unsafe fn start(
    module: &Module,
    handle: CK_SESSION_HANDLE,
    kind: Kind,
    mechanism: *const CK_MECHANISM,
    init: impl FnOnce(&Session, u64, &Params) -> Result<()>,
) -> Result<()> {
    if mechanism.is_null() {
        module.session(wide(handle))?.end(kind);
        return Ok(());
    }
    // SAFETY: this function's own contract.
    let mechanism = unsafe { params::mechanism(mechanism)? };
    init(&*module.session(wide(handle))?, mechanism.id, &mechanism.params)
}

/// The body of all functions without an implementation: they check C_Initialize and say so.
fn unsupported(function: &'static str) -> CK_RV {
    enter(function, |_| Err(Error::NotSupported("this version has no such function")))
}

/// One line of log per call that failed, its entry in the flight record, and its return value.
fn leave(function: &'static str, clock: Clock, outcome: Result<()>) -> CK_RV {
    match outcome {
        Ok(()) => {
            log::trace!("done");
            clock.call(function, wide(rv::OK));
            rv::OK
        }
        Err(error) => {
            let rv = rv::of(&error);
            clock.call(function, wide(rv));
            if rv::level(&error) <= log::Level::Warn {
                recorder::failed();
            }
            log::log!(rv::level(&error), "{error} ({rv:#x})");
            rv
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    use crate::config::ConfigError;

    fn outside() -> &'static State {
        Box::leak(Box::new(State {
            process: fork::process(),
            forked: false,
            stage: Mutex::default(),
            changed: Condvar::new(),
            poisoned: AtomicBool::new(false),
            heritage: AtomicPtr::new(std::ptr::null_mut()),
        }))
    }

    /// A module without slots that could do anything.
    fn module() -> Result<(Arc<Module>, Duration)> {
        let error = ConfigError { place: "test".into(), line: None, what: "none".into() };
        Ok((Module::new(Err(error), false)?, Duration::from_secs(5)))
    }

    fn inside() -> &'static State {
        let state = outside();
        state.initialize(|_| module()).unwrap();
        state
    }

    std::thread_local! {
        /// This thread's next body of a call panics.
        static PANIC: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    pub(super) fn panic_if_told() {
        if PANIC.with(|told| told.replace(false)) {
            panic!("on purpose");
        }
    }

    /// Through the doors that C uses, all of them.
    #[test]
    fn a_panic_in_any_function_is_its_return_value_and_the_next_life_is_whole() {
        use cryptoki_sys::{CK_FUNCTION_LIST_3_2, CKR_GENERAL_ERROR, CKR_OK};
        type Any = unsafe extern "C" fn(
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
        ) -> CK_RV;
        let mut found = std::ptr::null_mut();
        let (null, none) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: NULL is allowed, and the last place is writable.
        assert_eq!(unsafe { interface::C_GetInterface(null, none, &mut found, 0) }, CKR_OK);
        // SAFETY: the newest interface is a table of this version: a version and functions alone.
        let functions = unsafe {
            let table = (*found).pFunctionList.cast::<CK_FUNCTION_LIST_3_2>();
            let first = (&raw const (*table).C_Initialize).cast::<Any>();
            let bytes = size_of::<CK_FUNCTION_LIST_3_2>()
                - std::mem::offset_of!(CK_FUNCTION_LIST_3_2, C_Initialize);
            std::slice::from_raw_parts(first, bytes / size_of::<Any>())
        };
        let is = |function: Any, this: *const ()| std::ptr::eq(function as *const (), this);
        let mut seen = 0;
        for function in functions {
            let initialize = is(*function, general::C_Initialize as *const ());
            if !initialize {
                state().initialize(|_| module()).unwrap();
            }
            PANIC.with(|told| told.set(true));
            // SAFETY: all parameters are numbers or pointers, for which zero is allowed; more than there
            // are do no harm in the calling conventions of Linux.
            let rv = unsafe { function(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) };
            let panicked = !PANIC.with(|told| told.replace(false));
            assert!(panicked, "function {seen} has no guard");
            assert_eq!(rv, CKR_GENERAL_ERROR, "function {seen}");
            seen += 1;
            if !initialize && !is(*function, general::C_Finalize as *const ()) {
                state().finalize().unwrap();
            }
        }
        assert_eq!(seen, 104);
        state().initialize(|_| module()).unwrap();
        assert_eq!(state().run(|_| Ok(())), Ok(()));
        state().finalize().unwrap();
    }

    #[test]
    fn a_module_is_there_between_initialize_and_finalize() {
        let state = outside();
        assert_eq!(state.arrive().err(), Some(Error::NotInitialized));
        assert_eq!(state.finalize(), Err(Error::NotInitialized));
        state.initialize(|_| module()).unwrap();
        assert!(state.arrive().is_ok());
        assert_eq!(state.initialize(|_| module()), Err(Error::AlreadyInitialized));
        state.finalize().unwrap();
        assert_eq!(state.arrive().err(), Some(Error::NotInitialized));
        state.initialize(|_| module()).unwrap();
        state.finalize().unwrap();
    }

    #[test]
    fn a_failed_initialize_can_be_tried_again() {
        let state = outside();
        assert_eq!(state.initialize(|_| Err(Error::CantLock)), Err(Error::CantLock));
        let panicked = state.initialize(|_| panic!("on purpose"));
        assert!(matches!(panicked, Err(Error::Bug(_))));
        state.initialize(|_| module()).unwrap();
    }

    #[test]
    fn a_call_inside_a_call_of_the_same_thread_is_refused() {
        let state = inside();
        let visit = state.arrive().unwrap();
        assert!(matches!(state.arrive().err(), Some(Error::FunctionFailed(_))));
        assert!(matches!(state.finalize(), Err(Error::FunctionFailed(_))));
        assert_eq!(state.initialize(|_| module()), Err(Error::AlreadyInitialized));
        let elsewhere = std::thread::spawn(|| state.arrive().is_ok());
        assert!(elsewhere.join().unwrap(), "another thread may come in");
        drop(visit);
        assert!(state.arrive().is_ok());
    }

    #[test]
    fn finalize_lets_no_call_in_and_waits_for_those_inside() {
        let state = inside();
        let (entered, is_inside) = channel();
        let (let_go, may_go) = channel();
        let call = std::thread::spawn(move || {
            let visit = state.arrive().unwrap();
            entered.send(()).unwrap();
            may_go.recv().unwrap();
            drop(visit);
        });
        is_inside.recv().unwrap();
        let end = std::thread::spawn(|| state.finalize());
        while state.is_initialized() {
            std::thread::yield_now();
        }
        assert_eq!(state.arrive().err(), Some(Error::NotInitialized));
        assert!(!end.is_finished(), "a call is still inside");
        let_go.send(()).unwrap();
        end.join().unwrap().unwrap();
        call.join().unwrap();
    }

    #[test]
    fn a_call_that_never_ends_does_not_hold_finalize_for_ever() {
        let state = outside();
        state.initialize(|_| Ok((module()?.0, Duration::from_millis(10)))).unwrap();
        let (entered, is_inside) = channel();
        let (let_go, may_go) = channel::<()>();
        let call = std::thread::spawn(move || {
            let visit = state.arrive().unwrap();
            entered.send(()).unwrap();
            let _ = may_go.recv();
            drop(visit);
        });
        is_inside.recv().unwrap();
        state.finalize().unwrap();
        state.initialize(|_| module()).unwrap();
        drop(let_go);
        call.join().unwrap();
        state.finalize().unwrap();
    }

    #[test]
    fn after_a_panic_only_finalize_helps() {
        let state = inside();
        let panicked = state.run(|_| panic!("on purpose"));
        assert!(matches!(panicked, Err(Error::Bug(_))));
        assert!(matches!(state.run(|_| Ok(())), Err(Error::Bug(_))), "poisoned");
        state.finalize().unwrap();
        state.initialize(|_| module()).unwrap();
        assert_eq!(state.run(|_| Ok(())), Ok(()));
    }
}
