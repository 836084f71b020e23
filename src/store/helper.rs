//! Tests: another process that uses the same store. It is this very test binary, started again for
//! the one "test" below, with what it shall do in its environment.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::tests::{SERIAL, label, new_token, object, options, sealer};
use super::{FILE, Fault, Sealer, Store, check};

const ROLE: &str = "TPM11_TEST_STORE_ROLE";
const PLACE: &str = "TPM11_TEST_STORE_PLACE";

/// Another process at work.
pub(super) struct Helper {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    /// Starts it; `role` is one of those in [`another_process`].
    pub(super) fn start(place: &Path, role: &str) -> Helper {
        Helper::run(Command::new(std::env::current_exe().unwrap()), place, role)
    }

    /// Starts it through another program, which gets this binary and its arguments as its last.
    pub(super) fn start_under(program: &[&str], place: &Path, role: &str) -> Helper {
        Helper::start_binary(program, &std::env::current_exe().unwrap(), place, role)
    }

    /// The same with a copy of this binary.
    pub(super) fn start_binary(
        program: &[&str],
        binary: &Path,
        place: &Path,
        role: &str,
    ) -> Helper {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(binary);
        Helper::run(command, place, role)
    }

    fn run(mut command: Command, place: &Path, role: &str) -> Helper {
        command
            .args(["--exact", "store::helper::another_process", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PLACE, place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Helper { child, lines }
    }

    /// The next thing that it says: what follows "> ". `None` when it ended.
    pub(super) fn says(&mut self) -> Option<String> {
        // The test runner prints its own "test … " in front of the first line.
        self.lines.find_map(|line| line.ok()?.split_once("> ").map(|(_, said)| said.to_owned()))
    }

    pub(super) fn expect(&mut self, said: &str) {
        assert_eq!(self.says().as_deref(), Some(said));
    }

    /// Everything that it still says, once it has ended.
    pub(super) fn rest(mut self) -> Vec<String> {
        let said = std::iter::from_fn(|| self.says()).collect();
        let _ = self.child.wait();
        said
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Says on a line of its own that a test cannot do its work here. Past the capture of the test
/// runner, which shows nothing of a test that succeeds.
pub(super) fn skip(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: {why}");
}

/// How many descriptors this process has on the store in `place`.
pub(super) fn descriptors(place: &Path) -> usize {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(place.join(FILE)).unwrap();
    super::sibling::descriptors((file.dev(), file.ino())).unwrap()
}

fn say(what: impl std::fmt::Display) {
    println!("> {what}");
}

/// No test: what the other process does. Run for itself it does nothing.
#[test]
fn another_process() {
    let (Ok(role), Some(place)) = (std::env::var(ROLE), std::env::var_os(PLACE)) else { return };
    let place = Path::new(&place);
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match role {
        // Holds the write lock until killed.
        "hold" => {
            let connection = rusqlite::Connection::open(place.join(FILE)).unwrap();
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            say("held");
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        // Inserts, updates and deletes; says what is done once it is done.
        "churn" => {
            let store = Store::open(place, &options()).unwrap();
            for round in 0..100_000 {
                let name = format!("{argument}-{round}");
                let id = store.insert(&SERIAL, &sealer(), &object(&name, true)).unwrap();
                say(format_args!("inserted {id}"));
                let row = check(store.row(&SERIAL, id).unwrap().unwrap(), &sealer()).unwrap();
                if round % 3 == 1 {
                    store.update(&SERIAL, &sealer(), &row, &object("updated", false)).unwrap();
                    say(format_args!("updated {id}"));
                }
                if round % 3 == 2 {
                    store.delete(&SERIAL, &sealer(), id).unwrap();
                    say(format_args!("deleted {id}"));
                }
            }
        }
        // One of many: so many rounds of create, search, delete.
        "share" => {
            let store = Store::open(place, &options()).unwrap();
            let (name, rounds) = argument.split_once(' ').unwrap();
            let mut longest = std::time::Duration::ZERO;
            for round in 0..rounds.parse().unwrap() {
                let text = format!("{name}-{round}");
                let start = std::time::Instant::now();
                let id = store.insert(&SERIAL, &sealer(), &object(&text, round % 2 == 0)).unwrap();
                longest = longest.max(start.elapsed());
                let found = store.find(&SERIAL, Some(&sealer()), &label(&text)).unwrap();
                assert_eq!(found, [id]);
                if round % 4 != 0 {
                    assert_eq!(store.delete(&SERIAL, &sealer(), id), Ok(true));
                }
            }
            say(longest.as_millis());
        }
        // Says how many bytes it reads to open the store, to list its tokens, and to find one object.
        "look" => {
            let read = || {
                let counts = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
                let count =
                    counts.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok());
                count.unwrap_or(0_u64)
            };
            let (before, start) = (read(), std::time::Instant::now());
            let store = Store::open(place, &options()).unwrap();
            assert_eq!(store.tokens().unwrap().len(), 1);
            let opened = start.elapsed();
            let found = store.find(&SERIAL, Some(&sealer()), &label(argument)).unwrap();
            let row = store.row(&SERIAL, found[0]).unwrap().unwrap();
            check(row, &sealer()).unwrap();
            let took = start.elapsed();
            say(format_args!("{} {} {}", read() - before, opened.as_micros(), took.as_micros()));
        }
        // Takes permissions away under its own open store, and gives them back.
        "permissions" => {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path, mode| {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            };
            let store = Store::open(place, &options()).unwrap();
            store.insert_token(&new_token(SERIAL), &sealer()).unwrap();
            let id = store.insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
            let refused = |what: &str| {
                let refused = store.insert(&SERIAL, &sealer(), &object("no", true));
                assert!(matches!(refused, Err(Fault::WriteProtected(_))), "{what}: {refused:?}");
                let refused = store.delete(&SERIAL, &sealer(), id);
                assert!(matches!(refused, Err(Fault::WriteProtected(_))), "{what}: {refused:?}");
                assert!(matches!(store.writable(), Err(Fault::WriteProtected(_))), "{what}");
            };
            let reads = || store.find(&SERIAL, Some(&sealer()), &label("x")) == Ok(vec![id]);
            for round in 0..3 {
                mode(place, 0o500);
                refused("the directory");
                assert!(reads(), "round {round}");
                mode(place, 0o700);
                mode(&place.join(FILE), 0o400);
                refused("the file");
                assert!(reads(), "round {round}");
                mode(place, 0o000);
                let closed = store.tokens();
                assert!(matches!(closed, Err(Fault::Unreadable(_))), "{closed:?}");
                mode(place, 0o700);
                mode(&place.join(FILE), 0o600);
                assert!(reads(), "round {round}");
                let new = store.insert(&SERIAL, &sealer(), &object("y", true)).unwrap();
                assert_eq!(store.delete(&SERIAL, &sealer(), new), Ok(true));
            }
            say("lived");
        }
        // Reads everything and tries to write.
        "read" => {
            let store = match Store::open(place, &options()) {
                Ok(store) => store,
                Err(fault) => return say(format_args!("cannot open: {fault:?}")),
            };
            let found = store.find(&SERIAL, Some(&sealer()), &[]).unwrap();
            say(format_args!("found {}", found.len()));
            say(format_args!("writable {:?}", store.writable()));
            let refused = store.insert(&SERIAL, &sealer(), &object("no", false));
            say(format_args!("wrote {refused:?}"));
        }
        // Initialises a token where nothing is.
        "write" if argument == "create" => {
            let store = Store::open(place, &options()).unwrap();
            say(format_args!("wrote {:?}", store.insert_token(&new_token(SERIAL), &sealer())));
        }
        // Opens the store as a later version does.
        "write" if argument == "migrate" => {
            let store = Store::open_with(place, &options(), super::places::LONGER);
            say(format_args!("wrote {:?}", store.and_then(|store| store.writable())));
        }
        // Writes once with what stands in the argument.
        "write" => {
            let store = Store::open(place, &options());
            let store = match store {
                Ok(store) => store,
                Err(fault) => return say(format_args!("cannot open: {fault:?}")),
            };
            let outcome = match argument {
                "insert" => store.insert(&SERIAL, &sealer(), &object("new", true)).map(|_| true),
                "delete" => {
                    let id = store.find(&SERIAL, Some(&sealer()), &label("old")).unwrap()[0];
                    store.delete(&SERIAL, &sealer(), id)
                }
                "update" => {
                    let id = store.find(&SERIAL, Some(&sealer()), &label("old")).unwrap()[0];
                    let row = check(store.row(&SERIAL, id).unwrap().unwrap(), &sealer()).unwrap();
                    store.update(&SERIAL, &sealer(), &row, &object("newer", true)).map(|()| true)
                }
                "pair" => {
                    let pair = [object("new", false), object("new", true)];
                    store.insert_all(&SERIAL, &sealer(), &pair).map(|ids| ids.len() == 2)
                }
                "hint" => {
                    let hint = super::Hint { count: 5, limit: 8 };
                    store.keep_hint(&SERIAL, super::Role::User, hint).map(|()| true)
                }
                // Beside the store's directory lies what to restore.
                "restore" => super::backup::Backup::open(&place.with_file_name("backup"))
                    .and_then(|backup| store.restore(&backup, true))
                    .map(|done| matches!(done, super::backup::Restored::Done { .. })),
                "backup" => store.backup(&place.with_file_name("copy")).map(|()| true),
                "retire" => store.activate(b"fedcba9876543210", Some(&SERIAL)).map(|()| true),
                "migrate" => {
                    Store::open_with(place, &options(), super::places::LONGER).map(|_| true)
                }
                other => panic!("no such write: {other}"),
            };
            say(format_args!("wrote {outcome:?}"));
        }
        // Dies with changed pages in the file and the journal beside it.
        "die" => {
            let connection = rusqlite::Connection::open(place.join(FILE)).unwrap();
            connection.pragma_update(None, "cache_size", 1).unwrap();
            connection.pragma_update(None, "cache_spill", 1).unwrap();
            connection
                .execute_batch("BEGIN IMMEDIATE; UPDATE object SET content = zeroblob(200000)")
                .unwrap();
            say("dirty");
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        // Plays a child after fork: everything from before is dead, a new start works.
        "fork" => {
            let old = Store::open(place, &options()).unwrap();
            let before = old.find(&SERIAL, Some(&sealer()), &[]).unwrap();
            super::registry::FORKS_IN_TESTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            super::leak();
            assert_eq!(old.tokens(), Err(Fault::Forked));
            assert_eq!(old.change(), Err(Fault::Forked));
            assert_eq!(old.writable(), Err(Fault::Forked));
            assert_eq!(descriptors(place), 1);
            let new = Store::open(place, &options()).unwrap();
            assert_eq!(new.find(&SERIAL, Some(&sealer()), &[]).unwrap(), before);
            assert_eq!(descriptors(place), 2, "the parent's stays open, ours is another");
            let id = new.insert(&SERIAL, &sealer(), &object("child", false)).unwrap();
            drop(old);
            assert_eq!(descriptors(place), 2);
            assert_eq!(new.delete(&SERIAL, &sealer(), id), Ok(true));
            drop(new);
            assert_eq!(descriptors(place), 1);
            say("lived");
        }
        // The same, while another thread is in the middle of a transaction.
        "fork-in-use" => {
            let old = Store::open(place, &options()).unwrap();
            let (inside, wait) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                old.write(0, |_| {
                    inside.send(()).unwrap();
                    std::thread::sleep(std::time::Duration::from_secs(60));
                    Ok(())
                })
            });
            wait.recv().unwrap();
            super::registry::FORKS_IN_TESTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            say(format_args!("opened {:?}", Store::open(place, &options()).map(drop)));
        }
        // Says whether anybody has a lock on the file.
        "locked" => {
            let file = std::fs::File::options().write(true).open(place.join(FILE)).unwrap();
            let free =
                rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
            say(format_args!("locked {}", free.is_err()));
        }
        // Makes the store now the one backup, now the other.
        "restore" => {
            let store = Store::open(place, &options()).unwrap();
            let (one, other) = argument.split_once(' ').unwrap();
            for path in [one, other].iter().cycle() {
                let backup = super::backup::Backup::open(Path::new(path)).unwrap();
                store.restore(&backup, true).unwrap();
                say("restored");
            }
        }
        "create" => {
            let store = Store::open(place, &options()).unwrap();
            let mut serial = SERIAL;
            serial[0] = argument.as_bytes()[0];
            serial[1] = b'f';
            let sealer = Sealer::new(&[1; 32], &serial);
            store.insert_token(&new_token(serial), &sealer).unwrap();
            say("created");
        }
        other => panic!("no such role: {other}"),
    }
}
