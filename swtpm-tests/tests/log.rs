//! The log: what a line says, what sets how many there are, and that one event is one line.

use cryptoki_sys::*;
use swtpm_tests::Bench;
use swtpm_tests::bench::{LABEL, PIN};
use swtpm_tests::ck::{P256, Rv, bytes, flag, number};
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::{App, wire};

/// A line, taken apart.
struct Line<'a> {
    level: &'a str,
    call: &'a str,
    sentence: &'a str,
}

/// `2026-01-31T12:00:00.000Z tpm11[42] WARN  C_Sign: sentence`; outside of a call without its name.
fn parse(line: &str, process: u32) -> Line<'_> {
    let (head, rest) = line.split_at(format!("2026-01-31T12:00:00.000Z tpm11[{process}] ").len());
    let (time, of) = head.split_at(25);
    let digits =
        |text: &str| text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let shape: String = digits(time);
    assert_eq!(shape, "0000-00-00T00:00:00.000Z ", "{line}");
    assert_eq!(of, format!("tpm11[{process}] "), "{line}");
    let (level, text) = rest.split_at(6);
    let level = level.trim_end();
    assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "{line}");
    let (call, sentence) = match text.split_once(": ") {
        Some((call, rest)) if call.starts_with("C_") => (call, rest),
        _ => ("", text),
    };
    Line { level, call, sentence }
}

fn at_level(bench: &Bench, level: &str) -> App {
    let app = bench.app_with(|command| {
        command.env("TPM11_LOG", level);
    });
    app.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
    app
}

/// Calls with events of every level: a TPM that answers with nonsense, callers' mistakes, successes.
fn eventful(bench: &Bench, app: &App) {
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    app.login(session, PIN).expect("C_Login");
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    bench.shim.inject(Fault::at(wire::SIGN, Action::Answer(0x101)));
    let _ = app.sign(session, CKM_ECDSA, key, &[1; 32]);
    bench.shim.cut_connections();
    app.sign(session, CKM_ECDSA, key, &[1; 32]).expect("C_Sign");
    assert_eq!(app.find(0xBAD, &[]), Err(Rv(CKR_SESSION_HANDLE_INVALID)));
    app.finalize().expect("C_Finalize");
}

#[test]
fn every_line_has_time_process_level_call_and_a_sentence() {
    let bench = Bench::start();
    bench.token();
    let before = bench.log().len();
    let app = at_level(&bench, "trace");
    eventful(&bench, &app);
    let log = bench.log();
    let lines: Vec<Line> = log[before..].lines().map(|line| parse(line, app.id())).collect();
    for Line { call, sentence, .. } in &lines {
        assert!(!sentence.trim().is_empty() && !sentence.starts_with("C_"), "{call}: {sentence}");
    }
    // What the floors below say names the call, too.
    let said = |level: &str, call: &str, what: &str| {
        let found = lines
            .iter()
            .any(|line| line.level == level && line.call == call && line.sentence.contains(what));
        assert!(found, "{level} {call} {what}:\n{log}");
    };
    said("TRACE", "C_Login", "done");
    said("ERROR", "C_Sign", "TPM_RC_FAILURE");
    said("WARN", "C_Sign", "0x30");
    said("DEBUG", "C_FindObjectsInit", "no session has this handle (0xb3)");
    said("TRACE", "C_Finalize", "done");
    assert!(lines.iter().filter(|line| line.call.is_empty()).count() <= lines.len() / 10, "{log}");
}

#[test]
fn the_environment_says_how_much_is_logged() {
    let mut before = 0;
    for (filter, levels) in [
        ("off", &[][..]),
        ("error", &["ERROR"][..]),
        ("warn", &["ERROR", "WARN"][..]),
        ("debug", &["ERROR", "WARN", "INFO", "DEBUG"][..]),
    ] {
        let bench = Bench::start();
        bench.token();
        let length = bench.log().len();
        let app = at_level(&bench, filter);
        eventful(&bench, &app);
        let log = bench.log();
        let lines: Vec<Line> = log[length..].lines().map(|line| parse(line, app.id())).collect();
        for line in &lines {
            assert!(levels.contains(&line.level), "{filter}:\n{log}");
        }
        assert!(lines.len() > before || levels.is_empty(), "{filter} says more:\n{log}");
        before = lines.len();
        assert_eq!(app.noise(), "");
    }
}

#[test]
fn a_program_that_opens_a_session_with_every_slot_is_no_event() {
    let bench = Bench::start();
    bench.token();
    let before = bench.log().len();
    let app = at_level(&bench, "info");
    for slot in app.slots(true).expect("C_GetSlotList") {
        let empty = app.token_flags(slot).expect("C_GetTokenInfo") & CKF_TOKEN_INITIALIZED == 0;
        let answer = app.open(slot).map(drop);
        assert_eq!(answer, if empty { Err(Rv(CKR_TOKEN_NOT_RECOGNIZED)) } else { Ok(()) });
    }
    app.finalize().expect("C_Finalize");
    assert_eq!(&bench.log()[before..], "");
}

#[test]
fn a_changed_set_of_objects_is_one_line_with_the_objects_in_question() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    for label in ["one", "two"] {
        let template = [
            number(CKA_CLASS, CKO_DATA),
            flag(CKA_TOKEN, true),
            flag(CKA_PRIVATE, false),
            bytes(CKA_LABEL, label),
        ];
        app.create_object(session, &template).expect("C_CreateObject");
    }
    app.finalize().expect("C_Finalize");
    let store = rusqlite::Connection::open(bench.store().join("tpm11.sqlite3")).expect("the store");
    let sql = "DELETE FROM object WHERE id = (SELECT max(id) FROM object)";
    assert_eq!(store.execute(sql, []).expect("one row less"), 1);
    drop(store);
    let (app, _) = bench.logged_in();
    app.finalize().expect("C_Finalize");
    let log = bench.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("changed outside")).collect();
    let [line] = said[..] else { panic!("{} lines:\n{log}", said.len()) };
    assert!(line.contains("C_Login: token ") && line.contains("1 of 2 found"), "{line}");
}
