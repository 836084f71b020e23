//! The hashes, as callers name them and as OpenSSL does.

use cryptoki_sys::*;

/// A hash: CKM_ of the digest, CKG_ of its MGF1 (0: none), OpenSSL's name, length in bytes.
pub(super) type Hash = (u64, u64, &'static str, usize);

pub(super) const SHA1: Hash = (CKM_SHA_1, CKG_MGF1_SHA1, "sha1", 20);
pub(super) const SHA224: Hash = (CKM_SHA224, CKG_MGF1_SHA224, "sha224", 28);
pub(super) const SHA256: Hash = (CKM_SHA256, CKG_MGF1_SHA256, "sha256", 32);
pub(super) const SHA384: Hash = (CKM_SHA384, CKG_MGF1_SHA384, "sha384", 48);
pub(super) const SHA512: Hash = (CKM_SHA512, CKG_MGF1_SHA512, "sha512", 64);
pub(super) const SHA512_224: Hash = (CKM_SHA512_224, 0, "sha512-224", 28);
pub(super) const SHA512_256: Hash = (CKM_SHA512_256, 0, "sha512-256", 32);
pub(super) const SHA3_224: Hash = (CKM_SHA3_224, CKG_MGF1_SHA3_224, "sha3-224", 28);
pub(super) const SHA3_256: Hash = (CKM_SHA3_256, CKG_MGF1_SHA3_256, "sha3-256", 32);
pub(super) const SHA3_384: Hash = (CKM_SHA3_384, CKG_MGF1_SHA3_384, "sha3-384", 48);
pub(super) const SHA3_512: Hash = (CKM_SHA3_512, CKG_MGF1_SHA3_512, "sha3-512", 64);
