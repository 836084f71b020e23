//! ECDSA, without and with hashing. PKCS#11 3.2 §6.3.12, §6.3.13.

use std::sync::Arc;

use cryptoki_sys::{
    CKA_EC_PARAMS, CKA_EC_POINT, CKK_EC, CKM_ECDSA, CKM_ECDSA_SHA1, CKM_ECDSA_SHA3_224,
    CKM_ECDSA_SHA3_256, CKM_ECDSA_SHA3_384, CKM_ECDSA_SHA3_512, CKM_ECDSA_SHA224, CKM_ECDSA_SHA256,
    CKM_ECDSA_SHA384, CKM_ECDSA_SHA512,
};

use super::hashing::{self, Form};
use super::{Chip, Does, Keys, Mechanism, NOTHING, Params, Sign, Size, Verify};
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
        keys: Keys::Pair(CKK_EC),
        size: Size::Bits(256, 521),
        hash,
        chip: &[SignEcdsa::ID],
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
    /// For the check in software, if it is asked for or nothing else proves the answer.
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
        let signed = chip.tpm.sign(chip.call, &chip.key(&self.key), hash, &digest)?;
        let signature = ec::signature(*curve, &signed.r, &signed.s).map_err(|_| broken())?;
        if chip.verify_signatures || !signed.proven {
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

    fn finish(self: Box<Self>, signature: &[u8], _chip: &Chip<'_>) -> Result<()> {
        ec::verify(&self.point, &self.digest.bytes, signature).map_err(|fault| match fault {
            Fault::Length => Error::SignatureLenRange,
            _ => Error::SignatureInvalid,
        })
    }
}

#[cfg(test)]
mod tests {
    use ::ecdsa::hazmat::{SignPrimitive as _, bits2field};
    use elliptic_curve::sec1::ToEncodedPoint as _;

    use super::*;
    use crate::tpm::HashAlgorithm::{Sha256, Sha384, Sha512};

    fn facts(hashes: &[HashAlgorithm]) -> Facts {
        Facts { hashes: hashes.to_vec(), ..Facts::default() }
    }

    /// What a TPM does with a digest that is as long as `hash` says: the leftmost bits, a
    /// signature. The private key is 42.
    fn chip_signs(curve: Curve, hash: HashAlgorithm, digest: &[u8]) -> (Vec<u8>, Point) {
        assert_eq!(digest.len(), hash.bytes());
        macro_rules! sign {
            ($curve:ident) => {{
                let private = $curve::Scalar::from(42u64);
                let nonce = $curve::Scalar::from(0x1234_5678u64);
                // This helper wants at least half a field element; more zeros in front change
                // nothing.
                let mut long = vec![0; curve.len().saturating_sub(digest.len())];
                long.extend_from_slice(digest);
                let z = bits2field::<$curve::NistP>(&long).unwrap();
                let (signature, _) = private.try_sign_prehashed(nonce, &z).unwrap();
                let public = ($curve::ProjectivePoint::GENERATOR * private).to_affine();
                let public = public.to_encoded_point(false);
                (signature.to_vec(), ec::parse_point(curve, public.as_bytes()).unwrap())
            }};
        }
        mod p256 {
            pub(super) use ::p256::{NistP256 as NistP, ProjectivePoint, Scalar};
        }
        mod p384 {
            pub(super) use ::p384::{NistP384 as NistP, ProjectivePoint, Scalar};
        }
        mod p521 {
            pub(super) use ::p521::{NistP521 as NistP, ProjectivePoint, Scalar};
        }
        match curve {
            Curve::P256 => sign!(p256),
            Curve::P384 => sign!(p384),
            Curve::P521 => sign!(p521),
        }
    }

    #[test]
    fn a_digest_of_any_length_is_signed_so_that_it_verifies_or_refused() {
        let mut refused = 0;
        for curve in Curve::ALL {
            for length in (0..=70).chain([96, 100, 128]) {
                for zeros in [0, 1, 2, 40] {
                    let digest: Vec<u8> = (0..length)
                        .map(|at| if at < zeros { 0 } else { 0xc1 | at as u8 })
                        .collect();
                    let truncated = ec::truncate(curve, &digest);
                    let all = facts(&[HashAlgorithm::Sha1, Sha256, Sha384, Sha512]);
                    match for_the_chip(curve, &truncated, Some(&all)) {
                        Ok((hash, prepared)) => {
                            let (signature, public) = chip_signs(curve, hash, &prepared);
                            assert_eq!(
                                ec::verify(&public, &digest, &signature),
                                Ok(()),
                                "{curve:?}, {length} bytes, {zeros} zeros"
                            );
                        }
                        Err(error) => {
                            assert!(matches!(error, Error::DataLenRange(_)));
                            assert!(curve == Curve::P521 && length > 64 && zeros < 2);
                            refused += 1;
                        }
                    }
                }
            }
        }
        // 65 bytes without a zero in front; 66 and more, which the cut to 521 bits leaves at 66
        // bytes with at most one zero in front.
        assert!(refused > 10, "{refused}");
    }

    #[test]
    fn only_hashes_of_the_chip_are_used() {
        let digest = [0xff; 48];
        let with = |curve: Curve, length: usize, hashes: &[HashAlgorithm]| {
            for_the_chip(curve, &digest[..length], Some(&facts(hashes))).map(|(hash, _)| hash)
        };
        let refused = Err(Error::DataLenRange("the TPM has no hash as long as this digest"));
        assert_eq!(with(Curve::P256, 20, &[HashAlgorithm::Sha1, Sha256]), Ok(Sha256));
        assert_eq!(with(Curve::P256, 32, &[Sha256, Sha384, Sha512]), Ok(Sha256));
        assert_eq!(with(Curve::P384, 32, &[Sha256]), Ok(Sha256));
        assert_eq!(with(Curve::P384, 33, &[Sha256]), refused);
        // A longer hash would be cut on the right by the chip.
        assert_eq!(with(Curve::P384, 33, &[Sha256, Sha512]), refused);
        assert_eq!(with(Curve::P384, 48, &[Sha256, Sha384]), Ok(Sha384));
        assert_eq!(with(Curve::P521, 33, &[Sha256, Sha512]), Ok(Sha512));
        assert_eq!(with(Curve::P256, 1, &[]), refused);
        let unknown = for_the_chip(Curve::P384, &digest, None).map(|(hash, _)| hash);
        assert_eq!(unknown, Ok(Sha384));
    }

    #[test]
    fn only_the_leading_bytes_of_the_data_are_kept_and_in_order() {
        let mut leading = Leading::new(Curve::P256);
        for part in [&[1; 10][..], &[], &[2; 30], &[3; 1000]] {
            leading.update(part);
        }
        assert_eq!(leading.bytes, [&[1; 10][..], &[2; 22]].concat());
    }
}
