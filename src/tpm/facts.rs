//! What this TPM is and can: asked once, kept in the store as bytes, so that listing mechanisms
//! costs no command.

use super::HashAlgorithm;
use crate::crypto::ec::Curve;

/// Who made the TPM and what it offers. TPM 2.0 Part 2 §6.13 (TPM_PT), §10.8.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// TPM_PT_MANUFACTURER as text, e.g. "IBM", "IFX", "AMD", "INTC".
    pub maker: String,
    /// TPM_PT_VENDOR_STRING_1..4 joined.
    pub model: String,
    /// TPM_PT_FIRMWARE_VERSION_1 (high half) and _2.
    pub firmware: u64,
    /// TPM_PT_REVISION: the specification's revision times 100, e.g. 138.
    pub revision: u32,
    /// TPM_ALG_IDs implemented.
    pub algorithms: Vec<u16>,
    /// Curves implemented, of those we know.
    pub curves: Vec<Curve>,
    /// RSA modulus sizes accepted by TPM2_TestParms, in bits, ascending.
    pub rsa_bits: Vec<u16>,
    /// Hashes implemented, of those we know.
    pub hashes: Vec<HashAlgorithm>,
    /// Command codes implemented.
    pub commands: Vec<u32>,
    /// TPM_PT_INPUT_BUFFER: the most bytes of a TPM2B_MAX_BUFFER.
    pub input_buffer: u16,
    /// Whether NV indices of type PIN_FAIL can be expected (revision 138 and later).
    pub pin_indices: bool,
}

impl Facts {
    /// Bytes for the store, versioned.
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads what [`Facts::to_bytes`] wrote; `None` for anything else, older versions included:
    /// then the TPM is asked again.
    pub fn from_bytes(_bytes: &[u8]) -> Option<Self> {
        todo!()
    }

    /// Whether the command is implemented (TPM_CC).
    pub fn has_command(&self, code: u32) -> bool {
        self.commands.contains(&code)
    }

    /// Whether the algorithm is implemented (TPM_ALG_ID).
    pub fn has_algorithm(&self, id: u16) -> bool {
        self.algorithms.contains(&id)
    }
}
