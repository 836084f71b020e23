//! Digests.

use cryptoki_sys::*;

use super::hash::*;
use super::{Drive, Failure, Family, Outcome, Random, Row, by, right, secret_key};
use crate::ck::open;
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
        let mut data = random.fewer(2000);
        let digest = match random.below(3) {
            0 => by("C_Digest", drive.ck.digest(drive.session, drive.kind(), &data))?,
            1 => self.in_parts(drive, &data, None, random)?,
            _ => {
                let value = random.bytes(24);
                let template = secret_key(CKK_GENERIC_SECRET, &value, &open());
                let digest = drive
                    .with_object(&template, |key| self.in_parts(drive, &data, Some(key), random))?;
                data.extend(value);
                digest
            }
        };
        right(digest == openssl::digest(self.0.2, &data), || drive.named("another digest"))
    }
}

impl Digest {
    /// The data in parts, and behind them a key.
    fn in_parts(
        &self,
        drive: &Drive<'_>,
        data: &[u8],
        key: Option<u64>,
        random: &mut Random,
    ) -> Result<Vec<u8>, Failure> {
        let (ck, session) = (drive.ck, drive.session);
        by("C_DigestInit", ck.digest_init(session, drive.kind()))?;
        for part in data.chunks(1 + random.below(500)) {
            by("C_DigestUpdate", ck.digest_update(session, part))?;
        }
        if let Some(key) = key {
            let digested = ck.digest_key(session, key);
            if digested.is_err() {
                // The operation goes on.
                let _ = ck.digest_final(session);
            }
            by("C_DigestKey", digested)?;
        }
        by("C_DigestFinal", ck.digest_final(session))
    }
}
