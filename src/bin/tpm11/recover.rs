//! `tpm11 recover`: a token's recovery code in, new PINs and a new recovery code out.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tpm11::error::Error;
use tpm11::token::Module;
use tpm11::token::slot::Slot;
use tpm11::token::token::Token;

use crate::configuration;
use crate::failure::{Exit, Failure};
use crate::init::set_user_pin;
use crate::pins::{Descriptors, Pin, ask, ask_once};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which token, by its serial number; not needed where there is only one
    #[arg(long)]
    serial: Option<String>,
    /// Read the recovery code from this file descriptor instead of the terminal
    #[arg(long, value_name = "N")]
    code_fd: Option<u32>,
    /// Read the security officer's new PIN from this file descriptor instead of the terminal
    #[arg(long, value_name = "N")]
    so_pin_fd: Option<u32>,
    /// Read the user's new PIN from this file descriptor instead of the terminal
    #[arg(long, value_name = "N", conflicts_with = "no_pin")]
    pin_fd: Option<u32>,
    /// Make it a token whose keys need no PIN
    #[arg(long)]
    no_pin: bool,
    /// Give up keys that ask for the PIN at each use (CKA_ALWAYS_AUTHENTICATE): they are bound to the old one
    #[arg(long)]
    force: bool,
}

/// Opens the token, sets the PINs and says what was done. The new code is the only secret on the
/// output.
pub(crate) fn run(options: &Options, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let module = Module::new(Ok(configuration()?), true)?;
    let (slot, token) = choose(&module, options.serial.as_deref())?;

    let mut descriptors = Descriptors::default();
    let code = match options.code_fd {
        Some(number) => descriptors.read(number)?,
        None => ask_once("Recovery code: ")?,
    };
    let code = std::str::from_utf8(&code)
        .map_err(|_| Failure::new(Exit::Pin, "the recovery code is wrong"))?;
    let mut pin = |descriptor: Option<u32>, whose| match descriptor {
        Some(number) => descriptors.read(number),
        None => ask(whose),
    };
    let so_pin = pin(options.so_pin_fd, "security officer")?;
    let user_pin = if options.no_pin { Pin::default() } else { pin(options.pin_fd, "user")? };

    let outcome = module.recover_token(slot.id, code, &so_pin, options.force);
    let outcome = outcome.map_err(|error| match error {
        Error::FunctionRejected(why) => Failure::new(Exit::Token, why)
            .hint("if the old PIN is lost anyway, and these keys with it: `--force`"),
        other => other.into(),
    });
    let outcome = outcome.and_then(|code| {
        writeln!(out, "serial     {}", token.name())?;
        writeln!(out, "recovery   {}", code.as_str())?;
        writeln!(out, "This code takes the place of the old one. Keep it as you kept that.")?;
        set_user_pin(&module, &slot, &so_pin, &user_pin).map_err(|error| {
            Failure::new(Exit::Token, format_args!("the user has no PIN: {error}"))
                .hint("let the security officer set it: `tpm11 unlock --new-pin`")
        })?;
        writeln!(out, "user PIN   {}", if options.no_pin { "none" } else { "set" })?;
        Ok(ExitCode::SUCCESS)
    });
    module.finalize();
    outcome
}

/// The token that is meant.
fn choose(module: &Module, serial: Option<&str>) -> Result<(Arc<Slot>, Arc<Token>), Failure> {
    let mut tokens: Vec<_> = module
        .slots()
        .into_iter()
        .filter_map(|slot| slot.token().ok().map(|token| (slot, token)))
        .filter(|(_, token)| serial.is_none_or(|serial| token.name() == serial))
        .collect();
    let help = "`tpm11 status` lists the tokens with their serial numbers";
    match (tokens.pop(), tokens.is_empty()) {
        (Some(found), true) => Ok(found),
        (Some(_), false) => {
            Err(Failure::new(Exit::Token, "there are several tokens: say which, by --serial")
                .hint(help))
        }
        (None, _) => Err(Failure::new(Exit::Token, "there is no such token").hint(help)),
    }
}
