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

mod types;

pub use types::*;
