//! Keys that enter, leave and move, on real TPMs, with RustCrypto as the second opinion.

use std::sync::OnceLock;

use elliptic_curve::sec1::ToEncodedPoint;
use rsa::traits::{PrivateKeyParts, PublicKeyParts};

use super::super::testing::{AUTH, Bench, Meddling, bytes, spec};
use super::*;
use crate::crypto::ec::Curve;
use crate::tpm::Direction;
use crate::tpm::command::{Command as _, CreatePrimary, EvictControl, OWNER};
use crate::tpm::emulator::{P256, Root, template};
use crate::tpm::key::{KEYED_LIMIT, policy_secret};
use crate::tpm::testing::CipherMode;

fn extractable(usage: KeyUse) -> KeySpec {
    KeySpec { extractable: true, ..spec(usage) }
}

fn rsa_key(bits: usize) -> (KeyUse, PlainKey) {
    static KEYS: [OnceLock<rsa::RsaPrivateKey>; 2] = [const { OnceLock::new() }; 2];
    let key = KEYS[usize::from(bits > 2048)]
        .get_or_init(|| rsa::RsaPrivateKey::new(&mut rand_core::OsRng, bits).unwrap());
    let plain = PlainKey::Rsa {
        modulus: key.n().to_bytes_be(),
        exponent: 65537,
        prime: Zeroizing::new(key.primes()[0].to_bytes_be()),
    };
    (KeyUse::Rsa { bits: bits as u16, exponent: 65537 }, plain)
}

fn ec_key(curve: Curve) -> (KeyUse, PlainKey) {
    macro_rules! on {
        ($curve:ident) => {{
            let secret = $curve::SecretKey::random(&mut rand_core::OsRng);
            let point = secret.public_key().to_encoded_point(false);
            PlainKey::Ec {
                x: point.x().unwrap().to_vec(),
                y: point.y().unwrap().to_vec(),
                scalar: Zeroizing::new(secret.to_bytes().to_vec()),
            }
        }};
    }
    let plain = match curve {
        Curve::P256 => on!(p256),
        Curve::P384 => on!(p384),
        Curve::P521 => on!(p521),
    };
    (KeyUse::Ec { curve, sign: true, derive: true }, plain)
}

/// The x and y of a scalar's point.
fn point(curve: Curve, scalar: &[u8]) -> (Vec<u8>, Vec<u8>) {
    macro_rules! on {
        ($curve:ident) => {{
            let secret = $curve::SecretKey::from_slice(scalar).unwrap();
            let point = secret.public_key().to_encoded_point(false);
            (point.x().unwrap().to_vec(), point.y().unwrap().to_vec())
        }};
    }
    match curve {
        Curve::P256 => on!(p256),
        Curve::P384 => on!(p384),
        Curve::P521 => on!(p521),
    }
}

fn pairs() -> Vec<(KeyUse, PlainKey)> {
    let mut pairs: Vec<_> = Curve::ALL.into_iter().map(ec_key).collect();
    pairs.extend([2048, 3072].map(rsa_key));
    pairs
}

fn secret_of(key: &PlainKey) -> &[u8] {
    match key {
        PlainKey::Rsa { prime, .. } => prime,
        PlainKey::Ec { scalar, .. } => scalar,
        PlainKey::Secret(value) => value,
    }
}

impl Bench {
    fn imported(&self, spec: &KeySpec, plain: &PlainKey) -> Result<Key, Fault> {
        let new = self.tpm.import(&self.tpm.call(), &self.srk, spec, &AUTH, plain)?;
        Ok(self.key(new, AUTH))
    }

    fn made_extractable(&self, usage: KeyUse) -> Key {
        let (call, spec) = (self.tpm.call(), extractable(usage));
        self.key(self.tpm.create(&call, &self.srk, &spec, &AUTH).unwrap(), AUTH)
    }

    fn given_extractable(&self, usage: KeyUse, value: &[u8]) -> Key {
        let (call, spec) = (self.tpm.call(), extractable(usage));
        self.key(self.tpm.create_with(&call, &self.srk, &spec, &AUTH, value).unwrap(), AUTH)
    }

    fn export(&self, key: &Key) -> Result<PlainKey, Fault> {
        self.tpm.export(&self.tpm.call(), key, None)
    }

    /// Uses the key, and checks the result with its public part or its value.
    fn works(&self, key: &Key, plain: &PlainKey) {
        let call = self.tpm.call();
        match (plain, public_key(&key.blob.public).map(|(_, key)| key)) {
            (PlainKey::Rsa { modulus, .. }, _) => {
                let mut input = bytes(modulus.len());
                input[0] = 0;
                let answer = self.tpm.rsa_decrypt(&call, key, &input).unwrap();
                let public = crate::crypto::rsa::PublicKey::new(modulus, &[1, 0, 1]).unwrap();
                public.check(&input, &answer).unwrap();
            }
            (PlainKey::Ec { x, y, .. }, Ok(PublicKey::Ec { curve, .. })) => {
                use crate::crypto::ec;
                let hash = HashAlgorithm::Sha256;
                let crate::tpm::keys::Signed { r, s, .. } =
                    self.tpm.sign(&call, key, hash, &[0x44; 32]).unwrap();
                let point = ec::Point::from_coordinates(curve, x, y).unwrap();
                ec::verify(&point, &[0x44; 32], &[r, s].concat()).unwrap();
            }
            (PlainKey::Secret(value), Err(_)) => {
                if key.blob.public.starts_with(&TPM2_ALG_KEYEDHASH.to_be_bytes()) {
                    let ours = hmac(HashAlgorithm::Sha384, value, &[b"message"]);
                    assert_eq!(self.mac(key, HashAlgorithm::Sha384, b"message"), **ours);
                } else {
                    let cfb = (CipherMode::Cfb, Direction::Encrypt);
                    let there = self.cipher(key, cfb, &mut [0; 16], &[0x31; 100]);
                    let mut ours = vec![0x31; 100];
                    super::cfb(value, true, &mut ours).unwrap();
                    assert_eq!(there, ours);
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

const IMPORT: u32 = 0x156;

#[test]
fn an_imported_key_pair_works_and_was_never_in_clear_on_the_bus() {
    let bench = Bench::start();
    for (usage, plain) in pairs() {
        let key = bench.imported(&spec(usage), &plain).unwrap();
        let attributes = parse(&key.blob.public).unwrap().object_attributes();
        assert!(!attributes.fixed_tpm() && !attributes.sensitive_data_origin());
        bench.works(&key, &plain);
        for part in secret_of(&plain).chunks_exact(8) {
            assert!(!bench.swtpm.showed(part));
        }
    }
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

#[test]
fn an_import_is_one_command_and_an_export_four() {
    let bench = Bench::start();
    let (usage, plain) = ec_key(Curve::P256);
    let spec = extractable(usage);
    assert_eq!(bench.warm(|| drop(bench.imported(&spec, &plain).unwrap())), [IMPORT]);
    let key = bench.imported(&spec, &plain).unwrap();
    let export = bench.warm(|| drop(bench.export(&key).unwrap()));
    assert_eq!(export, [0x176, 0x16B, 0x16C, Duplicate::CODE]);
}

#[test]
fn what_is_exported_is_what_was_imported() {
    let bench = Bench::start();
    let secret = |length| PlainKey::Secret(Zeroizing::new(bytes(length)));
    let mut keys = pairs();
    keys.push((KeyUse::Aes { bits: 128 }, secret(16)));
    keys.push((KeyUse::Aes { bits: 256 }, secret(32)));
    keys.extend([1, 32, 64, 65, KEYED_LIMIT].map(|length| (KeyUse::Keyed, secret(length))));
    for (usage, plain) in keys {
        let key = match &plain {
            PlainKey::Secret(value) => bench.given_extractable(usage, value),
            _ => bench.imported(&extractable(usage), &plain).unwrap(),
        };
        bench.works(&key, &plain);
        let out = bench.export(&key).unwrap();
        match (&plain, &out) {
            (
                PlainKey::Rsa { modulus, exponent, prime },
                PlainKey::Rsa { modulus: m, exponent: e, prime: p },
            ) => assert!((modulus, exponent, prime) == (m, e, p)),
            (PlainKey::Ec { x, y, scalar }, PlainKey::Ec { x: a, y: b, scalar: c }) => {
                assert!((x, y, scalar) == (a, b, c));
            }
            (PlainKey::Secret(value), PlainKey::Secret(other)) => assert!(value == other),
            other => panic!("{other:?}"),
        }
        for part in secret_of(&plain).chunks_exact(8) {
            assert!(!bench.swtpm.showed(part), "{usage:?}");
        }
    }
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

#[test]
fn what_the_tpm_made_is_exported_whole() {
    let bench = Bench::start();
    for curve in Curve::ALL {
        let key = bench.made_extractable(KeyUse::Ec { curve, sign: true, derive: true });
        let PlainKey::Ec { x, y, scalar } = bench.export(&key).unwrap() else { panic!("EC") };
        assert_eq!((x, y), point(curve, &scalar));
    }
    let key = bench.made_extractable(KeyUse::Rsa { bits: 2048, exponent: 65537 });
    let PlainKey::Rsa { modulus, exponent, prime } = bench.export(&key).unwrap() else {
        panic!("RSA")
    };
    let (n, p) = (rsa::BigUint::from_bytes_be(&modulus), rsa::BigUint::from_bytes_be(&prime));
    assert_eq!((prime.len(), exponent), (128, 65537));
    assert_eq!(&n % &p, rsa::BigUint::from_bytes_be(&[]));
    let q = (n / &p).to_bytes_be();
    assert_eq!(q.len(), 128);
    for (usage, length) in
        [(KeyUse::Keyed, 32), (KeyUse::Aes { bits: 128 }, 16), (KeyUse::Aes { bits: 256 }, 32)]
    {
        let key = bench.made_extractable(usage);
        let plain = bench.export(&key).unwrap();
        assert_eq!(secret_of(&plain).len(), length);
        bench.works(&key, &plain);
    }
}

#[test]
fn the_chip_refuses_to_export_what_is_not_extractable() {
    let bench = Bench::start();
    let (usage, plain) = ec_key(Curve::P256);
    let fixed = [
        bench.made(usage),
        bench.made(KeyUse::Aes { bits: 128 }),
        bench.given(KeyUse::Keyed, &bytes(100)).unwrap(),
        bench.given(KeyUse::Sealed, &bytes(100)).unwrap(),
    ];
    for key in &fixed {
        let fault = bench.export(key).unwrap_err();
        assert_eq!(fault.command, Some(Duplicate::NAME));
        assert!(matches!(fault.kind(), Trouble::Parameter | Trouble::Policy), "{fault}");
    }
    let imported = bench.imported(&spec(usage), &plain).unwrap();
    let fault = bench.export(&imported).unwrap_err();
    assert_eq!((fault.command, fault.kind()), (Some(Duplicate::NAME), &Trouble::Policy));
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

/// TPM2_Duplicate to nobody, without a wrapper, after `meet` has met what it can.
fn steal(
    bench: &Bench,
    key: &Key,
    authorization: Option<&[u8]>,
    meet: impl Fn(&PolicySession, &mut KeyLease) -> Result<(), Fault>,
) -> Result<Duplicated, Fault> {
    bench.tpm.with_key(&bench.tpm.call(), key, |lease| {
        let call = bench.tpm.call();
        let mut policy = PolicySession::keyed(&mut lease.connection.link, &call)?;
        meet(&policy, lease)?;
        let loaded = lease.key();
        let nobody = Entity::permanent(NULL);
        let command = Duplicate { key: &loaded, parent: &nobody, inner: None };
        let auth = match authorization {
            Some(value) => Auth::policy_with_value(&mut policy, value),
            None => Auth::policy(&mut policy),
        };
        execute(&mut lease.connection.link, &command, &mut [auth], &call)
    })
}

#[test]
fn without_the_authorization_nobody_duplicates() {
    let bench = Bench::start();
    let call = bench.tpm.call();
    let key = bench.given_extractable(KeyUse::Aes { bits: 128 }, &bytes(16));
    let code = |policy: &PolicySession, lease: &mut KeyLease| {
        policy.command_code(Duplicate::CODE, &mut lease.connection.link, &call)
    };
    let both = |policy: &PolicySession, lease: &mut KeyLease| {
        policy.auth_value(&mut lease.connection.link, &call)?;
        code(policy, lease)
    };
    // Who knows it can.
    steal(&bench, &key, Some(&AUTH), both).unwrap();
    let fault = steal(&bench, &key, Some(&[8; 32]), both).unwrap_err();
    assert_eq!(*fault.kind(), Trouble::AuthFail);
    let fault = steal(&bench, &key, None, code).unwrap_err();
    assert_eq!(*fault.kind(), Trouble::Policy);
    let fault = steal(&bench, &key, None, |_, _| Ok(())).unwrap_err();
    assert_eq!(*fault.kind(), Trouble::Policy);
    // Not even who knows it, where the key is not extractable: there is no policy to meet.
    let (usage, plain) = ec_key(Curve::P384);
    let imported = bench.imported(&spec(usage), &plain).unwrap();
    for authorization in [Some(&AUTH[..]), None] {
        let fault = match authorization {
            Some(_) => steal(&bench, &imported, authorization, both),
            None => steal(&bench, &imported, authorization, code),
        };
        assert_eq!(*fault.unwrap_err().kind(), Trouble::Policy);
    }
    bench.tpm.end();
    assert!(bench.swtpm.handles().is_empty());
}

#[test]
fn halves_that_do_not_belong_together_are_refused_by_the_chip_too() {
    let bench = Bench::start();
    let (usage, PlainKey::Ec { x, y, .. }) = ec_key(Curve::P256) else { panic!("EC") };
    let (_, PlainKey::Ec { scalar, .. }) = ec_key(Curve::P256) else { panic!("EC") };
    let mixed = PlainKey::Ec { x, y, scalar };
    let fault = bench.imported(&spec(usage), &mixed).unwrap_err();
    assert_eq!(*fault.kind(), Trouble::Integrity);
    let (usage, PlainKey::Rsa { modulus, exponent, mut prime }) = rsa_key(2048) else {
        panic!("RSA")
    };
    prime[100] ^= 1;
    let mixed = PlainKey::Rsa { modulus, exponent, prime };
    // Some look at the prime when the key is loaded.
    let outcome = bench
        .imported(&spec(usage), &mixed)
        .and_then(|key| bench.tpm.rsa_decrypt(&bench.tpm.call(), &key, &[1; 256]));
    assert!(outcome.unwrap_err().code().is_some());
}

#[test]
fn a_key_that_is_not_what_the_plan_says_is_not_sent() {
    let bench = Bench::start();
    let (p256, p384) = (ec_key(Curve::P256), ec_key(Curve::P384));
    let rsa = rsa_key(2048);
    let secret = PlainKey::Secret(Zeroizing::new(bytes(24)));
    bench.swtpm.take_record();
    for (usage, plain) in [
        (p256.0, &p384.1),
        (p256.0, &rsa.1),
        (KeyUse::Rsa { bits: 3072, exponent: 65537 }, &rsa.1),
        (KeyUse::Rsa { bits: 2048, exponent: 3 }, &rsa.1),
        (KeyUse::Aes { bits: 256 }, &secret),
        (KeyUse::Sealed, &secret),
        (KeyUse::Keyed, &p256.1),
    ] {
        let fault = bench.imported(&spec(usage), plain).unwrap_err();
        assert_eq!(*fault.kind(), Trouble::KeySize, "{usage:?}");
    }
    assert!(bench.swtpm.take_record().is_empty());
}

#[test]
fn a_key_that_asks_for_a_pin_can_still_be_exported_if_it_is_extractable() {
    let bench = Bench::start();
    let (usage, plain) = ec_key(Curve::P256);
    // The Name of an index; it need not exist.
    let pin = [&[0, 11][..], &[7; 32]].concat();
    for extractable in [true, false] {
        let spec = KeySpec { usage, extractable, always_authenticate: Some(pin.clone()) };
        let key = bench.imported(&spec, &plain).unwrap();
        let out = bench.tpm.export(&bench.tpm.call(), &key, Some(&pin));
        if extractable {
            assert!(secret_of(&out.unwrap()) == secret_of(&plain));
        } else {
            let policy = parse(&key.blob.public).unwrap();
            assert_eq!(policy.auth_policy().value(), policy_secret(&[0; 32], &pin));
            assert_eq!(*out.unwrap_err().kind(), Trouble::Policy);
        }
    }
}

/// A TPM with such a storage root key.
fn bench_with(root: Root) -> Bench {
    let bench = Bench::start();
    let call = bench.tpm.call();
    let owner = Entity::permanent(OWNER);
    const USUAL: u32 = 0x8100_0001;
    bench
        .tpm
        .with(&call, None, |lease| {
            let old = Entity::from(&lease.srk()?);
            let evict = EvictControl { owner: &owner, object: &old, persistent: USUAL };
            lease.execute(&evict, &mut [Auth::password(&[])])?;
            let create = CreatePrimary { hierarchy: &owner, public: &template(root) };
            let new = lease.execute(&create, &mut [Auth::password(&[])])?.entity;
            let keep = EvictControl { owner: &owner, object: &new, persistent: USUAL };
            lease.execute(&keep, &mut [Auth::password(&[])])
        })
        .unwrap();
    bench.tpm.end();
    let srk = bench.tpm.srk_name(&call).unwrap();
    Bench { srk: srk.into(), ..bench }
}

impl Bench {
    fn storage_key(&self) -> Vec<u8> {
        let public = |lease: &mut crate::tpm::lease::Lease| Ok(lease.srk()?.public().to_vec());
        self.tpm.with(&self.tpm.call(), Some(&self.srk), public).unwrap()
    }

    fn receive(&self, parcel: &Parcel) -> Result<(Key, Zeroizing<[u8; 32]>), Fault> {
        let call = self.tpm.call();
        let (new, secret) = self.tpm.import_duplicate(&call, &self.srk, parcel, &[5; 32])?;
        Ok((self.key(new, [5; 32]), secret))
    }
}

#[test]
fn a_key_moves_between_two_tpms_and_no_host_sees_it() {
    use tss_esapi::interface_types::algorithm::HashingAlgorithm;
    use tss_esapi::interface_types::ecc::EccCurve;

    let here = Bench::start();
    let secret = |length| PlainKey::Secret(Zeroizing::new(bytes(length)));
    let (ec, rsa) = (ec_key(Curve::P521), rsa_key(2048));
    for (root, keys) in [
        (P256, vec![&ec.0, &rsa.0, &KeyUse::Aes { bits: 128 }, &KeyUse::Keyed]),
        (Root::Ec(EccCurve::NistP384, HashingAlgorithm::Sha384), vec![&KeyUse::Keyed]),
        (Root::Rsa, vec![&ec.0, &KeyUse::Aes { bits: 256 }]),
    ] {
        let there = bench_with(root);
        let target = there.storage_key();
        for usage in keys {
            let plain = match usage {
                KeyUse::Ec { .. } => &ec.1,
                KeyUse::Rsa { .. } => &rsa.1,
                KeyUse::Aes { bits } => &secret(usize::from(*bits) / 8),
                _ => &secret(100),
            };
            let key = match plain {
                PlainKey::Secret(value) => here.given_extractable(*usage, value),
                _ => here.imported(&extractable(*usage), plain).unwrap(),
            };
            let call = here.tpm.call();
            let (parcel, secret) = here.tpm.duplicate(&call, &key, &target).unwrap();
            let parcel = Parcel::from_bytes(&parcel.to_bytes()).unwrap();
            here.works(&key, plain);
            let (moved, said) = there.receive(&parcel).unwrap();
            assert_eq!(*said, *secret);
            there.works(&moved, plain);
            for bench in [&here, &there] {
                for hidden in [secret_of(plain), &secret[..], &[5; 32]] {
                    for part in hidden.chunks_exact(8) {
                        assert!(!bench.swtpm.showed(part), "{usage:?}");
                    }
                }
            }
        }
        there.tpm.end();
        assert!(there.swtpm.handles().is_empty());
    }
    here.tpm.end();
    assert!(here.swtpm.handles().is_empty());
}

#[test]
fn a_parcel_for_one_tpm_is_nothing_to_another_and_no_bit_of_it_can_be_changed() {
    let (here, there) = (Bench::start(), Bench::start());
    let call = here.tpm.call();
    let (one, other) = (here.made_extractable(KeyUse::Keyed), here.made_extractable(KeyUse::Keyed));
    let target = there.storage_key();
    let (parcel, _) = here.tpm.duplicate(&call, &one, &target).unwrap();
    let (second, _) = here.tpm.duplicate(&call, &other, &target).unwrap();

    assert!(here.receive(&parcel).unwrap_err().code().is_some(), "not even to its source");
    let mut changed = vec![
        Parcel { private: second.private.clone(), ..parcel.clone() },
        Parcel { seed: second.seed.clone(), ..parcel.clone() },
        Parcel { public: second.public.clone(), ..parcel.clone() },
    ];
    for at in [0, 40, parcel.private.len() - 1] {
        let mut bent = parcel.clone();
        bent.private[at] ^= 1;
        changed.push(bent);
        let mut bent = parcel.clone();
        bent.credential[at % parcel.credential.len()] ^= 1;
        changed.push(bent);
    }
    for parcel in &changed {
        assert!(there.receive(parcel).unwrap_err().code().is_some());
    }
    // The secret of another parcel is not this key's authorization value.
    let Parcel { credential, credential_seed, .. } = second.clone();
    let mixed = Parcel { credential, credential_seed, ..parcel.clone() };
    assert_eq!(*there.receive(&mixed).unwrap_err().kind(), Trouble::AuthFail);
    there.receive(&parcel).unwrap();

    let bytes = parcel.to_bytes();
    assert_eq!(Parcel::from_bytes(&bytes[..bytes.len() - 1]), None);
    assert_eq!(Parcel::from_bytes(&[&bytes[..], &[0]].concat()), None);
    assert_eq!(Parcel::from_bytes(&[&[9], &bytes[1..]].concat()), None);
    for bench in [here, there] {
        bench.tpm.end();
        assert!(bench.swtpm.handles().is_empty());
    }
}

#[test]
fn only_extractable_keys_move_and_only_to_storage_keys() {
    let (here, there) = (Bench::start(), Bench::start());
    let call = here.tpm.call();
    let target = there.storage_key();
    let key = here.made_extractable(KeyUse::Keyed);
    let (usage, plain) = ec_key(Curve::P256);
    let pin = KeySpec { always_authenticate: Some(vec![0; 34]), ..extractable(usage) };
    here.swtpm.take_record();
    for stays in [
        here.made(KeyUse::Keyed),
        here.given(KeyUse::Sealed, b"sealed").unwrap(),
        here.imported(&spec(usage), &plain).unwrap(),
        here.imported(&pin, &plain).unwrap(),
    ] {
        let fault = here.tpm.duplicate(&call, &stays, &target).unwrap_err();
        assert_eq!(*fault.kind(), Trouble::Policy);
    }
    let fault = here.tpm.duplicate(&call, &key, &key.blob.public).unwrap_err();
    assert!(matches!(fault.kind(), Trouble::Unsound(_)), "{fault}");
    // A public area of somebody's own making is not taken in.
    let (parcel, _) = here.tpm.duplicate(&call, &key, &target).unwrap();
    for at in [4, 5, 6, 7, 20] {
        let mut bent = parcel.clone();
        bent.public[at] ^= 0x40;
        assert_eq!(*there.receive(&bent).unwrap_err().kind(), Trouble::Policy, "{at}");
    }
}

#[test]
fn what_is_cut_or_refused_on_its_way_leaves_nothing_behind() {
    const CHANGE_AUTH: u32 = 0x150;
    const DUPLICATE: u32 = 0x14B;
    const LOAD_EXTERNAL: u32 = 0x167;
    const ACTIVATE: u32 = 0x147;
    const FLUSH: u32 = 0x165;
    const VALUE: u32 = 0x1C4;
    let (here, there) = (Bench::start(), Bench::start());
    let target = there.storage_key();
    let call = here.tpm.call();
    let value = bytes(32);
    let key = here.given_extractable(KeyUse::Aes { bits: 256 }, &value);
    let plain = PlainKey::Secret(Zeroizing::new(value));
    for code in [CHANGE_AUTH, LOAD_EXTERNAL, DUPLICATE] {
        here.swtpm.meddle(code, Meddling::Answer(VALUE));
        let fault = here.tpm.duplicate(&call, &key, &target).unwrap_err();
        assert_eq!(fault.code(), Some(VALUE), "{code:#x}");
        if code != CHANGE_AUTH {
            assert_eq!(here.swtpm.take_record().last(), Some(&FLUSH), "{code:#x}");
        }
        here.swtpm.meddle(code, Meddling::Cut);
        let (parcel, _) = here.tpm.duplicate(&call, &key, &target).unwrap();
        there.works(&there.receive(&parcel).unwrap().0, &plain);
    }
    let (parcel, _) = here.tpm.duplicate(&call, &key, &target).unwrap();
    for code in [ACTIVATE, IMPORT, CHANGE_AUTH] {
        there.swtpm.meddle(code, Meddling::Answer(VALUE));
        assert_eq!(there.receive(&parcel).unwrap_err().code(), Some(VALUE), "{code:#x}");
        there.swtpm.meddle(code, Meddling::Cut);
        there.works(&there.receive(&parcel).unwrap().0, &plain);
    }
    here.swtpm.meddle(DUPLICATE, Meddling::Answer(VALUE));
    assert_eq!(here.export(&key).unwrap_err().code(), Some(VALUE));
    here.swtpm.meddle(DUPLICATE, Meddling::Cut);
    assert!(secret_of(&here.export(&key).unwrap()) == secret_of(&plain));
    for bench in [here, there] {
        bench.tpm.end();
        assert!(bench.swtpm.handles().is_empty());
    }
}

#[test]
fn behind_a_resource_manager_keys_enter_leave_and_move_as_well() {
    let (here, there) = (Bench::managed(), Bench::managed());
    let (usage, plain) = ec_key(Curve::P256);
    let key = here.imported(&extractable(usage), &plain).unwrap();
    assert!(secret_of(&here.export(&key).unwrap()) == secret_of(&plain));
    let target = there.storage_key();
    let (parcel, _) = here.tpm.duplicate(&here.tpm.call(), &key, &target).unwrap();
    here.works(&key, &plain);
    there.works(&there.receive(&parcel).unwrap().0, &plain);
}

#[test]
fn beside_a_transient_root_there_is_room_for_everything() {
    let (here, there) = (Bench::narrow(), Bench::narrow());
    let target = there.storage_key();
    let call = here.tpm.call();
    let plain = PlainKey::Secret(Zeroizing::new(bytes(32)));
    let key = here.given_extractable(KeyUse::Keyed, &bytes(32));
    let other = here.made(KeyUse::Aes { bits: 128 });
    for _ in 0..2 {
        here.cipher(&other, (CipherMode::Ecb, Direction::Encrypt), &mut [0; 16], &[0; 64]);
        let mac = here.mac(&key, HashAlgorithm::Sha256, &[1; 5000]);
        assert_eq!(mac, **hmac(HashAlgorithm::Sha256, &bytes(32), &[&[1; 5000]]));
        assert!(secret_of(&here.export(&key).unwrap()) == secret_of(&plain));
        let (parcel, _) = here.tpm.duplicate(&call, &key, &target).unwrap();
        there.works(&there.receive(&parcel).unwrap().0, &plain);
    }
    for bench in [here, there] {
        bench.tpm.end();
        assert!(bench.swtpm.handles().is_empty());
    }
}
