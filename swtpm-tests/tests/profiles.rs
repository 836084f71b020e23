//! The call sequences of the mandatory test cases of the PKCS#11 3.2 profiles, on our token: Baseline
//! (BL-M-1), Extended (EXT-M-1), Authentication Token (AUTH-M-1), Public Certificates (CERT-M-1).
//! (No CKO_PROFILE object is kept; a search for one finds nothing.)

use std::str::FromStr;
use std::time::Duration;

use cryptoki_sys::*;
use der::Encode;
use swtpm_tests::bench::{LABEL, PIN};
use swtpm_tests::ck::{bytes, flag, number};
use swtpm_tests::{App, Bench};
use x509_cert::builder::{Builder, CertificateBuilder, Profile};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::Validity;

/// What all four cases begin with: information, slots, the slot of the token.
fn look(app: &App) -> u64 {
    let info = app.info().expect("C_GetInfo");
    assert_eq!({ info.flags }, 0);
    assert_eq!((info.cryptokiVersion.major, info.cryptokiVersion.minor), (3, 2));
    assert!(app.slots(true).expect("C_GetSlotList").len() >= 2, "the token and an empty slot");
    let slot = app.slot_of(LABEL).expect("the token");
    let slot_info = app.slot_info(slot).expect("C_GetSlotInfo");
    assert_ne!({ slot_info.flags } & CKF_TOKEN_PRESENT, 0);
    let token = app.token_info(slot).expect("C_GetTokenInfo");
    let expected = CKF_RNG | CKF_LOGIN_REQUIRED | CKF_USER_PIN_INITIALIZED | CKF_TOKEN_INITIALIZED;
    assert_eq!({ token.flags } & expected, expected);
    assert_eq!((token.ulMaxSessionCount, token.ulMaxRwSessionCount), (0, 0));
    assert_eq!((token.ulMinPinLen, token.ulMaxPinLen), (4, 255));
    assert_ne!(&token.serialNumber, b"0000000000000000");
    slot
}

#[test]
fn baseline_provider() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let slot = look(&app);
    let session = app.open_session(slot, CKF_SERIAL_SESSION).unwrap();
    assert!(app.find(session, &[flag(CKA_TOKEN, true)]).unwrap().is_empty());
    assert!(app.find(session, &[number(CKA_CLASS, CKO_PROFILE)]).unwrap().is_empty());
    app.close_session(session).unwrap();
    app.close_all_sessions(slot).unwrap();
    app.finalize().unwrap();
}

#[test]
fn extended_provider() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let slot = look(&app);
    let mechanisms = app.mechanisms(slot).unwrap();
    for (mechanism, flags) in [
        (CKM_SHA512, CKF_DIGEST),
        (CKM_RSA_PKCS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR | CKF_HW),
        (CKM_RSA_PKCS, CKF_ENCRYPT | CKF_DECRYPT | CKF_SIGN | CKF_VERIFY),
    ] {
        assert!(mechanisms.contains(&mechanism), "{mechanism:#x}");
        let info = app.mechanism_info(slot, mechanism).unwrap();
        assert_eq!({ info.flags } & flags, flags, "{mechanism:#x}");
    }
    let session = app.open(slot).unwrap();
    app.login(session, PIN).unwrap();
    assert!(app.find(session, &[flag(CKA_TOKEN, true)]).unwrap().is_empty());
    app.logout(session).unwrap();
    app.close_session(session).unwrap();
    app.close_all_sessions(slot).unwrap();
    app.finalize().unwrap();
}

#[test]
fn authentication_token() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let slot = look(&app);
    let session = app.open(slot).unwrap();
    app.login(session, PIN).unwrap();
    app.generate_rsa(session, 2048, "testrsa").unwrap();
    let find = |class| {
        let template =
            [flag(CKA_TOKEN, true), bytes(CKA_LABEL, "testrsa"), number(CKA_CLASS, class)];
        let found = app.find(session, &template).unwrap();
        assert_eq!(found.len(), 1);
        found[0]
    };
    let public = find(CKO_PUBLIC_KEY);
    assert_eq!(app.attribute(session, public, CKA_MODULUS).unwrap().len(), 256);
    assert_eq!(app.attribute(session, public, CKA_PUBLIC_EXPONENT).unwrap(), [1, 0, 1]);
    let private = find(CKO_PRIVATE_KEY);
    let request = b"a certificate request to be signed";
    let signature = app.sign(session, CKM_SHA256_RSA_PKCS, private, request).unwrap();
    assert_eq!(signature.len(), 256);
    app.verify(session, CKM_SHA256_RSA_PKCS, public, request, &signature).unwrap();
    app.logout(session).unwrap();
    app.close_session(session).unwrap();
    app.close_all_sessions(slot).unwrap();
    app.finalize().unwrap();
}

/// A self-signed certificate of a key that exists only here.
fn certificate() -> Vec<u8> {
    let key = p256::ecdsa::SigningKey::random(&mut rand_core::OsRng);
    let public = spki::SubjectPublicKeyInfoOwned::from_key(*key.verifying_key()).unwrap();
    let builder = CertificateBuilder::new(
        Profile::Root,
        SerialNumber::from(7u32),
        Validity::from_now(Duration::from_secs(3600)).unwrap(),
        Name::from_str("CN=Example Root,O=Example").unwrap(),
        public,
        &key,
    )
    .unwrap();
    builder.build::<p256::ecdsa::DerSignature>().unwrap().to_der().unwrap()
}

#[test]
fn public_certificates_token() {
    let bench = Bench::start();
    bench.token();
    let value = certificate();
    let (writer, session) = bench.logged_in();
    let template = [
        number(CKA_CLASS, CKO_CERTIFICATE),
        number(CKA_CERTIFICATE_TYPE, CKC_X_509),
        flag(CKA_TOKEN, true),
        bytes(CKA_LABEL, "Example Root"),
        bytes(CKA_VALUE, value.clone()),
    ];
    writer.create_object(session, &template).unwrap();
    writer.finalize().unwrap();

    let app = bench.ready();
    let slot = look(&app);
    let session = app.open_session(slot, CKF_SERIAL_SESSION).unwrap();
    let found = app.find(session, &[flag(CKA_TOKEN, true)]).unwrap();
    assert_eq!(found.len(), 1, "a certificate is seen without a login");
    assert_eq!(app.attribute(session, found[0], CKA_LABEL).unwrap(), b"Example Root");
    assert_eq!(app.attribute(session, found[0], CKA_VALUE).unwrap(), value, "byte for byte");
    app.close_session(session).unwrap();
    app.close_all_sessions(slot).unwrap();
    app.finalize().unwrap();
}
