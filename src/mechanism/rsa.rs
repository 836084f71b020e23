//! What the RSA families share: the public half of a key object, and the private operation.

use std::sync::Arc;

use cryptoki_sys::{CKA_MODULUS, CKA_PUBLIC_EXPONENT};
use zeroize::Zeroizing;

use super::Chip;
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

/// Data that a single-part mechanism collects, up to the most that it can take.
pub(super) struct Collected {
    bytes: Zeroizing<Vec<u8>>,
    limit: usize,
}

impl Collected {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(limit)), limit }
    }

    pub(super) fn update(&mut self, data: &[u8], too_long: Error) -> Result<()> {
        if data.len() > self.limit - self.bytes.len() {
            return Err(too_long);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl std::ops::Deref for Collected {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What is wrong with a signature that [`PublicKey`] refused.
pub(super) fn refused(fault: Fault) -> Error {
    match fault {
        Fault::Length => Error::SignatureLenRange,
        _ => Error::SignatureInvalid,
    }
}

/// A ciphertext that the private operation can take.
///
/// # Errors
/// [`Error::EncryptedDataLenRange`], [`Error::EncryptedDataInvalid`].
pub(super) fn ciphertext(key: &PublicKey, data: &[u8]) -> Result<()> {
    key.fits(data).map_err(|fault| match fault {
        Fault::Length => Error::EncryptedDataLenRange,
        _ => Error::EncryptedDataInvalid,
    })
}
