//! Leader election: who should lead, and when to look for somebody.
//!
//! Fast leader election as in ZooKeeper: those who look tell each other their
//! histories and for whom they are, in numbered rounds, and are for the one with
//! the newest (`current`, last zxid); among equals whoever looked first, then
//! the greater id. Two differences make it find a leader in a partial partition
//! (OmniPaxos, EuroSys'23): a node is only for one that it hears *itself*, and only
//! for one that reaches a quorum, both ways. Of those the newest one is heard by
//! a quorum, which agrees on it. If its history is not the newest after all,
//! discovery brings it there.
//!
//! **Invariants**
//! - Nothing here is durable, and nothing depends on it for safety: it is this
//!   protocol's pre-vote. A promise is asked for only after it is won.
//! - A node that has recently heard its leader refuses, so one that returns or
//!   is half cut off disturbs nobody. "Recently" ends when the own connection to
//!   the leader drops, but not with lease reads, whose promise it would break.
//! - Only a voter whose journal finishes its writes is for itself. Everybody
//!   answers: the asker's membership may be newer.

use super::message::{Body, Look};
use super::{Following, Zab};
use crate::contract::{Refusal, Role, WriteSeq};
use crate::event::{CampaignReason, Event, StandDownReason, VoteRefusal};
use crate::parts::progress::Phase;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use synod_base::{NodeId, Tick};

/// An election as this node sees it.
#[derive(Debug)]
pub(super) struct Looking {
    round: u64,
    seq: u64,
    joined: bool,
    /// The newest notification of each in this round.
    heard: BTreeMap<NodeId, Look>,
    refused: BTreeMap<NodeId, VoteRefusal>,
    /// In touch with a quorum, both ways.
    reach: bool,
    vote: Option<NodeId>,
    next_send: Tick,
}

impl Zab {
    pub(super) fn draw_deadline(&mut self) {
        self.watch.draw(self.now, &self.limits, &mut self.rng);
    }

    /// Whether this node by itself is a quorum.
    pub(super) fn alone(&self) -> bool {
        self.voters().quorum(|id| id == self.id)
    }

    pub(super) fn may_campaign(&self) -> bool {
        self.voters().is_voter(self.id) && self.write_age() <= self.limits.disk_stall_ms
    }

    pub(super) fn leader_alive(&self) -> bool {
        self.role == Role::Leader || self.watch.alive(self.now, &self.limits)
    }

    pub(super) fn tick_follower(&mut self) {
        // Not before what a leader of others was promised has ended: it may answer
        // reads on the strength of that.
        if self.alone() && self.looking.is_none() && self.may_campaign() && !self.leader_alive() {
            return self.discover(CampaignReason::Alone);
        }
        if self.now < self.watch.deadline || self.watch.bound(self.now, &self.limits) {
            self.retry_reads();
            return self.tick_looking();
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
        self.look(why, self.round + 1);
    }

    /// Looks for a leader, in that round.
    fn look(&mut self, why: CampaignReason, round: u64) {
        self.draw_deadline();
        self.role = Role::PreCandidate;
        self.event(Event::Campaigned { term: self.next_epoch(), pre: true, why });
        self.enter_round(round, why == CampaignReason::PeerLooks);
        self.notify_all();
        self.count_looks();
    }

    fn notify_all(&mut self) {
        for to in self.voters().voters_but(self.id) {
            self.notify(to);
        }
    }

    fn enter_round(&mut self, round: u64, joined: bool) {
        self.round = round;
        self.looking = Some(Looking {
            round,
            seq: 0,
            joined,
            heard: BTreeMap::new(),
            refused: BTreeMap::new(),
            reach: false,
            vote: None,
            next_send: self.now.plus(self.limits.heartbeat_ms),
        });
    }

    /// Greater than any that is known to be accepted anywhere.
    pub(super) fn next_epoch(&self) -> u64 {
        self.accepted.max(self.seen) + 1
    }

    fn notify(&mut self, to: NodeId) {
        let rank = self.rank();
        let Some(l) = &mut self.looking else { return };
        l.seq += 1;
        let look = Look {
            round: l.round,
            seq: l.seq,
            rank,
            joined: l.joined,
            reach: l.reach,
            hears_you: l.heard.contains_key(&to),
            vote: l.vote,
        };
        self.send(to, Body::Look(look), WriteSeq(0));
    }

    /// Repeats what may have been lost.
    fn tick_looking(&mut self) {
        let (now, pause) = (self.now, self.limits.heartbeat_ms);
        let Some(l) = self.looking.as_mut().filter(|l| now >= l.next_send) else { return };
        l.next_send = now.plus(pause);
        let vote = l.vote;
        let silent = |l: &Looking, id: &NodeId| {
            let said = l.heard.get(id);
            // Also the chosen one, who may have missed that it is.
            !l.refused.contains_key(id) && (said.is_none_or(|s| !s.hears_you) || vote == Some(*id))
        };
        let mut to = self.voters().voters_but(self.id);
        let Some(l) = &self.looking else { return };
        to.retain(|id| silent(l, id));
        to.into_iter().for_each(|id| self.notify(id));
    }

    pub(super) fn on_look(&mut self, from: NodeId, accepted: u64, look: Look) {
        self.seen = self.seen.max(accepted);
        let led = self.watch.leader == Some(from) && self.lead.is_none();
        if led && accepted >= self.accepted {
            // It does not lead any more; whoever waited for it need not.
            self.set_leader(None);
        }
        if self.leader_alive() {
            return self.refuse_look(from, look.round);
        }
        if self.lead.is_some() {
            // It is asked for its promise already, and again with each heartbeat.
            return;
        }
        let begins = self.looking.is_none();
        if begins {
            if !self.may_campaign() {
                return self.support(from, look);
            }
            let (term, why) = (self.next_epoch(), CampaignReason::PeerLooks);
            self.event(Event::Campaigned { term, pre: true, why });
            self.draw_deadline();
            self.role = Role::PreCandidate;
            self.enter_round(look.round.max(self.round), true);
        }
        let Some(l) = &mut self.looking else { return };
        if look.round > l.round {
            self.enter_round(look.round, true);
        }
        let Some(l) = &mut self.looking else { return };
        if look.round == l.round {
            self.note_look(from, look);
        } else {
            self.notify(from);
        }
        if begins {
            self.notify_all();
        }
        self.count_looks();
    }

    /// A notification of the present round.
    fn note_look(&mut self, from: NodeId, look: Look) {
        let Some(l) = &mut self.looking else { return };
        let before = l.heard.get(&from).map(|known| known.seq);
        if before.is_some_and(|seq| seq >= look.seq) {
            return;
        }
        l.heard.insert(from, look);
        l.refused.remove(&from);
        // The first one of a round leads to notifications of everybody anyway.
        if l.seq > 0 && (before.is_none() || !look.hears_you) {
            self.notify(from);
        }
    }

    /// A leader is alive: there is no need to look.
    fn refuse_look(&mut self, from: NodeId, round: u64) {
        let (term, why) = (self.next_epoch(), VoteRefusal::LeaderAlive);
        self.event(Event::VoteRefused { to: from, term, pre: true, why });
        self.send(from, Body::LookRefused { round }, WriteSeq(0));
        if let Some(peer) = self.lead.as_mut().and_then(|l| l.peers.get_mut(&from)) {
            // It has lost its leader, and so the session, unless it gets a snapshot.
            peer.session.take_if(|s| s.phase() != Phase::Snapshot);
            self.invite(from);
        }
    }

    /// One that cannot lead, or does not know that it counts, is for whoever asks.
    fn support(&mut self, from: NodeId, asked: Look) {
        if asked.hears_you {
            // An answer itself; answering it would never end.
            return;
        }
        let look = Look {
            rank: self.rank(),
            joined: true,
            reach: false,
            hears_you: true,
            vote: Some(from),
            ..asked
        };
        self.send(from, Body::Look(look), WriteSeq(0));
    }

    pub(super) fn on_look_refused(&mut self, from: NodeId, accepted: u64, round: u64) {
        self.seen = self.seen.max(accepted);
        let Some(l) = self.looking.as_mut().filter(|l| l.round == round) else { return };
        l.refused.insert(from, VoteRefusal::LeaderAlive);
        let (refused, gone) = (&l.refused, self.watch.gone);
        let may_come = |id| !refused.contains_key(&id) && gone != Some(id);
        if self.members.now.quorum(may_come) {
            return;
        }
        let refused = l.refused.clone().into_iter().collect();
        self.looking = None;
        self.role = Role::Follower;
        self.watch.lost(true, self.now, &self.limits, &mut self.rng);
        self.event(Event::CampaignLost { term: self.next_epoch(), pre: true, refused });
    }

    /// Whom to be for, and whether this node is chosen.
    fn count_looks(&mut self) {
        let (id, own) = (self.id, self.rank());
        let able = self.may_campaign();
        let Some(l) = &mut self.looking else { return };
        let (heard, members) = (&l.heard, &self.members.now);
        let reach = able
            && members.quorum(|of| of == id || heard.get(&of).is_some_and(|look| look.hears_you));
        let others = heard.iter().filter(|(_, look)| look.reach);
        let others = others.map(|(&of, look)| (look.rank, Reverse(look.joined), of));
        let mine = reach.then_some((own, Reverse(l.joined), id));
        let vote = others.chain(mine).max().map(|(_, _, best)| best);
        let won = vote == Some(id)
            && members.quorum(|of| of == id || heard.get(&of).is_some_and(|k| k.vote == Some(id)));
        if won {
            return self.discover(CampaignReason::PreVoteWon);
        }
        if (vote, reach) != (l.vote, l.reach) {
            (l.vote, l.reach) = (vote, reach);
            self.notify_all();
        }
    }

    /// Whatever this node was, it follows or waits now; `why` is told if it led
    /// or was about to.
    pub(super) fn abandon(&mut self, why: Option<StandDownReason>) {
        let was = self.role;
        self.looking = None;
        self.role = Role::Follower;
        if let Some(lead) = self.lead.take() {
            if let Some(why) = why {
                self.event(Event::StoodDown { term: self.accepted, why });
            }
            self.watch.set(None, self.now);
            self.following = Following::default();
            self.refuse_leader_reads(lead.reads);
        }
        if was != Role::Follower {
            self.draw_deadline();
        }
    }

    /// Waits for `leader`, who is not known to have a quorum yet.
    pub(super) fn set_leader(&mut self, leader: Option<NodeId>) {
        if !self.watch.set(leader, self.now) {
            return;
        }
        self.following = Following::default();
        let why = if leader.is_some() { Refusal::LeaderChanged } else { Refusal::NoLeader };
        self.refuse_asked_reads(why);
    }

    /// The leader whose epoch this node has accepted gave a sign of life.
    pub(super) fn hear_leader(&mut self, from: NodeId) {
        if self.role != Role::Follower {
            self.abandon(None);
        }
        self.set_leader(Some(from));
        self.watch.hear(self.now);
        self.draw_deadline();
    }

    /// A quorum has acknowledged the epoch of the leader that this node follows.
    pub(super) fn epoch_established(&mut self, leader: NodeId) {
        if self.following.established {
            return;
        }
        self.following.established = true;
        self.event(Event::FollowsLeader { leader, term: self.accepted });
        self.settle_transfer(leader);
    }

    pub(super) fn on_take_over(&mut self) {
        if self.may_campaign() && self.role == Role::Follower {
            self.discover(CampaignReason::Transfer);
        }
    }

    pub(super) fn refused(&mut self, ticket: u64, why: Refusal) {
        let leader = self.leader();
        self.out.push(crate::contract::Output::Refused { ticket, why, leader });
    }

    /// What a request that only a leader can take is answered elsewhere.
    pub(super) fn not_leader(&self) -> Refusal {
        if self.leader().is_some() { Refusal::NotLeader } else { Refusal::NoLeader }
    }

    /// Refuses what a leader says, or asks for, in `asked`.
    pub(super) fn refuse_epoch(&mut self, to: NodeId, asked: u64, why: VoteRefusal) {
        self.event(Event::VoteRefused { to, term: asked, pre: false, why });
        self.send(to, Body::Refused { asked, why }, self.hard_seq);
    }
}
