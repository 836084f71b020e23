//! C_FindObjects: which objects match a template. §5.7.7: an exact match, byte for byte, of all its
//! attributes; values that the token keeps in one form only (points, curves, big integers) are brought
//! into that form first.

use std::borrow::Cow;

use cryptoki_sys::*;

use super::object::Object;
use super::public_key;
use super::rules;
use super::template::Template;

/// A search template, made ready for both session objects and the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// What every match must have, in the library's encoding: for `store.find`.
    pub wanted: Vec<(u64, Vec<u8>)>,
    /// Nothing can match: an attribute is asked for that no object has, or one that is never
    /// revealed.
    pub empty: bool,
}

impl Search {
    /// Never fails: what is unknown (vendor attributes, classes of other tokens) matches nothing.
    pub fn new(template: &Template) -> Self {
        let wanted = template
            .iter()
            .map(|(id, value)| (id, canonical(id, value, template.get(CKA_EC_PARAMS))))
            .collect();
        // The private parts of RSA keys are matched no more than they are shown. (CKA_VALUE is not
        // among the attributes of keys, so it finds data and certificates alone.)
        let empty = template.iter().any(|(id, _)| {
            let mut rules = rules::RULES.iter().filter(|rule| rule.id == id).peekable();
            rules.peek().is_none() || rules.all(|rule| rule.guarded)
        });
        Self { wanted, empty }
    }

    /// Whether a session object matches. Visibility (private, logged in) is the caller's.
    pub fn matches(&self, object: &Object) -> bool {
        !self.empty
            && self.wanted.iter().all(|(id, value)| match *id {
                CKA_UNIQUE_ID => object.unique_id().as_bytes() == value.as_slice(),
                id => object.attributes.get(id) == Some(value.as_slice()),
            })
    }
}

/// The value as objects would have it. What cannot be understood stays as it is and matches nothing.
fn canonical(id: u64, value: &[u8], params: Option<&[u8]>) -> Vec<u8> {
    let form = match id {
        CKA_EC_PARAMS => public_key::canonical_params(value).ok().map(Cow::Owned),
        CKA_EC_POINT => public_key::canonical_point(params, value).ok().map(Cow::Owned),
        _ => Some(public_key::canonical_number(id, value)),
    };
    form.map_or_else(|| value.to_vec(), Cow::into_owned)
}
