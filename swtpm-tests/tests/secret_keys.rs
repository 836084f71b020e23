//! Secret keys through the C interface: made, brought in, copied, read; where they live, what they may do,
//! what they cost, and what of them crosses the bus.

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN};
use swtpm_tests::ck::{Attribute, CKA_TPM11_RESIDENCE, P256, bytes, flag, number};
use swtpm_tests::drive::{Random, advertised};
use swtpm_tests::{Bench, Scene, contains, openssl};

const VALUE: [u8; 32] = *b"these bytes must never be seen!!";

/// Which of the roles are TRUE.
fn roles(scene: &Scene, key: u64) -> Vec<u64> {
    [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE]
        .into_iter()
        .filter(|role| scene.is(key, *role))
        .collect()
}

#[test]
fn a_generated_key_is_the_chips_own_and_does_what_openssl_would() {
    let scene = Scene::start();
    let key = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &[]).expect("C_GenerateKey");
    assert_eq!(scene.residence(key), "tpm");
    for (kind, expected) in [
        (CKA_SENSITIVE, true),
        (CKA_EXTRACTABLE, false),
        (CKA_ALWAYS_SENSITIVE, true),
        (CKA_NEVER_EXTRACTABLE, true),
        (CKA_LOCAL, true),
        (CKA_PRIVATE, true),
        (CKA_TOKEN, false),
        (CKA_MODIFIABLE, true),
    ] {
        assert_eq!(scene.is(key, kind), expected, "{kind:#x}");
    }
    let ulong = |kind| scene.app.attribute(scene.session, key, kind).expect("a number");
    assert_eq!(ulong(CKA_VALUE_LEN), 32u64.to_ne_bytes());
    assert_eq!(ulong(CKA_KEY_GEN_MECHANISM), CKM_GENERIC_SECRET_KEY_GEN.to_ne_bytes());
    assert_eq!(roles(&scene, key), [CKA_SIGN, CKA_VERIFY]);
    let value = scene.app.attribute(scene.session, key, CKA_VALUE);
    assert_eq!(value.unwrap_err().0, CKR_ATTRIBUTE_SENSITIVE);
    let check = scene.app.attribute(scene.session, key, CKA_CHECK_VALUE);
    assert_eq!(check.unwrap_err().0, CKR_ATTRIBUTE_TYPE_INVALID);
    let mac = scene.mac(key, b"data").expect("C_Sign");
    scene.app.verify(scene.session, CKM_SHA256_HMAC, key, b"data", &mac).expect("C_Verify");

    let open = [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
    let key = scene.generate(CKM_SHA256_KEY_GEN, 48, &open).expect("C_GenerateKey");
    let value = scene.app.attribute(scene.session, key, CKA_VALUE).expect("a readable key");
    assert_eq!(value.len(), 48);
    assert_eq!(scene.mac(key, b"data"), Ok(openssl::hmac("sha256", &value, b"data")));
}

#[test]
fn a_key_that_is_brought_in_is_used_by_the_chip_and_its_bytes_are_on_no_bus() {
    let scene = Scene::start();
    let hidden = [flag(CKA_TOKEN, true)];
    let (record, key) = scene.bench.shim.watch(|| {
        let key = scene.create(CKK_SHA256_HMAC, &VALUE, &hidden).expect("C_CreateObject");
        let expected = openssl::hmac("sha256", &VALUE, b"data");
        assert_eq!(scene.mac(key, b"data"), Ok(expected));
        key
    });
    record.assert_hides(&VALUE);
    assert!(record.names().contains(&"HMAC"), "{}", record.lines());
    assert_eq!(scene.residence(key), "tpm-imported");
    for (kind, expected) in [
        (CKA_SENSITIVE, true),
        (CKA_EXTRACTABLE, false),
        (CKA_ALWAYS_SENSITIVE, false),
        (CKA_NEVER_EXTRACTABLE, false),
        (CKA_LOCAL, false),
    ] {
        assert_eq!(scene.is(key, kind), expected, "{kind:#x}");
    }
    scene.app.finalize().expect("C_Finalize");

    // Another process: the store has what the chip needs, and not the value.
    let rows = std::fs::read(scene.bench.store().join("tpm11.sqlite3")).expect("the store");
    assert!(!contains(&rows, &VALUE));
    let (app, session) = scene.bench.logged_in();
    let found = app.find(session, &[number(CKA_CLASS, CKO_SECRET_KEY)]).expect("a search");
    let [key] = found[..] else { panic!("{found:?}") };
    let mac = app.sign(session, CKM_SHA256_HMAC, key, b"data").expect("C_Sign");
    assert_eq!(mac, openssl::hmac("sha256", &VALUE, b"data"));
    assert_eq!(app.attribute(session, key, CKA_VALUE).unwrap_err().0, CKR_ATTRIBUTE_SENSITIVE);
    assert!(app.find(session, &[bytes(CKA_VALUE, VALUE)]).expect("a search").is_empty());
}

#[test]
fn a_readable_key_is_read_in_another_process_and_lies_encrypted_in_the_store() {
    let scene = Scene::start();
    let open = [flag(CKA_TOKEN, true), flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
    scene.create(CKK_GENERIC_SECRET, &VALUE, &open).expect("C_CreateObject");
    scene.app.finalize().expect("C_Finalize");
    let rows = std::fs::read(scene.bench.store().join("tpm11.sqlite3")).expect("the store");
    assert!(!contains(&rows, &VALUE));
    let (app, session) = scene.bench.logged_in();
    let found = app.find(session, &[number(CKA_CLASS, CKO_SECRET_KEY)]).expect("a search");
    assert_eq!(app.attribute(session, found[0], CKA_VALUE), Ok(VALUE.to_vec()));
    let mac = app.sign(session, CKM_SHA384_HMAC, found[0], b"data").expect("C_Sign");
    assert_eq!(mac, openssl::hmac("sha384", &VALUE, b"data"));
    app.digest_init(session, CKM_SHA256).expect("C_DigestInit");
    app.digest_key(session, found[0]).expect("C_DigestKey");
    assert_eq!(app.digest_final(session), Ok(openssl::digest("sha256", &VALUE)));

    // Its owner hides it: from now on nobody reads it, and the chip alone works with it.
    let roles_apart = app.set_attributes(session, found[0], &[flag(CKA_SENSITIVE, true)]);
    assert_eq!(roles_apart.unwrap_err().0, CKR_TEMPLATE_INCONSISTENT, "it signs and derives");
    let copy = [flag(CKA_TOKEN, false)];
    let copy = app.copy_object(session, found[0], &copy).expect("C_CopyObject");
    assert_eq!(app.attribute(session, copy, CKA_VALUE), Ok(VALUE.to_vec()));
}

#[test]
fn hiding_a_readable_key_takes_its_value_out_of_the_store() {
    let scene = Scene::start();
    let open = [
        flag(CKA_TOKEN, true),
        flag(CKA_SENSITIVE, false),
        flag(CKA_EXTRACTABLE, true),
        flag(CKA_SIGN, true),
    ];
    let key = scene.create(CKK_GENERIC_SECRET, &VALUE, &open).expect("C_CreateObject");
    let hidden = [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)];
    scene.app.set_attributes(scene.session, key, &hidden).expect("C_SetAttributeValue");
    let expected = openssl::hmac("sha256", &VALUE, b"data");
    assert_eq!(scene.mac(key, b"data"), Ok(expected.clone()));
    scene.app.finalize().expect("C_Finalize");
    let (app, session) = scene.bench.logged_in();
    let found = app.find(session, &[number(CKA_CLASS, CKO_SECRET_KEY)]).expect("a search");
    let value = app.attribute(session, found[0], CKA_VALUE);
    assert_eq!(value.unwrap_err().0, CKR_ATTRIBUTE_SENSITIVE);
    assert_eq!(app.sign(session, CKM_SHA256_HMAC, found[0], b"data"), Ok(expected));
    assert_eq!(app.attribute_flag(session, found[0], CKA_ALWAYS_SENSITIVE), Ok(false));
}

#[test]
fn copies_of_a_hidden_key_work_alike_in_the_session_and_on_the_token() {
    let scene = Scene::start();
    let key = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 20, &[]).expect("C_GenerateKey");
    let mac = scene.mac(key, b"data").expect("C_Sign");
    let stored = scene.app.copy_object(scene.session, key, &[flag(CKA_TOKEN, true)]);
    let stored = stored.expect("C_CopyObject");
    let back = scene.app.copy_object(scene.session, stored, &[flag(CKA_TOKEN, false)]);
    for copy in [stored, back.expect("C_CopyObject")] {
        assert_eq!(scene.mac(copy, b"data"), Ok(mac.clone()));
        assert_eq!(scene.residence(copy), scene.residence(key));
        assert!(scene.is(copy, CKA_ALWAYS_SENSITIVE));
    }
    let public = scene.app.copy_object(scene.session, key, &[flag(CKA_PRIVATE, false)]);
    assert_eq!(public.unwrap_err().0, CKR_TEMPLATE_INCONSISTENT);
    scene.app.destroy_object(scene.session, key).expect("C_DestroyObject");
    assert_eq!(scene.mac(stored, b"data"), Ok(mac));
}

#[test]
fn before_a_login_a_session_key_is_public_and_works_and_moves_to_the_token_after_it() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    let session = app.open(slot).expect("C_OpenSession");
    let scene = Scene { bench, app, session };
    let key = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &[]).expect("C_GenerateKey");
    assert!(!scene.is(key, CKA_PRIVATE));
    let mac = scene.mac(key, b"data").expect("C_Sign");
    let private = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &[flag(CKA_PRIVATE, true)]);
    assert_eq!(private, Err(CKR_USER_NOT_LOGGED_IN));
    let stored = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &[flag(CKA_TOKEN, true)]);
    assert_eq!(stored, Err(CKR_USER_NOT_LOGGED_IN));

    scene.app.login(session, PIN).expect("C_Login");
    let stored = scene.app.copy_object(session, key, &[flag(CKA_TOKEN, true)]);
    stored.expect("C_CopyObject");
    scene.app.finalize().expect("C_Finalize");
    let (app, session) = scene.bench.logged_in();
    let found = app.find(session, &[number(CKA_CLASS, CKO_SECRET_KEY)]).expect("a search");
    assert_eq!(app.sign(session, CKM_SHA256_HMAC, found[0], b"data"), Ok(mac));
}

#[test]
fn roles_that_must_not_meet_are_stored_false_and_read_so() {
    let scene = Scene::start();
    let all = [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE]
        .map(|role| flag(role, true));
    let hidden = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &all).expect("C_GenerateKey");
    assert_eq!(roles(&scene, hidden), [CKA_SIGN, CKA_VERIFY]);
    let open = [&all[..], &[flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)]].concat();
    let open = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &open).expect("C_GenerateKey");
    assert_eq!(roles(&scene, open), [CKA_SIGN, CKA_VERIFY, CKA_DERIVE]);
    let derive = [flag(CKA_DERIVE, true)];
    let derive = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &derive).expect("C_GenerateKey");
    assert_eq!(roles(&scene, derive), [CKA_DERIVE]);
    assert_eq!(scene.mac(derive, b"data"), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
    let leaves = [flag(CKA_DERIVE, true), flag(CKA_EXTRACTABLE, true)];
    let leaves = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &leaves);
    assert_eq!(leaves, Err(CKR_TEMPLATE_INCONSISTENT));
    for role in [CKA_SIGN, CKA_DERIVE] {
        let set = [flag(role, !scene.is(hidden, role))];
        let set = scene.app.set_attributes(scene.session, hidden, &set);
        assert_eq!(set.unwrap_err().0, CKR_ATTRIBUTE_READ_ONLY);
    }
}

#[test]
fn what_is_no_key_is_refused() {
    let scene = Scene::start();
    for (key_type, value, expected) in [
        (CKK_AES, &[1; 15][..], CKR_ATTRIBUTE_VALUE_INVALID),
        (CKK_AES, &[1; 33], CKR_ATTRIBUTE_VALUE_INVALID),
        (CKK_GENERIC_SECRET, &[], CKR_ATTRIBUTE_VALUE_INVALID),
        (CKK_DES3, &[1; 24], CKR_ATTRIBUTE_VALUE_INVALID),
        // Only sealed, which nobody has allowed here.
        (CKK_SHA3_256_HMAC, &[1; 32], CKR_ATTRIBUTE_VALUE_INVALID),
    ] {
        assert_eq!(scene.create(key_type, value, &[]), Err(expected), "{key_type:#x}");
    }
    let long = [1; 129];
    let hidden = [flag(CKA_SENSITIVE, true)];
    let refused = Err(CKR_ATTRIBUTE_VALUE_INVALID);
    assert_eq!(scene.create(CKK_GENERIC_SECRET, &long, &hidden), refused);

    for (length, more, expected) in [
        (0, vec![], CKR_ATTRIBUTE_VALUE_INVALID),
        (129, vec![], CKR_ATTRIBUTE_VALUE_INVALID),
        (u64::MAX, vec![], CKR_ATTRIBUTE_VALUE_INVALID),
        (32, vec![number(CKA_KEY_TYPE, CKK_AES)], CKR_TEMPLATE_INCONSISTENT),
        (32, vec![number(CKA_CLASS, CKO_DATA)], CKR_TEMPLATE_INCONSISTENT),
        (32, vec![bytes(CKA_VALUE, VALUE)], CKR_ATTRIBUTE_READ_ONLY),
        (32, vec![flag(CKA_LOCAL, true)], CKR_ATTRIBUTE_READ_ONLY),
        (32, vec![flag(CKA_TRUSTED, true)], CKR_ATTRIBUTE_READ_ONLY),
        (32, vec![bytes(CKA_TPM11_RESIDENCE, "tpm")], CKR_ATTRIBUTE_READ_ONLY),
    ] {
        let made = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, length, &more);
        assert_eq!(made, Err(expected), "{length}");
    }
    let silent = scene.app.generate_key(scene.session, CKM_GENERIC_SECRET_KEY_GEN, &[]);
    assert_eq!(silent.unwrap_err().0, CKR_TEMPLATE_INCOMPLETE);
    let unknown = scene.generate(CKM_SHA256, 32, &[]);
    assert_eq!(unknown, Err(CKR_MECHANISM_INVALID));
}

#[test]
fn an_aes_key_that_is_brought_in_has_the_check_value_that_openssl_computes() {
    let scene = Scene::start();
    let key = scene.create(CKK_AES, &[0x11; 16], &[flag(CKA_TOKEN, true)]).expect("AES");
    // openssl enc -aes-128-ecb -K 11…11 -nopad, of a block of zeros
    let check = scene.app.attribute(scene.session, key, CKA_CHECK_VALUE);
    assert_eq!(check, Ok(openssl::aes_ecb(&[0x11; 16], &[0; 16])[..3].to_vec()));
    let other = scene.create(CKK_AES, &[0x11; 16], &[bytes(CKA_CHECK_VALUE, [1, 2, 3])]);
    assert_eq!(other, Err(CKR_ATTRIBUTE_VALUE_INVALID));
    let short = scene.create(CKK_GENERIC_SECRET, &[1; 8], &[flag(CKA_SENSITIVE, true)]);
    let short = short.expect("C_CreateObject");
    let check = scene.app.attribute(scene.session, short, CKA_CHECK_VALUE);
    assert_eq!(check.unwrap_err().0, CKR_ATTRIBUTE_TYPE_INVALID);
}

#[test]
fn a_warm_generation_is_one_command_and_a_session_keys_whole_life_four() {
    let scene = Scene::start();
    scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &[]).expect("the first one");
    let (record, key) = scene
        .bench
        .shim
        .watch(|| scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &[]).expect("C_GenerateKey"));
    assert_eq!(record.names(), ["Create"], "{}", record.lines());
    assert!(record.0[0].is_hmac_protected() && record.0[0].encrypts_command());
    scene.app.destroy_object(scene.session, key).expect("C_DestroyObject");

    let (record, ()) = scene.bench.shim.watch(|| {
        let key = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &[]).expect("C_GenerateKey");
        scene.mac(key, b"data").expect("C_Sign");
        scene.app.destroy_object(scene.session, key).expect("C_DestroyObject");
    });
    println!("{}", record.lines());
    assert!(record.sent() <= 4, "{}", record.lines());
}

#[test]
fn a_readable_session_secret_costs_nothing_until_the_chip_works_with_it() {
    let scene = Scene::start();
    let pair = scene.app.generate_ec(scene.session, P256, "key");
    pair.expect("C_GenerateKeyPair");
    let (record, key) = scene
        .bench
        .shim
        .watch(|| scene.create(CKK_GENERIC_SECRET, &VALUE, &[]).expect("C_CreateObject"));
    assert!(record.names().is_empty(), "{}", record.lines());
    assert_eq!(scene.app.attribute(scene.session, key, CKA_VALUE), Ok(VALUE.to_vec()));
    let (record, mac) = scene.bench.shim.watch(|| scene.mac(key, b"data").expect("C_Sign"));
    assert_eq!(mac, openssl::hmac("sha256", &VALUE, b"data"));
    record.assert_hides(&VALUE);
}

#[test]
fn the_host_works_with_a_readable_key_of_a_size_that_the_chip_lacks() {
    let scene = Scene::start();
    let readable = [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
    let on_the_token = [&readable[..], &[flag(CKA_TOKEN, true)]].concat();
    // The length of the keys of RFC 4231's last test cases.
    let long = [0xaa; 131];
    let (aes_192, block) = ([0x5a; 24], [7; 16]);
    for template in [&readable[..], &on_the_token] {
        let key = scene.create(CKK_GENERIC_SECRET, &long, template).expect("C_CreateObject");
        let mac = scene.mac(key, b"data").expect("C_Sign");
        assert_eq!(mac, openssl::hmac("sha256", &long, b"data"));
        scene.app.verify(scene.session, CKM_SHA256_HMAC, key, b"data", &mac).expect("C_Verify");
        assert_eq!(scene.app.attribute(scene.session, key, CKA_VALUE), Ok(long.to_vec()));

        let key = scene.create(CKK_AES, &aes_192, template).expect("C_CreateObject");
        let copy = scene.app.copy_object(scene.session, key, &[]).expect("C_CopyObject");
        for key in [key, copy] {
            let made = scene.app.encrypt(scene.session, CKM_AES_ECB, key, &block);
            assert_eq!(made, Ok(openssl::aes_ecb(&aes_192, &block).to_vec()));
        }
        let made = scene.generate(CKM_AES_KEY_GEN, 24, template).expect("C_GenerateKey");
        let value = scene.app.attribute(scene.session, made, CKA_VALUE).expect("readable");
        let made = scene.app.encrypt(scene.session, CKM_AES_ECB, made, &block);
        assert_eq!(made, Ok(openssl::aes_ecb(&value, &block).to_vec()));
        // Hidden, only the chip could use it.
        let hidden = scene.app.set_attributes(scene.session, key, &[flag(CKA_SENSITIVE, true)]);
        assert!(hidden.is_err());
        assert!(!scene.is(key, CKA_SENSITIVE));
    }
    let hidden = scene.generate(CKM_AES_KEY_GEN, 24, &[flag(CKA_SENSITIVE, true)]);
    assert_eq!(hidden, Err(CKR_ATTRIBUTE_VALUE_INVALID));
}

#[test]
fn sizes_of_aes_that_the_chip_lacks_are_sealed_where_that_is_allowed() {
    let scene = Scene::configured("[keys]\nsecret_keys = \"sealed\"");
    let block = [7; 16];
    let sizes = [(16, "tpm-imported"), (24, "sealed"), (32, "tpm-imported")];
    for (length, residence) in sizes {
        let value = vec![0x5a; length];
        let key = scene.create(CKK_AES, &value, &[flag(CKA_SENSITIVE, true)]);
        let key = key.expect("C_CreateObject");
        assert_eq!(scene.residence(key), residence);
        let made = scene.app.encrypt(scene.session, CKM_AES_ECB, key, &block);
        assert_eq!(made, Ok(openssl::aes_ecb(&value, &block).to_vec()));
    }
    let own = scene.generate(CKM_AES_KEY_GEN, 24, &[flag(CKA_TOKEN, true)]).expect("a key");
    assert_eq!(scene.residence(own), "sealed");
    assert!(scene.is(own, CKA_ALWAYS_SENSITIVE) && scene.is(own, CKA_NEVER_EXTRACTABLE));
    let made = scene.app.encrypt(scene.session, CKM_AES_ECB, own, &block).expect("C_Encrypt");
    assert_eq!(scene.app.decrypt(scene.session, CKM_AES_ECB, own, &made), Ok(block.to_vec()));
}

#[test]
fn sealed_keys_say_so_and_are_advertised_without_hardware_only_where_allowed() {
    let scene = Scene::configured("[keys]\nsealed_keys = true");
    let slot = scene.app.slot_of(LABEL).expect("the token");
    let random = &mut Random::new(7);
    let drivers = advertised(&scene.app, slot).expect("drivers");
    let sealed: Vec<_> = drivers
        .iter()
        .filter(|driver| {
            let info = scene.app.mechanism_info(slot, driver.mechanism).expect("info");
            let own = driver.operation & (CKF_SIGN | CKF_VERIFY | CKF_GENERATE) != 0;
            own && info.flags & CKF_HW == 0 && driver.wants().is_none() && driver.needs_tpm()
        })
        .collect();
    assert_eq!(sealed.len(), 7 * 5, "seven hashes: generation, and two MACs both ways");
    for driver in sealed {
        driver.drive(&scene.app, scene.session, None, random).expect("a sealed key");
    }
    let key = scene.generate(CKM_SHA3_256_KEY_GEN, 32, &[flag(CKA_TOKEN, true)]).expect("a key");
    assert_eq!(scene.residence(key), "sealed");
    let value = scene.app.attribute(scene.session, key, CKA_VALUE);
    assert_eq!(value.unwrap_err().0, CKR_ATTRIBUTE_SENSITIVE);
    let (record, mac) = scene
        .bench
        .shim
        .watch(|| scene.app.sign(scene.session, CKM_SHA3_256_HMAC, key, b"data").expect("C_Sign"));
    assert!(record.names().contains(&"Unseal"), "{}", record.lines());
    scene.app.verify(scene.session, CKM_SHA3_256_HMAC, key, b"data", &mac).expect("C_Verify");

    let plain = Scene::start();
    let slot = plain.app.slot_of(LABEL).expect("the token");
    let listed = plain.app.mechanisms(slot).expect("C_GetMechanismList");
    assert!(!listed.contains(&CKM_SHA3_256_HMAC) && listed.contains(&CKM_SHA256_HMAC));
}

/// A rule left out alone, and the log's word about it.
#[test]
fn a_rule_can_be_left_out_and_the_log_says_so() {
    let scene = Scene::configured("[policy]\nwithout = [\"P1\"]");
    let key = scene.create(CKK_GENERIC_SECRET, &VALUE, &[flag(CKA_SENSITIVE, true)]);
    let value = scene.app.attribute(scene.session, key.expect("a key"), CKA_VALUE);
    assert_eq!(value, Ok(VALUE.to_vec()), "P1 alone kept it");
    assert!(scene.bench.log().contains("P1"), "{}", scene.bench.log());

    let scene = Scene::configured("[policy]\nwithout = [\"P4\"]");
    let both = [flag(CKA_SIGN, true), flag(CKA_DERIVE, true)];
    let key = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &both).expect("a key");
    assert!(roles(&scene, key).contains(&CKA_DERIVE), "P4 alone took it away");

    let scene = Scene::configured("[policy]\nwithout = [\"P15\"]");
    let key = scene.create(CKK_GENERIC_SECRET, &[7; 4], &[flag(CKA_SENSITIVE, true)]);
    let check = scene.app.attribute(scene.session, key.expect("a key"), CKA_CHECK_VALUE);
    assert_eq!(check, Ok(openssl::digest("sha1", &[7; 4])[..3].to_vec()));

    let scene = Scene::configured("[policy]\nwithout = [\"P13\"]");
    let hidden = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &[]).expect("a key");
    let open = scene.app.copy_object(scene.session, hidden, &[flag(CKA_PRIVATE, false)]);
    let open = open.expect("C_CopyObject");
    scene.app.logout(scene.session).expect("C_Logout");
    scene.mac(open, b"data").expect("P13 alone ended it with the login");
}

#[test]
fn dates_are_enforced_where_the_configuration_says_so() {
    let scene = Scene::configured("[policy]\ndates = \"enforce\"");
    let until = |date: &str| [bytes(CKA_END_DATE, date)];
    let past = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &until("20200101")).expect("a key");
    assert_eq!(scene.mac(past, b"data"), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
    let later = scene.app.set_attributes(scene.session, past, &until("29990101"));
    assert_eq!(later.unwrap_err().0, CKR_ATTRIBUTE_READ_ONLY);
    let copy = scene.app.copy_object(scene.session, past, &until("29990101"));
    assert_eq!(copy.unwrap_err().0, CKR_ATTRIBUTE_READ_ONLY);
    let future = [bytes(CKA_START_DATE, "29990101")];
    let future = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &future).expect("a key");
    assert_eq!(scene.mac(future, b"data"), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
    let good = scene.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &until("29990101")).expect("a key");
    scene.mac(good, b"data").expect("in its time");

    let informs = Scene::start();
    let past = informs.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, &until("20200101"));
    informs.mac(past.expect("a key"), b"data").expect("a date that only says something");
}

// ---- private keys ----------------------------------------------------------------------------------

fn ec_private(key: &openssl::Key, more: &[Attribute]) -> Vec<Attribute> {
    let own = [
        number(CKA_CLASS, CKO_PRIVATE_KEY),
        number(CKA_KEY_TYPE, CKK_EC),
        bytes(CKA_EC_PARAMS, P256),
        bytes(CKA_VALUE, key.number("priv")),
    ];
    [&own[..], more].concat()
}

fn rsa_private(key: &openssl::Key, parts: &[(u64, &str)], more: &[Attribute]) -> Vec<Attribute> {
    let own = [number(CKA_CLASS, CKO_PRIVATE_KEY), number(CKA_KEY_TYPE, CKK_RSA)];
    [&own[..], &key.attributes(parts), more].concat()
}

#[test]
fn private_keys_are_brought_in_and_nothing_of_them_is_on_a_bus_or_comes_back() {
    let scene = Scene::start();
    let (ck, session) = (&scene.app, scene.session);
    let ec = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let rsa = openssl::Key::generate("RSA", &["rsa_keygen_bits:2048"]);
    let token = [flag(CKA_TOKEN, true)];
    let (record, (ec_key, rsa_key)) = scene.bench.shim.watch(|| {
        let ec_key = ck.create_object(session, &ec_private(&ec, &token)).expect("an EC key");
        let rsa_key = rsa_private(&rsa, &openssl::RSA_PARTS, &token);
        (ec_key, ck.create_object(session, &rsa_key).expect("an RSA key"))
    });
    for secret in [ec.number("priv"), rsa.number("rsa-factor1"), rsa.number("rsa-factor2")] {
        record.assert_hides(&secret);
    }
    let digest = openssl::digest("sha256", b"data");
    let signature = ck.sign(session, CKM_ECDSA_SHA256, ec_key, b"data").expect("C_Sign");
    assert!(ec.verifies(&digest, &openssl::ecdsa_der(&signature), &[]));
    let signature = ck.sign(session, CKM_SHA256_RSA_PKCS, rsa_key, b"data").expect("C_Sign");
    let options = ["rsa_padding_mode:pkcs1", "digest:sha256"];
    assert!(rsa.verifies(&digest, &signature, &options));
    for key in [ec_key, rsa_key] {
        assert_eq!(scene.residence(key), "tpm-imported");
        assert!(scene.is(key, CKA_SENSITIVE) && !scene.is(key, CKA_EXTRACTABLE));
        for kind in [CKA_LOCAL, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE] {
            assert!(!scene.is(key, kind), "{kind:#x}");
        }
    }
    for (kind, _) in &openssl::RSA_PARTS[2..] {
        let part = ck.attribute(session, rsa_key, *kind);
        assert_eq!(part.unwrap_err().0, CKR_ATTRIBUTE_SENSITIVE, "{kind:#x}");
    }
    assert_eq!(
        ck.attribute(session, rsa_key, CKA_PUBLIC_KEY_INFO),
        Ok(rsa.info()),
        "what the certificate carries"
    );

    // The exponents alone say which primes they are.
    let bare = ck.create_object(session, &rsa_private(&rsa, &openssl::RSA_PARTS[..3], &[]));
    let signature = ck.sign(session, CKM_SHA256_RSA_PKCS, bare.expect("an RSA key"), b"data");
    assert!(rsa.verifies(&digest, &signature.expect("C_Sign"), &options));
}

#[test]
fn inconsistent_private_keys_are_refused_before_the_tpm_sees_them() {
    let scene = Scene::start();
    let (ck, session) = (&scene.app, scene.session);
    let ec = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let rsa = openssl::Key::generate("RSA", &["rsa_keygen_bits:1024"]);
    let (record, ()) = scene.bench.shim.watch(|| {
        for at in 0..openssl::RSA_PARTS.len() {
            let mut template = rsa_private(&rsa, &openssl::RSA_PARTS, &[]);
            let (kind, name) = openssl::RSA_PARTS[at];
            let mut part = rsa.number(name);
            *part.last_mut().expect("a number") ^= 2;
            template[2 + at] = bytes(kind, part);
            let made = ck.create_object(session, &template);
            assert_eq!(made.unwrap_err().0, CKR_ATTRIBUTE_VALUE_INVALID, "{name}");
        }
        for value in [vec![], vec![0; 32], vec![0xFF; 32], vec![1; 33]] {
            let mut template = ec_private(&ec, &[]);
            template[3] = bytes(CKA_VALUE, value);
            let made = ck.create_object(session, &template);
            assert_eq!(made.unwrap_err().0, CKR_ATTRIBUTE_VALUE_INVALID);
        }
        let other = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
        let info = other.info();
        let point = [&[0x04, 65], &info[info.len() - 65..]].concat();
        let made = ck.create_object(session, &ec_private(&ec, &[bytes(CKA_EC_POINT, point)]));
        assert_eq!(made.unwrap_err().0, CKR_ATTRIBUTE_VALUE_INVALID, "another key's point");
        let open = [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
        let made = ck.create_object(session, &ec_private(&ec, &open));
        assert_eq!(made.unwrap_err().0, CKR_TEMPLATE_INCONSISTENT, "a readable private key");
    });
    assert!(record.names().is_empty(), "{}", record.lines());
}
