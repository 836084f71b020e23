//! A swtpm of its own for each unit test of this room, behind a relay that records the commands.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::lease::{Key, Settings, Tpm};
use super::{Chaining, Direction, Fault, HashAlgorithm, KeyBlob, KeySpec, KeyUse, Name, NewKey};

pub(super) struct Swtpm {
    directory: tempfile::TempDir,
    child: Option<Child>,
    record: Arc<Mutex<Vec<u32>>>,
    wire: Arc<Mutex<Wire>>,
}

/// What passed the relay, and what it shall do.
#[derive(Default)]
struct Wire {
    /// Commands and responses.
    passed: Vec<u8>,
    /// Once, at the next command with this TPM_CC.
    meddling: Option<(u32, Meddling)>,
}

/// What can befall a command.
#[derive(Clone, Copy)]
pub(super) enum Meddling {
    /// The line is cut before it arrives.
    Cut,
    /// It is answered with this code, and not executed.
    Answer(u32),
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
        let upstream = Arc::new(Mutex::new(connected(&swtpm.path("swtpm"))));
        let (record, wire) = (swtpm.record.clone(), swtpm.wire.clone());
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let (upstream, record, wire) = (upstream.clone(), record.clone(), wire.clone());
                std::thread::spawn(move || {
                    let mut held = Vec::new();
                    while let Ok(command) = message(&mut client) {
                        let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
                        let mut upstream = upstream.lock().unwrap();
                        let Some(response) = pass(&command, &mut upstream, &record, &wire) else {
                            break;
                        };
                        drop(upstream);
                        if [0x157, 0x15B, 0x167, 0x176].contains(&code) && response[6..10] == [0; 4]
                        {
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
        let mut swtpm =
            Self { directory, child: None, record: Arc::default(), wire: Arc::default() };
        swtpm.power_on(flags);
        let listener = UnixListener::bind(swtpm.path("relay")).unwrap();
        let (behind, record) = (swtpm.path("swtpm"), swtpm.record.clone());
        let wire = swtpm.wire.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if behind.parent().is_none_or(|directory| !directory.exists()) {
                    return;
                }
                relay(client, &behind, &record, &wire);
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
        drop(connected(&self.path("swtpm")));
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

    /// Whether these bytes passed the relay in clear, in a command or a response.
    pub(super) fn showed(&self, secret: &[u8]) -> bool {
        self.wire.lock().unwrap().passed.windows(secret.len()).any(|window| window == secret)
    }

    /// Lets this befall the next command with this TPM_CC.
    pub(super) fn meddle(&self, code: u32, with: Meddling) {
        self.wire.lock().unwrap().meddling = Some((code, with));
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

fn relay(mut client: UnixStream, behind: &Path, record: &Mutex<Vec<u32>>, wire: &Mutex<Wire>) {
    let Ok(mut swtpm) = UnixStream::connect(behind) else { return };
    while let Ok(command) = message(&mut client) {
        let Some(response) = pass(&command, &mut swtpm, record, wire) else { return };
        if client.write_all(&response).is_err() {
            return;
        }
    }
}

/// One command and its response; none if the line is cut.
fn pass(
    command: &[u8],
    swtpm: &mut UnixStream,
    record: &Mutex<Vec<u32>>,
    wire: &Mutex<Wire>,
) -> Option<Vec<u8>> {
    let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
    record.lock().unwrap().push(code);
    let meddling = {
        let mut wire = wire.lock().unwrap();
        wire.passed.extend(command);
        wire.meddling.take_if(|(at, _)| *at == code)
    };
    let response = match meddling {
        Some((_, Meddling::Cut)) => return None,
        Some((_, Meddling::Answer(code))) => {
            [&[0x80, 1, 0, 0, 0, 10][..], &code.to_be_bytes()].concat()
        }
        None => {
            swtpm.write_all(command).ok()?;
            message(swtpm).ok()?
        }
    };
    wire.lock().unwrap().passed.extend(&response);
    Some(response)
}

/// A connection to a socket that will be there and listened on soon.
fn connected(path: &Path) -> UnixStream {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "swtpm does not listen: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
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

// ---- a TPM with its storage root key, and keys in it --------------------------------------------

pub(super) fn spec(usage: KeyUse) -> KeySpec {
    KeySpec { usage, extractable: false, always_authenticate: None }
}

/// A TPM with its storage root key.
pub(super) struct Bench {
    pub(super) swtpm: Swtpm,
    pub(super) tpm: Arc<Tpm>,
    pub(super) srk: Arc<Name>,
}

impl Bench {
    pub(super) fn start() -> Self {
        let swtpm = Swtpm::start();
        let tpm = swtpm.tpm();
        Self::with(swtpm, tpm)
    }

    pub(super) fn managed() -> Self {
        let swtpm = Swtpm::start_managed();
        let tpm = swtpm.tpm_with(swtpm.managed_settings());
        Self::with(swtpm, tpm)
    }

    /// A bare TPM whose storage root key is transient: it takes one of the three slots.
    pub(super) fn narrow() -> Self {
        let swtpm = Swtpm::start();
        let tpm = super::srk::tests::filled(&swtpm);
        Self::with(swtpm, tpm)
    }

    fn with(swtpm: Swtpm, tpm: Arc<Tpm>) -> Self {
        let srk = Arc::new(tpm.srk_name(&tpm.call()).unwrap());
        Self { swtpm, tpm, srk }
    }

    /// What a job costs when it was done a moment ago. A lease that was handed over or ended in
    /// between (it begins with TPM2_ReadPublic) does not count.
    pub(super) fn warm(&self, job: impl Fn()) -> Vec<u32> {
        const READ_PUBLIC: u32 = 0x173;
        let mut record = Vec::new();
        for _ in 0..50 {
            job();
            self.swtpm.take_record();
            job();
            record = self.swtpm.take_record();
            if !record.contains(&READ_PUBLIC) {
                break;
            }
        }
        record
    }

    pub(super) fn key(&self, new: NewKey, authorization: [u8; 32]) -> Key {
        let NewKey { public, private } = new;
        let mut id = [0; 16];
        id.copy_from_slice(&private[..16]);
        let authorization = Zeroizing::new(authorization);
        let blob = Arc::new(KeyBlob { id, public, private, authorization });
        Key { blob, srk: self.srk.clone(), grant: None }
    }

    pub(super) fn made(&self, usage: KeyUse) -> Key {
        let new = self.tpm.create(&self.tpm.call(), &self.srk, &spec(usage), &AUTH).unwrap();
        self.key(new, AUTH)
    }

    pub(super) fn given(&self, usage: KeyUse, value: &[u8]) -> Result<Key, Fault> {
        let (call, spec) = (self.tpm.call(), spec(usage));
        let new = self.tpm.create_with(&call, &self.srk, &spec, &AUTH, value)?;
        Ok(self.key(new, AUTH))
    }

    pub(super) fn cipher(
        &self,
        key: &Key,
        (mode, direction): (CipherMode, Direction),
        iv: &mut [u8; 16],
        input: &[u8],
    ) -> Vec<u8> {
        let call = self.tpm.call();
        let chaining = match mode {
            CipherMode::Ecb => Chaining::Ecb,
            CipherMode::Cbc => Chaining::Cbc,
            CipherMode::Cfb => Chaining::Cfb,
            CipherMode::Ofb => {
                let zeros = vec![0; input.len().next_multiple_of(16)];
                let stream = self.tpm.chain(&call, key, iv, &zeros).unwrap();
                return input.iter().zip(&**stream).map(|(byte, other)| byte ^ other).collect();
            }
        };
        self.tpm.cipher(&call, key, chaining, direction, iv, input).unwrap().to_vec()
    }

    pub(super) fn mac(&self, key: &Key, hash: HashAlgorithm, message: &[u8]) -> Vec<u8> {
        self.tpm.mac(&self.tpm.call(), key, hash, message).unwrap().to_vec()
    }
}

/// SP 800-38A §6.1 to §6.4. Of OFB the TPM makes the key stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CipherMode {
    Ecb,
    Cbc,
    Cfb,
    Ofb,
}

/// Ends with zeros, which a TPM cuts.
pub(super) const AUTH: [u8; 32] = {
    let mut auth = [9; 32];
    auth[30] = 0;
    auth[31] = 0;
    auth
};

/// Bytes that look like nothing.
pub(super) fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 256 * 13 + 5) as u8).collect()
}
