//! Tests: where a store may lie, and what it then still can: read-only places, full disks, files of
//! other versions and of other programs, a sibling in the same process, a forked child.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use super::helper::{Helper, descriptors, skip};
use super::migrate::Ladder;
use super::tests::{SERIAL, label, mode, new_token, object, options, sealer, store};
use super::*;

fn all(store: &Store) -> Vec<i64> {
    store.find(&SERIAL, Some(&sealer()), &[]).unwrap()
}

/// Whether the test can change users and mount things. Says so loudly if not.
fn root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(&format!("{what} needs root"));
    }
    root
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

// ---- read-only ---------------------------------------------------------------------------------

/// A store that belongs to root, in a directory of another user's group; that user reads it.
fn as_group_member(directory_mode: u32, prepare: impl FnOnce(&Path)) -> Option<Vec<String>> {
    if !root("reading as another user") {
        return None;
    }
    let directory = tempfile::Builder::new().prefix("tpm11-store").tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), None, Some(65534)).unwrap();
    set_mode(directory.path(), directory_mode);
    {
        let store = store(directory.path());
        store.insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    }
    let file = directory.path().join(FILE);
    std::os::unix::fs::chown(&file, None, Some(65534)).unwrap();
    prepare(directory.path());
    // The test binary may lie where only root can go.
    let stage = tempfile::Builder::new().prefix("tpm11-stage").tempdir().unwrap();
    set_mode(stage.path(), 0o755);
    let binary = stage.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let before = fs::read_dir(directory.path()).unwrap().count();
    let helper = Helper::start_binary(
        &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        &binary,
        directory.path(),
        "read",
    );
    let said = helper.rest();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), before, "nothing was created");
    Some(said)
}

#[test]
fn who_may_only_read_reads_and_is_told_why_not_write() {
    let Some(said) = as_group_member(0o750, |_| {}) else { return };
    assert_eq!(said[0], "found 1");
    assert!(said[1].starts_with("writable Err(WriteProtected("), "{said:?}");
    assert!(said[2].starts_with("wrote Err(WriteProtected("), "{said:?}");
}

#[test]
fn who_may_write_the_file_but_not_the_directory_reads() {
    let prepare = |directory: &Path| set_mode(&directory.join(FILE), 0o660);
    let Some(said) = as_group_member(0o750, prepare) else { return };
    assert_eq!(said[0], "found 1");
    assert!(said[2].starts_with("wrote Err(WriteProtected("), "{said:?}");
}

#[test]
fn who_may_write_as_a_group_writes() {
    let Some(said) = as_group_member(0o770, |_| {}) else { return };
    assert_eq!(said, ["found 1", "writable Ok(())", "wrote Ok(2)"]);
}

#[test]
fn who_may_not_read_is_told_so() {
    let prepare = |directory: &Path| set_mode(&directory.join(FILE), 0o600);
    let Some(said) = as_group_member(0o750, prepare) else { return };
    assert!(said[0].starts_with("cannot open: Unreadable("), "{said:?}");
}

/// Dies in the middle of writing pages, so that the journal must be played back.
fn dead_writer(directory: &Path) {
    let mut writer = Helper::start(directory, "die");
    writer.expect("dirty");
    writer.kill();
    assert!(directory.join(format!("{FILE}-journal")).exists());
}

#[test]
fn a_reader_does_not_read_what_a_dead_writer_left_half_done() {
    let prepare = |directory: &Path| {
        dead_writer(directory);
        let journal = directory.join(format!("{FILE}-journal"));
        std::os::unix::fs::chown(&journal, None, Some(65534)).unwrap();
        set_mode(&journal, 0o640);
    };
    let Some(said) = as_group_member(0o750, prepare) else { return };
    assert!(said[0].starts_with("cannot open: NeedsRecovery("), "{said:?}");
}

#[test]
fn a_writer_takes_back_what_a_dead_writer_left_half_done() {
    let directory = tempfile::tempdir().unwrap();
    let id = {
        let store = store(directory.path());
        store.insert(&SERIAL, &sealer(), &object("x", true)).unwrap()
    };
    dead_writer(directory.path());
    let store = Store::open(directory.path(), &options()).unwrap();
    assert_eq!(all(&store), [id]);
    assert!(check(store.row(&SERIAL, id).unwrap().unwrap(), &sealer()).is_ok());
    assert!(!directory.path().join(format!("{FILE}-journal")).exists());
}

#[test]
fn permissions_that_change_while_the_store_is_open_are_told_and_come_back() {
    let directory = tempfile::Builder::new().prefix("tpm11-store").tempdir().unwrap();
    let said = if rustix::process::geteuid().is_root() {
        // Nothing stops root: as somebody else, whom the test binary's place may not admit.
        std::os::unix::fs::chown(directory.path(), Some(65534), Some(65534)).unwrap();
        let stage = tempfile::Builder::new().prefix("tpm11-stage").tempdir().unwrap();
        set_mode(stage.path(), 0o755);
        let binary = stage.path().join("tests");
        fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        Helper::start_binary(&user, &binary, directory.path(), "permissions").rest()
    } else {
        Helper::start(directory.path(), "permissions").rest()
    };
    assert_eq!(said, ["lived"]);
}

// ---- what happens to the file while it is open ------------------------------------------------------------

#[test]
fn a_directory_that_is_removed_is_no_store_and_can_be_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("store");
    let store = store(&place);
    store.insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    for _ in 0..2 {
        fs::remove_dir_all(&place).unwrap();
        assert_eq!(store.tokens(), Ok(vec![]));
        assert!(!store.exists());
        let lost = store.insert(&SERIAL, &sealer(), &object("y", true));
        assert_eq!(lost, Err(Fault::NoToken), "nothing is written into a file that has no name");
        store.insert_token(&new_token(SERIAL), &sealer()).unwrap();
        store.insert(&SERIAL, &sealer(), &object("y", true)).unwrap();
        assert_eq!(all(&store).len(), 1);
        assert_eq!(mode(&place), 0o700);
    }
}

#[test]
fn a_file_that_another_one_replaces_is_left_and_the_new_one_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    let (first, second) = (store(&one), store(&two));
    first.insert(&SERIAL, &sealer(), &object("first", true)).unwrap();
    second.insert(&SERIAL, &sealer(), &object("second", true)).unwrap();
    drop(second);
    fs::rename(two.join(FILE), one.join(FILE)).unwrap();
    let new = first.insert(&SERIAL, &sealer(), &object("third", true)).unwrap();
    let names = |name| first.find(&SERIAL, Some(&sealer()), &label(name)).unwrap().len();
    assert_eq!(["first", "second", "third"].map(names), [0, 1, 1]);
    assert_eq!(first.delete(&SERIAL, &sealer(), new), Ok(true));
    assert!(first.verify_set(&SERIAL, &sealer()).unwrap().intact);
}

/// Shut and open: what a crashed file system or a careless copy leaves. No signal, no panic, no object
/// that is not the owner's, and no loss that goes unnoticed.
#[test]
fn a_file_cut_off_at_any_page_is_refused_or_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..30).map(|number| format!("n{number}")).collect();
    {
        let store = store(directory.path());
        for name in &names {
            store.insert(&SERIAL, &sealer(), &object(name, name.len() % 2 == 0)).unwrap();
        }
    }
    let path = directory.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    let quick = Options { busy_timeout: Duration::from_millis(50), ..options() };
    let look = |store: &Store| -> Result<bool, Fault> {
        let report = store.verify_set(&SERIAL, &sealer())?;
        let mut good = 0;
        for id in store.find(&SERIAL, Some(&sealer()), &[])? {
            let row = store.row(&SERIAL, id)?.ok_or(Fault::NoObject)?;
            good += usize::from(check(row, &sealer()).is_ok());
        }
        Ok(report.intact && good == names.len())
    };
    let mut cuts = 0;
    for open_before in [false, true] {
        for end in (0..whole.len()).step_by(4096).flat_map(|page| [page, page + 1, page + 2048]) {
            fs::write(&path, &whole).unwrap();
            let before = open_before.then(|| Store::open(directory.path(), &quick).unwrap());
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(end as u64).unwrap();
            let store = match before {
                Some(store) => Ok(store),
                None => Store::open(directory.path(), &quick),
            };
            // A last page that is there in part counts as a page whose rest is zero: its objects fail
            // their check. If none was in the lost part, nothing is lost.
            let at_page = end % 4096 == 0;
            let looked = store.and_then(|store| {
                let looked = look(&store);
                let written = store.insert(&SERIAL, &sealer(), &object("more", true));
                assert!(written.is_err() || !at_page, "cut at {end}: {written:?}");
                looked
            });
            assert!(looked != Ok(true) || !at_page, "cut at {end}, open before: {open_before}");
            cuts += 1;
        }
    }
    println!("{cuts} cuts");
    fs::write(&path, &whole).unwrap();
    assert_eq!(look(&Store::open(directory.path(), &quick).unwrap()), Ok(true));
}

#[test]
fn a_file_of_ten_years_ago_or_of_the_future_is_a_file_like_others() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let now = std::time::SystemTime::now();
    let years = Duration::from_secs(10 * 365 * 24 * 3600);
    let mut ids = Vec::new();
    for time in [now - years, now + years, std::time::UNIX_EPOCH, now] {
        for path in [directory.path().join(FILE), directory.path().to_owned()] {
            fs::File::open(path).unwrap().set_modified(time).unwrap();
        }
        let other = Store::open(directory.path(), &options()).unwrap();
        ids.push(other.insert(&SERIAL, &sealer(), &object("x", true)).unwrap());
        assert_eq!(all(&store), ids);
        let copy = directory.path().join(format!("copy{}", ids.len()));
        store.backup(&copy).unwrap();
        assert!(backup::Backup::open(&copy).is_ok());
    }
}

/// `TPM11_TEST_MEGABYTES=2048` makes it two gibibytes.
#[test]
fn opening_and_finding_read_no_more_of_a_big_store_than_of_a_small_one() {
    let most = std::env::var("TPM11_TEST_MEGABYTES").ok().and_then(|text| text.parse().ok());
    let most: usize = most.unwrap_or(64);
    let directory = tempfile::tempdir().unwrap();
    // Public ones: to encrypt so much takes a debug build minutes.
    let big = |label: &str| {
        let mut row = object(label, false);
        row.attributes.insert(0x11, vec![7; 256 << 10]);
        row.guarded.push(0x11);
        row
    };
    let mut cost = Vec::new();
    let store = store(directory.path());
    let mut made = 0;
    for megabytes in [1, most] {
        let start = std::time::Instant::now();
        while made < megabytes * 4 {
            let rows: Vec<_> = (0..4).map(|more| big(&format!("n{}", made + more))).collect();
            made += store.insert_all(&SERIAL, &sealer(), &rows).unwrap().len();
        }
        let wrote = start.elapsed();
        let said = Helper::start(directory.path(), &format!("look n{}", made / 2)).rest();
        let numbers: Vec<u64> = said[0].split(' ').map(|number| number.parse().unwrap()).collect();
        let size = fs::metadata(directory.path().join(FILE)).unwrap().len();
        let start = std::time::Instant::now();
        assert!(store.verify_set(&SERIAL, &sealer()).unwrap().intact);
        println!(
            "{} MiB, {made} objects, written in {wrote:.1?}: {} bytes read, open after {} us, found \
             after {} us, all verified in {:.1?}",
            size >> 20,
            numbers[0],
            numbers[1],
            numbers[2],
            start.elapsed()
        );
        cost.push(numbers[0]);
    }
    if cost[0] == 0 {
        return skip("the system does not count what a process reads");
    }
    // A level of the tree more, perhaps two.
    assert!(cost[1] <= cost[0] + (64 << 10), "{cost:?}");
    let last = all(&store)[0];
    assert_eq!(store.delete(&SERIAL, &sealer(), last), Ok(true));
}

// ---- mounted places ----------------------------------------------------------------------------

/// A file system mounted for one test.
struct Mount(tempfile::TempDir);

impl Mount {
    fn tmpfs(size: &str) -> Option<Mount> {
        if !root("a small file system") {
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=0700");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tpm11-test"])
            .arg(place.path())
            .status();
        if !done.is_ok_and(|status| status.success()) {
            skip("nothing can be mounted here");
            return None;
        }
        Some(Mount(place))
    }

    fn remount(&self, how: &str) {
        let done = Command::new("mount").args(["-o", how]).arg(self.0.path()).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_changes_nothing_and_room_makes_it_work_again() {
    let Some(mount) = Mount::tmpfs("512k") else { return };
    let directory = mount.0.path();
    let store = store(directory);
    let id = store.insert(&SERIAL, &sealer(), &object("old", true)).unwrap();
    let mut filled = 0;
    while fs::write(directory.join(format!("filler{filled}")), [0; 4096]).is_ok() {
        filled += 1;
    }
    for _ in 0..3 {
        let full = store.insert(&SERIAL, &sealer(), &object("new", true));
        assert!(matches!(full, Err(Fault::Full(_))), "{full:?}");
        let full = store.delete(&SERIAL, &sealer(), id);
        assert!(matches!(full, Err(Fault::Full(_))), "{full:?}");
        assert_eq!(all(&store), [id], "it is still there, and can be read");
        assert!(check(store.row(&SERIAL, id).unwrap().unwrap(), &sealer()).is_ok());
    }
    for number in 0..filled {
        fs::remove_file(directory.join(format!("filler{number}"))).unwrap();
    }
    let new = store.insert(&SERIAL, &sealer(), &object("new", true)).unwrap();
    assert_eq!(all(&store), [id, new]);
    assert!(store.verify_set(&SERIAL, &sealer()).unwrap().intact);
}

#[test]
fn a_disk_that_fills_up_bit_by_bit_loses_nothing_that_was_acknowledged() {
    let Some(mount) = Mount::tmpfs("512k") else { return };
    let store = store(mount.0.path());
    let mut ids = Vec::new();
    let full = loop {
        match store.insert(&SERIAL, &sealer(), &object(&format!("n{}", ids.len()), true)) {
            Ok(id) => ids.push(id),
            Err(fault) => break fault,
        }
        assert!(ids.len() < 10_000);
    };
    assert!(matches!(full, Fault::Full(_)), "{full:?}");
    assert!(ids.len() > 10);
    assert_eq!(all(&store), ids);
    assert!(store.verify_set(&SERIAL, &sealer()).unwrap().intact);
}

#[test]
fn a_medium_that_becomes_read_only_is_read_and_one_that_becomes_writable_is_written() {
    let Some(mount) = Mount::tmpfs("1m") else { return };
    let store = store(mount.0.path());
    let id = store.insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    // A remount is refused while somebody has a file open for writing.
    drop(store);
    mount.remount("remount,ro");
    let store = Store::open(mount.0.path(), &options()).unwrap();
    assert_eq!(all(&store), [id]);
    assert!(matches!(store.writable(), Err(Fault::WriteProtected(_))));
    let refused = store.insert(&SERIAL, &sealer(), &object("y", true));
    assert!(matches!(refused, Err(Fault::WriteProtected(_))));

    mount.remount("remount,rw");
    assert_eq!(store.writable(), Ok(()));
    store.insert(&SERIAL, &sealer(), &object("y", true)).unwrap();
    assert_eq!(all(&store).len(), 2);
}

#[test]
fn a_limit_on_the_size_of_files_is_a_full_disk_and_no_signal() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = store(directory.path());
        store.insert(&SERIAL, &sealer(), &object("old", true)).unwrap();
    }
    let prlimit = ["prlimit", "--fsize=131072"];
    let mut helper = Helper::start_under(&prlimit, directory.path(), "write insert");
    let said = helper.says().expect("it lives");
    assert!(said.starts_with("wrote Err(Full("), "{said}");
}

// ---- other versions and other programs -----------------------------------------------------------

/// A ladder with a step that is not there yet.
pub(super) const LONGER: Ladder = Ladder(&[
    include_str!("0001_initial.sql"),
    "CREATE TABLE novelty (x BLOB NOT NULL) STRICT; ALTER TABLE token ADD COLUMN extra BLOB;",
]);

const BROKEN: Ladder = Ladder(&[
    include_str!("0001_initial.sql"),
    "DELETE FROM object; CREATE TABLE novelty (x BLOB NOT NULL) STRICT; SELECT nonsense();",
]);

#[test]
fn an_older_version_is_migrated_after_a_copy_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let id = store(directory.path()).insert(&SERIAL, &sealer(), &object("x", true)).unwrap();

    let new = Store::open_with(directory.path(), &options(), LONGER).unwrap();
    assert_eq!(all(&new), [id]);
    assert!(new.verify_set(&SERIAL, &sealer()).unwrap().intact);
    new.insert(&SERIAL, &sealer(), &object("y", true)).unwrap();
    drop(new);

    let copy = directory.path().join(format!("{FILE}.v1"));
    assert_eq!(mode(&copy), 0o600);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::copy(copy, elsewhere.path().join(FILE)).unwrap();
    let old = Store::open(elsewhere.path(), &options()).unwrap();
    assert_eq!(all(&old), [id], "the copy is a whole store of the old version");
    assert_eq!(old.writable(), Ok(()));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing else was left");
}

#[test]
fn a_later_version_is_read_and_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let id = store(directory.path()).insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    drop(Store::open_with(directory.path(), &options(), LONGER).unwrap());

    let store = Store::open(directory.path(), &options()).unwrap();
    assert_eq!(all(&store), [id]);
    assert!(store.verify_set(&SERIAL, &sealer()).unwrap().intact);
    assert!(matches!(store.writable(), Err(Fault::WriteProtected(_))));
    let refused = store.insert(&SERIAL, &sealer(), &object("y", true));
    assert!(matches!(refused, Err(Fault::WriteProtected(_))));
    assert!(matches!(store.delete_token(&SERIAL), Err(Fault::WriteProtected(_))));
}

#[test]
fn a_version_that_cannot_be_read_is_not_recognized() {
    let directory = tempfile::tempdir().unwrap();
    drop(store(directory.path()));
    let path = directory.path().join(FILE);
    let later = "DROP TABLE object; PRAGMA user_version = 9";
    Connection::open(&path).unwrap().execute_batch(later).unwrap();
    let refused = Store::open(directory.path(), &options());
    assert!(matches!(refused, Err(Fault::NotRecognized(_))));
}

#[test]
fn a_migration_that_breaks_off_leaves_the_old_version() {
    let directory = tempfile::tempdir().unwrap();
    let id = store(directory.path()).insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    assert!(Store::open_with(directory.path(), &options(), BROKEN).is_err());
    let store = Store::open(directory.path(), &options()).unwrap();
    assert_eq!(all(&store), [id]);
    assert_eq!(store.writable(), Ok(()));
    drop(store);
    // And the next attempt is not held up by the copy of the first.
    let new = Store::open_with(directory.path(), &options(), LONGER).unwrap();
    assert_eq!(all(&new), [id]);
}

#[test]
fn an_older_version_that_cannot_be_migrated_says_who_can() {
    let directory = tempfile::tempdir().unwrap();
    drop(store(directory.path()));
    let reading = Options { writable_wanted: false, ..options() };
    let refused = Store::open_with(directory.path(), &reading, LONGER);
    assert!(matches!(refused, Err(Fault::NotRecognized(_))));
}

#[test]
fn a_store_that_is_migrated_while_it_is_open_is_read_on_and_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let old = store(directory.path());
    let id = old.insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    let path = directory.path().join(FILE);
    let migrate = format!("{}; PRAGMA user_version = 2", LONGER.0[1]);
    Connection::open(&path).unwrap().execute_batch(&migrate).unwrap();
    assert_eq!(all(&old), [id]);
    let refused = old.insert(&SERIAL, &sealer(), &object("y", true));
    assert!(matches!(refused, Err(Fault::WriteProtected(_))), "{refused:?}");
}

#[test]
fn files_of_other_programs_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    fs::write(&path, vec![b'x'; 8192]).unwrap();
    let refused = Store::open(directory.path(), &options());
    assert!(matches!(refused, Err(Fault::Damaged(_))));
    assert_eq!(fs::read(&path).unwrap(), vec![b'x'; 8192]);

    fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(&path).unwrap();
    let refused = Store::open(directory.path(), &options());
    assert!(matches!(refused, Err(Fault::NotRecognized(_))));
    assert_eq!(fs::read(&path).unwrap(), before);

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let refused = Store::open(directory.path(), &options());
    assert!(matches!(refused, Err(Fault::NotRecognized(_))));
}

#[test]
fn a_write_ahead_log_that_somebody_chose_is_left_again() {
    let directory = tempfile::tempdir().unwrap();
    let id = store(directory.path()).insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    let path = directory.path().join(FILE);
    Connection::open(&path)
        .unwrap()
        .pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
        .unwrap();
    let store = Store::open(directory.path(), &options()).unwrap();
    assert_eq!(all(&store), [id]);
    store.insert(&SERIAL, &sealer(), &object("y", true)).unwrap();
    drop(store);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// A store as the first release wrote it: whatever comes later must open it.
#[test]
fn the_golden_store_of_version_1_opens() {
    let directory = tempfile::tempdir().unwrap();
    let golden = include_bytes!("golden/v1.sqlite3");
    fs::write(directory.path().join(FILE), golden).unwrap();
    let store = Store::open(directory.path(), &options()).unwrap();
    let token = store.token(&SERIAL).unwrap().unwrap();
    assert_eq!((token.objects, token.generation, token.state), (2, 2, TokenState::Active));
    assert_eq!(token.user_hint, Hint { count: 1, limit: 8 });
    assert_eq!(store.facts(&[0, 11, 4]).unwrap().unwrap(), b"facts");
    assert!(store.verify_set(&SERIAL, &sealer()).unwrap().intact);
    for (name, private) in [("golden public", false), ("golden private", true)] {
        let found = store.find(&SERIAL, Some(&sealer()), &label(name)).unwrap();
        let row = store.row(&SERIAL, found[0]).unwrap().unwrap();
        let row = check(row, &sealer()).unwrap();
        assert_eq!(row.attributes, object(name, private).attributes);
        assert_eq!(row.private_blob, b"wrapped");
    }
    // Computed apart: HMAC-SHA256 under HKDF-SHA256(secret, serial, label).
    let expected = [
        0xcc, 0x11, 0xc8, 0x7f, 0x5a, 0x91, 0xd2, 0xd1, 0xdc, 0x47, 0x3a, 0x93, 0xe0, 0xd4, 0x9a,
        0x96,
    ];
    assert_eq!(sealer().authorization(&[1; 16])[..16], expected, "keys hang on these bytes");
}

/// Writes the golden file anew: only for a new schema version, under a new name.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_golden_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.insert(&SERIAL, &sealer(), &object("golden public", false)).unwrap();
    store.insert(&SERIAL, &sealer(), &object("golden private", true)).unwrap();
    store.keep_hint(&SERIAL, Role::User, Hint { count: 1, limit: 8 }).unwrap();
    store.keep_facts(&[0, 11, 4], b"facts").unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/golden/v1.sqlite3");
    store.backup(&golden).unwrap();
}

// ---- siblings and children -----------------------------------------------------------------------

/// A sibling's connection, as far as locks go: a descriptor that is not our SQLite's.
fn sibling(directory: &Path) -> fs::File {
    fs::OpenOptions::new().read(true).write(true).open(directory.join(FILE)).unwrap()
}

#[test]
fn a_sibling_in_the_same_process_makes_the_store_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let id = store(directory.path()).insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    let other = sibling(directory.path());

    let store = Store::open(directory.path(), &options()).unwrap();
    assert_eq!(all(&store), [id]);
    assert!(matches!(store.writable(), Err(Fault::WriteProtected(_))));
    let refused = store.insert(&SERIAL, &sealer(), &object("y", true));
    assert!(matches!(refused, Err(Fault::WriteProtected(_))));
    drop(other);
}

#[test]
fn a_siblings_locks_outlive_our_reading_and_closing() {
    let directory = tempfile::tempdir().unwrap();
    store(directory.path()).insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    let other = sibling(directory.path());
    rustix::fs::fcntl_lock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();

    for _ in 0..20 {
        let store = Store::open(directory.path(), &options()).unwrap();
        assert_eq!(all(&store).len(), 1);
        drop(store);
    }
    assert_eq!(descriptors(directory.path()), 2, "one kept, not one for each time");
    // Only another process can see whether the lock still stands.
    let mut helper = Helper::start(directory.path(), "locked");
    helper.expect("locked true");
    drop(other);
    let mut helper = Helper::start(directory.path(), "locked");
    helper.expect("locked false");
}

#[test]
fn a_reader_without_locks_never_sees_half_a_commit() {
    let directory = tempfile::tempdir().unwrap();
    drop(store(directory.path()));
    let _other = sibling(directory.path());
    let mut writer = Helper::start(directory.path(), "churn a");
    assert!(writer.says().is_some());
    let store = Store::open(directory.path(), &options()).unwrap();
    let (mut looks, mut changes, mut last) = (0, 0, 0);
    let start = std::time::Instant::now();
    while looks < attacks::samples(40) || changes < 5 {
        let report = store.verify_set(&SERIAL, &sealer()).unwrap();
        assert!(report.intact, "{report:?}");
        let change = store.change().unwrap();
        changes += u32::from(change != last);
        last = change;
        looks += 1;
        assert!(start.elapsed() < Duration::from_secs(60), "{changes} changes in {looks} looks");
    }
}

#[test]
fn a_forked_child_abandons_the_parents_connection_and_starts_anew() {
    let directory = tempfile::tempdir().unwrap();
    store(directory.path()).insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    let mut child = Helper::start(directory.path(), "fork");
    child.expect("lived");
}

#[test]
fn a_child_forked_in_the_middle_of_a_transaction_does_not_call_sqlite_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    store(directory.path()).insert(&SERIAL, &sealer(), &object("x", true)).unwrap();
    let mut child = Helper::start(directory.path(), "fork-in-use");
    let said = child.says().unwrap();
    assert!(said.starts_with("opened Err(Unreadable("), "{said}");
}

#[test]
fn a_token_can_be_created_by_two_processes_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("new");
    let mut both = ["1", "2"].map(|name| Helper::start(&place, &format!("create {name}")));
    both.iter_mut().for_each(|helper| helper.expect("created"));
    let store = Store::open(&place, &options()).unwrap();
    assert_eq!(store.tokens().unwrap().len(), 2);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    store.insert_token(&new_token(SERIAL), &sealer()).unwrap();
}
