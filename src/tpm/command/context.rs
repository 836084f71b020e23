//! Context management: Part 3 §28.

use super::{Class, Command};
use crate::tpm::execute::Entity;
use crate::tpm::fault::Fault;
use crate::tpm::wire::{Reader, Writer};

/// TPM2_ContextSave: the loaded object or session as bytes for TPM2_ContextLoad, good until the TPM
/// restarts. A saved object stays loaded; a saved session does not.
pub struct ContextSave {
    /// What to save.
    pub handle: u32,
}

impl Command for ContextSave {
    const CODE: u32 = 0x0162;
    const NAME: &'static str = "TPM2_ContextSave";
    const CLASS: Class = Class::Short;
    type Response = Vec<u8>;

    fn write(&self, out: &mut Writer) {
        // A handle, but of a command that allows no session: its Name is never needed.
        out.u32(self.handle);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Vec<u8>, Fault> {
        Ok(input.rest().to_vec())
    }
}

/// TPM2_ContextLoad: the handle of what was saved.
pub struct ContextLoad<'a> {
    /// What [`ContextSave`] gave.
    pub context: &'a [u8],
}

impl Command for ContextLoad<'_> {
    const CODE: u32 = 0x0161;
    const NAME: &'static str = "TPM2_ContextLoad";
    const ANSWERS_HANDLE: bool = true;
    const CLASS: Class = Class::Short;
    type Response = u32;

    fn write(&self, out: &mut Writer) {
        out.bytes(self.context);
    }

    fn read(&self, handle: Option<u32>, _: &mut Reader<'_>) -> Result<u32, Fault> {
        handle.ok_or(Fault::bug("TPM2_ContextLoad without a handle"))
    }
}

/// TPM2_FlushContext: removes a loaded object or a session.
pub struct FlushContext {
    /// What to remove.
    pub handle: u32,
}

impl Command for FlushContext {
    const CODE: u32 = 0x0165;
    const NAME: &'static str = "TPM2_FlushContext";
    const CLASS: Class = Class::Short;
    type Response = ();

    fn write(&self, out: &mut Writer) {
        out.u32(self.handle);
    }

    fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

/// TPM2_EvictControl: makes a loaded object persistent, or removes a persistent one.
pub struct EvictControl<'a> {
    /// TPM_RH_OWNER
    pub owner: &'a Entity,
    /// The loaded object, or the persistent one that goes.
    pub object: &'a Entity,
    /// The persistent handle.
    pub persistent: u32,
}

impl Command for EvictControl<'_> {
    const CODE: u32 = 0x0120;
    const NAME: &'static str = "TPM2_EvictControl";
    const AUTH_HANDLES: usize = 1;
    const CLASS: Class = Class::Normal;
    type Response = ();

    fn handles(&self) -> Vec<&Entity> {
        vec![self.owner, self.object]
    }

    fn write(&self, out: &mut Writer) {
        out.u32(self.persistent);
    }

    fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
        Ok(())
    }
}
