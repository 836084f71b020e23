//! tpm2-abrmd, the resource manager in user space, on a D-Bus of its own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bench::program;
use crate::front::Front;
use crate::spawn::Guarded;

/// Where `scripts/test` unpacks tpm2-abrmd and its client library.
fn unpacked() -> PathBuf {
    program().parent().and_then(Path::parent).expect("target/debug lies in target").join("abrmd")
}

/// A program of the system, or one unpacked.
pub fn find(program: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .map(PathBuf::from)
        .chain([unpacked().join("usr/sbin")])
        .map(|directory| directory.join(program))
        .find(|path| path.exists())
}

/// LD_LIBRARY_PATH with which the TCTI loader finds its client library.
pub fn libraries() -> OsString {
    let found = std::fs::read_dir(unpacked().join("usr/lib")).into_iter().flatten().flatten();
    std::env::join_paths(found.map(|entry| entry.path())).expect("no colons")
}

/// A running daemon. Dropping it ends it and its D-Bus.
#[derive(Debug)]
pub struct Abrmd {
    _daemon: Guarded,
    _bus: Guarded,
    address: String,
}

impl Abrmd {
    /// Starts one in front of a UNIX socket that speaks raw commands; the name of what is missing if it
    /// cannot be had here.
    ///
    /// # Errors
    /// The program that is missing.
    pub fn start(tpm: &Path) -> Result<Abrmd, &'static str> {
        let bus = find("dbus-daemon").ok_or("dbus-daemon")?;
        let daemon = find("tpm2-abrmd").ok_or("tpm2-abrmd")?;
        let mut command = Command::new(bus);
        command
            .args(["--session", "--nofork", "--nopidfile", "--print-address"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut bus = Guarded::start(command).expect("dbus-daemon starts");
        let mut address = String::new();
        let output = bus.child().stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut address).expect("it tells its address");
        let address = address.trim().to_owned();
        let port = Front::simulator(tpm).port;
        let mut command = Command::new(daemon);
        command
            .args(["--session", "--allow-root"])
            .arg(format!("--tcti=mssim:host=127.0.0.1,port={port}"))
            .env("DBUS_SESSION_BUS_ADDRESS", &address)
            .env("LD_LIBRARY_PATH", libraries())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let daemon = Guarded::start(command).expect("tpm2-abrmd starts");
        Ok(Abrmd { _daemon: daemon, _bus: bus, address })
    }

    /// What an application's environment must say so that the module goes through it.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("DBUS_SESSION_BUS_ADDRESS", OsString::from(&self.address)),
            ("LD_LIBRARY_PATH", libraries()),
            ("TPM11_TCTI", OsString::from("tabrmd:bus_type=session")),
        ]
    }
}
