//! A command that runs while something is held, and not a moment longer: with all
//! that it started.

use super::say;
use super::signals::{Signals, asks_to_end, came_from_terminal};
use super::terminal::{AtFirst, Terminal};
use super::watchdog::{Named, Watchdog, descendants, end_all, end_below, ended_children, kill};
use crate::Outcome;
use rustix::process::{Pid, Signal, WaitOptions, getpgid, getpgrp, getpid, kill_process, waitpid};
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
    signals: &mut Signals,
    doubt: impl Future<Output = String>,
) -> Outcome<i32> {
    match run_until(command, holding, session, signals, doubt, std::future::pending()).await? {
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
    signals: &mut Signals,
    doubt: impl Future<Output = String>,
    leave: impl Future<Output = String>,
) -> Outcome<Ended> {
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
    let mut held = match Held::start(program, args, holding, session, Terminal::of_job()) {
        Ok(held) => held,
        Err(Unstarted { code, why }) => {
            say::note(&why);
            return Ok(Ended::Code(code));
        }
    };
    tokio::pin!(doubt, leave);
    let mut asked: Option<(String, Instant)> = None;
    let mut told_to_end = false;
    loop {
        let kill_at = asked.as_ref().map(|(_, at)| *at);
        tokio::select! {
            status = held.child.wait() => {
                // What it left behind must not outlive the lock either.
                held.end_group();
                let status = status.map_err(|e| format!("{program}: {e}"))?;
                return Ok(match asked {
                    // It was asked to end by others besides: they mean this process too.
                    Some((why, _)) if !told_to_end => Ended::Asked(why),
                    _ => match held.was_lost(status, doubt.as_mut()).await {
                        Some(why) => Ended::Lost(format!("{program} was killed: {why}")),
                        None => Ended::Code(code_of(status)),
                    },
                });
            }
            why = &mut doubt => {
                // Nobody may act on a lock that others can have.
                held.kill().await;
                return Ok(Ended::Lost(format!("{program} was killed: {why}")));
            }
            why = &mut leave, if asked.is_none() => {
                held.ask(Signal::TERM);
                asked = Some((why, Instant::now() + END_WITHIN));
            }
            () = at(kill_at) => held.kill().await,
            () = held.watchdog.keep_quiet(session) => {}
            signal = signals.next() => {
                told_to_end |= asked.is_some() && asks_to_end(signal);
                held.pass_on(signal);
            }
            _ = children.recv() => held.children_changed().await,
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

/// The command's process, and those that it starts: a group of its own, or at a terminal
/// a part of this process's group.
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

    /// Starts it: at a terminal in this process's group, otherwise in one of its own.
    fn start(
        program: &str,
        args: &[String],
        holding: &Holding,
        session: Option<&Session>,
        terminal: Option<Terminal>,
    ) -> Result<Held, Unstarted> {
        let mut watchdog = Watchdog::start(session)?;
        let mut command = Command::new(program);
        command.args(args).kill_on_drop(true);
        command.envs(holding.environment.iter().map(|(name, value)| (name, value)));
        match &terminal {
            // What the command started and has left behind is this process's then.
            Some(_) => drop(rustix::process::set_child_subreaper(Some(getpid()))),
            None => {
                command.process_group(0);
                let typed = rustix::termios::isatty(std::io::stdin());
                command.stdin(if typed { Stdio::null() } else { Stdio::inherit() });
            }
        }
        let stops = terminal.as_ref().map(Terminal::at_first);
        before_it_begins(&mut command, watchdog.input(), stops);
        let child = command.spawn().map_err(|e| Unstarted {
            code: if e.kind() == ErrorKind::NotFound { NOT_THERE } else { NOT_RUNNABLE },
            why: format!("cannot run {program}: {e}"),
        })?;
        let pid = child.id().unwrap_or(0);
        watchdog.over(pid);
        Ok(Held { child, watchdog, terminal, pid })
    }

    /// Asks it to end and waits for that, with all that it started. It is killed if that
    /// takes too long, if the session comes to be in doubt, or when `at_once` returns.
    pub async fn end(mut self, session: &Session, at_once: impl Future<Output = ()>) {
        tokio::pin!(at_once);
        self.ask(Signal::TERM);
        let late = Instant::now() + END_WITHIN;
        loop {
            tokio::select! {
                _ = self.child.wait() => break,
                () = tokio::time::sleep_until(late) => {}
                () = session.closer_than(session.kill_margin()) => {}
                () = &mut at_once => {}
                // It may go on to its end: its watchdog must not think otherwise.
                () = self.watchdog.keep_quiet(Some(session)) => continue,
            }
            self.kill().await;
            break;
        }
        self.end_group();
    }

    /// Kills it with all that it started, in other groups too, and waits for its end.
    pub async fn kill(&mut self) {
        if let Some(pid) = self.living() {
            end_all(pid);
        }
        let _ = self.child.wait().await;
        self.end_group();
    }

    /// The command's process, if it has not ended.
    fn living(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(id as i32))
    }

    /// Ends what the command left behind in its group.
    pub fn end_group(&self) {
        if self.terminal.is_some() {
            let own = getpgrp();
            end_below(getpid(), |pid| getpgid(Some(pid)).is_ok_and(|group| group == own));
        } else if let Some(pid) = Pid::from_raw(self.pid as i32) {
            kill(pid, Signal::KILL);
        }
    }

    /// Why it was killed because it might not go on, if it was: by its watchdog, when this
    /// process did not come to do it.
    async fn was_lost(
        &mut self,
        status: ExitStatus,
        doubt: impl Future<Output = String>,
    ) -> Option<String> {
        if status.signal() != Some(Signal::KILL.as_raw()) {
            return None;
        }
        match tokio::time::timeout(Duration::ZERO, doubt).await {
            Ok(why) => Some(why),
            Err(_) if self.watchdog.has_killed().await => {
                Some("its watchdog did not hear in time that it may go on".to_owned())
            }
            Err(_) => None,
        }
    }

    /// Asks it and what it started to end; what is stopped would not hear of it.
    fn ask(&self, signal: Signal) {
        self.to_all(signal);
        self.to_all(Signal::CONT);
    }

    fn to_all(&self, signal: Signal) {
        let Some(pid) = self.living() else { return };
        if self.terminal.is_none() {
            return kill(pid, signal);
        }
        for pid in std::iter::once(pid).chain(descendants(pid)) {
            let _ = kill_process(pid, signal);
        }
    }

    /// A signal that came for it: what asks it to end is for all that it started, what
    /// has a meaning of its own for it alone.
    fn pass_on(&mut self, signal: Signal) {
        let has_it = self.terminal.is_some() && came_from_terminal(signal);
        if signal == Signal::CONT || (has_it && asks_to_end(signal)) {
            self.to_all(Signal::CONT);
        } else if asks_to_end(signal) {
            self.ask(signal);
        } else if let Some(pid) = self.living() {
            let _ = kill_process(pid, signal);
        }
    }

    /// At a terminal: follows the command when it is stopped, and lets go what it has left
    /// behind that has ended.
    async fn children_changed(&mut self) {
        let (Some(terminal), Some(command)) = (&self.terminal, self.living()) else { return };
        terminal.follow_stop(command).await;
        for pid in ended_children(getpid()) {
            if pid != command && Some(pid) != self.watchdog.process() {
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
    }
}

/// What the command's process does before its program begins: it names itself to its
/// watchdog, so that it never runs without one, and is stopped by its terminal as usual.
#[allow(unsafe_code)]
fn before_it_begins(command: &mut Command, watchdog: i32, stops: Option<AtFirst>) {
    let prepare = move || {
        Named::tell_own(watchdog)?;
        if let Some(stops) = stops {
            stops.restore();
        }
        Ok(())
    };
    // SAFETY: it takes no memory and no locks, and only makes system calls.
    unsafe {
        command.pre_exec(prepare);
    }
}
