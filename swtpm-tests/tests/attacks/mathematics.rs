//! Group F: weak numbers, wrong answers, edges of the mathematics. Of this group others hold: F02 and F03 (a
//! signature changed on the way, r or s that can be none) `tests/settings.rs` and `tests/survive.rs`; F05
//! (forged PKCS #1 v1.5 signatures) the vectors in `tests/independent.rs`; F07 `benches/timing.rs`.

use std::sync::Arc;

use cryptoki_sys::*;
use swtpm_tests::ck::{Mechanism, P256, P521, Rv, bytes, flag, number};
use swtpm_tests::door::Memory;
use swtpm_tests::shim::{Action, Fault};
use swtpm_tests::{App, Bench, Setup, openssl, wire};

fn start() -> (Bench, App, u64) {
    let bench = Setup::default().config("[pin]\nkdf_iterations = 1000").start();
    bench.token();
    let (app, session) = bench.logged_in();
    (bench, app, session)
}

/// A key as the generator of CVE-2017-15361 made them: n, d, p, q.
const BROKEN: [&str; 4] = [
    "dd25859bdea5d0d58cc85ca3979c3925990572f345fb341da8945141b5203b3016e175b6b8911ce3002aaaf9c62786f0\
     d68322fda03b865c9c153a6922df2dcfe94e6434de9c08023ab972ecde026b21a0a072775e938b352c7a65e1e5c0dfb6\
     6d0a9abe3fc5d597424f76a54d9197a09369d99b56d47b4327ea9417350a611d",
    "d9c5ae69ccfa2ac970a68a1b8b1c0b668be6c2c8efdc2cf91bde5a9a431c274cf6eb34f9278db70d8f4775311c42266f\
     1a3eef01257e1895301af3773f20d9c173cce53ca7bb2bca41d547e50ab96eff65d98e1cda0495ff47a38cd9fdfbb81a\
     18a5a3c0604c48f2f37659a78f4ab9d24db13e3cc730dc23799ebf477ef92be1",
    "fc2a306d25e25c9cf186edce4541071cc543cf81130056086b3c8ba637063e242c913fb768354f7d4a825b1e2c784b2a\
     593190ca530bf918fb4ffd4c18db3585",
    "e0828ff7ebd9587c50703d3dc7d39a5e1cd2207cbb0ed08415646832209b4f42396e21d4a08f36be0bad5e8ecb0f422b\
     0740d94ed9677e3f8e488bbbb4d224b9",
];

#[test]
fn f01_keys_of_the_broken_generator_are_refused_and_none_is_kept_that_the_wire_gave() {
    let (bench, app, session) = start();
    let [n, d, p, q] = BROKEN.map(|number| hex::decode(number).expect("hex"));
    let private = [
        number(CKA_CLASS, CKO_PRIVATE_KEY),
        number(CKA_KEY_TYPE, CKK_RSA),
        bytes(CKA_MODULUS, n.clone()),
        bytes(CKA_PUBLIC_EXPONENT, [1, 0, 1]),
        bytes(CKA_PRIVATE_EXPONENT, d),
        bytes(CKA_PRIME_1, p),
        bytes(CKA_PRIME_2, q),
    ];
    let made = app.create_object(session, &private);
    assert_eq!(made, Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)));

    // Somebody on the bus puts a public key of his own into the TPM's answer.
    let rewrite = move |_: &[u8], response: &mut Vec<u8>| {
        let length = response.len();
        if length > 400 {
            response[length - 300..length - 172].copy_from_slice(&n);
        }
    };
    let fault = Fault::at(wire::CREATE, Action::Rewrite(Arc::new(rewrite)));
    bench.shim.inject(fault.always());
    let size = [number(CKA_MODULUS_BITS, 1024), flag(CKA_TOKEN, true)];
    let token = [flag(CKA_TOKEN, true)];
    let pair = app.generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, &size, &token);
    assert!(bench.shim.heal() > 0);
    assert_eq!(pair, Err(Rv(CKR_DEVICE_ERROR)));
    assert!(app.find(session, &[]).expect("C_FindObjects").is_empty());
}

#[test]
fn f04_no_counter_repeats_and_no_iv_is_empty() {
    let (_bench, app, session) = start();
    let template = [number(CKA_VALUE_LEN, 16), flag(CKA_ENCRYPT, true)];
    let key = app.generate_key(session, CKM_AES_KEY_GEN, &template).expect("C_GenerateKey");
    let encrypt = |mechanism: Mechanism, blocks: usize| {
        app.encrypt(session, mechanism, key, &vec![0; 16 * blocks]).map(|out| out.len())
    };
    assert_eq!(encrypt(Mechanism::counter(8, [0; 16]), 256), Ok(4096));
    assert_eq!(encrypt(Mechanism::counter(8, [0; 16]), 257), Err(Rv(CKR_DATA_LEN_RANGE)));
    for bits in [8, 32, 64, 128] {
        assert_eq!(encrypt(Mechanism::counter(bits, [0xFF; 16]), 1), Ok(16), "{bits}");
        let over = encrypt(Mechanism::counter(bits, [0xFF; 16]), 2);
        assert_eq!(over, Err(Rv(CKR_DATA_LEN_RANGE)), "{bits}");
    }
    for bits in [0, 129, u64::MAX] {
        let refused = encrypt(Mechanism::counter(bits, [0; 16]), 1);
        assert_eq!(refused, Err(Rv(CKR_MECHANISM_PARAM_INVALID)), "{bits}");
    }
    assert_eq!(encrypt(super::gcm(&[]), 1), Err(Rv(CKR_MECHANISM_PARAM_INVALID)));
    // What the mode can take, SP 800-38D §5.2.1.1, is more than any call brings.
    assert_eq!(encrypt(super::gcm(&[1; 12]), 100), Ok(1616));
}

#[test]
fn f06_pss_has_the_salt_that_was_asked_for_or_none() {
    let (_bench, app, session) = start();
    let pair = app.generate_rsa(session, 1024, "rsa").expect("C_GenerateKeyPair");
    let (public, private) = pair;
    let info = app.attribute(session, public, CKA_PUBLIC_KEY_INFO).expect("a public key");
    let outside = openssl::Key::from_info(&info).expect("OpenSSL takes it");
    let digest = openssl::digest("sha256", b"data");
    let pss = |hash, mgf, salt| Mechanism::pss(CKM_RSA_PKCS_PSS, hash, mgf, salt);
    for salt in [0u64, 1, 20, 32, 94] {
        let mechanism = pss(CKM_SHA256, CKG_MGF1_SHA256, salt);
        let signature = app.sign(session, mechanism, private, &digest).expect("C_Sign");
        for (length, right) in [(salt, true), (salt + 1, false)] {
            let length = format!("rsa_pss_saltlen:{length}");
            let options = ["rsa_padding_mode:pss", "digest:sha256", &length];
            assert_eq!(outside.verifies(&digest, &signature, &options), right, "{salt} {length}");
        }
    }
    for bad in [
        pss(CKM_SHA256, CKG_MGF1_SHA256, 95),
        pss(CKM_SHA256, CKG_MGF1_SHA256, 1 << 20),
        pss(CKM_SHA256, CKG_MGF1_SHA256, u64::MAX),
        pss(CKM_SHA256, 0, 32),
        pss(CKM_SHA256_HMAC, CKG_MGF1_SHA256, 32),
        Mechanism::pss(CKM_SHA384_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, 32),
    ] {
        let refused = app.sign(session, bad, private, &digest).expect_err("no such signature");
        let codes = [CKR_MECHANISM_PARAM_INVALID, CKR_KEY_SIZE_RANGE, CKR_DATA_LEN_RANGE];
        assert!(codes.contains(&refused.0), "{refused:?}");
    }
}

#[test]
fn f08_ecdsa_takes_the_leftmost_bits_of_whatever_it_gets() {
    let (_bench, app, session) = start();
    for (curve, width, lengths) in
        [(P256, 32, (1..=128).step_by(7)), (P521, 66, (1..=128).step_by(21))]
    {
        let (public, private) = app.generate_ec(session, curve, "ec").expect("C_GenerateKeyPair");
        let info = app.attribute(session, public, CKA_PUBLIC_KEY_INFO).expect("a public key");
        let outside = openssl::Key::from_info(&info).expect("OpenSSL takes it");
        for length in lengths.chain([20, 32, 64, 66]) {
            for zeros in [0, length / 2, length - 1] {
                let digest = [vec![0; zeros], vec![0xE7; length - zeros]].concat();
                let signature = app.sign(session, CKM_ECDSA, private, &digest);
                // A number of more than 64 bytes is no hash of the TPM.
                if curve == P521 && length > 64 && zeros < 2 {
                    assert_eq!(signature, Err(Rv(CKR_DATA_LEN_RANGE)));
                    continue;
                }
                let signature = signature.expect("C_Sign");
                assert_eq!(signature.len(), 2 * width);
                let der = openssl::ecdsa_der(&signature);
                assert!(outside.verifies(&digest, &der, &[]), "{length} bytes, {zeros} zeros");
            }
        }
        let nothing = app.sign(session, CKM_ECDSA, private, &[]);
        assert!(nothing.is_ok() || nothing == Err(Rv(CKR_DATA_LEN_RANGE)), "{nothing:?}");
    }
}

/// What the bus gives instead of random bytes is no answer, because the TPM's session proves each: zeros, the
/// answer before, fewer bytes. So no proxy can stand for a TPM whose generator is broken; that such a TPM's bytes
/// are mixed with the operating system's, the library's own tests show (`src/mechanism/random.rs`).
#[test]
fn f09_random_bytes_of_the_wire_are_none() {
    let bench = Setup::default().managed().tpm("bus_protection = \"discrete\"").start();
    bench.token();
    let (app, session) = bench.logged_in();
    let zeros = |response: &mut Vec<u8>| response[12..].fill(0);
    let fewer = |response: &mut Vec<u8>| {
        let length = response.len() as u32 - 8;
        response.drain(16..24);
        response[2..6].copy_from_slice(&length.to_be_bytes());
    };
    let before = std::sync::Mutex::new(Vec::new());
    let repeated = move |response: &mut Vec<u8>| {
        let mut before = before.lock().expect("no panic");
        match before.is_empty() {
            true => before.clone_from(response),
            false => response.clone_from(&before),
        }
    };
    type Change = Box<dyn Fn(&mut Vec<u8>) + Send + Sync>;
    let changes: [(&str, Change, bool); 3] = [
        ("zeros", Box::new(zeros), false),
        ("fewer", Box::new(fewer), false),
        ("repeated", Box::new(repeated), true),
    ];
    for (name, change, first_is_good) in changes {
        let rewrite = move |_: &[u8], response: &mut Vec<u8>| {
            if response.len() > 32 {
                change(response);
            }
        };
        bench.shim.inject(Fault::at(wire::GET_RANDOM, Action::Rewrite(Arc::new(rewrite))).always());
        if first_is_good {
            app.random(session, 32).expect("the answer that comes again");
        }
        let room = vec![session.into(), Memory::room(32).into(), 32.into()];
        let (rv, after) = app.raw("C_GenerateRandom", room.clone());
        assert!(bench.shim.heal() > 0, "{name}");
        assert_eq!(rv, CKR_DEVICE_ERROR, "{name}");
        assert_eq!(after[1], room[1], "{name}: nothing is written");
    }
    let fresh = app.random(session, 32).expect("C_GenerateRandom");
    assert_ne!(fresh, app.random(session, 32).expect("C_GenerateRandom"));
}
