//! The terminal of a held command. The command has a group of its own, so that all of
//! it can be ended; only the group in the foreground may read from the terminal, so
//! the command's is put there, and this process's again when the command has ended or
//! was stopped.

use rustix::process::{Pid, Signal};
use rustix::stdio::stdin;
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The terminal that this process was started from.
pub(crate) struct Terminal {
    own: Pid,
    /// The command's group.
    group: Option<Pid>,
    /// Whether the command's group was put in the foreground.
    lent: bool,
}

impl Terminal {
    /// `None`: the input is no terminal, or not this process's.
    pub fn of_input() -> Option<Terminal> {
        let front = tcgetpgrp(stdin()).ok()?;
        let own = rustix::process::getpgrp();
        // Who changes the foreground from behind, or writes from there, would be stopped.
        set_output_signal(libc::SIG_IGN);
        // The command goes there by itself, before it begins.
        Some(Terminal { own, group: None, lent: front == own })
    }

    /// Whether the command is to begin in the foreground.
    pub fn is_lent(&self) -> bool {
        self.lent
    }

    /// The command runs in this group.
    pub fn runs(&mut self, group: u32) {
        self.group = Pid::from_raw(group as i32);
    }

    /// Puts the command in the foreground if this process was put there, and lets it go
    /// on if it was stopped.
    pub fn resume(&mut self) {
        let Some(group) = self.group else { return };
        if tcgetpgrp(stdin()).is_ok_and(|front| front == self.own) {
            self.lent = tcsetpgrp(stdin(), group).is_ok();
        }
        super::watchdog::kill(group, Signal::CONT);
    }

    /// If the terminal has stopped the command: stops this process's own group too, as
    /// the shell expects, until it goes on.
    pub fn follow_stop(&mut self) {
        if !self.group.is_some_and(was_stopped) {
            return;
        }
        self.take_back();
        let _ = rustix::process::kill_current_process_group(Signal::TSTP);
        // Without a shell that looks after it, nothing has stopped it.
        self.resume();
    }

    fn take_back(&mut self) {
        let lent = std::mem::take(&mut self.lent);
        if lent && tcgetpgrp(stdin()).is_ok_and(|f| Some(f) == self.group || self.group.is_none()) {
            let _ = tcsetpgrp(stdin(), self.own);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Whether the terminal stopped this process, and not somebody by `SIGSTOP`.
fn was_stopped(process: Pid) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::Pid(process), options).ok().flatten();
    let by = status.and_then(|s| s.stopping_signal());
    [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].iter().any(|s| by == Some(*s))
}

#[allow(unsafe_code)]
fn set_output_signal(to: libc::sighandler_t) {
    // SAFETY: sets what one signal does to something that runs no code of this process.
    unsafe {
        libc::signal(libc::SIGTTOU, to);
    }
}

/// Puts the calling process's group in the foreground: for a process between its fork
/// and its program, so it only makes system calls.
pub(crate) fn to_foreground() {
    set_output_signal(libc::SIG_IGN);
    let _ = tcsetpgrp(stdin(), rustix::process::getpid());
}

/// The command gets the signal's default back.
pub(crate) fn as_at_first() {
    set_output_signal(libc::SIG_DFL);
}
