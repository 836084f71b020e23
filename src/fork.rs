//! Floor 0: what a fork(2) of the host leaves to the child.
//!
//! A child has one thread, and a copy of everything that the others were in the middle of: locks that
//! nobody will open, lists half changed, SQLite's own mutexes. So a fork waits until nobody is in the
//! middle of anything ([`calm`]), for at most a second: what holds a lock for longer than moments (a
//! writer that waits for another process) does not hold up its host. What was not calm then, the child
//! finds locked and does without.
//!
//! A child also has a copy of every descriptor. Those that lead to a TPM are closed at the fork, before
//! the child does anything: a copy that outlived the parent would keep swtpm's only connection, the lock
//! of who takes turns, or a session that blocks everybody else in the kernel's resource manager. Closing
//! a copy says nothing to the other side as long as the parent has its own.
//!
//! The hooks run in fork(2) alone; a child of a bare clone(2) is still told apart by its number.

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many forks lie between this process and the one that loaded the module.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many threads are in the middle of something, and whether a fork is under way.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
const FORKING: usize = 1 << (usize::BITS - 1);

/// How many threads wait to fork. Who is in the middle of nothing lets them go first.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// How long a fork waits, and is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_micros(50);

// Without Drop: works in exit handlers, too.
thread_local! {
    /// The fork of this thread found calm.
    static IS_CALM: Cell<bool> = const { Cell::new(false) };
    /// How many things this thread is in the middle of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// The descriptors that a child closes; -1 is a free place. What finds none is left to the child.
static DESCRIPTORS: [AtomicI32; 128] = [const { AtomicI32::new(FREE) }; 128];
const FREE: i32 = -1;

/// Which process this is: not only by its number, which a grandchild or a child in a name space of its
/// own may have again.
pub fn process() -> u64 {
    u64::from(GENERATION.load(Ordering::Acquire)) << 32 | u64::from(std::process::id())
}

/// A thread is in the middle of something as long as this lives.
#[derive(Debug)]
pub struct Calm {
    /// In which process; `None` if it was not counted.
    generation: Option<u32>,
    /// It is of this thread.
    here: PhantomData<*const ()>,
}

/// Says that something begins that a child must not find half done: for moments, and never while
/// another thread is waited for. Waits for a fork that is under way.
pub fn calm() -> Calm {
    let mut until = None;
    let outermost = DEPTH.with(|depth| depth.replace(depth.get() + 1)) == 0;
    let here = PhantomData;
    loop {
        let inside = INSIDE.load(Ordering::Relaxed);
        if inside & FORKING == 0 && !(outermost && WAITING.load(Ordering::Relaxed) > 0) {
            let entered = INSIDE.compare_exchange_weak(
                inside,
                inside + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if entered.is_ok() {
                return Calm { generation: Some(GENERATION.load(Ordering::Relaxed)), here };
            }
        } else if Instant::now() > *until.get_or_insert_with(|| Instant::now() + PATIENCE) {
            return Calm { generation: None, here };
        } else {
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Calm {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get().saturating_sub(1)));
        // A thread that forks in the middle of something: the child's count began anew.
        if self.generation == Some(GENERATION.load(Ordering::Relaxed)) {
            INSIDE.fetch_sub(1, Ordering::Release);
        }
    }
}

/// Before a fork, in the thread that forks.
pub fn before() {
    let until = Instant::now() + PATIENCE;
    WAITING.fetch_add(1, Ordering::Relaxed);
    loop {
        let calm =
            INSIDE.compare_exchange(0, FORKING, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if calm || Instant::now() > until {
            IS_CALM.with(|is_calm| is_calm.set(calm));
            WAITING.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// After it, in the parent.
pub fn in_parent() {
    if IS_CALM.with(|is_calm| is_calm.replace(false)) {
        INSIDE.fetch_and(!FORKING, Ordering::Release);
    }
}

/// After it, in the child, before the host's own code: the descriptors to be closed.
pub fn in_child() -> impl Iterator<Item = RawFd> {
    IS_CALM.with(|is_calm| is_calm.set(false));
    GENERATION.fetch_add(1, Ordering::AcqRel);
    INSIDE.store(0, Ordering::Release);
    WAITING.store(0, Ordering::Relaxed);
    DESCRIPTORS.iter().map(|place| place.swap(FREE, Ordering::AcqRel)).filter(|fd| *fd != FREE)
}

/// A descriptor that no child is to have.
#[derive(Debug)]
pub struct Kept<T> {
    // In this order: a number that was closed may be the host's next one.
    _listed: Listed,
    what: T,
}

#[derive(Debug)]
struct Listed(Option<&'static AtomicI32>);

impl<T: AsFd> Kept<T> {
    /// Keeps it from children, until it is dropped.
    pub fn new(what: T) -> Self {
        let number = what.as_fd().as_raw_fd();
        let free = |place: &&AtomicI32| {
            place.compare_exchange(FREE, number, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        Self { _listed: Listed(DESCRIPTORS.iter().find(free)), what }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.store(FREE, Ordering::Release);
        }
    }
}

impl<T> std::ops::Deref for Kept<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.what
    }
}

impl<T: AsFd> AsFd for Kept<T> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.what.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, for all of it is the whole process's.
    #[test]
    fn a_fork_waits_for_what_is_under_way_and_its_child_closes_what_is_kept() {
        let middle = calm();
        let deeper = calm();
        drop(deeper);
        let begun = Instant::now();
        before();
        assert!(begun.elapsed() >= PATIENCE, "another test may be in the middle of something, too");
        in_parent();
        drop(middle);

        let other = std::thread::spawn(|| drop(calm()));
        before();
        in_parent();
        other.join().unwrap();

        let file = Kept::new(std::fs::File::open("/dev/null").unwrap());
        let number = file.as_fd().as_raw_fd();
        assert!(DESCRIPTORS.iter().any(|place| place.load(Ordering::Acquire) == number));
        drop(file);
        assert!(DESCRIPTORS.iter().all(|place| place.load(Ordering::Acquire) != number));
    }
}
