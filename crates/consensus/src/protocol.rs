//! Which protocols there are, and what the driver may do with the messages and
//! records of any of them.

use crate::config::Membership;
use crate::contract::{Consensus, Entry, Limits, Recovered, SnapshotMeta};
use crate::{paxos, raft, zab};
use bytes::Bytes;
use std::fmt;
use synod_base::codec::Malformed;
use synod_base::{NodeId, Tick};

/// Which protocol a cell runs: chosen when the cell is made, and for its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Protocol {
    /// Raft.
    #[default]
    Raft,
    /// Multi-Paxos.
    Paxos,
    /// Zab.
    Zab,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Raft, Protocol::Paxos, Protocol::Zab];

    /// A member of a cell that runs it, from what an earlier life left (for a
    /// fresh cell: a [`SnapshotMeta`] with the first membership). The error
    /// names what was recovered and does not fit.
    pub fn start(
        self,
        id: NodeId,
        limits: Limits,
        seed: u64,
        recovered: Recovered,
        now: Tick,
    ) -> Result<Box<dyn Consensus>, String> {
        match self {
            Protocol::Raft => raft::Raft::new(id, limits, seed, recovered, now)
                .map(|core| Box::new(core) as Box<dyn Consensus>)
                .map_err(|e| e.to_string()),
            Protocol::Paxos => paxos::Paxos::new(id, limits, seed, recovered, now)
                .map(|core| Box::new(core) as Box<dyn Consensus>),
            Protocol::Zab => zab::Zab::new(id, limits, seed, recovered, now)
                .map(|core| Box::new(core) as Box<dyn Consensus>)
                .map_err(|e| e.to_string()),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Raft => "raft",
            Protocol::Paxos => "paxos",
            Protocol::Zab => "zab",
        })
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(s: &str) -> Result<Protocol, String> {
        let found = Protocol::ALL.into_iter().find(|p| p.to_string() == s);
        found.ok_or_else(|| format!("no protocol {s:?}: raft, paxos or zab"))
    }
}

/// A message between members. It knows its protocol; one for another protocol
/// than the cell's is an error of the driver.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// Raft's.
    Raft(raft::Message),
    /// Multi-Paxos'.
    Paxos(paxos::Message),
    /// Zab's.
    Zab(zab::Message),
}

impl Message {
    /// Whether it only says that somebody lives.
    pub fn is_heartbeat(&self) -> bool {
        match self {
            Message::Raft(m) => {
                use raft::Body::{Heartbeat, HeartbeatAnswer};
                matches!(m.body, Heartbeat { .. } | HeartbeatAnswer { .. })
            }
            Message::Paxos(m) => {
                use paxos::Body::{Heartbeat, HeartbeatAnswer};
                matches!(m.body, Heartbeat { .. } | HeartbeatAnswer { .. })
            }
            Message::Zab(m) => {
                matches!(m.body, zab::Body::Ping { .. } | zab::Body::Pong { .. })
            }
        }
    }

    /// Appends the encoded message: a protocol byte, then its own codec.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::Raft(m) => {
                out.push(b'R');
                m.encode(out);
            }
            Message::Paxos(m) => {
                out.push(b'P');
                m.encode(out);
            }
            Message::Zab(m) => {
                out.push(b'Z');
                m.encode(out);
            }
        }
    }

    /// Reads an encoded message; payloads share `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Message, Malformed> {
        match bytes.first() {
            Some(b'R') => Ok(Message::Raft(raft::Message::decode(bytes.slice(1..))?)),
            Some(b'P') => Ok(Message::Paxos(paxos::Message::decode(bytes.slice(1..))?)),
            Some(b'Z') => Ok(Message::Zab(zab::Message::decode(bytes.slice(1..))?)),
            _ => Err(Malformed { what: "protocol byte", at: 0 }),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Raft(m) => m.fmt(f),
            Message::Paxos(m) => m.fmt(f),
            Message::Zab(m) => m.fmt(f),
        }
    }
}

/// A journal record of any protocol. It shares the entries with the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Raft's.
    Raft(raft::Record),
    /// Multi-Paxos'.
    Paxos(paxos::Record),
    /// Zab's.
    Zab(zab::Record),
}

impl Record {
    /// Appends the encoded record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Raft(record) => record.encode(out),
            Record::Paxos(record) => record.encode(out),
            Record::Zab(record) => record.encode(out),
        }
    }

    /// The encoded record by itself.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Record::Raft(record) => record.to_bytes(),
            Record::Paxos(record) => record.to_bytes(),
            Record::Zab(record) => record.to_bytes(),
        }
    }
}

/// What a journal record holds, whatever protocol wrote it; for tools and tests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordView {
    /// Whose it is.
    pub protocol: Protocol,
    /// The ballot that its writer was in.
    pub term: u64,
    /// Whom the writer supported in it.
    pub supports: Option<NodeId>,
    /// Commit index when written; a hint.
    pub commit: u64,
    /// A new start of the log.
    pub boundary: Option<SnapshotMeta>,
    /// Everything written before at or above this index is void.
    pub void_from: Option<u64>,
    /// Entries, each with the ballot in which it was accepted.
    pub entries: Vec<(u64, Entry)>,
}

impl RecordView {
    /// Reads a record: it tells by itself whose it is.
    pub fn decode(bytes: Bytes) -> Result<RecordView, Malformed> {
        match bytes.first().map(|flags| flags >> 6) {
            Some(0) => Ok(raft::Record::decode(bytes)?.view()),
            Some(1) => Ok(paxos::Record::decode(bytes)?.view()),
            Some(0b10) => Ok(zab::Record::decode(bytes)?.view()),
            _ => Err(Malformed { what: "record flags", at: 0 }),
        }
    }

    /// The last index that the record concerns (0: only the ballot). A segment
    /// may go after `Forget { upto }` when this is at or below `upto` for each
    /// of its records (see `raft/record.rs`).
    pub fn last_index(&self) -> u64 {
        let boundary = self.boundary.as_ref().map_or(0, |b| b.index);
        self.entries.iter().map(|(_, e)| e.index).max().unwrap_or(0).max(boundary)
    }
}

impl fmt::Display for RecordView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ballot {}", self.protocol, self.term)?;
        if let Some(id) = self.supports {
            write!(f, " for {id:?}")?;
        }
        write!(f, " commit {}", self.commit)?;
        if let Some(b) = &self.boundary {
            let Membership { voters, outgoing, learners } = &b.membership;
            write!(f, ", starts after {}:{} voters {voters:?}", b.index, b.term)?;
            for (name, set) in [("outgoing", outgoing), ("learners", learners)] {
                if !set.is_empty() {
                    write!(f, " {name} {set:?}")?;
                }
            }
        }
        if let Some(from) = self.void_from {
            write!(f, ", cuts from {from}")?;
        }
        for (ballot, e) in &self.entries {
            write!(f, ", {}:{} {:?} {} bytes", e.index, e.term, e.kind, e.data.len())?;
            if *ballot != e.term {
                write!(f, " accepted in {ballot}")?;
            }
        }
        Ok(())
    }
}
