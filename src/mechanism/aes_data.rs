//! Derivation by encryption of data with AES: what comes out of ECB or CBC is the key. PKCS#11 3.2
//! "Key derivation by data encryption – DES & AES".

use cryptoki_sys::{CKM_AES_CBC_ENCRYPT_DATA, CKM_AES_ECB_ENCRYPT_DATA};
use zeroize::Zeroizing;

use super::{Chip, Derive, Does, Mechanism, NOTHING, Params, aes};
use crate::crypto::aes::BLOCK;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::object::keyspec::Derives;
use crate::tpm::command::Direction;

pub(super) static ROWS: &[Mechanism] = &[
    aes::row(CKM_AES_ECB_ENCRYPT_DATA, "CKM_AES_ECB_ENCRYPT_DATA", DOES),
    aes::row(CKM_AES_CBC_ENCRYPT_DATA, "CKM_AES_CBC_ENCRYPT_DATA", DOES),
];

/// Who may encrypt with the same key knows what comes out.
const DOES: Does = Does { derive: Some((Derives::Telling, Derive::One(derive))), ..NOTHING };

fn derive(
    row: &'static Mechanism,
    params: &Params,
    key: &Object,
    _others: &[Object],
    length: Option<usize>,
    chip: &Chip<'_>,
) -> Result<Zeroizing<Vec<u8>>> {
    let (iv, data) = match (row.id, params) {
        (CKM_AES_ECB_ENCRYPT_DATA, Params::Data(data)) => (None, data),
        (CKM_AES_CBC_ENCRYPT_DATA, Params::Chained { iv, data }) => (Some(*iv), data),
        _ => return Err(params.refused("the structure with the data is missing")),
    };
    let data = wanted(data, length)?;
    let cipher = aes::block_cipher(chip, key)?;
    let mut secret = match iv {
        None => cipher.ecb(Direction::Encrypt, data)?,
        Some(mut iv) => cipher.chain(&mut iv, data)?,
    };
    // What is left over is discarded "from the trailing end".
    secret.truncate(length.unwrap_or(data.len()));
    Ok(secret)
}

/// The whole blocks of data that make a key of so many bytes.
fn wanted(data: &[u8], length: Option<usize>) -> Result<&[u8]> {
    if data.is_empty() || data.len() % BLOCK != 0 {
        return Err(Error::MechanismParamInvalid("the data is no whole number of blocks"));
    }
    let Some(length) = length else { return Ok(data) };
    length
        .div_ceil(BLOCK)
        .checked_mul(BLOCK)
        .and_then(|whole| data.get(..whole))
        .ok_or(Error::DataLenRange("the data is too short for the key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_encrypted_than_the_key_needs() {
        let data = [7; 48];
        for (length, bytes) in
            [(None, 48), (Some(48), 48), (Some(33), 48), (Some(32), 32), (Some(1), 16)]
        {
            assert_eq!(wanted(&data, length).map(<[u8]>::len), Ok(bytes), "{length:?}");
        }
        for length in [49, usize::MAX] {
            assert!(matches!(wanted(&data, Some(length)), Err(Error::DataLenRange(_))), "{length}");
        }
        for data in [&data[..0], &data[..15], &data[..47]] {
            assert!(matches!(wanted(data, None), Err(Error::MechanismParamInvalid(_))));
        }
    }
}
