//! `tpm11 trust`: what the security officer vouches for.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use cryptoki_sys::CKU_USER;
use tpm11::error::Error;
use tpm11::token::slot::Slot;
use tpm11::token::trust::Among;
use tpm11::token::{Module, Session};
use tpm11::tpm::key::name_of;

use crate::failure::{Exit, Failure};
use crate::pins::{Descriptors, ask_once};
use crate::shown::{hex, line, unhex};
use crate::{choose, in_module};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which token, by label or serial number
    #[arg(long, value_name = "TOKEN", global = true)]
    token: Option<String>,
    /// Read the security officer's PIN from this file descriptor instead of the terminal
    #[arg(long, value_name = "N", global = true)]
    so_pin_fd: Option<u32>,
    /// Read the user's PIN from this file descriptor instead of the terminal
    #[arg(long, value_name = "N", global = true)]
    pin_fd: Option<u32>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the storage key of this token's TPM: what the officer of another token is to trust
    ///
    /// Its Name goes to standard error, so that both can compare it over a way that they trust.
    StorageKey,
    /// Print what is trusted
    List {
        /// Secret keys, too: asks for the user's PIN
        #[arg(long)]
        secret: bool,
    },
    /// Trust a key of the token
    Add(Which),
    /// Trust a storage key of another TPM: keys may move there
    AddStorageKey {
        /// What `tpm11 trust storage-key` printed there
        file: PathBuf,
        /// What to call it
        #[arg(long)]
        label: String,
    },
    /// Trust a key no longer
    Remove(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// The key, by its label, or by its id in hexadecimal digits
    key: String,
    /// It is a secret key: asks for both PINs
    #[arg(long)]
    secret: bool,
}

/// Does what the command line says.
pub(crate) fn run(options: &Options, out: &mut impl Write) -> Result<ExitCode, Failure> {
    in_module(|module| trust(module, options, out)).map(|()| ExitCode::SUCCESS)
}

fn trust(module: &Module, options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    let (slot, _) = choose::token(module, options.token.as_deref())?;
    let mut pins = Pins { options, descriptors: Descriptors::default() };
    match &options.action {
        Action::StorageKey => {
            let area = choose::anybody(module, &slot)?.storage_key()?;
            eprintln!("Name: {}", name(&area));
            writeln!(out, "{}", hex(&area))?;
        }
        Action::List { secret } => {
            let session = choose::anybody(module, &slot)?;
            if *secret {
                session.login(CKU_USER, &pins.user()?)?;
            }
            for object in session.trusted()? {
                writeln!(out, "{}", line(&object))?;
            }
        }
        Action::AddStorageKey { file, label } => {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Failure::new(Exit::Other, format_args!("{}: {error}", file.display()))
            })?;
            let refused = |why: &str| {
                Failure::new(Exit::Other, format_args!("{}: {why}", file.display()))
                    .hint("`tpm11 trust storage-key` on the other host prints one")
            };
            let area = unhex(text.trim()).ok_or_else(|| refused("not hexadecimal digits"))?;
            let session = choose::officer(module, &slot, &pins.officer()?)?;
            let handle = session.trust_storage_key(&area, label).map_err(|error| match error {
                Error::AttributeValueInvalid(_, why) => {
                    refused(&format!("no storage key of a TPM: {why}"))
                }
                other => other.into(),
            })?;
            writeln!(out, "{}", line(&session.shown(handle)?))?;
        }
        Action::Add(which) => set(module, &slot, which, true, &mut pins, out)?,
        Action::Remove(which) => set(module, &slot, which, false, &mut pins, out)?,
    }
    Ok(())
}

/// Marks a key, or takes the mark away.
fn set(
    module: &Module,
    slot: &Slot,
    which: &Which,
    trusted: bool,
    pins: &mut Pins<'_>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let one = |session: &Session, among| {
        choose::key(session, &which.key, among)?.ok_or_else(|| {
            Failure::new(Exit::Other, format_args!("no such key: {}", which.key))
                .hint("label or id of a key of the token; `--secret` for a secret key")
        })
    };
    let (session, handle) = if which.secret {
        let session = choose::anybody(module, slot)?;
        let officer = pins.officer()?;
        session.login(CKU_USER, &pins.user()?)?;
        let handle = one(&session, Among::SecretKeys)?;
        session.trust_secret(handle, trusted, &officer)?;
        (session, handle)
    } else {
        let session = choose::officer(module, slot, &pins.officer()?)?;
        let handle = one(&session, Among::PublicKeys)?;
        session.trust(handle, trusted)?;
        (session, handle)
    };
    let what = if trusted { "" } else { "no longer: " };
    writeln!(out, "{what}{}", line(&session.shown(handle)?))?;
    Ok(())
}

/// Where the PINs come from.
struct Pins<'a> {
    options: &'a Options,
    descriptors: Descriptors,
}

impl Pins<'_> {
    fn officer(&mut self) -> Result<crate::pins::Pin, Failure> {
        match self.options.so_pin_fd {
            Some(number) => self.descriptors.read(number),
            None => ask_once("Security officer PIN: "),
        }
    }

    fn user(&mut self) -> Result<crate::pins::Pin, Failure> {
        match self.options.pin_fd {
            Some(number) => self.descriptors.read(number),
            None => ask_once("User PIN: "),
        }
    }
}

fn name(area: &[u8]) -> String {
    name_of(area).map(|name| hex(&name)).unwrap_or_default()
}
