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
/// created if there is none. `known` is the one that this process saw last.
///
/// # Errors
/// [`Trouble::ForeignTpm`] if there is no key of that Name and the TPM cannot make it again;
/// [`Trouble::Unsound`] if there is none and none can be made.
pub(super) fn find(
    link: &mut dyn Transport,
    wanted: Option<&Name>,
    known: Option<&Pinned>,
    call: &Call,
) -> Result<Pinned, Fault> {
    let first = known.map_or(USUAL, Pinned::handle);
    // What was found sound once is recognised by its Name.
    let wanted_here = wanted.or(known.map(Pinned::name));
    if let Some(root) = look(link, first, wanted_here, call)? {
        return Ok(root);
    }
    let others = persistent(link, call)?;
    let looked = |handle: u32| handle == first && wanted_here == wanted;
    for handle in others.iter().copied().filter(|handle| !looked(*handle)) {
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
pub fn unsoundness(public: &[u8]) -> Option<&'static str> {
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
pub(super) fn root_template() -> Vec<u8> {
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

#[cfg(test)]
pub(super) mod tests {
    use super::super::lease::tests::{key, sign};
    use super::super::testing::Swtpm;
    use super::*;
    use crate::tpm::Tpm;
    use std::sync::Arc;

    const ALG_RSA: u16 = 1;
    const STORAGE: u32 = FIXED_TPM
        | FIXED_PARENT
        | SENSITIVE_DATA_ORIGIN
        | USER_WITH_AUTH
        | NO_DA
        | RESTRICTED
        | DECRYPT;

    /// What Windows and most guides make: RSA-2048.
    fn rsa_template(attributes: u32) -> Vec<u8> {
        let mut out = Writer::new();
        out.u16(ALG_RSA).u16(ALG_SHA256).u32(attributes).sized(&[]);
        if attributes & RESTRICTED != 0 {
            out.u16(ALG_AES).u16(128).u16(ALG_CFB);
        } else {
            out.u16(ALG_NULL);
        }
        out.u16(ALG_NULL).u16(2048).u32(0).sized(&[0; 256]);
        out.as_slice().to_vec()
    }

    /// TPM2_CreatePrimary with an authorization value, which no command of ours has.
    struct CreateWith<'a>(&'a Entity, &'a [u8], &'a [u8]);

    impl super::super::command::Command for CreateWith<'_> {
        const CODE: u32 = 0x131;
        const NAME: &'static str = "TPM2_CreatePrimary";
        const AUTH_HANDLES: usize = 1;
        const ANSWERS_HANDLE: bool = true;
        const CLASS: super::super::command::Class = super::super::command::Class::KeyGeneration;
        type Response = Entity;

        fn handles(&self) -> Vec<&Entity> {
            vec![self.0]
        }

        fn write(&self, out: &mut Writer) {
            let mut sensitive = Writer::new();
            sensitive.sized(self.1).sized(&[]);
            out.sized(sensitive.as_slice()).sized(self.2).sized(&[]).u32(0);
        }

        fn read(&self, handle: Option<u32>, input: &mut Reader<'_>) -> Result<Entity, Fault> {
            let public = input.sized()?.to_vec();
            input.rest();
            let name = super::super::key::name_of(&public)?;
            Ok(Entity::new(handle.unwrap(), name))
        }
    }

    /// Puts a primary key of this template where the storage root key belongs.
    fn occupy(tpm: &Tpm, template: &[u8], authorization: &[u8]) -> Name {
        let call = tpm.call();
        tpm.with(&call, None, |lease| {
            let owner = Entity::permanent(OWNER);
            let create = CreateWith(&owner, authorization, template);
            let made = lease.execute(&create, &mut [Auth::password(&[])])?;
            let keep = EvictControl { owner: &owner, object: &made, persistent: USUAL };
            lease.execute(&keep, &mut [Auth::password(&[])])?;
            Ok(made.name)
        })
        .unwrap()
    }

    fn works(tpm: &Tpm, srk: &Name) {
        let key = key(tpm, &Arc::new(srk.clone()), 1);
        sign(tpm, &key).unwrap();
    }

    #[test]
    fn the_storage_key_of_another_system_is_used_whatever_its_template() {
        let swtpm = Swtpm::start();
        let tpm = swtpm.tpm();
        let theirs = occupy(&tpm, &rsa_template(STORAGE), &[]);
        assert_eq!(tpm.srk_name(&tpm.call()).unwrap(), theirs);
        works(&tpm, &theirs);
    }

    #[test]
    fn what_is_no_sound_storage_key_is_left_alone_and_ours_stands_beside_it() {
        let unsound = [
            (STORAGE & !NO_DA, &b""[..]),
            ((STORAGE & !RESTRICTED) | SIGN, b""),
            (STORAGE, b"secret"),
        ];
        for (attributes, authorization) in unsound {
            let swtpm = Swtpm::start();
            let tpm = swtpm.tpm();
            let theirs = occupy(&tpm, &rsa_template(attributes), authorization);
            let ours = tpm.srk_name(&tpm.call()).unwrap();
            assert_ne!(ours, theirs, "{attributes:#x}");
            works(&tpm, &ours);
            tpm.end();
            // A second process finds ours beside it and makes no third.
            let again = swtpm.tpm();
            swtpm.take_record();
            assert_eq!(again.srk_name(&again.call()).unwrap(), ours);
            assert!(!swtpm.take_record().contains(&0x131), "{attributes:#x}");
        }
    }

    /// TPM2_HierarchyChangeAuth of the owner.
    fn set_owner_password(swtpm: &Swtpm) {
        let mut command = vec![0x80, 2, 0, 0, 0, 0, 0, 0, 1, 0x29, 0x40, 0, 0, 1, 0, 0, 0, 9];
        command.extend([0x40, 0, 0, 9, 0, 0, 1, 0, 0, 0, 5]);
        command.extend(b"owner");
        let size = u32::try_from(command.len()).unwrap();
        command[2..6].copy_from_slice(&size.to_be_bytes());
        assert_eq!(swtpm.send(&command)[6..10], [0; 4]);
    }

    #[test]
    fn an_owner_password_hinders_only_whoever_has_no_storage_key_yet() {
        let swtpm = Swtpm::start();
        set_owner_password(&swtpm);
        let tpm = swtpm.tpm();
        let fault = tpm.srk_name(&tpm.call()).unwrap_err();
        assert!(fault.to_string().contains("owner hierarchy has a password"), "{fault}");

        let swtpm = Swtpm::start();
        let tpm = swtpm.tpm();
        let srk = tpm.srk_name(&tpm.call()).unwrap();
        tpm.end();
        set_owner_password(&swtpm);
        works(&tpm, &srk);
    }

    /// A TPM without room for anything persistent, its storage root key included.
    pub(in crate::tpm) fn filled(swtpm: &Swtpm) -> Arc<Tpm> {
        let tpm = swtpm.tpm();
        let call = tpm.call();
        let owner = Entity::permanent(OWNER);
        tpm.with(&call, None, |lease| {
            let template = rsa_template(STORAGE);
            let create = CreateWith(&owner, &[], &template);
            let object = lease.execute(&create, &mut [Auth::password(&[])])?;
            for persistent in 0x8101_0000..0x8101_0400 {
                let keep = EvictControl { owner: &owner, object: &object, persistent };
                match lease.execute(&keep, &mut [Auth::password(&[])]) {
                    Ok(()) => {}
                    Err(fault) if *fault.kind() == Trouble::NvSpace => return Ok(()),
                    Err(fault) => return Err(fault),
                }
            }
            panic!("the TPM is never full");
        })
        .unwrap();
        tpm
    }

    #[test]
    fn where_the_tpm_has_no_room_for_a_persistent_root_a_transient_one_serves() {
        let swtpm = Swtpm::start();
        let tpm = filled(&swtpm);
        let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
        let keys: Vec<_> = (0..4).map(|id| key(&tpm, &srk, id)).collect();
        for key in keys.iter().chain(&keys) {
            sign(&tpm, key).unwrap();
        }
        tpm.end();
        assert!(swtpm.handles().is_empty());
        sign(&tpm, &keys[0]).unwrap();
    }
}
