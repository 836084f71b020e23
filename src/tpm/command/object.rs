//! Objects: Part 3 §12 (object commands), §24.1 (TPM2_CreatePrimary).

use zeroize::Zeroizing;

use super::{Class, Command, NULL};
use crate::tpm::Name;
use crate::tpm::execute::Entity;
use crate::tpm::fault::{Fault, Trouble};
use crate::tpm::key::{NewKey, name_of};
use crate::tpm::wire::{Reader, Writer};

fn write_creation(out: &mut Writer, authorization: &[u8], data: &[u8], public: &[u8]) {
    let mut sensitive = Writer::new();
    sensitive.sized(authorization).sized(data);
    out.sized(sensitive.as_slice()).sized(public);
    // No outside information, no PCRs recorded.
    out.sized(&[]).u32(0);
}

/// Creation data, hash and ticket, which nobody here asks for.
fn skip_creation(input: &mut Reader<'_>) -> Result<(), Fault> {
    input.sized()?;
    input.sized()?;
    input.u16()?;
    input.u32()?;
    input.sized()?;
    Ok(())
}

/// TPM2_Create: a key made by the TPM, or given data sealed by it, under a storage key.
pub struct Create<'a> {
    /// The storage key.
    pub parent: &'a Entity,
    /// The new object's authorization value.
    pub authorization: &'a [u8],
    /// What to seal; empty for a key.
    pub data: &'a [u8],
    /// Marshalled TPMT_PUBLIC.
    pub public: &'a [u8],
}

impl Command for Create<'_> {
    const CODE: u32 = 0x0153;
    const NAME: &'static str = "TPM2_Create";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::KeyGeneration;
    type Response = NewKey;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.parent]
    }

    fn write(&self, out: &mut Writer) {
        write_creation(out, self.authorization, self.data, self.public);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<NewKey, Fault> {
        let private = input.sized()?.to_vec();
        let public = input.sized()?.to_vec();
        skip_creation(input)?;
        Ok(NewKey { public, private })
    }
}

/// What TPM2_CreatePrimary and TPM2_ReadPublic tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Handle and Name; the Name was computed from `public` here.
    pub entity: Entity,
    /// Marshalled TPMT_PUBLIC.
    pub public: Vec<u8>,
}

/// TPM2_CreatePrimary: a storage key from a hierarchy's seed; the same template gives the same key.
pub struct CreatePrimary<'a> {
    /// TPM_RH_OWNER
    pub hierarchy: &'a Entity,
    /// Marshalled TPMT_PUBLIC.
    pub public: &'a [u8],
}

impl Command for CreatePrimary<'_> {
    const CODE: u32 = 0x0131;
    const NAME: &'static str = "TPM2_CreatePrimary";
    const AUTH_HANDLES: usize = 1;
    const ANSWERS_HANDLE: bool = true;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::KeyGeneration;
    type Response = Created;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.hierarchy]
    }

    fn write(&self, out: &mut Writer) {
        write_creation(out, &[], &[], self.public);
    }

    fn read(&self, handle: Option<u32>, input: &mut Reader<'_>) -> Result<Created, Fault> {
        let public = input.sized()?.to_vec();
        skip_creation(input)?;
        let name = checked_name(&public, input.sized()?)?;
        let handle = handle.ok_or(Fault::bug("TPM2_CreatePrimary without a handle"))?;
        Ok(Created { entity: Entity { handle, name }, public })
    }
}

/// The Name as computed here, which the TPM's answer must equal.
fn checked_name(public: &[u8], theirs: &[u8]) -> Result<Name, Fault> {
    let ours = name_of(public)?;
    if ours == theirs {
        Ok(ours)
    } else {
        Err(Fault::new(Trouble::Tampered("a Name that is not that of the public area")))
    }
}

/// TPM2_Load: a key or sealed data from its two blobs.
pub struct Load<'a> {
    /// The storage key it was created under.
    pub parent: &'a Entity,
    /// Marshalled TPMT_PUBLIC.
    pub public: &'a [u8],
    /// Content of TPM2B_PRIVATE.
    pub private: &'a [u8],
}

impl Command for Load<'_> {
    const CODE: u32 = 0x0157;
    const NAME: &'static str = "TPM2_Load";
    const AUTH_HANDLES: usize = 1;
    const ANSWERS_HANDLE: bool = true;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Entity;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.parent]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.private).sized(self.public);
    }

    fn read(&self, handle: Option<u32>, input: &mut Reader<'_>) -> Result<Entity, Fault> {
        let name = checked_name(self.public, input.sized()?)?;
        let handle = handle.ok_or(Fault::bug("TPM2_Load without a handle"))?;
        Ok(Entity { handle, name })
    }
}

/// TPM2_ReadPublic. The Name is computed here and compared, so no session is needed to trust it.
pub struct ReadPublic {
    /// A loaded or persistent object.
    pub handle: u32,
}

impl Command for ReadPublic {
    const CODE: u32 = 0x0173;
    const NAME: &'static str = "TPM2_ReadPublic";
    const CLASS: Class = Class::Short;
    type Response = Created;

    fn write(&self, out: &mut Writer) {
        // Always sent without a session (the Name is what it asks for), so the handle may stand here.
        out.u32(self.handle);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Created, Fault> {
        let public = input.sized()?.to_vec();
        let name = checked_name(&public, input.sized()?)?;
        input.sized()?;
        Ok(Created { entity: Entity { handle: self.handle, name }, public })
    }
}

/// TPM2_Unseal: the data of a sealed object.
pub struct Unseal<'a> {
    /// The loaded object.
    pub item: &'a Entity,
}

impl Command for Unseal<'_> {
    const CODE: u32 = 0x015E;
    const NAME: &'static str = "TPM2_Unseal";
    const AUTH_HANDLES: usize = 1;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Zeroizing<Vec<u8>>;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.item]
    }

    fn write(&self, _: &mut Writer) {}

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        Ok(Zeroizing::new(input.sized()?.to_vec()))
    }
}

/// TPM2_LoadExternal of a public key alone, for this connection.
pub struct LoadExternal<'a> {
    /// Marshalled TPMT_PUBLIC.
    pub public: &'a [u8],
}

impl Command for LoadExternal<'_> {
    const CODE: u32 = 0x0167;
    const NAME: &'static str = "TPM2_LoadExternal";
    const ANSWERS_HANDLE: bool = true;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Entity;

    fn write(&self, out: &mut Writer) {
        out.sized(&[]).sized(self.public).u32(NULL);
    }

    fn read(&self, handle: Option<u32>, input: &mut Reader<'_>) -> Result<Entity, Fault> {
        let name = checked_name(self.public, input.sized()?)?;
        let handle = handle.ok_or(Fault::bug("TPM2_LoadExternal without a handle"))?;
        Ok(Entity { handle, name })
    }
}

/// TPM2_ObjectChangeAuth: the private part of a loaded object with another authorization value. The
/// loaded one keeps its own.
pub struct ObjectChangeAuth<'a> {
    /// The loaded object.
    pub object: &'a Entity,
    /// Its storage key.
    pub parent: &'a Entity,
    /// The new value.
    pub authorization: &'a [u8],
}

impl Command for ObjectChangeAuth<'_> {
    const CODE: u32 = 0x0150;
    const NAME: &'static str = "TPM2_ObjectChangeAuth";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Vec<u8>;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.object, self.parent]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.authorization);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Vec<u8>, Fault> {
        Ok(input.sized()?.to_vec())
    }
}

/// TPM2_ActivateCredential: what somebody encrypted to a storage key, for an object of this Name.
pub struct ActivateCredential<'a> {
    /// The object (ADMIN role).
    pub object: &'a Entity,
    /// The storage key.
    pub key: &'a Entity,
    /// Content of TPM2B_ID_OBJECT.
    pub credential: &'a [u8],
    /// Content of TPM2B_ENCRYPTED_SECRET.
    pub seed: &'a [u8],
}

impl Command for ActivateCredential<'_> {
    const CODE: u32 = 0x0147;
    const NAME: &'static str = "TPM2_ActivateCredential";
    const AUTH_HANDLES: usize = 2;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Zeroizing<Vec<u8>>;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.object, self.key]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.credential).sized(self.seed);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        Ok(Zeroizing::new(input.sized()?.to_vec()))
    }
}
