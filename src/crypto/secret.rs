//! Memory for secrets that live long: the token secret between login and logout. And the heap, which
//! forgets what is given back to it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize as _;

/// The system's allocator, which wipes what is freed. Whoever calculates with the numbers of a private key makes
/// copies that are not ours to wipe (crypto-bigint's moduli, products, remainders).
pub struct Forgetful;

// SAFETY: every call is passed on to `System` as it came.
unsafe impl GlobalAlloc for Forgetful {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as of the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as of the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the memory is the caller's for the layout's size, and nobody reads it any more.
        unsafe { ptr::write_bytes(memory, 0, layout.size()) };
        // Else the compiler would know that nobody reads the zeros.
        let memory = black_box(memory);
        // SAFETY: as of the caller.
        unsafe { System.dealloc(memory, layout) }
    }

    // What grows is copied: the default of `realloc`, which ends in `dealloc`.
}

/// Overwrites with zeros, as `zeroize` does, but not byte by byte: for what is long and on the hot path.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // Else the compiler would know that nobody reads the zeros.
    black_box(bytes);
}

/// Bytes that are wiped when dropped, as those of `Zeroizing` are, by [`wipe`].
#[derive(Default)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// Takes the bytes over: what of the memory is not theirs is not wiped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl Deref for Wiped {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

/// Whether forked children get the secrets that are made from now on.
static FOR_CHILDREN: AtomicBool = AtomicBool::new(false);

/// Whether forked children get the secrets that are made from now on: only where they are to go on with
/// their parent's logins (`fork_mode`).
pub fn leave_to_children(leave: bool) {
    FOR_CHILDREN.store(leave, Ordering::Relaxed);
}

/// A secret in pages of its own: not swapped (where the limit on locked memory allows it), in no
/// core dump, read as zeros in a forked child (but see [`leave_to_children`]), wiped when dropped. Cannot
/// be printed or copied.
///
/// None of this is a condition: with RLIMIT_MEMLOCK = 0, on an old kernel, or without a page to be
/// had, the secret is merely less protected.
pub struct Secret {
    memory: NonNull<u8>,
    length: usize,
    /// Whether `memory` is a mapping of its own; else it came from the heap.
    mapped: bool,
}

// SAFETY: `Secret` owns its memory alone, as a `Box<[u8]>` would; nothing is bound to a thread.
unsafe impl Send for Secret {}
// SAFETY: through `&Secret` the memory is only read.
unsafe impl Sync for Secret {}

impl Secret {
    /// Makes room for `length` zero bytes and lets `fill` write them.
    ///
    /// # Errors
    /// What `fill` answers.
    pub fn fill<E>(
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let secret = Self::zeros(length);
        // SAFETY: `memory` is valid and initialised for `length` bytes, and `secret` is ours alone.
        fill(unsafe { std::slice::from_raw_parts_mut(secret.memory.as_ptr(), length) })?;
        Ok(secret)
    }

    /// A copy of `bytes`; wiping the original is the caller's.
    pub fn copy(bytes: &[u8]) -> Self {
        let secret = Self::zeros(bytes.len());
        // SAFETY: both are valid for `bytes.len()` bytes, and the new memory is ours alone.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), secret.memory.as_ptr(), bytes.len()) };
        secret
    }

    /// The bytes, to be used and not kept.
    pub fn expose(&self) -> &[u8] {
        // SAFETY: `memory` is valid and initialised for `length` bytes as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.length) }
    }

    /// Keeps it out of swap again: a forked child does not inherit that.
    pub fn lock(&self) {
        if self.mapped {
            // SAFETY: the mapping is ours and as long as that; locking changes nothing of what is read.
            let _ = unsafe { mlock(self.memory.as_ptr().cast(), self.length.max(1)) };
        }
    }

    fn zeros(length: usize) -> Self {
        let flags = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping at a place of the kernel's choice touches nothing else.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), length.max(1), flags.0, flags.1) };
        match mapped.ok().and_then(|memory| NonNull::new(memory.cast::<u8>())) {
            Some(memory) => {
                let pages = memory.as_ptr().cast::<c_void>();
                // SAFETY: the mapping is ours and as long as that; neither locking it nor keeping
                // it out of dumps and children changes what we read there.
                unsafe {
                    let _ = mlock(pages, length.max(1));
                    let _ = madvise(pages, length.max(1), Advice::LinuxDontDump);
                    if !FOR_CHILDREN.load(Ordering::Relaxed) {
                        let _ = madvise(pages, length.max(1), Advice::LinuxWipeOnFork);
                    }
                }
                Self { memory, length, mapped: true }
            }
            None => {
                let heap = Box::leak(vec![0u8; length].into_boxed_slice());
                Self { memory: NonNull::from(heap).cast(), length, mapped: false }
            }
        }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // SAFETY: `memory` is valid for `length` bytes and ours alone; it is given back once, to
        // where it came from, with the length that it was taken with.
        unsafe {
            let bytes = ptr::slice_from_raw_parts_mut(self.memory.as_ptr(), self.length);
            (*bytes).zeroize();
            if self.mapped {
                let _ = munmap(self.memory.as_ptr().cast(), self.length.max(1));
            } else {
                drop(Box::from_raw(bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_whatever_the_length() {
        for length in [0, 1, 32, 4095, 4096, 4097, 100_000] {
            let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
            assert_eq!(Secret::copy(&bytes).expose(), bytes);
            let filled = Secret::fill(length, |room| {
                room.copy_from_slice(&bytes);
                Ok::<(), ()>(())
            });
            assert_eq!(filled.unwrap().expose(), bytes);
        }
        assert!(matches!(Secret::fill(8, |_| Err("no")), Err("no")));
    }

    /// What the kernel says of the pages that hold `address`.
    fn flags_of(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            if let Some((from, to)) = range {
                let number = |text| usize::from_str_radix(text, 16);
                if let (Ok(from), Ok(to)) = (number(from), number(to)) {
                    inside = (from..to).contains(&address);
                }
            }
            if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags:")) {
                return flags.to_owned();
            }
        }
        panic!("no mapping holds the secret");
    }

    #[test]
    fn its_pages_stay_out_of_core_dumps_and_children() {
        let secret = Secret::copy(&[0x5a; 32]);
        let flags = flags_of(secret.expose().as_ptr() as usize);
        let flags: Vec<&str> = flags.split_whitespace().collect();
        assert!(flags.contains(&"dd"), "not kept out of core dumps: {flags:?}");
        assert!(flags.contains(&"wf"), "not wiped on fork: {flags:?}");

        leave_to_children(true);
        let secret = Secret::copy(&[0x5a; 32]);
        leave_to_children(false);
        let flags = flags_of(secret.expose().as_ptr() as usize);
        let flags: Vec<&str> = flags.split_whitespace().collect();
        assert!(flags.contains(&"dd"), "not kept out of core dumps: {flags:?}");
        assert!(!flags.contains(&"wf"), "a child is to have it: {flags:?}");
    }

    #[test]
    fn it_works_where_no_memory_may_be_locked() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let before = getrlimit(Resource::Memlock);
        setrlimit(Resource::Memlock, Rlimit { current: Some(0), maximum: before.maximum }).unwrap();
        let secret = Secret::copy(b"still here");
        setrlimit(Resource::Memlock, before).unwrap();
        assert_eq!(secret.expose(), b"still here");
    }

    #[test]
    fn many_secrets_live_at_once_and_are_given_back() {
        for _ in 0..3 {
            let secrets: Vec<Secret> = (0..200u8).map(|fill| Secret::copy(&[fill; 32])).collect();
            for (fill, secret) in (0..).zip(&secrets) {
                assert_eq!(secret.expose(), [fill; 32]);
            }
        }
    }
}
