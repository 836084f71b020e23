//! What the module does to the process that it lives in: as little as can be, and nothing that stays.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, program};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::{App, Bench};

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
