//! A second opinion: OpenSSL's libcrypto, loaded while the bench runs. It shares no line with the
//! module, and options are the words of `openssl pkeyutl -pkeyopt`.

#![allow(unsafe_code)] // C functions are called here.

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use cryptoki_sys::{
    CKA_COEFFICIENT, CKA_EXPONENT_1, CKA_EXPONENT_2, CKA_MODULUS, CKA_PRIME_1, CKA_PRIME_2,
    CKA_PRIVATE_EXPONENT, CKA_PUBLIC_EXPONENT,
};

use crate::ck::{Attribute, bytes};

type Pointer = *mut c_void;

macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        #[allow(non_snake_case)]
        struct Crypto {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            _library: libloading::Library,
        }

        impl Crypto {
            fn load() -> Crypto {
                // SAFETY: libcrypto's initialisation has no demands.
                let library = unsafe { libloading::Library::new("libcrypto.so.3") }
                    .expect("OpenSSL is installed (scripts/test)");
                Crypto {
                    // SAFETY: the types are those of OpenSSL 3's headers.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }
                        .expect(stringify!($name)),)*
                    _library: library,
                }
            }
        }
    };
}

functions! {
    d2i_PUBKEY: fn(*mut Pointer, *mut *const u8, c_long) -> Pointer;
    i2d_PUBKEY: fn(Pointer, *mut *mut u8) -> c_int;
    d2i_AutoPrivateKey: fn(*mut Pointer, *mut *const u8, c_long) -> Pointer;
    EVP_PKEY2PKCS8: fn(Pointer) -> Pointer;
    i2d_PKCS8_PRIV_KEY_INFO: fn(Pointer, *mut *mut u8) -> c_int;
    PKCS8_PRIV_KEY_INFO_free: fn(Pointer);
    EVP_PKEY_free: fn(Pointer);
    EVP_PKEY_CTX_new: fn(Pointer, Pointer) -> Pointer;
    EVP_PKEY_CTX_new_from_name: fn(Pointer, *const c_char, *const c_char) -> Pointer;
    EVP_PKEY_CTX_free: fn(Pointer);
    EVP_PKEY_CTX_ctrl_str: fn(Pointer, *const c_char, *const c_char) -> c_int;
    EVP_PKEY_keygen_init: fn(Pointer) -> c_int;
    EVP_PKEY_generate: fn(Pointer, *mut Pointer) -> c_int;
    EVP_PKEY_sign_init: fn(Pointer) -> c_int;
    EVP_PKEY_sign: fn(Pointer, *mut u8, *mut usize, *const u8, usize) -> c_int;
    EVP_PKEY_verify_init: fn(Pointer) -> c_int;
    EVP_PKEY_verify: fn(Pointer, *const u8, usize, *const u8, usize) -> c_int;
    EVP_PKEY_verify_recover_init: fn(Pointer) -> c_int;
    EVP_PKEY_verify_recover: fn(Pointer, *mut u8, *mut usize, *const u8, usize) -> c_int;
    EVP_PKEY_encrypt_init: fn(Pointer) -> c_int;
    EVP_PKEY_encrypt: fn(Pointer, *mut u8, *mut usize, *const u8, usize) -> c_int;
    EVP_PKEY_decrypt_init: fn(Pointer) -> c_int;
    EVP_PKEY_decrypt: fn(Pointer, *mut u8, *mut usize, *const u8, usize) -> c_int;
    EVP_PKEY_derive_init: fn(Pointer) -> c_int;
    EVP_PKEY_derive_set_peer: fn(Pointer, Pointer) -> c_int;
    EVP_PKEY_derive: fn(Pointer, *mut u8, *mut usize) -> c_int;
    EVP_get_digestbyname: fn(*const c_char) -> *const c_void;
    EVP_PKEY_get_bn_param: fn(Pointer, *const c_char, *mut Pointer) -> c_int;
    BN_num_bits: fn(Pointer) -> c_int;
    BN_bn2bin: fn(Pointer, *mut u8) -> c_int;
    BN_clear_free: fn(Pointer);
    AES_set_encrypt_key: fn(*const u8, c_int, *mut u8) -> c_int;
    AES_encrypt: fn(*const u8, *mut u8, *const u8);
    HMAC: fn(*const c_void, *const c_void, c_int, *const u8, usize, *mut u8, *mut u32) -> *mut u8;
    PKCS5_PBKDF2_HMAC: fn(*const u8, c_int, *const u8, c_int, c_int, *const c_void, c_int, *mut u8) -> c_int;
    EVP_Digest: fn(*const u8, usize, *mut u8, *mut u32, *const c_void, Pointer) -> c_int;
    EVP_MD_CTX_new: fn() -> Pointer;
    EVP_MD_CTX_free: fn(Pointer);
    EVP_DigestInit_ex: fn(Pointer, *const c_void, Pointer) -> c_int;
    EVP_DigestUpdate: fn(Pointer, *const u8, usize) -> c_int;
    EVP_DigestFinalXOF: fn(Pointer, *mut u8, usize) -> c_int;
    EVP_CIPHER_fetch: fn(Pointer, *const c_char, *const c_char) -> Pointer;
    EVP_CIPHER_free: fn(Pointer);
    EVP_CIPHER_CTX_new: fn() -> Pointer;
    EVP_CIPHER_CTX_free: fn(Pointer);
    EVP_CIPHER_CTX_set_padding: fn(Pointer, c_int) -> c_int;
    EVP_CIPHER_CTX_ctrl: fn(Pointer, c_int, c_int, *mut u8) -> c_int;
    EVP_Q_mac: fn(Pointer, *const c_char, *const c_char, *const c_char, Pointer, *const u8, usize, *const u8, usize, *mut u8, usize, *mut usize) -> *mut u8;
    EVP_CipherInit_ex: fn(Pointer, Pointer, Pointer, *const u8, *const u8, c_int) -> c_int;
    EVP_CipherUpdate: fn(Pointer, *mut u8, *mut c_int, *const u8, c_int) -> c_int;
    EVP_CipherFinal_ex: fn(Pointer, *mut u8, *mut c_int) -> c_int;
    ERR_clear_error: fn();
}

fn crypto() -> &'static Crypto {
    static CRYPTO: OnceLock<Crypto> = OnceLock::new();
    CRYPTO.get_or_init(Crypto::load)
}

/// The longest output of an operation here, in bytes.
const ROOM: usize = 1024;

/// A public key, or a pair that OpenSSL made.
#[derive(Debug)]
pub struct Key(Pointer);

// SAFETY: an EVP_PKEY is reference-counted and only read after it was made.
unsafe impl Send for Key {}
// SAFETY: as above.
unsafe impl Sync for Key {}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: it is ours, and freed once.
        unsafe { (crypto().EVP_PKEY_free)(self.0) }
    }
}

/// What runs on a context: output, its length, input.
type Transform = unsafe extern "C" fn(Pointer, *mut u8, *mut usize, *const u8, usize) -> c_int;

struct Context(Pointer);

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is ours, and freed once.
        unsafe {
            (crypto().EVP_PKEY_CTX_free)(self.0);
            // A refusal leaves its reasons in a queue of this thread.
            (crypto().ERR_clear_error)();
        }
    }
}

impl Context {
    /// Sets `name:value` options. `None` if OpenSSL does not take one.
    fn set(&self, options: &[&str]) -> Option<()> {
        for option in options {
            let (name, value) = option.split_once(':').expect("name:value");
            let (name, value) = (CString::new(name).ok()?, CString::new(value).ok()?);
            // SAFETY: a context and two strings.
            let taken =
                unsafe { (crypto().EVP_PKEY_CTX_ctrl_str)(self.0, name.as_ptr(), value.as_ptr()) };
            if taken <= 0 {
                return None;
            }
        }
        Some(())
    }
}

/// The parts of an RSA private key, CKA_x and OpenSSL's name: the first five are those that name the key.
pub const RSA_PARTS: [(u64, &str); 8] = [
    (CKA_MODULUS, "n"),
    (CKA_PUBLIC_EXPONENT, "e"),
    (CKA_PRIVATE_EXPONENT, "d"),
    (CKA_PRIME_1, "rsa-factor1"),
    (CKA_PRIME_2, "rsa-factor2"),
    (CKA_EXPONENT_1, "rsa-exponent1"),
    (CKA_EXPONENT_2, "rsa-exponent2"),
    (CKA_COEFFICIENT, "rsa-coefficient1"),
];

impl Key {
    /// These parts of an RSA pair ([`RSA_PARTS`]), for a template.
    pub fn attributes(&self, parts: &[(u64, &str)]) -> Vec<Attribute> {
        parts.iter().map(|(kind, name)| bytes(*kind, self.number(name))).collect()
    }

    /// A number of the pair by OpenSSL's name for it ("n", "d", "rsa-factor1", "priv", …), big-endian,
    /// without leading zeros.
    ///
    /// # Panics
    /// If it has no such number.
    pub fn number(&self, name: &str) -> Vec<u8> {
        let called = CString::new(name).expect("no zero");
        let mut number = null_mut();
        // SAFETY: a key and a string; the number is ours, and freed once.
        unsafe {
            let got = (crypto().EVP_PKEY_get_bn_param)(self.0, called.as_ptr(), &raw mut number);
            assert_eq!(got, 1, "{name}");
            let mut out = vec![0; ((crypto().BN_num_bits)(number) as usize).div_ceil(8)];
            (crypto().BN_bn2bin)(number, out.as_mut_ptr());
            (crypto().BN_clear_free)(number);
            out
        }
    }

    /// From a SubjectPublicKeyInfo in DER. `None` if OpenSSL does not take it.
    pub fn from_info(info: &[u8]) -> Option<Key> {
        let mut at = info.as_ptr();
        // SAFETY: readable for the length that is told.
        let key = unsafe { (crypto().d2i_PUBKEY)(null_mut(), &raw mut at, info.len() as c_long) };
        (!key.is_null()).then_some(Key(key))
    }

    /// From a PrivateKeyInfo (PKCS #8) in DER. `None` if OpenSSL does not take it.
    pub fn from_private_info(info: &[u8]) -> Option<Key> {
        let (mut at, length) = (info.as_ptr(), info.len() as c_long);
        // SAFETY: readable for the length that is told.
        let key = unsafe { (crypto().d2i_AutoPrivateKey)(null_mut(), &raw mut at, length) };
        (!key.is_null()).then_some(Key(key))
    }

    /// Its PrivateKeyInfo (PKCS #8) in DER.
    ///
    /// # Panics
    /// If it is no pair.
    pub fn private_info(&self) -> Vec<u8> {
        // SAFETY: first the length, then the bytes into so much room; the structure is ours, freed once.
        unsafe {
            let structure = (crypto().EVP_PKEY2PKCS8)(self.0);
            assert!(!structure.is_null(), "a pair");
            let length = (crypto().i2d_PKCS8_PRIV_KEY_INFO)(structure, null_mut());
            let mut info = vec![0; usize::try_from(length).expect("a private key")];
            let mut at = info.as_mut_ptr();
            (crypto().i2d_PKCS8_PRIV_KEY_INFO)(structure, &raw mut at);
            (crypto().PKCS8_PRIV_KEY_INFO_free)(structure);
            info
        }
    }

    /// A new pair: `"EC"` with `["ec_paramgen_curve:P-256"]`, `"RSA"` with `["rsa_keygen_bits:2048"]`.
    ///
    /// # Panics
    /// If OpenSSL refuses.
    pub fn generate(kind: &str, options: &[&str]) -> Key {
        let name = CString::new(kind).expect("no zero");
        let crypto = crypto();
        // SAFETY: as the functions want it; each result is checked.
        unsafe {
            let context = (crypto.EVP_PKEY_CTX_new_from_name)(null_mut(), name.as_ptr(), null());
            assert!(!context.is_null(), "OpenSSL knows {kind}");
            let context = Context(context);
            assert_eq!((crypto.EVP_PKEY_keygen_init)(context.0), 1);
            context.set(options).expect("OpenSSL takes the options");
            let mut key = null_mut();
            assert_eq!((crypto.EVP_PKEY_generate)(context.0, &raw mut key), 1);
            Key(key)
        }
    }

    /// Its SubjectPublicKeyInfo in DER.
    pub fn info(&self) -> Vec<u8> {
        // SAFETY: first the length, then the bytes into so much room.
        unsafe {
            let length = (crypto().i2d_PUBKEY)(self.0, null_mut());
            let mut info = vec![0; usize::try_from(length).expect("a public key")];
            let mut at = info.as_mut_ptr();
            (crypto().i2d_PUBKEY)(self.0, &raw mut at);
            info
        }
    }

    fn context(
        &self,
        init: unsafe extern "C" fn(Pointer) -> c_int,
        options: &[&str],
    ) -> Option<Context> {
        // SAFETY: a key of ours; the context keeps a reference to it.
        let context = unsafe { (crypto().EVP_PKEY_CTX_new)(self.0, null_mut()) };
        if context.is_null() {
            return None;
        }
        let context = Context(context);
        // SAFETY: a context.
        if unsafe { init(context.0) } != 1 {
            return None;
        }
        context.set(options)?;
        Some(context)
    }

    fn transform(
        &self,
        init: unsafe extern "C" fn(Pointer) -> c_int,
        run: Transform,
        data: &[u8],
        options: &[&str],
    ) -> Option<Vec<u8>> {
        let context = self.context(init, options)?;
        let (mut out, mut length) = (vec![0; ROOM], ROOM);
        // SAFETY: readable and writable for the lengths that are told.
        let done =
            unsafe { run(context.0, out.as_mut_ptr(), &raw mut length, data.as_ptr(), data.len()) };
        out.truncate(length);
        (done == 1).then_some(out)
    }

    /// A signature over `data`, which is a digest where the options name one. ECDSA's is DER.
    pub fn sign(&self, data: &[u8], options: &[&str]) -> Option<Vec<u8>> {
        self.transform(crypto().EVP_PKEY_sign_init, crypto().EVP_PKEY_sign, data, options)
    }

    /// Whether `signature` is one over `data`. ECDSA's is DER.
    pub fn verifies(&self, data: &[u8], signature: &[u8], options: &[&str]) -> bool {
        let Some(context) = self.context(crypto().EVP_PKEY_verify_init, options) else {
            return false;
        };
        let (signed, length) = (signature.as_ptr(), signature.len());
        // SAFETY: readable for the lengths that are told.
        unsafe {
            (crypto().EVP_PKEY_verify)(context.0, signed, length, data.as_ptr(), data.len()) == 1
        }
    }

    /// What an RSA signature carries.
    pub fn recover(&self, signature: &[u8], options: &[&str]) -> Option<Vec<u8>> {
        let crypto = crypto();
        let init = crypto.EVP_PKEY_verify_recover_init;
        self.transform(init, crypto.EVP_PKEY_verify_recover, signature, options)
    }

    /// Encrypts with an RSA key.
    pub fn encrypt(&self, data: &[u8], options: &[&str]) -> Option<Vec<u8>> {
        self.transform(crypto().EVP_PKEY_encrypt_init, crypto().EVP_PKEY_encrypt, data, options)
    }

    /// Decrypts with an RSA pair.
    pub fn decrypt(&self, data: &[u8], options: &[&str]) -> Option<Vec<u8>> {
        self.transform(crypto().EVP_PKEY_decrypt_init, crypto().EVP_PKEY_decrypt, data, options)
    }

    /// The secret that an EC pair shares with a public key: the point's x coordinate.
    pub fn agree(&self, peer: &Key) -> Option<Vec<u8>> {
        let context = self.context(crypto().EVP_PKEY_derive_init, &[])?;
        let (mut out, mut length) = (vec![0; ROOM], ROOM);
        // SAFETY: a context, a key, and room for the length that is told.
        let done = unsafe {
            (crypto().EVP_PKEY_derive_set_peer)(context.0, peer.0) == 1
                && (crypto().EVP_PKEY_derive)(context.0, out.as_mut_ptr(), &raw mut length) == 1
        };
        out.truncate(length);
        done.then_some(out)
    }
}

/// A digest by OpenSSL's name: `sha256`, `sha3-512`.
///
/// # Panics
/// If OpenSSL does not know it.
pub fn digest(name: &str, data: &[u8]) -> Vec<u8> {
    let called = CString::new(name).expect("no zero");
    let (mut out, mut length) = (vec![0; 64], 0);
    // SAFETY: readable for its length; no digest is longer than 64 bytes.
    unsafe {
        let kind = (crypto().EVP_get_digestbyname)(called.as_ptr());
        assert!(!kind.is_null(), "OpenSSL knows {name}");
        let (from, to) = (data.as_ptr(), out.as_mut_ptr());
        let done = (crypto().EVP_Digest)(from, data.len(), to, &raw mut length, kind, null_mut());
        assert_eq!(done, 1, "{name}");
    }
    out.truncate(length as usize);
    out
}

/// So many bytes of the extensible output of this name.
pub fn xof(name: &str, data: &[u8], length: usize) -> Vec<u8> {
    let called = CString::new(name).expect("no zero");
    let mut out = vec![0; length];
    // SAFETY: readable for its length, writable for its length; the context is freed once.
    unsafe {
        let kind = (crypto().EVP_get_digestbyname)(called.as_ptr());
        assert!(!kind.is_null(), "OpenSSL knows {name}");
        let context = (crypto().EVP_MD_CTX_new)();
        let done = (crypto().EVP_DigestInit_ex)(context, kind, null_mut()) == 1
            && (crypto().EVP_DigestUpdate)(context, data.as_ptr(), data.len()) == 1
            && (crypto().EVP_DigestFinalXOF)(context, out.as_mut_ptr(), length) == 1;
        (crypto().EVP_MD_CTX_free)(context);
        assert!(done, "{name}");
    }
    out
}

/// HMAC with the hash of this name.
pub fn hmac(name: &str, key: &[u8], data: &[u8]) -> Vec<u8> {
    let called = CString::new(name).expect("no zero");
    let (mut out, mut length) = (vec![0; 64], 0);
    // SAFETY: readable for their lengths; no digest is longer than 64 bytes.
    unsafe {
        let kind = (crypto().EVP_get_digestbyname)(called.as_ptr());
        assert!(!kind.is_null(), "OpenSSL knows {name}");
        let (from, to) = (data.as_ptr(), out.as_mut_ptr());
        let (key, bytes) = (key.as_ptr().cast(), key.len() as c_int);
        let done = (crypto().HMAC)(kind, key, bytes, from, data.len(), to, &raw mut length);
        assert!(!done.is_null(), "{name}");
    }
    out.truncate(length as usize);
    out
}

/// PBKDF2 with the HMAC of this name's hash.
pub fn pbkdf2(name: &str, password: &[u8], salt: &[u8], iterations: u64, length: usize) -> Vec<u8> {
    let called = CString::new(name).expect("no zero");
    let mut out = vec![0; length];
    let (passwords, salts) = (password.len() as c_int, salt.len() as c_int);
    let (iterations, length) = (iterations as c_int, length as c_int);
    // SAFETY: readable and writable for the lengths beside them.
    unsafe {
        let kind = (crypto().EVP_get_digestbyname)(called.as_ptr());
        assert!(!kind.is_null(), "OpenSSL knows {name}");
        let (password, salt, to) = (password.as_ptr(), salt.as_ptr(), out.as_mut_ptr());
        let made = (crypto().PKCS5_PBKDF2_HMAC)(
            password, passwords, salt, salts, iterations, kind, length, to,
        );
        assert_eq!(made, 1, "{name}");
    }
    out
}

/// The function of TLS 1.2 (RFC 5246 §5), of OpenSSL's HMACs.
pub fn tls12(name: &str, secret: &[u8], message: &[u8], length: usize) -> Vec<u8> {
    let (mut made, mut chain) = (Vec::new(), message.to_vec());
    while made.len() < length {
        chain = hmac(name, secret, &chain);
        made.extend(hmac(name, secret, &[&chain, message].concat()));
    }
    made.truncate(length);
    made
}

/// HKDF's expansion (RFC 5869 §2.3), of OpenSSL's HMACs.
pub fn hkdf_expand(name: &str, key: &[u8], info: &[u8], length: usize) -> Vec<u8> {
    let (mut made, mut block) = (Vec::new(), Vec::new());
    for counter in 1..=u8::MAX {
        if made.len() >= length {
            break;
        }
        block = hmac(name, key, &[&block, info, &[counter]].concat());
        made.extend(&block);
    }
    made.truncate(length);
    made
}

/// The functions of SP 800-108 (CKM_SP800_108_x) of OpenSSL's HMAC-SHA-256s: a counter of 32 bits after what
/// the mode feeds back, then the label.
pub fn sp800(mode: u64, key: &[u8], label: &[u8], length: usize) -> Vec<u8> {
    sp800_with(mode, |message| hmac("sha256", key, message), label, length)
}

/// The same of another MAC.
pub fn sp800_with(
    mode: u64,
    mac: impl Fn(&[u8]) -> Vec<u8>,
    label: &[u8],
    length: usize,
) -> Vec<u8> {
    use cryptoki_sys::{CKM_SP800_108_DOUBLE_PIPELINE_KDF, CKM_SP800_108_FEEDBACK_KDF};

    let (mut made, mut fed) = (Vec::new(), Vec::new());
    if mode == CKM_SP800_108_DOUBLE_PIPELINE_KDF {
        fed = label.to_vec();
    }
    for counter in 1u32.. {
        if made.len() >= length {
            break;
        }
        if mode == CKM_SP800_108_DOUBLE_PIPELINE_KDF {
            fed = mac(&fed);
        }
        let block = mac(&[&fed[..], &counter.to_be_bytes(), label].concat());
        made.extend(&block);
        if mode == CKM_SP800_108_FEEDBACK_KDF {
            fed = block;
        }
    }
    made.truncate(length);
    made
}

/// One block under an AES key.
pub fn aes_ecb(key: &[u8], block: &[u8; 16]) -> [u8; 16] {
    let (mut schedule, mut out) = ([0u64; 64], [0; 16]);
    // SAFETY: an AES_KEY has 244 bytes; the blocks have 16.
    unsafe {
        let at = schedule.as_mut_ptr().cast();
        let bits = 8 * key.len() as c_int;
        assert_eq!((crypto().AES_set_encrypt_key)(key.as_ptr(), bits, at), 0);
        (crypto().AES_encrypt)(block.as_ptr(), out.as_mut_ptr(), at);
    }
    out
}

/// What an AES mode makes of data: OpenSSL's name for it, as "CBC" or "CBC-CTS"; padded as PKCS #7 or not
/// at all. `None` if it refuses.
pub fn aes(
    mode: &str,
    encrypt: bool,
    padded: bool,
    key: &[u8],
    iv: &[u8],
    data: &[u8],
) -> Option<Vec<u8>> {
    let name = CString::new(format!("AES-{}-{mode}", 8 * key.len())).expect("no zero");
    let mut out = vec![0; data.len() + 32];
    let (mut first, mut last) = (0, 0);
    let iv = if iv.is_empty() { null() } else { iv.as_ptr() };
    // SAFETY: key and IV have the lengths of the cipher; `out` has room for two blocks more than comes in.
    let done = unsafe {
        let cipher = (crypto().EVP_CIPHER_fetch)(null_mut(), name.as_ptr(), null());
        assert!(!cipher.is_null(), "OpenSSL knows {name:?}");
        let context = (crypto().EVP_CIPHER_CTX_new)();
        let begun = (crypto().EVP_CipherInit_ex)(
            context,
            cipher,
            null_mut(),
            key.as_ptr(),
            iv,
            c_int::from(encrypt),
        );
        assert_eq!(begun, 1, "{name:?}");
        (crypto().EVP_CIPHER_CTX_set_padding)(context, c_int::from(padded));
        let (at, length) = (data.as_ptr(), data.len() as c_int);
        let done =
            (crypto().EVP_CipherUpdate)(context, out.as_mut_ptr(), &raw mut first, at, length) == 1
                && (crypto().EVP_CipherFinal_ex)(
                    context,
                    out.as_mut_ptr().add(first as usize),
                    &raw mut last,
                ) == 1;
        (crypto().EVP_CIPHER_CTX_free)(context);
        (crypto().EVP_CIPHER_free)(cipher);
        (crypto().ERR_clear_error)();
        done
    };
    out.truncate((first + last) as usize);
    done.then_some(out)
}

/// Authenticated encryption with AES-"GCM" or "CCM": to ciphertext and tag, or back. `None` if the tag is
/// wrong.
pub fn aead(
    mode: &str,
    encrypt: bool,
    key: &[u8],
    nonce: &[u8],
    additional: &[u8],
    tag: usize,
    data: &[u8],
) -> Option<Vec<u8>> {
    const SET_IV_LENGTH: c_int = 0x9;
    const GET_TAG: c_int = 0x10;
    const SET_TAG: c_int = 0x11;
    let name = CString::new(format!("AES-{}-{mode}", 8 * key.len())).expect("no zero");
    let (data, given) = if encrypt { (data, &[][..]) } else { data.split_at(data.len() - tag) };
    let mut given = given.to_vec();
    let mut out = vec![0; data.len() + 32];
    let (way, mut count, library) = (c_int::from(encrypt), 0, crypto());
    let (size, whole) = (tag as c_int, data.len() as c_int);
    // SAFETY: key, nonce and tag have the lengths that the context is told; `out` has room for a tag and a
    // block more than comes in.
    let done = unsafe {
        let cipher = (library.EVP_CIPHER_fetch)(null_mut(), name.as_ptr(), null());
        assert!(!cipher.is_null(), "OpenSSL knows {name:?}");
        let at = (library.EVP_CIPHER_CTX_new)();
        let expected = if encrypt { null_mut() } else { given.as_mut_ptr() };
        let length = nonce.len() as c_int;
        assert_eq!((library.EVP_CipherInit_ex)(at, cipher, null_mut(), null(), null(), way), 1);
        assert_eq!((library.EVP_CIPHER_CTX_ctrl)(at, SET_IV_LENGTH, length, null_mut()), 1);
        if mode == "CCM" || !encrypt {
            assert_eq!((library.EVP_CIPHER_CTX_ctrl)(at, SET_TAG, size, expected), 1);
        }
        let (key, nonce) = (key.as_ptr(), nonce.as_ptr());
        assert_eq!((library.EVP_CipherInit_ex)(at, null_mut(), null_mut(), key, nonce, way), 1);
        let update = library.EVP_CipherUpdate;
        if mode == "CCM" {
            assert_eq!(update(at, null_mut(), &raw mut count, null(), whole), 1);
        }
        if !additional.is_empty() {
            let length = additional.len() as c_int;
            let from = additional.as_ptr();
            assert_eq!(update(at, null_mut(), &raw mut count, from, length), 1);
        }
        let room = out.as_mut_ptr();
        let mut done = true;
        if mode == "CCM" || whole > 0 {
            done = update(at, room, &raw mut count, data.as_ptr(), whole) == 1;
        }
        if mode == "GCM" || encrypt {
            let behind = room.add(data.len());
            done = done && (library.EVP_CipherFinal_ex)(at, behind, &raw mut count) == 1;
        }
        if encrypt {
            let behind = room.add(data.len());
            assert_eq!((library.EVP_CIPHER_CTX_ctrl)(at, GET_TAG, size, behind), 1);
        }
        (library.EVP_CIPHER_CTX_free)(at);
        (library.EVP_CIPHER_free)(cipher);
        (library.ERR_clear_error)();
        done
    };
    out.truncate(data.len() + if encrypt { tag } else { 0 });
    done.then_some(out)
}

/// AES-CMAC.
pub fn cmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let under = CString::new(format!("AES-{}-CBC", 8 * key.len())).expect("no zero");
    let (mut out, mut length) = (vec![0; 16], 0);
    // SAFETY: readable and writable for their lengths.
    let done = unsafe {
        (crypto().EVP_Q_mac)(
            null_mut(),
            c"CMAC".as_ptr(),
            null(),
            under.as_ptr(),
            null_mut(),
            key.as_ptr(),
            key.len(),
            data.as_ptr(),
            data.len(),
            out.as_mut_ptr(),
            out.len(),
            &raw mut length,
        )
    };
    assert!(!done.is_null() && length == 16);
    out
}

/// Ecdsa-Sig-Value of r ‖ s.
pub fn ecdsa_der(signature: &[u8]) -> Vec<u8> {
    let value = |tag: u8, content: Vec<u8>| {
        let mut der = vec![tag];
        if content.len() > 127 {
            der.push(0x81);
        }
        der.push(content.len() as u8);
        der.extend(content);
        der
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let mut both = Vec::new();
    for number in [r, s] {
        let mut digits: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
        if digits.first().is_none_or(|byte| byte & 0x80 != 0) {
            digits.insert(0, 0);
        }
        both.extend(value(0x02, digits));
    }
    value(0x30, both)
}

/// r ‖ s of an Ecdsa-Sig-Value, each of so many bytes.
pub fn ecdsa_raw(der: &[u8], width: usize) -> Vec<u8> {
    let mut at = if der[1] & 0x80 == 0 { 2 } else { 3 };
    let mut raw = Vec::new();
    for _ in 0..2 {
        let length = usize::from(der[at + 1]);
        let digits = &der[at + 2..at + 2 + length];
        let digits = &digits[digits.iter().take_while(|byte| **byte == 0).count()..];
        raw.extend(vec![0; width - digits.len()]);
        raw.extend(digits);
        at += 2 + length;
    }
    raw
}
