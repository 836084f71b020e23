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

    pub use shuttle::thread::{Builder, JoinHandle, panicking, spawn};

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

/// A wait of this length does not end by time, however fast the clock runs.
pub(crate) const NEVER: Duration = Duration::from_secs(1_000_000_000);

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
    /// Once there is no timer any more.
    stop: bool,
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
        if length >= NEVER / 2 {
            return;
        }
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
                if face.stop {
                    return;
                }
                face = self.set.wait(face).unwrap();
                continue;
            };
            let (at, slot) = face.timers.remove(first);
            face.now = face.now.max(at);
            drop(face);
            slot.wake(true);
            // A scheduler that plays with priorities must not run the clock alone for ever.
            shuttle::thread::yield_now();
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

/// How many schedules each check plays through; `TPM11_SCHEDULES` times as many if that is set.
pub(crate) fn check(schedules: usize, body: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    use shuttle::{Config, Runner};
    let times = std::env::var("TPM11_SCHEDULES").map_or(1, |text| text.parse().unwrap());
    let body = Arc::new(move || {
        let clock = thread::spawn(|| CLOCK.run());
        body();
        // A thread that `body` left behind is a deadlock now, unless it ends by itself.
        CLOCK.face.lock().unwrap().stop = true;
        CLOCK.set.notify_one();
        clock.join().unwrap();
    });
    let mut config = Config::new();
    // Debug builds of big-integer mathematics need more than the 32 KiB of shuttle's own.
    config.stack_size = 1 << 20;
    let half = schedules * times / 2;
    let (first, second) = (body.clone(), body);
    // Every order is as likely as any other; and few changes of thread at the worst places, which find
    // what needs one thread to be left behind for long.
    Runner::new(RandomScheduler::new(half), config.clone()).run(move || first());
    Runner::new(PctScheduler::new(4, half), config).run(move || second());
}

mod tests {
    use super::*;

    /// Two threads that take two locks in different orders.
    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_deadlock_is_found() {
        check(1_000, || {
            let locks = Arc::new((Mutex::new(()), Mutex::new(())));
            let other = locks.clone();
            let thread = thread::spawn(move || {
                let _one = other.0.lock().unwrap();
                let _two = other.1.lock().unwrap();
            });
            let _two = locks.1.lock().unwrap();
            let _one = locks.0.lock().unwrap();
            drop((_one, _two));
            thread.join().unwrap();
        });
    }

    /// The flag is set and told while the waiter looks at neither.
    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_lost_notification_is_found() {
        check(1_000, || {
            let shared = Arc::new((Mutex::new(()), Condvar::new(), atomic::AtomicBool::new(false)));
            let other = shared.clone();
            let thread = thread::spawn(move || {
                other.2.store(true, atomic::Ordering::SeqCst);
                other.1.notify_all();
            });
            if !shared.2.load(atomic::Ordering::SeqCst) {
                drop(shared.1.wait(shared.0.lock().unwrap()).unwrap());
            }
            thread.join().unwrap();
        });
    }

    #[test]
    fn waits_with_a_limit_end_at_it_and_sleeps_in_their_order() {
        check(1_000, || {
            let begun = Instant::now();
            let shared = Arc::new((Mutex::new(0), Condvar::new()));
            let other = shared.clone();
            let thread = thread::spawn(move || {
                thread::sleep(Duration::from_secs(3));
                *other.0.lock().unwrap() = 1;
            });
            let guard = shared.0.lock().unwrap();
            let (guard, outcome) = shared.1.wait_timeout(guard, Duration::from_secs(2)).unwrap();
            assert!(outcome.timed_out());
            drop(guard);
            assert!(begun.elapsed() >= Duration::from_secs(2));
            thread.join().unwrap();
            assert!(begun.elapsed() >= Duration::from_secs(3));
            assert_eq!(*shared.0.lock().unwrap(), 1);
        });
    }
}
