//! Drivers: given a mechanism and one of its operation flags, do one such operation and check what
//! comes of it against OpenSSL. Whoever tests everything that the module advertises asks here, and a
//! mechanism without a driver is a failure of that test, not a gap in it.
//!
//! A family of mechanisms is one file: its rows, and how its operations are driven. What the module's own
//! rows say (names, which operations there are, where they are done) is asked of them.

mod aead;
mod aes;
mod aes_data;
mod asymmetric;
mod cmac;
mod digest;
mod duplicate;
mod ecdh;
mod ecdsa;
mod hash;
mod hkdf;
mod hmac;
mod pair;
mod pbkdf2;
mod plain;
mod public_half;
mod random;
mod rsa;
mod rsa_aes;
mod secret;
mod sp800;
mod tls;
mod wrap;

use std::fmt;

use cryptoki_sys::*;
use tpm11::mechanism::{self, OPERATIONS, Place, Sealing, Terms};

use crate::ck::{Answer, Attribute, Ck, Mechanism, Rv, bytes, flag, hidden, number};
use crate::openssl;

pub use duplicate::{CKA_TPM11_STORAGE_KEY, CKM_TPM11_DUPLICATE, storage_key};
pub use pair::{Kind, Pair};
pub use random::Random;

/// Every mechanism that can be driven.
static FAMILIES: &[&[Row]] = &[
    digest::ROWS,
    ecdsa::ROWS,
    rsa::ROWS,
    rsa_aes::ROWS,
    duplicate::ROWS,
    ecdh::ROWS,
    hkdf::ROWS,
    plain::ROWS,
    aes_data::ROWS,
    pbkdf2::ROWS,
    tls::ROWS,
    public_half::ROWS,
    sp800::ROWS,
    hmac::ROWS,
    aes::ROWS,
    aead::ROWS,
    cmac::ROWS,
    secret::ROWS,
    pair::ROWS,
];

/// A mechanism, CKM_x, and how it is driven.
type Row = (u64, &'static dyn Family);

/// Mechanisms that work alike.
trait Family: fmt::Debug + Sync {
    /// The name of their section.
    fn section(&self) -> &'static str;

    /// Which operations there is a way to do: CKF_x.
    fn does(&self) -> u64;

    /// Whose private half signs, decrypts or derives, where it is a pair's.
    fn pair(&self) -> Option<Kind> {
        None
    }

    /// Whether keys are wrapped and unwrapped by the functions that keep the tag apart, too.
    fn keeps_tags_apart(&self) -> bool {
        false
    }

    /// Does the driver's operation once and checks it.
    fn drive(&self, drive: &Drive<'_>, random: &mut Random) -> Outcome;

    /// What one use of a private key takes: the mechanism with its parameter, and the data.
    fn sample(&self, _: &Drive<'_>, _: &Pair, _: &mut Random) -> (Mechanism, Vec<u8>) {
        unreachable!("no pair is wanted")
    }
}

/// Why a drive ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A C function returned this. Whether it may, whoever injected faults knows.
    Refused(&'static str, Rv),
    /// What came out is not right, whatever was injected.
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(function, rv) => write!(out, "{function}: {rv:?}"),
            Failure::Wrong(what) => out.write_str(what),
        }
    }
}

/// What a drive gives.
pub type Outcome = Result<(), Failure>;

fn by<T>(function: &'static str, answer: Answer<T>) -> Result<T, Failure> {
    answer.map_err(|rv| Failure::Refused(function, rv))
}

fn right(is: bool, what: impl FnOnce() -> String) -> Outcome {
    if is { Ok(()) } else { Err(Failure::Wrong(what())) }
}

/// One operation of one mechanism.
#[derive(Debug, Clone, Copy)]
pub struct Driver {
    /// CKM_x
    pub mechanism: u64,
    /// CKF_x, one bit
    pub operation: u64,
    /// By C_WrapKeyAuthenticated or C_UnwrapKeyAuthenticated.
    pub apart: bool,
    family: &'static dyn Family,
}

/// The driver of an operation, if there is one.
pub fn driver(mechanism: u64, operation: u64) -> Option<Driver> {
    let mut rows = FAMILIES.iter().copied().flatten();
    let (_, family) = *rows.find(|(id, _)| *id == mechanism)?;
    let driver = Driver { mechanism, operation, apart: false, family };
    (family.does() & operation != 0).then_some(driver)
}

/// A driver for everything that the module advertises.
///
/// # Errors
/// A call's; or one sentence for each advertised operation that has no driver.
pub fn advertised(ck: &Ck, slot: u64) -> Result<Vec<Driver>, String> {
    let mechanisms = ck.mechanisms(slot).map_err(|rv| format!("C_GetMechanismList: {rv:?}"))?;
    let (mut drivers, mut missing) = (Vec::new(), Vec::new());
    for mechanism in mechanisms {
        let info = ck
            .mechanism_info(slot, mechanism)
            .map_err(|rv| format!("C_GetMechanismInfo({mechanism:#x}): {rv:?}"))?;
        for (operation, _) in OPERATIONS {
            if info.flags & operation == 0 {
                continue;
            }
            match driver(mechanism, *operation) {
                Some(driver) => {
                    drivers.push(driver);
                    let moves_keys = [CKF_WRAP, CKF_UNWRAP].contains(operation);
                    if moves_keys && driver.family.keeps_tags_apart() {
                        drivers.push(Driver { apart: true, ..driver });
                    }
                }
                None => missing.push(format!(
                    "The module advertises {}, for which swtpm-tests/src/drive has no driver.",
                    name(mechanism, *operation)
                )),
            }
        }
    }
    if missing.is_empty() { Ok(drivers) } else { Err(missing.join("\n")) }
}

/// What an operation is, for a person.
fn name(id: u64, operation: u64) -> String {
    let mechanism = mechanism::lookup(id).map_or("?", |row| row.name);
    format!("{mechanism} ({id:#x}) to {}", mechanism::operation_name(operation).unwrap_or("?"))
}

impl Driver {
    /// Which key pair [`Driver::drive`] wants; `None`: it needs none.
    pub fn wants(&self) -> Option<Kind> {
        let private = CKF_SIGN | CKF_SIGN_RECOVER | CKF_DECRYPT | CKF_DERIVE;
        self.family.pair().filter(|_| self.operation & private != 0)
    }

    /// Whether the operation needs the TPM: a private or secret key that is there, or a new one.
    pub fn needs_tpm(&self) -> bool {
        let sealing = Sealing { keys: true, ciphers: true };
        let done = mechanism::lookup(self.mechanism)
            .map(|row| row.operations(None, Terms { sealing, ..Terms::default() }))
            .unwrap_or_default();
        done.iter().any(|(flag, place)| *flag == self.operation && *place != Place::Host)
    }

    /// The mechanisms that work alike, by the name of their section.
    pub fn family(&self) -> &'static str {
        self.family.section()
    }

    /// What one use of `pair`'s private key takes: the mechanism with its parameter, and the data; none
    /// for key agreement. For who wants the bare call, without the judge.
    ///
    /// # Panics
    /// If [`Driver::wants`] is not this kind of pair.
    pub fn sample(&self, ck: &Ck, pair: &Pair, random: &mut Random) -> (Mechanism, Vec<u8>) {
        assert_eq!(self.wants(), Some(pair.kind), "{}", self.name());
        let drive = Drive { driver: *self, ck, session: CK_INVALID_HANDLE, pair: Some(pair) };
        self.family.sample(&drive, pair, random)
    }

    /// What it is, for a person.
    pub fn name(&self) -> String {
        let apart = if self.apart { ", authenticated" } else { "" };
        name(self.mechanism, self.operation) + apart
    }

    /// Does the operation once in `session`, in which the user is logged in where [`Driver::wants`]
    /// names a pair, and checks the result. It leaves no object and no operation behind, but where a
    /// call failed.
    ///
    /// # Errors
    /// See [`Failure`].
    ///
    /// # Panics
    /// If `pair` is not what [`Driver::wants`] names.
    pub fn drive(
        &self,
        ck: &Ck,
        session: u64,
        pair: Option<&Pair>,
        random: &mut Random,
    ) -> Outcome {
        self.family.drive(&Drive { driver: *self, ck, session, pair }, random)
    }
}

/// One drive: in which session, with which pair.
struct Drive<'a> {
    driver: Driver,
    ck: &'a Ck,
    session: u64,
    pair: Option<&'a Pair>,
}

impl Drive<'_> {
    fn kind(&self) -> u64 {
        self.driver.mechanism
    }

    fn pair(&self) -> &Pair {
        self.pair.expect("the pair that this driver wants")
    }

    fn named(&self, what: &str) -> String {
        format!("{}: {what}", self.driver.name())
    }

    /// What OpenSSL gives, which must give something.
    fn openssl<T>(&self, given: Option<T>) -> Result<T, Failure> {
        given.ok_or_else(|| Failure::Wrong(self.named("OpenSSL does not do it")))
    }

    /// Does `job` with an object and destroys it. Of two failures the job's is told.
    fn spend<T>(
        &self,
        object: u64,
        job: impl FnOnce(u64) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let outcome = job(object);
        let destroyed = self.ck.destroy_object(self.session, object);
        let value = outcome?;
        by("C_DestroyObject", destroyed)?;
        Ok(value)
    }

    /// The same with both halves of a pair.
    fn spend_pair(&self, pair: &Pair, job: impl FnOnce() -> Outcome) -> Outcome {
        self.spend(pair.public, |_| self.spend(pair.private, |_| job()))
    }

    /// The same with an object that is created for it.
    fn with_object<T>(
        &self,
        template: &[Attribute],
        job: impl FnOnce(u64) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let object = by("C_CreateObject", self.ck.create_object(self.session, template))?;
        self.spend(object, job)
    }

    /// The same with a secret key that is generated for it.
    fn with_generated<T>(
        &self,
        mechanism: impl Into<Mechanism>,
        template: &[Attribute],
        job: impl FnOnce(u64) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let made = self.ck.generate_key(self.session, mechanism, template);
        self.spend(by("C_GenerateKey", made)?, job)
    }

    /// The same with a key that is derived for it.
    fn with_derived<T>(
        &self,
        mechanism: impl Into<Mechanism>,
        base: u64,
        template: &[Attribute],
        job: impl FnOnce(u64) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let made = self.ck.derive(self.session, mechanism, base, template);
        self.spend(by("C_DeriveKey", made)?, job)
    }

    /// Something with a key that only the chip has, which has this role.
    fn with_hidden(
        &self,
        key: &[Attribute],
        role: u64,
        job: impl FnOnce(u64) -> Outcome,
    ) -> Outcome {
        let own = [number(CKA_CLASS, CKO_SECRET_KEY), flag(CKA_TOKEN, false), flag(role, true)];
        self.with_object(&[&own[..], &hidden(), key].concat(), job)
    }

    fn value(&self, key: u64) -> Result<Vec<u8>, Failure> {
        by("C_GetAttributeValue", self.ck.attribute(self.session, key, CKA_VALUE))
    }

    /// Whether a key that nobody reads is this one: its MAC shows it.
    fn is_hidden(&self, key: u64, value: &[u8]) -> Outcome {
        let mac = by("C_Sign", self.ck.sign(self.session, CKM_SHA256_HMAC, key, b"message"))?;
        right(mac == openssl::hmac("sha256", value, b"message"), || self.named("another key"))
    }

    /// A hidden key of a hidden base key is the one that OpenSSL knows.
    fn derives_hidden(&self, base: &[Attribute], mechanism: Mechanism, expected: &[u8]) -> Outcome {
        let template = [number(CKA_VALUE_LEN, expected.len() as u64), flag(CKA_SIGN, true)];
        self.with_hidden(base, CKA_DERIVE, |base| {
            self.with_derived(mechanism, base, &template, |key| self.is_hidden(key, expected))
        })
    }

    /// `check` learns the value of a readable key; any other key must not show it.
    fn reads(&self, key: u64, readable: bool, check: impl FnOnce(&[u8]) -> Outcome) -> Outcome {
        match self.ck.attribute(self.session, key, CKA_VALUE) {
            Ok(value) if readable => check(&value),
            Err(rv) if !readable && rv == CKR_ATTRIBUTE_SENSITIVE => Ok(()),
            // A process that is killed reads nothing.
            Err(rv) => Err(Failure::Refused("C_GetAttributeValue", rv)),
            Ok(_) => Err(Failure::Wrong(self.named("CKA_VALUE of a hidden key"))),
        }
    }

    /// The right signature is taken, and the wrong one refused: of data in one piece or, where the mechanism
    /// takes them so, in parts, with the signature at the end or at the beginning.
    fn tells_apart(
        &self,
        (mechanism, key): (Mechanism, u64),
        (data, in_parts): (&[u8], bool),
        good: &[u8],
        wrong: &[u8],
        random: &mut Random,
    ) -> Outcome {
        let (ck, session) = (self.ck, self.session);
        let parts = (in_parts && random.once_in(2)).then(|| 1 + random.below(700));
        let before = random.once_in(3);
        let function = match (before, parts) {
            (false, None) => "C_Verify",
            (false, Some(_)) => "C_VerifyFinal",
            (true, None) => "C_VerifySignature",
            (true, Some(_)) => "C_VerifySignatureFinal",
        };
        let verify = |signature: &[u8]| {
            let mechanism = mechanism.clone();
            match (before, parts) {
                (false, None) => ck.verify(session, mechanism, key, data, signature),
                (false, Some(size)) => {
                    ck.verify_parts(session, mechanism, key, data.chunks(size), signature)
                }
                (true, _) => ck.verify_signature(session, mechanism, key, (data, parts), signature),
            }
        };
        by(function, verify(good))?;
        match verify(wrong) {
            Ok(()) => Err(Failure::Wrong(self.named("a wrong signature is taken for good"))),
            Err(rv) if rv == CKR_SIGNATURE_INVALID => Ok(()),
            Err(rv) => Err(Failure::Refused(function, rv)),
        }
    }

    /// A MAC is made, in one part or many, or the right one and a wrong one are compared.
    fn mac(
        &self,
        key: u64,
        mechanism: Mechanism,
        data: &[u8],
        expected: &[u8],
        random: &mut Random,
    ) -> Outcome {
        if self.driver.operation == CKF_SIGN {
            let size = random.once_in(2).then(|| 1 + random.below(700));
            let made = self.sign(mechanism, key, data, size)?;
            return right(made == expected, || self.named("another MAC"));
        }
        let mut wrong = expected.to_vec();
        wrong[random.below(expected.len())] ^= 1 << random.below(8);
        self.tells_apart((mechanism, key), (data, true), expected, &wrong, random)
    }

    /// C_Sign, or with parts of this size C_SignUpdate and C_SignFinal.
    fn sign(
        &self,
        mechanism: Mechanism,
        key: u64,
        data: &[u8],
        parts: Option<usize>,
    ) -> Result<Vec<u8>, Failure> {
        let (ck, session) = (self.ck, self.session);
        by("C_SignInit", ck.sign_init(session, mechanism, key))?;
        let Some(size) = parts else {
            return by("C_Sign", ck.sign_now(session, data));
        };
        for part in data.chunks(size) {
            by("C_SignUpdate", ck.sign_update(session, part))?;
        }
        by("C_SignFinal", ck.sign_final(session))
    }

    /// Encrypts or decrypts, as the driver does, in one part or many.
    fn cipher(
        &self,
        mechanism: Mechanism,
        key: u64,
        data: &[u8],
        random: &mut Random,
    ) -> Result<Vec<u8>, Failure> {
        let (ck, session) = (self.ck, self.session);
        let several = random.once_in(2).then(|| 1 + random.below(300));
        if let Some(size) = several.filter(|_| random.once_in(3)) {
            return self.cipher_beside(mechanism, key, data, size, random);
        }
        match (self.driver.operation, several) {
            (CKF_ENCRYPT, None) => by("C_Encrypt", ck.encrypt(session, mechanism, key, data)),
            (CKF_ENCRYPT, Some(size)) => {
                by("C_EncryptInit", ck.encrypt_init(session, mechanism, key))?;
                by("C_EncryptUpdate", ck.encrypt_parts(session, data.chunks(size)))
            }
            (_, None) => by("C_Decrypt", ck.decrypt(session, mechanism, key, data)),
            (_, Some(size)) => {
                by("C_DecryptInit", ck.decrypt_init(session, mechanism, key))?;
                by("C_DecryptUpdate", ck.decrypt_parts(session, data.chunks(size)))
            }
        }
    }
}

/// Every operation that goes beside another.
const BESIDE: u64 = CKF_ENCRYPT | CKF_DECRYPT | CKF_DIGEST | CKF_SIGN | CKF_VERIFY;

impl Drive<'_> {
    /// Encrypts or decrypts, as the driver does, in parts of this size, and at once digests the plaintext
    /// or has a MAC made or verified of it: of what is decrypted as far as the parts gave it.
    fn cipher_beside(
        &self,
        mechanism: Mechanism,
        key: u64,
        data: &[u8],
        size: usize,
        random: &mut Random,
    ) -> Result<Vec<u8>, Failure> {
        let secret = random.bytes(32);
        let roles = [flag(CKA_SIGN, true), flag(CKA_VERIFY, true)];
        let macs = random.once_in(2);
        let outcome = if macs {
            self.with_object(&secret_key(CKK_GENERIC_SECRET, &secret, &roles), |mac| {
                self.two_at_once((mechanism, key), Some((mac, &secret)), data, size)
            })
        } else {
            self.two_at_once((mechanism, key), None, data, size)
        };
        if outcome.is_err() {
            // One of the two may go on; the process outlives an error.
            self.ck.raw("C_SessionCancel", vec![self.session.into(), BESIDE.into()]);
        }
        outcome
    }

    fn two_at_once(
        &self,
        (mechanism, key): (Mechanism, u64),
        mac: Option<(u64, &[u8])>,
        data: &[u8],
        size: usize,
    ) -> Result<Vec<u8>, Failure> {
        let (ck, session) = (self.ck, self.session);
        let encrypts = self.driver.operation == CKF_ENCRYPT;
        if encrypts {
            by("C_EncryptInit", ck.encrypt_init(session, mechanism, key))?;
        } else {
            by("C_DecryptInit", ck.decrypt_init(session, mechanism, key))?;
        }
        let function = match (encrypts, mac) {
            (true, None) => "C_DigestEncryptUpdate",
            (true, Some(_)) => "C_SignEncryptUpdate",
            (false, None) => "C_DecryptDigestUpdate",
            (false, Some(_)) => "C_DecryptVerifyUpdate",
        };
        match mac {
            None => by("C_DigestInit", ck.digest_init(session, CKM_SHA256))?,
            Some((mac, _)) if encrypts => {
                by("C_SignInit", ck.sign_init(session, CKM_SHA256_HMAC, mac))?;
            }
            Some((mac, _)) => {
                by("C_VerifyInit", ck.verify_init(session, CKM_SHA256_HMAC, mac))?;
            }
        }
        let mut made = Vec::new();
        for part in data.chunks(size) {
            made.extend(by(function, ck.both(function, session, part))?);
        }
        let plain = if encrypts { data.to_vec() } else { made.clone() };
        made.extend(if encrypts {
            by("C_EncryptFinal", ck.encrypt_parts(session, []))?
        } else {
            by("C_DecryptFinal", ck.decrypt_parts(session, []))?
        });
        let same = match mac {
            None => {
                let digest = by("C_DigestFinal", ck.digest_final(session))?;
                digest == openssl::digest("sha256", &plain)
            }
            Some((_, secret)) => {
                let expected = openssl::hmac("sha256", secret, &plain);
                if encrypts {
                    by("C_SignFinal", ck.sign_final(session))? == expected
                } else {
                    by("C_VerifyFinal", ck.verify_final(session, &expected)).map(|()| true)?
                }
            }
        };
        right(same, || self.named("what went beside it is of something else"))?;
        Ok(made)
    }
}

/// A secret key of the session with this value.
fn secret_key(key_type: u64, value: &[u8], more: &[Attribute]) -> Vec<Attribute> {
    let key = [
        number(CKA_CLASS, CKO_SECRET_KEY),
        number(CKA_KEY_TYPE, key_type),
        flag(CKA_TOKEN, false),
        bytes(CKA_VALUE, value),
    ];
    [&key[..], more].concat()
}
