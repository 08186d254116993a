//! What the protocols share: mechanisms that agree on nothing by themselves.
//!
//! **Must not know**: ballots, epochs, quorum rules, or any protocol.

pub mod codec;
pub mod history;
pub mod log;
pub mod poll;
pub mod progress;
pub mod reads;
pub mod recover;
pub mod streams;
pub mod watch;
pub mod writes;
