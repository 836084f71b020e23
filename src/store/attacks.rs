//! Tests: the file in the hands of an enemy who can read and write it at will, but has no token
//! secret. What he does is noticed before it is used, named, and disturbs nothing else.

use rusqlite::{Connection, params};

use super::tests::{LABEL, SERIAL, label, new_token, object, options, sealer, store};
use super::*;

/// A store with a public and two private objects; closed, so that the enemy can have it.
struct Scene {
    directory: tempfile::TempDir,
    ids: Vec<i64>,
    rows: Vec<Row>,
}

impl Scene {
    fn new() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let new = ["cert", "key", "test key"].map(|label| object(label, label != "cert"));
        let ids = store.insert_all(&SERIAL, &sealer(), &new).unwrap();
        let row = |id: &i64| {
            check(store.row(&SERIAL, *id).unwrap().unwrap(), &sealer()).unwrap().into_inner()
        };
        let rows = ids.iter().map(row).collect();
        drop(store);
        Scene { directory, ids, rows }
    }

    fn enemy(&self) -> Connection {
        let connection = Connection::open(self.directory.path().join(FILE)).unwrap();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        connection
    }

    fn attack(&self, sql: &str) {
        let changed = self.enemy().execute(sql, []).unwrap();
        assert!(changed > 0, "the attack did nothing");
    }

    fn open(&self) -> Arc<Store> {
        Store::open(self.directory.path(), &options()).unwrap()
    }

    /// The rows that pass, and the uuids of those that do not.
    fn inspect(&self) -> (Report, Vec<Row>, Vec<[u8; 16]>) {
        let store = self.open();
        let report = store.verify_set(&SERIAL, &sealer()).unwrap();
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for id in store.find(&SERIAL, Some(&sealer()), &[]).unwrap() {
            let row = match store.row(&SERIAL, id) {
                Ok(row) => check(row.unwrap(), &sealer()),
                Err(fault) => Err(fault),
            };
            match row {
                Ok(row) => good.push(row.into_inner()),
                Err(Fault::BadRow { uuid, .. }) => bad.push(uuid),
                Err(other) => panic!("{other}"),
            }
        }
        (report, good, bad)
    }

    /// Only the second object is spoilt, and it is known that it is.
    fn only_the_key_is_refused(&self) {
        let (_, good, bad) = self.inspect();
        assert!(good == [self.rows[0].clone(), self.rows[2].clone()], "the others work");
        assert_eq!(bad, [self.rows[1].uuid]);
    }
}

#[test]
fn every_altered_column_of_an_object_is_noticed() {
    // Among these: CKA_EXTRACTABLE, CKA_ALWAYS_AUTHENTICATE, CKA_TRUSTED set back, a replaced
    // certificate: all are content.
    for change in [
        "class = 2",
        "private = 0",
        "version = 2",
        "version = -1",
        "name = x'00'",
        "tag = zeroblob(32)",
        "tag = x''",
        "content = x''",
        "content = zeroblob(64)",
        "content = CAST(substr(content, 1, length(content) - 1) AS BLOB)",
        "uuid = zeroblob(16)",
    ] {
        let scene = Scene::new();
        scene.attack(&format!("UPDATE object SET {change} WHERE id = {}", scene.ids[1]));
        let (report, good, bad) = scene.inspect();
        assert!(good == [scene.rows[0].clone(), scene.rows[2].clone()], "{change}");
        assert_eq!(bad.len(), 1, "{change}");
        // Content alone is found when it is read, everything else at login, too.
        let content = ["class", "private", "name", "content"].iter().any(|c| change.starts_with(c));
        assert_eq!(report.intact, content, "{change}");
        if !content {
            assert_eq!(report.bad, bad, "{change}");
        }
    }
}

#[test]
fn altered_bytes_of_a_public_object_are_noticed_after_login() {
    let scene = Scene::new();
    let mut content: Vec<u8> = scene
        .enemy()
        .query_row("SELECT content FROM object WHERE id = ?1", [scene.ids[0]], |row| row.get(0))
        .unwrap();
    let at = content.windows(4).position(|window| window == b"cert").unwrap();
    content[at] = b'b';
    scene
        .enemy()
        .execute("UPDATE object SET content = ?2 WHERE id = ?1", params![scene.ids[0], content])
        .unwrap();
    let store = scene.open();
    let row = store.row(&SERIAL, scene.ids[0]).unwrap().unwrap();
    let seen = row.unauthenticated().unwrap().unwrap();
    assert_eq!(seen.attributes[&LABEL], b"bert", "before login nobody can tell");
    assert!(matches!(check(row, &sealer()), Err(Fault::BadRow { .. })));
}

#[test]
fn a_private_object_that_is_called_public_shows_nothing() {
    let scene = Scene::new();
    scene.attack(&format!("UPDATE object SET private = 0 WHERE id = {}", scene.ids[1]));
    let store = scene.open();
    let row = store.row(&SERIAL, scene.ids[1]).unwrap().unwrap();
    let seen = row.unauthenticated();
    assert!(!matches!(seen, Ok(Some(row)) if row.attributes == scene.rows[1].attributes));
    scene.only_the_key_is_refused();
}

#[test]
fn swapped_contents_and_swapped_uuids_are_noticed() {
    for column in ["content", "uuid", "tag", "content = b.content, tag"] {
        let scene = Scene::new();
        let swap = format!(
            "CREATE TEMP TABLE b AS SELECT * FROM object; \
             UPDATE object SET {column} = b.{last} FROM temp.b AS b \
             WHERE b.id + object.id = {sum} AND b.id IN ({one}, {two})",
            last = column.rsplit(' ').next().unwrap(),
            sum = scene.ids[1] + scene.ids[2],
            one = scene.ids[1],
            two = scene.ids[2]
        );
        scene.enemy().execute_batch(&swap).unwrap();
        let (report, good, bad) = scene.inspect();
        assert!(good == [scene.rows[0].clone()], "{column}");
        assert_eq!(bad.len(), 2, "{column}");
        assert_eq!(report.intact, column == "content", "{column}");
    }
}

#[test]
fn swapped_ids_do_no_harm_because_nothing_hangs_on_them() {
    let scene = Scene::new();
    scene.attack(&format!("UPDATE object SET id = 1000 WHERE id = {}", scene.ids[1]));
    let (report, good, bad) = scene.inspect();
    assert!(report.intact && bad.is_empty());
    assert_eq!(good.len(), 3);
}

#[test]
fn an_object_of_another_token_is_refused() {
    let scene = Scene::new();
    let serial = *b"fedcba9876543210";
    // The same secret even: the serial number alone must do.
    let other = Sealer::new(&super::tests::SECRET, &serial);
    scene.open().insert_token(&new_token(serial), &other).unwrap();
    let moved = scene.open().insert(&serial, &other, &object("foreign", true)).unwrap();
    scene.attack(&format!(
        "UPDATE object SET token = (SELECT id FROM token WHERE serial = x'{}') WHERE id = {moved}",
        SERIAL.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    ));
    let (report, good, bad) = scene.inspect();
    assert!(!report.intact);
    assert_eq!((report.expected, report.found), (3, 4));
    assert_eq!(report.bad, bad);
    assert!(good == scene.rows);
    let store = scene.open();
    assert!(!store.verify_set(&serial, &other).unwrap().intact, "and it is missed at home");
}

#[test]
fn an_old_version_of_an_object_is_noticed_at_login() {
    let scene = Scene::new();
    let old = scene.directory.path().join("old");
    std::fs::copy(scene.directory.path().join(FILE), &old).unwrap();
    let store = scene.open();
    let base = check(store.row(&SERIAL, scene.ids[1]).unwrap().unwrap(), &sealer()).unwrap();
    store.update(&SERIAL, &sealer(), &base, &object("less allowed", true)).unwrap();
    drop(store);

    let enemy = scene.enemy();
    enemy.execute("ATTACH ?1 AS old", [old.to_str().unwrap()]).unwrap();
    let set_back = "UPDATE object SET (version, tag, content, name) = (SELECT version, tag, \
                    content, name FROM old.object AS o WHERE o.id = object.id) WHERE id = ?1";
    assert_eq!(enemy.execute(set_back, [scene.ids[1]]).unwrap(), 1);
    drop(enemy);

    let (report, ..) = scene.inspect();
    assert!(!report.intact);
    assert!(report.bad.is_empty(), "it is the owner's, only too old");
    assert!(report.suspects.contains(&scene.rows[1].uuid));
}

#[test]
fn a_removed_object_is_noticed_at_login() {
    let scene = Scene::new();
    scene.attack(&format!("DELETE FROM object WHERE id = {}", scene.ids[1]));
    let (report, good, _) = scene.inspect();
    assert!(!report.intact);
    assert_eq!((report.expected, report.found), (3, 2));
    assert_eq!(good.len(), 2, "the others work");

    // Nor does it help to correct the count, or to empty everything.
    scene.attack("UPDATE token SET objects = 2");
    assert!(!scene.inspect().0.intact);
    scene.attack("DELETE FROM object");
    scene.attack("UPDATE token SET objects = 0, generation = 0, digest = zeroblob(2048)");
    assert!(!scene.inspect().0.intact);
}

#[test]
fn a_doubled_object_is_noticed_at_login() {
    let scene = Scene::new();
    scene.attack(&format!(
        "INSERT INTO object SELECT NULL, token, uuid, version, class, private, name, tag, content \
         FROM object WHERE id = {}",
        scene.ids[1]
    ));
    let (report, ..) = scene.inspect();
    assert!(!report.intact);
    assert_eq!((report.expected, report.found), (3, 4));
    assert!(report.suspects.contains(&scene.rows[1].uuid));
}

#[test]
fn an_inserted_object_is_refused() {
    let scene = Scene::new();
    scene.attack(
        "INSERT INTO object SELECT NULL, token, randomblob(16), 1, class, 0, name, randomblob(32), \
         content FROM object LIMIT 1",
    );
    let (report, good, bad) = scene.inspect();
    assert!(!report.intact);
    assert_eq!(report.bad, bad);
    assert_eq!(bad.len(), 1);
    assert!(good == scene.rows);
}

#[test]
fn a_doctored_index_leads_to_no_other_object() {
    let scene = Scene::new();
    let (key, test) = (scene.ids[1], scene.ids[2]);
    scene.attack(&format!(
        "UPDATE attribute SET object = {key} + {test} - object WHERE object IN ({key}, {test}) AND \
         type = {LABEL}"
    ));
    let store = scene.open();
    assert_eq!(store.find(&SERIAL, Some(&sealer()), &label("key")), Ok(vec![]));
    assert_eq!(store.find(&SERIAL, Some(&sealer()), &label("test key")), Ok(vec![]));
    assert_eq!(store.find(&SERIAL, Some(&sealer()), &label("cert")), Ok(vec![scene.ids[0]]));
}

#[test]
fn a_change_by_the_owner_does_not_make_an_alteration_good() {
    for attack in [
        "DELETE FROM object WHERE id = 2",
        "UPDATE token SET digest_mac = zeroblob(32)",
        "UPDATE token SET digest = zeroblob(2048)",
        "UPDATE token SET digest = x'00'",
        "UPDATE token SET objects = 4",
        "UPDATE token SET generation = 100",
        "UPDATE object SET tag = zeroblob(32) WHERE id = 2",
    ] {
        let scene = Scene::new();
        scene.attack(attack);
        let store = scene.open();
        assert!(!store.verify_set(&SERIAL, &sealer()).unwrap().intact, "{attack}");
        let id = store.insert(&SERIAL, &sealer(), &object("new", true)).unwrap();
        assert!(!store.verify_set(&SERIAL, &sealer()).unwrap().intact, "{attack}");
        store.delete(&SERIAL, &sealer(), id).unwrap();
        store.delete(&SERIAL, &sealer(), scene.ids[1]).unwrap();
        assert!(!store.verify_set(&SERIAL, &sealer()).unwrap().intact, "{attack}");
        assert_eq!(store.find(&SERIAL, None, &label("cert")), Ok(vec![scene.ids[0]]), "{attack}");
    }
}

#[test]
fn a_row_altered_after_it_was_read_is_not_updated() {
    let scene = Scene::new();
    let base = {
        let store = scene.open();
        check(store.row(&SERIAL, scene.ids[1]).unwrap().unwrap(), &sealer()).unwrap()
    };
    scene.attack(&format!("UPDATE object SET class = 9 WHERE id = {}", scene.ids[1]));
    let refused = scene.open().update(&SERIAL, &sealer(), &base, &object("x", true));
    assert!(matches!(refused, Err(Fault::BadRow { .. })));
}

/// The whole file set back to an earlier state is a state that the owner once wrote: nothing in the
/// host can tell. What a TPM counter could, and what the PIN gate does (an old PIN stays dead), is
/// not the store's.
#[test]
fn a_whole_file_set_back_is_accepted_and_this_is_known() {
    let scene = Scene::new();
    let old = scene.directory.path().join("old");
    std::fs::copy(scene.directory.path().join(FILE), &old).unwrap();
    scene.open().delete(&SERIAL, &sealer(), scene.ids[1]).unwrap();
    std::fs::rename(&old, scene.directory.path().join(FILE)).unwrap();
    let (report, good, _) = scene.inspect();
    assert!(report.intact);
    assert!(good == scene.rows);
}

#[test]
fn planted_triggers_views_and_tables_are_refused() {
    for plant in [
        "CREATE TRIGGER evil AFTER INSERT ON object BEGIN DELETE FROM token; END",
        "CREATE VIEW evil AS SELECT * FROM object",
        "CREATE TABLE evil (x)",
        "CREATE INDEX evil ON token (label)",
        "CREATE VIRTUAL TABLE evil USING dbstat",
        // By an SQLite that has this kind of table; ours has not.
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES
            ('table', 'evil', 'evil', 0, 'CREATE VIRTUAL TABLE evil USING fts5 (x)')",
        "DROP INDEX object_set",
        "ALTER TABLE facts ADD COLUMN evil BLOB",
        "ALTER TABLE facts RENAME COLUMN facts TO evil",
        "PRAGMA application_id = 1",
        "PRAGMA user_version = 0",
    ] {
        let scene = Scene::new();
        scene.enemy().execute_batch(plant).unwrap();
        let refused = Store::open(scene.directory.path(), &options());
        assert!(matches!(refused, Err(Fault::NotRecognized(_))), "{plant}");
    }
}

#[test]
fn a_trigger_planted_while_the_store_is_open_is_refused() {
    let scene = Scene::new();
    let store = scene.open();
    scene
        .enemy()
        .execute_batch("CREATE TRIGGER evil AFTER INSERT ON object BEGIN DELETE FROM token; END")
        .unwrap();
    let refused = store.insert(&SERIAL, &sealer(), &object("x", false));
    assert!(matches!(refused, Err(Fault::NotRecognized(_))), "{refused:?}");
    assert!(matches!(store.tokens(), Err(Fault::NotRecognized(_))));
    scene.enemy().execute_batch("DROP TRIGGER evil").unwrap();
    assert_eq!(store.tokens().unwrap().len(), 1);
}

#[test]
fn a_column_that_runs_code_is_refused() {
    let scene = Scene::new();
    let enemy = scene.enemy();
    enemy.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false).unwrap();
    enemy.pragma_update(None, "writable_schema", true).unwrap();
    enemy
        .execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'label        BLOB NOT NULL', \
             'label        BLOB NOT NULL DEFAULT (randomblob(9))') WHERE name = 'token'",
            [],
        )
        .unwrap();
    drop(enemy);
    let refused = Store::open(scene.directory.path(), &options());
    assert!(matches!(refused, Err(Fault::NotRecognized(_))));
}

/// The token row itself is unauthenticated (the gate is bound to the TPM), but malformed ones hide
/// nothing else.
#[test]
fn a_malformed_token_row_hides_no_other() {
    let scene = Scene::new();
    let serial = *b"fedcba9876543210";
    let other = Sealer::new(&[8; 32], &serial);
    scene.open().insert_token(&new_token(serial), &other).unwrap();
    scene.attack("UPDATE token SET label = x'00' WHERE id = 1");
    let tokens = scene.open().tokens().unwrap();
    assert_eq!(tokens.iter().map(|token| token.serial).collect::<Vec<_>>(), [serial]);
    assert!(matches!(scene.open().token(&SERIAL), Err(Fault::Damaged(_))));
}

/// Bytes flipped all over the file: nothing panics, nothing hangs, and no content but the owner's
/// ever passes.
#[test]
fn a_flipped_byte_anywhere_never_passes_as_the_owners() {
    use rand_core::{RngCore, SeedableRng};
    let scene = Scene::new();
    let path = scene.directory.path().join(FILE);
    let original = std::fs::read(&path).unwrap();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let quick = Options { busy_timeout: Duration::from_millis(50), ..options() };
    let (mut refused, mut noticed, mut harmless) = (0, 0, 0);
    for _ in 0..samples(1500) {
        let mut bytes = original.clone();
        let at = random.next_u32() as usize % bytes.len();
        bytes[at] ^= 1 << (random.next_u32() % 8);
        std::fs::write(&path, &bytes).unwrap();
        let look = || {
            let store = Store::open(scene.directory.path(), &quick)?;
            let report = store.verify_set(&SERIAL, &sealer())?;
            let (mut good, mut bad) = (Vec::new(), 0);
            for id in store.find(&SERIAL, Some(&sealer()), &[])? {
                let row = store.row(&SERIAL, id)?;
                match row.ok_or(Fault::NoObject).and_then(|row| check(row, &sealer())) {
                    Ok(row) => good.push(row.into_inner()),
                    Err(_) => bad += 1,
                }
            }
            for (row, name) in scene.rows.iter().zip(["cert", "key", "test key"]) {
                let found = store.find(&SERIAL, Some(&sealer()), &label(name))?;
                assert!(found.iter().all(|id| *id == row.id), "byte {at}");
            }
            Ok::<_, Fault>((report.intact && bad == 0, good))
        };
        match look() {
            Err(_) => refused += 1,
            Ok((intact, good)) => {
                let owners = |row: &Row| {
                    scene.rows.iter().any(|own| *own == Row { id: own.id, ..row.clone() })
                };
                assert!(good.iter().all(owners), "byte {at} passed");
                if good.len() == 3 {
                    harmless += 1;
                } else {
                    assert!(!intact, "byte {at} made an object vanish unnoticed");
                    noticed += 1;
                }
            }
        }
    }
    println!("refused {refused}, noticed {noticed}, harmless {harmless}");
    assert!(refused > 0 && noticed > 0 && harmless > 0, "the samples hit everything");
}

/// The same with whole runs of garbage, and with the file cut off.
#[test]
fn garbage_and_cut_files_are_refused_or_harmless() {
    use rand_core::{RngCore, SeedableRng};
    let scene = Scene::new();
    let path = scene.directory.path().join(FILE);
    let original = std::fs::read(&path).unwrap();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(2);
    let quick = Options { busy_timeout: Duration::from_millis(50), ..options() };
    for round in 0..samples(1000) {
        let mut bytes = original.clone();
        if round % 4 == 0 {
            bytes.truncate(random.next_u32() as usize % bytes.len());
        } else {
            let page = random.next_u32() as usize % (bytes.len() / 4096);
            let length = random.next_u32() as usize % 4096;
            random.fill_bytes(&mut bytes[page * 4096..page * 4096 + length]);
        }
        std::fs::write(&path, &bytes).unwrap();
        let look = || {
            let store = Store::open(scene.directory.path(), &quick)?;
            store.tokens()?;
            store.verify_set(&SERIAL, &sealer())?;
            for id in store.find(&SERIAL, Some(&sealer()), &[])? {
                let row = store.row(&SERIAL, id)?.ok_or(Fault::NoObject)?;
                if let Ok(row) = check(row, &sealer()) {
                    let owners = |own: &Row| *own == Row { id: own.id, ..(*row).clone() };
                    assert!(scene.rows.iter().any(owners));
                }
            }
            store.insert(&SERIAL, &sealer(), &object("more", true))?;
            store.delete(&SERIAL, &sealer(), scene.ids[0])
        };
        let _ = look();
    }
}

/// More of a sampled test where there is time: `TPM11_TEST_SAMPLES=10` takes ten times as many.
pub(super) fn samples(usual: u32) -> u32 {
    let times = std::env::var("TPM11_TEST_SAMPLES").ok().and_then(|times| times.parse().ok());
    usual * times.unwrap_or(1)
}
