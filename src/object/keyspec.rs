//! Keys that the token makes or takes in: the templates of C_GenerateKeyPair, C_GenerateKey, C_CreateObject,
//! C_DeriveKey and C_UnwrapKey, checked and completed before anything is made, and what came back, as
//! attributes.

use std::collections::BTreeMap;

use aes::cipher::{BlockEncrypt as _, KeyInit as _};
use aes::{Aes128, Aes192, Aes256};
use cryptoki_sys::*;
use sha1::{Digest as _, Sha1};
use zeroize::Zeroizing;

use super::object::Residence;
use super::policy::{Guard, Policy};
use super::public_key;
use super::roles;
use super::rule::{self, Making, Origin, Setting};
use super::rules::{self, CKA_TPM11_RESIDENCE};
use super::template::Template;
use super::value::{Attributes, boolean};
use crate::crypto::ec::{Curve, Point};
use crate::crypto::{Fault, private};
use crate::error::{Error, Result};
use crate::tpm::key::{self, PublicKey};
use crate::tpm::{KeySpec, KeyUse, Name, NewKey};

/// A key pair that may be created: both templates are checked and completed before the TPM is asked.
#[derive(Debug, Clone)]
pub struct Pair {
    /// What the TPM shall create.
    pub spec: KeySpec,
    /// The public key's attributes, but for what only the TPM knows.
    pub public: Attributes,
    /// The private key's.
    pub private: Attributes,
}

/// 65537
const F4: &[u8] = &[1, 0, 1];

impl Pair {
    /// C_GenerateKeyPair: checks both templates. `key_type` is the mechanism's CKK_; `pin` is the Name of
    /// the user's PIN index if the token has one (for CKA_ALWAYS_AUTHENTICATE). Whether the chip has
    /// the size or curve is not judged here.
    ///
    /// # Errors
    /// As [`rule::create`]; NotLoggedIn without `setting.user`, because private keys are private;
    /// KeySizeRange; TemplateInconsistent for an exponent other than 65537, for a private key that could be read,
    /// and for CKA_ALWAYS_AUTHENTICATE on a token without PIN.
    pub fn plan(
        mechanism: u64,
        key_type: u64,
        public: &Template,
        private: &Template,
        setting: &Setting,
        pin: Option<&Name>,
    ) -> Result<Self> {
        let known = known(CKO_PUBLIC_KEY, key_type);
        let mut public = making(rules::PUBLIC, key_type, setting, &known).complete(public)?;
        rule::private_where_it_must_be(rules::PUBLIC, setting, &mut public)?;
        let mut known = self::known(CKO_PRIVATE_KEY, key_type);
        match key_type {
            CKK_RSA => {
                if !public.has(CKA_PUBLIC_EXPONENT) {
                    public.set(CKA_PUBLIC_EXPONENT, F4);
                }
                known.set(CKA_PUBLIC_EXPONENT, public.get(CKA_PUBLIC_EXPONENT).unwrap_or_default());
            }
            CKK_EC => known.set(CKA_EC_PARAMS, public.get(CKA_EC_PARAMS).unwrap_or_default()),
            _ => return Err(Error::MechanismInvalid(mechanism)),
        }
        let mut private = making(rules::PRIVATE, key_type, setting, &known).complete(private)?;
        rule::private_where_it_must_be(rules::PRIVATE, setting, &mut private)?;
        rule::private_keys_are_sensitive(&mut private)?;
        roles::pair(key_type, &mut public, &mut private, setting.policy);
        roles::tools_stay(&private, setting.policy)?;
        rule::limits_travel(&mut private, setting.policy);
        rule::is_ours(&mut public, mechanism);
        rule::is_ours(&mut private, mechanism);
        let always_authenticate = match (private.is(CKA_ALWAYS_AUTHENTICATE), pin) {
            (false, _) => None,
            (true, Some(pin)) => Some(pin.clone()),
            (true, None) => {
                return Err(Error::TemplateInconsistent(
                    "CKA_ALWAYS_AUTHENTICATE: the token has no PIN that the TPM could ask for",
                ));
            }
        };
        let spec = KeySpec {
            usage: usage(key_type, &public, &private)?,
            extractable: private.is(CKA_EXTRACTABLE),
            always_authenticate,
        };
        Ok(Self { spec, public, private })
    }

    /// Both halves' attributes (public, private) once the TPM has made the key: the public key in each
    /// of them, and one CKA_ID for both where a template did not say it.
    ///
    /// # Errors
    /// Device if what the TPM made is not what was planned.
    pub fn finish(self, made: &NewKey) -> Result<(Attributes, Attributes)> {
        let Self { spec, mut public, mut private } = self;
        let wrong = || Error::Device("the TPM created another key than it was asked for".into());
        let (_, key) = key::public_key(&made.public).map_err(|_| wrong())?;
        match (spec.usage, key) {
            (KeyUse::Rsa { bits, .. }, PublicKey::Rsa { modulus, exponent })
                if public.get(CKA_PUBLIC_EXPONENT) == Some(&exponent)
                    && modulus.len() * 8 == usize::from(bits) =>
            {
                for half in [&mut public, &mut private] {
                    half.set(CKA_MODULUS, modulus.as_slice());
                }
            }
            (KeyUse::Ec { curve, .. }, PublicKey::Ec { curve: made, x, y }) if curve == made => {
                let point = Point::from_coordinates(curve, &x, &y).map_err(|_| wrong())?.der();
                for half in [&mut public, &mut private] {
                    half.set(CKA_EC_POINT, point.as_slice());
                }
            }
            _ => return Err(wrong()),
        }
        match (public.get(CKA_ID), private.get(CKA_ID)) {
            (Some(id), None) => private.set(CKA_ID, id),
            (None, Some(id)) => public.set(CKA_ID, id),
            _ => {}
        }
        for half in [&mut public, &mut private] {
            public_key::complete(half).map_err(|_| wrong())?;
        }
        lives(&mut private, Residence::Tpm);
        Ok((public, private))
    }
}

/// What a mechanism contributes to every key it makes.
fn known(class: u64, key_type: u64) -> Attributes {
    let mut known = Attributes::new();
    known.set_ulong(CKA_CLASS, class);
    known.set_ulong(CKA_KEY_TYPE, key_type);
    known
}

fn making<'a>(
    class: rules::Classes,
    key_type: u64,
    setting: &'a Setting,
    known: &'a Attributes,
) -> Making<'a> {
    Making { origin: Origin::Generate, class, key_type: Some(key_type), setting, known }
}

/// What the chip's key shall be able to do. RSA keys do everything in the chip (every padding is ours,
/// over one raw operation), so there the attributes alone decide; EC keys are made for signing, for
/// key agreement or for both.
fn usage(key_type: u64, public: &Attributes, private: &Attributes) -> Result<KeyUse> {
    if key_type == CKK_EC {
        let curve = public_key::curve(public.get(CKA_EC_PARAMS).unwrap_or_default())?;
        let derive = private.is(CKA_DERIVE);
        // A key must be made for something, even one whose owner forbids everything.
        return Ok(KeyUse::Ec { curve, sign: private.is(CKA_SIGN) || !derive, derive });
    }
    if public.get(CKA_PUBLIC_EXPONENT) != Some(F4) {
        return Err(Error::TemplateInconsistent("the public exponent can only be 65537"));
    }
    let bits = public.ulong(CKA_MODULUS_BITS).unwrap_or_default();
    u16::try_from(bits)
        .ok()
        .filter(|bits| (1024..=4096).contains(bits) && bits % 8 == 0)
        .map(|bits| KeyUse::Rsa { bits, exponent: 65537 })
        .ok_or_else(|| {
            Error::KeySizeRange(format!(
                "RSA keys have 1024 to 4096 bits, no TPM makes one of {bits}"
            ))
        })
}

/// Says where a key lives.
fn lives(attributes: &mut Attributes, residence: Residence) {
    attributes.set(CKA_TPM11_RESIDENCE, residence.text());
}

/// How a derivation relates its key to what it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Derives {
    /// A key agreement: what comes out is new to everybody, and as open as the caller says.
    Agreement,
    /// A one-way function: what comes out says nothing about what went in.
    OneWay,
    /// What comes out is a part of what went in, or together with other derivations or uses may tell it:
    /// EXTRACT_KEY_FROM_KEY, CONCATENATE_*, XOR, *_ENCRYPT_DATA, SHA*_KEY_DERIVATION, HKDF_DATA, the MACs
    /// of TLS.
    Telling,
    /// What comes out is the public key of a pair: [`rule::public_of`].
    Public,
    /// What comes out is no key but data, which everybody sees: HKDF_DATA.
    Data,
}

/// A derivation that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Derivation<'a> {
    /// The mechanism's CKM_.
    pub mechanism: u64,
    /// Its kind.
    pub how: Derives,
    /// The keys that go in, the base key first.
    pub inputs: &'a [&'a Attributes],
    /// What CKA_ALLOWED_MECHANISMS of the new key consist of, if the mechanism says so.
    pub allows: &'static [Allowed],
}

/// A mechanism that a derivation allows its key.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// CKM_
    pub mechanism: u64,
    /// Whether it may tell something of the key: then one that is not readable allows it only if the
    /// template names it (P11).
    pub tells: bool,
}

impl Derivation<'_> {
    /// P11: what may tell something of a key that is not readable needs that key's leave. One that
    /// gives data away derives no keys: with the same inputs the data would be the key.
    fn may_tell(&self, policy: Policy) -> Result<()> {
        let Self { mechanism, how, inputs, .. } = *self;
        let told = matches!(how, Derives::Telling | Derives::Data);
        let leave = |input: &&Attributes| {
            roles::readable(input)
                || (!told || names(input, mechanism))
                    && (how == Derives::Data || !names(input, CKM_HKDF_DATA))
        };
        if policy.has(Guard::DerivedStay) && !inputs.iter().all(leave) {
            log::info!(
                "a key derivation that may tell its key needs the mechanism {mechanism:#x} in the \
                 key's CKA_ALLOWED_MECHANISMS, and CKM_HKDF_DATA there leaves no other (P11)"
            );
            return Err(Error::MechanismInvalid(mechanism));
        }
        Ok(())
    }

    /// The new key's CKA_ALLOWED_MECHANISMS: what the template names of those that the mechanism allows, or
    /// all of them.
    fn allow(&self, attributes: &mut Attributes, policy: Policy) -> Result<()> {
        if self.allows.is_empty() {
            return Ok(());
        }
        if let Some(named) = attributes.ulongs(CKA_ALLOWED_MECHANISMS) {
            let allowed =
                |named: &u64| self.allows.iter().any(|allowed| allowed.mechanism == *named);
            return match named.iter().all(allowed) {
                true => Ok(()),
                false => Err(Error::TemplateInconsistent(
                    "CKA_ALLOWED_MECHANISMS are others than the mechanism's",
                )),
            };
        }
        let open = !policy.has(Guard::DerivedStay) || roles::readable(attributes);
        let all = self.allows.iter().filter(|allowed| open || !allowed.tells);
        let all: Vec<u8> = all.flat_map(|allowed| allowed.mechanism.to_be_bytes()).collect();
        attributes.set(CKA_ALLOWED_MECHANISMS, all);
        Ok(())
    }

    /// C_DeriveKey of a data object: checks the template; the attributes without the value, and how long
    /// that shall be, which CKA_VALUE_LEN says as for a key. The base key's CKA_DERIVE_TEMPLATE comes
    /// first: one that prescribes a key, or that it be sensitive, prescribes no data.
    ///
    /// # Errors
    /// As [`rule::create`]; MechanismInvalid if an input that is not readable does not name the mechanism.
    pub fn of_data(
        &self,
        template: &Template,
        setting: &Setting,
    ) -> Result<(Attributes, Option<usize>)> {
        let [base, ..] = self.inputs else { return Err(Error::Bug("a derivation from nothing")) };
        let whole = rule::upon(rules::DATA, base.get(CKA_DERIVE_TEMPLATE), template)?;
        self.may_tell(setting.policy)?;
        let (mut length, mut rest) = (None, Template::new());
        for (id, value) in whole.iter() {
            match (id, &length) {
                (CKA_VALUE_LEN, None) => {
                    let bytes = super::value::ulong(value)
                        .ok_or(Error::AttributeValueInvalid(CKA_VALUE_LEN, "no CK_ULONG"))?;
                    length = Some(usize::try_from(bytes).unwrap_or(usize::MAX));
                }
                (CKA_VALUE, _) => return Err(Error::AttributeReadOnly(CKA_VALUE)),
                _ => rest.push(id, value),
            }
        }
        let mut known = Attributes::new();
        known.set_ulong(CKA_CLASS, CKO_DATA);
        let making = Making {
            origin: Origin::Create,
            class: rules::DATA,
            key_type: None,
            setting,
            known: &known,
        };
        let mut attributes = making.complete(&rest)?;
        if setting.policy.has(Guard::DerivedStay)
            && self.inputs.iter().any(|input| input.is(CKA_PRIVATE))
        {
            attributes.set_bool(CKA_PRIVATE, true);
        }
        rule::private_where_it_must_be(rules::DATA, setting, &mut attributes)?;
        Ok((attributes, length))
    }
}

/// A secret key that may be made: its template is checked and completed.
#[derive(Debug, Clone)]
pub struct Secret {
    /// CKA_VALUE_LEN if template or key type say it, in bytes: for mechanisms that can give any length.
    pub length: Option<usize>,
    /// Its attributes, but for what depends on the value.
    pub attributes: Attributes,
    key_type: u64,
    policy: Policy,
    /// The least bytes that it may have.
    least: usize,
}

/// The least bytes of what is derived from a key that is not readable (P11).
const LEAST_DERIVED: usize = 16;

impl Secret {
    /// C_GenerateKey: checks the template. `key_types` are the CKK_ that the mechanism makes; where there
    /// are several the template says which.
    ///
    /// # Errors
    /// As [`rule::create`].
    pub fn generate(
        mechanism: u64,
        key_types: &[u64],
        template: &Template,
        setting: &Setting,
    ) -> Result<Self> {
        let key_type = match key_types {
            [only] => *only,
            several => template
                .ulong(CKA_KEY_TYPE)
                .ok_or(Error::TemplateIncomplete(CKA_KEY_TYPE))
                .and_then(|key_type| match several.contains(&key_type) {
                    true => Ok(key_type),
                    false => Err(Error::AttributeValueInvalid(
                        CKA_KEY_TYPE,
                        "the mechanism makes no keys of this type",
                    )),
                })?,
        };
        let mut attributes = started(Origin::Generate, key_type, template, setting)?;
        let (sensitive, extractable) = asked(&attributes);
        opened(&mut attributes, sensitive.unwrap_or(true), extractable.unwrap_or(false));
        let sensitive = attributes.is(CKA_SENSITIVE);
        let extractable = attributes.is(CKA_EXTRACTABLE);
        attributes.set_bool(CKA_ALWAYS_SENSITIVE, sensitive);
        attributes.set_bool(CKA_NEVER_EXTRACTABLE, !extractable);
        rule::is_ours(&mut attributes, mechanism);
        rule::private_where_it_must_be(rules::SECRET, setting, &mut attributes)?;
        roles::secret(key_type, &mut attributes, setting.policy);
        Self::planned(key_type, attributes, setting)
    }

    /// C_GenerateKey of a value that others can compute, too: of a password. It has no history, and P7 counts
    /// it among the keys that are known.
    #[must_use]
    pub fn known(mut self) -> Self {
        self.attributes.set_bool(CKA_ALWAYS_SENSITIVE, false);
        self.attributes.set_bool(CKA_NEVER_EXTRACTABLE, false);
        wraps_no_other(&mut self.attributes, self.policy);
        self
    }

    /// C_CreateObject: checks the template; the value comes out beside the plan.
    ///
    /// # Errors
    /// As [`rule::create`].
    pub fn create(
        key_type: u64,
        template: &Template,
        setting: &Setting,
    ) -> Result<(Self, Zeroizing<Vec<u8>>)> {
        let mut attributes = started(Origin::Create, key_type, template, setting)?;
        let value = Zeroizing::new(attributes.remove(CKA_VALUE).unwrap_or_default());
        let (sensitive, extractable) = asked(&attributes);
        let open = !attributes.is(CKA_TOKEN);
        let sensitive = sensitive.unwrap_or(!open);
        opened(&mut attributes, sensitive, extractable.unwrap_or(open && !sensitive));
        from_outside(&mut attributes);
        rule::private_where_it_must_be(rules::SECRET, setting, &mut attributes)?;
        roles::secret(key_type, &mut attributes, setting.policy);
        wraps_no_other(&mut attributes, setting.policy);
        attributes.set_ulong(CKA_VALUE_LEN, value.len() as u64);
        let plan = Self::planned(key_type, attributes, setting).map_err(|error| match error {
            Error::AttributeValueInvalid(CKA_VALUE_LEN, why) => {
                Error::AttributeValueInvalid(CKA_VALUE, why)
            }
            other => other,
        })?;
        Ok((plan, value))
    }

    /// C_DeriveKey: checks the template. The base key's CKA_DERIVE_TEMPLATE comes first, and what it
    /// protects stays protected; the inputs' history goes on in the new key (P11). Without CKA_KEY_TYPE
    /// the key is a generic secret.
    ///
    /// # Errors
    /// As [`rule::create`]; MechanismInvalid if an input does not name the mechanism and would have to.
    pub fn derive(
        template: &Template,
        setting: &Setting,
        derivation: &Derivation<'_>,
    ) -> Result<Self> {
        let Derivation { how, inputs, .. } = *derivation;
        let [base, ..] = inputs else { return Err(Error::Bug("a derivation from nothing")) };
        let prescribed = base.get(CKA_DERIVE_TEMPLATE);
        let whole = rule::upon(rules::SECRET, prescribed, template)?;
        let key_type = whole
            .get(CKA_KEY_TYPE)
            .map_or(Some(CKK_GENERIC_SECRET), super::value::ulong)
            .filter(|key_type| rules::roles(rules::SECRET, *key_type).is_some())
            .ok_or(Error::AttributeValueInvalid(
                CKA_KEY_TYPE,
                "the token derives no keys of this type",
            ))?;
        let policy = setting.policy;
        let guarded = policy.has(Guard::DerivedStay);
        derivation.may_tell(policy)?;
        let hidden: Vec<&&Attributes> =
            inputs.iter().filter(|input| !roles::readable(input)).collect();
        let mut attributes = started(Origin::Derive, key_type, &whole, setting)?;
        let (sensitive, extractable) = asked(&attributes);
        let kept = prescribed
            .and_then(Template::from_bytes)
            .is_some_and(|template| template.bool(CKA_SENSITIVE) == Some(true));
        let mut least = 1;
        if how != Derives::OneWay && key_type == CKK_AES && !attributes.has(CKA_VALUE_LEN) {
            return Err(Error::TemplateIncomplete(CKA_VALUE_LEN));
        }
        if how == Derives::Agreement {
            let sensitive = sensitive.unwrap_or(false);
            opened(&mut attributes, sensitive, extractable.unwrap_or(!sensitive));
            if kept && guarded {
                least = LEAST_DERIVED;
            }
        } else {
            let (must_hide, must_stay) = if guarded {
                (!hidden.is_empty(), !hidden.is_empty())
            } else {
                (
                    inputs.iter().any(|input| input.is(CKA_SENSITIVE)),
                    inputs.iter().any(|input| !input.is(CKA_EXTRACTABLE)),
                )
            };
            if must_hide && sensitive == Some(false) || must_stay && extractable == Some(true) {
                return Err(Error::TemplateInconsistent(
                    "a key cannot be more open than the one that it is derived from",
                ));
            }
            let sensitive = sensitive.unwrap_or(must_hide);
            opened(&mut attributes, sensitive, extractable.unwrap_or(!sensitive && !must_stay));
            if guarded && !hidden.is_empty() {
                least = LEAST_DERIVED;
            }
        }
        // What its owner could have had in the clear has no history.
        let proven = how != Derives::Agreement || kept;
        let history = |own: bool, id| own && proven && inputs.iter().all(|input| input.is(id));
        let (sensitive, stays) = (attributes.is(CKA_SENSITIVE), !attributes.is(CKA_EXTRACTABLE));
        attributes.set_bool(CKA_ALWAYS_SENSITIVE, history(sensitive, CKA_ALWAYS_SENSITIVE));
        attributes.set_bool(CKA_NEVER_EXTRACTABLE, history(stays, CKA_NEVER_EXTRACTABLE));
        rule::is_not_ours(&mut attributes);
        if guarded && inputs.iter().any(|input| input.is(CKA_PRIVATE)) {
            attributes.set_bool(CKA_PRIVATE, true);
        }
        rule::private_where_it_must_be(rules::SECRET, setting, &mut attributes)?;
        roles::secret(key_type, &mut attributes, policy);
        derivation.allow(&mut attributes, policy)?;
        if guarded {
            roles::without(&mut attributes, &[CKA_WRAP, CKA_UNWRAP], Guard::DerivedStay);
        }
        Ok(Self { least, ..Self::planned(key_type, attributes, setting)? })
    }

    /// C_UnwrapKey of a secret key: checks the template. The unwrapping key's CKA_UNWRAP_TEMPLATE comes
    /// first; what neither it nor P10 decides, the caller does.
    ///
    /// # Errors
    /// As [`rule::create`].
    pub fn unwrap(template: &Template, setting: &Setting, unwrapping: &Attributes) -> Result<Self> {
        let prescribed = unwrapping.get(CKA_UNWRAP_TEMPLATE);
        let whole = rule::upon(rules::SECRET, prescribed, template)?;
        let key_type = rule::key_type_of(rules::SECRET, &whole)?;
        let mut attributes = started(Origin::Unwrap, key_type, &whole, setting)?;
        unwrapped(&mut attributes, unwrapping, setting.policy);
        rule::private_where_it_must_be(rules::SECRET, setting, &mut attributes)?;
        roles::secret(key_type, &mut attributes, setting.policy);
        if setting.policy.has(Guard::UnwrappedStay) {
            let decided = prescribed.and_then(Template::from_bytes).unwrap_or_default();
            for role in [CKA_WRAP, CKA_UNWRAP, CKA_DERIVE] {
                if decided.bool(role) != Some(true) {
                    roles::without(&mut attributes, &[role], Guard::UnwrappedStay);
                }
            }
        }
        Self::planned(key_type, attributes, setting)
    }

    /// What every plan ends with.
    fn planned(key_type: u64, mut attributes: Attributes, setting: &Setting) -> Result<Self> {
        roles::tools_stay(&attributes, setting.policy)?;
        rule::limits_travel(&mut attributes, setting.policy);
        if !attributes.has(CKA_ID) {
            attributes.set(CKA_ID, []);
        }
        let length = attributes
            .ulong(CKA_VALUE_LEN)
            .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        match (key_type, length) {
            (CKK_AES, Some(length)) if ![16, 24, 32].contains(&length) => {
                return Err(Error::AttributeValueInvalid(
                    CKA_VALUE_LEN,
                    "AES keys have 16, 24 or 32 bytes",
                ));
            }
            (_, Some(0)) => {
                return Err(Error::AttributeValueInvalid(CKA_VALUE_LEN, "no key is empty"));
            }
            _ => {}
        }
        Ok(Self { length, attributes, key_type, policy: setting.policy, least: 1 })
    }

    /// CKK_ of the key.
    pub fn key_type(&self) -> u64 {
        self.key_type
    }

    /// P1: whether the host keeps the value, because whoever may use the key may read it.
    pub fn keeps_value(&self) -> bool {
        rule::shown(&self.attributes, self.policy)
    }

    /// A computed value cut to the length that was asked for: it loses its leading bytes (§6.3). What
    /// other mechanisms give has that length already.
    ///
    /// # Errors
    /// KeySizeRange if it is shorter, or shorter than P11 allows; TemplateIncomplete for an AES key
    /// without length.
    pub fn cut(&self, value: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>> {
        let length = match self.length {
            None if self.key_type == CKK_AES && ![16, 24, 32].contains(&value.len()) => {
                return Err(Error::TemplateIncomplete(CKA_VALUE_LEN));
            }
            length => length.unwrap_or(value.len()),
        };
        let start = value.len().checked_sub(length).filter(|_| length > 0).ok_or_else(|| {
            Error::KeySizeRange(format!(
                "{length} bytes asked, the mechanism gives {}",
                value.len()
            ))
        })?;
        if length < self.least {
            return Err(Error::KeySizeRange(format!(
                "what is derived from a sensitive key has at least {} bytes",
                self.least
            )));
        }
        if start == 0 {
            return Ok(value);
        }
        Ok(Zeroizing::new(value.get(start..).unwrap_or_default().to_vec()))
    }

    /// The finished attributes of a key of `length` bytes that lives there; the value, where the host has
    /// it, for CKA_CHECK_VALUE.
    ///
    /// # Errors
    /// AttributeValueInvalid if the template gave another CKA_CHECK_VALUE than the key has.
    pub fn finish(
        self,
        length: usize,
        residence: Residence,
        value: Option<&[u8]>,
    ) -> Result<Attributes> {
        let Self { mut attributes, key_type, policy, .. } = self;
        attributes.set_ulong(CKA_VALUE_LEN, length as u64);
        lives(&mut attributes, residence);
        let given = attributes.remove(CKA_CHECK_VALUE);
        let computed = value.and_then(|value| check_value(key_type, value, &attributes, policy));
        match (given, computed) {
            // "The generation may be prevented": an empty one is none.
            (Some(given), _) if given.is_empty() => {}
            (Some(given), Some(computed)) if given != computed => {
                return Err(Error::AttributeValueInvalid(CKA_CHECK_VALUE, "not that of the key"));
            }
            (_, Some(computed)) => attributes.set(CKA_CHECK_VALUE, computed),
            (_, None) => {}
        }
        Ok(attributes)
    }
}

/// The template of a secret key against the table.
fn started(
    origin: Origin,
    key_type: u64,
    template: &Template,
    setting: &Setting,
) -> Result<Attributes> {
    let known = known(CKO_SECRET_KEY, key_type);
    Making { origin, class: rules::SECRET, key_type: Some(key_type), setting, known: &known }
        .complete(template)
}

/// CKA_SENSITIVE and CKA_EXTRACTABLE as the template says.
fn asked(attributes: &Attributes) -> (Option<bool>, Option<bool>) {
    let said = |id| attributes.get(id).and_then(boolean);
    (said(CKA_SENSITIVE), said(CKA_EXTRACTABLE))
}

fn opened(attributes: &mut Attributes, sensitive: bool, extractable: bool) {
    attributes.set_bool(CKA_SENSITIVE, sensitive);
    attributes.set_bool(CKA_EXTRACTABLE, extractable);
}

/// P11: a signature that may tell something of a key that is not readable needs that key's leave.
///
/// # Errors
/// MechanismInvalid if the key does not name the mechanism and would have to.
pub fn may_sign(key: &Attributes, mechanism: u64, policy: Policy) -> Result<()> {
    if policy.has(Guard::DerivedStay) && !roles::readable(key) && !names(key, mechanism) {
        log::info!(
            "a signature that may tell its key needs the mechanism {mechanism:#x} in the key's \
             CKA_ALLOWED_MECHANISMS (P11)"
        );
        return Err(Error::MechanismInvalid(mechanism));
    }
    Ok(())
}

/// Whether the key's CKA_ALLOWED_MECHANISMS name a mechanism.
fn names(attributes: &Attributes, mechanism: u64) -> bool {
    attributes.ulongs(CKA_ALLOWED_MECHANISMS).is_some_and(|allowed| allowed.contains(&mechanism))
}

/// The history of a key that somebody had outside.
fn from_outside(attributes: &mut Attributes) {
    attributes.set_bool(CKA_ALWAYS_SENSITIVE, false);
    attributes.set_bool(CKA_NEVER_EXTRACTABLE, false);
    rule::is_not_ours(attributes);
}

/// P7, of a secret key that somebody knows.
fn wraps_no_other(attributes: &mut Attributes, policy: Policy) {
    if policy.has(Guard::KnownKeysDoNotWrap) {
        roles::without(attributes, &[CKA_WRAP], Guard::KnownKeysDoNotWrap);
    }
}

/// P10: sensitive and not extractable, unless CKA_UNWRAP_TEMPLATE decides. It opens nothing where the key that
/// unwraps was made here and nobody trusts it: whoever made it so could have it wrap a sensitive key, and take
/// that out of the blob as a readable one. Without the rule the caller decides, and a silent one gets a key
/// that is extractable (§5.18.4), and sensitive.
fn unwrapped(attributes: &mut Attributes, unwrapping: &Attributes, policy: Policy) {
    let prescribed = unwrapping.get(CKA_UNWRAP_TEMPLATE).and_then(Template::from_bytes);
    let (sensitive, extractable) = asked(attributes);
    if policy.has(Guard::UnwrappedStay) {
        let may_open = unwrapping.is(CKA_TRUSTED) || !unwrapping.is(CKA_LOCAL);
        let decided =
            |id| may_open && prescribed.as_ref().is_some_and(|template| template.get(id).is_some());
        opened(
            attributes,
            sensitive.filter(|_| decided(CKA_SENSITIVE)).unwrap_or(true),
            extractable.filter(|_| decided(CKA_EXTRACTABLE)).unwrap_or(false),
        );
    } else {
        opened(attributes, sensitive.unwrap_or(true), extractable.unwrap_or(true));
    }
    from_outside(attributes);
}

/// CKA_CHECK_VALUE: the first three bytes of the block of zeros under an AES key (§6.10), of the SHA-1 of
/// another (§6.8). By P15 there is none of keys that are short and sensitive, nor of secrets that may be
/// guessable: three bytes are enough to try passwords by.
fn check_value(
    key_type: u64,
    value: &[u8],
    attributes: &Attributes,
    policy: Policy,
) -> Option<Vec<u8>> {
    let short = value.len() < 16 && !roles::readable(attributes);
    if policy.has(Guard::NoCheckValue) && (short || key_type != CKK_AES) {
        return None;
    }
    let digest = if key_type == CKK_AES {
        zeros_under(value)?.to_vec()
    } else {
        Sha1::digest(value).to_vec()
    };
    digest.get(..3).map(<[u8]>::to_vec)
}

/// ECB of a block of zeros.
fn zeros_under(key: &[u8]) -> Option<[u8; 16]> {
    let mut block = aes::Block::default();
    match key.len() {
        16 => Aes128::new_from_slice(key).ok()?.encrypt_block(&mut block),
        24 => Aes192::new_from_slice(key).ok()?.encrypt_block(&mut block),
        32 => Aes256::new_from_slice(key).ok()?.encrypt_block(&mut block),
        _ => return None,
    }
    Some(block.into())
}

/// What the TPM makes, or made, of a secret key with these finished attributes. A readable key needs no
/// way out of the chip: its value is beside it.
pub fn secret_spec(attributes: &Attributes) -> KeySpec {
    let sealed =
        attributes.get(CKA_TPM11_RESIDENCE).and_then(Residence::of_text) == Some(Residence::Sealed);
    let bits = attributes.ulong(CKA_VALUE_LEN).unwrap_or_default().saturating_mul(8);
    let usage = match attributes.ulong(CKA_KEY_TYPE) {
        _ if sealed => KeyUse::Sealed,
        Some(CKK_AES) => KeyUse::Aes { bits: u16::try_from(bits).unwrap_or(u16::MAX) },
        _ => KeyUse::Keyed,
    };
    KeySpec {
        usage,
        extractable: attributes.is(CKA_EXTRACTABLE) && !roles::readable(attributes) && !sealed,
        always_authenticate: None,
    }
}

/// The value of a private key that is brought in.
pub enum PrivateValue {
    /// CKK_RSA, checked.
    Rsa(private::Rsa),
    /// CKK_EC
    Ec {
        /// Its curve.
        curve: Curve,
        /// The private number, 0 < d < n, big-endian, as long as the field.
        d: Zeroizing<Vec<u8>>,
        /// Its public point.
        point: Point,
    },
}

impl std::fmt::Debug for PrivateValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PrivateValue::Rsa(_) => "Rsa",
            PrivateValue::Ec { .. } => "Ec",
        })
    }
}

impl PrivateValue {
    /// The number of a private key of this curve, checked.
    ///
    /// # Errors
    /// [`Fault::BadKey`] unless 0 < d < n.
    pub fn ec(curve: Curve, d: &[u8]) -> Result<Self, Fault> {
        let point = private::ec_public(curve, d)?;
        let zeros = d.iter().take_while(|byte| **byte == 0).count();
        let digits = d.get(zeros..).unwrap_or_default();
        let mut padded = Zeroizing::new(vec![0; curve.len() - digits.len()]);
        padded.reserve_exact(digits.len());
        padded.extend_from_slice(digits);
        Ok(PrivateValue::Ec { curve, d: padded, point })
    }
}

/// A private key that is brought in, ready for the TPM.
#[derive(Debug)]
pub struct Private {
    /// Its finished attributes.
    pub attributes: Attributes,
    /// What the TPM gets.
    pub value: PrivateValue,
    /// As what.
    pub spec: KeySpec,
}

/// A template for a private key that is brought in, checked and completed but for what the key says.
#[derive(Debug, Clone)]
pub struct PrivatePlan {
    key_type: u64,
    attributes: Attributes,
}

impl Private {
    /// C_CreateObject: checks template and key.
    ///
    /// # Errors
    /// As [`rule::create`]; AttributeValueInvalid for a key whose parts do not belong together, or one
    /// known to be weak; TemplateInconsistent for one that asks for the PIN at each use, which an
    /// imported key cannot.
    pub fn create(key_type: u64, template: &Template, setting: &Setting) -> Result<Self> {
        let known = known(CKO_PRIVATE_KEY, key_type);
        let class = rules::PRIVATE;
        let making = Making {
            origin: Origin::Create,
            class,
            key_type: Some(key_type),
            setting,
            known: &known,
        };
        let mut attributes = making.complete(template)?;
        let mut parts: BTreeMap<u64, Zeroizing<Vec<u8>>> = BTreeMap::new();
        for rule in rules::rules(class, Some(key_type)).filter(|rule| rule.guarded) {
            if let Some(part) = attributes.remove(rule.id) {
                parts.insert(rule.id, Zeroizing::new(part));
            }
        }
        let part = |id| parts.get(&id).map(|part| part.as_slice());
        let bytes = |id| attributes.get(id).unwrap_or_default();
        let broken = |id| move |_| Error::AttributeValueInvalid(id, "the key is not consistent");
        let value = if key_type == CKK_EC {
            let curve = public_key::curve(bytes(CKA_EC_PARAMS))?;
            PrivateValue::ec(curve, part(CKA_VALUE).unwrap_or_default())
                .map_err(broken(CKA_VALUE))?
        } else {
            let whole = private::RsaParts {
                modulus: bytes(CKA_MODULUS),
                exponent: bytes(CKA_PUBLIC_EXPONENT),
                private_exponent: part(CKA_PRIVATE_EXPONENT),
                prime_1: part(CKA_PRIME_1),
                prime_2: part(CKA_PRIME_2),
                exponent_1: part(CKA_EXPONENT_1),
                exponent_2: part(CKA_EXPONENT_2),
                coefficient: part(CKA_COEFFICIENT),
            };
            PrivateValue::Rsa(whole.check().map_err(broken(CKA_PRIVATE_EXPONENT))?)
        };
        rule::private_keys_are_sensitive(&mut attributes)?;
        PrivatePlan::new(key_type, attributes, setting)?.finish(value)
    }

    /// C_UnwrapKey of a private key: checks the template, as [`Secret::unwrap`] does. The key follows.
    ///
    /// # Errors
    /// As [`rule::create`].
    pub fn unwrap(
        template: &Template,
        setting: &Setting,
        unwrapping: &Attributes,
    ) -> Result<PrivatePlan> {
        let prescribed = unwrapping.get(CKA_UNWRAP_TEMPLATE);
        let whole = rule::upon(rules::PRIVATE, prescribed, template)?;
        let key_type = rule::key_type_of(rules::PRIVATE, &whole)?;
        let known = known(CKO_PRIVATE_KEY, key_type);
        let mut attributes = Making {
            origin: Origin::Unwrap,
            class: rules::PRIVATE,
            key_type: Some(key_type),
            setting,
            known: &known,
        }
        .complete(&whole)?;
        unwrapped(&mut attributes, unwrapping, setting.policy);
        rule::private_keys_are_sensitive(&mut attributes)?;
        if setting.policy.has(Guard::UnwrappedStay) {
            let decided = prescribed.and_then(Template::from_bytes).unwrap_or_default();
            if decided.bool(CKA_UNWRAP) != Some(true) {
                roles::without(&mut attributes, &[CKA_UNWRAP], Guard::UnwrappedStay);
            }
        }
        PrivatePlan::new(key_type, attributes, setting)
    }
}

/// The public parts that a private key's object shows. What the template gave must be the key's own.
fn show(attributes: &mut Attributes, parts: &[(u64, &[u8])]) -> Result<()> {
    for (id, part) in parts {
        match attributes.get(*id) {
            Some(given) if !given.is_empty() && given != *part => {
                return Err(Error::AttributeValueInvalid(*id, "not that of the key"));
            }
            _ => attributes.set(*id, *part),
        }
    }
    Ok(())
}

impl PrivatePlan {
    /// The finished attributes of a key that is in the TPM already, with this public half, and can be used
    /// so there.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn adopt(self, public: &PublicKey, usage: KeyUse) -> Result<Attributes> {
        let Self { key_type, mut attributes } = self;
        match (public, usage) {
            (PublicKey::Rsa { modulus, exponent }, KeyUse::Rsa { .. }) if key_type == CKK_RSA => {
                show(&mut attributes, &[(CKA_MODULUS, modulus), (CKA_PUBLIC_EXPONENT, exponent)])?;
            }
            (PublicKey::Ec { curve, x, y }, KeyUse::Ec { sign, derive, .. })
                if key_type == CKK_EC =>
            {
                let point = Point::from_coordinates(*curve, x, y)
                    .map_err(|_| Error::WrappedKeyInvalid)?
                    .der();
                show(&mut attributes, &[(CKA_EC_PARAMS, curve.params()), (CKA_EC_POINT, &point)])?;
                for (role, can) in [(CKA_SIGN, sign), (CKA_DERIVE, derive)] {
                    let may = attributes.is(role) && can;
                    attributes.set_bool(role, may);
                }
            }
            _ => return Err(Error::KeyTypeInconsistent),
        }
        public_key::complete(&mut attributes)?;
        Ok(attributes)
    }

    fn new(key_type: u64, mut attributes: Attributes, setting: &Setting) -> Result<Self> {
        if attributes.is(CKA_ALWAYS_AUTHENTICATE) {
            return Err(Error::TemplateInconsistent(
                "CKA_ALWAYS_AUTHENTICATE is for keys that the token makes",
            ));
        }
        from_outside(&mut attributes);
        rule::private_where_it_must_be(rules::PRIVATE, setting, &mut attributes)?;
        roles::private(key_type, &mut attributes, setting.policy);
        roles::tools_stay(&attributes, setting.policy)?;
        rule::limits_travel(&mut attributes, setting.policy);
        lives(&mut attributes, Residence::Imported);
        Ok(Self { key_type, attributes })
    }

    /// CKK_ of the key.
    pub fn key_type(&self) -> u64 {
        self.key_type
    }

    /// The key. Public parts that the template gave must be its own.
    ///
    /// # Errors
    /// AttributeValueInvalid, KeySizeRange; KeyTypeInconsistent for a key of another type.
    pub fn finish(self, value: PrivateValue) -> Result<Private> {
        let Self { key_type, mut attributes } = self;
        let mut own = |id, part: &[u8]| show(&mut attributes, &[(id, part)]);
        let usage = match &value {
            PrivateValue::Rsa(key) if key_type == CKK_RSA => {
                own(CKA_MODULUS, &key.modulus)?;
                own(CKA_PUBLIC_EXPONENT, &key.exponent)?;
                let exponent = key
                    .exponent
                    .iter()
                    .try_fold(0u32, |sum, byte| Some(sum.checked_mul(256)? | u32::from(*byte)));
                let bits = u16::try_from(key.modulus.len() * 8).ok();
                let (Some(bits @ 1024..=4096), Some(exponent)) = (bits, exponent) else {
                    return Err(Error::KeySizeRange(
                        "RSA keys have 1024 to 4096 bits and an exponent of at most 32".into(),
                    ));
                };
                KeyUse::Rsa { bits, exponent }
            }
            PrivateValue::Ec { curve, point, .. } if key_type == CKK_EC => {
                own(CKA_EC_PARAMS, curve.params())?;
                own(CKA_EC_POINT, &point.der())?;
                let derive = attributes.is(CKA_DERIVE);
                KeyUse::Ec { curve: *curve, sign: attributes.is(CKA_SIGN) || !derive, derive }
            }
            _ => return Err(Error::KeyTypeInconsistent),
        };
        public_key::complete(&mut attributes)?;
        let extractable = attributes.is(CKA_EXTRACTABLE);
        let spec = KeySpec { usage, extractable, always_authenticate: None };
        Ok(Private { attributes, value, spec })
    }
}
