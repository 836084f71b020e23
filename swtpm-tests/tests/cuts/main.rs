//! The store under every call that changes it, while the disk fails, fills up, loses power or the process
//! dies, at each single thing that the call asks of the disk.
//!
//! The module is linked into this program, so that a disk of the test's own (`disk.rs`) can be put under
//! its SQLite. A test starts this program again for `another_process`, in which the module lives; what the
//! TPM does is real.
//!
//! `TPM11_TEST_SAMPLES=10` takes ten times as many power cuts.

mod disk;

#[allow(unsafe_code)] // the module's C functions, by name
mod linked;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cryptoki_sys::*;
use disk::{Asked, Disk, Wrong};
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, run};
use swtpm_tests::ck::{Answer, Ck, P256, Rv, bytes, flag, number};
use swtpm_tests::{Attribute, Bench};
use tpm11::store::{FILE, Options, Sealer, Store, check};
use tpm11::tpm::pin::{Gate, Role};
use tpm11::tpm::{Settings, Tpm};

const ROLE: &str = "CUTS_ROLE";
const TCTI: &str = "CUTS_TCTI";
const SAMPLES: &str = "CUTS_SAMPLES";

/// What the other process is to do, and how often.
fn samples(usual: usize) -> usize {
    let times = std::env::var(SAMPLES).or_else(|_| std::env::var("TPM11_TEST_SAMPLES"));
    usual * times.ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// A directory in memory, where there is one: nothing here depends on what a real disk does.
fn in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let mut place = tempfile::Builder::new();
    place.prefix("tpm11-cuts-");
    place.tempdir_in(memory).or_else(|_| place.tempdir()).expect("a directory")
}

/// Runs `role` in a process of its own, with the store in memory. What it printed.
fn in_one_process(bench: &Bench, store: &Path, role: &str) -> String {
    let mut command = bench.command(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "another_process", "--nocapture"])
        .env(ROLE, role)
        .env(TCTI, bench.shim.tcti())
        .env(SAMPLES, samples(1).to_string())
        .env("TPM11_STORE", store)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = run(command, Duration::from_secs(3600));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}{}",
        String::from_utf8_lossy(&output.stderr),
        bench.log()
    );
    for line in said.lines().filter_map(|line| line.strip_prefix("> ")) {
        println!("{line}");
    }
    said
}

/// No test: what the other process does. Run for itself it does nothing.
#[test]
fn another_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let place = PathBuf::from(std::env::var_os("TPM11_STORE").expect("a place for the store"));
    match role.as_str() {
        "cut objects" => cut_everywhere(&place, OBJECTS),
        "cut tokens" => cut_everywhere(&place, TOKENS),
        "fail objects" => fail_everywhere(&place),
        "fail tokens" => fail_tokens_everywhere(&place),
        other => die_at_commit(&place, other),
    }
}

// ---- what is called ----------------------------------------------------------------------------------

/// A call that writes: what must be there before, and the call.
struct Scene {
    name: &'static str,
    prepare: fn(&Ck, u64) -> Vec<u64>,
    call: fn(&Ck, u64, &[u64]) -> Answer<()>,
}

fn data(label: &str, private: bool, size: usize) -> Vec<Attribute> {
    vec![
        number(CKA_CLASS, CKO_DATA),
        flag(CKA_TOKEN, true),
        flag(CKA_PRIVATE, private),
        bytes(CKA_LABEL, label),
        bytes(CKA_VALUE, vec![7; size]),
    ]
}

fn made(ck: &Ck, session: u64, size: usize) -> Vec<u64> {
    vec![ck.create_object(session, &data("made", true, size)).expect("C_CreateObject")]
}

fn nothing(_: &Ck, _: u64) -> Vec<u64> {
    Vec::new()
}

/// Calls of a user who is logged in.
const OBJECTS: &[Scene] = &[
    Scene {
        name: "C_CreateObject, private",
        prepare: nothing,
        call: |ck, session, _| ck.create_object(session, &data("new", true, 700)).map(drop),
    },
    Scene {
        name: "C_CreateObject, public",
        prepare: nothing,
        call: |ck, session, _| ck.create_object(session, &data("new", false, 700)).map(drop),
    },
    Scene {
        name: "C_CreateObject, of many pages",
        prepare: nothing,
        call: |ck, session, _| ck.create_object(session, &data("new", true, 60_000)).map(drop),
    },
    Scene {
        name: "C_SetAttributeValue",
        prepare: |ck, session| made(ck, session, 300),
        call: |ck, session, made| {
            ck.set_attributes(session, made[0], &[bytes(CKA_LABEL, "changed")])
        },
    },
    Scene {
        name: "C_SetAttributeValue, to many pages",
        prepare: |ck, session| made(ck, session, 300),
        call: |ck, session, made| {
            ck.set_attributes(session, made[0], &[bytes(CKA_VALUE, vec![9; 40_000])])
        },
    },
    Scene {
        name: "C_CopyObject",
        prepare: |ck, session| made(ck, session, 300),
        call: |ck, session, made| {
            ck.copy_object(session, made[0], &[bytes(CKA_LABEL, "copy")]).map(drop)
        },
    },
    Scene {
        name: "C_DestroyObject",
        prepare: |ck, session| made(ck, session, 300),
        call: |ck, session, made| ck.destroy_object(session, made[0]),
    },
    Scene {
        name: "C_DestroyObject, of many pages",
        prepare: |ck, session| made(ck, session, 60_000),
        call: |ck, session, made| ck.destroy_object(session, made[0]),
    },
    Scene {
        name: "C_GenerateKeyPair",
        prepare: nothing,
        call: |ck, session, _| ck.generate_ec(session, P256, "pair").map(drop),
    },
];

/// Calls that write the token's own row. They get a session without login.
const TOKENS: &[Scene] = &[
    Scene {
        name: "C_Login with a wrong PIN",
        prepare: nothing,
        call: |ck, session, _| match ck.login(session, b"wrong") {
            Err(Rv(CKR_PIN_INCORRECT)) => Ok(()),
            other => other,
        },
    },
    Scene {
        name: "C_Login after a wrong PIN",
        prepare: |ck, session| {
            assert_eq!(ck.login(session, b"wrong"), Err(Rv(CKR_PIN_INCORRECT)));
            Vec::new()
        },
        call: |ck, session, _| {
            ck.login(session, PIN)?;
            ck.logout(session)
        },
    },
    Scene {
        name: "C_SetPIN",
        prepare: nothing,
        call: |ck, session, _| {
            ck.set_pin(session, PIN, b"another PIN")?;
            ck.set_pin(session, b"another PIN", PIN)
        },
    },
    Scene {
        name: "C_InitPIN",
        prepare: nothing,
        call: |ck, session, _| {
            ck.login_so(session, SO_PIN)?;
            let set = ck.init_no_pin(session).and_then(|()| ck.init_pin(session, PIN));
            ck.logout(session).and(set)
        },
    },
    Scene {
        name: "C_InitToken and the first C_InitPIN",
        prepare: nothing,
        call: |ck, _, _| {
            let slot = ck.empty_slot().expect("an empty slot");
            ck.init_token(slot, SO_PIN, "another")?;
            let session = ck.open(slot)?;
            ck.login_so(session, SO_PIN)?;
            ck.init_pin(session, PIN)?;
            ck.close_all_sessions(slot)
        },
    },
    Scene {
        name: "C_InitToken in the place of another",
        prepare: |ck, _| vec![ck.slot_of("another").expect("the token made before")],
        call: |ck, _, slot| ck.init_token(slot[0], SO_PIN, "anew"),
    },
];

// ---- what is there -------------------------------------------------------------------------------------

type Sealers = BTreeMap<[u8; 16], Sealer>;

/// Opens every token as a login does.
fn sealers(place: &Path) -> Sealers {
    let store = Store::open(place, &Options::default()).expect("the store");
    let tcti = std::env::var(TCTI).expect("the TPM");
    let tpm = Tpm::new(Settings { tcti, ..Settings::default() }, None, Box::new(|_| false));
    let open = |row: tpm11::store::TokenRow| {
        let gate = Gate::from_bytes(&row.gate).expect("a gate");
        let opened = tpm.login(&tpm.call(), &gate, Role::So, SO_PIN).ok()?;
        Some((row.serial, Sealer::new(&opened.token_secret, &row.serial)))
    };
    let sealers = store.tokens().expect("the tokens").into_iter().filter_map(open).collect();
    tpm.end();
    sealers
}

/// Everything that can be seen of a store; it must be whole.
fn state(place: &Path, sealers: &Sealers) -> String {
    let store = Store::open(place, &Options::default()).expect("a store that opens");
    assert_eq!(store.integrity(), Ok(Vec::new()));
    let mut text = String::new();
    for token in store.tokens().expect("the tokens") {
        writeln!(text, "{token:?}").unwrap();
        let Some(sealer) = sealers.get(&token.serial) else { continue };
        let report = store.verify_set(&token.serial, sealer).expect("the set");
        assert!(report.intact && report.bad.is_empty(), "{report:?}");
        for id in store.find(&token.serial, Some(sealer), &[]).expect("the objects") {
            let row = store.row(&token.serial, id).expect("a row").expect("which was found");
            let row = check(row, sealer).expect("the owner's");
            writeln!(text, "{id} {} {:?} {:?}", row.version, row.attributes, row.private_blob)
                .unwrap();
        }
    }
    assert_eq!(store.writable(), Ok(()));
    drop(store);
    for file in std::fs::read_dir(place).unwrap().map(Result::unwrap) {
        // A journal without content stays until the next write.
        let name = file.file_name().to_string_lossy().into_owned();
        assert!([FILE, &format!("{FILE}-journal")].contains(&name.as_str()), "{name} was left");
    }
    text
}

/// The same of a copy, as another process finds it that comes after the death of this one.
fn state_of_copy(place: &Path, sealers: &Sealers) -> String {
    let copy = in_memory();
    Disk::of(place).seen(None, copy.path());
    state(copy.path(), sealers)
}

// ---- kills and power cuts ------------------------------------------------------------------------------

#[derive(Default)]
struct Tally {
    kills: usize,
    halves: usize,
    cuts: usize,
}

fn module() -> (Ck, u64, u64) {
    let ck = Ck::new(std::sync::Arc::new(linked::library()));
    ck.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
    let slot = ck.slot_of(LABEL).expect("the token");
    let session = ck.open(slot).expect("C_OpenSession");
    (ck, slot, session)
}

/// Notes what each call asks of the disk, and looks at everything that a death of the process or of the
/// machine could have left.
fn cut_everywhere(place: &Path, scenes: &[Scene]) {
    use rand_core::SeedableRng;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(12);
    disk::watch(place);
    let (ck, _, session) = module();
    if std::ptr::eq(scenes, OBJECTS) {
        ck.login(session, PIN).expect("C_Login");
        // Pages enough that the tree has inner ones.
        for index in 0..12 {
            ck.create_object(session, &data(&format!("old {index}"), index % 2 == 0, 500)).unwrap();
        }
    }
    let mut all = Tally::default();
    for scene in scenes {
        let prepared = (scene.prepare)(&ck, session);
        let before = in_memory();
        Disk::of(place).seen(None, before.path());
        let (asked, answer) = disk::recorded(|| (scene.call)(&ck, session, &prepared));
        assert_eq!(answer, Ok(()), "{}", scene.name);
        // A PIN changes in the TPM alone.
        let writes = scene.name != "C_SetPIN";
        assert_eq!(asked.iter().any(Asked::commits), writes, "{}: {asked:?}", scene.name);
        // After the call: tokens that are made in it can be opened now.
        let sealers = sealers(place);
        let tally = survey(scene.name, before.path(), &asked, &sealers, &mut random);
        println!(
            "> {}: {} requests; {} kills, {} within a write, {} power cuts",
            scene.name,
            asked.len(),
            tally.kills,
            tally.halves,
            tally.cuts
        );
        all.kills += tally.kills;
        all.halves += tally.halves;
        all.cuts += tally.cuts;
    }
    println!(
        "> together {} kills, {} within a write, {} power cuts: 0 acknowledged lost, 0 half done",
        all.kills, all.halves, all.cuts
    );
    ck.finalize().expect("C_Finalize");
}

/// Before and after each request: the last state that was committed, no other.
fn survey(
    name: &str,
    before: &Path,
    asked: &[Asked],
    sealers: &Sealers,
    random: &mut rand_chacha::ChaCha8Rng,
) -> Tally {
    let mut tally = Tally::default();
    let found = |make: &mut dyn FnMut(&Path)| {
        let image = in_memory();
        make(image.path());
        state(image.path(), sealers)
    };
    let mut committed = state_of_copy(before, sealers);
    let mut disk = Disk::of(before);
    for cut in 0..=asked.len() {
        let next = asked.get(cut);
        let place = || {
            let next = next.map_or_else(|| "the end".to_owned(), Asked::what);
            format!("{name}, before request {cut}, {next}")
        };
        assert_eq!(found(&mut |to| disk.seen(None, to)), committed, "{}", place());
        tally.kills += 1;
        if matches!(next, Some(Asked::Write(..))) {
            assert_eq!(found(&mut |to| disk.seen(next, to)), committed, "{}, half", place());
            tally.halves += 1;
        }
        for _ in 0..samples(1) {
            let left = found(&mut |to| disk.survives(random, to));
            assert_eq!(left, committed, "{}, power", place());
            tally.cuts += 1;
        }
        let Some(next) = next else { break };
        if let Asked::Remove(name, true) = next {
            // The name is taken away, and the power goes before that is durable.
            let after = {
                let mut after = disk.clone();
                after.ask(next);
                found(&mut |to| after.seen(None, to))
            };
            let mut between = disk.clone();
            between.ask(&Asked::Remove(name.clone(), false));
            for _ in 0..samples(1) {
                let left = found(&mut |to| between.survives(random, to));
                assert!(left == committed || left == after, "{}, unlinked", place());
                tally.cuts += 1;
            }
            committed = after;
        }
        disk.ask(next);
    }
    tally
}

#[test]
fn no_death_in_a_call_that_changes_objects_loses_what_was_acknowledged_or_leaves_half_of_it() {
    let bench = Bench::start();
    bench.token();
    let store = in_memory();
    Disk::of(&bench.store()).seen(None, store.path());
    in_one_process(&bench, store.path(), "cut objects");
}

#[test]
fn no_death_in_a_call_that_changes_a_token_leaves_half_of_it() {
    let bench = Bench::start();
    bench.token();
    let store = in_memory();
    Disk::of(&bench.store()).seen(None, store.path());
    in_one_process(&bench, store.path(), "cut tokens");
    assert_eq!(
        bench.shim.nv_indices().len(),
        4,
        "two tokens' PIN indices, none of the replaced one"
    );
}

// ---- a disk that fails -----------------------------------------------------------------------------------

/// What goes wrong, and what a call that does not succeed for it returns.
const WRONG: [(Wrong, u64); 7] = [
    (Wrong::Fails(libc::ENOSPC), CKR_DEVICE_MEMORY),
    (Wrong::FailsOn(libc::EIO), CKR_DEVICE_ERROR),
    (Wrong::Short, CKR_DEVICE_MEMORY),
    (Wrong::Fails(libc::EROFS), CKR_TOKEN_WRITE_PROTECTED),
    (Wrong::Fails(libc::EDQUOT), CKR_DEVICE_MEMORY),
    (Wrong::Fails(libc::EIO), CKR_DEVICE_ERROR),
    (Wrong::FailsOn(libc::ENOSPC), CKR_DEVICE_MEMORY),
];

/// Runs `job` with something wrong at its first request to the disk, at its second and so on, until it
/// makes fewer; each time another thing is wrong, or several of them one after the other. `job` heals the
/// disk and says whether anything was met. How often it was.
fn each_failure(first: usize, mut job: impl FnMut(usize, Wrong, u64) -> bool) -> usize {
    let (mut met, mut turn) = (0, first);
    for n in 1.. {
        assert!(n < 1000, "no end");
        let mut any = false;
        for _ in 0..samples(1).min(WRONG.len()) {
            let (wrong, rv) = WRONG[turn % WRONG.len()];
            turn += 1;
            any |= job(n, wrong, rv);
            met += usize::from(any);
        }
        if !any {
            break;
        }
    }
    met
}

fn fail_everywhere(place: &Path) {
    disk::watch(place);
    let (ck, _, session) = module();
    ck.login(session, PIN).expect("C_Login");
    for index in 0..4 {
        ck.create_object(session, &data(&format!("old {index}"), index % 2 == 0, 500)).unwrap();
    }
    let sealers = sealers(place);
    let old = ck.find(session, &[]).expect("the objects");
    let mut all = 0;
    for (first, scene) in OBJECTS.iter().enumerate() {
        let met = each_failure(first, |n, wrong, expected| {
            let prepared = (scene.prepare)(&ck, session);
            let before = state_of_copy(place, &sealers);
            let there = ck.find(session, &[]).expect("the objects");
            disk::go_wrong(n, wrong);
            let answer = (scene.call)(&ck, session, &prepared);
            let met = disk::heal() > 0;
            let what = format!("{}, {wrong:?} at request {n}", scene.name);
            if met {
                assert_eq!(answer, Err(Rv(expected)), "{what}");
                assert_eq!(state_of_copy(place, &sealers), before, "{what}: as another sees it");
                assert_eq!(ck.find(session, &[]), Ok(there), "{what}: as this one sees it");
                for handle in &prepared {
                    ck.attribute(session, *handle, CKA_LABEL).expect("a handle that lives");
                }
                assert_eq!((scene.call)(&ck, session, &prepared), Ok(()), "{what}: the next time");
            } else {
                assert_eq!(answer, Ok(()), "{what}");
            }
            for new in ck.find(session, &[]).unwrap().iter().filter(|new| !old.contains(new)) {
                ck.destroy_object(session, *new).expect("C_DestroyObject");
            }
            met
        });
        println!("> {}: {met} failures", scene.name);
        all += met;
    }
    println!("> together {all} failures: each told, nothing changed, the next call works");
    ck.finalize().expect("C_Finalize");
}

/// What a token writes besides its objects. `place` is not opened by anybody else.
fn fail_tokens_everywhere(place: &Path) {
    disk::watch(place);
    let (ck, _, session) = module();
    let mut all = 0;
    // What the store last saw of the tries is a hint: a disk that fails does not make a PIN wrong.
    for scene in TOKENS.iter().filter(|scene| scene.name.starts_with("C_Login")) {
        all += each_failure(all, |n, wrong, expected| {
            let prepared = (scene.prepare)(&ck, session);
            disk::go_wrong(n, wrong);
            let answer = (scene.call)(&ck, session, &prepared);
            let met = disk::heal() > 0;
            // A disk that does nothing any more lets nobody take back a half commit, nor read it.
            let dead = matches!(wrong, Wrong::FailsOn(_)) && answer == Err(Rv(expected));
            assert!(answer == Ok(()) || dead, "{}, {wrong:?} at {n}: {answer:?}", scene.name);
            // Takes the tries back.
            ck.login(session, PIN).expect("C_Login");
            ck.logout(session).expect("C_Logout");
            met
        });
    }
    all += each_failure(all, |n, wrong, expected| {
        ck.login_so(session, SO_PIN).expect("C_Login(SO)");
        disk::go_wrong(n, wrong);
        let answer = ck.init_no_pin(session).and_then(|()| ck.init_pin(session, PIN));
        let met = disk::heal() > 0;
        assert!(answer == Ok(()) || answer == Err(Rv(expected)), "C_InitPIN: {answer:?}");
        assert_eq!(ck.init_pin(session, PIN), Ok(()), "C_InitPIN, {wrong:?} at {n}: the next time");
        ck.logout(session).expect("C_Logout");
        ck.login(session, PIN).expect("the PIN that was acknowledged");
        ck.logout(session).expect("C_Logout");
        met
    });
    let mut tokens = 1;
    let mut label = String::new();
    all += each_failure(all, |n, wrong, expected| {
        let empty = ck.empty_slot().expect("an empty slot");
        label = format!("new {n} {wrong:?}");
        disk::go_wrong(n, wrong);
        let answer = ck.init_token(empty, SO_PIN, &label);
        let met = disk::heal() > 0;
        let what = format!("C_InitToken, {wrong:?} at {n}: {answer:?}");
        assert!(answer == Ok(()) || answer == Err(Rv(expected)), "{what}");
        ck.login(session, PIN).expect("the other token is untouched");
        ck.logout(session).expect("C_Logout");
        ck.slots(true).expect("C_GetSlotList");
        match ck.slot_of(&label) {
            None => assert!(answer.is_err(), "{what}: acknowledged and lost"),
            // After an error, too, if the error came when all was done but the last commit.
            Some(slot) => {
                assert!(
                    answer.is_ok() || matches!(wrong, Wrong::FailsOn(_)),
                    "{what}: it is there"
                );
                tokens += 1;
                let its = ck.open(slot).expect("C_OpenSession");
                ck.login_so(its, SO_PIN).expect("a whole token");
                ck.close_all_sessions(slot).expect("C_CloseAllSessions");
            }
        }
        met
    });
    all += each_failure(all, |n, wrong, expected| {
        let slot = ck.slot_of(&label).expect("the token");
        let new = format!("anew {n} {wrong:?}");
        disk::go_wrong(n, wrong);
        let answer = ck.init_token(slot, SO_PIN, &new);
        let met = disk::heal() > 0;
        let what = format!("C_InitToken anew, {wrong:?} at {n}: {answer:?}");
        assert!(answer == Ok(()) || answer == Err(Rv(expected)), "{what}");
        let enter = |label: &str| {
            let slot = ck.slot_of(label).unwrap_or_else(|| panic!("{what}: no {label}"));
            let entered = ck.open(slot).and_then(|session| ck.login_so(session, SO_PIN));
            ck.close_all_sessions(slot).expect("C_CloseAllSessions");
            entered
        };
        ck.slots(true).expect("C_GetSlotList");
        let stands = answer.is_err() && ck.slot_of(&label).is_some();
        if !stands || enter(&label) == Err(Rv(CKR_DEVICE_ERROR)) {
            // After an error: all was done but the last commit, and what looked at it made up for that.
            assert!(answer.is_ok() || matches!(wrong, Wrong::FailsOn(_)), "{what}");
            ck.slots(true).expect("C_GetSlotList");
            assert_eq!(ck.slot_of(&label), None, "{what}: never both");
            label = new;
        }
        assert_eq!(enter(&label), Ok(()), "{what}");
        met
    });
    println!("> {all} failures in calls that write the token's row: told where it matters");
    println!("{tokens} tokens");
    ck.login(session, PIN).expect("C_Login");
    ck.finalize().expect("C_Finalize");
    state(place, &sealers(place));
}

#[test]
fn a_disk_that_fails_at_any_request_of_a_call_is_told_changes_nothing_and_may_come_back() {
    let bench = Bench::start();
    bench.token();
    let store = in_memory();
    Disk::of(&bench.store()).seen(None, store.path());
    in_one_process(&bench, store.path(), "fail objects");
}

#[test]
fn a_disk_that_fails_at_any_request_makes_no_pin_wrong_and_leaves_no_half_token() {
    let bench = Bench::start();
    bench.token();
    let store = in_memory();
    Disk::of(&bench.store()).seen(None, store.path());
    let said = in_one_process(&bench, store.path(), "fail tokens");
    let tokens = said.lines().find_map(|line| line.strip_suffix(" tokens")).expect("their number");
    let indices = bench.shim.nv_indices().len();
    assert_eq!(indices, 2 * tokens.parse::<usize>().unwrap(), "no token's PIN indices are left");
    assert!(bench.shim.settled(Duration::from_secs(5)).is_nothing());
}

// ---- killed between two commits -----------------------------------------------------------------------------

/// "before 3 LABEL" dies before the third commit of C_InitToken with this label, in the place of the token
/// "another" if there is one. Says "> alive" if there are fewer.
fn die_at_commit(place: &Path, role: &str) {
    let parts: Vec<_> = role.splitn(3, ' ').collect();
    let wrong = match parts[0] {
        "before" => Wrong::KillsBeforeCommit,
        "after" => Wrong::KillsAfterCommit,
        other => panic!("no such role: {other}"),
    };
    let ck = Ck::new(std::sync::Arc::new(linked::library()));
    disk::watch(place);
    ck.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
    let slot = ck.slot_of("another").or(ck.empty_slot()).expect("a slot");
    disk::go_wrong(parts[1].parse().expect("which commit"), wrong);
    ck.init_token(slot, SO_PIN, parts[2]).expect("C_InitToken");
    println!("> alive");
}

/// The states of a store between two commits are those of the survey above; here the TPM is with them.
#[test]
fn a_token_whose_maker_is_killed_around_any_commit_is_the_old_one_or_the_new_one() {
    let bench = Bench::start();
    bench.token();
    let mut kills = 0;
    for anew in [false, true] {
        for moment in ["before", "after"] {
            for commit in 1.. {
                if anew && bench.ready().slot_of("another").is_none() {
                    // The one before is there under its new label.
                    let app = bench.ready();
                    let slot = app.empty_slot().expect("an empty slot");
                    app.init_token(slot, SO_PIN, "another").expect("C_InitToken");
                }
                let label = format!("{moment} {commit}{}", if anew { ", anew" } else { "" });
                let mut command = bench.command(std::env::current_exe().expect("this program"));
                command
                    .args(["--exact", "another_process", "--nocapture"])
                    .env(ROLE, format!("{moment} {commit} {label}"))
                    .env(TCTI, bench.shim.tcti());
                let output = bench.run(command, Duration::from_secs(120));
                let alive = String::from_utf8_lossy(&output.stdout).contains("> alive");
                use std::os::unix::process::ExitStatusExt;
                let killed = output.status.signal() == Some(libc::SIGKILL);
                assert!(alive || killed, "{label}: {:?} {}", output.status, bench.log());
                kills += usize::from(killed);

                let app = bench.ready();
                let session = app.open(app.slot_of(LABEL).expect("a bystander")).unwrap();
                app.login(session, PIN).expect("C_Login, which ends what was interrupted");
                app.slots(true).expect("C_GetSlotList");
                let (old, new) = (app.slot_of("another"), app.slot_of(&label));
                assert!(!anew || old.is_some() != new.is_some(), "{label}: {old:?}, {new:?}");
                assert!(!alive || new.is_some(), "{label}: acknowledged and lost");
                for slot in old.into_iter().chain(new) {
                    let session = app.open(slot).expect("C_OpenSession");
                    bench.must("C_Login(SO)", app.login_so(session, SO_PIN));
                    bench.must("C_InitPIN", app.init_pin(session, PIN));
                    bench.must("C_CloseAllSessions", app.close_all_sessions(slot));
                }
                let rows = Store::open(&bench.store(), &Options::default()).expect("the store");
                let rows = rows.tokens().expect("the tokens");
                assert!(rows.iter().all(|row| row.replaced.is_none()), "{rows:?}");
                let whole = rows.len();
                let indices = bench.shim.nv_indices().len();
                assert_eq!(indices, 2 * whole, "{label}: PIN indices of {whole} tokens");
                if alive {
                    assert!(commit > 2, "only {commit} commits");
                    break;
                }
            }
        }
    }
    println!("{kills} kills around commits: the old token or the new one, no PIN index left");
    assert!(kills >= 12, "{kills}");
}
