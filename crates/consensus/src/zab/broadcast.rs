//! Broadcast: PROPOSE, ACK, COMMIT, pipelined, in order for each follower.
//!
//! **Invariants**
//! - A proposal batch is one record and one message a follower.
//! - A proposal that does not follow the last one that a follower holds is not
//!   taken: the follower asks to be synchronised again. What comes twice is
//!   skipped.
//! - An acknowledgement waits for the write of what it acknowledges. The leader
//!   counts itself by its own durable journal, like anybody else.
//! - A follower believes a commit index only once the epoch is current there.

use super::Zab;
use super::discover::Stage;
use super::message::Body;
use crate::contract::{Output, Proposal, Refusal, WriteSeq};
use crate::entries::Entries;
use crate::event::{Event, StandDownReason};
use crate::parts::log::fitting;
use synod_base::{NodeId, Tick, planted};

impl Zab {
    fn leads(&self) -> bool {
        self.lead.as_ref().is_some_and(|l| l.stage == Stage::Broadcast)
    }

    pub(super) fn propose(&mut self, mut batch: Vec<Proposal>) {
        let why = match self.leads().then_some(()) {
            None => Some(self.not_leader()),
            Some(_) => self.handover.as_ref().map(|_| Refusal::Transferring),
        };
        if let Some(why) = why {
            return batch.iter().for_each(|p| self.refused(p.ticket, why));
        }
        let open = self.log.bytes(self.commit, self.log.last());
        let fit = fitting(&batch, open, self.limits.uncommitted_bytes_max as u64);
        let late = batch.split_off(fit);
        if !batch.is_empty() {
            let (index, term) = (self.log.last() + 1, self.accepted);
            let (tickets, entries) = Entries::propose(batch, index, term);
            self.append(entries);
            self.out.push(Output::Accepted { tickets, index, term });
        }
        if !late.is_empty() && !self.overloaded {
            let open = self.log.bytes(self.commit, self.log.last());
            self.event(Event::Overloaded { uncommitted_bytes: open });
        }
        self.overloaded = !late.is_empty();
        late.iter().for_each(|p| self.refused(p.ticket, Refusal::Overloaded));
    }

    pub(super) fn tick_leader(&mut self) {
        self.check_quorum();
        let now = self.now;
        let Some(lead) = &mut self.lead else { return };
        for peer in lead.peers.values_mut() {
            // A lost proposal with nothing after it is noticed by nobody else.
            if let Some(s) = &mut peer.session
                && s.overdue(now, self.limits.election_ms)
            {
                s.probe(now);
            }
        }
        let (pings, repeats) = (now >= lead.next_heartbeat, now >= lead.next_repeat);
        let next = now.plus(self.limits.heartbeat_ms);
        if pings {
            lead.next_heartbeat = next;
        }
        if repeats {
            lead.next_repeat = next;
        }
        if pings {
            self.ping();
        }
        if repeats {
            self.invite_idle(now);
            self.repeat_new_leader();
        }
    }

    /// Starts a round: what answers it says that this leader was followed after now.
    pub(super) fn ping(&mut self) -> u64 {
        let (commit, now, established) = (self.commit, self.now, self.leads());
        let Some(lead) = &mut self.lead else { return 0 };
        let round = lead.reads.new_round(now);
        let to: Vec<NodeId> =
            lead.peers.iter().filter(|(_, p)| p.session.is_some()).map(|(&id, _)| id).collect();
        for to in to {
            self.send(to, Body::Ping { round, commit, established }, WriteSeq(0));
        }
        round
    }

    /// Stands down when too few voters were heard for twice the election time:
    /// a follower takes up to that long to look, so that a leader which stood
    /// down earlier would leave the cell to nobody.
    fn check_quorum(&mut self) {
        let Some(lead) = &self.lead else { return };
        let patience = 2 * self.limits.election_ms;
        let silent = |id: NodeId| {
            let heard = lead.peers.get(&id).map(|p| p.heard.max(lead.quorum_since));
            id != self.id && heard.is_none_or(|t: Tick| self.now.since(t) >= patience)
        };
        let members = self.voters();
        if members.quorum(|id| !silent(id)) {
            return;
        }
        let silent = members.all().into_iter().filter(|&id| members.is_voter(id) && silent(id));
        let why = StandDownReason::QuorumLost { silent: silent.collect() };
        self.abandon(Some(why));
    }

    pub(super) fn on_propose(&mut self, from: NodeId, prev: u64, commit: u64, entries: Entries) {
        let gap = prev > self.log.last() && !planted("zab: a gap in the proposals is taken");
        if !self.following.in_sync || gap {
            return self.ask_resync(from);
        }
        self.take_and_answer(from, prev, entries);
        self.learn_commit(commit);
    }

    pub(super) fn on_ack(&mut self, from: NodeId, matched: u64, counts: bool) {
        let (start, last) = (self.log.start(), self.log.last());
        let Some(lead) = self.lead.as_mut().filter(|l| l.stage != Stage::Discovery) else { return };
        let Some(peer) = lead.peers.get_mut(&from) else { return };
        if matched > last {
            return self.event(Event::BadMessage { from, what: "acknowledges what is not there" });
        }
        if let Some(s) = &mut peer.session {
            s.acknowledged(matched, start);
        }
        if counts {
            lead.moved |= matched > peer.acked;
            peer.acked = peer.acked.max(matched);
        }
    }

    pub(super) fn advance_commit(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        if lead.stage != Stage::Broadcast || !std::mem::take(&mut lead.moved) {
            return;
        }
        let (own, id) = (self.persisted, self.id);
        let has = |peer| match peer == id {
            true => own,
            false => lead.peers.get(&peer).map_or(0, |p| p.acked),
        };
        let mut reached = self.members.now.quorum_value(has);
        if planted("zab: a change needs no quorum of the old voters") {
            reached = super::members::activated(&self.members.now).quorum_value(has);
        }
        if planted("zab: a proposal is committed without a quorum") {
            reached = own;
        }
        if reached > self.commit {
            self.commit = reached;
            // A membership that is committed by it may need no more of them.
            lead.moved = true;
            self.refresh_members(false);
        }
    }

    pub(super) fn learn_commit(&mut self, commit: u64) {
        if self.current == self.accepted {
            self.commit = self.commit.max(commit.min(self.log.last()));
        }
    }
}
