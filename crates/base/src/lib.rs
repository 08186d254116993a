//! What every other layer shares: identities, ticks, seeded randomness,
//! checksums, and the byte codec of our own formats.
//!
//! **Why a crate**: the pure layers may see this and nothing else of the world.
//!
//! **Invariants**: nothing here reads a clock, a file, a socket or the
//! operating system's entropy; the same inputs give the same outputs on every
//! machine.
//!
//! **Must not know**: any other crate of the workspace.

pub mod codec;
mod id;
mod plant;
mod rng;
mod sum;

pub use id::{CellId, NodeId, Tick};
#[cfg(feature = "planted")]
pub use plant::plant;
pub use plant::planted;
pub use rng::Rng;
pub use sum::{crc32c, crc32c_append, hash64};
