//! The memberships of the retained log, and what may follow one.

use crate::config::{Change, Membership};
use crate::contract::{Entry, EntryKind, Refusal};
use crate::event::Event;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use synod_base::NodeId;
use synod_base::codec::Malformed;

/// Memberships with the index from which each is in force. Never empty; the
/// first is the one at the log's start.
#[derive(Debug)]
pub struct History(VecDeque<(u64, Arc<Membership>)>);

impl History {
    pub fn new(start: u64, membership: Membership) -> History {
        History(VecDeque::from([(start, Arc::new(membership))]))
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
        self.push(entry.index, membership);
        Ok(true)
    }

    /// `membership` is in force from `index` on.
    pub fn push(&mut self, index: u64, membership: Membership) {
        self.0.push_back((index, Arc::new(membership)));
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

    /// The current one, to keep.
    pub fn shared(&self) -> Arc<Membership> {
        self.0[self.0.len() - 1].1.clone()
    }

    /// From which index the current one is in force.
    pub fn index(&self) -> u64 {
        self.0[self.0.len() - 1].0
    }

    /// The membership in force at `index` (at or above the log's start).
    pub fn at(&self, index: u64) -> &Membership {
        let later = self.0.partition_point(|(i, _)| *i <= index);
        &self.0[later.max(1) - 1].1
    }
}

impl Membership {
    /// The membership that `change` leads to, at once. An unchanged one is
    /// wanted for its context only (a new address).
    pub(crate) fn with(&self, change: &Change, has_context: bool) -> Result<Membership, Refusal> {
        self.check(change)?;
        let mut next = self.clone();
        for id in &change.remove {
            next.voters.remove(id);
        }
        let named = change.promote.iter().chain(&change.add_voters).chain(&change.remove);
        for id in named.chain(&change.remove_learners) {
            next.learners.remove(id);
        }
        next.learners.extend(&change.add_learners);
        next.voters.extend(change.promote.iter().chain(&change.add_voters));
        if next.voters.is_empty() || (next == *self && !has_context) {
            return Err(Refusal::BadChange);
        }
        Ok(next)
    }

    fn check(&self, change: &Change) -> Result<(), Refusal> {
        let Change { add_learners, promote, add_voters, remove, remove_learners } = change;
        let sets = [add_learners, promote, add_voters, remove, remove_learners];
        let named: usize = sets.iter().map(|s| s.len()).sum();
        let distinct: BTreeSet<_> = sets.into_iter().flatten().collect();
        if distinct.len() < named || distinct.contains(&NodeId::NONE) {
            return Err(Refusal::BadChange);
        }
        let mut learners = add_learners.iter().chain(remove_learners);
        if learners.any(|id| self.is_voter(*id)) {
            return Err(Refusal::BadChange);
        }
        let all = self.all();
        if promote.iter().chain(remove).chain(remove_learners).any(|id| !all.contains(id)) {
            return Err(Refusal::UnknownMember);
        }
        if promote.iter().any(|id| !self.learners.contains(id)) {
            return Err(Refusal::NotLearner);
        }
        Ok(())
    }

    /// The event that shows it.
    pub(crate) fn shown(&self, index: u64, fell_back: bool) -> Event {
        let list = |set: &BTreeSet<NodeId>| set.iter().copied().collect();
        Event::MembersChanged {
            index,
            voters: list(&self.voters),
            outgoing: list(&self.outgoing),
            learners: list(&self.learners),
            fell_back,
        }
    }

    /// All voters but `id`.
    pub(crate) fn voters_but(&self, id: NodeId) -> Vec<NodeId> {
        self.voters.union(&self.outgoing).copied().filter(|&other| other != id).collect()
    }
}
