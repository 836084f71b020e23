//! A template as the caller gave it: types and values in his order, already in our own memory and in
//! the library's encoding. What it means, the rules decide.

use std::fmt;

use zeroize::Zeroizing;

/// A deep copy of a CK_ATTRIBUTE array. Wiped when dropped, for it may hold a key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<(u64, Zeroizing<Vec<u8>>)>);

impl Template {
    /// A template without attributes: what a null pointer with count 0 means.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an attribute in the library's encoding.
    pub fn push(&mut self, id: u64, value: impl Into<Vec<u8>>) {
        self.0.push((id, Zeroizing::new(value.into())));
    }

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, id: u64, value: impl Into<Vec<u8>>) -> Self {
        self.push(id, value);
        self
    }

    /// With one more truth value.
    #[must_use]
    pub fn with_bool(self, id: u64, value: bool) -> Self {
        self.with(id, [u8::from(value)])
    }

    /// With one more number.
    #[must_use]
    pub fn with_ulong(self, id: u64, value: u64) -> Self {
        self.with(id, value.to_be_bytes())
    }

    /// The first value given for this type.
    pub fn get(&self, id: u64) -> Option<&[u8]> {
        self.0.iter().find(|(given, _)| *given == id).map(|(_, value)| value.as_slice())
    }

    /// The first value given for this type, as a number.
    pub fn ulong(&self, id: u64) -> Option<u64> {
        self.get(id).and_then(super::value::ulong)
    }

    /// The first value given for this type, as a truth value.
    pub fn bool(&self, id: u64) -> Option<bool> {
        self.get(id).and_then(super::value::boolean)
    }

    /// The attributes in the caller's order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.0.iter().map(|(id, value)| (*id, value.as_slice()))
    }

    /// How many attributes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of an attribute of [`Kind::Template`](super::Kind::Template): for each attribute its
    /// type (eight bytes), the length of its value in bytes (eight bytes), both big-endian, and the value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, value) in &self.0 {
            bytes.extend_from_slice(&id.to_be_bytes());
            bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }

    /// Reads what [`Template::to_bytes`] wrote. `None` for anything else.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let mut template = Self::new();
        while !bytes.is_empty() {
            let (id, rest) = bytes.split_first_chunk::<8>()?;
            let (length, rest) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
            let value = rest.get(..length)?;
            template.push(u64::from_be_bytes(*id), value);
            bytes = rest.get(length..)?;
        }
        Some(template)
    }
}

impl FromIterator<(u64, Vec<u8>)> for Template {
    fn from_iter<I: IntoIterator<Item = (u64, Vec<u8>)>>(items: I) -> Self {
        Self(items.into_iter().map(|(id, value)| (id, Zeroizing::new(value))).collect())
    }
}

impl fmt::Debug for Template {
    /// Types and lengths, no values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(id, value)| (format!("{id:#x}"), value.len())))
            .finish()
    }
}
