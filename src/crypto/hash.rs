//! The hashes that the host computes: SHA-1, SHA-2, SHA-3.

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
