//! Keys that enter and leave: Part 3 §13 (duplication commands).

use tss_esapi::constants::tss::{TPM2_ALG_AES, TPM2_ALG_CFB, TPM2_ALG_NULL};

use super::{Class, Command};
use crate::tpm::execute::Entity;
use crate::tpm::fault::Fault;
use crate::tpm::wire::{Reader, Writer};

/// TPMT_SYM_DEF_OBJECT of the inner wrapper: AES-128-CFB, which every TPM has for its sessions, or none.
fn write_inner(out: &mut Writer, inner: Option<&[u8; 16]>) {
    match inner {
        Some(_) => out.u16(TPM2_ALG_AES).u16(128).u16(TPM2_ALG_CFB),
        None => out.u16(TPM2_ALG_NULL),
    };
}

/// TPM2_Duplicate: the key's secret part for another storage key. Needs a policy session that was met
/// with TPM2_PolicyCommandCode (DUP role); the chip refuses what is fixedParent.
pub struct Duplicate<'a> {
    /// The loaded key.
    pub key: &'a Entity,
    /// The loaded public part of a storage key; TPM_RH_NULL: then there is no outer wrapper.
    pub parent: &'a Entity,
    /// The key of the inner wrapper, ours. The duplicate is the second parameter of the response, so that no
    /// session encrypts it: without an outer wrapper this alone does.
    pub inner: Option<&'a [u8; 16]>,
}

/// What TPM2_Duplicate answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicated {
    /// Content of TPM2B_PRIVATE, in its wrappers.
    pub private: Vec<u8>,
    /// Content of TPM2B_ENCRYPTED_SECRET, the seed of the outer wrapper; empty if there is none.
    pub seed: Vec<u8>,
}

impl Command for Duplicate<'_> {
    const CODE: u32 = 0x014B;
    const NAME: &'static str = "TPM2_Duplicate";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Duplicated;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.key, self.parent]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.inner.map_or(&[], |key| key));
        write_inner(out, self.inner);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Duplicated, Fault> {
        // The inner wrapper's key, if the TPM made it.
        input.sized()?;
        Ok(Duplicated { private: input.sized()?.to_vec(), seed: input.sized()?.to_vec() })
    }
}

/// TPM2_Import: what TPM2_Duplicate gave, or was built like that, as the content of TPM2B_PRIVATE under a
/// storage key of this TPM. Neither fixedTPM nor fixedParent can be set.
pub struct Import<'a> {
    /// The storage key.
    pub parent: &'a Entity,
    /// The key of the inner wrapper.
    pub inner: Option<&'a [u8; 16]>,
    /// Marshalled TPMT_PUBLIC.
    pub public: &'a [u8],
    /// Content of TPM2B_PRIVATE, in its wrappers.
    pub duplicate: &'a [u8],
    /// Content of TPM2B_ENCRYPTED_SECRET; empty if there is no outer wrapper.
    pub seed: &'a [u8],
}

impl Command for Import<'_> {
    const CODE: u32 = 0x0156;
    const NAME: &'static str = "TPM2_Import";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Vec<u8>;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.parent]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.inner.map_or(&[], |key| key)).sized(self.public);
        out.sized(self.duplicate).sized(self.seed);
        write_inner(out, self.inner);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Vec<u8>, Fault> {
        Ok(input.sized()?.to_vec())
    }
}
