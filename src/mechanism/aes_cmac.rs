//! AES-CMAC, whole or cut. PKCS#11 3.2 §6.14; SP 800-38B. A message in parts is kept until its end.

use cryptoki_sys::{CKM_AES_CMAC, CKM_AES_CMAC_GENERAL};
use zeroize::Zeroizing;

use super::aes::{self, BlockCipher};
use super::mac::{self, Mac};
use super::{Chip, Mechanism, Params};
use crate::crypto::aes::{BLOCK, xor};
use crate::error::Result;
use crate::object::Object;
use crate::tpm::command::Direction;

pub(super) static ROWS: &[Mechanism] = &[
    aes::row(CKM_AES_CMAC, "CKM_AES_CMAC", mac::does::<Cmac>()),
    aes::row(CKM_AES_CMAC_GENERAL, "CKM_AES_CMAC_GENERAL", mac::general::<Cmac>()),
];

struct Cmac {
    key: Object,
    length: usize,
}

impl Mac for Cmac {
    fn new(row: &Mechanism, params: &Params, key: &Object) -> Result<Self> {
        let length = mac::length(row, params, BLOCK)?;
        Ok(Self { key: key.clone(), length })
    }

    fn length(&self) -> usize {
        self.length
    }

    fn make(self, message: Zeroizing<Vec<u8>>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let cipher = aes::block_cipher(chip, &self.key)?;
        let zeros = of_zeros(&*cipher)?;
        let mut mac = cmac(&*cipher, &zeros, message)?;
        mac.truncate(self.length);
        Ok(mac)
    }
}

/// An encrypted block of zeros, which both subkeys of a key are made of.
pub(super) fn of_zeros(cipher: &dyn BlockCipher) -> Result<Zeroizing<Vec<u8>>> {
    cipher.ecb(Direction::Encrypt, &[0; BLOCK])
}

/// The CMAC of a message, 16 bytes.
pub(super) fn cmac(
    cipher: &dyn BlockCipher,
    zeros: &[u8],
    mut message: Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<Vec<u8>>> {
    let mut subkey = doubled(zeros);
    let length = message.len();
    if length == 0 || length % BLOCK != 0 {
        subkey = doubled(&*subkey);
        message.push(0x80);
        message.resize(length - length % BLOCK + BLOCK, 0);
    }
    let last = message.len() - BLOCK;
    if let Some(block) = message.get_mut(last..) {
        xor(block, &*subkey);
    }
    let mut mac = Zeroizing::new([0; BLOCK]);
    cipher.chain(&mut mac, &message)?;
    Ok(Zeroizing::new(mac.to_vec()))
}

/// A block times x in GF(2^128), in constant time.
fn doubled(block: &[u8]) -> Zeroizing<[u8; BLOCK]> {
    let number = u128::from_be_bytes(block.try_into().unwrap_or_default());
    let carry = (number >> 127).wrapping_neg() & 0x87;
    Zeroizing::new(((number << 1) ^ carry).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SP 800-38B, appendix D.1: the subkeys of a key of 128 bits.
    #[test]
    fn the_subkeys_are_those_of_the_example() {
        let zeros = 0x7df7_6b0c_1ab8_99b3_3e42_f047_b91b_546fu128.to_be_bytes();
        let first = doubled(&zeros);
        assert_eq!(*first, 0xfbee_d618_3571_3366_7c85_e08f_7236_a8deu128.to_be_bytes());
        let second = 0xf7dd_ac30_6ae2_66cc_f90b_c11e_e46d_513bu128.to_be_bytes();
        assert_eq!(*doubled(&*first), second);
    }
}
