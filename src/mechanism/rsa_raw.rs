//! X.509 (raw) RSA: the operation alone, on numbers. PKCS#11 3.2 §6.1.12. Data shorter than the
//! modulus is padded with zero bytes in front.

use cryptoki_sys::{CKK_RSA, CKM_RSA_X_509};
use zeroize::Zeroizing;

use super::rsa::{self, Collected, Private};
use super::{Chip, Cipher, Does, Mechanism, NOTHING, Params, Recover, Sign, Verify};
use crate::crypto::Fault;
use crate::crypto::rsa::PublicKey;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::{Command as _, RsaDecrypt};

pub(super) static ROWS: &[Mechanism] = &[Mechanism {
    id: CKM_RSA_X_509,
    name: "CKM_RSA_X_509",
    key_type: Some(CKK_RSA),
    size: rsa::SIZE,
    hash: None,
    chip: &[RsaDecrypt::CODE],
    does: Does {
        sign: Some(sign),
        sign_recover: Some(sign),
        verify: Some(verify),
        verify_recover: Some(recover),
        encrypt: Some(encrypt),
        decrypt: Some(decrypt),
        ..NOTHING
    },
}];

const TOO_LONG: Error = Error::DataLenRange("at most as long as the modulus");

fn sign(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Sign>> {
    params.none()?;
    let key = Private::of(key)?;
    let data = Collected::new(key.public.len());
    Ok(Box::new(Signing { key, data }))
}

fn verify(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Verify>> {
    params.none()?;
    let key = rsa::public(key)?;
    let data = Collected::new(key.len());
    Ok(Box::new(Verifying { key, data }))
}

fn recover(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Recover>> {
    params.none()?;
    Ok(Box::new(Recovering { key: rsa::public(key)? }))
}

fn encrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    params.none()?;
    let key = rsa::public(key)?;
    let data = Collected::new(key.len());
    Ok(Box::new(Encrypting { key, data }))
}

fn decrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    params.none()?;
    let key = Private::of(key)?;
    let data = Collected::new(key.public.len());
    Ok(Box::new(Decrypting { key, data }))
}

/// The data as a number of k bytes, below the modulus.
fn number(key: &PublicKey, data: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let mut number = Zeroizing::new(Vec::with_capacity(key.len()));
    number.resize(key.len().saturating_sub(data.len()), 0);
    number.extend_from_slice(data);
    key.fits(&number).map_err(|fault| match fault {
        Fault::Length => TOO_LONG,
        _ => Error::DataInvalid("as a number not smaller than the modulus"),
    })?;
    Ok(number)
}

struct Signing {
    key: Private,
    data: Collected,
}

impl Sign for Signing {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.data.update(data, TOO_LONG)
    }

    fn length(&self) -> usize {
        self.key.public.len()
    }

    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Vec<u8>> {
        let number = number(&self.key.public, &self.data)?;
        Ok(self.key.apply(&number, chip)?.to_vec())
    }
}

struct Verifying {
    key: PublicKey,
    data: Collected,
}

impl Verify for Verifying {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.data.update(data, TOO_LONG)
    }

    fn finish(self: Box<Self>, signature: &[u8]) -> Result<()> {
        let number = number(&self.key, &self.data)?;
        let opened = self.key.opened(signature).map_err(rsa::refused)?;
        if opened == number { Ok(()) } else { Err(Error::SignatureInvalid) }
    }
}

struct Recovering {
    key: PublicKey,
}

impl Recover for Recovering {
    fn length(&self) -> usize {
        self.key.len()
    }

    fn finish(self: Box<Self>, signature: &[u8]) -> Result<Vec<u8>> {
        Ok(self.key.opened(signature).map_err(rsa::refused)?.to_vec())
    }
}

struct Encrypting {
    key: PublicKey,
    data: Collected,
}

impl Cipher for Encrypting {
    fn update_length(&self, _input: usize) -> usize {
        0
    }

    fn update(&mut self, data: &[u8], _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        self.data.update(data, TOO_LONG)?;
        Ok(Zeroizing::default())
    }

    fn finish_length(&self, _input: usize) -> usize {
        self.key.len()
    }

    fn finish(self: Box<Self>, _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let number = number(&self.key, &self.data)?;
        Ok(self.key.raw(&number)?)
    }
}

struct Decrypting {
    key: Private,
    data: Collected,
}

impl Cipher for Decrypting {
    fn update_length(&self, _input: usize) -> usize {
        0
    }

    fn update(&mut self, data: &[u8], _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        self.data.update(data, Error::EncryptedDataLenRange)?;
        Ok(Zeroizing::default())
    }

    fn finish_length(&self, _input: usize) -> usize {
        self.key.public.len()
    }

    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        rsa::ciphertext(&self.key.public, &self.data)?;
        self.key.apply(&self.data, chip)
    }
}
