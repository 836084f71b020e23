//! Templates of every kind through the table of rules.
#![no_main]

use arbitrary::Arbitrary;
use cryptoki_sys::{CKK_EC, CKK_RSA, CKM_EC_KEY_PAIR_GEN, CKM_RSA_PKCS_KEY_PAIR_GEN};
use libfuzzer_sys::fuzz_target;
use tpm11::object::keyspec::Pair;
use tpm11::object::rules::RULES;
use tpm11::object::rule::Creation;
use tpm11::object::{Setting, Template, rule};

/// Mostly attributes that exist, sometimes any number.
#[derive(Debug, Arbitrary)]
struct Attribute {
    which: u8,
    other: Option<u64>,
    value: Vec<u8>,
}

fn template(attributes: &[Attribute]) -> Template {
    attributes.iter().fold(Template::new(), |template, attribute| {
        let known = RULES[usize::from(attribute.which) % RULES.len()].id;
        template.with(attribute.other.unwrap_or(known), attribute.value.clone())
    })
}

fuzz_target!(|input: (Vec<Attribute>, Vec<Attribute>, bool, bool)| {
    let (first, second, user, so) = input;
    let (first, second) = (template(&first), template(&second));
    let setting = Setting { user, so, ..Setting::default() };
    if let Ok(Creation::Object(made)) = rule::create(&first, &setting) {
        let _ = rule::copy(&made, &second, &setting);
        if let Ok(changed) = rule::set(&made, &second, &setting) {
            // A second time changes nothing.
            assert_eq!(rule::set(&changed, &second, &setting).as_ref(), Ok(&changed));
        }
    }
    let _ = Pair::plan(CKM_EC_KEY_PAIR_GEN, CKK_EC, &first, &second, &setting, None);
    let _ = Pair::plan(CKM_RSA_PKCS_KEY_PAIR_GEN, CKK_RSA, &first, &second, &setting, None);
    let bytes = first.to_bytes();
    assert_eq!(Template::from_bytes(&bytes).as_ref(), Some(&first));
});
