//! TPMs that have less than swtpm: what they report, and what they refuse.

use crate::wire::{self, Parsed};

/// What this TPM lacks. The default lacks nothing.
#[derive(Debug, Clone, Default)]
pub struct Chip {
    /// TPM_CC that answer TPM_RC_COMMAND_CODE.
    pub without_commands: Vec<u32>,
    /// TPM_ALG_ID that are not reported; hash algorithms among them answer TPM_RC_HASH.
    pub without_algorithms: Vec<u16>,
    /// TPM_ECC_CURVE that answer TPM_RC_CURVE.
    pub without_curves: Vec<u16>,
    /// RSA keys larger than this many bits answer TPM_RC_VALUE; 0 is no limit.
    pub largest_rsa: u16,
    /// The chip's own PSS uses the longest salt that fits, as many do, which verifiers refuse. A
    /// proxy cannot forge that, so TPM2_Sign with RSAPSS answers TPM_RC_SCHEME: whoever makes good
    /// signatures here makes the padding himself.
    pub without_pss: bool,
}

const HASHES: &[u16] = &[0x0004, 0x000B, 0x000C, 0x000D, 0x0012, 0x0027, 0x0028, 0x0029];
const RSA: u16 = 0x0001;
const NULL: u16 = 0x0010;
const RSAES: u16 = 0x0015;
const RSAPSS: u16 = 0x0016;
const ECDAA: u16 = 0x001A;
const ECC: u16 = 0x0023;

/// TPM_RC_x + TPM_RC_P + the parameter's number
const COMMAND_CODE: u32 = 0x143;
const SECOND_HASH: u32 = 0x2C3;
const SECOND_VALUE: u32 = 0x2C4;
const SECOND_SCHEME: u32 = 0x2D2;
const SECOND_CURVE: u32 = 0x2E6;
/// From "second parameter" to "first parameter".
const FIRST: u32 = 0x100;

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u16(&mut self) -> Option<u16> {
        let (head, rest) = self.0.split_at_checked(2)?;
        self.0 = rest;
        Some(u16::from_be_bytes(head.try_into().ok()?))
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn skip_sized(&mut self) -> Option<()> {
        let length = self.u16()?;
        self.skip(usize::from(length))
    }
}

/// Whether a row of a capability names something that the chip lacks.
type Lacks = fn(&Chip, &[u8]) -> bool;

impl Chip {
    fn lacks_hash(&self, hash: u16) -> bool {
        HASHES.contains(&hash) && self.without_algorithms.contains(&hash)
    }

    /// The response code with which this chip refuses a command that swtpm would execute.
    pub fn refuses(&self, command: &[u8], parsed: Option<&Parsed>) -> Option<u32> {
        let parsed = parsed?;
        if self.without_commands.contains(&parsed.code) {
            return Some(COMMAND_CODE);
        }
        let mut parameters = Reader(command.get(parsed.parameters_at..)?);
        match parsed.code {
            wire::CREATE | wire::CREATE_PRIMARY | wire::LOAD | 0x156 | 0x167 | 0x191 => {
                parameters.skip_sized()?;
                parameters.u16()?;
                let kind = parameters.u16()?;
                if self.lacks_hash(parameters.u16()?) {
                    return Some(SECOND_HASH);
                }
                parameters.skip(4)?;
                parameters.skip_sized()?;
                self.refuses_key(kind, &mut parameters)
            }
            wire::TEST_PARMS => {
                let kind = parameters.u16()?;
                self.refuses_key(kind, &mut parameters).map(|code| code - FIRST)
            }
            wire::SIGN => {
                parameters.skip_sized()?;
                match parameters.u16()? {
                    RSAPSS if self.without_pss => Some(SECOND_SCHEME),
                    NULL => None,
                    _ => self.lacks_hash(parameters.u16()?).then_some(SECOND_HASH),
                }
            }
            _ => None,
        }
    }

    /// As [`Chip::refuses`], for TPMU_PUBLIC_PARMS.
    fn refuses_key(&self, kind: u16, parameters: &mut Reader<'_>) -> Option<u32> {
        if kind != RSA && kind != ECC {
            return None;
        }
        if parameters.u16()? != NULL {
            parameters.skip(4)?;
        }
        match parameters.u16()? {
            NULL | RSAES => {}
            scheme => {
                if self.lacks_hash(parameters.u16()?) {
                    return Some(SECOND_HASH);
                }
                if scheme == ECDAA {
                    parameters.skip(2)?;
                }
            }
        }
        let size = parameters.u16()?;
        if kind == RSA {
            (self.largest_rsa != 0 && size > self.largest_rsa).then_some(SECOND_VALUE)
        } else {
            self.without_curves.contains(&size).then_some(SECOND_CURVE)
        }
    }

    /// Takes out of TPM2_GetCapability's answer what this chip lacks.
    pub fn rewrite(&self, command: &[u8], response: &mut Vec<u8>) {
        const HEADER: usize = 19;
        let plain = wire::u16_at(response, 0) == 0x8001 && response.len() >= HEADER;
        if wire::u32_at(command, 6) != wire::GET_CAPABILITY || !plain {
            return;
        }
        // The width of a row, and whether it names something lacking.
        let (width, lacks): (usize, Lacks) = match wire::u32_at(response, 11) {
            0 => (6, |chip, row| chip.without_algorithms.contains(&wire::u16_at(row, 0))),
            2 => (4, |chip, row| {
                chip.without_commands.contains(&(wire::u32_at(row, 0) & 0x2000_FFFF))
            }),
            8 => (2, |chip, row| chip.without_curves.contains(&wire::u16_at(row, 0))),
            _ => return,
        };
        let rows: Vec<&[u8]> =
            response[HEADER..].chunks_exact(width).filter(|row| !lacks(self, row)).collect();
        let count = rows.len() as u32;
        let rows = rows.concat();
        response.truncate(HEADER);
        response.extend(rows);
        response[15..19].copy_from_slice(&count.to_be_bytes());
        let length = (response.len() as u32).to_be_bytes();
        response[2..6].copy_from_slice(&length);
    }
}
