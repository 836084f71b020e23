//! How the tool fails: one sentence on standard error, a hint that leads on, and an exit code that a
//! script can tell apart.

use std::fmt::Display;
use std::process::ExitCode;

use tpm11::error::Error;

/// Exit codes. 2 is clap's, for a command line that cannot be understood. If several things are
/// wrong the smallest is returned: it is nearest to the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Something that fits nowhere below.
    Other = 1,
    /// The configuration cannot be used.
    Configuration = 3,
    /// A TPM cannot be reached or used.
    Tpm = 4,
    /// A store cannot be read, or nothing can be written.
    Store = 5,
    /// A token does not work: locked, damaged, of another TPM.
    Token = 6,
    /// No PIN was given, or one that is not acceptable.
    Pin = 7,
}

/// Why a command failed, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    hint: Option<String>,
}

impl Failure {
    /// What happened: a sentence without capital and full stop.
    pub(crate) fn new(exit: Exit, what: impl Display) -> Self {
        Self { exit, what: what.to_string(), hint: None }
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// What happened.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Says it, and what the process ends with.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("tpm11: error: {}", self.what);
        if let Some(hint) = &self.hint {
            eprintln!("tpm11: hint: {hint}");
        }
        ExitCode::from(self.exit as u8)
    }
}

impl From<Error> for Failure {
    /// Which of our errors means which exit code, where no caller knows better.
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Device(_) | Error::DeviceMemory(_) | Error::Canceled => Exit::Tpm,
            Error::TokenWriteProtected(_) | Error::StoreFull(_) => Exit::Store,
            Error::TokenNotRecognized(_)
            | Error::ForeignTpm
            | Error::PinLocked
            | Error::SessionExists => Exit::Token,
            Error::PinLength | Error::PinInvalid(_) | Error::WrongPin { .. } => Exit::Pin,
            _ => Exit::Other,
        };
        let failure = Self::new(exit, &error);
        match error {
            Error::PinLength => failure.hint("a PIN has 4 to 255 bytes"),
            Error::Device(_) => failure.hint("`tpm11 status` says how the TPM is"),
            Error::DeviceMemory(_) => {
                failure.hint("make room in the TPM: `tpm11 doctor` tells what nobody needs there")
            }
            Error::StoreFull(_) => failure.hint("make room on the disk that holds the store"),
            Error::FunctionFailed(_) => failure.hint("this may pass: try again"),
            _ => failure,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Other, format_args!("the output cannot be written: {error}"))
    }
}
