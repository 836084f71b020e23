//! Searching. PKCS#11 3.2 §5.7.8.
//!
//! A search is a snapshot: the rows are found at C_FindObjectsInit, what is created or destroyed
//! afterwards changes nothing in it. No statement of the store stays open in between.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::object::Template;
use crate::object::search::Search;

use super::operation::Kind;
use super::session::Session;

/// A search in progress: what was found and not yet told.
pub(super) struct Found {
    epoch: u64,
    handles: VecDeque<u64>,
    rows: VecDeque<i64>,
}

impl Session {
    /// C_FindObjectsInit. What is unknown matches nothing. Costs no TPM command, unless the token
    /// has no user PIN: then the first search has the TPM open the private objects, or goes without
    /// them if the TPM cannot.
    ///
    /// # Errors
    /// `OperationActive`; the store's.
    pub fn find_objects_init(&self, template: &Template) -> Result<()> {
        self.alive()?;
        let call = self.call(cryptoki_sys::CKF_FIND_OBJECTS);
        let mut operations = self.operations.lock();
        operations.find.begin(|| {
            let search = Search::new(template);
            if search.empty {
                return Ok(Found {
                    epoch: self.token.epoch(),
                    handles: VecDeque::new(),
                    rows: VecDeque::new(),
                });
            }
            let opened = match self.token.open(&call) {
                Ok(opened) => Some(opened),
                Err(Error::NotLoggedIn) => None,
                Err(error) if self.token.state()?.row.pinless => {
                    log::warn!("token {}: private objects stay closed: {error}", self.token.name());
                    None
                }
                Err(error) => return Err(error),
            };
            let (user, epoch, handles) = {
                let state = self.token.state()?;
                let user = state.user();
                let handles = state
                    .objects
                    .of_sessions()
                    .filter(|(_, object)| (user || !object.private()) && search.matches(object))
                    .map(|(handle, _)| handle)
                    .collect();
                (user, self.token.epoch(), handles)
            };
            let sealer = opened.as_ref().filter(|_| user).map(|opened| &opened.sealer);
            let rows = self.token.store.find(&self.token.serial, sealer, &search.wanted)?;
            Ok(Found { epoch, handles, rows: rows.into() })
        })?;
        operations.last_init = Some(Kind::Find);
        Ok(())
    }

    /// C_FindObjects: at most `most` more handles
    ///
    /// # Errors
    /// `OperationNotInitialized`; the store's.
    pub fn find_objects(&self, most: usize) -> Result<Vec<u64>> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.find.update(|found| {
            let mut handles = Vec::new();
            let mut state = self.token.state()?;
            let same_login = found.epoch == self.token.epoch();
            while handles.len() < most {
                if let Some(handle) = found.handles.pop_front() {
                    if state.objects.place(handle).is_some() {
                        handles.push(handle);
                    }
                    continue;
                }
                let Some(id) = found.rows.pop_front() else { break };
                if let Some(handle) = state.objects.handle_of(id) {
                    handles.push(handle);
                    continue;
                }
                let Some(row) = self.token.store.row(&self.token.serial, id)? else { continue };
                if row.private() && !(same_login && state.user()) {
                    continue;
                }
                handles.push(self.token.stored_handle(&mut state, id, row.private())?);
            }
            Ok(handles)
        })
    }

    /// C_FindObjectsFinal
    ///
    /// # Errors
    /// `OperationNotInitialized`
    pub fn find_objects_final(&self) -> Result<()> {
        self.alive()?;
        self.operations.lock().find.last(|_| Ok(()))
    }
}
