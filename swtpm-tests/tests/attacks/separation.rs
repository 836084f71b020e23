//! Group A: one key in two roles, of which one undoes the other.

use cryptoki_sys::*;
use swtpm_tests::ck::{Mechanism, bytes, flag, number};
use swtpm_tests::openssl;

use super::attacker::{
    Attacker, KNOWN, Key, NONCE, OWN, SECRET, Step, Stop, Verdict, Wrapped, letters, outsider, xor,
};
use super::{Case, cases};

pub static CASES: &[Case] = cases![
    a01_key_wrap_undone_by_blocks
    a01_key_wrap_undone_by_its_own_decryption
    a01_cbc_pad_undone_by_its_own_decryption
    a02_wrap_then_decrypt
    a03_wrap_then_no_longer_wrap_but_decrypt
    a04_ctr_with_the_iv_of_the_wrapping
    a04_gcm_with_the_iv_of_the_wrapping
    a04_blocks_by_gmac_of_a_key_that_only_signs
    a05_a_copy_that_decrypts
    a06_a_key_unwrapped_to_wrap_and_to_decrypt
    a07_a_key_unwrapped_to_encrypt_and_to_unwrap
    a08_encrypt_what_is_to_be_unwrapped
    a08_encrypt_what_cbc_pad_is_to_unwrap
    a09_first_encrypt_then_unwrap
    a10_rsa_pkcs1_wrap_and_decrypt
    a10_rsa_oaep_wrap_and_decrypt
    a11_wrap_then_let_the_private_half_decrypt
    a12_wrap_by_a_public_key_from_outside
    a12_wrap_by_the_public_half_of_a_known_key
    a13_wrap_by_a_known_key
    a13_wrap_by_the_key_of_a_known_password
    a13_wrap_by_a_key_derived_from_a_known_key
    a14_let_a_known_key_wrap
    a15_encrypt_what_a_pair_is_to_unwrap
    a15_unwrap_a_known_key_that_wraps
    a16_a_strong_key_under_a_weak_one
    a16_aes_256_under_rsa_1024
    a17_a_raw_signature_is_an_unwrapping
    a17_a_raw_signature_by_a_pair_that_wraps_alone
    a18_a_key_wraps_itself
    a18_two_keys_wrap_each_other
];

/// A wrapped target, and what is left of the wrapping by single blocks of `by`.
fn by_blocks(at: &Attacker, by: &Key, wrapped: &Wrapped, target: &Key) -> Verdict {
    let value = at.undone(by, wrapped)?;
    at.is_value(target, &value)
}

fn a01_key_wrap_undone_by_blocks(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swd")?);
    let blob = at.wrap_by(&key, &target)?;
    by_blocks(at, &key, &blob, &target)
}

fn a01_key_wrap_undone_by_its_own_decryption(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swd")?);
    let blob = at.wrap_by(&key, &target)?;
    let value = at.decrypted(&key, &blob)?;
    at.is_value(&target, &value)
}

fn a01_cbc_pad_undone_by_its_own_decryption(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swd")?);
    let cbc = Mechanism::bytes(CKM_AES_CBC_PAD, &[7; 16]);
    let blob = at.wrap(cbc.clone(), &key, &target)?;
    let value = at.decrypt(cbc, &key, &blob)?;
    at.is_value(&target, &value)
}

fn a02_wrap_then_decrypt(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "sw")?);
    let blob = at.wrap_by(&key, &target)?;
    at.set_flag(&key, CKA_DECRYPT, true)?;
    by_blocks(at, &key, &blob, &target)
}

fn a03_wrap_then_no_longer_wrap_but_decrypt(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "sw")?);
    let blob = at.wrap_by(&key, &target)?;
    at.set_flag(&key, CKA_WRAP, false)?;
    at.set_flag(&key, CKA_DECRYPT, true)?;
    by_blocks(at, &key, &blob, &target)
}

fn a04_ctr_with_the_iv_of_the_wrapping(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swe")?);
    let counter = || Mechanism::counter(32, [9; 16]);
    let blob = at.wrap(counter(), &key, &target)?;
    let stream = at.encrypt(counter(), &key, &[0; 16])?;
    at.is_value(&target, &xor(&blob[..16], &stream[..16]))
}

fn a04_gcm_with_the_iv_of_the_wrapping(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swe")?);
    let blob = at.wrap_under(&key, &target, Some(&NONCE))?;
    let stream = at.encrypt(blob.as_stream(), &key, &[0; 16])?;
    at.is_value(&target, &xor(blob.key(), &stream))
}

/// As elsewhere under this id one IV comes twice. Here the key is to sign alone and the two MACs tell what GMAC
/// authenticates with, and so which IV makes it encrypt any block. The key's owner brought it with him.
fn a04_blocks_by_gmac_of_a_key_that_only_signs(at: &Attacker) -> Verdict {
    // The field's one, so that the MACs differ by H².
    const ONE: u128 = 1 << 127;
    let key = at.import(CKK_AES, &OWN, "sS")?;
    let mac = |iv: &[u8], data: &[u8]| {
        let mac = at.sign(Mechanism::gcm(CKM_AES_GMAC, iv, b"", 128), &key, data)?;
        Ok(u128::from_be_bytes(mac.try_into().expect("a tag of 128 bits")))
    };
    let square = mac(&NONCE, &[0; 16])? ^ mac(&NONCE, &ONE.to_be_bytes())?;
    let squared = |number, times| (0..times).fold(number, |number, _| times_in_gcm(number, number));
    let h = squared(square, 127);
    // x^(2^128 - 2) is 1/x.
    let inverse =
        (1..128).fold(ONE, |product, times| times_in_gcm(product, squared(square, times)));

    // Of an IV of 16 bytes the counter block is IV·H² + 128·H, and all that hides the MAC of nothing.
    let block = u128::from_be_bytes(KNOWN);
    let iv = times_in_gcm(block ^ times_in_gcm(128, h), inverse);
    let encrypted = mac(&iv.to_be_bytes(), b"")?;
    Ok(encrypted.to_be_bytes() == openssl::aes_ecb(&OWN, &KNOWN))
}

/// SP 800-38D §6.3
fn times_in_gcm(one: u128, other: u128) -> u128 {
    let (mut product, mut shifted) = (0, other);
    for bit in (0..128).rev() {
        if one >> bit & 1 == 1 {
            product ^= shifted;
        }
        let reduction = if shifted & 1 == 1 { 0xE1 << 120 } else { 0 };
        shifted = shifted >> 1 ^ reduction;
    }
    product
}

fn a05_a_copy_that_decrypts(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "sw")?);
    let blob = at.wrap_by(&key, &target)?;
    let copy = at.copy(&key, &[flag(CKA_DECRYPT, true), flag(CKA_WRAP, false)])?;
    by_blocks(at, &copy, &blob, &target)
}

fn a06_a_key_unwrapped_to_wrap_and_to_decrypt(at: &Attacker) -> Verdict {
    let (target, key, tool) = (at.target()?, at.aes(16, "swu")?, at.aes(16, "sxe")?);
    let blob = at.wrap_by(&key, &tool)?;
    let wraps = at.unwrap_aes_by(&key, &blob, "w")?;
    let decrypts = at.unwrap_aes_by(&key, &blob, "d")?;
    let blob = at.wrap_by(&wraps, &target)?;
    by_blocks(at, &decrypts, &blob, &target)
}

/// A wrapped target under a key whose value the attacker has put there.
fn under_known(at: &Attacker, known: &Key, target: &Key) -> Verdict {
    let blob = at.wrap_by(known, target)?;
    at.is_value(target, &blob.opened(&KNOWN)?)
}

fn a07_a_key_unwrapped_to_encrypt_and_to_unwrap(at: &Attacker) -> Verdict {
    let (target, key, tool) = (at.target()?, at.aes(16, "swu")?, at.aes(16, "sxe")?);
    let blob = at.wrap_by(&key, &tool)?;
    let encrypts = at.unwrap_aes_by(&key, &blob, "e")?;
    let unwraps = at.unwrap_aes_by(&key, &blob, "u")?;
    let forged = at.forged(&encrypts, &KNOWN)?;
    let known = at.unwrap_aes_by(&unwraps, &forged, "w")?;
    under_known(at, &known, &target)
}

fn a08_encrypt_what_is_to_be_unwrapped(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "sue")?);
    let forged = at.forged(&key, &KNOWN)?;
    let known = at.unwrap_aes_by(&key, &forged, "w")?;
    under_known(at, &known, &target)
}

fn a08_encrypt_what_cbc_pad_is_to_unwrap(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "sue")?);
    let cbc = || Mechanism::bytes(CKM_AES_CBC_PAD, &[7; 16]);
    let forged = at.encrypt(cbc(), &key, &KNOWN)?;
    let known = at.unwrap_aes(cbc(), &key, &forged, "w")?;
    under_known(at, &known, &target)
}

fn a09_first_encrypt_then_unwrap(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "se")?);
    let forged = at.forged(&key, &KNOWN)?;
    at.set(&key, &[flag(CKA_ENCRYPT, false), flag(CKA_UNWRAP, true)])?;
    let known = at.unwrap_aes_by(&key, &forged, "w")?;
    under_known(at, &known, &target)
}

fn oaep() -> Mechanism {
    Mechanism::oaep(CKM_SHA256, CKG_MGF1_SHA256, b"")
}

fn wrap_and_decrypt(at: &Attacker, mechanism: &Mechanism) -> Verdict {
    let (target, (public, private)) = (at.target()?, at.rsa(2048, "w", "sd")?);
    let blob = at.wrap(mechanism.clone(), &public, &target)?;
    let value = at.decrypt(mechanism.clone(), &private, &blob)?;
    at.is_value(&target, &value)
}

fn a10_rsa_pkcs1_wrap_and_decrypt(at: &Attacker) -> Verdict {
    wrap_and_decrypt(at, &CKM_RSA_PKCS.into())
}

fn a10_rsa_oaep_wrap_and_decrypt(at: &Attacker) -> Verdict {
    wrap_and_decrypt(at, &oaep())
}

fn a11_wrap_then_let_the_private_half_decrypt(at: &Attacker) -> Verdict {
    let (target, (public, private)) = (at.target()?, at.rsa(2048, "w", "s")?);
    // A half of its own, so that nobody else's pair is changed.
    let private = at.copy(&private, &[])?;
    let blob = at.wrap(oaep(), &public, &target)?;
    at.set_flag(&private, CKA_DECRYPT, true)?;
    let value = at.decrypt(oaep(), &private, &blob)?;
    at.is_value(&target, &value)
}

fn a12_wrap_by_a_public_key_from_outside(at: &Attacker) -> Verdict {
    let (target, public) = (at.target()?, outsiders(at)?);
    for_the_outsider(at, &public, &target)
}

/// The public half of the attacker's own key.
pub fn outsiders(at: &Attacker) -> Step<Key> {
    let own = outsider();
    at.create(
        CKO_PUBLIC_KEY,
        &[
            number(CKA_KEY_TYPE, CKK_RSA),
            bytes(CKA_MODULUS, own.number("n")),
            bytes(CKA_PUBLIC_EXPONENT, own.number("e")),
            flag(CKA_WRAP, true),
        ],
    )
}

/// A target wrapped by that half.
pub fn for_the_outsider(at: &Attacker, public: &Key, target: &Key) -> Verdict {
    let blob = at.wrap(oaep(), public, target)?;
    let options = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"];
    let value = outsider().decrypt(&blob, &options);
    at.is_value(target, &value.ok_or(Stop::Thwarted("what came out is nothing of the kind"))?)
}

fn a13_wrap_by_a_known_key(at: &Attacker) -> Verdict {
    let (target, known) = (at.target()?, at.import(CKK_AES, &KNOWN, "sw")?);
    under_known(at, &known, &target)
}

fn a12_wrap_by_the_public_half_of_a_known_key(at: &Attacker) -> Verdict {
    let (target, own) = (at.target()?, outsider());
    let mut template = vec![number(CKA_KEY_TYPE, CKK_RSA), flag(CKA_UNWRAP, true)];
    template.extend(own.attributes(&swtpm_tests::openssl::RSA_PARTS[..5]));
    let private = at.create(CKO_PRIVATE_KEY, &template)?;
    let wraps =
        [number(CKA_CLASS, CKO_PUBLIC_KEY), number(CKA_KEY_TYPE, CKK_RSA), flag(CKA_WRAP, true)];
    let public = at.derive_of(CKM_PUB_KEY_FROM_PRIV_KEY, &private, CKO_PUBLIC_KEY, &wraps)?;
    for_the_outsider(at, &public, &target)
}

fn a13_wrap_by_the_key_of_a_known_password(at: &Attacker) -> Verdict {
    let target = at.target()?;
    let mechanism = Mechanism::pbkdf2(CKP_PKCS5_PBKD2_HMAC_SHA256, b"password", b"salt", 1000);
    let mut template = vec![
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, CKK_AES),
        number(CKA_VALUE_LEN, 16),
    ];
    template.extend(letters("sw", SECRET));
    let known = at.generate_of(mechanism, &template)?;
    let blob = at.wrap_by(&known, &target)?;
    let value = openssl::pbkdf2("sha256", b"password", b"salt", 1000, 16);
    at.is_value(&target, &blob.opened(&value)?)
}

fn a13_wrap_by_a_key_derived_from_a_known_key(at: &Attacker) -> Verdict {
    let (target, known) = (at.target()?, at.import(CKK_GENERIC_SECRET, &KNOWN, "xD")?);
    let hkdf = Mechanism::hkdf(CKM_HKDF_DERIVE, CKM_SHA256, None, Some(b"info"));
    let template = [vec![number(CKA_VALUE_LEN, 16)], letters("sw", SECRET)].concat();
    let wraps = at.derive(hkdf, &known, CKK_AES, &template)?;
    let blob = at.wrap_by(&wraps, &target)?;
    let value = openssl::hkdf_expand("sha256", &KNOWN, b"info", 16);
    at.is_value(&target, &blob.opened(&value)?)
}

fn a14_let_a_known_key_wrap(at: &Attacker) -> Verdict {
    let (target, known) = (at.target()?, at.import(CKK_AES, &KNOWN, "se")?);
    at.set(&known, &[flag(CKA_ENCRYPT, false), flag(CKA_WRAP, true)])?;
    under_known(at, &known, &target)
}

fn a15_encrypt_what_a_pair_is_to_unwrap(at: &Attacker) -> Verdict {
    let (target, (public, private)) = (at.target()?, at.rsa(2048, "e", "su")?);
    let sealed = at.encrypt(oaep(), &public, &KNOWN)?;
    let known = at.unwrap_aes(oaep(), &private, &sealed, "w")?;
    under_known(at, &known, &target)
}

fn a15_unwrap_a_known_key_that_wraps(at: &Attacker) -> Verdict {
    let (target, (public, private)) = (at.target()?, at.rsa(2048, "w", "su")?);
    let modulus = at.get(&public, CKA_PUBLIC_KEY_INFO)?;
    let outside = openssl::Key::from_info(&modulus).ok_or(Stop::Thwarted("no public key"))?;
    let options = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"];
    let sealed = outside.encrypt(&KNOWN, &options).ok_or(Stop::Thwarted("no encryption"))?;
    let known = at.unwrap_aes(oaep(), &private, &sealed, "w")?;
    under_known(at, &known, &target)
}

fn a16_a_strong_key_under_a_weak_one(at: &Attacker) -> Verdict {
    let (weak, strong) = (at.aes(16, "sw")?, at.aes(32, "sxe")?);
    at.wrap_by(&weak, &strong).map(|blob| !blob.bytes.is_empty())
}

fn a16_aes_256_under_rsa_1024(at: &Attacker) -> Verdict {
    let ((weak, _), strong) = (at.rsa(1024, "w", "su")?, at.aes(32, "sxe")?);
    at.wrap(CKM_RSA_PKCS, &weak, &strong).map(|blob| !blob.is_empty())
}

fn a17_a_raw_signature_is_an_unwrapping(at: &Attacker) -> Verdict {
    let (target, (public, private)) = (at.target()?, at.rsa(2048, "w", "suS")?);
    let blob = at.wrap(CKM_RSA_PKCS, &public, &target)?;
    let padded = at.sign(CKM_RSA_X_509, &private, &blob)?;
    at.is_value(&target, &padded[padded.len() - 16..])
}

fn a17_a_raw_signature_by_a_pair_that_wraps_alone(at: &Attacker) -> Verdict {
    let (target, (public, private)) = (at.target()?, at.rsa(2048, "w", "su")?);
    let blob = at.wrap(oaep(), &public, &target)?;
    at.sign(CKM_RSA_X_509, &private, &blob).map(|_| true)
}

fn a18_a_key_wraps_itself(at: &Attacker) -> Verdict {
    let key = at.aes(16, "sxw")?;
    at.wrap_by(&key, &key).map(|blob| !blob.bytes.is_empty())
}

fn a18_two_keys_wrap_each_other(at: &Attacker) -> Verdict {
    let (one, other) = (at.aes(16, "sxw")?, at.aes(16, "sxw")?);
    let first = at.wrap_by(&one, &other)?;
    let second = at.wrap_by(&other, &one)?;
    // Whoever learns one key knows both.
    Ok(!first.bytes.is_empty() && !second.bytes.is_empty())
}
