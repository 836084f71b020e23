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

    /// Behind something like a resource manager: many connections at once. (It swaps nothing; tests
    /// keep to three objects and sessions.)
    pub(super) fn start_managed() -> Self {
        let swtpm = Self::start();
        let listener = UnixListener::bind(swtpm.path("manager")).unwrap();
        let upstream = Arc::new(Mutex::new(UnixStream::connect(swtpm.path("swtpm")).unwrap()));
        let record = swtpm.record.clone();
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let (upstream, record) = (upstream.clone(), record.clone());
                std::thread::spawn(move || {
                    let mut held = Vec::new();
                    while let Ok(command) = message(&mut client) {
                        let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
                        record.lock().unwrap().push(code);
                        let mut upstream = upstream.lock().unwrap();
                        upstream.write_all(&command).unwrap();
                        let response = message(&mut upstream).unwrap();
                        if [0x157, 0x176].contains(&code) && response[6..10] == [0; 4] {
                            held.extend(response[10..14].try_into().map(u32::from_be_bytes));
                        }
                        if client.write_all(&response).is_err() {
                            break;
                        }
                    }
                    // Closing flushes.
                    for handle in held {
                        let mut flush = vec![0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65];
                        flush.extend(handle.to_be_bytes());
                        let mut upstream = upstream.lock().unwrap();
                        upstream.write_all(&flush).unwrap();
                        message(&mut upstream).unwrap();
                    }
                });
            }
        });
        swtpm
    }

    pub(super) fn managed_settings(&self) -> Settings {
        let tcti = format!("swtpm:path={}", self.path("manager").display());
        Settings { tcti, resource_manager: Some(true), ..Settings::default() }
    }

    /// One command through the manager, on a connection that is kept.
    pub(super) fn stranger(&self, commands: &[&[u8]]) -> (UnixStream, Vec<Vec<u8>>) {
        let mut stream = UnixStream::connect(self.path("manager")).unwrap();
        let answers = commands
            .iter()
            .map(|command| {
                stream.write_all(command).unwrap();
                message(&mut stream).unwrap()
            })
            .collect();
        (stream, answers)
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
