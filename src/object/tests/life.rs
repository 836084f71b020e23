//! What happens to objects after they are made: set, copy, destroy, search, size.

use cryptoki_sys::*;

use super::super::Template;
use super::super::policy::Guard;
use super::super::rule::{copy, destroy, get, set};
use super::super::search::Search;
use super::*;
use crate::error::Error;

fn flag(id: u64, value: bool) -> Template {
    Template::new().with_bool(id, value)
}

#[test]
fn labels_ids_and_subjects_change_singly_and_together_on_everything_that_has_them() {
    for (what, object) in one_of_each() {
        let attributes = &object.attributes;
        let has: Vec<u64> =
            [CKA_LABEL, CKA_ID, CKA_SUBJECT].into_iter().filter(|id| attributes.has(*id)).collect();
        let mut all = Template::new();
        for id in &has {
            let one = set(attributes, &Template::new().with(*id, "new"), &USER);
            assert_eq!(one.unwrap().get(*id), Some(b"new".as_slice()), "{what}: {id:#x}");
            all.push(*id, "new");
        }
        let changed = set(attributes, &all, &USER).unwrap();
        assert!(has.iter().all(|id| changed.get(*id) == Some(b"new".as_slice())), "{what}");
    }
}

#[test]
fn setting_what_is_there_already_succeeds_even_where_nothing_may_change() {
    for (what, object) in one_of_each() {
        let whole: Template =
            object.attributes.iter().map(|(id, value)| (id, value.to_vec())).collect();
        assert_eq!(
            set(&object.attributes, &whole, &USER).as_ref(),
            Ok(&*object.attributes),
            "{what}"
        );
        let frozen = copy(&object.attributes, &flag(CKA_MODIFIABLE, false), &USER).unwrap();
        assert!(set(&frozen, &Template::new().with(CKA_LABEL, []), &USER).is_ok(), "{what}");
    }
}

#[test]
fn the_unique_id_is_ours_alone() {
    for (what, object) in one_of_each() {
        assert_eq!(
            get(&object, CKA_UNIQUE_ID, Policy::PREVENT).unwrap().as_ref(),
            b"abababab-abab-abab-abab-abababababab",
            "{what}"
        );
        let same = Template::new().with(CKA_UNIQUE_ID, object.unique_id());
        for change in [set, copy] {
            assert_eq!(
                change(&object.attributes, &same, &USER),
                Err(Error::AttributeReadOnly(CKA_UNIQUE_ID)),
                "{what}"
            );
        }
    }
}

#[test]
fn values_of_keys_never_change() {
    let read_only = [
        (CKA_CLASS, vec![0; 8]),
        (CKA_KEY_TYPE, vec![0xFF; 8]),
        (CKA_MODULUS, modulus(1024)),
        (CKA_PUBLIC_EXPONENT, vec![3]),
        (CKA_EC_PARAMS, crate::crypto::ec::Curve::P384.params().to_vec()),
        (CKA_EC_POINT, vec![4; 65]),
        (CKA_LOCAL, vec![7]),
        (CKA_VALUE, vec![1]),
    ];
    for (what, object) in one_of_each() {
        if object.key_type().is_none() {
            continue;
        }
        let class = super::super::rules::class(object.class()).unwrap();
        for (id, value) in &read_only {
            if super::super::rules::rule(class, object.key_type(), *id).is_none() {
                continue;
            }
            let template = Template::new().with(*id, value.clone());
            for change in [set, copy] {
                let outcome = change(&object.attributes, &template, &USER);
                let refused = matches!(
                    outcome,
                    Err(Error::AttributeReadOnly(_) | Error::AttributeValueInvalid(..))
                );
                assert!(refused, "{what}: {id:#x}: {outcome:?}");
            }
        }
    }
}

#[test]
fn secrets_only_become_more_secret() {
    let open = secret(&flag(CKA_SIGN, true)).unwrap().attributes;
    let sensitive = set(&open, &flag(CKA_SENSITIVE, true), &USER).unwrap();
    assert!(sensitive.is(CKA_SENSITIVE) && !sensitive.is(CKA_ALWAYS_SENSITIVE));
    let stuck = set(&sensitive, &flag(CKA_EXTRACTABLE, false), &USER).unwrap();
    assert!(!stuck.is(CKA_EXTRACTABLE) && !stuck.is(CKA_NEVER_EXTRACTABLE));
    for change in [set, copy] {
        for (id, back) in [(CKA_SENSITIVE, false), (CKA_EXTRACTABLE, true)] {
            assert_eq!(change(&stuck, &flag(id, back), &USER), Err(Error::AttributeReadOnly(id)));
        }
        for id in [CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_LOCAL] {
            assert_eq!(change(&stuck, &flag(id, true), &USER), Err(Error::AttributeReadOnly(id)));
        }
        let trusted_only = set(&open, &flag(CKA_WRAP_WITH_TRUSTED, true), &USER).unwrap();
        assert_eq!(
            change(&trusted_only, &flag(CKA_WRAP_WITH_TRUSTED, false), &USER),
            Err(Error::AttributeReadOnly(CKA_WRAP_WITH_TRUSTED))
        );
    }
}

#[test]
fn a_secret_that_signs_and_derives_stays_readable() {
    let both = secret(&Template::new()).unwrap().attributes;
    assert!(both.is(CKA_SIGN) && both.is(CKA_DERIVE));
    for change in [set, copy] {
        for closed in [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)] {
            assert!(matches!(change(&both, &closed, &USER), Err(Error::TemplateInconsistent(_))));
        }
    }
}

#[test]
fn what_a_key_is_for_is_fixed_when_it_is_made() {
    let (public, private) =
        pair(RSA, &rsa_public(2048).with_bool(CKA_VERIFY, true), &flag(CKA_SIGN, true)).unwrap();
    let secret = secret(&flag(CKA_SIGN, true)).unwrap().attributes;
    for change in [set, copy] {
        for (key, role) in [
            (&private, CKA_DECRYPT),
            (&private, CKA_SIGN),
            (&public, CKA_ENCRYPT),
            (&public, CKA_VERIFY),
            (&secret, CKA_DERIVE),
            (&secret, CKA_VERIFY),
        ] {
            assert_eq!(
                change(key, &flag(role, !key.is(role)), &USER),
                Err(Error::AttributeReadOnly(role))
            );
        }
        // Asking for what the token cannot do changes nothing and is no error, as at creation.
        assert_eq!(change(&private, &flag(CKA_DECAPSULATE, true), &USER).unwrap(), private);
    }
}

#[test]
fn without_its_rule_a_key_wins_and_loses_roles_but_no_key_of_the_chip_learns_to_sign() {
    let free = Setting { policy: Policy::PREVENT.without(Guard::RolesAreFixed), ..USER };
    let (public, private) =
        pair(RSA, &rsa_public(2048).with_bool(CKA_VERIFY, true), &flag(CKA_SIGN, true)).unwrap();
    let (_, ec) = pair(EC, &ec_public(), &flag(CKA_DERIVE, true)).unwrap();
    for change in [set, copy] {
        assert!(change(&private, &flag(CKA_DECRYPT, true), &free).unwrap().is(CKA_DECRYPT));
        assert!(!change(&private, &flag(CKA_SIGN, false), &free).unwrap().is(CKA_SIGN));
        assert!(change(&public, &flag(CKA_ENCRYPT, true), &free).unwrap().is(CKA_ENCRYPT));
        assert_eq!(
            change(&ec, &flag(CKA_SIGN, true), &free),
            Err(Error::AttributeReadOnly(CKA_SIGN))
        );
    }
}

#[test]
fn a_copy_permits_no_more_than_its_original() {
    let (_, private) = plain_ec();
    let frozen = copy(&private, &flag(CKA_MODIFIABLE, false), &USER).unwrap();
    let label = Template::new().with(CKA_LABEL, "x");
    assert!(matches!(set(&frozen, &label, &USER), Err(Error::ActionProhibited(_))));
    assert_eq!(
        set(&frozen, &flag(CKA_MODIFIABLE, true), &USER),
        Err(Error::AttributeReadOnly(CKA_MODIFIABLE))
    );
    assert!(matches!(
        copy(&frozen, &flag(CKA_MODIFIABLE, true), &USER),
        Err(Error::TemplateInconsistent(_))
    ));
    assert!(matches!(
        copy(&private, &flag(CKA_PRIVATE, false), &USER),
        Err(Error::TemplateInconsistent(_))
    ));
    let last = set(&private, &flag(CKA_COPYABLE, false), &USER).unwrap();
    assert!(matches!(copy(&last, &Template::new(), &USER), Err(Error::ActionProhibited(_))));
    assert_eq!(
        set(&last, &flag(CKA_COPYABLE, true), &USER),
        Err(Error::AttributeReadOnly(CKA_COPYABLE))
    );
}

#[test]
fn an_object_that_may_not_be_destroyed_says_so_and_stays_so() {
    let kept = create(&data().with_bool(CKA_DESTROYABLE, false), &USER).unwrap();
    assert!(matches!(destroy(&kept), Err(Error::ActionProhibited(_))));
    assert_eq!(
        set(&kept, &flag(CKA_DESTROYABLE, true), &USER),
        Err(Error::AttributeReadOnly(CKA_DESTROYABLE))
    );
    assert_eq!(destroy(&create(&data(), &USER).unwrap()), Ok(()));
}

#[test]
fn a_private_object_needs_a_login_also_as_a_copy() {
    let hidden = data().with_bool(CKA_PRIVATE, true);
    assert_eq!(create(&hidden, &NOBODY), Err(Error::NotLoggedIn));
    let hidden = create(&hidden, &USER).unwrap();
    assert_eq!(copy(&hidden, &Template::new(), &SO), Err(Error::NotLoggedIn));
    let open = create(&data(), &NOBODY).unwrap();
    assert!(copy(&open, &flag(CKA_PRIVATE, true), &USER).unwrap().is(CKA_PRIVATE));
    assert_eq!(copy(&open, &flag(CKA_PRIVATE, true), &NOBODY), Err(Error::NotLoggedIn));
}

#[test]
fn the_value_of_a_data_object_can_be_rewritten() {
    let old = create(&data().with(CKA_VALUE, "old"), &USER).unwrap();
    let new = set(&old, &Template::new().with(CKA_VALUE, "new"), &USER).unwrap();
    assert_eq!(new.get(CKA_VALUE), Some(b"new".as_slice()));
}

#[test]
fn a_certificate_keeps_its_value_and_its_type() {
    let certificate = create(&certificate(), &USER).unwrap();
    for (id, value) in
        [(CKA_VALUE, vec![0x30, 0x00]), (CKA_CERTIFICATE_CATEGORY, vec![0, 0, 0, 0, 0, 0, 0, 1])]
    {
        let template = Template::new().with(id, value);
        assert_eq!(set(&certificate, &template, &USER), Err(Error::AttributeReadOnly(id)));
    }
}

#[test]
fn a_public_key_info_of_another_key_is_an_invalid_value() {
    let (_, private) = plain_ec();
    let other = plain_rsa().1.get(CKA_PUBLIC_KEY_INFO).unwrap().to_vec();
    assert!(matches!(
        set(&private, &Template::new().with(CKA_PUBLIC_KEY_INFO, other), &USER),
        Err(Error::AttributeValueInvalid(CKA_PUBLIC_KEY_INFO, _))
    ));
}

#[test]
fn a_key_allows_what_its_list_says() {
    let list = [CKM_ECDSA, CKM_ECDSA_SHA256].iter().flat_map(|id| id.to_be_bytes());
    let template = Template::new().with(CKA_ALLOWED_MECHANISMS, list.collect::<Vec<u8>>());
    let (_, private) = pair(EC, &ec_public(), &template).unwrap();
    let key = object(private, Material::None);
    assert!(key.allows(CKM_ECDSA) && key.allows(CKM_ECDSA_SHA256) && !key.allows(CKM_ECDSA_SHA384));
    assert!(object(plain_ec().1, Material::None).allows(CKM_ECDSA_SHA384));
    let wider = Template::new().with(CKA_ALLOWED_MECHANISMS, []);
    let (_, silent) = pair(EC, &ec_public(), &wider).unwrap();
    let silent = object(silent, Material::None);
    assert!(silent.allows(CKM_ECDSA_SHA384), "an empty list is no limit");
    for change in [set, copy] {
        assert_eq!(
            change(&key.attributes, &wider, &USER),
            Err(Error::AttributeReadOnly(CKA_ALLOWED_MECHANISMS))
        );
    }
}

// ---- reading -------------------------------------------------------------------------------------

#[test]
fn private_parts_are_sensitive_and_foreign_parts_unknown() {
    for (what, object) in one_of_each() {
        let parts: &[u64] = match (object.class(), object.key_type()) {
            (CKO_PRIVATE_KEY, Some(CKK_RSA)) => &[
                CKA_PRIVATE_EXPONENT,
                CKA_PRIME_1,
                CKA_PRIME_2,
                CKA_EXPONENT_1,
                CKA_EXPONENT_2,
                CKA_COEFFICIENT,
            ],
            (CKO_PRIVATE_KEY, Some(CKK_EC)) => &[CKA_VALUE],
            _ => &[],
        };
        for id in parts {
            assert_eq!(
                get(&object, *id, Policy::PREVENT),
                Err(Error::AttributeSensitive(*id)),
                "{what}"
            );
        }
        for id in [CKA_PRIME, CKA_VENDOR_DEFINED, 0xFFFF_FFFF] {
            assert_eq!(
                get(&object, id, Policy::PREVENT),
                Err(Error::AttributeTypeInvalid(id)),
                "{what}"
            );
        }
    }
    let public = object(plain_ec().0, Material::None);
    assert_eq!(
        get(&public, CKA_ALWAYS_AUTHENTICATE, Policy::PREVENT),
        Err(Error::AttributeTypeInvalid(CKA_ALWAYS_AUTHENTICATE))
    );
}

#[test]
fn the_size_of_a_key_does_not_depend_on_its_value() {
    let size = |byte: u8| {
        let template = Template::new()
            .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
            .with_ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET)
            .with(CKA_VALUE, [byte; 32]);
        created(&template, &USER).unwrap().size()
    };
    assert_eq!(size(0), size(0xFF));
    assert!(size(0) > 32);
}

// ---- searching -----------------------------------------------------------------------------------

#[test]
fn every_attribute_that_can_be_read_can_be_searched_for() {
    let objects = one_of_each();
    for (what, object) in &objects {
        for (id, value) in object.attributes.iter() {
            let search = Search::new(&Template::new().with(id, value));
            assert!(search.matches(object), "{what}: {id:#x}");
            let other = Search::new(&Template::new().with(id, [value, &[0xEE]].concat()));
            assert!(!other.matches(object), "{what}: {id:#x}");
        }
        assert!(Search::new(&Template::new()).matches(object), "{what}");
        let unique = Template::new().with(CKA_UNIQUE_ID, object.unique_id());
        assert!(Search::new(&unique).matches(object), "{what}");
    }
}

#[test]
fn what_is_unknown_matches_nothing_and_is_no_error() {
    let objects = one_of_each();
    for template in [
        Template::new().with_ulong(CKA_CLASS, CKO_VENDOR_DEFINED | 0x4E53_4350),
        Template::new().with_ulong(CKA_CLASS, CKO_PROFILE),
        Template::new().with(CKA_VENDOR_DEFINED | 0x4E53_4350, [1]),
        Template::new().with(CKA_PROFILE_ID, [0; 8]),
        Template::new().with(CKA_TOKEN, [1, 1]),
        Template::new().with(CKA_CLASS, []),
    ] {
        assert!(!objects.iter().any(|(_, object)| Search::new(&template).matches(object)));
    }
}

#[test]
fn guarded_values_never_match() {
    let sensitive = secret(&flag(CKA_SENSITIVE, true)).unwrap();
    for value in [vec![0x77; 32], vec![0x77], vec![]] {
        let template = Template::new().with_ulong(CKA_CLASS, CKO_SECRET_KEY).with(CKA_VALUE, value);
        assert!(!Search::new(&template).matches(&sensitive));
    }
    for id in [CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_COEFFICIENT] {
        assert!(Search::new(&Template::new().with(id, [1])).empty);
    }
}

#[test]
fn a_point_is_found_in_every_form() {
    let (public, _) = plain_ec();
    let key = object(public, Material::None);
    let compressed = [&[0x03], X.as_slice()].concat();
    for form in [point(), wrapped_point(), compressed] {
        assert!(Search::new(&Template::new().with(CKA_EC_POINT, form)).matches(&key));
    }
    let (public, _) = plain_rsa();
    let key = object(public, Material::None);
    let modulus = [&[0], modulus(2048).as_slice()].concat();
    assert!(Search::new(&Template::new().with(CKA_MODULUS, modulus)).matches(&key));
}

#[test]
fn a_debug_line_shows_no_value() {
    let key = secret(&Template::new().with(CKA_LABEL, "payroll")).unwrap();
    let line = format!("{key:?} {:?}", Template::new().with(CKA_VALUE, "payroll"));
    assert!(!line.contains("payroll") && !line.contains("119") && !line.contains("0x77"), "{line}");
}
