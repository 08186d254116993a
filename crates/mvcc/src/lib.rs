//! The state that a cell agrees on: etcd's keyspace with its revisions,
//! transactions, leases, compaction and watch history.
//!
//! **Why a crate**: given the same commands in the same order it reaches the
//! same state on every node, whatever lies underneath ([`Store`]).
//!
//! **Invariants**
//! - [`State::apply`] is a function of the state and the command alone.
//! - What a batch of commands changed, and the applied index, reach the store
//!   in one atomic [`Store::commit`].
//! - A [`Reader`] sees a batch whole or not at all.
//!
//! **Must not know**: consensus, protobuf, files, clocks. Lease time is a
//! number that the leader stamps into commands ([`Command::LeaseRenew`]).

mod check;
mod command;
mod compact;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod decide;
mod history;
mod hot;
mod lease;
mod mem;
mod meta;
mod overlay;
mod pmap;
mod read;
mod reader;
mod records;
mod snapshot;
mod state;
mod store;
mod types;
mod watch_index;
mod write;

pub use check::{TxnProblem, check_put, check_txn};
pub use command::TXN_DEPTH_MAX;
pub use compact::REVISION_BUMP;
pub use history::{HashKv, History};
pub use lease::LEASE_TTL_MAX;
pub use mem::{MemStore, MemView, Rot};
pub use reader::{LeaseInfo, Published, Reader};
pub use snapshot::{
    SnapshotCursor, SnapshotError, SnapshotHead, SnapshotReader, SnapshotWriter, StagedPairs,
};
pub use state::{State, StateLimits};
pub use store::{Backlog, Batch, Item, Read, Space, Store, StoreError, StoreSize, Syncer, View};
pub use types::*;
pub use watch_index::WatchIndex;
