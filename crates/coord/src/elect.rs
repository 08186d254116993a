//! Elections: which of the candidates gets an office that is free.
//!
//! A candidate is a session with a record under [`CANDIDATES`]: its priority, and
//! whether it is healthy. The office is a lock, so whoever leads has a fencing token
//! and etcd's clients are excluded and exclude. Its queue is first come, first
//! served; so candidates do not wait there: the best one enters when it is empty.
//! That nobody better stood when it entered is decided in the same step
//! ([`take_office`]), in the log.

use crate::prefix_range;
use crate::queue::{Contender, is_free, key_of};
use crate::steps::{Entered, Place, enter, entered, is};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::fmt::Write as _;
use synod_base::planted;
use synod_mvcc::{
    Compare, CompareResult, CompareTarget, KeyValue, Op, OpResult, TxnRequest, TxnResult,
};

/// What the keys of the candidates' records start with.
pub const CANDIDATES: &str = "synod/candidate/";

/// What the keys of the candidates for one office start with. The name is in
/// hexadecimal, so that no office's candidates stand among another's.
pub fn candidates(name: &[u8]) -> Bytes {
    let mut key = String::from(CANDIDATES);
    for byte in name {
        // Writing to a string cannot fail.
        let _ = write!(key, "{byte:02x}");
    }
    key.push('/');
    key.into()
}

/// The key of a session's candidacy.
pub fn candidate_key(name: &[u8], session: i64) -> Bytes {
    [&candidates(name)[..], format!("{session:x}").as_bytes()].concat().into()
}

/// What a candidate says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CandidateRecord {
    /// What it calls itself, for people to read.
    #[serde(default)]
    pub owner: String,
    /// The greatest wins.
    pub priority: i64,
    /// Who is not healthy is not chosen.
    pub healthy: bool,
    /// It wants the office even from a leader that is there, if its priority is
    /// greater.
    #[serde(default)]
    pub preempts: bool,
    /// Since when this is so: Unix time, ms.
    pub since_ms: u64,
}

impl CandidateRecord {
    /// What stands in the key.
    pub fn encode(&self) -> Bytes {
        // Plain fields: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a value; `None` if it is no record.
    pub fn decode(value: &[u8]) -> Option<CandidateRecord> {
        serde_json::from_slice(value).ok()
    }
}

/// One that stands for an office.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its session.
    pub session: i64,
    /// The revision since which it stands.
    pub since: i64,
    /// What it says of itself.
    pub record: CandidateRecord,
}

/// The candidates among the keys that start with [`candidates`], the best first:
/// healthy before failing, then by priority, then by who stands longer.
pub fn read_candidates(name: &[u8], kvs: Vec<KeyValue>) -> Vec<Candidate> {
    let candidate = |kv: KeyValue| {
        // Anybody may write there; a candidacy is bound to its session.
        let own = kv.lease != 0 && kv.key == candidate_key(name, kv.lease);
        let record = CandidateRecord::decode(&kv.value).filter(|_| own)?;
        Some(Candidate { session: kv.lease, since: kv.create_revision, record })
    };
    let mut all: Vec<Candidate> = kvs.into_iter().filter_map(candidate).collect();
    let flat = planted("election: priorities do not count");
    let blind = planted("election: a candidate's health does not count");
    all.sort_by_key(|c| {
        let priority = if flat { 0 } else { c.record.priority };
        (!c.record.healthy && !blind, Reverse(priority), c.since, c.session)
    });
    all
}

/// Whose turn it is: the best, if it is healthy.
pub fn best(candidates: &[Candidate]) -> Option<&Candidate> {
    let blind = planted("election: a candidate's health does not count");
    candidates.first().filter(|c| c.record.healthy || blind)
}

/// What a candidate does about the office.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// It takes the office; its candidacy began at this revision.
    Take(i64),
    /// Somebody has the office, or a better candidate shall have it.
    Wait,
    /// It is no candidate (any more).
    Stranger,
}

/// What a session does, as these are the office's queue and its candidates.
pub fn choice(name: &[u8], queue: &[Contender], candidates: &[Candidate], session: i64) -> Choice {
    let Some(me) = candidates.iter().find(|c| c.session == session) else {
        return Choice::Stranger;
    };
    let key = key_of(name, session);
    // It is there already: an earlier call's end was not heard of.
    if queue.iter().any(|c| c.kv.key == key && c.kv.lease == session) {
        return Choice::Take(me.since);
    }
    match best(candidates) {
        Some(first) if first.session == session && is_free(queue) => Choice::Take(me.since),
        _ => Choice::Wait,
    }
}

/// The healthy candidate that the leader of this session shall leave the office to:
/// the best one, if it wants that and its priority is greater.
pub fn outranked(candidates: &[Candidate], leader: i64) -> Option<&Candidate> {
    let own = candidates.iter().find(|c| c.session == leader).map(|c| c.record.priority);
    let greater = |c: &&Candidate| own.is_none_or(|own| c.record.priority > own);
    best(candidates).filter(|c| c.session != leader && c.record.preempts).filter(greater)
}

/// Enters the office's queue, if no candidacy was written since the revision `seen`
/// at which this one (which began at `since`) was found to be the best.
pub fn take_office(place: &Place, since: i64, seen: i64) -> TxnRequest {
    let unchanged = Compare {
        range: prefix_range(&candidates(&place.name)),
        target: CompareTarget::Mod(seen + 1),
        result: CompareResult::Less,
    };
    let own = is(&candidate_key(&place.name, place.session), CompareTarget::Create(since));
    let compare = match planted("election: the candidates may have changed since") {
        true => vec![own],
        false => vec![unchanged, own],
    };
    TxnRequest { compare, success: vec![Op::Txn(enter(place))], failure: Vec::new() }
}

/// What came of [`take_office`]; `None`: the candidates have changed.
pub fn took_office(result: TxnResult) -> Option<Entered> {
    let taken = result.responses.into_iter().next().filter(|_| result.succeeded)?;
    match taken {
        OpResult::Txn(inner) => entered(inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Claim, Mode};

    fn kv(key: Bytes, value: Bytes, lease: i64, created: i64) -> KeyValue {
        KeyValue { key, value, lease, create_revision: created, mod_revision: created, version: 1 }
    }

    /// (session, priority, healthy, since)
    fn stand(all: &[(i64, i64, bool, i64)]) -> Vec<Candidate> {
        let one = |&(session, priority, healthy, since): &(i64, i64, bool, i64)| {
            let record = CandidateRecord { priority, healthy, ..CandidateRecord::default() };
            kv(candidate_key(b"boss", session), record.encode(), session, since)
        };
        read_candidates(b"boss", all.iter().map(one).collect())
    }

    #[test]
    fn the_best_is_healthy_then_of_the_greatest_priority_then_the_oldest() {
        let all = stand(&[(1, 1, true, 10), (2, 5, true, 12), (3, 5, true, 11), (4, 9, false, 9)]);
        let order: Vec<i64> = all.iter().map(|c| c.session).collect();
        assert_eq!(order, [3, 2, 1, 4]);
        assert_eq!(choice(b"boss", &[], &all, 3), Choice::Take(11));
        for other in [1, 2, 4] {
            assert_eq!(choice(b"boss", &[], &all, other), Choice::Wait);
        }
        assert_eq!(choice(b"boss", &[], &all, 5), Choice::Stranger);
        assert_eq!(best(&stand(&[(4, 9, false, 9)])), None);
    }

    #[test]
    fn whoever_is_in_the_queue_keeps_candidates_out_but_an_idle_guard() {
        let all = stand(&[(1, 0, true, 10)]);
        let claim = Claim::new(Mode::Exclusive, "", 1).held(2);
        let guard = claim.guarding(7);
        let holder = Contender { kv: kv("boss/9".into(), Bytes::new(), 9, 5), claim };
        assert_eq!(choice(b"boss", std::slice::from_ref(&holder), &all, 1), Choice::Wait);
        // The guard of a holder that was lost, and of one that only waited.
        let lost = Contender { kv: kv("boss/a".into(), Bytes::new(), 10, 6), claim: guard };
        assert_eq!(choice(b"boss", std::slice::from_ref(&lost), &all, 1), Choice::Wait);
        let waited = Contender { claim: lost.claim.held(0), ..lost };
        assert_eq!(choice(b"boss", &[waited], &all, 1), Choice::Take(10));
        // Its own place, whose taking it did not hear of.
        let own = Contender { kv: kv("boss/1".into(), Bytes::new(), 1, 8), ..holder };
        assert_eq!(choice(b"boss", &[own], &all, 1), Choice::Take(10));
    }

    #[test]
    fn a_leader_gives_way_to_a_better_one_that_wants_it() {
        let mut all = stand(&[(1, 1, true, 10), (2, 5, true, 11)]);
        assert_eq!(outranked(&all, 1), None);
        all[0].record.preempts = true;
        assert_eq!(outranked(&all, 1).map(|c| c.session), Some(2));
        assert_eq!(outranked(&all, 2), None);
        all[0].record.priority = 1;
        assert_eq!(outranked(&all, 1), None, "not to its equal");
    }

    #[test]
    fn a_record_that_is_not_bound_to_its_session_is_none() {
        let record = CandidateRecord { healthy: true, ..CandidateRecord::default() };
        let foreign = kv(candidate_key(b"boss", 1), record.encode(), 0, 3);
        let other = kv(candidate_key(b"boss", 1), record.encode(), 2, 3);
        assert!(read_candidates(b"boss", vec![foreign, other]).is_empty());
        let own = candidate_key(b"a/b", 1);
        assert!(!own.starts_with(&candidates(b"a")), "{own:?}");
    }
}
