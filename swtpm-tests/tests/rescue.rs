//! Tokens that somebody locked, forgot or lost, and the commands that bring them back.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, program};
use swtpm_tests::ck::{P256, Rv, bytes, number};
use swtpm_tests::{App, Bench};

const LIMIT: Duration = Duration::from_secs(60);
const NEW: &[u8] = b"brand-new-1";

/// The tool with these arguments and with `input` on its standard input.
fn tool(bench: &Bench, arguments: &[&str], input: &[u8]) -> Output {
    let mut command: Command = bench.command(program().with_file_name("tpm11"));
    let file = bench.directory().join("input");
    std::fs::File::create(&file).unwrap().write_all(input).unwrap();
    command.args(arguments).stdin(std::fs::File::open(&file).unwrap());
    bench.run(command, LIMIT)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn lines(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| [part, &b"\n"[..]].concat()).collect()
}

/// Signs with a key of this name, made before; `false` if the login is refused.
fn signs(bench: &Bench, pin: &[u8]) -> bool {
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).unwrap();
    if app.login(session, pin).is_err() {
        return false;
    }
    sign(&app, session);
    true
}

fn sign(app: &App, session: u64) {
    let template = [number(CKA_CLASS, CKO_PRIVATE_KEY), bytes(CKA_LABEL, &b"key"[..])];
    let found = app.find(session, &template).unwrap();
    app.sign(session, CKM_ECDSA, found[0], &[7; 32]).expect("C_Sign");
}

/// Makes the key that [`signs`] uses.
fn key(bench: &Bench) {
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "key").unwrap();
}

fn lock(bench: &Bench) {
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    for _ in 0..8 {
        assert!(app.login(session, b"wrong").is_err());
    }
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_PIN_LOCKED)));
}

#[test]
fn unlock_lets_the_user_in_again_with_the_pin_that_he_had() {
    let bench = Bench::start();
    bench.token();
    key(&bench);
    lock(&bench);
    let wrong = tool(&bench, &["unlock", "--so-pin-fd", "0"], b"not-the-officer\n");
    assert_eq!(wrong.status.code(), Some(7), "{}", text(&wrong.stderr));
    assert!(text(&wrong.stderr).contains("7 tries left"));
    good(&tool(&bench, &["unlock", "--so-pin-fd", "0", "--token", LABEL], &lines(&[SO_PIN])));
    assert!(signs(&bench, PIN));
}

#[test]
fn unlock_sets_a_new_pin_where_the_old_one_is_forgotten() {
    let bench = Bench::start();
    bench.token();
    key(&bench);
    lock(&bench);
    let arguments = ["unlock", "--so-pin-fd", "0", "--pin-fd", "0"];
    good(&tool(&bench, &arguments, &lines(&[SO_PIN, NEW])));
    assert!(!signs(&bench, PIN));
    assert!(signs(&bench, NEW));
}

#[test]
fn unlock_says_when_there_is_nothing_to_unlock() {
    let bench = Bench::start();
    let none = tool(&bench, &["unlock", "--so-pin-fd", "0"], &lines(&[SO_PIN]));
    assert_eq!(none.status.code(), Some(6), "no token");
    good(&tool(&bench, &["init", "--so-pin-fd", "0", "--no-pin"], &lines(&[SO_PIN])));
    let pinless = tool(&bench, &["unlock", "--so-pin-fd", "0"], &lines(&[SO_PIN]));
    assert_eq!(pinless.status.code(), Some(6));
    assert!(text(&pinless.stderr).contains("--new-pin"), "{}", text(&pinless.stderr));
    bench.token();
    let several = tool(&bench, &["unlock", "--so-pin-fd", "0"], &lines(&[SO_PIN]));
    assert_eq!(several.status.code(), Some(6));
    assert!(text(&several.stderr).contains("--token"), "{}", text(&several.stderr));
}

#[test]
fn a_restored_store_signs_and_the_pin_is_the_one_that_the_tpm_has() {
    let bench = Bench::start();
    bench.token();
    key(&bench);
    let file = bench.directory().join("backup");
    let path = file.to_str().unwrap();
    let printed = good(&tool(&bench, &["backup", path], b""));
    assert!(printed.contains("2 objects"), "{printed}");
    assert_eq!(mode(&file), 0o600);
    let again = tool(&bench, &["backup", path], b"");
    assert_eq!(again.status.code(), Some(5), "a backup never overwrites");

    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    app.set_pin(session, PIN, NEW).unwrap();
    drop(app);
    std::fs::remove_dir_all(bench.store()).unwrap();
    let printed = good(&tool(&bench, &["restore", path], b""));
    assert!(printed.contains("PINs are those that the TPM has now"), "{printed}");
    assert!(!signs(&bench, PIN), "the changed PIN stays changed");
    assert!(signs(&bench, NEW));
}

#[test]
fn a_restore_gives_up_what_is_newer_only_when_told_and_says_where_it_is_kept() {
    let bench = Bench::start();
    bench.token();
    key(&bench);
    let file = bench.directory().join("backup");
    let path = file.to_str().unwrap();
    good(&tool(&bench, &["backup", path], b""));
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "later").unwrap();
    let refused = tool(&bench, &["restore", path], b"");
    assert_eq!(refused.status.code(), Some(5));
    assert!(text(&refused.stderr).contains("generation"), "{}", text(&refused.stderr));

    let printed = good(&tool(&bench, &["restore", path, "--force"], b""));
    let kept = printed.lines().find_map(|line| line.strip_prefix("kept")).unwrap().trim();
    assert!(Path::new(kept).exists());
    // The process that was there all the time sees it, and goes on.
    sign(&app, session);
    let later = [bytes(CKA_LABEL, &b"later"[..])];
    assert_eq!(app.find(session, &later).unwrap(), Vec::<u64>::new());
    good(&tool(&bench, &["restore", kept], b""));
    assert_eq!(app.find(session, &later).unwrap().len(), 2);
}

#[test]
fn a_restore_says_what_cannot_come_back() {
    let bench = Bench::start();
    bench.token();
    key(&bench);
    let file = bench.directory().join("backup");
    let path = file.to_str().unwrap();
    good(&tool(&bench, &["backup", path], b""));

    // Initialised anew: the old token's PIN indices are gone.
    let app = bench.ready();
    app.init_token(app.slot_of(LABEL).unwrap(), SO_PIN, "another").unwrap();
    drop(app);
    assert_eq!(tool(&bench, &["restore", path], b"").status.code(), Some(5), "another token");
    let output = tool(&bench, &["restore", path, "--force"], b"");
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("lost for ever"), "{}", text(&output.stdout));

    let mut clear = bench.tpm2("tpm2_clear");
    clear.args(["-c", "p"]);
    assert!(bench.run(clear, LIMIT).status.success());
    let output = tool(&bench, &["restore", path], b"");
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("the TPM was cleared"), "{}", text(&output.stdout));
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().unwrap().permissions().mode() & 0o7777
}
