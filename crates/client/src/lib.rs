//! A client for Synod's sessions, locks, elections, services and small files.
//!
//! ```no_run
//! # async fn run() -> Result<(), synod_client::Error> {
//! use synod_client::{Client, SessionOptions};
//!
//! let client = Client::connect(["127.0.0.1:2379", "127.0.0.1:22379"]).await?;
//! let session = client.open_session(SessionOptions::named("billing")).await?;
//! let lock = session.lock("jobs/nightly").await?;
//! assert!(session.is_safe());
//! client.put_fenced("ledger", "42", lock.sequencer()).await?;
//! lock.release().await?;
//! # Ok(()) }
//! ```
//!
//! **Why a crate**: applications link it, and of the server only the rules that both
//! sides share.
//!
//! **Invariants**
//! - [`Session::is_safe`] is never true when the servers may have ended the
//!   session ([`synod_coord::SessionClock`] has the assumption about clocks; the time
//!   that a machine was suspended counts).
//! - A call that was not answered is made again at another endpoint only when it
//!   does no harm twice (a session opened twice ends by itself); a fenced write is
//!   not, and its error says that its end is not known.
//! - [`Files`] reads from its cache only while its session is safe, so no read tells
//!   what was there before a write that had ended when the read began.
//!
//! **Must not know**: how the cluster agrees.

mod client;
mod election;
mod endpoints;
mod error;
mod files;
mod holding;
mod lock;
mod services;
mod session;

pub use client::{Client, Follower, fenced};
pub use election::{Candidacy, Candidate, Leadership, Observer, Stop};
pub use error::Error;
pub use files::{Events, Files, SetOptions};
pub use lock::{Lock, LockOptions, Wait};
pub use services::ServiceHealth;
pub use session::{Session, SessionOptions};
pub use synod_coord::file::{CacheLimits, CacheStats, Child, Expect, Node};
pub use synod_coord::{
    Instance, InstanceRecord, Mode, Newest, Sequencer, ServiceMode, SessionState,
};
pub use synod_etcd_proto::synod::v1::FileEvent;
pub use synod_etcd_proto::synod::v1::file_event::Kind as FileEventKind;

/// Futures of this crate can be spawned.
#[cfg(test)]
mod tests {
    use super::*;

    fn is_send<T: Send>(_: T) {}

    #[tokio::test]
    async fn calls_can_be_spawned() {
        let client = Client::connect(["127.0.0.1:1"]).await.expect("an endpoint");
        is_send(client.open_session(SessionOptions::default()));
        is_send(client.describe("x"));
        let lock = async |session: Session| session.lock("x").await.map(drop);
        let _ = |session: Session| is_send(lock(session));
        let none: [&str; 0] = [];
        assert!(Client::connect(none).await.is_err_and(|e| e.to_string().contains("no endpoint")));
        let failed = client.describe("x").await.expect_err("nobody is there");
        assert!(matches!(failed, Error::Unavailable(_)), "{failed:?}");
    }
}
