//! What a loaded key does: Part 3 §14 (asymmetric primitives) and §20 (signing).

use tss_esapi::constants::tss::{TPM2_ALG_ECDSA, TPM2_ALG_NULL, TPM2_ST_HASHCHECK};
use zeroize::Zeroizing;

use super::{Class, Command, NULL};
use crate::tpm::execute::Entity;
use crate::tpm::fault::{Fault, Trouble};
use crate::tpm::key::HashAlgorithm;
use crate::tpm::wire::{Reader, Writer};

/// TPM2_Sign with ECDSA: (r, s), big-endian, without leading zero bytes that the TPM may cut. The key
/// must be unrestricted.
pub struct SignEcdsa<'a> {
    /// The loaded key.
    pub key: &'a Entity,
    /// Which hash the digest is said to be of.
    pub hash: HashAlgorithm,
    /// As long as the hash says, whatever the curve.
    pub digest: &'a [u8],
}

impl Command for SignEcdsa<'_> {
    const CODE: u32 = 0x015D;
    const NAME: &'static str = "TPM2_Sign";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = (Vec<u8>, Vec<u8>);

    fn handles(&self) -> Vec<&Entity> {
        vec![self.key]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.digest).u16(TPM2_ALG_ECDSA).u16(self.hash.id());
        // No ticket: the digest was made elsewhere.
        out.u16(TPM2_ST_HASHCHECK).u32(NULL).sized(&[]);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        if input.u16()? != TPM2_ALG_ECDSA || input.u16()? != self.hash.id() {
            return Err(Fault::new(Trouble::Tampered("a signature of another scheme")));
        }
        Ok((input.sized()?.to_vec(), input.sized()?.to_vec()))
    }
}

/// TPM2_RSA_Decrypt with scheme NULL: the raw private operation.
pub struct RsaDecrypt<'a> {
    /// The loaded key.
    pub key: &'a Entity,
    /// As long as the modulus and smaller; some firmware answers TPM_RC_FAILURE to anything else.
    pub input: &'a [u8],
}

impl Command for RsaDecrypt<'_> {
    const CODE: u32 = 0x0159;
    const NAME: &'static str = "TPM2_RSA_Decrypt";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Zeroizing<Vec<u8>>;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.key]
    }

    fn write(&self, out: &mut Writer) {
        out.sized(self.input).u16(TPM2_ALG_NULL).sized(&[]);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        Ok(Zeroizing::new(input.sized()?.to_vec()))
    }
}

/// TPM2_ECDH_ZGen: the x coordinate of the product of the private key and a point.
pub struct EcdhZGen<'a> {
    /// The loaded key.
    pub key: &'a Entity,
    /// The point's x coordinate.
    pub x: &'a [u8],
    /// The point's y coordinate.
    pub y: &'a [u8],
}

impl Command for EcdhZGen<'_> {
    const CODE: u32 = 0x0154;
    const NAME: &'static str = "TPM2_ECDH_ZGen";
    const AUTH_HANDLES: usize = 1;
    const SECRET_IN: bool = true;
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Zeroizing<Vec<u8>>;

    fn handles(&self) -> Vec<&Entity> {
        vec![self.key]
    }

    fn write(&self, out: &mut Writer) {
        let mut point = Writer::new();
        point.sized(self.x).sized(self.y);
        out.sized(point.as_slice());
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        let mut point = Reader::new(input.sized()?);
        let x = Zeroizing::new(point.sized()?.to_vec());
        point.sized()?;
        point.end()?;
        Ok(x)
    }
}
