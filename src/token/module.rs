//! The module between C_Initialize and C_Finalize: its slots and its sessions.

use std::collections::HashMap;
use std::sync::Arc;

use cryptoki_sys::{CKF_ASYNC_SESSION, CKF_RW_SESSION, CKF_SERIAL_SESSION};

use crate::config::{self, ApiAttacks, Config, ConfigError, DatesChoice, PolicyConfig, SecretKeys};
use crate::error::{Error, Result};
use crate::mechanism::Sealing;
use crate::object::policy::{Dates, Guard, Policy};
use crate::store;
use crate::sync::plain::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, Rank};
use crate::tpm::pin::RecoveryCode;
use crate::tpm::{Limits, Settings, Tpm};

use super::create::{sessionless_call, settle_interrupted};
use super::handles::Handles;
use super::session::Session;
use super::slot::{Holds, Home, Initial, Slot, StorePlace, id_of, id_of_token, new_serial};
use super::token::{Token, Who};
use super::{MechanismInfo, SlotInfo, TokenInfo};

/// Everything that C_Initialize makes and C_Finalize ends.
pub struct Module {
    /// None if it could not be read.
    config: Option<Config>,
    pub(super) threads: bool,
    pub(super) handles: Arc<Handles>,
    pub(super) homes: Vec<Arc<Home>>,
    pub(super) shared: Mutex<Shared>,
    /// One C_InitToken at a time. It takes no other lock of the first rank.
    initialising: Mutex<()>,
    /// How C_Finalize stops it: sessions know their own calls.
    stop: Arc<AtomicBool>,
    finalizing: Mutex<bool>,
    woken: Condvar,
}

pub(super) struct Shared {
    /// In the order in which they appeared; none ever goes.
    pub(super) slots: Vec<Arc<Slot>>,
    pub(super) sessions: HashMap<u64, Arc<Session>>,
}

impl Module {
    /// C_Initialize. Never fails for what it finds: a broken configuration, store or TPM shows as
    /// slots that say so. `threads` is false with CKF_LIBRARY_CANT_CREATE_OS_THREADS. Touches no TPM.
    ///
    /// # Errors
    /// `Device` if the operating system gives no random bytes.
    pub fn new(config: Result<Config, ConfigError>, threads: bool) -> Result<Arc<Self>> {
        let handles = Arc::new(Handles::new()?);
        let mut slots = Vec::new();
        let homes = match &config {
            Ok(config) => {
                config.tpm.iter().map(|tpm| home(config, tpm, threads, &handles)).collect()
            }
            Err(error) => {
                let why = format!("configuration: {error}");
                log::error!("{why}");
                slots.push(Slot::new(id_of(b"configuration"), Holds::Broken(why.into())));
                Vec::new()
            }
        };
        let shared = Shared { slots, sessions: HashMap::new() };
        let module = Self::assemble(config.ok(), threads, handles, homes, shared);
        module.refresh()?;
        Ok(Arc::new(module))
    }

    pub(super) fn assemble(
        config: Option<Config>,
        threads: bool,
        handles: Arc<Handles>,
        homes: Vec<Arc<Home>>,
        shared: Shared,
    ) -> Self {
        Self {
            config,
            threads,
            handles,
            homes,
            shared: Mutex::new(Rank::Sessions, shared),
            initialising: Mutex::lasting(Rank::Sessions, ()),
            stop: Arc::default(),
            finalizing: Mutex::new(Rank::Leaf, false),
            woken: Condvar::new(),
        }
    }

    /// The configuration, if it could be read.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    pub(super) fn count_sessions(&self) -> usize {
        self.shared.lock().sessions.len()
    }

    /// Looks for tokens that appeared since, and for stores that can be read again. Slots never go.
    pub(super) fn refresh(&self) -> Result<()> {
        for home in &self.homes {
            // Read before the lock is taken: another process may be writing for a while.
            let read =
                |place: &StorePlace| place.store().and_then(|store| Ok((store.tokens()?, store)));
            let found: Vec<_> = home.places.iter().map(read).collect();
            let has_room = home.empty_slot && home.writable_store().is_ok();
            let mut shared = self.shared.lock();
            for (place, outcome) in home.places.iter().zip(found) {
                let broken = id_of(place.directory.as_os_str().as_encoded_bytes());
                let (rows, store) = match outcome {
                    Ok(found) => found,
                    Err(fault) => {
                        log::error!("{}: {fault}", place.directory.display());
                        shared.put(broken, Holds::Broken(fault.to_string().into()));
                        continue;
                    }
                };
                shared
                    .slots
                    .retain(|slot| slot.id != broken || !matches!(slot.holds(), Holds::Broken(_)));
                for row in rows {
                    let active = row.state == store::TokenState::Active;
                    let ours = *home.creating.lock() == Some(row.serial);
                    if !active || ours || shared.knows(&row.serial) {
                        continue;
                    }
                    let id = shared.id_for(home, &row.serial);
                    let serial = row.serial;
                    let (home, store, handles) =
                        (home.clone(), store.clone(), self.handles.clone());
                    let holds = match Token::new(home, store, handles, row) {
                        Ok(token) => Holds::Token(token),
                        Err(error) => Holds::Broken(
                            format!("token {}: {error}", String::from_utf8_lossy(&serial)).into(),
                        ),
                    };
                    shared.put(id, holds);
                }
            }
            let has_empty = shared.slots.iter().any(|slot| {
                matches!(slot.holds(), Holds::Empty { home: of, .. } if Arc::ptr_eq(&of, home))
            });
            if has_room && !has_empty {
                // The same in every process until there is a token: people read it from one program
                // and give it to the next.
                let id = shared.free_id(home.empty_id());
                let serial = new_serial(id)?;
                shared.put(id, Holds::Empty { home: home.clone(), serial });
            }
        }
        Ok(())
    }

    /// All slots, tokens first, empty ones last. For the tool, too.
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        let mut slots = self.shared.lock().slots.clone();
        slots.sort_by_key(|slot| match slot.holds() {
            Holds::Token(_) => 0,
            Holds::Broken(_) => 1,
            Holds::Empty { .. } => 2,
        });
        slots
    }

    /// As long as it lives, what this thread waits for in a store is given up at C_Finalize.
    pub fn stops_with_us(&self) -> store::Abandon {
        store::Abandon::when(self.stop.clone())
    }

    /// The TPMs with their stores.
    pub fn homes(&self) -> &[Arc<Home>] {
        &self.homes
    }

    fn slot(&self, id: u64) -> Result<Arc<Slot>> {
        let shared = self.shared.lock();
        shared.slots.iter().find(|slot| slot.id == id).cloned().ok_or(Error::SlotInvalid)
    }

    /// The session of a handle. Holds no lock afterwards.
    ///
    /// # Errors
    /// `SessionInvalid`
    pub fn session(&self, handle: u64) -> Result<Arc<Session>> {
        self.shared.lock().sessions.get(&handle).cloned().ok_or(Error::SessionInvalid)
    }

    /// C_Finalize: cancels what runs, wakes C_WaitForSlotEvent, closes all sessions and ends the
    /// leases. The door has already made the module unreachable for new calls.
    pub fn finalize(&self) {
        self.stop.store(true, Ordering::Release);
        *self.finalizing.lock() = true;
        self.woken.notify_all();
        let sessions = std::mem::take(&mut self.shared.lock().sessions);
        for session in sessions.values() {
            session.close();
            session.token.forget_session(session.handle);
        }
        for home in &self.homes {
            home.tpm.end();
        }
    }

    /// In a forked child: no input or output, nothing is dropped that would do any.
    pub fn leak(self: Arc<Self>) {
        for home in &self.homes {
            home.tpm.leak();
        }
        store::leak();
        std::mem::forget(self);
    }

    /// C_GetSlotList: all slot ids in their order. `present` asks for slots with a token only;
    /// the empty slot that C_InitToken takes counts as present, as an uninitialised token does.
    /// `refresh` (a call with a NULL buffer) looks for tokens that other processes made.
    ///
    /// # Errors
    /// `Device` if the operating system gives no random bytes.
    pub fn slot_list(&self, _present: bool, refresh: bool) -> Result<Vec<u64>> {
        if refresh {
            self.refresh()?;
        }
        Ok(self.slots().iter().map(|slot| slot.id).collect())
    }

    /// C_GetSlotInfo
    ///
    /// # Errors
    /// `SlotInvalid`
    pub fn slot_info(&self, slot: u64) -> Result<SlotInfo> {
        Ok(self.slot(slot)?.info())
    }

    /// C_GetTokenInfo. Asks the store, never the TPM.
    ///
    /// # Errors
    /// `SlotInvalid`, `TokenNotRecognized`
    pub fn token_info(&self, slot: u64) -> Result<TokenInfo> {
        self.slot(slot)?.token_info()
    }

    /// C_GetMechanismList
    ///
    /// # Errors
    /// `SlotInvalid`, `TokenNotRecognized`
    pub fn mechanism_list(&self, slot: u64) -> Result<Vec<u64>> {
        self.slot(slot)?.mechanism_list()
    }

    /// C_GetMechanismInfo
    ///
    /// # Errors
    /// `SlotInvalid`, `TokenNotRecognized`, `MechanismInvalid`
    pub fn mechanism_info(&self, slot: u64, mechanism: u64) -> Result<MechanismInfo> {
        self.slot(slot)?.mechanism_info(mechanism)
    }

    /// C_InitToken: makes the token, or makes it anew with the SO's PIN.
    ///
    /// # Errors
    /// `SlotInvalid`, `SessionExists`, `PinLength`, `TokenWriteProtected`, `TokenNotRecognized`; of the
    /// SO's PIN `WrongPin` and `PinLocked`; the TPM's and the store's.
    pub fn init_token(&self, slot: u64, so_pin: &[u8], label: &[u8; 32]) -> Result<()> {
        self.init_token_with(slot, &Initial { so_pin, label, recovery: false }).map(drop)
    }

    /// The same with what PKCS#11 has no word for; the recovery code, if one was asked for.
    ///
    /// # Errors
    /// As [`Module::init_token`].
    pub fn init_token_with(
        &self,
        slot: u64,
        initial: &Initial<'_>,
    ) -> Result<Option<RecoveryCode>> {
        let slot = self.slot(slot)?;
        let _one = self.initialising.lock();
        let home = match slot.holds() {
            Holds::Token(token) => token.home.clone(),
            Holds::Empty { home, .. } => home,
            Holds::Broken(why) => return Err(Error::TokenNotRecognized(why.to_string())),
        };
        slot.init_token(&sessionless_call(&home, &self.stop), initial)
    }

    /// Gives the token in a slot new PIN indices by its recovery code, with this PIN for the SO; the user
    /// has none then. The new recovery code. PKCS#11 has no word for it: for the tool.
    ///
    /// # Errors
    /// `SlotInvalid`, `TokenNotRecognized`, and those of [`Token::recover`].
    pub fn recover_token(
        &self,
        slot: u64,
        code: &str,
        so_pin: &[u8],
        give_up: bool,
    ) -> Result<RecoveryCode> {
        let token = self.slot(slot)?.token()?;
        let _one = self.initialising.lock();
        token.recover(&sessionless_call(&token.home, &self.stop), code, so_pin, give_up)
    }

    /// C_WaitForSlotEvent: the slot where something happened. `block` is CKF_DONT_BLOCK's absence.
    /// Nothing ever happens to a slot here: a TPM is not pulled out.
    ///
    /// # Errors
    /// `NoEvent`; `NotInitialized` when C_Finalize came meanwhile
    pub fn wait_for_slot_event(&self, block: bool) -> Result<u64> {
        if !block {
            return Err(Error::NoEvent);
        }
        let mut finalizing = self.finalizing.lock();
        while !*finalizing {
            finalizing = self.woken.wait(finalizing);
        }
        Err(Error::NotInitialized)
    }

    /// C_OpenSession: the handle of a new session. `flags` as the caller gave them.
    ///
    /// # Errors
    /// `SlotInvalid`, `SessionParallelNotSupported`, `TokenNotRecognized`, `TokenWriteProtected`,
    /// `SessionReadWriteSoExists`
    pub fn open_session(&self, slot: u64, flags: u64) -> Result<u64> {
        if flags & CKF_SERIAL_SESSION == 0 {
            return Err(Error::SessionParallelNotSupported);
        }
        if flags & CKF_ASYNC_SESSION != 0 {
            return Err(Error::SessionAsyncNotSupported);
        }
        let slot = self.slot(slot)?;
        let token = slot.token()?;
        let read_write = flags & CKF_RW_SESSION != 0;
        if read_write && !token.home.grant_read_write {
            token.writable()?;
        }
        let handle = self.handles.next()?;
        token.add_session(handle, read_write)?;
        let session = Session::new(handle, slot, token, read_write);
        self.shared.lock().sessions.insert(handle, session);
        Ok(handle)
    }

    /// C_CloseSession
    ///
    /// # Errors
    /// `SessionInvalid`
    pub fn close_session(&self, handle: u64) -> Result<()> {
        let session = self.shared.lock().sessions.remove(&handle).ok_or(Error::SessionInvalid)?;
        session.close();
        session.token.forget_session(handle);
        Ok(())
    }

    /// C_CloseAllSessions
    ///
    /// # Errors
    /// `SlotInvalid`
    pub fn close_all_sessions(&self, slot: u64) -> Result<()> {
        let slot = self.slot(slot)?;
        let mut closed = Vec::new();
        self.shared.lock().sessions.retain(|_, session| {
            let here = session.slot.id == slot.id;
            if here {
                closed.push(session.clone());
            }
            !here
        });
        for session in closed {
            session.close();
            session.token.forget_session(session.handle);
        }
        Ok(())
    }

    /// C_SessionCancel: ends the operations that `flags` (CKF_SIGN, CKF_FIND_OBJECTS, …) name, also
    /// those that another thread is just running.
    ///
    /// # Errors
    /// `SessionInvalid`
    pub fn session_cancel(&self, handle: u64, flags: u64) -> Result<()> {
        self.session(handle)?.cancel(flags);
        Ok(())
    }

    /// Ends what interrupted C_InitToken calls left, in this TPM's stores. For the tool; C_InitToken and
    /// C_Login do it by themselves.
    pub fn settle(&self, home: &Home) {
        let call = sessionless_call(home, &self.stop);
        for place in &home.places {
            if let Ok(store) = place.store() {
                settle_interrupted(&call, home, &store);
            }
        }
    }
}

impl Shared {
    /// Puts something into the slot with this id, which appears if it is not there.
    fn put(&mut self, id: u64, holds: Holds) {
        match self.slots.iter().find(|slot| slot.id == id) {
            Some(slot) => slot.put(holds),
            None => self.slots.push(Slot::new(id, holds)),
        }
    }

    /// Whether a slot has the token, or shows that it cannot be used.
    fn knows(&self, serial: &[u8; 16]) -> bool {
        self.slots.iter().any(|slot| match slot.holds() {
            Holds::Token(token) => token.serial == *serial,
            Holds::Empty { .. } | Holds::Broken(_) => false,
        })
    }

    /// The id for a token that another process made: the empty slot's, if it was made there.
    fn id_for(&self, home: &Arc<Home>, serial: &[u8; 16]) -> u64 {
        let id = id_of_token(serial);
        let taken_over = self.slots.iter().any(|slot| {
            slot.id == id
                && home.creating.lock().is_none()
                && matches!(slot.holds(), Holds::Empty { home: of, .. } if Arc::ptr_eq(&of, home))
        });
        if taken_over { id } else { self.free_id(id) }
    }

    /// This id; the next free one if another slot has it.
    fn free_id(&self, mut id: u64) -> u64 {
        while self
            .slots
            .iter()
            .any(|slot| slot.id == id && !matches!(slot.holds(), Holds::Broken(_)))
        {
            id = (id + 1) & 0x7FFF_FFFF;
        }
        id
    }
}

impl Token {
    fn add_session(&self, handle: u64, read_write: bool) -> Result<()> {
        let mut state = self.state()?;
        if !read_write && state.who == Who::So {
            return Err(Error::SessionReadWriteSoExists);
        }
        state.sessions.insert(handle, read_write);
        Ok(())
    }

    /// The session is closed: its objects go, and with the last session the login.
    fn forget_session(&self, handle: u64) {
        let mut state = self.known_state();
        state.sessions.remove(&handle);
        state.objects.forget_session(handle);
        if state.sessions.is_empty() {
            self.close(&mut state);
        }
    }
}

/// What the configuration says about one TPM.
pub(super) fn home(
    config: &Config,
    tpm: &config::TpmConfig,
    threads: bool,
    handles: &Arc<Handles>,
) -> Arc<Home> {
    let options =
        store::Options { busy_timeout: config.store.busy_timeout, ..store::Options::default() };
    let places: Vec<_> = tpm
        .stores
        .iter()
        .map(|directory| StorePlace::new(directory.clone(), options.clone()))
        .collect();
    let settings = Settings {
        tcti: tpm.tcti.clone(),
        resource_manager: tpm.resource_manager,
        bus_protection: tpm.bus_protection,
        raw_leftovers: tpm.raw_leftovers,
        linger: tpm.linger,
        call_timeout: tpm.call_timeout,
        keygen_timeout: tpm.keygen_timeout,
        limits: Limits {
            short: tpm.short_timeout,
            normal: tpm.command_timeout,
            key_generation: tpm.keygen_timeout,
        },
        reaper: threads,
    };
    let stores: Vec<_> = places.iter().filter_map(|place| place.store().ok()).collect();
    let lock_directory = stores
        .iter()
        .find(|store| store.writable().is_ok())
        .or(stores.first())
        .map(|store| store.directory().to_path_buf());
    let knows = move |name: &[u8]| stores.iter().any(|store| store.knows(name).unwrap_or(false));
    Arc::new(Home {
        tpm: Tpm::new(settings, lock_directory, Box::new(knows)),
        places,
        pin: config.pin.clone(),
        verify_signatures: config.keys.verify_signatures,
        sealing: Sealing {
            keys: config.keys.sealed_keys,
            ciphers: config.keys.secret_keys == SecretKeys::Sealed,
        },
        policy: policy(&config.policy),
        dates: match config.policy.dates {
            DatesChoice::Inform => Dates::Inform,
            DatesChoice::Enforce => Dates::Enforce,
        },
        empty_slot: config.store.empty_slot,
        grant_read_write: config.store.grant_read_write,
        handles: handles.clone(),
        creating: Mutex::new(Rank::Leaf, None),
    })
}

/// The rules that hold. That one is left out is said, once: whoever reads the log knows what the token
/// does not prevent.
fn policy(config: &PolicyConfig) -> Policy {
    let whole = match config.api_attacks {
        ApiAttacks::Prevent => Policy::PREVENT,
        ApiAttacks::Standard => Policy::standard(),
    };
    let missing: Vec<Guard> =
        config.without.iter().filter_map(|number| Guard::of_number(number)).collect();
    if !missing.is_empty() {
        log::warn!(
            "[policy] without = {:?}: these rules do not protect the keys of any token",
            config.without
        );
    }
    missing.into_iter().fold(whole, Policy::without)
}
