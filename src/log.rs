//! The log: one line per event, to syslog, the journal or a file, and never to standard output or
//! standard error, which belong to the program that we live in.
//!
//! No descriptor is kept and no lock is held while a line is written: a host may close every
//! descriptor it knows nothing of, or fork while another thread logs.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{OnceLock, RwLock};
use std::time::SystemTime;

use env_filter::Filter;
use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::fs::OFlags;

use crate::config::{LogConfig, LogTarget};

/// Facility LOG_AUTHPRIV: who logs in to a token is not for every reader of the system's log.
const FACILITY: u8 = 10 << 3;

/// Sends lines where `config` says. Called by C_Initialize; a later call takes the place of an
/// earlier one.
pub fn start(config: &LogConfig) {
    let filter = match env_filter::Builder::new().try_parse(&config.filter) {
        Ok(builder) => builder.build(),
        Err(_) => env_filter::Builder::new().filter_level(LevelFilter::Warn).build(),
    };
    let level = if config.target == LogTarget::None { LevelFilter::Off } else { filter.filter() };
    let sink = SINK.get_or_init(Sink::default);
    // A lock that another thread held when this process was forked stays held: go without.
    if let Ok(mut outlet) = sink.outlet.try_write() {
        *outlet = Some(Outlet { filter, target: config.target.clone() });
    }
    // Fails where a program that links us as a Rust library has a logger of its own.
    let _ = log::set_logger(sink);
    log::set_max_level(level);
}

/// Sends lines nowhere. Called by C_Finalize.
pub fn stop() {
    log::set_max_level(LevelFilter::Off);
}

/// Until it is dropped, the lines of this thread say that they were written during this C_ call.
#[must_use]
pub fn during(call: &'static str) -> During {
    During { before: CALL.replace(call) }
}

/// See [`during`].
#[derive(Debug)]
pub struct During {
    before: &'static str,
}

impl Drop for During {
    fn drop(&mut self) {
        CALL.set(self.before);
    }
}

thread_local! {
    /// The call that the thread is in; empty outside of calls. Const-initialised and without Drop, so
    /// that it works in exit handlers and needs no code at unloading.
    static CALL: Cell<&'static str> = const { Cell::new("") };
}

static SINK: OnceLock<Sink> = OnceLock::new();

#[derive(Default)]
struct Sink {
    outlet: RwLock<Option<Outlet>>,
}

struct Outlet {
    filter: Filter,
    target: LogTarget,
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let Ok(outlet) = self.outlet.try_read() else { return false };
        outlet.as_ref().is_some_and(|outlet| outlet.filter.enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        let Ok(outlet) = self.outlet.try_read() else { return };
        let Some(outlet) = outlet.as_ref().filter(|outlet| outlet.filter.matches(record)) else {
            return;
        };
        // A line that cannot be written is lost: there is nobody to tell.
        let _ = write_line(&outlet.target, record);
    }

    fn flush(&self) {}
}

fn write_line(target: &LogTarget, record: &Record<'_>) -> std::io::Result<()> {
    let pid = std::process::id();
    // One event is one line, whatever a file name or a label contains.
    let text = match CALL.get() {
        "" => record.args().to_string(),
        call => format!("{call}: {}", record.args()),
    };
    let text = text.replace(|c: char| c.is_control(), " ");
    match target {
        LogTarget::None => Ok(()),
        LogTarget::File(path) => {
            let time = humantime::format_rfc3339_millis(SystemTime::now());
            append(path, &format!("{time} tpm11[{pid}] {:<5} {text}\n", record.level()))
        }
        LogTarget::Syslog => datagram("/dev/log".as_ref(), &to_syslog(record.level(), pid, &text)),
        LogTarget::Journald => {
            datagram("/run/systemd/journal/socket".as_ref(), &to_journal(record.level(), &text))
        }
    }
}

/// RFC 3164 without a time stamp, which the receiver has.
fn to_syslog(level: Level, pid: u32, text: &str) -> String {
    format!("<{}>tpm11[{pid}]: {text}", FACILITY | severity(level))
}

/// systemd-journald's native protocol.
fn to_journal(level: Level, text: &str) -> String {
    let (facility, priority) = (FACILITY >> 3, severity(level));
    format!(
        "SYSLOG_IDENTIFIER=tpm11\nSYSLOG_FACILITY={facility}\nPRIORITY={priority}\nMESSAGE={text}\n"
    )
}

/// One write of one line, which O_APPEND keeps whole among several processes. Mode 0600, because
/// labels and paths are nobody else's business. A pipe that nobody reads is not waited for.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)?
        .write_all(line.as_bytes())
}

/// Never waits: a logger that is stuck must not stop a signature.
fn datagram(socket: &Path, message: &str) -> std::io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to(message.as_bytes(), socket).map(drop)
}

/// RFC 5424 §6.2.1.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_is_one_line_with_time_process_and_level() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let target = LogTarget::File(path.clone());
        for text in ["first", "second\nforged line"] {
            // `format_args!` borrows its arguments, so the record is built where it is used.
            write_line(
                &target,
                &Record::builder().level(Level::Warn).args(format_args!("{text}")).build(),
            )
            .unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = written.lines().collect();
        assert_eq!(lines.len(), 2);
        let pid = std::process::id();
        assert!(lines[0].ends_with(&format!("Z tpm11[{pid}] WARN  first")), "{}", lines[0]);
        assert!(lines[1].ends_with("second forged line"), "{}", lines[1]);
    }

    #[test]
    fn a_line_names_the_call_of_its_thread_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let target = LogTarget::File(path.clone());
        let write = || {
            write_line(&target, &Record::builder().args(format_args!("said")).build()).unwrap();
        };
        let outer = during("C_Outer");
        {
            let _inner = during("C_Inner");
            write();
            std::thread::scope(|scope| scope.spawn(write).join()).unwrap();
        }
        write();
        drop(outer);
        write();
        let written = std::fs::read_to_string(&path).unwrap();
        let said: Vec<&str> = written.lines().filter_map(|line| line.split("  ").nth(1)).collect();
        assert_eq!(said, ["C_Inner: said", "said", "C_Outer: said", "said"]);
    }

    #[test]
    fn syslog_and_the_journal_get_what_they_can_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut buffer = [0; 1024];
        let mut received = |message: &str| {
            datagram(&path, message).unwrap();
            let length = receiver.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        // LOG_AUTHPRIV | LOG_WARNING
        assert_eq!(received(&to_syslog(Level::Warn, 42, "text")), "<84>tpm11[42]: text");
        assert_eq!(
            received(&to_journal(Level::Error, "text")),
            "SYSLOG_IDENTIFIER=tpm11\nSYSLOG_FACILITY=10\nPRIORITY=3\nMESSAGE=text\n"
        );
    }

    #[test]
    fn a_receiver_that_does_not_read_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _receiver = UnixDatagram::bind(&path).unwrap();
        let long = "x".repeat(10_000);
        assert!((0..10_000).any(|_| datagram(&path, &long).is_err()), "it is full at some time");
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(append(&pipe, "lost\n").is_err());
    }

    #[test]
    fn a_log_that_cannot_be_written_fails_nobody() {
        let nowhere = LogTarget::File("/nonexistent/log".into());
        let record = |target: &LogTarget| {
            write_line(target, &Record::builder().args(format_args!("lost")).build())
        };
        assert!(record(&nowhere).is_err());
        assert!(record(&LogTarget::None).is_ok());
    }
}
