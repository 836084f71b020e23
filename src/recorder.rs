//! The flight recorder: the last calls and TPM commands of this process, by name, time, duration, code and
//! size. Never what they carried: no data, no handle, no PIN, no label.
//!
//! It is kept in memory, at the cost of some clock readings a call. Two small files of each user hold what
//! is worth more than its process: the last failure, and the last process that used the TPM and ended in
//! good order. Both have mode 0600, are replaced whole, never grow, and no link is followed on the way to
//! them. Whatever goes wrong with them is silent: it is no business of the host's.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, FileType, Mode, OFlags};

/// How many calls are kept, and how many commands.
pub const KEPT: usize = 64;

/// A file is never longer [bytes]. A line is below 120.
const LONGEST: u64 = 64 << 10;

/// Failures within this time of the last one that was written are written with the next, or at the end: a
/// host that polls a dead TPM does not wear out a disk.
const PAUSE: Duration = Duration::from_secs(1);

/// One call or command.
#[derive(Clone, Copy)]
struct Entry {
    /// Which process: a forked child begins with what its parent did.
    process: u32,
    begun: SystemTime,
    took: Duration,
    name: &'static str,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// A call and its return value.
    Call(u64),
    /// A command, its response code (`None`: no answer came), bytes sent and received.
    Command(Option<u32>, usize, usize),
}

/// The last [`KEPT`] entries. Each place has a lock of its own that nobody waits for: a lock that another
/// thread held at a fork costs the child that one place.
struct Ring {
    next: AtomicUsize,
    places: [Mutex<Option<Entry>>; KEPT],
}

impl Ring {
    const fn new() -> Ring {
        Ring { next: AtomicUsize::new(0), places: [const { Mutex::new(None) }; KEPT] }
    }

    fn keep(&self, entry: Entry) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % KEPT;
        if let Some(Ok(mut place)) = self.places.get(at).map(Mutex::try_lock) {
            *place = Some(entry);
        }
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.places.iter().filter_map(|place| place.try_lock().ok().and_then(|entry| *entry))
    }
}

static CALLS: Ring = Ring::new();
static COMMANDS: Ring = Ring::new();

/// Where files go; empty before C_Initialize, after C_Finalize and in programs with more rights than their
/// user.
static PLACES: RwLock<Vec<Place>> = RwLock::new(Vec::new());
/// A TPM command was sent since C_Initialize.
static USED: AtomicBool = AtomicBool::new(false);
/// A failure is not written yet.
static PENDING: AtomicBool = AtomicBool::new(false);
/// When the last failure was written, in ms of this process's clock.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// A directory for the files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    directory: PathBuf,
    /// Ours alone, in memory, and made if need be; else a store's, for failures only.
    volatile: bool,
}

/// Measures one call or command.
pub struct Clock {
    begun: SystemTime,
    since: Instant,
}

impl Clock {
    /// Starts it.
    pub fn start() -> Clock {
        Clock { begun: SystemTime::now(), since: Instant::now() }
    }

    /// A call is over.
    pub fn call(self, name: &'static str, code: u64) {
        CALLS.keep(self.entry(name, What::Call(code)));
    }

    /// A TPM command was answered, with this response code, or was not.
    pub fn command(self, name: &'static str, code: Option<u32>, sent: usize, received: usize) {
        USED.store(true, Ordering::Relaxed);
        COMMANDS.keep(self.entry(name, What::Command(code, sent, received)));
    }

    fn entry(self, name: &'static str, what: What) -> Entry {
        let Clock { begun, since } = self;
        Entry { process: std::process::id(), begun, took: since.elapsed(), name, what }
    }
}

/// From now on failures are written: to the user's runtime directory, else into one of these directories of
/// stores if it exists. Not in a program that has more rights than its user (`secure`).
pub fn start(stores: &[PathBuf], secure: bool) {
    let places = if secure {
        Vec::new()
    } else {
        places(std::env::var_os("XDG_RUNTIME_DIR"), user(), stores)
    };
    if let Ok(mut kept) = PLACES.try_write() {
        *kept = places;
    }
    USED.store(false, Ordering::Relaxed);
    PENDING.store(false, Ordering::Relaxed);
    WRITTEN.store(0, Ordering::Relaxed);
}

/// A call failed for a reason that somebody will want to know.
pub fn failed() {
    PENDING.store(true, Ordering::Relaxed);
    // Since the process's first failure; 0 means that none was written.
    static BIRTH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let now = BIRTH.get_or_init(Instant::now).elapsed() + PAUSE;
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let last = WRITTEN.load(Ordering::Relaxed);
    let early = last != 0 && now.saturating_sub(last) < PAUSE.as_millis() as u64;
    let ours =
        !early && WRITTEN.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    if ours {
        write(true);
    }
}

/// The module ends: what is worth keeping is written, and nothing more from now on.
pub fn finish() {
    if PENDING.load(Ordering::Relaxed) {
        write(true);
    }
    if USED.load(Ordering::Relaxed) {
        write(false);
    }
    if let Ok(mut places) = PLACES.try_write() {
        places.clear();
    }
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn places(runtime: Option<OsString>, user: u32, stores: &[PathBuf]) -> Vec<Place> {
    let usual = PathBuf::from(format!("/run/user/{user}"));
    let runtime = runtime.map(PathBuf::from).filter(|path| path.is_absolute()).unwrap_or(usual);
    let own = Place { directory: runtime.join("tpm11"), volatile: true };
    let stores = stores.iter().map(|of| Place { directory: of.clone(), volatile: false });
    std::iter::once(own).chain(stores).collect()
}

fn name(failure: bool, user: u32) -> String {
    format!("tpm11-{}-{user}.txt", if failure { "failure" } else { "last" })
}

/// Writes the record to the first place that takes it.
fn write(failure: bool) {
    let Ok(places) = PLACES.try_read() else { return };
    if places.is_empty() {
        return;
    }
    // Beyond this limit a write is a signal that kills the host.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    if limit.is_some_and(|limit| limit < LONGEST) {
        return;
    }
    if failure {
        PENDING.store(false, Ordering::Relaxed);
    }
    let text = text(failure, &CALLS, &COMMANDS);
    let user = user();
    for place in places.iter().filter(|place| place.volatile || failure) {
        if replace(place, user, &name(failure, user), &text).is_ok() {
            return;
        }
    }
}

/// The directory, if nobody else can change what is in it; a store's may belong to a group.
fn directory(place: &Place, user: u32) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let open = |path: &Path| rustix::fs::openat(CWD, path, flags, Mode::empty());
    if !place.volatile {
        return open(&place.directory);
    }
    let parent = place.directory.parent().ok_or(rustix::io::Errno::NOENT)?;
    let of = open(parent)?;
    let is_own = |found: &rustix::fs::Stat| found.st_uid == user && found.st_mode & 0o022 == 0;
    if !is_own(&rustix::fs::fstat(&of)?) {
        return Err(rustix::io::Errno::PERM);
    }
    let last = place.directory.file_name().ok_or(rustix::io::Errno::NOENT)?;
    match rustix::fs::mkdirat(&of, last, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let found = rustix::fs::openat(&of, last, flags, Mode::empty())?;
    if is_own(&rustix::fs::fstat(&found)?) { Ok(found) } else { Err(rustix::io::Errno::PERM) }
}

/// Replaces a file by one with this text, in one step.
fn replace(place: &Place, user: u32, name: &str, text: &str) -> std::io::Result<()> {
    let directory = directory(place, user)?;
    let new = format!("{name}.new");
    let create = || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&directory, new.as_str(), flags, Mode::RUSR | Mode::WUSR)
    };
    let file = match create() {
        Err(rustix::io::Errno::EXIST) => {
            // Another process is at it; or was, and died.
            let found = rustix::fs::statat(
                &directory,
                new.as_str(),
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )?;
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = now.map_or(0, |since| since.as_secs());
            if now.abs_diff(u64::try_from(found.st_mtime).unwrap_or(0)) < 10 {
                return Ok(());
            }
            rustix::fs::unlinkat(&directory, new.as_str(), rustix::fs::AtFlags::empty())?;
            create()?
        }
        other => other?,
    };
    let written = File::from(file).write_all(text.as_bytes());
    let done = written
        .and_then(|()| Ok(rustix::fs::renameat(&directory, new.as_str(), &directory, name)?));
    if done.is_err() {
        let _ = rustix::fs::unlinkat(&directory, new.as_str(), rustix::fs::AtFlags::empty());
    }
    done
}

/// The record as text.
fn text(failure: bool, calls: &Ring, commands: &Ring) -> String {
    let program = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    let program: String = program.trim_end().chars().filter(|c| !c.is_control()).collect();
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let mut out = format!(
        "tpm11 {}: {} of process {} ({program}), written {now}\n\
         {:<27}  {:>7}  {:<28}  {:<10}  {:>12}  bytes\n",
        env!("CARGO_PKG_VERSION"),
        if failure { "a failure" } else { "the end" },
        std::process::id(),
        "time",
        "process",
        "call, command",
        "code",
        "duration",
    );
    let mut entries: Vec<Entry> = calls.entries().chain(commands.entries()).collect();
    // A call begins before its commands.
    entries.sort_by_key(|entry| entry.begun);
    for Entry { process, begun, took, name, what } in entries {
        let time = humantime::format_rfc3339_micros(begun);
        let took = format!("{}.{:03} ms", took.as_millis(), took.as_micros() % 1000);
        let (name, code, bytes) = match what {
            What::Call(code) => (name.to_owned(), format!("{code:#010x}"), String::new()),
            What::Command(code, sent, received) => (
                format!("  {name}"),
                code.map_or("no answer".to_owned(), |code| format!("{code:#010x}")),
                format!("{sent} > {received}"),
            ),
        };
        // Writing to a string does not fail.
        let _ = writeln!(out, "{time}  {process:>7}  {name:<28}  {code:<10}  {took:>12}  {bytes}");
    }
    out
}

/// A record that a process left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The file.
    pub path: PathBuf,
    /// Whether it was written for a failure; else at the end of a process.
    pub failure: bool,
    /// When it was written.
    pub written: SystemTime,
    /// What it says, one line per call or command; without control characters.
    pub lines: Vec<String>,
}

/// The records of this user, failures first, later ones first; root sees those of all users. What another
/// user could have put in their place is left out.
pub fn records(stores: &[PathBuf]) -> Vec<Record> {
    let user = user();
    let mut places = places(std::env::var_os("XDG_RUNTIME_DIR"), user, stores);
    if user == 0 {
        let users = std::fs::read_dir("/run/user").into_iter().flatten().flatten();
        places.extend(users.map(|of| Place { directory: of.path().join("tpm11"), volatile: true }));
    }
    places.dedup();
    let mut found: Vec<Record> = places.iter().flat_map(|place| read_all(place, user)).collect();
    found.sort_by_key(|record| (!record.failure, std::cmp::Reverse(record.written)));
    found.dedup_by(|a, b| a.path == b.path);
    found
}

fn read_all(place: &Place, user: u32) -> Vec<Record> {
    let files = std::fs::read_dir(&place.directory).into_iter().flatten().flatten();
    let paths = files.map(|file| file.path());
    paths.filter_map(|path| read(&path, user)).collect()
}

fn read(path: &Path, user: u32) -> Option<Record> {
    let name = path.file_name()?.to_str()?;
    let (kind, of) = name.strip_prefix("tpm11-")?.strip_suffix(".txt")?.split_once('-')?;
    let of: u32 = of.parse().ok()?;
    let failure = match kind {
        "failure" => true,
        "last" => false,
        _ => return None,
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || stat.st_uid != of || (of != user && user != 0) {
        return None;
    }
    let file = File::from(file);
    let written = file.metadata().ok()?.modified().ok()?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let shown = |line: &str| line.chars().filter(|c| !c.is_control()).collect();
    Some(Record {
        path: path.to_owned(),
        failure,
        written,
        lines: text.lines().map(shown).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Whatever the umask: a directory that a group may write is nobody's own.
    fn private_directory() -> tempfile::TempDir {
        let mode = std::fs::Permissions::from_mode(0o700);
        tempfile::Builder::new().permissions(mode).tempdir().unwrap()
    }

    fn own(directory: &Path) -> Place {
        Place { directory: directory.join("tpm11"), volatile: true }
    }

    #[test]
    fn a_record_is_replaced_whole_and_is_its_users_alone() {
        let directory = private_directory();
        let place = own(directory.path());
        let name = name(true, user());
        for text in ["first\n", "second\nline\u{7}\n"] {
            replace(&place, user(), &name, text).unwrap();
        }
        let path = place.directory.join(&name);
        assert_eq!(std::fs::read_dir(&place.directory).unwrap().count(), 1, "nothing grows");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let record = read(&path, user()).unwrap();
        assert!(record.failure);
        assert_eq!(record.lines, ["second", "line"]);
    }

    #[test]
    fn no_link_is_followed_and_no_place_of_others_is_used() {
        let directory = private_directory();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "mine").unwrap();
        let place = own(directory.path());
        let name = name(true, user());
        std::fs::create_dir(&place.directory).unwrap();
        for link in [name.clone(), format!("{name}.new")] {
            let _ = std::os::unix::fs::symlink(&victim, place.directory.join(link));
        }
        let _ = replace(&place, user(), &name, "record\n");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(read(&place.directory.join(&name), user()), None, "nor when reading");

        let mode = |mode| {
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(mode))
        };
        std::fs::remove_dir_all(&place.directory).unwrap();
        mode(0o777).unwrap();
        assert!(replace(&place, user(), &name, "record\n").is_err(), "anybody can write there");
        mode(0o700).unwrap();
        assert!(replace(&place, user() + 1, &name, "record\n").is_err(), "another user's");
        std::os::unix::fs::symlink(&victim, &place.directory).unwrap();
        assert!(replace(&place, user(), &name, "record\n").is_err(), "a link");
    }

    #[test]
    fn what_a_dead_process_left_is_taken_away_after_a_while() {
        let directory = private_directory();
        let place = own(directory.path());
        let name = name(false, user());
        replace(&place, user(), &name, "first\n").unwrap();
        let new = place.directory.join(format!("{name}.new"));
        let left = File::create(&new).unwrap();
        replace(&place, user(), &name, "second\n").unwrap();
        assert!(new.exists(), "somebody may be at it");
        left.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        replace(&place, user(), &name, "third\n").unwrap();
        assert!(!new.exists());
        assert_eq!(read(&place.directory.join(&name), user()).unwrap().lines, ["third"]);
    }

    #[test]
    fn the_last_64_calls_and_commands_are_kept_in_their_order() {
        let (calls, commands) = (Ring::new(), Ring::new());
        let command = |code, sent, received| {
            Clock::start().entry("TPM2_Sign", What::Command(code, sent, received))
        };
        for number in 0..200 {
            let clock = Clock::start();
            commands.keep(command(Some(0x922), 100, number));
            calls.keep(clock.entry("C_Sign", What::Call(0x30)));
        }
        commands.keep(command(None, 9, 0));
        let text = text(true, &calls, &commands);
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("C_Sign"), KEPT);
        assert_eq!(count("TPM2_Sign"), KEPT);
        assert!(text.contains("0x00000922") && text.contains("no answer"), "{text}");
        assert!(text.contains("100 > 199"), "{text}");
        assert!((text.len() as u64) < LONGEST, "{}", text.len());
    }
}
