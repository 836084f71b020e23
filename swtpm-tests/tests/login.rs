//! Who may do what: logins, PINs and their tries, the SO, tokens without PIN, initialising anew.

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN};
use swtpm_tests::ck::{P256, Rv, bytes, flag};
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::{App, Bench, Setup};

const USER_FLAGS: u64 = CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED;
const SO_FLAGS: u64 = CKF_SO_PIN_COUNT_LOW | CKF_SO_PIN_FINAL_TRY | CKF_SO_PIN_LOCKED;

/// An application with a read-write session, nobody logged in.
fn opened(bench: &Bench) -> (App, u64, u64) {
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    let session = app.open(slot).expect("C_OpenSession");
    (app, slot, session)
}

fn pin_flags(app: &App, slot: u64) -> u64 {
    app.token_flags(slot).expect("C_GetTokenInfo") & (USER_FLAGS | SO_FLAGS)
}

#[test]
fn wrong_pins_count_one_each_until_the_so_unlocks_and_the_tpm_wide_counter_stays_zero() {
    let bench = Setup::default().config("[pin]\nlimit = 3").start();
    bench.token();
    let (app, slot, session) = opened(&bench);
    assert_eq!(pin_flags(&app, slot), 0);

    for flags in [
        CKF_USER_PIN_COUNT_LOW,
        CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY,
        CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_LOCKED,
    ] {
        let answer = app.login(session, b"not the PIN");
        assert!(
            [Err(Rv(CKR_PIN_INCORRECT)), Err(Rv(CKR_PIN_LOCKED))].contains(&answer),
            "{answer:?}"
        );
        assert_eq!(pin_flags(&app, slot), flags, "{answer:?}");
    }
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_PIN_LOCKED)), "the right one is too late");
    assert_eq!(bench.shim.lockout_counter(), 0);

    app.login_so(session, SO_PIN).expect("the SO is not locked");
    app.init_pin(session, b"another").expect("C_InitPIN");
    assert_eq!(pin_flags(&app, slot), 0);
    app.logout(session).expect("C_Logout");
    app.login(session, b"another").expect("unlocked");
    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn a_right_pin_takes_the_count_back_and_other_processes_see_the_flags() {
    let bench = Bench::start();
    bench.token();
    let (app, slot, session) = opened(&bench);
    let other = bench.ready();

    assert_eq!(app.login(session, b"not the PIN"), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(pin_flags(&app, slot), CKF_USER_PIN_COUNT_LOW);
    assert_eq!(pin_flags(&other, slot), CKF_USER_PIN_COUNT_LOW);
    app.login(session, PIN).expect("C_Login");
    assert_eq!(pin_flags(&app, slot), 0);
    assert_eq!(pin_flags(&other, slot), 0);
}

#[test]
fn looking_asks_the_tpm_nothing() {
    let bench = Bench::start();
    bench.token();
    let (record, _) = bench.shim.watch(|| {
        let app = bench.ready();
        for slot in app.slots(true).expect("C_GetSlotList") {
            app.slot_info(slot).expect("C_GetSlotInfo");
            app.token_info(slot).expect("C_GetTokenInfo");
            for mechanism in app.mechanisms(slot).expect("C_GetMechanismList") {
                app.mechanism_info(slot, mechanism).expect("C_GetMechanismInfo");
            }
        }
        let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
        app.session_info(session).expect("C_GetSessionInfo");
        app.find(session, &[]).expect("C_FindObjects");
        app.finalize().expect("C_Finalize");
    });
    assert_eq!(record.sent(), 0, "{}", record.lines());
}

#[test]
fn what_cannot_succeed_is_refused_without_a_try_and_without_a_command() {
    let bench = Bench::start();
    bench.token();
    let (app, slot, session) = opened(&bench);
    app.login(session, PIN).expect("C_Login");

    let (record, _) = bench.shim.watch(|| {
        assert_eq!(app.login(session, b"wrong"), Err(Rv(CKR_USER_ALREADY_LOGGED_IN)));
        assert_eq!(app.login_so(session, b"wrong"), Err(Rv(CKR_USER_ANOTHER_ALREADY_LOGGED_IN)));
        assert_eq!(app.login_as(session, 77, PIN), Err(Rv(CKR_USER_TYPE_INVALID)));
        assert_eq!(
            app.login_as(session, CKU_CONTEXT_SPECIFIC, PIN),
            Err(Rv(CKR_OPERATION_NOT_INITIALIZED))
        );
        app.logout(session).expect("C_Logout");
        assert_eq!(app.logout(session), Err(Rv(CKR_USER_NOT_LOGGED_IN)));
        for pin in [&b""[..], b"abc", &[b'x'; 256]] {
            assert_eq!(app.login(session, pin), Err(Rv(CKR_PIN_LEN_RANGE)));
            assert_eq!(app.login_so(session, pin), Err(Rv(CKR_PIN_LEN_RANGE)));
            assert_eq!(app.set_pin(session, PIN, pin), Err(Rv(CKR_PIN_LEN_RANGE)));
        }
        assert_eq!(app.init_pin(session, b"0000"), Err(Rv(CKR_USER_NOT_LOGGED_IN)));
        let read_only = app.open_session(slot, 0).expect("C_OpenSession");
        assert_eq!(app.login_so(session, SO_PIN), Err(Rv(CKR_SESSION_READ_ONLY_EXISTS)));
        assert_eq!(app.set_pin(read_only, PIN, b"0000"), Err(Rv(CKR_SESSION_READ_ONLY)));
    });
    assert_eq!(record.sent(), 0, "{}", record.lines());
    assert_eq!(pin_flags(&app, slot), 0);
}

#[test]
fn pins_are_any_bytes_and_compared_to_the_last() {
    let bench = Bench::start();
    bench.token();
    let (app, _, session) = opened(&bench);
    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    for pin in [&[0u8, 0, 0, 0][..], &[0xFF; 255], &[b'a', 0, b'b', 0], "Grüße".as_bytes()] {
        app.init_pin(session, pin).expect("C_InitPIN");
        app.logout(session).expect("C_Logout");
        let mut almost = pin.to_vec();
        *almost.last_mut().expect("a byte") ^= 1;
        assert_eq!(app.login(session, &almost), Err(Rv(CKR_PIN_INCORRECT)));
        app.login(session, pin).expect("C_Login");
        app.logout(session).expect("C_Logout");
        app.login_so(session, SO_PIN).expect("C_Login(SO)");
    }
}

#[test]
fn the_user_changes_the_pin_and_the_old_one_is_dead_at_once() {
    let bench = Bench::start();
    bench.token();
    let (app, slot, session) = opened(&bench);

    assert_eq!(app.set_pin(session, b"not it", b"new-PIN"), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(pin_flags(&app, slot), CKF_USER_PIN_COUNT_LOW, "a wrong old PIN is a try");
    app.set_pin(session, PIN, b"new-PIN").expect("in a public session");
    app.login(session, b"new-PIN").expect("the new one");
    app.set_pin(session, b"new-PIN", b"newer-PIN").expect("logged in");
    app.logout(session).expect("C_Logout");
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(app.login(session, b"new-PIN"), Err(Rv(CKR_PIN_INCORRECT)));
    app.login(session, b"newer-PIN").expect("the newest");
}

#[test]
fn the_so_changes_the_sos_own_pin() {
    let bench = Bench::start();
    bench.token();
    let (app, _, session) = opened(&bench);
    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    app.set_pin(session, SO_PIN, b"so-new-PIN").expect("C_SetPIN");
    app.logout(session).expect("C_Logout");
    assert_eq!(app.login_so(session, SO_PIN), Err(Rv(CKR_PIN_INCORRECT)));
    app.login_so(session, b"so-new-PIN").expect("C_Login(SO)");
    app.init_pin(session, b"user-new").expect("it still rules over the user's PIN");
    app.logout(session).expect("C_Logout");
    app.login(session, b"user-new").expect("C_Login");
}

#[test]
fn a_user_without_a_pin_yet_cannot_log_in() {
    let bench = Bench::start();
    let app = bench.ready();
    let slot = app.empty_slot().expect("an empty slot");
    app.init_token(slot, SO_PIN, LABEL).expect("C_InitToken");
    let flags = app.token_flags(slot).expect("C_GetTokenInfo");
    assert_eq!(flags & CKF_USER_PIN_INITIALIZED, 0);
    assert_ne!(flags & CKF_TOKEN_INITIALIZED, 0);
    let session = app.open(slot).expect("C_OpenSession");
    let (record, _) = bench.shim.watch(|| {
        assert_eq!(app.login(session, PIN), Err(Rv(CKR_USER_PIN_NOT_INITIALIZED)));
    });
    assert_eq!(record.sent(), 0, "{}", record.lines());
}

#[test]
fn the_so_is_alone_with_read_write_sessions_and_sees_no_private_object() {
    let bench = Bench::start();
    bench.token();
    {
        let (app, session) = bench.logged_in();
        app.generate_ec(session, P256, "pair").expect("C_GenerateKeyPair");
    }
    let (app, slot, session) = opened(&bench);
    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    assert_eq!(app.session_info(session).expect("info").state, CKS_RW_SO_FUNCTIONS);
    assert_eq!(app.open_session(slot, 0), Err(Rv(CKR_SESSION_READ_WRITE_SO_EXISTS)));
    let found = app.find(session, &[]).expect("C_FindObjects");
    assert_eq!(found.len(), 1, "the public key");
    assert!(!app.attribute_flag(session, found[0], CKA_PRIVATE).expect("CKA_PRIVATE"));
    assert_eq!(
        app.generate_ec(session, P256, "none").map(drop),
        Err(Rv(CKR_USER_NOT_LOGGED_IN)),
        "keys are the user's"
    );
}

#[test]
fn all_sessions_share_the_login_and_the_last_one_ends_it() {
    let bench = Bench::start();
    bench.token();
    let (app, slot, session) = opened(&bench);
    let other = app.open_session(slot, 0).expect("C_OpenSession");
    app.login(session, PIN).expect("C_Login");
    assert_eq!(app.session_info(other).expect("info").state, CKS_RO_USER_FUNCTIONS);
    let third = app.open(slot).expect("C_OpenSession");
    assert_eq!(app.session_info(third).expect("info").state, CKS_RW_USER_FUNCTIONS);
    app.close_session(session).expect("C_CloseSession");
    assert_eq!(app.session_info(third).expect("info").state, CKS_RW_USER_FUNCTIONS);
    app.close_all_sessions(slot).expect("C_CloseAllSessions");
    let again = app.open(slot).expect("C_OpenSession");
    assert_eq!(app.session_info(again).expect("info").state, CKS_RW_PUBLIC_SESSION);
}

#[test]
fn power_cuts_between_right_logins_cost_no_try() {
    let mut bench = Bench::start();
    bench.token();
    for _ in 0..5 {
        {
            let (app, session) = bench.logged_in();
            app.random(session, 8).expect("C_GenerateRandom");
        }
        bench.tpm.power_cut();
    }
    let (app, slot, session) = opened(&bench);
    app.login(session, PIN).expect("C_Login");
    assert_eq!(pin_flags(&app, slot), 0);
}

#[test]
fn a_logout_ends_the_use_of_private_keys_everywhere() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let other = app.open(slot).expect("C_OpenSession");
    let (public, private) = app.generate_ec(session, P256, "pair").expect("C_GenerateKeyPair");
    app.sign_init(other, CKM_ECDSA, private).expect("C_SignInit");

    app.logout(session).expect("C_Logout");
    let answer = app.sign_now(other, &[7; 32]).map(drop);
    assert!(
        [Err(Rv(CKR_USER_NOT_LOGGED_IN)), Err(Rv(CKR_OPERATION_NOT_INITIALIZED))].contains(&answer),
        "{answer:?}"
    );
    assert_eq!(app.sign_init(other, CKM_ECDSA, private), Err(Rv(CKR_KEY_HANDLE_INVALID)));
    assert_eq!(
        app.attribute(session, private, CKA_LABEL).map(drop),
        Err(Rv(CKR_OBJECT_HANDLE_INVALID))
    );
    assert_eq!(app.destroy_object(session, private), Err(Rv(CKR_OBJECT_HANDLE_INVALID)));
    app.attribute(session, public, CKA_LABEL).expect("public objects keep their handles");

    app.login(session, PIN).expect("C_Login");
    assert_eq!(
        app.attribute(session, private, CKA_LABEL).map(drop),
        Err(Rv(CKR_OBJECT_HANDLE_INVALID)),
        "dead for ever"
    );
    let found = app.find(session, &[bytes(CKA_LABEL, "pair")]).expect("C_FindObjects");
    assert_eq!(found.len(), 2);
    assert!(found.contains(&public) && !found.contains(&private));
}

#[test]
fn a_token_without_pin_signs_without_login_and_any_login_succeeds() {
    let bench = Bench::start();
    let app = bench.ready();
    let slot = app.empty_slot().expect("an empty slot");
    app.init_token(slot, SO_PIN, LABEL).expect("C_InitToken");
    let session = app.open(slot).expect("C_OpenSession");
    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    app.init_no_pin(session).expect("C_InitPIN(NULL, 0)");
    app.logout(session).expect("C_Logout");
    assert_eq!(app.token_flags(slot).expect("flags") & CKF_LOGIN_REQUIRED, 0);

    let (_, private) = app.generate_ec(session, P256, "open").expect("C_GenerateKeyPair");
    app.sign(session, CKM_ECDSA, private, &[1; 32]).expect("C_Sign");
    app.finalize().expect("C_Finalize");

    let app = bench.ready();
    let session = app.open(slot).expect("C_OpenSession");
    let found =
        app.find(session, &[bytes(CKA_LABEL, "open"), flag(CKA_PRIVATE, true)]).expect("search");
    assert_eq!(found.len(), 1);
    app.sign(session, CKM_ECDSA, found[0], &[1; 32]).expect("C_Sign");
    app.login(session, b"whatever").expect("any PIN");
    assert_eq!(app.session_info(session).expect("info").state, CKS_RW_USER_FUNCTIONS);
    app.sign(session, CKM_ECDSA, found[0], &[1; 32]).expect("C_Sign");
    app.logout(session).expect("C_Logout");
    app.login(session, b"").expect("and none");
    app.logout(session).expect("C_Logout");

    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    app.init_pin(session, PIN).expect("C_InitPIN takes it back");
    app.logout(session).expect("C_Logout");
    assert_ne!(app.token_flags(slot).expect("flags") & CKF_LOGIN_REQUIRED, 0);
    assert!(app.find(session, &[flag(CKA_PRIVATE, true)]).expect("search").is_empty());
    app.login(session, PIN).expect("C_Login");
    let found = app.find(session, &[flag(CKA_PRIVATE, true)]).expect("search");
    app.sign(session, CKM_ECDSA, found[0], &[1; 32]).expect("the key is the same");
    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn initialising_anew_asks_the_sos_pin_and_ends_all_keys() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    app.generate_ec(session, P256, "old").expect("C_GenerateKeyPair");
    let old = app.token_info(slot).expect("C_GetTokenInfo").serialNumber;
    let indices = bench.shim.nv_indices().len();

    assert_eq!(app.init_token(slot, SO_PIN, "new"), Err(Rv(CKR_SESSION_EXISTS)));
    app.close_all_sessions(slot).expect("C_CloseAllSessions");
    assert_eq!(app.init_token(slot, b"not the SO", "new"), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(pin_flags(&app, slot), CKF_SO_PIN_COUNT_LOW);
    let session = app.open(slot).expect("C_OpenSession");
    assert_eq!(app.find(session, &[]).expect("search").len(), 1, "all is as it was");
    app.close_session(session).expect("C_CloseSession");

    app.init_token(slot, SO_PIN, "new").expect("C_InitToken");
    let info = app.token_info(slot).expect("the slot keeps its id");
    assert_ne!(info.serialNumber, old);
    assert_eq!(info.flags & (SO_FLAGS | CKF_USER_PIN_INITIALIZED), 0);
    let session = app.open(slot).expect("C_OpenSession");
    assert!(app.find(session, &[]).expect("search").is_empty());
    app.login_so(session, SO_PIN).expect("the SO's PIN is the same");
    app.init_pin(session, PIN).expect("C_InitPIN");
    app.logout(session).expect("C_Logout");
    app.login(session, PIN).expect("C_Login");
    assert!(app.find(session, &[]).expect("search").is_empty());
    app.generate_ec(session, P256, "new").expect("it is a token like any other");
    assert_eq!(bench.shim.nv_indices().len(), indices, "the old indices are gone");
}

#[test]
fn a_token_initialised_anew_by_another_process_is_an_error_once_and_gone_then() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let (_, private) = app.generate_ec(session, P256, "old").expect("C_GenerateKeyPair");
    app.sign(session, CKM_ECDSA, private, &[1; 32]).expect("C_Sign");

    bench.ready().init_token(slot, SO_PIN, "new").expect("C_InitToken elsewhere");
    assert_eq!(app.sign_init(session, CKM_ECDSA, private), Err(Rv(CKR_DEVICE_ERROR)));
    assert_eq!(app.sign_init(session, CKM_ECDSA, private), Err(Rv(CKR_TOKEN_NOT_RECOGNIZED)));
    assert_eq!(app.find(session, &[]), Err(Rv(CKR_TOKEN_NOT_RECOGNIZED)));
    assert_eq!(app.token_info(slot).map(drop), Err(Rv(CKR_TOKEN_NOT_RECOGNIZED)));
    app.close_session(session).expect("C_CloseSession");
    app.slots(true).expect("C_GetSlotList");
    assert!(app.slot_of("new").is_some(), "the new token has a slot of its own here");
}

#[test]
fn the_slot_that_is_initialised_keeps_its_id_everywhere() {
    let bench = Bench::start();
    let app = bench.ready();
    let slot = app.empty_slot().expect("an empty slot");
    app.init_token(slot, SO_PIN, LABEL).expect("C_InitToken");
    assert_eq!(app.slot_of(LABEL), Some(slot));
    let empty = app.empty_slot().expect("another empty slot");
    assert_ne!(empty, slot);
    assert_eq!(app.slots(true).expect("C_GetSlotList").last(), Some(&empty), "it is the last");
    assert_eq!(bench.ready().slot_of(LABEL), Some(slot));
    app.init_token(empty, SO_PIN, "second").expect("C_InitToken");
    let other = bench.ready();
    assert_eq!(other.slot_of(LABEL), Some(slot));
    assert_eq!(other.slot_of("second"), Some(empty));
    let mut serial = other.token_info(slot).expect("C_GetTokenInfo").serialNumber;
    assert!(serial.iter().all(u8::is_ascii_hexdigit), "{serial:?}");
    serial.sort();
    assert_ne!(serial.first(), serial.last(), "not sixteen times the same");
}

#[test]
fn a_key_that_always_asks_for_the_pin_signs_once_for_each() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let (_, private) = app
        .generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256)],
            &[flag(CKA_TOKEN, true), flag(CKA_ALWAYS_AUTHENTICATE, true)],
        )
        .expect("C_GenerateKeyPair");
    let context = |pin: &[u8]| app.login_as(session, CKU_CONTEXT_SPECIFIC, pin);

    app.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
    assert_eq!(app.sign_now(session, &[1; 32]), Err(Rv(CKR_USER_NOT_LOGGED_IN)));

    app.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
    context(PIN).expect("C_Login(CONTEXT_SPECIFIC)");
    assert_eq!(app.sign_now(session, &[1; 32]).expect("C_Sign").len(), 64);
    assert_eq!(context(PIN), Err(Rv(CKR_OPERATION_NOT_INITIALIZED)));

    app.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
    assert_eq!(app.sign_now(session, &[1; 32]), Err(Rv(CKR_USER_NOT_LOGGED_IN)), "once is once");

    app.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
    assert_eq!(context(b"not the PIN"), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(pin_flags(&app, slot), CKF_USER_PIN_COUNT_LOW);
    assert_eq!(app.sign_now(session, &[1; 32]), Err(Rv(CKR_USER_NOT_LOGGED_IN)));

    app.sign_init(session, CKM_ECDSA_SHA256, private).expect("C_SignInit");
    context(PIN).expect("C_Login(CONTEXT_SPECIFIC)");
    app.sign_update(session, b"in ").expect("C_SignUpdate");
    app.sign_update(session, b"parts").expect("C_SignUpdate");
    let signature = app.sign_final(session).expect("asking for the length costs nothing");
    assert_eq!(signature.len(), 64);
    assert_eq!(pin_flags(&app, slot), 0);
}

#[test]
fn a_change_of_pin_that_breaks_off_anywhere_leaves_the_old_pin_or_the_new_one() {
    for gate in ["nv", "da"] {
        let bench = Setup::default().config(&format!("[pin]\ngate = \"{gate}\"")).start();
        bench.token();
        let mut pins = [PIN.to_vec(), b"another PIN".to_vec()];
        for action in [Action::DropBefore, Action::DropAfter] {
            for commands in 0.. {
                let (app, _, session) = opened(&bench);
                bench.shim.inject(Fault::at_any(action.clone()).after(commands).always());
                let answer = app.set_pin(session, &pins[0], &pins[1]);
                app.kill();
                let met = bench.shim.heal();
                assert!(answer.is_ok() || met > 0, "{gate}: {answer:?}");

                let (app, _, session) = opened(&bench);
                // The likely one first: the fallback gate's tries are few, and the whole TPM's.
                if answer.is_ok() {
                    pins.reverse();
                }
                let login = |pin: &[u8]| {
                    let answer = app.login(session, pin);
                    if answer.is_ok() {
                        app.logout(session).expect("C_Logout");
                    }
                    answer
                };
                let place = format!("{gate}, {action:?} at {commands}");
                if login(&pins[0]).is_err() {
                    assert!(answer.is_err(), "{place}: what succeeded holds\n{}", bench.log());
                    pins.reverse();
                    login(&pins[0]).unwrap_or_else(|rv| panic!("{place}: {rv:?}\n{}", bench.log()));
                } else if gate == "nv" {
                    assert_eq!(login(&pins[1]), Err(Rv(CKR_PIN_INCORRECT)), "{place}: one of them");
                }
                if met == 0 {
                    assert!(commands > 3, "only {commands} commands to break off at");
                    break;
                }
            }
        }
    }
}

#[test]
fn a_pin_that_the_so_sets_may_break_off_anywhere_and_is_set_the_next_time() {
    for gate in ["nv", "da"] {
        let bench = Setup::default().config(&format!("[pin]\ngate = \"{gate}\"")).start();
        bench.token();
        // From PIN to none and back, and broken off on both ways.
        for pin in [&b""[..], b"again-PIN", b"other-PIN"] {
            for commands in 0.. {
                let (app, _, session) = opened(&bench);
                app.login_so(session, SO_PIN).expect("C_Login(SO)");
                bench.shim.inject(Fault::at_any(Action::DropAfter).after(commands).always());
                let set = |app: &App| match pin {
                    b"" => app.init_no_pin(session),
                    pin => app.init_pin(session, pin),
                };
                let answer = set(&app);
                app.kill();
                let met = bench.shim.heal();
                assert!(answer.is_ok() || met > 0, "{gate}: {answer:?}");
                if met == 0 {
                    break;
                }
            }
            let (app, slot, session) = opened(&bench);
            app.login(session, pin).unwrap_or_else(|rv| panic!("{gate}, {pin:?}: {rv:?}"));
            app.logout(session).expect("C_Logout");
            let required = app.token_flags(slot).expect("flags") & CKF_LOGIN_REQUIRED != 0;
            assert_eq!(required, !pin.is_empty());
            if required {
                assert_eq!(app.login(session, b"not the PIN"), Err(Rv(CKR_PIN_INCORRECT)));
            }
        }
    }
}

#[test]
fn without_pin_indices_a_token_works_under_the_tpms_own_protection() {
    let bench = Setup::default().config("[pin]\ngate = \"da\"").start();
    bench.token();
    assert!(bench.shim.nv_indices().is_empty(), "{:x?}", bench.shim.nv_indices());
    let (app, slot, session) = opened(&bench);
    assert_eq!(app.login(session, b"not the PIN"), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(pin_flags(&app, slot), CKF_USER_PIN_COUNT_LOW);
    app.login(session, PIN).expect("C_Login");
    let (_, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.sign(session, CKM_ECDSA, private, &[1; 32]).expect("C_Sign");
    assert_eq!(
        app.generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256)],
            &[flag(CKA_ALWAYS_AUTHENTICATE, true)],
        )
        .map(drop),
        Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
        "the TPM has no PIN to ask for"
    );
    app.set_pin(session, PIN, b"new-PIN").expect("C_SetPIN");
    app.logout(session).expect("C_Logout");
    app.login(session, b"new-PIN").expect("C_Login");
    app.close_all_sessions(slot).expect("C_CloseAllSessions");
    app.init_token(slot, SO_PIN, "anew").expect("C_InitToken");
    assert_eq!(app.slot_of("anew"), Some(slot));
}
