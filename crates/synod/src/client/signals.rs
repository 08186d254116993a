//! Signals to a command that holds something, as it takes them: they are for the
//! command that it runs, and none of them must leave behind what is held.

use crate::Outcome;
use rustix::process::Signal;
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
