//! Synod's own interface, `synod.v1`, on etcd's port: sessions, locks, and
//! writes that are done only while a lock is held.

mod fence;
mod lock;
mod session;

pub(crate) use fence::{FENCE_HEADER, check_fence, fence_of};
