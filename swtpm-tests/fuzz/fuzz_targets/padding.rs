//! What comes out of RSA, before anybody knows whether it is what it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tpm11::crypto::hash::Hash;
use tpm11::crypto::pad;

fuzz_target!(|bytes: &[u8]| {
    let _ = pad::pkcs1_signature_open(bytes);
    for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha3_512] {
        let _ = pad::oaep_open(hash, hash, b"label", bytes);
        let _ = pad::pss_verify(hash, hash, &vec![7; hash.len()], 20, bytes, 1024);
    }
});
