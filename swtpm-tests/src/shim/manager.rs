//! The kernel's resource manager (/dev/tpmrm0), imitated: what drivers/char/tpm/tpm2-space.c does,
//! and so what each command costs the chip.
//!
//! An open file is a *space* with at most three transient objects and three sessions. Around each
//! command of the file all of them are brought in (TPM2_ContextLoad) and taken out again: objects by
//! TPM2_ContextSave and TPM2_FlushContext, sessions by TPM2_ContextSave, which takes a session out
//! by itself. The client sees virtual handles for objects, the real ones for sessions. Closing the
//! file flushes its sessions and forgets its objects, which are not in the chip by then.
//!
//! Where the kernel answers with an errno instead of a response, a socket can only be closed: that
//! is `None` here. But for the context gap, whose errno (EFAULT) a client must tell from others: there
//! the answer is what the chip said to the kernel, TPM_RC_CONTEXT_GAP.

use super::Upstream;
use crate::wire::{self, Parsed};

const SLOTS: usize = 3;
const FIRST_VIRTUAL: u32 = 0x80FF_FFFF;

#[derive(Debug, Clone)]
struct Object {
    context: Vec<u8>,
    /// While a command runs: its handle in the chip.
    loaded: Option<u32>,
}

/// One open file of /dev/tpmrm0.
#[derive(Debug, Default)]
pub struct Space {
    objects: [Option<Object>; SLOTS],
    sessions: [Option<(u32, Vec<u8>)>; SLOTS],
    hidden: usize,
}

/// Something for which the kernel returns an errno.
enum Errno {
    /// EFAULT, because the chip cannot save or load a session: its response code.
    Gap(u32),
    /// Any other.
    Other,
}

const HANDLE: u32 = 0x08B;
const CONTEXT_GAP: u32 = 0x901;
const REFERENCE_H0: u32 = 0x910;

/// The code without the number of handle, session or parameter.
fn plain(code: u32) -> u32 {
    if code & 0x80 != 0 { code & 0xBF } else { code }
}

fn errno(code: u32) -> Errno {
    if code == CONTEXT_GAP { Errno::Gap(code) } else { Errno::Other }
}

fn is_transient(handle: u32) -> bool {
    handle >> 24 == 0x80
}

fn is_session(handle: u32) -> bool {
    matches!(handle >> 24, 0x02 | 0x03)
}

impl Space {
    /// Runs one command of this file. Returns the response (`None`: an errno) and the number of
    /// commands that the chip executed around it.
    pub fn execute(
        &mut self,
        chip: &mut Upstream,
        command: &[u8],
        parsed: Option<&Parsed>,
    ) -> (Option<Vec<u8>>, usize) {
        self.hidden = 0;
        let response = self.run(chip, command, parsed);
        let response = match response {
            Ok(response) => Some(response),
            Err(Errno::Gap(code)) => Some(wire::answer(code)),
            Err(Errno::Other) => None,
        };
        (response, std::mem::take(&mut self.hidden))
    }

    fn run(
        &mut self,
        chip: &mut Upstream,
        command: &[u8],
        parsed: Option<&Parsed>,
    ) -> Result<Vec<u8>, Errno> {
        self.load(chip)?;
        let mut mapped = command.to_vec();
        for (index, handle) in parsed.iter().flat_map(|parsed| parsed.handles.iter().enumerate()) {
            if is_transient(*handle) {
                let Some(loaded) = self.real(*handle) else {
                    self.save(chip)?;
                    return Err(Errno::Other);
                };
                let at = 10 + 4 * index;
                mapped[at..at + 4].copy_from_slice(&loaded.to_be_bytes());
            }
        }
        let mut response = chip.transmit(&mapped).map_err(|_| Errno::Other)?;
        self.adopt(chip, parsed, &mut response)?;
        self.save(chip)?;
        Ok(response)
    }

    fn real(&self, handle: u32) -> Option<u32> {
        let slot = FIRST_VIRTUAL.checked_sub(handle)? as usize;
        self.objects.get(slot)?.as_ref()?.loaded
    }

    /// Gives what a command made a place in this space.
    fn adopt(
        &mut self,
        chip: &mut Upstream,
        parsed: Option<&Parsed>,
        response: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let Some(parsed) = parsed else { return Ok(()) };
        if wire::response_code(response) != 0 {
            return Ok(());
        }
        if wire::lookup(parsed.code).is_some_and(|known| known.makes) {
            let made = wire::u32_at(response, 10);
            if is_transient(made) {
                let Some(slot) = self.objects.iter().position(Option::is_none) else {
                    self.hidden(chip, &flush(made))?;
                    self.save(chip)?;
                    return Err(Errno::Other);
                };
                self.objects[slot] = Some(Object { context: Vec::new(), loaded: Some(made) });
                let handle = FIRST_VIRTUAL - slot as u32;
                response[10..14].copy_from_slice(&handle.to_be_bytes());
            } else if is_session(made) {
                let Some(slot) = self.sessions.iter().position(Option::is_none) else {
                    self.hidden(chip, &flush(made))?;
                    self.save(chip)?;
                    return Err(Errno::Other);
                };
                self.sessions[slot] = Some((made, Vec::new()));
            }
        }
        if parsed.code == wire::GET_CAPABILITY && wire::u32_at(response, 11) == 1 {
            let mut handles = Vec::new();
            for bytes in response[19..].chunks_exact(4) {
                let handle = wire::u32_at(bytes, 0);
                if !is_transient(handle) {
                    handles.push(handle);
                } else if let Some(slot) = self
                    .objects
                    .iter()
                    .position(|object| object.as_ref().is_some_and(|o| o.loaded == Some(handle)))
                {
                    handles.push(FIRST_VIRTUAL - slot as u32);
                }
            }
            response.truncate(19);
            response.extend(handles.iter().flat_map(|handle| handle.to_be_bytes()));
            response[15..19].copy_from_slice(&(handles.len() as u32).to_be_bytes());
            let length = (response.len() as u32).to_be_bytes();
            response[2..6].copy_from_slice(&length);
        }
        Ok(())
    }

    fn hidden(&mut self, chip: &mut Upstream, command: &[u8]) -> Result<Vec<u8>, Errno> {
        self.hidden += 1;
        chip.transmit(command).map_err(|_| Errno::Other)
    }

    fn load(&mut self, chip: &mut Upstream) -> Result<(), Errno> {
        for slot in 0..SLOTS {
            let Some(object) = self.objects[slot].clone() else { continue };
            let response = self.hidden(chip, &load_context(&object.context))?;
            if wire::response_code(&response) != 0 {
                return Err(Errno::Other);
            }
            let loaded = Some(wire::u32_at(&response, 10));
            self.objects[slot] = Some(Object { loaded, ..object });
        }
        for slot in 0..SLOTS {
            let Some((handle, context)) = self.sessions[slot].clone() else { continue };
            let response = self.hidden(chip, &load_context(&context))?;
            match wire::response_code(&response) {
                0 if wire::u32_at(&response, 10) == handle => {}
                code if plain(code) == HANDLE || code == REFERENCE_H0 => self.sessions[slot] = None,
                code => {
                    self.empty(chip);
                    return Err(errno(code));
                }
            }
        }
        Ok(())
    }

    fn save(&mut self, chip: &mut Upstream) -> Result<(), Errno> {
        for slot in 0..SLOTS {
            let Some(handle) = self.objects[slot].as_ref().and_then(|object| object.loaded) else {
                continue;
            };
            let response = self.hidden(chip, &save_context(handle))?;
            match wire::response_code(&response) {
                0 => {
                    let context = response[10..].to_vec();
                    self.objects[slot] = Some(Object { context, loaded: None });
                    self.hidden(chip, &flush(handle))?;
                }
                REFERENCE_H0 => self.objects[slot] = None,
                _ => return Err(Errno::Other),
            }
        }
        for slot in 0..SLOTS {
            let Some((handle, _)) = self.sessions[slot] else { continue };
            let response = self.hidden(chip, &save_context(handle))?;
            match wire::response_code(&response) {
                0 => self.sessions[slot] = Some((handle, response[10..].to_vec())),
                REFERENCE_H0 => self.sessions[slot] = None,
                code => {
                    self.empty(chip);
                    return Err(errno(code));
                }
            }
        }
        Ok(())
    }

    /// After something the kernel cannot mend: everything of this space is flushed.
    fn empty(&mut self, chip: &mut Upstream) {
        for slot in 0..SLOTS {
            if let Some(handle) = self.objects[slot].take().and_then(|object| object.loaded) {
                let _ = self.hidden(chip, &flush(handle));
            }
            if let Some((handle, _)) = self.sessions[slot].take() {
                let _ = self.hidden(chip, &flush(handle));
            }
        }
    }

    /// The file is closed. Returns the number of commands that this cost.
    pub fn close(mut self, chip: &mut Upstream) -> usize {
        self.empty(chip);
        self.hidden
    }
}

fn load_context(context: &[u8]) -> Vec<u8> {
    wire::command(wire::CONTEXT_LOAD, &[], None, context)
}

fn save_context(handle: u32) -> Vec<u8> {
    wire::command(wire::CONTEXT_SAVE, &[handle], None, &[])
}

fn flush(handle: u32) -> Vec<u8> {
    wire::command(wire::FLUSH_CONTEXT, &[handle], None, &[])
}
