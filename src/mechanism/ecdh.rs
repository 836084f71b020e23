//! ECDH key derivation, without and with cofactor (which is 1 on these curves, so they are the
//! same). The TPM computes the shared point; the KDF is ours. PKCS#11 3.2 §6.3.19, §6.3.20.

use cryptoki_sys::{
    CKA_VALUE_LEN, CKD_BLAKE2B_160_KDF, CKD_BLAKE2B_256_KDF, CKD_BLAKE2B_384_KDF,
    CKD_BLAKE2B_512_KDF, CKD_NULL, CKD_SHA1_KDF, CKD_SHA1_KDF_SP800, CKD_SHA3_224_KDF,
    CKD_SHA3_224_KDF_SP800, CKD_SHA3_256_KDF, CKD_SHA3_256_KDF_SP800, CKD_SHA3_384_KDF,
    CKD_SHA3_384_KDF_SP800, CKD_SHA3_512_KDF, CKD_SHA3_512_KDF_SP800, CKD_SHA224_KDF,
    CKD_SHA224_KDF_SP800, CKD_SHA256_KDF, CKD_SHA256_KDF_SP800, CKD_SHA384_KDF,
    CKD_SHA384_KDF_SP800, CKD_SHA512_KDF, CKD_SHA512_KDF_SP800, CKK_EC, CKM_ECDH1_COFACTOR_DERIVE,
    CKM_ECDH1_DERIVE,
};
use zeroize::Zeroizing;

use super::{Chip, Derive, Does, Keys, Mechanism, NOTHING, Params, Size, ecdsa};
use crate::crypto::ec;
use crate::crypto::hash::Hash;
use crate::crypto::kdf;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::object::keyspec::Derives;
use crate::tpm::command::{Command as _, EcdhZGen};

pub(super) static ROWS: &[Mechanism] = &[
    row(CKM_ECDH1_DERIVE, "CKM_ECDH1_DERIVE"),
    row(CKM_ECDH1_COFACTOR_DERIVE, "CKM_ECDH1_COFACTOR_DERIVE"),
];

const fn row(id: u64, name: &'static str) -> Mechanism {
    Mechanism {
        id,
        name,
        keys: Keys::Pair(CKK_EC),
        size: Size::Bits(256, 521),
        hash: None,
        chip: &[EcdhZGen::ID],
        does: Does { derive: Some((Derives::Agreement, Derive::One(derive))), ..NOTHING },
    }
}

/// The most that a KDF gives, in bytes: far more than any key, far less than any memory.
const MAX_DERIVED: usize = 64 * 1024;

/// CK_EC_KDF_TYPE, §6.3.17.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kdf {
    /// The x coordinate itself.
    Null,
    /// ANSI X9.63
    X963(Hash),
    /// SP 800-56A §5.8.1.1
    OneStep(Hash),
    /// The same with BLAKE2b, whose digests have so many bytes.
    Blake2b(usize),
}

fn kdf_of(number: u64) -> Result<Kdf> {
    use Kdf::*;
    Ok(match number {
        CKD_NULL => Null,
        CKD_SHA1_KDF => X963(Hash::Sha1),
        CKD_SHA224_KDF => X963(Hash::Sha224),
        CKD_SHA256_KDF => X963(Hash::Sha256),
        CKD_SHA384_KDF => X963(Hash::Sha384),
        CKD_SHA512_KDF => X963(Hash::Sha512),
        CKD_SHA3_224_KDF => X963(Hash::Sha3_224),
        CKD_SHA3_256_KDF => X963(Hash::Sha3_256),
        CKD_SHA3_384_KDF => X963(Hash::Sha3_384),
        CKD_SHA3_512_KDF => X963(Hash::Sha3_512),
        CKD_SHA1_KDF_SP800 => OneStep(Hash::Sha1),
        CKD_SHA224_KDF_SP800 => OneStep(Hash::Sha224),
        CKD_SHA256_KDF_SP800 => OneStep(Hash::Sha256),
        CKD_SHA384_KDF_SP800 => OneStep(Hash::Sha384),
        CKD_SHA512_KDF_SP800 => OneStep(Hash::Sha512),
        CKD_SHA3_224_KDF_SP800 => OneStep(Hash::Sha3_224),
        CKD_SHA3_256_KDF_SP800 => OneStep(Hash::Sha3_256),
        CKD_SHA3_384_KDF_SP800 => OneStep(Hash::Sha3_384),
        CKD_SHA3_512_KDF_SP800 => OneStep(Hash::Sha3_512),
        CKD_BLAKE2B_160_KDF => Blake2b(20),
        CKD_BLAKE2B_256_KDF => Blake2b(32),
        CKD_BLAKE2B_384_KDF => Blake2b(48),
        CKD_BLAKE2B_512_KDF => Blake2b(64),
        _ => return Err(Error::MechanismParamInvalid("no such key derivation function")),
    })
}

fn derive(
    _row: &'static Mechanism,
    params: &Params,
    key: &Object,
    _others: &[Object],
    length: Option<usize>,
    chip: &Chip<'_>,
) -> Result<Zeroizing<Vec<u8>>> {
    let Params::Ecdh { kdf, shared, public } = params else {
        return Err(params.refused("CK_ECDH1_DERIVE_PARAMS is missing"));
    };
    // Everything that can be refused is refused before the TPM is asked.
    let kdf = kdf_of(*kdf)?;
    let curve = ecdsa::curve(key)?;
    let length = wanted(kdf, curve.len(), shared, length)?;
    let point = ec::parse_point(curve, public).map_err(|_| {
        Error::MechanismParamInvalid("the other side's public key is no point of this curve")
    })?;
    let key = super::private_half(key)?;
    let z = chip.tpm.ecdh(chip.call, &chip.key(&key), point.x(), point.y())?;
    finish(kdf, curve.len(), &z, shared, length)
}

/// How many bytes the secret will have.
fn wanted(kdf: Kdf, field: usize, shared: &[u8], length: Option<usize>) -> Result<usize> {
    match (kdf, length) {
        (Kdf::Null, _) if !shared.is_empty() => {
            Err(Error::MechanismParamInvalid("CKD_NULL takes no shared data"))
        }
        (Kdf::Null, None) => Ok(field),
        (Kdf::Null, Some(length)) if (1..=field).contains(&length) => Ok(length),
        (Kdf::Null, Some(_)) => Err(Error::KeySizeRange(format!(
            "the shared secret of this curve has {field} bytes; a longer key needs a KDF"
        ))),
        (_, None) => Err(Error::TemplateIncomplete(CKA_VALUE_LEN)),
        (_, Some(length)) if (1..=MAX_DERIVED).contains(&length) => Ok(length),
        (_, Some(_)) => Err(Error::KeySizeRange(format!(
            "a key derivation function gives 1 to {MAX_DERIVED} bytes"
        ))),
    }
}

/// From the x coordinate, which a TPM may give without leading zeros, to the secret.
fn finish(
    kdf: Kdf,
    field: usize,
    x: &[u8],
    shared: &[u8],
    length: usize,
) -> Result<Zeroizing<Vec<u8>>> {
    let zeros = field.checked_sub(x.len()).ok_or_else(|| {
        Error::Device("the TPM answered with a longer number than the curve has".into())
    })?;
    let mut z = Zeroizing::new(vec![0; zeros]);
    z.reserve_exact(x.len());
    z.extend_from_slice(x);
    Ok(match kdf {
        // "The truncation removes bytes from the leading end of the secret value" (§6.3.19).
        Kdf::Null => Zeroizing::new(z.iter().copied().skip(field - length).collect()),
        Kdf::X963(hash) => kdf::x963(hash, &z, shared, length),
        Kdf::OneStep(hash) => kdf::one_step(hash, &z, shared, length),
        Kdf::Blake2b(digest) => kdf::one_step_blake2b(digest, &z, shared, length)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_secret_loses_its_leading_bytes_and_gets_back_the_zeros_that_a_tpm_left_out() {
        let x: Vec<u8> = (1..=30).collect();
        let secret = |length| finish(Kdf::Null, 32, &x, &[], length).unwrap().to_vec();
        assert_eq!(secret(32), [&[0, 0][..], &x].concat());
        assert_eq!(secret(31), [&[0][..], &x].concat());
        assert_eq!(secret(16), x[14..]);
        assert_eq!(secret(1), [30]);
        assert!(matches!(finish(Kdf::Null, 29, &x, &[], 29), Err(Error::Device(_))));
    }

    #[test]
    fn a_kdf_works_on_the_whole_x_coordinate() {
        let x: Vec<u8> = (1..=30).collect();
        let whole = [&[0, 0][..], &x].concat();
        let found = finish(Kdf::X963(Hash::Sha256), 32, &x, b"info", 50).unwrap();
        assert_eq!(found, kdf::x963(Hash::Sha256, &whole, b"info", 50));
        let found = finish(Kdf::OneStep(Hash::Sha3_512), 32, &x, b"info", 50).unwrap();
        assert_eq!(found, kdf::one_step(Hash::Sha3_512, &whole, b"info", 50));
    }

    #[test]
    fn the_length_of_the_secret_is_known_before_the_tpm_is_asked() {
        let x963 = Kdf::X963(Hash::Sha1);
        assert_eq!(wanted(Kdf::Null, 32, &[], None), Ok(32));
        assert_eq!(wanted(Kdf::Null, 66, &[], Some(16)), Ok(16));
        assert_eq!(wanted(x963, 32, &[1], Some(1000)), Ok(1000));
        assert_eq!(wanted(x963, 32, &[1], None), Err(Error::TemplateIncomplete(CKA_VALUE_LEN)));
        for (kdf, length) in [(Kdf::Null, 0), (Kdf::Null, 33), (x963, 0), (x963, usize::MAX)] {
            assert!(matches!(wanted(kdf, 32, &[], Some(length)), Err(Error::KeySizeRange(_))));
        }
        let shared = wanted(Kdf::Null, 32, &[1], None);
        assert!(matches!(shared, Err(Error::MechanismParamInvalid(_))));
    }

    #[test]
    fn every_kdf_of_the_specification_is_known() {
        for number in 0..40 {
            let known = matches!(number, 1..=2 | 5..=8 | 10..=26);
            assert_eq!(kdf_of(number).is_ok(), known, "{number}");
        }
    }
}
