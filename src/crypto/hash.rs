//! The hashes that the host computes: SHA-1, SHA-2, SHA-3; and SHAKE.

use const_oid::ObjectIdentifier;
use sha2::Digest as _;
use sha3::digest::ExtendableOutput;
use zeroize::{Zeroize, Zeroizing};

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hash {
    /// FIPS 180-4, 20 bytes
    Sha1,
    /// FIPS 180-4, 28 bytes
    Sha224,
    /// FIPS 180-4, 32 bytes
    Sha256,
    /// FIPS 180-4, 48 bytes
    Sha384,
    /// FIPS 180-4, 64 bytes
    Sha512,
    /// FIPS 180-4, 28 bytes
    Sha512_224,
    /// FIPS 180-4, 32 bytes
    Sha512_256,
    /// FIPS 202, 28 bytes
    Sha3_224,
    /// FIPS 202, 32 bytes
    Sha3_256,
    /// FIPS 202, 48 bytes
    Sha3_384,
    /// FIPS 202, 64 bytes
    Sha3_512,
}

/// The longest digest, in bytes.
pub const MAX_DIGEST: usize = 64;

impl Hash {
    /// Every hash that we have.
    pub const ALL: [Hash; 11] = [
        Hash::Sha1,
        Hash::Sha224,
        Hash::Sha256,
        Hash::Sha384,
        Hash::Sha512,
        Hash::Sha512_224,
        Hash::Sha512_256,
        Hash::Sha3_224,
        Hash::Sha3_256,
        Hash::Sha3_384,
        Hash::Sha3_512,
    ];

    /// The length of the digest, in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a hash is not a container")]
    pub const fn len(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha224 | Hash::Sha512_224 | Hash::Sha3_224 => 28,
            Hash::Sha256 | Hash::Sha512_256 | Hash::Sha3_256 => 32,
            Hash::Sha384 | Hash::Sha3_384 => 48,
            Hash::Sha512 | Hash::Sha3_512 => 64,
        }
    }

    /// The length of the input block (SHA-3: the rate), in bytes, as HMAC needs it.
    pub const fn block(self) -> usize {
        match self {
            Hash::Sha1 | Hash::Sha224 | Hash::Sha256 => 64,
            Hash::Sha384 | Hash::Sha512 | Hash::Sha512_224 | Hash::Sha512_256 => 128,
            Hash::Sha3_224 => 144,
            Hash::Sha3_256 => 136,
            Hash::Sha3_384 => 104,
            Hash::Sha3_512 => 72,
        }
    }

    /// The object identifier: RFC 8017 appendix B.1, NIST's arc 2.16.840.1.101.3.4.2.
    pub const fn oid(self) -> ObjectIdentifier {
        ObjectIdentifier::new_unwrap(match self {
            Hash::Sha1 => "1.3.14.3.2.26",
            Hash::Sha256 => "2.16.840.1.101.3.4.2.1",
            Hash::Sha384 => "2.16.840.1.101.3.4.2.2",
            Hash::Sha512 => "2.16.840.1.101.3.4.2.3",
            Hash::Sha224 => "2.16.840.1.101.3.4.2.4",
            Hash::Sha512_224 => "2.16.840.1.101.3.4.2.5",
            Hash::Sha512_256 => "2.16.840.1.101.3.4.2.6",
            Hash::Sha3_224 => "2.16.840.1.101.3.4.2.7",
            Hash::Sha3_256 => "2.16.840.1.101.3.4.2.8",
            Hash::Sha3_384 => "2.16.840.1.101.3.4.2.9",
            Hash::Sha3_512 => "2.16.840.1.101.3.4.2.10",
        })
    }

    /// The DER of a DigestInfo over `digest`, with the NULL parameters that RFC 8017 §9.2 note 1
    /// asks for. `digest` is [`len`](Self::len) bytes long (at most 64).
    pub fn digest_info(self, digest: &[u8]) -> Vec<u8> {
        let oid = self.oid();
        let oid = oid.as_bytes();
        // All lengths are below 128, so each takes one byte.
        let algorithm = 2 + oid.len() + 2;
        let total = 2 + algorithm + 2 + digest.len();
        let mut der = Vec::with_capacity(2 + total);
        der.extend_from_slice(&[0x30, total as u8, 0x30, algorithm as u8, 0x06, oid.len() as u8]);
        der.extend_from_slice(oid);
        der.extend_from_slice(&[0x05, 0x00, 0x04, digest.len() as u8]);
        der.extend_from_slice(digest);
        der
    }

    /// Digests `data` in one go.
    pub fn digest(self, data: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.update(data);
        hasher.finish()
    }
}

/// So many bytes of SHAKE128, FIPS 202 §6.2.
pub fn shake_128(data: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    shake(sha3::Shake128::default(), data, length)
}

/// So many bytes of SHAKE256, FIPS 202 §6.2.
pub fn shake_256(data: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    shake(sha3::Shake256::default(), data, length)
}

fn shake(mut shake: impl ExtendableOutput, data: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    shake.update(data);
    Zeroizing::new(shake.finalize_boxed(length).into_vec())
}

/// A digest: up to 64 bytes without an allocation.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest {
    bytes: [u8; MAX_DIGEST],
    length: u8,
}

impl Digest {
    fn of(bytes: &[u8]) -> Self {
        let mut digest = Self { bytes: [0; MAX_DIGEST], length: 0 };
        for (to, from) in digest.bytes.iter_mut().zip(bytes) {
            *to = *from;
            digest.length += 1;
        }
        digest
    }
}

impl std::ops::Deref for Digest {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl Zeroize for Digest {
    fn zeroize(&mut self) {
        self.bytes.zeroize();
    }
}

/// A digest in the making.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha1(sha1::Sha1),
    Sha224(sha2::Sha224),
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Sha512_224(sha2::Sha512_224),
    Sha512_256(sha2::Sha512_256),
    Sha3_224(sha3::Sha3_224),
    Sha3_256(sha3::Sha3_256),
    Sha3_384(sha3::Sha3_384),
    Sha3_512(sha3::Sha3_512),
}

/// Runs `$do` on whichever hash it is.
macro_rules! each {
    ($state:expr, $hasher:ident => $do:expr) => {
        match $state {
            State::Sha1($hasher) => $do,
            State::Sha224($hasher) => $do,
            State::Sha256($hasher) => $do,
            State::Sha384($hasher) => $do,
            State::Sha512($hasher) => $do,
            State::Sha512_224($hasher) => $do,
            State::Sha512_256($hasher) => $do,
            State::Sha3_224($hasher) => $do,
            State::Sha3_256($hasher) => $do,
            State::Sha3_384($hasher) => $do,
            State::Sha3_512($hasher) => $do,
        }
    };
}

impl Hasher {
    /// Begins.
    pub fn new(hash: Hash) -> Self {
        Self(match hash {
            Hash::Sha1 => State::Sha1(Default::default()),
            Hash::Sha224 => State::Sha224(Default::default()),
            Hash::Sha256 => State::Sha256(Default::default()),
            Hash::Sha384 => State::Sha384(Default::default()),
            Hash::Sha512 => State::Sha512(Default::default()),
            Hash::Sha512_224 => State::Sha512_224(Default::default()),
            Hash::Sha512_256 => State::Sha512_256(Default::default()),
            Hash::Sha3_224 => State::Sha3_224(Default::default()),
            Hash::Sha3_256 => State::Sha3_256(Default::default()),
            Hash::Sha3_384 => State::Sha3_384(Default::default()),
            Hash::Sha3_512 => State::Sha3_512(Default::default()),
        })
    }

    /// Takes more of the data.
    pub fn update(&mut self, data: &[u8]) {
        each!(&mut self.0, hasher => hasher.update(data));
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> Digest {
        each!(self.0, hasher => Digest::of(&hasher.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::vectors::hex;

    #[test]
    fn shake_gives_what_openssl_gives() {
        // "abc", by `openssl dgst -shake128 -xoflen 32` and its like.
        let answer = "5881092dd818bf5cf8a3ddb793fbcba74097d5c526a6d35f97b83351940f2cc8";
        assert_eq!(hex(&shake_128(b"abc", 32)), answer);
        let answer = "483366601360a8771c6863080cc4114d8db44530f8f1e1ee4f94ea37e78b5739";
        assert_eq!(hex(&shake_256(b"abc", 32)), answer);
        assert_eq!(hex(&shake_256(b"abc", 64)[..32]), answer);
    }

    #[test]
    fn known_answers() {
        // FIPS 180-4 and FIPS 202 examples ("abc"); a thousand "a" by OpenSSL 4.0.0.
        let answers = [
            (
                Hash::Sha1,
                "a9993e364706816aba3e25717850c26c9cd0d89d",
                "291e9a6c66994949b57ba5e650361e98fc36b1ba",
            ),
            (
                Hash::Sha224,
                "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
                "4e8f0ce90b64661a2b5e84be6d93a7d9b76871062f1814433d04a03d",
            ),
            (
                Hash::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3",
            ),
            (
                Hash::Sha384,
                concat!(
                    "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed",
                    "8086072ba1e7cc2358baeca134c825a7"
                ),
                concat!(
                    "f54480689c6b0b11d0303285d9a81b21a93bca6ba5a1b4472765dca4da45ee32",
                    "8082d469c650cd3b61b16d3266ab8ced"
                ),
            ),
            (
                Hash::Sha512,
                concat!(
                    "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a",
                    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
                ),
                concat!(
                    "67ba5535a46e3f86dbfbed8cbbaf0125c76ed549ff8b0b9e03e0c88cf90fa634",
                    "fa7b12b47d77b694de488ace8d9a65967dc96df599727d3292a8d9d447709c97"
                ),
            ),
            (
                Hash::Sha512_224,
                "4634270f707b6a54daae7530460842e20e37ed265ceee9a43e8924aa",
                "ffdfa284ae9e562222e2a37cd683823f7e669f3636477701f4ce9abe",
            ),
            (
                Hash::Sha512_256,
                "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23",
                "40eb4a70d4d69815407a9e272f0101cd67e3d11262a4a0bfc087712749c7fb53",
            ),
            (
                Hash::Sha3_224,
                "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf",
                "2461344b84416db8fe01c2a4966fea019590c231dd5724c1bfc26745",
            ),
            (
                Hash::Sha3_256,
                "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
                "8f3934e6f7a15698fe0f396b95d8c4440929a8fa6eae140171c068b4549fbf81",
            ),
            (
                Hash::Sha3_384,
                concat!(
                    "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b2",
                    "98d88cea927ac7f539f1edf228376d25"
                ),
                concat!(
                    "ccf4495ff20b4b33a1cc1917f9f0fe0fcb5e3d08e542cf4d4a90dd950b748e7e",
                    "1cc07d2f3b36d62dd240724417cdd81b"
                ),
            ),
            (
                Hash::Sha3_512,
                concat!(
                    "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e",
                    "10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0"
                ),
                concat!(
                    "ac7e95cc95aa7f24aaa95e040ca0c79b39cd9cc84a10abb84ddd8dd5e4b45cf9",
                    "6543aaa70d0ef99fbf8d2769639981ee1fd0b0276f4756b9d504d0b7de19b700"
                ),
            ),
        ];
        assert_eq!(answers.map(|(hash, ..)| hash), Hash::ALL);
        for (hash, abc, long) in answers {
            assert_eq!(hex(&hash.digest(b"abc")), abc, "{hash:?}");
            assert_eq!(hex(&hash.digest(&[b'a'; 1000])), long, "{hash:?}");
            assert_eq!(hash.digest(b"").len(), hash.len(), "{hash:?}");
        }
    }

    #[test]
    fn a_digest_info_is_what_the_der_reader_reads() {
        use crate::crypto::der;
        for hash in Hash::ALL {
            let digest = hash.digest(b"abc");
            let info = hash.digest_info(&digest);
            let (sequence, rest) = der::value(0x30, &info).unwrap();
            let (algorithm, inner) = der::value(0x30, sequence).unwrap();
            let (oid, null) = der::value(0x06, algorithm).unwrap();
            let (octets, end) = der::value(0x04, inner).unwrap();
            assert_eq!((oid, null), (hash.oid().as_bytes(), &[0x05, 0x00][..]));
            assert_eq!((octets, rest, end), (&*digest, &[][..], &[][..]));
        }
        // RFC 8017 §9.2 note 1.
        let sha256 = Hash::Sha256.digest_info(&[0; 32]);
        assert!(hex(&sha256).starts_with("3031300d060960864801650304020105000420"));
        let sha1 = Hash::Sha1.digest_info(&[0; 20]);
        assert!(hex(&sha1).starts_with("3021300906052b0e03021a05000414"));
    }

    proptest! {
        #[test]
        fn parts_give_the_same_digest_as_the_whole(
            data in prop::collection::vec(any::<u8>(), 0..600),
            at in any::<prop::sample::Index>(),
        ) {
            let (first, second) = data.split_at(at.index(data.len() + 1));
            for hash in Hash::ALL {
                let mut hasher = Hasher::new(hash);
                hasher.update(first);
                hasher.update(second);
                prop_assert!(hasher.finish() == hash.digest(&data));
            }
        }
    }
}
