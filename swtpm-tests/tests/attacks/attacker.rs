//! Who makes the calls: sessions at the token in one process or two, and the keys that were made there.
//!
//! With two processes every call goes to the other one than the call before, and finds its keys there by
//! their labels.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::OnceLock;

use cryptoki_sys::*;
use swtpm_tests::bench::LABEL;
use swtpm_tests::ck::{Answer, Mechanism, Message, Rv, bytes, flag, number, template};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::{App, Attribute, Bench, Ck, openssl};

/// Why an attack ended before it had what it wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// A call of this function said no.
    Refused(String, Rv),
    /// The token has no such mechanism for such an operation, or no such function.
    NotOffered(String),
    /// Something that the attack builds on is not so: what the token made of a template, what it read back.
    Thwarted(&'static str),
}

/// How secret keys wrap and unwrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// C_WrapKey and C_UnwrapKey; key wrap with padding where the attack wants no other mechanism.
    Plain,
    /// C_WrapKeyAuthenticated and C_UnwrapKeyAuthenticated with CKM_AES_GCM or CKM_AES_CCM.
    Authenticated(u64),
}

/// What a secret key made of another key.
#[derive(Debug, Clone)]
pub struct Wrapped {
    mechanism: u64,
    /// What it began with, if the mechanism has one.
    pub nonce: Vec<u8>,
    /// The key, and behind it the tag if the mechanism has one.
    pub bytes: Vec<u8>,
}

/// The tag of an authenticated wrapping, in bytes.
pub const TAG: usize = 16;
/// The nonce that attackers choose.
pub const NONCE: [u8; 12] = [9; 12];

impl Wrapped {
    fn message(&self) -> Message {
        let (key, tag) = self.bytes.split_at(self.bytes.len().saturating_sub(TAG));
        let mut message = Message::new(self.mechanism, &self.nonce, tag.len(), key.len());
        message.tag = tag.to_vec();
        message
    }

    fn authenticates(&self) -> bool {
        [CKM_AES_GCM, CKM_AES_CCM].contains(&self.mechanism)
    }

    /// As C_Encrypt and C_Decrypt have it.
    fn as_data(&self) -> Mechanism {
        let length = self.bytes.len().saturating_sub(TAG) as u64;
        match self.mechanism {
            CKM_AES_GCM => Mechanism::gcm(CKM_AES_GCM, &self.nonce, b"", 8 * TAG as u64),
            CKM_AES_CCM => Mechanism::ccm(length, &self.nonce, b"", TAG as u64),
            other => other.into(),
        }
    }

    /// What GCM and CCM encrypt to have this block of their key stream; the first is 0.
    pub fn stream_block(&self, index: u8) -> [u8; 16] {
        let block = match self.mechanism {
            CKM_AES_CCM => [&[2][..], &self.nonce, &[0, 0, 1 + index]].concat(),
            _ => [&self.nonce[..], &[0, 0, 0, 2 + index]].concat(),
        };
        block.try_into().expect("a block")
    }

    /// The counter mode that is in GCM and CCM.
    pub fn as_stream(&self) -> Mechanism {
        let bits = if self.mechanism == CKM_AES_CCM { 24 } else { 32 };
        Mechanism::counter(bits, self.stream_block(0))
    }

    /// Without the tag.
    pub fn key(&self) -> &[u8] {
        let tag = if self.authenticates() { TAG } else { 0 };
        &self.bytes[..self.bytes.len() - tag]
    }

    /// What is in it, for who knows the key.
    pub fn opened(&self, by: &[u8]) -> Step<Vec<u8>> {
        let mode = match self.mechanism {
            CKM_AES_GCM => "GCM",
            CKM_AES_CCM => "CCM",
            _ => return Ok(opened(by, &self.bytes)),
        };
        let value = openssl::aead(mode, false, by, &self.nonce, b"", TAG, &self.bytes);
        value.ok_or(Stop::Thwarted("what came out is nothing of the kind"))
    }
}

/// What a step of an attack gives.
pub type Step<T> = Result<T, Stop>;

/// Whether an attack got what it wanted.
pub type Verdict = Step<bool>;

/// A key of the token, as it is known in the process that made it.
#[derive(Debug, Clone)]
pub struct Key {
    class: u64,
    label: String,
    process: usize,
    handle: u64,
}

impl Key {
    /// An object that is there, found by its label.
    pub fn named(class: u64, label: &str) -> Key {
        Key { class, label: label.to_owned(), process: usize::MAX, handle: 0 }
    }
}

macro_rules! mechanisms {
    ($($name:ident)*) => { &[$(($name, stringify!($name))),*] };
}

static MECHANISMS: &[(u64, &str)] = mechanisms![
    CKM_AES_KEY_GEN CKM_GENERIC_SECRET_KEY_GEN CKM_RSA_PKCS_KEY_PAIR_GEN CKM_EC_KEY_PAIR_GEN
    CKM_AES_ECB CKM_AES_CBC CKM_AES_CBC_PAD CKM_AES_CTR CKM_AES_GCM CKM_AES_CCM CKM_AES_CMAC
    CKM_AES_KEY_WRAP CKM_AES_KEY_WRAP_PAD CKM_AES_KEY_WRAP_KWP CKM_AES_ECB_ENCRYPT_DATA
    CKM_AES_CBC_ENCRYPT_DATA CKM_RSA_PKCS CKM_RSA_PKCS_OAEP CKM_RSA_X_509 CKM_RSA_AES_KEY_WRAP
    CKM_SHA256_HMAC CKM_SHA256_KEY_DERIVATION CKM_EXTRACT_KEY_FROM_KEY CKM_XOR_BASE_AND_DATA
    CKM_CONCATENATE_BASE_AND_DATA CKM_CONCATENATE_DATA_AND_BASE CKM_CONCATENATE_BASE_AND_KEY
    CKM_HKDF_DERIVE CKM_HKDF_DATA CKM_SP800_108_COUNTER_KDF CKM_SP800_108_FEEDBACK_KDF
    CKM_SP800_108_DOUBLE_PIPELINE_KDF CKM_ECDH1_DERIVE CKM_PUB_KEY_FROM_PRIV_KEY
    CKM_TLS12_KEY_AND_MAC_DERIVE CKM_TLS12_KDF CKM_TLS12_MAC CKM_ECDSA CKM_ECDSA_SHA256 CKM_SHA256
    CKM_SHA256_RSA_PKCS CKM_TLS12_MASTER_KEY_DERIVE CKM_TLS_MAC CKM_TLS_KDF CKM_TLS12_MASTER_KEY_DERIVE_DH
    CKM_PKCS5_PBKD2 CKM_EC_MONTGOMERY_KEY_PAIR_GEN CKM_DH_PKCS_DERIVE
];

fn mechanism_name(kind: u64) -> String {
    MECHANISMS
        .iter()
        .find(|(number, _)| *number == kind)
        .map_or_else(|| format!("mechanism {kind:#x}"), |(_, name)| (*name).to_owned())
}

/// Where keys lie and who uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Session objects of one process.
    Session,
    /// Token objects of one process.
    Token,
    /// Token objects, each call by the other of two processes.
    TwoProcesses,
}

/// See the top.
pub struct Attacker<'a> {
    pub bench: &'a Bench,
    pub stage: Stage,
    pub way: Way,
    /// The keys of the token are sealed, as far as they can be.
    pub sealed: bool,
    /// Whether the attack came to a step that goes either [`Way`].
    pub wrapped: Cell<bool>,
    processes: Vec<(App, u64)>,
    slot: u64,
    turn: Cell<usize>,
    made: Cell<u64>,
    /// Asked once: whether the token offers an operation of a mechanism.
    offers: RefCell<HashMap<(u64, u64), bool>>,
    /// Pairs that take long to make, by what they are.
    pairs: RefCell<Pairs>,
}

type Pairs = HashMap<String, (Key, Key)>;

/// The value of an AES key that its owner brought with him.
pub const OWN: [u8; 16] = *b"the owner's key!";
/// The value of keys that the attacker brings with him.
pub const KNOWN: [u8; 16] = *b"attacker's bytes";

/// What a letter of a case's notation stands for.
fn letter(letter: char) -> u64 {
    match letter {
        's' => CKA_SENSITIVE,
        'x' => CKA_EXTRACTABLE,
        'w' => CKA_WRAP,
        'u' => CKA_UNWRAP,
        'e' => CKA_ENCRYPT,
        'd' => CKA_DECRYPT,
        'D' => CKA_DERIVE,
        'S' => CKA_SIGN,
        'v' => CKA_VERIFY,
        't' => CKA_WRAP_WITH_TRUSTED,
        'T' => CKA_TRUSTED,
        other => panic!("no letter {other}"),
    }
}

/// The attributes of a class that letters can name: those given TRUE, the others FALSE.
pub fn letters(given: &str, all: &str) -> Vec<Attribute> {
    let told = |name: char| given.contains(name);
    // CKA_TRUSTED is the SO's: where it is not asked for nobody says anything.
    all.chars()
        .filter(|name| *name != 'T' || told('T'))
        .map(|name| flag(letter(name), told(name)))
        .collect()
}

/// For secret keys.
pub const SECRET: &str = "sxwuedDSvtT";
const PUBLIC: &str = "wevDT";
const PRIVATE: &str = "sxudDSt";

impl<'a> Attacker<'a> {
    /// Whoever is logged in at the token with this configuration (lines after `[[tpm]]`).
    pub fn at(bench: &'a Bench, stage: Stage) -> Attacker<'a> {
        let count = if stage == Stage::TwoProcesses { 2 } else { 1 };
        let processes: Vec<_> = (0..count).map(|_| bench.logged_in()).collect();
        let slot = processes[0].0.slot_of(LABEL).expect("the token");
        Attacker {
            bench,
            stage,
            way: Way::Plain,
            sealed: false,
            wrapped: Cell::new(false),
            processes,
            slot,
            turn: Cell::new(0),
            made: Cell::new(0),
            offers: RefCell::default(),
            pairs: RefCell::default(),
        }
    }

    /// The same at another stage, with the pairs that are there.
    pub fn then(self, stage: Stage) -> Attacker<'a> {
        Attacker {
            pairs: self.pairs,
            // No label comes twice: what was made before is still on the token.
            made: self.made,
            way: self.way,
            sealed: self.sealed,
            ..Attacker::at(self.bench, stage)
        }
    }

    /// The same, another way.
    pub fn by(self, way: Way) -> Attacker<'a> {
        Attacker { way, ..self }
    }

    /// The same at a token that seals its keys.
    pub fn sealed(self) -> Attacker<'a> {
        Attacker { sealed: true, ..self }
    }

    /// Whether keys are to be objects of the token.
    pub fn on_token(&self) -> bool {
        self.stage != Stage::Session
    }

    /// The process whose turn it is.
    fn here(&self) -> (usize, &Ck, u64) {
        let process = self.turn.get() % self.processes.len();
        self.turn.set(process + 1);
        let (app, session) = &self.processes[process];
        (process, app, *session)
    }

    /// Gives the next turn to the first process.
    pub fn first_next(&self) {
        self.turn.set(0);
    }

    /// The first process, for what has to happen in one.
    pub fn first(&self) -> (&App, u64) {
        let (app, session) = &self.processes[0];
        (app, *session)
    }

    /// The token's slot.
    pub fn slot(&self) -> u64 {
        self.slot
    }

    /// A key's handle in a process.
    pub fn handle(&self, process: usize, key: &Key) -> Step<u64> {
        if key.process == process {
            return Ok(key.handle);
        }
        let (app, session) = &self.processes[process];
        let wanted = [number(CKA_CLASS, key.class), bytes(CKA_LABEL, key.label.as_bytes())];
        let found = said("C_FindObjects", app.find(*session, &wanted))?;
        found.first().copied().ok_or(Stop::Thwarted("the other process does not see the key"))
    }

    fn key(&self, class: u64, label: String, process: usize, handle: u64) -> Key {
        Key { class, label, process, handle }
    }

    /// A template with a label of its own, and where the object is to lie.
    fn named(&self, attributes: &[Attribute]) -> (String, Vec<Attribute>) {
        self.made.set(self.made.get() + 1);
        let label = format!("{} {}", self.stage as u8, self.made.get());
        let mut named = attributes.to_vec();
        named.push(bytes(CKA_LABEL, label.as_bytes()));
        if !named.iter().any(|attribute| attribute.kind == CKA_TOKEN) {
            named.push(flag(CKA_TOKEN, self.on_token()));
        }
        (label, named)
    }

    /// The token must offer this.
    pub fn needs(&self, mechanism: u64, operation: u64) -> Step<()> {
        let offered =
            *self.offers.borrow_mut().entry((mechanism, operation)).or_insert_with(|| {
                let info = self.processes[0].0.mechanism_info(self.slot, mechanism);
                info.is_ok_and(|info| info.flags & operation != 0)
            });
        if offered {
            return Ok(());
        }
        let what = match operation {
            CKF_ENCRYPT => "C_Encrypt",
            CKF_DECRYPT => "C_Decrypt",
            CKF_SIGN => "C_Sign",
            CKF_WRAP => "C_WrapKey",
            CKF_UNWRAP => "C_UnwrapKey",
            CKF_DERIVE => "C_DeriveKey",
            CKF_GENERATE => "C_GenerateKey",
            _ => "C_GenerateKeyPair",
        };
        Err(Stop::NotOffered(format!("{what} by {}", mechanism_name(mechanism))))
    }

    // ---- making keys

    /// C_GenerateKey of an AES key of this many bytes.
    pub fn aes(&self, length: u64, given: &str) -> Step<Key> {
        self.generate(CKM_AES_KEY_GEN, length, given, &[])
    }

    /// C_GenerateKey of a generic secret of 32 bytes.
    pub fn generic(&self, given: &str) -> Step<Key> {
        self.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, given, &[])
    }

    /// A secret whose bytes derivations work with: its CKK_ and the mechanism that makes one.
    pub fn data(&self) -> (u64, u64) {
        // Of these types AES keys alone can be sealed.
        match self.sealed {
            true => (CKK_AES, CKM_AES_KEY_GEN),
            false => (CKK_GENERIC_SECRET, CKM_GENERIC_SECRET_KEY_GEN),
        }
    }

    /// A secret that makes MACs.
    pub fn mac(&self, given: &str) -> Step<Key> {
        let mechanism = if self.sealed { CKM_SHA3_256_KEY_GEN } else { CKM_GENERIC_SECRET_KEY_GEN };
        self.generate(mechanism, 32, given, &[])
    }

    /// C_GenerateKey.
    pub fn generate(
        &self,
        mechanism: u64,
        length: u64,
        given: &str,
        more: &[Attribute],
    ) -> Step<Key> {
        let mut whole = vec![number(CKA_VALUE_LEN, length)];
        whole.extend(letters(given, SECRET));
        self.generate_of(mechanism, &[&whole, more].concat())
    }

    /// C_GenerateKey of a template as it is.
    pub fn generate_of(
        &self,
        mechanism: impl Into<Mechanism>,
        attributes: &[Attribute],
    ) -> Step<Key> {
        let mechanism = mechanism.into();
        self.needs(mechanism.kind, CKF_GENERATE)?;
        let (label, whole) = self.named(attributes);
        let (process, ck, session) = self.here();
        let handle = said("C_GenerateKey", ck.generate_key(session, mechanism, &whole))?;
        Ok(self.key(CKO_SECRET_KEY, label, process, handle))
    }

    /// The key that the attack is after: AES, sensitive, extractable; it encrypts, so that a recovered
    /// value can be told from others.
    pub fn target(&self) -> Step<Key> {
        self.aes(16, "sxe")
    }

    /// Whether these bytes are the value of an AES key that encrypts.
    pub fn is_value(&self, key: &Key, value: &[u8]) -> Verdict {
        if ![16, 24, 32].contains(&value.len()) {
            return Ok(false);
        }
        let block = self.encrypt(CKM_AES_ECB, key, &[0; 16])?;
        Ok(openssl::aes_ecb(value, &[0; 16]) == block[..])
    }

    /// Whether these bytes are the value of a key that signs with HMAC.
    pub fn is_mac_key(&self, key: &Key, value: &[u8]) -> Verdict {
        let mac = self.sign(CKM_SHA256_HMAC, key, b"data")?;
        Ok(openssl::hmac("sha256", value, b"data") == mac)
    }

    /// An RSA pair, made once for each combination of size and letters; as session objects it is a copy.
    pub fn rsa(&self, bits: u64, public: &str, private: &str) -> Step<(Key, Key)> {
        self.needs(CKM_RSA_PKCS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR)?;
        let name = format!("{bits} {public}|{private}");
        let known = self.pairs.borrow().get(&name).cloned();
        let (public, private) = match known {
            Some(pair) => pair,
            None => {
                let size = [number(CKA_MODULUS_BITS, bits), flag(CKA_TOKEN, true)];
                let pair = self.pair(
                    CKM_RSA_PKCS_KEY_PAIR_GEN,
                    &[&size[..], &letters(public, PUBLIC)].concat(),
                    &[&[flag(CKA_TOKEN, true)], &letters(private, PRIVATE)[..]].concat(),
                )?;
                // Found by their labels from now on: a logout ends their handles.
                let kept = |key: &Key| Key { process: usize::MAX, ..key.clone() };
                let pair = (kept(&pair.0), kept(&pair.1));
                self.pairs.borrow_mut().insert(name, pair.clone());
                pair
            }
        };
        if self.on_token() {
            return Ok((public, private));
        }
        let session = [flag(CKA_TOKEN, false)];
        Ok((self.copy(&public, &session)?, self.copy(&private, &session)?))
    }

    /// An EC pair on P-256.
    pub fn ec(&self, private: &str, more: &[Attribute]) -> Step<(Key, Key)> {
        let curve = bytes(CKA_EC_PARAMS, swtpm_tests::ck::P256);
        self.pair(
            CKM_EC_KEY_PAIR_GEN,
            &[curve],
            &[letters(private, PRIVATE), more.to_vec()].concat(),
        )
    }

    /// C_GenerateKeyPair of templates as they are.
    pub fn pair(
        &self,
        mechanism: u64,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Step<(Key, Key)> {
        self.needs(mechanism, CKF_GENERATE_KEY_PAIR)?;
        let (one, public) = self.named(public);
        let (other, private) = self.named(private);
        let (process, ck, session) = self.here();
        let made = ck.generate_pair(session, mechanism, &public, &private);
        let (public, private) = said("C_GenerateKeyPair", made)?;
        Ok((
            self.key(CKO_PUBLIC_KEY, one, process, public),
            self.key(CKO_PRIVATE_KEY, other, process, private),
        ))
    }

    /// C_CreateObject.
    pub fn create(&self, class: u64, attributes: &[Attribute]) -> Step<Key> {
        let mut whole = vec![number(CKA_CLASS, class)];
        whole.extend_from_slice(attributes);
        let (label, whole) = self.named(&whole);
        let (process, ck, session) = self.here();
        let handle = said("C_CreateObject", ck.create_object(session, &whole))?;
        Ok(self.key(class, label, process, handle))
    }

    /// C_CreateObject of a secret key with a known value.
    pub fn import(&self, key_type: u64, value: &[u8], given: &str) -> Step<Key> {
        let mut whole = vec![number(CKA_KEY_TYPE, key_type), bytes(CKA_VALUE, value)];
        whole.extend(letters(given, SECRET));
        self.create(CKO_SECRET_KEY, &whole)
    }

    /// C_CopyObject.
    pub fn copy(&self, key: &Key, changes: &[Attribute]) -> Step<Key> {
        let (label, whole) = self.named(changes);
        let (process, ck, session) = self.here();
        let original = self.handle(process, key)?;
        let handle = said("C_CopyObject", ck.copy_object(session, original, &whole))?;
        Ok(self.key(key.class, label, process, handle))
    }

    /// C_SetAttributeValue.
    pub fn set(&self, key: &Key, changes: &[Attribute]) -> Step<()> {
        let (process, ck, session) = self.here();
        let handle = self.handle(process, key)?;
        said("C_SetAttributeValue", ck.set_attributes(session, handle, changes))
    }

    /// C_SetAttributeValue of one CK_BBOOL.
    pub fn set_flag(&self, key: &Key, kind: u64, value: bool) -> Step<()> {
        self.set(key, &[flag(kind, value)])
    }

    /// C_GetAttributeValue.
    pub fn get(&self, key: &Key, kind: u64) -> Step<Vec<u8>> {
        let (process, ck, session) = self.here();
        let handle = self.handle(process, key)?;
        said("C_GetAttributeValue", ck.attribute(session, handle, kind))
    }

    /// Whether a CK_BBOOL of a key is TRUE.
    pub fn is(&self, key: &Key, kind: u64) -> Verdict {
        Ok(self.get(key, kind)? == [1])
    }

    /// C_FindObjects.
    pub fn finds(&self, wanted: &[Attribute]) -> Verdict {
        let (_, ck, session) = self.here();
        Ok(!said("C_FindObjects", ck.find(session, wanted))?.is_empty())
    }

    /// C_DestroyObject.
    pub fn destroy(&self, key: &Key) -> Step<()> {
        let (process, ck, session) = self.here();
        let handle = self.handle(process, key)?;
        said("C_DestroyObject", ck.destroy_object(session, handle))
    }

    // ---- using keys

    fn with<T>(
        &self,
        function: &str,
        operation: u64,
        mechanism: impl Into<Mechanism>,
        key: &Key,
        call: impl FnOnce(&Ck, u64, Mechanism, u64) -> Answer<T>,
    ) -> Step<T> {
        let mechanism = mechanism.into();
        self.needs(mechanism.kind, operation)?;
        let (process, ck, session) = self.here();
        let handle = self.handle(process, key)?;
        said(function, call(ck, session, mechanism, handle))
    }

    /// C_EncryptInit, C_Encrypt.
    pub fn encrypt(
        &self,
        mechanism: impl Into<Mechanism>,
        key: &Key,
        data: &[u8],
    ) -> Step<Vec<u8>> {
        self.with("C_Encrypt", CKF_ENCRYPT, mechanism, key, |ck, session, mechanism, key| {
            ck.encrypt(session, mechanism, key, data)
        })
    }

    /// C_DecryptInit, C_Decrypt.
    pub fn decrypt(
        &self,
        mechanism: impl Into<Mechanism>,
        key: &Key,
        data: &[u8],
    ) -> Step<Vec<u8>> {
        self.with("C_Decrypt", CKF_DECRYPT, mechanism, key, |ck, session, mechanism, key| {
            ck.decrypt(session, mechanism, key, data)
        })
    }

    /// C_SignInit, C_Sign.
    pub fn sign(&self, mechanism: impl Into<Mechanism>, key: &Key, data: &[u8]) -> Step<Vec<u8>> {
        self.with("C_Sign", CKF_SIGN, mechanism, key, |ck, session, mechanism, key| {
            ck.sign(session, mechanism, key, data)
        })
    }

    /// C_WrapKey.
    pub fn wrap(&self, mechanism: impl Into<Mechanism>, by: &Key, key: &Key) -> Step<Vec<u8>> {
        let mechanism = mechanism.into();
        self.needs(mechanism.kind, CKF_WRAP)?;
        let (process, ck, session) = self.here();
        let (by, key) = (self.handle(process, by)?, self.handle(process, key)?);
        let arguments = vec![
            session.into(),
            mechanism.memory().into(),
            by.into(),
            key.into(),
            Memory::room(8192).into(),
            Memory::word(8192).into(),
        ];
        let arguments = called(ck, "C_WrapKey", arguments)?;
        let length = arguments[5].memory().word_at(0) as usize;
        Ok(arguments[4].memory().bytes[..length].to_vec())
    }

    /// C_UnwrapKey of a key of this class and type.
    pub fn unwrap(
        &self,
        mechanism: impl Into<Mechanism>,
        by: &Key,
        blob: &[u8],
        (class, key_type): (u64, u64),
        attributes: &[Attribute],
    ) -> Step<Key> {
        let mechanism = mechanism.into();
        self.needs(mechanism.kind, CKF_UNWRAP)?;
        let own = [number(CKA_CLASS, class), number(CKA_KEY_TYPE, key_type)];
        let (label, whole) = self.named(&[&own[..], attributes].concat());
        let (process, ck, session) = self.here();
        let arguments = vec![
            session.into(),
            mechanism.memory().into(),
            self.handle(process, by)?.into(),
            Memory::of(blob).into(),
            (blob.len() as u64).into(),
            template(&whole).into(),
            (whole.len() as u64).into(),
            Memory::room(8).into(),
        ];
        let arguments = called(ck, "C_UnwrapKey", arguments)?;
        Ok(self.key(class, label, process, arguments[7].memory().word_at(0)))
    }

    /// C_UnwrapKey by no key, of a template as it is.
    pub fn unwrap_raw(
        &self,
        mechanism: u64,
        blob: &[u8],
        class: u64,
        attributes: &[Attribute],
    ) -> Step<Key> {
        self.needs(mechanism, CKF_UNWRAP)?;
        let (label, whole) = self.named(attributes);
        let (process, ck, session) = self.here();
        let made = said("C_UnwrapKey", ck.unwrap(session, mechanism, 0, blob, &whole))?;
        Ok(self.key(class, label, process, made))
    }

    /// C_UnwrapKey of an AES key with these letters alone.
    pub fn unwrap_aes(
        &self,
        mechanism: impl Into<Mechanism>,
        by: &Key,
        blob: &[u8],
        given: &str,
    ) -> Step<Key> {
        let roles: Vec<_> = given.chars().map(|name| flag(letter(name), true)).collect();
        self.unwrap(mechanism, by, blob, (CKO_SECRET_KEY, CKK_AES), &roles)
    }

    // ---- secret keys that wrap, either way

    /// A key that a secret key wraps.
    pub fn wrap_by(&self, by: &Key, key: &Key) -> Step<Wrapped> {
        if self.way != Way::Plain {
            return self.wrap_under(by, key, None);
        }
        self.wrapped.set(true);
        let bytes = self.wrap(CKM_AES_KEY_WRAP_KWP, by, key)?;
        Ok(Wrapped { mechanism: CKM_AES_KEY_WRAP_KWP, nonce: Vec::new(), bytes })
    }

    /// The same by a mechanism with a nonce: with this one, or one that the token makes.
    pub fn wrap_under(&self, by: &Key, key: &Key, nonce: Option<&[u8]>) -> Step<Wrapped> {
        self.wrapped.set(true);
        let Way::Authenticated(mechanism) = self.way else {
            return self.wrap_message(CKM_AES_GCM, by, key, nonce);
        };
        self.needs(mechanism, CKF_WRAP)?;
        let mut message = message_of(mechanism, nonce);
        let (process, ck, session) = self.here();
        let (by, key) = (self.handle(process, by)?, self.handle(process, key)?);
        let bytes = ck.wrap_authenticated(session, &mut message, b"", by, key);
        let mut bytes = said("C_WrapKeyAuthenticated", bytes)?;
        bytes.extend_from_slice(&message.tag);
        Ok(Wrapped { mechanism, nonce: message.nonce, bytes })
    }

    /// C_WrapKey by a mechanism with a nonce, whichever way keys go else.
    pub fn wrap_message(
        &self,
        mechanism: u64,
        by: &Key,
        key: &Key,
        nonce: Option<&[u8]>,
    ) -> Step<Wrapped> {
        self.needs(mechanism, CKF_WRAP)?;
        let mut message = message_of(mechanism, nonce);
        let (process, ck, session) = self.here();
        let (by, key) = (self.handle(process, by)?, self.handle(process, key)?);
        let bytes = said("C_WrapKey", ck.wrap_message(session, &mut message, b"", by, key))?;
        Ok(Wrapped { mechanism, nonce: message.nonce, bytes })
    }

    /// The key that is in it.
    pub fn unwrap_by(
        &self,
        by: &Key,
        wrapped: &Wrapped,
        kind: (u64, u64),
        attributes: &[Attribute],
    ) -> Step<Key> {
        self.unwrap_said(by, wrapped, b"", kind, attributes)
    }

    /// The same, with additional data that nobody gave when it was wrapped.
    pub fn unwrap_said(
        &self,
        by: &Key,
        wrapped: &Wrapped,
        additional: &[u8],
        (class, key_type): (u64, u64),
        attributes: &[Attribute],
    ) -> Step<Key> {
        self.wrapped.set(true);
        let message = wrapped.message();
        if !wrapped.authenticates() {
            return self.unwrap(
                wrapped.mechanism,
                by,
                &wrapped.bytes,
                (class, key_type),
                attributes,
            );
        }
        if self.way == Way::Plain {
            let mechanism = message.wrapping(additional);
            return self.unwrap(mechanism, by, &wrapped.bytes, (class, key_type), attributes);
        }
        self.needs(wrapped.mechanism, CKF_UNWRAP)?;
        let own = [number(CKA_CLASS, class), number(CKA_KEY_TYPE, key_type)];
        let (label, whole) = self.named(&[&own[..], attributes].concat());
        let (process, ck, session) = self.here();
        let (by, key) = (self.handle(process, by)?, wrapped.key());
        let made = ck.unwrap_authenticated(session, &message, additional, by, key, &whole);
        Ok(self.key(class, label, process, said("C_UnwrapKeyAuthenticated", made)?))
    }

    /// As [`Attacker::unwrap_by`], an AES key with these letters alone.
    pub fn unwrap_aes_by(&self, by: &Key, wrapped: &Wrapped, given: &str) -> Step<Key> {
        let roles: Vec<_> = given.chars().map(|name| flag(letter(name), true)).collect();
        self.unwrap_by(by, wrapped, (CKO_SECRET_KEY, CKK_AES), &roles)
    }

    /// What is left of a wrapping where the key decrypts as well.
    pub fn undone(&self, by: &Key, wrapped: &Wrapped) -> Step<Vec<u8>> {
        if wrapped.authenticates() {
            return self.decrypt(wrapped.as_stream(), by, wrapped.key());
        }
        rfc3394_open(&wrapped.bytes, |block| self.decrypt(CKM_AES_ECB, by, block))
    }

    /// The same by C_Decrypt with the mechanism that wrapped it.
    pub fn decrypted(&self, by: &Key, wrapped: &Wrapped) -> Step<Vec<u8>> {
        self.decrypt(wrapped.as_data(), by, &wrapped.bytes)
    }

    /// Something to unwrap, with this inside, where the key encrypts as well.
    pub fn forged(&self, by: &Key, value: &[u8]) -> Step<Wrapped> {
        self.wrapped.set(true);
        let Way::Authenticated(mechanism) = self.way else {
            let bytes = rfc3394_close(value, |block| self.encrypt(CKM_AES_ECB, by, block))?;
            return Ok(Wrapped { mechanism: CKM_AES_KEY_WRAP, nonce: Vec::new(), bytes });
        };
        let (nonce, bytes) = (NONCE.to_vec(), [value, &[0; TAG]].concat());
        let mut forged = Wrapped { mechanism, nonce, bytes };
        forged.bytes = self.encrypt(forged.as_data(), by, value)?;
        Ok(forged)
    }

    /// The same for who knows the key.
    pub fn forged_outside(&self, by: &[u8], value: &[u8]) -> Wrapped {
        self.wrapped.set(true);
        let Way::Authenticated(mechanism) = self.way else {
            let bytes = if value.len() % 8 == 0 && value.len() < 1 << 12 {
                Some((CKM_AES_KEY_WRAP, closed(by, value)))
            } else {
                let bytes = openssl::aes("WRAP-PAD", true, false, by, &[], value);
                bytes.map(|bytes| (CKM_AES_KEY_WRAP_KWP, bytes))
            };
            let (mechanism, bytes) = bytes.expect("OpenSSL wraps");
            return Wrapped { mechanism, nonce: Vec::new(), bytes };
        };
        let mode = if mechanism == CKM_AES_CCM { "CCM" } else { "GCM" };
        let bytes = openssl::aead(mode, true, by, &NONCE, b"", TAG, value);
        Wrapped { mechanism, nonce: NONCE.to_vec(), bytes: bytes.expect("OpenSSL encrypts") }
    }

    /// C_DeriveKey of a secret key of this type.
    pub fn derive(
        &self,
        mechanism: impl Into<Mechanism>,
        base: &Key,
        key_type: u64,
        attributes: &[Attribute],
    ) -> Step<Key> {
        let own = [number(CKA_CLASS, CKO_SECRET_KEY), number(CKA_KEY_TYPE, key_type)];
        self.derive_of(mechanism, base, CKO_SECRET_KEY, &[&own[..], attributes].concat())
    }

    /// C_DeriveKey of a template as it is.
    pub fn derive_of(
        &self,
        mechanism: impl Into<Mechanism>,
        base: &Key,
        class: u64,
        attributes: &[Attribute],
    ) -> Step<Key> {
        let (label, whole) = self.named(attributes);
        let mechanism = mechanism.into();
        self.needs(mechanism.kind, CKF_DERIVE)?;
        let (process, ck, session) = self.here();
        let handle = self.handle(process, base)?;
        let derived = said("C_DeriveKey", ck.derive(session, mechanism, handle, &whole))?;
        Ok(self.key(class, label, process, derived))
    }

    /// C_DeriveKey with a mechanism that names a second key by its handle.
    pub fn derive_with(
        &self,
        second: &Key,
        mechanism: impl FnOnce(u64) -> Mechanism,
        base: &Key,
        attributes: &[Attribute],
    ) -> Step<Key> {
        let (label, whole) = self.named(attributes);
        let (process, ck, session) = self.here();
        let mechanism = mechanism(self.handle(process, second)?);
        self.needs(mechanism.kind, CKF_DERIVE)?;
        let handle = self.handle(process, base)?;
        let derived = said("C_DeriveKey", ck.derive(session, mechanism, handle, &whole))?;
        Ok(self.key(CKO_SECRET_KEY, label, process, derived))
    }

    /// SHA-256 of a key's value by C_DigestKey.
    pub fn digest_of(&self, key: &Key) -> Step<Vec<u8>> {
        let (process, ck, session) = self.here();
        let handle = self.handle(process, key)?;
        said("C_DigestInit", ck.digest_init(session, CKM_SHA256))?;
        let digested = said("C_DigestKey", ck.digest_key(session, handle));
        let digest = said("C_DigestFinal", ck.digest_final(session));
        digested?;
        digest
    }

    /// A call of any function: in the process whose turn it is, or where the keys are to be known.
    pub fn raw(
        &self,
        function: &str,
        keys: &[&Key],
        arguments: impl FnOnce(u64, &[u64]) -> Vec<Argument>,
    ) -> Step<Vec<Argument>> {
        let (process, ck, session) = self.here();
        let handles: Vec<u64> =
            keys.iter().map(|key| self.handle(process, key)).collect::<Step<_>>()?;
        called(ck, function, arguments(session, &handles))
    }
}

fn called(ck: &Ck, function: &str, arguments: Vec<Argument>) -> Step<Vec<Argument>> {
    match ck.raw(function, arguments) {
        (CKR_OK, arguments) => Ok(arguments),
        (rv, _) => said(function, Err(Rv(rv))),
    }
}

/// A message with this nonce, or with one that the token makes.
fn message_of(mechanism: u64, nonce: Option<&[u8]>) -> Message {
    let mut message = Message::new(mechanism, nonce.unwrap_or(&NONCE), TAG, 0);
    if nonce.is_none() {
        message.generator = CKG_GENERATE;
    }
    message
}

/// An answer as a step of an attack.
pub fn said<T>(function: &str, answer: Answer<T>) -> Step<T> {
    answer.map_err(|rv| match rv.0 {
        CKR_FUNCTION_NOT_SUPPORTED => Stop::NotOffered(function.to_owned()),
        _ => Stop::Refused(function.to_owned(), rv),
    })
}

// ---- what attackers can compute for themselves

/// An RSA pair of the attacker's, of 2048 bits.
pub fn outsider() -> &'static openssl::Key {
    static KEY: OnceLock<openssl::Key> = OnceLock::new();
    KEY.get_or_init(|| openssl::Key::generate("RSA", &["rsa_keygen_bits:2048"]))
}

/// RFC 3394 §2.2.2 with any way to decrypt a block; the integrity value is not looked at, so that it does
/// for RFC 5649, too.
pub fn rfc3394_open(
    blob: &[u8],
    mut block: impl FnMut(&[u8; 16]) -> Step<Vec<u8>>,
) -> Step<Vec<u8>> {
    let count = blob.len() / 8 - 1;
    let mut whole = blob.to_vec();
    for step in (1..=6 * count).rev() {
        let at = 8 * ((step - 1) % count + 1);
        let counter = (step as u64).to_be_bytes();
        let mut input = [0; 16];
        for (index, byte) in input[..8].iter_mut().enumerate() {
            *byte = whole[index] ^ counter[index];
        }
        input[8..].copy_from_slice(&whole[at..at + 8]);
        let output = block(&input)?;
        whole[..8].copy_from_slice(&output[..8]);
        whole[at..at + 8].copy_from_slice(&output[8..16]);
    }
    Ok(whole[8..].to_vec())
}

/// RFC 3394 §2.2.1 with any way to encrypt a block.
pub fn rfc3394_close(
    value: &[u8],
    mut block: impl FnMut(&[u8; 16]) -> Step<Vec<u8>>,
) -> Step<Vec<u8>> {
    let count = value.len() / 8;
    let mut whole = [&[0xA6; 8], value].concat();
    for step in 1..=6 * count {
        let at = 8 * ((step - 1) % count + 1);
        let mut input = [0; 16];
        input[..8].copy_from_slice(&whole[..8]);
        input[8..].copy_from_slice(&whole[at..at + 8]);
        let output = block(&input)?;
        for (index, byte) in (step as u64).to_be_bytes().iter().enumerate() {
            whole[index] = output[index] ^ byte;
        }
        whole[at..at + 8].copy_from_slice(&output[8..16]);
    }
    Ok(whole)
}

/// The same under a key that the attacker knows.
pub fn opened(key: &[u8], blob: &[u8]) -> Vec<u8> {
    let block = |block: &[u8; 16]| {
        let plain = openssl::aes("ECB", false, false, key, &[], block);
        Ok(plain.expect("one block"))
    };
    rfc3394_open(blob, block).expect("nobody refuses")
}

/// As [`opened`], the other way.
pub fn closed(key: &[u8], value: &[u8]) -> Vec<u8> {
    rfc3394_close(value, |block| Ok(openssl::aes_ecb(key, block).to_vec())).expect("nobody refuses")
}

/// Two strings added bit by bit.
pub fn xor(one: &[u8], other: &[u8]) -> Vec<u8> {
    one.iter().zip(other).map(|(one, other)| one ^ other).collect()
}
