//! How processes take turns at a bare TPM, which serves one opener at a time. Whoever holds it has an
//! advisory lock (flock) on the store directory's own descriptor: no file is made, a read-only
//! store will do, and the lock falls with a killed holder.
//!
//! A pause of some milliseconds is no hand-over: waiters for the TPM itself sleep longer than that.
//! The lock's queue is the kernel's, in order of arrival, and its waiters wake at once.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::transport::{Broken, SLICE};
use super::{Call, Fault};
use crate::fork::Kept;
use crate::sync::plain::{Instant, thread};

/// After this long the holder looks whether somebody waits.
const TURN: Duration = Duration::from_millis(250);

/// Waiters go on without the lock after this long, and a holder lets go of the TPM for programs
/// that do not know the lock.
pub(super) const CAP: Duration = Duration::from_secs(2);

/// How long a turn is offered: enough for a waiter that the kernel has just woken. On a busy machine
/// that may be too short, so every fourth offer is longer.
const OFFER: Duration = Duration::from_millis(1);
const LONG_OFFER: Duration = Duration::from_millis(10);

/// A process's place in the queue for one bare TPM.
pub(super) struct Queue {
    directory: Option<PathBuf>,
    threads: bool,
    lock: Option<Kept<OwnedFd>>,
    since: Instant,
    offers: u32,
}

impl Queue {
    /// Not in the queue. Without a directory there is none, and everybody just tries. `threads`:
    /// waiting may be done by a thread, which keeps the order of arrival.
    pub(super) fn new(directory: Option<PathBuf>, threads: bool) -> Self {
        Self { directory, threads, lock: None, since: Instant::now(), offers: 0 }
    }

    /// Waits for our turn, at most 2 s: then it goes on without the lock.
    pub(super) fn enter(&mut self, call: &Call) -> Result<(), Fault> {
        let Some(directory) = self.directory.as_deref().filter(|_| self.lock.is_none()) else {
            return Ok(());
        };
        self.since = Instant::now();
        let Some(file) = open(directory) else { return Ok(()) };
        if flock(&file, FlockOperation::NonBlockingLockExclusive) {
            self.lock = Some(file);
            return Ok(());
        }
        let until = (Instant::now() + CAP).min(call.deadline);
        self.lock = if self.threads { wait(file, call, until)? } else { poll(file, call, until)? };
        self.since = Instant::now();
        Ok(())
    }

    /// Whether the TPM is to be let go now: our turn is over and somebody waits, or it is held for
    /// longer than programs without the lock should have to wait.
    pub(super) fn is_over(&mut self, opened: Instant) -> bool {
        if opened.elapsed() >= CAP {
            return true;
        }
        if self.since.elapsed() < TURN {
            return false;
        }
        let Some(lock) = &self.lock else { return false };
        let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
        self.offers = self.offers.wrapping_add(1);
        thread::sleep(if self.offers % 4 == 0 { LONG_OFFER } else { OFFER });
        if flock(lock, FlockOperation::NonBlockingLockExclusive) {
            self.since = Instant::now();
            return false;
        }
        self.lock = None;
        true
    }

    /// Out of the queue: the next one's turn.
    pub(super) fn leave(&mut self) {
        if let Some(lock) = self.lock.take() {
            // Said aloud, because the child of a bare clone(2) may have a copy of the descriptor.
            let _ = rustix::fs::flock(&lock, FlockOperation::Unlock);
        }
    }

    /// Forgets the lock, which is the parent's, without touching it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(self.lock.take());
    }
}

fn open(directory: &Path) -> Option<Kept<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(file) => Some(Kept::new(file)),
        Err(error) => {
            log::debug!("tpm: no lock on {}: {error}", directory.display());
            None
        }
    }
}

/// Whether the lock is ours now.
fn flock(file: &OwnedFd, how: FlockOperation) -> bool {
    loop {
        match rustix::fs::flock(file, how) {
            Ok(()) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Waits in the kernel's queue, by a thread that can be left behind: it ends when it gets the lock.
fn wait(file: Kept<OwnedFd>, call: &Call, until: Instant) -> Result<Option<Kept<OwnedFd>>, Fault> {
    let (sender, receiver) = channel();
    let waiter = super::tcti::without_signals(|| {
        thread::Builder::new().name("tpm11-queue".to_owned()).spawn(move || {
            if flock(&file, FlockOperation::LockExclusive) {
                // Nobody there any more: the descriptor is dropped and the lock with it.
                let _ = sender.send(file);
            }
        })
    });
    if waiter.is_err() {
        return Ok(None);
    }
    loop {
        if call.is_canceled() {
            return Err(Broken::canceled(false).into());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        match receiver.recv_timeout(left.min(SLICE)) {
            Ok(file) => return Ok(Some(file)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// Waits without a thread: often enough to catch the millisecond in which a holder offers it.
fn poll(file: Kept<OwnedFd>, call: &Call, until: Instant) -> Result<Option<Kept<OwnedFd>>, Fault> {
    loop {
        if call.is_canceled() {
            return Err(Broken::canceled(false).into());
        }
        if flock(&file, FlockOperation::NonBlockingLockExclusive) {
            return Ok(Some(file));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        thread::sleep(Duration::from_micros(300));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(directory: &Path, threads: bool) -> Queue {
        Queue::new(Some(directory.to_owned()), threads)
    }

    #[test]
    fn a_waiter_gets_the_turn_that_a_holder_gives_up_after_its_time() {
        for threads in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let call = Call::within(Duration::from_secs(10));
            let mut holder = queue(directory.path(), true);
            holder.enter(&call).unwrap();
            assert!(!holder.is_over(Instant::now()), "its turn has just begun");

            let path = directory.path().to_owned();
            let waiter = std::thread::spawn(move || {
                let begun = Instant::now();
                let mut waiter = queue(&path, threads);
                waiter.enter(&Call::within(Duration::from_secs(10))).unwrap();
                assert!(waiter.lock.is_some(), "waited for the lock and got it");
                begun.elapsed()
            });
            std::thread::sleep(Duration::from_millis(20));
            while !waiter.is_finished() && !holder.is_over(Instant::now()) {
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(waiter.join().unwrap() < CAP, "threads: {threads}");
        }
    }

    #[test]
    fn nobody_waits_longer_than_the_cap() {
        let directory = tempfile::tempdir().unwrap();
        let call = Call::within(Duration::from_secs(10));
        let mut holder = queue(directory.path(), true);
        holder.enter(&call).unwrap();
        let mut waiter = queue(directory.path(), true);
        let begun = Instant::now();
        waiter.enter(&call).unwrap();
        assert!(waiter.lock.is_none());
        assert!(begun.elapsed() >= CAP && begun.elapsed() < 2 * CAP);
    }
}
