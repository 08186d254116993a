//! How a request stands in the log: who took it, its number there, and the
//! command as its proposer encoded it.

use bytes::Bytes;
use std::collections::BTreeSet;
use synod_base::NodeId;
use synod_base::codec::{Malformed, Reader, put_bytes, put_varint};
use synod_consensus::Change;

/// What a node wants the leader to agree on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// An encoded [`synod_mvcc::Command`].
    Command(Bytes),
    /// A change of the membership, with the commands that go with it.
    Change(Change, Vec<Bytes>),
}

impl Work {
    /// Bytes that it holds on to while it waits.
    pub fn size(&self) -> usize {
        match self {
            Work::Command(c) => c.len(),
            Work::Change(_, commands) => 64 + commands.iter().map(Bytes::len).sum::<usize>(),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Work::Command(c) => {
                out.push(0);
                put_bytes(out, c);
            }
            Work::Change(change, commands) => {
                out.push(1);
                for set in [
                    &change.add_learners,
                    &change.promote,
                    &change.add_voters,
                    &change.remove,
                    &change.remove_learners,
                ] {
                    put_varint(out, set.len() as u64);
                    for id in set {
                        put_varint(out, id.0);
                    }
                }
                put_varint(out, commands.len() as u64);
                for c in commands {
                    put_bytes(out, c);
                }
            }
        }
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Work, Malformed> {
        if r.u8("kind of work")? == 0 {
            return Ok(Work::Command(r.bytes("command")?));
        }
        let mut set = || -> Result<BTreeSet<NodeId>, Malformed> {
            let n = r.count("member count")?;
            (0..n).map(|_| Ok(NodeId(r.varint("member id")?))).collect()
        };
        let change = Change {
            add_learners: set()?,
            promote: set()?,
            add_voters: set()?,
            remove: set()?,
            remove_learners: set()?,
        };
        let n = r.count("command count")?;
        let commands = (0..n).map(|_| r.bytes("command")).collect::<Result<_, _>>()?;
        Ok(Work::Change(change, commands))
    }
}

/// The data of a command entry: `origin`, `ticket`, then the command.
pub(crate) fn seal(origin: NodeId, ticket: u64, command: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(command.len() + 20);
    put_varint(&mut out, origin.0);
    put_varint(&mut out, ticket);
    out.extend_from_slice(command);
    out.into()
}

/// Opens what [`seal`] closed, sharing the bytes.
pub(crate) fn open(data: Bytes) -> Result<(NodeId, u64, Bytes), Malformed> {
    let mut r = Reader::new(data);
    let origin = NodeId(r.varint("origin")?);
    let ticket = r.varint("ticket")?;
    Ok((origin, ticket, r.rest()))
}

/// What travels with a configuration entry: who asked, and the commands that
/// take effect with it (addresses).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfigContext {
    /// Who took the request; 0: nobody waits.
    pub origin: NodeId,
    /// Its number there.
    pub ticket: u64,
    /// Encoded commands, applied in order at the entry's index.
    pub commands: Vec<Bytes>,
}

impl ConfigContext {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_varint(&mut out, self.origin.0);
        put_varint(&mut out, self.ticket);
        put_varint(&mut out, self.commands.len() as u64);
        for c in &self.commands {
            put_bytes(&mut out, c);
        }
        out.into()
    }

    pub(crate) fn decode(data: Bytes) -> Result<ConfigContext, Malformed> {
        if data.is_empty() {
            return Ok(ConfigContext::default());
        }
        let mut r = Reader::new(data);
        let origin = NodeId(r.varint("origin")?);
        let ticket = r.varint("ticket")?;
        let n = r.count("command count")?;
        let commands = (0..n).map(|_| r.bytes("command")).collect::<Result<_, _>>()?;
        r.end("end of the context")?;
        Ok(ConfigContext { origin, ticket, commands })
    }
}
