//! Secret keys: the templates that clients send, and the rules of the policy one by one.

use cryptoki_sys::*;

use super::super::keyspec::{Private, Secret};
use super::super::policy::{GUARDS, Guard};
use super::super::rule::{copy, in_its_time, set};
use super::super::{Attributes, Template};
use super::*;
use crate::error::Error;

const ROLES: [u64; 7] =
    [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_DERIVE, CKA_WRAP, CKA_UNWRAP];

fn roles(attributes: &Attributes) -> Vec<u64> {
    ROLES.into_iter().filter(|role| attributes.is(*role)).collect()
}

fn flag(id: u64, value: bool) -> Template {
    Template::new().with_bool(id, value)
}

fn open() -> Template {
    flag(CKA_SENSITIVE, false).with_bool(CKA_EXTRACTABLE, true)
}

fn without(guard: Guard) -> Setting {
    Setting { policy: Policy::PREVENT.without(guard), ..USER }
}

/// C_GenerateKey of 32 bytes.
fn generate(key_type: u64, template: &Template, setting: &Setting) -> Result<Attributes> {
    let template = template.clone().with_ulong(CKA_VALUE_LEN, 32);
    let plan = Secret::generate(CKM_GENERIC_SECRET_KEY_GEN, &[key_type], &template, setting)?;
    Ok(plan.attributes)
}

fn bring_in(key_type: u64, template: Template) -> Template {
    template
        .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
        .with_ulong(CKA_KEY_TYPE, key_type)
        .with(CKA_VALUE, [0x55; 32])
}

/// `pkcs11-tool --keygen --key-type AES:32 --label k`, of 0.23 and before and after.
#[test]
fn pkcs11_tool_makes_secret_keys() {
    let old = Template::new()
        .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_AES)
        .with_bool(CKA_TOKEN, true)
        .with_bool(CKA_ENCRYPT, true)
        .with_bool(CKA_DECRYPT, true);
    let new = old.clone().with_bool(CKA_SENSITIVE, true).with(CKA_LABEL, "k");
    for template in [old, new] {
        let key = generate(CKK_AES, &template, &USER).unwrap();
        assert_eq!(roles(&key), [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY]);
        assert!(key.is(CKA_SENSITIVE) && !key.is(CKA_EXTRACTABLE) && key.is(CKA_PRIVATE));
        assert!(key.is(CKA_ALWAYS_SENSITIVE) && key.is(CKA_NEVER_EXTRACTABLE));
    }
}

/// SunPKCS11 (JDK 17): a secret for JSSE, and a key of `KeyGenerator`.
#[test]
fn java_brings_secrets_in_and_reads_them_and_hides_what_it_generates() {
    let secret = bring_in(CKK_GENERIC_SECRET, Template::new());
    let key = created(&secret, &USER).unwrap();
    assert_eq!(key.value(), Some([0x55; 32].as_slice()));
    assert_eq!(roles(&key.attributes), [CKA_SIGN, CKA_VERIFY, CKA_DERIVE]);
    let stored = created(&bring_in(CKK_GENERIC_SECRET, flag(CKA_TOKEN, true)), &USER).unwrap();
    assert!(stored.is(CKA_SENSITIVE) && !stored.is(CKA_EXTRACTABLE));
    assert_eq!(stored.value(), None);
}

/// python-pkcs11's default for AES: every role at once.
#[test]
fn python_asks_for_every_role_and_gets_those_on_data() {
    let all = ROLES.iter().fold(Template::new(), |all, role| all.with_bool(*role, true));
    let key = generate(CKK_AES, &all, &USER).unwrap();
    assert_eq!(roles(&key), [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY]);
}

#[test]
fn one_role_on_data_brings_the_others_of_its_kind_that_are_not_named() {
    let key = generate(CKK_AES, &flag(CKA_ENCRYPT, true), &USER).unwrap();
    assert_eq!(roles(&key), [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY]);
    let one = flag(CKA_ENCRYPT, true).with_bool(CKA_DECRYPT, false).with_bool(CKA_SIGN, false);
    assert_eq!(roles(&generate(CKK_AES, &one, &USER).unwrap()), [CKA_ENCRYPT, CKA_VERIFY]);
    let derive = generate(CKK_GENERIC_SECRET, &flag(CKA_DERIVE, true), &USER).unwrap();
    assert_eq!(roles(&derive), [CKA_DERIVE]);
    let silent = generate(CKK_GENERIC_SECRET, &Template::new(), &USER).unwrap();
    assert_eq!(roles(&silent), [CKA_SIGN, CKA_VERIFY]);
    let readable = generate(CKK_GENERIC_SECRET, &open(), &USER).unwrap();
    assert_eq!(roles(&readable), [CKA_SIGN, CKA_VERIFY, CKA_DERIVE]);
}

#[test]
fn p1_a_value_that_may_not_be_read_is_not_even_kept() {
    let hidden = bring_in(CKK_GENERIC_SECRET, flag(CKA_SENSITIVE, true));
    assert_eq!(created(&hidden, &USER).unwrap().value(), None);
    let kept = created(&hidden, &without(Guard::ValuesStay)).unwrap();
    let policy = without(Guard::ValuesStay).policy;
    assert_eq!(rule::get(&kept, CKA_VALUE, policy).unwrap().as_ref(), [0x55; 32]);
    assert!(rule::get(&kept, CKA_VALUE, Policy::PREVENT).is_err());
}

#[test]
fn p2_what_protects_a_key_only_rises() {
    let key = generate(CKK_AES, &flag(CKA_EXTRACTABLE, true), &USER).unwrap();
    let down = flag(CKA_SENSITIVE, false);
    assert_eq!(set(&key, &down, &USER), Err(Error::AttributeReadOnly(CKA_SENSITIVE)));
    assert!(!set(&key, &down, &without(Guard::OneWay)).unwrap().is(CKA_SENSITIVE));
}

#[test]
fn p4_roles_meet_where_the_rule_is_left_out() {
    let both = flag(CKA_SIGN, true).with_bool(CKA_DERIVE, true);
    let key = generate(CKK_GENERIC_SECRET, &both, &USER).unwrap();
    assert_eq!(roles(&key), [CKA_SIGN, CKA_VERIFY]);
    let key = generate(CKK_GENERIC_SECRET, &both, &without(Guard::RolesApart)).unwrap();
    assert_eq!(roles(&key), [CKA_SIGN, CKA_VERIFY, CKA_DERIVE]);
}

#[test]
fn p6_a_tool_stays_in_the_token() {
    let leaves = flag(CKA_DERIVE, true).with_bool(CKA_EXTRACTABLE, true);
    let made = |setting: &Setting| generate(CKK_GENERIC_SECRET, &leaves, setting);
    assert!(matches!(made(&USER), Err(Error::TemplateInconsistent(_))));
    assert!(made(&without(Guard::ToolsStay)).is_ok());
    // A readable one is no secret.
    let readable = open().with_bool(CKA_DERIVE, true);
    assert!(generate(CKK_GENERIC_SECRET, &readable, &USER).is_ok());
}

#[test]
fn p8_what_a_wrap_would_lose_makes_the_key_wait_for_a_trusted_one() {
    let leaves = || flag(CKA_EXTRACTABLE, true);
    for limit in [
        leaves().with(CKA_ALLOWED_MECHANISMS, CKM_SHA256_HMAC.to_be_bytes()),
        leaves().with(CKA_END_DATE, "20300101"),
        leaves().with_bool(CKA_COPYABLE, false),
        leaves().with(CKA_UNWRAP_TEMPLATE, flag(CKA_SENSITIVE, true).to_bytes()),
    ] {
        let made = |setting: &Setting| generate(CKK_AES, &limit, setting).unwrap();
        assert!(made(&USER).is(CKA_WRAP_WITH_TRUSTED), "{limit:?}");
        assert!(!made(&without(Guard::LimitsTravel)).is(CKA_WRAP_WITH_TRUSTED));
    }
    let free = generate(CKK_AES, &leaves(), &USER).unwrap();
    assert!(!free.is(CKA_WRAP_WITH_TRUSTED));
    let ends = Template::new().with(CKA_END_DATE, "20300101");
    for change in [set, copy] {
        assert!(change(&free, &ends, &USER).unwrap().is(CKA_WRAP_WITH_TRUSTED));
    }
}

#[test]
fn p8_no_secret_key_is_trusted_by_a_call() {
    let key = generate(CKK_AES, &Template::new(), &USER).unwrap();
    let trust = flag(CKA_TRUSTED, true);
    for setting in [USER, SO] {
        assert_eq!(set(&key, &trust, &setting), Err(Error::AttributeReadOnly(CKA_TRUSTED)));
    }
    let so = Setting { policy: Policy::PREVENT.without(Guard::LimitsTravel), ..SO };
    assert!(set(&key, &trust, &so).unwrap().is(CKA_TRUSTED));
}

#[test]
fn p10_what_is_unwrapped_is_safe_unless_the_unwrapping_key_says_otherwise() {
    let plain = Attributes::new();
    let asked = open()
        .with_ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET)
        .with_bool(CKA_DERIVE, true)
        .with_bool(CKA_SIGN, false);
    let key = Secret::unwrap(&asked, &USER, &plain).unwrap().attributes;
    assert!(key.is(CKA_SENSITIVE) && !key.is(CKA_EXTRACTABLE) && roles(&key).is_empty());
    for history in [CKA_LOCAL, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE] {
        assert!(!key.is(history));
    }
    let free = Secret::unwrap(&asked, &without(Guard::UnwrappedStay), &plain).unwrap();
    assert!(!free.attributes.is(CKA_SENSITIVE) && free.attributes.is(CKA_DERIVE));
    let mut decides = Attributes::new();
    decides.set(CKA_UNWRAP_TEMPLATE, open().to_bytes());
    let key = Secret::unwrap(&asked, &USER, &decides).unwrap().attributes;
    assert!(!key.is(CKA_SENSITIVE) && key.is(CKA_EXTRACTABLE));
    // What a key that was made here prescribes opens nothing that it may itself have wrapped.
    decides.set_bool(CKA_LOCAL, true);
    let key = Secret::unwrap(&asked, &USER, &decides).unwrap().attributes;
    assert!(key.is(CKA_SENSITIVE) && !key.is(CKA_EXTRACTABLE));
    decides.set_bool(CKA_TRUSTED, true);
    let key = Secret::unwrap(&asked, &USER, &decides).unwrap().attributes;
    assert!(!key.is(CKA_SENSITIVE) && key.is(CKA_EXTRACTABLE));
    let ec = Template::new().with_ulong(CKA_KEY_TYPE, CKK_EC).with_bool(CKA_EXTRACTABLE, true);
    assert!(Private::unwrap(&ec, &USER, &plain).is_ok());
}

#[test]
fn p11_what_is_derived_is_as_closed_as_what_it_comes_from() {
    let derive = |template: &Template, how, base: &Attributes, setting: &Setting| {
        derived(template, setting, how, &[base])
    };
    let hidden = generate(CKK_GENERIC_SECRET, &flag(CKA_DERIVE, true), &USER).unwrap();
    let key = derive(&Template::new(), Derives::OneWay, &hidden, &USER).unwrap();
    assert!(key.is(CKA_SENSITIVE) && !key.is(CKA_EXTRACTABLE));
    assert!(key.is(CKA_ALWAYS_SENSITIVE) && key.is(CKA_NEVER_EXTRACTABLE));
    for opens in [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)] {
        for setting in [USER, without(Guard::DerivedStay)] {
            let opened = derive(&opens, Derives::OneWay, &hidden, &setting);
            assert!(matches!(opened, Err(Error::TemplateInconsistent(_))));
        }
    }
    let short = Template::new().with_ulong(CKA_VALUE_LEN, 15);
    let refused = derive(&short, Derives::OneWay, &hidden, &USER);
    assert!(matches!(refused, Err(Error::KeySizeRange(_))));
    assert!(derive(&short, Derives::OneWay, &hidden, &without(Guard::DerivedStay)).is_ok());

    let telling = derive(&Template::new(), Derives::Telling, &hidden, &USER);
    assert!(matches!(telling, Err(Error::MechanismInvalid(CKM_ECDH1_DERIVE))));
    let named = flag(CKA_DERIVE, true).with(CKA_ALLOWED_MECHANISMS, CKM_ECDH1_DERIVE.to_be_bytes());
    let named = generate(CKK_GENERIC_SECRET, &named, &USER).unwrap();
    assert!(derive(&Template::new(), Derives::Telling, &named, &USER).is_ok());

    let readable = generate(CKK_GENERIC_SECRET, &open(), &USER).unwrap();
    let key = derive(&short, Derives::Telling, &readable, &USER).unwrap();
    assert_eq!(key.value().map(<[u8]>::len), Some(15), "a secret of the host");
    // One closed input closes what comes out.
    let mixed = derived(&Template::new(), &USER, Derives::OneWay, &[&readable, &hidden]).unwrap();
    assert!(mixed.is(CKA_SENSITIVE) && !mixed.is(CKA_ALWAYS_SENSITIVE));
}

#[test]
fn p13_what_is_private_stays_so() {
    let key = generate(CKK_AES, &Template::new(), &USER).unwrap();
    let public = flag(CKA_PRIVATE, false);
    assert!(matches!(copy(&key, &public, &USER), Err(Error::TemplateInconsistent(_))));
    let free = without(Guard::LoginNeeded);
    assert!(!copy(&key, &public, &free).unwrap().is(CKA_PRIVATE));
    // Rows of keys are encrypted under the login, whatever the policy.
    let stored = public.with_bool(CKA_TOKEN, true);
    assert!(generate(CKK_AES, &stored, &free).unwrap().is(CKA_PRIVATE));
    assert_eq!(generate(CKK_AES, &stored, &NOBODY), Err(Error::NotLoggedIn));
    assert!(!generate(CKK_AES, &Template::new(), &NOBODY).unwrap().is(CKA_PRIVATE));
}

#[test]
fn p15_a_short_secret_has_no_check_value() {
    let check = |key_type, length: usize, setting: &Setting| {
        let template = Template::new()
            .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
            .with_ulong(CKA_KEY_TYPE, key_type)
            .with_bool(CKA_SENSITIVE, true)
            .with(CKA_VALUE, vec![0; length]);
        let key = created(&template, setting).unwrap();
        key.attributes.get(CKA_CHECK_VALUE).map(<[u8]>::to_vec)
    };
    // FIPS 197 with a key of zeros: 66e94bd4…
    assert_eq!(check(CKK_AES, 16, &USER), Some(vec![0x66, 0xe9, 0x4b]));
    assert_eq!(check(CKK_GENERIC_SECRET, 15, &USER), None);
    assert_eq!(check(CKK_GENERIC_SECRET, 32, &USER), None);
    let free = without(Guard::NoCheckValue);
    assert_eq!(check(CKK_GENERIC_SECRET, 1, &free), Some(vec![0x5b, 0xa9, 0x3c]));
}

#[test]
fn a_key_has_its_time() {
    let dated = |start: &str, end: &str| {
        let template = Template::new().with(CKA_START_DATE, start).with(CKA_END_DATE, end);
        generate(CKK_AES, &template, &USER).unwrap()
    };
    let on = |key: &Attributes| in_its_time(key, b"20260601").is_ok();
    assert!(on(&dated("", "")) && on(&dated("20260601", "20260601")));
    assert!(!on(&dated("20260602", "")) && !on(&dated("", "20260531")));
    let enforced = Setting { dates: Dates::Enforce, ..USER };
    let key = dated("20260101", "20261231");
    let moved = |id, date: &str| set(&key, &Template::new().with(id, date), &enforced).is_ok();
    assert!(moved(CKA_END_DATE, "20260630") && moved(CKA_START_DATE, "20260201"));
    assert!(!moved(CKA_END_DATE, "20270101") && !moved(CKA_START_DATE, "20251231"));
    assert!(!moved(CKA_END_DATE, ""));
    assert!(set(&key, &Template::new().with(CKA_END_DATE, "20270101"), &USER).is_ok());
}

/// No rule but its own does what a rule does: with all others left out it still holds.
#[test]
fn a_rule_holds_alone() {
    let only = |guard: Guard| {
        let others = GUARDS.iter().filter(|entry| entry.guard != guard);
        let policy = others.fold(Policy::PREVENT, |policy, entry| policy.without(entry.guard));
        Setting { policy, ..USER }
    };
    let both = flag(CKA_SIGN, true).with_bool(CKA_DERIVE, true);
    let key = generate(CKK_GENERIC_SECRET, &both, &only(Guard::RolesApart)).unwrap();
    assert_eq!(roles(&key), [CKA_SIGN, CKA_VERIFY]);
    let set = set(&key, &flag(CKA_VERIFY, false), &only(Guard::RolesAreFixed));
    assert_eq!(set, Err(Error::AttributeReadOnly(CKA_VERIFY)));
}
