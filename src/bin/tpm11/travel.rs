//! `tpm11 send` and `tpm11 receive`: a key moves from the TPM of one host to that of another.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use cryptoki_sys::CKU_USER;
use tpm11::error::Error;
use tpm11::token::trust::Among;
use tpm11::token::{Module, Session};

use crate::failure::{Exit, Failure};
use crate::pins::{Descriptors, ask_once};
use crate::shown::line;
use crate::{choose, in_module};

#[derive(Debug, Args)]
pub(crate) struct SendOptions {
    /// The private or secret key, by its label, or by its id in hexadecimal digits
    key: String,
    /// A file that does not exist yet
    file: PathBuf,
    /// The storage key of the TPM that it goes to, by its label (`tpm11 trust list`)
    #[arg(long, value_name = "LABEL")]
    to: String,
    #[command(flatten)]
    whose: Whose,
}

#[derive(Debug, Args)]
pub(crate) struct ReceiveOptions {
    /// What `tpm11 send` wrote on the other host
    file: PathBuf,
    #[command(flatten)]
    whose: Whose,
}

#[derive(Debug, Args)]
struct Whose {
    /// Which token, by label or serial number
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Read the user's PIN from this file descriptor instead of the terminal
    #[arg(long, value_name = "N")]
    pin_fd: Option<u32>,
}

impl Whose {
    /// A session in which the user is logged in.
    fn session(&self, module: &Module) -> Result<Arc<Session>, Failure> {
        let (slot, _) = choose::token(module, self.token.as_deref())?;
        let session = choose::anybody(module, &slot)?;
        let pin = match self.pin_fd {
            Some(number) => Descriptors::default().read(number)?,
            None => ask_once("User PIN: ")?,
        };
        session.login(CKU_USER, &pin)?;
        Ok(session)
    }
}

/// The most that a key on its way has, in bytes: what C_UnwrapKey takes.
const BLOB_LIMIT: u64 = 64 << 10;

/// Writes the key, which the other TPM alone can open, to the file.
pub(crate) fn send(options: &SendOptions, out: &mut impl Write) -> Result<ExitCode, Failure> {
    in_module(|module| {
        let session = options.whose.session(module)?;
        let missing = |what: &str, hint: &str| {
            Failure::new(Exit::Other, format_args!("no such {what}")).hint(hint)
        };
        let key = choose::key(&session, &options.key, Among::HiddenKeys)?
            .ok_or_else(|| missing("key", "label or id of a private or secret key of the token"))?;
        let target = choose::key(&session, &options.to, Among::PublicKeys)?;
        let hint =
            "`tpm11 trust add-storage-key` makes one known; `tpm11 trust list` says which are";
        let target = target.ok_or_else(|| missing("storage key", hint))?;
        let blob = session.send(key, target).map_err(kept)?;
        written(&options.file, &blob)?;
        writeln!(out, "{}: {} bytes", line(&session.shown(key)?), blob.len())?;
        let to = line(&session.shown(target)?);
        writeln!(out, "{} is for nobody but the TPM of {to}", options.file.display())?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Why a key stays where it is, for who asked that it leave.
fn kept(error: Error) -> Failure {
    let hint = match error {
        Error::KeyUnextractable => {
            "only keys made with CKA_SENSITIVE and CKA_EXTRACTABLE TRUE may leave this TPM"
        }
        Error::KeyNotWrappable => {
            "the key has to live in the TPM (not readable, not sealed, no PIN at each use), and the \
             storage key to be trusted"
        }
        Error::WrappingKeyType | Error::KeyFunctionNotPermitted(_) => {
            "`--to` names a storage key: `tpm11 trust list`"
        }
        _ => return error.into(),
    };
    Failure::from(error).hint(hint)
}

fn written(path: &Path, blob: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| unusable(path, &error.to_string());
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = new.map_err(failed)?;
    file.write_all(blob).and_then(|()| file.sync_all()).map_err(|error| {
        let _ = std::fs::remove_file(path);
        failed(error)
    })
}

/// Takes a key that was sent to this TPM into the token, a private key with its public one.
pub(crate) fn receive(options: &ReceiveOptions, out: &mut impl Write) -> Result<ExitCode, Failure> {
    in_module(|module| {
        let mut blob = Vec::new();
        File::open(&options.file)
            .and_then(|file| file.take(BLOB_LIMIT + 1).read_to_end(&mut blob))
            .map_err(|error| unusable(&options.file, &error.to_string()))?;
        let session = options.whose.session(module)?;
        let keys = session.receive(&blob).map_err(|error| match error {
            Error::WrappedKeyInvalid => unusable(
                &options.file,
                "sent to another TPM, or changed on its way, or nothing that `tpm11 send` wrote",
            ),
            other => other.into(),
        })?;
        for key in keys {
            writeln!(out, "{}", line(&session.shown(key)?))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::new(Exit::Other, format_args!("{}: {why}", path.display()))
}
