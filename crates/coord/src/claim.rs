//! What a contender's key and a session's record hold: JSON, so that any etcd
//! client can read it.

use crate::sequencer::Mode;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The value of a contender's key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Claim {
    /// Marks a value as a claim, and its version.
    #[serde(rename = "synod-lock")]
    version: u32,
    /// Shared, or else exclusive.
    #[serde(default, skip_serializing_if = "is_false")]
    shared: bool,
    /// Who asks, for people to read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Which acquisition of its session this is: the client's number for it, or 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u64,
    /// When it asked: Unix time, ms, by the clock of the member that was asked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub asked_ms: u64,
    /// Since when it holds the lock, by the same clock; 0: it waits, or it has
    /// just got it and the mark is on its way.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub held_ms: u64,
    /// In a guard's key: the session that it guards (hexadecimal).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    guards: String,
}

fn is_false(b: &bool) -> bool {
    !b
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

const VERSION: u32 = 1;

impl Claim {
    /// A claim that was made at `asked_ms`.
    pub fn new(mode: Mode, owner: &str, asked_ms: u64) -> Claim {
        let shared = mode == Mode::Shared;
        Claim { version: VERSION, shared, owner: owner.into(), asked_ms, ..Claim::default() }
    }

    /// The same, for the client's acquisition of this number.
    pub fn attempt(self, attempt: u64) -> Claim {
        Claim { attempt, ..self }
    }

    /// The same, granted at `held_ms`.
    pub fn held(&self, held_ms: u64) -> Claim {
        Claim { held_ms, ..self.clone() }
    }

    /// The same, in the key of the guard of `session`.
    pub fn guarding(&self, session: i64) -> Claim {
        Claim { guards: format!("{session:x}"), ..self.clone() }
    }

    /// How the lock is wanted.
    pub fn mode(&self) -> Mode {
        if self.shared { Mode::Shared } else { Mode::Exclusive }
    }

    /// The session that this claim guards, if it is a guard's.
    pub fn guards(&self) -> Option<i64> {
        i64::from_str_radix(&self.guards, 16).ok()
    }

    /// What stands in the key.
    pub fn encode(&self) -> Bytes {
        // Plain fields: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a value. Whatever is no claim (another client's value, a candidate's
    /// proclamation) is an exclusive claim of an unnamed owner.
    pub fn decode(value: &[u8]) -> Claim {
        let claim = value.starts_with(b"{").then(|| serde_json::from_slice::<Claim>(value).ok());
        claim
            .flatten()
            .filter(|c| c.version == VERSION)
            .unwrap_or_else(|| Claim { version: VERSION, ..Claim::default() })
    }
}

/// The record of a session.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SessionRecord {
    /// What its owner calls itself.
    pub name: String,
    /// Its time to live, seconds.
    pub ttl_s: i64,
    /// For how long its locks stay closed after it was lost, seconds.
    #[serde(default)]
    pub lock_delay_s: i64,
    /// The guard's lease (hexadecimal), if there is a lock-delay.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub guard: String,
    /// When it was opened: Unix time, ms.
    pub opened_ms: u64,
}

impl SessionRecord {
    /// The guard's lease; 0 if there is none.
    pub fn guard(&self) -> i64 {
        i64::from_str_radix(&self.guard, 16).unwrap_or(0)
    }

    /// What stands in the key.
    pub fn encode(&self) -> Bytes {
        // Plain fields: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a value; `None` if it is no record.
    pub fn decode(value: &[u8]) -> Option<SessionRecord> {
        serde_json::from_slice(value).ok()
    }
}
