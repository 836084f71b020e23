//! Signing and verifying with hashing = a hash in front of the mechanism without hashing.

use super::{Chip, Mechanism, Sign, Verify};
use crate::crypto::hash::{Hash, Hasher};
use crate::error::Result;

/// What the mechanism behind takes of the digest.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// The digest alone.
    Digest,
    /// The DER of a DigestInfo.
    DigestInfo,
}

struct Hashing<T: ?Sized> {
    hash: Hash,
    hasher: Hasher,
    form: Form,
    behind: Box<T>,
}

impl<T: ?Sized> Hashing<T> {
    fn new(hash: Hash, form: Form, behind: Box<T>) -> Box<Self> {
        Box::new(Self { hash, hasher: Hasher::new(hash), form, behind })
    }

    /// The finished digest in its form, and the mechanism behind that takes it.
    fn digest(self) -> (Vec<u8>, Box<T>) {
        let digest = self.hasher.finish();
        let formed = match self.form {
            Form::Digest => digest.to_vec(),
            Form::DigestInfo => self.hash.digest_info(&digest),
        };
        (formed, self.behind)
    }
}

/// Puts the row's hash, if it has one, in front of `behind`.
pub(super) fn sign(row: &Mechanism, form: Form, behind: Box<dyn Sign>) -> Box<dyn Sign> {
    match row.hash {
        Some(hash) => Hashing::new(hash, form, behind),
        None => behind,
    }
}

/// Puts the row's hash, if it has one, in front of `behind`.
pub(super) fn verify(row: &Mechanism, form: Form, behind: Box<dyn Verify>) -> Box<dyn Verify> {
    match row.hash {
        Some(hash) => Hashing::new(hash, form, behind),
        None => behind,
    }
}

impl Sign for Hashing<dyn Sign> {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.hasher.update(data);
        Ok(())
    }

    fn length(&self) -> usize {
        self.behind.length()
    }

    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Vec<u8>> {
        let (digest, mut behind) = self.digest();
        behind.update(&digest)?;
        behind.finish(chip)
    }
}

impl Verify for Hashing<dyn Verify> {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.hasher.update(data);
        Ok(())
    }

    fn finish(self: Box<Self>, signature: &[u8], chip: &Chip<'_>) -> Result<()> {
        let (digest, mut behind) = self.digest();
        behind.update(&digest)?;
        behind.finish(signature, chip)
    }
}
