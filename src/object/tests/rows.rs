//! Objects in the store and back, and found there as they are found in memory.

use std::sync::Arc;
use std::time::Duration;

use cryptoki_sys::*;

use super::super::search::Search;
use super::super::{Template, row, rule};
use super::*;
use crate::store::{NewToken, Options, Sealer, Store, seal};

const SERIAL: [u8; 16] = *b"0123456789abcdef";

/// An empty token.
struct Place {
    _directory: tempfile::TempDir,
    store: Arc<Store>,
    sealer: Sealer,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let options = Options { busy_timeout: Duration::from_secs(1), ..Options::default() };
        let store = Store::open(directory.path(), &options).expect("a store");
        let sealer = Sealer::new(&[7; 32], &SERIAL);
        let token = NewToken {
            serial: SERIAL,
            label: [b' '; 32],
            gate: vec![],
            srk_name: vec![],
            replaces: None,
        };
        store.insert_token(&token, &sealer).expect("a token");
        store.activate(&SERIAL, None).expect("active");
        Self { _directory: directory, store, sealer }
    }

    fn insert(&self, object: &Object) -> i64 {
        self.store.insert(&SERIAL, &self.sealer, &row::of(object, &self.sealer)).expect("a row")
    }

    fn read(&self, id: i64) -> Object {
        let row = self.store.row(&SERIAL, id).expect("a readable store").expect("the row");
        row::object(seal::check(row, &self.sealer).expect("a sound row"), &self.sealer)
            .expect("an object")
    }
}

/// One of each, each with a uuid of its own and as a token object.
fn objects() -> Vec<(&'static str, Object)> {
    let mut objects = one_of_each();
    for (at, (what, object)) in objects.iter_mut().enumerate() {
        let token = Template::new().with_bool(CKA_TOKEN, true);
        let attributes = rule::copy(&object.attributes, &token, &USER).expect(what);
        *object = Object { uuid: [at as u8; 16], attributes: attributes.into(), ..object.clone() };
    }
    objects
}

#[test]
fn every_object_comes_back_from_the_store_as_it_went() {
    let place = Place::new();
    for (what, object) in objects() {
        let back = place.read(place.insert(&object));
        assert_eq!(back.uuid, object.uuid, "{what}");
        assert_eq!(back.attributes, object.attributes, "{what}");
        assert_eq!(back.value(), object.value(), "{what}");
        match (&back.material, &object.material) {
            (Material::Key(back), Material::Key(went)) => {
                assert_eq!((&back.public, &back.private), (&went.public, &went.private));
                assert_eq!(back.id, went.id);
                assert_eq!(back.authorization, went.authorization, "{what}");
            }
            (Material::None, Material::None) => {}
            (Material::Secret(back), Material::Secret(went)) => {
                assert_eq!(back.value, went.value, "{what}");
                assert_eq!((back.id, &back.spec), (went.id, &went.spec), "{what}");
                let (back, went) = (back.blob.get().unwrap(), went.blob.get().unwrap());
                assert_eq!((&back.public, &back.private), (&went.public, &went.private));
                // Not derived from its id, so the row keeps it.
                assert_eq!(back.authorization, went.authorization, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn the_store_finds_what_the_search_matches_in_memory() {
    let place = Place::new();
    let objects = objects();
    let ids: Vec<i64> = objects.iter().map(|(_, object)| place.insert(object)).collect();
    let find = |template: &Template| {
        let search = Search::new(template);
        let expected: Vec<i64> = ids
            .iter()
            .zip(&objects)
            .filter(|(_, (_, object))| search.matches(object))
            .map(|(id, _)| *id)
            .collect();
        let found =
            place.store.find(&SERIAL, Some(&place.sealer), &search.wanted).expect("a search");
        assert!(search.empty || found == expected, "{template:?}: {found:?}, {expected:?}");
        expected
    };
    for (what, object) in &objects {
        for (id, value) in object.attributes.iter() {
            assert!(!find(&Template::new().with(id, value)).is_empty(), "{what}: {id:#x}");
        }
        let unique = Template::new().with(CKA_UNIQUE_ID, object.unique_id());
        assert_eq!(find(&unique).len(), 1, "{what}");
    }
    assert_eq!(find(&Template::new()).len(), objects.len());
    assert!(find(&Template::new().with(CKA_VALUE, [0x77; 32])).is_empty(), "a secret's value");
    assert_eq!(find(&Template::new().with(CKA_EC_POINT, point())).len(), 3);
}

#[test]
fn a_copy_in_the_store_has_the_authorization_of_its_original() {
    let place = Place::new();
    let (_, original) = objects().into_iter().nth(6).expect("the EC private key");
    let copy = Object { uuid: [0xCC; 16], ..original.clone() };
    let authorization = |object: &Object| match &place.read(place.insert(object)).material {
        Material::Key(blob) => (blob.id, blob.authorization.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(authorization(&original), authorization(&copy));
}

#[test]
fn before_the_login_an_object_is_its_attributes_alone() {
    let place = Place::new();
    for (what, object) in objects() {
        let id = place.insert(&object);
        let row = place.store.row(&SERIAL, id).expect("a readable store").expect("the row");
        match row.unauthenticated().expect("a readable row") {
            Some(row) => {
                assert!(!object.private(), "{what}");
                let seen = row::unauthenticated(row);
                assert_eq!(seen.attributes, object.attributes, "{what}");
                assert!(matches!(seen.material, Material::None), "{what}");
            }
            None => assert!(object.private(), "{what}"),
        }
    }
}
