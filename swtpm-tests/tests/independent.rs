//! The module through the `cryptoki` crate, which others wrote: a client that shares no line with the
//! bench's own.

use std::time::Duration;

use cryptoki::context::{CInitializeArgs, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use swtpm_tests::Bench;
use swtpm_tests::bench::module;

const CHILD: &str = "TPM11_BENCH_CHILD";

/// A module's state is its process's: the client's part of the test runs in a process of its own.
#[test]
fn a_client_that_others_wrote_makes_a_token_and_uses_its_keys() {
    if std::env::var_os(CHILD).is_some() {
        return client();
    }
    let bench = Bench::start();
    let mut command = bench.command(std::env::current_exe().expect("this program"));
    command.args(["--exact", "a_client_that_others_wrote_makes_a_token_and_uses_its_keys"]);
    command.env(CHILD, "1");

    let output = bench.run(command, Duration::from_secs(60));

    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", bench.log());
    assert!(text.contains("1 passed"), "{text}");
    assert!(bench.shim.settled(Duration::from_secs(1)).is_nothing());
}

fn client() {
    let (so_pin, pin) = (AuthPin::new("officer".into()), AuthPin::new("user-pin".into()));
    let pkcs11 = Pkcs11::new(module()).expect("the module");
    pkcs11.initialize(CInitializeArgs::OsThreads).expect("C_Initialize");
    let slot = pkcs11.get_slots_with_token().expect("slots")[0];
    pkcs11.init_token(slot, &so_pin, "others").expect("C_InitToken");
    {
        let session = pkcs11.open_rw_session(slot).expect("C_OpenSession");
        session.login(UserType::So, Some(&so_pin)).expect("C_Login(SO)");
        session.init_pin(&pin).expect("C_InitPIN");
    }

    let info = pkcs11.get_token_info(slot).expect("C_GetTokenInfo");
    assert_eq!(info.label(), "others");
    assert!(info.user_pin_initialized() && info.login_required() && info.rng());
    let session = pkcs11.open_rw_session(slot).expect("C_OpenSession");
    session.login(UserType::User, Some(&pin)).expect("C_Login");

    // An EC pair, ECDSA.
    let p256 = vec![0x06, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7];
    let (public, private) = session
        .generate_key_pair(
            &Mechanism::EccKeyPairGen,
            &[Attribute::EcParams(p256), Attribute::Token(true), Attribute::Verify(true)],
            &[Attribute::Token(true), Attribute::Private(true), Attribute::Sign(true)],
        )
        .expect("C_GenerateKeyPair");
    let signature = session.sign(&Mechanism::EcdsaSha256, private, b"text").expect("C_Sign");
    session.verify(&Mechanism::EcdsaSha256, public, b"text", &signature).expect("C_Verify");
    session.verify(&Mechanism::EcdsaSha256, public, b"test", &signature).expect_err("another text");

    // An RSA pair, PSS and PKCS#1 v1.5.
    let (public, private) = session
        .generate_key_pair(
            &Mechanism::RsaPkcsKeyPairGen,
            &[
                Attribute::Token(false),
                Attribute::ModulusBits(2048.into()),
                Attribute::PublicExponent(vec![1, 0, 1]),
            ],
            &[Attribute::Token(false)],
        )
        .expect("C_GenerateKeyPair");
    let pss = Mechanism::Sha256RsaPkcsPss(PkcsPssParams {
        hash_alg: cryptoki::mechanism::MechanismType::SHA256,
        mgf: PkcsMgfType::MGF1_SHA256,
        s_len: 32.into(),
    });
    let signature = session.sign(&pss, private, b"text").expect("C_Sign");
    session.verify(&pss, public, b"text", &signature).expect("C_Verify");
    let sealed = session.encrypt(&Mechanism::RsaPkcs, public, b"text").expect("C_Encrypt");
    assert_eq!(session.decrypt(&Mechanism::RsaPkcs, private, &sealed).expect("C_Decrypt"), b"text");

    // What is on the token, and what of it can be read.
    let keys = session
        .find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)])
        .expect("C_FindObjects");
    assert_eq!(keys.len(), 1);
    let wanted = [AttributeType::Sensitive, AttributeType::Extractable, AttributeType::Value];
    let values = session.get_attributes(keys[0], &wanted).expect("C_GetAttributeValue");
    assert_eq!(values, [Attribute::Sensitive(true), Attribute::Extractable(false)]);
    assert_ne!(
        session.generate_random_vec(16).expect("C_GenerateRandom"),
        session.generate_random_vec(16).expect("C_GenerateRandom")
    );
    session.destroy_object(keys[0]).expect("C_DestroyObject");
    session.logout().expect("C_Logout");
    drop(session);
    pkcs11.finalize();
}
