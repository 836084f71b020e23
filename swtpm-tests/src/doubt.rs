//! A client that takes nothing for granted: a door that passes every call on, and beside it does the same
//! operation in each other way that PKCS#11 has: asked for its length, given too little room, cut into
//! parts, of nothing, with a wrong parameter, with a key of another type, with a key that may not.
//!
//! Whoever drives something through it has asked all of that, too: [`Doubting::seen`] says what of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use cryptoki_sys::*;

use crate::ck::{Ck, Door, flag};
use crate::door::{Argument, Call, Memory};

/// One way to ask for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// A parameter of another length, without what it points to, or one where none belongs.
    Parameter,
    /// A key of a type that the mechanism does not take.
    KeyType,
    /// A key of the right type whose role is FALSE.
    Permission,
    /// How long the answer is; the operation goes on.
    Length,
    /// One byte of room too little (C_Verify: of signature), the operation goes on.
    ShortBuffer,
    /// No data: in one part as in none.
    Nothing,
    /// Parts that fit no block, down to single bytes.
    Parts,
}

/// The functions of an operation that is begun: its flag, the role of its key, and whether its answer goes
/// into a buffer.
struct Functions {
    begin: &'static str,
    whole: &'static str,
    /// C_XUpdate and C_XFinal.
    parts: Option<(&'static str, &'static str)>,
    flag: u64,
    role: Option<u64>,
    gives: Gives,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gives {
    /// With each part.
    Always,
    /// At the end.
    Last,
    /// Nothing: it takes a signature.
    Verdict,
}

static BEGUN: &[Functions] = &[
    Functions {
        begin: "C_EncryptInit",
        whole: "C_Encrypt",
        parts: Some(("C_EncryptUpdate", "C_EncryptFinal")),
        flag: CKF_ENCRYPT,
        role: Some(CKA_ENCRYPT),
        gives: Gives::Always,
    },
    Functions {
        begin: "C_DecryptInit",
        whole: "C_Decrypt",
        parts: Some(("C_DecryptUpdate", "C_DecryptFinal")),
        flag: CKF_DECRYPT,
        role: Some(CKA_DECRYPT),
        gives: Gives::Always,
    },
    Functions {
        begin: "C_SignInit",
        whole: "C_Sign",
        parts: Some(("C_SignUpdate", "C_SignFinal")),
        flag: CKF_SIGN,
        role: Some(CKA_SIGN),
        gives: Gives::Last,
    },
    Functions {
        begin: "C_VerifyInit",
        whole: "C_Verify",
        parts: Some(("C_VerifyUpdate", "C_VerifyFinal")),
        flag: CKF_VERIFY,
        role: Some(CKA_VERIFY),
        gives: Gives::Verdict,
    },
    Functions {
        begin: "C_SignRecoverInit",
        whole: "C_SignRecover",
        parts: None,
        flag: CKF_SIGN_RECOVER,
        role: Some(CKA_SIGN_RECOVER),
        gives: Gives::Last,
    },
    Functions {
        begin: "C_VerifyRecoverInit",
        whole: "C_VerifyRecover",
        parts: None,
        flag: CKF_VERIFY_RECOVER,
        role: Some(CKA_VERIFY_RECOVER),
        gives: Gives::Last,
    },
    Functions {
        begin: "C_DigestInit",
        whole: "C_Digest",
        parts: Some(("C_DigestUpdate", "C_DigestFinal")),
        flag: CKF_DIGEST,
        role: None,
        gives: Gives::Last,
    },
];

/// The same of messages, whose one-part function is done again by [`Doubting::messages`].
static MESSAGES: &[Messages] = &[
    Messages {
        begin: "C_MessageEncryptInit",
        whole: "C_EncryptMessage",
        flag: CKF_MESSAGE_ENCRYPT,
        role: CKA_ENCRYPT,
    },
    Messages {
        begin: "C_MessageDecryptInit",
        whole: "C_DecryptMessage",
        flag: CKF_MESSAGE_DECRYPT,
        role: CKA_DECRYPT,
    },
];

struct Messages {
    begin: &'static str,
    whole: &'static str,
    flag: u64,
    role: u64,
}

/// A function that does all at once: its flag, the role of the key that it works with, and which argument
/// that is.
struct AtOnce {
    name: &'static str,
    flag: u64,
    key: Option<(usize, u64)>,
    inconsistent: u64,
}

static AT_ONCE: &[AtOnce] = &[
    AtOnce { name: "C_GenerateKey", flag: CKF_GENERATE, key: None, inconsistent: 0 },
    AtOnce { name: "C_GenerateKeyPair", flag: CKF_GENERATE_KEY_PAIR, key: None, inconsistent: 0 },
    AtOnce {
        name: "C_DeriveKey",
        flag: CKF_DERIVE,
        key: Some((2, CKA_DERIVE)),
        inconsistent: CKR_KEY_TYPE_INCONSISTENT,
    },
    AtOnce {
        name: "C_WrapKey",
        flag: CKF_WRAP,
        key: Some((2, CKA_WRAP)),
        inconsistent: CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
    },
    AtOnce {
        name: "C_UnwrapKey",
        flag: CKF_UNWRAP,
        key: Some((2, CKA_UNWRAP)),
        inconsistent: CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
    },
];

/// Mechanisms that take a key whatever its attributes say that it may (PKCS#11 3.2 §6.43.8).
const ROLES_DO_NOT_MATTER: &[u64] = &[CKM_PUB_KEY_FROM_PRIV_KEY];

impl Doubt {
    /// What belongs to an operation of this flag.
    pub fn all(operation: u64) -> BTreeSet<Doubt> {
        let mut all = BTreeSet::from([Doubt::Parameter]);
        let begun = BEGUN.iter().find(|functions| functions.flag == operation);
        if let Some(functions) = begun {
            all.extend([Doubt::Nothing, Doubt::ShortBuffer]);
            if functions.parts.is_some() {
                all.insert(Doubt::Parts);
            }
            if functions.gives != Gives::Verdict {
                all.insert(Doubt::Length);
            }
        }
        if [CKF_WRAP, CKF_MESSAGE_ENCRYPT, CKF_MESSAGE_DECRYPT].contains(&operation) {
            all.extend([Doubt::Length, Doubt::ShortBuffer]);
        }
        let keyless = [CKF_DIGEST, CKF_GENERATE, CKF_GENERATE_KEY_PAIR];
        if !keyless.contains(&operation) {
            all.extend([Doubt::KeyType, Doubt::Permission]);
        }
        all
    }
}

/// What was begun in a session: the mechanism and the key.
#[derive(Debug, Clone)]
struct Begun {
    mechanism: Argument,
    key: Option<u64>,
}

type Seen = BTreeMap<(u64, u64), BTreeSet<Doubt>>;

/// The door.
#[derive(Debug)]
pub struct Doubting {
    ck: Ck,
    door: Arc<dyn Door>,
    /// Keys to be wrong with: of each type one that nobody else has.
    strangers: Vec<u64>,
    begun: Mutex<HashMap<(u64, &'static str), Begun>>,
    seen: Mutex<Seen>,
}

/// What a call returned, and what it wrote into its buffer or would have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    rv: u64,
    length: u64,
    bytes: Vec<u8>,
}

impl Doubting {
    /// Through the client's door. `strangers` are keys of different types with every role that they can
    /// have.
    pub fn new(ck: &Ck, strangers: Vec<u64>) -> Arc<Doubting> {
        Arc::new(Doubting {
            ck: ck.clone(),
            door: ck.door(),
            strangers,
            begun: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    /// What was asked of this mechanism and operation.
    pub fn seen(&self, mechanism: u64, operation: u64) -> BTreeSet<Doubt> {
        let seen = self.seen.lock().expect("no thread failed with it");
        seen.get(&(mechanism, operation)).cloned().unwrap_or_default()
    }

    fn note(&self, mechanism: &Argument, operation: u64, doubt: Doubt) {
        let mut seen = self.seen.lock().expect("no thread failed with it");
        seen.entry((kind_of(mechanism), operation)).or_default().insert(doubt);
    }

    fn is_new(&self, mechanism: &Argument, operation: u64, doubt: Doubt) -> bool {
        !self.seen(kind_of(mechanism), operation).contains(&doubt)
    }

    /// A call that is expected to answer one of these.
    fn expect(
        &self,
        function: &str,
        arguments: Vec<Argument>,
        expected: &[u64],
        why: Doubt,
    ) -> u64 {
        let mechanism = arguments.get(1).cloned();
        let (rv, _) = self.ck.raw(function, arguments);
        assert!(
            expected.contains(&rv),
            "{why:?}: {function} with {mechanism:?} gives {rv:#x}, none of {expected:#x?}"
        );
        rv
    }

    /// A copy of the key that lacks the role; none where the key may not be copied.
    fn without_role(&self, session: u64, key: u64, role: u64) -> Option<u64> {
        let changes = [flag(CKA_TOKEN, false), flag(role, false)];
        match self.ck.copy_object(session, key, &changes) {
            Ok(copy) => Some(copy),
            Err(rv) if rv == CKR_ACTION_PROHIBITED => None,
            Err(rv) => panic!("C_CopyObject of key {key}: {rv:?}"),
        }
    }

    fn key_type(&self, session: u64, key: u64) -> Vec<u8> {
        self.ck.attribute(session, key, CKA_KEY_TYPE).expect("a key has a type")
    }

    /// Everything that is refused before there is data: `call` makes the call with a mechanism and a key,
    /// `undo` ends what succeeded nevertheless.
    fn refusals(
        &self,
        given: &Refused<'_>,
        call: impl Fn(&Argument, Option<u64>) -> (u64, Vec<Argument>),
        undo: impl Fn(&[Argument]),
    ) {
        let Refused { session, mechanism, operation, key, inconsistent, name } = *given;
        if self.is_new(mechanism, operation, Doubt::Parameter) {
            for wrong in wrong_parameters(mechanism) {
                let (rv, _) = call(&wrong, key.map(|(key, _)| key));
                let refused = [CKR_MECHANISM_PARAM_INVALID, CKR_ARGUMENTS_BAD];
                assert!(refused.contains(&rv), "{name} with {wrong:?}: {rv:#x}");
            }
            self.note(mechanism, operation, Doubt::Parameter);
        }
        let Some((key, role)) = key else { return };
        if key == CK_INVALID_HANDLE {
            // It works without one, and takes none.
            for stranger in &self.strangers {
                let (rv, _) = call(mechanism, Some(*stranger));
                assert_eq!(rv, CKR_UNWRAPPING_KEY_HANDLE_INVALID, "{name}, {mechanism:?}");
            }
            self.note(mechanism, operation, Doubt::KeyType);
            self.note(mechanism, operation, Doubt::Permission);
            return;
        }
        if self.is_new(mechanism, operation, Doubt::KeyType) {
            let own = self.key_type(session, key);
            for stranger in &self.strangers {
                if self.key_type(session, *stranger) == own {
                    continue;
                }
                let (rv, after) = call(mechanism, Some(*stranger));
                if rv == inconsistent {
                    self.note(mechanism, operation, Doubt::KeyType);
                } else if rv == CKR_OK {
                    // Some mechanisms take keys of several types.
                    undo(&after);
                } else {
                    let may = [CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_KEY_SIZE_RANGE];
                    let what = self.key_type(session, *stranger);
                    assert!(may.contains(&rv), "{name}, {mechanism:?}, key of {what:?}: {rv:#x}");
                }
            }
        }
        if self.is_new(mechanism, operation, Doubt::Permission) {
            if let Some(copy) = self.without_role(session, key, role) {
                let (rv, after) = call(mechanism, Some(copy));
                if rv == CKR_OK && ROLES_DO_NOT_MATTER.contains(&kind_of(mechanism)) {
                    undo(&after);
                } else {
                    assert_eq!(
                        rv, CKR_KEY_FUNCTION_NOT_PERMITTED,
                        "{name}, {mechanism:?}: {rv:#x}"
                    );
                }
                self.ck.destroy_object(session, copy).expect("the copy goes");
                self.note(mechanism, operation, Doubt::Permission);
            }
        }
    }

    fn before(&self, call: &Call) {
        let Some(session) = word(call.arguments.first()) else { return };
        let Some(mechanism) = call.arguments.get(1) else { return };
        if let Some(functions) = MESSAGES.iter().find(|functions| functions.whole == call.function)
        {
            self.messages(functions, session, call);
        }
        let begun = BEGUN.iter().map(|functions| (functions.begin, functions.flag, functions.role));
        let messages = MESSAGES.iter().map(|them| (them.begin, them.flag, Some(them.role)));
        let begun = begun.chain(messages).find(|(begin, ..)| *begin == call.function);
        if let Some((name, operation, role)) = begun {
            let key = role.and_then(|role| Some((word(call.arguments.get(2))?, role)));
            let begin = |mechanism: &Argument, key: Option<u64>| {
                let key = key.map(Argument::Word);
                let arguments =
                    [session.into(), mechanism.clone()].into_iter().chain(key).collect();
                self.ck.raw(name, arguments)
            };
            let inconsistent = CKR_KEY_TYPE_INCONSISTENT;
            let given = Refused { session, mechanism, operation, key, inconsistent, name };
            self.refusals(&given, begin, |_| {
                begin(&Argument::NULL, Some(0));
            });
        }
        let query = call.function == "C_WrapKey" && call.arguments[4] == Argument::NULL;
        let at_once = AT_ONCE.iter().find(|function| function.name == call.function && !query);
        if let Some(AtOnce { name, flag, key, inconsistent }) = at_once {
            let place = key.map(|(place, role)| (place, role));
            let key =
                place.and_then(|(place, role)| Some((word(call.arguments.get(place))?, role)));
            let again = |mechanism: &Argument, key: Option<u64>| {
                let mut arguments = call.arguments.clone();
                arguments[1] = mechanism.clone();
                if let (Some((place, _)), Some(key)) = (place, key) {
                    arguments[place] = key.into();
                }
                self.ck.raw(name, arguments)
            };
            let given = Refused {
                session,
                mechanism,
                operation: *flag,
                key,
                inconsistent: *inconsistent,
                name,
            };
            self.refusals(&given, again, |after| {
                if let Some(Argument::Memory(handle)) = after.last().filter(|_| *flag != CKF_WRAP) {
                    self.ck.destroy_object(session, handle.word_at(0)).expect("the key goes");
                }
            });
        }
    }

    fn after(&self, given: &[Argument], call: &Call, rv: u64) {
        let Some(session) = word(given.first()) else { return };
        let begins = BEGUN.iter().map(|functions| functions.begin);
        let mut begins = begins.chain(MESSAGES.iter().map(|functions| functions.begin));
        if let Some(begin) = begins.find(|begin| *begin == call.function) {
            if rv == CKR_OK && given.get(1) != Some(&Argument::NULL) {
                let begun = Begun { mechanism: given[1].clone(), key: word(given.get(2)) };
                self.begun
                    .lock()
                    .expect("no thread failed with it")
                    .insert((session, begin), begun);
            }
        }
        if let Some(functions) = BEGUN.iter().find(|functions| functions.whole == call.function) {
            let begun = self.begun.lock().expect("no thread failed with it");
            let begun = begun.get(&(session, functions.begin)).cloned();
            let Some(begun) = begun else { return };
            let replay = Replay { doubting: self, functions, session, begun };
            if functions.gives == Gives::Verdict {
                replay.verdicts(given, rv);
            } else if rv == CKR_OK && given[3] != Argument::NULL {
                let first = outcome(rv, &call.arguments[3..]);
                replay.answers(&bytes_of(given, 1), &first);
            }
        }
        if call.function == "C_WrapKey" && rv == CKR_OK && given[4] != Argument::NULL {
            self.wraps(given, &outcome(rv, &call.arguments[4..]));
        }
    }

    /// A message in one part, before it is worked on: that its length is asked and that its room is too
    /// small costs it nothing.
    fn messages(&self, functions: &Messages, session: u64, call: &Call) {
        let begun = self.begun.lock().expect("no thread failed with it");
        let Some(Begun { mechanism, .. }) = begun.get(&(session, functions.begin)).cloned() else {
            return;
        };
        drop(begun);
        let with = |output: [Argument; 2]| {
            let (rv, after) =
                self.ck.raw(functions.whole, [&call.arguments[..7], &output].concat());
            outcome(rv, &after[7..])
        };
        let length = word(call.arguments.get(6)).expect("a length");
        let asked = with(query());
        assert_eq!((asked.rv, asked.length), (CKR_OK, length), "{}", functions.whole);
        self.note(&mechanism, functions.flag, Doubt::Length);
        if length > 0 {
            let small = with(room(length - 1));
            assert_eq!((small.rv, small.length), (CKR_BUFFER_TOO_SMALL, length));
            self.note(&mechanism, functions.flag, Doubt::ShortBuffer);
        }
    }

    fn wraps(&self, given: &[Argument], first: &Outcome) {
        let with = |output: [Argument; 2]| {
            let (rv, after) = self.ck.raw("C_WrapKey", [&given[..4], &output].concat());
            outcome(rv, &after[4..])
        };
        let asked = with(query());
        assert_eq!(asked.rv, CKR_OK, "C_WrapKey asked for a length");
        assert!(asked.length >= first.length, "{asked:?}");
        self.note(&given[1], CKF_WRAP, Doubt::Length);
        let small = with(room(first.length - 1));
        assert_eq!(small.rv, CKR_BUFFER_TOO_SMALL, "C_WrapKey into {}", first.length - 1);
        assert!(small.length >= first.length, "{small:?}");
        self.note(&given[1], CKF_WRAP, Doubt::ShortBuffer);
    }
}

/// What [`Doubting::refusals`] is about.
struct Refused<'a> {
    session: u64,
    mechanism: &'a Argument,
    operation: u64,
    key: Option<(u64, u64)>,
    inconsistent: u64,
    name: &'a str,
}

/// An operation that succeeded, to be done again.
struct Replay<'a> {
    doubting: &'a Doubting,
    functions: &'a Functions,
    session: u64,
    begun: Begun,
}

/// How an empty input may be refused.
const EMPTY: &[u64] = &[
    CKR_OK,
    CKR_DATA_LEN_RANGE,
    CKR_DATA_INVALID,
    CKR_ENCRYPTED_DATA_LEN_RANGE,
    CKR_ENCRYPTED_DATA_INVALID,
    CKR_AEAD_DECRYPT_FAILED,
    CKR_SIGNATURE_INVALID,
    CKR_SIGNATURE_LEN_RANGE,
];

impl Replay<'_> {
    fn begin(&self) {
        let key = self.begun.key.filter(|_| self.functions.role.is_some()).map(Argument::Word);
        let first = [self.session.into(), self.begun.mechanism.clone()];
        let arguments = first.into_iter().chain(key).collect();
        let doubting = self.doubting;
        doubting.expect(self.functions.begin, arguments, &[CKR_OK], Doubt::Parts);
    }

    fn note(&self, doubt: Doubt) {
        self.doubting.note(&self.begun.mechanism, self.functions.flag, doubt);
    }

    fn is_new(&self, doubt: Doubt) -> bool {
        self.doubting.is_new(&self.begun.mechanism, self.functions.flag, doubt)
    }

    fn call(&self, function: &str, inputs: &[&[u8]], output: Option<[Argument; 2]>) -> Outcome {
        let mut arguments: Vec<Argument> = vec![self.session.into()];
        for input in inputs {
            arguments.push(Memory::of(*input).into());
            arguments.push(Argument::Word(input.len() as u64));
        }
        let place = arguments.len();
        arguments.extend(output.into_iter().flatten());
        let (rv, after) = self.doubting.ck.raw(function, arguments);
        outcome(rv, &after[place..])
    }

    /// In parts of this size.
    fn parts(&self, data: &[u8], size: usize, end: &[&[u8]], most: u64) -> Outcome {
        let (update, last) = self.functions.parts.expect("functions for parts");
        let verdict = self.functions.gives == Gives::Verdict;
        self.begin();
        let mut whole = Vec::new();
        for part in data.chunks(size) {
            let place = (self.functions.gives == Gives::Always).then(|| room(most));
            let outcome = self.call(update, &[part], place);
            assert_eq!(outcome.rv, CKR_OK, "{update}: {:?}", self.begun);
            whole.extend(outcome.bytes);
        }
        let last = self.call(last, end, (!verdict).then(|| room(most)));
        whole.extend(&last.bytes);
        Outcome { rv: last.rv, length: whole.len() as u64, bytes: whole }
    }

    /// Of an operation that gives something.
    fn answers(&self, data: &[u8], first: &Outcome) {
        let whole = self.functions.whole;
        let most = first.length.max(data.len() as u64) + 512;
        let again = |output| self.call(whole, &[data], Some(output));

        self.begin();
        let asked = again(query());
        assert_eq!(asked.rv, CKR_OK, "{whole} asked for a length, {:?}", self.begun);
        assert!(asked.length >= first.length, "{whole}: {asked:?}, {first:?}");
        let second = again(room(asked.length));
        assert_eq!(second.rv, CKR_OK, "{whole} into what it asked for, {:?}", self.begun);
        self.note(Doubt::Length);
        // Some are random: then only their length is alike.
        let same = second == *first;
        let is_alike = |other: &Outcome| match same {
            true => other == first,
            false => other.rv == first.rv && other.length == first.length,
        };

        if first.length > 0 && self.is_new(Doubt::ShortBuffer) {
            self.begin();
            let small = again(room(first.length - 1));
            assert_eq!(small.rv, CKR_BUFFER_TOO_SMALL, "{whole}, {:?}", self.begun);
            assert!(small.length >= first.length, "{whole}: {small:?}, {first:?}");
            let enough = again(room(small.length));
            assert!(is_alike(&enough), "{whole} after too small a buffer, {:?}", self.begun);
            self.note(Doubt::ShortBuffer);
        }
        if self.functions.parts.is_some() && self.is_new(Doubt::Parts) {
            for size in part_sizes(data) {
                let parts = self.parts(data, size, &[], most);
                assert!(is_alike(&parts), "{whole} in parts of {size}, {:?}", self.begun);
            }
            self.note(Doubt::Parts);
        }
        if self.is_new(Doubt::Nothing) {
            self.begin();
            let one = self.call(whole, &[&[]], Some(room(most)));
            assert!(EMPTY.contains(&one.rv), "{whole} of nothing: {one:?}, {:?}", self.begun);
            if self.functions.parts.is_some() {
                let none = self.parts(&[], 1, &[], most);
                let alike = if same { none == one } else { none.rv == one.rv };
                assert!(alike, "{whole} of nothing: {one:?}, in parts {none:?}, {:?}", self.begun);
            }
            self.note(Doubt::Nothing);
        }
    }

    /// Of C_Verify, whatever it said.
    fn verdicts(&self, given: &[Argument], rv: u64) {
        let (data, signature) = (bytes_of(given, 1), bytes_of(given, 3));
        let verify = |data: &[u8], signature: &[u8]| {
            self.begin();
            self.call("C_Verify", &[data, signature], None).rv
        };
        if self.is_new(Doubt::ShortBuffer) {
            let (_, short) = signature.split_last().expect("a signature has bytes");
            let said = verify(&data, short);
            let may = [CKR_SIGNATURE_LEN_RANGE, CKR_SIGNATURE_INVALID];
            assert!(may.contains(&said), "a short signature: {said:#x}, {:?}", self.begun);
            self.note(Doubt::ShortBuffer);
        }
        if self.is_new(Doubt::Parts) {
            for size in part_sizes(&data) {
                let parts = self.parts(&data, size, &[&signature], 0);
                assert_eq!(parts.rv, rv, "C_VerifyFinal after parts of {size}, {:?}", self.begun);
            }
            self.note(Doubt::Parts);
        }
        if self.is_new(Doubt::Nothing) {
            let one = verify(&[], &signature);
            assert!(EMPTY.contains(&one), "C_Verify of nothing: {one:#x}, {:?}", self.begun);
            assert!(one != CKR_OK || data.is_empty(), "a signature of something else");
            let none = self.parts(&[], 1, &[&signature], 0);
            assert_eq!(none.rv, one, "C_VerifyFinal of nothing, {:?}", self.begun);
            self.note(Doubt::Nothing);
        }
    }
}

impl Door for Doubting {
    fn call(&self, call: &mut Call) -> u64 {
        self.before(call);
        let given = call.arguments.clone();
        let rv = self.door.call(call);
        self.after(&given, call, rv);
        rv
    }
}

/// Sizes that fit no block; single bytes where they are few.
fn part_sizes(data: &[u8]) -> impl Iterator<Item = usize> {
    let length = data.len();
    [(1, 80), (7, 500), (33, usize::MAX), (1000, usize::MAX)]
        .into_iter()
        .filter(move |(_, most)| length <= *most)
        .map(|(size, _)| size)
}

/// The parameter cut by a byte, said to be absurdly long, not there though it has a length, and with each of
/// its own pointers NULL; or some where there is none.
fn wrong_parameters(mechanism: &Argument) -> Vec<Argument> {
    let Argument::Memory(right) = mechanism else { return Vec::new() };
    let of_length = |length: u64| {
        let mut wrong = right.clone();
        wrong.bytes[16..24].copy_from_slice(&length.to_ne_bytes());
        wrong
    };
    let Some((_, parameter)) = right.pointers.first() else {
        let mut wrong = of_length(5);
        wrong.pointers.push((8, Memory::of([0; 5])));
        return vec![wrong.into()];
    };
    let length = right.word_at(16);
    let mut all: Vec<Memory> = [length - 1, 1 << 31, u64::MAX].map(of_length).into();
    let mut none = right.clone();
    none.pointers.clear();
    all.push(none);
    for place in 0..parameter.pointers.len() {
        let mut wrong = right.clone();
        let (at, what) = wrong.pointers[0].1.pointers.remove(place);
        if what.bytes.is_empty() {
            // NULL is as good.
            continue;
        }
        wrong.pointers[0].1.bytes[at..at + 8].fill(0);
        all.push(wrong);
    }
    all.into_iter().map(Argument::Memory).collect()
}

fn kind_of(mechanism: &Argument) -> u64 {
    mechanism.memory().word_at(0)
}

fn word(argument: Option<&Argument>) -> Option<u64> {
    match argument {
        Some(Argument::Word(word)) => Some(*word),
        _ => None,
    }
}

fn bytes_of(arguments: &[Argument], at: usize) -> Vec<u8> {
    match (&arguments[at], word(arguments.get(at + 1))) {
        (Argument::Memory(memory), Some(length)) => memory.bytes[..length as usize].to_vec(),
        _ => Vec::new(),
    }
}

fn query() -> [Argument; 2] {
    [Argument::NULL, Memory::word(0).into()]
}

fn room(size: u64) -> [Argument; 2] {
    [Memory::room(size as usize).into(), Memory::word(size).into()]
}

/// Of a call whose last two arguments were a buffer and its length, or of one without.
fn outcome(rv: u64, output: &[Argument]) -> Outcome {
    let [buffer, length] = output else { return Outcome { rv, length: 0, bytes: Vec::new() } };
    let length = match rv {
        CKR_OK | CKR_BUFFER_TOO_SMALL => length.memory().word_at(0),
        _ => 0,
    };
    let bytes = match buffer {
        Argument::Memory(memory) if rv == CKR_OK => memory.bytes[..length as usize].to_vec(),
        _ => Vec::new(),
    };
    Outcome { rv, length, bytes }
}
