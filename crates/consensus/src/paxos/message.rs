//! Multi-Paxos' messages and their bytes.
//!
//! **Invariants**
//! - Every message carries its sender's current round; answers to a canvass or
//!   a prepare also echo the round that was asked for.
//! - Entries of one message follow its first slot without a gap; those of a
//!   report name their slot and ballot each.
//! - Decoding never panics and shares the buffer.

use crate::contract::Entry;
use crate::entries::Entries;
use crate::event::VoteRefusal;
use crate::parts::codec::{
    Places, put_all, put_entries, put_entry, put_option, put_refusal, read_bool, read_entries,
    read_entry, read_option, read_refusal,
};
use bytes::Bytes;
use std::fmt;
use synod_base::codec::{Malformed, Reader, put_varint};

/// The ballot of a value that is known to be chosen, in reports.
pub const CHOSEN: u64 = u64::MAX;

/// A message from one member to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender's current round.
    pub round: u64,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Would you promise? Changes nothing.
    Canvass(Ask),
    /// The answer to a canvass.
    CanvassAnswer(Answer),
    /// Promise to take nothing of an earlier ballot, and report (phase 1a).
    Prepare(Ask),
    /// No promise.
    NoPromise(Answer),
    /// The promise, with the first part of the report (phase 1b).
    Promise(Report),
    /// The report goes on at this slot, please.
    More {
        /// The slot.
        from: u64,
    },
    /// A later part of a report.
    Report(Report),
    /// Accept these values (phase 2a).
    Accept {
        /// All slots up to here are chosen.
        commit: u64,
        /// The first slot.
        first: u64,
        /// The values, of this slot and those that follow.
        entries: Entries,
    },
    /// Accepted durably (phase 2b).
    Accepted {
        /// The first slot.
        first: u64,
        /// The last one.
        last: u64,
        /// Everything up to here is chosen and durable at the sender.
        reached: u64,
    },
    /// What was chosen from this slot on?
    Fetch {
        /// The slot.
        from: u64,
    },
    /// These were chosen.
    Chosen {
        /// All slots up to here are chosen.
        commit: u64,
        /// The first slot.
        first: u64,
        /// The values.
        entries: Entries,
    },
    /// I lead.
    Heartbeat {
        /// All slots up to here are chosen.
        commit: u64,
        /// Round of questions of this ballot, growing.
        beat: u64,
    },
    /// The receiver followed the sender when the heartbeat arrived.
    HeartbeatAnswer {
        /// The beat.
        beat: u64,
        /// Everything up to here is chosen and durable at the sender.
        reached: u64,
    },
    /// All slots up to here are chosen; wants no answer.
    Committed {
        /// The slot.
        commit: u64,
    },
    /// From which slot may a read that arrived before now be answered?
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
    /// Stand for election now.
    TimeoutNow,
    /// Your round is over; mine is in the header.
    OldRound,
}

/// What a candidate says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The round it wants to lead.
    pub round: u64,
    /// It knows what was chosen up to here.
    pub commit: u64,
    /// The leader itself asked it to stand, so a living leader is no reason to refuse.
    pub transfer: bool,
}

/// What an acceptor says to a candidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The round that was asked for.
    pub round: u64,
    /// Why not.
    pub refused: Option<VoteRefusal>,
}

/// What an acceptor has accepted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Accepted values in order of their slots, each with its ballot ([`CHOSEN`] if that
    /// is known).
    pub accepted: Vec<(u64, Entry)>,
    /// Where the report goes on, if it does.
    pub next: Option<u64>,
}

fn put_report(out: &mut Vec<u8>, report: &Report) {
    put_option(out, report.next);
    put_accepted(out, &report.accepted);
}

/// Values with slot and ballot each.
fn put_accepted(out: &mut Vec<u8>, accepted: &[(u64, Entry)]) {
    put_varint(out, accepted.len() as u64);
    for (ballot, e) in accepted {
        put_all(out, &[e.index, *ballot]);
        put_entry(out, e);
    }
}

fn read_accepted(r: &mut Reader) -> Result<Vec<(u64, Entry)>, Malformed> {
    let n = r.count("value count")?;
    // A value is at least five bytes: no count makes this allocate much more.
    let mut accepted = Vec::with_capacity(n.min(r.remaining() / 5));
    for _ in 0..n {
        let (slot, ballot) = (r.varint("slot")?, r.varint("ballot")?);
        accepted.push((ballot, read_entry(r, slot)?));
    }
    Ok(accepted)
}

fn read_report(r: &mut Reader) -> Result<Report, Malformed> {
    Ok(Report { next: read_option(r, "next slot")?, accepted: read_accepted(r)? })
}

fn read_ask(r: &mut Reader) -> Result<Ask, Malformed> {
    Ok(Ask {
        round: r.varint("asked round")?,
        commit: r.varint("commit")?,
        transfer: read_bool(r, "transfer flag")?,
    })
}

fn read_answer(r: &mut Reader) -> Result<Answer, Malformed> {
    Ok(Answer { round: r.varint("asked round")?, refused: read_refusal(r)? })
}

/// Commit, first slot, entries.
fn read_batch(r: &mut Reader) -> Result<(u64, u64, Entries), Malformed> {
    let (commit, first) = (r.varint("commit")?, r.varint("first slot")?);
    Ok((commit, first, read_entries(r, first)?))
}

impl Message {
    /// Appends the encoded message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.round);
        out.push(self.body.tag());
        match &self.body {
            Body::Canvass(a) | Body::Prepare(a) => {
                put_all(out, &[a.round, a.commit, u64::from(a.transfer)]);
            }
            Body::CanvassAnswer(a) | Body::NoPromise(a) => {
                put_varint(out, a.round);
                put_refusal(out, a.refused);
            }
            Body::Promise(report) | Body::Report(report) => put_report(out, report),
            Body::Accept { commit, first, entries } | Body::Chosen { commit, first, entries } => {
                put_all(out, &[*commit, *first]);
                put_entries(out, entries);
            }
            Body::Accepted { first, last, reached } => put_all(out, &[*first, *last, *reached]),
            Body::Heartbeat { commit, beat } => put_all(out, &[*commit, *beat]),
            Body::HeartbeatAnswer { beat, reached } => put_all(out, &[*beat, *reached]),
            Body::More { from: v }
            | Body::Fetch { from: v }
            | Body::Committed { commit: v }
            | Body::ReadAsk { batch: v } => put_varint(out, *v),
            Body::ReadAnswer { batch, index } => {
                put_varint(out, *batch);
                put_option(out, *index);
            }
            Body::TimeoutNow | Body::OldRound => {}
        }
    }

    /// Reads an encoded message; the entries' data share `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Message, Malformed> {
        let r = &mut Reader::new(bytes);
        let round = r.varint("round")?;
        let body = match r.u8("message kind")? {
            0 => Body::Canvass(read_ask(r)?),
            1 => Body::CanvassAnswer(read_answer(r)?),
            2 => Body::Prepare(read_ask(r)?),
            3 => Body::NoPromise(read_answer(r)?),
            4 => Body::Promise(read_report(r)?),
            5 => Body::More { from: r.varint("slot")? },
            6 => Body::Report(read_report(r)?),
            7 => {
                let (commit, first, entries) = read_batch(r)?;
                Body::Accept { commit, first, entries }
            }
            8 => Body::Accepted {
                first: r.varint("first slot")?,
                last: r.varint("last slot")?,
                reached: r.varint("reached slot")?,
            },
            9 => Body::Fetch { from: r.varint("slot")? },
            10 => {
                let (commit, first, entries) = read_batch(r)?;
                Body::Chosen { commit, first, entries }
            }
            11 => Body::Heartbeat { commit: r.varint("commit")?, beat: r.varint("beat")? },
            12 => Body::HeartbeatAnswer {
                beat: r.varint("beat")?,
                reached: r.varint("reached slot")?,
            },
            13 => Body::Committed { commit: r.varint("commit")? },
            14 => Body::ReadAsk { batch: r.varint("batch")? },
            15 => {
                let batch = r.varint("batch")?;
                Body::ReadAnswer { batch, index: read_option(r, "read index")? }
            }
            16 => Body::TimeoutNow,
            17 => Body::OldRound,
            _ => return Err(Malformed { what: "message kind", at: 0 }),
        };
        r.clone().end("end of the message")?;
        Ok(Message { round, body })
    }
}

impl Body {
    fn tag(&self) -> u8 {
        match self {
            Body::Canvass(_) => 0,
            Body::CanvassAnswer(_) => 1,
            Body::Prepare(_) => 2,
            Body::NoPromise(_) => 3,
            Body::Promise(_) => 4,
            Body::More { .. } => 5,
            Body::Report(_) => 6,
            Body::Accept { .. } => 7,
            Body::Accepted { .. } => 8,
            Body::Fetch { .. } => 9,
            Body::Chosen { .. } => 10,
            Body::Heartbeat { .. } => 11,
            Body::HeartbeatAnswer { .. } => 12,
            Body::Committed { .. } => 13,
            Body::ReadAsk { .. } => 14,
            Body::ReadAnswer { .. } => 15,
            Body::TimeoutNow => 16,
            Body::OldRound => 17,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, (ballot, e)) in self.accepted.iter().enumerate() {
            let gap = if i > 0 { " " } else { "" };
            write!(f, "{gap}{}:{}", e.index, e.term)?;
            match *ballot {
                CHOSEN => f.write_str(" chosen")?,
                ballot if ballot != e.term => write!(f, " in {ballot}")?,
                _ => {}
            }
        }
        f.write_str("]")?;
        self.next.map_or(Ok(()), |next| write!(f, " more from {next}"))
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {} ", self.round)?;
        match &self.body {
            Body::Canvass(a) => write!(f, "canvass for {}? commit {}", a.round, a.commit),
            Body::Prepare(a) => {
                let transfer = if a.transfer { " (transfer)" } else { "" };
                write!(f, "prepare {} above {}{transfer}", a.round, a.commit)
            }
            Body::CanvassAnswer(Answer { round, refused: None }) => {
                write!(f, "canvass for {round}: yes")
            }
            Body::CanvassAnswer(Answer { round, refused: Some(why) }) => {
                write!(f, "canvass for {round}: no, {why}")
            }
            Body::NoPromise(Answer { round, refused }) => {
                write!(f, "no promise for {round}")?;
                refused.map_or(Ok(()), |why| write!(f, ": {why}"))
            }
            Body::Promise(report) => write!(f, "promise, accepted {report}"),
            Body::Report(report) => write!(f, "accepted {report}"),
            Body::Accept { commit, entries, .. } => {
                write!(f, "accept [{}] commit {commit}", Places(entries))
            }
            Body::Chosen { commit, entries, .. } => {
                write!(f, "chosen [{}] commit {commit}", Places(entries))
            }
            other => f.write_str(&format!("{other:?}").to_lowercase()),
        }
    }
}
