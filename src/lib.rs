#![doc = include_str!("../docs/ARCHITECTURE.md")]

pub mod config;
pub mod error;
pub mod fork;
pub mod log;
pub mod recorder;
pub mod sync;

pub mod crypto;

pub mod store;
pub mod tpm;

pub mod object;

pub mod mechanism;

pub mod token;

pub mod abi;

#[global_allocator]
static HEAP: crypto::secret::Forgetful = crypto::secret::Forgetful;
