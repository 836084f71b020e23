//! Why the store could not do something, in words; and how SQLite's codes and the system's errors
//! become that.

use std::fmt;

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
            Fault::Forked => f.write_str("the store was opened before fork"),
            Fault::Bug(what) => f.write_str(what),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        let text = fault.to_string();
        match fault {
            Fault::Full(_) => Error::DeviceMemory(text),
            Fault::WriteProtected(_) => Error::TokenWriteProtected(text),
            Fault::Busy(_) | Fault::Changed => Error::FunctionFailed(text),
            Fault::Damaged(_) | Fault::NeedsRecovery(_) | Fault::BadRow { .. } => {
                Error::Device(text)
            }
            Fault::NotRecognized(_) | Fault::Unreadable(_) | Fault::NoToken => {
                Error::TokenNotRecognized(text)
            }
            Fault::NoObject => Error::ObjectInvalid,
            Fault::Forked => Error::NotInitialized,
            Fault::Bug(what) => Error::Bug(what),
        }
    }
}
