//! Which connections this process has, and which processes it was forked from.

use std::sync::{Mutex as StdMutex, MutexGuard, OnceLock, PoisonError, Weak};

use rusqlite::Connection;

use super::file::File;
use super::sibling::Key;

/// What one process has open. A forked child gets the next one: a lock of its parent's may be held
/// by a thread that does not exist in the child.
pub(super) struct Registry {
    process: OnceLock<u32>,
    pub(super) files: StdMutex<Vec<Weak<File>>>,
    /// Held while connections are opened and closed.
    descriptors: StdMutex<Descriptors>,
    /// Files whose connection the parent was using at the very moment of the fork: this process's
    /// copy of SQLite believes for ever that it holds locks there. `None`: it might be any file.
    in_use_at_fork: Option<Vec<Key>>,
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
    in_use_at_fork: Some(Vec::new()),
    next: OnceLock::new(),
};

/// Which process this is.
pub(super) fn process() -> u32 {
    #[cfg(test)]
    let forks = FORKS_IN_TESTS.load(std::sync::atomic::Ordering::Relaxed);
    #[cfg(not(test))]
    let forks = 0;
    std::process::id() + forks
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
    fn after_fork(&self, process: u32) -> Registry {
        let inherited = self.descriptors.try_lock().ok().map(|of| of.count.clone());
        let in_use = self.files.try_lock().ok().map(|files| {
            let mut in_use = Vec::new();
            for file in files.iter().filter_map(Weak::upgrade) {
                if file.is_in_use() {
                    in_use.push(file.key());
                }
                std::mem::forget(file);
            }
            in_use
        });
        Registry {
            process: OnceLock::from(process),
            files: StdMutex::new(Vec::new()),
            in_use_at_fork: in_use.filter(|_| inherited.is_some()),
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

    pub(super) fn was_in_use_at_fork(&self, key: Key) -> bool {
        self.in_use_at_fork.as_ref().is_none_or(|files| files.contains(&key))
    }
}

/// Starts a new registry if this process was forked since the last call.
pub(super) fn leak() {
    registry();
}
