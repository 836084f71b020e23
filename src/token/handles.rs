//! Handles: never reused, and not to be guessed from another life of the module.
//!
//! A handle is a random high part drawn at C_Initialize and a counter. What an application kept
//! from before C_Finalize, or got in another process, is therefore no handle now, and a destroyed
//! object's handle never becomes another object's. 0 (CK_INVALID_HANDLE) is never given.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::crypto::drbg;
use crate::error::{Error, Result};

/// How many bits of a CK_ULONG may be used: where it has 32, the top one stays clear.
const BITS: u32 = if size_of::<std::ffi::c_ulong>() == 8 { 63 } else { 31 };

/// How many of them count. 2^40 handles at a million a second last for twelve days; the random part
/// is 23 bits then. With 31 bits in all, 2^23 handles and 8 random bits remain.
const COUNTER_BITS: u32 = if BITS == 63 { 40 } else { 23 };

/// The source of all handles of one C_Initialize, of sessions and objects alike.
#[derive(Debug)]
pub struct Handles {
    high: u64,
    next: AtomicU64,
}

impl Handles {
    /// A source with a high part of its own.
    ///
    /// # Errors
    /// `Device` if the operating system gives no random bytes.
    pub fn new() -> Result<Self> {
        let random = u64::from_be_bytes(*drbg::os_bytes::<8>()?);
        Ok(Self::with_high(random))
    }

    /// The source of a forked child that keeps its parent's handles: new ones are neither those nor the
    /// parent's next ones.
    ///
    /// # Errors
    /// As [`Handles::new`].
    pub fn in_child(&self) -> Result<Self> {
        Ok(Self { next: AtomicU64::new(self.next.load(Ordering::Relaxed)), ..Self::new()? })
    }

    fn with_high(random: u64) -> Self {
        let mask = (1u64 << (BITS - COUNTER_BITS)) - 1;
        // Never zero: the first handles would be the small numbers that stray pointers hold.
        let high = (random & mask).max(1) << COUNTER_BITS;
        Self { high, next: AtomicU64::new(1) }
    }

    /// A handle that was never given before.
    ///
    /// # Errors
    /// `DeviceMemory` when all are used up.
    pub fn next(&self) -> Result<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >> COUNTER_BITS != 0 {
            // Keep it there: an overflow must not wrap around.
            self.next.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::DeviceMemory(
                "all handles are used up; C_Finalize and C_Initialize make new ones".into(),
            ));
        }
        Ok(self.high | number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_handle_is_given_twice() {
        let handles = Handles::new().expect("random bytes");
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(handles.next().expect("plenty")));
        }
        assert!(!seen.contains(&0));
    }

    #[test]
    fn another_initialisation_gives_other_handles() {
        let one = Handles::with_high(5);
        let two = Handles::with_high(6);
        assert_ne!(one.next(), two.next());
    }

    #[test]
    fn a_handle_fits_a_signed_ulong_and_is_no_small_number() {
        for random in [0, 1, u64::MAX] {
            let handle = Handles::with_high(random).next().expect("the first");
            assert_eq!(handle >> BITS, 0);
            assert!(handle > 1 << (BITS - 1).min(22));
        }
    }

    #[test]
    fn used_up_handles_do_not_begin_again() {
        let handles = Handles::with_high(7);
        handles.next.store((1 << COUNTER_BITS) - 1, Ordering::Relaxed);
        assert!(handles.next().is_ok());
        for _ in 0..3 {
            assert!(matches!(handles.next(), Err(Error::DeviceMemory(_))));
        }
    }
}
