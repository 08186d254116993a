//! Acceptors and learners: phase 2 on followers, the watermark, catching up.
//!
//! **Invariants**
//! - What is accepted is durable before it is told.
//! - The leader's watermark says of a slot only that the *leader's* value is
//!   chosen: that is the one held here if it was accepted in the leader's round.
//!   Anything else is fetched from it.
//! - What is known to be chosen is held in a ballot no earlier than it was chosen in.
//! - One fetch is under way at a time.

use super::message::Body;
use super::{AHEAD_MAX, Paxos, check};
use crate::contract::{Entry, Role, WriteSeq};
use crate::event::{Event, SnapshotReason};
use synod_base::{NodeId, Tick, planted};

/// What this node lacks.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    /// The highest watermark that the leader of this round told.
    pub told: u64,
    /// When the leader was last asked for what was chosen.
    asked: Option<Tick>,
    /// The watermark as of the last look.
    seen: u64,
}

impl Paxos {
    pub(super) fn on_accept(&mut self, from: NodeId, commit: u64, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|e| e.index) else { return };
        let limit = self.slots.commit() + AHEAD_MAX;
        let (mut last, mut after) = (None, WriteSeq(0));
        for entry in entries.into_iter().take_while(|e| e.index <= limit) {
            if let Err(what) = check(&entry, self.round) {
                return self.event(Event::BadMessage { from, what });
            }
            let slot = entry.index;
            last = Some(slot);
            if slot <= self.slots.start() {
                continue;
            }
            let held = self.slots.get(slot).is_some_and(|s| s.chosen || s.ballot == self.round);
            if !held {
                self.accept(entry, false);
            }
            after = after.max(self.slots.get(slot).map_or(WriteSeq(0), |s| s.seq));
        }
        self.learn_commit(commit);
        self.refresh_members();
        if let Some(last) = last {
            if planted("paxos: a value is acknowledged before it is durable") {
                after = WriteSeq(0);
            }
            let body = Body::Accepted { first, last, reached: self.reached() };
            self.send(from, body, after.max(self.hard_seq));
        }
    }

    /// Everything up to here is chosen and durable here.
    pub(super) fn reached(&self) -> u64 {
        self.emitted.max(self.slots.start())
    }

    /// The leader says that all up to `commit` is chosen.
    pub(super) fn learn_commit(&mut self, commit: u64) {
        self.fetching.told = self.fetching.told.max(commit);
        let any = planted("paxos: a watermark covers what an earlier ballot accepted");
        loop {
            let next = self.slots.commit() + 1;
            if next > self.fetching.told || self.eras.is_blank() {
                return;
            }
            let round = self.round;
            match self.slots.get_mut(next) {
                Some(held) if held.chosen || held.ballot == round || any => held.chosen = true,
                _ => return,
            }
            self.advance();
        }
    }

    /// Takes a value that is known to be chosen.
    pub(super) fn learn(&mut self, entry: Entry) {
        let slot = entry.index;
        let commit = self.slots.commit();
        if slot <= commit || slot > commit + AHEAD_MAX || self.eras.is_blank() {
            return;
        }
        match self.slots.get_mut(slot) {
            Some(held) if held.chosen => {}
            Some(held) if held.ballot == self.round => held.chosen = true,
            _ => self.accept(entry, true),
        }
    }

    /// Goes on over what is chosen.
    pub(super) fn advance(&mut self) {
        while let Some(entry) = self.slots.advance() {
            self.note_chosen(&entry);
        }
        self.refresh_members();
    }

    pub(super) fn on_heartbeat(&mut self, from: NodeId, commit: u64, beat: u64) {
        self.learn_commit(commit);
        let body = Body::HeartbeatAnswer { beat, reached: self.reached() };
        self.send(from, body, self.hard_seq);
    }

    /// What has been missing since the last look is most likely lost.
    pub(super) fn tick_fetch(&mut self) {
        let Some(leader) = self.watch.leader.filter(|&l| l != self.id) else { return };
        let commit = self.slots.commit();
        let patience = self.limits.heartbeat_ms;
        let recent = self.fetching.asked.is_some_and(|at| self.now.since(at) < patience);
        if self.fetching.told <= commit || recent || self.role != Role::Follower {
            return;
        }
        let stuck = self.fetching.seen == commit;
        self.fetching.seen = commit;
        self.fetching.asked = Some(self.now);
        if stuck {
            let from = if self.eras.is_blank() { 0 } else { commit + 1 };
            self.send(leader, Body::Fetch { from }, WriteSeq(0));
        }
    }

    pub(super) fn on_fetch(&mut self, from: NodeId, slot: u64) {
        if self.lead.is_none() || !self.members.contains(from) {
            return;
        }
        if slot <= self.slots.start() {
            let why = SnapshotReason::BelowLog { next: slot, first: self.slots.start() + 1 };
            return self.send_snapshot(from, why);
        }
        let entries = self.slots.chosen(slot, self.limits.append_bytes_max as u64);
        if !entries.is_empty() {
            let body =
                Body::Chosen { commit: self.slots.commit(), first: slot, entries: entries.into() };
            self.send(from, body, WriteSeq(0));
        }
    }

    pub(super) fn on_chosen(&mut self, from: NodeId, commit: u64, entries: Vec<Entry>) {
        let before = self.slots.commit();
        for entry in entries {
            if let Err(what) = check(&entry, self.round) {
                return self.event(Event::BadMessage { from, what });
            }
            self.learn(entry);
            self.advance();
        }
        self.learn_commit(commit);
        let now = self.slots.commit();
        if now > before && now < self.fetching.told {
            self.fetching.asked = Some(self.now);
            self.send(from, Body::Fetch { from: now + 1 }, WriteSeq(0));
        }
    }
}
