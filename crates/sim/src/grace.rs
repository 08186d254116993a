//! Sessions by the clock of the real client ([`SessionClock`]): safe until their
//! deadline, then in jeopardy, and given up when the grace is over. A client in jeopardy
//! does nothing but try to renew; if the session turns out to live, it goes on with what
//! it holds.
//!
//! **Checked here**, by a second writing of the rules: nobody gives a session up before
//! its grace is over, unless the cell says that it has ended, and nobody later; and who
//! goes on after jeopardy still has its place in the lock's queue. That nobody relies on
//! a session for too long is what [`crate::locks`] and the promises of leases check.

use crate::holder::Lease;
use crate::oracle::Found;
use crate::world::World;
use synod_coord::{SessionClock, SessionState};

/// Longer than the election of a leader and the wait for an answer that is lost.
const GRACE_US: u64 = 5_000_000;
/// Times are rounded to ms.
const ROUNDED_US: u64 = 1_000;

/// A session's clock, and what it must come to.
pub(crate) struct Graced {
    clock: SessionClock,
    /// When the latest answered renewal was sent, µs.
    sent: u64,
    ttl: i64,
}

impl Graced {
    fn new(sent: u64, ttl: i64) -> Graced {
        let clock = SessionClock::new(sent / 1_000, ttl as u64 * 1_000, GRACE_US / 1_000);
        Graced { clock, sent, ttl }
    }

    /// Until when the client relies on the session, µs.
    fn until(&self) -> u64 {
        self.clock.deadline_ms() * 1_000
    }

    /// When it is to be given up: a hundredth of its time is left for clocks that differ.
    fn given_up_at(&self) -> u64 {
        self.sent + self.ttl as u64 * 990_000 + GRACE_US
    }
}

impl Lease {
    /// Whether nobody knows if it lives.
    pub(crate) fn in_jeopardy(&self, now: u64) -> bool {
        self.until <= now && self.graced.is_some()
    }
}

impl World {
    /// Some seeds have a grace. (Those that found bugs before there was one have none, and
    /// stay what they were.)
    fn has_grace(&self) -> bool {
        matches!(self.scenario.seed % 8, 4 | 5)
    }

    /// The clock of a session that was asked for at `start`; `None`: without a grace.
    pub(crate) fn graced(&self, start: u64, jumped: u64, ttl: i64) -> Option<Graced> {
        // What was measured across a jump says nothing.
        (self.has_grace() && jumped == self.oracle.jumped).then(|| Graced::new(start, ttl))
    }

    /// Time has passed for a client's session.
    pub(crate) fn look_at_the_session(&mut self, number: usize) -> Result<(), Found> {
        let now = self.now;
        let lease = self.clients[number].holder.lease.as_mut();
        let Some((id, graced)) = lease.and_then(|l| Some((l.id, l.graced.as_mut()?))) else {
            return Ok(());
        };
        graced.clock.tick(now / 1_000);
        let (over, due) = (graced.clock.state() == SessionState::Expired, graced.given_up_at());
        if over && now + ROUNDED_US < due {
            let early = (due - now) / 1_000;
            return Err(("grace", format!("session {id} is given up {early} ms early")));
        }
        if !over && now > due + ROUNDED_US {
            let late = (now - due) / 1_000;
            return Err((
                "grace",
                format!("session {id} is not given up {late} ms after its grace"),
            ));
        }
        if over {
            self.drop_lease(number);
        }
        Ok(())
    }

    /// A renewal that was sent at `start` was answered: the session lives. Until when
    /// it can be relied on; `None`: by the old rule.
    pub(crate) fn answered_in_grace(
        &mut self,
        number: usize,
        start: u64,
        jumped: u64,
    ) -> Option<u64> {
        let (now, same) = (self.now, jumped == self.oracle.jumped);
        let lease = self.clients[number].holder.lease.as_mut()?;
        if !same {
            lease.graced = None;
        }
        let graced = lease.graced.as_mut()?;
        graced.clock.renewed(start / 1_000, now / 1_000);
        graced.sent = graced.sent.max(start);
        Some(graced.until())
    }

    /// A client goes on after jeopardy, with what it holds.
    pub(crate) fn goes_on(&mut self, number: usize) -> Result<(), Found> {
        self.graces += 1;
        let Some(taken) = self.clients[number].holder.taken.as_ref().filter(|t| t.held) else {
            return Ok(());
        };
        let there = self.oracle.model.get(&taken.place.key(), i64::MAX);
        if there.is_none_or(|kv| kv.create_revision != taken.token) {
            let what =
                format!("client {number} lives, and its lock of token {} is gone", taken.token);
            return Err(("grace", what));
        }
        Ok(())
    }
}
