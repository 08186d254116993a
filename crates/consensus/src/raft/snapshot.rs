//! The start of the log: compaction and snapshots.
//!
//! **Invariants**
//! - Only entries whose effects are durable in the state leave the log.
//! - The new start is written, with the membership *as of that index*, before
//!   the driver is told to forget what lies before it.
//! - A snapshot never moves anything back; one that agrees with the log keeps
//!   the rest of it, another replaces it whole.

use super::Raft;
use super::record::Boundary;
use crate::contract::{Role, SnapshotMeta};
use crate::event::{Event, StandDownReason};
use crate::parts::progress::Phase;
use synod_base::NodeId;

impl Raft {
    pub(super) fn on_applied(&mut self, index: u64, durable: u64) {
        self.applied = self.applied.max(index.min(self.emitted));
        self.durable = self.durable.max(durable.min(self.applied));
        let (bytes, entries) =
            (self.limits.retained_bytes_max as u64, self.limits.retained_entries_max as u64);
        let (start, durable) = (self.log.start(), self.durable.min(self.log.last()));
        // In steps, since each costs a record.
        let enough = durable > start + entries + entries / 8
            || self.log.bytes(start, durable) > bytes + bytes / 8;
        if enough {
            self.compact(self.log.droppable(durable, bytes, entries));
        }
    }

    fn compact(&mut self, upto: u64) {
        self.log.drop_to(upto);
        self.history.drop_to(upto);
        self.write_boundary(false);
    }

    fn write_boundary(&mut self, reset: bool) {
        let meta = SnapshotMeta {
            index: self.log.start(),
            term: self.log.start_term(),
            membership: self.history.at(self.log.start()).clone(),
            joint_until: 0,
        };
        self.dirty.boundary = Some(Box::new(Boundary { meta, reset }));
        self.dirty.forget = true;
    }

    pub(super) fn on_snapshot_installed(&mut self, meta: SnapshotMeta) {
        if meta.index <= self.emitted {
            return self.event(Event::SnapshotStale { index: meta.index, held: self.emitted });
        }
        let kept_log = self.log.term(meta.index) == Some(meta.term);
        if self.role == Role::Leader && !kept_log {
            // Impossible unless the driver mixed up cells: a leader has it all.
            return self.event(Event::SnapshotStale { index: meta.index, held: self.emitted });
        }
        if meta.term > self.term {
            let from = self.watch.leader.unwrap_or_default();
            self.follow(meta.term, None, Some(StandDownReason::LaterTerm { from }));
        }
        let index = meta.index;
        (self.emitted, self.durable) = (index, index);
        self.applied = self.applied.max(index);
        self.commit = self.commit.max(index);
        if kept_log {
            self.persisted = self.persisted.max(index);
            self.compact(index);
        } else {
            self.log.reset(index, meta.term);
            self.persisted = index;
            self.writes.cut(0);
            let changed = *self.history.current() != meta.membership;
            self.history.reset(index, meta.membership);
            self.write_boundary(true);
            if changed {
                self.members_changed(false);
            }
        }
        self.log_seq = self.writes.coming();
        self.event(Event::SnapshotAdopted { index, kept_log });
        if let Some(leader) = self.watch.leader.filter(|&l| l != self.id) {
            let body = super::Body::Appended { matched: index };
            self.send(leader, body, self.log_seq);
        }
    }

    pub(super) fn on_snapshot_sent(&mut self, to: NodeId, installed: Option<u64>) {
        let (last, now, pause) = (self.log.last(), self.now, self.limits.election_ms);
        self.snapshots.ended(to, installed.is_some(), now, pause);
        let Some(p) = self.lead.as_mut().and_then(|l| l.peers.get_mut(&to)) else { return };
        if p.phase() != Phase::Snapshot {
            return;
        }
        match installed {
            Some(index) => p.probe_after(index.min(last)),
            // Not at once again: what made it fail is most likely still so.
            None => p.probe(now.plus(pause)),
        }
    }
}
