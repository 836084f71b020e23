//! Private keys that come from outside, looked at before the TPM gets them: whether all parts belong to
//! one sound key. Nothing is ever computed *with* them here but what the check needs.

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Gcd as _, NonZero, Odd};
use elliptic_curve::sec1::{FromEncodedPoint, ModulusSize, ToEncodedPoint};
use elliptic_curve::{AffinePoint, CurveArithmetic, FieldBytesSize};
use zeroize::Zeroizing;

use super::ec::{self, Curve, Point};
use super::rsa::PublicKey;
use super::{Fault, roca};

/// The parts of an RSA private key as somebody gave them, big-endian, leading zeros allowed; what may be
/// left away is `None`.
#[derive(Default)]
pub struct RsaParts<'a> {
    /// n
    pub modulus: &'a [u8],
    /// e
    pub exponent: &'a [u8],
    /// d
    pub private_exponent: Option<&'a [u8]>,
    /// p
    pub prime_1: Option<&'a [u8]>,
    /// q
    pub prime_2: Option<&'a [u8]>,
    /// d mod p-1
    pub exponent_1: Option<&'a [u8]>,
    /// d mod q-1
    pub exponent_2: Option<&'a [u8]>,
    /// 1/q mod p
    pub coefficient: Option<&'a [u8]>,
}

/// A checked RSA private key.
pub struct Rsa {
    /// Big-endian, no leading zeros.
    pub modulus: Vec<u8>,
    /// Big-endian, no leading zeros.
    pub exponent: Vec<u8>,
    /// p, half as long as the modulus.
    pub prime_1: Zeroizing<Vec<u8>>,
    /// q, likewise.
    pub prime_2: Zeroizing<Vec<u8>>,
}

/// A number that is wiped.
type Secret = Zeroizing<BoxedUint>;

/// All numbers of an RSA private key, as its encoding has them (RFC 8017 appendix A.1.2). Big-endian.
pub struct RsaNumbers {
    /// d
    pub private_exponent: Zeroizing<Vec<u8>>,
    /// p
    pub prime_1: Zeroizing<Vec<u8>>,
    /// q
    pub prime_2: Zeroizing<Vec<u8>>,
    /// d mod p-1
    pub exponent_1: Zeroizing<Vec<u8>>,
    /// d mod q-1
    pub exponent_2: Zeroizing<Vec<u8>>,
    /// 1/q mod p
    pub coefficient: Zeroizing<Vec<u8>>,
}

impl RsaNumbers {
    /// What follows from the modulus, the public exponent and one of the primes. The private exponent is
    /// the smallest (FIPS 186-5 appendix A.1.1: of the least common multiple).
    ///
    /// # Errors
    /// [`Fault::BadKey`] if they do not belong together.
    pub fn of(modulus: &[u8], exponent: u32, prime: &[u8]) -> Result<Self, Fault> {
        let bits = u32::try_from(without_zeros(modulus).len() * 8).map_err(|_| Fault::BadKey)?;
        let room = (2 * bits).next_multiple_of(64);
        let one = Zeroizing::new(BoxedUint::one_with_precision(room));
        let (n, p) = (number(modulus, bits, room)?, number(prime, bits, room)?);
        let (q, rest) = divided(&n, &p).ok_or(Fault::BadKey)?;
        if rest.bits() != 0 || q.bits() < 2 || p.bits() < 2 {
            return Err(Fault::BadKey);
        }
        let (p_less, q_less) =
            (Zeroizing::new(p.wrapping_sub(&one)), Zeroizing::new(q.wrapping_sub(&one)));
        let common = Zeroizing::new(Zeroizing::new(p_less.gcd(&q_less)).widen(room));
        let order = Zeroizing::new(p_less.wrapping_mul(&q_less));
        let (order, _) = divided(&order, &common).ok_or(Fault::BadKey)?;
        let e = number(&exponent.to_be_bytes(), 32, room)?;
        let d: Option<BoxedUint> = e.inv_mod(&order).into();
        let d = Zeroizing::new(d.ok_or(Fault::BadKey)?);
        let odd: Option<Odd<BoxedUint>> = Odd::new((*p).clone()).into();
        let coefficient: Option<BoxedUint> =
            divided(&q, &p).ok_or(Fault::BadKey)?.1.inv_odd_mod(&odd.ok_or(Fault::BadKey)?).into();
        let coefficient = Zeroizing::new(coefficient.ok_or(Fault::BadKey)?);
        let exponent_of = |less: &BoxedUint| divided(&d, less).ok_or(Fault::BadKey);
        let whole = bits as usize / 8;
        let half = whole.div_ceil(2);
        Ok(Self {
            private_exponent: bytes(&d, whole),
            exponent_1: bytes(&exponent_of(&p_less)?.1, half),
            exponent_2: bytes(&exponent_of(&q_less)?.1, half),
            coefficient: bytes(&coefficient, half),
            prime_1: bytes(&p, half),
            prime_2: bytes(&q, half),
        })
    }
}

/// a / b and a mod b; none if b is 0.
fn divided(a: &BoxedUint, b: &BoxedUint) -> Option<(Secret, Secret)> {
    let b: Option<NonZero<BoxedUint>> = NonZero::new(b.clone()).into();
    let (quotient, rest) = a.div_rem(&b?);
    Some((Zeroizing::new(quotient), Zeroizing::new(rest)))
}

impl RsaParts<'_> {
    /// Checks that every part belongs to one key of two primes of half the modulus's length, and that it
    /// is none of those that a broken generator made (CVE-2017-15361). Without primes they are computed
    /// from the exponents.
    ///
    /// # Errors
    /// [`Fault::BadKey`], whatever is wrong.
    pub fn check(&self) -> Result<Rsa, Fault> {
        let public = PublicKey::new(self.modulus, self.exponent)?;
        let bits = u32::try_from(public.bits()).map_err(|_| Fault::BadKey)?;
        // Every number gets the room of a product.
        let room = (2 * bits).next_multiple_of(64);
        let read = |bytes: &[u8]| number(bytes, bits, room);
        let optional = |bytes: Option<&[u8]>| bytes.map(read).transpose();
        let (n, e) = (read(self.modulus)?, read(self.exponent)?);
        let d = optional(self.private_exponent)?;
        let (p, q) = match (optional(self.prime_1)?, optional(self.prime_2)?, &d) {
            (Some(p), Some(q), _) => (p, q),
            (None, None, Some(d)) => factors(&n, &e, d, room).ok_or(Fault::BadKey)?,
            _ => return Err(Fault::BadKey),
        };
        let one = Zeroizing::new(BoxedUint::one_with_precision(room));
        let mut sound = bits % 16 == 0 && p.bits() * 2 == bits && q.bits() * 2 == bits;
        // Both fit half of the room, so that their product fits the whole.
        sound = sound && *p != *q && Zeroizing::new(p.wrapping_mul(&q)) == n;
        sound = sound && is_prime(&p) && is_prime(&q);
        if !sound {
            return Err(Fault::BadKey);
        }
        for (prime, exponent) in [(&p, self.exponent_1), (&q, self.exponent_2)] {
            let less = Zeroizing::new(prime.wrapping_sub(&one));
            let exponent = optional(exponent)?;
            if let Some(d) = &d {
                sound &= product(&e, d, &less) == Some(one.clone());
            }
            if let Some(exponent) = &exponent {
                sound &= **exponent < *less && product(&e, exponent, &less) == Some(one.clone());
            }
        }
        if let Some(coefficient) = optional(self.coefficient)? {
            sound &= *coefficient < *p && product(&q, &coefficient, &p) == Some(one);
        }
        let modulus = without_zeros(self.modulus).to_vec();
        if !sound || roca::has_fingerprint(&modulus) {
            return Err(Fault::BadKey);
        }
        let half = modulus.len() / 2;
        Ok(Rsa {
            exponent: without_zeros(self.exponent).to_vec(),
            prime_1: bytes(&p, half),
            prime_2: bytes(&q, half),
            modulus,
        })
    }
}

/// At most `bits` bits, in `room` bits.
fn number(bytes: &[u8], bits: u32, room: u32) -> Result<Secret, Fault> {
    let bytes = without_zeros(bytes);
    let number = Zeroizing::new(BoxedUint::from_be_slice(bytes, room).map_err(|_| Fault::BadKey)?);
    if number.bits() > bits { Err(Fault::BadKey) } else { Ok(number) }
}

/// The last `length` bytes of a number that has no more.
fn bytes(number: &BoxedUint, length: usize) -> Zeroizing<Vec<u8>> {
    let all = Zeroizing::new(number.to_be_bytes());
    let start = all.len().saturating_sub(length);
    Zeroizing::new(all.get(start..).unwrap_or_default().to_vec())
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number.get(start..).unwrap_or_default()
}

/// a * b mod m; none if m is 0.
fn product(a: &BoxedUint, b: &BoxedUint, m: &BoxedUint) -> Option<Secret> {
    let m: Option<NonZero<BoxedUint>> = NonZero::new(m.clone()).into();
    Some(Zeroizing::new(a.wrapping_mul(b).rem(&m?)))
}

/// base^exponent mod m; none if m is even. The numbers are as long as they are, which everybody knows, and not
/// as the room that they stand in: with primes that is sixty times less work.
fn power(base: u64, exponent: &BoxedUint, m: &BoxedUint) -> Option<Secret> {
    let cut = |number: &BoxedUint| number.shorten(number.bits().max(1));
    let odd: Option<Odd<BoxedUint>> = Odd::new(cut(m)).into();
    let params = BoxedMontyParams::new(odd?);
    let base = BoxedUint::from(base).widen(params.bits_precision());
    let exponent = Zeroizing::new(cut(exponent));
    let power = Zeroizing::new(BoxedMontyForm::new(base, params).pow(&exponent).retrieve());
    Some(Zeroizing::new(power.widen(m.bits_precision())))
}

/// Fermat's test to some bases: what passes them by chance or malice is a key that its owner alone is
/// harmed by.
fn is_prime(number: &BoxedUint) -> bool {
    let one = BoxedUint::one_with_precision(number.bits_precision());
    let less = Zeroizing::new(number.wrapping_sub(&one));
    [2, 3, 5, 7]
        .into_iter()
        .all(|base| power(base, &less, number).is_some_and(|power| *power == one))
}

/// The primes of n from both exponents. FIPS 186-5, appendix A.1.3 (SP 800-56B, appendix C).
fn factors(n: &BoxedUint, e: &BoxedUint, d: &BoxedUint, room: u32) -> Option<(Secret, Secret)> {
    let one = BoxedUint::one_with_precision(room);
    let order = Zeroizing::new(e.wrapping_mul(d).wrapping_sub(&one));
    let twos = order.trailing_zeros();
    if order.bits() == 0 || twos == 0 {
        return None;
    }
    let odd = Zeroizing::new(order.shr(twos));
    let last = n.wrapping_sub(&one);
    let modulus: Option<Odd<BoxedUint>> = Odd::new(n.clone()).into();
    let modulus = modulus?;
    let nonzero: Option<NonZero<BoxedUint>> = NonZero::new(n.clone()).into();
    let nonzero = nonzero?;
    // Each base succeeds with probability 1/2 at least.
    for base in [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71] {
        let mut x = power(base, &odd, n)?;
        for _ in 0..twos {
            let square = product(&x, &x, n)?;
            if *square == one && *x != one && *x != last {
                let factor = Zeroizing::new(modulus.gcd(&x.wrapping_sub(&one)));
                let factor = Zeroizing::new(factor.widen(room));
                let divisor: Option<NonZero<BoxedUint>> = NonZero::new((*factor).clone()).into();
                let other = Zeroizing::new(nonzero.as_ref().div_rem(&divisor?).0);
                return Some((factor, other));
            }
            x = square;
        }
    }
    None
}

/// The public point of an EC private key. `d` is big-endian, leading zeros allowed.
///
/// # Errors
/// [`Fault::BadKey`] unless 0 < d < n.
pub fn ec_public(curve: Curve, d: &[u8]) -> Result<Point, Fault> {
    let d = without_zeros(d);
    let zeros = curve.len().checked_sub(d.len()).ok_or(Fault::BadKey)?;
    let mut padded = Zeroizing::new(vec![0; zeros]);
    padded.reserve_exact(d.len());
    padded.extend_from_slice(d);
    let point = match curve {
        Curve::P256 => point_of::<p256::NistP256>(&padded),
        Curve::P384 => point_of::<p384::NistP384>(&padded),
        Curve::P521 => point_of::<p521::NistP521>(&padded),
    };
    ec::parse_point(curve, &point?).map_err(|_| Fault::BadKey)
}

fn point_of<C>(d: &[u8]) -> Result<Vec<u8>, Fault>
where
    C: CurveArithmetic,
    AffinePoint<C>: FromEncodedPoint<C> + ToEncodedPoint<C>,
    FieldBytesSize<C>: ModulusSize,
{
    let key = elliptic_curve::SecretKey::<C>::from_slice(d).map_err(|_| Fault::BadKey)?;
    Ok(key.public_key().to_encoded_point(false).as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use rand_core::{RngCore as _, SeedableRng as _};
    use rsa::BigUint;
    use rsa::traits::{PrivateKeyParts as _, PublicKeyParts as _};

    use super::*;

    /// n, e, d, p, q, d mod p-1, d mod q-1, 1/q mod p
    fn key() -> [Vec<u8>; 8] {
        static ONCE: OnceLock<[Vec<u8>; 8]> = OnceLock::new();
        ONCE.get_or_init(|| {
            let mut random = rand_chacha::ChaCha20Rng::seed_from_u64(5);
            let mut key = rsa::RsaPrivateKey::new(&mut random, 1024).unwrap();
            key.precompute().unwrap();
            let [p, q] = key.primes() else { panic!("two primes") };
            let coefficient = key.crt_coefficient().unwrap();
            [key.n(), key.e(), key.d(), p, q, key.dp().unwrap(), key.dq().unwrap(), &coefficient]
                .map(BigUint::to_bytes_be)
        })
        .clone()
    }

    fn parts(key: &[Vec<u8>; 8]) -> RsaParts<'_> {
        let [n, e, d, p, q, dp, dq, coefficient] = key;
        RsaParts {
            modulus: n,
            exponent: e,
            private_exponent: Some(d),
            prime_1: Some(p),
            prime_2: Some(q),
            exponent_1: Some(dp),
            exponent_2: Some(dq),
            coefficient: Some(coefficient),
        }
    }

    #[test]
    fn a_sound_key_passes_whole_and_with_any_optional_part_left_away() {
        let key = key();
        let whole = parts(&key).check().unwrap();
        assert_eq!([&whole.modulus, &whole.exponent], [&key[0], &key[1]]);
        assert_eq!([&*whole.prime_1, &*whole.prime_2], [&key[3], &key[4]]);
        let bare = RsaParts { exponent_1: None, exponent_2: None, ..parts(&key) };
        assert!(bare.check().is_ok());
        assert!(RsaParts { coefficient: None, ..bare }.check().is_ok());
        assert!(RsaParts { private_exponent: None, ..parts(&key) }.check().is_ok());
        let padded = [&[0, 0], key[3].as_slice()].concat();
        assert!(RsaParts { prime_1: Some(&padded), ..parts(&key) }.check().is_ok());
    }

    #[test]
    fn all_numbers_follow_from_one_prime() {
        let key = key();
        let [n, e, _, p, q, ..] = &key;
        for (prime, other) in [(p, q), (q, p)] {
            let found = RsaNumbers::of(n, 65537, prime).unwrap();
            assert_eq!((&*found.prime_1, &*found.prime_2), (prime, other));
            let parts = RsaParts {
                modulus: n,
                exponent: e,
                private_exponent: Some(&found.private_exponent),
                prime_1: Some(&found.prime_1),
                prime_2: Some(&found.prime_2),
                exponent_1: Some(&found.exponent_1),
                exponent_2: Some(&found.exponent_2),
                coefficient: Some(&found.coefficient),
            };
            assert!(parts.check().is_ok());
        }
        let [.., dp, dq, coefficient] = &key;
        let found = RsaNumbers::of(n, 65537, p).unwrap();
        assert_eq!([&*found.exponent_1, &*found.exponent_2], [dp, dq]);
        assert_eq!(&*found.coefficient, coefficient);
        let mut other = p.clone();
        other[7] ^= 1;
        assert!(RsaNumbers::of(n, 65537, &other).is_err());
        assert!(RsaNumbers::of(n, 65537, &[1]).is_err());
        assert!(RsaNumbers::of(n, 65537, &[]).is_err());
        assert!(RsaNumbers::of(n, 65536, p).is_err(), "an even exponent");
    }

    #[test]
    fn the_primes_are_found_from_both_exponents() {
        let key = key();
        let alone = RsaParts {
            prime_1: None,
            prime_2: None,
            exponent_1: None,
            exponent_2: None,
            coefficient: None,
            ..parts(&key)
        };
        let found = alone.check().unwrap();
        let mut found = [found.prime_1.to_vec(), found.prime_2.to_vec()];
        let mut expected = [key[3].clone(), key[4].clone()];
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
        let half = RsaParts { prime_2: None, ..parts(&key) };
        assert!(matches!(half.check(), Err(Fault::BadKey)), "one prime alone");
    }

    #[test]
    fn a_part_of_another_key_is_noticed_whichever_it_is() {
        let key = key();
        for which in 0..8 {
            for bit in [0usize, 1, 9, 63] {
                let mut changed = key.clone();
                let part = &mut changed[which];
                let at = part.len() - 1 - (bit / 8).min(part.len() - 1);
                part[at] ^= 1 << (bit % 8);
                assert!(matches!(parts(&changed).check(), Err(Fault::BadKey)), "{which} {bit}");
            }
            let mut empty = key.clone();
            empty[which].clear();
            assert!(matches!(parts(&empty).check(), Err(Fault::BadKey)), "{which} empty");
            let mut long = key.clone();
            long[which] = vec![0xff; 2000];
            assert!(matches!(parts(&long).check(), Err(Fault::BadKey)), "{which} long");
        }
    }

    #[test]
    fn a_modulus_of_other_than_two_equal_primes_is_refused() {
        let mut random = rand_chacha::ChaCha20Rng::seed_from_u64(6);
        let mut bytes = vec![0; 64];
        for _ in 0..8 {
            random.fill_bytes(&mut bytes);
            bytes[0] |= 0xc0;
            bytes[63] |= 1;
            let p = BigUint::from_bytes_be(&bytes);
            let n = (&p * &p).to_bytes_be();
            let p = p.to_bytes_be();
            let square = RsaParts {
                modulus: &n,
                exponent: &[1, 0, 1],
                prime_1: Some(&p),
                prime_2: Some(&p),
                ..RsaParts::default()
            };
            assert!(square.check().is_err(), "a square");
            let other = [0xc1; 64];
            let n = (BigUint::from_bytes_be(&p) * BigUint::from_bytes_be(&other)).to_bytes_be();
            let composite = RsaParts { modulus: &n, prime_2: Some(&other), ..square };
            assert!(composite.check().is_err(), "no primes");
        }
    }

    #[test]
    fn a_private_number_is_above_zero_and_below_the_order() {
        // SP 800-186 §3.2.1.3: n and G of P-256.
        let mut order = [0u8; 32];
        let hex = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
        for (at, byte) in order.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        }
        let base = ec_public(Curve::P256, &[1]).unwrap();
        assert_eq!(base.x()[..4], [0x6b, 0x17, 0xd1, 0xf2]);
        assert_eq!(ec_public(Curve::P256, &[&[0; 40], &[1][..]].concat()), Ok(base.clone()));
        let mut below = order;
        below[31] -= 1;
        let mirrored = ec_public(Curve::P256, &below).unwrap();
        assert_eq!(mirrored.x(), base.x());
        assert_ne!(mirrored.y(), base.y());
        for bad in [&[][..], &[0], &[0; 32], &order, &[0xff; 32], &[1; 33]] {
            assert_eq!(ec_public(Curve::P256, bad), Err(Fault::BadKey), "{bad:?}");
        }
        for curve in Curve::ALL {
            assert!(ec_public(curve, &[7]).is_ok());
        }
    }
}
