//! Programs that people use, with the module in them: what they are for works, and on standard
//! error there is nothing but their own text, whatever state the TPM is in.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, module, set_mode, wait_until};
use swtpm_tests::ck::{P256, Rv, bytes, flag, number};
use swtpm_tests::spawn::Guarded;
use swtpm_tests::{Bench, wire};

const LIMIT: Duration = Duration::from_secs(120);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pin() -> String {
    text(PIN)
}

/// A token with an ECDSA and an RSA key pair.
fn with_keys() -> Bench {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    bench.must("C_GenerateKeyPair", app.generate_ec(session, P256, "ec"));
    bench.must("C_GenerateKeyPair", app.generate_rsa(session, 2048, "rsa"));
    app.finalize().expect("C_Finalize");
    bench
}

/// Runs a program that must succeed and print nothing on standard error.
fn silent(bench: &Bench, command: Command) -> String {
    let shown = format!("{command:?}");
    let output = bench.run(command, LIMIT);
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{shown}: {}\n{out}{errors}\n{}", output.status, bench.log());
    assert_eq!(errors, "", "{shown} printed this on standard error");
    out
}

/// Nothing in it can be the module's or one of its libraries'.
fn assert_own_text(tool: &str, output: &Output) {
    let errors = text(&output.stderr);
    for line in errors.lines() {
        let lower = line.to_lowercase();
        for mark in ["tpm2", "tss", "tcti", "esys", "warning:", "panicked", "thread '", "sqlite"] {
            assert!(!lower.contains(mark), "{tool}: {line}");
        }
    }
}

fn pkcs11_tool(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = bench.command("pkcs11-tool");
    command.arg("--module").arg(module()).args(arguments);
    command
}

// ---- pkcs11-tool

#[test]
fn pkcs11_tool_tests_the_token_and_finds_no_error() {
    let bench = with_keys();
    let mut command = pkcs11_tool(&bench, &["--test", "--login", "--pin", &pin()]);
    command.args(["--token-label", LABEL]);

    let output = bench.run(command, LIMIT);

    let out = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{out}");
    assert!(out.contains("No errors"), "{out}");
    assert_own_text("pkcs11-tool", &output);
}

#[test]
fn pkcs11_tool_makes_a_token_and_uses_it() {
    let bench = Bench::start();
    let so_pin = text(SO_PIN);
    let tool = |arguments: &[&str]| {
        let output = bench.run(pkcs11_tool(&bench, arguments), LIMIT);
        let out = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {out}\n{}", bench.log());
        assert_own_text("pkcs11-tool", &output);
        out
    };

    tool(&["--slot-index", "0", "--init-token", "--label", "made", "--so-pin", &so_pin]);
    tool(&[
        "--token-label",
        "made",
        "--login",
        "--login-type",
        "so",
        "--so-pin",
        &so_pin,
        "--init-pin",
        "--new-pin",
        "first-pin",
    ]);
    tool(&[
        "--token-label",
        "made",
        "--login",
        "--pin",
        "first-pin",
        "--change-pin",
        "--new-pin",
        &pin(),
    ]);
    let user = ["--token-label", "made", "--login", "--pin", &pin()];
    let with = |more: &[&str]| tool(&[&user[..], more].concat());
    with(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "ec"]);
    with(&["--keypairgen", "--key-type", "rsa:2048", "--id", "02", "--label", "rsa"]);
    std::fs::write(bench.directory().join("data"), "data").expect("a file");
    with(&["--write-object", "data", "--type", "data", "--label", "note"]);
    let list = with(&["--list-objects"]);
    for word in ["Private Key Object; RSA", "Private Key Object; EC", "Data object", "note"] {
        assert!(list.contains(word), "{list}");
    }
    with(&[
        "--sign",
        "--mechanism",
        "ECDSA-SHA256",
        "--id",
        "01",
        "--signature-format",
        "openssl",
        "--input-file",
        "data",
        "--output-file",
        "signature",
    ]);
    // (pkcs11-tool 0.23 reads freed memory when it writes an EC public key to a file.)
    let mut export = bench.command("p11tool");
    export.arg("--provider").arg(module()).args(["--export", "--outfile", "public.pem"]);
    export.arg("pkcs11:token=made;id=%01;type=public");
    silent(&bench, export);
    let mut openssl = bench.command("openssl");
    openssl.args(["dgst", "-sha256", "-verify", "public.pem"]);
    openssl.args(["-signature", "signature", "data"]);
    assert!(silent(&bench, openssl).contains("Verified OK"));
    with(&["--delete-object", "--type", "privkey", "--id", "02"]);
    assert!(!with(&["--list-objects"]).contains("Private Key Object; RSA"));
}

// ---- p11-kit and GnuTLS

#[test]
fn p11tool_lists_everything() {
    let bench = with_keys();
    let token = format!("pkcs11:token={LABEL}");

    let mut command = bench.command("p11tool");
    command.arg("--provider").arg(module()).args(["--list-all", &token]);
    let list = silent(&bench, command);
    assert_eq!(list.matches("Object ").count(), 2, "the public halves: {list}");

    let mut command = bench.command("p11tool");
    command.arg("--provider").arg(module()).env("GNUTLS_PIN", pin());
    command.args(["--login", "--list-all", &token]);
    let list = silent(&bench, command);
    assert_eq!(list.matches("Object ").count(), 4, "{list}");

    let mut command = bench.command("p11tool");
    command.arg("--provider").arg(module()).arg("--list-tokens");
    assert!(silent(&bench, command).contains(&format!("token={LABEL}")));
}

#[test]
fn p11tool_makes_a_key_and_certtool_a_certificate_of_it() {
    let bench = with_keys();
    let directory = bench.directory();
    let tool = |program: &str, arguments: &[&str]| {
        let mut command = bench.command(program);
        command.arg("--provider").arg(module()).env("GNUTLS_PIN", pin()).args(arguments);
        let output = bench.run(command, LIMIT);
        let out = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {out}\n{}", bench.log());
        assert_own_text(program, &output);
    };
    let token = format!("pkcs11:token={LABEL}");
    std::fs::write(directory.join("template"), "cn = \"bench\"\nsigning_key\n").expect("a file");

    tool(
        "p11tool",
        &[
            "--login",
            "--generate-privkey",
            "ecdsa",
            "--curve",
            "secp256r1",
            "--label",
            "made",
            "--id",
            "0a0b",
            "--outfile",
            "public.pem",
            &token,
        ],
    );
    tool(
        "certtool",
        &[
            "--generate-self-signed",
            "--template",
            "template",
            "--load-privkey",
            &format!("{token};id=%0a%0b;type=private"),
            "--load-pubkey",
            "public.pem",
            "--outfile",
            "certificate.pem",
        ],
    );
    tool(
        "p11tool",
        &[
            "--login",
            "--write",
            "--load-certificate",
            "certificate.pem",
            "--label",
            "made",
            "--id",
            "0a0b",
            &token,
        ],
    );

    let (app, session) = bench.logged_in();
    let found = app
        .find(session, &[number(CKA_CLASS, CKO_CERTIFICATE), bytes(CKA_ID, [0x0A, 0x0B])])
        .expect("C_FindObjects");
    let subject = app.attribute(session, found[0], CKA_SUBJECT).expect("CKA_SUBJECT");
    assert!(text(&subject).contains("bench"));
}

#[test]
fn p11_kit_lists_the_module() {
    let bench = with_keys();
    bench.open_to_all();
    // p11-kit reads a user's own modules, but not root's.
    let home = bench.directory().join("home");
    let modules = home.join(".config/pkcs11/modules");
    std::fs::create_dir_all(&modules).expect("a directory");
    let line = format!("module: {}\n", bench.module_for_all().display());
    std::fs::write(modules.join("tpm11.module"), line).expect("a file");
    for file in std::fs::read_dir(bench.store()).expect("the store") {
        bench.give_to_nobody(&file.expect("an entry").path());
    }
    bench.give_to_nobody(&bench.store());
    let mut command = bench.command("p11-kit");
    command.arg("list-modules").env("HOME", &home);
    bench.as_nobody(&mut command);

    let list = silent(&bench, command);

    // 0.24 writes `tpm11: /path`, 0.25 `module: tpm11`.
    assert!(list.contains("tpm11:") || list.contains("module: tpm11"), "{list}");
    assert!(list.contains(&format!("token: {LABEL}")), "{list}");
}

// ---- NSS

#[test]
fn nss_makes_a_key_and_a_certificate_and_imports_others() {
    let bench = with_keys();
    let directory = bench.directory();
    std::fs::write(directory.join("pin"), format!("{LABEL}:{}\n{}\n", pin(), pin()))
        .expect("a file");
    std::fs::write(directory.join("pin-alone"), pin()).expect("a file");
    std::fs::write(directory.join("noise"), [7; 64]).expect("a file");
    std::fs::create_dir(directory.join("nss")).expect("a directory");
    let tool = |program: &str, arguments: &[&str]| {
        let mut command = bench.command(program);
        command.args(arguments);
        let output = bench.run(command, LIMIT);
        let out = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {out}\n{}", bench.log());
        assert_own_text(program, &output);
        out
    };
    let library = module().display().to_string();
    tool("certutil", &["-N", "-d", "sql:nss", "--empty-password"]);
    tool("modutil", &["-force", "-dbdir", "sql:nss", "-add", "tpm11", "-libfile", &library]);

    let keys = tool("certutil", &["-K", "-d", "sql:nss", "-h", LABEL, "-f", "pin-alone"]);
    assert!(keys.contains("rsa") && keys.contains("ec"), "{keys}");
    tool(
        "certutil",
        &[
            "-S",
            "-d",
            "sql:nss",
            "-h",
            LABEL,
            "-f",
            "pin-alone",
            "-z",
            "noise",
            "-k",
            "ec",
            "-q",
            "nistp256",
            "-n",
            "made",
            "-s",
            "CN=bench",
            "-x",
            "-t",
            "u,u,u",
        ],
    );

    let list = tool("certutil", &["-L", "-d", "sql:nss", "-h", LABEL, "-f", "pin-alone"]);
    assert!(list.contains("made"), "{list}");

    // NSS has the token make the key of a PKCS #12 file's password, and reads it.
    for (name, kind) in [("rsa-in", &["rsa:2048"][..]), ("ec-in", &["ec", "-pkeyopt", EC_OPTION])] {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        let file = format!("{name}.p12");
        let subject = format!("/CN={name}");
        let mut arguments = vec!["req", "-x509", "-nodes", "-subj", &subject, "-keyout", &key];
        arguments.extend(["-out", &certificate, "-newkey"]);
        arguments.extend(kind);
        tool("openssl", &arguments);
        let export = ["pkcs12", "-export", "-name", name, "-inkey", &key, "-in", &certificate];
        tool("openssl", &[&export[..], &["-passout", "pass:secret", "-out", &file]].concat());
        let import = ["-i", &file, "-d", "sql:nss", "-h", LABEL, "-k", "pin-alone", "-W", "secret"];
        tool("pk12util", &import);
        let keys = tool("certutil", &["-K", "-d", "sql:nss", "-h", LABEL, "-f", "pin-alone"]);
        assert!(keys.lines().any(|line| line.ends_with(name)), "{keys}");
    }
}

const EC_OPTION: &str = "ec_paramgen_curve:P-256";

// ---- ssh

/// A private sshd on a loopback port, which lets in whoever has a key of the token.
struct Sshd {
    _process: Guarded,
    port: u16,
    run: Option<PathBuf>,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if let Some(run) = &self.run {
            let _ = std::fs::remove_dir(run);
        }
    }
}

fn authorized_keys(bench: &Bench) -> String {
    let mut command = bench.command("ssh-keygen");
    command.arg("-D").arg(module());
    silent(bench, command)
}

impl Sshd {
    fn start(bench: &Bench) -> Sshd {
        let directory = bench.directory();
        std::fs::write(directory.join("authorized_keys"), authorized_keys(bench)).expect("a file");
        let mut keygen = bench.command("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", "host_key"]);
        silent(bench, keygen);
        // sshd insists on this directory when it is root; the service's own start makes it.
        let run = PathBuf::from("/run/sshd");
        let made = rustix::process::geteuid().is_root() && std::fs::create_dir(&run).is_ok();
        if made {
            set_mode(&run, 0o755);
        }
        let config = format!(
            "ListenAddress 127.0.0.1\nHostKey {0}/host_key\nAuthorizedKeysFile {0}/authorized_keys\n\
             AuthenticationMethods publickey\nPermitRootLogin prohibit-password\nStrictModes no\n\
             UsePAM no\nPidFile none\n",
            directory.display()
        );
        std::fs::write(directory.join("sshd_config"), config).expect("a file");
        // A port that is free now is free a moment later, nearly always.
        for _ in 0..20 {
            let port = std::net::TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .expect("a free port")
                .port();
            let log = std::fs::File::create(directory.join("sshd.log")).expect("a file");
            let mut command = bench.command("/usr/sbin/sshd");
            command.args(["-D", "-e", "-f"]).arg(directory.join("sshd_config"));
            command.args(["-p", &port.to_string()]).stdout(Stdio::null()).stderr(log);
            let mut process = Guarded::start(command).expect("sshd is installed");
            let listening = || {
                std::fs::read_to_string(directory.join("sshd.log"))
                    .is_ok_and(|log| log.contains("Server listening"))
            };
            let started = wait_until(Duration::from_secs(10), || {
                listening() || process.child().try_wait().is_ok_and(|ended| ended.is_some())
            });
            if started && listening() {
                let host = std::fs::read_to_string(directory.join("host_key.pub")).expect("a key");
                let line = format!("[127.0.0.1]:{port} {host}");
                std::fs::write(directory.join("known_hosts"), line).expect("a file");
                return Sshd { _process: process, port, run: made.then_some(run) };
            }
        }
        let log = std::fs::read_to_string(directory.join("sshd.log")).unwrap_or_default();
        panic!("sshd does not start: {log}");
    }

    /// ssh to it; a PIN is asked of a program that says `pin`.
    fn ssh(&self, bench: &Bench, pin: &str) -> Command {
        let user = bench.run(bench.command("id").arg_of("-un"), LIMIT);
        let mut command = bench.command("ssh");
        command.args(["-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", "ControlPath=none"]);
        command.args(["-o", "IdentityFile=none", "-o", "PreferredAuthentications=publickey"]);
        command.args(["-o", "UserKnownHostsFile=known_hosts", "-p", &self.port.to_string()]);
        command.args(["-l", text(&user.stdout).trim(), "127.0.0.1", "echo", "inside"]);
        with_askpass(bench, &mut command, pin);
        command
    }
}

fn with_askpass(bench: &Bench, command: &mut Command, pin: &str) {
    let askpass = bench.directory().join("askpass");
    std::fs::write(&askpass, format!("#!/bin/sh\necho '{pin}'\n")).expect("a file");
    set_mode(&askpass, 0o700);
    command.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force");
}

trait ArgOf {
    fn arg_of(self, argument: &str) -> Command;
}

impl ArgOf for Command {
    fn arg_of(mut self, argument: &str) -> Command {
        self.arg(argument);
        self
    }
}

#[test]
fn ssh_keygen_prints_the_public_keys_without_a_pin_and_without_the_tpm() {
    let bench = with_keys();

    let (record, keys) = bench.shim.watch(|| authorized_keys(&bench));

    assert!(keys.contains("ecdsa-sha2-nistp256 ") && keys.contains("ssh-rsa "), "{keys}");
    assert_eq!(keys.lines().count(), 2);
    assert_eq!(record.sent(), 0, "{}", record.lines());
}

#[test]
fn ssh_logs_in_with_a_key_of_the_token() {
    let bench = with_keys();
    let sshd = Sshd::start(&bench);
    let command = sshd.ssh(&bench, &pin());
    let mut command = insert(command, &["-I", &module().display().to_string()]);
    command.env_remove("SSH_AUTH_SOCK");

    let (record, out) = bench.shim.watch(|| silent(&bench, command));

    assert_eq!(out, "inside\n");
    assert_eq!(record.count(wire::SIGN) + record.count(wire::RSA_DECRYPT), 1);
    assert!(bench.shim.settled(Duration::from_secs(10)).is_nothing());
}

/// The same command with arguments before its own.
fn insert(command: Command, first: &[&str]) -> Command {
    let mut new = Command::new(command.get_program());
    new.args(first).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => new.env(name, value),
            None => new.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        new.current_dir(directory);
    }
    new.stdin(Stdio::null());
    new
}

#[test]
fn ssh_agent_takes_the_token_and_logs_in() {
    let bench = with_keys();
    let sshd = Sshd::start(&bench);
    let socket = bench.directory().join("agent");
    let library = module().canonicalize().expect("it is there").display().to_string();
    let mut agent = bench.command("ssh-agent");
    let noise = std::fs::File::create(bench.directory().join("agent.log")).expect("a file");
    // The agent loads only modules that its list allows; the default list has distribution paths.
    agent.args(["-D", "-P", &library, "-a"]).arg(&socket);
    agent.stdout(Stdio::null()).stderr(noise);
    let _agent = Guarded::start(agent).expect("ssh-agent is installed");
    assert!(wait_until(Duration::from_secs(10), || socket.exists()));
    let add = |flag: &str| {
        let mut command = bench.command("ssh-add");
        command.args(["-q", flag, &library]).env("SSH_AUTH_SOCK", &socket);
        with_askpass(&bench, &mut command, &pin());
        silent(&bench, command)
    };
    let login = || {
        let mut command = sshd.ssh(&bench, "not asked");
        command.env("SSH_AUTH_SOCK", &socket);
        silent(&bench, command)
    };

    add("-s");
    assert_eq!(login(), "inside\n");
    // Idle for longer than a lease lives.
    std::thread::sleep(Duration::from_secs(1));
    assert!(bench.shim.left().is_nothing(), "an idle agent holds nothing");
    assert_eq!(login(), "inside\n");
    add("-e");
    assert_eq!(std::fs::read_to_string(bench.directory().join("agent.log")).expect("its log"), "");
}

// ---- in every state

/// The states a TPM can be in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Good,
    Absent,
    Forbidden,
    Cleared,
    /// Not the TPM: the store is of a later version.
    Later,
}

fn in_state(state: State) -> Bench {
    let mut bench = with_keys();
    bench.open_to_all();
    for file in std::fs::read_dir(bench.store()).expect("the store") {
        bench.give_to_nobody(&file.expect("an entry").path());
    }
    bench.give_to_nobody(&bench.store());
    match state {
        State::Good => {}
        State::Absent => bench.tpm.power_off(),
        State::Forbidden => set_mode(bench.shim.socket(), 0),
        State::Cleared => bench.tpm.clear(),
        State::Later => {
            bench.make_store_later();
            bench.configure_also("[store]\ngrant_read_write = true");
        }
    }
    bench
}

const STATES: [State; 5] =
    [State::Good, State::Absent, State::Forbidden, State::Cleared, State::Later];

#[test]
fn the_module_itself_prints_nothing_in_any_state() {
    for state in STATES {
        let bench = in_state(state);
        let app = bench.app_as_nobody();
        app.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize never depends on the TPM");
        let slot = app.slot_of(LABEL).unwrap_or_else(|| panic!("{state:?}: no token"));
        let session = app.open(slot).expect("C_OpenSession");

        let wrong = app.login(session, b"wrong-pin");
        let right = app.login(session, PIN);

        match state {
            State::Good | State::Later => {
                assert_eq!((wrong, right), (Err(Rv(CKR_PIN_INCORRECT)), Ok(())), "{state:?}");
            }
            _ => {
                let error = Err(Rv(CKR_DEVICE_ERROR));
                assert_eq!((wrong, right), (error, error), "{state:?}: {}", bench.log());
            }
        }
        let found = app.find(session, &[number(CKA_CLASS, CKO_PUBLIC_KEY)]);
        assert_eq!(found.map(|found| found.len()), Ok(2), "{state:?}");
        let _ = app.generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256), flag(CKA_TOKEN, false)],
            &[],
        );
        let _ = app.random(session, 8);
        let _ = app.fork().info();
        app.finalize().expect("C_Finalize");
        assert_eq!(app.noise(), "", "{state:?}");
    }
}

#[test]
fn programs_print_only_their_own_text_in_any_state() {
    for state in STATES {
        let bench = in_state(state);
        let library = bench.module_for_all().display().to_string();
        let runs: [(&str, Vec<&str>); 8] = [
            ("pkcs11-tool", vec!["--module", &library, "--list-slots"]),
            ("pkcs11-tool", vec!["--module", &library, "--list-objects"]),
            (
                "pkcs11-tool",
                vec!["--module", &library, "--login", "--pin", "user-2468", "--list-objects"],
            ),
            (
                "pkcs11-tool",
                vec!["--module", &library, "--login", "--pin", "wrong-pin", "--list-objects"],
            ),
            ("p11tool", vec!["--provider", &library, "--list-all", "pkcs11:token=bench"]),
            ("p11tool", vec!["--provider", &library, "--list-tokens"]),
            ("ssh-keygen", vec!["-D", &library]),
            ("p11-kit", vec!["list-modules"]),
        ];
        for (index, (program, arguments)) in runs.iter().enumerate() {
            let mut command = bench.command(program);
            command.args(arguments);
            bench.as_nobody(&mut command);

            let output = bench.run(command, LIMIT);

            assert_own_text(program, &output);
            let needs_the_tpm = index == 2 || index == 3;
            let works = matches!(state, State::Good | State::Later);
            let errors = text(&output.stderr);
            let log = bench.log();
            if needs_the_tpm {
                let good = works && index == 2;
                assert_eq!(output.status.success(), good, "{state:?} {arguments:?}: {errors}{log}");
            } else {
                assert!(output.status.success(), "{state:?} {arguments:?}: {errors}{log}");
            }
        }
    }
}

#[test]
fn ssh_that_cannot_log_in_says_so_in_its_own_words() {
    for (state, pin) in
        [(State::Good, "wrong-pin".to_owned()), (State::Absent, pin()), (State::Cleared, pin())]
    {
        let mut bench = with_keys();
        let sshd = Sshd::start(&bench);
        match state {
            State::Absent => bench.tpm.power_off(),
            State::Cleared => bench.tpm.clear(),
            State::Good | State::Forbidden | State::Later => {}
        }
        let command = sshd.ssh(&bench, &pin);
        let mut command = insert(command, &["-I", &module().display().to_string()]);
        command.env_remove("SSH_AUTH_SOCK");

        let output = bench.run(command, LIMIT);

        assert!(!output.status.success());
        assert_own_text("ssh", &output);
        let errors = text(&output.stderr);
        assert!(errors.contains("Permission denied"), "{state:?}: {errors}");
        for line in errors.lines() {
            let own =
                ["C_Login failed", "login failed", "sign_and_send_pubkey", "pkcs11", "Permission"]
                    .iter()
                    .any(|words| line.contains(words));
            assert!(own, "{state:?}: whose line is this? {line}");
        }
        if state != State::Absent {
            assert_eq!(bench.shim.lockout_counter(), 0);
        }
    }
}
