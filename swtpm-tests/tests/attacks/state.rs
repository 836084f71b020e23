//! Group E: states, sessions, roles, PINs. What changes a PIN or the token itself has a token of its own
//! (the tests at the end); the rest are cases like those of the other groups.

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN};
use swtpm_tests::ck::{Answer, Rv, bytes, flag, number};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::{App, Attribute, Bench, Setup};

use super::attacker::{Attacker, Key, SECRET, Step, Stop, Verdict, letters, said};
use super::{Case, cases};

pub static CASES: &[Case] = cases![
    e01_save_a_digest_with_a_key_in_it
    e02_save_an_operation_with_a_key
    e03_restore_bytes_that_are_no_state
    e04_restore_a_state_of_elsewhere
    e05_go_on_after_a_logout
    e06_find_before_a_login
    e07_guess_handles_before_a_login
    e08_make_private_objects_before_a_login
    e09_write_in_a_read_only_session
    e10_private_objects_for_the_so
    e10_an_so_beside_read_only_sessions
    e11_sign_without_the_pin_of_each_use
    e12_one_pin_for_two_operations
    e13_log_in_twice
    e17_a_pin_by_others_than_the_so
    e21_handles_of_an_earlier_life
    e23_secret_and_private_keys_for_everybody
];

/// Whether any of these calls worked; else how the last was refused.
fn any<T>(tries: impl IntoIterator<Item = (&'static str, Answer<T>)>) -> Verdict {
    let mut last = Ok(false);
    for (function, answer) in tries {
        match said(function, answer) {
            Ok(_) => return Ok(true),
            Err(stop) => last = Err(stop),
        }
    }
    last
}

fn save(app: &App, session: u64) -> Answer<()> {
    let arguments = vec![session.into(), Memory::room(4096).into(), Memory::word(4096).into()];
    match app.raw("C_GetOperationState", arguments) {
        (CKR_OK, _) => Ok(()),
        (rv, _) => Err(Rv(rv)),
    }
}

fn restore(app: &App, session: u64, state: &[u8]) -> Answer<()> {
    let length = (state.len() as u64).into();
    let arguments = vec![session.into(), Memory::of(state).into(), length, 0.into(), 0.into()];
    match app.raw("C_SetOperationState", arguments) {
        (CKR_OK, _) => Ok(()),
        (rv, _) => Err(Rv(rv)),
    }
}

/// Where the attacker is, with a session of its own there.
fn aside<T>(at: &Attacker, job: impl FnOnce(&App, u64) -> Step<T>) -> Step<T> {
    let (app, _) = at.first();
    let session = said("C_OpenSession", app.open(at.slot()))?;
    let got = job(app, session);
    said("C_CloseSession", app.close_session(session))?;
    got
}

/// As [`aside`], while nobody is logged in.
fn public<T>(at: &Attacker, job: impl FnOnce(&App, u64) -> Step<T>) -> Step<T> {
    let (app, session) = at.first();
    said("C_Logout", app.logout(session))?;
    let got = aside(at, job);
    // A job that logged the SO in has left it so.
    let _ = app.logout(session);
    said("C_Login", app.login(session, PIN))?;
    got
}

fn e01_save_a_digest_with_a_key_in_it(at: &Attacker) -> Verdict {
    let key = at.import(CKK_GENERIC_SECRET, &[7; 32], "xS")?;
    let key = at.handle(0, &key)?;
    aside(at, |app, session| {
        said("C_DigestInit", app.digest_init(session, CKM_SHA256))?;
        said("C_DigestKey", app.digest_key(session, key))?;
        any([("C_GetOperationState", save(app, session))])
    })
}

fn e02_save_an_operation_with_a_key(at: &Attacker) -> Verdict {
    let (mac, aes) = (at.generic("sS")?, at.aes(16, "sed")?);
    let (mac, aes) = (at.handle(0, &mac)?, at.handle(0, &aes)?);
    aside(at, |app, session| {
        let mut tries = Vec::new();
        said("C_SignInit", app.sign_init(session, CKM_SHA256_HMAC, mac))?;
        tries.push(("C_GetOperationState", save(app, session)));
        said("C_EncryptInit", app.encrypt_init(session, CKM_AES_ECB, aes))?;
        tries.push(("C_GetOperationState", save(app, session)));
        said("C_DecryptInit", app.decrypt_init(session, CKM_AES_ECB, aes))?;
        tries.push(("C_GetOperationState", save(app, session)));
        any(tries)
    })
}

fn e03_restore_bytes_that_are_no_state(at: &Attacker) -> Verdict {
    aside(at, |app, session| {
        said("C_DigestInit", app.digest_init(session, CKM_SHA256))?;
        let tries = [0, 1, 8, 32, 112, 256].map(|length| {
            let state: Vec<u8> = (0..length).map(|index| index as u8).collect();
            ("C_SetOperationState", restore(app, session, &state))
        });
        let verdict = any(tries);
        // What was going on goes on.
        assert!(app.digest_final(session).is_ok());
        verdict
    })
}

/// No state is ever given out, so that of elsewhere is one of another module's: SoftHSM's begins with zeros.
fn e04_restore_a_state_of_elsewhere(at: &Attacker) -> Verdict {
    aside(at, |app, session| {
        any([0x00, 0xFF].map(|byte| ("C_SetOperationState", restore(app, session, &[byte; 240]))))
    })
}

fn e05_go_on_after_a_logout(at: &Attacker) -> Verdict {
    let key = at.generic("sS")?;
    let handle = at.handle(0, &key)?;
    let (app, session) = at.first();
    let other = said("C_OpenSession", app.open(at.slot()))?;
    said("C_SignInit", app.sign_init(session, CKM_SHA256_HMAC, handle))?;
    said("C_Logout", app.logout(other))?;
    let tries = [
        ("C_Sign", app.sign_now(session, b"data").map(drop)),
        ("C_SignInit", app.sign_init(session, CKM_SHA256_HMAC, handle)),
        ("C_GetAttributeValue", app.attribute(session, handle, CKA_LABEL).map(drop)),
        ("C_SetAttributeValue", app.set_attributes(session, handle, &[bytes(CKA_ID, "x")])),
        ("C_CopyObject", app.copy_object(session, handle, &[]).map(drop)),
        ("C_DestroyObject", app.destroy_object(session, handle)),
    ];
    said("C_Login", app.login(session, PIN))?;
    let verdict = any(tries);
    // Nothing that comes later has the handle of what was there before.
    let later = at.generic("sS")?;
    assert_ne!(at.handle(0, &later)?, handle);
    said("C_CloseSession", app.close_session(other))?;
    verdict
}

fn e06_find_before_a_login(at: &Attacker) -> Verdict {
    let template = [vec![number(CKA_VALUE_LEN, 32), flag(CKA_TOKEN, true)], letters("sS", SECRET)];
    at.generate_of(CKM_GENERIC_SECRET_KEY_GEN, &template.concat())?;
    let (_, private) = at.rsa(2048, "w", "su")?;
    let id = at.get(&private, CKA_ID)?;
    public(at, |app, session| {
        let found = [
            vec![number(CKA_CLASS, CKO_PRIVATE_KEY)],
            vec![number(CKA_CLASS, CKO_SECRET_KEY)],
            vec![flag(CKA_PRIVATE, true)],
            vec![number(CKA_CLASS, CKO_PRIVATE_KEY), bytes(CKA_ID, id.clone())],
        ]
        .map(|wanted| app.find(session, &wanted).unwrap_or_default());
        let private = |object| app.attribute_flag(session, object, CKA_PRIVATE) != Ok(false);
        Ok(found.into_iter().flatten().any(private))
    })
}

fn e07_guess_handles_before_a_login(at: &Attacker) -> Verdict {
    let key = at.generic("sS")?;
    let (_, private) = at.rsa(2048, "w", "su")?;
    let known = [at.handle(0, &key)?, at.handle(0, &private)?];
    public(at, |app, session| {
        let never = app.attributes(session, u64::MAX - 1, &[CKA_LABEL]).0;
        let guesses = (1..=1000).chain(known).chain(known.iter().flat_map(|handle| {
            (1..200).flat_map(move |delta| [handle.wrapping_sub(delta), handle + delta])
        }));
        for handle in guesses {
            let (rv, _) = app.attributes(session, handle, &[CKA_LABEL]);
            let shown = rv == CKR_OK;
            let private = !shown || app.attribute_flag(session, handle, CKA_PRIVATE) == Ok(true);
            if shown && private || !shown && rv != never {
                return Ok(true);
            }
        }
        Err(Stop::Refused("C_GetAttributeValue".to_owned(), Rv(never)))
    })
}

fn e08_make_private_objects_before_a_login(at: &Attacker) -> Verdict {
    public(at, |app, session| {
        let value = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_AES),
            bytes(CKA_VALUE, [7; 16]),
        ];
        let with = |more: Attribute| [&value[..], &[more]].concat();
        let data = [number(CKA_CLASS, CKO_DATA), flag(CKA_TOKEN, true)];
        let curve = [bytes(CKA_EC_PARAMS, swtpm_tests::ck::P256)];
        let pair = app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &curve, &[]);
        let length = [number(CKA_VALUE_LEN, 16), flag(CKA_PRIVATE, true)];
        any([
            ("C_CreateObject", app.create_object(session, &with(flag(CKA_PRIVATE, true)))),
            ("C_CreateObject", app.create_object(session, &with(flag(CKA_TOKEN, true)))),
            ("C_CreateObject", app.create_object(session, &data)),
            ("C_GenerateKey", app.generate_key(session, CKM_AES_KEY_GEN, &length)),
            ("C_GenerateKeyPair", pair.map(|pair| pair.0)),
        ])
    })
}

fn e09_write_in_a_read_only_session(at: &Attacker) -> Verdict {
    let (app, _) = at.first();
    let template = [vec![number(CKA_VALUE_LEN, 16), flag(CKA_TOKEN, true)], letters("se", SECRET)];
    let stored = at.generate_of(CKM_AES_KEY_GEN, &template.concat())?;
    let stored = at.handle(0, &stored)?;
    let session = said("C_OpenSession", app.open_session(at.slot(), 0))?;
    let token = flag(CKA_TOKEN, true);
    let data = [number(CKA_CLASS, CKO_DATA), token.clone()];
    let curve = [bytes(CKA_EC_PARAMS, swtpm_tests::ck::P256), token.clone()];
    let pair = app.generate_pair(session, CKM_EC_KEY_PAIR_GEN, &curve, &[]);
    let length = [number(CKA_VALUE_LEN, 16), token.clone()];
    let tries = [
        ("C_CreateObject", app.create_object(session, &data).map(drop)),
        ("C_CopyObject", app.copy_object(session, stored, std::slice::from_ref(&token)).map(drop)),
        ("C_DestroyObject", app.destroy_object(session, stored)),
        ("C_SetAttributeValue", app.set_attributes(session, stored, &[bytes(CKA_ID, "x")])),
        ("C_GenerateKey", app.generate_key(session, CKM_AES_KEY_GEN, &length).map(drop)),
        ("C_GenerateKeyPair", pair.map(drop)),
    ];
    let own = app.generate_key(session, CKM_AES_KEY_GEN, &length[..1]);
    said("C_CloseSession", app.close_session(session))?;
    said("C_GenerateKey", own)?;
    any(tries)
}

fn e10_private_objects_for_the_so(at: &Attacker) -> Verdict {
    let (_, private) = at.rsa(2048, "w", "su")?;
    let handle = at.handle(0, &private)?;
    public(at, |app, session| {
        said("C_Login", app.login_so(session, SO_PIN))?;
        let found = app.find(session, &[flag(CKA_PRIVATE, true)]);
        if found.is_ok_and(|found| !found.is_empty()) {
            return Ok(true);
        }
        any([
            ("C_DecryptInit", app.decrypt_init(session, CKM_RSA_PKCS, handle)),
            ("C_GetAttributeValue", app.attribute(session, handle, CKA_LABEL).map(drop)),
        ])
    })
}

fn e10_an_so_beside_read_only_sessions(at: &Attacker) -> Verdict {
    let slot = at.slot();
    public(at, |app, session| {
        let reader = said("C_OpenSession", app.open_session(slot, 0))?;
        let login = app.login_so(session, SO_PIN);
        said("C_CloseSession", app.close_session(reader))?;
        if login.is_ok() {
            return Ok(true);
        }
        said("C_Login", app.login_so(session, SO_PIN))?;
        any([("C_OpenSession", app.open_session(slot, 0))])
    })
}

/// A pair that asks for the PIN at each use.
fn asking(at: &Attacker) -> Step<Key> {
    at.ec("sS", &[flag(CKA_ALWAYS_AUTHENTICATE, true)]).map(|(_, private)| private)
}

fn e11_sign_without_the_pin_of_each_use(at: &Attacker) -> Verdict {
    let key = asking(at)?;
    let key = at.handle(0, &key)?;
    aside(at, |app, session| {
        let context = |pin: &[u8]| app.login_as(session, CKU_CONTEXT_SPECIFIC, pin);
        let digest = [1; 32];
        let mut tries = vec![
            ("C_Login", context(PIN)),
            ("C_Sign", app.sign(session, CKM_ECDSA, key, &digest).map(drop)),
        ];
        said("C_SignInit", app.sign_init(session, CKM_ECDSA, key))?;
        tries.push(("C_Login", context(b"wrong-1234")));
        tries.push(("C_Sign", app.sign_now(session, &digest).map(drop)));
        // Once right: one signature, and a question for its length in between costs nothing.
        let _ = app.sign_init(session, CKM_ECDSA, key);
        said("C_Login", context(PIN))?;
        let arguments = vec![
            session.into(),
            Memory::of(digest).into(),
            32.into(),
            Argument::NULL,
            Memory::word(0).into(),
        ];
        assert_eq!(app.raw("C_Sign", arguments).0, CKR_OK);
        said("C_Sign", app.sign_now(session, &digest))?;
        tries.push(("C_Sign", app.sign(session, CKM_ECDSA, key, &digest).map(drop)));
        // In parts: until the end, and no longer.
        said("C_SignInit", app.sign_init(session, CKM_ECDSA_SHA256, key))?;
        said("C_Login", context(PIN))?;
        said("C_SignUpdate", app.sign_update(session, b"one"))?;
        said("C_SignUpdate", app.sign_update(session, b"two"))?;
        said("C_SignFinal", app.sign_final(session))?;
        said("C_SignInit", app.sign_init(session, CKM_ECDSA_SHA256, key))?;
        tries.push(("C_SignFinal", app.sign_final(session).map(drop)));
        any(tries)
    })
}

fn e12_one_pin_for_two_operations(at: &Attacker) -> Verdict {
    let (one, other) = (asking(at)?, asking(at)?);
    let (one, other) = (at.handle(0, &one)?, at.handle(0, &other)?);
    aside(at, |app, session| {
        let second = said("C_OpenSession", app.open(at.slot()))?;
        said("C_SignInit", app.sign_init(session, CKM_ECDSA, one))?;
        said("C_SignInit", app.sign_init(second, CKM_ECDSA, other))?;
        said("C_Login", app.login_as(second, CKU_CONTEXT_SPECIFIC, PIN))?;
        let first = app.sign_now(session, &[1; 32]).map(drop);
        let own = app.sign_now(second, &[1; 32]);
        said("C_CloseSession", app.close_session(second))?;
        said("C_Sign", own)?;
        any([("C_Sign", first)])
    })
}

fn e13_log_in_twice(at: &Attacker) -> Verdict {
    let mark = at.bench.shim.mark();
    let verdict = aside(at, |app, session| {
        any([
            ("C_Login", app.login(session, b"wrong-1234")),
            ("C_Login", app.login_so(session, b"wrong-1234")),
            ("C_Login", app.login_so(session, SO_PIN)),
            ("C_Login", app.login(session, PIN)),
        ])
    });
    assert_eq!(at.bench.shim.pin_tries(mark), 0, "no try is spent");
    verdict
}

fn e17_a_pin_by_others_than_the_so(at: &Attacker) -> Verdict {
    let by_the_user =
        aside(at, |app, session| any([("C_InitPIN", app.init_pin(session, b"others-9999"))]))
            .is_ok();
    if by_the_user {
        return Ok(true);
    }
    public(at, |app, session| any([("C_InitPIN", app.init_pin(session, b"others-9999"))]))
}

fn e21_handles_of_an_earlier_life(at: &Attacker) -> Verdict {
    let app = at.bench.ready();
    let slot = app.slot_of(LABEL).ok_or(Stop::Thwarted("no token"))?;
    let before = said("C_OpenSession", app.open(slot))?;
    said("C_Login", app.login(before, PIN))?;
    let found = said("C_FindObjects", app.find(before, &[]))?;
    said("C_Finalize", app.finalize())?;
    said("C_Initialize", app.initialize())?;
    let session = said("C_OpenSession", app.open(slot))?;
    said("C_Login", app.login(session, PIN))?;
    let mut tries = vec![("C_GetSessionInfo", app.session_info(before).map(drop))];
    for handle in found {
        tries.push(("C_GetAttributeValue", app.attribute(session, handle, CKA_LABEL).map(drop)));
    }
    any(tries)
}

fn e23_secret_and_private_keys_for_everybody(at: &Attacker) -> Verdict {
    let open = flag(CKA_PRIVATE, false);
    let template = [vec![number(CKA_VALUE_LEN, 32), open.clone()], letters("sS", SECRET)].concat();
    let token = [vec![flag(CKA_TOKEN, true)], template].concat();
    let secret = at.generate_of(CKM_GENERIC_SECRET_KEY_GEN, &token)?;
    let (_, private) = at.ec("sS", &[open])?;
    let handles = [at.handle(0, &secret)?, at.handle(0, &private)?];
    public(at, |app, session| {
        any([
            ("C_SignInit", app.sign_init(session, CKM_SHA256_HMAC, handles[0])),
            ("C_SignInit", app.sign_init(session, CKM_ECDSA, handles[1])),
        ])
    })
}

// ---- with a token of its own ------------------------------------------------------------------------

fn own() -> (Bench, App, u64, u64) {
    let bench = Setup::default().config("[pin]\nkdf_iterations = 1000\nlimit = 4").start();
    bench.token();
    let app = bench.ready();
    let slot = app.slot_of(LABEL).expect("the token");
    let session = app.open(slot).expect("C_OpenSession");
    (bench, app, slot, session)
}

#[test]
fn e14_initialising_a_token_needs_its_so_and_no_sessions() {
    let (bench, app, slot, session) = own();
    app.login(session, PIN).expect("C_Login");
    // One that nobody destroys, B24: a new token has it no more (below).
    let template = [number(CKA_VALUE_LEN, 16), flag(CKA_TOKEN, true), flag(CKA_DESTROYABLE, false)];
    app.generate_key(session, CKM_AES_KEY_GEN, &template).expect("C_GenerateKey");
    assert_eq!(app.init_token(slot, SO_PIN, LABEL), Err(Rv(CKR_SESSION_EXISTS)));
    app.close_session(session).expect("C_CloseSession");
    let mark = bench.shim.mark();
    assert_eq!(app.init_token(slot, b"wrong-1234", LABEL), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(bench.shim.pin_tries(mark), 1, "one try");
    let session = app.open(slot).expect("C_OpenSession");
    app.login(session, PIN).expect("the token is what it was");
    assert_eq!(app.find(session, &[]).expect("C_FindObjects").len(), 1);
    app.close_session(session).expect("C_CloseSession");
    // The right PIN: a label of 31 bytes and one that is padded are labels.
    let label = "a label of thirty-one bytes, ok";
    assert_eq!(label.len(), 31);
    app.init_token(slot, SO_PIN, label).expect("C_InitToken");
    let session = app.open(slot).expect("C_OpenSession");
    app.login_so(session, SO_PIN).expect("C_Login");
    app.init_pin(session, PIN).expect("C_InitPIN");
    app.logout(session).expect("C_Logout");
    app.login(session, PIN).expect("C_Login");
    assert!(app.find(session, &[]).expect("C_FindObjects").is_empty());
    app.close_session(session).expect("C_CloseSession");
    for _ in 0..4 {
        let wrong = app.init_token(slot, b"wrong-1234", LABEL).map_err(|rv| rv.0);
        assert!(matches!(wrong, Err(CKR_PIN_INCORRECT | CKR_PIN_LOCKED)), "{wrong:?}");
    }
    assert_eq!(app.init_token(slot, SO_PIN, LABEL), Err(Rv(CKR_PIN_LOCKED)));
}

#[test]
fn e15_keys_of_a_token_that_another_process_initialised_are_gone() {
    let (bench, app, slot, session) = own();
    app.login(session, PIN).expect("C_Login");
    let template = [number(CKA_VALUE_LEN, 32), flag(CKA_TOKEN, true)];
    let key = app.generate_key(session, CKM_GENERIC_SECRET_KEY_GEN, &template);
    let key = key.expect("C_GenerateKey");
    app.sign(session, CKM_SHA256_HMAC, key, b"data").expect("C_Sign");
    let other = bench.ready();
    other.init_token(slot, SO_PIN, LABEL).expect("C_InitToken");
    for _ in 0..3 {
        let signed = app.sign(session, CKM_SHA256_HMAC, key, b"data").map_err(|rv| rv.0);
        let gone = [
            CKR_DEVICE_ERROR,
            CKR_TOKEN_NOT_RECOGNIZED,
            CKR_SESSION_HANDLE_INVALID,
            CKR_KEY_HANDLE_INVALID,
        ];
        assert!(signed.as_ref().is_err_and(|rv| gone.contains(rv)), "{signed:x?}");
    }
    let session = other.open(slot).expect("C_OpenSession");
    other.login_so(session, SO_PIN).expect("C_Login");
    other.init_pin(session, PIN).expect("C_InitPIN");
    other.logout(session).expect("C_Logout");
    other.login(session, PIN).expect("C_Login");
    assert!(other.find(session, &[]).expect("C_FindObjects").is_empty());
}

#[test]
fn e16_a_pin_is_changed_by_who_knows_it_in_a_session_that_writes() {
    let (bench, app, slot, session) = own();
    let mark = bench.shim.mark();
    assert_eq!(app.set_pin(session, b"wrong-1234", b"new-5678"), Err(Rv(CKR_PIN_INCORRECT)));
    assert_eq!(bench.shim.pin_tries(mark), 1, "one try");
    let reader = app.open_session(slot, 0).expect("C_OpenSession");
    assert_eq!(app.set_pin(reader, PIN, b"new-5678"), Err(Rv(CKR_SESSION_READ_ONLY)));
    app.close_session(reader).expect("C_CloseSession");
    app.login_so(session, SO_PIN).expect("C_Login");
    app.set_pin(session, SO_PIN, b"chief-5678").expect("the SO's own");
    app.logout(session).expect("C_Logout");
    app.login(session, PIN).expect("the user's is what it was");
    app.logout(session).expect("C_Logout");
    assert_eq!(app.login_so(session, SO_PIN), Err(Rv(CKR_PIN_INCORRECT)));
    app.set_pin(session, PIN, b"new-5678").expect("C_SetPIN");
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_PIN_INCORRECT)));
    app.login(session, b"new-5678").expect("C_Login");
}

#[test]
fn e18_pins_of_no_length_cost_no_try() {
    let (bench, app, slot, session) = own();
    let info = app.token_info(slot).expect("C_GetTokenInfo");
    let (least, most) = (info.ulMinPinLen as usize, info.ulMaxPinLen as usize);
    let mark = bench.shim.mark();
    app.login_so(session, SO_PIN).expect("C_Login");
    let after = bench.shim.mark();
    // (No byte at all is a user without a PIN, which the SO may decide.)
    for length in [1, least - 1, most + 1, 1 << 20] {
        let set = app.init_pin(session, &vec![b'7'; length]).map_err(|rv| rv.0);
        assert_eq!(set, Err(CKR_PIN_LEN_RANGE), "{length}");
    }
    app.logout(session).expect("C_Logout");
    for length in [0, least - 1, most + 1] {
        let set = app.set_pin(session, PIN, &vec![b'7'; length]).map_err(|rv| rv.0);
        assert_eq!(set, Err(CKR_PIN_LEN_RANGE), "{length}");
    }
    for (length, bytes) in [(1u64 << 63, 16), (1 << 40, 16)] {
        let pin = vec![
            session.into(),
            CKU_USER.into(),
            Memory::of(vec![b'7'; bytes]).into(),
            length.into(),
        ];
        assert_eq!(app.raw("C_Login", pin).0, CKR_PIN_LEN_RANGE);
    }
    let pin = vec![session.into(), CKU_USER.into(), Argument::NULL, 8.into()];
    assert_eq!(app.raw("C_Login", pin).0, CKR_ARGUMENTS_BAD);
    assert_eq!(bench.shim.pin_tries(after), 0, "{}", bench.shim.since(after).lines());
    assert!(bench.shim.since(mark).sent() > 0);
    // Any bytes are a PIN, to the last.
    for pin in [&b"\0\0\0\0a"[..], &[0xFF, 0xFE, 0x80, 0xC0, 0xF5], &vec![b'x'; most]] {
        app.login_so(session, SO_PIN).expect("C_Login");
        app.init_pin(session, pin).expect("C_InitPIN");
        app.logout(session).expect("C_Logout");
        assert_eq!(app.login(session, &pin[..pin.len() - 1]), Err(Rv(CKR_PIN_INCORRECT)));
        app.login(session, pin).expect("C_Login");
        app.logout(session).expect("C_Logout");
    }
}

#[test]
fn e19_wrong_pins_show_in_the_flags_and_the_so_unlocks() {
    let (bench, app, slot, session) = own();
    let flags = || {
        let shown = app.token_flags(slot).expect("C_GetTokenInfo");
        [CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED]
            .map(|flag| shown & flag != 0)
    };
    let mut seen = vec![flags()];
    for _ in 0..4 {
        assert!(app.login(session, b"wrong-1234").is_err());
        seen.push(flags());
    }
    seen.dedup();
    let expected =
        [[false, false, false], [true, false, false], [true, true, false], [false, false, true]];
    let locked = seen.last().expect("flags");
    assert!(locked[2], "{seen:?}");
    assert!(expected[..3].iter().all(|flags| seen.contains(flags)), "{seen:?}");
    assert_eq!(app.login(session, PIN), Err(Rv(CKR_PIN_LOCKED)));
    assert_eq!(bench.shim.lockout_counter(), 0);
    app.login_so(session, SO_PIN).expect("C_Login");
    app.init_pin(session, PIN).expect("C_InitPIN");
    app.logout(session).expect("C_Logout");
    app.login(session, PIN).expect("unlocked");
    assert_eq!(flags(), [false; 3]);
}

#[test]
fn e20_objects_of_another_slot_are_no_objects_here() {
    let (bench, app, _, session) = own();
    app.login(session, PIN).expect("C_Login");
    bench.token_named("second");
    let template = [number(CKA_VALUE_LEN, 32)];
    let key = app.generate_key(session, CKM_GENERIC_SECRET_KEY_GEN, &template).expect("a key");
    let (_, private) = app.generate_ec(session, swtpm_tests::ck::P256, "ec").expect("a pair");
    let session = app.open(app.slot_of("second").expect("the token")).expect("C_OpenSession");
    app.login(session, PIN).expect("C_Login");
    for key in [key, private] {
        let refused = [
            app.sign_init(session, CKM_SHA256_HMAC, key),
            app.encrypt_init(session, CKM_AES_ECB, key),
            app.attribute(session, key, CKA_LABEL).map(drop),
            app.set_attributes(session, key, &[bytes(CKA_ID, "x")]),
            app.copy_object(session, key, &[]).map(drop),
            app.object_size(session, key).map(drop),
            app.destroy_object(session, key),
            app.derive(session, CKM_HKDF_DERIVE, key, &[]).map(drop),
        ];
        for answer in refused {
            let rv = answer.expect_err("another slot's").0;
            let invalid = [CKR_OBJECT_HANDLE_INVALID, CKR_KEY_HANDLE_INVALID];
            assert!(invalid.contains(&rv) || rv == CKR_MECHANISM_PARAM_INVALID, "{:?}", Rv(rv));
        }
    }
}

#[test]
fn e22_a_session_closed_under_a_signature_ends_it_or_not() {
    let (_bench, app, slot, session) = own();
    app.login(session, PIN).expect("C_Login");
    let template = [number(CKA_VALUE_LEN, 32), flag(CKA_TOKEN, true)];
    let key = app.generate_key(session, CKM_GENERIC_SECRET_KEY_GEN, &template).expect("a key");
    let (one, other) = (app.thread(), app.thread());
    for _ in 0..20 {
        let victim = app.open(slot).expect("C_OpenSession");
        let answers = std::thread::scope(|scope| {
            let signs = scope.spawn(|| one.sign(victim, CKM_SHA256_HMAC, key, b"data").map(drop));
            let closes = scope.spawn(|| other.close_session(victim));
            let finds = app.find(victim, &[]).map(drop);
            [signs.join().expect("no panic"), closes.join().expect("no panic"), finds]
        });
        for answer in answers {
            let fine = [
                CKR_OK,
                CKR_SESSION_CLOSED,
                CKR_SESSION_HANDLE_INVALID,
                CKR_OPERATION_NOT_INITIALIZED,
                CKR_FUNCTION_CANCELED,
            ];
            let rv = answer.map_or_else(|rv| rv.0, |()| CKR_OK);
            assert!(fine.contains(&rv), "{:?}", Rv(rv));
        }
    }
    app.sign(session, CKM_SHA256_HMAC, key, b"data").expect("the others go on");
}

#[test]
fn e24_the_time_of_a_login_is_reported() {
    let (_bench, app, _, session) = own();
    let rounds: usize =
        std::env::var("TPM11_LOGINS").ok().and_then(|count| count.parse().ok()).unwrap_or(5);
    let time = |pin: &[u8]| {
        let began = std::time::Instant::now();
        let right = app.login(session, pin).is_ok();
        let spent = began.elapsed();
        if right {
            app.logout(session).expect("C_Logout");
        }
        spent
    };
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        wrong.push(time(b"wrong-1234"));
        right.push(time(PIN));
    }
    right.sort();
    wrong.sort();
    let (right, wrong) = (right[rounds / 2], wrong[rounds / 2]);
    let ratio = wrong.as_secs_f64() / right.as_secs_f64();
    println!("C_Login, medians of {rounds}: right {right:?}, wrong {wrong:?}, ratio {ratio:.2}");
}
