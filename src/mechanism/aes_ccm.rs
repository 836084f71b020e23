//! AES-CCM. PKCS#11 3.2 §6.13; SP 800-38C. The length of the message is known from the beginning, and both
//! passes are made at its end: nothing leaves before the MAC is made or checked.

use cryptoki_sys::CKM_AES_CCM;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::aes::{self, BlockCipher};
use super::aes_stream::Counter;
use super::params::Message;
use super::{Chip, Cipher, Does, Mechanism, NOTHING, Params};
use crate::crypto::aes::{BLOCK, xor};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::Direction;

pub(super) static ROWS: &[Mechanism] = &[aes::row(
    CKM_AES_CCM,
    "CKM_AES_CCM",
    Does {
        encrypt: Some(encrypt),
        decrypt: Some(decrypt),
        wrap: Some(encrypt),
        unwrap: Some(decrypt),
        sound: true,
        message: Some(message),
        ..NOTHING
    },
)];

struct Ccm {
    key: Object,
    direction: Direction,
    nonce: Vec<u8>,
    additional: Vec<u8>,
    /// Of plaintext, in bytes.
    length: usize,
    /// In bytes.
    mac: usize,
    held: Zeroizing<Vec<u8>>,
}

fn encrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    start(params, key, Direction::Encrypt)
}

fn decrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    start(params, key, Direction::Decrypt)
}

fn message(message: &Message, nonce: &[u8], additional: &[u8]) -> Params {
    Params::Ccm {
        length: message.length,
        nonce: nonce.into(),
        additional: additional.into(),
        mac_length: message.tag_bits / 8,
    }
}

fn start(params: &Params, key: &Object, direction: Direction) -> Result<Box<dyn Cipher>> {
    let Params::Ccm { length, nonce, additional, mac_length } = params else {
        return Err(params.refused("CK_CCM_PARAMS is missing"));
    };
    if !(7..=13).contains(&nonce.len()) {
        return Err(Error::MechanismParamInvalid("the nonce has not 7 to 13 bytes"));
    }
    let mac = match mac_length {
        4 | 6 | 8 | 10 | 12 | 14 | 16 => *mac_length as usize,
        _ => return Err(Error::MechanismParamInvalid("ulMACLen is not 4, 6, 8, 10, 12, 14, 16")),
    };
    // The length is written in what the nonce leaves of a block, less one byte.
    let bits = 8 * (BLOCK - 1 - nonce.len()) as u32;
    let length = usize::try_from(*length)
        .ok()
        .filter(|length| bits >= 64 || (*length as u64) >> bits == 0)
        .ok_or(Error::MechanismParamInvalid("ulDataLen is too long for the nonce"))?;
    Ok(Box::new(Ccm {
        key: key.clone(),
        direction,
        nonce: nonce.clone(),
        additional: additional.clone(),
        length,
        mac,
        held: Zeroizing::default(),
    }))
}

impl Ccm {
    /// What must have come at the end.
    fn input(&self) -> usize {
        match self.direction {
            Direction::Encrypt => self.length,
            Direction::Decrypt => self.length.saturating_add(self.mac),
        }
    }

    fn other_length(&self) -> Error {
        aes::bad_length(self.direction, "ulDataLen says another length")
    }

    /// A block that begins with flags and nonce.
    fn block(&self, flags: u8, number: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let room = BLOCK - 1 - self.nonce.len();
        block[0] = flags | (room - 1) as u8;
        // The number first: what of it has no room is zero.
        block[BLOCK - 8..].copy_from_slice(&number.to_be_bytes());
        if let Some(place) = block.get_mut(1..=self.nonce.len()) {
            place.copy_from_slice(&self.nonce);
        }
        block
    }

    fn mac(&self, cipher: &dyn BlockCipher, plain: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let adata = if self.additional.is_empty() { 0 } else { 0x40 };
        let room = 2 * BLOCK + 8 + self.additional.len() + plain.len() + BLOCK;
        let mut blocks = Zeroizing::new(Vec::with_capacity(room));
        let flags = adata | ((self.mac - 2) / 2 * 8) as u8;
        blocks.extend_from_slice(&self.block(flags, self.length as u64));
        let count = self.additional.len();
        match count {
            0 => {}
            1..0xFF00 => blocks.extend_from_slice(&(count as u16).to_be_bytes()),
            // Of a message it may be as long as data, which is not longer than 1 GiB.
            _ => blocks
                .extend_from_slice(&[&[0xFF, 0xFE], &(count as u32).to_be_bytes()[..]].concat()),
        }
        blocks.extend_from_slice(&self.additional);
        for part in [&[][..], plain] {
            blocks.extend_from_slice(part);
            let whole = blocks.len().next_multiple_of(BLOCK);
            blocks.resize(whole, 0);
        }
        let mut last = [0; BLOCK];
        cipher.chain(&mut last, &blocks)?;
        let mut mac = Zeroizing::new(last.to_vec());
        mac.truncate(self.mac);
        Ok(mac)
    }
}

impl Cipher for Ccm {
    fn update_length(&self, _input: usize) -> usize {
        0
    }

    fn update(&mut self, data: &[u8], _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        if data.len() > self.input().saturating_sub(self.held.len()) {
            return Err(self.other_length());
        }
        self.held.extend_from_slice(data);
        Ok(Zeroizing::default())
    }

    fn finish_length(&self, _input: usize) -> usize {
        match self.direction {
            Direction::Encrypt => self.length.saturating_add(self.mac),
            Direction::Decrypt => self.length,
        }
    }

    fn finish(mut self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        if self.held.len() != self.input() {
            return Err(self.other_length());
        }
        let cipher = aes::block_cipher(chip, &self.key)?;
        // The first block hides the MAC, the others the message.
        let bits = 8 * (BLOCK - 1 - self.nonce.len()) as u32;
        let mut counter = Counter::new(self.block(0, 0), bits);
        let counters = counter.blocks(BLOCK + self.length)?;
        let mut stream = cipher.ecb(Direction::Encrypt, &counters)?;
        let mask = aes::split(&mut stream, BLOCK);
        let mut held = std::mem::take(&mut self.held);
        let mut given = aes::split(&mut held, self.length);
        if self.direction == Direction::Encrypt {
            let mut mac = self.mac(&*cipher, &given)?;
            xor(&mut mac, &mask);
            xor(&mut given, &stream);
            given.extend_from_slice(&mac);
            return Ok(given);
        }
        xor(&mut given, &stream);
        let mut mac = self.mac(&*cipher, &given)?;
        xor(&mut mac, &mask);
        if bool::from(mac.ct_eq(&held)) { Ok(given) } else { Err(Error::EncryptedDataInvalid) }
    }
}
