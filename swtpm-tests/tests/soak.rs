//! Long runs: what builds up over tens of thousands of commands, of keys, of killed processes.
//!
//! Each run is short here, and as long as one likes with `TPM11_SOAK=SIGNATURES` (a short run has 300;
//! with 200,000 the saves of sessions that make the gap are all the signatures' own) and
//! `TPM11_SOAK_KEYS=KEYS` (60; ten operations are done for each key). Figures are printed.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN};
use swtpm_tests::ck::{Mechanism, P256, Rv, bytes, flag, number as ulong};
use swtpm_tests::{App, Bench, Setup, wire};

const DIGEST: [u8; 32] = [0x42; 32];

/// After so many saves of other sessions the TPM saves none any more while an older one is saved.
/// TPM 2.0 Part 1 §30.5, TPM_PT_CONTEXT_GAP_MAX of libtpms.
const GAP: u32 = 65_535;

fn number(name: &str, short: u32) -> u32 {
    std::env::var(name).map_or(short, |text| text.parse().expect("a number"))
}

/// How many signatures a run has, and how many saves are to be made by others for it to cross the gap.
fn size() -> (u32, u32) {
    let signatures = number("TPM11_SOAK", 300);
    (signatures, (GAP + 4_096).saturating_sub(signatures))
}

/// A logged-in application with a key that was used once.
fn signer(bench: &Bench, label: &str) -> (App, u64, (u64, u64)) {
    let (app, session) = bench.logged_in();
    let keys = bench.must("C_GenerateKeyPair", app.generate_ec(session, P256, label));
    bench.must("C_Sign", app.sign(session, CKM_ECDSA, keys.1, &DIGEST));
    (app, session, keys)
}

/// So many signatures, none of which fails; every hundredth is verified.
fn sign(bench: &Bench, app: &App, session: u64, keys: (u64, u64), signatures: u32) {
    let begun = Instant::now();
    for turn in 0..signatures {
        let digest: Vec<u8> = turn.to_be_bytes().repeat(8);
        match app.sign(session, CKM_ECDSA, keys.1, &digest) {
            Ok(signature) if turn % 100 == 0 => app
                .verify(session, CKM_ECDSA, keys.0, &digest, &signature)
                .unwrap_or_else(|rv| panic!("signature {turn}: {rv:?}")),
            Ok(_) => {}
            Err(rv) => panic!("signature {turn}: {rv:?}\n{}", bench.log()),
        }
        if turn % 10_000 == 0 {
            bench.shim.forget();
        }
    }
    println!("{signatures} signatures in {:?}", begun.elapsed());
}

#[test]
fn beside_an_idle_process_of_ours_no_signature_ever_fails() {
    let bench = Bench::managed();
    bench.token();
    let (idle, idle_session, idle_keys) = signer(&bench, "idle");
    let (app, session, keys) = signer(&bench, "busy");
    let (signatures, others) = size();

    sign(&bench, &app, session, keys, signatures / 2);
    let left = bench.shim.settled(Duration::from_secs(10));
    assert!(left.is_nothing(), "{left:?}");
    assert!(
        bench.shim.age(others),
        "no session of ours lies idle: nothing bars the saving of others"
    );
    sign(&bench, &app, session, keys, signatures / 2);

    // Without another login.
    bench.must("C_Sign", idle.sign(idle_session, CKM_ECDSA, idle_keys.1, &DIGEST));
    assert!(!bench.log().contains("password authorization"), "{}", bench.log());
    let left = bench.shim.settled(Duration::from_secs(10));
    assert!(left.is_nothing(), "{left:?}");
}

#[test]
fn a_key_that_a_busy_process_used_once_does_not_bar_everybody() {
    let bench = Setup::default().managed().tpm("linger_ms = 2000").start();
    bench.token();
    let (app, session, once) = signer(&bench, "used once");
    let keys = bench.must("C_GenerateKeyPair", app.generate_ec(session, P256, "busy"));

    // 65,535 saves and more, spread over a time in which the process is never idle.
    for _ in 0..48 {
        bench.must("C_Sign", app.sign(session, CKM_ECDSA, keys.1, &DIGEST));
        std::thread::sleep(Duration::from_millis(150));
        assert!(bench.shim.age(1_500), "a session of ours lies idle");
    }

    bench.must("C_Sign", app.sign(session, CKM_ECDSA, once.1, &DIGEST));
    assert!(!bench.log().contains("password authorization"), "{}", bench.log());
}

/// Another program behind the resource manager that starts a session and lets it lie.
fn stranger(bench: &Bench) -> UnixStream {
    let mut stranger = UnixStream::connect(bench.shim.socket()).expect("a connection");
    stranger.write_all(&wire::start_session()).expect("sent");
    let response = swtpm_tests::swtpm::read_message(&mut stranger).expect("an idle session");
    assert_eq!(wire::response_code(&response), 0);
    stranger
}

#[test]
fn beside_a_strangers_idle_session_no_signature_fails_and_a_login_says_why_it_cannot_be() {
    let bench = Bench::managed();
    bench.token();
    let (app, session, keys) = signer(&bench, "busy");
    let (signatures, _) = size();
    let stranger = stranger(&bench);

    sign(&bench, &app, session, keys, signatures / 2);
    assert!(!bench.shim.age(2 * GAP), "the stranger's session bars the saving of others");
    sign(&bench, &app, session, keys, signatures / 2);

    let other = bench.ready();
    let other_session = bench.must("C_OpenSession", other.open(other.slot_of(LABEL).expect("it")));
    let before = bench.log().len();
    assert_eq!(other.login(other_session, PIN), Err(Rv(CKR_DEVICE_ERROR)));
    let said = bench.log().split_off(before);
    assert!(
        said.lines().any(|line| line.contains("C_Login") && line.contains("idle session")),
        "{said}"
    );

    drop(stranger);
    bench.shim.settled(Duration::from_secs(10));
    bench.must("C_Login", other.login(other_session, PIN));
    bench.must("C_Sign", app.sign(session, CKM_ECDSA, keys.1, &DIGEST));
    let slot = other.slot_of(LABEL).expect("the token");
    let flags = other.token_flags(slot).expect("C_GetTokenInfo");
    assert_eq!(flags & CKF_USER_PIN_COUNT_LOW, 0, "no try was spent");
}

/// Numbers that are the same in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// What a token should have: the handles of public and private key by label.
type Keys = BTreeMap<String, (u64, u64)>;

fn make_key(bench: &Bench, app: &App, session: u64, keys: &mut Keys, number: usize) {
    let label = format!("key {number}");
    let made = bench.must("C_GenerateKeyPair", app.generate_ec(session, P256, &label));
    keys.insert(label, made);
}

/// Whether exactly these keys are there.
fn has(app: &App, session: u64, keys: &Keys) {
    let found = app.find(session, &[ulong(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("C_FindObjects");
    let mut labels: Vec<_> = found
        .iter()
        .map(|key| app.attribute(session, *key, CKA_LABEL).expect("C_GetAttributeValue"))
        .map(|label| String::from_utf8(label).expect("text"))
        .collect();
    labels.sort();
    assert!(labels.iter().eq(keys.keys()), "{labels:?}");
}

fn many_keys_in_random_order(bench: &Bench) {
    bench.token();
    let (app, mut session) = bench.logged_in();
    let slot = app.slot_of(LABEL).expect("the token");
    let count = number("TPM11_SOAK_KEYS", 60) as usize;
    let mut keys = Keys::new();
    let begun = Instant::now();
    for number in 0..count {
        make_key(bench, &app, session, &mut keys, number);
    }
    println!("{count} keys in {:?}", begun.elapsed());

    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let begun = Instant::now();
    for turn in 0..10 * count {
        let at = numbers.below(keys.len());
        let (label, key) = keys.iter().nth(at).map(|(label, key)| (label.clone(), *key)).unwrap();
        match numbers.below(20) {
            0 => {
                bench.must("C_DestroyObject", app.destroy_object(session, key.0));
                bench.must("C_DestroyObject", app.destroy_object(session, key.1));
                keys.remove(&label);
                make_key(bench, &app, session, &mut keys, count + turn);
            }
            1..=3 => {
                let found = app.find(session, &[bytes(CKA_LABEL, label.as_bytes())]);
                assert_eq!(bench.must("C_FindObjects", found).len(), 2, "{label}");
            }
            4 => {
                let other = bench.must("C_OpenSession", app.open(slot));
                bench.must("C_CloseSession", app.close_session(session));
                session = other;
            }
            5 => {
                bench.must("C_Logout", app.logout(session));
                bench.must("C_Login", app.login(session, PIN));
                // Handles of private objects end with the login. PKCS#11 3.2 §5.6.9
                for (label, key) in &mut keys {
                    let template =
                        [bytes(CKA_LABEL, label.as_bytes()), ulong(CKA_CLASS, CKO_PRIVATE_KEY)];
                    key.1 = bench.must("C_FindObjects", app.find(session, &template))[0];
                }
            }
            6 => drop(bench.must("C_GenerateRandom", app.random(session, 24))),
            _ => {
                let signature = bench.must("C_Sign", app.sign(session, CKM_ECDSA, key.1, &DIGEST));
                let verified = app.verify(session, CKM_ECDSA, key.0, &DIGEST, &signature);
                bench.must("C_Verify", verified);
            }
        }
        if turn % 1_000 == 0 {
            bench.shim.forget();
        }
    }
    println!("{} operations in {:?}", 10 * count, begun.elapsed());
    has(&app, session, &keys);
    let left = bench.shim.settled(Duration::from_secs(10));
    assert!(left.is_nothing(), "after the lease's time: {left:?}");
    assert_eq!(bench.shim.lockout_counter(), 0);

    app.kill();
    let (next, session) = bench.logged_in();
    has(&next, session, &keys);
    bench.must("C_Finalize", next.finalize());
    let left = bench.shim.settled(Duration::from_secs(10));
    assert!(left.is_nothing(), "after C_Finalize: {left:?}");
}

#[test]
fn on_a_bare_tpm_many_keys_are_used_in_random_order_on_three_slots() {
    many_keys_in_random_order(&Bench::start());
}

#[test]
fn behind_the_resource_manager_many_keys_are_used_in_random_order() {
    many_keys_in_random_order(&Bench::managed());
}

/// Each process is killed with a key and a session in its hands.
fn kill_them(bench: &Bench) {
    bench.token();
    let (app, session, _) = signer(bench, "first");
    bench.must("C_Finalize", app.finalize());
    for round in 0..8 {
        // Making a key takes all three slots of a bare TPM.
        let (app, session, _) = signer(bench, &format!("key {round}"));
        assert_eq!(bench.shim.lockout_counter(), 0);
        if round % 2 == 0 {
            bench.must("C_GenerateRandom", app.random(session, 8));
        }
        app.kill();
    }
    let (app, other, _) = signer(bench, "last");
    let found = app.find(other, &[ulong(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("C_FindObjects");
    assert_eq!(found.len(), 10);
    let _ = session;
    bench.must("C_Finalize", app.finalize());
}

#[test]
fn on_a_bare_tpm_what_killed_processes_left_is_in_nobodys_way() {
    // It stays until somebody needs its place: who else may be using it cannot be told sooner.
    let bench = Bench::start();
    kill_them(&bench);
    let left = bench.shim.settled(Duration::from_secs(1));
    assert!(left.objects.len() < 3 && left.sessions.len() < 3, "{left:?}");
}

#[test]
fn behind_the_resource_manager_nothing_is_left_of_killed_processes() {
    let bench = Bench::managed();
    kill_them(&bench);
    let left = bench.shim.settled(Duration::from_secs(10));
    assert!(left.is_nothing(), "{left:?}");
}

/// Runs each call that needs the TPM; after each nothing may stay.
fn each_call(bench: &Bench) {
    let nothing = |what: &str| {
        let left = bench.shim.settled(Duration::from_secs(10));
        assert!(left.is_nothing(), "after {what}: {left:?}");
    };
    let app = bench.ready();
    let slot = app.empty_slot().expect("an empty slot");
    bench.must("C_InitToken", app.init_token(slot, SO_PIN, LABEL));
    nothing("C_InitToken");
    let session = bench.must("C_OpenSession", app.open(slot));
    bench.must("C_Login", app.login_so(session, SO_PIN));
    nothing("C_Login(SO)");
    bench.must("C_InitPIN", app.init_pin(session, PIN));
    nothing("C_InitPIN");
    bench.must("C_Logout", app.logout(session));
    assert_eq!(app.login(session, b"wrong-pin"), Err(Rv(CKR_PIN_INCORRECT)));
    nothing("C_Login with a wrong PIN");
    bench.must("C_Login", app.login(session, PIN));
    nothing("C_Login");
    bench.must("C_SetPIN", app.set_pin(session, PIN, PIN));
    nothing("C_SetPIN");
    let (public, private) = bench.must("C_GenerateKeyPair", app.generate_ec(session, P256, "ec"));
    nothing("C_GenerateKeyPair");
    bench.must("C_Sign", app.sign(session, CKM_ECDSA, private, &DIGEST));
    nothing("C_Sign");
    let point = bench.must("CKA_EC_POINT", app.attribute(session, public, CKA_EC_POINT));
    let secret = [ulong(CKA_CLASS, CKO_SECRET_KEY), ulong(CKA_KEY_TYPE, CKK_GENERIC_SECRET)];
    let (_, deriving) = bench.must(
        "C_GenerateKeyPair",
        app.generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256)],
            &[flag(CKA_DERIVE, true), flag(CKA_SIGN, false)],
        ),
    );
    let ecdh = Mechanism::ecdh(CKD_NULL, &[], &point[2..]);
    bench.must("C_DeriveKey", app.derive(session, ecdh, deriving, &secret));
    nothing("C_DeriveKey");
    let (public, private) = bench.must("C_GenerateKeyPair", app.generate_rsa(session, 2048, "rsa"));
    nothing("C_GenerateKeyPair of RSA");
    let cipher = bench.must("C_Encrypt", app.encrypt(session, CKM_RSA_PKCS, public, b"text"));
    bench.must("C_Decrypt", app.decrypt(session, CKM_RSA_PKCS, private, &cipher));
    nothing("C_Decrypt");
    bench.must("C_GenerateRandom", app.random(session, 100));
    nothing("C_GenerateRandom");
    bench.must("C_DestroyObject", app.destroy_object(session, private));
    bench.must("C_CloseAllSessions", app.close_all_sessions(slot));
    bench.must("C_InitToken", app.init_token(slot, SO_PIN, LABEL));
    nothing("C_InitToken again");
}

#[test]
fn on_a_bare_tpm_nothing_is_left_of_any_call_once_the_leases_time_is_over() {
    each_call(&Setup::default().tpm("linger_ms = 20").start());
}

#[test]
fn behind_the_resource_manager_nothing_is_left_of_any_call_once_the_leases_time_is_over() {
    each_call(&Setup::default().managed().tpm("linger_ms = 20").start());
}
