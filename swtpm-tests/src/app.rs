//! An application: a process of its own that has loaded the module and makes the calls it is told.
//!
//! Both ends of the wire are here. The test has an [`App`]; the process runs [`work`]. Calls carry
//! the number of a *lane*, and each lane is a thread over there, so a test's threads become the
//! application's threads. A forked child connects by itself and becomes an [`App`] of its own.

#![allow(unsafe_code)] // fork

use std::collections::HashMap;
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::ck::{Ck, Door};
use crate::door::{Call, Library, arguments_from_bytes, arguments_to_bytes};
use crate::spawn::Guarded;

const CALL: u8 = 0;
const FORK: u8 = 1;
const EXIT: u8 = 2;
const WAIT: u8 = 3;
const RUN: u8 = 4;

/// The lane that waits for children.
const REAPER: u32 = u32::MAX;

/// How a process ends by itself, without C_Finalize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// _exit(2): at once.
    Sudden,
    /// exit(3): exit handlers and destructors run, while other threads go on.
    Orderly,
}

/// How a process makes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Birth {
    /// fork(2)
    Fork,
    /// The bare system call: nobody who asked to be told of forks is told.
    Clone,
}

fn send(stream: &mut UnixStream, parts: &[&[u8]]) -> std::io::Result<()> {
    let mut message =
        (parts.iter().map(|part| part.len()).sum::<usize>() as u32).to_le_bytes().to_vec();
    message.extend(parts.concat());
    stream.write_all(&message)
}

fn receive(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// The application's side: loads `module` and serves the test that listens on `socket`, until that
/// ends.
pub fn work(module: &Path, socket: &Path) {
    let library = Arc::new(Library::load(module));
    let socket = Arc::new(socket.to_owned());
    serve(&library, &socket);
}

fn serve(library: &Arc<Library>, socket: &Arc<PathBuf>) {
    let Ok(mut stream) = UnixStream::connect(socket.as_path()) else { return };
    if send(&mut stream, &[&std::process::id().to_le_bytes()]).is_err() {
        return;
    }
    let answers = Arc::new(Mutex::new(stream.try_clone().expect("a second descriptor")));
    let mut lanes: HashMap<u32, Sender<Vec<u8>>> = HashMap::new();
    while let Ok(message) = receive(&mut stream) {
        if message[0] == EXIT {
            match message.get(5) {
                None | Some(0) => rustix_exit(),
                // SAFETY: what runs now is what the test wants to see.
                _ => unsafe { libc::exit(0) },
            }
        }
        let lane = u32::from_le_bytes(message[1..5].try_into().expect("four bytes"));
        let sender = lanes.entry(lane).or_insert_with(|| {
            let (sender, jobs) = channel::<Vec<u8>>();
            let (library, socket, answers) = (library.clone(), socket.clone(), answers.clone());
            let inherited = stream.as_raw_fd();
            std::thread::spawn(move || {
                run_lane(&jobs, lane, &library, &socket, &answers, inherited);
            });
            sender
        });
        let _ = sender.send(message);
    }
}

fn run_lane(
    jobs: &Receiver<Vec<u8>>,
    lane: u32,
    library: &Arc<Library>,
    socket: &Arc<PathBuf>,
    answers: &Mutex<UnixStream>,
    inherited: RawFd,
) {
    for job in jobs {
        let mut answer = lane.to_le_bytes().to_vec();
        if job[0] == FORK {
            // The parent's wire is the parent's: as long as a copy is open, the test could not see the
            // parent end. Asked before, for in the child the lock may be held by nobody that is there.
            let copy = answers.lock().map_or(-1, |stream| stream.as_raw_fd());
            let bare = job.get(5).is_some_and(|bare| *bare != 0);
            // SAFETY: the child uses nothing of the other threads but the allocator, which glibc
            // keeps usable, and this is what the test wants to see the module survive.
            match unsafe { if bare { bare_clone() } else { libc::fork() } } {
                0 => {
                    // SAFETY: the child never uses these two again.
                    unsafe {
                        libc::close(copy);
                        libc::close(inherited);
                    }
                    serve(library, socket);
                    rustix_exit();
                }
                child => answer.extend((child as u64).to_le_bytes()),
            }
        } else if job[0] == WAIT {
            let child = i32::from_le_bytes(job[5..9].try_into().expect("four bytes"));
            let mut status = 0;
            // SAFETY: the place is writable.
            unsafe { libc::waitpid(child, &mut status, 0) };
            answer.extend((status as u64).to_le_bytes());
        } else if job[0] == RUN {
            let output = run(&job[5..]);
            answer.extend(u64::from(output.is_none()).to_le_bytes());
            answer.extend(output.unwrap_or_default());
        } else {
            let mut call = Call::from_bytes(&job[5..]);
            answer.extend(library.call(&mut call).to_le_bytes());
            answer.extend(arguments_to_bytes(&call.arguments));
        }
        let mut stream = answers.lock().expect("no lane panics");
        if send(&mut stream, &[&answer]).is_err() {
            return;
        }
    }
}

/// What `/bin/sh` prints of a script; `None` if it failed. The first byte says whether a fork of ours
/// comes before exec, else it is posix_spawn(3), which is a vfork(2).
fn run(job: &[u8]) -> Option<Vec<u8>> {
    use std::os::unix::process::CommandExt;
    let script = String::from_utf8_lossy(&job[1..]).into_owned();
    let mut command = std::process::Command::new("/bin/sh");
    command.arg("-c").arg(script);
    if job[0] != 0 {
        // SAFETY: it does nothing.
        unsafe { command.pre_exec(|| Ok(())) };
    }
    let output = command.output().ok()?;
    output.status.success().then_some(output.stdout)
}

/// # Safety
/// As for fork(2), and nothing in this process may be locked.
unsafe fn bare_clone() -> libc::pid_t {
    // SAFETY: with these arguments it is what fork(2) was before there were libraries.
    unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as libc::pid_t }
}

fn rustix_exit() -> ! {
    // SAFETY: it never returns.
    unsafe { libc::_exit(0) }
}

type Waiting = Mutex<HashMap<u32, Sender<(u64, Vec<u8>)>>>;

/// The wire to one process.
#[derive(Debug)]
struct Wire {
    process: u32,
    stream: Mutex<UnixStream>,
    waiting: Arc<Waiting>,
    lanes: AtomicU32,
}

impl Wire {
    /// Takes the next process that connects.
    fn accept(listener: &UnixListener) -> Wire {
        Wire::try_accept(listener).expect("the application starts, and says its id")
    }

    /// As [`Wire::accept`]; `None` if nobody comes.
    fn try_accept(listener: &UnixListener) -> Option<Wire> {
        let (mut stream, _) = accept_within(listener, Duration::from_secs(20))?;
        let hello = receive(&mut stream).ok()?;
        let process = u32::from_le_bytes(hello[..4].try_into().expect("four bytes"));
        let waiting: Arc<Waiting> = Arc::default();
        let mut reader = stream.try_clone().expect("a second descriptor");
        std::thread::spawn({
            let waiting = waiting.clone();
            move || {
                while let Ok(message) = receive(&mut reader) {
                    let lane = u32::from_le_bytes(message[..4].try_into().expect("four bytes"));
                    let rv = u64::from_le_bytes(message[4..12].try_into().expect("eight bytes"));
                    let waiter = waiting.lock().expect("nobody panics").remove(&lane);
                    if let Some(waiter) = waiter {
                        let _ = waiter.send((rv, message[12..].to_vec()));
                    }
                }
                // Nobody answers any more: who waits gets a closed channel.
                waiting.lock().expect("nobody panics").clear();
            }
        });
        Some(Wire { process, stream: Mutex::new(stream), waiting, lanes: AtomicU32::new(1) })
    }

    fn ask(&self, kind: u8, lane: u32, body: &[u8]) -> Option<(u64, Vec<u8>)> {
        self.begin(kind, lane, body)?.recv().ok()
    }

    /// Where the answer will be.
    fn begin(&self, kind: u8, lane: u32, body: &[u8]) -> Option<Receiver<(u64, Vec<u8>)>> {
        let (sender, answer) = channel();
        self.waiting.lock().expect("nobody panics").insert(lane, sender);
        let mut stream = self.stream.lock().expect("nobody panics");
        if send(&mut stream, &[&[kind], &lane.to_le_bytes(), body]).is_err() {
            return None;
        }
        drop(stream);
        Some(answer)
    }
}

fn accept_within(
    listener: &UnixListener,
    patience: Duration,
) -> Option<(UnixStream, std::os::unix::net::SocketAddr)> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut descriptors = [PollFd::new(listener, PollFlags::IN)];
    let limit = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut descriptors, Some(&limit)).is_ok_and(|count| count > 0);
    if ready { listener.accept().ok() } else { None }
}

/// One thread of an application.
#[derive(Debug)]
struct Lane {
    wire: Arc<Wire>,
    number: u32,
}

impl Door for Lane {
    fn call(&self, call: &mut Call) -> u64 {
        let Some((rv, arguments)) = self.wire.ask(CALL, self.number, &call.to_bytes()) else {
            panic!("process {} died in {}", self.wire.process, call.function);
        };
        call.arguments = arguments_from_bytes(&arguments);
        rv
    }
}

/// What a mortal thread's call returns when the process ended in it. No CK_RV of the module.
pub const GONE: u64 = u64::MAX;
/// What a mortal thread's call returns when it took longer than its limit.
pub const HUNG: u64 = u64::MAX - 1;

/// One thread of an application that may be killed at any moment, each call with a limit.
#[derive(Debug)]
struct Mortal {
    lane: Lane,
    limit: Duration,
}

impl Door for Mortal {
    fn call(&self, call: &mut Call) -> u64 {
        let Lane { wire, number } = &self.lane;
        let Some(answer) = wire.begin(CALL, *number, &call.to_bytes()) else { return GONE };
        match answer.recv_timeout(self.limit) {
            Ok((rv, arguments)) => {
                call.arguments = arguments_from_bytes(&arguments);
                rv
            }
            Err(RecvTimeoutError::Timeout) => HUNG,
            Err(RecvTimeoutError::Disconnected) => GONE,
        }
    }
}

/// An application with the module loaded. It is a [`Ck`], whose calls run in its first thread.
/// Dropping it kills the process.
#[derive(Debug)]
pub struct App {
    process: Option<Guarded>,
    wire: Arc<Wire>,
    listener: Arc<UnixListener>,
    output: PathBuf,
    ck: Ck,
}

impl App {
    /// Starts `command`, which must run [`work`] and connect to `listener`. What it writes to
    /// standard output and standard error is in the file `output`.
    pub(crate) fn start(
        command: std::process::Command,
        listener: UnixListener,
        output: PathBuf,
    ) -> App {
        let process = Guarded::start(command).expect("the bench's own program starts");
        let listener = Arc::new(listener);
        let wire = Arc::new(Wire::accept(&listener));
        let ck = Ck::new(Arc::new(Lane { wire: wire.clone(), number: 0 }));
        App { process: Some(process), wire, listener, output, ck }
    }

    /// A client whose calls run in a further thread of the application.
    pub fn thread(&self) -> Ck {
        let number = self.wire.lanes.fetch_add(1, Ordering::SeqCst);
        Ck::new(Arc::new(Lane { wire: self.wire.clone(), number }))
    }

    /// As [`App::thread`], for an application that may be killed meanwhile: a call then returns
    /// [`GONE`], and one that takes longer than `limit` [`HUNG`].
    pub fn mortal_thread(&self, limit: Duration) -> Arc<dyn Door> {
        let number = self.wire.lanes.fetch_add(1, Ordering::SeqCst);
        Arc::new(Mortal { lane: Lane { wire: self.wire.clone(), number }, limit })
    }

    /// As [`App::fork`], or `None` if the application was killed meanwhile, or fork does not end
    /// within `limit`.
    pub fn try_fork(&self, limit: Duration) -> Option<App> {
        self.wire.begin(FORK, 0, &[])?.recv_timeout(limit).ok()?;
        let wire = Arc::new(Wire::try_accept(&self.listener)?);
        let ck = Ck::new(Arc::new(Lane { wire: wire.clone(), number: 0 }));
        let (listener, output) = (self.listener.clone(), self.output.clone());
        Some(App { process: None, wire, listener, output, ck })
    }

    /// fork(2) in the application's first thread: the child, as an application of its own.
    pub fn fork(&self) -> App {
        self.give_birth(Birth::Fork)
    }

    /// As [`App::fork`], or by another system call.
    pub fn give_birth(&self, birth: Birth) -> App {
        let answer = self.wire.ask(FORK, 0, &[u8::from(birth == Birth::Clone)]);
        assert!(answer.is_some(), "process {} died in fork", self.wire.process);
        let wire = Arc::new(Wire::accept(&self.listener));
        let ck = Ck::new(Arc::new(Lane { wire: wire.clone(), number: 0 }));
        App {
            process: None,
            wire,
            listener: self.listener.clone(),
            output: self.output.clone(),
            ck,
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.wire.process
    }

    /// _exit(2) without C_Finalize.
    pub fn exit(self) {
        self.end(End::Sudden);
    }

    /// Ends by itself without C_Finalize. The status of a process that the test started.
    pub fn end(mut self, end: End) -> Option<ExitStatus> {
        let _ = self.wire.ask(EXIT, 0, &[u8::from(end == End::Orderly)]);
        let process = self.process.as_mut()?;
        let mut status = None;
        crate::bench::wait_until(Duration::from_secs(60), || {
            status = process.child().try_wait().ok().flatten();
            status.is_some()
        });
        Some(status.expect("the process ends"))
    }

    /// Waits for the end of a child that [`App::fork`] made: 0 if it ended well, else as waitpid(2) says.
    pub fn reap(&self, child: u32) -> u64 {
        self.wire.ask(WAIT, REAPER, &child.to_le_bytes()).expect("the parent lives").0
    }

    /// What a shell script prints that the application runs: after fork(2), or by posix_spawn(3).
    pub fn run(&self, forks: bool, script: &str) -> String {
        let job = [&[u8::from(forks)], script.as_bytes()].concat();
        let (failed, output) = self.wire.ask(RUN, 0, &job).expect("the application lives");
        assert_eq!(failed, 0, "{script}");
        String::from_utf8(output).expect("text")
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// What the process, its children included, wrote to standard output and standard error.
    pub fn noise(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // A forked child is nobody's child here. It ends with its wire; unless it hangs.
        let Some(id) = rustix::process::Pid::from_raw(self.wire.process as i32) else { return };
        if self.process.is_none() {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
    }
}

impl Deref for App {
    type Target = Ck;

    fn deref(&self) -> &Ck {
        &self.ck
    }
}
