//! What one test has to itself: a TPM, the shim in front of it, a store, a configuration.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::app::App;
use crate::shim::Shim;
use crate::spawn::spawn;
use crate::swtpm::Swtpm;

/// The security officer's PIN of [`Bench::token`].
pub const SO_PIN: &[u8] = b"officer-7351";
/// The user's PIN of [`Bench::token`].
pub const PIN: &[u8] = b"user-2468";
/// What [`Bench::trust`] calls a storage key.
pub const STORAGE_KEY: &str = "storage key";
/// The label of [`Bench::token`].
pub const LABEL: &str = "bench";

/// How a bench is to be, before it starts.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    managed: bool,
    without_startup: bool,
    tpm: String,
    rest: String,
}

impl Setup {
    /// The kernel's resource manager between module and TPM.
    pub fn managed(mut self) -> Setup {
        self.managed = true;
        self
    }

    /// Nobody has sent TPM2_Startup to the TPM.
    pub fn without_startup(mut self) -> Setup {
        self.without_startup = true;
        self
    }

    /// Further lines of `[[tpm]]` in tpm11.toml.
    pub fn tpm(mut self, lines: &str) -> Setup {
        self.tpm += &format!("{lines}\n");
        self
    }

    /// Further sections of tpm11.toml.
    pub fn config(mut self, lines: &str) -> Setup {
        self.rest += &format!("{lines}\n");
        self
    }

    /// Starts it.
    pub fn start(self) -> Bench {
        let directory = tempfile::Builder::new()
            .prefix("tpm11-bench-")
            .tempdir_in("/tmp")
            .expect("a directory below /tmp");
        let tpm =
            if self.without_startup { Swtpm::start_without_startup() } else { Swtpm::start() };
        let shim = Shim::start(&directory.path().join("tpm"), &tpm.socket(), self.managed)
            .expect("the shim listens");
        let bench = Bench {
            shim,
            tpm,
            directory,
            setup: self,
            apps: AtomicU32::new(0),
            further: Vec::new(),
        };
        bench.write_config();
        std::fs::create_dir(bench.runtime()).expect("a directory of our own");
        set_mode(&bench.runtime(), 0o700);
        bench
    }
}

/// One test's world. Everything in it ends and is removed when this is dropped, also by a panic.
#[derive(Debug)]
pub struct Bench {
    // In this order they are dropped: the wire, then the TPM, then the directory.
    /// The proxy that the module speaks to.
    pub shim: Shim,
    /// The TPM behind it.
    pub tpm: Swtpm,
    directory: tempfile::TempDir,
    setup: Setup,
    apps: AtomicU32,
    further: Vec<(&'static str, OsString)>,
}

impl Bench {
    /// A bare TPM, a new store, the default configuration.
    pub fn start() -> Bench {
        Setup::default().start()
    }

    /// A TPM behind the kernel's resource manager.
    pub fn managed() -> Bench {
        Setup::default().managed().start()
    }

    /// Further variables in the environment of every program from now on.
    pub fn add_to_environment(&mut self, further: Vec<(&'static str, OsString)>) {
        self.further.extend(further);
    }

    /// The directory of this test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The store's directory. It need not exist before the first write.
    pub fn store(&self) -> PathBuf {
        self.directory().join("store")
    }

    /// Makes the store one of a later version: another table, another column, a higher number.
    pub fn make_store_later(&self) {
        let store =
            rusqlite::Connection::open(self.store().join("tpm11.sqlite3")).expect("the store");
        let later = "CREATE TABLE later (x BLOB) STRICT; ALTER TABLE object ADD COLUMN later BLOB; \
                     PRAGMA user_version = 99;";
        store.execute_batch(later).expect("written");
    }

    /// Adds lines to the configuration that is there.
    pub fn configure_also(&self, lines: &str) {
        let mut file = OpenOptions::new().append(true).open(self.config()).expect("configuration");
        writeln!(file, "{lines}").expect("written");
    }

    /// The user's runtime directory, which exists.
    pub fn runtime(&self) -> PathBuf {
        self.directory().join("run")
    }

    /// The module's configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory().join("tpm11.toml")
    }

    /// The module's log, all processes together.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory().join("tpm11.log")
    }

    fn write_config(&self) {
        self.configure(&self.setup.tpm);
    }

    /// Writes the configuration anew with these further lines of `[[tpm]]`, for applications that call
    /// C_Initialize from now on.
    pub fn configure(&self, tpm: &str) {
        self.write(tpm, &self.setup.rest);
    }

    /// Writes the configuration anew with these sections beside `[[tpm]]`, for applications that call
    /// C_Initialize from now on.
    pub fn reconfigure(&self, rest: &str) {
        self.write(&self.setup.tpm, rest);
    }

    fn write(&self, tpm: &str, rest: &str) {
        let text = format!(
            "[[tpm]]\ntcti = \"{}\"\nresource_manager = {}\n{tpm}\n{rest}",
            self.shim.tcti(),
            self.setup.managed,
        );
        std::fs::write(self.config(), text).expect("the configuration is written");
    }

    /// The environment in which a program finds this TPM and this store.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("TPM11_CONFIG", self.config()),
            ("TPM11_STORE", self.store()),
            ("TPM11_LOG", PathBuf::from("info")),
            ("TPM11_LOG_FILE", self.log_path()),
        ]
    }

    /// A program in the environment of this bench: its home is the bench's directory, its language
    /// C, and nothing of the caller's own settings is seen.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["TPM11_", "TPM2", "TSS2", "SSH_", "XDG_", "OPENSSL_", "P11_", "LC_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        command
            .env("LANG", "C")
            .env("HOME", self.directory())
            .env("XDG_RUNTIME_DIR", self.runtime())
            .envs(self.environment())
            .envs(self.further.iter().cloned())
            .current_dir(self.directory())
            .stdin(Stdio::null());
        command
    }

    /// A tpm2-tools command at this TPM, through the shim's door, so that its commands are in the
    /// record.
    pub fn tpm2(&self, tool: &str) -> Command {
        let mut command = self.command(tool);
        let pipe = format!("cmd:{} pipe {}", program().display(), self.shim.socket().display());
        command.env("TPM2TOOLS_TCTI", pipe).env("TSS2_LOG", "all+NONE");
        command
    }

    /// The module in a place that every user can reach.
    pub fn module_for_all(&self) -> PathBuf {
        self.copy_for_all(&module())
    }

    fn copy_for_all(&self, file: &Path) -> PathBuf {
        let copy = self.directory().join(file.file_name().expect("it has a name"));
        if !copy.exists() {
            std::fs::copy(file, &copy).expect("a copy");
        }
        set_mode(&copy, 0o755);
        copy
    }

    /// Lets every user reach this bench's directory and its TPM. What the store lets them do, its
    /// own permissions say.
    pub fn open_to_all(&self) {
        set_mode(self.directory(), 0o755);
        set_mode(self.shim.socket(), 0o777);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path());
        log.expect("the log");
        set_mode(&self.log_path(), 0o666);
    }

    /// Makes a command run as the user nobody, if this process may: it is root. Says whether.
    pub fn as_nobody(&self, command: &mut Command) -> bool {
        let root = rustix::process::geteuid().is_root();
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        root
    }

    /// Gives a file or directory to the user nobody, if this process may.
    pub fn give_to_nobody(&self, path: &Path) {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
    }

    /// As [`Bench::app`], as the user nobody if this process is root.
    pub fn app_as_nobody(&self) -> App {
        let (program, module) = (self.copy_for_all(&program()), self.module_for_all());
        self.start_app(&program, &module, |command, socket| {
            set_mode(socket, 0o777);
            self.as_nobody(command);
        })
    }

    /// Starts an application that has loaded the module. It has called nothing yet.
    pub fn app(&self) -> App {
        self.app_with(|_| ())
    }

    /// As [`Bench::app`], its command changed before it starts: environment, user, limits.
    pub fn app_with(&self, change: impl FnOnce(&mut Command)) -> App {
        self.start_app(&program(), &module(), |command, _| change(command))
    }

    fn start_app(
        &self,
        program: &Path,
        module: &Path,
        change: impl FnOnce(&mut Command, &Path),
    ) -> App {
        let number = self.apps.fetch_add(1, Ordering::SeqCst);
        let socket = self.directory().join(format!("app{number}"));
        let output = self.directory().join(format!("app{number}.out"));
        let listener = UnixListener::bind(&socket).expect("a socket of this application");
        let noise = std::fs::File::create(&output).expect("a file for its output");
        let mut command = self.command(program);
        command
            .arg("work")
            .arg(module)
            .arg(&socket)
            .stdout(noise.try_clone().expect("a second descriptor"))
            .stderr(noise);
        change(&mut command, &socket);
        App::start(command, listener, output)
    }

    /// An application after C_Initialize.
    pub fn ready(&self) -> App {
        let app = self.app();
        app.initialize_with(cryptoki_sys::CKF_OS_LOCKING_OK).expect("C_Initialize");
        app
    }

    /// Makes the token [`LABEL`] with [`SO_PIN`] and [`PIN`], in a process of its own.
    pub fn token(&self) {
        self.token_named(LABEL);
    }

    /// Has the SO of [`LABEL`] trust the storage key of `other`'s token, or of this one's own, with the
    /// tool: what is left of it is the object [`STORAGE_KEY`].
    pub fn trust(&self, other: &Bench) {
        let run = |bench: &Bench, arguments: &[&str], input: Option<&Path>| {
            let mut command = bench.command(tool());
            command.args(arguments);
            if let Some(input) = input {
                command.stdin(std::fs::File::open(input).expect("a file for the PIN"));
            }
            let output = bench.run(command, Duration::from_secs(60));
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "tpm11 {arguments:?}: {why}");
            output.stdout
        };
        let area = run(other, &["trust", "storage-key"], None);
        let (file, pin) = (self.directory().join("storage-key"), self.directory().join("so-pin"));
        std::fs::write(&file, area).expect("a file for the storage key");
        std::fs::write(&pin, SO_PIN).expect("a file for the PIN");
        let file = file.to_str().expect("a path of letters");
        let add = ["trust", "add-storage-key", file, "--label", STORAGE_KEY, "--so-pin-fd", "0"];
        run(self, &add, Some(&pin));
        std::fs::remove_file(pin).expect("the PIN's file");
    }

    /// As [`Bench::token`], with another label.
    pub fn token_named(&self, label: &str) {
        let app = self.ready();
        let slot = app.empty_slot().expect("an empty slot");
        self.must("C_InitToken", app.init_token(slot, SO_PIN, label));
        let session = self.must("C_OpenSession", app.open(slot));
        self.must("C_Login(SO)", app.login_so(session, SO_PIN));
        self.must("C_InitPIN", app.init_pin(session, PIN));
        self.must("C_Finalize", app.finalize());
    }

    /// An application with a read-write session at the token [`LABEL`], the user logged in.
    pub fn logged_in(&self) -> (App, u64) {
        let app = self.ready();
        let slot = app.slot_of(LABEL).expect("the token");
        let session = self.must("C_OpenSession", app.open(slot));
        self.must("C_Login", app.login(session, PIN));
        (app, session)
    }

    /// The result of a call that must succeed.
    ///
    /// # Panics
    /// If it did not: with the module's log.
    pub fn must<T>(&self, what: &str, answer: crate::ck::Answer<T>) -> T {
        match answer {
            Ok(value) => value,
            Err(rv) => panic!("{what}: {rv:?}; the log:\n{}", self.log()),
        }
    }

    /// Runs a program to its end, at most `limit`, and returns what it wrote.
    ///
    /// # Panics
    /// If it cannot be started or does not end in time.
    pub fn run(&self, mut command: Command, limit: Duration) -> Output {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        run(command, limit)
    }
}

/// The user nobody, and its group.
const NOBODY: u32 = 65534;

/// chmod(2).
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// As [`Bench::run`], for any command whose output is piped.
pub fn run(command: Command, limit: Duration) -> Output {
    let shown = format!("{command:?}");
    let mut child = spawn(command).unwrap_or_else(|error| panic!("{error}"));
    let process = rustix::process::Pid::from_child(&child);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let late = ended.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
        late
    });
    let output = {
        // Both pipes at once, then the end.
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let errors = std::thread::spawn(move || read_all(stderr));
        let stdout = read_all(stdout);
        let stderr = errors.join().expect("the reader ends");
        let status = child.wait().expect("the child ends");
        Output { status, stdout, stderr }
    };
    let _ = done.send(());
    assert!(!watch.join().expect("the watch ends"), "no end within {limit:?}: {shown}");
    output
}

fn read_all(pipe: Option<impl std::io::Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// The directory in which cargo puts programs and libraries: `target/debug`.
fn target() -> PathBuf {
    let test = std::env::current_exe().expect("the test executable has a path");
    let directory = test.parent().expect("it lies in a directory");
    if directory.ends_with("deps") {
        directory.parent().expect("deps lies in one").to_owned()
    } else {
        directory.to_owned()
    }
}

/// The bench's own program.
pub fn program() -> PathBuf {
    let program = target().join("tpm11-bench");
    assert!(program.exists(), "{} is missing: cargo build --workspace", program.display());
    program
}

/// The module as it was last built.
///
/// # Panics
/// If it is missing, or older than its sources: a test must not pass on yesterday's module.
pub fn module() -> PathBuf {
    static MODULE: OnceLock<PathBuf> = OnceLock::new();
    MODULE.get_or_init(find_module).clone()
}

fn find_module() -> PathBuf {
    // A test run builds it into deps (the bench depends on the package), `cargo build` beside it.
    newest_of(&["libtpm11.so", "deps/libtpm11.so"], "libtpm11.d")
}

/// The command `tpm11` as it was last built.
///
/// # Panics
/// As [`module`].
pub fn tool() -> PathBuf {
    static TOOL: OnceLock<PathBuf> = OnceLock::new();
    TOOL.get_or_init(|| newest_of(&["tpm11"], "tpm11.d")).clone()
}

/// The newest of several files of one build, if it is newer than the sources that cargo lists in
/// `sources`.
fn newest_of(names: &[&str], sources: &str) -> PathBuf {
    let newest = names
        .iter()
        .map(|name| target().join(name))
        .filter_map(|path| modified(&path).map(|time| (time, path)))
        .max();
    let Some((built, path)) = newest else {
        panic!("{} is missing in {}: cargo build --workspace", names[0], target().display());
    };
    // `output: source source ...`
    let list = std::fs::read_to_string(target().join(sources)).unwrap_or_default();
    for source in list.split_whitespace().skip(1) {
        assert!(
            modified(Path::new(source)) <= Some(built),
            "{} is older than {source}: cargo build --workspace",
            path.display()
        );
    }
    path
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|found| found.modified()).ok()
}

/// Tries `job` until it is true, at most for `patience`.
pub fn wait_until(patience: Duration, mut job: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if job() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
