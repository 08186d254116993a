//! Known good and known bad histories: each checker lets the first pass and stops the second,
//! by its own rule.

use crate::locks::Locks;
use crate::model::Model;
use crate::oracle::{Found, Oracle};
use crate::watcher::Watcher;
use bytes::Bytes;
use synod_base::NodeId;
use synod_cell::Agreed;
use synod_coord::{Mode, Sequencer};
use synod_mvcc::{Command, HashKv, KeyRange, Outcome, PutRequest, Revision};

fn rule(done: Result<(), Found>) -> &'static str {
    done.err().map_or("none", |(rule, _)| rule)
}

fn put(key: &'static str, value: &'static str) -> Command {
    let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()));
    Command::Put(PutRequest { key, value, ..Default::default() })
}

/// A model with revisions 2 to 5, on keys a, b, a, b.
fn model() -> Model {
    let mut model = Model::new(1);
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")] {
        model.apply(&put(key, value)).expect("a put");
    }
    model
}

fn watch(end: &'static [u8]) -> Watcher {
    let key = if end.is_empty() { &b"a"[..] } else { &b"\0"[..] };
    Watcher::new(KeyRange { key: Bytes::from_static(key), end: Bytes::from_static(end) })
}

#[test]
fn watches() {
    let model = model();
    let made = model.revisions.clone();
    let mut good = watch(b"\0");
    assert_eq!(rule(good.feed(&made[..2], &model)), "none");
    // What it has had is passed over, as after a break.
    assert_eq!(rule(good.feed(&made[1..], &model)), "none");
    assert_eq!(good.received, 4);
    // Of one key: the others are no gap.
    let mut one = watch(b"");
    assert_eq!(rule(one.feed(&made, &model)), "none");
    assert_eq!(one.received, 2);

    // A gap, at a stretch and between two; the wrong order.
    assert_eq!(rule(watch(b"\0").feed(&made[1..], &model)), "watch");
    let gap = [made[0].clone(), made[2].clone()];
    assert_eq!(rule(watch(b"\0").feed(&gap, &model)), "watch");
    assert_eq!(rule(watch(b"").feed(&made[1..], &model)), "watch");
    let turned = [made[1].clone(), made[0].clone()];
    assert_eq!(rule(watch(b"\0").feed(&turned, &model)), "watch");
    // An event that is left out, changed, or was never made.
    let mut none = made.clone();
    none[1].events.clear();
    assert_ne!(rule(watch(b"\0").feed(&none, &model)), "none");
    let mut changed = made.clone();
    changed[3].events[0].kv.value = Bytes::from_static(b"5");
    assert_eq!(rule(watch(b"\0").feed(&changed, &model)), "watch");
    let mut never = made.clone();
    never.push(Revision { revision: 6, ..made[3].clone() });
    assert_eq!(rule(watch(b"\0").feed(&never, &model)), "watch");
}

fn sequencer(token: i64, mode: Mode) -> Sequencer {
    Sequencer { name: b"lock".to_vec(), token, mode, session: token }
}

#[test]
fn locks() {
    let (x, s) = (Mode::Exclusive, Mode::Shared);
    // One after another, and sharers beside each other.
    let mut good = Locks::default();
    assert_eq!(rule(good.holds(&sequencer(5, x), 1, 0, (100, 150))), "none");
    assert_eq!(rule(good.holds(&sequencer(7, s), 2, 150, (300, 300))), "none");
    assert_eq!(rule(good.holds(&sequencer(8, s), 3, 160, (300, 300))), "none");
    good.gave_up(b"lock", 2, false);
    good.gave_up(b"lock", 3, false);
    assert_eq!(rule(good.holds(&sequencer(9, x), 4, 170, (300, 300))), "none");
    // Renewed by its own holder; another lock is another lock.
    assert_eq!(rule(good.holds(&sequencer(9, x), 4, 200, (400, 400))), "none");
    let other = Sequencer { name: b"other".to_vec(), ..sequencer(10, x) };
    assert_eq!(rule(good.holds(&other, 5, 200, (400, 400))), "none");

    let held = |first: Mode| {
        let mut locks = Locks::default();
        locks.holds(&sequencer(5, first), 1, 0, (100, 150)).expect("the first holder");
        locks
    };
    assert_eq!(rule(held(x).holds(&sequencer(6, x), 2, 99, (200, 200))), "lock");
    assert_eq!(rule(held(x).holds(&sequencer(6, s), 2, 99, (200, 200))), "lock");
    assert_eq!(rule(held(s).holds(&sequencer(6, x), 2, 99, (200, 200))), "lock");
    assert_eq!(rule(held(x).holds(&sequencer(6, x), 2, 149, (200, 200))), "lock-delay");
    assert_eq!(rule(held(x).holds(&sequencer(5, x), 2, 150, (200, 200))), "fencing token");
    let mut lost = held(x);
    lost.gave_up(b"lock", 1, true);
    assert_eq!(rule(lost.holds(&sequencer(6, x), 2, 149, (200, 200))), "lock-delay");
    // Clocks that jumped end what was promised by them.
    let mut jumped = held(x);
    jumped.jump(60);
    assert_eq!(rule(jumped.holds(&sequencer(6, x), 2, 90, (200, 200))), "none");
}

#[test]
fn fences() {
    let (x, s) = (Mode::Exclusive, Mode::Shared);
    let after = |first: (i64, Mode), second: (i64, Mode), revisions: (i64, i64)| {
        let mut locks = Locks::default();
        locks.wrote(&sequencer(first.0, first.1), revisions.0).expect("the first write");
        rule(locks.wrote(&sequencer(second.0, second.1), revisions.1))
    };
    assert_eq!(after((5, x), (5, x), (10, 11)), "none");
    assert_eq!(after((5, x), (6, x), (10, 11)), "none");
    assert_eq!(after((6, s), (5, s), (10, 11)), "none");
    assert_eq!(after((6, x), (5, x), (10, 11)), "fence");
    assert_eq!(after((6, s), (5, x), (10, 11)), "fence");
    // Told in the other order, they are the same.
    assert_eq!(after((6, x), (5, x), (11, 10)), "none");
    assert_eq!(after((5, x), (6, x), (11, 10)), "fence");
}

fn entry(index: u64, term: u64, ticket: u64, command: &Command) -> Agreed {
    let (origin, commands) = (NodeId(1), vec![command.encode()]);
    Agreed { index, term, origin, ticket, commands }
}

#[test]
fn leases() {
    // Lease 9 lives until its time by the leader's clock: then it is ended at `now`, µs.
    let ended_at = |now: u64, jump: u64| {
        let mut oracle = Oracle::new(1);
        let grant = Command::LeaseGrant { id: 9, ttl: 2, clock: 0 };
        oracle.applied(NodeId(1), entry(2, 1, 1, &grant), 0).expect("granted");
        oracle.promise(9, 1_000_000);
        oracle.promise(9, 2_000_000);
        oracle.jump(jump);
        let expire = Command::LeaseExpire { ids: vec![9], clock: 60_000 };
        rule(oracle.applied(NodeId(1), entry(3, 1, 2, &expire), now))
    };
    assert_eq!(ended_at(2_000_000, 0), "none");
    assert_eq!(ended_at(1_999_999, 0), "lease");
    assert_eq!(ended_at(0, 0), "lease");
    assert_eq!(ended_at(1_500_000, 500_000), "none");
    assert_eq!(ended_at(1_400_000, 500_000), "lease");
}

/// One that has seen three entries of ballot 2: puts of node 1, by tickets 1 to 3.
fn oracle() -> Oracle {
    let mut oracle = Oracle::new(1);
    for (n, value) in [(1, "1"), (2, "2"), (3, "3")] {
        oracle.applied(NodeId(1), entry(n + 1, 2, n, &put("a", value)), 0).expect("in order");
    }
    oracle
}

#[test]
fn what_is_agreed_on() {
    let (one, two) = (NodeId(1), NodeId(2));
    let good = entry(3, 2, 2, &put("a", "2"));
    assert_eq!(rule(oracle().applied(two, good, 0)), "none");
    let rules = [
        (entry(3, 2, 2, &put("a", "9")), "state machine safety"),
        (entry(3, 1, 2, &put("a", "2")), "state machine safety"),
        (entry(6, 2, 4, &put("a", "4")), "state machine safety"),
        (entry(5, 1, 4, &put("a", "4")), "ballots in order"),
        (entry(5, 2, 3, &put("a", "3")), "exactly once"),
        (entry(5, 3, 4, &put("a", "4")), "none"),
    ];
    for (entry, expected) in rules {
        let what = format!("{entry:?}");
        assert_eq!(rule(oracle().applied(two, entry, 0)), expected, "{what}");
    }
    let mut leaders = oracle();
    assert_eq!(rule(leaders.leads(one, 2)), "none");
    assert_eq!(rule(leaders.leads(two, 3)), "none");
    assert_eq!(rule(leaders.leads(two, 2)), "one leader a ballot");
}

#[test]
fn what_clients_are_told() {
    let one = NodeId(1);
    let answer = |revision| Ok((Outcome::Put(None), revision));
    // The second put made revision 3; index 2 had been seen when it began.
    let answered = |ticket, frontier, revision| {
        rule(oracle().answered((one, ticket), frontier, &answer(revision)))
    };
    assert_eq!(answered(2, 2, 3), "none");
    assert_eq!(answered(2, 2, 4), "answers");
    assert_eq!(answered(7, 2, 3), "answers");
    assert_eq!(answered(2, 3, 3), "linearizability");
    // Refused is refused, before and after.
    assert_eq!(rule(oracle().was_refused((one, 7))), "none");
    assert_eq!(rule(oracle().was_refused((one, 2))), "refused means nothing changed");
    let mut refused = oracle();
    refused.was_refused((one, 4)).expect("not applied");
    let late = refused.applied(one, entry(5, 2, 4, &put("a", "4")), 0);
    assert_eq!(rule(late), "refused means nothing changed");
    // Reads: of the newest that was seen, or later.
    assert_eq!(rule(oracle().read(4, 4)), "none");
    assert_eq!(rule(oracle().read(3, 4)), "linearizability");
}

#[test]
fn what_members_hold() {
    let one = NodeId(1);
    let made = oracle().model.revisions.clone();
    assert_eq!(rule(oracle().revisions(one, &made)), "none");
    let mut other = made.clone();
    other[1].events[0].kv.value = Bytes::from_static(b"9");
    assert_eq!(rule(oracle().revisions(one, &other)), "revisions");
    let hash = |hash, compact_revision| HashKv { hash, compact_revision, hash_revision: 16 };
    let mut oracle = oracle();
    assert_eq!(rule(oracle.hashed(one, hash(1, 0))), "none");
    assert_eq!(rule(oracle.hashed(NodeId(2), hash(1, 0))), "none");
    assert_eq!(rule(oracle.hashed(NodeId(2), hash(2, 5))), "none");
    assert_eq!(rule(oracle.hashed(NodeId(3), hash(2, 0))), "equal hashes");
}
