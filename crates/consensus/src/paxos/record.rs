//! Multi-Paxos' journal records: at most one for each step.
//!
//! **Invariants**
//! - Every record starts with the ballot that is promised and a commit hint, so
//!   the newest record always holds the newest of both.
//! - A value replaces what an earlier record holds for its slot. Nothing else is
//!   ever taken back: there is no truncation in Paxos.
//! - At or below the commit hint of a record, this and earlier records hold the
//!   chosen values; so do they for what the state has applied.
//! - The boundary of a [`crate::Output::Forget`] is in a record written in the
//!   same step (the driver's part is told in `raft/record.rs`).

use crate::config::Membership;
use crate::contract::{Entry, Recovered, SnapshotMeta};
use crate::entries::Entries;
use crate::parts::codec::{entries_len, put_all, put_entries, read_entries};
use crate::protocol::{Protocol, RecordView};
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_base::NodeId;
use synod_base::codec::{Malformed, Reader};

/// The top bits of the first byte say whose the record is.
const MARK: u8 = 0b0100_0000;
const HAS_BOUNDARY: u8 = 1;
/// Room for what comes before the rows, and before the values of one.
const HEAD_LEN: usize = 64;
const ROW_HEAD_LEN: usize = 20;

/// One journal record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The round in which nothing of an earlier one is accepted.
    pub round: u64,
    /// Who was promised that (nobody: the round was only heard of).
    pub promised: Option<NodeId>,
    /// All slots up to here were known to be chosen; a hint.
    pub commit: u64,
    /// A new start of what is held.
    pub boundary: Option<Box<SnapshotMeta>>,
    /// Rows of accepted values, each with its ballot. None is empty.
    pub accepted: Vec<(u64, Entries)>,
}

impl Record {
    /// The bytes of the record.
    pub fn to_bytes(&self) -> Bytes {
        let rows: usize =
            self.accepted.iter().map(|(_, row)| ROW_HEAD_LEN + entries_len(row)).sum();
        let mut out = Vec::with_capacity(HEAD_LEN + rows);
        self.encode(&mut out);
        out.into()
    }

    /// Appends the encoded record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(MARK | if self.boundary.is_some() { HAS_BOUNDARY } else { 0 });
        put_all(out, &[self.round, self.promised.map_or(0, |id| id.0), self.commit]);
        if let Some(meta) = &self.boundary {
            put_all(out, &[meta.index, meta.term, meta.joint_until]);
            meta.membership.encode(out);
        }
        put_all(out, &[self.accepted.len() as u64]);
        for (ballot, row) in &self.accepted {
            put_all(out, &[row.first().map_or(0, |e| e.index), *ballot]);
            put_entries(out, row);
        }
    }

    /// Reads a record; the values' data share `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Record, Malformed> {
        let mut r = Reader::new(bytes);
        let flags = r.u8("record flags")?;
        if flags & !HAS_BOUNDARY != MARK {
            return Err(Malformed { what: "record flags", at: 0 });
        }
        let round = r.varint("round")?;
        let promised = Some(NodeId(r.varint("promised")?)).filter(|id| id.is_some());
        let commit = r.varint("commit")?;
        let mut boundary = None;
        if flags & HAS_BOUNDARY != 0 {
            let (index, term) = (r.varint("boundary slot")?, r.varint("boundary ballot")?);
            let joint_until = r.varint("end of the joint membership")?;
            let membership = Membership::decode(&mut r)?;
            boundary = Some(Box::new(SnapshotMeta { index, term, membership, joint_until }));
        }
        let accepted = read_rows(&mut r)?;
        r.end("end of the record")?;
        Ok(Record { round, promised, commit, boundary, accepted })
    }

    pub(crate) fn view(self) -> RecordView {
        RecordView {
            protocol: Protocol::Paxos,
            term: self.round,
            supports: self.promised,
            commit: self.commit,
            boundary: self.boundary.map(|meta| *meta),
            void_from: None,
            entries: self
                .accepted
                .iter()
                .flat_map(|(ballot, row)| row.iter().map(|e| (*ballot, e.clone())))
                .collect(),
        }
    }
}

fn read_rows(r: &mut Reader) -> Result<Vec<(u64, Entries)>, Malformed> {
    let n = r.count("row count")?;
    // A row is at least six bytes: no count makes this allocate much more.
    let mut rows = Vec::with_capacity(n.min(r.remaining() / 6));
    for _ in 0..n {
        let (first, ballot) = (r.varint("first slot")?, r.varint("ballot")?);
        let row = read_entries(r, first)?;
        if row.is_empty() {
            return Err(Malformed { what: "row of values", at: 0 });
        }
        rows.push((ballot, row));
    }
    Ok(rows)
}

/// What the records of an earlier life add up to.
#[derive(Debug)]
pub(super) struct Replayed {
    pub round: u64,
    pub promised: Option<NodeId>,
    pub commit: u64,
    pub start: SnapshotMeta,
    pub accepted: BTreeMap<u64, (u64, Entry)>,
}

pub(super) fn replay(recovered: Recovered) -> Result<Replayed, String> {
    let (mut round, mut promised, mut commit) = (0, None, 0);
    let mut accepted = BTreeMap::new();
    let mut start = recovered.snapshot;
    for (i, bytes) in recovered.records.into_iter().enumerate() {
        let record =
            Record::decode(bytes).map_err(|e| format!("journal record {i} of this cell: {e}"))?;
        (round, promised, commit) = (record.round, record.promised, record.commit);
        if let Some(meta) = record.boundary.filter(|meta| meta.index >= start.index) {
            start = *meta;
        }
        for (ballot, row) in record.accepted {
            accepted.extend(row.iter().map(|e| (e.index, (ballot, e.clone()))));
        }
    }
    let accepted = accepted.split_off(&(start.index + 1));
    let commit = commit.max(start.index).max(recovered.applied);
    for slot in start.index + 1..=commit {
        if !accepted.contains_key(&slot) {
            return Err(format!(
                "the journal lacks slot {slot}, but all up to {commit} were chosen: journal \
                 entries were lost"
            ));
        }
    }
    // Whoever accepted something in a ballot is in it.
    let seen = accepted.values().map(|(ballot, _)| *ballot).max().unwrap_or(0).max(start.term);
    if seen > round {
        (round, promised) = (seen, None);
    }
    Ok(Replayed { round, promised, commit, start, accepted })
}
