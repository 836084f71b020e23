//! Copies of a store, made and put back while other processes use it.
//!
//! Nothing here opens the live file: what is read of it and written to it goes through the store's one
//! connection, because closing any other descriptor of it would drop this process's locks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params_from_iter};

use super::file::LONGEST_VALUE;
use super::migrate::{LADDER, Temporary, Version, with_suffix};
use super::tokens::tokens;
use super::{Fault, Store, TokenRow, place, sibling};

/// A copy of a store, checked and open for reading.
pub struct Backup {
    connection: Connection,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its tokens, oldest first.
    pub tokens: Vec<TokenRow>,
}

/// What a restore would take away from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The token is not in the backup.
    Token(TokenRow),
    /// The token's objects were changed after the backup.
    Newer {
        /// As the store has it.
        token: TokenRow,
        /// Its generation in the backup.
        backup: u64,
    },
    /// The token has another PIN gate than in the backup, whose PINs may be dead.
    Gate(TokenRow),
}

/// What became of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// Nothing was changed, for this would have been lost.
    Refused(Vec<Loss>),
    /// The store holds what the backup holds.
    Done {
        /// Where its former content is; `None` if it held no token.
        kept: Option<PathBuf>,
        /// What was lost.
        lost: Vec<Loss>,
    },
}

/// All tables, referenced ones first.
const TABLES: [&str; 4] = ["token", "object", "attribute", "facts"];

impl Backup {
    /// Opens a copy of a store and checks it: the schema, every page and every reference.
    ///
    /// # Errors
    /// [`Fault::NotRecognized`] for anything else than a whole copy of this version's store, and for the
    /// live file of a store that this process has open.
    pub fn open(path: &Path) -> Result<Backup, Fault> {
        let found = fs::metadata(path)
            .map_err(|error| Fault::Unreadable(format!("{}: {error}", path.display())))?;
        if !found.is_file() {
            return Err(Fault::NotRecognized("the backup is not a regular file".to_owned()));
        }
        if sibling::descriptors((found.dev(), found.ino())) != Some(0) {
            return Err(Fault::NotRecognized("this is a store in use, not a backup".to_owned()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        match LADDER.look(&connection)? {
            Version::Current => {}
            Version::Empty => return Err(Fault::NotRecognized("the backup is empty".to_owned())),
            Version::Older(version) => {
                return Err(Fault::NotRecognized(format!(
                    "the backup is of an earlier version (schema {version}); put it in the place of a \
                     store instead, which migrates it"
                )));
            }
            Version::Newer(version) => {
                return Err(Fault::NotRecognized(format!(
                    "the backup was written by a later version (schema {version})"
                )));
            }
        }
        let problems = integrity(&connection)?;
        if let Some(problem) = problems.first() {
            return Err(Fault::Damaged(format!("the backup is damaged: {problem}")));
        }
        let tokens = tokens(&connection)?;
        Ok(Backup { connection, bytes: found.len(), tokens })
    }
}

/// What SQLite finds wrong with a file; empty if it is sound.
pub(super) fn integrity(connection: &Connection) -> Result<Vec<String>, Fault> {
    let mut problems = Vec::new();
    let mut statement = connection.prepare("PRAGMA integrity_check(8)")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            problems.push(line);
        }
    }
    drop(rows);
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    if statement.exists([])? {
        problems.push("an object without a token".to_owned());
    }
    // What the file says of itself; a login proves it.
    let mut statement = connection.prepare(
        "SELECT CAST(serial AS TEXT), objects, (SELECT count(*) FROM object WHERE token = token.id) \
         AS found FROM token WHERE objects <> found",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (serial, objects, found): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        problems.push(format!("token {serial} should have {objects} objects and has {found}"));
    }
    Ok(problems)
}

impl Store {
    /// What SQLite finds wrong with the file: pages, indexes, references, counts. Empty if it is sound or
    /// not there. Reads all of it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn integrity(&self) -> Result<Vec<String>, Fault> {
        Ok(self.read(integrity)?.unwrap_or_default())
    }

    /// Makes the store what `backup` is, in one commit, while other processes go on. What the TPM counts
    /// and holds does not come back with it: of a token that the store has, what it knows of the PINs stays.
    ///
    /// What would be lost is found under the same lock under which it is replaced. Without `force` nothing
    /// is changed then; with it, and whenever there was a token, the former content is kept beside the
    /// store in a file of its own.
    ///
    /// # Errors
    /// [`Fault::WriteProtected`], [`Fault::Full`], [`Fault::Busy`], …; the store is as before then.
    pub fn restore(&self, backup: &Backup, force: bool) -> Result<Restored, Fault> {
        self.create()?;
        let source = Transaction::new_unchecked(&backup.connection, TransactionBehavior::Deferred)?;
        let wanted = tokens(&source)?;
        let growth = usize::try_from(backup.bytes).unwrap_or(usize::MAX / 8);
        self.write(growth, |live| {
            let present = tokens(live)?;
            let lost = losses((live, &present), (&source, &wanted))?;
            if !lost.is_empty() && !force {
                return Ok(Restored::Refused(lost));
            }
            let kept = if present.is_empty() { None } else { Some(self.keep(live)?) };
            for table in TABLES.iter().rev() {
                live.execute(&format!("DELETE FROM {table}"), [])?;
            }
            copy(&source, live)?;
            for row in &present {
                // The same gate, or it is lost: its PINs are the TPM's.
                live.execute(
                    "UPDATE token SET user_pin_set = ?2, user_count = ?3, user_limit = ?4, \
                     so_count = ?5, so_limit = ?6 WHERE serial = ?1 AND gate = ?7",
                    rusqlite::params![
                        row.serial,
                        row.user_pin_set,
                        row.user_hint.count,
                        row.user_hint.limit,
                        row.so_hint.count,
                        row.so_hint.limit,
                        row.gate
                    ],
                )?;
            }
            Ok(Restored::Done { kept, lost })
        })
    }

    /// Writes what the store holds now to a file beside it, durably.
    fn keep(&self, live: &Connection) -> Result<PathBuf, Fault> {
        let copied = Temporary::beside(&self.path, place::file_mode(&self.path))?;
        let connection = Connection::open(copied.path())?;
        connection.pragma_update_and_check(None, "journal_mode", "MEMORY", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "EXTRA")?;
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
        LADDER.climb(&transaction, 0)?;
        copy(live, &transaction)?;
        transaction.commit()?;
        connection.close().map_err(|(_, error)| error)?;
        let time = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        let kept = with_suffix(&self.path, &format!(".replaced-{}", time.replace(':', "-")));
        copied.rename(&kept)?;
        Ok(kept)
    }
}

/// Copies all rows of all tables, as they are.
fn copy(from: &Connection, to: &Connection) -> Result<(), Fault> {
    for table in TABLES {
        let mut read = from.prepare(&format!("SELECT * FROM {table}"))?;
        let columns = read.column_count();
        let places = vec!["?"; columns].join(", ");
        let mut write = to.prepare(&format!("INSERT INTO {table} VALUES ({places})"))?;
        let mut rows = read.query([])?;
        while let Some(row) = rows.next()? {
            let values = (0..columns)
                .map(|column| row.get::<_, rusqlite::types::Value>(column))
                .collect::<Result<Vec<_>, _>>()?;
            write.execute(params_from_iter(values))?;
        }
    }
    Ok(())
}

/// What the store would lose if it became what the backup is.
fn losses(
    (live, present): (&Connection, &[TokenRow]),
    (source, wanted): (&Connection, &[TokenRow]),
) -> Result<Vec<Loss>, Fault> {
    let mut losses = Vec::new();
    for token in present {
        let Some(other) = wanted.iter().find(|other| other.serial == token.serial) else {
            losses.push(Loss::Token(token.clone()));
            continue;
        };
        if other.gate != token.gate {
            losses.push(Loss::Gate(token.clone()));
        } else if other.generation < token.generation
            // Two histories from one state.
            || (other.generation == token.generation
                && signed(source, &token.serial)? != signed(live, &token.serial)?)
        {
            losses.push(Loss::Newer { token: token.clone(), backup: other.generation });
        }
    }
    Ok(losses)
}

/// The signature over which objects there are.
fn signed(connection: &Connection, serial: &[u8; 16]) -> Result<Vec<u8>, Fault> {
    let mut statement = connection.prepare("SELECT digest_mac FROM token WHERE serial = ?1")?;
    Ok(statement.query_row([serial], |row| row.get(0))?)
}

#[cfg(test)]
#[path = "backups.rs"]
mod tests;
