//! The few DER values that the floors above read and write: OCTET STRING, SubjectPublicKeyInfo,
//! Ecdsa-Sig-Value.

use super::Fault;
use super::ec::Point;

/// A DER OCTET STRING around `content`.
pub fn octet_string(content: &[u8]) -> Vec<u8> {
    tagged(0x04, &[content])
}

/// CKA_PUBLIC_KEY_INFO of an EC key: a SubjectPublicKeyInfo with namedCurve. RFC 5480 §2.
pub fn ec_public_key_info(point: &Point) -> Vec<u8> {
    const EC_PUBLIC_KEY: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let algorithm = tagged(0x30, &[&EC_PUBLIC_KEY, point.curve().params()]);
    let key = tagged(0x03, &[&[0], point.uncompressed()]);
    tagged(0x30, &[&algorithm, &key])
}

/// CKA_PUBLIC_KEY_INFO of an RSA key: a SubjectPublicKeyInfo with rsaEncryption. RFC 8017 A.1.
/// Modulus and exponent are big-endian; leading zeros do not matter.
pub fn rsa_public_key_info(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    const RSA_ENCRYPTION: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let key = tagged(0x30, &[&unsigned(modulus), &unsigned(exponent)]);
    tagged(0x30, &[&RSA_ENCRYPTION, &tagged(0x03, &[&[0], &key])])
}

/// Ecdsa-Sig-Value of a signature r ‖ s: what X.509, CMS and TLS carry. RFC 3279 §2.2.3.
pub fn ecdsa_signature(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(signature.len() / 2);
    tagged(0x30, &[&unsigned(r), &unsigned(s)])
}

/// A DER INTEGER of an unsigned big-endian number.
pub fn unsigned(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let digits = number.get(start..).unwrap_or_default();
    match digits.first() {
        None => tagged(0x02, &[&[0]]),
        Some(first) if first & 0x80 != 0 => tagged(0x02, &[&[0], digits]),
        Some(_) => tagged(0x02, &[digits]),
    }
}

/// One DER value: `tag`, length, and the concatenated `parts`.
pub fn tagged(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = Vec::with_capacity(length + 6);
    der.push(tag);
    if length < 0x80 {
        der.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or_default();
        let digits = bytes.get(start..).unwrap_or_default();
        der.push(0x80 | digits.len() as u8);
        der.extend_from_slice(digits);
    }
    for part in parts {
        der.extend_from_slice(part);
    }
    der
}

/// Splits one DER value with this tag off the front of `input`: its content, and what follows.
/// Only the shortest form of a length is taken, as DER demands.
///
/// # Errors
/// [`Fault::Encoding`].
pub fn value(tag: u8, input: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let (found, rest) = input.split_first().ok_or(Fault::Encoding)?;
    if *found != tag {
        return Err(Fault::Encoding);
    }
    let (first, rest) = rest.split_first().ok_or(Fault::Encoding)?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) =
            rest.split_at_checked(usize::from(first & 0x7f)).ok_or(Fault::Encoding)?;
        if digits.is_empty() || digits.len() > 4 || digits.first() == Some(&0) {
            return Err(Fault::Encoding);
        }
        let length = digits.iter().fold(0usize, |sum, digit| sum << 8 | usize::from(*digit));
        if length < 0x80 {
            return Err(Fault::Encoding);
        }
        (length, rest)
    };
    rest.split_at_checked(length).ok_or(Fault::Encoding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            tag in any::<u8>(),
            content in prop::collection::vec(any::<u8>(), 0..70_000),
            after in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let mut der = tagged(tag, &[&content]);
            der.extend(&after);
            prop_assert_eq!(value(tag, &der).unwrap(), (&*content, &*after));
        }

        #[test]
        fn random_bytes_never_panic_and_are_only_read_in_their_one_form(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let tag = bytes.first().copied().unwrap_or_default();
            if let Ok((content, rest)) = value(tag, &bytes) {
                let mut again = tagged(tag, &[content]);
                again.extend(rest);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn longer_forms_of_a_length_are_refused() {
        assert!(value(0x04, &[0x04, 0x01, 0xaa]).is_ok());
        assert_eq!(value(0x04, &[0x04, 0x81, 0x01, 0xaa]), Err(Fault::Encoding));
        assert_eq!(value(0x04, &[0x04, 0x82, 0x00, 0x01, 0xaa]), Err(Fault::Encoding));
        assert_eq!(value(0x04, &[0x04, 0x80, 0xaa, 0x00, 0x00]), Err(Fault::Encoding));
        assert_eq!(value(0x04, &[0x04, 0x02, 0xaa]), Err(Fault::Encoding));
        assert_eq!(value(0x04, &[0x05, 0x01, 0xaa]), Err(Fault::Encoding));
        assert_eq!(value(0x04, &[]), Err(Fault::Encoding));
    }

    #[test]
    fn public_key_infos_are_what_another_reader_reads() {
        use spki::der::Decode as _;
        let key = rsa_public_key_info(&[0xc3; 256], &[0x00, 0x01, 0x00, 0x01]);
        let info = spki::SubjectPublicKeyInfoRef::from_der(&key).unwrap();
        assert_eq!(info.algorithm.oid.to_string(), "1.2.840.113549.1.1.1");
        let bits = info.subject_public_key.as_bytes().unwrap();
        let (numbers, _) = value(0x30, bits).unwrap();
        let (modulus, exponent) = value(0x02, numbers).unwrap();
        assert_eq!((modulus.len(), modulus[0]), (257, 0));
        assert_eq!(exponent, [0x02, 0x03, 0x01, 0x00, 0x01]);
    }

    #[test]
    fn integers_are_positive_and_shortest() {
        assert_eq!(unsigned(&[]), [0x02, 0x01, 0x00]);
        assert_eq!(unsigned(&[0, 0]), [0x02, 0x01, 0x00]);
        assert_eq!(unsigned(&[0, 0x7f]), [0x02, 0x01, 0x7f]);
        assert_eq!(unsigned(&[0x80]), [0x02, 0x02, 0x00, 0x80]);
        assert_eq!(
            ecdsa_signature(&[0, 1, 0xff, 2]),
            [0x30, 0x08, 0x02, 0x01, 0x01, 0x02, 0x03, 0x00, 0xff, 0x02]
        );
    }
}
