//! What a key is for. The rules P3 to P6 of `policy.rs` that are about roles, and their defaults.

use cryptoki_sys::*;

use super::policy::{Guard, Policy};
use super::rules::{self, Change, Classes, Roles};
use super::value::{Attributes, boolean};
use crate::error::{Error, Result};

/// What works on data with a secret key.
const DATA: [u64; 4] = [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY];
/// What brings keys in and out.
const WRAP: [u64; 2] = [CKA_WRAP, CKA_UNWRAP];

/// All attributes that are roles, of keys of this class and type.
fn all(class: Classes, key_type: u64) -> impl Iterator<Item = u64> {
    rules::rules(class, Some(key_type))
        .filter(|rule| rule.change == Change::Role)
        .map(|rule| rule.id)
}

fn any(attributes: &Attributes, roles: &[u64]) -> bool {
    roles.iter().any(|role| attributes.is(*role))
}

/// Footnote 7: whether the key's value may be seen.
pub(super) fn readable(attributes: &Attributes) -> bool {
    !attributes.is(CKA_SENSITIVE) && attributes.is(CKA_EXTRACTABLE)
}

/// The roles of a public or private key by itself: what is named TRUE and possible is TRUE; where no role
/// is named TRUE, what is not named gets what such keys are usually for; everything else is FALSE.
/// (Asking for what the token cannot do is no error, because every tool asks for it; the effective
/// value can be read.)
pub(super) fn settle(class: Classes, key_type: u64, attributes: &mut Attributes) {
    let Some(roles) = rules::roles(class, key_type) else { return };
    let chosen = all(class, key_type).any(|role| attributes.is(role) && roles.counts(role));
    fill(class, key_type, attributes, roles, |role| !chosen && roles.usual.contains(&role));
}

/// Every role gets a value: what is named where the key can do it, else the default.
fn fill(
    class: Classes,
    key_type: u64,
    attributes: &mut Attributes,
    roles: &Roles,
    default: impl Fn(u64) -> bool,
) {
    for role in all(class, key_type) {
        let effective = match attributes.get(role).and_then(boolean) {
            Some(named) => named && roles.can(role),
            None => roles.can(role) && default(role),
        };
        attributes.set_bool(role, effective);
    }
}

/// The roles of a secret key whose CKA_SENSITIVE and CKA_EXTRACTABLE are settled. One role on data named
/// TRUE brings the others of its kind that are not named; only wrapping or deriving named brings
/// nothing else; nothing named is all that works on data, and for a readable generic secret deriving, which is
/// all that keys of a derivation function are for.
/// Then P4.
pub(super) fn secret(key_type: u64, attributes: &mut Attributes, policy: Policy) {
    let Some(roles) = rules::roles(rules::SECRET, key_type) else { return };
    let chosen = all(rules::SECRET, key_type)
        .filter(|role| attributes.is(*role) && roles.can(*role))
        .collect::<Vec<_>>();
    let on_data = chosen.is_empty() || chosen.iter().any(|role| DATA.contains(role));
    let derives = chosen.is_empty()
        && (roles.usual.contains(&CKA_DERIVE)
            || key_type == CKK_GENERIC_SECRET && readable(attributes));
    fill(rules::SECRET, key_type, attributes, roles, |role| {
        (on_data && DATA.contains(&role)) || (derives && role == CKA_DERIVE)
    });
    if policy.has(Guard::RolesApart) {
        apart(attributes);
    }
}

/// P4. A key that is not readable works on data, or derives, or wraps; the first of these that it was
/// asked for stays. A readable one may work on data and derive; it wraps only if it does neither.
fn apart(attributes: &mut Attributes) {
    let losers: &[&[u64]] = match (any(attributes, &DATA), attributes.is(CKA_DERIVE)) {
        (true, _) if !readable(attributes) => &[&[CKA_DERIVE], &WRAP],
        (true, _) | (false, true) => &[&WRAP],
        (false, false) => &[],
    };
    lose(attributes, losers, Guard::RolesApart);
}

/// Stores roles as FALSE, and says so.
fn lose(attributes: &mut Attributes, losers: &[&[u64]], guard: Guard) {
    for role in losers.iter().copied().flatten() {
        if attributes.is(*role) {
            attributes.set_bool(*role, false);
            log::info!(
                "a key was asked to have {} beside roles that it must not meet: stored FALSE ({})",
                rules::name(*role).unwrap_or("a role"),
                guard.entry().number
            );
        }
    }
}

/// P4 afterwards: a key that works on data and derives stays readable.
pub(super) fn stay_apart(attributes: &Attributes) -> Result<()> {
    if !readable(attributes) && any(attributes, &DATA) && attributes.is(CKA_DERIVE) {
        return Err(Error::TemplateInconsistent(
            "a key that derives and works on data stays readable; make one for each use",
        ));
    }
    Ok(())
}

/// The roles of both halves of a pair. A half that names no role serves the other half's wrapping, if that
/// is all that the other one names. Then P5: a pair wraps, or does anything else; and a public half
/// wraps only if its private half is sensitive and stays.
pub(super) fn pair(
    key_type: u64,
    public: &mut Attributes,
    private: &mut Attributes,
    policy: Policy,
) {
    let named = |class, attributes: &Attributes| {
        all(class, key_type).filter(|role| attributes.is(*role)).collect::<Vec<_>>()
    };
    match (named(rules::PUBLIC, public).as_slice(), named(rules::PRIVATE, private).as_slice()) {
        ([CKA_WRAP], []) if !private.has(CKA_UNWRAP) => private.set_bool(CKA_UNWRAP, true),
        ([], [CKA_UNWRAP]) if !public.has(CKA_WRAP) => public.set_bool(CKA_WRAP, true),
        _ => {}
    }
    settle(rules::PUBLIC, key_type, public);
    settle(rules::PRIVATE, key_type, private);
    if !policy.has(Guard::PairsApart) {
        return;
    }
    let others = |class, attributes: &Attributes| {
        all(class, key_type).any(|role| !WRAP.contains(&role) && attributes.is(role))
    };
    if others(rules::PUBLIC, public) || others(rules::PRIVATE, private) {
        lose(public, &[&WRAP], Guard::PairsApart);
        lose(private, &[&WRAP], Guard::PairsApart);
    }
    if !private.is(CKA_SENSITIVE) || private.is(CKA_EXTRACTABLE) {
        lose(public, &[&WRAP], Guard::PairsApart);
    }
}

/// The roles of a private key that is brought in: P5 for the half that is there.
pub(super) fn private(key_type: u64, attributes: &mut Attributes, policy: Policy) {
    settle(rules::PRIVATE, key_type, attributes);
    let others =
        all(rules::PRIVATE, key_type).any(|role| !WRAP.contains(&role) && attributes.is(role));
    if policy.has(Guard::PairsApart) && others {
        lose(attributes, &[&WRAP], Guard::PairsApart);
    }
}

/// Takes roles away that the caller's way of making the key does not give.
pub(super) fn without(attributes: &mut Attributes, roles: &[u64], guard: Guard) {
    lose(attributes, &[roles], guard);
}

/// P6: a secret key that is not readable and wraps, unwraps or derives, a private key that unwraps, and a
/// trusted key are not extractable: who had them outside could undo what they did.
pub(super) fn tools_stay(attributes: &Attributes, policy: Policy) -> Result<()> {
    let tool = match attributes.ulong(CKA_CLASS) {
        Some(CKO_SECRET_KEY) => {
            !readable(attributes)
                && any(attributes, &[CKA_WRAP, CKA_UNWRAP, CKA_DERIVE, CKA_TRUSTED])
        }
        Some(CKO_PRIVATE_KEY) => attributes.is(CKA_UNWRAP),
        _ => false,
    };
    if policy.has(Guard::ToolsStay) && tool && attributes.is(CKA_EXTRACTABLE) {
        return Err(Error::TemplateInconsistent(
            "a sensitive key that wraps, unwraps, derives or is trusted cannot be extractable",
        ));
    }
    Ok(())
}
