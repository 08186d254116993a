//! Phase 1: ballots, promises, the canvass before them, stickiness.
//!
//! **Invariants**
//! - One promise a round, durable before it is told; a candidate counts its own
//!   only when durable.
//! - A voter that has recently heard from a leader refuses, unless the leader
//!   itself asked the candidate to stand or *is* the candidate. To refuse a
//!   promise is always safe.
//! - A promise counts when the whole report behind it has arrived: all that was
//!   accepted above the candidate's watermark. An acceptor that has dropped some
//!   of it refuses and sends a snapshot instead.
//! - What the candidate learns to be chosen may bring members that it did not
//!   know; it needs a quorum of them too.

use super::lead::Lead;
use super::message::{Answer, Ask, Body, CHOSEN, Report};
use super::recover::Recovery;
use super::slots::Held;
use super::{Paxos, check};
use crate::contract::{Output, Refusal, Role, WriteSeq};
use crate::event::{CampaignReason, Event, SnapshotReason, StandDownReason, VoteRefusal};
use crate::parts::poll::Poll;
use synod_base::{NodeId, planted};

impl Paxos {
    pub(super) fn draw_deadline(&mut self) {
        self.watch.draw(self.now, &self.limits, &mut self.rng);
    }

    /// Whether this node by itself is a quorum.
    pub(super) fn alone(&self) -> bool {
        self.members.quorum(|id| id == self.id)
    }

    pub(super) fn may_campaign(&self) -> bool {
        self.members.is_voter(self.id) && self.writes.age(self.now) <= self.limits.disk_stall_ms
    }

    fn leader_alive(&self) -> bool {
        self.role == Role::Leader || self.watch.alive(self.now, &self.limits)
    }

    pub(super) fn tick_follower(&mut self) {
        if self.alone()
            && self.role == Role::Follower
            && self.may_campaign()
            && !self.leader_alive()
        {
            return self.campaign(CampaignReason::Alone, false);
        }
        self.tick_fetch();
        self.ask_again();
        if self.now < self.watch.deadline || self.watch.bound(self.now, &self.limits) {
            return self.retry_reads();
        }
        let early = self.watch.dropped && self.watch.leader.is_some();
        let silent = self.watch.silent_ms(self.now);
        if let Some(leader) = self.watch.leader.filter(|_| silent >= self.limits.election_ms) {
            self.event(Event::LeaderLost { leader, silent_ms: silent });
            // It may have been no more than that: not twice the wait at once.
            self.watch.note_silence(silent / 2, self.now);
            self.set_leader(None);
        }
        if !self.may_campaign() {
            return self.draw_deadline();
        }
        let why = match early {
            true => CampaignReason::LeaderDisconnected,
            false => CampaignReason::LeaderSilent,
        };
        self.campaign(why, true);
    }

    /// Asks for promises, or whether they would be given (`pre`).
    pub(super) fn campaign(&mut self, why: CampaignReason, pre: bool) {
        self.draw_deadline();
        let round = self.round + 1;
        self.event(Event::Campaigned { term: round, pre, why });
        self.poll = Some(Poll::new(round, self.id));
        self.recovery = Recovery::default();
        if pre {
            self.role = Role::PreCandidate;
        } else {
            self.role = Role::Candidate;
            (self.round, self.promised) = (round, Some(self.id));
            self.set_leader(None);
            self.hard_changed();
        }
        let transfer = why == CampaignReason::Transfer;
        for to in self.members.voters_but(self.id) {
            self.ask(to, transfer);
        }
        self.count_promises();
    }

    pub(super) fn ask(&mut self, to: NodeId, transfer: bool) {
        let round = self.round + u64::from(self.role == Role::PreCandidate);
        let ask = Ask { round, commit: self.slots.commit(), transfer };
        match self.role {
            Role::PreCandidate => self.send(to, Body::Canvass(ask), WriteSeq(0)),
            // Only once the own promise is durable: a ballot is never used twice.
            _ => self.send(to, Body::Prepare(ask), self.hard_seq),
        }
    }

    /// Whether this node would promise `from`, but for promises already given.
    fn judge(&mut self, from: NodeId, ask: &Ask) -> Result<(), VoteRefusal> {
        if !ask.transfer && self.leader_alive() && self.watch.leader != Some(from) {
            return Err(VoteRefusal::LeaderAlive);
        }
        self.judge_place(from, ask.commit + 1)
    }

    /// Whether all from `next` on is still held here. If not, what `from` must
    /// learn is gone: it needs the state.
    fn judge_place(&mut self, from: NodeId, next: u64) -> Result<(), VoteRefusal> {
        let first = self.slots.start() + 1;
        if next >= first {
            return Ok(());
        }
        self.send_snapshot(from, SnapshotReason::BelowLog { next, first });
        Err(VoteRefusal::LogBehind)
    }

    pub(super) fn on_canvass(&mut self, from: NodeId, ask: Ask) {
        let verdict = match ask.round <= self.round {
            true => Err(VoteRefusal::OldTerm),
            false => self.judge(from, &ask),
        };
        if let Err(why) = verdict {
            self.event(Event::VoteRefused { to: from, term: ask.round, pre: true, why });
        }
        let answer = Answer { round: ask.round, refused: verdict.err() };
        self.send(from, Body::CanvassAnswer(answer), self.hard_seq);
    }

    pub(super) fn on_prepare(&mut self, from: NodeId, round: u64, ask: Ask) {
        if ask.round != round {
            return self.event(Event::BadMessage { from, what: "prepare for another round" });
        }
        let verdict = match round < self.round {
            true => Err(VoteRefusal::OldTerm),
            false => self.judge(from, &ask),
        };
        let verdict = verdict.and_then(|()| {
            if round > self.round {
                self.follow(round, None, Some(StandDownReason::LaterTerm { from }));
            }
            let other = self.promised.is_some_and(|p| p != from);
            let led = self.watch.leader.is_some_and(|l| l != from);
            if other || led { Err(VoteRefusal::AlreadyVoted) } else { Ok(()) }
        });
        if let Err(why) = verdict {
            self.event(Event::VoteRefused { to: from, term: round, pre: false, why });
            let answer = Answer { round, refused: Some(why) };
            return self.send(from, Body::NoPromise(answer), self.hard_seq);
        }
        if self.promised.is_none() {
            self.promised = Some(from);
            self.hard_changed();
            self.draw_deadline();
            self.event(Event::VoteGranted { to: from, term: round });
        }
        let report = self.report(ask.commit + 1);
        self.send(from, Body::Promise(report), self.hard_seq);
    }

    /// What was accepted from `from` on, as far as one message holds it.
    fn report(&self, from: u64) -> Report {
        let max = self.limits.append_bytes_max as u64;
        let (held, next) = self.slots.range(from, self.slots.last(), max);
        let one = |s: Held| (if s.chosen { CHOSEN } else { s.ballot }, s.entry.clone());
        Report { accepted: held.into_iter().map(one).collect(), next }
    }

    pub(super) fn on_more(&mut self, from: NodeId, slot: u64) {
        if self.promised != Some(from) {
            return;
        }
        if let Err(why) = self.judge_place(from, slot) {
            // Dropped since the report began: what it brought so far is not all.
            let round = self.round;
            self.event(Event::VoteRefused { to: from, term: round, pre: false, why });
            let answer = Answer { round, refused: Some(why) };
            return self.send(from, Body::NoPromise(answer), self.hard_seq);
        }
        let report = self.report(slot);
        self.send(from, Body::Report(report), self.hard_seq);
    }

    pub(super) fn on_canvass_answer(&mut self, from: NodeId, answer: Answer) {
        let wanted = |p: &&mut Poll| p.term == answer.round;
        if self.role != Role::PreCandidate {
            return;
        }
        let Some(poll) = self.poll.as_mut().filter(wanted) else { return };
        poll.note(from, answer.refused);
        self.count_promises();
    }

    pub(super) fn on_no_promise(&mut self, from: NodeId, answer: Answer) {
        let Some(why) = answer.refused.filter(|_| answer.round == self.round) else { return };
        self.recovery.reporting.remove(&from);
        if let Some(lead) = self.lead.as_mut().filter(|l| l.first.is_none()) {
            // Without a quorum of the members that came to light since there is
            // no going on in this round: another may be free in the next.
            lead.refused.insert(from);
            let Lead { promised, refused, .. } = &**lead;
            if !self.members.quorum(|id| promised.contains(&id) || !refused.contains(&id)) {
                let refused = refused.iter().copied().collect();
                self.follow(self.round, None, Some(StandDownReason::NoPromise { refused }));
            }
            return;
        }
        if self.role == Role::Candidate {
            if let Some(poll) = &mut self.poll {
                poll.note(from, Some(why));
            }
            self.count_promises();
        }
    }

    /// A part of what a promise brings.
    pub(super) fn on_report(&mut self, from: NodeId, report: Report, promise: bool) {
        let recovering = self.lead.as_ref().is_some_and(|l| l.first.is_none());
        if self.poll.is_none() && !recovering {
            return;
        }
        // A later part without the promise itself would leave a gap; a repeated
        // promise would begin anew.
        let at = self.recovery.reporting.get(&from).copied();
        let goes_on = at.is_some() && at == report.accepted.first().map(|(_, e)| e.index);
        if promise == at.is_some() || (!promise && !goes_on) {
            return;
        }
        for (ballot, entry) in report.accepted {
            if let Err(what) = check(&entry, self.round) {
                return self.event(Event::BadMessage { from, what });
            }
            if ballot == CHOSEN && entry.index <= self.slots.commit() + super::AHEAD_MAX {
                self.learn(entry);
                self.advance();
            } else if entry.index > self.slots.commit() {
                self.recovery.note(ballot, entry);
            }
        }
        match report.next.filter(|_| !planted("paxos: a report is taken for whole too early")) {
            Some(slot) => {
                self.recovery.reporting.insert(from, slot);
                self.draw_deadline();
                self.send(from, Body::More { from: slot }, WriteSeq(0));
            }
            None => {
                self.recovery.reporting.remove(&from);
                if let Some(poll) = &mut self.poll {
                    poll.note(from, None);
                }
                if let Some(lead) = &mut self.lead {
                    lead.promised.insert(from);
                    lead.refused.remove(&from);
                }
            }
        }
        if let Some(lead) = &mut self.lead {
            lead.went_on = self.now;
        }
        self.count_promises();
    }

    pub(super) fn count_promises(&mut self) {
        let Some(poll) = &self.poll else { return };
        if planted("paxos: leads without a quorum of promises")
            && self.role == Role::Candidate
            && poll.granted.len() * 2 + 2 > self.members.all().len()
        {
            return self.recover();
        }
        let own_durable = self.role == Role::PreCandidate || self.writes.done() >= self.hard_seq;
        if own_durable && poll.won(&self.members) {
            return match self.role {
                Role::PreCandidate => self.campaign(CampaignReason::PreVoteWon, false),
                _ => self.recover(),
            };
        }
        if poll.lost(&self.members, self.watch.gone) {
            self.lose();
        }
    }

    /// The campaign cannot win: wait for the next chance.
    fn lose(&mut self) {
        let Some(poll) = self.poll.take() else { return };
        let pre = self.role == Role::PreCandidate;
        self.role = Role::Follower;
        self.recovery = Recovery::default();
        self.watch.lost(pre, self.now, &self.limits, &mut self.rng);
        let refused = poll.refused.into_iter().collect();
        self.event(Event::CampaignLost { term: poll.term, pre, refused });
    }

    /// Follows `round`, led by `leader` if known. Whatever this node was, it is
    /// no more; `why` is told if that was leader or candidate.
    pub(super) fn follow(
        &mut self,
        round: u64,
        leader: Option<NodeId>,
        why: Option<StandDownReason>,
    ) {
        let was = self.role;
        if let (Role::Leader | Role::Candidate, Some(why)) = (was, why) {
            self.event(Event::StoodDown { term: self.round, why });
        }
        self.poll = None;
        self.recovery = Recovery::default();
        self.role = Role::Follower;
        if round > self.round {
            (self.round, self.promised) = (round, None);
            self.fetching.told = 0;
            self.hard_changed();
            self.set_leader(None);
        }
        if let Some(lead) = self.lead.take() {
            self.refresh_members();
            self.set_leader(None);
            self.refuse_leader_reads(lead.reads);
        }
        if leader.is_some() {
            self.set_leader(leader);
        }
        if was != Role::Follower {
            self.draw_deadline();
        }
    }

    pub(super) fn set_leader(&mut self, leader: Option<NodeId>) {
        if !self.watch.set(leader, self.now) {
            return;
        }
        let why = if leader.is_some() { Refusal::LeaderChanged } else { Refusal::NoLeader };
        self.refuse_asked_reads(why);
        if let Some(id) = leader {
            if id != self.id {
                self.event(Event::FollowsLeader { leader: id, term: self.round });
            }
            self.settle_transfer(id);
        }
    }

    /// The leader of this round gave a sign of life.
    pub(super) fn hear_leader(&mut self, from: NodeId) {
        if self.role != Role::Follower {
            self.follow(self.round, None, None);
        }
        self.set_leader(Some(from));
        self.watch.hear(self.now);
        self.draw_deadline();
    }

    pub(super) fn on_timeout_now(&mut self) {
        if self.may_campaign() && self.role == Role::Follower {
            self.campaign(CampaignReason::Transfer, false);
        }
    }

    /// Stands down when too few voters were heard for twice the election time:
    /// a follower takes up to that long to campaign.
    pub(super) fn check_quorum(&mut self) {
        let Some(lead) = &self.lead else { return };
        let patience = 2 * self.limits.election_ms;
        let silent = |id: NodeId| {
            let heard = lead.peers.get(&id).map(|p| p.heard.max(lead.quorum_since));
            id != self.id && heard.is_none_or(|t| self.now.since(t) >= patience)
        };
        if self.members.quorum(|id| !silent(id)) {
            return;
        }
        let all = self.members.all().into_iter();
        let silent = all.filter(|&id| self.members.is_voter(id) && silent(id)).collect();
        self.follow(self.round, None, Some(StandDownReason::QuorumLost { silent }));
    }

    pub(super) fn refused(&mut self, ticket: u64, why: Refusal) {
        self.out.push(Output::Refused { ticket, why, leader: self.watch.leader });
    }

    /// What a request that only a leader can take is answered elsewhere.
    pub(super) fn not_leader(&self) -> Refusal {
        if self.watch.leader.is_some() { Refusal::NotLeader } else { Refusal::NoLeader }
    }
}
