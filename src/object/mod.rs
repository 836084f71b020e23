//! Floor 3: attributes. One table of rules (`rules.rs`), one engine that reads it (`rule.rs`), and
//! what turns attributes into keys of the TPM and rows of the store, and back.
//!
//! Inside the library an attribute's value has one encoding on every machine: a CK_BBOOL is one
//! byte, a CK_ULONG eight bytes big-endian, an array of CK_ULONG those one after another, a template
//! [`Template::to_bytes`], and everything else the bytes as they came. `value.rs` converts at the door.

pub mod certificate;
pub mod keyspec;
#[allow(clippy::module_inception)] // an object is what this floor is named after
pub mod object;
pub mod pkcs8;
pub mod policy;
pub mod public_key;
mod roles;
pub mod row;
pub mod rule;
pub mod rules;
pub mod search;
pub mod storage_key;
pub mod template;
pub mod travel;
pub mod value;
pub mod wrapping;

#[cfg(test)]
mod tests;

pub use object::{Material, Object, Residence, SecretKey};
pub use rule::{Origin, Setting};
pub use rules::Rule;
pub use template::Template;
pub use value::{Attributes, Kind};
