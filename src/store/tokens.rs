//! Token rows: what is known about a token before anybody logs in, and without asking the TPM.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::seal::Set;
use super::{Fault, Sealer, Store};

/// Whether C_InitToken came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// C_InitToken is under way, or was interrupted; its gate says how far it came.
    Pending,
    /// The token can be used.
    Active,
}

/// Whose PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The user.
    User,
    /// The security officer.
    So,
}

/// What this store last saw of the TPM's count of wrong PINs. Only a hint: the TPM counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hint {
    /// Wrong PINs since the last right one.
    pub count: u32,
    /// How many the TPM allows; 0 when not known.
    pub limit: u32,
}

/// A token to be. It starts as [`TokenState::Pending`].
#[derive(Debug, Clone)]
pub struct NewToken {
    /// 16 hexadecimal digits, drawn at random: never used twice.
    pub serial: [u8; 16],
    /// Padded with blanks.
    pub label: [u8; 32],
    /// The PIN gate, opaque here; no secrets.
    pub gate: Vec<u8>,
    /// The Name of the storage root key that the token hangs on.
    pub srk_name: Vec<u8>,
    /// The token that it takes the place of, for whoever has to end an interrupted C_InitToken.
    pub replaces: Option<[u8; 16]>,
}

/// One token, unauthenticated: whoever can write the file can change it. (The PIN gate is bound to
/// the TPM's own commitment, the set of objects to the token secret.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// 16 hexadecimal digits in ASCII.
    pub serial: [u8; 16],
    /// Padded with blanks.
    pub label: [u8; 32],
    /// Whether C_InitToken came to its end.
    pub state: TokenState,
    /// The PIN gate, opaque here.
    pub gate: Vec<u8>,
    /// The Name of the storage root key that the token hangs on.
    pub srk_name: Vec<u8>,
    /// Whether the user's PIN was ever set.
    pub user_pin_set: bool,
    /// Whether the user needs no PIN.
    pub pinless: bool,
    /// The user's wrong PINs, as last seen.
    pub user_hint: Hint,
    /// The security officer's wrong PINs, as last seen.
    pub so_hint: Hint,
    /// How many objects there are, by the token's own account.
    pub objects: u64,
    /// Grows by one with each change to the token's objects.
    pub generation: u64,
    /// The token that it takes the place of.
    pub replaces: Option<[u8; 16]>,
    /// What the TPM still has to forget: the PIN gate of the token that it took the place of, from
    /// [`Store::activate`] until [`TokenChange::replaced_is_gone`], or one that [`TokenChange::replaced`]
    /// names.
    pub replaced: Option<Vec<u8>>,
}

/// What to change in a token row; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct TokenChange {
    /// Padded with blanks.
    pub label: Option<[u8; 32]>,
    /// The PIN gate.
    pub gate: Option<Vec<u8>>,
    /// The Name of the storage root key.
    pub srk_name: Option<Vec<u8>>,
    /// Whether the user's PIN was ever set.
    pub user_pin_set: Option<bool>,
    /// Whether the user needs no PIN.
    pub pinless: Option<bool>,
    /// A PIN gate that the TPM has to forget: [`TokenRow::replaced`].
    pub replaced: Option<Vec<u8>>,
    /// The TPM has nothing of the replaced token any more.
    pub replaced_is_gone: bool,
}

const SELECT: &str = "SELECT serial, label, state, gate, srk_name, user_pin_set, pinless, \
                      user_count, user_limit, so_count, so_limit, objects, generation, replaces, replaced FROM token";

fn token_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        serial: row.get(0)?,
        label: row.get(1)?,
        state: if row.get::<_, bool>(2)? { TokenState::Active } else { TokenState::Pending },
        gate: row.get(3)?,
        srk_name: row.get(4)?,
        user_pin_set: row.get(5)?,
        pinless: row.get(6)?,
        user_hint: Hint { count: row.get(7)?, limit: row.get(8)? },
        so_hint: Hint { count: row.get(9)?, limit: row.get(10)? },
        objects: row.get::<_, i64>(11)? as u64,
        generation: row.get::<_, i64>(12)? as u64,
        replaces: row.get(13)?,
        replaced: row.get(14)?,
    })
}

fn token(connection: &Connection, serial: &[u8; 16]) -> Result<Option<TokenRow>, Fault> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE serial = ?1"))?;
    Ok(statement.query_row(params![serial], token_row).optional()?)
}

/// All tokens, oldest first. A row that cannot be read is left out and logged.
pub(super) fn tokens(connection: &Connection) -> Result<Vec<TokenRow>, Fault> {
    let mut statement = connection.prepare(&format!("{SELECT} ORDER BY id"))?;
    let mut rows = statement.query([])?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        match token_row(row) {
            Ok(token) => tokens.push(token),
            Err(error) => log::warn!("store: a token row cannot be read: {error}"),
        }
    }
    Ok(tokens)
}

fn delete(transaction: &Transaction<'_>, serial: &[u8; 16]) -> Result<bool, Fault> {
    Ok(transaction.execute("DELETE FROM token WHERE serial = ?1", params![serial])? > 0)
}

impl Store {
    /// All tokens, pending ones too, oldest first. A row that cannot be read is left out and logged.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn tokens(&self) -> Result<Vec<TokenRow>, Fault> {
        Ok(self.read(tokens)?.unwrap_or_default())
    }

    /// The token with this serial number.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn token(&self, serial: &[u8; 16]) -> Result<Option<TokenRow>, Fault> {
        Ok(self.read(|connection| token(connection, serial))?.flatten())
    }

    /// Adds a pending token, without objects. Creates the file and its directory (mode 0700) if
    /// need be. The sealer is that of the new token's secret: it signs the empty set of objects.
    ///
    /// # Errors
    /// [`Fault::WriteProtected`], [`Fault::Full`], [`Fault::Busy`], …; nothing is changed then.
    pub fn insert_token(&self, token: &NewToken, sealer: &Sealer) -> Result<(), Fault> {
        if token.serial != *sealer.serial() {
            return Err(Fault::Bug("the secret of another token"));
        }
        self.create()?;
        self.write(token.gate.len(), |transaction| {
            transaction.execute(
                "INSERT INTO token VALUES (NULL, ?1, ?2, 0, ?3, ?4, ?7, NULL, 0, 0, 0, 0, 0, 0, 0, 0, ?5, \
                 ?6)",
                params![
                    token.serial,
                    token.label,
                    token.gate,
                    token.srk_name,
                    Set::EMPTY.digest(),
                    sealer.set_keeper().sign(&Set::EMPTY),
                    token.replaces
                ],
            )?;
            Ok(())
        })
    }

    /// Changes a token row. Writes nothing if nothing differs.
    ///
    /// # Errors
    /// [`Fault::NoToken`], or why it could not be written.
    pub fn update_token(&self, serial: &[u8; 16], change: &TokenChange) -> Result<(), Fault> {
        let applied = |mut row: TokenRow| {
            row.label = change.label.unwrap_or(row.label);
            row.gate = change.gate.clone().unwrap_or(row.gate);
            row.srk_name = change.srk_name.clone().unwrap_or(row.srk_name);
            row.user_pin_set = change.user_pin_set.unwrap_or(row.user_pin_set);
            row.pinless = change.pinless.unwrap_or(row.pinless);
            row.replaced = change.replaced.clone().or(row.replaced);
            row.replaced = row.replaced.filter(|_| !change.replaced_is_gone);
            row
        };
        self.replace_token(serial, applied)
    }

    /// Makes a pending token active and, in the same commit, removes the one that it replaces with
    /// all its objects; its gate alone is kept, in [`TokenRow::replaced`]. Doing it twice does no harm.
    ///
    /// # Errors
    /// [`Fault::NoToken`] if `serial` is unknown, or why it could not be written.
    pub fn activate(&self, serial: &[u8; 16], retires: Option<&[u8; 16]>) -> Result<(), Fault> {
        self.write(0, |transaction| {
            let activated = transaction.execute(
                "UPDATE token SET state = 1, replaced = coalesce(\
                 (SELECT gate FROM token WHERE serial = ?2 AND serial <> ?1), replaced) \
                 WHERE serial = ?1",
                params![serial, retires],
            )?;
            if activated == 0 {
                return Err(Fault::NoToken);
            }
            if let Some(old) = retires.filter(|old| *old != serial) {
                delete(transaction, old)?;
            }
            Ok(())
        })
    }

    /// Removes a token with all its objects. False if there was none.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn delete_token(&self, serial: &[u8; 16]) -> Result<bool, Fault> {
        if self.token(serial)?.is_none() {
            return Ok(false);
        }
        self.write(0, |transaction| delete(transaction, serial))
    }

    /// Keeps what was seen of the count of wrong PINs; writes only if it differs from what is kept.
    ///
    /// # Errors
    /// [`Fault::NoToken`], or why it could not be written.
    pub fn keep_hint(&self, serial: &[u8; 16], role: Role, hint: Hint) -> Result<(), Fault> {
        self.replace_token(serial, |mut row| {
            match role {
                Role::User => row.user_hint = hint,
                Role::So => row.so_hint = hint,
            }
            row
        })
    }

    /// What was kept about the TPM with this storage root key (maker, algorithms, …); opaque here.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn facts(&self, srk_name: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let facts = self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT facts FROM facts WHERE srk_name = ?1")?;
            Ok(statement.query_row(params![srk_name], |row| row.get(0)).optional()?)
        })?;
        Ok(facts.flatten())
    }

    /// Keeps `facts` for the TPM with this storage root key; writes only if they differ. Does not
    /// create the file.
    ///
    /// # Errors
    /// Why it could not be written; [`Fault::NoToken`] without a file.
    pub fn keep_facts(&self, srk_name: &[u8], facts: &[u8]) -> Result<(), Fault> {
        if self.facts(srk_name)?.as_deref() == Some(facts) {
            return Ok(());
        }
        self.write(facts.len(), |transaction| {
            transaction.execute(
                "INSERT INTO facts VALUES (?1, ?2) \
                 ON CONFLICT (srk_name) DO UPDATE SET facts = excluded.facts",
                params![srk_name, facts],
            )?;
            Ok(())
        })
    }

    /// Writes what `change` makes of the row, if it makes anything else of it.
    fn replace_token(
        &self,
        serial: &[u8; 16],
        change: impl Fn(TokenRow) -> TokenRow,
    ) -> Result<(), Fault> {
        let old = self.token(serial)?.ok_or(Fault::NoToken)?;
        if change(old.clone()) == old {
            return Ok(());
        }
        self.write(old.gate.len(), |transaction| {
            // Read again: somebody else may have written in between.
            let row = change(token(transaction, serial)?.ok_or(Fault::NoToken)?);
            transaction.execute(
                "UPDATE token SET label = ?2, gate = ?3, srk_name = ?4, user_pin_set = ?5, \
                 pinless = ?6, user_count = ?7, user_limit = ?8, so_count = ?9, so_limit = ?10, \
                 replaced = ?11 \
                 WHERE serial = ?1",
                params![
                    serial,
                    row.label,
                    row.gate,
                    row.srk_name,
                    row.user_pin_set,
                    row.pinless,
                    row.user_hint.count,
                    row.user_hint.limit,
                    row.so_hint.count,
                    row.so_hint.limit,
                    row.replaced
                ],
            )?;
            Ok(())
        })
    }
}
