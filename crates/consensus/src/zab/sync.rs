//! Synchronisation: each follower's history becomes the leader's, by DIFF, TRUNC
//! or SNAP, and a quorum acknowledges it (NEWLEADER) before the epoch is
//! established.
//!
//! **Invariants**
//! - A follower that holds the place that the leader names cuts what follows it,
//!   once, and takes what comes after it; one that does not says which place the
//!   two may share. It never cuts once the epoch is current: then its history
//!   is a prefix of the leader's.
//! - A follower makes the epoch current in a record no earlier than those of
//!   the history, and acknowledges NEWLEADER when that record is durable; until
//!   then nothing that it says counts for a commit.
//! - What is in the history that the epoch begins with is committed by the
//!   quorum's acknowledgements of NEWLEADER, whatever epoch it is of.
//! - A gap, a restart or a reconnect leads to a new session from what the
//!   follower then holds, never to a hole (ZOOKEEPER-4925).

use super::discover::Stage;
use super::message::{Body, Rank};
use super::{Zab, message_to};
use crate::config::Membership;
use crate::contract::{Entry, EntryKind, Output, Role, WriteSeq};
use crate::entries::Entries;
use crate::event::{Event, SnapshotReason, SyncMethod};
use crate::parts::progress::{Phase, Progress};
use bytes::Bytes;
use synod_base::{NodeId, Tick, planted};

impl Zab {
    /// Begins to bring a peer in line that holds `rank`.
    pub(super) fn begin_session(&mut self, to: NodeId, rank: Rank) {
        let (start, now) = (self.log.start(), self.now);
        let settled = rank.current == self.accepted;
        let agree = self.log.agree(rank.index, rank.term).0;
        let at = if settled { rank.index.min(self.log.last()) } else { agree };
        let Some(peer) = self.lead.as_mut().and_then(|l| l.peers.get_mut(&to)) else { return };
        if let Some(s) = &peer.session {
            let waits = match s.phase() {
                Phase::Probe { quiet_until } => s.next() == at + 1 && now < quiet_until,
                Phase::Snapshot => rank.index < start,
                Phase::Replicate => false,
            };
            if waits {
                return;
            }
        }
        let mut session = Progress::new(at, now);
        peer.told = None;
        peer.trunc = at < rank.index;
        if rank.index < start {
            session.snapshot();
            peer.session = Some(session);
            return self.need_snapshot(to, rank.index + 1);
        }
        peer.session = Some(session);
        let how = if at < rank.index { SyncMethod::Trunc } else { SyncMethod::Diff };
        self.event(Event::Synchronised { to, how, after: at });
    }

    pub(super) fn need_snapshot(&mut self, to: NodeId, next: u64) {
        let why = SnapshotReason::BelowLog { next, first: self.log.first() };
        self.event(Event::SnapshotNeeded { to, why });
        self.out.push(Output::NeedSnapshot { to });
    }

    /// Sends each peer what it lacks and may be sent.
    pub(super) fn stream(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        let (max, commit) = (self.limits.append_bytes_max as u64, self.commit);
        let mut too_old = Vec::new();
        for (&to, peer) in &mut lead.peers {
            let Some(s) = &mut peer.session else { continue };
            let (messages, bytes) =
                (self.limits.inflight_messages_max, self.limits.inflight_bytes_max);
            while s.may_send(self.now, messages, bytes) {
                let prev_index = s.next() - 1;
                let flows = s.phase() == Phase::Replicate;
                if flows && prev_index >= self.log.last() {
                    break;
                }
                let Some(prev_term) = self.log.term(prev_index) else {
                    too_old.push((to, s.next()));
                    s.snapshot();
                    break;
                };
                let entries = self.log.entries(prev_index + 1, self.log.last(), max);
                let last = prev_index + entries.len() as u64;
                s.sent(last, self.log.bytes(prev_index, last), self.now, self.limits.heartbeat_ms);
                let body = if flows {
                    peer.commit_sent = commit.min(last);
                    Body::Propose { prev_index, commit, entries }
                } else {
                    let trunc = std::mem::take(&mut peer.trunc);
                    Body::Sync { trunc, prev_index, prev_term, entries }
                };
                self.out.push(message_to(self.accepted, to, body, WriteSeq(0)));
                // The end of the history goes with its last part.
                let ends = last >= lead.begins_after && peer.told.is_none();
                if !peer.settled && ends {
                    peer.told = Some(self.now);
                    let body = Body::NewLeader { last: lead.begins_after };
                    self.out.push(message_to(self.accepted, to, body, WriteSeq(0)));
                }
            }
            tell_commit(to, peer, self.accepted, commit, &mut self.out);
        }
        too_old.into_iter().for_each(|(to, next)| self.need_snapshot(to, next));
    }

    /// Repeats NEWLEADER where it, or its answer, may have been lost.
    pub(super) fn repeat_new_leader(&mut self) {
        let (now, patience) = (self.now, 2 * self.limits.heartbeat_ms);
        let Some(lead) = &mut self.lead else { return };
        let last = lead.begins_after;
        for (&to, peer) in &mut lead.peers {
            let Some(s) = peer.session.as_ref().filter(|_| !peer.settled) else { continue };
            let due = peer.told.is_none_or(|at| now.since(at) >= patience);
            if s.phase() == Phase::Replicate && s.matched() >= last && due {
                peer.told = Some(now);
                let body = Body::NewLeader { last };
                self.out.push(message_to(self.accepted, to, body, WriteSeq(0)));
            }
        }
    }

    /// The leader's history from a place on.
    pub(super) fn on_sync(&mut self, from: NodeId, prev: u64, term: u64, entries: Entries) {
        let last = self.log.last();
        if !self.following.in_sync && self.current < self.accepted {
            if prev < self.commit || self.log.term(prev) != Some(term) {
                let (index, term) = match prev < self.commit {
                    true => (self.commit, self.log.term(self.commit).unwrap_or(term)),
                    false => self.log.agree(prev.min(last), term),
                };
                return self.send(from, Body::Diverged { index, term }, self.all_seq());
            }
            if prev < last && !planted("zab: a truncation is skipped") {
                self.truncate(prev + 1, from);
            }
        } else if prev > last {
            return self.ask_resync(from);
        }
        self.following.in_sync = true;
        self.following.asked = None;
        self.take_and_answer(from, prev, entries);
    }

    /// Takes what follows `prev` and says so.
    pub(super) fn take_and_answer(&mut self, from: NodeId, prev: u64, entries: Entries) {
        if let Err(what) = self.take(prev, entries) {
            return self.event(Event::BadMessage { from, what });
        }
        let matched = self.log.last();
        let body = match self.current == self.accepted {
            true => Body::Ack { matched },
            false => Body::SyncAck { matched },
        };
        let durable = matched <= self.persisted
            || planted("zab: a proposal is acknowledged before it is durable");
        let after = if durable { self.hard_seq } else { self.all_seq() };
        self.send(from, body, after);
    }

    /// Takes over the entries that the history does not have yet.
    pub(super) fn take(&mut self, prev: u64, entries: Entries) -> Result<(), &'static str> {
        let mut term = self.log.last_term();
        for e in entries.iter().filter(|e| e.index > self.log.last()) {
            if e.term < term || e.term > self.accepted {
                return Err("proposals of impossible epochs");
            }
            term = e.term;
            if e.kind == EntryKind::Config && Membership::decode_entry(e.data.clone()).is_err() {
                return Err("an unreadable membership");
            }
        }
        assert!(prev <= self.log.last(), "the history has no holes");
        let held = entries.iter().take_while(|e| e.index <= self.log.last()).count();
        let other = |e: &Entry| self.log.term(e.index).is_some_and(|term| term != e.term);
        if entries[..held].iter().any(other) {
            return Err("another proposal at a place that is taken");
        }
        self.append(entries.skip(held));
        Ok(())
    }

    pub(super) fn on_diverged(&mut self, from: NodeId, index: u64, term: u64) {
        let Some(lead) = self.lead.as_ref().filter(|l| l.stage != Stage::Discovery) else { return };
        let probing = lead.peers.get(&from).and_then(|p| p.session.as_ref());
        let Some(Phase::Probe { .. }) = probing.map(Progress::phase) else { return };
        let at = self.log.agree(index, term).0;
        if index < self.log.start() || (at == index && self.log.term(at) != Some(term)) {
            // What is common is not in the log any more.
            let peer = self.lead.as_mut().and_then(|l| l.peers.get_mut(&from));
            if let Some(s) = peer.and_then(|p| p.session.as_mut()) {
                s.snapshot();
                self.need_snapshot(from, index + 1);
            }
            return;
        }
        if let Some(peer) = self.lead.as_mut().and_then(|l| l.peers.get_mut(&from)) {
            peer.session = Some(Progress::new(at, self.now));
            (peer.trunc, peer.told) = (true, None);
            let (to, how) = (from, SyncMethod::Trunc);
            self.event(Event::Synchronised { to, how, after: at });
        }
    }

    /// The leader's epoch begins with the history up to `last`.
    pub(super) fn on_new_leader(&mut self, from: NodeId, last: u64) {
        if !self.following.in_sync {
            return;
        }
        if self.log.last() < last {
            return self.ask_resync(from);
        }
        if self.current < self.accepted {
            self.current = self.accepted;
            self.hard_changed();
            self.event(Event::EpochEntered { epoch: self.current, leader: from });
        }
        let early = planted("zab: NEWLEADER is acknowledged before the history is durable");
        let after = if early { WriteSeq(0) } else { self.all_seq() };
        self.send(from, Body::NewLeaderAck { matched: self.log.last() }, after);
    }

    pub(super) fn on_new_leader_ack(&mut self, from: NodeId, matched: u64) {
        self.on_ack(from, matched, true);
        let Some(lead) = &mut self.lead else { return };
        let broadcasts = lead.stage == Stage::Broadcast;
        let Some(peer) = lead.peers.get_mut(&from) else { return };
        peer.settled = true;
        if broadcasts {
            let commit = self.commit;
            self.send(from, Body::UpToDate { commit }, WriteSeq(0));
        }
        self.count_settled();
    }

    /// Whether a quorum holds the history that the epoch begins with.
    pub(super) fn count_settled(&mut self) {
        let Some(lead) = &self.lead else { return };
        if lead.stage != Stage::Synchronisation {
            return;
        }
        let own = self.writes.done() >= lead.own_seq;
        let peers = &lead.peers;
        let settled = |id| match id == self.id {
            true => own,
            false => peers.get(&id).is_some_and(|p| p.settled),
        };
        if self.members.now.quorum(settled) {
            self.establish();
        }
    }

    /// The epoch is established, its history committed; broadcast begins.
    fn establish(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        lead.stage = Stage::Broadcast;
        self.role = Role::Leader;
        self.commit = self.commit.max(lead.begins_after);
        self.following = super::Following::default();
        let index = self.log.last() + 1;
        let settled: Vec<NodeId> =
            lead.peers.iter().filter(|(_, p)| p.settled).map(|(&id, _)| id).collect();
        self.event(Event::BecameLeader { term: self.accepted, index });
        self.refresh_members(false);
        self.settle_transfer(self.id);
        for to in settled {
            self.send(to, Body::UpToDate { commit: self.commit }, WriteSeq(0));
        }
        self.append_own(EntryKind::Noop, Bytes::new());
    }

    pub(super) fn on_ping(&mut self, from: NodeId, round: u64, commit: u64, established: bool) {
        if established {
            self.epoch_established(from);
        }
        self.learn_commit(commit);
        self.refresh_members(false);
        let active = self.members.active;
        self.send(from, Body::Pong { round, active }, self.hard_seq);
        if !self.following.in_sync {
            self.ask_resync(from);
        }
    }

    /// A peer without a session is asked again, unless a stream to it just failed.
    pub(super) fn invite_idle(&mut self, now: Tick) {
        let Some(lead) = &self.lead else { return };
        let idle = lead.peers.iter().filter(|(_, p)| p.session.is_none() && now >= p.ask_at);
        let idle: Vec<NodeId> = idle.map(|(&id, _)| id).collect();
        idle.into_iter().for_each(|to| self.invite(to));
    }
}

/// With nothing under way to carry it, a new commit index goes by itself, so
/// that followers apply at once (reads on them wait for it).
fn tell_commit(
    to: NodeId,
    peer: &mut super::discover::Peer,
    epoch: u64,
    commit: u64,
    out: &mut Vec<Output>,
) {
    let known = commit.min(peer.acked);
    let idle = peer.session.as_ref().is_some_and(|s| s.phase() == Phase::Replicate && s.idle());
    if peer.settled && idle && known > peer.commit_sent {
        peer.commit_sent = known;
        out.push(message_to(epoch, to, Body::Commit { commit: known }, WriteSeq(0)));
    }
}
