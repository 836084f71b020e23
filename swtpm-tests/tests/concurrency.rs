//! Many at once: threads, processes, forked children.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use swtpm_tests::Bench;
use swtpm_tests::bench::{LABEL, PIN};
use swtpm_tests::ck::{P256, bytes, flag, number};

const DIGEST: [u8; 32] = [0x42; 32];

#[test]
fn four_processes_generate_keys_at_once_on_a_bare_tpm() {
    const EACH: usize = 5;
    let bench = Bench::start();
    bench.token();

    std::thread::scope(|scope| {
        for process in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                let (app, session) = bench.logged_in();
                for index in 0..EACH {
                    let label = format!("{process}-{index}");
                    app.generate_ec(session, P256, &label)
                        .unwrap_or_else(|rv| panic!("{label}: {rv:?}\n{}", bench.log()));
                }
                app.finalize().expect("C_Finalize");
            });
        }
    });

    let (app, session) = bench.logged_in();
    let found = app.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("C_FindObjects");
    assert_eq!(found.len(), 4 * EACH);
    for key in found {
        app.sign(session, CKM_ECDSA, key, &DIGEST).expect("each of them signs");
    }
    app.finalize().expect("C_Finalize");
    assert!(bench.shim.left().is_nothing());
}

#[test]
fn eight_threads_sign_at_once_on_a_bare_tpm() {
    eight_threads_sign_at_once(&Bench::start());
}

#[test]
fn eight_threads_sign_at_once_behind_the_resource_manager() {
    eight_threads_sign_at_once(&Bench::managed());
}

fn eight_threads_sign_at_once(bench: &Bench) {
    const THREADS: usize = 8;
    const EACH: usize = 20;
    bench.token();
    let (app, session) = bench.logged_in();
    let pairs: Vec<(u64, u64)> = (0..4)
        .map(|index| {
            app.generate_ec(session, P256, &format!("key {index}")).expect("C_GenerateKeyPair")
        })
        .collect();
    let slot = app.slot_of(LABEL).expect("the token");

    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (ck, pairs) = (app.thread(), &pairs);
            scope.spawn(move || {
                let session = ck.open_session(slot, 0).expect("C_OpenSession");
                for turn in 0..EACH {
                    let (public, private) = pairs[(thread + turn) % pairs.len()];
                    let signature = ck
                        .sign(session, CKM_ECDSA, private, &DIGEST)
                        .unwrap_or_else(|rv| panic!("thread {thread}: {rv:?}\n{}", bench.log()));
                    ck.verify(session, CKM_ECDSA, public, &DIGEST, &signature)
                        .expect("a good signature");
                }
                ck.close_session(session).expect("C_CloseSession");
            });
        }
    });
    app.finalize().expect("C_Finalize");
    assert!(bench.shim.settled(Duration::from_secs(1)).is_nothing());
}

#[test]
fn of_two_changes_of_a_session_object_at_once_neither_is_lost() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    for turn in 0..40 {
        let template = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_AES),
            bytes(CKA_VALUE, [7; 16]),
            flag(CKA_TOKEN, false),
            flag(CKA_SENSITIVE, false),
            flag(CKA_EXTRACTABLE, true),
        ];
        let key = app.create_object(session, &template).expect("C_CreateObject");
        let changes = [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)];
        let start = Barrier::new(changes.len());
        std::thread::scope(|scope| {
            for change in &changes {
                let (ck, start) = (app.thread(), &start);
                scope.spawn(move || {
                    let session = ck.open_session(slot, CKF_RW_SESSION).expect("C_OpenSession");
                    start.wait();
                    let set = ck.set_attributes(session, key, std::slice::from_ref(change));
                    set.expect("C_SetAttributeValue");
                    ck.close_session(session).expect("C_CloseSession");
                });
            }
        });
        let is = |kind| app.attribute_flag(session, key, kind);
        assert_eq!((is(CKA_SENSITIVE), is(CKA_EXTRACTABLE)), (Ok(true), Ok(false)), "turn {turn}");
        app.destroy_object(session, key).expect("C_DestroyObject");
    }
}

#[test]
fn eight_processes_on_one_bare_tpm_wait_for_each_other_only_briefly() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.finalize().expect("C_Finalize");

    let longest = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let (app, session) = bench.logged_in();
                    let wanted = [number(CKA_CLASS, CKO_PRIVATE_KEY)];
                    let key = app.find(session, &wanted).expect("C_FindObjects")[0];
                    let mut longest = Duration::ZERO;
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_secs(3) {
                        let began = Instant::now();
                        app.sign(session, CKM_ECDSA, key, &DIGEST)
                            .unwrap_or_else(|rv| panic!("{rv:?}\n{}", bench.log()));
                        longest = longest.max(began.elapsed());
                    }
                    app.finalize().expect("C_Finalize");
                    longest
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).max()
    });

    println!("the longest wait: {longest:?}");
    // Each lets go after 250 ms when somebody waits: 1.8 s behind seven others, on an idle machine.
    assert!(longest.is_some_and(|longest| longest < Duration::from_secs(8)), "{longest:?}");
}

#[test]
fn another_process_finds_a_new_key_without_logging_in_again() {
    let bench = Bench::start();
    bench.token();
    let (one, session) = bench.logged_in();
    let (other, its_session) = bench.logged_in();
    assert!(other.find(its_session, &[bytes(CKA_LABEL, "new")]).expect("C_FindObjects").is_empty());

    one.generate_ec(session, P256, "new").expect("C_GenerateKeyPair");

    let found = other.find(its_session, &[bytes(CKA_LABEL, "new")]).expect("C_FindObjects");
    assert_eq!(found.len(), 2, "public and private");
    let private = [number(CKA_CLASS, CKO_PRIVATE_KEY), bytes(CKA_LABEL, "new")];
    let key = other.find(its_session, &private).expect("C_FindObjects")[0];
    other.sign(its_session, CKM_ECDSA, key, &DIGEST).expect("and signs with it");
}

#[test]
fn a_forked_child_starts_anew_and_the_parent_goes_on() {
    let bench = Bench::start();
    bench.token();
    let (parent, session) = bench.logged_in();
    let (_, key) = parent.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    // The lease is open: the child inherits its descriptors.
    parent.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");

    let child = parent.fork();

    let rv = child.info().map(drop).expect_err("not initialised there");
    assert_eq!(rv, CKR_CRYPTOKI_NOT_INITIALIZED);
    let rv = child.sign(session, CKM_ECDSA, key, &DIGEST).expect_err("not the child's login");
    assert_eq!(rv, CKR_CRYPTOKI_NOT_INITIALIZED);
    parent.sign(session, CKM_ECDSA, key, &DIGEST).expect("the parent goes on");

    child.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize in the child");
    let its = child.open(child.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    let rv = child.sign(its, CKM_ECDSA, key, &DIGEST).expect_err("not logged in there");
    assert!(rv == CKR_KEY_HANDLE_INVALID || rv == CKR_USER_NOT_LOGGED_IN, "{rv:?}");
    child.login(its, PIN).expect("C_Login in the child");
    let wanted = [number(CKA_CLASS, CKO_PRIVATE_KEY)];
    let found = child.find(its, &wanted).expect("C_FindObjects")[0];
    for _ in 0..5 {
        child.sign(its, CKM_ECDSA, found, &DIGEST).expect("the child signs");
        parent.sign(session, CKM_ECDSA, key, &DIGEST).expect("the parent signs");
    }
    child.finalize().expect("C_Finalize in the child");
    parent.sign(session, CKM_ECDSA, key, &DIGEST).expect("the parent goes on");
    parent.finalize().expect("C_Finalize");
}

#[test]
fn a_child_that_only_exits_disturbs_nobody() {
    let bench = Bench::start();
    bench.token();
    let (parent, session) = bench.logged_in();
    let (_, key) = parent.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");

    for _ in 0..3 {
        parent.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
        parent.fork().exit();
    }

    let (record, ()) = bench.shim.watch(|| {
        parent.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
    });
    assert!(record.0.iter().all(|entry| entry.answer == Some(0)), "{}", record.lines());
    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn verifying_does_not_wait_for_a_signature_of_another_thread() {
    use swtpm_tests::shim::{Action, Fault};
    use swtpm_tests::wire;
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (public, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    let signature = app.sign(session, CKM_ECDSA, private, &DIGEST).expect("C_Sign");
    let slot = app.slot_of(LABEL).expect("the token");
    bench.shim.inject(Fault::at(wire::SIGN, Action::Delay(Duration::from_secs(3))));

    std::thread::scope(|scope| {
        let began = Instant::now();
        scope.spawn(|| app.sign(session, CKM_ECDSA, private, &DIGEST).expect("C_Sign"));
        std::thread::sleep(Duration::from_millis(300));
        let ck = app.thread();
        let session = ck.open_session(slot, 0).expect("C_OpenSession");
        for _ in 0..10 {
            ck.verify(session, CKM_ECDSA, public, &DIGEST, &signature).expect("C_Verify");
            ck.digest(session, CKM_SHA256, b"data").expect("C_Digest");
            ck.find(session, &[]).expect("C_FindObjects");
        }
        assert!(began.elapsed() < Duration::from_secs(3), "it waited: {:?}", began.elapsed());
    });
}
