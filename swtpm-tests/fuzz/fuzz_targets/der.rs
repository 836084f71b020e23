//! What applications hand over as DER or as points: certificates, curves, public keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tpm11::crypto::ec::{Curve, parse_params, parse_point};
use tpm11::crypto::rsa::PublicKey;
use tpm11::object::certificate::Certificate;

fuzz_target!(|bytes: &[u8]| {
    if let Some(certificate) = Certificate::read(bytes) {
        let _ = certificate.id();
    }
    let _ = parse_params(bytes);
    for curve in [Curve::P256, Curve::P384, Curve::P521] {
        if let Ok(point) = parse_point(curve, bytes) {
            // What was read is on the curve, and reads the same again.
            assert_eq!(parse_point(curve, &point.der()).as_ref(), Ok(&point));
        }
    }
    if let Some((exponent, modulus)) = bytes.split_at_checked(4) {
        if let Ok(key) = PublicKey::new(modulus, exponent) {
            let _ = key.verify_pkcs1(b"data", modulus);
        }
    }
});
