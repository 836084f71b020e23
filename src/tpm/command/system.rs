//! The TPM itself: Part 3 §9 (startup), §10 (testing), §16 (random numbers), §30 (capabilities).

use tss_esapi::constants::tss::{
    TPM2_ALG_AES, TPM2_ALG_NULL, TPM2_ALG_RSA, TPM2_ALG_SYMCIPHER, TPM2_CAP_ALGS,
    TPM2_CAP_COMMANDS, TPM2_CAP_ECC_CURVES, TPM2_CAP_HANDLES, TPM2_CAP_TPM_PROPERTIES,
};
use zeroize::Zeroizing;

use super::{Class, Command};
use crate::tpm::fault::{Fault, Trouble};
use crate::tpm::wire::{Reader, Writer};

/// TPM2_Startup(CLEAR): what the firmware does on a real machine.
pub struct Startup;

impl Command for Startup {
    const CODE: u32 = 0x0144;
    const NAME: &'static str = "TPM2_Startup";
    const CLASS: Class = Class::Normal;
    type Response = ();

    fn write(&self, out: &mut Writer) {
        out.u16(0);
    }

    fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

/// What to list with TPM2_GetCapability. TPM_CAP, Part 2 §6.12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// TPM_CAP_ALGS
    Algorithms,
    /// TPM_CAP_HANDLES
    Handles,
    /// TPM_CAP_COMMANDS
    Commands,
    /// TPM_CAP_TPM_PROPERTIES
    Properties,
    /// TPM_CAP_ECC_CURVES
    Curves,
}

impl Capability {
    fn id(self) -> u32 {
        match self {
            Capability::Algorithms => TPM2_CAP_ALGS,
            Capability::Handles => TPM2_CAP_HANDLES,
            Capability::Commands => TPM2_CAP_COMMANDS,
            Capability::Properties => TPM2_CAP_TPM_PROPERTIES,
            Capability::Curves => TPM2_CAP_ECC_CURVES,
        }
    }
}

/// TPM2_GetCapability: at most `count` values from `first` on.
pub struct GetCapability {
    /// Of what.
    pub of: Capability,
    /// The smallest number wanted: a handle, a property, an algorithm, a command, a curve.
    pub first: u32,
    /// How many at most.
    pub count: u32,
}

/// What TPM2_GetCapability answers: (number, value) pairs. The value is TPMA_ALGORITHM for algorithms,
/// TPMA_CC for commands, the property's value for properties, and 0 for handles and curves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// There are more.
    pub more: bool,
    /// In ascending order.
    pub items: Vec<(u32, u32)>,
}

impl Command for GetCapability {
    const CODE: u32 = 0x017A;
    const NAME: &'static str = "TPM2_GetCapability";
    const CLASS: Class = Class::Short;
    type Response = Listed;

    fn write(&self, out: &mut Writer) {
        out.u32(self.of.id()).u32(self.first).u32(self.count);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Listed, Fault> {
        let more = input.u8()? != 0;
        if input.u32()? != self.of.id() {
            return Err(Fault::new(Trouble::Tampered("another capability than asked for")));
        }
        let count = input.u32()?;
        if count > self.count {
            return Err(Fault::new(Trouble::Tampered("more than asked for")));
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(match self.of {
                Capability::Algorithms => (input.u16()?.into(), input.u32()?),
                Capability::Handles => (input.u32()?, 0),
                Capability::Properties => (input.u32()?, input.u32()?),
                Capability::Curves => (input.u16()?.into(), 0),
                Capability::Commands => {
                    // TPMA_CC: bits 0-15 the command's number, bit 29 a vendor's. Part 2 §8.9.
                    let attributes = input.u32()?;
                    (attributes & 0x2000_FFFF, attributes)
                }
            });
        }
        Ok(Listed { more, items })
    }
}

/// TPM2_GetTestResult: why the TPM is in failure mode.
pub struct GetTestResult;

/// What TPM2_GetTestResult answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    /// The maker's own words or numbers.
    pub data: Vec<u8>,
    /// TPM_RC_SUCCESS, TPM_RC_NEEDS_TEST, TPM_RC_TESTING or TPM_RC_FAILURE.
    pub code: u32,
}

impl Command for GetTestResult {
    const CODE: u32 = 0x017C;
    const NAME: &'static str = "TPM2_GetTestResult";
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Short;
    type Response = TestResult;

    fn write(&self, _: &mut Writer) {}

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<TestResult, Fault> {
        Ok(TestResult { data: input.sized()?.to_vec(), code: input.u32()? })
    }
}

/// TPM2_GetRandom: at most as many bytes as the TPM's largest digest has; may be fewer than asked.
pub struct GetRandom {
    /// How many bytes.
    pub bytes: u16,
}

impl Command for GetRandom {
    const CODE: u32 = 0x017B;
    const NAME: &'static str = "TPM2_GetRandom";
    const SECRET_OUT: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = Zeroizing<Vec<u8>>;

    fn write(&self, out: &mut Writer) {
        out.u16(self.bytes);
    }

    fn read(&self, _: Option<u32>, input: &mut Reader<'_>) -> Result<Self::Response, Fault> {
        let bytes = input.sized()?;
        if bytes.len() > self.bytes.into() {
            return Err(Fault::new(Trouble::Tampered("more random bytes than asked for")));
        }
        Ok(Zeroizing::new(bytes.to_vec()))
    }
}

/// TPM2_StirRandom: mixes up to 128 bytes into the TPM's generator.
pub struct StirRandom<'a> {
    /// What to mix in.
    pub data: &'a [u8],
}

impl Command for StirRandom<'_> {
    const CODE: u32 = 0x0146;
    const NAME: &'static str = "TPM2_StirRandom";
    const SECRET_IN: bool = true;
    const CLASS: Class = Class::Normal;
    type Response = ();

    fn write(&self, out: &mut Writer) {
        out.sized(self.data);
    }

    fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

/// TPM2_TestParms: succeeds if the TPM has such keys.
pub struct TestParms {
    /// Of what.
    pub parms: TestedParms,
}

/// TPMT_PUBLIC_PARMS of a key that is neither restricted nor bound to a scheme or mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestedParms {
    /// An RSA key.
    Rsa {
        /// Modulus size in bits.
        bits: u16,
    },
    /// An AES key.
    Aes {
        /// Its size.
        bits: u16,
    },
}

impl Command for TestParms {
    const CODE: u32 = 0x018A;
    const NAME: &'static str = "TPM2_TestParms";
    const CLASS: Class = Class::Normal;
    type Response = ();

    fn write(&self, out: &mut Writer) {
        match self.parms {
            TestedParms::Rsa { bits } => {
                out.u16(TPM2_ALG_RSA).u16(TPM2_ALG_NULL).u16(TPM2_ALG_NULL).u16(bits).u32(0)
            }
            TestedParms::Aes { bits } => {
                out.u16(TPM2_ALG_SYMCIPHER).u16(TPM2_ALG_AES).u16(bits).u16(TPM2_ALG_NULL)
            }
        };
    }

    fn read(&self, _: Option<u32>, _: &mut Reader<'_>) -> Result<(), Fault> {
        Ok(())
    }
}
