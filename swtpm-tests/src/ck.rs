//! PKCS#11 as a test wants to write it: one method per C function, `Err` with the CK_RV as it came.
//!
//! Nothing is checked or mended on the way. What a method cannot express, [`Ck::raw`] can.

#![allow(unsafe_code)] // Structures are read out of bytes.

use std::fmt;
use std::sync::Arc;

use cryptoki_sys::*;

use crate::door::{Argument, Call, Library, Memory};

/// Whatever makes calls: a library in this process, or an application.
pub trait Door: Send + Sync + fmt::Debug {
    /// Makes the call; the memory of its arguments is then what the function left there.
    fn call(&self, call: &mut Call) -> u64;
}

impl Door for Library {
    fn call(&self, call: &mut Call) -> u64 {
        Library::call(self, call)
    }
}

/// A CK_RV that is not CKR_OK.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rv(pub u64);

impl fmt::Debug for Rv {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(code, _)| *code == self.0) {
            Some((_, name)) => out.write_str(name),
            None => write!(out, "CK_RV {:#x}", self.0),
        }
    }
}

impl PartialEq<u64> for Rv {
    fn eq(&self, other: &u64) -> bool {
        self.0 == *other
    }
}

macro_rules! names {
    ($($name:ident)*) => { &[$(($name, stringify!($name))),*] };
}

static NAMES: &[(u64, &str)] = names![
    CKR_CANCEL CKR_HOST_MEMORY CKR_SLOT_ID_INVALID CKR_GENERAL_ERROR CKR_FUNCTION_FAILED
    CKR_ARGUMENTS_BAD CKR_NEED_TO_CREATE_THREADS CKR_CANT_LOCK CKR_ATTRIBUTE_READ_ONLY
    CKR_ATTRIBUTE_SENSITIVE CKR_ATTRIBUTE_TYPE_INVALID CKR_ATTRIBUTE_VALUE_INVALID
    CKR_ACTION_PROHIBITED CKR_DATA_INVALID CKR_DATA_LEN_RANGE CKR_DEVICE_ERROR CKR_DEVICE_MEMORY
    CKR_DEVICE_REMOVED CKR_ENCRYPTED_DATA_INVALID CKR_ENCRYPTED_DATA_LEN_RANGE
    CKR_FUNCTION_CANCELED CKR_FUNCTION_NOT_SUPPORTED CKR_KEY_HANDLE_INVALID CKR_KEY_SIZE_RANGE
    CKR_KEY_TYPE_INCONSISTENT CKR_KEY_FUNCTION_NOT_PERMITTED CKR_KEY_NOT_WRAPPABLE
    CKR_KEY_UNEXTRACTABLE CKR_MECHANISM_INVALID CKR_MECHANISM_PARAM_INVALID
    CKR_OBJECT_HANDLE_INVALID CKR_OPERATION_ACTIVE CKR_OPERATION_NOT_INITIALIZED CKR_PIN_INCORRECT
    CKR_PIN_INVALID CKR_PIN_LEN_RANGE CKR_PIN_EXPIRED CKR_PIN_LOCKED CKR_SESSION_CLOSED
    CKR_SESSION_COUNT CKR_SESSION_HANDLE_INVALID CKR_SESSION_PARALLEL_NOT_SUPPORTED
    CKR_SESSION_READ_ONLY CKR_SESSION_EXISTS CKR_SESSION_READ_ONLY_EXISTS
    CKR_SESSION_READ_WRITE_SO_EXISTS CKR_SIGNATURE_INVALID CKR_SIGNATURE_LEN_RANGE
    CKR_TEMPLATE_INCOMPLETE CKR_TEMPLATE_INCONSISTENT CKR_TOKEN_NOT_PRESENT
    CKR_TOKEN_NOT_RECOGNIZED CKR_TOKEN_WRITE_PROTECTED CKR_USER_ALREADY_LOGGED_IN
    CKR_USER_NOT_LOGGED_IN CKR_USER_PIN_NOT_INITIALIZED CKR_USER_TYPE_INVALID
    CKR_USER_ANOTHER_ALREADY_LOGGED_IN CKR_USER_TOO_MANY_TYPES CKR_DOMAIN_PARAMS_INVALID
    CKR_CURVE_NOT_SUPPORTED CKR_BUFFER_TOO_SMALL CKR_CRYPTOKI_NOT_INITIALIZED
    CKR_CRYPTOKI_ALREADY_INITIALIZED CKR_MUTEX_BAD CKR_FUNCTION_REJECTED CKR_RANDOM_NO_RNG
    CKR_RANDOM_SEED_NOT_SUPPORTED CKR_STATE_UNSAVEABLE CKR_INFORMATION_SENSITIVE CKR_KEY_INDIGESTIBLE
    CKR_WRAPPED_KEY_INVALID CKR_WRAPPED_KEY_LEN_RANGE CKR_WRAPPING_KEY_HANDLE_INVALID
    CKR_WRAPPING_KEY_SIZE_RANGE CKR_WRAPPING_KEY_TYPE_INCONSISTENT CKR_UNWRAPPING_KEY_HANDLE_INVALID
    CKR_UNWRAPPING_KEY_SIZE_RANGE CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT CKR_SAVED_STATE_INVALID
];

/// What calls return.
pub type Answer<T> = Result<T, Rv>;

/// An attribute of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// CKA_x
    pub kind: u64,
    /// The value as it lies in memory.
    pub value: Vec<u8>,
    /// Of CKA_x_TEMPLATE: the template that it points to instead.
    pub prescribed: Vec<Attribute>,
}

/// CK_TRUE or CK_FALSE.
pub fn flag(kind: u64, value: bool) -> Attribute {
    bytes(kind, [u8::from(value)])
}

/// One CK_ULONG.
pub fn number(kind: u64, value: u64) -> Attribute {
    bytes(kind, value.to_ne_bytes())
}

/// Bytes.
pub fn bytes(kind: u64, value: impl Into<Vec<u8>>) -> Attribute {
    Attribute { kind, value: value.into(), prescribed: Vec::new() }
}

/// CKA_x_TEMPLATE
pub fn prescribes(kind: u64, prescribed: &[Attribute]) -> Attribute {
    Attribute { kind, value: Vec::new(), prescribed: prescribed.to_vec() }
}

/// CKA_TPM11_RESIDENCE
pub const CKA_TPM11_RESIDENCE: u64 = CKA_VENDOR_DEFINED | 0x5450_4D01;

/// Of a key that may be read.
pub fn open() -> [Attribute; 2] {
    [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)]
}

/// Of a sensitive key that may leave.
pub fn guarded() -> [Attribute; 2] {
    [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, true)]
}

/// Of a key that lives in the TPM alone.
pub fn hidden() -> [Attribute; 2] {
    [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)]
}

/// DER of the named curve's object identifier, for CKA_EC_PARAMS.
pub const P256: &[u8] = &[0x06, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7];
/// As [`P256`].
pub const P384: &[u8] = &[0x06, 5, 0x2B, 0x81, 4, 0, 0x22];
/// As [`P256`].
pub const P521: &[u8] = &[0x06, 5, 0x2B, 0x81, 4, 0, 0x23];

/// A mechanism and its parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mechanism {
    /// CKM_x
    pub kind: u64,
    /// What pParameter points to.
    pub parameter: Option<Memory>,
}

/// The parameter of one message: CK_GCM_MESSAGE_PARAMS or CK_CCM_MESSAGE_PARAMS. Nonce and tag become
/// what the module makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// CKM_AES_GCM or CKM_AES_CCM
    pub kind: u64,
    /// pIv, pNonce
    pub nonce: Vec<u8>,
    /// ulIvFixedBits, ulNonceFixedBits
    pub fixed_bits: u64,
    /// CKG_x
    pub generator: u64,
    /// pTag, pMAC
    pub tag: Vec<u8>,
    /// ulDataLen of CCM
    pub length: u64,
}

impl Message {
    /// One with a nonce of its own and room for a tag.
    pub fn new(kind: u64, nonce: &[u8], tag: usize, length: usize) -> Message {
        Message {
            kind,
            nonce: nonce.to_vec(),
            fixed_bits: 0,
            generator: CKG_NO_GENERATE,
            tag: vec![0; tag],
            length: length as u64,
        }
    }

    /// As the functions take it: pointer and length.
    pub fn arguments(&self) -> [Argument; 2] {
        let ccm = self.kind == CKM_AES_CCM;
        let mut memory = Memory::default();
        if ccm {
            memory.push_word(self.length);
        }
        memory.push_pointer(Memory::of(&self.nonce[..]));
        memory.push_word(self.nonce.len() as u64);
        memory.push_word(self.fixed_bits);
        memory.push_word(self.generator);
        memory.push_pointer(Memory::of(&self.tag[..]));
        memory.push_word(self.tag.len() as u64 * if ccm { 1 } else { 8 });
        let length = memory.bytes.len() as u64;
        [memory.into(), length.into()]
    }

    /// As C_WrapKey and C_UnwrapKey take it: CK_GCM_WRAP_PARAMS or CK_CCM_WRAP_PARAMS, the tag behind the key.
    pub fn wrapping(&self, additional: &[u8]) -> Mechanism {
        let ccm = self.kind == CKM_AES_CCM;
        let mut memory = Memory::default();
        if ccm {
            memory.push_word(self.length);
        }
        memory.push_pointer(Memory::of(&self.nonce[..]));
        memory.push_word(self.nonce.len() as u64);
        memory.push_word(self.fixed_bits);
        memory.push_word(self.generator);
        memory.push_bytes(additional);
        memory.push_word(self.tag.len() as u64 * if ccm { 1 } else { 8 });
        Mechanism::with(self.kind, memory)
    }

    /// As C_WrapKeyAuthenticated and C_UnwrapKeyAuthenticated take it.
    pub fn mechanism(&self) -> Mechanism {
        let [memory, _] = self.arguments();
        Mechanism::with(self.kind, memory.memory().clone())
    }

    /// What the function left in them.
    pub fn learn(&mut self, argument: &Argument) {
        let pointers = &argument.memory().pointers;
        (self.nonce, self.tag) = (pointers[0].1.bytes.clone(), pointers[1].1.bytes.clone());
    }
}

impl From<u64> for Mechanism {
    fn from(kind: u64) -> Mechanism {
        Mechanism { kind, parameter: None }
    }
}

/// The salt in CK_HKDF_PARAMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Salt<'a> {
    /// CKF_HKDF_SALT_NULL
    Zeros,
    /// CKF_HKDF_SALT_DATA
    Data(&'a [u8]),
    /// CKF_HKDF_SALT_KEY
    Key(u64),
}

impl Mechanism {
    /// A mechanism with a parameter.
    pub fn with(kind: u64, parameter: Memory) -> Mechanism {
        Mechanism { kind, parameter: Some(parameter) }
    }

    /// One whose parameter are plain bytes, as an IV is.
    pub fn bytes(kind: u64, parameter: &[u8]) -> Mechanism {
        Mechanism::with(kind, Memory::of(parameter))
    }

    /// AES in counter mode with CK_AES_CTR_PARAMS.
    pub fn counter(bits: u64, block: [u8; 16]) -> Mechanism {
        let mut parameter = Memory::word(bits);
        parameter.bytes.extend(block);
        Mechanism::with(CKM_AES_CTR, parameter)
    }

    /// AES-GCM, or GMAC, with CK_GCM_PARAMS.
    pub fn gcm(kind: u64, iv: &[u8], additional: &[u8], tag_bits: u64) -> Mechanism {
        let mut parameter = Memory::default();
        parameter.push_pointer(Memory::of(iv));
        parameter.push_word(iv.len() as u64);
        parameter.push_word(8 * iv.len() as u64);
        parameter.push_pointer(Memory::of(additional));
        parameter.push_word(additional.len() as u64);
        parameter.push_word(tag_bits);
        Mechanism::with(kind, parameter)
    }

    /// AES-CCM with CK_CCM_PARAMS for so many bytes of plaintext.
    pub fn ccm(length: u64, nonce: &[u8], additional: &[u8], mac: u64) -> Mechanism {
        let mut parameter = Memory::word(length);
        parameter.push_pointer(Memory::of(nonce));
        parameter.push_word(nonce.len() as u64);
        parameter.push_pointer(Memory::of(additional));
        parameter.push_word(additional.len() as u64);
        parameter.push_word(mac);
        Mechanism::with(CKM_AES_CCM, parameter)
    }

    /// One with CK_MAC_GENERAL_PARAMS.
    pub fn cut(kind: u64, length: u64) -> Mechanism {
        Mechanism::with(kind, Memory::word(length))
    }

    /// RSA PSS with CK_RSA_PKCS_PSS_PARAMS.
    pub fn pss(kind: u64, hash: u64, mgf: u64, salt: u64) -> Mechanism {
        let mut parameter = Memory::default();
        for word in [hash, mgf, salt] {
            parameter.push_word(word);
        }
        Mechanism::with(kind, parameter)
    }

    /// RSA OAEP with CK_RSA_PKCS_OAEP_PARAMS.
    pub fn oaep(hash: u64, mgf: u64, label: &[u8]) -> Mechanism {
        let mut parameter = Memory::default();
        for word in [hash, mgf, CKZ_DATA_SPECIFIED] {
            parameter.push_word(word);
        }
        if label.is_empty() {
            parameter.push_word(0);
        } else {
            parameter.push_pointer(Memory::of(label));
        }
        parameter.push_word(label.len() as u64);
        Mechanism::with(CKM_RSA_PKCS_OAEP, parameter)
    }

    /// CKM_RSA_AES_KEY_WRAP with CK_RSA_AES_KEY_WRAP_PARAMS and no label.
    pub fn rsa_aes(bits: u64, hash: u64, mgf: u64) -> Mechanism {
        let mut parameter = Memory::word(bits);
        let oaep = Mechanism::oaep(hash, mgf, b"").parameter;
        parameter.push_pointer(oaep.expect("OAEP has parameters"));
        Mechanism::with(CKM_RSA_AES_KEY_WRAP, parameter)
    }

    /// CKM_ECDH1_DERIVE with CK_ECDH1_DERIVE_PARAMS.
    pub fn ecdh(kdf: u64, shared: &[u8], public: &[u8]) -> Mechanism {
        let mut parameter = Memory::default();
        parameter.push_word(kdf);
        parameter.push_word(shared.len() as u64);
        if shared.is_empty() {
            parameter.push_word(0);
        } else {
            parameter.push_pointer(Memory::of(shared));
        }
        parameter.push_word(public.len() as u64);
        parameter.push_pointer(Memory::of(public));
        Mechanism::with(CKM_ECDH1_DERIVE, parameter)
    }

    /// CKM_HKDF_DERIVE or CKM_HKDF_DATA with CK_HKDF_PARAMS.
    pub fn hkdf(kind: u64, hash: u64, salt: Option<Salt<'_>>, info: Option<&[u8]>) -> Mechanism {
        let mut parameter =
            Memory::of([u8::from(salt.is_some()), u8::from(info.is_some()), 0, 0, 0, 0, 0, 0]);
        let (how, data, key) = match salt {
            None | Some(Salt::Zeros) => (CKF_HKDF_SALT_NULL, None, 0),
            Some(Salt::Data(data)) => (CKF_HKDF_SALT_DATA, Some(data), 0),
            Some(Salt::Key(key)) => (CKF_HKDF_SALT_KEY, None, key),
        };
        parameter.push_word(hash);
        parameter.push_word(how);
        parameter.push_bytes(data.unwrap_or_default());
        parameter.push_word(key);
        parameter.push_bytes(info.unwrap_or_default());
        Mechanism::with(kind, parameter)
    }

    /// A function of SP 800-108 with its structure; `initial` is the feedback mode's pIV, and for each of
    /// `additional` keys there is a phKey in the memory at `pointers` of the structure's last pointer.
    pub fn sp800(
        kind: u64,
        prf: u64,
        fields: &[(u64, Memory)],
        initial: &[u8],
        additional: &[&[Attribute]],
    ) -> Mechanism {
        let mut array = Memory::default();
        for (kind, value) in fields {
            array.push_word(*kind);
            if value.bytes.is_empty() {
                array.push_word(0);
            } else {
                array.push_pointer(value.clone());
            }
            array.push_word(value.bytes.len() as u64);
        }
        let mut keys = Memory::default();
        for attributes in additional {
            keys.push_pointer(template(attributes));
            keys.push_word(attributes.len() as u64);
            keys.push_pointer(Memory::room(8));
        }
        let mut parameter = Memory::word(prf);
        parameter.push_word(fields.len() as u64);
        parameter.push_pointer(array);
        if kind == CKM_SP800_108_FEEDBACK_KDF {
            parameter.push_word(initial.len() as u64);
            if initial.is_empty() {
                parameter.push_word(0);
            } else {
                parameter.push_pointer(Memory::of(initial));
            }
        }
        parameter.push_word(additional.len() as u64);
        if additional.is_empty() {
            parameter.push_word(0);
        } else {
            parameter.push_pointer(keys);
        }
        Mechanism::with(kind, parameter)
    }

    /// Where a version goes, if it is asked.
    fn push_version(parameter: &mut Memory, asked: bool) {
        if asked {
            parameter.push_pointer(Memory::room(2));
        } else {
            parameter.push_word(0);
        }
    }

    /// CK_TLS12_MASTER_KEY_DERIVE_PARAMS; a version is at its last pointer.
    pub fn tls_master(kind: u64, hash: u64, randoms: [&[u8]; 2], version: bool) -> Mechanism {
        let mut parameter = Memory::default();
        randoms.iter().for_each(|random| parameter.push_bytes(random));
        Mechanism::push_version(&mut parameter, version);
        parameter.push_word(hash);
        Mechanism::with(kind, parameter)
    }

    /// CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS; a version is at its last pointer.
    pub fn tls_extended(kind: u64, hash: u64, session: &[u8], version: bool) -> Mechanism {
        let mut parameter = Memory::word(hash);
        parameter.push_bytes(session);
        Mechanism::push_version(&mut parameter, version);
        Mechanism::with(kind, parameter)
    }

    /// CK_TLS12_KEY_MAT_PARAMS with room for IVs of so many bytes in CK_SSL3_KEY_MAT_OUT, which is at its
    /// last pointer. The sizes of MACs, keys and IVs are in bits.
    pub fn tls_block(
        kind: u64,
        hash: u64,
        randoms: [&[u8]; 2],
        bits: [u64; 3],
        room: usize,
    ) -> Mechanism {
        let mut out = Memory::room(32);
        for _ in 0..2 {
            if room > 0 {
                out.push_pointer(Memory::room(room));
            } else {
                out.push_word(0);
            }
        }
        let mut parameter = Memory::default();
        bits.iter().for_each(|bits| parameter.push_word(*bits));
        parameter.push_word(0);
        randoms.iter().for_each(|random| parameter.push_bytes(random));
        parameter.push_pointer(out);
        parameter.push_word(hash);
        Mechanism::with(kind, parameter)
    }

    /// CK_TLS_KDF_PARAMS
    pub fn tls_export(
        kind: u64,
        hash: u64,
        label: &[u8],
        randoms: [&[u8]; 2],
        context: &[u8],
    ) -> Mechanism {
        let mut parameter = Memory::word(hash);
        parameter.push_bytes(label);
        randoms.iter().for_each(|random| parameter.push_bytes(random));
        parameter.push_bytes(context);
        Mechanism::with(kind, parameter)
    }

    /// CK_TLS_MAC_PARAMS: 1 is the server's, 2 the client's.
    pub fn tls_mac(kind: u64, hash: u64, length: u64, who: u64) -> Mechanism {
        let mut parameter = Memory::word(hash);
        parameter.push_word(length);
        parameter.push_word(who);
        Mechanism::with(kind, parameter)
    }

    /// CKM_PKCS5_PBKD2 with its structure.
    pub fn pbkdf2(prf: u64, password: &[u8], salt: &[u8], iterations: u64) -> Mechanism {
        let mut parameter = Memory::word(CKZ_SALT_SPECIFIED);
        parameter.push_bytes(salt);
        parameter.push_word(iterations);
        parameter.push_word(prf);
        parameter.push_word(0);
        parameter.push_word(0);
        parameter.push_bytes(password);
        Mechanism::with(CKM_PKCS5_PBKD2, parameter)
    }

    /// CK_KEY_DERIVATION_STRING_DATA, behind the IV of CK_AES_CBC_ENCRYPT_DATA_PARAMS where there is one.
    pub fn string(kind: u64, iv: &[u8], data: &[u8]) -> Mechanism {
        let mut parameter = Memory::of(iv);
        parameter.push_bytes(data);
        Mechanism::with(kind, parameter)
    }

    /// CK_MECHANISM.
    pub fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        memory.push_word(self.kind);
        match &self.parameter {
            Some(parameter) => {
                memory.push_pointer(parameter.clone());
                memory.push_word(parameter.bytes.len() as u64);
            }
            None => {
                memory.push_word(0);
                memory.push_word(0);
            }
        }
        memory
    }
}

/// A template as CK_ATTRIBUTE array.
pub fn template(attributes: &[Attribute]) -> Memory {
    let mut memory = Memory::default();
    for attribute in attributes {
        memory.push_word(attribute.kind);
        let value = match attribute.prescribed.is_empty() {
            true => Memory::of(attribute.value.clone()),
            false => template(&attribute.prescribed),
        };
        let length = value.bytes.len() as u64;
        if length == 0 {
            memory.push_word(0);
        } else {
            memory.push_pointer(value);
        }
        memory.push_word(length);
    }
    memory
}

fn template_arguments(attributes: &[Attribute]) -> [Argument; 2] {
    let memory = template(attributes);
    let pointer = if attributes.is_empty() { Argument::NULL } else { memory.into() };
    [pointer, Argument::Word(attributes.len() as u64)]
}

fn input(bytes: &[u8]) -> [Argument; 2] {
    [Memory::of(bytes).into(), Argument::Word(bytes.len() as u64)]
}

/// Room for so many bytes of output, and its length.
fn room(size: usize) -> [Argument; 2] {
    [Memory::room(size).into(), Memory::word(size as u64).into()]
}

/// What a function wrote into such room, with which these arguments begin.
fn output(arguments: &[Argument]) -> Vec<u8> {
    let length = arguments[1].memory().word_at(0) as usize;
    arguments[0].memory().bytes[..length].to_vec()
}

/// A PKCS#11 client of one thread of one process.
#[derive(Debug, Clone)]
pub struct Ck {
    door: Arc<dyn Door>,
}

impl Ck {
    /// A client on a door.
    pub fn new(door: Arc<dyn Door>) -> Ck {
        Ck { door }
    }

    /// What its calls go through.
    pub fn door(&self) -> Arc<dyn Door> {
        self.door.clone()
    }

    /// Any call: the CK_RV, and the arguments as the function left them.
    pub fn raw(&self, function: &str, arguments: Vec<Argument>) -> (u64, Vec<Argument>) {
        let mut call = Call { function: function.to_owned(), arguments };
        let rv = self.door.call(&mut call);
        (rv, call.arguments)
    }

    fn call(&self, function: &str, arguments: Vec<Argument>) -> Answer<Vec<Argument>> {
        match self.raw(function, arguments) {
            (CKR_OK, arguments) => Ok(arguments),
            (rv, _) => Err(Rv(rv)),
        }
    }

    /// A call whose last argument points to one CK_ULONG.
    fn word(&self, function: &str, mut arguments: Vec<Argument>) -> Answer<u64> {
        arguments.push(Memory::room(8).into());
        let arguments = self.call(function, arguments)?;
        Ok(arguments.last().expect("the one above").memory().word_at(0))
    }

    /// A call whose last argument points to a structure.
    fn structure<T: Copy>(&self, function: &str, mut arguments: Vec<Argument>) -> Answer<T> {
        arguments.push(Memory::room(size_of::<T>()).into());
        let arguments = self.call(function, arguments)?;
        let bytes = &arguments.last().expect("the one above").memory().bytes;
        assert_eq!(bytes.len(), size_of::<T>());
        // SAFETY: T is a plain structure of integers and bytes, and the lengths are equal.
        Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    /// A call whose last arguments are a buffer and its length: asks for the length, then for the
    /// bytes.
    fn output(&self, function: &str, arguments: Vec<Argument>) -> Answer<Vec<u8>> {
        let mut query = arguments.clone();
        query.push(Argument::NULL);
        let length = self.word(function, query)?;
        self.output_of(function, arguments, length as usize)
    }

    /// As [`Ck::output`], with a buffer of this many bytes and no question before.
    fn output_of(
        &self,
        function: &str,
        mut arguments: Vec<Argument>,
        size: usize,
    ) -> Answer<Vec<u8>> {
        let before = arguments.len();
        arguments.extend(room(size));
        Ok(output(&self.call(function, arguments)?[before..]))
    }

    // ---- general, slots, tokens

    /// C_Initialize(NULL).
    pub fn initialize(&self) -> Answer<()> {
        self.call("C_Initialize", vec![Argument::NULL]).map(drop)
    }

    /// C_Initialize with flags and no mutex functions.
    pub fn initialize_with(&self, flags: u64) -> Answer<()> {
        let mut arguments = Memory::of([0; 32]);
        arguments.push_word(flags);
        arguments.push_word(0);
        self.call("C_Initialize", vec![arguments.into()]).map(drop)
    }

    /// C_Finalize.
    pub fn finalize(&self) -> Answer<()> {
        self.call("C_Finalize", vec![Argument::NULL]).map(drop)
    }

    /// C_GetInfo.
    pub fn info(&self) -> Answer<CK_INFO> {
        self.structure("C_GetInfo", vec![])
    }

    /// C_GetSlotList.
    pub fn slots(&self, present: bool) -> Answer<Vec<u64>> {
        let present = Argument::Word(u64::from(present));
        let count = self.word("C_GetSlotList", vec![present.clone(), Argument::NULL])?;
        let room = Memory::room(8 * count as usize);
        let arguments = vec![present, room.into(), Memory::word(count).into()];
        let arguments = self.call("C_GetSlotList", arguments)?;
        let count = arguments[2].memory().word_at(0) as usize;
        Ok((0..count).map(|index| arguments[1].memory().word_at(8 * index)).collect())
    }

    /// C_GetSlotInfo.
    pub fn slot_info(&self, slot: u64) -> Answer<CK_SLOT_INFO> {
        self.structure("C_GetSlotInfo", vec![slot.into()])
    }

    /// C_GetTokenInfo.
    pub fn token_info(&self, slot: u64) -> Answer<CK_TOKEN_INFO> {
        self.structure("C_GetTokenInfo", vec![slot.into()])
    }

    /// The CKF_ flags of C_GetTokenInfo.
    pub fn token_flags(&self, slot: u64) -> Answer<u64> {
        self.token_info(slot).map(|info| info.flags)
    }

    /// The slot of the token with this label.
    pub fn slot_of(&self, label: &str) -> Option<u64> {
        self.slots(true).ok()?.into_iter().find(|slot| {
            self.token_info(*slot)
                .is_ok_and(|info| String::from_utf8_lossy(&info.label).trim_end() == label)
        })
    }

    /// The slot that C_InitToken takes.
    pub fn empty_slot(&self) -> Option<u64> {
        self.slots(true).ok()?.into_iter().find(|slot| {
            self.token_flags(*slot).is_ok_and(|flags| flags & CKF_TOKEN_INITIALIZED == 0)
        })
    }

    /// C_GetMechanismList.
    pub fn mechanisms(&self, slot: u64) -> Answer<Vec<u64>> {
        let count = self.word("C_GetMechanismList", vec![slot.into(), Argument::NULL])?;
        let room = Memory::room(8 * count as usize);
        let arguments = vec![slot.into(), room.into(), Memory::word(count).into()];
        let arguments = self.call("C_GetMechanismList", arguments)?;
        let count = arguments[2].memory().word_at(0) as usize;
        Ok((0..count).map(|index| arguments[1].memory().word_at(8 * index)).collect())
    }

    /// C_GetMechanismInfo.
    pub fn mechanism_info(&self, slot: u64, mechanism: u64) -> Answer<CK_MECHANISM_INFO> {
        self.structure("C_GetMechanismInfo", vec![slot.into(), mechanism.into()])
    }

    /// C_InitToken; the label is padded with blanks.
    pub fn init_token(&self, slot: u64, pin: &[u8], label: &str) -> Answer<()> {
        let mut arguments = vec![slot.into()];
        arguments.extend(input(pin));
        arguments.push(Memory::of(format!("{label:<32}").into_bytes()).into());
        self.call("C_InitToken", arguments).map(drop)
    }

    /// C_InitPIN.
    pub fn init_pin(&self, session: u64, pin: &[u8]) -> Answer<()> {
        let mut arguments = vec![session.into()];
        arguments.extend(input(pin));
        self.call("C_InitPIN", arguments).map(drop)
    }

    /// C_InitPIN(NULL, 0): no user PIN.
    pub fn init_no_pin(&self, session: u64) -> Answer<()> {
        self.call("C_InitPIN", vec![session.into(), Argument::NULL, 0.into()]).map(drop)
    }

    /// C_SetPIN.
    pub fn set_pin(&self, session: u64, old: &[u8], new: &[u8]) -> Answer<()> {
        let mut arguments = vec![session.into()];
        arguments.extend(input(old));
        arguments.extend(input(new));
        self.call("C_SetPIN", arguments).map(drop)
    }

    // ---- sessions

    /// C_OpenSession, CKF_SERIAL_SESSION added to the flags.
    pub fn open_session(&self, slot: u64, flags: u64) -> Answer<u64> {
        let flags = flags | CKF_SERIAL_SESSION;
        self.word("C_OpenSession", vec![slot.into(), flags.into(), Argument::NULL, Argument::NULL])
    }

    /// A read-write session.
    pub fn open(&self, slot: u64) -> Answer<u64> {
        self.open_session(slot, CKF_RW_SESSION)
    }

    /// C_CloseSession.
    pub fn close_session(&self, session: u64) -> Answer<()> {
        self.call("C_CloseSession", vec![session.into()]).map(drop)
    }

    /// C_CloseAllSessions.
    pub fn close_all_sessions(&self, slot: u64) -> Answer<()> {
        self.call("C_CloseAllSessions", vec![slot.into()]).map(drop)
    }

    /// C_GetSessionInfo.
    pub fn session_info(&self, session: u64) -> Answer<CK_SESSION_INFO> {
        self.structure("C_GetSessionInfo", vec![session.into()])
    }

    /// C_Login.
    pub fn login_as(&self, session: u64, user: u64, pin: &[u8]) -> Answer<()> {
        let mut arguments = vec![session.into(), user.into()];
        arguments.extend(input(pin));
        self.call("C_Login", arguments).map(drop)
    }

    /// C_Login(CKU_USER).
    pub fn login(&self, session: u64, pin: &[u8]) -> Answer<()> {
        self.login_as(session, CKU_USER, pin)
    }

    /// C_Login(CKU_SO).
    pub fn login_so(&self, session: u64, pin: &[u8]) -> Answer<()> {
        self.login_as(session, CKU_SO, pin)
    }

    /// C_Logout.
    pub fn logout(&self, session: u64) -> Answer<()> {
        self.call("C_Logout", vec![session.into()]).map(drop)
    }

    // ---- objects

    /// C_CreateObject.
    pub fn create_object(&self, session: u64, attributes: &[Attribute]) -> Answer<u64> {
        let mut arguments = vec![session.into()];
        arguments.extend(template_arguments(attributes));
        self.word("C_CreateObject", arguments)
    }

    /// C_CopyObject.
    pub fn copy_object(&self, session: u64, object: u64, attributes: &[Attribute]) -> Answer<u64> {
        let mut arguments = vec![session.into(), object.into()];
        arguments.extend(template_arguments(attributes));
        self.word("C_CopyObject", arguments)
    }

    /// C_DestroyObject.
    pub fn destroy_object(&self, session: u64, object: u64) -> Answer<()> {
        self.call("C_DestroyObject", vec![session.into(), object.into()]).map(drop)
    }

    /// C_GetObjectSize.
    pub fn object_size(&self, session: u64, object: u64) -> Answer<u64> {
        self.word("C_GetObjectSize", vec![session.into(), object.into()])
    }

    /// C_GetAttributeValue twice, for lengths and for values. The CK_RV of the second call, and a
    /// value for each attribute that has one.
    pub fn attributes(
        &self,
        session: u64,
        object: u64,
        kinds: &[u64],
    ) -> (u64, Vec<Option<Vec<u8>>>) {
        const UNAVAILABLE: u64 = u64::MAX;
        let mut query = Memory::default();
        for kind in kinds {
            query.push_word(*kind);
            query.push_word(0);
            query.push_word(0);
        }
        let count = kinds.len() as u64;
        let arguments = vec![session.into(), object.into(), query.into(), count.into()];
        let (rv, arguments) = self.raw("C_GetAttributeValue", arguments);
        let partly =
            [CKR_OK, CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL];
        if !partly.contains(&rv) {
            return (rv, vec![None; kinds.len()]);
        }
        let mut wanted = Memory::default();
        for (index, kind) in kinds.iter().enumerate() {
            let length = arguments[2].memory().word_at(24 * index + 16);
            wanted.push_word(*kind);
            if length == UNAVAILABLE || length == 0 {
                wanted.push_word(0);
                wanted.push_word(0);
            } else {
                wanted.push_pointer(Memory::room(length as usize));
                wanted.push_word(length);
            }
        }
        let arguments = vec![session.into(), object.into(), wanted.into(), count.into()];
        let (rv, arguments) = self.raw("C_GetAttributeValue", arguments);
        let memory = arguments[2].memory();
        let values = (0..kinds.len())
            .map(|index| {
                let length = memory.word_at(24 * index + 16);
                let at = 24 * index + 8;
                let pointer = memory.pointers.iter().find(|(offset, _)| *offset == at);
                match (length, pointer) {
                    (UNAVAILABLE, _) => None,
                    (length, Some((_, value))) => Some(value.bytes[..length as usize].to_vec()),
                    (0, None) => Some(Vec::new()),
                    (_, None) => None,
                }
            })
            .collect();
        (rv, values)
    }

    /// One attribute.
    pub fn attribute(&self, session: u64, object: u64, kind: u64) -> Answer<Vec<u8>> {
        match self.attributes(session, object, &[kind]) {
            (CKR_OK, mut values) => Ok(values.remove(0).expect("CKR_OK means a value")),
            (rv, _) => Err(Rv(rv)),
        }
    }

    /// One attribute that is a CK_BBOOL.
    pub fn attribute_flag(&self, session: u64, object: u64, kind: u64) -> Answer<bool> {
        let value = self.attribute(session, object, kind)?;
        assert!(value == [0] || value == [1], "attribute {kind:#x} is {value:?}, no CK_BBOOL");
        Ok(value == [1])
    }

    /// C_SetAttributeValue.
    pub fn set_attributes(
        &self,
        session: u64,
        object: u64,
        attributes: &[Attribute],
    ) -> Answer<()> {
        let mut arguments = vec![session.into(), object.into()];
        arguments.extend(template_arguments(attributes));
        self.call("C_SetAttributeValue", arguments).map(drop)
    }

    /// C_FindObjectsInit, C_FindObjects until there are no more, C_FindObjectsFinal.
    pub fn find(&self, session: u64, attributes: &[Attribute]) -> Answer<Vec<u64>> {
        const AT_ONCE: u64 = 64;
        let mut arguments = vec![session.into()];
        arguments.extend(template_arguments(attributes));
        self.call("C_FindObjectsInit", arguments)?;
        let mut found = Vec::new();
        loop {
            let room = Memory::room(8 * AT_ONCE as usize);
            let arguments =
                vec![session.into(), room.into(), AT_ONCE.into(), Memory::room(8).into()];
            let arguments = self.call("C_FindObjects", arguments)?;
            let count = arguments[3].memory().word_at(0) as usize;
            found.extend((0..count).map(|index| arguments[1].memory().word_at(8 * index)));
            if count == 0 {
                break;
            }
        }
        self.call("C_FindObjectsFinal", vec![session.into()])?;
        Ok(found)
    }

    // ---- keys

    /// C_GenerateKey
    pub fn generate_key(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        attributes: &[Attribute],
    ) -> Answer<u64> {
        let mut arguments = vec![session.into(), mechanism.into().memory().into()];
        arguments.extend(template_arguments(attributes));
        arguments.push(Memory::room(8).into());
        let arguments = self.call("C_GenerateKey", arguments)?;
        Ok(arguments[4].memory().word_at(0))
    }

    /// C_GenerateKeyPair: public, private.
    pub fn generate_pair(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Answer<(u64, u64)> {
        let mut arguments = vec![session.into(), mechanism.into().memory().into()];
        arguments.extend(template_arguments(public));
        arguments.extend(template_arguments(private));
        arguments.push(Memory::room(8).into());
        arguments.push(Memory::room(8).into());
        let arguments = self.call("C_GenerateKeyPair", arguments)?;
        Ok((arguments[6].memory().word_at(0), arguments[7].memory().word_at(0)))
    }

    /// An EC pair on the token, with a label.
    pub fn generate_ec(&self, session: u64, curve: &[u8], label: &str) -> Answer<(u64, u64)> {
        self.generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, curve), flag(CKA_TOKEN, true), bytes(CKA_LABEL, label)],
            &[flag(CKA_TOKEN, true), bytes(CKA_LABEL, label)],
        )
    }

    /// An RSA pair on the token, with a label.
    pub fn generate_rsa(&self, session: u64, bits: u64, label: &str) -> Answer<(u64, u64)> {
        self.generate_pair(
            session,
            CKM_RSA_PKCS_KEY_PAIR_GEN,
            &[number(CKA_MODULUS_BITS, bits), flag(CKA_TOKEN, true), bytes(CKA_LABEL, label)],
            &[flag(CKA_TOKEN, true), bytes(CKA_LABEL, label)],
        )
    }

    /// C_DeriveKey.
    pub fn derive(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
        attributes: &[Attribute],
    ) -> Answer<u64> {
        let mut arguments = vec![session.into(), mechanism.into().memory().into(), key.into()];
        arguments.extend(template_arguments(attributes));
        self.word("C_DeriveKey", arguments)
    }

    /// C_DeriveKey whose parameter has places for what it gives: the key's handle (0 with NULL for phKey) and the
    /// parameter as the call left it.
    pub fn derive_into(
        &self,
        session: u64,
        mechanism: &Mechanism,
        key: u64,
        attributes: &[Attribute],
        place: bool,
    ) -> (Rv, u64, Memory) {
        let place = if place { Memory::room(8).into() } else { Argument::NULL };
        let mut arguments = vec![session.into(), mechanism.memory().into(), key.into()];
        arguments.extend(template_arguments(attributes));
        arguments.push(place);
        let (rv, arguments) = self.raw("C_DeriveKey", arguments);
        let parameter = arguments[1].memory().pointers[0].1.clone();
        let handle = match &arguments[5] {
            Argument::Memory(memory) if memory.bytes.len() >= 8 => memory.word_at(0),
            _ => 0,
        };
        (Rv(rv), handle, parameter)
    }

    /// C_WrapKey: asks for the length first.
    pub fn wrap(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        wrapping: u64,
        key: u64,
    ) -> Answer<Vec<u8>> {
        let mechanism = mechanism.into().memory();
        let arguments = vec![session.into(), mechanism.into(), wrapping.into(), key.into()];
        self.output("C_WrapKey", arguments)
    }

    /// C_UnwrapKey.
    pub fn unwrap(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        unwrapping: u64,
        wrapped: &[u8],
        attributes: &[Attribute],
    ) -> Answer<u64> {
        let mechanism = mechanism.into().memory();
        let mut arguments = vec![session.into(), mechanism.into(), unwrapping.into()];
        arguments.extend(input(wrapped));
        arguments.extend(template_arguments(attributes));
        self.word("C_UnwrapKey", arguments)
    }

    /// C_WrapKey of one message, with its additional data; the nonce that the module made is in `message`.
    pub fn wrap_message(
        &self,
        session: u64,
        message: &mut Message,
        additional: &[u8],
        wrapping: u64,
        key: u64,
    ) -> Answer<Vec<u8>> {
        let mechanism = message.wrapping(additional).memory();
        let mut arguments = vec![session.into(), mechanism.into(), wrapping.into(), key.into()];
        arguments.extend(room(4096));
        let after = self.call("C_WrapKey", arguments)?;
        message.nonce = after[1].memory().pointers[0].1.pointers[0].1.bytes.clone();
        Ok(output(&after[4..]))
    }

    /// C_WrapKeyAuthenticated; nonce and tag are in `message`.
    pub fn wrap_authenticated(
        &self,
        session: u64,
        message: &mut Message,
        additional: &[u8],
        wrapping: u64,
        key: u64,
    ) -> Answer<Vec<u8>> {
        let mechanism = message.mechanism().memory();
        let mut arguments = vec![session.into(), mechanism.into(), wrapping.into(), key.into()];
        arguments.extend(input(additional));
        arguments.extend(room(4096));
        let after = self.call("C_WrapKeyAuthenticated", arguments)?;
        message.learn(&after[1].memory().pointers[0].1.clone().into());
        Ok(output(&after[6..]))
    }

    /// C_UnwrapKeyAuthenticated.
    pub fn unwrap_authenticated(
        &self,
        session: u64,
        message: &Message,
        additional: &[u8],
        unwrapping: u64,
        wrapped: &[u8],
        attributes: &[Attribute],
    ) -> Answer<u64> {
        let mechanism = message.mechanism().memory();
        let mut arguments = vec![session.into(), mechanism.into(), unwrapping.into()];
        arguments.extend(input(wrapped));
        arguments.extend(template_arguments(attributes));
        arguments.extend(input(additional));
        self.word("C_UnwrapKeyAuthenticated", arguments)
    }

    // ---- operations

    fn init(
        &self,
        function: &str,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
    ) -> Answer<()> {
        let arguments = vec![session.into(), mechanism.into().memory().into(), key.into()];
        self.call(function, arguments).map(drop)
    }

    fn one_shot(&self, function: &str, session: u64, data: &[u8]) -> Answer<Vec<u8>> {
        let mut arguments = vec![session.into()];
        arguments.extend(input(data));
        self.output(function, arguments)
    }

    /// C_SignInit.
    pub fn sign_init(&self, session: u64, mechanism: impl Into<Mechanism>, key: u64) -> Answer<()> {
        self.init("C_SignInit", session, mechanism, key)
    }

    /// C_Sign with a buffer that is large enough, without asking for the length.
    pub fn sign_now(&self, session: u64, data: &[u8]) -> Answer<Vec<u8>> {
        let mut arguments = vec![session.into()];
        arguments.extend(input(data));
        self.output_of("C_Sign", arguments, 1024)
    }

    /// C_SignInit and C_Sign.
    pub fn sign(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
        data: &[u8],
    ) -> Answer<Vec<u8>> {
        self.sign_init(session, mechanism, key)?;
        self.sign_now(session, data)
    }

    /// C_SignUpdate.
    pub fn sign_update(&self, session: u64, data: &[u8]) -> Answer<()> {
        let mut arguments = vec![session.into()];
        arguments.extend(input(data));
        self.call("C_SignUpdate", arguments).map(drop)
    }

    /// C_SignFinal.
    pub fn sign_final(&self, session: u64) -> Answer<Vec<u8>> {
        self.output("C_SignFinal", vec![session.into()])
    }

    /// C_VerifyInit
    pub fn verify_init(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
    ) -> Answer<()> {
        self.init("C_VerifyInit", session, mechanism, key)
    }

    /// C_VerifyFinal
    pub fn verify_final(&self, session: u64, signature: &[u8]) -> Answer<()> {
        let mut arguments = vec![session.into()];
        arguments.extend(input(signature));
        self.call("C_VerifyFinal", arguments).map(drop)
    }

    /// C_VerifyInit, C_VerifyUpdate with each part, C_VerifyFinal.
    pub fn verify_parts<'a>(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
        parts: impl IntoIterator<Item = &'a [u8]>,
        signature: &[u8],
    ) -> Answer<()> {
        self.verify_init(session, mechanism, key)?;
        for part in parts {
            let mut arguments = vec![session.into()];
            arguments.extend(input(part));
            self.call("C_VerifyUpdate", arguments)?;
        }
        self.verify_final(session, signature)
    }

    /// C_VerifySignatureInit, and C_VerifySignature, or with parts of this size C_VerifySignatureUpdate and
    /// C_VerifySignatureFinal.
    pub fn verify_signature(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
        (data, size): (&[u8], Option<usize>),
        signature: &[u8],
    ) -> Answer<()> {
        let mut arguments = vec![session.into(), mechanism.into().memory().into(), key.into()];
        arguments.extend(input(signature));
        self.call("C_VerifySignatureInit", arguments)?;
        let with = |function, part| {
            let mut arguments = vec![session.into()];
            arguments.extend(input(part));
            self.call(function, arguments).map(drop)
        };
        let Some(size) = size else { return with("C_VerifySignature", data) };
        for part in data.chunks(size) {
            with("C_VerifySignatureUpdate", part)?;
        }
        self.call("C_VerifySignatureFinal", vec![session.into()]).map(drop)
    }

    /// C_VerifyInit and C_Verify.
    pub fn verify(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
        data: &[u8],
        signature: &[u8],
    ) -> Answer<()> {
        self.init("C_VerifyInit", session, mechanism, key)?;
        let mut arguments = vec![session.into()];
        arguments.extend(input(data));
        arguments.extend(input(signature));
        self.call("C_Verify", arguments).map(drop)
    }

    /// C_SignRecoverInit and C_SignRecover.
    pub fn sign_recover(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
        data: &[u8],
    ) -> Answer<Vec<u8>> {
        self.init("C_SignRecoverInit", session, mechanism, key)?;
        self.one_shot("C_SignRecover", session, data)
    }

    /// C_VerifyRecoverInit and C_VerifyRecover.
    pub fn verify_recover(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
        signature: &[u8],
    ) -> Answer<Vec<u8>> {
        self.init("C_VerifyRecoverInit", session, mechanism, key)?;
        self.one_shot("C_VerifyRecover", session, signature)
    }

    /// C_EncryptInit and C_Encrypt.
    pub fn encrypt(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
        data: &[u8],
    ) -> Answer<Vec<u8>> {
        self.init("C_EncryptInit", session, mechanism, key)?;
        self.one_shot("C_Encrypt", session, data)
    }

    /// C_EncryptInit.
    pub fn encrypt_init(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
    ) -> Answer<()> {
        self.init("C_EncryptInit", session, mechanism, key)
    }

    /// C_EncryptUpdate with each part, C_EncryptFinal; all that they gave. Lengths are asked for first.
    pub fn encrypt_parts<'a>(
        &self,
        session: u64,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Answer<Vec<u8>> {
        self.parts(session, "C_EncryptUpdate", "C_EncryptFinal", parts)
    }

    /// C_EncryptUpdate
    pub fn encrypt_update(&self, session: u64, part: &[u8]) -> Answer<Vec<u8>> {
        self.one_shot("C_EncryptUpdate", session, part)
    }

    /// As [`Ck::encrypt_parts`].
    pub fn decrypt_parts<'a>(
        &self,
        session: u64,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Answer<Vec<u8>> {
        self.parts(session, "C_DecryptUpdate", "C_DecryptFinal", parts)
    }

    fn parts<'a>(
        &self,
        session: u64,
        update: &str,
        last: &str,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Answer<Vec<u8>> {
        let mut whole = Vec::new();
        for part in parts {
            whole.extend(self.one_shot(update, session, part)?);
        }
        whole.extend(self.output(last, vec![session.into()])?);
        Ok(whole)
    }

    /// One of the functions that do two operations at once, with one part.
    pub fn both(&self, function: &str, session: u64, part: &[u8]) -> Answer<Vec<u8>> {
        self.one_shot(function, session, part)
    }

    /// C_DecryptInit.
    pub fn decrypt_init(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
    ) -> Answer<()> {
        self.init("C_DecryptInit", session, mechanism, key)
    }

    /// C_MessageEncryptInit, or without `encrypt` C_MessageDecryptInit.
    pub fn message_init(
        &self,
        session: u64,
        encrypt: bool,
        mechanism: impl Into<Mechanism>,
        key: u64,
    ) -> Answer<()> {
        let function = if encrypt { "C_MessageEncryptInit" } else { "C_MessageDecryptInit" };
        self.init(function, session, mechanism, key)
    }

    /// C_EncryptMessage or C_DecryptMessage, with a buffer that is large enough.
    pub fn message(
        &self,
        session: u64,
        encrypt: bool,
        message: &mut Message,
        additional: &[u8],
        data: &[u8],
    ) -> Answer<Vec<u8>> {
        let function = if encrypt { "C_EncryptMessage" } else { "C_DecryptMessage" };
        let rest = [input(additional), input(data), room(data.len())].concat();
        let after = self.of_message(function, session, message, rest)?;
        Ok(output(&after[7..]))
    }

    /// C_EncryptMessageBegin or C_DecryptMessageBegin.
    pub fn message_begin(
        &self,
        session: u64,
        encrypt: bool,
        message: &mut Message,
        additional: &[u8],
    ) -> Answer<()> {
        let function = if encrypt { "C_EncryptMessageBegin" } else { "C_DecryptMessageBegin" };
        self.of_message(function, session, message, input(additional).to_vec()).map(drop)
    }

    /// C_EncryptMessageNext or C_DecryptMessageNext, with so much room.
    pub fn message_next(
        &self,
        session: u64,
        encrypt: bool,
        message: &mut Message,
        part: &[u8],
        size: usize,
        last: bool,
    ) -> Answer<Vec<u8>> {
        let function = if encrypt { "C_EncryptMessageNext" } else { "C_DecryptMessageNext" };
        let end = if last { CKF_END_OF_MESSAGE } else { 0 };
        let rest = [&input(part)[..], &room(size), &[end.into()]].concat();
        let after = self.of_message(function, session, message, rest)?;
        Ok(output(&after[5..]))
    }

    /// A function of one message: session, the message's parameter, what else it takes. Nonce and tag are then
    /// what the function left there.
    fn of_message(
        &self,
        function: &str,
        session: u64,
        message: &mut Message,
        rest: Vec<Argument>,
    ) -> Answer<Vec<Argument>> {
        let arguments = [vec![session.into()], message.arguments().to_vec(), rest].concat();
        let after = self.call(function, arguments)?;
        message.learn(&after[1]);
        Ok(after)
    }

    /// A message in parts: Begin, Next with each, the last of them with its end.
    pub fn message_parts(
        &self,
        session: u64,
        encrypt: bool,
        message: &mut Message,
        additional: &[u8],
        parts: &[&[u8]],
    ) -> Answer<Vec<u8>> {
        self.message_begin(session, encrypt, message, additional)?;
        let room = parts.iter().map(|part| part.len()).sum();
        let mut whole = Vec::new();
        let (last, before) = parts.split_last().unwrap_or((&(&[] as &[u8]), &[]));
        for part in before {
            whole.extend(self.message_next(session, encrypt, message, part, room, false)?);
        }
        whole.extend(self.message_next(session, encrypt, message, last, room, true)?);
        Ok(whole)
    }

    /// C_MessageEncryptFinal or C_MessageDecryptFinal.
    pub fn message_final(&self, session: u64, encrypt: bool) -> Answer<()> {
        let function = if encrypt { "C_MessageEncryptFinal" } else { "C_MessageDecryptFinal" };
        self.call(function, vec![session.into()]).map(drop)
    }

    /// C_DecryptInit and C_Decrypt.
    pub fn decrypt(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        key: u64,
        data: &[u8],
    ) -> Answer<Vec<u8>> {
        self.decrypt_init(session, mechanism, key)?;
        self.one_shot("C_Decrypt", session, data)
    }

    /// C_DigestInit and C_Digest.
    pub fn digest(
        &self,
        session: u64,
        mechanism: impl Into<Mechanism>,
        data: &[u8],
    ) -> Answer<Vec<u8>> {
        let arguments = vec![session.into(), mechanism.into().memory().into()];
        self.call("C_DigestInit", arguments)?;
        self.one_shot("C_Digest", session, data)
    }

    /// C_DigestInit
    pub fn digest_init(&self, session: u64, mechanism: impl Into<Mechanism>) -> Answer<()> {
        let mechanism = mechanism.into().memory();
        self.call("C_DigestInit", vec![session.into(), mechanism.into()]).map(drop)
    }

    /// C_DigestUpdate
    pub fn digest_update(&self, session: u64, part: &[u8]) -> Answer<()> {
        let mut arguments = vec![session.into()];
        arguments.extend(input(part));
        self.call("C_DigestUpdate", arguments).map(drop)
    }

    /// C_DigestKey
    pub fn digest_key(&self, session: u64, key: u64) -> Answer<()> {
        self.call("C_DigestKey", vec![session.into(), key.into()]).map(drop)
    }

    /// C_DigestFinal
    pub fn digest_final(&self, session: u64) -> Answer<Vec<u8>> {
        self.output("C_DigestFinal", vec![session.into()])
    }

    /// C_GenerateRandom.
    pub fn random(&self, session: u64, count: usize) -> Answer<Vec<u8>> {
        let arguments =
            vec![session.into(), Memory::room(count).into(), Argument::Word(count as u64)];
        let arguments = self.call("C_GenerateRandom", arguments)?;
        Ok(arguments[1].memory().bytes.clone())
    }

    /// C_SeedRandom.
    pub fn seed_random(&self, session: u64, seed: &[u8]) -> Answer<()> {
        let mut arguments = vec![session.into()];
        arguments.extend(input(seed));
        self.call("C_SeedRandom", arguments).map(drop)
    }
}
