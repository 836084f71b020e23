//! Tests: processes that are killed, and disks that fail, at any moment of any write. What was
//! acknowledged is there; what was not either happened or did not.

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::attacks::samples;
use super::helper::{Helper, skip};
use super::tests::{SERIAL, label, new_token, object, options, sealer, store};
use super::*;

/// What can be seen of a store, in comparable form; everything in it must be whole.
fn state(directory: &Path) -> String {
    let store = Store::open(directory, &options()).unwrap();
    let report = store.verify_set(&SERIAL, &sealer());
    assert!(report.as_ref().map_or(true, |report| report.intact), "{report:?}");
    let tokens = store.tokens().unwrap();
    let mut rows = Vec::new();
    for id in store.find(&SERIAL, Some(&sealer()), &[]).unwrap() {
        let row = check(store.row(&SERIAL, id).unwrap().unwrap(), &sealer()).unwrap();
        rows.push((id, row.version, row.attributes.clone()));
    }
    drop(store);
    let connection = rusqlite::Connection::open(directory.join(FILE)).unwrap();
    let sound: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let orphans: i64 = connection
        .query_row(
            "SELECT count(*) FROM attribute WHERE object NOT IN (SELECT id FROM object)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(orphans, 0);
    format!("{tokens:?} {rows:?}")
}

/// Objects `old` and others, and a second token that waits to replace the first.
fn scene(directory: &Path) {
    let store = store(directory);
    let serial = *b"fedcba9876543210";
    store.insert_token(&new_token(serial), &Sealer::new(&[8; 32], &serial)).unwrap();
    for name in ["old", "a", "b"] {
        store.insert(&SERIAL, &sealer(), &object(name, true)).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_killed_writer_loses_nothing_acknowledged_and_leaves_nothing_half_done() {
    use rand_core::{RngCore, SeedableRng};
    let directory = tempfile::tempdir().unwrap();
    drop(store(directory.path()));
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let mut there = BTreeSet::new();
    let mut acknowledged = 0;
    for round in 0..samples(25) {
        let mut writer = Helper::start(directory.path(), &format!("churn {round}"));
        let mut said = vec![writer.says().unwrap()];
        std::thread::sleep(Duration::from_micros(u64::from(random.next_u32() % 30_000)));
        writer.kill();
        said.extend(std::iter::from_fn(|| writer.says()));
        acknowledged += said.len();

        let before = there.clone();
        for line in &said {
            match line.split_once(' ').unwrap() {
                ("inserted", id) => _ = there.insert(id.parse::<i64>().unwrap()),
                ("deleted", id) => _ = there.remove(&id.parse().unwrap()),
                _ => {}
            }
        }
        state(directory.path());
        let store = Store::open(directory.path(), &options()).unwrap();
        let found: BTreeSet<_> =
            store.find(&SERIAL, Some(&sealer()), &[]).unwrap().into_iter().collect();
        // The one call that was under way may have happened: an insert more, or a delete more.
        let more = found.difference(&there).count();
        let fewer = there.difference(&found).count();
        assert!(more + fewer <= 1, "had {before:?}, heard {said:?}, found {found:?}");
        there = found;
    }
    println!("{acknowledged} acknowledged");
}

#[test]
fn many_processes_share_a_store_without_a_single_error() {
    let directory = tempfile::tempdir().unwrap();
    let reader = store(directory.path());
    let (processes, rounds) = (16, samples(8));
    let mut helpers: Vec<_> = (0..processes)
        .map(|name| Helper::start(directory.path(), &format!("share {name} {rounds}")))
        .collect();
    // Meanwhile somebody looks, and never waits for long.
    let mut longest = Duration::ZERO;
    for _ in 0..samples(20) {
        let start = std::time::Instant::now();
        assert!(reader.verify_set(&SERIAL, &sealer()).unwrap().intact);
        longest = longest.max(start.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("a reader waited {longest:?} at most");
    assert!(longest < Duration::from_secs(5), "a reader waited {longest:?}");
    let waits = helpers.iter_mut().map(|helper| helper.says().expect("no error").parse().unwrap());
    let wait: u64 = waits.max().unwrap();
    println!("a writer waited {wait} ms at most");
    assert!(wait < 8000, "a writer waited {wait} ms");
    let left = reader.find(&SERIAL, Some(&sealer()), &[]).unwrap();
    assert_eq!(left.len() as u32, processes * rounds.div_ceil(4));
    let token = reader.token(&SERIAL).unwrap().unwrap();
    let deleted = rounds - rounds.div_ceil(4);
    assert_eq!(token.generation, u64::from(processes * (rounds + deleted)));
    drop(reader);
    state(directory.path());
}

/// Whether strace is there to break system calls for us. Says so loudly if not.
fn strace() -> bool {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    let works = works.is_ok_and(|status| status.success());
    if !works {
        skip("strace is not installed, or may not trace");
    }
    works
}

/// Runs one write under strace, which does `what` (kill, or fail) at the n-th `call`. Answers what
/// the writer said; `None` once the write makes fewer calls than that.
fn broken_write(directory: &Path, write: &str, call: &str, what: &str, n: u32) -> Option<String> {
    let log = directory.join("strace.log");
    let inject = format!("inject={call}:{what}:when={n}");
    let trace = format!("trace={call}");
    let place = directory.join("store");
    let helper = Helper::start_under(
        &["strace", "-f", "-o", log.to_str().unwrap(), "-e", &trace, "-e", &inject],
        &place,
        &format!("write {write}"),
    );
    let said = helper.rest();
    let log = std::fs::read_to_string(log).unwrap();
    let hit = log.contains("INJECTED") || log.contains("killed by SIGKILL");
    hit.then(|| said.first().cloned().unwrap_or_default())
}

/// Breaks every single call of a kind in every kind of write.
fn break_every(call: &str, what: &str, expect: impl Fn(&str) -> bool) {
    let writes = ["insert", "pair", "update", "delete", "hint", "retire", "restore"];
    break_each(&writes, call, what, expect);
}

/// A copy of the scene's store with one object, in a file beside the store's directory.
fn beside(place: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let other = store(&directory.path().join("other"));
    other.insert(&SERIAL, &sealer(), &object("restored", true)).unwrap();
    other.backup(&place.with_file_name("backup")).unwrap();
}

fn break_each(writes: &[&str], call: &str, what: &str, expect: impl Fn(&str) -> bool) {
    if !strace() {
        return;
    }
    let original = tempfile::tempdir().unwrap();
    scene(original.path());
    let before = state(original.path());
    let mut cuts = 0;
    for write in writes {
        for n in 1.. {
            assert!(n < 200);
            let directory = tempfile::tempdir().unwrap();
            let place = directory.path().join("store");
            std::fs::DirBuilder::new().mode(0o700).create(&place).unwrap();
            copy(original.path(), &place);
            if *write == "restore" {
                beside(&place);
            }
            let Some(said) = broken_write(directory.path(), write, call, what, n) else { break };
            cuts += 1;
            let after = state(&place);
            let happened = after != before;
            match said.as_str() {
                // Killed.
                "" => {}
                "wrote Ok(true)" => assert!(happened, "{write}, {call} {n}: acknowledged, lost"),
                error => assert!(expect(error), "{write}, {call} {n}: {error}"),
            }
            if happened {
                was_done(&place, write);
            }
        }
    }
    println!("{cuts} cuts at {call} ({what})");
    assert!(cuts > 0, "{call} is never called");
}

/// If a write changed anything, then all that it was to change.
fn was_done(place: &Path, write: &str) {
    let store = Store::open(place, &options()).unwrap();
    let find = |name| store.find(&SERIAL, Some(&sealer()), &label(name)).unwrap().len();
    match write {
        "insert" => assert_eq!((find("new"), find("old")), (1, 1)),
        "pair" => assert_eq!((find("new"), find("old")), (2, 1)),
        "hint" => {
            let token = store.token(&SERIAL).unwrap().unwrap();
            assert_eq!(token.user_hint, Hint { count: 5, limit: 8 });
        }
        "restore" => {
            assert_eq!((find("restored"), find("old")), (1, 0));
            assert_eq!(store.tokens().unwrap().len(), 1);
        }
        "update" => assert_eq!((find("newer"), find("old")), (1, 0)),
        "delete" => assert_eq!((find("old"), find("a")), (0, 1)),
        "retire" => {
            let tokens = store.tokens().unwrap();
            assert_eq!(tokens.len(), 1);
            assert_eq!(tokens[0].state, TokenState::Active);
            assert_ne!(tokens[0].serial, SERIAL);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_kill_before_any_write_to_the_disk_leaves_before_or_after() {
    break_every("pwrite64", "signal=KILL", |_| false);
}

#[test]
fn a_kill_before_any_sync_leaves_before_or_after() {
    break_every("fsync", "signal=KILL", |_| false);
}

#[test]
fn a_kill_before_the_journal_is_removed_leaves_before_or_after() {
    break_every("unlink", "signal=KILL", |_| false);
}

#[test]
fn a_disk_that_is_full_at_any_write_is_told_as_full() {
    break_every("pwrite64", "error=ENOSPC", |said| said.starts_with("wrote Err(Full("));
}

#[test]
fn a_quota_that_is_used_up_at_any_write_is_told_as_full() {
    let told = |said: &str| said.starts_with("wrote Err(Full(");
    break_each(&["insert"], "pwrite64", "error=EDQUOT", told);
}

#[test]
fn a_disk_that_fails_at_any_sync_is_told_as_broken() {
    break_every("fsync", "error=EIO", |said| said.starts_with("wrote Err(Damaged("));
}

#[test]
fn a_journal_that_cannot_be_removed_is_told() {
    break_every("unlink", "error=EIO", |said| said.starts_with("wrote Err(Damaged("));
}

#[test]
fn a_kill_at_any_moment_of_the_migration_of_a_golden_store_leaves_one_that_opens() {
    if !strace() {
        return;
    }
    let original = tempfile::tempdir().unwrap();
    std::fs::write(original.path().join(FILE), include_bytes!("golden/v1.sqlite3")).unwrap();
    let mut cuts = 0;
    for call in ["pwrite64", "fsync", "rename", "unlink"] {
        for n in 1.. {
            let directory = tempfile::tempdir().unwrap();
            let place = directory.path().join("store");
            std::fs::DirBuilder::new().mode(0o700).create(&place).unwrap();
            copy(original.path(), &place);
            let said = broken_write(directory.path(), "migrate", call, "signal=KILL", n);
            if said.is_none() {
                break;
            }
            cuts += 1;
            let ladder = super::places::LONGER;
            let store = Store::open_with(&place, &options(), ladder).unwrap();
            assert_eq!(store.writable(), Ok(()));
            assert!(store.verify_set(&SERIAL, &sealer()).unwrap().intact);
            assert_eq!(store.find(&SERIAL, Some(&sealer()), &[]).unwrap().len(), 2);
            assert!(place.join(format!("{FILE}.v1")).exists());
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 30, "{cuts}");
}

#[test]
fn a_kill_at_any_moment_of_the_first_token_leaves_a_store_that_can_be_used() {
    if !strace() {
        return;
    }
    let mut cuts = 0;
    for call in ["mkdir", "pwrite64", "fsync", "renameat2", "unlink"] {
        for n in 1.. {
            let directory = tempfile::tempdir().unwrap();
            let said = broken_write(directory.path(), "create", call, "signal=KILL", n);
            if said.is_none() {
                break;
            }
            cuts += 1;
            let store = Store::open(&directory.path().join("store"), &options()).unwrap();
            if store.token(&SERIAL).unwrap().is_some() {
                assert_eq!(store.delete_token(&SERIAL), Ok(true));
            }
            store.insert_token(&new_token(SERIAL), &sealer()).unwrap();
            store.insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
            assert!(store.verify_set(&SERIAL, &sealer()).unwrap().intact);
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 20, "{cuts}");
}

// ---- power cuts --------------------------------------------------------------------------------

/// What a writer asked of the disk, in order. File names without their directory.
enum Asked {
    Write(String, usize, Vec<u8>),
    Truncate(String, usize),
    Sync(String),
    Create(String),
    Remove(String),
    SyncDirectory,
}

/// Everything that one write asks of the disk, as strace saw it.
fn recorded(directory: &Path, write: &str) -> Vec<Asked> {
    let log = directory.join("strace.log");
    let place = directory.join("store");
    let calls = "trace=openat,pwrite64,ftruncate,fsync,unlink";
    let strace = ["strace", "-f", "-y", "-xx", "-s", "100000000", "-e", calls, "-o"];
    let strace: Vec<_> = strace.into_iter().chain([log.to_str().unwrap()]).collect();
    let said = Helper::start_under(&strace, &place, &format!("write {write}")).rest();
    assert_eq!(said, ["wrote Ok(true)"]);

    // Every string and every path is in hexadecimal.
    let bytes = |text: &str| -> Vec<u8> {
        let digits = text.split("\\x").skip(1);
        digits.map(|digits| u8::from_str_radix(&digits[..2], 16).unwrap()).collect()
    };
    let name = |text: &str| {
        let path = String::from_utf8(bytes(text)).unwrap();
        let path = Path::new(&path);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        (path == place, name.filter(|_| path.parent() == Some(place.as_path())))
    };
    let mut asked = Vec::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let Some((call, rest)) =
            line.split_once(' ').and_then(|(_, line)| line.trim().split_once('('))
        else {
            continue;
        };
        assert!(!rest.contains("resumed"), "one thread alone: {line}");
        if rest.contains("= -1") {
            continue;
        }
        let quoted = || rest.split('"').nth(1).unwrap();
        let open_as = || rest.split(['<', '>']).nth(1).unwrap();
        let number = |from_end: usize| -> usize {
            let arguments = rest.rsplit_once(") ").unwrap().0;
            arguments.rsplit(", ").nth(from_end).unwrap().parse().unwrap()
        };
        match call {
            "openat" => {
                let created = name(quoted()).1.filter(|_| rest.contains("O_CREAT"));
                asked.extend(created.map(Asked::Create));
            }
            "unlink" => asked.extend(name(quoted()).1.map(Asked::Remove)),
            "pwrite64" => asked.extend(
                name(open_as()).1.map(|name| Asked::Write(name, number(0), bytes(quoted()))),
            ),
            "ftruncate" => {
                asked.extend(name(open_as()).1.map(|name| Asked::Truncate(name, number(0))));
            }
            "fsync" => match name(open_as()) {
                (true, _) => asked.push(Asked::SyncDirectory),
                (false, name) => asked.extend(name.map(Asked::Sync)),
            },
            _ => {}
        }
    }
    asked
}

/// A disk that keeps what was asked of it in a cache, and loses any part of that with the power.
#[derive(Default)]
struct Disk {
    /// What has a name for good.
    names: BTreeSet<String>,
    /// Names given and taken since the directory was synced, in order.
    renamed: Vec<(String, bool)>,
    /// Content that is there for good, and changes since the file was synced.
    files: std::collections::BTreeMap<String, (Vec<u8>, Vec<Change>)>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Truncate(length) => content.resize(*length, 0),
        Change::Write(at, bytes) => {
            content.resize(content.len().max(at + bytes.len()), 0);
            content[*at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

impl Disk {
    fn ask(&mut self, asked: &Asked) {
        match asked {
            Asked::Write(name, at, bytes) => {
                let change = Change::Write(*at, bytes.clone());
                self.files.entry(name.clone()).or_default().1.push(change);
            }
            Asked::Truncate(name, length) => {
                self.files.entry(name.clone()).or_default().1.push(Change::Truncate(*length));
            }
            Asked::Sync(name) => {
                let (content, changes) = self.files.entry(name.clone()).or_default();
                changes.drain(..).for_each(|change| apply(content, &change));
            }
            Asked::Create(name) => {
                self.files.entry(name.clone()).or_default();
                self.renamed.push((name.clone(), true));
            }
            Asked::Remove(name) => self.renamed.push((name.clone(), false)),
            Asked::SyncDirectory => {
                for (name, there) in self.renamed.drain(..) {
                    if there {
                        self.names.insert(name)
                    } else {
                        self.names.remove(&name)
                    };
                }
            }
        }
    }

    /// What is found after the power cut: of the names, a first part of what was asked; of each
    /// file's changes, any. `none` loses everything that can be lost.
    fn survives(&self, random: &mut impl rand_core::RngCore, none: bool, to: &Path) {
        let mut names = self.names.clone();
        let kept = if none { 0 } else { random.next_u32() as usize % (self.renamed.len() + 1) };
        for (name, there) in &self.renamed[..kept] {
            if *there {
                names.insert(name.clone())
            } else {
                names.remove(name)
            };
        }
        for name in names {
            let (mut content, changes) = self.files[&name].clone();
            for change in &changes {
                if !none && random.next_u32() % 2 == 0 {
                    apply(&mut content, change);
                }
            }
            std::fs::write(to.join(name), content).unwrap();
        }
    }
}

/// What the disk was not yet told to make durable may be lost in any combination, and the order of
/// writes means nothing: before each and every call that a write makes, and after the last one,
/// where nothing may be lost any more.
#[test]
fn a_power_cut_at_any_moment_leaves_before_or_after_and_what_was_acknowledged_stays() {
    use rand_core::SeedableRng;
    if !strace() {
        return;
    }
    let original = tempfile::tempdir().unwrap();
    scene(original.path());
    let before = state(original.path());
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(4);
    let (mut cuts, mut happened) = (0, 0);
    for write in ["insert", "update", "delete", "retire"] {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("store");
        std::fs::DirBuilder::new().mode(0o700).create(&place).unwrap();
        copy(original.path(), &place);
        let asked = recorded(directory.path(), write);
        let after = state(&place);
        assert_ne!(after, before);

        let mut disk = Disk::default();
        let content = std::fs::read(original.path().join(FILE)).unwrap();
        disk.files.insert(FILE.to_owned(), (content, Vec::new()));
        disk.names.insert(FILE.to_owned());
        for cut in 0..=asked.len() {
            for round in 0..samples(4) {
                let found = tempfile::tempdir().unwrap();
                disk.survives(&mut random, round == 0, found.path());
                let found = state(found.path());
                assert!(found == before || found == after, "{write}, cut {cut}: neither");
                let done = cut == asked.len();
                assert!(!done || found == after, "{write}: acknowledged and lost");
                cuts += 1;
                happened += u32::from(found == after);
            }
            asked.get(cut).into_iter().for_each(|asked| disk.ask(asked));
        }
    }
    println!("{cuts} power cuts, {happened} after the commit");
    assert!(happened > 0 && happened < cuts);
}
