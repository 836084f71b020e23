//! Floor 4: mechanisms. A family is one file: its rows (type, key type, sizes, TPM commands it needs,
//! constructors) and their implementation. The mechanism list, its flags, key-type checks and
//! CKA_ALLOWED_MECHANISMS all read the rows.

pub mod params;

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::error::Result;
use crate::tpm::lease::{Grant, Key};
use crate::tpm::{Call, KeyBlob, Name, Tpm};

pub use params::Params;

/// The TPM as an operation reaches it: given at the moment of the call, never kept.
pub struct Chip<'a> {
    /// The token's TPM.
    pub tpm: &'a Tpm,
    /// Deadline and cancel flag of the C_ call.
    pub call: &'a Call,
    /// The Name of the storage root key that the token's keys are under.
    pub srk: &'a Arc<Name>,
    /// The context-specific login for this operation's key, if there was one.
    pub grant: Option<&'a Grant>,
    /// Whether ECDSA signatures are verified in the host before they are returned.
    pub verify_signatures: bool,
}

impl Chip<'_> {
    /// The key as the TPM floor takes it.
    pub fn key(&self, blob: &Arc<KeyBlob>) -> Key {
        Key { blob: blob.clone(), srk: self.srk.clone(), grant: self.grant.cloned() }
    }
}

/// Signing in progress. PKCS#11 3.2 §5.13.
pub trait Sign: Send {
    /// Takes another part of the data.
    fn update(&mut self, data: &[u8]) -> Result<()>;
    /// The exact length of the signature, in bytes.
    fn length(&self) -> usize;
    /// Makes the signature.
    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Vec<u8>>;
}

/// Verification in progress. PKCS#11 3.2 §5.15. Never needs the TPM.
pub trait Verify: Send {
    /// Takes another part of the data.
    fn update(&mut self, data: &[u8]) -> Result<()>;
    /// Compares.
    fn finish(self: Box<Self>, signature: &[u8]) -> Result<()>;
}

/// Verification that gives the data back. PKCS#11 3.2 §5.15.6. Never needs the TPM.
/// (Signing with recovery is [`Sign`].)
pub trait Recover: Send {
    /// The most bytes that `finish` may give.
    fn length(&self) -> usize;
    /// Compares, and gives the data that was signed.
    fn finish(self: Box<Self>, signature: &[u8]) -> Result<Vec<u8>>;
}

/// Digesting in progress. PKCS#11 3.2 §5.12.
pub trait Digest: Send {
    /// Takes another part of the data.
    fn update(&mut self, data: &[u8]) -> Result<()>;
    /// The length of the digest, in bytes.
    fn length(&self) -> usize;
    /// The digest.
    fn finish(self: Box<Self>) -> Result<Vec<u8>>;
}

/// Encryption or decryption in progress. PKCS#11 3.2 §5.8, §5.10.
pub trait Cipher: Send {
    /// The most that `update` may give for `input` more bytes.
    fn update_length(&self, input: usize) -> usize;
    /// Takes another part, gives what is ready.
    fn update(&mut self, data: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>>;
    /// The most that `finish` may give after `input` more bytes.
    fn finish_length(&self, input: usize) -> usize;
    /// Gives the rest. (One-shot: `update` of everything, then this; the answers are joined.)
    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>>;
}
