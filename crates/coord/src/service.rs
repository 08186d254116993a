//! Services: instances that are healthy or not, and which of them is active.
//!
//! An instance is a session with a record under [`SERVICES`]. In mode
//! `active/passive` the healthy instances contend for one lock, [`office`], and
//! its holder is the active one: so there is one at most, by the fencing token,
//! and who is lost is replaced when its session ends. In mode `active/active`
//! every healthy instance is active.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use synod_base::planted;

/// What the keys of the instances' records start with.
pub const SERVICES: &str = "synod/service/";

/// The key of an instance's record.
pub fn instance_key(service: &str, instance: &str) -> String {
    format!("{SERVICES}{service}/{instance}")
}

/// What the names of services' offices start with.
pub const OFFICES: &str = "synod/office/";

/// The lock that the active instance of a service holds.
pub fn office(service: &str) -> String {
    format!("{OFFICES}{service}")
}

/// What the keys of operators' wishes start with.
pub(crate) const HANDOVERS: &str = "synod/handover/";

/// The key by which an operator asks the active instance to step down; its value
/// is the instance that shall follow, or nothing.
pub fn handover_key(service: &str) -> String {
    format!("{HANDOVERS}{service}")
}

/// What the keys of instances' reports start with.
pub(crate) const REPORTS: &str = "synod/report/";

/// The key where an instance reports itself (check kind `ttl`): a [`Report`].
pub fn report_key(service: &str, instance: &str) -> String {
    format!("{REPORTS}{service}/{instance}")
}

/// What the keys start with by which the leader says of instances that their agents have
/// fallen silent, as far as their rhythm tells. Each is bound to its instance's session.
pub const SILENCES: &str = "synod/silence/";

/// The key of such a mark; its value tells why.
pub fn silence_key(service: &str, instance: &str) -> String {
    format!("{SILENCES}{service}/{instance}")
}

/// What an instance says of its own health.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// It is well.
    pub healthy: bool,
    /// What is wrong, for people to read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Report {
    /// What stands in the key.
    pub fn encode(&self) -> Bytes {
        // Plain fields: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a value; `None` if it is no report.
    pub fn decode(value: &[u8]) -> Option<Report> {
        serde_json::from_slice(value).ok()
    }
}

/// Which instances of a service are active.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum ServiceMode {
    /// Exactly one of the healthy ones.
    #[default]
    #[serde(rename = "active/passive")]
    ActivePassive,
    /// All healthy ones.
    #[serde(rename = "active/active")]
    ActiveActive,
}

impl fmt::Display for ServiceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ServiceMode::ActivePassive => "active/passive",
            ServiceMode::ActiveActive => "active/active",
        })
    }
}

/// What the cell knows of an instance.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Where clients find it.
    #[serde(default)]
    pub address: String,
    /// Which instances of its service are active.
    pub mode: ServiceMode,
    /// Whether its checks pass; `None`: not known yet.
    pub healthy: Option<bool>,
    /// What the last check said that failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Whether it is active.
    pub active: bool,
    /// The fencing token by which it is; 0 in mode `active/active`.
    #[serde(default)]
    pub token: i64,
    /// Since when this is so: Unix time, ms.
    pub since_ms: u64,
}

impl InstanceRecord {
    /// What stands in the key.
    pub fn encode(&self) -> Bytes {
        // Plain fields: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a value; `None` if it is no record.
    pub fn decode(value: &[u8]) -> Option<InstanceRecord> {
        serde_json::from_slice(value).ok()
    }
}

/// Health with hysteresis: a state that lasts is believed, a single check is not.
#[derive(Clone, Debug)]
pub struct Health {
    /// Checks in a row that must pass before an instance is healthy.
    rise: u32,
    /// Checks in a row that must fail before it is not.
    fall: u32,
    healthy: Option<bool>,
    /// The last result, and how often it came in a row.
    run: (bool, u32),
}

impl Health {
    /// Nothing is known yet; `rise` and `fall` are at least 1.
    pub fn new(rise: u32, fall: u32) -> Health {
        Health { rise: rise.max(1), fall: fall.max(1), healthy: None, run: (true, 0) }
    }

    /// What is believed.
    pub fn healthy(&self) -> Option<bool> {
        self.healthy
    }

    /// Whether it is believed to be healthy, though the last check failed.
    pub fn is_in_doubt(&self) -> bool {
        self.healthy == Some(true) && !self.run.0
    }

    /// It fails, for sure: no further checks are needed. Whether that is news.
    pub fn fails(&mut self) -> bool {
        self.run = (false, self.fall);
        self.healthy.replace(false) != Some(false)
    }

    /// A check ended. What is believed from now on, if that changed.
    pub fn checked(&mut self, passed: bool) -> Option<bool> {
        self.run = if self.run.0 == passed { (passed, self.run.1 + 1) } else { (passed, 1) };
        let enough = if passed { self.rise } else { self.fall };
        if self.run.1 < enough || self.healthy == Some(passed) {
            return None;
        }
        self.healthy = Some(passed);
        Some(passed)
    }
}

/// What an instance does about its role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// Wait: it is not healthy, or it has just stepped down.
    Rest,
    /// Contend for the office.
    Contend,
    /// Be active.
    Serve,
}

/// Decides what an instance does. Pure: times are milliseconds of one clock.
#[derive(Clone, Debug)]
pub struct Role {
    mode: ServiceMode,
    healthy: bool,
    holds: bool,
    /// It is not active, and leaves the office to others, until then.
    rests_until_ms: u64,
}

impl Role {
    /// An instance of which nothing is known yet.
    pub fn new(mode: ServiceMode) -> Role {
        Role { mode, healthy: false, holds: false, rests_until_ms: 0 }
    }

    /// Its checks pass, or not.
    pub fn is_healthy(&mut self, healthy: bool) {
        self.healthy = healthy;
    }

    /// It holds the office, or not any more.
    pub fn holds(&mut self, holds: bool) {
        self.holds = holds;
    }

    /// It shall not be active, and leave the office to others, for a while.
    pub fn steps_aside(&mut self, until_ms: u64) {
        self.rests_until_ms = self.rests_until_ms.max(until_ms);
    }

    /// Another has followed: it need not leave the office to others any longer.
    pub fn returns(&mut self) {
        self.rests_until_ms = 0;
    }

    /// Until when it leaves the office to others.
    pub fn rests_until_ms(&self) -> u64 {
        self.rests_until_ms
    }

    /// What it does now.
    pub fn duty(&self, now_ms: u64) -> Duty {
        match self.mode {
            _ if !self.healthy => Duty::Rest,
            _ if now_ms < self.rests_until_ms => Duty::Rest,
            ServiceMode::ActiveActive => Duty::Serve,
            ServiceMode::ActivePassive if self.holds => Duty::Serve,
            ServiceMode::ActivePassive if planted("service: active without the office") => {
                Duty::Serve
            }
            ServiceMode::ActivePassive => Duty::Contend,
        }
    }
}
