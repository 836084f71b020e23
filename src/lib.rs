#![doc = include_str!("../docs/ARCHITECTURE.md")]
// An application's process is not ours to end, nor its output ours to write to. What cannot panic says why
// where it stands.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::dbg_macro
    )
)]

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
