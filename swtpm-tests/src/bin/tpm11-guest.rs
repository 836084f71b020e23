//! The test program inside the virtual machine of `tests/kernel.rs`: uses the module over the
//! kernel's own /dev/tpmrm0 and prints what it found. `tpm11-guest MODULE` runs everything.
//!
//! Marks between the steps are commands on /dev/tpm0, which the resource manager does not touch:
//! the host finds them in swtpm's log and counts what the chip executed in between.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN};
use swtpm_tests::ck::{Ck, P256, P384, bytes, flag};
use swtpm_tests::door::{Argument, Library};
use swtpm_tests::wire;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let module = arguments.get(1).expect("usage: tpm11-guest MODULE [STEP]").clone();
    match arguments.get(2).map(String::as_str) {
        None => everything(&module),
        Some("cold") => cold(&client(&module)),
        Some("sign") => many(&client(&module)),
        Some("crowd") => one_of_a_crowd(&client(&module)),
        Some("forks") => forks(&client(&module)),
        // Nobody clears away behind a process on the bare device that ends like that.
        Some("bare") => {
            let ck = client(&module);
            many(&ck);
            ck.finalize().expect("C_Finalize");
        }
        Some(step) => panic!("no step {step}"),
    }
}

fn everything(module: &str) {
    let ck = client(module);
    prepare(&ck);
    keys_of_every_kind(&ck);
    // A process that has never seen the TPM, from C_Initialize to its end.
    mark(1);
    child(module, "cold").wait().map(expect_success).expect("the child ends");
    mark(2);
    in_turn(&ck);
    side_by_side(&ck, module);
    crowd(&ck, module);
    child(module, "forks").wait().map(expect_success).expect("the child ends");
    ck.finalize().expect("C_Finalize");
    past_the_manager(module);
    for (name, first) in
        [("transient", 0x8000_0000), ("loaded", 0x0200_0000), ("saved", 0x0300_0000)]
    {
        println!("tpm11-guest: left-{name} {}", handles(first));
    }
    println!("tpm11-guest: done");
}

fn client(module: &str) -> Ck {
    let ck = Ck::new(Arc::new(Library::load(Path::new(module))));
    ck.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
    ck
}

fn child(module: &str, step: &str) -> std::process::Child {
    command(module, step).spawn().expect("a process can be started")
}

fn command(module: &str, step: &str) -> Command {
    let own = std::env::current_exe().expect("/proc is mounted");
    let mut command = Command::new(own);
    command.args([module, step]);
    command
}

fn expect_success(status: std::process::ExitStatus) {
    assert!(status.success(), "{status}");
}

fn prepare(ck: &Ck) {
    let slot = ck.empty_slot().expect("an empty slot");
    ck.init_token(slot, SO_PIN, LABEL).expect("C_InitToken");
    let session = ck.open(slot).expect("C_OpenSession");
    ck.login_so(session, SO_PIN).expect("C_Login(SO)");
    ck.init_pin(session, PIN).expect("C_InitPIN");
    ck.close_session(session).expect("C_CloseSession");
}

fn logged_in(ck: &Ck) -> u64 {
    let slot = ck.slot_of(LABEL).expect("the token");
    let session = ck.open(slot).expect("C_OpenSession");
    match ck.login(session, PIN) {
        Ok(()) => session,
        Err(rv) if rv.0 == CKR_USER_ALREADY_LOGGED_IN => session,
        Err(rv) => panic!("C_Login: {rv:?}"),
    }
}

fn keys_of_every_kind(ck: &Ck) {
    let session = logged_in(ck);
    let digest = [0x5A; 32];
    let (public, private) = ck.generate_rsa(session, 2048, "rsa").expect("RSA-2048");
    let signature = ck.sign(session, CKM_SHA256_RSA_PKCS, private, b"text").expect("RSA signature");
    ck.verify(session, CKM_SHA256_RSA_PKCS, public, b"text", &signature).expect("it verifies");
    let secret = ck.encrypt(session, CKM_RSA_PKCS, public, b"secret").expect("encryption");
    assert_eq!(ck.decrypt(session, CKM_RSA_PKCS, private, &secret).expect("decryption"), b"secret");
    for (curve, label) in [(P256, "cold"), (P384, "p384")] {
        let (public, private) = ck.generate_ec(session, curve, label).expect("an EC pair");
        let signature = ck.sign(session, CKM_ECDSA, private, &digest).expect("ECDSA");
        ck.verify(session, CKM_ECDSA, public, &digest, &signature).expect("it verifies");
    }
    // A session key leaves nothing on disk and works the same.
    let (public, private) = ck
        .generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256)],
            &[flag(CKA_TOKEN, false)],
        )
        .expect("a session pair");
    let signature = ck.sign(session, CKM_ECDSA, private, &digest).expect("ECDSA");
    ck.verify(session, CKM_ECDSA, public, &digest, &signature).expect("it verifies");
    assert_eq!(ck.random(session, 32).expect("random bytes").len(), 32);
    ck.close_session(session).expect("C_CloseSession");
}

fn key(ck: &Ck, session: u64, label: &str) -> u64 {
    let template = [bytes(CKA_LABEL, label), swtpm_tests::ck::number(CKA_CLASS, CKO_PRIVATE_KEY)];
    *ck.find(session, &template).expect("a search").first().expect("the key")
}

fn cold(ck: &Ck) {
    let session = logged_in(ck);
    let private = key(ck, session, "cold");
    ck.sign(session, CKM_ECDSA, private, &[1; 32]).expect("the first signature");
    ck.finalize().expect("C_Finalize");
}

/// One warm key, then sixteen in turn, all warm.
fn in_turn(ck: &Ck) {
    let session = logged_in(ck);
    let keys: Vec<u64> = (0..16)
        .map(|n| ck.generate_ec(session, P256, &format!("turn-{n}")).expect("an EC pair").1)
        .collect();
    let sign = |key: u64| {
        ck.sign(session, CKM_ECDSA, key, &[2; 32]).expect("ECDSA");
    };
    sign(keys[0]);
    mark(3);
    (0..10).for_each(|_| sign(keys[0]));
    mark(4);
    keys.iter().for_each(|key| sign(*key));
    mark(5);
    (0..2).for_each(|_| keys.iter().for_each(|key| sign(*key)));
    mark(6);
    ck.close_session(session).expect("C_CloseSession");
}

/// Two processes that sign while this one idles, logged in.
fn side_by_side(ck: &Ck, module: &str) {
    let session = logged_in(ck);
    let children = [child(module, "sign"), child(module, "sign")];
    for mut child in children {
        child.wait().map(expect_success).expect("the child ends");
    }
    ck.sign(session, CKM_ECDSA, key(ck, session, "cold"), &[3; 32]).expect("still there");
    println!("tpm11-guest: side-by-side 1");
}

/// How many processes are a crowd here, where every instruction is emulated.
const CROWD: usize = 6;

/// Processes that create, list, sign and delete in one store while this one holds a search open.
fn crowd(ck: &Ck, module: &str) {
    let session = logged_in(ck);
    let before = ck.find(session, &[]).expect("a search").len();
    let arguments = vec![session.into(), Argument::NULL, 0.into()];
    assert_eq!(ck.raw("C_FindObjectsInit", arguments).0, CKR_OK);
    let children: Vec<_> = (0..CROWD).map(|_| child(module, "crowd")).collect();
    for mut child in children {
        child.wait().map(expect_success).expect("the child ends");
    }
    assert_eq!(ck.raw("C_FindObjectsFinal", vec![session.into()]).0, CKR_OK);
    let after = ck.find(session, &[]).expect("a search").len();
    assert_eq!(after, before + 2 * CROWD, "each leaves two objects");
    ck.close_session(session).expect("C_CloseSession");
    println!("tpm11-guest: crowd {CROWD}");
}

fn one_of_a_crowd(ck: &Ck) {
    let session = logged_in(ck);
    let process = std::process::id();
    for round in 0..4 {
        let label = format!("{process}-{round}");
        let template = [
            swtpm_tests::ck::number(CKA_CLASS, CKO_DATA),
            flag(CKA_TOKEN, true),
            bytes(CKA_LABEL, label),
            bytes(CKA_VALUE, [round; 100]),
        ];
        let object = ck.create_object(session, &template).expect("C_CreateObject");
        assert!(ck.find(session, &[]).expect("a search").contains(&object));
        ck.sign(session, CKM_ECDSA, key(ck, session, "cold"), &[round; 32]).expect("ECDSA");
        if round % 2 == 0 {
            ck.destroy_object(session, object).expect("C_DestroyObject");
        }
    }
    ck.finalize().expect("C_Finalize");
}

/// A process that is logged in and has a warm key forks: its children begin anew and sign beside it.
#[allow(unsafe_code)] // fork
fn forks(ck: &Ck) {
    const CHILDREN: usize = 3;
    let session = logged_in(ck);
    let private = key(ck, session, "cold");
    ck.sign(session, CKM_ECDSA, private, &[4; 32]).expect("warm");
    let mut children = Vec::new();
    for _ in 0..CHILDREN {
        // SAFETY: this process has one thread of its own, the module's apart.
        match unsafe { libc::fork() } {
            0 => {
                let old = ck.sign(session, CKM_ECDSA, private, &[5; 32]);
                assert_eq!(old.map_err(|rv| rv.0), Err(CKR_CRYPTOKI_NOT_INITIALIZED));
                ck.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize in the child");
                many(ck);
                ck.finalize().expect("C_Finalize in the child");
                // SAFETY: it never returns.
                unsafe { libc::_exit(0) }
            }
            child => children.push(child),
        }
    }
    for round in 0..25u8 {
        ck.sign(session, CKM_ECDSA, private, &[round; 32]).expect("the parent goes on");
    }
    for child in children {
        let mut status = 0;
        // SAFETY: the place is writable.
        let ended = unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!((ended, status), (child, 0), "a child failed");
    }
    ck.finalize().expect("C_Finalize");
    println!("tpm11-guest: forks {CHILDREN}");
}

/// Two processes on the bare device, which the kernel gives to one at a time.
fn past_the_manager(module: &str) {
    let start = || {
        let mut command = command(module, "bare");
        command.env("TPM11_TCTI", "device:/dev/tpm0");
        command.spawn().expect("a process can be started")
    };
    for mut child in [start(), start()] {
        child.wait().map(expect_success).expect("the child ends");
    }
    println!("tpm11-guest: bare-device 1");
}

fn many(ck: &Ck) {
    let session = logged_in(ck);
    let private = key(ck, session, "cold");
    for round in 0..25u8 {
        ck.sign(session, CKM_ECDSA, private, &[round; 32]).expect("ECDSA");
    }
    // Behind the resource manager the end of the process, without C_Finalize, leaves nothing either.
}

/// One command on /dev/tpm0, past the resource manager.
fn raw(command: &[u8]) -> Vec<u8> {
    let mut tpm = File::options().read(true).write(true).open("/dev/tpm0").expect("/dev/tpm0");
    tpm.write_all(command).expect("the TPM takes a command");
    let mut response = vec![0; 4096];
    let length = tpm.read(&mut response).expect("the TPM answers");
    response.truncate(length);
    response
}

/// A command that does nothing, with a number in it.
fn mark(number: u32) {
    raw(&wire::get_capability(6, 0x0BEE_0000 + number, 1));
}

/// How many handles the TPM has from `first` on.
fn handles(first: u32) -> u32 {
    let response = raw(&wire::get_capability(1, first, 64));
    wire::u32_at(&response, 15)
}
