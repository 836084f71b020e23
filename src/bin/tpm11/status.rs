//! `tpm11 status`: what configuration, TPM, stores and tokens look like from here. It asks the TPM
//! (what it is, whether the tokens' storage root keys are there, how many PIN tries are left) and
//! changes nothing. Whatever is wrong comes with the sentence that mends it.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tpm11::config::{BusProtection, Config};
use tpm11::crypto::ec::Curve;
use tpm11::error::Error;
use tpm11::store::{self, TokenRow, TokenState};
use tpm11::token::Module;
use tpm11::token::slot::{Home, StorePlace};
use tpm11::tpm::fault::Trouble;
use tpm11::tpm::lease::Lease;
use tpm11::tpm::pin::{self, Gate, PinCount, Role};
use tpm11::tpm::srk;
use tpm11::tpm::transport::BrokenKind;
use tpm11::tpm::{Facts, Fault, HashAlgorithm};

use crate::configuration;
use crate::failure::{Exit, Failure};
use crate::shown::hex;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that is said, in the order in which it is said.
#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    configuration: Vec<String>,
    tpms: Vec<TpmStatus>,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TpmStatus {
    tcti: String,
    /// Whether a resource manager is between us and the TPM.
    resource_manager: bool,
    /// When signatures go without an HMAC session.
    bus_protection: &'static str,
    /// Whether they do now, because this TPM has no bus.
    without_session: bool,
    pub(crate) chip: Option<Chip>,
    /// What stands where storage root keys do.
    pub(crate) storage_keys: Vec<StorageKey>,
    /// PIN indices of no token in these stores: of another user's, or of a store that is lost.
    pub(crate) other_indices: Vec<String>,
    pub(crate) stores: Vec<StoreStatus>,
    pub(crate) tokens: Vec<TokenStatus>,
}

/// What the TPM says of itself.
#[derive(Debug, Serialize)]
pub(crate) struct Chip {
    pub(crate) maker: String,
    pub(crate) model: String,
    pub(crate) firmware: String,
    pub(crate) specification: String,
    rsa_bits: Vec<u16>,
    curves: Vec<&'static str>,
    hashes: Vec<&'static str>,
    pin_indices: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct StorageKey {
    pub(crate) handle: String,
    name: String,
    /// Why no token would be made under it; absent if it is sound.
    pub(crate) unsound: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(crate) struct StoreStatus {
    pub(crate) directory: String,
    pub(crate) exists: bool,
    /// Why it cannot be written, though it can be read.
    pub(crate) read_only: Option<String>,
    /// Why it cannot even be read.
    pub(crate) unreadable: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TokenStatus {
    pub(crate) label: String,
    pub(crate) serial: String,
    store: String,
    pub(crate) objects: u64,
    /// "nv": PIN indices in the TPM; "da": the TPM-wide dictionary attack protection.
    pub(crate) gate: &'static str,
    recovery_code: bool,
    /// Of the storage root key that the token hangs on.
    storage_key: Option<String>,
    user_pin: &'static str,
    user_tries: Option<Tries>,
    so_tries: Option<Tries>,
}

/// As the TPM counts now.
#[derive(Debug, Clone, Copy, Serialize)]
struct Tries {
    left: u32,
    limit: u32,
}

/// Something that is wrong, and what mends it.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(skip)]
    pub(crate) exit: Exit,
    #[serde(rename = "where")]
    pub(crate) place: String,
    pub(crate) what: String,
    pub(crate) mend: String,
}

/// Says it all. The exit code names the cause nearest to the root of what is wrong.
pub(crate) fn run(options: &Options, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let config = match configuration() {
        Ok(config) => config,
        // A script that reads JSON gets JSON also then.
        Err(failure) if options.json => {
            let problem = serde_json::json!({ "where": "configuration", "what": failure.what() });
            let version = env!("CARGO_PKG_VERSION");
            writeln!(out, "{}", serde_json::json!({ "version": version, "problems": [problem] }))?;
            return Err(failure);
        }
        Err(failure) => return Err(failure),
    };
    let status = look(config)?;
    if options.json {
        let text = serde_json::to_string_pretty(&status)
            .map_err(|error| Failure::new(Exit::Other, error))?;
        writeln!(out, "{text}")?;
    } else {
        print(&status, out)?;
    }
    let worst = status.problems.iter().map(|problem| problem.exit).min();
    Ok(worst.map_or(ExitCode::SUCCESS, |exit| ExitCode::from(exit as u8)))
}

fn look(config: Config) -> Result<Status, Failure> {
    let configuration = config.files.iter().map(|file| file.display().to_string()).collect();
    let module = Module::new(Ok(config), true)?;
    let mut problems = Vec::new();
    let tpms = module.homes().iter().map(|home| tpm(home, &mut problems)).collect();
    module.finalize();
    Ok(Status { version: env!("CARGO_PKG_VERSION"), configuration, tpms, problems })
}

pub(crate) fn tpm(home: &Home, problems: &mut Vec<Problem>) -> TpmStatus {
    let tcti = home.tpm.settings().tcti.clone();
    let facts = home.tpm.facts(&home.tpm.call());
    if let Err(fault) = &facts {
        problems.push(Problem {
            exit: Exit::Tpm,
            place: tcti.clone(),
            what: fault.to_string(),
            mend: mend_tpm(&tcti, fault),
        });
    }
    let facts = facts.ok();
    let chip = facts.as_ref().map(chip);
    let mut status = TpmStatus {
        tcti,
        resource_manager: home.tpm.is_managed(),
        bus_protection: match home.tpm.settings().bus_protection {
            BusProtection::Always => "always",
            BusProtection::Discrete => "discrete",
            BusProtection::Strict => "strict",
        },
        without_session: facts.is_some_and(|facts| home.tpm.spares_session(&facts)),
        chip,
        storage_keys: Vec::new(),
        other_indices: Vec::new(),
        stores: Vec::new(),
        tokens: Vec::new(),
    };
    let mut others = BTreeSet::new();
    if status.chip.is_some() {
        let look = |lease: &mut Lease| Ok((srk::survey(lease)?, pin::survey(lease)?));
        match home.tpm.with(&home.tpm.call(), None, look) {
            Ok((keys, indices)) => {
                status.storage_keys = keys.into_iter().map(storage_key).collect();
                others.extend(indices);
            }
            Err(fault) => problems.push(Problem {
                exit: Exit::Tpm,
                place: status.tcti.clone(),
                what: fault.to_string(),
                mend: mend_tpm(&status.tcti, &fault),
            }),
        }
    }
    for place in &home.places {
        let rows = look_into(place, &mut status.stores, problems);
        for row in &rows {
            let directory = place.directory.display().to_string();
            let reachable = status.chip.is_some();
            status.tokens.push(token(home, row, directory, reachable, problems));
            let own = indices_of(row);
            others.retain(|index| !own.contains(index));
        }
    }
    status.other_indices = others.iter().map(|index| format!("{index:#010x}")).collect();
    // Who has tokens that he may only read is served: a program's user, a read-only system.
    let closed = |store: &StoreStatus| store.read_only.is_some() || store.unreadable.is_some();
    if status.tokens.is_empty() && status.stores.iter().all(closed) {
        problems.push(Problem {
            exit: Exit::Store,
            place: status.tcti.clone(),
            what: "there is no token, and no store can be written to make one".into(),
            mend: "run as a user who may write to one of the stores, or name one in `[store] \
                   paths` of tpm11.toml"
                .into(),
        });
    }
    status
}

/// The PIN indices that a token has, and those that the TPM is to forget on its behalf.
pub(crate) fn indices_of(row: &TokenRow) -> Vec<u32> {
    let gates = [Some(&row.gate), row.replaced.as_ref()];
    let gates = gates.into_iter().flatten().filter_map(|bytes| Gate::from_bytes(bytes));
    gates.flat_map(|gate| gate.indices()).collect()
}

/// What helps when the TPM behind a conf string does not answer.
pub(crate) fn mend_tpm(tcti: &str, fault: &Fault) -> String {
    let Trouble::Broken(broken) = fault.kind() else {
        return "restart the TPM's program, or the host; if it stays so, the log says more".into();
    };
    let device = tcti.strip_prefix("device:");
    match (broken.kind, device) {
        (BrokenKind::Absent, Some(_)) => {
            "switch the TPM on in the firmware's setup (it may be called fTPM, PTT or Security \
             Device), then look for /dev/tpmrm0"
                .into()
        }
        (BrokenKind::Denied, Some(path)) => format!(
            "let the user into the group that owns {path}, usually tss: `sudo usermod -aG tss \
             \"$USER\"`, then log in anew"
        ),
        (BrokenKind::Busy, Some("/dev/tpm0")) => {
            "use the kernel's resource manager, which serves several programs: \
             `tcti = \"device:/dev/tpmrm0\"`"
                .into()
        }
        (BrokenKind::Busy, _) => "end the program that holds the TPM, or wait for it".into(),
        (BrokenKind::Settings, _) => {
            "correct `tcti` in tpm11.toml (or TPM11_TCTI), for instance \"device:/dev/tpmrm0\""
                .into()
        }
        (_, Some(path)) => {
            format!("see what the kernel says: `journalctl -k | grep -i tpm`, `ls -l {path}`")
        }
        (_, None) => {
            "see that the TPM's program runs and listens there, or correct `tcti` in tpm11.toml \
             (or TPM11_TCTI)"
                .into()
        }
    }
}

fn storage_key(found: srk::Found) -> StorageKey {
    let name = hex(&found.name);
    StorageKey { handle: format!("{:#010x}", found.handle), name, unsound: found.unsound }
}

fn chip(facts: &Facts) -> Chip {
    Chip {
        maker: facts.maker.clone(),
        model: facts.model.clone(),
        firmware: format!("{:#018x}", facts.firmware),
        specification: format!("{}.{:02}", facts.revision / 100, facts.revision % 100),
        rsa_bits: facts.rsa_bits.clone(),
        curves: facts.curves.iter().map(|curve| curve_name(*curve)).collect(),
        hashes: facts.hashes.iter().map(|hash| hash_name(*hash)).collect(),
        pin_indices: facts.pin_indices,
    }
}

fn curve_name(curve: Curve) -> &'static str {
    match curve {
        Curve::P256 => "P-256",
        Curve::P384 => "P-384",
        Curve::P521 => "P-521",
    }
}

fn hash_name(hash: HashAlgorithm) -> &'static str {
    match hash {
        HashAlgorithm::Sha1 => "SHA-1",
        HashAlgorithm::Sha256 => "SHA-256",
        HashAlgorithm::Sha384 => "SHA-384",
        HashAlgorithm::Sha512 => "SHA-512",
    }
}

/// Adds what is to be said of a store; its tokens.
fn look_into(
    place: &StorePlace,
    stores: &mut Vec<StoreStatus>,
    problems: &mut Vec<Problem>,
) -> Vec<TokenRow> {
    let directory = place.directory.display().to_string();
    let outcome = place.store().and_then(|store| Ok((store.tokens()?, store)));
    match outcome {
        Ok((rows, store)) => {
            stores.push(StoreStatus {
                directory,
                exists: store.exists(),
                read_only: store.writable().err().map(|fault| fault.to_string()),
                unreadable: None,
            });
            rows
        }
        Err(fault) => {
            let what = fault.to_string();
            let mend = match fault {
                store::Fault::Unreadable(_) => {
                    "run as a user who may read it, or let this one: the directory's and the \
                     file's group, mode 0750 and 0640"
                }
                _ => "restore the file from a backup, or move it away; its keys go with it",
            };
            problems.push(Problem {
                exit: Exit::Store,
                place: directory.clone(),
                what: what.clone(),
                mend: mend.into(),
            });
            stores.push(StoreStatus {
                directory,
                exists: true,
                read_only: None,
                unreadable: Some(what),
            });
            Vec::new()
        }
    }
}

fn token(
    home: &Home,
    row: &TokenRow,
    store: String,
    reachable: bool,
    problems: &mut Vec<Problem>,
) -> TokenStatus {
    let label = String::from_utf8_lossy(&row.label).trim_end().to_owned();
    let serial = String::from_utf8_lossy(&row.serial).into_owned();
    let mut status = TokenStatus {
        label,
        serial,
        store,
        objects: row.objects,
        gate: "damaged",
        recovery_code: false,
        storage_key: None,
        user_pin: match (row.pinless, row.user_pin_set) {
            (true, _) => "none",
            (false, true) => "set",
            (false, false) => "not set",
        },
        user_tries: None,
        so_tries: None,
    };
    let mut wrong = |what: &str, mend: &str| {
        problems.push(Problem {
            exit: Exit::Token,
            place: format!("token {}", status.serial),
            what: what.into(),
            mend: mend.into(),
        });
    };
    if row.state == TokenState::Pending {
        wrong(
            "its initialisation was interrupted, or is under way in another program",
            "nothing: the next program that uses the TPM for a token ends it",
        );
    }
    let Some(gate) = Gate::from_bytes(&row.gate) else {
        wrong(
            "its PIN gate cannot be read: damaged, or of a newer version of tpm11",
            "restore the store from a backup, or install the newer version",
        );
        return status;
    };
    status.gate = if gate.has_indices() { "nv" } else { "da" };
    status.recovery_code = gate.is_recoverable();
    if !row.pinless && !row.user_pin_set && row.state == TokenState::Active {
        wrong(
            "its user has no PIN yet",
            "let the security officer set it: `tpm11 unlock --new-pin` (or pkcs11-tool --init-pin)",
        );
    }
    if !reachable || row.state == TokenState::Pending {
        return status;
    }
    let call = home.tpm.call();
    let root = home.tpm.with(&call, Some(gate.srk()), |lease| Ok(lease.srk()?.handle()));
    match root.map_err(Error::from) {
        Ok(handle) => status.storage_key = Some(format!("{handle:#010x}")),
        Err(error @ Error::ForeignTpm) => {
            wrong(
                &error.to_string(),
                &format!(
                    "use the TPM that made it; if that was cleared, the keys among its {} objects are \
                     lost for ever: make a new token with `tpm11 init`",
                    status.objects
                ),
            );
            return status;
        }
        Err(error) => {
            wrong(
                &error.to_string(),
                "try again; if it stays so, restart the TPM's program or host",
            );
            return status;
        }
    }
    let mut tries = |role: Role, locked: &str, mend: &str| {
        let counted: Result<PinCount, Error> = home.tpm.pin_count(&call, &gate, role);
        match counted {
            Ok(count) => {
                let tries =
                    Tries { left: count.limit.saturating_sub(count.count), limit: count.limit };
                if tries.left == 0 {
                    wrong(locked, mend);
                }
                Some(tries)
            }
            Err(error) => {
                let mend = if gate.is_recoverable() {
                    "if the TPM's owner removed its PIN indices: `tpm11 recover`, with the recovery code"
                } else {
                    "if the TPM's owner removed its PIN indices, its keys are lost, for it has no \
                     recovery code: make a new token with `tpm11 init`"
                };
                wrong(&format!("its PIN tries cannot be read: {error}"), mend);
                None
            }
        }
    };
    if !row.pinless && row.user_pin_set {
        status.user_tries = tries(
            Role::User,
            "the user's PIN is locked",
            "let the security officer unlock it: `tpm11 unlock`, with `--new-pin` if it is forgotten \
             (or pkcs11-tool --init-pin)",
        );
    }
    status.so_tries = tries(
        Role::So,
        "the security officer's PIN is locked",
        "its keys still work with the user's PIN; a new security officer's PIN needs the recovery code \
         (`tpm11 recover`) or a new token",
    );
    status
}

/// For people.
fn print(status: &Status, out: &mut impl Write) -> std::io::Result<()> {
    let list = |items: &[String]| match items {
        [] => "none".to_owned(),
        items => items.join(", "),
    };
    writeln!(out, "tpm11 {}", status.version)?;
    match status.configuration.as_slice() {
        [] => writeln!(out, "configuration  none, all settings have their defaults")?,
        files => writeln!(out, "configuration  {}", list(files))?,
    }
    for tpm in &status.tpms {
        writeln!(out, "\nTPM            {}", tpm.tcti)?;
        if let Some(chip) = &tpm.chip {
            let Chip { maker, model, firmware, specification, .. } = chip;
            writeln!(out, "  made by      {maker} {model}, firmware {firmware}")?;
            writeln!(out, "  TPM 2.0      revision {specification}")?;
            let rsa = chip.rsa_bits.iter().map(|bits| format!("RSA {bits}"));
            let curves = chip.curves.iter().map(|curve| (*curve).to_owned());
            writeln!(out, "  keys         {}", list(&rsa.chain(curves).collect::<Vec<_>>()))?;
            writeln!(out, "  hashes       {}", chip.hashes.join(", "))?;
            let gate = if chip.pin_indices { "yes" } else { "no (gate = da)" };
            writeln!(out, "  PIN indices  {gate}")?;
        }
        let manager = if tpm.resource_manager { "yes" } else { "no" };
        writeln!(out, "  shared by    a resource manager: {manager}")?;
        let without = match (tpm.without_session, tpm.bus_protection) {
            (true, _) => " (a firmware TPM, which has no bus: keys are used without a session)",
            (false, "discrete") => " (keys are used with a session all the same)",
            (false, _) => "",
        };
        writeln!(out, "  bus          protection \"{}\"{without}", tpm.bus_protection)?;
        for key in &tpm.storage_keys {
            let state = key.unsound.map(|why| format!(" (not for tokens: {why})"));
            let name = key.name.get(..16).unwrap_or(&key.name);
            let state = state.unwrap_or_default();
            writeln!(out, "  storage key  {}, Name {name}…{state}", key.handle)?;
        }
        if tpm.chip.is_some() && tpm.storage_keys.is_empty() {
            writeln!(out, "  storage key  none that stays (made with the first token)")?;
        }
        for store in &tpm.stores {
            let state = match (&store.unreadable, &store.read_only, store.exists) {
                (Some(why), ..) => format!(" (unreadable: {why})"),
                (None, Some(why), _) => format!(" (read-only: {why})"),
                (None, None, false) => " (made with the first token)".to_owned(),
                (None, None, true) => String::new(),
            };
            writeln!(out, "  store        {}{state}", store.directory)?;
        }
        for token in &tpm.tokens {
            writeln!(out, "\n  token        \"{}\"", token.label)?;
            writeln!(out, "    serial     {}", token.serial)?;
            writeln!(out, "    store      {}, {} objects", token.store, token.objects)?;
            let recovery = if token.recovery_code { ", recovery code" } else { "" };
            writeln!(out, "    gate       {}{recovery}", token.gate)?;
            if let Some(handle) = &token.storage_key {
                writeln!(out, "    key        {handle} is its storage root key")?;
            }
            let tries = |tries: &Option<Tries>| {
                let text =
                    |Tries { left, limit }: &Tries| format!(", {left} of {limit} tries left");
                tries.as_ref().map(text).unwrap_or_default()
            };
            writeln!(out, "    user PIN   {}{}", token.user_pin, tries(&token.user_tries))?;
            writeln!(out, "    SO PIN     set{}", tries(&token.so_tries))?;
        }
        if !tpm.other_indices.is_empty() {
            let list = tpm.other_indices.join(", ");
            writeln!(out, "\n  PIN indices of no token in these stores: {list}")?;
        }
        if tpm.tokens.is_empty() {
            writeln!(out, "  tokens       none (`tpm11 init` makes one)")?;
        }
    }
    for problem in &status.problems {
        writeln!(out, "\n{}: {}", problem.place, problem.what)?;
        writeln!(out, "  what helps: {}", problem.mend)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            version: "9.9.9",
            configuration: vec!["/etc/tpm11/tpm11.toml".into()],
            tpms: vec![TpmStatus {
                tcti: "device:/dev/tpmrm0".into(),
                resource_manager: true,
                bus_protection: "always",
                without_session: false,
                chip: Some(Chip {
                    maker: "IBM".into(),
                    model: "SW TPM".into(),
                    firmware: "0x0000000000000001".into(),
                    specification: "1.38".into(),
                    rsa_bits: vec![2048],
                    curves: vec!["P-256"],
                    hashes: vec!["SHA-256"],
                    pin_indices: true,
                }),
                storage_keys: vec![StorageKey {
                    handle: "0x81000001".into(),
                    name: "000b0123456789abcdef".into(),
                    unsound: None,
                }],
                other_indices: Vec::new(),
                stores: vec![StoreStatus {
                    directory: "/var/lib/tpm11".into(),
                    exists: true,
                    read_only: None,
                    unreadable: None,
                }],
                tokens: vec![TokenStatus {
                    label: "web".into(),
                    serial: "9f3c51d20b7e8a46".into(),
                    store: "/var/lib/tpm11".into(),
                    objects: 3,
                    gate: "nv",
                    recovery_code: false,
                    storage_key: Some("0x81000001".into()),
                    user_pin: "set",
                    user_tries: Some(Tries { left: 0, limit: 8 }),
                    so_tries: Some(Tries { left: 8, limit: 8 }),
                }],
            }],
            problems: vec![Problem {
                exit: Exit::Token,
                place: "token 9f3c51d20b7e8a46".into(),
                what: "the user's PIN is locked".into(),
                mend: "set a new one".into(),
            }],
        }
    }

    #[test]
    fn what_is_wrong_comes_with_what_mends_it() {
        let mut text = Vec::new();
        print(&status(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("user PIN   set, 0 of 8 tries left"), "{text}");
        let end = "token 9f3c51d20b7e8a46: the user's PIN is locked\n  what helps: set a new one\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn json_says_the_same_under_stable_names() {
        let json = serde_json::to_value(status()).unwrap();
        assert_eq!(json["tpms"][0]["tokens"][0]["user_tries"]["left"], 0);
        assert_eq!(json["tpms"][0]["chip"]["curves"][0], "P-256");
        assert_eq!(json["problems"][0]["where"], "token 9f3c51d20b7e8a46");
    }
}
