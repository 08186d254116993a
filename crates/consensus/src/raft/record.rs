//! Raft's journal records: at most one for each step.
//!
//! **Invariants**
//! - Every record starts with the whole hard state, so the newest record always
//!   holds the newest term, vote and commit hint, whatever was dropped before.
//! - Parts come in the order hard state, boundary, entries, and are replayed in
//!   that order. Entries from `first` on replace everything at or above `first`.
//! - The boundary of a [`crate::Output::Forget`] is in a record written in the
//!   same step. **The driver** drops whole segments only, only such as were
//!   closed before that record was written, and only once it is durable.
//! - The stored commit is a hint: replay caps it at the last entry found.

use crate::config::Membership;
use crate::contract::{Entry, Recovered, SnapshotMeta};
use crate::entries::Entries;
use crate::parts::codec::{entries_len, put_all, put_entries, read_entries};
use crate::parts::recover::RecoverError;
use crate::protocol::{Protocol, RecordView};
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_base::NodeId;
use synod_base::codec::{Malformed, Reader, put_varint};

/// What must not be forgotten besides the log.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HardState {
    /// Current term.
    pub term: u64,
    /// Vote given in it.
    pub vote: Option<NodeId>,
    /// Commit index when written; a hint.
    pub commit: u64,
}

/// The start of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Boundary {
    /// What lies before it.
    pub meta: SnapshotMeta,
    /// Whether entries written before this record are void (a snapshot
    /// replaced a log that did not match).
    pub reset: bool,
}

/// One journal record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Hard state.
    pub hard: HardState,
    /// A new start of the log.
    pub boundary: Option<Box<Boundary>>,
    /// Index of the first entry.
    pub first: u64,
    /// Entries; they replace all from `first` on.
    pub entries: Entries,
}

/// Room for what comes before the entries.
const HEAD_LEN: usize = 64;

const HAS_BOUNDARY: u8 = 1;
const HAS_RESET: u8 = 2;
const HAS_ENTRIES: u8 = 4;

impl Record {
    /// The bytes of the record.
    pub fn to_bytes(&self) -> Bytes {
        let rest = if self.entries.is_empty() { 0 } else { entries_len(&self.entries) };
        let mut out = Vec::with_capacity(HEAD_LEN + rest);
        self.encode(&mut out);
        out.into()
    }

    /// Appends the encoded record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Record { hard, boundary, first, entries } = self;
        let mut flags = 0;
        if let Some(b) = boundary {
            flags |= HAS_BOUNDARY | if b.reset { HAS_RESET } else { 0 };
        }
        if !entries.is_empty() {
            flags |= HAS_ENTRIES;
        }
        out.push(flags);
        put_all(out, &[hard.term, hard.vote.map_or(0, |id| id.0), hard.commit]);
        if let Some(Boundary { meta, .. }) = boundary.as_deref() {
            put_varint(out, meta.index);
            put_varint(out, meta.term);
            meta.membership.encode(out);
        }
        if !entries.is_empty() {
            put_varint(out, *first);
            put_entries(out, entries);
        }
    }

    /// Reads a record; the entries' data share `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Record, Malformed> {
        let mut r = Reader::new(bytes);
        let flags = r.u8("record flags")?;
        if flags & !(HAS_BOUNDARY | HAS_RESET | HAS_ENTRIES) != 0 {
            return Err(Malformed { what: "record flags", at: 0 });
        }
        let term = r.varint("term")?;
        let vote = Some(NodeId(r.varint("vote")?)).filter(|id| id.is_some());
        let hard = HardState { term, vote, commit: r.varint("commit")? };
        let mut boundary = None;
        if flags & HAS_BOUNDARY != 0 {
            let index = r.varint("boundary index")?;
            let term = r.varint("boundary term")?;
            let membership = Membership::decode(&mut r)?;
            let meta = SnapshotMeta { index, term, membership, joint_until: 0 };
            boundary = Some(Box::new(Boundary { meta, reset: flags & HAS_RESET != 0 }));
        }
        let (mut first, mut entries) = (0, Entries::default());
        if flags & HAS_ENTRIES != 0 {
            first = r.varint("first index")?;
            entries = read_entries(&mut r, first)?;
        }
        r.end("end of the record")?;
        Ok(Record { hard, boundary, first, entries })
    }

    pub(crate) fn view(self) -> RecordView {
        let void_from = if self.boundary.as_ref().is_some_and(|b| b.reset) {
            Some(0)
        } else {
            self.entries.first().map(|e| e.index)
        };
        RecordView {
            protocol: Protocol::Raft,
            term: self.hard.term,
            supports: self.hard.vote,
            commit: self.hard.commit,
            boundary: self.boundary.map(|b| b.meta),
            void_from,
            entries: self.entries.iter().map(|e| (e.term, e.clone())).collect(),
        }
    }
}

/// What the records of an earlier life add up to.
#[derive(Debug)]
pub(super) struct Replayed {
    pub hard: HardState,
    pub start: SnapshotMeta,
    pub entries: Vec<Entry>,
}

pub(super) fn replay(recovered: Recovered) -> Result<Replayed, RecoverError> {
    let mut hard = HardState::default();
    let mut log: BTreeMap<u64, Entry> = BTreeMap::new();
    let mut start: Option<SnapshotMeta> = None;
    for (i, bytes) in recovered.records.into_iter().enumerate() {
        let record =
            Record::decode(bytes).map_err(|error| RecoverError::Malformed { record: i, error })?;
        hard = record.hard;
        if let Some(Boundary { meta, reset }) = record.boundary.map(|b| *b) {
            if reset {
                log.clear();
            }
            start = Some(meta);
        }
        if !record.entries.is_empty() {
            log.split_off(&record.first);
            log.extend(record.entries.iter().map(|e| (e.index, e.clone())));
        }
    }
    let snapshot = recovered.snapshot;
    let known = |index: u64| {
        let boundary = start.as_ref().filter(|s| s.index == index).map(|s| s.term);
        log.get(&index).map(|e| e.term).or(boundary)
    };
    // A snapshot installed just before a crash may be newer than the journal
    // and replace a log that conflicts with it (openraft #561).
    let conflicts = known(snapshot.index).is_some_and(|term| term != snapshot.term);
    let start = match start {
        Some(boundary) if boundary.index >= snapshot.index => boundary,
        _ => {
            if conflicts {
                log.clear();
            }
            snapshot
        }
    };
    let entries: Vec<Entry> = log.split_off(&(start.index + 1)).into_values().collect();
    for (e, want) in entries.iter().zip(start.index + 1..) {
        if e.index != want {
            return Err(RecoverError::Gap { missing: want, found: e.index });
        }
    }
    let last = start.index + entries.len() as u64;
    if recovered.applied > last {
        return Err(RecoverError::AppliedAhead { applied: recovered.applied, last });
    }
    // A term seen in the log was entered, even if the hard state lagged.
    let seen = entries.last().map_or(start.term, |e| e.term);
    if seen > hard.term {
        hard = HardState { term: seen, vote: None, commit: hard.commit };
    }
    hard.commit = hard.commit.min(last).max(start.index).max(recovered.applied);
    Ok(Replayed { hard, start, entries })
}
