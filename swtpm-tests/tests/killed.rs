//! kill -9, in every gap between two commands to the TPM, and at random: what was acknowledged is there,
//! what was not is there whole or not at all, and nothing is left behind in the TPM.
//!
//! `TPM11_TEST_KILLS=2000` kills a writer so often (usually 25 times).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cryptoki_sys::*;
use rand_core::{RngCore, SeedableRng};
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, module, tool, wait_until};
use swtpm_tests::ck::{Answer, Ck, P256, Rv, bytes, flag, number};
use swtpm_tests::door::Library;
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::spawn::Guarded;
use swtpm_tests::{App, Attribute, Bench};
use tpm11::store::{Options, Sealer, Store, TokenState, check};
use tpm11::tpm::pin::{Gate, Role};
use tpm11::tpm::{Settings, Tpm};

const LONG: Duration = Duration::from_secs(60);

// ---- between any two commands to the TPM -------------------------------------------------------------

/// Waits until the TPM is asked something that it does not do any more, or until `ended`. Whether it was
/// the former.
fn stopped(bench: &Bench, mut ended: impl FnMut() -> bool) -> bool {
    let mut stopped = false;
    let decided = wait_until(LONG, || {
        stopped = bench.shim.met() > 0;
        stopped || ended()
    });
    assert!(decided, "neither an end nor a further command");
    stopped
}

/// Makes `call` in an application and kills that after so many commands. The answer if there was one.
fn killed_call<T: Send + 'static>(
    bench: &Bench,
    app: App,
    commands: usize,
    call: impl FnOnce(&Ck) -> Answer<T> + Send + 'static,
) -> Option<Answer<T>> {
    let ck = app.thread();
    bench.shim.inject(Fault::at_any(Action::Silence).after(commands).always());
    let caller = std::thread::spawn(move || call(&ck));
    let stopped = stopped(bench, || caller.is_finished());
    app.kill();
    bench.shim.heal();
    // Its panic says that the process died.
    let answer = caller.join().ok();
    assert!(stopped || answer.is_some(), "it ended without an answer");
    answer
}

/// Runs the tool and kills it after so many commands. Its exit code and output if it came to its end.
fn killed_tool(
    bench: &Bench,
    commands: usize,
    arguments: &[&str],
    input: &[&[u8]],
) -> Option<(i32, String)> {
    let (file, output) = (bench.directory().join("input"), bench.directory().join("output"));
    let lines: Vec<_> = input.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect();
    std::fs::write(&file, lines).unwrap();
    let mut command = bench.command(tool());
    command.args(arguments).stdin(std::fs::File::open(&file).unwrap());
    command.stdout(std::fs::File::create(&output).unwrap()).stderr(Stdio::null());
    bench.shim.inject(Fault::at_any(Action::Silence).after(commands).always());
    let mut process = Guarded::start(command).expect("the tool starts");
    let mut code = None;
    stopped(bench, || {
        let status = process.child().try_wait().expect("a child of ours");
        code = status.map(|status| status.code().expect("an exit code"));
        code.is_some()
    });
    process.kill();
    bench.shim.heal();
    code.map(|code| (code, std::fs::read_to_string(&output).unwrap_or_default()))
}

/// After whatever happened: the next login tidies up, no token is half, no PIN index is nobody's. The
/// number of tokens.
fn tidy(bench: &Bench, pin: &[u8]) -> usize {
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    bench.must("C_Login", app.login(session, pin));
    app.finalize().expect("C_Finalize");
    let store = Store::open(&bench.store(), &Options::default()).expect("the store");
    assert_eq!(store.integrity(), Ok(Vec::new()));
    let rows = store.tokens().expect("the tokens");
    let whole =
        |row: &tpm11::store::TokenRow| row.state == TokenState::Active && row.replaced.is_none();
    assert!(rows.iter().all(whole), "{rows:?}");
    assert_eq!(bench.shim.nv_indices().len(), 2 * rows.len(), "PIN indices");
    rows.len()
}

#[test]
fn c_init_token_killed_between_any_two_commands_leaves_the_old_token_or_the_new_one() {
    let bench = Bench::start();
    bench.token();
    let mut kills = 0;
    for anew in [false, true] {
        let old = "old";
        for commands in 0.. {
            let app = bench.ready();
            if anew && app.slot_of(old).is_none() {
                app.init_token(app.empty_slot().unwrap(), SO_PIN, old).expect("C_InitToken");
            }
            let label = format!("{commands} {anew}");
            let slot = if anew { app.slot_of(old) } else { app.empty_slot() }.expect("a slot");
            let made = label.clone();
            let answer =
                killed_call(&bench, app, commands, move |ck| ck.init_token(slot, SO_PIN, &made));
            kills += usize::from(answer.is_none());
            assert!(answer.is_none_or(|answer| answer.is_ok()), "{answer:?}: {}", bench.log());
            tidy(&bench, PIN);
            let app = bench.ready();
            let (stands, new) = (app.slot_of(old), app.slot_of(&label));
            assert!(!anew || stands.is_some() != new.is_some(), "{label}: {stands:?} {new:?}");
            for slot in stands.into_iter().chain(new) {
                let session = app.open(slot).expect("C_OpenSession");
                bench.must("C_Login(SO)", app.login_so(session, SO_PIN));
                bench.must("C_CloseAllSessions", app.close_all_sessions(slot));
            }
            if answer.is_some() {
                assert!(new.is_some(), "acknowledged and lost");
                assert!(commands > 20, "only {commands} commands");
                break;
            }
        }
    }
    println!("{kills} kills in C_InitToken");
}

#[test]
fn a_pin_that_is_being_changed_when_its_process_is_killed_is_the_old_one_or_the_new_one() {
    let bench = Bench::start();
    bench.token();
    // Who changes whose PIN, in a session of nobody.
    type Change = fn(&Ck, u64, &[u8], &[u8]) -> Answer<()>;
    let by_user: Change = |ck, session, old, new| ck.set_pin(session, old, new);
    let by_so: Change = |ck, session, _, new| {
        ck.login_so(session, SO_PIN)?;
        ck.init_pin(session, new)
    };
    let mut kills = 0;
    let mut pins = [PIN.to_vec(), b"another PIN".to_vec()];
    for (name, change) in [("C_SetPIN", by_user), ("C_InitPIN", by_so)] {
        for commands in 0.. {
            let app = bench.ready();
            let session = app.open(app.slot_of(LABEL).unwrap()).expect("C_OpenSession");
            let (old, new) = (pins[0].clone(), pins[1].clone());
            let answer =
                killed_call(&bench, app, commands, move |ck| change(ck, session, &old, &new));
            kills += usize::from(answer.is_none());
            assert!(answer.is_none_or(|answer| answer.is_ok()), "{name}: {answer:?}");

            let app = bench.ready();
            let session = app.open(app.slot_of(LABEL).unwrap()).expect("C_OpenSession");
            let works: Vec<_> = pins
                .iter()
                .map(|pin| {
                    let answer = app.login(session, pin);
                    answer.is_ok() && app.logout(session).is_ok()
                })
                .collect();
            let place = format!("{name}, killed after {commands} commands");
            assert_eq!(works.iter().filter(|works| **works).count(), 1, "{place}: {works:?}");
            assert!(answer.is_none() || works[1], "{place}: acknowledged and lost");
            if works[1] {
                pins.reverse();
            }
            drop(app);
            assert_eq!(tidy(&bench, &pins[0]), 1);
            if answer.is_some() {
                assert!(commands > 5, "only {commands} commands");
                break;
            }
        }
    }
    println!("{kills} kills in C_SetPIN and C_InitPIN");
}

#[test]
fn tpm11_unlock_killed_anywhere_can_be_done_again_and_loses_no_key() {
    let bench = Bench::start();
    bench.token();
    let mut pins = [PIN, b"brand-new PIN"];
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    drop(app);
    for commands in 0.. {
        let app = bench.ready();
        let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
        while app.login(session, b"wrong") != Err(Rv(CKR_PIN_LOCKED)) {}
        drop(app);
        let arguments = ["unlock", "--so-pin-fd", "0", "--pin-fd", "0"];
        let ended = killed_tool(&bench, commands, &arguments, &[SO_PIN, pins[1]]);
        assert!(ended.is_none() || matches!(ended, Some((0, _))), "{ended:?}");
        // Old, new or still locked: the officer does it again.
        if ended.is_none() {
            let again = killed_tool(&bench, 1000, &arguments, &[SO_PIN, pins[1]]);
            assert!(matches!(again, Some((0, _))), "{again:?} after {commands}: {}", bench.log());
        }
        pins.reverse();
        assert_eq!(tidy(&bench, pins[0]), 1);
        if ended.is_some() {
            println!("{commands} kills in tpm11 unlock");
            assert!(commands > 10, "only {commands} commands");
            break;
        }
    }
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    app.login(session, pins[0]).unwrap();
    let key = app.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).unwrap()[0];
    app.sign(session, CKM_ECDSA, key, &[7; 32]).expect("C_Sign");
}

#[test]
fn tpm11_recover_killed_anywhere_leaves_the_old_pins_or_the_new_ones() {
    const NEW_SO: &[u8] = b"new officer";
    const NEW_PIN: &[u8] = b"new user";
    let (mut kills, mut benches) = (0, 0);
    let mut world: Option<(Bench, String)> = None;
    for commands in 0.. {
        let (bench, code) = world.take().unwrap_or_else(|| {
            benches += 1;
            let bench = Bench::start();
            let init =
                ["init", "--label", LABEL, "--so-pin-fd", "0", "--pin-fd", "0", "--recovery"];
            let (code, said) =
                killed_tool(&bench, 1000, &init, &[SO_PIN, PIN]).expect("it comes to its end");
            assert_eq!(code, 0, "{said}");
            let (app, session) = bench.logged_in();
            app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
            let words = said.lines().find_map(|line| line.strip_prefix("recovery"));
            (bench, words.expect("a code").trim().to_owned())
        });
        let arguments = ["recover", "--code-fd", "0", "--so-pin-fd", "0", "--pin-fd", "0"];
        let ended = killed_tool(&bench, commands, &arguments, &[code.as_bytes(), NEW_SO, NEW_PIN]);
        assert!(ended.is_none() || matches!(ended, Some((0, _))), "{ended:?}");
        kills += usize::from(ended.is_none());

        let app = bench.ready();
        let session = app.open(app.slot_of(LABEL).unwrap()).expect("C_OpenSession");
        let old = app.login(session, PIN).is_ok() && app.logout(session).is_ok();
        let place = format!("killed after {commands} commands: {}", bench.log());
        assert!(!old || ended.is_none(), "{place}: acknowledged and lost");
        let so = if old { SO_PIN } else { NEW_SO };
        assert_eq!(app.login_so(session, so), Ok(()), "{place}");
        app.init_pin(session, NEW_PIN).unwrap_or_else(|rv| panic!("C_InitPIN: {rv:?} {place}"));
        app.logout(session).expect("C_Logout");
        app.login(session, NEW_PIN).unwrap_or_else(|rv| panic!("C_Login: {rv:?} {place}"));
        let key = app.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).unwrap()[0];
        app.sign(session, CKM_ECDSA, key, &[7; 32]).expect("no key is lost");
        assert_eq!(app.finalize(), Ok(()));
        tidy(&bench, NEW_PIN);
        if ended.is_some() {
            assert!(commands > 20, "only {commands} commands");
            break;
        }
        if old {
            // The old gate, its recovery code with it, and the PIN as it was.
            let app = bench.ready();
            let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
            app.set_pin(session, NEW_PIN, PIN).expect("C_SetPIN");
            drop(app);
            world = Some((bench, code));
        }
    }
    println!("{kills} kills in tpm11 recover, {benches} tokens");
}

// ---- at random ------------------------------------------------------------------------------------------

const ROLE: &str = "KILLED_ROLE";

/// What the writer has made so far, in its own words: `d` and a number for data, `k` for a key pair.
type Labels = BTreeMap<String, usize>;

fn content(label: &str, size: usize) -> Vec<u8> {
    label.bytes().cycle().take(size).collect()
}

fn data(label: &str, size: usize) -> Vec<Attribute> {
    vec![
        number(CKA_CLASS, CKO_DATA),
        flag(CKA_TOKEN, true),
        flag(CKA_PRIVATE, size % 2 == 0),
        bytes(CKA_LABEL, label),
        bytes(CKA_VALUE, content(label, size)),
    ]
}

/// No test by itself: the writer. It says what it did once that is done.
#[test]
fn another_process() {
    let Ok(seed) = std::env::var(ROLE) else { return };
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed.parse().expect("a number"));
    let mut out = std::io::stdout();
    let mut say = |what: String| {
        // One write, so that a line is there whole or not at all.
        out.write_all(format!("> {what}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
    };
    let ck = Ck::new(Arc::new(Library::load(&module())));
    ck.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
    let session = ck.open(ck.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    ck.login(session, PIN).expect("C_Login");
    let label = |object| String::from_utf8(ck.attribute(session, object, CKA_LABEL).unwrap());
    let mut mine: Vec<(u64, String)> = ck
        .find(session, &[number(CKA_CLASS, CKO_DATA)])
        .expect("C_FindObjects")
        .into_iter()
        .map(|object| (object, label(object).unwrap()))
        .collect();
    for turn in 0.. {
        let name = format!("d{seed}-{turn}");
        let size = 1 + random.next_u32() as usize % 9000;
        let pick = random.next_u32() as usize % mine.len().max(1);
        let what = if mine.len() < 3 { 0 } else { random.next_u32() % 20 };
        match what {
            0..=6 => {
                mine.push((ck.create_object(session, &data(&name, size)).unwrap(), name.clone()));
                say(format!("+ {name}"));
            }
            7..=10 => {
                let new = [bytes(CKA_LABEL, name.as_str()), bytes(CKA_VALUE, content(&name, size))];
                ck.set_attributes(session, mine[pick].0, &new).unwrap();
                say(format!("~ {} {name}", mine[pick].1));
                mine[pick].1 = name;
            }
            11 => {
                let name = format!("k{seed}-{turn}");
                ck.generate_ec(session, P256, &name).unwrap();
                say(format!("k {name}"));
            }
            _ => {
                let (object, name) = mine.swap_remove(pick);
                ck.destroy_object(session, object).unwrap();
                say(format!("- {name}"));
            }
        }
    }
}

/// The token's own key to its rows.
fn sealer(bench: &Bench) -> Sealer {
    let store = Store::open(&bench.store(), &Options::default()).expect("the store");
    let row = store.tokens().expect("the tokens").remove(0);
    let gate = Gate::from_bytes(&row.gate).expect("the gate");
    let settings = Settings { tcti: bench.shim.tcti(), ..Settings::default() };
    let tpm = Tpm::new(settings, None, Box::new(|_| false));
    let opened = tpm.login(&tpm.call(), &gate, Role::User, PIN).expect("the PIN is right");
    tpm.end();
    Sealer::new(&opened.token_secret, &row.serial)
}

/// What is in the store: whole, each object, and all of them.
fn found(bench: &Bench, sealer: &Sealer) -> Labels {
    let store = Store::open(&bench.store(), &Options::default()).expect("a store that opens");
    assert_eq!(store.integrity(), Ok(Vec::new()), "PRAGMA integrity_check");
    let serial = sealer.serial();
    let report = store.verify_set(serial, sealer).expect("the set");
    assert!(report.intact && report.bad.is_empty(), "{report:?}");
    let mut labels = Labels::new();
    for id in store.find(serial, Some(sealer), &[]).expect("the objects") {
        let row = store.row(serial, id).expect("a row").expect("which was found");
        let row = check(row, sealer).expect("the owner's");
        let label = String::from_utf8(row.attributes[&CKA_LABEL].clone()).expect("a label");
        match row.attributes.get(&CKA_VALUE) {
            Some(value) => assert_eq!(*value, content(&label, value.len()), "half of {label}"),
            None => assert!(label.starts_with('k'), "no value in {label}"),
        }
        *labels.entry(label).or_default() += 1;
    }
    for (label, halves) in &labels {
        assert_eq!(*halves, if label.starts_with('k') { 2 } else { 1 }, "half of {label}");
    }
    labels
}

fn apply(labels: &mut Labels, said: &str) {
    let mut words = said.split(' ');
    let (what, name) = (words.next().unwrap(), words.next().expect("a name").to_owned());
    match what {
        "+" => _ = labels.insert(name, 1),
        "k" => _ = labels.insert(name, 2),
        "-" => assert_eq!(labels.remove(&name), Some(1), "{said}"),
        "~" => {
            assert_eq!(labels.remove(&name), Some(1), "{said}");
            labels.insert(words.next().expect("another").to_owned(), 1);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_writer_killed_at_random_loses_nothing_acknowledged_and_leaves_nothing_half_done() {
    let kills: u64 =
        std::env::var("TPM11_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(25);
    let bench = Bench::start();
    bench.token();
    let sealer = sealer(&bench);
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let mut expected = Labels::new();
    let (mut acknowledged, mut under_way) = (0, 0);
    for round in 0..kills {
        let mut command = bench.command(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "another_process", "--nocapture"])
            .env(ROLE, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut writer = Guarded::start(command).expect("the writer starts");
        let mut lines = BufReader::new(writer.child().stdout.take().expect("its output")).lines();
        let mut next = || {
            // The test runner prints its own "test … " in front of the first line.
            lines.find_map(|line| line.ok()?.split_once("> ").map(|(_, said)| said.to_owned()))
        };
        // However fast it is: some writes, and a moment in the next.
        let mut said = Vec::new();
        for _ in 0..1 + random.next_u32() % 12 {
            said.push(next().unwrap_or_else(|| panic!("it writes: {}", bench.log())));
        }
        std::thread::sleep(Duration::from_micros(u64::from(random.next_u32() % 20_000)));
        writer.kill();
        said.extend(std::iter::from_fn(next));
        acknowledged += said.len();
        for said in &said {
            apply(&mut expected, said);
        }
        let found = found(&bench, &sealer);
        let new: Vec<_> = found.keys().filter(|label| !expected.contains_key(*label)).collect();
        let lost: Vec<_> = expected.keys().filter(|label| !found.contains_key(*label)).collect();
        // The call that was under way: one object or pair more, one fewer, or one under its new name.
        let whole = new.len() <= 1 && lost.len() <= 1;
        assert!(whole, "round {round}: lost {lost:?}, new {new:?}, acknowledged {said:?}");
        under_way += usize::from(new.len() + lost.len() > 0);
        expected = found;
    }
    assert_eq!(bench.shim.nv_indices().len(), 2, "the token's PIN indices and no others");
    let (app, session) = bench.logged_in();
    for key in app.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("C_FindObjects") {
        app.sign(session, CKM_ECDSA, key, &[7; 32]).expect("every key signs");
    }
    println!(
        "{kills} kills: {acknowledged} acknowledged writes, 0 lost; {under_way} had happened without \
         being acknowledged, 0 half done"
    );
    app.finalize().expect("C_Finalize");
    assert!(bench.shim.settled(Duration::from_secs(5)).saved.is_empty(), "no session is left");
}
