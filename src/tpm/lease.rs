//! The lease: the only way to reach the TPM. Everything in it (connection, session, loaded keys)
//! may vanish at any moment and is rebuilt from the bytes that the store keeps.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::facts::Facts;
use super::srk::Pinned;
use super::{Call, Fault, HashAlgorithm, KeyBlob, KeySpec, Name, NewKey};

/// When the hot path may do without its HMAC session. Elsewhere there is always one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BusProtection {
    /// Only in a context gap, where no session can be had.
    #[default]
    Always,
    /// Also behind a resource manager on firmware TPMs, which have no bus to listen on.
    Discrete,
    /// Never, even if that means failing in a context gap.
    Strict,
}

/// What happens with handles that a killed process left in a bare TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leftovers {
    /// After a wait they are flushed, with a log line each.
    #[default]
    Flush,
    /// They are waited for only.
    Wait,
}

/// How one TPM is reached: a `[[tpm]]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A TCTI conf string: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`,
    /// `swtpm:path=/run/vtpm/sock`, `mssim:host=127.0.0.1,port=2321`, `tabrmd:bus_type=session`.
    pub tcti: String,
    /// Whether a resource manager is behind it; `None` finds out from `tcti`.
    pub resource_manager: Option<bool>,
    /// When the hot path may do without its session.
    pub bus_protection: BusProtection,
    /// What happens with strangers' handles in a bare TPM.
    pub raw_leftovers: Leftovers,
    /// How long an idle lease lives.
    pub linger: Duration,
    /// Deadline of a whole C_ call.
    pub call_timeout: Duration,
    /// Deadline of a call that generates a key.
    pub keygen_timeout: Duration,
    /// Whether we may have a thread that ends idle leases; else they end with the call
    /// (CKF_LIBRARY_CANT_CREATE_OS_THREADS).
    pub reaper: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tcti: "device:/dev/tpmrm0".to_owned(),
            resource_manager: None,
            bus_protection: BusProtection::default(),
            raw_leftovers: Leftovers::default(),
            linger: Duration::from_millis(200),
            call_timeout: Duration::from_secs(60),
            keygen_timeout: Duration::from_secs(300),
            reaper: true,
        }
    }
}

/// A key as the mechanisms hold it.
#[derive(Debug, Clone)]
pub struct Key {
    /// What the TPM loads.
    pub blob: Arc<KeyBlob>,
    /// The storage root key it was created under.
    pub srk: Arc<Name>,
    /// For a CKA_ALWAYS_AUTHENTICATE key: the context-specific login that waits for its one use.
    pub grant: Option<Grant>,
}

/// A context-specific login that waits for its one use: the PIN was checked by the TPM when this
/// was made, and a policy session there remembers it for at most 30 s. Clones are the same login.
#[derive(Debug, Clone)]
pub struct Grant {
    number: u64,
}

/// One TPM of the host, shared by all tokens on it. Making one does no I/O.
pub struct Tpm {
    settings: Settings,
}

/// The TPM, held by one call: what `job` of [`Tpm::with`] works through.
pub struct Lease {}

/// The TPM with one key loaded: what `job` of [`Tpm::with_key`] works through.
pub struct KeyLease {}

impl Tpm {
    /// A TPM that is not opened yet. `lock_directory` is where processes that share a bare TPM
    /// queue up (the store's directory); `knows` says whether the store has a key of this Name.
    pub fn new(
        settings: Settings,
        _lock_directory: Option<PathBuf>,
        _knows: Box<dyn Fn(&[u8]) -> bool + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self { settings })
    }

    /// How it is reached.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A call with this TPM's ordinary deadline and nobody to cancel it.
    pub fn call(&self) -> Call {
        Call::within(self.settings.call_timeout)
    }

    /// Runs `job` with the TPM to itself, opening it first if need be; once more on a rebuilt
    /// lease if the connection or what was loaded is lost, so `job` must be idempotent.
    /// `srk` is the pinned Name to compare before anything else; `None` takes what is there.
    ///
    /// # Errors
    /// [`Fault::ForeignTpm`]-like if the Name differs; transport faults; what `job` returns.
    pub fn with<T>(
        &self,
        _call: &Call,
        _srk: Option<&Name>,
        _job: impl FnMut(&mut Lease) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        todo!()
    }

    /// As [`Tpm::with`], for a job that carries a PIN: repeated only after faults that prove that
    /// the PIN was not evaluated.
    pub fn with_pin<T>(
        &self,
        _call: &Call,
        _srk: Option<&Name>,
        _job: impl FnMut(&mut Lease) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        todo!()
    }

    /// The hot path: runs `job` with `key` loaded and a session keyed by its authorization; a warm
    /// key costs exactly the commands of `job`, which must be idempotent.
    pub fn with_key<T>(
        &self,
        _call: &Call,
        _key: &Key,
        _job: impl FnMut(&mut KeyLease) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        todo!()
    }

    /// TPM2_Sign with ECDSA: (r, s), each as long as the curve's order, big-endian.
    /// `digest` is exactly as long as `hash` says. One command on a warm key.
    pub fn sign(
        &self,
        _call: &Call,
        _key: &Key,
        _hash: HashAlgorithm,
        _digest: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), Fault> {
        todo!()
    }

    /// TPM2_RSA_Decrypt with scheme NULL: the raw private operation on `input`, which is exactly as
    /// long as the modulus and smaller. The answer has the length of the modulus.
    pub fn rsa_decrypt(
        &self,
        _call: &Call,
        _key: &Key,
        _input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        todo!()
    }

    /// TPM2_ECDH_ZGen: the x coordinate of the shared point, as long as the curve's field.
    pub fn ecdh(
        &self,
        _call: &Call,
        _key: &Key,
        _x: &[u8],
        _y: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        todo!()
    }

    /// TPM2_Create under the storage root key, through a salted session.
    pub fn create(
        &self,
        _call: &Call,
        _srk: &Name,
        _spec: &KeySpec,
        _authorization: &[u8; 32],
    ) -> Result<NewKey, Fault> {
        todo!()
    }

    /// TPM2_GetRandom, encrypted on the bus: one command, so at most the TPM's largest digest
    /// (32 to 64 bytes); the answer may be shorter than asked.
    pub fn random(
        &self,
        _call: &Call,
        _srk: Option<&Name>,
        _bytes: usize,
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        todo!()
    }

    /// What this TPM is and can. Asks once per process.
    pub fn facts(&self, _call: &Call) -> Result<Facts, Fault> {
        todo!()
    }

    /// The Name of the storage root key, which is created if there is none: what C_InitToken pins.
    pub fn srk_name(&self, _call: &Call) -> Result<Name, Fault> {
        todo!()
    }

    /// Ends the lease now if it is idle, and the reaper thread: C_Finalize. Nothing stays loaded.
    pub fn end(&self) {}

    /// Forgets everything without any I/O: for the child of a fork.
    pub fn leak(&self) {}
}

impl Lease {
    /// The storage root key, found, checked and compared with the pinned Name.
    pub fn srk(&mut self) -> Result<Pinned, Fault> {
        todo!()
    }
}
