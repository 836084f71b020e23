//! Every response code of TPM 2.0 Part 2 §6.6, answered once to each command of a login and of a
//! signature: what the application gets is in codes-login.txt and codes-sign.txt, which these tests compare
//! with the module and `TPM11_CODES=write` writes anew. Whatever they say: only a code that says so of a PIN, at the command
//! that proves one, makes a PIN wrong or locked, and the next call works.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, wait_until};
use swtpm_tests::ck::{Answer, P256, Rv};
use swtpm_tests::shim::{Action, Fault, Record};
use swtpm_tests::{App, Bench, Setup, wire};

/// Format zero, version 1 (0x100), and the code of a TPM 1.2.
#[rustfmt::skip]
const FORMAT_ZERO: &[(u32, &str)] = &[
    (0x01E, "BAD_TAG"), (0x100, "INITIALIZE"), (0x101, "FAILURE"), (0x103, "SEQUENCE"),
    (0x10B, "PRIVATE"), (0x119, "HMAC"), (0x120, "DISABLED"), (0x121, "EXCLUSIVE"),
    (0x124, "AUTH_TYPE"), (0x125, "AUTH_MISSING"), (0x126, "POLICY"), (0x127, "PCR"),
    (0x128, "PCR_CHANGED"), (0x12D, "UPGRADE"), (0x12E, "TOO_MANY_CONTEXTS"),
    (0x12F, "AUTH_UNAVAILABLE"), (0x130, "REBOOT"), (0x131, "UNBALANCED"),
    (0x142, "COMMAND_SIZE"), (0x143, "COMMAND_CODE"), (0x144, "AUTHSIZE"),
    (0x145, "AUTH_CONTEXT"), (0x146, "NV_RANGE"), (0x147, "NV_SIZE"), (0x148, "NV_LOCKED"),
    (0x149, "NV_AUTHORIZATION"), (0x14A, "NV_UNINITIALIZED"), (0x14B, "NV_SPACE"),
    (0x14C, "NV_DEFINED"), (0x150, "BAD_CONTEXT"), (0x151, "CPHASH"), (0x152, "PARENT"),
    (0x153, "NEEDS_TEST"), (0x154, "NO_RESULT"), (0x155, "SENSITIVE"),
];

/// Format one (0x080), without the number of a handle, parameter or session.
#[rustfmt::skip]
const FORMAT_ONE: &[(u32, &str)] = &[
    (0x081, "ASYMMETRIC"), (0x082, "ATTRIBUTES"), (0x083, "HASH"), (0x084, "VALUE"),
    (0x085, "HIERARCHY"), (0x087, "KEY_SIZE"), (0x088, "MGF"), (0x089, "MODE"), (0x08A, "TYPE"),
    (0x08B, "HANDLE"), (0x08C, "KDF"), (0x08D, "RANGE"), (0x08E, "AUTH_FAIL"), (0x08F, "NONCE"),
    (0x090, "PP"), (0x092, "SCHEME"), (0x095, "SIZE"), (0x096, "SYMMETRIC"), (0x097, "TAG"),
    (0x098, "SELECTOR"), (0x09A, "INSUFFICIENT"), (0x09B, "SIGNATURE"), (0x09C, "KEY"),
    (0x09D, "POLICY_FAIL"), (0x09F, "INTEGRITY"), (0x0A0, "TICKET"), (0x0A1, "RESERVED_BITS"),
    (0x0A2, "BAD_AUTH"), (0x0A3, "EXPIRED"), (0x0A4, "POLICY_CC"), (0x0A5, "BINDING"),
    (0x0A6, "CURVE"), (0x0A7, "ECC_POINT"), (0x0A8, "FW_LIMITED"), (0x0A9, "SVN_LIMITED"),
];

/// Warnings (0x900).
#[rustfmt::skip]
const WARNINGS: &[(u32, &str)] = &[
    (0x902, "OBJECT_MEMORY"), (0x903, "SESSION_MEMORY"), (0x904, "MEMORY"),
    (0x905, "SESSION_HANDLES"), (0x906, "OBJECT_HANDLES"), (0x907, "LOCALITY"),
    (0x908, "YIELDED"), (0x909, "CANCELED"), (0x90A, "TESTING"), (0x910, "REFERENCE_H0"),
    (0x911, "REFERENCE_H1"), (0x912, "REFERENCE_H2"), (0x913, "REFERENCE_H3"),
    (0x914, "REFERENCE_H4"), (0x915, "REFERENCE_H5"), (0x916, "REFERENCE_H6"),
    (0x918, "REFERENCE_S0"), (0x919, "REFERENCE_S1"), (0x91A, "REFERENCE_S2"),
    (0x91B, "REFERENCE_S3"), (0x91C, "REFERENCE_S4"), (0x91D, "REFERENCE_S5"),
    (0x91E, "REFERENCE_S6"), (0x920, "NV_RATE"), (0x921, "LOCKOUT"), (0x922, "RETRY"),
    (0x923, "NV_UNAVAILABLE"),
    // The last, because the process does without sessions for a while.
    (0x901, "CONTEXT_GAP"),
];

/// All of them as a TPM answers them: a code of format one speaks of the first session if it is about
/// an authorization, else of the first parameter.
fn codes() -> Vec<(u32, &'static str)> {
    let of_a_session = ["AUTH_FAIL", "BAD_AUTH", "POLICY_FAIL", "POLICY_CC", "EXPIRED", "NONCE"];
    let format_one = FORMAT_ONE.iter().map(|(code, name)| {
        let place = if of_a_session.contains(name) { 0x900 } else { 0x140 };
        (code | place, *name)
    });
    FORMAT_ZERO.iter().copied().chain(format_one).chain(WARNINGS.iter().copied()).collect()
}

/// What an application may be told of a TPM that answers oddly.
const DEVICE: Rv = Rv(CKR_DEVICE_ERROR);
const MEMORY: Rv = Rv(CKR_DEVICE_MEMORY);
const FAILED: Rv = Rv(CKR_FUNCTION_FAILED);
const REJECTED: Rv = Rv(CKR_FUNCTION_REJECTED);

struct Scene {
    bench: Bench,
    app: App,
    session: u64,
    key: u64,
}

impl Scene {
    fn start() -> Scene {
        let bench =
            Setup::default().tpm("linger_ms = 0").config("[pin]\nkdf_iterations = 1000").start();
        bench.token();
        let app = bench.app();
        // So that each call begins and ends with nothing open.
        let flags = CKF_OS_LOCKING_OK | CKF_LIBRARY_CANT_CREATE_OS_THREADS;
        app.initialize_with(flags).expect("C_Initialize");
        let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
        app.login(session, PIN).expect("C_Login");
        let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
        Scene { bench, app, session, key }
    }

    fn sign(&self) -> Answer<()> {
        self.app.sign(self.session, CKM_ECDSA, self.key, &[0x42; 32]).map(drop)
    }

    fn login(&self) -> Answer<()> {
        self.app.login(self.session, PIN)
    }

    fn logout(&self) {
        let _ = self.app.logout(self.session);
    }

    /// The commands of `call` that are more than farewell.
    fn commands(&self, call: impl Fn(&Scene) -> Answer<()>) -> Vec<(u32, String)> {
        let (Record(mut entries), answer) = self.bench.shim.watch(|| call(self));
        answer.expect("without a fault");
        while entries.last().is_some_and(|entry| entry.code == wire::FLUSH_CONTEXT) {
            entries.pop();
        }
        entries.into_iter().map(|entry| (entry.code, entry.name)).collect()
    }

    /// What `call` returns when its command `at` gets this code.
    fn meets(&self, code: u32, at: usize, call: impl Fn(&Scene) -> Answer<()>) -> Answer<()> {
        let mark = self.bench.shim.mark();
        self.bench.shim.inject(Fault::at_any(Action::Answer(code)).after(at));
        let answer = call(self);
        assert_eq!(self.bench.shim.heal(), 1, "{code:#x} at {at} met a command");
        assert_eq!(self.bench.shim.pin_tries(mark), 0, "{code:#x} at {at}");
        answer
    }
}

fn shown(answer: Answer<()>) -> String {
    match answer {
        Ok(()) => "ok".to_owned(),
        Err(rv) => format!("{rv:?}").replace("CKR_", ""),
    }
}

/// The table: a line for each code, with what each command's answer becomes.
fn table(
    name: &str,
    commands: &[(u32, String)],
    mut cell: impl FnMut(u32, usize) -> String,
) -> String {
    let names: Vec<&str> = commands.iter().map(|(_, name)| name.as_str()).collect();
    let mut text = format!("{name}: {}\n", names.join(", "));
    for (code, name) in codes() {
        let cells: Vec<String> = (0..commands.len()).map(|at| cell(code, at)).collect();
        let _ = writeln!(text, "{code:#05x} {name}: {}", cells.join(", "));
    }
    text
}

fn compare(name: &str, now: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/codes-{name}.txt"));
    if std::env::var("TPM11_CODES").as_deref() == Ok("write") {
        std::fs::write(path, now).expect("the table is written");
        return;
    }
    let known = std::fs::read_to_string(path).expect("the table: TPM11_CODES=write makes it");
    assert_eq!(now.lines().count(), known.lines().count(), "commands and codes");
    let differences: Vec<String> = now
        .lines()
        .zip(known.lines())
        .filter(|(now, known)| now != known)
        .map(|(now, known)| format!("now   {now}\nknown {known}"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn every_code_at_every_command_of_a_signature_has_its_return_value() {
    let scene = Scene::start();
    let commands = scene.commands(Scene::sign);
    let now = table("C_Sign", &commands, |code, at| {
        let answer = scene.meets(code, at, Scene::sign);
        let plain = matches!(answer, Ok(()) | Err(DEVICE | MEMORY | FAILED | REJECTED));
        assert!(plain, "{code:#x} at {}: {answer:?}", commands[at].1);
        let works = wait_until(Duration::from_secs(60), || scene.sign().is_ok());
        assert!(works, "{code:#x} at {at}, then:\n{}", scene.bench.log());
        shown(answer)
    });
    let state = scene.app.session_info(scene.session).expect("C_GetSessionInfo").state;
    assert_eq!(state, CKS_RW_USER_FUNCTIONS, "the login stayed");
    assert_eq!(scene.bench.shim.lockout_counter(), 0);
    compare("sign", &now);
}

#[test]
fn every_code_at_every_command_of_a_login_has_its_return_value_and_only_the_pins_own_make_it_wrong()
{
    let scene = Scene::start();
    scene.logout();
    let commands = scene.commands(Scene::login);
    scene.logout();
    let now = table("C_Login", &commands, |code, at| {
        let answer = scene.meets(code, at, Scene::login);
        let at_pin = commands[at].0 == wire::POLICY_SECRET;
        let wrong = at_pin && [0x98E, 0x9A2].contains(&code);
        assert_eq!(answer == Err(Rv(CKR_PIN_INCORRECT)), wrong, "{code:#x} at {}", commands[at].1);
        let locked = at_pin && code == 0x12F;
        assert_eq!(answer == Err(Rv(CKR_PIN_LOCKED)), locked, "{code:#x} at {}", commands[at].1);
        let plain = matches!(answer, Ok(()) | Err(DEVICE | MEMORY | FAILED));
        assert!(plain || wrong || locked, "{code:#x} at {}: {answer:?}", commands[at].1);
        scene.logout();
        let works = wait_until(Duration::from_secs(60), || scene.login().is_ok());
        assert!(works, "{code:#x} at {at}, then:\n{}", scene.bench.log());
        scene.logout();
        shown(answer)
    });
    assert_eq!(scene.bench.shim.lockout_counter(), 0);
    compare("login", &now);
}
