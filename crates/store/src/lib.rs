//! The state on a real disk: [`synod_mvcc::Store`] over the log-structured
//! merge tree of the fjall project.
//!
//! **Why a crate**: the only place that knows the storage library, and threads
//! and files of the state.
//!
//! **Why the tree itself and not the fjall database around it**: fjall keeps a
//! journal of its own, which our journal makes superfluous (it replays
//! everything above the applied index), which doubles the bytes written, whose
//! fsync holds up every commit, and which must be replayed at opening. Without
//! it a sync is the flush of a memtable to a table file, beside which commits go on.
//!
//! **Invariants**
//! - One memtable of ours (the tree's stay empty) and one tree hold all key
//!   spaces, the tree's keys prefixed with the space, so that one memtable holds
//!   a batch whole: memtables are sealed between batches only, and flushed to
//!   tables in order, so what is on disk is always the state after some commit.
//! - A view is taken between batches, by the writer; what is on disk is never
//!   taken from under it (`Pins`).
//! - No commit waits for compaction: commits are slowed while it is behind (`pace.rs`).
//! - Each staged content is a generation with a folder of its own; the file
//!   `CURRENT` names the one that counts and is replaced atomically.
//!
//! **Must not know**: revisions, leases, consensus.

mod disk;
mod generation;
mod memtable;
mod merge;
mod options;
mod pace;
mod view;

pub use disk::DiskStore;
pub use options::DiskOptions;
pub use view::DiskView;
