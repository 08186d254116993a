//! One replicated keyspace: a protocol, the state it agrees on, and the
//! requests that wait for either.
//!
//! **Why a crate**: this is the whole of a member but its shell. It has no
//! clock, thread, file or socket, so the simulator runs it as it is.
//!
//! **Invariants**
//! - A request is answered at most once, and every request is answered: with
//!   its outcome, a refusal that says nothing was changed, or "unknown" once
//!   its deadline has passed.
//! - A write is answered by the node that took it, after that node applied and
//!   published it: a client that then reads there sees it.
//! - A message leaves only when the journal holds what it relies on.
//! - What is buffered is bounded by [`CellLimits`].
//!
//! **Must not know**: protobuf, HTTP, which store or disk is beneath.

mod apply;
mod cell;
mod envelope;
mod event;
mod lease;
mod message;
mod propose;
mod read;
mod snapshot;

pub use cell::{Agreed, Cell, CellInput, CellLimits, CellOutput, CellStatus, Failure, Reply};
pub use envelope::{ConfigContext, Work};
pub use event::CellEvent;
pub use message::{ForwardId, PeerMessage, Verdict};
pub use snapshot::{SnapshotJob, SnapshotPieces};
