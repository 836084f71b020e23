//! AES of blocks in the host (FIPS 197, SP 800-38A), for keys that no TPM works with.

use aes::cipher::{BlockDecrypt as _, BlockEncrypt as _, KeyInit as _};
use aes::{Aes128, Aes192, Aes256, Block};
use zeroize::Zeroizing;

use super::Fault;

/// The block, in bytes.
pub const BLOCK: usize = 16;

/// A key made ready; wiped when dropped.
pub enum Aes {
    /// Of 16 bytes.
    Bits128(Box<Aes128>),
    /// Of 24 bytes.
    Bits192(Box<Aes192>),
    /// Of 32 bytes.
    Bits256(Box<Aes256>),
}

impl Aes {
    /// # Errors
    /// [`Fault::Length`] unless the key has 16, 24 or 32 bytes.
    pub fn new(key: &[u8]) -> Result<Self, Fault> {
        let made = match key.len() {
            16 => Aes128::new_from_slice(key).map(|key| Aes::Bits128(Box::new(key))),
            24 => Aes192::new_from_slice(key).map(|key| Aes::Bits192(Box::new(key))),
            _ => Aes256::new_from_slice(key).map(|key| Aes::Bits256(Box::new(key))),
        };
        made.map_err(|_| Fault::Length)
    }

    fn encrypt_block(&self, block: &mut [u8; BLOCK]) {
        let block = Block::from_mut_slice(block);
        match self {
            Aes::Bits128(key) => key.encrypt_block(block),
            Aes::Bits192(key) => key.encrypt_block(block),
            Aes::Bits256(key) => key.encrypt_block(block),
        }
    }

    fn decrypt_block(&self, block: &mut [u8; BLOCK]) {
        let block = Block::from_mut_slice(block);
        match self {
            Aes::Bits128(key) => key.decrypt_block(block),
            Aes::Bits192(key) => key.decrypt_block(block),
            Aes::Bits256(key) => key.decrypt_block(block),
        }
    }

    /// Each whole block by itself.
    ///
    /// # Errors
    /// [`Fault::Length`] for a part of a block, as below.
    pub fn ecb(&self, encrypt: bool, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        each(input, |block| match encrypt {
            true => self.encrypt_block(block),
            false => self.decrypt_block(block),
        })
    }

    /// Whole blocks, chained; `iv` becomes the last block of ciphertext.
    ///
    /// # Errors
    /// As [`Aes::ecb`].
    pub fn cbc(
        &self,
        encrypt: bool,
        iv: &mut [u8; BLOCK],
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        each(input, |block| {
            if encrypt {
                xor(block, iv);
                self.encrypt_block(block);
                *iv = *block;
            } else {
                let ciphertext = *block;
                self.decrypt_block(block);
                xor(block, iv);
                *iv = ciphertext;
            }
        })
    }

    /// Whole blocks with feedback of whole blocks (CFB-128); `iv` becomes the last block of ciphertext.
    ///
    /// # Errors
    /// As [`Aes::ecb`].
    pub fn cfb(
        &self,
        encrypt: bool,
        iv: &mut [u8; BLOCK],
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        each(input, |block| {
            let given = *block;
            self.encrypt_block(iv);
            xor(block, iv);
            *iv = if encrypt { *block } else { given };
        })
    }
}

/// The output of `one` for each block of the input.
fn each(input: &[u8], mut one: impl FnMut(&mut [u8; BLOCK])) -> Result<Zeroizing<Vec<u8>>, Fault> {
    if input.len() % BLOCK != 0 {
        return Err(Fault::Length);
    }
    let mut output = Zeroizing::new(Vec::with_capacity(input.len()));
    let mut block = Zeroizing::new([0; BLOCK]);
    for part in input.chunks_exact(BLOCK) {
        block.copy_from_slice(part);
        one(&mut block);
        output.extend_from_slice(&*block);
    }
    Ok(output)
}

/// Adds the other bytes, as far as both go.
pub fn xor(bytes: &mut [u8], other: &[u8]) {
    bytes.iter_mut().zip(other).for_each(|(byte, other)| *byte ^= other);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SP 800-38A, appendix F: the first two blocks of each with a key of 128 bits.
    #[test]
    fn agrees_with_the_examples_of_nist() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                .collect()
        };
        let aes = Aes::new(&hex("2b7e151628aed2a6abf7158809cf4f3c")).unwrap();
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let iv: [u8; 16] = hex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let ecb = hex("3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf");
        assert_eq!(*aes.ecb(true, &plain).unwrap(), ecb);
        assert_eq!(*aes.ecb(false, &ecb).unwrap(), plain);
        let cbc = hex("7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2");
        let cfb = hex("3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b");
        for (encrypt, input, output) in [(true, &plain, &cbc), (false, &cbc, &plain)] {
            let mut next = iv;
            assert_eq!(*aes.cbc(encrypt, &mut next, input).unwrap(), *output);
            assert_eq!(next, cbc[16..]);
        }
        for (encrypt, input, output) in [(true, &plain, &cfb), (false, &cfb, &plain)] {
            let mut next = iv;
            assert_eq!(*aes.cfb(encrypt, &mut next, input).unwrap(), *output);
            assert_eq!(next, cfb[16..]);
        }
    }

    #[test]
    fn takes_keys_of_three_lengths_and_whole_blocks() {
        for length in 0..40 {
            assert_eq!(Aes::new(&vec![1; length]).is_ok(), [16, 24, 32].contains(&length));
        }
        assert!(Aes::new(&[1; 16]).unwrap().ecb(true, &[0; 17]).is_err());
    }
}
