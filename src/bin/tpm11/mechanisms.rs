//! `tpm11 mechanisms`: every mechanism with its operations, the keys it takes, where the work is done,
//! and what the TPM at hand refuses. All of it is read from the rows that C_GetMechanismInfo reads.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tpm11::mechanism::{self, Mechanism, Place, Sealing, Size, Terms};
use tpm11::object::policy::Policy;
use tpm11::object::rules::key_type_name;
use tpm11::token::Module;
use tpm11::tpm::Facts;

use crate::configuration;
use crate::failure::{Exit, Failure};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print what there is with a TPM that can everything, as the page docs/MECHANISMS.md; asks no TPM
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// What one TPM can.
#[derive(Debug, Serialize)]
struct Chip {
    tcti: String,
    mechanisms: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    /// CK_MECHANISM_TYPE
    id: u64,
    /// CKK_ names of the keys that it takes or makes.
    keys: Vec<&'static str>,
    /// "bits" or "bytes"; absent where there is no key.
    unit: Option<&'static str>,
    min_key_size: u64,
    max_key_size: u64,
    /// What the TPM does.
    tpm: Vec<&'static str>,
    /// What the host does with a key that the TPM keeps sealed.
    sealed: Vec<&'static str>,
    /// What the host does.
    host: Vec<&'static str>,
    /// TPM commands that the work in the TPM needs.
    needs: Vec<&'static str>,
    /// What cannot be had here.
    refused: Vec<&'static str>,
    /// Why.
    why: Option<String>,
}

/// With all that a TPM could do and may be sealed, under the rules of `api_attacks = "prevent"`.
const ALL: Terms =
    Terms { sealing: Sealing { keys: true, ciphers: true }, policy: Policy::PREVENT };

/// Prints the list for each configured TPM.
pub(crate) fn run(options: &Options, out: &mut impl Write) -> Result<ExitCode, Failure> {
    if options.markdown {
        page(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let module = Module::new(Ok(configuration()?), true)?;
    let chips: Result<Vec<Chip>, Failure> = module
        .homes()
        .iter()
        .map(|home| {
            let tcti = home.tpm.settings().tcti.clone();
            let facts = home.tpm.facts(&home.tpm.call()).map_err(|fault| {
                Failure::new(Exit::Tpm, format_args!("{tcti}: {fault}"))
                    .hint("`tpm11 doctor` looks for the cause; --markdown asks no TPM")
            })?;
            let mechanisms =
                mechanism::rows().map(|row| look(row, Some(&facts), home.terms())).collect();
            Ok(Chip { tcti, mechanisms })
        })
        .collect();
    module.finalize();
    let chips = chips?;
    if options.json {
        let text = serde_json::to_string_pretty(&serde_json::json!({ "tpms": chips }))
            .map_err(|error| Failure::new(Exit::Other, error))?;
        writeln!(out, "{text}")?;
    } else {
        for chip in &chips {
            print(chip, out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn look(row: &Mechanism, facts: Option<&Facts>, terms: Terms) -> Row {
    let here = row.operations(facts, terms);
    let of = |place: Place| {
        let there = here.iter().filter(|(_, is)| *is == place);
        there.filter_map(|(flag, _)| mechanism::operation_name(*flag)).collect()
    };
    let refused: Vec<_> = row
        .operations(None, ALL)
        .into_iter()
        .filter(|(flag, _)| here.iter().all(|(is, _)| is != flag))
        .filter_map(|(flag, _)| mechanism::operation_name(flag))
        .collect();
    let (min_key_size, max_key_size) = row.sizes(facts);
    Row {
        name: row.name,
        id: row.id,
        keys: row.keys.types().iter().filter_map(|key_type| key_type_name(*key_type)).collect(),
        unit: match row.size {
            Size::None => None,
            Size::Bits(..) => Some("bits"),
            Size::Bytes(..) => Some("bytes"),
        },
        min_key_size,
        max_key_size,
        tpm: of(Place::Tpm),
        sealed: of(Place::Sealed),
        host: of(Place::Host),
        needs: row.chip.iter().map(|command| command.name).collect(),
        why: row
            .place(facts, terms.sealing)
            .err()
            .filter(|_| !refused.is_empty())
            .map(|lack| lack.to_string()),
        refused,
    }
}

impl Row {
    /// The sizes of its keys with their unit.
    fn size(&self) -> String {
        match self.unit {
            None => String::new(),
            Some(unit) if self.min_key_size == self.max_key_size => {
                format!("{} {unit}", self.min_key_size)
            }
            Some(unit) => format!("{} to {} {unit}", self.min_key_size, self.max_key_size),
        }
    }

    /// Its operations by place, those with none left out.
    fn places(&self) -> impl Iterator<Item = (&'static str, &[&'static str])> {
        [("TPM", &self.tpm[..]), ("sealed", &self.sealed), ("host", &self.host)]
            .into_iter()
            .filter(|(_, operations)| !operations.is_empty())
    }
}

fn print(chip: &Chip, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "{}", chip.tcti)?;
    for row in &chip.mechanisms {
        let work: Vec<String> = row
            .places()
            .map(|(place, operations)| format!("{place}: {}", operations.join(" ")))
            .collect();
        let work = work.join("; ");
        writeln!(out, "  {:<34} {:<16} {work}", row.name, row.size())?;
        if let Some(why) = &row.why {
            writeln!(out, "  {:<51} refused: {} ({why})", "", row.refused.join(" "))?;
        }
    }
    Ok(())
}

/// docs/MECHANISMS.md
fn page(out: &mut impl Write) -> Result<(), Failure> {
    writeln!(
        out,
        "# Mechanisms\n\n\
         Written by `tpm11 mechanisms --markdown` from the rows that C_GetMechanismList and \
         C_GetMechanismInfo\nread; a test holds this page to them. It shows what there is with a TPM \
         that has every command; `tpm11\nmechanisms` shows what the TPM at hand makes of it.\n\n\
         *TPM*: done in the chip, by the commands in the last column, with a key that never leaves it. \
         *Sealed*:\ndone in the host with a key that the TPM keeps sealed, where `[keys]` allows that. \
         *Host*: done in the\nhost, with public keys, no key, or keys whose value the token may have.\n\n\
         | Mechanism | TPM | Sealed | Host | Keys | Sizes | TPM commands |\n\
         |---|---|---|---|---|---|---|"
    )?;
    for row in mechanism::rows().map(|row| look(row, None, ALL)) {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            row.tpm.join(", "),
            row.sealed.join(", "),
            row.host.join(", "),
            row.keys.join(", "),
            row.size(),
            row.needs.join(", "),
        )?;
    }
    Ok(())
}
