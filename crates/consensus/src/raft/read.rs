//! Linearizable reads (thesis 6.4): quorum rounds, leases, reads on followers.
//!
//! **Invariants**
//! - A round is named by (term, round): rounds grow within a term, answers of
//!   another term are dropped, and a node leads a term only once. An answer to
//!   an earlier round never confirms a later read (etcd #20418).
//! - A read is confirmed only by a round begun after it arrived, at the commit
//!   index of the round's beginning, and only once an entry of the own term is
//!   committed.
//! - A lease counts from when its round was *sent*, is never used while
//!   leadership is being handed over, nor in a term in which a handover was
//!   begun (the candidate's exemption may still be under way).
//! - At most one round is open; what waits is bounded by `reads_waiting_max`.

use super::Raft;
use super::message::Body;
use crate::contract::{Output, Refusal, WriteSeq};
use crate::event::Event;
use std::collections::{BTreeMap, VecDeque};
use synod_base::{NodeId, Tick, planted};

/// Rounds whose sending time is remembered for the lease.
const ROUNDS_REMEMBERED_MAX: usize = 64;

/// Reads that share a barrier.
#[derive(Default)]
struct Batch {
    /// This node's own.
    tickets: Vec<u64>,
    /// Followers' batches, the newest of each.
    peers: BTreeMap<NodeId, u64>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.tickets.is_empty() && self.peers.is_empty()
    }
}

struct Open {
    round: u64,
    index: u64,
    batch: Batch,
}

#[derive(Default)]
pub(super) struct LeaderReads {
    waiting: Batch,
    open: Option<Open>,
    round: u64,
    sent: VecDeque<(u64, Tick)>,
    /// Not in this term any more.
    pub lease_void: bool,
}

impl LeaderReads {
    pub fn new_round(&mut self, now: Tick) -> u64 {
        self.round += 1;
        if self.sent.len() == ROUNDS_REMEMBERED_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.round, now));
        self.round
    }
}

/// Reads on a follower, which asks the leader.
#[derive(Default)]
pub(super) struct AskedReads {
    waiting: Vec<u64>,
    asked: Option<Asked>,
    batch: u64,
}

struct Asked {
    batch: u64,
    tickets: Vec<u64>,
    at: Tick,
}

impl AskedReads {
    /// Batches of this life count from `first`.
    pub fn start(&mut self, first: u64) {
        self.batch = first;
    }

    fn count(&self) -> usize {
        self.waiting.len() + self.asked.as_ref().map_or(0, |a| a.tickets.len())
    }
}

impl Raft {
    pub(super) fn read(&mut self, ticket: u64) {
        let max = self.limits.reads_waiting_max;
        let (count, waiting) = match &mut self.lead {
            Some(lead) => {
                let reads = &mut lead.reads;
                let open = reads.open.as_ref().map_or(0, |o| o.batch.tickets.len());
                (reads.waiting.tickets.len() + open, &mut reads.waiting.tickets)
            }
            None if self.leader.is_none() => return self.refused(ticket, Refusal::NoLeader),
            None => (self.asked.count(), &mut self.asked.waiting),
        };
        if count >= max {
            return self.refused(ticket, Refusal::Overloaded);
        }
        waiting.push(ticket);
    }

    pub(super) fn on_heartbeat_answer(&mut self, from: NodeId, round: u64) {
        let Some(lead) = &mut self.lead else { return };
        if round > lead.reads.round {
            return self.event(Event::BadMessage { from, what: "answers a round to come" });
        }
        if let Some(p) = lead.peers.get_mut(&from) {
            p.round = p.round.max(round);
        }
    }

    pub(super) fn drive_reads(&mut self) {
        if let Some(open) = self.confirmed_round() {
            self.answer(open.batch, open.index);
        }
        let Some(lead) = &mut self.lead else { return };
        let ready =
            self.commit >= lead.first || planted("raft: a read before the own first commit");
        if lead.reads.waiting.is_empty() || !ready || lead.reads.open.is_some() {
            return;
        }
        let batch = std::mem::take(&mut lead.reads.waiting);
        let index = self.commit;
        if self.alone() || self.lease_holds() || planted("raft: a read without a barrier") {
            return self.answer(batch, index);
        }
        let Some(lead) = &mut self.lead else { return };
        lead.next_heartbeat = self.now.plus(self.limits.heartbeat_ms);
        let round = lead.heartbeat(self.term, self.now, index, &mut self.out);
        lead.reads.open = Some(Open { round, index, batch });
    }

    fn confirmed_round(&mut self) -> Option<Open> {
        let lead = self.lead.as_mut()?;
        let round = lead.reads.open.as_ref()?.round;
        let answered = |id| id == self.id || lead.peers.get(&id).is_some_and(|p| p.round >= round);
        if !self.history.current().quorum(answered) {
            return None;
        }
        lead.reads.open.take()
    }

    fn lease_holds(&self) -> bool {
        let Some(lead) = self.lead.as_ref().filter(|_| self.limits.lease_reads) else {
            return false;
        };
        if lead.reads.lease_void || self.handover.is_some() {
            return false;
        }
        let answered = self.history.current().quorum_value(|id| match id == self.id {
            true => u64::MAX,
            false => lead.peers.get(&id).map_or(0, |p| p.round),
        });
        let sent = lead.reads.sent.iter().rev().find(|(round, _)| *round <= answered);
        let percent = 100u64.saturating_sub(self.limits.lease_drift_percent);
        sent.is_some_and(|&(_, at)| self.now.since(at) < self.limits.election_ms * percent / 100)
    }

    fn answer(&mut self, batch: Batch, index: u64) {
        if !batch.tickets.is_empty() {
            self.out.push(Output::ReadReady { tickets: batch.tickets, index });
        }
        for (to, batch) in batch.peers {
            let body = Body::ReadAnswer { batch, index: Some(index) };
            self.send(to, body, WriteSeq(0));
        }
    }

    pub(super) fn on_read_ask(&mut self, from: NodeId, batch: u64) {
        match &mut self.lead {
            // A follower has one batch open; a repeated ask replaces the first.
            Some(lead) => {
                lead.reads.waiting.peers.insert(from, batch);
            }
            None => self.send(from, Body::ReadAnswer { batch, index: None }, WriteSeq(0)),
        }
    }

    pub(super) fn on_read_answer(&mut self, from: NodeId, batch: u64, index: Option<u64>) {
        let expected = self.leader == Some(from)
            && self.asked.asked.as_ref().is_some_and(|a| a.batch == batch);
        if !expected {
            return;
        }
        let Some(Asked { tickets, .. }) = self.asked.asked.take() else { return };
        match index {
            Some(index) => self.out.push(Output::ReadReady { tickets, index }),
            None => self.refuse_reads(tickets, Refusal::LeaderChanged),
        }
    }

    /// Asks the leader on behalf of the reads that wait here.
    pub(super) fn ask_reads(&mut self) {
        let Some(leader) = self.leader.filter(|&l| l != self.id) else { return };
        if self.asked.asked.is_some() || self.asked.waiting.is_empty() {
            return;
        }
        let tickets = std::mem::take(&mut self.asked.waiting);
        self.asked.batch += 1;
        let batch = self.asked.batch;
        self.asked.asked = Some(Asked { batch, tickets, at: self.now });
        self.send(leader, Body::ReadAsk { batch }, WriteSeq(0));
    }

    pub(super) fn retry_reads(&mut self) {
        let Some(leader) = self.leader.filter(|&l| l != self.id) else { return };
        let patience = self.limits.election_ms / 2;
        if let Some(a) = self.asked.asked.as_mut().filter(|a| self.now.since(a.at) >= patience) {
            a.at = self.now;
            let batch = a.batch;
            self.send(leader, Body::ReadAsk { batch }, WriteSeq(0));
        }
    }

    fn refuse_reads(&mut self, tickets: Vec<u64>, why: Refusal) {
        if !tickets.is_empty() {
            self.event(Event::ReadsRefused { count: tickets.len(), why });
        }
        tickets.into_iter().for_each(|ticket| self.refused(ticket, why));
    }

    pub(super) fn refuse_asked_reads(&mut self, why: Refusal) {
        let mut tickets = self.asked.asked.take().map_or(Vec::new(), |a| a.tickets);
        tickets.append(&mut self.asked.waiting);
        self.refuse_reads(tickets, why);
    }

    pub(super) fn refuse_leader_reads(&mut self, reads: LeaderReads) {
        for batch in reads.open.map(|o| o.batch).into_iter().chain([reads.waiting]) {
            self.refuse_reads(batch.tickets, Refusal::LeaderChanged);
            for (to, batch) in batch.peers {
                self.send(to, Body::ReadAnswer { batch, index: None }, WriteSeq(0));
            }
        }
    }
}
