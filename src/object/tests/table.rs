//! The table itself.

use cryptoki_sys::*;

use super::super::policy::Policy;
use super::super::rules::{self, Change, ROLES, RULES, Silent};
use super::super::{Kind, rule};
use super::one_of_each;
use crate::error::Error;

#[test]
fn no_attribute_of_an_object_has_two_rules() {
    let classes = [rules::DATA, rules::CERTIFICATE, rules::PUBLIC, rules::PRIVATE, rules::SECRET];
    let key_types = [None, Some(CKK_RSA), Some(CKK_EC), Some(CKK_GENERIC_SECRET), Some(CKK_AES)];
    for class in classes {
        for key_type in key_types {
            let mut ids: Vec<_> = rules::rules(class, key_type).map(|rule| rule.id).collect();
            ids.sort_unstable();
            for pair in ids.windows(2) {
                assert_ne!(pair[0], pair[1], "{:#x} in class {class}, {key_type:?}", pair[0]);
            }
        }
    }
}

#[test]
fn an_attribute_is_of_one_kind_and_name_in_all_classes() {
    for one in RULES {
        for other in RULES.iter().filter(|other| other.id == one.id) {
            assert_eq!(one.kind, other.kind, "{}", one.name);
            assert_eq!(one.name, other.name);
        }
    }
}

#[test]
fn every_rule_applies_to_something_and_demands_only_what_may_be_given() {
    for rule in RULES {
        assert_ne!(rule.of, 0, "{}", rule.name);
        assert_eq!(rule.needed & !rule.given, 0, "{} is needed but refused", rule.name);
        if rule.guarded {
            assert_eq!(rule.change, Change::Never, "{}: no value of a key ever changes", rule.name);
            assert_eq!(rule.silent, Silent::Absent, "{}", rule.name);
        }
        match rule.change {
            Change::OnlyToTrue | Change::OnlyToFalse | Change::Role | Change::InCopyOnlyToFalse => {
                assert_eq!(rule.kind, Kind::Bool, "{}", rule.name);
            }
            _ => {}
        }
    }
}

#[test]
fn every_role_is_an_attribute_that_its_class_has() {
    for roles in ROLES {
        for role in roles.usual.iter().chain(roles.able).chain(roles.unable) {
            let rule = rules::rule(roles.of, Some(roles.key_type), *role).expect("a rule");
            assert_eq!(rule.change, Change::Role, "{}", rule.name);
            assert_eq!(rule.silent, Silent::Ours, "{}", rule.name);
        }
    }
}

/// Whatever the template leaves out, the object has: each attribute of its class can be asked for.
#[test]
fn every_object_has_all_attributes_of_its_class_but_the_optional_and_the_guarded() {
    for (what, object) in one_of_each() {
        let class = rules::class(object.class()).expect("a class of ours");
        for rule in rules::rules(class, object.key_type()) {
            match rule::get(&object, rule.id, Policy::PREVENT) {
                Ok(value) => {
                    // (The derived secrets are readable.)
                    // (As is the check value of the AES key.)
                    let expected =
                        rule.silent != Silent::Absent || rule.guarded || rule.id == CKA_CHECK_VALUE;
                    assert!(expected, "{what}: {} from nowhere", rule.name);
                    let sound = match rule.kind {
                        Kind::Bool => matches!(*value, [0 | 1]),
                        Kind::Ulong => value.len() == 8,
                        Kind::Date => matches!(value.len(), 0 | 8),
                        _ => true,
                    };
                    assert!(sound, "{what}: {} is {value:?}", rule.name);
                }
                Err(Error::AttributeSensitive(_)) => {
                    assert!(rule.guarded, "{what}: {} is no secret", rule.name);
                }
                Err(Error::AttributeTypeInvalid(_)) => {
                    assert_eq!(rule.silent, Silent::Absent, "{what} lacks {}", rule.name);
                }
                Err(error) => panic!("{what}: {}: {error}", rule.name),
            }
        }
    }
}

#[test]
fn an_object_has_no_attribute_without_a_rule() {
    for (what, object) in one_of_each() {
        let class = rules::class(object.class()).expect("a class of ours");
        for (id, _) in object.attributes.iter() {
            assert!(rules::rule(class, object.key_type(), id).is_some(), "{what}: {id:#x}");
        }
    }
}

/// A sweep over all numbers of the specification's headers and of vendors: nothing of a private key or
/// of a sensitive secret comes out under any of them.
#[test]
fn no_attribute_number_reveals_a_private_byte() {
    let template = super::Template::new().with_bool(CKA_SENSITIVE, true);
    let sensitive = super::secret(&template).expect("a sensitive secret");
    let mut objects = one_of_each();
    objects.retain(|(_, object)| object.class() == CKO_PRIVATE_KEY);
    objects.push(("sensitive secret", sensitive));
    let numbers = (0..0x1000u64).chain(0x4000_0000..0x4000_1000).chain(0x8000_0000..0x8001_0000);
    for id in numbers.chain([u64::MAX]) {
        for (what, object) in &objects {
            let Ok(value) = rule::get(object, id, Policy::PREVENT) else { continue };
            for secret in [0x03, 0x04, 0x77] {
                assert!(!value.windows(8).any(|run| run == [secret; 8]), "{what}: {id:#x}");
            }
        }
    }
}

#[test]
fn the_names_of_attributes_are_known() {
    assert_eq!(rules::name(CKA_EXTRACTABLE), Some("CKA_EXTRACTABLE"));
    assert_eq!(rules::name(CKA_VENDOR_DEFINED), None);
    assert_eq!(rules::kind(CKA_VENDOR_DEFINED), Kind::Bytes);
    assert_eq!(rules::kind(CKA_ALLOWED_MECHANISMS), Kind::UlongArray);
}
