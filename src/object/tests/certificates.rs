//! Certificates made by OpenSSL 3.0, and what is no certificate.

use const_oid::db::rfc5912::ID_EC_PUBLIC_KEY;
use cryptoki_sys::*;
use der::{Decode as _, Encode as _};

use super::super::certificate::Certificate;

use super::super::{Attributes, Template};
use super::{NOBODY, create};
use crate::error::{Error, Result};

/// RSA-2048; critical extensions, an unknown one among them; a TeletexString; valid beyond 2050.
pub(super) const RSA_CRITICAL: &[u8] = include_bytes!("certificates/rsa-critical.der");
/// P-256; serial number -5; a UTF8String.
const EC_NEGATIVE_SERIAL: &[u8] = include_bytes!("certificates/ec-negative-serial.der");
/// P-521; version 1, so without the version field.
const EC_P521: &[u8] = include_bytes!("certificates/ec-p521-version1.der");
/// A key type that the token does not have.
const ED25519: &[u8] = include_bytes!("certificates/ed25519.der");

const ALL: [&[u8]; 4] = [RSA_CRITICAL, EC_NEGATIVE_SERIAL, EC_P521, ED25519];

fn created(value: &[u8]) -> Result<Attributes> {
    let template = Template::new().with_ulong(CKA_CLASS, CKO_CERTIFICATE).with(CKA_VALUE, value);
    create(&template, &NOBODY)
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Another reader's opinion: the x509-cert crate, whose re-encoding of these is the same bytes.
#[test]
fn the_slices_are_what_another_parser_finds() {
    for value in ALL {
        let attributes = created(value).unwrap();
        let other = x509_cert::Certificate::from_der(value).unwrap().tbs_certificate;
        for (id, expected) in [
            (CKA_VALUE, value.to_vec()),
            (CKA_SUBJECT, other.subject.to_der().unwrap()),
            (CKA_ISSUER, other.issuer.to_der().unwrap()),
            (CKA_SERIAL_NUMBER, other.serial_number.to_der().unwrap()),
            (CKA_PUBLIC_KEY_INFO, other.subject_public_key_info.to_der().unwrap()),
        ] {
            assert_eq!(attributes.get(id), Some(expected.as_slice()), "{id:#x}");
        }
        let day = |time: x509_cert::time::Time| {
            let time = time.to_date_time();
            format!("{:04}{:02}{:02}", time.year(), time.month(), time.day()).into_bytes()
        };
        assert_eq!(attributes.get(CKA_START_DATE), Some(day(other.validity.not_before).as_slice()));
        assert_eq!(attributes.get(CKA_END_DATE), Some(day(other.validity.not_after).as_slice()));
    }
}

#[test]
fn names_and_serials_are_found_as_they_stand_in_the_certificate() {
    let attributes = created(EC_NEGATIVE_SERIAL).unwrap();
    assert_eq!(attributes.get(CKA_SERIAL_NUMBER), Some([0x02, 0x01, 0xFB].as_slice()));
    let attributes = created(RSA_CRITICAL).unwrap();
    let teletex = [0x14, 12, b'T', 0xE9];
    assert!(attributes.get(CKA_SUBJECT).unwrap().windows(4).any(|part| part == teletex));
    assert_eq!(attributes.get(CKA_END_DATE), Some(b"21261028".as_slice()));
}

/// `openssl x509 -ocspid` prints the SHA-1 of the BIT STRING's content, `-modulus | sha1sum` the other.
#[test]
fn the_id_is_the_sha1_of_the_public_key() {
    for (value, id) in [
        (RSA_CRITICAL, "7c49384149c74617d2fa4937bf11157c6602a5a7"),
        (EC_NEGATIVE_SERIAL, "02fb686597adaa08625d17bab4ba2c9feec353ef"),
        (EC_P521, "ac8d55091515e5052b6744ed35b4fedfbe1b8090"),
        (ED25519, "5926e435ff4f36aaf3f1bd0d5b68a440f39d8be0"),
    ] {
        assert_eq!(created(value).unwrap().get(CKA_ID), Some(hex(id).as_slice()));
    }
}

/// A certificate, a public key made from its parts: the same CKA_ID and CKA_PUBLIC_KEY_INFO.
#[test]
fn a_certificate_and_its_key_meet() {
    for value in [RSA_CRITICAL, EC_NEGATIVE_SERIAL, EC_P521] {
        let certificate = created(value).unwrap();
        let info = certificate.get(CKA_PUBLIC_KEY_INFO).unwrap();
        let info = spki::SubjectPublicKeyInfoRef::from_der(info).unwrap();
        let key = info.subject_public_key.as_bytes().unwrap();
        let template = Template::new().with_ulong(CKA_CLASS, CKO_PUBLIC_KEY);
        let template = if info.algorithm.oid == ID_EC_PUBLIC_KEY {
            template
                .with_ulong(CKA_KEY_TYPE, CKK_EC)
                .with(CKA_EC_PARAMS, info.algorithm.parameters.unwrap().to_der().unwrap())
                .with(CKA_EC_POINT, key)
        } else {
            let numbers = Vec::<der::asn1::Uint>::from_der(key).unwrap();
            template
                .with_ulong(CKA_KEY_TYPE, CKK_RSA)
                .with(CKA_MODULUS, numbers[0].as_bytes())
                .with(CKA_PUBLIC_EXPONENT, numbers[1].as_bytes())
        };
        let key = create(&template, &NOBODY).unwrap();
        for id in [CKA_ID, CKA_PUBLIC_KEY_INFO] {
            assert_eq!(key.get(id), certificate.get(id), "{id:#x}");
        }
    }
}

#[test]
fn what_the_template_says_stands() {
    let template = Template::new()
        .with_ulong(CKA_CLASS, CKO_CERTIFICATE)
        .with(CKA_VALUE, ED25519)
        .with(CKA_ID, [])
        .with(CKA_ISSUER, [])
        .with(CKA_SERIAL_NUMBER, [9])
        .with(CKA_START_DATE, "19700101");
    let attributes = create(&template, &NOBODY).unwrap();
    assert_eq!(attributes.get(CKA_ID), Some([].as_slice()), "an empty ID is one");
    assert_ne!(attributes.get(CKA_ISSUER), Some([].as_slice()), "an empty name is none");
    assert_eq!(attributes.get(CKA_SERIAL_NUMBER), Some([9].as_slice()));
    assert_eq!(attributes.get(CKA_START_DATE), Some(b"19700101".as_slice()));
}

/// `openssl dgst -sha1`, first three bytes.
#[test]
fn the_check_value_is_that_of_the_certificate_or_none() {
    let with = |check: &[u8]| {
        let template = Template::new()
            .with_ulong(CKA_CLASS, CKO_CERTIFICATE)
            .with(CKA_VALUE, RSA_CRITICAL)
            .with(CKA_CHECK_VALUE, check);
        create(&template, &NOBODY)
    };
    let computed = created(RSA_CRITICAL).unwrap();
    assert_eq!(computed.get(CKA_CHECK_VALUE), Some([0xB4, 0xDC, 0xFF].as_slice()));
    assert!(with(&[0xB4, 0xDC, 0xFF]).is_ok());
    assert_eq!(with(&[]).unwrap().get(CKA_CHECK_VALUE), Some([].as_slice()));
    assert!(matches!(with(&[1, 2, 3]), Err(Error::AttributeValueInvalid(CKA_CHECK_VALUE, _))));
}

#[test]
fn a_certificate_elsewhere_needs_its_address_and_what_finds_it() {
    let url = Template::new().with_ulong(CKA_CLASS, CKO_CERTIFICATE).with(CKA_URL, "https://x/c");
    let missing = |template: &Template| create(template, &NOBODY).err();
    assert_eq!(missing(&url), Some(Error::TemplateIncomplete(CKA_SUBJECT)));
    let url = url.with(CKA_SUBJECT, [0x30, 0x00]);
    assert_eq!(missing(&url), Some(Error::TemplateIncomplete(CKA_HASH_OF_SUBJECT_PUBLIC_KEY)));
    let url = url.with(CKA_HASH_OF_SUBJECT_PUBLIC_KEY, [1; 20]);
    let url = url.with(CKA_HASH_OF_ISSUER_PUBLIC_KEY, [2; 20]);
    let attributes = create(&url, &NOBODY).unwrap();
    assert_eq!(attributes.get(CKA_VALUE), Some([].as_slice()));
    let nothing = Template::new().with_ulong(CKA_CLASS, CKO_CERTIFICATE);
    assert_eq!(missing(&nothing), Some(Error::TemplateIncomplete(CKA_VALUE)));
}

#[test]
fn other_kinds_of_certificates_are_refused() {
    for kind in [CKC_X_509_ATTR_CERT, CKC_WTLS, CKC_VENDOR_DEFINED] {
        let template = Template::new()
            .with_ulong(CKA_CLASS, CKO_CERTIFICATE)
            .with_ulong(CKA_CERTIFICATE_TYPE, kind)
            .with(CKA_VALUE, ED25519);
        assert!(matches!(
            create(&template, &NOBODY),
            Err(Error::AttributeValueInvalid(CKA_CERTIFICATE_TYPE, _))
        ));
    }
}

#[test]
fn what_is_no_certificate_is_refused() {
    let pem = b"-----BEGIN CERTIFICATE-----\nMIIB".as_slice();
    let indefinite = [&[0x30, 0x80], &ED25519[4..], &[0, 0]].concat();
    let twice = [ED25519, ED25519].concat();
    let trailing = [ED25519, &[0]].concat();
    let huge = [0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0x30];
    for bad in [pem, &[0x30, 0x00], &indefinite, &twice, &trailing, &huge] {
        assert!(
            matches!(created(bad), Err(Error::AttributeValueInvalid(CKA_VALUE, _))),
            "{:x?}",
            &bad[..bad.len().min(8)]
        );
    }
}

#[test]
fn no_cut_certificate_is_taken() {
    for value in ALL {
        for length in 1..value.len() {
            assert!(created(&value[..length]).is_err(), "{length} bytes");
        }
    }
}

/// Whatever single byte is changed, reading ends, and every slice lies inside.
#[test]
fn no_changed_byte_leads_outside() {
    for value in ALL {
        for at in 0..value.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut bad = value.to_vec();
                bad[at] ^= flip;
                if let Some(read) = Certificate::read(&bad) {
                    let _ = read.id();
                    for part in
                        [read.subject, read.issuer, read.serial_number, read.public_key_info]
                    {
                        assert!(bad.windows(part.len().max(1)).any(|window| window == part));
                    }
                }
                let _ = created(&bad);
            }
        }
    }
}

#[test]
fn a_large_certificate_is_kept_to_the_byte() {
    // The same certificate with a signature of 100,000 bytes.
    let (content, _) = crate::crypto::der::value(0x30, ED25519).unwrap();
    let (tbs, rest) = crate::crypto::der::value(0x30, content).unwrap();
    let (algorithm, _) = crate::crypto::der::value(0x30, rest).unwrap();
    let tagged = crate::crypto::der::tagged;
    let large = tagged(
        0x30,
        &[&tagged(0x30, &[tbs]), &tagged(0x30, &[algorithm]), &tagged(0x03, &[&[0; 100_000]])],
    );
    assert_eq!(created(&large).unwrap().get(CKA_VALUE), Some(large.as_slice()));
}
