//! Public keys: attributes <-> SubjectPublicKeyInfo, checked.
use super::value::Attributes;
use crate::crypto::ec::Curve;
use crate::error::Result;

/// A public key's parts, checked: what verification and encryption use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// Big-endian without leading zeros.
    Rsa {
        /// n
        modulus: Vec<u8>,
        /// e
        exponent: Vec<u8>,
    },
    /// A point on its curve.
    Ec {
        /// the curve
        curve: Curve,
        /// 04 || x || y
        point: Vec<u8>,
    },
}

impl PublicKey {
    /// The public parts of a public or private key object.
    pub fn of(_attributes: &Attributes) -> Result<Self> {
        todo!()
    }
}
