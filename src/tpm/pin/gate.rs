//! What the store keeps of a gate, and every digest that follows from it.

use sha2::Sha256;
use tss_esapi::constants::tss::{TPM2_CC_NV_ChangeAuth, TPM2_CC_NV_Read, TPM2_CC_NV_Write};
use zeroize::Zeroizing;

use super::{NewGate, Role, flow};
use crate::error::Result;
use crate::tpm::command::NvPublic;
use crate::tpm::key::{ZERO, name_of, policy_command_code, policy_or, policy_secret};
use crate::tpm::session::sha256;
use crate::tpm::wire::{Reader, Writer};
use crate::tpm::{Fault, Name, NewKey};

/// TPMA_NV: PIN_FAIL, POLICYWRITE, POLICYREAD, NO_DA and nothing else. Part 2 §13.4.
pub(super) const ATTRIBUTES: u32 = (8 << 4) | (1 << 3) | (1 << 19) | (1 << 25);

/// TPMS_NV_PIN_COUNTER_PARAMETERS: pinCount and pinLimit. Part 2 §13.3.
pub(super) const PIN_DATA_BYTES: u16 = 8;

/// The version of this layout and of everything that is hashed here.
const VERSION: u8 = 1;
/// PBKDF2-HMAC-SHA256
const KDF: u8 = 1;

/// What the store keeps of a gate. Holds no secret that a PIN or the chip does not guard.
#[derive(Clone, PartialEq, Eq)]
pub struct Gate {
    pub(super) serial: [u8; 16],
    pub(super) srk: Name,
    pub(super) limit: u32,
    pub(super) iterations: u32,
    pub(super) place: Place,
    /// The token secret sealed to nobody's PIN.
    pub(super) pinless: Option<Blob>,
    /// The token secret sealed to the recovery code.
    pub(super) recovery: Option<Blob>,
}

/// What guards the PINs.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// PIN indices.
    Indices {
        /// W
        authority: Blob,
        /// U
        changer: Blob,
        user: Index,
        so: Index,
    },
    /// The TPM-wide dictionary attack protection.
    Protected {
        /// `None` until the SO sets the user's PIN.
        user: Option<Locked>,
        so: Locked,
    },
}

/// A sealed object at rest.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) public: Vec<u8>,
    pub(super) private: Vec<u8>,
}

impl From<NewKey> for Blob {
    fn from(new: NewKey) -> Self {
        Self { public: new.public, private: new.private }
    }
}

/// A role's PIN index and the seal that it opens.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) number: u32,
    pub(super) salt: [u8; 32],
    /// `None` before the index is defined.
    pub(super) seal: Option<Blob>,
}

/// A role's seal under dictionary attack protection.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Locked {
    pub(super) salt: [u8; 32],
    pub(super) seal: Blob,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("indices", &self.indices())
            .field("pinless", &self.is_pinless())
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// Whether these numbers are allowed: at creation and, because the store may be anybody's, whenever
    /// they are read.
    pub(super) fn check_numbers(limit: u32, iterations: u32) -> Result<(), &'static str> {
        if !(1..=255).contains(&limit) {
            return Err("the limit of wrong PINs is not within 1 and 255");
        }
        if !(1_000..=10_000_000).contains(&iterations) {
            return Err("the PBKDF2 iterations are not within 1,000 and 10,000,000");
        }
        Ok(())
    }

    /// A gate with PIN indices of these numbers (user, SO), which are to be defined yet.
    pub(super) fn planned(
        new: &NewGate<'_>,
        authority: Blob,
        changer: Blob,
        numbers: [u32; 2],
    ) -> Result<Self> {
        let [user, so] = numbers;
        let index = |number| flow::random().map(|salt| Index { number, salt: *salt, seal: None });
        Ok(Self {
            serial: new.serial,
            srk: new.srk.clone(),
            limit: new.limit,
            iterations: new.iterations,
            place: Place::Indices { authority, changer, user: index(user)?, so: index(so)? },
            pinless: None,
            recovery: None,
        })
    }

    /// Another number for an index, where the first was taken.
    pub(super) fn renumber(&mut self, role: Role, number: u32) {
        if let Place::Indices { user, so, .. } = &mut self.place {
            match role {
                Role::User => user.number = number,
                Role::So => so.number = number,
            }
        }
    }

    /// The Name of the storage root key that everything of this token is under.
    pub fn srk(&self) -> &Name {
        &self.srk
    }

    /// Whether PIN indices guard it (`false`: the fallback under dictionary attack protection).
    pub fn has_indices(&self) -> bool {
        matches!(self.place, Place::Indices { .. })
    }

    /// The NV indices in use.
    pub fn indices(&self) -> Vec<u32> {
        match &self.place {
            Place::Indices { user, so, .. } => vec![user.number, so.number],
            Place::Protected { .. } => Vec::new(),
        }
    }

    /// Whether the user needs no PIN: [`Tpm::open_without_pin`](crate::tpm::Tpm::open_without_pin).
    pub fn is_pinless(&self) -> bool {
        self.pinless.is_some()
    }

    /// The Name of the user's PIN index once written, for keys that ask for the PIN at each use.
    pub fn user_index_name(&self) -> Option<Name> {
        self.index_public(Role::User).ok().map(|public| public.written().name())
    }

    /// PBKDF2 iterations.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// How many wrong PINs lock a role. (With the fallback gate the TPM's own limit counts.)
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether there is a recovery seal.
    pub fn is_recoverable(&self) -> bool {
        self.recovery.is_some()
    }

    /// A role's index.
    pub(super) fn index(&self, role: Role) -> Result<&Index, Fault> {
        match (&self.place, role) {
            (Place::Indices { user, .. }, Role::User) => Ok(user),
            (Place::Indices { so, .. }, Role::So) => Ok(so),
            (Place::Protected { .. }, _) => Err(Fault::bug("a PIN index of the fallback gate")),
        }
    }

    /// W at rest.
    pub(super) fn authority(&self) -> Result<&Blob, Fault> {
        self.changer(Role::So)
    }

    /// Who replaces a role's own PIN, at rest: U for the user, W for the SO. Its authorization value lies in
    /// the role's seal.
    pub(super) fn changer(&self, role: Role) -> Result<&Blob, Fault> {
        match (&self.place, role) {
            (Place::Indices { changer, .. }, Role::User) => Ok(changer),
            (Place::Indices { authority, .. }, Role::So) => Ok(authority),
            (Place::Protected { .. }, _) => Err(Fault::bug("an authority of the fallback gate")),
        }
    }

    /// A PIN as an authorization value. HMAC fills a short key up with zero bytes, so that "abcd" and
    /// "abcd\0" would be the same to PBKDF2: a last byte that is not zero keeps them apart.
    pub(super) fn stretch(&self, salt: &[u8; 32], pin: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut value = Zeroizing::new([0; 32]);
        let mut text = Zeroizing::new(Vec::with_capacity(pin.len() + 1));
        text.extend_from_slice(pin);
        text.push(1);
        pbkdf2::pbkdf2_hmac::<Sha256>(&text, salt, self.iterations, value.as_mut_slice());
        value
    }

    /// A branch of the index's policy that nobody can ever meet: it binds the numbers that the store
    /// keeps into the index, so that one TPM2_NV_ReadPublic proves them before the PIN is used.
    fn commitment(&self, role: Role) -> Result<[u8; 32], Fault> {
        let index = self.index(role)?;
        let authority = name_of(&self.authority()?.public)?;
        let role = match role {
            Role::User => 1,
            Role::So => 2,
        };
        let mut text = Writer::new();
        text.bytes(b"tpm11 PIN gate").u8(VERSION).bytes(&self.serial).u8(role);
        text.u8(KDF).u32(self.iterations).bytes(&index.salt);
        text.sized(&self.srk).sized(&authority);
        Ok(sha256(&[text.as_slice()]))
    }

    /// The branches of a role's index, in the order that TPM2_PolicyOR needs.
    ///
    /// None of them is PolicyAuthValue: a TPM counts wrong values of a PIN index there, but does not look
    /// at the limit (it is the availability of the value for HMAC and password authorizations that it
    /// limits), so that whoever has the salt could go on guessing with TPM2_NV_ChangeAuth for ever.
    pub(super) fn branches(&self, role: Role) -> Result<Vec<[u8; 32]>, Fault> {
        let by_authority = policy_secret(&ZERO, &name_of(&self.authority()?.public)?);
        let mut branches = vec![
            // anyone may read count and limit, for the flags
            policy_command_code(&ZERO, TPM2_CC_NV_Read),
            // W sets the limit, and the count to zero
            policy_command_code(&by_authority, TPM2_CC_NV_Write),
            // W replaces the PIN
            policy_command_code(&by_authority, TPM2_CC_NV_ChangeAuth),
        ];
        if role == Role::User {
            // U replaces the PIN; only who has just opened the user's seal with the old one knows its value
            let by_holder = policy_secret(&ZERO, &name_of(&self.changer(role)?.public)?);
            branches.push(policy_command_code(&by_holder, TPM2_CC_NV_ChangeAuth));
        }
        branches.push(self.commitment(role)?);
        Ok(branches)
    }

    /// A role's index as it is defined, not written yet.
    pub(super) fn index_public(&self, role: Role) -> Result<NvPublic, Fault> {
        Ok(NvPublic {
            index: self.index(role)?.number,
            attributes: ATTRIBUTES,
            policy: policy_or(&self.branches(role)?).to_vec(),
            size: PIN_DATA_BYTES,
        })
    }

    /// The policy of what a role's index opens.
    pub(super) fn seal_policy(&self, role: Role) -> Result<[u8; 32], Fault> {
        Ok(policy_secret(&ZERO, &self.index_public(role)?.written().name()))
    }

    /// Bytes for the store, versioned.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION).bytes(&self.serial).sized(&self.srk).u32(self.limit).u32(self.iterations);
        match &self.place {
            Place::Indices { authority, changer, user, so } => {
                out.u8(1);
                write_blob(&mut out, authority);
                write_blob(&mut out, changer);
                for index in [user, so] {
                    out.u32(index.number).bytes(&index.salt);
                    write_option(&mut out, index.seal.as_ref(), write_blob);
                }
            }
            Place::Protected { user, so } => {
                out.u8(2);
                write_option(&mut out, user.as_ref(), write_locked);
                write_locked(&mut out, so);
            }
        }
        write_option(&mut out, self.pinless.as_ref(), write_blob);
        write_option(&mut out, self.recovery.as_ref(), write_blob);
        out.as_slice().to_vec()
    }

    /// Reads what [`Gate::to_bytes`] wrote. `None` for anything else, and for numbers that are not
    /// allowed.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes);
        let gate = read(&mut input).ok().flatten()?;
        input.is_empty().then_some(gate)
    }
}

fn write_blob(out: &mut Writer, blob: &Blob) {
    out.sized(&blob.public).sized(&blob.private);
}

fn write_locked(out: &mut Writer, locked: &Locked) {
    out.bytes(&locked.salt);
    write_blob(out, &locked.seal);
}

fn write_option<T>(out: &mut Writer, value: Option<&T>, write: fn(&mut Writer, &T)) {
    out.u8(value.is_some().into());
    if let Some(value) = value {
        write(out, value);
    }
}

fn read_array<const N: usize>(input: &mut Reader<'_>) -> Result<[u8; N], Fault> {
    input.take(N)?.try_into().map_err(|_| Fault::bug("an array of another length"))
}

/// As the other readers here, `None` would be something that is not our layout.
fn read_blob(input: &mut Reader<'_>) -> Result<Option<Blob>, Fault> {
    Ok(Some(Blob { public: input.sized()?.to_vec(), private: input.sized()?.to_vec() }))
}

fn read_locked(input: &mut Reader<'_>) -> Result<Option<Locked>, Fault> {
    let salt = read_array(input)?;
    Ok(read_blob(input)?.map(|seal| Locked { salt, seal }))
}

fn read_index(input: &mut Reader<'_>) -> Result<Option<Index>, Fault> {
    let (number, salt) = (input.u32()?, read_array(input)?);
    Ok(read_option(input, read_blob)?.map(|seal| Index { number, salt, seal }))
}

/// The outer `None`: not our layout.
fn read_option<T>(
    input: &mut Reader<'_>,
    read: fn(&mut Reader<'_>) -> Result<Option<T>, Fault>,
) -> Result<Option<Option<T>>, Fault> {
    Ok(match input.u8()? {
        0 => Some(None),
        1 => read(input)?.map(Some),
        _ => None,
    })
}

fn read(input: &mut Reader<'_>) -> Result<Option<Gate>, Fault> {
    if input.u8()? != VERSION {
        return Ok(None);
    }
    let (serial, srk) = (read_array(input)?, input.sized()?.to_vec());
    let (limit, iterations) = (input.u32()?, input.u32()?);
    let place = match input.u8()? {
        1 => {
            let (authority, changer) = (read_blob(input)?, read_blob(input)?);
            match (authority, changer, read_index(input)?, read_index(input)?) {
                (Some(authority), Some(changer), Some(user), Some(so)) => {
                    Place::Indices { authority, changer, user, so }
                }
                _ => return Ok(None),
            }
        }
        2 => match (read_option(input, read_locked)?, read_locked(input)?) {
            (Some(user), Some(so)) => Place::Protected { user, so },
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    let (Some(pinless), Some(recovery)) =
        (read_option(input, read_blob)?, read_option(input, read_blob)?)
    else {
        return Ok(None);
    };
    if Gate::check_numbers(limit, iterations).is_err() {
        return Ok(None);
    }
    Ok(Some(Gate { serial, srk, limit, iterations, place, pinless, recovery }))
}
