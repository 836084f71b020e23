//! Crowds: many threads with many sessions in one process, many processes on one store.
//!
//! TPM11_CROWD is the number of rounds that each thread and each process makes (6; 200 takes minutes).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::abrmd::Abrmd;
use swtpm_tests::app::App;
use swtpm_tests::bench::{LABEL, PIN, tool};
use swtpm_tests::ck::{Ck, P256, bytes, flag, number};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::drive::{CKM_TPM11_DUPLICATE, Driver, Kind, Pair, Random, advertised, driver};
use swtpm_tests::{Attribute, Bench, Setup};

const DIGEST: [u8; 32] = [0x42; 32];
const LIMIT: Duration = Duration::from_secs(120);

fn rounds() -> usize {
    std::env::var("TPM11_CROWD").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(6)
}

/// A machine with more to do than it can may let a command wait long: nobody gives up here.
fn patient() -> Setup {
    let limits = "short_timeout_s = 120\ncommand_timeout_s = 120\ncall_timeout_s = 300";
    Setup::default().tpm(limits)
}

/// With tpm2-abrmd between module and TPM, or `None` with a word why not.
fn behind_abrmd() -> Option<(Bench, Abrmd)> {
    let mut bench = patient().start();
    match Abrmd::start(bench.shim.socket()) {
        Ok(abrmd) => {
            bench.add_to_environment(abrmd.environment());
            Some((bench, abrmd))
        }
        Err(missing) => {
            eprintln!("SKIPPED: no {missing} (scripts/test fetches it)");
            None
        }
    }
}

// ---- one process ---------------------------------------------------------------------------------

#[test]
fn thirty_two_threads_with_thirty_two_sessions_each_do_everything_on_a_bare_tpm() {
    thirty_two_threads(&patient().start());
}

#[test]
fn thirty_two_threads_with_thirty_two_sessions_each_do_everything_behind_the_resource_manager() {
    thirty_two_threads(&patient().managed().start());
}

#[test]
fn thirty_two_threads_with_thirty_two_sessions_each_do_everything_behind_tpm2_abrmd() {
    if let Some((bench, _abrmd)) = behind_abrmd() {
        thirty_two_threads(&bench);
    }
}

fn thirty_two_threads(bench: &Bench) {
    const THREADS: usize = 32;
    const SESSIONS: usize = 32;
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let random = &mut Random::new(32);
    let pairs: Vec<Pair> = [Kind::Ec, Kind::Ec, Kind::Ec, Kind::Ec, Kind::Rsa]
        .iter()
        .map(|kind| Pair::generate(&app, session, *kind, random, [&[], &[]]).expect("a pair"))
        .collect();
    let drivers: Vec<Driver> = advertised(&app, slot)
        .expect("a driver for everything")
        .into_iter()
        // RSA pairs take a TPM long; and who moves keys looks for the storage key, where a search is in
        // progress.
        .filter(|driver| {
            ![CKM_RSA_PKCS_KEY_PAIR_GEN, CKM_TPM11_DUPLICATE].contains(&driver.mechanism)
        })
        .collect();

    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (ck, pairs, drivers) = (app.thread(), &pairs, &drivers);
            let mut random = Random::new(thread as u64);
            scope.spawn(move || {
                let sessions: Vec<u64> = (0..SESSIONS)
                    .map(|_| ck.open_session(slot, 0).expect("C_OpenSession"))
                    .collect();
                // Each session has an operation of its own in progress, and a search.
                for session in &sessions {
                    ck.sign_init(*session, CKM_ECDSA, pairs[0].private).expect("C_SignInit");
                    begin_search(&ck, *session);
                }
                for _ in 0..rounds() {
                    let driver = random.one_of(drivers);
                    // What signs, or signs to see what it made or beside it, would find the operation active.
                    let session = *random.one_of(&sessions);
                    let may_sign = driver.operation & (CKF_DECRYPT | CKF_DIGEST) == 0;
                    if may_sign {
                        ck.sign_now(session, &DIGEST).expect("C_Sign of the operation begun");
                    }
                    let pair = pairs.iter().find(|pair| Some(pair.kind) == driver.wants());
                    driver.drive(&ck, session, pair, &mut random).unwrap_or_else(|failure| {
                        panic!("{}: {failure}\n{}", driver.name(), bench.log())
                    });
                    if may_sign {
                        ck.sign_init(session, CKM_ECDSA, pairs[0].private).expect("C_SignInit");
                    }
                }
                for session in sessions {
                    end_search(&ck, session);
                    ck.close_session(session).expect("C_CloseSession");
                }
            });
        }
    });

    app.finalize().expect("C_Finalize");
    assert_eq!(app.noise(), "");
    nothing_is_left(bench);
}

fn begin_search(ck: &Ck, session: u64) {
    let arguments = vec![session.into(), Argument::NULL, 0.into()];
    assert_eq!(ck.raw("C_FindObjectsInit", arguments).0, CKR_OK);
}

fn end_search(ck: &Ck, session: u64) {
    assert_eq!(ck.raw("C_FindObjectsFinal", vec![session.into()]).0, CKR_OK);
}

fn nothing_is_left(bench: &Bench) {
    let left = bench.shim.settled(Duration::from_secs(10));
    assert!(left.is_nothing(), "{left:?}");
    assert_eq!(bench.shim.lockout_counter(), 0);
}

// ---- many processes ------------------------------------------------------------------------------

#[test]
fn sixteen_processes_lose_nothing_in_one_store_on_a_bare_tpm() {
    sixteen_processes(&patient().start());
}

#[test]
fn sixteen_processes_lose_nothing_in_one_store_behind_the_resource_manager() {
    sixteen_processes(&patient().managed().start());
}

#[test]
fn sixteen_processes_lose_nothing_in_one_store_behind_tpm2_abrmd() {
    if let Some((bench, _abrmd)) = behind_abrmd() {
        sixteen_processes(&bench);
    }
}

/// Each creates, lists, signs and deletes; two others hold searches open all the while. Nobody gets
/// any return value but CKR_OK.
fn sixteen_processes(bench: &Bench) {
    const PROCESSES: usize = 16;
    bench.token();
    let (app, session) = bench.logged_in();
    let extra = [flag(CKA_TOKEN, true), bytes(CKA_LABEL, "shared")];
    let random = &mut Random::new(16);
    let shared = Pair::generate(&app, session, Kind::Ec, random, [&extra, &extra]).expect("a pair");

    let kept: BTreeSet<String> = std::thread::scope(|scope| {
        let searchers: Vec<(App, u64)> = (0..2).map(|_| bench.logged_in()).collect();
        for (searcher, session) in &searchers {
            begin_search(searcher, *session);
        }
        let workers: Vec<_> = (0..PROCESSES)
            .map(|number| {
                let shared = &shared;
                scope.spawn(move || one_of_sixteen(bench, number, shared))
            })
            .collect();
        // One copy after another while they write; the first one is brought back below.
        let mut copies = 0;
        while copies < 8 {
            copies += 1;
            back_up(bench, &copy_of(bench, copies));
        }
        let kept = workers.into_iter().flat_map(|worker| worker.join().expect("no panic"));
        let kept = kept.collect();
        for (searcher, session) in &searchers {
            // What was there when the search began: the shared pair, at least, is told still.
            let room = vec![(*session).into(), Memory::room(80).into(), 10.into()];
            let arguments = [room, vec![Memory::room(8).into()]].concat();
            let (rv, arguments) = searcher.raw("C_FindObjects", arguments);
            assert_eq!(rv, CKR_OK);
            assert!(arguments[3].memory().word_at(0) >= 2);
            end_search(searcher, *session);
            searcher.finalize().expect("C_Finalize");
        }
        kept
    });

    let found: Vec<String> = app
        .find(session, &[])
        .expect("C_FindObjects")
        .into_iter()
        .map(|object| app.attribute(session, object, CKA_LABEL).expect("CKA_LABEL"))
        .map(|label| String::from_utf8(label).expect("a label"))
        .filter(|label| label != "shared")
        .collect();
    assert_eq!(found.len(), kept.len(), "no label twice");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), kept);
    app.finalize().expect("C_Finalize");
    // The next login proves the digest over the set of rows; the file itself, SQLite.
    let (app, session) = bench.logged_in();
    let wanted = [private_keys(), bytes(CKA_LABEL, "shared")];
    let signing = driver(CKM_ECDSA, CKF_SIGN).expect("there is one");
    let private = app.find(session, &wanted).expect("C_FindObjects")[0];
    signing
        .drive(&app, session, Some(&Pair { private, ..shared.clone() }), random)
        .expect("it signs");
    app.finalize().expect("C_Finalize");
    whole_database(&bench.store());
    // The first copy was made in the middle of it: one committed state, that this TPM opens.
    let store = bench.store();
    std::fs::remove_dir_all(&store).expect("the store is lost");
    let mut restore = bench.command(tool());
    restore.arg("restore").arg(copy_of(bench, 1));
    let output = bench.run(restore, LIMIT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (app, session) = bench.logged_in();
    let private = app.find(session, &wanted).expect("C_FindObjects")[0];
    signing.drive(&app, session, Some(&Pair { private, ..shared }), random).expect("it signs");
    app.finalize().expect("C_Finalize");
    whole_database(&store);
    nothing_is_left(bench);
}

/// Where the backups are.
fn copy_of(bench: &Bench, number: usize) -> PathBuf {
    bench.directory().join(format!("copy-{number}"))
}

/// `tpm11 backup`, and SQLite's word for it.
fn back_up(bench: &Bench, file: &Path) {
    let mut backup = bench.command(tool());
    backup.arg("backup").arg(file);
    let output = bench.run(backup, LIMIT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(integrity(file), "ok");
}

/// The labels of what it leaves.
fn one_of_sixteen(bench: &Bench, which: usize, shared: &Pair) -> Vec<String> {
    let (app, session) = bench.logged_in();
    let signing = driver(CKM_ECDSA, CKF_SIGN).expect("there is one");
    let mut random = Random::new(which as u64);
    let mut kept = Vec::new();
    for round in 0..rounds() {
        let label = format!("{which}-{round}");
        let made = if round % 4 == 3 {
            let extra = [flag(CKA_TOKEN, true), bytes(CKA_LABEL, label.clone())];
            let params = [&[bytes(CKA_EC_PARAMS, P256)], &extra[..]].concat();
            let pair = app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &params, &extra);
            let (public, private) = bench.must("C_GenerateKeyPair", pair);
            // Its private half stays.
            bench.must("C_DestroyObject", app.destroy_object(session, public));
            private
        } else {
            let template = [
                number(CKA_CLASS, CKO_DATA),
                flag(CKA_TOKEN, true),
                flag(CKA_PRIVATE, round % 2 == 0),
                bytes(CKA_LABEL, label.clone()),
                bytes(CKA_VALUE, random.bytes(500)),
            ];
            bench.must("C_CreateObject", app.create_object(session, &template))
        };
        let listed = bench.must("C_FindObjects", app.find(session, &[]));
        assert!(listed.contains(&made));
        let wanted = [private_keys(), bytes(CKA_LABEL, "shared")];
        let private = bench.must("C_FindObjects", app.find(session, &wanted))[0];
        let pair = Pair { private, ..shared.clone() };
        signing
            .drive(&app, session, Some(&pair), &mut random)
            .unwrap_or_else(|failure| panic!("{failure}\n{}", bench.log()));
        if round % 3 == 1 {
            bench.must("C_DestroyObject", app.destroy_object(session, made));
        } else {
            kept.push(label);
        }
    }
    bench.must("C_Finalize", app.finalize());
    assert_eq!(app.noise(), "");
    kept
}

fn private_keys() -> Attribute {
    number(CKA_CLASS, CKO_PRIVATE_KEY)
}

fn integrity(file: &Path) -> String {
    let database = rusqlite::Connection::open(file).expect("it opens");
    database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer")
}

fn whole_database(store: &Path) {
    let mut databases = 0;
    for file in std::fs::read_dir(store).expect("the store").flatten() {
        let content = std::fs::read(file.path()).expect("a file");
        if content.starts_with(b"SQLite format 3\0") {
            assert_eq!(integrity(&file.path()), "ok");
            databases += 1;
        }
    }
    assert_eq!(databases, 1);
}

// ---- a bare swtpm, as continuous integration has it ----------------------------------------------

#[test]
fn four_processes_sign_on_one_bare_swtpm_that_nobody_started_up_and_all_finish() {
    let bench = Setup::default().without_startup().start();
    bench.token();
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.finalize().expect("C_Finalize");

    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (app, session) = bench.logged_in();
                let key = app.find(session, &[private_keys()]).expect("C_FindObjects")[0];
                for _ in 0..10 {
                    bench.must("C_Sign", app.sign(session, CKM_ECDSA, key, &DIGEST));
                }
                app.finalize().expect("C_Finalize");
            });
        }
    });

    let record = bench.shim.record();
    // Once, by whoever came first: it is not sent on suspicion.
    assert_eq!(record.count(swtpm_tests::wire::STARTUP), 1, "{}", record.lines());
    nothing_is_left(&bench);
}

#[test]
fn a_logged_in_process_that_idles_leaves_a_bare_swtpm_to_the_others() {
    let bench = Bench::start();
    bench.token();
    let (idle, its_session) = bench.logged_in();
    let (_, its_key) = idle.generate_ec(its_session, P256, "key").expect("C_GenerateKeyPair");

    let (app, session) = bench.logged_in();
    let key = app.find(session, &[private_keys()]).expect("C_FindObjects")[0];
    for _ in 0..5 {
        bench.must("C_Sign", app.sign(session, CKM_ECDSA, key, &DIGEST));
        bench.must("C_Sign", idle.sign(its_session, CKM_ECDSA, its_key, &DIGEST));
    }
    app.finalize().expect("C_Finalize");
    idle.finalize().expect("C_Finalize");
    nothing_is_left(&bench);
}

// ---- threads -------------------------------------------------------------------------------------

#[test]
fn operations_belong_to_their_session_whatever_other_threads_do_in_theirs() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (public, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    let slot = app.slot_of(LABEL).expect("the token");
    let message: Vec<u8> = (0..64).collect();

    // All begin, then all go on part by part in turn, then all end.
    let clients: Vec<(Ck, u64)> = (0..8)
        .map(|_| {
            let ck = app.thread();
            let session = ck.open_session(slot, 0).expect("C_OpenSession");
            ck.sign_init(session, CKM_ECDSA_SHA256, private).expect("C_SignInit");
            (ck, session)
        })
        .collect();
    for part in message.chunks(16) {
        for (number, (ck, session)) in clients.iter().enumerate() {
            let mut part = part.to_vec();
            part[0] ^= number as u8;
            ck.sign_update(*session, &part).expect("C_SignUpdate");
        }
    }
    for (number, (ck, session)) in clients.iter().enumerate() {
        let mut own = message.clone();
        own.iter_mut().step_by(16).for_each(|byte| *byte ^= number as u8);
        let signature = ck.sign_final(*session).expect("C_SignFinal");
        ck.verify(*session, CKM_ECDSA_SHA256, public, &own, &signature).expect("its own message");
    }
    // And the login is the process's: each of them used it, none has logged in.
    assert!(app.login(session, PIN).is_err());
}
