//! How a door reaches its member.

use crate::core_loop::ToCore;
use crate::feed::Feed;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use synod_base::NodeId;
use synod_cell::{CellEvent, CellStatus, Failure, Reply, Work};
use synod_consensus::Protocol;
use synod_coord::Hearing;
use synod_mvcc::{Outcome, Published, Reader, Store};
use tokio::sync::{oneshot, watch};

/// A pinned view of the store that the host uses.
pub type HostView = <synod_store::DiskStore as Store>::View;

/// An event with the wall time at which this node saw it.
#[derive(Clone, Debug)]
pub struct LoggedEvent {
    /// When.
    pub at: SystemTime,
    /// What, and why.
    pub event: CellEvent,
}

/// Why a request has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// The cell says why.
    Failed(Failure),
    /// This node is stopping; the request may or may not take effect.
    Stopped,
}

/// How many events are kept to look at.
const EVENTS_KEPT: usize = 2_000;
const SLOW_READ: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) struct Shared {
    pub mailbox: Arc<Mailbox<ToCore>>,
    pub reader: Reader<HostView>,
    pub feed: Feed,
    pub metrics: Arc<Metrics>,
    pub id: NodeId,
    pub cluster: u64,
    pub protocol: Protocol,
    pub started: SystemTime,
    pub data: PathBuf,
    pub leader: AtomicU64,
    pub term: AtomicU64,
    pub leads: AtomicBool,
    pub learner: AtomicBool,
    /// A linearizable read needs nobody else (see [`synod_consensus::Status`]).
    pub reads_alone: AtomicBool,
    pub status: Mutex<Arc<CellStatus>>,
    /// Lease clock, and when it stood there.
    pub lease_clock: Mutex<(u64, std::time::Instant)>,
    pub events: Mutex<VecDeque<LoggedEvent>>,
    pub stopped: watch::Sender<Option<Result<(), String>>>,
    pub store_disk: AtomicU64,
    pub connected: Mutex<BTreeSet<NodeId>>,
    pub hearings: Mutex<BTreeMap<NodeId, Hearing>>,
}

/// A member, as doors see it. Cheap to clone; works from any thread.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Shared>);

pub(crate) enum Ask {
    Propose(Work),
    Read,
    Transfer(Option<NodeId>),
}

impl Handle {
    async fn ask(&self, ask: Ask) -> Result<Reply, RequestError> {
        let (tx, rx) = oneshot::channel();
        self.0.mailbox.push(ToCore::Ask(ask, tx));
        match rx.await {
            Ok(result) => result.map_err(RequestError::Failed),
            Err(_) => Err(RequestError::Stopped),
        }
    }

    /// Has work agreed on and applied here; gives its outcome with the store's
    /// revision then and the ballot.
    pub async fn propose(&self, work: Work) -> Result<(Outcome, i64, u64), RequestError> {
        match self.ask(Ask::Propose(work)).await? {
            Reply::Applied { outcome, revision, term } => Ok((outcome, revision, term)),
            Reply::ReadNow | Reply::Done => Err(RequestError::Failed(Failure::Unknown)),
        }
    }

    /// Waits until what is published here is at least as recent as this call.
    pub async fn barrier(&self) -> Result<(), RequestError> {
        if self.0.reads_alone.load(Ordering::Acquire) {
            return Ok(());
        }
        let begun = std::time::Instant::now();
        let answer = self.ask(Ask::Read).await.map(drop);
        if begun.elapsed() > SLOW_READ {
            self.0.metrics.slow_reads.inc();
        }
        if answer.is_err() {
            self.0.metrics.reads_failed.inc();
        }
        answer
    }

    /// Hands leadership over; only the leader can.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<(), RequestError> {
        self.ask(Ask::Transfer(to)).await.map(drop)
    }

    /// What was last published here.
    pub fn published(&self) -> Arc<Published<HostView>> {
        self.0.reader.published()
    }

    /// This member.
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// What its cell runs.
    pub fn protocol(&self) -> Protocol {
        self.0.protocol
    }

    /// Its cluster.
    pub fn cluster_id(&self) -> u64 {
        self.0.cluster
    }

    /// Whom it holds for the leader.
    pub fn leader(&self) -> Option<NodeId> {
        Some(NodeId(self.0.leader.load(Ordering::Acquire))).filter(|l| l.is_some())
    }

    /// The present ballot.
    pub fn term(&self) -> u64 {
        self.0.term.load(Ordering::Acquire)
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.0.leads.load(Ordering::Acquire)
    }

    /// Where it stands, at most a few ticks old.
    pub fn status(&self) -> Arc<CellStatus> {
        self.0.status.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Whether it only receives the log and does not count.
    pub fn is_learner(&self) -> bool {
        self.0.learner.load(Ordering::Relaxed)
    }

    /// Lease time now by this node's reckoning, ms (exact on the leader).
    pub fn lease_clock(&self) -> u64 {
        let (clock, at) = *self.0.lease_clock.lock().unwrap_or_else(|e| e.into_inner());
        clock + at.elapsed().as_millis() as u64
    }

    /// Recent revisions, for watches.
    pub fn feed(&self) -> &Feed {
        &self.0.feed
    }

    /// What the host counts.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Recent decisions, oldest first.
    pub fn events(&self) -> Vec<LoggedEvent> {
        let events = self.0.events.lock().unwrap_or_else(|e| e.into_inner());
        events.iter().cloned().collect()
    }

    /// The folder with the data.
    pub fn data_dir(&self) -> &Path {
        &self.0.data
    }

    /// Bytes that the store takes on disk, as of a moment ago.
    pub fn disk_bytes(&self) -> u64 {
        self.0.store_disk.load(Ordering::Relaxed)
    }

    /// The peers that take messages from this member, as of a moment ago.
    pub fn connected(&self) -> BTreeSet<NodeId> {
        self.0.connected.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// What this member thinks of each peer, by its heartbeats, as of a moment ago.
    pub fn hearings(&self) -> BTreeMap<NodeId, Hearing> {
        self.0.hearings.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// When this process started.
    pub fn started(&self) -> SystemTime {
        self.0.started
    }

    /// Asks the member to stop. Wait with [`Handle::stopped`].
    pub fn stop(&self) {
        self.0.mailbox.push(ToCore::Stop);
    }

    /// Until the member has stopped; the error says why it had to.
    pub async fn stopped(&self) -> Result<(), String> {
        let mut rx = self.0.stopped.subscribe();
        let end = rx.wait_for(Option::is_some).await.map(|r| r.clone());
        end.ok().flatten().unwrap_or(Ok(()))
    }

    pub(crate) fn log(&self, event: CellEvent) {
        crate::event_log::log(&event);
        let mut events = self.0.events.lock().unwrap_or_else(|e| e.into_inner());
        if events.len() == EVENTS_KEPT {
            events.pop_front();
        }
        events.push_back(LoggedEvent { at: SystemTime::now(), event });
    }
}
