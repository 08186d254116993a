//! Who belongs to the cell (thesis 4; joint consensus 4.3).
//!
//! **Invariants**
//! - The membership in force is that of the last configuration *in the log*,
//!   committed or not; cutting the log brings the earlier one back.
//! - A change starts only when no other is under way (uncommitted, or joint)
//!   and an entry of the leader's own term is committed (Ongaro 2015).
//! - Two successive memberships either differ by at most one voter or pass
//!   through a joint one.
//! - Only learners that are in sync become voters by promotion.
//! - A leader that a membership leaves out goes when that is committed, not before.

use super::message::Body;
use super::progress::{Phase, Progress};
use super::{Lead, Raft};
use crate::config::{Change, Membership};
use crate::contract::{Entry, EntryKind, Output, Refusal, WriteSeq};
use crate::event::{Event, StandDownReason};
use bytes::Bytes;
use std::collections::VecDeque;
use synod_base::NodeId;
use synod_base::codec::Malformed;

/// The memberships of the retained log. Never empty; the first is the one at
/// the log's start.
pub(super) struct History(VecDeque<(u64, Membership)>);

impl History {
    pub fn new(start: u64, membership: Membership) -> History {
        History(VecDeque::from([(start, membership)]))
    }

    pub fn reset(&mut self, start: u64, membership: Membership) {
        *self = History::new(start, membership);
    }

    /// Takes note of an entry; true if it is a configuration.
    pub fn note(&mut self, entry: &Entry) -> Result<bool, Malformed> {
        if entry.kind != EntryKind::Config {
            return Ok(false);
        }
        let (membership, _) = Membership::decode_entry(entry.data.clone())?;
        self.0.push_back((entry.index, membership));
        Ok(true)
    }

    /// Forgets what is at or above `from`; true if there was any.
    pub fn truncate(&mut self, from: u64) -> bool {
        let before = self.0.len();
        while self.0.len() > 1 && self.index() >= from {
            self.0.pop_back();
        }
        self.0.len() < before
    }

    /// Forgets what is superseded at `upto`.
    pub fn drop_to(&mut self, upto: u64) {
        while self.0.get(1).is_some_and(|(index, _)| *index <= upto) {
            self.0.pop_front();
        }
    }

    pub fn current(&self) -> &Membership {
        &self.0[self.0.len() - 1].1
    }

    /// Index of the entry in force.
    pub fn index(&self) -> u64 {
        self.0[self.0.len() - 1].0
    }

    /// The membership in force at `index` (at or above the log's start).
    pub fn at(&self, index: u64) -> &Membership {
        let later = self.0.partition_point(|(i, _)| *i <= index);
        &self.0[later.max(1) - 1].1
    }
}

impl Raft {
    pub(super) fn members_changed(&mut self, fell_back: bool) {
        let (now, last) = (self.now, self.log.last());
        let members = self.history.current();
        if let Some(lead) = &mut self.lead {
            let all = members.all();
            lead.peers.retain(|id, _| all.contains(id));
            for id in all.into_iter().filter(|&id| id != self.id) {
                lead.peers.entry(id).or_insert_with(|| Progress::new(last, now));
            }
            lead.moved = true;
        }
        self.show_members(fell_back);
        self.out.push(Output::Members(self.history.current().clone()));
    }

    pub(super) fn show_members(&mut self, fell_back: bool) {
        let m = self.history.current();
        let list = |set: &std::collections::BTreeSet<NodeId>| set.iter().copied().collect();
        self.out.push(Output::Event(Event::MembersChanged {
            index: self.history.index(),
            voters: list(&m.voters),
            outgoing: list(&m.outgoing),
            learners: list(&m.learners),
            fell_back,
        }));
    }

    pub(super) fn reconfigure(&mut self, ticket: u64, change: &Change, context: &Bytes) {
        match self.plan(change, !context.is_empty()) {
            Ok(next) => {
                let data = next.encode_entry(context);
                let index = self.append_own(EntryKind::Config, data);
                self.out.push(Output::Accepted { ticket, index, term: self.term });
            }
            Err(why) => self.refused(ticket, why),
        }
    }

    /// The membership to append for `change`.
    fn plan(&self, change: &Change, has_context: bool) -> Result<Membership, Refusal> {
        let Some(lead) = &self.lead else { return Err(self.not_leader()) };
        if self.handover.is_some() {
            return Err(Refusal::Transferring);
        }
        if self.commit < lead.first {
            return Err(Refusal::NotReady);
        }
        let now = self.history.current();
        if now.is_joint() || self.history.index() > self.commit {
            return Err(Refusal::ChangeInProgress);
        }
        self.check_change(now, change)?;
        for &id in &change.promote {
            if !self.in_sync(lead, id) {
                return Err(Refusal::LearnerBehind);
            }
        }
        let mut next = now.clone();
        for id in &change.remove {
            next.voters.remove(id);
        }
        for id in change.promote.iter().chain(&change.add_voters).chain(&change.remove) {
            next.learners.remove(id);
        }
        next.learners.extend(&change.add_learners);
        next.voters.extend(change.promote.iter().chain(&change.add_voters));
        // An unchanged membership is wanted for its context (a new address).
        if next.voters.is_empty() || (next == *now && !has_context) {
            return Err(Refusal::BadChange);
        }
        if now.voters.symmetric_difference(&next.voters).count() > 1 {
            next.outgoing = now.voters.clone();
        }
        Ok(next)
    }

    fn check_change(&self, now: &Membership, change: &Change) -> Result<(), Refusal> {
        let sets = [&change.add_learners, &change.promote, &change.add_voters, &change.remove];
        let named: usize = sets.iter().map(|s| s.len()).sum();
        let distinct: std::collections::BTreeSet<_> = sets.into_iter().flatten().collect();
        if distinct.len() < named || distinct.contains(&NodeId::NONE) {
            return Err(Refusal::BadChange);
        }
        if change.add_learners.iter().any(|id| now.voters.contains(id)) {
            return Err(Refusal::BadChange);
        }
        let all = now.all();
        if change.promote.iter().chain(&change.remove).any(|id| !all.contains(id)) {
            return Err(Refusal::UnknownMember);
        }
        if change.promote.iter().any(|id| !now.learners.contains(id)) {
            return Err(Refusal::NotLearner);
        }
        Ok(())
    }

    /// Whether a learner is heard and at most one in-flight window behind.
    fn in_sync(&self, lead: &Lead, id: NodeId) -> bool {
        lead.peers.get(&id).is_some_and(|p| {
            p.phase() == Phase::Replicate
                && self.now.since(p.heard) < self.limits.election_ms
                && p.matched() >= self.log.start()
                && self.log.bytes(p.matched(), self.log.last())
                    <= self.limits.inflight_bytes_max as u64
        })
    }

    /// Once a joint membership is committed, the leader appends the one that
    /// ends it, whoever began it.
    pub(super) fn leave_joint(&mut self) {
        let now = self.history.current();
        if self.lead.is_none() || !now.is_joint() || self.history.index() > self.commit {
            return;
        }
        let mut next = now.clone();
        next.outgoing.clear();
        self.append_own(EntryKind::Config, next.encode_entry(&[]));
    }

    /// A leader that is no voter any more goes once that is committed, and lets
    /// the best voter start at once, so that nobody has to miss it first.
    pub(super) fn leave_if_removed(&mut self) {
        let now = self.history.current();
        let out = !now.is_voter(self.id) && self.history.index() <= self.commit;
        if self.lead.is_none() || !out {
            return;
        }
        if let Some(to) = self.best_successor() {
            self.send(to, Body::TimeoutNow, WriteSeq(0));
        }
        self.follow(self.term, None, Some(StandDownReason::Removed));
    }
}
