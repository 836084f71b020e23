//! The module between C_Initialize and C_Finalize: its slots and its sessions.

use std::sync::Arc;

use super::session::Session;
use super::{MechanismInfo, SlotInfo, TokenInfo};
use crate::config::{Config, ConfigError};
use crate::error::Result;

/// Everything that C_Initialize makes and C_Finalize ends.
pub struct Module {}

#[allow(unused_variables)]
impl Module {
    /// C_Initialize. Never fails for what it finds: a broken configuration, store or TPM shows as
    /// slots that say so. `threads` is false with CKF_LIBRARY_CANT_CREATE_OS_THREADS. Touches no TPM.
    ///
    /// # Errors
    /// `Device` if the operating system gives no random bytes.
    pub fn new(config: Result<Config, ConfigError>, threads: bool) -> Result<Arc<Self>> {
        todo!()
    }

    /// The session of a handle. Holds no lock afterwards.
    ///
    /// # Errors
    /// `SessionInvalid`
    pub fn session(&self, handle: u64) -> Result<Arc<Session>> {
        todo!()
    }

    /// C_Finalize: cancels what runs, wakes C_WaitForSlotEvent, closes all sessions and ends the
    /// leases. The door has already made the module unreachable for new calls.
    pub fn finalize(&self) {
        todo!()
    }

    /// In a forked child: no input or output, nothing is dropped that would do any.
    pub fn leak(self: Arc<Self>) {
        todo!()
    }

    /// C_GetSlotList: all slot ids in their order. `present` asks for slots with a token only;
    /// the empty slot that C_InitToken takes counts as present, as an uninitialised token does.
    /// `refresh` (a call with a NULL buffer) looks for tokens that other processes made.
    pub fn slot_list(&self, present: bool, refresh: bool) -> Result<Vec<u64>> {
        todo!()
    }

    /// C_GetSlotInfo
    pub fn slot_info(&self, slot: u64) -> Result<SlotInfo> {
        todo!()
    }

    /// C_GetTokenInfo
    pub fn token_info(&self, slot: u64) -> Result<TokenInfo> {
        todo!()
    }

    /// C_GetMechanismList
    pub fn mechanism_list(&self, slot: u64) -> Result<Vec<u64>> {
        todo!()
    }

    /// C_GetMechanismInfo
    pub fn mechanism_info(&self, slot: u64, mechanism: u64) -> Result<MechanismInfo> {
        todo!()
    }

    /// C_InitToken: makes the token, or makes it anew with the SO's PIN.
    pub fn init_token(&self, slot: u64, so_pin: &[u8], label: &[u8; 32]) -> Result<()> {
        todo!()
    }

    /// C_WaitForSlotEvent: the slot where something happened. `block` is CKF_DONT_BLOCK's absence.
    ///
    /// # Errors
    /// `NoEvent`; `NotInitialized` when C_Finalize came meanwhile
    pub fn wait_for_slot_event(&self, block: bool) -> Result<u64> {
        todo!()
    }

    /// C_OpenSession: the handle of a new session. `flags` as the caller gave them.
    pub fn open_session(&self, slot: u64, flags: u64) -> Result<u64> {
        todo!()
    }

    /// C_CloseSession
    pub fn close_session(&self, handle: u64) -> Result<()> {
        todo!()
    }

    /// C_CloseAllSessions
    pub fn close_all_sessions(&self, slot: u64) -> Result<()> {
        todo!()
    }

    /// C_SessionCancel: ends the operations that `flags` (CKF_SIGN, CKF_FIND_OBJECTS, …) name, also
    /// those that another thread is just running.
    pub fn session_cancel(&self, handle: u64, flags: u64) -> Result<()> {
        todo!()
    }
}
