//! Leases: their times in memory, what commands do to them.
//!
//! **Invariants**: `due` holds exactly (expiry, id) of every lease in `times`.
//! Time is the lease clock, a number that commands carry; it never goes back.

use crate::records::{self, LeaseTimes};
use crate::state::State;
use crate::store::{Read, Space, Store, StoreError};
use crate::types::{Error, Outcome};
use std::collections::{BTreeMap, BTreeSet};
use synod_base::planted;

/// The longest time to live that etcd grants, seconds.
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;

/// See the file's header.
#[derive(Default)]
pub(crate) struct Leases {
    times: BTreeMap<i64, LeaseTimes>,
    due: BTreeSet<(u64, i64)>,
}

impl Leases {
    pub(crate) fn load(view: &impl Read) -> Result<Leases, StoreError> {
        let mut leases = Leases::default();
        for item in view.scan(Space::Leases, &[], None, false) {
            let (key, record) = item?;
            leases.set(records::lease_id_of(&key)?, LeaseTimes::decode(record)?);
        }
        Ok(leases)
    }

    pub(crate) fn contains(&self, id: i64) -> bool {
        self.times.contains_key(&id)
    }

    fn set(&mut self, id: i64, times: LeaseTimes) {
        if let Some(old) = self.times.insert(id, times) {
            self.due.remove(&(old.expiry, id));
        }
        self.due.insert((times.expiry, id));
    }

    fn remove(&mut self, id: i64) {
        if let Some(old) = self.times.remove(&id) {
            self.due.remove(&(old.expiry, id));
        }
    }
}

impl<S: Store> State<S> {
    /// At most `max` leases whose time is up at `clock`, earliest first.
    pub fn due_leases(&self, clock: u64, max: usize) -> Vec<i64> {
        let due = self.leases.due.iter().take_while(|(expiry, _)| *expiry <= clock);
        due.take(max).map(|(_, id)| *id).collect()
    }

    /// When the next lease ends, ms of the lease clock.
    pub fn next_lease_due(&self) -> Option<u64> {
        self.leases.due.first().map(|(expiry, _)| *expiry)
    }

    pub(crate) fn move_clock(&mut self, clock: u64) {
        self.meta.lease_clock = self.meta.lease_clock.max(clock);
    }

    /// Starts a lease's time (over).
    fn start_lease(&mut self, id: i64, ttl: i64) {
        let expiry = self.meta.lease_clock.saturating_add((ttl as u64).saturating_mul(1000));
        let times = LeaseTimes { ttl, expiry };
        self.leases.set(id, times);
        self.writes.put(Space::Leases, records::lease_key(id), times.encode());
    }

    pub(crate) fn lease_grant(&mut self, id: i64, ttl: i64, clock: u64) -> Result<Outcome, Error> {
        if ttl > LEASE_TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if id == 0 {
            return Err(Error::LeaseNotFound); // As etcd says: 0 names no lease.
        }
        if self.leases.contains(id) {
            return Err(Error::LeaseExists);
        }
        self.move_clock(clock);
        let ttl = ttl.max(self.limits.lease_ttl_min);
        self.start_lease(id, ttl);
        Ok(Outcome::LeaseGranted(ttl))
    }

    pub(crate) fn lease_renew(&mut self, ids: &[i64], clock: u64) -> Outcome {
        self.move_clock(clock);
        let renew = |id: &i64| match self.leases.times.get(id).map(|times| times.ttl) {
            Some(ttl) => {
                self.start_lease(*id, ttl);
                (*id, ttl)
            }
            None => (*id, 0),
        };
        Outcome::LeaseRenewed(ids.iter().map(renew).collect())
    }

    pub(crate) fn lease_revoke(&mut self, id: i64) -> Result<Result<Outcome, Error>, StoreError> {
        if !self.leases.contains(id) {
            return Ok(Err(Error::LeaseNotFound));
        }
        self.end_lease(id)?;
        Ok(Ok(Outcome::Done))
    }

    pub(crate) fn lease_expire(&mut self, ids: &[i64], clock: u64) -> Result<Outcome, StoreError> {
        self.move_clock(clock);
        for id in ids {
            let expiry = self.leases.times.get(id).map(|times| times.expiry);
            let due = expiry.is_some_and(|expiry| expiry <= clock);
            if due || (expiry.is_some() && planted("lease: a renewal does not save a lease")) {
                self.end_lease(*id)?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Ends a lease, deleting its keys in one revision.
    fn end_lease(&mut self, id: i64) -> Result<(), StoreError> {
        let (from, to) = (records::lease_key(id), records::lease_end(id));
        let view = self.overlay();
        let bound = view.scan(Space::LeaseKeys, &from, to.as_ref().map(|t| &t[..]), false);
        let keys = bound.map(|item| Ok(item?.0.slice(8..)));
        let keys = keys.collect::<Result<Vec<_>, StoreError>>()?;
        if !planted("lease: its keys outlive it") {
            self.delete_keys(&keys)?;
        }
        self.leases.remove(id);
        self.writes.remove(Space::Leases, records::lease_key(id));
        Ok(())
    }
}
