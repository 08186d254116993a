//! The watchdog of a held command: a process of its own that ends the command when
//! its holder dies, or when the holder has not said in time that it may go on (it
//! may be paused, and could not end the command itself).
//!
//! The holder writes lines to its standard input: until when, in milliseconds of
//! the machine's monotonic clock, the command may run; the end of the input is the
//! end of the holder.

use crate::Outcome;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::process::Stdio;
use std::time::Duration;
use synod_client::Session;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// A sleep does not see that the machine was suspended: none is longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Milliseconds since the machine was started, the same in all its processes; the time
/// that it was suspended counts.
pub(crate) fn since_boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

/// Arguments of the watchdog.
#[derive(Args)]
pub struct WatchdogArgs {
    /// The process
    pid: i32,
    /// And its group
    #[arg(long)]
    group: bool,
}

impl WatchdogArgs {
    pub async fn run(self) -> Outcome {
        let pid = Pid::from_raw(self.pid).ok_or_else(|| "no process has the id 0".to_owned())?;
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut until: Option<u64> = None;
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
                line = lines.next_line() => match line.ok().flatten() {
                    Some(line) => until = line.trim().parse().ok().or(until),
                    None => break,
                },
                () = late => break,
            }
        }
        kill(pid, self.group, Signal::KILL);
        Ok(())
    }
}

/// Signals a process, or its whole group; an error means that it has ended.
pub(crate) fn kill(pid: Pid, group: bool, signal: Signal) {
    let _ = if group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
}

/// The holder's end of it.
pub(crate) struct Watchdog(Child);

impl Watchdog {
    /// Watches over a process that was just started.
    pub fn over(pid: u32, group: bool) -> Outcome<Watchdog> {
        let own = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
        let mut command = Command::new(own);
        command.args(["watchdog", &pid.to_string()]).args(group.then_some("--group"));
        // In a group of its own: what is meant for the holder must not end it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.kill_on_drop(true).spawn();
        Ok(Watchdog(child.map_err(|e| format!("cannot start the watchdog: {e}"))?))
    }

    /// Tells it, now and then, until when the command may run: as long as the session
    /// is safe, less the time that it takes to kill. Returns when it is time to tell
    /// it again; without a session, never.
    pub async fn keep_quiet(&mut self, session: Option<&Session>) {
        let Some(session) = session else { return std::future::pending().await };
        // This clock first: a pause between the two makes the time shorter.
        let now = since_boot_ms();
        let left = session.deadline().saturating_duration_since(Instant::now());
        let left = left.saturating_sub(session.kill_margin() / 2);
        if let Some(stdin) = &mut self.0.stdin {
            let line = format!("{}\n", now + left.as_millis() as u64);
            // If it is gone there is nobody to tell.
            let _ = stdin.write_all(line.as_bytes()).await;
        }
        tokio::time::sleep((left / 4).max(Duration::from_millis(20))).await;
    }
}

impl Drop for Watchdog {
    /// The command has ended. The watchdog must be gone before its input ends.
    fn drop(&mut self) {
        let _ = self.0.start_kill();
    }
}
