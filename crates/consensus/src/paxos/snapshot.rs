//! The start of what is held: compaction and snapshots.
//!
//! **Invariants**
//! - Only slots whose effects are durable in the state are dropped.
//! - The new start is written, with the memberships *as of that slot*, before
//!   the driver is told to forget what lies before it.
//! - A snapshot never moves anything back; what was accepted beyond it stays.
//! - Whoever holds the state may send it: a leader to one that fetches too late,
//!   an acceptor to a candidate that lacks what it has dropped.

use super::Paxos;
use super::members::Eras;
use crate::contract::{Output, SnapshotMeta};
use crate::event::{Event, SnapshotReason};
use synod_base::NodeId;

impl Paxos {
    pub(super) fn on_applied(&mut self, index: u64, durable: u64) {
        self.applied = self.applied.max(index.min(self.emitted));
        self.durable = self.durable.max(durable.min(self.applied));
        let (bytes, entries) =
            (self.limits.retained_bytes_max as u64, self.limits.retained_entries_max as u64);
        let start = self.slots.start();
        // In steps, since each costs a record.
        let enough = self.durable.saturating_sub(start) > entries + entries / 8
            || self.slots.bytes() > bytes + bytes / 8;
        if !enough {
            return;
        }
        let upto = self.slots.droppable(self.durable, bytes, entries);
        if upto > start {
            self.slots.drop_to(upto);
            self.eras.drop_to(upto);
            self.dirty.boundary = true;
        }
    }

    /// What a snapshot at `index` stands for.
    pub(super) fn boundary_at(&self, index: u64) -> Option<SnapshotMeta> {
        let term = self.slots.term(index)?;
        let (membership, joint_until) = self.eras.after(index);
        Some(SnapshotMeta { index, term, membership, joint_until })
    }

    pub(super) fn on_snapshot_installed(&mut self, meta: SnapshotMeta) {
        let index = meta.index;
        if index <= self.emitted {
            return self.event(Event::SnapshotStale { index, held: self.emitted });
        }
        let commit = self.slots.commit();
        // Memberships that are chosen beyond it are not in it.
        let later: Vec<_> = (index + 1..=commit)
            .filter_map(|slot| self.slots.get(slot).map(|s| s.entry.clone()))
            .collect();
        self.eras = Eras::new(&meta);
        self.members_of = u64::MAX;
        self.slots.reset(index, meta.term);
        later.iter().for_each(|entry| self.eras.note(entry));
        (self.emitted, self.durable) = (index, index);
        self.applied = self.applied.max(index);
        self.persisted = self.persisted.max(index);
        self.skip_to(index);
        self.dirty.boundary = true;
        self.event(Event::SnapshotAdopted { index, kept_log: true });
        self.advance();
        let told = self.fetching.told;
        self.learn_commit(told);
    }

    /// Sends the state to a peer, unless that is under way or has just failed.
    pub(super) fn send_snapshot(&mut self, to: NodeId, why: SnapshotReason) {
        if !self.members.contains(to) || !self.snapshots.begin(to, self.now) {
            return;
        }
        self.event(Event::SnapshotNeeded { to, why });
        self.out.push(Output::NeedSnapshot { to });
    }

    pub(super) fn on_snapshot_sent(&mut self, to: NodeId, installed: Option<u64>) {
        self.snapshots.ended(to, installed.is_some(), self.now, self.limits.election_ms);
    }
}
