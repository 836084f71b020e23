//! What RSA and ECDSA share: OpenSSL has the other half of the key.

use cryptoki_sys::*;

use super::pair::{outsider, public_template};
use super::{Drive, Failure, Kind, Outcome, Pair, Random, by, right};
use crate::ck::Mechanism;
use crate::openssl::Key;

/// One signature or ciphertext: the mechanism with its parameter, what goes in, what OpenSSL is to see
/// of it, and OpenSSL's options.
pub(super) struct Shape {
    pub mechanism: Mechanism,
    pub data: Vec<u8>,
    pub seen: Vec<u8>,
    pub options: Vec<String>,
}

impl Shape {
    /// Data that OpenSSL sees as it is.
    pub(super) fn new(mechanism: impl Into<Mechanism>, data: Vec<u8>, options: &[&str]) -> Shape {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Shape { mechanism: mechanism.into(), seen: data.clone(), data, options }
    }

    pub(super) fn options(&self) -> Vec<&str> {
        self.options.iter().map(String::as_str).collect()
    }
}

/// What differs from one such mechanism to the next.
pub(super) trait Asymmetric {
    const KIND: Kind;

    /// Random data in the shape that it signs.
    fn to_sign(&self, kind: u64, random: &mut Random) -> Shape;

    /// Random data in the shape that it encrypts.
    fn to_encrypt(&self, _: u64, _: &mut Random) -> Shape {
        unreachable!("it encrypts nothing")
    }

    /// Whether it takes data to sign in parts.
    fn hashes(&self) -> bool;

    /// Whether OpenSSL takes a signature.
    fn is_good(&self, pair: &Pair, shape: &Shape, signature: &[u8]) -> Result<bool, Failure> {
        Ok(pair.key()?.verifies(&shape.seen, signature, &shape.options()))
    }

    /// A signature of OpenSSL's as the module takes it.
    fn theirs(&self, _: &Key, signature: Vec<u8>) -> Vec<u8> {
        signature
    }

    /// Signs, verifies, encrypts or decrypts.
    fn operate(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        match drive.driver.operation {
            CKF_SIGN | CKF_SIGN_RECOVER => self.sign(drive, random),
            CKF_VERIFY | CKF_VERIFY_RECOVER => self.verify(drive, random),
            CKF_ENCRYPT => self.encrypt(drive, random),
            _ => self.decrypt(drive, random),
        }
    }

    fn sign(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let (ck, pair) = (drive.ck, drive.pair());
        let shape = self.to_sign(drive.kind(), random);
        let mechanism = shape.mechanism.clone();
        let signature = if drive.driver.operation == CKF_SIGN_RECOVER {
            let made = ck.sign_recover(drive.session, mechanism, pair.private, &shape.data);
            by("C_SignRecover", made)?
        } else {
            let parts = (self.hashes() && random.once_in(4)).then_some(100);
            drive.sign(mechanism, pair.private, &shape.data, parts)?
        };
        let good = self.is_good(pair, &shape, &signature)?;
        right(good, || drive.named("OpenSSL refuses the signature"))
    }

    fn verify(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        with_outsider(drive, Self::KIND, random, |key, public, random| {
            let shape = self.to_sign(drive.kind(), random);
            let signature = drive.openssl(key.sign(&shape.seen, &shape.options()))?;
            let signature = self.theirs(key, signature);
            let mechanism = shape.mechanism.clone();
            if drive.driver.operation == CKF_VERIFY_RECOVER {
                let (ck, session) = (drive.ck, drive.session);
                let recovered = ck.verify_recover(session, mechanism, public, &signature);
                let recovered = by("C_VerifyRecover", recovered)?;
                return right(recovered == shape.data, || drive.named("something else recovered"));
            }
            // A bit of s, or of a number that is not much smaller than the modulus.
            let mut wrong = signature.clone();
            *wrong.last_mut().expect("a signature") ^= 1;
            let data = (&shape.data[..], self.hashes());
            drive.tells_apart((mechanism, public), data, &signature, &wrong, random)
        })
    }

    fn encrypt(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        with_outsider(drive, Self::KIND, random, |key, public, random| {
            let shape = self.to_encrypt(drive.kind(), random);
            let mechanism = shape.mechanism.clone();
            let sealed = drive.ck.encrypt(drive.session, mechanism, public, &shape.data);
            let sealed = by("C_Encrypt", sealed)?;
            let opened = key.decrypt(&sealed, &shape.options());
            right(opened.as_ref() == Some(&shape.data), || {
                drive.named("OpenSSL decrypts otherwise")
            })
        })
    }

    fn decrypt(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let pair = drive.pair();
        let shape = self.to_encrypt(drive.kind(), random);
        let sealed = drive.openssl(pair.key()?.encrypt(&shape.data, &shape.options()))?;
        let opened = drive.ck.decrypt(drive.session, shape.mechanism, pair.private, &sealed);
        right(by("C_Decrypt", opened)? == shape.data, || drive.named("another plaintext"))
    }

    /// See [`super::Driver::sample`].
    fn sampled(&self, drive: &Drive<'_>, pair: &Pair, random: &mut Random) -> (Mechanism, Vec<u8>) {
        if drive.driver.operation != CKF_DECRYPT {
            let shape = self.to_sign(drive.kind(), random);
            return (shape.mechanism, shape.data);
        }
        let shape = self.to_encrypt(drive.kind(), random);
        let key = pair.key().expect("OpenSSL takes the public key");
        let sealed = key.encrypt(&shape.data, &shape.options()).expect("OpenSSL encrypts");
        (shape.mechanism, sealed)
    }
}

/// Gives the module an outsider's public key for the length of `job`.
fn with_outsider(
    drive: &Drive<'_>,
    kind: Kind,
    random: &mut Random,
    job: impl FnOnce(&Key, u64, &mut Random) -> Outcome,
) -> Outcome {
    let key = outsider(kind, random);
    let template = public_template(kind, &key.info());
    drive.with_object(&template, |public| job(key, public, random))
}
