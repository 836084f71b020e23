//! What can go wrong below the library: a response code of the TPM or an error of the way to it,
//! what it means, and the remedy. One total table ([`Trouble::row`]); nothing else in `tpm/` looks at
//! response codes to decide what to do next.
//!
//! TPM 2.0 Part 2 §6.6 (response codes).

use std::fmt;
use std::time::Duration;

use tss_esapi::constants::tss::*;

use super::transport::{Broken, BrokenKind};
use crate::error::{Error, Refusal};

/// Something went wrong below: what, at which command, and whether that command carried a PIN.
#[derive(Clone, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub trouble: Trouble,
    /// The TPM command in flight, by its name in the specification (TPM2_Sign); none if no command
    /// was made yet.
    pub command: Option<&'static str>,
    /// The command in flight carried an authorization made from a PIN: it is repeated only if
    /// [`Row::pin_unevaluated`] says that the TPM did not look at it.
    pub pin: bool,
    /// At least one byte of the command in flight was handed to the transport.
    pub sent: bool,
}

/// What happened. A variant is one line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    // ---- the TPM asks to wait --------------------------------------------------------------
    /// TPM_RC_RETRY: not started.
    Retry,
    /// TPM_RC_YIELDED: interrupted, may have been evaluated.
    Yielded,
    /// TPM_RC_CANCELED.
    Canceled,
    /// TPM_RC_TESTING: self-test runs.
    Testing,
    /// TPM_RC_NV_RATE: NV writes are throttled.
    NvRate,
    /// TPM_RC_NV_UNAVAILABLE.
    NvUnavailable,

    // ---- the TPM is full -------------------------------------------------------------------
    /// TPM_RC_OBJECT_MEMORY, TPM_RC_OBJECT_HANDLES.
    ObjectMemory,
    /// TPM_RC_SESSION_MEMORY, TPM_RC_SESSION_HANDLES, TPM_RC_MEMORY.
    SessionMemory,
    /// TPM_RC_CONTEXT_GAP, TPM_RC_TOO_MANY_CONTEXTS, EFAULT of the kernel's resource manager: an idle
    /// session of another program blocks the saving of all sessions.
    ContextGap,

    // ---- the TPM was restarted -------------------------------------------------------------
    /// TPM_RC_INITIALIZE: TPM2_Startup is missing.
    Initialize,
    /// TPM_RC_FAILURE: failure mode, or what some firmware says of a bad input.
    Failure,
    /// TPM_RC_REFERENCE_H0..H6, S0..S6: a handle or session is not loaded any more.
    Reference,
    /// TPM_RC_HANDLE, TPM_RC_VALUE at a handle: no such persistent object, transient object or NV index.
    Handle,
    /// TPM_RC_INTEGRITY, SENSITIVE, BINDING: a blob is not of this TPM, this parent or this run.
    Integrity,

    // ---- authorization ---------------------------------------------------------------------
    /// TPM_RC_AUTH_FAIL, BAD_AUTH: an authorization value was wrong.
    AuthFail,
    /// TPM_RC_AUTH_UNAVAILABLE: a PIN index that is locked or unwritten.
    AuthUnavailable,
    /// TPM_RC_LOCKOUT: the TPM-wide dictionary attack protection is active.
    Lockout,
    /// TPM_RC_POLICY_FAIL, POLICY, POLICY_CC, EXPIRED.
    Policy,
    /// TPM_RC_PCR_CHANGED.
    PcrChanged,
    /// TPM_RC_HIERARCHY: disabled until the next restart.
    Hierarchy,

    // ---- NV --------------------------------------------------------------------------------
    /// TPM_RC_NV_SPACE.
    NvSpace,
    /// TPM_RC_NV_DEFINED: the number is taken.
    NvDefined,
    /// TPM_RC_NV_AUTHORIZATION, NV_LOCKED, NV_UNINITIALIZED, NV_RANGE, NV_SIZE.
    NvState,

    // ---- the command -----------------------------------------------------------------------
    /// TPM_RC_COMMAND_CODE: the TPM does not know the command.
    CommandCode,
    /// TPM_RC_ECC_POINT.
    EccPoint,
    /// TPM_RC_CURVE.
    Curve,
    /// TPM_RC_KEY_SIZE.
    KeySize,
    /// A parameter was refused: MODE, TYPE, ATTRIBUTES, SCHEME, HASH, VALUE, SIZE, RANGE, KEY, ...
    Parameter,
    /// TPM_RC_BAD_TAG as a TPM 1.2 answers it.
    OldTpm,
    /// Any other response code.
    Other,

    // ---- the host --------------------------------------------------------------------------
    /// A response whose HMAC, size, tag or content is wrong; says what.
    Tampered(&'static str),
    /// The transport could not carry the command.
    Broken(Broken),
    /// The storage root key is not the one whose Name was pinned.
    ForeignTpm,
    /// A context-specific login was used, is too old, or was lost with the TPM's memory.
    LoginLost,
    /// Something in the TPM is not what the token needs; says what.
    Unsound(String),
    /// The store's bytes cannot be understood; says which.
    Malformed(&'static str),
    /// Our own mistake.
    Bug(&'static str),
    /// A response code that has no line of its own is kept as it is by [`Fault::of_code`].
    Code(u32, &'static Trouble),
}

/// What to do about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Send the same bytes again after a pause, for at most this long in all. `execute` does it.
    Wait(Duration),
    /// Send the same bytes again once. `execute` does it.
    Again,
    /// Flush our loaded keys, then replay.
    FlushObjects,
    /// Drop our sessions, then replay.
    FlushSessions,
    /// Use password authorization for this command; no session can be had.
    WithoutSession,
    /// TPM2_Startup(CLEAR) on swtpm and mssim, a second's pause on a device, then replay once.
    Startup,
    /// Drop the lease with everything in it, build a new one, replay once.
    Rebuild,
    /// Drop saved contexts and load the key from its blob.
    Reload,
    /// Find the storage root key again (it may have been re-created), compare its Name, replay once.
    FindAgain,
    /// Connect again until the deadline; nothing was sent.
    Reconnect,
    /// Take the next free NV index number.
    NextIndex,
    /// Drop the lease; do not repeat.
    Drop,
    /// Nothing helps; the lease stays.
    GiveUp,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// What to do about it.
    pub remedy: Remedy,
    /// The answer proves that an authorization made from a PIN was not evaluated, so that the command
    /// may be repeated even then.
    pub pin_unevaluated: bool,
    /// What a person is told if it lasts.
    pub says: &'static str,
}

const fn row(remedy: Remedy, pin_unevaluated: bool, says: &'static str) -> Row {
    Row { remedy, pin_unevaluated, says }
}

/// How long RETRY and YIELDED are waited out.
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// How long a self-test or a throttled NV memory is waited for.
const SLOW_LIMIT: Duration = Duration::from_secs(10);

impl Trouble {
    /// The table.
    pub fn row(&self) -> Row {
        use Remedy::*;
        match self {
            Trouble::Retry => row(Wait(RETRY_LIMIT), true, "the TPM keeps asking to try again"),
            Trouble::Yielded => {
                row(Wait(RETRY_LIMIT), false, "the TPM keeps interrupting the command")
            }
            Trouble::Canceled => row(Again, false, "the command was canceled in the TPM"),
            Trouble::Testing => row(Wait(SLOW_LIMIT), true, "the TPM's self-test does not end"),
            Trouble::NvRate => row(
                Wait(SLOW_LIMIT),
                true,
                "the TPM limits how often its NV memory is written; try again later",
            ),
            Trouble::NvUnavailable => {
                row(Wait(SLOW_LIMIT), true, "the TPM's NV memory is not available")
            }
            Trouble::ObjectMemory => row(
                FlushObjects,
                true,
                "the TPM has no room for another loaded object; other programs hold them",
            ),
            Trouble::SessionMemory => row(
                FlushSessions,
                true,
                "the TPM has no room for another session; other programs hold them",
            ),
            Trouble::ContextGap => row(
                WithoutSession,
                false,
                "an idle session of another program blocks the TPM's sessions; `tpm11 doctor` finds it",
            ),
            Trouble::Initialize => row(Startup, true, "the TPM was not started (TPM2_Startup)"),
            Trouble::Failure => {
                row(GiveUp, false, "the TPM is in failure mode; a restart may help")
            }
            Trouble::Reference => {
                row(Rebuild, true, "the TPM keeps losing what was loaded into it")
            }
            Trouble::Handle => {
                row(FindAgain, false, "the TPM has no object or index of this number")
            }
            Trouble::Integrity => row(
                Reload,
                false,
                "the TPM cannot load it: it was made by another TPM, or it is damaged",
            ),
            Trouble::AuthFail => row(
                GiveUp,
                false,
                "the TPM refused an authorization: what the store holds does not belong to the key",
            ),
            Trouble::AuthUnavailable => {
                row(GiveUp, false, "the TPM refuses the index: it is locked or was created anew")
            }
            Trouble::Lockout => row(
                GiveUp,
                false,
                "the TPM's dictionary attack lockout is active; it ends by itself or by the owner",
            ),
            Trouble::Policy => row(GiveUp, false, "the TPM refused: the policy is not met"),
            Trouble::PcrChanged => {
                row(Again, false, "the TPM's PCRs changed while the policy was checked")
            }
            Trouble::Hierarchy => {
                row(GiveUp, false, "the TPM's hierarchy is disabled until the next restart")
            }
            Trouble::NvSpace => row(GiveUp, false, "the TPM has no NV memory left"),
            Trouble::NvDefined => row(NextIndex, false, "the NV index number is taken"),
            Trouble::NvState => row(GiveUp, false, "the NV index cannot be used in its state"),
            Trouble::CommandCode => row(GiveUp, false, "the TPM does not have this command"),
            Trouble::EccPoint => row(GiveUp, false, "the point is not on the curve"),
            Trouble::Curve => row(GiveUp, false, "the TPM does not have this curve"),
            Trouble::KeySize => row(GiveUp, false, "the TPM does not have keys of this size"),
            Trouble::Parameter => row(GiveUp, false, "the TPM refused a parameter"),
            Trouble::OldTpm => row(GiveUp, false, "this is a TPM 1.2; tpm11 needs a TPM 2.0"),
            Trouble::Other => row(GiveUp, false, "the TPM refused the command"),
            Trouble::Tampered(_) => row(
                Rebuild,
                false,
                "a response of the TPM was altered on its way or belongs to another command",
            ),
            Trouble::Broken(broken) => match broken.kind {
                BrokenKind::Settings => row(GiveUp, false, "the TPM's address cannot be used"),
                BrokenKind::Absent => row(Reconnect, false, "no TPM answers"),
                BrokenKind::Denied => row(GiveUp, false, "the TPM may not be opened"),
                BrokenKind::Busy => row(Reconnect, false, "another program holds the TPM"),
                BrokenKind::Closed => row(Rebuild, false, "the connection to the TPM broke"),
                BrokenKind::Gap => Trouble::ContextGap.row(),
                BrokenKind::Late => row(Drop, false, "the TPM did not answer in time"),
                BrokenKind::Canceled => row(Drop, false, "canceled"),
            },
            Trouble::ForeignTpm => row(GiveUp, false, "the TPM was cleared or replaced"),
            Trouble::LoginLost => row(GiveUp, false, "the login for this one use is gone"),
            Trouble::Unsound(_) => row(GiveUp, false, "the TPM does not hold what the token needs"),
            Trouble::Malformed(_) => row(GiveUp, false, "the store's bytes cannot be understood"),
            Trouble::Bug(_) => row(GiveUp, false, "internal error"),
            Trouble::Code(_, trouble) => trouble.row(),
        }
    }
}

/// Removes what the layers above the TPM add to a response code: a resource manager marks its own
/// codes with its layer number in bits 16 to 23.
const LAYER: u32 = 0xFFFF_0000;

/// The line of the table for a response code. Part 2 §6.6.3.
fn meaning(code: u32) -> &'static Trouble {
    const NUMBER: u32 = 0x03F;
    const PARAMETER: u32 = 0x040;
    const SESSION: u32 = 0x800;
    let code = code & !LAYER;
    if code & TPM2_RC_FMT1 != 0 {
        // Format one: bits 0-5 the error, bit 6 says "at a parameter", bits 8-11 its number, or the
        // handle's, or above 8 the session's.
        let at_a_handle = code & (PARAMETER | SESSION) == 0;
        return match TPM2_RC_FMT1 | (code & NUMBER) {
            TPM2_RC_AUTH_FAIL | TPM2_RC_BAD_AUTH => &Trouble::AuthFail,
            TPM2_RC_POLICY_FAIL | TPM2_RC_EXPIRED | TPM2_RC_POLICY_CC => &Trouble::Policy,
            TPM2_RC_INTEGRITY | TPM2_RC_BINDING => &Trouble::Integrity,
            TPM2_RC_HANDLE => &Trouble::Handle,
            TPM2_RC_VALUE if at_a_handle => &Trouble::Handle,
            // No such session: the answer that began it may have been altered.
            TPM2_RC_VALUE if code & PARAMETER == 0 => &Trouble::Reference,
            // We send back what began the session: that was altered, or this was.
            TPM2_RC_NONCE => &Trouble::Tampered("another nonce than the TPM's"),
            TPM2_RC_HIERARCHY => &Trouble::Hierarchy,
            TPM2_RC_KEY_SIZE => &Trouble::KeySize,
            TPM2_RC_CURVE => &Trouble::Curve,
            TPM2_RC_ECC_POINT => &Trouble::EccPoint,
            _ => &Trouble::Parameter,
        };
    }
    match code {
        0x01E => &Trouble::OldTpm,
        TPM2_RC_INITIALIZE => &Trouble::Initialize,
        TPM2_RC_FAILURE => &Trouble::Failure,
        TPM2_RC_POLICY => &Trouble::Policy,
        TPM2_RC_PCR_CHANGED => &Trouble::PcrChanged,
        TPM2_RC_TOO_MANY_CONTEXTS | TPM2_RC_CONTEXT_GAP => &Trouble::ContextGap,
        TPM2_RC_AUTH_UNAVAILABLE => &Trouble::AuthUnavailable,
        TPM2_RC_COMMAND_CODE => &Trouble::CommandCode,
        TPM2_RC_AUTHSIZE | TPM2_RC_COMMAND_SIZE => &Trouble::Parameter,
        TPM2_RC_NV_RANGE
        | TPM2_RC_NV_SIZE
        | TPM2_RC_NV_LOCKED
        | TPM2_RC_NV_AUTHORIZATION
        | TPM2_RC_NV_UNINITIALIZED => &Trouble::NvState,
        TPM2_RC_NV_SPACE => &Trouble::NvSpace,
        TPM2_RC_NV_DEFINED => &Trouble::NvDefined,
        TPM2_RC_SENSITIVE => &Trouble::Integrity,
        TPM2_RC_OBJECT_MEMORY | TPM2_RC_OBJECT_HANDLES => &Trouble::ObjectMemory,
        TPM2_RC_SESSION_MEMORY | TPM2_RC_SESSION_HANDLES | TPM2_RC_MEMORY => {
            &Trouble::SessionMemory
        }
        TPM2_RC_YIELDED => &Trouble::Yielded,
        TPM2_RC_CANCELED => &Trouble::Canceled,
        TPM2_RC_TESTING => &Trouble::Testing,
        TPM2_RC_REFERENCE_H0..=TPM2_RC_REFERENCE_H6 => &Trouble::Reference,
        TPM2_RC_REFERENCE_S0..=TPM2_RC_REFERENCE_S6 => &Trouble::Reference,
        TPM2_RC_NV_RATE => &Trouble::NvRate,
        TPM2_RC_LOCKOUT => &Trouble::Lockout,
        TPM2_RC_RETRY => &Trouble::Retry,
        TPM2_RC_NV_UNAVAILABLE => &Trouble::NvUnavailable,
        _ => &Trouble::Other,
    }
}

impl Fault {
    /// A fault without a command.
    pub fn new(trouble: Trouble) -> Self {
        Self { trouble, command: None, pin: false, sent: false }
    }

    /// The fault that a response code is.
    pub fn of_code(code: u32) -> Self {
        Self { sent: true, ..Self::new(Trouble::Code(code, meaning(code))) }
    }

    /// Says at which command it happened.
    pub fn at(mut self, command: &'static str, pin: bool) -> Self {
        self.command = Some(command);
        self.pin = pin;
        self
    }

    /// Says that part of the command was handed to the transport already.
    pub fn after_sending(mut self) -> Self {
        self.sent = true;
        self
    }

    /// Our own mistake.
    pub fn bug(what: &'static str) -> Self {
        Self::new(Trouble::Bug(what))
    }

    /// What happened, without the number of a response code around it.
    pub fn kind(&self) -> &Trouble {
        match &self.trouble {
            Trouble::Code(_, trouble) => trouble,
            other => other,
        }
    }

    /// The response code, if the TPM answered one.
    pub fn code(&self) -> Option<u32> {
        match self.trouble {
            Trouble::Code(code, _) => Some(code),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> Remedy {
        self.trouble.row().remedy
    }

    /// Whether the job in which it happened may be run again, as far as PINs are concerned: no PIN was
    /// in flight, or the answer proves that the TPM did not look at it, or nothing was sent.
    pub fn spares_the_pin(&self) -> bool {
        !self.pin || !self.sent || self.trouble.row().pin_unevaluated
    }

    /// Whether the connection is of no further use.
    pub fn breaks_the_line(&self) -> bool {
        matches!(self.trouble, Trouble::Tampered(_) | Trouble::Broken(_))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.trouble.row().says)?;
        match &self.trouble {
            Trouble::Tampered(what) | Trouble::Malformed(what) | Trouble::Bug(what) => {
                write!(f, ": {what}")?
            }
            Trouble::Unsound(what) => write!(f, ": {what}")?,
            Trouble::Broken(broken) => write!(f, ": {}", broken.what)?,
            _ => {}
        }
        match (self.command, self.code()) {
            (Some(command), Some(code)) => write!(f, " ({command}: {code:#05x})"),
            (Some(command), None) => write!(f, " ({command})"),
            (None, Some(code)) => write!(f, " ({code:#05x})"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        let sent = broken.sent;
        Self { sent, ..Self::new(Trouble::Broken(broken)) }
    }
}

impl From<Fault> for Error {
    /// What a person is told. A wrong PIN never comes this way: `pin.rs` decides that, where it knows
    /// that the authorization was made from one.
    fn from(fault: Fault) -> Self {
        match fault.kind() {
            Trouble::Broken(Broken { kind: BrokenKind::Canceled, .. }) => Error::Canceled,
            Trouble::ForeignTpm => Error::ForeignTpm,
            Trouble::LoginLost => Error::NotLoggedIn,
            Trouble::Bug(what) => Error::Bug(what),
            Trouble::ObjectMemory | Trouble::SessionMemory | Trouble::NvSpace => {
                Error::DeviceMemory(fault.to_string())
            }
            Trouble::CommandCode => Error::Refused(Refusal::Command, fault.to_string()),
            Trouble::EccPoint => Error::Refused(Refusal::Point, fault.to_string()),
            Trouble::Curve => Error::Refused(Refusal::Curve, fault.to_string()),
            Trouble::KeySize => Error::Refused(Refusal::KeySize, fault.to_string()),
            Trouble::Policy | Trouble::PcrChanged => {
                Error::Refused(Refusal::Policy, fault.to_string())
            }
            Trouble::Parameter => Error::FunctionFailed(fault.to_string()),
            Trouble::Retry
            | Trouble::Yielded
            | Trouble::Canceled
            | Trouble::Testing
            | Trouble::NvRate
            | Trouble::NvUnavailable
            | Trouble::ContextGap
            | Trouble::Initialize
            | Trouble::Failure
            | Trouble::Reference
            | Trouble::Handle
            | Trouble::Integrity
            | Trouble::AuthFail
            | Trouble::AuthUnavailable
            | Trouble::Lockout
            | Trouble::Hierarchy
            | Trouble::NvDefined
            | Trouble::NvState
            | Trouble::OldTpm
            | Trouble::Other
            | Trouble::Tampered(_)
            | Trouble::Broken(_)
            | Trouble::Unsound(_)
            | Trouble::Malformed(_)
            | Trouble::Code(..) => Error::Device(fault.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code, what it is, its remedy, and whether a PIN in it may be sent again.
    #[test]
    fn the_table_knows_every_code_that_matters() {
        use Remedy::*;
        let wait = Wait(Duration::from_secs(10));
        let rows: &[(u32, Trouble, Remedy, bool)] = &[
            (0x922, Trouble::Retry, wait, true),
            (0x908, Trouble::Yielded, wait, false),
            (0x909, Trouble::Canceled, Again, false),
            (0x90A, Trouble::Testing, wait, true),
            (0x920, Trouble::NvRate, wait, true),
            (0x923, Trouble::NvUnavailable, wait, true),
            (0x921, Trouble::Lockout, GiveUp, false),
            (0x902, Trouble::ObjectMemory, FlushObjects, true),
            (0x906, Trouble::ObjectMemory, FlushObjects, true),
            (0x903, Trouble::SessionMemory, FlushSessions, true),
            (0x904, Trouble::SessionMemory, FlushSessions, true),
            (0x905, Trouble::SessionMemory, FlushSessions, true),
            (0x901, Trouble::ContextGap, WithoutSession, false),
            (0x12E, Trouble::ContextGap, WithoutSession, false),
            (0x100, Trouble::Initialize, Startup, true),
            (0x101, Trouble::Failure, GiveUp, false),
            (0x1DF, Trouble::Integrity, Reload, false),
            (0x155, Trouble::Integrity, Reload, false),
            (0x1E5, Trouble::Integrity, Reload, false),
            (0x910, Trouble::Reference, Rebuild, true),
            (0x916, Trouble::Reference, Rebuild, true),
            (0x918, Trouble::Reference, Rebuild, true),
            (0x91E, Trouble::Reference, Rebuild, true),
            (0x18B, Trouble::Handle, FindAgain, false),
            (0x28B, Trouble::Handle, FindAgain, false),
            (0x184, Trouble::Handle, FindAgain, false),
            (0x98E, Trouble::AuthFail, GiveUp, false),
            (0x9A2, Trouble::AuthFail, GiveUp, false),
            (0x12F, Trouble::AuthUnavailable, GiveUp, false),
            (0x99D, Trouble::Policy, GiveUp, false),
            (0x9A4, Trouble::Policy, GiveUp, false),
            (0x9A3, Trouble::Policy, GiveUp, false),
            (0x126, Trouble::Policy, GiveUp, false),
            (0x128, Trouble::PcrChanged, Again, false),
            (0x2C3, Trouble::Parameter, GiveUp, false),
            (0x1C4, Trouble::Parameter, GiveUp, false),
            (0x984, Trouble::Reference, Rebuild, true),
            (0x982, Trouble::Parameter, GiveUp, false),
            (0x1CF, Trouble::Tampered("another nonce than the TPM's"), Rebuild, false),
            (0x2C7, Trouble::KeySize, GiveUp, false),
            (0x2E6, Trouble::Curve, GiveUp, false),
            (0x143, Trouble::CommandCode, GiveUp, false),
            (0x1E7, Trouble::EccPoint, GiveUp, false),
            (0x185, Trouble::Hierarchy, GiveUp, false),
            (0x14B, Trouble::NvSpace, GiveUp, false),
            (0x14C, Trouble::NvDefined, NextIndex, false),
            (0x149, Trouble::NvState, GiveUp, false),
            (0x148, Trouble::NvState, GiveUp, false),
            (0x14A, Trouble::NvState, GiveUp, false),
            (0x146, Trouble::NvState, GiveUp, false),
            (0x01E, Trouble::OldTpm, GiveUp, false),
            (0x907, Trouble::Other, GiveUp, false),
            (0x12D, Trouble::Other, GiveUp, false),
            (0x0000_07FF & !0x80, Trouble::Other, GiveUp, false),
        ];
        for (code, trouble, remedy, pin) in rows {
            let fault = Fault::of_code(*code).at("TPM2_PolicySecret", true);
            assert_eq!(fault.kind(), trouble, "{code:#x}");
            assert_eq!(fault.remedy(), *remedy, "{code:#x}");
            assert_eq!(fault.spares_the_pin(), *pin, "{code:#x}");
            assert_eq!(fault.code(), Some(*code));
            // A resource manager's own codes carry its layer.
            assert_eq!(Fault::of_code(code | 0x000B_0000).kind(), trouble);
        }
    }

    #[test]
    fn every_code_has_a_line_and_none_says_that_a_pin_was_wrong() {
        for code in 1..0x1000 {
            let error = Error::from(Fault::of_code(code).at("TPM2_Sign", true));
            assert!(
                !matches!(error, Error::WrongPin { .. } | Error::PinLocked | Error::Bug(_)),
                "{code:#x}"
            );
        }
    }

    #[test]
    fn a_broken_line_spares_a_pin_only_if_nothing_was_sent() {
        let broken = |sent| {
            let broken = Broken { kind: BrokenKind::Closed, sent, what: "EOF".to_owned() };
            Fault::from(broken).at("TPM2_PolicySecret", true)
        };
        assert!(broken(false).spares_the_pin());
        assert!(!broken(true).spares_the_pin());
        assert!(broken(true).at("TPM2_Sign", false).spares_the_pin());
        assert!(broken(true).breaks_the_line());
        assert_eq!(broken(true).remedy(), Remedy::Rebuild);
        let tampered = Fault::new(Trouble::Tampered("an HMAC that is wrong")).after_sending();
        assert!(!tampered.at("TPM2_Unseal", true).spares_the_pin());
    }

    #[test]
    fn a_fault_says_what_happened_where() {
        let fault = Fault::of_code(0x902).at("TPM2_Load", false);
        assert_eq!(
            fault.to_string(),
            "the TPM has no room for another loaded object; other programs hold them \
             (TPM2_Load: 0x902)"
        );
    }
}
