//! AES-GCM and GMAC: counter blocks under the key, GHASH in the host. PKCS#11 3.2 §6.13; SP 800-38D.
//!
//! A ciphertext to be decrypted is kept until its tag is checked: no byte of what it says leaves before.

use cryptoki_sys::{CKM_AES_GCM, CKM_AES_GMAC};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::aes::{self, BlockCipher};
use super::aes_stream::Counter;
use super::mac::{self, Mac};
use super::params::Message;
use super::{Chip, Cipher, Does, Mechanism, NOTHING, Params};
use crate::crypto::aes::{BLOCK, xor};
use crate::crypto::ghash::Ghash;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::Direction;

pub(super) static ROWS: &[Mechanism] = &[
    aes::row(
        CKM_AES_GCM,
        "CKM_AES_GCM",
        Does {
            encrypt: Some(encrypt),
            decrypt: Some(decrypt),
            wrap: Some(encrypt),
            unwrap: Some(decrypt),
            sound: true,
            message: Some(message),
            ..NOTHING
        },
    ),
    aes::row(
        CKM_AES_GMAC,
        "CKM_AES_GMAC",
        Does { tells: Some(encrypts_any_block), ..mac::does::<Gmac>() },
    ),
];

/// 2^32 - 2 blocks.
const LONGEST: u64 = (1 << 36) - 32;
/// So many bytes are decrypted with the command that gives the hash subkey: 62 blocks.
const WITH_THE_FIRST: usize = 1024 - 2 * BLOCK;

/// The parameter, checked.
struct Setup {
    key: Object,
    iv: Vec<u8>,
    additional: Vec<u8>,
    /// In bytes.
    tag: usize,
}

impl Setup {
    fn of(params: &Params, key: &Object) -> Result<Self> {
        let wanted = "CK_GCM_PARAMS is missing";
        let Params::Gcm { iv, additional, tag_bits } = params else {
            return Err(params.refused(wanted));
        };
        if iv.is_empty() {
            return Err(Error::MechanismParamInvalid("the IV is empty"));
        }
        let tag = match tag_bits {
            96 | 104 | 112 | 120 | 128 => (*tag_bits / 8) as usize,
            _ => {
                return Err(Error::MechanismParamInvalid(
                    "ulTagBits is not 96, 104, 112, 120, 128",
                ));
            }
        };
        Ok(Self { key: key.clone(), iv: iv.clone(), additional: additional.clone(), tag })
    }

    /// Begins with the key; the key stream for so many bytes comes with the same command.
    fn begin(
        &self,
        cipher: &dyn BlockCipher,
        additional: &[u8],
        bytes: usize,
    ) -> Result<(State, Zeroizing<Vec<u8>>)> {
        let mut first = [0; BLOCK];
        let mut blocks = Vec::new();
        let mut subkey = Zeroizing::new([0; BLOCK]);
        if let Ok(nonce) = <&[u8; 12]>::try_from(&self.iv[..]) {
            first[..12].copy_from_slice(nonce);
            first[BLOCK - 1] = 1;
            blocks.extend_from_slice(&[0; BLOCK]);
        } else {
            subkey = block(&cipher.ecb(Direction::Encrypt, &[0; BLOCK])?)?;
            first = Ghash::of_nonce(&subkey, &self.iv);
        }
        let mut counter = Counter::endless(first);
        blocks.extend(counter.blocks(BLOCK + bytes)?);
        let mut stream = cipher.ecb(Direction::Encrypt, &blocks)?;
        if self.iv.len() == 12 {
            subkey = block(&aes::split(&mut stream, BLOCK))?;
        }
        let mask = block(&aes::split(&mut stream, BLOCK))?;
        Ok((State { hash: Ghash::new(&subkey, additional), mask, counter }, stream))
    }
}

/// What the key has given.
struct State {
    hash: Ghash,
    /// What hides the hash.
    mask: Zeroizing<[u8; BLOCK]>,
    counter: Counter,
}

impl State {
    fn tag(self, length: usize) -> Zeroizing<Vec<u8>> {
        let mut tag = Zeroizing::new(self.hash.finish().to_vec());
        xor(&mut tag, &*self.mask);
        tag.truncate(length);
        tag
    }
}

fn block(bytes: &[u8]) -> Result<Zeroizing<[u8; BLOCK]>> {
    let block = bytes.first_chunk().ok_or(Error::Bug("a block cipher gave less than a block"))?;
    Ok(Zeroizing::new(*block))
}

fn encrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    let setup = Setup::of(params, key)?;
    let (state, left) = (None, Zeroizing::default());
    Ok(Box::new(Encrypting { setup, state, left, length: 0 }))
}

fn message(message: &Message, iv: &[u8], additional: &[u8]) -> Params {
    Params::Gcm { iv: iv.into(), additional: additional.into(), tag_bits: message.tag_bits }
}

fn decrypt(_row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    Ok(Box::new(Decrypting { setup: Setup::of(params, key)?, held: Vec::new() }))
}

struct Encrypting {
    setup: Setup,
    /// None before the first byte.
    state: Option<State>,
    /// What of the last block of the key stream is not used yet.
    left: Zeroizing<Vec<u8>>,
    length: u64,
}

impl Cipher for Encrypting {
    fn update_length(&self, input: usize) -> usize {
        input
    }

    fn update(&mut self, data: &[u8], chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        if data.is_empty() {
            return Ok(Zeroizing::default());
        }
        self.length = self.length.saturating_add(data.len() as u64);
        if self.length > LONGEST {
            return Err(Error::DataLenRange("GCM takes at most 2^32 - 2 blocks"));
        }
        let more = data.len().saturating_sub(self.left.len());
        let stream = match &mut self.state {
            Some(_) if more == 0 => Zeroizing::default(),
            Some(state) => {
                let blocks = state.counter.blocks(more)?;
                aes::block_cipher(chip, &self.setup.key)?.ecb(Direction::Encrypt, &blocks)?
            }
            None => {
                let cipher = aes::block_cipher(chip, &self.setup.key)?;
                let (state, stream) = self.setup.begin(&*cipher, &self.setup.additional, more)?;
                self.state = Some(state);
                stream
            }
        };
        self.left.extend_from_slice(&stream);
        let used = aes::split(&mut self.left, data.len());
        let mut output = Zeroizing::new(data.to_vec());
        xor(&mut output, &used);
        if let Some(state) = &mut self.state {
            state.hash.update(&output);
        }
        Ok(output)
    }

    fn finish_length(&self, _input: usize) -> usize {
        self.setup.tag
    }

    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let Self { setup, state, .. } = *self;
        let state = match state {
            Some(state) => state,
            None => {
                let cipher = aes::block_cipher(chip, &setup.key)?;
                setup.begin(&*cipher, &setup.additional, 0)?.0
            }
        };
        Ok(state.tag(setup.tag))
    }
}

struct Decrypting {
    setup: Setup,
    /// Ciphertext and tag.
    held: Vec<u8>,
}

impl Cipher for Decrypting {
    fn update_length(&self, _input: usize) -> usize {
        0
    }

    fn update(&mut self, data: &[u8], _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        self.held.extend_from_slice(data);
        Ok(Zeroizing::default())
    }

    fn finish_length(&self, input: usize) -> usize {
        self.held.len().saturating_add(input).saturating_sub(self.setup.tag)
    }

    fn finish(self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let Self { setup, held } = *self;
        let length = held.len().checked_sub(setup.tag).ok_or(Error::EncryptedDataLenRange)?;
        if length as u64 > LONGEST {
            return Err(Error::EncryptedDataLenRange);
        }
        let (ciphertext, tag) = held.split_at(length);
        let cipher = aes::block_cipher(chip, &setup.key)?;
        let early = if length > WITH_THE_FIRST { 0 } else { length };
        let (mut state, mut stream) = setup.begin(&*cipher, &setup.additional, early)?;
        state.hash.update(ciphertext);
        let blocks = state.counter.blocks(length - early)?;
        if !bool::from(state.tag(setup.tag).ct_eq(tag)) {
            return Err(Error::EncryptedDataInvalid);
        }
        if !blocks.is_empty() {
            stream = cipher.ecb(Direction::Encrypt, &blocks)?;
        }
        stream.truncate(length);
        xor(&mut stream, ciphertext);
        Ok(stream)
    }
}

/// GMAC: the data is what is only authenticated.
struct Gmac(Setup);

/// Two MACs under one IV tell the hash subkey, and then for each block an IV of another length than 12 bytes whose
/// MAC of nothing is that block encrypted.
fn encrypts_any_block(params: &Params) -> bool {
    matches!(params, Params::Gcm { iv, .. } if iv.len() != 12)
}

impl Mac for Gmac {
    fn new(_row: &Mechanism, params: &Params, key: &Object) -> Result<Self> {
        let setup = Setup::of(params, key)?;
        if !setup.additional.is_empty() {
            return Err(Error::MechanismParamInvalid("pAAD of GMAC is what is signed"));
        }
        Ok(Self(setup))
    }

    fn length(&self) -> usize {
        self.0.tag
    }

    fn make(self, message: Zeroizing<Vec<u8>>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let cipher = aes::block_cipher(chip, &self.0.key)?;
        Ok(self.0.begin(&*cipher, &message, 0)?.0.tag(self.0.tag))
    }
}
