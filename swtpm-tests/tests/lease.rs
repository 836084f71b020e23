//! What the lease does about each fault of the TPM: every response code that has a remedy, met by every
//! command of a signature and of a key's creation, on a bare TPM and behind a resource manager.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tpm11::error::Error;
use tpm11::tpm::pin::{Gate, Mode, NewGate, Role};

use swtpm_tests::shim::{Action, Fault, Shim};
use swtpm_tests::spawn::Guarded;
use swtpm_tests::swtpm::Swtpm;
use tpm11::crypto::ec::Curve;
use tpm11::tpm::{
    Call, Chaining, Direction, HashAlgorithm, Key, KeyBlob, KeySpec, KeyUse, Name, NewKey,
    PlainKey, Settings, Tpm,
};

struct Bench {
    shim: Shim,
    swtpm: Swtpm,
    tpm: Arc<Tpm>,
    srk: Arc<Name>,
}

impl Bench {
    fn start(managed: bool) -> Bench {
        let swtpm = Swtpm::start();
        let shim = Shim::start(&swtpm.directory().join("shim"), &swtpm.socket(), managed)
            .expect("the shim starts");
        let settings =
            Settings { tcti: shim.tcti(), resource_manager: Some(managed), ..Settings::default() };
        let tpm = Tpm::new(settings, None, Box::new(|_| false));
        let srk = Arc::new(tpm.srk_name(&tpm.call()).expect("a storage root key"));
        Bench { shim, swtpm, tpm, srk }
    }

    fn key(&self, id: u8) -> Key {
        let spec = KeySpec {
            usage: KeyUse::Ec { curve: Curve::P256, sign: true, derive: false },
            extractable: false,
            always_authenticate: None,
        };
        self.loadable(self.create(&spec, id).expect("TPM2_Create"), id)
    }

    fn loadable(&self, made: NewKey, id: u8) -> Key {
        let (public, private) = (made.public, made.private);
        // The integrity value of the blob: no two keys have the same.
        let unique = private[2..18].try_into().expect("16 bytes");
        let blob = KeyBlob { id: unique, public, private, authorization: [id; 32].into() };
        Key { blob: Arc::new(blob), srk: self.srk.clone(), grant: None }
    }

    fn create(&self, spec: &KeySpec, id: u8) -> Result<tpm11::tpm::NewKey, tpm11::tpm::Fault> {
        self.tpm.create(&self.tpm.call(), &self.srk, spec, &[id; 32])
    }

    /// Keys that are used, leave and come back, each result looked at: a generic secret, an AES key.
    fn secrets(&self) -> Result<(), tpm11::tpm::Fault> {
        let (call, value) = (self.tpm.call(), [0x6B; 32]);
        let make = |usage, id: u8| -> Result<Key, tpm11::tpm::Fault> {
            let spec = KeySpec { usage, extractable: true, always_authenticate: None };
            let made = self.tpm.create_with(&call, &self.srk, &spec, &[id; 32], &value)?;
            Ok(self.loadable(made, id))
        };
        let (keyed, aes) = (make(KeyUse::Keyed, 1)?, make(KeyUse::Aes { bits: 256 }, 2)?);
        let mac = |key| self.tpm.mac(&call, key, HashAlgorithm::Sha256, &[1; 2500]);
        let cipher = |key, direction, input| {
            let (mode, iv) = (Chaining::Cbc, &mut [7; 16]);
            self.tpm.cipher(&call, key, mode, direction, iv, input)
        };
        let first = mac(&keyed)?;
        let there = cipher(&aes, Direction::Encrypt, &[5; 1040])?;
        assert_eq!(**cipher(&aes, Direction::Decrypt, &there)?, [5; 1040]);
        let PlainKey::Secret(out) = self.tpm.export(&call, &keyed, None)? else {
            panic!("a secret")
        };
        assert_eq!(**out, value);
        let root =
            self.tpm.with(&call, Some(&self.srk), |lease| Ok(lease.srk()?.public().to_vec()))?;
        let (parcel, _) = self.tpm.duplicate(&call, &keyed, &root)?;
        let (made, _) = self.tpm.import_duplicate(&call, &self.srk, &parcel, &[3; 32])?;
        assert_eq!(mac(&self.loadable(made, 3))?, first);
        Ok(())
    }

    fn sign(&self, key: &Key) -> Result<(), tpm11::tpm::Fault> {
        self.tpm.sign(&self.tpm.call(), key, HashAlgorithm::Sha256, &[1; 32]).map(drop)
    }
}

/// Codes that a single occurrence of must not be noticed.
const MENDED: [(u32, &str); 22] = [
    (0x922, "RETRY"),
    (0x908, "YIELDED"),
    (0x909, "CANCELED, not by us"),
    (0x90A, "TESTING"),
    (0x920, "NV_RATE"),
    (0x923, "NV_UNAVAILABLE"),
    (0x902, "OBJECT_MEMORY"),
    (0x906, "OBJECT_HANDLES"),
    (0x903, "SESSION_MEMORY"),
    (0x905, "SESSION_HANDLES"),
    (0x904, "MEMORY"),
    (0x100, "INITIALIZE"),
    (0x910, "REFERENCE_H0"),
    (0x911, "REFERENCE_H1"),
    (0x916, "REFERENCE_H6"),
    (0x918, "REFERENCE_S0"),
    (0x919, "REFERENCE_S1"),
    (0x91E, "REFERENCE_S6"),
    (0x18B, "HANDLE"),
    (0x28B, "HANDLE, the second"),
    (0xB0922, "RETRY, as a resource manager's own"),
    (0x1DF, "INTEGRITY"),
];

/// At each fifth command, with each code beginning elsewhere; at all of them (two minutes) with
/// `TPM11_TEST_EVERY_COMMAND` set.
#[test]
fn a_fault_that_has_a_remedy_is_not_noticed_by_secret_keys_either() {
    let step = if std::env::var_os("TPM11_TEST_EVERY_COMMAND").is_some() { 1 } else { 5 };
    for managed in [false, true] {
        let bench = Bench::start(managed);
        for (at, (code, name)) in MENDED.into_iter().enumerate() {
            for skip in (at % step..).step_by(step) {
                bench.tpm.end();
                bench.shim.inject(Fault::at_any(Action::Answer(code)).after(skip));
                bench
                    .secrets()
                    .unwrap_or_else(|fault| panic!("{name} at {skip}, managed {managed}: {fault}"));
                if bench.shim.heal() == 0 {
                    assert!(skip > 20);
                    break;
                }
            }
        }
        bench.tpm.end();
        let left = bench.shim.settled(Duration::from_secs(2));
        assert!(left.is_nothing(), "managed {managed}: {left:?}");
    }
}

#[test]
fn a_fault_that_has_a_remedy_is_not_noticed_at_any_command() {
    for managed in [false, true] {
        let bench = Bench::start(managed);
        let keys: Vec<Key> = (0..3).map(|id| bench.key(id)).collect();
        for (code, name) in MENDED {
            for skip in 0.. {
                bench.tpm.end();
                bench.shim.inject(Fault::at_any(Action::Answer(code)).after(skip));
                // Three keys in turn, twice: loading, saving, evicting, restoring.
                for key in keys.iter().chain(&keys) {
                    bench.sign(key).unwrap_or_else(|fault| {
                        panic!("{name} at {skip}, managed {managed}: {fault}")
                    });
                }
                if bench.shim.heal() == 0 {
                    assert!(skip > 6);
                    break;
                }
            }
        }
        bench.tpm.end();
        let left = bench.shim.settled(Duration::from_secs(2));
        assert!(left.is_nothing(), "managed {managed}: {left:?}");
    }
}

#[test]
fn a_key_is_made_whatever_happens_once() {
    for managed in [false, true] {
        let bench = Bench::start(managed);
        for (code, name) in MENDED {
            for skip in 0.. {
                bench.tpm.end();
                bench.shim.inject(Fault::at_any(Action::Answer(code)).after(skip));
                bench.key(1);
                if bench.shim.heal() == 0 {
                    assert!(skip > 1, "{name}");
                    break;
                }
            }
        }
    }
}

#[test]
fn behind_a_resource_manager_a_context_gap_means_passwords_for_signing() {
    for code in [0x901, 0x12E] {
        let bench = Bench::start(true);
        let key = bench.key(1);
        bench.tpm.end();
        bench.shim.inject(Fault::at(0x176, Action::Answer(code)).always());
        bench.sign(&key).expect("by password");
        assert!(bench.create(&spec(), 2).is_err(), "a secret is never sent without a session");
        bench.shim.heal();
    }
}

fn spec() -> KeySpec {
    KeySpec {
        usage: KeyUse::Ec { curve: Curve::P256, sign: true, derive: false },
        extractable: false,
        always_authenticate: None,
    }
}

#[test]
fn a_tpm_that_says_failure_of_one_command_is_used_again_at_once() {
    let bench = Bench::start(false);
    let key = bench.key(1);
    bench.shim.inject(Fault::at(0x15D, Action::Answer(0x101)));
    assert!(bench.sign(&key).is_err());
    bench.sign(&key).expect("TPM2_GetTestResult did not confirm it");
}

#[test]
fn what_lasts_is_an_error_within_the_deadline_and_heals_without_help() {
    for code in [0x922, 0x902, 0x903, 0x910, 0x100, 0x18B, 0x1DF] {
        let bench = Bench::start(false);
        let key = bench.key(1);
        bench.tpm.end();
        bench.shim.inject(Fault::at(0x157, Action::Answer(code)).always());
        let begun = Instant::now();
        let call = Call::within(Duration::from_secs(3));
        let outcome = bench.tpm.sign(&call, &key, HashAlgorithm::Sha256, &[1; 32]);
        assert!(outcome.is_err(), "{code:#x}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{code:#x}: {:?}", begun.elapsed());
        bench.shim.heal();
        bench.sign(&key).unwrap_or_else(|fault| panic!("{code:#x}, healed: {fault}"));
    }
}

#[test]
fn a_silent_tpm_is_left_at_the_deadline_and_a_canceled_call_at_once() {
    let bench = Bench::start(false);
    let key = bench.key(1);
    bench.shim.inject(Fault::at(0x15D, Action::Silence));
    let begun = Instant::now();
    let call = Call::within(Duration::from_millis(500));
    assert!(bench.tpm.sign(&call, &key, HashAlgorithm::Sha256, &[1; 32]).is_err());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    bench.shim.heal();
    bench.sign(&key).expect("the next call");

    bench.shim.inject(Fault::at(0x15D, Action::Silence));
    let call = bench.tpm.call();
    let flag = call.cancel.clone();
    let canceler = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let begun = Instant::now();
    assert!(bench.tpm.sign(&call, &key, HashAlgorithm::Sha256, &[1; 32]).is_err());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    canceler.join().expect("the canceler");
    bench.shim.heal();
    bench.sign(&key).expect("the next call");
}

#[test]
fn a_line_that_breaks_at_any_byte_of_a_response_is_mended() {
    let bench = Bench::start(false);
    let keys: Vec<Key> = (0..3).map(|id| bench.key(id)).collect();
    for bytes in [0, 1, 6, 9, 10, 13, 14] {
        for skip in 0.. {
            bench.tpm.end();
            bench.shim.inject(Fault::at_any(Action::DropInside(bytes)).after(skip));
            for key in keys.iter().chain(&keys) {
                bench.sign(key).unwrap_or_else(|fault| panic!("{bytes} at {skip}: {fault}"));
            }
            if bench.shim.heal() == 0 {
                break;
            }
        }
    }
    bench.tpm.end();
    assert!(bench.shim.settled(Duration::from_secs(2)).is_nothing());
    drop(bench.swtpm);
}

const PIN: &[u8] = b"the user's";

/// A gate, and a key that asks for the PIN at each use.
fn gated(bench: &Bench) -> (Gate, Key) {
    let call = bench.tpm.call();
    let new = NewGate {
        serial: *b"0123456789abcdef",
        srk: (*bench.srk).clone(),
        limit: 8,
        iterations: 1000,
        mode: Mode::Nv,
        owner_auth: Default::default(),
        recovery: false,
        so_pin: b"the officer's",
        token_secret: [9; 32].into(),
        retired: Vec::new(),
    };
    let (gate, _) = bench.tpm.create_gate(&call, &new, &mut |_, _| Ok(())).expect("a gate");
    let so = bench.tpm.login(&call, &gate, Role::So, b"the officer's").expect("the SO");
    let gate = bench.tpm.set_user_pin(&call, &gate, &so, PIN).expect("a PIN").unwrap_or(gate);
    let spec = KeySpec { always_authenticate: gate.user_index_name(), ..spec() };
    let made = bench.create(&spec, 7).expect("TPM2_Create");
    let blob = KeyBlob {
        id: [7; 16],
        public: made.public,
        private: made.private,
        authorization: [7; 32].into(),
    };
    (gate, Key { blob: Arc::new(blob), srk: bench.srk.clone(), grant: None })
}

fn granted(bench: &Bench, gate: &Gate, key: &Key) -> Key {
    let grant = bench.tpm.authorize_once(&bench.tpm.call(), key, gate, PIN).expect("a login");
    Key { grant: Some(grant), ..key.clone() }
}

#[test]
fn a_login_for_one_use_is_good_for_one_use() {
    for managed in [false, true] {
        let bench = Bench::start(managed);
        let (gate, key) = gated(&bench);
        let other = bench.key(1);
        assert!(bench.sign(&key).is_err(), "without a login");

        let once = granted(&bench, &gate, &key);
        bench.sign(&other).expect("another key meanwhile");
        std::thread::sleep(Duration::from_millis(400));
        let mark = bench.shim.mark();
        bench.sign(&once).expect("the one use");
        let record = bench.shim.since(mark);
        let sign = record.of(0x15D);
        assert!(sign.iter().all(|entry| entry.encrypts_command()), "{}", record.lines());
        let again: Error = bench.sign(&once).expect_err("a second use").into();
        assert_eq!(again, Error::NotLoggedIn);
        drop(once);
        bench.tpm.end();
        assert!(bench.shim.settled(Duration::from_secs(1)).is_nothing());
    }
}

#[test]
fn a_login_for_one_use_that_nobody_uses_is_forgotten() {
    for managed in [false, true] {
        let bench = Bench::start(managed);
        let (gate, key) = gated(&bench);
        let first = granted(&bench, &gate, &key);
        let second = granted(&bench, &gate, &key);
        bench.sign(&second).expect("the one use");
        if managed {
            bench.sign(&first).expect("each has a connection of its own");
        } else {
            // One of a bare TPM's three sessions.
            let lost: Error = bench.sign(&first).expect_err("the older one").into();
            assert_eq!(lost, Error::NotLoggedIn);
        }
        let third = granted(&bench, &gate, &key);
        drop(third);
        std::thread::sleep(Duration::from_secs(2));
        let left = bench.shim.left();
        assert!(left.is_nothing(), "managed {managed}: {left:?}");
    }
}

#[test]
fn a_login_for_one_use_does_not_survive_the_tpms_memory_and_says_so() {
    for managed in [false, true] {
        let mut bench = Bench::start(managed);
        let (gate, key) = gated(&bench);
        let once = granted(&bench, &gate, &key);
        bench.swtpm.power_cut();
        let lost: Error = bench.sign(&once).expect_err("lost").into();
        assert_eq!(lost, Error::NotLoggedIn, "managed {managed}");
        let once = granted(&bench, &gate, &key);
        bench.sign(&once).expect("a new login");
    }
}

/// The directory with what a child needs.
const CHILD: &str = "TPM11_TEST_SIGNING_CHILD";

/// A process that signs with three keys in turn for as long as it lives, or nine seconds long.
fn signing_child(directory: &Path) {
    let read = |name: &str| std::fs::read(directory.join(name)).expect("a file of the parent's");
    let settings = Settings {
        tcti: format!("swtpm:path={}", directory.join("data").display()),
        ..Settings::default()
    };
    let tpm = Tpm::new(settings, Some(directory.to_owned()), Box::new(|_| false));
    let srk = Arc::new(read("srk"));
    let keys: Vec<Key> = (0..3u8)
        .map(|id| {
            let blob = KeyBlob {
                id: [id; 16],
                public: read(&format!("public{id}")),
                private: read(&format!("private{id}")),
                authorization: [id; 32].into(),
            };
            Key { blob: Arc::new(blob), srk: srk.clone(), grant: None }
        })
        .collect();
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(9) {
        for key in &keys {
            let turn = Instant::now();
            tpm.sign(&tpm.call(), key, HashAlgorithm::Sha256, &[1; 32]).expect("TPM2_Sign");
            longest = longest.max(turn.elapsed());
        }
    }
    println!("longest wait {longest:?}");
    tpm.end();
}

#[test]
fn processes_that_are_killed_amid_their_work_hinder_nobody() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return signing_child(Path::new(&directory));
    }
    let swtpm = Swtpm::start();
    let directory = swtpm.directory().to_owned();
    let settings = Settings { tcti: swtpm.tcti(), ..Settings::default() };
    let tpm = Tpm::new(settings, Some(directory.clone()), Box::new(|_| false));
    let srk = tpm.srk_name(&tpm.call()).expect("a storage root key");
    for id in 0..3u8 {
        let made = tpm.create(&tpm.call(), &srk, &spec(), &[id; 32]).expect("TPM2_Create");
        std::fs::write(directory.join(format!("public{id}")), made.public).expect("written");
        std::fs::write(directory.join(format!("private{id}")), made.private).expect("written");
    }
    std::fs::write(directory.join("srk"), &srk).expect("written");
    tpm.end();
    let child = || {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command
            .args(["--exact", "processes_that_are_killed_amid_their_work_hinder_nobody"])
            .arg("--nocapture")
            .env(CHILD, &directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let workers: Vec<_> = (0..2).map(|_| child().spawn().expect("a child starts")).collect();
    let begun = Instant::now();
    let mut lives = 0;
    while begun.elapsed() < Duration::from_secs(7) {
        let victim = Guarded::start(child()).expect("a victim starts");
        std::thread::sleep(Duration::from_millis(350 + 211 * (lives % 7)));
        drop(victim);
        lives += 1;
    }
    for worker in workers {
        let output = worker.wait_with_output().expect("the child ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{lives} killed: {text}");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }
}
