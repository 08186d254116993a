//! Linearizable reads: `sync` as a round of pings shared by all that wait, leases,
//! and reads on followers.
//!
//! **Invariants** (besides those of `parts/reads.rs`)
//! - A read waits until an entry of the own epoch is committed.
//! - An answer to a ping says that its sender had promised no later epoch when the
//!   ping arrived. So if a quorum answers, none was established before it was sent.
//! - A lease is never used while leadership is being handed over, nor in an epoch
//!   in which a handover was begun (the successor's exemption may still be
//!   under way).

use super::message::Body;
use super::{Zab, no_read};
use crate::contract::{Output, Refusal, WriteSeq};
use crate::event::Event;
use crate::parts::reads::{Batch, LeaderReads};
use synod_base::{NodeId, planted};

impl Zab {
    pub(super) fn read(&mut self, ticket: u64) {
        let max = self.limits.reads_waiting_max;
        let Some(leader) = self.leader() else { return self.refused(ticket, Refusal::NoLeader) };
        let taken = match self.lead.as_mut().filter(|_| leader == self.id) {
            Some(lead) => lead.reads.push(ticket, max),
            None => self.asked.push(ticket, max),
        };
        if !taken {
            self.refused(ticket, Refusal::Overloaded);
        }
    }

    pub(super) fn on_pong(&mut self, from: NodeId, round: u64, active: u64) {
        let Some(lead) = &mut self.lead else { return };
        if round > lead.reads.round() {
            return self.event(Event::BadMessage { from, what: "answers a round to come" });
        }
        if let Some(p) = lead.peers.get_mut(&from) {
            p.round = p.round.max(round);
            p.active = p.active.max(active);
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
        let ready = lead.opened(self.commit);
        let Some(batch) = ready.then(|| lead.reads.take()).flatten() else { return };
        let index = self.commit;
        let leased =
            self.handover.is_none() && lead.reads.lease_holds(answered, self.now, &self.limits);
        if self.alone() || leased || planted("zab: a read without a barrier") {
            return self.answer(batch, index);
        }
        let round = self.ping();
        let next = self.now.plus(self.limits.heartbeat_ms);
        if let Some(lead) = &mut self.lead {
            lead.next_heartbeat = next;
            lead.reads.begin(round, index, batch);
        }
    }

    /// The newest round that a quorum has answered.
    fn answered_round(&self) -> u64 {
        let Some(lead) = &self.lead else { return 0 };
        self.voters().quorum_value(|id| match id == self.id {
            true => u64::MAX,
            false => lead.peers.get(&id).map_or(0, |p| p.round),
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
        let leads = self.leader() == Some(self.id);
        match self.lead.as_mut().filter(|_| leads) {
            Some(lead) => lead.reads.push_peer(from, batch),
            None => self.send(from, no_read(batch), WriteSeq(0)),
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
        let Some(leader) = self.leader().filter(|&l| l != self.id) else { return };
        if let Some(batch) = self.asked.ask(self.now) {
            self.send(leader, Body::ReadAsk { batch }, WriteSeq(0));
        }
    }

    pub(super) fn retry_reads(&mut self) {
        let Some(leader) = self.leader().filter(|&l| l != self.id) else { return };
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
                self.send(to, no_read(batch), WriteSeq(0));
            }
        }
    }
}
