//! What the file's place allows: permissions, modes, room. Never opens the file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

use super::{Fault, Options};

/// Why the file (or, where there is none, a new one) cannot be written; `None` if it can.
pub(super) fn unwritable(path: &Path, options: &Options) -> Option<String> {
    if !options.writable_wanted {
        return Some("the store was opened for reading only".to_owned());
    }
    // The journal needs the directory.
    let directory = path.parent().unwrap_or(Path::new("/"));
    for (what, need) in [(path, Access::WRITE_OK), (directory, Access::WRITE_OK | Access::EXEC_OK)]
    {
        match may(what, need) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Some(format!("{} cannot be written: {error}", what.display())),
        }
    }
    None
}

/// access(2) with the effective user and group.
pub(super) fn may(path: &Path, need: Access) -> io::Result<()> {
    let outcome = match rustix::fs::accessat(CWD, path, need, AtFlags::EACCESS) {
        // Kernels before 5.8 only know the real user.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
            rustix::fs::accessat(CWD, path, need, AtFlags::empty())
        }
        other => other,
    };
    outcome.map_err(io::Error::from)
}

/// The mode of a file in this directory: 0600, and for a directory of a group (0750, 2770, …: the
/// group may enter, others may not) the same for the group.
pub(super) fn file_mode(path: &Path) -> u32 {
    let directory = path.parent().and_then(|directory| fs::metadata(directory).ok());
    match directory.map(|directory| directory.mode()) {
        Some(mode) if mode & 0o007 == 0 => 0o600 | (mode & 0o060),
        _ => 0o600,
    }
}

/// A write beyond the process's limit on the size of files is not just an error but SIGXFSZ, which
/// kills the program: refuse before.
pub(super) fn room_to_grow(path: &Path, growth: usize) -> Result<(), Fault> {
    let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Fsize).current else {
        return Ok(());
    };
    let size = fs::symlink_metadata(path).map_or(0, |file| file.size());
    // Content, index entries and half-filled pages.
    let need = size.saturating_add(growth as u64 * 4).saturating_add(128 << 10);
    if need > limit {
        return Err(Fault::Full(format!(
            "the store would grow beyond this process's limit on the size of files ({limit} bytes)"
        )));
    }
    Ok(())
}
