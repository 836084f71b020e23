//! How a process waits for another one's lock on the file.
//!
//! SQLite's own busy timeout sleeps longer and longer between two looks, so that who comes last is
//! served first: with six writers at work, readers waited for seconds. Here all look equally often,
//! and who has just committed pauses for as long (`File::let_others_go_first`).
//!
//! Who waits can be told to give up: by the flag of the call that the thread is in.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sync::plain::atomic::{AtomicBool, Ordering};
use crate::sync::plain::thread_local;

/// The longest pause between two looks, scheduling included.
pub(super) const LONGEST: Duration = Duration::from_micros(2500);

/// A flag in a thread's memory, whose end would need a destructor of the thread's. [`Abandon`] ends it.
type Flag = Option<ManuallyDrop<Arc<AtomicBool>>>;

// SQLite calls back with nothing but a count. Without Drop: works in exit handlers, too.
thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    static ABANDON: Cell<Flag> = const { Cell::new(None) };
}

/// As long as it lives, whatever this thread waits for in a store is given up when the flag is set:
/// the wait ends with [`Fault::Canceled`](super::Fault::Canceled). The latest one counts; they end in
/// the reverse order.
#[derive(Debug)]
pub struct Abandon {
    before: Flag,
    /// It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

impl Abandon {
    /// From now on this thread's waits end with `flag`.
    pub fn when(flag: Arc<AtomicBool>) -> Self {
        let before = ABANDON.with(|cell| cell.replace(Some(ManuallyDrop::new(flag))));
        Self { before, _thread: PhantomData }
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        let mine = ABANDON.with(|cell| cell.replace(self.before.take()));
        drop(mine.map(ManuallyDrop::into_inner));
    }
}

/// Whether this thread is to give up waiting.
pub(super) fn is_abandoned() -> bool {
    ABANDON.with(|cell| {
        let flag = cell.take();
        let set = flag.as_ref().is_some_and(|flag| flag.load(Ordering::Acquire));
        cell.set(flag);
        set
    })
}

/// How long this thread waits from now on, whatever it waits for.
pub(super) fn until(deadline: Instant) {
    DEADLINE.with(|cell| cell.set(Some(deadline)));
}

/// SQLite's busy handler: pauses, and says whether to look again.
pub(super) fn again(_looks: i32) -> bool {
    let now = Instant::now();
    if is_abandoned() || DEADLINE.with(Cell::get).is_none_or(|deadline| now >= deadline) {
        return false;
    }
    // Between 1 and 2 ms, so that not all look at the same moment.
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    std::thread::sleep(Duration::from_micros(1000 + u64::from(clock.subsec_nanos()) / 7 % 1000));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_flags_the_latest_one_counts_until_it_ends() {
        let (outer, inner) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        assert!(!is_abandoned());
        let whole = Abandon::when(outer.clone());
        {
            let _part = Abandon::when(inner.clone());
            outer.store(true, Ordering::Release);
            assert!(!is_abandoned());
            inner.store(true, Ordering::Release);
            assert!(is_abandoned());
            inner.store(false, Ordering::Release);
        }
        assert!(is_abandoned());
        drop(whole);
        assert!(!is_abandoned());
        assert_eq!((Arc::strong_count(&outer), Arc::strong_count(&inner)), (1, 1));
    }
}
