//! Random number generation functions: PKCS#11 3.2 §5.19.

use cryptoki_sys::*;

use super::enter;
use super::ptr::{Fill, Input, wide};

/// The most random bytes that one call gives: 1 MiB.
const RANDOM_LIMIT: usize = 1 << 20;

/// Mixes a seed in; our generator takes none.
///
/// # Safety
/// `pSeed` is NULL or readable for `ulSeedLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SeedRandom(
    hSession: CK_SESSION_HANDLE,
    pSeed: CK_BYTE_PTR,
    ulSeedLen: CK_ULONG,
) -> CK_RV {
    enter("C_SeedRandom", |module| {
        // SAFETY: this function's own contract.
        let seed = unsafe { Input::new("pSeed", pSeed, ulSeedLen) }.bytes()?;
        module.session(wide(hSession))?.seed_random(&seed)
    })
}

/// Fills a buffer with random bytes of the TPM and the operating system.
///
/// # Safety
/// `pRandomData` is NULL or writable for `ulRandomLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateRandom(
    hSession: CK_SESSION_HANDLE,
    pRandomData: CK_BYTE_PTR,
    ulRandomLen: CK_ULONG,
) -> CK_RV {
    enter("C_GenerateRandom", |module| {
        // SAFETY: this function's own contract.
        let fill = unsafe { Fill::new(pRandomData, ulRandomLen, RANDOM_LIMIT)? };
        let bytes = module.session(wide(hSession))?.generate_random(fill.length())?;
        fill.put(&bytes)
    })
}
