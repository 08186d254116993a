//! Who belongs to the cell (Shraer et al., USENIX ATC'12).
//!
//! A change is one entry that holds the new membership, and the voters that it
//! replaces: a joiner's history may not go back to them. From when it is in the
//! history until it is known to be committed, every quorum (of acknowledgements,
//! promises, notifications, reads) must be one of the old voters and one of the
//! new; with its commit the new membership is active, and the old voters that it
//! leaves out count no more. There is no second entry.
//!
//! **Why that is safe**: the entry commits by a quorum of the old and one of the
//! new voters. Whoever leads later either holds it, and then needs a quorum of
//! the new (and of the old, until it knows of the commit); or does not, and then
//! needs a quorum of the old, one of which has acknowledged it: discovery shows
//! the leader that newer history, and the entry with it. So no two quorums that
//! decide are disjoint. An entry that was *not* committed is cut off, or committed,
//! by whichever history wins; cutting it brings the former membership back.
//!
//! **Invariants**
//! - A change starts only when no other is under way and an entry of the leader's
//!   own epoch is committed. So of the memberships in one history all but the
//!   last are committed.
//! - That a membership is active is durable before its entry is applied, so that
//!   a restart does not ask those again who have left.
//! - A leader that is left out goes when a quorum of the new voters knows,
//!   durably, that it is active: they need nobody else then.
//! - Only learners that are in sync become voters by promotion.

use super::discover::Peer;
use super::message::Body;
use super::{Zab, message_to};
use crate::config::{Change, Membership};
use crate::contract::{EntryKind, Output, Refusal, WriteSeq};
use crate::event::StandDownReason;
use crate::parts::progress::Phase;
use bytes::Bytes;
use std::sync::Arc;
use synod_base::NodeId;

/// Whose quorums count, and since when.
#[derive(Debug, Default)]
pub(super) struct Effective {
    pub now: Arc<Membership>,
    /// Index of its entry, that entry's epoch, and whether it is committed.
    place: (u64, u64, bool),
    /// Index of the last membership that is known to be active.
    pub active: u64,
    /// The write that makes that knowledge durable.
    pub active_seq: WriteSeq,
}

/// Without the voters that it replaces, who stand in its entry.
pub(super) fn activated(membership: &Membership) -> Membership {
    Membership { outgoing: Default::default(), ..membership.clone() }
}

impl Zab {
    /// What a node starts with.
    pub(super) fn start_members(&mut self) {
        let place = self.members_place();
        let now = self.effective();
        self.event(now.shown(place.0, false));
        let active = if place.2 { place.0 } else { 0 };
        self.members = Effective { now: Arc::new(now), place, active, active_seq: WriteSeq(0) };
    }

    /// The newest membership, joint with the one before while it is not committed.
    fn effective(&self) -> Membership {
        match self.history.index() > self.commit {
            true => self.history.current().clone(),
            false => activated(self.history.current()),
        }
    }

    fn members_place(&self) -> (u64, u64, bool) {
        let index = self.history.index();
        (index, self.log.term(index).unwrap_or(0), index <= self.commit)
    }

    /// Follows the history and the commit index, whatever moved them.
    pub(super) fn refresh_members(&mut self, fell_back: bool) {
        let place @ (index, _, committed) = self.members_place();
        if place == self.members.place && !fell_back {
            return;
        }
        let now = self.effective();
        let changed = now != *self.members.now;
        (self.members.now, self.members.place) = (Arc::new(now), place);
        if committed && index > self.members.active {
            self.members.active = index;
            // Up to the log's start its boundary tells.
            if index > self.log.start() {
                self.hard_changed();
                self.members.active_seq = self.hard_seq;
            }
        }
        if changed || fell_back {
            self.follow_members();
            self.event(self.members.now.shown(index, fell_back));
            self.out.push(Output::Members((*self.members.now).clone()));
        }
    }

    /// The leader's peers are the members.
    fn follow_members(&mut self) {
        let (now, commit, epoch) = (self.now, self.commit, self.accepted);
        let all = self.members.now.all();
        let Some(lead) = &mut self.lead else { return };
        // Those who leave hear that they do.
        let left = lead.peers.iter().filter(|(id, p)| !all.contains(id) && p.settled);
        let left: Vec<NodeId> = left.map(|(&id, _)| id).collect();
        lead.peers.retain(|id, _| all.contains(id));
        for id in all.into_iter().filter(|&id| id != self.id) {
            lead.peers.entry(id).or_insert_with(|| Peer::new(now));
        }
        lead.moved = true;
        for to in left {
            self.out.push(message_to(epoch, to, Body::Commit { commit }, WriteSeq(0)));
        }
        self.invite_idle(now);
    }

    pub(super) fn reconfigure(&mut self, ticket: u64, change: &Change, context: &Bytes) {
        match self.plan(change, !context.is_empty()) {
            Ok(next) => {
                let data = next.encode_entry(context);
                let index = self.append_own(EntryKind::Config, data);
                self.out.push(Output::Accepted {
                    tickets: vec![ticket],
                    index,
                    term: self.accepted,
                });
            }
            Err(why) => self.refused(ticket, why),
        }
    }

    /// The membership to propose for `change`.
    fn plan(&self, change: &Change, has_context: bool) -> Result<Membership, Refusal> {
        let Some(lead) = self.lead.as_ref().filter(|_| self.leader() == Some(self.id)) else {
            return Err(self.not_leader());
        };
        if self.handover.is_some() {
            return Err(Refusal::Transferring);
        }
        if !lead.opened(self.commit) {
            return Err(Refusal::NotReady);
        }
        if self.history.index() > self.commit {
            return Err(Refusal::ChangeInProgress);
        }
        let now = activated(self.history.current());
        let mut next = now.with(change, has_context)?;
        if change.promote.iter().any(|&id| !self.in_sync(id)) {
            return Err(Refusal::LearnerBehind);
        }
        if next.voters != now.voters {
            next.outgoing = now.voters;
        }
        Ok(next)
    }

    /// Whether a learner is heard and at most one in-flight window behind.
    fn in_sync(&self, id: NodeId) -> bool {
        let Some(peer) = self.lead.as_ref().and_then(|l| l.peers.get(&id)) else { return false };
        let flows = peer.session.as_ref().is_some_and(|s| s.phase() == Phase::Replicate);
        flows
            && peer.settled
            && self.now.since(peer.heard) < self.limits.election_ms
            && peer.acked >= self.log.start()
            && self.log.bytes(peer.acked, self.log.last()) <= self.limits.inflight_bytes_max as u64
    }

    pub(super) fn leave_if_removed(&mut self) {
        let Some(lead) = &self.lead else { return };
        let active = self.members.active;
        let out = active == self.history.index() && !self.members.now.is_voter(self.id);
        let knows = |id: NodeId| lead.peers.get(&id).is_some_and(|p| p.active >= active);
        if !out || !self.members.now.quorum(knows) {
            return;
        }
        if let Some(to) = self.best_successor() {
            self.send(to, Body::TakeOver, WriteSeq(0));
        }
        self.abandon(Some(StandDownReason::Removed));
    }
}
