//! How many commands reach the TPM, which of them are protected, and that nothing stays in it.

use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN};
use swtpm_tests::ck::{P256, bytes, flag, number};
use swtpm_tests::shim::Record;
use swtpm_tests::{App, Bench, Ck, contains, wire};

const DIGEST: [u8; 32] = *b"this digest must never be seen!!";

/// A token with one EC key pair labelled `key`.
fn with_key(bench: &Bench) {
    bench.token();
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.finalize().expect("C_Finalize");
}

fn private_key(ck: &Ck, session: u64, label: &str) -> u64 {
    let wanted = [number(CKA_CLASS, CKO_PRIVATE_KEY), bytes(CKA_LABEL, label)];
    let found = ck.find(session, &wanted).expect("C_FindObjects");
    assert_eq!(found.len(), 1, "private keys called {label}");
    found[0]
}

/// What an ssh login does: a process starts, logs in, signs once and is done.
fn cold_signature(bench: &Bench) -> Record {
    let (record, ()) = bench.shim.watch(|| {
        let (app, session) = bench.logged_in();
        let key = private_key(&app, session, "key");
        app.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
        app.finalize().expect("C_Finalize");
        // The shim notes a closed connection when it sees it.
        assert!(bench.shim.settled(Duration::from_secs(10)).is_nothing());
        std::thread::sleep(Duration::from_millis(50));
    });
    record
}

#[test]
fn looking_costs_no_tpm_command() {
    const OBJECTS: usize = 1000;
    let bench = Bench::start();
    with_key(&bench);
    let (app, session) = bench.logged_in();
    for index in 0..OBJECTS {
        let label = format!("object {index}");
        let data = [
            number(CKA_CLASS, CKO_DATA),
            flag(CKA_TOKEN, true),
            flag(CKA_PRIVATE, false),
            bytes(CKA_LABEL, label),
            bytes(CKA_VALUE, "value"),
        ];
        app.create_object(session, &data).expect("C_CreateObject");
    }
    app.finalize().expect("C_Finalize");

    let (record, ()) = bench.shim.watch(|| {
        let app = bench.ready();
        app.info().expect("C_GetInfo");
        for slot in app.slots(true).expect("C_GetSlotList") {
            app.slot_info(slot).expect("C_GetSlotInfo");
            app.token_info(slot).expect("C_GetTokenInfo");
            for mechanism in app.mechanisms(slot).expect("C_GetMechanismList") {
                app.mechanism_info(slot, mechanism).expect("C_GetMechanismInfo");
            }
        }
        let slot = app.slot_of(LABEL).expect("the token");
        let session = app.open_session(slot, 0).expect("C_OpenSession");
        let found = app.find(session, &[]).expect("C_FindObjects");
        assert!(found.len() > OBJECTS, "{} objects", found.len());
        for object in found {
            let kinds = [CKA_CLASS, CKA_LABEL, CKA_ID, CKA_VALUE, CKA_TOKEN];
            let (_, values) = app.attributes(session, object, &kinds);
            assert!(values[0].is_some());
        }
        app.finalize().expect("C_Finalize");
    });

    assert_eq!(record.sent(), 0, "{}", record.lines());
}

#[test]
fn on_a_bare_tpm_a_cold_process_signs_with_at_most_14_commands() {
    let bench = Bench::start();
    with_key(&bench);

    let record = cold_signature(&bench);

    println!("{}", record.lines());
    assert!(record.sent() <= 14, "{} sent:\n{}", record.sent(), record.lines());
}

#[test]
fn behind_the_resource_manager_a_cold_process_signs_with_at_most_10_sent_and_43_executed() {
    let bench = Bench::managed();
    with_key(&bench);

    let record = cold_signature(&bench);

    println!("{}\n{} executed", record.lines(), record.executed());
    let sent = record.0.iter().filter(|entry| entry.code != 0).count();
    assert!(sent <= 10, "{sent} sent:\n{}", record.lines());
    assert!(record.executed() <= 43, "{} executed:\n{}", record.executed(), record.lines());
}

/// A warm signature on this bench.
fn warm_signature(bench: &Bench) -> Record {
    with_key(bench);
    let (app, session) = bench.logged_in();
    let key = private_key(&app, session, "key");
    app.sign(session, CKM_ECDSA, key, &DIGEST).expect("the first one");
    let (record, _) =
        bench.shim.watch(|| app.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign"));
    record
}

fn assert_one_protected_sign(record: &Record) {
    assert_eq!(record.names(), ["Sign"]);
    let sign = &record.0[0];
    assert!(sign.is_hmac_protected() && sign.encrypts_command(), "{}", sign.line());
    assert!(!sign.shows_a_password());
    assert!(!contains(&sign.command, &DIGEST), "the digest crosses the bus in clear");
}

#[test]
fn on_a_bare_tpm_a_warm_signature_is_one_command_its_digest_encrypted() {
    assert_one_protected_sign(&warm_signature(&Bench::start()));
}

#[test]
fn behind_the_resource_manager_a_warm_signature_is_one_command_and_five_hidden_ones() {
    let record = warm_signature(&Bench::managed());

    assert_one_protected_sign(&record);
    assert!(record.0[0].hidden <= 5, "{}", record.lines());
}

/// Signs with each of 16 keys in turn, four times round; the record of the last two rounds. (A bare
/// TPM saves each key's context once, when it is first pushed out: the last ones in the second round.)
fn sixteen_keys_in_turn(bench: &Bench) -> Record {
    const KEYS: usize = 16;
    bench.token();
    let (app, session) = bench.logged_in();
    let keys: Vec<u64> = (0..KEYS)
        .map(|index| {
            app.generate_ec(session, P256, &format!("key {index}")).expect("C_GenerateKeyPair").1
        })
        .collect();
    let round = || {
        for key in &keys {
            app.sign(session, CKM_ECDSA, *key, &DIGEST).expect("C_Sign");
        }
    };
    round();
    round();
    let (record, ()) = bench.shim.watch(|| {
        round();
        round();
    });
    assert_eq!(record.count(wire::SIGN), 2 * KEYS);
    record
}

#[test]
fn on_a_bare_tpm_sixteen_keys_in_turn_cost_at_most_three_commands_a_signature() {
    let record = sixteen_keys_in_turn(&Bench::start());

    assert!(record.sent() <= 3 * record.count(wire::SIGN), "{}", record.lines());
}

#[test]
fn behind_the_resource_manager_sixteen_keys_in_turn_cost_one_command_a_signature() {
    let record = sixteen_keys_in_turn(&Bench::managed());

    assert_eq!(record.sent(), record.count(wire::SIGN), "{}", record.lines());
    for entry in &record.0 {
        assert!(entry.hidden <= 5, "{}", entry.line());
    }
}

fn nothing_is_left(bench: &Bench) {
    with_key(bench);
    assert_nothing_is_left(bench, "after C_Finalize");

    let (app, session) = bench.logged_in();
    let key = private_key(&app, session, "key");
    app.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
    std::thread::sleep(Duration::from_secs(1));
    assert_nothing_is_left(bench, "1 s after the last call");

    app.sign(session, CKM_ECDSA, key, &DIGEST).expect("the login stays");
    app.finalize().expect("C_Finalize");
    assert_nothing_is_left(bench, "after C_Finalize");
}

fn assert_nothing_is_left(bench: &Bench, when: &str) {
    // A closed file of the kernel's is flushed at once; the shim must first see that it is closed.
    let left = bench.shim.settled(Duration::from_millis(200));
    assert!(left.is_nothing(), "{when}: {left:?}");
}

#[test]
fn on_a_bare_tpm_nothing_is_left_after_finalize_nor_a_second_after_the_last_call() {
    nothing_is_left(&Bench::start());
}

#[test]
fn behind_the_resource_manager_nothing_is_left_after_finalize_nor_a_second_after_the_last_call() {
    nothing_is_left(&Bench::managed());
}

#[test]
fn without_threads_of_its_own_the_module_lets_go_at_the_end_of_each_call() {
    let bench = Bench::start();
    with_key(&bench);
    let app = bench.app();
    app.initialize_with(CKF_OS_LOCKING_OK | CKF_LIBRARY_CANT_CREATE_OS_THREADS)
        .expect("C_Initialize");
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    app.login(session, PIN).expect("C_Login");
    let key = private_key(&app, session, "key");

    app.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");

    assert!(bench.shim.left().is_nothing(), "{:?}", bench.shim.left());
    assert_eq!(threads(&app), threads_of_an_idle_app(&bench));
}

fn threads(app: &App) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", app.id())).expect("it runs").count()
}

/// The bench's own: the reader and one lane.
fn threads_of_an_idle_app(bench: &Bench) -> usize {
    let app = bench.app();
    assert!(app.info().is_err());
    threads(&app)
}

/// Everything that this module does with a TPM, in one life of a token.
fn whole_life(bench: &Bench) {
    bench.token();
    let (app, session) = bench.logged_in();
    let (ec_public, ec) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
    let (_, rsa) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let session_key = app
        .generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256), flag(CKA_TOKEN, false)],
            &[flag(CKA_TOKEN, false)],
        )
        .expect("C_GenerateKeyPair")
        .1;
    app.sign(session, CKM_ECDSA, ec, &DIGEST).expect("C_Sign");
    app.sign(session, CKM_ECDSA, session_key, &DIGEST).expect("C_Sign");
    app.sign(session, CKM_SHA256_RSA_PKCS, rsa, b"data").expect("C_Sign");
    let point = app.attribute(session, ec_public, CKA_EC_POINT).expect("CKA_EC_POINT");
    let secret = [
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
        flag(CKA_TOKEN, false),
    ];
    let mechanism = swtpm_tests::ck::Mechanism::ecdh(CKD_NULL, &[], &point);
    app.derive(session, mechanism, ec, &secret).expect("C_DeriveKey");
    app.random(session, 16).expect("C_GenerateRandom");
    app.set_pin(session, PIN, b"another-pin").expect("C_SetPIN");
    app.logout(session).expect("C_Logout");
    assert!(app.login(session, PIN).is_err(), "the old PIN");
    app.login(session, b"another-pin").expect("the new PIN");
    app.finalize().expect("C_Finalize");
}

#[test]
fn no_authorization_value_ever_crosses_the_bus_in_clear() {
    let bench = Bench::start();

    whole_life(&bench);

    for entry in &bench.shim.record().0 {
        assert!(!entry.shows_a_password(), "{}", entry.line());
    }
}

#[test]
fn whatever_carries_a_secret_is_encrypted_on_the_bus() {
    let bench = Bench::start();

    whole_life(&bench);

    let record = bench.shim.record();
    let into = [wire::CREATE, wire::SIGN, wire::NV_CHANGE_AUTH, wire::NV_DEFINE_SPACE];
    let out = [wire::UNSEAL, wire::RSA_DECRYPT, wire::ECDH_ZGEN, wire::GET_RANDOM];
    for code in into {
        let entries = record.of(code);
        assert!(!entries.is_empty(), "no {} at all", wire::name(code));
        for entry in entries {
            assert!(entry.encrypts_command(), "{}", entry.line());
        }
    }
    for code in out {
        let entries = record.of(code);
        assert!(!entries.is_empty(), "no {} at all", wire::name(code));
        for entry in entries {
            assert!(entry.encrypts_response(), "{}", entry.line());
        }
    }
}

#[test]
fn random_bytes_cost_one_command_whatever_their_number() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    let first = app.random(session, 32).expect("C_GenerateRandom");

    for count in [1, 32, 4096] {
        let (record, random) =
            bench.shim.watch(|| app.random(session, count).expect("C_GenerateRandom"));
        assert_eq!(random.len(), count);
        assert!(record.count(wire::GET_RANDOM) <= 1, "{}", record.lines());
        assert!(count < 16 || random[..16] != first[..16]);
    }
}

#[test]
fn verifying_encrypting_and_digesting_cost_no_command_and_no_login() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (rsa_public, rsa) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let (ec_public, ec) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
    let rsa_signature = app.sign(session, CKM_SHA256_RSA_PKCS, rsa, b"data").expect("C_Sign");
    let ec_signature = app.sign(session, CKM_ECDSA_SHA256, ec, b"data").expect("C_Sign");
    let identity = |object| app.attribute(session, object, CKA_ID).expect("CKA_ID");
    let (rsa_id, ec_id) = (identity(rsa_public), identity(ec_public));
    app.finalize().expect("C_Finalize");

    let (record, ()) = bench.shim.watch(|| {
        let app = bench.ready();
        let slot = app.slot_of(LABEL).expect("the token");
        let session = app.open_session(slot, 0).expect("C_OpenSession");
        let public = |id: Vec<u8>| {
            let wanted = [number(CKA_CLASS, CKO_PUBLIC_KEY), bytes(CKA_ID, id)];
            app.find(session, &wanted).expect("C_FindObjects")[0]
        };
        let (rsa, ec) = (public(rsa_id), public(ec_id));
        app.verify(session, CKM_SHA256_RSA_PKCS, rsa, b"data", &rsa_signature).expect("C_Verify");
        app.verify(session, CKM_ECDSA_SHA256, ec, b"data", &ec_signature).expect("C_Verify");
        let other = app.verify(session, CKM_ECDSA_SHA256, ec, b"date", &ec_signature);
        assert_eq!(other.expect_err("another text"), CKR_SIGNATURE_INVALID);
        let sealed = app.encrypt(session, CKM_RSA_PKCS, rsa, b"data").expect("C_Encrypt");
        assert_eq!(sealed.len(), 256);
        assert_eq!(app.digest(session, CKM_SHA256, b"data").expect("C_Digest").len(), 32);
        app.finalize().expect("C_Finalize");
    });

    assert_eq!(record.sent(), 0, "{}", record.lines());
}
