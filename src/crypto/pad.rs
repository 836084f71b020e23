//! RSA paddings of RFC 8017, made and taken off in the host.

use zeroize::Zeroizing;

use super::Fault;
use super::hash::Hash;

/// EMSA-PKCS1-v1_5 without the hashing, block type 1: 00 01 FF..FF 00 ‖ data, `k` bytes.
/// RFC 8017 §9.2.
///
/// # Errors
/// [`Fault::Length`] if data is longer than k - 11 bytes.
pub fn pkcs1_signature(_data: &[u8], _k: usize) -> Result<Vec<u8>, Fault> {
    todo!()
}

/// What [`pkcs1_signature`] padded: for recovery from a signature, whose content is public.
///
/// # Errors
/// [`Fault::Invalid`].
pub fn pkcs1_signature_open(_encoded: &[u8]) -> Result<&[u8], Fault> {
    todo!()
}

/// Block type 2: 00 02 ‖ random nonzero bytes ‖ 00 ‖ data, `k` bytes. RFC 8017 §7.2.1.
///
/// # Errors
/// [`Fault::Length`] if data is longer than k - 11 bytes; [`Fault::NoEntropy`].
pub fn pkcs1_encryption(_data: &[u8], _k: usize) -> Result<Zeroizing<Vec<u8>>, Fault> {
    todo!()
}

/// Takes block type 2 off, in time that does not depend on the content. Where the padding is not
/// valid, the answer is pseudo-random with a pseudo-random length, always the same for the same
/// `ciphertext` and `secret` (implicit rejection, draft-irtf-cfrg-rsa-guidance), so that there is
/// no error to observe. `secret` belongs to the key and is known to nobody else.
pub fn pkcs1_encryption_open(
    _encoded: &[u8],
    _ciphertext: &[u8],
    _secret: &[u8; 32],
) -> Zeroizing<Vec<u8>> {
    todo!()
}

/// EMSA-PSS-ENCODE with a given salt. `bits` is the modulus's length. RFC 8017 §9.1.1.
///
/// # Errors
/// [`Fault::Length`] if the salt does not fit or the digest has not the hash's length.
pub fn pss(
    _hash: Hash,
    _mgf: Hash,
    _digest: &[u8],
    _salt: &[u8],
    _bits: usize,
) -> Result<Vec<u8>, Fault> {
    todo!()
}

/// EMSA-PSS-VERIFY. `encoded` is as long as the modulus. RFC 8017 §9.1.2.
///
/// # Errors
/// [`Fault::Invalid`].
pub fn pss_verify(
    _hash: Hash,
    _mgf: Hash,
    _digest: &[u8],
    _salt_length: usize,
    _encoded: &[u8],
    _bits: usize,
) -> Result<(), Fault> {
    todo!()
}

/// EME-OAEP, `k` bytes. RFC 8017 §7.1.1.
///
/// # Errors
/// [`Fault::Length`] if data is longer than k - 2 - 2 hLen bytes; [`Fault::NoEntropy`].
pub fn oaep(
    _hash: Hash,
    _mgf: Hash,
    _label: &[u8],
    _data: &[u8],
    _k: usize,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    todo!()
}

/// Takes OAEP off, in time that does not depend on the content but for whether it is valid, and
/// with one error for everything that may be wrong (Manger's attack). RFC 8017 §7.1.2.
///
/// # Errors
/// [`Fault::Invalid`].
pub fn oaep_open(
    _hash: Hash,
    _mgf: Hash,
    _label: &[u8],
    _encoded: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    todo!()
}
