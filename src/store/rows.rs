//! Object rows: how they are written, changed and removed, each time with the set of objects that
//! the token row signs.

use std::collections::BTreeMap;

use rand_core::{OsRng, RngCore};
use rusqlite::types::{FromSqlError, ValueRef};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use zeroize::Zeroizing;

use super::seal::{self, Set};
use super::{Checked, Fault, Report, Sealer, Store};

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

const SELECT: &str = "SELECT id, uuid, version, class, private, name, tag, content FROM object";

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

fn blob<'a>(row: &'a rusqlite::Row<'_>, at: usize) -> Result<&'a [u8], FromSqlError> {
    row.get_ref(at).map_err(|_| FromSqlError::InvalidType)?.as_blob()
}

fn number(row: &rusqlite::Row<'_>, at: usize) -> Result<u64, FromSqlError> {
    Ok(row.get_ref(at).map_err(|_| FromSqlError::InvalidType)?.as_i64()? as u64)
}

/// Attributes and blobs in one run of bytes: how many attributes, each with type, length and value,
/// then both blobs with their length; numbers big-endian, 8 bytes a type, 4 a length.
fn encode(row: &NewRow) -> Result<Zeroizing<Vec<u8>>, Fault> {
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

/// A token's set of objects inside a write transaction.
struct Ledger<'a> {
    transaction: &'a Transaction<'a>,
    token: i64,
    sealer: &'a Sealer,
    keeper: seal::SetKeeper,
    set: Set,
}

/// Lets `job` change a token's objects and signs the set that it leaves. A set that was not the
/// owner's before gets no valid signature after: nothing is laundered.
fn with_ledger<T>(
    transaction: &Transaction<'_>,
    serial: &[u8; 16],
    sealer: &Sealer,
    job: impl FnOnce(&mut Ledger<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    if serial != sealer.serial() {
        return Err(Fault::Bug("the secret of another token"));
    }
    let signed = SignedSet::read(transaction, serial)?.ok_or(Fault::NoToken)?;
    let keeper = sealer.set_keeper();
    let trusted = signed.set.as_ref().is_some_and(|set| keeper.is_signed(set, &signed.mac));
    let set = signed.set.unwrap_or(Set::EMPTY);
    let mut ledger = Ledger { transaction, token: signed.token, sealer, keeper, set };
    let value = job(&mut ledger)?;
    let Ledger { mut set, keeper, .. } = ledger;
    set.generation = set.generation.wrapping_add(1);
    let mac = if trusted { keeper.sign(&set).to_vec() } else { signed.mac };
    transaction.execute(
        "UPDATE token SET objects = ?2, generation = ?3, digest = ?4, digest_mac = ?5 WHERE id = ?1",
        params![signed.token, set.objects as i64, set.generation as i64, set.digest(), mac],
    )?;
    Ok(value)
}

/// What the token row says about its objects.
struct SignedSet {
    token: i64,
    /// `None` if it is malformed.
    set: Option<Set>,
    mac: Vec<u8>,
}

impl SignedSet {
    fn read(connection: &Connection, serial: &[u8; 16]) -> Result<Option<SignedSet>, Fault> {
        let read = connection.query_row(
            "SELECT id, objects, generation, digest, digest_mac FROM token WHERE serial = ?1",
            params![serial],
            |row| {
                let (objects, generation) = (row.get::<_, i64>(1)?, row.get::<_, i64>(2)?);
                let digest = row.get_ref(3)?.as_blob().unwrap_or_default();
                Ok(SignedSet {
                    token: row.get(0)?,
                    set: Set::from_parts(objects as u64, generation as u64, digest),
                    mac: row.get_ref(4)?.as_blob().unwrap_or_default().to_vec(),
                })
            },
        );
        Ok(read.optional()?)
    }
}

impl Ledger<'_> {
    fn insert(&mut self, new: &NewRow) -> Result<i64, Fault> {
        let uuid = match new.uuid {
            Some(uuid) => uuid,
            None => random_uuid()?,
        };
        let taken = self
            .transaction
            .prepare_cached("SELECT 1 FROM object WHERE token = ?1 AND uuid = ?2")?
            .exists(params![self.token, uuid])?;
        if taken {
            return Err(Fault::Bug("an object with this uuid exists"));
        }
        let row = self.sealed(0, uuid, 1, new)?;
        self.transaction
            .prepare_cached(
                "INSERT INTO object (token, uuid, version, class, private, name, tag, content) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                self.token,
                row.uuid,
                row.version as i64,
                row.class as i64,
                row.private,
                row.name,
                row.tag,
                row.content
            ])?;
        let id = self.transaction.last_insert_rowid();
        self.index(id, new)?;
        self.count_in(&row)?;
        Ok(id)
    }

    fn update(&mut self, base: &Row, new: &NewRow) -> Result<(), Fault> {
        let stands = read(self.transaction, self.token, base.id)?.ok_or(Fault::NoObject)?;
        // Checked again: only a row that is the owner's now may be replaced as such.
        let stands = stands.map_err(|_| Fault::Changed)?;
        let checked = seal::check(stands.clone(), self.sealer)?;
        if *checked != *base {
            return Err(Fault::Changed);
        }
        let version = stands.version.saturating_add(1);
        let row = self.sealed(base.id, base.uuid, version, new)?;
        self.count_out(&stands)?;
        self.transaction.execute(
            "UPDATE object SET version = ?2, class = ?3, private = ?4, name = ?5, tag = ?6, \
             content = ?7 WHERE id = ?1",
            params![
                row.id,
                row.version as i64,
                row.class as i64,
                row.private,
                row.name,
                row.tag,
                row.content
            ],
        )?;
        self.transaction.execute("DELETE FROM attribute WHERE object = ?1", params![row.id])?;
        self.index(row.id, new)?;
        self.count_in(&row)
    }

    fn delete(&mut self, id: i64) -> Result<bool, Fault> {
        match read(self.transaction, self.token, id)? {
            None => return Ok(false),
            // Of an altered row something else is taken out than was put in, so the set stays
            // marked as altered.
            Some(Ok(row)) => self.count_out(&row)?,
            Some(Err(_)) => {}
        }
        let deleted = self.transaction.execute("DELETE FROM object WHERE id = ?1", params![id])?;
        Ok(deleted > 0)
    }

    /// The row as it will stand in the file.
    fn sealed(
        &self,
        id: i64,
        uuid: [u8; 16],
        version: u64,
        new: &NewRow,
    ) -> Result<Unchecked, Fault> {
        let plain = encode(new)?;
        let mut row = Unchecked {
            id,
            uuid,
            version,
            class: new.class,
            private: new.private,
            name: new.name.clone(),
            tag: Vec::new(),
            content: Vec::new(),
        };
        row.content = if new.private { self.sealer.encrypt(&row, &plain)? } else { plain.to_vec() };
        row.tag = self.sealer.tag(&row).to_vec();
        Ok(row)
    }

    fn index(&self, id: i64, new: &NewRow) -> Result<(), Fault> {
        let mut statement = self.transaction.prepare_cached(
            "INSERT INTO attribute (token, type, value, object) VALUES (?, ?, ?, ?)",
        )?;
        for (kind, value) in &new.attributes {
            if new.guarded.contains(kind) {
                continue;
            }
            let value =
                if new.private { self.sealer.hidden(*kind, value) } else { seal::plain(value) };
            statement.execute(params![self.token, *kind as i64, value, id])?;
        }
        Ok(())
    }

    fn count_in(&mut self, row: &Unchecked) -> Result<(), Fault> {
        let (version, tag) = countable(row).ok_or(Fault::Bug("a row that cannot be counted"))?;
        self.keeper.add(&mut self.set, &row.uuid, version, tag);
        Ok(())
    }

    fn count_out(&mut self, row: &Unchecked) -> Result<(), Fault> {
        if let Some((version, tag)) = countable(row) {
            self.keeper.remove(&mut self.set, &row.uuid, version, tag);
        }
        Ok(())
    }
}

/// Version and tag of a row, if they can have been written by us.
fn countable(row: &Unchecked) -> Option<(u32, &[u8; 32])> {
    Some((u32::try_from(row.version).ok()?, row.tag.as_slice().try_into().ok()?))
}

fn random_uuid() -> Result<[u8; 16], Fault> {
    let mut uuid = [0; 16];
    OsRng
        .try_fill_bytes(&mut uuid)
        .map_err(|_| Fault::Damaged("the system gives no random bytes".to_owned()))?;
    Ok(uuid)
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

    /// Compares the set of objects with the digest in the token row: shows rows that were removed,
    /// added, doubled or set back. Under 1 µs a row while nothing is wrong. For the moment after a
    /// login; logs what it finds.
    ///
    /// # Errors
    /// [`Fault::NoToken`]; if the store cannot be read. A changed set is no error.
    pub fn verify_set(&self, serial: &[u8; 16], sealer: &Sealer) -> Result<Report, Fault> {
        let report = self.read(|connection| verify_set(connection, serial, sealer))?;
        let report = report.ok_or(Fault::NoToken)?;
        if !report.intact {
            log::warn!(
                "store: the objects of token {} were changed outside of it: {} expected, {} found, \
                 not the owner's: {}, of doubtful age or company: {}",
                serial.escape_ascii(),
                report.expected,
                report.found,
                list(&report.bad),
                list(&report.suspects)
            );
        }
        Ok(report)
    }
}

fn verify_set(
    connection: &Connection,
    serial: &[u8; 16],
    sealer: &Sealer,
) -> Result<Report, Fault> {
    let signed = SignedSet::read(connection, serial)?.ok_or(Fault::NoToken)?;
    let keeper = sealer.set_keeper();
    let trusted = signed.set.as_ref().is_some_and(|set| keeper.is_signed(set, &signed.mac));
    let expected = signed.set.unwrap_or(Set::EMPTY);

    let mut actual = Set::EMPTY;
    actual.generation = expected.generation;
    let (mut found, mut readable) = (0, true);
    let mut statement =
        connection.prepare("SELECT uuid, version, tag FROM object WHERE token = ?1")?;
    let mut rows = statement.query(params![signed.token])?;
    while let Some(row) = rows.next()? {
        found += 1;
        let parts = || {
            let uuid: [u8; 16] = blob(row, 0).ok()?.try_into().ok()?;
            let version = u32::try_from(number(row, 1).ok()?).ok()?;
            let tag: [u8; 32] = blob(row, 2).ok()?.try_into().ok()?;
            Some((uuid, version, tag))
        };
        match parts() {
            Some((uuid, version, tag)) => keeper.add(&mut actual, &uuid, version, &tag),
            None => readable = false,
        }
    }
    let intact = trusted && readable && actual == expected;
    let mut report = Report { expected: expected.objects, found, intact, ..Report::default() };
    if !intact {
        let mut statement = connection.prepare(&format!("{SELECT} WHERE token = ?1"))?;
        let mut rows = statement.query(params![signed.token])?;
        while let Some(row) = rows.next()? {
            match unchecked(row)? {
                Err(Fault::BadRow { uuid, .. }) => report.bad.push(uuid),
                Err(other) => return Err(other),
                Ok(row) => {
                    let uuid = row.uuid;
                    if seal::check(row, sealer).is_err() {
                        report.bad.push(uuid);
                    } else if trusted && actual.differs_at(&expected, &uuid) {
                        report.suspects.push(uuid);
                    }
                }
            }
        }
    }
    Ok(report)
}

fn list(uuids: &[[u8; 16]]) -> String {
    match uuids {
        [] => "none".to_owned(),
        some => some
            .iter()
            .map(|uuid| uuid.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            .collect::<Vec<_>>()
            .join(" "),
    }
}
