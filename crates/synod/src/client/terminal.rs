//! A terminal, and a command that is held there. The command stays in the group of the
//! shell's job (a pipeline, a script), as with `env` or `nice`: so all of the job may
//! read from the terminal, and what is typed there (Ctrl-C, Ctrl-Z) reaches all of it.
//! Its holder is stopped when the command is, and only then: a command does not run on
//! while nobody keeps its session alive.

use super::signals::came_from_terminal;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::time::Duration;

/// By these a terminal stops a job.
const STOPS: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
/// Exit code of a command that an interruption has ended.
pub(crate) const INTERRUPTED: i32 = 128 + libc::SIGINT;
/// All of a job goes on at once, but not all of it in the same moment.
const LASTS: Duration = Duration::from_millis(50);

/// The terminal that this process has. As long as this lives, what the terminal stops a
/// job with does not stop this process.
pub(crate) struct Terminal(AtFirst);

/// What the signals of [`STOPS`] did when this process began.
#[derive(Clone, Copy)]
pub(crate) struct AtFirst([libc::sighandler_t; 3]);

impl Terminal {
    /// `None`: it has none.
    pub fn of_job() -> Option<Terminal> {
        std::fs::File::open("/dev/tty").ok()?;
        Some(Terminal(AtFirst(STOPS.map(|signal| set(signal, libc::SIG_IGN)))))
    }

    /// For the command, which is stopped as usual.
    pub fn at_first(&self) -> AtFirst {
        self.0
    }

    /// If the terminal has stopped the command: stops this process too, until it goes on.
    pub async fn follow_stop(&self, command: Pid) {
        if is_stopped(command) {
            tokio::time::sleep(LASTS).await;
            if is_stopped(command) {
                let _ = kill_process(rustix::process::getpid(), Signal::STOP);
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.0.restore();
    }
}

impl AtFirst {
    /// Makes it so again; only by system calls.
    pub fn restore(self) {
        for (signal, action) in STOPS.into_iter().zip(self.0) {
            set(signal, action);
        }
    }
}

/// Whether the terminal has stopped this child, and not somebody by `SIGSTOP`.
fn is_stopped(child: Pid) -> bool {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(child), options).ok().flatten();
    let by = status.and_then(|s| s.stopping_signal());
    STOPS.iter().any(|signal| by == Some(*signal))
}

/// Ends this process with its command's exit code. A command that Ctrl-C has ended takes
/// this process with it in the same way: a shell goes by that to end its script.
pub(crate) fn exit(code: i32) -> ! {
    if code == INTERRUPTED && came_from_terminal(Signal::INT) {
        set(libc::SIGINT, libc::SIG_DFL);
        let _ = kill_process(rustix::process::getpid(), Signal::INT);
    }
    std::process::exit(code)
}

#[allow(unsafe_code)]
fn set(signal: i32, to: libc::sighandler_t) -> libc::sighandler_t {
    // SAFETY: sets what a signal does to what ignores it, to the default, or to what it
    // was before, and so to no code that is not there.
    unsafe { libc::signal(signal, to) }
}
