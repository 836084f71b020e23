//! Making tokens: C_InitToken, and what a crash in the middle of it left. PKCS#11 3.2 §5.5.6.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::GateChoice;
use crate::crypto::drbg;
use crate::error::{Error, Result};
use crate::fork::Kept;
use crate::store::{NewToken, Sealer, Store, TokenChange, TokenRow, TokenState};
use crate::sync::plain::atomic::AtomicBool;
use crate::tpm::Call;
use crate::tpm::pin::{Gate, Mode, NewGate, RecoveryCode, Role, Settled, Stage};

use super::login::check_length;
use super::slot::{Home, Initial};
use super::token::Token;

/// C_InitToken on a token that is there: the SO's PIN is asked first, the new token takes the old one's
/// place in one commit, and only then the old PIN indices go.
pub(super) fn reinitialise(
    call: &Call,
    old: &Arc<Token>,
    serial: [u8; 16],
    initial: &Initial<'_>,
) -> Result<(Arc<Token>, Option<RecoveryCode>)> {
    let _turn = old.turn.lock();
    let gate = {
        let state = old.state()?;
        if !state.sessions.is_empty() {
            return Err(Error::SessionExists);
        }
        state.gate.clone()
    };
    check_length(initial.so_pin)?;
    old.writable()?;
    let outcome = old.home.tpm.login(call, &gate, Role::So, initial.so_pin);
    old.counted(call, &gate, Role::So, outcome)?;
    let replaces = Some(old.serial);
    let (token, code) = create(call, &old.home, &old.store, serial, initial, replaces)?;
    log::info!("token {}: initialised anew, now {}", old.name(), token.name());
    Ok((token, code))
}

/// Makes a token, in steps that survive a crash: what the journal of the gate has seen is on disk.
pub(super) fn create(
    call: &Call,
    home: &Arc<Home>,
    store: &Arc<Store>,
    serial: [u8; 16],
    initial: &Initial<'_>,
    replaces: Option<[u8; 16]>,
) -> Result<(Arc<Token>, Option<RecoveryCode>)> {
    settle_interrupted(call, home, store);
    let _busy = Creating::begin(&serial);
    let srk = home.tpm.srk_name(call)?;
    let facts = home.tpm.facts(call)?;
    let mut token_secret = Zeroizing::new([0; 32]);
    let from_chip = home.tpm.random(call, Some(&srk), token_secret.len())?;
    drbg::Drbg::new(&from_chip)?.fill(token_secret.as_mut());
    let sealer = Sealer::new(&token_secret, &serial);
    let new = NewGate {
        serial,
        srk: srk.clone(),
        limit: home.pin.limit,
        iterations: home.pin.kdf_iterations,
        mode: mode(home.pin.gate),
        owner_auth: Zeroizing::new(Vec::new()),
        recovery: initial.recovery,
        so_pin: initial.so_pin,
        token_secret,
        // Undefined from the store's note, which outlives a crash.
        retired: Vec::new(),
    };
    let mut planned = false;
    let mut journal = |gate: &Gate, stage: Stage| -> Result<()> {
        match stage {
            Stage::Planned if !planned => {
                store.insert_token(
                    &NewToken {
                        serial,
                        label: *initial.label,
                        gate: gate.to_bytes(),
                        srk_name: srk.clone(),
                        replaces,
                    },
                    &sealer,
                )?;
                planned = true;
            }
            Stage::Planned | Stage::Sealed | Stage::Written => {
                let change = TokenChange { gate: Some(gate.to_bytes()), ..TokenChange::default() };
                store.update_token(&serial, &change)?;
            }
        }
        if stage == Stage::Written {
            store.activate(&serial, replaces.as_ref())?;
        }
        Ok(())
    };
    let code = match home.tpm.create_gate(call, &new, &mut journal) {
        Ok((_, code)) => code,
        Err(error) => {
            // Nothing is left in the TPM, or settling finds it: the row says where.
            let row = store.token(&serial).ok().flatten();
            if let Some(row) = row.filter(|row| row.state == TokenState::Pending) {
                settle(call, home, store, &row);
            }
            let made = store.token(&serial).ok().flatten();
            let whole = made.is_some_and(|row| row.state == TokenState::Active);
            // A recovery code that was to be told is lost with the error.
            if !whole || initial.recovery {
                return Err(error);
            }
            log::info!("its last commit failed and was made up for: {error}");
            None
        }
    };
    if let Err(error) = forget_replaced(call, home, store, &serial) {
        log::warn!("the replaced token's PIN indices are still there: {error}");
    }
    if let Err(fault) = store.keep_facts(&srk, &facts.to_bytes()) {
        log::info!("the TPM's facts are not kept: {fault}");
    }
    let row = store
        .token(&serial)?
        .ok_or_else(|| Error::Device("the new token was removed by another program".into()))?;
    Ok((Token::new(home.clone(), store.clone(), home.handles.clone(), row)?, code))
}

pub(super) fn mode(choice: GateChoice) -> Mode {
    match choice {
        GateChoice::Auto => Mode::Auto,
        GateChoice::Nv => Mode::Nv,
        GateChoice::Da => Mode::Da,
    }
}

/// Ends what interrupted C_InitToken calls left: creations forward where the SO's PIN index is written,
/// else back; and of tokens that were replaced, what the TPM still has. Never while their process lives.
/// What cannot be ended now stays for the next time.
pub(super) fn settle_interrupted(call: &Call, home: &Home, store: &Store) {
    for row in store.tokens().unwrap_or_default() {
        if (row.state == TokenState::Pending || row.replaced.is_some())
            && !Creating::under_way(&row.serial)
        {
            settle(call, home, store, &row);
        }
    }
}

/// The same for one token, in this process's own hands.
fn settle(call: &Call, home: &Home, store: &Store, row: &TokenRow) {
    let name = String::from_utf8_lossy(&row.serial);
    let outcome = match row.state {
        TokenState::Pending => settle_pending(call, home, store, row),
        TokenState::Active => Ok(()),
    }
    .and_then(|()| forget_replaced(call, home, store, &row.serial));
    if let Err(error) = outcome {
        log::warn!(
            "token {name}: its initialisation was interrupted, which is not mended yet: {error}"
        );
    }
}

fn settle_pending(call: &Call, home: &Home, store: &Store, row: &TokenRow) -> Result<()> {
    let name = String::from_utf8_lossy(&row.serial);
    let gate = Gate::from_bytes(&row.gate)
        .ok_or_else(|| Error::TokenNotRecognized("its PIN gate cannot be read".into()))?;
    match home.tpm.settle(call, &gate, b"") {
        Ok(Settled::Complete) => {
            store.activate(&row.serial, row.replaces.as_ref())?;
            log::info!("token {name}: its interrupted initialisation was completed");
        }
        // Whatever was in a TPM that was cleared is gone, and of another one this token is not.
        Ok(Settled::Removed) | Err(Error::ForeignTpm) => {
            store.delete_token(&row.serial)?;
            log::info!("token {name}: its interrupted initialisation was taken back");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Undefines the PIN indices of the token that this one took the place of: only then every old copy of
/// it is dead.
pub(super) fn forget_replaced(
    call: &Call,
    home: &Home,
    store: &Store,
    serial: &[u8; 16],
) -> Result<()> {
    let Some(bytes) = store.token(serial)?.and_then(|row| row.replaced) else { return Ok(()) };
    if let Some(gate) = Gate::from_bytes(&bytes) {
        match home.tpm.remove_gate(call, &gate, b"") {
            Ok(()) | Err(Error::ForeignTpm) => {}
            Err(error) => return Err(error),
        }
    }
    let gone = TokenChange { replaced_is_gone: true, ..TokenChange::default() };
    Ok(store.update_token(serial, &gone)?)
}

/// Says to other processes that this one is creating a token: a socket in the abstract name space, which
/// falls with its process and leaves no file.
pub(super) struct Creating(#[allow(dead_code)] Option<Kept<UnixListener>>);

impl Creating {
    pub(super) fn begin(serial: &[u8; 16]) -> Self {
        let listener = Self::address(serial).and_then(|at| UnixListener::bind_addr(&at).ok());
        Self(listener.map(Kept::new))
    }

    fn under_way(serial: &[u8; 16]) -> bool {
        Self::address(serial).is_some_and(|at| UnixStream::connect_addr(&at).is_ok())
    }

    fn address(serial: &[u8; 16]) -> Option<SocketAddr> {
        SocketAddr::from_abstract_name([b"tpm11-creates-".as_slice(), serial].concat()).ok()
    }
}

/// A call that no session knows: C_InitToken's.
pub(super) fn sessionless_call(home: &Home, stop: &Arc<AtomicBool>) -> Call {
    let limit: Duration = home.tpm.settings().keygen_timeout;
    home.tpm.call_within(limit, stop.clone())
}

#[cfg(test)]
mod tests {
    use super::super::slot::new_serial;
    use super::*;

    #[test]
    fn a_creation_is_seen_while_it_runs_and_not_afterwards() {
        let serial = new_serial(1).expect("random bytes");
        assert!(!Creating::under_way(&serial));
        let creating = Creating::begin(&serial);
        assert!(Creating::under_way(&serial));
        drop(creating);
        assert!(!Creating::under_way(&serial));
    }
}
