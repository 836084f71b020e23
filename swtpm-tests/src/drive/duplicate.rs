//! Keys on their way to another TPM, or to the same.

use cryptoki_sys::*;

use super::pair::{p256, public_template};
use super::{Drive, Failure, Family, Kind, Outcome, Pair, Random, Row, by, driver};
use crate::bench::STORAGE_KEY;
use crate::ck::{Attribute, bytes, flag};
use crate::openssl::Key;

/// CKM_TPM11_DUPLICATE
pub const CKM_TPM11_DUPLICATE: u64 = CKM_VENDOR_DEFINED | 0x5450_4D01;
/// CKA_TPM11_STORAGE_KEY
pub const CKA_TPM11_STORAGE_KEY: u64 = CKA_VENDOR_DEFINED | 0x5450_4D02;

pub(super) static ROWS: &[Row] = &[(CKM_TPM11_DUPLICATE, &Duplicate)];

#[derive(Debug)]
struct Duplicate;

impl Family for Duplicate {
    fn section(&self) -> &'static str {
        "moving keys"
    }

    fn does(&self) -> u64 {
        CKF_WRAP | CKF_UNWRAP
    }

    /// A key that goes to the TPM that it is in and comes back, where the SO trusts that TPM's storage
    /// key; else it does not go, nor come.
    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome {
        let (ck, session) = (drive.ck, drive.session);
        let wanted = [flag(CKA_TRUSTED, true), bytes(CKA_LABEL, STORAGE_KEY)];
        let found = by("C_FindObjects", ck.find(session, &wanted))?;
        let extra = [flag(CKA_EXTRACTABLE, true), bytes(CKA_LABEL, "traveller")];
        let traveller =
            |random: &mut Random| Pair::generate(ck, session, Kind::Ec, random, [&[], &extra]);
        match found.first() {
            Some(target) => {
                let pair = traveller(random)?;
                drive.spend_pair(&pair, || returns(drive, *target, &pair, random))
            }
            None => drive.with_object(&storage_key(p256()), |target| {
                let pair = traveller(random)?;
                drive.spend_pair(&pair, || stays(drive, target, &pair))
            }),
        }
    }
}

/// It does not leave for a TPM that nobody trusts.
fn stays(drive: &Drive<'_>, target: u64, pair: &Pair) -> Outcome {
    match drive.ck.wrap(drive.session, drive.kind(), target, pair.private) {
        Err(rv) if rv == CKR_KEY_NOT_WRAPPABLE => Ok(()),
        Err(rv) => Err(Failure::Refused("C_WrapKey", rv)),
        Ok(_) => Err(Failure::Wrong(drive.named("a key leaves for nobody's TPM"))),
    }
}

/// What comes back signs as the public key says.
fn returns(drive: &Drive<'_>, target: u64, pair: &Pair, random: &mut Random) -> Outcome {
    let (ck, session, kind) = (drive.ck, drive.session, drive.kind());
    let wrapped = by("C_WrapKey", ck.wrap(session, kind, target, pair.private))?;
    let back = by("C_UnwrapKey", ck.unwrap(session, kind, 0, &wrapped, &[]))?;
    drive.spend(back, |back| {
        let moved = Pair { private: back, ..pair.clone() };
        let signing = driver(CKM_ECDSA_SHA256, CKF_SIGN).expect("there is one");
        signing.drive(ck, session, Some(&moved), random)
    })
}

/// CKO_PUBLIC_KEY for a key of P-256 that says to be a TPM's storage key: TPMT_PUBLIC of TPM 2.0 Part 2
/// §12.2.4, as the provisioning guidance has it.
pub fn storage_key(key: &Key) -> Vec<Attribute> {
    let info = key.info();
    let (x, y) = info[info.len() - 64..].split_at(32);
    let mut area = vec![0, 0x23, 0, 0x0B, 0, 3, 4, 0x72, 0, 0];
    // AES-128-CFB, no scheme, P-256, no KDF.
    area.extend([0, 6, 0, 128, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10]);
    for coordinate in [x, y] {
        area.extend([0, 32]);
        area.extend(coordinate);
    }
    let mut template = public_template(Kind::Ec, &info);
    template.push(bytes(CKA_TPM11_STORAGE_KEY, area));
    template
}
