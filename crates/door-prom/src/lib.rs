//! Monitoring: what Prometheus's users expect of it, in this process.
//!
//! **What it is**: a [`Monitor`] that scrapes targets (its own node and its peers without
//! being told, others by a `prometheus.yml`), takes what others push (remote-write, the
//! Pushgateway's API, OTLP), keeps the series of the last hours in memory and in a log,
//! those before them in blocks, sends them on, evaluates rules on them, tells Alertmanagers
//! and webhooks of alerts, and answers Prometheus's HTTP API from them.
//!
//! **Why a crate**: the clock, the sockets and the threads of monitoring. It depends on no
//! quorum: a node answers from what it has seen itself.
//!
//! **Invariants**
//! - What was taken is durable after [`Settings::sync_every`] at the latest; a log that
//!   cannot be written is told and tried again, and monitoring goes on in memory. So it is
//!   with blocks: the head keeps what is in none.
//! - Monitoring takes nothing more before the keyspace's disk is full ([`Settings::reserve`]).
//! - No body, page or answer is larger than a named limit.
//!
//! **Must not know**: consensus, the keyspace.
//!
//! **Absences**: native histograms in federation, and in what the Pushgateway's API takes.

mod api;
mod client;
pub mod config;
mod discovery;
mod exemplars;
mod exposition;
mod fan;
mod federate;
mod form;
mod json;
mod keep;
mod lines;
mod oauth;
mod own;
mod packed;
mod protobuf;
mod proxy;
mod push;
mod read;
pub mod relabel;
mod room;
mod routes;
mod rules;
mod scrape;
mod scraper;
mod send;
mod status;
mod store;
mod targets;
mod targets_api;
mod tree;

pub use discovery::Registry;
pub use exposition::{BadLine, Line, Meaning, parse};
pub use fan::Peer;
pub use own::METRICS;
pub use room::Disk;
pub use rules::RuleSettings;
pub use scrape::Surroundings;
pub use send::{ReceiverStatus, packed_write};
pub use store::{Monitor, Settings, StartError};
pub use targets::{Health, INTERVAL, Target, TargetStatus};
