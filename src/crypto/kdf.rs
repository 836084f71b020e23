//! Key derivation functions that turn a shared secret or a password into a key.

use blake2::Blake2bVar;
use blake2::digest::{Update as _, VariableOutput as _};
use zeroize::{Zeroize, Zeroizing};

use super::Fault;
use super::hash::{Hash, Hasher};
use super::mac::Keyed;

/// The ANSI X9.63 KDF (SEC 1 §3.6.1): `length` bytes of hash(z ‖ counter ‖ shared).
pub fn x963(hash: Hash, z: &[u8], shared: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    counter_mode(length, |counter| hashed(hash, [z, counter, shared]))
}

/// The one-step KDF of SP 800-56A (SP 800-56C §4.1 with a hash): `length` bytes of
/// hash(counter ‖ z ‖ info).
pub fn one_step(hash: Hash, z: &[u8], info: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    counter_mode(length, |counter| hashed(hash, [counter, z, info]))
}

/// The same with BLAKE2b (RFC 7693) whose digests have so many bytes, 1 to 64.
///
/// # Errors
/// [`Fault::Length`] for other digests.
pub fn one_step_blake2b(
    digest: usize,
    z: &[u8],
    info: &[u8],
    length: usize,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    if digest == 0 {
        return Err(Fault::Length);
    }
    let empty = Blake2bVar::new(digest).map_err(|_| Fault::Length)?;
    Ok(counter_mode(length, |counter| {
        let mut hasher = empty.clone();
        [counter, z, info].iter().for_each(|part| hasher.update(part));
        let mut block = Zeroizing::new(vec![0; digest]);
        // As long as `new` was told.
        let _ = hasher.finalize_variable(&mut block);
        block
    }))
}

fn hashed(hash: Hash, parts: [&[u8]; 3]) -> Zeroizing<Vec<u8>> {
    let mut hasher = Hasher::new(hash);
    parts.iter().for_each(|part| hasher.update(part));
    let mut digest = hasher.finish();
    let block = Zeroizing::new(digest.to_vec());
    digest.zeroize();
    block
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
fn counter_mode(length: usize, block: impl Fn(&[u8]) -> Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(length));
    let mut counter: u32 = 1;
    while key.len() < length {
        let missing = length - key.len();
        key.extend(block(&counter.to_be_bytes()).iter().take(missing));
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
    fn the_one_step_function_has_four_lengths_of_blake2b() {
        let z: Vec<u8> = (0..48).collect();
        // Of python's hashlib.
        for (digest, expected) in [
            (
                20,
                concat!(
                    "05fafa5839dfb774d872eab75e8a6d916cd0c4a817bb357c7b69c6178aebf515",
                    "03c2e055824b6e37"
                ),
            ),
            (
                32,
                concat!(
                    "d898f2ab5519772b7d92d3663424b53e7ee7794d65204772d3d4a6bfcfa331fd",
                    "8977b1ba16504e15"
                ),
            ),
            (
                48,
                concat!(
                    "518f81a6325eb8f6d061cf5c056e16e2f52924082cc1cb91bd1fa98bd799404c",
                    "19d23b2900d98901"
                ),
            ),
            (
                64,
                concat!(
                    "1dd7ec835499a280bfb463f3d5cdd72ce7e8464c9bbb4a6873472c9b40f83cde",
                    "49a304ee7b216fc8"
                ),
            ),
        ] {
            let made = one_step_blake2b(digest, &z, b"shared info", 40).unwrap();
            assert_eq!(hex(&made), expected, "{digest}");
        }
        for digest in [0, 65] {
            assert_eq!(one_step_blake2b(digest, &z, b"", 40), Err(Fault::Length));
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
