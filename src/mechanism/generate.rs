//! Generation of key pairs and of secret keys: the TPM makes the key, and what came back of a pair is
//! looked at before it is kept. PKCS#11 3.2 §6.1.4, §6.3.9, §6.8.3.

use cryptoki_sys::*;

use super::{Chip, Does, Keys, Mechanism, NOTHING, Params, Size, Value, aes};
use crate::crypto::ec::Point;
use crate::crypto::hash::Hash;
use crate::crypto::{roca, rsa};
use crate::error::{Error, Result};
use crate::tpm::command::{Command as _, CommandId, Create, EncryptDecrypt2, Hmac, Unseal};
use crate::tpm::key::{self, KEYED_LIMIT, PublicKey};
use crate::tpm::{Facts, KeySpec, KeyUse, NewKey};

pub(super) static ROWS: &[Mechanism] = &[
    row(CKM_RSA_PKCS_KEY_PAIR_GEN, "CKM_RSA_PKCS_KEY_PAIR_GEN", CKK_RSA, Size::Bits(1024, 4096)),
    row(CKM_EC_KEY_PAIR_GEN, "CKM_EC_KEY_PAIR_GEN", CKK_EC, Size::Bits(256, 521)),
];

const fn row(id: u64, name: &'static str, key_type: u64, size: Size) -> Mechanism {
    Mechanism {
        id,
        name,
        keys: Keys::Pair(key_type),
        size,
        hash: None,
        chip: &[Create::ID],
        does: Does { generate_pair: Some(generate), ..NOTHING },
    }
}

/// Secret keys. Generic ones are counted in bits (§6.8.3), the others in bytes.
pub(super) static SECRETS: &[Mechanism] = &[
    secret(
        CKM_GENERIC_SECRET_KEY_GEN,
        "CKM_GENERIC_SECRET_KEY_GEN",
        Keys::Secret(&[CKK_GENERIC_SECRET]),
        Size::Bits(8, 8 * KEYED_LIMIT as u64),
        None,
    ),
    Mechanism {
        chip: &[Create::ID, EncryptDecrypt2::ID],
        ..aes::row(CKM_AES_KEY_GEN, "CKM_AES_KEY_GEN", Does { generate: Some(draw), ..NOTHING })
    },
    secret(
        CKM_HKDF_KEY_GEN,
        "CKM_HKDF_KEY_GEN",
        Keys::Secret(&[CKK_HKDF]),
        super::hmac::SIZE,
        None,
    ),
    mac(CKM_SHA_1_KEY_GEN, "CKM_SHA_1_KEY_GEN", Keys::Secret(&[CKK_SHA_1_HMAC]), Hash::Sha1),
    mac(CKM_SHA224_KEY_GEN, "CKM_SHA224_KEY_GEN", Keys::Sealed(&[CKK_SHA224_HMAC]), Hash::Sha224),
    mac(CKM_SHA256_KEY_GEN, "CKM_SHA256_KEY_GEN", Keys::Secret(&[CKK_SHA256_HMAC]), Hash::Sha256),
    mac(CKM_SHA384_KEY_GEN, "CKM_SHA384_KEY_GEN", Keys::Secret(&[CKK_SHA384_HMAC]), Hash::Sha384),
    mac(CKM_SHA512_KEY_GEN, "CKM_SHA512_KEY_GEN", Keys::Secret(&[CKK_SHA512_HMAC]), Hash::Sha512),
    mac(
        CKM_SHA512_224_KEY_GEN,
        "CKM_SHA512_224_KEY_GEN",
        Keys::Sealed(&[CKK_SHA512_224_HMAC]),
        Hash::Sha512_224,
    ),
    mac(
        CKM_SHA512_256_KEY_GEN,
        "CKM_SHA512_256_KEY_GEN",
        Keys::Sealed(&[CKK_SHA512_256_HMAC]),
        Hash::Sha512_256,
    ),
    mac(
        CKM_SHA3_224_KEY_GEN,
        "CKM_SHA3_224_KEY_GEN",
        Keys::Sealed(&[CKK_SHA3_224_HMAC]),
        Hash::Sha3_224,
    ),
    mac(
        CKM_SHA3_256_KEY_GEN,
        "CKM_SHA3_256_KEY_GEN",
        Keys::Sealed(&[CKK_SHA3_256_HMAC]),
        Hash::Sha3_256,
    ),
    mac(
        CKM_SHA3_384_KEY_GEN,
        "CKM_SHA3_384_KEY_GEN",
        Keys::Sealed(&[CKK_SHA3_384_HMAC]),
        Hash::Sha3_384,
    ),
    mac(
        CKM_SHA3_512_KEY_GEN,
        "CKM_SHA3_512_KEY_GEN",
        Keys::Sealed(&[CKK_SHA3_512_HMAC]),
        Hash::Sha3_512,
    ),
];

/// Whether no TPM works with keys of this CKK_.
pub(super) fn are_sealed(key_type: u64) -> bool {
    SECRETS.iter().any(|row| matches!(row.keys, Keys::Sealed(types) if types.contains(&key_type)))
}

/// What makes keys that the TPM works with needs the command of their work, too.
const fn secret(
    id: u64,
    name: &'static str,
    keys: Keys,
    size: Size,
    hash: Option<Hash>,
) -> Mechanism {
    let chip: &[CommandId] = match keys {
        Keys::Sealed(_) => &[Create::ID, Unseal::ID],
        _ => &[Create::ID, Hmac::ID],
    };
    let does = Does { generate: Some(draw), ..NOTHING };
    Mechanism { id, name, keys, size, hash, chip, does }
}

const fn mac(id: u64, name: &'static str, keys: Keys, hash: Hash) -> Mechanism {
    secret(id, name, keys, super::hmac::SIZE, Some(hash))
}

/// Any bytes are such a key.
fn draw(
    _row: &'static Mechanism,
    params: &Params,
    length: Option<usize>,
    _chip: &Chip<'_>,
) -> Result<Value> {
    params.none()?;
    let length = length.ok_or(Error::TemplateIncomplete(CKA_VALUE_LEN))?;
    if length > KEYED_LIMIT {
        return Err(Error::KeySizeRange(format!(
            "secret keys have at most {KEYED_LIMIT} bytes, {length} were asked"
        )));
    }
    Ok(Value::Fresh(length))
}

fn generate(
    _row: &'static Mechanism,
    params: &Params,
    spec: &KeySpec,
    authorization: &[u8; 32],
    chip: &Chip<'_>,
) -> Result<NewKey> {
    params.none()?;
    if let Some(facts) = chip.facts {
        offered(spec, facts)?;
    }
    let made = chip.tpm.create(chip.call, chip.srk, spec, authorization)?;
    check(spec, &key::public_key(&made.public)?.1).map_err(|what| {
        Error::FunctionFailed(format!("the TPM made a key {what}; it was discarded"))
    })?;
    Ok(made)
}

/// Whether the TPM can make such a key at all, so that it need not be asked.
fn offered(spec: &KeySpec, facts: &Facts) -> Result<()> {
    match spec.usage {
        KeyUse::Rsa { bits, .. } if !facts.rsa_bits.contains(&bits) => Err(Error::KeySizeRange(
            format!("this TPM makes RSA keys of {:?} bits, none of {bits}", facts.rsa_bits),
        )),
        KeyUse::Ec { curve, .. } if !facts.curves.contains(&curve) => Err(Error::CurveNotSupported),
        _ => Ok(()),
    }
}

/// Whether the public key is one that was asked for, and none known to be weak.
fn check(spec: &KeySpec, made: &PublicKey) -> Result<(), &'static str> {
    match (spec.usage, made) {
        (KeyUse::Rsa { bits, exponent }, PublicKey::Rsa { modulus, exponent: e }) => {
            let key = rsa::PublicKey::new(modulus, e).map_err(|_| "that is no RSA key")?;
            let wanted = rsa::PublicKey::new(modulus, &exponent.to_be_bytes());
            if key.bits() != usize::from(bits) || Ok(key) != wanted {
                return Err("of another size or exponent than was asked for");
            }
            if roca::has_fingerprint(modulus) {
                return Err("that can be broken (CVE-2017-15361): its firmware needs an update");
            }
            Ok(())
        }
        (KeyUse::Ec { curve: wanted, .. }, PublicKey::Ec { curve, x, y }) if wanted == *curve => {
            Point::from_coordinates(*curve, x, y)
                .map(drop)
                .map_err(|_| "whose public point is not on its curve")
        }
        _ => Err("of another kind than was asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ec::{self, Curve};

    fn spec(usage: KeyUse) -> KeySpec {
        KeySpec { usage, extractable: false, always_authenticate: None }
    }

    #[test]
    fn what_the_tpm_does_not_offer_is_refused_without_asking_it() {
        let facts = Facts { rsa_bits: vec![2048], curves: vec![Curve::P256], ..Facts::default() };
        let rsa = |bits| offered(&spec(KeyUse::Rsa { bits, exponent: 65537 }), &facts);
        let ec = |curve| offered(&spec(KeyUse::Ec { curve, sign: true, derive: true }), &facts);
        assert_eq!(rsa(2048), Ok(()));
        assert!(matches!(rsa(3072), Err(Error::KeySizeRange(_))));
        assert_eq!(ec(Curve::P256), Ok(()));
        assert_eq!(ec(Curve::P384), Err(Error::CurveNotSupported));
    }

    #[test]
    fn a_key_that_is_not_what_was_asked_for_is_discarded() {
        let mut modulus = vec![0xc5; 256];
        let rsa =
            |modulus: &[u8]| PublicKey::Rsa { modulus: modulus.to_vec(), exponent: vec![1, 0, 1] };
        let asked = spec(KeyUse::Rsa { bits: 2048, exponent: 65537 });
        assert_eq!(check(&asked, &rsa(&modulus)), Ok(()));
        assert!(check(&spec(KeyUse::Rsa { bits: 3072, exponent: 65537 }), &rsa(&modulus)).is_err());
        assert!(check(&spec(KeyUse::Rsa { bits: 2048, exponent: 3 }), &rsa(&modulus)).is_err());
        modulus[255] = 0xc4;
        assert!(check(&asked, &rsa(&modulus)).is_err(), "even");

        let base = [
            "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
            "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
        ]
        .map(|text| {
            let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
            (0..64).step_by(2).map(digit).collect::<Vec<u8>>()
        });
        let [x, y] = base;
        assert!(ec::Point::from_coordinates(Curve::P256, &x, &y).is_ok());
        let point = |x: &[u8]| PublicKey::Ec { curve: Curve::P256, x: x.to_vec(), y: y.clone() };
        let ec = |curve| spec(KeyUse::Ec { curve, sign: true, derive: true });
        assert_eq!(check(&ec(Curve::P256), &point(&x)), Ok(()));
        assert!(check(&ec(Curve::P384), &point(&x)).is_err(), "another curve");
        assert!(check(&ec(Curve::P256), &point(&y)).is_err(), "off the curve");
        assert!(check(&ec(Curve::P256), &rsa(&[0xc5; 256])).is_err(), "another kind");
        assert!(check(&asked, &point(&x)).is_err(), "another kind");
    }
}
