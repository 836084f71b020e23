//! Tests: another process that uses the same store. It is this very test binary, started again for
//! the one "test" below, with what it shall do in its environment.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::tests::{SERIAL, label, object, options, sealer};
use super::{FILE, Store, check};

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

    /// Starts it through another program, which gets this binary's path as its last argument.
    pub(super) fn start_under(program: &[&str], place: &Path, role: &str) -> Helper {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(std::env::current_exe().unwrap());
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
            for round in 0..rounds.parse().unwrap() {
                let text = format!("{name}-{round}");
                let id = store.insert(&SERIAL, &sealer(), &object(&text, round % 2 == 0)).unwrap();
                let found = store.find(&SERIAL, Some(&sealer()), &label(&text)).unwrap();
                assert_eq!(found, [id]);
                if round % 4 != 0 {
                    assert_eq!(store.delete(&SERIAL, &sealer(), id), Ok(true));
                }
            }
            say("done");
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
                "retire" => store.activate(b"fedcba9876543210", Some(&SERIAL)).map(|()| true),
                other => panic!("no such write: {other}"),
            };
            say(format_args!("wrote {outcome:?}"));
        }
        other => panic!("no such role: {other}"),
    }
}
