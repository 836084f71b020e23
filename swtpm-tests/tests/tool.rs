//! The command-line tool, as a script sees it: what it prints, what it exits with, and what it leaves
//! behind.

use std::io::Write;
use std::process::{Command, Output};
use std::time::Duration;

use cryptoki_sys::*;
use serde_json::Value;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, STORAGE_KEY, set_mode};
use swtpm_tests::ck::{Attribute, Mechanism, P256, Rv, bytes, flag, guarded, number, prescribes};
use swtpm_tests::shim::{Action, Chip, Fault};
use swtpm_tests::{Bench, Setup, wire};

const LIMIT: Duration = Duration::from_secs(60);

/// The tool with these arguments in the world of `bench`.
fn tool(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = bench.command(swtpm_tests::bench::tool());
    command.args(arguments);
    command
}

/// The same, with `input` on its standard input.
fn fed(bench: &Bench, arguments: &[&str], input: &[u8]) -> Output {
    let file = bench.directory().join("input");
    std::fs::File::create(&file).unwrap().write_all(input).unwrap();
    let mut command = tool(bench, arguments);
    command.stdin(std::fs::File::open(&file).unwrap());
    bench.run(command, LIMIT)
}

fn status(bench: &Bench) -> (Option<i32>, Value) {
    let output = bench.run(tool(bench, &["status", "--json"]), LIMIT);
    let text = String::from_utf8(output.stdout).unwrap();
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (output.status.code(), value)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn trust_marks_keys_for_the_security_officer_and_takes_the_mark_back() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (wraps, token) = (flag(CKA_WRAP, true), flag(CKA_TOKEN, true));
    let aes = |label: &str, more: &[Attribute]| {
        let own = [number(CKA_VALUE_LEN, 32), token.clone(), bytes(CKA_LABEL, label)];
        let template = [&own[..], more].concat();
        app.generate_key(session, CKM_AES_KEY_GEN, &template).expect("C_GenerateKey")
    };
    let kek = aes("kek", std::slice::from_ref(&wraps));
    aes("data", &[]);
    let readable = [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
    aes("opener", &[wraps.clone(), prescribes(CKA_UNWRAP_TEMPLATE, &readable)]);
    let careful =
        [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, true), flag(CKA_WRAP_WITH_TRUSTED, true)];
    let careful = aes("careful", &careful);
    let public = [number(CKA_MODULUS_BITS, 2048), token, bytes(CKA_ID, [0xAB, 1]), wraps];
    let pair =
        app.generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, &public, &[flag(CKA_UNWRAP, true)]);
    let (public, _) = pair.expect("C_GenerateKeyPair");
    let wrap = |by| {
        let mechanism = if by == kek {
            CKM_AES_KEY_WRAP.into()
        } else {
            Mechanism::oaep(CKM_SHA256, CKG_MGF1_SHA256, b"")
        };
        app.wrap(session, mechanism, by, careful).map(drop).map_err(|rv| rv.0)
    };
    assert_eq!((wrap(kek), wrap(public)), (Err(CKR_KEY_NOT_WRAPPABLE), Err(CKR_KEY_NOT_WRAPPABLE)));

    let pins = [SO_PIN, b"\n", PIN, b"\n"].concat();
    let both = ["--secret", "--so-pin-fd", "0", "--pin-fd", "0"];
    let run =
        |action: &[&str], more: &[&str]| fed(&bench, &[&["trust"], action, more].concat(), &pins);
    let done = |output: Output| {
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    done(run(&["add", "ab01"], &["--so-pin-fd", "0"]));
    let said = done(run(&["add", "kek"], &both));
    assert!(said.contains("kek") && said.contains("secret key"), "{said}");
    assert_eq!((wrap(kek), wrap(public)), (Ok(()), Ok(())));
    let listed = done(bench.run(tool(&bench, &["trust", "list"]), LIMIT));
    assert!(listed.contains("ab01") && !listed.contains("kek"), "{listed}");
    let fed_pin = fed(&bench, &["trust", "list", "--secret", "--pin-fd", "0"], PIN);
    assert!(done(fed_pin).contains("kek"));

    // A key that encrypts is not to be trusted, and a wrong PIN does nothing.
    let refused = run(&["add", "data"], &both);
    assert!(!refused.status.success() && text(&refused.stderr).contains("only wraps"));
    // Nor one whose unwrapped keys everybody could read: with it whatever it wraps would be read out.
    let refused = run(&["add", "opener"], &both);
    assert!(!refused.status.success() && text(&refused.stderr).contains("CKA_UNWRAP_TEMPLATE"));
    let wrong = fed(&bench, &[&["trust", "remove", "kek"], &both[..]].concat(), b"wrong\nwrong\n");
    assert_eq!(wrong.status.code(), Some(7), "{}", text(&wrong.stderr));
    let nothing = run(&["add", "nothing"], &["--so-pin-fd", "0"]);
    assert!(text(&nothing.stderr).contains("no such key"));
    assert_eq!(wrap(kek), Ok(()));

    done(run(&["remove", "kek"], &both));
    done(run(&["remove", "ab01"], &["--so-pin-fd", "0"]));
    assert_eq!((wrap(kek), wrap(public)), (Err(CKR_KEY_NOT_WRAPPABLE), Err(CKR_KEY_NOT_WRAPPABLE)));
    assert_eq!(done(bench.run(tool(&bench, &["trust", "list"]), LIMIT)), "");
}

#[test]
fn a_key_is_sent_to_another_host_and_received_there_with_its_public_key() {
    let (here, there) = (Bench::start(), Bench::start());
    for bench in [&here, &there] {
        bench.token();
    }
    here.trust(&there);
    let (app, session) = here.logged_in();
    let named = |label: &str| [flag(CKA_TOKEN, true), bytes(CKA_LABEL, label), bytes(CKA_ID, [7])];
    let public = [&named("traveller")[..], &[bytes(CKA_EC_PARAMS, P256)]].concat();
    // What limits the private key is no limit of the public one.
    let only = bytes(CKA_ALLOWED_MECHANISMS, CKM_ECDSA_SHA256.to_ne_bytes());
    let private = [&named("traveller")[..], &[flag(CKA_EXTRACTABLE, true), only]].concat();
    app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &public, &private).expect("a pair");
    let aes = |label, more: &[Attribute]| {
        let template = [&named(label)[..], &[number(CKA_VALUE_LEN, 32)], more].concat();
        app.generate_key(session, CKM_AES_KEY_GEN, &template).expect("C_GenerateKey")
    };
    let secret = aes("secret", &guarded());
    let sealed = app.encrypt(session, CKM_AES_ECB, secret, &[9; 32]).expect("C_Encrypt");
    aes("stays", &[]);

    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name).to_str().expect("letters").to_owned();
    let send = |key: &str, to: &str, file: &str| {
        fed(&here, &["send", key, file, "--to", to, "--pin-fd", "0"], PIN)
    };
    let receive = |bench: &Bench, file: &str| fed(bench, &["receive", file, "--pin-fd", "0"], PIN);
    let said = |output: Output| {
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let refused = |output: Output| {
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    let (pair, key) = (path("pair"), path("key"));
    assert!(said(send("traveller", STORAGE_KEY, &pair)).contains("private key"));
    assert!(said(send("secret", STORAGE_KEY, &key)).contains("secret key"));
    let arrived = said(receive(&there, &pair));
    assert!(arrived.contains("private key") && arrived.contains("public key"), "{arrived}");
    assert!(said(receive(&there, &key)).contains("\"secret\" (id 07): secret key"));

    // There they work, found by their old names; here they stay.
    let (other, session) = there.logged_in();
    let find = |class, label: &str| {
        let wanted = [number(CKA_CLASS, class), bytes(CKA_LABEL, label), bytes(CKA_ID, [7])];
        other.find(session, &wanted).expect("C_FindObjects")[0]
    };
    let private = find(CKO_PRIVATE_KEY, "traveller");
    let signed = other.sign(session, CKM_ECDSA_SHA256, private, b"data").expect("C_Sign");
    let public = find(CKO_PUBLIC_KEY, "traveller");
    other.verify(session, CKM_ECDSA_SHA256, public, b"data", &signed).expect("C_Verify");
    let opened = other.decrypt(session, CKM_AES_ECB, find(CKO_SECRET_KEY, "secret"), &sealed);
    assert_eq!(opened, Ok(vec![9; 32]));
    assert_eq!(other.attribute_flag(session, private, CKA_EXTRACTABLE), Ok(false));

    // What cannot be says why, and takes nothing away.
    let kept = std::fs::read(&pair).expect("the file");
    assert!(refused(send("secret", STORAGE_KEY, &pair)).contains("exists"));
    assert_eq!(std::fs::read(&pair).expect("the file"), kept);
    let fresh = path("fresh");
    assert!(refused(send("stays", STORAGE_KEY, &fresh)).contains("CKA_EXTRACTABLE"));
    assert!(refused(send("secret", "nobody", &fresh)).contains("add-storage-key"));
    assert!(refused(send("traveller", "traveller", &fresh)).contains("storage key"));
    assert!(refused(send("nothing", STORAGE_KEY, &fresh)).contains("no such key"));
    assert!(!std::fs::exists(&fresh).expect("a look"), "nothing is written");
    assert!(refused(receive(&here, &pair)).contains("another TPM"));
    std::fs::write(&fresh, vec![0; 100_000]).expect("a file");
    assert!(refused(receive(&there, &fresh)).contains("nothing that `tpm11 send` wrote"));
    assert!(refused(receive(&there, &path("none"))).contains("No such file"));
}

#[test]
fn init_makes_a_token_that_programs_can_use() {
    let bench = Bench::start();
    let arguments = ["init", "--label", LABEL, "--so-pin-fd", "0", "--pin-fd", "0"];
    let pins = [SO_PIN, b"\n", PIN, b"\n"].concat();
    let output = fed(&bench, &arguments, &pins);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains(LABEL));
    for secret in [SO_PIN, PIN] {
        assert!(!text(&output.stdout).contains(&text(secret)), "a PIN is on the output");
    }

    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).unwrap();
    app.login(session, PIN).unwrap();
    app.logout(session).unwrap();
    app.login_so(session, SO_PIN).unwrap();

    let (code, status) = status(&bench);
    assert_eq!(code, Some(0), "{status}");
    let token = &status["tpms"][0]["tokens"][0];
    assert_eq!(token["label"], LABEL);
    assert_eq!(token["gate"], "nv");
    assert_eq!(token["user_tries"]["left"], token["user_tries"]["limit"]);
    assert_eq!(token["recovery_code"], false);
    let keys = status["tpms"][0]["storage_keys"].as_array().unwrap();
    assert_eq!(keys[0]["handle"], token["storage_key"]);
    assert_eq!(status["tpms"][0]["other_indices"].as_array().unwrap().len(), 0);

    // Another user's token: its PIN indices are seen, and are nobody's here.
    std::fs::remove_dir_all(bench.store()).unwrap();
    let (code, status) = self::status(&bench);
    assert_eq!(code, Some(0), "{status}");
    assert_eq!(status["tpms"][0]["other_indices"].as_array().unwrap().len(), 2);
}

#[test]
fn status_of_an_empty_machine_is_well_and_creates_nothing() {
    let bench = Bench::start();
    let (code, status) = status(&bench);
    assert_eq!(code, Some(0), "{status}");
    let tpm = &status["tpms"][0];
    assert_eq!(tpm["chip"]["maker"], "IBM");
    assert!(tpm["chip"]["curves"].as_array().unwrap().contains(&"P-256".into()));
    assert_eq!(tpm["stores"][0]["exists"], false);
    assert_eq!(tpm["storage_keys"].as_array().unwrap().len(), 0);
    assert!(!bench.store().exists(), "looking makes no store");
    let mut ask = bench.tpm2("tpm2_getcap");
    ask.arg("handles-persistent");
    let persistent = bench.run(ask, LIMIT);
    assert_eq!(text(&persistent.stdout), "", "looking makes no storage root key");
}

#[test]
fn status_tells_the_tries_that_are_left_and_a_locked_pin() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    assert!(app.login(session, b"wrong").is_err());
    let (code, report) = status(&bench);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["tpms"][0]["tokens"][0]["user_tries"]["left"], 7);

    for _ in 0..7 {
        assert!(app.login(session, b"wrong").is_err());
    }
    let (code, report) = status(&bench);
    assert_eq!(code, Some(6), "{report}");
    assert_eq!(report["tpms"][0]["tokens"][0]["user_tries"]["left"], 0);
    let problem = &report["problems"][0];
    assert!(problem["what"].as_str().unwrap().contains("locked"), "{problem}");
    assert!(problem["mend"].as_str().unwrap().contains("--init-pin"), "{problem}");
}

#[test]
fn status_says_how_the_bus_is_protected() {
    let said = |bench: &Bench| {
        let output = bench.run(tool(bench, &["status"]), LIMIT);
        text(&output.stdout)
    };
    let line = said(&Bench::start());
    assert!(line.contains("a resource manager: no"), "{line}");
    let line = said(&Bench::managed());
    assert!(line.contains("a resource manager: yes"), "{line}");
    assert!(line.contains("protection \"always\"\n"), "{line}");
    // swtpm says that it is no chip.
    let bench = Setup::default().managed().tpm("bus_protection = \"discrete\"").start();
    let line = said(&bench);
    assert!(line.contains("protection \"discrete\" (a firmware TPM"), "{line}");
    let (_, json) = status(&bench);
    assert_eq!(json["tpms"][0]["without_session"], true, "{json}");
}

#[test]
fn a_recovery_code_is_printed_once_and_a_token_without_pin_says_so() {
    let bench = Bench::start();
    let arguments = ["init", "--so-pin-fd", "0", "--no-pin", "--recovery"];
    let output = fed(&bench, &arguments, b"officer-7351\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let code = printed.lines().find_map(|line| line.strip_prefix("recovery")).expect("a code");
    assert!(code.trim().len() >= 26, "128 bits take 26 letters: {code}");
    let (exit, report) = status(&bench);
    assert_eq!(exit, Some(0), "{report}");
    let token = &report["tpms"][0]["tokens"][0];
    assert_eq!((&token["user_pin"], &token["recovery_code"]), (&"none".into(), &true.into()));
    assert!(!report.to_string().contains(code.trim()), "never again");
    assert!(!bench.log().contains(code.trim()));
}

#[test]
fn a_mistake_in_the_configuration_is_named_with_file_and_line() {
    let bench = Setup::default().config("[store]\nbusy_timeout_sm = 3").start();
    let (code, report) = status(&bench);
    assert_eq!(code, Some(3), "{report}");
    let output = bench.run(tool(&bench, &["status"]), LIMIT);
    let error = text(&output.stderr);
    assert!(error.contains("tpm11.toml:"), "{error}");
    assert!(error.contains("busy_timeout_sm"), "{error}");
    assert!(error.contains("hint:"), "{error}");
    // The module goes on, with a slot that says the same.
    let app = bench.app();
    app.initialize().unwrap();
    let slots = app.slots(false).unwrap();
    assert_eq!(slots.len(), 1);
    assert!(app.token_info(slots[0]).is_err());
    assert_eq!(app.noise(), "");
}

#[test]
fn without_a_tpm_status_says_what_helps() {
    let mut bench = Bench::start();
    bench.token();
    bench.tpm.power_off();
    let mut command = tool(&bench, &["status"]);
    command.env("TPM11_TCTI", "device:/nowhere/tpmrm0");
    let output = bench.run(command, LIMIT);
    assert_eq!(output.status.code(), Some(4));
    let said = text(&output.stdout);
    assert!(said.contains("what helps:"), "{said}");
    assert!(said.contains(LABEL), "the tokens are named all the same: {said}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_bad_pin_makes_nothing() {
    let bench = Bench::start();
    for (pins, why) in
        [(&b"abc\nuser-2468\n"[..], "too short"), (b"\n\n", "empty"), (b"officer\n", "no user PIN")]
    {
        let output = fed(&bench, &["init", "--so-pin-fd", "0", "--pin-fd", "0"], pins);
        assert_eq!(output.status.code(), Some(7), "{why}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("hint:"));
    }
    let output = fed(&bench, &["init", "--so-pin-fd", "77"], b"");
    assert_eq!(output.status.code(), Some(7), "no such descriptor");
    assert!(!bench.store().exists());
}

/// A token with a recovery code, and an EC key `key`. The code.
fn recoverable(bench: &Bench) -> String {
    let arguments = ["init", "--label", LABEL, "--so-pin-fd", "0", "--pin-fd", "0", "--recovery"];
    let output = fed(bench, &arguments, &[SO_PIN, b"\n", PIN, b"\n"].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "key").unwrap();
    code_in(&output).expect("a code")
}

fn code_in(output: &Output) -> Option<String> {
    let printed = text(&output.stdout);
    printed.lines().find_map(|line| line.strip_prefix("recovery")).map(|code| code.trim().into())
}

fn recover(bench: &Bench, code: &str, so_pin: &str, pin: &str) -> Output {
    let arguments = ["recover", "--code-fd", "0", "--so-pin-fd", "0", "--pin-fd", "0"];
    fed(bench, &arguments, format!("{code}\n{so_pin}\n{pin}\n").as_bytes())
}

/// The owner of the TPM removes all PIN indices: with an empty owner password anybody may.
fn remove_indices(bench: &Bench) {
    for index in bench.shim.nv_indices() {
        let command = wire::command(wire::NV_UNDEFINE_SPACE, &[wire::OWNER, index], Some(b""), &[]);
        assert_eq!(wire::response_code(&bench.shim.ask(&command)), 0);
    }
}

#[test]
fn a_recovery_code_opens_a_token_whose_indices_are_gone_and_its_keys_go_on() {
    let bench = Bench::start();
    let code = recoverable(&bench);
    remove_indices(&bench);
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_DEVICE_ERROR)));
    app.finalize().unwrap();
    let (exit, report) = status(&bench);
    assert_eq!(exit, Some(6), "{report}");
    assert!(report["problems"].to_string().contains("tpm11 recover"), "{report}");

    let wrong = format!("{}{}", if code.starts_with('0') { '1' } else { '0' }, &code[1..]);
    let output = recover(&bench, &wrong, "officer-new", "user-new");
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(bench.shim.nv_indices().is_empty(), "a wrong code makes nothing");

    let output = recover(&bench, &code, "officer-new", "user-new");
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), bench.log());
    let new_code = code_in(&output).expect("a new code");
    assert_ne!(new_code, code);
    assert_eq!(bench.shim.nv_indices().len(), 2);
    let (exit, report) = status(&bench);
    assert_eq!(exit, Some(0), "{report}");

    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_PIN_INCORRECT)), "the old PIN");
    app.login(session, b"user-new").unwrap();
    let class = |class| [number(CKA_CLASS, class), bytes(CKA_LABEL, "key")];
    let private = app.find(session, &class(CKO_PRIVATE_KEY)).unwrap()[0];
    let public = app.find(session, &class(CKO_PUBLIC_KEY)).unwrap()[0];
    let signature = app.sign(session, CKM_ECDSA, private, &[1; 32]).unwrap();
    app.verify(session, CKM_ECDSA, public, &[1; 32], &signature).unwrap();
    app.logout(session).unwrap();
    app.login_so(session, b"officer-new").unwrap();
    assert!(!bench.log().contains(&code) && !bench.log().contains(&new_code));
    app.finalize().unwrap();

    // The old code is a code of the old gate; the new one works where the PINs are lost, too.
    let output = recover(&bench, &code, "officer-3", "user-3");
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    let output = recover(&bench, &new_code, "officer-3", "user-3");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(bench.shim.nv_indices().len(), 2, "the old indices are gone");
}

#[test]
fn a_token_without_a_recovery_code_says_so() {
    let bench = Bench::start();
    bench.token();
    let output = recover(&bench, "0000-0000-0000-0000-0000-0000-0000-0000", "officer", "user");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("without a recovery code"), "{}", text(&output.stderr));
    bench.logged_in();
}

#[test]
fn a_recovery_that_breaks_off_anywhere_can_be_done_again() {
    let bench = Bench::start();
    let mut code = recoverable(&bench);
    let mut broken = 0;
    // Every third command, in turn another third.
    for step in 0.. {
        let commands = 3 * step + step % 3;
        bench.shim.inject(Fault::at_any(Action::DropBefore).after(commands).always());
        let output = recover(&bench, &code, "officer-new", "user-new");
        let met = bench.shim.heal();
        code = code_in(&output).unwrap_or(code);
        assert_eq!(output.status.success(), met == 0, "{commands}: {}", text(&output.stderr));
        if met == 0 {
            break;
        }
        broken += 1;
    }
    assert!(broken > 10, "only {broken} commands to break off at");
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).unwrap()).unwrap();
    app.login(session, b"user-new").unwrap();
    let key = app.find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).unwrap()[0];
    app.sign(session, CKM_ECDSA, key, &[1; 32]).unwrap();
    assert_eq!(bench.shim.nv_indices().len(), 2, "nothing is left of what broke off");
}

#[test]
fn recover_asks_before_it_gives_up_keys_that_ask_for_the_pin_at_each_use() {
    let bench = Bench::start();
    let code = recoverable(&bench);
    let (app, session) = bench.logged_in();
    app.generate_pair(
        session,
        CKM_EC_KEY_PAIR_GEN,
        &[bytes(CKA_EC_PARAMS, P256)],
        &[flag(CKA_TOKEN, true), flag(CKA_SIGN, true), flag(CKA_ALWAYS_AUTHENTICATE, true)],
    )
    .unwrap();
    app.finalize().unwrap();
    let before = bench.shim.nv_indices();
    let refused = recover(&bench, &code, "officer-new", "user-new");
    assert_eq!(refused.status.code(), Some(6), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("--force"), "{}", text(&refused.stderr));
    assert_eq!(bench.shim.nv_indices(), before, "nothing was changed");
    bench.logged_in();

    let arguments = ["recover", "--code-fd", "0", "--so-pin-fd", "0", "--pin-fd", "0", "--force"];
    let output = fed(&bench, &arguments, format!("{code}\nofficer-new\nuser-new\n").as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn init_on_a_full_disk_says_so_and_exits_as_for_a_store() {
    let bench = Bench::start();
    // The file's first pages fit, a token does not.
    let mut command = bench.command("prlimit");
    command.arg("--fsize=131072").arg(swtpm_tests::bench::tool());
    command.args(["init", "--so-pin-fd", "0", "--no-pin"]);
    let input = bench.directory().join("input");
    std::fs::write(&input, [SO_PIN, b"\n"].concat()).unwrap();
    command.stdin(std::fs::File::open(&input).unwrap());
    let output = bench.run(command, LIMIT);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("make room on the disk"), "{}", text(&output.stderr));
    assert!(bench.shim.nv_indices().is_empty(), "nothing stays in the TPM");
    let (_, status) = status(&bench);
    assert!(status["tpms"][0]["tokens"].as_array().unwrap().is_empty(), "{status}");
}

/// The tool as somebody who may read the bench's store and not write it; root is the user nobody.
fn reader(bench: &Bench, arguments: &[&str]) -> Output {
    bench.open_to_all();
    let place = bench.directory().join("tpm11");
    std::fs::copy(swtpm_tests::bench::tool(), &place).unwrap();
    set_mode(&place, 0o755);
    let mut command = bench.command(&place);
    command.args(arguments);
    bench.as_nobody(&mut command);
    bench.run(command, LIMIT)
}

#[test]
fn a_store_that_somebody_may_only_read_is_no_failure_and_one_that_he_may_not_is_called_unreadable()
{
    let bench = Bench::start();
    bench.token();
    let file = bench.store().join("tpm11.sqlite3");
    set_mode(&file, 0o444);
    set_mode(&bench.store(), 0o555);
    let output = reader(&bench, &["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("(read-only: "), "{}", text(&output.stdout));
    let doctor = reader(&bench, &["doctor"]);
    let said = text(&doctor.stdout);
    assert!(said.lines().any(|line| line.contains("sound, and read only")), "{said}");
    assert!(!said.contains("FAIL"), "{said}");

    set_mode(&file, 0o000);
    let output = reader(&bench, &["status"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("(unreadable: ") && !said.contains("read-only"), "{said}");
    let json: Value =
        serde_json::from_slice(&reader(&bench, &["status", "--json"]).stdout).unwrap();
    assert!(json["tpms"][0]["stores"][0]["unreadable"].is_string(), "{json}");
    assert!(json["tpms"][0]["stores"][0]["read_only"].is_null(), "{json}");
    set_mode(&bench.store(), 0o700);
}

// ---- mechanisms ---------------------------------------------------------------------------------

/// What the tool says of one of the mechanisms of the only TPM.
fn said_of<'a>(list: &'a Value, name: &str) -> &'a Value {
    let rows = list["tpms"][0]["mechanisms"].as_array().expect("a list");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

fn mechanisms(bench: &Bench) -> Value {
    let output = bench.run(tool(bench, &["mechanisms", "--json"]), LIMIT);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Whatever has an operation in the list of the tool is in the module's, with that flag and these sizes,
/// and nothing else is.
#[test]
fn the_list_of_mechanisms_is_what_the_module_tells() {
    let bench = Setup::default().config("[keys]\nsealed_keys = true").start();
    bench.token();
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    let list = mechanisms(&bench);
    let mut told = app.mechanisms(slot).expect("C_GetMechanismList");
    for row in list["tpms"][0]["mechanisms"].as_array().expect("a list") {
        let of = |place: &str| row[place].as_array().expect("a list").clone();
        let operations = [of("tpm"), of("sealed"), of("host")].concat();
        let id = row["id"].as_u64().expect("a number");
        assert_eq!(told.contains(&id), !operations.is_empty(), "{row}");
        told.retain(|other| *other != id);
        if operations.is_empty() {
            continue;
        }
        let info = app.mechanism_info(slot, id).expect("C_GetMechanismInfo");
        assert_eq!(info.ulMinKeySize, row["min_key_size"].as_u64().unwrap(), "{row}");
        assert_eq!(info.ulMaxKeySize, row["max_key_size"].as_u64().unwrap(), "{row}");
        assert_eq!(info.flags & CKF_HW != 0, !of("tpm").is_empty(), "{row}");
        for (flag, name) in tpm11::mechanism::OPERATIONS {
            let has = operations.iter().any(|operation| operation == name);
            assert_eq!(info.flags & flag != 0, has, "{name}: {row}");
        }
    }
    assert_eq!(told, [0; 0], "not in the tool's list");
}

#[test]
fn the_list_of_mechanisms_says_what_this_tpm_and_this_configuration_refuse() {
    let bench = Bench::start();
    let without_commands = vec![wire::ENCRYPT_DECRYPT_2, wire::SIGN];
    bench.shim.become_chip(Chip { without_commands, ..Chip::default() });
    let list = mechanisms(&bench);
    for (name, refused, why) in [
        ("CKM_AES_CBC", "encrypt", "the TPM lacks TPM2_EncryptDecrypt2"),
        ("CKM_ECDSA_SHA256", "sign", "the TPM lacks TPM2_Sign"),
        ("CKM_SHA3_256_HMAC", "sign", "needs `sealed_keys = true` in [keys]"),
    ] {
        let row = said_of(&list, name);
        let refusals = row["refused"].as_array().expect("a list");
        assert!(refusals.iter().any(|operation| operation == refused), "{row}");
        assert_eq!(row["why"], why, "{row}");
    }
    assert_eq!(said_of(&list, "CKM_ECDSA_SHA256")["host"], serde_json::json!(["verify"]));
    assert!(said_of(&list, "CKM_SHA256_HMAC")["why"].is_null());

    let output = bench.run(tool(&bench, &["mechanisms"]), LIMIT);
    let said = text(&output.stdout);
    assert!(said.contains("(the TPM lacks TPM2_EncryptDecrypt2)"), "{said}");
    assert!(said.lines().any(|line| line.contains("CKM_SHA256 ") && line.contains("host: digest")));
}

/// `cargo run --bin tpm11 -- mechanisms --markdown >docs/MECHANISMS.md` writes it anew.
#[test]
fn the_page_of_mechanisms_is_written_from_their_rows() {
    let bench = Bench::start();
    let output = bench.run(tool(&bench, &["mechanisms", "--markdown"]), LIMIT);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/MECHANISMS.md");
    assert_eq!(text(&output.stdout), std::fs::read_to_string(page).expect("the page"));
}
