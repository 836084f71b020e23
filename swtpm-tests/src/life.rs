//! An application that loads, unloads and ends in the ways that hosts do: from exit handlers, from
//! destructors, from threads that outlive the library, in the middle of a call. What it finds wrong it
//! panics about; what is to be compared it prints.

#![allow(unsafe_code)] // exit handlers, signals, destructors

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cryptoki_sys::*;

use crate::bench::{LABEL, PIN};
use crate::ck::{Ck, number};
use crate::door::Library;

fn load(module: &Path) -> Ck {
    Ck::new(Arc::new(Library::load(module)))
}

/// A session of the user, and the token's private key.
fn log_in(ck: &Ck) -> (u64, u64) {
    ck.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
    // Read-only: a second copy of the module in a process does not write.
    let slot = ck.slot_of(LABEL).expect("the token");
    let session = ck.open_session(slot, 0).expect("C_OpenSession");
    ck.login(session, PIN).expect("C_Login");
    let key = ck.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("C_FindObjects")[0];
    sign(ck, session, key);
    (session, key)
}

fn sign(ck: &Ck, session: u64, key: u64) {
    ck.sign(session, CKM_ECDSA, key, &[0x42; 32]).expect("C_Sign");
}

/// Some functions as C has them: what the bench has around calls needs thread-locals, and the library.
#[derive(Clone, Copy)]
struct Bare {
    sign_init: SignInit,
    sign: Sign,
    finalize: Finalize,
}

type SignInit =
    unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_MECHANISM, CK_OBJECT_HANDLE) -> CK_RV;
type Sign =
    unsafe extern "C" fn(CK_SESSION_HANDLE, *const u8, CK_ULONG, *mut u8, *mut CK_ULONG) -> CK_RV;
type Finalize = unsafe extern "C" fn(*mut c_void) -> CK_RV;

impl Bare {
    /// They stay where they are when the library is closed.
    fn of(module: &Path) -> Bare {
        // SAFETY: the module has no constructors that could do anything, and the functions these types.
        unsafe {
            let library = libloading::Library::new(module).expect("the module");
            Bare {
                sign_init: *library.get::<SignInit>(b"C_SignInit\0").expect("C_SignInit"),
                sign: *library.get::<Sign>(b"C_Sign\0").expect("C_Sign"),
                finalize: *library.get::<Finalize>(b"C_Finalize\0").expect("C_Finalize"),
            }
        }
    }

    fn sign(&self, session: u64, key: u64) {
        let parameter = std::ptr::null_mut();
        let mut mechanism =
            CK_MECHANISM { mechanism: CKM_ECDSA, pParameter: parameter, ulParameterLen: 0 };
        let (mut signature, mut length) = ([0; 64], 64);
        // SAFETY: all pointers are to locals.
        let told = unsafe {
            assert_eq!((self.sign_init)(session, &mut mechanism, key), CKR_OK);
            (self.sign)(session, [7; 32].as_ptr(), 32, signature.as_mut_ptr(), &mut length)
        };
        assert_eq!((told, length), (CKR_OK, 64));
    }
}

/// The application in one of its roles.
///
/// # Panics
/// If something is not as it has to be.
pub fn work(role: &str, module: &Path) {
    match role.split_once(' ').unwrap_or((role, "")) {
        ("symlink", _) => symlink(module),
        ("copies", _) => copies(module),
        ("reload", _) => reload(module),
        ("thread", _) => thread(module),
        ("cycles", count) => cycles(module, count.parse().expect("a number")),
        ("handlers", order) => handlers(module, order),
        ("key", _) => end_of_thread(module),
        ("signal", _) => signal(module),
        ("exit", _) => exit_amid(module),
        ("unload", _) => unload_amid(module),
        (other, _) => panic!("no such role: {other}"),
    }
}

/// The same file under another name is the same library.
fn symlink(module: &Path) {
    let other = std::env::current_dir().expect("the bench's directory").join("other-name.so");
    std::os::unix::fs::symlink(module, &other).expect("a link");
    let (one, two) = (load(module), load(&other));
    let (session, key) = log_in(&one);
    assert_eq!(two.initialize().unwrap_err(), CKR_CRYPTOKI_ALREADY_INITIALIZED);
    sign(&two, session, key);
    drop(one);
    sign(&two, session, key);
    two.finalize().expect("C_Finalize");
    assert_eq!(load(module).info().map(drop).unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
}

/// A copy of the file is a second library, with a state of its own; they do not disturb each other,
/// in whichever order they end, nor in a forked child.
fn copies(module: &Path) {
    let copy = std::env::current_dir().expect("the bench's directory").join("copy.so");
    std::fs::copy(module, &copy).expect("a copy");
    let (one, two) = (load(module), load(&copy));
    let (session, key) = log_in(&one);
    assert_eq!(two.info().map(drop).unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
    let (its, its_key) = log_in(&two);
    for _ in 0..5 {
        sign(&one, session, key);
        sign(&two, its, its_key);
    }
    assert_eq!(two.session_info(session).map(drop).unwrap_err(), CKR_SESSION_HANDLE_INVALID);
    // SAFETY: this thread is the only one that matters; the child does not return.
    match unsafe { libc::fork() } {
        0 => {
            for ck in [&one, &two] {
                let rv = ck.info().map(drop).unwrap_err();
                assert_eq!(rv, CKR_CRYPTOKI_NOT_INITIALIZED);
            }
            log_in(&one);
            one.finalize().expect("C_Finalize in the child");
            // SAFETY: it never returns.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = -1;
            // SAFETY: the place is writable.
            unsafe { libc::waitpid(child, &mut status, 0) };
            assert_eq!(status, 0, "the child");
        }
    }
    one.finalize().expect("C_Finalize");
    sign(&two, its, its_key);
    log_in(&one);
    two.finalize().expect("C_Finalize of the copy");
    one.finalize().expect("C_Finalize");
}

/// dlclose, and dlopen again: with C_Finalize before it and without.
fn reload(module: &Path) {
    for _ in 0..5 {
        let ck = load(module);
        log_in(&ck);
        ck.finalize().expect("C_Finalize");
        drop(ck);
    }
    let ck = load(module);
    let (session, key) = log_in(&ck);
    drop(ck);
    std::thread::sleep(Duration::from_millis(400)); // the reaper works on
    let ck = load(module);
    // dlclose keeps the library where it is, and so its state.
    assert_eq!(ck.initialize().unwrap_err(), CKR_CRYPTOKI_ALREADY_INITIALIZED);
    sign(&ck, session, key);
    ck.finalize().expect("C_Finalize");
    log_in(&ck);
    ck.finalize().expect("C_Finalize");
}

/// A thread used the library and ends after it was unloaded.
fn thread(module: &Path) {
    for finalized in [true, false] {
        let ck = load(module);
        let user = ck.clone();
        let (used, is_used) = std::sync::mpsc::channel();
        let (unloaded, is_unloaded) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            log_in(&user);
            drop(user);
            used.send(()).expect("the other waits");
            is_unloaded.recv().expect("the other says so");
        });
        is_used.recv().expect("the thread says so");
        if finalized {
            ck.finalize().expect("C_Finalize");
        }
        drop(ck); // the last one: dlclose
        unloaded.send(()).expect("the thread waits");
        thread.join().expect("its thread-local destructors are still there");
        let ck = load(module);
        if !finalized {
            ck.finalize().expect("C_Finalize");
        }
    }
}

/// Unloads while a thread is inside C_Sign.
fn unload_amid(module: &Path) {
    let ck = load(module);
    let (session, key) = log_in(&ck);
    let bare = Bare::of(module);
    let (begun, has_begun) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        for turn in 0..40 {
            bare.sign(session, key);
            if turn == 3 {
                begun.send(()).expect("the other waits");
            }
        }
    });
    has_begun.recv().expect("it signs");
    drop(ck);
    thread.join().expect("it signed on");
    load(module).finalize().expect("C_Finalize");
}

/// How much of the system this process has: descriptors, threads, mappings, resident memory [KiB].
fn holdings() -> [u64; 4] {
    let count = |what| std::fs::read_dir(what).map(Iterator::count).unwrap_or_default() as u64;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|line| line.split_whitespace().next()?.parse().ok());
    [
        count("/proc/self/fd"),
        count("/proc/self/task"),
        maps.lines().count() as u64,
        rss.unwrap_or_default(),
    ]
}

/// Prints what the process holds ten times between many lives of the module, after a first tenth.
fn cycles(module: &Path, count: usize) {
    let ck = load(module);
    let mut told = 0;
    for cycle in 0..count {
        ck.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
        let session = ck.open(ck.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
        if cycle % 25 == 0 {
            ck.login(session, PIN).expect("C_Login");
            let wanted = [number(CKA_CLASS, CKO_PRIVATE_KEY)];
            let key = ck.find(session, &wanted).expect("C_FindObjects")[0];
            sign(&ck, session, key);
        }
        ck.digest(session, CKM_SHA256, b"abc").expect("C_Digest");
        ck.find(session, &[]).expect("C_FindObjects");
        ck.finalize().expect("C_Finalize");
        if (cycle + 1) * 11 / count > told {
            told += 1;
            let [descriptors, threads, mappings, rss] = holdings();
            println!("{descriptors} {threads} {mappings} {rss}");
        }
    }
}

/// For handlers, which get no argument.
static CK: OnceLock<Ck> = OnceLock::new();
/// What C_Finalize said there.
static ENDED: AtomicU64 = AtomicU64::new(u64::MAX);
/// Whether the program's destructor is to call it.
static IN_DESTRUCTOR: AtomicBool = AtomicBool::new(false);

extern "C" fn finalize_at_exit() {
    if let Some(ck) = CK.get() {
        let rv = ck.finalize().map_or_else(|rv| rv.0, |()| CKR_OK);
        ENDED.store(rv, Ordering::SeqCst);
    }
}

extern "C" fn finalize_as_destructor(_: *mut c_void) {
    finalize_at_exit();
}

/// Says what C_Finalize said, when nothing else of this program runs any more. Registered first, so it
/// runs last.
extern "C" fn say() {
    let text = format!("{:#x}\n", ENDED.load(Ordering::SeqCst));
    // SAFETY: the bytes are readable; standard output may be closed.
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
}

/// The program's own destructors (C++'s static objects end in the same list), after all exit handlers.
extern "C" fn destructor() {
    if IN_DESTRUCTOR.load(Ordering::SeqCst) {
        finalize_at_exit();
        say();
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destructor;

unsafe extern "C" {
    fn __cxa_atexit(
        function: extern "C" fn(*mut c_void),
        argument: *mut c_void,
        library: *mut c_void,
    ) -> c_int;
}

/// C_Finalize at exit(3), by a handler registered before or after the module came, or by destructors.
fn handlers(module: &Path, order: &str) -> ! {
    // SAFETY: the handlers stay where they are until the process ends.
    let register = |handler| assert_eq!(unsafe { libc::atexit(handler) }, 0);
    if order != "destructor" {
        register(say);
    }
    if order == "before" {
        register(finalize_at_exit);
    }
    let ck = load(module);
    log_in(&ck);
    assert!(CK.set(ck).is_ok());
    match order {
        "before" => {}
        "after" => register(finalize_at_exit),
        // SAFETY: as above.
        "object" => unsafe {
            let null = std::ptr::null_mut();
            assert_eq!(__cxa_atexit(finalize_as_destructor, null, null), 0);
        },
        "destructor" => IN_DESTRUCTOR.store(true, Ordering::SeqCst),
        // C_Finalize twice, in the order in which a host and a library of its own would.
        "twice" => {
            register(finalize_at_exit);
            register(finalize_at_exit);
        }
        other => panic!("no such order: {other}"),
    }
    // SAFETY: ending the process is what it is about.
    unsafe { libc::exit(0) }
}

/// A thread's own destructor signs and finalises, when the thread's Rust thread-locals have ended.
fn end_of_thread(module: &Path) {
    static LOGGED_IN: OnceLock<(Bare, u64, u64)> = OnceLock::new();
    unsafe extern "C" fn at_end(_: *mut c_void) {
        if let Some((bare, session, key)) = LOGGED_IN.get() {
            bare.sign(*session, *key);
            // SAFETY: NULL is what it takes.
            let told = unsafe { (bare.finalize)(std::ptr::null_mut()) };
            ENDED.store(told, Ordering::SeqCst);
        }
    }
    let ck = load(module);
    let bare = Bare::of(module);
    std::thread::spawn(move || {
        let mut place = 0;
        // SAFETY: the place is writable, and the destructor stays where it is.
        unsafe {
            assert_eq!(libc::pthread_key_create(&mut place, Some(at_end)), 0);
            assert_eq!(libc::pthread_setspecific(place, std::ptr::dangling()), 0);
        }
        let (session, key) = log_in(&ck);
        assert!(LOGGED_IN.set((bare, session, key)).is_ok());
    })
    .join()
    .expect("the thread ends well");
    assert_eq!(ENDED.load(Ordering::SeqCst), CKR_OK, "C_Finalize");
}

/// What a signal handler is told that interrupts C_Sign and calls in again, on the same thread.
fn signal(module: &Path) {
    static TOLD: [AtomicU64; 3] = [const { AtomicU64::new(u64::MAX) }; 3];
    extern "C" fn handler(_: c_int) {
        let Some(ck) = CK.get() else { return };
        let of = |answer: crate::ck::Answer<()>| answer.map_or_else(|rv| rv.0, |()| CKR_OK);
        TOLD[0].store(of(ck.initialize()), Ordering::SeqCst);
        TOLD[1].store(of(ck.info().map(drop)), Ordering::SeqCst);
        TOLD[2].store(of(ck.finalize()), Ordering::SeqCst);
    }
    let ck = load(module);
    let (session, key) = log_in(&ck);
    assert!(CK.set(ck.clone()).is_ok());
    // The test delays the signature that follows.
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the test says when");
    // SAFETY: the handler interrupts a thread that waits in poll(2), and this one alone: no other has it
    // unblocked.
    unsafe {
        libc::signal(libc::SIGALRM, handler as extern "C" fn(c_int) as libc::sighandler_t);
        let after = libc::itimerval {
            it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
            it_value: libc::timeval { tv_sec: 0, tv_usec: 500_000 },
        };
        assert_eq!(libc::setitimer(libc::ITIMER_REAL, &after, std::ptr::null_mut()), 0);
    }
    sign(&ck, session, key);
    let [initialize, info, finalize] = TOLD.each_ref().map(|told| told.load(Ordering::SeqCst));
    assert_eq!(initialize, CKR_CRYPTOKI_ALREADY_INITIALIZED, "C_Initialize");
    assert_eq!(info, CKR_FUNCTION_FAILED, "C_GetInfo");
    assert_eq!(finalize, CKR_FUNCTION_FAILED, "C_Finalize");
    sign(&ck, session, key);
    ck.finalize().expect("C_Finalize");
}

/// exit(3) while eight threads sign.
fn exit_amid(module: &Path) -> ! {
    let ck = load(module);
    let (_, key) = log_in(&ck);
    let slot = ck.slot_of(LABEL).expect("the token");
    let (signed, has_signed) = std::sync::mpsc::channel();
    for _ in 0..8 {
        let (ck, signed) = (ck.clone(), signed.clone());
        std::thread::spawn(move || {
            let session = ck.open(slot).expect("C_OpenSession");
            loop {
                sign(&ck, session, key);
                let _ = signed.send(());
            }
        });
    }
    for _ in 0..16 {
        has_signed.recv().expect("they sign");
    }
    // SAFETY: what happens to the threads is what the test wants to see.
    unsafe { libc::exit(0) }
}
