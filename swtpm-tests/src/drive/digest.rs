//! Digests.

use cryptoki_sys::*;

use super::hash::*;
use super::{Drive, Family, Outcome, Random, Row, by, right};
use crate::openssl;

pub(super) static ROWS: &[Row] = &[
    (CKM_SHA_1, &Digest(SHA1)),
    (CKM_SHA224, &Digest(SHA224)),
    (CKM_SHA256, &Digest(SHA256)),
    (CKM_SHA384, &Digest(SHA384)),
    (CKM_SHA512, &Digest(SHA512)),
    (CKM_SHA512_224, &Digest(SHA512_224)),
    (CKM_SHA512_256, &Digest(SHA512_256)),
    (CKM_SHA3_224, &Digest(SHA3_224)),
    (CKM_SHA3_256, &Digest(SHA3_256)),
    (CKM_SHA3_384, &Digest(SHA3_384)),
    (CKM_SHA3_512, &Digest(SHA3_512)),
];

#[derive(Debug)]
struct Digest(Hash);

impl Family for Digest {
    fn section(&self) -> &'static str {
        "digests"
    }

    fn does(&self) -> u64 {
        CKF_DIGEST
    }

    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let data = random.fewer(2000);
        let digest = by("C_Digest", drive.ck.digest(drive.session, drive.kind(), &data))?;
        right(digest == openssl::digest(self.0.2, &data), || drive.named("another digest"))
    }
}
