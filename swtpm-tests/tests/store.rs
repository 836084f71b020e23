//! The store under the whole module: two copies of it in one process, forked children that write.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, module, run};
use swtpm_tests::ck::{Ck, P256, Rv, bytes, flag, number};
use swtpm_tests::door::Library;
use swtpm_tests::{Attribute, Bench};

const DIGEST: [u8; 32] = [0x42; 32];
const ROLE: &str = "STORE_TEST_ROLE";

/// A certificate's worth of data, found by its label.
fn data(label: &str) -> Vec<Attribute> {
    vec![
        number(CKA_CLASS, CKO_DATA),
        flag(CKA_TOKEN, true),
        flag(CKA_PRIVATE, true),
        bytes(CKA_LABEL, label),
        bytes(CKA_VALUE, vec![7; 900]),
    ]
}

fn labels(ck: &Ck, session: u64) -> BTreeSet<String> {
    let found = ck.find(session, &[number(CKA_CLASS, CKO_DATA)]).expect("C_FindObjects");
    let label = |object| {
        String::from_utf8(ck.attribute(session, object, CKA_LABEL).expect("CKA_LABEL")).unwrap()
    };
    found.into_iter().map(label).collect()
}

fn logged_in(ck: &Ck, flags: u64) -> u64 {
    ck.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
    let slot = ck.slot_of(LABEL).expect("the token");
    let session = ck.open_session(slot, flags).expect("C_OpenSession");
    ck.login(session, PIN).expect("C_Login");
    session
}

/// Starts this test program again, in the bench's environment, to load the module itself.
fn in_one_process(bench: &Bench, role: &str) {
    let mut command = bench.command(std::env::current_exe().expect("this program"));
    command.args(["--exact", "one_process", "--nocapture"]).env(ROLE, role).stdout(Stdio::piped());
    let output = run(command, Duration::from_secs(120));
    assert!(
        output.status.success(),
        "{}{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        bench.log()
    );
}

/// No test by itself: what the other process does.
#[test]
fn one_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let copy =
        std::env::current_dir().expect("the bench's directory").join("copy-of-the-module.so");
    std::fs::copy(module(), &copy).expect("a copy of the module");
    let load = |path: &Path| Ck::new(Arc::new(Library::load(path)));
    let (one, two) = (load(&module()), load(&copy));
    let session = logged_in(&one, CKF_RW_SESSION);
    match role.as_str() {
        "both" => both(&one, session, &two),
        "come and go" => come_and_go(&one, session, &two),
        other => panic!("no such role: {other}"),
    }
    one.finalize().expect("C_Finalize");
}

fn both(one: &Ck, session: u64, two: &Ck) {
    one.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    two.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize of the copy");
    let slot = two.slot_of(LABEL).expect("the token, in the copy, too");
    let flags = two.token_flags(slot).expect("C_GetTokenInfo");
    assert_ne!(flags & CKF_WRITE_PROTECTED, 0, "the second copy does not write");
    let its = two.open_session(slot, 0).expect("C_OpenSession");
    two.login(its, PIN).expect("C_Login");
    let wanted = [number(CKA_CLASS, CKO_PRIVATE_KEY), bytes(CKA_LABEL, "key")];
    let key = two.find(its, &wanted).expect("C_FindObjects")[0];
    two.sign(its, CKM_ECDSA, key, &DIGEST).expect("the copy signs");

    one.create_object(session, &data("later")).expect("the first copy writes on");
    assert!(labels(two, its).contains("later"), "and the second sees it");
    two.finalize().expect("C_Finalize of the copy");
    one.create_object(session, &data("last")).expect("the first copy still writes");
}

fn come_and_go(one: &Ck, session: u64, two: &Ck) {
    let (two, written) = (two.clone(), Arc::new(AtomicBool::new(false)));
    let done = Arc::clone(&written);
    let visitor = std::thread::spawn(move || {
        while !done.load(Ordering::Relaxed) {
            two.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize of the copy");
            let slot = two.slot_of(LABEL).expect("the token");
            let its = two.open_session(slot, 0).expect("C_OpenSession");
            two.find(its, &[number(CKA_CLASS, CKO_DATA)]).expect("C_FindObjects");
            two.finalize().expect("C_Finalize of the copy");
        }
    });
    for index in 0..60 {
        one.create_object(session, &data(&format!("inside {index}"))).expect("C_CreateObject");
    }
    written.store(true, Ordering::Relaxed);
    visitor.join().expect("the second copy's thread");
}

#[test]
fn of_two_copies_in_one_process_the_second_only_reads() {
    let bench = Bench::start();
    bench.token();
    in_one_process(&bench, "both");
    let (app, session) = bench.logged_in();
    assert_eq!(labels(&app, session), ["last", "later"].map(str::to_owned).into());
    assert!(bench.log().contains("only reads it"), "and the log says why: {}", bench.log());
}

/// POSIX locks of a process fall when any of its descriptors of the file is closed: if the second
/// copy opened and closed the file, the first one's commits and another process's would meet.
#[test]
fn what_was_acknowledged_stays_while_a_second_copy_comes_and_goes() {
    let bench = Bench::start();
    bench.token();
    std::thread::scope(|scope| {
        scope.spawn(|| in_one_process(&bench, "come and go"));
        let (app, session) = bench.logged_in();
        for index in 0..60 {
            app.create_object(session, &data(&format!("outside {index}"))).expect("C_CreateObject");
        }
        app.finalize().expect("C_Finalize");
    });
    let (app, session) = bench.logged_in();
    let mut expected = BTreeSet::new();
    for place in ["inside", "outside"] {
        expected.extend((0..60).map(|index| format!("{place} {index}")));
    }
    assert_eq!(labels(&app, session), expected);
    assert!(!bench.log().contains("changed outside"), "{}", bench.log());
}

#[test]
fn a_forked_child_writes_and_so_does_its_parent() {
    let bench = Bench::start();
    bench.token();
    let (parent, session) = bench.logged_in();
    parent.create_object(session, &data("before")).expect("C_CreateObject");

    let child = parent.fork();
    let its = logged_in(&child, CKF_RW_SESSION);
    child.create_object(its, &data("child")).expect("C_CreateObject in the child");
    parent.create_object(session, &data("parent")).expect("C_CreateObject in the parent");
    assert_eq!(labels(&child, its), labels(&parent, session));
    child.finalize().expect("C_Finalize in the child");
    parent.create_object(session, &data("after")).expect("C_CreateObject in the parent");

    let (app, session) = bench.logged_in();
    let all = ["before", "child", "parent", "after"];
    assert_eq!(labels(&app, session), all.map(str::to_owned).into());
}

#[test]
fn a_store_of_a_later_version_is_read_and_signed_with_and_never_written() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.finalize().expect("C_Finalize");
    bench.make_store_later();
    let file = bench.store().join("tpm11.sqlite3");
    let before = std::fs::read(&file).expect("the store");

    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    assert_ne!(app.token_info(slot).expect("C_GetTokenInfo").flags & CKF_WRITE_PROTECTED, 0);
    assert_eq!(app.open(slot), Err(Rv(CKR_TOKEN_WRITE_PROTECTED)), "a session that may write");
    let session = app.open_session(slot, 0).expect("a session that reads");
    app.login(session, PIN).expect("C_Login");
    let key = app.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("C_FindObjects")[0];
    app.sign(session, CKM_ECDSA, key, &[7; 32]).expect("C_Sign");
    // What needs no store goes on.
    let template = [flag(CKA_TOKEN, false), number(CKA_VALUE_LEN, 32)];
    app.generate_key(session, CKM_AES_KEY_GEN, &template).expect("a session key");
    let refused = app.init_token(slot, SO_PIN, "another");
    assert_eq!(refused, Err(Rv(CKR_SESSION_EXISTS)));
    app.finalize().expect("C_Finalize");
    let app = bench.ready();
    let refused = app.init_token(app.slot_of(LABEL).expect("the token"), SO_PIN, "another");
    assert_eq!(refused, Err(Rv(CKR_TOKEN_WRITE_PROTECTED)));
    app.finalize().expect("C_Finalize");

    assert_eq!(std::fs::read(&file).expect("the store"), before);
    assert!(bench.log().contains("later version"), "{}", bench.log());
}
