//! The lease: the only way to reach the TPM. Everything in it (connection, session, loaded keys)
//! may vanish at any moment and is rebuilt from the bytes that the store keeps. It ends a short idle
//! time after the last call, because what it holds is scarce: one of three slots of a bare TPM, or a
//! session that, saved and left idle, blocks all others after 65,535 commands.
//!
//! This file is the counter: calls queue up here, one at a time goes in and gets the `State`, and one
//! thread, the reaper, closes what lies idle. What is done inside is in `state.rs`.

#[cfg(test)]
pub(super) mod tests;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::command::{Command, GetRandom};
use super::connection::{Connection, Shape};
use super::execute::{Auth, Entity, execute};
use super::facts::{self, Facts};
use super::fault::{Fault, Trouble};
use super::session::{HmacSession, PolicySession};
use super::srk::Pinned;
use super::state::{State, Tried};
use super::transport::{Address, Broken, SLICE, Transport};
use super::{Call, KeyBlob, Limits, Name};
use crate::config::{BusProtection, Leftovers};
use crate::sync::plain::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::plain::thread::{self, JoinHandle};
use crate::sync::plain::{Condvar, Instant, Mutex, MutexGuard, PoisonError};
use crate::sync::{Rank, held};

/// TPM_PT_INPUT_BUFFER of every TPM that follows the PC Client profile, until we know.
const INPUT_BUFFER: u32 = 1024;
/// What is believed of that property: with more a command would not fit the transport.
const LEAST_BUFFER: u16 = 64;
const MOST_BUFFER: u16 = 3072;

/// How one TPM is reached: a `[[tpm]]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A TCTI conf string: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`,
    /// `swtpm:path=/run/vtpm/sock`, `mssim:host=127.0.0.1,port=2321`, `tabrmd:bus_type=session`.
    pub tcti: String,
    /// Whether a resource manager is behind it; `None` finds out from `tcti`.
    pub resource_manager: Option<bool>,
    /// When the hot path may do without its session.
    pub bus_protection: BusProtection,
    /// What happens with strangers' handles in a bare TPM.
    pub raw_leftovers: Leftovers,
    /// How long an idle lease lives.
    pub linger: Duration,
    /// Deadline of a whole C_ call.
    pub call_timeout: Duration,
    /// Deadline of a call that generates a key.
    pub keygen_timeout: Duration,
    /// Deadlines of single commands.
    pub limits: Limits,
    /// Whether we may have a thread that ends idle leases; else they end with the call
    /// (CKF_LIBRARY_CANT_CREATE_OS_THREADS).
    pub reaper: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tcti: "device:/dev/tpmrm0".to_owned(),
            resource_manager: None,
            bus_protection: BusProtection::Always,
            raw_leftovers: Leftovers::Flush,
            linger: Duration::from_millis(200),
            call_timeout: Duration::from_secs(60),
            keygen_timeout: Duration::from_secs(300),
            limits: Limits::default(),
            reaper: true,
        }
    }
}

/// A key as the mechanisms hold it.
#[derive(Debug, Clone)]
pub struct Key {
    /// What the TPM loads.
    pub blob: Arc<KeyBlob>,
    /// The storage root key it was created under.
    pub srk: Arc<Name>,
    /// For a CKA_ALWAYS_AUTHENTICATE key: the context-specific login that waits for its one use.
    pub grant: Option<Grant>,
}

/// A context-specific login that waits for its one use: the PIN was checked by the TPM when this
/// was made, and a policy session there remembers it for at most 30 s. Clones are the same login; when
/// the last one is dropped, it is forgotten.
#[derive(Debug, Clone)]
pub struct Grant(pub(super) Arc<Ticket>);

/// Stands for a login; its place in memory is its number.
#[derive(Debug)]
pub(super) struct Ticket(#[allow(dead_code)] u8);

/// Says whether the store has a key of this Name. Called without any lock held.
pub type Knows = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// One TPM of the host, shared by all tokens on it. Making one does no I/O.
pub struct Tpm {
    inner: Arc<Inner>,
    reaper: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct Inner {
    pub(super) settings: Settings,
    pub(super) shape: Shape,
    /// Nobody else starts it: TPM2_Startup is ours to send.
    pub(super) simulator: bool,
    /// A bare TPM with one client at a time, where what belongs to nobody can be told.
    pub(super) exclusive: bool,
    pub(super) knows: Knows,
    desk: Mutex<Desk>,
    free: Condvar,
    reap: Condvar,
    leaked: AtomicBool,
    /// The last response code that ended a call.
    last_code: AtomicU32,
    /// The TPM refused a command that it was known to have: what is known of it is not to be relied on.
    changed: AtomicBool,
    /// The most bytes of data in one command, as far as they are known.
    input_buffer: AtomicU32,
}

/// Where the state lies while no call has it.
struct Desk {
    state: Option<Box<State>>,
    /// Calls that wait for it, in order of arrival.
    queue: VecDeque<u64>,
    tickets: u64,
    /// When the lease ends if nobody comes; none if nothing is open.
    due: Option<Instant>,
    reaper: Reaper,
}

#[derive(Default)]
struct Reaper {
    runs: bool,
    sleeps: bool,
    stop: bool,
}

/// The TPM, held by one call: what `job` of [`Tpm::with`] works through. What it loads and does not
/// flush is flushed at its end.
pub struct Lease {
    pub(super) connection: Connection,
    pub(super) call: Call,
    pub(super) wanted: Option<Name>,
    /// A context-specific login that stays.
    pub(super) kept: Option<(PolicySession, Grant)>,
}

impl Lease {
    /// The storage root key, found, checked and compared with the pinned Name (at most once in a
    /// connection). Where there is none it is created.
    ///
    /// # Errors
    /// [`Trouble::ForeignTpm`] if the Name differs: nothing was sent under it.
    pub fn srk(&mut self) -> Result<Pinned, Fault> {
        self.connection.root(self.wanted.as_ref(), None, true, &self.call)
    }

    /// The line, for commands without a session or with one of the job's own.
    pub fn link(&mut self) -> &mut dyn Transport {
        &mut self.connection.link
    }

    /// The line and this connection's HMAC session, salted to the storage root key: for secrets that
    /// the TPM does not share yet. It is kept for the next job.
    pub fn salted(&mut self) -> Result<(&mut dyn Transport, &mut HmacSession), Fault> {
        let root = self.srk()?;
        let (link, session) = self.connection.session(Some(&root), &self.call)?;
        Ok((link, session))
    }

    /// One command without the lease's session.
    pub fn execute<C: Command>(
        &mut self,
        command: &C,
        auths: &mut [Auth<'_>],
    ) -> Result<C::Response, Fault> {
        execute(&mut self.connection.link, command, auths, &self.call)
    }

    /// Deadline and cancel flag of the call.
    pub fn call(&self) -> &Call {
        &self.call
    }
}

/// The TPM with one key loaded: what `job` of [`Tpm::with_key`] works through.
pub struct KeyLease {
    pub(super) connection: Connection,
    pub(super) call: Call,
    pub(super) key: Arc<Entity>,
    pub(super) blob: Arc<KeyBlob>,
    pub(super) how: How,
}

/// How the key is authorized.
pub(super) enum How {
    /// By an HMAC session keyed by the object's own authorization.
    Session,
    /// By its authorization in clear: no session can be had, or none is wanted.
    Password,
    /// By a policy session that knows of the PIN; the salt encrypts.
    Grant { policy: PolicySession, root: Pinned },
}

impl KeyLease {
    /// The loaded key, as the handle of the job's commands.
    pub fn key(&self) -> Arc<Entity> {
        self.key.clone()
    }

    /// Whether answers are proven by the HMAC of a session.
    pub(super) fn proves(&self) -> bool {
        !matches!(self.how, How::Password)
    }

    /// One command whose first handle is the key.
    pub fn execute<C: Command>(&mut self, command: &C) -> Result<C::Response, Fault> {
        if let Self { connection, call, how: How::Grant { policy, root }, .. } = self {
            let (link, session) = connection.session(Some(root), call)?;
            let auths = &mut [Auth::policy(policy).ending(), Auth::extra(session)];
            return execute(link, command, auths, call);
        }
        let blob = self.blob.clone();
        self.execute_as(command, &blob.authorization)
    }

    /// One command whose first handle is something else that the job made, with this authorization
    /// value.
    pub(super) fn execute_as<C: Command>(
        &mut self,
        command: &C,
        authorization: &[u8; 32],
    ) -> Result<C::Response, Fault> {
        let Self { connection, call, how, .. } = self;
        match how {
            How::Password => {
                let auth = Auth::password(authorization);
                execute(&mut connection.link, command, &mut [auth], call)
            }
            How::Session | How::Grant { .. } => {
                let (link, session) = connection.session(None, call)?;
                let auth = Auth::hmac(session, authorization);
                execute(link, command, &mut [auth], call)
            }
        }
    }
}

impl Tpm {
    /// A TPM that is not opened yet. `lock_directory` is where processes that share a bare TPM
    /// queue up (the store's directory); `knows` says whether the store has a key of this Name. It
    /// is called without any lock held.
    pub fn new(settings: Settings, lock_directory: Option<PathBuf>, knows: Knows) -> Arc<Self> {
        // A conf string that cannot be read is told by the first call that needs the TPM.
        let address = Address::parse(&settings.tcti).ok();
        let shape = shape(address.as_ref(), settings.resource_manager);
        let simulator = address.as_ref().is_some_and(Address::is_simulator);
        let exclusive = shape == Shape::Bare && address.as_ref().is_some_and(Address::is_exclusive);
        let lock_directory = lock_directory.filter(|_| shape == Shape::Bare);
        let state = State::new(lock_directory, settings.reaper, exclusive);
        let desk = Desk {
            state: Some(Box::new(state)),
            queue: VecDeque::new(),
            tickets: 0,
            due: None,
            reaper: Reaper::default(),
        };
        Arc::new(Self {
            inner: Arc::new(Inner {
                settings,
                shape,
                simulator,
                exclusive,
                knows,
                desk: Mutex::new(desk),
                free: Condvar::new(),
                reap: Condvar::new(),
                leaked: AtomicBool::new(false),
                last_code: AtomicU32::new(0),
                changed: AtomicBool::new(false),
                input_buffer: AtomicU32::new(INPUT_BUFFER),
            }),
            reaper: Mutex::new(None),
        })
    }

    /// How it is reached.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Whether a resource manager is behind the conf string.
    pub fn is_managed(&self) -> bool {
        self.inner.shape != Shape::Bare
    }

    /// Whether keys are used without an HMAC session on a TPM like this one: by `bus_protection`, not
    /// because of a context gap.
    pub fn spares_session(&self, facts: &Facts) -> bool {
        self.inner.spares_session(facts)
    }

    /// The last response code that ended a call of this process; 0 if none did.
    pub fn last_code(&self) -> u32 {
        self.inner.last_code.load(Ordering::Relaxed)
    }

    /// A call with this TPM's ordinary deadline and nobody to cancel it.
    pub fn call(&self) -> Call {
        self.call_within(self.inner.settings.call_timeout, Arc::default())
    }

    /// A call that may take `limit` from now on, and ends when `cancel` is set.
    pub fn call_within(&self, limit: Duration, cancel: Arc<AtomicBool>) -> Call {
        Call { deadline: Instant::now() + limit, cancel, limits: self.inner.settings.limits }
    }

    /// Runs `job` with the TPM to itself, opening it first if need be; once more on a rebuilt
    /// lease if the connection or what was loaded is lost, so `job` must be idempotent.
    /// `srk` is the pinned Name to compare before anything else; `None` takes what is there.
    ///
    /// Blocks until the other threads (and, on a bare TPM, processes) are done with the TPM, then as
    /// long as the chip takes: tens to hundreds of milliseconds a command on a discrete one. No
    /// other lock may be taken meanwhile.
    ///
    /// # Errors
    /// [`Trouble::ForeignTpm`] if the Name differs; transport faults; what `job` returns.
    pub fn with<T>(
        &self,
        call: &Call,
        srk: Option<&Name>,
        mut job: impl FnMut(&mut Lease) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.manage(call, srk, false, &mut job)
    }

    /// As [`Tpm::with`], for a job that carries a PIN: repeated only after faults that prove that
    /// the PIN was not evaluated. No key of ours is loaded meanwhile on a bare TPM.
    pub fn with_pin<T>(
        &self,
        call: &Call,
        srk: Option<&Name>,
        mut job: impl FnMut(&mut Lease) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.manage(call, srk, true, &mut job)
    }

    /// Context-specific login: as [`Tpm::with_pin`], but the policy session that `job` gives, its
    /// policy met, stays for one use of a key, at most 30 s.
    pub fn grant(
        &self,
        call: &Call,
        srk: &Name,
        mut job: impl FnMut(&mut Lease) -> Result<PolicySession, Fault>,
    ) -> Result<Grant, Fault> {
        self.manage(call, Some(srk), true, &mut |lease| {
            let policy = job(lease)?;
            // Its salt will encrypt the one use.
            lease.salted()?;
            let grant = Grant(Arc::new(Ticket(0)));
            lease.kept = Some((policy, grant.clone()));
            Ok(grant)
        })
    }

    /// The hot path: runs `job` with `key` loaded and a session keyed by its authorization; a warm
    /// key costs exactly the commands of `job`, which must be idempotent. With a grant: one command,
    /// never repeated.
    ///
    /// # Errors
    /// [`Trouble::LoginLost`] if the key's grant was used, is too old or was lost with the TPM's
    /// memory; else as [`Tpm::with`].
    pub fn with_key<T>(
        &self,
        call: &Call,
        key: &Key,
        mut job: impl FnMut(&mut KeyLease) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let inner = &*self.inner;
        let mut holder = self.hold(call)?;
        let state = holder.state()?;
        let mut tried = Tried::default();
        loop {
            let outcome = match &key.grant {
                Some(grant) => state.granted_job(inner, call, key, grant, &mut job),
                None => state.key_job(inner, call, key, &mut job),
            };
            if let ControlFlow::Break(outcome) =
                state.judge(inner, outcome, call, &mut tried, |fault| {
                    key.grant.is_none() || *fault.kind() == Trouble::LoginLost
                })
            {
                return inner.noted(outcome);
            }
        }
    }

    fn manage<T>(
        &self,
        call: &Call,
        srk: Option<&Name>,
        pin: bool,
        job: &mut dyn FnMut(&mut Lease) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let inner = &*self.inner;
        let mut holder = self.hold(call)?;
        let state = holder.state()?;
        let mut tried = Tried::default();
        loop {
            let outcome = state.management_job(inner, call, srk, pin, job);
            if let ControlFlow::Break(outcome) =
                state
                    .judge(inner, outcome, call, &mut tried, |fault| !pin || fault.spares_the_pin())
            {
                return inner.noted(outcome);
            }
        }
    }

    /// TPM2_GetRandom, encrypted on the bus: one command, so at most the TPM's largest digest
    /// (32 to 64 bytes); the answer may be shorter than asked.
    pub fn random(
        &self,
        call: &Call,
        srk: Option<&Name>,
        bytes: usize,
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        self.with(call, srk, |lease| {
            let (link, session) = lease.salted()?;
            execute(link, &GetRandom { bytes }, &mut [Auth::extra(session)], call)
        })
    }

    /// What this TPM is and can. Asks once per process, and again if it [seems
    /// changed](Tpm::seems_changed).
    pub fn facts(&self, call: &Call) -> Result<Facts, Fault> {
        if let Some(facts) = self.hold(call)?.state()?.facts.clone() {
            if !self.seems_changed() {
                return Ok(facts);
            }
        }
        let facts = self.with(call, None, |lease| facts::ask(lease.link(), call))?;
        self.hold(call)?.state()?.facts = Some(facts.clone());
        self.inner.changed.store(false, Ordering::Relaxed);
        self.learn(&facts);
        Ok(facts)
    }

    /// Whether it refused a command since its facts were asked for: other firmware may run in it now.
    pub fn seems_changed(&self) -> bool {
        self.inner.changed.load(Ordering::Relaxed)
    }

    /// Takes over what the store knows of this TPM: how much data goes into one command. No I/O.
    pub fn learn(&self, facts: &Facts) {
        let buffer = facts.input_buffer.clamp(LEAST_BUFFER, MOST_BUFFER);
        self.inner.input_buffer.store(buffer.into(), Ordering::Relaxed);
    }

    /// How many bytes of data go into one command, a multiple of 16.
    pub(super) fn input_buffer(&self) -> usize {
        self.inner.input_buffer.load(Ordering::Relaxed) as usize / 16 * 16
    }

    /// The Name of the storage root key, which is created if there is none: what C_InitToken pins.
    pub fn srk_name(&self, call: &Call) -> Result<Name, Fault> {
        self.with(call, None, |lease| Ok(lease.srk()?.name().clone()))
    }

    #[cfg(test)]
    pub(super) fn peek<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(self.hold(&self.call()).unwrap().state().unwrap())
    }

    #[cfg(all(test, feature = "schedules"))]
    pub(super) fn has_reaper(&self) -> bool {
        self.reaper.lock().unwrap().is_some() || self.inner.desk().reaper.runs
    }

    /// Waits for its turn, then takes the state.
    fn hold(&self, call: &Call) -> Result<Holder<'_>, Fault> {
        let rank = held(Rank::Leaf);
        let inner = &*self.inner;
        if inner.leaked.load(Ordering::Relaxed) {
            return Err(Fault::bug("the TPM of another process"));
        }
        // A transport looks at the flag only when it has to wait.
        if call.is_canceled() {
            return Err(Broken::canceled(false).into());
        }
        let mut desk = inner.desk();
        let at_once = if desk.queue.is_empty() { desk.state.take() } else { None };
        let mut state = match at_once {
            Some(state) => state,
            None => {
                let (after, state) = inner.queue_up(desk, call)?;
                desk = after;
                state
            }
        };
        desk.due = None;
        let runs = desk.reaper.runs;
        drop(desk);
        state.held = Some(rank);
        state.lingers = runs || self.start_reaper();
        Ok(Holder { inner, state: Some(state) })
    }

    /// Starts the thread that ends idle leases, if we may have one. It takes no signals.
    fn start_reaper(&self) -> bool {
        if !self.inner.settings.reaper {
            return false;
        }
        let inner = self.inner.clone();
        let mut reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        let mut desk = inner.desk();
        if desk.reaper.runs || desk.reaper.stop {
            return desk.reaper.runs;
        }
        let thread = super::tcti::without_signals(|| {
            let inner = inner.clone();
            thread::Builder::new()
                .name("tpm11-reaper".to_owned())
                .spawn(move || inner.reap_until_stopped())
        });
        match thread {
            Ok(thread) => {
                desk.reaper.runs = true;
                *reaper = Some(thread);
            }
            Err(error) => log::warn!("tpm: no thread for idle connections: {error}"),
        }
        desk.reaper.runs
    }

    /// Ends the lease and the reaper thread: C_Finalize. A running call ends first (set its cancel
    /// flag). Nothing stays loaded. A later call starts anew.
    pub fn end(&self) {
        if self.inner.leaked.load(Ordering::Relaxed) {
            return;
        }
        let reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut desk = self.inner.desk();
        // Of two that end it at once only one has the thread to wait for.
        desk.reaper.stop = desk.reaper.runs;
        self.inner.reap.notify_all();
        loop {
            if let Some(mut state) = desk.state.take() {
                drop(desk);
                state.close_all(&self.inner);
                desk = self.inner.desk();
                desk.state = Some(state);
                desk.due = None;
                break;
            }
            desk = self.inner.free.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
        self.inner.free.notify_all();
        drop(desk);
        if let Some(reaper) = reaper {
            // It cannot panic in a way that matters here.
            let _ = reaper.join();
            self.inner.desk().reaper = Reaper::default();
        }
    }

    /// Forgets everything without any I/O: for the child of a fork. Nothing works afterwards.
    pub fn leak(&self) {
        self.inner.leaked.store(true, Ordering::Relaxed);
        // Another thread of the parent may hold these for ever: then they stay as they are.
        if let Ok(mut reaper) = self.reaper.try_lock() {
            std::mem::forget(reaper.take());
        }
        if let Ok(mut desk) = self.inner.desk.try_lock() {
            if let Some(state) = desk.state.take() {
                state.leak();
            }
        }
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        self.end();
    }
}

impl Inner {
    pub(super) fn spares_session(&self, facts: &Facts) -> bool {
        self.settings.bus_protection == BusProtection::Discrete
            && self.shape == Shape::Managed
            && facts.is_firmware()
    }

    /// Remembers the response code of what failed.
    fn noted<T>(&self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(fault) = &outcome {
            if let Some(code) = fault.code() {
                self.last_code.store(code, Ordering::Relaxed);
            }
            if *fault.kind() == Trouble::CommandCode {
                self.changed.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this call is the first in the queue and the state is there.
    fn queue_up<'a>(
        &'a self,
        mut desk: MutexGuard<'a, Desk>,
        call: &Call,
    ) -> Result<(MutexGuard<'a, Desk>, Box<State>), Fault> {
        desk.tickets += 1;
        let ticket = desk.tickets;
        desk.queue.push_back(ticket);
        loop {
            if desk.queue.front() == Some(&ticket) {
                if let Some(state) = desk.state.take() {
                    desk.queue.pop_front();
                    return Ok((desk, state));
                }
            }
            let left = call.deadline.saturating_duration_since(Instant::now());
            let canceled = call.is_canceled();
            if left.is_zero() || canceled {
                desk.queue.retain(|waiting| *waiting != ticket);
                self.free.notify_all();
                return Err(match canceled {
                    true => Broken::canceled(false).into(),
                    false => Broken::late("other threads had the TPM all the time").into(),
                });
            }
            let slice = left.min(SLICE);
            (desk, _) = self.free.wait_timeout(desk, slice).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put_back(&self, state: Box<State>) {
        let mut desk = self.desk();
        desk.due = state.due(self.settings.linger);
        desk.state = Some(state);
        if desk.due.is_some() && desk.reaper.sleeps {
            self.reap.notify_all();
        }
        // Also without a queue: `end` waits here, too.
        self.free.notify_all();
    }

    /// The reaper's life.
    fn reap_until_stopped(&self) {
        let mut desk = self.desk();
        while !desk.reaper.stop {
            let now = Instant::now();
            match desk.due.filter(|_| desk.state.is_some() && desk.queue.is_empty()) {
                Some(due) if due <= now => {
                    let Some(mut state) = desk.state.take() else { continue };
                    drop(desk);
                    state.reap(self);
                    self.put_back(state);
                    desk = self.desk();
                }
                Some(due) => {
                    (desk, _) = self
                        .reap
                        .wait_timeout(desk, due - now)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    desk.reaper.sleeps = true;
                    desk = self.reap.wait(desk).unwrap_or_else(PoisonError::into_inner);
                    desk.reaper.sleeps = false;
                }
            }
        }
    }
}

/// A call that has the state; puts it back when it ends, however it ends.
struct Holder<'a> {
    inner: &'a Inner,
    state: Option<Box<State>>,
}

impl Holder<'_> {
    fn state(&mut self) -> Result<&mut State, Fault> {
        self.state.as_deref_mut().ok_or(Fault::bug("a call without the TPM's state"))
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        if let Some(mut state) = self.state.take() {
            state.leave(self.inner);
            let rank = state.held.take();
            self.inner.put_back(state);
            drop(rank);
        }
    }
}

/// What is behind the conf string.
fn shape(address: Option<&Address>, said: Option<bool>) -> Shape {
    match (said, address) {
        (_, Some(Address::Loader(tcti))) if tcti.starts_with("tabrmd") => Shape::Daemon,
        (Some(true), _) => Shape::Managed,
        (Some(false), _) => Shape::Bare,
        (None, Some(Address::Device(path))) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("tpmrm") { Shape::Managed } else { Shape::Bare }
        }
        (None, _) => Shape::Bare,
    }
}
