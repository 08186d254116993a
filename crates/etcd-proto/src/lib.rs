//! etcd's v3 interface and Synod's own beside it: the messages, the client stubs
//! and the server traits that `proto/` describes. Generated code only.
//!
//! **Why a crate**: the door and the client commands share it, and its slow
//! compilation is paid once.
//!
//! **Must not know**: anything of Synod.

#![allow(clippy::all, missing_docs)]

/// Pairs and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}
/// Users, roles and permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}
/// The main interface.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
/// Locks.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}
/// Elections.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// Synod's own: sessions, locks and small files.
pub mod synod {
    /// Its first version.
    pub mod v1 {
        tonic::include_proto!("synod.v1");
    }
}
/// Health checks.
pub mod healthpb {
    tonic::include_proto!("grpc.health.v1");
}

/// The encoded `FileDescriptorSet` of all of the above (for JSON and reflection).
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
