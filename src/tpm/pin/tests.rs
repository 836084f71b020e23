//! The whole gate against a real TPM, attacks and power cuts included.

use std::collections::VecDeque;

use super::flow::{Failure, Line};
use super::gate::{ATTRIBUTES, Place};
use super::*;
use crate::tpm::command::*;
use crate::tpm::emulator::{Link, P256, Swtpm, call, left_in, lockout_counter, root};
use crate::tpm::execute::{Auth, Entity, execute};
use crate::tpm::key::policy_or;
use crate::tpm::session::{HmacSession, PolicySession};
use crate::tpm::srk::Pinned;

const SO: &[u8] = b"so pin 12345678";
const USER: &[u8] = b"user pin";
const SECRET: [u8; 32] = [0x5C; 32];

struct Rig {
    tpm: Swtpm,
    link: Link,
    srk: Pinned,
}

impl Rig {
    fn new() -> Self {
        let tpm = Swtpm::start();
        let mut link = tpm.connect();
        let srk = root(&mut link, P256);
        link.sent.clear();
        Self { tpm, link, srk }
    }

    fn reconnect(&mut self) {
        // swtpm serves one connection at a time: the old one goes first.
        let dead = std::os::unix::net::UnixStream::pair().expect("a pair").0;
        self.link.replace(dead);
        self.link = self.tpm.connect();
    }

    fn power_cut(&mut self) {
        self.tpm.power_cut();
        self.reconnect();
    }

    fn new_gate<'a>(&self) -> NewGate<'a> {
        NewGate {
            serial: *b"0123456789abcdef",
            srk: self.srk.name().clone(),
            limit: 3,
            iterations: 1000,
            mode: Mode::Nv,
            owner_auth: Zeroizing::default(),
            recovery: false,
            so_pin: SO,
            token_secret: Zeroizing::new(SECRET),
            retired: Vec::new(),
        }
    }

    fn on<T>(&mut self, job: impl FnOnce(&mut Line<'_>) -> Result<T, Failure>) -> Result<T> {
        let call = call();
        let outcome =
            job(&mut Line { link: &mut self.link, srk: &self.srk, call: &call, alone: true });
        outcome.map_err(|failure| match failure {
            Failure::Said(error) => error,
            Failure::Fault(fault) => fault.into(),
        })
    }

    fn create(
        &mut self,
        new: &NewGate<'_>,
        journal: &mut dyn FnMut(&Gate, Stage) -> Result<()>,
    ) -> Result<Made> {
        create(&mut |job| self.on(|line| job(line)), new, journal)
    }

    /// A token with both PINs.
    fn token(&mut self) -> Gate {
        let new = self.new_gate();
        let (gate, _) = self.create(&new, &mut |_, _| Ok(())).expect("a gate");
        let so = self.login(&gate, Role::So, SO).expect("the SO");
        self.on(|line| line.set_user_pin(&gate, &so, USER)).expect("a user PIN");
        self.link.sent.clear();
        gate
    }

    fn login(&mut self, gate: &Gate, role: Role, pin: &[u8]) -> Result<Opened> {
        self.on(|line| line.login(gate, role, pin))
    }

    fn count(&mut self, gate: &Gate, role: Role) -> u32 {
        self.on(|line| line.pin_count(gate, role)).expect("a count").count
    }

    /// Our own NV indices that exist.
    fn indices(&mut self) -> Vec<u32> {
        let command =
            GetCapability { of: Capability::Handles, first: *INDICES.start(), count: 256 };
        let listed = execute(&mut self.link, &command, &mut [], &call()).expect("a list");
        listed.items.iter().map(|(handle, _)| *handle).collect()
    }

    fn clean(&mut self) {
        assert_eq!(left_in(&mut self.link), [0u32; 0], "nothing is left in the TPM");
        assert_eq!(lockout_counter(&mut self.link), 0, "nobody else is locked out");
    }
}

fn secret_of(opened: &Opened) -> [u8; 32] {
    *opened.token_secret
}

// ---- what it is for ----------------------------------------------------------------------------

#[test]
fn both_pins_open_the_same_secret_in_seven_commands() {
    let mut rig = Rig::new();
    let gate = rig.token();

    let user = rig.login(&gate, Role::User, USER).expect("the user");
    // TPM2_ReadPublic of the storage root key is the lease's; FlushContext is a bare TPM's.
    assert_eq!(
        rig.link.codes(),
        [
            NvReadPublic::CODE,
            StartAuthSession::CODE,
            StartAuthSession::CODE,
            PolicySecret::CODE,
            Load::CODE,
            Unseal::CODE,
            FlushContext::CODE
        ]
    );
    let so = rig.login(&gate, Role::So, SO).expect("the SO");

    assert_eq!(secret_of(&user), SECRET);
    assert_eq!(secret_of(&so), SECRET);
    assert!(user.write_authority.is_none() && so.write_authority.is_some());
    rig.clean();
}

#[test]
fn a_creation_takes_under_thirty_commands_and_journals_before_it_acts() {
    let mut rig = Rig::new();
    let new = rig.new_gate();
    let mut stages = Vec::new();

    let (gate, code) = rig
        .create(&new, &mut |gate, stage| {
            stages.push((stage, gate.indices()));
            Ok(())
        })
        .expect("a gate");

    let commands = rig.link.codes().len();
    assert!(commands <= 28, "{commands} commands");
    let numbers = gate.indices();
    assert_eq!(
        stages,
        [Stage::Planned, Stage::Sealed, Stage::Written].map(|stage| (stage, numbers.clone()))
    );
    assert!(code.is_none());
    assert!(numbers.iter().all(|number| INDICES.contains(number)));
    rig.clean();
}

/// On a bare TPM, without the lease's own TPM2_ReadPublic of the storage root key.
#[test]
fn every_sequence_costs_what_it_costs() {
    let mut rig = Rig::new();
    let new = NewGate { recovery: true, ..rig.new_gate() };
    let mut table = Vec::new();
    let mut note = |rig: &mut Rig, what| table.push((what, rig.link.codes().len()));
    let (gate, code) = rig.create(&new, &mut |_, _| Ok(())).expect("a gate");
    note(&mut rig, "create, with a recovery seal");
    let so = rig.login(&gate, Role::So, SO).expect("the SO");
    note(&mut rig, "login");
    rig.on(|line| line.set_user_pin(&gate, &so, USER)).expect("set");
    note(&mut rig, "the SO sets the user's PIN");
    rig.login(&gate, Role::User, b"wrong").err().expect("refused");
    note(&mut rig, "login with a wrong PIN");
    rig.on(|line| line.pin_count(&gate, Role::User)).expect("a count");
    note(&mut rig, "count");
    rig.on(|line| line.unlock_user(&gate, &so)).expect("unlocked");
    note(&mut rig, "unlock");
    rig.on(|line| line.change_pin(&gate, Role::User, USER, b"another")).expect("changed");
    note(&mut rig, "change a PIN");
    let open = rig.on(|line| line.set_user_pin(&gate, &so, b"")).expect("set").expect("a gate");
    note(&mut rig, "make pinless");
    rig.on(|line| line.open_without_pin(&open)).expect("open");
    note(&mut rig, "open without a PIN");
    rig.on(|line| line.recover(&gate, &code.expect("a code"))).expect("recovered");
    note(&mut rig, "recover");
    rig.on(|line| line.remove(&gate, &[])).expect("removed");
    note(&mut rig, "remove");

    assert_eq!(
        table,
        [
            ("create, with a recovery seal", 29),
            ("login", 7),
            ("the SO sets the user's PIN", 13),
            ("login with a wrong PIN", 10),
            ("count", 4),
            ("unlock", 9),
            ("change a PIN", 13),
            ("make pinless", 15),
            ("open without a PIN", 4),
            ("recover", 4),
            ("remove", 8),
        ]
    );
}

#[test]
fn a_secret_is_never_in_clear_on_the_bus() {
    let mut rig = Rig::new();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let copy = seen.clone();
    rig.link.alter =
        Some(Box::new(move |_, response| copy.lock().expect("lock").push(response.clone())));
    let new = NewGate { recovery: true, ..rig.new_gate() };
    let (gate, code) = rig.create(&new, &mut |_, _| Ok(())).expect("a gate");
    let so = rig.login(&gate, Role::So, SO).expect("the SO");
    rig.on(|line| line.set_user_pin(&gate, &so, USER)).expect("set");
    rig.on(|line| line.change_pin(&gate, Role::User, USER, b"another")).expect("changed");
    rig.login(&gate, Role::User, b"another").expect("the user");
    let code = code.expect("a code");
    rig.on(|line| line.recover(&gate, &code)).expect("recovered");

    let value = |role, pin: &[u8]| gate.stretch(&gate.index(role).expect("an index").salt, pin);
    let secrets = [
        Zeroizing::new(SECRET),
        so.write_authority.clone().expect("W"),
        value(Role::So, SO),
        value(Role::User, USER),
        value(Role::User, b"another"),
    ];
    let seen = seen.lock().expect("lock");
    for bytes in rig.link.sent.iter().chain(seen.iter()) {
        for secret in &secrets {
            assert!(!bytes.windows(8).any(|part| part == &secret[..8]));
        }
    }
}

// ---- wrong PINs --------------------------------------------------------------------------------

#[test]
fn a_wrong_pin_costs_exactly_one_try_and_the_last_one_locks() {
    let mut rig = Rig::new();
    let gate = rig.token();

    for left in [2, 1, 0] {
        let error = rig.login(&gate, Role::User, b"wrong").err();
        assert_eq!(error, Some(Error::WrongPin { left: Some(left) }));
        rig.clean();
    }
    assert_eq!(rig.login(&gate, Role::User, b"wrong").err(), Some(Error::PinLocked));
    assert_eq!(rig.login(&gate, Role::User, USER).err(), Some(Error::PinLocked));
    assert_eq!(rig.count(&gate, Role::User), 3);
    rig.login(&gate, Role::So, SO).expect("the SO is another role");
    rig.clean();
}

#[test]
fn a_right_pin_takes_the_count_back() {
    let mut rig = Rig::new();
    let gate = rig.token();
    rig.login(&gate, Role::User, b"wrong").err().expect("refused");
    rig.login(&gate, Role::User, b"wrong").err().expect("refused");
    assert_eq!(rig.count(&gate, Role::User), 2);

    rig.login(&gate, Role::User, USER).expect("the user");

    assert_eq!(rig.count(&gate, Role::User), 0);
}

#[test]
fn the_so_unlocks_and_sets_a_new_pin() {
    let mut rig = Rig::new();
    let gate = rig.token();
    for _ in 0..3 {
        rig.login(&gate, Role::User, b"wrong").err().expect("refused");
    }
    let so = rig.login(&gate, Role::So, SO).expect("the SO");

    rig.on(|line| line.unlock_user(&gate, &so)).expect("unlocked");
    rig.login(&gate, Role::User, USER).expect("the old PIN");

    for _ in 0..3 {
        rig.login(&gate, Role::User, b"wrong").err().expect("refused");
    }
    let changed = rig.on(|line| line.set_user_pin(&gate, &so, b"new pin")).expect("set");
    assert!(changed.is_none(), "the chip alone knows");
    rig.login(&gate, Role::User, b"new pin").expect("the new PIN");
    let error = rig.login(&gate, Role::User, USER).err();
    assert_eq!(error, Some(Error::WrongPin { left: Some(2) }));
    rig.clean();
}

#[test]
fn a_lockout_by_somebody_else_stops_nothing_of_ours() {
    let mut rig = Rig::new();
    let gate = rig.token();
    let other = NewGate { mode: Mode::Da, ..rig.new_gate() };
    let (other, _) = rig.create(&other, &mut |_, _| Ok(())).expect("another program's");
    while rig.login(&other, Role::So, b"wrong").err() != Some(Error::PinLocked) {}

    rig.login(&gate, Role::User, USER).expect("the user");
    let error = rig.login(&gate, Role::User, b"wrong").err();
    assert_eq!(error, Some(Error::WrongPin { left: Some(2) }));
    rig.on(|line| line.change_pin(&gate, Role::User, USER, b"another")).expect("changed");
    let so = rig.login(&gate, Role::So, SO).expect("the SO");
    rig.on(|line| line.set_user_pin(&gate, &so, USER)).expect("set");
    let new = NewGate { serial: *b"fedcba9876543210", ..rig.new_gate() };
    rig.create(&new, &mut |_, _| Ok(())).expect("another token");
}

#[test]
fn changing_a_pin_needs_the_old_one_and_counts_a_wrong_one() {
    let mut rig = Rig::new();
    let gate = rig.token();

    let error = rig.on(|line| line.change_pin(&gate, Role::User, b"wrong", b"new pin")).err();
    assert_eq!(error, Some(Error::WrongPin { left: Some(2) }));
    rig.clean();

    let copy = Gate::from_bytes(&gate.to_bytes()).expect("an old copy of the store");
    let kept =
        rig.on(|line| line.change_pin(&gate, Role::User, USER, b"new pin")).expect("changed");
    assert!(kept.is_none());
    rig.login(&gate, Role::User, b"new pin").expect("the new PIN");
    let error = rig.login(&copy, Role::User, USER).err();
    assert_eq!(error, Some(Error::WrongPin { left: Some(2) }), "the old copy is dead");

    rig.on(|line| line.change_pin(&gate, Role::So, SO, b"new so pin")).expect("changed");
    rig.login(&gate, Role::So, b"new so pin").expect("the SO");
    rig.clean();
}

#[test]
fn a_locked_pin_cannot_be_changed_even_by_who_knows_it() {
    let mut rig = Rig::new();
    let gate = rig.token();
    for _ in 0..3 {
        rig.on(|line| line.change_pin(&gate, Role::User, b"wrong", b"new pin"))
            .expect_err("refused");
    }
    let error = rig.on(|line| line.change_pin(&gate, Role::User, USER, b"new pin")).err();
    assert_eq!(error, Some(Error::PinLocked));
    assert_eq!(rig.login(&gate, Role::User, b"new pin").err(), Some(Error::PinLocked));
    rig.clean();
}

#[test]
fn no_command_evaluates_a_pin_past_the_limit() {
    let mut rig = Rig::new();
    let gate = rig.token();
    for _ in 0..3 {
        rig.login(&gate, Role::User, b"wrong").err().expect("refused");
    }
    let index = gate.index_public(Role::User).expect("public").written().entity();
    let value = gate.stretch(&gate.index(Role::User).expect("an index").salt, USER);
    let branches = gate.branches(Role::User).expect("branches");
    let link = &mut rig.link;

    // The right value, everywhere where an index's value can be proven.
    let mut policy = PolicySession::unsalted(link, &call()).expect("a session");
    policy.auth_value(link, &call()).expect("value");
    policy.command_code(NvChangeAuth::CODE, link, &call()).expect("code");
    policy.or(&branches, link, &call()).expect_err("no branch has PolicyAuthValue");
    let change = NvChangeAuth { index: &index, new: b"guessed" };
    let auth = Auth::policy_with_value(&mut policy, value.as_slice()).changing_to(b"guessed");
    execute(link, &change, &mut [auth], &call()).expect_err("the policy is not met");
    policy.end(link, &call()).expect("ended");
    execute(link, &change, &mut [Auth::password(value.as_slice())], &call())
        .expect_err("no policy");

    let policy = PolicySession::unsalted(link, &call()).expect("a session");
    let session = policy.entity();
    let secret = PolicySecret { authorizes: &index, session: &session, nonce_tpm: &[] };
    let read = NvRead { authorizes: &index, index: &index, size: 8 };
    let mut hmac = HmacSession::unsalted(link, &call()).expect("a session");
    let value = value.as_slice();
    let fault = execute(link, &secret, &mut [Auth::password(value)], &call()).expect_err("locked");
    assert_eq!(*fault.kind(), Trouble::AuthUnavailable);
    let auth = &mut [Auth::hmac(&mut hmac, value)];
    let fault = execute(link, &secret, auth, &call()).expect_err("locked");
    assert_eq!(*fault.kind(), Trouble::AuthUnavailable);
    execute(link, &read, &mut [Auth::password(value)], &call()).expect_err("locked");
    execute(link, &read, &mut [Auth::hmac(&mut hmac, value)], &call()).expect_err("locked");
    hmac.end(link, &call()).expect("ended");
    policy.end(link, &call()).expect("ended");
    assert_eq!(rig.count(&gate, Role::User), 3);
    rig.clean();
}

#[test]
fn a_use_of_a_key_may_ask_for_the_pin() {
    use crate::crypto::ec::Curve;
    use crate::tpm::{HashAlgorithm, KeySpec, KeyUse};
    let mut rig = Rig::new();
    let gate = rig.token();
    for extractable in [false, true] {
        let spec = KeySpec {
            usage: KeyUse::Ec { curve: Curve::P256, sign: true, derive: false },
            extractable,
            always_authenticate: gate.user_index_name(),
        };
        let public = spec.template().expect("a template");
        let parent = Entity::from(&rig.srk);
        let mut session = HmacSession::salted(&mut rig.link, &rig.srk, &call()).expect("session");
        let command =
            Create { parent: &parent, authorization: &[7; 32], data: &[], public: &public };
        let key = execute(&mut rig.link, &command, &mut [Auth::hmac(&mut session, &[])], &call())
            .expect("a key");
        let command = Load { parent: &parent, public: &key.public, private: &key.private };
        let auth = &mut [Auth::hmac(&mut session, &[])];
        let loaded = execute(&mut rig.link, &command, auth, &call()).expect("loaded");
        let sign = SignEcdsa { key: &loaded, hash: HashAlgorithm::Sha256, digest: &[0x77; 32] };

        let auth = &mut [Auth::hmac(&mut session, &[7; 32])];
        execute(&mut rig.link, &sign, auth, &call()).expect_err("not by its value alone");
        let error = rig.on(|line| line.authorize_use(&gate, b"wrong", &key.public)).err();
        assert_eq!(error, Some(Error::WrongPin { left: Some(2) }));

        let mut policy =
            rig.on(|line| line.authorize_use(&gate, USER, &key.public)).expect("a login");
        rig.link.sent.clear();
        let auth = &mut [Auth::policy(&mut policy).ending(), Auth::extra(&mut session)];
        execute(&mut rig.link, &sign, auth, &call()).expect("signed");
        assert!(!rig.link.sent[0].windows(8).any(|part| part == [0x77; 8]), "encrypted");
        session.end(&mut rig.link, &call()).expect("ended");
        crate::tpm::emulator::flush(&mut rig.link, loaded.handle);
        rig.clean();
    }
}

// ---- the store and the TPM in an enemy's hands -------------------------------------------------

/// Nothing that proves a PIN was sent.
fn no_pin_was_sent(link: &mut Link) {
    let codes = link.codes();
    let carries = [PolicySecret::CODE, NvChangeAuth::CODE, Unseal::CODE];
    assert!(!codes.iter().any(|code| carries.contains(code)), "{codes:x?}");
}

#[test]
fn a_store_that_was_tampered_with_costs_no_try() {
    let mut rig = Rig::new();
    let gate = rig.token();
    let tampered = |change: fn(&mut Gate)| {
        let mut gate = gate.clone();
        change(&mut gate);
        gate
    };
    fn user(gate: &mut Gate) -> &mut super::gate::Index {
        match &mut gate.place {
            Place::Indices { user, .. } => user,
            Place::Protected { .. } => panic!("the fallback"),
        }
    }
    let tampered: VecDeque<Gate> = [
        tampered(|gate| user(gate).salt[0] ^= 1),
        tampered(|gate| gate.iterations += 1),
        tampered(|gate| gate.serial[3] ^= 1),
        tampered(|gate| gate.srk[5] ^= 1),
        tampered(|gate| {
            if let Place::Indices { authority, .. } = &mut gate.place {
                // another object as W
                let last = authority.public.len() - 1;
                authority.public[last] ^= 1;
            }
        }),
        tampered(|gate| {
            if let Place::Indices { user, so, .. } = &mut gate.place {
                std::mem::swap(&mut user.number, &mut so.number);
            }
        }),
        tampered(|gate| user(gate).number += 17),
    ]
    .into();
    for gate in tampered {
        let error = rig.login(&gate, Role::User, USER).err().expect("refused");
        assert!(matches!(error, Error::Device(_)), "{error}");
        no_pin_was_sent(&mut rig.link);
    }
    let mut few = gate.to_bytes();
    few[1 + 16 + 2 + 34 + 4..][..4].copy_from_slice(&1u32.to_be_bytes());
    assert_eq!(Gate::from_bytes(&few), None, "one iteration is refused when read");
    assert_eq!(rig.count(&gate, Role::User), 0);
    rig.clean();
}

fn owner() -> Entity {
    Entity::permanent(OWNER)
}

fn undefine(rig: &mut Rig, public: &NvPublic) {
    let index = public.entity();
    let command = NvUndefineSpace { owner: &owner(), index: &index };
    execute(&mut rig.link, &command, &mut [Auth::password(&[])], &call()).expect("undefined");
}

fn define(rig: &mut Rig, public: &NvPublic, authorization: &[u8]) {
    let command = NvDefineSpace { owner: &owner(), authorization, public };
    execute(&mut rig.link, &command, &mut [Auth::password(&[])], &call()).expect("defined");
}

/// Tries to open the user's seal with an index whose value the attacker knows.
fn attack(rig: &mut Rig, gate: &Gate, index: &Entity, value: &[u8]) -> Result<Opened, Fault> {
    let srk = Entity::from(&rig.srk);
    let seal = gate.index(Role::User).expect("an index").seal.clone().expect("a seal");
    let mut policy = PolicySession::unsalted(&mut rig.link, &call())?;
    let session = policy.entity();
    let outcome = (|| {
        let command = PolicySecret { authorizes: index, session: &session, nonce_tpm: &[] };
        execute(&mut rig.link, &command, &mut [Auth::password(value)], &call())?;
        let command = Load { parent: &srk, public: &seal.public, private: &seal.private };
        let item = execute(&mut rig.link, &command, &mut [Auth::password(&[])], &call())?;
        let auth = &mut [Auth::policy(&mut policy)];
        let opened = execute(&mut rig.link, &Unseal { item: &item }, auth, &call());
        crate::tpm::emulator::flush(&mut rig.link, item.handle);
        opened
    })();
    policy.end(&mut rig.link, &call())?;
    outcome.map(|data| Opened {
        token_secret: Zeroizing::new(data[..32].try_into().expect("32 bytes")),
        write_authority: None,
    })
}

#[test]
fn an_attack_that_knows_the_pins_value_works_so_the_test_of_attacks_is_one() {
    let mut rig = Rig::new();
    let gate = rig.token();
    let index = gate.index_public(Role::User).expect("public").written().entity();
    let value = gate.stretch(&gate.index(Role::User).expect("an index").salt, USER);

    let opened = attack(&mut rig, &gate, &index, value.as_slice()).expect("opened");

    assert_eq!(secret_of(&opened), SECRET);
}

#[test]
fn an_index_created_anew_by_the_owner_opens_nothing_in_any_variant() {
    const OWNERWRITE: u32 = 1 << 1;
    const AUTHWRITE: u32 = 1 << 2;
    const POLICYWRITE: u32 = 1 << 3;
    const AUTHREAD: u32 = 1 << 18;
    const ORDINARY: u32 = 0xF0;
    const PIN_PASS: u32 = 9 << 4;
    let mut rig = Rig::new();
    let gate = rig.token();
    let ours = gate.index_public(Role::User).expect("public");
    undefine(&mut rig, &ours.written());

    // The same Name, the attacker's value: unwritten, so it authorizes nothing.
    define(&mut rig, &ours, b"mine");
    let fault = attack(&mut rig, &gate, &ours.entity(), b"mine").err().expect("refused");
    assert_eq!(*fault.kind(), Trouble::AuthUnavailable);
    // Writing it takes W: by its value, by the owner, by an empty policy, by each branch without W.
    let data = [0, 0, 0, 0, 0, 0, 0, 99];
    for authorizes in [ours.entity(), owner()] {
        let index = ours.entity();
        let command = NvWrite { authorizes: &authorizes, index: &index, data: &data };
        let value: &[u8] = if authorizes == index { b"mine" } else { &[] };
        execute(&mut rig.link, &command, &mut [Auth::password(value)], &call())
            .expect_err("not written");
    }
    let branches = gate.branches(Role::User).expect("branches");
    for code in [None, Some(NvRead::CODE), Some(NvChangeAuth::CODE), Some(NvWrite::CODE)] {
        for proves in [false, true] {
            let mut policy = PolicySession::unsalted(&mut rig.link, &call()).expect("a session");
            if proves {
                policy.auth_value(&mut rig.link, &call()).expect("value");
            }
            if let Some(code) = code {
                policy.command_code(code, &mut rig.link, &call()).expect("code");
            }
            let _ = policy.or(&branches, &mut rig.link, &call());
            let index = ours.entity();
            let command = NvWrite { authorizes: &index, index: &index, data: &data };
            let auth = if proves {
                Auth::policy_with_value(&mut policy, b"mine")
            } else {
                Auth::policy(&mut policy)
            };
            execute(&mut rig.link, &command, &mut [auth], &call()).expect_err("not written");
            policy.end(&mut rig.link, &call()).expect("ended");
        }
    }
    // The module does not even ask for the PIN.
    rig.link.sent.clear();
    let error = rig.login(&gate, Role::User, USER).err().expect("refused");
    assert!(matches!(error, Error::Device(_)), "{error}");
    no_pin_was_sent(&mut rig.link);
    undefine(&mut rig, &ours);

    // Another public area that can be written: another Name, which the seal does not know.
    let other = |attributes: u32, policy: Vec<u8>| NvPublic { attributes, policy, ..ours.clone() };
    let own_policy = policy_or(&branches[..4]).to_vec();
    for public in [
        other(ATTRIBUTES | OWNERWRITE, ours.policy.clone()),
        other(ATTRIBUTES | OWNERWRITE | AUTHREAD, ours.policy.clone()),
        other(ATTRIBUTES | OWNERWRITE, own_policy),
        other(ATTRIBUTES | OWNERWRITE, vec![]),
        other(
            (ATTRIBUTES & ORDINARY ^ ATTRIBUTES) | PIN_PASS | OWNERWRITE | AUTHREAD,
            ours.policy.clone(),
        ),
        other(
            (ATTRIBUTES & ORDINARY ^ ATTRIBUTES) | OWNERWRITE | AUTHWRITE | AUTHREAD,
            ours.policy.clone(),
        ),
        other((ATTRIBUTES & ORDINARY ^ ATTRIBUTES) & !POLICYWRITE | AUTHWRITE | AUTHREAD, vec![]),
    ] {
        define(&mut rig, &public, b"mine");
        let index = public.entity();
        let by_owner = public.attributes & OWNERWRITE != 0;
        let authorizes = if by_owner { owner() } else { index.clone() };
        let value: &[u8] = if by_owner { &[] } else { b"mine" };
        let command = NvWrite { authorizes: &authorizes, index: &index, data: &data };
        execute(&mut rig.link, &command, &mut [Auth::password(value)], &call()).expect("written");
        let written = public.written();
        let fault = attack(&mut rig, &gate, &written.entity(), b"mine").err().expect("refused");
        assert_eq!(*fault.kind(), Trouble::Policy, "{fault}");
        // and with the Name that the seal wants in the HMAC
        let mut session = HmacSession::unsalted(&mut rig.link, &call()).expect("a session");
        let policy = PolicySession::unsalted(&mut rig.link, &call()).expect("a session");
        let claimed = ours.written().entity();
        let entity = policy.entity();
        let command = PolicySecret { authorizes: &claimed, session: &entity, nonce_tpm: &[] };
        execute(&mut rig.link, &command, &mut [Auth::hmac(&mut session, b"mine")], &call())
            .expect_err("another Name");
        session.end(&mut rig.link, &call()).expect("ended");
        policy.end(&mut rig.link, &call()).expect("ended");

        rig.link.sent.clear();
        let error = rig.login(&gate, Role::User, USER).err().expect("refused");
        assert!(matches!(error, Error::Device(_)), "{error}");
        no_pin_was_sent(&mut rig.link);
        undefine(&mut rig, &written);
    }

    let error = rig.login(&gate, Role::User, USER).err().expect("refused");
    assert!(error.to_string().contains("removed by the TPM's owner"), "{error}");
    assert_eq!(left_in(&mut rig.link), [0u32; 0]);
}

#[test]
fn an_index_replaced_while_the_token_is_made_gets_no_seal() {
    for role in [Role::User, Role::So] {
        let rig = std::cell::RefCell::new(Rig::new());
        let new = rig.borrow().new_gate();
        let (mut planned, mut steps, mut sealed) = (None::<Gate>, 0, false);
        let plan = std::cell::RefCell::new(&mut planned);
        let made = create(
            &mut |job| {
                steps += 1;
                let rig = &mut *rig.borrow_mut();
                // the third step writes what the second one defined
                if steps == 3 {
                    let gate = plan.borrow().clone().expect("a plan");
                    let public = gate.index_public(role).expect("public");
                    undefine(rig, &public);
                    define(rig, &public, b"mine");
                }
                rig.on(|line| job(line))
            },
            &new,
            &mut |gate, stage| {
                **plan.borrow_mut() = Some(gate.clone());
                sealed |= stage != Stage::Planned;
                Ok(())
            },
        );
        let error = made.expect_err("noticed");
        assert!(error.to_string().contains("replaced an NV index"), "{error}");
        assert!(!sealed);
        let rig = &mut *rig.borrow_mut();
        assert_eq!(rig.indices(), [0u32; 0]);
        rig.clean();
    }
}

#[test]
fn the_so_neither_unlocks_nor_mends_an_index_that_the_owner_made() {
    let mut rig = Rig::new();
    let gate = rig.token();
    let so = rig.login(&gate, Role::So, SO).expect("the SO");
    let ours = gate.index_public(Role::User).expect("public");
    undefine(&mut rig, &ours.written());
    define(&mut rig, &ours, b"mine");

    let error = rig.on(|line| line.unlock_user(&gate, &so)).expect_err("refused");
    assert!(error.to_string().contains("created anew"), "{error}");
    let error = rig.on(|line| line.set_user_pin(&gate, &so, USER)).expect_err("refused");
    assert!(error.to_string().contains("created anew"), "{error}");

    let fault = attack(&mut rig, &gate, &ours.entity(), b"mine").err().expect("refused");
    assert_eq!(*fault.kind(), Trouble::AuthUnavailable);
    rig.clean();
}

#[test]
fn a_token_initialised_anew_kills_every_copy_of_the_old_one() {
    let mut rig = Rig::new();
    let old = rig.token();
    let new = NewGate { serial: *b"fedcba9876543210", retired: old.indices(), ..rig.new_gate() };

    let (gate, _) = rig.create(&new, &mut |_, _| Ok(())).expect("a gate");

    rig.login(&gate, Role::So, SO).expect("the new token");
    for (role, pin) in [(Role::So, SO), (Role::User, USER)] {
        let error = rig.login(&old, role, pin).err().expect("dead");
        assert!(matches!(error, Error::Device(_)), "{error}");
    }
    let mut ours = gate.indices();
    ours.sort_unstable();
    assert_eq!(rig.indices(), ours);
    rig.clean();
}

// ---- power cuts and crashes --------------------------------------------------------------------

#[test]
fn power_cuts_between_right_logins_cost_nothing() {
    let mut rig = Rig::new();
    let gate = rig.token();
    for _ in 0..5 {
        rig.login(&gate, Role::User, USER).expect("the user");
        rig.power_cut();
        assert_eq!(rig.count(&gate, Role::User), 0);
        rig.clean();
    }
    // and in the middle of one
    for commands in 0..7 {
        rig.link.stop_after = Some(commands);
        let error = rig.login(&gate, Role::User, USER).err();
        // the flush alone may fail: then the login has succeeded
        assert_eq!(error.is_none(), commands == 6, "{error:?}");
        rig.power_cut();
        assert_eq!(rig.count(&gate, Role::User), 0);
        rig.login(&gate, Role::User, USER).expect("the user");
    }
    rig.clean();
}

#[test]
fn a_creation_that_stops_after_any_command_settles_to_nothing_or_to_the_token() {
    let (mut removed, mut complete) = (0, 0);
    let mut rig = Rig::new();
    for commands in 0.. {
        let new = rig.new_gate();
        let mut kept: Option<(Gate, Stage)> = None;
        rig.link.stop_after = Some(commands);
        let outcome = rig.create(&new, &mut |gate, stage| {
            kept = Gate::from_bytes(&gate.to_bytes()).map(|gate| (gate, stage));
            Ok(())
        });
        rig.power_cut();
        if outcome.is_ok() {
            break;
        }
        let Some((gate, _)) = kept else {
            assert_eq!(rig.indices(), [0u32; 0], "nothing was planned, nothing is there");
            continue;
        };
        match rig.on(|line| line.settle(&gate, &[])).expect("settled") {
            Settled::Removed => {
                removed += 1;
                assert_eq!(rig.indices(), [0u32; 0]);
            }
            Settled::Complete => {
                complete += 1;
                let so = rig.login(&gate, Role::So, SO).expect("the SO");
                assert_eq!(secret_of(&so), SECRET);
                rig.on(|line| line.set_user_pin(&gate, &so, USER)).expect("the user's is set");
                rig.login(&gate, Role::User, USER).expect("the user");
                rig.on(|line| line.remove(&gate, &[])).expect("removed");
            }
        }
        rig.clean();
    }
    // Every command but the last of the creation is one before the journal says that it is sealed.
    assert!(removed > 15 && complete == 0, "{removed} removed, {complete} complete");
}

#[test]
fn a_journal_that_fails_leaves_nothing_or_a_token_that_settles() {
    let mut rig = Rig::new();
    for fails in [Stage::Planned, Stage::Sealed, Stage::Written] {
        let new = rig.new_gate();
        let mut kept = None;
        let full = || Error::DeviceMemory("the disk is full".to_owned());
        let error = rig
            .create(&new, &mut |gate, stage| {
                if stage == fails {
                    return Err(full());
                }
                kept = Some(gate.clone());
                Ok(())
            })
            .expect_err("the journal's error");
        assert_eq!(error, full());
        if fails != Stage::Written {
            assert_eq!(rig.indices(), [0u32; 0]);
            continue;
        }
        let gate = kept.expect("the sealed gate");
        assert_eq!(rig.on(|line| line.settle(&gate, &[])).expect("settled"), Settled::Complete);
        let so = rig.login(&gate, Role::So, SO).expect("the SO");
        rig.on(|line| line.set_user_pin(&gate, &so, USER)).expect("set");
        rig.login(&gate, Role::User, USER).expect("the user");
    }
    rig.clean();
}

#[test]
fn a_lost_answer_during_creation_is_made_up_for_by_a_second_run_of_the_step() {
    // The lease replays a step once after a broken connection.
    for lost in 0..30 {
        let mut rig = Rig::new();
        let new = rig.new_gate();
        let mut left = lost;
        let made = create(
            &mut |job| {
                for attempt in 0..2 {
                    if left >= 0 {
                        rig.link.lose_answer_after = Some(left as usize);
                    }
                    let before = rig.link.sent.len();
                    let outcome = rig.on(|line| job(line));
                    left -= (rig.link.sent.len() - before) as i64;
                    match outcome {
                        Err(Error::Device(_)) if attempt == 0 && rig.link.is_cut => rig.power_cut(),
                        other => return other,
                    }
                }
                unreachable!("two attempts")
            },
            &new,
            &mut |_, _| Ok(()),
        );
        let (gate, _) = made.unwrap_or_else(|error| panic!("answer {lost} lost: {error}"));
        rig.link.lose_answer_after = None;
        if rig.link.is_cut {
            // It was the answer to a TPM2_FlushContext, which nothing depends on.
            rig.power_cut();
        }
        rig.login(&gate, Role::So, SO).expect("the SO");
        assert_eq!(rig.indices().len(), 2);
    }
}

#[test]
fn a_change_of_pin_that_stops_after_any_command_leaves_the_old_or_the_new_one() {
    let mut rig = Rig::new();
    let gate = rig.token();
    let mut pin = USER.to_vec();
    for commands in 0.. {
        let new = format!("pin number {commands}").into_bytes();
        rig.link.stop_after = Some(commands);
        let outcome = rig.on(|line| line.change_pin(&gate, Role::User, &pin, &new));
        rig.power_cut();
        let (is_old, is_new) = (
            rig.login(&gate, Role::User, &pin).is_ok(),
            rig.login(&gate, Role::User, &new).is_ok(),
        );
        assert!(is_old != is_new, "one of them");
        assert_eq!(outcome.is_ok(), is_new);
        if outcome.is_ok() {
            break;
        }
    }
    pin.clear();
    rig.clean();
}

#[test]
fn setting_the_users_pin_can_be_repeated_after_any_interruption() {
    let mut rig = Rig::new();
    let gate = rig.token();
    let so = rig.login(&gate, Role::So, SO).expect("the SO");
    for commands in 0.. {
        let new = format!("pin number {commands}").into_bytes();
        rig.link.stop_after = Some(commands);
        let outcome = rig.on(|line| line.set_user_pin(&gate, &so, &new));
        rig.power_cut();
        rig.on(|line| line.set_user_pin(&gate, &so, &new)).expect("set again");
        rig.login(&gate, Role::User, &new).expect("the user");
        if outcome.is_ok() {
            break;
        }
    }
    rig.clean();
}

// ---- numbers, space, owner ---------------------------------------------------------------------

#[test]
fn a_number_that_is_taken_meanwhile_is_passed_over_and_journaled() {
    let mut rig = Rig::new();
    let new = rig.new_gate();
    let foreign = NvPublic { index: 0x0181_1100, attributes: 0x0002_0002, policy: vec![], size: 8 };
    let mut plans = Vec::new();
    // The other program comes between the list and the definition.
    let mut defined = false;
    let tpm_link = std::cell::RefCell::new(&mut rig);
    let made =
        create(&mut |job| tpm_link.borrow_mut().on(|line| job(line)), &new, &mut |gate, stage| {
            if !defined {
                defined = true;
                define(&mut tpm_link.borrow_mut(), &foreign, b"");
            }
            plans.push((stage, gate.indices()));
            Ok(())
        });
    let (gate, _) = made.expect("a gate");

    assert_eq!(plans.iter().filter(|(stage, _)| *stage == Stage::Planned).count(), 2);
    assert!(!gate.indices().contains(&foreign.index));
    assert_eq!(rig.indices().len(), 3);
    rig.login(&gate, Role::So, SO).expect("the SO");
}

#[test]
fn an_owner_password_is_used_if_known_and_named_if_not() {
    struct HierarchyChangeAuth;
    impl Command for HierarchyChangeAuth {
        const CODE: u32 = 0x0129;
        const NAME: &'static str = "TPM2_HierarchyChangeAuth";
        const AUTH_HANDLES: usize = 1;
        const CLASS: Class = Class::Normal;
        type Response = ();
        fn handles(&self) -> Vec<&Entity> {
            static OWNER_ENTITY: std::sync::OnceLock<Entity> = std::sync::OnceLock::new();
            vec![OWNER_ENTITY.get_or_init(owner)]
        }
        fn write(&self, out: &mut crate::tpm::wire::Writer) {
            out.sized(b"owner");
        }
        fn read(&self, _: Option<u32>, _: &mut crate::tpm::wire::Reader<'_>) -> Result<(), Fault> {
            Ok(())
        }
    }
    let mut rig = Rig::new();
    let auth = &mut [Auth::password(&[])];
    execute(&mut rig.link, &HierarchyChangeAuth, auth, &call()).expect("an owner password");

    let error = rig.create(&rig.new_gate(), &mut |_, _| Ok(())).expect_err("refused");
    assert!(error.to_string().contains("owner hierarchy has a password"), "{error}");
    assert_eq!(rig.indices(), [0u32; 0]);

    let auto = NewGate { mode: Mode::Auto, ..rig.new_gate() };
    let (gate, _) = rig.create(&auto, &mut |_, _| Ok(())).expect("the fallback");
    assert!(!gate.has_indices());
    rig.login(&gate, Role::So, SO).expect("the SO");

    let owner_auth = Zeroizing::new(b"owner".to_vec());
    let (gate, _) = rig
        .create(&NewGate { owner_auth, ..rig.new_gate() }, &mut |_, _| Ok(()))
        .expect("with the password");
    assert!(gate.has_indices());
    rig.login(&gate, Role::So, SO).expect("the SO");
    rig.on(|line| line.remove(&gate, b"owner")).expect("removed");
    assert_eq!(rig.indices(), [0u32; 0]);
    rig.clean();
}

#[test]
fn when_nv_space_runs_out_nothing_is_left_behind() {
    let mut rig = Rig::new();
    // fill the TPM
    let mut index = 0x0150_0000;
    for size in [2048, 512, 64, 8] {
        loop {
            let public = NvPublic { index, attributes: 0x0002_0002, policy: vec![], size };
            let command = NvDefineSpace { owner: &owner(), authorization: &[], public: &public };
            match execute(&mut rig.link, &command, &mut [Auth::password(&[])], &call()) {
                Ok(()) => index += 1,
                Err(fault) => {
                    assert_eq!(*fault.kind(), Trouble::NvSpace);
                    break;
                }
            }
        }
    }
    let error = rig.create(&rig.new_gate(), &mut |_, _| Ok(())).expect_err("no space");
    assert!(matches!(error, Error::DeviceMemory(_)), "{error}");
    assert_eq!(rig.indices(), [0u32; 0]);

    let auto = NewGate { mode: Mode::Auto, ..rig.new_gate() };
    let (gate, _) = rig.create(&auto, &mut |_, _| Ok(())).expect("the fallback");
    assert!(!gate.has_indices());
    rig.clean();
}

// ---- without a PIN, recovery, fallback ---------------------------------------------------------

#[test]
fn the_so_makes_a_token_pinless_and_takes_that_back() {
    let mut rig = Rig::new();
    let gate = rig.token();
    let so = rig.login(&gate, Role::So, SO).expect("the SO");

    let open = rig.on(|line| line.set_user_pin(&gate, &so, b"")).expect("set").expect("a gate");
    assert!(open.is_pinless());
    let open = Gate::from_bytes(&open.to_bytes()).expect("the same");
    let opened = rig.on(|line| line.open_without_pin(&open)).expect("open");
    assert_eq!(secret_of(&opened), SECRET);
    assert!(opened.write_authority.is_none());
    assert!(rig.login(&open, Role::User, USER).is_err(), "the old PIN is dead");

    let shut =
        rig.on(|line| line.set_user_pin(&open, &so, b"again")).expect("set").expect("a gate");
    assert!(!shut.is_pinless());
    assert_eq!(rig.on(|line| line.open_without_pin(&shut)).err(), Some(Error::NotLoggedIn));
    rig.login(&shut, Role::User, b"again").expect("the user");
    rig.clean();
}

#[test]
fn the_recovery_code_opens_the_token_when_its_indices_are_gone() {
    let mut rig = Rig::new();
    let new = NewGate { recovery: true, ..rig.new_gate() };
    let (gate, code) = rig.create(&new, &mut |_, _| Ok(())).expect("a gate");
    let code = code.expect("a code");
    assert_eq!(code.len(), 39);
    rig.on(|line| line.remove(&gate, &[])).expect("removed");

    let typed = code.to_uppercase().replace('-', " ");
    let secret = rig.on(|line| line.recover(&gate, &typed)).expect("recovered");

    assert_eq!(*secret, SECRET);
    for wrong in ["", "0000-0000", "0000-0000-0000-0000-0000-0000-0000-0000", "xyz"] {
        let error = rig.on(|line| line.recover(&gate, wrong)).err();
        assert!(matches!(error, Some(Error::PinInvalid(_))), "{error:?}");
    }
    rig.clean();
}

#[test]
fn the_fallback_gate_opens_and_locks_with_the_tpm() {
    let mut rig = Rig::new();
    let new = NewGate { mode: Mode::Da, ..rig.new_gate() };
    let (gate, _) = rig.create(&new, &mut |_, _| Ok(())).expect("a gate");
    assert_eq!(gate.indices(), [0u32; 0]);
    assert_eq!(rig.login(&gate, Role::User, USER).err(), Some(Error::PinNotInitialized));
    let so = rig.login(&gate, Role::So, SO).expect("the SO");
    let gate = rig.on(|line| line.set_user_pin(&gate, &so, USER)).expect("set").expect("a gate");
    let gate = Gate::from_bytes(&gate.to_bytes()).expect("the same");

    let opened = rig.login(&gate, Role::User, USER).expect("the user");
    assert_eq!(secret_of(&opened), SECRET);
    let gate = rig
        .on(|line| line.change_pin(&gate, Role::User, USER, b"another"))
        .expect("changed")
        .expect("a gate");
    rig.login(&gate, Role::User, b"another").expect("the user");

    let limit = rig.on(|line| line.pin_count(&gate, Role::User)).expect("a count").limit;
    let mut left = limit;
    loop {
        match rig.login(&gate, Role::User, b"wrong").err().expect("refused") {
            Error::WrongPin { left: Some(said) } => {
                left -= 1;
                assert_eq!(said, left);
            }
            Error::PinLocked => break,
            other => panic!("{other}"),
        }
    }
    assert_eq!(left, 0);
    assert_eq!(rig.login(&gate, Role::User, b"another").err(), Some(Error::PinLocked));
    assert_eq!(left_in(&mut rig.link), [0u32; 0]);
}

// ---- bytes -------------------------------------------------------------------------------------

#[test]
fn a_gate_is_read_as_it_was_written_and_nothing_else_is() {
    let mut rig = Rig::new();
    let new = NewGate { recovery: true, ..rig.new_gate() };
    let (gate, _) = rig.create(&new, &mut |_, _| Ok(())).expect("a gate");
    let bytes = gate.to_bytes();

    assert_eq!(Gate::from_bytes(&bytes).as_ref(), Some(&gate));
    for length in 0..bytes.len() {
        assert_eq!(Gate::from_bytes(&bytes[..length]), None);
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Gate::from_bytes(&longer), None);
    let later = [&[2][..], &bytes[1..]].concat();
    assert_eq!(Gate::from_bytes(&later), None);
}

// ---- through the lease -------------------------------------------------------------------------

fn tpm_at(swtpm: &Swtpm) -> std::sync::Arc<Tpm> {
    let settings = crate::tpm::Settings { tcti: swtpm.tcti(), ..Default::default() };
    Tpm::new(settings, None, Box::new(|_| false))
}

#[test]
fn the_whole_life_of_a_gate_goes_through_the_lease() {
    let mut swtpm = Swtpm::start();
    let tpm = tpm_at(&swtpm);
    let call = tpm.call();
    let srk = tpm.srk_name(&call).expect("a storage root key");
    let new = NewGate {
        serial: *b"0123456789abcdef",
        srk,
        limit: 3,
        iterations: 1000,
        mode: Mode::Auto,
        owner_auth: Zeroizing::default(),
        recovery: false,
        so_pin: SO,
        token_secret: Zeroizing::new(SECRET),
        retired: Vec::new(),
    };
    let (gate, _) = tpm.create_gate(&call, &new, &mut |_, _| Ok(())).expect("a gate");
    assert!(gate.has_indices());
    let so = tpm.login(&call, &gate, Role::So, SO).expect("the SO");
    tpm.set_user_pin(&call, &gate, &so, USER).expect("set");
    assert_eq!(secret_of(&tpm.login(&call, &gate, Role::User, USER).expect("the user")), SECRET);
    let error = tpm.login(&call, &gate, Role::User, b"wrong").err();
    assert_eq!(error, Some(Error::WrongPin { left: Some(2) }));
    let count = tpm.pin_count(&call, &gate, Role::User).expect("a count");
    assert_eq!((count.count, count.limit), (1, 3));

    // The TPM goes away and comes back while the lease still holds a connection.
    swtpm.power_cut();
    tpm.login(&call, &gate, Role::User, USER).expect("the user, after a power cut");
    tpm.change_pin(&call, &gate, Role::User, USER, b"another").expect("changed");
    swtpm.power_cut();
    tpm.login(&call, &gate, Role::User, b"another").expect("the user");
    assert_eq!(tpm.settle(&call, &gate, &[]).expect("settled"), Settled::Complete);

    let foreign = Gate { srk: vec![0, 11, 1, 2, 3], ..gate.clone() };
    assert_eq!(tpm.login(&call, &foreign, Role::User, b"another").err(), Some(Error::ForeignTpm));
    tpm.remove_gate(&call, &gate, &[]).expect("removed");
    let error = tpm.login(&call, &gate, Role::User, b"another").err();
    assert!(matches!(error, Some(Error::Device(_))), "{error:?}");
    tpm.end();
    assert_eq!(left_in(&mut swtpm.connect()), [0u32; 0]);
}

#[test]
fn a_key_that_asks_for_the_pin_signs_once_per_login() {
    use crate::crypto::ec::Curve;
    use crate::tpm::{HashAlgorithm, KeyBlob, KeySpec, KeyUse};
    use std::sync::Arc;
    let swtpm = Swtpm::start();
    let tpm = tpm_at(&swtpm);
    let call = tpm.call();
    let srk = tpm.srk_name(&call).expect("a storage root key");
    let new = NewGate {
        serial: *b"0123456789abcdef",
        srk: srk.clone(),
        limit: 3,
        iterations: 1000,
        mode: Mode::Nv,
        owner_auth: Zeroizing::default(),
        recovery: false,
        so_pin: SO,
        token_secret: Zeroizing::new(SECRET),
        retired: Vec::new(),
    };
    let (gate, _) = tpm.create_gate(&call, &new, &mut |_, _| Ok(())).expect("a gate");
    let so = tpm.login(&call, &gate, Role::So, SO).expect("the SO");
    tpm.set_user_pin(&call, &gate, &so, USER).expect("set");
    let spec = KeySpec {
        usage: KeyUse::Ec { curve: Curve::P256, sign: true, derive: false },
        extractable: false,
        always_authenticate: gate.user_index_name(),
    };
    let made = tpm.create(&call, &srk, &spec, &[7; 32]).expect("a key");
    let blob = KeyBlob {
        id: [1; 16],
        public: made.public,
        private: made.private,
        authorization: Zeroizing::new([7; 32]),
    };
    let mut key = Key { blob: Arc::new(blob), srk: Arc::new(srk), grant: None };

    assert!(tpm.sign(&call, &key, HashAlgorithm::Sha256, &[1; 32]).is_err(), "not without the PIN");
    let error = tpm.authorize_once(&call, &key, &gate, b"wrong").err();
    assert_eq!(error, Some(Error::WrongPin { left: Some(2) }));
    key.grant = Some(tpm.authorize_once(&call, &key, &gate, USER).expect("a login"));
    tpm.sign(&call, &key, HashAlgorithm::Sha256, &[1; 32]).expect("signed");
    assert!(tpm.sign(&call, &key, HashAlgorithm::Sha256, &[1; 32]).is_err(), "only once");
    tpm.end();
    assert_eq!(left_in(&mut swtpm.connect()), [0u32; 0]);
}

// ---- what the TPM says of a PIN command --------------------------------------------------------

/// Answers the first TPM2_PolicySecret with this code instead of passing it on.
fn answer_first_proof_with(link: &mut Link, code: u32) {
    let mut answered = false;
    link.intercept = Some(Box::new(move |command| {
        if command != PolicySecret::CODE || std::mem::replace(&mut answered, true) {
            return None;
        }
        Some([&[0x80, 1, 0, 0, 0, 10][..], &code.to_be_bytes()].concat())
    }));
}

#[test]
fn a_pin_is_sent_again_only_if_the_tpm_did_not_look_at_it() {
    let mut rig = Rig::new();
    let gate = rig.token();
    for code in [0x922, 0x90A, 0x920, 0x923] {
        answer_first_proof_with(&mut rig.link, code);
        rig.login(&gate, Role::User, USER).expect("asked again");
        rig.link.intercept = None;
        let proofs = rig.link.codes();
        assert_eq!(proofs.iter().filter(|code| **code == PolicySecret::CODE).count(), 2);
    }
    for code in [0x908, 0x909, 0x101, 0x12F, 0x98E] {
        answer_first_proof_with(&mut rig.link, code);
        let error = rig.login(&gate, Role::User, USER).err().expect("given up");
        rig.link.intercept = None;
        let proofs = rig.link.codes();
        assert_eq!(proofs.iter().filter(|code| **code == PolicySecret::CODE).count(), 1, "{error}");
    }
    assert_eq!(rig.count(&gate, Role::User), 0);
    rig.clean();
}

#[test]
fn no_changed_bit_of_a_response_opens_anything_else() {
    let mut rig = Rig::new();
    let new = NewGate { limit: 255, ..rig.new_gate() };
    let (gate, _) = rig.create(&new, &mut |_, _| Ok(())).expect("a gate");
    let lengths = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let copy = lengths.clone();
    rig.link.alter =
        Some(Box::new(move |_, response| copy.lock().expect("lock").push(8 * response.len())));
    rig.login(&gate, Role::So, SO).expect("the SO");
    let lengths = lengths.lock().expect("lock").clone();

    // all but the last, the answer to TPM2_FlushContext
    for (which, length) in lengths.iter().enumerate().take(6) {
        for bit in (which..*length).step_by(37) {
            let mut seen = 0;
            rig.link.alter = Some(Box::new(move |_, response| {
                if seen == which {
                    response[bit / 8] ^= 1 << (bit % 8);
                }
                seen += 1;
            }));
            if let Ok(opened) = rig.login(&gate, Role::So, SO) {
                // The policy session has no key: its nonce in the last response protects nothing any more.
                assert_eq!(which, 5, "bit {bit} is not noticed");
                assert_eq!(secret_of(&opened), SECRET, "bit {bit}");
            }
            rig.link.alter = None;
            for handle in left_in(&mut rig.link) {
                crate::tpm::emulator::flush(&mut rig.link, handle);
            }
        }
    }
}
