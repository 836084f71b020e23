//! Derivations that work on the bytes of keys: concatenation, exclusive or, a part of a key, a hash of it.
//! The host does them, so they take keys whose value it can have: readable ones, and sealed ones that name the
//! mechanism. PKCS#11 3.2 §6.43, and "Hash-based key derivation".

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::{Chip, Derive, Does, Keys, Mechanism, NOTHING, Params, hmac};
use crate::crypto::hash::{Hash, shake_128, shake_256};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::object::keyspec::Derives;

pub(super) static ROWS: &[Mechanism] = &[
    row(CKM_CONCATENATE_BASE_AND_KEY, "CKM_CONCATENATE_BASE_AND_KEY", None),
    row(CKM_CONCATENATE_BASE_AND_DATA, "CKM_CONCATENATE_BASE_AND_DATA", None),
    row(CKM_CONCATENATE_DATA_AND_BASE, "CKM_CONCATENATE_DATA_AND_BASE", None),
    row(CKM_XOR_BASE_AND_DATA, "CKM_XOR_BASE_AND_DATA", None),
    row(CKM_EXTRACT_KEY_FROM_KEY, "CKM_EXTRACT_KEY_FROM_KEY", None),
    row(CKM_SHAKE_128_KEY_DERIVATION, "CKM_SHAKE_128_KEY_DERIVATION", None),
    row(CKM_SHAKE_256_KEY_DERIVATION, "CKM_SHAKE_256_KEY_DERIVATION", None),
];

/// The rows of the hashes.
macro_rules! hashed {
    ($(($id:ident, $hash:ident)),* $(,)?) => {
        &[$(row($id, stringify!($id), Some(Hash::$hash)),)*]
    };
}

pub(super) static HASHED: &[Mechanism] = hashed![
    (CKM_SHA1_KEY_DERIVATION, Sha1),
    (CKM_SHA224_KEY_DERIVATION, Sha224),
    (CKM_SHA256_KEY_DERIVATION, Sha256),
    (CKM_SHA384_KEY_DERIVATION, Sha384),
    (CKM_SHA512_KEY_DERIVATION, Sha512),
    (CKM_SHA512_224_KEY_DERIVATION, Sha512_224),
    (CKM_SHA512_256_KEY_DERIVATION, Sha512_256),
    (CKM_SHA3_224_KEY_DERIVATION, Sha3_224),
    (CKM_SHA3_256_KEY_DERIVATION, Sha3_256),
    (CKM_SHA3_384_KEY_DERIVATION, Sha3_384),
    (CKM_SHA3_512_KEY_DERIVATION, Sha3_512),
];

const fn row(id: u64, name: &'static str, hash: Option<Hash>) -> Mechanism {
    Mechanism {
        id,
        name,
        keys: Keys::Secret(&[CKK_GENERIC_SECRET, CKK_AES]),
        size: hmac::SIZE,
        hash,
        chip: &[],
        does: Does { derive: Some((Derives::Telling, Derive::One(derive))), ..NOTHING },
    }
}

fn derive(
    row: &'static Mechanism,
    params: &Params,
    key: &Object,
    others: &[Object],
    length: Option<usize>,
    chip: &Chip<'_>,
) -> Result<Zeroizing<Vec<u8>>> {
    match (row.id, row.hash, params) {
        (_, Some(hash), _) => {
            params.none()?;
            let digest = Zeroizing::new(hash.digest(&chip.value(key)?).to_vec());
            beginning(digest, length)
        }
        // As many bytes as the table of "Hash-based key derivation" says.
        (CKM_SHAKE_128_KEY_DERIVATION | CKM_SHAKE_256_KEY_DERIVATION, ..) => {
            params.none()?;
            let value = chip.value(key)?;
            let made = match row.id {
                CKM_SHAKE_128_KEY_DERIVATION => shake_128(&value, 32),
                _ => shake_256(&value, 64),
            };
            beginning(made, length)
        }
        (CKM_CONCATENATE_BASE_AND_KEY, _, Params::Key(_)) => {
            let [other] = others else { return Err(Error::Bug("a second key without its object")) };
            beginning([&chip.value(key)?[..], &chip.value(other)?].concat().into(), length)
        }
        (CKM_CONCATENATE_BASE_AND_DATA, _, Params::Data(data)) => {
            beginning([&chip.value(key)?[..], data].concat().into(), length)
        }
        (CKM_CONCATENATE_DATA_AND_BASE, _, Params::Data(data)) => {
            beginning([data, &chip.value(key)?[..]].concat().into(), length)
        }
        (CKM_XOR_BASE_AND_DATA, _, Params::Data(data)) => {
            let value = chip.value(key)?;
            let sum = value.iter().zip(data).map(|(one, other)| one ^ other).collect();
            beginning(Zeroizing::new(sum), length)
        }
        (CKM_EXTRACT_KEY_FROM_KEY, _, Params::Length(bit)) => {
            let length = length.ok_or(Error::TemplateIncomplete(CKA_VALUE_LEN))?;
            part(&chip.value(key)?, *bit, length)
        }
        _ => Err(params.refused("the mechanism's parameter is missing")),
    }
}

/// As many of the first bytes as are asked.
fn beginning(mut all: Zeroizing<Vec<u8>>, length: Option<usize>) -> Result<Zeroizing<Vec<u8>>> {
    match length {
        Some(length) if length > all.len() => Err(too_long(length, all.len())),
        Some(length) => {
            all.truncate(length);
            Ok(all)
        }
        None => Ok(all),
    }
}

/// So many bytes from this bit on, and after the last bit from the first on. §6.43.7.
fn part(value: &[u8], bit: u64, length: usize) -> Result<Zeroizing<Vec<u8>>> {
    if length > value.len() {
        return Err(too_long(length, value.len()));
    }
    let start = usize::try_from(bit)
        .ok()
        .filter(|bit| bit / 8 < value.len())
        .ok_or(Error::MechanismParamInvalid("the key has not so many bits"))?;
    let (at, shift) = (start / 8, start % 8);
    let turned = value.iter().cycle().skip(at);
    let next = turned.clone().skip(1);
    let bytes = turned.zip(next).take(length).map(|(one, next)| {
        // The leading byte of the sixteen bits that begin here.
        ((u16::from(*one) << 8 | u16::from(*next)) << shift >> 8) as u8
    });
    Ok(Zeroizing::new(bytes.collect()))
}

fn too_long(length: usize, there: usize) -> Error {
    Error::KeySizeRange(format!("{length} bytes asked, the mechanism gives {there}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_counted_in_bits_and_goes_round() {
        // The example of §6.43.7.
        let value = [0x32, 0x9f, 0x84, 0xa9];
        let part = |bit, length| part(&value, bit, length).map(|part| part.to_vec());
        assert_eq!(part(21, 2), Ok(vec![0x95, 0x26]));
        assert_eq!(part(0, 4), Ok(value.to_vec()));
        assert_eq!(part(8, 4), Ok(vec![0x9f, 0x84, 0xa9, 0x32]));
        assert_eq!(part(31, 1), Ok(vec![0x99]));
        assert!(matches!(part(0, 5), Err(Error::KeySizeRange(_))));
        for bit in [32, u64::MAX] {
            assert!(matches!(part(bit, 1), Err(Error::MechanismParamInvalid(_))));
        }
    }
}
