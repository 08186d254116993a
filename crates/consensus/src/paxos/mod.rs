//! Multi-Paxos (Lamport, "Paxos Made Simple", 2001; van Renesse and
//! Altinbuken, "Paxos Made Moderately Complex", CSUR'15; Chandra, Griesemer and
//! Redstone, "Paxos Made Live", PODC'07).
//!
//! A node is proposer, acceptor and learner in one. A candidate asks with a
//! ballot for promises and for what was accepted (phase 1, `elect.rs`), proposes
//! that again and fills holes with no-ops (`recover.rs`), and then leads: values
//! go out without phase 1, are accepted and chosen in any order (`lead.rs`), and
//! are applied in the order of their slots (`learn.rs`).
//!
//! **Ballots** are (round, node). An acceptor promises once a round, so a round
//! has one leader and names its ballot; the contract's `term` is the round.
//!
//! **Invariants**
//! - A promise and what is accepted are durable before they are told. A leader
//!   counts itself for a slot only when its own write is durable.
//! - A value that is proposed again keeps the ballot in which it was *first*
//!   proposed ([`Entry::term`]); a filled hole takes that of the slot before it.
//!   These never decrease with the slots: where what was accepted says
//!   otherwise, the one accepted in the earlier ballot cannot have been chosen
//!   (`recover.rs`), and is dropped.
//! - A commit watermark covers only slots that this node accepted in the
//!   watermark's ballot; what it accepted earlier is fetched again.
//! - At most [`WINDOW`] slots are open. A change of the voters in slot `i` counts
//!   from slot `i + WINDOW` on (`members.rs`).
//! - `applied <= emitted <= commit`, and all emitted slots are durable here.
//!
//! **What the driver guarantees** is told in `raft/mod.rs`.
//!
//! **Must not know**: clocks (time is an argument), threads, other protocols.

mod elect;
mod lead;
mod learn;
mod members;
mod message;
mod ranges;
mod read;
mod record;
mod recover;
mod slots;
mod snapshot;
mod transfer;

#[cfg(test)]
mod tests;

pub use message::{Answer, Ask, Body, CHOSEN, Message, Report};
pub use record::Record;

use crate::config::Membership;
use crate::contract::{
    Consensus, Entry, EntryKind, Input, Limits, Output, Outputs, Recovered, Role, SnapshotMeta,
    Status, WriteSeq,
};
use crate::entries::Entries;
use crate::event::{Event, StandDownReason};
use crate::parts::poll::Poll;
use crate::parts::reads::AskedReads;
use crate::parts::streams::Streams;
use crate::parts::watch::Watch;
use crate::parts::writes::Writes;
use lead::Lead;
use learn::Fetching;
use members::Eras;
use ranges::Ranges;
use recover::Recovery;
use slots::{Run, Slots};
use std::sync::Arc;
use synod_base::{NodeId, Rng, Tick, planted};
use transfer::Handover;

/// Most slots that are open at once: Lamport's alpha.
pub const WINDOW: u64 = 1_024;

/// An acceptor takes nothing further ahead of what it knows to be chosen: what
/// it holds beyond a hole is bounded.
const AHEAD_MAX: u64 = 4 * WINDOW;

/// One member of a cell that runs Multi-Paxos.
#[derive(Debug)]
pub struct Paxos {
    id: NodeId,
    limits: Limits,
    rng: Rng,
    now: Tick,
    last_tick: Tick,

    // What is durable, or on its way to be.
    round: u64,
    promised: Option<NodeId>,
    slots: Slots,
    /// Memberships of what is chosen, each with the slot from which it counts.
    eras: Eras,
    /// Who counts for slots that are not chosen yet (`members.rs`).
    members: Arc<Membership>,
    /// The slot that brought them.
    members_of: u64,

    // The journal.
    writes: Writes,
    /// The write that makes the present round and promise durable.
    hard_seq: WriteSeq,
    dirty: Dirty,
    /// All slots up to here are held durably.
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
    handover: Option<Handover>,
    overloaded: bool,
    fetching: Fetching,
    recovery: Recovery,
    /// When voters were last asked (again) for a promise.
    asked_again: Tick,
    snapshots: Streams,

    out: Outputs,
}

/// What the record of this step must hold.
#[derive(Debug, Default)]
struct Dirty {
    hard: bool,
    slots: Ranges,
    boundary: bool,
}

impl Dirty {
    /// Keeps the memory.
    fn clear(&mut self) {
        (self.hard, self.boundary) = (false, false);
        self.slots.drop_to(u64::MAX);
    }
}

impl Paxos {
    /// A member that starts from what an earlier life left (for a fresh cell:
    /// a [`SnapshotMeta`] with the first membership). All of it counts as
    /// durable. The error names what was recovered and does not fit.
    pub fn new(
        id: NodeId,
        limits: Limits,
        seed: u64,
        recovered: Recovered,
        now: Tick,
    ) -> Result<Paxos, String> {
        let applied = recovered.applied.max(recovered.snapshot.index);
        let replayed = record::replay(recovered)?;
        let start = replayed.start;
        let mut rng = Rng::new(seed ^ id.0.rotate_left(32));
        let mut paxos = Paxos {
            id,
            now,
            last_tick: now,
            round: replayed.round,
            promised: replayed.promised,
            slots: Slots::new(start.index, start.term),
            members: Arc::new(start.membership.clone()),
            members_of: u64::MAX,
            eras: Eras::new(&start),
            writes: Writes::default(),
            hard_seq: WriteSeq(0),
            dirty: Dirty::default(),
            persisted: start.index,
            emitted: applied.max(start.index),
            applied: applied.max(start.index),
            durable: start.index,
            role: Role::Follower,
            watch: Watch::new(now),
            poll: None,
            lead: None,
            asked: AskedReads::new(rng.next_u64() >> 1),
            handover: None,
            overloaded: false,
            fetching: Fetching::default(),
            recovery: Recovery::default(),
            asked_again: now,
            snapshots: Streams::default(),
            out: Vec::new(),
            rng,
            limits,
        };
        for (slot, (ballot, entry)) in replayed.accepted {
            let chosen = slot <= replayed.commit;
            let entries = entry.into();
            paxos.slots.put(Run { first: slot, entries, ballot, seq: WriteSeq(0), chosen });
        }
        paxos.advance();
        paxos.draw_deadline();
        paxos.show_members();
        Ok(paxos)
    }

    fn event(&mut self, event: Event) {
        self.out.push(Output::Event(event));
    }

    fn send(&mut self, to: NodeId, body: Body, after: WriteSeq) {
        self.out.push(message_to(self.round, to, body, after));
    }

    fn hard_changed(&mut self) {
        self.dirty.hard = true;
        self.hard_seq = self.writes.coming();
    }

    /// Accepts values in the present round; chosen if that is known.
    fn accept(&mut self, entries: Entries, chosen: bool) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let (first, last) = (first.index, last.index);
        self.dirty.slots.insert(first, last);
        let (ballot, seq) = (self.round, self.writes.coming());
        self.slots.put(Run { first, entries, ballot, seq, chosen });
    }

    /// The last slot of the unbroken row from `from` to `to` that is durable.
    fn durable_upto(&self, from: u64, to: u64) -> u64 {
        let done = self.writes.done();
        self.slots.reach(from, to, |run| run.seq <= done)
    }

    /// Writes what changed in this step, as one record.
    fn flush(&mut self, out: &mut Outputs) {
        let Dirty { hard, slots, boundary } = &self.dirty;
        if *hard || *boundary || !slots.is_empty() {
            let (all, boundary) = (&self.slots, *boundary);
            let rows = slots.iter().flat_map(|(first, last)| {
                let part = move |r: &Run| r.part(r.first.max(first)..=r.last().min(last));
                all.runs(first..=last).map(move |r| (r.ballot, part(r)))
            });
            let accepted = rows.collect();
            let start = boundary.then(|| self.boundary_at(self.slots.start())).flatten();
            let record = Record {
                round: self.round,
                promised: self.promised.filter(|_| !planted("paxos: a promise is not persisted")),
                commit: self.slots.commit(),
                boundary: start.map(Box::new),
                accepted,
            };
            let seq = self.writes.mint(0, self.now);
            out.push(Output::Write { seq, record: crate::Record::Paxos(record) });
            if boundary {
                self.out.push(Output::Forget { upto: self.slots.start() });
            }
            self.dirty.clear();
        }
        out.append(&mut self.out);
    }

    fn on_persisted(&mut self, seq: WriteSeq) {
        self.writes.finished(seq);
        let from = self.persisted.max(self.slots.start());
        self.persisted = self.durable_upto(from + 1, self.slots.last());
        if let Some(lead) = &mut self.lead {
            lead.moved = true;
        }
        if self.writes.stalled && self.writes.age(self.now) <= self.limits.disk_stall_ms {
            self.writes.stalled = false;
            self.event(Event::DiskRecovered);
        }
        self.count_promises();
    }

    fn on_tick(&mut self) {
        let gap = self.now.since(self.last_tick);
        self.last_tick = self.now;
        if gap > self.limits.election_ms / 2 {
            self.after_starvation(gap);
        } else {
            self.watch_disk();
        }
        match self.lead {
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
        let age_ms = self.writes.age(self.now);
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

    fn receive(&mut self, from: NodeId, message: Message) {
        if from == self.id || !from.is_some() {
            return;
        }
        let Message { round, body } = message;
        match body {
            // Neither changes the round by itself: what is refused for a living
            // leader must not disturb it.
            Body::Canvass(ask) => return self.on_canvass(from, ask),
            Body::Prepare(ask) => return self.on_prepare(from, round, ask),
            _ => {}
        }
        let from_leader = matches!(
            body,
            Body::Accept { .. }
                | Body::Heartbeat { .. }
                | Body::Committed { .. }
                | Body::Chosen { .. }
                | Body::TimeoutNow
        );
        let known = self.members.contains(from);
        if !known && !from_leader && self.watch.leader != Some(from) && self.poll.is_none() {
            return;
        }
        if let Body::CanvassAnswer(answer) = body
            && (answer.refused.is_none() || round <= self.round)
        {
            return self.on_canvass_answer(from, answer);
        }
        if round > self.round {
            self.follow(round, None, Some(StandDownReason::LaterTerm { from }));
        }
        if round < self.round {
            // Its sender may be a leader that a partition left behind.
            if from_leader || matches!(body, Body::ReadAsk { .. } | Body::Fetch { .. }) {
                self.send(from, Body::OldRound, self.hard_seq);
            }
            return;
        }
        self.receive_current(from, body, from_leader);
    }

    /// A message of the present round.
    fn receive_current(&mut self, from: NodeId, body: Body, from_leader: bool) {
        if from_leader {
            if self.lead.is_some() || self.watch.leader.is_some_and(|l| l != from) {
                return self.event(Event::BadMessage { from, what: "two leaders in one round" });
            }
            self.hear_leader(from);
        } else if let Some(p) = self.lead.as_mut().and_then(|l| l.peers.get_mut(&from)) {
            p.heard = self.now;
        }
        match body {
            Body::Accept { commit, entries, .. } => self.on_accept(from, commit, &entries),
            Body::Accepted { first, last, reached } => self.on_accepted(from, first, last, reached),
            Body::Promise(report) => self.on_report(from, report, true),
            Body::Report(report) => self.on_report(from, report, false),
            Body::More { from: slot } => self.on_more(from, slot),
            Body::NoPromise(answer) => self.on_no_promise(from, answer),
            Body::Fetch { from: slot } => self.on_fetch(from, slot),
            Body::Chosen { commit, entries, .. } => self.on_chosen(from, commit, &entries),
            Body::Heartbeat { commit, beat } => self.on_heartbeat(from, commit, beat),
            Body::HeartbeatAnswer { beat, reached } => {
                self.on_heartbeat_answer(from, beat, reached);
            }
            Body::Committed { commit } => self.learn_commit(commit),
            Body::ReadAsk { batch } => self.on_read_ask(from, batch),
            Body::ReadAnswer { batch, index } => self.on_read_answer(from, batch, index),
            Body::TimeoutNow => self.on_timeout_now(),
            Body::OldRound | Body::Canvass(_) | Body::CanvassAnswer(_) | Body::Prepare(_) => {}
        }
    }

    fn on_disconnected(&mut self, peer: NodeId) {
        match self.lead.as_mut() {
            Some(lead) => lead.disconnected(peer),
            None => self.watch.disconnected(peer, self.now, &self.limits, &mut self.rng),
        }
    }

    /// What follows from the step's input.
    fn settle(&mut self) {
        if self.lead.is_some() {
            self.choose();
            self.drive_recovery();
            self.drive_proposals();
            self.send_accepts();
            self.drive_transfer();
            self.tell_commit();
            self.drive_reads();
            self.leave_if_removed();
        }
        self.ask_reads();
        self.emit_commits();
    }

    fn emit_commits(&mut self) {
        if self.emitted == self.slots.commit() {
            return;
        }
        let upto = self.durable_upto(self.emitted + 1, self.slots.commit());
        while self.emitted < upto {
            let entries = self.slots.batch(self.emitted + 1, upto);
            self.emitted += entries.len() as u64;
            self.out.push(Output::Commit(entries));
        }
    }
}

fn message_to(round: u64, to: NodeId, body: Body, after: WriteSeq) -> Output {
    Output::Send { to, message: crate::Message::Paxos(Message { round, body }), after }
}

/// Whether an entry is one that a leader of `round` can have sent.
fn check(entry: &Entry, round: u64) -> Result<(), &'static str> {
    if entry.term > round {
        return Err("values of a ballot to come");
    }
    let config = entry.kind == EntryKind::Config;
    if config && Membership::decode_entry(entry.data.clone()).is_err() {
        return Err("an unreadable configuration");
    }
    Ok(())
}

impl Consensus for Paxos {
    fn step(&mut self, now: Tick, input: Input, out: &mut Outputs) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.on_tick(),
            Input::Receive { from, message: crate::Message::Paxos(m) } => self.receive(from, m),
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
        let role = match self.role {
            Role::Follower if !self.members.is_voter(self.id) => Role::Learner,
            role => role,
        };
        let lead = self.lead.as_deref().filter(|_| self.role == Role::Leader);
        let matched = |l: &Lead| l.peers.iter().map(|(&id, p)| (id, p.reached)).collect();
        Status {
            id: self.id,
            role,
            term: self.round,
            leader: self.watch.leader,
            last: self.slots.last(),
            commit: self.slots.commit(),
            applied: self.applied,
            persisted: self.persisted,
            first: self.slots.start() + 1,
            matched: lead.map(matched).unwrap_or_default(),
            reads_alone: lead.is_some() && self.own_chosen() && self.alone(),
            membership: self.members.clone(),
        }
    }

    fn boundary(&self, index: u64) -> Option<SnapshotMeta> {
        self.boundary_at(index).filter(|_| index <= self.emitted)
    }
}
