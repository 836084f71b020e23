//! The storage root key: find it, check that it is sound, create it if need be, and compare its
//! Name with the one that the token pinned, before any secret is sent under it.
//! TPM 2.0 Part 1 §16 (Names), §27; TCG TPM v2.0 Provisioning Guidance §7.5.1.

use super::command::{
    Capability, Create, CreatePrimary, Created, EvictControl, FlushContext, GetCapability, OWNER,
    ReadPublic,
};
use super::execute::{Auth, Entity, execute};
use super::fault::{Fault, Trouble};
use super::key::{PublicKey, public_key};
use super::lease::Lease;
use super::transport::Transport;
use super::wire::{Reader, Writer};
use super::{Call, Name};

/// A storage key whose Name was computed from its public area in this process and compared with
/// the pinned one (or is about to be pinned). The only thing that a session is salted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    handle: u32,
    name: Name,
    public: Vec<u8>,
}

/// Where the provisioning guidance puts it.
const USUAL: u32 = 0x8100_0001;
/// Storage keys of the owner's stand here.
const RANGE: std::ops::RangeInclusive<u32> = USUAL..=0x8100_00FF;
/// TPM_HT_TRANSIENT
const TRANSIENT: u32 = 0x80;

impl Pinned {
    /// Its handle: persistent, or transient and then good for this connection only.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Its Name, computed here from the public area.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its marshalled TPMT_PUBLIC.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Whether it is loaded in this connection only, and takes one of the TPM's slots.
    pub fn is_transient(&self) -> bool {
        self.handle >> 24 == TRANSIENT
    }

    fn of(created: Created) -> Self {
        let Created { entity: Entity { handle, name }, public } = created;
        Self { handle, name, public }
    }
}

/// Finds the storage root key whose Name is `wanted`; without one, the first sound one, which is
/// created if there is none. `hint` is the handle where it was last seen in this process.
///
/// # Errors
/// [`Trouble::ForeignTpm`] if there is no key of that Name and the TPM cannot make it again;
/// [`Trouble::Unsound`] if there is none and none can be made.
pub(super) fn find(
    link: &mut dyn Transport,
    wanted: Option<&Name>,
    hint: Option<u32>,
    call: &Call,
) -> Result<Pinned, Fault> {
    let first = hint.unwrap_or(USUAL);
    if let Some(root) = look(link, first, wanted, call)? {
        return Ok(root);
    }
    let others = persistent(link, call)?;
    for handle in others.iter().copied().filter(|handle| *handle != first) {
        if let Some(root) = look(link, handle, wanted, call)? {
            return Ok(root);
        }
    }
    create(link, wanted, &others, call)
}

/// A persistent key where storage keys stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its handle.
    pub handle: u32,
    /// Its Name.
    pub name: Name,
    /// Why we would not put keys under it.
    pub unsound: Option<&'static str>,
}

/// Looks at what stands where storage keys do: one command, and one for each. Changes nothing; that
/// the authorization value of a sound one is empty is not tried.
///
/// # Errors
/// The transport's, the TPM's.
pub fn survey(lease: &mut Lease) -> Result<Vec<Found>, Fault> {
    let ask = GetCapability { of: Capability::Handles, first: *RANGE.start(), count: 64 };
    let listed = lease.execute(&ask, &mut [])?;
    let mut found = Vec::new();
    for (handle, _) in listed.items.into_iter().filter(|item| RANGE.contains(&item.0)) {
        let key = lease.execute(&ReadPublic { handle }, &mut [])?;
        let unsound = unsoundness(&key.public);
        found.push(Found { handle, name: key.entity.name, unsound });
    }
    Ok(found)
}

/// What is at this handle, if it is what we look for.
fn look(
    link: &mut dyn Transport,
    handle: u32,
    wanted: Option<&Name>,
    call: &Call,
) -> Result<Option<Pinned>, Fault> {
    let found = match execute(link, &ReadPublic { handle }, &mut [], call) {
        Ok(found) => found,
        Err(fault) if *fault.kind() == Trouble::Handle => return Ok(None),
        Err(fault) => return Err(fault),
    };
    match wanted {
        Some(name) => {
            // An attacker's key cannot have this Name; soundness was checked before it was pinned.
            Ok((found.entity.name == *name).then(|| Pinned::of(found)))
        }
        None => match unsoundness(&found.public) {
            None if opens_empty(link, &found.entity, call)? => Ok(Some(Pinned::of(found))),
            None => {
                log::info!("tpm: the storage key at {handle:#010x} has an authorization value");
                Ok(None)
            }
            Some(why) => {
                log::info!("tpm: the key at {handle:#010x} is no storage key for us: {why}");
                Ok(None)
            }
        },
    }
}

/// The persistent handles where storage keys stand.
fn persistent(link: &mut dyn Transport, call: &Call) -> Result<Vec<u32>, Fault> {
    let ask = GetCapability { of: Capability::Handles, first: USUAL, count: 64 };
    let listed = execute(link, &ask, &mut [], call)?;
    Ok(listed.items.iter().map(|item| item.0).filter(|handle| RANGE.contains(handle)).collect())
}

/// TPMA_OBJECT. Part 2 §8.3.
const FIXED_TPM: u32 = 1 << 1;
const ST_CLEAR: u32 = 1 << 2;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const USER_WITH_AUTH: u32 = 1 << 6;
const NO_DA: u32 = 1 << 10;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;

/// Why this public area is not that of a storage key that we would put keys under.
///
/// noDA, because one without it answers TPM_RC_RETRY first, counts power cuts as wrong tries and is
/// refused while the TPM is in lockout for somebody else's sake.
fn unsoundness(public: &[u8]) -> Option<&'static str> {
    let mut reader = Reader::new(public);
    let Ok(attributes) = reader.u16().and_then(|_| reader.u16()).and_then(|_| reader.u32()) else {
        return Some("its public area cannot be read");
    };
    let needs = [
        (FIXED_TPM, "not fixedTPM"),
        (FIXED_PARENT, "not fixedParent"),
        (SENSITIVE_DATA_ORIGIN, "its secret was not made by the TPM"),
        (USER_WITH_AUTH, "not userWithAuth"),
        (NO_DA, "under dictionary attack protection (not noDA)"),
        (RESTRICTED, "not restricted"),
        (DECRYPT, "not a decryption key"),
    ];
    if let Some((_, why)) = needs.iter().find(|(bit, _)| attributes & bit == 0) {
        return Some(why);
    }
    if attributes & SIGN != 0 {
        return Some("a signing key");
    }
    if attributes & ST_CLEAR != 0 {
        return Some("gone at the next restart (stClear)");
    }
    match public_key(public) {
        Ok((_, PublicKey::Rsa { modulus, .. })) if [256, 384, 512].contains(&modulus.len()) => None,
        Ok((_, PublicKey::Ec { .. })) => None,
        Ok(_) => Some("of an unusual size"),
        Err(_) => Some("of an unknown kind"),
    }
}

/// Whether its authorization value is empty: seals one byte under it. noDA, so a refusal costs
/// nobody a try.
fn opens_empty(link: &mut dyn Transport, key: &Entity, call: &Call) -> Result<bool, Fault> {
    let probe = Create { parent: key, authorization: &[], data: &[0], public: &seal_template() };
    match execute(link, &probe, &mut [Auth::password(&[])], call) {
        Ok(_) => Ok(true),
        Err(fault) if *fault.kind() == Trouble::AuthFail => Ok(false),
        Err(fault) => Err(fault),
    }
}

const ALG_KEYEDHASH: u16 = 0x0008;
const ALG_AES: u16 = 0x0006;
const ALG_SHA256: u16 = 0x000B;
const ALG_NULL: u16 = 0x0010;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;

/// A sealed object that nobody keeps.
fn seal_template() -> Vec<u8> {
    let mut out = Writer::new();
    let attributes = FIXED_TPM | FIXED_PARENT | USER_WITH_AUTH | NO_DA;
    out.u16(ALG_KEYEDHASH).u16(ALG_SHA256).u32(attributes).sized(&[]).u16(ALG_NULL).sized(&[]);
    out.as_slice().to_vec()
}

/// The ECC P-256 storage root key of the provisioning guidance: the EK template of the EK Credential
/// Profile with userWithAuth and noDA set, adminWithPolicy clear and no policy; unique is zero.
fn root_template() -> Vec<u8> {
    let mut out = Writer::new();
    out.u16(ALG_ECC)
        .u16(ALG_SHA256)
        .u32(
            FIXED_TPM
                | FIXED_PARENT
                | SENSITIVE_DATA_ORIGIN
                | USER_WITH_AUTH
                | NO_DA
                | RESTRICTED
                | DECRYPT,
        )
        .sized(&[])
        .u16(ALG_AES)
        .u16(128)
        .u16(ALG_CFB)
        .u16(ALG_NULL) // scheme
        .u16(CURVE_P256)
        .u16(ALG_NULL) // kdf
        .sized(&[0; 32])
        .sized(&[0; 32]);
    out.as_slice().to_vec()
}

/// Makes the standard storage root key and keeps it at the first free handle; transient, where the
/// TPM has no room for that.
fn create(
    link: &mut dyn Transport,
    wanted: Option<&Name>,
    taken: &[u32],
    call: &Call,
) -> Result<Pinned, Fault> {
    let owner = Entity::permanent(OWNER);
    let template = root_template();
    let command = CreatePrimary { hierarchy: &owner, public: &template };
    let made = match execute(link, &command, &mut [Auth::password(&[])], call) {
        Ok(made) => made,
        // Whether the seed is another one cannot be seen without the owner's password.
        Err(fault) if *fault.kind() == Trouble::AuthFail => {
            return Err(match wanted {
                Some(_) => Fault::new(Trouble::ForeignTpm),
                None => Fault::new(Trouble::Unsound(
                    "there is no storage root key at 0x81000001 and the owner hierarchy has a \
                     password: let the owner make one (tpm2_createprimary -C o -G ecc256 -a \
                     'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt' \
                     and tpm2_evictcontrol)"
                        .to_owned(),
                )),
            });
        }
        Err(fault) => return Err(fault),
    };
    if wanted.is_some_and(|name| *name != made.entity.name) {
        execute(link, &FlushContext { handle: made.entity.handle }, &mut [], call)?;
        return Err(Fault::new(Trouble::ForeignTpm));
    }
    let mut root = Pinned::of(made);
    let Some(persistent) = RANGE.into_iter().find(|handle| !taken.contains(handle)) else {
        return Ok(root);
    };
    let object = Entity::from(&root);
    let keep = EvictControl { owner: &owner, object: &object, persistent };
    match execute(link, &keep, &mut [Auth::password(&[])], call) {
        Ok(()) => {
            log::info!("tpm: storage root key created at {persistent:#010x}");
            execute(link, &FlushContext { handle: root.handle }, &mut [], call)?;
            root.handle = persistent;
        }
        Err(fault) if fault.code().is_some() => {
            log::warn!("tpm: the storage root key cannot be made persistent: {fault}");
        }
        Err(fault) => return Err(fault),
    }
    Ok(root)
}

#[cfg(test)]
impl Pinned {
    /// As if its Name had been compared.
    pub(super) fn for_test(handle: u32, public: &[u8]) -> Self {
        let name = super::key::name_of(public).expect("a public area");
        Self { handle, name, public: public.to_vec() }
    }
}
