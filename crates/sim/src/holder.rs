//! A client's session and the lock that it holds or waits for, by the rules of
//! [`synod_coord`], which the door and the real client use too. A client may stop
//! for a while at any moment, and then go on as if it still held what it held.

use crate::client::{Pending, put};
use crate::grace::Graced;
use crate::office::{OFFICE, Official};
use crate::oracle::Found;
use crate::world::World;
use synod_coord::{
    Claim, Entered, Mode, Place, Sequencer, Standing, contenders, enter, entered, fenced, leave,
    mark_held, prefix_range, read_queue, resign, standing, without_idle_guards,
};
use synod_mvcc::{Command, Op, Outcome, RangeRequest};

const LOCKS: u64 = 2;

/// What a client does about a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Gives its session a guard, for a lock-delay.
    Guard { guard: i64, ttl: i64 },
    /// Enters the queue.
    Enter { lock: u64, mode: Mode },
    /// Becomes a candidate for the office, or another one.
    Stand { priority: i64, failing: bool },
    /// Takes the office: it was found to be the best at the revision `seen`.
    Take { since: i64, seen: i64 },
    /// Notes that its turn has come.
    Mark,
    /// Writes with its sequencer.
    Write,
    /// The same, when it should have given up.
    LateWrite,
    /// Gives the lock back, or leaves the queue.
    Leave,
}

pub(crate) struct Lease {
    pub id: i64,
    ttl: i64,
    /// The client relies on it until then, µs.
    pub until: u64,
    /// The guard, or 0.
    pub guard: i64,
    guard_ttl: i64,
    guard_until: u64,
    /// A queue may know it already: then it gets no guard any more.
    used: bool,
    /// Its clock, if it is given up after a grace only.
    pub graced: Option<Graced>,
}

#[derive(Clone)]
pub(crate) struct Taken {
    pub place: Place,
    pub token: i64,
    pub held: bool,
    /// It is its turn; only the note is missing.
    pub turn: bool,
}

impl Taken {
    fn sequencer(&self) -> Sequencer {
        Sequencer {
            token: self.token,
            mode: self.place.claim.mode(),
            session: self.place.session,
            name: self.place.name.clone(),
        }
    }
}

/// See the file's header.
#[derive(Default)]
pub struct Holder {
    pub(crate) lease: Option<Lease>,
    pub(crate) taken: Option<Taken>,
    /// What it held last and has lost.
    lost: Option<Sequencer>,
    /// What it is in an election, and as an instance of a service.
    pub(crate) office: Official,
}

impl Holder {
    /// Whether it holds the office, as far as it knows.
    pub(crate) fn in_office(&self, now: u64) -> bool {
        let held = self.taken.as_ref().is_some_and(|t| t.held && t.place.name == OFFICE);
        held && self.alive(now).is_some()
    }

    /// Its session, if it can rely on it.
    pub(crate) fn alive(&self, now: u64) -> Option<&Lease> {
        self.lease.as_ref().filter(|l| l.until > now)
    }

    /// Whether it holds or held something.
    pub(crate) fn remembers(&self) -> bool {
        self.lost.is_some() || self.taken.as_ref().is_some_and(|t| t.held)
    }

    /// A queue may know its session from now on.
    pub(crate) fn lease_is_used(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.used = true;
        }
    }

    pub(crate) fn opened(&mut self, id: i64, ttl: i64, until: u64, graced: Option<Graced>) {
        let (guard, guard_ttl, guard_until, used) = (0, 0, 0, false);
        self.lease = Some(Lease { id, ttl, until, guard, guard_ttl, guard_until, used, graced });
    }

    pub(crate) fn jump(&mut self, by: u64) {
        if let Some(lease) = &mut self.lease {
            lease.until = lease.until.saturating_sub(by);
            lease.guard_until = lease.guard_until.saturating_sub(by);
            // A client does not know how far the server's clock jumped.
            lease.graced = None;
        }
    }

    /// The sequencer of a late write.
    fn late(&self) -> Option<Sequencer> {
        self.lost.clone().or_else(|| self.taken.as_ref().filter(|t| t.held).map(Taken::sequencer))
    }
}

impl World {
    /// Until when an answered renewal can be relied on: from when it was asked for,
    /// with a margin for clocks that differ.
    pub(crate) fn until(&self, pending: &Pending, ttl: i64) -> u64 {
        let until = pending.start + ttl as u64 * 950_000;
        until.saturating_sub(self.oracle.jumped - pending.jumped)
    }

    /// What to do next about a lock; nothing but to wait if `None`.
    pub(crate) fn next_step(&mut self, number: usize) -> Option<Step> {
        let unique = self.tickets as i64;
        let (lock, shared) = (self.rng.below(LOCKS), self.rng.one_in(3));
        let (guards, leaves) = (self.rng.one_in(3), self.rng.one_in(3));
        let more = self.rng.between(1, 2) as i64;
        if let Some(step) = self.office_step(number) {
            return Some(step);
        }
        let holder = &self.clients[number].holder;
        let lease = holder.lease.as_ref()?;
        // Without a token it is not known whether it entered: it tries again.
        match holder.taken.as_ref().filter(|t| t.token > 0) {
            None if guards && !lease.used && lease.guard == 0 => {
                Some(Step::Guard { guard: unique, ttl: lease.ttl + more })
            }
            None => {
                let mode = if shared { Mode::Shared } else { Mode::Exclusive };
                Some(Step::Enter { lock, mode })
            }
            Some(t) if t.held && !leaves => Some(Step::Write),
            Some(t) if t.held => Some(Step::Leave),
            Some(t) if t.turn => Some(Step::Mark),
            // Seldom, a waiter gives up.
            Some(_) => (guards && leaves).then_some(Step::Leave),
        }
    }

    pub(crate) fn step_command(&mut self, number: usize, step: Step) -> Command {
        let holder = &mut self.clients[number].holder;
        let nothing = || Command::LeaseRenew { ids: Vec::new(), clock: 0 };
        if let Step::Guard { guard, ttl } = step {
            return Command::LeaseGrant { id: guard, ttl, clock: 0 };
        }
        if let Step::LateWrite = step {
            let Some(sequencer) = holder.late() else { return nothing() };
            return Command::Txn(fenced_write(&sequencer));
        }
        if let Step::Enter { lock, mode } = step {
            let Some(lease) = &mut holder.lease else { return nothing() };
            lease.used = true;
            let claim = Claim::new(mode, &format!("c{number}"), 1);
            let (name, session) = (format!("lock-{lock}").into_bytes(), lease.id);
            let place = Place { name, session, guard: lease.guard, claim, value: None };
            let txn = enter(&place);
            holder.taken = Some(Taken { place, token: 0, held: false, turn: false });
            return Command::Txn(txn);
        }
        if let Step::Stand { .. } | Step::Take { .. } = step {
            return self.office_command(number, step).unwrap_or_else(nothing);
        }
        let Some(taken) = &holder.taken else { return nothing() };
        Command::Txn(match step {
            Step::Leave if taken.place.value.is_some() => resign(&taken.place, taken.token),
            Step::Mark => mark_held(&taken.place, taken.token, 2),
            Step::Write => fenced_write(&taken.sequencer()),
            _ => leave(&taken.place, taken.token),
        })
    }

    /// A client is about to give its place up.
    pub(crate) fn leaves(&mut self, number: usize) {
        if let Some(taken) = self.clients[number].holder.taken.take() {
            self.oracle.locks.gave_up(&taken.place.name, number as u64, false);
            self.oracle.active.rests(number);
        }
    }

    /// A client's session is over, as far as it knows, and what it held is lost.
    pub(crate) fn drop_lease(&mut self, number: usize) {
        let holder = &mut self.clients[number].holder;
        holder.lease = None;
        self.oracle.active.rests(number);
        if let Some(taken) = holder.taken.take().filter(|t| t.held) {
            holder.lost = Some(taken.sequencer());
            self.oracle.locks.gave_up(&taken.place.name, number as u64, true);
        }
    }

    /// A waiter looks, at any member, whether its turn has come.
    pub(crate) fn look_at_the_queue(&mut self, number: usize, who: usize) -> Result<(), Found> {
        let Some(up) = &self.machines[who].up else { return Ok(()) };
        let holder = &self.clients[number].holder;
        let Some(taken) = holder.taken.as_ref().filter(|t| !t.held && t.token > 0) else {
            return Ok(());
        };
        let published = up.cell.reader().published();
        if published.revision() < taken.token {
            return Ok(());
        }
        let range = prefix_range(&contenders(&taken.place.name));
        let all = RangeRequest { range, ..RangeRequest::default() };
        let found = published.range(&all).map_err(|e| ("store", e.to_string()))?;
        let mut queue = read_queue(&taken.place.name, found.map(|r| r.kvs).unwrap_or_default());
        without_idle_guards(&mut queue, |session| matches!(published.lease(session), Ok(Some(_))));
        match standing(&queue, &taken.place.key(), taken.token) {
            Standing::Holds if taken.place.guard != 0 => {
                if let Some(taken) = &mut self.clients[number].holder.taken {
                    taken.turn = true;
                }
                Ok(())
            }
            Standing::Holds => self.granted(number),
            Standing::WaitsFor(_) => Ok(()),
            Standing::Gone => {
                self.clients[number].holder.taken = None;
                Ok(())
            }
        }
    }

    /// A client has a place in a queue.
    pub(crate) fn entered(
        &mut self,
        number: usize,
        how: Option<Entered>,
        revision: i64,
    ) -> Result<(), Found> {
        let Some(taken) = &mut self.clients[number].holder.taken else { return Ok(()) };
        taken.token = revision;
        match how {
            Some(Entered::Holds) => self.granted(number),
            Some(Entered::Already(kv, claim)) => {
                // An earlier try that nobody knew the end of.
                taken.token = kv.create_revision;
                taken.place.claim = claim;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A client holds its lock from now on.
    fn granted(&mut self, number: usize) -> Result<(), Found> {
        let now = self.now;
        let holder = &mut self.clients[number].holder;
        let Some(lease) = holder.lease.as_ref().filter(|l| l.until > now) else { return Ok(()) };
        let Some(taken) = &mut holder.taken else { return Ok(()) };
        taken.held = true;
        let (sequencer, ends) = (taken.sequencer(), (lease.until, lease.guard_until));
        self.oracle.locks.holds(&sequencer, number as u64, now, ends)
    }

    /// A renewal was answered.
    pub(crate) fn renewed(
        &mut self,
        number: usize,
        pending: &Pending,
        lease: i64,
        list: &[(i64, i64)],
    ) -> Result<(), Found> {
        let lives = |id: i64| list.iter().any(|(i, ttl)| *i == id && *ttl > 0);
        if !lives(lease) {
            if self.clients[number].holder.lease.as_ref().is_some_and(|l| l.id == lease) {
                self.drop_lease(number);
            }
            return Ok(());
        }
        let now = self.now;
        let Some(held) = &self.clients[number].holder.lease else { return Ok(()) };
        let (own, ttl) = (held.id == lease, held.ttl);
        let by_clock = match own {
            true => self.answered_in_grace(number, pending.start, pending.jumped),
            false => None,
        };
        let until = by_clock.unwrap_or_else(|| self.until(pending, ttl));
        let Some(held) = &self.clients[number].holder.lease else { return Ok(()) };
        let guard_until = match lives(held.guard) {
            true => self.until(pending, held.guard_ttl),
            false => 0,
        };
        let guard = held.guard;
        let holder = &mut self.clients[number].holder;
        let Some(held) = holder.lease.as_mut().filter(|l| l.id == lease) else { return Ok(()) };
        let relied = held.until;
        held.until = held.until.max(until);
        held.guard_until = held.guard_until.max(guard_until);
        self.oracle.promise(lease, held.until);
        if guard != 0 {
            self.oracle.promise(guard, held.guard_until);
        }
        let goes_on = relied <= now && by_clock.is_some();
        if goes_on && held.until > now {
            self.goes_on(number)?;
        }
        let holder = &mut self.clients[number].holder;
        match holder.taken.as_ref().filter(|t| t.held) {
            Some(_) if goes_on => self.granted(number),
            // It had given the lock up for lost in between.
            Some(taken) if relied <= now => {
                holder.lost = Some(taken.sequencer());
                let name = taken.place.name.clone();
                holder.taken = None;
                self.oracle.locks.gave_up(&name, number as u64, true);
                Ok(())
            }
            Some(_) => self.granted(number),
            None => Ok(()),
        }
    }

    /// A step was answered.
    pub(crate) fn stepped(
        &mut self,
        number: usize,
        pending: &Pending,
        step: Step,
        outcome: &Outcome,
        revision: i64,
    ) -> Result<(), Found> {
        match (step, outcome) {
            (Step::Guard { guard, ttl }, Outcome::LeaseGranted(granted)) => {
                let guard_until = self.until(pending, (*granted).max(ttl));
                self.oracle.promise(guard, guard_until);
                if let Some(lease) = &mut self.clients[number].holder.lease {
                    (lease.guard, lease.guard_ttl) = (guard, *granted);
                    lease.guard_until = guard_until;
                }
                Ok(())
            }
            (Step::Enter { .. }, Outcome::Txn(result)) => {
                self.entered(number, entered(result.clone()), revision)
            }
            (Step::Take { .. }, Outcome::Txn(result)) => {
                self.took(number, result.clone(), revision)
            }
            (Step::Mark, Outcome::Txn(result)) if result.succeeded => self.granted(number),
            (Step::Write, Outcome::Txn(result)) => {
                let now = self.now;
                let holder = &self.clients[number].holder;
                let Some(taken) = &holder.taken else { return Ok(()) };
                let sequencer = taken.sequencer();
                if result.succeeded {
                    return self.oracle.locks.wrote(&sequencer, revision);
                }
                if holder.alive(now).is_some() && taken.held {
                    return Err(("fence", format!("{sequencer} is refused, and it holds")));
                }
                Ok(())
            }
            (Step::LateWrite, Outcome::Txn(result)) => {
                let late = self.clients[number].holder.late();
                self.clients[number].holder.lost = None;
                match late {
                    Some(sequencer) if result.succeeded => {
                        self.oracle.locks.wrote(&sequencer, revision)
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

fn fenced_write(s: &Sequencer) -> synod_mvcc::TxnRequest {
    let key = [b"fenced-", &s.name[..]].concat().into();
    fenced(s, Op::Put(put(key, s.token as u64, 1, 0)))
}
