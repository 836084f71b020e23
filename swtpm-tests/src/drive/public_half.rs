//! The public key of a private one.

use cryptoki_sys::*;

use super::{Drive, Family, Kind, Outcome, Random, Row, by, right};

pub(super) static ROWS: &[Row] = &[(CKM_PUB_KEY_FROM_PRIV_KEY, &PublicHalf)];

#[derive(Debug)]
struct PublicHalf;

impl Family for PublicHalf {
    fn section(&self) -> &'static str {
        "public keys of private ones"
    }

    fn does(&self) -> u64 {
        CKF_DERIVE
    }

    fn pair(&self) -> Option<Kind> {
        Some(Kind::Ec)
    }

    fn drive(&self, drive: &Drive<'_>, _: &mut Random) -> Outcome {
        let pair = drive.pair();
        drive.with_derived(drive.kind(), pair.private, &[], |made| {
            let info = drive.ck.attribute(drive.session, made, CKA_PUBLIC_KEY_INFO);
            let same = by("C_GetAttributeValue", info)? == pair.info;
            right(same, || drive.named("another public key"))
        })
    }
}
