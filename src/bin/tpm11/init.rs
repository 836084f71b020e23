//! `tpm11 init`: makes a token in the empty slot, with the same checks and steps as C_InitToken and
//! C_InitPIN.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use cryptoki_sys::{CKF_RW_SESSION, CKF_SERIAL_SESSION, CKU_SO};
use tpm11::token::Module;
use tpm11::token::slot::{Holds, Home, Initial, Slot};
use tpm11::token::token::Token;

use crate::configuration;
use crate::failure::{Exit, Failure};
use crate::pins::{Descriptors, Pin, ask};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What programs call the token: at most 32 bytes
    #[arg(long, default_value = "tpm11")]
    label: String,
    /// Read the security officer's PIN from this file descriptor instead of the terminal
    #[arg(long, value_name = "N")]
    so_pin_fd: Option<u32>,
    /// Read the user's PIN from this file descriptor instead of the terminal
    #[arg(long, value_name = "N", conflicts_with = "no_pin")]
    pin_fd: Option<u32>,
    /// Make a token whose keys need no PIN: whoever can read the store can use them on this host
    #[arg(long)]
    no_pin: bool,
    /// Print a recovery code, once: it opens the token's seal even if the TPM's owner has removed its
    /// PIN indices
    #[arg(long)]
    recovery: bool,
    /// Which `[[tpm]]` of the configuration, counted from 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    tpm: usize,
}

/// Makes the token and says what was made. The recovery code is the only secret on the output.
pub(crate) fn run(options: &Options, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let label = padded(&options.label)?;
    let mut config = configuration()?;
    config.store.empty_slot = true; // it may be hidden from programs, not from us
    let module = Module::new(Ok(config), true)?;
    let (home, slot) = empty_slot(&module, options.tpm)?;

    let mut descriptors = Descriptors::default();
    let mut pin = |descriptor: Option<u32>, whose| match descriptor {
        Some(number) => descriptors.read(number),
        None => ask(whose),
    };
    let so_pin = pin(options.so_pin_fd, "security officer")?;
    let user_pin = if options.no_pin { Pin::default() } else { pin(options.pin_fd, "user")? };

    let outcome = make(&module, &slot, &so_pin, &user_pin, &label, options.recovery);
    let outcome = outcome.and_then(|(token, code)| {
        writeln!(out, "token      \"{}\"", options.label)?;
        writeln!(out, "serial     {}", token.name())?;
        writeln!(out, "store      {}", token.store.directory().display())?;
        writeln!(out, "TPM        {}", home.tpm.settings().tcti)?;
        writeln!(out, "user PIN   {}", if options.no_pin { "none" } else { "set" })?;
        if let Some(code) = code {
            writeln!(out, "recovery   {}", code.as_str())?;
            writeln!(out, "Keep the recovery code where neither this host nor its thief is.")?;
        }
        Ok(ExitCode::SUCCESS)
    });
    module.finalize();
    outcome
}

type Code = tpm11::tpm::pin::RecoveryCode;

/// C_InitToken and C_InitPIN.
fn make(
    module: &Module,
    slot: &Slot,
    so_pin: &Pin,
    user_pin: &Pin,
    label: &[u8; 32],
    recovery: bool,
) -> Result<(Arc<Token>, Option<Code>), Failure> {
    let initial = Initial { so_pin, label, recovery };
    let code = module.init_token_with(slot.id, &initial)?;
    let token = slot.token()?;
    set_user_pin(module, slot, so_pin, user_pin).map_err(|error| {
        Failure::new(
            Exit::Token,
            format_args!("token {} is made, but its user has no PIN: {error}", token.name()),
        )
        .hint("let the security officer set it: `tpm11 unlock --new-pin`")
    })?;
    Ok((token, code))
}

/// C_InitPIN by the security officer.
pub(crate) fn set_user_pin(
    module: &Module,
    slot: &Slot,
    so_pin: &Pin,
    user_pin: &Pin,
) -> Result<(), tpm11::error::Error> {
    let session = module.open_session(slot.id, CKF_SERIAL_SESSION | CKF_RW_SESSION)?;
    let session = module.session(session)?;
    session.login(CKU_SO, so_pin)?;
    session.init_pin(user_pin)
}

/// The slot that C_InitToken would take, of the `number`th TPM.
fn empty_slot(module: &Module, number: usize) -> Result<(Arc<Home>, Arc<Slot>), Failure> {
    let homes = module.homes();
    let home = number.checked_sub(1).and_then(|index| homes.get(index)).ok_or_else(|| {
        Failure::new(Exit::Configuration, format_args!("there is no TPM number {number}"))
            .hint(format_args!("the configuration has {} [[tpm]]", homes.len()))
    })?;
    home.writable_store().map_err(|error| {
        Failure::new(Exit::Store, error)
            .hint("`tpm11 status` lists the stores; run this as a user who may write to one")
    })?;
    let is_empty = |slot: &&Arc<Slot>| match slot.holds() {
        Holds::Empty { home: of, .. } => Arc::ptr_eq(&of, home),
        _ => false,
    };
    let slot = module.slots().iter().find(is_empty).cloned();
    slot.map(|slot| (home.clone(), slot))
        .ok_or_else(|| Failure::new(Exit::Other, "there is no empty slot"))
}

/// The label as the token keeps it.
fn padded(label: &str) -> Result<[u8; 32], Failure> {
    let mut field = [b' '; 32];
    let place = field.get_mut(..label.len()).ok_or_else(|| {
        Failure::new(Exit::Other, format_args!("the label has {} bytes", label.len()))
            .hint("a label has at most 32 bytes; letters beyond ASCII take more than one")
    })?;
    place.copy_from_slice(label.as_bytes());
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_padded_with_blanks_and_never_cut() {
        assert_eq!(&padded("web").unwrap(), b"web                             ");
        assert!(padded(&"x".repeat(32)).is_ok());
        assert!(padded(&"x".repeat(33)).is_err());
        assert!(padded(&"ä".repeat(17)).is_err(), "17 letters, 34 bytes");
    }
}
