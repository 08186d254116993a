//! Zab (Junqueira, Reed, Serafini, DSN'11), with ZooKeeper's practice where the
//! paper is silent: fast leader election, DIFF, TRUNC and SNAP, observers, and
//! reconfiguration as in Shraer et al., USENIX ATC'12.
//!
//! A zxid is (epoch, counter); here an entry's `term` is the epoch in which it
//! was proposed, its `index` the counter, which goes on over epochs. The phases:
//! leader election (`elect.rs`) finds somebody whom a quorum reaches; discovery
//! (`discover.rs`) makes a quorum promise a new epoch and finds the newest
//! history among them; synchronisation (`sync.rs`) brings a quorum to it
//! before the epoch is established; broadcast (`broadcast.rs`) proposes.
//!
//! **Invariants**
//! - An epoch is promised to one leader only (`accepted`, `accepted_from`), durably
//!   before it is said. So one node at most leads an epoch.
//! - `current` is the last epoch whose initial history this node has
//!   acknowledged. The journal holds that history no later than `current`, and
//!   `current` before the acknowledgement leaves (ZOOKEEPER-4643, -4646, -3911).
//! - Of two histories the one with the greater (`current`, last zxid) holds all
//!   that the other one has committed; `current` comes first, because an old
//!   epoch's entry is committed by the acknowledgements of a NEWLEADER alone.
//! - The history is cut only while `current < accepted`: before anything was
//!   acknowledged in the present leader's epoch. Once `current == accepted` it is
//!   a prefix of that leader's, whatever comes late, twice or out of order.
//! - Acknowledgements count for commits only from one whose `current` is the epoch.
//! - At most one journal record a step (`record.rs`).
//! - `applied <= emitted <= min(commit, persisted)`, `commit <= last`,
//!   `persisted <= last`.
//!
//! **What the driver guarantees** is the same as for the other protocols:
//! `Persisted` reports a contiguous prefix of the writes; a `Send` starts after
//! its `after` is durable; a seed differs between two lives of a node; a node that
//! lost its disk comes back under another id; a failed write stops the node;
//! `Disconnected` comes after all that was received over that connection.
//!
//! **Must not know**: clocks (time is an argument), threads, other protocols.

mod broadcast;
mod discover;
mod elect;
mod members;
mod message;
mod read;
mod receive;
mod record;
mod snapshot;
mod sync;
mod transfer;

#[cfg(test)]
mod tests;

pub use crate::parts::recover::RecoverError;
pub use message::{Body, Look, Message, Rank};
pub use record::{Boundary, HardState, Record};

use crate::config::Membership;
use crate::contract::{
    Consensus, Entry, EntryKind, Input, Limits, Output, Outputs, Recovered, Role, SnapshotMeta,
    Status, WriteSeq,
};
use crate::entries::Entries;
use crate::event::Event;
use crate::parts::history::History;
use crate::parts::log::Log;
use crate::parts::progress::Phase;
use crate::parts::reads::AskedReads;
use crate::parts::streams::Streams;
use crate::parts::watch::Watch;
use crate::parts::writes::Writes;
use bytes::Bytes;
use discover::{Lead, Stage};
use elect::Looking;
use synod_base::{NodeId, Rng, Tick, planted};
use transfer::Handover;

/// One member of a cell that runs Zab.
#[derive(Debug)]
pub struct Zab {
    id: NodeId,
    limits: Limits,
    rng: Rng,
    now: Tick,
    last_tick: Tick,

    // What is durable, or on its way to be.
    accepted: u64,
    accepted_from: Option<NodeId>,
    current: u64,
    commit: u64,
    log: Log,
    history: History,
    members: members::Effective,

    // The journal.
    writes: Writes,
    /// The write that makes the present epochs durable.
    hard_seq: WriteSeq,
    /// The write that makes the newest entry durable.
    log_seq: WriteSeq,
    dirty: Dirty,
    /// All entries up to here are durable. `<= log.last()`.
    persisted: u64,

    // The state machine.
    emitted: u64,
    applied: u64,
    durable: u64,

    // What part this node plays.
    role: Role,
    /// Whom this node has promised to follow, or waits for.
    watch: Watch,
    following: Following,
    /// The greatest epoch that anybody was heard to have accepted.
    seen: u64,
    /// Number of the last election.
    round: u64,
    looking: Option<Looking>,
    lead: Option<Box<Lead>>,
    asked: AskedReads,
    handover: Option<Handover>,
    overloaded: bool,
    /// What leaders to be are sent, who lack what is not held here any more.
    snapshots: Streams,

    out: Outputs,
}

/// How far this node is with the leader of its epoch.
#[derive(Debug, Default)]
struct Following {
    /// A quorum is known to have acknowledged the epoch.
    established: bool,
    /// The history is known to be a prefix of the leader's, in this session.
    in_sync: bool,
    /// When a synchronisation was last asked for, and from where.
    asked: Option<(Tick, u64)>,
}

/// What the record of this step must hold.
#[derive(Debug, Default)]
struct Dirty {
    hard: bool,
    cut: Option<u64>,
    entries_from: Option<u64>,
    boundary: Option<Box<Boundary>>,
}

impl Zab {
    /// A member that starts from what an earlier life left (for a fresh cell:
    /// a [`SnapshotMeta`] with the first membership). All of it counts as durable.
    pub fn new(
        id: NodeId,
        limits: Limits,
        seed: u64,
        recovered: Recovered,
        now: Tick,
    ) -> Result<Zab, RecoverError> {
        let applied = recovered.applied.max(recovered.snapshot.index);
        let replayed = record::replay(recovered)?;
        let mut log = Log::new(replayed.start.index, replayed.start.term);
        let mut history = History::new(replayed.start.index, replayed.start.membership);
        for (i, entry) in replayed.entries.iter().enumerate() {
            history.note(entry).map_err(|error| RecoverError::Malformed { record: i, error })?;
        }
        log.append(replayed.entries.into());
        let applied = applied.max(log.start());
        let mut zab = Zab {
            id,
            rng: Rng::new(seed ^ id.0.rotate_left(32)),
            now,
            last_tick: now,
            accepted: replayed.hard.accepted,
            accepted_from: replayed.hard.leader,
            current: replayed.hard.current,
            commit: replayed.hard.commit.max(applied),
            persisted: log.last(),
            history,
            members: members::Effective::default(),
            writes: Writes::default(),
            hard_seq: WriteSeq(0),
            log_seq: WriteSeq(0),
            dirty: Dirty::default(),
            emitted: applied,
            applied,
            durable: log.start(),
            role: Role::Follower,
            watch: Watch::new(now),
            following: Following::default(),
            seen: replayed.hard.accepted,
            round: 0,
            looking: None,
            lead: None,
            asked: AskedReads::default(),
            handover: None,
            overloaded: false,
            snapshots: Streams::default(),
            out: Vec::new(),
            log,
            limits,
        };
        zab.asked = AskedReads::new(zab.rng.next_u64() >> 1);
        zab.draw_deadline();
        zab.start_members();
        Ok(zab)
    }

    fn event(&mut self, event: Event) {
        self.out.push(Output::Event(event));
    }

    /// Sends what belongs to the accepted epoch.
    fn send(&mut self, to: NodeId, body: Body, after: WriteSeq) {
        self.out.push(message_to(self.accepted, to, body, after));
    }

    fn hard_changed(&mut self) {
        self.dirty.hard = true;
        self.hard_seq = self.writes.coming();
    }

    /// The write that makes everything of now durable.
    fn all_seq(&self) -> WriteSeq {
        self.hard_seq.max(self.log_seq)
    }

    fn rank(&self) -> Rank {
        Rank { current: self.current, term: self.log.last_term(), index: self.log.last() }
    }

    /// The members whose quorums count now.
    fn voters(&self) -> &Membership {
        &self.members.now
    }

    /// The leader of an established epoch, as far as this node knows.
    fn leader(&self) -> Option<NodeId> {
        match &self.lead {
            Some(lead) => (lead.stage == Stage::Broadcast).then_some(self.id),
            None => self.watch.leader.filter(|_| self.following.established),
        }
    }

    /// Puts entries at the end of the log. The caller has checked the data of
    /// memberships among them.
    fn append(&mut self, entries: Entries) {
        let Some(index) = entries.first().map(|e| e.index) else { return };
        for config in entries.iter().filter(|e| e.kind == EntryKind::Config) {
            // Checked by the caller; an unreadable one would change nothing.
            let _ = self.history.note(config);
        }
        self.log.append(entries);
        let from = self.dirty.entries_from.map_or(index, |from| from.min(index));
        self.dirty.entries_from = Some(from);
        self.log_seq = self.writes.coming();
    }

    /// Appends an entry of this leader's own.
    fn append_own(&mut self, kind: EntryKind, data: Bytes) -> u64 {
        let index = self.log.last() + 1;
        self.append(Entry { index, term: self.accepted, kind, data }.into());
        if let Some(lead) = &mut self.lead {
            lead.moved = true;
        }
        index
    }

    /// Cuts the history from `from` on, because `leader` has another.
    fn truncate(&mut self, from: u64, leader: NodeId) {
        assert!(from > self.commit, "what is committed stays");
        assert!(self.current < self.accepted, "what was acknowledged in this epoch stays");
        self.event(Event::LogTruncated { from, to: self.log.last(), leader });
        self.log.truncate(from);
        self.persisted = self.persisted.min(from - 1);
        self.writes.cut(from - 1);
        self.dirty.entries_from = self.dirty.entries_from.filter(|&first| first < from);
        self.dirty.cut = Some(self.dirty.cut.map_or(from, |cut| cut.min(from)));
        self.log_seq = self.writes.coming();
        let fell_back = self.history.truncate(from);
        self.refresh_members(fell_back);
    }

    /// Writes what changed in this step, as one record.
    fn flush(&mut self, out: &mut Outputs) {
        let Dirty { hard, cut, entries_from, boundary } = &self.dirty;
        if *hard || cut.is_some() || entries_from.is_some() || boundary.is_some() {
            let Dirty { cut, entries_from, boundary, .. } = std::mem::take(&mut self.dirty);
            let forgets = planted("zab: accepted epoch is not persisted");
            let accepted = if forgets { self.current } else { self.accepted };
            let leader = self.accepted_from.filter(|_| !forgets);
            let hard = HardState { accepted, leader, current: self.current, commit: self.commit };
            let first = entries_from.unwrap_or(self.log.last() + 1);
            let entries = self.log.entries(first, self.log.last(), u64::MAX);
            if let Some(b) = &boundary {
                self.out.push(Output::Forget { upto: b.meta.index });
            }
            let record = Record { hard, boundary, cut, first, entries };
            let seq = self.writes.mint(self.log.last(), self.now);
            out.push(Output::Write { seq, record: crate::Record::Zab(record) });
        }
        out.append(&mut self.out);
    }

    fn on_persisted(&mut self, seq: WriteSeq) {
        self.persisted = self.persisted.max(self.writes.finished(seq));
        if let Some(lead) = &mut self.lead {
            lead.moved = true;
        }
        if self.writes.stalled && self.write_age() <= self.limits.disk_stall_ms {
            self.writes.stalled = false;
            self.event(Event::DiskRecovered);
        }
        self.count_promises();
        self.count_settled();
    }

    /// Age of the oldest write that is not durable yet.
    fn write_age(&self) -> u64 {
        self.writes.age(self.now)
    }

    fn on_tick(&mut self) {
        let gap = self.now.since(self.last_tick);
        self.last_tick = self.now;
        if gap > self.limits.election_ms / 2 {
            self.after_starvation(gap);
        } else {
            self.watch_disk();
        }
        match self.lead.as_ref().map(|l| l.stage) {
            Some(Stage::Discovery) => self.tick_discovery(),
            Some(_) => self.tick_leader(),
            None => self.tick_follower(),
        }
        self.tick_transfer();
    }

    /// Silence proves nothing while this process did not run: what the leader
    /// (or the followers) sent may still wait in its queues.
    fn after_starvation(&mut self, gap_ms: u64) {
        let extended_ms = gap_ms.min(self.limits.election_ms);
        if let Some(lead) = &mut self.lead {
            lead.quorum_since = self.now.plus(extended_ms);
        } else if self.now >= self.watch.deadline && self.may_campaign() && !self.alone() {
            self.watch.deadline = self.now.plus(extended_ms);
            self.event(Event::Starved { gap_ms, extended_ms });
        }
    }

    fn watch_disk(&mut self) {
        let age_ms = self.write_age();
        if self.writes.stalled || age_ms <= self.limits.disk_stall_ms {
            return;
        }
        self.writes.stalled = true;
        let leading = self.role == Role::Leader;
        self.event(Event::DiskStalled { age_ms, leading });
        if self.lead.is_some() && !self.alone() {
            self.flee_disk();
        }
    }

    fn on_disconnected(&mut self, peer: NodeId) {
        match &mut self.lead {
            // What was in flight is most likely lost; a reconnect means a resync.
            Some(lead) => {
                let session = lead.peers.get_mut(&peer).and_then(|p| p.session.as_mut());
                if let Some(s) = session.filter(|s| s.phase() == Phase::Replicate) {
                    s.probe(Tick(0));
                }
            }
            None => {
                if self.watch.leader == Some(peer) {
                    self.following.in_sync = false;
                }
                self.watch.disconnected(peer, self.now, &self.limits, &mut self.rng);
            }
        }
    }

    /// What follows from the step's input.
    fn settle(&mut self) {
        self.refresh_members(false);
        if self.lead.is_some() {
            self.advance_commit();
            self.drive_transfer();
            self.stream();
            self.drive_reads();
            self.leave_if_removed();
        }
        self.ask_reads();
        self.emit_commits();
    }

    fn emit_commits(&mut self) {
        let mut upto = self.commit.min(self.persisted);
        // That a membership is active is durable before anybody acts on it.
        if self.writes.done() < self.members.active_seq {
            upto = upto.min(self.members.active - 1);
        }
        while upto > self.emitted {
            let entries = self.log.batch(self.emitted + 1, upto);
            self.emitted += entries.len() as u64;
            self.out.push(Output::Commit(entries));
        }
        assert!(self.applied <= self.emitted && self.commit <= self.log.last());
    }
}

fn message_to(epoch: u64, to: NodeId, body: Body, after: WriteSeq) -> Output {
    Output::Send { to, message: crate::Message::Zab(Message { epoch, body }), after }
}

fn no_read(batch: u64) -> Body {
    Body::ReadAnswer { batch, index: None }
}

impl Consensus for Zab {
    fn step(&mut self, now: Tick, input: Input, out: &mut Outputs) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.on_tick(),
            Input::Receive { from, message: crate::Message::Zab(m) } => self.receive(from, m),
            Input::Receive { from, .. } => {
                self.event(Event::BadMessage { from, what: "another protocol's" });
            }
            Input::Propose(batch) => self.propose(batch),
            Input::Read { ticket } => self.read(ticket),
            Input::Transfer { ticket, to } => self.transfer(ticket, to),
            Input::Reconfigure { ticket, change, context } => {
                self.reconfigure(ticket, &change, &context);
            }
            Input::Persisted(seq) => self.on_persisted(seq),
            Input::Applied { index, durable } => self.on_applied(index, durable),
            Input::SnapshotInstalled(meta) => self.on_snapshot_installed(meta),
            Input::SnapshotSent { to, installed } => self.on_snapshot_sent(to, installed),
            Input::Disconnected(peer) => self.on_disconnected(peer),
        }
        self.settle();
        self.flush(out);
    }

    fn status(&self) -> Status {
        let membership = self.members.now.clone();
        let role = match self.role {
            Role::Follower if !membership.is_voter(self.id) => Role::Learner,
            role => role,
        };
        let lead = self.lead.as_deref();
        let matched = |l: &Lead| l.peers.iter().map(|(&id, p)| (id, p.acked)).collect();
        Status {
            id: self.id,
            role,
            term: self.accepted,
            leader: self.leader(),
            last: self.log.last(),
            commit: self.commit,
            applied: self.applied,
            persisted: self.persisted,
            first: self.log.first(),
            matched: lead.map(matched).unwrap_or_default(),
            reads_alone: lead.is_some_and(|l| l.opened(self.commit)) && self.alone(),
            membership,
        }
    }

    fn boundary(&self, index: u64) -> Option<SnapshotMeta> {
        if index > self.emitted {
            return None;
        }
        let term = self.log.term(index)?;
        let membership = members::activated(self.history.at(index));
        Some(SnapshotMeta { index, term, membership, joint_until: 0 })
    }
}
