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
use super::slots::{Held, Run};
use super::{AHEAD_MAX, Paxos, check};
use crate::contract::{Entry, Role, WriteSeq};
use crate::entries::Entries;
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
    pub(super) fn on_accept(&mut self, from: NodeId, commit: u64, entries: &Entries) {
        let Some(first) = entries.first().map(|e| e.index) else { return };
        let room = (self.slots.commit() + AHEAD_MAX + 1).saturating_sub(first);
        let taken = entries.part(0..entries.len().min(room as usize));
        if let Some(what) = taken.iter().find_map(|e| check(e, self.round).err()) {
            return self.event(Event::BadMessage { from, what });
        }
        let mut after = self.take(&taken);
        self.learn_commit(commit);
        self.refresh_members();
        if let Some(last) = taken.last().map(|e| e.index) {
            if planted("paxos: a value is acknowledged before it is durable") {
                after = WriteSeq(0);
            }
            let body = Body::Accepted { first, last, reached: self.reached() };
            self.send(from, body, after.max(self.hard_seq));
        }
    }

    /// Accepts what is not held yet in this round; the write that makes all of
    /// it durable.
    fn take(&mut self, entries: &Entries) -> WriteSeq {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return WriteSeq(0);
        };
        let (first, last) = (first.index, last.index);
        if first > self.slots.last() {
            self.accept(entries.clone(), false);
            return self.writes.coming();
        }
        let held = |this: &Paxos, e: &Entry| {
            let known = |s: Held| s.chosen || s.ballot == this.round;
            e.index <= this.slots.start() || this.slots.get(e.index).is_some_and(known)
        };
        let mut at = 0;
        while at < entries.len() {
            let new = entries[at..].iter().take_while(|e| !held(self, e)).count();
            self.accept(entries.part(at..at + new), false);
            at += new.max(1);
        }
        self.slots.runs(first..=last).map(|run| run.seq).max().unwrap_or(WriteSeq(0))
    }

    /// Everything up to here is chosen and durable here.
    pub(super) fn reached(&self) -> u64 {
        self.emitted.max(self.slots.start())
    }

    /// The leader says that all up to `commit` is chosen.
    pub(super) fn learn_commit(&mut self, commit: u64) {
        self.fetching.told = self.fetching.told.max(commit);
        let any = planted("paxos: a watermark covers what an earlier ballot accepted");
        while !self.eras.is_blank() && self.slots.commit() < self.fetching.told {
            let covers = |run: &&Run| run.chosen || run.ballot == self.round || any;
            let Some(run) = self.slots.run(self.slots.commit() + 1).filter(covers) else { return };
            self.pass(run.last().min(self.fetching.told));
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
        match self.slots.get(slot).map(|held| (held.chosen, held.ballot)) {
            Some((true, _)) => {}
            Some((_, ballot)) if ballot == self.round => {
                self.close(slot..=slot);
                self.slots.set_chosen(slot);
            }
            _ => self.accept(entry.into(), true),
        }
    }

    /// Goes on over what is chosen.
    pub(super) fn advance(&mut self) {
        while let Some(run) = self.slots.run(self.slots.commit() + 1).filter(|r| r.chosen) {
            self.pass(run.last());
        }
        self.refresh_members();
    }

    /// All up to `upto` is chosen.
    pub(super) fn pass(&mut self, upto: u64) {
        let slots = self.slots.commit() + 1..=upto;
        self.close(slots.clone());
        for run in self.slots.runs(slots.clone()) {
            let some = run.slice(run.first.max(*slots.start())..=run.last().min(upto));
            some.iter().for_each(|entry| self.eras.note(entry));
        }
        self.slots.set_commit(upto);
        if let Some(lead) = &mut self.lead {
            lead.went_on = self.now;
        }
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
        let commit = self.slots.commit();
        let entries = self.slots.row(slot, commit, self.limits.append_bytes_max as u64);
        if !entries.is_empty() {
            self.send(from, Body::Chosen { commit, first: slot, entries }, WriteSeq(0));
        }
    }

    pub(super) fn on_chosen(&mut self, from: NodeId, commit: u64, entries: &Entries) {
        let before = self.slots.commit();
        if let Some(what) = entries.iter().find_map(|e| check(e, self.round).err()) {
            return self.event(Event::BadMessage { from, what });
        }
        let next = entries.first().is_some_and(|e| e.index == before + 1);
        if next && self.slots.last() == before && !self.eras.is_blank() {
            self.accept(entries.clone(), true);
            self.advance();
        } else {
            for entry in entries {
                self.learn(entry.clone());
                self.advance();
            }
        }
        self.learn_commit(commit);
        let now = self.slots.commit();
        if now > before && now < self.fetching.told {
            self.fetching.asked = Some(self.now);
            self.send(from, Body::Fetch { from: now + 1 }, WriteSeq(0));
        }
    }
}
