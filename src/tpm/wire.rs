//! Write a command, read a response, nothing else: integers big-endian, buffers with a 16-bit length
//! before them (TPM2B). The reader is strict: what is not read to its last byte is an error.
//!
//! TPM 2.0 Part 1 §18 (command and response structure).

use super::fault::{Fault, Trouble};
use crate::crypto::secret::Wiped;

/// TPM_ST_NO_SESSIONS
pub const NO_SESSIONS: u16 = 0x8001;
/// TPM_ST_SESSIONS
pub const SESSIONS: u16 = 0x8002;

/// Bytes on their way to the TPM. Wiped when dropped: parameters may be secret until encrypted.
#[derive(Default)]
pub struct Writer {
    bytes: Wiped,
    too_long: bool,
}

/// Room [bytes] for any command, and any response, with one TPM_PT_INPUT_BUFFER (1,024 bytes) of data.
pub(super) const ROOM: usize = 1280;

/// tag, size, command or response code [bytes]. Part 1 §18.
pub(super) const HEADER: usize = 10;

impl Writer {
    /// An empty writer with room for most commands, so that secrets are not left in memory by growing.
    pub fn new() -> Self {
        Self { bytes: Wiped::new(Vec::with_capacity(ROOM)), too_long: false }
    }

    /// UINT8
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// UINT16
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// UINT32
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// UINT64
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        if self.bytes.len() + value.len() > self.bytes.capacity() {
            // Grows by hand: the old memory may hold a secret.
            let mut larger = Vec::with_capacity(2 * (self.bytes.len() + value.len()));
            larger.extend_from_slice(&self.bytes);
            self.bytes = Wiped::new(larger);
        }
        self.bytes.extend_from_slice(value);
        self
    }

    /// TPM2B: length in 16 bits, then the bytes. What is longer than 65,535 bytes fails at [`Writer::check`].
    pub fn sized(&mut self, value: &[u8]) -> &mut Self {
        match u16::try_from(value.len()) {
            Ok(length) => self.u16(length).bytes(value),
            Err(_) => {
                self.too_long = true;
                self
            }
        }
    }

    /// What was written so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written so far, to be encrypted in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Fails if something did not fit its length field.
    pub fn check(&self) -> Result<(), Fault> {
        if self.too_long {
            return Err(Fault::bug("a parameter longer than its length field"));
        }
        Ok(())
    }
}

/// Bytes from the TPM.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

fn short() -> Fault {
    Fault::new(Trouble::Tampered("a response shorter than its content"))
}

impl<'a> Reader<'a> {
    /// Reads from these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or_else(short)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N)?.try_into().map_err(|_| short())
    }

    /// UINT8
    pub fn u8(&mut self) -> Result<u8, Fault> {
        self.array().map(u8::from_be_bytes)
    }

    /// UINT16
    pub fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    /// UINT32
    pub fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    /// UINT64
    pub fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_be_bytes)
    }

    /// TPM2B
    pub fn sized(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// What was not read yet; reads it.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Fails unless everything was read.
    pub fn end(self) -> Result<(), Fault> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Fault::new(Trouble::Tampered("a response longer than its content")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_may_be_left() {
        let mut out = Writer::new();
        out.u8(1).u16(2).u32(3).u64(4).sized(b"five").bytes(b"six");
        out.check().expect("short enough");
        let bytes = out.as_slice().to_vec();

        let mut input = Reader::new(&bytes);
        assert_eq!(input.u8(), Ok(1));
        assert_eq!(input.u16(), Ok(2));
        assert_eq!(input.u32(), Ok(3));
        assert_eq!(input.u64(), Ok(4));
        assert_eq!(input.sized(), Ok(&b"five"[..]));
        assert!(input.end().is_err(), "trailing bytes");
        assert_eq!(input.take(3), Ok(&b"six"[..]));
        assert!(input.is_empty() && input.end().is_ok());
        assert!(input.u8().is_err());
    }

    #[test]
    fn a_length_beyond_the_end_is_an_error() {
        assert!(Reader::new(&[0, 3, 1, 2]).sized().is_err());
        assert!(Reader::new(&[0]).u16().is_err());
        assert!(Reader::new(&[]).take(usize::MAX).is_err());
    }

    #[test]
    fn what_does_not_fit_its_length_field_is_noticed() {
        let mut out = Writer::new();
        out.sized(&vec![7; 65_535]);
        assert!(out.check().is_ok());
        out.sized(&vec![7; 65_536]);
        assert!(out.check().is_err());
    }
}
