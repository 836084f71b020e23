//! How bytes reach a TPM: one verb, [`Transport::transmit`], over the kernel's device, swtpm and
//! mssim. These transports are ours because the libraries' own open the TPM without O_CLOEXEC,
//! write to sockets without MSG_NOSIGNAL and print to stderr. Every other conf string goes through
//! [`super::tcti`].

use std::path::PathBuf;
use std::time::Duration;

use super::device::Device;
use super::socket::{Line, Mssim, Plain};
use super::{Call, Fault};
use crate::sync::plain::{Instant, thread};

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

/// How long nobody may be there before [`open`] gives up: a TPM that is being restarted is back by
/// then.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long at most between two looks for a TPM that is not there; the first ones follow quicker.
const ABSENT_STEP: Duration = Duration::from_millis(250);

/// How long between two attempts to get a TPM that somebody else holds.
const BUSY_STEP: Duration = Duration::from_millis(5);

/// How long a wait may be before the cancel flag is looked at again.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// No command or response of any TPM is longer (PC Client profile: 4,096 bytes).
pub(super) const LARGEST: usize = 4096;

/// Opens the TPM behind a TCTI conf string as tpm2-tools writes it. Retries while somebody else
/// holds it and, up to 5 s, while nobody is there; never beyond the call's deadline.
///
/// # Errors
/// [`Broken`] inside the fault: what to do about it is in its text.
pub fn open(tcti: &str, call: &Call) -> Result<Box<dyn Transport>, Fault> {
    open_within(tcti, PATIENCE, call)
}

/// As [`open`], with another limit to how long nobody may be there.
pub(super) fn open_within(
    tcti: &str,
    patience: Duration,
    call: &Call,
) -> Result<Box<dyn Transport>, Fault> {
    let address = Address::parse(tcti)?;
    let patience = Instant::now() + patience;
    let mut absent_step = Duration::from_millis(10);
    loop {
        let broken = match address.open(call) {
            Ok(transport) => return Ok(transport),
            Err(broken) => broken,
        };
        let (until, step) = match broken.kind {
            BrokenKind::Busy => (call.deadline, BUSY_STEP),
            BrokenKind::Absent => {
                absent_step = (2 * absent_step).min(ABSENT_STEP);
                (call.deadline.min(patience), absent_step)
            }
            _ => return Err(broken.into()),
        };
        if Instant::now() + step >= until {
            return Err(broken.into());
        }
        pause(step, call)?;
    }
}

/// Sleeps, but not past the call's deadline nor past its cancellation.
pub(super) fn pause(length: Duration, call: &Call) -> Result<(), Broken> {
    let until = (Instant::now() + length).min(call.deadline);
    loop {
        if call.is_canceled() {
            return Err(Broken::canceled(false));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(SLICE));
    }
}

impl Broken {
    /// A failure before any byte was sent.
    pub(super) fn unsent(kind: BrokenKind, what: impl Into<String>) -> Self {
        Self { kind, sent: false, what: what.into() }
    }

    /// The deadline came before anything was sent.
    pub(super) fn late(what: impl Into<String>) -> Self {
        Self::unsent(BrokenKind::Late, what)
    }

    /// The call's cancel flag was set.
    pub(super) fn canceled(sent: bool) -> Self {
        Self { kind: BrokenKind::Canceled, sent, what: "canceled by the application".to_owned() }
    }
}

/// What a conf string says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A character device of the kernel's.
    Device(PathBuf),
    /// swtpm's data channel over TCP.
    SwtpmTcp { host: String, port: u16 },
    /// swtpm's data channel over a UNIX socket.
    SwtpmUnix(PathBuf),
    /// The Microsoft simulator's framing; its platform channel is the next port.
    Mssim { host: String, port: u16 },
    /// Anything else: for the TCTI loader, unchanged.
    Loader(String),
}

impl Address {
    /// Reads a conf string: `name` or `name:rest`.
    pub(super) fn parse(tcti: &str) -> Result<Self, Broken> {
        let (name, rest) = tcti.split_once(':').unwrap_or((tcti, ""));
        match name {
            "device" => {
                let path = if rest.is_empty() { "/dev/tpmrm0" } else { rest };
                Ok(Self::Device(path.into()))
            }
            "swtpm" => {
                let options = Options::parse(tcti, rest, &["host", "port", "path"])?;
                match options.path {
                    Some(path) => Ok(Self::SwtpmUnix(path.into())),
                    None => Ok(Self::SwtpmTcp { host: options.host, port: options.port }),
                }
            }
            "mssim" => {
                let options = Options::parse(tcti, rest, &["host", "port"])?;
                if options.port == u16::MAX {
                    return Err(Broken::unsent(
                        BrokenKind::Settings,
                        format!("\"{tcti}\": the platform channel's port would be above 65535"),
                    ));
                }
                Ok(Self::Mssim { host: options.host, port: options.port })
            }
            "" => Err(Broken::unsent(BrokenKind::Settings, "the TCTI conf string is empty")),
            _ => Ok(Self::Loader(tcti.to_owned())),
        }
    }

    /// One attempt.
    fn open(&self, call: &Call) -> Result<Box<dyn Transport>, Broken> {
        match self {
            Self::Device(path) => Ok(Box::new(Device::open(path)?)),
            Self::SwtpmTcp { host, port } => {
                Ok(Box::new(Plain(Line::connect_tcp(host, *port, call)?)))
            }
            #[cfg(all(test, feature = "schedules"))]
            Self::SwtpmUnix(path) if path.as_os_str() == super::schedules::PATH => {
                Ok(super::schedules::connect())
            }
            Self::SwtpmUnix(path) => Ok(Box::new(Plain(Line::connect_unix(path)?))),
            Self::Mssim { host, port } => Ok(Box::new(Mssim::connect(host, *port, call)?)),
            Self::Loader(tcti) => super::tcti::open(tcti),
        }
    }

    /// Whether it serves one client at a time, so that what nobody holds can be told: then what is
    /// loaded while we alone are connected belongs to nobody.
    pub(super) fn is_exclusive(&self) -> bool {
        matches!(self, Self::SwtpmTcp { .. } | Self::SwtpmUnix(_) | Self::Device(_))
    }

    /// Whether we may send TPM2_Startup: a simulator starts without firmware that would.
    pub(super) fn is_simulator(&self) -> bool {
        matches!(self, Self::SwtpmTcp { .. } | Self::SwtpmUnix(_) | Self::Mssim { .. })
    }
}

/// `key=value,key=value` of a conf string.
struct Options {
    host: String,
    port: u16,
    path: Option<String>,
}

impl Options {
    fn parse(tcti: &str, text: &str, allowed: &[&str]) -> Result<Self, Broken> {
        let bad = |why: String| Broken::unsent(BrokenKind::Settings, format!("\"{tcti}\": {why}"));
        let mut options = Self { host: "localhost".to_owned(), port: 2321, path: None };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=').filter(|(key, _)| allowed.contains(key))
            else {
                return Err(bad(format!("{part:?} is none of {}", allowed.join("=, "))));
            };
            match key {
                "host" => options.host = value.to_owned(),
                "path" => options.path = Some(value.to_owned()),
                _ => {
                    options.port =
                        value.parse().map_err(|_| bad(format!("{value:?} is no port number")))?;
                }
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conf_strings_are_read_as_tpm2_tools_write_them() {
        let cases = [
            ("device", Address::Device("/dev/tpmrm0".into())),
            ("device:/dev/tpm0", Address::Device("/dev/tpm0".into())),
            ("swtpm", Address::SwtpmTcp { host: "localhost".into(), port: 2321 }),
            ("swtpm:port=4000", Address::SwtpmTcp { host: "localhost".into(), port: 4000 }),
            ("swtpm:host=::1,port=5", Address::SwtpmTcp { host: "::1".into(), port: 5 }),
            ("swtpm:path=/run/a b/s", Address::SwtpmUnix("/run/a b/s".into())),
            ("mssim:host=h,port=2321", Address::Mssim { host: "h".into(), port: 2321 }),
            ("tabrmd:bus_type=session", Address::Loader("tabrmd:bus_type=session".into())),
        ];
        for (text, address) in cases {
            assert_eq!(Address::parse(text), Ok(address), "{text}");
        }
        for text in ["", "swtpm:prot=1", "swtpm:port=x", "mssim:path=/x", "mssim:port=65535"] {
            let broken = Address::parse(text).unwrap_err();
            assert_eq!(broken.kind, BrokenKind::Settings, "{text}");
        }
    }
}
