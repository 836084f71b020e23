//! How a process waits for another one's lock on the file.
//!
//! SQLite's own busy timeout sleeps longer and longer between two looks, so that who comes last is
//! served first: with six writers at work, readers waited for seconds. Here all look equally often,
//! and who has just committed pauses for as long (`File::let_others_go_first`).

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The longest pause between two looks, scheduling included.
pub(super) const LONGEST: Duration = Duration::from_micros(2500);

// SQLite calls back with nothing but a count. Without Drop: works in exit handlers, too.
thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// How long this thread waits from now on, whatever it waits for.
pub(super) fn until(deadline: Instant) {
    DEADLINE.with(|cell| cell.set(Some(deadline)));
}

/// SQLite's busy handler: pauses, and says whether to look again.
pub(super) fn again(_looks: i32) -> bool {
    let now = Instant::now();
    if DEADLINE.with(Cell::get).is_none_or(|deadline| now >= deadline) {
        return false;
    }
    // Between 1 and 2 ms, so that not all look at the same moment.
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    std::thread::sleep(Duration::from_micros(1000 + u64::from(clock.subsec_nanos()) / 7 % 1000));
    true
}
