//! Tests of the codecs and of recovery.

use super::RecoverError;
use super::message::{Answer, Ask, Body, Message};
use super::record::{Boundary, HardState, Record, replay};
use crate::config::Membership;
use crate::contract::{Entry, EntryKind, Recovered, SnapshotMeta};
use crate::entries::Entries;
use crate::event::VoteRefusal;
use bytes::Bytes;
use proptest::prelude::*;
use synod_base::NodeId;

fn kinds() -> impl Strategy<Value = EntryKind> {
    prop_oneof![Just(EntryKind::Command), Just(EntryKind::Noop), Just(EntryKind::Config)]
}

/// Entries whose indexes follow `prev`.
fn entries(prev: u64) -> impl Strategy<Value = Entries> {
    let one = (any::<u64>(), kinds(), any::<Vec<u8>>());
    proptest::collection::vec(one, 0..5).prop_map(move |all| {
        let all = all.into_iter().zip(prev + 1..);
        all.map(|((term, kind, data), index)| Entry { index, term, kind, data: data.into() })
            .collect()
    })
}

fn refusals() -> impl Strategy<Value = Option<VoteRefusal>> {
    prop_oneof![
        Just(None),
        Just(Some(VoteRefusal::LeaderAlive)),
        Just(Some(VoteRefusal::LogBehind)),
        Just(Some(VoteRefusal::AlreadyVoted)),
        Just(Some(VoteRefusal::OldTerm)),
    ]
}

fn bodies() -> impl Strategy<Value = Body> {
    let ask = || {
        (any::<[u64; 3]>(), any::<bool>()).prop_map(|([term, last_index, last_term], transfer)| {
            Ask { term, last_index, last_term, transfer }
        })
    };
    let answer = || (any::<u64>(), refusals()).prop_map(|(term, refused)| Answer { term, refused });
    let append = (0..u64::MAX / 2, any::<[u64; 2]>()).prop_flat_map(|(prev_index, [t, c])| {
        entries(prev_index).prop_map(move |entries| Body::Append {
            prev_index,
            prev_term: t,
            commit: c,
            entries,
        })
    });
    prop_oneof![
        ask().prop_map(Body::PreVote),
        ask().prop_map(Body::Vote),
        answer().prop_map(Body::PreVoteAnswer),
        answer().prop_map(Body::VoteAnswer),
        append,
        any::<u64>().prop_map(|matched| Body::Appended { matched }),
        any::<[u64; 3]>().prop_map(|[rejected, hint_index, hint_term]| Body::Conflict {
            rejected,
            hint_index,
            hint_term
        }),
        any::<[u64; 2]>().prop_map(|[commit, round]| Body::Heartbeat { commit, round }),
        any::<u64>().prop_map(|round| Body::HeartbeatAnswer { round }),
        any::<u64>().prop_map(|commit| Body::Committed { commit }),
        any::<u64>().prop_map(|batch| Body::ReadAsk { batch }),
        (any::<u64>(), any::<Option<u64>>())
            .prop_map(|(batch, index)| Body::ReadAnswer { batch, index }),
        any::<[u64; 2]>()
            .prop_map(|[last_index, last_term]| Body::Borrow { last_index, last_term }),
        (0..u64::MAX / 2, any::<[u64; 3]>()).prop_flat_map(|(prev_index, [a, b, c])| {
            entries(prev_index).prop_map(move |entries| Body::Lend {
                last_index: a,
                last_term: b,
                prev_index,
                prev_term: c,
                entries,
            })
        }),
        Just(Body::TimeoutNow),
        Just(Body::OldTerm),
    ]
}

proptest! {
    #[test]
    fn a_message_comes_back(term: u64, body in bodies()) {
        let message = Message { term, body };
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        prop_assert_eq!(Message::decode(bytes.into()).unwrap(), message);
    }

    #[test]
    fn a_record_comes_back(
        hard: [u64; 3],
        boundary: Option<([u64; 2], bool, std::collections::BTreeSet<u64>)>,
        entries in entries(41),
    ) {
        let vote = Some(NodeId(hard[1])).filter(|id| id.is_some());
        let hard = HardState { term: hard[0], vote, commit: hard[2] };
        let boundary = boundary.map(|([index, term], reset, ids)| {
            let membership = Membership::of_voters(ids.into_iter().map(NodeId));
            Boundary { meta: SnapshotMeta { index, term, membership, joint_until: 0 }, reset }
        });
        let first = if entries.is_empty() { 0 } else { 42 };
        let want = Record { hard, boundary: boundary.map(Box::new), first, entries };
        let bytes = want.to_bytes();
        prop_assert_eq!(Record::decode(bytes).unwrap(), want);
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let _ = Message::decode(bytes.clone());
        let _ = Record::decode(bytes.clone());
        for kind in 0..14 {
            let mut tagged = vec![1, kind];
            tagged.extend_from_slice(&bytes);
            let _ = Message::decode(tagged.into());
        }
        for flags in 0..8 {
            let mut tagged = vec![flags];
            tagged.extend_from_slice(&bytes);
            let _ = Record::decode(tagged.into());
        }
    }
}

#[test]
fn payloads_share_the_buffer() {
    let e = Entry { index: 1, term: 1, kind: EntryKind::Command, data: vec![7; 100].into() };
    let body = Body::Append { prev_index: 0, prev_term: 0, commit: 0, entries: vec![e].into() };
    let mut bytes = Vec::new();
    Message { term: 1, body }.encode(&mut bytes);
    let bytes = Bytes::from(bytes);
    let within = bytes.as_ptr_range();
    let Body::Append { entries, .. } = Message::decode(bytes).unwrap().body else { panic!() };
    assert!(within.contains(&entries[0].data.as_ptr()));
}

fn record(commit: u64, first: u64, terms: &[u64]) -> Bytes {
    let entries: Vec<Entry> = terms
        .iter()
        .zip(first..)
        .map(|(&term, index)| Entry { index, term, kind: EntryKind::Command, data: Bytes::new() })
        .collect();
    let hard = HardState { term: 9, vote: None, commit };
    Record { hard, boundary: None, first, entries: entries.into() }.to_bytes()
}

#[test]
fn a_lost_stretch_of_the_journal_is_an_error() {
    let records = vec![record(0, 1, &[1, 1]), record(0, 5, &[1])];
    let found = replay(Recovered { records, ..Recovered::default() }).err();
    assert_eq!(found, Some(RecoverError::Gap { missing: 3, found: 5 }));
    let records = vec![record(0, 1, &[1, 1])];
    let found = replay(Recovered { records, applied: 3, ..Recovered::default() }).err();
    assert_eq!(found, Some(RecoverError::AppliedAhead { applied: 3, last: 2 }));
}

#[test]
fn rewritten_entries_replace_and_the_commit_stays_in_the_log() {
    let records = vec![record(0, 1, &[1, 1, 1]), record(7, 2, &[2])];
    let r = replay(Recovered { records, ..Recovered::default() }).unwrap();
    assert_eq!(r.entries.iter().map(|e| e.term).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(r.hard.commit, 2);
}
