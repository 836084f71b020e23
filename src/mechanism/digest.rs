//! Digests: SHA-1, SHA-2, SHA-3. PKCS#11 3.2 §6.20 to §6.29. All in the host.

use cryptoki_sys::{
    CKM_SHA_1, CKM_SHA3_224, CKM_SHA3_256, CKM_SHA3_384, CKM_SHA3_512, CKM_SHA224, CKM_SHA256,
    CKM_SHA384, CKM_SHA512, CKM_SHA512_224, CKM_SHA512_256,
};

use super::{Digest, Does, Keys, Mechanism, NOTHING, Params, Size};
use crate::crypto::hash::{Hash, Hasher};
use crate::error::{Error, Result};

pub(super) static ROWS: &[Mechanism] = &[
    row(CKM_SHA_1, "CKM_SHA_1", Hash::Sha1),
    row(CKM_SHA224, "CKM_SHA224", Hash::Sha224),
    row(CKM_SHA256, "CKM_SHA256", Hash::Sha256),
    row(CKM_SHA384, "CKM_SHA384", Hash::Sha384),
    row(CKM_SHA512, "CKM_SHA512", Hash::Sha512),
    row(CKM_SHA512_224, "CKM_SHA512_224", Hash::Sha512_224),
    row(CKM_SHA512_256, "CKM_SHA512_256", Hash::Sha512_256),
    row(CKM_SHA3_224, "CKM_SHA3_224", Hash::Sha3_224),
    row(CKM_SHA3_256, "CKM_SHA3_256", Hash::Sha3_256),
    row(CKM_SHA3_384, "CKM_SHA3_384", Hash::Sha3_384),
    row(CKM_SHA3_512, "CKM_SHA3_512", Hash::Sha3_512),
];

const fn row(id: u64, name: &'static str, hash: Hash) -> Mechanism {
    Mechanism {
        id,
        name,
        keys: Keys::None,
        size: Size::None,
        hash: Some(hash),
        chip: &[],
        does: Does { digest: Some(start), ..NOTHING },
    }
}

fn start(row: &'static Mechanism, params: &Params) -> Result<Box<dyn Digest>> {
    params.none()?;
    let hash = row.hash.ok_or(Error::Bug("a digest mechanism without a hash"))?;
    Ok(Box::new(Digesting { hash, hasher: Hasher::new(hash) }))
}

struct Digesting {
    hash: Hash,
    hasher: Hasher,
}

impl Digest for Digesting {
    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.hasher.update(data);
        Ok(())
    }

    fn length(&self) -> usize {
        self.hash.len()
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(self.hasher.finish().to_vec())
    }
}
