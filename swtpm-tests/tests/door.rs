//! Bad input through the C door: every function, with every kind of wrong argument that its
//! parameters can have, in every pair and in many mixtures. The module must answer each call with
//! the code that the specification and the order of checks ask for, write nothing on an error, write
//! nothing beyond the room it is given, and go on living.
//!
//! The calls are generated from one table, [`FUNCTIONS`], in which a parameter is a word that says
//! what it is. They are made in a process of their own, so that a crash is a failed test that names
//! the function.
//!
//! With TPM11_DOOR=N only every Nth of the calls is made, for instruments that make each call slow.

use std::collections::{BTreeMap, BTreeSet};

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN};
use swtpm_tests::ck::{Ck, Message, bytes, flag, number};
use swtpm_tests::door::{Argument, Memory, specified};
use swtpm_tests::{App, Bench};

/// Every function of PKCS#11 3.2 with its parameters:
///
/// - `session`, `slot`, `object`, `key`: handles and ids; `word`: any number; `reserved`: must be
///   NULL; `unused`: a pointer that is not followed
/// - `key-that-wraps`, `key-that-unwraps`: a `key` whose handle has a code of its own
/// - `in:WHAT`: pointer and length, as data, bytes, signature, ciphertext, wrapped, state or pin; `label`: 32
///   bytes
/// - `out`: buffer and pointer to its length; `fill`: buffer and length; `list`: array and pointer
///   to its count; `handles`: array, count and pointer to a count; `place:N`: N bytes to write to
/// - `message`: CK_GCM_MESSAGE_PARAMS and its size; `part`: 0 or CKF_END_OF_MESSAGE
/// - `mech`: a mechanism, whose NULL ends the operation; `mech!`: one that must be; `template`
///
/// `?` before a name: the call does something even when all arguments are sound (it spends a PIN try,
/// ends a session, makes an object), so at least one of them must be wrong. `-`: not implemented,
/// whatever the arguments.
const FUNCTIONS: &[&str] = &[
    "?C_Initialize args",
    "?C_Finalize reserved",
    "C_GetInfo place:88",
    "C_GetFunctionList place:8",
    "C_GetSlotList word list",
    "C_GetSlotInfo slot place:112",
    "C_GetTokenInfo slot place:208",
    "C_GetMechanismList slot list",
    "C_GetMechanismInfo slot mechanism-number place:24",
    "?C_InitToken slot in:pin label",
    "?C_InitPIN session in:pin",
    "?C_SetPIN session in:pin in:pin",
    "?C_OpenSession slot word unused unused place:8",
    "?C_CloseSession session",
    "?C_CloseAllSessions slot",
    "C_GetSessionInfo session place:32",
    "C_GetOperationState session out",
    "C_SetOperationState session in:state object object",
    "?C_Login session user in:pin",
    "?C_Logout session",
    "?C_CreateObject session template place:8",
    "?C_CopyObject session object template place:8",
    "?C_DestroyObject session object",
    "C_GetObjectSize session object place:8",
    "C_GetAttributeValue session object wanted",
    "?C_SetAttributeValue session object template",
    "C_FindObjectsInit session search",
    "C_FindObjects session handles",
    "C_FindObjectsFinal session",
    "C_EncryptInit session mech key",
    "C_Encrypt session in:data out",
    "C_EncryptUpdate session in:data out",
    "C_EncryptFinal session out",
    "C_DecryptInit session mech key",
    "C_Decrypt session in:ciphertext out",
    "C_DecryptUpdate session in:ciphertext out",
    "C_DecryptFinal session out",
    "C_DigestInit session mech",
    "C_Digest session in:bytes out",
    "C_DigestUpdate session in:bytes",
    "C_DigestKey session key",
    "C_DigestFinal session out",
    "C_SignInit session mech key",
    "C_Sign session in:data out",
    "C_SignUpdate session in:data",
    "C_SignFinal session out",
    "C_SignRecoverInit session mech key",
    "C_SignRecover session in:data out",
    "C_VerifyInit session mech key",
    "C_Verify session in:data in:signature",
    "C_VerifyUpdate session in:data",
    "C_VerifyFinal session in:signature",
    "C_VerifyRecoverInit session mech key",
    "C_VerifyRecover session in:signature out",
    "C_DigestEncryptUpdate session in:data out",
    "C_DecryptDigestUpdate session in:ciphertext out",
    "C_SignEncryptUpdate session in:data out",
    "C_DecryptVerifyUpdate session in:ciphertext out",
    "?C_GenerateKey session mech! template place:8",
    "?C_GenerateKeyPair session mech! template template place:8 place:8",
    "C_WrapKey session mech! key-that-wraps key out",
    "?C_UnwrapKey session mech! key-that-unwraps in:wrapped template place:8",
    "?C_DeriveKey session mech! key template place:8",
    "C_SeedRandom session in:bytes",
    "C_GenerateRandom session fill",
    "C_GetFunctionStatus session",
    "C_CancelFunction session",
    "?C_WaitForSlotEvent word place:8 reserved",
    "C_GetInterfaceList interfaces",
    "C_GetInterface name version place:8 zero",
    "?C_LoginUser session user in:pin in:bytes",
    "C_SessionCancel session word",
    "C_MessageEncryptInit session mech key",
    "C_EncryptMessage session message in:bytes in:data out",
    "C_EncryptMessageBegin session message in:bytes",
    "C_EncryptMessageNext session message in:data out part",
    "C_MessageEncryptFinal session",
    "C_MessageDecryptInit session mech key",
    "C_DecryptMessage session message in:bytes in:ciphertext out",
    "C_DecryptMessageBegin session message in:bytes",
    "C_DecryptMessageNext session message in:ciphertext out part",
    "C_MessageDecryptFinal session",
    "-C_MessageSignInit 3",
    "-C_SignMessage 7",
    "-C_SignMessageBegin 3",
    "-C_SignMessageNext 7",
    "-C_MessageSignFinal 1",
    "-C_MessageVerifyInit 3",
    "-C_VerifyMessage 7",
    "-C_VerifyMessageBegin 3",
    "-C_VerifyMessageNext 7",
    "-C_MessageVerifyFinal 1",
    "-C_EncapsulateKey 8",
    "-C_DecapsulateKey 8",
    "C_VerifySignatureInit session mech key in:signature",
    "C_VerifySignature session in:data",
    "C_VerifySignatureUpdate session in:data",
    "C_VerifySignatureFinal session",
    "C_GetSessionValidationFlags session word place:8",
    "-C_AsyncComplete 3",
    "-C_AsyncGetID 3",
    "-C_AsyncJoin 5",
    "C_WrapKeyAuthenticated session mech! key-that-wraps key in:bytes out",
    "?C_UnwrapKeyAuthenticated session mech! key-that-unwraps in:wrapped template in:bytes place:8",
];

/// The functions that may be called before C_Initialize.
const EARLY: &[&str] =
    &["C_Initialize", "C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface"];

/// secp256r1
const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

/// No test calls with more room than this; the bytes behind it must stay as they are.
const GUARD: usize = 64;

/// What is wrong with an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing, or nothing that must be wrong.
    None,
    /// The memory cannot be read or written: found first, answered with this code.
    Memory(u64),
    /// The session is none: found next.
    Session,
    /// What was read cannot be meant: found after the session, answered with this code, or another that
    /// fits as well.
    Content(u64),
    /// The handle or number is none of the token's: answered with this code, if nothing about the
    /// state is said before.
    Handle(u64),
}

/// One way to give one parameter: its arguments in C, and what is wrong with them.
#[derive(Debug, Clone)]
struct Variant {
    arguments: Vec<Argument>,
    fault: Fault,
}

fn variant(arguments: impl IntoIterator<Item = Argument>, fault: Fault) -> Variant {
    Variant { arguments: arguments.into_iter().collect(), fault }
}

/// What the generator knows of the token under test.
struct World {
    slot: u64,
    session: u64,
    /// Handles of no session: closed, or of the time before C_Finalize.
    no_sessions: Vec<u64>,
    object: u64,
    /// Handles of no object: destroyed; of a session that was closed; of the time before C_Finalize; of
    /// another token; private, before a logout.
    no_objects: Vec<u64>,
    /// The halves of a key pair, if the user is logged in.
    keys: Option<(u64, u64)>,
    /// The same of RSA.
    rsa: Option<(u64, u64)>,
    /// An AES key of the session.
    aes: u64,
}

/// An RSA pair that may do all that RSA can.
fn rsa_pair(app: &Ck, session: u64) -> (u64, u64) {
    let public = [
        number(CKA_MODULUS_BITS, 2048),
        flag(CKA_VERIFY, true),
        flag(CKA_VERIFY_RECOVER, true),
        flag(CKA_ENCRYPT, true),
    ];
    let private = [flag(CKA_SIGN, true), flag(CKA_SIGN_RECOVER, true), flag(CKA_DECRYPT, true)];
    app.generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, &public, &private).unwrap()
}

/// Numbers at the borders of what a length can be.
const HUGE: [u64; 6] =
    [1 << 31, (1 << 32) - 1, (1 << 32) + 16, 1 << 62, 1 << 63, CK_UNAVAILABLE_INFORMATION];

impl World {
    /// A session with the token, and a public data object; with `login` the user's, and key pairs. There
    /// is another token, too.
    fn build(app: &Ck, login: bool) -> World {
        let data = |label: &[u8], private: bool| {
            [
                number(CKA_CLASS, CKO_DATA),
                flag(CKA_TOKEN, false),
                flag(CKA_PRIVATE, private),
                bytes(CKA_LABEL, label),
                bytes(CKA_VALUE, vec![7; 40]),
            ]
        };
        let made = |session| app.create_object(session, &data(b"gone", false)).unwrap();

        app.init_token(app.empty_slot().expect("an empty slot"), b"another-so", "other").unwrap();
        let slot = app.slot_of(LABEL).expect("the token");
        let before = app.open(slot).unwrap();
        let before_object = made(before);
        app.finalize().unwrap();
        app.initialize().unwrap();

        let slot = app.slot_of(LABEL).expect("the token");
        let other = app.open(app.slot_of("other").expect("the other token")).unwrap();
        let closed = app.open(slot).unwrap();
        let session = app.open(slot).unwrap();
        let objects = [made(session), made(closed), made(other), before_object];
        app.close_session(closed).unwrap();
        app.destroy_object(session, objects[0]).unwrap();
        let object = app.create_object(session, &data(b"door", false)).unwrap();
        app.login(session, PIN).unwrap();
        let private = app.create_object(session, &data(b"hers", true)).unwrap();
        app.logout(session).unwrap();
        let keys = login.then(|| {
            app.login(session, PIN).unwrap();
            app.generate_ec(session, P256, "door").unwrap()
        });
        let rsa = login.then(|| rsa_pair(app, session));
        let aes = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_AES),
            flag(CKA_PRIVATE, false),
            bytes(CKA_VALUE, [7; 16]),
        ];
        let aes = app.create_object(session, &aes).unwrap();
        let no_objects = objects.into_iter().chain([private]).collect();
        World {
            slot,
            session,
            no_sessions: vec![closed, before],
            object,
            no_objects,
            keys,
            rsa,
            aes,
        }
    }

    /// Handles of no session of ours.
    fn wrong_sessions(&self) -> Vec<u64> {
        let mut wrong = vec![0, 1, u64::MAX, self.session ^ 1 << 40, self.slot, self.object];
        wrong.extend(&self.no_sessions);
        wrong
    }

    /// Handles of no object of this token.
    fn wrong_objects(&self) -> Vec<u64> {
        let mut wrong = vec![0, u64::MAX, self.session];
        wrong.extend(&self.no_objects);
        wrong
    }

    /// All ways to give a parameter; the first one is sound.
    fn variants(&self, parameter: &str) -> Vec<Variant> {
        let null = || Argument::NULL;
        let bad = Fault::Memory(CKR_ARGUMENTS_BAD);
        let word = |word: u64| Argument::Word(word);
        match parameter {
            "session" => {
                let wrong =
                    self.wrong_sessions().into_iter().map(|handle| (handle, Fault::Session));
                std::iter::once((self.session, Fault::None))
                    .chain(wrong)
                    .map(|(handle, fault)| variant([word(handle)], fault))
                    .collect()
            }
            "slot" => [self.slot, 0x7fff_ffff, u64::MAX]
                .map(|id| {
                    let fault = Fault::Handle(CKR_SLOT_ID_INVALID);
                    variant([word(id)], if id == self.slot { Fault::None } else { fault })
                })
                .into(),
            "object" => {
                let fault = Fault::Handle(CKR_OBJECT_HANDLE_INVALID);
                let wrong = self.wrong_objects().into_iter().map(|handle| (handle, fault));
                std::iter::once((self.object, Fault::None))
                    .chain(wrong)
                    .map(|(handle, fault)| variant([word(handle)], fault))
                    .collect()
            }
            "key" | "key-that-wraps" | "key-that-unwraps" => {
                let keys = [self.keys, self.rsa].into_iter().flatten();
                let sound = keys
                    .flat_map(|(public, private)| [private, public])
                    .map(|key| variant([word(key)], Fault::None));
                // The object is no key.
                let wrong = self.wrong_objects().into_iter().chain([self.object]);
                let fault = Fault::Handle(match parameter {
                    "key-that-wraps" => CKR_WRAPPING_KEY_HANDLE_INVALID,
                    "key-that-unwraps" => CKR_UNWRAPPING_KEY_HANDLE_INVALID,
                    _ => CKR_KEY_HANDLE_INVALID,
                });
                sound.chain(wrong.map(|handle| variant([word(handle)], fault))).collect()
            }
            "word" => [0, 1, 4, 1 << 31, u64::MAX].map(|n| variant([word(n)], Fault::None)).into(),
            "zero" => vec![variant([word(0)], Fault::None), variant([word(1)], bad)],
            "user" => [CKU_USER, 7, u64::MAX]
                .map(|user| {
                    let fault = Fault::Handle(CKR_USER_TYPE_INVALID);
                    variant([word(user)], if user == CKU_USER { Fault::None } else { fault })
                })
                .into(),
            "mechanism-number" => [CKM_ECDSA, 0x7fff_0000, u64::MAX]
                .map(|id| {
                    let fault = Fault::Handle(CKR_MECHANISM_INVALID);
                    variant([word(id)], if id == CKM_ECDSA { Fault::None } else { fault })
                })
                .into(),
            "reserved" => vec![variant([null()], Fault::None), variant([word(1)], bad)],
            "unused" => vec![variant([null()], Fault::None), variant([word(1)], Fault::None)],
            "label" => {
                vec![variant([Memory::of([b' '; 32]).into()], Fault::None), variant([null()], bad)]
            }
            "args" => self.initialize_arguments(),
            "name" => {
                let name = |text: &[u8]| Argument::from(Memory::of(text));
                vec![
                    variant([name(b"PKCS 11\0")], Fault::None),
                    variant([null()], Fault::None),
                    variant([name(b"PKCS 11x\0")], bad),
                    variant([name(b"\0")], bad),
                ]
            }
            "version" => vec![
                variant([null()], Fault::None),
                variant([Memory::of([3, 2]).into()], Fault::None),
                variant([Memory::of([2, 40]).into()], Fault::None),
                variant([Memory::of([9, 9]).into()], bad),
            ],
            "out" => {
                let mut variants = vec![
                    variant([null(), Memory::word(7).into()], Fault::None),
                    variant([null(), null()], bad),
                    variant([Memory::room(16 + GUARD).into(), null()], bad),
                ];
                for length in [0, 1, 16, 256] {
                    let room = Memory::room(length + GUARD).into();
                    variants.push(variant([room, Memory::word(length as u64).into()], Fault::None));
                }
                for length in [1 << 63, u64::MAX] {
                    let room = Memory::room(16 + GUARD).into();
                    variants.push(variant([room, Memory::word(length).into()], bad));
                }
                variants
            }
            "list" | "interfaces" => vec![
                variant([null(), Memory::word(7).into()], Fault::None),
                variant([null(), null()], bad),
                variant([Memory::room(8 + GUARD).into(), null()], bad),
                variant([Memory::room(GUARD).into(), Memory::word(0).into()], Fault::None),
                variant([Memory::room(4096 + GUARD).into(), Memory::word(170).into()], Fault::None),
            ],
            "handles" => {
                let count = || Argument::from(Memory::word(7));
                let mut variants = vec![
                    variant([Memory::room(80 + GUARD).into(), word(10), count()], Fault::None),
                    variant([Memory::room(GUARD).into(), word(0), count()], Fault::None),
                    variant([null(), word(0), count()], Fault::None),
                    variant([null(), word(10), count()], bad),
                    variant([Memory::room(80 + GUARD).into(), word(10), null()], bad),
                    variant([null(), word(0), null()], bad),
                ];
                for most in HUGE {
                    variants.push(variant([null(), word(most), count()], bad));
                }
                variants
            }
            "fill" => {
                let mut variants = vec![
                    variant([Memory::room(16 + GUARD).into(), word(16)], Fault::None),
                    variant([null(), word(0)], Fault::None),
                    variant([Memory::room(GUARD).into(), word(0)], Fault::None),
                    variant([null(), word(16)], bad),
                ];
                for length in HUGE {
                    variants.push(variant([Memory::room(GUARD).into(), word(length)], bad));
                    variants.push(variant([null(), word(length)], bad));
                }
                variants
            }
            "mech" | "mech!" => self.mechanisms(parameter == "mech!"),
            "template" | "search" | "wanted" => self.templates(parameter),
            "message" => messages(),
            "part" => [0, CKF_END_OF_MESSAGE, 2, 3, u64::MAX]
                .map(|flags| variant([word(flags)], if flags < 2 { Fault::None } else { bad }))
                .into(),
            _ => match parameter.split_once(':') {
                Some(("place", size)) => {
                    let size: usize = size.parse().unwrap();
                    vec![
                        variant([Memory::room(size + GUARD).into()], Fault::None),
                        variant([null()], bad),
                    ]
                }
                Some(("in", kind)) => {
                    let long = match kind {
                        "data" => Fault::Content(CKR_DATA_LEN_RANGE),
                        "bytes" => bad,
                        "state" => Fault::Content(CKR_SAVED_STATE_INVALID),
                        "signature" => Fault::Content(CKR_SIGNATURE_LEN_RANGE),
                        "ciphertext" => Fault::Content(CKR_ENCRYPTED_DATA_LEN_RANGE),
                        "wrapped" => Fault::Content(CKR_WRAPPED_KEY_LEN_RANGE),
                        "pin" => Fault::Content(CKR_PIN_LEN_RANGE),
                        other => panic!("no input is called {other}"),
                    };
                    let given = |length| Argument::from(Memory::of(vec![b'1'; length]));
                    let mut variants = vec![
                        variant([given(32), word(32)], Fault::None),
                        variant([null(), word(0)], Fault::None),
                        variant([given(1), word(0)], Fault::None),
                        variant([given(1), word(1)], Fault::None),
                        variant([given(1 << 16), word(1 << 16)], Fault::None),
                        variant([null(), word(1)], bad),
                        variant([null(), word(u64::MAX)], bad),
                    ];
                    for length in HUGE {
                        variants.push(variant([given(1), word(length)], long));
                    }
                    variants
                }
                _ => panic!("no parameter is called {parameter}"),
            },
        }
    }

    /// CK_C_INITIALIZE_ARGS that are wrong whenever they come.
    fn initialize_arguments(&self) -> Vec<Variant> {
        vec![
            variant([Argument::NULL], Fault::Memory(CKR_CRYPTOKI_ALREADY_INITIALIZED)),
            variant([Memory::of([0; 48]).into()], Fault::Memory(CKR_CRYPTOKI_ALREADY_INITIALIZED)),
        ]
    }

    fn mechanisms(&self, must: bool) -> Vec<Variant> {
        let bad = Fault::Memory(CKR_ARGUMENTS_BAD);
        let given = |id: u64, parameter: Argument, length: u64| {
            let mut memory = Memory::default();
            memory.push_word(id);
            match parameter {
                Argument::Word(word) => memory.push_word(word),
                parameter => memory.push_pointer(parameter.memory().clone()),
            }
            memory.push_word(length);
            Argument::from(memory)
        };
        let invalid = Fault::Handle(CKR_MECHANISM_INVALID);
        let parameter = Fault::Content(CKR_MECHANISM_PARAM_INVALID);
        let mut variants = vec![
            variant([given(CKM_SHA256, Argument::NULL, 0)], Fault::None),
            variant([given(CKM_ECDSA, Argument::NULL, 0)], Fault::None),
            variant([Argument::NULL], if must { bad } else { Fault::None }),
            variant([given(0x7fff_0000, Argument::NULL, 0)], invalid),
            variant([given(CKM_VENDOR_DEFINED | 1, Memory::of([1; 9]).into(), 9)], invalid),
            variant([given(u64::MAX, Argument::NULL, 0)], invalid),
            variant([given(CKM_ECDSA, Argument::NULL, 4)], bad),
            variant([given(CKM_RSA_PKCS_PSS, Memory::of([1; 24]).into(), 24)], parameter),
            variant([given(CKM_RSA_PKCS_PSS, Memory::of([1; 24]).into(), 23)], parameter),
            variant([given(CKM_RSA_PKCS_PSS, Memory::of([0; 24]).into(), 1)], parameter),
            variant([given(CKM_RSA_PKCS_OAEP, Memory::of([1; 8]).into(), 8)], parameter),
            variant([given(CKM_ECDH1_DERIVE, Memory::of([0; 41]).into(), 41)], parameter),
        ];
        for length in HUGE {
            variants.push(variant([given(CKM_ECDSA, Memory::of([1]).into(), length)], parameter));
        }
        // Inside the parameter: NULL with a length, and lengths that are none.
        for length in [1, 1 << 17, u64::MAX] {
            let mut ecdh = Memory::default();
            ecdh.push_word(CKD_NULL);
            ecdh.push_word(0);
            ecdh.push_word(0);
            ecdh.push_word(length);
            ecdh.push_word(0);
            variants.push(variant([given(CKM_ECDH1_DERIVE, ecdh.into(), 40)], parameter));
            let mut oaep = Memory::default();
            for field in [CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED] {
                oaep.push_word(field);
            }
            oaep.push_word(0);
            oaep.push_word(length);
            variants.push(variant([given(CKM_RSA_PKCS_OAEP, oaep.into(), 40)], parameter));
        }
        variants
    }

    fn templates(&self, purpose: &str) -> Vec<Variant> {
        let bad = Fault::Memory(CKR_ARGUMENTS_BAD);
        let value = Fault::Content(CKR_ATTRIBUTE_VALUE_INVALID);
        // In a search a value of an impossible length matches nothing, and C_GetAttributeValue
        // reads no value at all.
        let odd = if purpose == "template" { value } else { Fault::None };
        let unreadable = if purpose == "wanted" { Fault::None } else { value };
        let given = |attributes: &[(u64, Argument, u64)]| {
            let mut memory = Memory::default();
            for (id, value, length) in attributes {
                memory.push_word(*id);
                match value {
                    Argument::Word(word) => memory.push_word(*word),
                    value => memory.push_pointer(value.memory().clone()),
                }
                memory.push_word(*length);
            }
            [memory.into(), Argument::Word(attributes.len() as u64)]
        };
        let of = |bytes: &[u8]| Argument::from(Memory::of(bytes));
        let label = (CKA_LABEL, of(b"door"), 4);
        let mut variants = vec![
            variant(given(std::slice::from_ref(&label)), Fault::None),
            variant([Argument::NULL, Argument::Word(0)], Fault::None),
            variant([Argument::NULL, Argument::Word(3)], bad),
            variant(given(&[(CKA_TOKEN, of(&[0; 4]), 4)]), odd),
            variant(given(&[(CKA_TOKEN, of(&[0; 8]), 8)]), odd),
            variant(given(&[(CKA_CLASS, of(&[0; 4]), 4)]), odd),
            variant(given(&[(CKA_CLASS, of(&[0; 9]), 9)]), odd),
            variant(given(&[(CKA_ALLOWED_MECHANISMS, of(&[0; 7]), 7)]), odd),
            variant(given(&[(CKA_WRAP_TEMPLATE, of(&[0; 23]), 23)]), odd),
        ];
        if purpose != "wanted" {
            variants
                .push(variant(given(&[label.clone(), (CKA_ID, Argument::NULL, 4)]), unreadable));
            for length in HUGE {
                variants.push(variant(given(&[(CKA_VALUE, of(b"x"), length)]), unreadable));
            }
        }
        for count in [1025, 1 << 31, 1 << 60, (1 << 63) + 5, u64::MAX] {
            let [template, _] = given(std::slice::from_ref(&label));
            variants.push(variant([template, Argument::Word(count)], bad));
            variants.push(variant([Argument::NULL, Argument::Word(count)], bad));
        }
        if purpose == "wanted" {
            // Asked for lengths, with too little room, of unknown types, of many.
            let mut many = vec![(CKA_LABEL, Argument::NULL, 0)];
            many.push((CKA_VALUE, Memory::room(40).into(), 39));
            many.push((0x8765_4321, Memory::room(8).into(), 8));
            many.push((CKA_LABEL, Memory::room(40).into(), 40));
            variants.push(variant(given(&many), Fault::None));
            let all: Vec<_> = (0..1024).map(|id| (id, Argument::NULL, u64::MAX)).collect();
            variants.push(variant(given(&all), Fault::None));
        }
        variants
    }
}

/// CK_GCM_MESSAGE_PARAMS and its size. What is wrong with it is seen after the process was found.
fn messages() -> Vec<Variant> {
    let wrong = Fault::Content(CKR_MECHANISM_PARAM_INVALID);
    let sound = Message::new(CKM_AES_GCM, &[7; 12], 16, 0);
    let mut variants = vec![variant(sound.arguments(), Fault::None)];
    type Change = fn(&mut Message);
    let changes: [(Change, Fault); 6] = [
        (|message| message.generator = CKG_GENERATE_COUNTER, Fault::None),
        // Only its beginning asks for a message's nonce.
        (|message| message.nonce.clear(), Fault::None),
        (|message| message.kind = CKM_AES_CCM, wrong),
        (|message| message.tag.clear(), wrong),
        (|message| message.tag.truncate(11), wrong),
        (|message| message.tag = vec![0; 17], wrong),
    ];
    for (change, fault) in changes {
        let mut message = sound.clone();
        change(&mut message);
        variants.push(variant(message.arguments(), fault));
    }
    let [structure, size] = sound.arguments();
    for length in HUGE.into_iter().chain([0, 1, 47]) {
        variants.push(variant([structure.clone(), Argument::Word(length)], wrong));
    }
    variants.push(variant([Argument::NULL, size.clone()], wrong));
    variants.push(variant([Argument::NULL, Argument::Word(0)], wrong));
    // Inside: NULL with a length, and lengths that are none.
    for (iv, tag) in [(1, 128), (1 << 17, 128), (u64::MAX, 128), (0, 136), (0, 1 << 40), (0, 100)] {
        let mut memory = Memory::default();
        for word in [0, iv, 0, CKG_GENERATE, 0, tag] {
            memory.push_word(word);
        }
        variants.push(variant([memory.into(), size.clone()], wrong));
    }
    variants
}

/// For each function the codes that the specification lists for it.
fn listed() -> BTreeMap<String, BTreeSet<u64>> {
    let text = include_str!("returns.txt");
    let lines = || text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let codes: BTreeMap<&str, u64> = lines()
        .filter_map(|line| {
            let (name, number) = line.split_once(" = 0x")?;
            Some((name, u64::from_str_radix(number, 16).unwrap()))
        })
        .collect();
    let list = |wanted: &str| -> BTreeSet<u64> {
        let line = lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(": "));
        line.into_iter().flat_map(|line| line.split(' ')).map(|name| codes[name]).collect()
    };
    let general = ["C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList"];
    FUNCTIONS
        .iter()
        .map(|line| {
            let name = line.trim_start_matches(['?', '-']).split(' ').next().unwrap();
            let mut codes = list(name);
            codes.extend(list("any"));
            codes.extend(if general.contains(&name) { BTreeSet::new() } else { list("token") });
            if line.contains(" session") {
                codes.extend(list("session"));
            }
            (name.to_owned(), codes)
        })
        .collect()
}

/// Codes that a function returns although the specification's list does not have them, and why.
const UNLISTED: &[(&str, u64)] = &[
    // A PIN that no token of ours can have is no wrong PIN: it costs no try.
    ("C_InitToken", CKR_PIN_LEN_RANGE),
    ("C_Login", CKR_PIN_LEN_RANGE),
    ("C_LoginUser", CKR_PIN_LEN_RANGE),
    // Listed for every function like these but for these.
    ("C_MessageEncryptInit", CKR_ARGUMENTS_BAD),
    ("C_MessageDecryptInit", CKR_ARGUMENTS_BAD),
    ("C_EncryptMessageBegin", CKR_ARGUMENTS_BAD),
    ("C_DeriveKey", CKR_KEY_FUNCTION_NOT_PERMITTED),
    ("C_WrapKey", CKR_KEY_FUNCTION_NOT_PERMITTED),
    ("C_UnwrapKey", CKR_KEY_FUNCTION_NOT_PERMITTED),
    ("C_WrapKeyAuthenticated", CKR_KEY_FUNCTION_NOT_PERMITTED),
    ("C_UnwrapKeyAuthenticated", CKR_KEY_FUNCTION_NOT_PERMITTED),
    ("C_EncryptInit", CKR_ARGUMENTS_BAD),
    ("C_GetSessionValidationFlags", CKR_ARGUMENTS_BAD),
];

/// What must come back, where that is certain: memory first, then the session, then the rest. (What goes
/// first among the rest, tests/input.rs knows.)
fn check(name: &str, faults: &[Fault], rv: u64) {
    let codes = |of: fn(&Fault) -> Option<u64>| faults.iter().filter_map(of).collect::<Vec<u64>>();
    let memory = codes(|fault| if let Fault::Memory(code) = fault { Some(*code) } else { None });
    let rest = codes(|fault| match fault {
        Fault::Content(code) | Fault::Handle(code) => Some(*code),
        _ => None,
    });
    if !memory.is_empty() {
        assert!(memory.contains(&rv), "{name} with {faults:?} is {rv:#x}");
    } else if faults.contains(&Fault::Session) {
        assert_eq!(rv, CKR_SESSION_HANDLE_INVALID, "{name} with {faults:?}");
    } else if !rest.is_empty() {
        let also = [
            // What the state of session and token makes as wrong.
            CKR_OPERATION_NOT_INITIALIZED,
            CKR_OPERATION_ACTIVE,
            CKR_USER_NOT_LOGGED_IN,
            CKR_USER_ALREADY_LOGGED_IN,
            CKR_SESSION_EXISTS,
            CKR_STATE_UNSAVEABLE,
            CKR_SAVED_STATE_INVALID,
            // What sound arguments of one kind make of sound ones of another.
            CKR_MECHANISM_INVALID,
            CKR_KEY_TYPE_INCONSISTENT,
            CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
            CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
            CKR_KEY_FUNCTION_NOT_PERMITTED,
            CKR_TEMPLATE_INCOMPLETE,
            CKR_ATTRIBUTE_READ_ONLY,
            CKR_PIN_LEN_RANGE,
            CKR_SESSION_PARALLEL_NOT_SUPPORTED,
            CKR_SESSION_ASYNC_NOT_SUPPORTED,
            CKR_OK, // C_XxxInit with a NULL mechanism looks at nothing else
        ];
        assert!(rest.contains(&rv) || also.contains(&rv), "{name} with {faults:?} is {rv:#x}");
        let canceled = name.ends_with("Init") && name != "C_FindObjectsInit";
        assert!(rv != CKR_OK || canceled, "{name} took {faults:?}");
    }
    assert!(rv != CKR_GENERAL_ERROR, "{name} with {faults:?} met an internal error");
    assert!(rv != CKR_DEVICE_REMOVED && rv != CKR_TOKEN_NOT_PRESENT, "{name} is {rv:#x}");
}

/// What the function left in the arguments, compared with what it was given.
fn check_memory(name: &str, before: &[Argument], after: &[Argument], parameters: &[&str], rv: u64) {
    let mut at = 0;
    for parameter in parameters {
        let count = match *parameter {
            "handles" => 3,
            "out" | "fill" | "list" | "interfaces" | "template" | "search" | "wanted"
            | "message" => 2,
            parameter if parameter.starts_with("in:") => 2,
            _ => 1,
        };
        let written = *parameter == "wanted"
            || (rv == CKR_OK && !parameter.starts_with("in:") && *parameter != "template")
            || (rv == CKR_BUFFER_TOO_SMALL && matches!(*parameter, "out" | "list" | "interfaces"));
        let pairs = before[at..at + count].iter().zip(&after[at..at + count]);
        for (before, after) in pairs {
            let (Argument::Memory(before), Argument::Memory(after)) = (before, after) else {
                continue;
            };
            if before.pointers.is_empty() && !written {
                assert_eq!(before, after, "{name} wrote to {parameter} and returned {rv:#x}");
            }
            if before.bytes.len() >= GUARD && before.bytes.ends_with(&[0xA5; GUARD]) {
                let guard = &after.bytes[after.bytes.len() - GUARD..];
                assert_eq!(guard, [0xA5; GUARD], "{name} wrote beyond {parameter}");
            }
        }
        at += count;
    }
}

/// A small generator of numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % most
    }
}

/// The combinations to try: every variant beside sound ones, every pair, and a handful of mixtures.
fn combinations(variants: &[Vec<Variant>], dice: &mut Dice) -> Vec<Vec<usize>> {
    let sound = vec![0; variants.len()];
    let mut all = BTreeSet::from([sound.clone()]);
    for (i, first) in variants.iter().enumerate() {
        for a in 0..first.len() {
            let mut one = sound.clone();
            one[i] = a;
            all.insert(one.clone());
            for (j, second) in variants.iter().enumerate().skip(i + 1) {
                for b in 0..second.len() {
                    let mut two = one.clone();
                    two[j] = b;
                    all.insert(two);
                }
            }
        }
    }
    let mut all: Vec<_> = all.into_iter().collect();
    // Where one or two parameters are all there is, every combination is there already.
    if variants.iter().map(Vec::len).product::<usize>() > all.len() {
        let mixtures = (0..MIXTURES)
            .map(|_| variants.iter().map(|list| dice.below(list.len())).collect::<Vec<_>>());
        all.extend(mixtures);
    }
    all
}

/// How many random mixtures each function gets beside all pairs.
const MIXTURES: usize = 3000;

fn arguments_of(variants: &[Vec<Variant>], chosen: &[usize]) -> Vec<Argument> {
    variants.iter().zip(chosen).flat_map(|(list, at)| list[*at].arguments.clone()).collect()
}

/// Makes all generated calls of one function; how many.
fn storm(app: &Ck, world: &World, line: &str, dice: &mut Dice) -> usize {
    let mut words = line.split(' ');
    let name = words.next().unwrap();
    let parameters: Vec<&str> = words.collect();
    if let Some(name) = name.strip_prefix('-') {
        let count: usize = parameters[0].parse().unwrap();
        for word in [0, 1, world.session, u64::MAX] {
            let (rv, _) = app.raw(name, vec![Argument::Word(word); count]);
            assert_eq!(rv, CKR_FUNCTION_NOT_SUPPORTED, "{name}");
        }
        return 4;
    }
    let must_fail = name.starts_with('?');
    let name = name.trim_start_matches('?');
    let variants: Vec<_> = parameters.iter().map(|parameter| world.variants(parameter)).collect();
    let (listed, mut unlisted) = (listed(), BTreeSet::new());
    let mut calls = 0;
    for chosen in combinations(&variants, dice).into_iter().step_by(thinness()) {
        let faults: Vec<Fault> =
            variants.iter().zip(&chosen).map(|(list, at)| list[*at].fault).collect();
        if must_fail && faults.iter().all(|fault| *fault == Fault::None) {
            continue;
        }
        prepare(app, world, name);
        let arguments = arguments_of(&variants, &chosen);
        let (rv, after) = app.raw(name, arguments.clone());
        check(name, &faults, rv);
        if !listed[name].contains(&rv) && !UNLISTED.contains(&(name, rv)) {
            unlisted.insert(format!("{name} {rv:#x}"));
        }
        check_memory(name, &arguments, &after, &parameters, rv);
        if must_fail {
            assert_ne!(rv, CKR_OK, "{name} with {faults:?}");
        }
        calls += 1;
    }
    assert!(unlisted.is_empty(), "not in the specification's lists: {unlisted:?}");
    calls
}

/// Where there are keys: an operation for the call to go on with. It may be in progress already.
fn prepare(app: &Ck, world: &World, name: &str) {
    let Some((public, private)) = world.keys else { return };
    let ecdsa = || mechanism(CKM_ECDSA_SHA256);
    let (init, arguments) = match name {
        "C_Digest" | "C_DigestUpdate" | "C_DigestFinal" | "C_DigestKey" => {
            ("C_DigestInit", vec![mechanism(CKM_SHA256)])
        }
        "C_Sign" | "C_SignUpdate" | "C_SignFinal" => ("C_SignInit", vec![ecdsa(), private.into()]),
        "C_Verify" | "C_VerifyUpdate" | "C_VerifyFinal" => {
            ("C_VerifyInit", vec![ecdsa(), public.into()])
        }
        "C_EncryptMessage" | "C_EncryptMessageBegin" | "C_EncryptMessageNext" => {
            ("C_MessageEncryptInit", vec![mechanism(CKM_AES_GCM), world.aes.into()])
        }
        "C_DecryptMessage" | "C_DecryptMessageBegin" | "C_DecryptMessageNext" => {
            ("C_MessageDecryptInit", vec![mechanism(CKM_AES_GCM), world.aes.into()])
        }
        "C_FindObjects" => ("C_FindObjectsInit", vec![Argument::NULL, Argument::Word(0)]),
        _ => return,
    };
    let (rv, _) = app.raw(init, [vec![world.session.into()], arguments].concat());
    assert!([CKR_OK, CKR_OPERATION_ACTIVE].contains(&rv), "{init} is {rv:#x}");
    // A message for the next part to go on with.
    if let Some(function) = name.strip_suffix("Next") {
        let message = Message::new(CKM_AES_GCM, &[7; 12], 16, 0).arguments();
        let arguments = [&[world.session.into()][..], &message, &[0.into(), 0.into()]].concat();
        let (rv, _) = app.raw(&format!("{function}Begin"), arguments);
        assert!([CKR_OK, CKR_OPERATION_ACTIVE].contains(&rv), "Begin is {rv:#x}");
    }
}

/// What the API shows of the world.
#[derive(Debug, PartialEq)]
struct State {
    slots: Vec<u64>,
    /// CKS_ of the session: who is logged in.
    session: u64,
    sessions: u64,
    /// Handles, and all attributes as C_GetAttributeValue left them.
    objects: Vec<(u64, Memory)>,
}

/// Slots, sessions, login, objects with all their attributes, as the API shows them.
fn state(app: &Ck, world: &World) -> State {
    let info = app.session_info(world.session).unwrap();
    // The storm may have left a search in progress.
    let _ = app.raw("C_FindObjectsFinal", vec![world.session.into()]);
    let mut objects = Vec::new();
    for object in app.find(world.session, &[]).unwrap() {
        let mut wanted = Memory::default();
        for id in ATTRIBUTES {
            wanted.push_word(*id);
            wanted.push_pointer(Memory::room(600));
            wanted.push_word(600);
        }
        let count = Argument::Word(ATTRIBUTES.len() as u64);
        let arguments = vec![world.session.into(), object.into(), wanted.into(), count];
        let (_, after) = app.raw("C_GetAttributeValue", arguments);
        let mut wanted = after[2].memory().clone();
        for (at, _) in &wanted.pointers {
            wanted.bytes[*at..*at + 8].fill(0); // where the values were is no state
        }
        objects.push((object, wanted));
    }
    let sessions = app.token_info(world.slot).unwrap().ulSessionCount;
    State { slots: app.slots(false).unwrap(), session: info.state, sessions, objects }
}

/// What objects can be asked for.
const ATTRIBUTES: &[u64] = &[
    CKA_CLASS,
    CKA_TOKEN,
    CKA_PRIVATE,
    CKA_LABEL,
    CKA_UNIQUE_ID,
    CKA_VALUE,
    CKA_MODIFIABLE,
    CKA_COPYABLE,
    CKA_DESTROYABLE,
    CKA_KEY_TYPE,
    CKA_ID,
    CKA_DERIVE,
    CKA_SIGN,
    CKA_VERIFY,
    CKA_ENCRYPT,
    CKA_DECRYPT,
    CKA_LOCAL,
    CKA_START_DATE,
    CKA_EC_POINT,
    CKA_EC_PARAMS,
    CKA_MODULUS,
    CKA_PUBLIC_EXPONENT,
    CKA_SENSITIVE,
    CKA_EXTRACTABLE,
    CKA_SUBJECT,
    CKA_TRUSTED,
    CKA_ALLOWED_MECHANISMS,
];

/// Begins one operation of each kind, as far as there are keys. They may be in progress already.
fn begin_all(app: &Ck, world: &World) {
    let none = Argument::NULL;
    let mut inits = vec![
        ("C_FindObjectsInit", vec![none.clone(), Argument::Word(0)]),
        ("C_DigestInit", vec![mechanism(CKM_SHA256)]),
    ];
    if let (Some((ec_public, ec_private)), Some((public, private))) = (world.keys, world.rsa) {
        inits.extend([
            ("C_SignInit", vec![mechanism(CKM_ECDSA_SHA256), ec_private.into()]),
            ("C_VerifyInit", vec![mechanism(CKM_ECDSA_SHA256), ec_public.into()]),
            ("C_SignRecoverInit", vec![mechanism(CKM_RSA_PKCS), private.into()]),
            ("C_VerifyRecoverInit", vec![mechanism(CKM_RSA_PKCS), public.into()]),
            ("C_EncryptInit", vec![mechanism(CKM_RSA_PKCS), public.into()]),
            ("C_DecryptInit", vec![mechanism(CKM_RSA_PKCS), private.into()]),
        ]);
    }
    for (init, arguments) in inits {
        let (rv, _) = app.raw(init, [vec![world.session.into()], arguments].concat());
        assert!([CKR_OK, CKR_OPERATION_ACTIVE].contains(&rv), "{init} is {rv:#x}");
    }
}

/// Of which kinds operations are in progress, without ending any: a second C_XxxInit is refused, and one
/// that is not refused is taken back.
fn operations(app: &Ck, world: &World) -> Vec<&'static str> {
    let mut active = Vec::new();
    let mut ask = |kind: &'static str, arguments: Vec<Argument>| {
        let init = format!("C_{kind}Init");
        let session = || vec![Argument::Word(world.session)];
        match app.raw(&init, [session(), arguments.clone()].concat()).0 {
            CKR_OPERATION_ACTIVE => active.push(kind),
            CKR_OK if kind == "FindObjects" => {
                assert_eq!(app.raw("C_FindObjectsFinal", session()).0, CKR_OK);
            }
            CKR_OK => {
                let mut end = arguments;
                end[0] = Argument::NULL;
                assert_eq!(app.raw(&init, [session(), end].concat()).0, CKR_OK);
            }
            rv => panic!("{init} is {rv:#x}"),
        }
    };
    ask("FindObjects", vec![Argument::NULL, Argument::Word(0)]);
    ask("Digest", vec![mechanism(CKM_SHA256)]);
    if let Some((public, private)) = world.rsa {
        for (kind, key) in [
            ("Sign", private),
            ("Verify", public),
            ("SignRecover", private),
            ("VerifyRecover", public),
            ("Encrypt", public),
            ("Decrypt", private),
        ] {
            ask(kind, vec![mechanism(CKM_RSA_PKCS), key.into()]);
        }
    }
    active
}

/// The kinds of operations that a function works with: all others it leaves alone.
fn kinds_of(name: &str) -> Vec<&'static str> {
    let all = [
        "FindObjects",
        "Digest",
        "SignRecover",
        "VerifyRecover",
        "Sign",
        "Verify",
        "Encrypt",
        "Decrypt",
    ];
    match name {
        "C_SessionCancel" => all.into(),
        "C_DigestEncryptUpdate" => vec!["Digest", "Encrypt"],
        "C_DecryptDigestUpdate" => vec!["Digest", "Decrypt"],
        "C_SignEncryptUpdate" => vec!["Sign", "Encrypt"],
        "C_DecryptVerifyUpdate" => vec!["Decrypt", "Verify"],
        // The search for the key that a certificate belongs to is none of the caller's.
        _ => all
            .into_iter()
            .find(|kind| name.starts_with(&format!("C_{kind}")))
            .into_iter()
            .collect(),
    }
}

/// A mechanism without parameter.
fn mechanism(id: u64) -> Argument {
    let mut memory = Memory::default();
    for word in [id, 0, 0] {
        memory.push_word(word);
    }
    memory.into()
}

/// How many calls a run makes at least: logged out, and logged in with keys and operations.
const CALLS: usize = 100_000;

/// Of how many generated calls one is made.
fn thinness() -> usize {
    std::env::var("TPM11_DOOR").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

fn wrong_calls_change_nothing(login: bool) {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let world = World::build(&app, login);
    let before = state(&app, &world);
    let mut dice = Dice(20);
    let mut calls = 0;
    for line in FUNCTIONS {
        begin_all(&app, &world);
        let going = operations(&app, &world);
        calls += storm(&app, &world, line, &mut dice);
        let name = line.trim_start_matches(['?', '-']).split(' ').next().unwrap();
        let own = kinds_of(name);
        let others = |kinds: Vec<&'static str>| {
            kinds.into_iter().filter(|kind| !own.contains(kind)).collect::<Vec<_>>()
        };
        assert_eq!(others(operations(&app, &world)), others(going), "operations after {line}");
        assert_eq!(state(&app, &world), before, "after {line}");
    }
    assert!(calls >= CALLS / thinness(), "only {calls} calls");
    println!("{calls} generated calls");

    // No PIN was spent, and everything still works.
    if !login {
        app.login(world.session, PIN).unwrap();
    }
    let flags = app.token_flags(world.slot).unwrap();
    assert_eq!(flags & (CKF_USER_PIN_COUNT_LOW | CKF_SO_PIN_COUNT_LOW), 0);
    app.raw("C_SessionCancel", vec![world.session.into(), Argument::Word(u64::MAX)]);
    let (_, key) = app.generate_ec(world.session, P256, "after").unwrap();
    assert_eq!(app.sign(world.session, CKM_ECDSA, key, &[1; 32]).unwrap().len(), 64);
    app.finalize().unwrap();
    assert_eq!(app.noise(), "", "an application's output is its own");
}

#[test]
fn a_hundred_thousand_wrong_calls_of_a_stranger_change_nothing() {
    wrong_calls_change_nothing(false);
}

#[test]
fn a_hundred_thousand_wrong_calls_of_a_user_amid_operations_change_nothing() {
    wrong_calls_change_nothing(true);
}

#[test]
fn the_table_names_every_function_once() {
    let names: BTreeSet<_> = FUNCTIONS
        .iter()
        .map(|line| line.trim_start_matches(['?', '-']).split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(names, specified());
    assert_eq!(FUNCTIONS.len(), names.len());
}

/// Calls every function with NULL and zeros; `expected` says what must come back.
fn all_with_zeros(app: &App, expected: impl Fn(&str) -> Option<u64>) {
    for line in FUNCTIONS {
        let mut words = line.split(' ');
        let name = words.next().unwrap().trim_start_matches(['?', '-']);
        let count: usize = words
            .map(|word| match word {
                "handles" => 3,
                "out" | "fill" | "list" | "interfaces" | "template" | "search" | "wanted" => 2,
                word if word.starts_with("in:") => 2,
                word => word.parse().unwrap_or(1),
            })
            .sum();
        if let Some(expected) = expected(name) {
            let (rv, _) = app.raw(name, vec![Argument::NULL; count]);
            assert_eq!(rv, expected, "{name}");
        }
    }
}

#[test]
fn without_c_initialize_every_function_says_so() {
    let bench = Bench::start();
    let app = bench.app();
    let missing = |name: &str| (!EARLY.contains(&name)).then_some(CKR_CRYPTOKI_NOT_INITIALIZED);
    all_with_zeros(&app, missing);
    app.initialize().unwrap();
    app.finalize().unwrap();
    all_with_zeros(&app, missing);
}

#[test]
fn a_forked_child_is_not_initialised_and_the_parent_goes_on() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let slot = app.slot_of(LABEL).unwrap();
    let session = app.open(slot).unwrap();
    let child = app.fork();
    all_with_zeros(&child, |name| (!EARLY.contains(&name)).then_some(CKR_CRYPTOKI_NOT_INITIALIZED));
    child.initialize().unwrap();
    let (rv, _) = child.raw("C_GetSessionInfo", vec![session.into(), Memory::room(32).into()]);
    assert_eq!(rv, CKR_SESSION_HANDLE_INVALID, "the parent's session is not the child's");
    let own = child.open(child.slot_of(LABEL).unwrap()).unwrap();
    child.login(own, PIN).unwrap();
    child.finalize().unwrap();
    app.login(session, PIN).unwrap();
    app.finalize().unwrap();
}

#[test]
fn c_initialize_takes_what_it_can_honour() {
    let bench = Bench::start();
    let app = bench.app();
    let initialize = |mutexes: [u64; 4], flags: u64, reserved: u64| {
        let mut arguments = Memory::default();
        for word in mutexes.into_iter().chain([flags, reserved]) {
            arguments.push_word(word);
        }
        let (rv, _) = app.raw("C_Initialize", vec![arguments.into()]);
        if rv == CKR_OK {
            app.finalize().unwrap();
        }
        rv
    };
    let (none, all) = ([0; 4], [1; 4]);
    assert_eq!(initialize(none, 0, 0), CKR_OK);
    assert_eq!(initialize(none, CKF_OS_LOCKING_OK, 0), CKR_OK);
    assert_eq!(initialize(all, CKF_OS_LOCKING_OK, 0), CKR_OK);
    assert_eq!(initialize(none, CKF_LIBRARY_CANT_CREATE_OS_THREADS, 0), CKR_OK);
    assert_eq!(initialize(all, 0, 0), CKR_CANT_LOCK, "we cannot use the application's mutexes");
    assert_eq!(initialize([1, 0, 0, 0], 0, 0), CKR_ARGUMENTS_BAD);
    assert_eq!(initialize([1, 1, 1, 0], CKF_OS_LOCKING_OK, 0), CKR_ARGUMENTS_BAD);
    assert_eq!(initialize(none, CKF_OS_LOCKING_OK, 1), CKR_ARGUMENTS_BAD, "pReserved");
    // Locking does not depend on what an earlier C_Initialize was given.
    assert_eq!(initialize(none, 0, 0), CKR_OK);
    assert_eq!(initialize(none, CKF_OS_LOCKING_OK, 0), CKR_OK);
}

#[test]
fn a_second_c_initialize_changes_nothing() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    let (rv, _) = app.raw("C_Initialize", vec![Argument::NULL]);
    assert_eq!(rv, CKR_CRYPTOKI_ALREADY_INITIALIZED);
    app.session_info(session).unwrap();
}

#[test]
fn operations_come_in_their_order() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    let handle = || Argument::Word(session);
    let input = || [Argument::from(Memory::of([1; 4])), Argument::Word(4)];
    let output = || [Argument::from(Memory::room(64)), Argument::from(Memory::word(64))];
    let call = |name: &str, arguments: Vec<Argument>| app.raw(name, arguments).0;
    let with = |parts: &[&[Argument]]| {
        let mut arguments = vec![handle()];
        arguments.extend(parts.concat());
        arguments
    };

    for name in
        ["C_Encrypt", "C_Decrypt", "C_Digest", "C_Sign", "C_EncryptUpdate", "C_DecryptUpdate"]
    {
        let rv = call(name, with(&[&input(), &output()]));
        assert_eq!(rv, CKR_OPERATION_NOT_INITIALIZED, "{name}");
    }
    for name in ["C_DigestUpdate", "C_SignUpdate", "C_VerifyUpdate", "C_VerifyFinal"] {
        assert_eq!(call(name, with(&[&input()])), CKR_OPERATION_NOT_INITIALIZED, "{name}");
    }
    for name in ["C_EncryptFinal", "C_DecryptFinal", "C_DigestFinal", "C_SignFinal"] {
        assert_eq!(call(name, with(&[&output()])), CKR_OPERATION_NOT_INITIALIZED, "{name}");
    }
    assert_eq!(call("C_FindObjectsFinal", with(&[])), CKR_OPERATION_NOT_INITIALIZED);

    let sha256 = || {
        let mut memory = Memory::default();
        for word in [CKM_SHA256, 0, 0] {
            memory.push_word(word);
        }
        [Argument::from(memory)]
    };
    // Twice is once too often; a NULL mechanism ends what is in progress.
    assert_eq!(call("C_DigestInit", with(&[&sha256()])), CKR_OK);
    assert_eq!(call("C_DigestInit", with(&[&sha256()])), CKR_OPERATION_ACTIVE);
    assert_eq!(call("C_DigestInit", with(&[&[Argument::NULL]])), CKR_OK);
    assert_eq!(call("C_DigestInit", with(&[&sha256()])), CKR_OK);
    // The length may be asked for, and too little room given, without ending the operation.
    let query = [Argument::NULL, Argument::from(Memory::word(0))];
    assert_eq!(call("C_DigestFinal", with(&[&query])), CKR_OK);
    let small = [Argument::from(Memory::room(31)), Argument::from(Memory::word(31))];
    let (rv, after) = app.raw("C_DigestFinal", with(&[&small]));
    assert_eq!((rv, after[2].memory().word_at(0)), (CKR_BUFFER_TOO_SMALL, 32));
    assert_eq!(call("C_DigestFinal", with(&[&output()])), CKR_OK);
    assert_eq!(call("C_DigestFinal", with(&[&output()])), CKR_OPERATION_NOT_INITIALIZED);
    // A bad argument ends it.
    assert_eq!(call("C_DigestInit", with(&[&sha256()])), CKR_OK);
    let nowhere = [Argument::NULL, Argument::NULL];
    assert_eq!(call("C_DigestFinal", with(&[&nowhere])), CKR_ARGUMENTS_BAD);
    assert_eq!(call("C_DigestFinal", with(&[&output()])), CKR_OPERATION_NOT_INITIALIZED);
}

#[test]
fn one_attribute_that_cannot_be_read_does_not_spoil_the_others() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let world = World::build(&app, false);
    let mut template = Memory::default();
    for (id, room) in [(CKA_VALUE, 39), (0x8765_4321, 8), (CKA_LABEL, 40), (CKA_CLASS, 8)] {
        template.push_word(id);
        template.push_pointer(Memory::room(room));
        template.push_word(room as u64);
    }
    let (rv, after) = app.raw(
        "C_GetAttributeValue",
        vec![world.session.into(), world.object.into(), template.into(), Argument::Word(4)],
    );
    assert!([CKR_BUFFER_TOO_SMALL, CKR_ATTRIBUTE_TYPE_INVALID].contains(&rv), "{rv:#x}");
    let after = after[2].memory();
    let length = |index: usize| after.word_at(index * 24 + 16);
    let value = |index: usize| &after.pointers[index].1.bytes;
    assert_eq!(length(0), u64::MAX, "too little room");
    assert_eq!(*value(0), vec![0xA5; 39], "and nothing written there");
    assert_eq!(length(1), u64::MAX, "no such attribute");
    assert_eq!(length(2), 4);
    assert_eq!(&value(2)[..5], b"door\xA5");
    assert_eq!(length(3), 8);
    assert_eq!(*value(3), CKO_DATA.to_ne_bytes());
}
