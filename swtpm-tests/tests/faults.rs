//! What each answer of a TPM becomes for the application, when it lasts; and that everything works
//! again as soon as it does not. `TPM11_FAULTS=all` cuts and alters at every byte instead of at some.

use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, wait_until};
use swtpm_tests::ck::{Answer, P256, Rv, bytes, number};
use swtpm_tests::shim::{Action, Chip, Entry, Fault, Record};
use swtpm_tests::{App, Bench, Setup, wire};

const DIGEST: [u8; 32] = [0x42; 32];

/// Whatever is waited for in vain, is waited for this long.
fn bench() -> Bench {
    let bench = Setup::default().tpm("call_timeout_s = 2\nkeygen_timeout_s = 3").start();
    bench.token();
    bench
}

/// Response codes and what they are when they last: to a signature, and to a login whose PIN they
/// meet. The names are those of Part 2, without TPM_RC_.
#[rustfmt::skip]
const TABLE: &[(u32, &str, u64, u64)] = &[
    (0x922, "RETRY", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x908, "YIELDED", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x909, "CANCELED", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x90A, "TESTING", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x920, "NV_RATE", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x923, "NV_UNAVAILABLE", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x921, "LOCKOUT", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x902, "OBJECT_MEMORY", CKR_DEVICE_MEMORY, CKR_DEVICE_MEMORY),
    (0x906, "OBJECT_HANDLES", CKR_DEVICE_MEMORY, CKR_DEVICE_MEMORY),
    (0x903, "SESSION_MEMORY", CKR_DEVICE_MEMORY, CKR_DEVICE_MEMORY),
    (0x905, "SESSION_HANDLES", CKR_DEVICE_MEMORY, CKR_DEVICE_MEMORY),
    (0x904, "MEMORY", CKR_DEVICE_MEMORY, CKR_DEVICE_MEMORY),
    (0x901, "CONTEXT_GAP", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x100, "INITIALIZE", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x101, "FAILURE", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x910, "REFERENCE_H0", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x918, "REFERENCE_S0", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x98E, "AUTH_FAIL", CKR_DEVICE_ERROR, CKR_PIN_INCORRECT),
    (0x9A2, "BAD_AUTH", CKR_DEVICE_ERROR, CKR_PIN_INCORRECT),
    (0x99D, "POLICY_FAIL", CKR_FUNCTION_REJECTED, CKR_DEVICE_ERROR),
    (0x9A4, "POLICY_CC", CKR_FUNCTION_REJECTED, CKR_DEVICE_ERROR),
    (0x2D5, "SIZE", CKR_FUNCTION_FAILED, CKR_FUNCTION_FAILED),
    (0x143, "COMMAND_CODE", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x185, "HIERARCHY", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x907, "LOCALITY", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x12D, "UPGRADE", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x01E, "BAD_TAG", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
    (0x17E, "no code at all", CKR_DEVICE_ERROR, CKR_DEVICE_ERROR),
];

/// Those that prove that a PIN was not looked at: it may be sent again.
const BEFORE_THE_PIN: &[u32] =
    &[0x922, 0x90A, 0x920, 0x923, 0x902, 0x906, 0x903, 0x905, 0x904, 0x910, 0x918, 0x100];

fn works_again(bench: &Bench, what: &str, mut job: impl FnMut() -> bool) {
    assert!(wait_until(Duration::from_secs(40), &mut job), "{what}, then:\n{}", bench.log());
}

fn lasting(bench: &Bench, code: u32, command: u32) {
    bench.shim.inject(Fault::at(command, Action::Answer(code)).always());
}

#[test]
fn each_answer_to_a_signature_has_its_return_value_and_nothing_stays_broken() {
    let bench = bench();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    for (code, name, expected, _) in TABLE {
        lasting(&bench, *code, wire::SIGN);

        let answer = app.sign(session, CKM_ECDSA, key, &DIGEST);

        assert_eq!(answer, Err(Rv(*expected)), "{name}\n{}", bench.log());
        assert!(bench.shim.heal() > 0, "{name} was met");
        let ended = app.sign_now(session, &DIGEST);
        assert_eq!(ended, Err(Rv(CKR_OPERATION_NOT_INITIALIZED)), "{name}");
        works_again(&bench, name, || app.sign(session, CKM_ECDSA, key, &DIGEST).is_ok());
    }
    let state = app.session_info(session).expect("C_GetSessionInfo").state;
    assert_eq!(state, CKS_RW_USER_FUNCTIONS, "the login stayed");
    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn each_answer_to_a_login_has_its_return_value_and_no_pin_is_sent_twice() {
    let bench = bench();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    for (code, name, _, expected) in TABLE {
        lasting(&bench, *code, wire::POLICY_SECRET);

        let (record, answer) = bench.shim.watch(|| app.login(session, PIN));

        assert_eq!(answer, Err(Rv(*expected)), "{name}\n{}", bench.log());
        if !BEFORE_THE_PIN.contains(code) {
            assert_eq!(record.count(wire::POLICY_SECRET), 1, "{name}: {}", record.lines());
        }
        assert!(bench.shim.heal() > 0, "{name} was met");
        works_again(&bench, name, || app.login(session, PIN).is_ok());
        app.logout(session).expect("C_Logout");
    }
    assert_eq!(bench.shim.lockout_counter(), 0);
}

/// One operation of an application that is logged in.
type Operation = fn(&App, u64, u64, u64) -> Answer<()>;

const OPERATIONS: &[(&str, Operation)] = &[
    ("C_Sign", |app, session, ec, _| app.sign(session, CKM_ECDSA, ec, &DIGEST).map(drop)),
    ("C_Sign with RSA", |app, session, _, rsa| {
        app.sign(session, CKM_SHA256_RSA_PKCS, rsa, b"data").map(drop)
    }),
    ("C_GenerateKeyPair", |app, session, _, _| app.generate_ec(session, P256, "new").map(drop)),
    ("C_GenerateRandom", |app, session, _, _| app.random(session, 16).map(drop)),
    ("C_Login", |app, session, _, _| {
        app.logout(session)?;
        app.login(session, PIN)
    }),
];

/// Faults that pass when the command is sent again on something new.
const PASSING: &[(&str, Action)] = &[
    ("RETRY", Action::Answer(0x922)),
    ("TESTING", Action::Answer(0x90A)),
    ("OBJECT_MEMORY", Action::Answer(0x902)),
    ("SESSION_MEMORY", Action::Answer(0x903)),
    ("REFERENCE_H0", Action::Answer(0x910)),
    ("REFERENCE_S0", Action::Answer(0x918)),
    ("INITIALIZE", Action::Answer(0x100)),
    ("a cut before", Action::DropBefore),
];

/// A response that got lost may have had a handle in it: away with what nobody owns.
fn sweep(bench: &Bench) {
    let left = bench.shim.settled(Duration::from_millis(100));
    for handle in left.objects.iter().chain(&left.sessions) {
        bench.shim.ask(&wire::command(wire::FLUSH_CONTEXT, &[*handle], None, &[]));
    }
}

#[test]
fn one_passing_fault_at_any_command_of_any_operation_is_not_noticed() {
    one_passing_fault(Setup::default());
}

#[test]
fn behind_the_resource_manager_one_passing_fault_is_not_noticed_either() {
    one_passing_fault(Setup::default().managed());
}

fn one_passing_fault(setup: Setup) {
    // Every call starts cold.
    let bench = setup.tpm("linger_ms = 0").start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, ec) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
    let (_, rsa) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let mut cells = 0;
    for (operation, run) in OPERATIONS {
        for (fault, action) in PASSING {
            for skip in 0.. {
                sweep(&bench);
                bench.shim.inject(Fault::at_any(action.clone()).after(skip));

                let (record, answer) = bench.shim.watch(|| run(&app, session, ec, rsa));

                let met = bench.shim.heal();
                // A PIN is not sent again once it may have been looked at.
                let faulty = record.0.iter().find(|entry| entry.injected);
                let expected = match (faulty, action) {
                    (Some(entry), Action::DropBefore) if entry.code == wire::POLICY_SECRET => {
                        works_again(&bench, fault, || app.login(session, PIN).is_ok());
                        Err(Rv(CKR_DEVICE_ERROR))
                    }
                    _ => Ok(()),
                };
                assert_eq!(
                    answer,
                    expected,
                    "{operation}, {fault} at command {skip}:\n{}\n{}",
                    record.lines(),
                    bench.log()
                );
                if met == 0 {
                    break;
                }
                cells += 1;
            }
        }
    }
    println!("{cells} faults met");
    assert!(cells > 150, "only {cells} faults met anything");
    assert_eq!(bench.shim.lockout_counter(), 0);
}

/// The bytes at which something happens to a message of this length: those of the header and some of the
/// others, or with `TPM11_FAULTS=all` every one.
fn offsets(length: usize) -> impl Iterator<Item = usize> {
    let all = std::env::var("TPM11_FAULTS").as_deref() == Ok("all");
    (0..length).filter(move |at| all || *at < 12 || at % 23 == 0 || at + 1 == length)
}

/// Cuts at bytes of a command and of its answer.
fn cuts(entry: &Entry) -> impl Iterator<Item = Action> + use<> {
    let (command, response) = (entry.command.len(), entry.response.len());
    offsets(command).map(Action::DropCommand).chain(offsets(response).map(Action::DropInside))
}

#[test]
fn a_connection_cut_at_any_byte_of_a_signature_is_not_noticed() {
    let bench = Setup::default().tpm("linger_ms = 0").start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    sweep(&bench);
    let (cold, _) = bench.shim.watch(|| app.sign(session, CKM_ECDSA, key, &DIGEST));
    let mut count = 0;
    for (skip, entry) in cold.0.iter().enumerate() {
        for cut in cuts(entry) {
            sweep(&bench);
            bench.shim.inject(Fault::at_any(cut.clone()).after(skip));

            let answer = app.sign(session, CKM_ECDSA, key, &DIGEST);

            assert!(answer.is_ok(), "{} {cut:?}: {answer:?}\n{}", entry.name, bench.log());
            bench.shim.heal();
            count += 1;
        }
    }
    println!("{count} cuts");
    assert!(count > 100, "{count}");
    let state = app.session_info(session).expect("C_GetSessionInfo").state;
    assert_eq!(state, CKS_RW_USER_FUNCTIONS, "the login stayed");
}

/// Cuts at bytes and commands that chance chooses, two in a call at times.
#[test]
fn wherever_connections_are_cut_a_call_succeeds_or_fails_once_and_the_login_stays() {
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};
    const SEED: u64 = 0x7B11;
    for setup in [Setup::default(), Setup::default().managed()] {
        let bench = setup.tpm("linger_ms = 0").start();
        bench.token();
        let (app, session) = bench.logged_in();
        app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
        let (public, _) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
        // A private key's handle ends with the login that showed it.
        let find = |label: &str| {
            let wanted = [number(CKA_CLASS, CKO_PRIVATE_KEY), bytes(CKA_LABEL, label)];
            app.find(session, &wanted).expect("C_FindObjects")[0]
        };
        let secret = app.encrypt(session, CKM_RSA_PKCS, public, b"text").expect("C_Encrypt");
        let mark = bench.shim.mark();
        let mut chance = ChaCha8Rng::seed_from_u64(SEED);
        let mut met = 0;
        for round in 0..100 {
            let mut below = |limit: u32| (chance.next_u32() % limit) as usize;
            let cuts: Vec<(usize, Action)> = (0..=below(4) / 3)
                .map(|_| match below(3) {
                    0 => (below(4), Action::DropCommand(below(11))),
                    1 => (below(4), Action::DropInside(below(60))),
                    _ => (below(4), Action::DropAfter),
                })
                .collect();
            let what = below(4);
            let run = || match what {
                0 => {
                    app.logout(session)?;
                    app.login(session, PIN)
                }
                1 => app.sign(session, CKM_ECDSA, find("ec"), &DIGEST).map(drop),
                2 => app.generate_ec(session, P256, "new").map(drop),
                _ => app
                    .decrypt(session, CKM_RSA_PKCS, find("rsa"), &secret)
                    .map(|text| assert_eq!(text, b"text")),
            };
            for (skip, cut) in &cuts {
                bench.shim.inject(Fault::at_any(cut.clone()).after(*skip));
            }
            let answer = run();
            met += bench.shim.heal();
            let text = || format!("round {round}, {what}, {cuts:?}\n{}", bench.log());
            match answer {
                Ok(()) => {}
                Err(rv) => {
                    assert_eq!(rv, CKR_DEVICE_ERROR, "{}", text());
                    if what == 0 {
                        app.login(session, PIN).unwrap_or_else(|rv| panic!("{rv:?} {}", text()));
                    } else {
                        run().unwrap_or_else(|rv| panic!("again: {rv:?} {}", text()));
                    }
                }
            }
            let state = app.session_info(session).expect("C_GetSessionInfo").state;
            assert_eq!(state, CKS_RW_USER_FUNCTIONS, "{}", text());
        }
        println!("{met} cuts met a command");
        assert!(met > 60, "{met}");
        assert_eq!(bench.shim.pin_tries(mark), 0);
        assert_eq!(bench.shim.lockout_counter(), 0);
    }
}

/// A bench at which nobody is logged in, an application there, and the commands of a login.
fn at_the_gate(pin: &str) -> (Bench, App, u64, Record) {
    let bench = Setup::default().config(&format!("[pin]\n{pin}")).tpm("linger_ms = 0").start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    let (cold, answer) = bench.shim.watch(|| app.login(session, PIN));
    answer.expect("C_Login");
    app.logout(session).expect("C_Logout");
    (bench, app, session, cold)
}

/// One login that meets a fault: it succeeds, or is a device error once. No PIN try is spent, and no PIN
/// is sent again after it may have been looked at.
fn login_through(bench: &Bench, app: &App, session: u64, skip: usize, action: &Action) {
    sweep(bench);
    let mark = bench.shim.mark();
    bench.shim.inject(Fault::at_any(action.clone()).after(skip));

    let answer = app.login(session, PIN);

    bench.shim.heal();
    let record = bench.shim.since(mark);
    let what = || format!("{action:?} at {skip}\n{}\n{}", record.lines(), bench.log());
    assert_eq!(bench.shim.pin_tries(mark), 0, "{}", what());
    match answer {
        Ok(()) => {}
        Err(rv) => {
            assert_eq!(rv, CKR_DEVICE_ERROR, "{}", what());
            assert!(record.count(wire::POLICY_SECRET) <= 1, "{}", what());
            works_again(bench, "a login", || app.login(session, PIN).is_ok());
        }
    }
    app.logout(session).expect("C_Logout");
}

#[test]
fn a_connection_cut_at_any_byte_of_a_login_costs_no_try() {
    let (bench, app, session, cold) = at_the_gate("limit = 2");
    let mut count = 0;
    for (skip, entry) in cold.0.iter().enumerate() {
        for cut in cuts(entry) {
            login_through(&bench, &app, session, skip, &cut);
            count += 1;
        }
    }
    println!("{count} cuts");
    assert!(count > 100, "{count}");
    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn one_wrong_bit_in_any_answer_of_a_login_costs_no_try() {
    one_wrong_bit_costs_no_try("limit = 2");
}

#[test]
fn one_wrong_bit_in_any_answer_of_a_login_costs_no_try_of_the_tpms_own_protection() {
    one_wrong_bit_costs_no_try("gate = \"da\"");
}

fn one_wrong_bit_costs_no_try(pin: &str) {
    let (bench, app, session, cold) = at_the_gate(pin);
    for (skip, entry) in cold.0.iter().enumerate() {
        // Behind the header, whose size and code a stream needs to be understood.
        for at in offsets(entry.response.len()).filter(|at| *at >= 10) {
            let at = at as isize;
            login_through(&bench, &app, session, skip, &Action::Garble { at, xor: 0x10 });
        }
    }
    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn silence_ends_at_the_calls_deadline() {
    let bench = bench();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    bench.shim.inject(Fault::at(wire::SIGN, Action::Silence).always());

    let began = std::time::Instant::now();
    let answer = app.sign(session, CKM_ECDSA, key, &DIGEST);

    assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)));
    let took = began.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_secs(8)).contains(&took), "{took:?}");
    bench.shim.heal();
    works_again(&bench, "silence", || app.sign(session, CKM_ECDSA, key, &DIGEST).is_ok());
}

#[test]
fn a_command_that_the_tpm_lost_ends_the_mechanism_and_not_the_token() {
    let bench = bench();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    let signs =
        || app.mechanism_info(slot, CKM_ECDSA).expect("C_GetMechanismInfo").flags & CKF_SIGN;
    assert_ne!(signs(), 0);

    // Other firmware.
    bench.shim.become_chip(Chip { without_commands: vec![wire::SIGN], ..Chip::default() });
    let answer = app.sign(session, CKM_ECDSA, key, &DIGEST);
    assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)), "C_Sign may not say anything of its mechanism");
    app.random(session, 16).expect("the next use of the TPM asks it what it can");

    assert_eq!(signs(), 0);
    assert_eq!(app.sign_init(session, CKM_ECDSA, key), Err(Rv(CKR_MECHANISM_INVALID)));
    app.generate_ec(session, P256, "another").expect("everything else works");
}

#[test]
fn a_key_generation_may_say_that_its_mechanism_is_gone() {
    let bench = bench();
    let (app, session) = bench.logged_in();
    bench.shim.become_chip(Chip { without_commands: vec![wire::CREATE], ..Chip::default() });
    for _ in 0..2 {
        let answer = app.generate_ec(session, P256, "key");
        assert_eq!(answer, Err(Rv(CKR_MECHANISM_INVALID)), "{}", bench.log());
    }
}

/// The class of a command that never answers, and the setting that ends it.
const CLASSES: &[(&str, u32, &str)] = &[
    ("a short command", wire::READ_PUBLIC, "short_timeout_s"),
    ("an ordinary command", wire::SIGN, "command_timeout_s"),
    ("the making of a key", wire::CREATE, "keygen_timeout_s"),
];

#[test]
fn each_class_of_commands_has_a_limit_of_its_own_within_the_calls() {
    for (what, command, setting) in CLASSES {
        let bench = Bench::start();
        bench.token();
        let (app, session) = bench.logged_in();
        app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
        app.finalize().expect("C_Finalize");
        bench.configure(&format!("{setting} = 0.4\nlinger_ms = 0"));
        let (app, session) = bench.logged_in();
        let wanted = [number(CKA_CLASS, CKO_PRIVATE_KEY)];
        let key = app.find(session, &wanted).expect("C_FindObjects")[0];
        bench.shim.inject(Fault::at(*command, Action::Silence));

        let mark = bench.shim.mark();
        let answer = match *command {
            wire::SIGN => app.sign(session, CKM_ECDSA, key, &DIGEST).map(drop),
            wire::CREATE => app.generate_ec(session, P256, "new").map(drop),
            _ => app.random(session, 16).map(drop),
        };

        assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)), "{what}\n{}", bench.log());
        let late = || -> Vec<_> {
            bench.shim.since(mark).0.into_iter().filter(|entry| entry.injected).collect()
        };
        // The shim notes it when it sees the client go.
        works_again(&bench, what, || !late().is_empty());
        let late = late();
        assert_eq!(late.len(), 1, "{what}: not sent again");
        // Not the whole call's minute.
        assert!(late[0].took < Duration::from_secs(20), "{what}: {:?}", late[0].took);
        let lost = late[0].connection;
        works_again(&bench, what, || app.random(session, 16).is_ok());
        let record = bench.shim.record();
        let after = record.0.iter().rev().find(|entry| entry.code != 0).expect("a command");
        assert_ne!(after.connection, lost, "{what}: the connection was given up");
    }
}
