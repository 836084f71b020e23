//! The PIN gate: what stands between a PIN and the token secret, in the chip.
//!
//! Per token there are two NV indices of type PIN_FAIL, one for each role, whose authorization value is
//! made from the PIN and whose tries the chip counts by itself; two sealed copies of the token secret,
//! each opened by the proof of its index's value alone; and W, the write authority: whoever proves its
//! 32 random bytes may write an index or replace its value. These bytes lie in the SO's seal and nowhere
//! else. An index that the TPM's owner creates anew is unwritten, an unwritten one cannot authorize, and
//! only W can write it; so the owner can destroy the gate but not pass it.
//!
//! TPM 2.0 Part 1 §37.2.8 (PIN indices), Part 3 §31.

use zeroize::Zeroizing;

use super::{Call, Name, Tpm};
use crate::error::Result;

/// Whose PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The user: keys and private objects.
    User,
    /// The security officer: PINs.
    So,
}

/// Which gate is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// PIN indices, or the fallback where the TPM has none to give.
    #[default]
    Auto,
    /// PIN indices, or an error.
    Nv,
    /// Seals under the TPM-wide dictionary attack protection.
    Da,
}

/// What a new gate is made from.
pub struct NewGate<'a> {
    /// The token's serial number, bound into the gate.
    pub serial: [u8; 16],
    /// The storage root key, pinned from now on.
    pub srk: Name,
    /// How many wrong PINs lock a role. 1 to 255.
    pub limit: u32,
    /// PBKDF2 iterations, 1,000 to 10,000,000.
    pub iterations: u32,
    /// Which gate.
    pub mode: Mode,
    /// The owner hierarchy's authorization value; usually empty.
    pub owner_auth: Zeroizing<Vec<u8>>,
    /// Make a recovery seal too.
    pub recovery: bool,
    /// The SO's PIN. (The user's is set by [`Tpm::set_user_pin`].)
    pub so_pin: &'a [u8],
    /// What the gate protects.
    pub token_secret: Zeroizing<[u8; 32]>,
    /// NV indices of the token that this one replaces: undefined at the end.
    pub retired: Vec<u32>,
}

/// How far [`Tpm::create_gate`] has come. Each is to be on disk before it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The index numbers are chosen, and nothing is in the TPM yet: keep the gate as pending. Comes again
    /// with other numbers if one was taken.
    Planned,
    /// The seals are made: keep them. [`Tpm::settle`] needs them from here on.
    Sealed,
    /// The indices are written: make the token active and the one that it replaces dead, in one commit.
    Written,
}

/// What a login opens.
pub struct Opened {
    /// The root of everything that a login opens.
    pub token_secret: Zeroizing<[u8; 32]>,
    /// The authorization value of W; the SO's alone.
    pub write_authority: Option<Zeroizing<[u8; 32]>>,
}

/// 128 random bits, printed once: opens the recovery seal.
pub type RecoveryCode = Zeroizing<String>;

/// Wrong PINs so far, and how many lock the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinCount {
    /// Wrong PINs since the last right one.
    pub count: u32,
    /// At this many the TPM locks the role.
    pub limit: u32,
}

/// How [`Tpm::settle`] left a token whose creation was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The gate stands: make the token active. The user's PIN may have to be set again.
    Complete,
    /// Nothing of it is left in the TPM: delete the token.
    Removed,
}

/// What the store keeps of a gate. Holds no secret that a PIN or the chip does not guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    srk: Name,
}

impl Gate {
    /// Bytes for the store, versioned.
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads what [`Gate::to_bytes`] wrote. `None` for anything else.
    pub fn from_bytes(_bytes: &[u8]) -> Option<Self> {
        todo!()
    }

    /// The Name of the storage root key that everything of this token is under.
    pub fn srk(&self) -> &Name {
        &self.srk
    }

    /// Whether PIN indices guard it (`false`: the fallback under dictionary attack protection).
    pub fn has_indices(&self) -> bool {
        todo!()
    }

    /// The NV indices in use.
    pub fn indices(&self) -> Vec<u32> {
        todo!()
    }

    /// Whether the user needs no PIN: [`Tpm::open_without_pin`].
    pub fn is_pinless(&self) -> bool {
        todo!()
    }

    /// The Name of the user's PIN index once written, for keys that ask for the PIN at each use.
    pub fn user_index_name(&self) -> Option<Name> {
        todo!()
    }

    /// PBKDF2 iterations.
    pub fn iterations(&self) -> u32 {
        todo!()
    }

    /// How many wrong PINs lock a role.
    pub fn limit(&self) -> u32 {
        todo!()
    }

    /// Whether there is a recovery seal.
    pub fn is_recoverable(&self) -> bool {
        todo!()
    }
}

impl Tpm {
    /// Makes a gate, in steps that survive a crash: after each [`Stage`] the `journal` has it on disk, and
    /// [`Tpm::settle`] goes on from there. The user has no PIN yet.
    ///
    /// # Errors
    /// `DeviceMemory` if there is no NV space (with [`Mode::Nv`]), `Device`, `ForeignTpm`, and what
    /// `journal` returns; then nothing is left in the TPM if it still answers.
    pub fn create_gate(
        &self,
        _call: &Call,
        _new: &NewGate<'_>,
        _journal: &mut dyn FnMut(&Gate, Stage) -> Result<()>,
    ) -> Result<(Gate, Option<RecoveryCode>)> {
        todo!()
    }

    /// Opens the token with a PIN: seven TPM commands.
    ///
    /// # Errors
    /// `WrongPin` with the tries left as the TPM counts them, `PinLocked`, `PinNotInitialized`;
    /// `ForeignTpm` and `Device` if the storage root key or the index is not the token's: then no PIN was
    /// sent and no try was spent.
    pub fn login(&self, _call: &Call, _gate: &Gate, _role: Role, _pin: &[u8]) -> Result<Opened> {
        todo!()
    }

    /// Opens a token whose user needs no PIN.
    pub fn open_without_pin(&self, _call: &Call, _gate: &Gate) -> Result<Opened> {
        todo!()
    }

    /// Replaces a PIN by its holder; a wrong old one is counted. The gate is to be kept if one is
    /// returned (the fallback gate lives in the store; PIN indices change in the chip alone).
    ///
    /// # Errors
    /// As [`Tpm::login`].
    pub fn change_pin(
        &self,
        _call: &Call,
        _gate: &Gate,
        _role: Role,
        _old: &[u8],
        _new: &[u8],
    ) -> Result<Option<Gate>> {
        todo!()
    }

    /// Sets and unlocks the user's PIN on the SO's authority. An empty one makes a token whose user needs
    /// none; a later one takes that back. The gate is to be kept if one is returned.
    pub fn set_user_pin(
        &self,
        _call: &Call,
        _gate: &Gate,
        _so: &Opened,
        _new: &[u8],
    ) -> Result<Option<Gate>> {
        todo!()
    }

    /// Takes back the count of wrong user PINs on the SO's authority; the PIN stays.
    pub fn unlock_user(&self, _call: &Call, _gate: &Gate, _so: &Opened) -> Result<()> {
        todo!()
    }

    /// The wrong PINs that the TPM has counted: four commands, no PIN. For the fallback gate these are the
    /// TPM's own, of all programs.
    pub fn pin_count(&self, _call: &Call, _gate: &Gate, _role: Role) -> Result<PinCount> {
        todo!()
    }

    /// Ends a creation that was interrupted: forward if the SO's index is written, else back.
    pub fn settle(&self, _call: &Call, _gate: &Gate, _owner_auth: &[u8]) -> Result<Settled> {
        todo!()
    }

    /// Removes a token's indices from the TPM; every copy of the token is dead then, for ever.
    pub fn remove_gate(&self, _call: &Call, _gate: &Gate, _owner_auth: &[u8]) -> Result<()> {
        todo!()
    }

    /// The token secret by the recovery code.
    ///
    /// # Errors
    /// `PinInvalid` for a wrong code.
    pub fn recover(&self, _call: &Call, _gate: &Gate, _code: &str) -> Result<Zeroizing<[u8; 32]>> {
        todo!()
    }
}
