//! The table of attributes, in the specification's order: PKCS#11 3.2 §4.2 to §4.12 and the tables of
//! §6 for the key types that the token has. Create, generate, derive, copy, set, get and search all
//! read it; relations between attributes are the small functions of `rule.rs`, `keyspec.rs` and
//! `certificate.rs`, named after what they keep.
//!
//! A new attribute is one row here. The footnotes of the specification are columns:
//! 1, 3 and 5 are `needed`, 2, 4 and 6 are what is missing from `given`, 7 is `guarded`, 8, 11 and 12
//! are `change`, 9 is [`Silent::Ours`], 10 is `so_only`.

use cryptoki_sys::*;

use super::value::Kind;

/// Where the value of a private or secret key lives: text, read-only. Ours ("TPM" and a number), therefore
/// not in the specification's headers.
pub const CKA_TPM11_RESIDENCE: u64 = CKA_VENDOR_DEFINED | 0x5450_4D01;

/// The whole public area (TPMT_PUBLIC) of another TPM's storage key, in a public key object: bytes.
pub const CKA_TPM11_STORAGE_KEY: u64 = CKA_VENDOR_DEFINED | 0x5450_4D02;

/// The mechanism that moves keys between TPMs.
pub const CKM_TPM11_DUPLICATE: u64 = CKM_VENDOR_DEFINED | 0x5450_4D01;

/// Classes, as a set.
pub type Classes = u8;
/// CKO_DATA
pub const DATA: Classes = 1;
/// CKO_CERTIFICATE, of type CKC_X_509
pub const CERTIFICATE: Classes = 2;
/// CKO_PUBLIC_KEY
pub const PUBLIC: Classes = 4;
/// CKO_PRIVATE_KEY
pub const PRIVATE: Classes = 8;
/// CKO_SECRET_KEY
pub const SECRET: Classes = 16;
/// The three classes of keys.
pub const KEYS: Classes = PUBLIC | PRIVATE | SECRET;
/// Every class that the token stores.
pub const ALL: Classes = DATA | CERTIFICATE | KEYS;

/// Ways to make an object, as a set.
pub type Origins = u8;
/// C_CreateObject
pub const CREATE: Origins = 1;
/// C_GenerateKey, C_GenerateKeyPair
pub const GENERATE: Origins = 2;
/// C_DeriveKey
pub const DERIVE: Origins = 4;
/// C_UnwrapKey
pub const UNWRAP: Origins = 8;
/// Every way but copying, which changes what is there.
pub const NEW: Origins = CREATE | GENERATE | DERIVE | UNWRAP;

/// Which key types have the attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Types {
    /// All, and objects that are no keys.
    Any,
    /// These CKK_ numbers.
    Only(&'static [u64]),
}

const RSA: Types = Types::Only(&[CKK_RSA]);
const EC: Types = Types::Only(&[CKK_EC]);

/// What an object gets when the template is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silent {
    /// Nothing: the object does not have the attribute.
    Absent,
    /// Nothing: the object does not have the limit, and reads as a list without entries, which in a template
    /// says nothing either.
    Unlimited,
    /// A value of length 0.
    Empty,
    /// A truth value.
    Bool(bool),
    /// A number.
    Ulong(u64),
    /// What the engine computes or decides.
    Ours,
}

/// When a value may change. Setting what is there already always succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Never.
    Never,
    /// By C_SetAttributeValue and C_CopyObject (footnote 8).
    Free,
    /// Footnote 11: once TRUE it stays.
    OnlyToTrue,
    /// Footnote 12: once FALSE it stays.
    OnlyToFalse,
    /// By C_CopyObject alone.
    InCopy,
    /// By C_CopyObject alone, and once FALSE it stays.
    InCopyOnlyToFalse,
    /// Only the value that it has (others are invalid, not forbidden: §4.11).
    Same,
    /// What a key may do. Footnote 8 permits any change, but a chip's key cannot learn what it was not
    /// made for, and a key that wraps must not learn to decrypt: private and secret keys only lose
    /// roles (a token may be stricter, §4.1.1), public keys also win those that their type can have.
    Role,
}

/// What the specification and we say about one attribute of some classes.
#[derive(Debug)]
pub struct Rule {
    /// CKA_ number.
    pub id: u64,
    /// Its name in the specification.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Which classes have it.
    pub of: Classes,
    /// Which key types have it.
    pub types: Types,
    /// Which ways to make an object accept it in the template.
    pub given: Origins,
    /// Which ways demand it.
    pub needed: Origins,
    /// What the object gets when the template is silent.
    pub silent: Silent,
    /// When it may change afterwards.
    pub change: Change,
    /// Footnote 7: never revealed and never matched if the key is sensitive or not extractable.
    pub guarded: bool,
    /// Footnote 10: only the SO may make it TRUE.
    pub so_only: bool,
}

impl Rule {
    const fn new(id: u64, name: &'static str, kind: Kind, of: Classes) -> Self {
        Self {
            id,
            name,
            kind,
            of,
            types: Types::Any,
            given: 0,
            needed: 0,
            silent: Silent::Ours,
            change: Change::Never,
            guarded: false,
            so_only: false,
        }
    }

    const fn types(self, types: Types) -> Self {
        Self { types, ..self }
    }

    const fn given(self, given: Origins) -> Self {
        Self { given, ..self }
    }

    const fn needed(self, needed: Origins) -> Self {
        Self { needed, ..self }
    }

    const fn silent(self, silent: Silent) -> Self {
        Self { silent, ..self }
    }

    const fn change(self, change: Change) -> Self {
        Self { change, ..self }
    }

    const fn guarded(self) -> Self {
        Self { guarded: true, ..self }
    }

    const fn so_only(self) -> Self {
        Self { so_only: true, ..self }
    }

    /// Whether objects of this class (and, for keys, this type) have the attribute.
    pub fn applies(&self, class: Classes, key_type: Option<u64>) -> bool {
        self.of & class != 0
            && match self.types {
                Types::Any => true,
                Types::Only(types) => key_type.is_some_and(|given| types.contains(&given)),
            }
    }
}

/// `rule!(CKA_X, Kind, classes)`: the name is said once.
macro_rules! rule {
    ($id:ident, $kind:ident, $of:expr) => {
        Rule::new($id, stringify!($id), Kind::$kind, $of)
    };
}

use Change::*;
use Silent::{Absent, Empty, Unlimited};

/// All rules. No two apply to the same attribute of the same object.
pub static RULES: &[Rule] = &[
    // ---- §4.2 common attributes --------------------------------------------------------------
    rule!(CKA_CLASS, Ulong, ALL).given(NEW).needed(CREATE),
    rule!(CKA_UNIQUE_ID, Utf8, ALL),
    // ---- §4.5 storage objects ----------------------------------------------------------------
    rule!(CKA_TOKEN, Bool, ALL).given(NEW).silent(Silent::Bool(false)).change(InCopy),
    rule!(CKA_PRIVATE, Bool, ALL).given(NEW).change(InCopy),
    rule!(CKA_MODIFIABLE, Bool, ALL)
        .given(NEW)
        .silent(Silent::Bool(true))
        .change(InCopyOnlyToFalse),
    rule!(CKA_LABEL, Utf8, ALL).given(NEW).silent(Empty).change(Free),
    rule!(CKA_COPYABLE, Bool, ALL).given(NEW).silent(Silent::Bool(true)).change(OnlyToFalse),
    rule!(CKA_DESTROYABLE, Bool, ALL)
        .given(NEW)
        .silent(Silent::Bool(true))
        .change(InCopyOnlyToFalse),
    // ---- §4.6 data objects -------------------------------------------------------------------
    // The specification leaves open whether these change after creation; clients that keep state in
    // a data object rewrite it.
    rule!(CKA_APPLICATION, Utf8, DATA).given(CREATE).silent(Empty).change(Free),
    rule!(CKA_OBJECT_ID, Bytes, DATA).given(CREATE).silent(Empty).change(Free),
    rule!(CKA_VALUE, Bytes, DATA).given(CREATE).silent(Empty).change(Free),
    // ---- §4.7 certificates -------------------------------------------------------------------
    // Footnote 1, but the sample of §5.7.1 leaves the type away, and so do clients.
    rule!(CKA_CERTIFICATE_TYPE, Ulong, CERTIFICATE).given(CREATE).silent(Silent::Ulong(CKC_X_509)),
    rule!(CKA_TRUSTED, Bool, CERTIFICATE | PUBLIC | SECRET)
        .given(NEW)
        .silent(Silent::Bool(false))
        .change(Free)
        .so_only(),
    rule!(CKA_CERTIFICATE_CATEGORY, Ulong, CERTIFICATE)
        .given(CREATE)
        .silent(Silent::Ulong(CK_CERTIFICATE_CATEGORY_UNSPECIFIED)),
    rule!(CKA_CHECK_VALUE, Bytes, CERTIFICATE).given(CREATE),
    rule!(CKA_START_DATE, Date, CERTIFICATE).given(CREATE),
    rule!(CKA_END_DATE, Date, CERTIFICATE).given(CREATE),
    rule!(CKA_PUBLIC_KEY_INFO, Bytes, CERTIFICATE).given(CREATE),
    // Read from the certificate where the template is silent; §4.7.3 names which may change, and
    // SUBJECT with them, because clients write all four together.
    rule!(CKA_SUBJECT, Bytes, CERTIFICATE).given(CREATE).change(Free),
    rule!(CKA_ID, Bytes, CERTIFICATE).given(CREATE).change(Free),
    rule!(CKA_ISSUER, Bytes, CERTIFICATE).given(CREATE).change(Free),
    rule!(CKA_SERIAL_NUMBER, Bytes, CERTIFICATE).given(CREATE).change(Free),
    rule!(CKA_VALUE, Bytes, CERTIFICATE).given(CREATE).silent(Empty),
    rule!(CKA_URL, Utf8, CERTIFICATE).given(CREATE).silent(Empty),
    rule!(CKA_HASH_OF_SUBJECT_PUBLIC_KEY, Bytes, CERTIFICATE).given(CREATE).silent(Empty),
    rule!(CKA_HASH_OF_ISSUER_PUBLIC_KEY, Bytes, CERTIFICATE).given(CREATE).silent(Empty),
    rule!(CKA_JAVA_MIDP_SECURITY_DOMAIN, Ulong, CERTIFICATE)
        .given(CREATE)
        .silent(Silent::Ulong(CK_SECURITY_DOMAIN_UNSPECIFIED)),
    rule!(CKA_NAME_HASH_ALGORITHM, Ulong, CERTIFICATE)
        .given(CREATE)
        .silent(Silent::Ulong(CKM_SHA_1)),
    // ---- §4.9 keys ---------------------------------------------------------------------------
    rule!(CKA_KEY_TYPE, Ulong, KEYS).given(NEW).needed(CREATE | UNWRAP),
    rule!(CKA_ID, Bytes, KEYS).given(NEW).change(Free),
    rule!(CKA_START_DATE, Date, KEYS).given(NEW).silent(Empty).change(Free),
    rule!(CKA_END_DATE, Date, KEYS).given(NEW).silent(Empty).change(Free),
    rule!(CKA_DERIVE, Bool, KEYS).given(NEW).change(Role),
    rule!(CKA_LOCAL, Bool, KEYS),
    rule!(CKA_KEY_GEN_MECHANISM, Ulong, KEYS),
    rule!(CKA_ALLOWED_MECHANISMS, UlongArray, KEYS).given(NEW).silent(Unlimited),
    rule!(CKA_OBJECT_VALIDATION_FLAGS, Ulong, KEYS).silent(Silent::Ulong(0)),
    // ---- §4.10, §4.11, §4.12 public, private and secret keys -----------------------------------
    rule!(CKA_SUBJECT, Bytes, PUBLIC | PRIVATE).given(NEW).silent(Empty).change(Free),
    rule!(CKA_ENCRYPT, Bool, PUBLIC | SECRET).given(NEW).change(Role),
    rule!(CKA_VERIFY, Bool, PUBLIC | SECRET).given(NEW).change(Role),
    rule!(CKA_VERIFY_RECOVER, Bool, PUBLIC).given(NEW).change(Role),
    rule!(CKA_WRAP, Bool, PUBLIC | SECRET).given(NEW).change(Role),
    rule!(CKA_ENCAPSULATE, Bool, PUBLIC).given(NEW).change(Role),
    rule!(CKA_WRAP_TEMPLATE, Template, PUBLIC | SECRET).given(NEW).silent(Absent),
    rule!(CKA_ENCAPSULATE_TEMPLATE, Template, PUBLIC).given(NEW).silent(Absent),
    rule!(CKA_PUBLIC_KEY_INFO, Bytes, PUBLIC).given(CREATE),
    rule!(CKA_PUBLIC_KEY_INFO, Bytes, PRIVATE).given(CREATE).change(Same),
    rule!(CKA_SENSITIVE, Bool, PRIVATE | SECRET).given(NEW).change(OnlyToTrue),
    rule!(CKA_DECRYPT, Bool, PRIVATE | SECRET).given(NEW).change(Role),
    rule!(CKA_SIGN, Bool, PRIVATE | SECRET).given(NEW).change(Role),
    rule!(CKA_SIGN_RECOVER, Bool, PRIVATE).given(NEW).change(Role),
    rule!(CKA_UNWRAP, Bool, PRIVATE | SECRET).given(NEW).change(Role),
    rule!(CKA_DECAPSULATE, Bool, PRIVATE).given(NEW).change(Role),
    // The chip enforces it too: fixedTPM is set in the keys that are created without it.
    rule!(CKA_EXTRACTABLE, Bool, PRIVATE | SECRET).given(NEW).change(OnlyToFalse),
    rule!(CKA_ALWAYS_SENSITIVE, Bool, PRIVATE | SECRET),
    rule!(CKA_NEVER_EXTRACTABLE, Bool, PRIVATE | SECRET),
    rule!(CKA_WRAP_WITH_TRUSTED, Bool, PRIVATE | SECRET)
        .given(NEW)
        .silent(Silent::Bool(false))
        .change(OnlyToTrue),
    rule!(CKA_UNWRAP_TEMPLATE, Template, PRIVATE | SECRET).given(NEW).silent(Absent),
    rule!(CKA_DECAPSULATE_TEMPLATE, Template, PRIVATE).given(NEW).silent(Absent),
    rule!(CKA_DERIVE_TEMPLATE, Template, PRIVATE | SECRET).given(NEW).silent(Absent),
    rule!(CKA_ALWAYS_AUTHENTICATE, Bool, PRIVATE).given(NEW).silent(Silent::Bool(false)),
    // Of version 2.11, deprecated since: a second PIN for a key. No key has one.
    rule!(CKA_SECONDARY_AUTH, Bool, PRIVATE).given(NEW).silent(Silent::Bool(false)),
    rule!(CKA_AUTH_PIN_FLAGS, Ulong, PRIVATE).silent(Silent::Ulong(0)),
    // Of keys whose value passes through the host, and not of all of those: `keyspec.rs`.
    rule!(CKA_CHECK_VALUE, Bytes, SECRET).given(NEW).silent(Absent),
    rule!(CKA_TPM11_RESIDENCE, Utf8, PRIVATE | SECRET),
    rule!(CKA_TPM11_STORAGE_KEY, Bytes, PUBLIC).given(CREATE).silent(Absent),
    // ---- §6.1 RSA ----------------------------------------------------------------------------
    rule!(CKA_MODULUS, Bytes, PUBLIC | PRIVATE).types(RSA).given(CREATE).needed(CREATE),
    rule!(CKA_MODULUS_BITS, Ulong, PUBLIC).types(RSA).given(GENERATE).needed(GENERATE),
    rule!(CKA_PUBLIC_EXPONENT, Bytes, PUBLIC).types(RSA).given(CREATE | GENERATE).needed(CREATE),
    rule!(CKA_PUBLIC_EXPONENT, Bytes, PRIVATE).types(RSA).given(CREATE).needed(CREATE),
    rule!(CKA_PRIVATE_EXPONENT, Bytes, PRIVATE)
        .types(RSA)
        .given(CREATE)
        .needed(CREATE)
        .silent(Absent)
        .guarded(),
    rule!(CKA_PRIME_1, Bytes, PRIVATE).types(RSA).given(CREATE).silent(Absent).guarded(),
    rule!(CKA_PRIME_2, Bytes, PRIVATE).types(RSA).given(CREATE).silent(Absent).guarded(),
    rule!(CKA_EXPONENT_1, Bytes, PRIVATE).types(RSA).given(CREATE).silent(Absent).guarded(),
    rule!(CKA_EXPONENT_2, Bytes, PRIVATE).types(RSA).given(CREATE).silent(Absent).guarded(),
    rule!(CKA_COEFFICIENT, Bytes, PRIVATE).types(RSA).given(CREATE).silent(Absent).guarded(),
    // ---- §6.3 elliptic curves ----------------------------------------------------------------
    rule!(CKA_EC_PARAMS, Bytes, PUBLIC)
        .types(EC)
        .given(CREATE | GENERATE)
        .needed(CREATE | GENERATE),
    rule!(CKA_EC_PARAMS, Bytes, PRIVATE).types(EC).given(CREATE).needed(CREATE),
    rule!(CKA_EC_POINT, Bytes, PUBLIC).types(EC).given(CREATE).needed(CREATE),
    // Not in the specification's table, but clients that hold only the private half ask for it, and
    // some give it.
    rule!(CKA_EC_POINT, Bytes, PRIVATE).types(EC).given(CREATE),
    rule!(CKA_VALUE, Bytes, PRIVATE)
        .types(EC)
        .given(CREATE)
        .needed(CREATE)
        .silent(Absent)
        .guarded(),
    // ---- §6.8 generic secret keys, §6.10 AES ---------------------------------------------------
    rule!(CKA_VALUE, Bytes, SECRET).given(CREATE).needed(CREATE).silent(Absent).guarded(),
    rule!(CKA_VALUE_LEN, Ulong, SECRET).given(GENERATE | DERIVE | UNWRAP).needed(GENERATE),
];

/// What a key of one class and type can do.
pub struct Roles {
    /// The class.
    pub of: Classes,
    /// The key type.
    pub key_type: u64,
    /// Its name in the specification.
    pub name: &'static str,
    /// What a key gets whose template names no role.
    pub usual: &'static [u64],
    /// What the token can do with it besides, when asked.
    pub able: &'static [u64],
    /// What keys of this type could do elsewhere: named TRUE it is stored FALSE, but it shows that the
    /// caller chose, so that roles which he did not name are not added.
    pub unable: &'static [u64],
}

impl Roles {
    /// Whether the token can use such a key so.
    pub fn can(&self, role: u64) -> bool {
        self.usual.contains(&role) || self.able.contains(&role)
    }

    /// Whether naming this role TRUE is a choice among what such keys are for.
    pub fn counts(&self, role: u64) -> bool {
        self.can(role) || self.unable.contains(&role)
    }
}

/// The roles by class and type. What is in no list is stored FALSE and says nothing.
pub static ROLES: &[Roles] = &[
    Roles {
        of: PUBLIC,
        key_type: CKK_RSA,
        name: "CKK_RSA",
        usual: &[CKA_VERIFY, CKA_ENCRYPT],
        able: &[CKA_VERIFY_RECOVER, CKA_WRAP],
        unable: &[CKA_ENCAPSULATE],
    },
    Roles {
        of: PRIVATE,
        key_type: CKK_RSA,
        name: "CKK_RSA",
        usual: &[CKA_SIGN, CKA_DECRYPT],
        able: &[CKA_SIGN_RECOVER, CKA_UNWRAP],
        unable: &[CKA_DECAPSULATE],
    },
    // §4.10 maps keyAgreement to CKA_DERIVE of the public key.
    Roles {
        of: PUBLIC,
        key_type: CKK_EC,
        name: "CKK_EC",
        usual: &[CKA_VERIFY, CKA_DERIVE],
        able: &[],
        unable: &[CKA_ENCAPSULATE],
    },
    Roles {
        of: PRIVATE,
        key_type: CKK_EC,
        name: "CKK_EC",
        usual: &[CKA_SIGN, CKA_DERIVE],
        able: &[],
        unable: &[CKA_DECAPSULATE],
    },
    Roles {
        of: SECRET,
        key_type: CKK_GENERIC_SECRET,
        name: "CKK_GENERIC_SECRET",
        usual: &[CKA_SIGN, CKA_VERIFY],
        able: &[CKA_DERIVE],
        unable: &[CKA_WRAP, CKA_UNWRAP],
    },
    Roles {
        of: SECRET,
        key_type: CKK_AES,
        name: "CKK_AES",
        usual: &[CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY],
        able: &[CKA_DERIVE, CKA_WRAP, CKA_UNWRAP],
        unable: &[],
    },
    Roles {
        of: SECRET,
        key_type: CKK_HKDF,
        name: "CKK_HKDF",
        usual: &[CKA_DERIVE],
        able: &[],
        unable: &[CKA_WRAP, CKA_UNWRAP],
    },
    hmac(CKK_SHA_1_HMAC, "CKK_SHA_1_HMAC"),
    hmac(CKK_SHA224_HMAC, "CKK_SHA224_HMAC"),
    hmac(CKK_SHA256_HMAC, "CKK_SHA256_HMAC"),
    hmac(CKK_SHA384_HMAC, "CKK_SHA384_HMAC"),
    hmac(CKK_SHA512_HMAC, "CKK_SHA512_HMAC"),
    hmac(CKK_SHA512_224_HMAC, "CKK_SHA512_224_HMAC"),
    hmac(CKK_SHA512_256_HMAC, "CKK_SHA512_256_HMAC"),
    hmac(CKK_SHA3_224_HMAC, "CKK_SHA3_224_HMAC"),
    hmac(CKK_SHA3_256_HMAC, "CKK_SHA3_256_HMAC"),
    hmac(CKK_SHA3_384_HMAC, "CKK_SHA3_384_HMAC"),
    hmac(CKK_SHA3_512_HMAC, "CKK_SHA3_512_HMAC"),
];

/// A key of one hash's HMAC.
const fn hmac(key_type: u64, name: &'static str) -> Roles {
    Roles {
        of: SECRET,
        key_type,
        name,
        usual: &[CKA_SIGN, CKA_VERIFY],
        able: &[],
        unable: &[CKA_DERIVE, CKA_WRAP, CKA_UNWRAP],
    }
}

/// The rule for an attribute of objects of this class and key type.
pub fn rule(class: Classes, key_type: Option<u64>, id: u64) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id && rule.applies(class, key_type))
}

/// The rules for objects of this class and key type.
pub fn rules(class: Classes, key_type: Option<u64>) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| rule.applies(class, key_type))
}

/// The roles that keys of this class and type can have; `None` for key types that the token lacks.
pub fn roles(class: Classes, key_type: u64) -> Option<&'static Roles> {
    ROLES.iter().find(|roles| roles.of == class && roles.key_type == key_type)
}

/// A CKO_ number as a set of one; `None` for classes that the token does not store.
pub fn class(number: u64) -> Option<Classes> {
    match number {
        CKO_DATA => Some(DATA),
        CKO_CERTIFICATE => Some(CERTIFICATE),
        CKO_PUBLIC_KEY => Some(PUBLIC),
        CKO_PRIVATE_KEY => Some(PRIVATE),
        CKO_SECRET_KEY => Some(SECRET),
        _ => None,
    }
}

/// What the value of an attribute is; bytes for types that we do not know.
pub fn kind(id: u64) -> Kind {
    RULES.iter().find(|rule| rule.id == id).map_or(Kind::Bytes, |rule| rule.kind)
}

/// Whether values of this type are secret in some class: the store need not index them.
pub fn guarded(id: u64) -> bool {
    RULES.iter().any(|rule| rule.id == id && rule.guarded)
}

/// The attribute's name for log and tool; `None` for types that we do not know.
pub fn name(id: u64) -> Option<&'static str> {
    RULES.iter().find(|rule| rule.id == id).map(|rule| rule.name)
}

/// The name of a key type for log and tool; `None` for types that the token lacks.
pub fn key_type_name(key_type: u64) -> Option<&'static str> {
    ROLES.iter().find(|roles| roles.key_type == key_type).map(|roles| roles.name)
}
