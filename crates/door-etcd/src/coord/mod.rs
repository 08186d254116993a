//! Synod's own interface, `synod.v1`, on etcd's port: sessions, locks, elections,
//! services, writes that are done only while a lock is held, and small files.

mod election;
mod fence;
mod file;
mod guard;
pub(crate) mod lock;
mod service;
mod session;
mod silence;

pub(crate) use fence::{FENCE_HEADER, check_fence, fence_of};
pub(crate) use file::{FileMetrics, deletes_over_files, follow_leader};
pub(crate) use silence::{SilenceMetrics, watch_instances};
