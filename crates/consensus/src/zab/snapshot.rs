//! The start of the log: compaction and snapshots (SNAP).
//!
//! **Invariants**
//! - Only entries whose effects are durable in the state leave the log.
//! - The new start is written, with the membership *as of that index*, before
//!   the driver is told to forget what lies before it.
//! - A snapshot holds only what is committed, so it may come from any epoch. It never
//!   moves anything back; one that agrees with the history keeps the rest of
//!   it, another replaces it whole.
//! - It changes neither what was promised nor the current epoch: the leader
//!   synchronises what follows it like anything else.

use super::Zab;
use super::discover::{Peer, Stage};
use super::members::activated;
use super::record::Boundary;
use crate::contract::SnapshotMeta;
use crate::event::{Event, StandDownReason};
use crate::parts::progress::Phase;
use synod_base::NodeId;

impl Zab {
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
            membership: activated(self.history.at(self.log.start())),
            joint_until: 0,
        };
        self.dirty.boundary = Some(Box::new(Boundary { meta, reset }));
        // The record that frees older ones must hold everything besides the log.
        self.dirty.hard = true;
    }

    pub(super) fn on_snapshot_installed(&mut self, meta: SnapshotMeta) {
        if meta.index <= self.emitted {
            return self.event(Event::SnapshotStale { index: meta.index, held: self.emitted });
        }
        let kept_log = self.log.term(meta.index) == Some(meta.term);
        if let Some(lead) = &self.lead {
            if lead.stage == Stage::Broadcast && !kept_log {
                // Impossible unless the driver mixed up cells: a leader has it all.
                return self.event(Event::SnapshotStale { index: meta.index, held: self.emitted });
            }
            if lead.stage != Stage::Broadcast && !kept_log {
                // What it was going to lead with is another history now. The promises
                // that were given, to it and by it, stay.
                self.abandon(Some(StandDownReason::HistoryReplaced { index: meta.index }));
            }
        }
        if meta.term > self.accepted {
            self.abandon(None);
            (self.accepted, self.accepted_from) = (meta.term, None);
            self.hard_changed();
            self.set_leader(None);
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
            self.history.reset(index, meta.membership);
            self.write_boundary(true);
            self.dirty.cut = None;
            self.dirty.entries_from = None;
            self.following.in_sync = false;
        }
        self.log_seq = self.writes.coming();
        self.event(Event::SnapshotAdopted { index, kept_log });
        self.refresh_members(false);
        if let Some(leader) = self.watch.leader.filter(|_| self.lead.is_none()) {
            self.following.asked = None;
            self.ask_resync(leader);
        }
    }

    pub(super) fn on_snapshot_sent(&mut self, to: NodeId, installed: Option<u64>) {
        let (last, now, pause) = (self.log.last(), self.now, self.limits.election_ms);
        self.snapshots.ended(to, installed.is_some(), now, pause);
        let Some(peer) = self.lead.as_mut().and_then(|l| l.peers.get_mut(&to)) else { return };
        let Peer { session: Some(s), .. } = peer else { return };
        if s.phase() != Phase::Snapshot {
            return;
        }
        match installed {
            Some(index) => s.probe_after(index.min(last)),
            None => {
                // Not at once again: what made it fail is most likely still so.
                peer.session = None;
                peer.ask_at = now.plus(pause);
            }
        }
    }
}
