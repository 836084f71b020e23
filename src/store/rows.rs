//! Object rows: what they hold, in which form they stand in the file, and how they are stored,
//! changed and removed.

use std::collections::BTreeMap;

use rusqlite::types::{FromSqlError, ValueRef};
use rusqlite::{Connection, OptionalExtension, params};
use zeroize::Zeroizing;

use super::ledger::with_ledger;
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
/// [`super::check`] does.
#[derive(Clone)]
pub struct Unchecked {
    pub(super) id: i64,
    pub(super) uuid: [u8; 16],
    pub(super) version: u64,
    pub(super) class: u64,
    pub(super) private: bool,
    pub(super) name: Vec<u8>,
    pub(super) tag: Vec<u8>,
    /// Encoded attributes and blobs; encrypted if private.
    pub(super) content: Vec<u8>,
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
        if self.private { Ok(None) } else { decode(self, &self.content).map(Some) }
    }
}

pub(super) const SELECT: &str =
    "SELECT id, uuid, version, class, private, name, tag, content FROM object";

/// Reads one row of [`SELECT`]. A value of a wrong kind or size is a bad row, not a bad store.
pub(super) fn unchecked(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Unchecked, Fault>> {
    // Enough of the uuid to name the row in the log, whatever it is.
    let mut uuid = [0; 16];
    if let ValueRef::Blob(bytes) = row.get_ref(1)? {
        uuid.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }
    let read = || {
        Ok::<_, FromSqlError>(Unchecked {
            id: row.get_ref(0).map_err(|_| FromSqlError::InvalidType)?.as_i64()?,
            uuid: blob(row, 1)?.try_into().map_err(|_| FromSqlError::InvalidType)?,
            version: number(row, 2)?,
            class: number(row, 3)?,
            private: number(row, 4)? != 0,
            name: blob(row, 5)?.to_vec(),
            tag: blob(row, 6)?.to_vec(),
            content: blob(row, 7)?.to_vec(),
        })
    };
    Ok(read().map_err(|_| Fault::BadRow { uuid, why: "it has values of the wrong kind" }))
}

pub(super) fn blob<'a>(row: &'a rusqlite::Row<'_>, at: usize) -> Result<&'a [u8], FromSqlError> {
    row.get_ref(at).map_err(|_| FromSqlError::InvalidType)?.as_blob()
}

pub(super) fn number(row: &rusqlite::Row<'_>, at: usize) -> Result<u64, FromSqlError> {
    Ok(row.get_ref(at).map_err(|_| FromSqlError::InvalidType)?.as_i64()? as u64)
}

/// Attributes and blobs in one run of bytes: how many attributes, each with type, length and value,
/// then both blobs with their length; numbers big-endian, 8 bytes a type, 4 a length.
pub(super) fn encode(row: &NewRow) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let size = content_size(row);
    if size > MOST_CONTENT {
        return Err(Fault::Full(format!(
            "the object is too big for the store: {size} of {MOST_CONTENT} bytes"
        )));
    }
    let mut out = Zeroizing::new(Vec::with_capacity(size));
    out.extend_from_slice(&(row.attributes.len() as u32).to_be_bytes());
    let put = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    for (kind, value) in &row.attributes {
        out.extend_from_slice(&kind.to_be_bytes());
        put(&mut out, value);
    }
    put(&mut out, &row.public_blob);
    put(&mut out, &row.private_blob);
    Ok(out)
}

/// The most that one object can hold [bytes]; leaves SQLite room for the row's other columns.
const MOST_CONTENT: usize = super::file::LONGEST_VALUE as usize - (64 << 10);

fn content_size(row: &NewRow) -> usize {
    let attributes = row.attributes.values().map(|value| value.len().saturating_add(12));
    attributes.fold(4 + 8 + row.public_blob.len() + row.private_blob.len(), usize::saturating_add)
}

/// The reverse of [`encode`], for the row's (decrypted) content.
pub(super) fn decode(row: &Unchecked, content: &[u8]) -> Result<Row, Fault> {
    let read = || {
        let mut rest = content;
        let count = u32::from_be_bytes(*rest.split_off_first_chunk()?);
        let mut attributes = BTreeMap::new();
        for _ in 0..count {
            let kind = u64::from_be_bytes(*rest.split_off_first_chunk()?);
            attributes.insert(kind, sized(&mut rest)?.to_vec());
        }
        let public_blob = sized(&mut rest)?.to_vec();
        let private_blob = sized(&mut rest)?.to_vec();
        rest.is_empty().then(|| Row {
            id: row.id,
            uuid: row.uuid,
            version: row.version,
            class: row.class,
            private: row.private,
            attributes,
            public_blob,
            private_blob,
            name: row.name.clone(),
        })
    };
    read().ok_or(Fault::BadRow { uuid: row.uuid, why: "its content cannot be read" })
}

trait SplitOff<'a> {
    fn split_off_first_chunk<const N: usize>(&mut self) -> Option<&'a [u8; N]>;
}

impl<'a> SplitOff<'a> for &'a [u8] {
    fn split_off_first_chunk<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (first, rest) = self.split_first_chunk()?;
        *self = rest;
        Some(first)
    }
}

fn sized<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_be_bytes(*rest.split_off_first_chunk()?);
    let (value, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(value)
}

/// One object of a token.
pub(super) fn read(
    connection: &Connection,
    token: i64,
    id: i64,
) -> Result<Option<Result<Unchecked, Fault>>, Fault> {
    let mut statement =
        connection.prepare_cached(&format!("{SELECT} WHERE id = ?1 AND token = ?2"))?;
    Ok(statement.query_row(params![id, token], unchecked).optional()?)
}

/// The number of a token inside the file.
pub(super) fn token_id(connection: &Connection, serial: &[u8; 16]) -> Result<Option<i64>, Fault> {
    let mut statement = connection.prepare_cached("SELECT id FROM token WHERE serial = ?1")?;
    Ok(statement.query_row(params![serial], |row| row.get(0)).optional()?)
}

/// About how many bytes a new row needs, index included.
fn growth(rows: &[NewRow]) -> usize {
    rows.iter().map(|row| content_size(row).saturating_add(2048)).fold(0, usize::saturating_add)
}

impl Store {
    /// Stores a new object; answers its id.
    ///
    /// # Errors
    /// [`Fault::NoToken`], or why it could not be written; nothing is changed then.
    pub fn insert(&self, serial: &[u8; 16], sealer: &Sealer, new: &NewRow) -> Result<i64, Fault> {
        let ids = self.insert_all(serial, sealer, std::slice::from_ref(new))?;
        ids.first().copied().ok_or(Fault::Bug("an object without an id"))
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
        self.write(growth(new), |transaction| {
            with_ledger(transaction, serial, sealer, |ledger| {
                new.iter().map(|row| ledger.insert(row)).collect()
            })
        })
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
        self.write(growth(std::slice::from_ref(new)), |transaction| {
            with_ledger(transaction, serial, sealer, |ledger| ledger.update(base, new))
        })
    }

    /// Removes an object, altered ones too. False if there is none with this id.
    ///
    /// # Errors
    /// Why it could not be written; the object is still there then.
    pub fn delete(&self, serial: &[u8; 16], sealer: &Sealer, id: i64) -> Result<bool, Fault> {
        self.write(0, |transaction| {
            with_ledger(transaction, serial, sealer, |ledger| ledger.delete(id))
        })
    }

    /// The object with this id, `None` if the token has none. Private ones too: without the token
    /// secret there is nothing to see in them.
    ///
    /// # Errors
    /// [`Fault::BadRow`] if it is not even a row; if the store cannot be read.
    pub fn row(&self, serial: &[u8; 16], id: i64) -> Result<Option<Unchecked>, Fault> {
        let found = self.read(|connection| match token_id(connection, serial)? {
            Some(token) => read(connection, token, id),
            None => Ok(None),
        })?;
        found.flatten().transpose()
    }
}
