//! Copies made and put back, also while other processes write.

use std::path::Path;
use std::sync::Arc;

use super::super::helper::Helper;
use super::super::tests::{SERIAL, label, new_token, object, options, sealer, store};
use super::super::{FILE, Sealer};
use super::*;

fn count(store: &Store) -> usize {
    store.find(&SERIAL, Some(&sealer()), &[]).unwrap().len()
}

/// A store, and a backup of it with one object.
fn scene() -> (tempfile::TempDir, Arc<Store>, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let live = store(&directory.path().join("live"));
    live.insert(&SERIAL, &sealer(), &object("first", true)).unwrap();
    let copy = directory.path().join("backup");
    live.backup(&copy).unwrap();
    (directory, live, copy)
}

fn restore(store: &Store, from: &Path, force: bool) -> Restored {
    store.restore(&Backup::open(from).unwrap(), force).unwrap()
}

#[test]
fn a_lost_store_comes_back_with_everything_in_it() {
    let (directory, live, copy) = scene();
    let tokens = live.tokens().unwrap();
    drop(live);
    std::fs::remove_dir_all(directory.path().join("live")).unwrap();
    let again = Store::open(&directory.path().join("live"), &options()).unwrap();
    assert_eq!(restore(&again, &copy, false), Restored::Done { kept: None, lost: vec![] });
    assert_eq!(again.tokens().unwrap(), tokens, "generation and all");
    assert!(again.verify_set(&SERIAL, &sealer()).unwrap().intact);
    assert_eq!(again.find(&SERIAL, Some(&sealer()), &label("first")).unwrap().len(), 1);
}

#[test]
fn what_is_newer_than_the_backup_is_given_up_only_by_force_and_kept_in_a_copy() {
    let (directory, live, copy) = scene();
    live.insert(&SERIAL, &sealer(), &object("second", false)).unwrap();
    let before = live.tokens().unwrap();
    let refused = restore(&live, &copy, false);
    let newer = Loss::Newer { token: before[0].clone(), backup: 1 };
    assert_eq!(refused, Restored::Refused(vec![newer.clone()]));
    assert_eq!((live.tokens().unwrap(), count(&live)), (before.clone(), 2), "nothing was changed");

    let Restored::Done { kept: Some(kept), lost } = restore(&live, &copy, true) else { panic!() };
    assert_eq!(lost, [newer]);
    assert_eq!((live.tokens().unwrap()[0].generation, count(&live)), (1, 1));
    assert!(live.verify_set(&SERIAL, &sealer()).unwrap().intact);

    // Back again: the copy is a backup itself, and newer than what is there.
    assert!(matches!(restore(&live, &kept, false), Restored::Done { .. }));
    assert_eq!((live.tokens().unwrap(), count(&live)), (before, 2));
    assert!(live.verify_set(&SERIAL, &sealer()).unwrap().intact);
    assert_eq!(live.integrity().unwrap(), Vec::<String>::new());
    drop(directory);
}

#[test]
fn two_histories_from_one_state_are_told_apart() {
    let (_directory, live, copy) = scene();
    live.insert(&SERIAL, &sealer(), &object("one way", false)).unwrap();
    restore(&live, &copy, true);
    live.insert(&SERIAL, &sealer(), &object("the other way", false)).unwrap();
    let other = live.directory().join("other");
    live.backup(&other).unwrap();
    restore(&live, &copy, true);
    live.insert(&SERIAL, &sealer(), &object("a third way", false)).unwrap();
    assert!(matches!(restore(&live, &other, false), Restored::Refused(_)));
}

#[test]
fn a_token_that_the_backup_lacks_or_that_has_another_gate_is_not_given_up_by_itself() {
    let (_directory, live, copy) = scene();
    let other = *b"fedcba9876543210";
    live.insert_token(&new_token(other), &Sealer::new(&[9; 32], &other)).unwrap();
    let Restored::Refused(lost) = restore(&live, &copy, false) else { panic!() };
    assert!(matches!(&lost[..], [Loss::Token(token)] if token.serial == other));
    live.delete_token(&other).unwrap();

    let change = super::super::TokenChange { gate: Some(vec![9]), ..Default::default() };
    live.update_token(&SERIAL, &change).unwrap();
    let Restored::Refused(lost) = restore(&live, &copy, false) else { panic!() };
    assert!(matches!(&lost[..], [Loss::Gate(_)]));
}

#[test]
fn what_the_tpm_holds_of_a_pin_does_not_go_back_with_the_store() {
    let (_directory, live, copy) = scene();
    let set = super::super::TokenChange { user_pin_set: Some(true), ..Default::default() };
    live.update_token(&SERIAL, &set).unwrap();
    assert!(matches!(restore(&live, &copy, false), Restored::Done { .. }));
    assert!(live.tokens().unwrap()[0].user_pin_set);
}

#[test]
fn the_numbers_of_objects_are_never_used_again() {
    let (_directory, live, copy) = scene();
    let later = live.insert(&SERIAL, &sealer(), &object("later", false)).unwrap();
    restore(&live, &copy, true);
    assert!(live.insert(&SERIAL, &sealer(), &object("another", false)).unwrap() > later);
}

#[test]
fn a_file_that_is_no_whole_backup_is_refused() {
    let (directory, live, copy) = scene();
    let refused = |path: &Path| Backup::open(path).err().unwrap();
    assert!(matches!(refused(&live.directory().join(FILE)), Fault::NotRecognized(_)), "in use");
    count(&live);
    let mut bytes = std::fs::read(&copy).unwrap();
    let cut = directory.path().join("cut");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    refused(&cut);
    let other = directory.path().join("other");
    std::fs::write(&other, b"something else, of a length that could be a header of a file")
        .unwrap();
    refused(&other);
    refused(&directory.path().join("missing"));
    refused(directory.path());
    // One object's row is gone from the table, not from the token's account.
    let enemy = Connection::open(&copy).unwrap();
    enemy.execute("DELETE FROM object", []).unwrap();
    drop(enemy);
    assert!(matches!(refused(&copy), Fault::Damaged(_)));
    bytes.clear();
    std::fs::write(&cut, &bytes).unwrap();
    assert!(matches!(refused(&cut), Fault::NotRecognized(_)), "empty");
}

#[test]
fn a_backup_made_while_others_write_is_one_committed_state() {
    let directory = tempfile::tempdir().unwrap();
    let live = store(&directory.path().join("live"));
    let mut writers: Vec<_> = (0..16).map(|_| Helper::start(live.directory(), "churn")).collect();
    for writer in &mut writers {
        writer.says();
    }
    let mut last = 0;
    for round in 0..6 {
        let place = directory.path().join(format!("copy{round}"));
        std::fs::create_dir(&place).unwrap();
        live.backup(&place.join(FILE)).unwrap();
        let copy = Store::open(&place, &options()).unwrap();
        let report = copy.verify_set(&SERIAL, &sealer()).unwrap();
        assert!(report.intact && report.bad.is_empty());
        let generation = copy.tokens().unwrap()[0].generation;
        assert!(generation > last, "others go on writing");
        last = generation;
        assert_eq!(Backup::open(&place.join(FILE)).err(), Some(in_use()), "this process has it");
    }
    writers.iter_mut().for_each(Helper::kill);
}

fn in_use() -> Fault {
    Fault::NotRecognized("this is a store in use, not a backup".to_owned())
}

#[test]
fn a_restore_while_others_write_is_whole_before_and_after() {
    let (directory, live, copy) = scene();
    for round in 0..3 {
        let mut writers: Vec<_> =
            (0..16).map(|_| Helper::start(live.directory(), "churn")).collect();
        for writer in &mut writers {
            writer.says();
            writer.says();
        }
        let Restored::Done { kept: Some(kept), .. } = restore(&live, &copy, true) else { panic!() };
        writers.iter_mut().for_each(Helper::kill);
        assert!(live.verify_set(&SERIAL, &sealer()).unwrap().intact, "round {round}");
        assert_eq!(live.integrity().unwrap(), Vec::<String>::new());
        let place = directory.path().join(format!("kept{round}"));
        std::fs::create_dir(&place).unwrap();
        std::fs::rename(&kept, place.join(FILE)).unwrap();
        let kept = Store::open(&place, &options()).unwrap();
        assert!(kept.verify_set(&SERIAL, &sealer()).unwrap().intact, "what it was just before");
        assert!(kept.tokens().unwrap()[0].generation > 1);
    }
}

#[test]
fn a_restore_killed_anywhere_leaves_the_one_state_or_the_other() {
    let (directory, live, one) = scene();
    for number in 0..20 {
        live.insert(&SERIAL, &sealer(), &object(&format!("more {number}"), true)).unwrap();
    }
    let other = directory.path().join("other");
    live.backup(&other).unwrap();
    let role = format!("restore {} {}", one.display(), other.display());
    let mut seen = [0; 2];
    for round in 0..24 {
        let mut helper = Helper::start(live.directory(), &role);
        helper.says();
        std::thread::sleep(std::time::Duration::from_millis(round * 5 % 37));
        helper.kill();
        let generation = live.tokens().unwrap()[0].generation;
        assert!([1, 21].contains(&generation), "{generation}");
        assert_eq!(count(&live) as u64, generation, "each object is one step");
        assert!(live.verify_set(&SERIAL, &sealer()).unwrap().intact, "round {round}");
        seen[usize::from(generation == 21)] += 1;
    }
    assert_eq!(live.integrity().unwrap(), Vec::<String>::new());
    assert!(seen.iter().all(|times| *times > 0), "both were met: {seen:?}");
}
