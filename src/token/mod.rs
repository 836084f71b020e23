//! Floor 5: what a token is. Slots, sessions, login, operations in progress, object handles.
//!
//! One method per `C_` function, named as the function is: those that take a slot (or nothing) are
//! methods of [`Module`], those that take a session are methods of [`Session`]. The door asks
//! [`Module::session`] for the session and calls the one method; no layer lies between.
//!
//! Four ranks of locks, checked in debug builds (`sync.rs`): the session map, a session, a token,
//! and as equal leaves the store and the TPM. A session's lock is held for the whole call, the
//! token's for moments; nothing that verifying, digesting or encrypting needs is held while
//! another thread waits for the TPM.

mod create;
pub mod derive;
mod digest;
mod dual;
mod encrypt;
pub mod find;
pub mod handles;
pub mod keys;
pub mod login;
pub mod message;
pub mod module;
pub mod objects;
pub mod operation;
pub mod recover;
mod resume;
pub mod session;
mod sign;
pub mod slot;
#[allow(clippy::module_inception)]
pub mod token;
mod travel;
pub mod trust;
mod verify;
mod wrap;

pub use crate::object::Template;
pub use module::Module;
pub use operation::{Answer, Kind, Room};
pub use session::Session;

/// What C_GetSlotInfo tells. PKCS#11 3.2 §3.2 (CK_SLOT_INFO).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// UTF-8, blank padded.
    pub description: [u8; 64],
    /// UTF-8, blank padded.
    pub manufacturer: [u8; 32],
    /// CKF_TOKEN_PRESENT, CKF_HW_SLOT, …
    pub flags: u64,
    /// Major and minor.
    pub hardware_version: (u8, u8),
    /// Major and minor.
    pub firmware_version: (u8, u8),
}

/// What C_GetTokenInfo tells. PKCS#11 3.2 §3.2 (CK_TOKEN_INFO).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// UTF-8, blank padded.
    pub label: [u8; 32],
    /// UTF-8, blank padded.
    pub manufacturer: [u8; 32],
    /// UTF-8, blank padded.
    pub model: [u8; 16],
    /// ASCII hex digits.
    pub serial: [u8; 16],
    /// CKF_LOGIN_REQUIRED, CKF_TOKEN_INITIALIZED, …
    pub flags: u64,
    /// CK_EFFECTIVELY_INFINITE
    pub max_sessions: u64,
    /// Open sessions of this process.
    pub sessions: u64,
    /// CK_EFFECTIVELY_INFINITE
    pub max_rw_sessions: u64,
    /// Open read/write sessions of this process.
    pub rw_sessions: u64,
    /// Bytes.
    pub max_pin_bytes: u64,
    /// Bytes.
    pub min_pin_bytes: u64,
    /// Bytes, or CK_UNAVAILABLE_INFORMATION; so the next three.
    pub total_public_memory: u64,
    /// See above.
    pub free_public_memory: u64,
    /// See above.
    pub total_private_memory: u64,
    /// See above.
    pub free_private_memory: u64,
    /// Major and minor.
    pub hardware_version: (u8, u8),
    /// Major and minor.
    pub firmware_version: (u8, u8),
    /// Blank: the token has no clock (CKF_CLOCK_ON_TOKEN is clear).
    pub utc_time: [u8; 16],
}

/// What C_GetSessionInfo tells. PKCS#11 3.2 §3.3 (CK_SESSION_INFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionInfo {
    /// The slot's id.
    pub slot: u64,
    /// CKS_…
    pub state: u64,
    /// CKF_SERIAL_SESSION, CKF_RW_SESSION
    pub flags: u64,
    /// The TPM's last response code that was a failure in this slot, 0 if none.
    pub device_error: u64,
}

/// What C_GetMechanismInfo tells. PKCS#11 3.2 §3.5 (CK_MECHANISM_INFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MechanismInfo {
    /// Smallest key, in the mechanism's own unit.
    pub min_key_size: u64,
    /// Largest key, in the mechanism's own unit.
    pub max_key_size: u64,
    /// CKF_HW, CKF_SIGN, …
    pub flags: u64,
}
