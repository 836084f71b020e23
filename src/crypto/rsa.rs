//! RSA with the public exponent: verification, encryption, and the check of what a chip computed.
//! No private key is ever used here.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::hash::Hash;
use super::modulus::Modulus;
use super::{Fault, pad};

/// The sizes of a modulus that are taken, in bits.
pub const BITS: std::ops::RangeInclusive<usize> = 512..=8192;

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Big-endian, no leading zeros.
    modulus: Vec<u8>,
    n: Modulus,
    e: u64,
}

impl PublicKey {
    /// From modulus and public exponent, big-endian, leading zeros allowed. The modulus has 512 to
    /// 8192 bits.
    ///
    /// # Errors
    /// [`Fault::BadKey`] for an even modulus, one outside the sizes, an exponent that is even,
    /// below 3 or longer than 64 bits.
    pub fn new(modulus: &[u8], exponent: &[u8]) -> Result<Self, Fault> {
        let modulus = without_zeros(modulus);
        let exponent = without_zeros(exponent);
        if modulus.len() > BITS.end() / 8 || modulus.last().is_none_or(|low| low % 2 == 0) {
            return Err(Fault::BadKey);
        }
        if modulus.len() < BITS.start() / 8 || exponent.len() > 8 {
            return Err(Fault::BadKey);
        }
        let e = exponent.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let n = Modulus::new(modulus).ok_or(Fault::BadKey)?;
        if !BITS.contains(&n.bits()) || e < 3 || e % 2 == 0 {
            return Err(Fault::BadKey);
        }
        Ok(Self { modulus: modulus.to_vec(), n, e })
    }

    /// The modulus's length in bytes, k.
    #[expect(clippy::len_without_is_empty, reason = "a key is not a container")]
    pub fn len(&self) -> usize {
        self.n.len()
    }

    /// The modulus's length in bits.
    pub fn bits(&self) -> usize {
        self.n.bits()
    }

    /// Whether `input` is what RSA can take: k bytes, and a number below the modulus.
    ///
    /// # Errors
    /// [`Fault::Length`], [`Fault::Range`].
    pub fn fits(&self, input: &[u8]) -> Result<(), Fault> {
        if input.len() != self.modulus.len() {
            return Err(Fault::Length);
        }
        // Byte strings of one length compare as the numbers do.
        if input < self.modulus.as_slice() { Ok(()) } else { Err(Fault::Range) }
    }

    /// input^e mod n, k bytes. RFC 8017 §5.1.1, §5.2.2.
    ///
    /// # Errors
    /// As [`fits`](Self::fits).
    pub fn raw(&self, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.fits(input)?;
        Ok(self.n.power(input, self.e))
    }

    /// Whether `output` is the private operation's answer to `input`: output^e mod n = input. Takes
    /// a time that does not depend on `output`, which may be a plaintext. RFC 8017 §5.1.2, §5.2.1.
    ///
    /// # Errors
    /// [`Fault::Invalid`].
    pub fn check(&self, input: &[u8], output: &[u8]) -> Result<(), Fault> {
        if output.len() != self.len() {
            return Err(Fault::Invalid);
        }
        let back = self.n.power(output, self.e);
        if bool::from(self.n.exceeds(output) & back.ct_eq(input)) {
            Ok(())
        } else {
            Err(Fault::Invalid)
        }
    }

    /// RSASSA-PKCS1-v1_5 over whatever bytes were padded (a DigestInfo, or anything else of at most
    /// k - 11 bytes): compares the whole encoded message, so no variant passes. RFC 8017 §8.2.2.
    ///
    /// # Errors
    /// [`Fault::Length`] if the signature is not k bytes long, else [`Fault::Invalid`].
    pub fn verify_pkcs1(&self, data: &[u8], signature: &[u8]) -> Result<(), Fault> {
        let encoded = self.opened(signature)?;
        let expected = pad::pkcs1_signature(data, self.len()).map_err(|_| Fault::Invalid)?;
        if *encoded == expected { Ok(()) } else { Err(Fault::Invalid) }
    }

    /// RSASSA-PSS with exactly this salt length, in bytes. RFC 8017 §8.1.2.
    ///
    /// # Errors
    /// [`Fault::Length`] if the signature is not k bytes long, else [`Fault::Invalid`].
    pub fn verify_pss(
        &self,
        hash: Hash,
        mgf: Hash,
        salt_length: usize,
        digest: &[u8],
        signature: &[u8],
    ) -> Result<(), Fault> {
        let encoded = self.opened(signature)?;
        pad::pss_verify(hash, mgf, digest, salt_length, &encoded, self.bits())
    }

    /// A signature with the public exponent applied: what the signer had padded.
    ///
    /// # Errors
    /// [`Fault::Length`] if the signature is not k bytes long; [`Fault::Invalid`] if it is not
    /// below the modulus.
    pub fn opened(&self, signature: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.raw(signature).map_err(|fault| match fault {
            Fault::Length => Fault::Length,
            _ => Fault::Invalid,
        })
    }

    /// RSAES-PKCS1-v1_5. `data` is at most k - 11 bytes long. RFC 8017 §7.2.1.
    ///
    /// # Errors
    /// [`Fault::Length`], [`Fault::NoEntropy`].
    pub fn encrypt_pkcs1(&self, data: &[u8]) -> Result<Vec<u8>, Fault> {
        Ok(self.raw(&pad::pkcs1_encryption(data, self.len())?)?.to_vec())
    }

    /// RSAES-OAEP. `data` is at most k - 2 - 2 hLen bytes long. RFC 8017 §7.1.1.
    ///
    /// # Errors
    /// [`Fault::Length`], [`Fault::NoEntropy`].
    pub fn encrypt_oaep(
        &self,
        hash: Hash,
        mgf: Hash,
        label: &[u8],
        data: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        Ok(self.raw(&pad::oaep(hash, mgf, label, data, self.len())?)?.to_vec())
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicKey").field("bits", &self.bits()).field("e", &self.e).finish()
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An odd number of so many bits.
    fn modulus(bits: usize) -> Vec<u8> {
        let mut modulus = vec![0x5b; bits.div_ceil(8)];
        modulus[0] = 1 << ((bits - 1) % 8);
        modulus
    }

    #[test]
    fn sizes_and_exponents_outside_the_limits_are_refused() {
        let e = [1, 0, 1];
        for bits in [512, 513, 1024, 2047, 2048, 4096, 8192] {
            let key = PublicKey::new(&modulus(bits), &e).unwrap();
            assert_eq!((key.bits(), key.len()), (bits, bits.div_ceil(8)));
            let padded = [&[0, 0], &modulus(bits)[..]].concat();
            assert_eq!(PublicKey::new(&padded, &[&[0; 9], &e[..]].concat()), Ok(key));
        }
        for bits in [8, 64, 511, 8193, 16384] {
            assert_eq!(PublicKey::new(&modulus(bits), &e), Err(Fault::BadKey), "{bits}");
        }
        let mut even = modulus(2048);
        even[255] = 2;
        assert_eq!(PublicKey::new(&even, &e), Err(Fault::BadKey));
        assert_eq!(PublicKey::new(&[], &e), Err(Fault::BadKey));
        for e in [&[][..], &[0], &[1], &[2], &[4], &[1, 0, 0], &[1, 0, 0, 0, 0, 0, 0, 0, 1]] {
            assert_eq!(PublicKey::new(&modulus(2048), e), Err(Fault::BadKey), "{e:?}");
        }
        assert!(PublicKey::new(&modulus(2048), &[3]).is_ok());
        assert!(PublicKey::new(&modulus(2048), &[0xff; 8]).is_ok());
    }

    #[test]
    fn an_input_must_have_the_moduluss_length_and_be_smaller() {
        let n = modulus(2048);
        let key = PublicKey::new(&n, &[3]).unwrap();
        let mut below = n.clone();
        below[255] -= 1;
        assert_eq!(key.fits(&below), Ok(()));
        assert_eq!(key.fits(&n), Err(Fault::Range));
        assert_eq!(key.fits(&[0xff; 256]), Err(Fault::Range));
        assert_eq!(key.fits(&n[1..]), Err(Fault::Length));
        assert_eq!(key.raw(&n), Err(Fault::Range));
        assert_eq!(key.opened(&n), Err(Fault::Invalid));
        assert_eq!(key.opened(&[0; 257]), Err(Fault::Length));
    }

    #[test]
    fn the_check_of_a_result_finds_every_flipped_bit_and_every_other_representative() {
        let n = modulus(512);
        let key = PublicKey::new(&n, &[3]).unwrap();
        let root: Vec<u8> = (0..64).collect();
        let cube = key.raw(&root).unwrap();
        assert_eq!(key.check(&cube, &root), Ok(()));
        for bit in 0..512 {
            let mut other = root.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.check(&cube, &other), Err(Fault::Invalid), "bit {bit}");
        }
        // root + n has the same cube and still fits the length.
        let mut carry = 0;
        let mut sum: Vec<u8> = root
            .iter()
            .zip(&n)
            .rev()
            .map(|(a, b)| {
                let sum = u16::from(*a) + u16::from(*b) + carry;
                carry = sum >> 8;
                sum as u8
            })
            .collect();
        sum.reverse();
        assert_eq!(carry, 0);
        assert_eq!(key.check(&cube, &sum), Err(Fault::Invalid));
        assert_eq!(key.check(&cube, &root[1..]), Err(Fault::Invalid));
    }

    #[test]
    fn a_forgery_under_a_small_exponent_is_refused() {
        // Bleichenbacher 2006: with e = 3, a cube root can be found for 00 01 FF 00 DigestInfo
        // followed by garbage. Such an encoded message must not pass, whatever the garbage.
        let key = PublicKey::new(&modulus(3072), &[3]).unwrap();
        let info = Hash::Sha256.digest_info(&Hash::Sha256.digest(b"forged"));
        let mut encoded = vec![0x00, 0x01];
        encoded.extend([0xff; 8]);
        encoded.push(0x00);
        encoded.extend(&info);
        encoded.resize(key.len(), 0x00);
        let root = cube_root(&encoded);
        let opened = key.raw(&root).unwrap();
        assert_eq!(opened[..11 + info.len() - 1], encoded[..11 + info.len() - 1]);
        assert_eq!(key.verify_pkcs1(&info, &root), Err(Fault::Invalid));
    }

    /// The next integer above the cube root, as many bytes as the number.
    fn cube_root(number: &[u8]) -> Vec<u8> {
        use rsa::BigUint;
        let target = BigUint::from_bytes_be(number);
        let mut root = BigUint::from(0u8);
        for bit in (0..number.len() * 8 / 3 + 1).rev() {
            let next = &root + (BigUint::from(1u8) << bit);
            if &next * &next * &next <= target {
                root = next;
            }
        }
        let bytes = (root + 1u8).to_bytes_be();
        [vec![0; number.len() - bytes.len()], bytes].concat()
    }
}
