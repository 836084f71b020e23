//! tpm11: the TPM 2.0 of a Linux host as a PKCS#11 token.
//!
//! The floors, each importing only from those below it:
//!
//! ```text
//!  6  abi/        the C door
//!  5  token/      slots, sessions, login, operations in progress, object handles
//!  4  mechanism/  one file per family
//!  3  object/     attributes: one table of rules; templates; search
//!  2  store/      SQLite         tpm/   the TPM 2.0
//!  1  crypto/     host-side mathematics without keys of ours
//!  0  config error log sync
//! ```

pub mod config;
pub mod error;
pub mod log;
pub mod sync;

pub mod crypto;

pub mod store;
pub mod tpm;

pub mod object;

pub mod mechanism;

pub mod token;

pub mod abi;
