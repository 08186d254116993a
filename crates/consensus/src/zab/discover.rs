//! Discovery: a quorum promises a new epoch, and the newest history among them
//! becomes the leader's.
//!
//! **Invariants**
//! - The leader's own promise is durable before it asks for others
//!   (LEADERINFO), so that it asks for an epoch in one life only; a follower's
//!   before it is said (ACKEPOCH).
//! - A node that hears a leader promises no other one an epoch, unless the leader
//!   itself hands over, or a quorum has promised already (then the old leader
//!   can commit nothing any more).
//! - Within an epoch a promise passes only to one whom a quorum has promised it:
//!   at most one such exists.
//! - Synchronisation begins only when no history of the promising quorum is
//!   newer than the leader's own. A newer one is fetched (the paper's way; ZooKeeper
//!   would elect again, and in a partial partition elect nobody). If its
//!   holder's log does not reach back far enough, the leader gives up this epoch, is
//!   sent the holder's state, and stands again with that.

use super::Zab;
use super::message::{Body, Rank};
use crate::contract::{Role, WriteSeq};
use crate::entries::Entries;
use crate::event::{CampaignReason, Event, StandDownReason, VoteRefusal};
use crate::parts::progress::Progress;
use crate::parts::reads::LeaderReads;
use std::collections::BTreeMap;
use synod_base::{NodeId, Tick, planted};

/// How far an epoch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Discovery,
    Synchronisation,
    Broadcast,
}

/// What only a leader has, from discovery on.
#[derive(Debug)]
pub(super) struct Lead {
    pub stage: Stage,
    why: CampaignReason,
    /// Who has promised the epoch, and what they hold.
    promised: BTreeMap<NodeId, Rank>,
    refused: BTreeMap<NodeId, VoteRefusal>,
    /// The own history, as it counts among those of the quorum.
    base: Rank,
    fetch: Option<Fetch>,
    /// End of the history that the epoch begins with.
    pub begins_after: u64,
    /// The write that makes the epoch current here.
    pub own_seq: WriteSeq,
    pub peers: BTreeMap<NodeId, Peer>,
    pub reads: LeaderReads,
    pub next_heartbeat: Tick,
    /// When to repeat what may have been lost. Reads put heartbeats off, not this.
    pub next_repeat: Tick,
    /// Something that commit depends on has moved.
    pub moved: bool,
    /// Silence counts from here on (put off when the process was starved).
    pub quorum_since: Tick,
}

/// What a leader knows of a peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// How far it is synchronised, since it last said what it holds.
    pub session: Option<Progress>,
    /// The session began with a place before its last one.
    pub trunc: bool,
    /// The epoch is current there.
    pub settled: bool,
    /// It holds everything up to here, and the epoch is current there.
    pub acked: u64,
    /// Not to be asked for a promise again before.
    pub ask_at: Tick,
    /// When NEWLEADER was last sent.
    pub told: Option<Tick>,
    pub heard: Tick,
    /// Highest round of pings that it answered.
    pub round: u64,
    /// The last membership that it knows to be active.
    pub active: u64,
    pub commit_sent: u64,
}

/// A newer history that is being fetched.
#[derive(Debug)]
struct Fetch {
    from: NodeId,
    /// What it holds.
    goal: Rank,
    /// The place that was asked for last.
    asked: (u64, u64),
    /// A common place is found: what comes follows it.
    joined: bool,
}

impl Lead {
    /// Whether an entry of the epoch is committed, so that reads and changes may go on.
    pub fn opened(&self, commit: u64) -> bool {
        self.stage == Stage::Broadcast && commit > self.begins_after
    }
}

impl Peer {
    pub fn new(now: Tick) -> Peer {
        Peer {
            session: None,
            trunc: false,
            settled: false,
            acked: 0,
            ask_at: Tick(0),
            told: None,
            heard: now,
            round: 0,
            active: 0,
            commit_sent: 0,
        }
    }
}

impl Zab {
    /// Asks for a promise of the next epoch.
    pub(super) fn discover(&mut self, why: CampaignReason) {
        self.abandon(None);
        let bumps = !planted("zab: an epoch is not bumped");
        let epoch = if bumps { self.next_epoch() } else { self.accepted.max(self.seen).max(1) };
        self.event(Event::Campaigned { term: epoch, pre: false, why });
        self.role = Role::Candidate;
        self.set_leader(None);
        (self.accepted, self.accepted_from) = (epoch, Some(self.id));
        self.hard_changed();
        self.draw_deadline();
        let peers = self.voters().all().into_iter().filter(|&id| id != self.id);
        self.lead = Some(Box::new(Lead {
            stage: Stage::Discovery,
            why,
            promised: BTreeMap::new(),
            refused: BTreeMap::new(),
            base: self.rank(),
            fetch: None,
            begins_after: 0,
            own_seq: WriteSeq(0),
            peers: peers.map(|id| (id, Peer::new(self.now))).collect(),
            reads: LeaderReads::default(),
            next_heartbeat: self.now.plus(self.limits.heartbeat_ms),
            next_repeat: self.now.plus(self.limits.heartbeat_ms),
            moved: true,
            quorum_since: self.now,
        }));
        for to in self.voters().all() {
            self.invite(to);
        }
        self.count_promises();
    }

    /// Asks a peer without a session for its promise.
    pub(super) fn invite(&mut self, to: NodeId) {
        let Some(lead) = &mut self.lead else { return };
        let won = lead.stage != Stage::Discovery;
        let transfer = lead.why == CampaignReason::Transfer;
        let Some(peer) = lead.peers.get_mut(&to) else { return };
        if won && peer.session.is_some() {
            return;
        }
        self.send(to, Body::LeaderInfo { won, transfer }, self.hard_seq);
    }

    pub(super) fn on_leader_info(&mut self, from: NodeId, epoch: u64, won: bool, transfer: bool) {
        self.seen = self.seen.max(epoch);
        let mine = epoch == self.accepted && self.accepted_from == Some(from);
        if epoch < self.accepted {
            return self.refuse_epoch(from, epoch, VoteRefusal::OldTerm);
        }
        if epoch == self.accepted && !mine && !won && self.accepted_from.is_some() {
            return self.refuse_epoch(from, epoch, VoteRefusal::AlreadyVoted);
        }
        let known = self.watch.leader == Some(from) && self.lead.is_none();
        if !mine && !won && !transfer && !known && self.leader_alive() {
            return self.refuse_epoch(from, epoch, VoteRefusal::LeaderAlive);
        }
        if self.lead.is_some() {
            self.abandon(Some(StandDownReason::LaterTerm { from }));
        }
        if !mine {
            (self.accepted, self.accepted_from) = (epoch, Some(from));
            self.hard_changed();
            self.set_leader(None);
            self.event(Event::VoteGranted { to: from, term: epoch });
        }
        self.hear_leader(from);
        // A repeated one: the leader has no session with this node.
        self.following.in_sync = false;
        self.ask_resync(from);
    }

    /// Says what this node holds, so that the leader can bring it in line.
    pub(super) fn ask_resync(&mut self, leader: NodeId) {
        let (last, pause) = (self.log.last(), self.limits.heartbeat_ms);
        let again = self
            .following
            .asked
            .is_none_or(|(at, from)| from != last || self.now.since(at) >= pause);
        if again {
            self.following.asked = Some((self.now, last));
            self.send(leader, Body::AckEpoch(self.rank()), self.all_seq());
        }
    }

    pub(super) fn on_refused(&mut self, from: NodeId, accepted: u64, asked: u64, why: VoteRefusal) {
        let Some(lead) = self.lead.as_mut().filter(|l| l.peers.contains_key(&from)) else { return };
        if asked != self.accepted {
            return;
        }
        self.seen = self.seen.max(accepted);
        match lead.stage {
            // It has accepted a later epoch: ask for one later still.
            Stage::Discovery if accepted > asked => {
                let why = lead.why;
                self.discover(why);
            }
            Stage::Discovery => {
                lead.refused.insert(from, why);
                self.count_promises();
            }
            _ if accepted > asked => self.abandon(Some(StandDownReason::LaterTerm { from })),
            // It has promised this epoch to somebody who cannot win it any more.
            _ => {
                if let Some(peer) = lead.peers.get_mut(&from) {
                    peer.session = None;
                }
                self.invite(from);
            }
        }
    }

    /// The epoch is promised, and that is what the peer holds.
    pub(super) fn on_ack_epoch(&mut self, from: NodeId, rank: Rank) {
        let Some(lead) = &mut self.lead else { return };
        if lead.stage != Stage::Discovery {
            return self.begin_session(from, rank);
        }
        lead.promised.insert(from, rank);
        lead.refused.remove(&from);
        self.count_promises();
    }

    /// Whether a quorum has promised the epoch, and who holds the newest history.
    pub(super) fn count_promises(&mut self) {
        let Some(lead) = self.lead.as_ref().filter(|l| l.stage == Stage::Discovery) else { return };
        if lead.fetch.is_some() {
            return;
        }
        let own = self.writes.done() >= self.hard_seq;
        let members = &self.members.now;
        let has = |id| if id == self.id { own } else { lead.promised.contains_key(&id) };
        if !members.quorum(has) {
            let gone = self.watch.gone;
            let may_come = |id| !lead.refused.contains_key(&id) && gone != Some(id);
            if !lead.refused.is_empty() && !members.quorum(may_come) {
                self.lose_discovery();
            }
            return;
        }
        let best = lead.promised.iter().max_by_key(|(_, rank)| **rank);
        match best {
            Some((&from, &goal))
                if goal > lead.base && !planted("zab: the newest history is not chosen") =>
            {
                self.fetch(from, goal);
            }
            _ => self.synchronise(),
        }
    }

    fn lose_discovery(&mut self) {
        let Some(lead) = &self.lead else { return };
        let refused = lead.refused.clone().into_iter().collect();
        let term = self.accepted;
        self.abandon(None);
        self.watch.lost(false, self.now, &self.limits, &mut self.rng);
        self.event(Event::CampaignLost { term, pre: false, refused });
    }

    fn fetch(&mut self, from: NodeId, goal: Rank) {
        let asked = (self.log.last(), self.log.last_term());
        self.event(Event::HistoryBehind { newest: from, last: goal.index, term: goal.term });
        if let Some(lead) = &mut self.lead {
            lead.fetch = Some(Fetch { from, goal, asked, joined: false });
        }
        self.send_fetch();
    }

    fn send_fetch(&mut self) {
        let Some(fetch) = self.lead.as_ref().and_then(|l| l.fetch.as_ref()) else { return };
        let (to, (index, term)) = (fetch.from, fetch.asked);
        self.send(to, Body::Fetch { index, term }, self.hard_seq);
    }

    /// The leader of the accepted epoch lacks what this node holds.
    pub(super) fn on_fetch(&mut self, from: NodeId, index: u64, term: u64) {
        let (prev_index, prev_term) = self.log.agree(index.min(self.log.last()), term);
        let start = (self.log.start(), self.log.start_term());
        if index < start.0 || (index == start.0 && term != start.1) {
            // What is common is not in this log any more. The leader gives up, and
            // finds what follows the state when it stands again.
            if self.snapshots.begin(from, self.now) {
                self.need_snapshot(from, index + 1);
            }
            let entries = Entries::default();
            let body = Body::History { prev_index, prev_term, entries };
            return self.send(from, body, self.all_seq());
        }
        let max = self.limits.append_bytes_max as u64;
        let entries = self.log.entries(prev_index + 1, self.log.last(), max);
        let body = Body::History { prev_index, prev_term, entries };
        self.send(from, body, self.all_seq());
    }

    pub(super) fn on_history(&mut self, from: NodeId, prev: u64, term: u64, entries: Entries) {
        let held = self.log.term(prev) == Some(term) && prev >= self.commit;
        let below = self.log.agree(prev.min(self.log.last()), term);
        let Some(fetch) = self.lead.as_mut().and_then(|l| l.fetch.as_mut()) else { return };
        if fetch.from != from {
            return;
        }
        // Its log may reach back no further than that, and less by and by.
        if prev > fetch.asked.0 || (!fetch.joined && !held && below >= fetch.asked) {
            if let Some(lead) = &mut self.lead {
                lead.refused.insert(from, VoteRefusal::LogBehind);
            }
            return self.lose_discovery();
        }
        if !fetch.joined {
            if !held {
                fetch.asked = below;
                return self.send_fetch();
            }
            fetch.joined = true;
            if prev < self.log.last() {
                self.truncate(prev + 1, from);
            }
        }
        self.draw_deadline();
        if let Err(what) = self.take(prev, entries) {
            return self.event(Event::BadMessage { from, what });
        }
        self.refresh_members(false);
        self.go_on_fetching();
    }

    /// The whole history is here, or its next part is asked for.
    fn go_on_fetching(&mut self) {
        let end = (self.log.last(), self.log.last_term());
        let Some(lead) = &mut self.lead else { return };
        let Some(fetch) = &mut lead.fetch else { return };
        if end == (fetch.goal.index, fetch.goal.term) {
            lead.base = fetch.goal;
            lead.fetch = None;
            self.event(Event::HistoryTaken { upto: end.0 });
            return self.count_promises();
        }
        if fetch.asked != end {
            fetch.asked = end;
            self.send_fetch();
        }
    }

    pub(super) fn tick_discovery(&mut self) {
        let (now, pause) = (self.now, self.limits.heartbeat_ms);
        if self.writes.done() < self.hard_seq {
            // The own disk is slow: beginning again would only wait for it anew.
            return self.draw_deadline();
        }
        if now >= self.watch.deadline {
            return self.lose_discovery();
        }
        let Some(lead) = self.lead.as_mut().filter(|l| now >= l.next_heartbeat) else { return };
        lead.next_heartbeat = now.plus(pause);
        let answered =
            |id: &NodeId| lead.promised.contains_key(id) || lead.refused.contains_key(id);
        let silent: Vec<NodeId> = lead.peers.keys().filter(|id| !answered(id)).copied().collect();
        silent.into_iter().for_each(|id| self.invite(id));
        self.send_fetch();
    }

    /// What the promising quorum holds, and the leader now too, is what the
    /// epoch begins with.
    fn synchronise(&mut self) {
        let (now, last) = (self.now, self.log.last());
        self.current = self.accepted;
        self.hard_changed();
        let own_seq = self.all_seq();
        let Some(lead) = &mut self.lead else { return };
        lead.stage = Stage::Synchronisation;
        lead.begins_after = last;
        lead.own_seq = own_seq;
        lead.quorum_since = now;
        lead.next_heartbeat = now.plus(self.limits.heartbeat_ms);
        lead.next_repeat = lead.next_heartbeat;
        let promised = std::mem::take(&mut lead.promised);
        let silent: Vec<NodeId> =
            lead.peers.keys().filter(|id| !promised.contains_key(id)).copied().collect();
        for (to, rank) in promised {
            self.begin_session(to, rank);
        }
        silent.into_iter().for_each(|to| self.invite(to));
        self.count_settled();
    }
}
