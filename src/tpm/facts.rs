//! What this TPM is and can: asked once, kept in the store as bytes, so that listing mechanisms
//! costs no command.

use tss_esapi::constants::tss::TPM2_ALG_AES;

use super::command::{Capability, Command, EncryptDecrypt2, GetCapability, TestParms, TestedParms};
use super::execute::execute;
use super::fault::Fault;
use super::transport::Transport;
use super::wire::{Reader, Writer};
use super::{Call, HashAlgorithm};
use crate::crypto::ec::Curve;

/// Who made the TPM and what it offers. TPM 2.0 Part 2 §6.13 (TPM_PT), §10.8.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// TPM_PT_MANUFACTURER as text, e.g. "IBM", "IFX", "AMD", "INTC".
    pub maker: String,
    /// TPM_PT_VENDOR_STRING_1..4 joined.
    pub model: String,
    /// TPM_PT_FIRMWARE_VERSION_1 (high half) and _2.
    pub firmware: u64,
    /// TPM_PT_REVISION: the specification's revision times 100, e.g. 138.
    pub revision: u32,
    /// TPM_ALG_IDs implemented.
    pub algorithms: Vec<u16>,
    /// Curves implemented, of those we know.
    pub curves: Vec<Curve>,
    /// RSA modulus sizes accepted by TPM2_TestParms, in bits, ascending.
    pub rsa_bits: Vec<u16>,
    /// Sizes of AES keys, in bits, ascending; none if the TPM does not have TPM2_EncryptDecrypt2.
    pub aes_bits: Vec<u16>,
    /// Hashes implemented, of those we know.
    pub hashes: Vec<HashAlgorithm>,
    /// Command codes implemented.
    pub commands: Vec<u32>,
    /// TPM_PT_INPUT_BUFFER: the most bytes of a TPM2B_MAX_BUFFER.
    pub input_buffer: u16,
    /// Whether NV indices of type PIN_FAIL can be expected (revision 138 and later).
    pub pin_indices: bool,
}

impl Facts {
    /// Bytes for the store, versioned.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION).sized(self.maker.as_bytes()).sized(self.model.as_bytes());
        out.u64(self.firmware).u32(self.revision).u16(self.input_buffer);
        let mut list = |items: &mut dyn ExactSizeIterator<Item = u32>| {
            out.u16(u16::try_from(items.len()).unwrap_or(u16::MAX));
            for item in items.take(u16::MAX.into()) {
                out.u32(item);
            }
        };
        list(&mut self.algorithms.iter().map(|id| u32::from(*id)));
        list(&mut self.curves.iter().map(|curve| u32::from(curve_id(*curve))));
        list(&mut self.rsa_bits.iter().map(|bits| u32::from(*bits)));
        list(&mut self.aes_bits.iter().map(|bits| u32::from(*bits)));
        list(&mut self.hashes.iter().map(|hash| u32::from(hash.id())));
        list(&mut self.commands.iter().copied());
        out.u8(self.pin_indices.into());
        out.as_slice().to_vec()
    }

    /// Reads what [`Facts::to_bytes`] wrote; `None` for anything else, older versions included:
    /// then the TPM is asked again.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::read(bytes).ok().flatten()
    }

    fn read(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let mut input = Reader::new(bytes);
        if input.u8()? != VERSION {
            return Ok(None);
        }
        let maker = String::from_utf8_lossy(input.sized()?).into_owned();
        let model = String::from_utf8_lossy(input.sized()?).into_owned();
        let (firmware, revision, input_buffer) = (input.u64()?, input.u32()?, input.u16()?);
        let mut list = || -> Result<Vec<u32>, Fault> {
            let count = input.u16()?;
            (0..count).map(|_| input.u32()).collect()
        };
        let narrow = |items: Vec<u32>| -> Vec<u16> {
            items.into_iter().filter_map(|item| u16::try_from(item).ok()).collect()
        };
        let facts = Self {
            maker,
            model,
            firmware,
            revision,
            algorithms: narrow(list()?),
            curves: narrow(list()?).into_iter().filter_map(curve_of).collect(),
            rsa_bits: narrow(list()?),
            aes_bits: narrow(list()?),
            hashes: narrow(list()?).into_iter().filter_map(HashAlgorithm::of_id).collect(),
            commands: list()?,
            input_buffer,
            pin_indices: input.u8()? != 0,
        };
        input.end()?;
        Ok(Some(facts))
    }

    /// Whether it is firmware or software on the machine's own processor, without a bus that could be
    /// listened on. What is not in the table is taken for a chip.
    pub fn is_firmware(&self) -> bool {
        // TCG TPM Vendor ID Registry.
        match self.maker.as_str() {
            "INTC" | "AMD" | "QCOM" | "MSFT" | "GOOG" | "VMW" => true,
            "IBM" => self.model.starts_with("SW"),
            _ => false,
        }
    }

    /// Whether the command is implemented (TPM_CC).
    pub fn has_command(&self, code: u32) -> bool {
        self.commands.contains(&code)
    }

    /// Whether the algorithm is implemented (TPM_ALG_ID).
    pub fn has_algorithm(&self, id: u16) -> bool {
        self.algorithms.contains(&id)
    }
}

/// The layout of [`Facts::to_bytes`].
const VERSION: u8 = 2;

/// TPM_ECC_CURVE. Part 2 §6.4.
fn curve_id(curve: Curve) -> u16 {
    match curve {
        Curve::P256 => 3,
        Curve::P384 => 4,
        Curve::P521 => 5,
    }
}

fn curve_of(id: u16) -> Option<Curve> {
    Curve::ALL.into_iter().find(|curve| curve_id(*curve) == id)
}

/// TPM_PT numbers. Part 2 §6.13.
const FIXED: u32 = 0x100;
const REVISION: u32 = 0x102;
const MANUFACTURER: u32 = 0x105;
const VENDOR_STRINGS: std::ops::RangeInclusive<u32> = 0x106..=0x109;
const FIRMWARE_1: u32 = 0x10B;
const FIRMWARE_2: u32 = 0x10C;
const INPUT_BUFFER: u32 = 0x10D;

/// RSA sizes that keys are asked for, in bits.
const RSA_SIZES: [u16; 4] = [1024, 2048, 3072, 4096];
/// From this revision on (1.38) NV indices can be of type PIN_FAIL.
const PIN_REVISION: u32 = 138;

/// AES sizes that are asked for, in bits. 128 is no question: parameter encryption uses it.
const AES_SIZES: [u16; 2] = [192, 256];

/// Whether the TPM takes a key of these parameters.
fn takes(link: &mut dyn Transport, parms: TestedParms, call: &Call) -> Result<bool, Fault> {
    match execute(link, &TestParms { parms }, &mut [], call) {
        Ok(()) => Ok(true),
        // The TPM answered, and not with yes.
        Err(fault) if fault.code().is_some() => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Asks the TPM: four lists and one TPM2_TestParms for each size in question, about a dozen commands.
pub(super) fn ask(link: &mut dyn Transport, call: &Call) -> Result<Facts, Fault> {
    let properties = list(link, Capability::Properties, FIXED, call)?;
    let property = |id: u32| properties.iter().find(|item| item.0 == id).map_or(0, |item| item.1);
    let text = |words: &mut dyn Iterator<Item = u32>| -> String {
        let bytes: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
        let printable = bytes.iter().copied().filter(|byte| (0x20..0x7F).contains(byte));
        // Makers pad each word for itself: "SW  ", " TPM".
        let padded: String = printable.map(char::from).collect();
        padded.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let algorithms: Vec<u16> = list(link, Capability::Algorithms, 0, call)?
        .into_iter()
        .filter_map(|item| u16::try_from(item.0).ok())
        .collect();
    let curves = list(link, Capability::Curves, 0, call)?;
    let commands = list(link, Capability::Commands, 0, call)?;
    let mut rsa_bits = Vec::new();
    for bits in RSA_SIZES {
        if takes(link, TestedParms::Rsa { bits }, call)? {
            rsa_bits.push(bits);
        }
    }
    let commands: Vec<u32> = commands.into_iter().map(|item| item.0).collect();
    let mut aes_bits = Vec::new();
    if commands.contains(&EncryptDecrypt2::CODE) && algorithms.contains(&TPM2_ALG_AES) {
        aes_bits.push(128);
        for bits in AES_SIZES {
            if takes(link, TestedParms::Aes { bits }, call)? {
                aes_bits.push(bits);
            }
        }
    }
    let hashes =
        [HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];
    let revision = property(REVISION);
    Ok(Facts {
        maker: text(&mut [property(MANUFACTURER)].into_iter()),
        model: text(&mut VENDOR_STRINGS.map(property)),
        firmware: u64::from(property(FIRMWARE_1)) << 32 | u64::from(property(FIRMWARE_2)),
        revision,
        curves: Curve::ALL
            .into_iter()
            .filter(|curve| curves.iter().any(|item| item.0 == u32::from(curve_id(*curve))))
            .collect(),
        rsa_bits,
        aes_bits,
        hashes: hashes.into_iter().filter(|hash| algorithms.contains(&hash.id())).collect(),
        algorithms,
        commands,
        input_buffer: u16::try_from(property(INPUT_BUFFER)).unwrap_or(u16::MAX),
        pin_indices: revision >= PIN_REVISION,
    })
}

/// A whole list, however many answers it takes.
fn list(
    link: &mut dyn Transport,
    of: Capability,
    first: u32,
    call: &Call,
) -> Result<Vec<(u32, u32)>, Fault> {
    let mut items: Vec<(u32, u32)> = Vec::new();
    let mut first = first;
    // A TPM that says "more" for ever is not believed for ever.
    for _ in 0..64 {
        let listed = execute(link, &GetCapability { of, first, count: 64 }, &mut [], call)?;
        let Some(last) = listed.items.last().map(|item| item.0) else { break };
        items.extend(listed.items);
        if !listed.more {
            break;
        }
        first = last.saturating_add(1);
    }
    if of == Capability::Properties {
        // The group that begins with TPM_PT_FIXED.
        items.retain(|item| item.0 >> 8 == FIXED >> 8);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_the_store_and_other_bytes_do_not_pass_for_facts() {
        let facts = Facts {
            maker: "IFX".into(),
            model: "SLB9672".into(),
            firmware: 0x0010_0016_4567_0000,
            revision: 138,
            algorithms: vec![1, 4, 11, 35],
            curves: vec![Curve::P256, Curve::P384],
            rsa_bits: vec![2048],
            aes_bits: vec![128, 256],
            hashes: vec![HashAlgorithm::Sha1, HashAlgorithm::Sha256],
            commands: vec![0x15D, 0x193, 0x2000_0001],
            input_buffer: 1024,
            pin_indices: true,
        };
        let bytes = facts.to_bytes();
        assert_eq!(Facts::from_bytes(&bytes), Some(facts));
        assert_eq!(Facts::from_bytes(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Facts::from_bytes(&[]), None);
        assert_eq!(Facts::from_bytes(&[&[9], &bytes[1..]].concat()), None);
    }
}
