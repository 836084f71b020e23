//! What a killed process left in a bare TPM: objects and sessions that belong to nobody, because only
//! one client is ever connected. Never asked behind a resource manager, mssim or tabrmd.

use std::time::Duration;

use super::command::{Capability, FlushContext, GetCapability, ReadPublic};
use super::execute::execute;
use super::fault::Fault;
use super::ledger::is_session;
use super::transport::Transport;
use super::{Call, Name};

/// How long they are left alone between two looks: a program that reconnects for every command
/// (tpm2-tools with swtpm) is not connected all the time either.
pub(super) const WAITS: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// TPM_HT_TRANSIENT and TPM_HT_LOADED_SESSION: where listing begins. Part 2 §7.2. The sessions listed
/// are the loaded ones of both kinds, HMAC and policy; saved ones belong to whoever has their context.
const OBJECTS: u32 = 0x8000_0000;
const LOADED_SESSIONS: u32 = 0x0200_0000;

/// Handles of loaded objects and sessions, whoever loaded them.
pub(super) fn list(link: &mut dyn Transport, call: &Call) -> Result<Vec<u32>, Fault> {
    let mut handles = Vec::new();
    for first in [OBJECTS, LOADED_SESSIONS] {
        let ask = GetCapability { of: Capability::Handles, first, count: 32 };
        let listed = execute(link, &ask, &mut [], call)?;
        let fits = |handle: &u32| match first {
            OBJECTS => handle >> 24 == OBJECTS >> 24,
            _ => is_session(*handle),
        };
        handles.extend(listed.items.iter().map(|item| item.0).filter(fits));
    }
    Ok(handles)
}

/// Flushes these, objects whose Name is known first; one log line each.
pub(super) fn remove(
    link: &mut dyn Transport,
    handles: &[u32],
    knows: &dyn Fn(&[u8]) -> bool,
    call: &Call,
) -> Result<(), Fault> {
    let mut queue: Vec<(bool, u32, Option<Name>)> = Vec::new();
    for handle in handles.iter().copied() {
        // A sequence or a full TPM has no public area to read: then without a Name.
        let name = match is_session(handle) {
            true => None,
            false => execute(link, &ReadPublic { handle }, &mut [], call)
                .ok()
                .map(|found| found.entity.name),
        };
        let ours = name.as_deref().is_some_and(knows);
        queue.push((!ours, handle, name));
    }
    queue.sort_by_key(|(strange, ..)| *strange);
    for (strange, handle, _) in queue {
        let what = match (is_session(handle), strange) {
            (true, _) => "a session",
            (false, true) => "an object of another program",
            (false, false) => "a key of ours",
        };
        match execute(link, &FlushContext { handle }, &mut [], call) {
            Ok(()) => log::warn!("tpm: flushed {handle:#010x}, {what} that a dead process left"),
            Err(fault) if fault.code().is_some() => {
                log::warn!("tpm: cannot flush {handle:#010x}, left by a dead process: {fault}");
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}
