//! The TCTI loader in earnest: tpm2-abrmd on a D-Bus of its own, with swtpm behind it.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use swtpm_tests::abrmd::{find, libraries};
use swtpm_tests::spawn::Guarded;
use tpm11::crypto::ec::Curve;
use tpm11::tpm::{HashAlgorithm, Key, KeyBlob, KeySpec, KeyUse, Settings, Tpm};

/// Set in the process that runs inside `dbus-run-session`.
const INSIDE: &str = "TPM11_TEST_INSIDE_DBUS";

#[test]
fn keys_are_made_and_used_through_tpm2_abrmd() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    if let Some(missing) =
        ["dbus-run-session", "tpm2-abrmd"].into_iter().find(|program| find(program).is_none())
    {
        eprintln!("SKIPPED: no {missing} (scripts/test fetches it)");
        return;
    }
    let outcome = Command::new("dbus-run-session")
        .arg("--")
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "keys_are_made_and_used_through_tpm2_abrmd", "--nocapture"])
        .env(INSIDE, "1")
        .env("LD_LIBRARY_PATH", libraries())
        .stdin(Stdio::null())
        .output()
        .expect("dbus-run-session runs");
    assert!(
        outcome.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&outcome.stdout),
        String::from_utf8_lossy(&outcome.stderr)
    );
}

fn inside() {
    let state = tempfile::tempdir().expect("a directory");
    // Its TCTI wants TCP, the control channel on the next port.
    let port = (20_000..u16::MAX)
        .step_by(2)
        .skip(std::process::id() as usize % 10_000)
        .find(|port| (0..2).all(|next| TcpListener::bind(("127.0.0.1", port + next)).is_ok()))
        .expect("two free ports");
    let mut command = Command::new("swtpm");
    command
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg(format!("--tpmstate=dir={}", state.path().display()))
        .arg(format!("--server=type=tcp,port={port}"))
        .arg(format!("--ctrl=type=tcp,port={}", port + 1))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _swtpm = Guarded::start(command).expect("swtpm starts");
    let mut command = Command::new(find("tpm2-abrmd").expect("it was there"));
    command
        .args(["--session", "--allow-root"])
        .arg(format!("--tcti=swtpm:host=127.0.0.1,port={port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    std::thread::sleep(Duration::from_millis(500));
    let _daemon = Guarded::start(command).expect("tpm2-abrmd starts");

    let settings = Settings { tcti: "tabrmd:bus_type=session".to_owned(), ..Settings::default() };
    let tpm = Tpm::new(settings, None, Box::new(|_| false));
    let until = Instant::now() + Duration::from_secs(20);
    let srk = loop {
        match tpm.srk_name(&tpm.call()) {
            Ok(name) => break Arc::new(name),
            Err(fault) => assert!(Instant::now() < until, "{fault}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let spec = KeySpec {
        usage: KeyUse::Ec { curve: Curve::P256, sign: true, derive: false },
        extractable: false,
        always_authenticate: None,
    };
    let key = |spec: &KeySpec, id: u8| {
        let made = tpm.create(&tpm.call(), &srk, spec, &[id; 32]).expect("TPM2_Create");
        let (public, private) = (made.public, made.private);
        let blob = KeyBlob { id: [id; 16], public, private, authorization: [id; 32].into() };
        Key { blob: Arc::new(blob), srk: srk.clone(), grant: None }
    };
    // More than its limit of loaded objects per connection.
    let keys: Vec<Key> = (0..30).map(|id| key(&spec, id)).collect();
    for key in keys.iter().chain(&keys) {
        tpm.sign(&tpm.call(), key, HashAlgorithm::Sha256, &[1; 32]).expect("TPM2_Sign");
    }
    // More sequences, too.
    let keyed = key(&KeySpec { usage: KeyUse::Keyed, ..spec }, 100);
    for _ in 0..40 {
        tpm.mac(&tpm.call(), &keyed, HashAlgorithm::Sha256, &[1; 3000]).expect("a sequence");
    }
    tpm.end();
    let first = keys.first().expect("thirty keys");
    tpm.sign(&tpm.call(), first, HashAlgorithm::Sha256, &[1; 32]).expect("a new connection");
}
