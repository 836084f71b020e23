//! The engine: create, set, copy and get, read from the table of `rules.rs`. What relates several
//! attributes to each other is a small function here, named after what it keeps true.

use std::borrow::Cow;
use std::collections::BTreeMap;

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::certificate;
use super::keyspec::{Private, Secret};
use super::object::Object;
use super::policy::{Dates, Guard, Policy};
use super::public_key;
use super::roles;
use super::rules::{self, Change, Classes, Origins, Rule, Silent};
use super::storage_key;
use super::template::Template;
use super::value::{self, Attributes, Kind, boolean};
use crate::error::{Error, Result};

/// Where an object comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// C_CreateObject
    Create,
    /// C_GenerateKey, C_GenerateKeyPair
    Generate,
    /// C_DeriveKey
    Derive,
    /// C_UnwrapKey
    Unwrap,
    /// C_CopyObject
    Copy,
}

impl Origin {
    /// As a set of one. Copying is in none of the table's sets: it changes what is there.
    const fn set(self) -> Origins {
        match self {
            Origin::Create => rules::CREATE,
            Origin::Generate => rules::GENERATE,
            Origin::Derive => rules::DERIVE,
            Origin::Unwrap => rules::UNWRAP,
            Origin::Copy => 0,
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Setting {
    /// The normal user is logged in, or the token has no user PIN.
    pub user: bool,
    /// The SO is logged in.
    pub so: bool,
    /// Which rules against sequences of calls hold.
    pub policy: Policy,
    /// What the dates of keys do.
    pub dates: Dates,
}

/// What C_CreateObject was asked for.
#[derive(Debug)]
pub enum Creation {
    /// A whole object: data, a certificate, a public key.
    Object(Attributes),
    /// A secret key and its value, for the TPM.
    Secret(Secret, Zeroizing<Vec<u8>>),
    /// A private key, for the TPM.
    Private(Private),
}

/// Checks a template of C_CreateObject and completes it.
///
/// # Errors
/// AttributeTypeInvalid, AttributeValueInvalid (for a key that is inconsistent or known to be weak,
/// too), AttributeReadOnly, TemplateIncomplete, TemplateInconsistent, CurveNotSupported,
/// DomainParamsInvalid; NotLoggedIn if the object would be private and `setting.user` is false.
/// PKCS#11 3.2 §4.1.1.
pub fn create(template: &Template, setting: &Setting) -> Result<Creation> {
    let number = template.get(CKA_CLASS).ok_or(Error::TemplateIncomplete(CKA_CLASS))?;
    let class = value::ulong(number)
        .and_then(rules::class)
        .ok_or(Error::AttributeValueInvalid(CKA_CLASS, "the token stores no such objects"))?;
    let key_type = match class {
        rules::PUBLIC | rules::PRIVATE | rules::SECRET => Some(key_type_of(class, template)?),
        _ => None,
    };
    match (class, key_type) {
        (rules::SECRET, Some(key_type)) => {
            return Secret::create(key_type, template, setting)
                .map(|(plan, value)| Creation::Secret(plan, value));
        }
        (rules::PRIVATE, Some(key_type)) => {
            return Private::create(key_type, template, setting).map(Creation::Private);
        }
        _ => {}
    }
    let making =
        Making { origin: Origin::Create, class, key_type, setting, known: &Attributes::new() };
    let mut attributes = making.complete(template)?;
    private_where_it_must_be(class, setting, &mut attributes)?;
    match (class, key_type) {
        (rules::CERTIFICATE, _) => certificate::complete(&mut attributes)?,
        (rules::PUBLIC, Some(key_type)) => {
            roles::settle(class, key_type, &mut attributes);
            is_not_ours(&mut attributes);
            public_key::complete(&mut attributes)?;
            storage_key::settle(key_type, &mut attributes)?;
        }
        _ => {}
    }
    Ok(Creation::Object(attributes))
}

/// What a public key has of its private half: (its own attribute, the private key's).
const OF_THE_PRIVATE_KEY: [(u64, u64); 12] = [
    (CKA_ENCRYPT, CKA_DECRYPT),
    (CKA_VERIFY, CKA_SIGN),
    (CKA_VERIFY_RECOVER, CKA_SIGN_RECOVER),
    (CKA_WRAP, CKA_UNWRAP),
    (CKA_ENCAPSULATE, CKA_DECAPSULATE),
    (CKA_DERIVE, CKA_DERIVE),
    (CKA_ID, CKA_ID),
    (CKA_START_DATE, CKA_START_DATE),
    (CKA_END_DATE, CKA_END_DATE),
    (CKA_SUBJECT, CKA_SUBJECT),
    (CKA_PUBLIC_KEY_INFO, CKA_PUBLIC_KEY_INFO),
    (CKA_ALLOWED_MECHANISMS, CKA_ALLOWED_MECHANISMS),
];

/// CKM_PUB_KEY_FROM_PRIV_KEY: the public key's attributes. The template is one of C_CreateObject; what it does
/// not say, the private key does (the table of §6.43 "Public key from private key"). Nothing of it is
/// secret, so it is as public as the template says.
///
/// # Errors
/// As [`create`].
pub fn public_of(
    private: &Attributes,
    template: &Template,
    setting: &Setting,
) -> Result<Attributes> {
    let class = rules::PUBLIC;
    let mut whole = upon(class, private.get(CKA_DERIVE_TEMPLATE), template, setting)?;
    for (own, its) in OF_THE_PRIVATE_KEY {
        if let (None, Some(value)) = (whole.get(own), private.get(its)) {
            whole.push(own, value);
        }
    }
    let mut known = Attributes::new();
    known.set_ulong(CKA_CLASS, CKO_PUBLIC_KEY);
    for id in [CKA_KEY_TYPE, CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_EC_PARAMS, CKA_EC_POINT] {
        if let Some(value) = private.get(id) {
            known.set(id, value);
        }
    }
    let key_type = private.ulong(CKA_KEY_TYPE);
    let mut attributes = Making { origin: Origin::Create, class, key_type, setting, known: &known }
        .complete(&whole)?;
    private_where_it_must_be(class, setting, &mut attributes)?;
    if let Some(key_type) = key_type {
        roles::settle(class, key_type, &mut attributes);
    }
    is_not_ours(&mut attributes);
    if let Some(mechanism) = private.get(CKA_KEY_GEN_MECHANISM) {
        attributes.set(CKA_KEY_GEN_MECHANISM, mechanism);
    }
    public_key::complete(&mut attributes)?;
    Ok(attributes)
}

/// CKA_KEY_TYPE of a template that must have it.
///
/// # Errors
/// TemplateIncomplete, AttributeValueInvalid.
pub(super) fn key_type_of(class: Classes, template: &Template) -> Result<u64> {
    let given = template.get(CKA_KEY_TYPE).ok_or(Error::TemplateIncomplete(CKA_KEY_TYPE))?;
    value::ulong(given)
        .filter(|number| rules::roles(class, *number).is_some())
        .ok_or(Error::AttributeValueInvalid(CKA_KEY_TYPE, "the token has no keys of this type"))
}

/// A template on its way to an object.
pub(super) struct Making<'a> {
    pub origin: Origin,
    pub class: Classes,
    pub key_type: Option<u64>,
    pub setting: &'a Setting,
    /// What the function or mechanism contributes: class and key type, or what the other half of the
    /// pair says. The template may repeat it but not contradict it.
    pub known: &'a Attributes,
}

impl Making<'_> {
    /// Everything that a template and the table decide together: whether each attribute may be there
    /// and has a valid value, defaults. What a key may do, who sees it, and what depends on its or a
    /// certificate's value is left to whoever makes it.
    pub fn complete(&self, template: &Template) -> Result<Attributes> {
        let origin = self.origin.set();
        let mut attributes = self.known.clone();
        let given = distinct(template)?;
        for (id, given) in &given {
            let rule = find(self.class, self.key_type, *id)?;
            let value = canonical(rule, given)?;
            if let Some(known) = self.known.get(*id) {
                if known != value.as_ref() {
                    return Err(Error::TemplateInconsistent(
                        "an attribute contradicts the mechanism or the other key of the pair",
                    ));
                }
                continue;
            }
            if rule.given & origin == 0 {
                return Err(Error::AttributeReadOnly(*id));
            }
            if rule.so_only && boolean(&value) == Some(true) && !trusted(self.class, self.setting) {
                return Err(Error::AttributeReadOnly(*id));
            }
            if rule.silent != Silent::Unlimited || !value.is_empty() {
                attributes.set(*id, value.into_owned());
            }
        }
        for rule in rules::rules(self.class, self.key_type) {
            if attributes.has(rule.id) {
                continue;
            }
            if rule.needed & origin != 0 {
                return Err(Error::TemplateIncomplete(rule.id));
            }
            match rule.silent {
                Silent::Absent | Silent::Unlimited | Silent::Ours => {}
                Silent::Empty => attributes.set(rule.id, []),
                Silent::Bool(default) => attributes.set_bool(rule.id, default),
                Silent::Ulong(default) => attributes.set_ulong(rule.id, default),
            }
        }
        no_second_pin(&attributes)?;
        Ok(attributes)
    }
}

/// C_SetAttributeValue: the object's attributes after the change. Nothing happens to `object`.
///
/// # Errors
/// ActionProhibited if CKA_MODIFIABLE is FALSE, or the object is trusted and it is not the SO who
/// asks; else as [`create`]. PKCS#11 3.2 §4.1.2.
pub fn set(object: &Attributes, template: &Template, setting: &Setting) -> Result<Attributes> {
    let changed = change(object, template, setting, Way::Set)?;
    if changed != *object && !object.is(CKA_MODIFIABLE) {
        return Err(Error::ActionProhibited("CKA_MODIFIABLE is FALSE"));
    }
    Ok(changed)
}

/// C_CopyObject: the copy's attributes.
///
/// # Errors
/// ActionProhibited if CKA_COPYABLE is FALSE; NotLoggedIn if the copy would be private and
/// `setting.user` is false; else as [`create`]. PKCS#11 3.2 §4.1.3.
pub fn copy(object: &Attributes, template: &Template, setting: &Setting) -> Result<Attributes> {
    if !object.is(CKA_COPYABLE) {
        return Err(Error::ActionProhibited("CKA_COPYABLE is FALSE"));
    }
    let mut original = object.clone();
    if !setting.so && object.is(CKA_TRUSTED) {
        // The SO trusts what he has judged, and sees when he takes it back; the user's copy is neither.
        original.set_bool(CKA_TRUSTED, false);
    }
    let mut copy = change(&original, template, setting, Way::Copy)?;
    let class = class_of(&copy)?;
    let secret = class & (rules::PRIVATE | rules::SECRET) != 0;
    if secret
        && setting.policy.has(Guard::LoginNeeded)
        && object.is(CKA_PRIVATE)
        && !copy.is(CKA_PRIVATE)
    {
        return Err(Error::TemplateInconsistent("the copy of a private key is private"));
    }
    if secret && copy.is(CKA_TOKEN) {
        copy.set_bool(CKA_PRIVATE, true);
    }
    if copy.is(CKA_PRIVATE) && !setting.user {
        return Err(Error::NotLoggedIn);
    }
    Ok(copy)
}

/// C_DestroyObject: whether CKA_DESTROYABLE permits it.
///
/// # Errors
/// ActionProhibited
pub fn destroy(object: &Attributes) -> Result<()> {
    if object.is(CKA_DESTROYABLE) {
        Ok(())
    } else {
        Err(Error::ActionProhibited("CKA_DESTROYABLE is FALSE"))
    }
}

/// One attribute's value in the library's encoding; `Kind::to_native` of `rules::kind(id)` makes it the
/// caller's. Asked per attribute, so that one which cannot be read spoils no other.
///
/// # Errors
/// AttributeSensitive, AttributeTypeInvalid. PKCS#11 3.2 §5.7.5.
pub fn get(object: &Object, id: u64, policy: Policy) -> Result<Cow<'_, [u8]>> {
    let attributes = &object.attributes;
    let rule = class_of(attributes)
        .ok()
        .and_then(|class| rules::rule(class, attributes.ulong(CKA_KEY_TYPE), id))
        .ok_or(Error::AttributeTypeInvalid(id))?;
    if rule.guarded {
        return match object.value() {
            Some(value) if shown(attributes, policy) => Ok(Cow::Borrowed(value)),
            // What the chip holds it never gives, whatever the attributes say.
            _ => Err(Error::AttributeSensitive(id)),
        };
    }
    if id == CKA_UNIQUE_ID {
        return Ok(Cow::Owned(object.unique_id().into_bytes()));
    }
    match attributes.get(id) {
        Some(value) => Ok(Cow::Borrowed(value)),
        None if rule.silent == Silent::Unlimited => Ok(Cow::Borrowed(&[])),
        None => Err(Error::AttributeTypeInvalid(id)),
    }
}

/// P1: whether the value of a secret key is shown, and so kept by the host.
pub fn shown(attributes: &Attributes, policy: Policy) -> bool {
    roles::readable(attributes) || !policy.has(Guard::ValuesStay)
}

/// How existing attributes change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Set,
    Copy,
}

/// What set and copy share.
fn change(
    object: &Attributes,
    template: &Template,
    setting: &Setting,
    way: Way,
) -> Result<Attributes> {
    let class = class_of(object)?;
    let key_type = object.ulong(CKA_KEY_TYPE);
    let mut changed = object.clone();
    for (id, given) in distinct(template)? {
        let rule = find(class, key_type, id)?;
        let value = canonical_for(rule, given, object)?;
        let nothing_new = match object.get(id) {
            Some(current) => current == value.as_ref(),
            // Taking away what is not there.
            None => {
                let absent = matches!(rule.silent, Silent::Absent | Silent::Unlimited);
                value.is_empty() && absent && !rule.guarded
            }
        };
        if nothing_new {
            continue;
        }
        may_change(rule, &value, object, setting, way)?;
        if rule.change == Change::Role && is_idle(object, class, key_type, id) {
            continue;
        }
        if object.is(CKA_TRUSTED) && !setting.so && rule.change == Change::Free {
            return Err(Error::ActionProhibited("the object is trusted: only the SO changes it"));
        }
        changed.set(id, value.into_owned());
    }
    let closed =
        [CKA_SENSITIVE, CKA_EXTRACTABLE].iter().any(|id| object.is(*id) != changed.is(*id));
    if class == rules::SECRET && closed && setting.policy.has(Guard::RolesApart) {
        roles::stay_apart(&changed)?;
    }
    if closed || object.is(CKA_TRUSTED) != changed.is(CKA_TRUSTED) {
        roles::tools_stay(&changed, setting.policy)?;
    }
    if changed != *object {
        limits_travel(&mut changed, setting);
    }
    Ok(changed)
}

/// Whether the rule lets an attribute take a new value, different from the one it has.
fn may_change(
    rule: &Rule,
    value: &[u8],
    object: &Attributes,
    setting: &Setting,
    way: Way,
) -> Result<()> {
    let (class, key_type) = (class_of(object)?, object.ulong(CKA_KEY_TYPE));
    let up = boolean(value) == Some(true);
    let policy = setting.policy;
    let allowed = match rule.change {
        Change::Never => false,
        Change::Same => {
            return Err(Error::AttributeValueInvalid(rule.id, "it does not belong to the key"));
        }
        Change::Free if rule.so_only => setting.so && (!up || trusted(class, setting)),
        Change::Free => date_may_be(rule.id, value, object, setting),
        Change::OnlyToTrue => up || !policy.has(Guard::OneWay),
        Change::OnlyToFalse => !up || !policy.has(Guard::OneWay),
        Change::InCopy => way == Way::Copy,
        Change::InCopyOnlyToFalse if way == Way::Copy && up && policy.has(Guard::OneWay) => {
            return Err(Error::TemplateInconsistent("a copy permits no more than its original"));
        }
        Change::InCopyOnlyToFalse => way == Way::Copy,
        // P3. What the key cannot be is no change; and no EC key of the chip learns what it was not made for.
        Change::Role if is_idle(object, class, key_type, rule.id) => true,
        Change::Role if policy.has(Guard::RolesAreFixed) => false,
        Change::Role => !up || class != rules::PRIVATE || key_type != Some(CKK_EC),
    };
    if allowed { Ok(()) } else { Err(Error::AttributeReadOnly(rule.id)) }
}

/// Whether it is a role that the key neither has nor can have.
fn is_idle(object: &Attributes, class: Classes, key_type: Option<u64>, role: u64) -> bool {
    let roles = key_type.and_then(|key_type| rules::roles(class, key_type));
    // A storage key wraps, which no other EC key does.
    !object.is(role) && !roles.is_some_and(|roles| roles.can(role))
}

/// The class of a finished object, as a set of one.
pub(super) fn class_of(attributes: &Attributes) -> Result<Classes> {
    attributes
        .ulong(CKA_CLASS)
        .and_then(rules::class)
        .ok_or(Error::Bug("an object without a class that we know"))
}

/// Each attribute once. The same value twice counts as once, as §4.1.1 encourages.
fn distinct(template: &Template) -> Result<BTreeMap<u64, &[u8]>> {
    let mut distinct = BTreeMap::new();
    for (id, value) in template.iter() {
        if distinct.insert(id, value).is_some_and(|other| other != value) {
            return Err(Error::TemplateInconsistent("two different values for one attribute"));
        }
    }
    Ok(distinct)
}

/// The caller's template upon the one that a key prescribes for the keys it makes: "applied after this
/// template as if the object has already been created" (§4.11). So the caller may change what
/// C_SetAttributeValue may change, in the direction it may, and contradicts the rest in vain.
///
/// # Errors
/// TemplateInconsistent
pub(super) fn upon(
    class: Classes,
    prescribed: Option<&[u8]>,
    template: &Template,
    setting: &Setting,
) -> Result<Template> {
    let Some(prescribed) = prescribed else {
        return Ok(template.clone());
    };
    let prescribed = Template::from_bytes(prescribed).ok_or(Error::Bug("a template of ours"))?;
    let mut whole: Template = template.clone();
    for (id, before) in prescribed.iter() {
        let Some(asked) = template.get(id) else {
            whole.push(id, before);
            continue;
        };
        let up = boolean(asked) == Some(true);
        let may = asked == before
            || rules::RULES.iter().filter(|rule| rule.id == id && rule.of & class != 0).any(
                |rule| match rule.change {
                    Change::Free => !rule.so_only && moves_inward(id, Some(before), asked, setting),
                    Change::OnlyToTrue => up,
                    Change::OnlyToFalse => !up,
                    Change::Role => !up && !setting.policy.has(Guard::RolesAreFixed),
                    _ => false,
                },
            );
        if !may {
            return Err(Error::TemplateInconsistent("the base key prescribes another value"));
        }
    }
    Ok(whole)
}

/// The rule for an attribute of a template.
fn find(class: Classes, key_type: Option<u64>, id: u64) -> Result<&'static Rule> {
    rules::rule(class, key_type, id).ok_or(if rules::name(id).is_some() {
        Error::TemplateInconsistent("an attribute belongs to objects of another class or key type")
    } else {
        Error::AttributeTypeInvalid(id)
    })
}

/// Checks a value's form and brings it into the one form that the token keeps.
fn canonical<'a>(rule: &Rule, given: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    let invalid = |why| Err(Error::AttributeValueInvalid(rule.id, why));
    match rule.kind {
        Kind::Bool if boolean(given).is_none() => return invalid("neither CK_TRUE nor CK_FALSE"),
        Kind::Ulong if value::ulong(given).is_none() => return invalid("not one CK_ULONG"),
        Kind::UlongArray if given.len() % 8 != 0 => return invalid("not an array of CK_ULONG"),
        Kind::Date if !is_date(given) => return invalid("neither empty nor a date"),
        Kind::Template => plain(rule.id, given)?,
        _ => {}
    }
    let in_range = match rule.id {
        CKA_CERTIFICATE_TYPE => value::ulong(given) == Some(CKC_X_509),
        // CK_CERTIFICATE_CATEGORY_OTHER_ENTITY and CK_SECURITY_DOMAIN_THIRD_PARTY are the last.
        CKA_CERTIFICATE_CATEGORY | CKA_JAVA_MIDP_SECURITY_DOMAIN => {
            value::ulong(given).is_some_and(|number| number <= 3)
        }
        _ => true,
    };
    if !in_range {
        return invalid("the token has no such thing");
    }
    match rule.id {
        CKA_EC_PARAMS => public_key::canonical_params(given).map(Cow::Owned),
        _ => Ok(public_key::canonical_number(rule.id, given)),
    }
}

/// As [`canonical`], where the object may help to understand the value.
fn canonical_for<'a>(rule: &Rule, given: &'a [u8], object: &Attributes) -> Result<Cow<'a, [u8]>> {
    if rule.id == CKA_EC_POINT {
        if let Ok(point) = public_key::canonical_point(object.get(CKA_EC_PARAMS), given) {
            return Ok(Cow::Owned(point));
        }
    }
    canonical(rule, given)
}

/// A nested template: readable, of attributes that exist, valid each, and not nested again.
fn plain(id: u64, given: &[u8]) -> Result<()> {
    let template = Template::from_bytes(given)
        .ok_or(Error::AttributeValueInvalid(id, "not an array of CK_ATTRIBUTE"))?;
    for (inner, value) in distinct(&template)? {
        let rule = rules::RULES
            .iter()
            .find(|rule| rule.id == inner)
            .ok_or(Error::AttributeTypeInvalid(inner))?;
        if rule.kind == Kind::Template {
            return Err(Error::TemplateInconsistent("a template inside a template of a template"));
        }
        canonical(rule, value)?;
    }
    Ok(())
}

/// CK_DATE: empty, or yyyymmdd with a month and a day that the year has.
fn is_date(value: &[u8]) -> bool {
    if value.is_empty() {
        return true;
    }
    if value.len() != 8 || !value.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let number = value.iter().fold(0, |number: u32, digit| number * 10 + u32::from(digit - b'0'));
    let (year, month, day) = (number / 10_000, number / 100 % 100, number % 100);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day)
}

// ---- relations -----------------------------------------------------------------------------------

/// Keys of the token are private whatever the template says: their rows are encrypted under the login.
/// So are private keys of a session, by P13. Session secret keys are what the template says; if it is
/// silent, private where somebody is logged in. Data, certificates and public keys are public unless
/// it says otherwise.
pub(super) fn private_where_it_must_be(
    class: Classes,
    setting: &Setting,
    attributes: &mut Attributes,
) -> Result<()> {
    let asked = attributes.get(CKA_PRIVATE).and_then(boolean);
    let private = match class {
        rules::PRIVATE | rules::SECRET if attributes.is(CKA_TOKEN) => true,
        rules::PRIVATE if setting.policy.has(Guard::LoginNeeded) => true,
        rules::PRIVATE => asked.unwrap_or(true),
        rules::SECRET => asked.unwrap_or(setting.user),
        _ => asked.unwrap_or(false),
    };
    if private && !setting.user {
        return Err(Error::NotLoggedIn);
    }
    attributes.set_bool(CKA_PRIVATE, private);
    Ok(())
}

/// Whether CKA_TRUSTED may become TRUE: by the SO; and by P8 not on secret keys, which a session of the SO
/// does not see and nobody could judge there.
fn trusted(class: Classes, setting: &Setting) -> bool {
    setting.so && (class != rules::SECRET || !setting.policy.has(Guard::LimitsTravel))
}

/// P8: what is sensitive and may leave, and carries a limit that would be lost on the way, leaves under
/// trusted keys alone.
pub(super) fn limits_travel(attributes: &mut Attributes, setting: &Setting) {
    const LIMITS: [u64; 4] =
        [CKA_ALLOWED_MECHANISMS, CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE, CKA_DERIVE_TEMPLATE];
    let leaves = attributes.is(CKA_SENSITIVE) && attributes.is(CKA_EXTRACTABLE);
    let dated = |id| attributes.get(id).is_some_and(|date| !date.is_empty());
    let limited = LIMITS.iter().any(|id| attributes.has(*id))
        || attributes.is(CKA_ALWAYS_AUTHENTICATE)
        || dated(CKA_END_DATE)
        || dated(CKA_START_DATE) && setting.dates == Dates::Enforce
        || !attributes.is(CKA_COPYABLE);
    if setting.policy.has(Guard::LimitsTravel) && leaves && limited {
        attributes.set_bool(CKA_WRAP_WITH_TRUSTED, true);
    }
}

/// Where dates are enforced, those of private and secret keys move inward alone.
fn date_may_be(id: u64, value: &[u8], object: &Attributes, setting: &Setting) -> bool {
    let secret = matches!(object.ulong(CKA_CLASS), Some(CKO_PRIVATE_KEY | CKO_SECRET_KEY));
    !secret || moves_inward(id, object.get(id), value, setting)
}

fn moves_inward(id: u64, now: Option<&[u8]>, value: &[u8], setting: &Setting) -> bool {
    match (id, now.filter(|date| !date.is_empty())) {
        _ if setting.dates == Dates::Inform => true,
        (CKA_START_DATE, Some(now)) => value >= now,
        (CKA_END_DATE, Some(now)) => !value.is_empty() && value <= now,
        _ => true,
    }
}

/// Whether a private or secret key may be used on this day (yyyymmdd).
///
/// # Errors
/// KeyFunctionNotPermitted
pub fn in_its_time(attributes: &Attributes, today: &[u8; 8]) -> Result<()> {
    if !matches!(attributes.ulong(CKA_CLASS), Some(CKO_PRIVATE_KEY | CKO_SECRET_KEY)) {
        return Ok(());
    }
    let date = |id| attributes.get(id).filter(|date| !date.is_empty());
    if date(CKA_START_DATE).is_some_and(|start| today.as_slice() < start) {
        return Err(Error::KeyFunctionNotPermitted("CKA_START_DATE is yet to come"));
    }
    if date(CKA_END_DATE).is_some_and(|end| today.as_slice() > end) {
        return Err(Error::KeyFunctionNotPermitted("CKA_END_DATE is past"));
    }
    Ok(())
}

/// CKA_SECONDARY_AUTH of version 2.11 exists and is FALSE.
fn no_second_pin(attributes: &Attributes) -> Result<()> {
    if attributes.is(CKA_SECONDARY_AUTH) {
        return Err(Error::TemplateInconsistent(
            "CKA_SECONDARY_AUTH: keys have no PIN of their own",
        ));
    }
    Ok(())
}

/// A key that came from outside.
pub(super) fn is_not_ours(attributes: &mut Attributes) {
    attributes.set_bool(CKA_LOCAL, false);
    attributes.set_ulong(CKA_KEY_GEN_MECHANISM, u64::MAX); // CK_UNAVAILABLE_INFORMATION
}

/// A key that the token made with this mechanism.
pub(super) fn is_ours(attributes: &mut Attributes, mechanism: u64) {
    attributes.set_bool(CKA_LOCAL, true);
    attributes.set_ulong(CKA_KEY_GEN_MECHANISM, mechanism);
}

/// The values of private keys never leave the chip in the clear, so they are sensitive whatever the
/// template says, and only extractable if it says so. A template that asks for a readable one is
/// refused: to change that silently would break the promise that the caller made to himself.
pub(super) fn private_keys_are_sensitive(attributes: &mut Attributes) -> Result<()> {
    let asked_open = attributes.get(CKA_SENSITIVE).and_then(boolean) == Some(false);
    let extractable = attributes.is(CKA_EXTRACTABLE);
    if asked_open && extractable {
        return Err(Error::TemplateInconsistent(
            "a private key that can be read in the clear (CKA_SENSITIVE FALSE, CKA_EXTRACTABLE TRUE)",
        ));
    }
    attributes.set_bool(CKA_SENSITIVE, true);
    attributes.set_bool(CKA_EXTRACTABLE, extractable);
    attributes.set_bool(CKA_ALWAYS_SENSITIVE, true);
    attributes.set_bool(CKA_NEVER_EXTRACTABLE, !extractable);
    Ok(())
}
