//! Mechanism parameters, owned: deep copies made in `abi/params.rs` at Init, never read again.

use zeroize::Zeroizing;

use cryptoki_sys::{CKG_GENERATE, CKG_GENERATE_RANDOM};

use crate::crypto::hash::Hash;
use crate::error::{Error, Result};
use crate::object::Template;

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
    /// CK_RSA_AES_KEY_WRAP_PARAMS
    RsaAes {
        /// ulAESKeyBits
        bits: u64,
        /// pOAEPParams: [`Params::Oaep`]
        oaep: Box<Params>,
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
    /// CK_SP800_108_KDF_PARAMS, CK_SP800_108_FEEDBACK_KDF_PARAMS
    Sp800(Sp800),
    /// CK_OBJECT_HANDLE of a second key
    Key(u64),
    /// CK_KEY_DERIVATION_STRING_DATA
    Data(Vec<u8>),
    /// CK_AES_CBC_ENCRYPT_DATA_PARAMS
    Chained {
        /// iv
        iv: [u8; 16],
        /// pData
        data: Vec<u8>,
    },
    /// CK_TLS12_MASTER_KEY_DERIVE_PARAMS, CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS
    TlsMaster {
        /// prfHashMechanism
        hash: Hash,
        /// The label, then the randoms or the session's hash
        message: Vec<u8>,
        /// Whether pVersion asks for the version
        version: bool,
    },
    /// CK_TLS12_KEY_MAT_PARAMS
    TlsBlock {
        /// prfHashMechanism
        hash: Hash,
        /// The label, then the randoms
        message: Vec<u8>,
        /// What it is made of
        block: KeyBlock,
    },
    /// CK_TLS_KDF_PARAMS
    TlsExport {
        /// prfMechanism
        hash: Hash,
        /// pLabel, then the randoms and the context, if there is one
        message: Vec<u8>,
    },
    /// CK_TLS_MAC_PARAMS
    TlsMac(TlsMac),
    /// CK_PKCS5_PBKD2_PARAMS2
    Pbkdf2 {
        /// prf: the HMAC's hash
        hash: Hash,
        /// pSaltSourceData
        salt: Vec<u8>,
        /// iterations
        iterations: u64,
        /// pPassword
        password: Password,
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
    /// CK_GCM_PARAMS
    Gcm {
        /// pIv
        iv: Vec<u8>,
        /// pAAD
        additional: Vec<u8>,
        /// ulTagBits
        tag_bits: u64,
    },
    /// CK_CCM_PARAMS
    Ccm {
        /// ulDataLen, of the plaintext
        length: u64,
        /// pNonce
        nonce: Vec<u8>,
        /// pAAD
        additional: Vec<u8>,
        /// ulMACLen, in bytes
        mac_length: u64,
    },
    /// CK_MAC_GENERAL_PARAMS: how many bytes of the MAC; CK_EXTRACT_PARAMS: the first bit
    Length(u64),
    /// Anything else: the bytes as given, for mechanisms that take a plain byte string.
    Bytes(Vec<u8>),
}

/// How long the parts of a TLS key block are, in bytes; 0: there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyBlock {
    /// ulMacSizeInBits
    pub mac: usize,
    /// ulKeySizeInBits
    pub key: usize,
    /// ulIVSizeInBits
    pub iv: usize,
}

/// CK_TLS_MAC_PARAMS
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsMac {
    /// prfHashMechanism
    pub hash: Hash,
    /// ulMacLength, in bytes
    pub length: usize,
    /// ulServerOrClient
    pub label: &'static [u8],
}

/// What nobody shall read in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// What a C_EncryptMessage or its like says of its message: CK_GCM_MESSAGE_PARAMS, CK_CCM_MESSAGE_PARAMS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// pIv, pNonce: all of it, or what of it is to stay
    pub nonce: Vec<u8>,
    /// ulIvFixedBits, ulNonceFixedBits
    pub fixed_bits: u64,
    /// ivGenerator, nonceGenerator: a CKG_x
    pub generator: u64,
    /// ulTagBits, ulMACLen in bits
    pub tag_bits: u64,
    /// pTag, pMAC, where the message is decrypted
    pub tag: Vec<u8>,
    /// ulDataLen of CCM: how long the plaintext is
    pub length: u64,
}

impl Message {
    /// Whether the module makes a nonce that no other message has, and the tag is no shorter than GCM's: what
    /// P9 asks of a message that is a sensitive key, or is encrypted by a key that may wrap such.
    ///
    /// # Errors
    /// [`Error::MechanismParamInvalid`]
    pub fn is_sound(&self) -> Result<()> {
        let free = (8 * self.nonce.len() as u64).saturating_sub(self.fixed_bits);
        if ![CKG_GENERATE, CKG_GENERATE_RANDOM].contains(&self.generator) || free < 96 {
            return Err(Error::MechanismParamInvalid(
                "a key that wraps sensitive keys does so with nonces of the token's making, 96 bits of them random",
            ));
        }
        self.is_authentic()
    }

    /// Whether the tag is no shorter than GCM's.
    ///
    /// # Errors
    /// [`Error::MechanismParamInvalid`]
    pub fn is_authentic(&self) -> Result<()> {
        if self.tag_bits < 96 {
            return Err(Error::MechanismParamInvalid("a tag of 96 bits at least"));
        }
        Ok(())
    }

    /// The length of the tag, in bytes.
    pub fn tag_bytes(&self) -> usize {
        usize::try_from(self.tag_bits / 8).unwrap_or(usize::MAX)
    }
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

/// What the functions of SP 800-108 are given, PKCS#11 3.2 §6.42.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sp800 {
    /// prfType
    pub prf: PrfType,
    /// pDataParams
    pub parts: Vec<Part>,
    /// pIV of the feedback mode
    pub initial: Vec<u8>,
    /// pAdditionalDerivedKeys
    pub additional: Vec<Template>,
}

/// CK_SP800_108_PRF_TYPE
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrfType {
    /// CKM_SHA_1_HMAC, …: under a generic secret
    Hmac(Hash),
    /// CKM_AES_CMAC: under an AES key
    Cmac,
}

impl PrfType {
    /// What it gives at once, in bytes.
    pub fn size(self) -> usize {
        match self {
            PrfType::Hmac(hash) => hash.len(),
            PrfType::Cmac => 16,
        }
    }
}

/// A data field, CK_PRF_DATA_PARAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// CK_SP800_108_ITERATION_VARIABLE: a counter, or what the mode feeds back.
    Iteration(Option<Number>),
    /// CK_SP800_108_COUNTER
    Counter(Number),
    /// CK_SP800_108_DKM_LENGTH, in bits
    Length {
        /// Its form
        number: Number,
        /// CK_SP800_108_DKM_LENGTH_SUM_OF_SEGMENTS
        segments: bool,
    },
    /// CK_SP800_108_BYTE_ARRAY
    Bytes(Vec<u8>),
    /// CK_SP800_108_KEY_HANDLE
    Key(u64),
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// bLittleEndian
    pub little: bool,
    /// ulWidthInBits, in bytes: 1 to 8
    pub bytes: usize,
}

impl Params {
    /// The handles of the keys that it names, in the order in which the mechanism gets them.
    pub fn keys(&self) -> Vec<u64> {
        match self {
            Params::Hkdf { extract: Some(Salt::Key(key)), .. } => vec![*key],
            Params::Key(key) => vec![*key],
            Params::Sp800(given) => given
                .parts
                .iter()
                .filter_map(|part| if let Part::Key(key) = part { Some(*key) } else { None })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The templates of the keys that are to be made besides.
    pub fn additional(&self) -> &[Template] {
        match self {
            Params::Sp800(given) => &given.additional,
            _ => &[],
        }
    }

    /// Whether an IV, a nonce or a counter is in it: for one message, because what two messages under it have in
    /// common, or their difference, would show (of GCM's MAC, even what makes it).
    pub fn serves_once(&self) -> bool {
        match self {
            Params::Bytes(_) | Params::Counter { .. } | Params::Gcm { .. } | Params::Ccm { .. } => {
                true
            }
            Params::None
            | Params::Pss { .. }
            | Params::Oaep { .. }
            | Params::RsaAes { .. }
            | Params::Ecdh { .. }
            | Params::Hkdf { .. }
            | Params::Sp800(_)
            | Params::Key(_)
            | Params::Data(_)
            | Params::Chained { .. }
            | Params::TlsMaster { .. }
            | Params::TlsBlock { .. }
            | Params::TlsExport { .. }
            | Params::TlsMac(_)
            | Params::Pbkdf2 { .. }
            | Params::Invalid(_)
            | Params::Length(_) => false,
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
