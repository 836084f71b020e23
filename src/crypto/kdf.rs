//! Key derivation functions that turn a shared secret or a password into a key.

use zeroize::{Zeroize, Zeroizing};

use super::hash::{Hash, Hasher};
use super::mac::Keyed;

/// The ANSI X9.63 KDF (SEC 1 §3.6.1): `length` bytes of hash(z ‖ counter ‖ shared).
pub fn x963(hash: Hash, z: &[u8], shared: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    counter_mode(hash, length, |hasher, counter| {
        hasher.update(z);
        hasher.update(counter);
        hasher.update(shared);
    })
}

/// The one-step KDF of SP 800-56A (SP 800-56C §4.1 with a hash): `length` bytes of
/// hash(counter ‖ z ‖ info).
pub fn one_step(hash: Hash, z: &[u8], info: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    counter_mode(hash, length, |hasher, counter| {
        hasher.update(counter);
        hasher.update(z);
        hasher.update(info);
    })
}

/// Iterations of PBKDF2 between two looks at whether to go on.
const STRIDE: u64 = 1024;

/// PBKDF2 with HMAC (RFC 8018 §5.2): `length` bytes, or `None` as soon as `go_on` says no. (The crate of
/// this name cannot be stopped.)
pub fn pbkdf2(
    hash: Hash,
    password: &[u8],
    salt: &[u8],
    iterations: u64,
    length: usize,
    go_on: impl Fn() -> bool,
) -> Option<Zeroizing<Vec<u8>>> {
    let keyed = Keyed::new(hash, password);
    let mut key = Zeroizing::new(Vec::with_capacity(length));
    for counter in 1u32.. {
        if key.len() >= length {
            break;
        }
        let mut last = keyed.mac(&[salt, &counter.to_be_bytes()]);
        let mut block = last.clone();
        for iteration in 1..iterations {
            if iteration % STRIDE == 0 && !go_on() {
                return None;
            }
            last = keyed.mac(&[&last]);
            block.iter_mut().zip(last.iter()).for_each(|(byte, other)| *byte ^= other);
        }
        let missing = length - key.len();
        key.extend(block.iter().take(missing));
        if !go_on() {
            return None;
        }
    }
    Some(key)
}

/// Blocks of a hash over a 32-bit counter that starts at 1.
fn counter_mode(
    hash: Hash,
    length: usize,
    feed: impl Fn(&mut Hasher, &[u8; 4]),
) -> Zeroizing<Vec<u8>> {
    // Allocated whole, so that no growing leaves copies behind.
    let mut key = Zeroizing::new(Vec::with_capacity(length));
    let mut counter: u32 = 1;
    while key.len() < length {
        let mut hasher = Hasher::new(hash);
        feed(&mut hasher, &counter.to_be_bytes());
        let mut block = hasher.finish();
        let wanted = (length - key.len()).min(block.len());
        key.extend(block.iter().take(wanted));
        block.zeroize();
        counter = counter.wrapping_add(1);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::vectors::hex;

    #[test]
    fn known_answers() {
        let z: Vec<u8> = (0..48).collect();
        // X9.63 and SP 800-56C one-step, 40 bytes, by OpenSSL 4.0.0 through python's cryptography.
        let answers = [
            (
                Hash::Sha1,
                concat!(
                    "c6c47fd48f8d4a432a1defc48c9812b299272f36051d8203d498cf1b893b08f7",
                    "fc6552581e804d99"
                ),
                concat!(
                    "9a031b661895fe3d61aa6544ffd7fe5fee2b98d9e9929d852fce59f2b7b47c1b",
                    "6ee09cbd80349026"
                ),
            ),
            (
                Hash::Sha224,
                concat!(
                    "ac2bf517c1ee74e6649d8761d0030d2d86ce58cc7a0bdb883d9ec71383c2731a",
                    "f110ceb84d2f5b9e"
                ),
                concat!(
                    "7add45cb779dafaa0df423bdf42907d864dd494e19ef6defb584d9a181e82bf2",
                    "bb8d47520f20aa2b"
                ),
            ),
            (
                Hash::Sha256,
                concat!(
                    "64523b1e215e18fda2fad042930b72e0334450a59689ca8dda8f9b80bc0346f2",
                    "1e5c4325610ae5a2"
                ),
                concat!(
                    "7f4a4a245c33c0b4a899d9c58bd0595524805b84468b070518f246d90eb9fa55",
                    "c05f063d7ec961b2"
                ),
            ),
            (
                Hash::Sha384,
                concat!(
                    "2d55fc3eed0decd0edd82e143d764e8c72bffab5e70d06f2dfe35b17693488c2",
                    "c7c9445ea1345ea6"
                ),
                concat!(
                    "16a3f74f746e236e887948d2807d870a6b2d4f66d520997b5fa45f1688088d49",
                    "ef545816e735a708"
                ),
            ),
            (
                Hash::Sha512,
                concat!(
                    "6a1a465cf385adcbf7e5df7e55267c429a6b95f7e6baa626d80e5d862a270160",
                    "60b902210a01f1ed"
                ),
                concat!(
                    "6b1017712ad424931463b5dfe1df70e0cd72be2e10ad1a398392e48f3f40ae58",
                    "622d8abc6c57360f"
                ),
            ),
            (
                Hash::Sha512_224,
                concat!(
                    "cb82484bc1ebd6b21bca83d6ce53d1b65db5715582a3f0c523f2951069efa18f",
                    "a156820be799f1de"
                ),
                concat!(
                    "2f5ca9c493d99bad894d0f7c5ad51384a41089464140060ddf3daf5dff415cab",
                    "ae6a2e9cb37ffc85"
                ),
            ),
            (
                Hash::Sha512_256,
                concat!(
                    "1c835fc683da4c6d042bef181650327dcbb4c09bd95c0b9b91c217789e47b93e",
                    "c9206f6cbd731fc5"
                ),
                concat!(
                    "71d7a76b47b2704cbf1721f6f955037a110dca34650ebe0e1ae83d26c5392f08",
                    "c4e2f2599b6999e8"
                ),
            ),
            (
                Hash::Sha3_224,
                concat!(
                    "7320cc12f849aafc9e5a3a7855060f308241a410100601ee0f92352432c4939d",
                    "c2afc0e400b9a902"
                ),
                concat!(
                    "dbf23bb40f09bbce9c83fba2d0c8590368e8ccf6b95fe4f6e8199d40e64fc040",
                    "2add8b4af68d064e"
                ),
            ),
            (
                Hash::Sha3_256,
                concat!(
                    "802029f4678fbbfccc4c0440fd888cb4f3a6345826c62355aa43d6ae53db67f8",
                    "a18010c98cfda785"
                ),
                concat!(
                    "65a67e49dc7d7687323fb4565a8b1f16364342b6c2bd5367a4312f8210fce06f",
                    "12883e523db03055"
                ),
            ),
            (
                Hash::Sha3_384,
                concat!(
                    "130d859c11b1561736732997f4860f192b3ff22bc873e58fb3fcbdd5df44fc85",
                    "b139c79f8627d302"
                ),
                concat!(
                    "2abf48105fe8e1038b27270823f76b9abc13159bddaca611eee9be8cf99e6fd9",
                    "1f105752655cd857"
                ),
            ),
            (
                Hash::Sha3_512,
                concat!(
                    "dc18eb13bf3fea2d39c8ef6e8e9127646af47beff07f8a58cb79f1f63e850214",
                    "c02b60460eaabed6"
                ),
                concat!(
                    "86933dc5d1de6910c6ecd3a5e49d962e65b4f5ece81467c8c36ea3eb87aad118",
                    "cf53b19230b01eb7"
                ),
            ),
        ];
        assert_eq!(answers.map(|(hash, ..)| hash), Hash::ALL);
        for (hash, with_x963, with_one_step) in answers {
            assert_eq!(hex(&x963(hash, &z, b"shared info", 40)), with_x963, "{hash:?}");
            assert_eq!(hex(&one_step(hash, &z, b"shared info", 40)), with_one_step, "{hash:?}");
        }
    }

    #[test]
    fn passwords_give_what_rfc_6070_and_the_crate_say() {
        for (password, salt, iterations, expected) in [
            (&b"password"[..], &b"salt"[..], 1, "0c60c80f961f0e71f3a9b524af6012062fe037a6"),
            (b"password", b"salt", 2, "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957"),
            (b"password", b"salt", 4096, "4b007901b765489abead49d926f721d065a429c1"),
            (
                b"passwordPASSWORDpassword",
                b"saltSALTsaltSALTsaltSALTsaltSALTsalt",
                4096,
                "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038",
            ),
            (b"pass\0word", b"sa\0lt", 4096, "56fa6aa75548099dcc37d7f03425e0c3"),
        ] {
            let length = expected.len() / 2;
            let key = pbkdf2(Hash::Sha1, password, salt, iterations, length, || true);
            assert_eq!(hex(&key.unwrap()), expected, "{iterations}");
        }
        let mut expected = [0; 100];
        ::pbkdf2::pbkdf2_hmac::<sha2::Sha512>(b"password", b"salt", 77, &mut expected);
        let key = pbkdf2(Hash::Sha512, b"password", b"salt", 77, 100, || true);
        assert_eq!(key.unwrap()[..], expected);
        let long = [7; 200];
        ::pbkdf2::pbkdf2_hmac::<sha2::Sha256>(&long, &long, 3, &mut expected);
        let key = pbkdf2(Hash::Sha256, &long, &long, 3, 100, || true);
        assert_eq!(key.unwrap()[..], expected);
    }

    #[test]
    fn a_password_is_given_up_when_nobody_waits_for_the_key() {
        let looks = std::cell::Cell::new(0);
        let go_on = || {
            looks.set(looks.get() + 1);
            looks.get() < 3
        };
        assert_eq!(pbkdf2(Hash::Sha256, b"password", b"salt", u64::MAX, 16, go_on), None);
        assert_eq!(looks.get(), 3);
    }

    #[test]
    fn a_shorter_key_is_the_beginning_of_a_longer_one() {
        let long = x963(Hash::Sha256, b"z", b"", 1000);
        for length in [0, 1, 31, 32, 33, 64, 999] {
            assert_eq!(*x963(Hash::Sha256, b"z", b"", length), long[..length]);
        }
    }
}
