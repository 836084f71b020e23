//! Private keys that are brought in.

use std::collections::BTreeMap;

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::{PRIVATE, as_private_as, decided, from_outside, lives, started, unwrapped};
use crate::crypto::ec::{Curve, Point};
use crate::crypto::{Fault, private};
use crate::error::{Error, Result};
use crate::object::object::Residence;
use crate::object::policy::Guard;
use crate::object::rule::{self, Origin, Setting};
use crate::object::template::Template;
use crate::object::value::Attributes;
use crate::object::{public_key, roles, rules};
use crate::tpm::key::PublicKey;
use crate::tpm::{KeySpec, KeyUse};

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
        let d = Zeroizing::new([&vec![0; curve.len() - digits.len()], digits].concat());
        Ok(PrivateValue::Ec { curve, d, point })
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
        let mut attributes = started(Origin::Create, PRIVATE, key_type, template, setting)?;
        let mut parts: BTreeMap<u64, Zeroizing<Vec<u8>>> = BTreeMap::new();
        for rule in rules::rules(rules::PRIVATE, Some(key_type)).filter(|rule| rule.guarded) {
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

    /// C_UnwrapKey of a private key: checks the template, as [`Secret::unwrap`](super::Secret::unwrap) does. The key follows.
    ///
    /// # Errors
    /// As [`rule::create`].
    pub fn unwrap(
        template: &Template,
        setting: &Setting,
        unwrapping: &Attributes,
    ) -> Result<PrivatePlan> {
        let prescribed = unwrapping.get(CKA_UNWRAP_TEMPLATE);
        let whole = rule::upon(rules::PRIVATE, prescribed, template, setting)?;
        let key_type = rule::key_type_of(rules::PRIVATE, &whole)?;
        let mut attributes = started(Origin::Unwrap, PRIVATE, key_type, &whole, setting)?;
        unwrapped(&mut attributes, unwrapping, setting.policy);
        as_private_as(&mut attributes, [unwrapping], setting.policy);
        rule::private_keys_are_sensitive(&mut attributes)?;
        let kept = decided(unwrapping).bool(CKA_UNWRAP) == Some(true);
        if setting.policy.has(Guard::UnwrappedStay) && !kept {
            roles::without(&mut attributes, &[CKA_UNWRAP], Guard::UnwrappedStay);
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
        rule::limits_travel(&mut attributes, setting);
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
