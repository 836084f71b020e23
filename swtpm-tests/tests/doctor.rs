//! `tpm11 doctor`: what it finds, what it says mends it, and that this does.

use std::time::Duration;

use serde_json::Value;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, program, set_mode};
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::{Bench, Setup, wire};

const LIMIT: Duration = Duration::from_secs(60);

/// The exit code and standard output of `tpm11` with these arguments.
fn tool(bench: &Bench, arguments: &[&str]) -> (i32, String) {
    let mut command = bench.command(program().with_file_name("tpm11"));
    command.args(arguments);
    let output = bench.run(command, LIMIT);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// The one line that contains this.
fn line<'a>(text: &'a str, what: &str) -> &'a str {
    let found: Vec<_> = text.lines().filter(|line| line.contains(what)).collect();
    assert_eq!(found.len(), 1, "{what} in:\n{text}");
    found[0]
}

fn tpm2(bench: &Bench, name: &str, arguments: &[&str]) {
    let mut command = bench.tpm2(name);
    command.args(arguments);
    let output = bench.run(command, LIMIT);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_host_with_a_token_is_well_line_by_line() {
    let bench = Bench::start();
    bench.token();
    let before = bench.shim.nv_indices();
    let (_, text) = tool(&bench, &["doctor"]);
    for line in text.lines() {
        let level = line.split("  ").next().unwrap();
        assert!(["ok", "note", "warn", "FAIL"].contains(&level), "{line}");
        assert!(level == "ok" || line.contains("  -> "), "no way out: {line}");
    }
    assert!(!text.contains("FAIL"), "{text}");
    for what in
        ["no lockout: 0 of", "sound, and can be written", "is sound", "the owner hierarchy has no"]
    {
        assert!(line(&text, what).starts_with("ok"), "{text}");
    }
    assert!(line(&text, &format!("\"{LABEL}\"")).starts_with("ok"), "{text}");
    assert_eq!(bench.shim.nv_indices(), before, "looking changes nothing");

    let json: Value = serde_json::from_str(&tool(&bench, &["doctor", "--json"]).1).unwrap();
    let findings = json["findings"].as_array().unwrap();
    assert_eq!(findings.len(), text.lines().count());
    assert_eq!(findings[0]["level"], "ok");
}

#[test]
fn passwords_and_lockout_are_told_with_what_takes_them_away() {
    let bench = Bench::start();
    tpm2(&bench, "tpm2_changeauth", &["-c", "owner", "secret"]);
    tpm2(&bench, "tpm2_changeauth", &["-c", "lockout", "secret"]);
    let (code, text) = tool(&bench, &["doctor"]);
    assert_eq!(code, 1, "warnings alone:\n{text}");
    assert!(line(&text, "the owner hierarchy has a password").starts_with("warn"), "{text}");
    assert!(!text.contains("the lockout hierarchy has no password"), "{text}");
    tpm2(&bench, "tpm2_changeauth", &["-c", "owner", "-p", "secret"]);
    let (_, text) = tool(&bench, &["doctor"]);
    assert!(line(&text, "the owner hierarchy has no password").starts_with("ok"), "{text}");
}

#[test]
fn a_session_that_somebody_left_is_told() {
    let bench = Bench::start();
    assert!(!tool(&bench, &["doctor"]).1.contains("saved sessions"));
    tpm2(&bench, "tpm2_startauthsession", &["-S", "left"]);
    let (_, text) = tool(&bench, &["doctor"]);
    assert!(line(&text, "saved sessions of other programs: 1").starts_with("note"), "{text}");
    tpm2(&bench, "tpm2_flushcontext", &["--saved-session"]);
    assert!(!tool(&bench, &["doctor"]).1.contains("saved sessions"));
}

#[test]
fn indices_without_a_token_are_removed_when_told_and_no_others() {
    let bench = Bench::start();
    bench.token();
    let lost = bench.shim.nv_indices();
    std::fs::remove_dir_all(bench.store()).unwrap();
    bench.token();
    let (_, text) = tool(&bench, &["doctor"]);
    let found = line(&text, "PIN indices whose token is in no store");
    assert!(found.starts_with("note") && found.contains("--remove-orphans"), "{text}");
    assert_eq!(bench.shim.nv_indices().len(), 4);

    let (_, text) = tool(&bench, &["doctor", "--remove-orphans"]);
    assert!(line(&text, "PIN indices removed").starts_with("ok"), "{text}");
    let left = bench.shim.nv_indices();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|index| !lost.contains(index)));
    let (app, _) = bench.logged_in();
    app.finalize().unwrap();
    assert!(line(&tool(&bench, &["doctor"]).1, "no PIN index without").starts_with("ok"));
}

#[test]
fn an_unreadable_store_keeps_its_indices_whatever_is_said() {
    let bench = Bench::start();
    bench.token();
    let file = bench.store().join("tpm11.sqlite3");
    std::fs::write(&file, b"no longer a store, whatever its name says, and longer than a header")
        .unwrap();
    let (code, text) = tool(&bench, &["doctor", "--remove-orphans"]);
    assert_eq!(code, 5, "{text}");
    assert!(line(&text, "cannot be read").starts_with("FAIL"), "{text}");
    assert_eq!(bench.shim.nv_indices().len(), 2);
}

#[test]
fn a_damaged_store_and_one_that_everybody_reads_are_named() {
    let bench = Bench::start();
    bench.token();
    set_mode(&bench.store(), 0o755);
    let (code, text) = tool(&bench, &["doctor"]);
    assert_eq!(code, 1, "{text}");
    let found = line(&text, "everybody may read it");
    assert!(found.starts_with("warn") && found.contains("-> chmod o-rwx"), "{text}");

    // A page that belongs to nothing any more: SQLite's own check sees it.
    let file = bench.store().join("tpm11.sqlite3");
    let mut bytes = std::fs::read(&file).unwrap();
    let pages = u32::from_be_bytes(bytes[28..32].try_into().unwrap());
    let page = bytes.len() / pages as usize;
    bytes.extend(vec![0; page]);
    bytes[28..32].copy_from_slice(&(pages + 1).to_be_bytes());
    std::fs::write(&file, bytes).unwrap();
    let (code, text) = tool(&bench, &["doctor"]);
    assert_eq!(code, 5, "{text}");
    assert!(line(&text, "damaged: ").contains("-> tpm11 restore"), "{text}");
}

#[test]
fn a_locked_pin_and_a_missing_tpm_fail_with_their_own_exit_codes() {
    let mut bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    for _ in 0..8 {
        assert!(app.login(session, b"wrong").is_err());
    }
    drop(app);
    let (code, text) = tool(&bench, &["doctor"]);
    assert_eq!(code, 6, "{text}");
    assert!(line(&text, "the user's PIN is locked").contains("-> let the security officer"));

    bench.tpm.power_off();
    let mut command = bench.command(program().with_file_name("tpm11"));
    command.arg("doctor").env("TPM11_TCTI", "device:/nowhere/tpmrm0");
    let output = bench.run(command, LIMIT);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.lines().any(|line| line.starts_with("FAIL") && line.contains("/dev/tpmrm0")));
}

#[test]
fn a_mistake_in_the_configuration_is_a_finding_like_others() {
    let bench = Setup::default().config("[store]\nbusy_timeout_sm = 3").start();
    let (code, text) = tool(&bench, &["doctor"]);
    assert_eq!(code, 3, "{text}");
    assert!(line(&text, "busy_timeout_sm").starts_with("FAIL"), "{text}");
}

#[test]
fn a_token_without_pin_is_proven_whole_without_a_login() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    app.login_so(session, SO_PIN).unwrap();
    app.init_no_pin(session).unwrap();
    app.finalize().unwrap();
    let (_, text) = tool(&bench, &["doctor"]);
    assert!(line(&text, "by its own signature").starts_with("ok"), "{text}");
}

#[test]
fn the_record_of_a_dead_process_is_read() {
    let bench = Bench::start();
    let (code, text) = tool(&bench, &["doctor", "--last"]);
    assert_eq!(code, 0);
    assert!(text.contains("nothing is on record"), "{text}");
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    assert!(app.login(session, b"wrong").is_err());
    app.login(session, PIN).unwrap();
    bench.shim.inject(Fault::at(wire::GET_RANDOM, Action::Answer(0x101)).always());
    assert!(app.random(session, 8).is_err());
    app.kill();
    let (code, text) = tool(&bench, &["doctor", "--last"]);
    assert_eq!(code, 0);
    assert!(text.contains("TPM2_GetRandom") && text.contains("0x00000101"), "{text}");
    assert!(text.find("a failure of process") < text.find("the end of process"), "{text}");
    let json: Value =
        serde_json::from_str(&tool(&bench, &["doctor", "--last", "--json"]).1).unwrap();
    assert_eq!(json["records"][0]["failure"], true);
}
