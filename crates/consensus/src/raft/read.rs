//! Linearizable reads (thesis 6.4): quorum rounds, leases, reads on followers.
//!
//! **Invariants** (besides those of `parts/reads.rs`)
//! - A read waits until an entry of the own term is committed.
//! - A lease is never used while leadership is being handed over, nor in a term
//!   in which a handover was begun (the candidate's exemption may still be
//!   under way).

use super::Raft;
use super::message::Body;
use crate::contract::{Output, Refusal, WriteSeq};
use crate::event::Event;
use crate::parts::reads::{Batch, LeaderReads};
use synod_base::{NodeId, planted};

impl Raft {
    pub(super) fn read(&mut self, ticket: u64) {
        let max = self.limits.reads_waiting_max;
        let taken = match &mut self.lead {
            Some(lead) => lead.reads.push(ticket, max),
            None if self.watch.leader.is_none() => return self.refused(ticket, Refusal::NoLeader),
            None => self.asked.push(ticket, max),
        };
        if !taken {
            self.refused(ticket, Refusal::Overloaded);
        }
    }

    pub(super) fn on_heartbeat_answer(&mut self, from: NodeId, round: u64) {
        let Some(lead) = &mut self.lead else { return };
        if round > lead.reads.round() {
            return self.event(Event::BadMessage { from, what: "answers a round to come" });
        }
        if let Some(p) = lead.peers.get_mut(&from) {
            p.round = p.round.max(round);
        }
    }

    pub(super) fn drive_reads(&mut self) {
        if self.lead.as_ref().is_none_or(|l| l.reads.is_idle()) {
            return;
        }
        let answered = self.answered_round();
        let Some(lead) = &mut self.lead else { return };
        if let Some((batch, index)) = lead.reads.confirmed(|round| answered >= round) {
            self.answer(batch, index);
        }
        let Some(lead) = &mut self.lead else { return };
        let ready =
            self.commit >= lead.first || planted("raft: a read before the own first commit");
        let Some(batch) = ready.then(|| lead.reads.take()).flatten() else { return };
        let index = self.commit;
        let leased =
            self.handover.is_none() && lead.reads.lease_holds(answered, self.now, &self.limits);
        if self.alone() || leased || planted("raft: a read without a barrier") {
            return self.answer(batch, index);
        }
        let Some(lead) = &mut self.lead else { return };
        lead.next_heartbeat = self.now.plus(self.limits.heartbeat_ms);
        let round = lead.heartbeat(self.term, self.now, index, &mut self.out);
        lead.reads.begin(round, index, batch);
    }

    /// The newest round that a quorum has answered.
    fn answered_round(&self) -> u64 {
        let Some(lead) = &self.lead else { return 0 };
        self.history.current().quorum_value(|id| match id == self.id {
            true => u64::MAX,
            false => lead.peers.get(&id).map_or(0, |p| p.round),
        })
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
            Some(lead) => lead.reads.push_peer(from, batch),
            None => self.send(from, Body::ReadAnswer { batch, index: None }, WriteSeq(0)),
        }
    }

    pub(super) fn on_read_answer(&mut self, from: NodeId, batch: u64, index: Option<u64>) {
        if self.watch.leader != Some(from) {
            return;
        }
        let Some(tickets) = self.asked.answered(batch) else { return };
        match index {
            Some(index) => self.out.push(Output::ReadReady { tickets, index }),
            None => self.refuse_reads(tickets, Refusal::LeaderChanged),
        }
    }

    /// Asks the leader on behalf of the reads that wait here.
    pub(super) fn ask_reads(&mut self) {
        let Some(leader) = self.watch.leader.filter(|&l| l != self.id) else { return };
        if let Some(batch) = self.asked.ask(self.now) {
            self.send(leader, Body::ReadAsk { batch }, WriteSeq(0));
        }
    }

    pub(super) fn retry_reads(&mut self) {
        let Some(leader) = self.watch.leader.filter(|&l| l != self.id) else { return };
        if let Some(batch) = self.asked.retry(self.now, self.limits.election_ms / 2) {
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
        let tickets = self.asked.take();
        self.refuse_reads(tickets, why);
    }

    pub(super) fn refuse_leader_reads(&mut self, reads: LeaderReads) {
        for batch in reads.into_batches() {
            self.refuse_reads(batch.tickets, Refusal::LeaderChanged);
            for (to, batch) in batch.peers {
                self.send(to, Body::ReadAnswer { batch, index: None }, WriteSeq(0));
            }
        }
    }
}
