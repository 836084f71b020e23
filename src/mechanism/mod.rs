//! Floor 4: mechanisms. A family is one file: its rows (type, key type, sizes, TPM commands it needs,
//! constructors) and their implementation. The mechanism list, its flags, key-type checks and
//! CKA_ALLOWED_MECHANISMS all read the rows.

mod aes;
mod aes_blocks;
mod aes_ccm;
mod aes_cmac;
mod aes_data;
mod aes_gcm;
mod aes_key_wrap;
mod aes_stream;
mod digest;
mod duplicate;
mod ecdh;
mod ecdsa;
mod generate;
mod hashing;
mod hkdf;
mod hmac;
mod mac;
mod nonce;
pub mod params;
mod pbkdf2;
mod plain;
mod prf;
mod public_half;
pub mod random;
mod rsa;
mod rsa_aes_wrap;
mod rsa_oaep;
mod rsa_pkcs1;
mod rsa_pss;
mod rsa_raw;
pub mod secret;
mod sp800_108;
mod tls12;
pub mod wrap;

use std::fmt;
use std::sync::Arc;

use cryptoki_sys::{
    CKA_DECRYPT, CKA_DERIVE, CKA_ENCRYPT, CKA_SIGN, CKA_SIGN_RECOVER, CKA_VERIFY,
    CKA_VERIFY_RECOVER, CKF_DECRYPT, CKF_DERIVE, CKF_DIGEST, CKF_EC_COMPRESS, CKF_EC_CURVENAME,
    CKF_EC_F_P, CKF_EC_OID, CKF_EC_UNCOMPRESS, CKF_ENCRYPT, CKF_GENERATE, CKF_GENERATE_KEY_PAIR,
    CKF_HW, CKF_MESSAGE_DECRYPT, CKF_MESSAGE_ENCRYPT, CKF_MESSAGE_SIGN, CKF_MESSAGE_VERIFY,
    CKF_MULTI_MESSAGE, CKF_SIGN, CKF_SIGN_RECOVER, CKF_UNWRAP, CKF_VERIFY, CKF_VERIFY_RECOVER,
    CKF_WRAP, CKK_AES, CKK_EC, CKK_RSA, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY, CKO_SECRET_KEY,
};
use zeroize::Zeroizing;

use crate::crypto::hash::Hash;
use crate::error::{Error, Refusal, Result};
use crate::object::keyspec::{Allowed, Derives};
use crate::object::policy::{Guard, Policy};
use crate::object::{Attributes, Material, Object, Template};
use crate::tpm::command::CommandId;
use crate::tpm::{Call, Facts, Grant, Key, KeyBlob, KeySpec, Name, NewKey, Tpm};

pub use nonce::Generator;
pub use params::Params;
pub use secret::{Held, Sealing, Value};

/// The TPM as an operation reaches it: given at the moment of the call, never kept.
pub struct Chip<'a> {
    /// The token's TPM.
    pub tpm: &'a Tpm,
    /// Deadline and cancel flag of the C_ call.
    pub call: &'a Call,
    /// The Name of the storage root key that the token's keys are created under.
    pub srk: &'a Arc<Name>,
    /// What the TPM offers, as far as the store knows.
    pub facts: Option<&'a Facts>,
    /// The context-specific login of this operation, if the key asks for one.
    pub grant: Option<&'a Grant>,
    /// Check every ECDSA signature in software before it is returned (RSA always is).
    pub verify_signatures: bool,
    /// Which keys the TPM keeps without working with them.
    pub sealing: Sealing,
}

impl Chip<'_> {
    /// The key as the TPM floor takes it.
    pub fn key(&self, blob: &Arc<KeyBlob>) -> Key {
        Key { blob: blob.clone(), srk: self.srk.clone(), grant: self.grant.cloned() }
    }
}

/// Signing in progress. PKCS#11 3.2 §5.13.
pub trait Sign: Send {
    /// Takes another part of the data.
    fn update(&mut self, data: &[u8]) -> Result<()>;
    /// The exact length of the signature, in bytes.
    fn length(&self) -> usize;
    /// Makes the signature.
    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Vec<u8>>;
}

/// Verification in progress. PKCS#11 3.2 §5.15. With a public key it never needs the TPM.
pub trait Verify: Send {
    /// Takes another part of the data.
    fn update(&mut self, data: &[u8]) -> Result<()>;
    /// Compares; a MAC in constant time.
    fn finish(self: Box<Self>, signature: &[u8], chip: &Chip<'_>) -> Result<()>;
}

/// Verification that gives back what was signed. PKCS#11 3.2 §5.15 (C_VerifyRecover). Never needs
/// the TPM.
pub trait Recover: Send {
    /// The most that `finish` gives, in bytes.
    fn length(&self) -> usize;
    /// What was signed.
    fn finish(self: Box<Self>, signature: &[u8]) -> Result<Vec<u8>>;
}

/// Digesting in progress. PKCS#11 3.2 §5.12.
pub trait Digest: Send {
    /// Takes another part of the data.
    fn update(&mut self, data: &[u8]) -> Result<()>;
    /// The length of the digest, in bytes.
    fn length(&self) -> usize;
    /// The digest.
    fn finish(self: Box<Self>) -> Result<Vec<u8>>;
}

/// Encryption or decryption in progress. PKCS#11 3.2 §5.8, §5.10.
pub trait Cipher: Send {
    /// The most that `update` may give for `input` more bytes.
    fn update_length(&self, input: usize) -> usize;
    /// Takes another part, gives what is ready.
    fn update(&mut self, data: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>>;
    /// The most that `finish` may give after `input` more bytes.
    fn finish_length(&self, input: usize) -> usize;
    /// Gives the rest.
    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>>;
    /// Takes everything in one part: what `update` and `finish` would give, joined.
    fn whole(mut self: Box<Self>, data: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let mut output = self.update(data, chip)?;
        let mut rest = self.finish(chip)?;
        if output.is_empty() {
            return Ok(rest);
        }
        output.append(&mut rest);
        Ok(output)
    }
}

/// A mechanism: what it is called, which keys it takes, what it needs of the TPM, and the code.
pub struct Mechanism {
    /// CK_MECHANISM_TYPE
    pub id: u64,
    /// Its name in the specification.
    pub name: &'static str,
    /// Which keys it takes, or makes.
    pub keys: Keys,
    /// Which sizes its keys may have.
    pub size: Size,
    /// The hash that is a part of it.
    pub hash: Option<Hash>,
    /// The TPM commands without which its private half cannot work; none if the host does that.
    pub chip: &'static [CommandId],
    /// What it can do.
    pub does: Does,
}

/// Which keys a mechanism takes, or makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// None.
    None,
    /// Pairs of this CKK_: the public half verifies and encrypts, the private half does the rest.
    Pair(u64),
    /// Private keys of these CKK_.
    Private(&'static [u64]),
    /// Secret keys of these CKK_.
    Secret(&'static [u64]),
    /// The same, but no TPM works with them: there they are sealed, where the configuration allows it.
    Sealed(&'static [u64]),
    /// Storage keys of other TPMs: public keys of these CKK_.
    Storage(&'static [u64]),
}

impl Keys {
    /// Whether a key of this CKK_ is one of them.
    pub fn has(self, key_type: u64) -> bool {
        self.types().contains(&key_type)
    }

    /// Their CKK_.
    pub fn types(&self) -> &[u64] {
        match self {
            Keys::None => &[],
            Keys::Pair(only) => std::slice::from_ref(only),
            Keys::Private(types)
            | Keys::Secret(types)
            | Keys::Sealed(types)
            | Keys::Storage(types) => types,
        }
    }

    /// The class of what works here, where `public` or the other half of a pair would.
    fn class(self, public: bool) -> u64 {
        match (self, public) {
            (Keys::Secret(_) | Keys::Sealed(_), _) => CKO_SECRET_KEY,
            (Keys::None | Keys::Pair(_), true) | (Keys::Storage(_), _) => CKO_PUBLIC_KEY,
            (_, _) => CKO_PRIVATE_KEY,
        }
    }
}

/// Where an operation is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the TPM, with a key that is there.
    Tpm,
    /// In the host, with a key that the TPM keeps sealed.
    Sealed,
    /// In the host.
    Host,
}

/// Why a mechanism, or its private half, cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The TPM does not have this command.
    Command(&'static str),
    /// The TPM has no keys of the kind, or cannot hash so.
    Algorithm(&'static str),
    /// `[keys]` does not have this line.
    Sealing(&'static str),
}

impl fmt::Display for Lack {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Command(name) => write!(out, "the TPM lacks {name}"),
            Lack::Algorithm(what) => write!(out, "the TPM lacks {what}"),
            Lack::Sealing(line) => write!(out, "needs `{line}` in [keys]"),
        }
    }
}

/// Sizes of keys, in the unit in which the specification counts them for this mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// There is no key.
    None,
    /// Bits of an RSA modulus or of an elliptic curve's field. The host's limits; the TPM's are
    /// narrower.
    Bits(u64, u64),
    /// Bytes of a secret key.
    Bytes(u64, u64),
}

type StartDigest = fn(&'static Mechanism, &Params) -> Result<Box<dyn Digest>>;
type Start<T> = Option<fn(&'static Mechanism, &Params, &Object) -> Result<Box<T>>>;

/// What a mechanism can do: the constructor of each operation that it has.
pub struct Does {
    /// C_DigestInit
    pub digest: Option<StartDigest>,
    /// C_SignInit
    pub sign: Start<dyn Sign>,
    /// C_SignRecoverInit
    pub sign_recover: Start<dyn Sign>,
    /// C_VerifyInit, C_VerifySignatureInit
    pub verify: Start<dyn Verify>,
    /// C_VerifyRecoverInit
    pub verify_recover: Start<dyn Recover>,
    /// C_EncryptInit
    pub encrypt: Start<dyn Cipher>,
    /// C_DecryptInit
    pub decrypt: Start<dyn Cipher>,
    /// Messages one after another, too (C_MessageEncryptInit, C_MessageDecryptInit): what the constructors
    /// above are given for one of them.
    pub message: Option<MessageParams>,
    /// C_GenerateKey
    pub generate: Option<Generate>,
    /// C_GenerateKeyPair
    pub generate_pair: Option<GeneratePair>,
    /// C_DeriveKey, and how what comes out is related to what went in.
    pub derive: Option<(Derives, Derive)>,
    /// What CKA_ALLOWED_MECHANISMS of a derived key consist of, if the mechanism says so.
    pub allows: &'static [Allowed],
    /// Whether its parameter says how many bytes of a MAC are wanted.
    pub general: bool,
    /// Whether a signature with this parameter may tell something of the key (P11).
    pub tells: Option<fn(&Params) -> bool>,
    /// C_WrapKey: encrypts the key's bytes.
    pub wrap: Start<dyn Cipher>,
    /// C_UnwrapKey: decrypts them.
    pub unwrap: Start<dyn Cipher>,
    /// What it wraps cannot be changed or chosen by whoever has it, nor tells by its errors what is
    /// inside: P9 allows it for sensitive keys.
    pub sound: bool,
    /// C_WrapKey and C_UnwrapKey let a key move from TPM to TPM.
    pub moves: bool,
}

/// The parameter of one message, by what is said of it, with its nonce and its additional data.
pub type MessageParams = fn(&params::Message, nonce: &[u8], additional: &[u8]) -> Params;

/// What the value of a new secret key is to be. Given: the length in bytes where template or key type
/// say it.
pub type Generate =
    fn(&'static Mechanism, &Params, length: Option<usize>, &Chip<'_>) -> Result<Value>;

/// Creates the key pair of a plan under this authorization and checks what came back.
pub type GeneratePair =
    fn(&'static Mechanism, &Params, &KeySpec, &[u8; 32], &Chip<'_>) -> Result<NewKey>;

/// Derives a secret of `length` bytes, where the template or the key type says how long it is, from the
/// base key and the keys that the parameter names ([`Params::keys`]).
type DeriveOne = fn(
    &'static Mechanism,
    &Params,
    &Object,
    others: &[Object],
    length: Option<usize>,
    &Chip<'_>,
) -> Result<Zeroizing<Vec<u8>>>;

/// The same for several keys at once: one secret for each length.
type DeriveSeveral = fn(
    &'static Mechanism,
    &Params,
    &Object,
    others: &[Object],
    lengths: &[Option<usize>],
    &Chip<'_>,
) -> Result<Vec<Zeroizing<Vec<u8>>>>;

/// The templates of the keys to be made, from the base key and the caller's template.
type Shape = fn(&Params, &Attributes, &Template) -> Result<Vec<Template>>;

/// How a mechanism derives.
#[derive(Clone, Copy)]
pub enum Derive {
    /// One key.
    One(DeriveOne),
    /// One key, and those that its parameter asks for ([`Params::additional`]).
    Several(DeriveSeveral),
    /// The keys whose templates it makes of the caller's; what there are more secrets than templates is
    /// told to the caller.
    Shaped(Shape, DeriveSeveral),
    /// No secret at all: [`Derives::Public`].
    Nothing,
}

/// What a row is filled up from.
const NOTHING: Does = Does {
    digest: None,
    sign: None,
    sign_recover: None,
    verify: None,
    verify_recover: None,
    encrypt: None,
    decrypt: None,
    message: None,
    generate: None,
    generate_pair: None,
    derive: None,
    allows: &[],
    general: false,
    tells: None,
    wrap: None,
    unwrap: None,
    sound: false,
    moves: false,
};

/// What the configuration allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Which keys are sealed.
    pub sealing: Sealing,
    /// Which rules against sequences of calls hold.
    pub policy: Policy,
}

/// What C_GetMechanismInfo tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// The smallest key, in the unit of the mechanism; 0 where there is no key.
    pub min_key_size: u64,
    /// The largest key.
    pub max_key_size: u64,
    /// CKF_HW, CKF_SIGN, …
    pub flags: u64,
}

/// C_Sign and C_SignFinal: the signature, or why the key's policy forbids it.
///
/// # Errors
/// The mechanism's; [`Error::FunctionRejected`] if the TPM says that the policy is not met.
pub fn signature(work: Box<dyn Sign>, chip: &Chip<'_>) -> Result<Vec<u8>> {
    work.finish(chip).map_err(|error| match error {
        Error::Refused(Refusal::Policy, why) => Error::FunctionRejected(why),
        other => other,
    })
}

/// Every family.
static FAMILIES: &[&[Mechanism]] = &[
    generate::ROWS,
    generate::SECRETS,
    rsa_pkcs1::ROWS,
    rsa_pss::ROWS,
    rsa_oaep::ROWS,
    rsa_raw::ROWS,
    rsa_aes_wrap::ROWS,
    duplicate::ROWS,
    ecdsa::ROWS,
    ecdh::ROWS,
    hmac::ROWS,
    aes_blocks::ROWS,
    aes_stream::ROWS,
    hkdf::ROWS,
    sp800_108::ROWS,
    aes_data::ROWS,
    tls12::ROWS,
    pbkdf2::ROWS,
    public_half::ROWS,
    plain::ROWS,
    plain::HASHED,
    aes_gcm::ROWS,
    aes_ccm::ROWS,
    aes_cmac::ROWS,
    aes_key_wrap::ROWS,
    digest::ROWS,
];

/// The names of operations by their CKF_ flags, for log and tool.
pub static OPERATIONS: &[(u64, &str)] = &[
    (CKF_DIGEST, "digest"),
    (CKF_SIGN, "sign"),
    (CKF_SIGN_RECOVER, "sign-recover"),
    (CKF_VERIFY, "verify"),
    (CKF_VERIFY_RECOVER, "verify-recover"),
    (CKF_ENCRYPT, "encrypt"),
    (CKF_DECRYPT, "decrypt"),
    (CKF_MESSAGE_ENCRYPT, "message-encrypt"),
    (CKF_MESSAGE_DECRYPT, "message-decrypt"),
    (CKF_MESSAGE_SIGN, "message-sign"),
    (CKF_MESSAGE_VERIFY, "message-verify"),
    (CKF_GENERATE, "generate"),
    (CKF_GENERATE_KEY_PAIR, "generate-pair"),
    (CKF_WRAP, "wrap"),
    (CKF_UNWRAP, "unwrap"),
    (CKF_DERIVE, "derive"),
];

/// The name of an operation.
pub fn operation_name(flag: u64) -> Option<&'static str> {
    OPERATIONS.iter().find(|(id, _)| *id == flag).map(|(_, name)| *name)
}

/// Every row.
pub fn rows() -> impl Iterator<Item = &'static Mechanism> {
    FAMILIES.iter().copied().flatten()
}

/// The mechanism with this CK_MECHANISM_TYPE, whether or not the TPM at hand can do it.
///
/// # Errors
/// [`Error::MechanismInvalid`].
pub fn lookup(id: u64) -> Result<&'static Mechanism> {
    rows().find(|row| row.id == id).ok_or(Error::MechanismInvalid(id))
}

/// C_GetMechanismList: what works with the TPM of these facts; without facts, all that the host
/// can do.
pub fn list(facts: Option<&Facts>, terms: Terms) -> Vec<&'static Mechanism> {
    rows().filter(|row| row.flags(facts, terms) & !CKF_HW != 0).collect()
}

/// C_GetMechanismInfo, for the same mechanisms that [`list`] gives.
///
/// # Errors
/// [`Error::MechanismInvalid`].
pub fn info(id: u64, facts: Option<&Facts>, terms: Terms) -> Result<Info> {
    let row = lookup(id)?;
    let flags = row.flags(facts, terms);
    if flags & !CKF_HW == 0 {
        return Err(Error::MechanismInvalid(id));
    }
    let (min_key_size, max_key_size) = row.sizes(facts);
    Ok(Info { min_key_size, max_key_size, flags })
}

impl Mechanism {
    /// What it can do with the TPM of these facts, and where each of it is done; without facts, all that
    /// there are constructors for. By P9 what is not sound unwraps nothing.
    pub fn operations(&self, facts: Option<&Facts>, terms: Terms) -> Vec<(u64, Place)> {
        let Terms { sealing, policy } = terms;
        let Does {
            digest,
            sign,
            sign_recover,
            verify,
            verify_recover,
            encrypt,
            decrypt,
            message,
            generate,
            generate_pair,
            derive,
            wrap,
            unwrap,
            sound,
            allows: _,
            general: _,
            tells: _,
            moves,
        } = &self.does;
        let unwraps = unwrap.is_some() && (*sound || !policy.has(Guard::SoundWrapping));
        let messages = |start: &Start<dyn Cipher>| start.is_some() && message.is_some();
        let private = self.place(facts, sealing).ok();
        // What a public key does, the host does; a secret key is in the chip for both ways.
        let public = match self.keys {
            Keys::Secret(_) | Keys::Sealed(_) | Keys::Storage(_) => private,
            Keys::None | Keys::Pair(_) | Keys::Private(_) => Some(Place::Host),
        };
        [
            (digest.is_some(), CKF_DIGEST, Some(Place::Host)),
            (sign.is_some(), CKF_SIGN, private),
            (sign_recover.is_some(), CKF_SIGN_RECOVER, private),
            (verify.is_some(), CKF_VERIFY, public),
            (verify_recover.is_some(), CKF_VERIFY_RECOVER, Some(Place::Host)),
            (encrypt.is_some(), CKF_ENCRYPT, public),
            (decrypt.is_some(), CKF_DECRYPT, private),
            (messages(encrypt), CKF_MESSAGE_ENCRYPT, public),
            (messages(decrypt), CKF_MESSAGE_DECRYPT, private),
            (generate.is_some(), CKF_GENERATE, private),
            (generate_pair.is_some(), CKF_GENERATE_KEY_PAIR, private),
            (derive.is_some(), CKF_DERIVE, private),
            (wrap.is_some() || *moves, CKF_WRAP, public),
            (unwraps || *moves, CKF_UNWRAP, private),
        ]
        .into_iter()
        .filter_map(|(can, flag, place)| Some((flag, place.filter(|_| can)?)))
        .collect()
    }

    /// The CKF_ flags of its [`operations`](Self::operations); CKF_HW if the TPM does the work. A key that
    /// is sealed works in the host.
    pub fn flags(&self, facts: Option<&Facts>, terms: Terms) -> u64 {
        let mut flags = 0;
        for (flag, place) in self.operations(facts, terms) {
            flags |= flag | if place == Place::Tpm { CKF_HW } else { 0 };
        }
        if flags & (CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT) != 0 {
            flags |= CKF_MULTI_MESSAGE;
        }
        if self.keys == Keys::Pair(CKK_EC) && flags != 0 {
            // §6.3, table of mechanism information flags.
            flags |= CKF_EC_F_P | CKF_EC_OID | CKF_EC_CURVENAME | CKF_EC_UNCOMPRESS;
            flags |= CKF_EC_COMPRESS;
        }
        flags
    }

    /// Where the private half of its work is done, or why nowhere.
    ///
    /// # Errors
    /// What is missing.
    pub fn place(
        &self,
        facts: Option<&Facts>,
        sealing: Sealing,
    ) -> std::result::Result<Place, Lack> {
        if self.chip.is_empty() {
            return Ok(Place::Host);
        }
        match (self.keys, self.lack(facts)) {
            (Keys::Sealed(_), None) if sealing.keys => Ok(Place::Sealed),
            (Keys::Sealed(_), None) => Err(Lack::Sealing("sealed_keys = true")),
            (_, None) => Ok(Place::Tpm),
            (Keys::Secret([CKK_AES]), Some(_)) if sealing.ciphers => Ok(Place::Sealed),
            (_, Some(lack)) => Err(lack),
        }
    }

    /// What the TPM of these facts lacks of the commands, or of keys of the type at all.
    fn lack(&self, facts: Option<&Facts>) -> Option<Lack> {
        let facts = facts?;
        if let Some(command) = self.chip.iter().find(|command| !facts.has_command(command.code)) {
            return Some(Lack::Command(command.name));
        }
        let hash = self.hash.and_then(hmac::of_the_chip);
        let lack = match self.keys {
            Keys::Pair(CKK_RSA) => facts.rsa_bits.is_empty().then_some("RSA"),
            Keys::Pair(CKK_EC) => facts.curves.is_empty().then_some("elliptic curves"),
            Keys::Secret([CKK_AES]) => facts.aes_bits.is_empty().then_some("AES"),
            // What works with a secret key in the chip hashes there.
            Keys::Secret(_) if hash.is_some_and(|hash| !facts.hashes.contains(&hash)) => {
                Some("the hash")
            }
            _ => None,
        };
        lack.map(Lack::Algorithm)
    }

    /// The smallest and the largest key: the TPM's where it is known, else the host's.
    pub fn sizes(&self, facts: Option<&Facts>) -> (u64, u64) {
        let (min, max) = match self.size {
            Size::None => return (0, 0),
            Size::Bytes(min, max) | Size::Bits(min, max) => (min, max),
        };
        let offered: Vec<u64> = match (self.keys, facts) {
            (Keys::Pair(CKK_RSA), Some(facts)) => {
                facts.rsa_bits.iter().map(|bits| u64::from(*bits)).collect()
            }
            (Keys::Pair(CKK_EC), Some(facts)) => {
                facts.curves.iter().map(|curve| curve.bits() as u64).collect()
            }
            (Keys::Secret([CKK_AES]), Some(facts)) => {
                facts.aes_bits.iter().map(|bits| u64::from(*bits) / 8).collect()
            }
            _ => Vec::new(),
        };
        let offered = offered.into_iter().filter(|bits| (min..=max).contains(bits));
        offered.clone().min().zip(offered.max()).unwrap_or((min, max))
    }

    /// C_DigestInit.
    ///
    /// # Errors
    /// [`Error::MechanismInvalid`] if it does not digest, [`Error::MechanismParamInvalid`].
    pub fn digest(&'static self, params: &Params) -> Result<Box<dyn Digest>> {
        let start = self.does.digest.ok_or(Error::MechanismInvalid(self.id))?;
        start(self, params)
    }

    /// C_SignInit: checks that the key is one for this, and begins. No TPM command.
    ///
    /// # Errors
    /// [`Error::MechanismInvalid`] (also by CKA_ALLOWED_MECHANISMS), [`Error::KeyTypeInconsistent`],
    /// [`Error::KeyFunctionNotPermitted`], [`Error::KeySizeRange`], [`Error::MechanismParamInvalid`].
    pub fn sign(&'static self, params: &Params, key: &Object) -> Result<Box<dyn Sign>> {
        let start = self.does.sign.ok_or(Error::MechanismInvalid(self.id))?;
        self.admit(key, false, CKA_SIGN, "CKA_SIGN is FALSE")?;
        start(self, params, key)
    }

    /// C_SignRecoverInit; see [`sign`](Self::sign).
    ///
    /// # Errors
    /// As [`sign`](Self::sign).
    pub fn sign_recover(&'static self, params: &Params, key: &Object) -> Result<Box<dyn Sign>> {
        let start = self.does.sign_recover.ok_or(Error::MechanismInvalid(self.id))?;
        self.admit(key, false, CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER is FALSE")?;
        start(self, params, key)
    }

    /// C_VerifyInit and C_VerifySignatureInit; see [`sign`](Self::sign). With a public key neither this
    /// nor what it starts ever needs the TPM.
    ///
    /// # Errors
    /// As [`sign`](Self::sign).
    pub fn verify(&'static self, params: &Params, key: &Object) -> Result<Box<dyn Verify>> {
        let start = self.does.verify.ok_or(Error::MechanismInvalid(self.id))?;
        self.admit(key, true, CKA_VERIFY, "CKA_VERIFY is FALSE")?;
        start(self, params, key)
    }

    /// C_VerifyRecoverInit; see [`verify`](Self::verify).
    ///
    /// # Errors
    /// As [`sign`](Self::sign).
    pub fn verify_recover(
        &'static self,
        params: &Params,
        key: &Object,
    ) -> Result<Box<dyn Recover>> {
        let start = self.does.verify_recover.ok_or(Error::MechanismInvalid(self.id))?;
        self.admit(key, true, CKA_VERIFY_RECOVER, "CKA_VERIFY_RECOVER is FALSE")?;
        start(self, params, key)
    }

    /// C_EncryptInit; see [`verify`](Self::verify).
    ///
    /// # Errors
    /// As [`sign`](Self::sign).
    pub fn encrypt(&'static self, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
        let start = self.does.encrypt.ok_or(Error::MechanismInvalid(self.id))?;
        self.admit(key, true, CKA_ENCRYPT, "CKA_ENCRYPT is FALSE")?;
        start(self, params, key)
    }

    /// C_DecryptInit; see [`sign`](Self::sign).
    ///
    /// # Errors
    /// As [`sign`](Self::sign).
    pub fn decrypt(&'static self, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
        let start = self.does.decrypt.ok_or(Error::MechanismInvalid(self.id))?;
        self.admit(key, false, CKA_DECRYPT, "CKA_DECRYPT is FALSE")?;
        start(self, params, key)
    }

    /// C_MessageEncryptInit, or with `decrypts` C_MessageDecryptInit: whether the key is one for this; each
    /// message begins with [`encrypt`](Self::encrypt) or [`decrypt`](Self::decrypt).
    ///
    /// # Errors
    /// As [`sign`](Self::sign).
    pub fn messages(&self, key: &Object, decrypts: bool) -> Result<()> {
        let does = &self.does;
        let able = if decrypts { does.decrypt.is_some() } else { does.encrypt.is_some() };
        if !able || does.message.is_none() {
            return Err(Error::MechanismInvalid(self.id));
        }
        match decrypts {
            true => self.admit(key, false, CKA_DECRYPT, "CKA_DECRYPT is FALSE"),
            false => self.admit(key, true, CKA_ENCRYPT, "CKA_ENCRYPT is FALSE"),
        }
    }

    /// The parameter of one message.
    ///
    /// # Errors
    /// [`Error::MechanismInvalid`] if it takes no messages.
    pub fn message_params(
        &self,
        message: &params::Message,
        nonce: &[u8],
        additional: &[u8],
    ) -> Result<Params> {
        let params = self.does.message.ok_or(Error::MechanismInvalid(self.id))?;
        Ok(params(message, nonce, additional))
    }

    /// C_GenerateKeyPair, once both templates are checked: has the TPM create the key, and checks
    /// what came back. `authorization` becomes the key's own.
    ///
    /// # Errors
    /// [`Error::MechanismInvalid`] if it generates no pairs, [`Error::MechanismParamInvalid`],
    /// [`Error::FunctionFailed`] if the TPM made a weak or broken key; the TPM's own.
    pub fn generate_pair(
        &'static self,
        params: &Params,
        spec: &KeySpec,
        authorization: &[u8; 32],
        chip: &Chip<'_>,
    ) -> Result<NewKey> {
        let generate = self.does.generate_pair.ok_or(Error::MechanismInvalid(self.id))?;
        generate(self, params, spec, authorization, chip).map_err(|error| self.refused(error))
    }

    /// The CKK_ of the keys that C_GenerateKeyPair makes with this mechanism.
    ///
    /// # Errors
    /// [`Error::MechanismInvalid`] if it generates no pairs.
    pub fn generates(&self) -> Result<u64> {
        match (self.does.generate_pair, self.keys) {
            (Some(_), Keys::Pair(key_type)) => Ok(key_type),
            _ => Err(Error::MechanismInvalid(self.id)),
        }
    }

    /// C_GenerateKey, once the template is checked: what the value is to be.
    ///
    /// # Errors
    /// [`Error::MechanismInvalid`] if it generates no secret keys, [`Error::MechanismParamInvalid`],
    /// [`Error::KeySizeRange`].
    pub fn generate(
        &'static self,
        params: &Params,
        length: Option<usize>,
        chip: &Chip<'_>,
    ) -> Result<Value> {
        let generate = self.does.generate.ok_or(Error::MechanismInvalid(self.id))?;
        generate(self, params, length, chip)
    }

    /// The CKK_ of the secret keys that C_GenerateKey makes with this mechanism.
    ///
    /// # Errors
    /// [`Error::MechanismInvalid`] if it generates none.
    pub fn generates_secrets(&self) -> Result<&'static [u64]> {
        match (self.does.generate, self.keys) {
            (Some(_), Keys::Secret(types) | Keys::Sealed(types)) => Ok(types),
            _ => Err(Error::MechanismInvalid(self.id)),
        }
    }

    /// How a key that C_DeriveKey makes with this mechanism is related to its base key.
    ///
    /// # Errors
    /// [`Error::MechanismInvalid`] if it derives nothing.
    pub fn derives(&self) -> Result<Derives> {
        self.does.derive.map(|(how, _)| how).ok_or(Error::MechanismInvalid(self.id))
    }

    /// Whether these keys may be derived from with this mechanism: the base key, and those that the
    /// parameter names.
    ///
    /// # Errors
    /// As [`sign`](Self::sign), but for the parameter's.
    pub fn derives_from<'k>(&self, keys: impl IntoIterator<Item = &'k Object>) -> Result<()> {
        let usage = match self.derives()? {
            // It "can always be used", whatever CKA_DERIVE says.
            Derives::Public => None,
            _ => Some(CKA_DERIVE),
        };
        keys.into_iter()
            .try_for_each(|key| self.admit_for(key, false, usage, "CKA_DERIVE is FALSE"))
    }

    /// The templates of the keys that C_DeriveKey shall make: the caller's, and those of the parameter; or what
    /// the mechanism makes of them.
    ///
    /// # Errors
    /// [`Error::MechanismParamInvalid`]; [`Error::TemplateInconsistent`] if the caller contradicts.
    pub fn templates(
        &self,
        params: &Params,
        base: &Object,
        template: &Template,
    ) -> Result<Vec<Template>> {
        match self.does.derive {
            Some((_, Derive::Shaped(shape, _))) => shape(params, &base.attributes, template),
            _ => Ok(std::iter::once(template).chain(params.additional()).cloned().collect()),
        }
    }

    /// C_DeriveKey: a secret for each of `lengths`, of so many bytes where template or key type say so, else
    /// of its natural length. `others` are the keys that the parameter names; they must permit what the
    /// base key must.
    ///
    /// # Errors
    /// As [`sign`](Self::sign); [`Error::MechanismParamInvalid`] for a point that is not on the
    /// key's curve, without a TPM command; [`Error::TemplateIncomplete`] if the length must be
    /// known and is not; [`Error::KeySizeRange`] if the secret has not so many bytes.
    pub fn derive(
        &'static self,
        params: &Params,
        key: &Object,
        others: &[Object],
        lengths: &[Option<usize>],
        chip: &Chip<'_>,
    ) -> Result<Vec<Zeroizing<Vec<u8>>>> {
        let (_, derive) = self.does.derive.ok_or(Error::MechanismInvalid(self.id))?;
        self.derives_from(std::iter::once(key).chain(others))?;
        let derived = match (derive, lengths) {
            (Derive::One(derive), [length]) => {
                derive(self, params, key, others, *length, chip).map(|secret| vec![secret])
            }
            (Derive::One(_), _) => Err(Error::Bug("several keys from what derives one")),
            (Derive::Nothing, _) => Err(Error::Bug("a secret from what derives none")),
            (Derive::Several(derive) | Derive::Shaped(_, derive), _) => {
                derive(self, params, key, others, lengths, chip)
            }
        };
        derived.map_err(|error| match self.refused(error) {
            Error::Refused(Refusal::Point, _) => {
                Error::MechanismParamInvalid("the point is not on the curve")
            }
            Error::Refused(Refusal::KeySize, why) => Error::KeySizeRange(why),
            other => other,
        })
    }

    /// What the TPM's refusal means where the function may say that of the mechanism (C_Sign and
    /// C_Decrypt may not).
    fn refused(&self, error: Error) -> Error {
        match error {
            Error::Refused(Refusal::Command, _) => Error::MechanismInvalid(self.id),
            Error::Refused(Refusal::Curve, _) => Error::CurveNotSupported,
            other => other,
        }
    }

    /// Whether `key` is of the class and type that this needs and permits the use.
    fn admit(&self, key: &Object, public: bool, usage: u64, refusal: &'static str) -> Result<()> {
        self.admit_for(key, public, Some(usage), refusal)
    }

    /// The same, of a use that a key may have to permit.
    fn admit_for(
        &self,
        key: &Object,
        public: bool,
        usage: Option<u64>,
        refusal: &'static str,
    ) -> Result<()> {
        if !key.key_type().is_some_and(|key_type| self.keys.has(key_type)) {
            return Err(Error::KeyTypeInconsistent);
        }
        if key.class() != self.keys.class(public) || usage.is_some_and(|usage| !key.is(usage)) {
            return Err(Error::KeyFunctionNotPermitted(refusal));
        }
        if !key.allows(self.id) {
            return Err(Error::MechanismInvalid(self.id));
        }
        Ok(())
    }
}

/// The private half of a key object, as an operation keeps it until its end.
fn private_half(key: &Object) -> Result<Arc<KeyBlob>> {
    match &key.material {
        Material::Key(blob) => Ok(blob.clone()),
        _ => Err(Error::KeyFunctionNotPermitted("the TPM has no private half of it")),
    }
}

#[cfg(test)]
mod tests;
