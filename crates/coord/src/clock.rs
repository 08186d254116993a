//! A session as its client sees it: whether what it holds can be relied on.
//!
//! The client counts from when it *sent* a renewal that was answered, the server
//! from when it agreed on it, which is later; so the client's deadline comes
//! first. Between its deadline and the end of the grace period the session is in
//! jeopardy: the servers may be electing a leader, and since a new leader keeps
//! each session's remaining time, the session may turn out to live
//! (Burrows, OSDI'06, section 2.8).

use synod_base::planted;

/// By how much the rates of two clocks may differ, in percent.
pub const DRIFT_MAX_PERCENT: u64 = 1;

/// Sessions that live less have little time for a second try.
const SHORT_TTL_MS: u64 = 6_000;

/// Whether a session can be relied on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionState {
    /// The session lives, and what it holds is held.
    Safe,
    /// Nobody knows: do nothing that relies on it.
    Jeopardy,
    /// It is over.
    Expired,
}

/// The client's side of one session. Times are milliseconds of one monotonic clock.
#[derive(Clone, Debug)]
pub struct SessionClock {
    ttl_ms: u64,
    grace_ms: u64,
    /// Renewals are sent at least so often.
    heartbeat_ms: u64,
    /// When the latest answered renewal was sent.
    renewed_ms: u64,
    state: SessionState,
}

impl SessionClock {
    /// A session whose opening was asked for at `sent_ms`.
    pub fn new(sent_ms: u64, ttl_ms: u64, grace_ms: u64) -> SessionClock {
        let (heartbeat_ms, state) = (u64::MAX, SessionState::Safe);
        SessionClock { ttl_ms, grace_ms, heartbeat_ms, renewed_ms: sent_ms, state }
    }

    /// The same with renewals at least so often: for whoever judges by their rhythm
    /// whether the client lives.
    pub fn with_heartbeat(self, heartbeat_ms: u64) -> SessionClock {
        SessionClock { heartbeat_ms: heartbeat_ms.max(1), ..self }
    }

    /// What was last told.
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// Its time to live.
    pub fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }

    /// Until when it is safe without another answer.
    pub fn deadline_ms(&self) -> u64 {
        let margin = self.ttl_ms * DRIFT_MAX_PERCENT / 100;
        self.renewed_ms.saturating_add(self.ttl_ms - margin)
    }

    /// Until when a session in jeopardy may still turn out to live.
    pub fn grace_ends_ms(&self) -> u64 {
        self.deadline_ms().saturating_add(self.grace_ms)
    }

    /// When to send the next renewal if the last was answered: halfway, so that many
    /// idle sessions cost little; a short one, for which a second try would come late,
    /// after a third.
    pub fn renew_at_ms(&self) -> u64 {
        let part = if self.ttl_ms < SHORT_TTL_MS { 3 } else { 2 };
        self.renewed_ms + (self.ttl_ms / part).min(self.heartbeat_ms)
    }

    /// For how long to wait for the answer to one renewal, so that several fit
    /// before the deadline.
    pub fn attempt_ms(&self) -> u64 {
        let part = if self.ttl_ms < SHORT_TTL_MS { 6 } else { 10 };
        (self.ttl_ms / part).max(250)
    }

    /// The next time at which [`SessionClock::tick`] may have something to tell.
    pub fn next_ms(&self) -> Option<u64> {
        match self.state {
            SessionState::Safe => Some(self.deadline_ms()),
            SessionState::Jeopardy => Some(self.grace_ends_ms()),
            SessionState::Expired => None,
        }
    }

    /// A renewal that was sent at `sent_ms` was answered at `now_ms`: the session
    /// lives. What it tells if that changes anything.
    pub fn renewed(&mut self, sent_ms: u64, now_ms: u64) -> Option<SessionState> {
        if self.state == SessionState::Expired {
            return None;
        }
        let late = planted("session: a renewal counts from its answer");
        self.renewed_ms = self.renewed_ms.max(if late { now_ms } else { sent_ms });
        // An answer that took longer than the session lives says nothing of now.
        if now_ms < self.deadline_ms() { self.turn(SessionState::Safe) } else { self.tick(now_ms) }
    }

    /// The server knows no such session.
    pub fn gone(&mut self) -> Option<SessionState> {
        self.turn(SessionState::Expired)
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64) -> Option<SessionState> {
        if self.state == SessionState::Expired || now_ms < self.deadline_ms() {
            return None;
        }
        let over = now_ms >= self.grace_ends_ms() || planted("session: no grace is given");
        self.turn(if over { SessionState::Expired } else { SessionState::Jeopardy })
    }

    fn turn(&mut self, to: SessionState) -> Option<SessionState> {
        (std::mem::replace(&mut self.state, to) != to).then_some(to)
    }
}
