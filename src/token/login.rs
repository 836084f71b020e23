//! Who may do what: login and logout, the PINs, and the hints behind the PIN flags.
//! PKCS#11 3.2 §5.5.7, §5.5.8, §5.6.9 to §5.6.11.
//!
//! One C_ call sends the TPM at most one PIN. What can be refused without asking the TPM is refused
//! before: it costs no try. The TPM counts wrong PINs; what it counted is kept as a hint, so that
//! C_GetTokenInfo can tell without asking.

use cryptoki_sys::{
    CKF_SO_PIN_COUNT_LOW, CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED, CKF_USER_PIN_COUNT_LOW,
    CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED, CKU_CONTEXT_SPECIFIC, CKU_SO, CKU_USER,
};
use std::sync::Arc;
use zeroize::Zeroizing;

use crate::crypto::secret::Secret;
use crate::error::{Error, Result};
use crate::store::{Hint, Sealer, TokenChange};
use crate::tpm::Call;
use crate::tpm::pin::{self, Gate, Role};

use super::create::settle_interrupted;
use super::session::Session;
use super::token::{Opened, SoSecrets, Token, Who};

/// PINs have 4 to 255 bytes, any bytes.
pub const PIN_BYTES: std::ops::RangeInclusive<usize> = 4..=255;

/// Whether a PIN of this length can be one.
///
/// # Errors
/// `PinLength`
pub(super) fn check_length(pin: &[u8]) -> Result<()> {
    if PIN_BYTES.contains(&pin.len()) { Ok(()) } else { Err(Error::PinLength) }
}

/// The flags of C_GetTokenInfo for what was last seen of a role's count. PKCS#11 3.2 §3.2.
pub(super) fn pin_flags(role: Role, hint: Hint) -> u64 {
    let (low, last, locked) = match role {
        Role::User => (CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED),
        Role::So => (CKF_SO_PIN_COUNT_LOW, CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED),
    };
    if hint.count == 0 {
        0
    } else if hint.limit == 0 || hint.limit.saturating_sub(hint.count) > 1 {
        low
    } else if hint.count < hint.limit {
        low | last
    } else {
        low | locked
    }
}

impl Session {
    /// C_Login. `user` is a CKU_ number; a NULL PIN of length 0 is an empty slice.
    ///
    /// # Errors
    /// `UserTypeInvalid`, `AlreadyLoggedIn`, `AnotherLoggedIn`, `SessionReadOnlyExists`,
    /// `PinNotInitialized`, `PinLength`: no try is spent. `WrongPin`, `PinLocked`; `ForeignTpm` and
    /// `Device`: no PIN was sent. `OperationNotInitialized` for a context-specific login that nothing
    /// asks for.
    pub fn login(&self, user: u64, pin: &[u8]) -> Result<()> {
        self.alive()?;
        match user {
            CKU_USER => self.token.login_user(&self.call(0), pin),
            CKU_SO => self.token.login_so(&self.call(0), pin),
            CKU_CONTEXT_SPECIFIC => self.login_context(pin),
            _ => Err(Error::UserTypeInvalid),
        }
    }

    /// C_LoginUser. Our tokens have no user names: an empty one is C_Login.
    ///
    /// # Errors
    /// As [`Session::login`]; `UserTypeInvalid` for a name.
    pub fn login_user(&self, user: u64, pin: &[u8], name: &[u8]) -> Result<()> {
        self.alive()?;
        if !name.is_empty() {
            return Err(Error::UserTypeInvalid);
        }
        self.login(user, pin)
    }

    /// The TPM sees the PIN now, for one use of the key that the last C_XxxInit was given. A wrong PIN
    /// leaves the operation as it was: without login.
    fn login_context(&self, pin: &[u8]) -> Result<()> {
        let call = self.call(0);
        let mut operations = self.operations.lock();
        let blob = Self::asking(&mut operations)?;
        check_length(pin)?;
        let gate = {
            let state = self.token.state()?;
            if state.who != Who::User {
                return Err(Error::NotLoggedIn);
            }
            state.gate.clone()
        };
        Self::permit(&mut operations, None);
        let key = self.asked_key(blob);
        let outcome = self.token.home.tpm.authorize_once(&call, &key, &gate, pin);
        let grant = self.token.counted(&call, &gate, Role::User, outcome)?;
        Self::permit(&mut operations, Some(grant));
        Ok(())
    }

    /// C_Logout
    ///
    /// # Errors
    /// `NotLoggedIn`
    pub fn logout(&self) -> Result<()> {
        self.alive()?;
        let mut state = self.token.known_state();
        if state.who == Who::Nobody {
            return Err(Error::NotLoggedIn);
        }
        self.token.close(&mut state);
        Ok(())
    }

    /// C_InitPIN. An empty PIN makes the token PIN-less.
    ///
    /// # Errors
    /// `NotLoggedIn` unless the SO is, `PinLength`, `TokenWriteProtected`; the TPM's and the store's.
    pub fn init_pin(&self, pin: &[u8]) -> Result<()> {
        self.alive()?;
        let _turn = self.token.turn.lock();
        let (gate, opened) = {
            let state = self.token.state()?;
            match (&state.who, &state.opened) {
                (Who::So, Some(opened)) => (state.gate.clone(), opened.clone()),
                _ => return Err(Error::NotLoggedIn),
            }
        };
        if !pin.is_empty() {
            check_length(pin)?;
        }
        self.may_write()?;
        let so = opened.so()?;
        let call = self.call(0);
        let changed = self.token.home.tpm.set_user_pin(&call, &gate, &so, pin)?;
        self.token.store.update_token(
            &self.token.serial,
            &TokenChange {
                gate: changed.map(|gate| gate.to_bytes()),
                user_pin_set: Some(true),
                pinless: Some(pin.is_empty()),
                ..TokenChange::default()
            },
        )?;
        let limit = gate.limit();
        self.token.keep_hint(Role::User, Hint { count: 0, limit });
        log::info!(
            "token {}: the SO {}",
            self.token.name(),
            if pin.is_empty() { "lets the user in without a PIN" } else { "set the user's PIN" }
        );
        Ok(())
    }

    /// The SO takes back the count of wrong user PINs; the PIN stays. For the tool: C_InitPIN does the
    /// same with a new PIN.
    ///
    /// # Errors
    /// `NotLoggedIn` unless the SO is; `PinNotInitialized`, and `PinInvalid` on a token without user PIN;
    /// `FunctionRejected` where the TPM-wide lockout guards the PIN; the TPM's.
    pub fn unlock_pin(&self) -> Result<()> {
        self.alive()?;
        let _turn = self.token.turn.lock();
        let (gate, opened) = {
            let state = self.token.state()?;
            if state.row.pinless {
                return Err(Error::PinInvalid("the user has none here"));
            }
            if !state.row.user_pin_set {
                return Err(Error::PinNotInitialized);
            }
            match (&state.who, &state.opened) {
                (Who::So, Some(opened)) => (state.gate.clone(), opened.clone()),
                _ => return Err(Error::NotLoggedIn),
            }
        };
        self.token.home.tpm.unlock_user(&self.call(0), &gate, &opened.so()?)?;
        self.token.keep_hint(Role::User, Hint { count: 0, limit: gate.limit() });
        log::info!("token {}: the SO unlocked the user's PIN", self.token.name());
        Ok(())
    }

    /// C_SetPIN: the SO's while the SO is logged in, else the user's. The change happens in the TPM.
    ///
    /// # Errors
    /// `SessionReadOnly`, `PinLength`, `PinInvalid` on a token without user PIN; as [`Session::login`]
    /// for the old PIN.
    pub fn set_pin(&self, old: &[u8], new: &[u8]) -> Result<()> {
        self.alive()?;
        if !self.read_write {
            return Err(Error::SessionReadOnly);
        }
        let _turn = self.token.turn.lock();
        let (gate, role) = {
            let state = self.token.state()?;
            let role = if state.who == Who::So { Role::So } else { Role::User };
            if role == Role::User {
                if state.row.pinless {
                    return Err(Error::PinInvalid("the user has none here; the SO sets one"));
                }
                if !state.row.user_pin_set {
                    return Err(Error::PinNotInitialized);
                }
            }
            (state.gate.clone(), role)
        };
        check_length(old)?;
        check_length(new)?;
        let call = self.call(0);
        if !gate.has_indices() {
            // The fallback gate lives in the store: not to be found read-only afterwards.
            self.token.writable()?;
        }
        let outcome = self.token.home.tpm.change_pin(&call, &gate, role, old, new);
        let changed = self.token.counted(&call, &gate, role, outcome)?;
        if let Some(gate) = changed {
            self.token.store.update_token(
                &self.token.serial,
                &TokenChange { gate: Some(gate.to_bytes()), ..TokenChange::default() },
            )?;
        }
        Ok(())
    }
}

impl Token {
    fn login_user(&self, call: &Call, pin: &[u8]) -> Result<()> {
        let _turn = self.turn.lock();
        let gate = {
            let mut state = self.state()?;
            match state.who {
                Who::User => return Err(Error::AlreadyLoggedIn),
                Who::So => return Err(Error::AnotherLoggedIn),
                Who::Nobody => {}
            }
            if state.row.pinless {
                // Whatever was typed: there is nothing to compare it with, and no try to spend.
                state.who = Who::User;
                return Ok(());
            }
            if !state.row.user_pin_set {
                return Err(Error::PinNotInitialized);
            }
            state.gate.clone()
        };
        check_length(pin)?;
        let outcome = self.home.tpm.login(call, &gate, Role::User, pin);
        let secrets = self.counted(call, &gate, Role::User, outcome)?;
        let sealer = Sealer::new(&secrets.token_secret, &self.serial);
        drop(secrets);
        self.after_login(call, Role::User, &sealer);
        let opened = Arc::new(Opened { sealer, so: None });
        let mut state = self.state()?;
        state.objects.forget_content();
        state.opened = Some(opened);
        state.who = Who::User;
        Ok(())
    }

    fn login_so(&self, call: &Call, pin: &[u8]) -> Result<()> {
        let _turn = self.turn.lock();
        let gate = {
            let state = self.state()?;
            match state.who {
                Who::So => return Err(Error::AlreadyLoggedIn),
                Who::User => return Err(Error::AnotherLoggedIn),
                Who::Nobody => {}
            }
            if state.has_read_only_session() {
                return Err(Error::SessionReadOnlyExists);
            }
            state.gate.clone()
        };
        check_length(pin)?;
        let outcome = self.home.tpm.login(call, &gate, Role::So, pin);
        let secrets = self.counted(call, &gate, Role::So, outcome)?;
        let sealer = Sealer::new(&secrets.token_secret, &self.serial);
        let opened = Arc::new(Opened { sealer, so: Some(SoSecrets::keep(&secrets)) });
        drop(secrets);
        self.after_login(call, Role::So, &opened.sealer);
        let mut state = self.state()?;
        if state.has_read_only_session() {
            // Opened while the TPM compared the PIN.
            return Err(Error::SessionReadOnlyExists);
        }
        // What a token without user PIN had opened for everybody is closed for the SO.
        self.close(&mut state);
        state.opened = Some(opened);
        state.who = Who::So;
        Ok(())
    }

    /// What every login looks at: whether the set of objects is whole, what the TPM is and can. None of
    /// it makes the login fail.
    fn after_login(&self, call: &Call, role: Role, sealer: &Sealer) {
        match self.store.verify_set(&self.serial, sealer) {
            Ok(report) if report.intact && report.bad.is_empty() => {}
            Ok(report) => {
                log::warn!("token {}: objects were changed outside of it: {report}", self.name());
            }
            Err(fault) => log::warn!("token {}: objects not checked: {fault}", self.name()),
        }
        // Firmware updates change what a TPM can, and its storage root key stays. The SO's login, which is
        // rare, looks; the user's is to be quick.
        if role == Role::So || self.facts().is_none() {
            self.learn_facts(call);
        }
        settle_interrupted(call, &self.home, &self.store);
    }

    /// Asks the TPM what it is and can, and keeps it for all who look.
    pub(super) fn learn_facts(&self, call: &Call) {
        match self.home.tpm.facts(call) {
            Ok(facts) => {
                let srk = self.anchor().srk;
                if self.store.writable().is_ok() {
                    if let Err(fault) = self.store.keep_facts(&srk, &facts.to_bytes()) {
                        log::info!("token {}: the TPM's facts are not kept: {fault}", self.name());
                    }
                }
                self.set_facts(facts);
            }
            Err(fault) => log::info!("token {}: the TPM's facts are unknown: {fault}", self.name()),
        }
    }

    /// Keeps what a PIN command tells about the count of wrong PINs, and passes its outcome on.
    pub(super) fn counted<T>(
        &self,
        call: &Call,
        gate: &Gate,
        role: Role,
        outcome: Result<T>,
    ) -> Result<T> {
        let limit = gate.limit();
        let hint = match &outcome {
            Ok(_) => Some(Hint { count: 0, limit }),
            Err(Error::WrongPin { left: Some(left) }) => {
                Some(Hint { count: limit.saturating_sub(*left), limit })
            }
            Err(Error::PinLocked) => Some(Hint { count: limit, limit }),
            // What the TPM counts now is not known: ask, without a PIN.
            Err(Error::WrongPin { left: None }) => self
                .home
                .tpm
                .pin_count(call, gate, role)
                .ok()
                .map(|counted| Hint { count: counted.count, limit: counted.limit }),
            Err(_) => None,
        };
        if let Some(hint) = hint {
            self.keep_hint(role, hint);
        }
        outcome
    }

    /// Keeps a hint, in the store if it can be written and in this process anyway.
    fn keep_hint(&self, role: Role, hint: Hint) {
        let same = {
            let state = self.known_state();
            let kept = if role == Role::User { state.row.user_hint } else { state.row.so_hint };
            // A count of 0 is not worth a write if 0 is what stands there.
            kept == hint || (kept.count == 0 && hint.count == 0)
        };
        if same {
            return;
        }
        if let Err(fault) = self.store.keep_hint(&self.serial, role.into(), hint) {
            log::info!("token {}: the count of PINs is not kept: {fault}", self.name());
        }
        let mut state = self.known_state();
        match role {
            Role::User => state.row.user_hint = hint,
            Role::So => state.row.so_hint = hint,
        }
    }
}

impl SoSecrets {
    fn keep(opened: &pin::Opened) -> Self {
        Self {
            token_secret: Secret::copy(opened.token_secret.as_slice()),
            write_authority: opened.write_authority.as_ref().map(|w| Secret::copy(w.as_slice())),
        }
    }
}

impl Opened {
    /// What the SO's login opened, as the TPM floor takes it.
    ///
    /// # Errors
    /// `NotLoggedIn` if it was not the SO's.
    fn so(&self) -> Result<pin::Opened> {
        let so = self.so.as_ref().ok_or(Error::NotLoggedIn)?;
        let whole = |secret: &Secret| -> Result<Zeroizing<[u8; 32]>> {
            let mut bytes = Zeroizing::new([0; 32]);
            if secret.expose().len() != bytes.len() {
                return Err(Error::Bug("a secret has 32 bytes"));
            }
            bytes.copy_from_slice(secret.expose());
            Ok(bytes)
        };
        Ok(pin::Opened {
            token_secret: whole(&so.token_secret)?,
            write_authority: so.write_authority.as_ref().map(whole).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_come_in_the_order_low_final_locked() {
        let flags = |count| pin_flags(Role::User, Hint { count, limit: 3 });
        assert_eq!(flags(0), 0);
        assert_eq!(flags(1), CKF_USER_PIN_COUNT_LOW);
        assert_eq!(flags(2), CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY);
        assert_eq!(flags(3), CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_LOCKED);
        assert_eq!(flags(9), CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_LOCKED);
    }

    #[test]
    fn with_one_try_in_all_the_first_wrong_pin_locks() {
        let hint = Hint { count: 1, limit: 1 };
        assert_eq!(pin_flags(Role::So, hint), CKF_SO_PIN_COUNT_LOW | CKF_SO_PIN_LOCKED);
    }

    #[test]
    fn an_unknown_limit_never_says_locked() {
        let hint = Hint { count: 5, limit: 0 };
        assert_eq!(pin_flags(Role::User, hint), CKF_USER_PIN_COUNT_LOW);
    }

    #[test]
    fn pins_have_four_to_255_bytes() {
        for (length, good) in [(0, false), (3, false), (4, true), (255, true), (256, false)] {
            assert_eq!(check_length(&vec![0xFF; length]).is_ok(), good, "{length} bytes");
        }
    }
}
