//! Private keys as they are wrapped: PrivateKeyInfo (PKCS #8, RFC 5208) around RSAPrivateKey (RFC 8017) or
//! ECPrivateKey (SEC 1). PKCS#11 3.2 §6.7.

use const_oid::db::rfc5912::{ID_EC_PUBLIC_KEY, RSA_ENCRYPTION};
use cryptoki_sys::{CKA_EC_PARAMS, CKA_MODULUS, CKA_PUBLIC_EXPONENT};
use der::asn1::{AnyRef, ObjectIdentifier, UintRef};
use der::{Decode as _, Encode as _};
use pkcs8::PrivateKeyInfo;
use sec1::EcPrivateKey;
use spki::AlgorithmIdentifierRef;
use zeroize::Zeroizing;

use super::keyspec::PrivateValue;
use super::public_key;
use super::value::Attributes;
use crate::crypto::Fault;
use crate::crypto::ec::{Curve, Point};
use crate::crypto::private::{RsaNumbers, RsaParts};
use crate::error::{Error, Result};
use crate::tpm::PlainKey;

type Encoded = Result<Zeroizing<Vec<u8>>, der::Error>;

/// The key that came out of the TPM under this object, encoded.
///
/// # Errors
/// Device if it is not the key that the attributes say.
pub fn encode(key: &PlainKey, attributes: &Attributes) -> Result<Zeroizing<Vec<u8>>> {
    let strange = || Error::Device("the TPM gave out another key than the object's".into());
    let bytes = |id| attributes.get(id).unwrap_or_default();
    match key {
        PlainKey::Rsa { modulus, exponent, prime } if modulus == bytes(CKA_MODULUS) => {
            let numbers = RsaNumbers::of(modulus, *exponent, prime).map_err(|_| strange())?;
            rsa(modulus, &exponent.to_be_bytes(), &numbers)
        }
        PlainKey::Ec { x, y, scalar } => {
            let curve = public_key::curve(bytes(CKA_EC_PARAMS))?;
            let point = Point::from_coordinates(curve, x, y).map_err(|_| strange())?;
            ec(curve, scalar, point.uncompressed())
        }
        _ => return Err(strange()),
    }
    .map_err(|_| strange())
}

/// The most that the encoding of this private key can have, in bytes.
///
/// # Errors
/// KeyTypeInconsistent for anything but an RSA or EC key.
pub fn length(attributes: &Attributes) -> Result<usize> {
    let bytes = |id| attributes.get(id).unwrap_or_default();
    let most = |length| Zeroizing::new(vec![0xFF; length]);
    let encoded = if let Some(modulus) = attributes.get(CKA_MODULUS) {
        let half = modulus.len().div_ceil(2);
        let numbers = RsaNumbers {
            private_exponent: most(modulus.len()),
            prime_1: most(half),
            prime_2: most(half),
            exponent_1: most(half),
            exponent_2: most(half),
            coefficient: most(half),
        };
        rsa(modulus, bytes(CKA_PUBLIC_EXPONENT), &numbers)
    } else {
        let curve = public_key::curve(bytes(CKA_EC_PARAMS))?;
        ec(curve, &most(curve.len()), &most(1 + 2 * curve.len()))
    };
    Ok(encoded.map_err(|_| Error::KeyTypeInconsistent)?.len())
}

fn rsa(modulus: &[u8], exponent: &[u8], numbers: &RsaNumbers) -> Encoded {
    let key = pkcs1::RsaPrivateKey {
        modulus: UintRef::new(modulus)?,
        public_exponent: UintRef::new(exponent)?,
        private_exponent: UintRef::new(&numbers.private_exponent)?,
        prime1: UintRef::new(&numbers.prime_1)?,
        prime2: UintRef::new(&numbers.prime_2)?,
        exponent1: UintRef::new(&numbers.exponent_1)?,
        exponent2: UintRef::new(&numbers.exponent_2)?,
        coefficient: UintRef::new(&numbers.coefficient)?,
        other_prime_infos: None,
    };
    info(RSA_ENCRYPTION, AnyRef::NULL, &Zeroizing::new(key.to_der()?))
}

/// The domain parameters stand in PrivateKeyInfo alone.
fn ec(curve: Curve, scalar: &[u8], point: &[u8]) -> Encoded {
    let key = EcPrivateKey { private_key: scalar, parameters: None, public_key: Some(point) };
    info(ID_EC_PUBLIC_KEY, AnyRef::from_der(curve.params())?, &Zeroizing::new(key.to_der()?))
}

fn info(oid: ObjectIdentifier, parameters: AnyRef<'_>, key: &[u8]) -> Encoded {
    let algorithm = AlgorithmIdentifierRef { oid, parameters: Some(parameters) };
    PrivateKeyInfo::new(algorithm, key).to_der().map(Zeroizing::new)
}

/// How many bytes an encoding has by its own header.
pub fn whole(encoded: &[u8]) -> Option<usize> {
    let mut reader = der::SliceReader::new(encoded).ok()?;
    let header = der::Header::decode(&mut reader).ok()?;
    let whole = (header.encoded_len().ok()? + header.length).ok()?;
    usize::try_from(whole).ok()
}

/// A private key that somebody encoded, checked: all its parts belong to one key.
///
/// # Errors
/// [`Fault::Encoding`], [`Fault::BadKey`], [`Fault::UnknownCurve`]; whatever is wrong, who sent it should
/// not be told.
pub fn decode(encoded: &[u8]) -> Result<PrivateValue, Fault> {
    let bad = |_| Fault::Encoding;
    let PrivateKeyInfo { algorithm, private_key, public_key } =
        PrivateKeyInfo::from_der(encoded).map_err(bad)?;
    let AlgorithmIdentifierRef { oid, parameters } = algorithm;
    if oid == RSA_ENCRYPTION && parameters.is_none_or(|parameters| parameters.is_null()) {
        let key = pkcs1::RsaPrivateKey::from_der(private_key).map_err(bad)?;
        let parts = RsaParts {
            modulus: key.modulus.as_bytes(),
            exponent: key.public_exponent.as_bytes(),
            private_exponent: Some(key.private_exponent.as_bytes()),
            prime_1: Some(key.prime1.as_bytes()),
            prime_2: Some(key.prime2.as_bytes()),
            exponent_1: Some(key.exponent1.as_bytes()),
            exponent_2: Some(key.exponent2.as_bytes()),
            coefficient: Some(key.coefficient.as_bytes()),
        };
        if key.other_prime_infos.is_some() {
            return Err(Fault::BadKey);
        }
        return parts.check().map(PrivateValue::Rsa);
    }
    let (ID_EC_PUBLIC_KEY, Some(parameters)) = (oid, parameters) else {
        return Err(Fault::Encoding);
    };
    let named = parameters.decode_as::<ObjectIdentifier>().and_then(|named| named.to_der());
    let curve = public_key::curve(&named.map_err(bad)?).map_err(|_| Fault::UnknownCurve)?;
    let key = EcPrivateKey::from_der(private_key).map_err(bad)?;
    // Redundant where it stands; but not contradicting.
    let again = key.parameters.and_then(|parameters| parameters.named_curve());
    if again.is_some_and(|again| parameters.decode_as::<ObjectIdentifier>() != Ok(again)) {
        return Err(Fault::BadKey);
    }
    let value = PrivateValue::ec(curve, key.private_key)?;
    let PrivateValue::Ec { point, .. } = &value else { return Err(Fault::BadKey) };
    for given in [key.public_key, public_key].into_iter().flatten() {
        let given = crate::crypto::ec::parse_point(curve, given);
        if given.ok().as_ref() != Some(point) {
            return Err(Fault::BadKey);
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::private;

    fn ec_key(curve: Curve) -> (Attributes, PlainKey) {
        let scalar = Zeroizing::new([vec![0; curve.len() - 3], vec![3, 2, 1]].concat());
        let point = private::ec_public(curve, &scalar).unwrap();
        let mut attributes = Attributes::new();
        attributes.set(CKA_EC_PARAMS, curve.params());
        (attributes, PlainKey::Ec { x: point.x().to_vec(), y: point.y().to_vec(), scalar })
    }

    fn rsa_key() -> (Attributes, PlainKey) {
        use ::rsa::traits::{PrivateKeyParts as _, PublicKeyParts as _};
        use rand_core::SeedableRng as _;
        let mut random = rand_chacha::ChaCha20Rng::seed_from_u64(9);
        let key = ::rsa::RsaPrivateKey::new(&mut random, 1024).unwrap();
        let modulus = key.n().to_bytes_be();
        let mut attributes = Attributes::new();
        attributes.set(CKA_MODULUS, modulus.as_slice());
        attributes.set(CKA_PUBLIC_EXPONENT, [1, 0, 1]);
        let prime = Zeroizing::new(key.primes()[0].to_bytes_be());
        (attributes, PlainKey::Rsa { modulus, exponent: 65537, prime })
    }

    #[test]
    fn an_ec_key_is_read_as_it_was_written_on_every_curve() {
        for curve in Curve::ALL {
            let (attributes, key) = ec_key(curve);
            let encoded = encode(&key, &attributes).unwrap();
            assert_eq!(encoded.len(), length(&attributes).unwrap());
            let PrivateValue::Ec { curve: read, d, .. } = decode(&encoded).unwrap() else {
                panic!("an EC key");
            };
            assert_eq!((read, d[curve.len() - 3..].to_vec()), (curve, vec![3, 2, 1]));
        }
    }

    #[test]
    fn an_rsa_key_is_read_as_it_was_written_and_fits_what_was_promised() {
        let (attributes, key) = rsa_key();
        let encoded = encode(&key, &attributes).unwrap();
        assert!(encoded.len() <= length(&attributes).unwrap());
        let PrivateValue::Rsa(read) = decode(&encoded).unwrap() else { panic!("an RSA key") };
        assert_eq!(Some(&read.modulus[..]), attributes.get(CKA_MODULUS));
        let mut other = attributes.clone();
        other.set(CKA_MODULUS, vec![0xC1; 128]);
        assert!(matches!(encode(&key, &other), Err(Error::Device(_))));
    }

    #[test]
    fn no_byte_of_an_encoding_can_be_changed_without_notice() {
        for (attributes, key) in [ec_key(Curve::P256), rsa_key()] {
            let encoded = encode(&key, &attributes).unwrap();
            for at in 0..encoded.len() {
                let mut changed = encoded.clone();
                changed[at] ^= 0x20;
                assert!(decode(&changed).is_err(), "byte {at} of {}", encoded.len());
            }
            let longer = [&encoded[..], &[0]].concat();
            assert!(decode(&longer).is_err());
            assert!(decode(&encoded[..encoded.len() - 1]).is_err());
        }
        assert!(decode(&[]).is_err());
        assert!(decode(&vec![0x30; 65536]).is_err());
    }
}
