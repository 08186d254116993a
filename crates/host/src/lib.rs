//! The shell that binds a member to a real machine: the only owner of real
//! disks, clocks, entropy and peer sockets.
//!
//! **Why a crate**: whatever is not here can run in the simulator.
//!
//! **Threads**: `core` (all cells, applying, peer sockets; a current-thread
//! runtime), `journal` (sleeps in fdatasync), and the store's own. Doors run
//! where the binary puts them and reach the core through a [`Handle`].
//!
//! **Invariants**
//! - Data directories are locked; two processes never share one.
//! - A failed journal or store stops the node; nothing is retried on a disk
//!   that failed.
//! - Frames between peers carry checksums; a bad one ends the connection.
//!
//! **Must not know**: protobuf, HTTP, the doors.

mod bootstrap;
mod check;
mod core_loop;
mod disk;
mod event_log;
mod feed;
mod handle;
mod identity;
mod journal;
pub mod machine;
mod mailbox;
pub mod metrics;
pub mod page;
mod peer_server;
mod rebuild;
mod restore;
mod transport;
pub mod wire;

pub use bootstrap::{ClusterState, Config, StartError, start};
pub use disk::{FileDisk, sync_dir, write_atomically};
pub use feed::Feed;
pub use handle::{Handle, HostView, LoggedEvent, RequestError};
pub use identity::Identity;
pub use restore::RestoreTarget;
