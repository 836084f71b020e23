//! Every mechanism with the TPM's private half, judged by OpenSSL.

use std::path::{Path, PathBuf};
use std::process::Command;

use cryptoki_sys::*;
use elliptic::Peer;
use swtpm_tests::ck::{Mechanism, P256, P384, P521, Rv, bytes, flag, number};
use swtpm_tests::door::Memory;
use swtpm_tests::openssl::ecdsa_der;
use swtpm_tests::shim::chip::Chip;
use swtpm_tests::{App, Bench, Setup};

/// What a hash is called: CKM_ of the digest, CKG_ of its MGF1 (0: none), OpenSSL's name, length.
#[derive(Clone, Copy)]
struct Hash {
    digest: u64,
    mgf: u64,
    name: &'static str,
    length: usize,
}

const fn hash(digest: u64, mgf: u64, name: &'static str, length: usize) -> Hash {
    Hash { digest, mgf, name, length }
}

const SHA1: Hash = hash(CKM_SHA_1, CKG_MGF1_SHA1, "sha1", 20);
const SHA224: Hash = hash(CKM_SHA224, CKG_MGF1_SHA224, "sha224", 28);
const SHA256: Hash = hash(CKM_SHA256, CKG_MGF1_SHA256, "sha256", 32);
const SHA384: Hash = hash(CKM_SHA384, CKG_MGF1_SHA384, "sha384", 48);
const SHA512: Hash = hash(CKM_SHA512, CKG_MGF1_SHA512, "sha512", 64);
const SHA3_224: Hash = hash(CKM_SHA3_224, CKG_MGF1_SHA3_224, "sha3-224", 28);
const SHA3_256: Hash = hash(CKM_SHA3_256, CKG_MGF1_SHA3_256, "sha3-256", 32);
const SHA3_384: Hash = hash(CKM_SHA3_384, CKG_MGF1_SHA3_384, "sha3-384", 48);
const SHA3_512: Hash = hash(CKM_SHA3_512, CKG_MGF1_SHA3_512, "sha3-512", 64);

/// A token with the user logged in, a pair on it, and a place for files.
struct Scene {
    bench: Bench,
    app: App,
    session: u64,
}

impl Scene {
    fn start() -> Scene {
        Scene::on(Bench::start())
    }

    fn on(bench: Bench) -> Scene {
        bench.token();
        let (app, session) = bench.logged_in();
        Scene { bench, app, session }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.bench.directory().join(name);
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// The public key as OpenSSL reads it.
    fn public_file(&self, public: u64) -> PathBuf {
        let info = self.app.attribute(self.session, public, CKA_PUBLIC_KEY_INFO);
        self.file(&format!("public{public}.der"), &info.expect("CKA_PUBLIC_KEY_INFO"))
    }

    /// `openssl pkeyutl` with a public key: its output, or `None` if it refused.
    fn pkeyutl(&self, public: &Path, verb: &[&str], options: &[&str]) -> Option<Vec<u8>> {
        let mut command = Command::new("openssl");
        command.args(["pkeyutl", "-pubin", "-keyform", "DER", "-inkey"]).arg(public).args(verb);
        for option in options {
            command.args(["-pkeyopt", option]);
        }
        let output = command.output().expect("openssl runs");
        output.status.success().then_some(output.stdout)
    }

    /// Whether OpenSSL takes `signature` for one over these bytes.
    fn openssl_verifies(
        &self,
        public: &Path,
        data: &[u8],
        signature: &[u8],
        options: &[&str],
    ) -> bool {
        let data = self.file("data", data);
        let signature = self.file("signature", signature);
        let (data, signature) = (data.to_str().unwrap(), signature.to_str().unwrap());
        self.pkeyutl(public, &["-verify", "-in", data, "-sigfile", signature], options).is_some()
    }
}

// ---- ECDSA --------------------------------------------------------------------------------------

/// Signs digests of many lengths, with and without zeros in front, and has OpenSSL verify each.
fn ecdsa_of_any_length(curve: &[u8], longest: usize) {
    let scene = Scene::start();
    let Scene { app, session, .. } = &scene;
    let (public, private) = app.generate_ec(*session, curve, "key").expect("C_GenerateKeyPair");
    let file = scene.public_file(public);
    let (mut signed, mut shown_to_openssl) = (0, 0);
    for length in [1, 16, 20, 28, 32, 33, 47, 48, 49, 63, 64, 65, 66, 100, 128] {
        for zeros in [0, 1, 2] {
            let digest: Vec<u8> =
                (0..length).map(|at| if at < zeros { 0 } else { 0x81 | at as u8 }).collect();
            let answer = app.sign(*session, CKM_ECDSA, private, &digest);
            if length - zeros.min(length) > longest && zeros < 2 {
                assert_eq!(answer, Err(Rv(CKR_DATA_LEN_RANGE)), "{length} bytes, {zeros} zeros");
                continue;
            }
            let signature = answer.expect("C_Sign");
            // OpenSSL's tool takes no more than 64 bytes. On the shorter curves the rest counts for
            // nothing; on the longest, zeros in front may go if nothing is cut off behind.
            let shown = match (longest, length) {
                (_, ..=64) => Some(&digest[..]),
                (64, 65) => Some(&digest[1..]),
                (64, _) => None,
                _ => Some(&digest[..64]),
            };
            if let Some(shown) = shown {
                let verified = scene.openssl_verifies(&file, shown, &ecdsa_der(&signature), &[]);
                assert!(verified, "{length} bytes, {zeros} zeros");
                shown_to_openssl += 1;
            }
            app.verify(*session, CKM_ECDSA, public, &digest, &signature).expect("C_Verify");
            signed += 1;
        }
    }
    println!("{signed} signatures, {shown_to_openssl} of them verified by OpenSSL");
    assert!(shown_to_openssl >= 30);
}

#[test]
fn ecdsa_p256_signs_digests_of_any_length() {
    ecdsa_of_any_length(P256, 1000);
}

#[test]
fn ecdsa_p384_signs_digests_of_any_length() {
    ecdsa_of_any_length(P384, 1000);
}

#[test]
fn ecdsa_p521_signs_digests_that_fit_a_hash_of_the_tpm() {
    ecdsa_of_any_length(P521, 64);
}

#[test]
fn ecdsa_with_every_hash_signs_in_parts() {
    let scene = Scene::start();
    let Scene { app, session, .. } = &scene;
    let message = b"a message that comes in several parts";
    for (curve, label) in [(P256, "p256"), (P384, "p384"), (P521, "p521")] {
        let (public, private) = app.generate_ec(*session, curve, label).expect(label);
        let file = scene.public_file(public);
        for (mechanism, hash) in [
            (CKM_ECDSA_SHA1, SHA1),
            (CKM_ECDSA_SHA224, SHA224),
            (CKM_ECDSA_SHA256, SHA256),
            (CKM_ECDSA_SHA384, SHA384),
            (CKM_ECDSA_SHA512, SHA512),
            (CKM_ECDSA_SHA3_224, SHA3_224),
            (CKM_ECDSA_SHA3_256, SHA3_256),
            (CKM_ECDSA_SHA3_384, SHA3_384),
            (CKM_ECDSA_SHA3_512, SHA3_512),
        ] {
            app.sign_init(*session, mechanism, private).expect("C_SignInit");
            for part in message.chunks(10) {
                app.sign_update(*session, part).expect("C_SignUpdate");
            }
            let signature = app.sign_final(*session).expect("C_SignFinal");
            let digest = app.digest(*session, hash.digest, message).expect("C_Digest");
            assert_eq!(digest.len(), hash.length);
            let verified = scene.openssl_verifies(&file, &digest, &ecdsa_der(&signature), &[]);
            assert!(verified, "{label} {}", hash.name);
            app.verify(*session, mechanism, public, message, &signature).expect("C_Verify");
            let wrong = app.verify(*session, mechanism, public, b"another", &signature);
            assert_eq!(wrong, Err(Rv(CKR_SIGNATURE_INVALID)));
        }
    }
}

#[test]
fn a_tpm_without_longer_hashes_signs_what_fits_and_refuses_the_rest() {
    let bench = Bench::start();
    // TPM_ALG_SHA384, TPM_ALG_SHA512
    bench.shim.become_chip(Chip { without_algorithms: vec![0x0C, 0x0D], ..Chip::default() });
    let scene = Scene::on(bench);
    let Scene { app, session, .. } = &scene;
    let (public, private) = app.generate_ec(*session, P384, "key").expect("C_GenerateKeyPair");
    let file = scene.public_file(public);
    for length in [20, 32] {
        let digest = vec![0xAB; length];
        let signature = app.sign(*session, CKM_ECDSA, private, &digest).expect("C_Sign");
        assert!(scene.openssl_verifies(&file, &digest, &ecdsa_der(&signature), &[]));
    }
    let refused = app.sign(*session, CKM_ECDSA, private, &[0xAB; 48]);
    assert_eq!(refused, Err(Rv(CKR_DATA_LEN_RANGE)));

    // For RSA, and on a curve that 32 bytes suffice for, no hash of the chip limits anything.
    let (public, private) = app.generate_ec(*session, P256, "short").expect("C_GenerateKeyPair");
    let file = scene.public_file(public);
    let signature = app.sign(*session, CKM_ECDSA_SHA512, private, b"data").expect("C_Sign");
    let digest = app.digest(*session, CKM_SHA512, b"data").expect("C_Digest");
    assert!(scene.openssl_verifies(&file, &digest, &ecdsa_der(&signature), &[]));
    let (public, private) = app.generate_rsa(*session, 2048, "rsa").expect("C_GenerateKeyPair");
    let file = scene.public_file(public);
    for (mechanism, hash) in [(CKM_SHA384_RSA_PKCS, SHA384), (CKM_SHA512_RSA_PKCS, SHA512)] {
        let signature = app.sign(*session, mechanism, private, b"data").expect("C_Sign");
        let digest = app.digest(*session, hash.digest, b"data").expect("C_Digest");
        let named = format!("digest:{}", hash.name);
        assert!(scene.openssl_verifies(&file, &digest, &signature, &[&named]));
    }
}

#[test]
fn signatures_are_checked_in_software_where_the_configuration_says_so() {
    let scene = Scene::on(Setup::default().config("[keys]\nverify_signatures = true\n").start());
    let Scene { app, session, .. } = &scene;
    let (public, private) = app.generate_ec(*session, P256, "key").expect("C_GenerateKeyPair");
    let signature = app.sign(*session, CKM_ECDSA, private, &[7; 32]).expect("C_Sign");
    app.verify(*session, CKM_ECDSA, public, &[7; 32], &signature).expect("C_Verify");
}

// ---- RSA signatures -----------------------------------------------------------------------------

#[test]
fn pkcs1_signs_with_every_hash_in_parts() {
    let scene = Scene::start();
    let Scene { app, session, .. } = &scene;
    let (public, private) = app.generate_rsa(*session, 2048, "key").expect("C_GenerateKeyPair");
    let file = scene.public_file(public);
    let message = b"a message that comes in several parts";
    for (mechanism, hash) in [
        (CKM_SHA1_RSA_PKCS, SHA1),
        (CKM_SHA224_RSA_PKCS, SHA224),
        (CKM_SHA256_RSA_PKCS, SHA256),
        (CKM_SHA384_RSA_PKCS, SHA384),
        (CKM_SHA512_RSA_PKCS, SHA512),
        (CKM_SHA3_224_RSA_PKCS, SHA3_224),
        (CKM_SHA3_256_RSA_PKCS, SHA3_256),
        (CKM_SHA3_384_RSA_PKCS, SHA3_384),
        (CKM_SHA3_512_RSA_PKCS, SHA3_512),
    ] {
        app.sign_init(*session, mechanism, private).expect("C_SignInit");
        for part in message.chunks(10) {
            app.sign_update(*session, part).expect("C_SignUpdate");
        }
        let signature = app.sign_final(*session).expect("C_SignFinal");
        let digest = app.digest(*session, hash.digest, message).expect("C_Digest");
        let options = ["rsa_padding_mode:pkcs1", &format!("digest:{}", hash.name)];
        let verified = scene.openssl_verifies(&file, &digest, &signature, &options);
        assert!(verified, "{}", hash.name);
        app.verify(*session, mechanism, public, message, &signature).expect("C_Verify");
    }
}

#[test]
fn pkcs1_signs_any_data_up_to_its_limit_and_gives_it_back() {
    let scene = Scene::start();
    let Scene { app, session, .. } = &scene;
    let (public, private) = app.generate_rsa(*session, 2048, "key").expect("C_GenerateKeyPair");
    let file = scene.public_file(public);
    for length in [0, 1, 35, 245] {
        let data = vec![0x5A; length];
        let signature = app.sign(*session, CKM_RSA_PKCS, private, &data).expect("C_Sign");
        app.verify(*session, CKM_RSA_PKCS, public, &data, &signature).expect("C_Verify");
        // OpenSSL 3.5 takes nothing recovered for an error.
        if length == 0 {
            continue;
        }
        let signed = scene.file("signed", &signature);
        let signed = signed.to_str().unwrap();
        let recovered = scene
            .pkeyutl(&file, &["-verifyrecover", "-in", signed], &["rsa_padding_mode:pkcs1"])
            .expect("OpenSSL recovers");
        assert_eq!(recovered, data);
    }
    let long = app.sign(*session, CKM_RSA_PKCS, private, &[0; 246]);
    assert_eq!(long, Err(Rv(CKR_DATA_LEN_RANGE)));
}

#[test]
fn pss_signs_with_any_hash_mgf_and_salt() {
    // A chip with salts of its own: TPM2_Sign with PSS is never asked.
    let bench = Bench::start();
    bench.shim.become_chip(Chip { without_pss: true, ..Chip::default() });
    let scene = Scene::on(bench);
    let Scene { app, session, .. } = &scene;
    let (public, private) = app.generate_rsa(*session, 2048, "key").expect("C_GenerateKeyPair");
    let file = scene.public_file(public);
    let verify = |hash: Hash, mgf: Hash, salt: usize, signature: &[u8]| {
        let digest = app.digest(*session, hash.digest, b"data").expect("C_Digest");
        scene.openssl_verifies(
            &file,
            &digest,
            signature,
            &[
                "rsa_padding_mode:pss",
                &format!("digest:{}", hash.name),
                &format!("rsa_mgf1_md:{}", mgf.name),
                &format!("rsa_pss_saltlen:{salt}"),
            ],
        )
    };
    for (hash, mgf) in
        [(SHA1, SHA1), (SHA256, SHA256), (SHA384, SHA1), (SHA512, SHA256), (SHA3_256, SHA3_256)]
    {
        let longest = 256 - 2 - hash.length;
        let digest = app.digest(*session, hash.digest, b"data").expect("C_Digest");
        for salt in [0, 20, 32, 48, 64, longest] {
            let pss = || Mechanism::pss(CKM_RSA_PKCS_PSS, hash.digest, mgf.mgf, salt as u64);
            let signature = app.sign(*session, pss(), private, &digest).expect("C_Sign");
            assert!(verify(hash, mgf, salt, &signature), "{} {} {salt}", hash.name, mgf.name);
            app.verify(*session, pss(), public, &digest, &signature).expect("C_Verify");
        }
        let salt = longest as u64 + 1;
        let too_long = Mechanism::pss(CKM_RSA_PKCS_PSS, hash.digest, mgf.mgf, salt);
        let refused = app.sign(*session, too_long, private, &digest);
        assert_eq!(refused, Err(Rv(CKR_MECHANISM_PARAM_INVALID)));
    }
    for (mechanism, hash) in [
        (CKM_SHA1_RSA_PKCS_PSS, SHA1),
        (CKM_SHA224_RSA_PKCS_PSS, SHA224),
        (CKM_SHA256_RSA_PKCS_PSS, SHA256),
        (CKM_SHA384_RSA_PKCS_PSS, SHA384),
        (CKM_SHA512_RSA_PKCS_PSS, SHA512),
        (CKM_SHA3_224_RSA_PKCS_PSS, SHA3_224),
        (CKM_SHA3_256_RSA_PKCS_PSS, SHA3_256),
        (CKM_SHA3_384_RSA_PKCS_PSS, SHA3_384),
        (CKM_SHA3_512_RSA_PKCS_PSS, SHA3_512),
    ] {
        let pss = Mechanism::pss(mechanism, hash.digest, hash.mgf, hash.length as u64);
        let signature = app.sign(*session, pss, private, b"data").expect("C_Sign");
        assert!(verify(hash, hash, hash.length, &signature), "{}", hash.name);
    }
    let mismatch = Mechanism::pss(CKM_SHA256_RSA_PKCS_PSS, CKM_SHA384, CKG_MGF1_SHA384, 48);
    let refused = app.sign(*session, mismatch, private, b"data");
    assert_eq!(refused, Err(Rv(CKR_MECHANISM_PARAM_INVALID)));
}

#[test]
fn raw_rsa_takes_numbers_below_the_modulus_and_no_others() {
    let scene = Scene::start();
    let Scene { app, session, bench } = &scene;
    let (public, private) = app.generate_rsa(*session, 2048, "key").expect("C_GenerateKeyPair");
    let file = scene.public_file(public);
    let modulus = app.attribute(*session, public, CKA_MODULUS).expect("CKA_MODULUS");
    let below = {
        let mut below = modulus.clone();
        below[255] -= 1;
        below
    };
    for data in [vec![1], vec![0x42; 200], below] {
        let signature = app.sign(*session, CKM_RSA_X_509, private, &data).expect("C_Sign");
        app.verify(*session, CKM_RSA_X_509, public, &data, &signature).expect("C_Verify");
        let padded = [vec![0; 256 - data.len()], data.clone()].concat();
        let raw = ["rsa_padding_mode:none"];
        let signed = scene.file("signed", &signature);
        let signed = signed.to_str().unwrap();
        let recovered = scene.pkeyutl(&file, &["-verifyrecover", "-in", signed], &raw);
        assert_eq!(recovered.as_ref(), Some(&padded));
        let encrypted = app.encrypt(*session, CKM_RSA_X_509, public, &data).expect("C_Encrypt");
        let decrypted = app.decrypt(*session, CKM_RSA_X_509, private, &encrypted);
        assert_eq!(decrypted, Ok(padded));
    }
    let (record, ()) = bench.shim.watch(|| {
        for above in [modulus.clone(), vec![0xFF; 256]] {
            let refused = app.sign(*session, CKM_RSA_X_509, private, &above);
            assert_eq!(refused, Err(Rv(CKR_DATA_INVALID)));
            let refused = app.encrypt(*session, CKM_RSA_X_509, public, &above);
            assert_eq!(refused, Err(Rv(CKR_DATA_INVALID)));
            let refused = app.decrypt(*session, CKM_RSA_X_509, private, &above);
            assert_eq!(refused, Err(Rv(CKR_ENCRYPTED_DATA_INVALID)));
        }
        let long = app.sign(*session, CKM_RSA_X_509, private, &[1; 257]);
        assert_eq!(long, Err(Rv(CKR_DATA_LEN_RANGE)));
        let short = app.decrypt(*session, CKM_RSA_X_509, private, &[1; 255]);
        assert_eq!(short, Err(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE)));
    });
    // TPM2_RSA_Decrypt
    assert_eq!(record.count(0x159), 0, "{}", record.lines());
}

#[test]
fn signatures_with_recovery_give_back_what_was_signed() {
    let scene = Scene::start();
    let Scene { app, session, .. } = &scene;
    let (public, private) = app
        .generate_pair(
            *session,
            CKM_RSA_PKCS_KEY_PAIR_GEN,
            &[number(CKA_MODULUS_BITS, 2048), flag(CKA_VERIFY_RECOVER, true)],
            &[flag(CKA_SIGN_RECOVER, true)],
        )
        .expect("C_GenerateKeyPair");
    let padded = [vec![0; 251], b"hello".to_vec()].concat();
    for (mechanism, recovered) in [(CKM_RSA_PKCS, &b"hello"[..]), (CKM_RSA_X_509, &padded)] {
        let signature = app.sign_recover(*session, mechanism, private, b"hello").expect("signs");
        let answer = app.verify_recover(*session, mechanism, public, &signature);
        assert_eq!(answer.as_deref(), Ok(recovered));
        let short = app.verify_recover(*session, mechanism, public, &signature[1..]);
        assert_eq!(short, Err(Rv(CKR_SIGNATURE_LEN_RANGE)));
    }
    let wrong = app.verify_recover(*session, CKM_RSA_PKCS, public, &[0x42; 256]);
    assert_eq!(wrong, Err(Rv(CKR_SIGNATURE_INVALID)));
}

// ---- RSA encryption -----------------------------------------------------------------------------

#[test]
fn oaep_opens_what_openssl_encrypts_with_any_hash_mgf_and_label() {
    let scene = Scene::start();
    let Scene { app, session, .. } = &scene;
    let (public, private) = app.generate_rsa(*session, 2048, "key").expect("C_GenerateKeyPair");
    let file = scene.public_file(public);
    let mut opened = 0;
    for hash in [SHA1, SHA256, SHA512, SHA3_384] {
        for mgf in [SHA1, SHA256, SHA3_256] {
            for label in [&b""[..], b"a label"] {
                let longest = 256 - 2 - 2 * hash.length;
                for length in [0, 1, longest] {
                    let data = vec![0xD0; length];
                    let plain = scene.file("plain", &data);
                    let plain = plain.to_str().unwrap();
                    let named = format!("rsa_oaep_md:{}", hash.name);
                    let masked = format!("rsa_mgf1_md:{}", mgf.name);
                    let labelled = format!("rsa_oaep_label:{}", hex::encode(label));
                    let mut options = vec!["rsa_padding_mode:oaep", &named, &masked];
                    if !label.is_empty() {
                        options.push(&labelled);
                    }
                    let encrypted = scene
                        .pkeyutl(&file, &["-encrypt", "-in", plain], &options)
                        .expect("OpenSSL encrypts");
                    let oaep = || Mechanism::oaep(hash.digest, mgf.mgf, label);
                    let decrypted = app.decrypt(*session, oaep(), private, &encrypted);
                    assert_eq!(decrypted.as_ref(), Ok(&data), "{} {}", hash.name, mgf.name);
                    let own = app.encrypt(*session, oaep(), public, &data).expect("C_Encrypt");
                    assert_eq!(app.decrypt(*session, oaep(), private, &own), Ok(data));
                    opened += 1;
                }
                let oaep = Mechanism::oaep(hash.digest, mgf.mgf, label);
                let long = app.encrypt(*session, oaep, public, &vec![0; longest + 1]);
                assert_eq!(long, Err(Rv(CKR_DATA_LEN_RANGE)));
            }
        }
    }
    println!("{opened} ciphertexts of OpenSSL opened");
    assert_eq!(opened, 72);
}

#[test]
fn whatever_is_wrong_inside_oaep_has_one_answer() {
    let scene = Scene::start();
    let Scene { app, session, .. } = &scene;
    let (public, private) = app.generate_rsa(*session, 2048, "key").expect("C_GenerateKeyPair");
    let oaep = |label: &[u8]| Mechanism::oaep(CKM_SHA256, CKG_MGF1_SHA256, label);
    let good = app.encrypt(*session, oaep(b"right"), public, b"secret").expect("C_Encrypt");
    let raw =
        |encoded: &[u8]| app.encrypt(*session, CKM_RSA_X_509, public, encoded).expect("C_Encrypt");
    let encoded = app.decrypt(*session, CKM_RSA_X_509, private, &good).expect("C_Decrypt");
    let changed = |at: usize| {
        let mut changed = encoded.clone();
        changed[at] ^= 1;
        raw(&changed)
    };
    // The first byte, the seed, the label's hash, the padding: each masked but the first.
    for (what, ciphertext) in [
        ("leading 01", changed(0)),
        ("another seed", changed(1)),
        ("wrong label hash", changed(33)),
        ("no separator", raw(&[&[0][..], &encoded[1..33], &[0; 223]].concat())),
        ("all zero", raw(&[0; 256])),
    ] {
        let answer = app.decrypt(*session, oaep(b"right"), private, &ciphertext);
        assert_eq!(answer, Err(Rv(CKR_ENCRYPTED_DATA_INVALID)), "{what}");
    }
    let answer = app.decrypt(*session, oaep(b"wrong"), private, &good);
    assert_eq!(answer, Err(Rv(CKR_ENCRYPTED_DATA_INVALID)), "wrong label");
    assert_eq!(app.decrypt(*session, oaep(b"right"), private, &good), Ok(b"secret".to_vec()));
}

#[test]
fn pkcs1_opens_what_openssl_encrypts_and_never_says_that_a_padding_is_wrong() {
    let scene = Scene::start();
    let Scene { app, session, .. } = &scene;
    let (public, private) = app.generate_rsa(*session, 2048, "key").expect("C_GenerateKeyPair");
    let file = scene.public_file(public);
    for length in [0, 1, 48, 245] {
        let data = vec![0xD0; length];
        let plain = scene.file("plain", &data);
        let plain = plain.to_str().unwrap();
        let encrypted = scene
            .pkeyutl(&file, &["-encrypt", "-in", plain], &["rsa_padding_mode:pkcs1"])
            .expect("OpenSSL encrypts");
        assert_eq!(app.decrypt(*session, CKM_RSA_PKCS, private, &encrypted), Ok(data));
    }
    let good = app.encrypt(*session, CKM_RSA_PKCS, public, b"secret").expect("C_Encrypt");
    let mut lengths = std::collections::BTreeSet::new();
    for at in 0..60 {
        let mut bad = good.clone();
        bad[100 + at] ^= 0x55;
        let first = app.decrypt(*session, CKM_RSA_PKCS, private, &bad).expect("C_Decrypt");
        assert_ne!(first, b"secret");
        let again = app.decrypt(*session, CKM_RSA_PKCS, private, &bad);
        assert_eq!(again.as_ref(), Ok(&first), "the same each time");
        lengths.insert(first.len());
    }
    assert!(lengths.len() > 20, "lengths vary: {lengths:?}");
    assert!(lengths.last() <= Some(&245));
}

// ---- ECDH ---------------------------------------------------------------------------------------

/// The other side, in software.
mod elliptic {
    use swtpm_tests::ck::{P256, P384};

    /// Who the token agrees with.
    pub enum Peer {
        P256(p256::ecdh::EphemeralSecret),
        P384(p384::ecdh::EphemeralSecret),
        P521(p521::ecdh::EphemeralSecret),
    }

    impl Peer {
        pub fn new(curve: &[u8]) -> Peer {
            let random = &mut rand_core::OsRng;
            if curve == P256 {
                Peer::P256(p256::ecdh::EphemeralSecret::random(random))
            } else if curve == P384 {
                Peer::P384(p384::ecdh::EphemeralSecret::random(random))
            } else {
                Peer::P521(p521::ecdh::EphemeralSecret::random(random))
            }
        }

        /// Its public point.
        pub fn public(&self, compressed: bool) -> Vec<u8> {
            use p256::elliptic_curve::sec1::ToEncodedPoint;
            match self {
                Peer::P256(key) => key.public_key().to_encoded_point(compressed).to_bytes(),
                Peer::P384(key) => key.public_key().to_encoded_point(compressed).to_bytes(),
                Peer::P521(key) => key.public_key().to_encoded_point(compressed).to_bytes(),
            }
            .to_vec()
        }

        /// The shared x coordinate.
        pub fn agree(&self, point: &[u8]) -> Vec<u8> {
            macro_rules! agree {
                ($key:expr, $curve:ident) => {
                    $key.diffie_hellman(&$curve::PublicKey::from_sec1_bytes(point).unwrap())
                        .raw_secret_bytes()
                        .to_vec()
                };
            }
            match self {
                Peer::P256(key) => agree!(key, p256),
                Peer::P384(key) => agree!(key, p384),
                Peer::P521(key) => agree!(key, p521),
            }
        }
    }
}

/// A readable session secret of so many bytes.
fn secret(length: Option<u64>) -> Vec<swtpm_tests::Attribute> {
    let mut template = vec![
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
        flag(CKA_TOKEN, false),
        flag(CKA_SENSITIVE, false),
        flag(CKA_EXTRACTABLE, true),
    ];
    template.extend(length.map(|length| number(CKA_VALUE_LEN, length)));
    template
}

fn cofactor(mechanism: Mechanism) -> Mechanism {
    Mechanism { kind: CKM_ECDH1_COFACTOR_DERIVE, ..mechanism }
}

#[test]
fn ecdh_agrees_with_a_peer_in_software() {
    let scene = Scene::start();
    let Scene { app, session, .. } = &scene;
    for (curve, field) in [(P256, 32), (P384, 48), (P521, 66)] {
        let (public, private) = app.generate_ec(*session, curve, "key").expect("C_GenerateKeyPair");
        let point = app.attribute(*session, public, CKA_EC_POINT).expect("CKA_EC_POINT");
        let point = &point[point.len() - 1 - 2 * field..];
        let value = |mechanism: Mechanism, length: Option<u64>| {
            let key = app.derive(*session, mechanism, private, &secret(length))?;
            let value = app.attribute(*session, key, CKA_VALUE);
            app.destroy_object(*session, key).expect("C_DestroyObject");
            value
        };
        let peer = Peer::new(curve);
        let z = peer.agree(point);
        let uncompressed = peer.public(false);
        let wrapped = match uncompressed.len() {
            length @ ..128 => [&[4, length as u8][..], &uncompressed].concat(),
            length => [&[4, 0x81, length as u8][..], &uncompressed].concat(),
        };
        for form in [&uncompressed, &wrapped, &peer.public(true)] {
            let null = Mechanism::ecdh(CKD_NULL, &[], form);
            assert_eq!(value(null.clone(), None), Ok(z.clone()));
            assert_eq!(value(cofactor(null.clone()), None), Ok(z.clone()));
            assert_eq!(value(null, Some(16)), Ok(z[field - 16..].to_vec()));
        }
        let null = Mechanism::ecdh(CKD_NULL, &[], &uncompressed);
        assert!(value(null, Some(field as u64 + 1)).is_err());

        // One block of X9.63 and of SP 800-56A each; the rest is known answers elsewhere.
        let kdf = |kdf| Mechanism::ecdh(kdf, b"shared info", &uncompressed);
        let digest = |parts: &[&[u8]]| app.digest(*session, CKM_SHA256, &parts.concat()).unwrap();
        let one = &[0, 0, 0, 1][..];
        assert_eq!(value(kdf(CKD_SHA256_KDF), Some(32)), Ok(digest(&[&z, one, b"shared info"])));
        assert_eq!(
            value(kdf(CKD_SHA256_KDF_SP800), Some(32)),
            Ok(digest(&[one, &z, b"shared info"]))
        );
        assert_eq!(value(kdf(CKD_SHA3_512_KDF), Some(200)).map(|value| value.len()), Ok(200));
        assert_eq!(value(kdf(CKD_SHA256_KDF), None), Err(Rv(CKR_TEMPLATE_INCOMPLETE)));
        assert_eq!(value(kdf(99), Some(32)), Err(Rv(CKR_MECHANISM_PARAM_INVALID)));
    }
}

#[test]
fn a_point_that_is_none_is_refused_and_the_tpm_never_sees_it() {
    let scene = Scene::start();
    let Scene { app, session, bench } = &scene;
    let (_, private) = app.generate_ec(*session, P256, "key").expect("C_GenerateKeyPair");
    let good = Peer::new(P256).public(false);
    let mut off = good.clone();
    off[64] ^= 1;
    let hybrid = |tag| [&[tag][..], &good[1..]].concat();
    let points = [
        ("off the curve", off.clone()),
        ("off the curve, wrapped", [&[4, 65][..], &off].concat()),
        ("x not below p", [&[4][..], &[0xFF; 32], &good[33..]].concat()),
        ("infinity", vec![0]),
        ("all zero", vec![0; 65]),
        ("zero coordinates", [&[4][..], &[0; 64]].concat()),
        ("66 bytes", [&good[..], &[0]].concat()),
        ("another curve's", Peer::new(P384).public(false)),
        ("hybrid even", hybrid(6)),
        ("hybrid odd", hybrid(7)),
        ("1 MiB", vec![4; 1 << 20]),
    ];
    let (record, ()) = bench.shim.watch(|| {
        for (what, point) in &points {
            for mechanism in [
                Mechanism::ecdh(CKD_NULL, &[], point),
                cofactor(Mechanism::ecdh(CKD_SHA256_KDF, &[], point)),
            ] {
                let refused = app.derive(*session, mechanism, private, &secret(Some(32)));
                assert_eq!(refused, Err(Rv(CKR_MECHANISM_PARAM_INVALID)), "{what}");
            }
        }
        let mut empty = Memory::default();
        for word in [CKD_NULL, 0, 0, 0, 0] {
            empty.push_word(word);
        }
        let empty = Mechanism::with(CKM_ECDH1_DERIVE, empty);
        let refused = app.derive(*session, empty, private, &secret(Some(32)));
        assert_eq!(refused, Err(Rv(CKR_MECHANISM_PARAM_INVALID)), "empty");
    });
    // TPM2_ECDH_ZGen
    assert_eq!(record.count(0x154), 0, "{}", record.lines());
    let works = Mechanism::ecdh(CKD_NULL, &[], &good);
    app.derive(*session, works, private, &secret(Some(32))).expect("C_DeriveKey");
}

// ---- keys ---------------------------------------------------------------------------------------

#[test]
fn a_size_or_a_curve_that_the_tpm_lacks_is_refused_and_not_listed() {
    let bench = Bench::start();
    // TPM_ECC_NIST_P384, TPM_ECC_NIST_P521
    let chip = Chip { without_curves: vec![4, 5], largest_rsa: 2048, ..Chip::default() };
    bench.shim.become_chip(chip);
    let scene = Scene::on(bench);
    let Scene { app, session, .. } = &scene;
    let slot = app.slot_of(swtpm_tests::bench::LABEL).expect("the token");
    let sizes = |mechanism| {
        let info = app.mechanism_info(slot, mechanism).expect("C_GetMechanismInfo");
        (info.ulMinKeySize, info.ulMaxKeySize)
    };
    assert_eq!(sizes(CKM_EC_KEY_PAIR_GEN), (256, 256));
    assert_eq!(sizes(CKM_ECDSA_SHA384), (256, 256));
    assert_eq!(sizes(CKM_RSA_PKCS_KEY_PAIR_GEN).1, 2048);
    assert_eq!(sizes(CKM_RSA_PKCS_PSS).1, 2048);
    app.generate_ec(*session, P256, "p256").expect("C_GenerateKeyPair");
    let refused = app.generate_ec(*session, P384, "p384");
    assert_eq!(refused.map(drop), Err(Rv(CKR_CURVE_NOT_SUPPORTED)));
    let refused = app.generate_rsa(*session, 3072, "rsa");
    assert_eq!(refused.map(drop), Err(Rv(CKR_KEY_SIZE_RANGE)));
    let unknown = bytes(CKA_EC_PARAMS, [0x06, 5, 0x2B, 0x81, 4, 0, 10]);
    let refused = app.generate_pair(*session, CKM_EC_KEY_PAIR_GEN, &[unknown], &[]);
    assert_eq!(refused.map(drop), Err(Rv(CKR_CURVE_NOT_SUPPORTED)));
}
