//! Certificate attributes. What a template does not say is read from CKA_VALUE: exact slices of its
//! bytes, never re-encoded, so that what is found by them is what the certificate says. The
//! certificate itself is kept to the byte and otherwise not judged.

use cryptoki_sys::*;

use super::public_key;
use super::value::Attributes;
use crate::crypto::der;
use crate::crypto::hash::Hash;
use crate::error::{Error, Result};

/// The parts of an X.509 certificate that PKCS#11 names, as they stand in it, tags and lengths
/// included (RFC 5280 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// CertificateSerialNumber
    pub serial_number: &'a [u8],
    /// Name
    pub issuer: &'a [u8],
    /// Name
    pub subject: &'a [u8],
    /// notBefore as yyyymmdd; `None` if it is no date that CK_DATE can say.
    pub not_before: Option<[u8; 8]>,
    /// notAfter, likewise.
    pub not_after: Option<[u8; 8]>,
    /// SubjectPublicKeyInfo
    pub public_key_info: &'a [u8],
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT Version`
const VERSION: u8 = 0xA0;

/// One DER value with its tag and length, and what follows it.
fn slice(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = der::value(tag, input).ok()?;
    Some((input.get(..input.len() - rest.len())?, rest))
}

impl<'a> Certificate<'a> {
    /// Finds the parts. `None` if these bytes are no certificate, or more than one.
    pub fn read(value: &'a [u8]) -> Option<Self> {
        let (certificate, after) = der::value(SEQUENCE, value).ok()?;
        if !after.is_empty() {
            return None;
        }
        let (tbs, signature) = der::value(SEQUENCE, certificate).ok()?;
        let (_, signature) = slice(SEQUENCE, signature)?;
        let (_, after) = slice(BIT_STRING, signature)?;
        if !after.is_empty() {
            return None;
        }
        let tbs = match slice(VERSION, tbs) {
            Some((_, rest)) => rest,
            None => tbs, // version 1
        };
        let (serial_number, rest) = slice(INTEGER, tbs)?;
        let (_algorithm, rest) = slice(SEQUENCE, rest)?;
        let (issuer, rest) = slice(SEQUENCE, rest)?;
        let (validity, rest) = der::value(SEQUENCE, rest).ok()?;
        let (subject, rest) = slice(SEQUENCE, rest)?;
        let (public_key_info, _) = slice(SEQUENCE, rest)?;
        let (not_before, validity) = time(validity)?;
        let (not_after, _) = time(validity)?;
        Some(Self { serial_number, issuer, subject, not_before, not_after, public_key_info })
    }

    /// CKA_ID where nobody has chosen one: the same that a key pair with this public key gets.
    pub fn id(&self) -> Option<Vec<u8>> {
        let (info, _) = der::value(SEQUENCE, self.public_key_info).ok()?;
        let (algorithm, rest) = der::value(SEQUENCE, info).ok()?;
        let (bits, _) = der::value(BIT_STRING, rest).ok()?;
        let (_unused, key) = bits.split_first()?;
        let (algorithm, _) = der::value(0x06, algorithm).ok()?;
        if algorithm == RSA_ENCRYPTION {
            let (numbers, _) = der::value(SEQUENCE, key).ok()?;
            let (modulus, _) = der::value(INTEGER, numbers).ok()?;
            return Some(public_key::rsa_id(modulus));
        }
        Some(public_key::ec_id(key))
    }
}

/// 1.2.840.113549.1.1.1, the content of the OBJECT IDENTIFIER.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// The day of a Time, and what follows it. RFC 5280 §4.1.2.5: UTCTime years below 50 are 20yy.
fn time(input: &[u8]) -> Option<(Option<[u8; 8]>, &[u8])> {
    let (digits, rest) = match der::value(0x17, input) {
        Ok((utc, rest)) => {
            let day = utc.get(..6).unwrap_or_default();
            let century = if day < b"50".as_slice() { b"20" } else { b"19" };
            ([century, day].concat(), rest)
        }
        Err(_) => {
            let (general, rest) = der::value(0x18, input).ok()?;
            (general.get(..8).unwrap_or_default().to_vec(), rest)
        }
    };
    let date = <[u8; 8]>::try_from(digits).ok().filter(|date| date.iter().all(u8::is_ascii_digit));
    Some((date, rest))
}

/// Checks a certificate's attributes and reads from CKA_VALUE what the template did not say. (A name or
/// serial number given with length 0 was not said; an empty CKA_ID is one.)
///
/// # Errors
/// TemplateIncomplete if CKA_VALUE and CKA_URL are both empty, or what the specification demands beside
/// a URL is missing; AttributeValueInvalid if CKA_VALUE is no certificate, or CKA_CHECK_VALUE not its.
/// §4.7.3.
pub(super) fn complete(attributes: &mut Attributes) -> Result<()> {
    let value = attributes.get(CKA_VALUE).unwrap_or_default().to_vec();
    let empty = |attributes: &Attributes, id| attributes.get(id).is_none_or(<[u8]>::is_empty);
    if value.is_empty() {
        if empty(attributes, CKA_URL) {
            return Err(Error::TemplateIncomplete(CKA_VALUE));
        }
        for id in [CKA_SUBJECT, CKA_HASH_OF_SUBJECT_PUBLIC_KEY, CKA_HASH_OF_ISSUER_PUBLIC_KEY] {
            if empty(attributes, id) {
                return Err(Error::TemplateIncomplete(id));
            }
        }
        for id in [
            CKA_ID,
            CKA_ISSUER,
            CKA_SERIAL_NUMBER,
            CKA_CHECK_VALUE,
            CKA_START_DATE,
            CKA_END_DATE,
            CKA_PUBLIC_KEY_INFO,
        ] {
            if !attributes.has(id) {
                attributes.set(id, []);
            }
        }
        return Ok(());
    }
    let certificate = Certificate::read(&value)
        .ok_or(Error::AttributeValueInvalid(CKA_VALUE, "not the DER of an X.509 certificate"))?;
    let day = |date: Option<[u8; 8]>| date.map(Vec::from).unwrap_or_default();
    for (id, derived) in [
        (CKA_SUBJECT, certificate.subject.to_vec()),
        (CKA_ISSUER, certificate.issuer.to_vec()),
        (CKA_SERIAL_NUMBER, certificate.serial_number.to_vec()),
        (CKA_PUBLIC_KEY_INFO, certificate.public_key_info.to_vec()),
        (CKA_START_DATE, day(certificate.not_before)),
        (CKA_END_DATE, day(certificate.not_after)),
    ] {
        if empty(attributes, id) {
            attributes.set(id, derived);
        }
    }
    if !attributes.has(CKA_ID) {
        attributes.set(CKA_ID, certificate.id().unwrap_or_default());
    }
    let digest = Hash::Sha1.digest(&value);
    let check_value = digest.get(..3).unwrap_or_default();
    match attributes.get(CKA_CHECK_VALUE) {
        None => attributes.set(CKA_CHECK_VALUE, check_value),
        Some(given) if given.is_empty() || given == check_value => {}
        Some(_) => {
            return Err(Error::AttributeValueInvalid(
                CKA_CHECK_VALUE,
                "not the first three bytes of the certificate's SHA-1",
            ));
        }
    }
    Ok(())
}
