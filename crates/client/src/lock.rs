//! Locks that are held.

use crate::{Client, Error, Mode, Sequencer};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::lock_client::LockClient;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

/// Pause before a call is made again at another endpoint.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// How much longer than a caller wants to wait its call may take.
const SLACK: Duration = Duration::from_secs(5);

/// How long to wait for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wait {
    /// Until it is free, or the session is over.
    #[default]
    Forever,
    /// At most so long (and a few seconds more for a cluster that does not answer).
    AtMost(Duration),
    /// Not at all.
    Never,
}

/// How a lock is taken.
#[derive(Clone, Debug, Default)]
pub struct LockOptions {
    /// Alone or with others.
    pub mode: Mode,
    /// How long to wait for it.
    pub wait: Wait,
    /// Who asks, for people to read; the session's name if empty.
    pub owner: String,
    /// In an election: what the candidate proclaims, for its observers.
    pub value: Bytes,
}

/// A session's calls for locks.
#[derive(Default)]
pub(crate) struct Acquisitions {
    /// The number of the latest: by it a call that is made again finds its own place,
    /// and never another's.
    latest: AtomicU64,
    /// Those that were given up.
    leaving: Arc<watch::Sender<Leaving>>,
}

/// A lock that was taken. It is held as long as its session is safe and it was
/// not released; who must be sure shows its [`Sequencer`]. Dropping it releases
/// it in the background.
pub struct Lock {
    client: Client,
    sequencer: Sequencer,
    held: bool,
    runtime: Handle,
}

/// Acquisitions that were given up.
#[derive(Clone, Copy, Default)]
struct Leaving {
    /// Not cleaned up after yet.
    open: usize,
    /// Cleaned up after.
    done: u64,
}

impl Acquisitions {
    /// A number that no acquisition of the session had before.
    pub fn next(&self) -> u64 {
        self.latest.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A call that cleans up after itself unless it is answered.
    pub fn unanswered(&self, client: &Client, request: v1::LockAcquireRequest) -> Unanswered {
        let (client, leaving) = (client.clone(), self.leaving.clone());
        Unanswered { client, request: Some(request), leaving, runtime: Handle::current() }
    }

    /// How many were cleaned up after so far.
    pub fn cleaned(&self) -> u64 {
        self.leaving.borrow().done
    }

    /// Waits until those that were given up are cleaned up after; `false`: there are
    /// none, and there were none since that many had been. (An answer may have been on
    /// its way while the last of them was.)
    pub async fn left(&self, cleaned: u64) -> bool {
        let mut leaving = self.leaving.subscribe();
        let now = *leaving.borrow();
        if now.open == 0 {
            return now.done != cleaned;
        }
        // The sender lives in this value.
        let _ = leaving.wait_for(|l| l.open == 0).await;
        true
    }

    pub async fn acquire(
        &self,
        client: &Client,
        session: i64,
        name: &str,
        options: LockOptions,
    ) -> Result<Lock, Error> {
        let mode = match options.mode {
            Mode::Exclusive => v1::LockMode::Exclusive,
            Mode::Shared => v1::LockMode::Shared,
        };
        let request = v1::LockAcquireRequest {
            name: Bytes::copy_from_slice(name.as_bytes()),
            session,
            mode: mode.into(),
            r#try: options.wait == Wait::Never,
            wait_ms: 0,
            attempt: self.next(),
            owner: options.owner,
            value: options.value,
        };
        let until = match options.wait {
            Wait::Forever => None,
            Wait::AtMost(wait) => Instant::now().checked_add(wait),
            Wait::Never => Some(Instant::now()),
        };
        let mut unanswered = self.unanswered(client, request.clone());
        let asking = self.ask(client, request, until);
        let done = match until.and_then(|until| until.checked_add(SLACK)) {
            None => asking.await,
            Some(end) => tokio::time::timeout_at(end, asking).await.unwrap_or_else(|_| {
                Err(Error::Unavailable("the lock's queue could not be entered in time".into()))
            }),
        };
        // What a server decided needs no cleaning up.
        if !matches!(done, Err(Error::Unavailable(_))) {
            unanswered.answered();
        }
        let sequencer = done?.parse::<Sequencer>();
        let bad = |e| Error::Refused(Status::internal(format!("{e}")));
        let (client, runtime) = (client.clone(), Handle::current());
        Ok(Lock { client, sequencer: sequencer.map_err(bad)?, held: true, runtime })
    }

    /// Asks until a server has decided; the sequencer.
    async fn ask(
        &self,
        client: &Client,
        mut request: v1::LockAcquireRequest,
        until: Option<Instant>,
    ) -> Result<String, Error> {
        let mut rounds = 0;
        loop {
            if let Some(until) = until {
                let left = until.saturating_duration_since(Instant::now());
                request.wait_ms = (left.as_millis() as u64).max(1);
            }
            let (number, channel) = client.endpoints.current();
            let cleaned = self.cleaned();
            let done = LockClient::new(channel).acquire(request.clone()).await;
            match client.note(number, done) {
                Ok(answer) => return Ok(answer.into_inner().sequencer),
                Err(Error::Unavailable(e)) => {
                    rounds += 1;
                    let over = until.is_some_and(|until| Instant::now() >= until);
                    if over && rounds >= client.endpoints.count() {
                        return Err(Error::Unavailable(e));
                    }
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
                // It may be the place of a call that was given up a moment ago.
                Err(Error::Refused(s)) if s.code() == Code::AlreadyExists => {
                    if !self.left(cleaned).await {
                        return Err(Error::Refused(s));
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// A call for a lock of which it is not known how it ended. When its caller waits no
/// more, the lock must not stay with a session that does not know of it.
pub(crate) struct Unanswered {
    client: Client,
    request: Option<v1::LockAcquireRequest>,
    leaving: Arc<watch::Sender<Leaving>>,
    runtime: Handle,
}

impl Unanswered {
    /// It is known how the call ended.
    pub fn answered(&mut self) {
        self.request = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else { return };
        let (client, leaving) = (self.client.clone(), self.leaving.clone());
        leaving.send_modify(|l| l.open += 1);
        self.runtime.spawn(async move {
            leave(&client, v1::LockAcquireRequest { r#try: true, wait_ms: 0, ..request }).await;
            leaving.send_modify(|l| *l = Leaving { open: l.open - 1, done: l.done + 1 });
        });
    }
}

/// Takes up the call's place, or a new one, to give it up: if the lock comes with it,
/// by releasing it. What cannot be reached in time ends with its session.
async fn leave(client: &Client, request: v1::LockAcquireRequest) {
    let asking = |channel| {
        let request = request.clone();
        async move { LockClient::new(channel).acquire(request).await }
    };
    let asked = tokio::time::timeout(SLACK, client.again(asking)).await;
    if let Ok(Ok(held)) = asked
        && let Ok(sequencer) = held.sequencer.parse()
    {
        let _ = release(client, &sequencer).await;
    }
}

impl Lock {
    /// What proves that it is held.
    pub fn sequencer(&self) -> &Sequencer {
        &self.sequencer
    }

    /// The fencing token: of an exclusive lock, greater than that of every earlier
    /// holder.
    pub fn token(&self) -> i64 {
        self.sequencer.token
    }

    /// Returns when it is held no more, as the servers tell: somebody gave it back by
    /// its sequencer or deleted its key, or its session ended. It follows the key: what
    /// it does not tell while no server answers, the session's deadline does.
    pub async fn lost(&self) {
        self.client.lost(&self.sequencer).await;
    }

    /// Gives it back: [`Error::Stale`] if it had been lost before.
    pub async fn release(mut self) -> Result<(), Error> {
        let released = release(&self.client, &self.sequencer).await;
        // Otherwise it is tried again in the background.
        self.held = matches!(released, Err(Error::Unavailable(_)));
        released
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.held {
            let (client, sequencer) = (self.client.clone(), self.sequencer.clone());
            // If it fails, the lock ends with its session.
            self.runtime.spawn(async move { release(&client, &sequencer).await });
        }
    }
}

async fn release(client: &Client, sequencer: &Sequencer) -> Result<(), Error> {
    let sequencer = sequencer.to_string();
    let mut tries = 0;
    loop {
        tries += 1;
        let (number, channel) = client.endpoints.current();
        let release = v1::LockReleaseRequest { sequencer: sequencer.clone() };
        let done = LockClient::new(channel).release(release).await;
        match client.note(number, done) {
            Ok(_) => return Ok(()),
            // An earlier try may have done it: then nobody holds it by this token.
            Err(Error::Stale(_)) if tries > 1 => return Ok(()),
            Err(Error::Unavailable(e)) if tries > 2 * client.endpoints.count() => {
                return Err(Error::Unavailable(e));
            }
            Err(Error::Unavailable(_)) => tokio::time::sleep(AFTER_FAILURE).await,
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_from_before_the_last_was_cleaned_up_after_is_asked_for_again() {
        let all = Acquisitions::default();
        let before = all.cleaned();
        assert!(!all.left(before).await, "none was given up");
        all.leaving.send_modify(|l| l.open += 1);
        all.leaving.send_modify(|l| *l = Leaving { open: 0, done: 1 });
        assert!(all.left(before).await, "one was, meanwhile");
        assert!(!all.left(all.cleaned()).await, "not since then");
    }
}
