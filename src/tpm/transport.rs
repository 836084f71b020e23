//! How bytes reach a TPM: one verb, [`Transport::transmit`], over the kernel's device, swtpm and
//! mssim. These transports are ours because the libraries' own open the TPM without O_CLOEXEC,
//! write to sockets without MSG_NOSIGNAL and print to stderr. Every other conf string goes through
//! [`super::tcti`].

use std::time::Duration;

use super::{Call, Fault};

/// Why a transport could not carry a command. [`Fault`] wraps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What kind of failure, for the remedy.
    pub kind: BrokenKind,
    /// Whether any byte of the command may have reached the TPM: then it may have been executed,
    /// and a PIN in it may have been evaluated.
    pub sent: bool,
    /// One sentence for the log: the address and what the system said.
    pub what: String,
}

/// The kinds of transport failure that differ in their remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenKind {
    /// The conf string cannot be read, or names a transport that is not there. Nothing helps.
    Settings,
    /// ECONNREFUSED, ENOENT, ENODEV, ENXIO: nobody is there (now).
    Absent,
    /// EACCES, EPERM: not for this user. Nothing helps.
    Denied,
    /// EBUSY or a connect that timed out: somebody else holds the TPM and did until the deadline.
    Busy,
    /// EPIPE, EOF, ECONNRESET, EIO, a short or overlong answer: the connection is gone.
    Closed,
    /// EFAULT from a resource manager's device: it could not swap a session (context gap).
    Gap,
    /// No answer within the limit of this command or of the call.
    Late,
    /// The call's cancel flag was set.
    Canceled,
}

/// One connection to a TPM. A dropped transport is a closed connection.
pub trait Transport: Send {
    /// Sends one command and waits for its response: the whole of both, header included.
    ///
    /// Waits at most `limit`, never beyond the call's deadline, and looks at its cancel flag every
    /// 50 ms. After an error the connection is not to be used again.
    ///
    /// # Errors
    /// [`Broken`] inside the fault; response codes are not looked at here.
    fn transmit(&mut self, command: &[u8], call: &Call, limit: Duration) -> Result<Vec<u8>, Fault>;

    /// Forgets the connection without any I/O: for the child of a fork, whose descriptors are the
    /// parent's.
    fn leak(self: Box<Self>);
}

/// Opens the TPM behind a TCTI conf string as tpm2-tools writes it. Retries while somebody else
/// holds it or, up to 5 s, while nobody is there; never beyond the call's deadline.
///
/// # Errors
/// [`Broken`] inside the fault: what to do about it is in its text.
pub fn open(_tcti: &str, _call: &Call) -> Result<Box<dyn Transport>, Fault> {
    todo!()
}
