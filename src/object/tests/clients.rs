//! The templates that clients really send.

use cryptoki_sys::*;

use super::super::rule::{copy, set};
use super::super::{Attributes, Template};
use super::*;
use crate::error::Error;

/// Which of these are TRUE.
fn true_of(attributes: &Attributes, ids: &[u64]) -> Vec<u64> {
    ids.iter().copied().filter(|id| attributes.is(*id)).collect()
}

const PUBLIC_ROLES: &[u64] =
    &[CKA_VERIFY, CKA_ENCRYPT, CKA_VERIFY_RECOVER, CKA_WRAP, CKA_DERIVE, CKA_ENCAPSULATE];
const PRIVATE_ROLES: &[u64] =
    &[CKA_SIGN, CKA_DECRYPT, CKA_SIGN_RECOVER, CKA_UNWRAP, CKA_DERIVE, CKA_DECAPSULATE];

fn all(template: Template, ids: &[u64], value: bool) -> Template {
    ids.iter().fold(template, |template, id| template.with_bool(*id, value))
}

#[test]
fn whole_templates_may_be_absent() {
    let (public, private) = plain_rsa();
    assert_eq!(true_of(&public, PUBLIC_ROLES), [CKA_VERIFY, CKA_ENCRYPT]);
    assert_eq!(true_of(&private, PRIVATE_ROLES), [CKA_SIGN, CKA_DECRYPT]);
    let (public, private) = plain_ec();
    assert_eq!(true_of(&public, PUBLIC_ROLES), [CKA_VERIFY, CKA_DERIVE]);
    assert_eq!(true_of(&private, PRIVATE_ROLES), [CKA_SIGN, CKA_DERIVE]);
    assert!(private.is(CKA_PRIVATE) && private.is(CKA_SENSITIVE) && !private.is(CKA_EXTRACTABLE));
    assert!(!public.is(CKA_PRIVATE) && !public.is(CKA_TOKEN));
}

#[test]
fn both_halves_say_which_key_they_are() {
    for (public, private) in [plain_ec(), plain_rsa()] {
        for id in [CKA_ID, CKA_PUBLIC_KEY_INFO, CKA_EC_POINT, CKA_EC_PARAMS, CKA_MODULUS] {
            assert_eq!(public.get(id), private.get(id), "{id:#x}");
        }
        assert_eq!(public.get(CKA_ID).map(<[u8]>::len), Some(20));
        for half in [&public, &private] {
            assert!(half.is(CKA_LOCAL));
        }
        assert!(private.is(CKA_ALWAYS_SENSITIVE) && private.is(CKA_NEVER_EXTRACTABLE));
    }
    assert_eq!(plain_rsa().0.ulong(CKA_MODULUS_BITS), Some(2048));
    assert_eq!(plain_rsa().1.get(CKA_PUBLIC_EXPONENT), Some([1, 0, 1].as_slice()));
    assert_eq!(plain_ec().1.get(CKA_EC_POINT), Some(wrapped_point().as_slice()));
    assert_eq!(plain_ec().0.ulong(CKA_KEY_GEN_MECHANISM), Some(CKM_EC_KEY_PAIR_GEN));
}

#[test]
fn an_id_given_for_one_half_is_that_of_the_other() {
    let private = Template::new().with(CKA_ID, [7]);
    let (public, private) = pair(EC, &ec_public(), &private).unwrap();
    assert_eq!(public.get(CKA_ID), Some([7].as_slice()));
    assert_eq!(private.get(CKA_ID), Some([7].as_slice()));
}

#[test]
fn an_empty_id_and_label_are_values() {
    let named = |template: Template| template.with(CKA_ID, []).with(CKA_LABEL, []);
    let (public, private) = pair(EC, &named(ec_public()), &named(Template::new())).unwrap();
    for half in [public, private] {
        assert_eq!(half.get(CKA_ID), Some([].as_slice()));
        assert_eq!(half.get(CKA_LABEL), Some([].as_slice()));
    }
}

/// `pkcs11-tool --keypairgen --key-type EC:prime256v1 --id 01 --label ssh`, 0.20 to 0.26.
#[test]
fn pkcs11_tool_makes_an_ec_pair() {
    let public = Template::new()
        .with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)
        .with_bool(CKA_TOKEN, true)
        .with(CKA_EC_PARAMS, P256)
        .with_ulong(CKA_KEY_TYPE, CKK_EC)
        .with_bool(CKA_VERIFY, true)
        .with_bool(CKA_DERIVE, true)
        .with(CKA_LABEL, "ssh")
        .with(CKA_ID, [1]);
    let private = Template::new()
        .with_ulong(CKA_CLASS, CKO_PRIVATE_KEY)
        .with_bool(CKA_TOKEN, true)
        .with_bool(CKA_PRIVATE, true)
        .with_bool(CKA_SENSITIVE, true)
        .with_ulong(CKA_KEY_TYPE, CKK_EC)
        .with_bool(CKA_SIGN, true)
        .with_bool(CKA_DERIVE, true)
        .with(CKA_LABEL, "ssh")
        .with(CKA_ID, [1]);
    let (public, private) = pair(EC, &public, &private).unwrap();
    assert_eq!(true_of(&public, PUBLIC_ROLES), [CKA_VERIFY, CKA_DERIVE]);
    assert_eq!(true_of(&private, PRIVATE_ROLES), [CKA_SIGN, CKA_DERIVE]);
    assert!(public.is(CKA_TOKEN) && private.is(CKA_TOKEN));
    assert_eq!(private.get(CKA_LABEL), Some(b"ssh".as_slice()));
}

/// `pkcs11-tool --keypairgen --key-type rsa:2048 --usage-sign --usage-decrypt --usage-wrap`.
#[test]
fn pkcs11_tool_makes_an_rsa_pair() {
    let public = Template::new()
        .with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)
        .with_bool(CKA_TOKEN, true)
        .with_ulong(CKA_MODULUS_BITS, 2048)
        .with(CKA_PUBLIC_EXPONENT, [1, 0, 1]);
    let public = all(public, &[CKA_VERIFY, CKA_ENCRYPT, CKA_WRAP], true);
    let private = Template::new()
        .with_ulong(CKA_CLASS, CKO_PRIVATE_KEY)
        .with_bool(CKA_TOKEN, true)
        .with_bool(CKA_PRIVATE, true)
        .with_bool(CKA_SENSITIVE, true);
    let private = all(private, &[CKA_SIGN, CKA_DECRYPT, CKA_UNWRAP], true);
    let (public, private) = pair(RSA, &public, &private).unwrap();
    assert_eq!(true_of(&public, PUBLIC_ROLES), [CKA_VERIFY, CKA_ENCRYPT]);
    assert_eq!(true_of(&private, PRIVATE_ROLES), [CKA_SIGN, CKA_DECRYPT]);
}

/// `p11tool --generate-rsa` and `--generate-ecc` of GnuTLS 3.7, as recorded.
#[test]
fn p11tool_makes_pairs() {
    let common = |template: Template, private| {
        template
            .with_bool(CKA_TOKEN, true)
            .with_bool(CKA_PRIVATE, private)
            .with(CKA_ID, [9; 20])
            .with(CKA_LABEL, "x")
    };
    let public = common(rsa_public(2048).with(CKA_PUBLIC_EXPONENT, [1, 0, 1]), false);
    let public = all(public, &[CKA_ENCRYPT, CKA_VERIFY], true);
    let private = common(Template::new().with_bool(CKA_SENSITIVE, true), true);
    let private = all(private, &[CKA_DECRYPT, CKA_SIGN], true);
    let (public, private) = pair(RSA, &public, &private).unwrap();
    assert_eq!(public.get(CKA_ID), Some([9; 20].as_slice()));
    assert_eq!(true_of(&private, PRIVATE_ROLES), [CKA_SIGN, CKA_DECRYPT]);

    let public = common(ec_public().with_bool(CKA_VERIFY, true), false);
    let private = common(all(Template::new(), &[CKA_SIGN, CKA_SENSITIVE], true), true);
    let (public, private) = pair(EC, &public, &private).unwrap();
    assert_eq!(true_of(&public, PUBLIC_ROLES), [CKA_VERIFY]);
    assert_eq!(true_of(&private, PRIVATE_ROLES), [CKA_SIGN]);
}

/// `certutil -R -h token`: NSS asks for every role there is and names them all, then sets the ID.
#[test]
fn certutil_makes_a_pair_and_names_it_afterwards() {
    let public = rsa_public(2048).with(CKA_PUBLIC_EXPONENT, [1, 0, 1]).with_bool(CKA_TOKEN, true);
    let public = all(public, &[CKA_DERIVE], false);
    let public = all(public, &[CKA_WRAP, CKA_VERIFY, CKA_VERIFY_RECOVER, CKA_ENCRYPT], true);
    let private = all(Template::new(), &[CKA_SENSITIVE, CKA_TOKEN, CKA_PRIVATE], true)
        .with_bool(CKA_DERIVE, false);
    let private = all(private, &[CKA_UNWRAP, CKA_SIGN, CKA_SIGN_RECOVER, CKA_DECRYPT], true);
    let (public, private) = pair(RSA, &public, &private).unwrap();
    assert_eq!(true_of(&private, &[CKA_SIGN, CKA_DECRYPT, CKA_UNWRAP]), [CKA_SIGN, CKA_DECRYPT]);

    let id = Template::new().with(CKA_ID, [5; 20]);
    let label = Template::new().with(CKA_LABEL, "server").with(CKA_SUBJECT, [0x30, 0x00]);
    for half in [public, private] {
        let named = set(&set(&half, &id, &USER).unwrap(), &label, &USER).unwrap();
        assert_eq!(named.get(CKA_ID), Some([5; 20].as_slice()));
        assert_eq!(named.get(CKA_SUBJECT), Some([0x30, 0x00].as_slice()));
    }
}

/// `keytool -genkeypair` of JDK 17, as recorded: the generator sends what the curve needs and nothing for
/// the private half; the key store copies the session key to the token under its alias.
#[test]
fn keytool_makes_a_session_pair_and_copies_it_to_the_token() {
    let (_, private) = pair(EC, &ec_public(), &Template::new()).unwrap();
    assert!(!private.is(CKA_TOKEN));

    let stored =
        copy(&private, &Template::new().with_bool(CKA_TOKEN, true).with(CKA_ID, "alias"), &USER)
            .unwrap();
    assert!(stored.is(CKA_TOKEN));
    assert_eq!(stored.get(CKA_ID), Some(b"alias".as_slice()));
    assert!(stored.is(CKA_ALWAYS_SENSITIVE) && stored.is(CKA_LOCAL));

    let back = copy(&stored, &Template::new().with_bool(CKA_TOKEN, false), &USER).unwrap();
    assert_eq!(
        back,
        set(&private, &Template::new().with(CKA_ID, "alias"), &USER).unwrap(),
        "there and back is the same key"
    );
    assert_eq!(copy(&stored, &Template::new(), &USER).unwrap(), stored, "NULL template, count 0");
}

/// Java's `attributes = compatibility`: a private key that could be read is refused aloud.
#[test]
fn a_readable_private_key_is_refused() {
    let open = Template::new().with_bool(CKA_SENSITIVE, false).with_bool(CKA_EXTRACTABLE, true);
    for (kind, public) in [(EC, ec_public()), (RSA, rsa_public(2048))] {
        let refused = pair(kind, &public, &open);
        assert!(matches!(refused, Err(Error::TemplateInconsistent(_))), "{refused:?}");
    }
}

#[test]
fn a_private_key_asked_to_be_open_or_public_is_sensitive_and_private() {
    let open = Template::new().with_bool(CKA_SENSITIVE, false).with_bool(CKA_PRIVATE, false);
    let (_, private) = pair(EC, &ec_public(), &open).unwrap();
    assert!(
        private.is(CKA_SENSITIVE) && private.is(CKA_ALWAYS_SENSITIVE) && private.is(CKA_PRIVATE)
    );
}

#[test]
fn an_extractable_private_key_is_not_fixed_in_the_chip() {
    let private = Template::new().with_bool(CKA_EXTRACTABLE, true);
    let plan = Pair::plan(EC.0, EC.1, &ec_public(), &private, &USER, None).unwrap();
    assert!(plan.spec.extractable);
    let (_, private) = plan.finish(&made_ec()).unwrap();
    assert!(private.is(CKA_EXTRACTABLE) && private.is(CKA_SENSITIVE));
    assert!(!private.is(CKA_NEVER_EXTRACTABLE));
}

/// python-pkcs11 names every capability that it knows for the key type and stores nothing else.
#[test]
fn python_pkcs11_makes_pairs() {
    let common = |template: Template, class| {
        template.with_ulong(CKA_CLASS, class).with(CKA_ID, []).with(CKA_LABEL, "py")
    };
    let public = common(rsa_public(2048), CKO_PUBLIC_KEY).with_bool(CKA_TOKEN, false);
    let public = all(public, &[CKA_ENCRYPT, CKA_WRAP, CKA_VERIFY], true);
    let private = common(Template::new(), CKO_PRIVATE_KEY)
        .with_bool(CKA_TOKEN, false)
        .with_bool(CKA_PRIVATE, true)
        .with_bool(CKA_SENSITIVE, true);
    let private = all(private, &[CKA_DECRYPT, CKA_UNWRAP, CKA_SIGN], true);
    let (_, key) = pair(RSA, &public, &private).unwrap();
    assert_eq!(true_of(&key, PRIVATE_ROLES), [CKA_SIGN, CKA_DECRYPT]);

    let public = all(common(ec_public(), CKO_PUBLIC_KEY), &[CKA_VERIFY, CKA_DERIVE], true);
    let private = all(common(Template::new(), CKO_PRIVATE_KEY), &[CKA_SIGN, CKA_DERIVE], true);
    let (_, key) = pair(EC, &public, &private).unwrap();
    assert_eq!(true_of(&key, PRIVATE_ROLES), [CKA_SIGN, CKA_DERIVE]);
}

/// pkcs11-provider's `openssl genpkey`: digital signature and key agreement said apart.
#[test]
fn pkcs11_provider_makes_pairs_with_a_key_usage() {
    let public = ec_public().with_bool(CKA_TOKEN, true).with_bool(CKA_VERIFY, true);
    let private = all(Template::new(), &[CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE, CKA_SIGN], true)
        .with_bool(CKA_EXTRACTABLE, false)
        .with_bool(CKA_ALWAYS_AUTHENTICATE, false);
    let plan = Pair::plan(EC.0, EC.1, &public, &private, &USER, None).unwrap();
    assert_eq!(true_of(&plan.private, PRIVATE_ROLES), [CKA_SIGN], "who chose, chose");
    assert_eq!(
        plan.spec.usage,
        crate::tpm::KeyUse::Ec { curve: crate::crypto::ec::Curve::P256, sign: true, derive: false }
    );
}

#[test]
fn roles_that_the_key_type_never_has_say_nothing_about_the_others() {
    let private = all(Template::new(), &[CKA_DECRYPT, CKA_UNWRAP], true);
    let (_, private) = pair(EC, &ec_public(), &private).unwrap();
    assert_eq!(true_of(&private, PRIVATE_ROLES), [CKA_SIGN, CKA_DERIVE]);
    let private = Template::new().with_bool(CKA_DERIVE, true);
    let (_, private) = pair(RSA, &rsa_public(2048), &private).unwrap();
    assert_eq!(true_of(&private, PRIVATE_ROLES), [CKA_SIGN, CKA_DECRYPT]);
}

#[test]
fn a_role_named_false_alone_takes_only_itself_away() {
    let private = Template::new().with_bool(CKA_DERIVE, false);
    let (_, private) = pair(EC, &ec_public(), &private).unwrap();
    assert_eq!(true_of(&private, PRIVATE_ROLES), [CKA_SIGN]);
}

#[test]
fn recovery_is_given_when_asked() {
    let public = rsa_public(2048).with_bool(CKA_VERIFY_RECOVER, true);
    let private = Template::new().with_bool(CKA_SIGN_RECOVER, true);
    let (public, private) = pair(RSA, &public, &private).unwrap();
    assert_eq!(true_of(&public, PUBLIC_ROLES), [CKA_VERIFY_RECOVER]);
    assert_eq!(true_of(&private, PRIVATE_ROLES), [CKA_SIGN_RECOVER]);
}

#[test]
fn what_the_mechanism_says_may_be_repeated_and_not_contradicted() {
    let wrong = ec_public().with_ulong(CKA_KEY_TYPE, CKK_RSA);
    assert!(matches!(pair(EC, &wrong, &Template::new()), Err(Error::TemplateInconsistent(_))));
    let wrong = Template::new().with_ulong(CKA_CLASS, CKO_PUBLIC_KEY);
    assert!(matches!(pair(EC, &ec_public(), &wrong), Err(Error::TemplateInconsistent(_))));
    let same_curve = Template::new().with(CKA_EC_PARAMS, P256);
    assert!(pair(EC, &ec_public(), &same_curve).is_ok());
}

#[test]
fn a_pair_needs_its_curve_or_its_size() {
    let nothing = Template::new();
    assert_eq!(pair(EC, &nothing, &nothing), Err(Error::TemplateIncomplete(CKA_EC_PARAMS)));
    assert_eq!(pair(RSA, &nothing, &nothing), Err(Error::TemplateIncomplete(CKA_MODULUS_BITS)));
}

#[test]
fn curves_and_sizes_that_no_tpm_has_are_refused_with_their_own_codes() {
    let pair = |kind, public| pair(kind, &public, &Template::new()).map(|_| ());
    let secp256k1 = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
    let params = |bytes: &[u8]| Template::new().with(CKA_EC_PARAMS, bytes);
    assert_eq!(pair(EC, params(&secp256k1)), Err(Error::CurveNotSupported));
    assert_eq!(pair(EC, params(&[0x05, 0x00])), Err(Error::DomainParamsInvalid));
    assert_eq!(pair(EC, params(&[])), Err(Error::DomainParamsInvalid));
    for bits in [0, 512, 1023, 2047, 8192, u64::MAX] {
        assert!(matches!(pair(RSA, rsa_public(bits)), Err(Error::KeySizeRange(_))), "{bits}");
    }
    for exponent in [[3].as_slice(), &[1, 0, 0], &[], &[1, 0, 0, 0, 0, 0, 0, 0, 1]] {
        let public = rsa_public(2048).with(CKA_PUBLIC_EXPONENT, exponent);
        assert!(matches!(pair(RSA, public), Err(Error::TemplateInconsistent(_))), "{exponent:?}");
    }
}

#[test]
fn a_curve_may_be_named_and_a_number_may_have_leading_zeros() {
    let name = Template::new().with(CKA_EC_PARAMS, b"\x13\x09secp256r1".as_slice());
    let (public, _) = pair(EC, &name, &Template::new()).unwrap();
    assert_eq!(public.get(CKA_EC_PARAMS), Some(P256));
    let exponent = rsa_public(2048).with(CKA_PUBLIC_EXPONENT, [0, 1, 0, 1]);
    let (public, _) = pair(RSA, &exponent, &Template::new()).unwrap();
    assert_eq!(public.get(CKA_PUBLIC_EXPONENT), Some([1, 0, 1].as_slice()));
}

#[test]
fn a_key_for_each_use_needs_a_pin_that_the_chip_can_ask_for() {
    let private = Template::new().with_bool(CKA_ALWAYS_AUTHENTICATE, true);
    let plan = |pin| Pair::plan(EC.0, EC.1, &ec_public(), &private, &USER, pin);
    assert!(matches!(plan(None), Err(Error::TemplateInconsistent(_))));
    let name = vec![0x0B; 34];
    assert_eq!(plan(Some(&name)).unwrap().spec.always_authenticate, Some(name));
}

#[test]
fn private_keys_need_a_login() {
    let nothing = Template::new();
    for setting in [NOBODY, SO] {
        let plan = Pair::plan(EC.0, EC.1, &ec_public(), &nothing, &setting, None);
        assert_eq!(plan.err(), Some(Error::NotLoggedIn));
    }
}

#[test]
fn a_key_that_the_tpm_was_not_asked_for_is_not_taken() {
    let nothing = Template::new();
    let plan = || Pair::plan(EC.0, EC.1, &ec_public(), &nothing, &USER, None).unwrap();
    assert!(matches!(plan().finish(&made_rsa(2048)), Err(Error::Device(_))));
    assert!(matches!(plan().finish(&made(vec![])), Err(Error::Device(_))));
    let mut off_the_curve = made_ec();
    *off_the_curve.public.last_mut().unwrap() ^= 1;
    assert!(matches!(plan().finish(&off_the_curve), Err(Error::Device(_))));
    let plan = Pair::plan(RSA.0, RSA.1, &rsa_public(2048), &nothing, &USER, None).unwrap();
    assert!(matches!(plan.finish(&made_rsa(1024)), Err(Error::Device(_))));
}

// ---- C_CreateObject ------------------------------------------------------------------------------

/// The samples of §5.7.1.
#[test]
fn the_samples_of_the_specification_are_accepted() {
    let data = data()
        .with_bool(CKA_TOKEN, true)
        .with(CKA_APPLICATION, "My Application")
        .with(CKA_VALUE, "Sample data");
    assert_eq!(create(&data, &NOBODY).unwrap().get(CKA_VALUE), Some(b"Sample data".as_slice()));
    let certificate = Template::new()
        .with_ulong(CKA_CLASS, CKO_CERTIFICATE)
        .with_bool(CKA_TOKEN, true)
        .with(CKA_SUBJECT, [0x30, 0x00])
        .with(CKA_ID, [123])
        .with(CKA_VALUE, certificates::RSA_CRITICAL);
    let certificate = create(&certificate, &NOBODY).unwrap();
    assert_eq!(certificate.get(CKA_ID), Some([123].as_slice()));
    assert_eq!(certificate.get(CKA_SUBJECT), Some([0x30, 0x00].as_slice()), "as the caller says");
    let key = create(&rsa_public_key().with_bool(CKA_WRAP, true), &NOBODY).unwrap();
    assert!(key.is(CKA_WRAP));
}

#[test]
fn a_point_is_kept_in_one_form_whatever_the_caller_sends() {
    let compressed = [&[0x03], X.as_slice()].concat();
    for form in [point(), wrapped_point(), compressed] {
        let template = Template::new()
            .with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)
            .with_ulong(CKA_KEY_TYPE, CKK_EC)
            .with(CKA_EC_PARAMS, P256)
            .with(CKA_EC_POINT, form);
        let key = create(&template, &NOBODY).unwrap();
        assert_eq!(key.get(CKA_EC_POINT), Some(wrapped_point().as_slice()));
        assert!(!key.is(CKA_LOCAL));
        assert_eq!(key.ulong(CKA_KEY_GEN_MECHANISM), Some(CK_UNAVAILABLE_INFORMATION));
    }
}

#[test]
fn public_keys_that_are_none_are_refused() {
    let mut off = wrapped_point();
    *off.last_mut().unwrap() ^= 1;
    for bad in [off, vec![], vec![0x04; 65], vec![0x00]] {
        let template = Template::new()
            .with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)
            .with_ulong(CKA_KEY_TYPE, CKK_EC)
            .with(CKA_EC_PARAMS, P256)
            .with(CKA_EC_POINT, bad);
        assert!(matches!(
            create(&template, &NOBODY),
            Err(Error::AttributeValueInvalid(CKA_EC_POINT, _))
        ));
    }
    let even = [&[0xC1; 255], [0xC2].as_slice()].concat();
    for (n, e) in [
        (even, vec![1, 0, 1]),
        (vec![], vec![1, 0, 1]),
        (modulus(2048), vec![1, 0, 0]),
        (modulus(2048), vec![1]),
        (modulus(2048), vec![]),
        (vec![0xFF], vec![3]),
    ] {
        let template = Template::new()
            .with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)
            .with_ulong(CKA_KEY_TYPE, CKK_RSA)
            .with(CKA_MODULUS, n)
            .with(CKA_PUBLIC_EXPONENT, e);
        assert!(matches!(create(&template, &NOBODY), Err(Error::AttributeValueInvalid(..))));
    }
}

#[test]
fn a_public_key_info_must_be_that_of_the_key() {
    let info =
        create(&ec_public_key(), &NOBODY).unwrap().get(CKA_PUBLIC_KEY_INFO).unwrap().to_vec();
    let with = |info: &[u8]| create(&ec_public_key().with(CKA_PUBLIC_KEY_INFO, info), &NOBODY);
    assert!(with(&info).is_ok());
    assert!(with(&[]).is_ok(), "it may be empty");
    assert!(matches!(with(&info[1..]), Err(Error::AttributeValueInvalid(CKA_PUBLIC_KEY_INFO, _))));
}

#[test]
fn classes_that_the_token_does_not_store_are_invalid_values() {
    for class in [CKO_HW_FEATURE, CKO_DOMAIN_PARAMETERS, CKO_PROFILE, CKO_VENDOR_DEFINED, u64::MAX]
    {
        let template = Template::new().with_ulong(CKA_CLASS, class);
        assert!(matches!(
            create(&template, &USER),
            Err(Error::AttributeValueInvalid(CKA_CLASS, _))
        ));
    }
    assert_eq!(create(&Template::new(), &USER), Err(Error::TemplateIncomplete(CKA_CLASS)));
}

#[test]
fn each_fault_of_a_template_has_its_code() {
    let vendor = CKA_VENDOR_DEFINED | 1;
    let create = |template: Template| create(&template, &USER).map(|_| ());
    assert_eq!(create(data().with(vendor, [1])), Err(Error::AttributeTypeInvalid(vendor)));
    assert!(matches!(
        create(data().with_bool(CKA_SIGN, true)),
        Err(Error::TemplateInconsistent(_))
    ));
    assert!(matches!(
        create(data().with(CKA_LABEL, "a").with(CKA_LABEL, "b")),
        Err(Error::TemplateInconsistent(_))
    ));
    assert_eq!(create(data().with(CKA_LABEL, "a").with(CKA_LABEL, "a")), Ok(()));
    for bad in [vec![], vec![2], vec![0, 0]] {
        assert!(matches!(
            create(data().with(CKA_TOKEN, bad)),
            Err(Error::AttributeValueInvalid(CKA_TOKEN, _))
        ));
    }
    for read_only in [CKA_LOCAL, CKA_KEY_GEN_MECHANISM, CKA_MODULUS_BITS] {
        let value = if read_only == CKA_LOCAL { vec![1] } else { vec![0; 8] };
        assert_eq!(
            create(rsa_public_key().with(read_only, value)),
            Err(Error::AttributeReadOnly(read_only))
        );
    }
    let unique = data().with(CKA_UNIQUE_ID, "mine");
    assert_eq!(create(unique), Err(Error::AttributeReadOnly(CKA_UNIQUE_ID)));
    for date in ["2026-1-1", "20261301", "20260132", "2026010", "20260100"] {
        assert!(matches!(
            create(rsa_public_key().with(CKA_START_DATE, date)),
            Err(Error::AttributeValueInvalid(CKA_START_DATE, _))
        ));
    }
    assert_eq!(create(rsa_public_key().with(CKA_START_DATE, "20240229")), Ok(()));
    let unknown_type =
        Template::new().with_ulong(CKA_CLASS, CKO_PUBLIC_KEY).with_ulong(CKA_KEY_TYPE, CKK_DSA);
    assert!(matches!(create(unknown_type), Err(Error::AttributeValueInvalid(CKA_KEY_TYPE, _))));
    assert_eq!(
        create(Template::new().with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)),
        Err(Error::TemplateIncomplete(CKA_KEY_TYPE))
    );
}

#[test]
fn only_the_so_makes_anything_trusted() {
    for template in [certificate(), rsa_public_key()] {
        let trusted = template.clone().with_bool(CKA_TRUSTED, true);
        for setting in [USER, NOBODY] {
            assert_eq!(create(&trusted, &setting), Err(Error::AttributeReadOnly(CKA_TRUSTED)));
            assert!(create(&template.clone().with_bool(CKA_TRUSTED, false), &setting).is_ok());
        }
        let object = create(&trusted, &SO).unwrap();
        assert!(object.is(CKA_TRUSTED));
        let plain = create(&template, &USER).unwrap();
        let yes = Template::new().with_bool(CKA_TRUSTED, true);
        let no = Template::new().with_bool(CKA_TRUSTED, false);
        assert_eq!(set(&plain, &yes, &USER), Err(Error::AttributeReadOnly(CKA_TRUSTED)));
        assert_eq!(copy(&plain, &yes, &USER), Err(Error::AttributeReadOnly(CKA_TRUSTED)));
        assert!(set(&plain, &yes, &SO).unwrap().is(CKA_TRUSTED));
        assert_eq!(set(&object, &no, &USER), Err(Error::AttributeReadOnly(CKA_TRUSTED)));
        assert!(!set(&object, &no, &SO).unwrap().is(CKA_TRUSTED));
        let renamed = Template::new().with(CKA_LABEL, "mine");
        assert!(matches!(set(&object, &renamed, &USER), Err(Error::ActionProhibited(_))));
        assert!(set(&object, &renamed, &SO).is_ok());
    }
}

#[test]
fn the_deprecated_second_pin_is_there_and_off() {
    let (_, private) = plain_ec();
    assert_eq!(private.get(CKA_SECONDARY_AUTH), Some([0].as_slice()));
    assert_eq!(private.ulong(CKA_AUTH_PIN_FLAGS), Some(0));
    let asked =
        |value| pair(EC, &ec_public(), &Template::new().with_bool(CKA_SECONDARY_AUTH, value));
    assert!(asked(false).is_ok());
    assert!(matches!(asked(true), Err(Error::TemplateInconsistent(_))));
}

#[test]
fn nested_templates_are_kept_and_one_deep() {
    let inner = Template::new().with_bool(CKA_SENSITIVE, true).to_bytes();
    let with =
        |bytes: Vec<u8>| pair(EC, &ec_public(), &Template::new().with(CKA_DERIVE_TEMPLATE, bytes));
    let (_, private) = with(inner.clone()).unwrap();
    assert_eq!(private.get(CKA_DERIVE_TEMPLATE), Some(inner.as_slice()));
    assert!(matches!(
        with(Template::new().with(CKA_DERIVE_TEMPLATE, inner).to_bytes()),
        Err(Error::TemplateInconsistent(_))
    ));
    assert!(matches!(with(vec![1, 2, 3]), Err(Error::AttributeValueInvalid(..))));
    let bad = Template::new().with(CKA_SENSITIVE, [7]).to_bytes();
    assert!(matches!(with(bad), Err(Error::AttributeValueInvalid(CKA_SENSITIVE, _))));
}

// ---- C_DeriveKey ---------------------------------------------------------------------------------

/// JSSE, OpenSSL and CMS read the shared secret: without a word about it, it is readable.
#[test]
fn a_derived_secret_is_readable_unless_the_template_says_otherwise() {
    let java = Template::new()
        .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET);
    for template in [Template::new(), java] {
        let key = secret(&template).unwrap();
        assert_eq!(rule::get(&key, CKA_VALUE, Policy::PREVENT).unwrap().as_ref(), [0x77; 32]);
        assert_eq!(key.attributes.ulong(CKA_VALUE_LEN), Some(32));
        assert!(!key.is(CKA_LOCAL) && !key.is(CKA_ALWAYS_SENSITIVE));
        assert!(!key.is(CKA_NEVER_EXTRACTABLE));
    }
    for hidden in [
        Template::new().with_bool(CKA_SENSITIVE, true),
        Template::new().with_bool(CKA_EXTRACTABLE, false),
    ] {
        let key = secret(&hidden).unwrap();
        assert_eq!(
            rule::get(&key, CKA_VALUE, Policy::PREVENT),
            Err(Error::AttributeSensitive(CKA_VALUE))
        );
    }
}

#[test]
fn a_shorter_secret_loses_its_leading_bytes() {
    let (_, base) = plain_ec();
    let derivation = Derivation {
        mechanism: CKM_ECDH1_DERIVE,
        how: Derives::Agreement,
        inputs: &[&base],
        allows: &[],
    };
    let short = Template::new().with_ulong(CKA_VALUE_LEN, 3);
    let plan = Secret::derive(&short, &USER, &derivation).unwrap();
    assert_eq!(plan.length, Some(3));
    let key = finished(plan, &[1, 2, 3, 4, 5]).unwrap();
    assert_eq!(key.value(), Some([3, 4, 5].as_slice()));
    assert_eq!(key.attributes.ulong(CKA_VALUE_LEN), Some(3));
}

#[test]
fn a_secret_longer_than_the_mechanism_gives_is_refused() {
    let long = Template::new().with_ulong(CKA_VALUE_LEN, 33);
    assert!(matches!(secret(&long), Err(Error::KeySizeRange(_))));
    let none = Template::new().with_ulong(CKA_VALUE_LEN, 0);
    assert!(matches!(secret(&none), Err(Error::AttributeValueInvalid(CKA_VALUE_LEN, _))));
    let aes = Template::new().with_ulong(CKA_KEY_TYPE, CKK_AES);
    assert_eq!(secret(&aes).err(), Some(Error::TemplateIncomplete(CKA_VALUE_LEN)));
    assert!(matches!(
        secret(&aes.with_ulong(CKA_VALUE_LEN, 20)),
        Err(Error::AttributeValueInvalid(CKA_VALUE_LEN, _))
    ));
}

#[test]
fn what_comes_from_a_private_key_is_private_whatever_the_template_says() {
    let public = Template::new().with_bool(CKA_PRIVATE, false).with_bool(CKA_TOKEN, false);
    assert!(secret(&public).unwrap().private());
}

#[test]
fn what_a_derive_template_protects_stays_protected() {
    let sensitive = Template::new().with_bool(CKA_SENSITIVE, true);
    let prescribed = sensitive.clone().with(CKA_LABEL, "derived").with_bool(CKA_EXTRACTABLE, true);
    let private = Template::new().with(CKA_DERIVE_TEMPLATE, prescribed.to_bytes());
    let (_, base) = pair(EC, &ec_public(), &private).unwrap();
    let derive = |template: &Template| derived(template, &USER, Derives::Agreement, &[&base]);
    assert!(derive(&Template::new()).unwrap().attributes.is(CKA_SENSITIVE));
    assert!(derive(&sensitive).unwrap().attributes.is(CKA_ALWAYS_SENSITIVE));
    let closer = Template::new().with(CKA_LABEL, "mine").with_bool(CKA_EXTRACTABLE, false);
    let closer = derive(&closer).unwrap().attributes;
    assert!(closer.is(CKA_SENSITIVE) && closer.is(CKA_NEVER_EXTRACTABLE));
    assert_eq!(closer.get(CKA_LABEL), Some(b"mine".as_slice()));
    assert!(matches!(
        derive(&Template::new().with_bool(CKA_SENSITIVE, false)),
        Err(Error::TemplateInconsistent(_))
    ));
}
