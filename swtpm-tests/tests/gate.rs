//! The PIN gate: what a wrong PIN costs, what a power cut costs, and what somebody can do who may
//! use the TPM's owner hierarchy and has a copy of the store.

use std::path::Path;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN};
use swtpm_tests::ck::{P256, Rv, number};
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::{App, Bench, Setup, wire};

const WRONG: &[u8] = b"not-the-pin";
const DIGEST: [u8; 32] = [0x42; 32];

const USER_FLAGS: u64 = CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED;
const SO_FLAGS: u64 = CKF_SO_PIN_COUNT_LOW | CKF_SO_PIN_FINAL_TRY | CKF_SO_PIN_LOCKED;

fn limit(tries: u32) -> Bench {
    let bench = Setup::default().config(&format!("[pin]\nlimit = {tries}")).start();
    bench.token();
    bench
}

fn session(app: &App) -> u64 {
    app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession")
}

/// The PIN flags as a process that starts now sees them.
fn flags(bench: &Bench) -> u64 {
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    app.token_flags(slot).expect("C_GetTokenInfo") & (USER_FLAGS | SO_FLAGS)
}

#[test]
fn wrong_pins_cost_one_try_each_and_the_flags_say_so_in_order() {
    let bench = limit(3);
    assert_eq!(flags(&bench), 0);
    let app = bench.ready();
    let session = session(&app);

    assert_eq!(app.login(session, WRONG), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(flags(&bench), CKF_USER_PIN_COUNT_LOW);

    assert_eq!(app.login(session, WRONG), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(flags(&bench), CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY);

    assert!(app.login(session, WRONG).is_err());
    assert_ne!(flags(&bench) & CKF_USER_PIN_LOCKED, 0);

    assert_eq!(app.login(session, PIN), Err(Rv(CKR_PIN_LOCKED)));
    assert_eq!(bench.shim.lockout_counter(), 0, "wrong PINs must not lock out anybody else");
}

#[test]
fn a_right_pin_takes_the_wrong_ones_back() {
    let bench = limit(3);
    let app = bench.ready();
    let session = session(&app);

    for _ in 0..4 {
        assert_eq!(app.login(session, WRONG), Err(Rv(CKR_PIN_INCORRECT)));
        assert_eq!(app.login(session, WRONG), Err(Rv(CKR_PIN_INCORRECT)));
        app.login(session, PIN).expect("the last try is a good one");
        app.logout(session).expect("C_Logout");
        assert_eq!(flags(&bench), 0);
    }
    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn the_security_officer_unlocks() {
    let bench = limit(2);
    let app = bench.ready();
    let session = session(&app);
    while app.login(session, WRONG) != Err(Rv(CKR_PIN_LOCKED)) {}

    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    app.init_pin(session, b"fresh-pin").expect("C_InitPIN");
    app.logout(session).expect("C_Logout");

    assert_eq!(flags(&bench), 0);
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_PIN_INCORRECT)), "the old PIN");
    app.login(session, b"fresh-pin").expect("C_Login");
}

#[test]
fn the_security_officers_pin_is_counted_too() {
    let bench = limit(3);
    let app = bench.ready();
    let session = session(&app);

    assert_eq!(app.login_so(session, WRONG), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(flags(&bench), CKF_SO_PIN_COUNT_LOW);
    assert_eq!(app.login_so(session, WRONG), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(flags(&bench), CKF_SO_PIN_COUNT_LOW | CKF_SO_PIN_FINAL_TRY);
    assert!(app.login_so(session, WRONG).is_err());

    assert_eq!(app.login_so(session, SO_PIN), Err(Rv(CKR_PIN_LOCKED)));
    app.login(session, PIN).expect("the user goes on");
}

#[test]
fn a_wrong_old_pin_in_set_pin_costs_one_try() {
    let bench = limit(3);
    let app = bench.ready();
    let session = session(&app);

    assert_eq!(app.set_pin(session, WRONG, b"new-pin"), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(app.set_pin(session, WRONG, b"new-pin"), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(flags(&bench), CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY);
    app.set_pin(session, PIN, b"new-pin").expect("C_SetPIN");

    assert_eq!(flags(&bench), 0);
    app.login(session, b"new-pin").expect("C_Login");
}

#[test]
fn pins_of_every_length_and_byte_are_told_apart() {
    let bench = limit(8);
    let app = bench.ready();
    let session = session(&app);
    // Trailing zero bytes vanish from a TPM's authorization values, so they must not reach one.
    let mut old = PIN.to_vec();
    for new in [&b"abcd"[..], b"abcd\0", b"abcd\0\0", &[0xFF; 255], "\u{e9}\u{4e2d}".as_bytes()] {
        app.set_pin(session, &old, new).unwrap_or_else(|rv| panic!("{new:?}: {rv:?}"));
        assert_eq!(app.login(session, &old), Err(Rv(CKR_PIN_INCORRECT)), "{old:?}");
        app.login(session, new).unwrap_or_else(|rv| panic!("{new:?}: {rv:?}"));
        app.logout(session).expect("C_Logout");
        old = new.to_vec();
    }
    for length in [0, 1, 3, 256] {
        let answer = app.set_pin(session, &old, &vec![b'x'; length]);
        assert_eq!(answer, Err(Rv(CKR_PIN_LEN_RANGE)), "{length} bytes");
    }
}

#[test]
fn five_power_cuts_between_correct_logins_cost_nothing() {
    let mut bench = limit(3);
    {
        let (app, session) = bench.logged_in();
        app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
        app.finalize().expect("C_Finalize");
    }

    for cut in 1..=5 {
        let (app, session) = bench.logged_in();
        let key = app.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("found")[0];
        app.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
        bench.tpm.power_cut();
        assert_eq!(bench.shim.lockout_counter(), 0, "after cut {cut}");
        assert_eq!(flags(&bench), 0, "after cut {cut}");
    }

    drop(bench.logged_in());
}

#[test]
fn a_power_cut_does_not_take_a_wrong_pin_back() {
    let mut bench = limit(3);
    for _ in 0..3 {
        let app = bench.ready();
        let session = session(&app);
        assert!(app.login(session, WRONG).is_err());
        drop(app);
        bench.tpm.power_cut();
    }

    let app = bench.ready();
    let session = session(&app);
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_PIN_LOCKED)));
}

/// A copy of the store as a thief has it.
fn copy_of_store(bench: &Bench) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(bench.store()).expect("the store") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            std::fs::copy(&path, copy.path().join(path.file_name().expect("a name")))
                .expect("a copy");
        }
    }
    copy
}

fn app_on(bench: &Bench, store: &Path) -> App {
    let app = bench.app_with(|command| {
        command.env("TPM11_STORE", store);
    });
    app.initialize().expect("C_Initialize");
    app
}

#[test]
fn after_set_pin_an_old_copy_of_the_store_with_the_old_pin_opens_nothing() {
    let bench = limit(8);
    let copy = copy_of_store(&bench);
    let app = bench.ready();
    app.set_pin(session(&app), PIN, b"new-pin").expect("C_SetPIN");
    app.finalize().expect("C_Finalize");

    let thief = app_on(&bench, copy.path());

    assert_eq!(thief.login(session(&thief), PIN), Err(Rv(CKR_PIN_INCORRECT)));
}

#[test]
fn after_init_token_an_old_copy_of_the_store_opens_nothing_with_any_pin() {
    let bench = limit(8);
    let copy = copy_of_store(&bench);
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    app.init_token(slot, SO_PIN, LABEL).expect("C_InitToken");
    let officer = app.open(slot).expect("C_OpenSession");
    app.login_so(officer, SO_PIN).expect("C_Login(SO)");
    app.init_pin(officer, PIN).expect("C_InitPIN");
    app.finalize().expect("C_Finalize");

    let thief = app_on(&bench, copy.path());
    let stolen = session(&thief);

    assert!(thief.login(stolen, PIN).is_err());
    assert!(thief.login_so(stolen, SO_PIN).is_err());
    assert!(thief.login(stolen, WRONG).is_err());
    let app = bench.ready();
    app.login(session(&app), PIN).expect("the new token's user is not disturbed");
}

#[test]
fn an_initialisation_that_breaks_off_anywhere_leaves_one_token_or_none() {
    let bench = Bench::start();
    let mut broken = 0;
    for commands in 0.. {
        let fault = Fault::at_any(Action::DropBefore).after(commands).always();
        bench.shim.inject(fault);
        let app = bench.ready();
        let slot = app.empty_slot().expect("an empty slot");
        let label = format!("token {commands}");
        let answer = app.init_token(slot, SO_PIN, &label);
        // As a crash: nothing is tidied up.
        app.kill();
        let met = bench.shim.heal();

        let app = bench.ready();
        if met == 0 {
            assert_eq!(answer, Ok(()), "{}", bench.log());
        }
        match app.slot_of(&label) {
            Some(slot) if answer.is_ok() => {
                // Whole: the officer gets in.
                let session = app.open(slot).expect("C_OpenSession");
                bench.must("C_Login(SO)", app.login_so(session, SO_PIN));
                bench.must("C_InitPIN", app.init_pin(session, PIN));
            }
            Some(_) => {}
            None => assert!(answer.is_err()),
        }
        assert!(app.empty_slot().is_some(), "the next one can be made");
        if met == 0 {
            break;
        }
        broken += 1;
    }
    assert!(broken > 10, "only {broken} commands to break off at");
    // What broke off left no index behind for ever: those of whole tokens are two each.
    let app = bench.ready();
    let tokens = app
        .slots(true)
        .expect("C_GetSlotList")
        .into_iter()
        .filter(|slot| app.token_flags(*slot).is_ok_and(|flags| flags & CKF_TOKEN_INITIALIZED != 0))
        .count();
    let indices = bench.shim.nv_indices();
    assert!(indices.len() <= 2 * tokens, "{indices:x?} for {tokens} tokens");
}

// ---- an attacker with the owner hierarchy, a copy of the store and all day

/// Parts of an NV index's public area (Part 2, TPMS_NV_PUBLIC).
#[derive(Debug, Clone)]
struct Index {
    handle: u32,
    name_hash: u16,
    attributes: u32,
    policy: Vec<u8>,
    size: u16,
}

const AUTHWRITE: u32 = 1 << 2;
const OWNERWRITE: u32 = 1 << 1;
const POLICYWRITE: u32 = 1 << 3;
const TYPE: u32 = 0xF0;
const PIN_FAIL: u32 = 0x80;
const PIN_PASS: u32 = 0x90;
const AUTHREAD: u32 = 1 << 18;
const OWNERREAD: u32 = 1 << 17;
const WRITTEN: u32 = 1 << 29;

impl Index {
    fn read(bench: &Bench, handle: u32) -> Index {
        let read = wire::command(wire::NV_READ_PUBLIC, &[handle], None, &[]);
        let response = ok(bench, &read);
        let policy = wire::u16_at(&response, 22) as usize;
        Index {
            handle,
            name_hash: wire::u16_at(&response, 16),
            attributes: wire::u32_at(&response, 18),
            policy: response[24..24 + policy].to_vec(),
            size: wire::u16_at(&response, 24 + policy),
        }
    }

    fn public(&self) -> Vec<u8> {
        let mut public = self.handle.to_be_bytes().to_vec();
        public.extend(self.name_hash.to_be_bytes());
        public.extend(self.attributes.to_be_bytes());
        public.extend(wire::sized(&self.policy));
        public.extend(self.size.to_be_bytes());
        public
    }
}

const OWN_AUTH: &[u8] = b"the attacker's own";

fn ask(bench: &Bench, command: &[u8]) -> (u32, Vec<u8>) {
    let response = bench.shim.ask(command);
    (wire::response_code(&response), response)
}

fn ok(bench: &Bench, command: &[u8]) -> Vec<u8> {
    let (code, response) = ask(bench, command);
    assert_eq!(code, 0, "{}", wire::name(wire::u32_at(command, 6)));
    response
}

fn undefine(bench: &Bench, handle: u32) {
    ok(bench, &wire::command(wire::NV_UNDEFINE_SPACE, &[wire::OWNER, handle], Some(b""), &[]));
}

fn define(bench: &Bench, index: &Index) -> u32 {
    let mut parameters = wire::sized(OWN_AUTH);
    parameters.extend(wire::sized(&index.public()));
    ask(bench, &wire::command(wire::NV_DEFINE_SPACE, &[wire::OWNER], Some(b""), &parameters)).0
}

/// NV_Write of count 0 and a large limit: by the index's own password, or by the owner.
fn write(bench: &Bench, index: &Index, by: u32, password: &[u8]) -> u32 {
    let data = [&0u32.to_be_bytes()[..], &1000u32.to_be_bytes()].concat();
    let parameters = [&wire::sized(&data)[..], &[0, 0]].concat();
    let handles = [by, index.handle];
    ask(bench, &wire::command(wire::NV_WRITE, &handles, Some(password), &parameters)).0
}

fn start_policy(bench: &Bench, trial: bool) -> u32 {
    let mut parameters = wire::sized(&[7; 16]);
    parameters.extend(wire::sized(&[]));
    parameters.push(if trial { 3 } else { 1 });
    parameters.extend([0x00, 0x10, 0x00, 0x0B]);
    let handles = [0x4000_0007, 0x4000_0007];
    wire::u32_at(
        &ok(bench, &wire::command(wire::START_AUTH_SESSION, &handles, None, &parameters)),
        10,
    )
}

fn policy_secret(bench: &Bench, session: u32, handle: u32, password: &[u8]) -> u32 {
    // nonceTPM, cpHashA, policyRef: none; expiration 0.
    let parameters = [0; 10];
    let handles = [handle, session];
    ask(bench, &wire::command(wire::POLICY_SECRET, &handles, Some(password), &parameters)).0
}

fn flush(bench: &Bench, handle: u32) {
    ask(bench, &wire::command(wire::FLUSH_CONTEXT, &[handle], None, &[]));
}

/// PolicySecret with the attacker's own password at the index, then Unseal: the response codes.
fn try_to_unseal(bench: &Bench, load: &[u8], index: u32) -> (u32, u32) {
    let object = wire::u32_at(&ok(bench, load), 10);
    let session = start_policy(bench, false);
    let secret = policy_secret(bench, session, index, OWN_AUTH);
    let mut authorization = session.to_be_bytes().to_vec();
    authorization.extend([0, 0, 0, 0, 0]);
    let unseal = wire::command_raw(wire::UNSEAL, &[object], &authorization, &[]);
    let (unsealed, _) = ask(bench, &unseal);
    flush(bench, session);
    flush(bench, object);
    (secret, unsealed)
}

/// The gate of the only token, as a thief of the store reads it.
struct Stolen<'a>(&'a [u8]);

impl<'a> Stolen<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        wire::u32_at(self.take(4), 0)
    }

    fn sized(&mut self) -> &'a [u8] {
        let length = wire::u16_at(self.take(2), 0);
        self.take(length.into())
    }

    /// Public and private area of a sealed object, as TPM2_Load wants them.
    fn blob(&mut self) -> Vec<u8> {
        let (public, private) = (self.sized(), self.sized());
        [wire::sized(private), wire::sized(public)].concat()
    }
}

/// TPM2_Load of the user's seal, its parent's authorization empty, and the user's PIN index.
fn load_of_the_seal(bench: &Bench) -> (Vec<u8>, u32) {
    let file = std::fs::read_dir(bench.store())
        .expect("the store")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3")))
        .expect("a SQLite file");
    let gate: Vec<u8> = rusqlite::Connection::open(file)
        .and_then(|store| store.query_row("SELECT gate FROM token", [], |row| row.get(0)))
        .expect("a token");
    let mut gate = Stolen(&gate);
    gate.take(1 + 16);
    gate.sized();
    gate.take(8);
    assert_eq!(gate.take(1), [1], "the gate has PIN indices");
    // Two authorities: of the officer and of the user.
    gate.blob();
    gate.blob();
    let index = gate.u32();
    gate.take(32);
    assert_eq!(gate.take(1), [1], "the index has a seal");
    (wire::command(wire::LOAD, &[0x8100_0001], Some(b""), &gate.blob()), index)
}

#[test]
fn the_attack_itself_works_where_the_policy_allows_it() {
    // So that the failures below mean something: a seal of the attacker's own, for an index of his.
    let bench = limit(8);
    let (load, user) = load_of_the_seal(&bench);
    let index = Index {
        handle: 0x0180_0123,
        name_hash: 0x000B,
        attributes: PIN_FAIL | OWNERWRITE | AUTHREAD | 1 << 25,
        policy: Vec::new(),
        size: 8,
    };
    assert_eq!(define(&bench, &index), 0);
    assert_eq!(write(&bench, &index, wire::OWNER, b""), 0);
    let trial = start_policy(&bench, true);
    assert_eq!(policy_secret(&bench, trial, index.handle, OWN_AUTH), 0);
    let digest = ok(&bench, &wire::command(0x189, &[trial], None, &[]));
    flush(&bench, trial);
    // TPM2_Create of a keyed-hash object with data, under the same parent.
    let mut public = vec![0x00, 0x08, 0x00, 0x0B];
    public.extend(0x0000_0492u32.to_be_bytes());
    public.extend(wire::sized(&digest[12..44]));
    public.extend([0x00, 0x10, 0, 0]);
    let sensitive = [wire::sized(&[]), wire::sized(b"a secret of his own")].concat();
    let mut parameters = wire::sized(&sensitive);
    parameters.extend(wire::sized(&public));
    parameters.extend([0; 6]);
    let parent = wire::u32_at(&load, 10);
    let created = ok(&bench, &wire::command(wire::CREATE, &[parent], Some(b""), &parameters));
    let private = wire::u16_at(&created, 14) as usize + 2;
    let public_at = 14 + private;
    let public = wire::u16_at(&created, public_at) as usize + 2;
    let blobs = &created[14..public_at + public];
    let own = wire::command(wire::LOAD, &[parent], Some(b""), blobs);

    assert_eq!(try_to_unseal(&bench, &own, index.handle), (0, 0));
    let (secret, unsealed) = try_to_unseal(&bench, &load, index.handle);
    assert_eq!(secret, 0);
    assert_eq!(unsealed, 0x99D, "TPM_RC_POLICY_FAIL: the user's seal does not open for it");
    assert_eq!(try_to_unseal(&bench, &load, user).1 & 0xFFF, 0x99D);
}

/// A way to create the index again, in words and in deed.
type Variant = (&'static str, fn(&mut Index));

#[test]
fn no_way_to_create_the_pin_index_again_opens_the_seal() {
    let variants: &[Variant] = &[
        ("as it was", |_| ()),
        ("writable by its password", |index| index.attributes |= AUTHWRITE),
        ("writable by the owner", |index| index.attributes |= OWNERWRITE),
        ("writable by policy no more", |index| {
            index.attributes = index.attributes & !POLICYWRITE | AUTHWRITE;
        }),
        ("readable by all", |index| index.attributes |= AUTHREAD | OWNERREAD | OWNERWRITE),
        ("counting passes", |index| {
            index.attributes = index.attributes & !TYPE | PIN_PASS | OWNERWRITE;
        }),
        ("an ordinary index", |index| {
            index.attributes = index.attributes & !TYPE | AUTHWRITE | AUTHREAD;
        }),
        ("without a policy", |index| {
            index.policy.clear();
            index.attributes = index.attributes & !POLICYWRITE | AUTHWRITE;
        }),
        ("with another policy", |index| {
            index.policy = vec![0; 32];
            index.attributes |= OWNERWRITE;
        }),
        ("with another name algorithm", |index| {
            index.name_hash = 0x0004;
            index.policy = vec![0; 20];
            index.attributes |= OWNERWRITE;
        }),
        ("under dictionary-attack protection", |index| {
            index.attributes = index.attributes & !(1 << 25) | OWNERWRITE;
        }),
    ];
    let bench = limit(8);
    let (load, handle) = load_of_the_seal(&bench);
    let original = Index {
        attributes: Index::read(&bench, handle).attributes & !WRITTEN,
        ..Index::read(&bench, handle)
    };
    let mut defined = 0;

    for (words, change) in variants {
        undefine(&bench, handle);
        let mut index = original.clone();
        change(&mut index);
        let code = define(&bench, &index);
        if code == 0 {
            defined += 1;
            let unwritten = try_to_unseal(&bench, &load, handle);
            assert_ne!(unwritten.1, 0, "{words}, unwritten");
            let by_owner = write(&bench, &index, wire::OWNER, b"");
            let by_itself = write(&bench, &index, handle, OWN_AUTH);
            if *words == "as it was" {
                assert_eq!(unwritten.0, 0x12F, "an unwritten PIN index authorizes nothing");
                assert!(by_owner != 0 && by_itself != 0, "{by_owner:#x} {by_itself:#x}");
            }
            let written = try_to_unseal(&bench, &load, handle);
            assert_ne!(written.1, 0, "{words}, written ({by_owner:#x}, {by_itself:#x})");
        } else {
            // The TPM itself refuses such an index; put something there for the next round.
            assert_eq!(define(&bench, &original), 0, "{words}: {code:#x}");
        }
        let app = bench.ready();
        let session = session(&app);
        let (record, answer) = bench.shim.watch(|| app.login(session, PIN));
        assert!(answer.is_err(), "{words}: the module logs in");
        assert_ne!(answer, Err(Rv(CKR_PIN_INCORRECT)), "{words}: the PIN is not what is wrong");
        if index.policy != original.policy || index.attributes != original.attributes {
            let sent = record.count(wire::POLICY_SECRET);
            assert_eq!(sent, 0, "{words}: the PIN was sent to a stranger's index");
        }
        app.finalize().expect("C_Finalize");
    }
    assert!(defined >= 6, "only {defined} of the variants could be defined at all");
}

#[test]
fn the_pin_index_cannot_be_written_or_changed_without_the_officers_authority() {
    let bench = limit(3);
    let (_, handle) = load_of_the_seal(&bench);
    let index = Index::read(&bench, handle);

    assert_ne!(write(&bench, &index, wire::OWNER, b""), 0);
    assert_ne!(write(&bench, &index, handle, b""), 0);
    assert_ne!(write(&bench, &index, handle, OWN_AUTH), 0);
    let change = wire::command(wire::NV_CHANGE_AUTH, &[handle], Some(b""), &wire::sized(OWN_AUTH));
    assert_ne!(ask(&bench, &change).0, 0);
    for code in [0x134, 0x135, 0x136, 0x138] {
        let parameters: &[u8] = if code == 0x134 || code == 0x138 { &[] } else { &[0; 8] };
        let command = wire::command(code, &[wire::OWNER, handle], Some(b""), parameters);
        assert_ne!(ask(&bench, &command).0, 0, "{}", wire::name(code));
    }

    drop(bench.logged_in());
    assert_eq!(index.attributes & TYPE, PIN_FAIL);
    assert_eq!(index.attributes & (OWNERWRITE | AUTHWRITE | OWNERREAD | AUTHREAD), 0);
    assert_eq!(bench.shim.lockout_counter(), 0);
}
