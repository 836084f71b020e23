//! What one call at a time has of a TPM: its connections with everything in them, how a job runs on
//! them, and what is done about a fault.

#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::command::{
    Capability, Command, GetCapability, GetTestResult, StartAuthSession, Startup,
};
use super::connection::{Connection, Contexts, Shape};
use super::execute::{Entity, execute, rest};
use super::facts::{self, Facts};
use super::fault::{Fault, Remedy, Trouble};
use super::lease::{Grant, How, Inner, Key, KeyLease, Lease, Ticket};
use super::ledger::is_session;
use super::leftovers;
use super::session::PolicySession;
use super::sharing::Queue;
use super::srk::Pinned;
use super::transport::{self, Broken, BrokenKind};
use super::{Call, KeyBlob, Name};
use crate::config::{BusProtection, Leftovers};
use crate::sync::plain::{Instant, thread};
use crate::sync::{Held, Rank, held};

/// Everything that one call at a time has.
pub(super) struct State {
    /// The one connection; behind a resource manager that of management.
    main: Option<Connection>,
    /// Behind a resource manager: a connection for each loaded key, least recently used first.
    keys: Vec<Connection>,
    contexts: Contexts,
    waiting: Vec<Waiting>,
    queue: Queue,
    /// The storage root key found last.
    root: Option<Pinned>,
    pub(super) facts: Option<Facts>,
    /// It was there once: if it is not, it may be back soon.
    met: bool,
    breaker: Breaker,
    gap: Gap,
    /// Until then only half as many key connections; on a bare TPM, one loaded key.
    halved: Option<Instant>,
    /// What a broken connection left in a bare TPM.
    debts: Option<Debts>,
    exclusive: bool,
    /// When the last call ended.
    idle_since: Instant,
    /// Whether somebody will end an idle lease.
    pub(super) lingers: bool,
    pub(super) held: Option<Held>,
}

/// A policy session that remembers a PIN for one use of a key.
struct Waiting {
    ticket: Weak<Ticket>,
    policy: PolicySession,
    /// Behind a resource manager: its connection.
    connection: Option<Connection>,
    until: Instant,
}

/// Handles that a connection held when it broke, on a TPM that serves one client at a time.
struct Debts {
    held: Vec<u32>,
    /// One more, whose number we were not told; whether it is a session.
    lost: Option<bool>,
    since: Instant,
}

/// How long they are surely still ours: nobody else's objects can have got these numbers unless he was
/// connected meanwhile.
const DEBTS_LIFE: Duration = Duration::from_secs(5);
/// How long clearing them away may take.
const DEBTS_LIMIT: Duration = Duration::from_secs(1);

/// After three broken connections in a row nobody waits for a while.
#[derive(Default)]
struct Breaker {
    failures: u32,
    until: Option<Instant>,
    last: Option<Fault>,
}

impl Breaker {
    /// What to answer at once instead of trying.
    fn is_open(&self) -> Option<Fault> {
        let until = self.until?;
        if Instant::now() < until { self.last.clone() } else { None }
    }
}

/// How near the context gap may be. Part 1 §30.5: after 65,535 saves of sessions one idle saved
/// session blocks the saving of all.
#[derive(Default)]
struct Gap {
    commands: u32,
    /// Password authorization until the next look.
    passwords: bool,
    looked: Option<Instant>,
}

/// How long a context-specific login waits for its use.
const GRANT_LIFE: Duration = Duration::from_secs(30);
/// How long a connection of a busy process lies unused, with its session saved. At most some thousand
/// commands of all programs pass in a second, and 65,535 make the gap.
const UNUSED: Duration = Duration::from_secs(5);
/// How often the reaper looks whether the login is still wanted.
const GRANT_LOOK: Duration = Duration::from_millis(500);
/// Key connections per process behind a resource manager.
const MOST_KEYS: usize = 20;
/// Keys loaded through tabrmd, whose limit is 27 objects a connection by default.
const MOST_DAEMON_KEYS: usize = 20;
/// Loaded keys in a bare TPM's three slots. With a transient root one less.
const MOST_BARE_KEYS: usize = 2;
/// SESSION_HANDLES halves the key connections, OBJECT_MEMORY the loaded keys, for this long.
const HALVED: Duration = Duration::from_secs(60);
/// Sessions saved by us before we look for idle ones of others: a quarter of the gap.
const GAP_LOOK: u32 = 16_384;
/// In password mode we look again after this long, too.
const GAP_AGAIN: Duration = Duration::from_secs(60);
/// Failures in a row that open the breaker, and for how long.
const FAILURES: u32 = 3;
const BREAK: Duration = Duration::from_secs(2);
const LONG_BREAK: Duration = Duration::from_secs(30);
/// How long a TPM that was never there is waited for; one that was gets the transport's own time.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How soon another try is made for a session when others hold them all: doubled from the first to the
/// second, until the call's deadline.
const ROOM_AGAIN: Duration = Duration::from_millis(4);
const ROOM_AGAIN_MOST: Duration = Duration::from_millis(500);
/// TPM_RC_SESSION_HANDLES
const SESSION_HANDLES: u32 = 0x905;
/// TPM_RC_FAILURE
const FAILURE: u32 = 0x101;
/// TPM_HT_SAVED_SESSION: where listing begins.
const SAVED_SESSIONS: u32 = 0x0300_0000;

/// How often more than once a call may find that what it loaded is gone. After a TPM reset every program
/// that closes what it had before flushes a session of that number from the TPM, which may be a new one
/// of ours; the command that meets it was not started.
const LOSSES: u8 = 2;

/// What was tried already against the faults of one call.
#[derive(Default)]
pub(super) struct Tried {
    rebuilt: bool,
    losses: u8,
    started: bool,
    found_again: bool,
    without_session: bool,
    flushes: u32,
}

impl State {
    /// Nothing open. `exclusive`: a bare TPM with one client at a time.
    pub(super) fn new(lock_directory: Option<PathBuf>, threads: bool, exclusive: bool) -> Self {
        Self {
            main: None,
            keys: Vec::new(),
            contexts: Contexts::default(),
            waiting: Vec::new(),
            queue: Queue::new(lock_directory, threads),
            root: None,
            facts: None,
            met: false,
            breaker: Breaker::default(),
            gap: Gap::default(),
            halved: None,
            debts: None,
            exclusive,
            idle_since: Instant::now(),
            lingers: false,
            held: None,
        }
    }

    // ---- opening and closing ---------------------------------------------------------------

    fn open(&mut self, inner: &Inner, call: &Call) -> Result<Connection, Fault> {
        if let Some(last) = self.breaker.is_open() {
            return Err(last);
        }
        if inner.shape == Shape::Bare {
            self.queue.enter(call)?;
        }
        let patience = if self.met { transport::PATIENCE } else { FIRST_PATIENCE };
        let line = transport::open_within(&inner.settings.tcti, patience, call)?;
        self.met = true;
        let mut connection = Connection::new(line);
        self.pay(&mut connection, call)?;
        Ok(connection)
    }

    /// Flushes what a broken connection left. Begins with a list, which is harmless.
    fn pay(&mut self, connection: &mut Connection, call: &Call) -> Result<(), Fault> {
        let Some(debts) = self.debts.take() else { return Ok(()) };
        if debts.since.elapsed() > DEBTS_LIFE {
            return Ok(());
        }
        let standing = match leftovers::list(&mut connection.link, call) {
            Ok(standing) => standing,
            // It was restarted: nothing is left.
            Err(fault) if fault.code().is_some() => return Ok(()),
            Err(fault) => {
                self.debts = Some(debts);
                return Err(fault);
            }
        };
        let ours =
            |handle: &u32| debts.held.contains(handle) || debts.lost == Some(is_session(*handle));
        let ours: Vec<u32> = standing.into_iter().filter(ours).collect();
        connection.flush(&ours, &[]);
        if connection.link.is_broken() {
            self.debts = Some(debts);
            let what = "the connection broke while leftovers of the last one were flushed";
            return Err(Broken::unsent(BrokenKind::Closed, what).into());
        }
        Ok(())
    }

    /// Clears away what a broken connection left, when no call does.
    fn settle(&mut self, inner: &Inner) {
        if self.debts.is_none() {
            return;
        }
        match self.open(inner, &Call::within(DEBTS_LIMIT)) {
            Ok(connection) => connection.close(inner.shape),
            Err(fault) => log::debug!("tpm: what a broken connection left stays there: {fault}"),
        }
        self.debts = None;
        self.queue.leave();
    }

    /// The end of a connection, by a broken line or in good order.
    fn bury(&mut self, connection: Connection, shape: Shape) {
        if self.exclusive && connection.link.is_broken() {
            let held = connection.link.held().to_vec();
            let lost = connection.link.lost();
            if !held.is_empty() || lost.is_some() {
                self.debts = Some(Debts { held, lost, since: Instant::now() });
            }
        }
        connection.close(shape);
    }

    /// The management connection, taken out: put it back when it is whole.
    fn take_main(&mut self, inner: &Inner, call: &Call) -> Result<Connection, Fault> {
        match self.main.take() {
            Some(connection) if !connection.link.is_broken() => return Ok(connection),
            // It broke while something was flushed that nobody waited for.
            Some(connection) => self.bury(connection, inner.shape),
            None => {}
        }
        self.open(inner, call)
    }

    /// Puts the management connection back with nothing in it but what is ours to keep.
    fn put_main(&mut self, inner: &Inner, mut connection: Connection) {
        if connection.link.is_broken() {
            return self.bury(connection, inner.shape);
        }
        let mut strays = connection.strays();
        strays.retain(|handle| !self.spared().contains(handle));
        if !strays.is_empty() {
            if inner.shape == Shape::Managed {
                // Closing is what flushes for nothing there.
                return connection.close(inner.shape);
            }
            connection.flush(&strays, &[]);
        }
        connection.used = Instant::now();
        self.main = Some(connection);
    }

    /// Policy sessions in the one connection that wait for their use.
    fn spared(&self) -> Vec<u32> {
        self.waiting.iter().map(|waiting| waiting.policy.handle()).collect()
    }

    /// Ends everything: nothing of ours stays in the TPM.
    pub(super) fn close_all(&mut self, inner: &Inner) {
        self.abandon(inner.shape);
        self.queue.leave();
        self.settle(inner);
    }

    /// Drops every connection; what was loaded in a bare TPM is flushed where the line still works.
    fn abandon(&mut self, shape: Shape) {
        for waiting in self.waiting.drain(..) {
            if let Some(connection) = waiting.connection {
                connection.close(shape);
            }
        }
        self.abandon_sessions(shape);
    }

    /// All connections but those that remember a PIN.
    fn abandon_sessions(&mut self, shape: Shape) {
        for connection in std::mem::take(&mut self.keys).into_iter().chain(self.main.take()) {
            self.bury(connection, shape);
        }
    }

    /// Forgets everything without any I/O.
    pub(super) fn leak(mut self) {
        self.queue.leak();
        let waiting = self.waiting.drain(..).filter_map(|waiting| waiting.connection);
        for connection in waiting.chain(self.main.take()).chain(self.keys.drain(..)) {
            connection.leak();
        }
    }

    // ---- between calls ---------------------------------------------------------------------

    /// When what is open should end; none if nothing is.
    pub(super) fn due(&self, linger: Duration) -> Option<Instant> {
        let open = self.main.is_some() || !self.keys.is_empty() || !self.waiting.is_empty();
        if !open && self.debts.is_none() {
            return None;
        }
        let idle = self.idle_since + linger;
        let Some(until) = self.waiting.iter().map(|waiting| waiting.until).min() else {
            return Some(idle);
        };
        // Dropping a grant wakes nobody: so look from time to time.
        let look = until.min(Instant::now() + GRANT_LOOK);
        let alone = self.waiting.iter().any(|waiting| waiting.connection.is_none())
            || (self.main.is_none() && self.keys.is_empty());
        // On a bare TPM a waiting login lives in the one connection, which then stays.
        Some(if alone { look } else { look.min(idle) })
    }

    /// The reaper's work at that time.
    pub(super) fn reap(&mut self, inner: &Inner) {
        let shape = inner.shape;
        self.drop_old_grants(shape);
        if self.idle_since.elapsed() < inner.settings.linger {
            return;
        }
        if self.waiting.iter().any(|waiting| waiting.connection.is_none()) {
            return;
        }
        for connection in self.main.take().into_iter().chain(self.keys.drain(..)) {
            connection.close(shape);
        }
        self.queue.leave();
        self.settle(inner);
    }

    /// At the end of a call: whether the lease goes on.
    pub(super) fn leave(&mut self, inner: &Inner) {
        self.idle_since = Instant::now();
        if inner.shape == Shape::Managed {
            self.drop_unused();
        }
        if thread::panicking() {
            // What was taken out is closed already; the rest is not to be trusted.
            self.abandon(inner.shape);
            return self.queue.leave();
        }
        let Some(opened) = self.main.as_ref().map(|main| main.opened) else {
            self.queue.leave();
            if !self.lingers {
                self.keys.clear();
                self.settle(inner);
            }
            return;
        };
        if !self.waiting.is_empty() {
            return;
        }
        if !self.lingers {
            return self.close_all(inner);
        }
        if inner.shape == Shape::Bare && self.queue.is_over(opened) {
            log::debug!("tpm: handed over to another program");
            self.close_all(inner);
        }
    }

    /// Behind a resource manager: closes what this process, busy with other keys, has not used for a
    /// while. A session that lies saved meanwhile comes nearer to the context gap with each command.
    fn drop_unused(&mut self) {
        let unused = |connection: &Connection| connection.used.elapsed() >= UNUSED;
        self.main.take_if(|main| unused(main));
        self.keys.retain(|key| !unused(key));
    }

    fn drop_old_grants(&mut self, shape: Shape) {
        let now = Instant::now();
        let (old, young): (Vec<_>, Vec<_>) = self
            .waiting
            .drain(..)
            .partition(|waiting| waiting.until <= now || waiting.ticket.strong_count() == 0);
        self.waiting = young;
        for waiting in old {
            match (waiting.connection, &mut self.main) {
                (Some(connection), _) => connection.close(shape),
                (None, Some(main)) => main.flush(&[waiting.policy.handle()], &[]),
                (None, None) => {}
            }
        }
    }

    // ---- jobs ------------------------------------------------------------------------------

    /// Runs a job of login or management on the management connection.
    pub(super) fn management_job<T>(
        &mut self,
        inner: &Inner,
        call: &Call,
        srk: Option<&Name>,
        pin: bool,
        job: &mut dyn FnMut(&mut Lease) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.drop_old_grants(inner.shape);
        let connection = self.take_main(inner, call)?;
        let (call_copy, wanted) = (call.clone(), srk.cloned());
        let mut lease = Lease { connection, call: call_copy, wanted, kept: None };
        let outcome = self.prepare(inner, &mut lease, pin).and_then(|()| job(&mut lease));
        let Lease { connection, kept, .. } = lease;
        self.root = connection.seen_root().cloned().or(self.root.take());
        match (kept.filter(|_| outcome.is_ok()), inner.shape) {
            (Some((policy, grant)), shape) => {
                let managed = shape == Shape::Managed;
                let mut waiting = Waiting {
                    ticket: Arc::downgrade(&grant.0),
                    policy,
                    connection: None,
                    until: Instant::now() + GRANT_LIFE,
                };
                if managed {
                    waiting.connection = Some(connection);
                    self.waiting.push(waiting);
                } else {
                    // Three sessions are all that a bare TPM has: one login waits, the last.
                    let mut connection = connection;
                    for older in self.waiting.drain(..) {
                        connection.flush(&[older.policy.handle()], &[]);
                    }
                    self.waiting.push(waiting);
                    self.put_main(inner, connection);
                }
            }
            // What a login loaded costs nothing when its connection is closed.
            (None, Shape::Managed) if pin => connection.close(inner.shape),
            (None, _) => self.put_main(inner, connection),
        }
        outcome
    }

    /// Room for the job, and a harmless first command.
    fn prepare(&mut self, inner: &Inner, lease: &mut Lease, pin: bool) -> Result<(), Fault> {
        if inner.shape != Shape::Bare {
            return Ok(());
        }
        if lease.connection.is_fresh() {
            match lease.wanted {
                Some(_) => drop(lease.srk()?),
                None => drop(leftovers::list(&mut lease.connection.link, &lease.call)?),
            }
        }
        let most = if pin || self.is_halved() { 0 } else { MOST_BARE_KEYS - 1 };
        lease.connection.shrink(most, Some(&mut self.contexts), &lease.call)
    }

    /// Runs a job with a key loaded and authorized by its own value.
    pub(super) fn key_job<T>(
        &mut self,
        inner: &Inner,
        call: &Call,
        key: &Key,
        job: &mut dyn FnMut(&mut KeyLease) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.look_at_gap(inner, call)?;
        let password = self.without_session(inner, call)?;
        let mut connection = self.connection_for(inner, call, &key.blob)?;
        let outcome = match self.load(inner, call, key, &mut connection, password) {
            Ok(entity) => {
                let how = if password { How::Password } else { How::Session };
                let (call, blob) = (call.clone(), key.blob.clone());
                let mut lease = KeyLease { connection, call, key: entity, blob, how };
                let outcome = job(&mut lease);
                connection = lease.connection;
                outcome
            }
            Err(fault) => Err(fault),
        };
        self.root = connection.seen_root().cloned().or(self.root.take());
        if inner.shape == Shape::Managed {
            self.gap.commands += connection.link.take_session_commands();
            // A connection without its key is of no use; one with more than that is closed, which flushes.
            let whole = connection.has(&key.blob) && connection.strays().is_empty();
            if whole && !connection.link.is_broken() {
                connection.used = Instant::now();
                self.keys.push(connection);
            }
        } else {
            self.put_main(inner, connection);
        }
        outcome
    }

    fn is_halved(&self) -> bool {
        self.halved.is_some_and(|until| Instant::now() < until)
    }

    /// The connection where this key is, or where it can be loaded.
    fn connection_for(
        &mut self,
        inner: &Inner,
        call: &Call,
        blob: &KeyBlob,
    ) -> Result<Connection, Fault> {
        if inner.shape != Shape::Managed {
            return self.take_main(inner, call);
        }
        if let Some(at) = self.keys.iter().position(|connection| connection.has(blob)) {
            return Ok(self.keys.remove(at));
        }
        let most = if self.is_halved() { MOST_KEYS / 2 } else { MOST_KEYS };
        while self.keys.len() >= most {
            drop(self.keys.remove(0));
        }
        self.open(inner, call)
    }

    /// Starts the session, loads the key. In this order: behind a resource manager a command with a
    /// loaded key costs three hidden ones, one with a session two.
    fn load(
        &mut self,
        inner: &Inner,
        call: &Call,
        key: &Key,
        connection: &mut Connection,
        password: bool,
    ) -> Result<Arc<Entity>, Fault> {
        let wanted = Some(&*key.srk);
        let known = self.root.as_ref();
        let fresh = connection.is_fresh() && inner.shape == Shape::Bare;
        if fresh {
            // The harmless first command.
            connection.root(wanted, known, true, call)?;
        }
        if !password && !connection.has(&key.blob) {
            connection.session(None, call)?;
        }
        let transient = connection.seen_root().is_some_and(Pinned::is_transient);
        let narrow = transient || self.is_halved();
        let (most, contexts) = match inner.shape {
            Shape::Bare if narrow => (MOST_BARE_KEYS - 1, Some(&mut self.contexts)),
            Shape::Bare => (MOST_BARE_KEYS, Some(&mut self.contexts)),
            Shape::Managed => (1, None),
            Shape::Daemon => (MOST_DAEMON_KEYS, None),
        };
        let root = |connection: &mut Connection| connection.root(wanted, known, false, call);
        let entity = connection.load(&key.blob, root, most, contexts, call)?;
        if inner.shape == Shape::Managed {
            // A transient root would be swapped around every command.
            if let Some(root) = connection.seen_root().filter(|root| root.is_transient()) {
                let handle = root.handle();
                connection.flush(&[handle], &[]);
                connection.forget_root();
            }
        }
        Ok(entity)
    }

    /// Runs a job with a key that the waiting login authorizes, once.
    pub(super) fn granted_job<T>(
        &mut self,
        inner: &Inner,
        call: &Call,
        key: &Key,
        grant: &Grant,
        job: &mut dyn FnMut(&mut KeyLease) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.drop_old_grants(inner.shape);
        let lost = || Fault::new(Trouble::LoginLost);
        let mine = |waiting: &Waiting| waiting.ticket.as_ptr() == Arc::as_ptr(&grant.0);
        let at = self.waiting.iter().position(mine).ok_or_else(lost)?;
        let Waiting { policy, connection, .. } = self.waiting.remove(at);
        let mut connection = match connection {
            Some(connection) => connection,
            None if self.main.as_ref().is_some_and(|main| main.link.is_broken()) => {
                return Err(lost());
            }
            None => self.main.take().ok_or_else(lost)?,
        };
        let outcome = self.load_granted(inner, call, key, &mut connection);
        let outcome = match outcome {
            Ok((entity, root)) => {
                let how = How::Grant { policy, root };
                let (call, blob) = (call.clone(), key.blob.clone());
                let mut lease = KeyLease { connection, call, key: entity, blob, how };
                let outcome = job(&mut lease);
                connection = lease.connection;
                outcome
            }
            Err(fault) => Err(fault),
        };
        if inner.shape == Shape::Managed {
            connection.close(inner.shape);
        } else {
            self.put_main(inner, connection);
        }
        // A login that went with the TPM's memory is to be made again; whatever else happened, is told.
        outcome.map_err(|fault| match fault.remedy() {
            Remedy::Rebuild | Remedy::Startup => lost(),
            _ => fault,
        })
    }

    fn load_granted(
        &mut self,
        inner: &Inner,
        call: &Call,
        key: &Key,
        connection: &mut Connection,
    ) -> Result<(Arc<Entity>, Pinned), Fault> {
        let entity = self.load(inner, call, key, connection, true)?;
        let root = connection.root(Some(&*key.srk), self.root.as_ref(), false, call)?;
        Ok((entity, root))
    }

    // ---- the context gap -------------------------------------------------------------------

    /// Whether the hot path goes without a session now.
    fn without_session(&mut self, inner: &Inner, call: &Call) -> Result<bool, Fault> {
        match inner.settings.bus_protection {
            BusProtection::Strict => Ok(false),
            BusProtection::Always => Ok(self.gap.passwords),
            BusProtection::Discrete if inner.shape == Shape::Managed => {
                if self.facts.is_none() {
                    let mut connection = self.take_main(inner, call)?;
                    let facts = facts::ask(&mut connection.link, call);
                    self.put_main(inner, connection);
                    self.facts = Some(facts?);
                }
                let spared = self.facts.as_ref().is_some_and(|facts| inner.spares_session(facts));
                Ok(spared || self.gap.passwords)
            }
            BusProtection::Discrete => Ok(self.gap.passwords),
        }
    }

    /// From time to time: does an idle session of another program come near to blocking everybody?
    fn look_at_gap(&mut self, inner: &Inner, call: &Call) -> Result<(), Fault> {
        let again = self.gap.passwords
            && self.gap.looked.is_none_or(|looked| looked.elapsed() >= GAP_AGAIN);
        let soon = inner.shape == Shape::Managed && self.gap.commands >= GAP_LOOK;
        if !soon && !again {
            return Ok(());
        }
        let mut connection = self.take_main(inner, call)?;
        let ask = GetCapability { of: Capability::Handles, first: SAVED_SESSIONS, count: 64 };
        let listed = execute(&mut connection.link, &ask, &mut [], call);
        self.put_main(inner, connection);
        const INDEX: u32 = 0x00FF_FFFF;
        let ours: Vec<u32> = self
            .main
            .iter()
            .chain(&self.keys)
            .chain(self.waiting.iter().filter_map(|waiting| waiting.connection.as_ref()))
            .flat_map(|connection| connection.link.held().iter().map(|handle| handle & INDEX))
            .collect();
        let strange = listed?.items.iter().any(|item| !ours.contains(&(item.0 & INDEX)));
        self.gap.commands = 0;
        self.gap.looked = Some(Instant::now());
        match (strange, self.gap.passwords) {
            (true, false) => self.enter_gap(inner),
            (false, true) => {
                self.gap.passwords = false;
                self.keys.clear();
                log::info!("tpm: no idle session of another program any more");
            }
            _ => {}
        }
        Ok(())
    }

    fn enter_gap(&mut self, inner: &Inner) {
        if inner.settings.bus_protection == BusProtection::Strict {
            return;
        }
        log::warn!(
            "tpm: an idle session of another program blocks or will block the TPM's sessions; keys \
             are used with password authorization meanwhile"
        );
        self.gap.passwords = true;
        self.gap.looked = Some(Instant::now());
        // Without their sessions.
        self.keys.clear();
    }

    // ---- faults ----------------------------------------------------------------------------

    /// What an outcome means for the call: its end, or another try after the remedy.
    pub(super) fn judge<T>(
        &mut self,
        inner: &Inner,
        outcome: Result<T, Fault>,
        call: &Call,
        tried: &mut Tried,
        repeatable: impl FnOnce(&Fault) -> bool,
    ) -> ControlFlow<Result<T, Fault>> {
        let fault = match outcome {
            Ok(answer) => {
                self.breaker.failures = 0;
                return ControlFlow::Break(Ok(answer));
            }
            Err(fault) => fault,
        };
        let may = repeatable(&fault);
        match self.mend(inner, &fault, tried, call, may) {
            Ok(true) if may => ControlFlow::Continue(()),
            Ok(_) => {
                self.note(&fault);
                ControlFlow::Break(Err(fault))
            }
            // The remedy failed, too, and says more.
            Err(worse) => {
                self.abandon(inner.shape);
                self.note(&worse);
                ControlFlow::Break(Err(worse))
            }
        }
    }

    /// Applies the remedy. `true`: another try makes sense.
    fn mend(
        &mut self,
        inner: &Inner,
        fault: &Fault,
        tried: &mut Tried,
        call: &Call,
        may: bool,
    ) -> Result<bool, Fault> {
        let once = |flag: &mut bool| !std::mem::replace(flag, true);
        match fault.remedy() {
            Remedy::Rebuild => {
                log::info!("tpm: lease dropped: {fault}");
                self.abandon(inner.shape);
                let first = once(&mut tried.rebuilt);
                if !first && *fault.kind() == Trouble::Reference && tried.losses < LOSSES {
                    tried.losses += 1;
                    return Ok(true);
                }
                // A resource manager behind a socket has no EFAULT to say: it hangs up.
                let gap = !first && fault.command == Some(StartAuthSession::NAME);
                if gap && inner.shape == Shape::Managed && once(&mut tried.without_session) {
                    self.enter_gap(inner);
                    return Ok(self.gap.passwords);
                }
                Ok(first)
            }
            Remedy::Startup if may && once(&mut tried.started) => {
                self.start(inner, call)?;
                Ok(true)
            }
            Remedy::FindAgain | Remedy::Reload if may && once(&mut tried.found_again) => {
                self.contexts.clear();
                self.root = None;
                if let Some(main) = &mut self.main {
                    main.forget_root();
                }
                Ok(true)
            }
            Remedy::FlushObjects | Remedy::FlushSessions if may => {
                tried.flushes += 1;
                self.make_room(inner, fault, tried.flushes, call)
            }
            Remedy::WithoutSession => {
                self.abandon(inner.shape);
                let first = once(&mut tried.without_session);
                if first && !self.gap.passwords {
                    self.enter_gap(inner);
                }
                Ok(first && self.gap.passwords)
            }
            Remedy::Drop => {
                log::info!("tpm: lease dropped: {fault}");
                self.abandon(inner.shape);
                Ok(false)
            }
            // One wrong bit in the answer that began the session makes its HMACs wrong.
            Remedy::GiveUp if may && *fault.kind() == Trouble::AuthFail => {
                log::info!("tpm: lease dropped: {fault}");
                self.abandon(inner.shape);
                Ok(once(&mut tried.rebuilt))
            }
            Remedy::GiveUp if *fault.kind() == Trouble::Failure => {
                self.look_at_failure(inner, call);
                Ok(false)
            }
            Remedy::Startup
            | Remedy::FindAgain
            | Remedy::Reload
            | Remedy::FlushObjects
            | Remedy::FlushSessions
            | Remedy::Wait(_)
            | Remedy::Again
            | Remedy::Reconnect
            | Remedy::NextIndex
            | Remedy::GiveUp => Ok(false),
        }
    }

    /// TPM_RC_INITIALIZE: a simulator has no firmware that would start it; a machine's TPM will be
    /// started by the kernel that resumes.
    fn start(&mut self, inner: &Inner, call: &Call) -> Result<(), Fault> {
        if inner.simulator {
            let mut connection = self.take_main(inner, call)?;
            match execute(&mut connection.link, &Startup, &mut [], call) {
                Ok(()) => {
                    log::info!("tpm: started (TPM2_Startup)");
                    connection.forget_all();
                }
                // It runs, by somebody else's doing or all the time: then ours may still be there.
                Err(fault) if fault.code().is_some() => connection.flush_all(&[]),
                Err(fault) => return Err(fault),
            }
            connection.forget_root();
            self.main = Some(connection);
        } else {
            transport::pause(Duration::from_secs(1), call)?;
            self.abandon(inner.shape);
        }
        self.waiting.clear();
        self.keys.clear();
        self.contexts.clear();
        self.root = None;
        Ok(())
    }

    /// The TPM is full: of what is ours, then of what nobody owns. What others hold, they may let go.
    fn make_room(
        &mut self,
        inner: &Inner,
        fault: &Fault,
        time: u32,
        call: &Call,
    ) -> Result<bool, Fault> {
        let sessions = fault.remedy() == Remedy::FlushSessions;
        match (time, inner.shape) {
            (1, Shape::Managed) if fault.code() == Some(SESSION_HANDLES) => {
                self.halved = Some(Instant::now() + HALVED);
                let surplus = self.keys.len().saturating_sub(MOST_KEYS / 2);
                self.keys.drain(..surplus);
                Ok(true)
            }
            (1, Shape::Bare | Shape::Daemon) => {
                let spared = self.spared();
                if let Some(main) = &mut self.main {
                    main.flush_all(&spared);
                }
                if fault.remedy() == Remedy::FlushObjects {
                    // Somebody else's objects are there, too: keep to what is left.
                    self.halved = Some(Instant::now() + HALVED);
                }
                Ok(true)
            }
            (1, Shape::Managed) => {
                self.abandon(inner.shape);
                Ok(true)
            }
            // Behind a resource manager all programs share so many sessions. All of ours go, too: of
            // many that wait for one more, one must get on.
            (2.., Shape::Managed | Shape::Daemon) if sessions => {
                self.abandon_sessions(inner.shape);
                let wait = (ROOM_AGAIN * (1 << time.min(8))).min(ROOM_AGAIN_MOST);
                Ok(rest(wait, call).transpose()?.is_some())
            }
            (2, Shape::Bare) if inner.exclusive => {
                self.waiting.clear();
                self.clear_leftovers(inner, call)
            }
            _ => Ok(false),
        }
    }

    /// Lets go, looks again and again; what stands unchanged all the time belongs to nobody.
    fn clear_leftovers(&mut self, inner: &Inner, call: &Call) -> Result<bool, Fault> {
        let mut connection = self.take_main(inner, call)?;
        connection.flush_all(&[]);
        let mut standing = leftovers::list(&mut connection.link, call)?;
        if standing.is_empty() {
            return Ok(false);
        }
        for wait in leftovers::WAITS {
            drop(connection);
            transport::pause(wait, call)?;
            connection = self.open(inner, call)?;
            let now = leftovers::list(&mut connection.link, call)?;
            standing.retain(|handle| now.contains(handle));
            if standing.is_empty() {
                self.main = Some(connection);
                self.halved = None;
                return Ok(true);
            }
        }
        if inner.settings.raw_leftovers == Leftovers::Wait {
            log::warn!("tpm: full of {} handles that a dead process left", standing.len());
            self.main = Some(connection);
            return Ok(false);
        }
        // The store is asked without our lock: it has one of its own of the same rank.
        let rank = self.held.take();
        let had_rank = rank.is_some();
        drop(rank);
        let outcome =
            leftovers::remove(&mut connection.link, &standing, inner.knows.as_ref(), call);
        self.held = had_rank.then(|| held(Rank::Leaf));
        self.main = Some(connection);
        self.halved = None;
        outcome.map(|()| true)
    }

    /// TPM_RC_FAILURE: some firmware says so of one bad input; a TPM that confirms it is left alone.
    fn look_at_failure(&mut self, inner: &Inner, call: &Call) {
        let Ok(mut connection) = self.take_main(inner, call) else { return };
        let confirmed = match execute(&mut connection.link, &GetTestResult, &mut [], call) {
            Ok(result) => {
                log::error!("tpm: TPM_RC_FAILURE; its test result is {result:x?}");
                result.code == FAILURE
            }
            // The question itself fails: that confirms it, too.
            Err(fault) => {
                log::error!("tpm: TPM_RC_FAILURE, and no test result: {fault}");
                *fault.kind() == Trouble::Failure
            }
        };
        self.put_main(inner, connection);
        if confirmed {
            self.abandon(inner.shape);
            self.breaker.until = Some(Instant::now() + LONG_BREAK);
            self.breaker.last = Some(Fault::of_code(FAILURE));
        }
    }

    /// Counts connections that broke for the breaker.
    fn note(&mut self, fault: &Fault) {
        let Trouble::Broken(broken) = fault.kind() else { return };
        let counts = matches!(broken.kind, BrokenKind::Absent | BrokenKind::Closed);
        // What the open breaker itself said is no new failure: else a poller would keep it open.
        if !counts || self.breaker.is_open().is_some() {
            return;
        }
        self.breaker.failures += 1;
        if self.breaker.failures >= FAILURES {
            self.breaker.until = Some(Instant::now() + BREAK);
            self.breaker.last = Some(fault.clone());
        }
    }
}
