//! `tpm11 doctor`: looks at all that can be wrong, one line for each finding and what mends it; and reads
//! the flight record of processes that are gone.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tpm11::config::Config;
use tpm11::recorder;
use tpm11::store::{self, Sealer, Store, TokenRow};
use tpm11::token::Module;
use tpm11::token::slot::{Home, StorePlace};
use tpm11::tpm::Facts;
use tpm11::tpm::health::{self, Health};
use tpm11::tpm::pin::Gate;

use crate::failure::{Exit, Failure};
use crate::status::{self, TpmStatus};
use crate::{configuration, installed};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only print what the last processes did: calls and TPM commands with codes and durations
    #[arg(long, conflicts_with = "remove_orphans")]
    last: bool,
    /// Remove the PIN indices of tokens that are in no store, from the TPM and for ever
    #[arg(long)]
    remove_orphans: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Level {
    #[serde(rename = "ok")]
    Ok,
    #[serde(rename = "note")]
    Note,
    #[serde(rename = "warn")]
    Warn,
    #[serde(rename = "FAIL")]
    Fail,
}

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    level: Level,
    area: String,
    what: String,
    /// The command or sentence that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
    #[serde(skip)]
    exit: Option<Exit>,
}

/// What was found, in the order in which it was looked at.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, exit: Option<Exit>, area: &str, what: String, mend: &str) {
        let mend = (!mend.is_empty()).then(|| mend.to_owned());
        self.0.push(Finding { level, area: area.to_owned(), what, mend, exit });
    }

    /// All is well.
    pub(crate) fn ok(&mut self, area: &str, what: impl Into<String>) {
        self.add(Level::Ok, None, area, what.into(), "");
    }

    /// Worth knowing.
    pub(crate) fn note(&mut self, area: &str, what: impl Into<String>, mend: impl AsRef<str>) {
        self.add(Level::Note, None, area, what.into(), mend.as_ref());
    }

    /// It works, but not as well as it should.
    pub(crate) fn warn(&mut self, area: &str, what: impl Into<String>, mend: impl AsRef<str>) {
        self.add(Level::Warn, None, area, what.into(), mend.as_ref());
    }

    /// It does not work.
    pub(crate) fn fail(
        &mut self,
        exit: Exit,
        area: &str,
        what: impl Into<String>,
        mend: impl AsRef<str>,
    ) {
        self.add(Level::Fail, Some(exit), area, what.into(), mend.as_ref());
    }

    /// As they are printed.
    pub(crate) fn lines(&self) -> Vec<String> {
        let word = |level| match level {
            Level::Ok => "ok  ",
            Level::Note => "note",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let line = |finding: &Finding| {
            let mend = finding.mend.as_ref().map(|mend| format!("  -> {mend}"));
            let text = format!("{}: {}{}", finding.area, finding.what, mend.unwrap_or_default());
            // One finding is one line, whatever a label contains.
            let text = text.replace(|c: char| c.is_control(), " ");
            format!("{}  {text}", word(finding.level))
        };
        self.0.iter().map(line).collect()
    }

    fn exit(&self) -> ExitCode {
        let worst = self.0.iter().filter_map(|finding| finding.exit).min();
        let warned = self.0.iter().any(|finding| finding.level == Level::Warn);
        match (worst, warned) {
            (Some(exit), _) => ExitCode::from(exit as u8),
            (None, true) => ExitCode::from(Exit::Other as u8),
            (None, false) => ExitCode::SUCCESS,
        }
    }
}

/// Looks and says; or reads the record.
pub(crate) fn run(options: &Options, out: &mut impl Write) -> Result<ExitCode, Failure> {
    if options.last {
        return last(options.json, out);
    }
    let mut findings = Findings::default();
    findings.ok("version", format!("tpm11 {}", env!("CARGO_PKG_VERSION")));
    match configuration() {
        Ok(config) => look(config, options.remove_orphans, &mut findings)?,
        Err(failure) => findings.fail(
            Exit::Configuration,
            "configuration",
            failure.what(),
            "mend that line; until then the module shows one slot that says the same",
        ),
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    installed::look(Path::new("/"), home.as_deref(), &mut findings);
    if options.json {
        let version = env!("CARGO_PKG_VERSION");
        let json = serde_json::json!({ "version": version, "findings": findings.0 });
        writeln!(out, "{json:#}")?;
    } else {
        for line in findings.lines() {
            writeln!(out, "{line}")?;
        }
    }
    Ok(findings.exit())
}

/// The flight record.
fn last(json: bool, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let config = configuration()?;
    let stores: Vec<PathBuf> = config.tpm.iter().flat_map(|tpm| tpm.stores.clone()).collect();
    let records = recorder::records(&stores);
    if json {
        let records: Vec<_> = records
            .iter()
            .map(|record| {
                let path = record.path.display().to_string();
                serde_json::json!({ "path": path, "failure": record.failure, "lines": record.lines })
            })
            .collect();
        writeln!(out, "{:#}", serde_json::json!({ "records": records }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if records.is_empty() {
        writeln!(
            out,
            "nothing is on record: no process of this user has used the TPM, none failed for more than a wrong \
             call, or there was nowhere to write to ($XDG_RUNTIME_DIR, the store)"
        )?;
    }
    for record in &records {
        writeln!(out, "# {}", record.path.display())?;
        for line in &record.lines {
            writeln!(out, "{line}")?;
        }
        writeln!(out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn look(config: Config, remove: bool, findings: &mut Findings) -> Result<(), Failure> {
    let files: Vec<_> = config.files.iter().map(|file| file.display().to_string()).collect();
    match files.as_slice() {
        [] => findings.ok("configuration", "none, all settings have their defaults"),
        files => findings.ok("configuration", files.join(", ")),
    }
    let module = Module::new(Ok(config), true)?;
    for home in module.homes() {
        let tcti = home.tpm.settings().tcti.clone();
        device(&tcti, Path::new("/sys/class/tpm/tpm0/tpm_version_major"), findings);
        let mut problems = Vec::new();
        let status = status::tpm(home, &mut problems);
        chip(home, &tcti, &status, findings);
        for place in &home.places {
            store(place, findings);
            if status.chip.is_some() {
                sets(home, place, findings);
            }
        }
        for token in &status.tokens {
            let place = format!("token {}", token.serial);
            // Of a token whose TPM does not answer, nothing is known.
            if status.chip.is_some() && !problems.iter().any(|problem| problem.place == place) {
                let what = format!("\"{}\", {} objects", token.label, token.objects);
                findings.ok(&place, what);
            }
            if token.gate == "da" {
                findings.note(
                    &place,
                    "its PINs are guarded by the TPM-wide lockout (gate = da): wrong PINs of any program \
                     and power cuts count",
                    "a new token gets PIN indices if the owner hierarchy has no password",
                );
            }
        }
        for problem in &problems {
            findings.fail(problem.exit, &problem.place, problem.what.as_str(), &problem.mend);
        }
        orphans(home, &tcti, &status, remove, findings);
    }
    module.finalize();
    Ok(())
}

/// The device node: there, whose, and open to us. `version` is the file in which the kernel says what the
/// first TPM is.
fn device(tcti: &str, version: &Path, findings: &mut Findings) {
    let Some(path) = tcti.strip_prefix("device:") else {
        findings.note(
            tcti,
            "not a device of the kernel",
            "for the host's own TPM: `tcti = \"device:/dev/tpmrm0\"`",
        );
        return;
    };
    let major = fs::read_to_string(version).unwrap_or_default();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) => {
            // What mends it is said where the TPM was asked.
            findings.note(tcti, format!("{path}: {error}"), "");
            if major.trim() == "1" {
                findings.fail(
                    Exit::Tpm,
                    tcti,
                    "this host's TPM is a TPM 1.2, which is another specification",
                    "switch it to 2.0 in the firmware's setup if that can be done; it loses its keys",
                );
            }
            return;
        }
    };
    if !found.file_type().is_char_device() {
        findings.warn(
            tcti,
            format!("{path} is no character device"),
            "name the TPM's device: `tcti = \"device:/dev/tpmrm0\"`",
        );
        return;
    }
    let (mode, group) = (found.mode() & 0o777, group_name(found.gid()));
    let may = |access| rustix::fs::access(path, access).is_ok();
    let what = format!("{path}, mode {mode:04o}, group {group}");
    if !(may(rustix::fs::Access::READ_OK) && may(rustix::fs::Access::WRITE_OK)) {
        findings.warn(
            tcti,
            format!("{what}: this user may not open it"),
            format!("sudo usermod -aG {group} \"$USER\", then log in anew"),
        );
    } else {
        findings.ok(tcti, what);
    }
    if mode & 0o006 != 0 {
        findings.warn(
            tcti,
            format!("everybody may use {path}"),
            format!("sudo chmod o-rw {path}, and mend the udev rule that opened it"),
        );
    }
    if is_bare(path) {
        findings.warn(
            tcti,
            "the bare device serves one program at a time",
            "use the kernel's resource manager: `tcti = \"device:/dev/tpmrm0\"`",
        );
    }
}

/// Whether it is the device without the kernel's resource manager.
fn is_bare(path: &str) -> bool {
    let rest = path.strip_prefix("/dev/tpm");
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn group_name(id: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| id.to_string())
}

/// What the TPM is and how it is now. That it does not answer is said elsewhere.
fn chip(home: &Home, tcti: &str, status: &TpmStatus, findings: &mut Findings) {
    let Some(chip) = &status.chip else { return };
    let call = home.tpm.call();
    findings.ok(
        tcti,
        format!(
            "{} {}, firmware {}, TPM 2.0 revision {}, {}",
            chip.maker,
            chip.model,
            chip.firmware,
            chip.specification,
            if home.tpm.is_managed() { "behind a resource manager" } else { "bare" }
        ),
    );
    if let Ok(facts) = home.tpm.facts(&call) {
        algorithms(&facts, tcti, findings);
        if let Some((what, mend)) = firmware(&facts) {
            findings.warn(tcti, what, mend);
        }
    }
    if let Ok(health) = home.tpm.with(&call, None, health::survey) {
        lockout(&health, tcti, findings);
    }
    for key in &status.storage_keys {
        match key.unsound {
            None => findings.ok(tcti, format!("storage key {} is sound", key.handle)),
            Some(why) => findings.note(
                tcti,
                format!("the key at {} is not used for tokens: {why}", key.handle),
                "nothing: another handle is taken",
            ),
        }
    }
    if status.storage_keys.is_empty() {
        findings.note(tcti, "no storage key stays in the TPM", "the first `tpm11 init` makes one");
    }
}

/// TPM_ALG_IDs (TCG Algorithm Registry) without which nothing works, and those that most will miss.
fn algorithms(facts: &Facts, tcti: &str, findings: &mut Findings) {
    let lacks = |list: &[(u16, &'static str)]| -> Vec<&str> {
        list.iter().filter(|(id, _)| !facts.has_algorithm(*id)).map(|(_, name)| *name).collect()
    };
    let needed = [
        (0x0005, "HMAC"),
        (0x0006, "AES"),
        (0x0008, "KEYEDHASH"),
        (0x000B, "SHA-256"),
        (0x0043, "CFB"),
    ];
    let missing = lacks(&needed);
    if !missing.is_empty() {
        findings.fail(
            Exit::Tpm,
            tcti,
            format!("the TPM lacks {}, which every token needs", missing.join(", ")),
            "another TPM, or newer firmware",
        );
        return;
    }
    let missing = lacks(&[(0x0001, "RSA"), (0x0018, "ECDSA"), (0x0019, "ECDH"), (0x0023, "ECC")]);
    if missing.is_empty() {
        findings.ok(tcti, "all algorithms that tokens need are there");
    } else {
        findings.note(
            tcti,
            format!("the TPM lacks {}", missing.join(", ")),
            "use the other kind of key",
        );
    }
    if !facts.pin_indices {
        findings.warn(
            tcti,
            "the TPM is older than revision 1.38: no PIN indices, wrong PINs count in its lockout",
            "newer firmware, if there is any",
        );
    }
}

/// Firmware with a published defect that touches keys of ours.
fn firmware(facts: &Facts) -> Option<(String, &'static str)> {
    let number = |shift: u32| (facts.firmware >> shift & 0xFFFF) as u16;
    let (major, minor, patch) = (number(48), number(32), number(16));
    match facts.maker.as_str() {
        // CVE-2017-15361: the affected versions as their maker listed them.
        "IFX" => {
            let fixed = match (major, minor) {
                (4, ..=33) => "4.34",
                (4, 40..=42) => "4.43",
                (5, ..=61) => "5.62",
                (6, ..=42) => "6.43",
                (7, ..=61) => "7.62",
                _ => return None,
            };
            Some((
                format!(
                    "firmware {major}.{minor} makes RSA keys that can be factored (CVE-2017-15361); \
                     fixed in {fixed}; tpm11 refuses such keys"
                ),
                "update the TPM's firmware, then make new RSA keys; EC keys are not touched",
            ))
        }
        // CVE-2019-11090.
        "INTC" => {
            let fixed = match (major, minor) {
                (11, 8) if patch < 70 => "11.8.70",
                (12, 0) if patch < 45 => "12.0.45",
                _ => return None,
            };
            Some((
                format!(
                    "firmware {major}.{minor}.{patch} leaks ECDSA keys by the time that signing takes \
                     (CVE-2019-11090); fixed in {fixed}"
                ),
                "update the host's firmware, then make new EC keys",
            ))
        }
        _ => None,
    }
}

fn lockout(health: &Health, tcti: &str, findings: &mut Findings) {
    if !health.storage_enabled {
        findings.fail(
            Exit::Tpm,
            tcti,
            "the storage hierarchy is switched off until the next start of the host",
            "switch the TPM on in the firmware's setup, then restart the host",
        );
    }
    let Health { failures, limit, .. } = *health;
    let forgets = match health.forgets_every.as_secs() {
        0 => "it forgets none by itself".to_owned(),
        seconds => format!("it forgets one every {seconds} s"),
    };
    if health.in_lockout {
        findings.warn(
            tcti,
            format!(
                "the TPM is in lockout after {failures} wrong authorizations of some program; {forgets}; \
                 tokens with PIN indices work all the same"
            ),
            "wait, or `tpm2_dictionarylockout --clear-lockout` (with the lockout password if there is \
             one)",
        );
    } else if failures > 0 {
        let what = format!("{failures} of {limit} wrong authorizations are counted; {forgets}");
        findings.note(tcti, what, "nothing, or `tpm2_dictionarylockout --clear-lockout`");
    } else {
        findings.ok(tcti, format!("no lockout: 0 of {limit} wrong authorizations"));
    }
    if health.owner_password {
        findings.warn(
            tcti,
            "the owner hierarchy has a password: new tokens get no PIN indices, and old ones stay",
            "`tpm2_changeauth -c owner -p OLD` takes it away; what it guards is not secret from root",
        );
    } else {
        findings.ok(tcti, "the owner hierarchy has no password");
    }
    if health.saved_sessions > 0 {
        findings.note(
            tcti,
            format!(
                "saved sessions of other programs: {}; one that stays idle for 65,535 commands of others \
                 keeps every session out, logins too",
                health.saved_sessions
            ),
            "nothing while its program works; else end that program, or `tpm2_flushcontext \
             --saved-session`",
        );
    }
    if !health.lockout_password {
        findings.note(
            tcti,
            "the lockout hierarchy has no password: whoever may open the TPM may clear it, and with it \
             all keys",
            "`tpm2_changeauth -c lockout NEW`, kept where the recovery codes are; or leave it",
        );
    }
}

/// One that may not be looked at is no missing one: why it cannot be read is told with its slot.
fn no_store(area: &str, error: &std::io::Error, findings: &mut Findings) {
    if error.kind() == std::io::ErrorKind::NotFound {
        findings.ok(area, "no store yet");
    }
}

/// A store's directory and file: rights, soundness, what lies beside it.
fn store(place: &StorePlace, findings: &mut Findings) {
    let directory = &place.directory;
    let area = directory.display().to_string();
    let of = match fs::metadata(directory) {
        Ok(of) => of,
        Err(error) => return no_store(&area, &error, findings),
    };
    let file = directory.join(store::FILE);
    // By name: to open it would cost the locks of those who use it.
    let found = match fs::symlink_metadata(&file) {
        Ok(found) => found,
        Err(error) => return no_store(&area, &error, findings),
    };
    let (mode, file_mode) = (of.mode() & 0o7777, found.mode() & 0o7777);
    let Ok(store) = place.store() else { return }; // said with the tokens
    if mode & 0o005 != 0 || file_mode & 0o004 != 0 {
        findings.warn(
            &area,
            format!("everybody may read it (modes {mode:04o} and {file_mode:04o})"),
            format!("chmod o-rwx {area} {}", file.display()),
        );
    }
    let user = rustix::process::geteuid().as_raw();
    if of.uid() != found.uid() {
        findings.warn(
            &area,
            format!("the directory belongs to user {}, the file to user {}", of.uid(), found.uid()),
            format!("sudo chown {} {}", of.uid(), file.display()),
        );
    } else if of.uid() != user && of.uid() != 0 && user != 0 {
        findings.note(&area, format!("it belongs to user {}", of.uid()), "");
    }
    if store.writable().is_ok() {
        locks(directory, &area, findings);
    }
    match store.integrity() {
        Ok(problems) if problems.is_empty() => findings.ok(
            &area,
            match store.writable() {
                Ok(()) => "sound, and can be written".to_owned(),
                Err(fault) => format!("sound, and read only: {fault}"),
            },
        ),
        Ok(problems) => findings.fail(
            Exit::Store,
            &area,
            format!("damaged: {}", problems.join("; ")),
            "tpm11 restore FILE, with the last backup; without one, `tpm11 backup FILE` now and keep the \
             host as it is",
        ),
        Err(fault) => findings.fail(
            Exit::Store,
            &area,
            fault.to_string(),
            "see its directory's rights; if it stays so, restore a backup",
        ),
    }
    beside(directory, &area, findings);
}

/// Whether the file system's locks keep other programs out, which is all that keeps two writers apart.
fn locks(directory: &Path, area: &str, findings: &mut Findings) {
    match excludes(directory) {
        Ok(true) => findings.ok(area, "a lock keeps other programs out"),
        Ok(false) => findings.fail(
            Exit::Store,
            area,
            "locks keep nobody out on this file system: programs that write at the same time destroy the \
             store",
            "put the store on a local disk (`[store] paths` in tpm11.toml); of NFS, a mount with locks",
        ),
        Err(error) => findings.note(
            area,
            format!("whether locks work could not be tried: {error}"),
            "`tpm11 doctor` as the user whose store it is",
        ),
    }
}

/// Locks a file beside the store as SQLite locks the store, and lets another process try. Not the store's
/// own file: to close a second descriptor of it would end the locks of this process.
fn excludes(directory: &Path) -> std::io::Result<bool> {
    use rustix::fs::FlockOperation::NonBlockingLockExclusive;
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join(format!("{}.new-lock-{}", store::FILE, std::process::id()));
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let tried = || {
        rustix::fs::fcntl_lock(&file, NonBlockingLockExclusive)?;
        let mut other = std::process::Command::new(std::env::current_exe()?);
        other.arg("try-lock").arg(&path);
        match other.status()?.code() {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            other => Err(std::io::Error::other(format!("the other process said {other:?}"))),
        }
    };
    let outcome = tried();
    fs::remove_file(&path)?;
    outcome
}

/// The other process of [`excludes`]: 0 if it got the lock, 1 if it was refused.
pub(crate) fn try_lock(path: &Path) -> ExitCode {
    use rustix::io::Errno;
    let Ok(file) = fs::OpenOptions::new().write(true).open(path) else { return ExitCode::from(4) };
    match rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Errno::AGAIN | Errno::ACCESS) => ExitCode::from(1),
        Err(_) => ExitCode::from(4),
    }
}

/// Whether the objects of tokens without user PIN are those that they signed for. (Of others only a login
/// can tell; it does, and logs what is wrong.)
fn sets(home: &Home, place: &StorePlace, findings: &mut Findings) {
    let Ok(store) = place.store() else { return };
    for row in tokens(place).unwrap_or_default().iter().filter(|row| row.pinless) {
        let Some(gate) = Gate::from_bytes(&row.gate) else { continue };
        // That the TPM does not open it is said with the token.
        let Ok(opened) = home.tpm.open_without_pin(&home.tpm.call(), &gate) else { continue };
        let sealer = Sealer::new(&opened.token_secret, &row.serial);
        let area = format!("token {}", String::from_utf8_lossy(&row.serial));
        match store.verify_set(&row.serial, &sealer) {
            Ok(report) if report.intact && report.bad.is_empty() => {
                findings.ok(&area, "its objects are whole, by its own signature");
            }
            Ok(report) => findings.fail(
                Exit::Token,
                &area,
                format!(
                    "its objects were changed outside of the token: {} of {} found, {} altered",
                    report.found,
                    report.expected,
                    report.bad.len()
                ),
                "tpm11 restore FILE, with the last backup; the objects that are whole go on working",
            ),
            Err(fault) => findings.fail(Exit::Store, &area, fault.to_string(), "try again"),
        }
    }
}

/// Former states of the store, which nobody reads and which hold its keys' blobs.
fn beside(directory: &Path, area: &str, findings: &mut Findings) {
    let mut copies = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = name.strip_prefix(store::FILE).unwrap_or_default();
        if [".v", ".new-", ".replaced-"].iter().any(|kind| rest.starts_with(kind)) {
            copies.push(name);
        }
    }
    copies.sort();
    if !copies.is_empty() {
        findings.note(
            area,
            format!("former states of the store lie beside it: {}", copies.join(", ")),
            "remove them when nothing is missed",
        );
    }
}

/// PIN indices of no token in the stores that we know.
fn orphans(home: &Home, tcti: &str, status: &TpmStatus, remove: bool, findings: &mut Findings) {
    if status.chip.is_none() {
        return;
    }
    let elsewhere = of_other_users(home);
    let mut orphans = Vec::new();
    for text in &status.other_indices {
        let number =
            text.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let Some(number) = number else { continue };
        match elsewhere.iter().find(|(_, indices)| indices.contains(&number)) {
            Some((path, _)) => findings
                .ok(tcti, format!("PIN index {text} belongs to a token in {}", path.display())),
            None => orphans.push(number),
        }
    }
    if orphans.is_empty() {
        findings.ok(tcti, "no PIN index without a token");
        return;
    }
    let list: Vec<_> = orphans.iter().map(|index| format!("{index:#010x}")).collect();
    let list = list.join(", ");
    if !remove {
        findings.note(
            tcti,
            format!("PIN indices whose token is in no store that this user can see: {list}"),
            "if no other user or system of this host has a token: `tpm11 doctor --remove-orphans`",
        );
        return;
    }
    // A store that cannot be read may have their tokens.
    if let Some(place) = home.places.iter().find(|place| tokens(place).is_none()) {
        findings.fail(
            Exit::Store,
            tcti,
            format!("{list} stay: {} cannot be read", place.directory.display()),
            "mend that store first",
        );
        return;
    }
    match home.tpm.remove_indices(&home.tpm.call(), &orphans, b"") {
        Ok(()) => findings.ok(tcti, format!("PIN indices removed: {list}")),
        Err(error) => findings.fail(
            Exit::Tpm,
            tcti,
            format!("PIN indices stay: {list}: {error}"),
            "with the owner's password: `tpm2_nvundefine -C owner -P PASSWORD INDEX`",
        ),
    }
}

fn tokens(place: &StorePlace) -> Option<Vec<TokenRow>> {
    place.store().and_then(|store| store.tokens()).ok()
}

/// The PIN indices of tokens in the usual places of the host's other users, as far as we may read them.
fn of_other_users(home: &Home) -> Vec<(PathBuf, Vec<u32>)> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut places: Vec<PathBuf> = users
        .lines()
        .filter_map(|line| line.split(':').nth(5))
        .map(|home| Path::new(home).join(".local/share/tpm11"))
        .collect();
    places.push("/var/lib/tpm11".into());
    places.sort();
    places.dedup();
    let ours = |path: &PathBuf| home.places.iter().any(|place| place.directory == *path);
    let options = store::Options { writable_wanted: false, ..store::Options::default() };
    let indices = |path: PathBuf| {
        if !path.join(store::FILE).exists() {
            return None;
        }
        let rows = Store::open(&path, &options).and_then(|store| store.tokens()).ok()?;
        Some((path, rows.iter().flat_map(status::indices_of).collect()))
    };
    places.into_iter().filter(|path| !ours(path)).filter_map(indices).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a device, on a host whose first TPM is of this version.
    fn of_device(tcti: &str, major: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let version = directory.path().join("tpm_version_major");
        fs::write(&version, major).unwrap();
        let mut findings = Findings::default();
        device(tcti, &version, &mut findings);
        findings.lines().join("\n")
    }

    #[test]
    fn a_device_is_looked_at_before_it_is_opened() {
        let nowhere = of_device("device:/nowhere/tpmrm0", "2\n");
        assert!(nowhere.starts_with("note") && nowhere.contains("No such file"), "{nowhere}");
        assert_eq!(nowhere.lines().count(), 1, "{nowhere}");
        let old = of_device("device:/nowhere/tpmrm0", "1\n");
        assert!(old.contains("FAIL") && old.contains("TPM 1.2"), "{old}");
        let file = of_device("device:/etc/passwd", "2\n");
        assert!(file.starts_with("warn") && file.contains("no character device"), "{file}");
        assert!(file.contains("-> name the TPM's device"), "{file}");
        let open = of_device("device:/dev/null", "2\n");
        assert!(open.contains("ok    device:/dev/null: /dev/null, mode 0666, group "), "{open}");
        assert!(
            open.contains("everybody may use") && open.contains("-> sudo chmod o-rw"),
            "{open}"
        );
        let other = of_device("swtpm:port=1", "2\n");
        assert!(other.starts_with("note") && other.contains("not a device"), "{other}");
        assert!(is_bare("/dev/tpm0") && is_bare("/dev/tpm1"));
        assert!(!is_bare("/dev/tpmrm0") && !is_bare("/tmp/tpm0"));
    }

    #[test]
    fn a_tpm_without_what_tokens_need_fails_and_one_that_is_old_warns() {
        let said = |lacks: &[u16], pin_indices: bool| {
            let all = [0x0001, 0x0005, 0x0006, 0x0008, 0x000B, 0x0018, 0x0019, 0x0023, 0x0043];
            let algorithms = all.into_iter().filter(|id| !lacks.contains(id)).collect();
            let facts = Facts { algorithms, pin_indices, ..Facts::default() };
            let mut findings = Findings::default();
            super::algorithms(&facts, "tpm", &mut findings);
            findings.lines().join("\n")
        };
        assert!(said(&[], true).starts_with("ok"));
        let old = said(&[], false);
        assert!(old.contains("warn") && old.contains("1.38"), "{old}");
        let less = said(&[0x0019], true);
        assert!(less.starts_with("note") && less.contains("lacks ECDH"), "{less}");
        let useless = said(&[0x0006, 0x0043], true);
        assert!(useless.starts_with("FAIL") && useless.contains("lacks AES, CFB"), "{useless}");
    }

    #[test]
    fn a_store_that_may_not_be_looked_at_is_not_called_missing() {
        let said = |kind: std::io::ErrorKind| {
            let mut findings = Findings(Vec::new());
            no_store("/store", &kind.into(), &mut findings);
            findings.0.len()
        };
        assert_eq!(said(std::io::ErrorKind::NotFound), 1);
        assert_eq!(said(std::io::ErrorKind::PermissionDenied), 0);
    }

    #[test]
    fn a_finding_is_one_line_and_the_exit_code_names_the_worst() {
        let mut findings = Findings::default();
        findings.ok("a", "fine\nforged");
        findings.note("b", "so", "do");
        assert_eq!(findings.lines(), ["ok    a: fine forged", "note  b: so  -> do"]);
        let code = |findings: &Findings| format!("{:?}", findings.exit());
        assert_eq!(code(&findings), format!("{:?}", ExitCode::SUCCESS));
        findings.warn("c", "hm", "");
        assert_eq!(code(&findings), format!("{:?}", ExitCode::from(1)));
        findings.fail(Exit::Token, "d", "locked", "unlock");
        findings.fail(Exit::Tpm, "e", "gone", "look");
        assert_eq!(code(&findings), format!("{:?}", ExitCode::from(4)));
    }

    #[test]
    fn firmware_is_named_by_the_versions_that_have_the_defect_and_no_others() {
        let facts = |maker: &str, parts: [u64; 4]| Facts {
            maker: maker.into(),
            firmware: parts.iter().fold(0, |all, part| all << 16 | part),
            ..Facts::default()
        };
        for (major, minor, bad) in [
            (4, 33, true),
            (4, 34, false),
            (4, 40, true),
            (7, 61, true),
            (7, 62, false),
            (7, 85, false),
        ] {
            assert_eq!(
                firmware(&facts("IFX", [major, minor, 0, 0])).is_some(),
                bad,
                "{major}.{minor}"
            );
        }
        assert!(firmware(&facts("INTC", [11, 8, 50, 3399])).is_some());
        assert!(firmware(&facts("INTC", [11, 8, 70, 1])).is_none());
        assert!(firmware(&facts("STM", [7, 61, 0, 0])).is_none());
    }
}
