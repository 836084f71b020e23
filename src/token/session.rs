//! One method per C_ function, named the same. PKCS#11 3.2 §5.6 and after.
//!
//! They are in the file of their chapter: `objects.rs`, `find.rs`, `encrypt.rs` (and decrypt), `digest.rs`,
//! `sign.rs`, `verify.rs`, `dual.rs`, `keys.rs`, and those about PINs in `login.rs`; here is what a
//! session is, what its operations share, and what is in no other chapter.
//!
//! What the door finds wrong with the arguments of a function that ends an operation, it says
//! with [`Session::end`] before it returns the error. A NULL mechanism at C_XxxInit is
//! [`Session::end`] as well, and CKR_OK.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use cryptoki_sys::{
    CKA_ALWAYS_AUTHENTICATE, CKA_TOKEN, CKF_DECRYPT, CKF_DIGEST, CKF_ENCRYPT, CKF_FIND_OBJECTS,
    CKF_GENERATE_KEY_PAIR, CKF_MESSAGE_DECRYPT, CKF_MESSAGE_ENCRYPT, CKF_RW_SESSION,
    CKF_SERIAL_SESSION, CKF_SIGN, CKF_SIGN_RECOVER, CKF_VERIFY, CKF_VERIFY_RECOVER,
    CKS_RO_PUBLIC_SESSION, CKS_RO_USER_FUNCTIONS, CKS_RW_PUBLIC_SESSION, CKS_RW_SO_FUNCTIONS,
    CKS_RW_USER_FUNCTIONS,
};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::mechanism::{
    self, Chip, Cipher, Digest, Generator, Mechanism, Params, Recover, Sealing, Sign, Terms, Verify,
};
use crate::object::policy::{Dates, Policy};
use crate::object::{Material, Object, Template, rule};
use crate::store::Abandon;
use crate::sync::plain::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, Rank};
use crate::tpm::lease::{Grant, Key};
use crate::tpm::{Call, KeyBlob};

use super::SessionInfo;
use super::find::Found;
use super::message::Messages;
use super::operation::{Answer, Kind, Progress, Room};
use super::slot::Slot;
use super::token::{Anchor, Token, Who};

/// CKS_LAST_VALIDATION_OK, the one kind of validation flags that there is.
const LAST_VALIDATION_OK: u64 = 1;

/// A session of the application with a token.
pub struct Session {
    pub(super) handle: u64,
    pub(super) slot: Arc<Slot>,
    pub(super) token: Arc<Token>,
    /// CKF_RW_SESSION
    pub(super) read_write: bool,
    closed: AtomicBool,
    /// The cancel flags of the calls that run, with what C_SessionCancel calls them (CKF_).
    running: Mutex<Vec<(u64, Arc<AtomicBool>)>>,
    /// One operation of each kind. Held while one of them works, by no one who only asks.
    pub(super) operations: Mutex<Operations>,
    /// What makes the nonces under which keys are wrapped: by the wrapping key's handle, the generator, its fixed
    /// bits, and the bytes of a nonce. Held by no one who waits; a forked child begins anew.
    pub(super) nonces: Mutex<BTreeMap<(u64, u64, u64, usize), Generator>>,
}

/// The operations in progress.
#[derive(Default)]
pub(super) struct Operations {
    pub(super) find: Progress<Found>,
    pub(super) encrypt: Progress<Operation<Box<dyn Cipher>>>,
    pub(super) decrypt: Progress<Operation<Box<dyn Cipher>>>,
    pub(super) digest: Progress<Box<dyn Digest>>,
    pub(super) sign: Progress<Operation<Box<dyn Sign>>>,
    pub(super) sign_recover: Progress<Operation<Box<dyn Sign>>>,
    pub(super) verify: Progress<Verification>,
    pub(super) verify_recover: Progress<Box<dyn Recover>>,
    pub(super) message_encrypt: Option<Messages>,
    pub(super) message_decrypt: Option<Messages>,
    /// Which kind the last successful C_XxxInit began: what a context-specific login is for.
    pub(super) last_init: Option<Kind>,
}

impl Operations {
    /// Those that a forked child goes on with. What encrypts or makes a MAC with an IV, a nonce or a counter, or
    /// makes the nonces itself, is the parent's alone: both would go on with the same ones. What decrypts or
    /// verifies may go on twice.
    fn for_child(&mut self) -> Self {
        let mut all = Self { message_encrypt: None, ..std::mem::take(self) };
        all.encrypt.end_if(|operation| operation.once);
        all.sign.end_if(|operation| operation.once);
        all
    }
}

/// Work with a key, and by what right.
pub(super) struct Operation<T> {
    pub(super) work: T,
    pub(super) right: Right,
    /// Its parameter is for one message: [`Params::serves_once`].
    pub(super) once: bool,
}

impl<T> Operation<T> {
    /// Work that begins now, with a mechanism's parameter and a key.
    pub(super) fn new(work: T, params: &Params, key: &Object, token: &Token) -> Self {
        Self { work, right: Right::to(key, token), once: params.serves_once() }
    }
}

/// Verification, in either form.
pub(super) struct Verification {
    pub(super) work: Box<dyn Verify>,
    /// C_VerifySignatureInit gave it already.
    pub(super) signature: Option<Vec<u8>>,
    pub(super) right: Right,
    /// With a secret key: the TPM makes the MAC that is compared.
    pub(super) secret: bool,
}

/// By what right an operation uses its key.
pub(super) struct Right {
    /// The login that a private key's operation began under.
    epoch: Option<u64>,
    /// CKA_ALWAYS_AUTHENTICATE: the key whose PIN the TPM wants to see for this operation.
    asks: Option<Arc<KeyBlob>>,
    /// The context-specific login.
    pub(super) grant: Option<Grant>,
}

impl Right {
    pub(super) fn to(object: &Object, token: &Token) -> Self {
        let asks = match &object.material {
            Material::Key(blob) if object.is(CKA_ALWAYS_AUTHENTICATE) => Some(blob.clone()),
            _ => None,
        };
        Self { epoch: object.private().then(|| token.epoch()), asks, grant: None }
    }

    /// Whether the login that it began under still holds.
    pub(super) fn holds(&self, token: &Token) -> Result<()> {
        match self.epoch {
            Some(epoch) if epoch != token.epoch() => Err(Error::NotLoggedIn),
            _ => Ok(()),
        }
    }

    /// Whether the key may be used now: with its own login, if it asks for one.
    pub(super) fn permits(&self, token: &Token) -> Result<()> {
        self.holds(token)?;
        if self.asks.is_some() && self.grant.is_none() {
            return Err(Error::NotLoggedIn);
        }
        Ok(())
    }
}

/// A call in progress: its deadline and cancel flag, known to the session as long as it lives.
pub(super) struct Running<'a> {
    session: &'a Session,
    call: Call,
    /// Its flag ends waits for the store, too.
    _store: Abandon,
}

impl std::ops::Deref for Running<'_> {
    type Target = Call;
    fn deref(&self) -> &Call {
        &self.call
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let cancel = &self.call.cancel;
        self.session.running.lock().retain(|(_, flag)| !Arc::ptr_eq(flag, cancel));
    }
}

impl Session {
    pub(super) fn new(
        handle: u64,
        slot: Arc<Slot>,
        token: Arc<Token>,
        read_write: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            handle,
            slot,
            token,
            read_write,
            closed: AtomicBool::new(false),
            running: Mutex::new(Rank::Leaf, Vec::new()),
            operations: Mutex::new(Rank::Session, Operations::default()),
            nonces: Mutex::new(Rank::Session, BTreeMap::new()),
        })
    }

    /// The session of a forked child, made of its parent's, with its operations in progress (but see
    /// [`Operations::for_child`]): unless another thread was just working on one.
    pub(super) fn in_child(&self, slot: Arc<Slot>, token: Arc<Token>) -> Arc<Self> {
        let operations = self.operations.try_lock().map(|mut of| of.for_child());
        Arc::new(Self {
            handle: self.handle,
            slot,
            token,
            read_write: self.read_write,
            closed: AtomicBool::new(self.closed.load(Ordering::Acquire)),
            running: Mutex::new(Rank::Leaf, Vec::new()),
            operations: Mutex::new(Rank::Session, operations.unwrap_or_default()),
            nonces: Mutex::new(Rank::Session, BTreeMap::new()),
        })
    }

    /// Refuses calls that found the session before it was closed.
    pub(super) fn alive(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(Error::SessionClosed) } else { Ok(()) }
    }

    /// The session is read/write and the token can be written, which is told first. §5.1.6
    pub(super) fn may_write(&self) -> Result<()> {
        self.token.writable()?;
        if self.read_write { Ok(()) } else { Err(Error::SessionReadOnly) }
    }

    /// What a template describes may be made in this session: on the token only if that may be written.
    pub(super) fn may_make(&self, template: &Template) -> Result<()> {
        match template.bool(CKA_TOKEN) {
            Some(true) => self.may_write(),
            _ => Ok(()),
        }
    }

    /// A call begins; `flags` (CKF_) say what C_SessionCancel calls it.
    pub(super) fn call(&self, flags: u64) -> Running<'_> {
        let tpm = &self.token.home.tpm;
        let settings = tpm.settings();
        let limit = if flags & CKF_GENERATE_KEY_PAIR != 0 {
            settings.keygen_timeout
        } else {
            settings.call_timeout
        };
        let call = tpm.call_within(limit, Arc::default());
        self.running.lock().push((flags, call.cancel.clone()));
        // Closed by another thread since it was found: that one has looked through the list already.
        if self.closed.load(Ordering::Acquire) {
            call.cancel.store(true, Ordering::Release);
        }
        let _store = Abandon::when(call.cancel.clone());
        Running { session: self, call, _store }
    }

    /// C_SessionCancel: stops the calls and ends the operations that `flags` (CKF_) name. Waits for
    /// a call that is stopped.
    pub(super) fn cancel(&self, flags: u64) {
        for (of, cancel) in self.running.lock().iter() {
            if of & flags != 0 {
                cancel.store(true, Ordering::Release);
            }
        }
        for (flag, kind) in KINDS {
            if flags & flag != 0 {
                self.end(kind);
            }
        }
    }

    /// The session was closed: stops whatever runs in it. Waits for nothing.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for (_, cancel) in self.running.lock().iter() {
            cancel.store(true, Ordering::Release);
        }
    }

    /// What stopped the call: a cancelled one whose session was closed says that.
    fn told<T>(&self, outcome: Result<T>) -> Result<T> {
        match outcome {
            Err(Error::Canceled) if self.closed.load(Ordering::Acquire) => {
                Err(Error::SessionClosed)
            }
            other => other,
        }
    }

    /// Ends the operation of this kind, if there is one: bad arguments, or a NULL mechanism at Init.
    pub fn end(&self, kind: Kind) {
        let mut operations = self.operations.lock();
        match kind {
            Kind::Find => operations.find.end(),
            Kind::Encrypt => operations.encrypt.end(),
            Kind::Decrypt => operations.decrypt.end(),
            Kind::Digest => operations.digest.end(),
            Kind::Sign => operations.sign.end(),
            Kind::SignRecover => operations.sign_recover.end(),
            Kind::Verify => operations.verify.end(),
            Kind::VerifyRecover => operations.verify_recover.end(),
            Kind::MessageEncrypt => operations.message_encrypt = None,
            Kind::MessageDecrypt => operations.message_decrypt = None,
        }
    }

    /// Runs `job` with the TPM as an operation of this token reaches it.
    pub(super) fn with_chip<T>(
        &self,
        call: &Call,
        grant: Option<&Grant>,
        job: impl FnOnce(&Chip<'_>) -> Result<T>,
    ) -> Result<T> {
        if self.token.home.tpm.seems_changed() {
            self.token.learn_facts(call);
        }
        self.with_known_chip(call, grant, job)
    }

    /// The same without a look at the TPM first: for work that may turn out not to need it.
    pub(super) fn with_known_chip<T>(
        &self,
        call: &Call,
        grant: Option<&Grant>,
        job: impl FnOnce(&Chip<'_>) -> Result<T>,
    ) -> Result<T> {
        let home = &self.token.home;
        let Anchor { srk, facts } = self.token.anchor();
        self.told(job(&Chip {
            tpm: &home.tpm,
            call,
            srk: &srk,
            facts: facts.as_deref(),
            grant,
            verify_signatures: home.verify_signatures,
            sealing: home.sealing,
        }))
    }

    /// The key of a handle.
    pub(super) fn key_object(&self, key: u64) -> Result<Object> {
        match self.token.object(key) {
            Ok(object) if object.key_type().is_some() => Ok(object),
            Ok(_) | Err(Error::ObjectInvalid) => Err(Error::KeyInvalid),
            Err(other) => Err(other),
        }
    }

    /// The key of a handle and the mechanism for it, if the TPM can do what `flag` (CKF_) says.
    pub(super) fn key(
        &self,
        mechanism: u64,
        key: u64,
        flag: u64,
    ) -> Result<(&'static Mechanism, Object)> {
        let object = self.key_object(key)?;
        let row = self.row(mechanism, flag)?;
        if self.token.home.dates == Dates::Enforce {
            rule::in_its_time(&object.attributes, &today())?;
        }
        Ok((row, object))
    }

    /// The mechanism, if the TPM can do what `flag` (CKF_) says.
    pub(super) fn row(&self, mechanism: u64, flag: u64) -> Result<&'static Mechanism> {
        let row = mechanism::lookup(mechanism)?;
        // What it never does is refused by the row itself.
        let sealing = Sealing { keys: true, ciphers: true };
        let all = Terms { sealing, policy: Policy::standard() };
        let can = row.flags(self.token.facts().as_deref(), self.token.home.terms());
        let refused = row.flags(None, all) & !can & flag != 0;
        if refused { Err(Error::MechanismInvalid(mechanism)) } else { Ok(row) }
    }

    // ---- session management, §5.6 ----------------------------------------------------------

    /// C_GetSessionInfo. Asks nobody but this process.
    ///
    /// # Errors
    /// `SessionClosed`
    pub fn session_info(&self) -> Result<SessionInfo> {
        self.alive()?;
        let who = self.token.known_state().who;
        let state = match (who, self.read_write) {
            (Who::Nobody, false) => CKS_RO_PUBLIC_SESSION,
            (Who::Nobody, true) => CKS_RW_PUBLIC_SESSION,
            (Who::User, false) => CKS_RO_USER_FUNCTIONS,
            (Who::User, true) => CKS_RW_USER_FUNCTIONS,
            // No read-only session exists beside the SO.
            (Who::So, _) => CKS_RW_SO_FUNCTIONS,
        };
        let flags = CKF_SERIAL_SESSION | if self.read_write { CKF_RW_SESSION } else { 0 };
        let device_error = u64::from(self.token.home.tpm.last_code());
        Ok(SessionInfo { slot: self.slot.id, state, flags, device_error })
    }

    /// C_GetOperationState: what runs here can be saved nowhere.
    ///
    /// # Errors
    /// `OperationNotInitialized` if nothing runs; else always `StateUnsaveable`
    pub fn get_operation_state(&self, _room: Room) -> Result<Answer> {
        self.alive()?;
        let operations = self.operations.lock();
        if operations.any() {
            Err(Error::StateUnsaveable)
        } else {
            Err(Error::OperationNotInitialized)
        }
    }

    /// C_SetOperationState: there are no saved states of ours.
    ///
    /// # Errors
    /// Always `SavedStateInvalid`
    pub fn set_operation_state(
        &self,
        _state: &[u8],
        _encryption_key: u64,
        _authentication_key: u64,
    ) -> Result<()> {
        self.alive()?;
        Err(Error::SavedStateInvalid)
    }

    /// C_GetSessionValidationFlags: no validated module, no flags.
    ///
    /// # Errors
    /// `ArgumentsBad` for a kind of flags that is not in the specification
    pub fn session_validation_flags(&self, kind: u64) -> Result<u64> {
        self.alive()?;
        if kind != LAST_VALIDATION_OK {
            return Err(Error::ArgumentsBad("no such kind of validation flags"));
        }
        Ok(0)
    }

    // ---- random numbers, §5.19 -------------------------------------------------------------

    /// C_SeedRandom
    ///
    /// # Errors
    /// Always `RandomSeedNotSupported`: a TPM needs no one's help, and the operating system's generator
    /// takes none from us.
    pub fn seed_random(&self, _seed: &[u8]) -> Result<()> {
        self.alive()?;
        Err(Error::RandomSeedNotSupported)
    }

    /// C_GenerateRandom: one TPM command, however many bytes.
    ///
    /// # Errors
    /// The TPM's.
    pub fn generate_random(&self, bytes: usize) -> Result<Zeroizing<Vec<u8>>> {
        self.alive()?;
        drop(self.token.state()?);
        let call = self.call(0);
        self.with_chip(&call, None, |chip| mechanism::random::generate(chip, bytes))
    }

    // ---- context-specific login, for login.rs ----------------------------------------------

    /// The key that the last C_XxxInit's operation asks a login for.
    ///
    /// # Errors
    /// `OperationNotInitialized`
    pub(super) fn asking(operations: &mut Operations) -> Result<Arc<KeyBlob>> {
        operations
            .right()
            .and_then(|right| right.asks.clone())
            .ok_or(Error::OperationNotInitialized)
    }

    /// That key as the TPM floor takes it.
    pub(super) fn asked_key(&self, blob: Arc<KeyBlob>) -> Key {
        Key { blob, srk: self.token.anchor().srk, grant: None }
    }

    /// The TPM has seen the PIN: the operation may use its key, once.
    pub(super) fn permit(operations: &mut Operations, grant: Option<Grant>) {
        if let Some(right) = operations.right() {
            right.grant = grant;
        }
    }
}

/// Today as a CK_DATE says it, by the host's clock, in UTC.
fn today() -> [u8; 8] {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let mut digits = now.bytes().filter(u8::is_ascii_digit);
    std::array::from_fn(|_| digits.next().unwrap_or(b'0'))
}

/// What C_SessionCancel calls the kinds.
const KINDS: [(u64, Kind); 10] = [
    (CKF_FIND_OBJECTS, Kind::Find),
    (CKF_ENCRYPT, Kind::Encrypt),
    (CKF_DECRYPT, Kind::Decrypt),
    (CKF_DIGEST, Kind::Digest),
    (CKF_SIGN, Kind::Sign),
    (CKF_SIGN_RECOVER, Kind::SignRecover),
    (CKF_VERIFY, Kind::Verify),
    (CKF_VERIFY_RECOVER, Kind::VerifyRecover),
    (CKF_MESSAGE_ENCRYPT, Kind::MessageEncrypt),
    (CKF_MESSAGE_DECRYPT, Kind::MessageDecrypt),
];

impl Operations {
    fn any(&self) -> bool {
        let Self {
            find,
            encrypt,
            decrypt,
            digest,
            sign,
            sign_recover,
            verify,
            verify_recover,
            message_encrypt,
            message_decrypt,
            last_init: _,
        } = self;
        find.active()
            || encrypt.active()
            || decrypt.active()
            || digest.active()
            || sign.active()
            || sign_recover.active()
            || verify.active()
            || verify_recover.active()
            || message_encrypt.is_some()
            || message_decrypt.is_some()
    }

    /// The verification in progress, if it is of the form that the function is for.
    pub(super) fn verification(
        &mut self,
        signature_first: bool,
    ) -> Result<&mut Progress<Verification>> {
        match self.verify.peek() {
            Some(operation) if operation.signature.is_some() == signature_first => {
                Ok(&mut self.verify)
            }
            _ => Err(Error::OperationNotInitialized),
        }
    }

    /// The process of messages of this kind.
    ///
    /// # Errors
    /// `Bug` for another kind.
    pub(super) fn messages(&mut self, kind: Kind) -> Result<&mut Option<Messages>> {
        match kind {
            Kind::MessageEncrypt => Ok(&mut self.message_encrypt),
            Kind::MessageDecrypt => Ok(&mut self.message_decrypt),
            _ => Err(Error::Bug("no messages are of this kind")),
        }
    }

    /// By what right the operation of the last C_XxxInit uses its key.
    fn right(&mut self) -> Option<&mut Right> {
        match self.last_init? {
            Kind::Encrypt => self.encrypt.peek().map(|operation| &mut operation.right),
            Kind::Decrypt => self.decrypt.peek().map(|operation| &mut operation.right),
            Kind::Sign => self.sign.peek().map(|operation| &mut operation.right),
            Kind::SignRecover => self.sign_recover.peek().map(|operation| &mut operation.right),
            Kind::Find | Kind::Digest | Kind::Verify | Kind::VerifyRecover => None,
            Kind::MessageEncrypt | Kind::MessageDecrypt => None,
        }
    }
}
