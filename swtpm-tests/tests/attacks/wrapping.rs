//! Group D: what can be done with the formats in which keys travel.

use cryptoki_sys::*;
use swtpm_tests::Attribute;
use swtpm_tests::ck::{Mechanism, Message, P256, bytes, flag, number, prescribes, template};
use swtpm_tests::door::Memory;
use swtpm_tests::openssl;

use super::attacker::{
    Attacker, KNOWN, Key, NONCE, OWN, SECRET, Stage, Step, Stop, Verdict, Way, Wrapped, letters,
    outsider, said, xor,
};
use super::{Case, cases, gcm};

pub static CASES: &[Case] = cases![
    d01_half_a_key_by_ecb
    d02_a_short_key_by_cbc
    d02_a_part_of_a_key
    d03_the_padding_of_cbc_tells
    d04_the_padding_of_pkcs1_tells_when_unwrapping
    d05_the_padding_of_oaep_tells
    d05_the_padding_of_oaep_tells_when_unwrapping
    d06_the_padding_of_pkcs1_tells
    d07_gcm_undone_by_ctr
    d08_key_wrap_of_what_is_to_be_unwrapped
    d09_two_gcm_wrappings_under_one_iv
    d09_a_readable_key_under_the_same_nonce
    d09_a_readable_key_under_the_same_nonce_of_ccm
    d09_blocks_by_cbc_pad_of_readable_keys
    d10_gcm_tells_before_the_tag_is_checked
    d10_gcm_with_a_short_tag
    d10_a_wrapped_key_that_was_changed
    d10_a_wrapped_key_with_a_short_tag
    d11_a_secret_as_another_secret
    d11_a_secret_as_a_private_key
    d11_a_private_key_as_a_secret
    d12_an_rsa_key_that_was_changed_on_the_way
    d13_ec_keys_that_are_none
    d14_against_the_wrap_template
    d15_against_the_unwrap_template
    d16_templates_without_end
    d17_another_template_for_a_key_that_is_there
    d19_to_a_storage_key_made_in_software
    d22_public_keys_that_are_none
    d22_wrap_by_an_exponent_of_three
    d23_the_cube_root
];

const AES: (u64, u64) = (CKO_SECRET_KEY, CKK_AES);

fn d01_half_a_key_by_ecb(at: &Attacker) -> Verdict {
    let (target, key) = (at.aes(32, "sxe")?, at.aes(32, "swu")?);
    let blob = at.wrap(CKM_AES_ECB, &key, &target)?;
    at.unwrap_aes(CKM_AES_ECB, &key, &blob[..16], "e").map(|_| true)
}

fn d02_a_short_key_by_cbc(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swu")?);
    let cbc = Mechanism::bytes(CKM_AES_CBC, &[7; 16]);
    let blob = at.wrap(cbc.clone(), &key, &target)?;
    let short = [number(CKA_VALUE_LEN, 1), flag(CKA_SIGN, true)];
    at.unwrap(cbc, &key, &blob, (CKO_SECRET_KEY, CKK_GENERIC_SECRET), &short).map(|_| true)
}

fn d02_a_part_of_a_key(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swu")?);
    let blob = at.wrap_by(&key, &target)?;
    let secret = (CKO_SECRET_KEY, CKK_GENERIC_SECRET);
    none_is_taken((1..16).map(|length| {
        let short = [number(CKA_VALUE_LEN, length), flag(CKA_SIGN, true)];
        at.unwrap_by(&key, &blob, secret, &short)
    }))
}

/// Whether any of these wrong things is taken, or they differ in how they are refused.
pub fn none_is_taken<T>(tries: impl IntoIterator<Item = Step<T>>) -> Verdict {
    let mut refusals = Vec::new();
    for tried in tries {
        match tried {
            Ok(_) => return Ok(true),
            Err(stop) => refusals.push(Err::<T, _>(stop)),
        }
    }
    differ(refusals)
}

/// Whether wrong things differ in how they are refused. If they do not, that is how.
fn differ<T>(tries: impl IntoIterator<Item = Step<T>>) -> Verdict {
    let mut refusals: Vec<Stop> = tries.into_iter().filter_map(Result::err).collect();
    refusals.dedup();
    match refusals.as_slice() {
        [] => Ok(false),
        [only] => Err(only.clone()),
        _ => Ok(true),
    }
}

fn d03_the_padding_of_cbc_tells(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swu")?);
    let cbc = Mechanism::bytes(CKM_AES_CBC_PAD, &[7; 16]);
    let blob = at.wrap(cbc.clone(), &key, &target)?;
    // All that a byte can be; where keys lie makes no difference to that.
    let step = if at.stage == Stage::Session { 1 } else { 6 };
    differ((1..=255).step_by(step).map(|delta| {
        let mut changed = blob.clone();
        let place = changed.len() - 17;
        changed[place] ^= delta;
        at.unwrap_aes(cbc.clone(), &key, &changed, "e")
    }))
}

/// The public half outside.
fn outside(at: &Attacker, public: &Key) -> Step<openssl::Key> {
    let info = at.get(public, CKA_PUBLIC_KEY_INFO)?;
    openssl::Key::from_info(&info).ok_or(Stop::Thwarted("no public key"))
}

fn raw(key: &openssl::Key, block: &[u8]) -> Vec<u8> {
    key.encrypt(block, &["rsa_padding_mode:none"]).expect("a number below the modulus")
}

/// Blocks of PKCS #1 v1.5 that hold no key of 16 bytes, each wrong in another way.
fn bad_pkcs1() -> Vec<Vec<u8>> {
    let block = |head: [u8; 2], zero: usize| {
        let mut block = vec![0x5A; 256];
        block[..2].copy_from_slice(&head);
        block[zero] = 0;
        block
    };
    let mut none = block([0, 2], 2);
    none[2] = 0x5A;
    vec![block([0, 1], 239), block([1, 2], 239), block([0, 2], 5), block([0, 2], 200), none]
}

fn d04_the_padding_of_pkcs1_tells_when_unwrapping(at: &Attacker) -> Verdict {
    let (public, private) = at.rsa(2048, "w", "su")?;
    let outside = outside(at, &public)?;
    differ(
        bad_pkcs1()
            .into_iter()
            .map(|block| at.unwrap_aes(CKM_RSA_PKCS, &private, &raw(&outside, &block), "e")),
    )
}

/// RFC 8017 §7.1.1 with SHA-256 and no label, and what the attacker changes before it is masked.
fn oaep(message: &[u8], change: impl FnOnce(&mut u8, &mut [u8])) -> Vec<u8> {
    let mgf = |seed: &[u8], length: usize| -> Vec<u8> {
        let blocks = (0..length.div_ceil(32) as u32)
            .map(|counter| openssl::digest("sha256", &[seed, &counter.to_be_bytes()].concat()));
        blocks.flatten().take(length).collect()
    };
    let mut data = openssl::digest("sha256", b"");
    data.resize(256 - 33 - message.len() - 1, 0);
    data.push(1);
    data.extend(message);
    let mut first = 0;
    change(&mut first, &mut data);
    let seed = [0x33; 32];
    let masked = xor(&data, &mgf(&seed, data.len()));
    [&[first][..], &xor(&seed, &mgf(&masked, 32)), &masked].concat()
}

fn bad_oaep() -> Vec<Vec<u8>> {
    let length = 256 - 33;
    vec![
        oaep(&KNOWN, |first, _| *first = 1),
        oaep(&KNOWN, |_, data| data[0] ^= 1),
        oaep(&KNOWN, |_, data| data[31] ^= 0x80),
        oaep(&KNOWN, |_, data| data[length - 17] = 0),
        oaep(&KNOWN, |_, data| data[40] = 2),
        oaep(&KNOWN, |first, data| (*first, data[3]) = (1, 0)),
        oaep(&[], |_, data| data[length - 1] = 0),
    ]
}

fn sha256_oaep() -> Mechanism {
    Mechanism::oaep(CKM_SHA256, CKG_MGF1_SHA256, b"")
}

fn d05_the_padding_of_oaep_tells(at: &Attacker) -> Verdict {
    let (public, private) = at.rsa(2048, "e", "sd")?;
    let outside = outside(at, &public)?;
    let good = at.decrypt(sha256_oaep(), &private, &raw(&outside, &oaep(&KNOWN, |_, _| ())))?;
    assert_eq!(good, KNOWN, "what is right is decrypted");
    none_is_taken(
        bad_oaep().iter().map(|block| at.decrypt(sha256_oaep(), &private, &raw(&outside, block))),
    )
}

fn d05_the_padding_of_oaep_tells_when_unwrapping(at: &Attacker) -> Verdict {
    let (public, private) = at.rsa(2048, "w", "su")?;
    let outside = outside(at, &public)?;
    none_is_taken(
        bad_oaep()
            .iter()
            .map(|block| at.unwrap_aes(sha256_oaep(), &private, &raw(&outside, block), "e")),
    )
}

fn d06_the_padding_of_pkcs1_tells(at: &Attacker) -> Verdict {
    let (public, private) = at.rsa(2048, "e", "sd")?;
    let outside = outside(at, &public)?;
    let mut answers = Vec::new();
    for block in bad_pkcs1() {
        let sealed = raw(&outside, &block);
        let once = at.decrypt(CKM_RSA_PKCS, &private, &sealed);
        let again = at.decrypt(CKM_RSA_PKCS, &private, &sealed);
        if block.starts_with(&[0, 2]) && block[200] == 0 && block[5] != 0 {
            assert_eq!(once, Ok(block[201..].to_vec()), "the one that is right");
        }
        // An answer that changes is one that was made up.
        if once != again || once.is_err() {
            return Ok(true);
        }
        answers.extend(once);
    }
    Ok(answers.len() != 5)
}

fn d07_gcm_undone_by_ctr(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swd")?);
    let blob = at.wrap_under(&key, &target, Some(&NONCE))?;
    let value = at.undone(&key, &blob)?;
    at.is_value(&target, &value)
}

fn d08_key_wrap_of_what_is_to_be_unwrapped(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "sue")?);
    let forged = at.encrypt(CKM_AES_KEY_WRAP, &key, &KNOWN)?;
    let known = at.unwrap_aes(CKM_AES_KEY_WRAP, &key, &forged, "w")?;
    let blob = at.wrap_by(&known, &target)?;
    at.is_value(&target, &blob.opened(&KNOWN)?)
}

fn d09_two_gcm_wrappings_under_one_iv(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "sw")?);
    let known = at.import(CKK_AES, &KNOWN, "sxe")?;
    let [one, other] = [&target, &known].map(|wrapped| at.wrap_under(&key, wrapped, Some(&NONCE)));
    at.is_value(&target, &xor(&xor(one?.key(), other?.key()), &KNOWN))
}

/// The token makes the target's nonce, and takes it from the caller for a key of zeros.
fn under_the_same_nonce(
    at: &Attacker,
    wrap: impl Fn(&Key, &Key, Option<&[u8]>) -> Step<Wrapped>,
) -> Verdict {
    let (target, key) = (at.target()?, at.aes(32, "swu")?);
    let zeros = at.import(CKK_AES, &[0; 16], "xe")?;
    let blob = wrap(&key, &target, None)?;
    let stream = wrap(&key, &zeros, Some(&blob.nonce))?;
    at.is_value(&target, &xor(blob.key(), stream.key()))
}

fn d09_a_readable_key_under_the_same_nonce(at: &Attacker) -> Verdict {
    under_the_same_nonce(at, |by, key, nonce| at.wrap_under(by, key, nonce))
}

fn d09_a_readable_key_under_the_same_nonce_of_ccm(at: &Attacker) -> Verdict {
    under_the_same_nonce(at, |by, key, nonce| at.wrap_message(CKM_AES_CCM, by, key, nonce))
}

/// Blocks of the key stream are first blocks of wrapped readable keys.
fn d09_blocks_by_cbc_pad_of_readable_keys(at: &Attacker) -> Verdict {
    let (target, key) = (at.aes(32, "sxe")?, at.aes(32, "swu")?);
    let blob = at.wrap_under(&key, &target, None)?;
    let mut stream = Vec::new();
    for index in 0..2 {
        let block = at.import(CKK_AES, &blob.stream_block(index), "xe")?;
        let cbc = Mechanism::bytes(CKM_AES_CBC_PAD, &[0; 16]);
        stream.extend_from_slice(&at.wrap(cbc, &key, &block)?[..16]);
    }
    at.is_value(&target, &xor(blob.key(), &stream))
}

fn d10_gcm_tells_before_the_tag_is_checked(at: &Attacker) -> Verdict {
    let key = at.aes(16, "sed")?;
    let plain = [b'p'; 100];
    let mut sealed = at.encrypt(gcm(&[9; 12]), &key, &plain)?;
    *sealed.last_mut().expect("a tag") ^= 1;
    let (app, session) = at.first();
    let handle = at.handle(0, &key)?;
    said("C_DecryptInit", app.decrypt_init(session, gcm(&[9; 12]), handle))?;
    let arguments = |part: &[u8]| {
        vec![
            session.into(),
            Memory::of(part).into(),
            (part.len() as u64).into(),
            Memory::room(256).into(),
            Memory::word(256).into(),
        ]
    };
    let seen = |room: &Memory| room.bytes.windows(8).any(|window| window == [b'p'; 8]);
    for part in [&sealed[..40], &sealed[40..80], &sealed[80..]] {
        let (rv, arguments) = app.raw("C_DecryptUpdate", arguments(part));
        assert_eq!(rv, CKR_OK);
        if arguments[4].memory().word_at(0) != 0 || seen(arguments[3].memory()) {
            return Ok(true);
        }
    }
    let last = vec![session.into(), Memory::room(256).into(), Memory::word(256).into()];
    let (rv, last) = app.raw("C_DecryptFinal", last);
    if rv == CKR_OK || seen(last[1].memory()) {
        return Ok(true);
    }
    said("C_DecryptInit", app.decrypt_init(session, gcm(&[9; 12]), handle))?;
    let (rv, arguments) = app.raw("C_Decrypt", arguments(&sealed));
    if rv == CKR_OK || seen(arguments[3].memory()) {
        return Ok(true);
    }
    said("C_Decrypt", Err(swtpm_tests::ck::Rv(rv)))
}

fn d10_gcm_with_a_short_tag(at: &Attacker) -> Verdict {
    let key = at.aes(16, "sed")?;
    none_is_taken([0u64, 8, 32, 64, 88, 136].map(|bits| {
        let short = Mechanism::gcm(CKM_AES_GCM, &[9; 12], b"", bits);
        at.encrypt(short, &key, b"data")
    }))
}

/// Each byte of it in turn, and where there are additional data, those.
fn d10_a_wrapped_key_that_was_changed(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swu")?);
    let blob = at.wrap_by(&key, &target)?;
    let changed = (0..blob.bytes.len()).map(|place| {
        let mut changed = blob.clone();
        changed.bytes[place] ^= 1;
        at.unwrap_aes_by(&key, &changed, "e")
    });
    let said = || match at.way {
        Way::Plain => None,
        Way::Authenticated(_) => Some(at.unwrap_said(&key, &blob, b"of another", AES, &[])),
    };
    none_is_taken(changed.chain(std::iter::once_with(said).flatten()))
}

/// A tag that is guessed: none at all, one of a byte, of the 8 bytes that the modes permit.
fn d10_a_wrapped_key_with_a_short_tag(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swu")?);
    let blob = at.wrap_by(&key, &target)?;
    let Way::Authenticated(kind) = at.way else {
        return Err(Stop::Thwarted("key wrap has no tag"));
    };
    let (app, session) = at.first();
    let by = at.handle(0, &key)?;
    let mut taken = false;
    let mut last = Ok(false);
    for length in [0, 1, 4, 8] {
        let mut message = Message::new(kind, &blob.nonce, length, 16);
        message.tag = blob.bytes[16..16 + length].to_vec();
        let template = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_AES),
            flag(CKA_TOKEN, at.on_token()),
        ];
        let made = app.unwrap_authenticated(session, &message, b"", by, blob.key(), &template);
        match said("C_UnwrapKeyAuthenticated", made) {
            Ok(_) => taken = true,
            Err(stop) => last = Err(stop),
        }
    }
    if taken { Ok(true) } else { last }
}

/// A key whose value the attacker knows, and which unwraps.
fn known_that_unwraps(at: &Attacker) -> Step<Key> {
    at.import(CKK_AES, &KNOWN, "su")
}

/// Key wrap says nothing of a key's type: fine, as long as it works on data alone.
fn d11_a_secret_as_another_secret(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swu")?);
    let blob = at.wrap_by(&key, &target)?;
    let all = [CKA_SIGN, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE].map(|role| flag(role, true));
    for key_type in [CKK_GENERIC_SECRET, CKK_SHA256_HMAC] {
        let other = at.unwrap_by(&key, &blob, (CKO_SECRET_KEY, key_type), &all)?;
        for role in [CKA_WRAP, CKA_UNWRAP, CKA_DERIVE] {
            if at.is(&other, role)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn d11_a_secret_as_a_private_key(at: &Attacker) -> Verdict {
    let key = known_that_unwraps(at)?;
    at.unwrap_by(&key, &at.forged_outside(&KNOWN, &OWN), (CKO_PRIVATE_KEY, CKK_EC), &[])
        .map(|_| true)
}

fn d11_a_private_key_as_a_secret(at: &Attacker) -> Verdict {
    let key = at.aes(16, "swu")?;
    let (_, private) = at.ec("sxS", &[])?;
    let blob = at.wrap_by(&key, &private)?;
    let open = [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
    let secret = (CKO_SECRET_KEY, CKK_GENERIC_SECRET);
    let readable = at.unwrap_by(&key, &blob, secret, &open)?;
    // A PrivateKeyInfo is a SEQUENCE.
    at.get(&readable, CKA_VALUE).map(|value| value.starts_with(&[0x30]))
}

fn d12_an_rsa_key_that_was_changed_on_the_way(at: &Attacker) -> Verdict {
    let own = openssl::Key::generate("RSA", &["rsa_keygen_bits:1024"]);
    let mut template = vec![number(CKA_KEY_TYPE, CKK_RSA), flag(CKA_EXTRACTABLE, true)];
    template.extend(own.attributes(&swtpm_tests::openssl::RSA_PARTS[..5]));
    let private = at.create(CKO_PRIVATE_KEY, &template)?;
    let key = at.aes(16, "swu")?;
    let cbc = Mechanism::bytes(CKM_AES_CBC_PAD, &[7; 16]);
    let blob = at.wrap(cbc.clone(), &key, &private)?;
    let mut last = Ok(false);
    // Modulus, exponents, primes, coefficient: wherever it is changed the block before is noise.
    for place in (64..blob.len() - 32).step_by(112) {
        let mut changed = blob.clone();
        changed[place] ^= 1;
        match at.unwrap(cbc.clone(), &key, &changed, (CKO_PRIVATE_KEY, CKK_RSA), &[]) {
            Ok(_) => return Ok(true),
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..=127 => vec![tag, length as u8],
        128..=255 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content.to_vec()].concat()
}

/// A PrivateKeyInfo with an ECPrivateKey.
fn ec_info(curve: &[u8], d: &[u8], point: Option<&[u8]>) -> Vec<u8> {
    let algorithm = [&[6, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1][..], curve].concat();
    let point = point.map(|point| der(0xA1, &der(3, &[&[0], point].concat()))).unwrap_or_default();
    let key = der(0x30, &[&[2, 1, 1][..], &der(4, d), &point].concat());
    der(0x30, &[&[2, 1, 0][..], &der(0x30, &algorithm), &der(4, &key)].concat())
}

fn d13_ec_keys_that_are_none(at: &Attacker) -> Verdict {
    let key = known_that_unwraps(at)?;
    let own = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let (d, info) = (own.number("priv"), own.info());
    let d = [vec![0; 32 - d.len()], d].concat();
    let point = &info[info.len() - 65..];
    let ec = (CKO_PRIVATE_KEY, CKK_EC);
    let unwrapped = |info: &[u8]| at.unwrap_by(&key, &at.forged_outside(&KNOWN, info), ec, &[]);
    unwrapped(&ec_info(P256, &d, Some(point)))?;
    // What no key is as long as, is told by its length.
    let long = [&[0x30, 0x83, 0, 0xFF, 0xFB][..], &vec![0; 0xFFFB]].concat();
    if unwrapped(&long).is_ok() {
        return Ok(true);
    }
    let order = [
        0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xBC,
        0xE6, 0xFA, 0xAD, 0xA7, 0x17, 0x9E, 0x84, 0xF3, 0xB9, 0xCA, 0xC2, 0xFC, 0x63, 0x25, 0x51,
    ];
    let other = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]).info();
    let good = ec_info(P256, &d, Some(point));
    let wrong_curve = &[6, 5, 0x2B, 0x81, 4, 0, 0x22];
    none_is_taken(
        [
            ec_info(P256, &[0; 32], None),
            ec_info(P256, &order, None),
            ec_info(P256, &[0xFF; 32], None),
            ec_info(wrong_curve, &d, Some(point)),
            ec_info(&[6, 3, 1, 2, 3], &d, None),
            ec_info(P256, &d, Some(&other[other.len() - 65..])),
            [&good[..], &[0; 8]].concat(),
            good[..good.len() - 1].to_vec(),
            vec![0x30; 320],
        ]
        .map(|info| unwrapped(&info)),
    )
}

fn d14_against_the_wrap_template(at: &Attacker) -> Verdict {
    let only = [flag(CKA_EXTRACTABLE, true), number(CKA_KEY_TYPE, CKK_AES)];
    let key = at.generate(CKM_AES_KEY_GEN, 16, "sw", &[prescribes(CKA_WRAP_TEMPLATE, &only)])?;
    let other = at.mac("sxS")?;
    at.wrap_by(&key, &other).map(|blob| !blob.bytes.is_empty())
}

fn d15_against_the_unwrap_template(at: &Attacker) -> Verdict {
    let only = [flag(CKA_SENSITIVE, true), flag(CKA_EXTRACTABLE, false)];
    let key = at.generate(CKM_AES_KEY_GEN, 16, "swu", &[prescribes(CKA_UNWRAP_TEMPLATE, &only)])?;
    let target = at.target()?;
    let blob = at.wrap_by(&key, &target)?;
    let silent = at.unwrap_aes_by(&key, &blob, "e")?;
    if !at.is(&silent, CKA_SENSITIVE)? || at.is(&silent, CKA_EXTRACTABLE)? {
        return Ok(true);
    }
    let open = [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
    let readable = at.unwrap_by(&key, &blob, AES, &open)?;
    let value = at.get(&readable, CKA_VALUE)?;
    at.is_value(&target, &value)
}

fn d16_templates_without_end(at: &Attacker) -> Verdict {
    let own: Vec<Attribute> = [&[number(CKA_VALUE_LEN, 16)][..], &letters("swu", SECRET)].concat();
    // Ten in each other, one that is its own content, and one longer than any memory.
    let inner = [flag(CKA_SENSITIVE, true)];
    let mut deep = template(&[prescribes(CKA_UNWRAP_TEMPLATE, &inner)]);
    for _ in 0..10 {
        let mut outer = Memory::word(CKA_UNWRAP_TEMPLATE);
        let length = deep.bytes.len() as u64;
        outer.push_pointer(deep);
        outer.push_word(length);
        deep = outer;
    }
    let mut itself = Memory::word(CKA_UNWRAP_TEMPLATE);
    itself.push_self();
    itself.push_word(24);
    let mut last = Ok(false);
    let more = || Memory::of(vec![0; 24 * 2000]);
    for (content, length) in [
        (deep, 24),
        (itself, 24),
        (more(), 24 * 2000),
        (more(), 24 * 1_000_000),
        (more(), 24 * 2000 - 1),
        (more(), u64::MAX),
        (more(), u64::MAX / 24 * 24),
    ] {
        let mut whole = swtpm_tests::ck::template(&own);
        whole.push_word(CKA_UNWRAP_TEMPLATE);
        whole.push_pointer(content);
        whole.push_word(length);
        let made = at.raw("C_GenerateKey", &[], |session, _| {
            vec![
                session.into(),
                Mechanism::from(CKM_AES_KEY_GEN).memory().into(),
                whole.into(),
                (own.len() as u64 + 1).into(),
                Memory::room(8).into(),
            ]
        });
        match made {
            Ok(_) => return Ok(true),
            Err(stop) => last = Err(stop),
        }
    }
    // A count whose bytes are no number of the machine any more.
    for count in [1_000_000, u64::MAX / 24 + 2, u64::MAX] {
        let made = at.raw("C_GenerateKey", &[], |session, _| {
            vec![
                session.into(),
                Mechanism::from(CKM_AES_KEY_GEN).memory().into(),
                swtpm_tests::ck::template(&own).into(),
                count.into(),
                Memory::room(8).into(),
            ]
        });
        if made.is_ok() {
            return Ok(true);
        }
    }
    last
}

fn d17_another_template_for_a_key_that_is_there(at: &Attacker) -> Verdict {
    let only = [flag(CKA_SENSITIVE, true)];
    let key = at.generate(CKM_AES_KEY_GEN, 16, "swu", &[prescribes(CKA_UNWRAP_TEMPLATE, &only)])?;
    let open = [flag(CKA_SENSITIVE, false)];
    let mut last = Ok(false);
    for kind in [CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE, CKA_DERIVE_TEMPLATE] {
        for attribute in [prescribes(kind, &open), bytes(kind, [])] {
            let template = template(&[attribute]);
            let set = at.raw("C_SetAttributeValue", &[&key], |session, keys| {
                vec![session.into(), keys[0].into(), template.into(), 1.into()]
            });
            match set {
                // Taking away what is not there changes nothing.
                Ok(_) if kind == CKA_UNWRAP_TEMPLATE => return Ok(true),
                Ok(_) => {}
                Err(stop) => last = Err(stop),
            }
        }
    }
    last
}

fn d19_to_a_storage_key_made_in_software(at: &Attacker) -> Verdict {
    use swtpm_tests::drive::{CKM_TPM11_DUPLICATE, storage_key};
    let target = at.target()?;
    let own = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let forged: Vec<Attribute> = storage_key(&own);
    let given = |attribute: &&Attribute| ![CKA_CLASS, CKA_LABEL].contains(&attribute.kind);
    let forged: Vec<Attribute> = forged.iter().filter(given).cloned().collect();
    let by = at.create(CKO_PUBLIC_KEY, &forged)?;
    if at.set_flag(&by, CKA_TRUSTED, true).is_ok() {
        return Ok(true);
    }
    at.wrap(CKM_TPM11_DUPLICATE, &by, &target).map(|blob| !blob.is_empty())
}

/// C_CreateObject of an RSA public key.
fn public(at: &Attacker, modulus: &[u8], exponent: &[u8], wraps: bool) -> Step<Key> {
    at.create(
        CKO_PUBLIC_KEY,
        &[
            number(CKA_KEY_TYPE, CKK_RSA),
            bytes(CKA_MODULUS, modulus),
            bytes(CKA_PUBLIC_EXPONENT, exponent),
            flag(CKA_WRAP, wraps),
        ],
    )
}

fn d22_public_keys_that_are_none(at: &Attacker) -> Verdict {
    let own = openssl::Key::generate("RSA", &["rsa_keygen_bits:1024"]).number("n");
    let mut even = own.clone();
    *even.last_mut().expect("a number") &= 0xFE;
    let e = &[1, 0, 1];
    let mut short = own[..64].to_vec();
    short[63] |= 1;
    let mut last = Ok(false);
    for (modulus, exponent) in [
        (&own[..], &[1][..]),
        (&own, &[2]),
        (&own, &[1, 0, 0]),
        (&own, &[0]),
        (&own, &own),
        (&even, e),
        (&short, e),
        (&[], e),
    ] {
        match public(at, modulus, exponent, false) {
            Ok(_) => return Ok(true),
            Err(stop) => last = Err(stop),
        }
    }
    last
}

/// A key of the attacker's with the exponent 3.
fn of_three(at: &Attacker) -> Step<Key> {
    public(at, &outsider().number("n"), &[3], true)
}

fn d22_wrap_by_an_exponent_of_three(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, of_three(at)?);
    at.wrap(sha256_oaep(), &key, &target).map(|blob| !blob.is_empty())
}

fn d23_the_cube_root(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, of_three(at)?);
    let blob = at.wrap(CKM_RSA_X_509, &key, &target)?;
    // 48 bytes at most: nothing was reduced.
    let zeros = blob.iter().take_while(|byte| **byte == 0).count();
    Ok(zeros >= blob.len() - 48)
}
