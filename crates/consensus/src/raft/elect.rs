//! Elections: terms, votes, pre-votes, stickiness, check-quorum.
//!
//! **Invariants**
//! - One vote a term, durable before it is sent; a candidate counts its own
//!   only when durable.
//! - A voter that has recently heard from a leader refuses both votes and
//!   pre-votes and keeps its term, unless the leader itself asked the
//!   candidate to stand (that rides in the request) or *is* the candidate.
//!   "Recently" ends when the voter's own connection to the leader drops, but
//!   not with lease reads, whose promise it would break.
//! - Only a voter whose journal finishes its writes campaigns.
//! - Whatever a node believes itself to be, it answers vote requests: its
//!   configuration may be older than the candidate's.

use super::message::{Answer, Ask, Body};
use super::{Lead, Raft};
use crate::contract::{EntryKind, Output, Refusal, Role, WriteSeq};
use crate::event::{CampaignReason, Event, StandDownReason, VoteRefusal};
use crate::parts::poll::Poll;
use crate::parts::progress::Progress;
use crate::parts::reads::LeaderReads;
use bytes::Bytes;
use synod_base::{NodeId, planted};

impl Raft {
    pub(super) fn draw_deadline(&mut self) {
        self.watch.draw(self.now, &self.limits, &mut self.rng);
    }

    /// Whether this node by itself is a quorum.
    pub(super) fn alone(&self) -> bool {
        self.history.current().quorum(|id| id == self.id)
    }

    /// One whose removal is in its log but not known to be committed still
    /// campaigns: it may be the only one that holds that entry, and then the
    /// others, with shorter logs, can never win without it (thesis 4.2.2).
    pub(super) fn may_campaign(&self) -> bool {
        let voter = self.history.current().is_voter(self.id)
            || self.history.at(self.commit).is_voter(self.id);
        voter && self.write_age() <= self.limits.disk_stall_ms
    }

    fn leader_alive(&self) -> bool {
        self.role == Role::Leader || self.watch.alive(self.now, &self.limits)
    }

    pub(super) fn tick_follower(&mut self) {
        // One that has just become the only voter keeps what it promised the leader
        // (with leases), who is about to go.
        if self.alone()
            && self.role == Role::Follower
            && self.may_campaign()
            && !self.leader_alive()
        {
            return self.campaign(CampaignReason::Alone, false);
        }
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

    /// Asks for votes, or whether they would be given (`pre`).
    pub(super) fn campaign(&mut self, why: CampaignReason, pre: bool) {
        self.draw_deadline();
        let term = self.term + 1;
        self.event(Event::Campaigned { term, pre, why });
        self.poll = Some(Poll::new(term, self.id));
        self.lender = None;
        if pre {
            self.role = Role::PreCandidate;
        } else {
            self.role = Role::Candidate;
            (self.term, self.vote) = (term, Some(self.id));
            self.set_leader(None);
            self.hard_changed();
        }
        let ask = Ask {
            term,
            last_index: self.log.last(),
            last_term: self.log.last_term(),
            transfer: why == CampaignReason::Transfer,
        };
        // A vote is asked for only when the own one is durable: a restart must
        // not stand twice in one term with different logs.
        let after = if pre { WriteSeq(0) } else { self.hard_seq };
        for to in self.history.current().voters_but(self.id) {
            let body = if pre { Body::PreVote(ask) } else { Body::Vote(ask) };
            self.send(to, body, after);
        }
        self.count_votes();
    }

    /// Whether this node would vote for `from`, but for the vote already given.
    fn judge(&self, from: NodeId, ask: &Ask) -> Result<(), VoteRefusal> {
        if !ask.transfer && self.leader_alive() && self.watch.leader != Some(from) {
            return Err(VoteRefusal::LeaderAlive);
        }
        if (ask.last_term, ask.last_index) < (self.log.last_term(), self.log.last()) {
            return Err(VoteRefusal::LogBehind);
        }
        Ok(())
    }

    pub(super) fn on_pre_vote(&mut self, from: NodeId, _term: u64, ask: Ask) {
        let verdict =
            if ask.term <= self.term { Err(VoteRefusal::OldTerm) } else { self.judge(from, &ask) };
        if let Err(why) = verdict {
            self.event(Event::VoteRefused { to: from, term: ask.term, pre: true, why });
        }
        // Our term rides along: one whose term is over catches up by it.
        let answer = Answer { term: ask.term, refused: verdict.err() };
        self.send(from, Body::PreVoteAnswer(answer), self.hard_seq);
    }

    pub(super) fn on_vote(&mut self, from: NodeId, term: u64, ask: Ask) {
        if ask.term != term {
            return self.event(Event::BadMessage { from, what: "vote for another term" });
        }
        let mut verdict = Ok(());
        if term < self.term {
            verdict = Err(VoteRefusal::OldTerm);
        } else if !ask.transfer && self.leader_alive() && self.watch.leader != Some(from) {
            verdict = Err(VoteRefusal::LeaderAlive);
        } else {
            if term > self.term {
                self.follow(term, None, Some(StandDownReason::LaterTerm { from }));
            }
            let taken = self.vote.is_some_and(|v| v != from) || self.watch.leader.is_some();
            if taken {
                verdict = Err(VoteRefusal::AlreadyVoted);
            } else if self.vote.is_none() && !planted("raft: any log gets a vote") {
                verdict = self.judge(from, &ask);
            }
        }
        match verdict {
            Ok(()) if self.vote.is_none() => {
                self.vote = Some(from);
                self.hard_changed();
                self.draw_deadline();
                self.event(Event::VoteGranted { to: from, term });
            }
            Ok(()) => {}
            Err(why) => self.event(Event::VoteRefused { to: from, term, pre: false, why }),
        }
        self.send(from, Body::VoteAnswer(Answer { term, refused: verdict.err() }), self.hard_seq);
    }

    pub(super) fn on_pre_vote_answer(&mut self, from: NodeId, answer: Answer) {
        let behind = answer.refused == Some(VoteRefusal::LogBehind);
        if behind && self.poll.as_ref().is_some_and(|p| p.term == answer.term) {
            self.borrow_from(from);
        }
        self.note_answer(Role::PreCandidate, from, answer);
    }

    pub(super) fn on_vote_answer(&mut self, from: NodeId, answer: Answer) {
        self.note_answer(Role::Candidate, from, answer);
    }

    fn note_answer(&mut self, role: Role, from: NodeId, answer: Answer) {
        let wanted = self.poll.as_mut().filter(|p| p.term == answer.term && self.role == role);
        let Some(poll) = wanted else { return };
        poll.note(from, answer.refused);
        self.count_votes();
    }

    pub(super) fn count_votes(&mut self) {
        let Some(poll) = &self.poll else { return };
        let members = self.history.current();
        if planted("raft: leads without a quorum of votes")
            && poll.granted.len() * 2 + 2 > members.all().len()
            && self.role == Role::Candidate
        {
            return self.lead();
        }
        let own_durable = self.role == Role::PreCandidate || self.writes.done() >= self.hard_seq;
        if own_durable && poll.won(members) {
            return match self.role {
                Role::PreCandidate => self.campaign(CampaignReason::PreVoteWon, false),
                _ => self.lead(),
            };
        }
        if poll.lost(members, self.watch.gone) {
            self.lose();
        }
    }

    /// The campaign cannot win: wait for the next chance.
    fn lose(&mut self) {
        let Some(poll) = self.poll.take() else { return };
        let pre = self.role == Role::PreCandidate;
        self.role = Role::Follower;
        self.watch.lost(pre, self.now, &self.limits, &mut self.rng);
        let refused = poll.refused.into_iter().collect();
        self.event(Event::CampaignLost { term: poll.term, pre, refused });
    }

    fn lead(&mut self) {
        self.poll = None;
        self.role = Role::Leader;
        let last = self.log.last();
        let peers = self.history.current().all().into_iter().filter(|&id| id != self.id);
        let peers = peers.map(|id| (id, Progress::new(last, self.now))).collect();
        self.lead = Some(Box::new(Lead {
            first: last + 1,
            peers,
            reads: LeaderReads::default(),
            next_heartbeat: self.now.plus(self.limits.heartbeat_ms),
            moved: true,
            quorum_since: self.now,
        }));
        self.set_leader(Some(self.id));
        self.event(Event::BecameLeader { term: self.term, index: last + 1 });
        self.append_own(EntryKind::Noop, Bytes::new());
    }

    /// Follows `term`, led by `leader` if known. Whatever this node was, it is
    /// no more; `why` is told if that was leader or candidate.
    pub(super) fn follow(
        &mut self,
        term: u64,
        leader: Option<NodeId>,
        why: Option<StandDownReason>,
    ) {
        let was = self.role;
        if let (Role::Leader | Role::Candidate, Some(why)) = (was, why) {
            self.event(Event::StoodDown { term: self.term, why });
        }
        self.poll = None;
        self.role = Role::Follower;
        if term > self.term {
            (self.term, self.vote) = (term, None);
            self.hard_changed();
            self.set_leader(None);
        }
        if let Some(lead) = self.lead.take() {
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
                self.event(Event::FollowsLeader { leader: id, term: self.term });
            }
            self.settle_transfer(id);
        }
    }

    /// The leader of this term gave a sign of life.
    pub(super) fn hear_leader(&mut self, from: NodeId) {
        if self.role != Role::Follower {
            self.follow(self.term, None, None);
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
    /// a follower takes up to that long to campaign, so that a leader which
    /// stood down earlier would leave the cell to nobody.
    pub(super) fn check_quorum(&mut self) {
        let Some(lead) = &self.lead else { return };
        let patience = 2 * self.limits.election_ms;
        let silent = |id: NodeId| {
            let heard = lead.peers.get(&id).map(|p| p.heard.max(lead.quorum_since));
            id != self.id && heard.is_none_or(|t| self.now.since(t) >= patience)
        };
        let members = self.history.current();
        if members.quorum(|id| !silent(id)) {
            return;
        }
        let silent = members.all().into_iter().filter(|&id| members.is_voter(id) && silent(id));
        let why = StandDownReason::QuorumLost { silent: silent.collect() };
        self.follow(self.term, None, Some(why));
    }

    pub(super) fn refused(&mut self, ticket: u64, why: Refusal) {
        self.out.push(Output::Refused { ticket, why, leader: self.watch.leader });
    }

    /// What a request that only a leader can take is answered elsewhere.
    pub(super) fn not_leader(&self) -> Refusal {
        if self.watch.leader.is_some() { Refusal::NotLeader } else { Refusal::NoLeader }
    }
}
