//! Is somebody else in this process using the database file?
//!
//! POSIX locks belong to a process, not to a descriptor: when *any* descriptor of a file is closed,
//! all locks that the process holds on it are gone. One copy of SQLite knows about its own
//! descriptors and takes care; two copies (the module loaded twice from different paths, a program
//! that links the library and also loads the module) do not know about each other, and a commit of
//! another process can be lost. So we look before we open.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// A file, whatever its path: device and inode.
pub(super) type Key = (u64, u64);

/// How many descriptors this process has on the file. `None` if that cannot be told (no /proc).
/// Opens nothing but the directory /proc/self/fd.
pub(super) fn descriptors(key: Key) -> Option<usize> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    let same = entries.filter_map(Result::ok).filter(|entry| {
        // stat through the link: the descriptor's own file, even if it has no path any more.
        fs::metadata(entry.path()).is_ok_and(|file| (file.dev(), file.ino()) == key)
    });
    Some(same.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_of_a_file_is_counted_under_any_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let first = fs::File::create(&path).unwrap();
        let key = first.metadata().map(|file| (file.dev(), file.ino())).unwrap();
        assert_eq!(descriptors(key), Some(1));

        fs::hard_link(&path, directory.path().join("other")).unwrap();
        let second = fs::File::open(directory.path().join("other")).unwrap();
        assert_eq!(descriptors(key), Some(2));

        drop(first);
        fs::remove_file(&path).unwrap();
        assert_eq!(descriptors(key), Some(1));
        drop(second);
        assert_eq!(descriptors(key), Some(0));
    }
}
