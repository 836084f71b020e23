//! Secret keys: generated, brought in, derived, unwrapped.

use cryptoki_sys::*;
use sha1::{Digest as _, Sha1};
use zeroize::Zeroizing;

use super::{
    Derivation, Derives, SECRET, as_private_as, asked, decided, from_outside, lives, opened,
    started, unwrapped,
};
use crate::crypto::aes::{Aes, BLOCK};
use crate::error::{Error, Result};
use crate::object::object::Residence;
use crate::object::policy::{Guard, Policy};
use crate::object::rule::{self, Origin, Setting};
use crate::object::rules::CKA_TPM11_RESIDENCE;
use crate::object::template::Template;
use crate::object::value::{self, Attributes};
use crate::object::{roles, rules};
use crate::tpm::{KeySpec, KeyUse};

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
    /// The template of a session key to generate says nothing of CKA_SENSITIVE and CKA_EXTRACTABLE.
    silent: bool,
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
        let mut attributes = started(Origin::Generate, SECRET, key_type, template, setting)?;
        let (sensitive, extractable) = asked(&attributes);
        let silent = sensitive.or(extractable).is_none() && !attributes.is(CKA_TOKEN);
        opened(&mut attributes, sensitive.unwrap_or(true), extractable.unwrap_or(false));
        let sensitive = attributes.is(CKA_SENSITIVE);
        let extractable = attributes.is(CKA_EXTRACTABLE);
        attributes.set_bool(CKA_ALWAYS_SENSITIVE, sensitive);
        attributes.set_bool(CKA_NEVER_EXTRACTABLE, !extractable);
        rule::is_ours(&mut attributes, mechanism);
        rule::private_where_it_must_be(rules::SECRET, setting, &mut attributes)?;
        roles::secret(key_type, &mut attributes, setting.policy);
        Ok(Self { silent, ..Self::planned(key_type, attributes, setting)? })
    }

    /// C_GenerateKey of a value that others can compute, too: of a password. It has no history, and P7 counts
    /// it among the keys that are known; P11 as well, by which a session key is readable unless the template
    /// says otherwise.
    #[must_use]
    pub fn known(mut self) -> Self {
        if self.silent {
            opened(&mut self.attributes, false, true);
        }
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
        let mut attributes = started(Origin::Create, SECRET, key_type, template, setting)?;
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

    /// C_DeriveKey: checks the template. The CKA_DERIVE_TEMPLATE of each input comes first, and what it
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
        let whole = derivation.upon_theirs(rules::SECRET, template, setting)?;
        let key_type = whole
            .get(CKA_KEY_TYPE)
            .map_or(Some(CKK_GENERIC_SECRET), value::ulong)
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
        let mut attributes = started(Origin::Derive, SECRET, key_type, &whole, setting)?;
        let (sensitive, extractable) = asked(&attributes);
        let kept = derivation.prescribes(CKA_SENSITIVE, true);
        let mut least = 1;
        if how != Derives::OneWay && key_type == CKK_AES && !attributes.has(CKA_VALUE_LEN) {
            return Err(Error::TemplateIncomplete(CKA_VALUE_LEN));
        }
        if how == Derives::Agreement {
            let sensitive = sensitive.unwrap_or(false);
            opened(&mut attributes, sensitive, extractable.unwrap_or(!sensitive));
            if guarded && (kept || derivation.prescribes(CKA_EXTRACTABLE, false)) {
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
        as_private_as(&mut attributes, inputs.iter().copied(), policy);
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
        let whole = rule::upon(rules::SECRET, prescribed, template, setting)?;
        let key_type = rule::key_type_of(rules::SECRET, &whole)?;
        let mut attributes = started(Origin::Unwrap, SECRET, key_type, &whole, setting)?;
        unwrapped(&mut attributes, unwrapping, setting.policy);
        as_private_as(&mut attributes, [unwrapping], setting.policy);
        rule::private_where_it_must_be(rules::SECRET, setting, &mut attributes)?;
        roles::secret(key_type, &mut attributes, setting.policy);
        if setting.policy.has(Guard::UnwrappedStay) {
            let decided = decided(unwrapping);
            for role in [CKA_WRAP, CKA_UNWRAP, CKA_DERIVE] {
                if decided.bool(role) != Some(true) {
                    roles::without(&mut attributes, &[role], Guard::UnwrappedStay);
                }
            }
        }
        Self::planned(key_type, attributes, setting).map_err(|error| match error {
            Error::AttributeValueInvalid(CKA_VALUE_LEN, _) => Error::WrappedKeyLength,
            other => other,
        })
    }

    /// What every plan ends with.
    fn planned(key_type: u64, mut attributes: Attributes, setting: &Setting) -> Result<Self> {
        roles::tools_stay(&attributes, setting.policy)?;
        rule::limits_travel(&mut attributes, setting);
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
        Ok(Self { length, attributes, key_type, policy: setting.policy, least: 1, silent: false })
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

/// P7, of a secret key that somebody knows.
fn wraps_no_other(attributes: &mut Attributes, policy: Policy) {
    if policy.has(Guard::KnownKeysDoNotWrap) {
        roles::without(attributes, &[CKA_WRAP], Guard::KnownKeysDoNotWrap);
    }
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
        Aes::new(value).and_then(|key| key.ecb(true, &[0; BLOCK])).ok()?.to_vec()
    } else {
        Sha1::digest(value).to_vec()
    };
    digest.get(..3).map(<[u8]>::to_vec)
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
