//! The storage root key: find it, check that it is sound, create it if need be, and compare its
//! Name with the one that the token pinned, before any secret is sent under it.
//! TPM 2.0 Part 1 §14 (Names), §26; TCG TPM v2.0 Provisioning Guidance §7.5.1.

use super::Name;

/// A storage key whose Name was computed from its public area in this process and compared with
/// the pinned one (or is about to be pinned). The only thing that a session is salted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    handle: u32,
    name: Name,
    public: Vec<u8>,
}

impl Pinned {
    /// Its handle: persistent, or transient and then good for this connection only.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Its Name, computed here from the public area.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its marshalled TPMT_PUBLIC.
    pub fn public(&self) -> &[u8] {
        &self.public
    }
}
