//! What the configuration promises: how the bus is protected, and several TPMs side by side.

use std::sync::Arc;
use std::time::Duration;

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN};
use swtpm_tests::ck::{Mechanism, P256, Rv};
use swtpm_tests::shim::{Action, Chip, Fault, Record};
use swtpm_tests::{App, Bench, Setup, contains, wire};

const DIGEST: [u8; 32] = *b"this digest may be seen by some!";
/// Where r begins in a response of TPM2_Sign: header, size, scheme, hash, size of r.
const R: usize = 20;

/// Behind a resource manager, with these lines in `[[tpm]]` and this further configuration.
fn managed(tpm: &str, rest: &str) -> Bench {
    Setup::default().managed().tpm(tpm).config(rest).start()
}

/// The application, its session and a key of each type, all of it warm.
fn warm(bench: &Bench) -> (App, u64, u64, u64) {
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, ec) = app.generate_ec(session, P256, "ec").expect("an EC pair");
    let (_, rsa) = app.generate_rsa(session, 2048, "rsa").expect("an RSA pair");
    app.sign(session, CKM_ECDSA, ec, &DIGEST).expect("ECDSA");
    app.sign(session, CKM_RSA_PKCS, rsa, b"data").expect("RSA");
    (app, session, ec, rsa)
}

/// The TPM says it is a chip of another maker: one with a bus.
fn infineon(bench: &Bench) {
    let rewrite = |_: &[u8], response: &mut Vec<u8>| {
        let maker = response.windows(4).position(|word| word == b"IBM\0");
        if let Some(at) = maker {
            response[at..at + 4].copy_from_slice(b"IFX\0");
        }
    };
    let fault = Fault::at(wire::GET_CAPABILITY, Action::Rewrite(Arc::new(rewrite)));
    bench.shim.inject(fault.always());
}

fn shows_the_digest(record: &Record) -> bool {
    let [sign] = record.of(wire::SIGN)[..] else { panic!("{}", record.lines()) };
    contains(&sign.command, &DIGEST)
}

#[test]
fn on_a_firmware_tpm_the_session_may_be_left_away_and_costs_nothing_then() {
    let bench = managed("bus_protection = \"discrete\"", "");
    let (app, session, ec, _) = warm(&bench);

    let (record, answer) = bench.shim.watch(|| app.sign(session, CKM_ECDSA, ec, &DIGEST));

    answer.expect("C_Sign");
    assert_eq!((record.sent(), record.executed()), (1, 4), "{}", record.lines());
    assert!(record.of(wire::SIGN)[0].shows_a_password(), "{}", record.lines());
    assert!(shows_the_digest(&record));

    // What carries a secret is encrypted all the same.
    let (record, answer) = bench.shim.watch(|| {
        app.logout(session)?;
        app.login(session, PIN)?;
        app.generate_ec(session, P256, "another")
    });
    answer.expect("login and key generation");
    for code in [wire::UNSEAL, wire::CREATE] {
        let entries = record.of(code);
        assert!(!entries.is_empty());
        assert!(entries.iter().all(|entry| !entry.shows_a_password()), "{}", record.lines());
    }
}

#[test]
fn on_a_chip_with_a_bus_the_same_setting_keeps_the_session() {
    let bench = managed("bus_protection = \"discrete\"", "");
    infineon(&bench);
    let (app, session, ec, _) = warm(&bench);

    let (record, answer) = bench.shim.watch(|| app.sign(session, CKM_ECDSA, ec, &DIGEST));

    answer.expect("C_Sign");
    assert_eq!(record.sent(), 1, "{}", record.lines());
    assert!(record.of(wire::SIGN)[0].is_hmac_protected(), "{}", record.lines());
    assert!(!shows_the_digest(&record));
}

#[test]
fn by_default_a_firmware_tpm_gets_the_session_too() {
    let bench = managed("", "");
    let (app, session, ec, _) = warm(&bench);

    let (record, answer) = bench.shim.watch(|| app.sign(session, CKM_ECDSA, ec, &DIGEST));

    answer.expect("C_Sign");
    assert!(record.of(wire::SIGN)[0].is_hmac_protected(), "{}", record.lines());
    assert!(!shows_the_digest(&record));
}

#[test]
fn what_the_tpm_can_is_corrected_when_the_officer_logs_in() {
    let bench = Bench::start();
    bench.token();
    let curves = || {
        let app = bench.ready();
        let slot = app.slot_of(LABEL).expect("the token");
        app.mechanism_info(slot, CKM_EC_KEY_PAIR_GEN).expect("C_GetMechanismInfo").ulMaxKeySize
    };
    assert!(curves() > 256);
    // Its firmware was changed: it lacks P-384 and P-521 now, and its storage root key is the same.
    bench.shim.become_chip(Chip { without_curves: vec![4, 5], ..Chip::default() });
    assert!(curves() > 256, "looking asks the store");
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    drop(app);
    assert_eq!(curves(), 256, "for all programs");
}

#[test]
fn without_a_session_a_wrong_rsa_result_is_never_given_out() {
    // One flipped bit in a result by the CRT gives the private key away.
    let bench = managed("bus_protection = \"discrete\"", "");
    let (app, session, _, rsa) = warm(&bench);
    let pss = || Mechanism::pss(CKM_SHA256_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, 32);
    for at in [16, 17, 100, 16 + 255] {
        for mechanism in [CKM_RSA_PKCS.into(), CKM_SHA256_RSA_PKCS.into(), pss()] {
            let flip = Fault::at(wire::RSA_DECRYPT, Action::Garble { at, xor: 1 });
            bench.shim.inject(flip.always());
            let answer = app.sign(session, mechanism, rsa, b"data");
            assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)), "byte {at}");
            assert!(bench.shim.heal() > 0, "it was the altered answer");
        }
    }
    app.sign(session, CKM_RSA_PKCS, rsa, b"data").expect("the next one is right");
}

#[test]
fn without_a_session_a_wrong_ecdsa_signature_is_found_where_the_configuration_says_so() {
    let settings = "[keys]\nverify_signatures = true";
    let bench = managed("bus_protection = \"discrete\"", settings);
    let (app, session, ec, _) = warm(&bench);
    for at in [R + 2, R + 31, R + 34 + 2, R + 34 + 31] {
        let flip = Fault::at(wire::SIGN, Action::Garble { at: at as isize, xor: 1 });
        bench.shim.inject(flip.always());
        let answer = app.sign(session, CKM_ECDSA, ec, &DIGEST);
        assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)), "byte {at}");
        assert!(bench.shim.heal() > 0, "it was the altered answer");
    }
    app.sign(session, CKM_ECDSA, ec, &DIGEST).expect("the next one is right");
}

#[test]
fn an_ecdsa_signature_that_can_be_none_is_never_given_out() {
    // Zero, or not below the order of the curve: seen without any check of the signature itself.
    let bench = managed("bus_protection = \"discrete\"", "");
    let (app, session, ec, _) = warm(&bench);
    for at in [R, R + 34] {
        for byte in [0x00, 0xFF] {
            let rewrite = move |_: &[u8], response: &mut Vec<u8>| {
                // TPMs may leave leading zeros out: then the places are not these.
                if response.get(18..20) == Some(&[0, 32]) {
                    response[at..at + 32].fill(byte);
                }
            };
            let fault = Fault::at(wire::SIGN, Action::Rewrite(Arc::new(rewrite)));
            bench.shim.inject(fault.always());
            let answer = app.sign(session, CKM_ECDSA, ec, &DIGEST);
            assert_eq!(answer, Err(Rv(CKR_DEVICE_ERROR)), "{byte:#x} from {at} on");
            bench.shim.heal();
        }
    }
    app.sign(session, CKM_ECDSA, ec, &DIGEST).expect("the next one is right");
}

#[test]
fn two_tpms_have_each_their_own_tokens_and_keys() {
    let (one, two) = (Bench::start(), Bench::start());
    let second = one.directory().join("second");
    let config = format!(
        "[[tpm]]\ntcti = \"{}\"\nstores = [\"{}\"]\n[[tpm]]\ntcti = \"{}\"\nstores = [\"{}\"]\n",
        one.shim.tcti(),
        one.store().display(),
        two.shim.tcti(),
        second.display(),
    );
    std::fs::write(one.config(), config).expect("the configuration");
    let start = || {
        let app = one.app_with(|command| {
            command.env_remove("TPM11_STORE");
        });
        app.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
        app
    };
    let app = start();
    let slots = app.slots(true).expect("C_GetSlotList");
    assert_eq!(slots.len(), 2, "an empty slot for each TPM");
    for (slot, label) in slots.iter().zip(["one", "two"]) {
        app.init_token(*slot, SO_PIN, label).expect("C_InitToken");
        let session = app.open(*slot).expect("C_OpenSession");
        app.login_so(session, SO_PIN).expect("C_Login(SO)");
        app.init_pin(session, PIN).expect("C_InitPIN");
        app.close_session(session).expect("C_CloseSession");
    }
    app.finalize().expect("C_Finalize");
    for (bench, name) in [(&one, "one"), (&two, "two")] {
        assert_eq!(bench.shim.nv_indices().len(), 2, "TPM {name} counts the PINs of its token");
    }

    let app = start();
    assert_eq!(app.slots(true).expect("C_GetSlotList").len(), 4, "and again an empty one each");
    let key = |label: &str| {
        let session = app.open(app.slot_of(label).expect(label)).expect("C_OpenSession");
        app.login(session, PIN).expect("C_Login");
        let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
        (session, key)
    };
    let (first, second) = (key("one"), key("two"));
    let (other, (record, answer)) =
        two.shim.watch(|| one.shim.watch(|| app.sign(first.0, CKM_ECDSA, first.1, &DIGEST)));
    answer.expect("C_Sign");
    assert_eq!(record.count(wire::SIGN), 1, "{}", record.lines());
    assert_eq!(other.count(wire::SIGN), 0, "{}", other.lines());
    // One that is gone does not hinder the other.
    let (mut one, app) = (one, app);
    one.tpm.power_off();
    app.sign(second.0, CKM_ECDSA, second.1, &DIGEST).expect("C_Sign");
    assert_eq!(app.sign(first.0, CKM_ECDSA, first.1, &DIGEST), Err(Rv(CKR_DEVICE_ERROR)));
    assert_eq!(app.slot_of(LABEL), None);
    app.finalize().expect("C_Finalize");
    assert!(two.shim.settled(Duration::from_secs(1)).is_nothing());
}
