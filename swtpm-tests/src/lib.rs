//! The test bench of tpm11.
//!
//! A test starts a [`Bench`]: a private swtpm, the [`Shim`] in front of it, a store and
//! a configuration, all in one directory that goes away with it. The module is used the way
//! applications use it, through its C door in a process of its own: [`Bench::app`] starts one, and
//! its calls look like local ones. So a test reads from top to bottom, may run several processes,
//! kill them, let them fork, and run beside all other tests.

pub mod abrmd;
pub mod app;
pub mod bench;
pub mod ck;
pub mod door;
pub mod doubt;
pub mod drive;
pub mod front;
pub mod life;
pub mod openssl;
pub mod scene;
pub mod secrets;
pub mod shim;
pub mod spawn;
pub mod swtpm;
pub mod torture;
pub mod wire;

pub use app::App;
pub use bench::{Bench, Setup};
pub use ck::{Attribute, Ck};
pub use scene::Scene;
pub use shim::Shim;
pub use swtpm::Swtpm;

/// Whether `needle` is anywhere in there.
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
