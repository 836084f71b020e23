//! A forked child goes on with what its parent had (`fork_mode = "resume"`): slots, sessions with their
//! operations, handles, session objects and logins keep their numbers and their meaning. What leads out
//! of the process is the child's own: the store's connection, the TPM's with its sessions and loaded
//! keys, the reaper. All locks are new.
//!
//! The parent's module is only read, and what cannot be copied is moved out of this process's image of
//! it; nothing of it is dropped, closed or waited for. What another thread held at the fork is not taken
//! over: an operation in progress is none then, a session or a token's sessions are closed.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::store;

use super::handles::Handles;
use super::module::{Module, Shared, home};
use super::slot::{Holds, Home, Slot, new_serial};
use super::token::Token;

impl Module {
    /// The module of a forked child, made of its parent's. Touches no TPM.
    ///
    /// # Errors
    /// `NotInitialized` if the parent's configuration does not say so; `Device` if the operating system
    /// gives no random bytes.
    pub fn take_over(&self) -> Result<Arc<Self>> {
        let config = self.config().ok_or(Error::NotInitialized)?;
        store::leak();
        let handles = Arc::new(self.handles.in_child()?);
        let homes: Vec<_> =
            config.tpm.iter().map(|tpm| home(config, tpm, self.threads, &handles)).collect();
        let (slots, sessions) = match self.shared.try_lock() {
            Some(shared) => (shared.slots.clone(), shared.sessions.clone()),
            None => (Vec::new(), HashMap::new()),
        };
        let mut heir = Heir { homes: self.homes.iter().zip(&homes).collect(), tokens: Vec::new() };
        let mut shared = Shared { slots: Vec::new(), sessions: HashMap::new() };
        for slot in slots {
            if let Some(holds) = heir.holds(&slot, &handles)? {
                shared.slots.push(Slot::new(slot.id, holds));
            }
        }
        for (handle, session) in sessions {
            let slot = shared.slots.iter().find(|slot| slot.id == session.slot.id);
            if let (Some(slot), Some(token)) = (slot, heir.token(&session.token)) {
                if token.known_state().sessions.contains_key(&handle) {
                    let session = session.in_child(slot.clone(), token.clone());
                    shared.sessions.insert(handle, session);
                }
            }
        }
        // A session of a token that has no handle any more would keep its login open for ever.
        for (_, token) in &heir.tokens {
            let state = &mut *token.known_state();
            state.sessions.retain(|handle, _| shared.sessions.contains_key(handle));
        }
        let module = Self::assemble(Some(config.clone()), self.threads, handles, homes, shared);
        // What was not taken over is found again.
        module.refresh()?;
        log::info!("forked: went on in this process, with {} sessions", module.count_sessions());
        Ok(Arc::new(module))
    }
}

/// What is the parent's, and what took its place.
struct Heir<'a> {
    homes: Vec<(&'a Arc<Home>, &'a Arc<Home>)>,
    tokens: Vec<(Arc<Token>, Arc<Token>)>,
}

impl Heir<'_> {
    fn home(&self, old: &Arc<Home>) -> Option<Arc<Home>> {
        self.homes.iter().find(|(of, _)| Arc::ptr_eq(of, old)).map(|(_, new)| (*new).clone())
    }

    fn token(&self, old: &Arc<Token>) -> Option<&Arc<Token>> {
        self.tokens.iter().find(|(of, _)| Arc::ptr_eq(of, old)).map(|(_, new)| new)
    }

    /// What the slot holds in the child; `None` if another thread held it, or its store cannot be opened.
    fn holds(&mut self, slot: &Slot, handles: &Arc<Handles>) -> Result<Option<Holds>> {
        let token = match slot.try_holds() {
            Some(Holds::Token(token)) => token,
            Some(Holds::Empty { home, .. }) => {
                // Parent and child may each make a token.
                let serial = new_serial(slot.id)?;
                return Ok(self.home(&home).map(|home| Holds::Empty { home, serial }));
            }
            Some(Holds::Broken(_)) | None => return Ok(None),
        };
        let Some(home) = self.home(&token.home) else { return Ok(None) };
        let mut stores = home.places.iter().filter_map(|place| place.store().ok());
        let same = stores.find(|store| store.directory() == token.store.directory());
        let Some(store) = same else { return Ok(None) };
        let new = token.in_child(home.clone(), store, handles.clone());
        Ok(new.map(|new| {
            self.tokens.push((token, new.clone()));
            Holds::Token(new)
        }))
    }
}
