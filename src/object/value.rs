//! Attribute values: what kinds there are, how each is encoded inside the library, and [`Attributes`],
//! the finished set that an object has.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroize;

/// What an attribute's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// CK_BBOOL: one byte, 0 or 1.
    Bool,
    /// CK_ULONG: eight bytes, big-endian.
    Ulong,
    /// CK_ULONG array: eight bytes each, big-endian.
    UlongArray,
    /// Any bytes, big integers and DER among them.
    Bytes,
    /// CK_DATE: empty, or eight ASCII digits (yyyymmdd).
    Date,
    /// UTF-8 text without a terminator.
    Utf8,
    /// CK_ATTRIBUTE array: [`Template::to_bytes`](super::Template::to_bytes).
    Template,
}

/// Bytes of a CK_ULONG in the caller's memory.
const NATIVE: usize = size_of::<std::ffi::c_ulong>();

impl Kind {
    /// The caller's memory (host order, host size of CK_ULONG) as the library keeps it.
    ///
    /// `None` if the length cannot be one of this kind: on the way to an object that is an invalid
    /// value, in a search it matches nothing. Whether the *content* is valid, the rules decide. A
    /// nested template cannot come this way (its memory holds pointers): always `None`.
    pub fn from_native(self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Kind::Bool => (bytes.len() == 1).then(|| bytes.to_vec()),
            Kind::Ulong => (bytes.len() == NATIVE).then(|| widen(bytes)),
            Kind::UlongArray => (bytes.len() % NATIVE == 0).then(|| widen(bytes)),
            Kind::Bytes | Kind::Date | Kind::Utf8 => Some(bytes.to_vec()),
            Kind::Template => None,
        }
    }

    /// The library's encoding as the caller sees it in memory. A nested template stays as it is: the
    /// door unpacks it with [`Template::from_bytes`](super::Template::from_bytes).
    pub fn to_native(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Kind::Ulong | Kind::UlongArray => bytes
                .chunks_exact(8)
                .flat_map(|chunk| narrow(&ulong(chunk).unwrap_or(u64::MAX)))
                .collect(),
            _ => bytes.to_vec(),
        }
    }

    /// How long [`Kind::to_native`]'s answer is, in bytes.
    pub fn native_length(self, bytes: &[u8]) -> usize {
        match self {
            Kind::Ulong | Kind::UlongArray => bytes.len() / 8 * NATIVE,
            _ => bytes.len(),
        }
    }
}

/// Host CK_ULONGs to eight bytes big-endian each. All ones (CK_UNAVAILABLE_INFORMATION) stay all ones.
fn widen(bytes: &[u8]) -> Vec<u8> {
    bytes
        .chunks_exact(NATIVE)
        .flat_map(|chunk| {
            let all_ones = chunk.iter().all(|byte| *byte == 0xFF);
            let mut wide = [if all_ones { 0xFF } else { 0 }; 8];
            for (at, byte) in chunk.iter().enumerate() {
                let index = if cfg!(target_endian = "little") { 7 - at } else { 8 - NATIVE + at };
                if let Some(place) = wide.get_mut(index) {
                    *place = *byte;
                }
            }
            wide
        })
        .collect()
}

/// A number to a host CK_ULONG. (On 32-bit hosts what does not fit is cut: no number of ours is so large.)
fn narrow(number: &u64) -> [u8; NATIVE] {
    (*number as std::ffi::c_ulong).to_ne_bytes()
}

/// Reads a CK_ULONG of the library's encoding.
pub fn ulong(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// Reads an array of CK_ULONG of the library's encoding.
pub fn ulongs(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).filter_map(ulong).collect()
}

/// Reads a CK_BBOOL of the library's encoding.
pub fn boolean(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

/// The attributes of one object, complete and consistent: only the engine makes and changes them.
/// Values that are secret (CKA_VALUE of a secret key) are never in here but in
/// [`Material`](super::Material).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Attributes(BTreeMap<u64, Vec<u8>>);

impl Attributes {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// From what the store kept.
    pub fn from_map(map: BTreeMap<u64, Vec<u8>>) -> Self {
        Self(map)
    }

    /// For the store.
    pub fn as_map(&self) -> &BTreeMap<u64, Vec<u8>> {
        &self.0
    }

    /// The value, if the object has the attribute.
    pub fn get(&self, id: u64) -> Option<&[u8]> {
        self.0.get(&id).map(Vec::as_slice)
    }

    /// Whether the object has the attribute.
    pub fn has(&self, id: u64) -> bool {
        self.0.contains_key(&id)
    }

    /// The attribute as a truth value; absent is FALSE.
    pub fn is(&self, id: u64) -> bool {
        self.get(id).and_then(boolean).unwrap_or(false)
    }

    /// The attribute as a number.
    pub fn ulong(&self, id: u64) -> Option<u64> {
        self.get(id).and_then(ulong)
    }

    /// The attribute as an array of numbers.
    pub fn ulongs(&self, id: u64) -> Option<Vec<u64>> {
        self.get(id).map(ulongs)
    }

    /// All, in the order of their types.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.0.iter().map(|(id, value)| (*id, value.as_slice()))
    }

    /// Sets bytes.
    pub fn set(&mut self, id: u64, value: impl Into<Vec<u8>>) {
        self.0.insert(id, value.into());
    }

    /// Sets a truth value.
    pub fn set_bool(&mut self, id: u64, value: bool) {
        self.set(id, [u8::from(value)]);
    }

    /// Sets a number.
    pub fn set_ulong(&mut self, id: u64, value: u64) {
        self.set(id, value.to_be_bytes());
    }

    /// Takes an attribute away.
    pub fn remove(&mut self, id: u64) -> Option<Vec<u8>> {
        self.0.remove(&id)
    }
}

impl fmt::Debug for Attributes {
    /// Types and lengths, no values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(id, value)| (format!("{id:#x}"), value.len())))
            .finish()
    }
}

impl Drop for Attributes {
    /// Private data objects hold whatever their owner found worth hiding.
    fn drop(&mut self) {
        for value in self.0.values_mut() {
            value.zeroize();
        }
    }
}
