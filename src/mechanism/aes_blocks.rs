//! AES in whole blocks: ECB, CBC, CBC with padding, and CBC with ciphertext stealing. PKCS#11 3.2 §6.10,
//! §6.12; SP 800-38A and its addendum.

use cryptoki_sys::{CKM_AES_CBC, CKM_AES_CBC_PAD, CKM_AES_CTS, CKM_AES_ECB};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _, ConstantTimeLess as _};
use zeroize::Zeroizing;

use super::aes::{self, BlockCipher};
use super::{Chip, Cipher, Does, Mechanism, NOTHING, Params};
use crate::crypto::aes::{BLOCK, xor};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::{Chaining, Direction};

const DOES: Does = Does { encrypt: Some(encrypt), decrypt: Some(decrypt), ..NOTHING };

pub(super) static ROWS: &[Mechanism] = &[
    aes::row(CKM_AES_ECB, "CKM_AES_ECB", DOES),
    aes::row(CKM_AES_CBC, "CKM_AES_CBC", DOES),
    aes::row(
        CKM_AES_CBC_PAD,
        "CKM_AES_CBC_PAD",
        Does { wrap: Some(encrypt), unwrap: Some(decrypt), ..DOES },
    ),
    aes::row(CKM_AES_CTS, "CKM_AES_CTS", DOES),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Ecb,
    Cbc,
    /// 1 to 16 bytes at the end say how many they are (PKCS #7).
    Padded,
    /// CBC-CS1: the last block but one loses what the padding of the last one gave it.
    Stealing,
}

struct Blocks {
    key: Object,
    mode: Mode,
    direction: Direction,
    iv: [u8; BLOCK],
    /// What came and is not worked on yet.
    held: Zeroizing<Vec<u8>>,
}

fn encrypt(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    start(row, params, key, Direction::Encrypt)
}

fn decrypt(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    start(row, params, key, Direction::Decrypt)
}

fn start(
    row: &'static Mechanism,
    params: &Params,
    key: &Object,
    direction: Direction,
) -> Result<Box<dyn Cipher>> {
    let mode = match row.id {
        CKM_AES_ECB => Mode::Ecb,
        CKM_AES_CBC => Mode::Cbc,
        CKM_AES_CBC_PAD => Mode::Padded,
        _ => Mode::Stealing,
    };
    let iv = if mode == Mode::Ecb {
        params.none()?;
        [0; BLOCK]
    } else {
        aes::iv(params)?
    };
    Ok(Box::new(Blocks { key: key.clone(), mode, direction, iv, held: Zeroizing::default() }))
}

impl Blocks {
    /// How many of so many bytes can be worked on before the end is known.
    fn ready(&self, count: usize) -> usize {
        let kept = match (self.mode, self.direction) {
            // The padding is in the last block.
            (Mode::Padded, Direction::Decrypt) => 1,
            // The last two blocks, one of which is whole, belong together.
            (Mode::Stealing, _) => BLOCK + 1,
            _ => 0,
        };
        whole(count.saturating_sub(kept))
    }

    fn run(&mut self, cipher: &dyn BlockCipher, input: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        match self.mode {
            Mode::Ecb => cipher.ecb(self.direction, input),
            _ => cipher.run(Chaining::Cbc, self.direction, &mut self.iv, input),
        }
    }

    /// The end of CBC-CS1: one block, or two of which one is whole.
    fn steal(&mut self, cipher: &dyn BlockCipher) -> Result<Zeroizing<Vec<u8>>> {
        let mut input = std::mem::take(&mut self.held);
        let length = input.len();
        if length < BLOCK {
            return Err(aes::bad_length(self.direction, "at least one block of 16 bytes"));
        }
        let part = length % BLOCK;
        if part == 0 {
            return self.run(cipher, &input);
        }
        // The place where the last whole block but one begins, of both sides.
        let last = length - part - BLOCK;
        if self.direction == Direction::Encrypt {
            input.resize(length - part + BLOCK, 0);
            let mut output = self.run(cipher, &input)?;
            // What is stolen is what the zeros gave.
            output.copy_within(last + BLOCK.., last + part);
            output.truncate(length);
            return Ok(output);
        }
        // … C' (a part of a block), C: the last block decrypts to P' + C' and the stolen bytes.
        let (before, end) = input.split_at(last);
        let (stump, whole) = end.split_at(part);
        let opened = cipher.ecb(Direction::Decrypt, whole)?;
        let stolen = opened.get(part..).unwrap_or_default();
        let chained = Zeroizing::new([before, stump, stolen].concat());
        let mut output = self.run(cipher, &chained)?;
        let mut tail = Zeroizing::new(opened.get(..part).unwrap_or_default().to_vec());
        xor(&mut tail, stump);
        output.extend_from_slice(&tail);
        Ok(output)
    }
}

impl Cipher for Blocks {
    fn update_length(&self, input: usize) -> usize {
        self.ready(self.held.len().saturating_add(input))
    }

    fn update(&mut self, data: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let ready = self.update_length(data.len());
        if ready == 0 {
            self.held.extend_from_slice(data);
            return Ok(Zeroizing::default());
        }
        let cipher = aes::block_cipher(chip, &self.key)?;
        if self.held.is_empty() {
            let (now, later) = data.split_at(ready);
            self.held.extend_from_slice(later);
            return self.run(&*cipher, now);
        }
        self.held.extend_from_slice(data);
        let input = aes::split(&mut self.held, ready);
        self.run(&*cipher, &input)
    }

    fn finish_length(&self, input: usize) -> usize {
        let whole_input = self.held.len().saturating_add(input);
        let rest = whole_input - self.ready(whole_input);
        match (self.mode, self.direction) {
            (Mode::Padded, Direction::Encrypt) => BLOCK,
            // At least one byte of the last block is padding.
            (Mode::Padded, Direction::Decrypt) => rest.saturating_sub(1),
            _ => rest,
        }
    }

    fn finish(mut self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        if self.mode == Mode::Stealing {
            let cipher = aes::block_cipher(chip, &self.key)?;
            return self.steal(&*cipher);
        }
        let mut input = std::mem::take(&mut self.held);
        if (self.mode, self.direction) == (Mode::Padded, Direction::Encrypt) {
            let count = BLOCK - input.len() % BLOCK;
            let whole = input.len() + count;
            input.resize(whole, count as u8);
        }
        if input.len() % BLOCK != 0 {
            return Err(aes::bad_length(self.direction, "whole blocks of 16 bytes"));
        }
        if input.is_empty() {
            return match self.mode {
                Mode::Padded => Err(aes::bad_length(self.direction, "at least one block")),
                _ => Ok(Zeroizing::default()),
            };
        }
        let output = self.run(&*aes::block_cipher(chip, &self.key)?, &input)?;
        match (self.mode, self.direction) {
            (Mode::Padded, Direction::Decrypt) => unpadded(output),
            _ => Ok(output),
        }
    }

    /// The last block goes with all others.
    fn whole(mut self: Box<Self>, data: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let plain = matches!(self.mode, Mode::Ecb | Mode::Cbc);
        if plain && self.held.is_empty() && !data.is_empty() && data.len() % BLOCK == 0 {
            // Nothing is to be added to it, so no copy is made.
            return self.run(&*aes::block_cipher(chip, &self.key)?, data);
        }
        self.held.extend_from_slice(data);
        self.finish(chip)
    }
}

/// The largest multiple of the block that is not larger.
fn whole(count: usize) -> usize {
    count - count % BLOCK
}

/// Takes the padding off. How long a wrong one is takes no time to find out; that it is wrong is said.
fn unpadded(mut bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>> {
    let last: &[u8; BLOCK] = bytes.last_chunk().ok_or(Error::EncryptedDataLenRange)?;
    let count = last[BLOCK - 1];
    let most = BLOCK as u8;
    let mut good = !count.ct_eq(&0) & count.ct_lt(&(most + 1));
    for (distance, byte) in (1..=most).zip(last.iter().rev()) {
        // A byte of the padding is its length.
        let padding = distance.ct_lt(&count) | distance.ct_eq(&count);
        let expected = u8::conditional_select(byte, &count, padding);
        good &= byte.ct_eq(&expected);
    }
    if !bool::from(good & Choice::from(1)) {
        return Err(Error::EncryptedDataInvalid);
    }
    let length = bytes.len() - usize::from(count);
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_taken_off_and_nothing_else_passes_for_it() {
        for count in 1..=16u8 {
            let mut block = vec![0xEE; 16];
            block[16 - usize::from(count)..].fill(count);
            let open = unpadded(Zeroizing::new(block.clone())).unwrap();
            assert_eq!(open.len(), 16 - usize::from(count));
            if count > 1 {
                block[16 - usize::from(count)] ^= 1;
                assert!(unpadded(Zeroizing::new(block)).is_err());
            }
        }
        for count in [0, 17, 32, 0xFF] {
            assert!(unpadded(Zeroizing::new(vec![count; 32])).is_err());
        }
        assert!(unpadded(Zeroizing::default()).is_err());
    }
}
