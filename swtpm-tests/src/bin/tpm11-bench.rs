//! The bench's helper program: an application that makes the calls it is told (`work`), one that keeps
//! no PIN (`secrets`) nor the keys it brings in (`import`), one that begins and ends in unusual ways (`life`), a wire to a UNIX socket (`pipe`), and the shim by itself (`shim`).

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use swtpm_tests::Shim;

const USAGE: &str = "usage: tpm11-bench work MODULE SOCKET
       tpm11-bench secrets MODULE
       tpm11-bench import MODULE
       tpm11-bench life ROLE MODULE
       tpm11-bench pipe SOCKET            standard input to the TPM, its answers back
       tpm11-bench shim LISTEN TPM RECORD one line of RECORD for each command";

fn main() {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let words: Vec<&Path> = arguments.iter().map(PathBuf::as_path).collect();
    match words.as_slice() {
        [word, module, socket] if word.ends_with("work") => swtpm_tests::app::work(module, socket),
        [word, module] if word.ends_with("secrets") => swtpm_tests::secrets::work(module),
        [word, module] if word.ends_with("import") => swtpm_tests::secrets::import(module),
        [word, role, module] if word.ends_with("life") => {
            swtpm_tests::life::work(role.to_str().expect("a word"), module);
        }
        [word, socket] if word.ends_with("pipe") => pipe(socket).expect("the socket stays open"),
        [word, listen, tpm, record] if word.ends_with("shim") => {
            shim(listen, tpm, record).expect("the shim's sockets and files");
        }
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}

/// Copies in both directions; tpm2-tools' `cmd:` transport is a program like this.
fn pipe(socket: &Path) -> std::io::Result<()> {
    let mut up = UnixStream::connect(socket)?;
    let mut down = up.try_clone()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = down.read(&mut buffer) {
            let mut out = std::io::stdout();
            if out.write_all(&buffer[..count]).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    let mut buffer = [0; 4096];
    loop {
        match std::io::stdin().read(&mut buffer)? {
            0 => return Ok(()),
            count => up.write_all(&buffer[..count])?,
        }
    }
}

/// Runs until it is killed.
fn shim(listen: &Path, tpm: &Path, record: &Path) -> std::io::Result<()> {
    let shim = Shim::start(listen, tpm, false)?;
    let mut file = OpenOptions::new().create(true).append(true).open(record)?;
    let mut mark = 0;
    loop {
        let new = shim.since(mark);
        mark += new.sent();
        file.write_all(new.lines().as_bytes())?;
        std::thread::sleep(Duration::from_millis(20));
    }
}
