//! Proposals and the log's way to the followers.
//!
//! **Invariants**
//! - A proposal batch is one record and one append a follower.
//! - A leader never removes or replaces its own entries.
//! - A follower cuts its log only where an entry's term differs, never at or
//!   below its commit index.
//! - A follower's acknowledgement waits for the write of what it acknowledges;
//!   an answer to a heartbeat acknowledges nothing of the log.
//! - A commit index that a follower is told outside an append is one that it
//!   is known to hold.

use super::message::Body;
use super::{Lead, Raft, message_to};
use crate::config::Membership;
use crate::contract::{Entry, EntryKind, Output, Outputs, Proposal, Refusal, WriteSeq};
use crate::entries::Entries;
use crate::event::{Event, SnapshotReason};
use crate::parts::log::fitting;
use crate::parts::progress::{Phase, Progress};
use synod_base::{NodeId, planted};

impl Raft {
    pub(super) fn propose(&mut self, mut batch: Vec<Proposal>) {
        let why = match &self.lead {
            None => Some(self.not_leader()),
            Some(_) => self.handover.as_ref().map(|_| Refusal::Transferring),
        };
        if let Some(why) = why {
            return batch.iter().for_each(|p| self.refused(p.ticket, why));
        }
        let open = self.log.bytes(self.commit, self.log.last());
        let fit = fitting(&batch, open, self.limits.uncommitted_bytes_max as u64);
        let late = batch.split_off(fit);
        if !batch.is_empty() {
            let (index, term) = (self.log.last() + 1, self.term);
            let (tickets, entries) = Entries::propose(batch, index, term);
            self.append(entries);
            self.out.push(Output::Accepted { tickets, index, term });
        }
        if !late.is_empty() && !self.overloaded {
            let open = self.log.bytes(self.commit, self.log.last());
            self.event(Event::Overloaded { uncommitted_bytes: open });
        }
        self.overloaded = !late.is_empty();
        late.iter().for_each(|p| self.refused(p.ticket, Refusal::Overloaded));
    }

    pub(super) fn tick_leader(&mut self) {
        self.check_quorum();
        let (now, commit, term) = (self.now, self.commit, self.term);
        let Some(lead) = &mut self.lead else { return };
        for p in lead.peers.values_mut() {
            // A lost append with nothing after it is noticed by nobody else.
            if p.overdue(now, self.limits.election_ms) {
                p.probe(now);
            }
        }
        if now >= lead.next_heartbeat {
            lead.next_heartbeat = now.plus(self.limits.heartbeat_ms);
            lead.heartbeat(term, now, commit, &mut self.out);
        }
    }

    /// Sends each peer what it lacks and may be sent.
    pub(super) fn replicate(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        for (&to, p) in &mut lead.peers {
            while p.may_send(
                self.now,
                self.limits.inflight_messages_max,
                self.limits.inflight_bytes_max,
            ) {
                let prev_index = p.next() - 1;
                let replicating = p.phase() == Phase::Replicate;
                if replicating && prev_index >= self.log.last() {
                    break;
                }
                let Some(prev_term) = self.log.term(prev_index) else {
                    if p.try_start(self.log.start()) {
                        continue;
                    }
                    let why = SnapshotReason::BelowLog { next: p.next(), first: self.log.first() };
                    p.snapshot();
                    self.out.push(Output::Event(Event::SnapshotNeeded { to, why }));
                    self.out.push(Output::NeedSnapshot { to });
                    break;
                };
                let max = self.limits.append_bytes_max as u64;
                let entries = self.log.entries(prev_index + 1, self.log.last(), max);
                let last = prev_index + entries.len() as u64;
                let bytes = self.log.bytes(prev_index, last);
                p.sent(last, bytes, self.now, self.limits.heartbeat_ms);
                p.commit_sent = self.commit.min(last);
                let body = Body::Append { prev_index, prev_term, commit: self.commit, entries };
                self.out.push(message_to(self.term, to, body, WriteSeq(0)));
            }
            tell_commit(to, p, self.term, self.commit, &mut self.out);
        }
    }

    pub(super) fn advance_commit(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        if !std::mem::take(&mut lead.moved) {
            return;
        }
        let early = planted("raft: a leader counts itself before its own write");
        let (own, id) = (if early { self.log.last() } else { self.persisted }, self.id);
        let has = |peer| match peer == id {
            true => own,
            false => lead.peers.get(&peer).map_or(0, Progress::matched),
        };
        let mut reached = self.history.current().quorum_value(has);
        if planted("raft: a change needs no quorum of the old voters") {
            let voters = self.history.current().voters.clone();
            reached = crate::Membership::of_voters(voters).quorum_value(has);
        }
        // Only by an entry of the own term (figure 8).
        let own = self.log.term(reached) == Some(self.term)
            || planted("raft: an entry of an old term is committed directly");
        if reached > self.commit && own {
            self.commit = reached;
        }
    }

    pub(super) fn learn_commit(&mut self, commit: u64) {
        self.commit = self.commit.max(commit.min(self.log.last()));
    }

    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        prev_index: u64,
        prev_term: u64,
        commit: u64,
        entries: Entries,
    ) {
        if let Err(what) = self.check_append(prev_term, &entries) {
            return self.event(Event::BadMessage { from, what });
        }
        let end = prev_index.saturating_add(entries.len() as u64);
        if end <= self.commit {
            // Nothing new; what is committed is the leader's too.
            return self.acknowledge(from, self.commit);
        }
        // Below the start everything is committed, hence equal.
        if prev_index >= self.log.start() && self.log.term(prev_index) != Some(prev_term) {
            let (hint_index, hint_term) =
                self.log.agree(prev_index.min(self.log.last()), prev_term);
            let body = Body::Conflict { rejected: prev_index, hint_index, hint_term };
            return self.send(from, body, self.hard_seq);
        }
        self.take(from, &entries);
        self.learn_commit(commit.min(end));
        self.acknowledge(from, end);
    }

    pub(super) fn check_append(
        &self,
        prev_term: u64,
        entries: &[Entry],
    ) -> Result<(), &'static str> {
        let mut term = prev_term;
        for e in entries {
            if e.term < term || e.term > self.term {
                return Err("entries with impossible terms");
            }
            term = e.term;
            if e.kind == EntryKind::Config && Membership::decode_entry(e.data.clone()).is_err() {
                return Err("an unreadable configuration");
            }
        }
        Ok(())
    }

    /// Takes over the entries that the log does not have yet.
    pub(super) fn take(&mut self, leader: NodeId, entries: &Entries) {
        let held = |e: &&Entry| {
            let same = |term| term == e.term || planted("raft: a conflict is not cut off");
            e.index <= self.log.start() || self.log.term(e.index).is_some_and(same)
        };
        let new = entries.skip(entries.iter().take_while(held).count());
        let Some(first) = new.first() else { return };
        let (from, to) = (first.index, self.log.last());
        if from <= to {
            self.truncate(from);
            self.event(Event::LogTruncated { from, to, leader });
        }
        self.append(new);
    }

    fn acknowledge(&mut self, to: NodeId, matched: u64) {
        let durable = matched <= self.persisted
            || planted("raft: an append is acknowledged before it is durable");
        let after = if durable { WriteSeq(0) } else { self.log_seq };
        self.send(to, Body::Appended { matched }, after.max(self.hard_seq));
    }

    pub(super) fn on_appended(&mut self, from: NodeId, matched: u64) {
        let (start, last) = (self.log.start(), self.log.last());
        let Some(p) = self.lead.as_mut().and_then(|l| l.peers.get_mut(&from)) else { return };
        if matched > last {
            return self.event(Event::BadMessage { from, what: "acknowledges what is not there" });
        }
        let news = p.acknowledged(matched, start);
        if let Some(lead) = &mut self.lead {
            lead.moved |= news;
        }
    }

    pub(super) fn on_conflict(&mut self, from: NodeId, rejected: u64, hint: u64, hint_term: u64) {
        let agree = self.log.agree(hint, hint_term);
        let Some(p) = self.lead.as_mut().and_then(|l| l.peers.get_mut(&from)) else { return };
        // Below the retained log nobody knows; then the hint itself decides,
        // and most likely a snapshot is needed.
        let agree = if hint < self.log.start() { hint } else { agree.0 };
        p.refused(rejected, agree, self.log.start());
    }
}

/// With nothing under way to carry it, a new commit index goes by itself, so
/// that followers apply at once (reads on them wait for it).
fn tell_commit(to: NodeId, p: &mut Progress, term: u64, commit: u64, out: &mut Outputs) {
    let known = commit.min(p.matched());
    if p.phase() == Phase::Replicate && p.idle() && known > p.commit_sent {
        p.commit_sent = known;
        out.push(message_to(term, to, Body::Committed { commit: known }, WriteSeq(0)));
    }
}

impl Lead {
    /// Starts a round: what answers it says that this leader was followed after now.
    pub(super) fn heartbeat(
        &mut self,
        term: u64,
        now: synod_base::Tick,
        commit: u64,
        out: &mut Outputs,
    ) -> u64 {
        let round = self.reads.new_round(now);
        for (&to, p) in &mut self.peers {
            let commit = commit.min(p.matched());
            p.commit_sent = p.commit_sent.max(commit);
            out.push(message_to(term, to, Body::Heartbeat { commit, round }, WriteSeq(0)));
        }
        round
    }
}
