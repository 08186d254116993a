//! Whom a node holds for the leader, and how long it waits for a sign of life.

use crate::contract::Limits;
use synod_base::{NodeId, Rng, Tick};

/// Early retries of an election after the leader's connection dropped.
const EAGER: u8 = 3;

/// One node's view of the leader.
#[derive(Debug)]
pub struct Watch {
    pub leader: Option<NodeId>,
    /// When the leader was last heard; `None` if never in this ballot.
    pub heard: Option<Tick>,
    /// The connection to the leader dropped since.
    pub dropped: bool,
    /// The leader whose connection dropped: nobody waits for its vote.
    pub gone: Option<NodeId>,
    /// Early retries of the election that are left after a drop.
    pub eager: u8,
    /// When to stand for election.
    pub deadline: Tick,
    started: Tick,
}

impl Watch {
    pub fn new(now: Tick) -> Watch {
        Watch {
            leader: None,
            heard: None,
            dropped: false,
            gone: None,
            eager: 0,
            deadline: now,
            started: now,
        }
    }

    /// A full time-out, drawn anew.
    pub fn draw(&mut self, now: Tick, limits: &Limits, rng: &mut Rng) {
        let ms = limits.election_ms;
        self.deadline = now.plus(ms + rng.below(ms));
    }

    /// Whether a vote for another would disturb the leader that this node
    /// follows (or, with leases, break what it promised).
    pub fn alive(&self, now: Tick, limits: &Limits) -> bool {
        let recent = |since: Tick| now.since(since) < limits.election_ms;
        if limits.lease_reads {
            // This node may have promised a lease just before it restarted.
            return recent(self.heard.unwrap_or(self.started));
        }
        self.leader.is_some() && !self.dropped && self.heard.is_some_and(recent)
    }

    /// How long nothing was heard, in milliseconds.
    pub fn silent_ms(&self, now: Tick) -> u64 {
        self.heard.map_or(u64::MAX, |t| now.since(t))
    }

    /// True if that is news.
    pub fn set(&mut self, leader: Option<NodeId>, now: Tick) -> bool {
        if self.leader == leader {
            return false;
        }
        self.leader = leader;
        self.heard = leader.map(|_| now).or(self.heard);
        self.dropped = false;
        if leader.is_some() {
            (self.eager, self.gone) = (0, None);
        }
        true
    }

    /// The leader gave a sign of life.
    pub fn hear(&mut self, now: Tick) {
        self.heard = Some(now);
        (self.dropped, self.gone) = (false, None);
    }

    /// The connection to `peer` dropped: if it leads, there is no need to wait
    /// for a full time-out.
    pub fn disconnected(&mut self, peer: NodeId, now: Tick, limits: &Limits, rng: &mut Rng) {
        if self.leader != Some(peer) || self.dropped {
            return;
        }
        self.dropped = true;
        self.gone = Some(peer);
        self.eager = EAGER;
        let early = now.plus(rng.below(limits.heartbeat_ms.max(1)));
        self.deadline = self.deadline.min(early);
    }

    /// A campaign was lost. After a split vote, or while others have yet to see
    /// that the leader's connection dropped, a short wait costs less than a
    /// full time-out.
    pub fn lost(&mut self, pre: bool, now: Tick, limits: &Limits, rng: &mut Rng) {
        if self.eager > 0 && (self.dropped || !pre) {
            self.eager -= 1;
            let hb = limits.heartbeat_ms.max(1);
            self.deadline = now.plus(hb / 2 + rng.below(2 * hb));
        } else {
            self.draw(now, limits, rng);
        }
    }
}
