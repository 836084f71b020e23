//! Object rows.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{Checked, Fault, Sealer, Store};

/// An object to be stored.
///
/// No `Debug`: it may hold a secret.
#[derive(Clone, Default)]
pub struct NewRow {
    /// The caller's number for what kind of object it is; readable without a login.
    pub class: u64,
    /// Whether attributes and blobs are encrypted. (Kind, uuid, the Name and which attribute types
    /// there are remain readable.)
    pub private: bool,
    /// All attributes, in their canonical encoding.
    pub attributes: BTreeMap<u64, Vec<u8>>,
    /// The key's public part as the TPM takes it; empty if there is none.
    pub public_blob: Vec<u8>,
    /// The key's private part, wrapped by the TPM; empty if there is none.
    pub private_blob: Vec<u8>,
    /// The TPM's Name of the key, for [`Store::knows`]; empty if there is none.
    pub name: Vec<u8>,
    /// The attribute types that can never be searched for: they appear in no index.
    pub guarded: Vec<u64>,
    /// Which uuid the object gets. `None` draws one. Give one when the object's authorization
    /// ([`Sealer::authorization`]) had to be known before; [`Store::update`] ignores it.
    pub uuid: Option<[u8; 16]>,
}

/// What an object row says. As [`Checked<Row>`] it is what the token's owner wrote; as a bare `Row`
/// it is what stands in the file.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Unique in the file and never used again, in no process.
    pub id: i64,
    /// Names the object for ever, also in the log.
    pub uuid: [u8; 16],
    /// Counts the changes to this object, from 1.
    pub version: u64,
    /// The caller's number for what kind of object it is.
    pub class: u64,
    /// Whether it is only for those who logged in.
    pub private: bool,
    /// All attributes, in their canonical encoding.
    pub attributes: BTreeMap<u64, Vec<u8>>,
    /// The key's public part as the TPM takes it, or empty.
    pub public_blob: Vec<u8>,
    /// The key's private part, wrapped by the TPM, or empty.
    pub private_blob: Vec<u8>,
    /// The TPM's Name of the key, or empty.
    pub name: Vec<u8>,
}

/// An object row as it stands in the file: nobody has checked yet that the token's owner wrote it.
/// [`super::seal::check`] does.
#[derive(Clone)]
pub struct Unchecked {
    id: i64,
    uuid: [u8; 16],
    class: u64,
    private: bool,
    version: u64,
}

impl Unchecked {
    /// The row's id.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The object's uuid, as the file says.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The object's class, as the file says.
    pub fn class(&self) -> u64 {
        self.class
    }

    /// The object's version, as the file says: cache keys can be made of id and version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the object is private, as the file says.
    pub fn private(&self) -> bool {
        self.private
    }

    /// The content of a public row, unauthenticated: for looking at objects before a login. `None`
    /// if the row is private.
    ///
    /// # Errors
    /// [`Fault::BadRow`] if it cannot even be read.
    pub fn unauthenticated(&self) -> Result<Option<Row>, Fault> {
        todo!()
    }
}

impl Store {
    /// Stores a new object; answers its id.
    ///
    /// # Errors
    /// [`Fault::NoToken`], or why it could not be written; nothing is changed then.
    pub fn insert(&self, serial: &[u8; 16], sealer: &Sealer, new: &NewRow) -> Result<i64, Fault> {
        todo!()
    }

    /// Stores several new objects in one commit: all or none. For key pairs.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub fn insert_all(
        &self,
        serial: &[u8; 16],
        sealer: &Sealer,
        new: &[NewRow],
    ) -> Result<Vec<i64>, Fault> {
        todo!()
    }

    /// Replaces the content of an object. `base` is what the new content was made from.
    ///
    /// # Errors
    /// [`Fault::Changed`] if `base` is no longer what stands in the file; [`Fault::NoObject`],
    /// [`Fault::NoToken`], or why it could not be written.
    pub fn update(
        &self,
        serial: &[u8; 16],
        sealer: &Sealer,
        base: &Checked<Row>,
        new: &NewRow,
    ) -> Result<(), Fault> {
        todo!()
    }

    /// Removes an object, altered ones too. False if there is none with this id.
    ///
    /// # Errors
    /// Why it could not be written; the object is still there then.
    pub fn delete(&self, serial: &[u8; 16], sealer: &Sealer, id: i64) -> Result<bool, Fault> {
        todo!()
    }

    /// The object with this id, `None` if the token has none. Private ones too: without the token
    /// secret there is nothing to see in them.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn row(&self, serial: &[u8; 16], id: i64) -> Result<Option<Unchecked>, Fault> {
        todo!()
    }

    /// The ids of all objects that have all of these attributes with exactly these values, oldest
    /// first; all objects if `template` is empty. Without a sealer only public objects are found.
    /// Each hit was read and compared, so a doctored index cannot lead to another object; rows that
    /// fail the check are left out and named in the log.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn find(
        &self,
        serial: &[u8; 16],
        sealer: Option<&Sealer>,
        template: &[(u64, Vec<u8>)],
    ) -> Result<Vec<i64>, Fault> {
        todo!()
    }

    /// Whether a key with this TPM Name is stored here.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn knows(&self, name: &[u8]) -> Result<bool, Fault> {
        todo!()
    }
}

#[allow(dead_code)]
type Content = Zeroizing<Vec<u8>>;
