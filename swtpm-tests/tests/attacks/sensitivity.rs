//! Group B: values that are never told, attributes that move one way, trust.

use cryptoki_sys::*;
use swtpm_tests::bench::{PIN, SO_PIN};
use swtpm_tests::ck::{Mechanism, P256, bytes, flag, number, prescribes, template};
use swtpm_tests::door::Memory;
use swtpm_tests::{Attribute, openssl};

use super::attacker::{
    Attacker, KNOWN, Key, OWN, SECRET, Stage, Step, Stop, Verdict, letters, said,
};
use super::separation::{for_the_outsider, outsiders};
use super::{Case, cases};

pub static CASES: &[Case] = cases![
    b01_read_the_value
    b02_read_the_numbers_of_an_rsa_key
    b02_read_the_number_of_an_ec_key
    b03_read_what_is_neither_sensitive_nor_extractable
    b04_no_longer_sensitive
    b05_extractable_after_all
    b06_wrap_what_is_not_extractable
    b07_a_copy_that_is_not_sensitive
    b08_a_copy_that_is_extractable
    b09_a_copy_that_is_not_private
    b09_unwrapped_as_a_public_object
    b10_rewrite_the_history
    b11_bring_a_history_along
    b12_unwrap_it_as_readable
    b12_unwrap_it_by_a_key_that_prescribes_readable_keys
    b12_unwrap_it_by_a_key_that_prescribes_extractable_keys
    b13_a_history_after_unwrapping
    b14_search_for_the_value
    b15_search_for_the_numbers_of_a_private_key
    b16_the_check_value_of_a_short_secret
    b17_a_value_among_other_attributes
    b18_the_size_tells_the_value
    b19_every_attribute_that_there_is
    b20_replace_the_value
    b21_replace_what_a_key_is
    b22_change_what_is_not_modifiable
    b22_a_copy_that_is_modifiable_again
    b23_copy_what_is_not_copyable
    b24_destroy_what_is_not_destroyable
    b25_another_mechanism
    b25_more_mechanisms
    b25_a_copy_with_more_mechanisms
    b25_unwrapped_without_its_limits
    b26_no_longer_for_trusted_keys_alone
    b26_a_copy_for_every_key
    b26_unwrapped_for_every_key
    b27_wrap_by_an_untrusted_key
    b28_trust_by_the_user
    b28_a_copy_that_stays_trusted
    b29_a_secret_key_trusted_by_the_so
    b29_a_key_that_decrypts_trusted_by_the_so
    b30_never_ask_for_the_pin_again
    b30_a_copy_that_does_not_ask
    b30_unwrapped_it_does_not_ask
    b31_use_after_the_end_date
    b31_a_date_moved_by_the_template
    b31_a_start_date_lost_by_wrap_and_unwrap
];

fn sensitive(at: &Attacker) -> Step<Key> {
    at.aes(16, "se")
}

fn b01_read_the_value(at: &Attacker) -> Verdict {
    let target = at.target()?;
    let (mut room, marker) = (Memory::default(), vec![0xA5; 32]);
    room.push_word(CKA_VALUE);
    room.push_pointer(Memory::of(marker.clone()));
    room.push_word(32);
    let mut left = Vec::new();
    let (app, session) = at.first();
    let handle = at.handle(0, &target)?;
    let arguments = vec![session.into(), handle.into(), room.into(), 1.into()];
    let (rv, arguments) = app.raw("C_GetAttributeValue", arguments);
    left.extend_from_slice(&arguments[2].memory().pointers[0].1.bytes);
    let length = arguments[2].memory().word_at(16);
    if rv == CKR_OK || length != u64::MAX || left != marker {
        return Ok(true);
    }
    said("C_GetAttributeValue", Err(swtpm_tests::ck::Rv(rv)))
}

/// An RSA key that its owner brought with him, and OpenSSL's.
fn own_rsa(at: &Attacker) -> Step<(openssl::Key, Key)> {
    let own = openssl::Key::generate("RSA", &["rsa_keygen_bits:1024"]);
    let mut template = vec![number(CKA_KEY_TYPE, CKK_RSA)];
    template.extend(own.attributes(&openssl::RSA_PARTS));
    let key = at.create(CKO_PRIVATE_KEY, &template)?;
    Ok((own, key))
}

fn own_ec(at: &Attacker) -> Step<(openssl::Key, Key)> {
    let own = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let template = [
        number(CKA_KEY_TYPE, CKK_EC),
        bytes(CKA_EC_PARAMS, P256),
        bytes(CKA_VALUE, own.number("priv")),
    ];
    let key = at.create(CKO_PRIVATE_KEY, &template)?;
    Ok((own, key))
}

/// Whether any of these attributes is told; who is refused is refused each.
fn any_read(at: &Attacker, key: &Key, kinds: &[u64]) -> Verdict {
    let mut last = Ok(false);
    for kind in kinds {
        match at.get(key, *kind) {
            Ok(_) => return Ok(true),
            refused => last = refused.map(|_| false),
        }
    }
    last
}

const RSA_PARTS: [u64; 6] = [
    CKA_PRIVATE_EXPONENT,
    CKA_PRIME_1,
    CKA_PRIME_2,
    CKA_EXPONENT_1,
    CKA_EXPONENT_2,
    CKA_COEFFICIENT,
];

fn b02_read_the_numbers_of_an_rsa_key(at: &Attacker) -> Verdict {
    let (_, imported) = own_rsa(at)?;
    let (_, generated) = at.rsa(2048, "w", "su")?;
    if any_read(at, &generated, &RSA_PARTS) == Ok(true) {
        return Ok(true);
    }
    any_read(at, &imported, &RSA_PARTS)
}

fn b02_read_the_number_of_an_ec_key(at: &Attacker) -> Verdict {
    let (_, imported) = own_ec(at)?;
    let (_, generated) = at.ec("sS", &[])?;
    if any_read(at, &generated, &[CKA_VALUE]) == Ok(true) {
        return Ok(true);
    }
    any_read(at, &imported, &[CKA_VALUE])
}

fn b03_read_what_is_neither_sensitive_nor_extractable(at: &Attacker) -> Verdict {
    let key = at.aes(16, "e")?;
    let value = at.get(&key, CKA_VALUE)?;
    at.is_value(&key, &value)
}

fn b04_no_longer_sensitive(at: &Attacker) -> Verdict {
    let target = at.target()?;
    at.set_flag(&target, CKA_SENSITIVE, false)?;
    Ok(!at.is(&target, CKA_SENSITIVE)?)
}

fn b05_extractable_after_all(at: &Attacker) -> Verdict {
    let key = sensitive(at)?;
    at.set_flag(&key, CKA_EXTRACTABLE, true)?;
    at.is(&key, CKA_EXTRACTABLE)
}

fn b06_wrap_what_is_not_extractable(at: &Attacker) -> Verdict {
    let (key, by) = (sensitive(at)?, at.aes(16, "sw")?);
    at.wrap_by(&by, &key).map(|blob| !blob.bytes.is_empty())
}

fn b07_a_copy_that_is_not_sensitive(at: &Attacker) -> Verdict {
    let target = at.target()?;
    let copy = at.copy(&target, &[flag(CKA_SENSITIVE, false)])?;
    Ok(!at.is(&copy, CKA_SENSITIVE)?)
}

fn b08_a_copy_that_is_extractable(at: &Attacker) -> Verdict {
    let key = sensitive(at)?;
    let copy = at.copy(&key, &[flag(CKA_EXTRACTABLE, true)])?;
    at.is(&copy, CKA_EXTRACTABLE)
}

/// What an attack gets while nobody is logged in, in the first process. The login comes back.
fn logged_out<T>(at: &Attacker, job: impl FnOnce() -> T) -> Step<T> {
    let (app, session) = at.first();
    said("C_Logout", app.logout(session))?;
    let got = job();
    said("C_Login", app.login(session, PIN))?;
    Ok(got)
}

fn b09_a_copy_that_is_not_private(at: &Attacker) -> Verdict {
    let target = at.target()?;
    let copy = at.copy(&target, &[flag(CKA_PRIVATE, false)])?;
    public_copy(at, &target, &copy)
}

/// Whether a copy works as the target does while nobody is logged in.
fn public_copy(at: &Attacker, target: &Key, copy: &Key) -> Verdict {
    if at.is(copy, CKA_PRIVATE)? {
        return Err(Stop::Thwarted("the copy is private all the same"));
    }
    let block = at.encrypt(CKM_AES_ECB, target, &[0; 16])?;
    let handle = at.handle(0, copy)?;
    let (app, session) = at.first();
    logged_out(at, || app.encrypt(session, CKM_AES_ECB, handle, &[0; 16]) == Ok(block))
}

/// A session object, for those of the token are private.
fn b09_unwrapped_as_a_public_object(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(32, "swu")?);
    let blob = at.wrap_by(&key, &target)?;
    at.first_next();
    let public = [flag(CKA_TOKEN, false), flag(CKA_PRIVATE, false), flag(CKA_ENCRYPT, true)];
    let copy = at.unwrap_by(&key, &blob, (CKO_SECRET_KEY, CKK_AES), &public)?;
    at.first_next();
    public_copy(at, &target, &copy)
}

fn b10_rewrite_the_history(at: &Attacker) -> Verdict {
    let key = at.import(CKK_AES, &OWN, "se")?;
    let history = [
        flag(CKA_LOCAL, true),
        flag(CKA_ALWAYS_SENSITIVE, true),
        flag(CKA_NEVER_EXTRACTABLE, true),
        number(CKA_KEY_GEN_MECHANISM, CKM_AES_KEY_GEN),
        bytes(CKA_UNIQUE_ID, "another"),
    ];
    let mut last = Ok(false);
    for attribute in history {
        for changed in [
            at.set(&key, std::slice::from_ref(&attribute)).map(|()| key.clone()),
            at.copy(&key, std::slice::from_ref(&attribute)),
        ] {
            match changed {
                Ok(changed) if at.get(&changed, attribute.kind)? == attribute.value => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(stop) => last = Err(stop),
            }
        }
    }
    last
}

fn b11_bring_a_history_along(at: &Attacker) -> Verdict {
    let mut last = Ok(false);
    for kind in [CKA_LOCAL, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE] {
        let template = [number(CKA_KEY_TYPE, CKK_AES), bytes(CKA_VALUE, KNOWN), flag(kind, true)];
        match at.create(CKO_SECRET_KEY, &template) {
            Ok(key) if at.is(&key, kind)? => return Ok(true),
            Ok(_) => {}
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn b12_unwrap_it_as_readable(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swu")?);
    let blob = at.wrap_by(&key, &target)?;
    let open = [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
    let readable = at.unwrap_by(&key, &blob, (CKO_SECRET_KEY, CKK_AES), &open)?;
    let value = at.get(&readable, CKA_VALUE)?;
    at.is_value(&target, &value)
}

/// The attacker's own key, whose CKA_UNWRAP_TEMPLATE decides.
fn prescribed(at: &Attacker, inner: &[Attribute]) -> Step<(Key, Key)> {
    let (target, key) = (
        at.target()?,
        at.generate(CKM_AES_KEY_GEN, 16, "swu", &[prescribes(CKA_UNWRAP_TEMPLATE, inner)])?,
    );
    let blob = at.wrap_by(&key, &target)?;
    let unwrapped = at.unwrap_by(&key, &blob, (CKO_SECRET_KEY, CKK_AES), &[])?;
    Ok((target, unwrapped))
}

fn b12_unwrap_it_by_a_key_that_prescribes_readable_keys(at: &Attacker) -> Verdict {
    let open = [flag(CKA_SENSITIVE, false), flag(CKA_EXTRACTABLE, true)];
    let (target, readable) = prescribed(at, &open)?;
    let value = at.get(&readable, CKA_VALUE)?;
    at.is_value(&target, &value)
}

fn b12_unwrap_it_by_a_key_that_prescribes_extractable_keys(at: &Attacker) -> Verdict {
    let (_, copy) = prescribed(at, &[flag(CKA_EXTRACTABLE, true)])?;
    // It came in by a key that was not trusted to, and goes out by the attacker's.
    let known = at.import(CKK_AES, &KNOWN, "sw")?;
    at.wrap_by(&known, &copy).map(|blob| !blob.bytes.is_empty())
}

fn b13_a_history_after_unwrapping(at: &Attacker) -> Verdict {
    let (target, key) = (at.target()?, at.aes(16, "swu")?);
    let blob = at.wrap_by(&key, &target)?;
    let unwrapped = at.unwrap_aes_by(&key, &blob, "se")?;
    for kind in [CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_LOCAL] {
        if at.is(&unwrapped, kind)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn b14_search_for_the_value(at: &Attacker) -> Verdict {
    // A value of this run alone: what others brought in with the same value is not found for it.
    let value = *b"searched, sixteen"[..16].first_chunk::<16>().expect("sixteen");
    at.import(CKK_AES, &value, "se")?;
    at.finds(&[number(CKA_CLASS, CKO_SECRET_KEY), bytes(CKA_VALUE, value)])
}

fn b15_search_for_the_numbers_of_a_private_key(at: &Attacker) -> Verdict {
    let (rsa, _) = own_rsa(at)?;
    let (ec, _) = own_ec(at)?;
    let prime = rsa.number("rsa-factor1");
    let number_of = ec.number("priv");
    let guesses = [
        bytes(CKA_PRIVATE_EXPONENT, rsa.number("d")),
        bytes(CKA_PRIME_1, prime.clone()),
        bytes(CKA_PRIME_1, &prime[..8]),
        bytes(CKA_PRIME_1, []),
        bytes(CKA_PRIME_1, [&prime[..], &[0]].concat()),
        bytes(CKA_COEFFICIENT, rsa.number("rsa-coefficient1")),
        bytes(CKA_VALUE, number_of.clone()),
        bytes(CKA_VALUE, &number_of[..1]),
        bytes(CKA_VALUE, []),
    ];
    for guess in guesses {
        if at.finds(&[number(CKA_CLASS, CKO_PRIVATE_KEY), guess])? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Of one byte the attacker tries all; the others are refused alike.
fn b16_the_check_value_of_a_short_secret(at: &Attacker) -> Verdict {
    let mut last = Ok(false);
    for length in 1..16 {
        let secret = vec![0xC7; length];
        let key = at.import(CKK_GENERIC_SECRET, &secret, "sS")?;
        match at.get(&key, CKA_CHECK_VALUE) {
            Ok(check) => return Ok(openssl::digest("sha1", &secret)[..3] == check[..]),
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn b17_a_value_among_other_attributes(at: &Attacker) -> Verdict {
    let (_, key) = own_rsa(at)?;
    at.set(&key, &[bytes(CKA_ID, "id")])?;
    let (app, session) = at.first();
    let handle = at.handle(0, &key)?;
    let mut room = Memory::default();
    for (kind, length) in [
        (CKA_LABEL, 64),
        (CKA_PRIVATE_EXPONENT, 128),
        (CKA_ID, 8),
        (CKA_VENDOR_DEFINED | 0x7777, 8),
        (CKA_MODULUS, 8),
    ] {
        room.push_word(kind);
        room.push_pointer(Memory::room(length));
        room.push_word(length as u64);
    }
    let arguments = vec![session.into(), handle.into(), room.into(), 5.into()];
    let (rv, arguments) = app.raw("C_GetAttributeValue", arguments);
    let memory = arguments[2].memory();
    let length = |index: usize| memory.word_at(24 * index + 16);
    let untouched = |index: usize| memory.pointers[index].1.bytes.iter().all(|byte| *byte == 0xA5);
    let kept = [1, 3, 4].iter().all(|index| length(*index) == u64::MAX && untouched(*index));
    let told = length(2) == 2 && memory.pointers[2].1.bytes.starts_with(b"id") && !untouched(0);
    assert!(told, "what is no secret is told beside it");
    if !kept {
        return Ok(true);
    }
    said("C_GetAttributeValue", Err(swtpm_tests::ck::Rv(rv)))
}

fn b18_the_size_tells_the_value(at: &Attacker) -> Verdict {
    let (app, session) = at.first();
    let mut sizes = Vec::new();
    for value in [[0; 16], [0xFF; 16], KNOWN, OWN, [1; 16], [0x80; 16]] {
        let template = [
            number(CKA_KEY_TYPE, CKK_AES),
            number(CKA_CLASS, CKO_SECRET_KEY),
            bytes(CKA_VALUE, value),
            flag(CKA_TOKEN, at.on_token()),
        ];
        let made = [&template[..], &letters("se", SECRET)].concat();
        let handle = said("C_CreateObject", app.create_object(session, &made))?;
        sizes.push(said("C_GetObjectSize", app.object_size(session, handle))?);
        said("C_DestroyObject", app.destroy_object(session, handle))?;
    }
    Ok(sizes.iter().any(|size| *size != sizes[0]))
}

fn b19_every_attribute_that_there_is(at: &Attacker) -> Verdict {
    const AT_ONCE: u64 = 4096;
    let key = at.import(CKK_AES, &OWN, "sxe")?;
    let (app, session) = at.first();
    let handle = at.handle(0, &key)?;
    let starts = [0, CKA_VENDOR_DEFINED, CKF_ARRAY_ATTRIBUTE].into_iter();
    let ours = (0..16).map(|part| (CKA_VENDOR_DEFINED | 0x5450_0000) + part * AT_ONCE);
    for start in starts.chain(ours) {
        let kinds: Vec<u64> = (start..start + AT_ONCE).collect();
        let (_, told) = app.attributes(session, handle, &kinds);
        if told.iter().flatten().any(|value| value.windows(16).any(|window| window == OWN)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn b20_replace_the_value(at: &Attacker) -> Verdict {
    let key = at.import(CKK_AES, &OWN, "se")?;
    let mut last = Ok(false);
    for value in [&KNOWN[..], &KNOWN[..1], &[&KNOWN[..], &KNOWN].concat()] {
        match at.set(&key, &[bytes(CKA_VALUE, value)]) {
            Ok(()) if !at.is_value(&key, &OWN)? => return Ok(true),
            Ok(()) => {}
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn b21_replace_what_a_key_is(at: &Attacker) -> Verdict {
    let (public, _) = at.rsa(2048, "w", "su")?;
    let (point, _) = at.ec("sS", &[])?;
    let changes = [
        (&public, bytes(CKA_MODULUS, vec![0xC1; 256])),
        (&public, bytes(CKA_PUBLIC_EXPONENT, [3])),
        (&public, bytes(CKA_PUBLIC_KEY_INFO, [0x30, 0])),
        (&public, number(CKA_KEY_TYPE, CKK_EC)),
        (&public, number(CKA_CLASS, CKO_PRIVATE_KEY)),
        (&point, bytes(CKA_EC_PARAMS, swtpm_tests::ck::P384)),
        (&point, bytes(CKA_EC_POINT, [4; 67])),
    ];
    let mut last = Ok(false);
    for (key, change) in changes {
        let before = at.get(key, change.kind)?;
        match at.set(key, std::slice::from_ref(&change)) {
            Ok(()) if at.get(key, change.kind)? != before => return Ok(true),
            Ok(()) => {}
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn with(at: &Attacker, given: &str, more: &[Attribute]) -> Step<Key> {
    at.generate(CKM_AES_KEY_GEN, 16, given, more)
}

/// Both steps, each by itself; the first that works is enough.
fn either(one: Verdict, other: impl FnOnce() -> Verdict) -> Verdict {
    match one {
        Ok(true) => Ok(true),
        Ok(false) => other(),
        Err(stop) => other().and_then(|got| if got { Ok(true) } else { Err(stop) }),
    }
}

fn b22_change_what_is_not_modifiable(at: &Attacker) -> Verdict {
    let key = with(at, "se", &[flag(CKA_MODIFIABLE, false)])?;
    let again = at.set_flag(&key, CKA_MODIFIABLE, true).map(|()| true);
    either(again, || at.set(&key, &[bytes(CKA_ID, "changed")]).map(|()| true))
}

fn b22_a_copy_that_is_modifiable_again(at: &Attacker) -> Verdict {
    let key = with(at, "se", &[flag(CKA_MODIFIABLE, false)])?;
    let copy = at.copy(&key, &[flag(CKA_MODIFIABLE, true)])?;
    at.set(&copy, &[bytes(CKA_ID, "changed")])?;
    Ok(at.get(&copy, CKA_ID)? == b"changed")
}

fn b23_copy_what_is_not_copyable(at: &Attacker) -> Verdict {
    let key = with(at, "se", &[flag(CKA_COPYABLE, false)])?;
    let again = at.set_flag(&key, CKA_COPYABLE, true).map(|()| true);
    either(again, || at.copy(&key, &[]).map(|_| true))
}

fn b24_destroy_what_is_not_destroyable(at: &Attacker) -> Verdict {
    let key = with(at, "se", &[flag(CKA_DESTROYABLE, false)])?;
    let at_once = at.destroy(&key).map(|()| true);
    either(at_once, || {
        at.set_flag(&key, CKA_DESTROYABLE, true)?;
        at.destroy(&key)?;
        Ok(true)
    })
}

/// A key for GCM alone: what ECB makes of zeros is what GCM authenticates with.
fn limited(at: &Attacker) -> Step<Key> {
    with(at, "se", &[number(CKA_ALLOWED_MECHANISMS, CKM_AES_GCM)])
}

fn b25_another_mechanism(at: &Attacker) -> Verdict {
    let key = limited(at)?;
    at.encrypt(CKM_AES_ECB, &key, &[0; 16]).map(|_| true)
}

fn more_mechanisms() -> [Attribute; 1] {
    let both = [CKM_AES_GCM, CKM_AES_ECB].map(u64::to_ne_bytes).concat();
    [bytes(CKA_ALLOWED_MECHANISMS, both)]
}

fn b25_more_mechanisms(at: &Attacker) -> Verdict {
    let key = limited(at)?;
    at.set(&key, &more_mechanisms())?;
    at.encrypt(CKM_AES_ECB, &key, &[0; 16]).map(|_| true)
}

fn b25_a_copy_with_more_mechanisms(at: &Attacker) -> Verdict {
    let key = limited(at)?;
    let copy = at.copy(&key, &more_mechanisms())?;
    at.encrypt(CKM_AES_ECB, &copy, &[0; 16]).map(|_| true)
}

fn b25_unwrapped_without_its_limits(at: &Attacker) -> Verdict {
    let limited = with(at, "sxe", &[number(CKA_ALLOWED_MECHANISMS, CKM_AES_GCM)])?;
    let by = at.aes(16, "swu")?;
    let blob = at.wrap_by(&by, &limited)?;
    let free = at.unwrap_aes_by(&by, &blob, "e")?;
    at.encrypt(CKM_AES_ECB, &free, &[0; 16]).map(|_| true)
}

fn b26_no_longer_for_trusted_keys_alone(at: &Attacker) -> Verdict {
    let key = at.aes(16, "sxet")?;
    at.set_flag(&key, CKA_WRAP_WITH_TRUSTED, false)?;
    Ok(!at.is(&key, CKA_WRAP_WITH_TRUSTED)?)
}

fn b26_a_copy_for_every_key(at: &Attacker) -> Verdict {
    let key = at.aes(16, "sxet")?;
    let copy = at.copy(&key, &[flag(CKA_WRAP_WITH_TRUSTED, false)])?;
    Ok(!at.is(&copy, CKA_WRAP_WITH_TRUSTED)?)
}

fn b26_unwrapped_for_every_key(at: &Attacker) -> Verdict {
    let (key, by) = (at.aes(16, "sxet")?, at.aes(16, "swu")?);
    let blob = at.wrap_by(&by, &key)?;
    let unwrapped = at.unwrap_aes_by(&by, &blob, "sxe")?;
    Ok(!at.is(&unwrapped, CKA_WRAP_WITH_TRUSTED)?)
}

fn b27_wrap_by_an_untrusted_key(at: &Attacker) -> Verdict {
    let (key, by) = (at.aes(16, "sxet")?, at.aes(16, "sw")?);
    at.wrap_by(&by, &key).map(|blob| !blob.bytes.is_empty())
}

fn b28_trust_by_the_user(at: &Attacker) -> Verdict {
    let trusted = flag(CKA_TRUSTED, true);
    let own = openssl::Key::generate("RSA", &["rsa_keygen_bits:1024"]);
    let public = [
        number(CKA_KEY_TYPE, CKK_RSA),
        bytes(CKA_MODULUS, own.number("n")),
        bytes(CKA_PUBLIC_EXPONENT, own.number("e")),
    ];
    let plain = at.create(CKO_PUBLIC_KEY, &public)?;
    let secret = at.aes(16, "sw")?;
    let unwraps = at.aes(16, "swu")?;
    let wrapped = at.wrap_by(&unwraps, &at.target()?)?;
    let readable = at.import(CKK_GENERIC_SECRET, &[7; 32], "xD")?;
    let certificate = [
        number(CKA_CERTIFICATE_TYPE, CKC_X_509),
        bytes(CKA_SUBJECT, [0x30, 0]),
        bytes(CKA_VALUE, [0x30, 0]),
        trusted.clone(),
    ];
    let curve = bytes(CKA_EC_PARAMS, P256);
    let hkdf = Mechanism::hkdf(CKM_HKDF_DERIVE, CKM_SHA256, None, Some(b"info"));
    let tries: Vec<Step<Key>> = vec![
        at.import(CKK_AES, &KNOWN, "seT"),
        at.create(CKO_PUBLIC_KEY, &[&public[..], std::slice::from_ref(&trusted)].concat()),
        at.create(CKO_CERTIFICATE, &certificate),
        at.generate(CKM_AES_KEY_GEN, 16, "swT", &[]),
        at.pair(CKM_EC_KEY_PAIR_GEN, &[curve, trusted.clone()], &[]).map(|pair| pair.0),
        at.set(&plain, std::slice::from_ref(&trusted)).map(|()| plain.clone()),
        at.set(&secret, std::slice::from_ref(&trusted)).map(|()| secret.clone()),
        at.copy(&plain, std::slice::from_ref(&trusted)),
        at.copy(&secret, std::slice::from_ref(&trusted)),
        at.unwrap_aes_by(&unwraps, &wrapped, "T"),
        at.derive(hkdf, &readable, CKK_GENERIC_SECRET, &[number(CKA_VALUE_LEN, 32), trusted]),
    ];
    let mut last = Ok(false);
    for key in tries {
        match key {
            Ok(key) if at.is(&key, CKA_TRUSTED)? => return Ok(true),
            Ok(_) => {}
            Err(stop @ Stop::Refused(..)) => last = Err(stop),
            Err(_) => {}
        }
    }
    last
}

/// An SO sees no private keys, and keys of the token are private: this is about session keys.
fn b29_a_secret_key_trusted_by_the_so(at: &Attacker) -> Verdict {
    trusted_by_the_so(at, "sw")
}

fn b29_a_key_that_decrypts_trusted_by_the_so(at: &Attacker) -> Verdict {
    trusted_by_the_so(at, "swd")
}

fn trusted_by_the_so(at: &Attacker, given: &str) -> Verdict {
    if at.stage == Stage::TwoProcesses {
        return Err(Stop::Thwarted("keys of the token are private, and not the SO's to see"));
    }
    let (app, session) = at.first();
    let mut template = vec![
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, CKK_AES),
        bytes(CKA_VALUE, KNOWN),
        flag(CKA_PRIVATE, false),
    ];
    template.extend(letters(given, SECRET));
    let made = logged_out(at, || {
        let made = said("C_CreateObject", app.create_object(session, &template))?;
        trust(at, made, true).map(|()| made)
    })??;
    Ok(app.attribute_flag(session, made, CKA_TRUSTED) == Ok(true))
}

/// The SO's word, where nobody is logged in.
fn trust(at: &Attacker, object: u64, trusted: bool) -> Step<()> {
    let (app, session) = at.first();
    said("C_Login", app.login_so(session, SO_PIN))?;
    let set = app.set_attributes(session, object, &[flag(CKA_TRUSTED, trusted)]);
    said("C_Logout", app.logout(session))?;
    said("C_SetAttributeValue", set)
}

/// The SO trusts a key for a while. A copy that he cannot see is none of what he took back; it is of the
/// token, as it has to live through his login, and has the label of the original, which he alone may change.
fn b28_a_copy_that_stays_trusted(at: &Attacker) -> Verdict {
    let public = outsiders(at)?;
    let label = at.get(&public, CKA_LABEL)?;
    let original = at.handle(0, &public)?;
    logged_out(at, || trust(at, original, true))??;
    let copied = at.raw("C_CopyObject", &[&public], |session, keys| {
        let hidden = template(&[flag(CKA_TOKEN, true), flag(CKA_PRIVATE, true)]);
        vec![session.into(), keys[0].into(), hidden.into(), 2.into(), Memory::room(8).into()]
    });
    logged_out(at, || trust(at, original, false))??;
    at.destroy(&public)?;
    copied?;
    let copy = Key::named(CKO_PUBLIC_KEY, &String::from_utf8_lossy(&label));
    for_the_outsider(at, &copy, &at.aes(16, "sxet")?)
}

fn asking(at: &Attacker) -> Step<Key> {
    at.ec("sS", &[flag(CKA_ALWAYS_AUTHENTICATE, true)]).map(|(_, private)| private)
}

fn b30_never_ask_for_the_pin_again(at: &Attacker) -> Verdict {
    let key = asking(at)?;
    at.set_flag(&key, CKA_ALWAYS_AUTHENTICATE, false)?;
    at.sign(CKM_ECDSA, &key, &[1; 32]).map(|_| true)
}

fn b30_a_copy_that_does_not_ask(at: &Attacker) -> Verdict {
    let key = asking(at)?;
    let copy = at.copy(&key, &[flag(CKA_ALWAYS_AUTHENTICATE, false)])?;
    at.sign(CKM_ECDSA, &copy, &[1; 32]).map(|_| true)
}

fn b30_unwrapped_it_does_not_ask(at: &Attacker) -> Verdict {
    let (_, key) = at.ec("sxS", &[flag(CKA_ALWAYS_AUTHENTICATE, true)])?;
    let by = at.aes(32, "swu")?;
    let blob = at.wrap_by(&by, &key)?;
    let free = at.unwrap_by(&by, &blob, (CKO_PRIVATE_KEY, CKK_EC), &[flag(CKA_SIGN, true)])?;
    at.sign(CKM_ECDSA, &free, &[1; 32]).map(|_| true)
}

fn b31_use_after_the_end_date(at: &Attacker) -> Verdict {
    let key = with(at, "se", &[bytes(CKA_END_DATE, "20200101")])?;
    let used = |key: &Key| at.encrypt(CKM_AES_ECB, key, &[0; 16]).map(|_| true);
    let later = [bytes(CKA_END_DATE, "29990101")];
    either(used(&key), || {
        either(at.copy(&key, &later).and_then(|copy| used(&copy)), || {
            at.set(&key, &later)?;
            used(&key)
        })
    })
}

fn b31_a_date_moved_by_the_template(at: &Attacker) -> Verdict {
    let ended = prescribes(CKA_DERIVE_TEMPLATE, &[bytes(CKA_END_DATE, "20200101")]);
    let base = at.generate(CKM_GENERIC_SECRET_KEY_GEN, 32, "sD", &[ended])?;
    let hkdf = Mechanism::hkdf(CKM_HKDF_DERIVE, CKM_SHA256, None, Some(b"info"));
    let mut later = vec![number(CKA_VALUE_LEN, 16), bytes(CKA_END_DATE, "20991231")];
    later.extend(letters("se", SECRET));
    let derived = at.derive(hkdf, &base, CKK_AES, &later)?;
    at.encrypt(CKM_AES_ECB, &derived, &[0; 16]).map(|_| true)
}

/// Its owner knows the key, so that the judge does.
fn b31_a_start_date_lost_by_wrap_and_unwrap(at: &Attacker) -> Verdict {
    let mut begins = vec![
        number(CKA_KEY_TYPE, CKK_AES),
        bytes(CKA_VALUE, OWN),
        bytes(CKA_START_DATE, "20990101"),
    ];
    begins.extend(letters("sxe", SECRET));
    let (key, by) = (at.create(CKO_SECRET_KEY, &begins)?, at.aes(16, "swu")?);
    let blob = at.wrap_by(&by, &key)?;
    let back = at.unwrap_aes_by(&by, &blob, "e")?;
    at.is_value(&back, &OWN)
}
