//! HMAC over secret keys: by the TPM where it has the hash, in the host over a sealed or readable key where
//! it does not. PKCS#11 3.2 §6.20 to §6.24 and what they say of each hash.
//!
//! A message in parts is kept here until its end: nothing of it lies in the TPM between two calls.

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::mac::{self, Mac};
use super::{Chip, Does, Held, Keys, Mechanism, Params, Size};
use crate::crypto::hash::Hash;
use crate::crypto::mac::hmac;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::HashAlgorithm;
use crate::tpm::command::{Command as _, CommandId, Hmac, Unseal};
use crate::tpm::key::KEYED_LIMIT;

/// Keys of HMAC, in bytes.
pub(super) const SIZE: Size = Size::Bytes(1, KEYED_LIMIT as u64);

/// The rows of one hash: the whole MAC, and as many of its leading bytes as the parameter says.
macro_rules! rows {
    ($(($whole:ident, $general:ident, $hash:ident, $key_type:ident, $keys:ident, $command:ident)),* $(,)?) => {
        &[$(
            row($whole, stringify!($whole), Hash::$hash,
                Keys::$keys(&[CKK_GENERIC_SECRET, $key_type]), &[$command::ID], mac::does::<HashMac>()),
            row($general, stringify!($general), Hash::$hash,
                Keys::$keys(&[CKK_GENERIC_SECRET, $key_type]), &[$command::ID], mac::general::<HashMac>()),
        )*]
    };
}

pub(super) static ROWS: &[Mechanism] = rows![
    (CKM_SHA_1_HMAC, CKM_SHA_1_HMAC_GENERAL, Sha1, CKK_SHA_1_HMAC, Secret, Hmac),
    (CKM_SHA224_HMAC, CKM_SHA224_HMAC_GENERAL, Sha224, CKK_SHA224_HMAC, Sealed, Unseal),
    (CKM_SHA256_HMAC, CKM_SHA256_HMAC_GENERAL, Sha256, CKK_SHA256_HMAC, Secret, Hmac),
    (CKM_SHA384_HMAC, CKM_SHA384_HMAC_GENERAL, Sha384, CKK_SHA384_HMAC, Secret, Hmac),
    (CKM_SHA512_HMAC, CKM_SHA512_HMAC_GENERAL, Sha512, CKK_SHA512_HMAC, Secret, Hmac),
    (
        CKM_SHA512_224_HMAC,
        CKM_SHA512_224_HMAC_GENERAL,
        Sha512_224,
        CKK_SHA512_224_HMAC,
        Sealed,
        Unseal
    ),
    (
        CKM_SHA512_256_HMAC,
        CKM_SHA512_256_HMAC_GENERAL,
        Sha512_256,
        CKK_SHA512_256_HMAC,
        Sealed,
        Unseal
    ),
    (CKM_SHA3_224_HMAC, CKM_SHA3_224_HMAC_GENERAL, Sha3_224, CKK_SHA3_224_HMAC, Sealed, Unseal),
    (CKM_SHA3_256_HMAC, CKM_SHA3_256_HMAC_GENERAL, Sha3_256, CKK_SHA3_256_HMAC, Sealed, Unseal),
    (CKM_SHA3_384_HMAC, CKM_SHA3_384_HMAC_GENERAL, Sha3_384, CKK_SHA3_384_HMAC, Sealed, Unseal),
    (CKM_SHA3_512_HMAC, CKM_SHA3_512_HMAC_GENERAL, Sha3_512, CKK_SHA3_512_HMAC, Sealed, Unseal),
];

const fn row(
    id: u64,
    name: &'static str,
    hash: Hash,
    keys: Keys,
    chip: &'static [CommandId],
    does: Does,
) -> Mechanism {
    Mechanism { id, name, keys, size: SIZE, hash: Some(hash), chip, does }
}

/// The hash as the TPM calls it, if it can have it.
pub(super) fn of_the_chip(hash: Hash) -> Option<HashAlgorithm> {
    HashAlgorithm::ALL.into_iter().find(|chip| Hash::from(*chip) == hash)
}

struct HashMac {
    hash: Hash,
    /// How many bytes of it are asked.
    length: usize,
    key: Object,
}

impl Mac for HashMac {
    fn new(row: &Mechanism, params: &Params, key: &Object) -> Result<Self> {
        let hash = row.hash.ok_or(Error::Bug("an HMAC without a hash"))?;
        let length = mac::length(row, params, hash.len())?;
        if of_the_chip(hash).is_none() {
            super::secret::in_the_host(key)?;
        }
        Ok(Self { hash, length, key: key.clone() })
    }

    fn length(&self) -> usize {
        self.length
    }

    fn make(self, message: Zeroizing<Vec<u8>>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let mut whole = match of_the_chip(self.hash) {
            Some(hash) => match chip.secret(&self.key)? {
                Held::Chip(key) => chip.tpm.mac(chip.call, &key, hash, &message)?,
                Held::Host(value) => hmac(self.hash, &value, &message),
            },
            None => hmac(self.hash, &chip.value(&self.key)?, &message),
        };
        if whole.len() != self.hash.len() {
            return Err(Error::Device("the TPM answered with a MAC of another length".into()));
        }
        whole.truncate(self.length);
        Ok(whole)
    }
}
