//! Software TPMs over sockets: swtpm's data channel (TCP or UNIX socket) carries the TPM's own bytes;
//! the Microsoft simulator (mssim) wraps them. TCG TSS 2.0 TPM Command Transmission Interface; the
//! simulator's protocol is that of the reference code's TcpServer.
//!
//! swtpm serves one connection at a time: a second one is accepted by the kernel and then waits
//! until the first is closed, so a slow answer to a first command may mean "busy".

use std::mem::ManuallyDrop;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::device::wait;
use super::transport::{Broken, BrokenKind, LARGEST, Transport};
use super::wire::{HEADER, ROOM};
use super::{Call, Fault};
use crate::fork::Kept;
use crate::sync::plain::Instant;

/// How long one attempt to connect may take. A swtpm that is there answers at once; one whose queue
/// is full does not answer at all.
const CONNECT_LIMIT: Duration = Duration::from_millis(50);

/// A connected stream socket: non-blocking, close-on-exec.
pub(super) struct Line {
    socket: Kept<OwnedFd>,
    name: String,
}

impl Line {
    /// Connects over TCP to the first address of `host` that answers.
    pub(super) fn connect_tcp(host: &str, port: u16, call: &Call) -> Result<Self, Broken> {
        let name = format!("{host}:{port}");
        let addresses = (host, port)
            .to_socket_addrs()
            .map_err(|error| Broken::unsent(BrokenKind::Absent, format!("{name}: {error}")))?;
        let mut last = Broken::unsent(BrokenKind::Absent, format!("{name}: no address"));
        for address in addresses {
            if Instant::now() >= call.deadline {
                break;
            }
            let family = match address {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            };
            match Self::connect(family, &address.into(), name.clone()) {
                Ok(line) => {
                    // Commands are small and each waits for its answer.
                    let _ = rustix::net::sockopt::set_tcp_nodelay(&line.socket, true);
                    return Ok(line);
                }
                Err(broken) => last = broken,
            }
        }
        Err(last)
    }

    /// Connects to a UNIX socket.
    pub(super) fn connect_unix(path: &Path) -> Result<Self, Broken> {
        let name = path.display().to_string();
        let address = SocketAddrUnix::new(path)
            .map_err(|error| Broken::unsent(BrokenKind::Settings, format!("{name}: {error}")))?;
        Self::connect(AddressFamily::UNIX, &address.into(), name)
    }

    fn connect(
        family: AddressFamily,
        address: &SocketAddrAny,
        name: String,
    ) -> Result<Self, Broken> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
            .map_err(|error| refusal(&name, error))?;
        let line = Self { socket: Kept::new(socket), name };
        match rustix::net::connect(&line.socket, address) {
            Ok(()) => return Ok(line),
            Err(Errno::INPROGRESS | Errno::INTR) => {}
            // A UNIX socket whose queue is full.
            Err(Errno::AGAIN) => return Err(line.busy()),
            Err(error) => return Err(refusal(&line.name, error)),
        }
        let until = Call::within(CONNECT_LIMIT);
        wait(&line.socket, PollFlags::OUT, &until, until.deadline, &line.name)
            .map_err(|_| line.busy())?;
        match rustix::net::sockopt::socket_error(&line.socket) {
            Ok(Ok(())) => Ok(line),
            Ok(Err(error)) | Err(error) => Err(refusal(&line.name, error)),
        }
    }

    fn busy(&self) -> Broken {
        Broken::unsent(
            BrokenKind::Busy,
            format!("{} takes no connection: somebody else is connected", self.name),
        )
    }

    fn closed(&self, why: impl std::fmt::Display) -> Broken {
        Broken { kind: BrokenKind::Closed, sent: true, what: format!("{}: {why}", self.name) }
    }

    /// Writes all of it, without SIGPIPE.
    fn send(&self, mut bytes: &[u8], call: &Call, until: Instant) -> Result<(), Broken> {
        let mut sent = false;
        while !bytes.is_empty() {
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(length) => {
                    sent = true;
                    bytes = bytes.get(length..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    wait(&self.socket, PollFlags::OUT, call, until, &self.name)
                        .map_err(|broken| Broken { sent, ..broken })?;
                }
                Err(error) => return Err(Broken { sent, ..self.closed(error) }),
            }
        }
        Ok(())
    }

    /// Waits for an answer: how many of its bytes have come and fit `room`, which is not empty.
    fn receive_some(&self, room: &mut [u8], call: &Call, until: Instant) -> Result<usize, Broken> {
        loop {
            wait(&self.socket, PollFlags::IN, call, until, &self.name)
                .map_err(|broken| Broken { sent: true, ..broken })?;
            match rustix::net::recv(&self.socket, &mut *room, RecvFlags::empty()) {
                Ok((0, _)) => return Err(self.closed("the other side closed the connection")),
                Ok((length, _)) => return Ok(length),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(self.closed(error)),
            }
        }
    }

    /// Reads exactly as much as `buffer` holds.
    fn receive(&self, buffer: &mut [u8], call: &Call, until: Instant) -> Result<(), Broken> {
        let mut have = 0;
        while let Some(room) = buffer.get_mut(have..).filter(|room| !room.is_empty()) {
            have += self.receive_some(room, call, until)?;
        }
        Ok(())
    }

    fn receive_word(&self, call: &Call, until: Instant) -> Result<u32, Broken> {
        let mut word = [0; 4];
        self.receive(&mut word, call, until)?;
        Ok(u32::from_be_bytes(word))
    }

    /// Closes for everybody, a forked child's copy of the descriptor included: else swtpm would go on
    /// serving a connection that nobody uses.
    fn hang_up(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

/// Why there is no connection.
fn refusal(name: &str, error: Errno) -> Broken {
    let kind = match error {
        Errno::ACCESS | Errno::PERM => BrokenKind::Denied,
        Errno::CONNREFUSED
        | Errno::NOENT
        | Errno::NOTDIR
        | Errno::HOSTUNREACH
        | Errno::NETUNREACH
        | Errno::CONNRESET => BrokenKind::Absent,
        Errno::TIMEDOUT => BrokenKind::Busy,
        _ => BrokenKind::Closed,
    };
    let uid = match kind {
        BrokenKind::Denied => {
            format!(" (for uid {})", rustix::process::geteuid().as_raw())
        }
        _ => String::new(),
    };
    Broken::unsent(kind, format!("{name}: {error}{uid}"))
}

/// swtpm: the bytes as they are; a response's length is in its header.
pub(super) struct Plain(pub(super) Line);

impl Transport for Plain {
    fn transmit(&mut self, command: &[u8], call: &Call, limit: Duration) -> Result<Vec<u8>, Fault> {
        let until = (Instant::now() + limit).min(call.deadline);
        self.0.send(command, call, until)?;
        let mut response = vec![0; ROOM];
        let mut have = self.0.receive_some(&mut response, call, until)?;
        if let Some(rest) = response.get_mut(have..HEADER) {
            self.0.receive(rest, call, until)?;
            have = HEADER;
        }
        let size = match response.get(2..6).map(<[u8; 4]>::try_from) {
            Some(Ok(size)) => u32::from_be_bytes(size) as usize,
            _ => 0,
        };
        if !(HEADER.max(have)..=LARGEST).contains(&size) {
            return Err(self.0.closed(format_args!("a response of {size} bytes")).into());
        }
        response.resize(size, 0);
        if let Some(rest) = response.get_mut(have..) {
            self.0.receive(rest, call, until)?;
        }
        Ok(response)
    }

    fn leak(self: Box<Self>) {
        let _ = ManuallyDrop::new(self);
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.0.hang_up();
    }
}

/// The Microsoft simulator: every command and answer in a frame, power and NV on a second channel.
pub(super) struct Mssim {
    commands: Line,
    platform: Line,
}

/// Requests of the simulator's two channels.
const POWER_ON: u32 = 1;
const SEND_COMMAND: u32 = 8;
const NV_ON: u32 = 11;
const SESSION_END: u32 = 20;

impl Mssim {
    /// Connects both channels and switches the simulator on; one that is on stays as it is.
    pub(super) fn connect(host: &str, port: u16, call: &Call) -> Result<Self, Broken> {
        let commands = Line::connect_tcp(host, port, call)?;
        let platform = Line::connect_tcp(host, port.saturating_add(1), call)?;
        let until = (Instant::now() + Duration::from_secs(5)).min(call.deadline);
        for request in [POWER_ON, NV_ON] {
            platform
                .send(&request.to_be_bytes(), call, until)
                .and_then(|()| platform.receive_word(call, until))
                // Nothing of the command was sent.
                .map_err(|broken| Broken { sent: false, ..broken })?;
        }
        Ok(Self { commands, platform })
    }
}

impl Transport for Mssim {
    fn transmit(&mut self, command: &[u8], call: &Call, limit: Duration) -> Result<Vec<u8>, Fault> {
        let until = (Instant::now() + limit).min(call.deadline);
        let length = u32::try_from(command.len()).unwrap_or(u32::MAX);
        let mut frame = Vec::with_capacity(9 + command.len());
        frame.extend(SEND_COMMAND.to_be_bytes());
        frame.push(0); // locality
        frame.extend(length.to_be_bytes());
        frame.extend(command);
        self.commands.send(&frame, call, until)?;
        let size = self.commands.receive_word(call, until)? as usize;
        if !(HEADER..=LARGEST).contains(&size) {
            return Err(self.commands.closed(format_args!("a response of {size} bytes")).into());
        }
        let mut response = vec![0; size];
        self.commands.receive(&mut response, call, until)?;
        match self.commands.receive_word(call, until)? {
            0 => Ok(response),
            status => Err(self.commands.closed(format_args!("simulator status {status}")).into()),
        }
    }

    fn leak(self: Box<Self>) {
        let _ = ManuallyDrop::new(self);
    }
}

impl Drop for Mssim {
    fn drop(&mut self) {
        let end = SESSION_END.to_be_bytes();
        for line in [&self.commands, &self.platform] {
            let _ = rustix::net::send(&line.socket, &end, SendFlags::NOSIGNAL);
            line.hang_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::transport::open;
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A simulator with its two channels on neighbouring ports, for one client. Answers every command
    /// with itself and returns the platform channel's requests.
    fn simulator() -> (u16, std::thread::JoinHandle<Vec<u32>>) {
        let (port, commands, platform) = loop {
            let commands = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = commands.local_addr().unwrap().port();
            if let Ok(platform) = TcpListener::bind(("127.0.0.1", port.saturating_add(1))) {
                break (port, commands, platform);
            }
        };
        let thread = std::thread::spawn(move || {
            let mut commands = commands.accept().unwrap().0;
            let mut platform = platform.accept().unwrap().0;
            let mut word = [0; 4];
            let mut requests = Vec::new();
            for _ in 0..2 {
                platform.read_exact(&mut word).unwrap();
                requests.push(u32::from_be_bytes(word));
                platform.write_all(&[0; 4]).unwrap();
            }
            let mut head = [0; 9];
            while commands.read_exact(&mut head[..4]).is_ok() && head[3] == 8 {
                commands.read_exact(&mut head[4..]).unwrap();
                let length = u32::from_be_bytes(head[5..].try_into().unwrap());
                let mut body = vec![0; length as usize];
                commands.read_exact(&mut body).unwrap();
                commands.write_all(&length.to_be_bytes()).unwrap();
                commands.write_all(&body).unwrap();
                commands.write_all(&[0; 4]).unwrap();
            }
            requests.push(u32::from_be_bytes(head[..4].try_into().unwrap()));
            requests
        });
        (port, thread)
    }

    #[test]
    fn the_simulator_is_switched_on_and_its_frames_are_taken_off() {
        let (port, simulator) = simulator();
        let call = Call::within(Duration::from_secs(10));
        let mut mssim = open(&format!("mssim:host=127.0.0.1,port={port}"), &call).unwrap();
        for length in [12usize, 4000] {
            let mut command = vec![7; length];
            command[2..6].copy_from_slice(&(length as u32).to_be_bytes());
            let answer = mssim.transmit(&command, &call, Duration::from_secs(5)).unwrap();
            assert_eq!(answer, command);
        }
        drop(mssim);
        assert_eq!(simulator.join().unwrap(), [POWER_ON, NV_ON, SESSION_END]);
    }

    /// A peer that accepts one connection and does what it is told with it.
    fn peer(job: impl FnOnce(std::net::TcpStream) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || job(listener.accept().unwrap().0));
        format!("swtpm:host=127.0.0.1,port={port}")
    }

    fn broken(tcti: &str, call: &Call) -> Broken {
        let mut line = open(tcti, call).unwrap();
        let fault = line.transmit(&[0; 12], call, Duration::from_secs(2)).unwrap_err();
        match fault.kind() {
            super::super::fault::Trouble::Broken(broken) => broken.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_peer_that_dies_amid_an_answer_raises_no_signal_and_counts_as_sent() {
        let tcti = peer(|mut stream| {
            stream.read_exact(&mut [0; 12]).unwrap();
            stream.write_all(&[0x80, 1, 0, 0, 0, 20, 0]).unwrap();
        });
        let broken = broken(&tcti, &Call::within(Duration::from_secs(10)));
        assert_eq!((broken.kind, broken.sent), (BrokenKind::Closed, true));
    }

    #[test]
    fn an_answer_of_an_impossible_size_is_not_waited_for() {
        for size in [9u32, 4097, u32::MAX] {
            let tcti = peer(move |mut stream| {
                let mut answer = [0; 10];
                answer[2..6].copy_from_slice(&size.to_be_bytes());
                stream.write_all(&answer).unwrap();
                std::thread::sleep(Duration::from_secs(3));
            });
            let begun = Instant::now();
            let broken = broken(&tcti, &Call::within(Duration::from_secs(10)));
            assert_eq!((broken.kind, broken.sent), (BrokenKind::Closed, true));
            assert!(begun.elapsed() < Duration::from_secs(1));
        }
    }

    #[test]
    fn silence_ends_at_the_limit_and_a_cancel_within_a_slice() {
        let silent = |stream: std::net::TcpStream| {
            std::thread::sleep(Duration::from_secs(5));
            drop(stream);
        };
        let begun = Instant::now();
        let late = broken(&peer(silent), &Call::within(Duration::from_millis(300)));
        assert_eq!((late.kind, late.sent), (BrokenKind::Late, true));
        assert!(begun.elapsed() < Duration::from_secs(2));

        let call = Call::within(Duration::from_secs(10));
        let flag = call.cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let begun = Instant::now();
        let canceled = broken(&peer(silent), &call);
        assert_eq!((canceled.kind, canceled.sent), (BrokenKind::Canceled, true));
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
