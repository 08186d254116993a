//! Tests of the codecs and of recovery.

use super::RecoverError;
use super::message::{Body, Look, Message, Rank};
use super::record::{Boundary, HardState, Record, replay};
use crate::config::Membership;
use crate::contract::{Entry, EntryKind, Recovered, SnapshotMeta};
use crate::entries::Entries;
use crate::event::VoteRefusal;
use crate::protocol::{Protocol, RecordView};
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

/// Two numbers and the entries that follow the first.
fn parts() -> impl Strategy<Value = (u64, u64, Entries)> {
    (0..u64::MAX / 2, any::<u64>())
        .prop_flat_map(|(prev, n)| entries(prev).prop_map(move |entries| (prev, n, entries)))
}

fn ranks() -> impl Strategy<Value = Rank> {
    any::<[u64; 3]>().prop_map(|[current, term, index]| Rank { current, term, index })
}

fn looks() -> impl Strategy<Value = Look> {
    (any::<[u64; 2]>(), ranks(), any::<[bool; 3]>(), any::<u64>()).prop_map(
        |([round, seq], rank, [joined, reach, hears_you], vote)| Look {
            round,
            seq,
            rank,
            joined,
            reach,
            hears_you,
            vote: Some(NodeId(vote)).filter(|id| id.is_some()),
        },
    )
}

fn refusals() -> impl Strategy<Value = VoteRefusal> {
    prop_oneof![
        Just(VoteRefusal::LeaderAlive),
        Just(VoteRefusal::LogBehind),
        Just(VoteRefusal::AlreadyVoted),
        Just(VoteRefusal::OldTerm),
    ]
}

fn election() -> impl Strategy<Value = Body> {
    prop_oneof![
        looks().prop_map(Body::Look),
        any::<u64>().prop_map(|round| Body::LookRefused { round }),
        any::<[bool; 2]>().prop_map(|[won, transfer]| Body::LeaderInfo { won, transfer }),
        (any::<u64>(), refusals()).prop_map(|(asked, why)| Body::Refused { asked, why }),
        ranks().prop_map(Body::AckEpoch),
        any::<[u64; 2]>().prop_map(|[index, term]| Body::Fetch { index, term }),
        parts().prop_map(|(prev_index, prev_term, entries)| Body::History {
            prev_index,
            prev_term,
            entries
        }),
        Just(Body::TakeOver),
    ]
}

fn bodies() -> impl Strategy<Value = Body> {
    let sync = (any::<bool>(), parts()).prop_map(|(trunc, (prev_index, prev_term, entries))| {
        Body::Sync { trunc, prev_index, prev_term, entries }
    });
    let rest = prop_oneof![
        sync,
        any::<[u64; 2]>().prop_map(|[index, term]| Body::Diverged { index, term }),
        any::<u64>().prop_map(|matched| Body::SyncAck { matched }),
        any::<u64>().prop_map(|last| Body::NewLeader { last }),
        any::<u64>().prop_map(|matched| Body::NewLeaderAck { matched }),
        any::<u64>().prop_map(|commit| Body::UpToDate { commit }),
        parts().prop_map(|(prev_index, commit, entries)| Body::Propose {
            prev_index,
            commit,
            entries
        }),
        any::<u64>().prop_map(|matched| Body::Ack { matched }),
        any::<u64>().prop_map(|commit| Body::Commit { commit }),
        (any::<[u64; 2]>(), any::<bool>()).prop_map(|([round, commit], established)| {
            Body::Ping { round, commit, established }
        }),
        any::<[u64; 2]>().prop_map(|[round, active]| Body::Pong { round, active }),
        any::<u64>().prop_map(|batch| Body::ReadAsk { batch }),
        (any::<u64>(), any::<Option<u64>>())
            .prop_map(|(batch, index)| Body::ReadAnswer { batch, index }),
    ];
    prop_oneof![election(), rest]
}

proptest! {
    #[test]
    fn a_message_comes_back(epoch: u64, body in bodies()) {
        let message = crate::Message::Zab(Message { epoch, body });
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        prop_assert_eq!(crate::Message::decode(bytes.into()).unwrap(), message);
    }

    #[test]
    fn a_record_comes_back(
        hard: [u64; 4],
        boundary: Option<([u64; 2], bool, std::collections::BTreeSet<u64>)>,
        cut: Option<u64>,
        entries in entries(41),
    ) {
        let leader = Some(NodeId(hard[1])).filter(|id| id.is_some());
        let hard = HardState { accepted: hard[0], leader, current: hard[2], commit: hard[3] };
        let boundary = boundary.map(|([index, term], reset, ids)| {
            let membership = Membership::of_voters(ids.into_iter().map(NodeId));
            Boundary { meta: SnapshotMeta { index, term, membership, joint_until: 0 }, reset }
        });
        let first = if entries.is_empty() { 0 } else { 42 };
        let want = Record { hard, boundary: boundary.map(Box::new), cut, first, entries };
        let bytes = want.to_bytes();
        prop_assert_eq!(RecordView::decode(bytes.clone()).unwrap().protocol, Protocol::Zab);
        prop_assert_eq!(Record::decode(bytes).unwrap(), want);
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let _ = Message::decode(bytes.clone());
        let _ = Record::decode(bytes.clone());
        for kind in 0..22 {
            let mut tagged = vec![1, kind];
            tagged.extend_from_slice(&bytes);
            let _ = Message::decode(tagged.into());
        }
        for flags in 0..16 {
            let mut tagged = vec![0b1000_0000 | flags];
            tagged.extend_from_slice(&bytes);
            let _ = Record::decode(tagged.into());
        }
    }
}

#[test]
fn payloads_share_the_buffer() {
    let e = Entry { index: 1, term: 1, kind: EntryKind::Command, data: vec![7; 100].into() };
    let body = Body::Propose { prev_index: 0, commit: 0, entries: vec![e].into() };
    let mut bytes = Vec::new();
    Message { epoch: 1, body }.encode(&mut bytes);
    let bytes = Bytes::from(bytes);
    let within = bytes.as_ptr_range();
    let Body::Propose { entries, .. } = Message::decode(bytes).unwrap().body else { panic!() };
    assert!(within.contains(&entries[0].data.as_ptr()));
}

fn record(commit: u64, cut: Option<u64>, first: u64, terms: &[u64]) -> Bytes {
    let entries: Vec<Entry> = terms
        .iter()
        .zip(first..)
        .map(|(&term, index)| Entry { index, term, kind: EntryKind::Command, data: Bytes::new() })
        .collect();
    let hard = HardState { accepted: 9, leader: None, current: 8, commit };
    Record { hard, boundary: None, cut, first, entries: entries.into() }.to_bytes()
}

fn terms(records: Vec<Bytes>) -> Vec<u64> {
    let r = replay(Recovered { records, ..Recovered::default() }).unwrap();
    r.entries.iter().map(|e| e.term).collect()
}

#[test]
fn a_lost_stretch_of_the_journal_is_an_error() {
    let records = vec![record(0, None, 1, &[1, 1]), record(0, None, 5, &[1])];
    let found = replay(Recovered { records, ..Recovered::default() }).err();
    assert_eq!(found, Some(RecoverError::Gap { missing: 3, found: 5 }));
    let records = vec![record(0, None, 1, &[1, 1])];
    let found = replay(Recovered { records, applied: 3, ..Recovered::default() }).err();
    assert_eq!(found, Some(RecoverError::AppliedAhead { applied: 3, last: 2 }));
}

#[test]
fn what_was_cut_stays_cut_over_a_restart() {
    assert_eq!(terms(vec![record(0, None, 1, &[1, 1, 1]), record(0, Some(2), 1, &[])]), [1]);
    let cut_and_new = record(0, Some(2), 2, &[3, 3]);
    assert_eq!(terms(vec![record(0, None, 1, &[1, 1, 1, 1]), cut_and_new]), [1, 3, 3]);
}

#[test]
fn rewritten_entries_replace_and_the_commit_stays_in_the_history() {
    let records = vec![record(0, None, 1, &[1, 1, 1]), record(7, None, 2, &[2])];
    let r = replay(Recovered { records, ..Recovered::default() }).unwrap();
    assert_eq!(r.entries.iter().map(|e| e.term).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((r.hard.commit, r.hard.accepted, r.hard.current), (2, 9, 8));
}
