//! What a loaded secret key does: Part 3 §15 (symmetric primitives) and §17 (HMAC sequences).

use tss_esapi::constants::tss::{TPM2_ALG_CBC, TPM2_ALG_CFB, TPM2_ALG_ECB, TPM2_ST_HASHCHECK};
use zeroize::Zeroizing;

use super::{Class, Command, NULL};
use crate::crypto::secret::Wiped;
use crate::tpm::execute::Entity;
use crate::tpm::fault::{Fault, Trouble};
use crate::tpm::key::HashAlgorithm;
use crate::tpm::wire::{Reader, Writer};

/// How the TPM chains blocks, of what we let it. (Its OFB and CTR show a block of the key stream on the
/// bus, as ivIn and ivOut.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chaining {
    /// Whole blocks, no IV.
    Ecb,
    /// Whole blocks.
    Cbc,
    /// With feedback of whole blocks; any length.
    Cfb,
}

impl Chaining {
    /// TPM_ALG_ID
    fn id(self) -> u16 {
        match self {
            Chaining::Ecb => TPM2_ALG_ECB,
            Chaining::Cbc => TPM2_ALG_CBC,
            Chaining::Cfb => TPM2_ALG_CFB,
        }
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Plaintext in.
    Encrypt,
    /// Ciphertext in.
    Decrypt,
}

/// TPM2_EncryptDecrypt2 with an AES key that is bound to no mode. Unlike TPM2_EncryptDecrypt it has the
/// data as its first parameter, so that a session encrypts it; both IVs cross the bus in clear, and ivOut
/// is the last block of ciphertext. It is not looked at: not every TPM gives the right one.
pub struct EncryptDecrypt2<'a> {
    /// The loaded key.
    pub key: &'a Entity,
    /// Chaining.
    pub mode: Chaining,
    /// Which way.
    pub direction: Direction,
    /// 16 bytes; not used with ECB.
    pub iv: &'a [u8; 16],
    /// At most TPM_PT_INPUT_BUFFER bytes.
    pub input: &'a [u8],
}

impl Command for EncryptDecrypt2<'_> {
    const CODE: u32 = 0x0193;
    const NAME: &'static str = "TPM2_EncryptDecrypt2";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Wiped;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.key]
    }

    fn write(&self, out: &mut Writer) {
        let iv: &[u8] = if self.mode == Chaining::Ecb { &[] } else { self.iv };
        let decrypt = self.direction == Direction::Decrypt;
        out.sized(self.input).u8(decrypt.into()).u16(self.mode.id()).sized(iv);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        let output = Wiped::new(input.sized()?.to_vec());
        input.sized()?;
        if output.len() != self.input.len() {
            return Err(Fault::new(Trouble::Tampered("as many bytes as were not asked for")));
        }
        Ok(output)
    }
}

/// TPM2_HMAC of one buffer.
pub struct Hmac<'a> {
    /// The loaded key, unrestricted and bound to no scheme.
    pub key: &'a Entity,
    /// At most TPM_PT_INPUT_BUFFER bytes.
    pub message: &'a [u8],
    /// The hash.
    pub hash: HashAlgorithm,
}

/// A MAC, as long as its hash is.
fn read_mac(input: &mut Reader<'_>, hash: HashAlgorithm) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mac = Zeroizing::new(input.sized()?.to_vec());
    if mac.len() != hash.bytes() {
        return Err(Fault::new(Trouble::Tampered("a MAC of another length than its hash")));
    }
    Ok(mac)
}

impl Command for Hmac<'_> {
    const CODE: u32 = 0x0155;
    const NAME: &'static str = "TPM2_HMAC";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Zeroizing<Vec<u8>>;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.key]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.message).u16(self.hash.id());
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        read_mac(input, self.hash)
    }
}

/// TPM2_HMAC_Start: a sequence object, which takes a transient slot until it is completed or flushed.
pub struct HmacStart<'a> {
    /// The loaded key.
    pub key: &'a Entity,
    /// The sequence's own authorization value.
    pub authorization: &'a [u8],
    /// The hash.
    pub hash: HashAlgorithm,
}

impl Command for HmacStart<'_> {
    const CODE: u32 = 0x015B;
    const NAME: &'static str = "TPM2_HMAC_Start";
    const AUTH_HANDLES: usize = 1;
    const ANSWERS_HANDLE: bool = true;
    const SECRET_IN: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Entity;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.key]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.authorization).u16(self.hash.id());
    }

    fn read(&self, handle: Option<u32>, _: &mut Reader<'_>) -> Result<Entity, Fault> {
        let handle = handle.ok_or(Fault::bug("TPM2_HMAC_Start without a handle"))?;
        // A sequence object has no public area and so an empty Name. Part 1 §16.
        Ok(Entity::new(handle, Vec::new()))
    }
}

/// TPM2_SequenceUpdate
pub struct SequenceUpdate<'a> {
    /// What [`HmacStart`] gave.
    pub sequence: &'a Entity,
    /// At most TPM_PT_INPUT_BUFFER bytes.
    pub part: &'a [u8],
}

impl Command for SequenceUpdate<'_> {
    const CODE: u32 = 0x015C;
    const NAME: &'static str = "TPM2_SequenceUpdate";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = ();

    fn handles(&self) -> Vec<&Entity> {
        vec![self.sequence]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.part);
    }

    fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

/// TPM2_SequenceComplete of an HMAC: its last part. The TPM flushes the sequence.
pub struct SequenceComplete<'a> {
    /// What [`HmacStart`] gave.
    pub sequence: &'a Entity,
    /// At most TPM_PT_INPUT_BUFFER bytes.
    pub part: &'a [u8],
    /// The hash that the sequence was started with.
    pub hash: HashAlgorithm,
}

impl Command for SequenceComplete<'_> {
    const CODE: u32 = 0x013E;
    const NAME: &'static str = "TPM2_SequenceComplete";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Zeroizing<Vec<u8>>;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.sequence]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.part).u32(NULL);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        let mac = read_mac(input, self.hash)?;
        // A ticket, which an HMAC does not have.
        if input.u16()? != TPM2_ST_HASHCHECK {
            return Err(Fault::new(Trouble::Tampered("another ticket than that of a hash")));
        }
        input.u32()?;
        input.sized()?;
        Ok(mac)
    }
}
