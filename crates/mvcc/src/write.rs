//! Puts, deletes and transactions.
//!
//! **Invariants**
//! - A transaction is checked as a whole, and all its conditions decided
//!   (nested ones too, as etcd does), before its first write.
//! - All writes of a command have one revision; sub-revisions count from 0
//!   without holes. A command that writes nothing makes no revision.

use crate::decide::{Decided, branch, chosen};
use crate::read::At;
use crate::records::{self, Live, Past, Place};
use crate::state::State;
use crate::store::{Read, Space, Store, StoreError};
use crate::types::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_base::planted;

/// The writes of one command so far.
#[derive(Default)]
pub(crate) struct Writing {
    events: Vec<(Event, Option<Place>)>,
    /// Bytes superseded, written, and of deletions.
    superseded: u64,
    written: u64,
    tombs: u64,
    /// Whether later writes of the command may look at the earlier ones. Else
    /// the live pairs are first written with their events.
    looked_at: bool,
}

impl<S: Store> State<S> {
    pub(crate) fn apply_put(
        &mut self,
        req: &PutRequest,
    ) -> Result<Result<Outcome, Error>, StoreError> {
        // As etcd: a lone put looks for its lease first, one in a transaction last.
        if let Err(e) = self.check_lease(req) {
            return Ok(Err(e));
        }
        if let Err(e) = self.check_put(req)? {
            return Ok(Err(e));
        }
        let mut writing = Writing::default();
        let prev = self.put(req, &mut writing)?;
        self.finish(writing);
        self.counts.puts += 1;
        Ok(Ok(Outcome::Put(prev)))
    }

    pub(crate) fn apply_delete(&mut self, req: &DeleteRequest) -> Result<Outcome, StoreError> {
        let mut writing = Writing::default();
        let (n, prevs) = self.delete(req, &mut writing)?;
        self.finish(writing);
        self.counts.deletes += 1;
        Ok(Outcome::Delete(n, prevs))
    }

    pub(crate) fn apply_txn(
        &mut self,
        req: &TxnRequest,
    ) -> Result<Result<Outcome, Error>, StoreError> {
        let (revision, compacted) = (self.meta.revision, self.meta.compacted);
        let decided = if planted("state: a lock is given twice") {
            // A command does not see what those before it in the batch wrote.
            At { view: &self.view, revision, compacted }.decide(req)?
        } else {
            At { view: &self.overlay(), revision, compacted }.decide(req)?
        };
        let mut ops = Vec::new();
        chosen(req, &decided, &mut ops);
        if let Err(e) = self.check_ops(&ops)? {
            return Ok(Err(e));
        }
        let mut writing = Writing { looked_at: true, ..Writing::default() };
        let result = self.run(req, &decided, &mut writing)?;
        self.finish(writing);
        self.count(&result);
        Ok(Ok(Outcome::Txn(result)))
    }

    /// As etcd counts: only what more than one operation was done in is a transaction.
    fn count(&mut self, done: &TxnResult) {
        fn add(counts: &mut OpCounts, done: &TxnResult) {
            for result in &done.responses {
                match result {
                    OpResult::Range(_) => counts.ranges += 1,
                    OpResult::Put(_) => counts.puts += 1,
                    OpResult::Delete(..) => counts.deletes += 1,
                    OpResult::Txn(nested) => add(counts, nested),
                }
            }
        }
        let mut these = OpCounts::default();
        add(&mut these, done);
        let all = &mut self.counts;
        all.txns += u64::from(these.ranges + these.puts + these.deletes > 1);
        all.ranges += these.ranges;
        all.puts += these.puts;
        all.deletes += these.deletes;
    }

    fn live(&self, key: &Bytes) -> Result<Option<Live>, StoreError> {
        if let Some(live) = self.hot.get(key) {
            return Ok(Some(live));
        }
        let record = self.overlay().get(Space::Latest, key)?;
        record.map(|record| Live::decode(key.clone(), record)).transpose()
    }

    fn check_put(&self, req: &PutRequest) -> Result<Result<(), Error>, StoreError> {
        if req.key.len() > KEY_BYTES_MAX {
            return Ok(Err(Error::KeyTooLong));
        }
        if (req.ignore_value || req.ignore_lease) && self.live(&req.key)?.is_none() {
            return Ok(Err(Error::KeyNotFound));
        }
        Ok(self.check_lease(req))
    }

    fn check_lease(&self, req: &PutRequest) -> Result<(), Error> {
        if req.lease != 0 && !req.ignore_lease && !self.leases.contains(req.lease) {
            return Err(Error::LeaseNotFound);
        }
        Ok(())
    }

    /// Checks what the chosen branches will do against the state before them: as
    /// in etcd first all puts, then all ranges.
    fn check_ops(&self, ops: &[&Op]) -> Result<Result<(), Error>, StoreError> {
        for op in ops {
            if let Op::Put(req) = op
                && let Err(e) = self.check_put(req)?
            {
                return Ok(Err(e));
            }
        }
        let view = self.overlay();
        let at = At { view: &view, revision: self.meta.revision, compacted: self.meta.compacted };
        Ok(at.check_ranges(ops))
    }

    fn run(
        &mut self,
        txn: &TxnRequest,
        decided: &Decided,
        writing: &mut Writing,
    ) -> Result<TxnResult, StoreError> {
        let mut nested = decided.nested.iter();
        let ops = branch(txn, decided.succeeded);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(match op {
                Op::Range(req) => OpResult::Range(self.range_within(req, writing)?),
                Op::Put(req) => OpResult::Put(self.put(req, writing)?),
                Op::Delete(req) => {
                    let (n, prevs) = self.delete(req, writing)?;
                    OpResult::Delete(n, prevs)
                }
                Op::Txn(txn) => match nested.next() {
                    Some(decided) => OpResult::Txn(self.run(txn, decided, writing)?),
                    None => OpResult::Txn(TxnResult::default()),
                },
            });
        }
        Ok(TxnResult { succeeded: decided.succeeded, responses })
    }

    /// A read in a transaction: the present includes its writes so far.
    fn range_within(
        &self,
        req: &RangeRequest,
        writing: &Writing,
    ) -> Result<RangeResult, StoreError> {
        let wrote = i64::from(!writing.events.is_empty());
        let view = self.overlay();
        let revision = self.meta.revision + wrote;
        let at = At { view: &view, revision, compacted: self.meta.compacted };
        // The revision was checked before the first write.
        Ok(at.range(req)?.unwrap_or_default())
    }

    fn put(
        &mut self,
        req: &PutRequest,
        writing: &mut Writing,
    ) -> Result<Option<KeyValue>, StoreError> {
        let revision = self.meta.revision + 1;
        let sub = writing.events.len() as u32;
        let old = self.live(&req.key)?;
        let old_kv = old.as_ref().map(|old| &old.kv);
        let old_lease = old_kv.map_or(0, |kv| kv.lease);
        // A key to keep the value of was there before the transaction; one that
        // the transaction itself deleted meanwhile comes back empty.
        let value = match (req.ignore_value, old_kv) {
            (false, _) => req.value.clone(),
            (true, Some(kv)) => kv.value.clone(),
            (true, None) => Bytes::new(),
        };
        let kv = KeyValue {
            key: req.key.clone(),
            create_revision: old_kv.map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: old_kv.map_or(1, |kv| kv.version + 1),
            lease: if req.ignore_lease { old_lease } else { req.lease },
            value,
        };
        self.bind(&req.key, old_lease, kv.lease);
        writing.written += records::cost(&kv.key, &kv.value);
        let live = Live { kv, sub };
        if writing.looked_at {
            self.hot.forget(&req.key);
            // A copy: the request's key is a piece of the message that brought it.
            self.writes.put(Space::Latest, Bytes::copy_from_slice(&req.key), live.encode());
        }
        let (place, prev) = self.supersede(old, writing);
        let answer = if req.prev_kv { prev.clone() } else { None };
        writing.events.push((Event { deleted: false, kv: live.kv, prev }, place));
        Ok(answer)
    }

    /// Moves a key from one lease to another (0: none).
    fn bind(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if from != 0 {
            self.writes.remove(Space::LeaseKeys, records::lease_key_of(from, key));
        }
        if to != 0 {
            self.writes.put(Space::LeaseKeys, records::lease_key_of(to, key), Bytes::new());
        }
    }

    /// Makes the pair that is replaced a version of the past.
    fn supersede(
        &mut self,
        old: Option<Live>,
        writing: &mut Writing,
    ) -> (Option<Place>, Option<KeyValue>) {
        let Some(old) = old else {
            return (None, None);
        };
        let place = old.place();
        let record = records::version_record(self.meta.revision + 1);
        self.writes.put(Space::Versions, records::version_key(&old.kv.key, place), record);
        writing.superseded += records::cost(&old.kv.key, &old.kv.value);
        (Some(place), Some(old.kv))
    }

    fn delete(
        &mut self,
        req: &DeleteRequest,
        writing: &mut Writing,
    ) -> Result<(i64, Vec<KeyValue>), StoreError> {
        let (revision, compacted) = (self.meta.revision, self.meta.compacted);
        let lives = At { view: &self.overlay(), revision, compacted }.lives(&req.range)?;
        let n = lives.len() as i64;
        let mut prevs = Vec::new();
        for live in lives {
            if req.prev_kv {
                prevs.push(live.kv.clone());
            }
            self.delete_live(live, writing);
        }
        Ok((n, prevs))
    }

    /// Deletes a pair that is there.
    fn delete_live(&mut self, live: Live, writing: &mut Writing) {
        let key = live.kv.key.clone();
        if writing.looked_at {
            self.hot.forget(&key);
            self.writes.remove(Space::Latest, key.clone());
        }
        self.bind(&key, live.kv.lease, 0);
        let tomb = records::cost(&key, &[]);
        writing.written += tomb;
        writing.tombs += tomb;
        let (place, prev) = self.supersede(Some(live), writing);
        let revision = self.meta.revision + 1;
        let kv = KeyValue { key, mod_revision: revision, ..KeyValue::default() };
        writing.events.push((Event { deleted: true, kv, prev }, place));
    }

    /// Deletes these keys in one revision; those that are missing are passed over.
    pub(crate) fn delete_keys(&mut self, keys: &[Bytes]) -> Result<(), StoreError> {
        let mut writing = Writing::default();
        for key in keys {
            if let Some(live) = self.live(key)? {
                self.delete_live(live, &mut writing);
            }
        }
        self.finish(writing);
        Ok(())
    }

    /// Makes a revision of what a command wrote.
    fn finish(&mut self, writing: Writing) {
        if writing.events.is_empty() {
            return;
        }
        let revision = self.meta.begin_revision();
        self.meta.garbage += writing.superseded;
        self.meta.written += writing.written;
        self.meta.tombs = writing.tombs;
        let mut events = Vec::with_capacity(writing.events.len());
        for (sub, (mut event, prev)) in writing.events.into_iter().enumerate() {
            let place = (revision, sub as u32);
            let past = Past {
                deleted: event.deleted,
                kv: event.kv,
                sub: place.1,
                prev,
                garbage: self.meta.garbage,
            };
            let stored = past.store();
            event.kv = stored.kv;
            // Its own copy: the first key of a memtable's entry stays, whatever the value.
            let key = Bytes::copy_from_slice(&event.kv.key);
            match stored.live {
                Some(record) => {
                    self.hot.set(Live { kv: event.kv.clone(), sub: place.1 });
                    self.writes.put(Space::Latest, key, record);
                }
                None => {
                    self.hot.forget(&key);
                    self.writes.remove(Space::Latest, key);
                }
            }
            self.writes.put(Space::History, records::place_key(place), stored.event);
            events.push(event);
        }
        if events.len() > 1 {
            settle_prevs(&mut events);
        }
        if planted("watch: an event is dropped") && revision % 97 == 0 {
            events.pop();
        }
        self.revisions.push(Revision { revision, events });
    }
}

/// Watches are told the pair before the whole revision, even where a transaction
/// changed a key twice; a put that makes its key replaced nothing (as in etcd).
fn settle_prevs(events: &mut [Event]) {
    let mut before: BTreeMap<Bytes, Option<KeyValue>> = BTreeMap::new();
    for event in events {
        let first = before.entry(event.kv.key.clone()).or_insert_with(|| event.prev.clone());
        event.prev = first.clone().filter(|_| event.kv.create_revision != event.kv.mod_revision);
    }
}
