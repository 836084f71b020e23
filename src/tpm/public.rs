//! What the public area of one of our keys says: the public key itself. TPM 2.0 Part 2 §12.2.4.

use super::Name;
use crate::crypto::ec::Curve;
use crate::crypto::hash::Hash;

/// A public key out of a TPMT_PUBLIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// TPM_ALG_RSA
    Rsa {
        /// Big-endian, as long as the key size says.
        modulus: Vec<u8>,
        /// 65537 where the public area says 0.
        exponent: u32,
    },
    /// TPM_ALG_ECC
    Ec {
        /// The curve.
        curve: Curve,
        /// Big-endian; leading zeros may be missing.
        x: Vec<u8>,
        /// Big-endian; leading zeros may be missing.
        y: Vec<u8>,
    },
}

const ALG_RSA: u16 = 0x0001;
const ALG_NULL: u16 = 0x0010;
const ALG_ECC: u16 = 0x0023;

/// Reads a marshalled TPMT_PUBLIC of a key without symmetric algorithm and scheme, as all that we
/// create are. `None` for anything else, trailing bytes included.
pub fn public_key(public: &[u8]) -> Option<PublicKey> {
    let mut rest = Rest(public);
    let algorithm = rest.u16()?;
    let _name_algorithm = rest.u16()?;
    let _attributes = rest.u32()?;
    let _policy = rest.sized()?;
    if rest.u16()? != ALG_NULL || rest.u16()? != ALG_NULL {
        return None;
    }
    let key = match algorithm {
        ALG_RSA => {
            let bits = rest.u16()?;
            let exponent = match rest.u32()? {
                0 => 65537,
                exponent => exponent,
            };
            let modulus = rest.sized()?.to_vec();
            if modulus.len() != usize::from(bits).div_ceil(8) {
                return None;
            }
            PublicKey::Rsa { modulus, exponent }
        }
        ALG_ECC => {
            let curve = match rest.u16()? {
                0x0003 => Curve::P256,
                0x0004 => Curve::P384,
                0x0005 => Curve::P521,
                _ => return None,
            };
            if rest.u16()? != ALG_NULL {
                return None;
            }
            PublicKey::Ec { curve, x: rest.sized()?.to_vec(), y: rest.sized()?.to_vec() }
        }
        _ => return None,
    };
    rest.0.is_empty().then_some(key)
}

/// The TPM's Name of an object with this TPMT_PUBLIC: its nameAlg and the digest under it. `None` if
/// that is not SHA-256, as it is in all that we create. TPM 2.0 Part 1 §16.
pub fn name(public: &[u8]) -> Option<Name> {
    const SHA256: [u8; 2] = [0x00, 0x0B];
    (public.get(2..4)? == SHA256)
        .then(|| [SHA256.as_slice(), &Hash::Sha256.digest(public)].concat())
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A TPM2B.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An EC public area with an empty policy.
    fn ec(x: &[u8], y: &[u8]) -> Vec<u8> {
        let mut public = vec![0x00, 0x23, 0x00, 0x0b, 0x00, 0x04, 0x04, 0x72, 0x00, 0x00];
        public.extend([0x00, 0x10, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10]);
        for coordinate in [x, y] {
            public.extend((coordinate.len() as u16).to_be_bytes());
            public.extend(coordinate);
        }
        public
    }

    #[test]
    fn a_public_area_gives_its_point() {
        let key = public_key(&ec(&[1; 32], &[2; 31]));
        assert_eq!(key, Some(PublicKey::Ec { curve: Curve::P256, x: vec![1; 32], y: vec![2; 31] }));
    }

    #[test]
    fn a_cut_or_longer_public_area_gives_nothing() {
        let whole = ec(&[1; 32], &[2; 32]);
        for length in 0..whole.len() {
            assert_eq!(public_key(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(public_key(&[whole, vec![0]].concat()), None);
    }

    #[test]
    fn an_rsa_exponent_of_0_means_65537() {
        let mut public = vec![0x00, 0x01, 0x00, 0x0b, 0x00, 0x06, 0x04, 0x72, 0x00, 0x00];
        public.extend([0x00, 0x10, 0x00, 0x10, 0x04, 0x00, 0, 0, 0, 0, 0x00, 0x80]);
        public.extend([0xC1; 128]);
        assert_eq!(
            public_key(&public),
            Some(PublicKey::Rsa { modulus: vec![0xC1; 128], exponent: 65537 })
        );
    }
}
