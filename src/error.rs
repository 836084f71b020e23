//! Why a call failed, in words. A variant is one thing a person can be told; which `CKR_` code it
//! becomes, `abi/rv.rs` decides, and nothing else in the library names a code.

use std::fmt;

/// What every fallible function from the object floor upward returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// `Display` gives one sentence that says what happened and, where something can be done about it,
/// what to do. It never contains a PIN, a key or an attribute's value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    // ---- the call itself -------------------------------------------------------------------
    /// Our own mistake: something that cannot happen did.
    Bug(&'static str),
    /// A pointer, a length or a flag makes the call unreadable.
    ArgumentsBad(&'static str),
    /// C_Initialize was not called, or not in this process (after fork).
    NotInitialized,
    /// C_Initialize was called already.
    AlreadyInitialized,
    /// The application demands its own mutexes.
    CantLock,
    /// The function has no implementation; says which or why.
    NotSupported(&'static str),
    /// There is no parallel execution in this specification.
    NotParallel,
    /// The host has no memory for a buffer of the size that the caller asked for.
    HostMemory,
    /// Canceled by C_SessionCancel or C_Finalize.
    Canceled,
    /// C_WaitForSlotEvent(CKF_DONT_BLOCK): nothing happened.
    NoEvent,
    /// The output buffer is too small; the operation goes on.
    BufferTooSmall,

    // ---- slots and tokens ------------------------------------------------------------------
    /// No slot has this id.
    SlotInvalid,
    /// The slot waits for its token (C_InitToken).
    NoTokenYet,
    /// The slot's token or its store cannot be read; says why.
    TokenNotRecognized(String),
    /// The store cannot be written; says why.
    TokenWriteProtected(String),

    // ---- sessions --------------------------------------------------------------------------
    /// No session has this handle.
    SessionInvalid,
    /// The session was closed while the call ran.
    SessionClosed,
    /// A read-only session cannot do this.
    SessionReadOnly,
    /// The SO cannot log in while a read-only session is open.
    SessionReadOnlyExists,
    /// A read-only session cannot be opened while the SO is logged in.
    SessionReadWriteSoExists,
    /// The token has open sessions.
    SessionExists,
    /// CKF_SERIAL_SESSION is missing.
    SessionParallelNotSupported,
    /// CKF_ASYNC_SESSION: no session of ours is asynchronous.
    SessionAsyncNotSupported,

    // ---- login -----------------------------------------------------------------------------
    /// This user is logged in already.
    AlreadyLoggedIn,
    /// The other user is logged in.
    AnotherLoggedIn,
    /// Needs a login.
    NotLoggedIn,
    /// No such user type.
    UserTypeInvalid,
    /// The user's PIN was never set.
    PinNotInitialized,
    /// The PIN was wrong; `left` tries remain before the TPM locks this role, where known.
    WrongPin {
        /// How many tries remain.
        left: Option<u32>,
    },
    /// The TPM refuses this PIN until the security officer resets it.
    PinLocked,
    /// The PIN is too short or too long.
    PinLength,
    /// The PIN has a form that is not accepted.
    PinInvalid(&'static str),

    // ---- objects ---------------------------------------------------------------------------
    /// No object has this handle, or it is not visible now.
    ObjectInvalid,
    /// No key has this handle, or it is not visible now, or it is no key.
    KeyInvalid,
    /// The object has no attribute of this type.
    AttributeTypeInvalid(u64),
    /// An attribute's value is not allowed.
    AttributeValueInvalid(u64, &'static str),
    /// The caller may not set this attribute.
    AttributeReadOnly(u64),
    /// The attribute is sensitive and stays in the token.
    AttributeSensitive(u64),
    /// The template lacks an attribute.
    TemplateIncomplete(u64),
    /// The template contradicts itself or the mechanism.
    TemplateInconsistent(&'static str),
    /// The object's CKA_MODIFIABLE, CKA_COPYABLE or CKA_DESTROYABLE forbids it.
    ActionProhibited(&'static str),
    /// The domain parameters name no curve that the token has.
    CurveNotSupported,
    /// The domain parameters cannot be read.
    DomainParamsInvalid,

    // ---- mechanisms and keys ---------------------------------------------------------------
    /// The mechanism is unknown, or cannot do this.
    MechanismInvalid(u64),
    /// The mechanism's parameter is not allowed.
    MechanismParamInvalid(&'static str),
    /// The key is of a type that the mechanism cannot use.
    KeyTypeInconsistent,
    /// The key's size is outside what the mechanism or the TPM can do.
    KeySizeRange(String),
    /// The key's attributes do not permit this use.
    KeyFunctionNotPermitted(&'static str),
    /// The key's value may not be digested.
    KeyIndigestible,
    /// The key is not extractable.
    KeyUnextractable,
    /// The key may not be wrapped so.
    KeyNotWrappable,
    /// The public key cannot be made.
    PublicKeyInvalid,
    /// No key has the handle of the key that wraps, or it is not visible now.
    WrappingKeyInvalid,
    /// The key that wraps is of a type that the mechanism cannot use.
    WrappingKeyType,
    /// The key that wraps is too weak or has a size that the mechanism cannot use; says why.
    WrappingKeySize(String),
    /// No key has the handle of the key that unwraps, or it is not visible now.
    UnwrappingKeyInvalid,
    /// The key that unwraps is of a type that the mechanism cannot use.
    UnwrappingKeyType,
    /// The key that unwraps has a size that the mechanism cannot use; says why.
    UnwrappingKeySize(String),
    /// What was wrapped is not whole, or no such key. Says no more than that on purpose.
    WrappedKeyInvalid,
    /// The wrapped key has a length that cannot be right.
    WrappedKeyLength,

    // ---- operations ------------------------------------------------------------------------
    /// An operation of this kind is in progress.
    OperationActive,
    /// No operation of this kind is in progress.
    OperationNotInitialized,
    /// The operation could not be canceled.
    OperationCancelFailed,
    /// The data is not of the form that the mechanism asks for.
    DataInvalid(&'static str),
    /// The data is longer or shorter than the mechanism can take.
    DataLenRange(&'static str),
    /// The ciphertext is not valid.
    EncryptedDataInvalid,
    /// The ciphertext has a length that cannot be right.
    EncryptedDataLenRange,
    /// The tag of a message is not that of its ciphertext and additional data.
    AeadDecryptFailed,
    /// The signature does not belong to the data.
    SignatureInvalid,
    /// The signature has a length that cannot be right.
    SignatureLenRange,
    /// The operation's state cannot be saved.
    StateUnsaveable,
    /// The saved state is not one of ours.
    SavedStateInvalid,
    /// The random generator takes no seed.
    RandomSeedNotSupported,

    // ---- what is behind us -----------------------------------------------------------------
    /// The TPM or the store failed; says what happened and what to do.
    Device(String),
    /// The TPM is full; says of what.
    DeviceMemory(String),
    /// The disk, the quota or the limit on a file's size is used up; says which.
    StoreFull(String),
    /// The TPM was cleared or replaced: its storage root key is not the token's.
    ForeignTpm,
    /// It did not work, but may if tried again; says why.
    FunctionFailed(String),
    /// A policy refuses it; says which.
    FunctionRejected(String),
    /// The TPM refused what a command asks for, and says why. What that means for the call, the
    /// mechanism knows where there is one.
    Refused(Refusal, String),
}

/// What a TPM refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It does not have the command.
    Command,
    /// It does not have the curve.
    Curve,
    /// It does not have keys of this size.
    KeySize,
    /// The point is not on the curve.
    Point,
    /// The key's policy is not met.
    Policy,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Error::*;
        match self {
            Bug(what) => write!(f, "internal error: {what} (please report it)"),
            ArgumentsBad(what) => write!(f, "bad arguments: {what}"),
            NotInitialized => f.write_str("C_Initialize was not called in this process"),
            AlreadyInitialized => f.write_str("C_Initialize was called already"),
            CantLock => {
                f.write_str("the application's own mutexes cannot be used; pass CKF_OS_LOCKING_OK")
            }
            NotSupported(what) => write!(f, "not supported: {what}"),
            NotParallel => f.write_str("functions are not executed in parallel"),
            HostMemory => f.write_str("no memory for a buffer of this size"),
            Canceled => f.write_str("canceled by the application"),
            NoEvent => f.write_str("no slot event"),
            BufferTooSmall => f.write_str("the output buffer is too small"),
            SlotInvalid => f.write_str("no slot has this id"),
            NoTokenYet => f.write_str("the token is not initialised (C_InitToken)"),
            TokenNotRecognized(why) | TokenWriteProtected(why) => f.write_str(why),
            SessionInvalid => f.write_str("no session has this handle"),
            SessionClosed => f.write_str("the session was closed meanwhile"),
            SessionReadOnly => f.write_str("the session is read-only"),
            SessionReadOnlyExists => {
                f.write_str("the SO cannot log in while a read-only session is open")
            }
            SessionReadWriteSoExists => {
                f.write_str("no read-only session can be opened while the SO is logged in")
            }
            SessionExists => f.write_str("the token has open sessions"),
            SessionParallelNotSupported => f.write_str("CKF_SERIAL_SESSION is missing"),
            SessionAsyncNotSupported => f.write_str("sessions are never asynchronous"),
            AlreadyLoggedIn => f.write_str("the user is logged in already"),
            AnotherLoggedIn => f.write_str("another user is logged in"),
            NotLoggedIn => f.write_str("the user is not logged in"),
            UserTypeInvalid => f.write_str("no such user type"),
            PinNotInitialized => {
                f.write_str("the user PIN was never set; the SO sets it (C_InitPIN)")
            }
            WrongPin { left: Some(1) } => f.write_str("wrong PIN, 1 try left"),
            WrongPin { left: Some(left) } => write!(f, "wrong PIN, {left} tries left"),
            WrongPin { left: None } => f.write_str("wrong PIN"),
            PinLocked => f.write_str(
                "the TPM has locked this PIN; the SO resets it by setting a new one (C_InitPIN)",
            ),
            PinLength => f.write_str("the PIN is too short or too long"),
            PinInvalid(why) => write!(f, "the PIN is not acceptable: {why}"),
            ObjectInvalid => f.write_str("no object has this handle, or it is not visible now"),
            KeyInvalid => f.write_str("no key has this handle, or it is not visible now"),
            AttributeTypeInvalid(id) => write!(f, "the object has no attribute {id:#x}"),
            AttributeValueInvalid(id, why) => write!(f, "attribute {id:#x}: {why}"),
            AttributeReadOnly(id) => write!(f, "attribute {id:#x} cannot be set"),
            AttributeSensitive(id) => write!(f, "attribute {id:#x} is sensitive"),
            TemplateIncomplete(id) => write!(f, "the template lacks attribute {id:#x}"),
            TemplateInconsistent(why) => write!(f, "the template is inconsistent: {why}"),
            ActionProhibited(why) => write!(f, "the object forbids it: {why}"),
            CurveNotSupported => f.write_str("the token does not have this curve"),
            DomainParamsInvalid => f.write_str("the curve's parameters cannot be read"),
            MechanismInvalid(id) => write!(f, "mechanism {id:#x} is unknown or cannot do this"),
            MechanismParamInvalid(why) => write!(f, "mechanism parameter: {why}"),
            KeyTypeInconsistent => f.write_str("the mechanism cannot use a key of this type"),
            KeySizeRange(why) => write!(f, "key size: {why}"),
            KeyFunctionNotPermitted(why) => write!(f, "the key does not permit it: {why}"),
            KeyIndigestible => f.write_str("the key's value may not be digested"),
            KeyUnextractable => f.write_str("the key is not extractable"),
            KeyNotWrappable => f.write_str("the key may not be wrapped so"),
            PublicKeyInvalid => f.write_str("the public key is not valid"),
            WrappingKeyInvalid | UnwrappingKeyInvalid => {
                f.write_str("no wrapping key has this handle, or it is not visible now")
            }
            WrappingKeyType | UnwrappingKeyType => {
                f.write_str("the mechanism cannot wrap with a key of this type")
            }
            WrappingKeySize(why) | UnwrappingKeySize(why) => write!(f, "wrapping key: {why}"),
            WrappedKeyInvalid => f.write_str("the wrapped key is not valid"),
            WrappedKeyLength => f.write_str("the wrapped key has an impossible length"),
            OperationActive => f.write_str("an operation of this kind is in progress"),
            OperationNotInitialized => f.write_str("no operation of this kind is in progress"),
            OperationCancelFailed => f.write_str("the operation could not be canceled"),
            DataInvalid(why) => write!(f, "data: {why}"),
            DataLenRange(why) => write!(f, "data length: {why}"),
            EncryptedDataInvalid => f.write_str("the ciphertext is not valid"),
            AeadDecryptFailed => {
                f.write_str("the message or what belongs to it was changed, or is another key's")
            }
            EncryptedDataLenRange => f.write_str("the ciphertext has an impossible length"),
            SignatureInvalid => f.write_str("the signature is not valid"),
            SignatureLenRange => f.write_str("the signature has an impossible length"),
            StateUnsaveable => f.write_str("the operation's state cannot be saved"),
            SavedStateInvalid => f.write_str("the saved state is not one of ours"),
            RandomSeedNotSupported => f.write_str("the random generator takes no seed"),
            Device(why)
            | DeviceMemory(why)
            | StoreFull(why)
            | FunctionFailed(why)
            | FunctionRejected(why)
            | Refused(_, why) => f.write_str(why),
            ForeignTpm => f.write_str(
                "TPM was cleared or replaced: its storage root key is not the one that this token \
                 was created under; the token's keys cannot be used on this TPM",
            ),
        }
    }
}
