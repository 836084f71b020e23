//! Slots: one per token, with an id that its serial number gives; one empty slot that C_InitToken
//! takes; and one for each store or configuration that cannot be read, so that somebody sees it.
//! PKCS#11 3.2 §5.5.

use std::path::PathBuf;
use std::sync::Arc;

use cryptoki_sys::{
    CK_EFFECTIVELY_INFINITE, CK_UNAVAILABLE_INFORMATION, CKF_DUAL_CRYPTO_OPERATIONS, CKF_HW_SLOT,
    CKF_LOGIN_REQUIRED, CKF_RNG, CKF_TOKEN_INITIALIZED, CKF_TOKEN_PRESENT,
    CKF_USER_PIN_INITIALIZED, CKF_WRITE_PROTECTED,
};
use sha2::{Digest as _, Sha256};

use crate::config::PinConfig;
use crate::crypto::drbg;
use crate::error::{Error, Result};
use crate::mechanism::{self, Sealing, Terms};
use crate::object::policy::{Dates, Policy};
use crate::store::{self, Store};
use crate::sync::{Mutex, Rank};
use crate::tpm::pin::{RecoveryCode, Role};
use crate::tpm::{Call, Facts, Tpm};

use super::create::{create, reinitialise};
use super::handles::Handles;
use super::login::{PIN_BYTES, check_length, pin_flags};
use super::token::Token;
use super::{MechanismInfo, SlotInfo, TokenInfo};

/// What the slots of one TPM share.
pub struct Home {
    /// The TPM. Not opened until somebody needs it.
    pub tpm: Arc<Tpm>,
    /// Where its tokens are kept.
    pub places: Vec<StorePlace>,
    /// What C_InitToken gives a new token.
    pub pin: PinConfig,
    /// Check ECDSA signatures before they are returned.
    pub verify_signatures: bool,
    /// Which keys are sealed.
    pub sealing: Sealing,
    /// Which rules against sequences of calls hold.
    pub policy: Policy,
    /// What the dates of keys do.
    pub dates: Dates,
    /// Show the slot that C_InitToken takes.
    pub empty_slot: bool,
    /// Open read/write sessions also where the store cannot be written.
    pub grant_read_write: bool,
    pub(super) handles: Arc<Handles>,
    /// The serial number of the token that C_InitToken is making in this process.
    pub(super) creating: Mutex<Option<[u8; 16]>>,
}

impl Home {
    /// What the configuration allows its mechanisms.
    pub fn terms(&self) -> Terms {
        Terms { sealing: self.sealing, policy: self.policy }
    }
}

/// A directory of tokens, readable or not.
pub struct StorePlace {
    /// The directory.
    pub directory: PathBuf,
    options: store::Options,
    opened: Mutex<Option<Arc<Store>>>,
}

impl StorePlace {
    pub(super) fn new(directory: PathBuf, options: store::Options) -> Self {
        Self { directory, options, opened: Mutex::new(Rank::Token, None) }
    }

    /// The store. What could not be opened is tried again.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn store(&self) -> Result<Arc<Store>, store::Fault> {
        let mut opened = self.opened.lock();
        match &*opened {
            Some(store) => Ok(store.clone()),
            None => Ok(opened.insert(Store::open(&self.directory, &self.options)?).clone()),
        }
    }
}

impl Home {
    /// The id of its empty slot before there is any token.
    pub(super) fn empty_id(&self) -> u64 {
        let mut name = b"empty".to_vec();
        for place in &self.places {
            name.push(0);
            name.extend(place.directory.as_os_str().as_encoded_bytes());
        }
        id_of(&name)
    }

    /// Whether a store has a row with this serial number. One that cannot be read might.
    fn has_seen(&self, serial: &[u8; 16]) -> bool {
        self.places
            .iter()
            .filter_map(|place| place.store().ok())
            .any(|store| !matches!(store.token(serial), Ok(None)))
    }

    /// Where C_InitToken puts a new token: the first store that can be written.
    ///
    /// # Errors
    /// `TokenWriteProtected` or what else is wrong with the first one.
    pub fn writable_store(&self) -> Result<Arc<Store>> {
        let mut first = None;
        for place in &self.places {
            let outcome = place.store().and_then(|store| store.writable().map(|()| store));
            match outcome {
                Ok(store) => return Ok(store),
                Err(fault) => first = first.or(Some(fault)),
            }
        }
        Err(first.map_or_else(
            || Error::TokenWriteProtected("no directory is configured for tokens".into()),
            Error::from,
        ))
    }
}

/// What a new token begins with.
pub struct Initial<'a> {
    /// The security officer's PIN: the new one, or the one of the token that is made anew.
    pub so_pin: &'a [u8],
    /// Padded with blanks.
    pub label: &'a [u8; 32],
    /// Make a recovery code.
    pub recovery: bool,
}

/// A slot.
pub struct Slot {
    /// Its id, for ever.
    pub id: u64,
    holds: Mutex<Holds>,
}

/// What is in a slot.
#[derive(Clone)]
pub enum Holds {
    /// A token.
    Token(Arc<Token>),
    /// Nothing yet: C_InitToken makes a token with this serial number.
    Empty {
        /// Whose TPM.
        home: Arc<Home>,
        /// 16 hexadecimal digits.
        serial: [u8; 16],
    },
    /// Something that cannot be used; says what and why.
    Broken(Arc<str>),
}

impl Slot {
    pub(super) fn new(id: u64, holds: Holds) -> Arc<Self> {
        Arc::new(Self { id, holds: Mutex::new(Rank::Token, holds) })
    }

    /// What is in it.
    pub fn holds(&self) -> Holds {
        self.holds.lock().clone()
    }

    /// The same in a forked child; `None` if another thread held it at the fork.
    pub(super) fn try_holds(&self) -> Option<Holds> {
        self.holds.try_lock().map(|holds| holds.clone())
    }

    pub(super) fn put(&self, holds: Holds) {
        *self.holds.lock() = holds;
    }

    /// Its token.
    ///
    /// # Errors
    /// `TokenNotRecognized`
    pub fn token(&self) -> Result<Arc<Token>> {
        match self.holds() {
            Holds::Token(token) => Ok(token),
            Holds::Empty { .. } => Err(Error::NoTokenYet),
            Holds::Broken(why) => Err(Error::TokenNotRecognized(why.to_string())),
        }
    }

    /// C_GetSlotInfo
    pub(super) fn info(&self) -> SlotInfo {
        let (description, hardware) = match self.holds() {
            Holds::Token(token) => describe(&token.home),
            Holds::Empty { home, .. } => describe(&home),
            Holds::Broken(why) => (why.to_string(), false),
        };
        SlotInfo {
            description: padded(&description),
            manufacturer: padded("tpm11"),
            flags: CKF_TOKEN_PRESENT | if hardware { CKF_HW_SLOT } else { 0 },
            hardware_version: (0, 0),
            firmware_version: VERSION,
        }
    }

    /// C_GetTokenInfo. Asks the store, never the TPM.
    pub(super) fn token_info(&self) -> Result<TokenInfo> {
        match self.holds() {
            Holds::Token(token) => token.info(),
            Holds::Empty { serial, .. } => Ok(TokenInfo {
                label: [b' '; 32],
                flags: CKF_RNG | CKF_LOGIN_REQUIRED,
                ..blank(serial)
            }),
            Holds::Broken(why) => Err(Error::TokenNotRecognized(why.to_string())),
        }
    }

    /// What its TPM offers, as far as it is known, and what the configuration allows.
    fn offer(&self) -> Result<(Option<Arc<Facts>>, Terms)> {
        match self.holds() {
            Holds::Token(token) => {
                drop(token.state()?);
                Ok((token.facts(), token.home.terms()))
            }
            Holds::Empty { home, .. } => Ok((None, home.terms())),
            Holds::Broken(why) => Err(Error::TokenNotRecognized(why.to_string())),
        }
    }

    /// C_GetMechanismList
    pub(super) fn mechanism_list(&self) -> Result<Vec<u64>> {
        let (facts, terms) = self.offer()?;
        Ok(mechanism::list(facts.as_deref(), terms).iter().map(|row| row.id).collect())
    }

    /// C_GetMechanismInfo
    pub(super) fn mechanism_info(&self, mechanism: u64) -> Result<MechanismInfo> {
        let (facts, terms) = self.offer()?;
        let mechanism::Info { min_key_size, max_key_size, flags } =
            mechanism::info(mechanism, facts.as_deref(), terms)?;
        Ok(MechanismInfo { min_key_size, max_key_size, flags })
    }

    /// C_InitToken. The caller has made sure that nobody else is in here.
    pub(super) fn init_token(
        &self,
        call: &Call,
        initial: &Initial<'_>,
    ) -> Result<Option<RecoveryCode>> {
        let (home, serial, old) = match self.holds() {
            Holds::Broken(why) => return Err(Error::TokenNotRecognized(why.to_string())),
            Holds::Empty { home, serial } => (home, serial, None),
            Holds::Token(old) => (old.home.clone(), new_serial(self.id)?, Some(old)),
        };
        // A look at the store meanwhile must not give the new token a second slot.
        *home.creating.lock() = Some(serial);
        let made = match &old {
            None => check_length(initial.so_pin)
                .and_then(|()| create(call, &home, &home.writable_store()?, serial, initial, None)),
            Some(old) => reinitialise(call, old, serial, initial),
        };
        let outcome = match made {
            Ok((token, code)) => {
                self.put(Holds::Token(token));
                Ok(code)
            }
            Err(error) => {
                // A serial number that left traces is not used again.
                if old.is_none() && home.has_seen(&serial) {
                    self.put(Holds::Empty { home: home.clone(), serial: new_serial(self.id)? });
                }
                Err(error)
            }
        };
        *home.creating.lock() = None;
        outcome
    }
}

impl Token {
    fn info(&self) -> Result<TokenInfo> {
        let write_protected = self.store.writable().is_err();
        let state = self.state()?;
        let mut flags = CKF_RNG | CKF_TOKEN_INITIALIZED | CKF_DUAL_CRYPTO_OPERATIONS;
        let row = &state.row;
        for (is, flag) in [
            (!row.pinless, CKF_LOGIN_REQUIRED),
            (row.user_pin_set || row.pinless, CKF_USER_PIN_INITIALIZED),
            (write_protected, CKF_WRITE_PROTECTED),
        ] {
            if is {
                flags |= flag;
            }
        }
        flags |= pin_flags(Role::User, row.user_hint) | pin_flags(Role::So, row.so_hint);
        let sessions = state.sessions.len() as u64;
        let rw_sessions = state.sessions.values().filter(|rw| **rw).count() as u64;
        let label = row.label;
        drop(state);
        let facts = self.facts();
        let maker = facts.as_ref().map_or("tpm11", |facts| facts.maker.as_str());
        let model = match &facts {
            Some(facts) => format!("TPM2 {}", facts.maker),
            None => "TPM2".to_owned(),
        };
        let firmware = facts
            .as_ref()
            .map_or((0, 0), |facts| ((facts.firmware >> 48) as u8, (facts.firmware >> 32) as u8));
        Ok(TokenInfo {
            label,
            manufacturer: padded(maker),
            model: padded(&model),
            flags,
            sessions,
            rw_sessions,
            firmware_version: firmware,
            ..blank(self.serial)
        })
    }
}

/// Of this library.
const VERSION: (u8, u8) = (0, 1);

fn blank(serial: [u8; 16]) -> TokenInfo {
    TokenInfo {
        label: [b' '; 32],
        manufacturer: padded("tpm11"),
        model: padded("TPM2"),
        serial,
        flags: 0,
        max_sessions: CK_EFFECTIVELY_INFINITE,
        sessions: 0,
        max_rw_sessions: CK_EFFECTIVELY_INFINITE,
        rw_sessions: 0,
        max_pin_bytes: *PIN_BYTES.end() as u64,
        min_pin_bytes: *PIN_BYTES.start() as u64,
        total_public_memory: CK_UNAVAILABLE_INFORMATION,
        free_public_memory: CK_UNAVAILABLE_INFORMATION,
        total_private_memory: CK_UNAVAILABLE_INFORMATION,
        free_private_memory: CK_UNAVAILABLE_INFORMATION,
        hardware_version: (2, 0),
        firmware_version: (0, 0),
        utc_time: [b' '; 16],
    }
}

/// What C_GetSlotInfo says of a TPM, and whether it is a piece of hardware as far as can be told.
fn describe(home: &Home) -> (String, bool) {
    let tcti = &home.tpm.settings().tcti;
    (format!("TPM 2.0 at {tcti}"), tcti.starts_with("device"))
}

/// UTF-8 cut at a character's border and padded with blanks.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut end = text.len().min(N);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = [b' '; N];
    for (to, from) in bytes.iter_mut().zip(text.as_bytes().iter().take(end)) {
        *to = *from;
    }
    bytes
}

/// The bits of an id of a slot: there are programs that keep it in an `int`.
const ID: u64 = 0x7FFF_FFFF;

/// A new serial number, as hexadecimal digits: 33 random bits, then the id of the slot. So the id that a
/// program saw before C_InitToken is the token's for ever, also when it is initialised anew.
pub(super) fn new_serial(slot: u64) -> Result<[u8; 16]> {
    let random = u64::from_be_bytes(*drbg::os_bytes::<8>()?);
    let number = random & !ID | slot & ID;
    let mut serial = [b'0'; 16];
    for (to, from) in serial.iter_mut().zip(format!("{number:016x}").bytes()) {
        *to = from;
    }
    Ok(serial)
}

/// The id of the slot of the token with this serial number: its low 31 bits.
pub(super) fn id_of_token(serial: &[u8; 16]) -> u64 {
    let number = std::str::from_utf8(serial).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
    number.map_or_else(|| id_of(serial), |number| number & ID)
}

/// The id of the slot of another thing with this name: 31 bits of a hash.
pub(super) fn id_of(name: &[u8]) -> u64 {
    let digest = Sha256::digest(name);
    let number = digest.iter().take(4).fold(0, |number, byte| number << 8 | u64::from(*byte));
    number & ID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_characters_border_and_padded_with_blanks() {
        assert_eq!(&padded::<4>("ab"), b"ab  ");
        assert_eq!(&padded::<4>("abcdef"), b"abcd");
        assert_eq!(&padded::<4>("abcä"), b"abc ");
    }

    #[test]
    fn a_serial_number_is_16_hexadecimal_digits_and_never_the_same() {
        let one = new_serial(7).expect("random bytes");
        assert!(one.iter().all(|digit| digit.is_ascii_hexdigit()));
        assert_ne!(one, new_serial(7).expect("random bytes"));
    }

    #[test]
    fn a_serial_number_says_which_slot_is_the_tokens() {
        for slot in [0, 7, ID] {
            assert_eq!(id_of_token(&new_serial(slot).expect("random bytes")), slot);
        }
    }

    #[test]
    fn the_slot_id_is_the_same_for_ever_and_fits_an_int() {
        assert_eq!(id_of_token(b"0123456789abcdef"), 0x09AB_CDEF);
        assert_eq!(id_of(b"0123456789abcdef"), 0x1F9F_5111);
        for number in 0..1000u32 {
            assert!(i32::try_from(id_of(&number.to_be_bytes())).is_ok());
        }
    }
}
