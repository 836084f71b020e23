//! Keys against a real TPM, with RustCrypto as the second opinion.

use std::sync::Arc;

use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use hmac::{Mac, SimpleHmac};

use super::super::testing::{AUTH, Bench, CipherMode, Meddling, bytes};
use super::*;
use crate::tpm::key::{KEYED_LIMIT, SEALED_LIMIT};

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
    assert_eq!(bench.warm(|| drop(bench.made(KeyUse::Keyed))), [CREATE]);
    let aes = bench.made(KeyUse::Aes { bits: 128 });
    for (length, commands) in [(0, 0), (16, 1), (1024, 1), (1040, 2), (20 * 1024, 20)] {
        let cbc = (CipherMode::Cbc, Direction::Encrypt);
        let cost = bench.warm(|| drop(bench.cipher(&aes, cbc, &mut [0; 16], &bytes(length))));
        assert_eq!(cost, vec![ENCRYPT_DECRYPT_2; commands], "{length}");
    }
    let hmac = bench.made(KeyUse::Keyed);
    for (length, commands) in [
        (0, vec![HMAC]),
        (1024, vec![HMAC]),
        (1025, vec![HMAC_START, UPDATE, COMPLETE]),
        (2048, vec![HMAC_START, UPDATE, COMPLETE]),
        (3000, vec![HMAC_START, UPDATE, UPDATE, COMPLETE]),
    ] {
        let cost = bench.warm(|| drop(bench.mac(&hmac, HashAlgorithm::Sha256, &bytes(length))));
        assert_eq!(cost, commands, "{length}");
    }
    let sealed = bench.given(KeyUse::Sealed, b"value").unwrap();
    let unseal = || drop(bench.tpm.unseal(&bench.tpm.call(), &sealed).unwrap());
    assert_eq!(bench.warm(unseal), [0x15E]);
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

#[test]
fn three_keys_in_turn_share_a_bare_tpm_with_their_sequences() {
    let bench = Bench::start();
    let values = [bytes(20), bytes(32), bytes(100)];
    let keys = values.clone().map(|value| bench.given(KeyUse::Keyed, &value).unwrap());
    let aes = bench.given(KeyUse::Aes { bits: 256 }, &bytes(32)).unwrap();
    let message = bytes(5000);
    for _ in 0..3 {
        for (key, value) in keys.iter().zip(&values) {
            let there = bench.mac(key, HashAlgorithm::Sha384, &message);
            assert_eq!(there, hmac(HashAlgorithm::Sha384, value, &message));
            let cbc = (CipherMode::Cbc, Direction::Encrypt);
            let there = bench.cipher(&aes, cbc, &mut [3; 16], &message[..4096]);
            let ours = Aes::new(&bytes(32)).encrypt(CipherMode::Cbc, [3; 16], &message[..4096]);
            assert!(there == ours);
        }
    }
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

#[test]
fn a_sequence_that_is_cut_anywhere_is_made_again_whole() {
    let bench = Bench::start();
    let value = bytes(32);
    let key = bench.given(KeyUse::Keyed, &value).unwrap();
    let message = bytes(5000);
    for code in [HMAC_START, UPDATE, COMPLETE] {
        bench.swtpm.meddle(code, Meddling::Cut);
        let there = bench.mac(&key, HashAlgorithm::Sha256, &message);
        assert_eq!(there, hmac(HashAlgorithm::Sha256, &value, &message), "{code:#x}");
    }
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

#[test]
fn a_sequence_that_the_tpm_refuses_leaves_nothing_behind() {
    const FLUSH: u32 = 0x165;
    const VALUE: u32 = 0x1C4;
    for bench in [Bench::start(), Bench::managed()] {
        let (call, message) = (bench.tpm.call(), bytes(3000));
        let key = bench.made(KeyUse::Keyed);
        bench.mac(&key, HashAlgorithm::Sha256, &message);
        for code in [UPDATE, COMPLETE] {
            bench.swtpm.meddle(code, Meddling::Answer(VALUE));
            bench.swtpm.take_record();
            let fault = bench.tpm.mac(&call, &key, HashAlgorithm::Sha256, &message).unwrap_err();
            assert_eq!(fault.code(), Some(VALUE));
            if !bench.tpm.is_managed() {
                assert_eq!(bench.swtpm.take_record().last(), Some(&FLUSH), "{code:#x}");
            }
            bench.mac(&key, HashAlgorithm::Sha256, &message);
        }
        bench.tpm.end();
    }
}

#[test]
fn sequences_that_a_killed_process_left_are_flushed() {
    let bench = Bench::start();
    let key = bench.made(KeyUse::Keyed);
    bench.tpm.end();
    let dying = bench.swtpm.tpm();
    dying
        .with_key(&dying.call(), &key, |lease| {
            let loaded = lease.key();
            let hash = HashAlgorithm::Sha256;
            let start = HmacStart { key: &loaded, authorization: &[1; 32], hash };
            for _ in 0..2 {
                let sequence = lease.execute(&start)?;
                lease.connection.link.forget(sequence.handle);
            }
            Ok(())
        })
        .unwrap();
    dying.end();
    assert_eq!(bench.swtpm.handles().len(), 2);
    bench.mac(&key, HashAlgorithm::Sha256, &bytes(3000));
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

#[test]
fn other_threads_get_their_turn_amid_a_long_input() {
    let bench = Bench::start();
    let (aes, keyed) = (bench.made(KeyUse::Aes { bits: 128 }), bench.made(KeyUse::Keyed));
    bench.swtpm.take_record();
    std::thread::scope(|scope| {
        let long = scope.spawn(|| {
            let cfb = (CipherMode::Cfb, Direction::Encrypt);
            bench.cipher(&aes, cfb, &mut [0; 16], &vec![0; 1 << 20])
        });
        while !long.is_finished() {
            bench.mac(&keyed, HashAlgorithm::Sha1, b"short");
        }
        assert_eq!(long.join().unwrap().len(), 1 << 20);
    });
    let record = bench.swtpm.take_record();
    let mut longest = 0;
    let mut run = 0;
    for code in record.into_iter().filter(|code| [ENCRYPT_DECRYPT_2, HMAC].contains(code)) {
        run = if code == ENCRYPT_DECRYPT_2 { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    // At the ends the other thread may not be there.
    assert!(longest < 1024 / 2, "{longest} buffers without a break");
}

#[test]
fn plaintexts_messages_and_values_never_cross_the_bus_in_clear() {
    let bench = Bench::start();
    let secret = *b"nobody on the bus may read this!";
    let aes = bench.given(KeyUse::Aes { bits: 256 }, &secret).unwrap();
    let cbc = |direction| (CipherMode::Cbc, direction);
    let there = bench.cipher(&aes, cbc(Direction::Encrypt), &mut [0; 16], &secret);
    bench.cipher(&aes, cbc(Direction::Decrypt), &mut [0; 16], &there);
    let keyed = bench.given(KeyUse::Keyed, &secret).unwrap();
    let mac = bench.mac(&keyed, HashAlgorithm::Sha256, &secret);
    let long = secret.repeat(100);
    let long_mac = bench.mac(&keyed, HashAlgorithm::Sha256, &long);
    let sealed = bench.given(KeyUse::Sealed, &secret).unwrap();
    let opened = bench.tpm.unseal(&bench.tpm.call(), &sealed).unwrap();
    assert_eq!(opened.as_slice(), secret);
    // CBC shows its last block.
    let there = &there[..16];
    for hidden in [&secret[..], there, &mac, &long_mac, &AUTH[..30]] {
        for part in hidden.chunks_exact(8) {
            assert!(!bench.swtpm.showed(part), "{part:x?}");
        }
    }
    // The look itself can find something: a public area crosses in clear.
    assert!(bench.swtpm.showed(&aes.blob.public));
}

#[test]
fn no_block_of_a_key_stream_or_of_a_chain_for_secrets_crosses_the_bus_in_clear() {
    let bench = Bench::start();
    let (call, value) = (bench.tpm.call(), bytes(16));
    let key = bench.given(KeyUse::Aes { bits: 128 }, &value).unwrap();
    let ours = Aes::new(&value);
    for length in [16, 1008, 1024, 5008] {
        let (input, iv) = (bytes(length), [0xC3; 16]);
        let mut next = iv;
        let chained = bench.tpm.chain(&call, &key, &mut next, &input).unwrap();
        assert!(*chained == ours.encrypt(CipherMode::Cbc, iv, &input), "{length}");
        assert_eq!(next, chained[length - 16..]);
        let stream = ours.encrypt(CipherMode::Ofb, iv, &vec![0; length]);
        for direction in [Direction::Encrypt, Direction::Decrypt] {
            bench.cipher(&key, (CipherMode::Ofb, direction), &mut iv.clone(), &input);
        }
        for block in chained.chunks_exact(16).chain(stream.chunks_exact(16)) {
            assert!(!bench.swtpm.showed(block), "of {length}");
        }
    }
    let chain = || drop(bench.tpm.chain(&call, &key, &mut [0; 16], &bytes(1008)).unwrap());
    assert_eq!(bench.warm(chain), [ENCRYPT_DECRYPT_2]);
    assert!(bench.tpm.chain(&call, &key, &mut [0; 16], &bytes(17)).is_err());
}

#[test]
fn behind_a_resource_manager_secret_keys_work_as_on_a_bare_tpm() {
    let bench = Bench::managed();
    let value = bytes(32);
    let keyed = bench.given(KeyUse::Keyed, &value).unwrap();
    for length in [10, 5000] {
        let there = bench.mac(&keyed, HashAlgorithm::Sha512, &bytes(length));
        assert_eq!(there, hmac(HashAlgorithm::Sha512, &value, &bytes(length)));
    }
    bench.tpm.end();
    let aes = bench.given(KeyUse::Aes { bits: 128 }, &bytes(16)).unwrap();
    let ofb = (CipherMode::Ofb, Direction::Encrypt);
    let there = bench.cipher(&aes, ofb, &mut [0; 16], &bytes(20_000));
    assert!(there == Aes::new(&bytes(16)).encrypt(CipherMode::Ofb, [0; 16], &bytes(20_000)));
}

#[test]
fn a_key_that_gets_another_object_is_not_taken_for_the_one_before() {
    for bench in [Bench::start(), Bench::managed()] {
        let others: Vec<Key> = (0..2).map(|_| bench.made(KeyUse::Keyed)).collect();
        let with_id = |value: &[u8]| {
            let key = bench.given(KeyUse::Keyed, value).unwrap();
            let blob = KeyBlob { id: [7; 16], ..(*key.blob).clone() };
            Key { blob: Arc::new(blob), ..key }
        };
        let (before, after) = (with_id(b"before"), with_id(b"after"));
        let hash = HashAlgorithm::Sha256;
        for _ in 0..2 {
            // From its blob, then from its saved context.
            assert_eq!(bench.mac(&before, hash, b""), hmac(hash, b"before", b""));
            assert_eq!(bench.mac(&after, hash, b""), hmac(hash, b"after", b""));
            if !bench.tpm.is_managed() {
                others.iter().for_each(|other| drop(bench.mac(other, hash, b"")));
            }
        }
    }
}

#[test]
fn a_number_is_padded_and_never_cut() {
    assert_eq!(**padded(&[1, 2], 4).unwrap(), [0, 0, 1, 2]);
    assert_eq!(**padded(&[0, 0, 1, 2], 2).unwrap(), [1, 2]);
    assert!(padded(&[1, 2, 3], 2).is_err());
}
