//! Floor 1: host-side mathematics without keys of ours: hashes, paddings, encodings, public-key
//! operations, key derivation, random bytes, and memory for secrets. Nothing here knows PKCS#11
//! or the TPM; nothing here ever sees an RSA or EC private key, but for the check of one that is brought in,
//! and for the numbers that go out with one that is wrapped.

pub mod aes;
pub mod der;
pub mod drbg;
pub mod ec;
pub mod ghash;
pub mod hash;
pub mod kdf;
pub mod mac;
mod modulus;
#[cfg(test)]
mod nist;
pub mod pad;
pub mod private;
pub mod roca;
pub mod rsa;
pub mod secret;
#[cfg(test)]
mod vectors;

use crate::error::Error;

/// Why a computation was refused. Which error of the call it becomes depends on what the input
/// was (data, signature, ciphertext, parameter); mechanisms say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The input is longer than the key, the curve or the format can take, or of the wrong length.
    Length,
    /// The input is a number outside the allowed range.
    Range,
    /// The encoding is not well formed.
    Encoding,
    /// The encoding is well formed but names a curve that is not ours.
    UnknownCurve,
    /// Not a point of the curve, or the point at infinity.
    NotOnCurve,
    /// The public key is not usable: even or tiny modulus, even exponent, absurd size.
    BadKey,
    /// The check failed: a signature or a padding is not valid. Says no more than that on purpose.
    Invalid,
    /// The operating system gave no random bytes.
    NoEntropy,
}

impl std::error::Error for Fault {}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fault::Length => "the input has a length that cannot be right",
            Fault::Range => "the input is a number outside the allowed range",
            Fault::Encoding => "the encoding is not well formed",
            Fault::UnknownCurve => "the curve is unknown",
            Fault::NotOnCurve => "the point is not on the curve",
            Fault::BadKey => "the public key is not usable",
            Fault::Invalid => "the check failed",
            Fault::NoEntropy => "the operating system gave no random bytes",
        })
    }
}

/// For callers to whom the input was the data of an operation or a public key of a template.
impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Length => Error::DataLenRange("the key cannot take data of this length"),
            Fault::Range => Error::DataInvalid("not smaller than the modulus"),
            Fault::Encoding => Error::DataInvalid("not well formed"),
            Fault::UnknownCurve => Error::CurveNotSupported,
            Fault::NotOnCurve | Fault::BadKey => Error::PublicKeyInvalid,
            Fault::Invalid => Error::DataInvalid("the check failed"),
            Fault::NoEntropy => {
                Error::FunctionFailed("the operating system gave no random bytes".into())
            }
        }
    }
}
