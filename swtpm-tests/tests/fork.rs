//! fork(2): what a child finds, and that whatever it does, or does not do, costs its parent nothing.
//!
//! `FORK_TEST_SIGNATURES` is how often each process of the crowd signs (default 15; 1,000 takes minutes),
//! `FORK_TEST_ROUNDS` how often a process forks while another of its threads works (default 15).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::app::{Birth, End};
use swtpm_tests::bench::{LABEL, PIN, wait_until};
use swtpm_tests::ck::{Ck, Mechanism, Message, P256, Rv, bytes, flag, guarded, number};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::{App, Attribute, Bench, Setup};

const DIGEST: [u8; 32] = [0x42; 32];

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What `fork_mode` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Strict,
    Resume,
}
use Mode::{Resume, Strict};

/// A parent that is logged in and has a key.
struct Parent {
    bench: Bench,
    app: App,
    session: u64,
    public: u64,
    key: u64,
}

fn bench(mode: Mode, managed: bool) -> Bench {
    let setup = match mode {
        Strict => Setup::default(),
        Resume => Setup::default().config("[process]\nfork_mode = \"resume\""),
    };
    let bench = if managed { setup.managed() } else { setup }.start();
    bench.token();
    bench
}

impl Parent {
    fn new(mode: Mode, managed: bool) -> Parent {
        let bench = bench(mode, managed);
        let (app, session) = bench.logged_in();
        let (public, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
        app.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
        Parent { bench, app, session, public, key }
    }

    fn sign(&self, ck: &Ck) -> Result<(), Rv> {
        sign_and_verify(ck, self.session, self.public, self.key)
    }

    fn goes_on(&self) {
        self.bench.must("C_Sign in the parent", self.sign(&self.app));
    }

    /// The end of every test: the parent has what it had, the TPM nothing, and no PIN try was spent.
    fn end(self) {
        self.goes_on();
        self.app.finalize().expect("C_Finalize");
        no_harm(&self.bench);
    }
}

fn sign_and_verify(ck: &Ck, session: u64, public: u64, key: u64) -> Result<(), Rv> {
    let signature = ck.sign(session, CKM_ECDSA, key, &DIGEST)?;
    ck.verify(session, CKM_ECDSA, public, &DIGEST, &signature)
}

fn no_harm(bench: &Bench) {
    assert!(bench.shim.settled(Duration::from_secs(10)).is_nothing(), "{}", bench.log());
    no_try_spent(bench);
}

fn no_try_spent(bench: &Bench) {
    assert_eq!(bench.shim.lockout_counter(), 0);
    let mut command = bench.command(swtpm_tests::bench::tool());
    command.args(["status", "--json"]);
    let output = bench.run(command, Duration::from_secs(60));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let token = &status["tpms"][0]["tokens"][0];
    for role in ["user_tries", "so_tries"] {
        assert_eq!(token[role]["left"], token[role]["limit"], "{token}");
    }
}

/// The life of a child that begins anew.
fn begin_anew(bench: &Bench, child: &App) {
    bench.must("C_Initialize in the child", child.initialize_with(CKF_OS_LOCKING_OK));
    let slot = child.slot_of(LABEL).expect("the token");
    let session = bench.must("C_OpenSession in the child", child.open(slot));
    bench.must("C_Login in the child", child.login(session, PIN));
    let class = |class| [number(CKA_CLASS, class), bytes(CKA_LABEL, "key")];
    let find = |of| child.find(session, &class(of)).expect("C_FindObjects in the child")[0];
    let (public, key) = (find(CKO_PUBLIC_KEY), find(CKO_PRIVATE_KEY));
    let signed = sign_and_verify(child, session, public, key);
    bench.must("C_Sign in the child", signed);
}

fn data(label: &str) -> Vec<Attribute> {
    vec![
        number(CKA_CLASS, CKO_DATA),
        flag(CKA_TOKEN, true),
        bytes(CKA_LABEL, label),
        bytes(CKA_VALUE, vec![7; 500]),
    ]
}

/// The four worlds.
fn everywhere(test: impl Fn(Mode, bool) + Sync) {
    std::thread::scope(|scope| {
        for mode in [Strict, Resume] {
            for managed in [false, true] {
                let test = &test;
                scope.spawn(move || test(mode, managed));
            }
        }
    });
}

#[test]
fn before_c_initialize_a_fork_changes_nothing() {
    everywhere(|mode, managed| {
        let bench = bench(mode, managed);
        let (maker, session) = bench.logged_in();
        maker.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
        maker.finalize().expect("C_Finalize");
        let app = bench.app();
        assert_eq!(app.info().map(drop).unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
        let child = app.fork();
        assert_eq!(child.info().map(drop).unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
        assert_eq!(child.finalize().unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
        begin_anew(&bench, &child);
        begin_anew(&bench, &app);
        child.finalize().expect("C_Finalize in the child");
        app.finalize().expect("C_Finalize");
        no_harm(&bench);
    });
}

#[test]
fn a_strict_child_is_not_initialised_until_it_initialises() {
    for managed in [false, true] {
        let parent = Parent::new(Strict, managed);
        let child = parent.app.fork();
        assert_eq!(child.info().map(drop).unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
        assert_eq!(parent.sign(&child).unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
        assert_eq!(child.finalize().unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
        begin_anew(&parent.bench, &child);
        let stale = child.session_info(parent.session).map(drop).unwrap_err();
        assert_eq!(stale, CKR_SESSION_HANDLE_INVALID, "the parent's handle is none there");
        parent.goes_on();
        child.finalize().expect("C_Finalize in the child");
        parent.end();
    }
}

#[test]
fn a_resumed_child_goes_on_with_slots_sessions_handles_and_login() {
    for managed in [false, true] {
        let parent = Parent::new(Resume, managed);
        let Parent { app, session, .. } = &parent;
        // An object of the session: a key that is in no store.
        let private = [flag(CKA_TOKEN, false), flag(CKA_SIGN, true), flag(CKA_PRIVATE, true)];
        let public = [flag(CKA_TOKEN, false), bytes(CKA_EC_PARAMS, P256), flag(CKA_VERIFY, true)];
        let pair = app.generate_pair(*session, CKM_EC_KEY_PAIR_GEN, &public, &private);
        let (its_public, its_key) = pair.expect("C_GenerateKeyPair");
        let slots = app.slots(true).expect("C_GetSlotList");
        let child = app.fork();
        assert_eq!(child.slots(true).expect("C_GetSlotList in the child"), slots);
        let info = child.session_info(*session).expect("C_GetSessionInfo in the child");
        assert_eq!(info.state, CKS_RW_USER_FUNCTIONS, "logged in");
        let again = child.initialize().unwrap_err();
        assert_eq!(again, CKR_CRYPTOKI_ALREADY_INITIALIZED, "it went on");
        for _ in 0..5 {
            parent.bench.must("C_Sign in the child", parent.sign(&child));
            let signed = sign_and_verify(&child, *session, its_public, its_key);
            parent.bench.must("C_Sign in the child, session object", signed);
            parent.goes_on();
        }
        // From here on they go their own ways.
        child.logout(*session).expect("C_Logout in the child");
        assert_eq!(child.login(*session, PIN), Ok(()));
        child.logout(*session).expect("C_Logout in the child");
        parent.goes_on();
        child.close_session(*session).expect("C_CloseSession in the child");
        parent.goes_on();
        child.finalize().expect("C_Finalize in the child");
        parent.end();
    }
}

#[test]
fn what_a_resumed_child_makes_is_its_own_until_it_is_in_the_store() {
    let parent = Parent::new(Resume, false);
    let Parent { app, session, .. } = &parent;
    let child = app.fork();
    let childs = child.create_object(*session, &data("child")).expect("C_CreateObject");
    let parents = app.create_object(*session, &data("parent")).expect("C_CreateObject");
    assert_ne!(childs, parents, "a handle of the one is no object of the other");
    assert!(app.attribute(*session, childs, CKA_LABEL).is_err());
    for ck in [app as &Ck, &child] {
        for label in ["child", "parent"] {
            assert_eq!(ck.find(*session, &[bytes(CKA_LABEL, label)]).unwrap().len(), 1, "{label}");
        }
    }
    let slot = app.slot_of(LABEL).expect("the token");
    let own = child.open(slot).expect("C_OpenSession in the child");
    assert_eq!(app.session_info(own).map(drop).unwrap_err(), CKR_SESSION_HANDLE_INVALID);
    child.exit();
    parent.end();
}

#[test]
fn a_child_that_initialises_first_begins_anew_in_either_mode() {
    everywhere(|mode, managed| {
        let parent = Parent::new(mode, managed);
        let child = parent.app.fork();
        begin_anew(&parent.bench, &child);
        let stale = child.session_info(parent.session).map(drop).unwrap_err();
        assert_eq!(stale, CKR_SESSION_HANDLE_INVALID);
        parent.goes_on();
        child.finalize().expect("C_Finalize in the child");
        parent.end();
    });
}

#[test]
fn a_child_that_finalises_and_initialises_begins_anew_in_either_mode() {
    everywhere(|mode, managed| {
        let parent = Parent::new(mode, managed);
        let child = parent.app.fork();
        let ended = child.finalize();
        match mode {
            Strict => assert_eq!(ended.unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED),
            Resume => assert_eq!(ended, Ok(())),
        }
        assert_eq!(child.info().map(drop).unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
        begin_anew(&parent.bench, &child);
        child.finalize().expect("C_Finalize in the child");
        parent.end();
    });
}

#[test]
fn a_child_that_only_ends_is_not_noticed_by_its_parent() {
    everywhere(|mode, managed| {
        let parent = Parent::new(mode, managed);
        for (used, end) in
            [(false, End::Sudden), (false, End::Orderly), (true, End::Sudden), (true, End::Orderly)]
        {
            parent.goes_on();
            let child = parent.app.fork();
            let id = child.id();
            if used && mode == Resume {
                parent.bench.must("C_Sign in the child", parent.sign(&child));
            } else if used {
                begin_anew(&parent.bench, &child);
            }
            if !managed {
                // What a process that dies in the middle leaves in a bare TPM, the next one removes.
                let left = parent.bench.shim.settled(Duration::from_secs(10));
                assert!(left.is_nothing(), "an idle child keeps {left:?}");
            }
            child.end(end);
            assert_eq!(parent.app.reap(id), 0, "{end:?}");
        }
        let (record, ()) = parent.bench.shim.watch(|| parent.goes_on());
        assert!(
            record.0.iter().all(|entry| entry.answer.is_none_or(|code| code == 0)),
            "{}",
            record.lines()
        );
        parent.end();
    });
}

#[test]
fn a_daemon_whose_parent_has_gone_is_not_held_up_by_what_it_inherited() {
    everywhere(|mode, managed| {
        let Parent { bench, app, session, public, key } = Parent::new(mode, managed);
        // The lease is open: connection, session, the lock of whose turn it is.
        sign_and_verify(&app, session, public, key).expect("C_Sign");
        let daemon = app.fork();
        app.end(End::Sudden);
        match mode {
            Strict => begin_anew(&bench, &daemon),
            Resume => {
                let signed = sign_and_verify(&daemon, session, public, key);
                bench.must("C_Sign in the daemon", signed);
            }
        }
        let (another, its) = bench.logged_in();
        let wanted = [number(CKA_CLASS, CKO_PRIVATE_KEY)];
        let found = another.find(its, &wanted).expect("C_FindObjects")[0];
        bench.must("C_Sign elsewhere", another.sign(its, CKM_ECDSA, found, &DIGEST));
        another.finalize().expect("C_Finalize");
        daemon.finalize().expect("C_Finalize in the daemon");
        if managed {
            no_harm(&bench);
        } else {
            // What the parent had loaded in a bare TPM lies there until it is in somebody's way.
            no_try_spent(&bench);
        }
    });
}

#[test]
fn an_idle_child_keeps_nothing_of_the_tpm() {
    for managed in [false, true] {
        let parent = Parent::new(Resume, managed);
        parent.goes_on();
        let child = parent.app.fork();
        parent.app.finalize().expect("C_Finalize");
        // The child has not called anything yet, and what its parent had is gone all the same.
        let left = parent.bench.shim.settled(Duration::from_secs(10));
        assert!(left.is_nothing(), "{left:?}");
        parent.bench.must("C_Sign in the child", parent.sign(&child));
        child.finalize().expect("C_Finalize in the child");
        no_harm(&parent.bench);
    }
}

#[test]
fn grandchildren_find_what_children_find() {
    everywhere(|mode, managed| {
        let parent = Parent::new(mode, managed);
        // A child that calls nothing in between, and one that does.
        for used in [false, true] {
            let child = parent.app.fork();
            if used && mode == Resume {
                parent.bench.must("C_Sign in the child", parent.sign(&child));
            } else if used {
                begin_anew(&parent.bench, &child);
            }
            let grandchild = child.fork();
            match mode {
                Strict => {
                    let rv = grandchild.info().map(drop).unwrap_err();
                    assert_eq!(rv, CKR_CRYPTOKI_NOT_INITIALIZED);
                    begin_anew(&parent.bench, &grandchild);
                }
                Resume => {
                    parent.bench.must("C_Sign in the grandchild", parent.sign(&grandchild));
                }
            }
            parent.goes_on();
            child.exit();
            grandchild.finalize().expect("C_Finalize in the grandchild");
        }
        parent.end();
    });
}

#[test]
fn an_operation_in_progress_goes_on_in_a_resumed_child() {
    let parent = Parent::new(Resume, false);
    let Parent { app, session, public, key, .. } = &parent;
    for number in 0..7 {
        app.create_object(*session, &data(&format!("found {number}"))).expect("C_CreateObject");
    }
    app.sign_init(*session, CKM_ECDSA_SHA256, *key).expect("C_SignInit");
    app.sign_update(*session, b"before ").expect("C_SignUpdate");
    let template = swtpm_tests::ck::template(&[number(CKA_CLASS, CKO_DATA)]);
    let (rv, _) =
        app.raw("C_FindObjectsInit", vec![(*session).into(), template.into(), Argument::Word(1)]);
    assert_eq!(rv, CKR_OK);
    let next = |ck: &Ck, most: usize| {
        let arguments = vec![
            (*session).into(),
            Memory::room(8 * most).into(),
            Argument::Word(most as u64),
            Memory::room(8).into(),
        ];
        let (rv, after) = ck.raw("C_FindObjects", arguments);
        (rv, after[3].memory().word_at(0))
    };
    assert_eq!(next(app, 3), (CKR_OK, 3));

    let child = app.fork();
    for (ck, data) in [(&child as &Ck, "child"), (app, "parent")] {
        assert_eq!(next(ck, 10), (CKR_OK, 4), "the rest of the search");
        ck.sign_update(*session, data.as_bytes()).expect("C_SignUpdate");
        let signature = ck.sign_final(*session).expect("C_SignFinal");
        let whole = format!("before {data}");
        ck.verify(*session, CKM_ECDSA_SHA256, *public, whole.as_bytes(), &signature)
            .expect("a signature of what this process signed");
    }
    child.exit();
    parent.end();
}

#[test]
fn messages_are_decrypted_on_in_a_resumed_child_and_encrypted_by_its_parent_alone() {
    let parent = Parent::new(Resume, false);
    let (app, session) = (&parent.app, parent.session);
    let value = [number(CKA_VALUE_LEN, 16), flag(CKA_TOKEN, false)];
    let key = app.generate_key(session, CKM_AES_KEY_GEN, &value).expect("C_GenerateKey");
    for encrypt in [true, false] {
        app.message_init(session, encrypt, CKM_AES_GCM, key).expect("C_MessageXInit");
    }
    let mut message = Message::new(CKM_AES_GCM, &[0; 12], 16, 5);
    message.generator = CKG_GENERATE;
    let sealed = app.message(session, true, &mut message, b"", b"first").expect("a message");

    let child = app.fork();
    let opened = child.message(session, false, &mut message.clone(), b"", &sealed);
    assert_eq!(opened, Ok(b"first".to_vec()));
    let mut next = message.clone();
    let refused = child.message(session, true, &mut next, b"", b"child");
    assert_eq!(refused, Err(Rv(CKR_OPERATION_NOT_INITIALIZED)));
    // It begins anew, with nonces of its own.
    child.message_init(session, true, CKM_AES_GCM, key).expect("C_MessageEncryptInit");
    let mut of_child = message.clone();
    child.message(session, true, &mut of_child, b"", b"child").expect("a message");
    app.message(session, true, &mut next, b"", b"again").expect("a message");
    assert_ne!(of_child.nonce, next.nonce);
    assert_ne!(message.nonce, next.nonce);
    child.exit();
    parent.end();
}

#[test]
fn parent_and_child_wrap_no_two_keys_under_one_nonce() {
    let parent = Parent::new(Resume, false);
    let (app, session) = (&parent.app, parent.session);
    let key = |roles: &[Attribute]| {
        let own = [number(CKA_VALUE_LEN, 16), flag(CKA_TOKEN, false)];
        app.generate_key(session, CKM_AES_KEY_GEN, &[&own[..], roles].concat())
    };
    let wrapping = key(&[flag(CKA_WRAP, true)]).expect("C_GenerateKey");
    let target = key(&guarded()).expect("C_GenerateKey");
    let wrap = |ck: &Ck| {
        let mut message = Message::new(CKM_AES_GCM, &[0; 12], 16, 0);
        message.generator = CKG_GENERATE;
        ck.wrap_message(session, &mut message, b"", wrapping, target).expect("C_WrapKey");
        message.nonce
    };
    let before = wrap(app);
    let child = app.fork();
    let (of_child, of_parent) = (wrap(&child), wrap(app));
    assert!(before != of_child && before != of_parent && of_child != of_parent);
    child.exit();
    parent.end();
}

/// One rule for whatever an IV, a nonce or a counter belongs to: two processes that went on with it would
/// encrypt different data with the same key stream (and GCM's, GMAC's authenticator would be anybody's).
#[test]
fn what_an_iv_or_a_counter_is_for_is_encrypted_on_by_the_parent_alone() {
    let parent = Parent::new(Resume, false);
    let (app, session) = (&parent.app, parent.session);
    let roles = [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY].map(|role| flag(role, true));
    let value = [number(CKA_VALUE_LEN, 16), flag(CKA_TOKEN, false)];
    let key = app.generate_key(session, CKM_AES_KEY_GEN, &[&value[..], &roles].concat());
    let key = key.expect("C_GenerateKey");
    let iv = [0x77; 16];
    let gone = Rv(CKR_OPERATION_NOT_INITIALIZED);
    let (before, after): (&[u8], &[u8]) = (&[1; 20], &[2; 28]);
    let plain = [before, after].concat();
    let parts = |ck: &Ck| ck.encrypt_parts(session, [after]);
    for mechanism in [
        Mechanism::counter(128, iv),
        Mechanism::bytes(CKM_AES_OFB, &iv),
        Mechanism::bytes(CKM_AES_CFB8, &iv),
        Mechanism::bytes(CKM_AES_CFB128, &iv),
        Mechanism::bytes(CKM_AES_CBC, &iv),
        Mechanism::bytes(CKM_AES_CBC_PAD, &iv),
        Mechanism::gcm(CKM_AES_GCM, &iv[..12], b"", 128),
        Mechanism::ccm(48, &iv[..12], b"", 16),
    ] {
        app.encrypt_init(session, mechanism.clone(), key).expect("C_EncryptInit");
        let mut sealed = app.encrypt_update(session, before).expect("C_EncryptUpdate");
        let child = app.fork();
        assert_eq!(parts(&child), Err(gone), "{mechanism:?}");
        // It begins anew; what decrypts is of the child's own.
        child.encrypt(session, mechanism.clone(), key, &plain).expect("C_Encrypt");
        sealed.extend(parts(app).expect("the parent's goes on"));

        app.decrypt_init(session, mechanism.clone(), key).expect("C_DecryptInit");
        let grandchild = app.fork();
        for ck in [&grandchild as &Ck, app] {
            let opened = ck.decrypt_parts(session, [&sealed[..]]);
            assert_eq!(opened, Ok(plain.clone()), "{mechanism:?}");
        }
        child.exit();
        grandchild.exit();
    }
    // Two MACs under one nonce of GCM give its authenticator away; two of CMAC tell nothing.
    for (mechanism, goes_on) in
        [(Mechanism::gcm(CKM_AES_GMAC, &iv[..12], b"", 128), false), (CKM_AES_CMAC.into(), true)]
    {
        app.sign_init(session, mechanism.clone(), key).expect("C_SignInit");
        app.sign_update(session, before).expect("C_SignUpdate");
        let child = app.fork();
        assert_eq!(child.sign_final(session).err(), (!goes_on).then_some(gone), "{mechanism:?}");
        let mac = app.sign_final(session).expect("the parent's goes on");
        app.verify(session, mechanism, key, before, &mac).expect("C_Verify");
        child.exit();
    }
    // Nothing of ECB depends on what came before.
    app.encrypt_init(session, CKM_AES_ECB, key).expect("C_EncryptInit");
    let child = app.fork();
    assert_eq!(child.encrypt_parts(session, [&iv[..]]), app.encrypt_parts(session, [&iv[..]]));
    child.exit();
    parent.end();
}

#[test]
fn the_login_for_one_use_of_a_key_stays_with_the_parent() {
    let bench = bench(Resume, false);
    let (app, session) = bench.logged_in();
    let private = [
        flag(CKA_TOKEN, true),
        flag(CKA_SIGN, true),
        flag(CKA_PRIVATE, true),
        flag(CKA_ALWAYS_AUTHENTICATE, true),
    ];
    let public = [flag(CKA_TOKEN, true), bytes(CKA_EC_PARAMS, P256), flag(CKA_VERIFY, true)];
    let (_, key) = app
        .generate_pair(session, CKM_EC_KEY_PAIR_GEN, &public, &private)
        .expect("C_GenerateKeyPair");
    app.sign_init(session, CKM_ECDSA, key).expect("C_SignInit");
    app.login_as(session, CKU_CONTEXT_SPECIFIC, PIN).expect("C_Login");
    let child = app.fork();
    assert_eq!(child.sign_now(session, &DIGEST).unwrap_err(), CKR_USER_NOT_LOGGED_IN);
    app.sign_now(session, &DIGEST).expect("the parent's login is still there");
    child.sign_init(session, CKM_ECDSA, key).expect("C_SignInit in the child");
    child.login_as(session, CKU_CONTEXT_SPECIFIC, PIN).expect("C_Login in the child");
    child.sign_now(session, &DIGEST).expect("with a login of its own");
    child.finalize().expect("C_Finalize in the child");
    app.finalize().expect("C_Finalize");
    no_harm(&bench);
}

/// Ends the other threads.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Forks again and again while another thread is inside C_Sign, and others create objects and search.
fn forks_in_the_middle(mode: Mode, managed: bool) {
    let rounds = from_environment("FORK_TEST_ROUNDS", 15);
    let parent = Parent::new(mode, managed);
    let Parent { bench, app, session, public, key } = &parent;
    let mut without = 0;
    let slot = app.slot_of(LABEL).expect("the token");
    let (stop, signed, written) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let until = |work: &(dyn Fn(&Ck, u64) + Sync)| {
        let ck = app.thread();
        let session = ck.open(slot).expect("C_OpenSession");
        while !stop.load(Ordering::Relaxed) {
            work(&ck, session);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until(&|ck, session| {
                let signed_now = sign_and_verify(ck, session, *public, *key);
                bench.must("C_Sign beside the forks", signed_now);
                signed.fetch_add(1, Ordering::Relaxed);
            });
        });
        scope.spawn(|| {
            until(&|ck, session| {
                let made = ck.create_object(session, &data("beside"));
                let made = bench.must("C_CreateObject beside the forks", made);
                bench.must("C_FindObjects", ck.find(session, &[bytes(CKA_LABEL, "beside")]));
                bench.must("C_DestroyObject", ck.destroy_object(session, made));
                written.fetch_add(1, Ordering::Relaxed);
            });
        });
        let begun = wait_until(Duration::from_secs(30), || {
            signed.load(Ordering::Relaxed) > 0 && written.load(Ordering::Relaxed) > 0
        });
        // Also when something is wrong.
        let _stop = Stop(&stop);
        assert!(begun, "they work");
        for round in 0..rounds {
            let child = app.fork();
            if mode == Strict {
                bench.must("C_Initialize in the child", child.initialize_with(CKF_OS_LOCKING_OK));
            }
            // On a machine that is too busy a thread stays in the middle of a write for too long: then
            // the child says so, and nothing else happens.
            if child.slot_of(LABEL).is_none() {
                assert!(bench.log().contains("forked while another thread"), "{}", bench.log());
                without += 1;
                child.finalize().expect("C_Finalize in the child");
                child.exit();
                continue;
            }
            match mode {
                Strict => {
                    child.finalize().expect("C_Finalize in the child");
                    begin_anew(bench, &child);
                }
                Resume => {
                    // The session that no other thread used is there, whatever the others did.
                    bench.must(
                        "C_Sign in the child",
                        sign_and_verify(&child, *session, *public, *key),
                    );
                    let made = child.create_object(*session, &data("child"));
                    let made = bench.must("C_CreateObject in the child", made);
                    bench.must("C_DestroyObject", child.destroy_object(*session, made));
                }
            }
            let id = child.id();
            child.finalize().expect("C_Finalize in the child");
            child.end(if round % 2 == 0 { End::Sudden } else { End::Orderly });
            assert_eq!(app.reap(id), 0);
        }
    });
    println!(
        "{mode:?}, managed {managed}: {rounds} forks ({without} without the store) beside {} signatures and {} \
         writes",
        signed.into_inner(),
        written.into_inner()
    );
    parent.end();
}

#[test]
fn a_fork_while_another_thread_is_inside_c_sign_on_a_bare_tpm_strict() {
    forks_in_the_middle(Strict, false);
}

#[test]
fn a_fork_while_another_thread_is_inside_c_sign_on_a_bare_tpm_resume() {
    forks_in_the_middle(Resume, false);
}

#[test]
fn a_fork_while_another_thread_is_inside_c_sign_behind_the_resource_manager_strict() {
    forks_in_the_middle(Strict, true);
}

#[test]
fn a_fork_while_another_thread_is_inside_c_sign_behind_the_resource_manager_resume() {
    forks_in_the_middle(Resume, true);
}

#[test]
fn a_session_that_another_thread_works_in_has_no_operation_in_the_child() {
    use swtpm_tests::shim::{Action, Fault};
    let parent = Parent::new(Resume, false);
    let Parent { bench, app, session, key, .. } = &parent;
    let slow = Duration::from_millis(1500);
    let mark = bench.shim.mark();
    bench.shim.inject(Fault::at(swtpm_tests::wire::SIGN, Action::Delay(slow)));
    std::thread::scope(|scope| {
        let other = app.thread();
        let signature = scope.spawn(move || other.sign(*session, CKM_ECDSA, *key, &DIGEST));
        assert!(wait_until(Duration::from_secs(10), || {
            bench.shim.since(mark).count(swtpm_tests::wire::SIGN) > 0 || signature.is_finished()
        }));
        let child = app.fork();
        let rv = child.sign_now(*session, &DIGEST).unwrap_err();
        assert_eq!(rv, CKR_OPERATION_NOT_INITIALIZED);
        bench.must("C_Sign in the child", parent.sign(&child));
        child.finalize().expect("C_Finalize in the child");
        signature.join().expect("no panic").expect("C_Sign in the parent");
    });
    parent.end();
}

/// Eight children and their parent sign at once.
fn crowd(mode: Mode, managed: bool) {
    const CHILDREN: usize = 8;
    let each = from_environment("FORK_TEST_SIGNATURES", 15);
    let parent = Parent::new(mode, managed);
    let children: Vec<App> = (0..CHILDREN).map(|_| parent.app.fork()).collect();
    std::thread::scope(|scope| {
        for child in &children {
            let parent = &parent;
            scope.spawn(move || {
                let (session, public, key) = match mode {
                    Resume => (parent.session, parent.public, parent.key),
                    Strict => {
                        begin_anew(&parent.bench, child);
                        let session = child.open(child.slot_of(LABEL).unwrap()).unwrap();
                        let find =
                            |class| child.find(session, &[number(CKA_CLASS, class)]).unwrap();
                        (session, find(CKO_PUBLIC_KEY)[0], find(CKO_PRIVATE_KEY)[0])
                    }
                };
                for turn in 0..each {
                    let signed = sign_and_verify(child, session, public, key);
                    parent.bench.must(&format!("signature {turn} in a child"), signed);
                }
            });
        }
        for _ in 0..each {
            parent.goes_on();
        }
    });
    for child in children {
        child.finalize().expect("C_Finalize in a child");
    }
    parent.end();
}

#[test]
fn eight_children_sign_beside_their_parent_on_a_bare_tpm_strict() {
    crowd(Strict, false);
}

#[test]
fn eight_children_sign_beside_their_parent_on_a_bare_tpm_resume() {
    crowd(Resume, false);
}

#[test]
fn eight_children_sign_beside_their_parent_behind_the_resource_manager_strict() {
    crowd(Strict, true);
}

#[test]
fn eight_children_sign_beside_their_parent_behind_the_resource_manager_resume() {
    crowd(Resume, true);
}

#[test]
fn programs_that_the_application_starts_have_nothing_of_ours_and_take_nothing_away() {
    everywhere(|mode, managed| {
        let parent = Parent::new(mode, managed);
        let store = parent.bench.store().display().to_string();
        let tpm = parent.bench.shim.socket().display().to_string();
        for forks in [false, true] {
            parent.goes_on();
            let open = parent.app.run(forks, "ls -l /proc/self/fd");
            assert!(!open.contains(&store) && !open.contains(&tpm), "{open}");
            let sockets = open.lines().filter(|line| line.contains("socket:")).count();
            assert_eq!(sockets, 0, "{open}");
        }
        let (record, ()) = parent.bench.shim.watch(|| parent.goes_on());
        assert!(
            record.0.iter().all(|entry| entry.answer.is_none_or(|code| code == 0)),
            "{}",
            record.lines()
        );
        parent.end();
    });
}

#[test]
fn a_child_of_a_bare_clone_is_told_apart_too() {
    for mode in [Strict, Resume] {
        let parent = Parent::new(mode, false);
        let child = parent.app.give_birth(Birth::Clone);
        match mode {
            Strict => {
                assert_eq!(parent.sign(&child).unwrap_err(), CKR_CRYPTOKI_NOT_INITIALIZED);
                begin_anew(&parent.bench, &child);
            }
            Resume => parent.bench.must("C_Sign in the child", parent.sign(&child)),
        }
        parent.goes_on();
        child.finalize().expect("C_Finalize in the child");
        parent.end();
    }
}

/// A writer that waits for another process's lock on the store: the fork does not wait as long as it.
#[test]
fn a_fork_beside_a_writer_that_waits_is_not_held_up_and_the_child_says_what_is_wrong() {
    let parent = Parent::new(Strict, false);
    let Parent { bench, app, session, .. } = &parent;
    let file = bench.store().join("tpm11.sqlite3");
    let locker = rusqlite::Connection::open(&file).expect("the store's file");
    locker.execute_batch("BEGIN IMMEDIATE").expect("a lock on it");
    std::thread::scope(|scope| {
        let other = app.thread();
        let writer = scope.spawn(move || other.create_object(*session, &data("waits")));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!writer.is_finished(), "it waits for the lock");
        let began = std::time::Instant::now();
        let child = app.fork();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        child.initialize().expect("C_Initialize in the child");
        assert_eq!(child.slot_of(LABEL), None, "no store");
        let slot = child.slots(true).expect("C_GetSlotList in the child")[0];
        let rv = child.token_info(slot).map(drop).unwrap_err();
        assert_eq!(rv, CKR_TOKEN_NOT_RECOGNIZED);
        child.finalize().expect("C_Finalize in the child");
        child.exit();
        drop(locker);
        writer.join().expect("no panic").expect("C_CreateObject once the lock is gone");
    });
    assert!(bench.log().contains("forked while another thread"), "{}", bench.log());
    parent.end();
}

#[test]
fn what_a_writer_was_in_the_middle_of_is_whole_after_children_came_and_went() {
    let parent = Parent::new(Strict, false);
    let Parent { bench, app, session, .. } = &parent;
    const WRITES: usize = 30;
    std::thread::scope(|scope| {
        let other = app.thread();
        let writer = scope.spawn(move || {
            for number in 0..WRITES {
                let made = other.create_object(*session, &data(&format!("written {number}")));
                bench.must("C_CreateObject beside the forks", made);
            }
        });
        while !writer.is_finished() {
            let child = app.fork();
            child.initialize().expect("C_Initialize in the child");
            child.end(End::Orderly);
        }
        writer.join().expect("no panic");
    });
    let found = app.find(*session, &[number(CKA_CLASS, CKO_DATA)]).expect("C_FindObjects");
    assert_eq!(found.len(), WRITES);
    let checked: String = rusqlite::Connection::open(bench.store().join("tpm11.sqlite3"))
        .and_then(|file| file.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .expect("a check");
    assert_eq!(checked, "ok");
    parent.end();
}

#[test]
fn no_interface_claims_to_be_safe_across_forks() {
    for mode in [Strict, Resume] {
        let bench = bench(mode, false);
        let app = bench.ready();
        let wanted = Argument::Word(CKF_INTERFACE_FORK_SAFE);
        let place = Memory::room(8).into();
        let (rv, _) =
            app.raw("C_GetInterface", vec![Argument::NULL, Argument::NULL, place, wanted]);
        assert_ne!(rv, CKR_OK);
    }
}
