//! The watchdog of a held command: a process of its own that ends the command when
//! its holder dies, or when the holder has not said in time that it may go on (it
//! may be paused, and could not end the command itself). It is there before the
//! command, which names itself before its program begins.
//!
//! It reads lines on its standard input: until when, in milliseconds of the machine's
//! monotonic clock, the command may run; and `pid` with the command's process. The end
//! of the input is the end of the holder.

use super::say;
use crate::Outcome;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Stdio;
use std::time::Duration;
use synod_client::Session;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;

/// A sleep does not see that the machine was suspended: none is longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause when there is nothing more to tell, or a watchdog could not be started.
const REST: Duration = Duration::from_millis(20);

/// Milliseconds since the machine was started, the same in all its processes; the time
/// that it was suspended counts.
pub(crate) fn since_boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

/// Arguments of the watchdog: what it needs to know it reads.
#[derive(Args)]
pub struct WatchdogArgs {}

impl WatchdogArgs {
    pub async fn run(self) -> Outcome {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let (mut until, mut pid): (Option<u64>, Option<Pid>) = (None, None);
        loop {
            let late = async {
                match until {
                    None => std::future::pending().await,
                    Some(until) => loop {
                        let left = until.saturating_sub(since_boot_ms());
                        if left == 0 {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(left).min(LOOK_EVERY)).await;
                    },
                }
            };
            tokio::select! {
                biased;
                line = lines.next_line() => match line.ok().flatten() {
                    Some(line) => match line.trim().strip_prefix("pid ") {
                        Some(process) => pid = process.parse().ok().and_then(Pid::from_raw),
                        None => until = line.trim().parse().ok().or(until),
                    },
                    None => break,
                },
                // A command that is about to begin is still to be heard of.
                () = late, if pid.is_some() => break,
            }
        }
        if let Some(pid) = pid {
            end_all(pid);
        }
        Ok(())
    }
}

/// Signals a process's group; an error means that it has ended.
pub(crate) fn kill(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}

/// Ends a process with its group, and with what it started in other groups (as a shell
/// does that has a terminal).
pub(crate) fn end_all(process: Pid) {
    // Stopped, it starts no more of them.
    kill(process, Signal::STOP);
    let mut ended = Vec::new();
    loop {
        let mut found = descendants(process);
        found.retain(|p| !ended.contains(p));
        if found.is_empty() {
            break;
        }
        for pid in &found {
            let _ = kill_process(*pid, Signal::KILL);
        }
        ended.extend(found);
    }
    kill(process, Signal::KILL);
}

/// All that a process started, and they in turn, as far as their parents live.
fn descendants(process: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<Pid>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // PID (NAME) STATE PARENT ...: a name may have blanks and parentheses.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        if let Some(Ok(parent)) = after.split_whitespace().nth(1).map(str::parse) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut all, mut next) = (Vec::new(), vec![process]);
    while let Some(parent) = next.pop() {
        let below = children.remove(&parent.as_raw_pid()).unwrap_or_default();
        next.extend(&below);
        all.extend(below);
    }
    all
}

/// The holder's end of it.
pub(crate) struct Watchdog {
    process: Child,
    /// Apart from the process: who waits for its end would close it.
    input: Option<ChildStdin>,
    /// The command's.
    pid: Option<Pid>,
}

impl Watchdog {
    /// Starts one, which knows from the first until when the command may run.
    pub fn start(session: Option<&Session>) -> Outcome<Watchdog> {
        let own = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
        let mut command = Command::new(own);
        command.arg("watchdog");
        // In a group of its own: what is meant for the holder must not end it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let process = command.kill_on_drop(true).spawn();
        let mut process = process.map_err(|e| format!("cannot start the watchdog: {e}"))?;
        let input = process.stdin.take();
        let watchdog = Watchdog { process, input, pid: None };
        watchdog.tell_deadline(session);
        Ok(watchdog)
    }

    /// Where the command, before its program begins, writes [`Named`].
    pub fn input(&self) -> i32 {
        self.input.as_ref().map_or(-1, |input| input.as_raw_fd())
    }

    /// The command was started, as this process.
    pub fn over(&mut self, pid: u32) {
        self.pid = Pid::from_raw(pid as i32);
    }

    /// Tells it, now and then, until when the command may run: as long as the session
    /// is safe, less the time that it takes to kill. Returns when it is time to tell
    /// it again. A watchdog that has ended is followed by another; if there can be none,
    /// the command is killed.
    pub async fn keep_quiet(&mut self, session: Option<&Session>) {
        let again = self.tell_deadline(session);
        let doubt = async {
            match session {
                Some(session) if session.is_safe() => session.in_doubt().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(again) => {}
            () = doubt => {}
            _ = self.process.wait() => self.replace(session).await,
        }
    }

    async fn replace(&mut self, session: Option<&Session>) {
        match Watchdog::start(session) {
            Ok(mut next) => {
                say::note("the watchdog has ended: another takes its place");
                next.pid = self.pid;
                if let Some(pid) = self.pid {
                    next.tell(&Named::of(pid.as_raw_pid()).0);
                }
                *self = next;
            }
            Err(e) => {
                say::note(&format!("the watchdog has ended, and so must the command: {e}"));
                if let Some(pid) = self.pid {
                    end_all(pid);
                }
                tokio::time::sleep(REST).await;
            }
        }
    }

    /// For how long that holds.
    fn tell_deadline(&self, session: Option<&Session>) -> Duration {
        let Some(session) = session else { return LOOK_EVERY };
        // This clock first: a pause between the two makes the time shorter.
        let now = since_boot_ms();
        let left = session.deadline().saturating_duration_since(Instant::now());
        let left = left.saturating_sub(session.kill_margin() / 2);
        // The servers may have ended the session long before its deadline.
        let left = if session.is_safe() { left } else { Duration::ZERO };
        self.tell(format!("{}\n", now + left.as_millis() as u64).as_bytes());
        (left / 4).max(REST)
    }

    fn tell(&self, line: &[u8]) {
        if let Some(input) = &self.input {
            // If it is gone there is nobody to tell.
            let _ = rustix::io::write(input.as_fd(), line);
        }
    }
}

impl Drop for Watchdog {
    /// The command has ended. The watchdog must be gone before its input ends.
    fn drop(&mut self) {
        let _ = self.process.start_kill();
    }
}

/// The line that names a process; of one length, so that it can be made without
/// memory.
pub(crate) struct Named([u8; 15]);

impl Named {
    pub fn of(pid: i32) -> Named {
        let mut line = *b"pid 0000000000\n";
        let mut rest = pid.unsigned_abs();
        for digit in line[4..14].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Named(line)
    }

    /// Writes it, as the process itself: for one between its fork and its program, so
    /// it only makes system calls.
    #[allow(unsafe_code)]
    pub fn tell_own(input: i32) -> std::io::Result<()> {
        let line = Named::of(rustix::process::getpid().as_raw_pid()).0;
        // SAFETY: the bytes are this function's own; a closed descriptor is an error.
        let written = unsafe { libc::write(input, line.as_ptr().cast(), line.len()) };
        if written == line.len() as isize { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_names_itself_without_memory() {
        assert_eq!(&Named::of(1).0, b"pid 0000000001\n");
        assert_eq!(&Named::of(i32::MAX).0, b"pid 2147483647\n");
    }

    #[test]
    fn what_a_process_started_is_found_and_ended() {
        use std::io::Read;
        // The one below is in a group and a session of its own.
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "setsid sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut first = [0; 2];
        let mut out = shell.stdout.take().expect("its output");
        out.read_exact(&mut first).expect("its child");
        let pid = Pid::from_raw(shell.id() as i32).expect("a process");
        assert!(!descendants(pid).is_empty());
        end_all(pid);
        let _ = shell.kill();
        shell.wait().expect("its end");
        // Its output ends when all that had it have ended.
        let mut rest = String::new();
        out.read_to_string(&mut rest).expect("the end");
    }
}
