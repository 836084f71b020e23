//! Floor 2: SQLite. Tokens and objects as rows; knows neither PKCS#11 nor the TPM, only bytes,
//! numbers and which rows belong together.

pub mod fault;
pub mod rows;
pub mod seal;
pub mod tokens;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use fault::Fault;
pub use rows::{NewRow, Row, Unchecked};
pub use seal::{Checked, Report, Sealer};
pub use tokens::{Hint, NewToken, Role, TokenChange, TokenRow, TokenState};

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
pub struct Store {}

impl Store {
    /// The store in `directory`. All stores of a process that lead to the same file share one
    /// connection. No file, no error: the store is empty then.
    ///
    /// # Errors
    /// If there is a file that cannot be used: [`Fault::NotRecognized`], [`Fault::Unreadable`],
    /// [`Fault::Damaged`], [`Fault::NeedsRecovery`], [`Fault::Busy`]. All of these may pass; open
    /// again to see.
    pub fn open(directory: &Path, options: &Options) -> Result<Arc<Store>, Fault> {
        todo!()
    }

    /// The directory, as it was given.
    pub fn directory(&self) -> &Path {
        todo!()
    }

    /// Whether the file exists.
    pub fn exists(&self) -> bool {
        todo!()
    }

    /// Whether the store can be written (or, without a file, created), as far as can be told
    /// without writing.
    ///
    /// # Errors
    /// [`Fault::WriteProtected`] with the reason, else why it cannot even be read.
    pub fn writable(&self) -> Result<(), Fault> {
        todo!()
    }

    /// A number that differs from an earlier answer if anybody, in this process or another,
    /// committed in between (or the file was replaced). Costs some µs.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn change(&self) -> Result<u64, Fault> {
        todo!()
    }

    /// Writes a consistent copy of the store to `path`, which must not exist. Mode 0600.
    ///
    /// # Errors
    /// If the store cannot be read or the copy cannot be written.
    pub fn backup(&self, path: &Path) -> Result<(), Fault> {
        todo!()
    }
}

/// For a child after fork: forgets all connections of the parent without touching them. Nothing is
/// closed, because that could roll back the parent's transaction. [`Store`]s from before answer
/// [`Fault::Forked`]; new ones work.
pub fn leak() {
    todo!()
}
