//! What a leader knows of one peer.
//!
//! **Invariants**
//! - `matched < next` (etcd-io/raft #149, raft-rs #557), asserted by every transition.
//! - `matched` only grows, and only by an acknowledgement of this term.
//! - What is in flight is bounded in messages and in bytes.

use std::collections::VecDeque;
use synod_base::Tick;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It is not known where the logs agree: one append at a time. The time is
    /// when the next may go (a lost probe is repeated).
    Probe { quiet_until: Tick },
    /// Appends flow without waiting.
    Replicate,
    /// It needs a snapshot; nothing is sent until the stream ends.
    Snapshot,
}

#[derive(Debug)]
struct Flight {
    last: u64,
    bytes: u64,
    sent: Tick,
}

#[derive(Debug)]
pub struct Progress {
    matched: u64,
    next: u64,
    phase: Phase,
    flights: VecDeque<Flight>,
    flight_bytes: u64,
    /// It said itself that its log ends (or differs) before the retained one.
    behind: bool,
    /// When anything of this term was last heard from it.
    pub heard: Tick,
    /// Highest heartbeat round that it answered.
    pub round: u64,
    /// Commit index last sent to it.
    pub commit_sent: u64,
}

impl Progress {
    /// Optimistic: guesses that the peer has everything up to `last`.
    pub fn new(last: u64, now: Tick) -> Progress {
        Progress {
            matched: 0,
            next: last + 1,
            phase: Phase::Probe { quiet_until: Tick(0) },
            flights: VecDeque::new(),
            flight_bytes: 0,
            behind: false,
            heard: now,
            round: 0,
            commit_sent: 0,
        }
    }

    pub fn matched(&self) -> u64 {
        self.matched
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn idle(&self) -> bool {
        self.flights.is_empty()
    }

    fn check(&self) {
        assert!(self.matched < self.next, "matched {} < next {}", self.matched, self.next);
    }

    pub fn may_send(&self, now: Tick, messages_max: usize, bytes_max: usize) -> bool {
        match self.phase {
            Phase::Probe { quiet_until } => now >= quiet_until,
            Phase::Replicate => {
                self.flights.len() < messages_max.max(1)
                    && (self.flights.is_empty() || self.flight_bytes < bytes_max as u64)
            }
            Phase::Snapshot => false,
        }
    }

    /// Entries up to `last` were sent.
    pub fn sent(&mut self, last: u64, bytes: u64, now: Tick, probe_ms: u64) {
        match &mut self.phase {
            Phase::Probe { quiet_until } => *quiet_until = now.plus(probe_ms),
            Phase::Replicate => {
                self.flights.push_back(Flight { last, bytes, sent: now });
                self.flight_bytes += bytes;
                self.next = last + 1;
            }
            Phase::Snapshot => {}
        }
        self.check();
    }

    /// The peer holds everything up to `index`. True if that is news.
    pub fn acknowledged(&mut self, index: u64, log_start: u64) -> bool {
        let news = index > self.matched;
        self.matched = self.matched.max(index);
        while let Some(f) = self.flights.front().filter(|f| f.last <= index) {
            self.flight_bytes -= f.bytes;
            self.flights.pop_front();
        }
        match self.phase {
            Phase::Replicate => self.next = self.next.max(self.matched + 1),
            Phase::Probe { .. } => self.replicate(),
            // An acknowledgement from before the snapshot does not end it.
            Phase::Snapshot if self.matched >= log_start => self.replicate(),
            Phase::Snapshot => self.next = self.next.max(self.matched + 1),
        }
        self.check();
        news
    }

    /// What it needs is not in the log. Before that costs a snapshot, it is
    /// asked whether it holds the log's start: the guess may be older than
    /// the compaction. False if it is known not to.
    pub fn try_start(&mut self, start: u64) -> bool {
        if self.behind || !matches!(self.phase, Phase::Probe { .. }) {
            return false;
        }
        self.next = self.next.max(start + 1);
        true
    }

    fn replicate(&mut self) {
        self.behind = false;
        self.phase = Phase::Replicate;
        self.next = self.matched + 1;
        self.clear();
    }

    /// The peer refused an append after `rejected`; the logs may agree at
    /// `agree`. False if the refusal is out of date.
    pub fn refused(&mut self, rejected: u64, agree: u64, log_start: u64) -> bool {
        if rejected <= self.matched {
            return false;
        }
        match self.phase {
            Phase::Replicate => self.probe(Tick(0)),
            Phase::Probe { .. } if rejected == self.next - 1 => {
                self.behind |= agree < log_start || rejected <= log_start;
                self.next = (agree + 1).min(rejected).max(self.matched + 1);
                self.phase = Phase::Probe { quiet_until: Tick(0) };
            }
            _ => return false,
        }
        self.check();
        true
    }

    /// Back to asking where the logs agree, from what is known to match.
    pub fn probe(&mut self, quiet_until: Tick) {
        self.phase = Phase::Probe { quiet_until };
        self.next = self.matched + 1;
        self.clear();
    }

    /// The stream of a snapshot ended with the peer at `installed`.
    pub fn probe_after(&mut self, installed: u64) {
        self.probe(Tick(0));
        self.behind = false;
        self.next = self.next.max(installed + 1);
    }

    pub fn snapshot(&mut self) {
        self.phase = Phase::Snapshot;
        self.clear();
    }

    fn clear(&mut self) {
        self.flights.clear();
        self.flight_bytes = 0;
    }

    /// Whether the oldest append has waited for an answer for longer than `ms`.
    pub fn overdue(&self, now: Tick, ms: u64) -> bool {
        self.flights.front().is_some_and(|f| now.since(f.sent) > ms)
    }
}
