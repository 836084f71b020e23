//! The one connection of this process to a database file.
//!
//! Everything that reads or writes goes through [`File::read`] and [`File::write`]: one transaction
//! each, none open between calls. Three rules shape this file:
//!
//! - *One connection per file and process*, whatever paths and [`super::Store`]s lead to it, because
//!   POSIX locks belong to the process (see `sibling.rs`). A registry keeps them by device and inode.
//! - *A forked child touches nothing*: it abandons the registry with everything in it and starts a
//!   new one.
//! - *What cannot be written can still be read*: no permission, a read-only medium, a newer version
//!   and a sibling all lead to a mode in which writing answers why not.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::migrate::{Ladder, Version};
use super::place::{file_mode, room_to_grow, unwritable};
use super::registry::{Descriptors, process, registry};
use super::sibling::{self, Key};
use super::{Fault, Options, waiting};
use crate::fork;
use crate::sync::{Guard, Mutex, Rank};

/// The longest value that SQLite may hold here [bytes]: an attribute has at most 16 MiB, and an
/// object few of that size.
pub(super) const LONGEST_VALUE: i32 = 32 << 20;

/// How a file is open.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    /// For writing.
    Write,
    /// For reading, with locks; says why not for writing.
    Read(String),
    /// For reading, without locks and never closed: somebody else in this process has it open.
    Snapshot,
}

const SIBLING: &str = "another copy of this module or of SQLite in the same process has the store \
                       open; this copy only reads it";

/// A database file and this process's connection to it.
pub(super) struct File {
    key: Key,
    /// Without symbolic links.
    path: PathBuf,
    options: Options,
    /// Who opened it.
    process: u64,
    ladder: Ladder,
    /// When this process last committed something.
    wrote: StdMutex<Option<Instant>>,
    /// Taken out only by `drop`.
    inner: Option<Mutex<Inner>>,
}

struct Inner {
    open: Option<Open>,
    /// Answer of [`File::change`].
    change: u64,
}

struct Open {
    connection: Connection,
    mode: Mode,
    /// SQLite's counter of other connections' commits, as last seen.
    data_version: i64,
    /// What the schema was found to be; `None` before anybody looked.
    schema: Option<Schema>,
}

#[derive(Clone)]
struct Schema {
    /// SQLite's counter of changes to the schema.
    version: i64,
    /// False for a file without anything in it.
    exists: bool,
    /// Why a later version may only be read.
    newer: Option<String>,
}

/// One attempt at a transaction.
enum Attempt<T> {
    Done(T),
    /// There is nothing in the file.
    Nothing,
    /// The file changed under us in a way that asks for another look.
    Again,
}

impl File {
    /// The file with this identity; without I/O. `path` leads to it now, without symbolic links.
    pub(super) fn of(key: Key, path: PathBuf, options: &Options, ladder: Ladder) -> Arc<File> {
        let _calm = fork::calm();
        let mut files = registry().files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|file| file.strong_count() > 0);
        // By a path that still leads there: the journal lies beside it.
        let same = |file: &Arc<File>| {
            file.key == key
                && (file.path == path
                    || fs::symlink_metadata(&file.path)
                        .is_ok_and(|found| (found.dev(), found.ino()) == key))
        };
        if let Some(file) = files.iter().filter_map(Weak::upgrade).find(same) {
            return file;
        }
        let inner = Mutex::new(Rank::Leaf, Inner { open: None, change: next_change() });
        let file = Arc::new(File {
            key,
            path,
            options: options.clone(),
            process: process(),
            ladder,
            wrote: StdMutex::new(None),
            inner: Some(inner),
        });
        files.push(Arc::downgrade(&file));
        file
    }

    /// Whether somebody is in the middle of a transaction.
    pub(super) fn is_in_use(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.try_lock().is_none())
    }

    /// Device and inode.
    pub(super) fn key(&self) -> Key {
        self.key
    }

    fn lock(&self) -> Result<Guard<'_, Inner>, Fault> {
        if self.process != process() {
            return Err(Fault::Forked);
        }
        let inner = self.inner.as_ref().map(Mutex::lock).ok_or(Fault::Forked)?;
        waiting::until(Instant::now() + self.options.busy_timeout);
        Ok(inner)
    }

    /// Runs `job` in one read transaction: all its statements see the same state. `None` if there
    /// is nothing in the file. `job` may run several times.
    pub(super) fn read<T>(
        &self,
        mut job: impl FnMut(&Connection) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let mut inner = self.lock()?;
        self.patiently(&mut inner, |inner| self.read_once(inner, &mut job))
    }

    /// Repeats `job` while the file changes under it, until the busy timeout. `None` if there is
    /// nothing in the file.
    fn patiently<T>(
        &self,
        inner: &mut Inner,
        mut job: impl FnMut(&mut Inner) -> Result<Attempt<T>, Fault>,
    ) -> Result<Option<T>, Fault> {
        let deadline = Instant::now() + self.options.busy_timeout;
        loop {
            match job(inner) {
                Ok(Attempt::Done(value)) => return Ok(Some(value)),
                Ok(Attempt::Nothing) => return Ok(None),
                Ok(Attempt::Again) if waiting::is_abandoned() => return Err(Fault::Canceled),
                Ok(Attempt::Again) if Instant::now() < deadline => {}
                Ok(Attempt::Again) => return Err(Fault::Busy(BUSY.to_owned())),
                // Without locks, a reader meets writers of other processes at work: a journal that
                // looks left behind, pages that do not fit each other.
                Err(fault) if inner.is_snapshot() && fault.may_pass() => {
                    if waiting::is_abandoned() {
                        return Err(Fault::Canceled);
                    }
                    if Instant::now() > deadline {
                        return Err(fault);
                    }
                    std::thread::sleep(SNAPSHOT_PAUSE);
                }
                Err(fault) => {
                    self.after(inner, &fault);
                    return Err(fault);
                }
            }
        }
    }

    fn read_once<T>(
        &self,
        inner: &mut Inner,
        job: &mut impl FnMut(&Connection) -> Result<T, Fault>,
    ) -> Result<Attempt<T>, Fault> {
        let open = self.prepare(inner)?;
        if open.mode != Mode::Snapshot {
            return open.attempt(TransactionBehavior::Deferred, |transaction| job(transaction));
        }
        // No lock keeps writers away, so look whether one came by.
        let before = Footprint::of(&self.path);
        let version = open.data_version()?;
        let attempt =
            open.attempt(TransactionBehavior::Deferred, |transaction| job(transaction))?;
        let calm = before.is_some()
            && before == Footprint::of(&self.path)
            && version == open.data_version()?;
        if calm {
            return Ok(attempt);
        }
        std::thread::sleep(SNAPSHOT_PAUSE);
        Ok(Attempt::Again)
    }

    /// Runs `job` in one write transaction and commits what it did; on any error nothing is changed.
    /// `growth` is about how many bytes it adds. A file without anything in it gets its tables.
    pub(super) fn write<T>(
        &self,
        growth: usize,
        mut job: impl FnMut(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.let_others_go_first();
        let mut inner = self.lock()?;
        for _ in 0..8 {
            match self.write_once(&mut inner, growth, &mut job) {
                Ok(Attempt::Done(value)) => {
                    inner.change = next_change();
                    *self.wrote.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(Instant::now());
                    return Ok(value);
                }
                Ok(Attempt::Nothing | Attempt::Again) => {}
                Err(fault) => {
                    self.after(&mut inner, &fault);
                    return Err(fault);
                }
            }
        }
        Err(Fault::Busy(BUSY.to_owned()))
    }

    /// After a commit, leaves the file alone until everybody who waits for it has looked once.
    /// Whoever writes again and again would else keep out all others: they look only now and then.
    fn let_others_go_first(&self) {
        let wrote = *self.wrote.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = wrote
            .and_then(|wrote| (wrote + waiting::LONGEST).checked_duration_since(Instant::now()));
        if let Some(rest) = rest {
            std::thread::sleep(rest);
        }
    }

    fn write_once<T>(
        &self,
        inner: &mut Inner,
        growth: usize,
        job: &mut impl FnMut(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<Attempt<T>, Fault> {
        self.may_write(inner)?;
        room_to_grow(&self.path, growth)?;
        let ladder = self.ladder;
        let open = self.prepare(inner)?;
        let attempt =
            open.attempt(TransactionBehavior::Immediate, |transaction| job(transaction))?;
        if matches!(attempt, Attempt::Nothing) {
            let transaction =
                Transaction::new_unchecked(&open.connection, TransactionBehavior::Immediate)?;
            // Unless somebody else was faster.
            if ladder.look(&transaction)? == Version::Empty {
                ladder.climb(&transaction, 0)?;
                transaction.commit()?;
            }
            open.schema = None;
        }
        Ok(attempt)
    }

    /// Whether the file can be written, as far as can be told without writing. What was forbidden
    /// when the file was opened may be allowed now, and the reverse.
    pub(super) fn writable(&self) -> Result<(), Fault> {
        let mut inner = self.lock()?;
        self.patiently(&mut inner, |inner| self.may_write(inner).map(Attempt::Done)).map(drop)
    }

    fn may_write(&self, inner: &mut Inner) -> Result<(), Fault> {
        let allowed = match unwritable(&self.path, &self.options) {
            Some(why) => return Err(Fault::WriteProtected(why)),
            None => |mode: &Mode| !matches!(mode, Mode::Read(_)),
        };
        if inner.open.as_ref().is_some_and(|open| !allowed(&open.mode)) {
            self.close(inner);
        }
        let looked = self.prepare(inner).err();
        if inner.is_snapshot() {
            return Err(Fault::WriteProtected(SIBLING.to_owned()));
        }
        if let Some(fault) = looked {
            return Err(fault);
        }
        let open = self.prepare(inner)?;
        match (&open.mode, &open.schema) {
            (Mode::Read(why), _) | (_, Some(Schema { newer: Some(why), .. })) => {
                Err(Fault::WriteProtected(why.clone()))
            }
            (Mode::Snapshot, _) => Err(Fault::WriteProtected(SIBLING.to_owned())),
            (Mode::Write, _) => Ok(()),
        }
    }

    /// A number that grows with every commit of anybody.
    pub(super) fn change(&self) -> Result<u64, Fault> {
        let mut inner = self.lock()?;
        let same = self.patiently(&mut inner, |inner| {
            let open = self.prepare(inner)?;
            let now = open.data_version()?;
            Ok(Attempt::Done(std::mem::replace(&mut open.data_version, now) == now))
        })?;
        if same != Some(true) {
            inner.change = next_change();
        }
        Ok(inner.change)
    }

    /// Runs `job` outside of any transaction. Not without locks.
    pub(super) fn bare<T>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut inner = self.lock()?;
        let outcome = self.prepare(&mut inner).and_then(|open| match open.mode {
            Mode::Snapshot => Err(Fault::WriteProtected(SIBLING.to_owned())),
            Mode::Write | Mode::Read(_) => job(&open.connection),
        });
        if let Err(fault) = &outcome {
            self.after(&mut inner, fault);
        }
        outcome
    }

    /// Ends the connection if the fault asks for it.
    fn after(&self, inner: &mut Inner, fault: &Fault) {
        if fault.ends_connection() {
            self.close(inner);
        }
    }

    /// Connects if need be, and looks at the schema if need be.
    fn prepare<'a>(&self, inner: &'a mut Inner) -> Result<&'a mut Open, Fault> {
        if inner.open.is_none() {
            inner.open = Some(self.connect().map_err(Fault::while_opening)?);
            inner.change = next_change();
        }
        let open = inner.open.as_mut().ok_or(Fault::Bug("the store has no connection"))?;
        if open.schema.is_none() {
            self.look(open)?;
            open.data_version = open.data_version()?;
        }
        Ok(open)
    }

    fn look(&self, open: &mut Open) -> Result<(), Fault> {
        if matches!(self.ladder.look(&open.connection)?, Version::Older(_)) {
            if open.mode != Mode::Write {
                return Err(Fault::NotRecognized(
                    "the store is of an earlier version; a program that may write it must open it \
                     once"
                        .to_owned(),
                ));
            }
            self.ladder.migrate(&open.connection, &self.path, file_mode(&self.path))?;
        }
        let transaction =
            Transaction::new_unchecked(&open.connection, TransactionBehavior::Deferred)?;
        let version = schema_version(&transaction)?;
        let found = self.ladder.look(&transaction)?;
        drop(transaction);
        let newer = match found {
            Version::Newer(version) => {
                Some(format!("the store was written by a later version (schema {version})"))
            }
            Version::Older(_) => return Err(Fault::Busy(BUSY.to_owned())),
            Version::Empty | Version::Current => None,
        };
        open.schema = Some(Schema { version, exists: found != Version::Empty, newer });
        Ok(())
    }

    fn connect(&self) -> Result<Open, Fault> {
        let registry = registry();
        registry.usable()?;
        let mut descriptors = registry.descriptors();
        let ours = *descriptors.ours(self.key);
        let all = sibling::descriptors(self.key);
        let (mut connection, mut mode) = (None, Mode::Snapshot);
        if all.is_some_and(|all| all > ours) {
            descriptors.warn_once(self.key, || {
                log::warn!("store: {SIBLING}: {}", self.path.display());
            });
        } else {
            let why = unwritable(&self.path, &self.options);
            let access = match why {
                None => OpenFlags::SQLITE_OPEN_READ_WRITE,
                Some(_) => OpenFlags::SQLITE_OPEN_READ_ONLY,
            };
            let new = Connection::open_with_flags(&self.path, access | FLAGS)?;
            let now = sibling::descriptors(self.key);
            if now.is_some_and(|now| now > ours + 1) {
                // Somebody came at the same moment. No lock was taken yet, so ours may lie there,
                // but must not be closed.
                descriptors.warn_once(self.key, || {
                    log::warn!("store: {SIBLING}: {}", self.path.display());
                });
                *descriptors.ours(self.key) += 1;
                descriptors.kept.push((self.key, new));
            } else if now.is_some_and(|now| now == ours) {
                return Err(Fault::Changed);
            } else {
                *descriptors.ours(self.key) += 1;
                connection = Some(new);
                mode = why.map_or(Mode::Write, Mode::Read);
            }
        }
        let connection = match connection {
            Some(connection) => connection,
            None => self.connect_without_locks(&mut descriptors)?,
        };
        drop(descriptors);
        if mode == Mode::Write && connection.is_readonly("main")? {
            mode = Mode::Read("the store's file cannot be written".to_owned());
        }
        let open = Open { connection, mode, data_version: 0, schema: None };
        match self.set(&open) {
            Ok(()) => Ok(open),
            Err(fault) => {
                self.part_with(open);
                Err(fault)
            }
        }
    }

    fn connect_without_locks(&self, descriptors: &mut Descriptors) -> Result<Connection, Fault> {
        let lockless = |(key, connection): &(Key, Connection)| {
            *key == self.key && connection.path().is_some() && is_lockless(connection)
        };
        if let Some(at) = descriptors.kept.iter().position(lockless) {
            return Ok(descriptors.kept.swap_remove(at).1);
        }
        let mut uri = "file:".to_owned();
        for byte in self.path.as_os_str().as_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                    uri.push(char::from(*byte));
                }
                _ => write!(uri, "%{byte:02x}").map_err(|_| Fault::Memory)?,
            }
        }
        uri.push_str("?mode=ro&nolock=1");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | FLAGS;
        let connection = Connection::open_with_flags(uri, flags)?;
        *descriptors.ours(self.key) += 1;
        Ok(connection)
    }

    /// Settings of the connection; reads nothing but what `journal_mode` needs.
    fn set(&self, open: &Open) -> Result<(), Fault> {
        let connection = &open.connection;
        connection.busy_handler(Some(waiting::again))?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        // A file that shrinks under a memory map is a SIGBUS in the host program.
        connection.pragma_update_and_check(None, "mmap_size", 0, |_| Ok(()))?;
        // No page is written before the commit: lockless readers count on it.
        connection.pragma_update(None, "cache_spill", false)?;
        if open.mode == Mode::Write {
            // EXTRA: the removal of the journal is the commit, so it must be durable, too.
            connection.pragma_update(None, "synchronous", "EXTRA")?;
            connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
            // Leaves WAL, should somebody have chosen it: a reader without write permission could
            // not read it.
            connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
        } else {
            connection.pragma_update(None, "query_only", true)?;
        }
        Ok(())
    }

    fn close(&self, inner: &mut Inner) {
        if let Some(open) = inner.open.take() {
            self.part_with(open);
        }
        inner.change = next_change();
    }

    /// Closes a connection, or keeps it for later if it must not be closed.
    fn part_with(&self, open: Open) {
        let mut descriptors = registry().descriptors();
        if open.mode == Mode::Snapshot {
            descriptors.kept.push((self.key, open.connection));
            return;
        }
        // Closing may leave the descriptor open while statements run, but none does.
        drop(open.connection);
        let ours = descriptors.ours(self.key);
        *ours = ours.saturating_sub(1);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        if self.process != process() {
            // A forked child: not even a lock is taken.
            std::mem::forget(inner);
            return;
        }
        if let Some(open) = inner.into_inner().open {
            let _calm = fork::calm();
            self.part_with(open);
        }
    }
}

const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX.union(OpenFlags::SQLITE_OPEN_NOFOLLOW);

const BUSY: &str = "other programs keep changing the store; try again";

/// How long a reader without locks waits for a writer to finish.
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(2);

impl Inner {
    fn is_snapshot(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.mode == Mode::Snapshot)
    }
}

impl Open {
    fn data_version(&self) -> Result<i64, Fault> {
        Ok(self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?)
    }

    fn attempt<T>(
        &mut self,
        behavior: TransactionBehavior,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<Attempt<T>, Fault> {
        let writes = matches!(behavior, TransactionBehavior::Immediate);
        let Some(schema) = self.schema.clone() else { return Ok(Attempt::Again) };
        let transaction = Transaction::new_unchecked(&self.connection, behavior)?;
        if schema_version(&transaction)? != schema.version {
            // Somebody migrated the store, or tampers with it: look again.
            drop(transaction);
            self.schema = None;
            return Ok(Attempt::Again);
        }
        if !schema.exists {
            return Ok(Attempt::Nothing);
        }
        let value = job(&transaction)?;
        if writes {
            transaction.commit()?;
        }
        Ok(Attempt::Done(value))
    }
}

fn schema_version(connection: &Connection) -> Result<i64, Fault> {
    Ok(connection.pragma_query_value(None, "schema_version", |row| row.get(0))?)
}

fn next_change() -> u64 {
    static CHANGES: AtomicU64 = AtomicU64::new(1);
    CHANGES.fetch_add(1, Ordering::Relaxed)
}

/// Whether the connection was opened by [`File::connect_without_locks`].
fn is_lockless(connection: &Connection) -> bool {
    connection.query_row("PRAGMA query_only", [], |row| row.get::<_, bool>(0)).unwrap_or(false)
}

/// What a writer cannot help leaving on a file. `None` while one is at work.
#[derive(PartialEq, Eq)]
struct Footprint {
    key: Key,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Footprint {
    fn of(path: &Path) -> Option<Footprint> {
        let mut journal = path.as_os_str().to_owned();
        journal.push("-journal");
        if fs::symlink_metadata(&journal).is_ok() {
            return None;
        }
        let file = fs::symlink_metadata(path).ok()?;
        Some(Footprint {
            key: (file.dev(), file.ino()),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}
