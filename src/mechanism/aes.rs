//! What the AES families share: a key's block cipher, which is the TPM's, or the host's over a key that was
//! sealed for lack of TPM2_EncryptDecrypt2, or that is readable and of a size that the TPM does not have.

use cryptoki_sys::CKK_AES;
use zeroize::Zeroizing;

use super::{Chip, Does, Held, Keys, Mechanism, Params, Size};
use crate::crypto::aes::{Aes, BLOCK};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::{Chaining, Command as _, Direction, EncryptDecrypt2};
use crate::tpm::{Call, Key, Tpm};

/// The keys, in bytes.
pub(super) const SIZE: Size = Size::Bytes(16, 32);
/// Their type.
pub(super) const KEYS: Keys = Keys::Secret(&[CKK_AES]);

/// A row of AES.
pub(super) const fn row(id: u64, name: &'static str, does: Does) -> Mechanism {
    Mechanism { id, name, keys: KEYS, size: SIZE, hash: None, chip: &[EncryptDecrypt2::ID], does }
}

/// A key's block cipher with the modes that chain its blocks, for the length of one C_ call.
pub(super) trait BlockCipher {
    /// As many bytes as `input` has; `iv` becomes what the next call goes on with, but with ECB, where it
    /// is not used.
    fn run(
        &self,
        mode: Chaining,
        direction: Direction,
        iv: &mut [u8; BLOCK],
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>>;

    /// Each whole block by itself.
    fn ecb(&self, direction: Direction, input: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        self.run(Chaining::Ecb, direction, &mut [0; BLOCK], input)
    }

    /// CBC encryption whose output is a secret.
    fn chain(&self, iv: &mut [u8; BLOCK], input: &[u8]) -> Result<Zeroizing<Vec<u8>>>;
}

/// The block cipher of this key.
///
/// # Errors
/// Those of [`Chip::secret`].
pub(super) fn block_cipher<'a>(chip: &Chip<'a>, key: &Object) -> Result<Box<dyn BlockCipher + 'a>> {
    Ok(match chip.secret(key)? {
        Held::Chip(key) => Box::new(InTheTpm { tpm: chip.tpm, call: chip.call, key }),
        Held::Host(value) => Box::new(Aes::new(&value)?),
    })
}

struct InTheTpm<'a> {
    tpm: &'a Tpm,
    call: &'a Call,
    key: Key,
}

impl BlockCipher for InTheTpm<'_> {
    fn run(
        &self,
        mode: Chaining,
        direction: Direction,
        iv: &mut [u8; BLOCK],
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        Ok(self.tpm.cipher(self.call, &self.key, mode, direction, iv, input)?)
    }

    fn chain(&self, iv: &mut [u8; BLOCK], input: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        Ok(self.tpm.chain(self.call, &self.key, iv, input)?)
    }
}

impl BlockCipher for Aes {
    fn run(
        &self,
        mode: Chaining,
        direction: Direction,
        iv: &mut [u8; BLOCK],
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let encrypt = direction == Direction::Encrypt;
        Ok(match mode {
            Chaining::Ecb => Aes::ecb(self, encrypt, input)?,
            Chaining::Cbc => self.cbc(encrypt, iv, input)?,
            Chaining::Cfb => self.cfb(encrypt, iv, input)?,
        })
    }

    fn chain(&self, iv: &mut [u8; BLOCK], input: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        Ok(self.cbc(true, iv, input)?)
    }
}

/// An IV of one block.
pub(super) fn iv(params: &Params) -> Result<[u8; BLOCK]> {
    let wanted = "an IV of 16 bytes is needed";
    match params {
        Params::Bytes(bytes) => bytes[..].try_into().map_err(|_| params.refused(wanted)),
        _ => Err(params.refused(wanted)),
    }
}

/// Takes the first bytes off; the rest stays.
pub(super) fn split(bytes: &mut Zeroizing<Vec<u8>>, at: usize) -> Zeroizing<Vec<u8>> {
    let at = at.min(bytes.len());
    let rest = bytes.split_off(at);
    std::mem::replace(bytes, Zeroizing::new(rest))
}

/// Input of a length that no mode takes.
pub(super) fn bad_length(direction: Direction, why: &'static str) -> Error {
    match direction {
        Direction::Encrypt => Error::DataLenRange(why),
        Direction::Decrypt => Error::EncryptedDataLenRange,
    }
}
