//! PKCS #1 v1.5: signatures without and with hashing, with recovery, and encryption.
//! PKCS#11 3.2 §6.1.6, §6.1.14.

use cryptoki_sys::{
    CKK_RSA, CKM_RSA_PKCS, CKM_SHA1_RSA_PKCS, CKM_SHA3_224_RSA_PKCS, CKM_SHA3_256_RSA_PKCS,
    CKM_SHA3_384_RSA_PKCS, CKM_SHA3_512_RSA_PKCS, CKM_SHA224_RSA_PKCS, CKM_SHA256_RSA_PKCS,
    CKM_SHA384_RSA_PKCS, CKM_SHA512_RSA_PKCS,
};
use zeroize::Zeroizing;

use super::hashing::{self, Form};
use super::rsa::{self, Collected, Private};
use super::{Chip, Cipher, Does, Mechanism, NOTHING, Params, Recover, Sign, Verify};
use crate::crypto::hash::Hash;
use crate::crypto::pad::{self, PKCS1_OVERHEAD};
use crate::crypto::rsa::PublicKey;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::{Command as _, RsaDecrypt};

pub(super) static ROWS: &[Mechanism] = &[
    Mechanism {
        does: Does {
            sign: Some(sign),
            sign_recover: Some(sign),
            verify: Some(verify),
            verify_recover: Some(recover),
            encrypt: Some(encrypt),
            decrypt: Some(decrypt),
            ..NOTHING
        },
        ..row(CKM_RSA_PKCS, "CKM_RSA_PKCS", None)
    },
    row(CKM_SHA1_RSA_PKCS, "CKM_SHA1_RSA_PKCS", Some(Hash::Sha1)),
    row(CKM_SHA224_RSA_PKCS, "CKM_SHA224_RSA_PKCS", Some(Hash::Sha224)),
    row(CKM_SHA256_RSA_PKCS, "CKM_SHA256_RSA_PKCS", Some(Hash::Sha256)),
    row(CKM_SHA384_RSA_PKCS, "CKM_SHA384_RSA_PKCS", Some(Hash::Sha384)),
    row(CKM_SHA512_RSA_PKCS, "CKM_SHA512_RSA_PKCS", Some(Hash::Sha512)),
    row(CKM_SHA3_224_RSA_PKCS, "CKM_SHA3_224_RSA_PKCS", Some(Hash::Sha3_224)),
    row(CKM_SHA3_256_RSA_PKCS, "CKM_SHA3_256_RSA_PKCS", Some(Hash::Sha3_256)),
    row(CKM_SHA3_384_RSA_PKCS, "CKM_SHA3_384_RSA_PKCS", Some(Hash::Sha3_384)),
    row(CKM_SHA3_512_RSA_PKCS, "CKM_SHA3_512_RSA_PKCS", Some(Hash::Sha3_512)),
];

const fn row(id: u64, name: &'static str, hash: Option<Hash>) -> Mechanism {
    Mechanism {
        id,
        name,
        key_type: Some(CKK_RSA),
        size: rsa::SIZE,
        hash,
        chip: &[RsaDecrypt::CODE],
        does: Does { sign: Some(sign), verify: Some(verify), ..NOTHING },
    }
}

const TOO_LONG: Error = Error::DataLenRange("at most 11 bytes less than the modulus");

fn sign(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Sign>> {
    params.none()?;
    let key = Private::of(key)?;
    fits(row, &key.public)?;
    let data = Collected::new(key.public.len() - PKCS1_OVERHEAD);
    Ok(hashing::sign(row, Form::DigestInfo, Box::new(Signing { key, data })))
}

fn verify(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Verify>> {
    params.none()?;
    let key = rsa::public(key)?;
    fits(row, &key)?;
    let data = Collected::new(key.len() - PKCS1_OVERHEAD);
    Ok(hashing::verify(row, Form::DigestInfo, Box::new(Verifying { key, data })))
}

/// Whether the row's DigestInfo fits the key at all, so that it is refused at the beginning.
fn fits(row: &Mechanism, key: &PublicKey) -> Result<()> {
    let info = row.hash.map_or(0, |hash| hash.digest_info(&hash.digest(&[])).len());
    if info + PKCS1_OVERHEAD <= key.len() {
        Ok(())
    } else {
        Err(Error::KeySizeRange("the modulus is too short for this hash".into()))
    }
}

fn recover(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Recover>> {
    params.none()?;
    Ok(Box::new(Recovering { key: rsa::public(key)? }))
}

fn encrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    params.none()?;
    let key = rsa::public(key)?;
    let data = Collected::new(key.len() - PKCS1_OVERHEAD);
    Ok(Box::new(Encrypting { key, data }))
}

fn decrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    params.none()?;
    let key = Private::of(key)?;
    let data = Collected::new(key.public.len());
    Ok(Box::new(Decrypting { key, data }))
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
        let encoded = pad::pkcs1_signature(&self.data, self.length())?;
        Ok(self.key.apply(&encoded, chip)?.to_vec())
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
        self.key.verify_pkcs1(&self.data, signature).map_err(rsa::refused)
    }
}

struct Recovering {
    key: PublicKey,
}

impl Recover for Recovering {
    fn length(&self) -> usize {
        self.key.len() - PKCS1_OVERHEAD
    }

    fn finish(self: Box<Self>, signature: &[u8]) -> Result<Vec<u8>> {
        let encoded = self.key.opened(signature).map_err(rsa::refused)?;
        pad::pkcs1_signature_open(&encoded).map(<[u8]>::to_vec).map_err(rsa::refused)
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
        Ok(self.key.encrypt_pkcs1(&self.data)?.into())
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
        self.key.public.len() - PKCS1_OVERHEAD
    }

    /// Never says that the padding was wrong: then the answer is random (implicit rejection).
    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        rsa::ciphertext(&self.key.public, &self.data)?;
        let encoded = self.key.apply(&self.data, chip)?;
        Ok(pad::pkcs1_encryption_open(&encoded, &self.data, self.key.secret()))
    }
}
