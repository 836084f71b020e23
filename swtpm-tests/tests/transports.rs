//! The same life of a token through each of our own transports that needs no kernel: swtpm by UNIX
//! socket and by TCP, and the Microsoft simulator's protocol.

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN};
use swtpm_tests::ck::{P256, number};
use swtpm_tests::front::Front;
use swtpm_tests::{App, Bench};

const DIGEST: [u8; 32] = [0x42; 32];

fn app(bench: &Bench, tcti: &str) -> App {
    let app = bench.app_with(|command| {
        command.env("TPM11_TCTI", tcti);
    });
    bench.must("C_Initialize", app.initialize_with(CKF_OS_LOCKING_OK));
    app
}

fn a_whole_life(bench: &mut Bench, tcti: &str) {
    let first = app(bench, tcti);
    let slot = first.empty_slot().expect("an empty slot");
    bench.must("C_InitToken", first.init_token(slot, SO_PIN, LABEL));
    let session = first.open(slot).expect("C_OpenSession");
    bench.must("C_Login(SO)", first.login_so(session, SO_PIN));
    bench.must("C_InitPIN", first.init_pin(session, PIN));
    first.finalize().expect("C_Finalize");

    let apps = [app(bench, tcti), app(bench, tcti)];
    let sessions: Vec<u64> = apps
        .iter()
        .map(|app| {
            let slot = app.slot_of(LABEL).expect("the token");
            let session = app.open(slot).expect("C_OpenSession");
            bench.must("C_Login", app.login(session, PIN));
            session
        })
        .collect();
    bench.must("C_GenerateKeyPair", apps[0].generate_ec(sessions[0], P256, "ec"));
    bench.must("C_GenerateKeyPair", apps[1].generate_rsa(sessions[1], 2048, "rsa"));
    let sign_all = |bench: &Bench| {
        for (app, session) in apps.iter().zip(&sessions) {
            let keys = app.find(*session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)]).expect("found");
            assert_eq!(keys.len(), 2);
            for key in keys {
                let rsa = app.attribute(*session, key, CKA_KEY_TYPE).expect("CKA_KEY_TYPE")
                    == CKK_RSA.to_ne_bytes();
                let mechanism = if rsa { CKM_RSA_PKCS } else { CKM_ECDSA };
                bench.must("C_Sign", app.sign(*session, mechanism, key, &DIGEST));
            }
        }
    };
    sign_all(bench);
    bench.tpm.power_cut();
    sign_all(bench);
    for app in &apps {
        app.finalize().expect("C_Finalize");
        assert_eq!(app.noise(), "");
    }
    assert!(bench.shim.settled(std::time::Duration::from_secs(10)).is_nothing());
}

#[test]
fn swtpm_by_its_unix_socket() {
    let mut bench = Bench::start();
    let tcti = bench.shim.tcti();
    a_whole_life(&mut bench, &tcti);
}

#[test]
fn swtpm_by_tcp() {
    let mut bench = Bench::start();
    let front = Front::swtpm(bench.shim.socket());
    a_whole_life(&mut bench, &format!("swtpm:host=127.0.0.1,port={}", front.port));
}

#[test]
fn the_simulators_protocol() {
    let mut bench = Bench::start();
    let front = Front::simulator(bench.shim.socket());
    a_whole_life(&mut bench, &format!("mssim:host=127.0.0.1,port={}", front.port));
}
