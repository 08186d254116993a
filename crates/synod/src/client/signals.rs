//! Signals to a command that holds something, as it takes them: they are for the
//! command that it runs, and none of them must leave behind what is held.

use crate::Outcome;
use rustix::process::Signal;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use tokio::signal::unix::{SignalKind, signal};

/// By these a process is asked to end.
const END: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
/// These mean what the command takes them for; by the last a shell lets a job go on.
const OTHERS: [Signal; 3] = [Signal::USR1, Signal::USR2, Signal::CONT];

/// The signals that came. From the first of them that listens on, none ends this process.
pub(crate) struct Signals(Vec<(Signal, tokio::signal::unix::Signal)>);

impl Signals {
    /// What was ignored when this process began (`nohup`) stays ignored, for the command
    /// too.
    pub fn listen() -> Outcome<Signals> {
        note_origins();
        let wanted = END.into_iter().chain(OTHERS).filter(|s| !is_ignored(*s));
        let open = |s: Signal| match signal(SignalKind::from_raw(s.as_raw())) {
            Ok(stream) => Ok((s, stream)),
            Err(e) => Err(format!("cannot listen for signals: {e}")),
        };
        wanted.map(open).collect::<Outcome<_>>().map(Signals)
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (signal, stream) in &mut self.0 {
                if stream.poll_recv(cx).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next one by which this process is asked to end.
    pub async fn end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if asks_to_end(signal) {
                return signal;
            }
        }
    }
}

/// Whether a process that gets it is to end.
pub(crate) fn asks_to_end(signal: Signal) -> bool {
    END.contains(&signal)
}

/// The signals (a bit for each, by its number) whose latest one was typed at a terminal.
static TYPED: AtomicU64 = AtomicU64::new(0);

/// Whether the latest one of these signals was typed at the terminal (Ctrl-C): then the
/// whole job there has it.
pub(crate) fn came_from_terminal(signal: Signal) -> bool {
    TYPED.load(Ordering::Relaxed) & (1 << signal.as_raw()) != 0
}

/// From now on it is noted where a signal comes from that can be typed.
#[allow(unsafe_code)]
fn note_origins() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [Signal::INT, Signal::QUIT].into_iter().filter(|s| !is_ignored(*s)) {
            let bit = 1 << signal.as_raw();
            let note = move |info: &libc::siginfo_t| {
                // The kernel's own codes are positive, those of processes are not.
                match info.si_code > 0 {
                    true => TYPED.fetch_or(bit, Ordering::Relaxed),
                    false => TYPED.fetch_and(!bit, Ordering::Relaxed),
                };
            };
            // SAFETY: it changes an atomic number, as a signal's handler may. If it cannot
            // be set, all signals are taken for those of processes.
            let _ = unsafe { signal_hook_registry::register_sigaction(signal.as_raw(), note) };
        }
    });
}

/// What became of a wait.
pub(crate) fn while_waiting(signal: Signal) -> String {
    let what = if signal == Signal::INT { "interrupted" } else { "terminated" };
    format!("{what} while waiting")
}

#[allow(unsafe_code)]
fn is_ignored(signal: Signal) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks for an action and sets none; the answer is read only if there is one.
    unsafe {
        libc::sigaction(signal.as_raw(), std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
