//! What members of a cell say to each other beside the protocol's messages.

use crate::envelope::Work;
use bytes::Bytes;
use synod_base::NodeId;
use synod_base::codec::{Malformed, Reader, put_bytes, put_varint};
use synod_consensus::{Message, Refusal};

/// Which [`PeerMessage::Forward`] it was: the sender's life, and its number in
/// that life, from 1. A network may bring one twice or late; it counts once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ForwardId {
    /// Drawn anew at each start of the sender.
    pub life: u64,
    /// Growing by one.
    pub number: u64,
}

/// What became of one forwarded ticket: with which message it came, and the
/// (index, term) where it stands or why it was not proposed.
pub type Verdict = (ForwardId, u64, Result<(u64, u64), Refusal>);

/// A message from one member of a cell to another.
#[derive(Clone, PartialEq, Debug)]
pub enum PeerMessage {
    /// The protocol's.
    Consensus(Message),
    /// Please propose these in this ballot, or not at all: (ticket at the
    /// sender, work). Bound to the ballot so that one that is read late, after
    /// the sender gave it to another leader, is not proposed a second time.
    Forward {
        /// The ballot.
        term: u64,
        /// Which message this is.
        id: ForwardId,
        /// The requests.
        items: Vec<(u64, Work)>,
    },
    /// What became of forwarded work: it stands at (index, term), or was not
    /// proposed at all.
    Forwarded(Vec<Verdict>),
    /// A piece of a snapshot.
    SnapshotChunk {
        /// The sender's number of the stream.
        stream: u64,
        /// The piece's number, from 0.
        number: u64,
        /// Whether it is the last.
        last: bool,
        /// Its bytes.
        bytes: Bytes,
    },
    /// What a receiver has of a snapshot.
    SnapshotAck {
        /// The sender's number of the stream.
        stream: u64,
        /// The next piece that it wants.
        next: u64,
        /// Set when all is installed: the index it stands for.
        installed: Option<u64>,
        /// The receiver gave the stream up.
        failed: bool,
    },
    /// What is your hash of the keyspace at this revision?
    HashAsk {
        /// The revision.
        revision: i64,
    },
    /// The answer; `None` if the revision is not there (yet, or any more).
    HashTell {
        /// The revision.
        revision: i64,
        /// Hash and the compacted revision it was computed over.
        hash: Option<(u32, i64)>,
    },
}

const REFUSALS: [Refusal; 12] = [
    Refusal::NotLeader,
    Refusal::NoLeader,
    Refusal::LeaderChanged,
    Refusal::Transferring,
    Refusal::Overloaded,
    Refusal::ChangeInProgress,
    Refusal::NotReady,
    Refusal::UnknownMember,
    Refusal::LearnerBehind,
    Refusal::NotLearner,
    Refusal::BadChange,
    Refusal::TransferTimedOut,
];

fn put_id(out: &mut Vec<u8>, id: ForwardId) {
    put_varint(out, id.life);
    put_varint(out, id.number);
}

fn id(r: &mut Reader) -> Result<ForwardId, Malformed> {
    Ok(ForwardId { life: r.varint("life")?, number: r.varint("number of the forward")? })
}

impl PeerMessage {
    /// Appends the encoded message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            PeerMessage::Consensus(m) => {
                out.push(1);
                m.encode(out);
            }
            PeerMessage::Forward { term, id, items } => {
                out.push(2);
                put_varint(out, *term);
                put_id(out, *id);
                put_varint(out, items.len() as u64);
                for (ticket, work) in items {
                    put_varint(out, *ticket);
                    work.encode(out);
                }
            }
            PeerMessage::Forwarded(items) => {
                out.push(3);
                put_varint(out, items.len() as u64);
                for (id, ticket, result) in items {
                    put_id(out, *id);
                    put_varint(out, *ticket);
                    match result {
                        Ok((index, term)) => {
                            out.push(255);
                            put_varint(out, *index);
                            put_varint(out, *term);
                        }
                        Err(why) => {
                            let code = REFUSALS.iter().position(|r| r == why).unwrap_or(0);
                            out.push(code as u8);
                        }
                    }
                }
            }
            PeerMessage::SnapshotChunk { stream, number, last, bytes } => {
                out.push(4);
                put_varint(out, *stream);
                put_varint(out, *number);
                out.push(u8::from(*last));
                put_bytes(out, bytes);
            }
            PeerMessage::SnapshotAck { stream, next, installed, failed } => {
                out.push(5);
                put_varint(out, *stream);
                put_varint(out, *next);
                put_varint(out, installed.map_or(0, |i| i + 1));
                out.push(u8::from(*failed));
            }
            PeerMessage::HashAsk { revision } => {
                out.push(6);
                put_varint(out, *revision as u64);
            }
            PeerMessage::HashTell { revision, hash } => {
                out.push(7);
                put_varint(out, *revision as u64);
                out.push(u8::from(hash.is_some()));
                if let Some((hash, compacted)) = hash {
                    put_varint(out, u64::from(*hash));
                    put_varint(out, *compacted as u64);
                }
            }
        }
    }

    /// Reads an encoded message; payloads share `bytes`.
    pub fn decode(bytes: Bytes) -> Result<PeerMessage, Malformed> {
        let mut r = Reader::new(bytes);
        let message = match r.u8("kind of message")? {
            1 => return Ok(PeerMessage::Consensus(Message::decode(r.rest())?)),
            2 => {
                let term = r.varint("term")?;
                let id = id(&mut r)?;
                let n = r.count("forward count")?;
                let mut items = Vec::with_capacity(n.min(1024));
                for _ in 0..n {
                    items.push((r.varint("ticket")?, Work::decode(&mut r)?));
                }
                PeerMessage::Forward { term, id, items }
            }
            3 => {
                let n = r.count("forwarded count")?;
                let mut items = Vec::with_capacity(n.min(1024));
                for _ in 0..n {
                    let id = id(&mut r)?;
                    let ticket = r.varint("ticket")?;
                    let result = match r.u8("result")? {
                        255 => Ok((r.varint("index")?, r.varint("term")?)),
                        code => Err(*REFUSALS
                            .get(code as usize)
                            .ok_or(Malformed { what: "refusal", at: 0 })?),
                    };
                    items.push((id, ticket, result));
                }
                PeerMessage::Forwarded(items)
            }
            4 => PeerMessage::SnapshotChunk {
                stream: r.varint("stream")?,
                number: r.varint("number")?,
                last: r.u8("last")? != 0,
                bytes: r.bytes("chunk")?,
            },
            5 => PeerMessage::SnapshotAck {
                stream: r.varint("stream")?,
                next: r.varint("next")?,
                installed: r.varint("installed")?.checked_sub(1),
                failed: r.u8("failed")? != 0,
            },
            6 => PeerMessage::HashAsk { revision: r.varint("revision")? as i64 },
            7 => PeerMessage::HashTell {
                revision: r.varint("revision")? as i64,
                hash: match r.u8("has hash")? {
                    0 => None,
                    _ => Some((r.varint("hash")? as u32, r.varint("compacted")? as i64)),
                },
            },
            _ => return Err(Malformed { what: "kind of message", at: 0 }),
        };
        r.end("end of the message")?;
        Ok(message)
    }
}

/// Who a message goes to.
pub(crate) type Outgoing = (NodeId, PeerMessage);
