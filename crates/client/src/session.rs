//! Sessions that are kept alive.

use crate::election::{Candidacy, Candidate};
use crate::files::Files;
use crate::lock::{Acquisitions, Lock, LockOptions};
use crate::{CacheLimits, Client, Error};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use synod_coord::{SessionClock, SessionState};
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::session_client::SessionClient;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Longer than anybody waits, and short enough to be added to any time.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// A sleep does not see that the machine was suspended: none is longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause after a renewal that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What a session is like.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// What its owner calls itself, for people to read.
    pub name: String,
    /// Time to live: for how long the servers keep it without a sign of life.
    pub ttl: Duration,
    /// For how long its locks stay closed when it was lost (not when they were
    /// given back). Sequencers protect what checks them; this, what does not.
    pub lock_delay: Duration,
    /// For how long a session in jeopardy is not given up.
    pub grace: Duration,
    /// How often it is renewed at least, if more often than it must be: for those who
    /// judge by the rhythm of its renewals whether this process lives.
    pub heartbeat: Option<Duration>,
    /// How much of the cluster's files it caches.
    pub cache: CacheLimits,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions {
            name: String::new(),
            ttl: Duration::from_secs(12),
            lock_delay: Duration::ZERO,
            grace: Duration::from_secs(45),
            heartbeat: None,
            cache: CacheLimits::default(),
        }
    }
}

impl SessionOptions {
    /// The defaults: 12 s to live, 45 s of grace, no lock-delay.
    pub fn named(name: &str) -> SessionOptions {
        SessionOptions { name: name.into(), ..SessionOptions::default() }
    }
}

/// A session. What it holds is held as long as it is [`SessionState::Safe`].
pub struct Session {
    client: Client,
    id: i64,
    shared: Arc<Shared>,
    alive: tokio::task::JoinHandle<()>,
    acquisitions: Acquisitions,
    cache: CacheLimits,
    files: OnceLock<Files>,
}

/// The machine's time since it was started, the time that it was suspended among it: the
/// servers count that, too. (Tokio's clock stands still meanwhile.)
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// What the session's tasks share.
pub(crate) struct Shared {
    /// By [`since_boot`].
    begun: Duration,
    clock: Mutex<SessionClock>,
    state: watch::Sender<SessionState>,
}

impl Shared {
    fn clock(&self) -> MutexGuard<'_, SessionClock> {
        self.clock.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn now_ms(&self) -> u64 {
        since_boot().saturating_sub(self.begun).as_millis() as u64
    }

    /// See [`Session::is_safe`].
    pub fn is_safe(&self) -> bool {
        // A task that tells of changes may be late: this thread may have been paused.
        let now = self.now_ms();
        let clock = self.clock();
        clock.state() == SessionState::Safe && now < clock.deadline_ms()
    }

    /// Returns at this time of the session's clock, soon after it if the machine was
    /// suspended.
    async fn until(&self, ms: u64) {
        loop {
            let left = Duration::from_millis(ms.saturating_sub(self.now_ms()));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
    }

    /// See [`Session::closer_than`].
    async fn closer_than(&self, margin_ms: u64) {
        let mut state = self.state.subscribe();
        loop {
            let stop = self.clock().deadline_ms().saturating_sub(margin_ms);
            let over = stop <= self.now_ms();
            if over || *state.borrow_and_update() != SessionState::Safe {
                return;
            }
            tokio::select! {
                () = self.until(stop) => {}
                // The servers may have ended it long before its deadline.
                _ = state.changed() => {}
            }
        }
    }

    fn tell(&self, state: Option<SessionState>) {
        if let Some(state) = state {
            self.state.send_replace(state);
        }
    }
}

impl Session {
    pub(crate) async fn open(client: Client, options: SessionOptions) -> Result<Session, Error> {
        let open = v1::SessionOpenRequest {
            ttl_s: options.ttl.as_secs_f64().ceil() as i64,
            lock_delay_s: options.lock_delay.as_secs_f64().ceil() as i64,
            name: options.name,
        };
        let begun = since_boot();
        // One that was opened without our knowing ends by itself.
        let opening = |channel| {
            let open = open.clone();
            async move {
                // When this call was sent, of several: the session lives from its answer.
                let sent_ms = (since_boot() - begun).as_millis() as u64;
                let opened = SessionClient::new(channel).open(open).await;
                opened.map(|answer| answer.map(|opened| (sent_ms, opened)))
            }
        };
        let (sent_ms, opened) = client.again(opening).await?;
        let grace_ms = options.grace.min(FOR_EVER).as_millis() as u64;
        let mut clock = SessionClock::new(sent_ms, opened.ttl_s as u64 * 1_000, grace_ms);
        if let Some(heartbeat) = options.heartbeat {
            clock = clock.with_heartbeat(heartbeat.as_millis() as u64);
        }
        let shared = Arc::new(Shared {
            begun,
            clock: Mutex::new(clock),
            state: watch::Sender::new(SessionState::Safe),
        });
        let id = opened.session;
        let alive = tokio::spawn(keep_alive(client.clone(), id, shared.clone()));
        let acquisitions = Acquisitions::default();
        let (cache, files) = (options.cache, OnceLock::new());
        Ok(Session { client, id, shared, alive, acquisitions, cache, files })
    }

    /// Its number: a lease, to which keys can be bound.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Whether what it holds can be relied on at this moment.
    pub fn is_safe(&self) -> bool {
        self.shared.is_safe()
    }

    /// The cluster's files, read through the session's cache. It must be called on a
    /// runtime.
    pub fn files(&self) -> &Files {
        let open = || Files::new(self.client.clone(), self.id, self.shared.clone(), self.cache);
        self.files.get_or_init(open)
    }

    /// What was last told of it, and how that changes. Who is about to do something
    /// asks [`Session::is_safe`].
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.shared.state.subscribe()
    }

    /// Until when it is safe without another answer from the cluster.
    pub fn deadline(&self) -> Instant {
        let deadline = self.shared.clock().deadline_ms();
        Instant::now() + Duration::from_millis(deadline.saturating_sub(self.shared.now_ms()))
    }

    /// Returns when less than `margin` is left before the deadline, or the session is
    /// known to be safe no more: when what takes as long to stop must be stopped.
    pub async fn closer_than(&self, margin: Duration) {
        self.shared.closer_than(margin.as_millis() as u64).await;
    }

    /// A margin in which a process can be killed: a tenth of the time to live, at
    /// most half a second.
    pub fn kill_margin(&self) -> Duration {
        Duration::from_millis((self.shared.clock().ttl_ms() / 10).min(500))
    }

    /// Returns when the session is in jeopardy or over.
    pub async fn in_doubt(&self) {
        let mut state = self.state();
        // The sender lives in this session.
        let _ = state.wait_for(|s| *s != SessionState::Safe).await;
    }

    /// Returns when the session is over.
    pub async fn over(&self) {
        let mut state = self.state();
        let _ = state.wait_for(|s| *s == SessionState::Expired).await;
    }

    /// Takes a lock, exclusively, as soon as it is free.
    pub async fn lock(&self, name: &str) -> Result<Lock, Error> {
        self.lock_with(name, LockOptions::default()).await
    }

    /// Takes a lock. A session has one place in each lock's queue: a second call for
    /// a lock that it holds or waits for is refused. When the call is dropped, the
    /// place is given up in the background.
    pub async fn lock_with(&self, name: &str, options: LockOptions) -> Result<Lock, Error> {
        tokio::select! {
            lock = self.acquisitions.acquire(&self.client, self.id, name, options) => lock,
            () = self.over() => Err(Error::SessionOver),
        }
    }

    /// Becomes a candidate in an election: the best healthy one gets the office, by
    /// [`Candidate::campaign`]. A candidate that is dropped withdraws in the
    /// background.
    pub async fn stand(&self, name: &str, candidacy: Candidacy) -> Result<Candidate<'_>, Error> {
        Candidate::stand(self, name, candidacy).await
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn acquisitions(&self) -> &Acquisitions {
        &self.acquisitions
    }

    /// Ends the session and gives back all that it holds.
    pub async fn close(self) -> Result<(), Error> {
        self.alive.abort();
        let close = v1::SessionCloseRequest { session: self.id };
        let closing = |channel| async move { SessionClient::new(channel).close(close).await };
        match self.client.again(closing).await {
            // A first try may have done it.
            Ok(_) | Err(Error::SessionOver) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Session {
    /// Without [`Session::close`] it lives on until its time is over.
    fn drop(&mut self) {
        self.alive.abort();
    }
}

/// The stream of renewals to one member: an answer comes for each request, in order.
struct Renewals {
    /// The member's endpoint.
    number: usize,
    requests: mpsc::Sender<v1::SessionKeepAliveRequest>,
    answers: Streaming<v1::SessionKeepAliveResponse>,
}

impl Renewals {
    /// Opens a stream at the member in use, by a first request.
    async fn open(
        client: &Client,
        request: v1::SessionKeepAliveRequest,
    ) -> Result<Renewals, Error> {
        let (number, channel) = client.endpoints.current();
        let (requests, rx) = mpsc::channel(1);
        let _ = requests.try_send(request);
        let opened = SessionClient::new(channel).keep_alive(ReceiverStream::new(rx)).await;
        let answers = client.note(number, opened)?.into_inner();
        Ok(Renewals { number, requests, answers })
    }

    async fn answer(&mut self) -> Result<v1::SessionKeepAliveResponse, Status> {
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| Status::unavailable("the stream ended without an answer"))
    }
}

/// Renews the session, and tells what becomes of it, until it is over. One stream
/// carries all renewals until it breaks.
async fn keep_alive(client: Client, session: i64, shared: Arc<Shared>) {
    let mut stream = None;
    loop {
        let (renew_at, ends) = {
            let clock = shared.clock();
            (clock.renew_at_ms(), clock.next_ms())
        };
        // Nothing more to tell: it is over.
        let Some(ends) = ends else { return };
        let renewal = async {
            shared.until(renew_at).await;
            renew(&client, session, &shared, &mut stream).await
        };
        tokio::select! {
            answer = renewal => match answer {
                Ok(()) => {}
                Err(_) => {
                    tick(&shared);
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            },
            () = shared.until(ends) => {}
        }
        tick(&shared);
    }
}

fn tick(shared: &Shared) {
    let now = shared.now_ms();
    let told = shared.clock().tick(now);
    shared.tell(told);
}

/// One renewal. A member that takes too long is given up for the next.
async fn renew(
    client: &Client,
    session: i64,
    shared: &Shared,
    stream: &mut Option<Renewals>,
) -> Result<(), Error> {
    let sent = shared.now_ms();
    let within = Duration::from_millis(shared.clock().attempt_ms());
    // Put back when it has answered: what comes late must not count for a later request.
    let before = stream.take();
    let number = before.as_ref().map_or(client.endpoints.current().0, |open| open.number);
    let asked = async {
        let request = v1::SessionKeepAliveRequest { session };
        let mut open = match before {
            Some(open) if open.requests.try_send(request).is_ok() => open,
            _ => Renewals::open(client, request).await?,
        };
        let answer = client.note(open.number, open.answer().await)?;
        Ok::<_, Error>((open, answer))
    };
    let (open, answer) = match tokio::time::timeout(within, asked).await {
        Ok(done) => done?,
        Err(_) => client.note(number, Err(Status::unavailable("no answer in time")))?,
    };
    *stream = Some(open);
    let told = match answer.ttl_s {
        0 => shared.clock().gone(),
        _ => {
            let now = shared.now_ms();
            shared.clock().renewed(sent, now)
        }
    };
    shared.tell(told);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_the_deadline_hears_of_the_end_before_it() {
        let shared = Shared {
            begun: since_boot(),
            clock: Mutex::new(SessionClock::new(0, 60_000, 0)),
            state: watch::Sender::new(SessionState::Safe),
        };
        let waits = tokio::time::timeout(Duration::from_secs(10), shared.closer_than(500));
        let ends = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let told = shared.clock().gone();
            shared.tell(told);
        };
        let (heard, ()) = tokio::join!(waits, ends);
        heard.expect("a minute before the deadline");
    }
}
