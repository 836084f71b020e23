//! Input that is wrong in one way, and the one code that it must be answered with: templates,
//! mechanisms with their parameters, lengths, the order of calls, memory that is input and output at
//! once. What a wrong call leaves alone, tests/door.rs holds against many more of them.

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN};
use swtpm_tests::ck::{Attribute, Ck, Mechanism, P256, bytes, flag, number};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::{App, Bench};

/// A token with its user logged in, and a key pair of each kind.
struct World {
    _bench: Bench,
    app: App,
    slot: u64,
    session: u64,
    ec: (u64, u64),
    rsa: (u64, u64),
    data: u64,
}

/// A public data object of the session.
fn data() -> [Attribute; 4] {
    [
        number(CKA_CLASS, CKO_DATA),
        flag(CKA_TOKEN, false),
        flag(CKA_PRIVATE, false),
        bytes(CKA_VALUE, *b"value"),
    ]
}

impl World {
    fn build() -> World {
        let bench = Bench::start();
        bench.token();
        let app = bench.ready();
        let slot = app.slot_of(LABEL).unwrap();
        let session = app.open(slot).unwrap();
        app.login(session, PIN).unwrap();
        let ec = app
            .generate_pair(
                session,
                CKM_EC_KEY_PAIR_GEN,
                &[bytes(CKA_EC_PARAMS, P256), flag(CKA_VERIFY, true)],
                &[flag(CKA_SIGN, true), flag(CKA_DERIVE, true)],
            )
            .unwrap();
        let rsa = app
            .generate_pair(
                session,
                CKM_RSA_PKCS_KEY_PAIR_GEN,
                &[
                    number(CKA_MODULUS_BITS, 2048),
                    flag(CKA_VERIFY, true),
                    flag(CKA_VERIFY_RECOVER, true),
                    flag(CKA_ENCRYPT, true),
                ],
                &[flag(CKA_SIGN, true), flag(CKA_SIGN_RECOVER, true), flag(CKA_DECRYPT, true)],
            )
            .unwrap();
        let data = app.create_object(session, &data()).unwrap();
        World { _bench: bench, app, slot, session, ec, rsa, data }
    }

    /// A call in the session: its code.
    fn call(&self, function: &str, arguments: impl IntoIterator<Item = Argument>) -> u64 {
        let session = Argument::Word(self.session);
        self.app.raw(function, std::iter::once(session).chain(arguments).collect()).0
    }

    /// C_`kind`Init with a mechanism and a key (0: the function takes none).
    fn init(&self, kind: &str, mechanism: Argument, key: u64) -> u64 {
        let key = (key != 0).then_some(Argument::Word(key));
        self.call(&format!("C_{kind}Init"), std::iter::once(mechanism).chain(key))
    }

    fn objects(&self) -> Vec<u64> {
        self.app.find(self.session, &[]).unwrap()
    }
}

/// CK_MECHANISM.
fn mechanism(id: u64, parameter: Argument, length: u64) -> Argument {
    let mut memory = Memory::default();
    memory.push_word(id);
    match parameter {
        Argument::Word(word) => memory.push_word(word),
        parameter => memory.push_pointer(parameter.memory().clone()),
    }
    memory.push_word(length);
    memory.into()
}

fn plain(id: u64) -> Argument {
    mechanism(id, Argument::NULL, 0)
}

fn with(mechanism: Mechanism) -> Argument {
    mechanism.memory().into()
}

fn input(length: usize) -> [Argument; 2] {
    [Memory::of(vec![1; length]).into(), Argument::Word(length as u64)]
}

/// A buffer of `bytes` that is said to have `length`.
fn output(bytes: usize, length: u64) -> [Argument; 2] {
    [Memory::room(bytes).into(), Memory::word(length).into()]
}

// ---- templates

/// One entry of a template: type, value (`None`: NULL), length.
type Entry = (u64, Option<Vec<u8>>, u64);

fn entry(id: u64, value: &[u8]) -> Entry {
    (id, Some(value.to_vec()), value.len() as u64)
}

/// What each function says to a template: C_CreateObject, C_CopyObject, C_SetAttributeValue (of a data
/// object), the public and the private half of C_GenerateKeyPair, C_DeriveKey, C_FindObjectsInit.
type Codes = [u64; 7];

const FUNCTIONS: [&str; 7] = ["create", "copy", "set", "public", "private", "derive", "find"];

/// All functions but a search, for which nothing is wrong that can be read.
fn all(code: u64) -> Codes {
    [code, code, code, code, code, code, CKR_OK]
}

/// The templates that are wrong in one way, as they are added to sound ones.
fn wrong_templates() -> Vec<(&'static str, Vec<Entry>, Codes)> {
    let label = || entry(CKA_LABEL, b"one");
    let value = all(CKR_ATTRIBUTE_VALUE_INVALID);
    let unreadable = [CKR_ATTRIBUTE_VALUE_INVALID; 7];
    let date = |text: &[u8]| vec![entry(CKA_START_DATE, text)];
    // Data objects have no dates.
    let (no, bad) = (CKR_TEMPLATE_INCONSISTENT, CKR_ATTRIBUTE_VALUE_INVALID);
    let of_keys = [no, no, no, bad, bad, bad, CKR_OK];
    let mut rows = vec![
        ("the same twice", vec![label(), label()], all(CKR_OK)),
        (
            "a contradiction",
            vec![label(), entry(CKA_LABEL, b"two")],
            all(CKR_TEMPLATE_INCONSISTENT),
        ),
        ("no such attribute", vec![entry(0x7654_3210, b"x")], all(CKR_ATTRIBUTE_TYPE_INVALID)),
        (
            "a vendor's attribute",
            vec![entry(CKA_VENDOR_DEFINED | 7, b"x")],
            all(CKR_ATTRIBUTE_TYPE_INVALID),
        ),
        ("a value that is NULL", vec![(CKA_LABEL, None, 3)], unreadable),
        ("a CK_BBOOL that is NULL", vec![(CKA_MODIFIABLE, None, 1)], unreadable),
        ("a CK_BBOOL of no byte", vec![entry(CKA_MODIFIABLE, b"")], value),
        ("a CK_BBOOL of four bytes", vec![entry(CKA_MODIFIABLE, &[1, 0, 0, 0])], value),
        ("a CK_BBOOL of eight bytes", vec![entry(CKA_MODIFIABLE, &1u64.to_ne_bytes())], value),
        ("a CK_BBOOL of 2", vec![entry(CKA_MODIFIABLE, &[2])], value),
        ("a CK_BBOOL of 255", vec![entry(CKA_MODIFIABLE, &[255])], value),
        ("a CK_ULONG of four bytes", vec![entry(CKA_CLASS, &[0; 4])], value),
        ("a CK_ULONG of nine bytes", vec![entry(CKA_CLASS, &[0; 9])], value),
        ("a CK_ULONG of no byte", vec![entry(CKA_CLASS, b"")], value),
        ("half a mechanism list", vec![entry(CKA_ALLOWED_MECHANISMS, &[0; 12])], value),
        ("a date that no year has", date(b"20260230"), of_keys),
        ("a date that only leap years have", date(b"20250229"), of_keys),
        ("a thirteenth month", date(b"20261301"), of_keys),
        ("a date of letters", date(b"2026feb1"), of_keys),
        ("a short date", date(b"2026021"), of_keys),
        ("what the token makes", vec![entry(CKA_UNIQUE_ID, b"mine")], all(CKR_ATTRIBUTE_READ_ONLY)),
        (
            "what belongs to other objects",
            vec![entry(CKA_URL, b"x")],
            all(CKR_TEMPLATE_INCONSISTENT),
        ),
    ];
    for length in [1 << 31, (1 << 32) - 1, 1 << 63, CK_UNAVAILABLE_INFORMATION] {
        let entry = (CKA_LABEL, Some(b"x".to_vec()), length);
        rows.push(("a value without end", vec![entry], unreadable));
    }
    rows
}

/// What is right for each function, without the row under test.
fn sound(function: &str) -> Vec<Entry> {
    let entries: &[Attribute] = match function {
        "create" => &data(),
        "public" => &[bytes(CKA_EC_PARAMS, P256)],
        "derive" => &[
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            number(CKA_VALUE_LEN, 32),
        ],
        _ => &[],
    };
    entries.iter().map(|attribute| entry(attribute.kind, &attribute.value)).collect()
}

fn template(entries: &[Entry]) -> [Argument; 2] {
    let mut memory = Memory::default();
    for (id, value, length) in entries {
        memory.push_word(*id);
        match value {
            None => memory.push_word(0),
            Some(value) => memory.push_pointer(Memory::of(value.clone())),
        }
        memory.push_word(*length);
    }
    [memory.into(), Argument::Word(entries.len() as u64)]
}

/// Calls one of [`FUNCTIONS`] with a template. What it made is destroyed again.
fn make(world: &World, function: &str, [at, count]: [Argument; 2]) -> u64 {
    let place = || Argument::from(Memory::word(0xD00D));
    let ecdh = || {
        let point = world.app.attribute(world.session, world.ec.0, CKA_EC_POINT).unwrap();
        with(Mechanism::ecdh(CKD_NULL, &[], &point[2..]))
    };
    let generate = || plain(CKM_EC_KEY_PAIR_GEN);
    let (name, arguments) = match function {
        "create" => ("C_CreateObject", vec![at, count, place()]),
        "copy" => ("C_CopyObject", vec![world.data.into(), at, count, place()]),
        "set" => ("C_SetAttributeValue", vec![world.data.into(), at, count]),
        "public" => {
            let rest = [Argument::NULL, Argument::Word(0), place(), place()];
            ("C_GenerateKeyPair", [vec![generate(), at, count], rest.into()].concat())
        }
        "private" => {
            let [public, public_count] = template(&sound("public"));
            let rest = vec![at, count, place(), place()];
            ("C_GenerateKeyPair", [vec![generate(), public, public_count], rest].concat())
        }
        "derive" => ("C_DeriveKey", vec![ecdh(), world.ec.1.into(), at, count, place()]),
        "find" => ("C_FindObjectsInit", vec![at, count]),
        other => panic!("{other}"),
    };
    let before = world.objects();
    let session = Argument::Word(world.session);
    let (rv, after) = world.app.raw(name, [vec![session], arguments].concat());
    let places = after.iter().filter_map(|argument| match argument {
        Argument::Memory(memory) if memory.bytes.len() == 8 => Some(memory.word_at(0)),
        _ => None,
    });
    let made: Vec<u64> = places.collect();
    if rv != CKR_OK {
        assert!(made.iter().all(|handle| *handle == 0xD00D), "{name} gave a handle and {rv:#x}");
        assert_eq!(world.objects(), before, "{name} left an object and {rv:#x}");
    } else if function == "find" {
        assert_eq!(world.call("C_FindObjectsFinal", []), CKR_OK);
    } else {
        for handle in made {
            world.app.destroy_object(world.session, handle).unwrap();
        }
    }
    rv
}

#[test]
fn a_template_that_is_wrong_in_one_way_has_one_answer_in_each_function() {
    let world = World::build();
    let mut calls = 0;
    for (what, wrong, codes) in wrong_templates() {
        for (function, code) in FUNCTIONS.iter().zip(codes) {
            // The contradiction may come first or last.
            for front in [false, true] {
                let replaced = |entry: &Entry| !wrong.iter().any(|wrong| wrong.0 == entry.0);
                let mut entries: Vec<Entry> =
                    sound(function).into_iter().filter(replaced).collect();
                entries
                    .splice(if front { 0..0 } else { entries.len()..entries.len() }, wrong.clone());
                let rv = make(&world, function, template(&entries));
                assert_eq!(rv, code, "{what}, {function}: {rv:#x} instead of {code:#x}");
                calls += 1;
            }
        }
    }
    assert!(calls > 300, "{calls}");
}

#[test]
fn templates_of_no_and_of_too_many_entries_have_one_answer_in_each_function() {
    let world = World::build();
    let many = |count| template(&vec![entry(CKA_LABEL, b"x"); count]);
    let (nothing, missing) = ([Argument::NULL, Argument::Word(0)], CKR_TEMPLATE_INCOMPLETE);
    let empty: Codes = [missing, CKR_OK, CKR_OK, missing, CKR_OK, CKR_OK, CKR_OK];
    for (function, code) in FUNCTIONS.iter().zip(empty) {
        assert_eq!(make(&world, function, nothing.clone()), code, "{function} of nothing");
        // The label as often as may be, and nothing else that the function needs.
        assert_eq!(make(&world, function, many(1024)), code, "{function} of 1,024");
        assert_eq!(make(&world, function, many(1025)), CKR_ARGUMENTS_BAD, "{function} of 1,025");
        let null = [Argument::NULL, Argument::Word(1)];
        assert_eq!(make(&world, function, null), CKR_ARGUMENTS_BAD, "{function} of NULL");
    }
    let mut classless = sound("create");
    classless.retain(|(id, ..)| *id != CKA_CLASS);
    assert_eq!(make(&world, "create", template(&classless)), missing, "no CKA_CLASS");
}

#[test]
fn a_template_inside_a_template_may_not_hold_another_and_not_itself() {
    let world = World::build();
    // CKA_DERIVE_TEMPLATE is what an ECDH key prescribes for the keys derived from it.
    let pair = |nested: Memory, length: u64| {
        let mut private = Memory::default();
        private.push_word(CKA_DERIVE_TEMPLATE);
        private.push_pointer(nested);
        private.push_word(length);
        make(&world, "private", [private.into(), Argument::Word(1)])
    };
    let mut label = Memory::default();
    label.push_word(CKA_LABEL);
    label.push_pointer(Memory::of(*b"child"));
    label.push_word(5);
    assert_eq!(pair(label.clone(), 24), CKR_OK);
    assert_eq!(pair(label.clone(), 23), CKR_ATTRIBUTE_VALUE_INVALID, "no whole attribute");
    assert_eq!(pair(label.clone(), u64::MAX), CKR_ATTRIBUTE_VALUE_INVALID);
    let [many, _] = template(&vec![entry(CKA_LABEL, b"x"); 1025]);
    assert_eq!(pair(many.memory().clone(), 24 * 1025), CKR_ARGUMENTS_BAD, "too many");

    let mut deep = Memory::default();
    deep.push_word(CKA_DERIVE_TEMPLATE);
    deep.push_pointer(label);
    deep.push_word(24);
    assert_eq!(pair(deep, 24), CKR_ATTRIBUTE_VALUE_INVALID, "two deep");

    // It holds itself: to be refused, and not to be followed for ever.
    let mut itself = Memory::default();
    itself.push_word(CKA_DERIVE_TEMPLATE);
    itself.push_self();
    itself.push_word(24);
    for function in ["create", "copy", "set", "public", "private", "derive"] {
        let rv = make(&world, function, [itself.clone().into(), Argument::Word(1)]);
        assert_eq!(rv, CKR_ATTRIBUTE_VALUE_INVALID, "{function} of itself");
    }
}

// ---- mechanisms

/// Mechanisms of the specification that the module need not have; those it gets one day are looked up
/// like all others.
const FURTHER: &[u64] = &[
    CKM_AES_GCM,
    CKM_AES_CBC_PAD,
    CKM_DES3_CBC,
    CKM_SHA256_HMAC,
    CKM_EDDSA,
    CKM_DSA,
    CKM_SHA512_T,
    CKM_MD5,
    0x7fff_0000,
    CKM_VENDOR_DEFINED | 1,
    u64::MAX,
];

/// The mechanisms that take CK_RSA_PKCS_PSS_PARAMS, each with a hash that it takes there.
const PSS: &[(u64, u64, u64)] = &[
    (CKM_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256),
    (CKM_SHA1_RSA_PKCS_PSS, CKM_SHA_1, CKG_MGF1_SHA1),
    (CKM_SHA224_RSA_PKCS_PSS, CKM_SHA224, CKG_MGF1_SHA224),
    (CKM_SHA256_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256),
    (CKM_SHA384_RSA_PKCS_PSS, CKM_SHA384, CKG_MGF1_SHA384),
    (CKM_SHA512_RSA_PKCS_PSS, CKM_SHA512, CKG_MGF1_SHA512),
    (CKM_SHA3_224_RSA_PKCS_PSS, CKM_SHA3_224, CKG_MGF1_SHA3_224),
    (CKM_SHA3_256_RSA_PKCS_PSS, CKM_SHA3_256, CKG_MGF1_SHA3_256),
    (CKM_SHA3_384_RSA_PKCS_PSS, CKM_SHA3_384, CKG_MGF1_SHA3_384),
    (CKM_SHA3_512_RSA_PKCS_PSS, CKM_SHA3_512, CKG_MGF1_SHA3_512),
];

/// Parameters of one mechanism.
struct Parameters {
    /// One that it takes; `None`: it takes none.
    right: Option<Memory>,
    /// Such that it does not take.
    wrong: Vec<Memory>,
}

fn words(words: &[u64]) -> Memory {
    let mut memory = Memory::default();
    words.iter().for_each(|word| memory.push_word(*word));
    memory
}

fn parameters(id: u64, point: &[u8]) -> Parameters {
    let (right, mut wrong) = if let Some((_, hash, mgf)) = PSS.iter().find(|(pss, ..)| *pss == id) {
        let wrong = [
            [CKM_ECDSA, *mgf, 20],
            [*hash, 0, 20],
            [*hash, *mgf, 1 << 31],
            [*hash, *mgf, 300],
            [*hash, *mgf, u64::MAX],
        ];
        (words(&[*hash, *mgf, 20]), wrong.map(|all| words(&all)).to_vec())
    } else if id == CKM_RSA_PKCS_OAEP {
        let (hash, mgf, source) = (CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED);
        let wrong = [
            [0, mgf, source, 0, 0],
            [hash, 0, source, 0, 0],
            [hash, mgf, 7, 0, 0],
            // NULL inside, with a length.
            [hash, mgf, source, 0, 1],
            [hash, mgf, source, 0, u64::MAX],
        ];
        (words(&[hash, mgf, source, 0, 0]), wrong.map(|all| words(&all)).to_vec())
    } else if [CKM_ECDH1_DERIVE, CKM_ECDH1_COFACTOR_DERIVE].contains(&id) {
        let right = Mechanism::ecdh(CKD_NULL, &[], point).parameter.expect("a parameter");
        let mut no_point = point.to_vec();
        no_point[40] ^= 1;
        let mut wrong = [
            [CKD_NULL, 0, 0, 0, 0],
            [CKD_NULL, 0, 0, 65, 0],
            [CKD_NULL, 7, 0, 0, 0],
            [CKD_NULL, 0, 0, u64::MAX, 0],
        ]
        .map(|all| words(&all))
        .to_vec();
        for (kdf, shared, point) in [
            (99, &[][..], point),
            (CKD_NULL, &[1][..], point),
            (CKD_NULL, &[][..], &point[..64]),
            (CKD_NULL, &[][..], &no_point),
        ] {
            wrong.push(Mechanism::ecdh(kdf, shared, point).parameter.expect("a parameter"));
        }
        (right, wrong)
    } else {
        let wrong = [1, 8, 24, 40].map(|length| Memory::of(vec![0; length]));
        return Parameters { right: None, wrong: wrong.into() };
    };
    let (short, long) = (right.bytes.len() - 1, right.bytes.len() + 1);
    wrong.push(Memory::of(vec![0; short]));
    wrong.push(Memory::of(vec![0; long]));
    wrong.push(Memory::of(vec![0; 8]));
    Parameters { right: Some(right), wrong }
}

/// Whether a mechanism takes keys of a CKK_.
fn takes(id: u64, key_type: u64) -> bool {
    tpm11::mechanism::lookup(id).is_ok_and(|row| row.keys.has(key_type))
}

#[test]
fn every_mechanism_with_every_key_and_parameter_has_one_answer_in_every_init() {
    let world = World::build();
    let point = world.app.attribute(world.session, world.ec.0, CKA_EC_POINT).unwrap();
    let point = &point[2..];
    let keys = [
        (world.ec.0, Some((CKK_EC, false))),
        (world.ec.1, Some((CKK_EC, true))),
        (world.rsa.0, Some((CKK_RSA, false))),
        (world.rsa.1, Some((CKK_RSA, true))),
        (world.data, None),
        (u64::MAX, None),
    ];
    let kinds = [
        ("Sign", CKF_SIGN, true),
        ("SignRecover", CKF_SIGN_RECOVER, true),
        ("Decrypt", CKF_DECRYPT, true),
        ("Verify", CKF_VERIFY, false),
        ("VerifyRecover", CKF_VERIFY_RECOVER, false),
        ("Encrypt", CKF_ENCRYPT, false),
    ];
    let advertised = world.app.mechanisms(world.slot).unwrap();
    let (mut calls, mut begun) = (0, 0);
    for id in advertised.iter().chain(FURTHER).copied() {
        let info = world.app.mechanism_info(world.slot, id);
        assert_eq!(info.is_ok(), advertised.contains(&id), "{id:#x}");
        let flags = info.map_or(0, |info| info.flags);
        let Parameters { right, wrong } = parameters(id, point);
        let right = right.map_or_else(
            || mechanism(id, Argument::NULL, 0),
            |right| mechanism(id, right.clone().into(), right.bytes.len() as u64),
        );
        let mut given = vec![(right, CKR_OK)];
        for wrong in wrong {
            let length = wrong.bytes.len() as u64;
            given.push((mechanism(id, wrong.into(), length), CKR_MECHANISM_PARAM_INVALID));
        }
        for length in [(1 << 16) + 1, 1 << 31, (1 << 32) - 1, 1 << 63, u64::MAX] {
            let parameter = Memory::of([0; 8]).into();
            given.push((mechanism(id, parameter, length), CKR_MECHANISM_PARAM_INVALID));
        }
        for length in [1, 24, u64::MAX] {
            given.push((mechanism(id, Argument::NULL, length), CKR_ARGUMENTS_BAD));
        }
        for (given, parameter) in given {
            for (kind, flag, private) in kinds {
                for (key, what) in keys {
                    let expected = match what {
                        _ if parameter == CKR_ARGUMENTS_BAD => CKR_ARGUMENTS_BAD,
                        None => CKR_KEY_HANDLE_INVALID,
                        _ if flags & flag == 0 => CKR_MECHANISM_INVALID,
                        Some((of, _)) if !takes(id, of) => CKR_KEY_TYPE_INCONSISTENT,
                        Some((_, is_private)) if is_private != private => {
                            CKR_KEY_FUNCTION_NOT_PERMITTED
                        }
                        Some(_) => parameter,
                    };
                    let rv = world.init(kind, given.clone(), key);
                    assert_eq!(
                        rv, expected,
                        "C_{kind}Init with {id:#x}, key {what:?}, {given:?}: {rv:#x}"
                    );
                    if rv == CKR_OK {
                        // The state goes last: what else is wrong is said although one is active.
                        assert_eq!(world.init(kind, given.clone(), key), CKR_OPERATION_ACTIVE);
                        assert_eq!(world.init(kind, given.clone(), 0xBAD), CKR_KEY_HANDLE_INVALID);
                        assert_eq!(
                            world.init(kind, plain(0x7fff_0000), key),
                            CKR_MECHANISM_INVALID
                        );
                        assert_eq!(world.init(kind, Argument::NULL, key), CKR_OK);
                        begun += 1;
                    }
                    calls += 1;
                }
            }
            let expected = match parameter {
                CKR_ARGUMENTS_BAD => CKR_ARGUMENTS_BAD,
                _ if flags & CKF_DIGEST == 0 => CKR_MECHANISM_INVALID,
                parameter => parameter,
            };
            assert_eq!(world.init("Digest", given.clone(), 0), expected, "{id:#x}, {given:?}");
            if expected == CKR_OK {
                assert_eq!(world.init("Digest", Argument::NULL, 0), CKR_OK);
            }
            // C_GenerateKeyPair and C_DeriveKey make objects: only what must be refused is tried.
            if parameter != CKR_OK && flags & CKF_GENERATE_KEY_PAIR != 0 {
                let sized = [number(CKA_MODULUS_BITS, 2048), bytes(CKA_EC_PARAMS, P256)];
                let size = if flags & CKF_EC_F_P != 0 { &sized[1..] } else { &sized[..1] };
                let size: Vec<Entry> =
                    size.iter().map(|size| entry(size.kind, &size.value)).collect();
                let [public, count] = template(&size);
                let rest = [Argument::NULL, Argument::Word(0)];
                let places = [Memory::word(7).into(), Memory::word(7).into()];
                let arguments = [vec![given.clone(), public, count], rest.into(), places.into()];
                let rv = world.call("C_GenerateKeyPair", arguments.concat());
                assert_eq!(rv, parameter, "C_GenerateKeyPair with {id:#x}, {given:?}");
                calls += 1;
            }
            for (key, what) in keys {
                let expected = match what {
                    _ if parameter == CKR_ARGUMENTS_BAD => CKR_ARGUMENTS_BAD,
                    None => CKR_KEY_HANDLE_INVALID,
                    _ if flags & CKF_DERIVE == 0 => CKR_MECHANISM_INVALID,
                    Some((of, _)) if !takes(id, of) => CKR_KEY_TYPE_INCONSISTENT,
                    Some((_, false)) => CKR_KEY_FUNCTION_NOT_PERMITTED,
                    Some(_) if parameter == CKR_OK => continue,
                    Some(_) => parameter,
                };
                let [secret, count] = template(&sound("derive"));
                let place = Memory::word(7).into();
                let arguments = [given.clone(), key.into(), secret, count, place];
                let rv = world.call("C_DeriveKey", arguments);
                assert_eq!(rv, expected, "C_DeriveKey with {id:#x}, key {what:?}, {given:?}");
                calls += 1;
            }
        }
    }
    println!("{calls} calls, {begun} of them sound");
    assert!(calls > 20_000 && begun > 40, "{calls}, {begun}");
}

// ---- lengths

#[test]
fn what_the_caller_signs_encrypts_and_verifies_has_its_limits_to_the_byte() {
    let world = World::build();
    let (private, public) = (world.rsa.1, world.rsa.0);
    let data = CKR_DATA_LEN_RANGE;
    let cipher = CKR_ENCRYPTED_DATA_LEN_RANGE;
    let pss = || with(Mechanism::pss(CKM_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, 32));
    let oaep = || with(Mechanism::oaep(CKM_SHA256, CKG_MGF1_SHA256, b""));
    // 256 bytes of modulus, 11 of padding, twice 32 and 2 of OAEP's.
    let rows: &[(&str, Argument, u64, &[u64], u64)] = &[
        ("Sign", plain(CKM_RSA_PKCS), private, &[0, 1, 244, 245], data),
        ("SignRecover", plain(CKM_RSA_PKCS), private, &[0, 1, 244, 245], data),
        ("Sign", plain(CKM_RSA_X_509), private, &[0, 1, 255], data),
        ("Sign", pss(), private, &[32], data),
        ("Sign", plain(CKM_ECDSA), world.ec.1, &[1, 31, 32, 33, 64, 65, 1 << 16], data),
        ("Encrypt", plain(CKM_RSA_PKCS), public, &[0, 1, 244, 245], data),
        ("Encrypt", plain(CKM_RSA_X_509), public, &[0, 1, 255], data),
        ("Encrypt", oaep(), public, &[0, 1, 189, 190], data),
        ("Decrypt", plain(CKM_RSA_PKCS), private, &[256], cipher),
        ("Decrypt", plain(CKM_RSA_X_509), private, &[256], cipher),
        ("Sign", plain(CKM_SHA256_RSA_PKCS), private, &[0, 1, 1 << 16], data),
        ("Sign", plain(CKM_ECDSA_SHA256), world.ec.1, &[0, 1, 1 << 16], data),
    ];
    for (kind, mechanism, key, lengths, too_long) in rows {
        let most = *lengths.last().unwrap();
        let mut all = lengths.to_vec();
        if most < 1 << 16 {
            all.extend([most + 2, 1 << 16]);
        }
        if *lengths == [32] || *lengths == [256] {
            all.extend([0, most - 1]);
        }
        for length in all {
            assert_eq!(world.init(kind, mechanism.clone(), *key), CKR_OK);
            let given = [input(length as usize), output(256, 256)].concat();
            let rv = world.call(&format!("C_{kind}"), given);
            let expected = if lengths.contains(&length) { CKR_OK } else { *too_long };
            assert_eq!(rv, expected, "C_{kind} of {length} bytes, {mechanism:?}");
            let over = world.call(&format!("C_{kind}"), [input(1), output(256, 256)].concat());
            assert_eq!(over, CKR_OPERATION_NOT_INITIALIZED, "success and failure end it");
        }
        for length in [1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63, CK_UNAVAILABLE_INFORMATION] {
            assert_eq!(world.init(kind, mechanism.clone(), *key), CKR_OK);
            let given = [Memory::of([1]).into(), Argument::Word(length)];
            let rv = world.call(&format!("C_{kind}"), [given, output(256, 256)].concat());
            assert_eq!(rv, *too_long, "C_{kind} of {length} bytes");
        }
    }
    for (mechanism, key, exact) in
        [(CKM_SHA256_RSA_PKCS, public, 256), (CKM_ECDSA_SHA256, world.ec.0, 64)]
    {
        for length in [0, 1, exact - 1, exact, exact + 1, 1 << 16, 1 << 31, 1 << 63, u64::MAX] {
            let bytes = if length > 1 << 16 { 1 } else { length as usize };
            let signature = || [Memory::of(vec![1; bytes]).into(), Argument::Word(length)];
            let expected =
                if length == exact { CKR_SIGNATURE_INVALID } else { CKR_SIGNATURE_LEN_RANGE };
            assert_eq!(world.init("Verify", plain(mechanism), key), CKR_OK);
            let rv = world.call("C_Verify", [input(3), signature()].concat());
            assert_eq!(rv, expected, "C_Verify with {length} bytes");
            assert_eq!(world.init("Verify", plain(mechanism), key), CKR_OK);
            assert_eq!(world.call("C_VerifyUpdate", input(3)), CKR_OK);
            let rv = world.call("C_VerifyFinal", signature());
            assert_eq!(rv, expected, "C_VerifyFinal with {length} bytes");
        }
    }
}

#[test]
fn an_output_may_be_said_to_be_longer_than_the_answer_and_not_shorter() {
    let world = World::build();
    let rows: &[(&str, Argument, u64, usize, u64)] = &[
        ("Digest", plain(CKM_SHA256), 0, 3, 32),
        ("Sign", plain(CKM_ECDSA_SHA256), world.ec.1, 3, 64),
        ("Sign", plain(CKM_RSA_PKCS), world.rsa.1, 3, 256),
        ("SignRecover", plain(CKM_RSA_PKCS), world.rsa.1, 3, 256),
        ("Encrypt", plain(CKM_RSA_PKCS), world.rsa.0, 3, 256),
    ];
    for (kind, mechanism, key, data, exact) in rows {
        let whole = format!("C_{kind}");
        let last = format!("C_{kind}Final");
        for in_parts in [false, true] {
            if in_parts && *kind == "SignRecover" {
                continue;
            }
            let begin = || {
                assert_eq!(world.init(kind, mechanism.clone(), *key), CKR_OK);
                if in_parts {
                    // An encrypting update tells how much it gives: nothing yet.
                    let more = if *kind == "Encrypt" { output(0, 0).to_vec() } else { Vec::new() };
                    let rv = world
                        .call(&format!("C_{kind}Update"), [input(*data).to_vec(), more].concat());
                    assert_eq!(rv, CKR_OK, "C_{kind}Update");
                }
            };
            let call = |given: [Argument; 2]| {
                let session = Argument::Word(world.session);
                let (name, mut arguments) = match in_parts {
                    true => (&last, vec![session]),
                    false => (&whole, [vec![session], input(*data).into()].concat()),
                };
                arguments.extend(given);
                let (rv, after) = world.app.raw(name, arguments);
                (rv, after.last().unwrap().memory().word_at(0))
            };
            begin();
            let query = [Argument::NULL, Memory::word(0).into()];
            assert_eq!(call(query), (CKR_OK, *exact), "{kind}");
            for room in [0, 1, exact - 1] {
                // As long as is said, and not a byte longer.
                let small = output(room as usize, room);
                assert_eq!(call(small), (CKR_BUFFER_TOO_SMALL, *exact), "{kind} into {room}");
            }
            let mut longer = vec![*exact, exact + 1, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 62];
            longer.push((1 << 63) - 1);
            for room in longer {
                assert_eq!(call(output(*exact as usize, room)), (CKR_OK, *exact), "{kind}, {room}");
                begin();
            }
            for room in [1 << 63, CK_UNAVAILABLE_INFORMATION] {
                let rv = call(output(*exact as usize, room));
                assert_eq!(rv, (CKR_ARGUMENTS_BAD, room), "{kind} into {room}");
                begin();
            }
            assert_eq!(world.init(kind, Argument::NULL, *key), CKR_OK);
        }
    }
    // Only the answer itself is known to fit here: 3 bytes, of 245 that could be.
    let world = &world;
    let secret = world.app.encrypt(world.session, CKM_RSA_PKCS, world.rsa.0, b"abc").unwrap();
    assert_eq!(world.init("Decrypt", plain(CKM_RSA_PKCS), world.rsa.1), CKR_OK);
    let ciphertext = || [Argument::from(Memory::of(secret.clone())), Argument::Word(256)];
    for room in [0, 1, 2] {
        let given = [ciphertext(), output(room, room as u64)].concat();
        assert_eq!(world.call("C_Decrypt", given), CKR_BUFFER_TOO_SMALL);
    }
    assert_eq!(world.call("C_Decrypt", [ciphertext(), output(3, 3)].concat()), CKR_OK);
}

#[test]
fn pins_have_their_lengths_and_a_wrong_length_costs_no_try() {
    let world = World::build();
    world.app.logout(world.session).unwrap();
    let before = world.app.token_flags(world.slot).unwrap();
    let user = || Argument::Word(CKU_USER);
    let mut lengths = vec![0, 1, 3, 256, 1 << 16];
    lengths.extend([1 << 31, (1 << 32) - 1, 1 << 63, CK_UNAVAILABLE_INFORMATION]);
    for length in lengths {
        let bytes = if length > 1 << 16 { 1 } else { length as usize };
        let pin = || [Argument::from(Memory::of(vec![b'1'; bytes])), Argument::Word(length)];
        let wrong = CKR_PIN_LEN_RANGE;
        let rv = world.call("C_Login", [vec![user()], pin().into()].concat());
        assert_eq!(rv, wrong, "C_Login with {length}");
        let name = [Argument::NULL, Argument::Word(0)];
        let rv = world.call("C_LoginUser", [vec![user()], pin().into(), name.into()].concat());
        assert_eq!(rv, wrong, "C_LoginUser with {length}");
        let good = || [Argument::from(Memory::of(PIN)), Argument::Word(PIN.len() as u64)];
        assert_eq!(world.call("C_SetPIN", [pin(), good()].concat()), wrong, "old, {length}");
        assert_eq!(world.call("C_SetPIN", [good(), pin()].concat()), wrong, "new, {length}");
    }
    assert_eq!(world.app.token_flags(world.slot).unwrap(), before, "no try was spent");
    world.app.login(world.session, PIN).unwrap();
}

// ---- order

/// A kind of operation: how it begins, what goes on with it, what ends it, and its CKF_ flag.
struct Kind {
    name: &'static str,
    mechanism: u64,
    key: u64,
    update: Option<(&'static str, Vec<Argument>)>,
    last: Option<(&'static str, Vec<Argument>)>,
    whole: Option<(&'static str, Vec<Argument>)>,
    flag: u64,
}

fn kinds(world: &World) -> Vec<Kind> {
    let (public, private) = world.rsa;
    let app = &world.app;
    let room = || output(256, 256).to_vec();
    let data = || input(3).to_vec();
    let both = || [data(), room()].concat();
    let signature = |mechanism| app.sign(world.session, mechanism, private, &[1; 3]).unwrap();
    let given = |bytes: Vec<u8>| {
        let length = bytes.len() as u64;
        vec![Argument::from(Memory::of(bytes)), Argument::Word(length)]
    };
    let signed = || given(signature(CKM_SHA256_RSA_PKCS));
    let secret = app.encrypt(world.session, CKM_RSA_PKCS, public, &[1; 3]).unwrap();
    let kind = |name, mechanism, key, flag| Kind {
        name,
        mechanism,
        key,
        update: None,
        last: None,
        whole: None,
        flag,
    };
    vec![
        Kind {
            update: Some(("C_DigestUpdate", data())),
            last: Some(("C_DigestFinal", room())),
            whole: Some(("C_Digest", both())),
            ..kind("Digest", CKM_SHA256, 0, CKF_DIGEST)
        },
        Kind {
            update: Some(("C_SignUpdate", data())),
            last: Some(("C_SignFinal", room())),
            whole: Some(("C_Sign", both())),
            ..kind("Sign", CKM_SHA256_RSA_PKCS, private, CKF_SIGN)
        },
        Kind {
            whole: Some(("C_SignRecover", both())),
            ..kind("SignRecover", CKM_RSA_PKCS, private, CKF_SIGN_RECOVER)
        },
        Kind {
            update: Some(("C_VerifyUpdate", data())),
            last: Some(("C_VerifyFinal", signed())),
            whole: Some(("C_Verify", [data(), signed()].concat())),
            ..kind("Verify", CKM_SHA256_RSA_PKCS, public, CKF_VERIFY)
        },
        Kind {
            whole: Some(("C_VerifyRecover", [given(signature(CKM_RSA_PKCS)), room()].concat())),
            ..kind("VerifyRecover", CKM_RSA_PKCS, public, CKF_VERIFY_RECOVER)
        },
        Kind {
            update: Some(("C_EncryptUpdate", both())),
            last: Some(("C_EncryptFinal", room())),
            whole: Some(("C_Encrypt", both())),
            ..kind("Encrypt", CKM_RSA_PKCS, public, CKF_ENCRYPT)
        },
        Kind {
            update: Some(("C_DecryptUpdate", [given(secret.clone()), room()].concat())),
            last: Some(("C_DecryptFinal", room())),
            whole: Some(("C_Decrypt", [given(secret), room()].concat())),
            ..kind("Decrypt", CKM_RSA_PKCS, private, CKF_DECRYPT)
        },
    ]
}

#[test]
fn every_wrong_order_of_every_kind_of_operation_is_told_and_ends_nothing_else() {
    let world = World::build();
    let kinds = kinds(&world);
    let step = |step: &Option<(&'static str, Vec<Argument>)>| {
        step.as_ref().map(|(name, arguments)| world.call(name, arguments.clone()))
    };
    let begin = |kind: &Kind| world.init(kind.name, plain(kind.mechanism), kind.key);
    let not_begun = CKR_OPERATION_NOT_INITIALIZED;
    let is = |code: u64| move |rv: Option<u64>| rv.is_none_or(|rv| rv == code);
    let (ok, not) = (is(CKR_OK), is(not_begun));

    for kind in &kinds {
        let name = kind.name;
        // Nothing has begun.
        for part in [&kind.update, &kind.last, &kind.whole] {
            assert!(not(step(part)), "{name} before its beginning");
        }
        // In one part; and what comes after the end.
        assert_eq!(begin(kind), CKR_OK, "{name}");
        assert_eq!(begin(kind), CKR_OPERATION_ACTIVE, "{name} twice");
        assert!(ok(step(&kind.whole)), "{name}");
        for part in [&kind.whole, &kind.update, &kind.last] {
            assert!(not(step(part)), "{name} after its end");
        }
        // In several parts.
        if kind.update.is_some() {
            assert_eq!(begin(kind), CKR_OK, "{name}");
            assert!(ok(step(&kind.update)), "{name}");
            assert_eq!(begin(kind), CKR_OPERATION_ACTIVE, "{name} amid its parts");
            assert!(ok(step(&kind.last)), "{name}");
            assert!(not(step(&kind.last)), "{name}: twice the end");
            assert!(not(step(&kind.update)), "{name} after its end");
            // What is in parts does not end in one.
            assert_eq!(begin(kind), CKR_OK, "{name}");
            assert!(ok(step(&kind.update)), "{name}");
            assert!(not(step(&kind.whole)), "{name}: parts, then the whole");
            assert!(not(step(&kind.last)), "{name}: the attempt ended it");
        }
        // Taken back: by a NULL mechanism, by C_SessionCancel.
        assert_eq!(begin(kind), CKR_OK, "{name}");
        assert_eq!(world.init(name, Argument::NULL, kind.key), CKR_OK, "{name} taken back");
        assert!(not(step(&kind.whole)), "{name} was taken back");
        assert_eq!(world.init(name, Argument::NULL, kind.key), CKR_OK, "nothing to take back");
        assert_eq!(begin(kind), CKR_OK, "{name}");
        assert_eq!(world.call("C_SessionCancel", [Argument::Word(kind.flag)]), CKR_OK);
        assert!(not(step(&kind.whole)), "{name} was cancelled");
    }

    // All at once: ending one, well or badly, ends no other.
    for ended in &kinds {
        for kind in &kinds {
            assert_eq!(begin(kind), CKR_OK, "{}", kind.name);
        }
        assert_eq!(world.call("C_SessionCancel", [Argument::Word(ended.flag)]), CKR_OK);
        for kind in &kinds {
            if kind.name == ended.name {
                assert!(not(step(&kind.whole)), "{}", kind.name);
            } else {
                assert!(ok(step(&kind.whole)), "{} beside {}", kind.name, ended.name);
            }
        }
    }

    // An operation belongs to its session.
    let other = world.app.open(world.slot).unwrap();
    for kind in &kinds {
        assert_eq!(begin(kind), CKR_OK);
        let (name, arguments) = kind.whole.as_ref().unwrap();
        let (rv, _) = world.app.raw(name, [vec![other.into()], arguments.clone()].concat());
        assert_eq!(rv, not_begun, "{name} in another session");
        assert!(ok(step(&kind.whole)), "{name}");
    }

    // The two ways to verify are two.
    let verify = &kinds[3];
    assert_eq!(begin(verify), CKR_OK);
    assert_eq!(world.call("C_VerifySignature", input(3)), not_begun);
    assert_eq!(world.init("Verify", Argument::NULL, verify.key), CKR_OK);

    // Searches.
    let none = || [Argument::NULL, Argument::Word(0)];
    let more = || [Memory::room(80).into(), Argument::Word(10), Memory::word(0).into()];
    assert_eq!(world.call("C_FindObjects", more()), not_begun);
    assert_eq!(world.call("C_FindObjectsFinal", []), not_begun);
    assert_eq!(world.call("C_FindObjectsInit", none()), CKR_OK);
    assert_eq!(world.call("C_FindObjectsInit", none()), CKR_OPERATION_ACTIVE);
    assert_eq!(world.call("C_FindObjects", more()), CKR_OK);
    assert_eq!(world.call("C_FindObjectsFinal", []), CKR_OK);
    assert_eq!(world.call("C_FindObjectsFinal", []), not_begun);
}

#[test]
fn dual_functions_want_both_operations() {
    let world = World::build();
    let kinds = kinds(&world);
    let kind = |name: &str| kinds.iter().find(|kind| kind.name == name).unwrap();
    let begin = |name: &str| {
        let kind = kind(name);
        assert_eq!(world.init(kind.name, plain(kind.mechanism), kind.key), CKR_OK);
    };
    let end = |name: &str| {
        assert_eq!(world.init(name, Argument::NULL, kind(name).key), CKR_OK);
    };
    for (function, one, other, input_of) in [
        ("C_DigestEncryptUpdate", "Digest", "Encrypt", "Encrypt"),
        ("C_SignEncryptUpdate", "Sign", "Encrypt", "Encrypt"),
        ("C_DecryptDigestUpdate", "Decrypt", "Digest", "Decrypt"),
        ("C_DecryptVerifyUpdate", "Decrypt", "Verify", "Decrypt"),
    ] {
        let arguments = &kind(input_of).update.as_ref().unwrap().1;
        let call = || world.call(function, arguments.clone());
        assert_eq!(call(), CKR_OPERATION_NOT_INITIALIZED, "{function}");
        for alone in [one, other] {
            begin(alone);
            assert_eq!(call(), CKR_OPERATION_NOT_INITIALIZED, "{function} with {alone} alone");
            end(alone);
        }
        begin(one);
        begin(other);
        assert_eq!(call(), CKR_OK, "{function}");
        end(one);
        end(other);
    }
}

// ---- sessions and flags

#[test]
fn flags_that_the_specification_does_not_know_are_refused_or_without_effect() {
    let world = World::build();
    let open = |flags: u64| {
        let arguments = vec![
            world.slot.into(),
            Argument::Word(flags),
            Argument::NULL,
            Argument::NULL,
            Memory::word(0).into(),
        ];
        world.app.raw("C_OpenSession", arguments).0
    };
    let serial = CKF_SERIAL_SESSION;
    assert_eq!(open(0), CKR_SESSION_PARALLEL_NOT_SUPPORTED);
    assert_eq!(open(CKF_RW_SESSION), CKR_SESSION_PARALLEL_NOT_SUPPORTED);
    assert_eq!(open(u64::MAX ^ serial), CKR_SESSION_PARALLEL_NOT_SUPPORTED);
    assert_eq!(open(serial | 8), CKR_SESSION_ASYNC_NOT_SUPPORTED, "CKF_ASYNC_SESSION");
    assert_eq!(open(serial), CKR_OK);
    assert_eq!(open(serial | CKF_RW_SESSION | 1 << 40), CKR_OK, "unknown bits mean nothing");
    // The flags of a mechanism that no operation has cancel nothing.
    assert_eq!(world.init("Digest", plain(CKM_SHA256), 0), CKR_OK);
    let others = u64::MAX ^ CKF_DIGEST;
    assert_eq!(world.call("C_SessionCancel", [Argument::Word(others)]), CKR_OK);
    let hash = [input(3), output(32, 32)].concat();
    assert_eq!(world.call("C_Digest", hash), CKR_OK);
    let slot =
        vec![Argument::Word(CKF_DONT_BLOCK | 1 << 40), Memory::word(9).into(), Argument::NULL];
    let (rv, after) = world.app.raw("C_WaitForSlotEvent", slot);
    assert_eq!((rv, after[1].memory().word_at(0)), (CKR_NO_EVENT, 9));
    for user in [CKU_SO, CKU_USER] {
        let pin = [Argument::from(Memory::of(PIN)), Argument::Word(PIN.len() as u64)];
        let rv = world.call("C_Login", [vec![user.into()], pin.into()].concat());
        let another = [CKR_USER_ANOTHER_ALREADY_LOGGED_IN, CKR_SESSION_READ_ONLY_EXISTS];
        let ours = rv == CKR_USER_ALREADY_LOGGED_IN;
        assert!(if user == CKU_USER { ours } else { another.contains(&rv) }, "{user}: {rv:#x}");
    }
    for user in [3, 1 << 31, u64::MAX] {
        let pin = [Argument::from(Memory::of(PIN)), Argument::Word(PIN.len() as u64)];
        let rv = world.call("C_Login", [vec![user.into()], pin.into()].concat());
        assert_eq!(rv, CKR_USER_TYPE_INVALID, "{user:#x}");
    }
}

// ---- memory that is input and output at once

#[test]
fn input_and_output_may_be_the_same_memory_or_overlap() {
    let world = World::build();
    let app: &Ck = &world.app;
    let session = world.session;
    // The same place, one byte on, and overlapping from behind.
    for (data_at, answer_at) in [(0, 0), (0, 1), (7, 0)] {
        let call = |name: &str, data: &[u8], room: u64| {
            let mut memory = vec![0; 600];
            memory[data_at..data_at + data.len()].copy_from_slice(data);
            // The memory is an argument of its own where it begins with the data.
            let whole = Argument::from(Memory::of(memory));
            let (first, second) = if data_at == 0 {
                (whole, Argument::Inside(1, answer_at))
            } else {
                (Argument::Inside(3, data_at), whole)
            };
            let length = Argument::Word(data.len() as u64);
            let arguments = vec![session.into(), first, length, second, Memory::word(room).into()];
            let (rv, after) = app.raw(name, arguments);
            assert_eq!(rv, CKR_OK, "{name} from {data_at} to {answer_at}");
            let given = after[4].memory().word_at(0) as usize;
            let place = if data_at == 0 { &after[1] } else { &after[3] };
            place.memory().bytes[answer_at..answer_at + given].to_vec()
        };
        let data: Vec<u8> = (0..200).collect();
        assert_eq!(world.init("Digest", plain(CKM_SHA256), 0), CKR_OK);
        let digest = call("C_Digest", &data, 32);
        assert_eq!(digest, app.digest(session, CKM_SHA256, &data).unwrap());

        assert_eq!(world.init("Encrypt", plain(CKM_RSA_PKCS), world.rsa.0), CKR_OK);
        let secret = call("C_Encrypt", &data, 256);
        assert_eq!(world.init("Decrypt", plain(CKM_RSA_PKCS), world.rsa.1), CKR_OK);
        assert_eq!(call("C_Decrypt", &secret, 256), data);

        assert_eq!(world.init("Sign", plain(CKM_SHA256_RSA_PKCS), world.rsa.1), CKR_OK);
        let signature = call("C_Sign", &data, 256);
        app.verify(session, CKM_SHA256_RSA_PKCS, world.rsa.0, &data, &signature).unwrap();
        assert_eq!(world.init("Sign", plain(CKM_ECDSA_SHA256), world.ec.1), CKR_OK);
        let signature = call("C_Sign", &data, 64);
        app.verify(session, CKM_ECDSA_SHA256, world.ec.0, &data, &signature).unwrap();

        assert_eq!(world.init("SignRecover", plain(CKM_RSA_PKCS), world.rsa.1), CKR_OK);
        let signature = call("C_SignRecover", &data, 256);
        assert_eq!(world.init("VerifyRecover", plain(CKM_RSA_PKCS), world.rsa.0), CKR_OK);
        assert_eq!(call("C_VerifyRecover", &signature, 256), data);
    }
}
