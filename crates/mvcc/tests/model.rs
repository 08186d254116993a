//! The state against a naive model that keeps every revision whole.

mod common;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use synod_mvcc::*;

#[derive(Clone, Debug)]
enum Step {
    Run(Command),
    Compact(u8),
    Sweep(usize),
    Commit,
    Reopen,
}

/// What one key held at each revision, leases, and how things are decided,
/// written down as simply as possible.
#[derive(Default)]
struct Model {
    /// One map per revision; index 0 is revision 1.
    at: Vec<BTreeMap<Bytes, KeyValue>>,
    events: Vec<Vec<Event>>,
    leases: BTreeMap<i64, (i64, u64)>,
    clock: u64,
    compacted: i64,
}

impl Model {
    fn new() -> Model {
        Model { at: vec![BTreeMap::new()], events: vec![Vec::new()], ..Model::default() }
    }

    fn revision(&self) -> i64 {
        self.at.len() as i64
    }

    fn now(&self) -> &BTreeMap<Bytes, KeyValue> {
        self.at.last().expect("there is revision 1")
    }

    fn finish(&mut self, map: BTreeMap<Bytes, KeyValue>, mut events: Vec<Event>) {
        if !events.is_empty() {
            // What was there before the whole revision, if the key is older than it.
            for event in &mut events {
                let old = event.deleted || event.kv.create_revision <= self.revision();
                event.prev = self.now().get(&event.kv.key).cloned().filter(|_| old);
            }
            self.at.push(map);
            self.events.push(events);
        }
    }

    fn put(&self, map: &mut BTreeMap<Bytes, KeyValue>, events: &mut Vec<Event>, p: &PutRequest) {
        let revision = self.revision() + 1;
        let there = map.contains_key(&p.key);
        let old = map.get(&p.key).cloned().unwrap_or_default();
        let kv = KeyValue {
            key: p.key.clone(),
            create_revision: if there { old.create_revision } else { revision },
            mod_revision: revision,
            version: old.version + 1,
            value: if p.ignore_value { old.value } else { p.value.clone() },
            lease: if p.ignore_lease { old.lease } else { p.lease },
        };
        map.insert(p.key.clone(), kv.clone());
        events.push(Event { deleted: false, kv, prev: None });
    }

    fn delete(
        &self,
        map: &mut BTreeMap<Bytes, KeyValue>,
        events: &mut Vec<Event>,
        doomed: impl Fn(&KeyValue) -> bool,
    ) -> Vec<KeyValue> {
        let gone: Vec<KeyValue> = map.values().filter(|kv| doomed(kv)).cloned().collect();
        for kv in &gone {
            map.remove(&kv.key);
            let mod_revision = self.revision() + 1;
            let last = KeyValue { key: kv.key.clone(), mod_revision, ..KeyValue::default() };
            events.push(Event { deleted: true, kv: last, prev: None });
        }
        gone
    }

    fn check_put(&self, p: &PutRequest) -> Result<(), Error> {
        if (p.ignore_value || p.ignore_lease) && !self.now().contains_key(&p.key) {
            return Err(Error::KeyNotFound);
        }
        self.check_lease(p)
    }

    fn check_lease(&self, p: &PutRequest) -> Result<(), Error> {
        if p.lease != 0 && !p.ignore_lease && !self.leases.contains_key(&p.lease) {
            return Err(Error::LeaseNotFound);
        }
        Ok(())
    }

    /// What a read gives at a revision, over `map` for the present.
    fn read(&self, map: &BTreeMap<Bytes, KeyValue>, r: &RangeRequest) -> RangeResult {
        let map = if r.revision > 0 { &self.at[r.revision as usize - 1] } else { map };
        let mut kvs: Vec<_> =
            map.values().filter(|kv| inside(&r.range, &kv.key)).cloned().collect();
        let count = kvs.len() as i64;
        kvs.retain(|kv| {
            (r.min_mod_revision == 0 || kv.mod_revision >= r.min_mod_revision)
                && (r.max_create_revision == 0 || kv.create_revision <= r.max_create_revision)
        });
        match (r.target, r.order) {
            (SortTarget::Key, SortOrder::Descend) => kvs.reverse(),
            (SortTarget::Mod, SortOrder::Descend) => {
                kvs.sort_by_key(|kv| std::cmp::Reverse(kv.mod_revision));
            }
            (SortTarget::Mod, _) => kvs.sort_by_key(|kv| kv.mod_revision),
            _ => {}
        }
        let limit = if r.limit > 0 { r.limit as usize } else { usize::MAX };
        let more = !r.count_only && kvs.len() > limit;
        kvs.truncate(if r.count_only { 0 } else { limit });
        RangeResult { kvs, more, count }
    }

    fn check_revision(&self, revision: i64) -> Result<(), Error> {
        if revision > self.revision() {
            Err(Error::FutureRevision)
        } else if revision > 0 && revision < self.compacted {
            Err(Error::Compacted)
        } else {
            Ok(())
        }
    }

    fn end_leases(&mut self, ids: &[i64]) {
        for id in ids {
            self.leases.remove(id);
            let (mut map, mut events) = (self.now().clone(), Vec::new());
            self.delete(&mut map, &mut events, |kv| kv.lease == *id);
            self.finish(map, events);
        }
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<Outcome, Error> {
        let holds = |c: &Compare| {
            let all = self.now().values().filter(|kv| inside(&c.range, &kv.key));
            let zero = KeyValue::default();
            let all: Vec<_> = all.collect();
            let all = if all.is_empty() { vec![&zero] } else { all };
            all.iter().all(|kv| match (&c.target, c.result) {
                (CompareTarget::Version(v), CompareResult::Equal) => kv.version == *v,
                (CompareTarget::Mod(v), CompareResult::Less) => kv.mod_revision < *v,
                _ => panic!("not generated"),
            })
        };
        let succeeded = txn.compare.iter().all(holds);
        let ops = if succeeded { &txn.success } else { &txn.failure };
        for op in ops {
            if let Op::Put(p) = op {
                self.check_put(p)?;
            }
        }
        for op in ops {
            if let Op::Range(r) = op {
                // Negative: a number like others here, and -1 is where compaction begins.
                if r.revision < 0 && (self.compacted > 0 || r.revision < -1) {
                    return Err(Error::Compacted);
                }
                self.check_revision(r.revision)?;
            }
        }
        let (mut map, mut events) = (self.now().clone(), Vec::new());
        let mut responses = Vec::new();
        for op in ops {
            responses.push(match op {
                Op::Range(r) => OpResult::Range(self.read(&map, r)),
                Op::Put(p) => {
                    let prev = map.get(&p.key).cloned().filter(|_| p.prev_kv);
                    self.put(&mut map, &mut events, p);
                    OpResult::Put(prev)
                }
                Op::Delete(d) => {
                    let gone = self.delete(&mut map, &mut events, |kv| inside(&d.range, &kv.key));
                    let n = gone.len() as i64;
                    OpResult::Delete(n, if d.prev_kv { gone } else { Vec::new() })
                }
                Op::Txn(_) => panic!("not generated"),
            });
        }
        self.finish(map, events);
        Ok(Outcome::Txn(TxnResult { succeeded, responses }))
    }

    fn run(&mut self, command: &Command) -> Result<Outcome, Error> {
        let one = |op: Op| TxnRequest { success: vec![op], ..TxnRequest::default() };
        match command {
            Command::Put(p) => {
                self.check_lease(p)?;
                match self.txn(&one(Op::Put(p.clone())))? {
                    Outcome::Txn(mut r) => match r.responses.pop() {
                        Some(OpResult::Put(prev)) => Ok(Outcome::Put(prev)),
                        _ => panic!("a put answers as a put"),
                    },
                    _ => panic!("a transaction answers as one"),
                }
            }
            Command::Delete(d) => match self.txn(&one(Op::Delete(d.clone())))? {
                Outcome::Txn(mut r) => match r.responses.pop() {
                    Some(OpResult::Delete(n, kvs)) => Ok(Outcome::Delete(n, kvs)),
                    _ => panic!("a delete answers as a delete"),
                },
                _ => panic!("a transaction answers as one"),
            },
            Command::Txn(t) => self.txn(t),
            Command::Compact { revision } => {
                if *revision <= self.compacted {
                    return Err(Error::Compacted);
                }
                self.check_revision(*revision)?;
                self.compacted = *revision;
                Ok(Outcome::Done)
            }
            Command::LeaseGrant { id, ttl, clock } => {
                if self.leases.contains_key(id) {
                    return Err(Error::LeaseExists);
                }
                self.clock = self.clock.max(*clock);
                let ttl = (*ttl).max(2);
                self.leases.insert(*id, (ttl, self.clock + ttl as u64 * 1000));
                Ok(Outcome::LeaseGranted(ttl))
            }
            Command::LeaseRevoke { id } => {
                if !self.leases.contains_key(id) {
                    return Err(Error::LeaseNotFound);
                }
                self.end_leases(&[*id]);
                Ok(Outcome::Done)
            }
            Command::LeaseExpire { ids, clock } => {
                self.clock = self.clock.max(*clock);
                let due = |id: &&i64| self.leases.get(*id).is_some_and(|(_, e)| e <= clock);
                let due: Vec<i64> = ids.iter().filter(due).copied().collect();
                self.end_leases(&due);
                Ok(Outcome::Done)
            }
            _ => panic!("not generated"),
        }
    }
}

fn check_reads(p: &Published<MemView>, model: &Model, from: &Bytes, to: &Bytes) {
    let range = KeyRange { key: from.clone(), end: to.clone() };
    for revision in 0..=model.revision() + 1 {
        for shape in 0..6 {
            let mut r = RangeRequest { range: range.clone(), revision, ..RangeRequest::default() };
            match shape {
                0 => r.range.end = Bytes::new(),
                1 => r.limit = 2,
                2 => (r.order, r.limit) = (SortOrder::Descend, 1),
                3 => (r.target, r.order, r.limit) = (SortTarget::Mod, SortOrder::Descend, 2),
                4 => (r.min_mod_revision, r.max_create_revision, r.limit) = (3, 6, 1),
                _ => r.count_only = true,
            }
            let want = model.check_revision(revision).map(|()| model.read(model.now(), &r));
            assert_eq!(p.range(&r).expect("the store works"), want, "{r:?}");
            let total = want.as_ref().map_or(0, |found| found.count as usize);
            for most in [total.saturating_sub(1), total] {
                let few = p.range_of_few(&r, most).expect("the store works");
                assert!(few.is_none_or(|few| few == want), "{r:?}, {most}");
            }
            let one_kind = revision == 0 && r.target == SortTarget::Key && to > from;
            if one_kind {
                let few = p.range_of_few(&r, total).expect("the store works");
                assert_eq!(few, Some(want), "{r:?}");
                assert!(
                    total == 0 || r.range.end.is_empty() || {
                        p.range_of_few(&r, total - 1).expect("the store works").is_none()
                    }
                );
            }
        }
    }
}

fn check_history(p: &Published<MemView>, model: &Model, range: &KeyRange) {
    for from in 1..=model.revision() {
        let got = p.history(from, i64::MAX, range, usize::MAX, true).expect("the store works");
        if from < model.compacted {
            assert_eq!(got, Err(Error::Compacted));
            continue;
        }
        let mut want = Vec::new();
        for revision in from..=model.revision() {
            let mut events = model.events[revision as usize - 1].clone();
            if revision == model.compacted {
                // Only what is readable at it, and its deletions.
                let now = &model.at[revision as usize - 1];
                events.retain(|e| e.deleted || now.get(&e.kv.key) == Some(&e.kv));
                events.iter_mut().for_each(|e| e.prev = None);
            }
            events.retain(|e| inside(range, &e.kv.key));
            if !events.is_empty() {
                want.push(Revision { revision, events });
            }
        }
        assert_eq!(got.expect("not compacted").revisions, want, "from {from}");
        // The same in small pieces.
        let (mut next, mut pieces) = (from, Vec::new());
        while next <= model.revision() {
            let piece = p.history(next, i64::MAX, range, 1, true).expect("the store works");
            let piece = piece.expect("not compacted");
            assert!(piece.next_revision > next, "it gets on");
            next = piece.next_revision;
            pieces.extend(piece.revisions);
        }
        assert_eq!(pieces, want);
    }
}

fn put() -> impl Strategy<Value = PutRequest> {
    let flags = (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (key(), 0u8..99, 0i64..4, flags).prop_map(|(key, v, lease, (prev_kv, iv, il))| PutRequest {
        key,
        value: if iv { Bytes::new() } else { Bytes::from(vec![v; usize::from(v) % 5]) },
        lease: if il { 0 } else { lease % 3 },
        prev_kv,
        ignore_value: iv,
        ignore_lease: il,
    })
}

fn delete() -> impl Strategy<Value = DeleteRequest> {
    (range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRequest { range, prev_kv })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => put().prop_map(Op::Put),
        1 => delete().prop_map(Op::Delete),
        2 => (range(), 0i64..12).prop_map(|(range, revision)| {
            Op::Range(RangeRequest { range, revision: revision - 6, ..RangeRequest::default() })
        }),
    ]
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let compare = (range(), any::<bool>(), 0i64..4).prop_map(|(range, version, n)| Compare {
        range,
        target: if version { CompareTarget::Version(n % 2) } else { CompareTarget::Mod(n * 4) },
        result: if version { CompareResult::Equal } else { CompareResult::Less },
    });
    (
        prop::collection::vec(compare, 0..2),
        prop::collection::vec(op(), 0..4),
        prop::collection::vec(op(), 0..4),
    )
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn step() -> impl Strategy<Value = Step> {
    let lease = 1i64..4;
    prop_oneof![
        6 => put().prop_map(|p| Step::Run(Command::Put(p))),
        3 => delete().prop_map(|d| Step::Run(Command::Delete(d))),
        4 => txn().prop_map(|t| Step::Run(Command::Txn(t))),
        2 => (lease.clone(), 1i64..5, 0u64..9000)
            .prop_map(|(id, ttl, clock)| Step::Run(Command::LeaseGrant { id, ttl, clock })),
        1 => lease.clone().prop_map(|id| Step::Run(Command::LeaseRevoke { id })),
        1 => (prop::collection::vec(lease, 0..3), 0u64..12000)
            .prop_map(|(ids, clock)| Step::Run(Command::LeaseExpire { ids, clock })),
        2 => any::<u8>().prop_map(Step::Compact),
        2 => (1usize..6).prop_map(Step::Sweep),
        3 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn like_the_model(
        steps in prop::collection::vec(step(), 1..50),
        from in key(),
        to in key(),
    ) {
        let mut model = Model::new();
        let mut state = state();
        // A second node: commits and removes at other times, must end the same.
        let mut other = common::state();
        let mut made = Vec::new();
        for step in steps {
            match step {
                Step::Compact(n) => {
                    let revision = i64::from(n) % (model.revision() + 2);
                    let command = Command::Compact { revision };
                    prop_assert_eq!(run(&mut state, &command), model.run(&command));
                    let _ = run(&mut other, &command);
                }
                Step::Run(command) => {
                    let bytes = command.encode();
                    prop_assert_eq!(&Command::decode(bytes).expect("it decodes"), &command);
                    prop_assert_eq!(run(&mut state, &command), model.run(&command));
                    let _ = run(&mut other, &command);
                    prop_assert_eq!(state.revision(), model.revision());
                }
                Step::Sweep(budget) => {
                    state.compact_step(budget).expect("the store works");
                }
                Step::Commit => made.extend(state.commit().expect("the store works")),
                Step::Reopen => {
                    made.extend(state.commit().expect("the store works"));
                    state = State::open(state.into_store(), StateLimits::default()).expect("opens");
                }
            }
        }
        made.extend(state.commit().expect("the store works"));
        let events: Vec<_> = made.into_iter().map(|r| r.events).collect();
        prop_assert_eq!(&events[..], &model.events[1..]);
        let p = state.reader().published();
        check_reads(&p, &model, &from, &to);
        check_history(&p, &model, &KeyRange { key: from, end: to });
        let leases: Vec<i64> = model.leases.keys().copied().collect();
        prop_assert_eq!(p.leases().expect("the store works"), leases);
        for (id, (ttl, expiry)) in &model.leases {
            let keys = model.now().values().filter(|kv| kv.lease == *id);
            let want = LeaseInfo {
                id: *id,
                granted_ttl: *ttl,
                expiry_clock: *expiry,
                keys: keys.map(|kv| kv.key.clone()).collect(),
            };
            prop_assert_eq!(p.lease(*id).expect("the store works"), Some(want));
        }
        other.commit().expect("the store works");
        let q = other.reader().published();
        for revision in 0..=model.revision() {
            let (a, b) = (p.hash_kv(revision), q.hash_kv(revision));
            prop_assert_eq!(a.expect("the store works"), b.expect("the store works"));
        }
        prop_assert_eq!(p.hash().expect("the store works"), q.hash().expect("the store works"));
        prop_assert_eq!(snapshot_copy(&p).hash(), p.hash());
    }

    #[test]
    fn any_bytes_as_a_command(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0u8..14) {
        let _ = Command::decode(Bytes::from(bytes.clone()));
        let mut framed = vec![1, kind];
        framed.extend(bytes);
        if let Ok(command) = Command::decode(framed.into()) {
            let again = Command::decode(command.encode()).expect("what encodes decodes");
            prop_assert_eq!(again, command);
        }
    }
}
