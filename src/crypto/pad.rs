//! RSA paddings of RFC 8017, made and taken off in the host.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _, ConstantTimeLess as _};
use zeroize::Zeroizing;

use super::Fault;
use super::drbg::os_random;
use super::hash::{Hash, Hasher};

/// What PKCS#1 v1.5 adds to the data at least: 00, the block type, eight bytes of padding, 00.
pub const PKCS1_OVERHEAD: usize = 11;

/// EMSA-PKCS1-v1_5 without the hashing, block type 1: 00 01 FF..FF 00 ‖ data, `k` bytes.
/// RFC 8017 §9.2.
///
/// # Errors
/// [`Fault::Length`] if data is longer than k - 11 bytes.
pub fn pkcs1_signature(data: &[u8], k: usize) -> Result<Vec<u8>, Fault> {
    if data.len() + PKCS1_OVERHEAD > k {
        return Err(Fault::Length);
    }
    let mut encoded = Vec::with_capacity(k);
    encoded.extend_from_slice(&[0x00, 0x01]);
    encoded.resize(k - data.len() - 1, 0xff);
    encoded.push(0x00);
    encoded.extend_from_slice(data);
    Ok(encoded)
}

/// What [`pkcs1_signature`] padded: for recovery from a signature, whose content is public.
///
/// # Errors
/// [`Fault::Invalid`].
pub fn pkcs1_signature_open(encoded: &[u8]) -> Result<&[u8], Fault> {
    let padded = encoded.strip_prefix(&[0x00, 0x01]).ok_or(Fault::Invalid)?;
    let padding = padded.iter().take_while(|byte| **byte == 0xff).count();
    match padded.get(padding..) {
        Some([0x00, data @ ..]) if padding >= 8 => Ok(data),
        _ => Err(Fault::Invalid),
    }
}

/// Block type 2: 00 02 ‖ random nonzero bytes ‖ 00 ‖ data, `k` bytes. RFC 8017 §7.2.1.
///
/// # Errors
/// [`Fault::Length`] if data is longer than k - 11 bytes; [`Fault::NoEntropy`].
pub fn pkcs1_encryption(data: &[u8], k: usize) -> Result<Zeroizing<Vec<u8>>, Fault> {
    if data.len() + PKCS1_OVERHEAD > k {
        return Err(Fault::Length);
    }
    let padding = k - data.len() - 3;
    let mut encoded = Zeroizing::new(Vec::with_capacity(k));
    encoded.extend_from_slice(&[0x00, 0x02]);
    let mut random = Zeroizing::new(vec![0; padding]);
    while encoded.len() < 2 + padding {
        os_random(&mut random)?;
        let missing = 2 + padding - encoded.len();
        encoded.extend(random.iter().filter(|byte| **byte != 0).take(missing));
    }
    encoded.push(0x00);
    encoded.extend_from_slice(data);
    Ok(encoded)
}

/// Takes block type 2 off, in time that does not depend on the content. Where the padding is not
/// valid, the answer is pseudo-random with a pseudo-random length, always the same for the same
/// `ciphertext` and `secret` (implicit rejection, draft-irtf-cfrg-rsa-guidance §7), so that there
/// is no error to observe. `secret` belongs to the key and is known to nobody else; it stands where
/// the draft has a hash of the private exponent, which only the chip knows.
pub fn pkcs1_encryption_open(
    encoded: &[u8],
    ciphertext: &[u8],
    secret: &[u8; 32],
) -> Zeroizing<Vec<u8>> {
    let k = encoded.len();
    // Data of this length or more leaves no room for eight bytes of padding.
    let limit = k.saturating_sub(PKCS1_OVERHEAD - 1) as u64;

    let key = Zeroizing::new(prf(secret, &[ciphertext]));
    let replacement = expand(&key, b"message", k);
    let mut replacement_length = 0u64;
    let mask = limit.next_power_of_two() - 1;
    for candidate in expand(&key, b"length", 256).chunks_exact(2) {
        let candidate = candidate.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)) & mask;
        replacement_length.conditional_assign(&candidate, candidate.ct_lt(&limit));
    }

    let mut valid = Choice::from(1);
    let mut separator = 0u64;
    let mut found = Choice::from(0);
    for (at, byte) in (0u64..).zip(encoded) {
        match at {
            0 => valid &= byte.ct_eq(&0x00),
            1 => valid &= byte.ct_eq(&0x02),
            _ => {
                let here = byte.ct_eq(&0x00) & !found;
                separator.conditional_assign(&at, here);
                found |= here;
            }
        }
    }
    // Covers "none found" too: the place is 0 then.
    valid &= !separator.ct_lt(&(PKCS1_OVERHEAD as u64 - 1));

    let length = u64::conditional_select(
        &replacement_length,
        &(k as u64).wrapping_sub(1 + separator),
        valid,
    ) as usize;
    let mut chosen = Zeroizing::new(vec![0; k]);
    for ((to, padded), replaced) in chosen.iter_mut().zip(encoded).zip(replacement.iter()) {
        *to = u8::conditional_select(replaced, padded, valid);
    }
    // From here on only the length shows, which the caller learns anyway.
    Zeroizing::new(chosen.get(k - length..).unwrap_or_default().to_vec())
}

/// HMAC-SHA-256 over the concatenated `parts`.
fn prf(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC fills a short key up with zeros to the hash's block.
    let mut block = Zeroizing::new([0; 64]);
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let mut mac = <Hmac<Sha256> as hmac::digest::KeyInit>::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The draft's IRPRF: `length` bytes, at most 8191.
fn expand(key: &[u8; 32], label: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    let bits = (8 * length as u16).to_be_bytes();
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 32));
    for counter in 0u16.. {
        if bytes.len() >= length {
            break;
        }
        let block = Zeroizing::new(prf(key, &[&counter.to_be_bytes(), label, &bits]));
        bytes.extend_from_slice(block.as_ref());
    }
    bytes.truncate(length);
    bytes
}

/// The longest salt that PSS can take with this hash under a modulus of `bits` bits, in bytes.
pub fn pss_salt_limit(hash: Hash, bits: usize) -> Option<usize> {
    bits.saturating_sub(1).div_ceil(8).checked_sub(hash.len() + 2)
}

/// EMSA-PSS-ENCODE with a given salt, as long as the modulus of `bits` bits. RFC 8017 §9.1.1.
///
/// # Errors
/// [`Fault::Length`] if the salt does not fit or the digest has not the hash's length.
pub fn pss(
    hash: Hash,
    mgf: Hash,
    digest: &[u8],
    salt: &[u8],
    bits: usize,
) -> Result<Vec<u8>, Fault> {
    let limit = pss_salt_limit(hash, bits).ok_or(Fault::Length)?;
    if digest.len() != hash.len() || salt.len() > limit {
        return Err(Fault::Length);
    }
    let h = pss_hash(hash, digest, salt);
    // In front one zero byte if the encoded message is a byte shorter than the modulus.
    let spare = bits.div_ceil(8) - (bits - 1).div_ceil(8);
    let mut encoded = vec![0; spare + limit - salt.len()];
    encoded.push(0x01);
    encoded.extend_from_slice(salt);
    mask(mgf, &h, encoded.get_mut(spare..).unwrap_or_default());
    if let Some(first) = encoded.get_mut(spare) {
        *first &= pss_top(bits);
    }
    encoded.extend_from_slice(&h);
    encoded.push(0xbc);
    Ok(encoded)
}

/// EMSA-PSS-VERIFY, with exactly this salt length. `encoded` is as long as the modulus of `bits`
/// bits. RFC 8017 §9.1.2.
///
/// # Errors
/// [`Fault::Invalid`].
pub fn pss_verify(
    hash: Hash,
    mgf: Hash,
    digest: &[u8],
    salt_length: usize,
    encoded: &[u8],
    bits: usize,
) -> Result<(), Fault> {
    let limit = pss_salt_limit(hash, bits).ok_or(Fault::Invalid)?;
    let spare = bits.div_ceil(8) - (bits - 1).div_ceil(8);
    let zeros = limit.checked_sub(salt_length).ok_or(Fault::Invalid)?;
    let (front, encoded) = encoded.split_at_checked(spare).ok_or(Fault::Invalid)?;
    let (masked, rest) = encoded.split_at_checked(limit + 1).ok_or(Fault::Invalid)?;
    let (h, trailer) = rest.split_at_checked(hash.len()).ok_or(Fault::Invalid)?;
    let top = masked.first().copied().unwrap_or_default() & !pss_top(bits);
    if front.iter().any(|byte| *byte != 0) || trailer != [0xbc] || top != 0 {
        return Err(Fault::Invalid);
    }
    let mut db = masked.to_vec();
    mask(mgf, h, &mut db);
    if let Some(first) = db.first_mut() {
        *first &= pss_top(bits);
    }
    let (padding, salt) = db.split_at_checked(zeros + 1).ok_or(Fault::Invalid)?;
    let right = matches!(padding, [zeros @ .., 0x01] if zeros.iter().all(|byte| *byte == 0));
    if right && digest.len() == hash.len() && *pss_hash(hash, digest, salt) == *h {
        Ok(())
    } else {
        Err(Fault::Invalid)
    }
}

/// H of EMSA-PSS: the hash over eight zero bytes, digest and salt.
fn pss_hash(hash: Hash, digest: &[u8], salt: &[u8]) -> super::hash::Digest {
    let mut hasher = Hasher::new(hash);
    hasher.update(&[0; 8]);
    hasher.update(digest);
    hasher.update(salt);
    hasher.finish()
}

/// Which bits of the encoded message's first byte may be set.
const fn pss_top(bits: usize) -> u8 {
    match (bits - 1) % 8 {
        0 => 0xff,
        used => 0xff >> (8 - used),
    }
}

/// The most data that OAEP can take with this hash under a modulus of `k` bytes, in bytes.
pub fn oaep_limit(hash: Hash, k: usize) -> Option<usize> {
    k.checked_sub(2 * hash.len() + 2)
}

/// EME-OAEP, `k` bytes. RFC 8017 §7.1.1.
///
/// # Errors
/// [`Fault::Length`] if data is longer than k - 2 - 2 hLen bytes; [`Fault::NoEntropy`].
pub fn oaep(
    hash: Hash,
    mgf: Hash,
    label: &[u8],
    data: &[u8],
    k: usize,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut seed = Zeroizing::new(vec![0; hash.len()]);
    os_random(&mut seed)?;
    oaep_seeded(hash, mgf, label, data, k, &mut seed)
}

fn oaep_seeded(
    hash: Hash,
    mgf: Hash,
    label: &[u8],
    data: &[u8],
    k: usize,
    seed: &mut [u8],
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let limit = oaep_limit(hash, k).ok_or(Fault::Length)?;
    let zeros = limit.checked_sub(data.len()).ok_or(Fault::Length)?;
    let mut db = Zeroizing::new(Vec::with_capacity(k));
    db.extend_from_slice(&hash.digest(label));
    db.resize(hash.len() + zeros, 0);
    db.push(0x01);
    db.extend_from_slice(data);
    mask(mgf, seed, &mut db);
    mask(mgf, &db, seed);
    let mut encoded = Zeroizing::new(Vec::with_capacity(k));
    encoded.push(0x00);
    encoded.extend_from_slice(seed);
    encoded.extend_from_slice(&db);
    Ok(encoded)
}

/// Takes OAEP off, in time that does not depend on the content but for whether it is valid, and
/// with one error for everything that may be wrong (Manger's attack). RFC 8017 §7.1.2.
///
/// # Errors
/// [`Fault::Invalid`].
pub fn oaep_open(
    hash: Hash,
    mgf: Hash,
    label: &[u8],
    encoded: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    // These lengths are public.
    oaep_limit(hash, encoded.len()).ok_or(Fault::Invalid)?;
    let (first, rest) = encoded.split_first().ok_or(Fault::Invalid)?;
    let (seed, db) = rest.split_at_checked(hash.len()).ok_or(Fault::Invalid)?;
    let mut seed = Zeroizing::new(seed.to_vec());
    let mut db = Zeroizing::new(db.to_vec());
    mask(mgf, &db, &mut seed);
    mask(mgf, &seed, &mut db);

    let (label_hash, padded) = db.split_at_checked(hash.len()).ok_or(Fault::Invalid)?;
    let mut valid = first.ct_eq(&0x00) & label_hash.ct_eq(&hash.digest(label));
    // After the label's hash: zeros, one 01, the data.
    let mut separator = 0u64;
    let mut looking = Choice::from(1);
    for (at, byte) in (0u64..).zip(padded) {
        let one = byte.ct_eq(&0x01);
        separator.conditional_assign(&at, looking & one);
        valid &= !looking | one | byte.ct_eq(&0x00);
        looking &= !one;
    }
    valid &= !looking;
    if !bool::from(valid) {
        return Err(Fault::Invalid);
    }
    let data = padded.get(separator as usize + 1..).unwrap_or_default();
    Ok(Zeroizing::new(data.to_vec()))
}

/// MGF1 of `seed`, exclusive-ored over `target`. RFC 8017 appendix B.2.1.
fn mask(hash: Hash, seed: &[u8], target: &mut [u8]) {
    let mut seeded = Hasher::new(hash);
    seeded.update(seed);
    for (counter, chunk) in (0u32..).zip(target.chunks_mut(hash.len())) {
        let mut hasher = seeded.clone();
        hasher.update(&counter.to_be_bytes());
        for (to, from) in chunk.iter_mut().zip(hasher.finish().iter()) {
            *to ^= *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hashes() -> impl Strategy<Value = Hash> {
        prop::sample::select(&Hash::ALL[..])
    }

    fn bytes(length: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), length)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn block_type_1_comes_off_as_it_went_on(data in bytes(0..300), k in 64usize..300) {
            match pkcs1_signature(&data, k) {
                Ok(encoded) => {
                    prop_assert_eq!(encoded.len(), k);
                    prop_assert_eq!(pkcs1_signature_open(&encoded).unwrap(), &data);
                }
                Err(fault) => prop_assert!(fault == Fault::Length && data.len() + 11 > k),
            }
        }

        #[test]
        fn block_type_2_comes_off_as_it_went_on(
            data in bytes(0..300),
            k in 64usize..300,
            secret in any::<[u8; 32]>(),
        ) {
            match pkcs1_encryption(&data, k) {
                Ok(encoded) => {
                    prop_assert_eq!(encoded.len(), k);
                    prop_assert_eq!(&*pkcs1_encryption_open(&encoded, b"c", &secret), &data);
                }
                Err(fault) => prop_assert!(fault == Fault::Length && data.len() + 11 > k),
            }
        }

        #[test]
        fn bad_block_type_2_gives_the_same_random_answer_each_time(
            encoded in bytes(64..520),
            ciphertext in bytes(64),
            secret in any::<[u8; 32]>(),
        ) {
            // Random bytes begin with 00 02 once in 65,536 times.
            prop_assume!(encoded[..2] != [0, 2]);
            let answer = pkcs1_encryption_open(&encoded, &ciphertext, &secret);
            prop_assert!(answer.len() + 11 <= encoded.len());
            let again = pkcs1_encryption_open(&vec![1; encoded.len()], &ciphertext, &secret);
            prop_assert_eq!(&answer, &again, "depends on what was inside");
            if answer.len() >= 8 {
                let mut other = secret;
                other[0] ^= 1;
                let other = pkcs1_encryption_open(&encoded, &ciphertext, &other);
                prop_assert_ne!(&answer, &other, "does not depend on the secret");
                let mut other = ciphertext.clone();
                other[0] ^= 1;
                let other = pkcs1_encryption_open(&encoded, &other, &secret);
                prop_assert_ne!(&answer, &other, "does not depend on the ciphertext");
            }
        }

        #[test]
        fn pss_verifies_what_it_made_and_nothing_else(
            hash in hashes(),
            mgf in hashes(),
            message in bytes(0..100),
            salt in bytes(0..140),
            bits in 1024usize..1100,
            at in any::<prop::sample::Index>(),
            change in 1u8..,
        ) {
            let digest = hash.digest(&message);
            let limit = pss_salt_limit(hash, bits).unwrap();
            match pss(hash, mgf, &digest, &salt, bits) {
                Ok(encoded) => {
                    prop_assert_eq!(encoded.len(), bits.div_ceil(8));
                    let verify = |encoded: &[u8], length| {
                        pss_verify(hash, mgf, &digest, length, encoded, bits)
                    };
                    prop_assert_eq!(verify(&encoded, salt.len()), Ok(()));
                    prop_assert_eq!(verify(&encoded, salt.len() + 1), Err(Fault::Invalid));
                    let mut other = encoded.clone();
                    other[at.index(encoded.len())] ^= change;
                    prop_assert_eq!(verify(&other, salt.len()), Err(Fault::Invalid));
                }
                Err(fault) => prop_assert!(fault == Fault::Length && salt.len() > limit),
            }
        }

        #[test]
        fn oaep_comes_off_as_it_went_on_and_any_change_shows(
            hash in hashes(),
            mgf in hashes(),
            label in bytes(0..40),
            data in bytes(0..200),
            k in 64usize..300,
            at in any::<prop::sample::Index>(),
            change in 1u8..,
        ) {
            match oaep(hash, mgf, &label, &data, k) {
                Ok(encoded) => {
                    prop_assert_eq!(encoded.len(), k);
                    prop_assert_eq!(&*oaep_open(hash, mgf, &label, &encoded).unwrap(), &data);
                    let mut other = encoded.clone();
                    other[at.index(k)] ^= change;
                    if let Ok(opened) = oaep_open(hash, mgf, &label, &other) {
                        // A change in the data's own bytes is not OAEP's to find: none is.
                        prop_assert!(at.index(k) > 0 && *opened != data);
                    }
                    let mut label = label;
                    label.push(0);
                    prop_assert!(oaep_open(hash, mgf, &label, &encoded).is_err());
                }
                Err(fault) => {
                    prop_assert_eq!(fault, Fault::Length);
                    prop_assert!(oaep_limit(hash, k).is_none_or(|limit| data.len() > limit));
                }
            }
        }

        #[test]
        fn random_bytes_never_panic(
            encoded in bytes(0..300),
            hash in hashes(),
            bits in 0usize..2100,
            salt_length in 0usize..300,
        ) {
            let _ = pkcs1_signature_open(&encoded);
            let _ = pkcs1_encryption_open(&encoded, &encoded, &[0; 32]);
            let _ = oaep_open(hash, hash, b"", &encoded);
            let _ = pss_verify(hash, hash, &encoded, salt_length, &encoded, bits);
            let _ = pss(hash, hash, &encoded, &encoded, bits);
        }
    }

    #[test]
    fn every_defect_of_block_type_2_is_answered_with_the_same_length_and_bytes() {
        let k = 128;
        let good = pkcs1_encryption(b"attack at dawn", k).unwrap();
        let secret = [9; 32];
        let opened = |encoded: &[u8]| pkcs1_encryption_open(encoded, b"ciphertext", &secret);
        assert_eq!(*opened(&good), b"attack at dawn");
        let mut answers = Vec::new();
        for (at, to) in [(0, 1), (1, 1), (1, 0), (2, 0), (9, 0)] {
            let mut bad = good.clone();
            bad[at] = to;
            answers.push(opened(&bad));
        }
        let no_separator: Vec<u8> = good.iter().map(|byte| (*byte).max(1)).collect();
        let no_separator = [&[0, 2], &no_separator[2..]].concat();
        answers.push(opened(&no_separator));
        answers.dedup();
        assert_eq!(answers.len(), 1);
        // The first place where a separator may stand.
        let mut shortest = good.clone();
        shortest[10] = 0;
        assert_eq!(*opened(&shortest), good[11..]);
    }

    #[test]
    fn every_defect_of_block_type_1_is_refused() {
        let good = pkcs1_signature(b"data", 64).unwrap();
        for (at, to) in [(0, 1), (1, 2), (2, 0xfe), (9, 0), (59, 1)] {
            let mut bad = good.clone();
            bad[at] = to;
            assert_eq!(pkcs1_signature_open(&bad), Err(Fault::Invalid), "{at}");
        }
        assert_eq!(pkcs1_signature_open(&[0xff; 64]), Err(Fault::Invalid));
        assert_eq!(pkcs1_signature_open(&[]), Err(Fault::Invalid));
    }
}
