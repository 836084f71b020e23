//! Floor 2: SQLite. Tokens and objects as rows; knows neither PKCS#11 nor the TPM, only bytes,
//! numbers and which rows belong together.
//!
//! What holds, whoever writes and whatever breaks:
//!
//! - A call either happened or did not; one that answered `Ok` survives a power cut.
//! - No transaction is open between calls, and none spans anything but SQLite.
//! - Reading creates nothing, needs no permission to write, and goes on when writing cannot.
//! - What the file says is believed only as far as a [`Sealer`] proves it: keys are made of
//!   [`Checked`] rows alone.

pub mod backup;
mod fault;
mod file;
mod ledger;
mod migrate;
mod place;
mod registry;
mod rows;
pub mod seal;
mod search;
mod sibling;
mod tokens;
mod waiting;

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod helper;
#[cfg(test)]
mod model;
#[cfg(test)]
mod places;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction};

pub use fault::Fault;
use file::File;
use migrate::{LADDER, Ladder};
pub use rows::{NewRow, Row, Unchecked};
pub use seal::{Checked, Report, Sealer, check};
pub use tokens::{Hint, NewToken, Role, TokenChange, TokenRow, TokenState};
pub use waiting::Abandon;

/// What the database file is called in its directory.
pub const FILE: &str = "tpm11.sqlite3";

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long to wait for another writer.
    pub busy_timeout: Duration,
    /// False opens for reading alone, whatever the permissions are.
    pub writable_wanted: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { busy_timeout: Duration::from_secs(10), writable_wanted: true }
    }
}

/// One directory in which tokens are kept. The file in it need not exist yet: reading never
/// creates it, the first [`Store::insert_token`] does, directory included.
///
/// Every call is one short transaction; none is open between calls.
pub struct Store {
    directory: PathBuf,
    path: PathBuf,
    options: Options,
    ladder: Ladder,
    /// Who opened it.
    process: u64,
    file: StdMutex<Option<Arc<File>>>,
    /// Bad rows that the log has named already.
    named: StdMutex<BTreeSet<i64>>,
}

impl Store {
    /// The store in `directory`. All stores of a process that lead to the same file share one
    /// connection, opened with the first one's options. No file, no error: the store is empty then. With `options.writable_wanted`, an
    /// older version of the file is migrated, after a copy was made.
    ///
    /// # Errors
    /// If there is a file that cannot be used: [`Fault::NotRecognized`], [`Fault::Unreadable`],
    /// [`Fault::Damaged`], [`Fault::NeedsRecovery`], [`Fault::Busy`]. All of these may pass; open
    /// again to see.
    pub fn open(directory: &Path, options: &Options) -> Result<Arc<Store>, Fault> {
        Store::open_with(directory, options, LADDER).map(Arc::new)
    }

    fn open_with(directory: &Path, options: &Options, ladder: Ladder) -> Result<Store, Fault> {
        let directory = std::path::absolute(directory)
            .map_err(|error| Fault::Unreadable(format!("{}: {error}", directory.display())))?;
        let store = Store {
            path: directory.join(FILE),
            directory,
            options: options.clone(),
            ladder,
            process: registry::process(),
            file: StdMutex::new(None),
            named: StdMutex::new(BTreeSet::new()),
        };
        store.read(|_| Ok(()))?;
        Ok(store)
    }

    /// The directory, as an absolute path.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the file exists.
    pub fn exists(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    /// Whether the store can be written (or, without a file, created), as far as can be told
    /// without writing. Asks the system each time.
    ///
    /// # Errors
    /// [`Fault::WriteProtected`] with the reason, else why it cannot even be read.
    pub fn writable(&self) -> Result<(), Fault> {
        if let Some(file) = self.file()? {
            return file.writable();
        }
        if !self.options.writable_wanted {
            return Err(Fault::WriteProtected("the store was opened for reading only".to_owned()));
        }
        // The nearest directory that exists is where a new one would be made.
        let nearest = self.directory.ancestors().find(|directory| directory.exists());
        let nearest = nearest.unwrap_or(Path::new("/"));
        place::may(nearest, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).map_err(
            |error| {
                Fault::WriteProtected(format!("{} cannot be written: {error}", nearest.display()))
            },
        )
    }

    /// A number that differs from an earlier answer if anybody, in this process or another,
    /// committed in between (or the file was replaced). 0 without a file. Costs some µs.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn change(&self) -> Result<u64, Fault> {
        match self.file()? {
            Some(file) => file.change(),
            None => Ok(0),
        }
    }

    /// Writes a consistent copy of the store to `path`, a file that must not exist yet in a
    /// directory that does. The copy has mode 0600.
    ///
    /// # Errors
    /// [`Fault::NoToken`] if there is nothing to copy; else if the store cannot be read or the copy
    /// cannot be written.
    pub fn backup(&self, path: &Path) -> Result<(), Fault> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = self.file()?.ok_or(Fault::NoToken)?;
        let path = &std::path::absolute(path)
            .map_err(|error| Fault::system("the copy of the store", &error))?;
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| Fault::system("the copy of the store", &error))?;
        let copied = file.bare(|connection| migrate::vacuum_into(connection, path));
        if copied.is_err() {
            let _ = fs::remove_file(path);
            return copied;
        }
        migrate::sync_directory(path)
            .map_err(|error| Fault::system("the directory of the copy", &error))
    }

    /// The file, if there is one; the one that has the name *now*, should it have been replaced.
    fn file(&self) -> Result<Option<Arc<File>>, Fault> {
        if self.process != registry::process() {
            return Err(Fault::Forked);
        }
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match fs::symlink_metadata(&self.path) {
            Ok(found) => found,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                *held = None;
                return Ok(None);
            }
            Err(error) => {
                return Err(Fault::Unreadable(format!("{}: {error}", self.path.display())));
            }
        };
        let key = (found.dev(), found.ino());
        if let Some(file) = held.as_ref().filter(|file| file.key() == key) {
            return Ok(Some(Arc::clone(file)));
        }
        if !found.is_file() {
            return Err(Fault::NotRecognized(format!(
                "{} is not a regular file",
                self.path.display()
            )));
        }
        self.guarded(found.mode())?;
        let directory = self
            .directory
            .canonicalize()
            .map_err(|error| Fault::Unreadable(format!("{}: {error}", self.path.display())))?;
        let file = File::of(key, directory.join(FILE), &self.options, self.ladder);
        *held = Some(Arc::clone(&file));
        Ok(Some(file))
    }

    /// Refuses a place where anybody could put or change things.
    fn guarded(&self, file_mode: u32) -> Result<(), Fault> {
        let directory = fs::metadata(&self.directory)
            .map_err(|error| Fault::Unreadable(format!("{}: {error}", self.directory.display())))?;
        if directory.mode() & 0o002 != 0 || file_mode & 0o002 != 0 {
            return Err(Fault::Unreadable(format!(
                "{} can be written by everybody, so it is not used",
                self.directory.display()
            )));
        }
        if file_mode & 0o004 != 0 {
            log::warn!("store: {} can be read by everybody", self.path.display());
        }
        Ok(())
    }

    /// Logs what is wrong with a row, once.
    fn name_once(&self, id: i64, fault: &Fault) {
        if self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            log::warn!("store: {fault}");
        }
    }

    /// One read transaction. `None` if there is nothing to read.
    fn read<T>(
        &self,
        job: impl FnMut(&Connection) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        match self.file()? {
            Some(file) => file.read(job),
            None => Ok(None),
        }
    }

    /// One write transaction that adds about `growth` bytes.
    ///
    /// # Errors
    /// [`Fault::NoToken`] if there is no file; see [`Store::create`].
    fn write<T>(
        &self,
        growth: usize,
        job: impl FnMut(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match self.file()? {
            Some(file) => file.write(growth, job),
            None => Err(Fault::NoToken),
        }
    }

    /// Creates the file, and its directory for nobody but the user, unless they exist.
    fn create(&self) -> Result<(), Fault> {
        if self.file()?.is_some() {
            return Ok(());
        }
        self.writable()?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .and_then(|()| migrate::sync_directory(&self.directory))
            .map_err(|error| {
                Fault::system(&format!("the directory {}", self.directory.display()), &error)
            })?;
        self.guarded(0)?;
        registry::registry().usable()?;
        let _calm = crate::fork::calm();
        self.ladder.create(&self.path, place::file_mode(&self.path))
    }
}

/// For a child after fork: forgets all connections of the parent without touching them. Nothing is
/// closed, because that could roll back the parent's transaction. [`Store`]s from before answer
/// [`Fault::Forked`]; new ones work, unless another thread of the parent was using the store at the
/// very moment of the fork ([`Fault::Unreadable`]). Costs nothing in any other process, and happens by itself
/// when a child opens a store.
pub fn leak() {
    registry::leak();
}
