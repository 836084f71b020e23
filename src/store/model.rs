//! Tests: the store as a map in memory, and both side by side. Whatever the order of calls, however
//! often the store is closed and opened in between, they answer the same.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{ID, LABEL, SERIAL, new_token, object, options, sealer};
use super::*;

/// What a token holds, without SQLite, keys or bytes.
#[derive(Default)]
struct Model {
    objects: BTreeMap<i64, Object>,
    generation: u64,
    hint: Hint,
}

struct Object {
    label: String,
    private: bool,
    number: u8,
    version: u64,
}

impl Object {
    fn row(&self) -> NewRow {
        let mut row = object(&self.label, self.private);
        row.attributes.insert(ID, vec![self.number]);
        row
    }
}

impl Model {
    fn find(&self, secret: bool, label: Option<&str>, number: Option<u8>) -> Vec<i64> {
        let hit = |object: &Object| {
            (secret || !object.private)
                && label.is_none_or(|label| object.label == label)
                && number.is_none_or(|number| object.number == number)
        };
        self.objects.iter().filter(|(_, object)| hit(object)).map(|(id, _)| *id).collect()
    }

    /// The id of the n-th object, or one that never existed.
    fn pick(&self, nth: usize) -> i64 {
        match self.objects.len() {
            0 => 999_999,
            some => *self.objects.keys().nth(nth % some).unwrap(),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(Vec<(u8, bool, u8)>),
    Update(usize, (u8, bool, u8)),
    Delete(usize),
    Find(bool, Option<u8>, Option<u8>),
    Hint(u32),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    // Few labels and numbers, so that searches hit.
    let what = || (0..4_u8, any::<bool>(), 0..3_u8);
    prop_oneof![
        4 => prop::collection::vec(what(), 1..3).prop_map(Step::Insert),
        2 => (any::<usize>(), what()).prop_map(|(nth, what)| Step::Update(nth, what)),
        2 => any::<usize>().prop_map(Step::Delete),
        4 => (any::<bool>(), prop::option::of(0..4_u8), prop::option::of(0..3_u8))
            .prop_map(|(secret, label, number)| Step::Find(secret, label, number)),
        1 => (0..3_u32).prop_map(Step::Hint),
        1 => Just(Step::Reopen),
    ]
}

fn name(label: u8) -> String {
    format!("label {label}")
}

fn new((label, private, number): (u8, bool, u8)) -> Object {
    Object { label: name(label), private, number, version: 1 }
}

fn run(steps: &[Step]) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), &options()).unwrap();
    store.insert_token(&new_token(SERIAL), &sealer()).unwrap();
    let mut model = Model::default();
    let mut change = store.change().unwrap();
    for step in steps {
        let wrote = match step {
            Step::Insert(what) => {
                let objects: Vec<_> = what.iter().copied().map(new).collect();
                let rows: Vec<_> = objects.iter().map(Object::row).collect();
                let ids = store.insert_all(&SERIAL, &sealer(), &rows).unwrap();
                model.objects.extend(ids.into_iter().zip(objects));
                model.generation += 1;
                true
            }
            Step::Update(nth, what) => {
                let id = model.pick(*nth);
                let Some(object) = model.objects.get_mut(&id) else { continue };
                let base = check(store.row(&SERIAL, id).unwrap().unwrap(), &sealer()).unwrap();
                *object = Object { version: object.version + 1, ..new(*what) };
                store.update(&SERIAL, &sealer(), &base, &object.row()).unwrap();
                model.generation += 1;
                true
            }
            Step::Delete(nth) => {
                let id = model.pick(*nth);
                let existed = model.objects.remove(&id).is_some();
                assert_eq!(store.delete(&SERIAL, &sealer(), id), Ok(existed));
                model.generation += 1;
                true
            }
            Step::Find(secret, label, number) => {
                let mut template = Vec::new();
                let label = label.map(name);
                template.extend(label.iter().map(|label| (LABEL, label.as_bytes().to_vec())));
                template.extend(number.iter().map(|number| (ID, vec![*number])));
                let found = store.find(&SERIAL, secret.then(sealer).as_ref(), &template);
                assert_eq!(found, Ok(model.find(*secret, label.as_deref(), *number)));
                false
            }
            Step::Hint(count) => {
                let hint = Hint { count: *count, limit: 8 };
                store.keep_hint(&SERIAL, Role::User, hint).unwrap();
                std::mem::replace(&mut model.hint, hint) != hint
            }
            Step::Reopen => {
                drop(store);
                store = Store::open(directory.path(), &options()).unwrap();
                change = store.change().unwrap();
                false
            }
        };
        let now = store.change().unwrap();
        assert_eq!(now != change, wrote, "change() after {step:?}");
        change = now;
    }
    let token = store.token(&SERIAL).unwrap().unwrap();
    assert_eq!(token.objects, model.objects.len() as u64);
    assert_eq!(token.generation, model.generation);
    assert_eq!(token.user_hint, model.hint);
    assert!(store.verify_set(&SERIAL, &sealer()).unwrap().intact);
    for (id, object) in &model.objects {
        let row = check(store.row(&SERIAL, *id).unwrap().unwrap(), &sealer()).unwrap();
        assert_eq!(row.attributes, object.row().attributes);
        assert_eq!((row.version, row.private), (object.version, object.private));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn store_and_model_answer_the_same(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps);
    }
}
