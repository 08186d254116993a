//! What a leader does unasked: it ends leases whose time is up, keeps the lease
//! clock going, and raises and clears the quota's alarm.
//!
//! The lease clock is a number of milliseconds that the leader stamps into
//! commands about leases. Whoever applies such a command knows the leader's
//! clock at that moment and counts on from there with its own monotonic clock,
//! so a new leader goes on where the old one was: leases keep their remaining
//! time over a change of leader. What passes between stamp and application is
//! given to the leases, never taken from them.

use crate::cell::{Cell, CellOutput};
use crate::event::CellEvent;
use synod_base::{NodeId, Tick, planted};
use synod_consensus::Change;
use synod_mvcc::{AlarmKind, Command, Store};

/// Most leases ended by one command.
const EXPIRE_MAX: usize = 500;
/// Wait before leases are named a second time for ending.
const EXPIRE_AGAIN_MS: u64 = 500;
/// How much lease time a restart of all members may give back.
const CLOCK_EVERY_MS: u64 = 10_000;
const ALARM_EVERY_MS: u64 = 500;
const PROMOTE_EVERY_MS: u64 = 500;
/// How far behind a returning member may be when it takes its place again.
const IN_SYNC_ENTRIES: u64 = 1_000;

pub(crate) struct LeaseDuties {
    /// The lease clock stood here...
    clock: u64,
    /// ...at this moment.
    at: Tick,
    /// The latest stamp that was heard.
    stamp: u64,
    /// A stamp, perhaps not the latest, was applied since.
    stamped: bool,
    last_expire: Tick,
    last_alarm: Tick,
    /// The keyspace reached the quota when it was looked at last.
    over_quota: bool,
    last_clock: Tick,
    last_promote: Tick,
}

impl LeaseDuties {
    pub fn new(clock: u64, now: Tick) -> LeaseDuties {
        LeaseDuties {
            clock,
            at: now,
            stamp: clock,
            stamped: false,
            last_expire: Tick(0),
            last_alarm: now,
            over_quota: false,
            last_clock: now,
            last_promote: now,
        }
    }

    pub fn clock(&self, now: Tick) -> u64 {
        self.clock + now.since(self.at)
    }

    /// A command with a stamp was applied.
    pub fn applied_stamp(&mut self) {
        self.stamped = true;
    }

    /// The state's clock is `clock`. Who leads goes by its own reckoning, which it
    /// stamps; everybody else takes the state's clock as it is with each stamp that
    /// was applied (one that the state's clock is ahead of, too), so that its own
    /// clock's error is that since the last stamp and does not add up over the years.
    pub fn heard(&mut self, clock: u64, leads: bool, now: Tick) {
        let stamped = std::mem::take(&mut self.stamped);
        if clock == self.stamp && (leads || !stamped) {
            return;
        }
        self.stamp = clock;
        let ahead = planted("lease: a new leader's clock is ahead of the stamps");
        if (!leads && !ahead) || clock > self.clock(now) {
            self.clock = clock;
            self.at = now;
        }
    }
}

impl<S: Store> Cell<S> {
    pub(crate) fn lead_duties(&mut self, out: &mut Vec<CellOutput>) {
        self.expire_reads(out);
        if !self.leads_caught_up() {
            return;
        }
        self.end_leases(out);
        self.keep_clock();
        self.watch_quota(out);
        self.promote_joiners(out);
    }

    fn end_leases(&mut self, out: &mut Vec<CellOutput>) {
        let clock = self.duties.clock(self.now);
        if self.state.next_lease_due().is_none_or(|due| due > clock)
            || self.now.since(self.duties.last_expire) < EXPIRE_AGAIN_MS
                && self.duties.last_expire != Tick(0)
        {
            return;
        }
        let early = if planted("lease: ended by a clock that runs fast") { clock / 4 } else { 0 };
        let clock = clock + early;
        let ids = self.state.due_leases(clock, EXPIRE_MAX);
        if ids.is_empty() {
            return;
        }
        self.duties.last_expire = self.now;
        out.push(CellOutput::Event(CellEvent::LeasesExpired { count: ids.len() }));
        self.propose_own(&Command::LeaseExpire { ids, clock });
    }

    fn keep_clock(&mut self) {
        if self.state.next_lease_due().is_some()
            && self.now.since(self.duties.last_clock) >= CLOCK_EVERY_MS
        {
            self.duties.last_clock = self.now;
            let clock = self.duties.clock(self.now);
            self.propose_own(&Command::LeaseClock { clock });
        }
    }

    fn watch_quota(&mut self, out: &mut Vec<CellOutput>) {
        let (size, quota) = (self.state.logical_size(), self.limits.quota_bytes);
        // The moment that it is used up is not waited for: writers go on until it is known.
        let over = quota > 0 && size >= quota;
        let now_over = over && !std::mem::replace(&mut self.duties.over_quota, over);
        if !now_over && self.now.since(self.duties.last_alarm) < ALARM_EVERY_MS {
            return;
        }
        self.duties.last_alarm = self.now;
        let raised: Vec<_> = self
            .state
            .alarms()
            .iter()
            .filter(|(_, kind)| *kind == AlarmKind::NoSpace)
            .map(|(member, _)| *member)
            .collect();
        let kind = AlarmKind::NoSpace;
        if over && raised.is_empty() {
            let why = format!("{size} bytes of keyspace reach the quota of {quota}");
            let member = self.id;
            out.push(CellOutput::Event(CellEvent::AlarmProposed {
                raise: true,
                member,
                kind,
                why,
            }));
            self.propose_own(&Command::Alarm { raise: true, member, kind });
        } else if quota == 0 || size < quota - quota / 20 {
            for member in raised {
                let why =
                    format!("{size} bytes of keyspace are under 95 % of the quota of {quota}");
                out.push(CellOutput::Event(CellEvent::AlarmProposed {
                    raise: false,
                    member,
                    kind,
                    why,
                }));
                self.propose_own(&Command::Alarm { raise: false, member, kind });
            }
        }
    }

    /// A learner with the peer addresses of a voter is that voter come back
    /// without its disk, under a new id (its old promises are lost). Once it is
    /// in sync it takes the lost one's place, in one joint change.
    fn promote_joiners(&mut self, out: &mut Vec<CellOutput>) {
        if self.now.since(self.duties.last_promote) < PROMOTE_EVERY_MS {
            return;
        }
        self.duties.last_promote = self.now;
        let membership = &self.status.membership;
        if membership.is_joint() {
            return;
        }
        let members = self.state.members();
        let twin = |learner: &NodeId| {
            let urls = &members.get(learner)?.peer_urls;
            let same = |v: &&NodeId| members.get(v).is_some_and(|m| m.peer_urls == *urls);
            membership.voters.iter().find(same).copied()
        };
        let ready = membership.learners.iter().find_map(|learner| {
            let old = twin(learner)?;
            let matched = self.status.matched.iter().find(|(id, _)| id == learner)?.1;
            (matched > 0 && matched + IN_SYNC_ENTRIES >= self.status.last)
                .then_some((*learner, old))
        });
        if let Some((new, old)) = ready {
            let change =
                Change { promote: [new].into(), remove: [old].into(), ..Change::default() };
            out.push(CellOutput::Event(CellEvent::AutoPromoted {
                member: new,
                replaces: Some(old),
            }));
            self.requests.push_own_change(change, vec![Command::MemberRemove(old).encode()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A follower's clock jumps. Then a leader whose own reckoning is behind stamps:
    /// the state's clock stays, and the follower must drop its error all the same.
    #[test]
    fn a_stamp_that_the_state_is_ahead_of_corrects_a_followers_clock() {
        let mut duties = LeaseDuties::new(1_000, Tick(0));
        assert_eq!(duties.clock(Tick(4_000)), 5_000);
        duties.heard(1_000, false, Tick(4_000));
        assert_eq!(duties.clock(Tick(4_000)), 5_000, "nothing was stamped");
        duties.applied_stamp();
        duties.heard(1_000, false, Tick(4_000));
        assert_eq!(duties.clock(Tick(4_100)), 1_100);
        // The leader's own reckoning is not set back.
        duties.applied_stamp();
        duties.heard(1_000, true, Tick(5_000));
        assert_eq!(duties.clock(Tick(5_000)), 2_000);
    }
}
