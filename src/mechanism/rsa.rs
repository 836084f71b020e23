//! What the RSA families share: the public half of a key object, and the private operation.

use std::sync::Arc;

use cryptoki_sys::{CKA_MODULUS, CKA_PUBLIC_EXPONENT};
use zeroize::Zeroizing;

use super::{Chip, Cipher, Sign, Verify};
use crate::crypto::Fault;
use crate::crypto::rsa::PublicKey;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::KeyBlob;

/// The sizes of an RSA key that the host can handle and that a TPM may have, in bits.
pub(super) const SIZE: super::Size = super::Size::Bits(1024, 4096);

/// The public half of a public or private key object.
pub(super) fn public(key: &Object) -> Result<PublicKey> {
    let part = |id| key.attributes.get(id).unwrap_or_default();
    PublicKey::new(part(CKA_MODULUS), part(CKA_PUBLIC_EXPONENT)).map_err(|_| {
        Error::KeySizeRange(
            "an RSA modulus has 512 to 8192 bits and is odd; its exponent is odd, at least 3, and \
             has at most 64 bits"
                .into(),
        )
    })
}

/// A private key, as an operation keeps it until its end.
pub(super) struct Private {
    pub(super) public: PublicKey,
    blob: Arc<KeyBlob>,
}

impl Private {
    pub(super) fn of(key: &Object) -> Result<Self> {
        Ok(Self { public: public(key)?, blob: super::private_half(key)? })
    }

    /// input^d mod n by the TPM, k bytes; `input` has k bytes and is below n, else a TPM may fail
    /// in its own ways. The answer is checked with the public exponent: a signature made with a
    /// fault in one half of the CRT would give the key away (Boneh, DeMillo, Lipton 1997).
    pub(super) fn apply(&self, input: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        self.public
            .fits(input)
            .map_err(|_| Error::Bug("an RSA input that does not fit the key"))?;
        let answer = chip.tpm.rsa_decrypt(chip.call, &chip.key(&self.blob), input)?;
        self.public.check(input, &answer).map_err(|_| {
            Error::Device("the TPM answered with a wrong RSA result; it was discarded".into())
        })?;
        Ok(answer)
    }

    /// A secret of this key that nobody knows who has neither logged in nor the key: what implicit
    /// rejection draws its answers from.
    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.blob.authorization
    }
}

/// An operation that collects its data and does all of its work in one last step.
struct Collecting<F> {
    data: Zeroizing<Vec<u8>>,
    /// The most data that it takes, in bytes, and what is said to more.
    limit: (usize, Error),
    /// The most that the last step gives, in bytes.
    length: usize,
    last: F,
}

impl<F> Collecting<F> {
    fn new(limit: (usize, Error), length: usize, last: F) -> Box<Self> {
        Box::new(Self { data: Zeroizing::new(Vec::with_capacity(limit.0)), limit, length, last })
    }

    fn collect(&mut self, data: &[u8]) -> Result<()> {
        let (limit, too_long) = &self.limit;
        if data.len() > limit.saturating_sub(self.data.len()) {
            return Err(too_long.clone());
        }
        self.data.extend_from_slice(data);
        Ok(())
    }
}

/// A signature: `encode` makes the number, k bytes below the modulus, that the key is applied to.
pub(super) fn signing(
    key: Private,
    limit: (usize, Error),
    encode: impl FnOnce(&PublicKey, &[u8]) -> Result<Zeroizing<Vec<u8>>> + Send + 'static,
) -> Box<dyn Sign> {
    Collecting::new(limit, key.public.len(), move |data: &[u8], chip: &Chip<'_>| {
        let encoded = encode(&key.public, data)?;
        Ok(key.apply(&encoded, chip)?.to_vec())
    })
}

/// A verification: `check` is given the data and the signature.
pub(super) fn verifying(
    key: PublicKey,
    limit: (usize, Error),
    check: impl FnOnce(&PublicKey, &[u8], &[u8]) -> Result<()> + Send + 'static,
) -> Box<dyn Verify> {
    let length = key.len();
    Collecting::new(limit, length, move |data: &[u8], signature: &[u8]| {
        check(&key, data, signature)
    })
}

/// An encryption: `seal` makes the ciphertext.
pub(super) fn encrypting(
    key: PublicKey,
    limit: (usize, Error),
    seal: impl FnOnce(&PublicKey, &[u8]) -> Result<Zeroizing<Vec<u8>>> + Send + 'static,
) -> Box<dyn Cipher> {
    let length = key.len();
    Collecting::new(limit, length, move |data: &[u8], _: &Chip<'_>| seal(&key, data))
}

/// A decryption to at most `length` bytes: `open` is given what the key made of the ciphertext, k
/// bytes, and the ciphertext.
pub(super) fn decrypting(
    key: Private,
    length: usize,
    open: impl FnOnce(&Private, Zeroizing<Vec<u8>>, &[u8]) -> Result<Zeroizing<Vec<u8>>>
    + Send
    + 'static,
) -> Box<dyn Cipher> {
    let limit = (key.public.len(), Error::EncryptedDataLenRange);
    Collecting::new(limit, length, move |data: &[u8], chip: &Chip<'_>| {
        key.public.fits(data).map_err(|fault| match fault {
            Fault::Length => Error::EncryptedDataLenRange,
            _ => Error::EncryptedDataInvalid,
        })?;
        let block = key.apply(data, chip)?;
        open(&key, block, data)
    })
}

impl<F> Sign for Collecting<F>
where
    F: FnOnce(&[u8], &Chip<'_>) -> Result<Vec<u8>> + Send,
{
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.collect(data)
    }

    fn length(&self) -> usize {
        self.length
    }

    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Vec<u8>> {
        (self.last)(&self.data, chip)
    }
}

impl<F> Verify for Collecting<F>
where
    F: FnOnce(&[u8], &[u8]) -> Result<()> + Send,
{
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.collect(data)
    }

    fn finish(self: Box<Self>, signature: &[u8], _chip: &Chip<'_>) -> Result<()> {
        (self.last)(&self.data, signature)
    }
}

impl<F> Cipher for Collecting<F>
where
    F: FnOnce(&[u8], &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> + Send,
{
    fn update_length(&self, _input: usize) -> usize {
        0
    }

    fn update(&mut self, data: &[u8], _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        self.collect(data)?;
        Ok(Zeroizing::default())
    }

    fn finish_length(&self, _input: usize) -> usize {
        self.length
    }

    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        (self.last)(&self.data, chip)
    }
}

/// What is wrong with a signature that [`PublicKey`] refused.
pub(super) fn refused(fault: Fault) -> Error {
    match fault {
        Fault::Length => Error::SignatureLenRange,
        _ => Error::SignatureInvalid,
    }
}
