//! Where PINs come from: the terminal, or a file descriptor that a script holds open. Never the command
//! line or the environment, which other processes can read.

use std::fs::File;
use std::io::{ErrorKind, Read};

use tpm11::token::login::PIN_BYTES;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};

/// A PIN, wiped when dropped.
pub(crate) type Pin = Zeroizing<Vec<u8>>;

/// File descriptors that PINs are read from, each opened once: two PINs may come from one, a line
/// each.
#[derive(Default)]
pub(crate) struct Descriptors(Vec<(u32, Box<dyn Read>)>);

impl Descriptors {
    /// The next line of a descriptor.
    ///
    /// # Errors
    /// If there is no such descriptor or no line, or the line is no PIN.
    pub(crate) fn read(&mut self, number: u32) -> Result<Pin, Failure> {
        if !self.0.iter().any(|(open, _)| *open == number) {
            self.0.push((number, open(number)?));
        }
        let mut pin = Pin::default();
        pin.reserve_exact(PIN_BYTES.end() + 1); // so that no copy is left behind by growing
        if let Some((_, reader)) = self.0.iter_mut().find(|(open, _)| *open == number) {
            read_line(reader.as_mut(), &mut pin).map_err(|error| unreadable(number, &error))?;
        }
        checked(pin)
    }
}

/// Opens what a descriptor leads to.
fn open(number: u32) -> Result<Box<dyn Read>, Failure> {
    if number == 0 {
        return Ok(Box::new(std::io::stdin()));
    }
    let file = File::open(format!("/proc/self/fd/{number}"))
        .map_err(|error| unreadable(number, &error))?;
    Ok(Box::new(file))
}

fn unreadable(number: u32, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Pin, format_args!("file descriptor {number} cannot be read: {error}"))
        .hint("for instance `tpm11 init --so-pin-fd 3 3<so.pin`")
}

/// Reads byte by byte, for what follows the line may be the next PIN. Stops after one byte too many.
fn read_line(reader: &mut dyn Read, line: &mut Vec<u8>) -> std::io::Result<()> {
    let mut byte = Zeroizing::new([0]);
    while line.len() <= *PIN_BYTES.end() {
        match reader.read(byte.as_mut()) {
            Ok(0) => break,
            Ok(_) if *byte == *b"\n" => break,
            Ok(_) => line.extend_from_slice(byte.as_ref()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Asks on the terminal, once: for what is not chosen but known.
pub(crate) fn ask_once(text: &str) -> Result<Pin, Failure> {
    checked(prompt(text.to_owned())?)
}

fn prompt(text: String) -> Result<Pin, Failure> {
    let typed = rpassword::prompt_password(text).map_err(|error| {
        Failure::new(Exit::Pin, format_args!("no PIN can be asked for: {error}"))
            .hint("without a terminal give PINs by `--so-pin-fd N` and `--pin-fd N`")
    })?;
    Ok(Zeroizing::new(typed.into_bytes()))
}

/// Asks on the terminal, twice.
///
/// # Errors
/// If there is no terminal, or the two differ, or it is no PIN.
pub(crate) fn ask(whose: &str) -> Result<Pin, Failure> {
    let first = checked(prompt(format!("New {whose} PIN: "))?)?;
    if prompt(format!("The {whose} PIN again: "))? != first {
        return Err(Failure::new(Exit::Pin, "the two PINs differ"));
    }
    Ok(first)
}

fn checked(pin: Pin) -> Result<Pin, Failure> {
    if PIN_BYTES.contains(&pin.len()) {
        return Ok(pin);
    }
    let what = if pin.is_empty() { "the PIN is empty" } else { "the PIN is too short or too long" };
    Err(Failure::new(Exit::Pin, what).hint("a PIN has 4 to 255 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(mut text: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut line = Vec::new();
        read_line(&mut text, &mut line).unwrap();
        (line, text.to_vec())
    }

    #[test]
    fn a_pin_is_one_line_and_the_next_line_is_left_alone() {
        assert_eq!(line_of(b"one\ntwo\n"), (b"one".to_vec(), b"two\n".to_vec()));
        assert_eq!(line_of(b"no end"), (b"no end".to_vec(), Vec::new()));
        assert_eq!(line_of(b" kept \r\n").0, b" kept \r");
        assert_eq!(line_of(b"").0, b"");
    }

    #[test]
    fn a_pin_of_wrong_length_is_refused() {
        assert!(checked(Zeroizing::new(vec![b'1'; 4])).is_ok());
        assert!(checked(Zeroizing::new(vec![b'1'; 255])).is_ok());
        for length in [0, 3, 256] {
            assert!(checked(Zeroizing::new(vec![b'1'; length])).is_err(), "{length}");
        }
        let (line, _) = line_of(&[b'1'; 1000]);
        assert!(checked(Zeroizing::new(line)).is_err());
    }
}
