//! Group C: keys that come from keys.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use cryptoki_sys::*;
use swtpm_tests::Attribute;
use swtpm_tests::ck::{Mechanism, P256, Salt, bytes, flag, number, prescribes};
use swtpm_tests::door::Memory;
use swtpm_tests::openssl;

use super::attacker::{Attacker, KNOWN, Key, OWN, SECRET, Step, Stop, Verdict, letters, said};
use super::{Case, cases};

pub static CASES: &[Case] = cases![
    c01_byte_by_byte
    c01_byte_by_byte_where_it_is_allowed
    c02_a_short_key_with_data_behind_it
    c02_a_short_key_with_data_before_it
    c02_short_keys_where_they_are_allowed
    c03_the_same_value_with_other_roles
    c04_a_secret_behind_an_open_key
    c04_a_secret_before_an_open_key
    c05_two_keys_that_differ_as_the_attacker_says
    c06_encrypt_what_was_derived_by_encryption
    c07_encrypt_what_was_derived_by_cbc
    c07_decrypt_for_data_that_give_a_known_key
    c08_digest_what_was_derived_by_hashing
    c09_sign_what_hkdf_expands
    c09_sign_with_a_copy_that_went_out_and_in
    c09_sign_with_the_original_of_a_key_that_came_in_to_derive
    c10_hkdf_data_beside_an_hkdf_key
    c10_hkdf_data_beside_an_hkdf_key_where_both_are_allowed
    c11_sign_what_sp_800_108_computes
    c11_sign_what_sp_800_108_computes_with_cmac
    c11_sign_what_sp_800_108_feeds_back
    c11_sign_what_sp_800_108_feeds_back_with_cmac
    c12_an_agreement_twice
    c12_an_agreement_twice_where_the_key_prescribes
    c12_byte_by_byte_where_the_template_keeps_the_key
    c13_points_that_are_none
    c14_montgomery_points_of_small_order
    c15_open_by_xor
    c15_open_by_concatenation
    c15_open_by_extraction
    c15_open_by_hashing
    c15_open_by_hkdf
    c15_open_by_a_salt
    c15_open_by_sp_800_108
    c15_open_by_encryption
    c15_open_by_any_other_derivation
    c16_bring_a_history_along
    c17_against_the_prescription
    c17_the_template_of_a_salt_key
    c18_become_something_else
    c19_more_than_the_public_key
    c20_ivs_that_are_another_key
    c20_ivs_that_are_another_key_of_a_master_secret_made_here
    c20_a_mac_that_is_another_key
    c21_groups_of_small_order
    c22_digest_a_sensitive_key
];

/// CK_KEY_DERIVATION_STRING_DATA
pub fn string_data(mechanism: u64, data: &[u8]) -> Mechanism {
    let mut parameter = Memory::default();
    parameter.push_pointer(Memory::of(data));
    parameter.push_word(data.len() as u64);
    Mechanism::with(mechanism, parameter)
}

/// CK_AES_CBC_ENCRYPT_DATA_PARAMS
fn cbc_data(iv: &[u8; 16], data: &[u8]) -> Mechanism {
    let mut parameter = Memory::of(*iv);
    parameter.push_pointer(Memory::of(data));
    parameter.push_word(data.len() as u64);
    Mechanism::with(CKM_AES_CBC_ENCRYPT_DATA, parameter)
}

fn extraction(bit: u64) -> Mechanism {
    Mechanism::with(CKM_EXTRACT_KEY_FROM_KEY, Memory::word(bit))
}

fn expansion(mechanism: u64, info: &[u8]) -> Mechanism {
    Mechanism::hkdf(mechanism, CKM_SHA256, None, Some(info))
}

/// The counter mode of SP 800-108: a counter of 32 bits, then the data.
fn counter_kdf(data: &[u8]) -> Mechanism {
    counter_kdf_of(CKM_SHA256_HMAC, data)
}

fn counter_kdf_of(prf: u64, data: &[u8]) -> Mechanism {
    let mut format = Memory::of([0; 8]);
    format.push_word(32);
    let fields =
        [(CK_SP800_108_ITERATION_VARIABLE, format), (CK_SP800_108_BYTE_ARRAY, Memory::of(data))];
    Mechanism::sp800(CKM_SP800_108_COUNTER_KDF, prf, &fields, &[], &[])
}

/// A derived key of this many bytes with these letters.
fn wanted(length: u64, given: &str) -> Vec<Attribute> {
    let mut template = vec![number(CKA_VALUE_LEN, length)];
    template.extend(letters(given, SECRET));
    template
}

fn c01_byte_by_byte(at: &Attacker) -> Verdict {
    byte_by_byte(at, &owned(at, &[])?)
}

fn c01_byte_by_byte_where_it_is_allowed(at: &Attacker) -> Verdict {
    byte_by_byte(at, &owned(at, &[CKM_EXTRACT_KEY_FROM_KEY])?)
}

/// A secret that derives; its owner knows it, so that the judge does.
fn owned(at: &Attacker, allowed: &[u64]) -> Step<Key> {
    let mut template = vec![number(CKA_KEY_TYPE, at.data().0), bytes(CKA_VALUE, OWN)];
    if !allowed.is_empty() {
        let list: Vec<u8> = allowed.iter().flat_map(|kind| kind.to_ne_bytes()).collect();
        template.push(bytes(CKA_ALLOWED_MECHANISMS, list));
    }
    template.extend(letters("sD", SECRET));
    at.create(CKO_SECRET_KEY, &template)
}

fn byte_by_byte(at: &Attacker, secret: &Key) -> Verdict {
    let mut value = Vec::new();
    for index in 0..16 {
        let byte =
            at.derive(extraction(8 * index), secret, CKK_GENERIC_SECRET, &wanted(1, "sS"))?;
        let mac = at.sign(CKM_SHA256_HMAC, &byte, b"data")?;
        value.extend((0..=u8::MAX).find(|byte| openssl::hmac("sha256", &[*byte], b"data") == mac));
    }
    Ok(value == OWN)
}

fn short_with_data(at: &Attacker, mechanism: u64) -> Verdict {
    let secret = at.import(at.data().0, &OWN, "sD")?;
    let mechanism = string_data(mechanism, b"\0");
    let short = at.derive(mechanism, &secret, CKK_GENERIC_SECRET, &wanted(2, "sS"))?;
    let mac = at.sign(CKM_SHA256_HMAC, &short, b"data")?;
    let found = (0..=u16::MAX).any(|word| {
        let [one, other] = word.to_be_bytes();
        openssl::hmac("sha256", &[one, other], b"data") == mac
    });
    Ok(found)
}

fn c02_a_short_key_with_data_behind_it(at: &Attacker) -> Verdict {
    short_with_data(at, CKM_CONCATENATE_BASE_AND_DATA)
}

fn c02_a_short_key_with_data_before_it(at: &Attacker) -> Verdict {
    short_with_data(at, CKM_CONCATENATE_DATA_AND_BASE)
}

/// Any that is shorter than 16 bytes.
fn c02_short_keys_where_they_are_allowed(at: &Attacker) -> Verdict {
    let kinds = [CKM_CONCATENATE_BASE_AND_DATA, CKM_CONCATENATE_DATA_AND_BASE];
    let secret = owned(at, &kinds)?;
    let mut last = Ok(false);
    for (kind, length) in kinds.iter().flat_map(|kind| (1..16).rev().map(move |at| (*kind, at))) {
        let mechanism = string_data(kind, b"\0");
        match at.derive(mechanism, &secret, CKK_GENERIC_SECRET, &wanted(length, "sS")) {
            Ok(_) => return Ok(true),
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn c03_the_same_value_with_other_roles(at: &Attacker) -> Verdict {
    let (target, secret) = (at.target()?, at.aes(16, "sD")?);
    let zeros = string_data(CKM_XOR_BASE_AND_DATA, &[0; 16]);
    let wraps = at.derive(zeros.clone(), &secret, CKK_AES, &wanted(16, "sw"))?;
    let decrypts = at.derive(zeros, &secret, CKK_AES, &wanted(16, "sd"))?;
    let blob = at.wrap_by(&wraps, &target)?;
    let value = at.undone(&decrypts, &blob)?;
    at.is_value(&target, &value)
}

fn concatenated(at: &Attacker, base: &Key, second: &Key) -> Verdict {
    let joined = at.derive_with(
        second,
        |second| Mechanism::with(CKM_CONCATENATE_BASE_AND_KEY, Memory::word(second)),
        base,
        &[
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            flag(CKA_SENSITIVE, false),
            flag(CKA_EXTRACTABLE, true),
        ],
    )?;
    let value = at.get(&joined, CKA_VALUE)?;
    Ok(value.windows(16).any(|window| window == OWN))
}

fn c04_a_secret_behind_an_open_key(at: &Attacker) -> Verdict {
    let open = at.import(CKK_GENERIC_SECRET, &KNOWN, "xD")?;
    let secret = at.import(at.data().0, &OWN, "sD")?;
    concatenated(at, &open, &secret)
}

fn c04_a_secret_before_an_open_key(at: &Attacker) -> Verdict {
    let open = at.import(CKK_GENERIC_SECRET, &KNOWN, "xD")?;
    let secret = at.import(at.data().0, &OWN, "sD")?;
    concatenated(at, &secret, &open)
}

fn c05_two_keys_that_differ_as_the_attacker_says(at: &Attacker) -> Verdict {
    let secret = at.aes(16, "sD")?;
    let other = |delta: &[u8]| {
        let mechanism = string_data(CKM_XOR_BASE_AND_DATA, delta);
        at.derive(mechanism, &secret, CKK_AES, &wanted(16, "se"))
    };
    let (one, other) = (other(&[0; 16])?, other(&[1; 16])?);
    let block = |key: &Key| at.encrypt(CKM_AES_ECB, key, &[0; 16]);
    // Related keys are had: that is what this is about.
    Ok(block(&one)? != block(&other)?)
}

fn c06_encrypt_what_was_derived_by_encryption(at: &Attacker) -> Verdict {
    let key = at.aes(16, "seD")?;
    let mechanism = string_data(CKM_AES_ECB_ENCRYPT_DATA, &KNOWN);
    let derived = at.derive(mechanism, &key, CKK_GENERIC_SECRET, &wanted(16, "sS"))?;
    let value = at.encrypt(CKM_AES_ECB, &key, &KNOWN)?;
    at.is_mac_key(&derived, &value)
}

fn c07_encrypt_what_was_derived_by_cbc(at: &Attacker) -> Verdict {
    let key = at.aes(16, "seD")?;
    let mechanism = cbc_data(&[3; 16], &KNOWN);
    let derived = at.derive(mechanism, &key, CKK_GENERIC_SECRET, &wanted(16, "sS"))?;
    let value = at.encrypt(Mechanism::bytes(CKM_AES_CBC, &[3; 16]), &key, &KNOWN)?;
    at.is_mac_key(&derived, &value)
}

/// The attacker wants this value, and has the key find the data that give it.
fn c07_decrypt_for_data_that_give_a_known_key(at: &Attacker) -> Verdict {
    let key = at.aes(16, "sdD")?;
    let data = at.decrypt(Mechanism::bytes(CKM_AES_CBC, &[3; 16]), &key, &KNOWN)?;
    let mechanism = cbc_data(&[3; 16], &data);
    let derived = at.derive(mechanism, &key, CKK_GENERIC_SECRET, &wanted(16, "sS"))?;
    at.is_mac_key(&derived, &KNOWN)
}

fn c08_digest_what_was_derived_by_hashing(at: &Attacker) -> Verdict {
    let key = at.generate(at.data().1, 32, "sD", &[])?;
    let digest = at.digest_of(&key);
    let derived =
        at.derive(CKM_SHA256_KEY_DERIVATION, &key, CKK_GENERIC_SECRET, &wanted(32, "sS"))?;
    at.is_mac_key(&derived, &digest?)
}

fn c09_sign_what_hkdf_expands(at: &Attacker) -> Verdict {
    let key = at.generic("sDS")?;
    let mechanism = expansion(CKM_HKDF_DERIVE, b"info");
    let derived = at.derive(mechanism, &key, CKK_GENERIC_SECRET, &wanted(32, "sS"))?;
    let value = at.sign(CKM_SHA256_HMAC, &key, b"info\x01")?;
    at.is_mac_key(&derived, &value)
}

fn c09_sign_with_a_copy_that_went_out_and_in(at: &Attacker) -> Verdict {
    let (key, by) = (at.generic("sxD")?, at.aes(32, "swu")?);
    let mechanism = expansion(CKM_HKDF_DERIVE, b"info");
    let derived = at.derive(mechanism, &key, CKK_GENERIC_SECRET, &wanted(32, "sS"))?;
    let blob = at.wrap_by(&by, &key)?;
    let secret = (CKO_SECRET_KEY, CKK_GENERIC_SECRET);
    let signs = [flag(CKA_SIGN, true)];
    let copy = at.unwrap_by(&by, &blob, secret, &signs)?;
    let value = at.sign(CKM_SHA256_HMAC, &copy, b"info\x01")?;
    at.is_mac_key(&derived, &value)
}

fn c09_sign_with_the_original_of_a_key_that_came_in_to_derive(at: &Attacker) -> Verdict {
    let by = at.generate(
        CKM_AES_KEY_GEN,
        16,
        "swu",
        &[prescribes(CKA_UNWRAP_TEMPLATE, &[flag(CKA_DERIVE, true)])],
    )?;
    let key = at.generate(CKM_GENERIC_SECRET_KEY_GEN, 16, "sxS", &[])?;
    let blob = at.wrap_by(&by, &key)?;
    let stays = [flag(CKA_EXTRACTABLE, false)];
    let copy = at.unwrap_by(&by, &blob, (CKO_SECRET_KEY, CKK_GENERIC_SECRET), &stays)?;
    let mechanism = expansion(CKM_HKDF_DERIVE, b"info");
    let derived = at.derive(mechanism, &copy, CKK_GENERIC_SECRET, &wanted(32, "sS"))?;
    let value = at.sign(CKM_SHA256_HMAC, &key, b"info\x01")?;
    at.is_mac_key(&derived, &value)
}

fn hkdf_data(at: &Attacker, key: &Key) -> Verdict {
    let mechanism = expansion(CKM_HKDF_DERIVE, b"info");
    let derived = at.derive(mechanism, key, CKK_GENERIC_SECRET, &wanted(32, "sS"))?;
    let data = at.derive_of(
        expansion(CKM_HKDF_DATA, b"info"),
        key,
        CKO_DATA,
        &[number(CKA_CLASS, CKO_DATA), number(CKA_VALUE_LEN, 32)],
    )?;
    let value = at.get(&data, CKA_VALUE)?;
    at.is_mac_key(&derived, &value)
}

fn c10_hkdf_data_beside_an_hkdf_key(at: &Attacker) -> Verdict {
    hkdf_data(at, &at.generic("sD")?)
}

fn allowing(at: &Attacker, given: &str, mechanisms: &[u64]) -> Step<Key> {
    let list: Vec<u8> = mechanisms.iter().flat_map(|kind| kind.to_ne_bytes()).collect();
    let more = [bytes(CKA_ALLOWED_MECHANISMS, list)];
    at.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, given, &more)
}

fn c10_hkdf_data_beside_an_hkdf_key_where_both_are_allowed(at: &Attacker) -> Verdict {
    hkdf_data(at, &allowing(at, "sD", &[CKM_HKDF_DERIVE, CKM_HKDF_DATA])?)
}

fn c11_sign_what_sp_800_108_computes(at: &Attacker) -> Verdict {
    let key = at.generic("sDS")?;
    let mechanism = counter_kdf(b"label");
    let derived = at.derive(mechanism, &key, CKK_GENERIC_SECRET, &wanted(32, "sS"))?;
    let value = at.sign(CKM_SHA256_HMAC, &key, b"\0\0\0\x01label")?;
    at.is_mac_key(&derived, &value)
}

fn c11_sign_what_sp_800_108_computes_with_cmac(at: &Attacker) -> Verdict {
    let key = at.aes(16, "sDS")?;
    let mechanism = counter_kdf_of(CKM_AES_CMAC, b"label");
    let derived = at.derive(mechanism, &key, CKK_GENERIC_SECRET, &wanted(16, "sS"))?;
    let value = at.sign(CKM_AES_CMAC, &key, b"\0\0\0\x01label")?;
    at.is_mac_key(&derived, &value)
}

/// The feedback mode without a counter: what is fed back, then the data.
fn fed_back(at: &Attacker, key: &Key, prf: u64, length: u64) -> Verdict {
    let fields = [
        (CK_SP800_108_ITERATION_VARIABLE, Memory::default()),
        (CK_SP800_108_BYTE_ARRAY, Memory::of(*b"label")),
    ];
    let mechanism = Mechanism::sp800(CKM_SP800_108_FEEDBACK_KDF, prf, &fields, b"first", &[]);
    let derived = at.derive(mechanism, key, CKK_GENERIC_SECRET, &wanted(length, "sS"))?;
    let value = at.sign(prf, key, b"firstlabel")?;
    at.is_mac_key(&derived, &value)
}

fn c11_sign_what_sp_800_108_feeds_back(at: &Attacker) -> Verdict {
    fed_back(at, &at.generic("sDS")?, CKM_SHA256_HMAC, 32)
}

fn c11_sign_what_sp_800_108_feeds_back_with_cmac(at: &Attacker) -> Verdict {
    fed_back(at, &at.aes(16, "sDS")?, CKM_AES_CMAC, 16)
}

/// The point of a pair that the attacker has.
fn peer() -> Vec<u8> {
    let info = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]).info();
    info[info.len() - 65..].to_vec()
}

fn agreed_twice(at: &Attacker, private: &Key) -> Verdict {
    let target = at.target()?;
    let peer = peer();
    let ecdh = || Mechanism::ecdh(CKD_NULL, &[], &peer);
    let hidden = at.derive(ecdh(), private, CKK_AES, &wanted(16, "sw"))?;
    let open = at.derive(ecdh(), private, CKK_AES, &wanted(16, "xe"))?;
    let value = at.get(&open, CKA_VALUE)?;
    let blob = at.wrap_by(&hidden, &target)?;
    at.is_value(&target, &blob.opened(&value)?)
}

fn c12_an_agreement_twice(at: &Attacker) -> Verdict {
    let (_, private) = at.ec("sD", &[])?;
    agreed_twice(at, &private)
}

fn c12_an_agreement_twice_where_the_key_prescribes(at: &Attacker) -> Verdict {
    let private = prescribing(at, &[flag(CKA_SENSITIVE, true)])?;
    agreed_twice(at, &private)
}

/// Of the secret a key gets the last bytes: each length tells one more.
fn c12_byte_by_byte_where_the_template_keeps_the_key(at: &Attacker) -> Verdict {
    let private = prescribing(at, &[flag(CKA_EXTRACTABLE, false)])?;
    let peer = peer();
    let ecdh = || Mechanism::ecdh(CKD_NULL, &[], &peer);
    let hidden = at.derive(ecdh(), &private, CKK_AES, &wanted(16, "se"))?;
    let mut value = Vec::new();
    for length in 1..=16 {
        let short = at.derive(ecdh(), &private, CKK_GENERIC_SECRET, &wanted(length, "sS"))?;
        let mac = at.sign(CKM_SHA256_HMAC, &short, b"data")?;
        let mut guesses = (0..=u8::MAX).map(|byte| [&[byte][..], &value].concat());
        let Some(known) = guesses.find(|guess| openssl::hmac("sha256", guess, b"data") == mac)
        else {
            return Ok(false);
        };
        value = known;
    }
    at.is_value(&hidden, &value)
}

/// An EC private key that derives, with this CKA_DERIVE_TEMPLATE.
fn prescribing(at: &Attacker, prescribed: &[Attribute]) -> Step<Key> {
    let private = [
        flag(CKA_DERIVE, true),
        flag(CKA_SIGN, false),
        prescribes(CKA_DERIVE_TEMPLATE, prescribed),
    ];
    let made = at.pair(CKM_EC_KEY_PAIR_GEN, &[bytes(CKA_EC_PARAMS, P256)], &private);
    made.map(|(_, private)| private)
}

fn c13_points_that_are_none(at: &Attacker) -> Verdict {
    let (_, private) = at.ec("sD", &[])?;
    let good = peer();
    let mut off = good.clone();
    off[64] ^= 1;
    let other_curve = openssl::Key::generate("EC", &["ec_paramgen_curve:P-384"]).info();
    let hybrid = [&[6 + (good[64] & 1)][..], &good[1..]].concat();
    let bad: [Vec<u8>; 12] = [
        off.clone(),
        [&[4][..], &[0xFF; 32], &good[33..]].concat(),
        vec![0],
        vec![0; 65],
        [&good[..], &[0]].concat(),
        good[..64].to_vec(),
        other_curve[other_curve.len() - 97..].to_vec(),
        // x = 1 has no y on P-256.
        [&[2][..], &[0; 31], &[1]].concat(),
        hybrid,
        [&[4, 65][..], &off].concat(),
        vec![],
        vec![4; 1 << 20],
    ];
    let mut last = Ok(false);
    // Only on a TPM that nobody else uses does its record say something.
    let mark = at.bench.shim.mark();
    let alone = at.handle(0, &private)?;
    let (app, session) = at.first();
    for point in &bad {
        let template =
            [number(CKA_CLASS, CKO_SECRET_KEY), number(CKA_KEY_TYPE, CKK_GENERIC_SECRET)];
        let ecdh = Mechanism::ecdh(CKD_NULL, &[], point);
        match said("C_DeriveKey", app.derive(session, ecdh, alone, &template)) {
            Ok(_) => return Ok(true),
            Err(stop) => last = Err(stop),
        }
    }
    let sent = at.bench.shim.since(mark);
    let compressed = [&[2 + (good[64] & 1)][..], &good[1..33]].concat();
    for right in [good.clone(), compressed, [&[4, 65][..], &good].concat()] {
        let template =
            [number(CKA_CLASS, CKO_SECRET_KEY), number(CKA_KEY_TYPE, CKK_GENERIC_SECRET)];
        let ecdh = Mechanism::ecdh(CKD_NULL, &[], &right);
        said("C_DeriveKey", app.derive(session, ecdh, alone, &template))?;
    }
    assert!(!sent.names().contains(&"ECDH_ZGen"), "{}", sent.lines());
    last
}

fn c14_montgomery_points_of_small_order(at: &Attacker) -> Verdict {
    at.needs(CKM_EC_MONTGOMERY_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR)?;
    Err(Stop::Thwarted("the token has curves for which there is no attack here yet"))
}

/// From a base that is sensitive and one that cannot be extracted, both of which name the mechanism: what
/// can be read.
fn open(at: &Attacker, key_type: u64, mechanism: &Mechanism) -> Verdict {
    let make = if key_type == CKK_AES { CKM_AES_KEY_GEN } else { CKM_GENERIC_SECRET_KEY_GEN };
    let allowed = [number(CKA_ALLOWED_MECHANISMS, mechanism.kind)];
    let mut last = Ok(false);
    for (given, asked) in [("sD", "D"), ("sD", "xD"), ("D", "xD")] {
        let base = at.generate(make, 32, given, &allowed)?;
        let derived = at.derive(mechanism.clone(), &base, CKK_GENERIC_SECRET, &wanted(16, asked));
        match derived.and_then(|derived| at.get(&derived, CKA_VALUE)) {
            Ok(_) => return Ok(true),
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn c15_open_by_xor(at: &Attacker) -> Verdict {
    open(at, at.data().0, &string_data(CKM_XOR_BASE_AND_DATA, &[0; 32]))
}

fn c15_open_by_concatenation(at: &Attacker) -> Verdict {
    open(at, at.data().0, &string_data(CKM_CONCATENATE_BASE_AND_DATA, b"data"))
}

fn c15_open_by_extraction(at: &Attacker) -> Verdict {
    open(at, at.data().0, &extraction(0))
}

fn c15_open_by_hashing(at: &Attacker) -> Verdict {
    open(at, at.data().0, &CKM_SHA256_KEY_DERIVATION.into())
}

fn c15_open_by_hkdf(at: &Attacker) -> Verdict {
    open(at, CKK_GENERIC_SECRET, &expansion(CKM_HKDF_DERIVE, b"info"))
}

fn c15_open_by_a_salt(at: &Attacker) -> Verdict {
    let (salt, known) = (at.generic("sD")?, at.import(CKK_GENERIC_SECRET, &KNOWN, "xD")?);
    let made = at.derive_with(
        &salt,
        |salt| Mechanism::hkdf(CKM_HKDF_DERIVE, CKM_SHA256, Some(Salt::Key(salt)), None),
        &known,
        &[
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            number(CKA_VALUE_LEN, 32),
            flag(CKA_SENSITIVE, false),
            flag(CKA_EXTRACTABLE, true),
        ],
    )?;
    at.get(&made, CKA_VALUE).map(|_| true)
}

fn c15_open_by_sp_800_108(at: &Attacker) -> Verdict {
    open(at, CKK_GENERIC_SECRET, &counter_kdf(b"label"))
}

fn c15_open_by_encryption(at: &Attacker) -> Verdict {
    open(at, CKK_AES, &string_data(CKM_AES_ECB_ENCRYPT_DATA, &KNOWN))
}

/// Whatever derives and has no case of its own above.
fn c15_open_by_any_other_derivation(at: &Attacker) -> Verdict {
    let (app, session) = at.first();
    let randoms: [&[u8]; 2] = [&[1; 32], &[2; 32]];
    let mut last = Ok(false);
    let mut kinds = said("C_GetMechanismList", app.mechanisms(at.slot()))?;
    kinds.retain(|kind| at.needs(*kind, CKF_DERIVE).is_ok());
    // A base names all of them.
    let list: Vec<u8> = kinds.iter().flat_map(|kind| kind.to_ne_bytes()).collect();
    let allowed = [bytes(CKA_ALLOWED_MECHANISMS, list)];
    let mut bases = BTreeMap::new();
    for kind in kinds {
        let mechanism = match kind {
            // Base keys are key pairs, what comes is public, or there is a case above.
            CKM_ECDH1_DERIVE
            | CKM_ECDH1_COFACTOR_DERIVE
            | CKM_PUB_KEY_FROM_PRIV_KEY
            | CKM_HKDF_DATA
            | CKM_CONCATENATE_BASE_AND_KEY => continue,
            CKM_EXTRACT_KEY_FROM_KEY => extraction(0),
            CKM_XOR_BASE_AND_DATA
            | CKM_CONCATENATE_BASE_AND_DATA
            | CKM_CONCATENATE_DATA_AND_BASE
            | CKM_AES_ECB_ENCRYPT_DATA => string_data(kind, &[0; 32]),
            CKM_AES_CBC_ENCRYPT_DATA => cbc_data(&[3; 16], &[0; 32]),
            CKM_HKDF_DERIVE => expansion(kind, b"info"),
            CKM_SP800_108_COUNTER_KDF => counter_kdf(b"label"),
            CKM_SP800_108_FEEDBACK_KDF | CKM_SP800_108_DOUBLE_PIPELINE_KDF => {
                let fields = [
                    (CK_SP800_108_ITERATION_VARIABLE, Memory::default()),
                    (CK_SP800_108_BYTE_ARRAY, Memory::of(*b"label")),
                ];
                Mechanism::sp800(kind, CKM_SHA256_HMAC, &fields, b"", &[])
            }
            CKM_TLS12_MASTER_KEY_DERIVE | CKM_TLS12_MASTER_KEY_DERIVE_DH => {
                let version = kind == CKM_TLS12_MASTER_KEY_DERIVE;
                Mechanism::tls_master(kind, CKM_SHA256, randoms, version)
            }
            CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE | CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH => {
                let version = kind == CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE;
                Mechanism::tls_extended(kind, CKM_SHA256, &[5; 32], version)
            }
            CKM_TLS12_KEY_AND_MAC_DERIVE => {
                Mechanism::tls_block(kind, CKM_SHA256, randoms, [256, 128, 128], 16)
            }
            CKM_TLS12_KEY_SAFE_DERIVE => {
                Mechanism::tls_block(kind, CKM_SHA256, randoms, [256, 128, 0], 0)
            }
            CKM_TLS_KDF | CKM_TLS12_KDF => {
                Mechanism::tls_export(kind, CKM_SHA256, b"EXPORTER", randoms, b"")
            }
            _ if hashes().contains(&kind) => kind.into(),
            other => panic!("nobody tries to read what derivation {other:#x} gives"),
        };
        let make = match kind {
            CKM_AES_ECB_ENCRYPT_DATA | CKM_AES_CBC_ENCRYPT_DATA => CKM_AES_KEY_GEN,
            _ if takes_bytes(kind) => at.data().1,
            _ => CKM_GENERIC_SECRET_KEY_GEN,
        };
        let of_tls = of_tls(kind);
        let length = if of_tls { 48 } else { 32 };
        let block = [CKM_TLS12_KEY_AND_MAC_DERIVE, CKM_TLS12_KEY_SAFE_DERIVE].contains(&kind);
        for (given, asked) in [("sD", "D"), ("sD", "xD"), ("D", "xD")] {
            let handle = match bases.entry((make, length, given)) {
                Entry::Occupied(base) => *base.get(),
                Entry::Vacant(none) => {
                    let base = at.generate(make, length, given, &allowed)?;
                    *none.insert(at.handle(0, &base)?)
                }
            };
            let mut template = vec![
                number(CKA_CLASS, CKO_SECRET_KEY),
                number(CKA_KEY_TYPE, if block { CKK_AES } else { CKK_GENERIC_SECRET }),
                flag(CKA_TOKEN, at.on_token()),
                flag(CKA_SENSITIVE, asked.contains('s')),
                flag(CKA_EXTRACTABLE, asked.contains('x')),
            ];
            if !of_tls || [CKM_TLS_KDF, CKM_TLS12_KDF].contains(&kind) {
                template.push(number(CKA_VALUE_LEN, 16));
            }
            let made = match block {
                false => {
                    app.derive(session, mechanism.clone(), handle, &template).map(|key| vec![key])
                }
                true => {
                    let (rv, _, parameter) =
                        app.derive_into(session, &mechanism, handle, &template, false);
                    let (_, out) = parameter.pointers.last().expect("the keys");
                    let keys = (0..4).map(|index| out.word_at(8 * index)).collect();
                    if rv.0 == CKR_OK { Ok(keys) } else { Err(rv) }
                }
            };
            let keys = match said("C_DeriveKey", made) {
                Ok(keys) => keys,
                Err(stop) => {
                    last = Err(stop);
                    continue;
                }
            };
            for key in keys.into_iter().filter(|key| *key != 0) {
                match said("C_GetAttributeValue", app.attribute(session, key, CKA_VALUE)) {
                    Ok(_) => return Ok(true),
                    Err(stop) => last = Err(stop),
                }
            }
        }
    }
    last
}

/// CKM_x_KEY_DERIVATION
fn hashes() -> [u64; 13] {
    [
        CKM_SHA1_KEY_DERIVATION,
        CKM_SHA224_KEY_DERIVATION,
        CKM_SHA256_KEY_DERIVATION,
        CKM_SHA384_KEY_DERIVATION,
        CKM_SHA512_KEY_DERIVATION,
        CKM_SHA512_224_KEY_DERIVATION,
        CKM_SHA512_256_KEY_DERIVATION,
        CKM_SHA3_224_KEY_DERIVATION,
        CKM_SHA3_256_KEY_DERIVATION,
        CKM_SHA3_384_KEY_DERIVATION,
        CKM_SHA3_512_KEY_DERIVATION,
        CKM_SHAKE_128_KEY_DERIVATION,
        CKM_SHAKE_256_KEY_DERIVATION,
    ]
}

/// Whether a derivation works on the bytes of its base.
fn takes_bytes(kind: u64) -> bool {
    hashes().contains(&kind)
        || [
            CKM_EXTRACT_KEY_FROM_KEY,
            CKM_XOR_BASE_AND_DATA,
            CKM_CONCATENATE_BASE_AND_DATA,
            CKM_CONCATENATE_DATA_AND_BASE,
        ]
        .contains(&kind)
}

fn of_tls(kind: u64) -> bool {
    [
        CKM_TLS12_MASTER_KEY_DERIVE,
        CKM_TLS12_MASTER_KEY_DERIVE_DH,
        CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE,
        CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH,
        CKM_TLS12_KEY_AND_MAC_DERIVE,
        CKM_TLS12_KEY_SAFE_DERIVE,
        CKM_TLS_KDF,
        CKM_TLS12_KDF,
    ]
    .contains(&kind)
}

fn c16_bring_a_history_along(at: &Attacker) -> Verdict {
    let base = at.import(CKK_GENERIC_SECRET, &OWN, "xD")?;
    let mut last = Ok(false);
    for attribute in [
        bytes(CKA_VALUE, [7; 32]),
        flag(CKA_LOCAL, true),
        flag(CKA_ALWAYS_SENSITIVE, true),
        flag(CKA_NEVER_EXTRACTABLE, true),
    ] {
        let template = [wanted(32, "xD"), vec![attribute.clone()]].concat();
        let mechanism = expansion(CKM_HKDF_DERIVE, b"info");
        let derived = at.derive(mechanism, &base, CKK_GENERIC_SECRET, &template);
        match derived.and_then(|derived| at.get(&derived, attribute.kind)) {
            Ok(value) if value == attribute.value => return Ok(true),
            Ok(_) => {}
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn c17_against_the_prescription(at: &Attacker) -> Verdict {
    let private = prescribing(at, &[flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)])?;
    let ecdh = || Mechanism::ecdh(CKD_NULL, &[], &peer());
    let silent = at.derive(ecdh(), &private, CKK_AES, &[number(CKA_VALUE_LEN, 16)])?;
    if !at.is(&silent, CKA_SENSITIVE)? || at.is(&silent, CKA_EXTRACTABLE)? {
        return Ok(true);
    }
    let open = at.derive(ecdh(), &private, CKK_AES, &wanted(16, "xe"))?;
    at.get(&open, CKA_VALUE).map(|_| true)
}

/// What an extraction makes of readable bytes under a salt is a block of what the salt's key expands to.
fn c17_the_template_of_a_salt_key(at: &Attacker) -> Verdict {
    let no_data = [flag(CKA_ENCRYPT, false), flag(CKA_DECRYPT, false)];
    let only = [prescribes(CKA_DERIVE_TEMPLATE, &no_data)];
    let salt = at.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, "sD", &only)?;
    let readable = at.import(CKK_GENERIC_SECRET, b"label\x01", "xD")?;
    let own = [number(CKA_CLASS, CKO_SECRET_KEY), number(CKA_KEY_TYPE, CKK_AES)];
    let made = at.derive_with(
        &salt,
        |salt| Mechanism::hkdf(CKM_HKDF_DERIVE, CKM_SHA256, Some(Salt::Key(salt)), None),
        &readable,
        &[&own[..], &wanted(32, "sed")].concat(),
    )?;
    let expanded =
        at.derive(expansion(CKM_HKDF_DERIVE, b"label"), &salt, CKK_AES, &wanted(32, "sS"))?;
    // The CMAC of a block tells whether both are one key.
    let double = |block: &[u8]| {
        let number = u128::from_be_bytes(block.try_into().expect("a block"));
        number << 1 ^ if number >> 127 == 1 { 0x87 } else { 0 }
    };
    let mask = double(&at.encrypt(CKM_AES_ECB, &made, &[0; 16])?).to_be_bytes();
    let value = at.encrypt(CKM_AES_ECB, &made, &mask)?;
    Ok(at.sign(CKM_AES_CMAC, &expanded, &[0; 16])? == value)
}

fn c18_become_something_else(at: &Attacker) -> Verdict {
    let base = at.import(CKK_GENERIC_SECRET, &OWN, "xD")?;
    let mut last = Ok(false);
    for (class, key_type) in [
        (CKO_SECRET_KEY, CKK_RSA),
        (CKO_SECRET_KEY, CKK_EC),
        (CKO_PRIVATE_KEY, CKK_EC),
        (CKO_PUBLIC_KEY, CKK_RSA),
        (CKO_CERTIFICATE, CKC_X_509),
    ] {
        let template = [number(CKA_CLASS, class), number(CKA_KEY_TYPE, key_type)];
        match at.derive_of(expansion(CKM_HKDF_DERIVE, b"info"), &base, class, &template) {
            Ok(_) => return Ok(true),
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn c19_more_than_the_public_key(at: &Attacker) -> Verdict {
    let own = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let template = [
        number(CKA_KEY_TYPE, CKK_EC),
        bytes(CKA_EC_PARAMS, P256),
        bytes(CKA_VALUE, own.number("priv")),
        flag(CKA_DERIVE, true),
    ];
    let private = at.create(CKO_PRIVATE_KEY, &template)?;
    let class = [number(CKA_CLASS, CKO_PUBLIC_KEY), number(CKA_KEY_TYPE, CKK_EC)];
    let public = at.derive_of(CKM_PUB_KEY_FROM_PRIV_KEY, &private, CKO_PUBLIC_KEY, &class)?;
    if at.get(&public, CKA_PUBLIC_KEY_INFO)? != own.info() {
        return Ok(true);
    }
    let (app, session) = at.first();
    let handle = at.handle(0, &public)?;
    let kinds: Vec<u64> = (0..2048).collect();
    let (_, told) = app.attributes(session, handle, &kinds);
    let number = own.number("priv");
    Ok(told.iter().flatten().any(|value| value.windows(number.len()).any(|part| part == number)))
}

/// Client's and server's random bytes, as CK_SSL3_RANDOM_DATA.
fn randoms(into: &mut Memory, client: &[u8], server: &[u8]) {
    into.push_bytes(client);
    into.push_bytes(server);
}

fn c20_ivs_that_are_another_key(at: &Attacker) -> Verdict {
    ivs_of(at, &at.generate(CKM_GENERIC_SECRET_KEY_GEN, 48, "sD", &[])?)
}

/// The mechanism gives the master secret a list of what it is for.
fn c20_ivs_that_are_another_key_of_a_master_secret_made_here(at: &Attacker) -> Verdict {
    let before = at.generate(CKM_GENERIC_SECRET_KEY_GEN, 48, "sD", &[])?;
    let mut parameter = Memory::default();
    randoms(&mut parameter, &[1; 32], &[2; 32]);
    parameter.push_word(0);
    parameter.push_word(CKM_SHA256);
    let mechanism = Mechanism::with(CKM_TLS12_MASTER_KEY_DERIVE_DH, parameter);
    let derives = [flag(CKA_SENSITIVE, true), flag(CKA_DERIVE, true)];
    ivs_of(at, &at.derive(mechanism, &before, CKK_GENERIC_SECRET, &derives)?)
}

fn ivs_of(at: &Attacker, master: &Key) -> Verdict {
    let (client, server) = ([1; 32], [2; 32]);
    // The key block of TLS 1.2 is PRF(master, "key expansion", server random, client random).
    let mut parameter = Memory::word(CKM_SHA256);
    parameter.push_bytes(b"key expansion");
    randoms(&mut parameter, &server, &client);
    parameter.push_bytes(&[]);
    let kdf =
        [CKM_TLS12_KDF, CKM_TLS_KDF].into_iter().find(|kind| at.needs(*kind, CKF_DERIVE) == Ok(()));
    let kdf = Mechanism::with(kdf.unwrap_or(CKM_TLS12_KDF), parameter);
    let derived = at.derive(kdf, master, CKK_GENERIC_SECRET, &wanted(32, "sS"))?;

    at.needs(CKM_TLS12_KEY_AND_MAC_DERIVE, CKF_DERIVE)?;
    let mut made = Memory::of([0; 32]);
    made.push_pointer(Memory::room(16));
    made.push_pointer(Memory::room(16));
    let mut parameter = Memory::default();
    for word in [0, 0, 128, 0] {
        parameter.push_word(word);
    }
    randoms(&mut parameter, &client, &server);
    parameter.push_pointer(made);
    parameter.push_word(CKM_SHA256);
    let mechanism = Mechanism::with(CKM_TLS12_KEY_AND_MAC_DERIVE, parameter).memory();
    let arguments = at.raw("C_DeriveKey", &[master], |session, keys| {
        vec![session.into(), mechanism.into(), keys[0].into(), 0.into(), 0.into(), 0.into()]
    })?;
    let parameter = &arguments[1].memory().pointers[0].1;
    let (_, made) = parameter.pointers.last().expect("the output");
    let ivs: Vec<u8> = made.pointers.iter().flat_map(|(_, iv)| iv.bytes.clone()).collect();
    at.is_mac_key(&derived, &ivs)
}

/// The message's hash is what the other mechanism calls random.
fn c20_a_mac_that_is_another_key(at: &Attacker) -> Verdict {
    let master = at.generate(CKM_GENERIC_SECRET_KEY_GEN, 48, "sDS", &[])?;
    let randoms: [&[u8]; 2] = [&[1; 16], &[2; 16]];
    let kdf = Mechanism::tls_export(CKM_TLS_KDF, CKM_SHA256, b"server finished", randoms, b"");
    let derived = at.derive(kdf, &master, CKK_GENERIC_SECRET, &wanted(12, "sS"))?;
    let mac = Mechanism::tls_mac(CKM_TLS12_MAC, CKM_SHA256, 12, 1);
    let value = at.sign(mac, &master, &randoms.concat())?;
    at.is_mac_key(&derived, &value)
}

fn c21_groups_of_small_order(at: &Attacker) -> Verdict {
    at.needs(CKM_DH_PKCS_DERIVE, CKF_DERIVE)?;
    Err(Stop::Thwarted("the token has groups for which there is no attack here yet"))
}

fn c22_digest_a_sensitive_key(at: &Attacker) -> Verdict {
    let mut last = Ok(false);
    for given in ["sx", "s", ""] {
        let key = at.import(at.data().0, &OWN, &format!("{given}Se"))?;
        match at.digest_of(&key) {
            Ok(digest) if digest == openssl::digest("sha256", &OWN) => return Ok(true),
            Ok(_) => {}
            Err(stop) => last = Err(stop),
        }
    }
    last
}
