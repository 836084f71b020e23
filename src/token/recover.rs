//! A token that its PINs do not open any more: its PIN indices are gone from the TPM, or nobody knows
//! the PINs. The recovery code opens the recovery seal, and what it holds is put behind a new gate.

use cryptoki_sys::{CKA_ALWAYS_AUTHENTICATE, CKA_CLASS, CKO_PRIVATE_KEY};

use crate::error::{Error, Result};
use crate::store::{self, Hint, Sealer, TokenChange};
use crate::tpm::Call;
use crate::tpm::pin::{Gate, NewGate, RecoveryCode, Stage};
use zeroize::Zeroizing;

use super::create::{Creating, forget_replaced, mode, settle_interrupted};
use super::login::check_length;
use super::token::Token;

impl Token {
    /// Makes a new gate around the token's secret, with this PIN for the SO and none for the user. The
    /// objects stay as they are. The new recovery code: the old one opens nothing here any more.
    ///
    /// Survives a crash: until the new gate is whole the old one stands in the store, and beside it
    /// what the TPM has to forget; afterwards it is the old one that is to be forgotten.
    ///
    /// Keys that ask for the PIN at each use are bound by the TPM to the old PIN index, and lost with it:
    /// while there are any nothing is changed unless the caller means to `give_up` these.
    ///
    /// # Errors
    /// `SessionExists`, `PinLength`, `TokenWriteProtected`; `NotSupported` if it was made without a
    /// recovery code, `PinInvalid` for a wrong one; `FunctionRejected` for the sake of such keys; the
    /// TPM's and the store's.
    pub fn recover(
        &self,
        call: &Call,
        code: &str,
        so_pin: &[u8],
        give_up: bool,
    ) -> Result<RecoveryCode> {
        let _turn = self.turn.lock();
        check_length(so_pin)?;
        let old = {
            let state = self.state()?;
            if !state.sessions.is_empty() {
                return Err(Error::SessionExists);
            }
            state.gate.clone()
        };
        self.writable()?;
        let (home, store, serial) = (&self.home, &self.store, &self.serial);
        settle_interrupted(call, home, store);
        let _busy = Creating::begin(serial);
        // There is one place in the row for what the TPM has to forget.
        forget_replaced(call, home, store, serial)?;
        let token_secret = home.tpm.recover(call, &old, code)?;
        let bound = self.bound_keys(&Sealer::new(&token_secret, serial))?;
        if bound > 0 && !give_up {
            return Err(Error::FunctionRejected(format!(
                "private keys that ask for the PIN at each use: {bound}; the TPM binds them to the old \
                 PIN for ever, and with a new one they can never be used again; nothing was changed"
            )));
        }
        let new = NewGate {
            serial: *serial,
            srk: old.srk().clone(),
            limit: home.pin.limit,
            iterations: home.pin.kdf_iterations,
            mode: mode(home.pin.gate),
            owner_auth: Zeroizing::new(Vec::new()),
            recovery: true,
            so_pin,
            token_secret,
            retired: Vec::new(),
        };
        let mut journal = |gate: &Gate, stage: Stage| -> Result<()> {
            let gate = Some(gate.to_bytes());
            let change = match stage {
                Stage::Planned | Stage::Sealed => {
                    TokenChange { replaced: gate, ..TokenChange::default() }
                }
                Stage::Written => TokenChange {
                    gate,
                    replaced: Some(old.to_bytes()),
                    user_pin_set: Some(false),
                    pinless: Some(false),
                    ..TokenChange::default()
                },
            };
            Ok(store.update_token(serial, &change)?)
        };
        let outcome = home.tpm.create_gate(call, &new, &mut journal);
        if let Err(error) = forget_replaced(call, home, store, serial) {
            log::warn!(
                "token {}: PIN indices that are no longer used remain: {error}",
                self.name()
            );
        }
        let (gate, code) = outcome?;
        let none = Hint { count: 0, limit: gate.limit() };
        for role in [store::Role::User, store::Role::So] {
            if let Err(fault) = store.keep_hint(serial, role, none) {
                log::info!("token {}: the count of PINs is not kept: {fault}", self.name());
            }
        }
        log::warn!("token {}: opened by its recovery code; its PINs are new", self.name());
        code.ok_or(Error::Bug("a gate without the recovery code that was asked for"))
    }

    /// How many private keys ask for the PIN at each use.
    fn bound_keys(&self, sealer: &Sealer) -> Result<usize> {
        let private = (CKA_CLASS, CKO_PRIVATE_KEY.to_be_bytes().to_vec());
        let template = [private, (CKA_ALWAYS_AUTHENTICATE, vec![1])];
        Ok(self.store.find(&self.serial, Some(sealer), &template)?.len())
    }
}
