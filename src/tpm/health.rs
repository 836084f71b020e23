//! What may change from day to day in a TPM: its lockout, and who owns it. TPM 2.0 Part 2 §6.13.

use std::time::Duration;

use super::Fault;
use super::command::{Capability, GetCapability};
use super::lease::Lease;

/// TPM_PT_PERMANENT and what follows it.
const PERMANENT: u32 = 0x200;
const STARTUP_CLEAR: u32 = 0x201;
const LOCKOUT_COUNTER: u32 = 0x20E;
const MAX_AUTH_FAIL: u32 = 0x20F;
const LOCKOUT_INTERVAL: u32 = 0x210;
const LOCKOUT_RECOVERY: u32 = 0x211;

/// How a TPM is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// The owner hierarchy has a password.
    pub owner_password: bool,
    /// The lockout hierarchy has a password.
    pub lockout_password: bool,
    /// The TPM refuses everything that is under dictionary-attack protection.
    pub in_lockout: bool,
    /// The storage hierarchy, ours, is switched on.
    pub storage_enabled: bool,
    /// Wrong authorizations that the TPM remembers, of all programs.
    pub failures: u32,
    /// At this many it locks.
    pub limit: u32,
    /// One of them is forgotten each time that this has passed; zero: never.
    pub forgets_every: Duration,
    /// Sessions whose contexts are saved, of all programs.
    pub saved_sessions: usize,
    /// How long the lockout hierarchy itself is locked after one wrong password of its own.
    pub recovery: Duration,
}

/// TPM_HT_SAVED_SESSION, the first of its handles. Part 2 §7.4.
const SAVED_SESSIONS: u32 = 0x0300_0000;

/// Asks the TPM: two commands.
///
/// # Errors
/// The transport's, the TPM's.
pub fn survey(lease: &mut Lease) -> Result<Health, Fault> {
    let ask = GetCapability { of: Capability::Properties, first: PERMANENT, count: 64 };
    let listed = lease.execute(&ask, &mut [])?;
    let ask = GetCapability { of: Capability::Handles, first: SAVED_SESSIONS, count: 64 };
    let saved = lease.execute(&ask, &mut [])?;
    // They are listed under the handles that they have while they are loaded: HMAC or policy.
    let is_saved = |handle: u32| matches!(handle >> 24, 0x02 | 0x03);
    let saved_sessions = saved.items.iter().filter(|(handle, _)| is_saved(*handle)).count();
    Ok(Health { saved_sessions, ..of(&listed.items) })
}

fn of(properties: &[(u32, u32)]) -> Health {
    let value = |id| properties.iter().find(|item| item.0 == id).map_or(0, |item| item.1);
    // TPMA_PERMANENT and TPMA_STARTUP_CLEAR, Part 2 §8.6 and §8.7.
    let (permanent, startup) = (value(PERMANENT), value(STARTUP_CLEAR));
    Health {
        owner_password: permanent & 1 != 0,
        lockout_password: permanent & 1 << 2 != 0,
        in_lockout: permanent & 1 << 9 != 0,
        storage_enabled: startup & 1 << 1 != 0,
        failures: value(LOCKOUT_COUNTER),
        limit: value(MAX_AUTH_FAIL),
        forgets_every: Duration::from_secs(value(LOCKOUT_INTERVAL).into()),
        recovery: Duration::from_secs(value(LOCKOUT_RECOVERY).into()),
        saved_sessions: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_are_those_of_the_specification() {
        let health =
            of(&[(0x200, 0x205), (0x201, 0x8000_000F), (0x20E, 3), (0x20F, 32), (0x210, 7200)]);
        assert!(health.owner_password && health.lockout_password && health.in_lockout);
        assert!(health.storage_enabled);
        assert_eq!((health.failures, health.limit), (3, 32));
        assert_eq!(health.forgets_every, Duration::from_secs(7200));
        let health = of(&[(0x200, 0), (0x201, 0x8000_000D)]);
        assert!(!health.owner_password && !health.lockout_password && !health.in_lockout);
        assert!(!health.storage_enabled);
    }
}
