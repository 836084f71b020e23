//! What a process still knows after it is done: no PIN from C_Login on, nothing that a login opens
//! after C_Logout, no key's authorization after C_Finalize. And what its log never says.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use cryptoki_sys::*;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use swtpm_tests::bench::{LABEL, PIN, SO_PIN, module, program};
use swtpm_tests::ck::{Attribute, Mechanism, P256, bytes, flag, number};
use swtpm_tests::secrets::{IMPORT_STOPS, INFO, KEYS, STOPS};
use swtpm_tests::spawn::Guarded;
use swtpm_tests::{Bench, Setup, openssl};
use tpm11::store::{Options, Sealer, Store};
use tpm11::tpm::pin::{Gate, Role};
use tpm11::tpm::{Settings, Tpm};

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// PBKDF2-HMAC-SHA256, RFC 8018 §5.2, one block.
fn stretched(pin: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let keyed = Hmac::<Sha256>::new_from_slice(pin).expect("any length");
    let next = |text: &[&[u8]]| -> [u8; 32] {
        let mut mac = keyed.clone();
        text.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    };
    let mut last = next(&[salt, &[0, 0, 0, 1]]);
    let mut sum = last;
    for _ in 1..iterations {
        last = next(&[&last]);
        sum.iter_mut().zip(last).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

/// Everything that hangs on a login: name and bytes.
struct Secrets {
    all: Vec<(String, Vec<u8>)>,
    gate: Vec<u8>,
}

impl Secrets {
    /// Opens the token as the module does.
    fn of(bench: &Bench, pin: &[u8]) -> Secrets {
        let store = Store::open(&bench.store(), &Options::default()).expect("the store");
        let row = store.tokens().expect("the tokens").remove(0);
        let gate = Gate::from_bytes(&row.gate).expect("the gate");
        let settings = Settings { tcti: bench.shim.tcti(), ..Settings::default() };
        let tpm = Tpm::new(settings, None, Box::new(|_| false));
        let opened = tpm.login(&tpm.call(), &gate, Role::User, pin).expect("the PIN is right");
        tpm.end();
        let mut all = vec![
            ("PIN".to_owned(), pin.to_vec()),
            ("token secret".to_owned(), opened.token_secret.to_vec()),
        ];
        // RFC 5869: the keys for rows, by their labels.
        let extracted = hmac(&row.serial, &[&*opened.token_secret]);
        for label in ["row authentication", "private rows", "search index", "set of objects"] {
            let label = format!("tpm11 1 {label}");
            let key = hmac(&extracted, &[label.as_bytes(), &[1]]);
            all.push((label, key.to_vec()));
        }
        let sealer = Sealer::new(&opened.token_secret, &row.serial);
        let database = rusqlite::Connection::open_with_flags(
            bench.store().join("tpm11.sqlite3"),
            rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
        )
        .expect("the store's file");
        let mut statement = database.prepare("SELECT uuid FROM object").expect("the objects");
        let uuids = statement.query_map([], |row| row.get::<_, [u8; 16]>(0)).expect("a list");
        for uuid in uuids {
            let authorization = sealer.authorization(&uuid.expect("a uuid"));
            all.push(("authorization of a key".to_owned(), authorization.to_vec()));
        }
        Secrets { gate: row.gate, all }
    }

    /// What the PIN becomes for the TPM, too. Which bytes of the gate are the salt is its own affair:
    /// each run of 32 may be.
    fn with_values(mut self, pin: &[u8], iterations: u32) -> Secrets {
        let text = [pin, &[1]].concat();
        for salt in self.gate.windows(32) {
            let value = stretched(&text, salt, iterations).to_vec();
            self.all.push(("PIN's authorization value".to_owned(), value));
        }
        self
    }

    /// How often each stands in the memory of a process.
    fn found_in(&self, process: u32) -> HashMap<&str, usize> {
        let mut starts: HashMap<[u8; 4], Vec<&(String, Vec<u8>)>> = HashMap::new();
        for secret in &self.all {
            let start = secret.1[..4].try_into().expect("four bytes");
            starts.entry(start).or_default().push(secret);
        }
        let mut may_start = vec![false; 1 << 16];
        let word = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        starts.keys().for_each(|start| may_start[word(start)] = true);

        let mut found = HashMap::new();
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).expect("its maps");
        let memory = File::open(format!("/proc/{process}/mem")).expect("its memory");
        let mut read = 0;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
            let ends = range.split_once('-').expect("a range");
            let [from, to] = [ends.0, ends.1].map(|end| u64::from_str_radix(end, 16).expect("hex"));
            if !rights.starts_with("rw") {
                continue;
            }
            let mut bytes = vec![0; (to - from) as usize];
            if memory.read_exact_at(&mut bytes, from).is_err() {
                continue;
            }
            read += bytes.len();
            for at in 0..bytes.len().saturating_sub(4) {
                if !may_start[word(&bytes[at..])] {
                    continue;
                }
                let start: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
                for (name, secret) in starts.get(&start).into_iter().flatten() {
                    if bytes[at..].starts_with(secret) {
                        *found.entry(name.as_str()).or_default() += 1;
                    }
                }
            }
        }
        assert!(read > 100_000, "only {read} bytes could be read");
        found
    }
}

fn memory_forgets(bench: &Bench) {
    const ITERATIONS: u32 = 1000;
    bench.token();
    let (app, session) = bench.logged_in();
    app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.finalize().expect("C_Finalize");
    let secrets = Secrets::of(bench, PIN).with_values(PIN, ITERATIONS);

    let mut command = bench.command(program());
    command.arg("secrets").arg(module()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Guarded::start(command).expect("the application starts");
    let mut pipe = process.child().stdin.take().expect("its input");
    let mut lines = BufReader::new(process.child().stdout.take().expect("its output")).lines();
    pipe.write_all(PIN).expect("the PIN is read");
    let mut next = |place: &str| {
        let line = lines.next().expect("it goes on").expect("a line");
        assert_eq!(line, place, "{}", bench.log());
        let found = secrets.found_in(process.id());
        pipe.write_all(b"\n").expect("it goes on");
        found
    };

    let found = next(STOPS[0]);
    // What is in use is found: so the search is one.
    assert!(found.contains_key("tpm11 1 row authentication"), "{found:?}");
    assert!(found.contains_key("authorization of a key"), "{found:?}");
    for gone in ["PIN", "PIN's authorization value", "token secret"] {
        assert_eq!(found.get(gone), None, "{gone}, as soon as C_Login is done: {found:?}");
    }
    let found = next(STOPS[1]);
    // A key that is loaded in the TPM is let go of a moment later.
    let but_keys: Vec<_> = found.keys().filter(|name| !name.starts_with("authorization")).collect();
    assert!(but_keys.is_empty(), "after C_Logout: {found:?}");
    let found = next(STOPS[2]);
    assert!(found.is_empty(), "after C_Finalize: {found:?}");
}

#[test]
fn memory_forgets_what_a_login_opened() {
    memory_forgets(&Setup::default().config("[pin]\nkdf_iterations = 1000").start());
}

#[test]
fn memory_forgets_what_a_login_opened_behind_the_resource_manager() {
    memory_forgets(&Setup::default().managed().config("[pin]\nkdf_iterations = 1000").start());
}

/// Random bytes of the test's own.
fn random(length: usize) -> Vec<u8> {
    use rand_core::RngCore as _;
    let mut bytes = vec![0; length];
    rand_core::OsRng.fill_bytes(&mut bytes);
    bytes
}

fn keys_that_were_brought_in_are_forgotten(bench: &Bench) {
    bench.token();
    let ec = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let rsa = openssl::Key::generate("RSA", &["rsa_keygen_bits:2048"]);
    let values = KEYS.map(|(name, length)| {
        let value = match name {
            "ec" => ec.number("priv"),
            "rsa modulus" => rsa.number("n"),
            "rsa exponent" => rsa.number("d"),
            "rsa prime" => rsa.number("rsa-factor1"),
            "rsa other prime" => rsa.number("rsa-factor2"),
            _ => random(length),
        };
        [vec![0; length - value.len()], value].concat()
    });
    let mut secrets = Secrets { all: Vec::new(), gate: Vec::new() };
    let mut add = |name: &str, value: &[u8]| {
        secrets.all.push((name.to_owned(), value.to_vec()));
        // As numbers are kept by who calculates with them.
        secrets.all.push((name.to_owned(), value.iter().rev().copied().collect()));
    };
    for ((name, _), value) in KEYS.iter().zip(&values) {
        if *name != "rsa modulus" {
            add(name, value);
        }
    }
    for part in ["rsa-exponent1", "rsa-exponent2", "rsa-coefficient1"] {
        add(part, &rsa.number(part));
    }
    let base = &values[2];
    add("derived", &openssl::hkdf_expand("sha256", base, INFO, 32));

    let mut command = bench.command(program());
    command.arg("import").arg(module()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Guarded::start(command).expect("the application starts");
    let mut pipe = process.child().stdin.take().expect("its input");
    let mut lines = BufReader::new(process.child().stdout.take().expect("its output")).lines();
    pipe.write_all(PIN).expect("the PIN is read");
    for place in IMPORT_STOPS {
        let line = lines.next().expect("it goes on").expect("a line");
        assert_eq!(line, place, "{}", bench.log());
        let mut found = secrets.found_in(process.id());
        // The readable one is there until the logout: so the search is one.
        let control = found.remove("control").is_some();
        assert_eq!(control, ["brought in", "used"].contains(&place), "{place}");
        assert!(found.is_empty(), "{place}: {found:?}");
        pipe.write_all(b"\n").expect("it goes on");
        if place == IMPORT_STOPS[0] {
            pipe.write_all(&values.concat()).expect("the keys are read");
        }
    }
}

#[test]
fn no_key_that_was_brought_in_or_derived_stays_in_memory() {
    keys_that_were_brought_in_are_forgotten(&Bench::start());
}

#[test]
fn nothing_secret_is_on_the_bus_in_clear() {
    let bench = Bench::start();
    bench.token();
    let (app, session) = bench.logged_in();
    let mut secrets: Vec<(&str, Vec<u8>)> = Vec::new();
    bench.shim.forget();

    let secret = |key_type, value: &[u8], more: &[Attribute]| {
        let own = [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, key_type),
            bytes(CKA_VALUE, value),
            flag(CKA_SENSITIVE, true),
        ];
        app.create_object(session, &[&own[..], more].concat()).expect("C_CreateObject")
    };
    let (aes, leaves, base, mac) = (random(16), random(32), random(32), random(48));
    let aes_key = secret(CKK_AES, &aes, &[flag(CKA_DERIVE, true)]);
    let cbc = Mechanism::bytes(CKM_AES_CBC, &[0xC3; 16]);
    let encrypts = secret(CKK_AES, &leaves, &[flag(CKA_EXTRACTABLE, true)]);
    app.encrypt(session, cbc, encrypts, &[0; 64]).expect("C_Encrypt");
    let base_key = secret(CKK_GENERIC_SECRET, &base, &[flag(CKA_DERIVE, true)]);
    let mac_key = secret(CKK_GENERIC_SECRET, &mac, &[flag(CKA_SIGN, true)]);
    let signed = app.sign(session, CKM_SHA256_HMAC, mac_key, &[7; 3000]).expect("C_Sign");
    assert_eq!(signed, openssl::hmac("sha256", &mac, &[7; 3000]));

    let ec = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let rsa = openssl::Key::generate("RSA", &["rsa_keygen_bits:2048"]);
    let private =
        |key_type| vec![number(CKA_CLASS, CKO_PRIVATE_KEY), number(CKA_KEY_TYPE, key_type)];
    let mut template = private(CKK_EC);
    template.push(bytes(CKA_EC_PARAMS, P256));
    template.push(bytes(CKA_VALUE, ec.number("priv")));
    template.push(flag(CKA_DERIVE, true));
    let agrees = app.create_object(session, &template).expect("C_CreateObject");
    let mut template = private(CKK_RSA);
    template.extend(rsa.attributes(&openssl::RSA_PARTS[..5]));
    template.push(flag(CKA_EXTRACTABLE, true));
    let leaving = app.create_object(session, &template).expect("C_CreateObject");
    for name in ["d", "rsa-factor1", "rsa-factor2"] {
        secrets.push((name, rsa.number(name)));
    }
    secrets.push(("EC number", ec.number("priv")));

    // An agreement, and what is derived: the values are OpenSSL's.
    let wanted = |length| {
        [
            number(CKA_CLASS, CKO_SECRET_KEY),
            number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
            number(CKA_VALUE_LEN, length),
            flag(CKA_SIGN, true),
        ]
    };
    let peer = openssl::Key::generate("EC", &["ec_paramgen_curve:P-256"]);
    let info = peer.info();
    let ecdh = Mechanism::ecdh(CKD_NULL, &[], &info[info.len() - 65..]);
    app.derive(session, ecdh, agrees, &wanted(32)).expect("C_DeriveKey");
    secrets.push(("shared secret", ec.agree(&peer).expect("OpenSSL agrees")));
    let hkdf = Mechanism::hkdf(CKM_HKDF_DERIVE, CKM_SHA256, None, Some(b"info"));
    app.derive(session, hkdf, base_key, &wanted(32)).expect("C_DeriveKey");
    secrets.push(("expanded key", openssl::hkdf_expand("sha256", &base, b"info", 32)));
    let data = random(32);
    let mut parameter = swtpm_tests::door::Memory::default();
    parameter.push_bytes(&data);
    let encryption = Mechanism::with(CKM_AES_ECB_ENCRYPT_DATA, parameter);
    let named = [flag(CKA_DERIVE, true), number(CKA_ALLOWED_MECHANISMS, CKM_AES_ECB_ENCRYPT_DATA)];
    let tells = secret(CKK_AES, &aes, &named);
    app.derive(session, encryption, tells, &wanted(32)).expect("C_DeriveKey");
    let encrypted = openssl::aes("ECB", true, false, &aes, &[], &data).expect("OpenSSL encrypts");
    secrets.push(("encrypted data that is a key", encrypted[16..].to_vec()));
    secrets.push(("its first block", encrypted[..16].to_vec()));
    assert!(app.destroy_object(session, aes_key).is_ok());

    // What leaves, under a key of the token's.
    let roles = [flag(CKA_WRAP, true), number(CKA_VALUE_LEN, 32)];
    let wraps = app.generate_key(session, CKM_AES_KEY_GEN, &roles).expect("C_GenerateKey");
    app.wrap(session, CKM_AES_KEY_WRAP_KWP, wraps, encrypts).expect("C_WrapKey");
    app.wrap(session, CKM_AES_KEY_WRAP_KWP, wraps, leaving).expect("C_WrapKey");

    secrets.push(("random bytes", app.random(session, 32).expect("C_GenerateRandom")));
    let open = [
        number(CKA_VALUE_LEN, 24),
        flag(CKA_SENSITIVE, false),
        flag(CKA_EXTRACTABLE, true),
        flag(CKA_TOKEN, true),
    ];
    let open = app.generate_key(session, CKM_GENERIC_SECRET_KEY_GEN, &open).expect("a key");
    app.sign(session, CKM_SHA256_HMAC, open, b"data").expect("C_Sign");
    let value = app.attribute(session, open, CKA_VALUE).expect("a readable key");
    secrets.push(("readable key that was generated", value));
    for (name, value) in [("AES", aes), ("AES that leaves", leaves), ("base", base), ("HMAC", mac)]
    {
        secrets.push((name, value));
    }
    app.finalize().expect("C_Finalize");

    let record = bench.shim.record();
    let seen = |what: &[u8]| {
        let has = |bytes: &[u8]| bytes.windows(what.len()).any(|window| window == what);
        record.0.iter().find(|entry| has(&entry.command) || has(&entry.response))
    };
    assert!(seen(&[0xC3; 16]).is_some(), "an IV is no secret, and is found: so the search is one");
    assert!(seen(&rsa.number("n")).is_some(), "nor is a modulus");
    for (name, value) in &secrets {
        assert!(value.len() >= 16, "{name}");
        for part in value.chunks_exact(16) {
            if let Some(entry) = seen(part) {
                panic!("{name} is in {}", entry.line());
            }
        }
    }
    for entry in record.0.iter().filter(|entry| entry.line().contains("GetRandom")) {
        assert!(entry.encrypts_response(), "{}", entry.line());
    }
}

#[test]
fn no_log_line_of_any_level_and_no_flight_record_shows_a_secret() {
    let bench = Bench::start();
    let wrong = b"wrong-9753";
    let changed = b"changed-8642";
    let app = bench.app_with(|command| {
        command.env("TPM11_LOG", "trace");
    });
    app.initialize_with(CKF_OS_LOCKING_OK).expect("C_Initialize");
    let slot = app.empty_slot().expect("an empty slot");
    app.init_token(slot, SO_PIN, LABEL).expect("C_InitToken");
    let session = app.open(slot).expect("C_OpenSession");
    app.login_so(session, SO_PIN).expect("C_Login(SO)");
    app.init_pin(session, PIN).expect("C_InitPIN");
    app.logout(session).expect("C_Logout");
    app.login(session, wrong).expect_err("the wrong PIN");
    app.set_pin(session, wrong, changed).expect_err("the wrong old PIN");
    app.set_pin(session, PIN, changed).expect("C_SetPIN");
    app.login(session, changed).expect("C_Login");
    let (_, key) = app.generate_ec(session, P256, "key").expect("C_GenerateKeyPair");
    app.sign(session, CKM_ECDSA, key, &[1; 32]).expect("C_Sign");
    let (_, asking) = app
        .generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[bytes(CKA_EC_PARAMS, P256)],
            &[flag(CKA_ALWAYS_AUTHENTICATE, true)],
        )
        .expect("a key that asks");
    app.sign_init(session, CKM_ECDSA, asking).expect("C_SignInit");
    app.login_as(session, CKU_CONTEXT_SPECIFIC, wrong).expect_err("the wrong PIN");
    app.login_as(session, CKU_CONTEXT_SPECIFIC, changed).expect("C_Login(context)");
    app.sign_now(session, &[1; 32]).expect("C_Sign");
    let random = app.random(session, 32).expect("C_GenerateRandom");
    bench.shim.cut_connections();
    app.sign(session, CKM_ECDSA, key, &[1; 32]).expect("C_Sign");
    app.finalize().expect("C_Finalize");
    let log = bench.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "it says a lot:\n{log}");

    let mut secrets = Secrets::of(&bench, changed).all;
    for (name, value) in [("SO PIN", SO_PIN), ("PIN", PIN), ("wrong PIN", wrong)] {
        secrets.push((name.to_owned(), value.to_vec()));
    }
    secrets.push(("random bytes".to_owned(), random));
    // The flight records are read by whoever asks for help.
    let mut records = String::new();
    for entry in std::fs::read_dir(bench.runtime().join("tpm11")).expect("records").flatten() {
        records += &std::fs::read_to_string(entry.path()).expect("a record");
    }
    assert!(records.contains("C_SetPIN") && records.contains("TPM2_Unseal"), "{records}");
    let log = (log + &records).to_lowercase();
    for (name, value) in &secrets {
        let separated = |with: &str, form: fn(&u8) -> String| {
            value.iter().map(form).collect::<Vec<_>>().join(with)
        };
        let forms = [
            String::from_utf8_lossy(value).to_lowercase(),
            hex::encode(value),
            separated(", ", |byte| byte.to_string()),
            separated(", ", |byte| format!("{byte:x}")),
            separated(" ", |byte| format!("{byte:02x}")),
            separated(":", |byte| format!("{byte:02x}")),
        ];
        for form in forms {
            assert!(!log.contains(&form), "{name} is in the log as {form}");
        }
    }
    assert_eq!(app.noise(), "");
}
