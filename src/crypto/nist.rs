//! NIST's own vectors (Cryptographic Algorithm Validation Program) for what this floor computes. The
//! files beside hold what NIST published, less the sizes, curves and fields that are not used here.

use std::collections::HashMap;

use super::ec::{self, Curve};
use super::hash::{Hash, Hasher};
use super::rsa::PublicKey;
use super::vectors::hex;

/// One vector: its section's header, and its fields. Fields of a section's beginning hold for all.
struct Vector<'a> {
    section: &'a str,
    fields: HashMap<&'a str, &'a str>,
}

impl<'a> Vector<'a> {
    fn text(&self, name: &str) -> &'a str {
        self.fields.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.section))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let digits = self.text(name);
        let digits = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits.to_owned() };
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    /// P or F.
    fn is_right(&self) -> bool {
        self.text("Result").starts_with('P')
    }
}

/// The vectors of a file: each ends with the field `last`.
fn read<'a>(file: &'a str, last: &str) -> Vec<Vector<'a>> {
    let mut section = "";
    let mut fields = HashMap::new();
    let mut vectors = Vec::new();
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
        } else if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.trim(), value.trim());
            if name.trim() == last {
                vectors.push(Vector { section, fields: fields.clone() });
            }
        }
    }
    vectors
}

fn hash(name: &str) -> Hash {
    match name.replace('-', "").as_str() {
        "SHA1" => Hash::Sha1,
        "SHA224" => Hash::Sha224,
        "SHA256" => Hash::Sha256,
        "SHA384" => Hash::Sha384,
        "SHA512" => Hash::Sha512,
        "SHA512_224" => Hash::Sha512_224,
        "SHA512_256" => Hash::Sha512_256,
        "SHA3_224" => Hash::Sha3_224,
        "SHA3_256" => Hash::Sha3_256,
        "SHA3_384" => Hash::Sha3_384,
        "SHA3_512" => Hash::Sha3_512,
        other => panic!("{other}"),
    }
}

fn curve(section: &str) -> Curve {
    match section.split(',').next() {
        Some("P-256") => Curve::P256,
        Some("P-384") => Curve::P384,
        Some("P-521") => Curve::P521,
        other => panic!("{other:?}"),
    }
}

/// Every vector ends as NIST says, and there are as many as were put here.
fn all_agree(vectors: &[Vector<'_>], number: usize, taken: impl Fn(&Vector<'_>) -> bool) {
    let mut right = 0;
    for vector in vectors {
        assert_eq!(taken(vector), vector.is_right(), "{} {:?}", vector.section, vector.fields);
        right += usize::from(vector.is_right());
    }
    println!("{} vectors: {right} taken, {} refused", vectors.len(), vectors.len() - right);
    assert_eq!(vectors.len(), number);
}

#[test]
fn digests_are_those_of_nist() {
    let vectors = read(include_str!("nist/hashes.rsp"), "MD");
    for vector in &vectors {
        let hash = hash(vector.section);
        let bits: usize = vector.text("Len").parse().expect("a number");
        let message = &vector.bytes("Msg")[..bits / 8];
        assert_eq!(hex(&hash.digest(message)), vector.text("MD"), "{} {bits}", vector.section);
        // In two parts, cut anywhere.
        let mut hasher = Hasher::new(hash);
        let (first, second) = message.split_at(message.len() / 3);
        hasher.update(first);
        hasher.update(second);
        assert_eq!(hex(&hasher.finish()), vector.text("MD"));
    }
    assert_eq!(vectors.len(), 1171);
}

#[test]
fn ecdsa_signatures_are_judged_as_nist_does() {
    all_agree(&read(include_str!("nist/ecdsa.rsp"), "Result"), 225, |vector| {
        let curve = curve(vector.section);
        let digest = vector.section.split(',').nth(1).expect("a hash");
        let digest = hash(digest).digest(&vector.bytes("Msg"));
        let number = |name| {
            let digits = vector.bytes(name);
            let mut padded = vec![0; curve.len().saturating_sub(digits.len())];
            padded.extend(digits);
            padded
        };
        let signature = [number("R"), number("S")].concat();
        ec::Point::from_coordinates(curve, &number("Qx"), &number("Qy"))
            .is_ok_and(|point| ec::verify(&point, &digest, &signature).is_ok())
    });
}

#[test]
fn points_are_judged_as_nist_does() {
    all_agree(&read(include_str!("nist/points.rsp"), "Result"), 36, |vector| {
        let (x, y) = (vector.bytes("Qx"), vector.bytes("Qy"));
        ec::Point::from_coordinates(curve(vector.section), &x, &y).is_ok()
    });
}

#[test]
fn rsa_signatures_are_judged_as_nist_does() {
    all_agree(&read(include_str!("nist/pkcs1.rsp"), "Result"), 180, |vector| {
        let hash = hash(vector.text("SHAAlg"));
        let info = hash.digest_info(&hash.digest(&vector.bytes("Msg")));
        PublicKey::new(&vector.bytes("n"), &vector.bytes("e"))
            .is_ok_and(|key| key.verify_pkcs1(&info, &vector.bytes("S")).is_ok())
    });
}

#[test]
fn pss_signatures_are_judged_as_nist_does() {
    all_agree(&read(include_str!("nist/pss.rsp"), "Result"), 180, |vector| {
        let hash = hash(vector.text("SHAAlg"));
        let digest = hash.digest(&vector.bytes("Msg"));
        let salt = vector.bytes("SaltVal").len();
        PublicKey::new(&vector.bytes("n"), &vector.bytes("e"))
            .is_ok_and(|key| key.verify_pss(hash, hash, salt, &digest, &vector.bytes("S")).is_ok())
    });
}
