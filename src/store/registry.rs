//! Which connections this process has, and which processes it was forked from.

use std::sync::{Mutex as StdMutex, MutexGuard, OnceLock, PoisonError, Weak};

use rusqlite::Connection;

use super::Fault;
use super::file::File;
use super::sibling::Key;

/// What one process has open. A forked child gets the next one: a lock of its parent's may be held
/// by a thread that does not exist in the child.
pub(super) struct Registry {
    process: OnceLock<u64>,
    pub(super) files: StdMutex<Vec<Weak<File>>>,
    /// Held while connections are opened and closed.
    descriptors: StdMutex<Descriptors>,
    /// Another thread of the parent was inside SQLite at the very moment of the fork: this process's
    /// copy of it waits for ever for that thread's mutexes, so it must not be called.
    torn: bool,
    next: OnceLock<Box<Registry>>,
}

/// The descriptors that are ours.
pub(super) struct Descriptors {
    count: Vec<(Key, usize)>,
    /// Connections without locks that nobody needs now; closing one would drop the sibling's locks.
    pub(super) kept: Vec<(Key, Connection)>,
    /// Files about which the log was told.
    warned: Vec<Key>,
}

impl Descriptors {
    const fn new() -> Descriptors {
        Descriptors { count: Vec::new(), kept: Vec::new(), warned: Vec::new() }
    }

    pub(super) fn warn_once(&mut self, key: Key, warn: impl FnOnce()) {
        if !self.warned.contains(&key) {
            self.warned.push(key);
            warn();
        }
    }

    #[expect(clippy::indexing_slicing, reason = "it was found there, or put there")]
    pub(super) fn ours(&mut self, key: Key) -> &mut usize {
        let at = match self.count.iter().position(|(other, _)| *other == key) {
            Some(at) => at,
            None => {
                self.count.push((key, 0));
                self.count.len() - 1
            }
        };
        &mut self.count[at].1
    }
}

static REGISTRY: Registry = Registry {
    process: OnceLock::new(),
    files: StdMutex::new(Vec::new()),
    descriptors: StdMutex::new(Descriptors::new()),
    torn: false,
    next: OnceLock::new(),
};

/// Which process this is.
pub(super) fn process() -> u64 {
    #[cfg(test)]
    let forks = u64::from(FORKS_IN_TESTS.load(std::sync::atomic::Ordering::Relaxed));
    #[cfg(not(test))]
    let forks = 0;
    crate::fork::process() + forks
}

/// A test plays a forked child by raising this, in a process of its own.
#[cfg(test)]
pub(super) static FORKS_IN_TESTS: std::sync::atomic::AtomicU32 =
    std::sync::atomic::AtomicU32::new(0);

/// This process's registry.
pub(super) fn registry() -> &'static Registry {
    let process = process();
    let mut registry = &REGISTRY;
    while *registry.process.get_or_init(|| process) != process {
        registry = registry.next.get_or_init(|| Box::new(registry.after_fork(process)));
    }
    registry
}

impl Registry {
    /// What a forked child starts with. Waits for no lock, closes nothing.
    fn after_fork(&self, process: u64) -> Registry {
        let inherited = self.descriptors.try_lock().ok().map(|of| of.count.clone());
        let in_use = self.files.try_lock().map_or(true, |files| {
            files.iter().filter_map(Weak::upgrade).any(|file| {
                let in_use = file.is_in_use();
                std::mem::forget(file);
                in_use
            })
        });
        Registry {
            process: OnceLock::from(process),
            files: StdMutex::new(Vec::new()),
            torn: self.torn || in_use || inherited.is_none(),
            descriptors: StdMutex::new(Descriptors {
                count: inherited.unwrap_or_default(),
                ..Descriptors::new()
            }),
            next: OnceLock::new(),
        }
    }

    pub(super) fn descriptors(&self) -> MutexGuard<'_, Descriptors> {
        self.descriptors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether SQLite may be called in this process.
    ///
    /// # Errors
    /// [`Fault::Unreadable`]
    pub(super) fn usable(&self) -> Result<(), Fault> {
        if !self.torn {
            return Ok(());
        }
        Err(Fault::Unreadable(
            "this process was forked while another thread was using the store for longer than a \
             second; it cannot use it"
                .to_owned(),
        ))
    }
}

/// Starts a new registry if this process was forked since the last call.
pub(super) fn leak() {
    registry();
}
