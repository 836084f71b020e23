//! What the whole floor promises, beyond one file: the table, the templates that clients really send,
//! certificates as they are found in the wild, and properties that no template may break.

mod certificates;
mod clients;
mod life;
mod properties;
mod rows;
mod secrets;
mod table;

use std::sync::{Arc, OnceLock};

use cryptoki_sys::*;

use super::keyspec::{Derivation, Derives, Pair, Secret, secret_spec};
use super::policy::{Dates, Policy};
use super::rule::{self, Creation, Setting};
use super::{Attributes, Material, Object, Residence, SecretKey, Template};
use crate::error::Result;
use crate::tpm::{KeyBlob, NewKey};

pub(super) const USER: Setting = setting(true, false);
pub(super) const SO: Setting = setting(false, true);
pub(super) const NOBODY: Setting = setting(false, false);

pub(super) const fn setting(user: bool, so: bool) -> Setting {
    Setting { user, so, policy: Policy::PREVENT, dates: Dates::Inform }
}

/// CKM_RSA_PKCS_KEY_PAIR_GEN's key type and CKM_EC_KEY_PAIR_GEN's.
pub(super) const RSA: (u64, u64) = (CKM_RSA_PKCS_KEY_PAIR_GEN, CKK_RSA);
pub(super) const EC: (u64, u64) = (CKM_EC_KEY_PAIR_GEN, CKK_EC);

/// namedCurve secp256r1, in DER.
pub(super) const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The base point of P-256, SP 800-186 §3.2.1.3: a point that is certainly on the curve.
pub(super) const X: [u8; 32] = [
    0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
    0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96,
];
pub(super) const Y: [u8; 32] = [
    0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16,
    0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

/// 0x04 ‖ x ‖ y
pub(super) fn point() -> Vec<u8> {
    [&[0x04], X.as_slice(), &Y].concat()
}

/// The same in an OCTET STRING.
pub(super) fn wrapped_point() -> Vec<u8> {
    [&[0x04, 65], point().as_slice()].concat()
}

/// An odd number of this many bits: all that a public modulus shows of itself.
pub(super) fn modulus(bits: usize) -> Vec<u8> {
    vec![0xC1; bits / 8]
}

/// What the TPM answers when it has made a key.
pub(super) fn made(public: Vec<u8>) -> NewKey {
    NewKey { public, private: vec![0x5A; 126] }
}

pub(super) fn made_ec() -> NewKey {
    let mut public = vec![0x00, 0x23, 0x00, 0x0b, 0x00, 0x04, 0x04, 0x72, 0x00, 0x00];
    public.extend([0x00, 0x10, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10]);
    for coordinate in [X, Y] {
        public.extend(32u16.to_be_bytes());
        public.extend(coordinate);
    }
    made(public)
}

pub(super) fn made_rsa(bits: u16) -> NewKey {
    let mut public = vec![0x00, 0x01, 0x00, 0x0b, 0x00, 0x06, 0x04, 0x72, 0x00, 0x00];
    public.extend([0x00, 0x10, 0x00, 0x10]);
    public.extend(bits.to_be_bytes());
    public.extend([0, 0, 0, 0]);
    public.extend((bits / 8).to_be_bytes());
    public.extend(modulus(usize::from(bits)));
    made(public)
}

pub(super) fn ec_public() -> Template {
    Template::new().with(CKA_EC_PARAMS, P256)
}

pub(super) fn rsa_public(bits: u64) -> Template {
    Template::new().with_ulong(CKA_MODULUS_BITS, bits)
}

/// C_GenerateKeyPair up to the finished attributes: public, private.
pub(super) fn pair(
    (mechanism, key_type): (u64, u64),
    public: &Template,
    private: &Template,
) -> Result<(Attributes, Attributes)> {
    let plan = Pair::plan(mechanism, key_type, public, private, &USER, Some(&vec![0; 34]))?;
    let made = match plan.spec.usage {
        crate::tpm::KeyUse::Rsa { bits, .. } => made_rsa(bits),
        crate::tpm::KeyUse::Ec { .. } => made_ec(),
        other => panic!("{other:?} is no key pair"),
    };
    plan.finish(&made)
}

/// An EC pair from templates that say nothing.
pub(super) fn plain_ec() -> (Attributes, Attributes) {
    pair(EC, &ec_public(), &Template::new()).expect("a plain EC pair")
}

pub(super) fn plain_rsa() -> (Attributes, Attributes) {
    pair(RSA, &rsa_public(2048), &Template::new()).expect("a plain RSA pair")
}

/// C_CreateObject up to the finished attributes.
pub(super) fn create(template: &Template, setting: &Setting) -> Result<Attributes> {
    created(template, setting).map(|object| (*object.attributes).clone())
}

/// C_CreateObject, but for the TPM.
pub(super) fn created(template: &Template, setting: &Setting) -> Result<Object> {
    match rule::create(template, setting)? {
        Creation::Object(attributes) => Ok(object(attributes, Material::None)),
        Creation::Secret(plan, value) => finished(plan, &value),
        Creation::Private(key) => Ok(object(key.attributes, Material::Key(blob().into()))),
    }
}

/// What the chip answers for a secret key; its value where the plan keeps it.
pub(super) fn finished(plan: Secret, value: &[u8]) -> Result<Object> {
    let value = plan.cut(value.to_vec().into())?;
    let keeps = plan.keeps_value();
    let attributes = plan.finish(value.len(), Residence::Imported, Some(&value))?;
    let key = SecretKey {
        id: [1; 16],
        authorization: [4; 32].into(),
        spec: secret_spec(&attributes),
        blob: Arc::new(blob()).into(),
        value: keeps.then_some(value),
    };
    Ok(object(attributes, Material::Secret(key.into())))
}

fn blob() -> KeyBlob {
    KeyBlob {
        id: [1; 16],
        public: vec![2; 90],
        private: vec![3; 126],
        authorization: [4; 32].into(),
    }
}

/// A secret of 32 bytes derived from a plain EC key.
pub(super) fn secret(template: &Template) -> Result<Object> {
    derived(template, &USER, Derives::Agreement, &[&plain_ec().1])
}

/// A secret of 32 bytes derived from these keys.
pub(super) fn derived(
    template: &Template,
    setting: &Setting,
    how: Derives,
    inputs: &[&Attributes],
) -> Result<Object> {
    let derivation = Derivation { mechanism: CKM_ECDH1_DERIVE, how, inputs, allows: &[] };
    finished(Secret::derive(template, setting, &derivation)?, &[0x77; 32])
}

pub(super) fn object(attributes: Attributes, material: Material) -> Object {
    Object { uuid: [0xAB; 16], attributes: attributes.into(), material }
}

pub(super) fn data() -> Template {
    Template::new().with_ulong(CKA_CLASS, CKO_DATA)
}

/// C_CreateObject of a P-256 public key.
pub(super) fn ec_public_key() -> Template {
    Template::new()
        .with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_EC)
        .with(CKA_EC_PARAMS, P256)
        .with(CKA_EC_POINT, wrapped_point())
}

pub(super) fn rsa_public_key() -> Template {
    Template::new()
        .with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_RSA)
        .with(CKA_MODULUS, modulus(2048))
        .with(CKA_PUBLIC_EXPONENT, [1, 0, 1])
}

pub(super) fn certificate() -> Template {
    Template::new()
        .with_ulong(CKA_CLASS, CKO_CERTIFICATE)
        .with_ulong(CKA_CERTIFICATE_TYPE, CKC_X_509)
        .with(CKA_VALUE, certificates::RSA_CRITICAL)
}

/// One finished object of every kind that the token stores, with a name for messages.
pub(super) fn one_of_each() -> Vec<(&'static str, Object)> {
    static ONCE: OnceLock<Vec<(&str, Object)>> = OnceLock::new();
    ONCE.get_or_init(make_one_of_each).clone()
}

fn make_one_of_each() -> Vec<(&'static str, Object)> {
    let create = |template: &Template| create(template, &USER).expect("a sound template");
    let (ec_public_half, ec_private) = plain_ec();
    let (rsa_public_half, rsa_private) = plain_rsa();
    let blob = || Material::Key(blob().into());
    let aes = Template::new().with_ulong(CKA_KEY_TYPE, CKK_AES).with_ulong(CKA_VALUE_LEN, 16);
    vec![
        ("data", object(create(&data()), Material::None)),
        ("certificate", object(create(&certificate()), Material::None)),
        ("EC public key", object(create(&ec_public_key()), Material::None)),
        ("RSA public key", object(create(&rsa_public_key()), Material::None)),
        ("EC public half", object(ec_public_half, Material::None)),
        ("RSA public half", object(rsa_public_half, Material::None)),
        ("EC private key", object(ec_private, blob())),
        ("RSA private key", object(rsa_private, blob())),
        ("generic secret", secret(&Template::new()).expect("a derived secret")),
        ("AES key", secret(&aes).expect("a derived AES key")),
    ]
}
