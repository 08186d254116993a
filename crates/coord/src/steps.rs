//! The transactions that a lock is made of.

use crate::claim::Claim;
use crate::elect::{CANDIDATES, candidate_key};
use crate::prefix_range;
use crate::queue::{contenders, key_of};
use crate::sequencer::Sequencer;
use crate::service::{HANDOVERS, OFFICES, REPORTS, SERVICES, SILENCES};
use bytes::Bytes;
use synod_base::planted;
use synod_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRequest, KeyRange, KeyValue, Op, OpResult,
    PutRequest, RangeRequest, TxnRequest, TxnResult,
};

/// What the keys of the sessions' records start with.
pub const SESSIONS: &str = "synod/session/";

/// What the keys of candidates' claims start with.
const CLAIMS: &str = "synod/claim/";

/// Whether no client may use a lock of this name: its queue would be mixed up with
/// what Synod itself keeps. Offices of services are locks like others.
pub fn is_reserved(name: &[u8]) -> bool {
    name == b"synod" || name.starts_with(b"synod/") && !name.starts_with(OFFICES.as_bytes())
}

/// What the keys start with that only the calls of sessions, locks, services and elections
/// write, etcd's v3lock and v3election among them. (The keys of other locks have the names that
/// clients give them, and etcd's own clients write those themselves.)
const OWN: [&str; 8] =
    [SESSIONS, CLAIMS, CANDIDATES, OFFICES, SERVICES, SILENCES, REPORTS, HANDOVERS];

/// What a write of a client's touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touches {
    /// Only what is the clients'.
    Theirs,
    /// A range that what is Synod's own may lie in.
    Both,
    /// Only what is Synod's own.
    Own,
}

/// What a write, or a deletion, of these keys touches.
pub fn touches(range: &KeyRange) -> Touches {
    if OWN.iter().any(|own| range.key.starts_with(own.as_bytes())) {
        // What begins there and goes on elsewhere is refused with it.
        return Touches::Own;
    }
    let overlaps = |own: &&str| {
        let own = prefix_range(own.as_bytes());
        match &range.end[..] {
            [] => false,
            [0] => range.key < own.end,
            end => range.key < own.end && end > &own.key[..],
        }
    };
    if OWN.iter().any(overlaps) { Touches::Both } else { Touches::Theirs }
}

/// That nothing is there that is Synod's own: what a delete over its keys must show.
pub fn nothing_own() -> Vec<Compare> {
    let nothing = |own: &&str| Compare {
        range: prefix_range(own.as_bytes()),
        target: CompareTarget::Create(1),
        result: CompareResult::Less,
    };
    OWN.iter().map(nothing).collect()
}

/// The key of a session's record.
pub fn session_key(session: i64) -> Bytes {
    format!("{SESSIONS}{session:x}").into()
}

/// Where a candidate's claim stands, since its key in the queue shows its value.
pub fn claim_key(name: &[u8], session: i64) -> Bytes {
    [format!("{CLAIMS}{session:x}/").as_bytes(), name].concat().into()
}

/// A place in a queue: one session, one lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The lock's name.
    pub name: Vec<u8>,
    /// The session's lease.
    pub session: i64,
    /// Its guard's lease, or 0.
    pub guard: i64,
    /// What the session claims.
    pub claim: Claim,
    /// In an election: what the key shows instead of the claim.
    pub value: Option<Bytes>,
}

impl Place {
    /// Its key.
    pub fn key(&self) -> Bytes {
        key_of(&self.name, self.session)
    }

    fn claim_key(&self) -> Bytes {
        claim_key(&self.name, self.session)
    }

    /// The puts of its keys, with the claim as given.
    fn puts(&self, claim: &Claim) -> Vec<Op> {
        let value = self.value.clone().unwrap_or_else(|| claim.encode());
        let mut puts = vec![put(self.key(), value, self.session)];
        if self.value.is_some() && claim.asked_ms > 0 {
            puts.push(put(self.claim_key(), claim.encode(), self.session));
        }
        if self.guard != 0 {
            let value = claim.guarding(self.session).encode();
            puts.push(put(key_of(&self.name, self.guard), value, self.guard));
        }
        puts
    }

    /// The keys themselves.
    fn keys(&self) -> Vec<Bytes> {
        let guard = (self.guard != 0).then(|| key_of(&self.name, self.guard));
        let claim = self.value.is_some().then(|| self.claim_key());
        std::iter::once(self.key()).chain(claim).chain(guard).collect()
    }
}

fn put(key: Bytes, value: Bytes, lease: i64) -> Op {
    Op::Put(PutRequest { key, value, lease, ..PutRequest::default() })
}

fn one(key: Bytes) -> KeyRange {
    KeyRange { key, end: Bytes::new() }
}

pub(crate) fn is(key: &Bytes, target: CompareTarget) -> Compare {
    Compare { range: one(key.clone()), target, result: CompareResult::Equal }
}

/// Enters the queue. Whether it was empty, so that the lock is held at once, is
/// decided in the same step.
pub fn enter(place: &Place) -> TxnRequest {
    let key = place.key();
    let nobody = Compare {
        range: prefix_range(&contenders(&place.name)),
        target: CompareTarget::Create(1),
        result: match planted("lock: a queue that is not empty counts as empty") {
            true => CompareResult::NotEqual,
            false => CompareResult::Less,
        },
    };
    let granted = TxnRequest {
        compare: vec![nobody],
        success: place.puts(&place.claim.held(place.claim.asked_ms)),
        failure: place.puts(&place.claim),
    };
    let get = |key| Op::Range(RangeRequest { range: one(key), ..RangeRequest::default() });
    TxnRequest {
        compare: vec![is(&key, CompareTarget::Create(0))],
        success: vec![Op::Txn(granted)],
        failure: vec![get(key), get(place.claim_key())],
    }
}

/// What came of [`enter`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entered {
    /// The queue was empty: it holds the lock.
    Holds,
    /// It is in the queue; [`crate::standing`] tells more.
    Waits,
    /// The session had a place already, which stays as it is; and what it claims.
    Already(KeyValue, Claim),
}

/// Reads the result of [`enter`]; `None` if it is of something else.
pub fn entered(result: TxnResult) -> Option<Entered> {
    let mut responses = result.responses.into_iter();
    match responses.next()? {
        OpResult::Txn(granted) if granted.succeeded => Some(Entered::Holds),
        OpResult::Txn(_) => Some(Entered::Waits),
        OpResult::Range(found) => {
            let kv = found.kvs.into_iter().next()?;
            let candidate = match responses.next()? {
                OpResult::Range(found) => found.kvs.into_iter().next(),
                _ => return None,
            };
            let claim = Claim::decode(&candidate.as_ref().unwrap_or(&kv).value);
            Some(Entered::Already(kv, claim))
        }
        _ => None,
    }
}

/// Notes in the keys that the lock was granted: for people who look, and for the
/// guard. It fails when the session has ended.
pub fn mark_held(place: &Place, token: i64, held_ms: u64) -> TxnRequest {
    TxnRequest {
        compare: fence_of(&place.key(), token, place.session),
        success: place.puts(&place.claim.held(held_ms)),
        failure: Vec::new(),
    }
}

/// Gives the lock back, or leaves the queue: only if it is still this place.
pub fn leave(place: &Place, token: i64) -> TxnRequest {
    let delete = |key| Op::Delete(DeleteRequest { range: one(key), prev_kv: false });
    TxnRequest {
        compare: fence_of(&place.key(), token, place.session),
        success: place.keys().into_iter().map(delete).collect(),
        failure: Vec::new(),
    }
}

/// A leader gives its office back, and is no candidate for it any more.
pub fn resign(place: &Place, token: i64) -> TxnRequest {
    let mut txn = leave(place, token);
    let range = one(candidate_key(&place.name, place.session));
    txn.success.push(Op::Delete(DeleteRequest { range, prev_kv: false }));
    txn
}

/// [`leave`] for a call that gives up, unless another call went on with the place
/// since: then its key was written after `modified`.
pub fn withdraw(place: &Place, token: i64, modified: i64) -> TxnRequest {
    let mut txn = leave(place, token);
    txn.compare.push(is(&place.key(), CompareTarget::Mod(modified)));
    txn
}

/// Goes on with a place that the session has: from now on a call that had it
/// before cannot give it up.
pub fn resume(place: &Place, token: i64) -> TxnRequest {
    let put = PutRequest {
        key: place.key(),
        ignore_value: true,
        ignore_lease: true,
        ..PutRequest::default()
    };
    TxnRequest {
        compare: fence_of(&place.key(), token, place.session),
        success: vec![Op::Put(put)],
        failure: Vec::new(),
    }
}

/// What must be true for a write that carries this sequencer.
pub fn fence(sequencer: &Sequencer) -> Vec<Compare> {
    if planted("lock: a write is not fenced") {
        return Vec::new();
    }
    let key = key_of(&sequencer.name, sequencer.session);
    fence_of(&key, sequencer.token, sequencer.session)
}

fn fence_of(key: &Bytes, token: i64, session: i64) -> Vec<Compare> {
    vec![is(key, CompareTarget::Create(token)), is(key, CompareTarget::Lease(session))]
}

/// An operation that is done only while the sequencer is good.
pub fn fenced(sequencer: &Sequencer, op: Op) -> TxnRequest {
    TxnRequest { compare: fence(sequencer), success: vec![op], failure: Vec::new() }
}
