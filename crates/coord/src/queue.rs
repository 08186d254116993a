//! Who holds a lock, and who waits for whom: read off the keys of its queue.

use crate::claim::Claim;
use crate::sequencer::{Mode, Sequencer};
use bytes::Bytes;
use synod_base::planted;
use synod_mvcc::KeyValue;

/// `name/`: what the keys of a lock's queue start with.
pub fn contenders(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key of a session in the queue of a lock.
pub fn key_of(name: &[u8], session: i64) -> Bytes {
    [name, format!("/{session:x}").as_bytes()].concat().into()
}

/// One key of a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contender {
    /// The pair itself. Its create revision is the place in the queue, and the
    /// fencing token; its lease is the session, or the guard.
    pub kv: KeyValue,
    /// What it says.
    pub claim: Claim,
}

impl Contender {
    /// What proves that this one holds the lock.
    pub fn sequencer(&self, name: &[u8]) -> Sequencer {
        let (token, session) = (self.kv.create_revision, self.kv.lease);
        Sequencer { token, mode: self.claim.mode(), session, name: name.to_vec() }
    }
}

/// Whether a key that starts with `name/` is one of the lock's queue. Keys further down
/// (`name/other/…`) belong to other locks.
pub fn is_contender(name: &[u8], key: &[u8]) -> bool {
    key.get(name.len() + 1..).is_some_and(|rest| !rest.is_empty() && !rest.contains(&b'/'))
}

/// Where to read on in a lock's queue behind this key, the last that was read: behind all
/// of the other lock that it belongs to, if it does.
pub fn behind(name: &[u8], key: &[u8]) -> Bytes {
    let rest = key.get(name.len() + 1..).unwrap_or_default();
    match rest.iter().position(|b| *b == b'/') {
        Some(at) => {
            // `name/other0`: `0` comes next to `/`.
            let mut next = key[..name.len() + 1 + at].to_vec();
            next.push(b'/' + 1);
            next.into()
        }
        None => [key, &[0]].concat().into(),
    }
}

/// The contenders among the keys that start with `name/`, in order.
pub fn read_queue(name: &[u8], kvs: Vec<KeyValue>) -> Vec<Contender> {
    let own = |kv: &KeyValue| is_contender(name, &kv.key);
    let contender = |kv: KeyValue| Contender { claim: Claim::decode(&kv.value), kv };
    let mut queue: Vec<Contender> = kvs.into_iter().filter(own).map(contender).collect();
    queue.sort_by(|a, b| (a.kv.create_revision, &a.kv.key).cmp(&(b.kv.create_revision, &b.kv.key)));
    queue
}

/// The queue without the guards of sessions that live: what such a session held and
/// has no more, it gave back. `lives` tells which sessions do, as of the queue.
pub fn without_idle_guards(queue: &mut Vec<Contender>, lives: impl Fn(i64) -> bool) {
    queue.retain(|c| !c.claim.guards().is_some_and(&lives));
}

/// Where a contender stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It holds the lock.
    Holds,
    /// Nothing changes for it before this key goes.
    WaitsFor(Bytes),
    /// It is not in the queue (its session ended).
    Gone,
}

/// Where the contender with this key and token stands in the queue.
pub fn standing(queue: &[Contender], key: &[u8], token: i64) -> Standing {
    let Some(me) = queue.iter().find(|c| c.kv.key == key && c.kv.create_revision == token) else {
        return Standing::Gone;
    };
    let mut older = queue.iter().rev().filter(|c| c.kv.create_revision < me.kv.create_revision);
    let nearest = planted("lock: a sharer looks only at the one before it");
    let found = match nearest {
        true => older.next().filter(|other| blocks(queue, other, me)),
        false => older.find(|other| blocks(queue, other, me)),
    };
    match found {
        Some(other) => Standing::WaitsFor(other.kv.key.clone()),
        None => Standing::Holds,
    }
}

/// Whether what stands at the key that a place with this token waits for is still the
/// one ahead. A session's key in a queue has one name: who gave its place back and
/// entered again at once stands behind.
pub fn is_ahead(found: Option<&KeyValue>, token: i64) -> bool {
    found.is_some_and(|kv| kv.create_revision < token)
}

/// Those that hold the lock: one, or several that share it.
pub fn holders(queue: &[Contender]) -> impl Iterator<Item = &Contender> {
    let holds = |c: &&Contender| !queue.iter().any(|other| blocks(queue, other, c));
    queue.iter().filter(|c| c.claim.guards().is_none()).filter(holds)
}

/// Whether who came now, and wants the lock like this, would hold it at once.
pub fn would_hold(queue: &[Contender], mode: Mode) -> bool {
    let kv = KeyValue { create_revision: i64::MAX, ..KeyValue::default() };
    let me = Contender { kv, claim: Claim::new(mode, "", 0) };
    !queue.iter().any(|other| blocks(queue, other, &me))
}

/// Whether who came now, and wants the lock alone, would hold it at once.
pub fn is_free(queue: &[Contender]) -> bool {
    !queue.iter().any(|other| keeps_out(queue, other))
}

/// Whether `other`, who is older, keeps `me` from holding.
fn blocks(queue: &[Contender], other: &Contender, me: &Contender) -> bool {
    if other.kv.create_revision >= me.kv.create_revision {
        return false;
    }
    let shares = |c: &Contender| c.claim.mode() == Mode::Shared;
    let wrongly = planted("lock: sharers and one alone hold together");
    if shares(me) && shares(other) || wrongly && (shares(me) || shares(other)) {
        return false;
    }
    keeps_out(queue, other)
}

/// Whether who comes after `other`, and wants the lock alone, has to wait for it.
fn keeps_out(queue: &[Contender], other: &Contender) -> bool {
    match other.claim.guards() {
        None => true,
        // A guard stands in for a holder that was lost: not for one that is there
        // itself, nor for one that only waited.
        Some(session) => {
            other.claim.held_ms > 0
                && !queue.iter().any(|c| stands_for(other, session, c))
                && !planted("lock: a guard keeps nobody out")
        }
    }
}

/// Whether `c` is what the guard of `session` was created with.
fn stands_for(guard: &Contender, session: i64, c: &Contender) -> bool {
    c.kv.lease == session && c.kv.create_revision == guard.kv.create_revision
}

/// The guards that keep others out, since the holder that they stand in for was lost.
pub fn delays(queue: &[Contender]) -> impl Iterator<Item = &Contender> {
    queue.iter().filter(|guard| {
        let lost = |session| !queue.iter().any(|c| stands_for(guard, session, c));
        guard.claim.held_ms > 0 && guard.claim.guards().is_some_and(lost)
    })
}
