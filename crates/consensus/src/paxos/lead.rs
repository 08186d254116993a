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
use super::{Paxos, WINDOW, message_to};
use crate::config::Membership;
use crate::contract::{Entry, EntryKind, Output, Proposal, Refusal, WriteSeq};
use crate::event::Event;
use crate::parts::log::cost;
use crate::parts::reads::LeaderReads;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// Proposed and not known to be chosen: when it was last sent, who accepted.
    open: BTreeMap<u64, Open>,
    open_bytes: u64,
    waiting_bytes: u64,
    /// Own entries that the window does not let out yet.
    waiting: VecDeque<Entry>,
    pub peers: BTreeMap<NodeId, Peer>,
    pub reads: LeaderReads,
    pub next_heartbeat: Tick,
    /// Something that choosing depends on has moved.
    pub moved: bool,
    /// Silence counts from here on (put off when the process was starved).
    pub quorum_since: Tick,
}

#[derive(Debug)]
struct Open {
    bytes: u64,
    sent: Tick,
    accepted: Vec<NodeId>,
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
    /// The last slot of each message that is not answered, and its bytes.
    flights: VecDeque<(u64, u64)>,
    commit_sent: u64,
}

impl Peer {
    fn new(now: Tick) -> Peer {
        Peer { heard: now, beat: 0, reached: 0, next: 0, flights: VecDeque::new(), commit_sent: 0 }
    }

    fn landed(&mut self, upto: u64) {
        while self.flights.front().is_some_and(|(last, _)| *last <= upto) {
            self.flights.pop_front();
        }
    }

    /// What was sent from `slot` on is most likely lost.
    fn send_again(&mut self, slot: u64) {
        self.flights.clear();
        self.next = slot;
    }

    fn in_flight(&self) -> u64 {
        self.flights.iter().map(|(_, bytes)| bytes).sum()
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
            open: BTreeMap::new(),
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

    /// Slots that are proposed but not chosen, or wait to be proposed.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.waiting.is_empty()
    }

    /// Whether a configuration is on its way.
    pub fn changes_members(&self, held: impl Fn(u64) -> bool) -> bool {
        self.waiting.iter().any(|e| e.kind == EntryKind::Config)
            || self.open.keys().any(|&slot| held(slot))
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
            p.send_again(0);
        }
    }

    /// A snapshot brought everything up to `index`.
    pub fn skip_to(&mut self, index: u64) {
        self.open = self.open.split_off(&(index + 1));
        self.open_bytes = self.open.values().map(|o| o.bytes).sum();
        self.next = self.next.max(index + 1);
        self.moved = true;
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
    pub(super) fn propose(&mut self, batch: Vec<Proposal>) {
        for Proposal { ticket, data } in batch {
            let Some(lead) = self.lead.as_ref().filter(|l| l.first.is_some()) else {
                self.refused(ticket, self.not_leader());
                continue;
            };
            if self.handover.is_some() {
                self.refused(ticket, Refusal::Transferring);
                continue;
            }
            let open = lead.open_bytes + lead.waiting_bytes;
            if open > 0 && open + cost(data.len()) > self.limits.uncommitted_bytes_max as u64 {
                if !self.overloaded {
                    self.event(Event::Overloaded { uncommitted_bytes: open });
                }
                self.overloaded = true;
                self.refused(ticket, Refusal::Overloaded);
                continue;
            }
            self.overloaded = false;
            let index = self.append_own(EntryKind::Command, data);
            self.out.push(Output::Accepted { tickets: vec![ticket], index, term: self.round });
        }
    }

    /// Gives an entry of this leader's own a slot. It goes out when the window
    /// lets it (`drive_proposals`).
    pub(super) fn append_own(&mut self, kind: EntryKind, data: Bytes) -> u64 {
        let Some(lead) = &mut self.lead else { return 0 };
        let index = lead.next + lead.waiting.len() as u64;
        lead.waiting_bytes += cost(data.len());
        lead.waiting.push_back(Entry { index, term: self.round, kind, data });
        index
    }

    /// Accepts a value here and opens its slot; `send_accepts` tells the others.
    pub(super) fn put_forward(&mut self, entry: Entry) {
        let slot = entry.index;
        if slot <= self.slots.commit() {
            return;
        }
        if self.slots.get(slot).is_some_and(|s| s.chosen) {
            // Learnt from a report: nothing is open about it.
            return self.advance();
        }
        let bytes = cost(entry.data.len());
        self.accept(entry, false);
        let Some(lead) = &mut self.lead else { return };
        lead.open_bytes += bytes;
        lead.open.insert(slot, Open { bytes, sent: self.now, accepted: Vec::new() });
        lead.moved = true;
    }

    pub(super) fn drive_proposals(&mut self) {
        loop {
            let commit = self.slots.commit();
            let Some(lead) = self.lead.as_ref().filter(|l| l.first.is_some()) else { return };
            let slot = lead.next;
            let voters = self.eras.at(slot);
            let promised = voters.quorum(|id| lead.promised.contains(&id));
            if slot > commit + WINDOW || !promised || !self.may_begin(slot) {
                break;
            }
            // A change of the voters soon counts.
            let fill = slot <= lead.fill_to.max(self.eras.last_from());
            let Some(lead) = &mut self.lead else { return };
            let entry = match lead.waiting.pop_front() {
                Some(entry) => {
                    lead.waiting_bytes -= cost(entry.data.len());
                    entry
                }
                None if fill => {
                    let (term, kind) = (self.round, EntryKind::Noop);
                    Entry { index: slot, term, kind, data: Bytes::new() }
                }
                None => break,
            };
            if changes_voters(&entry, &voters.voters) {
                lead.fill_to = slot + WINDOW;
            }
            lead.next += 1;
            self.put_forward(entry);
        }
    }

    /// Sends each peer the open slots that it was not sent yet, as far as its
    /// window allows.
    pub(super) fn send_accepts(&mut self) {
        let (commit, max) = (self.slots.commit(), self.limits.append_bytes_max as u64);
        let (messages_max, bytes_max) =
            (self.limits.inflight_messages_max.max(1), self.limits.inflight_bytes_max as u64);
        let Some(lead) = &mut self.lead else { return };
        for (&to, p) in &mut lead.peers {
            while let Some((&first, _)) =
                lead.open.range(p.next..).find(|(_, o)| !o.accepted.contains(&to))
            {
                let full = p.flights.len() >= messages_max || p.in_flight() >= bytes_max;
                if full && !p.flights.is_empty() {
                    break;
                }
                // A message names only its first slot: a row without a gap.
                let (held, _) = self.slots.range(first, lead.next, max);
                let open = |i: usize, s: &super::Slot| {
                    s.entry.index == first + i as u64 && lead.open.contains_key(&s.entry.index)
                };
                let row = held.iter().enumerate().take_while(|(i, s)| open(*i, s));
                let entries: Vec<Entry> = row.map(|(_, s)| s.entry.clone()).collect();
                let last = first + entries.len() as u64 - 1;
                let bytes = entries.iter().map(|e| cost(e.data.len())).sum();
                p.flights.push_back((last, bytes));
                p.next = last + 1;
                p.commit_sent = p.commit_sent.max(commit);
                let body = Body::Accept { commit, first, entries: entries.into() };
                self.out.push(message_to(self.round, to, body, WriteSeq(0)));
            }
        }
    }

    pub(super) fn tick_leader(&mut self) {
        self.check_quorum();
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
        for (&slot, open) in &mut lead.open {
            if now.since(open.sent) <= patience {
                continue;
            }
            open.sent = now;
            for (id, p) in &mut lead.peers {
                if !open.accepted.contains(id) && p.next > slot {
                    p.send_again(slot);
                }
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
        p.landed(last);
        if lead.first.is_some() {
            lead.promised.insert(from);
        }
        for (_, open) in lead.open.range_mut(first..=last) {
            if !open.accepted.contains(&from) {
                open.accepted.push(from);
            }
        }
        lead.moved = true;
    }

    /// Closes the slots that a quorum of their voters has accepted.
    pub(super) fn choose(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        if !std::mem::take(&mut lead.moved) {
            return;
        }
        let early = planted("paxos: a leader counts itself before its own write");
        let done = self.writes.done();
        let mut chosen = Vec::new();
        for (&slot, open) in &lead.open {
            let Some(held) = self.slots.get(slot) else { continue };
            let own = held.seq <= done || early;
            let voters = self.eras.at(slot);
            // Most slots have too few answers to look closer.
            if 2 * (open.accepted.len() + 1) <= voters.voters.len() && !held.chosen {
                continue;
            }
            let has = |id: NodeId| if id == self.id { own } else { open.accepted.contains(&id) };
            if voters.quorum(has) || held.chosen {
                chosen.push(slot);
            }
        }
        for slot in chosen {
            if let Some(open) = lead.open.remove(&slot) {
                lead.open_bytes -= open.bytes;
            }
            if let Some(held) = self.slots.get_mut(slot) {
                held.chosen = true;
            }
        }
        self.advance();
        let commit = self.slots.commit();
        if let Some(lead) = &mut self.lead {
            lead.peers.values_mut().for_each(|p| p.landed(commit));
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
