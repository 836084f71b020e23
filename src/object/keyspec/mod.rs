//! Keys that the token makes or takes in: the templates of C_GenerateKeyPair, C_GenerateKey, C_CreateObject,
//! C_DeriveKey and C_UnwrapKey, checked and completed before anything is made, and what came back, as
//! attributes.

mod derivation;
mod pair;
mod private;
mod secret;

use cryptoki_sys::*;

use super::object::Residence;
use super::policy::{Guard, Policy};
use super::rule::{self, Making, Origin, Setting};
use super::rules::{self, CKA_TPM11_RESIDENCE};
use super::template::Template;
use super::value::{Attributes, boolean};
use crate::error::Result;

pub use derivation::{Allowed, Derivation, Derives, may_sign};
pub use pair::Pair;
pub use private::{Private, PrivatePlan, PrivateValue};
pub use secret::{Secret, secret_spec};

/// What a mechanism contributes to every key it makes.
fn known(class: u64, key_type: u64) -> Attributes {
    let mut known = Attributes::new();
    known.set_ulong(CKA_CLASS, class);
    known.set_ulong(CKA_KEY_TYPE, key_type);
    known
}

/// A class as the rules have it, and its CKO_.
type Class = (rules::Classes, u64);

const SECRET: Class = (rules::SECRET, CKO_SECRET_KEY);
const PRIVATE: Class = (rules::PRIVATE, CKO_PRIVATE_KEY);

/// The template of a key against the table.
fn started(
    origin: Origin,
    (class, number): Class,
    key_type: u64,
    template: &Template,
    setting: &Setting,
) -> Result<Attributes> {
    let known = known(number, key_type);
    Making { origin, class, key_type: Some(key_type), setting, known: &known }.complete(template)
}

/// Says where a key lives.
fn lives(attributes: &mut Attributes, residence: Residence) {
    attributes.set(CKA_TPM11_RESIDENCE, residence.text());
}

/// CKA_SENSITIVE and CKA_EXTRACTABLE as the template says.
fn asked(attributes: &Attributes) -> (Option<bool>, Option<bool>) {
    let said = |id| attributes.get(id).and_then(boolean);
    (said(CKA_SENSITIVE), said(CKA_EXTRACTABLE))
}

fn opened(attributes: &mut Attributes, sensitive: bool, extractable: bool) {
    attributes.set_bool(CKA_SENSITIVE, sensitive);
    attributes.set_bool(CKA_EXTRACTABLE, extractable);
}

/// The history of a key that somebody had outside.
fn from_outside(attributes: &mut Attributes) {
    attributes.set_bool(CKA_ALWAYS_SENSITIVE, false);
    attributes.set_bool(CKA_NEVER_EXTRACTABLE, false);
    rule::is_not_ours(attributes);
}

/// P13: what comes from a private object is private.
fn as_private_as<'a>(
    attributes: &mut Attributes,
    sources: impl IntoIterator<Item = &'a Attributes>,
    policy: Policy,
) {
    let private = sources.into_iter().any(|source| source.is(CKA_PRIVATE));
    if private && policy.has(Guard::LoginNeeded) {
        attributes.set_bool(CKA_PRIVATE, true);
    }
}

/// What an unwrapping key's CKA_UNWRAP_TEMPLATE decides against P10. Nothing where that key was made here and
/// nobody trusts it: whoever made it so could have it wrap a sensitive key, and take that out of the blob as a
/// readable one, or as one of another role.
fn decided(unwrapping: &Attributes) -> Template {
    let prescribed = unwrapping.get(CKA_UNWRAP_TEMPLATE).and_then(Template::from_bytes);
    let may = unwrapping.is(CKA_TRUSTED) || !unwrapping.is(CKA_LOCAL);
    prescribed.filter(|_| may).unwrap_or_default()
}

/// P10: sensitive and not extractable, unless CKA_UNWRAP_TEMPLATE [decides](decided). Without the rule the
/// caller decides, and a silent one gets a key that is extractable (§5.18.4), and sensitive.
fn unwrapped(attributes: &mut Attributes, unwrapping: &Attributes, policy: Policy) {
    let (sensitive, extractable) = asked(attributes);
    if policy.has(Guard::UnwrappedStay) {
        let decided = decided(unwrapping);
        let decided = |id| decided.get(id).is_some();
        opened(
            attributes,
            sensitive.filter(|_| decided(CKA_SENSITIVE)).unwrap_or(true),
            extractable.filter(|_| decided(CKA_EXTRACTABLE)).unwrap_or(false),
        );
    } else {
        opened(attributes, sensitive.unwrap_or(true), extractable.unwrap_or(true));
    }
    from_outside(attributes);
}
