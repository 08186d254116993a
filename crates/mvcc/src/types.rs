//! The words of the keyspace: pairs, requests, commands, outcomes, errors.

use bytes::Bytes;
use synod_base::NodeId;

/// A key with its value and history, as clients see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyValue {
    /// The key, never empty.
    pub key: Bytes,
    /// Revision of its creation.
    pub create_revision: i64,
    /// Revision of its last change.
    pub mod_revision: i64,
    /// Changes since the creation, from 1; 0 in a delete event.
    pub version: i64,
    /// The value.
    pub value: Bytes,
    /// The lease it is bound to, or 0.
    pub lease: i64,
}

/// A range of keys as etcd writes it: `end` empty: the one key; `end` = `\0`:
/// all from `key` on; otherwise `[key, end)`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyRange {
    /// First key.
    pub key: Bytes,
    /// See above.
    pub end: Bytes,
}

/// How a range is sorted before the limit is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SortTarget {
    /// By key.
    #[default]
    Key,
    /// By version.
    Version,
    /// By create revision.
    Create,
    /// By modification revision.
    Mod,
    /// By value.
    Value,
}

/// Direction of a sort.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SortOrder {
    /// As stored (by key), but ascending when another target than the key is named.
    #[default]
    None,
    /// Ascending.
    Ascend,
    /// Descending.
    Descend,
}

/// A read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeRequest {
    /// Which keys.
    pub range: KeyRange,
    /// Most pairs returned; 0: no limit.
    pub limit: i64,
    /// At which revision; 0 (or less): the present.
    pub revision: i64,
    /// Sort direction.
    pub order: SortOrder,
    /// Sort target.
    pub target: SortTarget,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Filters; 0: none.
    pub min_mod_revision: i64,
    /// See `min_mod_revision`.
    pub max_mod_revision: i64,
    /// See `min_mod_revision`.
    pub min_create_revision: i64,
    /// See `min_mod_revision`.
    pub max_create_revision: i64,
}

/// What a read found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeResult {
    /// The pairs.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut some off.
    pub more: bool,
    /// Keys in the range, whatever the limit.
    pub count: i64,
}

/// A write of one key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PutRequest {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease to bind it to, or 0.
    pub lease: i64,
    /// Return the previous pair.
    pub prev_kv: bool,
    /// Keep the value.
    pub ignore_value: bool,
    /// Keep the lease.
    pub ignore_lease: bool,
}

/// A deletion.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeleteRequest {
    /// Which keys.
    pub range: KeyRange,
    /// Return what was deleted.
    pub prev_kv: bool,
}

/// What a comparison looks at, with the operand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompareTarget {
    /// The version.
    Version(i64),
    /// The create revision.
    Create(i64),
    /// The modification revision.
    Mod(i64),
    /// The value.
    Value(Bytes),
    /// The lease.
    Lease(i64),
}

/// The relation that a comparison asks for: stored RELATION operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompareResult {
    /// Equal.
    Equal,
    /// Stored is greater.
    Greater,
    /// Stored is less.
    Less,
    /// Differs.
    NotEqual,
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compare {
    /// The keys; all of them must satisfy it.
    pub range: KeyRange,
    /// What is compared.
    pub target: CompareTarget,
    /// How.
    pub result: CompareResult,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A read; it sees the transaction's earlier writes.
    Range(RangeRequest),
    /// A write.
    Put(PutRequest),
    /// A deletion.
    Delete(DeleteRequest),
    /// A nested transaction.
    Txn(TxnRequest),
}

/// If all of `compare` hold then `success` else `failure`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TxnRequest {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// Done when they hold.
    pub success: Vec<Op>,
    /// Done otherwise.
    pub failure: Vec<Op>,
}

/// What one operation of a transaction answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpResult {
    /// See [`RangeResult`].
    Range(RangeResult),
    /// The previous pair, where asked for.
    Put(Option<KeyValue>),
    /// How many were deleted, and which, where asked for.
    Delete(i64, Vec<KeyValue>),
    /// The nested transaction's.
    Txn(TxnResult),
}

/// What a transaction answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TxnResult {
    /// Whether the conditions held.
    pub succeeded: bool,
    /// One for each operation of the branch taken.
    pub responses: Vec<OpResult>,
}

/// An alarm that a member raised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AlarmKind {
    /// The quota is used up: writes that need space are refused.
    NoSpace,
    /// A member's data differs from the others': the cell refuses writes and
    /// linearizable reads.
    Corrupt,
}

/// A member's addresses; part of the state, so that every node tells the same.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberInfo {
    /// Who.
    pub id: NodeId,
    /// Its name; empty until it has started.
    pub name: String,
    /// Where peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// What is agreed on. Encoded once by the proposer ([`Command::encode`]) and
/// kept as those bytes through journal and peers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// See [`PutRequest`].
    Put(PutRequest),
    /// See [`DeleteRequest`].
    Delete(DeleteRequest),
    /// See [`TxnRequest`].
    Txn(TxnRequest),
    /// Forget superseded versions at and below this revision.
    Compact {
        /// The revision.
        revision: i64,
    },
    /// Make a lease. `id` is not 0: the door draws it.
    LeaseGrant {
        /// Its id.
        id: i64,
        /// Seconds.
        ttl: i64,
        /// The leader's lease clock, ms; stamped by the leader.
        clock: u64,
    },
    /// End a lease at a client's wish, deleting its keys.
    LeaseRevoke {
        /// Which.
        id: i64,
    },
    /// Start these leases' time over.
    LeaseRenew {
        /// Which; unknown ones are passed over.
        ids: Vec<i64>,
        /// The leader's lease clock, ms.
        clock: u64,
    },
    /// End those of these leases whose time is up at `clock` (a renewal that
    /// was agreed on earlier saves them), deleting their keys in one revision
    /// per lease.
    LeaseExpire {
        /// Candidates.
        ids: Vec<i64>,
        /// The leader's lease clock, ms.
        clock: u64,
    },
    /// Move the lease clock on, so that a restart of everybody does not give
    /// leases their time back.
    LeaseClock {
        /// The leader's lease clock, ms.
        clock: u64,
    },
    /// Raise or clear an alarm.
    Alarm {
        /// Raise (or clear).
        raise: bool,
        /// Whose.
        member: NodeId,
        /// Which.
        kind: AlarmKind,
    },
    /// Set a member's addresses.
    MemberSet(MemberInfo),
    /// Forget a member's addresses.
    MemberRemove(NodeId),
}

/// What a command answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The previous pair, where asked for.
    Put(Option<KeyValue>),
    /// How many, and which, where asked for.
    Delete(i64, Vec<KeyValue>),
    /// See [`TxnResult`].
    Txn(TxnResult),
    /// Done, with nothing to tell.
    Done,
    /// The lease's granted time to live in seconds.
    LeaseGranted(i64),
    /// For each id of a renewal: the granted time to live, or 0 for an unknown lease.
    LeaseRenewed(Vec<(i64, i64)>),
}

/// Operations that were applied since the state was opened, whoever asked for them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OpCounts {
    /// Ranges within transactions that write.
    pub ranges: u64,
    /// Puts, those within transactions too.
    pub puts: u64,
    /// The same of deletes (each of a range).
    pub deletes: u64,
    /// Transactions of more than one of these.
    pub txns: u64,
}

/// Bytes of the longest key that can be put (etcd has no bound but a request's size). A store's
/// key may be twice as long, and a few bytes more; it takes up to 65,535.
pub const KEY_BYTES_MAX: usize = 32_000;

/// Why a request was refused; nothing was changed by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The revision was compacted away.
    Compacted,
    /// The revision is not reached yet.
    FutureRevision,
    /// `ignore_value` or `ignore_lease` on a missing key.
    KeyNotFound,
    /// No such lease.
    LeaseNotFound,
    /// The lease id is taken.
    LeaseExists,
    /// The time to live is over 9,000,000,000 s.
    LeaseTtlTooLarge,
    /// A key to be put is over [`KEY_BYTES_MAX`].
    KeyTooLong,
    /// The quota is used up.
    NoSpace,
    /// The cell's data are known to differ between members.
    Corrupt,
}

/// A change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Whether the key was deleted; then `kv` has key and `mod_revision` only.
    pub deleted: bool,
    /// The pair after the change.
    pub kv: KeyValue,
    /// The pair before the revision; none for a put that makes its key.
    pub prev: Option<KeyValue>,
}

/// All changes of one revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revision {
    /// Its number.
    pub revision: i64,
    /// In order of sub-revision.
    pub events: Vec<Event>,
}
