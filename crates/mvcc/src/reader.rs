//! What is read beside the writer: the state as of the last commit.
//!
//! **Invariants**: a [`Published`] never changes; a [`Reader`] hands out the
//! newest one, whole.

use crate::read::At;
use crate::records::{self, LeaseTimes};
use crate::store::{Space, StoreError, View};
use crate::types::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use synod_base::NodeId;

/// A lease as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseInfo {
    /// Its id.
    pub id: i64,
    /// Granted time to live, seconds.
    pub granted_ttl: i64,
    /// When it ends, ms of the lease clock.
    pub expiry_clock: u64,
    /// The keys bound to it, in order.
    pub keys: Vec<bytes::Bytes>,
}

/// The state as of one commit.
pub struct Published<V> {
    pub(crate) view: V,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    pub(crate) applied: u64,
    pub(crate) applied_term: u64,
    pub(crate) lease_clock: u64,
    pub(crate) logical_size: u64,
    pub(crate) members: Arc<BTreeMap<NodeId, MemberInfo>>,
    pub(crate) alarms: Arc<BTreeSet<(NodeId, AlarmKind)>>,
    pub(crate) counts: OpCounts,
}

impl<V> Published<V> {
    /// What was applied since the state was opened.
    pub fn counts(&self) -> OpCounts {
        self.counts
    }

    /// The store's revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The last compaction's revision, 0 before the first.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Index of the last command in it.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Term (ballot, epoch) of that command.
    pub fn applied_term(&self) -> u64 {
        self.applied_term
    }

    /// The lease clock, ms.
    pub fn lease_clock(&self) -> u64 {
        self.lease_clock
    }

    /// See `State::logical_size`.
    pub fn logical_size(&self) -> u64 {
        self.logical_size
    }

    /// The members.
    pub fn members(&self) -> &Arc<BTreeMap<NodeId, MemberInfo>> {
        &self.members
    }

    /// The alarms that are raised.
    pub fn alarms(&self) -> &Arc<BTreeSet<(NodeId, AlarmKind)>> {
        &self.alarms
    }
}

impl<V: View> Published<V> {
    pub(crate) fn at(&self) -> At<'_, V> {
        At { view: &self.view, revision: self.revision, compacted: self.compacted }
    }

    /// Answers a read.
    pub fn range(&self, req: &RangeRequest) -> Result<Result<RangeResult, Error>, StoreError> {
        self.at().range(req)
    }

    /// Answers a read, if it is about no more than `most` pairs of the present (or one
    /// key); so it takes no longer than these do.
    pub fn range_of_few(
        &self,
        req: &RangeRequest,
        most: usize,
    ) -> Result<Option<Result<RangeResult, Error>>, StoreError> {
        self.at().range_of_few(req, most)
    }

    /// The ids of all leases.
    pub fn leases(&self) -> Result<Vec<i64>, StoreError> {
        let leases = self.view.scan(Space::Leases, &[], None, false);
        leases.map(|item| records::lease_id_of(&item?.0)).collect()
    }

    /// The time to live that a lease was granted, seconds, and when it ends by the
    /// lease clock unless it is renewed.
    pub fn lease_times(&self, id: i64) -> Result<Option<(i64, u64)>, StoreError> {
        let record = self.view.get(Space::Leases, &records::lease_key(id))?;
        let times = record.map(LeaseTimes::decode).transpose()?;
        Ok(times.map(|times| (times.ttl, times.expiry)))
    }

    /// A lease with its keys.
    pub fn lease(&self, id: i64) -> Result<Option<LeaseInfo>, StoreError> {
        let Some(record) = self.view.get(Space::Leases, &records::lease_key(id))? else {
            return Ok(None);
        };
        let times = LeaseTimes::decode(record)?;
        let (from, to) = (records::lease_key(id), records::lease_end(id));
        let keys = self.view.scan(Space::LeaseKeys, &from, to.as_ref().map(|t| &t[..]), false);
        Ok(Some(LeaseInfo {
            id,
            granted_ttl: times.ttl,
            expiry_clock: times.expiry,
            keys: keys.map(|item| Ok(item?.0.slice(8..))).collect::<Result<_, StoreError>>()?,
        }))
    }
}

/// Hands out the newest [`Published`]; cheap to clone, for any thread.
pub struct Reader<V> {
    newest: Arc<RwLock<Arc<Published<V>>>>,
}

impl<V> Clone for Reader<V> {
    fn clone(&self) -> Reader<V> {
        Reader { newest: Arc::clone(&self.newest) }
    }
}

impl<V> Reader<V> {
    pub(crate) fn new(first: Published<V>) -> Reader<V> {
        Reader { newest: Arc::new(RwLock::new(Arc::new(first))) }
    }

    pub(crate) fn publish(&self, next: Published<V>) {
        // The lock is held for a swap of pointers only; the old one is dropped outside.
        let next = Arc::new(next);
        let old = {
            let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *newest, next)
        };
        drop(old);
    }

    /// The state as of the last commit.
    pub fn published(&self) -> Arc<Published<V>> {
        Arc::clone(&self.newest.read().unwrap_or_else(PoisonError::into_inner))
    }
}
