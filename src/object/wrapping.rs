//! Which key may be wrapped by which, and what an unwrapped one becomes: P7 and P9 of `policy.rs`, and
//! what the specification itself asks (§5.18.3, §5.18.4).

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::keyspec::{Private, PrivatePlan, Secret};
use super::object::Object;
use super::pkcs8;
use super::policy::{Guard, Policy};
use super::public_key;
use super::roles;
use super::rule::Setting;
use super::rules::CKA_TPM11_STORAGE_KEY;
use super::search::Search;
use super::template::Template;
use super::value::Attributes;
use crate::error::{Error, Result};

/// A mechanism that wraps, as the rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Wrapper {
    /// CKM_
    pub mechanism: u64,
    /// It authenticates what it wraps, so that P9 lets it wrap sensitive keys.
    pub sound: bool,
    /// It fills keys up with fewer than 8 zeros.
    pub fills: bool,
}

/// Whether `wrapping`, which has CKA_WRAP, may wrap `key` with this mechanism.
///
/// # Errors
/// KeyUnextractable, KeyNotWrappable; KeyInvalid by CKA_WRAP_TEMPLATE; MechanismInvalid and
/// WrappingKeySize by P9.
pub fn may_wrap(wrapping: &Object, key: &Object, wrapper: Wrapper, policy: Policy) -> Result<()> {
    let Wrapper { mechanism, sound, .. } = wrapper;
    if !matches!(key.class(), CKO_SECRET_KEY | CKO_PRIVATE_KEY) {
        return Err(Error::KeyNotWrappable);
    }
    if !key.is(CKA_EXTRACTABLE) {
        return Err(Error::KeyUnextractable);
    }
    if key.is(CKA_WRAP_WITH_TRUSTED) && !wrapping.is(CKA_TRUSTED) {
        return Err(Error::KeyNotWrappable);
    }
    if let Some(wanted) = wrapping.attributes.get(CKA_WRAP_TEMPLATE) {
        let wanted = Template::from_bytes(wanted).ok_or(Error::Bug("a template of ours"))?;
        if !Search::new(&wanted).matches(key) {
            return Err(Error::KeyInvalid);
        }
    }
    let readable = roles::readable(&key.attributes);
    let chosen = readable && !guards_by_counter(wrapping, policy);
    if policy.has(Guard::SoundWrapping) && !sound && !chosen {
        let why = format!("mechanism {mechanism:#x} does not authenticate what it wraps");
        return Err(refused(key, Guard::SoundWrapping, &why, Error::MechanismInvalid(mechanism)));
    }
    if readable {
        return Ok(());
    }
    if policy.has(Guard::LoginNeeded) && key.is(CKA_PRIVATE) && opens_to_all(wrapping) {
        let why = "it is private, and who unwraps it needs no login";
        return Err(refused(key, Guard::LoginNeeded, why, Error::KeyNotWrappable));
    }
    if policy.has(Guard::KnownKeysDoNotWrap) && !known_to_us_alone(wrapping) {
        let why = "the wrapping key may be known outside or has other roles, and the SO does not trust it \
                   (`tpm11 trust`)";
        return Err(refused(key, Guard::KnownKeysDoNotWrap, why, Error::KeyNotWrappable));
    }
    if policy.has(Guard::SoundWrapping) {
        strong_enough(wrapping, key).map_err(|error| {
            refused(key, Guard::SoundWrapping, &error.to_string(), error.clone())
        })?;
    }
    Ok(())
}

/// Says why a key is not wrapped.
fn refused(key: &Object, guard: Guard, why: &str, error: Error) -> Error {
    let number = guard.entry().number;
    log::info!("key {} is not wrapped so: {why} ({number})", key.unique_id());
    error
}

/// P7: nobody but the token, or whom the SO trusts, can undo what this key wraps.
fn known_to_us_alone(wrapping: &Object) -> bool {
    let hidden = || wrapping.is(CKA_ALWAYS_SENSITIVE) && wrapping.is(CKA_NEVER_EXTRACTABLE);
    wrapping.is(CKA_TRUSTED)
        || wrapping.is(CKA_LOCAL)
            && does_nothing_else(wrapping)
            && (wrapping.class() == CKO_PUBLIC_KEY || hidden())
}

/// P13: whether it is a secret key that unwraps without a login.
fn opens_to_all(wrapping: &Object) -> bool {
    wrapping.class() == CKO_SECRET_KEY && !wrapping.is(CKA_PRIVATE)
}

/// P9: whether the key may wrap sensitive keys with a key stream (GCM, CCM). Then it encrypts nothing that
/// somebody chose block by block (CBC_PAD) or under a nonce of his own, not even readable keys: that would be
/// the stream.
pub fn guards_by_counter(wrapping: &Object, policy: Policy) -> bool {
    let streams =
        |allowed: Vec<u64>| [CKM_AES_GCM, CKM_AES_CCM].iter().any(|id| allowed.contains(id));
    wrapping.class() == CKO_SECRET_KEY
        && (known_to_us_alone(wrapping) || !policy.has(Guard::KnownKeysDoNotWrap))
        && wrapping.attributes.ulongs(CKA_ALLOWED_MECHANISMS).is_none_or(streams)
}

/// Whether the key wraps or unwraps and has no other role.
pub fn does_nothing_else(key: &Object) -> bool {
    const OTHERS: [u64; 5] = [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_DERIVE];
    (key.is(CKA_WRAP) || key.is(CKA_UNWRAP)) && !OTHERS.iter().any(|role| key.is(*role))
}

/// P9. RSA keys of 2048 bits are as strong as their owner deems them; symmetric keys are compared.
fn strong_enough(wrapping: &Object, key: &Object) -> Result<()> {
    // What a TPM's storage key receives is in another TPM's wrapper, as all keys there are.
    if wrapping.attributes.has(CKA_TPM11_STORAGE_KEY) {
        return Ok(());
    }
    if wrapping.class() == CKO_PUBLIC_KEY {
        let public_key::PublicKey::Rsa(public) = public_key::PublicKey::of(&wrapping.attributes)?
        else {
            return Err(Error::WrappingKeyType);
        };
        let exponent = wrapping.attributes.get(CKA_PUBLIC_EXPONENT).unwrap_or_default();
        // Without leading zeros: longer is larger.
        let small = exponent.len() < 3 || exponent.len() == 3 && exponent < [1, 0, 1].as_slice();
        if public.bits() < 2048 || small {
            return Err(Error::WrappingKeySize(
                "RSA keys that wrap have 2048 bits and an exponent of 65537 at least".into(),
            ));
        }
        return Ok(());
    }
    let (has, needs) = (strength(&wrapping.attributes), strength(&key.attributes));
    if has < needs {
        return Err(Error::WrappingKeySize(format!(
            "a key of {has} bits of security cannot guard one of {needs}"
        )));
    }
    Ok(())
}

/// The bits of security that a key has: SP 800-57 part 1, §5.6.1.1.
fn strength(attributes: &Attributes) -> u64 {
    let bits = |length: usize| 8 * length as u64;
    match attributes.ulong(CKA_KEY_TYPE) {
        Some(CKK_RSA) => match bits(attributes.get(CKA_MODULUS).unwrap_or_default().len()) {
            ..2048 => 80,
            2048..3072 => 112,
            _ => 128,
        },
        Some(CKK_EC) => {
            match public_key::curve(attributes.get(CKA_EC_PARAMS).unwrap_or_default()) {
                // P-521 is as strong as the longest AES key.
                Ok(curve) => (curve.bits() as u64 / 2).min(256),
                Err(_) => 256,
            }
        }
        _ => (8 * attributes.ulong(CKA_VALUE_LEN).unwrap_or_default()).min(256),
    }
}

/// A template of C_UnwrapKey, checked and completed; the key follows.
#[derive(Debug)]
pub enum Plan {
    /// CKO_SECRET_KEY
    Secret(Secret),
    /// CKO_PRIVATE_KEY
    Private(PrivatePlan),
}

/// A key that was unwrapped, checked, for the TPM.
#[derive(Debug)]
pub enum Unwrapped {
    /// A secret key and its value.
    Secret(Secret, Zeroizing<Vec<u8>>),
    /// A private key.
    Private(Private),
}

impl Plan {
    /// Checks the template of C_UnwrapKey upon the CKA_UNWRAP_TEMPLATE of the key that unwraps.
    ///
    /// # Errors
    /// As [`rule::create`](super::rule::create).
    pub fn new(template: &Template, setting: &Setting, unwrapping: &Attributes) -> Result<Self> {
        let prescribed = unwrapping.get(CKA_UNWRAP_TEMPLATE).and_then(Template::from_bytes);
        let class = template
            .get(CKA_CLASS)
            .or_else(|| prescribed.as_ref().and_then(|prescribed| prescribed.get(CKA_CLASS)))
            .ok_or(Error::TemplateIncomplete(CKA_CLASS))?;
        match super::value::ulong(class) {
            Some(CKO_SECRET_KEY) => Secret::unwrap(template, setting, unwrapping).map(Plan::Secret),
            Some(CKO_PRIVATE_KEY) => {
                Private::unwrap(template, setting, unwrapping).map(Plan::Private)
            }
            Some(_) => Err(Error::TemplateInconsistent("only keys are unwrapped")),
            None => Err(Error::AttributeValueInvalid(CKA_CLASS, "not one CK_ULONG")),
        }
    }

    /// What was unwrapped. Whatever is wrong inside is one error, but that a mechanism which
    /// authenticated the value may say that its length is not the one asked for. Zeros that the mechanism
    /// filled the key up with are taken off; other bytes are the key's, which is taken whole or not at all.
    ///
    /// # Errors
    /// WrappedKeyInvalid, WrappedKeyLength; CurveNotSupported.
    pub fn finish(self, value: Zeroizing<Vec<u8>>, wrapper: Wrapper) -> Result<Unwrapped> {
        match self {
            Plan::Secret(plan) => {
                let length = match plan.length {
                    Some(length) if wrapper.fills => filled(&value, length).unwrap_or(value.len()),
                    _ => value.len(),
                };
                let right = match (plan.length, plan.key_type()) {
                    (Some(wanted), _) => wanted == length,
                    (None, CKK_AES) => matches!(length, 16 | 24 | 32),
                    (None, _) => length > 0,
                };
                match (right, wrapper.sound) {
                    (true, _) => Ok(Unwrapped::Secret(plan, cut(value, length))),
                    (false, true) => Err(Error::WrappedKeyLength),
                    (false, false) => Err(Error::WrappedKeyInvalid),
                }
            }
            Plan::Private(plan) => {
                let length = if wrapper.fills { pkcs8::whole(&value) } else { None };
                let length = length.and_then(|length| filled(&value, length));
                let key = value.get(..length.unwrap_or(value.len())).unwrap_or_default();
                pkcs8::decode(key)
                    .map_err(|_| Error::WrappedKeyInvalid)
                    .and_then(|key| plan.finish(key))
                    .map(Unwrapped::Private)
                    .map_err(|_| Error::WrappedKeyInvalid)
            }
        }
    }
}

/// `length`, if what comes behind so many bytes is fewer than 8 zeros.
fn filled(value: &[u8], length: usize) -> Option<usize> {
    let behind = value.get(length..)?;
    (behind.len() < 8 && behind.iter().all(|byte| *byte == 0)).then_some(length)
}

fn cut(value: Zeroizing<Vec<u8>>, length: usize) -> Zeroizing<Vec<u8>> {
    match value.get(..length) {
        Some(key) if key.len() < value.len() => Zeroizing::new(key.to_vec()),
        _ => value,
    }
}
