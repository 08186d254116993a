//! What the state needs from storage: an ordered map in a few key spaces, with
//! atomic batches, pinned views, and a staging area for snapshots.
//!
//! **Invariants of an implementation** (`conformance` checks them)
//! - A batch is seen whole or not at all, by views and after a crash.
//! - A view never changes after it was taken, whatever is committed later.
//! - After a crash the store is what it was after some commit at or after the
//!   last finished sync; nothing in between is missing (prefix consistency).
//! - A staged content replaces the present one durably and at once.

use bytes::Bytes;
use std::fmt;

/// The key spaces of the state. Numbers are part of the formats on disk.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Space {
    /// A handful of records about the whole: applied index, revision, members.
    Meta = 0,
    /// User key to its live pair.
    Latest = 1,
    /// (revision, sub-revision) to the event: what watchers of the past read.
    History = 2,
    /// (user key, revision descending) to the revision that superseded it:
    /// what reads at an old revision need beside `Latest`.
    Versions = 3,
    /// Lease id to its times.
    Leases = 4,
    /// (lease id, user key): the keys bound to a lease.
    LeaseKeys = 5,
}

impl Space {
    /// All of them, in the order of their numbers.
    pub const ALL: [Space; 6] = [
        Space::Meta,
        Space::Latest,
        Space::History,
        Space::Versions,
        Space::Leases,
        Space::LeaseKeys,
    ];

    /// The space with this number.
    pub fn from_u8(number: u8) -> Option<Space> {
        Space::ALL.get(usize::from(number)).copied()
    }
}

/// Storage failed or holds what we never wrote. The state in memory must not
/// be used any more: reopen it from what is on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreError {
    /// What was being done, where and what went wrong.
    pub what: String,
    /// What a person can do about it.
    pub remedy: &'static str,
}

const DAMAGED: &str = "the data of this member are damaged or were written by a newer version: start it \
                       with --rebuild to fetch everything from its peers, or restore a snapshot";

impl StoreError {
    /// The bytes found are not what this code writes.
    pub fn corrupt(what: impl Into<String>) -> StoreError {
        StoreError { what: what.into(), remedy: DAMAGED }
    }

    /// Whether what was found is not what this code writes.
    pub fn is_damage(&self) -> bool {
        self.remedy == DAMAGED
    }

    /// The disk or the storage library refused.
    pub fn io(what: impl Into<String>) -> StoreError {
        StoreError {
            what: what.into(),
            remedy: "check the disk's health, free space and permissions, then restart",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state store: {} ({})", self.what, self.remedy)
    }
}

impl std::error::Error for StoreError {}

impl From<synod_base::codec::Malformed> for StoreError {
    fn from(m: synod_base::codec::Malformed) -> StoreError {
        StoreError::corrupt(format!("a record cannot be read: {m}"))
    }
}

/// A key with its value, or why it could not be read.
pub type Item = Result<(Bytes, Bytes), StoreError>;

/// Reading an ordered map in key spaces.
pub trait Read {
    /// The value of a key.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The pairs from `from` (inclusive) to `to` (exclusive; `None`: to the
    /// end of the space), backwards if `reverse`.
    fn scan<'a>(
        &'a self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Item> + 'a>;

    /// How many keys there are in such a range.
    fn count(&self, space: Space, from: &[u8], to: Option<&[u8]>) -> Result<u64, StoreError> {
        let mut n = 0;
        for item in self.scan(space, from, to, false) {
            item?;
            n += 1;
        }
        Ok(n)
    }
}

/// A pinned state of a store: cheap to clone, readable from any thread.
pub trait View: Read + Clone + Send + Sync + 'static {}

impl<T: Read + Clone + Send + Sync + 'static> View for T {}

/// Changes that take effect together. No key occurs twice.
#[derive(Clone, Default, Debug)]
pub struct Batch {
    /// What is set (or removed, where the value is `None`).
    pub ops: Vec<(Space, Bytes, Option<Bytes>)>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.ops.push((space, key.into(), Some(value.into())));
    }

    /// Removes a key; a missing one is fine.
    pub fn remove(&mut self, space: Space, key: impl Into<Bytes>) {
        self.ops.push((space, key.into(), None));
    }
}

/// What a store takes up.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct StoreSize {
    /// Bytes in files (0 for a store in memory).
    pub on_disk: u64,
    /// Bytes in buffers and caches, as far as the store knows.
    pub in_memory: u64,
    /// What its upkeep has before it.
    pub backlog: Backlog,
}

/// What a store's upkeep has before it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Backlog {
    /// Sorted runs that wait to be merged.
    pub runs: u64,
    /// Full buffers that wait to be written.
    pub buffers: u64,
    /// How long commits were held back for it so far, µs.
    pub slowed_us: u64,
}

/// Makes durable what was committed before it was made; may run elsewhere.
pub type Syncer = Box<dyn FnOnce() -> Result<(), StoreError> + Send>;

/// Storage of one cell's state. One owner writes; views read beside it.
pub trait Store: Send + 'static {
    /// See [`View`].
    type View: View;

    /// The state after the last commit, pinned.
    fn view(&self) -> Self::View;

    /// Applies a batch atomically. It need not be durable yet.
    fn commit(&mut self, batch: Batch) -> Result<(), StoreError>;

    /// Makes everything committed durable.
    fn sync(&mut self) -> Result<(), StoreError> {
        self.syncer()()
    }

    /// Does what [`Store::sync`] does, but elsewhere: everything committed
    /// before this call is durable once the returned function has succeeded,
    /// while commits go on.
    fn syncer(&self) -> Syncer;

    /// What it takes up.
    fn size(&self) -> StoreSize;

    /// Whether its own upkeep is behind, so that work which can wait should: more of it
    /// now would make commits wait.
    fn is_behind(&self) -> bool {
        false
    }

    /// Starts an empty staging area, dropping an earlier one.
    fn stage_begin(&mut self) -> Result<(), StoreError>;

    /// Adds pairs to the staging area. Fastest in ascending order of space and key.
    fn stage_put(&mut self, pairs: Vec<(Space, Bytes, Bytes)>) -> Result<(), StoreError>;

    /// Makes the staging area the content, atomically and durably. Views taken
    /// before keep what they show.
    fn stage_swap(&mut self) -> Result<(), StoreError>;

    /// Drops the staging area, if there is one.
    fn stage_abort(&mut self) -> Result<(), StoreError>;
}
