//! Token rows: what is known about a token before anybody logs in, and without asking the TPM.

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
}

impl Store {
    /// All tokens, pending ones too, oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn tokens(&self) -> Result<Vec<TokenRow>, Fault> {
        todo!()
    }

    /// The token with this serial number.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn token(&self, serial: &[u8; 16]) -> Result<Option<TokenRow>, Fault> {
        todo!()
    }

    /// Adds a pending token, without objects. Creates the file and its directory (mode 0700) if
    /// need be. The sealer is that of the new token's secret: it signs the empty set of objects.
    ///
    /// # Errors
    /// [`Fault::WriteProtected`], [`Fault::Full`], [`Fault::Busy`], …; nothing is changed then.
    pub fn insert_token(&self, token: &NewToken, sealer: &Sealer) -> Result<(), Fault> {
        todo!()
    }

    /// Changes a token row. Writes nothing if nothing differs.
    ///
    /// # Errors
    /// [`Fault::NoToken`], or why it could not be written.
    pub fn update_token(&self, serial: &[u8; 16], change: &TokenChange) -> Result<(), Fault> {
        todo!()
    }

    /// Makes a pending token active and, in the same commit, removes the one that it replaces with
    /// all its objects. Doing it twice does no harm.
    ///
    /// # Errors
    /// [`Fault::NoToken`] if `serial` is unknown, or why it could not be written.
    pub fn activate(&self, serial: &[u8; 16], retires: Option<&[u8; 16]>) -> Result<(), Fault> {
        todo!()
    }

    /// Removes a token with all its objects. False if there was none.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn delete_token(&self, serial: &[u8; 16]) -> Result<bool, Fault> {
        todo!()
    }

    /// Keeps what was seen of the count of wrong PINs; writes only if it differs from what is kept.
    ///
    /// # Errors
    /// [`Fault::NoToken`], or why it could not be written.
    pub fn keep_hint(&self, serial: &[u8; 16], role: Role, hint: Hint) -> Result<(), Fault> {
        todo!()
    }

    /// What was kept about the TPM with this storage root key (maker, algorithms, …); opaque here.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn facts(&self, srk_name: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        todo!()
    }

    /// Keeps `facts` for the TPM with this storage root key; writes only if they differ. Does not
    /// create the file.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn keep_facts(&self, srk_name: &[u8], facts: &[u8]) -> Result<(), Fault> {
        todo!()
    }
}
