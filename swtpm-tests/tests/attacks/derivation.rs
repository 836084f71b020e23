//! Group C: keys that come from keys.

use cryptoki_sys::*;
use swtpm_tests::Attribute;
use swtpm_tests::ck::{Mechanism, P256, Salt, bytes, flag, number};
use swtpm_tests::door::Memory;
use swtpm_tests::openssl;

use super::attacker::{
    Attacker, KNOWN, Key, OWN, SECRET, Step, Stop, Verdict, letters, opened, said,
};
use super::{Case, cases};

pub static CASES: &[Case] = cases![
    c01_byte_by_byte
    c02_a_short_key_with_data_behind_it
    c02_a_short_key_with_data_before_it
    c03_the_same_value_with_other_roles
    c04_a_secret_behind_an_open_key
    c04_a_secret_before_an_open_key
    c05_two_keys_that_differ_as_the_attacker_says
    c06_encrypt_what_was_derived_by_encryption
    c07_encrypt_what_was_derived_by_cbc
    c08_digest_what_was_derived_by_hashing
    c09_sign_what_hkdf_expands
    c09_sign_with_a_copy_that_went_out_and_in
    c10_hkdf_data_beside_an_hkdf_key
    c10_hkdf_data_beside_an_hkdf_key_where_both_are_allowed
    c11_sign_what_sp_800_108_computes
    c11_sign_what_sp_800_108_computes_with_cmac
    c12_an_agreement_twice
    c12_an_agreement_twice_where_the_key_prescribes
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
    c16_bring_a_history_along
    c17_against_the_prescription
    c18_become_something_else
    c19_more_than_the_public_key
    c20_ivs_that_are_another_key
    c20_ivs_that_are_another_key_of_a_master_secret_made_here
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
    // Its owner knows it, so that the judge does.
    let secret = at.import(CKK_GENERIC_SECRET, &OWN, "sD")?;
    let mut value = Vec::new();
    for index in 0..16 {
        let byte =
            at.derive(extraction(8 * index), &secret, CKK_GENERIC_SECRET, &wanted(1, "sS"))?;
        let mac = at.sign(CKM_SHA256_HMAC, &byte, b"data")?;
        value.extend((0..=u8::MAX).find(|byte| openssl::hmac("sha256", &[*byte], b"data") == mac));
    }
    Ok(value == OWN)
}

fn short_with_data(at: &Attacker, mechanism: u64) -> Verdict {
    let secret = at.import(CKK_GENERIC_SECRET, &OWN, "sD")?;
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

fn c03_the_same_value_with_other_roles(at: &Attacker) -> Verdict {
    let (target, secret) = (at.target()?, at.aes(16, "sD")?);
    let zeros = string_data(CKM_XOR_BASE_AND_DATA, &[0; 16]);
    let wraps = at.derive(zeros.clone(), &secret, CKK_AES, &wanted(16, "sw"))?;
    let decrypts = at.derive(zeros, &secret, CKK_AES, &wanted(16, "sd"))?;
    let blob = at.wrap(CKM_AES_KEY_WRAP, &wraps, &target)?;
    let value =
        super::attacker::rfc3394_open(&blob, |block| at.decrypt(CKM_AES_ECB, &decrypts, block))?;
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
    let secret = at.import(CKK_GENERIC_SECRET, &OWN, "sD")?;
    concatenated(at, &open, &secret)
}

fn c04_a_secret_before_an_open_key(at: &Attacker) -> Verdict {
    let open = at.import(CKK_GENERIC_SECRET, &KNOWN, "xD")?;
    let secret = at.import(CKK_GENERIC_SECRET, &OWN, "sD")?;
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

fn c08_digest_what_was_derived_by_hashing(at: &Attacker) -> Verdict {
    let key = at.generic("sD")?;
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
    let blob = at.wrap(CKM_AES_KEY_WRAP_KWP, &by, &key)?;
    let secret = (CKO_SECRET_KEY, CKK_GENERIC_SECRET);
    let signs = [flag(CKA_SIGN, true)];
    let copy = at.unwrap(CKM_AES_KEY_WRAP_KWP, &by, &blob, secret, &signs)?;
    let value = at.sign(CKM_SHA256_HMAC, &copy, b"info\x01")?;
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
    let blob = at.wrap(CKM_AES_KEY_WRAP_KWP, &hidden, &target)?;
    at.is_value(&target, &opened(&value, &blob))
}

fn c12_an_agreement_twice(at: &Attacker) -> Verdict {
    let (_, private) = at.ec("sD", &[])?;
    agreed_twice(at, &private)
}

fn c12_an_agreement_twice_where_the_key_prescribes(at: &Attacker) -> Verdict {
    let private = prescribing(at, &[flag(CKA_SENSITIVE, true)])?;
    agreed_twice(at, &private)
}

/// An EC private key that derives, with this CKA_DERIVE_TEMPLATE.
fn prescribing(at: &Attacker, prescribed: &[Attribute]) -> Step<Key> {
    at.pair_prescribing(
        CKM_EC_KEY_PAIR_GEN,
        &[bytes(CKA_EC_PARAMS, P256)],
        &[flag(CKA_DERIVE, true), flag(CKA_SIGN, false)],
        (CKA_DERIVE_TEMPLATE, prescribed),
    )
    .map(|(_, private)| private)
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
    open(at, CKK_GENERIC_SECRET, &string_data(CKM_XOR_BASE_AND_DATA, &[0; 32]))
}

fn c15_open_by_concatenation(at: &Attacker) -> Verdict {
    open(at, CKK_GENERIC_SECRET, &string_data(CKM_CONCATENATE_BASE_AND_DATA, b"data"))
}

fn c15_open_by_extraction(at: &Attacker) -> Verdict {
    open(at, CKK_GENERIC_SECRET, &extraction(0))
}

fn c15_open_by_hashing(at: &Attacker) -> Verdict {
    open(at, CKK_GENERIC_SECRET, &CKM_SHA256_KEY_DERIVATION.into())
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

fn c21_groups_of_small_order(at: &Attacker) -> Verdict {
    at.needs(CKM_DH_PKCS_DERIVE, CKF_DERIVE)?;
    Err(Stop::Thwarted("the token has groups for which there is no attack here yet"))
}

fn c22_digest_a_sensitive_key(at: &Attacker) -> Verdict {
    let mut last = Ok(false);
    for given in ["sx", "s", ""] {
        let key = at.import(CKK_GENERIC_SECRET, &OWN, &format!("{given}S"))?;
        match at.digest_of(&key) {
            Ok(digest) if digest == openssl::digest("sha256", &OWN) => return Ok(true),
            Ok(_) => {}
            Err(stop) => last = Err(stop),
        }
    }
    last
}
