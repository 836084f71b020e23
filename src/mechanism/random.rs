//! C_GenerateRandom. PKCS#11 3.2 §5.20. One TPM command a call however long the answer, mixed with
//! the operating system's generator: unpredictable if either of the two is.

use zeroize::Zeroizing;

use super::Chip;
use crate::crypto::drbg::Drbg;
use crate::error::Result;

/// How many bytes the TPM is asked for: what a TPM2_GetRandom of any chip gives.
const FROM_THE_CHIP: usize = 32;

/// `length` random bytes.
///
/// # Errors
/// The TPM's; [`Error::FunctionFailed`](crate::error::Error::FunctionFailed) if the operating
/// system has none.
pub fn generate(chip: &Chip<'_>, length: usize) -> Result<Zeroizing<Vec<u8>>> {
    let from_chip = chip.tpm.random(chip.call, Some(chip.srk), FROM_THE_CHIP)?;
    if from_chip.len() < FROM_THE_CHIP || from_chip.iter().all(|byte| *byte == 0) {
        log::warn!(
            "the TPM's random generator looks broken ({} bytes instead of {FROM_THE_CHIP}, or all \
             zero); the answer rests on the operating system's",
            from_chip.len()
        );
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    Drbg::new(&from_chip)?.fill(&mut bytes);
    Ok(bytes)
}
