//! What the module does to the process that it lives in: as little as can be, and nothing that stays.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, module, program, wait_until};
use swtpm_tests::ck::number;
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::{App, Bench, wire};

/// secp256r1
const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

fn proc(app: &App, what: &str) -> PathBuf {
    Path::new("/proc").join(app.id().to_string()).join(what)
}

/// Open descriptors, and where they lead.
fn descriptors(app: &App) -> BTreeMap<u32, PathBuf> {
    fs::read_dir(proc(app, "fd"))
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        .collect()
}

fn threads(app: &App) -> usize {
    fs::read_dir(proc(app, "task")).unwrap().count()
}

/// Which signals are blocked, ignored and caught, of the whole process.
fn signals(app: &App) -> Vec<String> {
    let status = fs::read_to_string(proc(app, "status")).unwrap();
    let wanted = |line: &&str| ["SigBlk", "SigIgn", "SigCgt"].iter().any(|w| line.starts_with(w));
    status.lines().filter(wanted).map(str::to_owned).collect()
}

/// Everything that opens something: a login, a key of the TPM, a signature.
fn work(app: &App) {
    let session = app.open(app.slot_of(LABEL).expect("the token")).unwrap();
    app.login(session, PIN).unwrap();
    let (_, key) = app.generate_ec(session, P256, "process").unwrap();
    app.sign(session, CKM_ECDSA, key, &[7; 32]).unwrap();
}

#[test]
fn after_c_finalize_no_thread_no_descriptor_and_no_signal_handler_is_left() {
    let bench = Bench::start();
    bench.token();
    let app = bench.app();
    app.info().unwrap_err(); // its lane is there now
    let before = (descriptors(&app), threads(&app), signals(&app));
    app.initialize().unwrap();
    work(&app);
    app.finalize().unwrap();
    assert_eq!((descriptors(&app), threads(&app), signals(&app)), before);
    assert_eq!(app.noise(), "");
}

#[test]
fn a_program_that_the_host_starts_inherits_nothing_of_ours() {
    const O_CLOEXEC: u64 = 0o2_000_000;
    let bench = Bench::start();
    bench.token();
    let app = bench.app();
    app.info().unwrap_err();
    let before = descriptors(&app);
    app.initialize().unwrap();
    work(&app);
    let ours: Vec<_> =
        descriptors(&app).into_iter().filter(|(number, _)| !before.contains_key(number)).collect();
    assert!(!ours.is_empty(), "the store's file is open");
    for (number, to) in ours {
        // Gone already: the lease ended meanwhile.
        let Ok(info) = fs::read_to_string(proc(&app, &format!("fdinfo/{number}"))) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = u64::from_str_radix(flags.trim(), 8).unwrap();
        assert!(flags & O_CLOEXEC != 0, "{} stays open", to.display());
    }
}

#[test]
fn without_threads_of_its_own_the_module_makes_none() {
    let bench = Bench::start();
    bench.token();
    let app = bench.app();
    app.info().unwrap_err();
    let before = threads(&app);
    app.initialize_with(cryptoki_sys::CKF_LIBRARY_CANT_CREATE_OS_THREADS).unwrap();
    work(&app);
    assert_eq!(threads(&app), before);
    app.finalize().unwrap();
}

#[test]
fn the_caller_of_a_set_uid_program_does_not_choose_its_store_or_its_log() {
    let bench = Bench::start();
    bench.token();
    // In /var/tmp, for a directory of tests may be mounted without set-uid.
    let directory = tempfile::Builder::new().prefix("tpm11-suid-").tempdir_in("/var/tmp").unwrap();
    let copy = directory.path().join("program");
    fs::copy(program(), &copy).unwrap();
    if chown(&copy, Some(65534), Some(65534)).is_err() {
        eprintln!("SKIPPED: only root can make a program of another user");
        return;
    }
    for (path, mode) in [(directory.path(), 0o755), (copy.as_path(), 0o4755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(bench.directory(), fs::Permissions::from_mode(0o777)).unwrap();
    let app = bench.app_with(|command| {
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        // The other user connects to the test's socket, which is the last argument.
        let socket = Path::new(arguments.last().unwrap());
        fs::set_permissions(socket, fs::Permissions::from_mode(0o777)).unwrap();
        *command = under(Command::new(&copy), command);
        command.args(arguments).env("TPM11_LOG", "trace");
    });
    let logged = bench.log().len();
    app.initialize().unwrap();
    assert_eq!(app.slot_of(LABEL), None, "the store of TPM11_STORE is not looked at");
    app.finalize().unwrap();
    assert_eq!(bench.log().len(), logged, "nothing is written to TPM11_LOG_FILE");
}

/// `outer` in the environment of `inner`, whose arguments it gets from the caller.
fn under(mut outer: Command, inner: &Command) -> Command {
    let set = |(name, value): (&OsStr, Option<&OsStr>)| Some((name.to_owned(), value?.to_owned()));
    outer.envs(inner.get_envs().filter_map(set)).stdout(Stdio::null()).stderr(Stdio::null());
    outer
}

#[test]
fn narrow_limits_of_the_process_are_enough() {
    let bench = Bench::start();
    bench.token();
    // No locked memory, few descriptors, a small address space.
    for limit in ["--memlock=0", "--nofile=16", "--as=400000000"] {
        let app = bench.app_with(|command| {
            let mut prlimit = under(Command::new("prlimit"), command);
            prlimit.arg(limit).arg(command.get_program()).args(command.get_args());
            *command = prlimit;
        });
        app.initialize().unwrap();
        work(&app);
        app.finalize().unwrap();
    }
}

#[test]
fn without_a_home_and_in_a_deleted_directory_everything_works() {
    let bench = Bench::start();
    bench.token();
    let gone = bench.directory().join("gone");
    fs::create_dir(&gone).unwrap();
    let app = bench.app_with(|command| {
        command.env_remove("HOME").current_dir(&gone);
    });
    fs::remove_dir(&gone).unwrap();
    app.initialize().unwrap();
    work(&app);
    app.finalize().unwrap();
}

#[test]
fn the_directory_that_a_program_happens_to_be_in_stays_as_it_is() {
    let bench = Bench::start();
    let here = bench.directory().join("here");
    fs::create_dir(&here).unwrap();
    let app = bench.app_with(|command| {
        command.env_remove("HOME").current_dir(&here);
    });
    app.initialize().unwrap();
    app.init_token(app.empty_slot().unwrap(), SO_PIN, LABEL).unwrap();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    app.login_so(session, SO_PIN).unwrap();
    app.init_pin(session, PIN).unwrap();
    app.logout(session).unwrap();
    work(&app);
    app.finalize().unwrap();
    assert_eq!(fs::read_dir(&here).unwrap().count(), 0);
}

#[test]
fn c_finalize_wakes_a_thread_that_waits_for_a_slot() {
    let bench = Bench::start();
    let app = bench.ready();
    let waiting = app.thread();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let place = Memory::room(8).into();
            waiting.raw("C_WaitForSlotEvent", vec![Argument::NULL, place, Argument::NULL]).0
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiter.is_finished(), "nothing has happened to a slot");
        app.finalize().unwrap();
        assert_eq!(waiter.join().unwrap(), CKR_CRYPTOKI_NOT_INITIALIZED);
    });
}

#[test]
fn c_finalize_cancels_a_key_generation_and_the_next_life_begins_at_once() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    app.login(session, PIN).unwrap();
    let other = app.thread();
    std::thread::scope(|scope| {
        let maker = scope.spawn(|| other.generate_rsa(session, 3072, "never").map_err(|rv| rv.0));
        std::thread::sleep(Duration::from_millis(50));
        let begun = Instant::now();
        app.finalize().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let made = maker.join().unwrap().map(drop);
        // The TPM may have been faster, and the key be there before or after its session was closed.
        let plain = [Ok(()), Err(CKR_FUNCTION_CANCELED), Err(CKR_SESSION_CLOSED)];
        assert!(plain.contains(&made), "{made:x?}");
    });
    app.initialize().unwrap();
    work(&app);
}

#[test]
fn threads_that_call_on_while_the_module_comes_and_goes_meet_nothing_but_plain_codes() {
    let bench = Bench::start();
    bench.token();
    let app = bench.app();
    let until = Instant::now() + Duration::from_secs(3);
    let clients: Vec<_> = (0..6).map(|_| app.thread()).collect();
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(move || {
                while Instant::now() < until {
                    let used = || -> Result<(), swtpm_tests::ck::Rv> {
                        let slot = client.slot_of(LABEL).ok_or(swtpm_tests::ck::Rv(0))?;
                        let session = client.open(slot)?;
                        client.digest(session, CKM_SHA256, b"abc")?;
                        client.find(session, &[])?;
                        client.close_session(session)
                    };
                    let plain = [
                        0, // the slots could not be listed
                        CKR_CRYPTOKI_NOT_INITIALIZED,
                        CKR_SLOT_ID_INVALID,
                        CKR_SESSION_HANDLE_INVALID,
                        CKR_SESSION_CLOSED,
                        CKR_OPERATION_NOT_INITIALIZED,
                        CKR_FUNCTION_CANCELED,
                    ];
                    if let Err(rv) = used() {
                        assert!(plain.contains(&rv.0), "{rv:?}");
                    }
                }
            });
        }
        let mut lives = 0;
        while Instant::now() < until {
            app.initialize().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            app.finalize().unwrap();
            lives += 1;
        }
        assert!(lives > 10, "{lives}");
    });
    app.initialize().unwrap();
    work(&app);
}

// ---- loading, unloading, ending -------------------------------------------------------------------

/// A bench with a token and a key, and the program that plays a role of `life.rs` there.
struct Life(Bench);

impl Life {
    fn new(managed: bool) -> Life {
        let bench = if managed { Bench::managed() } else { Bench::start() };
        bench.token();
        let (app, session) = bench.logged_in();
        app.generate_ec(session, P256, "process").unwrap();
        app.finalize().unwrap();
        Life(bench)
    }

    fn command(&self, role: &str) -> Command {
        let mut command = self.0.command(program());
        command.arg("life").arg(role).arg(module());
        command
    }

    /// Runs it to its end, which must be a good one, and gives what it printed.
    fn play(&self, role: &str) -> String {
        let output = self.0.run(self.command(role), Duration::from_secs(120));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let complaints = text(&output.stderr);
        assert!(output.status.success(), "{role}: {} {complaints}{}", output.status, self.0.log());
        assert_eq!(complaints, "", "{role}");
        text(&output.stdout)
    }

    /// Nothing in the TPM, no try spent, and the next program works.
    fn end(self) {
        let left = self.0.shim.settled(Duration::from_secs(10));
        assert!(left.is_nothing(), "{left:?}");
        assert_eq!(self.0.shim.lockout_counter(), 0);
        let app = self.0.ready();
        work(&app);
        app.finalize().unwrap();
    }
}

fn lives(role: &str) {
    for managed in [false, true] {
        let life = Life::new(managed);
        life.play(role);
        life.end();
    }
}

#[test]
fn the_same_file_under_another_name_is_the_same_module() {
    lives("symlink");
}

#[test]
fn a_copy_of_the_file_is_a_second_module_and_neither_disturbs_the_other() {
    lives("copies");
}

#[test]
fn dlclose_and_dlopen_again_work_with_c_finalize_and_without() {
    lives("reload");
}

#[test]
fn a_thread_may_end_after_dlclose() {
    lives("thread");
}

#[test]
fn dlclose_while_a_thread_is_inside_c_sign_takes_nothing_away_from_it() {
    lives("unload");
}

#[test]
fn c_finalize_works_in_exit_handlers_and_destructors() {
    let life = Life::new(false);
    for (order, said) in [
        ("before", CKR_OK),
        ("after", CKR_OK),
        ("object", CKR_OK),
        ("destructor", CKR_OK),
        ("twice", CKR_CRYPTOKI_NOT_INITIALIZED),
    ] {
        assert_eq!(life.play(&format!("handlers {order}")), format!("{said:#x}\n"), "{order}");
        let left = life.0.shim.left();
        assert!(left.is_nothing(), "{order}: {left:?}");
    }
    life.end();
}

#[test]
fn a_threads_own_destructor_may_sign_and_finalise() {
    lives("key");
}

#[test]
fn exit_while_threads_are_inside_c_sign_ends_the_process_well() {
    let life = Life::new(true);
    for _ in 0..10 {
        life.play("exit");
    }
    life.end();
    // A bare TPM keeps what the last one had loaded, until it is in somebody's way.
    let life = Life::new(false);
    for _ in 0..10 {
        life.play("exit");
    }
    let app = life.0.ready();
    work(&app);
    app.finalize().unwrap();
    assert_eq!(life.0.shim.lockout_counter(), 0);
}

#[test]
fn an_application_that_exits_while_another_thread_signs_ends_well() {
    use swtpm_tests::app::End;
    for managed in [false, true] {
        let life = Life::new(managed);
        let (app, session) = life.0.logged_in();
        let key = app.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).unwrap()[0];
        app.sign(session, CKM_ECDSA, key, &[7; 32]).unwrap();
        // In the middle of the command.
        let slow = Action::Delay(Duration::from_millis(700));
        life.0.shim.inject(Fault::at(wire::SIGN, slow));
        let mark = life.0.shim.mark();
        let other = app.mortal_thread(Duration::from_secs(30));
        let other = swtpm_tests::Ck::new(other);
        std::thread::scope(|scope| {
            scope.spawn(|| drop(other.sign(session, CKM_ECDSA, key, &[7; 32])));
            let signing = || life.0.shim.since(mark).count(wire::SIGN) > 0;
            assert!(wait_until(Duration::from_secs(20), signing));
            let status = app.end(End::Orderly).expect("a process of this test's");
            assert!(status.success(), "{status}");
        });
    }
}

#[test]
fn a_process_that_exits_without_c_finalize_leaves_nothing_in_an_idle_tpm() {
    use swtpm_tests::app::End;
    for managed in [false, true] {
        let life = Life::new(managed);
        for end in [End::Sudden, End::Orderly] {
            let app = life.0.ready();
            work(&app);
            if !managed {
                // A bare TPM is left by the reaper; a resource manager cleans up by itself.
                assert!(life.0.shim.settled(Duration::from_secs(10)).is_nothing());
            }
            assert!(app.end(end).is_some_and(|status| status.success()));
            let left = life.0.shim.settled(Duration::from_secs(10));
            assert!(left.is_nothing(), "{end:?}: {left:?}");
        }
        life.end();
    }
}

/// `PROCESS_TEST_CYCLES` is how many lives (default 1,000).
#[test]
fn a_thousand_lives_of_the_module_leave_no_descriptor_thread_mapping_or_memory_behind() {
    let cycles = std::env::var("PROCESS_TEST_CYCLES").unwrap_or_else(|_| "1000".into());
    let life = Life::new(false);
    let said = life.play(&format!("cycles {cycles}"));
    println!("descriptors, threads, mappings, KiB:\n{said}");
    let lines: Vec<Vec<u64>> =
        said.lines().map(|line| line.split(' ').map(|w| w.parse().unwrap()).collect()).collect();
    assert!(lines.len() >= 10, "{said}");
    let column = |at: usize| lines.iter().map(move |line| line[at]);
    for (at, what) in ["descriptors", "threads"].iter().enumerate() {
        assert!(column(at).all(|value| value == lines[0][at]), "{what}:\n{said}");
    }
    // The allocator may take a little more or less; a leak of a page a life would be thousands.
    for (at, most) in [(2, 8), (3, 1024)] {
        let (early, late) = (lines[1][at], lines[lines.len() - 1][at]);
        assert!(late <= early + most, "grows:\n{said}");
    }
    life.end();
}

#[test]
fn a_call_from_a_signal_handler_inside_a_call_is_refused_and_harms_nothing() {
    use std::io::{BufRead, BufReader, Write};
    let life = Life::new(false);
    let mut command = life.command("signal");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = swtpm_tests::spawn::Guarded::start(command).unwrap();
    let mut said = BufReader::new(child.child().stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let slow = Action::Delay(Duration::from_secs(2));
    life.0.shim.inject(Fault::at(wire::SIGN, slow));
    child.child().stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut status = None;
    wait_until(Duration::from_secs(60), || {
        status = child.child().try_wait().unwrap();
        status.is_some()
    });
    let mut complaints = String::new();
    std::io::Read::read_to_string(&mut child.child().stderr.take().unwrap(), &mut complaints)
        .unwrap();
    assert!(status.is_some_and(|status| status.success()), "{status:?} {complaints}");
    life.end();
}

// ---- CK_C_INITIALIZE_ARGS --------------------------------------------------------------------------

/// What C_Initialize answers to mutex functions (which of the four are given), flags and pReserved.
/// PKCS#11 3.2 §5.4.
fn expected(mutexes: [bool; 4], flags: u64, reserved: bool) -> u64 {
    let given = mutexes.iter().filter(|given| **given).count();
    match given {
        _ if reserved => CKR_ARGUMENTS_BAD,
        0 => CKR_OK,
        // They are never called, as the flag allows.
        4 if flags & CKF_OS_LOCKING_OK != 0 => CKR_OK,
        // The application insists on its own, which we have no use for.
        4 => CKR_CANT_LOCK,
        _ => CKR_ARGUMENTS_BAD,
    }
}

#[test]
fn every_combination_of_initialize_arguments_has_its_answer_and_what_is_accepted_works() {
    const THREADS: u64 = CKF_LIBRARY_CANT_CREATE_OS_THREADS;
    const UNKNOWN: u64 = 0x8000_0004;
    let flags = [
        0,
        CKF_OS_LOCKING_OK,
        THREADS,
        CKF_OS_LOCKING_OK | THREADS,
        UNKNOWN,
        UNKNOWN | CKF_OS_LOCKING_OK,
        UNKNOWN | THREADS | CKF_OS_LOCKING_OK,
        u64::MAX,
    ];
    let bench = Bench::start();
    bench.token();
    let app = bench.app();
    app.info().unwrap_err();
    let alone = threads(&app);
    let (mut combinations, mut accepted) = (0, 0);
    for flags in flags {
        for which in 0..16u64 {
            for reserved in [false, true] {
                let mutexes = [0, 1, 2, 3].map(|bit| which >> bit & 1 == 1);
                let what = format!("{mutexes:?}, flags {flags:#x}, pReserved {reserved}");
                let mut arguments = Memory::default();
                // No address that could be called.
                mutexes.iter().for_each(|given| arguments.push_word(u64::from(*given)));
                arguments.push_word(flags);
                arguments.push_word(u64::from(reserved));
                let expected = expected(mutexes, flags, reserved);
                let again = arguments.clone();
                let (rv, _) = app.raw("C_Initialize", vec![arguments.into()]);
                assert_eq!(rv, expected, "{what}");
                combinations += 1;
                if rv != CKR_OK {
                    assert_eq!(app.info().map(drop).unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
                    continue;
                }
                accepted += 1;
                // A second call changes nothing, whatever it is given.
                for second in [Argument::NULL, again.into()] {
                    let (rv, _) = app.raw("C_Initialize", vec![second]);
                    assert_eq!(rv, CKR_CRYPTOKI_ALREADY_INITIALIZED, "{what}");
                }
                let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
                app.login(session, PIN).unwrap();
                app.random(session, 16).unwrap();
                // From several threads, whatever was said of threads.
                let others: Vec<_> = (0..2).map(|_| app.thread()).collect();
                std::thread::scope(|scope| {
                    for other in &others {
                        scope.spawn(|| {
                            other.digest(session_of(other), CKM_SHA256, b"abc").unwrap();
                            other.random(session_of(other), 8).unwrap();
                        });
                    }
                });
                // The lanes of the application are there for good.
                let lanes = threads(&app) - others.len();
                if flags & THREADS != 0 {
                    assert!(lanes <= alone + 2 * (accepted - 1), "a thread of ours: {what}");
                }
                app.finalize().unwrap();
            }
        }
    }
    assert_eq!(combinations, 8 * 16 * 2);
    assert_eq!(accepted, 8 + 5, "none with every flag, all with the operating system's locks");
    assert!(bench.shim.settled(Duration::from_secs(10)).is_nothing());
}

fn session_of(ck: &swtpm_tests::Ck) -> u64 {
    ck.open(ck.slot_of(LABEL).unwrap()).unwrap()
}
