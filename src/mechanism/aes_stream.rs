//! AES as a stream, as many bytes out as in: CTR, OFB, CFB8 and CFB128. PKCS#11 3.2 §6.10, §6.11;
//! SP 800-38A. All of them use the forward cipher alone.

use cryptoki_sys::{CKM_AES_CFB8, CKM_AES_CFB128, CKM_AES_CTR, CKM_AES_OFB};
use zeroize::Zeroizing;

use super::aes::{self, BlockCipher};
use super::{Chip, Cipher, Does, Mechanism, NOTHING, Params};
use crate::crypto::aes::{BLOCK, xor};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::{Chaining, Direction};

const DOES: Does = Does { encrypt: Some(encrypt), decrypt: Some(decrypt), ..NOTHING };

pub(super) static ROWS: &[Mechanism] = &[
    aes::row(CKM_AES_CTR, "CKM_AES_CTR", DOES),
    aes::row(CKM_AES_OFB, "CKM_AES_OFB", DOES),
    aes::row(CKM_AES_CFB8, "CKM_AES_CFB8", DOES),
    aes::row(CKM_AES_CFB128, "CKM_AES_CFB128", DOES),
];

/// So many bytes of CFB8 are decrypted at a time: each of them takes a block.
const CFB8_PART: usize = 4096;

enum Mode {
    Ctr(Counter),
    Ofb([u8; BLOCK]),
    /// The last 16 bytes of ciphertext.
    Cfb8([u8; BLOCK]),
    /// The last block of ciphertext, and what there is of the next.
    Cfb128([u8; BLOCK], Vec<u8>),
}

struct Stream {
    key: Object,
    direction: Direction,
    mode: Mode,
    /// What of the last block of the key stream is not used yet.
    left: Zeroizing<Vec<u8>>,
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
        CKM_AES_CTR => Mode::Ctr(Counter::of(params)?),
        CKM_AES_OFB => Mode::Ofb(aes::iv(params)?),
        CKM_AES_CFB8 => Mode::Cfb8(aes::iv(params)?),
        _ => Mode::Cfb128(aes::iv(params)?, Vec::new()),
    };
    Ok(Box::new(Stream { key: key.clone(), direction, mode, left: Zeroizing::default() }))
}

/// Counter blocks: the last bits count, the others stay.
pub(super) struct Counter {
    block: u128,
    mask: u128,
    /// How many blocks there are until one would come again.
    left: u128,
}

impl Counter {
    fn of(params: &Params) -> Result<Self> {
        let wanted = "CK_AES_CTR_PARAMS is missing";
        let Params::Counter { bits, block } = params else { return Err(params.refused(wanted)) };
        match bits {
            1..=128 => Ok(Self::new(*block, *bits as u32)),
            _ => Err(Error::MechanismParamInvalid("ulCounterBits is not 1 to 128")),
        }
    }

    /// Of 1 to 128 bits.
    pub(super) fn new(block: [u8; BLOCK], bits: u32) -> Self {
        let block = u128::from_be_bytes(block);
        let mask = u128::MAX >> (128 - bits);
        // 2^128 blocks are none that anybody counts to.
        Self { block, mask, left: (mask - (block & mask)).saturating_add(1) }
    }

    /// That of GCM: 32 bits, in which it may come round.
    pub(super) fn endless(block: [u8; BLOCK]) -> Self {
        Self { left: u128::MAX, ..Self::new(block, 32) }
    }

    /// The counter blocks for so many bytes.
    ///
    /// # Errors
    /// DataLenRange if there are not so many.
    pub(super) fn blocks(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let count = bytes.div_ceil(BLOCK);
        self.left = self
            .left
            .checked_sub(count as u128)
            .ok_or(Error::DataLenRange("the counter has no blocks left"))?;
        let mut blocks = Vec::with_capacity(count * BLOCK);
        for _ in 0..count {
            blocks.extend_from_slice(&self.block.to_be_bytes());
            let next = self.block.wrapping_add(1) & self.mask;
            self.block = self.block & !self.mask | next;
        }
        Ok(blocks)
    }
}

impl Stream {
    /// Uses up what is left of a key stream that does not depend on the data.
    fn xored(&mut self, data: &[u8], stream: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
        let mut output = Zeroizing::new(data.to_vec());
        let old = self.left.len().min(data.len());
        xor(&mut output, &self.left);
        if let Some(rest) = output.get_mut(old..) {
            xor(rest, &stream);
        }
        let mut left = Zeroizing::new(self.left.get(old..).unwrap_or_default().to_vec());
        left.extend_from_slice(stream.get(data.len() - old..).unwrap_or_default());
        self.left = left;
        output
    }

    fn cfb8(
        direction: Direction,
        cipher: &dyn BlockCipher,
        iv: &mut [u8; BLOCK],
        data: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let mut output = Zeroizing::new(Vec::with_capacity(data.len()));
        if direction == Direction::Encrypt {
            // Each byte needs the one before.
            for byte in data {
                let stream = cipher.ecb(Direction::Encrypt, &*iv)?;
                let byte = byte ^ stream.first().copied().unwrap_or_default();
                output.push(byte);
                iv.rotate_left(1);
                iv[BLOCK - 1] = byte;
            }
            return Ok(output);
        }
        for part in data.chunks(CFB8_PART) {
            let known = [&iv[..], part].concat();
            let blocks: Vec<u8> =
                known.windows(BLOCK).take(part.len()).flatten().copied().collect();
            let stream = cipher.ecb(Direction::Encrypt, &blocks)?;
            output.extend(part.iter().zip(stream.iter().step_by(BLOCK)).map(|(a, b)| a ^ b));
            *iv = known.last_chunk().copied().unwrap_or(*iv);
        }
        Ok(output)
    }

    fn cfb128(&mut self, cipher: &dyn BlockCipher, data: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let Mode::Cfb128(iv, part) = &mut self.mode else {
            return Err(Error::Bug("another mode than CFB128"));
        };
        let (direction, left) = (self.direction, &mut self.left);
        let mut output = Zeroizing::new(Vec::with_capacity(data.len()));
        // Bytes of a block that is not whole, by the key stream that is there for it.
        let mut bytes = |iv: &mut [u8; BLOCK],
                         left: &mut Zeroizing<Vec<u8>>,
                         output: &mut Zeroizing<Vec<u8>>,
                         data: &[u8]| {
            let stream = aes::split(left, data.len());
            for (given, other) in data.iter().zip(stream.iter()) {
                let made = given ^ other;
                output.push(made);
                part.push(if direction == Direction::Encrypt { made } else { *given });
            }
            if let Ok(block) = part[..].try_into() {
                *iv = block;
                part.clear();
            }
        };
        let (first, rest) = data.split_at(left.len().min(data.len()));
        bytes(iv, left, &mut output, first);
        let (whole, tail) = rest.split_at(rest.len() - rest.len() % BLOCK);
        if !whole.is_empty() {
            output.extend_from_slice(&cipher.run(Chaining::Cfb, direction, iv, whole)?);
        }
        if !tail.is_empty() {
            *left = cipher.ecb(Direction::Encrypt, &*iv)?;
            bytes(iv, left, &mut output, tail);
        }
        Ok(output)
    }
}

impl Cipher for Stream {
    fn update_length(&self, input: usize) -> usize {
        input
    }

    fn update(&mut self, data: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let more = data.len().saturating_sub(self.left.len());
        if more == 0 && !matches!(self.mode, Mode::Cfb128(..)) {
            return Ok(self.xored(data, Zeroizing::default()));
        }
        if data.is_empty() {
            return Ok(Zeroizing::default());
        }
        // What is wrong with the input is said before a key is asked for.
        let counters = match &mut self.mode {
            Mode::Ctr(counter) => counter.blocks(more)?,
            _ => Vec::new(),
        };
        let cipher = aes::block_cipher(chip, &self.key)?;
        let stream = match &mut self.mode {
            Mode::Ctr(_) => cipher.ecb(Direction::Encrypt, &counters)?,
            Mode::Ofb(iv) => cipher.chain(iv, &vec![0; more.next_multiple_of(BLOCK)])?,
            Mode::Cfb8(iv) => return Self::cfb8(self.direction, &*cipher, iv, data),
            Mode::Cfb128(..) => return self.cfb128(&*cipher, data),
        };
        Ok(self.xored(data, stream))
    }

    fn finish_length(&self, _input: usize) -> usize {
        0
    }

    fn finish(self: Box<Self>, _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        Ok(Zeroizing::default())
    }
}
