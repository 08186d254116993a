//! A command that runs while something is held, and not a moment longer: with all
//! that it started, unless it was started from a terminal; then only itself.

use super::watchdog::{Watchdog, kill};
use crate::Outcome;
use rustix::process::{Pid, Signal};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use synod_client::Session;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// How long a command may take to end when it is asked to, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(5);

/// What is held, for the command to see.
pub(crate) struct Holding {
    /// Variables of its environment.
    pub environment: Vec<(&'static str, String)>,
    /// What is printed when there is no command.
    pub says: String,
}

/// How a command's time ended.
pub(crate) enum Ended {
    /// It ended by itself, with this exit code.
    Code(i32),
    /// What was held is to be given back, for this reason, and it has ended.
    Asked(String),
}

/// Runs the command until it ends (its exit code; 128 and the signal's number if
/// one ended it), or until `doubt` says why it must not go on: then it is killed.
/// Interruptions are passed on to it. Without a command, waits to be interrupted.
pub(crate) async fn run_held(
    command: &[String],
    holding: &Holding,
    session: Option<&Session>,
    doubt: impl Future<Output = String>,
) -> Outcome<i32> {
    match run_until(command, holding, session, doubt, std::future::pending()).await? {
        Ended::Code(code) => Ok(code),
        Ended::Asked(why) => Err(why),
    }
}

/// The same, but also until `leave` says why what is held is to be given back: then
/// the command is asked to end, and killed if it takes too long.
pub(crate) async fn run_until(
    command: &[String],
    holding: &Holding,
    session: Option<&Session>,
    doubt: impl Future<Output = String>,
    leave: impl Future<Output = String>,
) -> Outcome<Ended> {
    let listen = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let Some((program, args)) = command.split_first() else {
        println!("{}", holding.says);
        return tokio::select! {
            why = doubt => Err(why),
            why = leave => Ok(Ended::Asked(why)),
            _ = interrupt.recv() => Ok(Ended::Code(0)),
            _ = terminate.recv() => Ok(Ended::Code(0)),
        };
    };
    let mut held = Held::spawn(program, args, holding)?;
    tokio::pin!(doubt, leave);
    let mut asked: Option<(String, Instant)> = None;
    loop {
        let kill_at = asked.as_ref().map(|(_, at)| *at);
        tokio::select! {
            status = held.child.wait() => {
                // What it left behind must not outlive the lock either.
                held.end_group();
                if let Some((why, _)) = asked {
                    return Ok(Ended::Asked(why));
                }
                let code = status.map(code_of).map_err(|e| format!("{program}: {e}"))?;
                return Ok(Ended::Code(code));
            }
            why = &mut doubt => {
                // Nobody may act on a lock that others can have.
                held.send(Signal::KILL);
                let _ = held.child.wait().await;
                return Err(format!("{program} was killed: {why}"));
            }
            why = &mut leave, if asked.is_none() => {
                held.send(Signal::TERM);
                asked = Some((why, Instant::now() + END_WITHIN));
            }
            () = at(kill_at) => {
                held.send(Signal::KILL);
                let _ = held.child.wait().await;
            }
            () = held.watchdog.keep_quiet(session) => {}
            // A terminal interrupts the command by itself.
            _ = interrupt.recv() => if held.group { held.send(Signal::INT) },
            _ = terminate.recv() => held.send(Signal::TERM),
        }
    }
}

/// Returns at that time; never, if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The command's process, and those that it starts: one group, unless it reads
/// from a terminal, which only the terminal's own group may.
pub(crate) struct Held {
    pub child: Child,
    pub watchdog: Watchdog,
    group: bool,
    pid: u32,
}

impl Held {
    pub fn spawn(program: &str, args: &[String], holding: &Holding) -> Outcome<Held> {
        let group = !rustix::termios::isatty(std::io::stdin());
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::inherit()).kill_on_drop(true);
        command.envs(holding.environment.iter().map(|(name, value)| (name, value)));
        if group {
            command.process_group(0);
        }
        let mut child = command.spawn().map_err(|e| format!("cannot run {program}: {e}"))?;
        let pid = child.id().unwrap_or(0);
        match Watchdog::over(pid, group) {
            Ok(watchdog) => Ok(Held { child, watchdog, group, pid }),
            Err(e) => {
                let _ = child.start_kill();
                Err(e)
            }
        }
    }

    /// Sends a signal and waits until it has ended, with all that it started. It is
    /// killed if that takes too long, or if the session comes to be in doubt.
    pub async fn end(mut self, with: Signal, session: &Session) {
        self.send(with);
        let late = Instant::now() + END_WITHIN;
        loop {
            tokio::select! {
                _ = self.child.wait() => break,
                () = tokio::time::sleep_until(late) => {}
                () = session.closer_than(session.kill_margin()) => {}
                // It may go on to its end: its watchdog must not think otherwise.
                () = self.watchdog.keep_quiet(Some(session)) => continue,
            }
            self.send(Signal::KILL);
            let _ = self.child.wait().await;
            break;
        }
        self.end_group();
    }

    /// Ends what the command left behind in its group.
    pub fn end_group(&self) {
        if let Some(pid) = Pid::from_raw(self.pid as i32).filter(|_| self.group) {
            kill(pid, true, Signal::KILL);
        }
    }

    /// Signals it, and what it started.
    pub fn send(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) {
            kill(pid, self.group, signal);
        }
    }
}
