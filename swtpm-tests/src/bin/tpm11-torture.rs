//! `tpm11-torture [SECONDS]`: tortures the module (see `swtpm_tests::torture`) and prints a table of
//! figures. Exit status 0 only if everything that must be zero is. TPM11_SEED repeats the choices of
//! a run; TPM11_KEEP names a directory that gets logs and store of a run that failed.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use swtpm_tests::torture::{Plan, run, table};

fn main() -> ExitCode {
    let seconds = match std::env::args().nth(1).map(|argument| argument.parse::<u64>()) {
        None => 120,
        Some(Ok(seconds)) if seconds > 0 => seconds,
        Some(_) => {
            eprintln!("usage: tpm11-torture [SECONDS]");
            return ExitCode::from(2);
        }
    };
    let seed = std::env::var("TPM11_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs())
    });
    println!("{seconds} s of torture, seed {seed} (TPM11_SEED={seed} repeats its choices)");

    let lanes = run(Plan { time: Duration::from_secs(seconds), seed });

    print!("{}", table(&lanes));
    for (name, figures) in &lanes {
        for complaint in figures.complaints() {
            println!("{name}: {complaint}");
        }
    }
    let good = lanes.iter().all(|(_, figures)| figures.are_good());
    println!("{}", if good { "Everything that must be zero is zero." } else { "FAILED" });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
