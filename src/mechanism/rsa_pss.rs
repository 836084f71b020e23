//! RSASSA-PSS, without and with hashing: any hash, any MGF1, any salt length, over the TPM's raw
//! operation, because a TPM has its own ideas of the salt. PKCS#11 3.2 §6.1.10, §6.1.15.

use cryptoki_sys::{
    CKK_RSA, CKM_RSA_PKCS_PSS, CKM_SHA1_RSA_PKCS_PSS, CKM_SHA3_224_RSA_PKCS_PSS,
    CKM_SHA3_256_RSA_PKCS_PSS, CKM_SHA3_384_RSA_PKCS_PSS, CKM_SHA3_512_RSA_PKCS_PSS,
    CKM_SHA224_RSA_PKCS_PSS, CKM_SHA256_RSA_PKCS_PSS, CKM_SHA384_RSA_PKCS_PSS,
    CKM_SHA512_RSA_PKCS_PSS,
};

use super::hashing::{self, Form};
use super::rsa::{self, Collected, Private};
use super::{Chip, Does, Mechanism, NOTHING, Params, Sign, Verify};
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
        key_type: Some(CKK_RSA),
        size: rsa::SIZE,
        hash,
        chip: &[RsaDecrypt::CODE],
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
            return Err(Error::MechanismParamInvalid("CK_RSA_PKCS_PSS_PARAMS is missing"));
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

    fn data(&self) -> Collected {
        Collected::new(self.hash.len())
    }
}

const WRONG_LENGTH: Error = Error::DataLenRange("exactly as long as the hash in hashAlg");

fn sign(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Sign>> {
    let key = Private::of(key)?;
    let pss = Pss::of(row, params, &key.public)?;
    Ok(hashing::sign(row, Form::Digest, Box::new(Signing { key, pss, digest: pss.data() })))
}

fn verify(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Verify>> {
    let key = rsa::public(key)?;
    let pss = Pss::of(row, params, &key)?;
    Ok(hashing::verify(row, Form::Digest, Box::new(Verifying { key, pss, digest: pss.data() })))
}

struct Signing {
    key: Private,
    pss: Pss,
    digest: Collected,
}

impl Sign for Signing {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.digest.update(data, WRONG_LENGTH)
    }

    fn length(&self) -> usize {
        self.key.public.len()
    }

    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Vec<u8>> {
        let Pss { hash, mgf, salt_length } = self.pss;
        if self.digest.len() != hash.len() {
            return Err(WRONG_LENGTH);
        }
        let mut salt = vec![0; salt_length];
        os_random(&mut salt)?;
        let encoded = pad::pss(hash, mgf, &self.digest, &salt, self.key.public.bits())?;
        Ok(self.key.apply(&encoded, chip)?.to_vec())
    }
}

struct Verifying {
    key: PublicKey,
    pss: Pss,
    digest: Collected,
}

impl Verify for Verifying {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.digest.update(data, WRONG_LENGTH)
    }

    fn finish(self: Box<Self>, signature: &[u8]) -> Result<()> {
        let Pss { hash, mgf, salt_length } = self.pss;
        if self.digest.len() != hash.len() {
            return Err(WRONG_LENGTH);
        }
        self.key.verify_pss(hash, mgf, salt_length, &self.digest, signature).map_err(rsa::refused)
    }
}
