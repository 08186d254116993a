//! Raft's messages and their bytes.
//!
//! **Invariants**
//! - Every message carries its sender's current term; answers to (pre-)votes
//!   also echo the term that was asked for, so that one may be answered by a
//!   node of an earlier term.
//! - An append's entries follow `prev_index` without a gap: their indexes are
//!   not on the wire, so a malformed one cannot be expressed.
//! - Decoding never panics and shares the buffer.

use crate::entries::Entries;
use crate::event::VoteRefusal;
use crate::parts::codec::{
    Places, put_all, put_entries, put_option, put_refusal, read_bool, read_entries, read_option,
    read_refusal,
};
use bytes::Bytes;
use std::fmt;
use synod_base::codec::{Malformed, Reader, put_varint};

/// A message from one member to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender's current term.
    pub term: u64,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Would you vote for me? (thesis 9.6)
    PreVote(Ask),
    /// Vote for me (5.2).
    Vote(Ask),
    /// The answer to a pre-vote.
    PreVoteAnswer(Answer),
    /// The answer to a vote.
    VoteAnswer(Answer),
    /// Take these entries (5.3).
    Append {
        /// Index before the first entry.
        prev_index: u64,
        /// Its term.
        prev_term: u64,
        /// The leader's commit index.
        commit: u64,
        /// The entries.
        entries: Entries,
    },
    /// The log is the leader's, durably, up to here.
    Appended {
        /// Last index known to be the leader's.
        matched: u64,
    },
    /// `prev` is not in the log with the leader's term.
    Conflict {
        /// The append's `prev_index`.
        rejected: u64,
        /// The last index that may still match (thesis p. 21).
        hint_index: u64,
        /// Its term.
        hint_term: u64,
    },
    /// I lead. Says nothing about the log but what is known to match.
    Heartbeat {
        /// Committed and known to be held by the receiver.
        commit: u64,
        /// Round of this term, growing.
        round: u64,
    },
    /// The receiver followed the sender when the round's heartbeat arrived.
    HeartbeatAnswer {
        /// The round.
        round: u64,
    },
    /// Committed and known to be held by the receiver; wants no answer.
    Committed {
        /// The index.
        commit: u64,
    },
    /// From which index may a read that arrived before now be answered?
    ReadAsk {
        /// The asker's batch of reads.
        batch: u64,
    },
    /// The answer, or `None`: not from here.
    ReadAnswer {
        /// The asker's batch.
        batch: u64,
        /// What must be applied before the reads are answered.
        index: Option<u64>,
    },
    /// You would not vote for me: what follows this place in your log?
    Borrow {
        /// Where the logs may agree.
        last_index: u64,
        /// The term there.
        last_term: u64,
    },
    /// A part of the sender's log, for one whose log is older.
    Lend {
        /// The sender's last index.
        last_index: u64,
        /// Its term.
        last_term: u64,
        /// Index before the first entry.
        prev_index: u64,
        /// Its term.
        prev_term: u64,
        /// The entries.
        entries: Entries,
    },
    /// Stand for election now (3.10).
    TimeoutNow,
    /// Your term is over; mine is in the header.
    OldTerm,
}

/// What a candidate says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The term it wants to lead.
    pub term: u64,
    /// Its last index.
    pub last_index: u64,
    /// The term of it.
    pub last_term: u64,
    /// The leader itself asked it to stand, so a living leader is no reason to refuse.
    pub transfer: bool,
}

/// What a voter says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The term that was asked for.
    pub term: u64,
    /// Why not; `None` is a vote.
    pub refused: Option<VoteRefusal>,
}

fn put_ask(out: &mut Vec<u8>, a: &Ask) {
    put_all(out, &[a.term, a.last_index, a.last_term, u64::from(a.transfer)]);
}

fn read_ask(r: &mut Reader) -> Result<Ask, Malformed> {
    Ok(Ask {
        term: r.varint("asked term")?,
        last_index: r.varint("last index")?,
        last_term: r.varint("last term")?,
        transfer: read_bool(r, "transfer flag")?,
    })
}

fn put_answer(out: &mut Vec<u8>, a: &Answer) {
    put_varint(out, a.term);
    put_refusal(out, a.refused);
}

fn read_answer(r: &mut Reader) -> Result<Answer, Malformed> {
    let term = r.varint("asked term")?;
    Ok(Answer { term, refused: read_refusal(r)? })
}

impl Message {
    /// Appends the encoded message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.term);
        out.push(self.body.tag());
        match &self.body {
            Body::PreVote(a) | Body::Vote(a) => put_ask(out, a),
            Body::PreVoteAnswer(a) | Body::VoteAnswer(a) => put_answer(out, a),
            Body::Append { prev_index, prev_term, commit, entries } => {
                put_all(out, &[*prev_index, *prev_term, *commit]);
                put_entries(out, entries);
            }
            Body::Appended { matched } => put_varint(out, *matched),
            Body::Conflict { rejected, hint_index, hint_term } => {
                put_all(out, &[*rejected, *hint_index, *hint_term]);
            }
            Body::Heartbeat { commit, round } => put_all(out, &[*commit, *round]),
            Body::HeartbeatAnswer { round } => put_varint(out, *round),
            Body::Committed { commit } => put_varint(out, *commit),
            Body::ReadAsk { batch } => put_varint(out, *batch),
            Body::ReadAnswer { batch, index } => {
                put_varint(out, *batch);
                put_option(out, *index);
            }
            Body::Borrow { last_index, last_term } => put_all(out, &[*last_index, *last_term]),
            Body::Lend { last_index, last_term, prev_index, prev_term, entries } => {
                put_all(out, &[*last_index, *last_term, *prev_index, *prev_term]);
                put_entries(out, entries);
            }
            Body::TimeoutNow | Body::OldTerm => {}
        }
    }

    /// Reads an encoded message; the entries' data share `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Message, Malformed> {
        let r = &mut Reader::new(bytes);
        let term = r.varint("term")?;
        let body = match r.u8("message kind")? {
            0 => Body::PreVote(read_ask(r)?),
            1 => Body::Vote(read_ask(r)?),
            2 => Body::PreVoteAnswer(read_answer(r)?),
            3 => Body::VoteAnswer(read_answer(r)?),
            4 => {
                let prev_index = r.varint("previous index")?;
                let prev_term = r.varint("previous term")?;
                let commit = r.varint("commit index")?;
                let entries = read_entries(r, prev_index.saturating_add(1))?;
                Body::Append { prev_index, prev_term, commit, entries }
            }
            5 => Body::Appended { matched: r.varint("matched index")? },
            6 => Body::Conflict {
                rejected: r.varint("rejected index")?,
                hint_index: r.varint("hint index")?,
                hint_term: r.varint("hint term")?,
            },
            7 => Body::Heartbeat { commit: r.varint("commit index")?, round: r.varint("round")? },
            8 => Body::HeartbeatAnswer { round: r.varint("round")? },
            9 => Body::Committed { commit: r.varint("commit index")? },
            10 => Body::ReadAsk { batch: r.varint("batch")? },
            11 => {
                let batch = r.varint("batch")?;
                Body::ReadAnswer { batch, index: read_option(r, "read index")? }
            }
            12 => Body::TimeoutNow,
            13 => Body::OldTerm,
            14 => Body::Borrow {
                last_index: r.varint("last index")?,
                last_term: r.varint("last term")?,
            },
            15 => {
                let (last_index, last_term) = (r.varint("last index")?, r.varint("last term")?);
                let (prev_index, prev_term) =
                    (r.varint("previous index")?, r.varint("previous term")?);
                let entries = read_entries(r, prev_index.saturating_add(1))?;
                Body::Lend { last_index, last_term, prev_index, prev_term, entries }
            }
            _ => return Err(Malformed { what: "message kind", at: 0 }),
        };
        r.clone().end("end of the message")?;
        Ok(Message { term, body })
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {} {}", self.term, self.body)
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |f: &mut fmt::Formatter<'_>, what: &str, a: &Answer| match a.refused {
            None => write!(f, "{what} for {}: yes", a.term),
            Some(why) => write!(f, "{what} for {}: no, {why}", a.term),
        };
        match self {
            Body::PreVote(a) => {
                write!(f, "pre-vote for {}? last {}:{}", a.term, a.last_index, a.last_term)
            }
            Body::Vote(a) => {
                let transfer = if a.transfer { " (transfer)" } else { "" };
                write!(f, "vote for {}? last {}:{}{transfer}", a.term, a.last_index, a.last_term)
            }
            Body::PreVoteAnswer(a) => verdict(f, "pre-vote", a),
            Body::VoteAnswer(a) => verdict(f, "vote", a),
            Body::Append { prev_index, prev_term, commit, entries } => {
                write!(f, "append after {prev_index}:{prev_term} [{}]", Places(entries))?;
                write!(f, " commit {commit}")
            }
            Body::Borrow { last_index, last_term } => {
                write!(f, "what follows {last_index}:{last_term}?")
            }
            Body::Lend { last_index, last_term, prev_index, prev_term, entries } => {
                write!(f, "lends after {prev_index}:{prev_term} [{}]", Places(entries))?;
                write!(f, " of {last_index}:{last_term}")
            }
            Body::Conflict { rejected, hint_index, hint_term } => {
                write!(f, "conflict at {rejected}, may agree at {hint_index}:{hint_term}")
            }
            other => f.write_str(&format!("{other:?}").to_lowercase()),
        }
    }
}

impl Body {
    fn tag(&self) -> u8 {
        match self {
            Body::PreVote(_) => 0,
            Body::Vote(_) => 1,
            Body::PreVoteAnswer(_) => 2,
            Body::VoteAnswer(_) => 3,
            Body::Append { .. } => 4,
            Body::Appended { .. } => 5,
            Body::Conflict { .. } => 6,
            Body::Heartbeat { .. } => 7,
            Body::HeartbeatAnswer { .. } => 8,
            Body::Committed { .. } => 9,
            Body::ReadAsk { .. } => 10,
            Body::ReadAnswer { .. } => 11,
            Body::TimeoutNow => 12,
            Body::OldTerm => 13,
            Body::Borrow { .. } => 14,
            Body::Lend { .. } => 15,
        }
    }
}
