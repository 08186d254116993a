//! Whom a node holds for the leader, and how long it waits for a sign of life.

use crate::contract::Limits;
use synod_base::{NodeId, Rng, Tick};

/// Early retries of an election after the leader's connection dropped.
const EAGER: u8 = 3;

/// A silence of the leader counts half after so many ms.
const SILENCE_HALVES_MS: u64 = 30_000;
/// How many times the election time a node waits at most (and as much again, by chance).
const PATIENCE_MAX: u64 = 4;

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
    /// The longest silence of a leader not long ago (ms, when it was noted): machines
    /// that are short of time are silent now and then, and an election does not help them.
    silence: (u64, Tick),
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
            silence: (0, now),
        }
    }

    /// A silence that ended, or that this node took for the leader's end.
    pub fn note_silence(&mut self, ms: u64, now: Tick) {
        if ms >= self.silence_now(now) {
            self.silence = (ms, now);
        }
    }

    fn silence_now(&self, now: Tick) -> u64 {
        let (ms, noted) = self.silence;
        ms.checked_shr((now.since(noted) / SILENCE_HALVES_MS) as u32).unwrap_or(0)
    }

    /// A full time-out, drawn anew: twice the silence that was heard of late, within
    /// bounds (the idea of adaptive failure detectors; Chen, Toueg and Aguilera, DSN'00).
    pub fn draw(&mut self, now: Tick, limits: &Limits, rng: &mut Rng) {
        let least = limits.election_ms;
        let ms = (2 * self.silence_now(now)).clamp(least, PATIENCE_MAX * least);
        self.deadline = now.plus(ms + rng.below(ms));
    }

    /// Whether a vote for another would disturb the leader that this node
    /// follows (or, with leases, break what it promised).
    pub fn alive(&self, now: Tick, limits: &Limits) -> bool {
        if limits.lease_reads {
            return self.bound(now, limits);
        }
        let recent = |since: Tick| now.since(since) < limits.election_ms;
        self.leader.is_some() && !self.dropped && self.heard.is_some_and(recent)
    }

    /// Whether a leader may answer reads on the strength of what this node promised it:
    /// then it neither votes for another nor stands itself (Raft thesis, 6.4.1), dropped
    /// connection or not.
    pub fn bound(&self, now: Tick, limits: &Limits) -> bool {
        limits.lease_reads && now < self.bound_until(limits)
    }

    fn bound_until(&self, limits: &Limits) -> Tick {
        // It may have promised a lease just before it restarted.
        self.heard.unwrap_or(self.started).plus(limits.election_ms)
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
        if let Some(before) = self.heard {
            self.note_silence(now.since(before), now);
        }
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
        let from = if limits.lease_reads { now.max(self.bound_until(limits)) } else { now };
        let early = from.plus(rng.below(limits.heartbeat_ms.max(1)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_heard_a_long_silence_is_patient_for_a_while() {
        let limits = Limits::default();
        let mut rng = Rng::new(1);
        let mut wait = |watch: &mut Watch, at: u64| {
            watch.draw(Tick(at), &limits, &mut rng);
            watch.deadline.0 - at
        };
        let e = limits.election_ms;
        let mut watch = Watch::new(Tick(0));
        watch.set(Some(NodeId(1)), Tick(0));
        for at in (0..1_000).step_by(20) {
            watch.hear(Tick(at));
            assert!((e..2 * e).contains(&wait(&mut watch, at)));
        }
        watch.hear(Tick(980 + e));
        assert!((2 * e..4 * e).contains(&wait(&mut watch, 980 + e)));
        watch.note_silence(100 * e, Tick(1_200));
        assert!((PATIENCE_MAX * e..2 * PATIENCE_MAX * e).contains(&wait(&mut watch, 1_200)));
        let later = 1_200 + 10 * SILENCE_HALVES_MS;
        assert!((e..2 * e).contains(&wait(&mut watch, later)));
    }
}
