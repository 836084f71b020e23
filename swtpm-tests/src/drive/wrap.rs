//! Wrapping and unwrapping, whatever the mechanism: OpenSSL has the wrapping key, too.

use cryptoki_sys::*;

use super::asymmetric::Shape;
use super::pair::{outsider, public_template};
use super::{Drive, Failure, Kind, Outcome, Random, by, right, secret_key};
use crate::ck::{Attribute, Mechanism, flag, guarded, number, open};
use crate::openssl::{Key, RSA_PARTS};

/// What OpenSSL makes of a value under a key.
pub(super) type Sealing<'a> = Box<dyn Fn(&[u8]) -> Result<Vec<u8>, Failure> + 'a>;

/// A key that everybody may read, for the length of `job`.
fn with_readable(
    drive: &Drive<'_>,
    random: &mut Random,
    job: impl FnOnce(u64, &[u8], &mut Random) -> Outcome,
) -> Outcome {
    let length = *random.one_of(&[16, 24, 32]);
    let value = random.bytes(length);
    let template =
        secret_key(CKK_GENERIC_SECRET, &value, &[&open()[..], &[flag(CKA_SIGN, true)]].concat());
    drive.with_object(&template, |key| job(key, &value, random))
}

/// A readable key wrapped with an outsider's RSA key: `open` is how that unwraps it.
pub(super) fn with_rsa(
    drive: &Drive<'_>,
    shape: &Shape,
    random: &mut Random,
    open: impl FnOnce(&[u8], &Key) -> Option<Vec<u8>>,
) -> Outcome {
    with_readable(drive, random, |key, value, random| {
        let pair = outsider(Kind::Rsa, random);
        let mut template = public_template(Kind::Rsa, &pair.info());
        template.push(flag(CKA_WRAP, true));
        let mechanism = shape.mechanism.clone();
        let wrapped = drive.with_object(&template, |public| {
            by("C_WrapKey", drive.ck.wrap(drive.session, mechanism, public, key))
        })?;
        right(open(&wrapped, pair).as_deref() == Some(value), || drive.named("another key"))
    })
}

/// A readable AES key that wraps, and a readable key with its value.
pub(super) fn with_wrapping(
    drive: &Drive<'_>,
    random: &mut Random,
    job: impl FnOnce(u64, u64, &[u8], &mut Random) -> Outcome,
) -> Outcome {
    with_readable(drive, random, |key, value, random| {
        // What is brought in does not wrap; so it is made here, readable.
        let length = number(CKA_VALUE_LEN, *random.one_of(&[16, 32]));
        let own = [length, flag(CKA_TOKEN, false), flag(CKA_WRAP, true)];
        let template = [&own[..], &open()].concat();
        drive.with_generated(CKM_AES_KEY_GEN, &template, |wrapping| {
            job(wrapping, key, value, random)
        })
    })
}

/// A readable key wrapped with a readable AES key; `wraps` gives for the value the mechanism with its
/// parameter, and what OpenSSL makes of it.
pub(super) fn with_aes<'a>(
    drive: &'a Drive<'_>,
    random: &mut Random,
    wraps: impl FnOnce(Vec<u8>, &mut Random) -> (Mechanism, Sealing<'a>),
) -> Outcome {
    with_wrapping(drive, random, |wrapping, key, value, random| {
        let (mechanism, seal) = wraps(value.to_vec(), random);
        let wrapped = drive.ck.wrap(drive.session, mechanism, wrapping, key);
        let wrapped = by("C_WrapKey", wrapped)?;
        let expected = seal(&drive.value(wrapping)?)?;
        right(wrapped == expected, || drive.named("another ciphertext"))
    })
}

/// A key that nobody reads, wrapped with one that the token alone knows, and unwrapped by that again.
pub(super) fn there_and_back(drive: &Drive<'_>, random: &mut Random) -> Outcome {
    let length = *random.one_of(&[16, 24, 32]);
    let value = random.bytes(length);
    let target = [&guarded()[..], &[flag(CKA_SIGN, true)]].concat();
    let length = number(CKA_VALUE_LEN, 32);
    let wraps = [length, flag(CKA_TOKEN, false), flag(CKA_WRAP, true), flag(CKA_UNWRAP, true)];
    drive.with_object(&secret_key(CKK_GENERIC_SECRET, &value, &target), |key| {
        drive.with_generated(CKM_AES_KEY_GEN, &wraps, |wrapping| {
            let wrapped = drive.ck.wrap(drive.session, drive.kind(), wrapping, key);
            opens(drive, wrapping, drive.kind().into(), &by("C_WrapKey", wrapped)?, &value)
        })
    })
}

/// A key that OpenSSL wrapped, by `seal`, for an RSA key that it gives to the module.
pub(super) fn opened_with_rsa(
    drive: &Drive<'_>,
    shape: &Shape,
    random: &mut Random,
    seal: impl FnOnce(&[u8], &Key) -> Option<Vec<u8>>,
) -> Outcome {
    let value = random.bytes(32);
    let pair = outsider(Kind::Rsa, random);
    let wrapped = drive.openssl(seal(&value, pair))?;
    let own = [
        number(CKA_CLASS, CKO_PRIVATE_KEY),
        number(CKA_KEY_TYPE, CKK_RSA),
        flag(CKA_TOKEN, false),
        flag(CKA_UNWRAP, true),
    ];
    let template = [&own[..], &pair.attributes(&RSA_PARTS[..5])].concat();
    drive.with_object(&template, |unwrapping| {
        opens(drive, unwrapping, shape.mechanism.clone(), &wrapped, &value)
    })
}

/// A key that OpenSSL wrapped with an AES key that it gives to the module; see [`with_aes`].
pub(super) fn opened_with_aes<'a>(
    drive: &'a Drive<'_>,
    random: &mut Random,
    wraps: impl FnOnce(Vec<u8>, &mut Random) -> (Mechanism, Sealing<'a>),
) -> Outcome {
    with_unwrapping(drive, random, |unwrapping, key, random| {
        let value = random.bytes(32);
        let (mechanism, seal) = wraps(value.clone(), random);
        opens(drive, unwrapping, mechanism, &seal(key)?, &value)
    })
}

/// An AES key that unwraps, with its value.
pub(super) fn with_unwrapping(
    drive: &Drive<'_>,
    random: &mut Random,
    job: impl FnOnce(u64, &[u8], &mut Random) -> Outcome,
) -> Outcome {
    let key = random.bytes(16);
    let template = secret_key(CKK_AES, &key, &[flag(CKA_UNWRAP, true)]);
    drive.with_object(&template, |unwrapping| job(unwrapping, &key, random))
}

/// For a secret that comes out of a blob.
pub(super) fn unwrapped() -> [Attribute; 4] {
    [
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
        flag(CKA_TOKEN, false),
        flag(CKA_SIGN, true),
    ]
}

fn opens(
    drive: &Drive<'_>,
    unwrapping: u64,
    mechanism: Mechanism,
    wrapped: &[u8],
    value: &[u8],
) -> Outcome {
    let made = drive.ck.unwrap(drive.session, mechanism, unwrapping, wrapped, &unwrapped());
    drive.spend(by("C_UnwrapKey", made)?, |key| drive.is_hidden(key, value))
}
