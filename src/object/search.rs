//! C_FindObjects: which objects match a template.
use super::object::Object;
use super::template::Template;

/// A search template, made ready for both session objects and the store.
pub struct Search {
    /// What every match must have, in the library's encoding: for `store.find`.
    pub wanted: Vec<(u64, Vec<u8>)>,
    /// Nothing can match: a guarded value or one with an impossible length is asked for.
    pub empty: bool,
}

impl Search {
    /// Never fails: what is unknown matches nothing.
    pub fn new(_template: &Template) -> Self {
        todo!()
    }
    /// Whether a session object matches. Visibility (private, logged in) is the caller's.
    pub fn matches(&self, _object: &Object) -> bool {
        todo!()
    }
}
