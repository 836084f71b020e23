//! Sessions, their states, and the operations in them.

use std::time::{Duration, Instant};

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN};
use swtpm_tests::ck::{P256, Rv, bytes, flag, number};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::{Bench, Ck, wire};

const DIGEST: [u8; 32] = [0x5A; 32];

fn data_object(label: &str, token: bool) -> Vec<swtpm_tests::Attribute> {
    vec![
        number(CKA_CLASS, CKO_DATA),
        flag(CKA_TOKEN, token),
        flag(CKA_PRIVATE, false),
        bytes(CKA_LABEL, label),
        bytes(CKA_VALUE, "value"),
    ]
}

/// C_Sign with a buffer of `room` bytes, none if `None`: the CK_RV and the length told.
fn sign_into(app: &Ck, session: u64, data: &[u8], room: Option<usize>) -> (u64, u64) {
    let buffer = room.map_or(Argument::NULL, |room| Memory::room(room).into());
    let (rv, arguments) = app.raw(
        "C_Sign",
        vec![
            session.into(),
            Memory::of(data).into(),
            Argument::Word(data.len() as u64),
            buffer,
            Memory::word(room.unwrap_or(0) as u64).into(),
        ],
    );
    (rv, arguments[4].memory().word_at(0))
}

#[test]
fn a_session_has_the_state_that_login_and_flags_give_it() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    assert_eq!(
        app.raw("C_OpenSession", {
            let session = Memory::room(8);
            vec![slot.into(), CKF_RW_SESSION.into(), Argument::NULL, Argument::NULL, session.into()]
        })
        .0,
        CKR_SESSION_PARALLEL_NOT_SUPPORTED
    );
    let read_only = app.open_session(slot, 0).expect("C_OpenSession");
    let read_write = app.open(slot).expect("C_OpenSession");
    let states = || [read_only, read_write].map(|one| app.session_info(one).expect("info").state);
    assert_eq!(states(), [CKS_RO_PUBLIC_SESSION, CKS_RW_PUBLIC_SESSION]);
    app.login(read_only, PIN).expect("C_Login");
    assert_eq!(states(), [CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS]);
    app.logout(read_write).expect("C_Logout");
    assert_eq!(states(), [CKS_RO_PUBLIC_SESSION, CKS_RW_PUBLIC_SESSION]);
    let info = app.session_info(read_write).expect("info");
    assert_eq!(info.flags, CKF_SERIAL_SESSION | CKF_RW_SESSION);
    assert_eq!(info.slotID, slot);
    let token = app.token_info(slot).expect("C_GetTokenInfo");
    assert_eq!((token.ulSessionCount, token.ulRwSessionCount), (2, 1));
    assert_eq!((token.ulMaxSessionCount, token.ulMaxRwSessionCount), (0, 0), "no limit");
}

#[test]
fn a_read_only_session_makes_session_objects_alone() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    let session = app.open_session(slot, 0).expect("C_OpenSession");
    app.login(session, PIN).expect("C_Login");
    let read_only = Err(Rv(CKR_SESSION_READ_ONLY));
    assert_eq!(app.create_object(session, &data_object("a", true)).map(drop), read_only);
    assert_eq!(app.generate_ec(session, P256, "a").map(drop), read_only);
    let object = app.create_object(session, &data_object("a", false)).expect("C_CreateObject");
    assert_eq!(app.copy_object(session, object, &[flag(CKA_TOKEN, true)]).map(drop), read_only);
    app.set_attributes(session, object, &[bytes(CKA_LABEL, "b")]).expect("C_SetAttributeValue");
    app.destroy_object(session, object).expect("C_DestroyObject");
    app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &[bytes(CKA_EC_PARAMS, P256)], &[])
        .expect("a session key pair");

    let writer = app.open(slot).expect("C_OpenSession");
    let object = app.create_object(writer, &data_object("t", true)).expect("C_CreateObject");
    assert_eq!(app.destroy_object(session, object), read_only);
    assert_eq!(app.set_attributes(session, object, &[bytes(CKA_LABEL, "u")]), read_only);
}

#[test]
fn closing_a_session_destroys_what_it_made_and_no_more() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let other = app.open(slot).expect("C_OpenSession");
    let mine = app.create_object(session, &data_object("mine", false)).expect("C_CreateObject");
    let theirs = app.create_object(other, &data_object("theirs", false)).expect("C_CreateObject");
    app.attribute(other, mine, CKA_LABEL).expect("all sessions see it");
    app.close_session(session).expect("C_CloseSession");
    assert_eq!(app.attribute(other, mine, CKA_LABEL).map(drop), Err(Rv(CKR_OBJECT_HANDLE_INVALID)));
    app.attribute(other, theirs, CKA_LABEL).expect("the other's lives on");
    assert_eq!(app.session_info(session).map(drop), Err(Rv(CKR_SESSION_HANDLE_INVALID)));
    assert_eq!(app.close_session(session), Err(Rv(CKR_SESSION_HANDLE_INVALID)));
}

#[test]
fn a_session_key_leaves_nothing_on_the_disk_and_nothing_in_the_tpm() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (public, private) = app
        .generate_pair(session, CKM_EC_KEY_PAIR_GEN, &[bytes(CKA_EC_PARAMS, P256)], &[])
        .expect("C_GenerateKeyPair");
    assert!(!app.attribute_flag(session, private, CKA_TOKEN).expect("CKA_TOKEN"));
    let signature = app.sign(session, CKM_ECDSA, private, &DIGEST).expect("C_Sign");
    app.verify(session, CKM_ECDSA, public, &DIGEST, &signature).expect("C_Verify");
    app.finalize().expect("C_Finalize");
    assert!(bench.shim.settled(Duration::from_secs(10)).is_nothing());
    let (app, session) = bench.logged_in();
    assert!(app.find(session, &[]).expect("C_FindObjects").is_empty());
}

#[test]
fn a_length_query_and_a_small_buffer_cost_nothing_and_an_error_ends_the_operation() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
    let (record, _) = bench.shim.watch(|| {
        assert_eq!(sign_into(&app, session, &DIGEST, None), (CKR_OK, 64));
        assert_eq!(sign_into(&app, session, &DIGEST, Some(63)), (CKR_BUFFER_TOO_SMALL, 64));
        assert_eq!(sign_into(&app, session, &DIGEST, None), (CKR_OK, 64));
    });
    assert_eq!(record.sent(), 0, "{}", record.lines());
    assert_eq!(sign_into(&app, session, &DIGEST, Some(64)), (CKR_OK, 64));
    assert_eq!(sign_into(&app, session, &DIGEST, Some(64)).0, CKR_OPERATION_NOT_INITIALIZED);

    app.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
    let (rv, _) = app.raw(
        "C_Sign",
        vec![session.into(), Argument::NULL, 32u64.into(), Argument::NULL, Argument::NULL],
    );
    assert_eq!(rv, CKR_ARGUMENTS_BAD);
    assert_eq!(sign_into(&app, session, &DIGEST, Some(64)).0, CKR_OPERATION_NOT_INITIALIZED);
}

#[test]
fn operations_of_different_kinds_run_side_by_side_and_two_of_one_kind_do_not() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (public, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.sign_init(session, CKM_ECDSA_SHA256, private).expect("C_SignInit");
    assert_eq!(app.sign_init(session, CKM_ECDSA, private), Err(Rv(CKR_OPERATION_ACTIVE)));
    app.sign_update(session, b"one ").expect("C_SignUpdate");
    let digest = app.digest(session, CKM_SHA256, b"one two").expect("a digest between");
    assert_eq!(app.find(session, &[bytes(CKA_LABEL, "key")]).expect("a search between").len(), 2);
    app.sign_update(session, b"two").expect("C_SignUpdate");
    let signature = app.sign_final(session).expect("C_SignFinal");
    app.verify(session, CKM_ECDSA, public, &digest, &signature).expect("it was undisturbed");
}

#[test]
fn a_session_cancel_ends_what_its_flags_name_and_nothing_else() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
    let cancel = |flags: u64| app.raw("C_SessionCancel", vec![session.into(), flags.into()]).0;
    assert_eq!(cancel(0), CKR_OK);
    assert_eq!(cancel(CKF_DIGEST | CKF_VERIFY | CKF_FIND_OBJECTS), CKR_OK);
    assert_eq!(sign_into(&app, session, &DIGEST, None), (CKR_OK, 64), "still there");
    assert_eq!(cancel(CKF_SIGN), CKR_OK);
    assert_eq!(sign_into(&app, session, &DIGEST, None).0, CKR_OPERATION_NOT_INITIALIZED);
}

#[test]
fn a_signature_that_waits_for_the_tpm_is_canceled_from_another_thread() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.sign(session, CKM_ECDSA, private, &DIGEST).expect("C_Sign");
    bench.shim.inject(Fault::at(wire::SIGN, Action::Silence));
    let signer = app.thread();
    let waiting = std::thread::spawn(move || {
        signer.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
        signer.sign_now(session, &DIGEST)
    });
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    let (rv, _) = app.raw("C_SessionCancel", vec![session.into(), CKF_SIGN.into()]);
    assert_eq!(rv, CKR_OK);
    assert_eq!(waiting.join().expect("the thread ends"), Err(Rv(CKR_FUNCTION_CANCELED)));
    assert!(begun.elapsed() < Duration::from_secs(5));
    bench.shim.heal();
    app.sign(session, CKM_ECDSA, private, &DIGEST).expect("the session works on");
}

#[test]
fn what_needs_no_tpm_does_not_wait_for_a_thread_that_does() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let other = app.open(slot).expect("C_OpenSession");
    let (public, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    let signature = app.sign(session, CKM_ECDSA, private, &DIGEST).expect("C_Sign");
    let pause = Duration::from_secs(4);
    bench.shim.inject(Fault::at(wire::SIGN, Action::Delay(pause)));
    let signer = app.thread();
    let begun = Instant::now();
    let waiting = std::thread::spawn(move || signer.sign(session, CKM_ECDSA, private, &DIGEST));
    std::thread::sleep(Duration::from_millis(300));

    app.verify(other, CKM_ECDSA, public, &DIGEST, &signature).expect("C_Verify");
    app.digest(other, CKM_SHA256, b"data").expect("C_Digest");
    assert_eq!(app.find(other, &[bytes(CKA_LABEL, "key")]).expect("C_FindObjects").len(), 2);
    app.attribute(other, public, CKA_EC_POINT).expect("C_GetAttributeValue");
    app.token_info(slot).expect("C_GetTokenInfo");
    app.session_info(session).expect("C_GetSessionInfo of the busy session");
    let handle = app.create_object(other, &data_object("d", true)).expect("C_CreateObject");
    app.destroy_object(other, handle).expect("C_DestroyObject");
    assert!(begun.elapsed() < pause, "{:?}", begun.elapsed());
    waiting.join().expect("the thread ends").expect("C_Sign");
}

#[test]
fn verifying_needs_no_login_and_no_tpm() {
    let bench = Bench::start();
    bench.token();
    let signature = {
        let (app, session) = bench.logged_in();
        let (_, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
        app.sign(session, CKM_ECDSA, private, &DIGEST).expect("C_Sign")
    };
    let app = bench.ready();
    let session = app.open_session(app.slot_of(LABEL).expect("the token"), 0).expect("a session");
    let (record, _) = bench.shim.watch(|| {
        let found = app.find(session, &[bytes(CKA_LABEL, "key")]).expect("C_FindObjects");
        assert_eq!(found.len(), 1);
        app.verify(session, CKM_ECDSA, found[0], &DIGEST, &signature).expect("C_Verify");
        let mut wrong = signature.clone();
        wrong[40] ^= 1;
        assert_eq!(
            app.verify(session, CKM_ECDSA, found[0], &DIGEST, &wrong),
            Err(Rv(CKR_SIGNATURE_INVALID))
        );
    });
    assert_eq!(record.sent(), 0, "{}", record.lines());
}

#[test]
fn handles_of_another_life_are_no_handles_now() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let (public, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.finalize().expect("C_Finalize");
    assert_eq!(app.session_info(session).map(drop), Err(Rv(CKR_CRYPTOKI_NOT_INITIALIZED)));
    app.initialize().expect("C_Initialize");
    assert_eq!(app.session_info(session).map(drop), Err(Rv(CKR_SESSION_HANDLE_INVALID)));
    let session = app.open(slot).expect("C_OpenSession");
    app.login(session, PIN).expect("C_Login");
    let found = app.find(session, &[]).expect("C_FindObjects");
    assert_eq!(found.len(), 2);
    for old in [public, private] {
        assert!(!found.contains(&old));
        assert_eq!(
            app.attribute(session, old, CKA_LABEL).map(drop),
            Err(Rv(CKR_OBJECT_HANDLE_INVALID))
        );
    }
}

#[test]
fn an_object_of_another_slot_is_no_object_here() {
    let bench = Bench::start();
    bench.token();
    bench.token_named("other");
    let (app, session) = bench.logged_in();
    let object = app.create_object(session, &data_object("here", true)).expect("C_CreateObject");
    let elsewhere = app.open(app.slot_of("other").expect("the token")).expect("C_OpenSession");
    assert_eq!(
        app.attribute(elsewhere, object, CKA_LABEL).map(drop),
        Err(Rv(CKR_OBJECT_HANDLE_INVALID))
    );
    assert_eq!(app.sign_init(elsewhere, CKM_ECDSA, object), Err(Rv(CKR_KEY_HANDLE_INVALID)));
}

#[test]
fn a_finished_decryption_waits_for_a_buffer_that_is_large_enough() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (public, private) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let secret = [0x42; 48];
    let sealed = app.encrypt(session, CKM_RSA_PKCS, public, &secret).expect("C_Encrypt");
    let decrypt = |room: usize| {
        let (rv, arguments) = app.raw(
            "C_Decrypt",
            vec![
                session.into(),
                Memory::of(sealed.as_slice()).into(),
                Argument::Word(sealed.len() as u64),
                Memory::room(room).into(),
                Memory::word(room as u64).into(),
            ],
        );
        let length = arguments[4].memory().word_at(0) as usize;
        (rv, length, arguments[3].memory().bytes.clone())
    };
    app.decrypt_init(session, CKM_RSA_PKCS, private).expect("C_DecryptInit");
    let (record, _) = bench.shim.watch(|| {
        let (rv, length, untouched) = decrypt(47);
        assert_eq!((rv, length), (CKR_BUFFER_TOO_SMALL, 48));
        assert_eq!(untouched, Memory::room(47).bytes);
        assert_eq!(decrypt(48), (CKR_OK, 48, secret.to_vec()), "a TLS premaster secret fits");
    });
    assert_eq!(record.count(wire::RSA_DECRYPT), 1, "{}", record.lines());
    assert_eq!(decrypt(48).0, CKR_OPERATION_NOT_INITIALIZED);
}

#[test]
fn no_operation_can_be_saved_and_no_saved_one_restored() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    let save = || {
        let arguments = vec![session.into(), Memory::room(64).into(), Memory::word(64).into()];
        app.raw("C_GetOperationState", arguments).0
    };
    assert_eq!(save(), CKR_OPERATION_NOT_INITIALIZED);
    app.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
    assert_eq!(save(), CKR_STATE_UNSAVEABLE);
    let restore =
        vec![session.into(), Memory::of([1; 32]).into(), 32u64.into(), 0u64.into(), 0u64.into()];
    assert_eq!(app.raw("C_SetOperationState", restore).0, CKR_SAVED_STATE_INVALID);
    assert_eq!(app.sign_now(session, &DIGEST).expect("undisturbed").len(), 64);
}

#[test]
fn a_session_may_be_closed_while_another_thread_uses_it() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let keeper = app.open(slot).expect("a session that keeps the login");
    let (_, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    for _ in 0..20 {
        let session = app.open(slot).expect("C_OpenSession");
        let signer = app.thread();
        let at_work = std::thread::spawn(move || {
            loop {
                if let Err(rv) = signer.sign(session, CKM_ECDSA, private, &DIGEST) {
                    return rv;
                }
            }
        });
        std::thread::sleep(Duration::from_millis(7));
        app.close_session(session).expect("C_CloseSession");
        let end = at_work.join().expect("the thread ends");
        assert!(end == CKR_SESSION_CLOSED || end == CKR_SESSION_HANDLE_INVALID, "{end:?}");
    }
    app.sign(keeper, CKM_ECDSA, private, &DIGEST).expect("the others go on");
}

#[test]
fn a_context_login_is_for_the_last_operation_begun_in_its_session() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let other = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    let careful = |session| {
        app.generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256)],
            &[flag(CKA_TOKEN, true), flag(CKA_ALWAYS_AUTHENTICATE, true)],
        )
        .expect("C_GenerateKeyPair")
        .1
    };
    let key = careful(session);
    let context = |session| app.login_as(session, CKU_CONTEXT_SPECIFIC, PIN);
    app.sign_init(session, CKM_ECDSA, key).expect("C_SignInit");
    app.sign_init(other, CKM_ECDSA, key).expect("C_SignInit");
    context(session).expect("C_Login");
    assert_eq!(app.sign_now(other, &DIGEST), Err(Rv(CKR_USER_NOT_LOGGED_IN)), "not this one's");
    app.sign_now(session, &DIGEST).expect("this one's");

    app.sign_init(session, CKM_ECDSA, key).expect("C_SignInit");
    app.digest(session, CKM_SHA256, b"begun and ended").expect("C_Digest");
    assert_eq!(context(session), Err(Rv(CKR_OPERATION_NOT_INITIALIZED)), "the last was a digest");
}

#[test]
fn the_session_tells_the_tpms_last_response_code() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let told = || app.session_info(session).expect("C_GetSessionInfo").ulDeviceError;
    assert_eq!(told(), 0);
    let (_, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    // TPM_RC_SCHEME: our mistake, or a chip's.
    bench.shim.inject(Fault::at(wire::SIGN, Action::Answer(0x192)).always());
    assert!(app.sign(session, CKM_ECDSA, private, &DIGEST).is_err());
    bench.shim.heal();
    assert_eq!(told(), 0x192);
}
