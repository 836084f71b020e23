//! Searching. PKCS#11 3.2 §5.7.8.
//!
//! A search is a snapshot: the rows are found at C_FindObjectsInit, what is created or destroyed
//! afterwards changes nothing in it. No statement of the store stays open in between.

use std::collections::VecDeque;

use cryptoki_sys::{
    CKA_CLASS, CKA_ID, CKA_PUBLIC_KEY_INFO, CKF_FIND_OBJECTS, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY,
};

use crate::error::{Error, Result};
use crate::object::Template;
use crate::object::search::Search;
use crate::tpm::Call;

use super::operation::Kind;
use super::session::Session;
use super::token::content;

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
        let call = self.call(CKF_FIND_OBJECTS);
        let mut operations = self.operations.lock();
        if operations.find.active() {
            return Err(Error::OperationActive);
        }
        operations.find.begin(|| self.matching(template, &call))?;
        operations.last_init = Some(Kind::Find);
        Ok(())
    }

    /// What the session can see and matches now.
    fn matching(&self, template: &Template, call: &Call) -> Result<Found> {
        let search = Search::new(template);
        if search.empty {
            return Ok(Found {
                epoch: self.token.epoch(),
                handles: VecDeque::new(),
                rows: VecDeque::new(),
            });
        }
        let opened = match self.token.open(call) {
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
    }

    /// The CKA_ID that a certificate with this public key (CKA_PUBLIC_KEY_INFO) gets: that of its key,
    /// if the session can see one that has any. Clients pair the two by it.
    pub(super) fn id_of_key(&self, public_key_info: &[u8]) -> Result<Option<Vec<u8>>> {
        for class in [CKO_PRIVATE_KEY, CKO_PUBLIC_KEY] {
            let template = Template::new()
                .with_ulong(CKA_CLASS, class)
                .with(CKA_PUBLIC_KEY_INFO, public_key_info);
            let mut found = self.matching(&template, &self.call(0))?;
            for handle in self.handles(&mut found, usize::MAX)? {
                // (One that is destroyed meanwhile has none.)
                let Ok(key) = self.token.object(handle) else { continue };
                if let Some(id) = key.attributes.get(CKA_ID).filter(|id| !id.is_empty()) {
                    return Ok(Some(id.to_vec()));
                }
            }
        }
        Ok(None)
    }

    /// C_FindObjects: at most `most` more handles
    ///
    /// # Errors
    /// `OperationNotInitialized`; the store's.
    pub fn find_objects(&self, most: usize) -> Result<Vec<u64>> {
        self.alive()?;
        let mut operations = self.operations.lock();
        operations.find.update(|found| self.handles(found, most))
    }

    /// At most `most` more handles of what was found and can still be seen.
    fn handles(&self, found: &mut Found, most: usize) -> Result<Vec<u64>> {
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
            let private = row.private();
            if private && !(same_login && state.user()) {
                continue;
            }
            // Read once: whoever searches looks at what he found.
            let opened = state.opened.clone();
            let object = match content(row, opened.as_deref()) {
                Ok(Some(object)) => object,
                Ok(None) => continue,
                Err(error) => {
                    log::warn!("token {}: {error}", self.token.name());
                    continue;
                }
            };
            let handle = self.token.stored_handle(&mut state, id, private)?;
            state.objects.keep_content(handle, &object);
            handles.push(handle);
        }
        Ok(handles)
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
