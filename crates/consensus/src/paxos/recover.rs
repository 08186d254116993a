//! Between phase 1 and phase 2: what was accepted under earlier ballots is
//! proposed again, holes become no-ops.
//!
//! For each slot the value of the highest ballot counts (Paxos). Among slots,
//! let `a < b` hold values first proposed in ballots `p(a) > p(b)`. A leader's
//! own proposals never decrease in `p`, so the two were accepted in different
//! ballots, and the leader of the later one knew everything that was chosen
//! before it: had the value of the earlier ballot been chosen, it would have
//! proposed that and kept the order. So the value accepted in the earlier ballot
//! was never chosen, and is dropped.
//!
//! **Invariants**
//! - Nothing is proposed before a quorum of every known membership promised and
//!   reported. Behind a configuration that is proposed again nothing is proposed
//!   until it is chosen and its members have promised too: they may have
//!   accepted values in slots that no earlier member knows of.
//! - The leader's own values come after all of that; the first is a no-op.
//! - Recovery that makes no progress is given up: its heartbeats keep everybody
//!   else from standing.

use super::Paxos;
use super::lead::Lead;
use super::message::Body;
use crate::contract::{Entry, EntryKind, Role, WriteSeq};
use crate::event::{Event, StandDownReason};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use synod_base::{NodeId, planted};

/// What promises have brought.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Of each slot the value of the highest ballot, with that ballot.
    values: BTreeMap<u64, (u64, Entry)>,
    /// Reports that go on, and where.
    pub reporting: BTreeMap<NodeId, u64>,
}

impl Recovery {
    pub fn note(&mut self, ballot: u64, entry: Entry) {
        let keep = match planted("paxos: a value of a lower ballot is proposed again") {
            true => |old: u64, new: u64| old <= new,
            false => |old: u64, new: u64| old >= new,
        };
        let known = self.values.get(&entry.index).is_some_and(|(b, _)| keep(*b, ballot));
        if !known {
            self.values.insert(entry.index, (ballot, entry));
        }
    }

    fn last(&self) -> u64 {
        self.values.last_key_value().map_or(0, |(slot, _)| *slot)
    }

    /// Drops what is below `next`, and what cannot have been chosen; `term` is
    /// that of the slot before.
    fn sort_out(&mut self, next: u64, term: u64) -> usize {
        self.values = self.values.split_off(&next);
        if planted("paxos: values of earlier ballots keep no order") {
            return 0;
        }
        let before = self.values.len();
        let mut by_ballot: Vec<(u64, u64)> =
            self.values.iter().map(|(slot, (ballot, _))| (*ballot, *slot)).collect();
        by_ballot.sort_unstable_by(|a, b| b.cmp(a));
        let mut kept: BTreeMap<u64, u64> = BTreeMap::new();
        for (_, slot) in by_ballot {
            let Some((_, entry)) = self.values.get(&slot) else { continue };
            let below = kept.range(..slot).next_back().map_or(term, |(_, term)| *term);
            let above = kept.range((Excluded(slot), Unbounded)).next().map(|(_, term)| *term);
            if entry.term >= below && above.is_none_or(|above| entry.term <= above) {
                kept.insert(slot, entry.term);
            } else {
                self.values.remove(&slot);
            }
        }
        before - self.values.len()
    }
}

impl Paxos {
    /// A quorum has promised: this node leads, once what was accepted before is
    /// proposed again.
    pub(super) fn recover(&mut self) {
        let Some(poll) = self.poll.take() else { return };
        let commit = self.slots.commit();
        // The own acceptor has a report too.
        let own = self.slots.range(commit + 1, self.slots.last(), u64::MAX).0;
        let own: Vec<(u64, Entry)> = own
            .into_iter()
            .map(|s| (if s.chosen { u64::MAX } else { s.ballot }, s.entry.clone()))
            .collect();
        own.into_iter().for_each(|(ballot, entry)| self.recovery.note(ballot, entry));
        self.role = Role::Candidate;
        let others = self.members.all().into_iter().filter(|&id| id != self.id);
        self.lead = Some(Box::new(Lead::new(
            commit + 1,
            poll.granted,
            others,
            self.now,
            self.limits.heartbeat_ms,
        )));
    }

    /// Voters that have not promised yet are asked (again): messages get lost,
    /// and members come to light that the campaign did not know.
    pub(super) fn ask_again(&mut self) {
        if self.now < self.asked_again.plus(self.limits.heartbeat_ms) {
            return;
        }
        self.asked_again = self.now;
        let voters = self.members.voters_but(self.id).into_iter();
        let silent: Vec<NodeId> = match (&self.lead, &self.poll) {
            (Some(lead), _) if lead.first.is_none() => {
                voters.filter(|id| !lead.promised.contains(id)).collect()
            }
            (None, Some(poll)) if self.role == Role::Candidate => {
                let told = |id: &NodeId| poll.granted.contains(id) || poll.refused.contains_key(id);
                voters.filter(|id| !told(id)).collect()
            }
            _ => return,
        };
        for to in silent {
            match self.recovery.reporting.get(&to) {
                // A report that goes on is not begun anew.
                Some(&from) => self.send(to, Body::More { from }, WriteSeq(0)),
                None => self.ask(to, false),
            }
        }
    }

    /// Gives up a recovery in which nothing has come for longer than a disk may
    /// stall: another candidate may not need those who do not answer.
    pub(super) fn check_recovery(&mut self) {
        let patience = self.limits.disk_stall_ms.max(4 * self.limits.election_ms);
        let now = self.now;
        let Some(lead) = self.lead.as_ref().filter(|l| l.first.is_none()) else { return };
        if now.since(lead.went_on.max(lead.quorum_since)) < patience {
            return;
        }
        let slot = self.slots.commit() + 1;
        let promised = self.members.quorum(|id| lead.promised.contains(&id));
        let answered = |id: &NodeId| match promised {
            false => lead.promised.contains(id),
            true => lead.has_accepted(*id, slot),
        };
        let voters = self.members.voters_but(self.id).into_iter();
        let missing = voters.filter(|id| !answered(id)).collect();
        self.follow(self.round, None, Some(StandDownReason::RecoveryStuck { slot, missing }));
    }

    /// Proposes again what may be, and then takes the lead.
    pub(super) fn drive_recovery(&mut self) {
        let Some(lead) = self.lead.as_ref().filter(|l| l.first.is_none()) else { return };
        if !lead.is_promised(&self.members) {
            return;
        }
        let (from, commit) = (lead.next.max(self.slots.commit() + 1), self.slots.commit());
        let mut barrier = lead.barrier;
        let mut term = self.term_before(from);
        let dropped = self.recovery.sort_out(from, term);
        let (mut next, last, mut holes) = (from, self.recovery.last(), 0);
        let hole_is_skipped = planted("paxos: a hole is not filled");
        while next <= last && next <= commit + super::WINDOW && barrier <= commit {
            let value = self.recovery.values.remove(&next).map(|(_, entry)| entry);
            let hole = value.is_none();
            let noop = Entry { index: next, term, kind: EntryKind::Noop, data: Bytes::new() };
            let entry = value.unwrap_or(noop);
            term = entry.term;
            if entry.kind == EntryKind::Config {
                barrier = next;
            }
            holes += u64::from(hole);
            if !(hole && hole_is_skipped) {
                self.put_forward(entry.into());
            }
            next += 1;
        }
        if next > from || dropped > 0 {
            self.event(Event::Recovered { term: self.round, from, to: next - 1, holes, dropped });
        }
        let Some(lead) = &mut self.lead else { return };
        (lead.next, lead.barrier) = (next, barrier);
        if next > last && barrier <= commit {
            self.take_the_lead(next);
        }
    }

    /// The first-proposed ballot of the slot before `next`.
    fn term_before(&self, next: u64) -> u64 {
        self.slots.term(next - 1).unwrap_or(0)
    }

    fn take_the_lead(&mut self, first: u64) {
        let Some(lead) = &mut self.lead else { return };
        lead.first = Some(first);
        self.role = Role::Leader;
        self.recovery = Recovery::default();
        self.set_leader(Some(self.id));
        self.event(Event::BecameLeader { term: self.round, index: first });
        self.append_own(EntryKind::Noop, Bytes::new());
    }
}
