//! Tests of the codecs, of recovery, and of what makes this Paxos.

use super::message::{Answer, Ask, Body, Message, Report};
use super::record::{Record, replay};
use super::{Paxos, WINDOW};
use crate::config::Membership;
use crate::contract::{
    Consensus, Entry, EntryKind, Input, Limits, Output, Recovered, SnapshotMeta,
};
use crate::entries::Entries;
use crate::event::VoteRefusal;
use bytes::Bytes;
use proptest::prelude::*;
use synod_base::{NodeId, Tick};

fn kinds() -> impl Strategy<Value = EntryKind> {
    prop_oneof![Just(EntryKind::Command), Just(EntryKind::Noop), Just(EntryKind::Config)]
}

fn entry_at(index: u64) -> impl Strategy<Value = Entry> {
    (any::<u64>(), kinds(), any::<Vec<u8>>()).prop_map(move |(term, kind, data)| Entry {
        index,
        term,
        kind,
        data: data.into(),
    })
}

/// Entries that follow one another from `first` on.
fn row(first: u64) -> impl Strategy<Value = Entries> {
    proptest::collection::vec(entry_at(0), 0..4).prop_map(move |all| {
        all.into_iter().zip(first..).map(|(e, index)| Entry { index, ..e }).collect()
    })
}

/// Rows with their ballots, as a record holds them.
fn rows() -> impl Strategy<Value = Vec<(u64, Entries)>> {
    let one = (any::<u64>(), 0..u64::MAX / 2)
        .prop_flat_map(|(ballot, first)| row(first).prop_map(move |row| (ballot, row)));
    let kept = |mut rows: Vec<(u64, Entries)>| {
        rows.retain(|(_, row)| !row.is_empty());
        rows
    };
    proptest::collection::vec(one, 0..4).prop_map(kept)
}

fn accepted() -> impl Strategy<Value = Vec<(u64, Entry)>> {
    let one = (any::<u64>(), any::<u64>())
        .prop_flat_map(|(ballot, slot)| entry_at(slot).prop_map(move |entry| (ballot, entry)));
    proptest::collection::vec(one, 0..4)
}

fn reports() -> impl Strategy<Value = Report> {
    (accepted(), any::<Option<u64>>()).prop_map(|(accepted, next)| Report { accepted, next })
}

fn bodies() -> impl Strategy<Value = Body> {
    let ask = || {
        (any::<[u64; 2]>(), any::<bool>()).prop_map(|([round, commit], transfer)| Ask {
            round,
            commit,
            transfer,
        })
    };
    let answer = || {
        let refused = prop_oneof![
            Just(None),
            Just(Some(VoteRefusal::LeaderAlive)),
            Just(Some(VoteRefusal::LogBehind)),
            Just(Some(VoteRefusal::AlreadyVoted)),
            Just(Some(VoteRefusal::OldTerm)),
        ];
        (any::<u64>(), refused).prop_map(|(round, refused)| Answer { round, refused })
    };
    let batch = || {
        (any::<u64>(), 0..u64::MAX / 2).prop_flat_map(|(commit, first)| {
            row(first).prop_map(move |entries| (commit, first, entries))
        })
    };
    let three = any::<[u64; 3]>();
    prop_oneof![
        ask().prop_map(Body::Canvass),
        answer().prop_map(Body::CanvassAnswer),
        ask().prop_map(Body::Prepare),
        answer().prop_map(Body::NoPromise),
        reports().prop_map(Body::Promise),
        any::<u64>().prop_map(|from| Body::More { from }),
        reports().prop_map(Body::Report),
        batch().prop_map(|(commit, first, entries)| Body::Accept { commit, first, entries }),
        three.prop_map(|[first, last, reached]| Body::Accepted { first, last, reached }),
        any::<u64>().prop_map(|from| Body::Fetch { from }),
        batch().prop_map(|(commit, first, entries)| Body::Chosen { commit, first, entries }),
        any::<[u64; 2]>().prop_map(|[commit, beat]| Body::Heartbeat { commit, beat }),
        any::<[u64; 2]>().prop_map(|[beat, reached]| Body::HeartbeatAnswer { beat, reached }),
        any::<u64>().prop_map(|commit| Body::Committed { commit }),
        any::<u64>().prop_map(|batch| Body::ReadAsk { batch }),
        (any::<u64>(), any::<Option<u64>>())
            .prop_map(|(batch, index)| Body::ReadAnswer { batch, index }),
        Just(Body::TimeoutNow),
        Just(Body::OldRound),
    ]
}

proptest! {
    #[test]
    fn a_message_comes_back(round: u64, body in bodies()) {
        let message = Message { round, body };
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        prop_assert_eq!(Message::decode(bytes.into()).unwrap(), message);
    }

    #[test]
    fn a_record_comes_back(
        [round, promised, commit] in any::<[u64; 3]>(),
        boundary: Option<([u64; 3], std::collections::BTreeSet<u64>)>,
        accepted in rows(),
    ) {
        let promised = Some(NodeId(promised)).filter(|id| id.is_some());
        let boundary = boundary.map(|([index, term, joint_until], ids)| SnapshotMeta {
            index,
            term,
            membership: Membership::of_voters(ids.into_iter().map(NodeId)),
            joint_until,
        });
        let record = Record { round, promised, commit, boundary: boundary.map(Box::new), accepted };
        prop_assert_eq!(Record::decode(record.to_bytes()).unwrap(), record);
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Message::decode(bytes.clone().into());
        let _ = Record::decode(bytes.into());
    }
}

fn value(index: u64, term: u64) -> Entry {
    let data = Bytes::from(format!("{index}:{term}"));
    Entry { index, term, kind: EntryKind::Command, data }
}

fn recovered(records: &[Record]) -> Recovered {
    let membership = Membership::of_voters([1, 2, 3].map(NodeId));
    let snapshot = SnapshotMeta { membership, ..SnapshotMeta::default() };
    Recovered { snapshot, records: records.iter().map(Record::to_bytes).collect(), applied: 0 }
}

#[test]
fn a_later_value_replaces_and_a_hole_below_the_commit_is_an_error() {
    let record = |round, commit, accepted| Record {
        round,
        promised: Some(NodeId(1)),
        commit,
        boundary: None,
        accepted,
    };
    let first = record(1, 0, vec![(1, value(1, 1).into()), (1, value(3, 1).into())]);
    let second = record(2, 1, vec![(2, value(3, 2).into())]);
    let replayed = replay(recovered(&[first.clone(), second])).unwrap();
    assert_eq!((replayed.round, replayed.commit), (2, 1));
    assert_eq!(replayed.accepted[&3], (2, value(3, 2)));
    assert!(!replayed.accepted.contains_key(&2), "a hole stays one");
    let third = record(2, 2, vec![]);
    let error = replay(recovered(&[first, third])).err().unwrap_or_default();
    assert!(error.contains("lacks slot 2"), "{error}");
}

fn follower() -> Paxos {
    Paxos::new(NodeId(2), Limits::default(), 7, recovered(&[]), Tick(0)).unwrap()
}

fn receive(node: &mut Paxos, body: Body) -> Vec<Output> {
    let mut out = Vec::new();
    let message = crate::Message::Paxos(Message { round: 1, body });
    node.step(Tick(1), Input::Receive { from: NodeId(1), message }, &mut out);
    out
}

fn accept(node: &mut Paxos, slot: u64) -> Vec<Output> {
    receive(node, Body::Accept { commit: 0, first: slot, entries: vec![value(slot, 1)].into() })
}

/// A core that never accepts out of order would be Raft renamed.
#[test]
fn slots_are_accepted_out_of_order() {
    let mut node = follower();
    for slot in [3, 1] {
        let accepted = |o: &Output| {
            matches!(o, Output::Send { message: crate::Message::Paxos(m), .. }
                if matches!(m.body, Body::Accepted { first, last, .. } if (first, last) == (slot, slot)))
        };
        assert!(accept(&mut node, slot).iter().any(accepted), "slot {slot}");
    }
    assert_eq!(node.status().last, 3);
}

#[test]
fn what_is_held_beyond_a_hole_is_bounded() {
    let mut node = follower();
    accept(&mut node, 5 * WINDOW);
    assert_eq!(node.status().last, 0);
}

/// omnipaxos #67 and its like: a watermark says nothing about what another
/// ballot put into the slot.
#[test]
fn a_watermark_covers_only_slots_accepted_in_its_ballot() {
    let old = Record {
        round: 1,
        promised: None,
        commit: 0,
        boundary: None,
        accepted: vec![(1, value(1, 1).into())],
    };
    let mut node = Paxos::new(NodeId(2), Limits::default(), 7, recovered(&[old]), Tick(0)).unwrap();
    let mut out = Vec::new();
    let body = Body::Heartbeat { commit: 1, beat: 1 };
    let message = crate::Message::Paxos(Message { round: 2, body });
    node.step(Tick(1), Input::Receive { from: NodeId(1), message }, &mut out);
    assert_eq!(node.status().commit, 0, "slot 1 was accepted in round 1");
    let chosen = Body::Chosen { commit: 1, first: 1, entries: vec![value(1, 2)].into() };
    let message = crate::Message::Paxos(Message { round: 2, body: chosen });
    node.step(Tick(2), Input::Receive { from: NodeId(1), message }, &mut out);
    assert_eq!(node.status().commit, 1);
}
