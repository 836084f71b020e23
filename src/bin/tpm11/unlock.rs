//! `tpm11 unlock`: the security officer lets the user in again.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use tpm11::error::Error;
use tpm11::token::Module;

use crate::failure::{Exit, Failure};
use crate::pins::{Descriptors, ask, ask_once};
use crate::{choose, in_module};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which token, by label or serial number
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Read the security officer's PIN from this file descriptor instead of the terminal
    #[arg(long, value_name = "N")]
    so_pin_fd: Option<u32>,
    /// Set a new user PIN, asked for on the terminal
    #[arg(long)]
    new_pin: bool,
    /// Set a new user PIN, read from this file descriptor
    #[arg(long, value_name = "N", conflicts_with = "new_pin")]
    pin_fd: Option<u32>,
}

/// Takes back the count of wrong PINs, or sets a new PIN.
pub(crate) fn run(options: &Options, out: &mut impl Write) -> Result<ExitCode, Failure> {
    in_module(|module| unlock(module, options, out))
}

fn unlock(module: &Module, options: &Options, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let (slot, token) = choose::token(module, options.token.as_deref())?;
    let mut descriptors = Descriptors::default();
    let so_pin = match options.so_pin_fd {
        Some(number) => descriptors.read(number)?,
        None => ask_once("Security officer PIN: ")?,
    };
    let new = match options.pin_fd {
        Some(number) => Some(descriptors.read(number)?),
        None if options.new_pin => Some(ask("user")?),
        None => None,
    };
    let session = choose::officer(module, &slot, &so_pin).map_err(|error| match error {
        Error::PinLocked => Failure::new(Exit::Token, "the security officer's PIN is locked too")
            .hint("only the recovery code helps: `tpm11 recover`"),
        other => other.into(),
    })?;
    match new {
        Some(pin) => session.init_pin(&pin)?,
        None => session.unlock_pin().map_err(|error| match error {
            Error::PinNotInitialized | Error::PinInvalid(_) => {
                Failure::new(Exit::Token, "the user has no PIN that could be locked")
                    .hint("`tpm11 unlock --new-pin` sets one")
            }
            Error::FunctionRejected(why) => Failure::new(Exit::Token, why).hint(
                "the TPM's lockout guards this token's PINs: wait, or let the TPM's owner run \
                 `tpm2_dictionarylockout --clear-lockout`",
            ),
            other => other.into(),
        })?,
    }
    let what = if options.new_pin || options.pin_fd.is_some() { "new" } else { "unlocked" };
    writeln!(out, "token {}: user PIN {what}", token.name())?;
    Ok(ExitCode::SUCCESS)
}
