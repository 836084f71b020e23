//! C_GenerateRandom. PKCS#11 3.2 §5.20. One TPM command a call however long the answer, mixed with
//! the operating system's generator: unpredictable if either of the two is.

use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use super::Chip;
use crate::crypto::drbg::Drbg;
use crate::crypto::hash::Hash;
use crate::error::Result;

/// How many bytes the TPM is asked for: what a TPM2_GetRandom of any chip gives.
const FROM_THE_CHIP: usize = 32;

/// `length` random bytes.
///
/// # Errors
/// The TPM's; [`Error::FunctionFailed`](crate::error::Error::FunctionFailed) if the operating
/// system has none.
pub fn generate(chip: &Chip<'_>, length: usize) -> Result<Zeroizing<Vec<u8>>> {
    mixed(&chip.tpm.random(chip.call, Some(chip.srk), FROM_THE_CHIP)?, length)
}

/// The TPM's answer with the operating system's, whatever is wrong with the TPM's.
fn mixed(from_chip: &[u8], length: usize) -> Result<Zeroizing<Vec<u8>>> {
    if let Some(what) = defect(from_chip) {
        log::warn!(
            "the TPM's random generator looks broken ({what}); what is random here comes from the \
             operating system alone"
        );
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    Drbg::new(from_chip)?.fill(&mut bytes);
    Ok(bytes)
}

/// What is wrong with an answer of the TPM's generator, as far as one can see.
fn defect(answer: &[u8]) -> Option<&'static str> {
    /// A part of the last answer's hash, which gives nothing of it away.
    static LAST: AtomicU64 = AtomicU64::new(0);

    let hash = Hash::Sha256.digest(answer);
    let hash = hash.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let repeated = LAST.swap(hash, Ordering::Relaxed) == hash;
    if answer.len() < FROM_THE_CHIP {
        Some("too few bytes")
    } else if answer.iter().all(|byte| Some(byte) == answer.first()) {
        Some("always the same byte")
    } else if repeated {
        Some("the same answer twice")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The last answer is one for the whole process.
    static TURN: Mutex<()> = Mutex::new(());

    /// All zeros, the same again, fewer bytes or none: what comes of it is never the same twice, nor zeros.
    #[test]
    fn what_a_broken_generator_gives_is_as_random_as_what_the_operating_system_gives() {
        let _turn = TURN.lock().expect("no panic");
        let mut drawn = Vec::new();
        for answer in [&[0; 32][..], &[0; 32], &[7; 32], &[7; 32], &[1, 2, 3], &[]] {
            for length in [16, 32, 1000] {
                let bytes = mixed(answer, length).expect("random bytes");
                assert_eq!(bytes.len(), length);
                let zeros = bytes.iter().filter(|byte| **byte == 0).count();
                assert!(zeros < length / 4, "{answer:?}: {zeros} zeros of {length}");
                drawn.push(bytes[..16].to_vec());
            }
        }
        let all = drawn.len();
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn.len(), all, "something came twice");
    }

    #[test]
    fn a_broken_generator_is_noticed() {
        let _turn = TURN.lock().expect("no panic");
        let sound: Vec<u8> = (0..32).collect();
        assert_eq!(defect(&sound), None);
        assert!(defect(&sound).is_some(), "repeated");
        assert!(defect(&sound[1..]).is_some(), "short");
        assert!(defect(&[]).is_some(), "empty");
        assert!(defect(&[0; 32]).is_some(), "all zero");
        assert_eq!(defect(&sound), None);
    }
}
