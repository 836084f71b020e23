//! Floor 2.

/// How one TPM is reached.
pub struct Settings {}

/// One TPM of the host.
pub struct Tpm {}
