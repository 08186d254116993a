//! A command that runs while something is held, and not a moment longer: with all
//! that it started.

use super::say;
use super::signals::{Signals, asks_to_end};
use super::terminal::{Terminal, as_at_first, to_foreground};
use super::watchdog::{Named, Watchdog, end_all, kill};
use crate::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use synod_client::Session;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// How long a command may take to end when it is asked to, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Exit codes for a command that is not there, and for one that cannot be run.
const NOT_THERE: i32 = 127;
const NOT_RUNNABLE: i32 = 126;

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
    /// It was killed, for this reason: nobody knows whether it is held.
    Lost(String),
}

/// Runs the command until it ends (its exit code; 128 and the signal's number if
/// one ended it), or until `doubt` says why it must not go on: then it is killed.
/// Signals are passed on to it. Without a command, waits to be asked to end.
pub(crate) async fn run_held(
    command: &[String],
    holding: &Holding,
    session: Option<&Session>,
    doubt: impl Future<Output = String>,
) -> Outcome<i32> {
    match run_until(command, holding, session, doubt, std::future::pending()).await? {
        Ended::Code(code) => Ok(code),
        Ended::Asked(why) | Ended::Lost(why) => Err(why),
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
    let mut signals = Signals::listen()?;
    let Some((program, args)) = command.split_first() else {
        say::out(&holding.says);
        return Ok(tokio::select! {
            why = doubt => Ended::Lost(why),
            why = leave => Ended::Asked(why),
            _ = signals.end() => Ended::Code(0),
        });
    };
    let listen = |e| format!("cannot listen for signals: {e}");
    let mut children = signal(SignalKind::child()).map_err(listen)?;
    let mut held = match Held::start(program, args, holding, session, Terminal::of_input()) {
        Ok(held) => held,
        Err(Unstarted { code, why }) => {
            say::note(&why);
            return Ok(Ended::Code(code));
        }
    };
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
                held.kill().await;
                return Ok(Ended::Lost(format!("{program} was killed: {why}")));
            }
            why = &mut leave, if asked.is_none() => {
                held.send(Signal::TERM);
                asked = Some((why, Instant::now() + END_WITHIN));
            }
            () = at(kill_at) => held.kill().await,
            () = held.watchdog.keep_quiet(session) => {}
            signal = signals.next() => held.pass_on(signal),
            _ = children.recv() => held.follow_stop(),
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

/// Why a command does not run.
struct Unstarted {
    code: i32,
    why: String,
}

impl From<String> for Unstarted {
    fn from(why: String) -> Unstarted {
        Unstarted { code: 1, why }
    }
}

/// The command's process, and those that it starts: one group.
pub(crate) struct Held {
    pub child: Child,
    pub watchdog: Watchdog,
    terminal: Option<Terminal>,
    pid: u32,
}

impl Held {
    /// Starts it in the background: it does not read from a terminal.
    pub fn spawn(
        program: &str,
        args: &[String],
        holding: &Holding,
        session: Option<&Session>,
    ) -> Outcome<Held> {
        Held::start(program, args, holding, session, None).map_err(|e| e.why)
    }

    /// Starts it, in the foreground if this process is there.
    fn start(
        program: &str,
        args: &[String],
        holding: &Holding,
        session: Option<&Session>,
        mut terminal: Option<Terminal>,
    ) -> Result<Held, Unstarted> {
        let mut watchdog = Watchdog::start(session)?;
        let mut command = Command::new(program);
        command.args(args).kill_on_drop(true).process_group(0);
        command.envs(holding.environment.iter().map(|(name, value)| (name, value)));
        let background = terminal.is_none() && rustix::termios::isatty(std::io::stdin());
        command.stdin(if background { Stdio::null() } else { Stdio::inherit() });
        let to_front = terminal.as_ref().is_some_and(Terminal::is_lent);
        before_it_begins(&mut command, watchdog.input(), to_front);
        let child = command.spawn().map_err(|e| Unstarted {
            code: if e.kind() == ErrorKind::NotFound { NOT_THERE } else { NOT_RUNNABLE },
            why: format!("cannot run {program}: {e}"),
        })?;
        let pid = child.id().unwrap_or(0);
        watchdog.over(pid);
        if let Some(terminal) = &mut terminal {
            terminal.runs(pid);
        }
        Ok(Held { child, watchdog, terminal, pid })
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
            self.kill().await;
            break;
        }
        self.end_group();
    }

    /// Kills it with all that it started, and waits for its end.
    async fn kill(&mut self) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) {
            end_all(pid);
        }
        let _ = self.child.wait().await;
    }

    /// Ends what the command left behind in its group.
    pub fn end_group(&self) {
        if let Some(pid) = Pid::from_raw(self.pid as i32) {
            kill(pid, Signal::KILL);
        }
    }

    /// Signals it, and what it started.
    pub fn send(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) {
            kill(pid, signal);
        }
    }

    /// A signal that came for it: what asks it to end is for all that it started, what
    /// has a meaning of its own for it alone.
    fn pass_on(&mut self, signal: Signal) {
        if signal == Signal::CONT {
            if let Some(terminal) = &mut self.terminal {
                terminal.resume();
            }
        } else if asks_to_end(signal) {
            self.send(signal);
        } else if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) {
            let _ = kill_process(pid, signal);
        }
    }

    fn follow_stop(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.follow_stop();
        }
    }
}

/// What the command's process does before its program begins: it names itself to its
/// watchdog, so that it never runs without one, and takes the terminal.
#[allow(unsafe_code)]
fn before_it_begins(command: &mut Command, watchdog: i32, to_front: bool) {
    let prepare = move || {
        Named::tell_own(watchdog)?;
        if to_front {
            to_foreground();
        }
        as_at_first();
        Ok(())
    };
    // SAFETY: it takes no memory and no locks, and only makes system calls.
    unsafe {
        command.pre_exec(prepare);
    }
}
