//! RSA AES key wrap: a key under an AES key of the moment (RFC 5649), and that one under an RSA key (OAEP).
//! PKCS#11 3.2 §6.1.20.
//!
//! The AES key is no key of the token: it is drawn for one call, and the host works with it.

use cryptoki_sys::{CKK_RSA, CKM_AES_KEY_WRAP_KWP, CKM_RSA_AES_KEY_WRAP};
use zeroize::Zeroizing;

use super::aes_key_wrap::KeyWrap;
use super::rsa::{self, Private};
use super::{Chip, Cipher, Does, Keys, Mechanism, NOTHING, Params};
use crate::crypto::aes::Aes;
use crate::crypto::drbg::{os_bytes, os_random};
use crate::crypto::hash::Hash;
use crate::crypto::pad;
use crate::crypto::rsa::PublicKey;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::{Command as _, RsaDecrypt};

pub(super) static ROWS: &[Mechanism] = &[Mechanism {
    id: CKM_RSA_AES_KEY_WRAP,
    name: "CKM_RSA_AES_KEY_WRAP",
    keys: Keys::Pair(CKK_RSA),
    size: rsa::SIZE,
    hash: None,
    chip: &[RsaDecrypt::ID],
    does: Does { wrap: Some(wrap), unwrap: Some(unwrap), sound: true, ..NOTHING },
}];

/// CK_RSA_AES_KEY_WRAP_PARAMS, and the ways that they name.
struct Setup {
    /// Of the AES key.
    bytes: usize,
    hash: Hash,
    mgf: Hash,
    label: Vec<u8>,
    inner: KeyWrap,
}

impl Setup {
    fn of(params: &Params, key: &PublicKey) -> Result<Self> {
        let Params::RsaAes { bits, oaep } = params else {
            return Err(params.refused("CK_RSA_AES_KEY_WRAP_PARAMS is missing"));
        };
        let Params::Oaep { hash, mgf, label } = &**oaep else {
            return Err(oaep.refused("CK_RSA_PKCS_OAEP_PARAMS is missing"));
        };
        let bytes = match bits {
            128 | 192 | 256 => (*bits / 8) as usize,
            _ => return Err(Error::MechanismParamInvalid("ulAESKeyBits is not 128, 192, 256")),
        };
        if pad::oaep_limit(*hash, key.len()).is_none_or(|limit| limit < bytes) {
            return Err(Error::KeySizeRange("the modulus is too short for this hash".into()));
        }
        let inner = KeyWrap::of(CKM_AES_KEY_WRAP_KWP, &Params::None)?;
        Ok(Self { bytes, hash: *hash, mgf: *mgf, label: label.clone(), inner })
    }
}

fn wrap(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    let key = rsa::public(key)?;
    Ok(Box::new(Wrapping { setup: Setup::of(params, &key)?, key, held: Zeroizing::default() }))
}

fn unwrap(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    let key = Private::of(key)?;
    let setup = Setup::of(params, &key.public)?;
    Ok(Box::new(Unwrapping { setup, key, held: Vec::new() }))
}

struct Wrapping {
    setup: Setup,
    key: PublicKey,
    held: Zeroizing<Vec<u8>>,
}

impl Cipher for Wrapping {
    fn update_length(&self, _input: usize) -> usize {
        0
    }

    fn update(&mut self, data: &[u8], _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        self.held.extend_from_slice(data);
        Ok(Zeroizing::default())
    }

    fn finish_length(&self, input: usize) -> usize {
        self.key.len() + self.setup.inner.wrapped_length(self.held.len().saturating_add(input))
    }

    fn finish(self: Box<Self>, _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let Self { setup, key, held } = *self;
        let mut kek = Zeroizing::new(vec![0; setup.bytes]);
        os_random(&mut kek)?;
        let mut wrapped = key.encrypt_oaep(setup.hash, setup.mgf, &setup.label, &kek)?;
        wrapped.extend(setup.inner.wrap(&Aes::new(&kek)?, &held)?);
        Ok(wrapped.into())
    }
}

struct Unwrapping {
    setup: Setup,
    key: Private,
    held: Vec<u8>,
}

impl Cipher for Unwrapping {
    fn update_length(&self, _input: usize) -> usize {
        0
    }

    fn update(&mut self, data: &[u8], _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        self.held.extend_from_slice(data);
        Ok(Zeroizing::default())
    }

    fn finish_length(&self, input: usize) -> usize {
        let inner = self.held.len().saturating_add(input).saturating_sub(self.key.public.len());
        self.setup.inner.unwrapped_length(inner)
    }

    /// What is wrong with the first part shows as little as what is wrong with the second: then a
    /// random key opens nothing.
    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let Self { setup, key, held } = *self;
        let Some((first, second)) = held.split_at_checked(key.public.len()) else {
            return Err(Error::EncryptedDataLenRange);
        };
        key.public.fits(first).map_err(|_| Error::EncryptedDataInvalid)?;
        let block = key.apply(first, chip)?;
        let random = os_bytes::<32>()?;
        let kek = pad::oaep_open(setup.hash, setup.mgf, &setup.label, &block)
            .ok()
            .filter(|kek| kek.len() == setup.bytes)
            .unwrap_or_else(|| Zeroizing::new(random.iter().take(setup.bytes).copied().collect()));
        setup.inner.unwrap(&Aes::new(&kek)?, second)
    }
}
