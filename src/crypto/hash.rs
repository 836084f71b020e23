//! The hashes that the host computes: SHA-1, SHA-2, SHA-3.

use const_oid::ObjectIdentifier;
use sha2::Digest as _;
use zeroize::Zeroize;

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
