//! Floor 2: the TPM 2.0. Knows no `CK_` type, not even in its errors; everything here is
//! disposable and rebuilt from the bytes that the store keeps.

pub mod command;
mod connection;
mod device;
#[cfg(test)]
mod emulator;
pub mod execute;
pub mod facts;
pub mod fault;
pub mod health;
pub mod key;
mod keys;
pub mod lease;
mod ledger;
mod leftovers;
pub mod pin;
#[cfg(all(test, feature = "schedules"))]
pub(crate) mod schedules;
#[allow(clippy::indexing_slicing, reason = "ends of buffers whose lengths stand beside them")]
pub mod session;
mod sharing;
mod socket;
pub mod srk;
mod state;
pub mod tcti;
#[cfg(test)]
mod testing;
pub mod transfer;
pub mod transport;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use crate::sync::plain::Instant;
use crate::sync::plain::atomic::{AtomicBool, Ordering};

pub use command::{Chaining, Class, Direction};
pub use facts::Facts;
pub use fault::Fault;
pub use key::{HashAlgorithm, KeyBlob, KeySpec, KeyUse, NewKey};
pub use lease::{Grant, Key, Settings, Tpm};
pub use transfer::{Parcel, PlainKey};

/// A TPM Name: the algorithm number and digest of an object's public area (34 bytes for SHA-256).
/// TPM 2.0 Part 1 §16.
pub type Name = Vec<u8>;

/// How long one call may take, and how it is stopped from outside.
#[derive(Debug, Clone)]
pub struct Call {
    /// When the whole C_ call must have ended.
    pub deadline: Instant,
    /// Set by C_SessionCancel or C_Finalize of another thread.
    pub cancel: Arc<AtomicBool>,
    /// How long each of its commands may take, within the deadline.
    pub limits: Limits,
}

impl Call {
    /// A call that may take `limit` from now on and that nobody cancels.
    pub fn within(limit: Duration) -> Self {
        Self { deadline: Instant::now() + limit, cancel: Arc::default(), limits: Limits::default() }
    }

    /// Somebody canceled it.
    pub fn is_canceled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Its deadline is past.
    pub fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// How long the TPM may take for one command: later than that it is taken for dead, the command is
/// canceled where the transport can, and the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For a command of [`Class::Short`].
    pub short: Duration,
    /// For a command of [`Class::Normal`].
    pub normal: Duration,
    /// For a command of [`Class::KeyGeneration`].
    pub key_generation: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            short: Duration::from_secs(5),
            normal: Duration::from_secs(30),
            key_generation: Duration::from_secs(300),
        }
    }
}

impl Limits {
    /// The limit of a class.
    pub fn of(&self, class: Class) -> Duration {
        match class {
            Class::Short => self.short,
            Class::Normal => self.normal,
            Class::KeyGeneration => self.key_generation,
        }
    }
}
