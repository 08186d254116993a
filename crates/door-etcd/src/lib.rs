//! The etcd door: etcd's v3 gRPC interface, its JSON gateway and its health and
//! metrics pages, in front of one member.
//!
//! **Why a crate**: only here is protobuf known on the server's side.
//!
//! **How a call runs**: the hot calls of KV, watches and the renewals of sessions are
//! decoded by hand on the HTTP/2 stream (`grpc`); all others go through tonic's
//! services; both end in the same functions. A write becomes a [`synod_mvcc::Command`] and is answered
//! when this member has applied it; a linearizable read waits for a barrier and
//! then reads what this member has published.
//!
//! **Invariants**
//! - Any member serves any request; whether it leads is not asked here.
//! - Errors that clients match on carry etcd's words (`error`).
//! - What one client can make the door hold is bounded.
//!
//! **Must not know**: consensus, journal, store.

mod auth;
mod cluster;
mod convert;
mod coord;
mod cors;
mod door;
mod election;
mod error;
mod exposition;
mod families;
mod gateway;
mod grpc;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod metrics;
mod pages;
mod queue;
mod server;
mod services;
mod slow;
mod traffic;
mod watch;

pub use convert::txn_request;
pub use door::{Door, DoorConfig, ETCD_VERSION};
pub use families::METRICS;
pub use server::{MorePages, PageAnswer, Serving, serve};
