//! What must be on the token: everything that was acknowledged, and of what was not, before or after.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::drive::{Kind, Random};

/// One token object. Its label is unique and never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// CKA_LABEL
    pub label: String,
    /// CKO_
    pub class: u64,
    /// CKA_ to value, as C_GetAttributeValue must give them.
    pub values: BTreeMap<u64, Vec<u8>>,
    /// For a private key: its kind and public key.
    pub key: Option<(Kind, Vec<u8>)>,
}

/// Objects whose last call never got an answer: under these labels one of the alternatives stands,
/// whole.
#[derive(Debug, Clone)]
pub struct Doubt {
    /// All labels that the alternatives speak of.
    pub labels: Vec<String>,
    /// What can be.
    pub alternatives: Vec<Vec<Thing>>,
}

impl Doubt {
    /// Before or after.
    pub fn new(before: Vec<Thing>, after: Vec<Thing>) -> Doubt {
        let mut labels: Vec<String> =
            before.iter().chain(&after).map(|thing| thing.label.clone()).collect();
        labels.sort();
        labels.dedup();
        Doubt { labels, alternatives: vec![before, after] }
    }
}

/// All of it. A thread that works on a thing has taken it out meanwhile.
#[derive(Debug, Default)]
pub struct Model {
    things: Mutex<Vec<Thing>>,
    doubts: Mutex<Vec<Doubt>>,
}

impl Model {
    /// How many things lie here.
    pub fn count(&self) -> usize {
        self.things.lock().expect("nobody panics here").len()
    }

    /// Takes one out.
    pub fn take(&self, random: &mut Random) -> Option<Thing> {
        let mut things = self.things.lock().expect("nobody panics here");
        if things.is_empty() {
            return None;
        }
        let index = random.below(things.len());
        Some(things.swap_remove(index))
    }

    /// Puts one back.
    pub fn put(&self, things: impl IntoIterator<Item = Thing>) {
        self.things.lock().expect("nobody panics here").extend(things);
    }

    /// Notes what is not known.
    pub fn doubt(&self, doubt: Doubt) {
        self.doubts.lock().expect("nobody panics here").push(doubt);
    }

    /// Takes out what is to be looked at.
    pub fn take_doubt(&self) -> Option<Doubt> {
        self.doubts.lock().expect("nobody panics here").pop()
    }

    /// Everything that must be there now. Only when nobody works.
    pub fn all(&self) -> Vec<Thing> {
        self.things.lock().expect("nobody panics here").clone()
    }
}
