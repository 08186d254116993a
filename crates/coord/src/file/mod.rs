//! Small files (Burrows, OSDI'06, sections 2.3 to 2.7): a tree of nodes with contents,
//! read whole and written whole, and caches of them that stay coherent.
//!
//! **How it is laid out in the keyspace**, all of it below [`FILES`]
//! - A node is one key under `node/`, with the depth of its path before the path:
//!   so a node's children, and nothing else, stand side by side. An ephemeral node
//!   is bound to its session's lease.
//! - Who caches an [`Object`] (a node's contents or absence, or the names of its
//!   children) has a *registration* under `cache/`, bound to its session, made in the
//!   transaction that read it.
//! - A writer that finds registrations sets a *mark* under `mark/`, bound to a lease
//!   of its own: no new ones are made, and their owners give theirs up.
//!
//! **Invariants**
//! - A change of an object is a transaction that compares "nobody is registered": so
//!   what somebody is registered for is what it was when it was read. Nothing else
//!   rests on marks, clocks or events than how long a writer waits.
//! - A client reads from its [`Cache`] only while its session is safe and it has not
//!   begun to give its registration up (leases: Gray and Cheriton, SOSP'89).
//! - What ends with a session is never cached, since its end asks nobody.
//! - The contents' generation is the key's modification revision: it only grows, over
//!   deletions too.

mod cache;
mod node;
mod path;
mod steps;
#[cfg(test)]
mod tests;
mod writer;

pub use cache::{Cache, CacheLimits, CacheStats, Cached, Fill};
pub use node::{CONTENTS_BYTES_MAX, Child, Damaged, Node};
pub use path::{BadPath, FilePath, Kind, Object};
pub use steps::{
    Change, Expect, LIST_MAX, Refused, Registration, Write, look, looked, mark_range, marked,
    no_files, register, registered_keys, release,
};
pub use writer::{Need, Writer};

/// What all keys of files start with. Nothing else writes there.
pub const FILES: &str = "synod/file/";
