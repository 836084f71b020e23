//! What no template may break.

use cryptoki_sys::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::rules::{self, RULES};
use super::super::search::Search;
use super::super::{Attributes, Kind, Template, rule};
use super::*;

/// A value of the attribute's kind most of the time, else any bytes.
fn value(id: u64) -> BoxedStrategy<Vec<u8>> {
    let any = vec(any::<u8>(), 0..40).boxed();
    let fitting = match id {
        CKA_CLASS => select(vec![CKO_DATA, CKO_CERTIFICATE, CKO_PUBLIC_KEY, CKO_SECRET_KEY])
            .prop_map(|class| class.to_be_bytes().to_vec())
            .boxed(),
        CKA_KEY_TYPE => select(vec![CKK_RSA, CKK_EC, CKK_AES, CKK_GENERIC_SECRET])
            .prop_map(|key_type| key_type.to_be_bytes().to_vec())
            .boxed(),
        CKA_EC_PARAMS => Just(P256.to_vec()).boxed(),
        CKA_EC_POINT => Just(wrapped_point()).boxed(),
        CKA_MODULUS => Just(modulus(1024)).boxed(),
        CKA_PUBLIC_EXPONENT => Just(vec![1, 0, 1]).boxed(),
        CKA_MODULUS_BITS => Just(2048u64.to_be_bytes().to_vec()).boxed(),
        CKA_VALUE => Just(super::certificates::RSA_CRITICAL.to_vec()).boxed(),
        _ => match rules::kind(id) {
            Kind::Bool => select(vec![vec![0], vec![1]]).boxed(),
            Kind::Ulong => (0u64..5).prop_map(|number| number.to_be_bytes().to_vec()).boxed(),
            Kind::Date => Just(b"20261121".to_vec()).boxed(),
            Kind::Template => {
                Just(Template::new().with_bool(CKA_SENSITIVE, true).to_bytes()).boxed()
            }
            Kind::UlongArray => vec(0u64..5, 0..3)
                .prop_map(|list| list.iter().flat_map(|number| number.to_be_bytes()).collect())
                .boxed(),
            Kind::Bytes | Kind::Utf8 => any.clone(),
        },
    };
    prop_oneof![19 => fitting, 1 => any].boxed()
}

fn attribute() -> impl Strategy<Value = (u64, Vec<u8>)> {
    let known: Vec<u64> = RULES.iter().map(|rule| rule.id).collect();
    prop_oneof![60 => select(known), 1 => any::<u64>()].prop_flat_map(|id| (Just(id), value(id)))
}

fn template() -> impl Strategy<Value = Template> {
    vec(attribute(), 0..5).prop_map(|items| items.into_iter().collect())
}

/// An object of [`one_of_each`], and a template of attributes that it may have.
fn object_and_change() -> impl Strategy<Value = (usize, Template)> {
    (0..one_of_each().len()).prop_flat_map(|which| {
        let object = &one_of_each()[which].1;
        let class = rules::class(object.class()).expect("a class of ours");
        let ids: Vec<u64> = rules::rules(class, object.key_type()).map(|rule| rule.id).collect();
        let attribute = prop_oneof![30 => select(ids), 1 => any::<u64>()]
            .prop_flat_map(|id| (Just(id), value(id)));
        let template = vec(attribute, 0..4).prop_map(|items| items.into_iter().collect());
        (Just(which), template)
    })
}

/// A template around a sound core, so that many of them succeed.
fn around(core: Template) -> impl Strategy<Value = Template> {
    template().prop_map(move |more| {
        let mut whole = core.clone();
        more.iter().for_each(|(id, value)| whole.push(id, value));
        whole
    })
}

fn setting() -> impl Strategy<Value = Setting> {
    select(vec![USER, SO, NOBODY])
}

fn whole(what: &str, attributes: &Attributes) -> Result<(), TestCaseError> {
    let class = attributes.ulong(CKA_CLASS).and_then(rules::class);
    prop_assert!(class.is_some(), "{what}");
    for rule in rules::rules(class.unwrap_or(0), attributes.ulong(CKA_KEY_TYPE)) {
        let there = attributes.has(rule.id)
            || matches!(rule.silent, rules::Silent::Absent | rules::Silent::Unlimited)
            || rule.id == CKA_UNIQUE_ID;
        prop_assert!(there, "{what} lacks {}", rule.name);
        prop_assert!(!(rule.guarded && attributes.has(rule.id)), "{what} shows {}", rule.name);
    }
    Ok(())
}

/// Nothing that protects an object is ever taken back.
fn no_weaker(
    before: &Attributes,
    after: &Attributes,
    setting: &Setting,
) -> Result<(), TestCaseError> {
    for id in [CKA_SENSITIVE, CKA_WRAP_WITH_TRUSTED, CKA_ALWAYS_AUTHENTICATE] {
        prop_assert!(after.is(id) || !before.is(id), "{id:#x} fell");
    }
    let roles = [CKA_SIGN, CKA_DECRYPT, CKA_SIGN_RECOVER, CKA_UNWRAP];
    for id in [CKA_EXTRACTABLE, CKA_COPYABLE, CKA_MODIFIABLE, CKA_DESTROYABLE].iter().chain(&roles)
    {
        prop_assert!(before.is(*id) || !after.is(*id), "{id:#x} rose");
    }
    let fixed = [
        CKA_CLASS,
        CKA_KEY_TYPE,
        CKA_LOCAL,
        CKA_KEY_GEN_MECHANISM,
        CKA_ALWAYS_SENSITIVE,
        CKA_NEVER_EXTRACTABLE,
        CKA_ALLOWED_MECHANISMS,
        CKA_DERIVE_TEMPLATE,
        CKA_MODULUS,
        CKA_EC_POINT,
        CKA_PUBLIC_KEY_INFO,
    ];
    for id in fixed {
        prop_assert_eq!(before.get(id), after.get(id), "{:#x}", id);
    }
    if !setting.so {
        prop_assert_eq!(before.is(CKA_TRUSTED), after.is(CKA_TRUSTED));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_template_makes_a_whole_object_or_none(
        template in prop_oneof![
            template().boxed(),
            around(data()).boxed(),
            around(certificate()).boxed(),
            around(ec_public_key()).boxed(),
            around(rsa_public_key()).boxed(),
        ],
        setting in setting(),
    ) {
        if let Ok(attributes) = create(&template, &setting) {
            whole("object", &attributes)?;
            prop_assert!(setting.user || !attributes.is(CKA_PRIVATE));
            prop_assert!(setting.so || !attributes.is(CKA_TRUSTED));
        }
    }

    #[test]
    fn any_templates_make_a_whole_pair_or_none(
        public in around(ec_public()),
        private in template(),
        rsa in any::<bool>(),
    ) {
        let (kind, public) = if rsa { (RSA, public.with_ulong(CKA_MODULUS_BITS, 2048)) } else { (EC, public) };
        if let Ok((public, private)) = pair(kind, &public, &private) {
            whole("public half", &public)?;
            whole("private half", &private)?;
            prop_assert!(private.is(CKA_PRIVATE) && private.is(CKA_SENSITIVE));
            prop_assert_eq!(private.is(CKA_NEVER_EXTRACTABLE), !private.is(CKA_EXTRACTABLE));
        }
    }

    #[test]
    fn any_template_derives_a_whole_secret_or_none(template in template()) {
        if let Ok(key) = secret(&template) {
            whole("secret", &key.attributes)?;
            let readable = !key.is(CKA_SENSITIVE) && key.is(CKA_EXTRACTABLE);
            prop_assert_eq!(rule::get(&key, CKA_VALUE, Policy::PREVENT).is_ok(), readable);
        }
    }

    #[test]
    fn a_change_can_be_repeated_and_weakens_nothing(
        (which, template) in object_and_change(),
        setting in setting(),
    ) {
        let (what, object) = &one_of_each()[which];
        if let Ok(changed) = rule::set(&object.attributes, &template, &setting) {
            whole(what, &changed)?;
            no_weaker(&object.attributes, &changed, &setting)?;
            prop_assert_eq!(rule::set(&changed, &template, &setting), Ok(changed.clone()), "{}", what);
        }
        if let Ok(copied) = rule::copy(&object.attributes, &template, &setting) {
            whole(what, &copied)?;
            no_weaker(&object.attributes, &copied, &setting)?;
            prop_assert!(setting.user || !copied.is(CKA_PRIVATE));
            for (id, value) in object.attributes.iter() {
                let asked = template.get(id).is_some() || id == CKA_PRIVATE;
                prop_assert!(asked || copied.get(id) == Some(value), "{} lost {:#x}", what, id);
            }
        }
    }

    #[test]
    fn a_search_never_finds_what_lacks_the_value(template in template()) {
        let search = Search::new(&template);
        for (what, object) in one_of_each() {
            if search.matches(&object) {
                for (id, _) in template.iter() {
                    prop_assert!(object.attributes.has(id) || id == CKA_UNIQUE_ID, "{}: {:#x}", what, id);
                }
            }
        }
    }

    #[test]
    fn nested_templates_come_back_as_they_went(items in vec((any::<u64>(), vec(any::<u8>(), 0..20)), 0..5), noise in vec(any::<u8>(), 0..60)) {
        let template: Template = items.into_iter().collect();
        prop_assert_eq!(Template::from_bytes(&template.to_bytes()), Some(template));
        if let Some(read) = Template::from_bytes(&noise) {
            prop_assert_eq!(read.to_bytes(), noise);
        }
    }

    #[test]
    fn numbers_survive_the_way_through_the_door(numbers in vec(any::<std::ffi::c_ulong>(), 0..5)) {
        let native: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let inside = Kind::UlongArray.from_native(&native).unwrap();
        prop_assert_eq!(inside.len(), numbers.len() * 8);
        prop_assert_eq!(Kind::UlongArray.to_native(&inside), native);
    }
}
