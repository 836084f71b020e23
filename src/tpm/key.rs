//! Keys as the TPM sees them: what to create (`KeySpec`), what comes back and is kept (`KeyBlob`).
//! CKA_* become a `KeySpec` in `object/keyspec.rs`.

use zeroize::Zeroizing;

use super::Name;
use crate::crypto::ec::Curve;

/// A hash as the TPM names it (TPM_ALG_ID of the Algorithm Registry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashAlgorithm {
    /// 20 bytes
    Sha1,
    /// 32 bytes
    Sha256,
    /// 48 bytes
    Sha384,
    /// 64 bytes
    Sha512,
}

/// What a key does in the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// RSA of this many bits with public exponent 65537: scheme NULL, sign and decrypt, every padding is ours.
    Rsa {
        /// Modulus size in bits.
        bits: u16,
        /// Public exponent; 65537 on nearly every chip.
        exponent: u32,
    },
    /// An elliptic-curve key.
    Ec {
        /// Its curve.
        curve: Curve,
        /// TPM2_Sign is allowed.
        sign: bool,
        /// TPM2_ECDH_ZGen is allowed.
        derive: bool,
    },
}

/// What to create: TPM2_Create's public template in our words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    /// Kind, size and use.
    pub usage: KeyUse,
    /// CKA_EXTRACTABLE: neither fixedTPM nor fixedParent, and a policy that allows duplication with the authorization only.
    pub extractable: bool,
    /// The Name of the written PIN index of the user if the chip itself shall ask for the PIN at each
    /// use (CKA_ALWAYS_AUTHENTICATE): userWithAuth clear, policy PolicySecret(P_user).
    pub always_authenticate: Option<Name>,
}

/// A key at rest: what TPM2_Load needs. The private part is wrapped by the storage root key.
#[derive(Clone)]
pub struct KeyBlob {
    /// Identifies the key in the lease's cache: the object's uuid.
    pub id: [u8; 16],
    /// Marshalled TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// Content of TPM2B_PRIVATE.
    pub private: Vec<u8>,
    /// The object's authorization.
    pub authorization: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for KeyBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyBlob").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What TPM2_Create answered.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Marshalled TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// Content of TPM2B_PRIVATE.
    pub private: Vec<u8>,
}
