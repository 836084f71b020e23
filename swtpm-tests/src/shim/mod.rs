//! The shim: a proxy between the module and swtpm.
//!
//! It writes down every command and response, and can behave like TPMs that swtpm is not: one with
//! faults ([`Fault`]), one that lacks something ([`Chip`]), one behind the kernel's resource manager
//! ([`manager`]). Without any of these it is only a wire, and the contract tests in
//! `tests/shim.rs` hold it to that.

pub mod chip;
pub mod fault;
pub mod manager;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::contains;
use crate::swtpm::read_message;
use crate::wire::{self, Session};
pub use chip::Chip;
pub use fault::{Action, Fault, Hold, Injected};
use manager::Space;

/// One command as the client sent it, and what it got.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Which connection, counted from 1.
    pub connection: u64,
    /// TPM_CC
    pub code: u32,
    /// The command's name in Part 3.
    pub name: String,
    /// The handles, as the client wrote them.
    pub handles: Vec<u32>,
    /// The authorization area.
    pub sessions: Vec<Session>,
    /// The response code, or `None` when the client got no whole response.
    pub answer: Option<u32>,
    /// The response code of the TPM itself, whatever became of it; `None` when it did not see the
    /// command.
    pub said: Option<u32>,
    /// What the resource manager sent to the chip around this command.
    pub hidden: usize,
    /// The fault that met this command.
    pub injected: bool,
    /// The command's bytes.
    pub command: Vec<u8>,
    /// The response's bytes as the client got them.
    pub response: Vec<u8>,
    /// When the command was complete at the shim.
    pub at: Instant,
    /// Until the response was written.
    pub took: Duration,
}

impl Entry {
    /// Whether a password in clear crossed the bus that is not empty.
    pub fn shows_a_password(&self) -> bool {
        self.sessions
            .iter()
            .any(|session| session.is_password() && !session.authorization.is_empty())
    }

    /// Whether an HMAC proves the command.
    pub fn is_hmac_protected(&self) -> bool {
        self.sessions.iter().any(Session::is_hmac)
    }

    /// Whether the command's first parameter is encrypted.
    pub fn encrypts_command(&self) -> bool {
        self.sessions.iter().any(Session::encrypts_command)
    }

    /// Whether the response's first parameter is encrypted.
    pub fn encrypts_response(&self) -> bool {
        self.sessions.iter().any(Session::encrypts_response)
    }

    /// This command and what the resource manager sent around it.
    pub fn executed_with_hidden(&self) -> usize {
        usize::from(self.code != 0) + self.hidden
    }

    /// One line for a person: `Sign(80ffffff) [hmac enc] -> 0 +5`.
    pub fn line(&self) -> String {
        let handles: Vec<String> =
            self.handles.iter().map(|handle| format!("{handle:x}")).collect();
        let mut line = format!("#{} {}({})", self.connection, self.name, handles.join(" "));
        for session in &self.sessions {
            line += match session {
                session if session.is_password() => " password",
                session if session.is_policy() => " policy",
                _ => " hmac",
            };
            if session.encrypts_command() {
                line += "+in";
            }
            if session.encrypts_response() {
                line += "+out";
            }
            if !session.continues() && !session.is_password() {
                line += "+end";
            }
        }
        line += &match self.answer {
            Some(code) => format!(" -> {code:#x}"),
            None => " -> no answer".to_owned(),
        };
        if self.hidden > 0 {
            line += &format!(" +{}", self.hidden);
        }
        if self.injected {
            line += " (fault)";
        }
        line
    }
}

/// Some entries of the record, in order.
#[derive(Debug, Clone, Default)]
pub struct Record(pub Vec<Entry>);

impl Record {
    /// Commands that the module sent.
    pub fn sent(&self) -> usize {
        self.0.len()
    }

    /// Commands that the chip executed, the resource manager's own included.
    pub fn executed(&self) -> usize {
        self.0.iter().map(Entry::executed_with_hidden).sum()
    }

    /// The commands of one kind.
    pub fn of(&self, code: u32) -> Vec<&Entry> {
        self.0.iter().filter(|entry| entry.code == code).collect()
    }

    /// How many of one kind.
    pub fn count(&self, code: u32) -> usize {
        self.of(code).len()
    }

    /// The commands' names in order.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|entry| entry.name.as_str()).collect()
    }

    /// That no command and no response has these bytes.
    ///
    /// # Panics
    /// If one has.
    #[track_caller]
    pub fn assert_hides(&self, secret: &[u8]) {
        for entry in &self.0 {
            let seen = contains(&entry.command, secret) || contains(&entry.response, secret);
            assert!(!seen, "in clear: {}", entry.line());
        }
    }

    /// One line each, for a failing test.
    pub fn lines(&self) -> String {
        self.0.iter().map(|entry| entry.line() + "\n").collect()
    }
}

/// What a TPM holds that should not stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// Loaded transient objects.
    pub objects: Vec<u32>,
    /// Loaded sessions.
    pub sessions: Vec<u32>,
    /// Saved sessions.
    pub saved: Vec<u32>,
}

impl Left {
    /// Whether nothing stayed.
    pub fn is_nothing(&self) -> bool {
        *self == Left::default()
    }
}

/// The connection to swtpm. Held for the length of one command and all that belongs to it.
#[derive(Debug)]
pub struct Upstream {
    socket: PathBuf,
    stream: Option<UnixStream>,
    clients: usize,
}

impl Upstream {
    /// Sends one command to swtpm itself.
    ///
    /// # Errors
    /// The socket's; the next call connects anew.
    pub fn transmit(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => UnixStream::connect(&self.socket)?,
        };
        stream.write_all(command)?;
        let response = read_message(&mut stream)?;
        self.stream = Some(stream);
        Ok(response)
    }

    fn leave_if_idle(&mut self) {
        if self.clients == 0 {
            self.stream = None;
        }
    }
}

#[derive(Debug)]
struct Inner {
    upstream: Mutex<Upstream>,
    record: Mutex<Vec<Entry>>,
    /// The commands that came so far, whatever was forgotten of them.
    kinds: Mutex<BTreeSet<u32>>,
    faults: Mutex<Vec<Injected>>,
    chip: Mutex<Chip>,
    managed: bool,
    stop: AtomicBool,
    connections: AtomicU64,
    cut: AtomicU64,
}

/// A running shim. Dropping it closes every connection.
#[derive(Debug)]
pub struct Shim {
    socket: PathBuf,
    inner: Arc<Inner>,
    server: Option<JoinHandle<()>>,
}

impl Shim {
    /// Listens on the UNIX socket `socket` in front of swtpm's data channel `upstream`, with the
    /// kernel's resource manager in between if `managed`.
    ///
    /// # Errors
    /// The socket's.
    pub fn start(socket: &Path, upstream: &Path, managed: bool) -> std::io::Result<Shim> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        if !managed {
            // As swtpm itself: one client is served, one may wait.
            rustix::net::listen(&listener, 1)?;
        }
        listener.set_nonblocking(true)?;
        let upstream = Upstream { socket: upstream.to_owned(), stream: None, clients: 0 };
        let inner = Arc::new(Inner {
            upstream: Mutex::new(upstream),
            record: Mutex::default(),
            kinds: Mutex::default(),
            faults: Mutex::default(),
            chip: Mutex::default(),
            managed,
            stop: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        });
        let server = std::thread::Builder::new().name("shim".into()).spawn({
            let inner = inner.clone();
            move || inner.serve(&listener)
        })?;
        Ok(Shim { socket: socket.to_owned(), inner, server: Some(server) })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The conf string of it.
    pub fn tcti(&self) -> String {
        format!("swtpm:path={}", self.socket.display())
    }

    /// How many connections were made so far, whether or not anything was sent through them.
    pub fn connections(&self) -> u64 {
        self.inner.connections.load(Ordering::SeqCst)
    }

    /// Everything recorded so far.
    pub fn record(&self) -> Record {
        Record(lock(&self.inner.record).clone())
    }

    /// A place in the record, for [`Shim::since`].
    pub fn mark(&self) -> usize {
        lock(&self.inner.record).len()
    }

    /// What was recorded after `mark`.
    pub fn since(&self, mark: usize) -> Record {
        Record(lock(&self.inner.record)[mark..].to_vec())
    }

    /// Forgets what is recorded; marks made before mean nothing any more.
    pub fn forget(&self) {
        lock(&self.inner.record).clear();
    }

    /// The codes of all commands that ever came.
    pub fn kinds(&self) -> Vec<u32> {
        lock(&self.inner.kinds).iter().copied().collect()
    }

    /// What was recorded while `job` ran, and its result.
    pub fn watch<T>(&self, job: impl FnOnce() -> T) -> (Record, T) {
        let mark = self.mark();
        let result = job();
        (self.since(mark), result)
    }

    /// Saves a session of its own so many times, as so many commands of another program behind the
    /// kernel's resource manager would. False if the TPM will not save it any more, because of the gap
    /// to the oldest saved session.
    pub fn age(&self, saves: u32) -> bool {
        // No other client's command is let in between: it could need the slot.
        let mut upstream = lock(&self.inner.upstream);
        let mut ask = |command: &[u8]| upstream.transmit(command).expect("swtpm answers");
        let response = ask(&wire::start_session());
        assert_eq!(wire::response_code(&response), 0, "a session for the bench");
        let handle = wire::u32_at(&response, 10);
        let save = wire::command(wire::CONTEXT_SAVE, &[handle], None, &[]);
        let mut saved = 0;
        while saved < saves {
            let response = ask(&save);
            if wire::response_code(&response) != 0 {
                break;
            }
            saved += 1;
            let load = wire::command(wire::CONTEXT_LOAD, &[], None, &response[10..]);
            assert_eq!(wire::response_code(&ask(&load)), 0, "what was just saved is loaded");
        }
        ask(&wire::command(wire::FLUSH_CONTEXT, &[handle], None, &[]));
        upstream.leave_if_idle();
        saved == saves
    }

    /// Adds a fault; of several the first one that matches a command meets it.
    pub fn inject(&self, fault: Fault) {
        lock(&self.inner.faults).push(Injected::new(fault));
    }

    /// How many commands have met a fault so far.
    pub fn met(&self) -> usize {
        lock(&self.inner.faults).iter().map(|injected| injected.met).sum()
    }

    /// Takes all faults away, and says how many commands met one.
    pub fn heal(&self) -> usize {
        lock(&self.inner.faults).drain(..).map(|injected| injected.met).sum()
    }

    /// Makes the TPM one that lacks what `chip` names.
    pub fn become_chip(&self, chip: Chip) {
        *lock(&self.inner.chip) = chip;
    }

    /// Nobody can connect any more: the socket is not where it was.
    pub fn hide(&self) {
        std::fs::rename(&self.socket, self.hidden()).expect("it was there");
    }

    /// Ends [`Shim::hide`].
    pub fn show(&self) {
        std::fs::rename(self.hidden(), &self.socket).expect("it was hidden");
    }

    fn hidden(&self) -> PathBuf {
        self.socket.with_extension("hidden")
    }

    /// Cuts every open connection, as a restarted resource manager does.
    pub fn cut_connections(&self) {
        self.inner.cut.fetch_add(1, Ordering::SeqCst);
        // Whoever is served notices within one turn of its poll.
        std::thread::sleep(Duration::from_millis(2 * TURN));
    }

    /// Sends a command of the bench's own past record and faults. It waits for the command that
    /// runs, not for the client to go.
    pub fn ask(&self, command: &[u8]) -> Vec<u8> {
        let mut upstream = lock(&self.inner.upstream);
        // The connection may be to a swtpm that was killed meanwhile.
        let response = upstream
            .transmit(command)
            .or_else(|_| upstream.transmit(command))
            .expect("swtpm answers");
        upstream.leave_if_idle();
        response
    }

    /// What is loaded or saved in the TPM now.
    pub fn left(&self) -> Left {
        let handles = |property| {
            let response = self.ask(&wire::get_capability(1, property, 64));
            let count = wire::u32_at(&response, 15) as usize;
            (0..count).map(|index| wire::u32_at(&response, 19 + 4 * index)).collect()
        };
        Left {
            objects: handles(0x8000_0000),
            sessions: handles(0x0200_0000),
            saved: handles(0x0300_0000),
        }
    }

    /// Waits up to `patience` until nothing is left in the TPM; what is left otherwise.
    pub fn settled(&self, patience: Duration) -> Left {
        let deadline = Instant::now() + patience;
        loop {
            let left = self.left();
            if left.is_nothing() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many tries at a PIN index the TPM counted as wrong after `mark`: what it itself said to
    /// commands that are authorized by an NV index, whatever the client was told.
    pub fn pin_tries(&self, mark: usize) -> usize {
        const AUTH_FAIL: u32 = 0x08E;
        const BAD_AUTH: u32 = 0x0A2;
        let is_wrong = |code: u32| matches!(code & 0x0BF, AUTH_FAIL | BAD_AUTH);
        self.since(mark)
            .0
            .iter()
            .filter(|entry| entry.handles.first().is_some_and(|handle| handle >> 24 == 0x01))
            // Its session authorizes nothing.
            .filter(|entry| entry.code != wire::NV_READ_PUBLIC)
            .filter(|entry| entry.said.is_some_and(is_wrong))
            .count()
    }

    /// The TPM's dictionary-attack counter (TPM_PT_LOCKOUT_COUNTER).
    pub fn lockout_counter(&self) -> u32 {
        let response = self.ask(&wire::get_capability(6, 0x20E, 1));
        wire::u32_at(&response, 23)
    }

    /// NV indices that are defined.
    pub fn nv_indices(&self) -> Vec<u32> {
        let response = self.ask(&wire::get_capability(1, 0x0100_0000, 64));
        let count = wire::u32_at(&response, 15) as usize;
        (0..count).map(|index| wire::u32_at(&response, 19 + 4 * index)).collect()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::SeqCst);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// How long a poll lasts before stop and cut are looked at, in ms.
const TURN: u64 = 10;

/// A mutex whose holder panicked is still good: the bench has nothing half-updated.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn readable(descriptor: &impl AsFd) -> bool {
    let mut descriptors = [PollFd::new(descriptor, PollFlags::IN)];
    let turn = rustix::event::Timespec { tv_sec: 0, tv_nsec: TURN as i64 * 1_000_000 };
    matches!(poll(&mut descriptors, Some(&turn)), Ok(count) if count > 0)
}

impl Inner {
    fn serve(self: &Arc<Inner>, listener: &UnixListener) {
        let mut threads = Vec::new();
        while !self.stop.load(Ordering::SeqCst) {
            if !readable(listener) {
                continue;
            }
            let Ok((stream, _)) = listener.accept() else { continue };
            let _ = stream.set_nonblocking(false);
            if self.managed {
                let inner = self.clone();
                threads.push(std::thread::spawn(move || inner.client(stream)));
            } else {
                self.client(stream);
            }
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn client(&self, mut stream: UnixStream) {
        let connection = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let cut = self.cut.load(Ordering::SeqCst);
        lock(&self.upstream).clients += 1;
        let mut space = self.managed.then(Space::default);
        while !self.stop.load(Ordering::SeqCst) && self.cut.load(Ordering::SeqCst) == cut {
            if !readable(&stream) {
                continue;
            }
            let Some(code) = peek_code(&stream) else { break };
            lock(&self.kinds).insert(code);
            let action = fault::meet(&mut lock(&self.faults), code);
            if let Some(Action::DropCommand(bytes)) = action {
                let mut part = vec![0; bytes];
                let _ = stream.read_exact(&mut part);
                lock(&self.record)
                    .push(Entry { injected: true, ..Entry::cut(connection, code, part) });
                break;
            }
            let Ok(command) = read_message(&mut stream) else { break };
            if !self.one(connection, &mut stream, &mut space, command, action) {
                break;
            }
        }
        let mut upstream = lock(&self.upstream);
        if let Some(space) = space {
            let hidden = space.close(&mut upstream);
            if hidden > 0 {
                lock(&self.record).push(Entry::closing(connection, hidden));
            }
        }
        upstream.clients -= 1;
        upstream.leave_if_idle();
    }

    /// Serves one command; false when the connection is to be closed.
    fn one(
        &self,
        connection: u64,
        stream: &mut UnixStream,
        space: &mut Option<Space>,
        command: Vec<u8>,
        action: Option<Action>,
    ) -> bool {
        let at = Instant::now();
        let parsed = wire::parse(&command);
        let code = wire::u32_at(&command, 6);
        let injected = action.is_some();
        let action = match action {
            Some(Action::Hold(hold)) => hold.hold(|| self.stop.load(Ordering::SeqCst)),
            other => other,
        };
        if let Some(Action::Delay(pause)) = action {
            std::thread::sleep(pause);
        }
        if let Some(Action::Silence) = action {
            while !self.stop.load(Ordering::SeqCst) && !gone(stream) {
                std::thread::sleep(Duration::from_millis(TURN));
            }
        }
        let (mut response, hidden) = match &action {
            Some(Action::DropBefore | Action::Silence) => (None, 0),
            Some(Action::Answer(code)) => (Some(wire::answer(*code)), 0),
            _ => self.execute(space, &command, parsed.as_ref()),
        };
        let executed = !matches!(action, Some(Action::Answer(_)));
        let said = response.as_deref().filter(|_| executed).map(wire::response_code);
        let mut written = response.as_ref().map_or(0, Vec::len);
        match (&action, &mut response) {
            (Some(Action::AnswerAfter(code)), Some(response)) => *response = wire::answer(*code),
            (Some(Action::Garble { at, xor }), Some(response)) => {
                let index = if *at < 0 { response.len() as isize + at } else { *at };
                if let Some(byte) = response.get_mut(index.max(0) as usize) {
                    *byte ^= xor;
                }
            }
            (Some(Action::Rewrite(change)), Some(response)) => change(&command, response),
            (Some(Action::DropInside(bytes)), _) => written = written.min(*bytes),
            (Some(Action::DropAfter), _) => written = 0,
            _ => {}
        }
        if !matches!(action, Some(Action::DropInside(_) | Action::DropAfter)) {
            written = response.as_ref().map_or(0, Vec::len);
        }
        let bytes = response.unwrap_or_default();
        let whole = !bytes.is_empty() && written == bytes.len();
        // The record first: who has the answer may look at once.
        lock(&self.record).push(Entry {
            connection,
            code,
            name: wire::name(code),
            handles: parsed.as_ref().map(|parsed| parsed.handles.clone()).unwrap_or_default(),
            sessions: parsed.map(|parsed| parsed.sessions).unwrap_or_default(),
            answer: whole.then(|| wire::response_code(&bytes)),
            said,
            hidden,
            injected,
            command,
            response: bytes.clone(),
            at,
            took: at.elapsed(),
        });
        stream.write_all(&bytes[..written]).is_ok() && whole
    }

    /// The command, executed by swtpm in the shape of this TPM. `None`: no answer can be had.
    fn execute(
        &self,
        space: &mut Option<Space>,
        command: &[u8],
        parsed: Option<&wire::Parsed>,
    ) -> (Option<Vec<u8>>, usize) {
        let chip = lock(&self.chip).clone();
        if let Some(code) = chip.refuses(command, parsed) {
            return (Some(wire::answer(code)), 0);
        }
        let mut upstream = lock(&self.upstream);
        let (response, hidden) = match space {
            Some(space) => space.execute(&mut upstream, command, parsed),
            None => (upstream.transmit(command).ok(), 0),
        };
        drop(upstream);
        let response = response.map(|mut response| {
            chip.rewrite(command, &mut response);
            response
        });
        (response, hidden)
    }
}

impl Entry {
    /// What closing a connection made the resource manager send.
    fn closing(connection: u64, hidden: usize) -> Entry {
        let nothing = Entry::cut(connection, 0, Vec::new());
        Entry { name: "(closed)".to_owned(), hidden, ..nothing }
    }

    /// A command of which only a part was read.
    fn cut(connection: u64, code: u32, command: Vec<u8>) -> Entry {
        Entry {
            connection,
            code,
            name: wire::name(code),
            handles: Vec::new(),
            sessions: Vec::new(),
            answer: None,
            said: None,
            hidden: 0,
            injected: false,
            command,
            response: Vec::new(),
            at: Instant::now(),
            took: Duration::ZERO,
        }
    }
}

/// The code of the command that comes next, which stays unread.
fn peek_code(stream: &UnixStream) -> Option<u32> {
    use rustix::net::{RecvFlags, recv};
    let mut header = [0u8; 10];
    let flags = RecvFlags::PEEK | RecvFlags::WAITALL;
    loop {
        match recv(stream, &mut header[..], flags) {
            Ok((10, _)) => return Some(wire::u32_at(&header, 6)),
            Err(rustix::io::Errno::INTR) => {}
            _ => return None,
        }
    }
}

/// Whether the client has closed its end.
fn gone(stream: &UnixStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let mut byte = [0u8; 1];
    matches!(
        recv(stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT),
        Ok((0, _)) | Err(rustix::io::Errno::CONNRESET)
    )
}
