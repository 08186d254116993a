//! Sessions, locks, fencing and small files, as Chubby has them (Burrows, OSDI'06,
//! sections 2.3 to 2.8), made of what the keyspace already agrees on: leases, keys and
//! transactions.
//!
//! **Why a crate**: the door, the client and the simulator decide by the same
//! rules, and none of them may add its own.
//!
//! **How it is laid out in the keyspace**
//! - A session is a lease, with a record of it under [`SESSIONS`].
//! - A lock `N` is a queue: one key `N/<session>` a contender, in the order of
//!   their create revisions, as etcd's own clients lay it out; so they and ours
//!   wait for each other.
//! - A candidate of an election is a session with a record under [`CANDIDATES`]; the
//!   best healthy one enters the office's queue when it is free.
//! - A service's instances are sessions with a record under [`SERVICES`]; the
//!   active one of several holds a lock. The leader marks those whose agents have
//!   fallen silent, under [`SILENCES`].
//! - A session with a lock-delay has a second lease, its *guard*, that outlives
//!   it by the delay; it holds a second key in each queue, created with the
//!   first. When the session is lost the guard keeps the others out.
//! - Small files and who caches them: [`mod@file`].
//!
//! **Invariants**
//! - The fencing token of a holder is its key's create revision. Nobody enters a
//!   queue before somebody who is in it, so tokens only grow from one holder of
//!   an exclusive lock to the next; and who holds once, holds until its key goes.
//! - A write that carries a [`Sequencer`] is a transaction on the holder's key
//!   being there, created at that revision and bound to that session: decided in
//!   the log, on every member alike. That proves a place in the queue; that it is
//!   the holder's follows from tokens being told to holders alone.
//! - A client's [`SessionClock`] never says *safe* when the server may already
//!   have ended the session, as long as their clocks' rates differ by less than
//!   [`DRIFT_MAX_PERCENT`].
//!
//! **Must not know**: protobuf, clocks, sockets. Times come in as milliseconds.

mod claim;
mod clock;
mod elect;
pub mod file;
mod listener;
mod newest;
mod phi;
mod queue;
mod registry;
mod sequencer;
mod service;
mod steps;
#[cfg(test)]
mod tests;

pub use claim::{Claim, SessionRecord};
pub use clock::{DRIFT_MAX_PERCENT, SessionClock, SessionState};
pub use elect::{
    CANDIDATES, Candidate, CandidateRecord, Choice, best, candidate_key, candidates, choice,
    outranked, read_candidates, take_office, took_office,
};
pub use listener::{Hearing, Listener, Verdict};
pub use newest::Newest;
pub use phi::{PhiDetector, PhiOptions};
pub use queue::{
    Contender, Standing, behind, contenders, delays, holders, is_ahead, is_contender, is_free,
    key_of, read_queue, standing, without_idle_guards, would_hold,
};
pub use registry::{
    Instance, Unregistered, check_service_name, follower, hands_over, need_not_wait,
    read_instances, register,
};
pub use sequencer::{BadSequencer, Mode, Sequencer};
pub use service::{
    Duty, Health, InstanceRecord, OFFICES, Report, Role, SERVICES, SILENCES, ServiceMode,
    handover_key, instance_key, office, report_key, silence_key,
};
pub use steps::{
    Entered, Place, SESSIONS, Touches, claim_key, enter, entered, fence, fenced, is_reserved,
    leave, mark_held, nothing_own, resign, resume, session_key, touches, withdraw,
};

use bytes::Bytes;
use synod_mvcc::KeyRange;

/// All keys that start with `prefix`.
pub fn prefix_range(prefix: &[u8]) -> KeyRange {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return KeyRange { key: Bytes::copy_from_slice(prefix), end: end.into() };
        }
    }
    KeyRange { key: Bytes::copy_from_slice(prefix), end: Bytes::from_static(&[0]) }
}
