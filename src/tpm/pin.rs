//! The PIN gate: what stands between a PIN and the token secret, in the chip.
//!
//! Per token there are two NV indices of type PIN_FAIL, one for each role, whose authorization value is
//! made from the PIN and whose tries the chip counts by itself; two sealed copies of the token secret,
//! each opened by the proof of its index's value alone; and W, the write authority: whoever proves its
//! 32 random bytes may write an index or replace its value. These bytes lie in the SO's seal and nowhere
//! else. An index that the TPM's owner creates anew is unwritten, an unwritten one cannot authorize, and
//! only W can write it; so the owner can destroy the gate but not pass it. U, the same for the user, lies
//! in the user's seal and can only replace the value of the user's own index: who changes a PIN proves the
//! old one as in a login, where the TPM counts and limits.
//!
//! `pin/gate.rs` is what the store keeps and every digest that follows from it; `pin/flow.rs` is the
//! sequences of commands; here is what the floors above call.
//!
//! TPM 2.0 Part 1 §37.2.8 (PIN indices), Part 3 §31.

mod flow;
mod gate;
#[cfg(test)]
mod tests;

use zeroize::Zeroizing;

use self::flow::{Defined, Failure, Line};
use super::command::{Capability, GetCapability};
use super::fault::Trouble;
use super::lease::{Grant, Key, Lease};
use super::{Call, Fault, Name, Tpm};
use crate::error::{Error, Result};

pub use gate::Gate;

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
    /// The indices are written and proven, the seals are made: keep them. From here on [`Tpm::settle`]
    /// goes forward.
    Sealed,
    /// Nothing is missing: make the token active and the one that it replaces dead, in one commit.
    Written,
}

/// What a login opens.
pub struct Opened {
    /// The root of everything that a login opens.
    pub token_secret: Zeroizing<[u8; 32]>,
    /// The authorization value of W; the SO's alone, and none with the fallback gate.
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

impl PinCount {
    /// How many tries are left.
    pub fn left(self) -> u32 {
        self.limit.saturating_sub(self.count)
    }
}

/// How [`Tpm::settle`] left a token whose creation was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The gate stands: make the token active. The user's PIN is to be set.
    Complete,
    /// Nothing of it is left in the TPM: delete the token.
    Removed,
}

/// The range of NV handles that is ours, so that a tool can find what belongs to no store any more.
pub const INDICES: std::ops::RangeInclusive<u32> = 0x0181_1100..=0x0181_11FF;

/// The NV indices in [`INDICES`] that the TPM has: whoever made them, one command.
///
/// # Errors
/// The transport's, the TPM's.
pub fn survey(lease: &mut Lease) -> Result<Vec<u32>, Fault> {
    let ask = GetCapability { of: Capability::Handles, first: *INDICES.start(), count: 255 };
    let listed = lease.execute(&ask, &mut [])?;
    Ok(listed.items.iter().map(|item| item.0).filter(|index| INDICES.contains(index)).collect())
}

impl Tpm {
    /// Makes a gate, in steps that survive a crash: after each [`Stage`] the `journal` has it on disk, and
    /// [`Tpm::settle`] goes on from there. The user has no PIN yet. Under 30 commands.
    ///
    /// The TPM is not held while `journal` runs.
    ///
    /// # Errors
    /// `DeviceMemory` if there is no NV space (with [`Mode::Nv`]), `Device`, `ForeignTpm`, and what
    /// `journal` returns; then nothing is left in the TPM if it still answers.
    pub fn create_gate(
        &self,
        call: &Call,
        new: &NewGate<'_>,
        journal: &mut dyn FnMut(&Gate, Stage) -> Result<()>,
    ) -> Result<(Gate, Option<RecoveryCode>)> {
        create(&mut |job| self.on_line(call, &new.srk, job), new, journal)
    }

    /// Opens the token with a PIN: seven TPM commands.
    ///
    /// # Errors
    /// `WrongPin` with the tries left as the TPM counts them, `PinLocked`; `ForeignTpm` and `Device` if
    /// the storage root key or the index is not the token's: then no PIN was sent and no try was spent.
    pub fn login(&self, call: &Call, gate: &Gate, role: Role, pin: &[u8]) -> Result<Opened> {
        self.on_line_with_pin(call, gate, role, |line| line.login(gate, role, pin))
    }

    /// Opens a token whose user needs no PIN.
    pub fn open_without_pin(&self, call: &Call, gate: &Gate) -> Result<Opened> {
        self.on_line(call, gate.srk(), |line| line.open_without_pin(gate))
    }

    /// Replaces a PIN by its holder; a wrong old one is counted. The gate is to be kept if one is
    /// returned (the fallback gate lives in the store; PIN indices change in the chip alone).
    ///
    /// # Errors
    /// As [`Tpm::login`].
    pub fn change_pin(
        &self,
        call: &Call,
        gate: &Gate,
        role: Role,
        old: &[u8],
        new: &[u8],
    ) -> Result<Option<Gate>> {
        self.on_line_with_pin(call, gate, role, |line| line.change_pin(gate, role, old, new))
    }

    /// Sets and unlocks the user's PIN on the SO's authority. An empty one makes a token whose user needs
    /// none; a later one takes that back. The gate is to be kept if one is returned.
    pub fn set_user_pin(
        &self,
        call: &Call,
        gate: &Gate,
        so: &Opened,
        new: &[u8],
    ) -> Result<Option<Gate>> {
        self.on_line(call, gate.srk(), |line| line.set_user_pin(gate, so, new))
    }

    /// Takes back the count of wrong user PINs on the SO's authority; the PIN stays.
    pub fn unlock_user(&self, call: &Call, gate: &Gate, so: &Opened) -> Result<()> {
        self.on_line(call, gate.srk(), |line| line.unlock_user(gate, so))
    }

    /// The wrong PINs that the TPM has counted: four commands, no PIN. For the fallback gate these are the
    /// TPM's own, of all programs.
    pub fn pin_count(&self, call: &Call, gate: &Gate, role: Role) -> Result<PinCount> {
        self.on_line(call, gate.srk(), |line| line.pin_count(gate, role))
    }

    /// Ends a creation that was interrupted: forward if nothing is missing in the TPM, else back.
    pub fn settle(&self, call: &Call, gate: &Gate, owner_auth: &[u8]) -> Result<Settled> {
        self.on_line(call, gate.srk(), |line| line.settle(gate, owner_auth))
    }

    /// Removes a token's indices from the TPM; every copy of the token is dead then, for ever.
    pub fn remove_gate(&self, call: &Call, gate: &Gate, owner_auth: &[u8]) -> Result<()> {
        self.on_line(call, gate.srk(), |line| line.remove(gate, owner_auth))
    }

    /// Removes PIN indices that belong to no token any more. What does not look like one of ours, and what
    /// is gone already, is left alone.
    ///
    /// # Errors
    /// `Device` if the owner hierarchy has a password that `owner_auth` is not; the TPM's.
    pub fn remove_indices(&self, call: &Call, indices: &[u32], owner_auth: &[u8]) -> Result<()> {
        let srk = self.srk_name(call)?;
        self.on_line(call, &srk, |line| line.undefine(indices, owner_auth))
    }

    /// The token secret by the recovery code.
    ///
    /// # Errors
    /// `PinInvalid` for a wrong code.
    pub fn recover(&self, call: &Call, gate: &Gate, code: &str) -> Result<Zeroizing<[u8; 32]>> {
        self.on_line(call, gate.srk(), |line| line.recover(gate, code))
    }

    /// A context-specific login: the user's PIN is proven to the chip once, in a policy session that then
    /// waits, at most 30 s, for its one use of `key`.
    ///
    /// # Errors
    /// As [`Tpm::login`].
    pub fn authorize_once(&self, call: &Call, key: &Key, gate: &Gate, pin: &[u8]) -> Result<Grant> {
        let mut said = None;
        let granted = self.grant(call, gate.srk(), |lease| {
            on(lease, call, &mut |line| line.authorize_use(gate, pin, &key.blob.public))?.map_err(
                |error| {
                    said = Some(error);
                    Fault::bug("a refused PIN")
                },
            )
        });
        granted.map_err(|fault| said.take().unwrap_or_else(|| fault.into()))
    }

    fn on_line<T>(
        &self,
        call: &Call,
        srk: &Name,
        mut job: impl FnMut(&mut Line<'_>) -> Result<T, Failure>,
    ) -> Result<T> {
        self.with(call, Some(srk), |lease| on(lease, call, &mut job))?
    }

    fn on_line_with_pin<T>(
        &self,
        call: &Call,
        gate: &Gate,
        role: Role,
        mut job: impl FnMut(&mut Line<'_>) -> Result<T, Failure>,
    ) -> Result<T> {
        match self.with_pin(call, Some(gate.srk()), |lease| on(lease, call, &mut job)) {
            Ok(outcome) => outcome,
            // The answer to a PIN was lost: whether it cost a try only the TPM knows.
            Err(fault) if !fault.spares_the_pin() => {
                let count = self.pin_count(call, gate, role).map(PinCount::left);
                Err(match (fault.into(), count) {
                    (Error::Device(why), Ok(left)) => {
                        Error::Device(format!("{why}; {left} tries are left"))
                    }
                    (error, _) => error,
                })
            }
            Err(fault) => Err(fault.into()),
        }
    }
}

/// Runs one sequence on a lease. What is said to a person goes through; a fault is the lease's to heal.
fn on<T>(
    lease: &mut Lease,
    call: &Call,
    job: &mut dyn FnMut(&mut Line<'_>) -> Result<T, Failure>,
) -> Result<Result<T>, Fault> {
    let srk = lease.srk()?;
    // The lease flushes what a sequence leaves, or closes the connection: the cheaper of the two.
    match job(&mut Line { link: lease.link(), srk: &srk, call, alone: false }) {
        Ok(answer) => Ok(Ok(answer)),
        Err(Failure::Said(error)) => Ok(Err(error)),
        Err(Failure::Fault(fault)) => Err(fault),
    }
}

/// One step of a creation: a sequence of commands on a lease of its own.
type Step<'s> = dyn FnMut(&mut dyn FnMut(&mut Line<'_>) -> Result<(), Failure>) -> Result<()> + 's;

fn step<T>(
    steps: &mut Step<'_>,
    mut job: impl FnMut(&mut Line<'_>) -> Result<T, Failure>,
) -> Result<T> {
    let mut answer = None;
    steps(&mut |line| {
        answer = Some(job(line)?);
        Ok(())
    })?;
    answer.ok_or(Error::Bug("a step without an answer"))
}

/// The steps of a creation. `steps` runs one on a lease of its own, so that the TPM is free while the
/// journal writes.
fn create(
    steps: &mut Step<'_>,
    new: &NewGate<'_>,
    journal: &mut dyn FnMut(&Gate, Stage) -> Result<()>,
) -> Result<(Gate, Option<RecoveryCode>)> {
    Gate::check_numbers(new.limit, new.iterations).map_err(Error::ArgumentsBad)?;
    let made = match new.mode {
        Mode::Da => create_protected(steps, new, journal)?,
        Mode::Nv => match create_indices(steps, new, journal)? {
            Ok(made) => made,
            Err(fault) if *fault.kind() == Trouble::AuthFail => {
                return Err(Error::Device(
                    "the TPM's owner hierarchy has a password; without it no NV index can be made"
                        .to_owned(),
                ));
            }
            Err(unavailable) => return Err(unavailable.into()),
        },
        Mode::Auto => match create_indices(steps, new, journal)? {
            Ok(made) => made,
            Err(unavailable) => {
                log::warn!(
                    "tpm: no PIN indices ({unavailable}); the PINs are guarded by the TPM-wide lockout"
                );
                create_protected(steps, new, journal)?
            }
        },
    };
    // Every old copy of the token that this one replaces is dead from here on.
    if !new.retired.is_empty() {
        let undefined = step(steps, |line| line.undefine(&new.retired, &new.owner_auth));
        if let Err(error) = undefined {
            log::warn!("tpm: the NV indices of the replaced token remain: {error}");
        }
    }
    Ok(made)
}

type Made = (Gate, Option<RecoveryCode>);

/// With PIN indices. The inner error says why there can be none; then nothing is left of the attempt.
fn create_indices(
    steps: &mut Step<'_>,
    new: &NewGate<'_>,
    journal: &mut dyn FnMut(&Gate, Stage) -> Result<()>,
) -> Result<Result<Made, Fault>> {
    let authority = Secrets::random()?;
    let authorities = [&*authority.write, &*authority.change];
    let ([write, change], mut taken) = step(steps, |line| line.create_authorities(authorities))?;
    let mut next = || {
        let free = INDICES.clone().find(|index| !taken.contains(index));
        taken.extend(free);
        free.ok_or_else(|| Error::DeviceMemory("all NV indices of tpm11 are taken".to_owned()))
    };
    let mut gate = Gate::planned(new, write, change, [next()?, next()?])?;
    loop {
        journal(&gate, Stage::Planned)?;
        let defined =
            step(steps, |line| line.define(&gate, new.so_pin, &authority.user, &new.owner_auth));
        match defined {
            Ok(Defined::Both) => break,
            Ok(Defined::Taken(role)) => gate.renumber(role, next()?),
            Ok(Defined::Unavailable(fault)) => {
                abandon(steps, &gate, new);
                return Ok(Err(fault));
            }
            Err(error) => {
                abandon(steps, &gate, new);
                return Err(error);
            }
        }
    }
    let mut rest = || -> Result<(Gate, Option<RecoveryCode>)> {
        let code = new.recovery.then(flow::recovery_code).transpose()?;
        step(steps, |line| line.write_both(&gate, &authority.write, new.so_pin, &authority.user))?;
        let sealed = step(steps, |line| {
            line.seal_both(&gate, &new.token_secret, authorities, code.as_deref())
        })?;
        journal(&sealed, Stage::Sealed)?;
        Ok((sealed, code.map(|code| flow::shown(&code))))
    };
    match rest() {
        Ok((gate, code)) => {
            // From here on it can only go forward: if this fails, `settle` completes it.
            journal(&gate, Stage::Written)?;
            Ok(Ok((gate, code)))
        }
        Err(error) => {
            abandon(steps, &gate, new);
            Err(error)
        }
    }
}

/// The fallback: nothing of it is in the TPM.
fn create_protected(
    steps: &mut Step<'_>,
    new: &NewGate<'_>,
    journal: &mut dyn FnMut(&Gate, Stage) -> Result<()>,
) -> Result<Made> {
    let code = new.recovery.then(flow::recovery_code).transpose()?;
    let gate = step(steps, |line| line.create_protected(new, code.as_deref()))?;
    for stage in [Stage::Planned, Stage::Sealed, Stage::Written] {
        journal(&gate, stage)?;
    }
    Ok((gate, code.map(|code| flow::shown(&code))))
}

/// Takes back what an attempt left in the TPM. The pending row in the store stays for
/// [`Tpm::settle`] in case that even this fails.
fn abandon(steps: &mut Step<'_>, gate: &Gate, new: &NewGate<'_>) {
    if let Err(error) = step(steps, |line| line.remove(gate, &new.owner_auth)) {
        log::warn!("tpm: NV indices of an interrupted creation remain: {error}");
    }
}

/// The random values of a creation that no one keeps.
struct Secrets {
    /// The authorization value of W: lies in the SO's seal only.
    write: Zeroizing<[u8; 32]>,
    /// The authorization value of U: lies in the user's seal only.
    change: Zeroizing<[u8; 32]>,
    /// The user's index begins with a value that nobody knows.
    user: Zeroizing<[u8; 32]>,
}

impl Secrets {
    fn random() -> Result<Self> {
        Ok(Self { write: flow::random()?, change: flow::random()?, user: flow::random()? })
    }
}
