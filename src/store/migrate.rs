//! The ladder of schema versions: what a store must look like, and how an older one gets there.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::Fault;

/// Marks the file as ours (`PRAGMA application_id`): "tp11".
const APPLICATION: i64 = 0x7470_3131;

/// One SQL file a step; the number of steps is the schema version.
#[derive(Clone, Copy)]
pub(super) struct Ladder(pub &'static [&'static str]);

/// What this version of the library reads and writes.
pub(super) const LADDER: Ladder = Ladder(&[include_str!("0001_initial.sql")]);

/// One line of sqlite_schema: kind, name, table, text.
type Entry = (String, String, String, Option<String>);

/// What a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Nothing in it yet.
    Empty,
    /// Of an earlier version, to be migrated.
    Older(usize),
    /// Ours.
    Current,
    /// Of a later version: to be read, not written.
    Newer(i64),
}

impl Ladder {
    /// Which version the file has; proves that its schema is ours, word for word.
    ///
    /// # Errors
    /// [`Fault::NotRecognized`]: a file of another program, or one in which somebody planted a
    /// trigger, a view or another table.
    pub(super) fn look(self, connection: &Connection) -> Result<Version, Fault> {
        let application = pragma(connection, "application_id")?;
        let version = pragma(connection, "user_version")?;
        let found = schema(connection)?;
        if application == 0 && version == 0 && found.is_empty() {
            return Ok(Version::Empty);
        }
        if application != APPLICATION || version < 1 {
            return Err(Fault::NotRecognized(
                "the file in the store's place belongs to another program".to_owned(),
            ));
        }
        let steps = usize::try_from(version).unwrap_or(usize::MAX);
        if steps > self.0.len() {
            self.accept_newer(&found)?;
            return Ok(Version::Newer(version));
        }
        let expected = self.expected(steps)?;
        if let Some(odd) = found.iter().find(|entry| !expected.contains(entry)) {
            return Err(Fault::NotRecognized(format!(
                "the store's schema was altered: it has an unexpected {} {:?}",
                odd.0, odd.1
            )));
        }
        if let Some(lost) = expected.iter().find(|entry| !found.contains(entry)) {
            return Err(Fault::NotRecognized(format!(
                "the store's schema was altered: it lacks the {} {:?}",
                lost.0, lost.1
            )));
        }
        Ok(if steps == self.0.len() { Version::Current } else { Version::Older(steps) })
    }

    /// A later version may have more tables and columns, but nothing that runs by itself, and every
    /// table that we read must be there. (If a column is missing, reading says so.)
    fn accept_newer(self, found: &[Entry]) -> Result<(), Fault> {
        if let Some(odd) = found.iter().find(|(kind, ..)| kind != "table" && kind != "index") {
            return Err(Fault::NotRecognized(format!("the store has a {} {:?}", odd.0, odd.1)));
        }
        if found.iter().any(|(.., sql)| sql.as_deref().is_some_and(is_virtual)) {
            return Err(Fault::NotRecognized("the store has a virtual table".to_owned()));
        }
        let lacks = self.expected(self.0.len())?.into_iter().find(|(kind, name, ..)| {
            kind == "table" && !found.iter().any(|(k, n, ..)| k == kind && n == name)
        });
        match lacks {
            None => Ok(()),
            Some(_) => Err(Fault::NotRecognized(
                "the store was written by a later version that this one cannot read".to_owned(),
            )),
        }
    }

    /// The schema after so many steps: SQLite itself says, on an empty database in memory.
    fn expected(self, steps: usize) -> Result<Vec<Entry>, Fault> {
        let reference = Connection::open_in_memory()?;
        for step in self.0.iter().take(steps) {
            reference.execute_batch(step)?;
        }
        schema(&reference)
    }

    /// Climbs from version `from` to the last one, inside the caller's transaction.
    pub(super) fn climb(self, transaction: &Transaction<'_>, from: usize) -> Result<(), Fault> {
        for step in self.0.iter().skip(from) {
            transaction.execute_batch(step)?;
        }
        let version = i64::try_from(self.0.len()).unwrap_or(i64::MAX);
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", version)?;
        Ok(())
    }

    /// Brings an older store up, a copy of it first: `tpm11.sqlite3.v1` and so on, beside it. Other
    /// processes may do the same at the same time; one of them does it, the others find it done.
    ///
    /// # Errors
    /// If the copy or the migration does not succeed; the store is as before then.
    pub(super) fn migrate(
        self,
        connection: &Connection,
        path: &Path,
        mode: u32,
    ) -> Result<(), Fault> {
        // Another writer may come between the copy and the lock; then the copy is made again.
        for _ in 0..8 {
            let from = match self.look(connection)? {
                Version::Older(from) => from,
                Version::Empty | Version::Current | Version::Newer(_) => return Ok(()),
            };
            let seen = pragma(connection, "data_version")?;
            let copy = Temporary::beside(path, mode)?;
            vacuum_into(connection, &copy.0)?;

            let transaction =
                Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            if pragma(&transaction, "data_version")? != seen {
                continue;
            }
            let kept = with_suffix(path, &format!(".v{from}"));
            copy.rename(&kept)?;
            self.climb(&transaction, from)?;
            transaction.commit()?;
            log::info!(
                "store: {} migrated from version {from} to {}; the old one is {}",
                path.display(),
                self.0.len(),
                kept.display()
            );
            return Ok(());
        }
        Err(Fault::Busy("others keep writing to the store; it could not be migrated".to_owned()))
    }

    /// Creates the store at `path`, whole or not at all: nobody ever sees half a schema. No error
    /// if somebody else was faster.
    ///
    /// # Errors
    /// Why it could not be written.
    pub(super) fn create(self, path: &Path, mode: u32) -> Result<(), Fault> {
        let new = Temporary::beside(path, mode)?;
        let connection = Connection::open(&new.0)?;
        // Nobody else knows this file: no journal needed, but it must be on the disk before it
        // gets its name.
        connection.pragma_update_and_check(None, "journal_mode", "MEMORY", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "EXTRA")?;
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
        self.climb(&transaction, 0)?;
        transaction.commit()?;
        connection.close().map_err(|(_, error)| error)?;
        new.rename_if_free(path)
    }
}

/// A consistent copy, compacted, in `to`: an empty file, so that it has the right mode from the
/// start. It is on the disk when this returns.
pub(super) fn vacuum_into(connection: &Connection, to: &Path) -> Result<(), Fault> {
    let name = to.to_str().ok_or(Fault::Bug("a copy of the store needs a path in UTF-8"))?;
    connection.execute("VACUUM INTO ?1", params![name])?;
    // Not the live file, so opening and closing it costs no lock.
    fs::File::open(to)
        .and_then(|file| file.sync_all())
        .map_err(|error| Fault::system("the copy of the store", &error))
}

fn pragma(connection: &Connection, name: &str) -> Result<i64, Fault> {
    Ok(connection.pragma_query_value(None, name, |row| row.get(0))?)
}

fn schema(connection: &Connection) -> Result<Vec<Entry>, Fault> {
    let mut statement =
        connection.prepare("SELECT type, name, tbl_name, sql FROM main.sqlite_schema")?;
    let rows =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    rows.collect::<Result<_, _>>().map_err(Fault::from)
}

fn is_virtual(sql: &str) -> bool {
    sql.trim_start().to_ascii_uppercase().starts_with("CREATE VIRTUAL")
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// An empty file beside the store that is removed again unless it is given a name.
pub(super) struct Temporary(PathBuf);

impl Temporary {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn beside(path: &Path, mode: u32) -> Result<Temporary, Fault> {
        use rand_core::RngCore as _;
        let word = rand_core::OsRng.next_u64();
        let temporary = Temporary(with_suffix(path, &format!(".new-{word:016x}")));
        let failed = |error: io::Error| Fault::system("the directory of the store", &error);
        // Created for nobody but us, then opened to those whom the directory admits: the umask has
        // no say in it.
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary.0)
            .map_err(failed)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))
            .map_err(|errno| failed(errno.into()))?;
        Ok(temporary)
    }

    pub(super) fn rename(self, to: &Path) -> Result<(), Fault> {
        fs::rename(&self.0, to)
            .and_then(|()| sync_directory(to))
            .map_err(|error| Fault::system("the directory of the store", &error))
    }

    fn rename_if_free(self, to: &Path) -> Result<(), Fault> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let moved = match renameat_with(CWD, &self.0, CWD, to, RenameFlags::NOREPLACE) {
            // Not every file system can (NFS); a second link refuses as well, but costs a moment
            // with two names.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::hard_link(&self.0, to),
            other => other.map_err(io::Error::from),
        };
        match moved {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other
                .and_then(|()| sync_directory(to))
                .map_err(|error| Fault::system("the directory of the store", &error)),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already if it got its name.
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_file(with_suffix(&self.0, "-journal"));
    }
}

/// Makes a change of names durable.
pub(super) fn sync_directory(of: &Path) -> io::Result<()> {
    match of.parent() {
        Some(directory) => fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
