//! What the token secret does for the rows: authenticates all of them, encrypts the private ones,
//! hides their values in the search index, and signs which objects there are.

use std::ops::Deref;

use zeroize::Zeroizing;

use super::{Fault, Row, Store, Unchecked};

/// The keys that hang on a token secret. Made at login, dropped at logout.
///
/// No `Debug`, wiped when dropped.
pub struct Sealer {
    serial: [u8; 16],
}

impl Sealer {
    /// Derives all keys from the token secret (HKDF-SHA256, one label each, the serial number as
    /// salt).
    pub fn new(token_secret: &[u8; 32], serial: &[u8; 16]) -> Sealer {
        todo!()
    }

    /// The TPM authorization of the object with this uuid.
    pub fn authorization(&self, uuid: &[u8; 16]) -> Zeroizing<[u8; 32]> {
        todo!()
    }

    /// The serial number of the token whose rows this sealer opens.
    pub fn serial(&self) -> &[u8; 16] {
        &self.serial
    }
}

/// Something that the token's owner is proven to have written. Only [`check`] makes one.
#[derive(Clone)]
pub struct Checked<T> {
    content: T,
}

impl<T> Checked<T> {
    /// The content, for good.
    pub fn into_inner(self) -> T {
        self.content
    }
}

impl<T> Deref for Checked<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.content
    }
}

/// Proves that the token's owner wrote this row, in this token, under this uuid and version, and
/// decrypts it if it is private.
///
/// # Errors
/// [`Fault::BadRow`].
pub fn check(row: Unchecked, sealer: &Sealer) -> Result<Checked<Row>, Fault> {
    todo!()
}

/// What [`Store::verify_set`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// How many objects there should be.
    pub expected: u64,
    /// How many there are.
    pub found: u64,
    /// Whether exactly the objects are there that the owner stored, each in its last version.
    pub intact: bool,
    /// Rows that the owner did not write so: they are not used.
    pub bad: Vec<[u8; 16]>,
    /// Rows among which there is one that is too old, or a neighbour is missing.
    pub suspects: Vec<[u8; 16]>,
}

impl Store {
    /// Compares the set of objects with the digest in the token row: shows rows that were removed,
    /// added, doubled or set back. Under 1 µs a row. For the moment after a login; logs what it
    /// finds.
    ///
    /// # Errors
    /// If the store cannot be read; a changed set is no error.
    pub fn verify_set(&self, serial: &[u8; 16], sealer: &Sealer) -> Result<Report, Fault> {
        todo!()
    }
}
