//! Handing leadership over, asked for or because the own disk stalls. Paxos
//! needs nobody to be up to date for it; a target that is makes it short.
//!
//! **Invariants**
//! - While it lasts no proposal is taken, so that the target can catch up; it
//!   ends after twice the election time at the latest (a stalled leader then
//!   stands down; after one election time already).
//! - Leases are void for the rest of the round once `TimeoutNow` was sent.
//! - What is replicated counts for the target even where this node's own
//!   stalled journal lacks it.

use super::Paxos;
use super::message::Body;
use crate::contract::{Output, Refusal, WriteSeq};
use crate::event::{Event, StandDownReason, TransferReason};
use synod_base::{NodeId, Tick};

#[derive(Debug)]
pub(super) struct Handover {
    ticket: Option<u64>,
    to: NodeId,
    why: TransferReason,
    deadline: Tick,
    told: bool,
}

impl Paxos {
    pub(super) fn transfer(&mut self, ticket: u64, to: Option<NodeId>) {
        if self.lead.as_ref().is_none_or(|l| l.first.is_none()) {
            return self.refused(ticket, self.not_leader());
        }
        if self.handover.is_some() {
            return self.refused(ticket, Refusal::Transferring);
        }
        if to == Some(self.id) {
            let (index, term) = (self.slots.last(), self.round);
            return self.out.push(Output::Accepted { tickets: vec![ticket], index, term });
        }
        let members = &self.members;
        let target = match to {
            Some(id) => Some(id).filter(|&id| members.voters.contains(&id)),
            None => self.best_successor(),
        };
        match target {
            Some(to) => self.begin_handover(Some(ticket), to, TransferReason::Asked),
            None => self.refused(ticket, Refusal::UnknownMember),
        }
    }

    fn begin_handover(&mut self, ticket: Option<u64>, to: NodeId, why: TransferReason) {
        let patience = match why {
            TransferReason::Asked => 2 * self.limits.election_ms,
            TransferReason::DiskStalled => self.limits.election_ms,
        };
        let deadline = self.now.plus(patience);
        self.handover = Some(Handover { ticket, to, why, deadline, told: false });
        self.event(Event::TransferStarted { to, why });
    }

    /// The own journal stalls: let somebody else lead.
    pub(super) fn flee_disk(&mut self) {
        if self.handover.is_some() {
            return;
        }
        match self.best_successor() {
            Some(to) => self.begin_handover(None, to, TransferReason::DiskStalled),
            None => self.follow(self.round, None, Some(StandDownReason::DiskStalled)),
        }
    }

    /// Tells the target to stand once it has everything.
    pub(super) fn drive_transfer(&mut self) {
        let commit = self.slots.commit();
        let (Some(h), Some(lead)) = (&mut self.handover, &mut self.lead) else { return };
        let known = lead.peers.get(&h.to).is_some_and(|p| p.reached >= commit);
        let ready = known && lead.is_idle(commit);
        if ready && !h.told {
            h.told = true;
            lead.reads.lease_void = true;
            let to = h.to;
            self.send(to, Body::TimeoutNow, WriteSeq(0));
        }
    }

    pub(super) fn tick_transfer(&mut self) {
        let Some(h) = self.handover.take_if(|h| self.now >= h.deadline) else { return };
        let reached = self.lead.as_ref().and_then(|l| l.peers.get(&h.to)).map(|p| p.reached);
        let behind = reached.map_or(0, |r| self.slots.last().saturating_sub(r));
        self.event(Event::TransferAborted { to: h.to, behind });
        if let Some(ticket) = h.ticket {
            self.refused(ticket, Refusal::TransferTimedOut);
        }
        if self.writes.stalled && self.lead.is_some() && !self.alone() {
            match h.why {
                TransferReason::Asked => self.flee_disk(),
                TransferReason::DiskStalled => {
                    self.follow(self.round, None, Some(StandDownReason::DiskStalled));
                }
            }
        }
    }

    /// Somebody leads now; was it the one wanted?
    pub(super) fn settle_transfer(&mut self, leader: NodeId) {
        let Some(h) = self.handover.take() else { return };
        if leader == h.to {
            self.event(Event::TransferDone { to: h.to });
        }
        let Some(ticket) = h.ticket else { return };
        if leader == h.to {
            let (index, term) = (self.slots.last(), self.round);
            self.out.push(Output::Accepted { tickets: vec![ticket], index, term });
        } else {
            self.refused(ticket, Refusal::LeaderChanged);
        }
    }
}
