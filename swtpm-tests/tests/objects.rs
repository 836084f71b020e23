//! Objects: made, found, copied, changed, destroyed; by one process and seen by another.

use cryptoki_sys::*;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN};
use swtpm_tests::ck::{P256, Rv, bytes, flag, number};
use swtpm_tests::door::{Argument, Memory};
use swtpm_tests::{Attribute, Bench};

fn data(label: &str, token: bool, private: bool) -> Vec<Attribute> {
    vec![
        number(CKA_CLASS, CKO_DATA),
        flag(CKA_TOKEN, token),
        flag(CKA_PRIVATE, private),
        bytes(CKA_LABEL, label),
        bytes(CKA_APPLICATION, "the bench"),
        bytes(CKA_VALUE, format!("value of {label}")),
    ]
}

#[test]
fn objects_are_found_by_any_subset_of_their_attributes() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    for (label, token, private) in
        [("a", true, true), ("b", true, false), ("c", false, true), ("d", false, false)]
    {
        app.create_object(session, &data(label, token, private)).expect("C_CreateObject");
    }
    let count = |template: &[Attribute]| app.find(session, template).expect("search").len();
    assert_eq!(count(&[]), 4);
    assert_eq!(count(&[bytes(CKA_APPLICATION, "the bench")]), 4);
    assert_eq!(count(&[flag(CKA_TOKEN, true)]), 2);
    assert_eq!(count(&[flag(CKA_TOKEN, false), flag(CKA_PRIVATE, true)]), 1);
    assert_eq!(count(&[bytes(CKA_LABEL, "b"), number(CKA_CLASS, CKO_DATA)]), 1);
    assert_eq!(count(&[bytes(CKA_VALUE, "value of a")]), 1, "data objects' values can be found");
    assert_eq!(count(&[bytes(CKA_LABEL, "")]), 0);
    assert_eq!(count(&[number(CKA_CLASS, 0xCE53_4351)]), 0, "a class of somebody else's");
    assert_eq!(count(&[bytes(0x8000_1234, "vendor")]), 0, "an attribute of somebody else's");
    assert_eq!(count(&[bytes(CKA_TOKEN, "four")]), 0, "a length that cannot be");
    let object = app.find(session, &[bytes(CKA_LABEL, "a")]).expect("search")[0];
    let id = app.attribute(session, object, CKA_UNIQUE_ID).expect("CKA_UNIQUE_ID");
    assert_eq!(app.find(session, &[bytes(CKA_UNIQUE_ID, id)]), Ok(vec![object]));
}

#[test]
fn a_search_outlives_a_call_with_bad_arguments() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let object = app.create_object(session, &data("a", false, false)).expect("C_CreateObject");
    let call = |function: &str, more: Vec<Argument>| {
        app.raw(function, [vec![session.into()], more].concat())
    };
    assert_eq!(call("C_FindObjectsInit", vec![0.into(), 0.into()]).0, CKR_OK);
    let room = || Argument::from(Memory::room(8));
    for bad in [vec![0.into(), 1.into(), room()], vec![room(), 1.into(), 0.into()]] {
        assert_eq!(call("C_FindObjects", bad).0, CKR_ARGUMENTS_BAD);
    }
    let (rv, found) = call("C_FindObjects", vec![room(), 1.into(), room()]);
    assert_eq!((rv, found[1].memory().word_at(0)), (CKR_OK, object));
    assert_eq!(call("C_FindObjectsFinal", vec![]).0, CKR_OK);
}

#[test]
fn a_part_that_gives_nothing_yet_asks_for_a_buffer_all_the_same() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let template = [number(CKA_VALUE_LEN, 16)];
    let key = app.generate_key(session, CKM_AES_KEY_GEN, &template).expect("C_GenerateKey");
    let mut mechanism = Memory::word(CKM_AES_CBC_PAD);
    mechanism.push_bytes(&[7; 16]);
    let init = vec![session.into(), mechanism.into(), key.into()];
    assert_eq!(app.raw("C_EncryptInit", init).0, CKR_OK);
    // Two halves of a block. A buffer of 0 bytes is none to some clients, and then the part is lost.
    let part = |out: Argument, room: u64| {
        let input = [session.into(), Memory::of([1; 8]).into(), 8.into()];
        let (rv, after) =
            app.raw("C_EncryptUpdate", [&input[..], &[out, Memory::word(room).into()]].concat());
        assert_eq!(rv, CKR_OK);
        after[4].memory().word_at(0)
    };
    let room = part(0.into(), 0);
    assert!((1..=16).contains(&room), "{room}");
    assert_eq!(part(Memory::room(room as usize).into(), room), 0);
    assert_eq!(part(Memory::room(16).into(), 16), 16);
}

#[test]
fn a_key_without_limits_has_a_list_of_mechanisms_without_entries() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let secret = |more: Vec<Attribute>| {
        let key = [number(CKA_CLASS, CKO_SECRET_KEY), number(CKA_KEY_TYPE, CKK_GENERIC_SECRET)];
        let template = [&key[..], &[bytes(CKA_VALUE, [7; 32])], &more].concat();
        app.create_object(session, &template).expect("C_CreateObject")
    };
    // Clients that meet CKR_ATTRIBUTE_TYPE_INVALID at one key conclude that the token knows no limits.
    let (public, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    let empty = bytes(CKA_ALLOWED_MECHANISMS, []);
    for key in [public, private, secret(vec![]), secret(vec![empty.clone()])] {
        assert_eq!(app.attribute(session, key, CKA_ALLOWED_MECHANISMS), Ok(Vec::new()));
        app.set_attributes(session, key, std::slice::from_ref(&empty)).expect("nothing new");
    }
    app.sign(session, CKM_SHA256_HMAC, secret(vec![empty.clone()]), b"data").expect("C_Sign");
    let limited = secret(vec![number(CKA_ALLOWED_MECHANISMS, CKM_SHA384_HMAC)]);
    let list = app.attribute(session, limited, CKA_ALLOWED_MECHANISMS);
    assert_eq!(list, Ok(CKM_SHA384_HMAC.to_ne_bytes().to_vec()));
    let refused = app.sign(session, CKM_SHA256_HMAC, limited, b"data");
    assert_eq!(refused.map(drop), Err(Rv(CKR_MECHANISM_INVALID)));
    let wider = app.set_attributes(session, limited, &[empty]);
    assert_eq!(wider, Err(Rv(CKR_ATTRIBUTE_READ_ONLY)));
}

#[test]
fn private_objects_are_not_there_for_who_is_not_logged_in() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let hidden = app.create_object(session, &data("hidden", true, true)).expect("C_CreateObject");
    let open = app.create_object(session, &data("open", true, false)).expect("C_CreateObject");
    app.create_object(session, &data("of the session", false, true)).expect("C_CreateObject");
    app.logout(session).expect("C_Logout");
    assert_eq!(app.find(session, &[]), Ok(vec![open]));
    assert!(app.find(session, &[bytes(CKA_LABEL, "hidden")]).expect("search").is_empty());
    assert!(app.find(session, &[flag(CKA_PRIVATE, true)]).expect("search").is_empty());
    assert_eq!(
        app.attribute(session, hidden, CKA_LABEL).map(drop),
        Err(Rv(CKR_OBJECT_HANDLE_INVALID))
    );
    let denied = Err(Rv(CKR_USER_NOT_LOGGED_IN));
    assert_eq!(app.create_object(session, &data("x", true, true)).map(drop), denied);
    assert_eq!(app.create_object(session, &data("x", false, true)).map(drop), denied);
    assert_eq!(app.create_object(session, &data("x", true, false)).map(drop), denied);
    assert_eq!(app.generate_ec(session, P256, "x").map(drop), denied);
    app.create_object(session, &data("x", false, false)).expect("a public session object");

    app.login(session, PIN).expect("C_Login");
    assert_eq!(app.find(session, &[]).expect("search").len(), 3, "hidden, open, x");
    let found = app.find(session, &[bytes(CKA_LABEL, "hidden")]).expect("search");
    assert_eq!(found.len(), 1);
    assert_ne!(found[0], hidden);
    assert_eq!(app.attribute(session, found[0], CKA_VALUE), Ok(b"value of hidden".to_vec()));
}

#[test]
fn what_another_process_makes_and_destroys_is_seen_by_the_next_search() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (other, theirs) = bench.logged_in();
    let (public, private) = other.generate_ec(theirs, P256, "shared").expect("C_GenerateKeyPair");
    let found = app.find(session, &[bytes(CKA_LABEL, "shared")]).expect("search");
    assert_eq!(found.len(), 2);
    let key = app
        .find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY), bytes(CKA_LABEL, "shared")])
        .expect("search")[0];
    app.sign(session, CKM_ECDSA, key, &[3; 32]).expect("and is used");

    other.set_attributes(theirs, public, &[bytes(CKA_LABEL, "renamed")]).expect("renamed");
    assert_eq!(app.find(session, &[bytes(CKA_LABEL, "renamed")]).expect("search").len(), 1);
    other.destroy_object(theirs, private).expect("C_DestroyObject");
    assert_eq!(app.sign_init(session, CKM_ECDSA, key), Err(Rv(CKR_KEY_HANDLE_INVALID)));
    assert_eq!(app.find(session, &[]).expect("search").len(), 1);
}

#[test]
fn an_object_is_changed_in_the_store_and_after_a_restart() {
    let bench = Bench::start();
    bench.token();
    {
        let (app, session) = bench.logged_in();
        let (public, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
        for object in [public, private] {
            app.set_attributes(
                session,
                object,
                &[bytes(CKA_LABEL, "changed"), bytes(CKA_ID, [1, 2, 3]), bytes(CKA_SUBJECT, "")],
            )
            .expect("C_SetAttributeValue");
            assert_eq!(app.attribute(session, object, CKA_ID), Ok(vec![1, 2, 3]));
            app.set_attributes(session, object, &[bytes(CKA_ID, [1, 2, 3])]).expect("unchanged");
            assert_eq!(
                app.set_attributes(
                    session,
                    object,
                    &[bytes(CKA_LABEL, "half"), flag(CKA_LOCAL, false)]
                ),
                Err(Rv(CKR_ATTRIBUTE_READ_ONLY))
            );
            assert_eq!(
                app.attribute(session, object, CKA_LABEL),
                Ok(b"changed".to_vec()),
                "all or nothing"
            );
        }
    }
    let (app, session) = bench.logged_in();
    assert_eq!(app.find(session, &[bytes(CKA_ID, [1, 2, 3])]).expect("search").len(), 2);
    assert!(app.find(session, &[bytes(CKA_LABEL, "key")]).expect("search").is_empty());
}

#[test]
fn a_destroyed_object_is_gone_and_a_running_signature_keeps_its_key() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (public, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.sign_init(session, CKM_ECDSA, private).expect("C_SignInit");
    app.destroy_object(session, private).expect("C_DestroyObject");
    assert_eq!(app.destroy_object(session, private), Err(Rv(CKR_OBJECT_HANDLE_INVALID)));
    let signature = app.sign_now(session, &[9; 32]).expect("C_Sign");
    app.verify(session, CKM_ECDSA, public, &[9; 32], &signature).expect("C_Verify");
    assert_eq!(app.sign_init(session, CKM_ECDSA, private), Err(Rv(CKR_KEY_HANDLE_INVALID)));
    assert_eq!(bench.logged_in().0.slot_of(LABEL), app.slot_of(LABEL));
    let (again, session) = bench.logged_in();
    assert_eq!(again.find(session, &[]).expect("search").len(), 1, "the public key");
}

#[test]
fn a_session_key_pair_is_copied_to_the_token_and_back_and_signs_everywhere() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (public, private) = app
        .generate_pair(session, CKM_EC_KEY_PAIR_GEN, &[bytes(CKA_EC_PARAMS, P256)], &[])
        .expect("C_GenerateKeyPair");
    let stored = app
        .copy_object(session, private, &[flag(CKA_TOKEN, true), bytes(CKA_LABEL, "kept")])
        .expect("to the token");
    let signature = app.sign(session, CKM_ECDSA, stored, &[2; 32]).expect("C_Sign");
    app.verify(session, CKM_ECDSA, public, &[2; 32], &signature).expect("C_Verify");
    assert_ne!(
        app.attribute(session, stored, CKA_UNIQUE_ID),
        app.attribute(session, private, CKA_UNIQUE_ID)
    );
    let point = app.attribute(session, public, CKA_EC_POINT).expect("CKA_EC_POINT");
    drop(app);

    let (app, session) = bench.logged_in();
    let found = app.find(session, &[]).expect("search");
    assert_eq!(found.len(), 1, "the session's own are gone");
    let copy = app.copy_object(session, found[0], &[]).expect("no template");
    let back = app.copy_object(session, copy, &[flag(CKA_TOKEN, false)]).expect("to the session");
    let public = app
        .create_object(
            session,
            &[
                number(CKA_CLASS, CKO_PUBLIC_KEY),
                number(CKA_KEY_TYPE, CKK_EC),
                bytes(CKA_EC_PARAMS, P256),
                bytes(CKA_EC_POINT, point),
            ],
        )
        .expect("C_CreateObject");
    for key in [found[0], copy, back] {
        let signature = app.sign(session, CKM_ECDSA, key, &[4; 32]).expect("C_Sign");
        app.verify(session, CKM_ECDSA, public, &[4; 32], &signature).expect("C_Verify");
    }
}

#[test]
fn an_attribute_that_cannot_be_read_spoils_no_other() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let (_, private) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    let (rv, values) = app.attributes(
        session,
        private,
        &[CKA_LABEL, CKA_VALUE, CKA_KEY_TYPE, 0x8000_0001, CKA_SENSITIVE],
    );
    assert!([CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID].contains(&rv), "{rv:#x}");
    assert_eq!(values[0], Some(b"key".to_vec()));
    assert_eq!(values[1], None);
    assert_eq!(values[2], Some(CKK_EC.to_ne_bytes().to_vec()));
    assert_eq!(values[3], None);
    assert_eq!(values[4], Some(vec![1]));
}

#[test]
fn the_so_trusts_certificates_and_the_user_cannot() {
    let bench = Bench::start();
    bench.token();
    let app = bench.ready();
    let session = app.open(app.slot_of(LABEL).expect("the token")).expect("C_OpenSession");
    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    let public = app
        .create_object(session, &data("of the SO", true, false))
        .expect("the SO makes public objects");
    app.set_attributes(session, public, &[bytes(CKA_LABEL, "SO's")]).expect("and changes them");
    app.logout(session).expect("C_Logout");
    app.login(session, PIN).expect("C_Login");
    let (key, _) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    assert_eq!(
        app.set_attributes(session, key, &[flag(CKA_TRUSTED, true)]),
        Err(Rv(CKR_ATTRIBUTE_READ_ONLY))
    );
    app.logout(session).expect("C_Logout");
    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    app.set_attributes(session, key, &[flag(CKA_TRUSTED, true)]).expect("the SO does");
    assert_eq!(app.attribute_flag(session, key, CKA_TRUSTED), Ok(true));
}

#[test]
fn a_store_that_cannot_be_written_is_read_and_says_so() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let bench = Bench::start();
    bench.token();
    {
        let (app, session) = bench.logged_in();
        app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    }
    // As somebody else, who may read it: root is not stopped by permissions.
    const NOBODY: u32 = 65534;
    let allow = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    allow(bench.directory(), 0o777);
    allow(&bench.store(), 0o755);
    for file in std::fs::read_dir(bench.store()).expect("the store").filter_map(Result::ok) {
        allow(&file.path(), 0o644);
    }
    allow(bench.shim.socket(), 0o777);
    for entry in bench.shim.socket().ancestors().skip(1).take(1) {
        allow(entry, 0o777);
    }
    let app = bench.app_with(|command| {
        // The application's wire to this test lies in the bench's directory, too.
        for entry in std::fs::read_dir(bench.directory()).expect("ours").filter_map(Result::ok) {
            if entry.file_name().as_encoded_bytes().starts_with(b"app") {
                allow(&entry.path(), 0o777);
            }
        }
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
    });
    if !rustix::process::geteuid().is_root() {
        allow(&bench.store(), 0o555);
    }
    app.initialize().expect("C_Initialize");
    let slot = app.slot_of(LABEL).expect("the token");
    assert_ne!(app.token_flags(slot).expect("flags") & CKF_WRITE_PROTECTED, 0);
    assert_eq!(app.open(slot), Err(Rv(CKR_TOKEN_WRITE_PROTECTED)));
    let session = app.open_session(slot, 0).expect("a read-only session");
    app.login(session, PIN).expect("C_Login");
    let key = app
        .find(session, &[number(CKA_CLASS, CKO_PRIVATE_KEY)])
        .expect("search")
        .first()
        .copied()
        .expect("the key");
    app.sign(session, CKM_ECDSA, key, &[1; 32]).expect("C_Sign");
    let refused =
        app.create_object(session, &[number(CKA_CLASS, CKO_DATA), flag(CKA_TOKEN, true)]).map(drop);
    assert_eq!(
        refused,
        Err(Rv(CKR_TOKEN_WRITE_PROTECTED)),
        "told before that the session only reads"
    );
    assert_eq!(app.empty_slot(), None, "nothing can be initialised here");
    allow(&bench.store(), 0o755);
}

/// A DER value; lengths below 65,536.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = (content.len() as u16).to_be_bytes();
    [&[tag, 0x82], length.as_slice(), &content].concat()
}

/// Lengths below 128 have one byte in DER, longer ones here two.
fn short(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    [&[tag, content.len() as u8], content.as_slice()].concat()
}

/// What a certificate for this public key looks like; nobody has signed it.
fn certificate(public_key_info: &[u8]) -> Vec<u8> {
    let algorithm = short(0x30, &[&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]]);
    let name = short(0x30, &[]);
    let day = short(0x17, &[b"260101000000Z"]);
    let validity = short(0x30, &[&day, &day]);
    let serial = [0x02, 1, 7];
    let padding = [0; 300]; // so that all lengths have two bytes
    let extensions = der(0xA3, &[&der(0x04, &[&padding])]);
    let tbs =
        der(0x30, &[&serial, &algorithm, &name, &validity, &name, public_key_info, &extensions]);
    der(0x30, &[&tbs, &algorithm, &short(0x03, &[&[0]])])
}

#[test]
fn a_certificate_without_an_id_gets_that_of_its_key() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let import = |info: &[u8], more: &[Attribute]| {
        let mut template = vec![
            number(CKA_CLASS, CKO_CERTIFICATE),
            number(CKA_CERTIFICATE_TYPE, CKC_X_509),
            flag(CKA_TOKEN, true),
            bytes(CKA_VALUE, certificate(info)),
        ];
        template.extend_from_slice(more);
        app.create_object(session, &template).expect("C_CreateObject")
    };
    let id_of = |object| app.attribute(session, object, CKA_ID).expect("CKA_ID");

    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    let info = app.attribute(session, key, CKA_PUBLIC_KEY_INFO).expect("CKA_PUBLIC_KEY_INFO");
    assert_eq!(id_of(import(&info, &[])), id_of(key), "the default of both is the same");
    app.set_attributes(session, key, &[bytes(CKA_ID, "mine")]).expect("C_SetAttributeValue");
    assert_eq!(id_of(import(&info, &[])), b"mine");
    assert_eq!(id_of(import(&info, &[bytes(CKA_ID, "other")])), b"other", "who chooses, chooses");

    let subject = import(&info, &[]);
    let value = app.attribute(session, subject, CKA_VALUE).expect("CKA_VALUE");
    assert_eq!(value, certificate(&info), "to the byte");
    let public_key_info = app.attribute(session, subject, CKA_PUBLIC_KEY_INFO);
    assert_eq!(public_key_info, Ok(info));
}

#[test]
fn an_object_says_how_much_room_it_takes() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let data = |label: &str, length: usize| {
        let template = [
            number(CKA_CLASS, CKO_DATA),
            flag(CKA_TOKEN, true),
            bytes(CKA_LABEL, label),
            bytes(CKA_VALUE, vec![7; length]),
        ];
        app.create_object(session, &template).expect("C_CreateObject")
    };
    let size = |object| app.object_size(session, object).expect("C_GetObjectSize");
    let small = size(data("a", 100));
    assert!(small >= 100);
    assert_eq!(size(data("b", 100)), small, "it tells nothing of the contents");
    assert_eq!(size(data("a", 1100)), small + 1000);
    // Two keys of one kind cannot be told apart by it.
    let keys = ["k", "l"].map(|label| app.generate_ec(session, P256, label).expect("a pair"));
    assert_eq!(size(keys[0].0), size(keys[1].0));
    assert_eq!(size(keys[0].1), size(keys[1].1));

    let gone = data("gone", 1);
    app.destroy_object(session, gone).expect("C_DestroyObject");
    assert_eq!(app.object_size(session, gone), Err(Rv(CKR_OBJECT_HANDLE_INVALID)));
    let private = keys[0].1;
    app.logout(session).expect("C_Logout");
    assert_eq!(app.object_size(session, private), Err(Rv(CKR_OBJECT_HANDLE_INVALID)));
}
