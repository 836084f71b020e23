//! A transport that keeps the book: which objects and sessions this connection has in the TPM. So
//! whatever a job leaves behind, by an early `?` too, is known and flushed at its end.

use std::time::Duration;

use super::transport::Transport;
use super::{Call, Fault};

/// TPM_CC numbers of the commands that make or end handles. TPM 2.0 Part 2 §6.5.2.
const START_AUTH_SESSION: u32 = 0x176;
const CONTEXT_LOAD: u32 = 0x161;
const CONTEXT_SAVE: u32 = 0x162;
const FLUSH_CONTEXT: u32 = 0x165;
const SEQUENCE_COMPLETE: u32 = 0x13E;
const MAKE_HANDLES: [u32; 8] = [
    START_AUTH_SESSION,
    CONTEXT_LOAD,
    0x131, // CreatePrimary
    0x157, // Load
    0x15B, // HMAC_Start
    0x167, // LoadExternal
    0x186, // HashSequenceStart
    0x191, // CreateLoaded
];

/// TPM_ST_SESSIONS
const SESSIONS: u16 = 0x8002;
/// continueSession of TPMA_SESSION. Part 2 §8.4.
const CONTINUE: u8 = 1;

/// A connection and what it holds.
pub(super) struct Ledger {
    line: Box<dyn Transport>,
    held: Vec<u32>,
    broken: bool,
    lost: Option<bool>,
    with_session: u32,
    commands: u64,
}

impl Ledger {
    /// A fresh connection, that holds nothing.
    pub(super) fn new(line: Box<dyn Transport>) -> Self {
        Self { line, held: Vec::new(), broken: false, lost: None, with_session: 0, commands: 0 }
    }

    /// Handles of loaded objects and sessions that this connection made and has not flushed, the
    /// oldest first.
    pub(super) fn held(&self) -> &[u32] {
        &self.held
    }

    /// Forgets a handle that is not there any more.
    pub(super) fn forget(&mut self, handle: u32) {
        self.held.retain(|held| *held != handle);
    }

    /// An error of the transport: the connection is of no more use.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// The command in flight when the line broke may have made a handle without our hearing of it:
    /// `true` if a session.
    pub(super) fn lost(&self) -> Option<bool> {
        self.lost
    }

    /// How many commands since the last call of this were sent while a session was there: a
    /// resource manager saved a session after each.
    pub(super) fn take_session_commands(&mut self) -> u32 {
        std::mem::take(&mut self.with_session)
    }

    /// How many commands were sent in all.
    pub(super) fn commands(&self) -> u64 {
        self.commands
    }

    fn enter(&mut self, command: &[u8], response: &[u8]) {
        let Some(code) = word(command, 6) else { return };
        if word(response, 6) != Some(0) {
            return;
        }
        if MAKE_HANDLES.contains(&code) {
            self.held.extend(word(response, 10));
        }
        if matches!(code, FLUSH_CONTEXT | SEQUENCE_COMPLETE)
            || (code == CONTEXT_SAVE && word(command, 10).is_some_and(is_session))
        {
            if let Some(handle) = word(command, 10) {
                self.forget(handle);
            }
        }
        for session in ended_sessions(code, command) {
            self.forget(session);
        }
    }
}

impl Transport for Ledger {
    fn transmit(&mut self, command: &[u8], call: &Call, limit: Duration) -> Result<Vec<u8>, Fault> {
        self.commands += 1;
        if self.held.iter().copied().any(is_session) {
            self.with_session += 1;
        }
        match self.line.transmit(command, call, limit) {
            Ok(response) => {
                self.enter(command, &response);
                Ok(response)
            }
            Err(fault) => {
                self.broken = true;
                let code = word(command, 6).filter(|code| MAKE_HANDLES.contains(code));
                self.lost = code.map(|code| code == START_AUTH_SESSION);
                Err(fault)
            }
        }
    }

    fn leak(self: Box<Self>) {
        self.line.leak();
    }
}

/// HMAC or policy session: TPM_HT_HMAC_SESSION, TPM_HT_POLICY_SESSION. Part 2 §7.2.
pub(super) fn is_session(handle: u32) -> bool {
    matches!(handle >> 24, 0x02 | 0x03)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(word))
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    let half = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(half).into())
}

/// The sessions that a command was the last of (continueSession clear).
fn ended_sessions(code: u32, command: &[u8]) -> Vec<u32> {
    let mut ended = Vec::new();
    if half(command, 0) != Some(SESSIONS.into()) {
        return ended;
    }
    let start = 10 + 4 * handle_count(code);
    let Some(size) = word(command, start) else { return ended };
    let end = start + 4 + size as usize;
    let mut at = start + 4;
    while at < end {
        let Some((handle, nonce)) = word(command, at).zip(half(command, at + 4)) else { break };
        let attributes = at + 6 + nonce;
        let Some((flags, hmac)) = command.get(attributes).zip(half(command, attributes + 1)) else {
            break;
        };
        if flags & CONTINUE == 0 && is_session(handle) {
            ended.push(handle);
        }
        at = attributes + 3 + hmac;
    }
    ended
}

/// How many handles stand before the authorizations. Part 3, by command.
fn handle_count(code: u32) -> usize {
    match code {
        // EvictControl, NV_UndefineSpace, NV_Increment, NV_Write, Certify, CertifyCreation,
        // ActivateCredential, Duplicate, NV_Read, ObjectChangeAuth, PolicySecret, PolicySigned, NV locks,
        // StartAuthSession
        0x120 | 0x122 | 0x134 | 0x135 | 0x136 | 0x137 | 0x138 | 0x147 | 0x148 | 0x14A | 0x14B
        | 0x14E | 0x14F | 0x150 | 0x151 | 0x160 | 0x176 => 2,
        // StirRandom, ContextLoad, LoadExternal, GetCapability, GetRandom, GetTestResult, Hash,
        // ReadClock, TestParms
        0x146 | 0x161 | 0x167 | 0x17A | 0x17B | 0x17C | 0x17D | 0x181 | 0x18A => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every command with success and the handle 0x80000001.
    struct Yes;

    impl Transport for Yes {
        fn transmit(&mut self, _: &[u8], _: &Call, _: Duration) -> Result<Vec<u8>, Fault> {
            Ok([&[0x80, 0x01, 0, 0, 0, 14, 0, 0, 0, 0], &[0x80u8, 0, 0, 1][..]].concat())
        }
        fn leak(self: Box<Self>) {}
    }

    fn send(ledger: &mut Ledger, tag: u16, code: u32, rest: &[u8]) {
        let size = u32::try_from(10 + rest.len()).unwrap();
        let command =
            [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), rest].concat();
        let call = Call::within(Duration::from_secs(1));
        ledger.transmit(&command, &call, Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn what_is_loaded_is_held_until_it_is_flushed() {
        let mut ledger = Ledger::new(Box::new(Yes));
        send(&mut ledger, 0x8001, 0x157, &[]);
        assert_eq!(ledger.held(), [0x8000_0001]);
        send(&mut ledger, 0x8001, FLUSH_CONTEXT, &[0x80, 0, 0, 1]);
        assert!(ledger.held().is_empty());
    }

    #[test]
    fn a_session_that_does_not_continue_is_gone() {
        let mut ledger = Ledger::new(Box::new(Yes));
        ledger.held = vec![0x0200_0000, 0x0300_0001];
        // Unseal with two sessions: the first continues, the second ends.
        let mut rest = vec![0x80, 0, 0, 1];
        let first = [&[2u8, 0, 0, 0, 0, 2, 9, 9, 1, 0, 1, 7][..]].concat();
        let second = [&[3u8, 0, 0, 1, 0, 0, 0, 0, 0][..]].concat();
        rest.extend(u32::try_from(first.len() + second.len()).unwrap().to_be_bytes());
        rest.extend(first);
        rest.extend(second);
        send(&mut ledger, 0x8002, 0x15E, &rest);
        assert_eq!(ledger.held(), [0x0200_0000]);
    }
}
