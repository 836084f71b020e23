//! Keys against a real TPM, with RustCrypto as the second opinion.

use std::sync::Arc;

use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use hmac::{Mac, SimpleHmac};

use super::super::testing::Swtpm;
use super::*;
use crate::tpm::key::{KEYED_LIMIT, SEALED_LIMIT};

fn spec(usage: KeyUse) -> KeySpec {
    KeySpec { usage, extractable: false, always_authenticate: None }
}

/// A TPM with its storage root key.
struct Bench {
    swtpm: Swtpm,
    tpm: Arc<Tpm>,
    srk: Arc<Name>,
}

impl Bench {
    fn start() -> Self {
        let swtpm = Swtpm::start();
        let tpm = swtpm.tpm();
        let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
        Self { swtpm, tpm, srk }
    }

    fn key(&self, new: NewKey, authorization: [u8; 32]) -> Key {
        let NewKey { public, private } = new;
        let mut id = [0; 16];
        id.copy_from_slice(&private[..16]);
        let authorization = Zeroizing::new(authorization);
        let blob = Arc::new(KeyBlob { id, public, private, authorization });
        Key { blob, srk: self.srk.clone(), grant: None }
    }

    fn made(&self, usage: KeyUse) -> Key {
        let new = self.tpm.create(&self.tpm.call(), &self.srk, &spec(usage), &AUTH).unwrap();
        self.key(new, AUTH)
    }

    fn given(&self, usage: KeyUse, value: &[u8]) -> Result<Key, Fault> {
        let (call, spec) = (self.tpm.call(), spec(usage));
        let new = self.tpm.create_with(&call, &self.srk, &spec, &AUTH, value)?;
        Ok(self.key(new, AUTH))
    }

    fn cipher(
        &self,
        key: &Key,
        (mode, direction): (CipherMode, Direction),
        iv: &mut [u8; 16],
        input: &[u8],
    ) -> Vec<u8> {
        let call = self.tpm.call();
        self.tpm.cipher(&call, key, mode, direction, iv, input).unwrap().to_vec()
    }

    fn mac(&self, key: &Key, hash: HashAlgorithm, message: &[u8]) -> Vec<u8> {
        self.tpm.mac(&self.tpm.call(), key, hash, message).unwrap().to_vec()
    }
}

/// Ends with zeros, which a TPM cuts.
const AUTH: [u8; 32] = {
    let mut auth = [9; 32];
    auth[30] = 0;
    auth[31] = 0;
    auth
};

/// Bytes that look like nothing.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 256 * 13 + 5) as u8).collect()
}

enum Aes {
    A(Aes128),
    B(Aes192),
    C(Aes256),
}

impl Aes {
    fn new(key: &[u8]) -> Self {
        match key.len() {
            16 => Self::A(Aes128::new_from_slice(key).unwrap()),
            24 => Self::B(Aes192::new_from_slice(key).unwrap()),
            _ => Self::C(Aes256::new_from_slice(key).unwrap()),
        }
    }

    fn block(&self, direction: Direction, block: &[u8]) -> [u8; 16] {
        let mut block = aes::Block::clone_from_slice(block);
        match (self, direction) {
            (Self::A(aes), Direction::Encrypt) => aes.encrypt_block(&mut block),
            (Self::B(aes), Direction::Encrypt) => aes.encrypt_block(&mut block),
            (Self::C(aes), Direction::Encrypt) => aes.encrypt_block(&mut block),
            (Self::A(aes), Direction::Decrypt) => aes.decrypt_block(&mut block),
            (Self::B(aes), Direction::Decrypt) => aes.decrypt_block(&mut block),
            (Self::C(aes), Direction::Decrypt) => aes.decrypt_block(&mut block),
        }
        block.into()
    }

    /// SP 800-38A §6.1 to §6.4.
    fn encrypt(&self, mode: CipherMode, iv: [u8; 16], input: &[u8]) -> Vec<u8> {
        let xor = |a: &[u8], b: &[u8]| -> Vec<u8> { a.iter().zip(b).map(|(a, b)| a ^ b).collect() };
        let mut feedback = iv.to_vec();
        let mut output = Vec::new();
        for block in input.chunks(16) {
            let next = match mode {
                CipherMode::Ecb => self.block(Direction::Encrypt, block).to_vec(),
                CipherMode::Cbc => self.block(Direction::Encrypt, &xor(block, &feedback)).to_vec(),
                CipherMode::Cfb => xor(block, &self.block(Direction::Encrypt, &feedback)),
                CipherMode::Ofb => {
                    feedback = self.block(Direction::Encrypt, &feedback).to_vec();
                    output.extend(xor(block, &feedback));
                    continue;
                }
            };
            output.extend(&next);
            feedback = next;
        }
        output
    }
}

const MODES: [CipherMode; 4] = [CipherMode::Ecb, CipherMode::Cbc, CipherMode::Cfb, CipherMode::Ofb];

#[test]
fn aes_of_every_size_and_mode_is_that_of_the_standard_around_the_input_buffer() {
    let bench = Bench::start();
    let facts = bench.tpm.facts(&bench.tpm.call()).unwrap();
    // libtpms 0.9 was built without 192 bits.
    assert!(facts.aes_bits.contains(&128) && facts.aes_bits.contains(&256));
    for bits in facts.aes_bits {
        let value = bytes(usize::from(bits) / 8);
        let key = bench.given(KeyUse::Aes { bits }, &value).unwrap();
        let ours = Aes::new(&value);
        for mode in MODES {
            let whole = matches!(mode, CipherMode::Ecb | CipherMode::Cbc);
            let parts = [1, 15, 1023, 1025, 2047];
            let lengths = [0, 16, 1008, 1024, 1040, 2048, 17 * 1024];
            for length in lengths.into_iter().chain(parts.into_iter().filter(|_| !whole)) {
                let (input, iv) = (bytes(length), [0xA7; 16]);
                let expected = ours.encrypt(mode, iv, &input);
                let there = bench.cipher(&key, (mode, Direction::Encrypt), &mut iv.clone(), &input);
                assert!(there == expected, "{bits} {mode:?} {length}");
                let back = bench.cipher(&key, (mode, Direction::Decrypt), &mut iv.clone(), &there);
                assert!(back == input, "{bits} {mode:?} {length} back");
            }
            // In two calls.
            let input = bytes(48);
            for direction in [Direction::Encrypt, Direction::Decrypt] {
                let mut iv = [0x31; 16];
                let whole = bench.cipher(&key, (mode, direction), &mut iv.clone(), &input);
                let mut parts = bench.cipher(&key, (mode, direction), &mut iv, &input[..32]);
                parts.extend(bench.cipher(&key, (mode, direction), &mut iv, &input[32..]));
                assert_eq!(whole, parts, "{bits} {mode:?} {direction:?}");
            }
        }
    }
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

fn hmac(hash: HashAlgorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
    macro_rules! with {
        ($hash:ty) => {{
            let mut mac = <SimpleHmac<$hash> as KeyInit>::new_from_slice(key).unwrap();
            mac.update(message);
            mac.finalize().into_bytes().to_vec()
        }};
    }
    match hash {
        HashAlgorithm::Sha1 => with!(sha1::Sha1),
        HashAlgorithm::Sha256 => with!(sha2::Sha256),
        HashAlgorithm::Sha384 => with!(sha2::Sha384),
        HashAlgorithm::Sha512 => with!(sha2::Sha512),
    }
}

#[test]
fn an_hmac_of_any_hash_and_length_is_that_of_the_standard() {
    let bench = Bench::start();
    let value = bytes(32);
    let key = bench.given(KeyUse::Keyed, &value).unwrap();
    for hash in HashAlgorithm::ALL {
        for length in [0, 1, 1023, 1024, 1025, 2048, 10 * 1024] {
            let message = bytes(length);
            assert_eq!(
                bench.mac(&key, hash, &message),
                hmac(hash, &value, &message),
                "{hash:?} of {length}"
            );
        }
    }
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

#[test]
fn an_hmac_key_has_one_to_128_bytes() {
    let bench = Bench::start();
    for length in [1, 2, 15, 16, 20, 31, 32, 63, 64, 65, 100, 127, KEYED_LIMIT] {
        let mut value = bytes(length);
        // Zeros at its end are part of it.
        value[length - 1] = 0;
        let key = bench.given(KeyUse::Keyed, &value).unwrap();
        for hash in HashAlgorithm::ALL {
            let expected = hmac(hash, &value, b"message");
            assert_eq!(bench.mac(&key, hash, b"message"), expected, "{length} {hash:?}");
        }
    }
    for length in [0, KEYED_LIMIT + 1] {
        let fault = bench.given(KeyUse::Keyed, &bytes(length)).unwrap_err();
        assert_eq!(*fault.kind(), Trouble::KeySize, "{length}");
    }
}

#[test]
fn a_sealed_value_has_one_to_128_bytes_and_comes_back_whole() {
    let bench = Bench::start();
    for length in [1, 16, 64, 127, SEALED_LIMIT] {
        let mut value = bytes(length);
        value[length - 1] = 0;
        let key = bench.given(KeyUse::Sealed, &value).unwrap();
        assert_eq!(**bench.tpm.unseal(&bench.tpm.call(), &key).unwrap(), value);
    }
    for length in [0, SEALED_LIMIT + 1] {
        let fault = bench.given(KeyUse::Sealed, &bytes(length)).unwrap_err();
        assert_eq!(*fault.kind(), Trouble::KeySize, "{length}");
    }
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

const CREATE: u32 = 0x153;
const ENCRYPT_DECRYPT_2: u32 = 0x193;
const HMAC: u32 = 0x155;
const HMAC_START: u32 = 0x15B;
const UPDATE: u32 = 0x15C;
const COMPLETE: u32 = 0x13E;

#[test]
fn warm_keys_cost_one_command_a_buffer_and_a_sequence_one_more() {
    let bench = Bench::start();
    let (call, iv) = (bench.tpm.call(), [0; 16]);
    let aes = bench.made(KeyUse::Aes { bits: 128 });
    bench.swtpm.take_record();
    let hmac = bench.made(KeyUse::Keyed);
    assert_eq!(bench.swtpm.take_record(), [CREATE], "in a warm salted session");
    bench.cipher(&aes, (CipherMode::Ecb, Direction::Encrypt), &mut iv.clone(), &[0; 16]);
    bench.mac(&hmac, HashAlgorithm::Sha256, b"");
    bench.swtpm.take_record();
    for (length, commands) in [(0, 0), (16, 1), (1024, 1), (1040, 2), (20 * 1024, 20)] {
        let mut iv = iv;
        bench.cipher(&aes, (CipherMode::Cbc, Direction::Encrypt), &mut iv, &bytes(length));
        assert_eq!(bench.swtpm.take_record(), vec![ENCRYPT_DECRYPT_2; commands], "{length}");
    }
    for (length, commands) in [
        (0, vec![HMAC]),
        (1024, vec![HMAC]),
        (1025, vec![HMAC_START, UPDATE, COMPLETE]),
        (2048, vec![HMAC_START, UPDATE, COMPLETE]),
        (3000, vec![HMAC_START, UPDATE, UPDATE, COMPLETE]),
    ] {
        bench.mac(&hmac, HashAlgorithm::Sha256, &bytes(length));
        assert_eq!(bench.swtpm.take_record(), commands, "{length}");
    }
    let sealed = bench.given(KeyUse::Sealed, b"value").unwrap();
    bench.tpm.unseal(&call, &sealed).unwrap();
    bench.swtpm.take_record();
    bench.tpm.unseal(&call, &sealed).unwrap();
    assert_eq!(bench.swtpm.take_record(), [0x15E]);
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

#[test]
fn a_number_is_padded_and_never_cut() {
    assert_eq!(**padded(&[1, 2], 4).unwrap(), [0, 0, 1, 2]);
    assert_eq!(**padded(&[0, 0, 1, 2], 2).unwrap(), [1, 2]);
    assert!(padded(&[1, 2, 3], 2).is_err());
}
