//! Agreement: one contract, and the protocols behind it (Raft,
//! Multi-Paxos, Zab).
//!
//! **Why a crate**: a protocol decides and does nothing else. It takes an
//! [`Input`] and the present [`Tick`](synod_base::Tick), and pushes [`Output`]s: records to
//! write, messages to send, commits, answers, events. The host binds that to a
//! real machine, the simulator to a simulated one, and both run the same code.
//!
//! **Invariants**
//! - Deterministic: the same seed and the same inputs give the same outputs.
//! - *Persist before send is data*: a message that relies on a write names it
//!   ([`Output::Send::after`]); the driver sends it only when every write up to
//!   that sequence is durable.
//! - [`Output::Commit`] never passes what the node's own journal holds durably,
//!   so the state can never be ahead of the journal.
//! - Every queue and buffer is bounded by a field of [`Limits`].
//! - Every decision emits an [`Event`] that carries its reason.
//!
//! **Must not know**: what a command means (bytes), what a file, a socket, a
//! clock or a thread is; the protocols never know each other.

mod config;
mod contract;
mod entries;
mod event;
mod parts;
pub mod paxos;
mod protocol;
pub mod raft;
pub mod zab;

pub use config::{Change, Membership};
pub use contract::{
    Consensus, Entry, EntryKind, Input, Limits, Output, Outputs, Proposal, Recovered, Refusal,
    Role, SnapshotMeta, Status, WriteSeq,
};
pub use entries::Entries;
pub use event::{
    CampaignReason, Event, SnapshotReason, StandDownReason, SyncMethod, TransferReason, VoteRefusal,
};
pub use protocol::{Message, Protocol, Record, RecordView};
