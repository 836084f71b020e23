//! The table of attributes, in the specification's order.
use super::value::Kind;

/// What the specification and we say about one attribute of some classes.
pub struct Rule {
    /// CKA_ number.
    pub id: u64,
    /// Its name in the specification.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
}

/// All rules.
pub static RULES: &[Rule] = &[];

/// What the value of an attribute is; bytes for types that we do not know.
pub fn kind(id: u64) -> Kind {
    RULES.iter().find(|rule| rule.id == id).map_or(Kind::Bytes, |rule| rule.kind)
}

/// Whether values of this type may be secret: never indexed by the store, never matched.
pub fn guarded(_id: u64) -> bool {
    todo!()
}

/// The attribute's name for log and tool; `None` for types that we do not know.
pub fn name(id: u64) -> Option<&'static str> {
    RULES.iter().find(|rule| rule.id == id).map(|rule| rule.name)
}
