//! Phase 2 on a leader: proposals, acknowledgements, what is chosen.
//!
//! **Invariants**
//! - A slot is proposed only while it is within the window, and only when a
//!   quorum of those who choose it has promised.
//! - A slot is chosen by a quorum of the voters of *its* membership, in any
//!   order; this node counts only when its own write is durable.
//! - What was sent and not answered is sent again after half an election time.
//!   A peer that is too far behind is left out: it fetches what it missed.

use super::message::Body;
use super::ranges::Ranges;
use super::slots::{Run, Slots};
use super::{Paxos, WINDOW, message_to};
use crate::config::Membership;
use crate::contract::{Entry, EntryKind, Output, Proposal, Refusal, WriteSeq};
use crate::entries::Entries;
use crate::event::Event;
use crate::parts::log::{cost_of, fitting};
use crate::parts::reads::LeaderReads;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use synod_base::{NodeId, Tick, planted};

/// What only a leader has, from the end of phase 1 on.
#[derive(Debug)]
pub(super) struct Lead {
    /// The first slot of its own; `None` while it proposes again what it found.
    pub first: Option<u64>,
    /// The next slot to propose.
    pub next: u64,
    /// No-ops go out up to here.
    fill_to: u64,
    /// Nothing is recovered beyond this slot before it is chosen.
    pub barrier: u64,
    /// Who takes nothing of an earlier ballot any more.
    pub promised: BTreeSet<NodeId>,
    /// Who would not promise that.
    pub refused: BTreeSet<NodeId>,
    /// When recovery last made progress.
    pub went_on: Tick,
    /// All slots from the commit up to here are accepted here, durably.
    own: u64,
    /// Cost of what is proposed and not known to be chosen.
    open_bytes: u64,
    waiting_bytes: u64,
    /// Own rows that the window does not let out yet.
    waiting: VecDeque<Entries>,
    pub peers: BTreeMap<NodeId, Peer>,
    pub reads: LeaderReads,
    pub next_heartbeat: Tick,
    /// Something that choosing depends on has moved.
    pub moved: bool,
    /// Silence counts from here on (put off when the process was starved).
    pub quorum_since: Tick,
}

/// A message of values that is not answered.
#[derive(Debug)]
struct Flight {
    last: u64,
    bytes: u64,
    sent: Tick,
}

/// What a leader knows of one peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// When anything of this round was last heard from it.
    pub heard: Tick,
    /// Highest beat that it answered.
    pub beat: u64,
    /// Everything up to here is chosen and durable there.
    pub reached: u64,
    /// The next slot to send.
    next: u64,
    /// What it has accepted in this round, beyond the commit.
    accepted: Ranges,
    flights: VecDeque<Flight>,
    flight_bytes: u64,
    commit_sent: u64,
}

impl Peer {
    fn new(now: Tick) -> Peer {
        Peer {
            heard: now,
            beat: 0,
            reached: 0,
            next: 0,
            accepted: Ranges::default(),
            flights: VecDeque::new(),
            flight_bytes: 0,
            commit_sent: 0,
        }
    }

    /// Ends the flights whose values it is known to have accepted, or to need
    /// no more: what follows `commit` without a hole. The others are sent again
    /// when the oldest is overdue.
    fn land(&mut self, commit: u64) {
        let upto = self.accepted.reach(commit + 1);
        while let Some(flight) = self.flights.pop_front_if(|f| f.last <= upto) {
            self.flight_bytes -= flight.bytes;
        }
    }

    /// What is in flight is most likely lost.
    fn send_again(&mut self) {
        self.flights.clear();
        (self.flight_bytes, self.next) = (0, 0);
    }
}

impl Lead {
    pub fn new(
        next: u64,
        promised: BTreeSet<NodeId>,
        others: impl Iterator<Item = NodeId>,
        now: Tick,
        heartbeat_ms: u64,
    ) -> Lead {
        Lead {
            first: None,
            next,
            fill_to: 0,
            barrier: 0,
            promised,
            refused: BTreeSet::new(),
            went_on: now,
            own: 0,
            open_bytes: 0,
            waiting_bytes: 0,
            waiting: VecDeque::new(),
            peers: others.map(|id| (id, Peer::new(now))).collect(),
            reads: LeaderReads::default(),
            next_heartbeat: now.plus(heartbeat_ms),
            moved: true,
            quorum_since: now,
        }
    }

    /// Whether a quorum of these members has promised.
    pub fn is_promised(&self, members: &Membership) -> bool {
        planted("paxos: leads without a quorum of promises")
            || members.quorum(|id| self.promised.contains(&id))
    }

    /// Whether the peer has accepted that slot in this round.
    pub fn has_accepted(&self, peer: NodeId, slot: u64) -> bool {
        self.peers.get(&peer).is_some_and(|p| p.accepted.reach(slot) >= slot)
    }

    /// Whether all that was proposed is chosen, and nothing waits to be.
    pub fn is_idle(&self, commit: u64) -> bool {
        self.next <= commit + 1 && self.waiting.is_empty()
    }

    /// What the window does not let out yet.
    pub fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.waiting.iter().flatten()
    }

    /// The slot of the next entry of its own.
    fn coming(&self) -> u64 {
        self.waiting.back().and_then(|row| row.last()).map_or(self.next, |e| e.index + 1)
    }

    pub fn set_peers(&mut self, all: &BTreeSet<NodeId>, id: NodeId, now: Tick) {
        self.peers.retain(|peer, _| all.contains(peer));
        for &peer in all.iter().filter(|&&peer| peer != id) {
            self.peers.entry(peer).or_insert_with(|| Peer::new(now));
        }
        self.moved = true;
    }

    /// What was in flight to a peer goes again.
    pub fn disconnected(&mut self, peer: NodeId) {
        if let Some(p) = self.peers.get_mut(&peer) {
            p.send_again();
        }
    }

    /// Starts a beat: what answers it says that this leader was followed after now.
    pub fn heartbeat(&mut self, round: u64, now: Tick, commit: u64, out: &mut Vec<Output>) -> u64 {
        let beat = self.reads.new_round(now);
        for (&to, p) in &mut self.peers {
            p.commit_sent = p.commit_sent.max(commit);
            out.push(message_to(round, to, Body::Heartbeat { commit, beat }, WriteSeq(0)));
        }
        beat
    }
}

fn changes_voters(entry: &Entry, voters: &BTreeSet<NodeId>) -> bool {
    entry.kind == EntryKind::Config
        && Membership::decode_entry(entry.data.clone()).is_ok_and(|(m, _)| m.voters != *voters)
}

impl Paxos {
    pub(super) fn propose(&mut self, mut batch: Vec<Proposal>) {
        let Some(lead) = self.lead.as_ref().filter(|l| l.first.is_some()) else {
            let why = self.not_leader();
            return batch.iter().for_each(|p| self.refused(p.ticket, why));
        };
        if self.handover.is_some() {
            return batch.iter().for_each(|p| self.refused(p.ticket, Refusal::Transferring));
        }
        let open = lead.open_bytes + lead.waiting_bytes;
        let fit = fitting(&batch, open, self.limits.uncommitted_bytes_max as u64);
        let late = batch.split_off(fit);
        let mut bytes = open;
        if !batch.is_empty() {
            let (index, term) = (lead.coming(), self.round);
            let (tickets, row) = Entries::propose(batch, index, term);
            bytes += self.wait(row);
            self.out.push(Output::Accepted { tickets, index, term });
        }
        if !late.is_empty() && !self.overloaded {
            self.event(Event::Overloaded { uncommitted_bytes: bytes });
        }
        self.overloaded = !late.is_empty();
        late.iter().for_each(|p| self.refused(p.ticket, Refusal::Overloaded));
    }

    /// Gives an entry of this leader's own a slot. It goes out when the window
    /// lets it (`drive_proposals`).
    pub(super) fn append_own(&mut self, kind: EntryKind, data: Bytes) -> u64 {
        let Some(index) = self.lead.as_ref().map(|l| l.coming()) else { return 0 };
        self.wait(Entry { index, term: self.round, kind, data }.into());
        index
    }

    /// Puts a row of this leader's own in the queue for the window; its cost. A
    /// configuration is a row by itself.
    fn wait(&mut self, row: Entries) -> u64 {
        let bytes = cost_of(&row);
        if let Some(lead) = &mut self.lead {
            lead.waiting_bytes += bytes;
            lead.waiting.push_back(row);
        }
        bytes
    }

    /// Accepts values here and opens their slots; `send_accepts` tells the others.
    pub(super) fn put_forward(&mut self, row: Entries) {
        let Some(first) = row.first().map(|e| e.index) else { return };
        let chosen = first <= self.slots.commit();
        if chosen || self.slots.get(first).is_some_and(|s| s.chosen) {
            // Learnt from a report: nothing is open about it. What is proposed
            // again comes one by one, and nothing is chosen behind that.
            assert_eq!(row.len(), 1, "nobody knows an own value to be chosen yet");
            return self.advance();
        }
        let bytes = cost_of(&row);
        self.accept(row, false);
        let Some(lead) = &mut self.lead else { return };
        lead.open_bytes += bytes;
        lead.moved = true;
    }

    /// These slots are known to be chosen now: those among them that are open
    /// are so no more.
    pub(super) fn close(&mut self, slots: RangeInclusive<u64>) {
        let Some(lead) = &mut self.lead else { return };
        for run in self.slots.runs(slots.clone()).filter(|r| r.is_open(self.round)) {
            let part = run.first.max(*slots.start())..=run.last().min(*slots.end());
            lead.open_bytes = lead.open_bytes.saturating_sub(cost_of(run.slice(part)));
        }
    }

    /// A snapshot brought everything up to `index`.
    pub(super) fn skip_to(&mut self, index: u64) {
        let (round, commit) = (self.round, self.slots.commit());
        let Some(lead) = &mut self.lead else { return };
        lead.next = lead.next.max(index + 1);
        lead.went_on = self.now;
        let open = self.slots.runs(commit + 1..=lead.next - 1).filter(|r| r.is_open(round));
        let cost = |r: &Run| cost_of(r.slice(r.first.max(commit + 1)..=r.last()));
        lead.open_bytes = open.map(cost).sum();
        lead.moved = true;
    }

    pub(super) fn drive_proposals(&mut self) {
        loop {
            let commit = self.slots.commit();
            let Some(lead) = self.lead.as_ref().filter(|l| l.first.is_some()) else { return };
            let slot = lead.next;
            // A change of the voters soon counts.
            let fill_to = lead.fill_to.max(self.eras.last_from());
            if lead.waiting.is_empty() && slot > fill_to {
                return;
            }
            let voters = self.eras.at(slot);
            let promised = lead.is_promised(voters);
            if slot > commit + WINDOW || !promised || !self.may_begin(slot) {
                return;
            }
            // A row of slots that the same voters choose.
            let end = (commit + WINDOW).min(self.eras.end_of(slot));
            let noop = |index| {
                let (term, kind) = (self.round, EntryKind::Noop);
                Entry { index, term, kind, data: Bytes::new() }
            };
            let Some(lead) = &mut self.lead else { return };
            let row = match lead.waiting.pop_front() {
                None => (slot..=end.min(fill_to)).map(noop).collect(),
                Some(row) => {
                    let fit = row.len().min((end + 1 - slot) as usize);
                    if fit < row.len() {
                        lead.waiting.push_front(row.skip(fit));
                    }
                    let row = row.part(0..fit);
                    lead.waiting_bytes -= cost_of(&row);
                    row
                }
            };
            if row.iter().any(|e| changes_voters(e, &voters.voters)) {
                lead.fill_to = slot + WINDOW;
            }
            lead.next += row.len() as u64;
            self.put_forward(row);
        }
    }

    /// Sends each peer the open slots that it was not sent yet, as far as its
    /// window allows.
    pub(super) fn send_accepts(&mut self) {
        let (commit, round) = (self.slots.commit(), self.round);
        let (messages_max, bytes_max) =
            (self.limits.inflight_messages_max.max(1), self.limits.inflight_bytes_max as u64);
        let Some(lead) = &mut self.lead else { return };
        let end = lead.next - 1;
        for (&to, p) in &mut lead.peers {
            while let Some(first) = next_open(&self.slots, p, end, round) {
                let full = p.flights.len() >= messages_max || p.flight_bytes >= bytes_max;
                if full && !p.flights.is_empty() {
                    break;
                }
                // A message names only its first slot: a row without a gap.
                let row_end = self.slots.reach(first, end, |r| r.is_open(round));
                let max = self.limits.append_bytes_max as u64;
                let entries = self.slots.row(first, row_end, max);
                let (last, bytes) = (first + entries.len() as u64 - 1, cost_of(&entries));
                p.flights.push_back(Flight { last, bytes, sent: self.now });
                p.flight_bytes += bytes;
                p.next = last + 1;
                p.commit_sent = p.commit_sent.max(commit);
                let body = Body::Accept { commit, first, entries };
                self.out.push(message_to(round, to, body, WriteSeq(0)));
            }
        }
    }

    pub(super) fn tick_leader(&mut self) {
        self.check_quorum();
        self.check_recovery();
        self.ask_again();
        self.repeat_accepts();
        let (now, commit, round) = (self.now, self.slots.commit(), self.round);
        let Some(lead) = &mut self.lead else { return };
        if now >= lead.next_heartbeat {
            lead.next_heartbeat = now.plus(self.limits.heartbeat_ms);
            lead.heartbeat(round, now, commit, &mut self.out);
        }
    }

    /// Open slots go out again to those who do not answer for them.
    fn repeat_accepts(&mut self) {
        let (now, patience) = (self.now, self.limits.election_ms / 2);
        let Some(lead) = &mut self.lead else { return };
        for p in lead.peers.values_mut() {
            if p.flights.front().is_some_and(|f| now.since(f.sent) > patience) {
                p.send_again();
            }
        }
    }

    pub(super) fn on_accepted(&mut self, from: NodeId, first: u64, last: u64, reached: u64) {
        let commit = self.slots.commit();
        let Some(lead) = &mut self.lead else { return };
        if last >= lead.next || first > last {
            return self.event(Event::BadMessage { from, what: "accepts what is not proposed" });
        }
        let Some(p) = lead.peers.get_mut(&from) else { return };
        p.reached = p.reached.max(reached.min(commit));
        if last > commit {
            p.accepted.insert(first, last);
        }
        p.land(commit);
        if lead.first.is_some() {
            lead.promised.insert(from);
        }
        lead.moved = true;
    }

    /// Goes on over the slots that a quorum of their voters has accepted.
    ///
    /// Each voter has accepted an unbroken row of slots from the commit on; the
    /// least of a quorum's ends is such that all slots up to it were accepted by
    /// all of that quorum, so they are chosen. What some accepted behind a hole
    /// counts as soon as the hole is chosen, by whichever quorum: then the rows
    /// are looked at again from there.
    pub(super) fn choose(&mut self) {
        let moved = self.lead.as_mut().is_some_and(|l| std::mem::take(&mut l.moved));
        if !moved {
            return;
        }
        let early = planted("paxos: a leader counts itself before its own write");
        let (done, round) = (self.writes.done(), self.round);
        let own = |run: &Run| run.ballot == round && (run.seq <= done || early);
        self.advance();
        while let Some(lead) = &mut self.lead {
            let from = self.slots.commit() + 1;
            lead.own = self.slots.reach(from.max(lead.own + 1), lead.next - 1, own);
            let reached = self.eras.at(from).quorum_value(|id| match id == self.id {
                true => lead.own,
                false => lead.peers.get(&id).map_or(0, |p| p.accepted.reach(from)),
            });
            // Behind that slot others choose.
            let reached = reached.min(self.eras.end_of(from)).min(lead.next - 1);
            if reached < from {
                break;
            }
            self.pass(reached);
            self.advance();
        }
        let commit = self.slots.commit();
        for p in self.lead.iter_mut().flat_map(|l| l.peers.values_mut()) {
            p.land(commit);
            p.accepted.drop_to(commit);
        }
    }

    /// With nothing under way to carry it, a new watermark goes by itself, so
    /// that followers apply at once (reads on them wait for it).
    pub(super) fn tell_commit(&mut self) {
        let commit = self.slots.commit();
        let Some(lead) = &mut self.lead else { return };
        for (&to, p) in &mut lead.peers {
            if p.flights.is_empty() && commit > p.commit_sent {
                p.commit_sent = commit;
                self.out.push(message_to(self.round, to, Body::Committed { commit }, WriteSeq(0)));
            }
        }
    }
}

/// The next slot up to `end` that is open and that the peer neither accepted nor
/// is being sent.
fn next_open(slots: &Slots, p: &Peer, end: u64, round: u64) -> Option<u64> {
    let mut slot = p.next.max(slots.commit() + 1);
    while slot <= end {
        slot = p.accepted.reach(slot) + 1;
        let run = slots.runs(slot..=end).next()?;
        let found = run.first.max(slot);
        if run.is_open(round) && p.accepted.reach(found) < found {
            return Some(found);
        }
        slot = if run.is_open(round) { found } else { run.last() + 1 };
    }
    None
}
