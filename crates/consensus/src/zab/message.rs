//! Zab's messages and their bytes.
//!
//! **Invariants**
//! - Every message carries an epoch: those of a leader, and answers to it, the
//!   one that it leads; notifications and refusals the sender's accepted one.
//! - The entries of a proposal or of a synchronisation follow a place without a
//!   gap: their indexes are not on the wire.
//! - Decoding never panics and shares the buffer.

use crate::contract::Entry;
use crate::entries::Entries;
use crate::event::VoteRefusal;
use crate::parts::codec::{
    Places, put_all, put_entries, put_option, put_refusal, read_bool, read_entries, read_option,
    read_refusal,
};
use bytes::Bytes;
use std::fmt;
use synod_base::NodeId;
use synod_base::codec::{Malformed, Reader, put_varint};

/// A message from one member to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The epoch that it belongs to; see the file's header.
    pub epoch: u64,
    /// What it says.
    pub body: Body,
}

/// How new a history is: a later established epoch outranks a later zxid.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank {
    /// The last epoch whose history its holder has acknowledged.
    pub current: u64,
    /// Epoch of the last entry.
    pub term: u64,
    /// Index of the last entry.
    pub index: u64,
}

/// A notification of leader election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// The election's number, as far as the sender knows.
    pub round: u64,
    /// Grows with each notification of the sender in the round.
    pub seq: u64,
    /// The sender's history.
    pub rank: Rank,
    /// It did not begin this election.
    pub joined: bool,
    /// It is a voter and in touch with a quorum, both ways.
    pub reach: bool,
    /// It has heard the receiver in this round.
    pub hears_you: bool,
    /// Whom it would follow.
    pub vote: Option<NodeId>,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// I look for a leader.
    Look(Look),
    /// No need to: one is alive.
    LookRefused {
        /// The round of the notification.
        round: u64,
    },
    /// LEADERINFO: promise to take part in my epoch and in no earlier one.
    LeaderInfo {
        /// A quorum has promised already.
        won: bool,
        /// The leader itself asked for it, so a living one is no reason to refuse.
        transfer: bool,
    },
    /// Such a promise, or another word of a leader, is refused.
    Refused {
        /// The epoch of the leader.
        asked: u64,
        /// Why.
        why: VoteRefusal,
    },
    /// ACKEPOCH: promised, durably; and what I hold. Also asks to be
    /// synchronised again.
    AckEpoch(Rank),
    /// Your history is newer than mine: what follows this place?
    Fetch {
        /// A place that the histories may share.
        index: u64,
        /// Its epoch.
        term: u64,
    },
    /// A part of a history, for a leader that asked.
    History {
        /// Index before the first entry.
        prev_index: u64,
        /// Its epoch.
        prev_term: u64,
        /// The entries.
        entries: Entries,
    },
    /// DIFF or TRUNC: your history is mine up to this place; cut what follows
    /// it and take these.
    Sync {
        /// Whether there should be something to cut.
        trunc: bool,
        /// Index before the first entry.
        prev_index: u64,
        /// Its epoch.
        prev_term: u64,
        /// The entries.
        entries: Entries,
    },
    /// That place is not in my history; this one may be shared.
    Diverged {
        /// Its index.
        index: u64,
        /// Its epoch.
        term: u64,
    },
    /// The history is the leader's up to here, durably; counts for nothing yet.
    SyncAck {
        /// Last index.
        matched: u64,
    },
    /// NEWLEADER: this is the end of the history that my epoch begins with.
    NewLeader {
        /// Its last index.
        last: u64,
    },
    /// All of that history is durable here, and the epoch is current.
    NewLeaderAck {
        /// Last index of the leader's that is held.
        matched: u64,
    },
    /// UPTODATE: a quorum has acknowledged the epoch; follow.
    UpToDate {
        /// What is committed.
        commit: u64,
    },
    /// PROPOSE: take these.
    Propose {
        /// Index before the first one.
        prev_index: u64,
        /// What is committed.
        commit: u64,
        /// The entries.
        entries: Entries,
    },
    /// ACK: durable up to here, in the leader's epoch.
    Ack {
        /// Last index.
        matched: u64,
    },
    /// COMMIT.
    Commit {
        /// What is committed.
        commit: u64,
    },
    /// I live.
    Ping {
        /// Round of this epoch, growing.
        round: u64,
        /// What is committed.
        commit: u64,
        /// A quorum has acknowledged the epoch.
        established: bool,
    },
    /// The receiver followed the sender when the round's ping arrived.
    Pong {
        /// The round.
        round: u64,
        /// The last membership that it knows, durably, to be committed.
        active: u64,
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
    /// Lead the next epoch.
    TakeOver,
}

fn put_rank(out: &mut Vec<u8>, r: &Rank) {
    put_all(out, &[r.current, r.term, r.index]);
}

fn read_rank(r: &mut Reader) -> Result<Rank, Malformed> {
    let current = r.varint("current epoch")?;
    let term = r.varint("last epoch")?;
    Ok(Rank { current, term, index: r.varint("last index")? })
}

fn put_look(out: &mut Vec<u8>, l: &Look) {
    put_all(out, &[l.round, l.seq]);
    put_rank(out, &l.rank);
    [l.joined, l.reach, l.hears_you].iter().for_each(|&b| out.push(u8::from(b)));
    put_varint(out, l.vote.map_or(0, |id| id.0));
}

fn read_look(r: &mut Reader) -> Result<Look, Malformed> {
    Ok(Look {
        round: r.varint("round")?,
        seq: r.varint("notification number")?,
        rank: read_rank(r)?,
        joined: read_bool(r, "joined flag")?,
        reach: read_bool(r, "reach flag")?,
        hears_you: read_bool(r, "hearing flag")?,
        vote: Some(NodeId(r.varint("vote")?)).filter(|id| id.is_some()),
    })
}

fn put_part(out: &mut Vec<u8>, head: &[u64], entries: &[Entry]) {
    put_all(out, head);
    put_entries(out, entries);
}

fn read_part(r: &mut Reader) -> Result<(u64, u64, Entries), Malformed> {
    let prev_index = r.varint("previous index")?;
    let second = r.varint("previous epoch or commit index")?;
    let entries = read_entries(r, prev_index.saturating_add(1))?;
    Ok((prev_index, second, entries))
}

impl Message {
    /// Appends the encoded message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.epoch);
        out.push(self.body.tag());
        match &self.body {
            Body::Look(l) => put_look(out, l),
            Body::LookRefused { round } => put_varint(out, *round),
            Body::LeaderInfo { won, transfer } => {
                put_all(out, &[u64::from(*won), u64::from(*transfer)]);
            }
            Body::Refused { asked, why } => {
                put_varint(out, *asked);
                put_refusal(out, Some(*why));
            }
            Body::AckEpoch(rank) => put_rank(out, rank),
            Body::Fetch { index, term } | Body::Diverged { index, term } => {
                put_all(out, &[*index, *term]);
            }
            Body::History { prev_index, prev_term, entries } => {
                put_part(out, &[*prev_index, *prev_term], entries);
            }
            Body::Sync { trunc, prev_index, prev_term, entries } => {
                out.push(u8::from(*trunc));
                put_part(out, &[*prev_index, *prev_term], entries);
            }
            Body::Propose { prev_index, commit, entries } => {
                put_part(out, &[*prev_index, *commit], entries);
            }
            Body::SyncAck { matched } | Body::NewLeaderAck { matched } | Body::Ack { matched } => {
                put_varint(out, *matched);
            }
            Body::NewLeader { last } => put_varint(out, *last),
            Body::UpToDate { commit } | Body::Commit { commit } => put_varint(out, *commit),
            Body::Ping { round, commit, established } => {
                put_all(out, &[*round, *commit, u64::from(*established)]);
            }
            Body::Pong { round, active } => put_all(out, &[*round, *active]),
            Body::ReadAsk { batch } => put_varint(out, *batch),
            Body::ReadAnswer { batch, index } => {
                put_varint(out, *batch);
                put_option(out, *index);
            }
            Body::TakeOver => {}
        }
    }

    /// Reads an encoded message; the entries' data share `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Message, Malformed> {
        let r = &mut Reader::new(bytes);
        let epoch = r.varint("epoch")?;
        let tag = r.u8("message kind")?;
        let body = Body::decode(tag, r)?;
        r.clone().end("end of the message")?;
        Ok(Message { epoch, body })
    }
}

impl Body {
    fn decode(tag: u8, r: &mut Reader) -> Result<Body, Malformed> {
        Ok(match tag {
            0 => Body::Look(read_look(r)?),
            1 => Body::LookRefused { round: r.varint("round")? },
            2 => {
                let won = read_bool(r, "won flag")?;
                Body::LeaderInfo { won, transfer: read_bool(r, "transfer flag")? }
            }
            3 => {
                let asked = r.varint("asked epoch")?;
                let why = read_refusal(r)?.ok_or(Malformed { what: "refusal", at: 0 })?;
                Body::Refused { asked, why }
            }
            4 => Body::AckEpoch(read_rank(r)?),
            5 => Body::Fetch { index: r.varint("index")?, term: r.varint("epoch")? },
            6 => {
                let (prev_index, prev_term, entries) = read_part(r)?;
                Body::History { prev_index, prev_term, entries }
            }
            7 => {
                let trunc = read_bool(r, "truncation flag")?;
                let (prev_index, prev_term, entries) = read_part(r)?;
                Body::Sync { trunc, prev_index, prev_term, entries }
            }
            8 => Body::Diverged { index: r.varint("index")?, term: r.varint("epoch")? },
            9 => Body::SyncAck { matched: r.varint("matched index")? },
            10 => Body::NewLeader { last: r.varint("last index")? },
            11 => Body::NewLeaderAck { matched: r.varint("matched index")? },
            12 => Body::UpToDate { commit: r.varint("commit index")? },
            13 => {
                let (prev_index, commit, entries) = read_part(r)?;
                Body::Propose { prev_index, commit, entries }
            }
            14 => Body::Ack { matched: r.varint("matched index")? },
            15 => Body::Commit { commit: r.varint("commit index")? },
            16 => {
                let (round, commit) = (r.varint("round")?, r.varint("commit index")?);
                Body::Ping { round, commit, established: read_bool(r, "established flag")? }
            }
            17 => Body::Pong { round: r.varint("round")?, active: r.varint("active membership")? },
            18 => Body::ReadAsk { batch: r.varint("batch")? },
            19 => {
                let batch = r.varint("batch")?;
                Body::ReadAnswer { batch, index: read_option(r, "read index")? }
            }
            20 => Body::TakeOver,
            _ => return Err(Malformed { what: "message kind", at: 0 }),
        })
    }

    fn tag(&self) -> u8 {
        match self {
            Body::Look(_) => 0,
            Body::LookRefused { .. } => 1,
            Body::LeaderInfo { .. } => 2,
            Body::Refused { .. } => 3,
            Body::AckEpoch(_) => 4,
            Body::Fetch { .. } => 5,
            Body::History { .. } => 6,
            Body::Sync { .. } => 7,
            Body::Diverged { .. } => 8,
            Body::SyncAck { .. } => 9,
            Body::NewLeader { .. } => 10,
            Body::NewLeaderAck { .. } => 11,
            Body::UpToDate { .. } => 12,
            Body::Propose { .. } => 13,
            Body::Ack { .. } => 14,
            Body::Commit { .. } => 15,
            Body::Ping { .. } => 16,
            Body::Pong { .. } => 17,
            Body::ReadAsk { .. } => 18,
            Body::ReadAnswer { .. } => 19,
            Body::TakeOver => 20,
        }
    }

    /// Whether only a leader says so, to those who promised its epoch.
    pub(super) fn of_leader(&self) -> bool {
        matches!(
            self,
            Body::Fetch { .. }
                | Body::Sync { .. }
                | Body::NewLeader { .. }
                | Body::UpToDate { .. }
                | Body::Propose { .. }
                | Body::Commit { .. }
                | Body::Ping { .. }
                | Body::ReadAnswer { .. }
                | Body::TakeOver
        )
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} {}", self.epoch, self.body)
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "current {} last {}:{}", self.current, self.index, self.term)
    }
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "looks in round {}, {}", self.round, self.rank)?;
        for (is, what) in [
            (self.joined, ", joined"),
            (self.hears_you, ", hears you"),
            (self.reach, ", reaches a quorum"),
        ] {
            if is {
                f.write_str(what)?;
            }
        }
        self.vote.map_or(Ok(()), |id| write!(f, ", for {id:?}"))
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Look(look) => look.fmt(f),
            Body::LookRefused { round } => write!(f, "round {round}: no, a leader is alive"),
            Body::LeaderInfo { won, transfer } => {
                f.write_str("leader info")?;
                let words = [(*won, " (promised by a quorum)"), (*transfer, " (transfer)")];
                words.into_iter().filter(|(is, _)| *is).try_for_each(|(_, w)| f.write_str(w))
            }
            Body::Refused { asked, why } => write!(f, "refuses epoch {asked}: {why}"),
            Body::AckEpoch(rank) => write!(f, "ack epoch, {rank}"),
            Body::Fetch { index, term } => write!(f, "fetch after {index}:{term}"),
            Body::History { prev_index, prev_term, entries } => {
                write!(f, "history after {prev_index}:{prev_term} [{}]", Places(entries))
            }
            Body::Sync { trunc, prev_index, prev_term, entries } => {
                let how = if *trunc { "trunc to" } else { "diff after" };
                write!(f, "{how} {prev_index}:{prev_term} [{}]", Places(entries))
            }
            Body::Diverged { index, term } => write!(f, "diverged, may agree at {index}:{term}"),
            Body::Propose { prev_index, commit, entries } => {
                write!(f, "propose after {prev_index} [{}] commit {commit}", Places(entries))
            }
            other => f.write_str(&format!("{other:?}").to_lowercase()),
        }
    }
}
