//! Non-volatile storage: Part 3 §31.

use tss_esapi::constants::tss::TPM2_ALG_SHA256;
use zeroize::Zeroizing;

use super::{Class, Command};
use crate::tpm::Name;
use crate::tpm::execute::Entity;
use crate::tpm::fault::{Fault, Trouble};
use crate::tpm::session::sha256;
use crate::tpm::wire::{Reader, Writer};

/// TPMS_NV_PUBLIC of an index whose nameAlg is SHA-256. Part 2 §13.6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvPublic {
    /// Its number.
    pub index: u32,
    /// TPMA_NV
    pub attributes: u32,
    /// authPolicy
    pub policy: Vec<u8>,
    /// Bytes of data.
    pub size: u16,
}

impl NvPublic {
    /// TPMA_NV_WRITTEN: set by the first TPM2_NV_Write, and part of the Name.
    pub const WRITTEN: u32 = 1 << 29;

    /// Marshalled TPMS_NV_PUBLIC.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u32(self.index).u16(TPM2_ALG_SHA256).u32(self.attributes);
        out.sized(&self.policy).u16(self.size);
        out.as_slice().to_vec()
    }

    /// Its Name. Part 1 §16.
    pub fn name(&self) -> Name {
        name_of_nv(&self.to_bytes())
    }

    /// The same index once written.
    pub fn written(&self) -> Self {
        Self { attributes: self.attributes | Self::WRITTEN, ..self.clone() }
    }

    /// As the handle of a command.
    pub fn entity(&self) -> Entity {
        Entity { handle: self.index, name: self.name() }
    }
}

fn name_of_nv(public: &[u8]) -> Name {
    let mut name = TPM2_ALG_SHA256.to_be_bytes().to_vec();
    name.extend_from_slice(&sha256(&[public]));
    name
}

/// TPM2_NV_DefineSpace
pub struct NvDefineSpace<'a> {
    /// TPM_RH_OWNER
    pub owner: &'a Entity,
    /// The index's authorization value.
    pub authorization: &'a [u8],
    /// What it shall be.
    pub public: &'a NvPublic,
}

impl Command for NvDefineSpace<'_> {
    const CODE: u32 = 0x012A;
    const NAME: &'static str = "TPM2_NV_DefineSpace";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = ();

    fn handles(&self) -> Vec<&Entity> {
        vec![self.owner]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.authorization).sized(&self.public.to_bytes());
    }

    fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

/// TPM2_NV_UndefineSpace
pub struct NvUndefineSpace<'a> {
    /// TPM_RH_OWNER
    pub owner: &'a Entity,
    /// The index that goes.
    pub index: &'a Entity,
}

impl Command for NvUndefineSpace<'_> {
    const CODE: u32 = 0x0122;
    const NAME: &'static str = "TPM2_NV_UndefineSpace";
    const AUTH_HANDLES: usize = 1;
    const CLASS: Class = Class::Normal;
    type Response = ();

    fn handles(&self) -> Vec<&Entity> {
        vec![self.owner, self.index]
    }

    fn write(&self, _: &mut Writer) {}

    fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

/// TPM2_NV_ReadPublic: the Name, and the public area of an index whose nameAlg is SHA-256 (the Name was
/// computed from it here and compared). An index of another nameAlg is none of ours.
pub struct NvReadPublic {
    /// The index. Its Name matters only if a session protects the answer.
    pub index: Entity,
}

impl NvReadPublic {
    /// Of an index whose Name is not known yet: without a session.
    pub fn of(index: u32) -> Self {
        Self { index: Entity::permanent(index) }
    }
}

impl Command for NvReadPublic {
    const CODE: u32 = 0x0169;
    const NAME: &'static str = "TPM2_NV_ReadPublic";
    const CLASS: Class = Class::Short;
    const SECRET_OUT: bool = true;
    type Response = (Name, Option<NvPublic>);

    fn handles(&self) -> Vec<&Entity> {
        vec![&self.index]
    }

    fn write(&self, _: &mut Writer) {}

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        let bytes = input.sized()?;
        let name = input.sized()?;
        let mut public = Reader::new(bytes);
        let index = public.u32()?;
        let algorithm = public.u16()?;
        let attributes = public.u32()?;
        let policy = public.sized()?.to_vec();
        let size = public.u16()?;
        public.end()?;
        if algorithm != TPM2_ALG_SHA256 {
            return Ok((name.to_vec(), None));
        }
        if name_of_nv(bytes) != name || index != self.index.handle {
            return Err(Fault::new(Trouble::Tampered("a Name that is not that of the NV index")));
        }
        Ok((name.to_vec(), Some(NvPublic { index, attributes, policy, size })))
    }
}

/// TPM2_NV_Write from the beginning of the index.
pub struct NvWrite<'a> {
    /// Who authorizes it: the index itself.
    pub authorizes: &'a Entity,
    /// The index.
    pub index: &'a Entity,
    /// What to write.
    pub data: &'a [u8],
}

impl Command for NvWrite<'_> {
    const CODE: u32 = 0x0137;
    const NAME: &'static str = "TPM2_NV_Write";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = ();

    fn handles(&self) -> Vec<&Entity> {
        vec![self.authorizes, self.index]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.data).u16(0);
    }

    fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

/// TPM2_NV_Read from the beginning of the index.
pub struct NvRead<'a> {
    /// Who authorizes it: the index itself.
    pub authorizes: &'a Entity,
    /// The index.
    pub index: &'a Entity,
    /// How many bytes.
    pub size: u16,
}

impl Command for NvRead<'_> {
    const CODE: u32 = 0x014E;
    const NAME: &'static str = "TPM2_NV_Read";
    const AUTH_HANDLES: usize = 1;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Short;
    type Response = Zeroizing<Vec<u8>>;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.authorizes, self.index]
    }

    fn write(&self, out: &mut Writer) {
        out.u16(self.size).u16(0);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        Ok(Zeroizing::new(input.sized()?.to_vec()))
    }
}

/// TPM2_NV_ChangeAuth: needs a policy session whose policy names this command. The response is
/// authenticated by the new value: [`Auth::changing_to`](crate::tpm::execute::Auth::changing_to).
pub struct NvChangeAuth<'a> {
    /// The index.
    pub index: &'a Entity,
    /// Its new authorization value.
    pub new: &'a [u8],
}

impl Command for NvChangeAuth<'_> {
    const CODE: u32 = 0x013B;
    const NAME: &'static str = "TPM2_NV_ChangeAuth";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = ();

    fn handles(&self) -> Vec<&Entity> {
        vec![self.index]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.new);
    }

    fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
        Ok(())
    }
}
