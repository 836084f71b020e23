//! A token as this process sees it: its row, who is logged in, and which objects have handles.
//!
//! Its lock is held for moments, for reads of the store at most; never while the TPM works. What an
//! operation needs it takes out under the lock, then works without it.

use std::sync::Arc;

use crate::crypto::secret::Secret;
use crate::error::{Error, Result};
use crate::object::{Object, Setting, row};
use crate::store::{self, Sealer, Store, TokenRow, TokenState, Unchecked, seal};
use crate::sync::plain::atomic::{AtomicU64, Ordering};
use crate::sync::{Guard, Mutex, Rank};
use crate::tpm::facts::Facts;
use crate::tpm::pin::{Gate, Role};
use crate::tpm::{Call, Name};

use super::handles::Handles;
use super::objects::{Objects, Place};
use super::slot::Home;

/// An initialised token.
pub struct Token {
    /// 16 hexadecimal digits.
    pub serial: [u8; 16],
    /// Its TPM and settings.
    pub home: Arc<Home>,
    /// Where its rows are.
    pub store: Arc<Store>,
    handles: Arc<Handles>,
    /// Counts what ends the use of private keys: logout, a token that is gone. An operation with a
    /// private key remembers the number it began under.
    epoch: AtomicU64,
    /// One login, logout or change of PIN at a time; held while the TPM works, so it ranks with the
    /// sessions.
    pub(super) turn: Mutex<()>,
    state: Mutex<State>,
}

/// Who is logged in. All sessions of a process with a token share it. PKCS#11 3.2 §5.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Public sessions.
    Nobody,
    /// The normal user.
    User,
    /// The security officer.
    So,
}

/// What a login opened.
pub struct Opened {
    /// Keys for the rows.
    pub sealer: Sealer,
    /// For the SO: what C_InitPIN needs besides the session.
    pub so: Option<SoSecrets>,
}

/// What the SO's seal holds.
pub struct SoSecrets {
    /// The token secret, 32 bytes: it is sealed anew when the user's seal changes.
    pub token_secret: Secret,
    /// The write authority over the PIN indices, 32 bytes; none with the fallback gate.
    pub write_authority: Option<Secret>,
}

/// What the token's lock protects.
pub(super) struct State {
    /// As last read.
    pub(super) row: TokenRow,
    /// The row's gate, understood.
    pub(super) gate: Arc<Gate>,
    /// The row's storage root key.
    pub(super) srk: Arc<Name>,
    facts: Option<Arc<Facts>>,
    /// The store's change number when the row was read; none if that was not noted.
    change: Option<u64>,
    /// Another process removed or re-initialised the token.
    gone: bool,
    pub(super) who: Who,
    pub(super) opened: Option<Arc<Opened>>,
    /// Open sessions: handle, and whether read/write.
    pub(super) sessions: std::collections::BTreeMap<u64, bool>,
    pub(super) objects: Objects,
}

/// What an operation takes along from the token.
#[derive(Clone)]
pub struct Anchor {
    /// The storage root key of its keys.
    pub srk: Arc<Name>,
    /// What its TPM can, as far as the store knows.
    pub facts: Option<Arc<Facts>>,
}

impl Token {
    /// The token of an active row.
    ///
    /// # Errors
    /// `TokenNotRecognized` if the row's gate is none of ours; the store's.
    pub fn new(
        home: Arc<Home>,
        store: Arc<Store>,
        handles: Arc<Handles>,
        row: TokenRow,
    ) -> Result<Arc<Self>> {
        let gate = gate(&row)?;
        let srk = Arc::new(row.srk_name.clone());
        let facts = facts(&home, &store, &row);
        Ok(Arc::new(Self {
            serial: row.serial,
            home,
            store,
            handles,
            epoch: AtomicU64::new(0),
            turn: Mutex::new(Rank::Session, ()),
            state: Mutex::new(
                Rank::Token,
                State {
                    gate,
                    srk,
                    facts,
                    row,
                    change: None,
                    gone: false,
                    who: Who::Nobody,
                    opened: None,
                    sessions: std::collections::BTreeMap::new(),
                    objects: Objects::default(),
                },
            ),
        }))
    }

    /// The token of a forked child, made of its parent's: who is logged in there is logged in here.
    /// `None` if another thread held the state at the fork.
    pub(super) fn in_child(
        &self,
        home: Arc<Home>,
        store: Arc<Store>,
        handles: Arc<Handles>,
    ) -> Option<Arc<Self>> {
        let mut old = self.state.try_lock()?;
        if let Some(opened) = &old.opened {
            opened.in_child();
        }
        let state = State {
            row: old.row.clone(),
            gate: old.gate.clone(),
            srk: old.srk.clone(),
            facts: old.facts.clone(),
            // The numbers of another connection mean nothing here.
            change: None,
            gone: old.gone,
            who: old.who,
            opened: old.opened.clone(),
            sessions: old.sessions.clone(),
            objects: std::mem::take(&mut old.objects),
        };
        Some(Arc::new(Self {
            serial: self.serial,
            home,
            store,
            handles,
            epoch: AtomicU64::new(self.epoch()),
            turn: Mutex::new(Rank::Session, ()),
            state: Mutex::new(Rank::Token, state),
        }))
    }

    /// The token's state as it is now: what other processes committed is seen.
    ///
    /// # Errors
    /// `Device` once, then `TokenNotRecognized`, if another process removed or re-initialised it;
    /// the store's.
    pub(super) fn state(&self) -> Result<Guard<'_, State>> {
        let mut state = self.state.lock();
        if state.gone {
            return Err(gone());
        }
        // Asked before the row is read, which may then be newer than this says: never older.
        let change = Some(self.store.change()?);
        if change == state.change {
            return Ok(state);
        }
        match self.store.token(&self.serial)? {
            Some(row) if row.state == TokenState::Active => {
                if row.gate != state.row.gate {
                    state.gate = gate(&row)?;
                }
                if row.srk_name != *state.srk {
                    state.srk = Arc::new(row.srk_name.clone());
                }
                if state.facts.is_none() {
                    state.facts = facts(&self.home, &self.store, &row);
                }
                state.row = row;
                state.change = change;
                state.objects.forget_content();
                if state.who == Who::Nobody && !state.row.pinless && state.opened.is_some() {
                    // The SO has given the user a PIN: what lay open is closed again.
                    self.close(&mut state);
                }
                Ok(state)
            }
            _ => {
                self.close(&mut state);
                state.gone = true;
                log::warn!("token {}: removed or initialised anew by another program", self.name());
                Err(Error::Device(
                    "the token was removed or initialised anew by another program; its keys are \
                     gone"
                        .into(),
                ))
            }
        }
    }

    /// Who asks, and which rules hold, for the attributes of objects.
    ///
    /// # Errors
    /// As [`Token::state`].
    pub(super) fn setting(&self) -> Result<Setting> {
        Ok(self.state()?.setting(&self.home))
    }

    /// The token's state without looking at the store: for what must also work when it is gone.
    pub(super) fn known_state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    /// The serial number as text.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.serial).into_owned()
    }

    /// The number under which private keys may be used now.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Ends what a login opened: private objects lose their handles for ever, private session
    /// objects are destroyed, operations with private keys end at their next step.
    pub(super) fn close(&self, state: &mut State) {
        state.who = Who::Nobody;
        state.opened = None;
        state.objects.forget_private();
        state.objects.forget_content();
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// What operations with this token's TPM take along.
    pub(super) fn anchor(&self) -> Anchor {
        let state = self.state.lock();
        Anchor { srk: state.srk.clone(), facts: state.facts.clone() }
    }

    /// What the TPM was found to be and to offer.
    pub(super) fn set_facts(&self, facts: Facts) {
        self.state.lock().facts = Some(Arc::new(facts));
    }

    /// What the TPM is and offers, if the store knows.
    pub fn facts(&self) -> Option<Arc<Facts>> {
        self.state.lock().facts.clone()
    }

    /// What the login opened. On a token without user PIN the TPM opens it now, for whoever asks.
    ///
    /// # Errors
    /// `NotLoggedIn`; the TPM's.
    pub(super) fn open(&self, call: &Call) -> Result<Arc<Opened>> {
        let gate = {
            let state = self.state()?;
            if let Some(opened) = &state.opened {
                return Ok(opened.clone());
            }
            if !state.user() {
                return Err(Error::NotLoggedIn);
            }
            state.gate.clone()
        };
        let secret = self.home.tpm.open_without_pin(call, &gate)?;
        let opened =
            Arc::new(Opened { sealer: Sealer::new(&secret.token_secret, &self.serial), so: None });
        let mut state = self.state()?;
        if !state.user() {
            return Err(Error::NotLoggedIn);
        }
        // Another thread may have been faster; both opened the same secret.
        let opened = state.opened.get_or_insert(opened).clone();
        state.objects.forget_content();
        Ok(opened)
    }

    /// The object of a handle, if it is visible now.
    ///
    /// # Errors
    /// `ObjectInvalid`; `Device` if the row was altered outside of the token; the store's.
    pub(super) fn object(&self, handle: u64) -> Result<Object> {
        let mut state = self.state()?;
        let user = state.user();
        let opened = state.opened.clone();
        let id = match state.objects.place(handle) {
            Some(Place::Session { object, .. }) if user || !object.private() => {
                return Ok(object.clone());
            }
            Some(Place::Stored { id, private, content }) if user || !private => match content {
                Some(object) => return Ok(object.clone()),
                None => *id,
            },
            _ => return Err(Error::ObjectInvalid),
        };
        let Some(unchecked) = self.store.row(&self.serial, id)? else {
            state.objects.forget(handle);
            return Err(Error::ObjectInvalid);
        };
        let object = content(unchecked, opened.as_deref())?.ok_or(Error::ObjectInvalid)?;
        state.objects.keep_content(handle, &object);
        Ok(object)
    }

    /// A session object, for as long as the session lives.
    pub(super) fn add_session_object(&self, session: u64, object: Object) -> Result<u64> {
        let handle = self.handles.next()?;
        let mut state = self.state.lock();
        if !state.sessions.contains_key(&session) {
            return Err(Error::SessionClosed);
        }
        if object.private() && !state.user() {
            return Err(Error::NotLoggedIn);
        }
        state.objects.add(handle, Place::Session { object, session });
        Ok(handle)
    }

    /// The handle of a stored object: the same one as long as it is visible.
    pub(super) fn stored_handle(&self, state: &mut State, id: i64, private: bool) -> Result<u64> {
        if let Some(handle) = state.objects.handle_of(id) {
            return Ok(handle);
        }
        let handle = self.handles.next()?;
        state.objects.add(handle, Place::Stored { id, private, content: None });
        Ok(handle)
    }

    /// Whether the token can be written.
    ///
    /// # Errors
    /// `TokenWriteProtected`
    pub(super) fn writable(&self) -> Result<()> {
        Ok(self.store.writable()?)
    }
}

impl Opened {
    /// A forked child's copy: not swapped either.
    fn in_child(&self) {
        self.sealer.in_child();
        if let Some(so) = &self.so {
            so.token_secret.lock();
            so.write_authority.iter().for_each(Secret::lock);
        }
    }
}

impl State {
    /// Whether private objects may be used: the user is logged in, or needs no PIN.
    pub(super) fn user(&self) -> bool {
        match self.who {
            Who::User => true,
            Who::Nobody => self.row.pinless,
            Who::So => false,
        }
    }

    /// Who asks, for the rules of attributes.
    pub(super) fn setting(&self, home: &Home) -> Setting {
        Setting {
            user: self.user(),
            so: self.who == Who::So,
            policy: home.policy,
            dates: home.dates,
        }
    }

    /// Whether a read-only session is open.
    pub(super) fn has_read_only_session(&self) -> bool {
        self.sessions.values().any(|writable| !writable)
    }
}

/// The object of a row: proven to be its owner's where a login gives the means to; `None` if it is
/// private and nobody is logged in.
///
/// # Errors
/// `Device` if the row was altered outside of the token.
pub(super) fn content(row: Unchecked, opened: Option<&Opened>) -> Result<Option<Object>> {
    match opened {
        Some(opened) => Ok(Some(row::object(seal::check(row, &opened.sealer)?, &opened.sealer)?)),
        None => Ok(row.unauthenticated()?.map(row::unauthenticated)),
    }
}

fn gate(row: &TokenRow) -> Result<Arc<Gate>> {
    Gate::from_bytes(&row.gate).map(Arc::new).ok_or_else(|| {
        Error::TokenNotRecognized(
            "the token's PIN gate is damaged, or of a newer version of tpm11".into(),
        )
    })
}

/// What the store knows about the TPM. A damaged note is no note.
fn facts(home: &Home, store: &Store, row: &TokenRow) -> Option<Arc<Facts>> {
    let bytes = store.facts(&row.srk_name).ok().flatten()?;
    let facts = Facts::from_bytes(&bytes)?;
    home.tpm.learn(&facts);
    Some(Arc::new(facts))
}

fn gone() -> Error {
    Error::TokenNotRecognized("the token was removed or initialised anew by another program".into())
}

impl From<Role> for store::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::User => store::Role::User,
            Role::So => store::Role::So,
        }
    }
}
