//! Nonces that the module makes for the messages of one C_MessageEncryptInit. PKCS#11 3.2 §6.13 (CKG_x).

use cryptoki_sys::{
    CKG_GENERATE, CKG_GENERATE_COUNTER, CKG_GENERATE_COUNTER_XOR, CKG_GENERATE_RANDOM,
    CKG_NO_GENERATE,
};

use super::params::Message;
use crate::crypto::drbg::os_random;
use crate::error::{Error, Result};

/// From so many free bits on each nonce may be drawn by itself (SP 800-38D §8.2.2).
const DRAWN: usize = 96;

/// What makes nonces none of which comes twice: the fixed bits as the message gives them, and behind them
/// a base to which a counter of the messages is added (xor). The base is zero (CKG_GENERATE_COUNTER), what
/// the first message gave (CKG_GENERATE_COUNTER_XOR), or random (CKG_GENERATE, CKG_GENERATE_RANDOM);
/// CKG_GENERATE_RANDOM draws another one for each message where that makes no nonce come twice.
///
/// Only CKG_GENERATE and CKG_GENERATE_RANDOM make other nonces at each beginning: only their nonces are the
/// token's own. Each kind (generator, length and number of fixed bits) has a base and a counter of its own;
/// of those whose nonces are no random numbers of 96 bits, which could meet, there is one for each length.
#[derive(Debug, Clone, Default)]
pub struct Generator {
    bases: Vec<Base>,
}

/// More kinds of nonces than anybody has use for.
const KINDS: usize = 32;

#[derive(Debug, Clone)]
struct Base {
    /// How many nonces it made.
    count: u64,
    /// CKG_x
    generator: u64,
    fixed_bits: u64,
    bytes: Vec<u8>,
}

impl Generator {
    /// The nonce of the next message, and what makes the one after it.
    ///
    /// # Errors
    /// [`Error::MechanismParamInvalid`] where no nonce is left, and for a kind that could make one that another
    /// has made; [`Error::FunctionFailed`] if the host has no random numbers.
    pub fn next(&self, message: &Message) -> Result<(Vec<u8>, Self)> {
        if message.generator == CKG_NO_GENERATE {
            return Ok((message.nonce.clone(), self.clone()));
        }
        let length = message.nonce.len();
        let free = usize::try_from(message.fixed_bits)
            .ok()
            .and_then(|fixed| (8 * length).checked_sub(fixed))
            .ok_or(Error::MechanismParamInvalid("more fixed bits than the nonce has"))?;
        let mut bases = self.bases.clone();
        let known = bases.iter().position(|base| base.serves(message));
        let mut base = match known.map(|at| bases.swap_remove(at)) {
            Some(base) if message.generator != CKG_GENERATE_RANDOM || free < DRAWN => base,
            Some(Base { count, .. }) => Base { count, ..Base::new(message)? },
            None => {
                let new = Base::new(message)?;
                let meets = |base: &Base| base.bytes.len() == length && !base.is_drawn();
                if bases.len() >= KINDS || !new.is_drawn() && bases.iter().any(meets) {
                    return Err(Error::MechanismParamInvalid(
                        "another generator or number of fixed bits than the messages before",
                    ));
                }
                new
            }
        };
        if free < 64 && base.count >> free != 0 {
            return Err(Error::MechanismParamInvalid("no nonce is left that was not used"));
        }
        let counter = base.count.to_be_bytes();
        let mut made = base.bytes.clone();
        made.iter_mut().rev().zip(counter.iter().rev()).for_each(|(byte, count)| *byte ^= count);
        for ((at, byte), given) in made.iter_mut().enumerate().zip(&message.nonce) {
            // How many bits of this byte are fixed.
            let fixed = (8 * length - free).saturating_sub(8 * at).min(8);
            let mask = (0xFF_u16 >> fixed) as u8;
            *byte = *byte & mask | given & !mask;
        }
        base.count = base.count.checked_add(1).ok_or(Error::Bug("2^64 messages"))?;
        bases.push(base);
        Ok((made, Self { bases }))
    }
}

impl Base {
    fn new(message: &Message) -> Result<Self> {
        let mut bytes = vec![0; message.nonce.len()];
        match message.generator {
            CKG_GENERATE | CKG_GENERATE_RANDOM => os_random(&mut bytes)
                .map_err(|_| Error::FunctionFailed("the host gives no random numbers".into()))?,
            CKG_GENERATE_COUNTER => {}
            CKG_GENERATE_COUNTER_XOR => bytes.copy_from_slice(&message.nonce),
            _ => return Err(Error::MechanismParamInvalid("no such generator")),
        }
        let Message { generator, fixed_bits, .. } = *message;
        Ok(Self { count: 0, generator, fixed_bits, bytes })
    }

    /// Whether its nonces are random numbers so large that they meet no others.
    fn is_drawn(&self) -> bool {
        let free = (8 * self.bytes.len() as u64).saturating_sub(self.fixed_bits);
        [CKG_GENERATE, CKG_GENERATE_RANDOM].contains(&self.generator) && free >= DRAWN as u64
    }

    fn serves(&self, message: &Message) -> bool {
        let Self { generator, fixed_bits, bytes, .. } = self;
        (*generator, *fixed_bits, bytes.len())
            == (message.generator, message.fixed_bits, message.nonce.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(generator: u64, nonce: &[u8], fixed_bits: u64) -> Message {
        Message { nonce: nonce.into(), fixed_bits, generator, ..Message::default() }
    }

    /// The nonces of so many messages, and whether the next one is refused.
    fn made(message: &Message, count: usize) -> (Vec<Vec<u8>>, bool) {
        let mut generator = Generator::default();
        let mut all = Vec::new();
        for _ in 0..count {
            let (nonce, next) = generator.next(message).unwrap();
            all.push(nonce);
            generator = next;
        }
        (all, generator.next(message).is_err())
    }

    #[test]
    fn counters_count_from_zero_beside_the_fixed_bits_or_into_the_given_ones() {
        let given = message(CKG_GENERATE_COUNTER, &[0xAB, 0xCD, 0xEF], 12);
        let (nonces, end) = made(&given, 3);
        assert_eq!(nonces, [[0xAB, 0xC0, 0], [0xAB, 0xC0, 1], [0xAB, 0xC0, 2]]);
        assert!(!end);
        let given = message(CKG_GENERATE_COUNTER_XOR, &[0xAB, 0xCD, 0xEF], 12);
        let (nonces, _) = made(&given, 3);
        assert_eq!(nonces, [[0xAB, 0xCD, 0xEF], [0xAB, 0xCD, 0xEE], [0xAB, 0xCD, 0xED]]);
        // Whoever gives back what he got last time gets nothing twice.
        let mut generator = Generator::default();
        let mut seen = Vec::new();
        let mut given = given;
        for _ in 0..20 {
            let (nonce, next) = generator.next(&given).unwrap();
            assert!(!seen.contains(&nonce));
            seen.push(nonce.clone());
            (generator, given.nonce) = (next, nonce);
        }
    }

    #[test]
    fn nonces_end_before_one_comes_again() {
        for generator in
            [CKG_GENERATE, CKG_GENERATE_COUNTER, CKG_GENERATE_RANDOM, CKG_GENERATE_COUNTER_XOR]
        {
            for (fixed, count) in [(16, 1), (13, 8), (8, 256)] {
                let (mut nonces, end) = made(&message(generator, &[0x5A, 0x5A], fixed), count);
                assert!(end);
                assert!(nonces.iter().all(|nonce| nonce[0] == 0x5A));
                nonces.sort();
                nonces.dedup();
                assert_eq!(nonces.len(), count, "{generator}");
            }
        }
    }

    #[test]
    fn what_is_random_is_so_at_each_beginning_and_what_is_drawn_for_each_message_too() {
        for generator in [CKG_GENERATE, CKG_GENERATE_RANDOM] {
            let given = message(generator, &[7; 16], 32);
            let (one, _) = made(&given, 3);
            let (other, _) = made(&given, 3);
            assert_ne!(one[0], other[0]);
            assert!(one.iter().all(|nonce| nonce[..4] == [7; 4]));
            let high = |nonces: &[Vec<u8>]| nonces[0][4..8] == nonces[1][4..8];
            assert_eq!(high(&one), generator == CKG_GENERATE);
        }
    }

    #[test]
    fn what_is_given_stays_and_each_kind_goes_on_where_it_was() {
        let (nonces, end) = made(&message(CKG_NO_GENERATE, &[1, 2, 3], 99), 2);
        assert_eq!((&nonces[0], end), (&vec![1, 2, 3], false));
        let counted = message(CKG_GENERATE_COUNTER, &[0; 12], 32);
        let (first, mut generator) = Generator::default().next(&counted).unwrap();
        for other in [
            message(CKG_GENERATE_COUNTER, &[0; 13], 32),
            message(CKG_GENERATE_RANDOM, &[9; 12], 0),
            message(CKG_GENERATE, &[9; 16], 32),
        ] {
            generator = generator.next(&other).unwrap().1;
        }
        // These could make the nonce that was counted.
        for other in [
            message(CKG_GENERATE_COUNTER, &[0; 12], 31),
            message(CKG_GENERATE_COUNTER_XOR, &[0; 12], 32),
            message(CKG_GENERATE, &[0; 12], 32),
        ] {
            assert!(generator.next(&other).is_err());
        }
        let (second, mut generator) = generator.next(&counted).unwrap();
        assert_eq!((first[11], second[11]), (0, 1));
        let kinds = (1..=KINDS as u64).map(|fixed| message(CKG_GENERATE, &[0; 20], fixed));
        let ended = kinds.into_iter().any(|kind| match generator.next(&kind) {
            Ok((_, next)) => {
                generator = next;
                false
            }
            Err(_) => true,
        });
        assert!(ended && generator.next(&counted).is_ok());
        assert!(Generator::default().next(&message(CKG_GENERATE, &[0; 12], 97)).is_err());
        assert!(Generator::default().next(&message(5, &[0; 12], 0)).is_err());
        assert!(Generator::default().next(&message(CKG_GENERATE, &[0; 12], u64::MAX)).is_err());
    }
}
