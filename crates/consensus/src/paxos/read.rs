//! Linearizable reads: a beat that a quorum answers, leases, reads on followers.
//!
//! **Invariants** (besides those of `parts/reads.rs`)
//! - A read waits until a slot of the leader's own is chosen, and all before it.
//! - A beat is confirmed by a quorum of all who may choose a slot that is not
//!   chosen yet, so that no later ballot can have chosen one before it.
//! - A lease is never used while leadership is being handed over, nor in a round
//!   in which a handover was begun.

use super::Paxos;
use super::message::Body;
use crate::contract::{Output, Refusal, WriteSeq};
use crate::event::Event;
use crate::parts::reads::{Batch, LeaderReads};
use synod_base::{NodeId, planted};

impl Paxos {
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

    pub(super) fn on_heartbeat_answer(&mut self, from: NodeId, beat: u64, reached: u64) {
        let commit = self.slots.commit();
        let Some(lead) = &mut self.lead else { return };
        if beat > lead.reads.round() {
            return self.event(Event::BadMessage { from, what: "answers a beat to come" });
        }
        if let Some(p) = lead.peers.get_mut(&from) {
            p.beat = p.beat.max(beat);
            p.reached = p.reached.max(reached.min(commit));
            if lead.first.is_some() {
                lead.promised.insert(from);
            }
        }
    }

    pub(super) fn drive_reads(&mut self) {
        if self.lead.as_ref().is_none_or(|l| l.reads.is_idle()) {
            return;
        }
        let answered = self.answered_beat();
        let ready = self.own_chosen()
            || (self.role == crate::Role::Leader
                && planted("paxos: a read before the own first slot is chosen"));
        let index = self.slots.commit();
        let Some(lead) = &mut self.lead else { return };
        if let Some((batch, index)) = lead.reads.confirmed(|beat| answered >= beat) {
            self.answer(batch, index);
        }
        let Some(lead) = &mut self.lead else { return };
        let Some(batch) = ready.then(|| lead.reads.take()).flatten() else { return };
        let leased =
            self.handover.is_none() && lead.reads.lease_holds(answered, self.now, &self.limits);
        if self.alone() || leased || planted("paxos: a read without a barrier") {
            return self.answer(batch, index);
        }
        let Some(lead) = &mut self.lead else { return };
        lead.next_heartbeat = self.now.plus(self.limits.heartbeat_ms);
        let beat = lead.heartbeat(self.round, self.now, index, &mut self.out);
        lead.reads.begin(beat, index, batch);
    }

    /// The newest beat that a quorum has answered.
    fn answered_beat(&self) -> u64 {
        let Some(lead) = &self.lead else { return 0 };
        self.members.quorum_value(|id| match id == self.id {
            true => u64::MAX,
            false => lead.peers.get(&id).map_or(0, |p| p.beat),
        })
    }

    fn answer(&mut self, batch: Batch, index: u64) {
        if !batch.tickets.is_empty() {
            self.out.push(Output::ReadReady { tickets: batch.tickets, index });
        }
        for (to, batch) in batch.peers {
            self.send(to, Body::ReadAnswer { batch, index: Some(index) }, WriteSeq(0));
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
