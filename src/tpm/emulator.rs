//! For the tests of this floor: an swtpm of one's own, killed when dropped even by a panic, and a
//! connection to it that counts commands, can be cut, and can change what passes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    EccPoint, EccScheme, KeyDerivationFunctionScheme, PublicBuilder, PublicEccParameters,
    PublicKeyRsa, PublicRsaParameters, RsaExponent, RsaScheme, SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall;

use super::command::{Capability, CreatePrimary, EvictControl, GetCapability, OWNER, ReadPublic};
use super::execute::{Auth, Entity, execute};
use super::srk::Pinned;
use super::transport::{Broken, BrokenKind, Transport};
use super::{Call, Fault};

/// A TPM of one's own.
pub(super) struct Swtpm {
    directory: tempfile::TempDir,
    child: Child,
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Swtpm {
    pub(super) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let child = spawn(directory.path().into());
        Self { directory, child }
    }

    /// Kills it without warning and starts it again from its state file.
    pub(super) fn power_cut(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        self.child = spawn(self.directory.path().into());
    }

    /// Its conf string.
    pub(super) fn tcti(&self) -> String {
        format!("swtpm:path={}", self.directory.path().join("sock").display())
    }

    pub(super) fn connect(&self) -> Link {
        let path = self.directory.path().join("sock");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
                    return Link {
                        stream,
                        sent: Vec::new(),
                        stop_after: None,
                        lose_answer_after: None,
                        is_cut: false,
                        alter: None,
                        intercept: None,
                    };
                }
                Err(error) => assert!(Instant::now() < deadline, "swtpm does not listen: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(directory: PathBuf) -> Child {
    for socket in ["sock", "ctrl"] {
        let _ = std::fs::remove_file(directory.join(socket));
    }
    Process::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
        .arg(format!("dir={}", directory.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", directory.join("ctrl").display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", directory.join("sock").display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm is installed")
}

/// Changes a response: given the command's code and the response.
pub(super) type Alter = Box<dyn FnMut(u32, &mut Vec<u8>) + Send>;

/// A connection that remembers what was sent.
pub(super) struct Link {
    stream: UnixStream,
    /// The whole commands, in order.
    pub(super) sent: Vec<Vec<u8>>,
    /// After so many commands from now on the connection is dead: nothing more is sent.
    pub(super) stop_after: Option<usize>,
    /// After so many answered commands one is sent whose answer is lost; then the connection is dead.
    pub(super) lose_answer_after: Option<usize>,
    /// It is dead.
    pub(super) is_cut: bool,
    pub(super) alter: Option<Alter>,
    pub(super) intercept: Option<Intercept>,
}

/// Answers a command, given its code, in the TPM's place.
pub(super) type Intercept = Box<dyn FnMut(u32) -> Option<Vec<u8>> + Send>;

impl Link {
    /// Closes the connection by putting another stream in its place.
    pub(super) fn replace(&mut self, stream: UnixStream) {
        self.stream = stream;
    }

    /// The codes of the commands sent since the last call of this.
    pub(super) fn codes(&mut self) -> Vec<u32> {
        let code = |command: &Vec<u8>| u32::from_be_bytes(command[6..10].try_into().expect("4"));
        self.sent.drain(..).map(|command| code(&command)).collect()
    }
}

impl Transport for Link {
    fn transmit(&mut self, command: &[u8], _: &Call, _: Duration) -> Result<Vec<u8>, Fault> {
        let closed = |sent| Broken { kind: BrokenKind::Closed, sent, what: "cut".to_owned() };
        if self.is_cut || self.stop_after == Some(0) {
            self.is_cut = true;
            return Err(closed(false).into());
        }
        self.stop_after = self.stop_after.map(|left| left - 1);
        self.sent.push(command.to_vec());
        let code = u32::from_be_bytes(command[6..10].try_into().expect("4 bytes"));
        if let Some(response) = self.intercept.as_mut().and_then(|intercept| intercept(code)) {
            return Ok(response);
        }
        self.stream.write_all(command).map_err(|_| closed(true))?;
        let mut response = vec![0; 10];
        self.stream.read_exact(&mut response).map_err(|_| closed(true))?;
        let size = u32::from_be_bytes(response[2..6].try_into().expect("4 bytes"));
        response.resize(size as usize, 0);
        self.stream.read_exact(&mut response[10..]).map_err(|_| closed(true))?;
        if self.lose_answer_after == Some(0) {
            self.is_cut = true;
            return Err(closed(true).into());
        }
        self.lose_answer_after = self.lose_answer_after.map(|left| left - 1);
        if let Some(alter) = &mut self.alter {
            alter(code, &mut response);
        }
        Ok(response)
    }

    fn leak(self: Box<Self>) {
        std::mem::forget(self);
    }
}

pub(super) fn call() -> Call {
    Call::within(Duration::from_secs(60))
}

/// Which storage key.
#[derive(Clone, Copy)]
pub(super) enum Root {
    Ec(EccCurve, HashingAlgorithm),
    Rsa,
}

/// An EC P-256 storage key, as the provisioning guidance has it.
pub(super) const P256: Root = Root::Ec(EccCurve::NistP256, HashingAlgorithm::Sha256);

pub(super) fn template(root: Root) -> Vec<u8> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()
        .expect("attributes");
    let builder = PublicBuilder::new().with_object_attributes(attributes);
    let aes = SymmetricDefinitionObject::AES_128_CFB;
    match root {
        Root::Ec(curve, hash) => builder
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_name_hashing_algorithm(hash)
            .with_ecc_parameters(PublicEccParameters::new(
                aes,
                EccScheme::Null,
                curve,
                KeyDerivationFunctionScheme::Null,
            ))
            .with_ecc_unique_identifier(EccPoint::default()),
        Root::Rsa => builder
            .with_public_algorithm(PublicAlgorithm::Rsa)
            .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
            .with_rsa_parameters(PublicRsaParameters::new(
                aes,
                RsaScheme::Null,
                RsaKeyBits::Rsa2048,
                RsaExponent::default(),
            ))
            .with_rsa_unique_identifier(PublicKeyRsa::default()),
    }
    .build()
    .and_then(|public| public.marshall())
    .expect("a template")
}

const ROOT_HANDLE: u32 = 0x8100_0001;

/// The storage root key at its usual handle; created if need be.
pub(super) fn root(link: &mut Link, root: Root) -> Pinned {
    let call = call();
    if let Ok(found) = execute(link, &ReadPublic { handle: ROOT_HANDLE }, &mut [], &call) {
        return Pinned::for_test(ROOT_HANDLE, &found.public);
    }
    let owner = Entity::permanent(OWNER);
    let command = CreatePrimary { hierarchy: &owner, public: &template(root) };
    let made = execute(link, &command, &mut [Auth::password(&[])], &call).expect("a primary");
    let command = EvictControl { owner: &owner, object: &made.entity, persistent: ROOT_HANDLE };
    execute(link, &command, &mut [Auth::password(&[])], &call).expect("persistent");
    flush(link, made.entity.handle);
    Pinned::for_test(ROOT_HANDLE, &made.public)
}

pub(super) fn flush(link: &mut Link, handle: u32) {
    let command = super::command::FlushContext { handle };
    execute(link, &command, &mut [], &call()).expect("flushed");
}

/// Loaded objects and sessions.
pub(super) fn left_in(link: &mut Link) -> Vec<u32> {
    let mut found = Vec::new();
    for first in [0x8000_0000, 0x0200_0000, 0x0300_0000] {
        let command = GetCapability { of: Capability::Handles, first, count: 32 };
        let listed = execute(link, &command, &mut [], &call()).expect("a list");
        found.extend(listed.items.iter().map(|(handle, _)| *handle));
    }
    found
}

/// TPM_PT_LOCKOUT_COUNTER: wrong authorizations under the TPM-wide protection.
pub(super) fn lockout_counter(link: &mut Link) -> u32 {
    const LOCKOUT_COUNTER: u32 = 0x200 + 14;
    let command = GetCapability { of: Capability::Properties, first: LOCKOUT_COUNTER, count: 1 };
    execute(link, &command, &mut [], &call()).expect("a property").items[0].1
}
