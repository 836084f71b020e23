//! Public keys: attributes <-> the key itself, checked; what a public key says about its object
//! (CKA_PUBLIC_KEY_INFO, CKA_MODULUS_BITS, the default of CKA_ID); the one form of each value that the
//! token keeps.

use std::borrow::Cow;

use cryptoki_sys::*;

use super::value::Attributes;
use crate::crypto::ec::{self, Curve, Point};
use crate::crypto::hash::Hash;
use crate::crypto::{self, der, rsa};
use crate::error::{Error, Result};

/// A public key, checked: what verification and encryption use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// CKK_RSA
    Rsa(rsa::PublicKey),
    /// CKK_EC
    Ec(Point),
}

impl PublicKey {
    /// The public key in the attributes of a public or private key object.
    ///
    /// # Errors
    /// AttributeValueInvalid, CurveNotSupported, DomainParamsInvalid; KeyTypeInconsistent if it is
    /// neither an RSA nor an EC key.
    pub fn of(attributes: &Attributes) -> Result<Self> {
        let bytes = |id| attributes.get(id).unwrap_or_default();
        match attributes.ulong(CKA_KEY_TYPE) {
            Some(CKK_RSA) => rsa::PublicKey::new(bytes(CKA_MODULUS), bytes(CKA_PUBLIC_EXPONENT))
                .map(PublicKey::Rsa)
                .map_err(|_| Error::AttributeValueInvalid(CKA_MODULUS, "not an RSA public key")),
            Some(CKK_EC) => {
                let curve = curve(bytes(CKA_EC_PARAMS))?;
                ec::parse_point(curve, bytes(CKA_EC_POINT))
                    .map(PublicKey::Ec)
                    .map_err(|_| Error::AttributeValueInvalid(CKA_EC_POINT, "not on its curve"))
            }
            _ => Err(Error::KeyTypeInconsistent),
        }
    }
}

/// The least bits of an RSA modulus.
const LEAST_BITS: usize = 1024;

/// Checks the public parts of a public or private key object and sets what follows from them, CKA_ID
/// included where nobody has chosen one.
///
/// # Errors
/// As [`PublicKey::of`]; AttributeValueInvalid for a CKA_PUBLIC_KEY_INFO of another key.
pub(super) fn complete(attributes: &mut Attributes) -> Result<()> {
    let public = attributes.ulong(CKA_CLASS) == Some(CKO_PUBLIC_KEY);
    let (info, id) = match PublicKey::of(attributes)? {
        // No operation takes shorter ones; and what they encrypted anybody decrypts.
        PublicKey::Rsa(key) if key.bits() < LEAST_BITS => {
            return Err(Error::AttributeValueInvalid(CKA_MODULUS, "fewer than 1024 bits"));
        }
        PublicKey::Rsa(key) => {
            let modulus = attributes.get(CKA_MODULUS).unwrap_or_default();
            let exponent = attributes.get(CKA_PUBLIC_EXPONENT).unwrap_or_default();
            let answers = (der::rsa_public_key_info(modulus, exponent), rsa_id(modulus));
            if public {
                attributes.set_ulong(CKA_MODULUS_BITS, key.bits() as u64);
            }
            answers
        }
        PublicKey::Ec(point) => {
            attributes.set(CKA_EC_POINT, point.der());
            (der::ec_public_key_info(&point), ec_id(point.uncompressed()))
        }
    };
    match attributes.get(CKA_PUBLIC_KEY_INFO) {
        None | Some([]) => attributes.set(CKA_PUBLIC_KEY_INFO, info),
        Some(given) if given == info => {}
        Some(_) => {
            return Err(Error::AttributeValueInvalid(
                CKA_PUBLIC_KEY_INFO,
                "it is not that of the key",
            ));
        }
    }
    if !attributes.has(CKA_ID) {
        attributes.set(CKA_ID, id);
    }
    Ok(())
}

/// CKA_ID of an RSA key where nobody has chosen one: SHA-1 of the modulus without leading zeros, as NSS
/// (certutil, Firefox) computes it, so that its key and certificate meet ours.
pub fn rsa_id(modulus: &[u8]) -> Vec<u8> {
    Hash::Sha1.digest(without_zeros(modulus)).to_vec()
}

/// CKA_ID of an EC key where nobody has chosen one: SHA-1 of the point as its certificate carries it
/// (0x04 ‖ x ‖ y), as NSS computes it. Of any other public key: SHA-1 of its BIT STRING's content.
pub fn ec_id(point: &[u8]) -> Vec<u8> {
    Hash::Sha1.digest(point).to_vec()
}

/// The curve that CKA_EC_PARAMS names.
///
/// # Errors
/// CurveNotSupported, DomainParamsInvalid. §6.3.
pub fn curve(params: &[u8]) -> Result<Curve> {
    ec::parse_params(params).map_err(|fault| match fault {
        crypto::Fault::UnknownCurve => Error::CurveNotSupported,
        _ => Error::DomainParamsInvalid,
    })
}

/// CKA_EC_PARAMS as the token keeps it: the curve's object identifier, also where the caller named it.
pub(super) fn canonical_params(given: &[u8]) -> Result<Vec<u8>> {
    curve(given).map(|curve| curve.params().to_vec())
}

/// CKA_EC_POINT as the token keeps it: uncompressed, in a DER OCTET STRING. Callers give it so, bare, or
/// compressed. Without the curve only forms whose length tells the curve are understood.
pub(super) fn canonical_point(params: Option<&[u8]>, given: &[u8]) -> Result<Vec<u8>> {
    let point = match params {
        Some(params) => ec::parse_point(curve(params)?, given).ok(),
        None => Curve::ALL.iter().find_map(|curve| ec::parse_point(*curve, given).ok()),
    };
    point
        .map(|point| point.der())
        .ok_or(Error::AttributeValueInvalid(CKA_EC_POINT, "no point of the curve"))
}

/// Big integers as the token keeps them: without leading zeros (some clients take them from a DER
/// INTEGER). Other attributes stay as they are.
pub(super) fn canonical_number(id: u64, given: &[u8]) -> Cow<'_, [u8]> {
    Cow::Borrowed(match id {
        CKA_MODULUS | CKA_PUBLIC_EXPONENT => without_zeros(given),
        _ => given,
    })
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number.get(start..).unwrap_or_default()
}
