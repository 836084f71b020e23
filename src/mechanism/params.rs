//! Mechanism parameters, owned: deep copies made in `abi/params.rs` at Init, never read again.

use crate::crypto::hash::Hash;
use crate::error::{Error, Result};

/// CK_MECHANISM's parameter in our own memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Params {
    /// NULL or length 0.
    None,
    /// CK_RSA_PKCS_PSS_PARAMS
    Pss {
        /// hashAlg
        hash: Hash,
        /// mgf, as the hash of MGF1
        mgf: Hash,
        /// sLen, in bytes
        salt_length: usize,
    },
    /// CK_RSA_PKCS_OAEP_PARAMS
    Oaep {
        /// hashAlg
        hash: Hash,
        /// mgf, as the hash of MGF1
        mgf: Hash,
        /// pSourceData: the label
        label: Vec<u8>,
    },
    /// CK_ECDH1_DERIVE_PARAMS
    Ecdh {
        /// kdf as a CKD_ number
        kdf: u64,
        /// pSharedData
        shared: Vec<u8>,
        /// pPublicData: the other side's point, raw or DER-wrapped
        public: Vec<u8>,
    },
    /// CK_HKDF_PARAMS
    Hkdf {
        /// prfHashMechanism
        hash: Hash,
        /// bExtract: with which salt
        extract: Option<Salt>,
        /// bExpand: with which pInfo
        expand: Option<Vec<u8>>,
    },
    /// Not what the mechanism takes, and why.
    Invalid(&'static str),
    /// CK_AES_CTR_PARAMS
    Counter {
        /// ulCounterBits
        bits: u64,
        /// cb
        block: [u8; 16],
    },
    /// CK_MAC_GENERAL_PARAMS: how many bytes of the MAC
    Length(u64),
    /// Anything else: the bytes as given, for mechanisms that take a plain byte string.
    Bytes(Vec<u8>),
}

/// The salt of HKDF's extraction, PKCS#11 3.2 §6.62.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Salt {
    /// CKF_HKDF_SALT_NULL: as many zeros as the hash is long.
    Zeros,
    /// CKF_HKDF_SALT_DATA
    Data(Vec<u8>),
    /// CKF_HKDF_SALT_KEY: a key's handle.
    Key(u64),
}

impl Params {
    /// The handles of the keys that it names, in the order in which the mechanism gets them.
    pub fn keys(&self) -> Vec<u64> {
        match self {
            Params::Hkdf { extract: Some(Salt::Key(key)), .. } => vec![*key],
            _ => Vec::new(),
        }
    }

    /// For mechanisms that have no parameter.
    ///
    /// # Errors
    /// [`Error::MechanismParamInvalid`] if there is one.
    pub fn none(&self) -> Result<()> {
        match self {
            Params::None => Ok(()),
            _ => Err(self.refused("this mechanism has no parameter")),
        }
    }

    /// The error for a parameter that is not the one wanted: what is wrong with it, or, if it is another
    /// mechanism's, what the wanted one is.
    pub fn refused(&self, wanted: &'static str) -> Error {
        match self {
            Params::Invalid(why) => Error::MechanismParamInvalid(why),
            _ => Error::MechanismParamInvalid(wanted),
        }
    }
}
