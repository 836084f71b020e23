//! Key derivation functions that turn a shared secret into a key.

use zeroize::{Zeroize, Zeroizing};

use super::hash::{Hash, Hasher};

/// The ANSI X9.63 KDF (SEC 1 §3.6.1): `length` bytes of hash(z ‖ counter ‖ shared).
pub fn x963(hash: Hash, z: &[u8], shared: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    counter_mode(hash, length, |hasher, counter| {
        hasher.update(z);
        hasher.update(counter);
        hasher.update(shared);
    })
}

/// The one-step KDF of SP 800-56A (SP 800-56C §4.1 with a hash): `length` bytes of
/// hash(counter ‖ z ‖ info).
pub fn one_step(hash: Hash, z: &[u8], info: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    counter_mode(hash, length, |hasher, counter| {
        hasher.update(counter);
        hasher.update(z);
        hasher.update(info);
    })
}

/// Blocks of a hash over a 32-bit counter that starts at 1.
fn counter_mode(
    hash: Hash,
    length: usize,
    feed: impl Fn(&mut Hasher, &[u8; 4]),
) -> Zeroizing<Vec<u8>> {
    // Allocated whole, so that no growing leaves copies behind.
    let mut key = Zeroizing::new(Vec::with_capacity(length));
    let mut counter: u32 = 1;
    while key.len() < length {
        let mut hasher = Hasher::new(hash);
        feed(&mut hasher, &counter.to_be_bytes());
        let mut block = hasher.finish();
        let wanted = (length - key.len()).min(block.len());
        key.extend(block.iter().take(wanted));
        block.zeroize();
        counter = counter.wrapping_add(1);
    }
    key
}
