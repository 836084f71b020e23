//! What a model check puts in the place of std's threads, locks, atomics and time: shuttle's, whose
//! scheduler decides at each of them who goes on, in a different order in every run. What shuttle lacks
//! is here: time that passes only when the scheduler says so, and condition variables whose waits end
//! by it.
//!
//! A wait with a limit, and a sleep, is a timer. One more thread, the clock, lets the earliest timer
//! run out whenever the scheduler gives it a turn: at once, or after everything else has happened. So
//! whoever waits without a limit for something that nobody will do is found as a deadlock, and whoever
//! waits with one is not.

use std::ops::{Add, AddAssign, Deref, DerefMut, Sub};
use std::sync::{Arc, LockResult, TryLockError, TryLockResult};
use std::time::Duration;

pub use shuttle::sync::atomic;
pub use shuttle::thread_local;
pub use std::sync::PoisonError;

/// As `std::thread`.
pub mod thread {
    use super::{CLOCK, Duration, Slot};
    use std::sync::Arc;

    pub use shuttle::thread::{Builder, JoinHandle, panicking, spawn, yield_now};

    /// Sleeps until the clock says so.
    pub fn sleep(length: Duration) {
        let slot = Arc::new(Slot::default());
        CLOCK.set(&slot, length);
        slot.wait();
    }
}

/// A moment of a run's own time, which begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// The time that the clock shows.
    pub fn now() -> Self {
        Self(CLOCK.face.lock().unwrap().now)
    }

    /// As std's.
    pub fn elapsed(&self) -> Duration {
        Self::now().saturating_duration_since(*self)
    }

    /// As std's.
    pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// As std's.
    pub fn checked_duration_since(&self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0)
    }

    /// As std's.
    pub fn duration_since(&self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, length: Duration) -> Self {
        Self(self.0 + length)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, length: Duration) {
        self.0 += length;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// Where one thread waits: for somebody, or for the clock.
#[derive(Debug, Default)]
struct Slot {
    /// Woken; `true` if by the clock.
    woken: shuttle::sync::Mutex<Option<bool>>,
    told: shuttle::sync::Condvar,
}

impl Slot {
    fn wake(&self, by_the_clock: bool) {
        self.woken.lock().unwrap().get_or_insert(by_the_clock);
        self.told.notify_one();
    }

    /// Whether it was the clock.
    fn wait(&self) -> bool {
        let mut woken = self.woken.lock().unwrap();
        loop {
            match *woken {
                Some(by_the_clock) => return by_the_clock,
                None => woken = self.told.wait(woken).unwrap(),
            }
        }
    }
}

#[derive(Default)]
struct Face {
    now: Duration,
    timers: Vec<(Duration, Arc<Slot>)>,
}

#[derive(Default)]
struct Clock {
    face: shuttle::sync::Mutex<Face>,
    set: shuttle::sync::Condvar,
}

shuttle::lazy_static! {
    // One for each run.
    static ref CLOCK: Clock = Clock::default();
}

impl Clock {
    /// Wakes this slot when so much time has passed.
    fn set(&self, slot: &Arc<Slot>, length: Duration) {
        let mut face = self.face.lock().unwrap();
        let at = face.now + length;
        face.timers.push((at, slot.clone()));
        self.set.notify_one();
    }

    fn forget(&self, slot: &Arc<Slot>) {
        self.face.lock().unwrap().timers.retain(|(_, set)| !Arc::ptr_eq(set, slot));
    }

    /// The clock's thread.
    fn run(&self) {
        let mut face = self.face.lock().unwrap();
        loop {
            let first = (0..face.timers.len()).min_by_key(|at| face.timers[*at].0);
            let Some(first) = first else {
                face = self.set.wait(face).unwrap();
                continue;
            };
            let (at, slot) = face.timers.remove(first);
            face.now = face.now.max(at);
            drop(face);
            slot.wake(true);
            face = self.face.lock().unwrap();
        }
    }
}

/// As std's.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

/// As std's.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    inner: shuttle::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    /// As std's.
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    /// As std's.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        match self.0.lock() {
            Ok(inner) => Ok(MutexGuard { mutex: self, inner }),
            Err(poisoned) => {
                Err(PoisonError::new(MutexGuard { mutex: self, inner: poisoned.into_inner() }))
            }
        }
    }

    /// As std's.
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(inner) => Ok(MutexGuard { mutex: self, inner }),
            Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
            Err(TryLockError::Poisoned(poisoned)) => {
                let inner = poisoned.into_inner();
                Err(PoisonError::new(MutexGuard { mutex: self, inner }).into())
            }
        }
    }

    /// As std's.
    pub fn into_inner(self) -> LockResult<T> {
        self.0.into_inner()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// As std's, but that nobody is ever woken for no reason: that would hide a forgotten notification.
#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Mutex<Vec<Arc<Slot>>>);

/// As std's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// As std's.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// As std's.
    pub const fn new() -> Self {
        Self(shuttle::sync::Mutex::new(Vec::new()))
    }

    /// As std's.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let slot = Arc::new(Slot::default());
        self.0.lock().unwrap().push(slot.clone());
        let mutex = guard.mutex;
        drop(guard);
        slot.wait();
        mutex.lock()
    }

    /// As std's.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let slot = Arc::new(Slot::default());
        self.0.lock().unwrap().push(slot.clone());
        CLOCK.set(&slot, limit);
        let mutex = guard.mutex;
        drop(guard);
        let by_the_clock = slot.wait();
        if by_the_clock {
            self.0.lock().unwrap().retain(|waiting| !Arc::ptr_eq(waiting, &slot));
        } else {
            CLOCK.forget(&slot);
        }
        let result = WaitTimeoutResult(by_the_clock);
        match mutex.lock() {
            Ok(guard) => Ok((guard, result)),
            Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), result))),
        }
    }

    /// As std's.
    pub fn notify_all(&self) {
        let waiting = std::mem::take(&mut *self.0.lock().unwrap());
        for slot in waiting {
            slot.wake(false);
        }
    }
}
