//! A swtpm of its own for each unit test of this room, behind a relay that records the commands.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::lease::{Settings, Tpm};

pub(super) struct Swtpm {
    directory: tempfile::TempDir,
    child: Option<Child>,
    record: Arc<Mutex<Vec<u32>>>,
}

impl Swtpm {
    pub(super) fn start() -> Self {
        Self::start_with("not-need-init,startup-clear")
    }

    pub(super) fn start_with(flags: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut swtpm = Self { directory, child: None, record: Arc::default() };
        swtpm.power_on(flags);
        let listener = UnixListener::bind(swtpm.path("relay")).unwrap();
        let (behind, record) = (swtpm.path("swtpm"), swtpm.record.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if behind.parent().is_none_or(|directory| !directory.exists()) {
                    return;
                }
                relay(client, &behind, &record);
            }
        });
        swtpm
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn power_on(&mut self, flags: &str) {
        let _ = std::fs::remove_file(self.path("swtpm"));
        let mut command = Command::new("swtpm");
        command
            .args(["socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", self.directory.path().display()))
            .args(["--server", &format!("type=unixio,path={}", self.path("swtpm").display())])
            .args(["--ctrl", &format!("type=unixio,path={}", self.path("ctrl").display())])
            .args(["--flags", flags])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        self.child = Some(command.spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(10);
        while !self.path("swtpm").exists() {
            assert!(Instant::now() < until, "swtpm does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// kill -9
    pub(super) fn power_off(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let _ = std::fs::remove_file(self.path("swtpm"));
    }

    pub(super) fn settings(&self) -> Settings {
        let tcti = format!("swtpm:path={}", self.path("relay").display());
        Settings { tcti, ..Settings::default() }
    }

    pub(super) fn tpm(&self) -> Arc<Tpm> {
        self.tpm_with(self.settings())
    }

    pub(super) fn tpm_with(&self, settings: Settings) -> Arc<Tpm> {
        let directory = self.directory.path().to_owned();
        Tpm::new(settings, Some(directory), Box::new(|_| false))
    }

    /// The commands since the last call of this, by TPM_CC.
    pub(super) fn take_record(&self) -> Vec<u32> {
        std::mem::take(&mut self.record.lock().unwrap())
    }

    /// One command on a connection of its own, past the relay.
    pub(super) fn send(&self, command: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.path("swtpm")).unwrap();
        stream.write_all(command).unwrap();
        message(&mut stream).unwrap()
    }

    /// Handles of loaded objects and sessions.
    pub(super) fn handles(&self) -> Vec<u32> {
        [0x8000_0000u32, 0x0200_0000, 0x0300_0000]
            .into_iter()
            .flat_map(|first| {
                let mut command = vec![0x80, 1, 0, 0, 0, 22, 0, 0, 1, 0x7A, 0, 0, 0, 1];
                command.extend(first.to_be_bytes());
                command.extend(16u32.to_be_bytes());
                let response = self.send(&command);
                assert_eq!(&response[6..10], [0; 4]);
                response[19..]
                    .chunks_exact(4)
                    .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.power_off();
        let relay = self.path("relay");
        let path = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        // The relay's thread sees that its directory is gone.
        let last = UnixStream::connect(relay);
        drop(path);
        drop(last);
    }
}

fn relay(mut client: UnixStream, behind: &Path, record: &Mutex<Vec<u32>>) {
    let Ok(mut swtpm) = UnixStream::connect(behind) else { return };
    while let Ok(command) = message(&mut client) {
        record.lock().unwrap().push(u32::from_be_bytes(command[6..10].try_into().unwrap()));
        if swtpm.write_all(&command).is_err() {
            return;
        }
        let Ok(response) = message(&mut swtpm) else { return };
        if client.write_all(&response).is_err() {
            return;
        }
    }
}

fn message(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 10];
    stream.read_exact(&mut message)?;
    let size = u32::from_be_bytes(message[2..6].try_into().unwrap()) as usize;
    message.resize(size, 0);
    stream.read_exact(&mut message[10..])?;
    Ok(message)
}
