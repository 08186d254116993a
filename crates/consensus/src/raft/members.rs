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
use super::{Lead, Raft};
use crate::config::{Change, Membership};
use crate::contract::{EntryKind, Output, Refusal, WriteSeq};
use crate::event::StandDownReason;
use crate::parts::progress::{Phase, Progress};
use bytes::Bytes;
use synod_base::NodeId;

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
        let event = self.history.current().shown(self.history.index(), fell_back);
        self.event(event);
    }

    pub(super) fn reconfigure(&mut self, ticket: u64, change: &Change, context: &Bytes) {
        match self.plan(change, !context.is_empty()) {
            Ok(next) => {
                let data = next.encode_entry(context);
                let index = self.append_own(EntryKind::Config, data);
                self.out.push(Output::Accepted { tickets: vec![ticket], index, term: self.term });
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
        let mut next = now.with(change, has_context)?;
        for &id in &change.promote {
            if !self.in_sync(lead, id) {
                return Err(Refusal::LearnerBehind);
            }
        }
        if now.voters.symmetric_difference(&next.voters).count() > 1 {
            next.outgoing = now.voters.clone();
        }
        Ok(next)
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
