//! Child processes that cannot outlive the test executable, whatever ends it.
//!
//! The kernel's parent-death signal belongs to the *thread* that started the child, and a test's
//! thread ends with its test. So all children are started by one thread that never ends.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

type Request = (Command, Sender<io::Result<Child>>);

static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();

/// Starts `command`; the kernel kills the child when this process ends in whatever way.
///
/// # Errors
/// What [`Command::spawn`] says, with the program's name.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(io::Error::from)
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = channel::<Request>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, answer) in receiver {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(sender)
    });
    let (answer, child) = channel();
    spawner.lock().expect("nobody panics here").send((command, answer)).expect("it never ends");
    child
        .recv()
        .expect("the spawner answers")
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))
}

/// A child process that is killed and reaped when this is dropped.
#[derive(Debug)]
pub struct Guarded(Child);

impl Guarded {
    /// Starts `command` as [`spawn`] does.
    ///
    /// # Errors
    /// As [`spawn`].
    pub fn start(command: Command) -> io::Result<Guarded> {
        spawn(command).map(Guarded)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL, and wait for its end.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// The child itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}
