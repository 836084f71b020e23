//! The TPM goes and comes back, the connection breaks, the resource manager forgets: the next call
//! works, and the login stays.

use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, wait_until};
use swtpm_tests::ck::{P256, Rv, bytes, flag};
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::{App, Bench, Setup, wire};

const DIGEST: [u8; 32] = [0x42; 32];

/// A logged-in application with a key that was just used, so that everything is warm.
fn warm(bench: &Bench) -> (App, u64, u64) {
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
    (app, session, key)
}

/// A signature, a key generation and a login work, the first two without a new login.
fn everything_works(bench: &Bench, app: &App, session: u64, key: u64) {
    let log = || bench.log();
    if let Err(rv) = app.sign(session, CKM_ECDSA, key, &DIGEST) {
        panic!("C_Sign: {rv:?}\n{}", log());
    }
    if let Err(rv) = app.generate_ec(session, P256, "another") {
        panic!("C_GenerateKeyPair: {rv:?}\n{}", log());
    }
    app.logout(session).expect("C_Logout");
    if let Err(rv) = app.login(session, PIN) {
        panic!("C_Login: {rv:?}\n{}", log());
    }
    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn a_killed_and_restarted_tpm_is_not_noticed() {
    let mut bench = Bench::start();
    let (app, session, key) = warm(&bench);

    bench.tpm.power_cut();

    everything_works(&bench, &app, session, key);
}

#[test]
fn a_killed_and_restarted_tpm_is_not_noticed_behind_the_resource_manager() {
    let mut bench = Bench::managed();
    let (app, session, key) = warm(&bench);

    bench.tpm.power_cut();

    everything_works(&bench, &app, session, key);
}

#[test]
fn each_call_alone_survives_a_power_cut_before_it() {
    let mut bench = Bench::start();
    let (app, session, key) = warm(&bench);

    bench.tpm.power_cut();
    app.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
    bench.tpm.power_cut();
    app.generate_ec(session, P256, "another").expect("C_GenerateKeyPair");
    bench.tpm.power_cut();
    app.logout(session).expect("C_Logout");
    app.login(session, PIN).expect("C_Login");
    bench.tpm.power_cut();
    app.random(session, 16).expect("C_GenerateRandom");
}

#[test]
fn a_tpm_that_nobody_started_up_is_started_up() {
    let bench = Setup::default().without_startup().start();

    let (app, session, key) = warm(&bench);

    everything_works(&bench, &app, session, key);
    assert!(bench.shim.record().count(wire::STARTUP) >= 1);
}

#[test]
fn a_cut_connection_is_not_noticed() {
    let bench = Bench::start();
    let (app, session, key) = warm(&bench);

    bench.shim.cut_connections();

    everything_works(&bench, &app, session, key);
}

#[test]
fn cut_connections_are_not_noticed_behind_the_resource_manager() {
    let bench = Bench::managed();
    let (app, session, key) = warm(&bench);

    bench.shim.cut_connections();

    everything_works(&bench, &app, session, key);
}

#[test]
fn session_keys_do_not_survive_a_tpm_reset_silently_wrong() {
    // A session key is a TPM object of which the process has the wrapped blob: it comes back too.
    let mut bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (public, private) = app
        .generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[swtpm_tests::ck::bytes(CKA_EC_PARAMS, P256)],
            &[],
        )
        .expect("C_GenerateKeyPair");

    bench.tpm.power_cut();

    let signature = app.sign(session, CKM_ECDSA, private, &DIGEST).expect("C_Sign");
    app.verify(session, CKM_ECDSA, public, &DIGEST, &signature).expect("C_Verify");
}

#[test]
fn objects_that_a_stranger_flushed_are_loaded_again() {
    let bench = Bench::start();
    let (app, session, key) = warm(&bench);
    let left = bench.shim.left();

    for handle in left.objects.iter().chain(&left.sessions) {
        let flush = wire::command(wire::FLUSH_CONTEXT, &[*handle], None, &[]);
        assert_eq!(wire::response_code(&bench.shim.ask(&flush)), 0);
    }

    everything_works(&bench, &app, session, key);
}

#[test]
fn the_leftovers_of_a_killed_process_are_cleared_away() {
    let bench = Bench::start();
    let (victim, session, key) = warm(&bench);
    victim.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
    victim.kill();
    // More than that: every slot is taken by somebody who is gone.
    for round in 0..3 {
        let response = bench.shim.ask(&ecc_primary());
        let code = wire::response_code(&response);
        assert!(code == 0 || (round > 0 && code == 0x902), "{code:#x}");
    }

    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "another").expect("C_GenerateKeyPair");
    app.finalize().expect("C_Finalize");
}

/// TPM2_CreatePrimary of some ECC storage key.
fn ecc_primary() -> Vec<u8> {
    let mut public = vec![0x00, 0x23, 0x00, 0x0B];
    public.extend(0x0003_0472u32.to_be_bytes());
    public.extend(wire::sized(&[]));
    public.extend([0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10, 0, 0, 0, 0]);
    let mut parameters = wire::sized(&[0, 0, 0, 0]);
    parameters.extend(wire::sized(&public));
    parameters.extend([0; 6]);
    wire::command(wire::CREATE_PRIMARY, &[wire::OWNER], Some(b""), &parameters)
}

#[test]
fn what_asks_to_wait_is_waited_for() {
    // RETRY, YIELDED, TESTING, NV_RATE
    for code in [0x922, 0x908, 0x90A, 0x920] {
        let bench = Bench::start();
        let (app, session, key) = warm(&bench);
        for command in [wire::SIGN, wire::CREATE] {
            bench.shim.inject(Fault::at(command, Action::Answer(code)).times(2));
        }

        everything_works(&bench, &app, session, key);

        assert_eq!(bench.shim.heal(), 4, "{code:#x} was met");
    }
}

#[test]
fn a_login_waits_out_what_proves_that_the_pin_was_not_looked_at() {
    // RETRY, TESTING, NV_RATE, NV_UNAVAILABLE
    for code in [0x922, 0x90A, 0x920, 0x923] {
        let bench = Bench::start();
        bench.token();
        let app = bench.ready();
        let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
        bench.shim.inject(Fault::at(wire::POLICY_SECRET, Action::Answer(code)).times(2));

        app.login(session, PIN).unwrap_or_else(|rv| panic!("{code:#x}: {rv:?}"));
    }
}

#[test]
fn a_pin_is_never_sent_twice_when_it_may_have_been_looked_at() {
    let actions = [
        Action::AnswerAfter(0x908),
        Action::DropAfter,
        Action::DropInside(5),
        Action::Garble { at: -1, xor: 1 },
    ];
    for action in actions {
        let bench = Bench::start();
        bench.token();
        let app = bench.ready();
        let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
        bench.shim.inject(Fault::at(wire::POLICY_SECRET, action.clone()));

        let (record, answer) = bench.shim.watch(|| app.login(session, PIN));

        assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)), "{action:?}");
        assert_eq!(record.count(wire::POLICY_SECRET), 1, "{action:?}: {}", record.lines());
        app.login(session, PIN).unwrap_or_else(|rv| panic!("{action:?}, then {rv:?}"));
    }
}

#[test]
fn a_connection_that_breaks_at_any_command_of_a_signature_is_mended() {
    // Every call starts cold.
    let bench = Setup::default().tpm("linger_ms = 0").start();
    let (app, session, key) = warm(&bench);
    let mut met = 0;
    for action in [Action::DropBefore, Action::DropAfter, Action::DropInside(11)] {
        for skip in 0.. {
            // A session whose handle got lost on the way stays behind, and must not do harm either.
            bench.shim.settled(Duration::from_millis(100));
            bench.shim.inject(Fault::at_any(action.clone()).after(skip));

            app.sign(session, CKM_ECDSA, key, &DIGEST)
                .unwrap_or_else(|rv| panic!("{action:?} at {skip}: {rv:?}\n{}", bench.log()));

            if bench.shim.heal() == 0 {
                break;
            }
            met += 1;
        }
    }
    assert!(met > 9, "only {met} cuts: a cold signature has more than three commands");
}

#[test]
fn an_altered_response_is_never_believed() {
    // Signing proves each response by an HMAC; one byte anywhere is enough.
    let bench = Bench::start();
    let (app, session, key) = warm(&bench);
    for at in [14, 20, 40, -1, -20, -40] {
        bench.shim.inject(Fault::at(wire::SIGN, Action::Garble { at, xor: 0x10 }));

        let (record, answer) = bench.shim.watch(|| app.sign(session, CKM_ECDSA, key, &DIGEST));

        answer.unwrap_or_else(|rv| panic!("byte {at}: {rv:?}\n{}", record.lines()));
        assert_eq!(record.count(wire::SIGN), 2, "asked again: {}", record.lines());
        assert_eq!(bench.shim.heal(), 1);
    }
}

#[test]
fn without_a_session_that_proves_it_a_signature_is_checked_before_it_is_given() {
    // Another program's idle session closes the context gap: keys are used with passwords, and no HMAC
    // shows what somebody changed on the way. TPMT_SIGNATURE's last byte is 6 from the end.
    let bench = Bench::managed();
    let (app, session, key) = warm(&bench);
    bench.shim.settled(Duration::from_secs(3));
    bench.shim.inject(Fault::at(wire::START_AUTH_SESSION, Action::Answer(0x901)).always());
    app.sign(session, CKM_ECDSA, key, &DIGEST).expect("by password");
    bench.shim.heal();
    for at in [-6, -20, -45] {
        bench.shim.inject(Fault::at(wire::SIGN, Action::Garble { at, xor: 0x10 }));

        let (record, answer) = bench.shim.watch(|| app.sign(session, CKM_ECDSA, key, &DIGEST));

        assert!(!record.of(wire::SIGN)[0].is_hmac_protected(), "{}", record.lines());
        assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)), "byte {at}");
        app.sign(session, CKM_ECDSA, key, &DIGEST).expect("the next one");
        bench.shim.heal();
    }
}

#[test]
fn an_altered_response_every_time_is_an_error_and_the_operation_ends() {
    let bench = Bench::start();
    let (app, session, key) = warm(&bench);
    bench.shim.inject(Fault::at(wire::SIGN, Action::Garble { at: 20, xor: 0x10 }).always());

    let answer = app.sign(session, CKM_ECDSA, key, &DIGEST);

    assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)));
    bench.shim.heal();
    assert_eq!(app.sign_now(session, &DIGEST), Err(Rv(CKR_OPERATION_NOT_INITIALIZED)));
    assert!(
        wait_until(Duration::from_secs(5), || {
            app.sign(session, CKM_ECDSA, key, &DIGEST).is_ok()
        }),
        "it works again"
    );
}

#[test]
fn a_tpm_that_is_gone_is_a_device_error_and_its_return_needs_no_login() {
    let mut bench = Bench::start();
    let (app, session, key) = warm(&bench);

    bench.tpm.power_off();
    assert_eq!(app.sign(session, CKM_ECDSA, key, &DIGEST), Err(Rv(CKR_DEVICE_ERROR)));
    // What needs no TPM goes on.
    assert!(!app.find(session, &[]).expect("C_FindObjects").is_empty());
    app.digest(session, CKM_SHA256, b"data").expect("C_Digest");

    bench.tpm.power_on();
    assert!(
        wait_until(Duration::from_secs(10), || {
            app.sign(session, CKM_ECDSA, key, &DIGEST).is_ok()
        }),
        "{}",
        bench.log()
    );
}

#[test]
fn a_cleared_tpm_is_named_and_gets_no_pin() {
    let bench = Bench::start();
    let (app, _, _) = warm(&bench);
    app.finalize().expect("C_Finalize");

    bench.tpm.clear();

    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token is still listed");
    let session = app.open(slot).expect("C_OpenSession");
    assert!(!app.find(session, &[]).expect("C_FindObjects").is_empty(), "public objects");
    let (record, answer) = bench.shim.watch(|| app.login(session, PIN));
    assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)));
    assert_eq!(record.count(wire::POLICY_SECRET), 0, "no PIN was sent: {}", record.lines());
    assert!(bench.log().contains("cleared"), "the log says why:\n{}", bench.log());
}

#[test]
fn beside_the_token_of_a_cleared_tpm_a_new_one_works_in_the_same_store() {
    let bench = Bench::start();
    let (app, _, _) = warm(&bench);
    let slot = app.slot_of(LABEL).expect("the token");
    let before = app.token_info(slot).expect("C_GetTokenInfo");
    app.finalize().expect("C_Finalize");

    bench.tpm.clear();

    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token is still listed");
    let session = app.open(slot).expect("C_OpenSession");
    let listed = app.find(session, &[]).expect("C_FindObjects").len();
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_DEVICE_ERROR)));
    let after = app.token_info(slot).expect("C_GetTokenInfo");
    assert_eq!((after.label, after.flags), (before.label, before.flags));
    assert_eq!(bench.shim.lockout_counter(), 0);

    bench.token_named("new");
    let new = app.slots(true).map(|_| app.slot_of("new")).expect("C_GetSlotList");
    let session = app.open(new.expect("the new token")).expect("C_OpenSession");
    bench.must("C_Login", app.login(session, PIN));
    let (_, key) = bench.must("C_GenerateKeyPair", app.generate_ec(session, P256, "key"));
    bench.must("C_Sign", app.sign(session, CKM_ECDSA, key, &DIGEST));
    let session = app.open(slot).expect("C_OpenSession");
    assert_eq!(app.find(session, &[]).expect("C_FindObjects").len(), listed, "the old one's");
}

#[test]
fn another_tpm_is_not_taken_for_this_one() {
    let bench = Bench::start();
    let (app, _, _) = warm(&bench);
    app.finalize().expect("C_Finalize");
    let other = Bench::start();

    let app = other.app_with(|command| {
        command.env("TPM11_STORE", bench.store());
    });
    app.initialize().expect("C_Initialize");
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    let (record, answer) = other.shim.watch(|| app.login(session, PIN));

    assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)));
    assert_eq!(record.count(wire::POLICY_SECRET), 0, "no PIN was sent: {}", record.lines());
}

#[test]
fn a_lockout_by_somebody_else_hinders_nobody() {
    let bench = Bench::start();
    let (app, _, _) = warm(&bench);
    app.finalize().expect("C_Finalize");
    lock_out(&bench);

    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "another").expect("C_GenerateKeyPair");
    app.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
}

/// A command's response code; it is sent again while the TPM says TPM_RC_RETRY, as it does before the
/// first use of something under dictionary-attack protection.
fn patiently(bench: &Bench, command: &[u8]) -> u32 {
    loop {
        let code = wire::response_code(&bench.shim.ask(command));
        if code != 0x922 {
            return code;
        }
    }
}

/// Wrong passwords for the owner's NV index of a stranger, until the TPM is in lockout.
fn lock_out(bench: &Bench) {
    // An ordinary index with a password, under dictionary-attack protection.
    let mut public = Vec::new();
    public.extend(0x0180_0001u32.to_be_bytes());
    public.extend([0x00, 0x0B]);
    // AUTHREAD | AUTHWRITE
    public.extend(0x0004_0004u32.to_be_bytes());
    public.extend(wire::sized(&[]));
    public.extend([0, 8]);
    let mut parameters = wire::sized(b"secret");
    parameters.extend(wire::sized(&public));
    let define = wire::command(wire::NV_DEFINE_SPACE, &[wire::OWNER], Some(b""), &parameters);
    assert_eq!(patiently(bench, &define), 0);
    let handles = [0x0180_0001, 0x0180_0001];
    let write = [&wire::sized(&[0; 8])[..], &[0, 0]].concat();
    let write_it = wire::command(wire::NV_WRITE, &handles, Some(b"secret"), &write);
    assert_eq!(patiently(bench, &write_it), 0);
    for _ in 0..64 {
        let read = wire::command(wire::NV_READ, &handles, Some(b"wrong"), &[0, 8, 0, 0]);
        if patiently(bench, &read) == 0x921 {
            return;
        }
    }
    panic!("no lockout: counter {}", bench.shim.lockout_counter());
}

/// A context-specific login is for one use, and what loses it is told: nobody keeps a PIN to repeat it.
fn a_lost_context_login_is_told(mut bench: Bench, lose: impl Fn(&mut Bench)) {
    bench.token();
    let (app, session) = bench.logged_in();
    let (public, private) = app
        .generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256)],
            &[flag(CKA_ALWAYS_AUTHENTICATE, true)],
        )
        .expect("C_GenerateKeyPair");
    let context = || {
        app.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
        app.login_as(session, CKU_CONTEXT_SPECIFIC, PIN)
    };
    context().expect("C_Login(CONTEXT_SPECIFIC)");

    lose(&mut bench);

    assert_eq!(app.sign_now(session, &DIGEST), Err(Rv(CKR_USER_NOT_LOGGED_IN)), "{}", bench.log());
    // The user is logged in as before, no try was spent, and the next login counts.
    assert_eq!(app.session_info(session).expect("info").state, CKS_RW_USER_FUNCTIONS);
    context().unwrap_or_else(|rv| panic!("C_Login: {rv:?}\n{}", bench.log()));
    let signature = app.sign_now(session, &DIGEST).expect("C_Sign");
    app.verify(session, CKM_ECDSA, public, &DIGEST, &signature).expect("C_Verify");
    let slot = app.slot_of(LABEL).expect("the token");
    assert_eq!(app.token_flags(slot).expect("flags") & CKF_USER_PIN_COUNT_LOW, 0);
}

#[test]
fn a_context_login_that_a_cut_connection_loses_is_told() {
    a_lost_context_login_is_told(Bench::managed(), |bench| bench.shim.cut_connections());
}

#[test]
fn a_context_login_that_a_power_cut_loses_is_told() {
    a_lost_context_login_is_told(Bench::start(), |bench| bench.tpm.power_cut());
}

#[test]
fn a_context_login_that_a_power_cut_loses_is_told_behind_the_resource_manager() {
    a_lost_context_login_is_told(Bench::managed(), |bench| bench.tpm.power_cut());
}

#[test]
fn an_old_response_is_never_believed() {
    let bench = Bench::start();
    let (app, session, key) = warm(&bench);
    let (record, first) = bench.shim.watch(|| app.sign(session, CKM_ECDSA, key, &DIGEST));
    let first = first.expect("C_Sign");
    let old = record.of(wire::SIGN)[0].response.clone();

    let replay = {
        let old = old.clone();
        move |_: &[u8], response: &mut Vec<u8>| old.clone_into(response)
    };
    let replay = Action::Rewrite(std::sync::Arc::new(replay));
    bench.shim.inject(Fault::at(wire::SIGN, replay.clone()));
    let answer = app.sign(session, CKM_ECDSA, key, &DIGEST);
    assert_ne!(answer.expect("asked again"), first);
    assert_eq!(bench.shim.heal(), 1);

    bench.shim.inject(Fault::at(wire::SIGN, replay).always());
    let other = app.sign(session, CKM_ECDSA, key, &[0x43; 32]);
    assert_eq!(other, Err(Rv(CKR_DEVICE_ERROR)));
}
