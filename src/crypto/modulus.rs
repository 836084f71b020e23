//! input^e mod n for a public e, in time that depends on the sizes and on e but not on the input:
//! what comes out of a decryption passes here to be checked, and must not show in the time.

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::subtle::{Choice, ConstantTimeLess as _};
use crypto_bigint::{BoxedUint, Odd};
use zeroize::{Zeroize as _, Zeroizing};

/// An odd modulus, prepared.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Modulus {
    params: BoxedMontyParams,
    /// In bytes.
    length: usize,
}

impl Modulus {
    /// `modulus` is big-endian, odd, without leading zero bytes. None if it is even.
    pub(super) fn new(modulus: &[u8]) -> Option<Self> {
        let n: Option<Odd<BoxedUint>> = Odd::new(number(modulus, modulus.len())).into();
        Some(Self { params: BoxedMontyParams::new_vartime(n?), length: modulus.len() })
    }

    /// The length in bits.
    pub(super) fn bits(&self) -> usize {
        self.params.modulus().bits_vartime() as usize
    }

    /// The length in bytes.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// input^e mod n, big-endian, as long as the modulus. `input` is as long and smaller, `e` not 0.
    pub(super) fn power(&self, input: &[u8], e: u64) -> Zeroizing<Vec<u8>> {
        let base = number(input, self.length);
        let mut base = BoxedMontyForm::new(base, self.params.clone());
        let mut power = base.pow_bounded_exp(&BoxedUint::from(e), u64::BITS - e.leading_zeros());
        let mut result = power.retrieve();
        base.zeroize();
        power.zeroize();
        let bytes = Zeroizing::new(result.to_be_bytes());
        result.zeroize();
        // Whole limbs came back; what stands before the modulus's length is zero.
        let leading = bytes.len().saturating_sub(self.length);
        Zeroizing::new(bytes.get(leading..).unwrap_or_default().to_vec())
    }

    /// Whether `number`, as long as the modulus, is below it.
    pub(super) fn exceeds(&self, input: &[u8]) -> Choice {
        let mut input = number(input, self.length);
        let below = input.ct_lt(self.params.modulus());
        input.zeroize();
        below
    }
}

/// At most `length` big-endian bytes in as many whole limbs as those take.
fn number(bytes: &[u8], length: usize) -> BoxedUint {
    let bits = u32::try_from(8 * length).unwrap_or(u32::MAX);
    // More bytes than `length` are refused by every caller before.
    BoxedUint::from_be_slice(bytes, bits.next_multiple_of(64))
        .unwrap_or_else(|_| BoxedUint::zero_with_precision(bits.next_multiple_of(64)))
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
        let found = Modulus::new(&modulus).unwrap().power(&pad(&input), e);
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
