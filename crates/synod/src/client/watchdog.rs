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
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Stdio;
use std::time::Duration;
use synod_client::Session;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;

/// A sleep does not see that the machine was suspended: none is longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause when there is nothing more to tell, or a watchdog could not be started.
const REST: Duration = Duration::from_millis(20);

/// How long it takes a watchdog to end that has ended its command, at most.
const ENDS_WITHIN: Duration = Duration::from_millis(500);

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
        // Who ends this program by its name (`pkill synod`) ends holders; what they hold
        // a command for must end, too.
        let _ = rustix::thread::set_name(c"hold-watchdog");
        let mut told = Told::on_stdin()?;
        let why = loop {
            let until = told.until.filter(|_| told.pid.is_some());
            tokio::select! {
                biased;
                open = told.more() => if !open {
                    break "its holder has ended";
                },
                () = late(until) => {
                    // If it was this process that stood still, it was told more meanwhile.
                    let open = told.take(|pipe, bytes| Ok(rustix::io::read(pipe, bytes)?));
                    if !open || told.is_late() {
                        break "its holder has not said in time that it may go on";
                    }
                }
            }
        };
        if let Some(pid) = told.pid {
            end_all(pid);
            say::note(&format!("the watchdog killed the command: {why}"));
        }
        Ok(())
    }
}

/// What the holder has told.
struct Told {
    pipe: Receiver,
    /// The beginning of a line.
    rest: Vec<u8>,
    until: Option<u64>,
    pid: Option<Pid>,
}

impl Told {
    fn on_stdin() -> Outcome<Told> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned();
        let pipe = stdin.and_then(Receiver::from_owned_fd);
        let pipe = pipe.map_err(|e| format!("a watchdog is told by a pipe: {e}"))?;
        Ok(Told { pipe, rest: Vec::new(), until: None, pid: None })
    }

    /// Returns when there was more; whether there can be more yet.
    async fn more(&mut self) -> bool {
        self.pipe.readable().await.is_ok() && self.take(Receiver::try_read)
    }

    /// Takes all that is there; whether there can be more.
    fn take(&mut self, read: impl Fn(&Receiver, &mut [u8]) -> std::io::Result<usize>) -> bool {
        let mut bytes = [0; 512];
        loop {
            match read(&self.pipe, &mut bytes) {
                Ok(0) => return false,
                Ok(count) => self.hear(&bytes[..count]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.rest.extend(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim().strip_prefix("pid ") {
                Some(process) => self.pid = process.parse().ok().and_then(Pid::from_raw),
                None => self.until = line.trim().parse().ok().or(self.until),
            }
        }
    }

    /// Whether the command may not run any longer. One that is about to begin is still to
    /// be heard of.
    fn is_late(&self) -> bool {
        self.pid.is_some() && self.until.is_some_and(|until| until <= since_boot_ms())
    }
}

/// Returns at that time since the machine was started; never, if there is none.
async fn late(until: Option<u64>) {
    let Some(until) = until else { return std::future::pending().await };
    loop {
        let left = until.saturating_sub(since_boot_ms());
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(left).min(LOOK_EVERY)).await;
    }
}

/// Signals a process's group; an error means that it has ended.
pub(crate) fn kill(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}

/// Ends a process with its group, if it has one of its own, and with what it started in
/// other groups (as a shell does that has a terminal).
pub(crate) fn end_all(process: Pid) {
    // Stopped, it starts no more of them.
    kill(process, Signal::STOP);
    let _ = kill_process(process, Signal::STOP);
    end_below(process, |_| true);
    kill(process, Signal::KILL);
    let _ = kill_process(process, Signal::KILL);
}

/// Kills those of a process's descendants that are meant, also those that they start
/// meanwhile.
pub(crate) fn end_below(process: Pid, is_meant: impl Fn(Pid) -> bool) {
    let mut ended = Vec::new();
    loop {
        let mut found = descendants(process);
        found.retain(|pid| !ended.contains(pid) && is_meant(*pid));
        if found.is_empty() {
            break;
        }
        for pid in &found {
            let _ = kill_process(*pid, Signal::KILL);
        }
        ended.extend(found);
    }
}

/// All that a process started, and they in turn, as far as their parents live.
pub(crate) fn descendants(process: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<Pid>> = BTreeMap::new();
    for (pid, _, parent) in processes() {
        children.entry(parent).or_default().push(pid);
    }
    let (mut all, mut next) = (Vec::new(), vec![process]);
    while let Some(parent) = next.pop() {
        let below = children.remove(&parent.as_raw_pid()).unwrap_or_default();
        next.extend(&below);
        all.extend(below);
    }
    all
}

/// A process's children that have ended, and that nobody has waited for.
pub(crate) fn ended_children(process: Pid) -> Vec<Pid> {
    let ended = |(pid, state, parent): (Pid, char, i32)| {
        (state == 'Z' && parent == process.as_raw_pid()).then_some(pid)
    };
    processes().into_iter().filter_map(ended).collect()
}

/// All processes: number, state and parent.
fn processes() -> Vec<(Pid, char, i32)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // PID (NAME) STATE PARENT ...: a name may have blanks and parentheses.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let mut words = after.split_whitespace();
        let state = words.next().and_then(|state| state.chars().next());
        if let (Some(state), Some(Ok(parent))) = (state, words.next().map(str::parse)) {
            all.push((pid, state, parent));
        }
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
    has_killed: bool,
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
        let watchdog = Watchdog { process, input, pid: None, has_killed: false };
        watchdog.tell_deadline(session);
        Ok(watchdog)
    }

    /// Where the command, before its program begins, writes [`Named`].
    pub fn input(&self) -> i32 {
        self.input.as_ref().map_or(-1, |input| input.as_raw_fd())
    }

    /// The watchdog's own process.
    pub fn process(&self) -> Option<Pid> {
        self.process.id().and_then(|id| Pid::from_raw(id as i32))
    }

    /// Whether it has killed the command: it ends in order only then, and at once.
    pub async fn has_killed(&mut self) -> bool {
        if !self.has_killed {
            let end = tokio::time::timeout(ENDS_WITHIN, self.process.wait()).await;
            self.has_killed = end.is_ok_and(|status| status.is_ok_and(|s| s.success()));
        }
        self.has_killed
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
            status = self.process.wait() => {
                self.has_killed |= status.is_ok_and(|s| s.success());
                match self.has_killed {
                    true => tokio::time::sleep(REST).await,
                    false => self.replace(session).await,
                }
            }
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
