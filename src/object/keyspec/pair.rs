//! Key pairs that the TPM makes.

use cryptoki_sys::*;

use super::{known, lives};
use crate::crypto::ec::Point;
use crate::error::{Error, Result};
use crate::object::object::Residence;
use crate::object::rule::{self, Making, Origin, Setting};
use crate::object::template::Template;
use crate::object::value::Attributes;
use crate::object::{public_key, roles, rules};
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
        rule::limits_travel(&mut private, setting);
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
