//! Finding objects by their attributes, through the index alone.

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

use super::seal::{self, Sealer};
use super::{Fault, Row, Store, rows};

/// How many attributes of a template go into the query; the hits are compared with all of them.
const MOST_TERMS: usize = 8;

impl Store {
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
        let found = self.read(|connection| {
            let Some(token) = rows::token_id(connection, serial)? else { return Ok(Vec::new()) };
            if template.is_empty() {
                return all(connection, token, sealer.is_some());
            }
            let mut hits = Vec::new();
            for id in candidates(connection, token, sealer, template)? {
                if self.fits(connection, token, id, sealer, template)? {
                    hits.push(id);
                }
            }
            Ok(hits)
        })?;
        Ok(found.unwrap_or_default())
    }

    /// Whether a key with this TPM Name is stored here, in any token.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn knows(&self, name: &[u8]) -> Result<bool, Fault> {
        let known = self.read(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT 1 FROM object WHERE name = ?1 AND length(name) > 0")?;
            Ok(statement.exists(params![name])?)
        })?;
        Ok(known.unwrap_or(false))
    }

    /// Compares a candidate of the index with what the row itself says.
    fn fits(
        &self,
        connection: &Connection,
        token: i64,
        id: i64,
        sealer: Option<&Sealer>,
        template: &[(u64, Vec<u8>)],
    ) -> Result<bool, Fault> {
        let Some(unchecked) = rows::read(connection, token, id)? else { return Ok(false) };
        let row = match (unchecked, sealer) {
            (Err(fault), _) => Err(fault),
            (Ok(unchecked), Some(sealer)) => {
                seal::check(unchecked, sealer).map(|row| Some(row.into_inner()))
            }
            (Ok(unchecked), None) => unchecked.unauthenticated(),
        };
        match row {
            Ok(row) => Ok(row.is_some_and(|row| has(&row, template))),
            Err(fault @ Fault::BadRow { .. }) => {
                self.name_once(id, &fault);
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }
}

fn has(row: &Row, template: &[(u64, Vec<u8>)]) -> bool {
    template.iter().all(|(kind, value)| row.attributes.get(kind) == Some(value))
}

fn all(connection: &Connection, token: i64, private: bool) -> Result<Vec<i64>, Fault> {
    let sql = if private {
        "SELECT id FROM object WHERE token = ?1 ORDER BY id"
    } else {
        "SELECT id FROM object WHERE token = ?1 AND private = 0 ORDER BY id"
    };
    let mut statement = connection.prepare(sql)?;
    let ids = statement.query_map(params![token], |row| row.get(0))?;
    ids.collect::<Result<_, _>>().map_err(Fault::from)
}

/// What the index offers for the first attributes of the template.
fn candidates(
    connection: &Connection,
    token: i64,
    sealer: Option<&Sealer>,
    template: &[(u64, Vec<u8>)],
) -> Result<Vec<i64>, Fault> {
    let mut sql = String::new();
    let mut values = vec![Value::Integer(token)];
    for (kind, value) in template.iter().take(MOST_TERMS) {
        if !sql.is_empty() {
            sql.push_str(" INTERSECT ");
        }
        sql.push_str(
            "SELECT object FROM attribute WHERE token = ?1 AND type = ? AND value IN (?, ?)",
        );
        values.push(Value::Integer(*kind as i64));
        let plain = seal::plain(value);
        // Without a secret, the same value twice.
        values.push(Value::Blob(
            sealer.map_or_else(|| plain.clone(), |sealer| sealer.hidden(*kind, value)),
        ));
        values.push(Value::Blob(plain));
    }
    sql.push_str(" ORDER BY 1");
    let mut statement = connection.prepare(&sql)?;
    let ids = statement.query_map(params_from_iter(values), |row| row.get(0))?;
    ids.collect::<Result<_, _>>().map_err(Fault::from)
}
