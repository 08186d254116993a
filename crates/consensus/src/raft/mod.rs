//! Raft (Ongaro and Ousterhout, USENIX ATC'14; Ongaro's thesis, 2014).
//!
//! With pre-vote (9.6), check-quorum and leader stickiness (6.2, 4.2.3),
//! pipelined replication (10.2.1), batched quorum reads and leases (6.4),
//! leadership transfer (3.10), learners and joint consensus (4.3); and with one
//! addition, told in `borrow.rs`, for partial partitions.
//!
//! **Invariants**
//! - At most one journal record a step (`record.rs`). Term and vote are in a
//!   record no later than the send that relies on them, and that send waits
//!   for it. A leader counts itself for an index only once that is durable.
//! - Only an entry of the own term is committed by counting (figure 8).
//! - `applied <= emitted <= min(commit, persisted)`, `commit <= last`,
//!   `persisted <= last`.
//! - A configuration is in force from the moment it is in the log
//!   (`members.rs`).
//!
//! **What the driver guarantees**: `Persisted` reports a contiguous prefix of
//! the writes, in order; a `Send` starts after its `after` is durable; a seed
//! differs between two lives of a node, so that an answer to a read of an
//! earlier life is not taken for one of this; a node that lost its disk comes
//! back under another id; a failed write or fsync stops the node. What may be
//! dropped after `Forget` is told in `record.rs`. `Disconnected` comes after all
//! that was received over that connection: a later message of the leader would
//! count as a sign of life and cost a full time-out.
//!
//! **Must not know**: clocks (time is an argument), threads, other protocols.

mod borrow;
mod elect;
mod members;
mod message;
mod read;
mod record;
mod replicate;
mod snapshot;
mod transfer;

#[cfg(test)]
mod tests;

pub use crate::parts::recover::RecoverError;
pub use message::{Answer, Ask, Body, Message};
pub use record::{Boundary, HardState, Record};

use crate::contract::{
    Consensus, Entry, EntryKind, Input, Limits, Output, Outputs, Recovered, Role, SnapshotMeta,
    Status, WriteSeq,
};
use crate::entries::Entries;
use crate::event::{Event, StandDownReason};
use crate::parts::history::History;
use crate::parts::log::Log;
use crate::parts::poll::Poll;
use crate::parts::progress::{Phase, Progress};
use crate::parts::reads::{AskedReads, LeaderReads};
use crate::parts::streams::Streams;
use crate::parts::watch::Watch;
use crate::parts::writes::Writes;
use borrow::Loan;
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_base::{NodeId, Rng, Tick, planted};
use transfer::Handover;

/// One member of a cell that runs Raft.
#[derive(Debug)]
pub struct Raft {
    id: NodeId,
    limits: Limits,
    rng: Rng,
    now: Tick,
    last_tick: Tick,

    // What is durable, or on its way to be.
    term: u64,
    vote: Option<NodeId>,
    commit: u64,
    log: Log,
    history: History,

    // The journal.
    writes: Writes,
    /// The write that makes the present term and vote durable.
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
    watch: Watch,
    poll: Option<Poll>,
    lead: Option<Box<Lead>>,
    asked: AskedReads,
    /// Of whom this node borrows what its log lacks.
    lender: Option<NodeId>,
    /// Who borrows what is not held here any more.
    snapshots: Streams,
    handover: Option<Handover>,
    overloaded: bool,

    out: Outputs,
}

/// What only a leader has.
#[derive(Debug)]
struct Lead {
    /// Index of its first entry: nothing may be read or changed before it commits.
    first: u64,
    peers: BTreeMap<NodeId, Progress>,
    reads: LeaderReads,
    next_heartbeat: Tick,
    /// Something that commit depends on has moved.
    moved: bool,
    /// Silence counts from here on (put off when the process was starved).
    quorum_since: Tick,
}

/// What the record of this step must hold.
#[derive(Debug, Default)]
struct Dirty {
    hard: bool,
    entries_from: Option<u64>,
    boundary: Option<Box<Boundary>>,
    forget: bool,
}

impl Raft {
    /// A member that starts from what an earlier life left (for a fresh cell:
    /// a [`SnapshotMeta`] with the first membership). All of it counts as durable.
    pub fn new(
        id: NodeId,
        limits: Limits,
        seed: u64,
        recovered: Recovered,
        now: Tick,
    ) -> Result<Raft, RecoverError> {
        let applied = recovered.applied.max(recovered.snapshot.index);
        let replayed = record::replay(recovered)?;
        let mut log = Log::new(replayed.start.index, replayed.start.term);
        let mut history = History::new(replayed.start.index, replayed.start.membership);
        for (i, entry) in replayed.entries.iter().enumerate() {
            history.note(entry).map_err(|error| RecoverError::Malformed { record: i, error })?;
        }
        log.append(replayed.entries.into());
        let applied = applied.max(log.start());
        let mut raft = Raft {
            id,
            rng: Rng::new(seed ^ id.0.rotate_left(32)),
            now,
            last_tick: now,
            term: replayed.hard.term,
            vote: replayed.hard.vote,
            commit: replayed.hard.commit.max(applied),
            persisted: log.last(),
            history,
            writes: Writes::default(),
            hard_seq: WriteSeq(0),
            log_seq: WriteSeq(0),
            dirty: Dirty::default(),
            emitted: applied,
            applied,
            durable: log.start(),
            role: Role::Follower,
            watch: Watch::new(now),
            poll: None,
            lead: None,
            asked: AskedReads::default(),
            lender: None,
            snapshots: Streams::default(),
            handover: None,
            overloaded: false,
            out: Vec::new(),
            log,
            limits,
        };
        raft.asked = AskedReads::new(raft.rng.next_u64() >> 1);
        raft.draw_deadline();
        raft.show_members(false);
        Ok(raft)
    }

    fn event(&mut self, event: Event) {
        self.out.push(Output::Event(event));
    }

    fn send(&mut self, to: NodeId, body: Body, after: WriteSeq) {
        self.out.push(message_to(self.term, to, body, after));
    }

    fn hard_changed(&mut self) {
        self.dirty.hard = true;
        self.hard_seq = self.writes.coming();
    }

    /// Puts entries at the end of the log. The caller has checked the data of
    /// configurations among them.
    fn append(&mut self, entries: Entries) {
        let Some(index) = entries.first().map(|e| e.index) else { return };
        self.log.append(entries.clone());
        let from = self.dirty.entries_from.map_or(index, |from| from.min(index));
        self.dirty.entries_from = Some(from);
        self.log_seq = self.writes.coming();
        for config in entries.iter().filter(|e| e.kind == EntryKind::Config) {
            if self.history.note(config).is_ok() {
                self.members_changed(false);
            }
        }
    }

    /// Appends an entry of this leader's own.
    fn append_own(&mut self, kind: EntryKind, data: Bytes) -> u64 {
        let index = self.log.last() + 1;
        self.append(Entry { index, term: self.term, kind, data }.into());
        if let Some(lead) = &mut self.lead {
            lead.moved = true;
        }
        index
    }

    /// Cuts the log from `from` on.
    fn truncate(&mut self, from: u64) {
        assert!(from > self.commit, "what is committed stays");
        self.log.truncate(from);
        self.persisted = self.persisted.min(from - 1);
        self.writes.cut(from - 1);
        self.dirty.entries_from = self.dirty.entries_from.filter(|&first| first < from);
        if self.history.truncate(from) {
            self.members_changed(true);
        }
    }

    /// Writes what changed in this step, as one record.
    fn flush(&mut self, out: &mut Outputs) {
        if self.dirty.hard || self.dirty.entries_from.is_some() || self.dirty.boundary.is_some() {
            let dirty = std::mem::take(&mut self.dirty);
            let vote = self.vote.filter(|_| !planted("raft: a vote is not persisted"));
            let hard = HardState { term: self.term, vote, commit: self.commit };
            let first = dirty.entries_from.unwrap_or(self.log.last() + 1);
            let entries = self.log.entries(first, self.log.last(), u64::MAX);
            if let Some(b) = dirty.boundary.as_deref().filter(|_| dirty.forget) {
                self.out.push(Output::Forget { upto: b.meta.index });
            }
            let record = Record { hard, boundary: dirty.boundary, first, entries };
            let seq = self.writes.mint(self.log.last(), self.now);
            out.push(Output::Write { seq, record: crate::Record::Raft(record) });
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
        self.count_votes();
    }

    /// Age of the oldest write that is not durable yet.
    fn write_age(&self) -> u64 {
        self.writes.age(self.now)
    }

    fn on_tick(&mut self) {
        let gap = self.now.since(self.last_tick);
        self.last_tick = self.now;
        let starved = gap > self.limits.election_ms / 2;
        if starved {
            self.after_starvation(gap);
        } else {
            self.watch_disk();
        }
        match self.role {
            Role::Leader => self.tick_leader(),
            _ => self.tick_follower(),
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
        if leading && !self.alone() {
            self.flee_disk();
        }
    }

    fn receive(&mut self, from: NodeId, message: Message) {
        if from == self.id || !from.is_some() {
            return;
        }
        let Message { term, body } = message;
        match body {
            // Neither changes the term by itself: votes refused for a living
            // leader, and pre-votes, must not disturb it.
            Body::PreVote(ask) => return self.on_pre_vote(from, term, ask),
            Body::Vote(ask) => return self.on_vote(from, term, ask),
            _ => {}
        }
        // A stranger may lead (our configuration may be older than its), or
        // answer our campaign; nothing else of it counts.
        let from_leader = matches!(
            body,
            Body::Append { .. }
                | Body::Heartbeat { .. }
                | Body::Committed { .. }
                | Body::TimeoutNow
        );
        let known = self.history.current().contains(from);
        if !known && !from_leader && self.watch.leader != Some(from) {
            return;
        }
        if let Body::PreVoteAnswer(answer) = body
            && (answer.refused.is_none() || term <= self.term)
        {
            return self.on_pre_vote_answer(from, answer);
        }
        if term > self.term {
            self.follow(term, None, Some(StandDownReason::LaterTerm { from }));
        }
        if term < self.term {
            // Its sender may be a leader that a partition left behind: without
            // an answer it would never learn, and with pre-vote nobody would
            // disturb it (the pre-vote deadlock, openraft #1796).
            if from_leader || matches!(body, Body::ReadAsk { .. }) {
                self.send(from, Body::OldTerm, self.hard_seq);
            }
            return;
        }
        self.receive_current(from, body, from_leader);
    }

    /// A message of the present term.
    fn receive_current(&mut self, from: NodeId, body: Body, from_leader: bool) {
        if from_leader {
            if self.role == Role::Leader || self.watch.leader.is_some_and(|l| l != from) {
                return self.event(Event::BadMessage { from, what: "two leaders in one term" });
            }
            self.hear_leader(from);
        } else if let Some(p) = self.lead.as_mut().and_then(|l| l.peers.get_mut(&from)) {
            p.heard = self.now;
        }
        match body {
            Body::Append { prev_index, prev_term, commit, entries } => {
                self.on_append(from, prev_index, prev_term, commit, entries);
            }
            Body::Appended { matched } => self.on_appended(from, matched),
            Body::Conflict { rejected, hint_index, hint_term } => {
                self.on_conflict(from, rejected, hint_index, hint_term);
            }
            Body::Heartbeat { commit, round } => {
                self.learn_commit(commit);
                self.send(from, Body::HeartbeatAnswer { round }, self.hard_seq);
            }
            Body::HeartbeatAnswer { round } => self.on_heartbeat_answer(from, round),
            Body::Committed { commit } => self.learn_commit(commit),
            Body::ReadAsk { batch } => self.on_read_ask(from, batch),
            Body::ReadAnswer { batch, index } => self.on_read_answer(from, batch, index),
            Body::VoteAnswer(answer) => self.on_vote_answer(from, answer),
            Body::Borrow { last_index, last_term } => self.on_borrow(from, last_index, last_term),
            Body::Lend { last_index, last_term, prev_index, prev_term, entries } => {
                self.on_lend(from, Loan { last_index, last_term, prev_index, prev_term, entries });
            }
            Body::TimeoutNow => self.on_timeout_now(),
            Body::OldTerm | Body::PreVoteAnswer(_) | Body::PreVote(_) | Body::Vote(_) => {}
        }
    }

    fn on_disconnected(&mut self, peer: NodeId) {
        if let Some(p) = self.lead.as_mut().and_then(|l| l.peers.get_mut(&peer)) {
            // What was in flight is most likely lost; a probe finds out how far it came.
            if p.phase() == Phase::Replicate {
                p.probe(Tick(0));
            }
        } else {
            self.watch.disconnected(peer, self.now, &self.limits, &mut self.rng);
        }
    }

    /// What follows from the step's input.
    fn settle(&mut self) {
        if self.lead.is_some() {
            self.advance_commit();
            self.leave_joint();
            self.drive_transfer();
            self.replicate();
            self.drive_reads();
            self.leave_if_removed();
        }
        self.ask_reads();
        self.emit_commits();
    }

    fn emit_commits(&mut self) {
        let upto = self.commit.min(self.persisted);
        while upto > self.emitted {
            let entries = self.log.batch(self.emitted + 1, upto);
            self.emitted += entries.len() as u64;
            self.out.push(Output::Commit(entries));
        }
        assert!(self.applied <= self.emitted && self.commit <= self.log.last());
    }
}

fn message_to(term: u64, to: NodeId, body: Body, after: WriteSeq) -> Output {
    Output::Send { to, message: crate::Message::Raft(Message { term, body }), after }
}

impl Consensus for Raft {
    fn step(&mut self, now: Tick, input: Input, out: &mut Outputs) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.on_tick(),
            Input::Receive { from, message: crate::Message::Raft(m) } => self.receive(from, m),
            Input::Receive { from, .. } => {
                self.event(Event::BadMessage { from, what: "of another protocol" });
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
        let membership = self.history.shared();
        let role = match self.role {
            Role::Follower if !membership.is_voter(self.id) => Role::Learner,
            role => role,
        };
        let lead = self.lead.as_deref();
        let matched = |l: &Lead| l.peers.iter().map(|(&id, p)| (id, p.matched())).collect();
        Status {
            id: self.id,
            role,
            term: self.term,
            leader: self.watch.leader,
            last: self.log.last(),
            commit: self.commit,
            applied: self.applied,
            persisted: self.persisted,
            first: self.log.first(),
            matched: lead.map(matched).unwrap_or_default(),
            reads_alone: lead.is_some_and(|l| self.commit >= l.first) && self.alone(),
            membership,
        }
    }

    fn boundary(&self, index: u64) -> Option<SnapshotMeta> {
        if index > self.emitted {
            return None;
        }
        let term = self.log.term(index)?;
        let membership = self.history.at(index).clone();
        Some(SnapshotMeta { index, term, membership, joint_until: 0 })
    }
}
