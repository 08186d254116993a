//! The keyspace as its documentation describes it, written a second time and
//! as simply as can be: what `mvcc` is compared with, answer by answer.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use synod_mvcc::{
    Command, Compare, CompareResult, CompareTarget, DeleteRequest, Error, Event, KeyRange,
    KeyValue, Op, OpResult, Outcome, PutRequest, RangeRequest, RangeResult, Revision, TxnRequest,
    TxnResult,
};

struct Lease {
    ttl: i64,
    expiry: u64,
}

/// All revisions of a keyspace.
pub struct Model {
    revision: i64,
    compacted: i64,
    /// Each key's versions, oldest first; `None`: deleted.
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    leases: BTreeMap<i64, Lease>,
    clock: u64,
    ttl_min: i64,
    /// Every revision that was made, from 2 on.
    pub revisions: Vec<Revision>,
    /// Leases that the last command ended because of their time.
    pub expired: Vec<i64>,
}

fn in_range(range: &KeyRange, key: &[u8]) -> bool {
    match &range.end[..] {
        [] => range.key == key,
        [0] => key >= &range.key[..],
        end => key >= &range.key[..] && key < end,
    }
}

impl Model {
    pub fn new(ttl_min: i64) -> Model {
        Model {
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            clock: 0,
            ttl_min,
            revisions: Vec::new(),
            expired: Vec::new(),
        }
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    pub fn has_leases(&self) -> bool {
        !self.leases.is_empty()
    }

    /// What a revision changed; `None` before the first and after the last.
    pub fn at(&self, revision: i64) -> Option<&Revision> {
        self.revisions.get(usize::try_from(revision - 2).ok()?)
    }

    /// The pair of a key as of a revision.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let versions = self.keys.get(key)?;
        let at = versions.partition_point(|(r, _)| *r <= revision);
        versions.get(at.checked_sub(1)?)?.1.as_ref()
    }

    /// The pairs of a range as of a revision.
    pub fn range(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        let keys = self.keys.keys().filter(|k| in_range(range, k));
        keys.filter_map(|k| self.get(k, revision)).cloned().collect()
    }

    pub fn apply(&mut self, command: &Command) -> Result<Outcome, Error> {
        self.expired.clear();
        let mut events = Vec::new();
        let done = self.run(command, &mut events);
        self.publish(events);
        done
    }

    fn publish(&mut self, mut events: Vec<Event>) {
        if !events.is_empty() {
            // What was there before the whole revision, if the key is older than it.
            for event in &mut events {
                let old = event.deleted || event.kv.create_revision <= self.revision;
                event.prev = self.get(&event.kv.key, self.revision).cloned().filter(|_| old);
            }
            self.revision += 1;
            self.revisions.push(Revision { revision: self.revision, events });
        }
    }

    fn run(&mut self, command: &Command, events: &mut Vec<Event>) -> Result<Outcome, Error> {
        match command {
            Command::Put(req) => {
                self.may_put(req)?;
                Ok(Outcome::Put(self.put(req, events)))
            }
            Command::Delete(req) => {
                let (n, prevs) = self.delete(req, events);
                Ok(Outcome::Delete(n, prevs))
            }
            Command::Txn(txn) => self.txn(txn, events).map(Outcome::Txn),
            Command::Compact { revision } => {
                if *revision <= self.compacted {
                    return Err(Error::Compacted);
                }
                if *revision > self.revision {
                    return Err(Error::FutureRevision);
                }
                self.compacted = *revision;
                Ok(Outcome::Done)
            }
            Command::LeaseGrant { id, ttl, clock } => {
                if self.leases.contains_key(id) {
                    return Err(Error::LeaseExists);
                }
                self.clock = self.clock.max(*clock);
                let ttl = (*ttl).max(self.ttl_min);
                let expiry = self.clock + ttl as u64 * 1000;
                self.leases.insert(*id, Lease { ttl, expiry });
                Ok(Outcome::LeaseGranted(ttl))
            }
            Command::LeaseRevoke { id } => {
                self.leases.remove(id).ok_or(Error::LeaseNotFound)?;
                self.drop_keys_of(*id, events);
                Ok(Outcome::Done)
            }
            Command::LeaseRenew { ids, clock } => {
                self.clock = self.clock.max(*clock);
                let now = self.clock;
                let renewed = ids.iter().map(|id| match self.leases.get_mut(id) {
                    Some(lease) => {
                        lease.expiry = now + lease.ttl as u64 * 1000;
                        (*id, lease.ttl)
                    }
                    None => (*id, 0),
                });
                Ok(Outcome::LeaseRenewed(renewed.collect()))
            }
            Command::LeaseExpire { ids, clock } => {
                self.clock = self.clock.max(*clock);
                self.expire(ids, *clock);
                Ok(Outcome::Done)
            }
            Command::LeaseClock { clock } => {
                self.clock = self.clock.max(*clock);
                Ok(Outcome::Done)
            }
            Command::Alarm { .. } | Command::MemberSet(_) | Command::MemberRemove(_) => {
                Ok(Outcome::Done)
            }
        }
    }

    /// Each lease whose time is up loses its keys in a revision of its own.
    fn expire(&mut self, ids: &[i64], clock: u64) {
        for id in ids {
            if self.leases.get(id).is_some_and(|l| l.expiry <= clock) {
                self.leases.remove(id);
                self.expired.push(*id);
                let mut events = Vec::new();
                self.drop_keys_of(*id, &mut events);
                self.publish(events);
            }
        }
    }

    fn drop_keys_of(&mut self, lease: i64, events: &mut Vec<Event>) {
        let now = self.revision;
        let bound = |k: &&Bytes| self.get(k, now).is_some_and(|kv| kv.lease == lease);
        let keys: BTreeSet<Bytes> = self.keys.keys().filter(bound).cloned().collect();
        for key in keys {
            self.remove(&key, events);
        }
    }

    /// The pair now, the writes of the running command included.
    fn now(&self, key: &[u8]) -> Option<&KeyValue> {
        self.get(key, i64::MAX)
    }

    fn may_put(&self, req: &PutRequest) -> Result<(), Error> {
        if req.lease != 0 && !self.leases.contains_key(&req.lease) {
            return Err(Error::LeaseNotFound);
        }
        if (req.ignore_value || req.ignore_lease) && self.now(&req.key).is_none() {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, req: &PutRequest, events: &mut Vec<Event>) -> Option<KeyValue> {
        let next = self.revision + 1;
        let old = self.now(&req.key).cloned();
        let kv = KeyValue {
            key: req.key.clone(),
            create_revision: old.as_ref().map_or(next, |o| o.create_revision),
            mod_revision: next,
            version: old.as_ref().map_or(1, |o| o.version + 1),
            value: match &old {
                Some(o) if req.ignore_value => o.value.clone(),
                _ => req.value.clone(),
            },
            lease: match &old {
                Some(o) if req.ignore_lease => o.lease,
                _ => req.lease,
            },
        };
        self.keys.entry(req.key.clone()).or_default().push((next, Some(kv.clone())));
        events.push(Event { deleted: false, kv, prev: None });
        old.filter(|_| req.prev_kv)
    }

    fn remove(&mut self, key: &Bytes, events: &mut Vec<Event>) -> Option<KeyValue> {
        let next = self.revision + 1;
        let old = self.now(key).cloned()?;
        self.keys.entry(key.clone()).or_default().push((next, None));
        let kv = KeyValue { key: key.clone(), mod_revision: next, ..KeyValue::default() };
        events.push(Event { deleted: true, kv, prev: None });
        Some(old)
    }

    fn delete(&mut self, req: &DeleteRequest, events: &mut Vec<Event>) -> (i64, Vec<KeyValue>) {
        let there = |k: &&Bytes| in_range(&req.range, k) && self.now(k).is_some();
        let keys: Vec<Bytes> = self.keys.keys().filter(there).cloned().collect();
        let olds: Vec<_> = keys.iter().filter_map(|k| self.remove(k, events)).collect();
        (olds.len() as i64, if req.prev_kv { olds } else { Vec::new() })
    }

    fn holds(&self, c: &Compare) -> bool {
        let pairs = self.range(&c.range, i64::MAX);
        if pairs.is_empty() {
            return !matches!(c.target, CompareTarget::Value(_))
                && compare(c, &KeyValue::default());
        }
        pairs.iter().all(|kv| compare(c, kv))
    }

    /// Where the simulated clients nest transactions, no condition rests on what the
    /// same transaction writes before it.
    fn txn(&mut self, txn: &TxnRequest, events: &mut Vec<Event>) -> Result<TxnResult, Error> {
        let succeeded = txn.compare.iter().all(|c| self.holds(c));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        for op in ops {
            if let Op::Put(req) = op {
                self.may_put(req)?;
            }
        }
        let mut responses = Vec::new();
        for op in ops {
            responses.push(match op {
                Op::Put(req) => OpResult::Put(self.put(req, events)),
                Op::Delete(req) => {
                    let (n, prevs) = self.delete(req, events);
                    OpResult::Delete(n, prevs)
                }
                Op::Range(RangeRequest { range, limit, keys_only, .. }) => {
                    let mut kvs = self.range(range, i64::MAX);
                    let count = kvs.len() as i64;
                    let more = *limit > 0 && count > *limit;
                    if more {
                        kvs.truncate(*limit as usize);
                    }
                    if *keys_only {
                        kvs.iter_mut().for_each(|kv| kv.value.clear());
                    }
                    OpResult::Range(RangeResult { kvs, more, count })
                }
                Op::Txn(inner) => OpResult::Txn(self.txn(inner, events)?),
            });
        }
        Ok(TxnResult { succeeded, responses })
    }
}

fn compare(c: &Compare, kv: &KeyValue) -> bool {
    let order = match &c.target {
        CompareTarget::Version(v) => kv.version.cmp(v),
        CompareTarget::Create(v) => kv.create_revision.cmp(v),
        CompareTarget::Mod(v) => kv.mod_revision.cmp(v),
        CompareTarget::Lease(v) => kv.lease.cmp(v),
        CompareTarget::Value(v) => kv.value.cmp(v),
    };
    match c.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}
