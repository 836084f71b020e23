//! One swtpm with its own state: started, killed, restarted, cleared.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::spawn::Guarded;
use crate::wire;

/// A running swtpm. Its state lasts as long as this value; dropping it kills the process and
/// removes the state.
#[derive(Debug)]
pub struct Swtpm {
    directory: tempfile::TempDir,
    process: Option<Guarded>,
    startup: bool,
}

impl Swtpm {
    /// A fresh TPM, started with TPM2_Startup(CLEAR).
    pub fn start() -> Swtpm {
        Swtpm::fresh(true)
    }

    /// A fresh TPM that nobody has sent TPM2_Startup to: it answers TPM_RC_INITIALIZE.
    pub fn start_without_startup() -> Swtpm {
        Swtpm::fresh(false)
    }

    fn fresh(startup: bool) -> Swtpm {
        // The path of a UNIX socket has at most 107 bytes, so not below a deep TMPDIR.
        let directory = tempfile::Builder::new()
            .prefix("tpm11-swtpm-")
            .tempdir_in("/tmp")
            .expect("a directory below /tmp");
        let mut tpm = Swtpm { directory, process: None, startup };
        tpm.power_on();
        tpm
    }

    /// The UNIX socket of its data channel: raw commands in, raw responses out, one client at a
    /// time.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// swtpm's own log, the commands it executed in hexadecimal among other things.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Its conf string.
    pub fn tcti(&self) -> String {
        format!("swtpm:path={}", self.socket().display())
    }

    /// Pulls the plug: SIGKILL. Everything volatile is lost, and the TPM sees no orderly shutdown.
    pub fn power_off(&mut self) {
        self.process = None;
    }

    /// Starts swtpm with the state it had.
    pub fn power_on(&mut self) {
        if self.process.is_some() {
            return;
        }
        let (data, control) = (self.socket(), self.directory.path().join("control"));
        let _ = std::fs::remove_file(&data);
        let _ = std::fs::remove_file(&control);
        let mut command = Command::new("swtpm");
        command
            .args(["socket", "--tpm2"])
            .arg("--tpmstate")
            .arg(format!("dir={},mode=0600", self.directory.path().display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", data.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", control.display()))
            .arg("--flags")
            .arg(if self.startup { "not-need-init,startup-clear" } else { "not-need-init" })
            .arg("--log")
            .arg(format!("file={},level=1", self.log().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(Guarded::start(command).expect("swtpm is installed (scripts/test)"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&data).is_err() {
            assert!(Instant::now() < deadline, "swtpm does not listen on {}", data.display());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A power cut: kill -9, then started again with the same state.
    pub fn power_cut(&mut self) {
        self.power_off();
        self.power_on();
    }

    /// What the TPM keeps when the plug is pulled.
    pub fn permanent(&self) -> Vec<u8> {
        std::fs::read(self.permanent_file()).expect("swtpm's state")
    }

    /// Pulls the plug, and starts it with another permanent state: one of [`Swtpm::permanent`], or none,
    /// as a new TPM.
    pub fn power_cut_with(&mut self, state: Option<&[u8]>) {
        self.power_off();
        match state {
            Some(state) => std::fs::write(self.permanent_file(), state).expect("written"),
            None => std::fs::remove_file(self.permanent_file()).expect("removed"),
        }
        self.power_on();
    }

    fn permanent_file(&self) -> PathBuf {
        self.directory.path().join("tpm2-00.permall")
    }

    /// The state directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Sends one command on a connection of its own, past any shim. While another client is
    /// connected swtpm lets this wait.
    pub fn send(&self, command: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.socket()).expect("swtpm runs");
        stream.write_all(command).expect("swtpm reads");
        read_message(&mut stream).expect("swtpm answers")
    }

    /// Clears the TPM with the platform's authorization, as the firmware's setup does: the owner's
    /// seed, objects, NV indices and passwords are gone.
    pub fn clear(&self) {
        let response = self.send(&wire::command(wire::CLEAR, &[wire::PLATFORM], Some(b""), &[]));
        assert_eq!(wire::response_code(&response), 0, "TPM2_Clear");
    }
}

/// One TPM command or response: both carry their length in bytes 2 to 5.
///
/// # Errors
/// The stream's, `UnexpectedEof` when it ends in between; `InvalidData` for an absurd length.
pub fn read_message(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 10];
    stream.read_exact(&mut message)?;
    let length = u32::from_be_bytes([message[2], message[3], message[4], message[5]]) as usize;
    if !(10..=65536).contains(&length) {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "absurd length"));
    }
    message.resize(length, 0);
    stream.read_exact(&mut message[10..])?;
    Ok(message)
}
