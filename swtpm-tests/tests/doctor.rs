//! `tpm11 doctor`: what it finds, what it says mends it, and that this does.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, set_mode};
use swtpm_tests::ck::P256;
use swtpm_tests::shim::{Action, Chip, Fault};
use swtpm_tests::{Bench, Setup, wire};

const LIMIT: Duration = Duration::from_secs(60);

/// The exit code and standard output of `tpm11` with these arguments.
fn tool(bench: &Bench, arguments: &[&str]) -> (i32, String) {
    let mut command = bench.command(swtpm_tests::bench::tool());
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
    for what in [
        "no lockout: 0 of",
        "sound, and can be written",
        "a lock keeps other programs out",
        "is sound",
        "the owner hierarchy has no",
    ] {
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
fn wrong_authorizations_are_counted_up_to_the_lockout_and_told_until_it_ends() {
    let bench = Bench::start();
    bench.token();
    tpm2(&bench, "tpm2_dictionarylockout", &["-s", "-n", "3", "-t", "1000", "-l", "1000"]);
    // An index of somebody else, which counts wrong passwords in the TPM-wide lockout.
    let attributes = ["-a", "authread|authwrite", "-p", "secret", "-s", "8"];
    tpm2(&bench, "tpm2_nvdefine", &[&["0x1500016", "-C", "o"], &attributes[..]].concat());
    std::fs::write(bench.directory().join("eight"), b"8 bytes.").unwrap();
    tpm2(&bench, "tpm2_nvwrite", &["0x1500016", "-P", "secret", "-i", "eight"]);
    let guess = || {
        let mut command = bench.tpm2("tpm2_nvread");
        command.args(["0x1500016", "-P", "wrong", "-s", "8"]);
        assert!(!bench.run(command, LIMIT).status.success());
    };
    assert!(line(&tool(&bench, &["doctor"]).1, "no lockout: 0 of 3").starts_with("ok"));
    guess();
    let (_, text) = tool(&bench, &["doctor"]);
    let found = line(&text, "1 of 3 wrong authorizations are counted");
    assert!(found.starts_with("note") && found.contains("forgets one every 1000 s"), "{text}");
    guess();
    guess();
    let (code, text) = tool(&bench, &["doctor"]);
    assert_eq!(code, 1, "{text}");
    let found = line(&text, "the TPM is in lockout after 3 wrong authorizations");
    assert!(found.starts_with("warn") && found.contains("--clear-lockout"), "{text}");
    // As it says: a token with PIN indices of its own works all the same.
    let (app, session) = bench.logged_in();
    app.random(session, 8).unwrap();
    app.finalize().unwrap();
    tpm2(&bench, "tpm2_dictionarylockout", &["-c"]);
    assert!(line(&tool(&bench, &["doctor"]).1, "no lockout: 0 of 3").starts_with("ok"));
}

#[test]
fn a_storage_hierarchy_that_is_switched_off_fails() {
    let bench = Bench::start();
    tpm2(&bench, "tpm2_hierarchycontrol", &["-C", "p", "shEnable", "clear"]);
    let (code, text) = tool(&bench, &["doctor"]);
    assert_eq!(code, 4, "{text}");
    let found = line(&text, "the storage hierarchy is switched off");
    assert!(found.starts_with("FAIL") && found.contains("-> switch the TPM on"), "{text}");
}

#[test]
fn what_stands_where_a_storage_key_should_be_is_named_and_not_used() {
    let bench = Bench::start();
    let (_, text) = tool(&bench, &["doctor"]);
    assert!(line(&text, "no storage key stays in the TPM").starts_with("note"), "{text}");
    let attributes = "sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth";
    tpm2(&bench, "tpm2_createprimary", &["-C", "o", "-G", "ecc", "-a", attributes, "-c", "key"]);
    tpm2(&bench, "tpm2_flushcontext", &["-t"]);
    tpm2(&bench, "tpm2_evictcontrol", &["-C", "o", "-c", "key", "0x81000001"]);
    tpm2(&bench, "tpm2_flushcontext", &["-t"]);
    let (_, text) = tool(&bench, &["doctor"]);
    let found = line(&text, "the key at 0x81000001 is not used for tokens");
    assert!(found.starts_with("note") && found.contains("-> nothing"), "{text}");
    bench.token();
    let (_, text) = tool(&bench, &["doctor"]);
    assert!(line(&text, "is sound").starts_with("ok"), "another handle was taken:\n{text}");
}

#[test]
fn what_a_tpm_lacks_and_firmware_with_a_known_defect_are_named() {
    let bench = Bench::start();
    bench.shim.become_chip(Chip { without_algorithms: vec![0x0001], ..Chip::default() });
    let (_, text) = tool(&bench, &["doctor"]);
    assert!(line(&text, "the TPM lacks RSA").starts_with("note"), "{text}");
    bench.shim.become_chip(Chip::default());

    // TPM_PT_MANUFACTURER, TPM_PT_FIRMWARE_VERSION_1 and TPM_PT_REVISION of an old chip of Infineon's.
    let rewrite = |_: &[u8], response: &mut Vec<u8>| {
        for (property, value) in
            [(0x105_u32, *b"IFX\0"), (0x10B, [0, 7, 0, 61]), (0x102, 116_u32.to_be_bytes())]
        {
            let tag = property.to_be_bytes();
            // Behind the header, "more", the kind and the count: pairs.
            for at in (19..response.len().saturating_sub(7)).step_by(8) {
                if response[at..at + 4] == tag {
                    response[at + 4..at + 8].copy_from_slice(&value);
                }
            }
        }
    };
    let fault = Fault::at(wire::GET_CAPABILITY, Action::Rewrite(Arc::new(rewrite)));
    bench.shim.inject(fault.always());
    let (code, text) = tool(&bench, &["doctor"]);
    assert_eq!(code, 1, "{text}");
    let found = line(&text, "CVE-2017-15361");
    assert!(found.starts_with("warn") && found.contains("-> update the TPM's firmware"), "{text}");
    assert!(line(&text, "older than revision 1.38").starts_with("warn"), "{text}");
}

#[test]
fn a_token_that_the_lockout_guards_is_named() {
    let bench = Setup::default().config("[pin]\ngate = \"da\"").start();
    bench.token();
    let (_, text) = tool(&bench, &["doctor"]);
    let found = line(&text, "guarded by the TPM-wide lockout (gate = da)");
    assert!(found.starts_with("note") && found.contains("-> a new token"), "{text}");
}

#[test]
fn a_token_of_another_tpm_says_what_is_lost() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "key").unwrap();
    app.finalize().unwrap();
    bench.tpm.clear();
    let (code, text) = tool(&bench, &["doctor"]);
    assert_eq!(code, 6, "{text}");
    let found = line(&text, "cleared or replaced");
    assert!(found.starts_with("FAIL"), "{text}");
    assert!(found.contains("the keys among its 2 objects are lost for ever"), "{text}");
    assert_eq!(bench.shim.lockout_counter(), 0);
}

#[test]
fn objects_of_a_token_without_pin_that_were_changed_are_told_without_a_login() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    app.login_so(session, SO_PIN).unwrap();
    app.init_no_pin(session).unwrap();
    app.logout(session).unwrap();
    app.generate_ec(session, P256, "key").unwrap();
    app.finalize().unwrap();
    let store = rusqlite::Connection::open(bench.store().join("tpm11.sqlite3")).unwrap();
    assert_eq!(store.execute("UPDATE object SET version = version + 1", []).unwrap(), 2);
    drop(store);
    let (code, text) = tool(&bench, &["doctor"]);
    assert_eq!(code, 6, "{text}");
    let found = line(&text, "its objects were changed outside of the token");
    assert!(found.starts_with("FAIL") && found.contains("-> tpm11 restore FILE"), "{text}");
}

#[test]
fn what_lies_beside_a_store_whose_it_is_and_that_it_is_read_only_are_told() {
    let bench = Bench::start();
    bench.token();
    std::fs::write(bench.store().join("tpm11.sqlite3.v1"), b"a former state").unwrap();
    let (_, text) = tool(&bench, &["doctor"]);
    let found = line(&text, "former states of the store lie beside it: tpm11.sqlite3.v1");
    assert!(found.starts_with("note") && found.contains("-> remove them"), "{text}");

    // For a user who may read it and no more.
    bench.open_to_all();
    set_mode(&bench.store(), 0o755);
    set_mode(&bench.store().join("tpm11.sqlite3"), 0o644);
    let mut command = bench.command(swtpm_tests::bench::tool());
    command.arg("doctor");
    if !bench.as_nobody(&mut command) {
        eprintln!("SKIPPED: only root can be another user");
        return;
    }
    let output = bench.run(command, LIMIT);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(line(&text, "sound, and read only").starts_with("ok"), "{text}");

    bench.give_to_nobody(&bench.store().join("tpm11.sqlite3"));
    let (_, text) = tool(&bench, &["doctor"]);
    let found = line(&text, "the directory belongs to user");
    assert!(found.starts_with("warn") && found.contains("-> sudo chown"), "{text}");
}

#[test]
fn a_user_without_access_to_the_device_is_told_its_group() {
    // Any device that nobody may not use shows it.
    let closed = ["/dev/tpmrm0", "/dev/mem", "/dev/kmsg", "/dev/console", "/dev/tty0", "/dev/vda"];
    let is_closed = |path: &&str| {
        std::fs::metadata(path).is_ok_and(|found| {
            found.file_type().is_char_device() && found.mode() & 0o006 == 0 && found.gid() != 65534
        })
    };
    let bench = Bench::start();
    bench.open_to_all();
    let mut command = bench.command(swtpm_tests::bench::tool());
    command.arg("doctor");
    let (Some(device), true) = (closed.into_iter().find(is_closed), bench.as_nobody(&mut command))
    else {
        eprintln!("SKIPPED: no closed device, or not root");
        return;
    };
    command.env("TPM11_TCTI", format!("device:{device}"));
    let output = bench.run(command, LIMIT);
    let text = String::from_utf8(output.stdout).unwrap();
    let found = line(&text, "this user may not open it");
    assert!(found.starts_with("warn") && found.contains("-> sudo usermod -aG "), "{text}");
    assert!(text.contains("EACCES") && text.contains("whose members may be allowed to"), "{text}");
    assert_eq!(output.status.code(), Some(4), "{text}");
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

/// On some network file systems every lock is granted: here to this tool, by a system that only says so.
#[test]
fn locks_that_keep_nobody_out_are_a_failure() {
    let works = std::process::Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: strace is not installed, or may not trace");
        return;
    }
    let bench = Bench::start();
    bench.token();
    let mut command = bench.command("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fcntl"]);
    command.args(["-e", "inject=fcntl:retval=0"]);
    command.arg(swtpm_tests::bench::tool()).arg("doctor");
    let output = bench.run(command, LIMIT);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(line(&text, "locks keep nobody out").starts_with("FAIL"), "{text}");
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert_eq!(std::fs::read_dir(bench.store()).unwrap().count(), 1, "nothing is left");
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
    let mut command = bench.command(swtpm_tests::bench::tool());
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
