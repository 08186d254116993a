//! etcd's semantics, one at a time.

mod common;

use bytes::Bytes;
use common::*;
use synod_base::NodeId;
use synod_mvcc::*;

fn b(s: &'static str) -> Bytes {
    Bytes::from_static(s.as_bytes())
}

fn one(key: &'static str) -> KeyRange {
    KeyRange { key: b(key), end: Bytes::new() }
}

fn span(key: &'static str, end: &'static str) -> KeyRange {
    KeyRange { key: b(key), end: b(end) }
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: b(key), value: b(value), ..PutRequest::default() }
}

fn delete(range: KeyRange) -> DeleteRequest {
    DeleteRequest { range, prev_kv: false }
}

fn then(success: Vec<Op>) -> TxnRequest {
    TxnRequest { success, ..TxnRequest::default() }
}

fn get(state: &State<MemStore>, key: &'static str) -> Option<KeyValue> {
    let req = RangeRequest { range: one(key), ..RangeRequest::default() };
    state.range(&req).expect("the store works").expect("allowed").kvs.pop()
}

fn ok(state: &mut State<MemStore>, command: Command) -> Outcome {
    run(state, &command).expect("allowed")
}

#[test]
fn revisions() {
    let mut s = state();
    assert_eq!(s.revision(), 1, "empty");
    assert_eq!(ok(&mut s, Command::Delete(delete(one("a")))), Outcome::Delete(0, vec![]));
    ok(&mut s, Command::Txn(TxnRequest::default()));
    assert_eq!(s.revision(), 1, "nothing was written");
    ok(&mut s, Command::Put(put("a", "1")));
    ok(&mut s, Command::Txn(then(vec![Op::Put(put("b", "1")), Op::Put(put("c", "1"))])));
    assert_eq!(s.revision(), 3, "one for a transaction");
    ok(&mut s, Command::Put(put("a", "2")));
    let a = get(&s, "a").expect("it is there");
    assert_eq!((a.create_revision, a.mod_revision, a.version), (2, 4, 2));
    ok(&mut s, Command::Delete(delete(one("a"))));
    ok(&mut s, Command::Put(put("a", "3")));
    let a = get(&s, "a").expect("it is there");
    assert_eq!((a.create_revision, a.mod_revision, a.version), (6, 6, 1));
    assert_eq!(s.applied(), 7, "every command moves the applied index");
}

#[test]
fn a_refused_transaction_changes_nothing() {
    for (bad, error) in [
        (Op::Put(PutRequest { lease: 9, ..put("z", "") }), Error::LeaseNotFound),
        (Op::Put(PutRequest { ignore_value: true, ..put("z", "") }), Error::KeyNotFound),
        (Op::Range(RangeRequest { revision: 4, ..RangeRequest::default() }), Error::FutureRevision),
        (Op::Range(RangeRequest { revision: 1, ..RangeRequest::default() }), Error::Compacted),
    ] {
        let mut s = state();
        ok(&mut s, Command::Put(put("a", "1")));
        ok(&mut s, Command::Put(put("a", "2")));
        ok(&mut s, Command::Compact { revision: 2 });
        let nested = Op::Txn(then(vec![bad]));
        let txn = then(vec![Op::Put(put("b", "1")), nested]);
        assert_eq!(run(&mut s, &Command::Txn(txn)), Err(error));
        assert_eq!((s.revision(), get(&s, "b")), (3, None));
        let made = s.commit().expect("the store works");
        assert_eq!(made.len(), 2);
    }
}

#[test]
fn reads_in_a_transaction_see_its_writes() {
    let mut s = state();
    ok(&mut s, Command::Put(put("a", "1")));
    let read = |revision| {
        Op::Range(RangeRequest { range: span("a", "z"), revision, ..RangeRequest::default() })
    };
    let txn =
        then(vec![Op::Put(put("b", "1")), read(0), read(2), Op::Delete(delete(one("a"))), read(0)]);
    let Outcome::Txn(result) = ok(&mut s, Command::Txn(txn)) else { panic!("a transaction") };
    let counts: Vec<i64> = result
        .responses
        .iter()
        .filter_map(|r| match r {
            OpResult::Range(r) => Some(r.count),
            _ => None,
        })
        .collect();
    assert_eq!(counts, [2, 1, 1]);
}

#[test]
fn nested_conditions_are_decided_before_anything_is_written() {
    let mut s = state();
    let missing = Compare {
        range: one("a"),
        target: CompareTarget::Version(0),
        result: CompareResult::Equal,
    };
    let inner = TxnRequest { compare: vec![missing], ..then(vec![Op::Put(put("b", "1"))]) };
    let txn = then(vec![Op::Put(put("a", "1")), Op::Txn(inner)]);
    ok(&mut s, Command::Txn(txn));
    assert!(get(&s, "b").is_some());
}

#[test]
fn comparing() {
    use CompareResult::*;
    use CompareTarget::*;
    let mut s = state();
    ok(&mut s, Command::Put(put("a", "m")));
    ok(&mut s, Command::Put(put("b", "n")));
    for (range, target, result, holds) in [
        (one("x"), Version(0), Equal, true),
        (one("x"), Create(0), Equal, true),
        (one("x"), Lease(0), Equal, true),
        (one("x"), Value(b("")), Equal, false),
        (one("x"), Value(b("q")), NotEqual, false),
        (one("a"), Value(b("m")), Equal, true),
        (one("a"), Value(b("l")), Greater, true),
        (one("a"), Mod(3), Less, true),
        (span("a", "c"), Version(1), Equal, true),
        (span("a", "c"), Mod(2), Equal, false),
        (span("a", "\0"), Mod(1), Greater, true),
    ] {
        let compare = vec![Compare { range, target, result }];
        let txn = TxnRequest { compare: compare.clone(), ..TxnRequest::default() };
        let Outcome::Txn(r) = ok(&mut s, Command::Txn(txn)) else { panic!("a transaction") };
        assert_eq!(r.succeeded, holds, "{compare:?}");
    }
}

#[test]
fn leases() {
    let mut s = state();
    let grant = |id, ttl| Command::LeaseGrant { id, ttl, clock: 1000 };
    assert_eq!(ok(&mut s, grant(7, 1)), Outcome::LeaseGranted(2), "the least is granted");
    assert_eq!(run(&mut s, &grant(7, 5)), Err(Error::LeaseExists));
    assert_eq!(run(&mut s, &grant(8, LEASE_TTL_MAX + 1)), Err(Error::LeaseTtlTooLarge));
    ok(&mut s, grant(8, 10));
    for key in ["a", "b", "c"] {
        ok(&mut s, Command::Put(PutRequest { lease: 7, ..put(key, "1") }));
    }
    ok(&mut s, Command::Put(PutRequest { lease: 8, ..put("b", "2") }));
    ok(&mut s, Command::Put(put("c", "2")));
    assert_eq!((s.due_leases(3000, 9), s.next_lease_due()), (vec![7], Some(3000)));
    let expire = |clock| Command::LeaseExpire { ids: vec![7, 8, 9], clock };
    ok(&mut s, Command::LeaseRenew { ids: vec![7], clock: 2500 });
    ok(&mut s, expire(3000));
    assert!(get(&s, "a").is_some(), "the renewal saved it");
    ok(&mut s, Command::LeaseClock { clock: 100 });
    assert_eq!(s.lease_clock(), 3000, "it never goes back");
    ok(&mut s, expire(4500));
    assert_eq!((get(&s, "a"), get(&s, "b").is_some(), get(&s, "c").is_some()), (None, true, true));
    let renewed = ok(&mut s, Command::LeaseRenew { ids: vec![7, 8], clock: 5000 });
    assert_eq!(renewed, Outcome::LeaseRenewed(vec![(7, 0), (8, 10)]));
    s.commit().expect("the store works");
    let lease = s.reader().published().lease(8).expect("the store works").expect("it is there");
    assert_eq!((lease.granted_ttl, lease.expiry_clock, lease.keys), (10, 15_000, vec![b("b")]));
    assert_eq!(ok(&mut s, Command::LeaseRevoke { id: 8 }), Outcome::Done);
    assert_eq!(run(&mut s, &Command::LeaseRevoke { id: 8 }), Err(Error::LeaseNotFound));
    assert_eq!(get(&s, "b"), None);
}

#[test]
fn alarms() {
    let mut s = state();
    let alarm = |raise, kind| Command::Alarm { raise, member: NodeId(1), kind };
    ok(&mut s, Command::Put(put("a", "1")));
    let put_b = Command::Put(put("b", "1"));
    let nested = Command::Txn(then(vec![Op::Txn(TxnRequest {
        failure: vec![Op::Put(put("b", "1"))],
        ..TxnRequest::default()
    })]));
    let grant = Command::LeaseGrant { id: 1, ttl: 5, clock: 0 };
    ok(&mut s, alarm(true, AlarmKind::NoSpace));
    for refused in [&put_b, &nested, &grant] {
        assert_eq!(run(&mut s, refused), Err(Error::NoSpace));
    }
    ok(&mut s, Command::Delete(delete(one("a"))));
    ok(&mut s, Command::Compact { revision: 3 });
    ok(&mut s, alarm(true, AlarmKind::Corrupt));
    assert_eq!(run(&mut s, &Command::Delete(delete(one("a")))), Err(Error::Corrupt));
    ok(&mut s, alarm(false, AlarmKind::Corrupt));
    ok(&mut s, alarm(false, AlarmKind::NoSpace));
    ok(&mut s, put_b);
    assert!(s.alarms().is_empty());
}

#[test]
fn the_logical_size_is_what_is_readable() {
    let mut s = state();
    ok(&mut s, Command::Put(put("a", "1")));
    let one_pair = s.logical_size();
    for _ in 0..9 {
        ok(&mut s, Command::Put(put("a", "2")));
    }
    assert_eq!(s.logical_size(), 10 * one_pair);
    ok(&mut s, Command::Compact { revision: 10 });
    assert_eq!(s.logical_size(), 2 * one_pair, "at once, before anything is removed");
    ok(&mut s, Command::Compact { revision: 11 });
    assert_eq!(s.logical_size(), one_pair);
    ok(&mut s, Command::Delete(delete(one("a"))));
    ok(&mut s, Command::Compact { revision: 12 });
    assert!(s.logical_size() > 0, "a deletion at the compacted revision is readable");
    ok(&mut s, Command::Put(put("b", "1")));
    ok(&mut s, Command::Compact { revision: 13 });
    assert_eq!(s.logical_size(), one_pair);
}

#[test]
fn transactions_are_checked_as_etcd_does() {
    use TxnProblem::*;
    let p = |key| Op::Put(put(key, ""));
    let d = |range| Op::Delete(delete(range));
    let t = |success, failure| Op::Txn(TxnRequest { compare: vec![], success, failure });
    let long = |bytes| PutRequest { key: vec![b'k'; bytes].into(), ..put("", "v") };
    let both = PutRequest { ignore_value: true, ..put("a", "x") };
    let leased = PutRequest { ignore_lease: true, lease: 1, ..put("a", "") };
    for (ops, want) in [
        (vec![p("a"), p("b")], Ok(())),
        (vec![p("a"), p("a")], Err(DuplicateKey)),
        (vec![p("b"), d(span("a", "c"))], Err(DuplicateKey)),
        (vec![p("c"), d(span("a", "c"))], Ok(())),
        (vec![d(one("a")), d(one("a"))], Ok(())),
        (vec![t(vec![p("a")], vec![p("a")])], Ok(())),
        (vec![t(vec![p("a")], vec![]), p("a")], Err(DuplicateKey)),
        (vec![t(vec![p("a")], vec![]), t(vec![], vec![p("a")])], Err(DuplicateKey)),
        (vec![t(vec![d(one("a"))], vec![]), p("a")], Err(DuplicateKey)),
        (vec![p("")], Err(EmptyKey)),
        (vec![Op::Put(long(KEY_BYTES_MAX))], Ok(())),
        (vec![Op::Put(long(KEY_BYTES_MAX + 1))], Err(KeyTooLong)),
        (vec![Op::Range(RangeRequest::default())], Err(EmptyKey)),
        (vec![Op::Put(both)], Err(ValueProvided)),
        (vec![Op::Put(leased)], Err(LeaseProvided)),
        (vec![p("a"), p("b"), p("c"), p("d"), p("e")], Err(TooManyOps)),
        (vec![p("a"), p("b"), t(vec![p("c"), p("d")], vec![])], Err(TooManyOps)),
    ] {
        assert_eq!(check_txn(&then(ops.clone()), 4), want, "{ops:?}");
        let failure = TxnRequest { failure: ops, ..TxnRequest::default() };
        assert_eq!(check_txn(&failure, 4), want, "in the other branch");
    }
}

/// Whatever way they come: what is agreed on must be applied.
#[test]
fn too_long_keys_are_refused_and_read_as_absent() {
    let mut s = state();
    let long = |bytes| PutRequest { key: vec![b'k'; bytes].into(), ..put("", "v") };
    assert_eq!(run(&mut s, &Command::Put(long(KEY_BYTES_MAX + 1))), Err(Error::KeyTooLong));
    let puts = then(vec![Op::Put(put("a", "v")), Op::Put(long(KEY_BYTES_MAX + 1))]);
    assert_eq!(run(&mut s, &Command::Txn(puts)), Err(Error::KeyTooLong));
    let huge = KeyRange { key: vec![b'k'; 100_000].into(), ..one("") };
    let Outcome::Delete(deleted, _) = ok(&mut s, Command::Delete(delete(huge))) else {
        panic!("a delete")
    };
    assert_eq!(deleted, 0);
    ok(&mut s, Command::Put(put("a", "v")));
}

#[test]
fn a_restored_state_moves_on() {
    let mut s = state();
    ok(&mut s, Command::LeaseGrant { id: 5, ttl: 60, clock: 0 });
    ok(&mut s, Command::Put(PutRequest { lease: 5, ..put("a", "1") }));
    ok(&mut s, Command::Put(put("b", "1")));
    ok(&mut s, Command::Delete(delete(one("b"))));
    let member = MemberInfo { id: NodeId(3), name: "n3".into(), ..MemberInfo::default() };
    s.rebase(REVISION_BUMP, 0, 0, [member]);
    s.commit().expect("the store works");
    assert_eq!((s.applied(), s.revision(), s.compacted()), (0, 1_000_000_004, 1_000_000_004));
    assert_eq!(s.members().len(), 1);
    let p = s.reader().published();
    let read = |revision| {
        let req = RangeRequest { range: one("a"), revision, ..RangeRequest::default() };
        p.range(&req).expect("the store works").map(|r| r.count)
    };
    assert_eq!((read(0), read(1_000_000_004), read(4)), (Ok(1), Ok(1), Err(Error::Compacted)));
    while s.compact_step(2).expect("the store works") {}
    s.commit().expect("the store works");
    assert_eq!(s.reader().published().hash().ok(), p.hash().ok());
    ok(&mut s, Command::Put(put("c", "1")));
    assert_eq!(get(&s, "c").map(|kv| kv.mod_revision), Some(1_000_000_005));
}

#[test]
fn removals_wait_for_a_store_that_is_behind() {
    let mut s = state();
    for value in ["1", "2", "3"] {
        ok(&mut s, Command::Put(put("a", value)));
    }
    ok(&mut s, Command::Compact { revision: 4 });
    assert!(s.compaction_due());
    // What clients write comes first: more work now would make it wait.
    s.store_mut().set_behind(true);
    assert!(!s.compaction_due());
    s.store_mut().set_behind(false);
    assert!(s.compaction_due());
    while s.compact_step(1).expect("the store works") {}
    assert!(!s.compaction_due());
}

#[test]
fn damaged_snapshots_are_refused() {
    let mut s = state();
    for key in ["a", "b", "c"] {
        ok(&mut s, Command::Put(put(key, "value")));
    }
    s.commit().expect("the store works");
    let p = s.reader().published();
    let bytes = snapshot(&p, 64).concat();
    let read = |bytes: &[u8]| {
        let mut reader = SnapshotReader::new();
        let mut n = 0;
        for piece in bytes.chunks(17) {
            n += reader.feed(piece)?.len();
        }
        reader.finish().map(|_| n)
    };
    assert!(read(&bytes).expect("it is whole") > 6);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        assert!(read(&damaged).is_err(), "byte {at} damaged");
        assert!(read(&bytes[..at]).is_err(), "cut at {at}");
    }
    let more = [&bytes[..], b"x"].concat();
    assert!(read(&more).is_err(), "something behind it");
    let chunks = snapshot(&p, 64);
    let swapped: Vec<Bytes> = [0, 2, 1].iter().map(|i| chunks[*i].clone()).collect();
    assert!(read(&[&swapped.concat()[..], &chunks[3..].concat()].concat()).is_err());
}

/// Found by asking a real etcd the same (`crates/synod/tests/differential.rs`).
#[test]
fn which_of_two_errors_is_told() {
    let mut s = state();
    ok(&mut s, Command::Put(put("a", "1")));
    ok(&mut s, Command::Put(put("a", "2")));
    ok(&mut s, Command::Compact { revision: 3 });
    let both = PutRequest { lease: 9, ignore_value: true, ..put("z", "") };
    assert_eq!(run(&mut s, &Command::Put(both.clone())), Err(Error::LeaseNotFound));
    let old = |revision| Op::Range(RangeRequest { revision, ..RangeRequest::default() });
    for (ops, error) in [
        (vec![Op::Put(both.clone())], Error::KeyNotFound),
        (vec![old(2), Op::Put(both)], Error::KeyNotFound),
        (vec![old(-1)], Error::Compacted),
    ] {
        assert_eq!(run(&mut s, &Command::Txn(then(ops))), Err(error));
    }
    let alone = RangeRequest { range: one("a"), revision: -1, ..RangeRequest::default() };
    assert_eq!(s.range(&alone).expect("the store works").expect("the present").count, 1);
}

#[test]
fn a_sort_target_without_an_order_sorts_what_the_limit_left() {
    let mut s = state();
    for key in ["c", "b", "a"] {
        ok(&mut s, Command::Put(put(key, "")));
    }
    let range = |order| RangeRequest {
        range: span("a", "z"),
        limit: 1,
        target: SortTarget::Create,
        order,
        ..RangeRequest::default()
    };
    // Of the first two keys, the older one; with an order, the oldest of all.
    for (order, key) in [(SortOrder::None, "b"), (SortOrder::Ascend, "c")] {
        let found = s.range(&range(order)).expect("the store works").expect("allowed");
        assert_eq!((&found.kvs[0].key[..], found.more, found.count), (key.as_bytes(), true, 3));
    }
}

#[test]
fn an_event_tells_what_was_there_before_its_revision() {
    let mut s = state();
    ok(&mut s, Command::Put(put("a", "1")));
    ok(&mut s, Command::Txn(then(vec![Op::Put(put("a", "2")), Op::Delete(delete(one("a")))])));
    ok(&mut s, Command::Put(put("a", "3")));
    ok(&mut s, Command::Txn(then(vec![Op::Delete(delete(one("a"))), Op::Put(put("a", "4"))])));
    let made = s.commit().expect("the store works");
    let prevs = |revisions: &[Revision]| -> Vec<Option<Bytes>> {
        let events = revisions.iter().flat_map(|r| &r.events);
        events.map(|e| e.prev.as_ref().map(|kv| kv.value.clone())).collect()
    };
    let expected = [None, Some("1"), Some("1"), None, Some("3"), None];
    let expected: Vec<_> = expected.map(|v| v.map(b)).to_vec();
    assert_eq!(prevs(&made), expected, "as it happens");
    let all = KeyRange { key: b("\0"), end: b("\0") };
    let published = s.reader().published();
    let read = published.history(2, 5, &all, 1 << 20, true);
    let read = read.expect("the store works").expect("not compacted");
    assert_eq!(prevs(&read.revisions), expected, "as it is read later");
}
