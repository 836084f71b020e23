//! The commands used, each a plain struct in the specification's words and order: its handles, its
//! parameters and which of them are secret. What is clever about them is in `execute.rs`.
//!
//! TPM 2.0 Part 3; the files follow its chapters.

mod context;
mod duplication;
mod key;
mod nv;
mod object;
mod policy;
mod symmetric;
mod system;

pub use context::{ContextLoad, ContextSave, EvictControl, FlushContext};
pub use duplication::{Duplicate, Duplicated, Import};
pub use key::{EcdhZGen, RsaDecrypt, SignEcdsa};
pub use nv::{
    NvChangeAuth, NvDefineSpace, NvPublic, NvRead, NvReadPublic, NvUndefineSpace, NvWrite,
};
pub use object::{
    ActivateCredential, Create, CreatePrimary, Created, Load, LoadExternal, ObjectChangeAuth,
    ReadPublic, Unseal,
};
pub use policy::{
    PolicyAuthValue, PolicyCommandCode, PolicyGetDigest, PolicyOr, PolicySecret, StartAuthSession,
    StartedSession,
};
pub use symmetric::{
    Chaining, Direction, EncryptDecrypt2, Hmac, HmacStart, SequenceComplete, SequenceUpdate,
};
pub use system::{
    Capability, GetCapability, GetRandom, GetTestResult, Listed, Startup, StirRandom, TestParms,
    TestResult, TestedParms,
};

use super::execute::Entity;
use super::fault::Fault;
use super::wire::{Reader, Writer};

/// TPM_RH_OWNER
pub const OWNER: u32 = 0x4000_0001;
/// TPM_RH_NULL
pub const NULL: u32 = 0x4000_0007;

/// TPM_SE_HMAC
pub const SESSION_HMAC: u8 = 0x00;
/// TPM_SE_POLICY
pub const SESSION_POLICY: u8 = 0x01;

/// How long a command takes chips, by kind. What a kind may take is in [`Limits`](super::Limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A policy, a context, a read of NV: answered within milliseconds by any chip.
    Short,
    /// A signature, a decryption, a load, a write of NV.
    Normal,
    /// The search for primes takes chips up to a minute.
    KeyGeneration,
}

/// A TPM command in a list of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandId {
    /// TPM_CC
    pub code: u32,
    /// Its name in the specification.
    pub name: &'static str,
}

/// A TPM command as data.
pub trait Command {
    /// TPM_CC
    const CODE: u32;
    /// Its name in the specification.
    const NAME: &'static str;
    /// Both.
    const ID: CommandId = CommandId { code: Self::CODE, name: Self::NAME };
    /// How many of its handles need an authorization; these come first.
    const AUTH_HANDLES: usize = 0;
    /// The response begins with a handle.
    const ANSWERS_HANDLE: bool = false;
    /// The first parameter is a TPM2B: encrypted if a session can.
    const SECRET_IN: bool = false;
    /// The first parameter of the response is a TPM2B: encrypted if a session can. To ask for it
    /// elsewhere is refused (TPM_RC_ATTRIBUTES).
    const SECRET_OUT: bool = false;
    /// How long the TPM may take.
    const CLASS: Class;
    /// What is read from the response.
    type Response;

    /// The handle area.
    fn handles(&self) -> Vec<&Entity> {
        Vec::new()
    }

    /// Writes the parameters.
    fn write(&self, out: &mut Writer);

    /// Reads the response's handle and parameters.
    fn read(&self, handle: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault>;
}
