//! A disk that stands between SQLite and the system's: it notes what is asked of it, fails, falls short or
//! kills the process at a chosen moment; and what a cut of the power leaves of it.
//!
//! It is SQLite's own seam (`sqlite3_vfs`), in the copy of SQLite that the module linked into this test
//! uses. Only what changes files counts: creating, writing, truncating, syncing, removing. Everything else,
//! locks above all, goes straight through.

#![allow(unsafe_code)] // SQLite's VFS is a table of C functions.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rand_core::RngCore;
use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

// ---- what was asked ------------------------------------------------------------------------------

/// What SQLite asked of the disk. File names without their directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A new file.
    Create(String),
    /// These bytes from there on.
    Write(String, usize, Vec<u8>),
    /// So many bytes remain.
    Truncate(String, usize),
    /// Everything written is durable; with the file's name, if it is told for the first time of a journal.
    Sync(String, bool),
    /// The name is gone; durably, if that is asked for.
    Remove(String, bool),
}

impl Asked {
    /// For a message.
    pub fn what(&self) -> String {
        match self {
            Asked::Create(name) => format!("create {name}"),
            Asked::Write(name, at, bytes) => format!("write {name} {at}+{}", bytes.len()),
            Asked::Truncate(name, to) => format!("truncate {name} to {to}"),
            Asked::Sync(name, _) => format!("sync {name}"),
            Asked::Remove(name, _) => format!("remove {name}"),
        }
    }

    /// Whether this is the commit: the journal goes.
    pub fn commits(&self) -> bool {
        matches!(self, Asked::Remove(name, _) if name.ends_with("-journal"))
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It fails with this error of the system, once.
    Fails(c_int),
    /// It fails with this error, and so does everything after it.
    FailsOn(c_int),
    /// Half of a write is done, then the disk is full. (What is no write fails.)
    Short,
    /// SIGKILL before it is done. Counts commits alone.
    KillsBeforeCommit,
    /// SIGKILL as soon as it is done. Counts commits alone.
    KillsAfterCommit,
}

struct State {
    place: PathBuf,
    asked: Option<Vec<Asked>>,
    /// What goes wrong after how many more.
    wrong: Option<(usize, Wrong)>,
    met: usize,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn state() -> MutexGuard<'static, Option<State>> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the disk under everything that SQLite opens in this directory from now on.
pub fn watch(place: &Path) {
    static ONCE: Once = Once::new();
    ONCE.call_once(register);
    *state() = Some(State { place: place.to_owned(), asked: None, wrong: None, met: 0 });
}

/// Runs `job`; what it asked of the disk.
pub fn recorded<T>(job: impl FnOnce() -> T) -> (Vec<Asked>, T) {
    let with = |asked| state().as_mut().expect("a watched place").asked.replace(asked);
    with(Vec::new());
    let value = job();
    let asked = state().as_mut().expect("a watched place").asked.take();
    (asked.unwrap_or_default(), value)
}

/// Lets `wrong` happen at the `n`-th thing asked from now on, counted from 1.
pub fn go_wrong(n: usize, wrong: Wrong) {
    let mut state = state();
    let state = state.as_mut().expect("a watched place");
    (state.wrong, state.met) = (Some((n - 1, wrong)), 0);
}

/// Nothing goes wrong any more. How often something did.
pub fn heal() -> usize {
    let mut state = state();
    let state = state.as_mut().expect("a watched place");
    state.wrong = None;
    state.met
}

/// How a request ends.
enum Verdict {
    Done,
    Fails(c_int),
    Half(c_int),
    /// The last that is done.
    Last,
}

/// Notes a request, and decides what becomes of it.
fn ask(path: &Path, what: impl FnOnce(String) -> Asked) -> Verdict {
    let mut guard = state();
    let Some(state) = guard.as_mut() else { return Verdict::Done };
    let (true, Some(name)) = (path.parent() == Some(&state.place), path.file_name()) else {
        return Verdict::Done;
    };
    let what = what(name.to_string_lossy().into_owned());
    let is_write = matches!(what, Asked::Write(..));
    let verdict = match &mut state.wrong {
        Some((_, Wrong::KillsBeforeCommit | Wrong::KillsAfterCommit)) if !what.commits() => {
            Verdict::Done
        }
        Some((0, wrong)) => {
            state.met += 1;
            match *wrong {
                Wrong::FailsOn(errno) => Verdict::Fails(errno),
                once => {
                    state.wrong = None;
                    match once {
                        Wrong::Fails(errno) | Wrong::FailsOn(errno) => Verdict::Fails(errno),
                        Wrong::Short if is_write => Verdict::Half(libc::ENOSPC),
                        Wrong::Short => Verdict::Fails(libc::ENOSPC),
                        Wrong::KillsBeforeCommit => die(),
                        Wrong::KillsAfterCommit => Verdict::Last,
                    }
                }
            }
        }
        Some((left, _)) => {
            *left -= 1;
            Verdict::Done
        }
        None => Verdict::Done,
    };
    if matches!(verdict, Verdict::Done) {
        state.asked.iter_mut().for_each(|asked| asked.push(what.clone()));
    }
    verdict
}

/// As the kernel kills a process: nothing runs any more.
fn die() -> ! {
    // SAFETY: two calls without memory.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
        loop {
            libc::pause();
        }
    }
}

fn set_errno(errno: c_int) {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = errno };
}

// ---- the table of functions -------------------------------------------------------------------------

/// What SQLite sees as its file. The system's file follows it in memory.
#[repr(C)]
struct Tapped {
    base: sqlite3_file,
    /// A `Box<Watched>`, null while not open.
    watched: *mut Watched,
}

struct Watched {
    path: PathBuf,
    /// The first sync of a new journal makes its name durable, too.
    syncs_name: bool,
}

/// The system's file behind ours.
unsafe fn real(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: SQLite gave us room for both (szOsFile), one after the other.
    unsafe { file.cast::<u8>().add(size_of::<Tapped>()).cast() }
}

/// Calls a function of the system's file.
macro_rules! pass {
    ($file:expr, $function:ident $(, $argument:expr)*) => {{
        // SAFETY: an open file of the system's VFS, whose table has every function of version 1.
        unsafe {
            let file = real($file);
            ((*(*file).pMethods).$function.expect("every file has it"))(file $(, $argument)*)
        }
    }};
}

fn watched<'a>(file: *mut sqlite3_file) -> &'a mut Watched {
    // SAFETY: SQLite calls only with open files, and with each from one thread at a time.
    unsafe { &mut *(*file.cast::<Tapped>()).watched }
}

extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let code = pass!(file, xClose);
    // SAFETY: made by Box::into_raw in `open`, and SQLite closes once.
    drop(unsafe { Box::from_raw((*file.cast::<Tapped>()).watched) });
    code
}

extern "C" fn read(
    file: *mut sqlite3_file,
    to: *mut c_void,
    count: c_int,
    at: sqlite3_int64,
) -> c_int {
    pass!(file, xRead, to, count, at)
}

extern "C" fn write(
    file: *mut sqlite3_file,
    from: *const c_void,
    count: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite's buffer of this length.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), count as usize) };
    match ask(&watched(file).path, |name| Asked::Write(name, at as usize, bytes.to_vec())) {
        Verdict::Done | Verdict::Last => pass!(file, xWrite, from, count, at),
        Verdict::Half(errno) => {
            pass!(file, xWrite, from, count / 2, at);
            failed(errno, ffi::SQLITE_IOERR_WRITE)
        }
        Verdict::Fails(errno) => failed(errno, ffi::SQLITE_IOERR_WRITE),
    }
}

/// As the system's VFS answers.
fn failed(errno: c_int, code: c_int) -> c_int {
    set_errno(errno);
    if code == ffi::SQLITE_IOERR_WRITE && errno == libc::ENOSPC { ffi::SQLITE_FULL } else { code }
}

extern "C" fn truncate(file: *mut sqlite3_file, to: sqlite3_int64) -> c_int {
    match ask(&watched(file).path, |name| Asked::Truncate(name, to as usize)) {
        Verdict::Done | Verdict::Half(_) | Verdict::Last => pass!(file, xTruncate, to),
        Verdict::Fails(errno) => failed(errno, ffi::SQLITE_IOERR_TRUNCATE),
    }
}

extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    let watched = watched(file);
    let with_name = watched.syncs_name;
    match ask(&watched.path, |name| Asked::Sync(name, with_name)) {
        Verdict::Done | Verdict::Half(_) | Verdict::Last => {
            watched.syncs_name = false;
            pass!(file, xSync, flags)
        }
        Verdict::Fails(errno) => failed(errno, ffi::SQLITE_IOERR_FSYNC),
    }
}

extern "C" fn size(file: *mut sqlite3_file, to: *mut sqlite3_int64) -> c_int {
    pass!(file, xFileSize, to)
}

extern "C" fn lock(file: *mut sqlite3_file, kind: c_int) -> c_int {
    pass!(file, xLock, kind)
}

extern "C" fn unlock(file: *mut sqlite3_file, kind: c_int) -> c_int {
    pass!(file, xUnlock, kind)
}

extern "C" fn reserved(file: *mut sqlite3_file, to: *mut c_int) -> c_int {
    pass!(file, xCheckReservedLock, to)
}

extern "C" fn control(file: *mut sqlite3_file, what: c_int, argument: *mut c_void) -> c_int {
    pass!(file, xFileControl, what, argument)
}

extern "C" fn sector(file: *mut sqlite3_file) -> c_int {
    pass!(file, xSectorSize)
}

extern "C" fn character(file: *mut sqlite3_file) -> c_int {
    pass!(file, xDeviceCharacteristics)
}

/// Version 1: no shared memory, no memory map; the module uses neither.
static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector),
    xDeviceCharacteristics: Some(character),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// The system's VFS.
fn system() -> *mut sqlite3_vfs {
    // SAFETY: a name that every build for Unix has; it is never unregistered.
    unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) }
}

fn path(name: *const c_char) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: a path as SQLite gives them.
    let name = unsafe { CStr::from_ptr(name) };
    PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    got: *mut c_int,
) -> c_int {
    let at = if name.is_null() { PathBuf::new() } else { path(name) };
    // SAFETY: SQLite's memory for our file; without a table it is not closed.
    unsafe { (*file).pMethods = ptr::null() };
    let creates = flags & ffi::SQLITE_OPEN_CREATE != 0 && !at.exists();
    if creates {
        if let Verdict::Fails(errno) = ask(&at, Asked::Create) {
            return failed(errno, ffi::SQLITE_CANTOPEN);
        }
    }
    // SAFETY: as SQLite itself would call it, with room for its file behind ours.
    let code = unsafe {
        let system = system();
        ((*system).xOpen.expect("a VFS opens"))(system, name, real(file), flags, got)
    };
    if code == ffi::SQLITE_OK {
        let syncs_name = creates && flags & ffi::SQLITE_OPEN_MAIN_JOURNAL != 0;
        let watched = Box::into_raw(Box::new(Watched { path: at, syncs_name }));
        // SAFETY: as above; `close` takes the box back.
        unsafe {
            (*file.cast::<Tapped>()).watched = watched;
            (*file).pMethods = &METHODS;
        }
    }
    code
}

extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, durably: c_int) -> c_int {
    let at = path(name);
    let verdict = match at.exists() {
        true => ask(&at, |name| Asked::Remove(name, durably != 0)),
        false => Verdict::Done,
    };
    if let Verdict::Fails(errno) = verdict {
        return failed(errno, ffi::SQLITE_IOERR_DELETE);
    }
    // SAFETY: as SQLite itself would call it.
    let code = unsafe {
        let system = system();
        ((*system).xDelete.expect("a VFS deletes"))(system, name, durably)
    };
    if matches!(verdict, Verdict::Last) {
        die();
    }
    code
}

fn register() {
    let system = system();
    // SAFETY: the system's table is copied; ours lives as long as the process.
    unsafe {
        let mut ours = ptr::read(system);
        ours.iVersion = 2; // no system calls to exchange
        ours.szOsFile += size_of::<Tapped>() as c_int;
        ours.pNext = ptr::null_mut();
        ours.zName = c"tapped".as_ptr();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        let ours = Box::leak(Box::new(ours));
        assert_eq!(ffi::sqlite3_vfs_register(ours, 1), ffi::SQLITE_OK);
    }
}

// ---- what is left ----------------------------------------------------------------------------------

/// The smallest piece of a write that a disk does whole [bytes].
const SECTOR: usize = 512;

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Truncate(length) => content.resize(*length, 0),
        Change::Write(at, bytes) => {
            content.resize(content.len().max(at + bytes.len()), 0);
            content[*at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

fn put(path: &Path, content: &[u8]) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut new = std::fs::OpenOptions::new();
    let file = new.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content)).expect("a file");
}

/// A disk that keeps what was asked of it in a cache, and loses any part of that with the power.
#[derive(Clone, Default)]
pub struct Disk {
    /// What has a name for good.
    names: BTreeSet<String>,
    /// Names given and taken since, in order.
    renamed: Vec<(String, bool)>,
    /// Content that is there for good, and changes since the file was synced.
    files: BTreeMap<String, (Vec<u8>, Vec<Change>)>,
}

impl Disk {
    /// What lies in a directory, all of it durable.
    pub fn of(directory: &Path) -> Disk {
        let mut disk = Disk::default();
        for entry in std::fs::read_dir(directory).expect("a directory").map(Result::unwrap) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let content = std::fs::read(entry.path()).expect("a file");
            disk.files.insert(name.clone(), (content, Vec::new()));
            disk.names.insert(name);
        }
        disk
    }

    /// Does what is asked, in the cache.
    pub fn ask(&mut self, asked: &Asked) {
        match asked {
            Asked::Write(name, at, bytes) => {
                let change = Change::Write(*at, bytes.clone());
                self.files.entry(name.clone()).or_default().1.push(change);
            }
            Asked::Truncate(name, length) => {
                self.files.entry(name.clone()).or_default().1.push(Change::Truncate(*length));
            }
            Asked::Sync(name, with_name) => {
                let (content, changes) = self.files.entry(name.clone()).or_default();
                changes.drain(..).for_each(|change| apply(content, &change));
                if *with_name {
                    self.sync_names();
                }
            }
            Asked::Create(name) => {
                // Another file than the one that had the name before.
                self.files.insert(name.clone(), Default::default());
                self.renamed.push((name.clone(), true));
            }
            Asked::Remove(name, durably) => {
                self.renamed.push((name.clone(), false));
                if *durably {
                    self.sync_names();
                }
            }
        }
    }

    fn sync_names(&mut self) {
        for (name, there) in self.renamed.drain(..) {
            if there {
                self.names.insert(name)
            } else {
                self.names.remove(&name)
            };
        }
    }

    fn names_after(&self, kept: usize) -> BTreeSet<String> {
        let mut names = self.names.clone();
        for (name, there) in &self.renamed[..kept] {
            if *there {
                names.insert(name.clone())
            } else {
                names.remove(name)
            };
        }
        names
    }

    /// What other processes find when this one is killed: everything that was asked; with `half`, half of
    /// the next write, too.
    pub fn seen(&self, half: Option<&Asked>, to: &Path) {
        for name in self.names_after(self.renamed.len()) {
            let (mut content, changes) = self.files[&name].clone();
            changes.iter().for_each(|change| apply(&mut content, change));
            match half {
                Some(Asked::Write(of, at, bytes)) if *of == name => {
                    let half = bytes[..bytes.len() / 2].to_vec();
                    apply(&mut content, &Change::Write(*at, half));
                }
                _ => {}
            }
            put(&to.join(name), &content);
        }
    }

    /// What is found after a power cut: of the names a first part of what was asked, of each file's
    /// changes any, and of each write any sectors; one time in four everything is lost that can be.
    pub fn survives(&self, random: &mut impl RngCore, to: &Path) {
        let none = random.next_u32() % 4 == 0;
        let kept = if none { 0 } else { random.next_u32() as usize % (self.renamed.len() + 1) };
        for name in self.names_after(kept) {
            let (mut content, changes) = self.files[&name].clone();
            for change in changes.iter().filter(|_| !none) {
                match (random.next_u32() % 4, change) {
                    (0, _) => {}
                    (1, Change::Write(at, bytes)) => {
                        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                            if random.next_u32() % 2 == 0 {
                                let part = Change::Write(at + index * SECTOR, sector.to_vec());
                                apply(&mut content, &part);
                            }
                        }
                    }
                    (_, whole) => apply(&mut content, whole),
                }
            }
            put(&to.join(name), &content);
        }
    }
}
