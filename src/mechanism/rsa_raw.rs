//! X.509 (raw) RSA: the operation alone, on numbers. PKCS#11 3.2 §6.1.12. Data shorter than the
//! modulus is padded with zero bytes in front.

use cryptoki_sys::{CKK_RSA, CKM_RSA_X_509};
use zeroize::Zeroizing;

use super::rsa::{self, Private};
use super::{Cipher, Does, Keys, Mechanism, NOTHING, Params, Recover, Sign, Verify};
use crate::crypto::Fault;
use crate::crypto::rsa::PublicKey;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::{Command as _, RsaDecrypt};

pub(super) static ROWS: &[Mechanism] = &[Mechanism {
    id: CKM_RSA_X_509,
    name: "CKM_RSA_X_509",
    keys: Keys::Pair(CKK_RSA),
    size: rsa::SIZE,
    hash: None,
    chip: &[RsaDecrypt::ID],
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

/// The most data that the key takes, in bytes.
fn limit(key: &PublicKey) -> (usize, Error) {
    (key.len(), TOO_LONG)
}

fn sign(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Sign>> {
    params.none()?;
    let key = Private::of(key)?;
    let limit = limit(&key.public);
    Ok(rsa::signing(key, limit, number))
}

fn verify(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Verify>> {
    params.none()?;
    let key = rsa::public(key)?;
    let limit = limit(&key);
    Ok(rsa::verifying(key, limit, |key, data, signature| {
        let number = number(key, data)?;
        let opened = key.opened(signature).map_err(rsa::refused)?;
        if opened == number { Ok(()) } else { Err(Error::SignatureInvalid) }
    }))
}

fn recover(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Recover>> {
    params.none()?;
    Ok(Box::new(Recovering { key: rsa::public(key)? }))
}

fn encrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    params.none()?;
    let key = rsa::public(key)?;
    let limit = limit(&key);
    Ok(rsa::encrypting(key, limit, |key, data| Ok(key.raw(&number(key, data)?)?)))
}

fn decrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    params.none()?;
    let key = Private::of(key)?;
    let length = key.public.len();
    Ok(rsa::decrypting(key, length, |_, block, _| Ok(block)))
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
