//! RSASSA-PSS, without and with hashing: any hash, any MGF1, any salt length, over the TPM's raw
//! operation, because a TPM has its own ideas of the salt. PKCS#11 3.2 §6.1.10, §6.1.15.

use cryptoki_sys::{
    CKK_RSA, CKM_RSA_PKCS_PSS, CKM_SHA1_RSA_PKCS_PSS, CKM_SHA3_224_RSA_PKCS_PSS,
    CKM_SHA3_256_RSA_PKCS_PSS, CKM_SHA3_384_RSA_PKCS_PSS, CKM_SHA3_512_RSA_PKCS_PSS,
    CKM_SHA224_RSA_PKCS_PSS, CKM_SHA256_RSA_PKCS_PSS, CKM_SHA384_RSA_PKCS_PSS,
    CKM_SHA512_RSA_PKCS_PSS,
};

use super::hashing::{self, Form};
use super::rsa::{self, Private};
use super::{Does, Keys, Mechanism, NOTHING, Params, Sign, Verify};
use crate::crypto::drbg::os_random;
use crate::crypto::hash::Hash;
use crate::crypto::pad;
use crate::crypto::rsa::PublicKey;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::{Command as _, RsaDecrypt};

pub(super) static ROWS: &[Mechanism] = &[
    row(CKM_RSA_PKCS_PSS, "CKM_RSA_PKCS_PSS", None),
    row(CKM_SHA1_RSA_PKCS_PSS, "CKM_SHA1_RSA_PKCS_PSS", Some(Hash::Sha1)),
    row(CKM_SHA224_RSA_PKCS_PSS, "CKM_SHA224_RSA_PKCS_PSS", Some(Hash::Sha224)),
    row(CKM_SHA256_RSA_PKCS_PSS, "CKM_SHA256_RSA_PKCS_PSS", Some(Hash::Sha256)),
    row(CKM_SHA384_RSA_PKCS_PSS, "CKM_SHA384_RSA_PKCS_PSS", Some(Hash::Sha384)),
    row(CKM_SHA512_RSA_PKCS_PSS, "CKM_SHA512_RSA_PKCS_PSS", Some(Hash::Sha512)),
    row(CKM_SHA3_224_RSA_PKCS_PSS, "CKM_SHA3_224_RSA_PKCS_PSS", Some(Hash::Sha3_224)),
    row(CKM_SHA3_256_RSA_PKCS_PSS, "CKM_SHA3_256_RSA_PKCS_PSS", Some(Hash::Sha3_256)),
    row(CKM_SHA3_384_RSA_PKCS_PSS, "CKM_SHA3_384_RSA_PKCS_PSS", Some(Hash::Sha3_384)),
    row(CKM_SHA3_512_RSA_PKCS_PSS, "CKM_SHA3_512_RSA_PKCS_PSS", Some(Hash::Sha3_512)),
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

/// CK_RSA_PKCS_PSS_PARAMS, checked against the row and the key.
#[derive(Clone, Copy)]
struct Pss {
    hash: Hash,
    mgf: Hash,
    salt_length: usize,
}

impl Pss {
    fn of(row: &Mechanism, params: &Params, key: &PublicKey) -> Result<Self> {
        let Params::Pss { hash, mgf, salt_length } = *params else {
            return Err(params.refused("CK_RSA_PKCS_PSS_PARAMS is missing"));
        };
        if row.hash.is_some_and(|own| own != hash) {
            return Err(Error::MechanismParamInvalid("hashAlg is not the mechanism's own hash"));
        }
        let limit = pad::pss_salt_limit(hash, key.bits())
            .ok_or_else(|| Error::KeySizeRange("the modulus is too short for this hash".into()))?;
        if salt_length > limit {
            return Err(Error::MechanismParamInvalid("sLen is too long for this key"));
        }
        Ok(Self { hash, mgf, salt_length })
    }

    /// The digest, which is all the data there can be.
    fn digest<'a>(&self, data: &'a [u8]) -> Result<&'a [u8]> {
        if data.len() == self.hash.len() { Ok(data) } else { Err(WRONG_LENGTH) }
    }
}

const WRONG_LENGTH: Error = Error::DataLenRange("exactly as long as the hash in hashAlg");

fn sign(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Sign>> {
    let key = Private::of(key)?;
    let pss = Pss::of(row, params, &key.public)?;
    let behind = rsa::signing(key, (pss.hash.len(), WRONG_LENGTH), move |key, data| {
        let digest = pss.digest(data)?;
        let mut salt = vec![0; pss.salt_length];
        os_random(&mut salt)?;
        Ok(pad::pss(pss.hash, pss.mgf, digest, &salt, key.bits())?.into())
    });
    Ok(hashing::sign(row, Form::Digest, behind))
}

fn verify(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Verify>> {
    let key = rsa::public(key)?;
    let pss = Pss::of(row, params, &key)?;
    let behind =
        rsa::verifying(key, (pss.hash.len(), WRONG_LENGTH), move |key, data, signature| {
            let Pss { hash, mgf, salt_length } = pss;
            let digest = pss.digest(data)?;
            key.verify_pss(hash, mgf, salt_length, digest, signature).map_err(rsa::refused)
        });
    Ok(hashing::verify(row, Form::Digest, behind))
}
