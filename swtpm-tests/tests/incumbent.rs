//! Defects that were found in the PKCS#11 module that people use with a TPM today. Each is a test,
//! named after what is right. Two need more than this file has: that a changed PIN leaves nothing to an old
//! copy of the store with the old PIN is in `tests/gate.rs`, and that the TPM's own lockout, brought about by
//! somebody else, makes no right PIN wrong in `tests/survive.rs`.

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, set_mode};
use swtpm_tests::ck::{Mechanism, P256, Rv, bytes, flag, number};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::{App, Bench, contains};

const DIGEST: [u8; 32] = [0x42; 32];

fn logged_in() -> (Bench, App, u64) {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    (bench, app, session)
}

#[test]
fn set_pin_with_a_wrong_old_pin_fails_before_login_too() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");

    assert_eq!(app.set_pin(session, b"wrong-pin", b"new-pin"), Err(Rv(CKR_PIN_INCORRECT)));

    assert_eq!(app.login(session, b"new-pin"), Err(Rv(CKR_PIN_INCORRECT)));
    app.login(session, PIN).expect("the PIN is what it was");
}

#[test]
fn a_session_handle_of_any_value_is_refused_not_followed() {
    let (_bench, app, session) = logged_in();

    for bits in 0..64 {
        let handle = session ^ (1 << bits);
        assert_eq!(app.session_info(handle).map(drop), Err(Rv(CKR_SESSION_HANDLE_INVALID)));
        let rv = app.sign_now(handle, &DIGEST).map(drop);
        assert_eq!(rv, Err(Rv(CKR_SESSION_HANDLE_INVALID)));
    }
}

#[test]
fn rsa_encryption_says_how_long_its_result_is() {
    let (_bench, app, session) = logged_in();
    let (public, private) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let arguments = vec![session.into(), mechanism(CKM_RSA_PKCS).into(), public.into()];
    assert_eq!(app.raw("C_EncryptInit", arguments).0, CKR_OK);

    let (rv, arguments) = app.raw(
        "C_Encrypt",
        vec![
            session.into(),
            Memory::of(*b"text").into(),
            4.into(),
            Memory::room(512).into(),
            Memory::word(512).into(),
        ],
    );

    assert_eq!((rv, arguments[4].memory().word_at(0)), (CKR_OK, 256));
    let sealed = &arguments[3].memory().bytes[..256];
    assert_eq!(app.decrypt(session, CKM_RSA_PKCS, private, sealed), Ok(b"text".to_vec()));
}

fn mechanism(kind: u64) -> Memory {
    let mut memory = Memory::default();
    for word in [kind, 0, 0] {
        memory.push_word(word);
    }
    memory
}

#[test]
fn a_failed_decryption_ends_the_operation() {
    let (_bench, app, session) = logged_in();
    let (public, private) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let sealed = app.encrypt(session, CKM_RSA_PKCS, public, b"text").expect("C_Encrypt");

    let short = app.decrypt(session, CKM_RSA_PKCS, private, &sealed[..100]);

    assert_eq!(short, Err(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE)));
    assert_eq!(app.decrypt(session, CKM_RSA_PKCS, private, &sealed), Ok(b"text".to_vec()));
}

#[test]
fn a_refused_sign_init_leaves_no_hold_on_the_key() {
    let (_bench, app, session) = logged_in();
    let (public, private) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let bad = Mechanism::pss(CKM_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, 1 << 40);

    for _ in 0..5 {
        assert!(app.sign_init(session, bad.clone(), private).is_err());
    }

    app.destroy_object(session, private).expect("C_DestroyObject");
    app.destroy_object(session, public).expect("C_DestroyObject");
    assert!(app.find(session, &[]).expect("C_FindObjects").is_empty());
}

/// Every byte of the store's directory.
fn store_bytes(bench: &Bench) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(bench.store()).expect("the store") {
        all.extend(std::fs::read(entry.expect("an entry").path()).expect("a file"));
    }
    all
}

fn secret_template(token: bool) -> Vec<swtpm_tests::Attribute> {
    vec![
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
        flag(CKA_TOKEN, token),
        flag(CKA_PRIVATE, false),
        flag(CKA_SENSITIVE, false),
        flag(CKA_EXTRACTABLE, true),
    ]
}

#[test]
fn a_derived_session_secret_is_never_written_to_the_store() {
    let (bench, app, session) = logged_in();
    let (public, private) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
    let point = app.attribute(session, public, CKA_EC_POINT).expect("CKA_EC_POINT");

    let secret = app
        .derive(session, Mechanism::ecdh(CKD_NULL, &[], &point), private, &secret_template(false))
        .expect("C_DeriveKey");

    let value = app.attribute(session, secret, CKA_VALUE).expect("it may be read");
    assert_eq!(value.len(), 32);
    assert!(!contains(&store_bytes(&bench), &value));
    app.finalize().expect("C_Finalize");
    assert!(!contains(&store_bytes(&bench), &value));
}

#[test]
fn an_ec_key_with_derive_derives() {
    let (_bench, app, session) = logged_in();
    let (public, private) = app
        .generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256)],
            &[flag(CKA_DERIVE, true), flag(CKA_SIGN, false)],
        )
        .expect("C_GenerateKeyPair");
    let point = app.attribute(session, public, CKA_EC_POINT).expect("CKA_EC_POINT");

    // The specification's form is a DER OCTET STRING; many send the point as it is.
    for form in [&point[..], &point[2..]] {
        let ecdh = Mechanism::ecdh(CKD_NULL, &[], form);
        app.derive(session, ecdh, private, &secret_template(false)).expect("C_DeriveKey");
    }
}

#[test]
fn an_rsa_key_that_may_only_sign_signs() {
    let (_bench, app, session) = logged_in();
    let (public, private) = app
        .generate_pair(
            session,
            CKM_RSA_PKCS_KEY_PAIR_GEN,
            &[number(CKA_MODULUS_BITS, 2048), flag(CKA_VERIFY, true)],
            &[flag(CKA_SIGN, true), flag(CKA_DECRYPT, false)],
        )
        .expect("C_GenerateKeyPair");
    let pss = Mechanism::pss(CKM_SHA256_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, 32);

    for mechanism in [CKM_RSA_PKCS.into(), Mechanism::from(CKM_SHA256_RSA_PKCS), pss] {
        let signature = app.sign(session, mechanism.clone(), private, b"data").expect("C_Sign");
        app.verify(session, mechanism, public, b"data", &signature).expect("C_Verify");
    }
    let rv = app.decrypt_init(session, CKM_RSA_PKCS, private);
    assert_eq!(rv, Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED)));
}

#[test]
fn the_mechanism_list_shows_what_works_and_its_flags_are_true() {
    let (_bench, app, _) = logged_in();
    let slot = app.slot_of(LABEL).expect("the token");

    let list = app.mechanisms(slot).expect("C_GetMechanismList");

    for shown in [CKM_RSA_PKCS_PSS, CKM_SHA256_RSA_PKCS_PSS, CKM_ECDSA, CKM_ECDH1_DERIVE] {
        assert!(list.contains(&shown), "{shown:#x}");
    }
    let flags = |kind| app.mechanism_info(slot, kind).expect("C_GetMechanismInfo").flags;
    assert_ne!(flags(CKM_ECDH1_DERIVE) & CKF_DERIVE, 0);
    assert_ne!(flags(CKM_ECDH1_DERIVE) & CKF_HW, 0);
    assert_eq!(flags(CKM_SHA256) & CKF_HW, 0, "digests are the host's work");
    assert_ne!(flags(CKM_RSA_PKCS_PSS) & CKF_SIGN, 0);
    // None is listed that does nothing.
    for kind in list {
        assert_ne!(flags(kind) & !CKF_HW & 0xFFFF_FFFF, 0, "{kind:#x}");
    }
}

#[test]
fn a_lockout_does_not_make_the_right_pin_wrong() {
    // Wrong PINs lock only this token's user, and say so; nobody else's keys suffer.
    let bench = swtpm_tests::Setup::default().config("[pin]\nlimit = 2").start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    for _ in 0..2 {
        assert!(app.login(session, b"wrong-pin").is_err());
    }

    assert_eq!(app.login(session, PIN), Err(Rv(CKR_PIN_LOCKED)));

    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn keys_can_be_made_one_after_the_other_on_three_slots() {
    let (bench, app, session) = logged_in();

    for index in 0..6 {
        app.generate_ec(session, P256, &format!("key {index}")).expect("C_GenerateKeyPair");
    }

    app.finalize().expect("C_Finalize");
    assert!(bench.shim.left().is_nothing());
}

#[test]
fn a_first_run_without_any_configuration_works() {
    let bench = Bench::start();
    let app = bench.app_with(|command| {
        for (name, _) in bench.environment() {
            command.env_remove(name);
        }
    });

    app.initialize().expect("C_Initialize");

    app.slots(true).expect("C_GetSlotList");
    app.info().expect("C_GetInfo");
    app.finalize().expect("C_Finalize");
    assert_eq!(app.noise(), "");
}

#[test]
fn what_another_process_makes_is_found_at_once() {
    let (bench, app, session) = logged_in();
    let (other, its_session) = bench.logged_in();

    other.generate_ec(its_session, P256, "new").expect("C_GenerateKeyPair");

    let found = app.find(session, &[bytes(CKA_LABEL, "new")]).expect("C_FindObjects");
    assert_eq!(found.len(), 2);
}

#[test]
fn attributes_keep_the_rules() {
    let (_bench, app, session) = logged_in();
    let (public, private) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
    let set = |object, attribute| app.set_attributes(session, object, &[attribute]);

    assert!(app.attribute_flag(session, private, CKA_SENSITIVE).expect("a value"));
    for (object, attribute) in [
        (private, flag(CKA_SENSITIVE, false)),
        (private, flag(CKA_EXTRACTABLE, true)),
        (private, number(CKA_CLASS, CKO_DATA)),
        (public, bytes(CKA_EC_POINT, [4; 65])),
        (private, flag(CKA_LOCAL, false)),
    ] {
        let kind = attribute.kind;
        assert_eq!(set(object, attribute), Err(Rv(CKR_ATTRIBUTE_READ_ONLY)), "{kind:#x}");
    }
    let value = app.attributes(session, private, &[CKA_VALUE]);
    assert_eq!(value, (CKR_ATTRIBUTE_SENSITIVE, vec![None]));
    set(private, bytes(CKA_LABEL, "renamed")).expect("a label may change");
    set(private, flag(CKA_SENSITIVE, true)).expect("what it is already");
    // A key does what it is for, and an object that may not change does not.
    let rv = app.decrypt_init(session, CKM_RSA_PKCS, private);
    assert_eq!(rv, Err(Rv(CKR_KEY_TYPE_INCONSISTENT)));
    let derives = [flag(CKA_DERIVE, true), flag(CKA_SIGN, false), flag(CKA_MODIFIABLE, false)];
    let curve = [bytes(CKA_EC_PARAMS, P256)];
    let made = app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &curve, &derives);
    let (_, fixed) = made.expect("C_GenerateKeyPair");
    let rv = app.sign_init(session, CKM_ECDSA, fixed);
    assert_eq!(rv, Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED)));
    assert_eq!(set(fixed, bytes(CKA_LABEL, "renamed")), Err(Rv(CKR_ACTION_PROHIBITED)));
}

#[test]
fn private_objects_are_not_there_while_nobody_is_logged_in() {
    let (_bench, app, session) = logged_in();
    let (public, private) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");

    app.logout(session).expect("C_Logout");

    let (rv, _) = app.attributes(session, private, &[CKA_LABEL]);
    assert_eq!(rv, CKR_OBJECT_HANDLE_INVALID);
    assert_eq!(app.find(session, &[]).expect("C_FindObjects").len(), 1, "the public half");
    assert_eq!(app.attributes(session, public, &[CKA_LABEL]).0, CKR_OK);
}

#[test]
fn what_needs_no_secret_needs_no_login() {
    let (bench, app, session) = logged_in();
    let (_, private) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let signature = app.sign(session, CKM_SHA256_RSA_PKCS, private, b"data").expect("C_Sign");
    app.finalize().expect("C_Finalize");

    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    let public = app.find(session, &[number(CKA_CLASS, CKO_PUBLIC_KEY)]).expect("found")[0];
    app.digest(session, CKM_SHA256, b"data").expect("C_Digest");
    app.verify(session, CKM_SHA256_RSA_PKCS, public, b"data", &signature).expect("C_Verify");
    app.encrypt(session, CKM_RSA_PKCS, public, b"data").expect("C_Encrypt");
    let mut oaep = Mechanism::oaep(CKM_SHA256, CKG_MGF1_SHA256, b"");
    app.encrypt(session, oaep.clone(), public, b"data").expect("C_Encrypt");
    oaep = Mechanism::oaep(CKM_SHA512, CKG_MGF1_SHA1, b"label");
    app.encrypt(session, oaep, public, b"data").expect("C_Encrypt");
}

#[test]
fn operations_of_different_kinds_go_side_by_side() {
    let (_bench, app, session) = logged_in();
    let (_, private) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");

    app.sign_init(session, CKM_ECDSA_SHA256, private).expect("C_SignInit");
    app.sign_update(session, b"da").expect("C_SignUpdate");
    assert_eq!(app.digest(session, CKM_SHA256, b"data").expect("C_Digest").len(), 32);
    assert!(!app.find(session, &[]).expect("C_FindObjects").is_empty());
    app.sign_update(session, b"ta").expect("C_SignUpdate");
    let signature = app.sign_final(session).expect("C_SignFinal");

    let public = app.find(session, &[number(CKA_CLASS, CKO_PUBLIC_KEY)]).expect("found")[0];
    app.verify(session, CKM_ECDSA_SHA256, public, b"data", &signature).expect("C_Verify");
}

#[test]
fn ecdsa_takes_digests_of_any_length() {
    let (_bench, app, session) = logged_in();
    let (public, private) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");

    for length in [1, 20, 28, 31, 32, 33, 48, 64] {
        let digest = vec![0xC3; length];
        let signature = app
            .sign(session, CKM_ECDSA, private, &digest)
            .unwrap_or_else(|rv| panic!("{length} bytes: {rv:?}"));
        app.verify(session, CKM_ECDSA, public, &digest, &signature)
            .unwrap_or_else(|rv| panic!("{length} bytes: {rv:?}"));
    }
}

#[test]
fn a_key_made_without_a_word_is_sensitive_and_says_so() {
    let (_bench, app, session) = logged_in();
    let (_, private) = app
        .generate_pair(session, CKM_EC_KEY_PAIR_GEN, &[bytes(CKA_EC_PARAMS, P256)], &[])
        .expect("C_GenerateKeyPair");

    let is = |kind| app.attribute_flag(session, private, kind).expect("a value");

    assert!(is(CKA_SENSITIVE) && is(CKA_ALWAYS_SENSITIVE));
    assert!(!is(CKA_EXTRACTABLE) && is(CKA_NEVER_EXTRACTABLE));
    assert!(is(CKA_LOCAL) && is(CKA_PRIVATE) && is(CKA_SIGN) && is(CKA_DERIVE));
}

#[test]
fn a_key_made_to_leave_leaves_and_one_made_to_stay_does_not() {
    let (_bench, app, session) = logged_in();
    let wraps = [number(CKA_VALUE_LEN, 32), flag(CKA_WRAP, true), flag(CKA_UNWRAP, true)];
    let by = app.generate_key(session, CKM_AES_KEY_GEN, &wraps).expect("C_GenerateKey");
    for (leaves, expected) in [(true, Ok(())), (false, Err(Rv(CKR_KEY_UNEXTRACTABLE)))] {
        let private = [flag(CKA_PRIVATE, true), flag(CKA_EXTRACTABLE, leaves)];
        let curve = [bytes(CKA_EC_PARAMS, P256)];
        let made = app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &curve, &private);
        let (_, private) = made.expect("C_GenerateKeyPair");
        let wrapped = app.wrap(session, CKM_AES_KEY_WRAP_KWP, by, private);
        assert_eq!(wrapped.map(drop), expected);
    }
}

#[test]
fn a_shared_secret_and_a_keys_authorization_are_never_in_clear_on_the_bus() {
    let (bench, app, session) = logged_in();
    let (public, private) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
    let point = app.attribute(session, public, CKA_EC_POINT).expect("CKA_EC_POINT");
    let ecdh = Mechanism::ecdh(CKD_NULL, &[], &point);

    let (record, secret) = bench.shim.watch(|| {
        app.sign(session, CKM_ECDSA, private, &DIGEST).expect("C_Sign");
        app.derive(session, ecdh, private, &secret_template(false)).expect("C_DeriveKey")
    });

    record.assert_hides(&app.attribute(session, secret, CKA_VALUE).expect("it may be read"));
    for name in ["Sign", "ECDH_ZGen"] {
        let entry = record.0.iter().find(|entry| entry.name == name).expect("it was sent");
        assert!(entry.is_hmac_protected(), "{}", entry.line());
    }
    assert!(record.0.iter().all(|entry| !entry.shows_a_password()), "{}", record.lines());
}

#[test]
fn a_token_has_a_serial_number_of_its_own_and_flags_that_are_true() {
    let bench = Bench::start();
    bench.token();
    bench.token_named("second");
    let app = bench.ready();
    let info =
        |label| app.token_info(app.slot_of(label).expect("the token")).expect("C_GetTokenInfo");

    let (one, two) = (info(LABEL), info("second"));

    assert_ne!(one.serialNumber, two.serialNumber);
    assert_ne!(&one.serialNumber, b"0000000000000000");
    assert!(one.serialNumber.iter().all(u8::is_ascii_hexdigit));
    assert!(one.ulMinPinLen >= 4);
    let set = CKF_TOKEN_INITIALIZED | CKF_USER_PIN_INITIALIZED | CKF_LOGIN_REQUIRED | CKF_RNG;
    assert_eq!(one.flags & set, set, "{:#x}", one.flags);

    let slot = app.empty_slot().expect("an empty slot");
    app.init_token(slot, SO_PIN, "third").expect("C_InitToken");
    let flags = app.token_flags(slot).expect("C_GetTokenInfo");
    assert_eq!(flags & CKF_USER_PIN_INITIALIZED, 0, "before C_InitPIN: {flags:#x}");
}

#[test]
fn a_token_can_be_initialised_again() {
    let (_bench, app, session) = logged_in();
    app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
    let slot = app.slot_of(LABEL).expect("the token");
    app.close_all_sessions(slot).expect("C_CloseAllSessions");

    assert_eq!(app.init_token(slot, b"wrong-so-pin", "again"), Err(Rv(CKR_PIN_INCORRECT)));
    app.init_token(slot, SO_PIN, "again").expect("C_InitToken");

    let session = app.open(slot).expect("the slot keeps its id in this process");
    assert!(app.find(session, &[]).expect("C_FindObjects").is_empty());
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_USER_PIN_NOT_INITIALIZED)));
    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    app.init_pin(session, b"fresh-pin").expect("C_InitPIN");
    app.logout(session).expect("C_Logout");
    app.login(session, b"fresh-pin").expect("C_Login");
}

#[test]
fn a_seed_of_any_length_is_refused_and_none_is_used_by_half() {
    let (_bench, app, session) = logged_in();

    for length in [0, 1, 128, 129, 5000] {
        assert_eq!(
            app.seed_random(session, &vec![7; length]),
            Err(Rv(CKR_RANDOM_SEED_NOT_SUPPORTED)),
            "{length} bytes"
        );
        app.random(session, 32).expect("C_GenerateRandom");
    }
}

#[test]
fn a_mechanism_parameter_may_be_freed_after_init() {
    // The call is made in another process, which frees and reuses its memory after each call; so a
    // parameter that was only pointed to would be something else at C_Sign.
    let (_bench, app, session) = logged_in();
    let (public, private) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let pss = Mechanism::pss(CKM_SHA256_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, 20);

    app.sign_init(session, pss.clone(), private).expect("C_SignInit");
    for _ in 0..10 {
        let noise = vec![number(CKA_CLASS, u64::MAX); 3];
        let _ = app.find(session, &noise);
    }
    let signature = app.sign_now(session, b"data").expect("C_Sign");

    app.verify(session, pss, public, b"data", &signature).expect("C_Verify");
}

#[test]
fn initialising_again_with_other_locks_works() {
    let bench = Bench::start();
    bench.token();
    let app = bench.app();

    for flags in [0, CKF_OS_LOCKING_OK, 0, CKF_OS_LOCKING_OK] {
        app.initialize_with(flags).expect("C_Initialize");
        app.finalize().expect("C_Finalize");
        app.initialize().expect("C_Initialize");
        assert_eq!(app.initialize(), Err(Rv(CKR_CRYPTOKI_ALREADY_INITIALIZED)));
        app.finalize().expect("C_Finalize");
    }
}

#[test]
fn sessions_may_open_and_close_in_many_threads() {
    let (_bench, app, _) = logged_in();
    let slot = app.slot_of(LABEL).expect("the token");

    std::thread::scope(|scope| {
        for _ in 0..8 {
            let ck = app.thread();
            scope.spawn(move || {
                for _ in 0..100 {
                    let session = ck.open(slot).expect("C_OpenSession");
                    ck.session_info(session).expect("C_GetSessionInfo");
                    ck.digest(session, CKM_SHA256, b"data").expect("C_Digest");
                    ck.close_session(session).expect("C_CloseSession");
                    assert!(ck.session_info(session).is_err());
                }
            });
        }
    });
}

#[test]
fn a_data_object_that_is_set_has_the_new_value() {
    let (bench, app, session) = logged_in();
    let data = app
        .create_object(
            session,
            &[
                number(CKA_CLASS, CKO_DATA),
                flag(CKA_TOKEN, true),
                flag(CKA_PRIVATE, true),
                bytes(CKA_LABEL, "note"),
                bytes(CKA_VALUE, "the old value of it"),
            ],
        )
        .expect("C_CreateObject");

    app.set_attributes(session, data, &[bytes(CKA_VALUE, "the new value of it")])
        .expect("C_SetAttributeValue");

    let value = app.attribute(session, data, CKA_VALUE).expect("CKA_VALUE");
    assert_eq!(value, b"the new value of it");
    app.finalize().expect("C_Finalize");
    let store = store_bytes(&bench);
    assert!(!contains(&store, b"value of it"), "private data is sealed");
    let (app, session) = bench.logged_in();
    let found = app.find(session, &[bytes(CKA_LABEL, "note")]).expect("C_FindObjects");
    let value = app.attribute(session, found[0], CKA_VALUE).expect("CKA_VALUE");
    assert_eq!(value, b"the new value of it");
}

#[test]
fn wrong_padding_cannot_be_told_from_right_padding() {
    // PKCS#1 v1.5: implicit rejection. What was altered decrypts to something, the same each time.
    let (_bench, app, session) = logged_in();
    let (public, private) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let sealed = app.encrypt(session, CKM_RSA_PKCS, public, b"text").expect("C_Encrypt");

    for index in [1, 100, 255] {
        let mut altered = sealed.clone();
        altered[index] ^= 0x01;
        let first = app.decrypt(session, CKM_RSA_PKCS, private, &altered);
        assert!(first.is_ok(), "{first:?}");
        assert_ne!(first, Ok(b"text".to_vec()));
        assert_eq!(app.decrypt(session, CKM_RSA_PKCS, private, &altered), first);
    }
}

#[test]
fn pss_takes_any_hash_and_salt() {
    let (_bench, app, session) = logged_in();
    let (public, private) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let digests = [
        (CKM_SHA_1, CKG_MGF1_SHA1, 20),
        (CKM_SHA224, CKG_MGF1_SHA224, 28),
        (CKM_SHA256, CKG_MGF1_SHA256, 32),
        (CKM_SHA384, CKG_MGF1_SHA384, 48),
        (CKM_SHA512, CKG_MGF1_SHA512, 64),
    ];

    for (hash, mgf, length) in digests {
        for salt in [0, length, 100] {
            let pss = Mechanism::pss(CKM_RSA_PKCS_PSS, hash, mgf, salt);
            let digest = vec![9; length as usize];
            let signature = app
                .sign(session, pss.clone(), private, &digest)
                .unwrap_or_else(|rv| panic!("{hash:#x} salt {salt}: {rv:?}"));
            app.verify(session, pss, public, &digest, &signature)
                .unwrap_or_else(|rv| panic!("{hash:#x} salt {salt}: {rv:?}"));
        }
    }
}

#[test]
fn the_store_is_the_users_alone_and_can_be_read_without_writing() {
    use std::os::unix::fs::PermissionsExt;
    let (bench, app, session) = logged_in();
    let (_, _) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
    app.finalize().expect("C_Finalize");

    let mode = |path: &std::path::Path| {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    };
    assert_eq!(mode(&bench.store()), 0o700);
    for entry in std::fs::read_dir(bench.store()).expect("the store") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }

    // Another user, who may read but not write. (Root may always.)
    if !rustix::process::geteuid().is_root() {
        return;
    }
    bench.open_to_all();
    set_mode(&bench.store(), 0o755);
    for entry in std::fs::read_dir(bench.store()).expect("the store") {
        set_mode(&entry.expect("an entry").path(), 0o644);
    }
    let app = bench.app_as_nobody();
    app.initialize().expect("C_Initialize");
    let slot = app.slot_of(LABEL).expect("the token");
    let flags = app.token_flags(slot).expect("C_GetTokenInfo");
    assert_ne!(flags & CKF_WRITE_PROTECTED, 0);
    let session = app.open_session(slot, 0).expect("a read-only session");
    app.login(session, PIN).expect("C_Login");
    let wanted = [number(CKA_CLASS, CKO_PRIVATE_KEY)];
    let key = app.find(session, &wanted).expect("C_FindObjects")[0];
    app.sign(session, CKM_ECDSA, key, &DIGEST).expect("it signs");
    assert_eq!(app.open(slot), Err(Rv(CKR_TOKEN_WRITE_PROTECTED)));
    app.raw("C_Finalize", vec![Argument::NULL]);
}

/// A secret key of 32 bytes that somebody brings along.
fn brought(app: &App, session: u64, more: &[swtpm_tests::Attribute]) -> u64 {
    let own = [
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, CKK_AES),
        bytes(CKA_VALUE, *b"bytes that somebody brings along"),
    ];
    app.create_object(session, &[&own[..], more].concat()).expect("C_CreateObject")
}

#[test]
fn padded_cbc_decrypts_what_is_longer_than_a_block() {
    let (_bench, app, session) = logged_in();
    let key = brought(&app, session, &[]);
    let cbc = || Mechanism::bytes(CKM_AES_CBC_PAD, &[7; 16]);
    for length in [0, 15, 16, 31, 32, 33, 1023, 1024, 5000] {
        let data = vec![0x42; length];
        let sealed = app.encrypt(session, cbc(), key, &data).expect("C_Encrypt");
        let outside = swtpm_tests::openssl::aes(
            "CBC",
            false,
            true,
            b"bytes that somebody brings along",
            &[7; 16],
            &sealed,
        );
        assert_eq!(outside.as_deref(), Some(&data[..]), "{length}");
        assert_eq!(app.decrypt(session, cbc(), key, &sealed), Ok(data), "{length}");
    }
}

#[test]
fn stream_modes_take_any_length() {
    let (_bench, app, session) = logged_in();
    let key = brought(&app, session, &[]);
    let modes = [
        Mechanism::counter(64, [3; 16]),
        Mechanism::bytes(CKM_AES_CFB128, &[3; 16]),
        Mechanism::bytes(CKM_AES_CFB8, &[3; 16]),
        Mechanism::bytes(CKM_AES_OFB, &[3; 16]),
    ];
    for mode in modes {
        for length in [1, 15, 17, 33] {
            let data = vec![0x42; length];
            let sealed = app.encrypt(session, mode.clone(), key, &data).expect("C_Encrypt");
            assert_eq!(sealed.len(), length);
            assert_eq!(app.decrypt(session, mode.clone(), key, &sealed), Ok(data), "{length}");
        }
    }
}

#[test]
fn a_secret_key_that_was_brought_in_works_is_not_read_and_is_there_in_the_next_process() {
    let (bench, app, session) = logged_in();
    let key = brought(&app, session, &[flag(CKA_TOKEN, true), flag(CKA_SENSITIVE, true)]);
    let sealed = app.encrypt(session, CKM_AES_ECB, key, &[0; 16]).expect("it is usable");
    let expected = swtpm_tests::openssl::aes_ecb(b"bytes that somebody brings along", &[0; 16]);
    assert_eq!(sealed, expected);
    let value = app.attribute(session, key, CKA_VALUE);
    assert_eq!(value, Err(Rv(CKR_ATTRIBUTE_SENSITIVE)));
    app.finalize().expect("C_Finalize");

    let (app, session) = bench.logged_in();
    let found = app.find(session, &[number(CKA_CLASS, CKO_SECRET_KEY)]).expect("C_FindObjects");
    assert_eq!(app.encrypt(session, CKM_AES_ECB, found[0], &[0; 16]), Ok(expected.to_vec()));
    assert_eq!(app.attribute(session, found[0], CKA_VALUE), Err(Rv(CKR_ATTRIBUTE_SENSITIVE)));
    assert!(!contains(&store_bytes(&bench), b"bytes that somebody brings along"));
}

#[test]
fn what_is_listed_as_making_keys_makes_them() {
    let (_bench, app, session) = logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let list = app.mechanisms(slot).expect("C_GetMechanismList");
    let makes = |kind: &u64| {
        let info = app.mechanism_info(slot, *kind).expect("C_GetMechanismInfo");
        info.flags & CKF_GENERATE != 0
    };
    let generators: Vec<u64> = list.into_iter().filter(makes).collect();
    assert!(generators.contains(&CKM_AES_KEY_GEN) && generators.len() > 2, "{generators:x?}");
    for kind in generators.into_iter().filter(|kind| *kind != CKM_PKCS5_PBKD2) {
        app.generate_key(session, kind, &[number(CKA_VALUE_LEN, 32)])
            .or_else(|_| {
                // One that makes keys of several types is told which.
                let which = [number(CKA_VALUE_LEN, 32), number(CKA_KEY_TYPE, CKK_HKDF)];
                app.generate_key(session, kind, &which)
            })
            .unwrap_or_else(|rv| panic!("{kind:#x}: {rv:?}"));
    }
}
