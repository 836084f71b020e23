//! Random bytes: the operating system's, and a generator for more than a TPM gives in one command.

use rand_chacha::ChaCha20Rng;
use rand_core::{OsRng, RngCore as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Fault;

/// Fills `bytes` from the operating system (getrandom).
///
/// # Errors
/// [`Fault::NoEntropy`].
pub fn os_random(bytes: &mut [u8]) -> Result<(), Fault> {
    OsRng.try_fill_bytes(bytes).map_err(|_| Fault::NoEntropy)
}

/// `N` bytes from the operating system.
///
/// # Errors
/// [`Fault::NoEntropy`].
pub fn os_bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>, Fault> {
    let mut bytes = Zeroizing::new([0; N]);
    os_random(bytes.as_mut())?;
    Ok(bytes)
}

/// ChaCha20 seeded with SHA-256 over bytes of the TPM and of the operating system: unpredictable
/// if either is. Made for one call and dropped with it, so it is never shared with a forked child
/// and an earlier answer cannot be recomputed from a later state.
pub struct Drbg(ChaCha20Rng);

impl Drbg {
    /// Mixes `tpm` with 32 fresh bytes of the operating system.
    ///
    /// # Errors
    /// [`Fault::NoEntropy`].
    pub fn new(tpm: &[u8]) -> Result<Self, Fault> {
        let os = os_bytes::<32>()?;
        let mut seed: Zeroizing<[u8; 32]> = Zeroizing::default();
        let mut hash = Sha256::new();
        hash.update(b"tpm11 random");
        hash.update(os.as_ref());
        hash.update(tpm);
        hash.finalize_into(sha2::digest::generic_array::GenericArray::from_mut_slice(
            seed.as_mut(),
        ));
        Ok(Self(ChaCha20Rng::from_seed(*seed)))
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_of_a_tpm_never_give_the_same_answer() {
        let answer = || {
            let mut bytes = [0; 64];
            Drbg::new(&[0; 32]).unwrap().fill(&mut bytes);
            bytes
        };
        assert_ne!(answer(), answer());
    }

    #[test]
    fn a_long_answer_has_no_repetitions() {
        let mut bytes = vec![0; 1 << 20];
        Drbg::new(b"tpm").unwrap().fill(&mut bytes);
        let mut blocks: Vec<&[u8]> = bytes.chunks_exact(16).collect();
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(blocks.len(), (1 << 20) / 16);
    }
}
