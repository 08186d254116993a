//! A client for Synod's sessions and locks.
//!
//! ```no_run
//! # async fn run() -> Result<(), synod_client::Error> {
//! use synod_client::{Client, SessionOptions};
//!
//! let client = Client::connect(["127.0.0.1:2379", "127.0.0.1:22379"]).await?;
//! let session = client.open_session(SessionOptions::named("billing")).await?;
//! let lock = session.lock("jobs/nightly").await?;
//! client.put_fenced("ledger", "42", lock.sequencer()).await?;
//! lock.release().await?;
//! # Ok(()) }
//! ```
//!
//! **Why a crate**: applications link it, and nothing of the server.
//!
//! **Invariants**
//! - [`Session::state`] is never *safe* when the servers may have ended the
//!   session ([`synod_coord::SessionClock`] has the assumption about clocks).
//! - A call that was not answered is made again at another endpoint only when
//!   that cannot take effect twice; where it can, the error says so.
//!
//! **Must not know**: how the cluster agrees.

mod client;
mod endpoints;
mod error;
mod lock;
mod session;

pub use client::{Client, fenced};
pub use error::Error;
pub use lock::{Lock, LockOptions, Wait};
pub use session::{Session, SessionOptions};
pub use synod_coord::{Mode, Sequencer, SessionState};
