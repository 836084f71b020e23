//! Waiting: for a TPM that does not answer, is slow, full, busy or gone, for other processes and for the
//! store. Who waits can be told to stop, does not wait for ever, and does not try what just failed.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use swtpm_tests::bench::{LABEL, PIN, wait_until};
use swtpm_tests::ck::{Answer, P256, Rv, bytes, flag, number};
use swtpm_tests::shim::{Action, Fault, Hold};
use swtpm_tests::swtpm::read_message;
use swtpm_tests::{App, Bench, Ck, Setup, wire};

const DIGEST: [u8; 32] = [0x42; 32];
/// Longer than any wait that is told to end may take, on a machine that has too much to do.
const SOON: Duration = Duration::from_secs(30);
/// What a call is in the middle of, after this long.
const A_WHILE: Duration = Duration::from_millis(300);

/// Whoever waits here waits for minutes, unless he is told to stop. Each call finds the TPM closed.
fn patient() -> Bench {
    const LIMITS: &str = "call_timeout_s = 200\nkeygen_timeout_s = 200\nshort_timeout_s = 200\n\
                          command_timeout_s = 200\nlinger_ms = 0";
    let bench = Setup::default().tpm(LIMITS).config("[store]\nbusy_timeout_ms = 200000").start();
    bench.token();
    bench
}

/// Something that keeps a signature waiting. Dropping it takes it away.
struct Obstacle<'a> {
    /// Whether somebody has run into it, where that can be told.
    met: Box<dyn Fn() -> bool + 'a>,
    /// Whether what waits here is known to be in this place and in no other.
    only: Box<dyn Fn() -> bool + 'a>,
    away: Option<Box<dyn FnOnce() + 'a>>,
}

impl<'a> Obstacle<'a> {
    fn new(away: impl FnOnce() + 'a) -> Obstacle<'a> {
        Obstacle { met: Box::new(|| true), only: Box::new(|| true), away: Some(Box::new(away)) }
    }

    fn met(mut self, met: impl Fn() -> bool + 'a) -> Obstacle<'a> {
        self.met = Box::new(met);
        self
    }

    fn only(mut self, only: impl Fn() -> bool + 'a) -> Obstacle<'a> {
        self.only = Box::new(only);
        self
    }
}

impl Drop for Obstacle<'_> {
    fn drop(&mut self) {
        self.away.take().expect("once")();
    }
}

type Place = (&'static str, for<'a> fn(&'a Bench, &'a App) -> Obstacle<'a>);

/// A listener where the shim's was.
fn impostor(bench: &Bench, backlog: i32) -> rustix::fd::OwnedFd {
    bench.shim.hide();
    let address = SocketAddrUnix::new(bench.shim.socket()).expect("a short path");
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("made");
    rustix::net::bind(&socket, &address).expect("a free path");
    rustix::net::listen(&socket, backlog).expect("it listens");
    socket
}

fn unmask(bench: &Bench) {
    std::fs::remove_file(bench.shim.socket()).expect("the impostor's");
    bench.shim.show();
}

fn answers(code: u32) -> Fault {
    Fault::at_any(Action::Answer(code)).always()
}

fn after_answers<'a>(bench: &'a Bench, code: u32) -> Obstacle<'a> {
    bench.shim.inject(answers(code));
    Obstacle::new(|| _ = bench.shim.heal()).met(|| bench.shim.met() >= 2)
}

/// The names of an application's threads.
fn threads(app: &App) -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", app.id())) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

const NO_ANSWER: &str = "no answer to the last command";

/// Where a signature that finds the TPM closed can be made to wait.
const PLACES: &[Place] = &[
    ("nobody listens", |bench, _| {
        bench.shim.hide();
        Obstacle::new(|| bench.shim.show())
    }),
    ("swtpm serves somebody else", |bench, _| {
        let mut stranger = UnixStream::connect(bench.shim.socket()).expect("a connection");
        let ask = wire::get_capability(6, 0x100, 1);
        std::io::Write::write_all(&mut stranger, &ask).expect("sent");
        read_message(&mut stranger).expect("it is served");
        Obstacle::new(|| drop(stranger))
    }),
    ("nobody accepts", |bench, _| {
        let listener = impostor(bench, 16);
        Obstacle::new(|| {
            unmask(bench);
            drop(listener);
        })
    }),
    ("the queue of connections is full", |bench, _| {
        let listener = impostor(bench, 0);
        let first = UnixStream::connect(bench.shim.socket()).expect("room for one");
        Obstacle::new(|| {
            unmask(bench);
            drop((first, listener));
        })
    }),
    ("RETRY", |bench, _| after_answers(bench, 0x922)),
    ("TESTING", |bench, _| after_answers(bench, 0x90A)),
    ("NV_RATE", |bench, _| after_answers(bench, 0x920)),
    (NO_ANSWER, |bench, _| {
        let hold = Hold::new();
        bench.shim.inject(Fault::at(wire::SIGN, Action::Hold(hold.clone())));
        let here = hold.clone();
        Obstacle::new(move || {
            hold.release(Some(Action::DropBefore));
            bench.shim.heal();
        })
        .met(move || here.wait(Duration::ZERO))
    }),
    ("another process's turn", |bench, app| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let store = rustix::fs::open(bench.store(), flags, Mode::empty()).expect("it is there");
        rustix::fs::flock(&store, FlockOperation::LockExclusive).expect("our turn");
        // Whoever has waited for long enough goes on, and is stopped here.
        bench.shim.inject(Fault::at_any(Action::Silence).always());
        Obstacle::new(|| {
            bench.shim.heal();
            drop(store);
        })
        .met(|| threads(app).iter().any(|name| name == "tpm11-queue"))
        .only(|| bench.shim.met() == 0)
    }),
];

/// What ends the wait: the call, and what the waiting one may return.
fn sign_waits(
    bench: &Bench,
    app: &App,
    session: u64,
    key: u64,
    obstacle: &Obstacle<'_>,
    stop: impl FnOnce(),
) -> Answer<Vec<u8>> {
    app.sign_init(session, CKM_ECDSA, key).expect("C_SignInit");
    let other = app.thread();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || other.sign_now(session, &DIGEST));
        std::thread::sleep(A_WHILE);
        assert!(wait_until(SOON, || (obstacle.met)()), "it gets there: {}", bench.log());
        assert!(!waiting.is_finished(), "it waits");
        let begun = Instant::now();
        stop();
        let answer = waiting.join().expect("no panic");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        answer
    })
}

/// Runs `attempt` until it was in the place that it is about, which a busy machine may prevent.
fn in_its_place(what: &str, mut attempt: impl FnMut() -> bool) {
    assert!((0..8).any(|_| attempt()), "{what}: never in the right place");
}

fn cancel(ck: &Ck, session: u64, flags: u64) -> u64 {
    ck.raw("C_SessionCancel", vec![session.into(), flags.into()]).0
}

#[test]
fn c_session_cancel_ends_a_signature_wherever_it_waits_and_the_next_one_works() {
    let bench = patient();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    for (place, obstruct) in PLACES {
        in_its_place(place, || {
            assert!(bench.shim.settled(SOON).is_nothing(), "{place}: the TPM is closed");
            let obstacle = obstruct(&bench, &app);
            let stop = || assert_eq!(cancel(&app, session, CKF_SIGN), CKR_OK);

            let answer = sign_waits(&bench, &app, session, key, &obstacle, stop);

            // Canceled before it began: then there was nothing to sign any more.
            let begun = answer != Err(Rv(CKR_OPERATION_NOT_INITIALIZED));
            let right = begun && (obstacle.only)();
            drop(obstacle);
            if *place == NO_ANSWER {
                sweep(&bench);
            }
            if begun {
                assert_eq!(answer, Err(Rv(CKR_FUNCTION_CANCELED)), "{place}\n{}", bench.log());
            }
            let ended = app.sign_now(session, &DIGEST);
            assert_eq!(ended, Err(Rv(CKR_OPERATION_NOT_INITIALIZED)), "{place}");
            app.sign(session, CKM_ECDSA, key, &DIGEST)
                .unwrap_or_else(|rv| panic!("{place}, then: {rv:?}\n{}", bench.log()));
            right
        });
    }
    assert_eq!(bench.shim.lockout_counter(), 0);
    app.finalize().expect("C_Finalize");
    assert!(bench.shim.settled(Duration::from_secs(10)).is_nothing());
}

/// Nobody can flush what is in a TPM that does not answer: it is tried for a second, then left to who next
/// finds the TPM full.
fn sweep(bench: &Bench) {
    let left = bench.shim.left();
    for handle in left.objects.iter().chain(&left.sessions) {
        bench.shim.ask(&wire::command(wire::FLUSH_CONTEXT, &[*handle], None, &[]));
    }
}

/// What a call may return that C_Finalize ended.
const ENDED: [Rv; 2] = [Rv(CKR_FUNCTION_CANCELED), Rv(CKR_SESSION_CLOSED)];

#[test]
fn c_finalize_ends_a_signature_wherever_it_waits_and_the_next_life_works() {
    let bench = patient();
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.finalize().expect("C_Finalize");
    let mark = bench.shim.mark();
    let live = || {
        app.initialize().expect("C_Initialize");
        let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
        app.login(session, PIN).unwrap_or_else(|rv| panic!("C_Login: {rv:?}\n{}", bench.log()));
        let wanted = [number(CKA_CLASS, CKO_PRIVATE_KEY)];
        (session, app.find(session, &wanted).expect("C_FindObjects")[0])
    };
    for (place, obstruct) in PLACES {
        in_its_place(place, || {
            let (session, key) = live();
            assert!(bench.shim.settled(SOON).is_nothing(), "{place}: the TPM is closed");
            let obstacle = obstruct(&bench, &app);
            let stop = || app.finalize().expect("C_Finalize");

            let answer = sign_waits(&bench, &app, session, key, &obstacle, stop);

            let late = Rv(CKR_CRYPTOKI_NOT_INITIALIZED);
            let rv = answer.expect_err(place);
            let right = rv != late && (obstacle.only)();
            assert!(rv == late || ENDED.contains(&rv), "{place}: {rv:?}\n{}", bench.log());
            assert_eq!(app.slots(true), Err(late), "{place}");
            assert_eq!(app.sign_now(session, &DIGEST), Err(late), "{place}");
            drop(obstacle);
            if *place == NO_ANSWER {
                sweep(&bench);
            }
            let (session, key) = live();
            app.sign(session, CKM_ECDSA, key, &DIGEST)
                .unwrap_or_else(|rv| panic!("{place}, then: {rv:?}\n{}", bench.log()));
            app.finalize().expect("C_Finalize");
            let left = bench.shim.settled(Duration::from_secs(10));
            assert!(left.is_nothing(), "{place}: {left:?}\n{}", bench.log());
            right
        });
    }
    assert_eq!(bench.shim.pin_tries(mark), 0);
    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn c_finalize_ends_a_login_wherever_it_waits_and_no_try_is_spent() {
    let bench = patient();
    let app = bench.app();
    let mark = bench.shim.mark();
    for (place, obstruct) in PLACES {
        // A login sends no TPM2_Sign; it is held where its PIN goes.
        let hold = Hold::new();
        let at_the_pin = *place == NO_ANSWER;
        in_its_place(place, || {
            app.initialize().expect("C_Initialize");
            let slot = app.slot_of(LABEL).expect("the token");
            let session = app.open(slot).expect("C_OpenSession");
            let obstacle = if at_the_pin {
                let action = Action::Hold(hold.clone());
                bench.shim.inject(Fault::at(wire::POLICY_SECRET, action));
                let here = hold.clone();
                Obstacle::new(|| {
                    hold.release(Some(Action::DropBefore));
                    bench.shim.heal();
                })
                .met(move || here.wait(Duration::ZERO))
            } else {
                obstruct(&bench, &app)
            };
            let other = app.thread();
            let rv = std::thread::scope(|scope| {
                let waiting = scope.spawn(move || other.login(session, PIN));
                std::thread::sleep(A_WHILE);
                assert!(wait_until(SOON, || (obstacle.met)()), "{place}: {}", bench.log());
                let begun = Instant::now();
                app.finalize().expect("C_Finalize");
                let answer = waiting.join().expect("no panic");
                assert!(begun.elapsed() < SOON, "{place}: {:?}", begun.elapsed());
                answer.expect_err(place)
            });
            let right = rv != CKR_CRYPTOKI_NOT_INITIALIZED && (obstacle.only)();
            assert!(!right || ENDED.contains(&rv), "{place}: {rv:?}\n{}", bench.log());
            drop(obstacle);
            right
        });
    }
    assert_eq!(bench.shim.pin_tries(mark), 0);
    assert_eq!(bench.shim.lockout_counter(), 0);
    drop(app);
    let (app, _) = bench.logged_in();
    app.finalize().expect("C_Finalize");
}

/// One thread has the TPM, and another one waits for its turn.
#[test]
fn a_call_that_waits_for_another_threads_turn_is_canceled_and_the_other_one_is_not() {
    let bench = patient();
    let (app, first) = bench.logged_in();
    let (_, key) = app.generate_ec(first, P256, "key").expect("C_GenerateKeyPair");
    let second = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    let hold = Hold::new();
    bench.shim.inject(Fault::at(wire::SIGN, Action::Hold(hold.clone())));
    std::thread::scope(|scope| {
        let one = app.thread();
        let signer = scope.spawn(move || one.sign(first, CKM_ECDSA, key, &DIGEST));
        assert!(hold.wait(SOON), "the first one is at its last command");
        let obstacle = Obstacle::new(|| ());
        in_its_place("another thread's turn", || {
            let stop = || assert_eq!(cancel(&app, second, CKF_SIGN), CKR_OK);
            let answer = sign_waits(&bench, &app, second, key, &obstacle, stop);
            if answer == Err(Rv(CKR_OPERATION_NOT_INITIALIZED)) {
                return false;
            }
            assert_eq!(answer, Err(Rv(CKR_FUNCTION_CANCELED)));
            true
        });
        assert!(!signer.is_finished());
        hold.release(None);
        signer.join().expect("no panic").expect("C_Sign in the first session");
    });
    app.sign(second, CKM_ECDSA, key, &DIGEST).expect("C_Sign in the second session");
}

#[test]
fn c_finalize_ends_who_has_the_tpm_and_all_who_wait_for_their_turn() {
    let bench = patient();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    let slot = app.slot_of(LABEL).expect("the token");
    bench.shim.inject(Fault::at(wire::SIGN, Action::Silence).always());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (ck, session) = (app.thread(), app.open(slot).expect("C_OpenSession"));
                scope.spawn(move || ck.sign(session, CKM_ECDSA, key, &DIGEST).expect_err("silence"))
            })
            .collect();
        assert!(wait_until(SOON, || bench.shim.met() == 1), "one of them has the TPM");
        std::thread::sleep(A_WHILE);
        let begun = Instant::now();
        app.finalize().expect("C_Finalize");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        for worker in workers {
            let rv = worker.join().expect("no panic");
            assert!(ENDED.contains(&rv) || rv == CKR_CRYPTOKI_NOT_INITIALIZED, "{rv:?}");
        }
    });
    bench.shim.heal();
    app.initialize().expect("C_Initialize");
    let session = app.open(slot).expect("C_OpenSession");
    app.login(session, PIN).expect("C_Login");
    app.random(session, 16).expect("C_GenerateRandom");
}

/// Another process that keeps the store locked.
fn lock_store(bench: &Bench, how: &str) -> rusqlite::Connection {
    let locker = rusqlite::Connection::open(bench.store().join("tpm11.sqlite3")).expect("a store");
    locker.busy_timeout(SOON).expect("patience");
    locker.execute_batch(how).expect("the lock");
    locker
}

/// `job` waits for the store in a thread of its own; what it returned, and whether it did wait.
fn store_waits<T: Send>(
    app: &App,
    job: impl FnOnce(&Ck) -> Answer<T> + Send,
    stop: impl FnOnce(),
) -> Answer<T> {
    let other = app.thread();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || job(&other));
        std::thread::sleep(2 * A_WHILE);
        assert!(!waiting.is_finished(), "it waits for the store");
        let begun = Instant::now();
        stop();
        let answer = waiting.join().expect("no panic");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        answer
    })
}

#[test]
fn c_session_cancel_ends_who_waits_for_the_store() {
    let bench = patient();
    let (app, session) = bench.logged_in();

    let writer = lock_store(&bench, "BEGIN IMMEDIATE");
    let pair = |ck: &Ck| ck.generate_ec(session, P256, "never");
    in_its_place("C_GenerateKeyPair", || {
        let answer = store_waits(&app, pair, || {
            assert!(wait_until(SOON, || bench.shim.record().count(wire::CREATE) > 0));
            std::thread::sleep(A_WHILE);
            assert_eq!(cancel(&app, session, CKF_GENERATE_KEY_PAIR), CKR_OK);
        });
        assert_eq!(answer, Err(Rv(CKR_FUNCTION_CANCELED)), "{}", bench.log());
        true
    });
    drop(writer);
    assert_eq!(app.find(session, &[bytes(CKA_LABEL, "never")]), Ok(vec![]));
    app.generate_ec(session, P256, "now").expect("C_GenerateKeyPair");

    let alone = lock_store(&bench, "BEGIN EXCLUSIVE");
    let search = |ck: &Ck| ck.find(session, &[bytes(CKA_LABEL, "now")]);
    let answer =
        store_waits(&app, search, || assert_eq!(cancel(&app, session, CKF_FIND_OBJECTS), CKR_OK));
    assert_eq!(answer, Err(Rv(CKR_FUNCTION_CANCELED)), "{}", bench.log());
    drop(alone);
    assert_eq!(app.find(session, &[bytes(CKA_LABEL, "now")]).expect("C_FindObjects").len(), 2);
}

/// A call, and which lock of another process it waits for.
type StoreCall = (&'static str, &'static str, fn(&Ck, u64, u64) -> Answer<()>);

const STORE_CALLS: &[StoreCall] = &[
    ("C_CreateObject", "BEGIN IMMEDIATE", |ck, session, _| {
        let object = [number(CKA_CLASS, CKO_DATA), flag(CKA_TOKEN, true), bytes(CKA_VALUE, "x")];
        ck.create_object(session, &object).map(drop)
    }),
    ("C_GenerateKeyPair", "BEGIN IMMEDIATE", |ck, session, _| {
        ck.generate_ec(session, P256, "never").map(drop)
    }),
    ("C_FindObjects", "BEGIN EXCLUSIVE", |ck, session, _| ck.find(session, &[]).map(drop)),
    ("C_GetTokenInfo", "BEGIN EXCLUSIVE", |ck, _, slot| ck.token_info(slot).map(drop)),
];

#[test]
fn c_finalize_ends_who_waits_for_the_store() {
    let bench = patient();
    let app = bench.app();
    for (function, how, call) in STORE_CALLS {
        app.initialize().expect("C_Initialize");
        let slot = app.slot_of(LABEL).expect("the token");
        let session = app.open(slot).expect("C_OpenSession");
        app.login(session, PIN).expect("C_Login");
        let locker = lock_store(&bench, how);

        let stop = || app.finalize().expect("C_Finalize");
        let answer = store_waits(&app, |ck| call(ck, session, slot), stop);

        let rv = answer.expect_err(function);
        assert!(ENDED.contains(&rv), "{function}: {rv:?}\n{}", bench.log());
        assert_eq!(app.slots(true), Err(Rv(CKR_CRYPTOKI_NOT_INITIALIZED)), "{function}");
        drop(locker);
    }
    let (app, session) = bench.logged_in();
    assert_eq!(app.find(session, &[]), Ok(vec![]), "nothing was half written");
    app.generate_ec(session, P256, "now").expect("C_GenerateKeyPair");
}

/// A call that found its session, and begins when that is closed.
#[test]
fn a_call_that_begins_while_its_session_is_being_closed_is_canceled() {
    let bench = patient();
    let (app, keeper) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    in_its_place("between finding the session and beginning", || {
        let session = app.open(slot).expect("C_OpenSession");
        let mark = bench.shim.mark();
        // It looks at the store before it becomes a call that can be canceled.
        let alone = lock_store(&bench, "BEGIN EXCLUSIVE");
        let generate = |ck: &Ck| ck.generate_ec(session, P256, "never");
        let answer = store_waits(&app, generate, || {
            std::thread::scope(|scope| {
                // It says that the session is closed, then it waits for the first thread, too.
                let closing = scope.spawn(|| app.close_session(session));
                std::thread::sleep(A_WHILE);
                drop(alone);
                closing.join().expect("no panic").expect("C_CloseSession");
            });
        });
        assert_eq!(bench.shim.since(mark).sent(), 0, "the TPM was not asked: {}", bench.log());
        let rv = answer.expect_err("a closed session");
        assert!([CKR_SESSION_CLOSED, CKR_SESSION_HANDLE_INVALID].contains(&rv.0), "{rv:?}");
        rv == CKR_SESSION_CLOSED
    });
    app.generate_ec(keeper, P256, "now").expect("the others go on");
}

// ---- what just failed is not tried again and again ------------------------------------------------

/// A signing application that finds the TPM closed at each call.
fn signer(tpm: &str) -> (Bench, App, u64, u64) {
    let bench = Setup::default().tpm("linger_ms = 0").tpm(tpm).start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    (bench, app, session, key)
}

#[test]
fn after_three_broken_connections_in_a_row_nobody_connects_for_two_seconds() {
    let (bench, app, session, key) = signer("");
    bench.shim.inject(Fault::at_any(Action::DropBefore).always());
    let sign = || app.sign(session, CKM_ECDSA, key, &DIGEST);
    let mut opened = Instant::now();
    for time in 1..=3 {
        let before = bench.shim.connections();
        opened = Instant::now();
        assert_eq!(sign(), Err(Rv(CKR_DEVICE_ERROR)), "the {time}. one");
        assert!(bench.shim.connections() > before, "the {time}. one tries");
    }

    let before = bench.shim.connections();
    for _ in 0..40 {
        assert_eq!(sign(), Err(Rv(CKR_DEVICE_ERROR)));
    }

    // Each pause that is over lets one call try, twice at most: on an idle machine none is.
    let pauses = opened.elapsed().as_secs() / 2;
    let tried = bench.shim.connections() - before;
    assert!(tried <= 2 * pauses, "{tried} connections in {pauses} pauses");
    bench.shim.heal();
    assert!(wait_until(SOON, || sign().is_ok()), "{}", bench.log());
    let state = app.session_info(session).expect("C_GetSessionInfo").state;
    assert_eq!(state, CKS_RW_USER_FUNCTIONS, "the login stayed");
}

#[test]
fn two_broken_connections_and_a_good_one_are_not_three_in_a_row() {
    let (bench, app, session, key) = signer("");
    let sign = || app.sign(session, CKM_ECDSA, key, &DIGEST);
    for _ in 0..3 {
        bench.shim.inject(Fault::at_any(Action::DropBefore).always());
        for _ in 0..2 {
            assert_eq!(sign(), Err(Rv(CKR_DEVICE_ERROR)));
        }
        bench.shim.heal();
        let before = bench.shim.connections();
        bench.must("C_Sign", sign());
        assert!(bench.shim.connections() > before);
    }
}

#[test]
fn a_tpm_that_serves_somebody_else_is_tried_by_every_call() {
    let (bench, app, session, key) = signer("call_timeout_s = 2");
    let sign = || app.sign(session, CKM_ECDSA, key, &DIGEST);
    let listener = impostor(&bench, 0);
    let first = UnixStream::connect(bench.shim.socket()).expect("room for one");
    for _ in 0..4 {
        assert_eq!(sign(), Err(Rv(CKR_DEVICE_ERROR)), "{}", bench.log());
    }
    unmask(&bench);
    drop((first, listener));

    let before = bench.shim.connections();
    let _ = sign();

    assert!(bench.shim.connections() > before, "it tries: {}", bench.log());
    assert!(wait_until(SOON, || sign().is_ok()), "{}", bench.log());
}

const GET_TEST_RESULT: u32 = 0x17C;
const FAILURE: u32 = 0x101;
/// How long a TPM that confirmed its failure is left alone.
const LONG_BREAK: Duration = Duration::from_secs(30);

/// TPM2_GetTestResult's answer of a TPM in failure mode.
fn says_failure() -> Action {
    Action::Rewrite(std::sync::Arc::new(|_, response| {
        response.truncate(6);
        response.extend(0u32.to_be_bytes());
        response.extend(wire::sized(&[]));
        response.extend(FAILURE.to_be_bytes());
        let length = (response.len() as u32).to_be_bytes();
        response[2..6].copy_from_slice(&length);
    }))
}

fn left_alone(confirmation: Action, whole: bool) {
    let (bench, app, session, key) = signer("");
    let sign = || app.sign(session, CKM_ECDSA, key, &DIGEST);
    bench.shim.inject(Fault::at(wire::SIGN, Action::Answer(FAILURE)));
    bench.shim.inject(Fault::at(GET_TEST_RESULT, confirmation));
    let begun = Instant::now();
    assert_eq!(sign(), Err(Rv(CKR_DEVICE_ERROR)));
    assert_eq!(bench.shim.heal(), 2, "it was asked");
    let closed = |record: &swtpm_tests::shim::Record| record.sent() > 0;
    // What the reaper still had to do is done.
    std::thread::sleep(A_WHILE);

    let (record, answers) = bench.shim.watch(|| (0..20).map(|_| sign()).collect::<Vec<_>>());

    if begun.elapsed() < LONG_BREAK {
        assert!(!closed(&record), "{}", record.lines());
        assert!(answers.iter().all(|answer| *answer == Err(Rv(CKR_DEVICE_ERROR))));
    }
    if whole {
        assert!(wait_until(LONG_BREAK + SOON, || sign().is_ok()), "{}", bench.log());
        assert!(begun.elapsed() >= LONG_BREAK, "{:?}", begun.elapsed());
        let state = app.session_info(session).expect("C_GetSessionInfo").state;
        assert_eq!(state, CKS_RW_USER_FUNCTIONS, "the login stayed");
    }
}

#[test]
fn a_tpm_whose_test_result_confirms_a_failure_is_left_alone_for_half_a_minute() {
    left_alone(says_failure(), true);
}

#[test]
fn a_tpm_that_fails_at_the_next_command_too_is_left_alone() {
    left_alone(Action::Answer(FAILURE), false);
}

#[test]
fn a_failure_that_is_said_of_one_rsa_input_is_told_and_the_next_operation_works() {
    let (bench, app, session, _) = signer("");
    let (_, key) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let sign = || app.sign(session, CKM_SHA256_RSA_PKCS, key, b"data");
    for _ in 0..4 {
        bench.shim.inject(Fault::at(wire::RSA_DECRYPT, Action::Answer(FAILURE)));
        let (record, answer) = bench.shim.watch(sign);
        assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)), "{}", bench.log());
        assert_eq!(record.count(GET_TEST_RESULT), 1, "{}", record.lines());
        assert_eq!(record.count(wire::RSA_DECRYPT), 1, "it is not sent again");
    }
    bench.shim.heal();
    bench.must("C_Sign", sign());
}

// ---- a slow TPM -----------------------------------------------------------------------------------

#[test]
fn a_tpm_that_needs_a_good_part_of_its_limit_for_each_command_does_everything() {
    for setup in [Setup::default(), Setup::default().managed()] {
        let bench = setup.tpm("short_timeout_s = 4\ncommand_timeout_s = 4").start();
        bench.token();
        let delay = Duration::from_millis(300);
        bench.shim.inject(Fault::at_any(Action::Delay(delay)).always());

        let (app, session) = bench.logged_in();
        let (public, key) = bench.must("C_GenerateKeyPair", app.generate_ec(session, P256, "slow"));
        let signature = bench.must("C_Sign", app.sign(session, CKM_ECDSA, key, &DIGEST));
        app.verify(session, CKM_ECDSA, public, &DIGEST, &signature).expect("C_Verify");
        bench.must("C_GenerateRandom", app.random(session, 16));
        let secret = bench.must("C_GenerateKey", hmac_key(&app, session));
        let long = vec![7; 2500];
        bench.must("C_Sign", app.sign(session, CKM_SHA256_HMAC, secret, &long));
        app.finalize().expect("C_Finalize");

        assert!(bench.shim.heal() > 20);
        assert!(bench.shim.settled(Duration::from_secs(10)).is_nothing());
    }
}

fn hmac_key(app: &App, session: u64) -> Answer<u64> {
    let template = [number(CKA_VALUE_LEN, 32), flag(CKA_SIGN, true)];
    app.generate_key(session, CKM_GENERIC_SECRET_KEY_GEN, &template)
}

#[test]
fn a_call_of_many_slow_commands_ends_at_its_own_deadline_and_leaves_nothing() {
    for setup in [Setup::default(), Setup::default().managed()] {
        let bench = setup.tpm("call_timeout_s = 4").start();
        bench.token();
        let (app, session) = bench.logged_in();
        let key = bench.must("C_GenerateKey", hmac_key(&app, session));
        let long = vec![7; 40 * 1024];
        let whole = bench.must("C_Sign", app.sign(session, CKM_SHA256_HMAC, key, &long));
        let delay = Duration::from_millis(500);
        bench.shim.inject(Fault::at_any(Action::Delay(delay)).always());

        let begun = Instant::now();
        let (record, answer) = bench.shim.watch(|| app.sign(session, CKM_SHA256_HMAC, key, &long));

        assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)), "{}", record.lines());
        // Forty commands would have taken twenty seconds.
        assert!(record.sent() < 15, "{}", record.lines());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        bench.shim.heal();
        let left = bench.shim.settled(Duration::from_secs(10));
        assert!(left.is_nothing(), "{left:?}\n{}\n{}", bench.shim.record().lines(), bench.log());
        let again = || app.sign(session, CKM_SHA256_HMAC, key, &long).is_ok_and(|mac| mac == whole);
        assert!(wait_until(SOON, again), "{}", bench.log());
        app.finalize().expect("C_Finalize");
        assert!(bench.shim.settled(Duration::from_secs(10)).is_nothing());
    }
}

// ---- suspend, resume, restart ---------------------------------------------------------------------

/// What happens to the TPM between two calls.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Night {
    /// No orderly end, then TPM2_Startup(CLEAR): TPM Reset.
    Reset,
    /// TPM2_Shutdown(STATE), then TPM2_Startup(CLEAR): TPM Restart.
    Restart,
    /// TPM2_Shutdown(STATE), then TPM2_Startup(STATE), as a kernel and a firmware do for S3: TPM Resume.
    Resume,
    /// Nothing of that; but all that is loaded is gone.
    Flushed,
}

impl Night {
    fn passes(self, bench: &mut Bench) {
        /// TPM2_Shutdown
        const SHUTDOWN: u32 = 0x145;
        /// TPM_SU_STATE
        const STATE: [u8; 2] = [0, 1];
        let must = |bench: &Bench, command: &[u8]| {
            let response = bench.shim.ask(command);
            assert_eq!(wire::response_code(&response), 0, "{self:?}");
        };
        if matches!(self, Night::Restart | Night::Resume) {
            must(bench, &wire::command(SHUTDOWN, &[], None, &STATE));
        }
        if self != Night::Flushed {
            bench.tpm.power_cut();
        }
        if self == Night::Resume {
            must(bench, &wire::command(wire::STARTUP, &[], None, &STATE));
        }
        if self == Night::Flushed {
            let left = bench.shim.left();
            for handle in left.objects.iter().chain(&left.sessions).chain(&left.saved) {
                bench.shim.ask(&wire::command(wire::FLUSH_CONTEXT, &[*handle], None, &[]));
            }
        }
    }
}

/// The calls of an application that is logged in, one by one.
struct Day<'a> {
    bench: &'a mut Bench,
    night: Night,
    calls: usize,
}

impl Day<'_> {
    /// One call, and a night.
    fn call<T>(&mut self, what: &str, answer: Answer<T>) -> T {
        let value = answer.unwrap_or_else(|rv| {
            panic!(
                "{what} after {} nights ({:?}): {rv:?}\n{}",
                self.calls,
                self.night,
                self.bench.log()
            )
        });
        self.night.passes(self.bench);
        self.calls += 1;
        value
    }
}

fn nights(night: Night, managed: bool) {
    let setup = if managed { Setup::default().managed() } else { Setup::default() };
    // Longer than any night, so that everything is warm in the evening.
    let setup = setup.tpm("linger_ms = 60000");
    let setup = if night == Night::Resume { setup.without_startup() } else { setup };
    let mut bench = setup.start();
    bench.token();
    let (app, session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let (public, ec) = app.generate_ec(session, P256, "ec").expect("C_GenerateKeyPair");
    let (rsa_public, rsa) = app.generate_rsa(session, 2048, "rsa").expect("C_GenerateKeyPair");
    let secret = hmac_key(&app, session).expect("C_GenerateKey");
    let (_, short) = app
        .generate_pair(session, CKM_EC_KEY_PAIR_GEN, &[bytes(CKA_EC_PARAMS, P256)], &[])
        .expect("C_GenerateKeyPair");
    let mac = app.sign(session, CKM_SHA256_HMAC, secret, &[7; 2500]).expect("C_Sign");
    let secret_text = app.encrypt(session, CKM_RSA_PKCS, rsa_public, b"text").expect("C_Encrypt");
    let mark = bench.shim.mark();
    let mut day = Day { bench: &mut bench, night, calls: 0 };
    // What one day left is there on the next.
    for _ in 0..if night == Night::Reset { 2 } else { 1 } {
        day.call("C_SignInit", app.sign_init(session, CKM_ECDSA_SHA256, ec));
        day.call("C_SignUpdate", app.sign_update(session, b"one "));
        day.call("C_SignUpdate", app.sign_update(session, b"two"));
        // Two calls: the length, then the signature.
        let signature = day.call("C_SignFinal", app.sign_final(session));
        day.call("C_Verify", app.verify(session, CKM_ECDSA_SHA256, public, b"one two", &signature));
        day.call("C_SignInit", app.sign_init(session, CKM_SHA256_HMAC, secret));
        day.call("C_SignUpdate", app.sign_update(session, &[7; 1500]));
        day.call("C_SignUpdate", app.sign_update(session, &[7; 1000]));
        assert_eq!(day.call("C_SignFinal", app.sign_final(session)), mac);
        day.call("C_DecryptInit", app.decrypt_init(session, CKM_RSA_PKCS, rsa));
        let raw = swtpm_tests::door::Memory::of(secret_text.clone());
        let room = swtpm_tests::door::Memory::room(256);
        let length = swtpm_tests::door::Memory::word(256);
        let (rv, out) = app.raw(
            "C_Decrypt",
            vec![
                session.into(),
                raw.into(),
                (secret_text.len() as u64).into(),
                room.into(),
                length.into(),
            ],
        );
        day.call("C_Decrypt", if rv == CKR_OK { Ok(()) } else { Err(Rv(rv)) });
        assert_eq!(&out[3].memory().bytes[..4], b"text");
        day.call("a session key", app.sign(session, CKM_ECDSA, short, &DIGEST));
        day.call("C_GenerateRandom", app.random(session, 16));
        day.call("C_GenerateKeyPair", app.generate_ec(session, P256, "new"));
        let other = day.call("C_OpenSession", app.open(slot));
        day.call("C_Sign elsewhere", app.sign(other, CKM_ECDSA, ec, &DIGEST));
        day.call("C_CloseSession", app.close_session(other));
    }
    assert_eq!(bench.shim.since(mark).count(wire::POLICY_SECRET), 0, "nobody logged in again");
    let state = app.session_info(session).expect("C_GetSessionInfo").state;
    assert_eq!(state, CKS_RW_USER_FUNCTIONS);
    app.logout(session).expect("C_Logout");
    night.passes(&mut bench);
    bench.must("C_Login", app.login(session, PIN));
    app.finalize().expect("C_Finalize");
    assert_eq!(bench.shim.lockout_counter(), 0);
    let left = bench.shim.settled(Duration::from_secs(10));
    assert!(left.is_nothing(), "{left:?}\n{}\n{}", bench.log(), bench.shim.record().lines());
}

/// After a reset every program that closes what it had flushes sessions of those numbers, ours too.
#[test]
fn new_sessions_that_others_flush_after_a_reset_are_made_again() {
    for setup in [Setup::default(), Setup::default().managed()] {
        let mut bench = setup.tpm("linger_ms = 60000").start();
        bench.token();
        let (app, session) = bench.logged_in();
        let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
        app.sign(session, CKM_ECDSA, key, &DIGEST).expect("C_Sign");
        bench.tpm.power_cut();
        // TPM_RC_REFERENCE_S0
        bench.shim.inject(Fault::at(wire::SIGN, Action::Answer(0x918)).times(2));

        bench.must("C_Sign", app.sign(session, CKM_ECDSA, key, &DIGEST));

        assert_eq!(bench.shim.heal(), 2);
        app.finalize().expect("C_Finalize");
        assert!(bench.shim.settled(Duration::from_secs(10)).is_nothing());
    }
}

#[test]
fn a_tpm_that_is_reset_between_any_two_calls_is_not_noticed() {
    nights(Night::Reset, false);
}

#[test]
fn a_tpm_that_is_reset_between_any_two_calls_is_not_noticed_behind_the_resource_manager() {
    nights(Night::Reset, true);
}

#[test]
fn a_tpm_that_is_restarted_between_any_two_calls_is_not_noticed() {
    nights(Night::Restart, false);
    nights(Night::Restart, true);
}

#[test]
fn a_tpm_that_sleeps_and_resumes_between_any_two_calls_is_not_noticed() {
    nights(Night::Resume, false);
    nights(Night::Resume, true);
}

#[test]
fn contexts_that_are_gone_between_any_two_calls_are_not_noticed() {
    nights(Night::Flushed, false);
    nights(Night::Flushed, true);
}

// ---- what strangers hold --------------------------------------------------------------------------

/// TPM2_CreatePrimary of some ECC storage key.
fn ecc_primary() -> Vec<u8> {
    let mut public = vec![0x00, 0x23, 0x00, 0x0B];
    public.extend(0x0003_0472u32.to_be_bytes());
    public.extend(wire::sized(&[]));
    public.extend([0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10, 0, 0, 0, 0]);
    let mut parameters = wire::sized(&[0, 0, 0, 0]);
    parameters.extend(wire::sized(&public));
    parameters.extend([0; 6]);
    wire::command(wire::CREATE_PRIMARY, &[wire::OWNER], Some(b""), &parameters)
}

/// Fills a bare TPM with what `command` makes, as another program does; the handles.
fn fill(bench: &Bench, command: &[u8]) -> Vec<u32> {
    let mut handles = Vec::new();
    loop {
        let response = bench.shim.ask(command);
        match wire::response_code(&response) {
            0 => handles.push(wire::u32_at(&response, 10)),
            code => {
                assert!([0x902, 0x903].contains(&code), "{code:#x}");
                assert!(handles.len() >= 3, "{handles:x?}");
                return handles;
            }
        }
    }
}

/// A bare TPM whose slots a stranger holds and does not let go for now: that is said, nothing of his is
/// touched, and when he has gone everything works.
fn a_stranger_fills(command: &[u8]) {
    let bench = Setup::default().tpm("linger_ms = 0\nraw_leftovers = \"wait\"").start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    assert!(bench.shim.settled(SOON).is_nothing());
    let handles = fill(&bench, command);
    for _ in 0..2 {
        let answer = app.sign(session, CKM_ECDSA, key, &DIGEST);
        assert_eq!(answer, Err(Rv(CKR_DEVICE_MEMORY)), "{}", bench.log());
    }
    let answer = app.generate_ec(session, P256, "never").map(drop);
    assert_eq!(answer, Err(Rv(CKR_DEVICE_MEMORY)), "{}", bench.log());
    let mark = bench.shim.mark();
    app.logout(session).expect("C_Logout");
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_DEVICE_MEMORY)), "{}", bench.log());
    assert_eq!(bench.shim.pin_tries(mark), 0);

    for handle in handles {
        let flush = wire::command(wire::FLUSH_CONTEXT, &[handle], None, &[]);
        assert_eq!(wire::response_code(&bench.shim.ask(&flush)), 0, "{handle:x} is still his");
    }

    bench.must("C_Login", app.login(session, PIN));
    let key = app.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("C_FindObjects")[0];
    bench.must("C_Sign", app.sign(session, CKM_ECDSA, key, &DIGEST));
    app.finalize().expect("C_Finalize");
    assert!(bench.shim.settled(Duration::from_secs(10)).is_nothing());
}

#[test]
fn a_stranger_who_holds_all_slots_of_a_bare_tpm_is_left_alone_and_waited_for() {
    a_stranger_fills(&ecc_primary());
}

#[test]
fn a_stranger_who_holds_all_sessions_of_a_bare_tpm_is_left_alone_and_waited_for() {
    a_stranger_fills(&wire::start_session());
}

/// Behind the resource manager objects are swapped, but a TPM knows only so many sessions.
#[test]
fn strangers_who_hold_all_sessions_behind_the_resource_manager_are_waited_for() {
    let bench = Setup::default().managed().tpm("linger_ms = 0\ncall_timeout_s = 5").start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    assert!(bench.shim.settled(SOON).is_nothing());
    let mut strangers = Vec::new();
    'all: loop {
        strangers.push(UnixStream::connect(bench.shim.socket()).expect("a connection"));
        let stranger = strangers.last_mut().expect("the one above");
        for _ in 0..3 {
            let ask = wire::start_session();
            std::io::Write::write_all(stranger, &ask).expect("sent");
            let response = read_message(stranger).expect("an answer");
            match wire::response_code(&response) {
                0 => {}
                code => {
                    assert_eq!(code, 0x905, "SESSION_HANDLES");
                    break 'all;
                }
            }
        }
    }
    // The deadline may come while the TPM is asked once more.
    let in_vain = [CKR_DEVICE_MEMORY, CKR_DEVICE_ERROR];
    let answer = app.sign(session, CKM_ECDSA, key, &DIGEST).expect_err("no session");
    assert!(in_vain.contains(&answer.0), "{answer:?}: {}", bench.log());
    let mark = bench.shim.mark();
    let other = bench.ready();
    let elsewhere = other.open(other.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    let answer = other.login(elsewhere, PIN).expect_err("no session");
    assert!(in_vain.contains(&answer.0), "{answer:?}: {}", bench.log());
    assert_eq!(bench.shim.pin_tries(mark), 0);

    // They go while the call waits: once it has asked for a session in vain, a few times over.
    let mark = bench.shim.mark();
    std::thread::scope(|scope| {
        let signing = scope.spawn(|| app.sign(session, CKM_ECDSA, key, &DIGEST));
        while bench.shim.since(mark).count(wire::START_AUTH_SESSION) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(strangers);
        bench.must("C_Sign", signing.join().expect("a signature or an error"));
    });
    bench.must("C_Login", other.login(elsewhere, PIN));
}
