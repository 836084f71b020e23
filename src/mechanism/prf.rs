//! A key under which many HMACs are computed: what HKDF and its like derive keys with. A key that is not
//! readable computes them in the TPM and its value stays there.

use zeroize::Zeroizing;

use super::{Chip, Held, hmac, secret};
use crate::crypto::hash::Hash;
use crate::crypto::mac;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::{HashAlgorithm, Key};

/// HMAC under one key.
pub(super) enum Prf {
    /// By the TPM.
    Chip(Box<Key>, HashAlgorithm),
    /// In the host: of a readable key, of a sealed one, or of bytes that are no key.
    Host(Hash, Zeroizing<Vec<u8>>),
}

impl Prf {
    /// Under a key. A readable one costs no TPM command.
    ///
    /// # Errors
    /// [`Error::KeyFunctionNotPermitted`] if the key lives in the TPM alone and the TPM lacks the hash;
    /// the TPM's.
    pub fn of_key(hash: Hash, key: &Object, chip: &Chip<'_>) -> Result<Self> {
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

    /// Under bytes.
    pub fn of_bytes(hash: Hash, value: Zeroizing<Vec<u8>>) -> Self {
        Self::Host(hash, value)
    }

    /// HMAC of a message, as long as the hash.
    ///
    /// # Errors
    /// The TPM's.
    pub fn mac(&self, message: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        match self {
            Prf::Host(hash, value) => Ok(mac::hmac(*hash, value, message)),
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
