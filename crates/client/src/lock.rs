//! Locks that are held.

use crate::{Client, Error, Mode, Sequencer};
use bytes::Bytes;
use std::time::Duration;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::lock_client::LockClient;
use tokio::time::Instant;

/// Pause before a call is made again at another endpoint.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// How long to wait for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wait {
    /// Until it is free, or the session is over.
    #[default]
    Forever,
    /// At most so long.
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

/// A lock that was taken. It is held as long as its session is safe and it was
/// not released; who must be sure shows its [`Sequencer`]. Dropping it releases
/// it in the background.
pub struct Lock {
    client: Client,
    sequencer: Sequencer,
    held: bool,
}

impl Lock {
    pub(crate) async fn acquire(
        client: &Client,
        session: i64,
        name: &str,
        options: LockOptions,
    ) -> Result<Lock, Error> {
        let mode = match options.mode {
            Mode::Exclusive => v1::LockMode::Exclusive,
            Mode::Shared => v1::LockMode::Shared,
        };
        let mut request = v1::LockAcquireRequest {
            name: Bytes::copy_from_slice(name.as_bytes()),
            session,
            mode: mode.into(),
            r#try: options.wait == Wait::Never,
            wait_ms: 0,
            resume: false,
            owner: options.owner,
            value: options.value,
        };
        let until = match options.wait {
            Wait::AtMost(wait) => Some(Instant::now() + wait),
            _ => None,
        };
        let mut unanswered = Unanswered { client: client.clone(), request: None };
        loop {
            unanswered.request = Some(request.clone());
            if let Some(until) = until {
                let left = until.saturating_duration_since(Instant::now());
                request.wait_ms = (left.as_millis() as u64).max(1);
            }
            let (number, channel) = client.endpoints.current();
            let done = LockClient::new(channel).acquire(request.clone()).await;
            unanswered.request = None;
            match client.note(number, done) {
                Ok(answer) => {
                    let text = answer.into_inner().sequencer;
                    let bad = |e| Error::Refused(tonic::Status::internal(format!("{e}")));
                    let sequencer = text.parse::<Sequencer>().map_err(bad)?;
                    return Ok(Lock { client: client.clone(), sequencer, held: true });
                }
                // The place that this call may have taken is its own to go on with.
                Err(Error::Unavailable(_)) => {
                    request.resume = true;
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// What proves that it is held.
    pub fn sequencer(&self) -> &Sequencer {
        &self.sequencer
    }

    /// The fencing token: greater than that of every earlier holder.
    pub fn token(&self) -> i64 {
        self.sequencer.token
    }

    /// Gives it back: [`Error::Stale`] if it had been lost before.
    pub async fn release(mut self) -> Result<(), Error> {
        self.held = false;
        release(&self.client, &self.sequencer).await
    }
}

/// A call for a lock. When its caller stops waiting, the answer may be on its way;
/// then the lock must not stay with a session that does not know of it.
struct Unanswered {
    client: Client,
    request: Option<v1::LockAcquireRequest>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let Some(request) = self.request.take() else { return };
        let client = self.client.clone();
        runtime.spawn(async move {
            let request = v1::LockAcquireRequest { r#try: true, resume: true, ..request };
            let (_, channel) = client.endpoints.current();
            let held = LockClient::new(channel).acquire(request).await;
            if let Ok(sequencer) = held.map(|h| h.into_inner().sequencer)
                && let Ok(sequencer) = sequencer.parse()
            {
                let _ = release(&client, &sequencer).await;
            }
        });
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.held {
            let (client, sequencer) = (self.client.clone(), self.sequencer.clone());
            // If it fails, the lock ends with its session.
            runtime.spawn(async move { release(&client, &sequencer).await });
        }
    }
}

async fn release(client: &Client, sequencer: &Sequencer) -> Result<(), Error> {
    let sequencer = sequencer.to_string();
    let mut tried = false;
    loop {
        let (number, channel) = client.endpoints.current();
        let release = v1::LockReleaseRequest { sequencer: sequencer.clone() };
        let done = LockClient::new(channel).release(release).await;
        match client.note(number, done) {
            Ok(_) => return Ok(()),
            // The first try may have done it: then nobody holds it by this token.
            Err(Error::Stale(_)) if tried => return Ok(()),
            Err(Error::Unavailable(e)) if tried => return Err(Error::Unavailable(e)),
            Err(Error::Unavailable(_)) => {
                tried = true;
                tokio::time::sleep(AFTER_FAILURE).await;
            }
            Err(e) => return Err(e),
        }
    }
}
