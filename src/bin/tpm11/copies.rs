//! `tpm11 backup` and `tpm11 restore`: a store as a file, made and put back while programs use it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tpm11::error::Error;
use tpm11::store::backup::{Backup, Loss, Restored};
use tpm11::store::{Fault, TokenRow};
use tpm11::token::Module;
use tpm11::token::slot::Home;
use tpm11::tpm::pin::{Gate, Role};

use crate::failure::{Exit, Failure};
use crate::{choose, in_module};

#[derive(Debug, Args)]
pub(crate) struct BackupOptions {
    /// A file that does not exist yet
    file: PathBuf,
    /// Which store, if there are several: its directory
    #[arg(long, value_name = "DIRECTORY")]
    store: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreOptions {
    /// What `tpm11 backup` wrote
    file: PathBuf,
    /// Which store, if there are several: its directory
    #[arg(long, value_name = "DIRECTORY")]
    store: Option<PathBuf>,
    /// Give up what is newer than the backup or not in it; a copy stays beside the store
    #[arg(long)]
    force: bool,
}

fn failed(fault: Fault) -> Failure {
    match fault {
        Fault::WriteProtected(_) | Fault::Unreadable(_) => Failure::new(Exit::Store, fault)
            .hint("run this as a user who may; `tpm11 status` says how the stores are"),
        other => Failure::new(Exit::Store, other),
    }
}

/// Writes the copy and says what is in it.
pub(crate) fn backup(options: &BackupOptions, out: &mut impl Write) -> Result<ExitCode, Failure> {
    in_module(|module| make(module, options, out))
}

fn make(
    module: &Module,
    options: &BackupOptions,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let exists =
        |place: &tpm11::token::slot::StorePlace| place.store().map_or(true, |store| store.exists());
    let (_, place) = choose::store(module, options.store.as_ref(), exists)?;
    let store = place.store().map_err(failed)?;
    store.backup(&options.file).map_err(|fault| match fault {
        Fault::NoToken => Failure::new(Exit::Store, "there is no store to copy yet"),
        _ if options.file.exists() => failed(fault).hint("a backup never overwrites a file"),
        other => failed(other),
    })?;
    let copy = Backup::open(&options.file).map_err(failed)?;
    writeln!(out, "backup     {}, {} bytes", options.file.display(), copy.bytes)?;
    writeln!(out, "store      {}", store.directory().display())?;
    for token in &copy.tokens {
        writeln!(out, "token      {}", described(token))?;
    }
    writeln!(out, "Its keys can be used on this TPM alone, with the PINs that the TPM has then.")?;
    Ok(ExitCode::SUCCESS)
}

fn described(token: &TokenRow) -> String {
    let label = String::from_utf8_lossy(&token.label);
    format!(
        "{} \"{}\", {} objects, generation {}",
        String::from_utf8_lossy(&token.serial),
        label.trim_end(),
        token.objects,
        token.generation
    )
}

/// Puts the copy in the store's place, and says what cannot come back with it.
pub(crate) fn restore(options: &RestoreOptions, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let backup = Backup::open(&options.file).map_err(|fault| {
        Failure::new(Exit::Store, format_args!("{}: {fault}", options.file.display()))
    })?;
    in_module(|module| put_back(module, &backup, options, out))
}

fn put_back(
    module: &Module,
    backup: &Backup,
    options: &RestoreOptions,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let writable = |place: &tpm11::token::slot::StorePlace| {
        place.store().is_ok_and(|store| store.writable().is_ok())
    };
    let (home, place) = choose::store(module, options.store.as_ref(), writable)?;
    let store = place.store().map_err(|fault| {
        failed(fault)
            .hint("move the file away (`mv`), then restore: nothing is done to a broken one")
    })?;
    match store.restore(backup, options.force).map_err(failed)? {
        Restored::Refused(lost) => {
            let lost: Vec<_> = lost.iter().map(loss).collect();
            let what = format!("this would be lost, so nothing was changed: {}", lost.join("; "));
            Err(Failure::new(Exit::Store, what)
                .hint("`--force` gives it up and keeps a copy beside the store"))
        }
        Restored::Done { kept, lost } => {
            writeln!(out, "restored   {}", store.directory().display())?;
            if let Some(kept) = kept {
                writeln!(out, "kept       {}", kept.display())?;
            }
            for lost in &lost {
                writeln!(out, "given up   {}", loss(lost))?;
            }
            let mut dead = false;
            for token in &backup.tokens {
                writeln!(out, "token      {}", described(token))?;
                let (usable, says) = outlook(home, token);
                writeln!(out, "           {says}")?;
                dead |= !usable;
            }
            Ok(if dead { ExitCode::from(Exit::Token as u8) } else { ExitCode::SUCCESS })
        }
    }
}

fn loss(loss: &Loss) -> String {
    match loss {
        Loss::Token(token) => format!("token {}, which the backup lacks", described(token)),
        Loss::Newer { token, backup } => {
            format!("changes to token {}; the backup is of generation {backup}", described(token))
        }
        Loss::Gate(token) => format!(
            "the PIN gate of token {}, which is another one than in the backup; its PINs and recovery \
             code would be those of then",
            described(token)
        ),
    }
}

/// Whether the TPM will still open a token of the backup, and what a person should know.
fn outlook(home: &Home, token: &TokenRow) -> (bool, String) {
    let Some(gate) = Gate::from_bytes(&token.gate) else {
        return (false, "its PIN gate cannot be read: of a newer version of tpm11?".into());
    };
    let call = home.tpm.call();
    match home.tpm.pin_count(&call, &gate, Role::So) {
        Ok(_) if gate.has_indices() => {
            (true, "its PINs are those that the TPM has now, not those of the backup".into())
        }
        Ok(_) => (true, "its PINs are those of the day of the backup".into()),
        Err(Error::ForeignTpm) => (
            false,
            "the TPM was cleared since, or is another one: its certificates and public keys are back, \
             its private keys are lost for ever"
                .into(),
        ),
        Err(error) => {
            let way = if gate.is_recoverable() {
                "only its recovery code of then may open it: `tpm11 recover`"
            } else {
                "if the token was initialised anew since or its PIN indices were removed, its private \
                 keys are lost for ever"
            };
            (false, format!("the TPM does not open it now ({error}); {way}"))
        }
    }
}
