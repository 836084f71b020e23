//! PKCS #1 v1.5: signatures without and with hashing, with recovery, and encryption.
//! PKCS#11 3.2 §6.1.6, §6.1.14.

use cryptoki_sys::{
    CKK_RSA, CKM_RSA_PKCS, CKM_SHA1_RSA_PKCS, CKM_SHA3_224_RSA_PKCS, CKM_SHA3_256_RSA_PKCS,
    CKM_SHA3_384_RSA_PKCS, CKM_SHA3_512_RSA_PKCS, CKM_SHA224_RSA_PKCS, CKM_SHA256_RSA_PKCS,
    CKM_SHA384_RSA_PKCS, CKM_SHA512_RSA_PKCS,
};

use super::hashing::{self, Form};
use super::rsa::{self, Private};
use super::{Cipher, Does, Keys, Mechanism, NOTHING, Params, Recover, Sign, Verify};
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
            wrap: Some(encrypt),
            unwrap: Some(decrypt),
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
        keys: Keys::Pair(CKK_RSA),
        size: rsa::SIZE,
        hash,
        chip: &[RsaDecrypt::ID],
        does: Does { sign: Some(sign), verify: Some(verify), ..NOTHING },
    }
}

/// The most data that fits the key, in bytes.
fn limit(key: &PublicKey) -> (usize, Error) {
    (key.len() - PKCS1_OVERHEAD, Error::DataLenRange("at most 11 bytes less than the modulus"))
}

fn sign(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Sign>> {
    params.none()?;
    let key = Private::of(key)?;
    fits(row, &key.public)?;
    let limit = limit(&key.public);
    let behind =
        rsa::signing(key, limit, |key, data| Ok(pad::pkcs1_signature(data, key.len())?.into()));
    Ok(hashing::sign(row, Form::DigestInfo, behind))
}

fn verify(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Verify>> {
    params.none()?;
    let key = rsa::public(key)?;
    fits(row, &key)?;
    let limit = limit(&key);
    let behind = rsa::verifying(key, limit, |key, data, signature| {
        key.verify_pkcs1(data, signature).map_err(rsa::refused)
    });
    Ok(hashing::verify(row, Form::DigestInfo, behind))
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
    let limit = limit(&key);
    Ok(rsa::encrypting(key, limit, |key, data| Ok(key.encrypt_pkcs1(data)?.into())))
}

/// Never says that the padding was wrong: then the answer is random (implicit rejection).
fn decrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    params.none()?;
    let key = Private::of(key)?;
    let (length, _) = limit(&key.public);
    Ok(rsa::decrypting(key, length, |key, block, ciphertext| {
        Ok(pad::pkcs1_encryption_open(&block, ciphertext, key.secret()))
    }))
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
