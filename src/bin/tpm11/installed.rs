//! Whether programs find the module: where it is installed, p11-kit's registration, ssh-agent's list of
//! allowed providers.

use std::fs;
use std::path::{Path, PathBuf};

use crate::doctor::Findings;

const MODULE: &str = "libtpm11.so";

/// Directories of libraries, below `root`; each may have subdirectories of an architecture.
const LIBRARIES: [&str; 6] =
    ["usr/lib", "usr/lib64", "usr/lib32", "usr/local/lib", "usr/local/lib64", "opt"];
/// Where p11-kit reads its modules' files; the user's own come after these.
const REGISTRIES: [&str; 4] = [
    "etc/pkcs11/modules",
    "usr/share/p11-kit/modules",
    "usr/local/share/p11-kit/modules",
    "usr/local/etc/pkcs11/modules",
];

/// Looks at all of it below `root`, which is `/`; `home` is the user's own directory.
pub(crate) fn look(root: &Path, home: Option<&Path>, findings: &mut Findings) {
    let copies = copies(root);
    installed(root, &copies, findings);
    registered(root, home, &copies, findings);
}

/// The files called as our module, at most two directories below those of libraries.
fn copies(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in LIBRARIES.map(|place| root.join(place)) {
        // Links between these directories (usr-merge) would show everything twice.
        if fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
            search(&place, 2, &mut found);
        }
    }
    found.sort();
    found
}

fn search(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let module = directory.join(MODULE);
    if fs::symlink_metadata(&module).is_ok() {
        found.push(module);
    }
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            search(&entry.path(), depth - 1, found);
        }
    }
}

fn installed(root: &Path, copies: &[PathBuf], findings: &mut Findings) {
    let Some(first) = copies.first() else {
        findings.note(
            "module",
            format!("no {MODULE} is installed where programs look for it"),
            "sudo install -D -m 0644 libtpm11.so /usr/lib/x86_64-linux-gnu/pkcs11/libtpm11.so",
        );
        return;
    };
    let mut real: Vec<_> = copies.iter().filter_map(|copy| copy.canonicalize().ok()).collect();
    real.sort();
    real.dedup();
    if real.is_empty() {
        findings.warn(
            "module",
            format!("{} leads nowhere", first.display()),
            "install the file itself in its place",
        );
    }
    for path in &real {
        allowed(root, path, findings);
    }
    if real.len() > 1 {
        let list: Vec<_> = real.iter().map(|path| path.display().to_string()).collect();
        findings.warn(
            "module",
            format!("{} copies are installed: {}", real.len(), list.join(", ")),
            "remove all but one: a process that loads two only reads with the second",
        );
    }
}

/// ssh-agent resolves links first, then compares with `/usr/lib*/*,/usr/local/lib*/*` (ssh-agent(1), -P).
fn allowed(root: &Path, real: &Path, findings: &mut Findings) {
    let below = real.strip_prefix(root.canonicalize().as_deref().unwrap_or(root)).unwrap_or(real);
    let below = below.to_string_lossy();
    let is_listed =
        |prefix: &str| below.strip_prefix(prefix).is_some_and(|rest| rest.contains('/'));
    if is_listed("usr/lib") || is_listed("usr/local/lib") {
        findings.ok("module", format!("{}, which ssh-agent accepts", real.display()));
    } else {
        findings.warn(
            "module",
            format!("ssh-agent refuses {}: its real path is not below /usr/lib", real.display()),
            format!(
                "install the file itself, not a link, or start the agent with `ssh-agent -P '{}'`",
                real.display()
            ),
        );
    }
}

fn registered(root: &Path, home: Option<&Path>, copies: &[PathBuf], findings: &mut Findings) {
    let mut places: Vec<PathBuf> = REGISTRIES.iter().map(|place| root.join(place)).collect();
    places.extend(home.map(|home| home.join(".config/pkcs11/modules")));
    let mut any = false;
    for place in places {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let file = entry.path();
            if file.extension().is_none_or(|extension| extension != "module") {
                continue;
            }
            let Ok(text) = fs::read_to_string(&file) else { continue };
            let Some(module) = module_of(&text) else { continue };
            let named = Path::new(module);
            if named.file_name().is_none_or(|name| name != MODULE) {
                continue;
            }
            any = true;
            let found = if named.is_absolute() {
                let below = named.strip_prefix("/").unwrap_or(named);
                root.join(below).exists()
            } else {
                // p11-kit's module directory is one called pkcs11.
                copies.iter().any(|copy| {
                    copy.parent().is_some_and(|parent| parent.ends_with("pkcs11")) && copy.exists()
                })
            };
            if found {
                findings.ok("p11-kit", format!("{} registers {module}", file.display()));
            } else {
                findings.fail(
                    crate::failure::Exit::Other,
                    "p11-kit",
                    format!("{} registers {module}, which is not there", file.display()),
                    "install the module in p11-kit's module directory \
                     (`pkg-config --variable=p11_module_path p11-kit-1`), or name its absolute path",
                );
            }
        }
    }
    if !any {
        findings.note(
            "p11-kit",
            "the module is not registered; programs that use p11-kit do not see its tokens",
            "sudo install -D -m 0644 config/tpm11.module /usr/share/p11-kit/modules/tpm11.module",
        );
    }
}

/// What a file of p11-kit names as its module.
fn module_of(text: &str) -> Option<&str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "module")
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a system with these files, and with these links.
    fn said(files: &[(&str, &str)], links: &[(&str, &str)]) -> String {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        for (path, text) in files {
            fs::write(make(path), text).unwrap();
        }
        for (path, to) in links {
            std::os::unix::fs::symlink(root.path().join(to), make(path)).unwrap();
        }
        let mut findings = Findings::default();
        look(root.path(), None, &mut findings);
        findings.lines().join("\n")
    }

    #[test]
    fn a_module_in_its_place_is_seen_by_p11_kit_and_by_ssh_agent() {
        let said = said(
            &[
                ("usr/lib/x86_64-linux-gnu/pkcs11/libtpm11.so", ""),
                ("usr/share/p11-kit/modules/tpm11.module", "# text\nmodule: libtpm11.so\n"),
                ("usr/share/p11-kit/modules/other.module", "module: other.so\n"),
            ],
            &[],
        );
        assert!(said.lines().all(|line| line.starts_with("ok ")), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
    }

    #[test]
    fn a_link_out_of_the_library_directories_is_what_ssh_agent_refuses() {
        let said = said(
            &[("opt/tpm11/libtpm11.so", "")],
            &[("usr/lib/x86_64-linux-gnu/pkcs11/libtpm11.so", "opt/tpm11/libtpm11.so")],
        );
        assert!(said.contains("warn") && said.contains("ssh-agent refuses"), "{said}");
        assert!(said.contains("-> install the file itself"), "{said}");
    }

    #[test]
    fn a_registration_of_a_missing_file_fails() {
        let said = said(&[("etc/pkcs11/modules/tpm11.module", "module: /opt/x/libtpm11.so")], &[]);
        assert!(said.contains("FAIL  p11-kit"), "{said}");
        assert!(said.contains("is not there"), "{said}");
    }

    #[test]
    fn nothing_installed_is_a_note_and_two_copies_are_a_warning() {
        let nothing = said(&[], &[]);
        assert_eq!(nothing.matches("note").count(), 2, "{nothing}");
        let two =
            said(&[("usr/lib/pkcs11/libtpm11.so", ""), ("usr/local/lib/libtpm11.so", "x")], &[]);
        assert!(two.contains("warn  module: 2 copies"), "{two}");
    }
}
