//! The sequences of commands. Each leaves nothing behind in the TPM, whatever happens, as long as the
//! TPM still answers.

use tss_esapi::constants::tss::{
    TPM2_CC_NV_ChangeAuth, TPM2_CC_NV_Read, TPM2_CC_NV_Write, TPM2_CC_Unseal,
};
use zeroize::Zeroizing;

use super::gate::{ATTRIBUTES, Blob, Gate, Index, Locked, PIN_DATA_BYTES, Place};
use super::{INDICES, NewGate, Opened, PinCount, RecoveryCode, Role, Settled};
use crate::crypto::drbg::os_bytes;
use crate::error::Error;
use crate::tpm::command::{
    Capability, Command, Create, FlushContext, GetCapability, Load, NvChangeAuth, NvDefineSpace,
    NvPublic, NvRead, NvReadPublic, NvUndefineSpace, NvWrite, OWNER, PolicySecret, Unseal,
};
use crate::tpm::execute::{Auth, Entity, execute};
use crate::tpm::fault::{Fault, Trouble};
use crate::tpm::key::{
    Seal, ZERO, parse, policy_auth_value, policy_command_code, policy_or, sealed, use_branches,
};
use crate::tpm::session::{HmacSession, Keyed, PolicySession};
use crate::tpm::srk::Pinned;
use crate::tpm::transport::Transport;
use crate::tpm::{Call, NewKey};

/// TPM_PT_LOCKOUT_COUNTER; TPM_PT_MAX_AUTH_FAIL follows it. Part 2 §6.13.
const LOCKOUT_COUNTER: u32 = 0x0000_020E;

/// Why a sequence did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The TPM or the way to it; the lease may heal it.
    Fault(Fault),
    /// It is certain what happened, and nothing can be healed.
    Said(Error),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Fault(fault)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Said(error)
    }
}

/// 32 random bytes of the operating system.
pub(super) fn random() -> Result<Zeroizing<[u8; 32]>, Error> {
    Ok(os_bytes()?)
}

/// A new recovery code.
pub(super) fn recovery_code() -> Result<Zeroizing<[u8; 16]>, Error> {
    Ok(os_bytes()?)
}

/// A recovery code as it is printed: eight groups of four hexadecimal digits.
pub(super) fn shown(code: &[u8; 16]) -> RecoveryCode {
    let mut text = Zeroizing::new(String::with_capacity(40));
    for (at, byte) in code.iter().enumerate() {
        if at % 2 == 0 && at > 0 {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text
}

/// A recovery code as it is typed: in either case, with or without what separates the groups.
fn typed(text: &str) -> Option<Zeroizing<[u8; 16]>> {
    let mut code = Zeroizing::new([0; 16]);
    let mut count = 0;
    for character in text.chars().filter(|character| !matches!(character, '-' | ' ')) {
        let digit = character.to_digit(16)? as u8;
        let byte = code.get_mut(count / 2)?;
        *byte = *byte << 4 | digit;
        count += 1;
    }
    (count == 32).then_some(code)
}

/// What [`Line::define`] came to.
pub(super) enum Defined {
    /// Both indices stand.
    Both,
    /// Somebody else's index has this role's number.
    Taken(Role),
    /// This TPM gives no PIN index.
    Unavailable(Fault),
}

/// What stands at an index's number.
enum Found {
    Nothing,
    Unwritten(NvPublic),
    Written(NvPublic),
    Strange,
}

/// What a sequence has open in the TPM.
#[derive(Default)]
struct Open {
    policy: Option<PolicySession>,
    hmac: Option<HmacSession>,
    object: Option<Entity>,
}

/// The TPM as one sequence sees it.
pub(super) struct Line<'a> {
    pub(super) link: &'a mut dyn Transport,
    pub(super) srk: &'a Pinned,
    pub(super) call: &'a Call,
    /// Nobody cleans up behind us when a sequence succeeds.
    pub(super) alone: bool,
}

impl Line<'_> {
    fn run<C: Command>(
        &mut self,
        command: &C,
        auths: &mut [Auth<'_>],
    ) -> Result<C::Response, Fault> {
        execute(self.link, command, auths, self.call)
    }

    /// Runs a sequence, then flushes whatever it left open.
    fn tidily<T>(
        &mut self,
        sequence: impl FnOnce(&mut Self, &mut Open) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut open = Open::default();
        let outcome = sequence(self, &mut open);
        let broken = matches!(&outcome, Err(Failure::Fault(fault)) if fault.breaks_the_line());
        let failed = outcome.is_err();
        if broken || (!self.alone && !failed) {
            return outcome;
        }
        let policy =
            open.policy.filter(|session| !session.has_ended()).map(|session| session.handle());
        let hmac = open.hmac.filter(|session| !session.has_ended()).map(|session| session.handle());
        let object = open.object.map(|object| object.handle);
        for handle in [object, policy, hmac].into_iter().flatten() {
            // What was achieved stays achieved: a handle that cannot be flushed is worth a line.
            if let Err(fault) = self.run(&FlushContext { handle }, &mut []) {
                log::debug!("tpm: {handle:#010x} could not be flushed: {fault}");
            }
        }
        outcome
    }

    fn salted(&mut self) -> Result<HmacSession, Fault> {
        HmacSession::salted(self.link, self.srk, self.call)
    }

    fn load(&mut self, blob: &Blob, session: &mut HmacSession) -> Result<Entity, Fault> {
        let parent = Entity::from(self.srk);
        let command = Load { parent: &parent, public: &blob.public, private: &blob.private };
        self.run(&command, &mut [Auth::hmac(session, &[])])
    }

    fn seal(
        &mut self,
        seal: Seal,
        authorization: &[u8],
        data: &[u8],
        session: Auth<'_>,
    ) -> Result<Blob, Fault> {
        let parent = Entity::from(self.srk);
        let public = sealed(seal)?;
        let command = Create { parent: &parent, authorization, data, public: &public };
        let made: NewKey = self.run(&command, &mut [session])?;
        Ok(made.into())
    }

    // ---- the index -------------------------------------------------------------------------

    fn find(&mut self, gate: &Gate, role: Role) -> Result<Found, Fault> {
        let ours = gate.index_public(role)?;
        match self.run(&NvReadPublic::of(ours.index), &mut []) {
            Ok((_, Some(public))) if public == ours.written() => Ok(Found::Written(public)),
            Ok((_, Some(public))) if public == ours => Ok(Found::Unwritten(public)),
            Ok(_) => Ok(Found::Strange),
            Err(fault) if *fault.kind() == Trouble::Handle => Ok(Found::Nothing),
            Err(fault) => Err(fault),
        }
    }

    /// The index if it is the one that the store's numbers are committed in: before any PIN is used.
    fn checked(&mut self, gate: &Gate, role: Role) -> Result<NvPublic, Failure> {
        match self.find(gate, role)? {
            Found::Written(public) => Ok(public),
            Found::Unwritten(public) => Err(unwritten(&public)),
            Found::Nothing => Err(gone()),
            Found::Strange => Err(changed()),
        }
    }

    /// What a refused PIN means; the count is read back from the chip.
    fn refused(&mut self, gate: &Gate, role: Role, fault: Fault) -> Failure {
        if !fault.pin {
            return fault.into();
        }
        match fault.kind() {
            Trouble::AuthFail => {
                let left = match self.pin_count(gate, role) {
                    Ok(count) => Some(count.left()),
                    Err(failure) => {
                        log::warn!("tpm: the tries left could not be read: {failure:?}");
                        None
                    }
                };
                Failure::Said(Error::WrongPin { left })
            }
            // The index was seen to be written a moment ago, so it is locked.
            Trouble::AuthUnavailable => Failure::Said(Error::PinLocked),
            // PIN indices are not under dictionary-attack protection: then it is not about this PIN.
            Trouble::Lockout if !gate.has_indices() => Failure::Said(Error::PinLocked),
            // A refusal of a key's policy is an answer to a signature, not to a login.
            Trouble::Policy | Trouble::PcrChanged => {
                Failure::Said(Error::Device(fault.to_string()))
            }
            Trouble::Yielded | Trouble::Canceled => {
                let spent = match self.pin_count(gate, role) {
                    Ok(count) => format!("{} tries are left", count.left()),
                    Err(_) => "a try may have been spent".to_owned(),
                };
                Failure::Said(Error::Device(format!("{fault}; {spent}")))
            }
            _ => fault.into(),
        }
    }

    pub(super) fn pin_count(&mut self, gate: &Gate, role: Role) -> Result<PinCount, Failure> {
        if !gate.has_indices() {
            return self.lockout();
        }
        let index = gate.index_public(role)?.written().entity();
        let branches = gate.branches(role)?;
        let data = self.tidily(|line, open| {
            let policy = open.policy.insert(PolicySession::unsalted(line.link, line.call)?);
            policy.command_code(TPM2_CC_NV_Read, line.link, line.call)?;
            policy.or(&branches, line.link, line.call)?;
            let command = NvRead { authorizes: &index, index: &index, size: PIN_DATA_BYTES };
            Ok(line.run(&command, &mut [Auth::policy(policy).ending()])?)
        })?;
        let mut data = crate::tpm::wire::Reader::new(&data);
        let count = PinCount { count: data.u32()?, limit: data.u32()? };
        data.end()?;
        Ok(count)
    }

    /// The TPM's own count of wrong authorizations.
    fn lockout(&mut self) -> Result<PinCount, Failure> {
        let command =
            GetCapability { of: Capability::Properties, first: LOCKOUT_COUNTER, count: 2 };
        let listed = self.run(&command, &mut [])?;
        let value = |number| {
            listed.items.iter().find(|(property, _)| *property == number).map(|(_, value)| *value)
        };
        match (value(LOCKOUT_COUNTER), value(LOCKOUT_COUNTER + 1)) {
            (Some(count), Some(limit)) => Ok(PinCount { count, limit }),
            _ => Err(Fault::new(Trouble::Tampered("properties that were not asked for")).into()),
        }
    }

    // ---- login -----------------------------------------------------------------------------

    pub(super) fn login(&mut self, gate: &Gate, role: Role, pin: &[u8]) -> Result<Opened, Failure> {
        match &gate.place {
            Place::Indices { .. } => {
                let data =
                    self.by_pin(gate, role, pin, |line, open, seal| line.unseal(seal, open, true))?;
                Ok(opened(&data, role)?)
            }
            Place::Protected { .. } => self.login_protected(gate, role, pin),
        }
    }

    /// Proves a PIN to its index, after the index was checked, then goes on with `then`, which gets the
    /// role's seal: its policy is met.
    fn by_pin<T>(
        &mut self,
        gate: &Gate,
        role: Role,
        pin: &[u8],
        then: impl FnOnce(&mut Self, &mut Open, &Blob) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let index = self.checked(gate, role)?.entity();
        let Index { salt, seal, .. } = gate.index(role)?;
        let seal =
            seal.as_ref().ok_or(Fault::new(Trouble::Malformed("a gate without its seals")))?;
        let value = gate.stretch(salt, pin);
        let outcome = self.tidily(|line, open| {
            let hmac = open.hmac.insert(line.salted()?);
            let policy = open.policy.insert(PolicySession::proving(line.link, hmac, line.call)?);
            line.prove(&index, policy, Auth::hmac(hmac, value.as_slice()).pin())?;
            then(line, open, seal)
        });
        match outcome {
            Err(Failure::Fault(fault)) => Err(self.refused(gate, role, fault)),
            other => other,
        }
    }

    /// Opens a seal whose policy is met. `last` ends both sessions.
    fn unseal(
        &mut self,
        seal: &Blob,
        open: &mut Open,
        last: bool,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let hmac = open.hmac.as_mut().ok_or(Fault::bug("no session"))?;
        open.object = Some(self.load(seal, hmac)?);
        let (policy, hmac, item) = open.all()?;
        let (policy, hmac) = (Auth::policy(policy), Auth::extra(hmac));
        let mut auths = if last { [policy.ending(), hmac.ending()] } else { [policy, hmac] };
        Ok(self.run(&Unseal { item }, &mut auths)?)
    }

    /// TPM2_PolicySecret
    fn prove(
        &mut self,
        authorizes: &Entity,
        policy: &PolicySession,
        auth: Auth<'_>,
    ) -> Result<(), Fault> {
        let session = policy.entity();
        let command = PolicySecret { authorizes, session: &session, nonce_tpm: policy.nonce_tpm() };
        self.run(&command, &mut [auth])
    }

    fn login_protected(&mut self, gate: &Gate, role: Role, pin: &[u8]) -> Result<Opened, Failure> {
        let Place::Protected { user, so } = &gate.place else {
            return Err(Fault::bug("not the fallback gate").into());
        };
        let Locked { salt, seal } = match role {
            Role::User => user.as_ref().ok_or(Error::PinNotInitialized)?,
            Role::So => so,
        };
        let value = gate.stretch(salt, pin);
        let parent = Entity::from(self.srk);
        let outcome = self.tidily(|line, open| {
            let policy = open.policy.insert(PolicySession::salted(line.link, line.srk, line.call)?);
            let command = Load { parent: &parent, public: &seal.public, private: &seal.private };
            // The session proves itself before the PIN goes through it: if one bit of the answer that began
            // it was wrong, so is every HMAC that is made with it, and the PIN would count as wrong.
            let proof = Auth::policy_with_value(policy, &[]);
            let item = &*open.object.insert(line.run(&command, &mut [Auth::password(&[]), proof])?);
            policy.auth_value(line.link, line.call)?;
            policy.command_code(TPM2_CC_Unseal, line.link, line.call)?;
            let auth = Auth::policy_with_value(policy, value.as_slice()).pin().ending();
            Ok(line.run(&Unseal { item }, &mut [auth])?)
        });
        match outcome {
            Ok(data) => Ok(Opened { token_secret: alone(&data)?, write_authority: None }),
            Err(Failure::Fault(fault)) => Err(self.refused(gate, role, fault)),
            Err(said) => Err(said),
        }
    }

    /// Opens a seal by its authorization value.
    fn open_by_value(&mut self, blob: &Blob, value: &[u8]) -> Result<Zeroizing<[u8; 32]>, Failure> {
        let data = self.tidily(|line, open| {
            let hmac = open.hmac.insert(line.salted()?);
            let item = &*open.object.insert(line.load(blob, hmac)?);
            Ok(line.run(&Unseal { item }, &mut [Auth::hmac(hmac, value).ending()])?)
        })?;
        alone(&data)
    }

    pub(super) fn open_without_pin(&mut self, gate: &Gate) -> Result<Opened, Failure> {
        let blob = gate.pinless.as_ref().ok_or(Error::NotLoggedIn)?;
        Ok(Opened { token_secret: self.open_by_value(blob, &[])?, write_authority: None })
    }

    pub(super) fn recover(
        &mut self,
        gate: &Gate,
        code: &str,
    ) -> Result<Zeroizing<[u8; 32]>, Failure> {
        let wrong = || Failure::Said(Error::PinInvalid("the recovery code is wrong"));
        let code = typed(code).ok_or_else(wrong)?;
        let blob = gate
            .recovery
            .as_ref()
            .ok_or(Error::NotSupported("the token was made without a recovery code"))?;
        match self.open_by_value(blob, recovery_value(gate, &code).as_slice()) {
            Err(Failure::Fault(fault)) if *fault.kind() == Trouble::AuthFail => Err(wrong()),
            other => other,
        }
    }

    /// Proves the user's PIN in a policy session that then authorizes one use of a key.
    pub(super) fn authorize_use(
        &mut self,
        gate: &Gate,
        pin: &[u8],
        key_public: &[u8],
    ) -> Result<PolicySession, Failure> {
        let role = Role::User;
        let index = self.checked(gate, role)?.entity();
        let value = gate.stretch(&gate.index(role)?.salt, pin);
        let branches = use_branches(&index.name);
        let joined = parse(key_public)?.auth_policy().value() == policy_or(&branches);
        let outcome = self.tidily(|line, open| {
            let hmac = open.hmac.insert(line.salted()?);
            let policy = open.policy.insert(PolicySession::proving(line.link, hmac, line.call)?);
            line.prove(&index, policy, Auth::hmac(hmac, value.as_slice()).pin().ending())?;
            if joined {
                policy.or(&branches, line.link, line.call)?;
            }
            open.policy.take().ok_or(Fault::bug("a session that is not there").into())
        });
        match outcome {
            Err(Failure::Fault(fault)) => Err(self.refused(gate, role, fault)),
            other => other,
        }
    }

    // ---- changing PINs ---------------------------------------------------------------------

    pub(super) fn change_pin(
        &mut self,
        gate: &Gate,
        role: Role,
        old: &[u8],
        new: &[u8],
    ) -> Result<Option<Gate>, Failure> {
        if !gate.has_indices() {
            let opened = self.login_protected(gate, role, old)?;
            return self.lock(gate, role, &opened, new).map(Some);
        }
        let new = gate.stretch(&gate.index(role)?.salt, new);
        let index = gate.index_public(role)?.written().entity();
        self.by_pin(gate, role, old, |line, open, seal| {
            let inside = parts(&line.unseal(seal, open, false)?)?;
            line.next_object(gate.changer(role)?, open)?;
            line.by_authority(gate, role, TPM2_CC_NV_ChangeAuth, &inside.authority, open)?;
            let (policy, hmac, _) = open.all()?;
            let command = NvChangeAuth { index: &index, new: new.as_slice() };
            // Marked as a PIN command though it proves none: after a lost answer the old PIN may be wrong,
            // so the sequence must not run again.
            let auths = &mut [Auth::policy(policy).pin().ending(), Auth::extra(hmac).ending()];
            line.run(&command, auths)?;
            Ok(None)
        })
    }

    /// Loads another object in place of the one that is open.
    fn next_object(&mut self, blob: &Blob, open: &mut Open) -> Result<(), Fault> {
        if let Some(object) = open.object.take() {
            // Three slots are all that a small TPM has.
            self.run(&FlushContext { handle: object.handle }, &mut [])?;
        }
        let hmac = open.hmac.as_mut().ok_or(Fault::bug("no session"))?;
        open.object = Some(self.load(blob, hmac)?);
        Ok(())
    }

    pub(super) fn set_user_pin(
        &mut self,
        gate: &Gate,
        so: &Opened,
        new: &[u8],
    ) -> Result<Option<Gate>, Failure> {
        let mut changed = gate.clone();
        changed.pinless = match new {
            [] => Some(self.tidily(|line, open| {
                let hmac = open.hmac.insert(line.salted()?);
                let auth = Auth::hmac(hmac, &[]).ending();
                Ok(line.seal(Seal::Value, &[], so.token_secret.as_slice(), auth)?)
            })?),
            _ => None,
        };
        if !gate.has_indices() {
            return if new.is_empty() {
                Ok(Some(changed))
            } else {
                self.lock(&changed, Role::User, so, new).map(Some)
            };
        }
        let authority = authority_of(so)?;
        let public = self.checked(gate, Role::User)?;
        let value = match new {
            [] => random()?,
            _ => gate.stretch(&gate.index(Role::User)?.salt, new),
        };
        self.tidily(|line, open| {
            line.with_authority(gate, open)?;
            line.by_authority(gate, Role::User, TPM2_CC_NV_ChangeAuth, authority, open)?;
            let (policy, hmac, _) = open.all()?;
            let index = public.entity();
            let command = NvChangeAuth { index: &index, new: value.as_slice() };
            line.run(&command, &mut [Auth::policy(policy), Auth::extra(hmac)])?;
            line.reset(gate, Role::User, &public, authority, open, true)
        })?;
        Ok((changed != *gate).then_some(changed))
    }

    pub(super) fn unlock_user(&mut self, gate: &Gate, so: &Opened) -> Result<(), Failure> {
        if !gate.has_indices() {
            return Err(Failure::Said(Error::FunctionRejected(
                "the TPM-wide lockout ends by itself, or by the TPM's owner".to_owned(),
            )));
        }
        let authority = authority_of(so)?;
        let public = self.checked(gate, Role::User)?;
        self.tidily(|line, open| {
            line.with_authority(gate, open)?;
            line.reset(gate, Role::User, &public, authority, open, true)
        })
    }

    /// Loads W and opens the two sessions that its use needs.
    fn with_authority(&mut self, gate: &Gate, open: &mut Open) -> Result<(), Fault> {
        open.policy = Some(PolicySession::unsalted(self.link, self.call)?);
        let hmac = open.hmac.insert(self.salted()?);
        open.object = Some(self.load(gate.authority()?, hmac)?);
        Ok(())
    }

    /// Meets the branch of an index's policy that W opens for this command.
    fn by_authority(
        &mut self,
        gate: &Gate,
        role: Role,
        code: u32,
        authority: &[u8; 32],
        open: &mut Open,
    ) -> Result<(), Fault> {
        let (policy, hmac, object) = open.all()?;
        self.prove(object, policy, Auth::hmac(hmac, authority))?;
        policy.command_code(code, self.link, self.call)?;
        policy.or(&gate.branches(role)?, self.link, self.call)
    }

    /// Writes an index: no wrong PIN so far, and the limit.
    fn reset(
        &mut self,
        gate: &Gate,
        role: Role,
        public: &NvPublic,
        authority: &[u8; 32],
        open: &mut Open,
        last: bool,
    ) -> Result<(), Failure> {
        self.by_authority(gate, role, TPM2_CC_NV_Write, authority, open)?;
        let (policy, hmac, _) = open.all()?;
        let mut data = [0; PIN_DATA_BYTES as usize];
        data[4..].copy_from_slice(&gate.limit.to_be_bytes());
        let index = public.entity();
        let command = NvWrite { authorizes: &index, index: &index, data: &data };
        let (policy, hmac) = (Auth::policy(policy), Auth::extra(hmac));
        let auths = if last { [policy.ending(), hmac.ending()] } else { [policy, hmac] };
        Ok(self.run(&command, &mut { auths })?)
    }

    // ---- creation --------------------------------------------------------------------------

    /// Makes W and U, and lists which of our NV numbers are taken.
    pub(super) fn create_authorities(
        &mut self,
        values: [&[u8; 32]; 2],
    ) -> Result<([Blob; 2], Vec<u32>), Failure> {
        let (first, last) = (*INDICES.start(), *INDICES.end());
        let command = GetCapability { of: Capability::Handles, first, count: last - first + 1 };
        let listed = self.run(&command, &mut [])?;
        let taken = listed.items.into_iter().map(|(handle, _)| handle);
        let blobs = self.tidily(|line, open| {
            let hmac = open.hmac.insert(line.salted()?);
            // What they seal is nobody's secret; each is its authorization value.
            let [write, change] = values;
            let write = line.seal(Seal::Value, write, b"W", Auth::hmac(hmac, &[]))?;
            let change = line.seal(Seal::Value, change, b"U", Auth::hmac(hmac, &[]).ending())?;
            Ok([write, change])
        })?;
        Ok((blobs, taken.filter(|handle| INDICES.contains(handle)).collect()))
    }

    /// Defines both indices. One that stands already because a first attempt's answer was lost is fine.
    pub(super) fn define(
        &mut self,
        gate: &Gate,
        so_pin: &[u8],
        user_value: &[u8; 32],
        owner_auth: &[u8],
    ) -> Result<Defined, Failure> {
        let so_value = gate.stretch(&gate.index(Role::So)?.salt, so_pin);
        self.tidily(|line, open| {
            let hmac = open.hmac.insert(line.salted()?);
            let owner = Entity::permanent(OWNER);
            for (role, value) in [(Role::So, &*so_value), (Role::User, user_value)] {
                let public = gate.index_public(role)?;
                let command =
                    NvDefineSpace { owner: &owner, authorization: value, public: &public };
                let auth = Auth::hmac(hmac, owner_auth);
                let auth = if role == Role::User { auth.ending() } else { auth };
                match line.run(&command, &mut [auth]) {
                    Ok(()) => {}
                    Err(fault) => match fault.kind() {
                        Trouble::NvDefined => match line.find(gate, role)? {
                            Found::Unwritten(_) => {}
                            _ => return Ok(Defined::Taken(role)),
                        },
                        // No space; an owner password that we do not have; a TPM that has no PIN
                        // indices; a hierarchy that is switched off.
                        Trouble::NvSpace
                        | Trouble::AuthFail
                        | Trouble::Parameter
                        | Trouble::CommandCode
                        | Trouble::Hierarchy
                        | Trouble::NvState => return Ok(Defined::Unavailable(fault)),
                        _ => return Err(fault.into()),
                    },
                }
            }
            Ok(Defined::Both)
        })
    }

    /// Makes both seals, and the recovery seal if there is a code.
    pub(super) fn seal_both(
        &mut self,
        gate: &Gate,
        token_secret: &[u8; 32],
        authorities: [&[u8; 32]; 2],
        code: Option<&[u8; 16]>,
    ) -> Result<Gate, Failure> {
        let mut gate = gate.clone();
        let [so_data, user_data] = authorities.map(|authority| {
            let mut data = Zeroizing::new([0; 64]);
            let both = token_secret.iter().chain(authority);
            data.iter_mut().zip(both).for_each(|(place, byte)| *place = *byte);
            data
        });
        let policies = [Role::So, Role::User].map(|role| gate.seal_policy(role).map(Seal::Policy));
        let [so_policy, user_policy] = policies;
        let (so_policy, user_policy) = (so_policy?, user_policy?);
        let value = code.map(|code| recovery_value(&gate, code));
        let (so_seal, user_seal, recovery) = self.tidily(|line, open| {
            let hmac = open.hmac.insert(line.salted()?);
            let so = line.seal(so_policy, &[], so_data.as_slice(), Auth::hmac(hmac, &[]))?;
            let recovery = match &value {
                Some(value) => {
                    let auth = Auth::hmac(hmac, &[]);
                    Some(line.seal(Seal::Value, value.as_slice(), token_secret, auth)?)
                }
                None => None,
            };
            let auth = Auth::hmac(hmac, &[]).ending();
            let user = line.seal(user_policy, &[], user_data.as_slice(), auth)?;
            Ok((so, user, recovery))
        })?;
        gate.recovery = recovery;
        if let Place::Indices { user, so, .. } = &mut gate.place {
            user.seal = Some(user_seal);
            so.seal = Some(so_seal);
        }
        Ok(gate)
    }

    /// Writes both indices, then proves both values.
    ///
    /// Until it is written an index may be undefined and defined anew by the owner with another value and
    /// the same Name, and the write would make that one good. So no secret is sealed to an index before
    /// its value was proven to be ours. (A written one cannot be replaced: the new one is unwritten, and
    /// that shows in its Name.)
    pub(super) fn write_both(
        &mut self,
        gate: &Gate,
        authority: &[u8; 32],
        so_pin: &[u8],
        user_value: &[u8; 32],
    ) -> Result<(), Failure> {
        let mut left = Vec::new();
        for role in [Role::So, Role::User] {
            match self.find(gate, role)? {
                Found::Unwritten(public) => left.push((role, public)),
                // The answer to the first attempt was lost.
                Found::Written(_) => {}
                Found::Nothing => return Err(gone()),
                Found::Strange => return Err(changed()),
            }
        }
        let so_value = gate.stretch(&gate.index(Role::So)?.salt, so_pin);
        self.tidily(|line, open| {
            line.with_authority(gate, open)?;
            for (role, public) in &left {
                line.reset(gate, *role, public, authority, open, false)?;
            }
            let (policy, hmac, _) = open.all()?;
            for (role, value) in [(Role::So, &*so_value), (Role::User, user_value)] {
                let index = gate.index_public(role)?.written().entity();
                line.prove(&index, policy, Auth::hmac(hmac, value)).map_err(|fault| match fault
                    .kind()
                {
                    Trouble::AuthFail => replaced(),
                    _ => fault.into(),
                })?;
            }
            Ok(())
        })
    }

    /// Undefines indices that look like ours.
    pub(super) fn undefine(&mut self, indices: &[u32], owner_auth: &[u8]) -> Result<(), Failure> {
        let mut found = Vec::new();
        for &index in indices {
            match self.run(&NvReadPublic::of(index), &mut []) {
                Ok((_, Some(public)))
                    if public.attributes & !NvPublic::WRITTEN == ATTRIBUTES
                        && INDICES.contains(&index) =>
                {
                    found.push(public.entity());
                }
                Ok(_) => log::warn!("tpm: NV index {index:#010x} is not ours and stays"),
                Err(fault) if *fault.kind() == Trouble::Handle => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        self.tidily(|line, open| {
            let hmac = open.hmac.insert(line.salted()?);
            let owner = Entity::permanent(OWNER);
            for index in &found {
                let command = NvUndefineSpace { owner: &owner, index };
                line.run(&command, &mut [Auth::hmac(hmac, owner_auth)]).map_err(
                    |fault| match fault.kind() {
                        Trouble::AuthFail => Failure::Said(Error::Device(
                            "the TPM's owner hierarchy has a password; without it the NV indices \
                             stay"
                                .to_owned(),
                        )),
                        _ => fault.into(),
                    },
                )?;
            }
            let handle = hmac.handle();
            line.run(&FlushContext { handle }, &mut [])?;
            open.hmac = None;
            Ok(())
        })
    }

    pub(super) fn remove(&mut self, gate: &Gate, owner_auth: &[u8]) -> Result<(), Failure> {
        let mut ours = Vec::new();
        if gate.has_indices() {
            for role in [Role::User, Role::So] {
                match self.find(gate, role)? {
                    Found::Written(public) | Found::Unwritten(public) => ours.push(public.index),
                    Found::Nothing | Found::Strange => {}
                }
            }
        }
        self.undefine(&ours, owner_auth)
    }

    pub(super) fn settle(&mut self, gate: &Gate, owner_auth: &[u8]) -> Result<Settled, Failure> {
        if gate.has_indices() {
            let mut complete = true;
            for role in [Role::User, Role::So] {
                complete &= gate.index(role)?.seal.is_some()
                    && matches!(self.find(gate, role)?, Found::Written(_));
            }
            if complete {
                return Ok(Settled::Complete);
            }
            self.remove(gate, owner_auth)?;
        }
        Ok(Settled::Removed)
    }

    // ---- the fallback gate -----------------------------------------------------------------

    pub(super) fn create_protected(
        &mut self,
        new: &NewGate<'_>,
        code: Option<&[u8; 16]>,
    ) -> Result<Gate, Failure> {
        // A role's seal is made by `lock`; until then an empty one stands in its place.
        let nothing = Locked { salt: [0; 32], seal: Blob { public: vec![], private: vec![] } };
        let mut gate = Gate {
            serial: new.serial,
            srk: new.srk.clone(),
            limit: new.limit,
            iterations: new.iterations,
            place: Place::Protected { user: None, so: nothing },
            pinless: None,
            recovery: None,
        };
        let opened = Opened { token_secret: new.token_secret.clone(), write_authority: None };
        if let Some(code) = code {
            let value = recovery_value(&gate, code);
            gate.recovery = Some(self.tidily(|line, open| {
                let hmac = open.hmac.insert(line.salted()?);
                let auth = Auth::hmac(hmac, &[]).ending();
                Ok(line.seal(Seal::Value, value.as_slice(), new.token_secret.as_slice(), auth)?)
            })?);
        }
        self.lock(&gate, Role::So, &opened, new.so_pin)
    }

    /// Seals the token secret to a role's PIN.
    fn lock(
        &mut self,
        gate: &Gate,
        role: Role,
        opened: &Opened,
        pin: &[u8],
    ) -> Result<Gate, Failure> {
        let salt = *random()?;
        let value = gate.stretch(&salt, pin);
        let policy = policy_command_code(&policy_auth_value(&ZERO), TPM2_CC_Unseal);
        let seal = self.tidily(|line, open| {
            let hmac = open.hmac.insert(line.salted()?);
            let auth = Auth::hmac(hmac, &[]).ending();
            let secret = opened.token_secret.as_slice();
            Ok(line.seal(Seal::Protected(policy), value.as_slice(), secret, auth)?)
        })?;
        let mut gate = gate.clone();
        let locked = Locked { salt, seal };
        if let Place::Protected { user, so } = &mut gate.place {
            match role {
                Role::User => *user = Some(locked),
                Role::So => *so = locked,
            }
        }
        Ok(gate)
    }
}

impl Open {
    fn all(&mut self) -> Result<(&mut PolicySession, &mut HmacSession, &Entity), Fault> {
        match (&mut self.policy, &mut self.hmac, &self.object) {
            (Some(policy), Some(hmac), Some(object)) => Ok((policy, hmac, object)),
            _ => Err(Fault::bug("a sequence without its sessions")),
        }
    }
}

/// What a role's seal holds: the token secret, and the authorization value of who may change the PIN.
struct Inside {
    token_secret: Zeroizing<[u8; 32]>,
    /// W's for the SO, U's for the user.
    authority: Zeroizing<[u8; 32]>,
}

fn malformed() -> Failure {
    Fault::new(Trouble::Malformed("a seal of another size")).into()
}

fn parts(data: &[u8]) -> Result<Inside, Failure> {
    let (token_secret, authority) = data.split_first_chunk::<32>().ok_or_else(malformed)?;
    let authority: &[u8; 32] = authority.try_into().map_err(|_| malformed())?;
    Ok(Inside {
        token_secret: Zeroizing::new(*token_secret),
        authority: Zeroizing::new(*authority),
    })
}

/// What a seal without an authority holds.
fn alone(data: &[u8]) -> Result<Zeroizing<[u8; 32]>, Failure> {
    data.try_into().map(Zeroizing::new).map_err(|_| malformed())
}

/// What a login gives away: the SO's authority, for C_InitPIN; the user's stays here.
fn opened(data: &[u8], role: Role) -> Result<Opened, Failure> {
    let inside = parts(data)?;
    let write_authority = (role == Role::So).then_some(inside.authority);
    Ok(Opened { token_secret: inside.token_secret, write_authority })
}

fn authority_of(so: &Opened) -> Result<&[u8; 32], Failure> {
    let authority = so.write_authority.as_deref();
    authority.ok_or(Failure::Said(Error::Bug("the user acts as the security officer")))
}

/// The authorization value of the recovery seal. The code is random, so it needs no stretching.
fn recovery_value(gate: &Gate, code: &[u8; 16]) -> Zeroizing<[u8; 32]> {
    Keyed::new(code).mac(&[b"tpm11 recovery seal", &gate.serial])
}

fn gone() -> Failure {
    Failure::Said(Error::Device(
        "PIN gate removed by the TPM's owner: the token's NV index is gone; only the recovery code \
         opens the token now, or initialise it anew"
            .to_owned(),
    ))
}

fn changed() -> Failure {
    Failure::Said(Error::Device(
        "gate parameters in the store or the TPM were changed: the token's NV index is not the one \
         that the store describes; no PIN was sent"
            .to_owned(),
    ))
}

fn unwritten(public: &NvPublic) -> Failure {
    Failure::Said(Error::Device(format!(
        "the token's NV index {:#010x} was created anew by the TPM's owner; no PIN was sent; only the \
         recovery code opens the token now, or initialise it anew",
        public.index
    )))
}

fn replaced() -> Failure {
    Failure::Said(Error::Device(
        "another program replaced an NV index while the token was being created".to_owned(),
    ))
}
