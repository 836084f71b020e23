//! An application that keeps no PIN: it reads one from standard input into a place that it wipes at
//! once, so that whatever is found in its memory afterwards is the module's. It stops where the test
//! is to look, says where, and goes on with the next byte of standard input.

#![allow(unsafe_code)] // C_Login past the bench's own copies, wiping

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use cryptoki_sys::{CK_BYTE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_USER_TYPE};
use cryptoki_sys::{CKA_CLASS, CKF_OS_LOCKING_OK, CKM_ECDSA, CKO_PRIVATE_KEY, CKU_USER};

use crate::bench::LABEL;
use crate::ck::{Ck, number};
use crate::door::Library;

type Login =
    unsafe extern "C" fn(CK_SESSION_HANDLE, CK_USER_TYPE, *const CK_BYTE, CK_ULONG) -> CK_RV;

/// Where the application stops: [`work`] prints these lines.
pub const STOPS: [&str; 3] = ["logged in", "logged out", "finalized"];

/// The application.
pub fn work(module: &Path) {
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
    for byte in &mut pin {
        // SAFETY: a byte of ours.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
    assert_eq!(rv, 0, "C_Login");
    let key = ck.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("C_FindObjects")[0];
    ck.sign(session, CKM_ECDSA, key, &[1; 32]).expect("C_Sign");
    stop(STOPS[0]);
    ck.logout(session).expect("C_Logout");
    stop(STOPS[1]);
    ck.finalize().expect("C_Finalize");
    stop(STOPS[2]);
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
