//! Configuration: `/etc/tpm11/tpm11.toml`, then `$XDG_CONFIG_HOME/tpm11/tpm11.toml`, then what the
//! environment says for one process. Every setting has a default that works with none of them; a
//! misspelt or impossible one is an error that names its file and line, never ignored.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// The administrator's file.
pub const SYSTEM_FILE: &str = "/etc/tpm11/tpm11.toml";

/// The administrator's store.
pub const SYSTEM_STORE: &str = "/var/lib/tpm11";

/// All settings, resolved. [`Config::default`] is what holds with no file and no environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
    /// The TPMs, each with the stores of its tokens. Never empty.
    pub tpm: Vec<TpmConfig>,
    /// `[store]`
    pub store: StoreConfig,
    /// `[pin]`
    pub pin: PinConfig,
    /// `[keys]`
    pub keys: KeysConfig,
    /// `[policy]`
    pub policy: PolicyConfig,
    /// `[process]`
    pub process: ProcessConfig,
    /// `[log]`
    pub log: LogConfig,
}

/// `[[tpm]]`: one TPM of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmConfig {
    /// Which TPM: a conf string as tpm2-tools writes it.
    pub tcti: String,
    /// Whether a resource manager is behind the conf string; `None` finds out by its kind.
    pub resource_manager: Option<bool>,
    /// When a signature goes without an HMAC session.
    pub bus_protection: BusProtection,
    /// What happens to the objects that a killed process left in a bare TPM.
    pub raw_leftovers: Leftovers,
    /// How long an idle connection, its session and its loaded keys are kept.
    pub linger: Duration,
    /// The limit of a TPM command that any chip answers at once.
    pub short_timeout: Duration,
    /// The limit of any other TPM command, but for the making of a key.
    pub command_timeout: Duration,
    /// The limit of a whole C_ call.
    pub call_timeout: Duration,
    /// The limit of a whole C_ call that makes a key.
    pub keygen_timeout: Duration,
    /// The directories of this TPM's tokens, first the one that C_InitToken writes to if it can.
    pub stores: Vec<PathBuf>,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// How long a write waits for another process's.
    pub busy_timeout: Duration,
    /// Show the empty slot that C_InitToken takes.
    pub empty_slot: bool,
    /// Open read/write sessions also where the store cannot be written.
    pub grant_read_write: bool,
}

/// `[pin]`: what C_InitToken gives a new token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinConfig {
    /// What counts wrong PINs.
    pub gate: GateChoice,
    /// Wrong PINs in a row before the TPM locks the role.
    pub limit: u32,
    /// PBKDF2-HMAC-SHA256 iterations.
    pub kdf_iterations: u32,
}

/// `[keys]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysConfig {
    /// Check every ECDSA signature in software before it is returned.
    pub verify_signatures: bool,
    /// Keys that no TPM works with (HMAC with SHA-3) are sealed in it; else there are none.
    pub sealed_keys: bool,
    /// Where AES keys live if the TPM does not encrypt.
    pub secret_keys: SecretKeys,
}

/// `[policy]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Which sequences of calls are prevented.
    pub api_attacks: ApiAttacks,
    /// Rules of `api_attacks` that do not hold, by their numbers.
    pub without: Vec<String>,
    /// What CKA_START_DATE and CKA_END_DATE do.
    pub dates: DatesChoice,
}

/// `[process]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    /// What a forked child finds.
    pub fork_mode: ForkMode,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Where lines go.
    pub target: LogTarget,
    /// A level, or a filter in env_logger's syntax.
    pub filter: String,
}

/// `bus_protection`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BusProtection {
    /// Every command in an HMAC session, but for a context gap.
    Always,
    /// No session in the hot path on firmware TPMs, which have no bus.
    Discrete,
    /// Every command in an HMAC session, even if a context gap makes that fail.
    Strict,
}

/// `raw_leftovers`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leftovers {
    /// Flush what nobody uses.
    Flush,
    /// Wait for its owner.
    Wait,
}

/// `gate`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateChoice {
    /// PIN indices in the TPM's NV memory, else dictionary-attack protection.
    Auto,
    /// PIN indices or nothing.
    Nv,
    /// Dictionary-attack protection.
    Da,
}

/// `secret_keys`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretKeys {
    /// In the TPM, or there are none.
    Tpm,
    /// Sealed by a TPM that cannot encrypt, unsealed for each use.
    Sealed,
}

/// `api_attacks`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiAttacks {
    /// Every rule holds.
    Prevent,
    /// What the specification demands, and what costs no client anything.
    Standard,
}

/// `dates`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatesChoice {
    /// They say something.
    Inform,
    /// Keys are used between them alone.
    Enforce,
}

/// `fork_mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForkMode {
    /// The child must call C_Initialize.
    Strict,
    /// The child goes on with its parent's sessions, handles and logins.
    Resume,
}

/// Where log lines go. Never to standard output or standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// The datagram socket `/dev/log`.
    Syslog,
    /// systemd-journald's own socket.
    Journald,
    /// A file, appended to.
    File(PathBuf),
    /// Nowhere.
    None,
}

/// Why the configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, or the environment variable.
    pub place: String,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// What is wrong and what is allowed.
    pub what: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.place, self.what),
            None => write!(f, "{}: {}", self.place, self.what),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let home = Environment::default();
        resolve(Vec::new(), File::default(), &home).unwrap_or_else(|_| unreachable_default())
    }
}

/// [`resolve`] refuses only combinations of settings that somebody wrote; nobody wrote any here.
fn unreachable_default() -> Config {
    Config {
        files: Vec::new(),
        tpm: Vec::new(),
        store: StoreConfig {
            busy_timeout: Duration::from_secs(10),
            empty_slot: true,
            grant_read_write: false,
        },
        pin: PinConfig { gate: GateChoice::Auto, limit: 8, kdf_iterations: 10_000 },
        keys: KeysConfig {
            verify_signatures: false,
            sealed_keys: false,
            secret_keys: SecretKeys::Tpm,
        },
        policy: PolicyConfig {
            api_attacks: ApiAttacks::Prevent,
            without: Vec::new(),
            dates: DatesChoice::Inform,
        },
        process: ProcessConfig { fork_mode: ForkMode::Strict },
        log: LogConfig { target: LogTarget::Syslog, filter: "warn".into() },
    }
}

impl Config {
    /// Reads the files and, once, the environment. `secure` is AT_SECURE of the process's auxiliary
    /// vector: the caller of a set-uid program must not choose its TPM, store or log.
    ///
    /// # Errors
    /// The first file that cannot be read or says something that cannot be, or a combination that
    /// makes no sense. A file that does not exist is no error, unless `TPM11_CONFIG` names it.
    pub fn load(secure: bool) -> Result<Self, ConfigError> {
        let environment = if secure { Environment::default() } else { Environment::of_process() };
        Self::from_environment(&environment)
    }

    /// Where the log goes when the configuration cannot be used: what the environment says, if that is
    /// not the mistake, else the default. Somebody must be told.
    pub fn log_of_environment(secure: bool) -> LogConfig {
        let environment = if secure { Environment::default() } else { Environment::of_process() };
        let log_alone = Environment {
            log: environment.log,
            log_file: environment.log_file,
            ..Environment::default()
        };
        resolve(Vec::new(), File::default(), &log_alone).unwrap_or_default().log
    }

    /// The same for an environment that the caller describes.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let (candidates, must_exist) = match &environment.config {
            Some(file) => (vec![file.clone()], true),
            None => (
                [Some(PathBuf::from(SYSTEM_FILE)), environment.user_file()]
                    .into_iter()
                    .flatten()
                    .collect(),
                false,
            ),
        };
        let mut files = Vec::new();
        let mut merged = File::default();
        for path in candidates {
            match fs::read_to_string(&path) {
                Ok(text) => {
                    merged = merged.overlaid(parse(&path, &text)?);
                    files.push(path);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {}
                // A home that this process may not enter has no settings for it.
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied
                        && Some(&path) == environment.user_file().as_ref() => {}
                Err(error) => {
                    return Err(ConfigError {
                        place: path.display().to_string(),
                        line: None,
                        what: format!("cannot be read: {error}"),
                    });
                }
            }
        }
        resolve(files, merged, environment)
    }
}

/// What the environment says; empty in a set-uid process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `TPM11_CONFIG`: this file instead of both.
    pub config: Option<PathBuf>,
    /// `TPM11_TCTI`: the only TPM.
    pub tcti: Option<String>,
    /// `TPM11_STORE`: the only store.
    pub store: Option<PathBuf>,
    /// `TPM11_LOG`: the filter.
    pub log: Option<String>,
    /// `TPM11_LOG_FILE`: the target.
    pub log_file: Option<PathBuf>,
    /// `HOME`
    pub home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`
    pub config_home: Option<PathBuf>,
    /// `XDG_DATA_HOME`
    pub data_home: Option<PathBuf>,
}

impl Environment {
    /// This process's environment. A host may call setenv at any time, so it is read in
    /// C_Initialize and nowhere else.
    pub fn of_process() -> Self {
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let absolute = |name| path(name).filter(|path| path.is_absolute());
        Self {
            config: path("TPM11_CONFIG"),
            tcti: text("TPM11_TCTI"),
            store: path("TPM11_STORE"),
            log: text("TPM11_LOG"),
            log_file: path("TPM11_LOG_FILE"),
            home: absolute("HOME"),
            config_home: absolute("XDG_CONFIG_HOME"),
            data_home: absolute("XDG_DATA_HOME"),
        }
    }

    /// The user's configuration file, if there is a home.
    pub fn user_file(&self) -> Option<PathBuf> {
        let home = self.home.as_ref().map(|home| home.join(".config"));
        self.config_home.clone().or(home).map(|base| base.join("tpm11/tpm11.toml"))
    }

    /// The user's store, if there is a home.
    pub fn user_store(&self) -> Option<PathBuf> {
        let home = self.home.as_ref().map(|home| home.join(".local/share"));
        self.data_home.clone().or(home).map(|base| base.join("tpm11"))
    }
}

// ---- the file as it is written: everything optional, everything checked where it stands ---------

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tpm: Option<Vec<TpmTable>>,
    #[serde(default)]
    store: StoreTable,
    #[serde(default)]
    pin: PinTable,
    #[serde(default)]
    keys: KeysTable,
    #[serde(default)]
    policy: PolicyTable,
    #[serde(default)]
    process: ProcessTable,
    #[serde(default)]
    log: LogTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TpmTable {
    #[serde(default, deserialize_with = "tcti")]
    tcti: Option<String>,
    #[serde(default, deserialize_with = "auto_or_bool")]
    resource_manager: Option<Option<bool>>,
    bus_protection: Option<BusProtection>,
    raw_leftovers: Option<Leftovers>,
    #[serde(default, deserialize_with = "number::<_, 0, 3_600_000>")]
    linger_ms: Option<u64>,
    #[serde(default, deserialize_with = "seconds")]
    short_timeout_s: Option<Duration>,
    #[serde(default, deserialize_with = "seconds")]
    command_timeout_s: Option<Duration>,
    #[serde(default, deserialize_with = "seconds")]
    call_timeout_s: Option<Duration>,
    #[serde(default, deserialize_with = "seconds")]
    keygen_timeout_s: Option<Duration>,
    #[serde(default, deserialize_with = "absolute_paths")]
    stores: Option<Vec<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreTable {
    #[serde(default, deserialize_with = "absolute_paths")]
    paths: Option<Vec<PathBuf>>,
    #[serde(default, deserialize_with = "number::<_, 0, 600_000>")]
    busy_timeout_ms: Option<u64>,
    empty_slot: Option<bool>,
    grant_read_write: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinTable {
    gate: Option<GateChoice>,
    #[serde(default, deserialize_with = "number::<_, 1, 1_000>")]
    limit: Option<u64>,
    #[serde(default, deserialize_with = "number::<_, 1_000, 10_000_000>")]
    kdf_iterations: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysTable {
    verify_signatures: Option<bool>,
    sealed_keys: Option<bool>,
    secret_keys: Option<SecretKeys>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyTable {
    api_attacks: Option<ApiAttacks>,
    #[serde(default, deserialize_with = "rule_numbers")]
    without: Option<Vec<String>>,
    dates: Option<DatesChoice>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessTable {
    fork_mode: Option<ForkMode>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogTable {
    target: Option<LogTargetName>,
    #[serde(default, deserialize_with = "absolute_path")]
    file: Option<PathBuf>,
    #[serde(default, deserialize_with = "filter")]
    level: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LogTargetName {
    Syslog,
    Journald,
    File,
    None,
}

impl File {
    /// `over` on top of `self`, setting by setting; a list of TPMs replaces a list of TPMs.
    fn overlaid(self, over: Self) -> Self {
        Self {
            tpm: over.tpm.or(self.tpm),
            store: StoreTable {
                paths: over.store.paths.or(self.store.paths),
                busy_timeout_ms: over.store.busy_timeout_ms.or(self.store.busy_timeout_ms),
                empty_slot: over.store.empty_slot.or(self.store.empty_slot),
                grant_read_write: over.store.grant_read_write.or(self.store.grant_read_write),
            },
            pin: PinTable {
                gate: over.pin.gate.or(self.pin.gate),
                limit: over.pin.limit.or(self.pin.limit),
                kdf_iterations: over.pin.kdf_iterations.or(self.pin.kdf_iterations),
            },
            keys: KeysTable {
                verify_signatures: over.keys.verify_signatures.or(self.keys.verify_signatures),
                sealed_keys: over.keys.sealed_keys.or(self.keys.sealed_keys),
                secret_keys: over.keys.secret_keys.or(self.keys.secret_keys),
            },
            policy: PolicyTable {
                api_attacks: over.policy.api_attacks.or(self.policy.api_attacks),
                without: over.policy.without.or(self.policy.without),
                dates: over.policy.dates.or(self.policy.dates),
            },
            process: ProcessTable { fork_mode: over.process.fork_mode.or(self.process.fork_mode) },
            log: LogTable {
                target: over.log.target.or(self.log.target),
                file: over.log.file.or(self.log.file),
                level: over.log.level.or(self.log.level),
            },
        }
    }
}

/// Parses one file; an error names the line.
fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError {
        place: path.display().to_string(),
        line: error.span().map(|span| {
            let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
            before.iter().filter(|&&byte| byte == b'\n').count() + 1
        }),
        what: error.message().trim_end().replace('\n', "; "),
    })
}

/// Defaults below the file's settings, the environment above them.
fn resolve(
    files: Vec<PathBuf>,
    file: File,
    environment: &Environment,
) -> Result<Config, ConfigError> {
    let shared_stores = match &environment.store {
        Some(only) => vec![only.clone()],
        None => file.store.paths.unwrap_or_else(|| {
            [Some(PathBuf::from(SYSTEM_STORE)), environment.user_store()]
                .into_iter()
                .flatten()
                .collect()
        }),
    };
    let mut tables = file.tpm.unwrap_or_else(|| vec![TpmTable::default()]);
    if let Some(tcti) = &environment.tcti {
        check_tcti(tcti).map_err(|what| ConfigError {
            place: "TPM11_TCTI".into(),
            line: None,
            what: what.into(),
        })?;
        tables.truncate(1);
        if tables.is_empty() {
            tables.push(TpmTable::default());
        }
        for table in &mut tables {
            table.tcti = Some(tcti.clone());
        }
    }
    let place = || files.last().map_or_else(|| SYSTEM_FILE.into(), |p| p.display().to_string());
    if tables.is_empty() {
        return Err(ConfigError {
            place: place(),
            line: None,
            what: "`tpm = []` leaves no TPM; remove the line or name one".into(),
        });
    }
    let several = tables.len() > 1;
    let mut tpm = Vec::new();
    for table in tables {
        let stores = match (table.stores, &environment.store) {
            (Some(own), None) => own,
            (None, None) if several => {
                return Err(ConfigError {
                    place: place(),
                    line: None,
                    what: "several [[tpm]] need each its own `stores`, so that it is known which \
                           TPM a token belongs to"
                        .into(),
                });
            }
            _ => shared_stores.clone(),
        };
        tpm.push(TpmConfig {
            tcti: table.tcti.unwrap_or_else(|| "device:/dev/tpmrm0".into()),
            resource_manager: table.resource_manager.flatten(),
            bus_protection: table.bus_protection.unwrap_or(BusProtection::Always),
            raw_leftovers: table.raw_leftovers.unwrap_or(Leftovers::Flush),
            linger: Duration::from_millis(table.linger_ms.unwrap_or(200)),
            short_timeout: table.short_timeout_s.unwrap_or(Duration::from_secs(5)),
            command_timeout: table.command_timeout_s.unwrap_or(Duration::from_secs(30)),
            call_timeout: table.call_timeout_s.unwrap_or(Duration::from_secs(60)),
            keygen_timeout: table.keygen_timeout_s.unwrap_or(Duration::from_secs(300)),
            stores,
        });
    }
    let target = match (&environment.log_file, file.log.target, file.log.file) {
        (Some(path), _, _) => LogTarget::File(path.clone()),
        (None, Some(LogTargetName::File) | None, Some(path)) => LogTarget::File(path),
        (None, Some(LogTargetName::File), None) => {
            return Err(ConfigError {
                place: place(),
                line: None,
                what: "[log] target = \"file\" needs `file`, an absolute path".into(),
            });
        }
        (None, Some(LogTargetName::Journald), _) => LogTarget::Journald,
        (None, Some(LogTargetName::None), _) => LogTarget::None,
        (None, Some(LogTargetName::Syslog) | None, _) => LogTarget::Syslog,
    };
    let narrow = |value: Option<u64>, default| {
        value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default)
    };
    Ok(Config {
        tpm,
        store: StoreConfig {
            busy_timeout: Duration::from_millis(file.store.busy_timeout_ms.unwrap_or(10_000)),
            empty_slot: file.store.empty_slot.unwrap_or(true),
            grant_read_write: file.store.grant_read_write.unwrap_or(false),
        },
        pin: PinConfig {
            gate: file.pin.gate.unwrap_or(GateChoice::Auto),
            limit: narrow(file.pin.limit, 8),
            kdf_iterations: narrow(file.pin.kdf_iterations, 10_000),
        },
        keys: KeysConfig {
            verify_signatures: file.keys.verify_signatures.unwrap_or(false),
            sealed_keys: file.keys.sealed_keys.unwrap_or(false),
            secret_keys: file.keys.secret_keys.unwrap_or(SecretKeys::Tpm),
        },
        policy: PolicyConfig {
            api_attacks: file.policy.api_attacks.unwrap_or(ApiAttacks::Prevent),
            without: file.policy.without.unwrap_or_default(),
            dates: file.policy.dates.unwrap_or(DatesChoice::Inform),
        },
        process: ProcessConfig { fork_mode: file.process.fork_mode.unwrap_or(ForkMode::Strict) },
        log: LogConfig {
            target,
            filter: environment.log.clone().or(file.log.level).unwrap_or_else(|| "warn".into()),
        },
        files,
    })
}

/// A whole number between two bounds, refused where it stands if outside.
fn number<'de, D: Deserializer<'de>, const LEAST: u64, const MOST: u64>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    let value = i64::deserialize(deserializer)?;
    u64::try_from(value)
        .ok()
        .filter(|value| (LEAST..=MOST).contains(value))
        .map(Some)
        .ok_or_else(|| D::Error::custom(format!("{value} is not between {LEAST} and {MOST}")))
}

/// Seconds, decimals allowed, from 0.1 to 3600.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Whole(i64),
        Decimal(f64),
    }
    let value = match Value::deserialize(deserializer) {
        Ok(Value::Whole(value)) => value as f64,
        Ok(Value::Decimal(value)) => value,
        Err(_) => return Err(D::Error::custom("expected seconds")),
    };
    if !(0.1..=3600.0).contains(&value) {
        return Err(D::Error::custom(format!("{value} is not between 0.1 and 3600")));
    }
    Ok(Some(Duration::from_secs_f64(value)))
}

fn auto_or_bool<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<bool>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Bool(bool),
        Text(String),
    }
    match Value::deserialize(deserializer) {
        Ok(Value::Bool(value)) => Ok(Some(Some(value))),
        Ok(Value::Text(text)) if text == "auto" => Ok(Some(None)),
        _ => Err(D::Error::custom("expected \"auto\", true or false")),
    }
}

fn tcti<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    check_tcti(&text).map_err(D::Error::custom)?;
    Ok(Some(text))
}

/// Any loader's name may stand before the colon, so only what no loader can take is refused.
fn check_tcti(text: &str) -> Result<(), &'static str> {
    let kind = text.split(':').next().unwrap_or_default();
    if kind.is_empty() || text.contains('\0') {
        return Err("expected a TCTI conf string such as \"device:/dev/tpmrm0\" or \
                    \"swtpm:host=127.0.0.1,port=2321\"");
    }
    Ok(())
}

fn absolute_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.is_absolute() {
        return Ok(Some(path));
    }
    Err(D::Error::custom(format!("\"{}\" is not an absolute path", path.display())))
}

fn absolute_paths<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<PathBuf>>, D::Error> {
    let paths = Vec::<PathBuf>::deserialize(deserializer)?;
    match paths.iter().find(|path| !path.is_absolute()) {
        None if paths.is_empty() => Err(D::Error::custom("expected at least one directory")),
        None => Ok(Some(paths)),
        Some(path) => {
            Err(D::Error::custom(format!("\"{}\" is not an absolute path", path.display())))
        }
    }
}

/// P1 to P15 but for P14, which holds because there is nothing that it could allow.
fn rule_numbers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    let numbers = Vec::<String>::deserialize(deserializer)?;
    let known = |number: &str| {
        number.strip_prefix('P').and_then(|digits| digits.parse().ok()).is_some_and(|parsed: u8| {
            (1..=15).contains(&parsed) && parsed != 14 && format!("P{parsed}") == number
        })
    };
    match numbers.iter().find(|number| !known(number)) {
        None => Ok(Some(numbers)),
        Some(other) => Err(D::Error::custom(format!(
            "\"{other}\" is no rule that can be left out: \"P1\" to \"P13\" and \"P15\""
        ))),
    }
}

fn filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    // A lone word that is no level would be a filter for a module that does not exist.
    let level_or_module =
        text.contains(['=', ',', ':', '/']) || text.parse::<LevelFilter>().is_ok();
    match env_filter::Builder::new().try_parse(&text) {
        Ok(_) if level_or_module => Ok(Some(text)),
        _ => Err(D::Error::custom(
            "expected \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../config/tpm11.toml");

    fn load(text: &str) -> Result<Config, ConfigError> {
        let environment = Environment::default();
        resolve(vec!["t.toml".into()], parse(Path::new("t.toml"), text)?, &environment)
    }

    #[test]
    fn the_shipped_file_shows_every_default_and_changes_nothing() {
        let uncommented: String = SHIPPED
            .lines()
            .map(|line| {
                let setting = line
                    .strip_prefix('#')
                    .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
                format!("{}\n", setting.unwrap_or(line))
            })
            .collect();
        // Two defaults depend on the user: the file shows the system's half of them.
        let shown = load(&uncommented).unwrap();
        let default = Config { files: shown.files.clone(), ..Config::default() };
        assert_eq!(shown, default);
        for name in [
            "tcti",
            "resource_manager",
            "bus_protection",
            "raw_leftovers",
            "linger_ms",
            "short_timeout_s",
            "command_timeout_s",
            "call_timeout_s",
            "keygen_timeout_s",
            "stores",
            "paths",
            "busy_timeout_ms",
            "empty_slot",
            "grant_read_write",
            "gate",
            "limit",
            "kdf_iterations",
            "verify_signatures",
            "sealed_keys",
            "secret_keys",
            "api_attacks",
            "without",
            "dates",
            "fork_mode",
            "target",
            "file",
            "level",
        ] {
            assert!(SHIPPED.contains(&format!("#{name} = ")), "{name} is not shown");
        }
    }

    #[test]
    fn the_shipped_file_as_it_stands_is_the_default() {
        let default = Config { files: vec!["t.toml".into()], ..Config::default() };
        assert_eq!(load(SHIPPED).unwrap(), default);
    }

    #[test]
    fn a_misspelt_setting_is_refused_with_its_line_and_what_is_allowed() {
        let error = load("[pin]\nlimit = 3\nlimmit = 4\n").unwrap_err();
        assert_eq!(error.line, Some(3));
        assert!(error.to_string().starts_with("t.toml:3: unknown field `limmit`"), "{error}");
        assert!(error.what.contains("`kdf_iterations`"), "{error}");
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_with_its_line_and_the_bounds() {
        let error = load("[pin]\n\nkdf_iterations = 999\n").unwrap_err();
        assert_eq!(error.to_string(), "t.toml:3: 999 is not between 1000 and 10000000");
        assert!(load("[[tpm]]\nlinger_ms = -1\n").unwrap_err().what.contains("between 0"));
        assert!(load("[[tpm]]\ncall_timeout_s = 0.05\n").unwrap_err().what.contains("0.1 and"));
        assert!(load("[[tpm]]\ncall_timeout_s = \"1\"\n").unwrap_err().what.contains("seconds"));
        assert!(load("[log]\nlevel = \"loud\"\n").unwrap_err().what.contains("\"trace\""));
        assert!(load("[store]\npaths = [\"here\"]\n").unwrap_err().what.contains("absolute"));
        assert!(load("[[tpm]]\nresource_manager = 3\n").unwrap_err().what.contains("\"auto\""));
        assert!(load("[log]\ntarget = \"stderr\"\n").unwrap_err().what.contains("`syslog`"));
    }

    #[test]
    fn the_fork_mode_is_strict_unless_it_is_said_to_be_resume() {
        let mode = |text| load(text).map(|config| config.process.fork_mode);
        assert_eq!(mode(""), Ok(ForkMode::Strict));
        assert_eq!(mode("[process]\nfork_mode = \"resume\"\n"), Ok(ForkMode::Resume));
        assert!(mode("[process]\nfork_mode = \"retry\"\n").unwrap_err().what.contains("`resume`"));
    }

    #[test]
    fn only_rules_that_exist_can_be_left_out() {
        let config = load("[policy]\nwithout = [\"P7\", \"P15\"]\n").unwrap();
        assert_eq!(config.policy.without, ["P7", "P15"]);
        for wrong in ["P14", "P0", "P16", "P07", "7", "WRAP"] {
            let error = load(&format!("[policy]\nwithout = [\"{wrong}\"]\n")).unwrap_err();
            assert!(error.what.contains(wrong) && error.what.contains("P13"), "{error}");
        }
    }

    #[test]
    fn text_that_is_no_toml_is_refused_with_its_line() {
        assert_eq!(load("[pin]\nlimit = = 3\n").unwrap_err().line, Some(2));
    }

    #[test]
    fn the_users_file_overrides_the_systems_setting_by_setting() {
        let system = parse(Path::new("s"), "[pin]\nlimit = 3\ngate = \"nv\"\n").unwrap();
        let user = parse(Path::new("u"), "[pin]\nlimit = 5\n").unwrap();
        let environment = Environment::default();
        let config = resolve(Vec::new(), system.overlaid(user), &environment).unwrap();
        assert_eq!((config.pin.limit, config.pin.gate), (5, GateChoice::Nv));
    }

    #[test]
    fn the_environment_names_one_tpm_and_one_store() {
        let environment = Environment {
            tcti: Some("swtpm:path=/run/x".into()),
            store: Some("/s".into()),
            log_file: Some("/l".into()),
            home: Some("/home/u".into()),
            ..Environment::default()
        };
        let file = parse(
            Path::new("t"),
            "[[tpm]]\nlinger_ms = 7\nstores = [\"/a\"]\n[[tpm]]\nstores = [\"/b\"]\n",
        )
        .unwrap();
        let config = resolve(Vec::new(), file, &environment).unwrap();
        assert_eq!(config.tpm.len(), 1);
        assert_eq!(config.tpm[0].tcti, "swtpm:path=/run/x");
        assert_eq!(config.tpm[0].linger, Duration::from_millis(7));
        assert_eq!(config.tpm[0].stores, [PathBuf::from("/s")]);
        assert_eq!(config.log.target, LogTarget::File("/l".into()));
    }

    #[test]
    fn several_tpms_need_each_its_own_stores() {
        let error = load("[[tpm]]\n[[tpm]]\ntcti = \"device:/dev/tpmrm1\"\n").unwrap_err();
        assert!(error.what.contains("stores"), "{error}");
    }

    #[test]
    fn system_and_user_store_are_both_shown() {
        let environment = Environment { home: Some("/home/u".into()), ..Environment::default() };
        let config = resolve(Vec::new(), File::default(), &environment).unwrap();
        let expected = [PathBuf::from(SYSTEM_STORE), "/home/u/.local/share/tpm11".into()];
        assert_eq!(config.tpm[0].stores, expected);
    }
}
