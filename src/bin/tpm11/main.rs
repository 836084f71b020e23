//! `tpm11`: makes tokens, and says how they are. It uses the library from inside Rust, with the same
//! checks as the C door, and never the door itself.

#![forbid(unsafe_code)]

mod choose;
mod copies;
mod doctor;
mod failure;
mod init;
mod installed;
mod mechanisms;
mod pins;
mod recover;
mod shown;
mod status;
mod travel;
mod trust;
mod unlock;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tpm11::config::Config;
use tpm11::token::Module;

use failure::{Exit, Failure};

/// The TPM 2.0 of this host as a PKCS#11 token
#[derive(Debug, Parser)]
#[command(name = "tpm11", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say how configuration, TPM, stores and tokens are, and what mends what is wrong
    ///
    /// Asks the TPM, and changes nothing. The exit code is 0 if all is well, else it names the cause:
    /// 3 configuration, 4 TPM, 5 store, 6 token.
    Status(status::Options),
    /// Look at everything that can be wrong, one line each with the command or sentence that mends it
    ///
    /// Each line is `ok`, `note`, `warn` or `FAIL`, what was found, and after `->` what to do. Changes
    /// nothing unless told to. The exit code is 0 without warning, 1 with warnings alone, else it names
    /// the cause of the first failure: 3 configuration, 4 TPM, 5 store, 6 token.
    Doctor(doctor::Options),
    /// Print every mechanism: what it does, where, with which keys, and what this TPM refuses
    ///
    /// Asks the TPM what it can, and changes nothing.
    Mechanisms(mechanisms::Options),
    /// Say by the exit code whether a file is locked: the other half of `doctor`'s look at locks
    #[command(hide = true)]
    TryLock {
        /// An empty file of `doctor`'s own
        file: std::path::PathBuf,
    },
    /// Make a token
    ///
    /// Asks for the PINs on the terminal, or reads each from a file descriptor: its first line,
    /// without the line's end. A PIN has 4 to 255 bytes. The exit code is 0 if the token is made,
    /// else it names the cause: 3 configuration, 4 TPM, 5 store, 6 token, 7 PIN.
    Init(init::Options),
    /// Let the user in again after too many wrong PINs
    ///
    /// Asks for the security officer's PIN, and takes back the count of the user's wrong ones; the PIN
    /// stays, unless `--new-pin` or `--pin-fd` sets another. Objects stay.
    Unlock(unlock::Options),
    /// Open a token by its recovery code and give it new PINs
    ///
    /// For a token whose PIN indices the TPM's owner removed, or whose PINs nobody knows any more. Its
    /// objects stay, except that keys which ask for the PIN at each use (CKA_ALWAYS_AUTHENTICATE) died
    /// with the index. Prints a new recovery code. Reads code and PINs as `init` does; so are the
    /// exit codes.
    Recover(recover::Options),
    /// Say which keys may wrap sensitive keys, and to which TPMs keys may move
    ///
    /// What the security officer trusts (CKA_TRUSTED): public keys, storage keys of other TPMs for
    /// CKM_TPM11_DUPLICATE, and secret wrapping keys, for which both PINs are asked. Reads PINs as `init`
    /// does; so are the exit codes.
    Trust(trust::Options),
    /// Send a key to the TPM of another host, which the security officer trusts
    ///
    /// The key leaves this TPM for that one alone (CKM_TPM11_DUPLICATE), and is in clear on no host; the
    /// file may go any way. It has to be sensitive and extractable, and stays here as well: destroy it
    /// here if it shall be there alone. Asks for the user's PIN, or reads it as `init` does.
    Send(travel::SendOptions),
    /// Take a key that another host sent to this TPM
    ///
    /// It becomes a key of the token, not extractable any more; beside a private key its public key.
    /// Asks for the user's PIN, or reads it as `init` does.
    Receive(travel::ReceiveOptions),
    /// Copy a store to a file, while programs go on using it
    Backup(copies::BackupOptions),
    /// Make a store what a backup is, while programs go on using it
    ///
    /// Refuses to give up what is newer than the backup or not in it, unless forced, and keeps what was
    /// there in a file beside the store.
    Restore(copies::RestoreOptions),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let out = &mut std::io::stdout().lock();
    let outcome = match &arguments.command {
        Command::Status(options) => status::run(options, out),
        Command::Doctor(options) => doctor::run(options, out),
        Command::Mechanisms(options) => mechanisms::run(options, out),
        Command::TryLock { file } => Ok(doctor::try_lock(file)),
        Command::Init(options) => init::run(options, out),
        Command::Unlock(options) => unlock::run(options, out),
        Command::Recover(options) => recover::run(options, out),
        Command::Trust(options) => trust::run(options, out),
        Command::Send(options) => travel::send(options, out),
        Command::Receive(options) => travel::receive(options, out),
        Command::Backup(options) => copies::backup(options, out),
        Command::Restore(options) => copies::restore(options, out),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Does `job` with a module of the configuration, and ends the module whatever came of it.
fn in_module<T>(job: impl FnOnce(&Module) -> Result<T, Failure>) -> Result<T, Failure> {
    let module = Module::new(Ok(configuration()?), true)?;
    let outcome = job(&module);
    module.finalize();
    outcome
}

/// The configuration, and the log as it says.
fn configuration() -> Result<Config, Failure> {
    let config = Config::load(false).map_err(|error| {
        Failure::new(Exit::Configuration, format_args!("configuration: {error}"))
            .hint("mend that line; until then the module shows one slot that says the same")
    })?;
    tpm11::log::start(&config.log);
    Ok(config)
}
