//! input^e mod n for a public e, in time that depends on the sizes and on e but not on the input:
//! what comes out of a decryption passes here to be checked, and must not show in the time.
//! Montgomery multiplication by coarsely integrated operand scanning (Koç, Acar, Kaliski 1996).

use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use zeroize::Zeroizing;

/// Little-endian limbs.
type Limbs = Vec<u64>;

/// An odd modulus, prepared.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Modulus {
    n: Limbs,
    /// -1/n modulo 2^64
    inverse: u64,
    /// R² mod n with R = 2^(64 limbs): takes a number into Montgomery form.
    square: Limbs,
    /// In bytes.
    length: usize,
}

impl Modulus {
    /// `modulus` is big-endian, odd, without leading zero bytes, and at least 2 limbs long.
    pub(super) fn new(modulus: &[u8]) -> Self {
        let n = limbs(modulus, modulus.len().div_ceil(8));
        let low = n.first().copied().unwrap_or(1);
        // Newton: every step doubles the number of right bits; n·n ≡ 1 modulo 8 begins with three.
        let mut inverse = low;
        for _ in 0..5 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(low.wrapping_mul(inverse)));
        }
        let mut prepared = Self {
            inverse: inverse.wrapping_neg(),
            square: vec![0; n.len()],
            length: modulus.len(),
            n,
        };
        prepared.square = prepared.r_squared();
        prepared
    }

    /// R² mod n: 2 in Montgomery form, squared and multiplied up to 2^(64 limbs).
    fn r_squared(&self) -> Limbs {
        // R mod n: from the highest power of two below n, doubled up to R.
        let bits = 64 * self.n.len();
        let top = self.bits() - 1;
        let mut one = vec![0u64; self.n.len()];
        if let Some(limb) = one.get_mut(top / 64) {
            *limb = 1 << (top % 64);
        }
        for _ in top..bits {
            one = self.double(&one);
        }
        // 2^64 in Montgomery form, then its power `limbs`, from the second highest bit of `limbs` on.
        let mut word = one;
        for _ in 0..64 {
            word = self.double(&word);
        }
        let limbs = self.n.len();
        let mut power = word.clone();
        for bit in (0..limbs.ilog2()).rev() {
            power = self.multiply(&power, &power);
            if limbs >> bit & 1 == 1 {
                power = self.multiply(&power, &word);
            }
        }
        power
    }

    /// The length in bits.
    pub(super) fn bits(&self) -> usize {
        let top = self.n.last().copied().unwrap_or_default();
        64 * self.n.len() - top.leading_zeros() as usize
    }

    /// The length in bytes.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// input^e mod n, big-endian, as long as the modulus. `input` is as long and smaller, `e` not 0.
    pub(super) fn power(&self, input: &[u8], e: u64) -> Zeroizing<Vec<u8>> {
        let base = Zeroizing::new(limbs(input, self.n.len()));
        let base = Zeroizing::new(self.multiply(&base, &self.square));
        let mut power = base.clone();
        for bit in (0..e.ilog2()).rev() {
            power = Zeroizing::new(self.multiply(&power, &power));
            if e >> bit & 1 == 1 {
                power = Zeroizing::new(self.multiply(&power, &base));
            }
        }
        // Multiplication by a plain 1 takes it out of Montgomery form.
        let mut one = vec![0; self.n.len()];
        if let Some(low) = one.first_mut() {
            *low = 1;
        }
        let result = Zeroizing::new(self.multiply(&power, &one));
        let mut bytes = Zeroizing::new(vec![0; 8 * result.len()]);
        for (to, limb) in bytes.rchunks_exact_mut(8).zip(result.iter()) {
            to.copy_from_slice(&limb.to_be_bytes());
        }
        let leading = bytes.len() - self.length;
        bytes.drain(..leading);
        bytes
    }

    /// Whether `number`, as long as the modulus, is below it.
    pub(super) fn exceeds(&self, number: &[u8]) -> Choice {
        let number = Zeroizing::new(limbs(number, self.n.len()));
        let mut borrow = 0;
        for (limb, n) in number.iter().zip(&self.n) {
            let (limb, first) = limb.overflowing_sub(*n);
            let (_, second) = limb.overflowing_sub(borrow);
            borrow = u64::from(first) | u64::from(second);
        }
        borrow.ct_eq(&1)
    }

    /// a·b/R mod n. Both are below n.
    fn multiply(&self, a: &[u64], b: &[u64]) -> Limbs {
        let mut t = vec![0u64; self.n.len()];
        // What does not fit the limbs: t stays below 2n, so this is 0 or 1 after each round.
        let mut over = 0u64;
        for digit in b {
            let mut carry = 0;
            for (sum, factor) in t.iter_mut().zip(a) {
                (*sum, carry) = multiply_add(*factor, *digit, *sum, carry);
            }
            let (top, overflow) = over.overflowing_add(carry);

            // Add the multiple of n that makes the lowest limb 0, and shift that limb out.
            let multiple = t.first().copied().unwrap_or_default().wrapping_mul(self.inverse);
            let mut carry = 0;
            let mut below: Option<&mut u64> = None;
            for (sum, factor) in t.iter_mut().zip(&self.n) {
                let low;
                (low, carry) = multiply_add(*factor, multiple, *sum, carry);
                if let Some(below) = below {
                    *below = low;
                }
                below = Some(sum);
            }
            let (top, again) = top.overflowing_add(carry);
            if let Some(below) = below {
                *below = top;
            }
            over = u64::from(overflow) + u64::from(again);
        }
        self.reduce(&mut t, over);
        t
    }

    /// 2a mod n.
    fn double(&self, a: &[u64]) -> Limbs {
        let mut carry = 0;
        let mut twice: Limbs = a
            .iter()
            .map(|limb| {
                let doubled = limb << 1 | carry;
                carry = limb >> 63;
                doubled
            })
            .collect();
        self.reduce(&mut twice, carry);
        twice
    }

    /// Subtracts n once if the number, `over` above the limbs, is not below it.
    fn reduce(&self, number: &mut [u64], over: u64) {
        let mut borrow = 0;
        let less = Zeroizing::new(
            number
                .iter()
                .zip(&self.n)
                .map(|(limb, n)| {
                    let (limb, first) = limb.overflowing_sub(*n);
                    let (limb, second) = limb.overflowing_sub(borrow);
                    borrow = u64::from(first) | u64::from(second);
                    limb
                })
                .collect::<Limbs>(),
        );
        // Keep the difference unless subtracting borrowed more than there was above.
        let keep = over.ct_eq(&borrow) | borrow.ct_eq(&0);
        for (limb, less) in number.iter_mut().zip(less.iter()) {
            limb.conditional_assign(less, keep);
        }
    }
}

/// The low and the high half of a·b + c + d, which never overflows.
fn multiply_add(a: u64, b: u64, c: u64, d: u64) -> (u64, u64) {
    let sum = u128::from(a) * u128::from(b) + u128::from(c) + u128::from(d);
    (sum as u64, (sum >> 64) as u64)
}

/// Big-endian bytes as `count` limbs.
fn limbs(bytes: &[u8], count: usize) -> Limbs {
    let mut limbs = vec![0; count];
    for (limb, chunk) in limbs.iter_mut().zip(bytes.rchunks(8)) {
        *limb = chunk.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    limbs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rsa::BigUint;

    use super::*;

    fn agrees(mut modulus: Vec<u8>, input: &[u8], e: u64) {
        // Odd, and of full length.
        *modulus.first_mut().unwrap() |= 1;
        *modulus.last_mut().unwrap() |= 1;
        let n = BigUint::from_bytes_be(&modulus);
        let input = BigUint::from_bytes_be(input) % &n;
        let pad = |number: &BigUint| {
            let bytes = number.to_bytes_be();
            let mut padded = vec![0; modulus.len() - bytes.len()];
            padded.extend(bytes);
            padded
        };
        let expected = pad(&input.modpow(&BigUint::from(e), &n));
        let found = Modulus::new(&modulus).power(&pad(&input), e);
        assert_eq!(*found, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn agrees_with_another_implementation(
            modulus in prop::collection::vec(any::<u8>(), 17..520),
            input in prop::collection::vec(any::<u8>(), 1..520),
            e in prop_oneof![Just(3u64), Just(17), Just(65537), any::<u64>().prop_map(|e| e | 1)],
        ) {
            agrees(modulus, &input, e);
        }
    }

    #[test]
    fn holds_at_the_edges() {
        for length in [17, 24, 64, 128, 256, 257, 384, 512, 1024] {
            for fill in [0x00, 0xff] {
                for input in [vec![0], vec![1], vec![0xff; length], {
                    let mut below = vec![fill; length];
                    below[length - 1] = 0xfe;
                    below
                }] {
                    for e in [1, 2, 3, 65537, u64::MAX] {
                        agrees(vec![fill; length], &input, e);
                    }
                }
            }
        }
    }
}
