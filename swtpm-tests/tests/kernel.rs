//! The default transport on a real kernel: Debian's own, booted in qemu with swtpm as its TPM.
//!
//! The kernel's TPM drivers are built in, so an initramfs of busybox, the module, a test program and
//! the libraries of both is a whole system. `scripts/test` unpacks the kernel to `target/kernel`.
//! Where qemu or the kernel cannot be had the test says so; with CI set that is a failure.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use swtpm_tests::bench::{PIN, module, program, run};
use swtpm_tests::spawn::Guarded;
use swtpm_tests::wire;

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox ip link set lo up 2>/dev/null
export TPM11_CONFIG=/tpm11.toml TPM11_STORE=/store TPM11_LOG_FILE=/log
/bin/tpm11-guest /lib/libtpm11.so 2>&1
/bin/busybox sed 's/^/log: /' /log
/bin/busybox poweroff -f
";

/// The lease must outlast the slowest emulated step between two calls.
const CONFIG: &str = "[[tpm]]\nlinger_ms = 60000\n[log]\nlevel = \"info\"\n";

/// What the chip may execute; see docs/ARCHITECTURE.md.
const COLD: usize = 43;
const WARM: usize = 6;

#[test]
fn a_real_kernels_resource_manager_serves_every_kind_of_key_at_the_counted_cost() {
    let Some(kernel) = kernel() else {
        let ci = std::env::var_os("CI").is_some();
        assert!(!ci, "no kernel in target/kernel, or no qemu: scripts/test installs both");
        eprintln!("SKIPPED: no kernel in target/kernel, or no qemu (scripts/test installs both)");
        return;
    };
    let directory = tempfile::Builder::new().prefix("tpm11-kernel-").tempdir_in("/tmp").unwrap();
    let image = initramfs(directory.path());
    let control = directory.path().join("control");
    let log = directory.path().join("swtpm.log");
    let mut swtpm = Command::new("swtpm");
    swtpm
        .args(["socket", "--tpm2", "--tpmstate"])
        .arg(format!("dir={}", directory.path().display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", control.display()))
        .arg("--log")
        .arg(format!("level=2,file={}", log.display()))
        .stdin(Stdio::null());
    let _swtpm = Guarded::start(swtpm).expect("swtpm is installed (scripts/test)");
    assert!(swtpm_tests::bench::wait_until(Duration::from_secs(20), || control.exists()));

    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "q35", "-m", "512", "-nographic", "-no-reboot", "-nodefaults"])
        .args(["-serial", "stdio", "-append", "console=ttyS0 quiet loglevel=0 panic=-1"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .arg("-chardev")
        .arg(format!("socket,id=control,path={}", control.display()))
        .args(["-tpmdev", "emulator,id=tpm,chardev=control", "-device", "tpm-crb,tpmdev=tpm"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = run(qemu, Duration::from_secs(300));
    let console = String::from_utf8_lossy(&output.stdout);
    let said = |name: &str| {
        let word = format!("tpm11-guest: {name}");
        // The kernel may have begun the line with a message of its own.
        console.lines().find_map(|line| line.split_once(&word).map(|(_, value)| value.trim()))
    };
    assert!(said("done").is_some(), "{console}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said("side-by-side"), Some("1"));
    assert_eq!(said("crowd"), Some("6"), "six processes in one store\n{console}");
    assert_eq!(said("forks"), Some("3"), "three forked children beside their parent\n{console}");
    assert_eq!(said("bare-device"), Some("1"), "two processes in turn on /dev/tpm0");
    for kind in ["left-transient", "left-loaded", "left-saved"] {
        assert_eq!(said(kind), Some("0"), "{kind}: nothing of ours stays in the TPM");
    }
    assert!(!console.contains(std::str::from_utf8(PIN).unwrap()), "no PIN in the log");

    let steps = Steps::of(&fs::read_to_string(&log).expect("swtpm writes its log"));
    let (cold, warm, turn) = (steps.between(1, 2), steps.between(3, 4), steps.between(5, 6));
    println!("executed: cold {cold}, 10 warm signatures {warm}, 32 in turn over 16 keys {turn}");
    assert!(cold <= COLD, "cold process to first signature and end: {cold} > {COLD}");
    assert_eq!(warm, 10 * WARM, "a warm signature and what the kernel does around it");
    assert_eq!(turn, 32 * WARM, "sixteen keys in turn cost what one does");
}

/// Debian's kernel and an emulator, if both are here.
fn kernel() -> Option<PathBuf> {
    Command::new("qemu-system-x86_64").arg("--version").output().ok()?;
    let kernels = program().parent()?.parent()?.join("kernel/boot");
    let mut found = fs::read_dir(kernels).ok()?.flatten().map(|entry| entry.path());
    found.find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    })
}

/// A root file system, as a newc archive.
fn initramfs(directory: &Path) -> PathBuf {
    let root = directory.join("root");
    for folder in ["bin", "lib", "dev", "proc", "sys", "tmp", "store"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::set_permissions(root.join("store"), fs::Permissions::from_mode(0o700)).unwrap();
    let guest = program().with_file_name("tpm11-guest");
    put(Path::new("/bin/busybox"), &root.join("bin/busybox"));
    put(&guest, &root.join("bin/tpm11-guest"));
    put(&module(), &root.join("lib/libtpm11.so"));
    for library in libraries(&guest).into_iter().chain(libraries(&module())) {
        let place = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        put(&library, &place);
        // The loader looks in /lib, wherever the distribution keeps its libraries.
        let _ = symlink(&library, root.join("lib").join(library.file_name().unwrap()));
    }
    fs::write(root.join("tpm11.toml"), CONFIG).unwrap();
    fs::write(root.join("init"), INIT).unwrap();
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    let image = directory.join("initramfs");
    let status = Command::new("sh")
        .arg("-c")
        .arg("find . | cpio --quiet -o -H newc > ../initramfs")
        .current_dir(&root)
        .status()
        .expect("a shell");
    assert!(status.success(), "cpio is installed (scripts/test)");
    image
}

fn put(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

/// The shared libraries that a program needs, as the loader finds them here.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// The commands in swtpm's log, in order.
struct Steps(Vec<Vec<u8>>);

impl Steps {
    fn of(log: &str) -> Steps {
        let mut commands = Vec::new();
        let mut reading = false;
        for line in log.lines() {
            if line.contains("SWTPM_IO_Read") {
                commands.push(Vec::new());
                reading = true;
            } else if line.starts_with(' ') && line.trim_start().chars().all(is_dump) {
                if let (true, Some(command)) = (reading, commands.last_mut()) {
                    let bytes =
                        line.split_whitespace().filter_map(|b| u8::from_str_radix(b, 16).ok());
                    command.extend(bytes);
                }
            } else {
                reading = false;
            }
        }
        Steps(commands)
    }

    /// How many commands lie between two marks of the guest.
    fn between(&self, first: u32, last: u32) -> usize {
        let place = |number: u32| {
            let mark = wire::get_capability(6, 0x0BEE_0000 + number, 1);
            self.0
                .iter()
                .position(|command| command == &mark)
                .unwrap_or_else(|| panic!("no mark {number} among {} commands", self.0.len()))
        };
        place(last) - place(first) - 1
    }
}

fn is_dump(character: char) -> bool {
    character.is_ascii_hexdigit() || character == ' '
}
