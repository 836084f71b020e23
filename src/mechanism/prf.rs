//! A key under which many HMACs or CMACs are computed: what HKDF and its like derive keys with. A key that is not
//! readable computes them in the TPM and its value stays there.

use zeroize::Zeroizing;

use super::aes::{self, BlockCipher};
use super::{Chip, Held, aes_cmac, hmac, secret};
use crate::crypto::hash::Hash;
use crate::crypto::mac;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::{HashAlgorithm, Key};

/// HMAC, or AES-CMAC, under one key.
pub(super) enum Prf<'a> {
    /// By the TPM.
    Chip(Box<Key>, HashAlgorithm),
    /// In the host: of a readable key, of a sealed one, or of bytes that are no key.
    Host(Hash, Zeroizing<Vec<u8>>),
    /// By a key's block cipher; with it, what it makes of zeros.
    Cmac(Box<dyn BlockCipher + 'a>, Zeroizing<Vec<u8>>),
}

impl<'a> Prf<'a> {
    /// Under a key. A readable one costs no TPM command.
    ///
    /// # Errors
    /// [`Error::KeyFunctionNotPermitted`] if the key lives in the TPM alone and the TPM lacks the hash;
    /// the TPM's.
    pub fn of_key(hash: Hash, key: &Object, chip: &Chip<'a>) -> Result<Self> {
        if secret::secret_of(key)?.value.is_some() {
            return Ok(Self::of_bytes(hash, chip.value(key)?));
        }
        let offered = hmac::of_the_chip(hash)
            .filter(|hash| chip.facts.is_none_or(|facts| facts.hashes.contains(hash)));
        match (chip.secret(key)?, offered) {
            (Held::Host(value), _) => Ok(Self::of_bytes(hash, value)),
            (Held::Chip(key), Some(hash)) => Ok(Self::Chip(Box::new(key), hash)),
            (Held::Chip(_), None) => {
                log::info!(
                    "key {}: the TPM does not have {hash:?}, and the key's value lives in the TPM \
                     alone",
                    key.unique_id()
                );
                Err(Error::KeyFunctionNotPermitted(
                    "the TPM does not have this hash, and the key's value lives in the TPM alone",
                ))
            }
        }
    }

    /// AES-CMAC under an AES key, which takes a command to begin with.
    ///
    /// # Errors
    /// Those of [`Chip::secret`]; the TPM's.
    pub fn cmac(key: &Object, chip: &Chip<'a>) -> Result<Self> {
        let cipher = aes::block_cipher(chip, key)?;
        let zeros = aes_cmac::of_zeros(&*cipher)?;
        Ok(Self::Cmac(cipher, zeros))
    }

    /// Under bytes.
    pub fn of_bytes(hash: Hash, value: Zeroizing<Vec<u8>>) -> Self {
        Self::Host(hash, value)
    }

    /// The MAC of a message, as long as the hash or 16 bytes.
    ///
    /// # Errors
    /// The TPM's.
    pub fn mac(&self, message: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        match self {
            Prf::Host(hash, value) => Ok(mac::hmac(*hash, value, message)),
            Prf::Cmac(cipher, zeros) => {
                aes_cmac::cmac(&**cipher, zeros, Zeroizing::new(message.to_vec()))
            }
            Prf::Chip(key, hash) => {
                let mac = chip.tpm.mac(chip.call, key, *hash, message)?;
                if mac.len() != Hash::from(*hash).len() {
                    return Err(Error::Device(
                        "the TPM answered with a MAC of another length".into(),
                    ));
                }
                Ok(mac)
            }
        }
    }
}
