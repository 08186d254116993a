//! The state of a cell: applies commands to a buffer over the store, commits
//! the buffer in one batch, publishes the result to readers.
//!
//! **Invariants**
//! - What [`State::apply`] does and answers depends on the state and the
//!   command alone. A refused command changes nothing but the applied index.
//! - `leases` and `due` mirror [`Space::Leases`] under the buffer, `hot` a part of
//!   [`Space::Latest`].
//! - After a [`StoreError`] the state must not be used any more.

use crate::hot::Hot;
use crate::lease::Leases;
use crate::meta::{self, Meta};
use crate::overlay::{Overlay, Writes};
use crate::read::At;
use crate::reader::{Published, Reader};
use crate::store::{Read, Space, Store, StoreError, StoreSize};
use crate::types::*;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_base::{NodeId, planted};

/// What bounds a state. The same on all members of a cell: the lease minimum
/// decides what commands do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateLimits {
    /// Logical size in bytes from which [`State::over_quota`] tells so; 0: none.
    pub quota_bytes: u64,
    /// The least time to live of a lease, seconds (etcd: 1.5 election time-outs).
    pub lease_ttl_min: i64,
}

impl Default for StateLimits {
    fn default() -> StateLimits {
        StateLimits { quota_bytes: 0, lease_ttl_min: 2 }
    }
}

/// See the file's header.
pub struct State<S: Store> {
    pub(crate) store: S,
    pub(crate) view: S::View,
    pub(crate) writes: Writes,
    pub(crate) hot: Hot,
    pub(crate) limits: StateLimits,
    pub(crate) meta: Meta,
    pub(crate) leases: Leases,
    pub(crate) members: Arc<BTreeMap<NodeId, MemberInfo>>,
    pub(crate) alarms: Arc<BTreeSet<(NodeId, AlarmKind)>>,
    pub(crate) counts: OpCounts,
    pub(crate) revisions: Vec<Revision>,
    reader: Reader<S::View>,
}

/// What is loaded from a store at opening.
struct Loaded {
    meta: Meta,
    leases: Leases,
    members: Arc<BTreeMap<NodeId, MemberInfo>>,
    alarms: Arc<BTreeSet<(NodeId, AlarmKind)>>,
}

fn load(view: &impl Read) -> Result<Loaded, StoreError> {
    let record = |key: &[u8]| view.get(Space::Meta, key);
    let meta = record(meta::META)?.map(Meta::decode).transpose()?;
    let members = record(meta::MEMBERS)?.map(meta::decode_members).transpose()?;
    let alarms = record(meta::ALARMS)?.map(meta::decode_alarms).transpose()?;
    Ok(Loaded {
        meta: meta.unwrap_or_default(),
        leases: Leases::load(view)?,
        members: Arc::new(members.unwrap_or_default()),
        alarms: Arc::new(alarms.unwrap_or_default()),
    })
}

impl<S: Store> State<S> {
    /// Opens the state that is in `store`; an empty store is at revision 1.
    /// Reads the leases, never the keyspace.
    pub fn open(store: S, limits: StateLimits) -> Result<Self, StoreError> {
        let view = store.view();
        let Loaded { meta, leases, members, alarms } = load(&view)?;
        let counts = OpCounts::default();
        let first = publication(view.clone(), &meta, &members, &alarms, counts);
        Ok(State {
            store,
            view,
            writes: Writes::default(),
            hot: Hot::default(),
            limits,
            meta,
            leases,
            members,
            alarms,
            counts,
            revisions: Vec::new(),
            reader: Reader::new(first),
        })
    }

    /// Reads everything anew from the store, after a staged snapshot was
    /// swapped in; what was buffered is dropped. Readers see the new content.
    pub fn reload(&mut self) -> Result<(), StoreError> {
        self.view = self.store.view();
        let Loaded { meta, leases, members, alarms } = load(&self.view)?;
        (self.meta, self.leases, self.members, self.alarms) = (meta, leases, members, alarms);
        self.writes = Writes::default();
        self.hot.clear();
        self.revisions.clear();
        self.publish();
        Ok(())
    }

    /// The store: for syncs, sizes and staging. Committing to it directly
    /// breaks the state; after a swap call [`State::reload`].
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Gives the store back; what is not committed is lost.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Index of the last command applied.
    pub fn applied(&self) -> u64 {
        self.meta.applied
    }

    /// Term (ballot, epoch) of that command.
    pub fn applied_term(&self) -> u64 {
        self.meta.term
    }

    /// The revision, buffered writes included.
    pub fn revision(&self) -> i64 {
        self.meta.revision
    }

    /// The last compaction's revision, 0 before the first.
    pub fn compacted(&self) -> i64 {
        self.meta.compacted
    }

    /// The lease clock, ms: the latest that a command carried.
    pub fn lease_clock(&self) -> u64 {
        self.meta.lease_clock
    }

    /// The members.
    pub fn members(&self) -> &BTreeMap<NodeId, MemberInfo> {
        &self.members
    }

    /// The alarms that are raised.
    pub fn alarms(&self) -> &BTreeSet<(NodeId, AlarmKind)> {
        &self.alarms
    }

    /// Bytes of all versions that are readable at some revision: keys, values
    /// and a fixed overhead each. The same on every member, whatever the store
    /// and the progress of compactions.
    pub fn logical_size(&self) -> u64 {
        self.meta.logical_size()
    }

    /// Whether the quota is used up.
    pub fn over_quota(&self) -> bool {
        self.limits.quota_bytes != 0 && self.logical_size() >= self.limits.quota_bytes
    }

    /// What the store takes up.
    pub fn size(&self) -> StoreSize {
        self.store.size()
    }

    /// A reader of what is committed, for any thread.
    pub fn reader(&self) -> Reader<S::View> {
        self.reader.clone()
    }

    /// Sets the initial members; only before the first command.
    pub fn bootstrap(&mut self, members: impl IntoIterator<Item = MemberInfo>) {
        for member in members {
            self.set_member(member);
        }
    }

    /// What was staged by [`State::stage_boundary`] with the snapshot that the
    /// content began with, if it began with one.
    pub fn boundary(&self) -> Result<Option<Bytes>, StoreError> {
        self.view.get(Space::Meta, meta::BOUNDARY)
    }

    /// Adds to the staged content where it stands in the log (the driver's
    /// bytes): they become durable together, so that a crash right after the
    /// swap leaves no state whose place nobody knows.
    pub fn stage_boundary(&mut self, boundary: Bytes) -> Result<(), StoreError> {
        let key = Bytes::from_static(meta::BOUNDARY);
        self.store.stage_put(vec![(Space::Meta, key, boundary)])
    }

    /// The store with the buffer over it.
    pub(crate) fn overlay(&self) -> Overlay<'_, S::View> {
        Overlay { base: &self.view, writes: &self.writes }
    }

    /// Applies the command at `index`. The outer error is the store's and
    /// fatal; the inner one refuses the command. The effect is buffered:
    /// later commands see it, readers after [`State::commit`].
    pub fn apply(
        &mut self,
        index: u64,
        term: u64,
        command: &Command,
    ) -> Result<Result<Outcome, Error>, StoreError> {
        self.skip(index, term);
        if let Err(refused) = self.admit(command) {
            return Ok(Err(refused));
        }
        match command {
            Command::Put(req) => self.apply_put(req),
            Command::Delete(req) => self.apply_delete(req).map(Ok),
            Command::Txn(req) => self.apply_txn(req),
            Command::Compact { revision } => self.apply_compact(*revision),
            Command::LeaseGrant { id, ttl, clock } => Ok(self.lease_grant(*id, *ttl, *clock)),
            Command::LeaseRevoke { id } => self.lease_revoke(*id),
            Command::LeaseRenew { ids, clock } => Ok(Ok(self.lease_renew(ids, *clock))),
            Command::LeaseExpire { ids, clock } => self.lease_expire(ids, *clock).map(Ok),
            Command::LeaseClock { clock } => {
                self.move_clock(*clock);
                Ok(Ok(Outcome::Done))
            }
            Command::Alarm { raise, member, kind } => {
                self.set_alarm(*raise, *member, *kind);
                Ok(Ok(Outcome::Done))
            }
            Command::MemberSet(member) => {
                self.set_member(member.clone());
                Ok(Ok(Outcome::Done))
            }
            Command::MemberRemove(id) => {
                self.remove_member(*id);
                Ok(Ok(Outcome::Done))
            }
        }
    }

    /// Moves the applied index over an entry that is no command.
    pub fn skip(&mut self, index: u64, term: u64) {
        // A change of the membership brings several commands in one entry.
        assert!(index >= self.meta.applied, "entry {index} comes late");
        self.meta.applied = index;
        self.meta.term = term;
    }

    /// Commits what was applied since the last commit, with the applied index,
    /// in one batch; then readers see it. Returns the revisions made.
    pub fn commit(&mut self) -> Result<Vec<Revision>, StoreError> {
        if planted("state: the applied index is stored apart from the data") {
            let apart = Meta { applied: self.meta.applied.saturating_sub(1), ..self.meta.clone() };
            self.writes.put(Space::Meta, Bytes::from_static(meta::META), apart.encode());
        } else {
            self.writes.put(Space::Meta, Bytes::from_static(meta::META), self.meta.encode());
        }
        self.store.commit(self.writes.drain())?;
        self.view = self.store.view();
        self.publish();
        Ok(std::mem::take(&mut self.revisions))
    }

    fn publish(&self) {
        self.reader.publish(publication(
            self.view.clone(),
            &self.meta,
            &self.members,
            &self.alarms,
            self.counts,
        ));
    }

    /// What the alarms leave allowed.
    fn admit(&self, command: &Command) -> Result<(), Error> {
        if self.alarms.is_empty() {
            return Ok(());
        }
        let raised = |kind| self.alarms.iter().any(|(_, k)| *k == kind);
        let changes_keys = matches!(
            command,
            Command::Put(_)
                | Command::Delete(_)
                | Command::Txn(_)
                | Command::Compact { .. }
                | Command::LeaseGrant { .. }
                | Command::LeaseRevoke { .. }
                | Command::LeaseExpire { .. }
        );
        if changes_keys && raised(AlarmKind::Corrupt) {
            return Err(Error::Corrupt);
        }
        let needs_space = match command {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Txn(txn) => puts(txn),
            _ => false,
        };
        if needs_space && raised(AlarmKind::NoSpace) {
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    fn set_alarm(&mut self, raise: bool, member: NodeId, kind: AlarmKind) {
        let alarms = Arc::make_mut(&mut self.alarms);
        if raise {
            alarms.insert((member, kind));
        } else {
            alarms.remove(&(member, kind));
        }
        let record = meta::encode_alarms(&self.alarms);
        self.writes.put(Space::Meta, Bytes::from_static(meta::ALARMS), record);
    }

    fn set_member(&mut self, member: MemberInfo) {
        Arc::make_mut(&mut self.members).insert(member.id, member);
        self.write_members();
    }

    pub(crate) fn remove_member(&mut self, id: NodeId) {
        Arc::make_mut(&mut self.members).remove(&id);
        // Nobody is left to clear its alarms.
        let alarms = Arc::make_mut(&mut self.alarms);
        alarms.retain(|(member, _)| *member != id);
        let record = meta::encode_alarms(&self.alarms);
        self.writes.put(Space::Meta, Bytes::from_static(meta::ALARMS), record);
        self.write_members();
    }

    fn write_members(&mut self) {
        let record = meta::encode_members(&self.members);
        self.writes.put(Space::Meta, Bytes::from_static(meta::MEMBERS), record);
    }

    /// Answers a read over the buffer: what the next command would see.
    pub fn range(&self, req: &RangeRequest) -> Result<Result<RangeResult, Error>, StoreError> {
        let view = self.overlay();
        At { view: &view, revision: self.meta.revision, compacted: self.meta.compacted }.range(req)
    }
}

fn publication<V>(
    view: V,
    meta: &Meta,
    members: &Arc<BTreeMap<NodeId, MemberInfo>>,
    alarms: &Arc<BTreeSet<(NodeId, AlarmKind)>>,
    counts: OpCounts,
) -> Published<V> {
    Published {
        view,
        revision: meta.revision,
        compacted: meta.compacted,
        applied: meta.applied,
        applied_term: meta.term,
        lease_clock: meta.lease_clock,
        logical_size: meta.logical_size(),
        members: Arc::clone(members),
        alarms: Arc::clone(alarms),
        counts,
    }
}

/// Whether a transaction may put, in whatever branch.
fn puts(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(nested) => puts(nested),
        Op::Range(_) | Op::Delete(_) => false,
    })
}
