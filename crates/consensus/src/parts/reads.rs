//! Reads that wait for a barrier, on a leader and on those who ask it.
//!
//! **Invariants**
//! - Rounds grow; a node leads a ballot only once, so (ballot, round) names one
//!   round. An answer to an earlier round never confirms a later read (etcd #20418).
//! - A round confirms only reads that came before it began, at the commit index
//!   of its beginning. At most one round is open.
//! - A lease counts from when its round was *sent*.

use crate::contract::Limits;
use std::collections::{BTreeMap, VecDeque};
use synod_base::{NodeId, Tick};

/// Rounds whose sending time is remembered for the lease.
const ROUNDS_REMEMBERED_MAX: usize = 64;

/// Reads that share a barrier.
#[derive(Debug, Default)]
pub struct Batch {
    /// This node's own.
    pub tickets: Vec<u64>,
    /// Followers' batches, the newest of each.
    pub peers: BTreeMap<NodeId, u64>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.tickets.is_empty() && self.peers.is_empty()
    }
}

#[derive(Debug)]
struct Open {
    round: u64,
    index: u64,
    batch: Batch,
}

/// Reads on a leader.
#[derive(Debug, Default)]
pub struct LeaderReads {
    waiting: Batch,
    open: Option<Open>,
    round: u64,
    sent: VecDeque<(u64, Tick)>,
    /// Not in this ballot any more.
    pub lease_void: bool,
}

impl LeaderReads {
    pub fn new_round(&mut self, now: Tick) -> u64 {
        self.round += 1;
        if self.sent.len() == ROUNDS_REMEMBERED_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.round, now));
        self.round
    }

    /// The newest round.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Takes a read of this node's own, unless `max` of them wait.
    pub fn push(&mut self, ticket: u64, max: usize) -> bool {
        let open = self.open.as_ref().map_or(0, |o| o.batch.tickets.len());
        let room = self.waiting.tickets.len() + open < max;
        if room {
            self.waiting.tickets.push(ticket);
        }
        room
    }

    /// A follower has one batch open; a repeated ask replaces the first.
    pub fn push_peer(&mut self, from: NodeId, batch: u64) {
        self.waiting.peers.insert(from, batch);
    }

    /// Whether nobody waits for anything.
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.waiting.is_empty()
    }

    /// What waits for a round, if one may begin.
    pub fn take(&mut self) -> Option<Batch> {
        let ready = self.open.is_none() && !self.waiting.is_empty();
        ready.then(|| std::mem::take(&mut self.waiting))
    }

    /// `batch` waits for `round`, begun at commit index `index`.
    pub fn begin(&mut self, round: u64, index: u64, batch: Batch) {
        self.open = Some(Open { round, index, batch });
    }

    /// The open round, if `confirmed` says so of its number, and its index.
    pub fn confirmed(&mut self, confirmed: impl Fn(u64) -> bool) -> Option<(Batch, u64)> {
        let open = self.open.take_if(|o| confirmed(o.round))?;
        Some((open.batch, open.index))
    }

    /// Whether nobody else can lead yet, a quorum having answered `round`.
    pub fn lease_holds(&self, round: u64, now: Tick, limits: &Limits) -> bool {
        let sent = self.sent.iter().rev().find(|(r, _)| *r <= round);
        let percent = 100u64.saturating_sub(limits.lease_drift_percent);
        let ms = limits.election_ms * percent / 100;
        limits.lease_reads && !self.lease_void && sent.is_some_and(|&(_, at)| now.since(at) < ms)
    }

    /// All that still wait.
    pub fn into_batches(self) -> impl Iterator<Item = Batch> {
        self.open.map(|o| o.batch).into_iter().chain([self.waiting])
    }
}

/// Reads on a follower, which asks the leader.
#[derive(Debug, Default)]
pub struct AskedReads {
    waiting: Vec<u64>,
    asked: Option<Asked>,
    batch: u64,
}

#[derive(Debug)]
struct Asked {
    batch: u64,
    tickets: Vec<u64>,
    at: Tick,
}

impl AskedReads {
    /// Batches of this life count from `first`.
    pub fn new(first: u64) -> AskedReads {
        AskedReads { batch: first, ..AskedReads::default() }
    }

    /// Takes a read, unless `max` of them wait.
    pub fn push(&mut self, ticket: u64, max: usize) -> bool {
        let asked = self.asked.as_ref().map_or(0, |a| a.tickets.len());
        let room = self.waiting.len() + asked < max;
        if room {
            self.waiting.push(ticket);
        }
        room
    }

    /// A batch to ask the leader for, if there is something to ask.
    pub fn ask(&mut self, now: Tick) -> Option<u64> {
        if self.asked.is_some() || self.waiting.is_empty() {
            return None;
        }
        let tickets = std::mem::take(&mut self.waiting);
        self.batch += 1;
        self.asked = Some(Asked { batch: self.batch, tickets, at: now });
        Some(self.batch)
    }

    /// The batch to ask for again, if its answer is overdue.
    pub fn retry(&mut self, now: Tick, patience_ms: u64) -> Option<u64> {
        let asked = self.asked.as_mut().filter(|a| now.since(a.at) >= patience_ms)?;
        asked.at = now;
        Some(asked.batch)
    }

    /// The reads of `batch`, if it is the one that was asked for.
    pub fn answered(&mut self, batch: u64) -> Option<Vec<u64>> {
        Some(self.asked.take_if(|a| a.batch == batch)?.tickets)
    }

    /// All that wait.
    pub fn take(&mut self) -> Vec<u64> {
        let mut tickets = self.asked.take().map_or(Vec::new(), |a| a.tickets);
        tickets.append(&mut self.waiting);
        tickets
    }
}
