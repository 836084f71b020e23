//! Other doors of the same TPM: swtpm's TCP socket, and the Microsoft simulator's protocol, both on a
//! loopback port in front of a UNIX socket that speaks raw commands.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::swtpm::read_message;

/// A listener on a loopback port. It serves until the process ends.
#[derive(Debug)]
pub struct Front {
    /// The port of the TPM's commands; the simulator's platform port is the next one.
    pub port: u16,
}

impl Front {
    /// swtpm's own way: raw commands over TCP.
    pub fn swtpm(tpm: &Path) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = port_of(&listener);
        serve(listener, tpm.to_owned(), |mut client, tpm| {
            let mut tpm = UnixStream::connect(tpm)?;
            loop {
                let command = read_message(&mut client)?;
                tpm.write_all(&command)?;
                client.write_all(&read_message(&mut tpm)?)?;
            }
        });
        Front { port }
    }

    /// The simulator's way: each command behind a code, a locality and its length; the answer with its
    /// length before and a zero word behind. A second port takes what the platform says (power, NV)
    /// and acknowledges it.
    pub fn simulator(tpm: &Path) -> Front {
        let (commands, platform) = loop {
            let commands = TcpListener::bind("127.0.0.1:0").expect("a free port");
            if let Ok(platform) = TcpListener::bind(("127.0.0.1", port_of(&commands) + 1)) {
                break (commands, platform);
            }
        };
        let port = port_of(&commands);
        serve(commands, tpm.to_owned(), |mut client, tpm| {
            const SEND_COMMAND: u32 = 8;
            let mut tpm = UnixStream::connect(tpm)?;
            while read_u32(&mut client)? == SEND_COMMAND {
                let mut locality = [0];
                client.read_exact(&mut locality)?;
                let mut command = vec![0; read_u32(&mut client)? as usize];
                client.read_exact(&mut command)?;
                tpm.write_all(&command)?;
                let response = read_message(&mut tpm)?;
                let mut answer = (response.len() as u32).to_be_bytes().to_vec();
                answer.extend(response);
                answer.extend([0; 4]);
                client.write_all(&answer)?;
            }
            Ok(())
        });
        serve(platform, tpm.to_owned(), |mut client, _| {
            const SESSION_END: u32 = 20;
            while read_u32(&mut client)? != SESSION_END {
                client.write_all(&[0; 4])?;
            }
            Ok(())
        });
        Front { port }
    }
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("it is bound").port()
}

fn read_u32(stream: &mut TcpStream) -> std::io::Result<u32> {
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    Ok(u32::from_be_bytes(word))
}

/// One client after the other, as swtpm and the simulator do it. A client that goes is no error.
fn serve(listener: TcpListener, tpm: PathBuf, client: fn(TcpStream, &Path) -> std::io::Result<()>) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = client(stream, &tpm);
        }
    });
}
