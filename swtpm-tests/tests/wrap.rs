//! Wrapping and unwrapping through the C interface: what leaves and comes in against OpenSSL, which key may
//! wrap which, what becomes of an unwrapped one, and that no key is in clear on the bus.

use cryptoki_sys::*;
use swtpm_tests::Scene;
use swtpm_tests::bench::{SO_PIN, STORAGE_KEY};
use swtpm_tests::ck::{
    Attribute, CKA_TPM11_RESIDENCE, Mechanism, Message, P256, P384, bytes, flag, guarded, number,
    open, prescribes,
};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::drive::{CKM_TPM11_DUPLICATE, storage_key};
use swtpm_tests::openssl::{self, Key, RSA_PARTS};

const VALUE: [u8; 32] = *b"these bytes must never be seen!!";
const IV: [u8; 16] = [0x1F; 16];

/// An AES key of so many bytes that the token makes.
fn aes_key(scene: &Scene, length: u64, more: &[Attribute]) -> u64 {
    scene.generate(CKM_AES_KEY_GEN, length, more).expect("C_GenerateKey")
}

/// The public half of an OpenSSL pair, for wrapping.
fn public(scene: &Scene, key: &Key, more: &[Attribute]) -> u64 {
    let own = [
        number(CKA_CLASS, CKO_PUBLIC_KEY),
        number(CKA_KEY_TYPE, CKK_RSA),
        bytes(CKA_MODULUS, key.number("n")),
        bytes(CKA_PUBLIC_EXPONENT, key.number("e")),
        flag(CKA_WRAP, true),
    ];
    let template = [&own[..], more].concat();
    scene.app.create_object(scene.session, &template).expect("C_CreateObject")
}

/// The private half, for unwrapping.
fn private(scene: &Scene, key: &Key, more: &[Attribute]) -> u64 {
    let own =
        [number(CKA_CLASS, CKO_PRIVATE_KEY), number(CKA_KEY_TYPE, CKK_RSA), flag(CKA_UNWRAP, true)];
    let template = [&own[..], &key.attributes(&RSA_PARTS[..5]), more].concat();
    scene.app.create_object(scene.session, &template).expect("C_CreateObject")
}

/// Of a key that wraps and is known to the token alone.
fn wraps() -> [Attribute; 2] {
    [flag(CKA_WRAP, true), flag(CKA_UNWRAP, true)]
}

fn cbc() -> Mechanism {
    Mechanism::bytes(CKM_AES_CBC_PAD, &IV)
}

fn oaep() -> Mechanism {
    Mechanism::oaep(CKM_SHA256, CKG_MGF1_SHA256, b"")
}

const OAEP: [&str; 3] = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"];

fn rsa() -> Key {
    Key::generate("RSA", &["rsa_keygen_bits:2048"])
}

/// For the template of a secret that signs.
fn signs(key_type: u64) -> Vec<Attribute> {
    vec![number(CKA_CLASS, CKO_SECRET_KEY), number(CKA_KEY_TYPE, key_type), flag(CKA_SIGN, true)]
}

// ---- what is wrapped ------------------------------------------------------------------------------

#[test]
fn a_readable_key_is_wrapped_by_any_mechanism_and_openssl_unwraps_it() {
    let scene = Scene::start();
    let aes = aes_key(&scene, 32, &[&open()[..], &[flag(CKA_WRAP, true)]].concat());
    let theirs = scene.app.attribute(scene.session, aes, CKA_VALUE).expect("a readable key");
    let pair = rsa();
    let public = public(&scene, &pair, &[]);
    for length in [1, 15, 16, 17, 32, 64, 128] {
        let value: Vec<u8> = (0..length).map(|at| at as u8 ^ 0x5A).collect();
        let key = scene.secret(CKK_GENERIC_SECRET, &value, &open());
        let wrapped = scene.wrap(cbc(), aes, key).expect("C_WrapKey");
        assert_eq!(wrapped.len(), (length / 16 + 1) * 16);
        let opened = openssl::aes("CBC", false, true, &theirs, &IV, &wrapped);
        assert_eq!(opened.as_deref(), Some(&value[..]));
        let wrapped = scene.wrap(CKM_RSA_PKCS, public, key).expect("C_WrapKey");
        assert_eq!(pair.decrypt(&wrapped, &["rsa_padding_mode:pkcs1"]), Some(value.clone()));
        let wrapped = scene.wrap(oaep(), public, key).expect("C_WrapKey");
        assert_eq!(pair.decrypt(&wrapped, &OAEP), Some(value));
    }
}

#[test]
fn a_private_key_leaves_and_comes_as_pkcs8_of_openssl() {
    let scene = Scene::configured("[policy]\napi_attacks = \"standard\"");
    let (app, session) = (&scene.app, scene.session);
    let kek = scene.secret(CKK_AES, &VALUE, &wraps());
    let leaves = [flag(CKA_SIGN, true), flag(CKA_EXTRACTABLE, true)];
    let digest = openssl::digest("sha256", b"data");
    for (generate, size, sign, options) in [
        (CKM_EC_KEY_PAIR_GEN, bytes(CKA_EC_PARAMS, P256), CKM_ECDSA_SHA256, &[][..]),
        (CKM_EC_KEY_PAIR_GEN, bytes(CKA_EC_PARAMS, P384), CKM_ECDSA_SHA256, &[]),
        (
            CKM_RSA_PKCS_KEY_PAIR_GEN,
            number(CKA_MODULUS_BITS, 2048),
            CKM_SHA256_RSA_PKCS,
            &["rsa_padding_mode:pkcs1", "digest:sha256"],
        ),
    ] {
        let (public, private) =
            app.generate_pair(session, generate, &[size], &leaves).expect("C_GenerateKeyPair");
        let wrapped = scene.wrap(cbc(), kek, private).expect("C_WrapKey");
        let info = openssl::aes("CBC", false, true, &VALUE, &IV, &wrapped).expect("padding");
        let again = scene.wrap(CKM_AES_KEY_WRAP_KWP, kek, private).expect("C_WrapKey");
        let again = openssl::aes("WRAP-PAD", false, false, &VALUE, &[], &again);
        assert_eq!(again.as_ref(), Some(&info));
        let again = scene.wrap(CKM_AES_KEY_WRAP, kek, private).expect("C_WrapKey");
        let again = openssl::aes("WRAP", false, false, &VALUE, &[], &again).expect("unwrapped");
        let zeros = again.strip_prefix(&info[..]).expect("the key, filled up");
        assert!(zeros.len() < 8 && zeros.iter().all(|byte| *byte == 0));
        let key = Key::from_private_info(&info).expect("OpenSSL takes the key");
        let expected = app.attribute(session, public, CKA_PUBLIC_KEY_INFO);
        assert_eq!(Ok(key.info()), expected);
        let rsa = generate == CKM_RSA_PKCS_KEY_PAIR_GEN;
        let (plain, der) = (key.sign(&digest, options).expect("it signs"), openssl::ecdsa_der);
        if rsa {
            app.verify(session, sign, public, b"data", &plain).expect("C_Verify");
        } else {
            assert!(key.verifies(&digest, &plain, options));
        }

        // And back, as OpenSSL writes it.
        let wrapped = openssl::aes("CBC", true, true, &VALUE, &IV, &key.private_info());
        let key_type = if rsa { CKK_RSA } else { CKK_EC };
        let template = [
            number(CKA_CLASS, CKO_PRIVATE_KEY),
            number(CKA_KEY_TYPE, key_type),
            flag(CKA_SIGN, true),
        ];
        let back = scene.unwrap(cbc(), kek, &wrapped.expect("encrypted"), &template);
        let back = back.expect("C_UnwrapKey");
        let signature = app.sign(session, sign, back, b"data").expect("C_Sign");
        let signature = if rsa { signature } else { der(&signature) };
        assert!(key.verifies(&digest, &signature, options));
        for kind in [CKA_LOCAL, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE] {
            assert!(!scene.is(back, kind), "{kind:#x}");
        }
        assert!(scene.is(back, CKA_SENSITIVE));
    }
}

#[test]
fn no_key_that_leaves_or_comes_is_in_clear_on_the_bus() {
    let scene = Scene::configured("[policy]\napi_attacks = \"standard\"");
    let (app, session) = (&scene.app, scene.session);
    let pair = rsa();
    let (public, kek) = (public(&scene, &pair, &[]), scene.secret(CKK_AES, &[7; 32], &wraps()));
    // Drawn in the chip: it leaves by TPM2_Duplicate.
    let drawn = aes_key(&scene, 32, &guarded());
    let leaves = [flag(CKA_SIGN, true), flag(CKA_EXTRACTABLE, true)];
    let ec =
        app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &[bytes(CKA_EC_PARAMS, P256)], &leaves);
    let made = app.generate_pair(
        session,
        CKM_RSA_PKCS_KEY_PAIR_GEN,
        &[number(CKA_MODULUS_BITS, 2048)],
        &leaves,
    );
    let (ec, made) = (ec.expect("C_GenerateKeyPair").1, made.expect("C_GenerateKeyPair").1);
    let mut secrets = Vec::new();
    let (record, ()) = scene.bench.shim.watch(|| {
        let wrapped = scene.wrap(oaep(), public, drawn).expect("C_WrapKey");
        let value = pair.decrypt(&wrapped, &OAEP).expect("OpenSSL opens it");
        assert_eq!(value.len(), 32);
        let template = [number(CKA_CLASS, CKO_SECRET_KEY), number(CKA_KEY_TYPE, CKK_AES)];
        let wrapped = openssl::aes("CBC", true, true, &[7; 32], &IV, &value).expect("encrypted");
        let back = scene.unwrap(cbc(), kek, &wrapped, &template).expect("C_UnwrapKey");
        let sealed = app.encrypt(session, CKM_AES_ECB, back, &[0; 16]);
        assert_eq!(sealed, Ok(openssl::aes_ecb(&value, &[0; 16]).to_vec()));
        let sealed = app.encrypt(session, CKM_AES_ECB, drawn, &[0; 16]);
        assert_eq!(sealed, Ok(openssl::aes_ecb(&value, &[0; 16]).to_vec()));
        secrets.push(value);
        for (key, numbers) in
            [(ec, &["priv"][..]), (made, &["d", "rsa-factor1", "rsa-factor2", "rsa-exponent1"])]
        {
            let wrapped = scene.wrap(cbc(), kek, key).expect("C_WrapKey");
            let info = openssl::aes("CBC", false, true, &[7; 32], &IV, &wrapped);
            let out = Key::from_private_info(&info.expect("padding")).expect("a key");
            secrets.extend(numbers.iter().map(|name| out.number(name)));
            let key_type = app.attribute(session, key, CKA_KEY_TYPE).expect("CKA_KEY_TYPE");
            let template = [
                number(CKA_CLASS, CKO_PRIVATE_KEY),
                bytes(CKA_KEY_TYPE, key_type),
                flag(CKA_SIGN, true),
            ];
            scene.unwrap(cbc(), kek, &wrapped, &template).expect("C_UnwrapKey");
        }
    });
    assert!(record.names().contains(&"Duplicate") && record.names().contains(&"Import"));
    for secret in secrets {
        for part in secret.chunks(16).filter(|part| part.len() == 16) {
            record.assert_hides(part);
        }
    }
}

#[test]
fn a_length_is_told_without_the_tpm_and_a_short_buffer_gets_nothing() {
    let scene = Scene::start();
    let aes = aes_key(&scene, 32, &[&open()[..], &[flag(CKA_WRAP, true)]].concat());
    let key = scene.secret(CKK_GENERIC_SECRET, &VALUE, &open());
    let call = |room: Option<usize>, length: u64| {
        let buffer = room.map_or(Argument::NULL, |room| Memory::room(room).into());
        let mut arguments: Vec<Argument> =
            vec![scene.session.into(), cbc().memory().into(), aes.into(), key.into()];
        arguments.extend([buffer, Memory::word(length).into()]);
        let (rv, after) = scene.app.raw("C_WrapKey", arguments);
        (rv, after[5].memory().word_at(0))
    };
    let (record, ()) = scene.bench.shim.watch(|| {
        assert_eq!(call(None, 0), (CKR_OK, 48));
        assert_eq!(call(Some(47), 47), (CKR_BUFFER_TOO_SMALL, 48));
        assert_eq!(call(Some(0), 0), (CKR_BUFFER_TOO_SMALL, 48));
    });
    assert!(record.names().is_empty(), "{}", record.lines());
    assert_eq!(call(Some(48), 48), (CKR_OK, 48));
    assert_eq!(call(Some(100), 100), (CKR_OK, 48));
}

// ---- which key wraps which ------------------------------------------------------------------------

#[test]
fn a_sensitive_key_is_wrapped_by_a_key_that_the_token_alone_knows_or_the_so_trusts() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let target = scene.secret(CKK_GENERIC_SECRET, &VALUE, &guarded());
    let readable = scene.secret(CKK_GENERIC_SECRET, &VALUE, &open());
    let fixed = scene.secret(CKK_GENERIC_SECRET, &VALUE, &[flag(CKA_SENSITIVE, true)]);
    let kek = aes_key(&scene, 32, &wraps());
    let pair = rsa();
    let foreign = public(&scene, &pair, &[flag(CKA_TOKEN, true)]);
    // A pair of the token's that does nothing but wrap.
    let own = app
        .generate_pair(
            session,
            CKM_RSA_PKCS_KEY_PAIR_GEN,
            &[number(CKA_MODULUS_BITS, 2048), flag(CKA_WRAP, true)],
            &[flag(CKA_UNWRAP, true)],
        )
        .expect("C_GenerateKeyPair");

    assert_eq!(scene.wrap(oaep(), own.0, fixed), Err(CKR_KEY_UNEXTRACTABLE));
    assert_eq!(scene.wrap(oaep(), foreign, target), Err(CKR_KEY_NOT_WRAPPABLE));
    // What does not authenticate wraps what everybody may read, and unwraps nothing; nor does it tell what
    // the key makes of chosen blocks, if that could be the key stream around a sensitive key.
    assert_eq!(scene.wrap(cbc(), kek, target), Err(CKR_MECHANISM_INVALID));
    assert_eq!(scene.wrap(cbc(), kek, readable), Err(CKR_MECHANISM_INVALID));
    assert_eq!(scene.wrap(CKM_RSA_PKCS, own.0, target), Err(CKR_MECHANISM_INVALID));
    scene.wrap(CKM_RSA_PKCS, own.0, readable).expect("C_WrapKey");
    let blocks = [CKM_AES_CBC_PAD, CKM_AES_KEY_WRAP].map(u64::to_ne_bytes).concat();
    let blocks = bytes(CKA_ALLOWED_MECHANISMS, blocks);
    let streamless = aes_key(&scene, 32, &[&wraps()[..], &[blocks]].concat());
    scene.wrap(cbc(), streamless, readable).expect("C_WrapKey");
    let open_kek = aes_key(&scene, 32, &[&wraps()[..], &open()].concat());
    let wrapped = scene.wrap(cbc(), open_kek, readable).expect("C_WrapKey");
    let template = signs(CKK_GENERIC_SECRET);
    assert_eq!(scene.unwrap(cbc(), kek, &wrapped, &template), Err(CKR_MECHANISM_INVALID));
    assert_eq!(scene.unwrap(CKM_RSA_PKCS, own.1, &[0; 256], &template), Err(CKR_MECHANISM_INVALID));

    // Who unwrapped by a key that needs no login would need none for what comes out.
    let of_nobody = aes_key(&scene, 32, &[&wraps()[..], &[flag(CKA_PRIVATE, false)]].concat());
    assert_eq!(scene.wrap(CKM_AES_KEY_WRAP, of_nobody, target), Err(CKR_KEY_NOT_WRAPPABLE));
    scene.wrap(CKM_AES_KEY_WRAP, of_nobody, readable).expect("C_WrapKey");

    // Through the token's own pair, there and back: the same key, and safe whatever the template says.
    let wrapped = scene.wrap(oaep(), own.0, target).expect("C_WrapKey");
    let back = scene.unwrap(oaep(), own.1, &wrapped, &[&template[..], &open()].concat());
    let back = back.expect("C_UnwrapKey");
    scene.assert_hides(back, &VALUE);
    assert!(scene.is(back, CKA_SENSITIVE) && !scene.is(back, CKA_EXTRACTABLE));
    for kind in [CKA_WRAP, CKA_UNWRAP, CKA_DERIVE, CKA_LOCAL, CKA_ALWAYS_SENSITIVE] {
        assert!(!scene.is(back, kind), "{kind:#x}");
    }

    // Trusted keys alone, if the target says so; and the SO's word opens what P7 closed.
    let careful = [&guarded()[..], &[flag(CKA_WRAP_WITH_TRUSTED, true)]].concat();
    let careful = scene.secret(CKK_GENERIC_SECRET, &VALUE, &careful);
    assert_eq!(scene.wrap(oaep(), own.0, careful), Err(CKR_KEY_NOT_WRAPPABLE));
    let trusted = [flag(CKA_TRUSTED, true)];
    let refused = app.set_attributes(session, foreign, &trusted);
    assert_eq!(refused.unwrap_err().0, CKR_ATTRIBUTE_READ_ONLY);
    for token in [readable, fixed, target, careful] {
        assert!(!scene.is(token, CKA_TOKEN));
    }
    app.logout(session).expect("C_Logout");
    app.login_so(session, SO_PIN).expect("C_Login of the SO");
    app.set_attributes(session, foreign, &trusted).expect("the SO trusts it");
    app.logout(session).expect("C_Logout");
    app.login(session, swtpm_tests::bench::PIN).expect("C_Login");
    for more in [&[][..], &[flag(CKA_WRAP_WITH_TRUSTED, true)]] {
        let target = scene.secret(CKK_GENERIC_SECRET, &VALUE, &[&guarded()[..], more].concat());
        let wrapped = scene.wrap(oaep(), foreign, target).expect("C_WrapKey");
        assert_eq!(pair.decrypt(&wrapped, &OAEP), Some(VALUE.to_vec()));
    }
}

/// Every mechanism that P9 lets wrap a sensitive key, with the keys for both ways.
fn sound(scene: &Scene) -> Vec<(Mechanism, u64, u64)> {
    let kek = aes_key(scene, 32, &wraps());
    let pair = scene.app.generate_pair(
        scene.session,
        CKM_RSA_PKCS_KEY_PAIR_GEN,
        &[number(CKA_MODULUS_BITS, 2048), flag(CKA_WRAP, true)],
        &[flag(CKA_UNWRAP, true)],
    );
    let (public, private) = pair.expect("C_GenerateKeyPair");
    let key_wraps =
        [CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD, CKM_AES_KEY_WRAP_PKCS7];
    let rsa_aes = Mechanism::rsa_aes(256, CKM_SHA256, CKG_MGF1_SHA256);
    key_wraps
        .into_iter()
        .map(|id| (id.into(), kek, kek))
        .chain([(rsa_aes, public, private)])
        .collect()
}

#[test]
fn a_sensitive_key_of_any_kind_goes_out_and_comes_back_and_any_change_is_noticed() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let leaves = [flag(CKA_SIGN, true), flag(CKA_EXTRACTABLE, true)];
    let size = [bytes(CKA_EC_PARAMS, P256)];
    let ec = app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &size, &leaves);
    let (point, ec) = ec.expect("C_GenerateKeyPair");
    let size = [number(CKA_MODULUS_BITS, 1024)];
    let rsa = app.generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, &size, &leaves);
    let (modulus, rsa) = rsa.expect("C_GenerateKeyPair");
    let secrets: Vec<_> = [9, 16, 20, 31, 64, 128]
        .map(|length| (0..length).map(|at| at as u8 ^ 0xA5).collect::<Vec<u8>>())
        .into_iter()
        .map(|value| (scene.secret(CKK_GENERIC_SECRET, &value, &guarded()), value))
        .collect();
    for (mechanism, by, back) in sound(&scene) {
        for (key, value) in &secrets {
            let wrapped = scene.wrap(mechanism.clone(), by, *key).expect("C_WrapKey");
            let length = number(CKA_VALUE_LEN, value.len() as u64);
            let template = [&signs(CKK_GENERIC_SECRET)[..], &[length]].concat();
            let made = scene.unwrap(mechanism.clone(), back, &wrapped, &template);
            scene.assert_hides(made.expect("C_UnwrapKey"), value);
            for at in [0, wrapped.len() / 2, wrapped.len() - 1] {
                let mut changed = wrapped.clone();
                changed[at] ^= 1;
                let made = scene.unwrap(mechanism.clone(), back, &changed, &template);
                assert_eq!(made, Err(CKR_WRAPPED_KEY_INVALID), "{mechanism:?}, byte {at}");
            }
        }
        for (public, key, key_type, sign) in
            [(point, ec, CKK_EC, CKM_ECDSA_SHA256), (modulus, rsa, CKK_RSA, CKM_SHA256_RSA_PKCS)]
        {
            let wrapped = scene.wrap(mechanism.clone(), by, key).expect("C_WrapKey");
            let template = [
                number(CKA_CLASS, CKO_PRIVATE_KEY),
                number(CKA_KEY_TYPE, key_type),
                flag(CKA_SIGN, true),
            ];
            let made = scene.unwrap(mechanism.clone(), back, &wrapped, &template);
            let made = made.expect("C_UnwrapKey");
            assert!(!scene.is(made, CKA_EXTRACTABLE) && scene.is(made, CKA_SENSITIVE));
            let signature = app.sign(session, sign, made, b"data").expect("C_Sign");
            app.verify(session, sign, public, b"data", &signature).expect("C_Verify");
        }
    }
}

// ---- as one message of GCM or CCM ---------------------------------------------------------------

/// With a nonce that the token makes, and a tag of 16 bytes.
fn message(kind: u64) -> Message {
    let nonce = if kind == CKM_AES_GCM { 12 } else { 13 };
    Message { generator: CKG_GENERATE, ..Message::new(kind, &vec![0; nonce], 16, 0) }
}

/// With a nonce of the caller's.
fn given(kind: u64) -> Message {
    let message = message(kind);
    let nonce = vec![0x4E; message.nonce.len()];
    Message { generator: CKG_NO_GENERATE, nonce, ..message }
}

fn mode(kind: u64) -> &'static str {
    if kind == CKM_AES_GCM { "GCM" } else { "CCM" }
}

#[test]
fn a_key_is_one_message_of_gcm_or_ccm_under_a_nonce_of_the_tokens() {
    let scene = Scene::configured("[policy]\napi_attacks = \"standard\"");
    let (app, session) = (&scene.app, scene.session);
    // Under `standard` a key that is known may wrap, so that OpenSSL can look inside.
    let kek = scene.secret(CKK_AES, &VALUE[..16], &wraps());
    let target = scene.secret(CKK_GENERIC_SECRET, &VALUE, &guarded());
    let leaves = [flag(CKA_SIGN, true), flag(CKA_EXTRACTABLE, true)];
    let size = [bytes(CKA_EC_PARAMS, P256)];
    let ec = app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &size, &leaves);
    let (point, ec) = ec.expect("C_GenerateKeyPair");
    let private =
        [number(CKA_CLASS, CKO_PRIVATE_KEY), number(CKA_KEY_TYPE, CKK_EC), flag(CKA_SIGN, true)];
    for kind in [CKM_AES_GCM, CKM_AES_CCM] {
        let mut nonces = Vec::new();
        for _ in 0..2 {
            let mut message = message(kind);
            let wrapped = app.wrap_authenticated(session, &mut message, b"aad", kek, target);
            let wrapped = wrapped.expect("C_WrapKeyAuthenticated");
            assert_eq!(wrapped.len(), VALUE.len());
            let whole = [&wrapped[..], &message.tag].concat();
            let key = &VALUE[..16];
            let opened = openssl::aead(mode(kind), false, key, &message.nonce, b"aad", 16, &whole);
            assert_eq!(opened.as_deref(), Some(&VALUE[..]), "{kind:#x}");
            let template = signs(CKK_GENERIC_SECRET);
            let unwrap = |message: &Message, additional: &[u8], wrapped: &[u8]| {
                app.unwrap_authenticated(session, message, additional, kek, wrapped, &template)
                    .map_err(|rv| rv.0)
            };
            scene.assert_hides(unwrap(&message, b"aad", &wrapped).expect("a key"), &VALUE);
            // C_UnwrapKey takes the same with the tag behind it.
            let made = scene.unwrap(message.wrapping(b"aad"), kek, &whole, &template);
            scene.assert_hides(made.expect("C_UnwrapKey"), &VALUE);

            let invalid = Err(CKR_WRAPPED_KEY_INVALID);
            assert_eq!(unwrap(&message, b"other", &wrapped), invalid);
            let mut changed = message.clone();
            changed.tag[15] ^= 1;
            assert_eq!(unwrap(&changed, b"aad", &wrapped), invalid);
            let mut changed = message.clone();
            changed.nonce[0] ^= 1;
            assert_eq!(unwrap(&changed, b"aad", &wrapped), invalid);
            let mut changed = wrapped.clone();
            changed[0] ^= 1;
            assert_eq!(unwrap(&message, b"aad", &changed), invalid);
            nonces.push(message.nonce);
        }
        assert_ne!(nonces[0], nonces[1]);

        let mut message = message(kind);
        let wrapped = app.wrap_message(session, &mut message, b"", kek, ec).expect("C_WrapKey");
        let made = scene.unwrap(message.wrapping(b""), kek, &wrapped, &private);
        let made = made.expect("C_UnwrapKey");
        let signature = app.sign(session, CKM_ECDSA_SHA256, made, b"data").expect("C_Sign");
        app.verify(session, CKM_ECDSA_SHA256, point, b"data", &signature).expect("C_Verify");
        for length in [0, 15] {
            let made = scene.unwrap(message.wrapping(b""), kek, &wrapped[..length], &private);
            assert_eq!(made, Err(CKR_WRAPPED_KEY_LEN_RANGE), "{length}");
        }
    }
}

#[test]
fn a_sensitive_key_is_no_message_under_a_nonce_of_the_callers() {
    // D09: two keys under one nonce give their difference away, and the key that authenticates.
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let kek = aes_key(&scene, 32, &wraps());
    let target = scene.secret(CKK_GENERIC_SECRET, &VALUE, &guarded());
    let readable = scene.secret(CKK_GENERIC_SECRET, &VALUE, &open());
    let open_kek = aes_key(&scene, 32, &[&wraps()[..], &open()].concat());
    let template = signs(CKK_GENERIC_SECRET);
    for kind in [CKM_AES_GCM, CKM_AES_CCM] {
        let short = Message { tag: vec![0; 8], ..message(kind) };
        let counted = Message { generator: CKG_GENERATE_COUNTER, ..message(kind) };
        let fixed = Message { fixed_bits: 32, ..message(kind) };
        for refused in [given(kind), short, counted, fixed] {
            // A readable key under the nonce of a sensitive one would give that away.
            for key in [target, readable] {
                let wrapped = scene.wrap(refused.wrapping(b""), kek, key);
                let apart = app.wrap_authenticated(session, &mut refused.clone(), b"", kek, key);
                assert_eq!(wrapped, Err(CKR_MECHANISM_PARAM_INVALID), "{refused:?}");
                assert_eq!(apart.unwrap_err().0, CKR_MECHANISM_PARAM_INVALID, "{refused:?}");
            }
            // A key that wraps no sensitive keys wraps as the caller says.
            let wrapped = scene.wrap(refused.wrapping(b""), open_kek, readable);
            let short = kind == CKM_AES_GCM && refused.tag.len() == 8;
            assert_eq!(wrapped.err(), short.then_some(CKR_MECHANISM_PARAM_INVALID), "{refused:?}");
        }
        // Counted nonces go on from key to key, whichever function asks.
        let mut counted = Message { generator: CKG_GENERATE_COUNTER, ..message(kind) };
        let mut nonces = Vec::new();
        for apart in [false, true, true] {
            let made = match apart {
                false => app.wrap_message(session, &mut counted, b"", open_kek, readable),
                true => app.wrap_authenticated(session, &mut counted, b"", open_kek, readable),
            };
            made.expect("C_WrapKey");
            nonces.push(counted.nonce.clone());
        }
        nonces.dedup();
        assert_eq!(nonces.len(), 3, "{nonces:02x?}");
        for mut sound in
            [message(kind), Message { generator: CKG_GENERATE_RANDOM, ..message(kind) }]
        {
            let wrapped = app.wrap_message(session, &mut sound, b"x", kek, target);
            let wrapped = wrapped.expect("C_WrapKey");
            let made = scene.unwrap(sound.wrapping(b"x"), kek, &wrapped, &template);
            scene.assert_hides(made.expect("C_UnwrapKey"), &VALUE);
        }
        // A short tag could be guessed.
        let short = Message { tag: vec![0; 8], ..given(kind) };
        let made = app.unwrap_authenticated(session, &short, b"", kek, &[0; 32], &template);
        assert_eq!(made.unwrap_err().0, CKR_MECHANISM_PARAM_INVALID);
        // What is refused is refused before anything else happens, and a length costs nothing.
        let (record, ()) = scene.bench.shim.watch(|| {
            let mut arguments: Vec<Argument> = vec![session.into()];
            arguments.push(message(kind).mechanism().memory().into());
            arguments.extend([kek.into(), target.into(), Argument::NULL, 0.into()]);
            let mut query = arguments.clone();
            query.extend([Argument::NULL, Memory::word(0).into()]);
            let (rv, after) = app.raw("C_WrapKeyAuthenticated", query);
            assert_eq!((rv, after[7].memory().word_at(0)), (CKR_OK, 32));
            arguments.extend([Memory::room(31).into(), Memory::word(31).into()]);
            let (rv, after) = app.raw("C_WrapKeyAuthenticated", arguments);
            assert_eq!((rv, after[7].memory().word_at(0)), (CKR_BUFFER_TOO_SMALL, 32));
        });
        assert!(record.names().is_empty(), "{}", record.lines());
    }
    let public = public(&scene, &rsa(), &[]);
    for (kind, by, expected) in [
        (CKM_AES_GCM, public, CKR_WRAPPING_KEY_TYPE_INCONSISTENT),
        (CKM_AES_GCM, readable, CKR_WRAPPING_KEY_TYPE_INCONSISTENT),
        (CKM_AES_GCM, 0xBAD, CKR_WRAPPING_KEY_HANDLE_INVALID),
        (CKM_AES_KEY_WRAP, kek, CKR_MECHANISM_INVALID),
        (CKM_AES_CTR, kek, CKR_MECHANISM_INVALID),
    ] {
        let mut message = Message { kind, ..message(CKM_AES_GCM) };
        let wrapped = app.wrap_authenticated(session, &mut message, b"", by, target);
        assert_eq!(wrapped.unwrap_err().0, expected, "{kind:#x}");
    }
    // No parameter, and that of encryption.
    for wrong in [CKM_AES_GCM.into(), Mechanism::gcm(CKM_AES_GCM, &[1; 12], b"", 128)] {
        assert_eq!(scene.wrap(wrong, kek, target), Err(CKR_MECHANISM_PARAM_INVALID));
    }
}

#[test]
fn zeros_that_fill_a_key_up_are_taken_off_and_nothing_else() {
    let scene = Scene::start();
    let kek = aes_key(&scene, 32, &wraps());
    let value = [&[7; 19][..], &[0]].concat();
    let key = scene.secret(CKK_GENERIC_SECRET, &value, &guarded());
    let wrapped = scene.wrap(CKM_AES_KEY_WRAP, kek, key).expect("C_WrapKey");
    let back = |length: &[Attribute]| {
        let template = [&signs(CKK_GENERIC_SECRET)[..], length].concat();
        scene.unwrap(CKM_AES_KEY_WRAP, kek, &wrapped, &template)
    };
    scene.assert_hides(back(&[number(CKA_VALUE_LEN, 20)]).expect("C_UnwrapKey"), &value);
    scene.assert_hides(back(&[number(CKA_VALUE_LEN, 19)]).expect("C_UnwrapKey"), &value[..19]);
    let filled = [&value[..], &[0; 4]].concat();
    scene.assert_hides(back(&[]).expect("whole semiblocks"), &filled);
    for length in [1, 16, 17, 18, 25] {
        let made = back(&[number(CKA_VALUE_LEN, length)]);
        assert_eq!(made, Err(CKR_WRAPPED_KEY_LEN_RANGE), "{length}");
    }
    // Two semiblocks are the least.
    let short = scene.secret(CKK_GENERIC_SECRET, &[1; 8], &guarded());
    assert_eq!(scene.wrap(CKM_AES_KEY_WRAP, kek, short), Err(CKR_KEY_SIZE_RANGE));
    scene.wrap(CKM_AES_KEY_WRAP_KWP, kek, short).expect("C_WrapKey");
}

#[test]
fn rsa_aes_key_wrap_refuses_wrong_parameters_and_says_nothing_of_what_is_inside() {
    let scene = Scene::start();
    let pair = rsa();
    let (public, private) = (public(&scene, &pair, &[]), private(&scene, &pair, &[]));
    let key = scene.secret(CKK_GENERIC_SECRET, &VALUE, &open());
    let sha256 = |bits| Mechanism::rsa_aes(bits, CKM_SHA256, CKG_MGF1_SHA256);
    let null = Mechanism::with(CKM_RSA_AES_KEY_WRAP, Memory::of([0; 16]));
    for mechanism in [
        sha256(0),
        sha256(127),
        sha256(512),
        CKM_RSA_AES_KEY_WRAP.into(),
        Mechanism::rsa_aes(256, CKM_AES_ECB, CKG_MGF1_SHA256),
        null,
    ] {
        let refused = scene.wrap(mechanism.clone(), public, key);
        assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID), "{mechanism:?}");
    }
    let template = signs(CKK_GENERIC_SECRET);
    let sealed = |kek: &[u8], inner: &[u8]| {
        let outer = pair.encrypt(kek, &OAEP).expect("OpenSSL encrypts");
        let inner = openssl::aes("WRAP-PAD", true, false, inner, &[], &VALUE).expect("wrapped");
        [outer, inner].concat()
    };
    let good = sealed(&[3; 32], &[3; 32]);
    let made = scene.unwrap(sha256(256), private, &good, &template).expect("C_UnwrapKey");
    scene.assert_hides(made, &VALUE);
    let mut changed = good.clone();
    changed[100] ^= 1;
    for bad in [
        changed,
        sealed(&[3; 32], &[4; 32]),
        sealed(&[3; 16], &[3; 16]),
        sealed(&[3; 33], &[3; 32]),
        [&[0xFF; 256], &good[256..]].concat(),
    ] {
        let made = scene.unwrap(sha256(256), private, &bad, &template);
        assert_eq!(made, Err(CKR_WRAPPED_KEY_INVALID));
    }
    for length in [0, 255, 256, 264, 271] {
        let made = scene.unwrap(sha256(256), private, &good[..length], &template);
        assert_eq!(made, Err(CKR_WRAPPED_KEY_LEN_RANGE), "{length}");
    }
}

#[test]
fn a_wrapping_key_is_as_strong_as_what_it_wraps() {
    let scene = Scene::start();
    let kek = aes_key(&scene, 16, &wraps());
    for (length, expected) in [(16, None), (32, Some(CKR_WRAPPING_KEY_SIZE_RANGE))] {
        let target = aes_key(&scene, length, &guarded());
        assert_eq!(scene.wrap(CKM_AES_KEY_WRAP, kek, target).err(), expected, "{length}");
    }
    let small = scene.app.generate_pair(
        scene.session,
        CKM_RSA_PKCS_KEY_PAIR_GEN,
        &[number(CKA_MODULUS_BITS, 1024), flag(CKA_WRAP, true)],
        &[flag(CKA_UNWRAP, true)],
    );
    let small = small.expect("C_GenerateKeyPair").0;
    let target = aes_key(&scene, 32, &guarded());
    let sha1 = Mechanism::oaep(CKM_SHA_1, CKG_MGF1_SHA1, b"");
    assert_eq!(scene.wrap(sha1.clone(), small, target), Err(CKR_WRAPPING_KEY_SIZE_RANGE));
    let readable = scene.secret(CKK_AES, &VALUE, &open());
    scene.wrap(sha1, small, readable).expect("what everybody may read");
}

#[test]
fn wrong_keys_parameters_and_permissions_are_refused() {
    let scene = Scene::start();
    let pair = rsa();
    let public = public(&scene, &pair, &[]);
    let private = private(&scene, &pair, &[]);
    let wrapping = aes_key(&scene, 32, &[&open()[..], &[flag(CKA_WRAP, true)]].concat());
    let idle = scene.secret(CKK_AES, &VALUE, &open());
    let key = scene.secret(CKK_GENERIC_SECRET, &VALUE, &open());
    for (mechanism, by, expected) in [
        (cbc(), public, CKR_WRAPPING_KEY_TYPE_INCONSISTENT),
        (oaep(), wrapping, CKR_WRAPPING_KEY_TYPE_INCONSISTENT),
        (cbc(), idle, CKR_KEY_FUNCTION_NOT_PERMITTED),
        (oaep(), private, CKR_KEY_FUNCTION_NOT_PERMITTED),
        (cbc(), 0xBAD, CKR_WRAPPING_KEY_HANDLE_INVALID),
        (Mechanism::from(CKM_AES_CBC_PAD), wrapping, CKR_MECHANISM_PARAM_INVALID),
        (Mechanism::bytes(CKM_AES_CBC_PAD, &[0; 15]), wrapping, CKR_MECHANISM_PARAM_INVALID),
        (Mechanism::from(CKM_RSA_PKCS_OAEP), public, CKR_MECHANISM_PARAM_INVALID),
        (Mechanism::bytes(CKM_RSA_PKCS, &[0]), public, CKR_MECHANISM_PARAM_INVALID),
        (Mechanism::from(CKM_SHA256), wrapping, CKR_MECHANISM_INVALID),
        (Mechanism::bytes(CKM_AES_CTR, &IV), wrapping, CKR_MECHANISM_INVALID),
    ] {
        assert_eq!(scene.wrap(mechanism.clone(), by, key), Err(expected), "{mechanism:?}");
    }
    assert_eq!(scene.wrap(cbc(), wrapping, 0xBAD), Err(CKR_KEY_HANDLE_INVALID));
    assert_eq!(scene.wrap(cbc(), wrapping, public), Err(CKR_KEY_NOT_WRAPPABLE));
    // Too long for the modulus, not for AES.
    let long = scene.secret(CKK_GENERIC_SECRET, &[1; 250], &open());
    assert_eq!(scene.wrap(CKM_RSA_PKCS, public, long), Err(CKR_KEY_SIZE_RANGE));
    assert_eq!(scene.wrap(oaep(), public, long), Err(CKR_KEY_SIZE_RANGE));
    scene.wrap(cbc(), wrapping, long).expect("C_WrapKey");
    let narrow = [flag(CKA_WRAP, true), bytes(CKA_ALLOWED_MECHANISMS, CKM_AES_CBC.to_ne_bytes())];
    let narrow = aes_key(&scene, 32, &[&open()[..], &narrow].concat());
    assert_eq!(scene.wrap(cbc(), narrow, key), Err(CKR_MECHANISM_INVALID));

    let wrapped = pair.encrypt(&VALUE, &OAEP).expect("OpenSSL encrypts");
    let template = signs(CKK_GENERIC_SECRET);
    for (mechanism, by, expected) in [
        (oaep(), public, CKR_KEY_FUNCTION_NOT_PERMITTED),
        (oaep(), wrapping, CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT),
        (oaep(), 0xBAD, CKR_UNWRAPPING_KEY_HANDLE_INVALID),
        (Mechanism::from(CKM_RSA_PKCS_OAEP), private, CKR_MECHANISM_PARAM_INVALID),
        (Mechanism::from(CKM_SHA256), private, CKR_MECHANISM_INVALID),
    ] {
        let made = scene.unwrap(mechanism.clone(), by, &wrapped, &template);
        assert_eq!(made, Err(expected), "{mechanism:?}");
    }
    let with = |more: &[Attribute]| {
        scene.unwrap(oaep(), private, &wrapped, &[&template[..], more].concat())
    };
    for (more, expected) in [
        (bytes(CKA_VALUE, VALUE), CKR_ATTRIBUTE_READ_ONLY),
        (flag(CKA_LOCAL, true), CKR_ATTRIBUTE_READ_ONLY),
        (flag(CKA_TRUSTED, true), CKR_ATTRIBUTE_READ_ONLY),
        (number(CKA_VALUE_LEN, 16), CKR_WRAPPED_KEY_LEN_RANGE),
        (number(CKA_VALUE_LEN, 33), CKR_WRAPPED_KEY_LEN_RANGE),
        (number(CKA_MODULUS_BITS, 33), CKR_TEMPLATE_INCONSISTENT),
        (number(CKA_CLASS, CKO_DATA), CKR_TEMPLATE_INCONSISTENT),
    ] {
        assert_eq!(with(std::slice::from_ref(&more)), Err(expected), "{:#x}", more.kind);
    }
    with(&[number(CKA_VALUE_LEN, 32)]).expect("its length");
    for template in [&template[1..], &template[..1]] {
        let made = scene.unwrap(oaep(), private, &wrapped, template);
        assert_eq!(made, Err(CKR_TEMPLATE_INCOMPLETE));
    }
    // A secret is no private key, and 20 bytes are no AES key.
    let ec = [number(CKA_CLASS, CKO_PRIVATE_KEY), number(CKA_KEY_TYPE, CKK_EC)];
    let made = scene.unwrap(oaep(), private, &wrapped, &ec);
    assert_eq!(made, Err(CKR_WRAPPED_KEY_INVALID));
    let wrapped = pair.encrypt(&[9; 20], &OAEP).expect("OpenSSL encrypts");
    let made = scene.unwrap(oaep(), private, &wrapped, &signs(CKK_AES));
    assert_eq!(made, Err(CKR_WRAPPED_KEY_LEN_RANGE));
    for length in [0, 1, 255, 257, 70_000] {
        let made = scene.unwrap(oaep(), private, &vec![1; length], &signs(CKK_GENERIC_SECRET));
        assert_eq!(made, Err(CKR_WRAPPED_KEY_LEN_RANGE), "{length}");
    }
}

#[test]
fn the_templates_of_wrapping_keys_hold() {
    let scene = Scene::configured("[policy]\napi_attacks = \"standard\"");
    let readable = |value: &[u8]| scene.secret(CKK_AES, value, &open());
    let prescribing =
        |kind, template: &[Attribute]| [&wraps()[..], &[prescribes(kind, template)]].concat();
    let only_aes = [number(CKA_KEY_TYPE, CKK_AES), flag(CKA_EXTRACTABLE, true)];
    let by = aes_key(&scene, 32, &prescribing(CKA_WRAP_TEMPLATE, &only_aes));
    scene.wrap(cbc(), by, readable(&VALUE)).expect("what the template describes");
    let other = scene.secret(CKK_GENERIC_SECRET, &VALUE, &open());
    assert_eq!(scene.wrap(cbc(), by, other), Err(CKR_KEY_HANDLE_INVALID));

    let prescribed = [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)];
    let by = aes_key(&scene, 32, &prescribing(CKA_UNWRAP_TEMPLATE, &prescribed));
    let wrapped = scene.wrap(cbc(), by, other).expect("C_WrapKey");
    let template = signs(CKK_GENERIC_SECRET);
    let made = scene.unwrap(cbc(), by, &wrapped, &[&template[..], &open()].concat());
    assert_eq!(made, Err(CKR_TEMPLATE_INCONSISTENT));
    let made = scene.unwrap(cbc(), by, &wrapped, &template).expect("a silent caller");
    scene.assert_hides(made, &VALUE);
    assert!(!scene.is(made, CKA_EXTRACTABLE));

    // Without a template the specification's own default.
    let plain = aes_key(&scene, 32, &wraps());
    let wrapped = scene.wrap(cbc(), plain, other).expect("C_WrapKey");
    let made = scene.unwrap(cbc(), plain, &wrapped, &template).expect("C_UnwrapKey");
    assert!(scene.is(made, CKA_EXTRACTABLE) && scene.is(made, CKA_SENSITIVE));
}

// ---- from one TPM to another --------------------------------------------------------------------

/// A private key that OpenSSL knows, brought in so that it may leave.
fn brought_in(key: &Key, more: &[Attribute]) -> Vec<Attribute> {
    let own = [
        number(CKA_CLASS, CKO_PRIVATE_KEY),
        number(CKA_KEY_TYPE, CKK_EC),
        bytes(CKA_EC_PARAMS, P256),
        bytes(CKA_VALUE, key.number("priv")),
        flag(CKA_SIGN, true),
        flag(CKA_EXTRACTABLE, true),
    ];
    [&own[..], more].concat()
}

fn storage_key_of(scene: &Scene) -> u64 {
    let wanted = [flag(CKA_TRUSTED, true), bytes(CKA_LABEL, STORAGE_KEY)];
    let found = scene.app.find(scene.session, &wanted).expect("C_FindObjects");
    assert_eq!(found.len(), 1);
    found[0]
}

#[test]
fn a_key_moves_between_two_tpms_and_is_in_clear_on_neither_bus() {
    let (here, there) = (Scene::start(), Scene::start());
    here.bench.trust(&there.bench);
    let target = storage_key_of(&here);
    let ec = Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let named = [bytes(CKA_LABEL, "traveller"), bytes(CKA_ID, [1, 2, 3])];
    let private = here.app.create_object(here.session, &brought_in(&ec, &named));
    let private = private.expect("C_CreateObject");
    let allowed = bytes(CKA_ALLOWED_MECHANISMS, CKM_SHA256_HMAC.to_ne_bytes());
    let limited = [&guarded()[..], &[allowed.clone(), flag(CKA_SIGN, true)]].concat();
    let secret = here.secret(CKK_GENERIC_SECRET, &VALUE, &limited);
    let drawn = aes_key(&here, 32, &guarded());
    let sealed = here.app.encrypt(here.session, CKM_AES_ECB, drawn, &[9; 64]).expect("C_Encrypt");

    let (sent, blobs) = here.bench.shim.watch(|| {
        [private, secret, drawn]
            .map(|key| here.wrap(CKM_TPM11_DUPLICATE, target, key).expect("C_WrapKey"))
    });
    let (arrived, keys) = there.bench.shim.watch(|| {
        blobs.clone().map(|blob| {
            let kept = [flag(CKA_TOKEN, true)];
            there.unwrap(CKM_TPM11_DUPLICATE, 0, &blob, &kept).expect("C_UnwrapKey")
        })
    });
    assert!(sent.names().contains(&"Duplicate"), "{}", sent.lines());
    assert!(arrived.names().contains(&"Import"), "{}", arrived.lines());
    for plain in [&ec.number("priv")[..], &VALUE] {
        for part in plain.chunks(16) {
            sent.assert_hides(part);
            arrived.assert_hides(part);
            assert!(blobs.iter().all(|blob| !blob.windows(16).any(|window| window == part)));
        }
    }
    assert!(!blobs[0].windows(9).any(|window| window == b"traveller"), "attributes are hidden");

    // They are what they were, and as closed as what is unwrapped.
    let [private, secret, drawn] = keys;
    let digest = openssl::digest("sha256", b"data");
    let signed = there.app.sign(there.session, CKM_ECDSA_SHA256, private, b"data");
    assert!(ec.verifies(&digest, &openssl::ecdsa_der(&signed.expect("C_Sign")), &[]));
    let info = there.app.attribute(there.session, private, CKA_PUBLIC_KEY_INFO);
    assert_eq!(info, Ok(ec.info()));
    for attribute in named {
        let read = there.app.attribute(there.session, private, attribute.kind);
        assert_eq!(read, Ok(attribute.value));
    }
    there.assert_hides(secret, &VALUE);
    let read = there.app.attribute(there.session, secret, CKA_ALLOWED_MECHANISMS);
    assert_eq!(read, Ok(allowed.value));
    let refused = there.app.sign(there.session, CKM_SHA512_HMAC, secret, b"data");
    assert_eq!(refused.unwrap_err().0, CKR_MECHANISM_INVALID);
    let opened = there.app.decrypt(there.session, CKM_AES_ECB, drawn, &sealed);
    assert_eq!(opened, Ok(vec![9; 64]));
    for key in keys {
        assert!(there.is(key, CKA_SENSITIVE));
        for kind in [CKA_EXTRACTABLE, CKA_LOCAL, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE] {
            assert!(!there.is(key, kind), "{kind:#x}");
        }
        assert_eq!(there.app.attribute_flag(there.session, key, CKA_UNWRAP), Ok(false));
        let residence = there.app.attribute(there.session, key, CKA_TPM11_RESIDENCE);
        assert_eq!(residence, Ok(b"tpm-imported".to_vec()));
        assert_eq!(there.wrap(CKM_AES_KEY_WRAP, 0, key), Err(CKR_WRAPPING_KEY_HANDLE_INVALID));
    }
    // They stay: another process finds and uses them.
    let (app, session) = there.bench.logged_in();
    let found = app.find(session, &[bytes(CKA_LABEL, "traveller")]).expect("C_FindObjects");
    assert_eq!(found.len(), 1);
    app.sign(session, CKM_ECDSA_SHA256, found[0], b"data").expect("C_Sign");

    // For no other TPM; and not changed, whatever byte it is.
    let back = here.unwrap(CKM_TPM11_DUPLICATE, 0, &blobs[0], &[]);
    assert_eq!(back, Err(CKR_WRAPPED_KEY_INVALID));
    for at in (0..blobs[1].len()).step_by(9) {
        let mut changed = blobs[1].clone();
        changed[at] ^= 1;
        let made = there.unwrap(CKM_TPM11_DUPLICATE, 0, &changed, &[]);
        assert_eq!(made, Err(CKR_WRAPPED_KEY_INVALID), "byte {at}");
    }
    for length in [0, 1, 20, blobs[1].len() - 1] {
        let made = there.unwrap(CKM_TPM11_DUPLICATE, 0, &blobs[1][..length], &[]);
        assert_eq!(made, Err(CKR_WRAPPED_KEY_INVALID), "{length} bytes");
    }
    let open = there.unwrap(CKM_TPM11_DUPLICATE, 0, &blobs[1], &open());
    assert_eq!(open, Err(CKR_TEMPLATE_INCONSISTENT));
}

#[test]
fn a_key_moves_to_no_tpm_that_the_so_does_not_trust_and_only_if_it_may_leave() {
    let scene = Scene::configured("[policy]\napi_attacks = \"standard\"");
    let (app, session) = (&scene.app, scene.session);
    // D19: a "storage key" made in software, under both policies.
    let forged = storage_key(&Key::generate("EC", &["ec_paramgen_curve:P-256"]));
    let target = app.create_object(session, &forged).expect("C_CreateObject");
    let key = aes_key(&scene, 32, &guarded());
    let refused = scene.wrap(CKM_TPM11_DUPLICATE, target, key);
    assert_eq!(refused, Err(CKR_KEY_NOT_WRAPPABLE));
    let trusted = [flag(CKA_TRUSTED, true)];
    let refused = app.set_attributes(session, target, &trusted);
    assert_eq!(refused.unwrap_err().0, CKR_ATTRIBUTE_READ_ONLY);
    let refused = app.create_object(session, &[&forged[..], &trusted].concat());
    assert_eq!(refused.unwrap_err().0, CKR_ATTRIBUTE_READ_ONLY);
    // What it shows must be what it carries.
    let other = storage_key(&Key::generate("EC", &["ec_paramgen_curve:P-256"]));
    let mut mixed = forged.clone();
    *mixed.last_mut().expect("the area") = other.last().expect("the area").clone();
    let refused = app.create_object(session, &mixed);
    assert_eq!(refused.unwrap_err().0, CKR_ATTRIBUTE_VALUE_INVALID);
    for kind in [CKA_VERIFY, CKA_ENCRYPT, CKA_DERIVE] {
        assert!(!scene.is(target, kind), "{kind:#x}");
    }

    scene.bench.trust(&scene.bench);
    let target = storage_key_of(&scene);
    let fixed = aes_key(&scene, 32, &[flag(CKA_SENSITIVE, true)]);
    let readable = scene.secret(CKK_GENERIC_SECRET, &VALUE, &open());
    let plain = public(&scene, &rsa(), &[]);
    for (by, key, expected) in [
        (target, fixed, CKR_KEY_UNEXTRACTABLE),
        (target, readable, CKR_KEY_NOT_WRAPPABLE),
        (target, 0xBAD, CKR_KEY_HANDLE_INVALID),
        (0, key, CKR_WRAPPING_KEY_HANDLE_INVALID),
        (plain, key, CKR_WRAPPING_KEY_TYPE_INCONSISTENT),
    ] {
        assert_eq!(scene.wrap(CKM_TPM11_DUPLICATE, by, key), Err(expected));
    }
    let parameter = Mechanism::bytes(CKM_TPM11_DUPLICATE, &[0]);
    assert_eq!(scene.wrap(parameter, target, key), Err(CKR_MECHANISM_PARAM_INVALID));
    let pkcs1 = scene.wrap(CKM_RSA_PKCS, target, readable);
    assert_eq!(pkcs1, Err(CKR_WRAPPING_KEY_TYPE_INCONSISTENT), "it receives keys and no more");
    let blob = scene.wrap(CKM_TPM11_DUPLICATE, target, key).expect("C_WrapKey");
    for by in [target, plain, 0xBAD] {
        let made = scene.unwrap(CKM_TPM11_DUPLICATE, by, &blob, &[]);
        assert_eq!(made, Err(CKR_UNWRAPPING_KEY_HANDLE_INVALID));
    }
    scene.unwrap(CKM_TPM11_DUPLICATE, 0, &blob, &[]).expect("C_UnwrapKey");
}

// ---- what is not whole ----------------------------------------------------------------------------

#[test]
fn whatever_is_wrong_inside_is_one_code() {
    let scene = Scene::configured("[policy]\napi_attacks = \"standard\"");
    let kek = scene.secret(CKK_AES, &VALUE, &wraps());
    let seal =
        |plain: &[u8], padded| openssl::aes("CBC", true, padded, &VALUE, &IV, plain).unwrap();
    let aes = signs(CKK_AES);
    let ec = [number(CKA_CLASS, CKO_PRIVATE_KEY), number(CKA_KEY_TYPE, CKK_EC)];
    let key = Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let info = key.private_info();
    let mut other = info.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    let rsa = rsa().private_info();
    let trailing = [&info[..], &[0]].concat();
    for (wrapped, template) in [
        // Bad padding, of each kind.
        (seal(&[0; 32], false), &aes[..]),
        (seal(&[17; 32], false), &aes),
        (seal(&[&[1; 30][..], &[3, 2]].concat(), false), &aes),
        // Good padding around a key of another length.
        (seal(&[1; 20], true), &aes),
        (seal(&[1; 20], true), &[&aes[..], &[number(CKA_VALUE_LEN, 16)]].concat()),
        (seal(&[], true), &signs(CKK_GENERIC_SECRET)),
        // Something else than a private key; another type; another's public part; too much.
        (seal(&[0x30; 100], true), &ec),
        (seal(&rsa, true), &ec),
        (seal(&other, true), &ec),
        (seal(&trailing, true), &ec),
        (seal(&info[..info.len() - 1], true), &ec),
    ] {
        let made = scene.unwrap(cbc(), kek, &wrapped, template);
        assert_eq!(made, Err(CKR_WRAPPED_KEY_INVALID));
    }
    let mut wrapped = seal(&[5; 16], true);
    for change in 1..=255 {
        wrapped[15] ^= change;
        let made = scene.unwrap(cbc(), kek, &wrapped, &aes);
        wrapped[15] ^= change;
        assert_eq!(made, Err(CKR_WRAPPED_KEY_INVALID), "{change:#x}");
    }
    scene.unwrap(cbc(), kek, &wrapped, &aes).expect("the key itself");

    // RSA PKCS #1 v1.5: a bad padding is another key (implicit rejection), or none of the wanted length.
    let pair = self::rsa();
    let private = private(&scene, &pair, &[]);
    let block = |block: Vec<u8>| pair.encrypt(&block, &["rsa_padding_mode:none"]).unwrap();
    let padded = |start: &[u8]| block([start, &[0xEE; 254 - 33], &[0], &VALUE].concat());
    let good = padded(&[0, 2]);
    let made = scene.unwrap(CKM_RSA_PKCS, private, &good, &signs(CKK_GENERIC_SECRET));
    scene.assert_hides(made.expect("a good padding"), &VALUE);
    for bad in [padded(&[0, 1]), padded(&[0, 0]), block([&[0, 2][..], &[0xEE; 254]].concat())] {
        match scene.unwrap(CKM_RSA_PKCS, private, &bad, &aes) {
            Ok(_) => {}
            Err(rv) => assert_eq!(rv, CKR_WRAPPED_KEY_INVALID),
        }
    }
    // OAEP has one code for a wrong label, a wrong hash, and bytes that are none.
    let wrong = pair.encrypt(&VALUE, &["rsa_padding_mode:oaep"]).expect("OpenSSL encrypts");
    for bad in [wrong, good] {
        let made = scene.unwrap(oaep(), private, &bad, &signs(CKK_GENERIC_SECRET));
        assert_eq!(made, Err(CKR_WRAPPED_KEY_INVALID));
    }
}

/// Each rule left out alone, and what it had prevented.
#[test]
fn a_rule_of_wrapping_left_out_lets_its_attack_through() {
    let attacker = rsa();
    // A12: the attacker's public key.
    let leak = |scene: &Scene| {
        let target = scene.secret(CKK_GENERIC_SECRET, &VALUE, &guarded());
        let wrapped = scene.wrap(oaep(), public(scene, &attacker, &[]), target).ok()?;
        attacker.decrypt(&wrapped, &OAEP)
    };
    assert_eq!(leak(&Scene::start()), None);
    let scene = Scene::configured("[policy]\nwithout = [\"P7\"]");
    assert_eq!(leak(&scene), Some(VALUE.to_vec()), "P7 alone stopped it");

    // B12: unwrapped as a key that may be read.
    let read = |scene: &Scene| {
        let pair = scene.app.generate_pair(
            scene.session,
            CKM_RSA_PKCS_KEY_PAIR_GEN,
            &[number(CKA_MODULUS_BITS, 2048), flag(CKA_WRAP, true)],
            &[flag(CKA_UNWRAP, true)],
        );
        let (public, private) = pair.expect("C_GenerateKeyPair");
        let target = scene.secret(CKK_GENERIC_SECRET, &VALUE, &guarded());
        let wrapped = scene.wrap(oaep(), public, target).expect("C_WrapKey");
        let template = [&signs(CKK_GENERIC_SECRET)[..], &open()].concat();
        let made = scene.unwrap(oaep(), private, &wrapped, &template).expect("C_UnwrapKey");
        scene.app.attribute(scene.session, made, CKA_VALUE).ok()
    };
    assert_eq!(read(&scene), None);
    let scene = Scene::configured("[policy]\nwithout = [\"P10\"]");
    assert_eq!(read(&scene), Some(VALUE.to_vec()), "P10 alone stopped it");

    // D03: a padding that anybody can change.
    let scene = Scene::configured("[policy]\nwithout = [\"P9\"]");
    let kek = aes_key(&scene, 32, &wraps());
    let target = scene.secret(CKK_GENERIC_SECRET, &VALUE, &guarded());
    let mut wrapped = scene.wrap(cbc(), kek, target).expect("P9 alone refused it");
    wrapped[4] ^= 0x40;
    let made = scene.unwrap(cbc(), kek, &wrapped, &signs(CKK_GENERIC_SECRET));
    made.expect("a changed key is taken");
}
