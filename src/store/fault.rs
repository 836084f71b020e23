//! Why the store could not do something, in words; and how SQLite's codes and the system's errors
//! become that.

use std::fmt;
use std::io;

use rusqlite::ErrorCode;
use rusqlite::ffi;
use rustix::io::Errno;

use super::waiting;
use crate::error::Error;

/// What went wrong with the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The disk, the quota or the limit on a file's size is used up; nothing was changed.
    Full(String),
    /// The store can be read but not written; says why.
    WriteProtected(String),
    /// Another process kept the store locked for longer than the busy timeout. Trying again helps.
    Busy(String),
    /// The call was canceled while another process kept the store locked; nothing was changed.
    Canceled,
    /// The disk failed, or the file is damaged.
    Damaged(String),
    /// A writer died in the middle of a commit, and nobody who may write has opened the file since.
    NeedsRecovery(String),
    /// The file is no store of ours, or of a version that cannot be read.
    NotRecognized(String),
    /// The file or its directory cannot be read at all; says why.
    Unreadable(String),
    /// The store has no such token (any more).
    NoToken,
    /// The token has no such object (any more).
    NoObject,
    /// Somebody else changed the row since it was read; read it again.
    Changed,
    /// The row was not written by this token's owner, or was altered.
    BadRow {
        /// Which object, as far as the row tells the truth.
        uuid: [u8; 16],
        /// What does not fit.
        why: &'static str,
    },
    /// The host has no memory.
    Memory,
    /// This process was forked from the one that opened the store, and may not use its connection.
    Forked,
    /// A value that the store cannot hold, or our own mistake.
    Bug(&'static str),
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Full(why)
            | Fault::WriteProtected(why)
            | Fault::Busy(why)
            | Fault::Damaged(why)
            | Fault::NeedsRecovery(why)
            | Fault::NotRecognized(why)
            | Fault::Unreadable(why) => f.write_str(why),
            Fault::Canceled => f.write_str("canceled while another program kept the store locked"),
            Fault::NoToken => f.write_str("the token was removed or initialised anew"),
            Fault::NoObject => f.write_str("the object was destroyed"),
            Fault::Changed => f.write_str("another program changed the object at the same time"),
            Fault::BadRow { uuid, why } => {
                f.write_str("object ")?;
                for byte in uuid {
                    write!(f, "{byte:02x}")?;
                }
                write!(f, " was altered outside of the token ({why}) and is not used")
            }
            Fault::Memory => f.write_str("no memory"),
            Fault::Forked => f.write_str("the store was opened before fork"),
            Fault::Bug(what) => f.write_str(what),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        let text = fault.to_string();
        match fault {
            Fault::Full(_) => Error::StoreFull(text),
            Fault::WriteProtected(_) => Error::TokenWriteProtected(text),
            Fault::Busy(_) | Fault::Changed => Error::FunctionFailed(text),
            Fault::Canceled => Error::Canceled,
            Fault::Damaged(_) | Fault::NeedsRecovery(_) | Fault::BadRow { .. } => {
                Error::Device(text)
            }
            Fault::NotRecognized(_) | Fault::Unreadable(_) | Fault::NoToken => {
                Error::TokenNotRecognized(text)
            }
            Fault::NoObject => Error::ObjectInvalid,
            Fault::Memory => Error::HostMemory,
            Fault::Forked => Error::NotInitialized,
            Fault::Bug(what) => Error::Bug(what),
        }
    }
}

impl Fault {
    /// Whether the connection that met this fault must not be used again. Above all after a failed
    /// fsync: what the kernel then has in its cache is not what is on the disk, and a second try
    /// would report a success that never was.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Fault::Damaged(_) | Fault::NeedsRecovery(_) | Fault::Full(_))
    }

    /// Whether a reader without locks can meet this because a writer is at work.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Fault::Damaged(_)
                | Fault::NeedsRecovery(_)
                | Fault::Busy(_)
                | Fault::NotRecognized(_)
                | Fault::Unreadable(_)
        )
    }

    /// The same fault, met while opening: what cannot be opened cannot be read, let alone written.
    pub(super) fn while_opening(self) -> Fault {
        match self {
            Fault::WriteProtected(why) => Fault::Unreadable(why),
            other => other,
        }
    }

    /// An error of the system on a file or directory of the store.
    pub(super) fn system(what: &str, error: &io::Error) -> Fault {
        let text = format!("{what}: {error}");
        match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Fault::Full(text),
            Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Fault::WriteProtected(text),
            Some(Errno::MFILE | Errno::NFILE) => Fault::Busy(text),
            Some(Errno::NOMEM) => Fault::Memory,
            _ => Fault::Damaged(text),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        match error {
            rusqlite::Error::SqliteFailure(failure, message) => of_sqlite(failure, message),
            // STRICT tables hold no value of a wrong type, so somebody else wrote it.
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..) => {
                Fault::Damaged("store: a row has values of the wrong kind".to_owned())
            }
            other => Fault::Damaged(format!("store: {other}")),
        }
    }
}

/// SQLite's codes as faults. `errno` is what the last failed system call of this thread left: where
/// SQLite says no more than "input or output", it tells a full quota from a broken disk.
fn of_sqlite(failure: ffi::Error, message: Option<String>) -> Fault {
    let errno = Errno::from_io_error(&io::Error::last_os_error());
    let message = message.unwrap_or_else(|| failure.to_string());
    match (failure.code, failure.extended_code) {
        (ErrorCode::DiskFull, _) => Fault::Full("the disk that holds the store is full".to_owned()),
        (ErrorCode::SystemIoFailure, ffi::SQLITE_IOERR_NOMEM) | (ErrorCode::OutOfMemory, _) => {
            Fault::Memory
        }
        (ErrorCode::SystemIoFailure, code) => match errno {
            Some(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) if writes(code) => {
                Fault::Full(format!("the store cannot grow: {errno}"))
            }
            Some(errno @ Errno::ROFS) if writes(code) => {
                Fault::WriteProtected(format!("the store cannot be written: {errno}"))
            }
            _ => Fault::Damaged(format!("reading or writing the store: {message} (code {code})")),
        },
        (_, ffi::SQLITE_READONLY_ROLLBACK | ffi::SQLITE_READONLY_RECOVERY) => Fault::NeedsRecovery(
            "a writer of the store died; a program that may write the store must open it once"
                .to_owned(),
        ),
        (_, ffi::SQLITE_READONLY_DBMOVED) => Fault::Changed,
        (ErrorCode::ReadOnly, _) => {
            Fault::WriteProtected(format!("the store cannot be written: {message}"))
        }
        (ErrorCode::CannotOpen, ffi::SQLITE_CANTOPEN_SYMLINK) => {
            Fault::NotRecognized("the store is a symbolic link".to_owned())
        }
        (ErrorCode::CannotOpen, _) => match errno {
            Some(errno @ (Errno::MFILE | Errno::NFILE)) => {
                Fault::Busy(format!("the store cannot be opened now: {errno}"))
            }
            Some(errno @ (Errno::NOSPC | Errno::DQUOT)) => {
                Fault::Full(format!("the store's journal cannot be created: {errno}"))
            }
            Some(errno @ (Errno::ROFS | Errno::ACCESS | Errno::PERM)) => {
                Fault::WriteProtected(format!("the store cannot be opened: {errno}"))
            }
            _ => Fault::Damaged(format!("the store cannot be opened: {message}")),
        },
        (ErrorCode::PermissionDenied, _) => Fault::WriteProtected(message),
        (
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
            _,
        ) if waiting::is_abandoned() => Fault::Canceled,
        (
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
            _,
        ) => Fault::Busy("another program keeps the store locked; try again".to_owned()),
        (ErrorCode::NotADatabase, _) => {
            Fault::Damaged("the store is not an SQLite database".to_owned())
        }
        (ErrorCode::DatabaseCorrupt, _) => {
            Fault::Damaged(format!("the store is damaged: {message}"))
        }
        (ErrorCode::TooBig, _) => Fault::Full("the value is too big for the store".to_owned()),
        (ErrorCode::ConstraintViolation, _) => {
            Fault::Bug("a row contradicts another one in the store")
        }
        _ => Fault::Damaged(format!("store: {message}")),
    }
}

/// Whether this extended code of SQLITE_IOERR is about writing.
fn writes(code: i32) -> bool {
    matches!(
        code,
        ffi::SQLITE_IOERR_WRITE
            | ffi::SQLITE_IOERR_FSYNC
            | ffi::SQLITE_IOERR_DIR_FSYNC
            | ffi::SQLITE_IOERR_TRUNCATE
            | ffi::SQLITE_IOERR_DELETE
            | ffi::SQLITE_IOERR_CLOSE
    )
}
