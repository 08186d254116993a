//! A whole cluster in one thread, on a simulated network, disk and clock, from
//! one seed; with faults, clients, and checkers of what must hold.
//!
//! **Why a crate**: it binds the same cores that the host binds to a real
//! machine (`cell`, and below it consensus, `mvcc` and the journal with its
//! recovery) to simulated ones, and adds what no product code may know: the
//! view from above.
//!
//! **Invariants**
//! - A run follows from its [`Scenario`] alone: the same scenario gives the
//!   same run, event by event, on every machine.
//! - What a fault may do is what the real world may do: unsynced sectors are
//!   lost, torn or reordered, synced ones are not; clocks are monotonic.
//! - A checker compares with what was promised (to a client, by a rule), never
//!   with what the code under test believes.
//!
//! **Must not know**: real time, files, threads, tokio, protobuf.
//!
//! **Caveats**: the doors' asynchronous shells (HTTP/2, streams) are not in it;
//! the state is the store in memory, whose crash goes back to its last sync.

pub mod check;
mod client;
mod disk;
mod duties;
mod filer;
mod files;
mod grace;
mod holder;
mod locks;
mod machine;
mod members;
mod model;
mod network;
mod office;
mod oracle;
mod picture;
mod run;
mod scenario;
mod schedule;
mod shrink;
mod watcher;
mod world;

pub use run::{Report, Violation, run, run_traced};
pub use scenario::{Fault, Faults, Scenario};
pub use shrink::shrink;
