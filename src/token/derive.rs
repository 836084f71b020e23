//! Keys and data that are made of keys. PKCS#11 3.2 §5.18.5.

use cryptoki_sys::{CKA_ALWAYS_AUTHENTICATE, CKA_VALUE, CKF_DERIVE};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::mechanism::{Mechanism, Params, Value};
use crate::object::keyspec::{Derivation, Derives, Secret};
use crate::object::rule::Setting;
use crate::object::{Attributes, Material, Object, Template, rule};
use crate::tpm::Call;

use super::session::Session;

/// What C_DeriveKey gives.
pub struct Derived {
    /// The handles of the keys: the caller's, then those that the parameter asks for.
    pub keys: Vec<u64>,
    /// What the parameter asks for besides: a version, IVs.
    pub told: Vec<Zeroizing<Vec<u8>>>,
}

/// What is derived from, with which mechanism.
struct Sources<'a> {
    row: &'static Mechanism,
    params: &'a Params,
    base: Object,
    /// The keys that the parameter names.
    others: Vec<Object>,
}

impl Session {
    /// C_DeriveKey: the handle of the key, and of those that the parameter asks for besides. All of them
    /// are made or none; `offending` becomes the number of the additional key whose template is at fault.
    ///
    /// # Errors
    /// `KeyInvalid`, `MechanismInvalid`, those of the rules; `NotLoggedIn` if the base key asks for a
    /// login of its own, for which C_DeriveKey leaves no moment; the TPM's and the store's.
    pub fn derive_key(
        &self,
        mechanism: u64,
        params: &Params,
        base: u64,
        template: &Template,
        offending: &mut Option<usize>,
    ) -> Result<Derived> {
        self.alive()?;
        let (row, base) = self.key(mechanism, base, CKF_DERIVE)?;
        row.derives_from([&base])?;
        let others = params
            .keys()
            .into_iter()
            .map(|key| self.key(mechanism, key, CKF_DERIVE).map(|(_, key)| key))
            .collect::<Result<Vec<_>>>()?;
        row.derives_from(&others)?;
        let setting = self.token.setting()?;
        let sources = Sources { row, params, base, others };
        let one = |attributes| {
            let key = self.place(attributes, Material::None)?;
            Ok(Derived { keys: vec![key], told: Vec::new() })
        };
        match row.derives()? {
            Derives::Public => {
                params.none()?;
                self.may_make(template)?;
                one(rule::public_of(&sources.base.attributes, template, &setting)?)
            }
            Derives::Data => one(self.derive_data(&sources, template, &setting)?),
            _ => self.derive_secrets(&sources, template, &setting, offending),
        }
    }

    /// The attributes of an object with data.
    fn derive_data(
        &self,
        sources: &Sources<'_>,
        template: &Template,
        setting: &Setting,
    ) -> Result<Attributes> {
        self.may_make(template)?;
        let (mut attributes, length) =
            sources.derivation(&sources.inputs())?.of_data(template, setting)?;
        for value in self.derive(&self.call(CKF_DERIVE), sources, &[length])? {
            attributes.set(CKA_VALUE, value.as_slice());
        }
        Ok(attributes)
    }

    fn derive_secrets(
        &self,
        sources: &Sources<'_>,
        template: &Template,
        setting: &Setting,
        offending: &mut Option<usize>,
    ) -> Result<Derived> {
        let Sources { row, params, base, .. } = sources;
        let inputs = sources.inputs();
        let derivation = sources.derivation(&inputs)?;
        let call = self.call(CKF_DERIVE);
        // Whose template it was is told of those that the parameter has: they follow the caller's.
        let several = !params.additional().is_empty();
        let mut plans = Vec::new();
        for (number, template) in row.templates(params, base, template)?.iter().enumerate() {
            *offending = number.checked_sub(1).filter(|_| several);
            self.may_make(template)?;
            plans.push(Secret::derive(template, setting, &derivation)?);
        }
        *offending = None;
        let lengths: Vec<Option<usize>> = plans.iter().map(|plan| plan.length).collect();
        let mut values = self.derive(&call, sources, &lengths)?;
        let told = values.split_off(plans.len().min(values.len()));
        let mut keys = Vec::with_capacity(plans.len());
        for (number, (plan, value)) in plans.into_iter().zip(values).enumerate() {
            *offending = number.checked_sub(1).filter(|_| several);
            keys.push(self.secret_object(&call, plan, Value::Known(value))?);
        }
        *offending = None;
        Ok(Derived { keys: self.place_all(keys)?, told })
    }

    /// A secret for each of these lengths, as the mechanism makes them.
    fn derive(
        &self,
        call: &Call,
        sources: &Sources<'_>,
        lengths: &[Option<usize>],
    ) -> Result<Vec<Zeroizing<Vec<u8>>>> {
        let Sources { row, params, base, others } = sources;
        if base.is(CKA_ALWAYS_AUTHENTICATE) {
            return Err(Error::NotLoggedIn);
        }
        self.with_chip(call, None, |chip| row.derive(params, base, others, lengths, chip))
    }
}

impl Sources<'_> {
    fn inputs(&self) -> Vec<&Attributes> {
        std::iter::once(&self.base).chain(&self.others).map(|key| &*key.attributes).collect()
    }

    /// What the rules are told of it.
    fn derivation<'a>(&self, inputs: &'a [&'a Attributes]) -> Result<Derivation<'a>> {
        let (mechanism, allows) = (self.row.id, self.row.does.allows);
        Ok(Derivation { mechanism, how: self.row.derives()?, inputs, allows })
    }
}
