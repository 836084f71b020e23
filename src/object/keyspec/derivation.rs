//! How keys and data that are made of keys are related to them (P11).

use cryptoki_sys::*;

use super::as_private_as;
use crate::error::{Error, Result};
use crate::object::policy::{Guard, Policy};
use crate::object::rule::{self, Making, Origin, Setting};
use crate::object::template::Template;
use crate::object::value::{self, Attributes};
use crate::object::{roles, rules};

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
    pub(super) fn may_tell(&self, policy: Policy) -> Result<()> {
        let Self { mechanism, how, inputs, .. } = *self;
        if !policy.has(Guard::DerivedStay) {
            return Ok(());
        }
        let tells = matches!(how, Derives::Telling | Derives::Data);
        for input in inputs.iter().filter(|input| !roles::readable(input)) {
            let why = if tells && !names(input, mechanism) {
                "what comes of it may tell the key, and CKA_ALLOWED_MECHANISMS do not name it"
            } else if how != Derives::Data && names(input, CKM_HKDF_DATA) {
                "CKM_HKDF_DATA among CKA_ALLOWED_MECHANISMS leaves no other derivation"
            } else {
                continue;
            };
            log::info!(
                "a sensitive key derives nothing with mechanism {mechanism:#x}: {why} (P11)"
            );
            return Err(Error::MechanismInvalid(mechanism));
        }
        Ok(())
    }

    /// The caller's template upon what each input prescribes: §4.11 says so of any key that is derived with it,
    /// whichever place it has in the mechanism.
    pub(super) fn upon_theirs(
        &self,
        class: rules::Classes,
        template: &Template,
        setting: &Setting,
    ) -> Result<Template> {
        let mut whole = template.clone();
        for input in self.inputs {
            let one = rule::upon(class, input.get(CKA_DERIVE_TEMPLATE), template, setting)?;
            for (id, value) in one.iter() {
                match whole.get(id) {
                    None => whole.push(id, value),
                    Some(other) if other == value => {}
                    Some(_) => {
                        return Err(Error::TemplateInconsistent(
                            "the keys that go in prescribe different values",
                        ));
                    }
                }
            }
        }
        Ok(whole)
    }

    /// Whether an input prescribes this value of an attribute.
    pub(super) fn prescribes(&self, id: u64, value: bool) -> bool {
        self.inputs.iter().any(|input| {
            let prescribed = input.get(CKA_DERIVE_TEMPLATE).and_then(Template::from_bytes);
            prescribed.is_some_and(|template| template.bool(id) == Some(value))
        })
    }

    /// The new key's CKA_ALLOWED_MECHANISMS: what the template names of those that the mechanism allows, or
    /// all of them.
    pub(super) fn allow(&self, attributes: &mut Attributes, policy: Policy) -> Result<()> {
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
    /// that shall be, which CKA_VALUE_LEN says as for a key. The CKA_DERIVE_TEMPLATE of each input comes
    /// first: one that prescribes a key, or that it be sensitive, prescribes no data.
    ///
    /// # Errors
    /// As [`rule::create`]; MechanismInvalid if an input that is not readable does not name the mechanism.
    pub fn of_data(
        &self,
        template: &Template,
        setting: &Setting,
    ) -> Result<(Attributes, Option<usize>)> {
        let whole = self.upon_theirs(rules::DATA, template, setting)?;
        self.may_tell(setting.policy)?;
        let (mut length, mut rest) = (None, Template::new());
        for (id, value) in whole.iter() {
            match (id, &length) {
                (CKA_VALUE_LEN, None) => {
                    let bytes = value::ulong(value)
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
        as_private_as(&mut attributes, self.inputs.iter().copied(), setting.policy);
        rule::private_where_it_must_be(rules::DATA, setting, &mut attributes)?;
        Ok((attributes, length))
    }
}

/// P11: a signature that may tell something of a key that is not readable needs that key's leave.
///
/// # Errors
/// MechanismInvalid if the key does not name the mechanism and would have to.
pub fn may_sign(key: &Attributes, mechanism: u64, policy: Policy) -> Result<()> {
    // Who may encrypt with the key can have more than a MAC tells of it.
    let open = roles::readable(key) || key.is(CKA_ENCRYPT);
    if policy.has(Guard::DerivedStay) && !open && !names(key, mechanism) {
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
