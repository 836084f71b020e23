//! RSAES-OAEP: any hash, any MGF1, any label. PKCS#11 3.2 §6.1.8.

use cryptoki_sys::{CKK_RSA, CKM_RSA_PKCS_OAEP};

use super::rsa::{self, Private};
use super::{Cipher, Does, Keys, Mechanism, NOTHING, Params};
use crate::crypto::hash::Hash;
use crate::crypto::pad;
use crate::crypto::rsa::PublicKey;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::{Command as _, RsaDecrypt};

pub(super) static ROWS: &[Mechanism] = &[Mechanism {
    id: CKM_RSA_PKCS_OAEP,
    name: "CKM_RSA_PKCS_OAEP",
    keys: Keys::Pair(CKK_RSA),
    size: rsa::SIZE,
    hash: None,
    chip: &[RsaDecrypt::ID],
    does: Does {
        encrypt: Some(encrypt),
        decrypt: Some(decrypt),
        wrap: Some(encrypt),
        unwrap: Some(decrypt),
        sound: true,
        ..NOTHING
    },
}];

/// CK_RSA_PKCS_OAEP_PARAMS, and the most data that fits the key with them.
struct Oaep {
    hash: Hash,
    mgf: Hash,
    label: Vec<u8>,
    limit: usize,
}

impl Oaep {
    fn of(params: &Params, key: &PublicKey) -> Result<Self> {
        let Params::Oaep { hash, mgf, label } = params else {
            return Err(params.refused("CK_RSA_PKCS_OAEP_PARAMS is missing"));
        };
        let limit = pad::oaep_limit(*hash, key.len())
            .ok_or_else(|| Error::KeySizeRange("the modulus is too short for this hash".into()))?;
        Ok(Self { hash: *hash, mgf: *mgf, label: label.clone(), limit })
    }
}

const TOO_LONG: Error =
    Error::DataLenRange("at most 2 bytes and two digests less than the modulus");

fn encrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    let key = rsa::public(key)?;
    let Oaep { hash, mgf, label, limit } = Oaep::of(params, &key)?;
    Ok(rsa::encrypting(key, (limit, TOO_LONG), move |key, data| {
        Ok(key.encrypt_oaep(hash, mgf, &label, data)?.into())
    }))
}

fn decrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    let key = Private::of(key)?;
    let Oaep { hash, mgf, label, limit } = Oaep::of(params, &key.public)?;
    Ok(rsa::decrypting(key, limit, move |_, block, _| {
        pad::oaep_open(hash, mgf, &label, &block).map_err(|_| Error::EncryptedDataInvalid)
    }))
}
