//! Storage keys of other TPMs: public key objects that carry the whole public area. Where the SO trusts one,
//! keys move to its TPM (CKM_TPM11_DUPLICATE).

use cryptoki_sys::*;

use super::public_key;
use super::rules::{self, CKA_TPM11_STORAGE_KEY, CKM_TPM11_DUPLICATE, Change};
use super::template::Template;
use super::value::Attributes;
use crate::crypto::ec::Point;
use crate::error::{Error, Result};
use crate::tpm::key::{self, PublicKey};
use crate::tpm::srk;

/// A template for the object of this storage key: a marshalled TPMT_PUBLIC.
///
/// # Errors
/// AttributeValueInvalid if it is no storage key of a TPM.
pub fn template(area: &[u8], label: &str) -> Result<Template> {
    let invalid = |why| Error::AttributeValueInvalid(CKA_TPM11_STORAGE_KEY, why);
    if let Some(why) = srk::unsoundness(area) {
        return Err(invalid(why));
    }
    let (_, public) = key::public_key(area).map_err(|_| invalid("no public area"))?;
    let template = Template::new()
        .with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)
        .with_bool(CKA_TOKEN, true)
        .with_bool(CKA_PRIVATE, false)
        .with(CKA_LABEL, label)
        .with(CKA_TPM11_STORAGE_KEY, area);
    Ok(match public {
        PublicKey::Rsa { modulus, exponent } => template
            .with_ulong(CKA_KEY_TYPE, CKK_RSA)
            .with(CKA_MODULUS, modulus)
            .with(CKA_PUBLIC_EXPONENT, exponent),
        PublicKey::Ec { curve, x, y } => {
            let point = Point::from_coordinates(curve, &x, &y)
                .map_err(|_| invalid("its point is not on its curve"))?;
            template
                .with_ulong(CKA_KEY_TYPE, CKK_EC)
                .with(CKA_EC_PARAMS, curve.params())
                .with(CKA_EC_POINT, point.der())
        }
    })
}

/// If the public key object is that of a storage key: checks that what it shows is what it carries. Such
/// a key receives other keys and does nothing else.
///
/// # Errors
/// AttributeValueInvalid
pub(super) fn settle(key_type: u64, attributes: &mut Attributes) -> Result<()> {
    let Some(area) = attributes.get(CKA_TPM11_STORAGE_KEY) else { return Ok(()) };
    let mut told = Attributes::new();
    for (id, value) in template(area, "")?.iter() {
        told.set(id, value);
    }
    public_key::complete(&mut told)?;
    let shown = [CKA_KEY_TYPE, CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_EC_PARAMS, CKA_EC_POINT];
    if shown.iter().any(|id| told.get(*id) != attributes.get(*id)) {
        return Err(Error::AttributeValueInvalid(
            CKA_TPM11_STORAGE_KEY,
            "not the public area of this key",
        ));
    }
    let roles = rules::rules(rules::PUBLIC, Some(key_type));
    for role in roles.filter(|rule| rule.change == Change::Role) {
        attributes.set_bool(role.id, role.id == CKA_WRAP);
    }
    attributes.set(CKA_ALLOWED_MECHANISMS, CKM_TPM11_DUPLICATE.to_be_bytes());
    Ok(())
}
