//! RSA with the public exponent: verification, encryption, and the check of what a chip computed.
//! No private key is ever used here.

use super::Fault;
use super::hash::Hash;

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    n: rsa::BigUint,
    e: rsa::BigUint,
}

impl PublicKey {
    /// From modulus and public exponent, big-endian, leading zeros allowed. 512 to 8192 bits.
    ///
    /// # Errors
    /// [`Fault::BadKey`] for an even modulus, one outside the sizes, an exponent that is even,
    /// below 3, longer than 64 bits or not below the modulus.
    pub fn new(_modulus: &[u8], _exponent: &[u8]) -> Result<Self, Fault> {
        todo!()
    }

    /// The modulus's length in bytes, k.
    #[expect(clippy::len_without_is_empty, reason = "a key is not a container")]
    pub fn len(&self) -> usize {
        self.bits().div_ceil(8)
    }

    /// The modulus's length in bits.
    pub fn bits(&self) -> usize {
        self.n.bits()
    }

    /// Whether `input` is what RSA can take: k bytes, and a number below the modulus.
    ///
    /// # Errors
    /// [`Fault::Length`], [`Fault::Range`].
    pub fn fits(&self, _input: &[u8]) -> Result<(), Fault> {
        todo!()
    }

    /// input^e mod n, k bytes. RFC 8017 §5.1.1, §5.2.2.
    ///
    /// # Errors
    /// As [`fits`](Self::fits).
    pub fn raw(&self, _input: &[u8]) -> Result<Vec<u8>, Fault> {
        todo!()
    }

    /// RSASSA-PKCS1-v1_5 over whatever bytes were padded (a DigestInfo, or anything else of at most
    /// k - 11 bytes): compares the whole encoded message, so no variant passes. RFC 8017 §8.2.2.
    ///
    /// # Errors
    /// [`Fault::Length`] if the signature is not k bytes long, else [`Fault::Invalid`].
    pub fn verify_pkcs1(&self, _data: &[u8], _signature: &[u8]) -> Result<(), Fault> {
        todo!()
    }

    /// RSASSA-PSS with exactly this salt length, in bytes. RFC 8017 §8.1.2.
    ///
    /// # Errors
    /// [`Fault::Length`] if the signature is not k bytes long, else [`Fault::Invalid`].
    pub fn verify_pss(
        &self,
        _hash: Hash,
        _mgf: Hash,
        _salt_length: usize,
        _digest: &[u8],
        _signature: &[u8],
    ) -> Result<(), Fault> {
        todo!()
    }

    /// RSAES-PKCS1-v1_5. `data` is at most k - 11 bytes long. RFC 8017 §7.2.1.
    ///
    /// # Errors
    /// [`Fault::Length`], [`Fault::NoEntropy`].
    pub fn encrypt_pkcs1(&self, _data: &[u8]) -> Result<Vec<u8>, Fault> {
        todo!()
    }

    /// RSAES-OAEP. `data` is at most k - 2 - 2 hLen bytes long. RFC 8017 §7.1.1.
    ///
    /// # Errors
    /// [`Fault::Length`], [`Fault::NoEntropy`].
    pub fn encrypt_oaep(
        &self,
        _hash: Hash,
        _mgf: Hash,
        _label: &[u8],
        _data: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        todo!()
    }
}
