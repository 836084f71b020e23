//! The flight record: what a process did last, readable after it is gone, without its secrets.

use std::path::PathBuf;
use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN};
use swtpm_tests::ck::P256;
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::{Bench, wire};

/// The files in the user's runtime directory: name and content.
fn files(bench: &Bench) -> Vec<(String, String)> {
    let Ok(entries) = std::fs::read_dir(bench.runtime().join("tpm11")) else { return Vec::new() };
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut files: Vec<_> =
        paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect();
    files.sort();
    files
}

fn file(bench: &Bench, kind: &str) -> Option<String> {
    let prefix = format!("tpm11-{kind}-");
    files(bench).into_iter().find(|(name, _)| name.starts_with(&prefix)).map(|(_, text)| text)
}

#[test]
fn a_failure_is_on_record_at_once_with_its_commands_and_without_its_secrets() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "the-label").unwrap();
    app.sign(session, CKM_ECDSA, key, &[0x42; 32]).unwrap();
    assert_eq!(file(&bench, "failure"), None);

    bench.shim.inject(Fault::at(wire::SIGN, Action::Answer(0x101)).always());
    assert!(app.sign(session, CKM_ECDSA, key, &[0x42; 32]).is_err());
    let process = app.id();
    app.kill();

    let record = file(&bench, "failure").expect("a record");
    assert!(record.starts_with("tpm11 "), "{record}");
    assert!(record.contains(&format!("process {process} ")), "{record}");
    for said in ["C_Login", "C_GenerateKeyPair", "TPM2_Create", "TPM2_Sign", "0x00000101"] {
        assert!(record.contains(said), "{said} is missing:\n{record}");
    }
    let last = record.lines().rfind(|line| line.contains("  C_")).unwrap();
    assert!(last.contains("C_Sign") && last.contains("0x00000030"), "{record}");
    let pin = String::from_utf8_lossy(PIN).into_owned();
    for secret in [pin.as_str(), "the-label", "424242"] {
        assert!(!record.contains(secret), "{secret} is on record:\n{record}");
    }
    assert!(record.lines().count() <= 2 + 128);
}

#[test]
fn the_record_keeps_the_last_64_calls_and_commands_each_with_its_time_code_and_duration() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, key) = app.generate_ec(session, P256, "key").unwrap();
    for _ in 0..100 {
        app.sign(session, CKM_ECDSA, key, &[0x42; 32]).unwrap();
        let _ = app.info();
    }
    app.digest(session, CKM_SHA256, b"the last").unwrap();
    app.finalize().unwrap();
    let record = file(&bench, "last").expect("a record");
    let lines: Vec<Vec<&str>> =
        record.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
    let of = |prefix: &str| lines.iter().filter(|line| line[2].starts_with(prefix)).count();
    assert_eq!((of("C_"), of("TPM2_")), (64, 64), "{record}");
    assert_eq!(lines.len(), 128, "{record}");
    let mut times: Vec<&str> = lines.iter().map(|line| line[0]).collect();
    let shown = times.clone();
    times.sort_unstable();
    assert_eq!(times, shown, "in the order of time");
    for line in &lines {
        assert!(line[0].ends_with('Z') && line[0].contains('T'), "{line:?}");
        assert_eq!(line[1], app.id().to_string());
        assert!(u64::from_str_radix(line[3].trim_start_matches("0x"), 16).is_ok(), "{line:?}");
        assert!(line[4].parse::<f64>().is_ok() && line[5] == "ms", "{line:?}");
        let is_command = line[2].starts_with("TPM2_");
        assert_eq!(line.len(), if is_command { 9 } else { 6 }, "bytes of commands: {line:?}");
    }
    let last: Vec<&str> =
        lines.iter().map(|line| line[2]).filter(|name| name.starts_with("C_")).collect();
    assert_eq!(last.last(), Some(&"C_Finalize"), "{record}");
    assert!(!last.contains(&"C_Login"), "older calls are forgotten:\n{record}");
}

#[test]
fn a_process_that_ends_well_leaves_its_record_and_an_earlier_failure_alone() {
    let bench = Bench::start();
    bench.token();
    assert!(file(&bench, "last").unwrap().contains("C_InitToken"));
    assert_eq!(file(&bench, "failure"), None);
    let failing = bench.ready();
    let session = failing.open(failing.slot_of(LABEL).unwrap()).unwrap();
    bench.shim.inject(Fault::at_any(Action::DropBefore).always());
    assert!(failing.login(session, PIN).is_err());
    bench.shim.heal();
    drop(failing);
    let failure = file(&bench, "failure").expect("a record");

    let (app, _) = bench.logged_in();
    app.finalize().unwrap();
    assert!(file(&bench, "last").unwrap().contains(&format!("process {} ", app.id())));
    assert_eq!(file(&bench, "failure"), Some(failure));
    assert_eq!(files(&bench).len(), 2, "two files for ever");

    // Looking uses no TPM, and leaves nothing.
    let before = files(&bench);
    let app = bench.ready();
    app.slots(true).unwrap();
    app.finalize().unwrap();
    assert_eq!(files(&bench), before);
}

#[test]
fn a_host_that_polls_a_dead_tpm_writes_once_a_second() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    bench.shim.inject(Fault::at(wire::GET_RANDOM, Action::Answer(0x101)).always());
    assert!(app.random(session, 8).is_err());
    let first = file(&bench, "failure").unwrap();
    let began = std::time::Instant::now();
    assert!(app.random(session, 8).is_err());
    let second = file(&bench, "failure").unwrap();
    if began.elapsed() < Duration::from_millis(500) {
        assert_eq!(first, second);
    }
    app.finalize().unwrap();
    let written = file(&bench, "failure").unwrap();
    assert_eq!(written.matches("C_GenerateRandom").count(), 2, "the end writes what is missing");
}

#[test]
fn without_a_runtime_directory_a_failure_lies_beside_the_store() {
    let bench = Bench::start();
    bench.token();
    let app = bench.app_with(|command| {
        command.env("XDG_RUNTIME_DIR", "/nonexistent");
    });
    app.initialize().unwrap();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    bench.shim.inject(Fault::at_any(Action::DropBefore).always());
    assert!(app.login(session, PIN).is_err());
    let found = std::fs::read_dir(bench.store()).unwrap().flatten();
    let names: Vec<_> = found.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("tpm11-failure-")), "{names:?}");
    assert_eq!(names.len(), 2, "{names:?}");
}
