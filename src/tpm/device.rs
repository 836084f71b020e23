//! The kernel's character devices: /dev/tpmrm0 (its resource manager) and /dev/tpm0 (the bare TPM).
//! One write takes a whole command, one read gives a whole response.

use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::transport::{Broken, BrokenKind, LARGEST, SLICE, Transport, pause};
use super::{Call, Fault};
use crate::fork::Kept;
use crate::sync::plain::Instant;

/// An open TPM device.
pub(super) struct Device {
    file: Kept<OwnedFd>,
    path: PathBuf,
}

impl Device {
    /// Opens the device, close-on-exec, so that no child of the application inherits it.
    pub(super) fn open(path: &Path) -> Result<Self, Broken> {
        // O_NONBLOCK: write only queues the command, and the response is polled for.
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        loop {
            match rustix::fs::open(path, flags, Mode::empty()) {
                Ok(file) => return Ok(Self { file: Kept::new(file), path: path.to_owned() }),
                Err(Errno::INTR) => {}
                Err(error) => return Err(refusal(path, error)),
            }
        }
    }

    fn broken(&self, error: Errno, sent: bool) -> Broken {
        let kind = match error {
            // The resource manager's answer when it cannot save or load a session.
            Errno::FAULT => BrokenKind::Gap,
            _ => BrokenKind::Closed,
        };
        Broken { kind, sent, what: format!("{}: {error}", self.path.display()) }
    }

    fn send(&self, command: &[u8]) -> Result<(), Broken> {
        loop {
            match rustix::io::write(&self.file, command) {
                Ok(written) if written == command.len() => return Ok(()),
                Ok(_) => return Err(self.broken(Errno::IO, true)),
                Err(Errno::INTR) => {}
                // A kernel without queued commands executes in write: the TPM may have seen it.
                Err(error) => return Err(self.broken(error, true)),
            }
        }
    }

    fn receive(&self, call: &Call, until: Instant) -> Result<Vec<u8>, Broken> {
        let mut response = vec![0; LARGEST];
        loop {
            wait(&self.file, PollFlags::IN, call, until, &self.path.display().to_string())?;
            match rustix::io::read(&self.file, response.as_mut_slice()) {
                // Some kernels say "readable" while the command still runs.
                Ok(0) | Err(Errno::AGAIN) => pause(Duration::from_millis(1), call)?,
                Ok(length) => {
                    response.truncate(length);
                    return Ok(response);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.broken(error, true)),
            }
        }
    }
}

impl Transport for Device {
    fn transmit(&mut self, command: &[u8], call: &Call, limit: Duration) -> Result<Vec<u8>, Fault> {
        let until = (Instant::now() + limit).min(call.deadline);
        self.send(command)?;
        let answer = self.receive(call, until);
        Ok(answer.map_err(|broken| Broken { sent: true, ..broken })?)
    }

    fn leak(self: Box<Self>) {
        let _ = ManuallyDrop::new(self);
    }
}

/// Waits until `file` is ready, the call is canceled or `until` has come.
pub(super) fn wait(
    file: &OwnedFd,
    what: PollFlags,
    call: &Call,
    until: Instant,
    name: &str,
) -> Result<(), Broken> {
    loop {
        if call.is_canceled() {
            return Err(Broken::canceled(false));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Broken::unsent(BrokenKind::Late, format!("{name}: no answer in time")));
        }
        let slice = left.min(SLICE);
        let timeout =
            rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(slice.subsec_nanos()).max(1) };
        match poll(&mut [PollFd::new(file, what)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => {
                return Err(Broken::unsent(BrokenKind::Closed, format!("{name}: {error}")));
            }
        }
    }
}

/// Why the device could not be opened, in words that say what to do.
fn refusal(path: &Path, error: Errno) -> Broken {
    let name = path.display();
    match error {
        Errno::BUSY => {
            Broken::unsent(BrokenKind::Busy, format!("{name} is held by another program (EBUSY)"))
        }
        Errno::ACCESS | Errno::PERM => {
            let uid = rustix::process::geteuid().as_raw();
            let who = match std::fs::metadata(path) {
                Ok(data) => {
                    format!("; it belongs to uid {} and {}", data.uid(), group(data.gid()))
                }
                Err(_) => String::new(),
            };
            let code = if error == Errno::ACCESS { "EACCES" } else { "EPERM" };
            Broken::unsent(
                BrokenKind::Denied,
                format!("{name} may not be opened by uid {uid} ({code}){who}"),
            )
        }
        Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTDIR => {
            Broken::unsent(BrokenKind::Absent, format!("{name}: {error}"))
        }
        // What open says when the driver cannot talk to the chip (now).
        Errno::IO | Errno::AGAIN => Broken::unsent(BrokenKind::Absent, format!("{name}: {error}")),
        _ => Broken::unsent(BrokenKind::Settings, format!("{name}: {error}")),
    }
}

/// The group's name and number, for the sentence that tells whom to become a member of.
fn group(gid: u32) -> String {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then_some(name)
    });
    match name {
        Some(name) => format!("group {name} (gid {gid}), whose members may be allowed to"),
        None => format!("gid {gid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_device_is_absent_and_a_refusal_names_path_and_group() {
        let broken = Device::open(Path::new("/dev/no-such-tpm")).err().unwrap();
        assert_eq!(broken.kind, BrokenKind::Absent);
        assert!(broken.what.contains("/dev/no-such-tpm"));

        let broken = refusal(Path::new("/dev/null"), Errno::ACCESS);
        assert_eq!(broken.kind, BrokenKind::Denied);
        assert!(broken.what.contains("/dev/null"), "{}", broken.what);
        assert!(broken.what.contains("EACCES"), "{}", broken.what);
        assert!(broken.what.contains("group root (gid 0)"), "{}", broken.what);

        assert_eq!(refusal(Path::new("/dev/tpm0"), Errno::BUSY).kind, BrokenKind::Busy);
    }
}
