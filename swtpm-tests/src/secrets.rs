//! An application that keeps no PIN: it reads one from standard input into a place that it wipes at
//! once, so that whatever is found in its memory afterwards is the module's. It stops where the test
//! is to look, says where, and goes on with the next byte of standard input.

#![allow(unsafe_code)] // C_Login past the bench's own copies, wiping

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use cryptoki_sys::*;

use crate::bench::LABEL;
use crate::ck::{Attribute, Ck, Mechanism, P256, bytes, flag, number};
use crate::door::Library;

type Login =
    unsafe extern "C" fn(CK_SESSION_HANDLE, CK_USER_TYPE, *const CK_BYTE, CK_ULONG) -> CK_RV;

type Create = unsafe extern "C" fn(
    CK_SESSION_HANDLE,
    *mut CK_ATTRIBUTE,
    CK_ULONG,
    *mut CK_OBJECT_HANDLE,
) -> CK_RV;

/// Where the application stops: [`work`] prints these lines.
pub const STOPS: [&str; 3] = ["logged in", "logged out", "finalized"];
/// Where it stops when it brings keys in.
pub const IMPORT_STOPS: [&str; 5] = ["logged in", "brought in", "used", "logged out", "finalized"];

/// What the keys are that it reads from standard input, one after the other, and their lengths in bytes:
/// `control` is readable, and in the module's memory until the logout.
pub const KEYS: [(&str, usize); 9] = [
    ("aes", 16),
    ("mac", 48),
    ("base", 32),
    ("control", 32),
    ("ec", 32),
    ("rsa modulus", 256),
    ("rsa exponent", 256),
    ("rsa prime", 128),
    ("rsa other prime", 128),
];

/// What the key is expanded with that the application derives from `base`.
pub const INFO: &[u8] = b"what comes of it";

/// A process with the module, logged in by the PIN that it reads.
struct Application {
    ck: Ck,
    session: u64,
    library: libloading::Library,
}

impl Application {
    fn log_in(module: &Path) -> Application {
        let ck = Ck::new(Arc::new(Library::load(module)));
        ck.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
        let slot = ck.slot_of(LABEL).expect("the token");
        let session = ck.open(slot).expect("C_OpenSession");
        // SAFETY: the module is loaded already; its constructors, of which it has none, have run.
        let library = unsafe { libloading::Library::new(module) }.expect("the module");
        // SAFETY: C_Login has this type.
        let login = unsafe { library.get::<Login>(b"C_Login\0") }.expect("C_Login");
        let mut pin = [0u8; 64];
        let length = read(&mut pin);
        // SAFETY: the PIN is readable for its length.
        let rv = unsafe { login(session, CKU_USER, pin.as_ptr(), length as CK_ULONG) };
        wipe(&mut pin);
        assert_eq!(rv, 0, "C_Login");
        Application { ck, session, library }
    }

    /// C_CreateObject of a template in which these attributes are bytes that nobody copies.
    fn create(&self, plain: &[Attribute], secret: &[(u64, &[u8])]) -> u64 {
        // SAFETY: C_CreateObject has this type.
        let create = unsafe { self.library.get::<Create>(b"C_CreateObject\0") };
        let given = plain.iter().map(|attribute| (attribute.kind, attribute.value.as_slice()));
        let mut template: Vec<CK_ATTRIBUTE> = given
            .chain(secret.iter().copied())
            .map(|(kind, value)| CK_ATTRIBUTE {
                type_: kind,
                pValue: value.as_ptr().cast_mut().cast(),
                ulValueLen: value.len() as CK_ULONG,
            })
            .collect();
        let (mut key, count) = (0, template.len() as CK_ULONG);
        // SAFETY: each value is readable for its length, and the handle's place is writable.
        let rv = unsafe {
            create.expect("C_CreateObject")(
                self.session,
                template.as_mut_ptr(),
                count,
                &raw mut key,
            )
        };
        assert_eq!(rv, 0, "C_CreateObject");
        key
    }
}

/// The application that uses a key of the token.
pub fn work(module: &Path) {
    let Application { ck, session, .. } = Application::log_in(module);
    let key = ck.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("C_FindObjects")[0];
    ck.sign(session, CKM_ECDSA, key, &[1; 32]).expect("C_Sign");
    stop(STOPS[0]);
    ck.logout(session).expect("C_Logout");
    stop(STOPS[1]);
    ck.finalize().expect("C_Finalize");
    stop(STOPS[2]);
}

/// The application that brings keys in: it reads their values after the first stop, as [`KEYS`] says.
pub fn import(module: &Path) {
    let application = Application::log_in(module);
    let Application { ck, session, .. } = &application;
    let session = *session;
    stop(IMPORT_STOPS[0]);
    let mut values = [0u8; 928];
    let mut have = 0;
    while have < values.len() {
        have += read(&mut values[have..]);
    }
    let mut rest = &values[..];
    let [aes, mac, base, control, ec, modulus, exponent, prime, other] = KEYS.map(|(_, length)| {
        let (value, after) = rest.split_at(length);
        rest = after;
        value
    });
    let key = |key_type, more: &[Attribute]| {
        let class = [number(CKA_CLASS, CKO_SECRET_KEY), number(CKA_KEY_TYPE, key_type)];
        [&class[..], more].concat()
    };
    let hidden = |role| [flag(CKA_SENSITIVE, true), flag(role, true)];
    let open = [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
    let aes = application.create(&key(CKK_AES, &hidden(CKA_ENCRYPT)), &[(CKA_VALUE, aes)]);
    let secret = key(CKK_GENERIC_SECRET, &hidden(CKA_SIGN));
    let mac = application.create(&secret, &[(CKA_VALUE, mac)]);
    let secret = key(CKK_GENERIC_SECRET, &hidden(CKA_DERIVE));
    let base = application.create(&secret, &[(CKA_VALUE, base)]);
    application.create(&key(CKK_GENERIC_SECRET, &open), &[(CKA_VALUE, control)]);
    let private = |key_type| [number(CKA_CLASS, CKO_PRIVATE_KEY), number(CKA_KEY_TYPE, key_type)];
    let curve = [&private(CKK_EC)[..], &[bytes(CKA_EC_PARAMS, P256)]].concat();
    let ec = application.create(&curve, &[(CKA_VALUE, ec)]);
    let rsa = application.create(
        &[&private(CKK_RSA)[..], &[bytes(CKA_PUBLIC_EXPONENT, [1, 0, 1])]].concat(),
        &[
            (CKA_MODULUS, modulus),
            (CKA_PRIVATE_EXPONENT, exponent),
            (CKA_PRIME_1, prime),
            (CKA_PRIME_2, other),
        ],
    );
    wipe(&mut values);
    stop(IMPORT_STOPS[1]);

    ck.encrypt(session, CKM_AES_ECB, aes, &[0; 16]).expect("C_Encrypt");
    ck.sign(session, CKM_SHA256_HMAC, mac, b"data").expect("C_Sign");
    ck.sign(session, CKM_ECDSA, ec, &[1; 32]).expect("C_Sign");
    ck.sign(session, CKM_SHA256_RSA_PKCS, rsa, b"data").expect("C_Sign");
    let hkdf = Mechanism::hkdf(CKM_HKDF_DERIVE, CKM_SHA256, None, Some(INFO));
    let wanted = key(CKK_GENERIC_SECRET, &[number(CKA_VALUE_LEN, 32), flag(CKA_SIGN, true)]);
    let derived = ck.derive(session, hkdf, base, &wanted).expect("C_DeriveKey");
    ck.sign(session, CKM_SHA256_HMAC, derived, b"data").expect("C_Sign");
    stop(IMPORT_STOPS[2]);
    ck.logout(session).expect("C_Logout");
    stop(IMPORT_STOPS[3]);
    ck.finalize().expect("C_Finalize");
    stop(IMPORT_STOPS[4]);
}

fn wipe(place: &mut [u8]) {
    for byte in place {
        // SAFETY: a byte of ours.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
}

/// read(2), without a buffer in between.
fn read(place: &mut [u8]) -> usize {
    // SAFETY: the place is writable for its length.
    let count = unsafe { libc::read(0, place.as_mut_ptr().cast(), place.len()) };
    usize::try_from(count).expect("standard input is open")
}

fn stop(place: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{place}").and_then(|()| out.flush()).expect("somebody listens");
    read(&mut [0]);
}
