//! AES key wrap: RFC 3394 (KW), RFC 5649 (KWP) and KW of data padded as PKCS #7 says. PKCS#11 3.2 §6.16;
//! SP 800-38F.
//!
//! Each of its 6n steps (n semiblocks of 8 bytes) is one block of ECB in the TPM, and no step can be made
//! before the last one: a key of 32 bytes is 24 commands. What goes in and comes out between the steps is
//! key material; it is the one parameter of each command and answer that the session encrypts.
//!
//! C_WrapKey and C_UnwrapKey do the same, but that CKM_AES_KEY_WRAP fills a key whose length is no multiple of
//! 8 up with zeros; `object::wrapping` takes them off again.

use cryptoki_sys::{
    CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD, CKM_AES_KEY_WRAP_PKCS7,
};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _, ConstantTimeLess as _};
use zeroize::Zeroizing;

use super::aes::{self, BlockCipher};
use super::{Chip, Cipher, Does, Mechanism, NOTHING, Params};
use crate::crypto::aes::{BLOCK, xor};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::tpm::command::Direction;

const DOES: Does = Does {
    encrypt: Some(encrypt),
    decrypt: Some(decrypt),
    wrap: Some(wrap),
    unwrap: Some(decrypt),
    sound: true,
    ..NOTHING
};

pub(super) static ROWS: &[Mechanism] = &[
    aes::row(CKM_AES_KEY_WRAP, "CKM_AES_KEY_WRAP", DOES),
    aes::row(CKM_AES_KEY_WRAP_PAD, "CKM_AES_KEY_WRAP_PAD", DOES),
    aes::row(CKM_AES_KEY_WRAP_KWP, "CKM_AES_KEY_WRAP_KWP", DOES),
    aes::row(CKM_AES_KEY_WRAP_PKCS7, "CKM_AES_KEY_WRAP_PKCS7", DOES),
];

/// A semiblock, in bytes.
const SEMIBLOCK: usize = 8;
/// The most data, in bytes: more than any key has, and 6,144 commands.
pub(super) const LIMIT: usize = 8192;

/// A way to wrap, with its initial value.
#[derive(Clone, Copy)]
pub(super) enum KeyWrap {
    /// CKM_AES_KEY_WRAP: whole semiblocks, two at least.
    Whole([u8; SEMIBLOCK]),
    /// CKM_AES_KEY_WRAP_KWP: 1 byte and more. The length is in the initial value's second half.
    Counted([u8; 4]),
    /// CKM_AES_KEY_WRAP_PKCS7: 8 bytes and more. CKM_AES_KEY_WRAP_PAD is the same under its older
    /// name, and deprecated because some took it for KWP.
    Padded([u8; SEMIBLOCK]),
}

impl KeyWrap {
    /// By the mechanism and its parameter, which is an initial value or missing.
    ///
    /// # Errors
    /// [`Error::MechanismParamInvalid`]
    pub(super) fn of(mechanism: u64, params: &Params) -> Result<Self> {
        let wanted = "the initial value has 8 bytes, with KWP 4";
        let given = match params {
            Params::None => None,
            Params::Bytes(bytes) => Some(&bytes[..]),
            _ => return Err(params.refused(wanted)),
        };
        let refused = |_| params.refused(wanted);
        if mechanism == CKM_AES_KEY_WRAP_KWP {
            let initial = given.unwrap_or(&[0xA6, 0x59, 0x59, 0xA6]);
            return Ok(Self::Counted(initial.try_into().map_err(refused)?));
        }
        let initial = given.unwrap_or(&[0xA6; SEMIBLOCK]).try_into().map_err(refused)?;
        Ok(match mechanism {
            CKM_AES_KEY_WRAP => Self::Whole(initial),
            _ => Self::Padded(initial),
        })
    }

    /// How many bytes so many become.
    pub(super) fn wrapped_length(&self, length: usize) -> usize {
        let padded = match self {
            Self::Padded(_) => length.saturating_add(1),
            _ => length,
        };
        padded.div_ceil(SEMIBLOCK).saturating_add(1).saturating_mul(SEMIBLOCK)
    }

    /// The most that so many bytes can contain.
    pub(super) fn unwrapped_length(&self, length: usize) -> usize {
        let least = match self {
            Self::Padded(_) => 1,
            _ => 0,
        };
        length.saturating_sub(SEMIBLOCK + least)
    }

    /// Wraps data.
    ///
    /// # Errors
    /// [`Error::DataLenRange`]; the TPM's.
    pub(super) fn wrap(&self, cipher: &dyn BlockCipher, data: &[u8]) -> Result<Vec<u8>> {
        let (first, padding) = match self {
            Self::Whole(initial) => (*initial, 0),
            Self::Counted(initial) => {
                let length = (data.len() as u32).to_be_bytes();
                let mut first = [0; SEMIBLOCK];
                first[..4].copy_from_slice(initial);
                first[4..].copy_from_slice(&length);
                (first, data.len().next_multiple_of(SEMIBLOCK) - data.len())
            }
            Self::Padded(initial) => (*initial, SEMIBLOCK - data.len() % SEMIBLOCK),
        };
        let least = if matches!(self, Self::Counted(_)) { 1 } else { 2 * SEMIBLOCK };
        let length = data.len() + padding;
        if length < least || data.len() > LIMIT || length % SEMIBLOCK != 0 {
            return Err(match self {
                Self::Whole(_) => Error::DataLenRange("16 to 8,192 bytes, a multiple of 8"),
                Self::Counted(_) => Error::DataLenRange("1 to 8,192 bytes"),
                Self::Padded(_) => Error::DataLenRange("8 to 8,192 bytes"),
            });
        }
        let byte = if matches!(self, Self::Padded(_)) { padding as u8 } else { 0 };
        let mut blocks = Zeroizing::new(Vec::with_capacity(SEMIBLOCK + length));
        blocks.extend_from_slice(&first);
        blocks.extend_from_slice(data);
        blocks.resize(SEMIBLOCK + length, byte);
        steps(cipher, Direction::Encrypt, &mut blocks)?;
        Ok(std::mem::take(&mut *blocks))
    }

    /// Unwraps.
    ///
    /// # Errors
    /// [`Error::EncryptedDataLenRange`]; [`Error::EncryptedDataInvalid`] for whatever is wrong inside,
    /// after the same time; the TPM's.
    pub(super) fn unwrap(
        &self,
        cipher: &dyn BlockCipher,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let least = if matches!(self, Self::Counted(_)) { 2 } else { 3 } * SEMIBLOCK;
        let most = LIMIT + 2 * SEMIBLOCK;
        if !(least..=most).contains(&wrapped.len()) || wrapped.len() % SEMIBLOCK != 0 {
            return Err(Error::EncryptedDataLenRange);
        }
        let mut blocks = Zeroizing::new(wrapped.to_vec());
        steps(cipher, Direction::Decrypt, &mut blocks)?;
        let mut data = Zeroizing::new(blocks.split_off(SEMIBLOCK));
        let last: [u8; SEMIBLOCK] = data.last_chunk().copied().unwrap_or_default();
        let (good, padding) = match self {
            Self::Whole(initial) => (blocks.ct_eq(initial), 0),
            Self::Counted(initial) => {
                let (first, count) = blocks.split_at(4);
                let count = u32::from_be_bytes(count.try_into().unwrap_or_default());
                // At most LIMIT and a semiblock. A count of another number of semiblocks gives 8 or more.
                let padding = (data.len() as u32).wrapping_sub(count);
                let good = first.ct_eq(initial) & padding.ct_lt(&(SEMIBLOCK as u32));
                let padding = u32::conditional_select(&0, &padding, good) as u8;
                (good & ends(&last, padding, 0), padding)
            }
            Self::Padded(initial) => {
                let padding = last[SEMIBLOCK - 1];
                let good = blocks.ct_eq(initial)
                    & !padding.ct_eq(&0)
                    & padding.ct_lt(&(SEMIBLOCK as u8 + 1));
                (good & ends(&last, padding, padding), padding)
            }
        };
        if !bool::from(good) {
            return Err(Error::EncryptedDataInvalid);
        }
        let length = data.len() - usize::from(padding);
        data.truncate(length);
        Ok(data)
    }
}

/// Whether the last `count` bytes are all this one, in constant time.
fn ends(last: &[u8; SEMIBLOCK], count: u8, byte: u8) -> Choice {
    (0..SEMIBLOCK as u8)
        .zip(last.iter().rev())
        .fold(Choice::from(1), |good, (at, found)| good & (found.ct_eq(&byte) | !at.ct_lt(&count)))
}

/// The wrapping function W of SP 800-38F §6.1, or its inverse, in place: the first semiblock is A. One
/// semiblock beside it is one block (§6.3).
fn steps(cipher: &dyn BlockCipher, direction: Direction, semiblocks: &mut [u8]) -> Result<()> {
    let (a, r) = semiblocks.split_at_mut(SEMIBLOCK.min(semiblocks.len()));
    let mut block = Zeroizing::new([0; BLOCK]);
    let count = r.len() / SEMIBLOCK;
    let total = if count == 1 { 1 } else { 6 * count };
    for step in 0..total {
        let number = match direction {
            Direction::Encrypt => step + 1,
            Direction::Decrypt => total - step,
        };
        // A is changed by the number: after the encryption, so before the decryption. The one block
        // of a count of 1 has none.
        let number_of = if count == 1 { [0; 8] } else { (number as u64).to_be_bytes() };
        let at = (number - 1) % count * SEMIBLOCK;
        let Some(place) = r.get_mut(at..at + SEMIBLOCK) else { continue };
        let both = a.iter().chain(&*place);
        block.iter_mut().zip(both).for_each(|(to, byte)| *to = *byte);
        if direction == Direction::Decrypt {
            xor(&mut *block, &number_of);
        }
        let made = cipher.ecb(direction, &*block)?;
        let (high, low) = made.split_at(SEMIBLOCK.min(made.len()));
        a.copy_from_slice(high);
        place.copy_from_slice(low);
        if direction == Direction::Encrypt {
            xor(a, &number_of);
        }
    }
    Ok(())
}

/// Data in one part, or kept until its end.
struct Wrapping {
    key: Object,
    way: KeyWrap,
    direction: Direction,
    /// Zeros fill the last semiblock up, where the way itself has no padding.
    fills: bool,
    held: Zeroizing<Vec<u8>>,
}

fn encrypt(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    start(row, params, key, Direction::Encrypt, false)
}

fn wrap(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    start(row, params, key, Direction::Encrypt, row.id == CKM_AES_KEY_WRAP)
}

fn decrypt(row: &'static Mechanism, params: &Params, key: &Object) -> Result<Box<dyn Cipher>> {
    start(row, params, key, Direction::Decrypt, false)
}

fn start(
    row: &'static Mechanism,
    params: &Params,
    key: &Object,
    direction: Direction,
    fills: bool,
) -> Result<Box<dyn Cipher>> {
    let (way, held) = (KeyWrap::of(row.id, params)?, Zeroizing::default());
    Ok(Box::new(Wrapping { key: key.clone(), way, direction, fills, held }))
}

impl Cipher for Wrapping {
    fn update_length(&self, _input: usize) -> usize {
        0
    }

    fn update(&mut self, data: &[u8], _chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        if self.held.len().saturating_add(data.len()) > LIMIT + 2 * SEMIBLOCK {
            return Err(aes::bad_length(self.direction, "at most 8,192 bytes"));
        }
        self.held.extend_from_slice(data);
        Ok(Zeroizing::default())
    }

    fn finish_length(&self, input: usize) -> usize {
        let length = self.held.len().saturating_add(input);
        match self.direction {
            Direction::Encrypt => self.way.wrapped_length(length),
            Direction::Decrypt => self.way.unwrapped_length(length),
        }
    }

    fn finish(mut self: Box<Self>, chip: &Chip<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let cipher = aes::block_cipher(chip, &self.key)?;
        if self.fills {
            let whole = self.held.len().next_multiple_of(SEMIBLOCK);
            self.held.resize(whole, 0);
        }
        match self.direction {
            Direction::Encrypt => Ok(self.way.wrap(&*cipher, &self.held)?.into()),
            Direction::Decrypt => self.way.unwrap(&*cipher, &self.held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aes::Aes;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    fn of(mechanism: u64) -> KeyWrap {
        KeyWrap::of(mechanism, &Params::None).unwrap()
    }

    /// RFC 3394 §4.6, RFC 5649 §6.
    #[test]
    fn agrees_with_the_examples_of_the_rfcs() {
        let whole = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F";
        let other = "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8";
        let examples = [
            (
                CKM_AES_KEY_WRAP,
                whole,
                "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
                "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
            ),
            (
                CKM_AES_KEY_WRAP_KWP,
                other,
                "c37b7e6492584340bed12207808941155068f738",
                "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
            ),
            (CKM_AES_KEY_WRAP_KWP, other, "466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
        ];
        for (mechanism, key, plain, sealed) in examples {
            let (cipher, plain, sealed) = (Aes::new(&hex(key)).unwrap(), hex(plain), hex(sealed));
            let way = of(mechanism);
            assert_eq!(way.wrap(&cipher, &plain).unwrap(), sealed);
            assert_eq!(way.wrapped_length(plain.len()), sealed.len());
            assert_eq!(*way.unwrap(&cipher, &sealed).unwrap(), plain);
            for at in 0..8 * sealed.len() {
                let mut altered = sealed.clone();
                altered[at / 8] ^= 1 << (at % 8);
                assert_eq!(way.unwrap(&cipher, &altered), Err(Error::EncryptedDataInvalid));
            }
        }
    }

    #[test]
    fn data_of_every_length_comes_back_or_is_refused() {
        let cipher = Aes::new(&[7; 16]).unwrap();
        for (mechanism, takes) in [
            (CKM_AES_KEY_WRAP, (|length| length >= 16 && length % 8 == 0) as fn(usize) -> bool),
            (CKM_AES_KEY_WRAP_KWP, |length| length > 0),
            (CKM_AES_KEY_WRAP_PKCS7, |length| length >= 8),
        ] {
            let way = of(mechanism);
            for length in 0..50 {
                let plain = vec![0xA5; length];
                match way.wrap(&cipher, &plain) {
                    Ok(sealed) => {
                        assert!(takes(length), "{length}");
                        assert_eq!(sealed.len(), way.wrapped_length(length));
                        assert!(length <= way.unwrapped_length(sealed.len()));
                        assert_eq!(*way.unwrap(&cipher, &sealed).unwrap(), plain);
                    }
                    Err(error) => {
                        assert!(!takes(length), "{length}");
                        assert!(matches!(error, Error::DataLenRange(_)));
                    }
                }
            }
            assert!(way.wrap(&cipher, &vec![1; LIMIT]).is_ok());
            assert!(way.wrap(&cipher, &vec![1; LIMIT + 8]).is_err());
        }
    }

    /// What has the right first semiblock, but an end that no padding gives.
    #[test]
    fn an_end_that_is_no_padding_is_refused() {
        let cipher = Aes::new(&[7; 16]).unwrap();
        let kw = |initial: [u8; 8]| KeyWrap::Whole(initial);
        let counted = |length: u8| kw([0xA6, 0x59, 0x59, 0xA6, 0, 0, 0, length]);
        let ends_with = |end: &[u8]| [&vec![9; 24 - end.len()][..], end].concat();
        for (length, end, good) in [
            (24, &[9u8][..], true),
            (17, &[0; 7], true),
            (16, &[0; 8], false),
            (25, &[0; 7], false),
            (17, &[0, 0, 0, 0, 0, 1, 0], false),
            (17, &[1, 0, 0, 0, 0, 0, 0], false),
            (0, &[0; 24], false),
        ] {
            let sealed = counted(length).wrap(&cipher, &ends_with(end)).unwrap();
            let opened = of(CKM_AES_KEY_WRAP_KWP).unwrap(&cipher, &sealed);
            assert_eq!(opened.is_ok(), good, "{length}, {end:?}");
        }
        for (end, good) in [
            (&[1u8][..], true),
            (&[8; 8], true),
            (&[9, 9], false),
            (&[0], false),
            (&[2, 3, 3], false),
            (&[2, 2, 3], false),
        ] {
            let sealed = kw([0xA6; 8]).wrap(&cipher, &ends_with(end)).unwrap();
            let opened = of(CKM_AES_KEY_WRAP_PKCS7).unwrap(&cipher, &sealed);
            assert_eq!(opened.is_ok(), good, "{end:?}");
        }
    }
}
