//! ECDSA, without and with hashing. PKCS#11 3.2 §6.3.12, §6.3.13.

use std::sync::Arc;

use cryptoki_sys::{
    CKA_EC_PARAMS, CKA_EC_POINT, CKK_EC, CKM_ECDSA, CKM_ECDSA_SHA1, CKM_ECDSA_SHA3_224,
    CKM_ECDSA_SHA3_256, CKM_ECDSA_SHA3_384, CKM_ECDSA_SHA3_512, CKM_ECDSA_SHA224, CKM_ECDSA_SHA256,
    CKM_ECDSA_SHA384, CKM_ECDSA_SHA512,
};

use super::hashing::{self, Form};
use super::{Chip, Does, Mechanism, NOTHING, Params, Sign, Size, Verify};
use crate::crypto::Fault;
use crate::crypto::ec::{self, Curve, Point};
use crate::crypto::hash::Hash;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::{Command as _, SignEcdsa};
use crate::tpm::{Facts, HashAlgorithm, KeyBlob};

pub(super) static ROWS: &[Mechanism] = &[
    row(CKM_ECDSA, "CKM_ECDSA", None),
    row(CKM_ECDSA_SHA1, "CKM_ECDSA_SHA1", Some(Hash::Sha1)),
    row(CKM_ECDSA_SHA224, "CKM_ECDSA_SHA224", Some(Hash::Sha224)),
    row(CKM_ECDSA_SHA256, "CKM_ECDSA_SHA256", Some(Hash::Sha256)),
    row(CKM_ECDSA_SHA384, "CKM_ECDSA_SHA384", Some(Hash::Sha384)),
    row(CKM_ECDSA_SHA512, "CKM_ECDSA_SHA512", Some(Hash::Sha512)),
    row(CKM_ECDSA_SHA3_224, "CKM_ECDSA_SHA3_224", Some(Hash::Sha3_224)),
    row(CKM_ECDSA_SHA3_256, "CKM_ECDSA_SHA3_256", Some(Hash::Sha3_256)),
    row(CKM_ECDSA_SHA3_384, "CKM_ECDSA_SHA3_384", Some(Hash::Sha3_384)),
    row(CKM_ECDSA_SHA3_512, "CKM_ECDSA_SHA3_512", Some(Hash::Sha3_512)),
];

/// What all ECDSA mechanisms share; they differ in the hash alone.
const fn row(id: u64, name: &'static str, hash: Option<Hash>) -> Mechanism {
    Mechanism {
        id,
        name,
        key_type: Some(CKK_EC),
        size: Size::Bits(256, 521),
        hash,
        chip: &[SignEcdsa::CODE],
        does: Does { sign: Some(sign), verify: Some(verify), ..NOTHING },
    }
}

/// The key's curve.
pub(super) fn curve(key: &Object) -> Result<Curve> {
    let params = key.attributes.get(CKA_EC_PARAMS).unwrap_or_default();
    ec::parse_params(params).map_err(|fault| match fault {
        Fault::UnknownCurve => Error::KeySizeRange("the key is on a curve that is not ours".into()),
        _ => Error::KeyTypeInconsistent,
    })
}

/// The key's public point.
fn point(key: &Object) -> Result<Point> {
    let point = key.attributes.get(CKA_EC_POINT).unwrap_or_default();
    ec::parse_point(curve(key)?, point).map_err(|_| Error::KeyTypeInconsistent)
}

fn sign(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Sign>> {
    params.none()?;
    let signing = Signing {
        key: super::private_half(key)?,
        object: key.clone(),
        digest: Leading::new(curve(key)?),
    };
    Ok(hashing::sign(row, Form::Digest, Box::new(signing)))
}

fn verify(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Verify>> {
    params.none()?;
    let verifying = Verifying { digest: Leading::new(curve(key)?), point: point(key)? };
    Ok(hashing::verify(row, Form::Digest, Box::new(verifying)))
}

/// The bytes of a digest that count: "input the entire raw digest; internally, this will be
/// truncated" (§6.3.12).
struct Leading {
    curve: Curve,
    bytes: Vec<u8>,
}

impl Leading {
    fn new(curve: Curve) -> Self {
        Self { curve, bytes: Vec::with_capacity(curve.len()) }
    }

    fn update(&mut self, data: &[u8]) {
        let wanted = self.curve.len() - self.bytes.len();
        self.bytes.extend(data.iter().take(wanted));
    }
}

struct Signing {
    key: Arc<KeyBlob>,
    /// For the check in software, if it is asked for.
    object: Object,
    digest: Leading,
}

impl Sign for Signing {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.digest.update(data);
        Ok(())
    }

    fn length(&self) -> usize {
        2 * self.digest.curve.len()
    }

    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Vec<u8>> {
        let Leading { curve, bytes } = &self.digest;
        let (hash, digest) = for_the_chip(*curve, &ec::truncate(*curve, bytes), chip.facts)?;
        let (r, s) = chip.tpm.sign(chip.call, &chip.key(&self.key), hash, &digest)?;
        let signature = ec::signature(*curve, &r, &s).map_err(|_| broken())?;
        if chip.verify_signatures {
            ec::verify(&point(&self.object)?, bytes, &signature).map_err(|_| broken())?;
        }
        Ok(signature)
    }
}

fn broken() -> Error {
    Error::Device("the TPM answered with a signature that is not valid; it was discarded".into())
}

/// The digest as TPM2_Sign takes it: padded on the left to the length of a hash that the chip has
/// and that is not longer than the order, so that the chip takes it as the same number.
fn for_the_chip(
    curve: Curve,
    truncated: &[u8],
    facts: Option<&Facts>,
) -> Result<(HashAlgorithm, Vec<u8>)> {
    // As a number, leading zeros do not count: they may be what makes it fit.
    let zeros = truncated.iter().take_while(|byte| **byte == 0).count();
    let digits = truncated.get(zeros..).unwrap_or_default();
    // SHA-256 is on every TPM, so the shorter SHA-1, which some refuse, is never needed.
    [(HashAlgorithm::Sha256, 32), (HashAlgorithm::Sha384, 48), (HashAlgorithm::Sha512, 64)]
        .into_iter()
        .filter(|(hash, _)| facts.is_none_or(|facts| facts.hashes.contains(hash)))
        .find(|(_, length)| (digits.len()..=curve.len()).contains(length))
        .map(|(hash, length)| {
            let mut digest = vec![0; length - digits.len()];
            digest.extend_from_slice(digits);
            (hash, digest)
        })
        .ok_or(Error::DataLenRange("the TPM has no hash as long as this digest"))
}

struct Verifying {
    digest: Leading,
    point: Point,
}

impl Verify for Verifying {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.digest.update(data);
        Ok(())
    }

    fn finish(self: Box<Self>, signature: &[u8]) -> Result<()> {
        ec::verify(&self.point, &self.digest.bytes, signature).map_err(|fault| match fault {
            Fault::Length => Error::SignatureLenRange,
            _ => Error::SignatureInvalid,
        })
    }
}
