//! Who belongs to the cell (Lamport 2001, section 3: the window; "Paxos Made
//! Live", section 5).
//!
//! **Invariants**
//! - Only what is chosen changes the membership. New voters count from
//!   [`WINDOW`] slots after the entry that brings them: whoever may propose a
//!   slot knows who chooses it, since all but the last `WINDOW` are chosen.
//!   Learners come and go at once.
//! - Until a slot of the new voters is chosen the membership is shown as joint: a
//!   slot is chosen by the voters that count for it, but a promise, a beat or a
//!   lease needs a quorum of both. A change starts only when no other is under way.
//! - No slot of the new voters is proposed before a quorum of them knows all that
//!   the old ones have chosen: these may then leave without taking it along.
//! - A leader fills the window with no-ops, which go out with the change itself,
//!   so that it counts at once.
//! - A leader that is left out goes when a quorum of the new voters knows that
//!   they count, not before.

use super::message::Body;
use super::{Paxos, WINDOW};
use crate::config::{Change, Membership};
use crate::contract::{Entry, EntryKind, Output, Refusal, SnapshotMeta, WriteSeq};
use crate::event::StandDownReason;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use synod_base::NodeId;

/// The memberships of the retained slots, oldest first. Never empty.
#[derive(Debug)]
pub(super) struct Eras(VecDeque<Era>);

#[derive(Debug)]
struct Era {
    /// The slot whose entry brought it.
    slot: u64,
    /// Its voters choose from this slot on. Grows with `slot`.
    from: u64,
    membership: Membership,
}

impl Eras {
    /// Those that a snapshot brings.
    pub fn new(meta: &SnapshotMeta) -> Eras {
        let mut first = Era { slot: 0, from: 0, membership: meta.membership.clone() };
        if meta.joint_until == 0 {
            return Eras(VecDeque::from([first]));
        }
        let mut membership = meta.membership.clone();
        first.membership.voters = std::mem::take(&mut membership.outgoing);
        first.membership.outgoing.clear();
        let second = Era { slot: meta.index, from: meta.joint_until + 1, membership };
        Eras(VecDeque::from([first, second]))
    }

    /// Takes note of a chosen entry, and all before it.
    pub fn note(&mut self, entry: &Entry) {
        if entry.kind != EntryKind::Config {
            return;
        }
        // Whoever accepted it has read it already.
        let Ok((membership, _)) = Membership::decode_entry(entry.data.clone()) else { return };
        let slot = entry.index;
        let same = membership.voters == self.0[self.0.len() - 1].membership.voters;
        let from = if same { slot } else { slot + WINDOW };
        self.0.push_back(Era { slot, from, membership });
    }

    /// Whose voters choose `slot`.
    pub fn at(&self, slot: u64) -> &Membership {
        let later = self.0.partition_point(|e| e.from <= slot);
        &self.0[later.max(1) - 1].membership
    }

    /// The last slot that is chosen by the voters who choose `slot`.
    pub fn end_of(&self, slot: u64) -> u64 {
        let later = self.0.partition_point(|e| e.from <= slot);
        self.0.get(later.max(1)).map_or(u64::MAX, |e| e.from - 1)
    }

    /// From which slot on the newest voters choose.
    pub fn last_from(&self) -> u64 {
        self.0[self.0.len() - 1].from
    }

    /// The slot that brought the newest membership.
    fn last_slot(&self) -> u64 {
        self.0[self.0.len() - 1].slot
    }

    /// The membership after `index`, and up to which slot its outgoing voters
    /// choose (0: it has none).
    pub fn after(&self, index: u64) -> (Membership, u64) {
        let later = self.0.partition_point(|e| e.slot <= index);
        let newest = &self.0[later.max(1) - 1];
        let mut membership = newest.membership.clone();
        if newest.from <= index {
            return (membership, 0);
        }
        membership.outgoing = self.at(newest.from - 1).voters.clone();
        (membership, newest.from - 1)
    }

    /// Whether this member began with nothing: it needs a snapshot, since nobody
    /// else can tell it the voters before the first change that it would learn of.
    pub fn is_blank(&self) -> bool {
        self.0[0].membership.voters.is_empty()
    }

    /// Forgets what no slot after `upto` needs.
    pub fn drop_to(&mut self, upto: u64) {
        while self.0.get(1).is_some_and(|e| e.from <= upto) {
            self.0.pop_front();
        }
    }
}

impl Paxos {
    /// Whoever counts now, after what was chosen.
    pub(super) fn refresh_members(&mut self) {
        if !self.members.is_joint() && self.members_of == self.eras.last_slot() {
            return;
        }
        // Whoever holds a slot of the new voters knows that the old ones have
        // chosen all of theirs, and that a quorum of the new ones holds that (in
        // ballots no earlier than it was chosen in): it needs the old ones no more,
        // even if it forgot in a crash how much of it was chosen. A leader says so
        // only when such a slot is chosen: others must know it too.
        let (mut index, from) = (self.slots.commit(), self.eras.last_from());
        if self.lead.is_none() && self.slots.last() >= from {
            index = index.max(from);
        }
        let (members, _) = self.eras.after(index);
        self.members_of = self.eras.last_slot();
        if members == *self.members {
            return;
        }
        self.members = Arc::new(members);
        if let Some(lead) = &mut self.lead {
            lead.set_peers(&self.members.all(), self.id, self.now);
        }
        self.show_members();
        self.out.push(Output::Members((*self.members).clone()));
    }

    pub(super) fn show_members(&mut self) {
        let event = self.members.shown(self.eras.last_slot(), false);
        self.event(event);
    }

    pub(super) fn reconfigure(&mut self, ticket: u64, change: &Change, context: &Bytes) {
        match self.plan(change, !context.is_empty()) {
            Ok(next) => {
                let index = self.append_own(EntryKind::Config, next.encode_entry(context));
                self.out.push(Output::Accepted { tickets: vec![ticket], index, term: self.round });
            }
            Err(why) => self.refused(ticket, why),
        }
    }

    /// The membership to propose for `change`.
    fn plan(&self, change: &Change, has_context: bool) -> Result<Membership, Refusal> {
        let Some(lead) = self.lead.as_ref().filter(|l| l.first.is_some()) else {
            return Err(self.not_leader());
        };
        if self.handover.is_some() {
            return Err(Refusal::Transferring);
        }
        if !self.own_chosen() {
            return Err(Refusal::NotReady);
        }
        let config = |e: &Entry| e.kind == EntryKind::Config;
        let (from, to) = (self.slots.commit() + 1, self.slots.last());
        let open = self.slots.range(from, to, u64::MAX).0.iter().any(|s| config(s.entry));
        if self.members.is_joint() || open || lead.waiting().any(config) {
            return Err(Refusal::ChangeInProgress);
        }
        let next = self.members.with(change, has_context)?;
        if change.promote.iter().any(|&id| !self.in_sync(id)) {
            return Err(Refusal::LearnerBehind);
        }
        Ok(next)
    }

    /// Whether a slot of this leader's own is chosen, and all before it.
    pub(super) fn own_chosen(&self) -> bool {
        let first = self.lead.as_ref().and_then(|l| l.first);
        first.is_some_and(|first| self.slots.commit() >= first)
    }

    /// Up to which slot a member is known to know what is chosen.
    fn reached_by(&self, id: NodeId) -> u64 {
        let peer = self.lead.as_ref().and_then(|l| l.peers.get(&id));
        if id == self.id { self.reached() } else { peer.map_or(0, |p| p.reached) }
    }

    /// Whether `slot` may be proposed: the first ones of new voters wait for
    /// these to know what the old ones chose.
    pub(super) fn may_begin(&self, slot: u64) -> bool {
        let from = self.eras.last_from();
        slot < from
            || !self.members.is_joint()
            || self.eras.at(slot).quorum(|id| self.reached_by(id) >= from - 1)
    }

    /// Whether a learner is heard and at most a window behind.
    fn in_sync(&self, id: NodeId) -> bool {
        let Some(p) = self.lead.as_ref().and_then(|l| l.peers.get(&id)) else { return false };
        self.now.since(p.heard) < self.limits.election_ms
            && p.reached > 0
            && p.reached >= self.slots.start()
            && p.reached + WINDOW >= self.slots.commit()
    }

    /// A leader that is no voter any more goes once that counts, and lets the
    /// best voter start at once, so that nobody has to miss it first.
    pub(super) fn leave_if_removed(&mut self) {
        let counted = |from| self.members.quorum(|id| self.reached_by(id) >= from);
        if self.lead.is_none() || self.members.is_voter(self.id) || !counted(self.eras.last_from())
        {
            return;
        }
        if let Some(to) = self.best_successor() {
            self.send(to, Body::TimeoutNow, WriteSeq(0));
        }
        self.follow(self.round, None, Some(StandDownReason::Removed));
    }

    /// The voter that knows most among those heard lately.
    pub(super) fn best_successor(&self) -> Option<NodeId> {
        let lead = self.lead.as_ref()?;
        let heard = |t| self.now.since(t) < self.limits.election_ms;
        let voters = &self.members.voters;
        let fit = lead.peers.iter().filter(|(id, p)| voters.contains(id) && heard(p.heard));
        fit.max_by_key(|(id, p)| (p.reached, std::cmp::Reverse(**id))).map(|(&id, _)| id)
    }
}
