//! Floor 0: locks that know their rank.
//!
//! A thread may only take a lock of a higher rank than any that it holds. The store and the TPM
//! are both leaves, so taking one while holding the other fails the first test that does it, and
//! "no transaction spans a TPM command" is not a rule to remember. Checked in debug builds only.
//!
//! A panic while a lock is held poisons nothing here: the door marks the whole module poisoned,
//! and C_Finalize must still get through.
//!
//! The rooms of the TPM, of the token and of the door have their threads, their locks without a rank,
//! their atomics and their time from [`plain`], never from std, so that a model check can put its own in
//! their place: `cargo test --lib --features schedules schedules::`.

use std::ops::{Deref, DerefMut};

#[cfg(all(test, feature = "schedules"))]
pub(crate) mod schedules;

/// Threads, locks without a rank, atomics and time: std's.
#[cfg(not(all(test, feature = "schedules")))]
pub mod plain {
    pub use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, atomic};
    pub use std::time::Instant;
    pub use std::{thread, thread_local};
}
#[cfg(all(test, feature = "schedules"))]
pub(crate) use schedules as plain;

use plain::{Mutex as PlainMutex, MutexGuard, PoisonError};

use crate::fork::{self, Calm};

/// In which order locks may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The maps of slots and sessions: held to clone an `Arc` out.
    Sessions = 1,
    /// One session: held for the whole call.
    Session = 2,
    /// A token's state (login, objects): held for moments.
    Token = 3,
    /// The store or a TPM: held for a transaction or a few commands.
    Leaf = 4,
}

#[cfg(debug_assertions)]
mod held {
    use super::Rank;
    use std::cell::Cell;

    // One count per rank, const-initialised and without Drop: works in exit handlers, too.
    super::plain::thread_local! {
        static HELD: Cell<[u16; 5]> = const { Cell::new([0; 5]) };
    }

    /// Counts the lock in, or panics if the thread holds one of the same or a higher rank.
    pub(super) fn take(rank: Rank) {
        HELD.with(|held| {
            let mut counts = held.get();
            let at = rank as usize;
            assert!(
                counts.iter().skip(at).all(|count| *count == 0),
                "lock order: {rank:?} taken while a lock of the same or a higher rank is held"
            );
            if let Some(count) = counts.get_mut(at) {
                *count += 1;
            }
            held.set(counts);
        });
    }

    pub(super) fn release(rank: Rank) {
        HELD.with(|held| {
            let mut counts = held.get();
            if let Some(count) = counts.get_mut(rank as usize) {
                *count = count.saturating_sub(1);
            }
            held.set(counts);
        });
    }
}

#[cfg(not(debug_assertions))]
mod held {
    use super::Rank;
    pub(super) fn take(_: Rank) {}
    pub(super) fn release(_: Rank) {}
}

/// A mutex with a rank. One that is held for moments is not held at a fork (`fork.rs`).
#[derive(Debug)]
pub struct Mutex<T> {
    rank: Rank,
    brief: bool,
    inner: PlainMutex<T>,
}

/// The lock of a [`Mutex`], held.
#[derive(Debug)]
pub struct Guard<'a, T> {
    // Dropped before `ticket`, so the rank is free only once the mutex is.
    inner: MutexGuard<'a, T>,
    ticket: Ticket,
    calm: Option<Calm>,
}

#[derive(Debug)]
struct Ticket(Rank);

impl Drop for Ticket {
    fn drop(&mut self) {
        held::release(self.0);
    }
}

impl<T> Mutex<T> {
    /// An unlocked mutex, held for moments unless it is a session's.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, brief: !matches!(rank, Rank::Session), inner: PlainMutex::new(value) }
    }

    /// An unlocked mutex that is held while the TPM works.
    pub const fn lasting(rank: Rank, value: T) -> Self {
        Self { rank, brief: false, inner: PlainMutex::new(value) }
    }

    /// Takes the lock. Blocks until it is free.
    ///
    /// # Panics
    /// In debug builds, when the thread holds a lock of the same or a higher rank.
    pub fn lock(&self) -> Guard<'_, T> {
        held::take(self.rank);
        let ticket = Ticket(self.rank);
        let calm = self.brief.then(fork::calm);
        Guard { inner: self.inner.lock().unwrap_or_else(PoisonError::into_inner), ticket, calm }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let calm = self.brief.then(fork::calm);
        let inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        held::take(self.rank);
        Some(Guard { inner, ticket: Ticket(self.rank), calm })
    }

    /// The value, when nobody else can hold the lock.
    pub fn into_inner(self) -> T {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A condition variable for [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar(plain::Condvar);

impl Condvar {
    /// A new one.
    pub const fn new() -> Self {
        Self(plain::Condvar::new())
    }

    /// Waits for a notification, without the lock. May wake up for no reason.
    pub fn wait<'a, T>(&self, guard: Guard<'a, T>) -> Guard<'a, T> {
        let Guard { inner, ticket, calm } = guard;
        let brief = calm.is_some();
        drop(calm);
        let inner = self.0.wait(inner).unwrap_or_else(PoisonError::into_inner);
        Guard { inner, ticket, calm: brief.then(fork::calm) }
    }

    /// Wakes all.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// The rank of the store's or a TPM's lock alone, for locks that are not a [`Mutex`] (a connection
/// that is handed out, for one). Hold it as long as the lock.
#[derive(Debug)]
pub struct Held(#[allow(dead_code)] Ticket);

/// Counts a lock in that is kept elsewhere.
///
/// # Panics
/// In debug builds, when the thread holds a lock of the same or a higher rank.
pub fn held(rank: Rank) -> Held {
    held::take(rank);
    Held(Ticket(rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_in_the_order_of_their_ranks() {
        let session = Mutex::new(Rank::Session, 1);
        let leaf = Mutex::new(Rank::Leaf, 2);
        let one = session.lock();
        let two = leaf.lock();
        assert_eq!(*one + *two, 3);
    }

    #[test]
    #[should_panic(expected = "lock order")]
    #[cfg(debug_assertions)]
    fn store_and_tpm_cannot_be_held_together() {
        let store = Mutex::new(Rank::Leaf, ());
        let tpm = Mutex::new(Rank::Leaf, ());
        let _store = store.lock();
        let _tpm = tpm.lock();
    }

    #[test]
    #[should_panic(expected = "lock order")]
    #[cfg(debug_assertions)]
    fn a_token_is_not_locked_under_the_tpm() {
        let _tpm = held(Rank::Leaf);
        let token = Mutex::new(Rank::Token, ());
        let _token = token.lock();
    }

    #[test]
    fn a_released_rank_can_be_taken_again() {
        let first = Mutex::new(Rank::Leaf, 1);
        let second = Mutex::new(Rank::Leaf, 2);
        let a = *first.lock();
        let b = *second.lock();
        assert_eq!(a + b, 3);
    }

    #[test]
    fn a_panic_under_a_lock_leaves_it_usable() {
        let mutex = std::sync::Arc::new(Mutex::new(Rank::Token, 7));
        let other = mutex.clone();
        let ended = std::thread::spawn(move || {
            let _guard = other.lock();
            panic!("on purpose");
        })
        .join();
        assert!(ended.is_err());
        assert_eq!(*mutex.lock(), 7);
    }
}
