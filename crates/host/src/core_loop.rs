//! The core's thread: it gathers what has come, lets the cell take one turn,
//! and begins what the cell wants done.

use crate::check::Checker;
use crate::handle::{Ask, Handle};
use crate::journal::JournalJob;
use crate::transport::Links;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use synod_base::{CellId, NodeId, Tick};
use synod_cell::{
    Cell, CellEvent, CellInput, CellOutput, Failure, PeerMessage, Reply, SnapshotJob,
    SnapshotPieces,
};
use synod_consensus::{Role, WriteSeq};
use synod_mvcc::{Backlog, Store};
use synod_store::DiskStore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

/// The one cell of a node, until nodes host several.
pub(crate) const MAIN_CELL: CellId = CellId(1);
pub(crate) const TICK: Duration = Duration::from_millis(5);
/// Ticks between two publications of the full status.
pub(crate) const STATUS_EVERY: u64 = 10;
const REMOVED: &str = "this member was removed from the cluster; to take part again it must be \
                       added as a new one, with an empty data directory";
/// How much a sync of the state yields to what clients wait for (Unix niceness).
const SYNC_NICE: i32 = 5;
/// How much hashing the keyspace for a comparison yields to what clients wait for.
const HASH_NICE: i32 = 10;
/// Commits were held back, and are not any more once they were not for so long.
const SLOWED_OVER_MS: u64 = 2_000;
const SLOW_APPLY: Duration = Duration::from_millis(100);

pub(crate) type Answer = oneshot::Sender<Result<Reply, Failure>>;
/// The answers of one turn, with those who wait for them.
pub(crate) type Answered = Vec<(Answer, Result<Reply, Failure>)>;

/// Gives answers out on the doors' runtime, a turn's all at once: the core
/// wakes that runtime once a turn, and a connection writes what it can in one
/// piece. The channel holds no more answers than there are requests open.
pub(crate) async fn give_out(mut turns: UnboundedReceiver<Answered>) {
    while let Some(answered) = turns.recv().await {
        for (answer, result) in answered {
            // Whoever asked may have gone.
            let _ = answer.send(result);
        }
    }
}

/// What comes to the core's thread.
pub(crate) enum ToCore {
    Ask(Ask, Answer),
    Persisted(WriteSeq),
    Synced(Result<u64, String>),
    SnapshotRead(SnapshotPieces),
    Peer {
        from: NodeId,
        cell: u32,
        message: PeerMessage,
    },
    Disconnected(NodeId),
    /// A hash was computed here, for a peer or for the check of this leader.
    Hashed {
        peer: Option<NodeId>,
        revision: i64,
        hash: Option<(u32, i64)>,
    },
    Fatal(String),
    Stop,
}

/// Tells when commits begin to be held back, and when that is over.
#[derive(Default)]
pub(crate) struct Slowed {
    since: Option<Tick>,
    last: Tick,
    total_us: u64,
}

impl Slowed {
    fn look(&mut self, backlog: Backlog, now: Tick, handle: &Handle) {
        if std::mem::replace(&mut self.total_us, backlog.slowed_us) != backlog.slowed_us {
            self.last = now;
            if self.since.is_none() {
                self.since = Some(now);
                handle.log(CellEvent::Slowed { backlog, ended_ms: None });
            }
        } else if now.since(self.last) > SLOWED_OVER_MS
            && let Some(since) = self.since.take()
        {
            let ended_ms = Some(self.last.since(since));
            handle.log(CellEvent::Slowed { backlog, ended_ms });
        }
    }
}

pub(crate) struct CoreLoop {
    pub cell: Cell<DiskStore>,
    pub handle: Handle,
    pub links: Links,
    pub journal: Sender<JournalJob>,
    pub checker: Checker,
    /// Addresses known before the state knows them.
    pub seeds: BTreeMap<NodeId, Vec<String>>,
    pub start: Instant,
    pub next_ticket: u64,
    pub waiting: HashMap<u64, Answer>,
    /// What this turn answered so far.
    pub answered: Answered,
    pub members_changed: bool,
    pub was_member: bool,
    pub ticks: u64,
    pub slowed: Slowed,
    pub end: Option<Result<(), String>>,
}

impl CoreLoop {
    fn now(&self) -> Tick {
        Tick(self.start.elapsed().as_millis() as u64)
    }

    /// Runs until told to stop or forced to.
    pub async fn run(mut self, answers: UnboundedSender<Answered>) -> Result<(), String> {
        let mailbox = self.handle.0.mailbox.clone();
        let (mut inbox, mut out) = (Vec::new(), Vec::new());
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        self.refresh_links();
        loop {
            let ticked = tokio::select! {
                biased;
                () = mailbox.wait() => None,
                due = ticker.tick() => Some(due),
            };
            let now = self.now();
            mailbox.take(&mut inbox);
            // Messages before the tick: what waited in the queue while this
            // process was starved must not look like silence.
            let (begun, applied) = (Instant::now(), self.cell.state().applied());
            for item in inbox.drain(..) {
                self.take(item, now, &mut out);
            }
            if let Some(due) = ticked {
                self.tick(due, now, &mut out);
            }
            self.cell.turn(&mut out);
            if self.cell.state().applied() > applied {
                self.count_apply(begun.elapsed());
            }
            // Whoever is answered finds the membership that the answer speaks of.
            if out.iter().any(|o| matches!(o, CellOutput::Members(_))) {
                self.publish_status();
            }
            for output in out.drain(..) {
                self.carry_out(output);
            }
            self.publish();
            if !self.answered.is_empty() {
                // Nobody takes them once the doors' runtime has ended.
                let _ = answers.send(std::mem::take(&mut self.answered));
            }
            if let Some(end) = self.end.take() {
                return end;
            }
        }
    }

    fn tick(&mut self, due: tokio::time::Instant, now: Tick, out: &mut Vec<CellOutput>) {
        self.handle.0.metrics.tick_late_us.add(due.elapsed().as_micros() as u64);
        self.ticks += 1;
        self.cell.step(now, CellInput::Tick, out);
        self.stop_if_removed();
        if self.members_changed || self.ticks.is_multiple_of(100) {
            self.refresh_links();
        }
        if self.ticks.is_multiple_of(STATUS_EVERY) {
            for event in self.links.look() {
                self.handle.log(event);
            }
            self.publish_status();
        }
        if let Some(revision) = self.checker.due(now, self.handle.leads(), &self.handle) {
            self.start_hash_round(revision);
        }
    }

    fn take(&mut self, item: ToCore, now: Tick, out: &mut Vec<CellOutput>) {
        let input = match item {
            ToCore::Ask(ask, answer) => {
                self.next_ticket += 1;
                let ticket = self.next_ticket;
                self.waiting.insert(ticket, answer);
                match ask {
                    Ask::Propose(work) => CellInput::Propose { ticket, work },
                    Ask::Read => CellInput::Read { ticket },
                    Ask::Transfer(to) => CellInput::Transfer { ticket, to },
                }
            }
            ToCore::Persisted(seq) => CellInput::Persisted(seq),
            ToCore::Synced(Ok(index)) => CellInput::StateSynced(index),
            ToCore::SnapshotRead(pieces) => CellInput::SnapshotRead(pieces),
            ToCore::Peer { from, cell, message } if cell == MAIN_CELL.0 => {
                CellInput::Peer { from, message }
            }
            ToCore::Peer { from, cell, .. } => {
                tracing::warn!(peer = %from, cell, "a message for an unknown cell was dropped");
                return;
            }
            ToCore::Disconnected(peer) => CellInput::Disconnected(peer),
            ToCore::Hashed { peer, revision, hash } => {
                self.hashed(peer, revision, hash);
                return;
            }
            ToCore::Synced(Err(why)) | ToCore::Fatal(why) => {
                self.end = Some(Err(why));
                return;
            }
            ToCore::Stop => {
                self.end = Some(Ok(()));
                return;
            }
        };
        self.cell.step(now, input, out);
    }

    fn carry_out(&mut self, output: CellOutput) {
        match output {
            CellOutput::Write { seq, record } => {
                let last = self.cell.last_index();
                let job = JournalJob::Write { cell: MAIN_CELL, seq, record, last };
                if self.journal.send(job).is_err() && self.end.is_none() {
                    // Its thread has ended and says why through the mailbox.
                    tracing::debug!("the journal's thread has ended");
                }
            }
            CellOutput::Send { to, message } => self.links.send(to, MAIN_CELL.0, &message),
            CellOutput::Done { ticket, result } => {
                if let Err(failure) = &result {
                    self.count_failure(failure);
                }
                if let Some(answer) = self.waiting.remove(&ticket) {
                    self.answered.push((answer, result));
                }
            }
            CellOutput::Revisions(revisions) => self.handle.0.feed.push(revisions),
            CellOutput::Replaced => {
                self.handle.0.metrics.snapshots_installed.inc();
                self.handle.0.feed.reset(self.cell.state().revision());
                self.members_changed = true;
            }
            CellOutput::SyncState { index } => self.sync_state(index),
            CellOutput::ReadSnapshot(job) => self.read_snapshot(job),
            CellOutput::Forget { upto } => {
                let _ = self.journal.send(JournalJob::Forget { upto });
            }
            CellOutput::Members(_) => self.members_changed = true,
            CellOutput::Hash { peer, message } => self.hash_message(peer, message),
            CellOutput::Event(event) => self.handle.log(event),
            CellOutput::Fatal(why) => self.end = Some(Err(why)),
        }
    }

    /// A turn that applied something: its time is that of the commit to the
    /// state and little else.
    fn count_apply(&self, took: Duration) {
        let metrics = &self.handle.0.metrics;
        metrics.apply.observe_us(took.as_micros() as u64);
        if took > SLOW_APPLY {
            metrics.slow_apply.inc();
        }
    }

    /// A member that was removed has no part in the cluster any more. Its own
    /// state says so when it applied its removal; if it never got that far, or
    /// was away, its peers refuse it, and a majority of them is believed.
    fn stop_if_removed(&mut self) {
        let id = self.handle.id();
        let here = self.cell.membership().all().contains(&id);
        self.was_member |= here;
        let members = self.cell.state().members();
        let told = !members.is_empty() && !members.contains_key(&id);
        if (self.was_member && !here && told) || self.links.is_removed() {
            self.end = Some(Err(REMOVED.into()));
        }
    }

    fn count_failure(&self, failure: &Failure) {
        match failure {
            Failure::State(_) => {}
            Failure::Refused(_) | Failure::TimedOut | Failure::Unknown => {
                self.handle.0.metrics.proposals_failed.inc();
            }
        }
    }

    /// Makes the store durable without holding up the turn.
    fn sync_state(&mut self, index: u64) {
        let syncer = self.cell.state().store().syncer();
        self.beside("state-sync", SYNC_NICE, move || {
            ToCore::Synced(syncer().map(|()| index).map_err(|e| e.to_string()))
        });
    }

    /// Reads for a snapshot without holding up the turn.
    fn read_snapshot(&mut self, job: SnapshotJob) {
        self.beside("state-read", SYNC_NICE, move || ToCore::SnapshotRead(job.run()));
    }

    /// Does long work on a thread of its own (one that is nicer stays so) and tells the
    /// core's what came of it.
    fn beside(&mut self, name: &str, nice: i32, work: impl FnOnce() -> ToCore + Send + 'static) {
        let mailbox = self.handle.0.mailbox.clone();
        let run = move || {
            let _ = rustix::process::nice(nice);
            mailbox.push(work());
        };
        if let Err(e) = std::thread::Builder::new().name(name.into()).spawn(run) {
            self.end = Some(Err(format!("cannot start the thread {name}: {e}")));
        }
    }

    /// Dials whom the state, the membership and the bootstrap name.
    fn refresh_links(&mut self) {
        self.members_changed = false;
        let mut book = BTreeMap::new();
        let members = self.cell.state().members();
        for id in self.cell.membership().all() {
            let known = members.get(&id).map(|m| m.peer_urls.clone());
            if let Some(urls) = known.or_else(|| self.seeds.get(&id).cloned()) {
                book.insert(id, urls);
            }
        }
        if book.is_empty() {
            book = self.seeds.clone();
        }
        self.links.update(&book);
    }

    /// What others read without asking.
    fn publish(&mut self) {
        let shared = &self.handle.0;
        shared.metrics.turns.inc();
        shared.metrics.pending.set(self.waiting.len() as i64);
        let status = self.cell.consensus_status();
        let leader = status.leader.map_or(0, |l| l.0);
        let leads = status.role == Role::Leader;
        if shared.leader.swap(leader, Ordering::AcqRel) != leader {
            if leader != 0 {
                shared.metrics.leader_changes.inc();
            }
            self.publish_status();
        }
        let status = self.cell.consensus_status();
        let shared = &self.handle.0;
        shared.term.store(status.term, Ordering::Release);
        shared.leads.store(leads, Ordering::Release);
        let learner = !status.membership.is_voter(shared.id);
        shared.learner.store(learner, Ordering::Relaxed);
        shared.reads_alone.store(status.reads_alone, Ordering::Release);
    }

    fn publish_status(&mut self) {
        let shared = &self.handle.0;
        let status = Arc::new(self.cell.status());
        *shared.status.lock().unwrap_or_else(|e| e.into_inner()) = status;
        let clock = self.cell.lease_clock(self.now());
        *shared.lease_clock.lock().unwrap_or_else(|e| e.into_inner()) = (clock, Instant::now());
        *shared.connected.lock().unwrap_or_else(|e| e.into_inner()) = self.links.connected();
        *shared.hearings.lock().unwrap_or_else(|e| e.into_inner()) = self.links.hearings();
        let size = self.cell.state().size();
        shared.store_disk.store(size.on_disk, Ordering::Relaxed);
        shared.metrics.store_runs.set(size.backlog.runs as i64);
        shared.metrics.store_buffers.set(size.backlog.buffers as i64);
        let slowed = size.backlog.slowed_us.saturating_sub(shared.metrics.store_slowed_us.get());
        shared.metrics.store_slowed_us.add(slowed);
        self.slowed.look(size.backlog, self.now(), &self.handle);
    }

    fn start_hash_round(&mut self, revision: i64) {
        self.compute_hash(None, revision);
        for peer in self.cell.membership().all() {
            if peer != self.handle.id() {
                self.links.send(peer, MAIN_CELL.0, &PeerMessage::HashAsk { revision });
            }
        }
    }

    fn compute_hash(&self, peer: Option<NodeId>, revision: i64) {
        let published = self.handle.published();
        let mailbox = self.handle.0.mailbox.clone();
        // A thread of its own, as for a sync: it reads all there is.
        let hash = move || {
            let _ = rustix::process::nice(HASH_NICE);
            let hash = match published.hash_kv(revision) {
                Ok(Ok(h)) => Some((h.hash, h.compact_revision)),
                Ok(Err(_)) | Err(_) => None,
            };
            mailbox.push(ToCore::Hashed { peer, revision, hash });
        };
        if let Err(e) = std::thread::Builder::new().name("state-hash".into()).spawn(hash) {
            tracing::warn!(error = %e, "a comparison with the other members is left out");
        }
    }

    fn hash_message(&mut self, peer: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::HashAsk { revision } => self.compute_hash(Some(peer), revision),
            PeerMessage::HashTell { revision, hash } => {
                let differs = self.checker.told(peer, revision, hash);
                self.corrupt(differs);
            }
            _ => {}
        }
    }

    fn hashed(&mut self, peer: Option<NodeId>, revision: i64, hash: Option<(u32, i64)>) {
        match peer {
            Some(peer) => {
                self.links.send(peer, MAIN_CELL.0, &PeerMessage::HashTell { revision, hash });
            }
            None => {
                let differs = self.checker.own(revision, hash);
                self.corrupt(differs);
            }
        }
    }

    /// A majority's word against a member's: the leader raises the alarm.
    fn corrupt(&mut self, members: Vec<NodeId>) {
        use synod_mvcc::{AlarmKind, Command};
        for member in members {
            let kind = AlarmKind::Corrupt;
            if self.cell.state().alarms().contains(&(member, kind)) {
                continue;
            }
            let why = "its hash of the keyspace differs at an equal revision".to_owned();
            self.handle.log(CellEvent::AlarmProposed { raise: true, member, kind, why });
            let command = Command::Alarm { raise: true, member, kind }.encode();
            let (tx, _) = oneshot::channel();
            let ask = Ask::Propose(synod_cell::Work::Command(command));
            self.handle.0.mailbox.push(ToCore::Ask(ask, tx));
        }
    }
}
