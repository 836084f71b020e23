//! What a rule is, and the engine for create, set, copy and get.
use std::borrow::Cow;

use super::object::Object;
use super::template::Template;
use super::value::Attributes;
use crate::error::Result;

/// Where an object comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// C_CreateObject
    Create,
    /// C_GenerateKey, C_GenerateKeyPair
    Generate,
    /// C_DeriveKey
    Derive,
    /// C_UnwrapKey
    Unwrap,
    /// C_CopyObject
    Copy,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Setting {
    /// The normal user is logged in, or the token has no user PIN.
    pub user: bool,
    /// The SO is logged in.
    pub so: bool,
}

/// Checks a template of C_CreateObject and completes it.
///
/// # Errors
/// AttributeTypeInvalid, AttributeValueInvalid, AttributeReadOnly, TemplateIncomplete,
/// TemplateInconsistent, CurveNotSupported, DomainParamsInvalid; NotLoggedIn if the object would be
/// private and `setting.user` is false; NotSupported for secret and private keys. PKCS#11 3.2 §4.1.1.
pub fn create(_template: &Template, _setting: &Setting) -> Result<Attributes> {
    todo!()
}

/// C_SetAttributeValue: the object's attributes after the change. Nothing happens to `object`.
///
/// # Errors
/// ActionProhibited if CKA_MODIFIABLE is FALSE; else as [`create`]. PKCS#11 3.2 §4.1.2.
pub fn set(_object: &Attributes, _template: &Template, _setting: &Setting) -> Result<Attributes> {
    todo!()
}

/// C_CopyObject: the copy's attributes (without CKA_UNIQUE_ID).
///
/// # Errors
/// ActionProhibited if CKA_COPYABLE is FALSE; else as [`create`]. PKCS#11 3.2 §4.1.3.
pub fn copy(_object: &Attributes, _template: &Template, _setting: &Setting) -> Result<Attributes> {
    todo!()
}

/// C_DestroyObject: whether CKA_DESTROYABLE permits it.
///
/// # Errors
/// ActionProhibited
pub fn destroy(_object: &Attributes) -> Result<()> {
    todo!()
}

/// One attribute's value in the library's encoding; `Kind::to_native` of `rules::kind(id)` makes it the
/// caller's. Asked per attribute, so that one which cannot be read spoils no other.
///
/// # Errors
/// AttributeSensitive, AttributeTypeInvalid. PKCS#11 3.2 §5.7.5.
pub fn get(_object: &Object, _id: u64) -> Result<Cow<'_, [u8]>> {
    todo!()
}
