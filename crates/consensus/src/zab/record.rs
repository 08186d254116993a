//! Zab's journal records: at most one for each step.
//!
//! **Invariants**
//! - Every record starts with the whole hard state, so the newest record always
//!   holds the newest epochs and commit hint, whatever was dropped before.
//! - Parts come in the order hard state, boundary, cut, entries, and are
//!   replayed in that order: a current epoch is never in the journal without the
//!   history that it stands for (ZOOKEEPER-4643), which is in this record or in
//!   earlier ones.
//! - A cut removes everything at or above it; entries replace all from their
//!   first index on.
//! - The boundary of a [`crate::Output::Forget`] is in a record written in the
//!   same step. **The driver** drops whole segments only, only such as were
//!   closed before that record was written, and only once it is durable.
//! - The stored commit is a hint: replay caps it at the last entry found.
//! - The first byte's upper two bits are `10`: so records tell whose they are.

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

/// What must not be forgotten besides the history.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HardState {
    /// The last epoch that was promised (ZooKeeper's acceptedEpoch).
    pub accepted: u64,
    /// To whom.
    pub leader: Option<NodeId>,
    /// The last epoch whose history was acknowledged (currentEpoch).
    pub current: u64,
    /// Commit index when written; a hint.
    pub commit: u64,
}

/// The start of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Boundary {
    /// What lies before it.
    pub meta: SnapshotMeta,
    /// Whether entries written before this record are void (a snapshot
    /// replaced a history that did not match).
    pub reset: bool,
}

/// One journal record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Hard state.
    pub hard: HardState,
    /// A new start of the log.
    pub boundary: Option<Box<Boundary>>,
    /// Everything at or above this index was cut off.
    pub cut: Option<u64>,
    /// Index of the first entry.
    pub first: u64,
    /// Entries; they replace all from `first` on.
    pub entries: Entries,
}

/// The upper two bits of the first byte.
const ZAB: u8 = 0b1000_0000;
/// Room for what comes before the entries.
const HEAD_LEN: usize = 64;

const HAS_BOUNDARY: u8 = 1;
const HAS_RESET: u8 = 2;
const HAS_ENTRIES: u8 = 4;
const HAS_CUT: u8 = 8;

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
        let Record { hard, boundary, cut, first, entries } = self;
        let mut flags = ZAB;
        if let Some(b) = boundary {
            flags |= HAS_BOUNDARY | if b.reset { HAS_RESET } else { 0 };
        }
        if cut.is_some() {
            flags |= HAS_CUT;
        }
        if !entries.is_empty() {
            flags |= HAS_ENTRIES;
        }
        out.push(flags);
        put_all(out, &[hard.accepted, hard.leader.map_or(0, |id| id.0), hard.current, hard.commit]);
        if let Some(Boundary { meta, .. }) = boundary.as_deref() {
            put_varint(out, meta.index);
            put_varint(out, meta.term);
            meta.membership.encode(out);
        }
        if let Some(from) = cut {
            put_varint(out, *from);
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
        if flags & !(HAS_BOUNDARY | HAS_RESET | HAS_ENTRIES | HAS_CUT) != ZAB {
            return Err(Malformed { what: "record flags", at: 0 });
        }
        let accepted = r.varint("accepted epoch")?;
        let leader = Some(NodeId(r.varint("leader")?)).filter(|id| id.is_some());
        let current = r.varint("current epoch")?;
        let hard = HardState { accepted, leader, current, commit: r.varint("commit")? };
        let mut boundary = None;
        if flags & HAS_BOUNDARY != 0 {
            let index = r.varint("boundary index")?;
            let term = r.varint("boundary epoch")?;
            let membership = Membership::decode(&mut r)?;
            let meta = SnapshotMeta { index, term, membership, joint_until: 0 };
            boundary = Some(Box::new(Boundary { meta, reset: flags & HAS_RESET != 0 }));
        }
        let cut = if flags & HAS_CUT != 0 { Some(r.varint("cut")?) } else { None };
        let (mut first, mut entries) = (0, Entries::default());
        if flags & HAS_ENTRIES != 0 {
            first = r.varint("first index")?;
            entries = read_entries(&mut r, first)?;
        }
        r.end("end of the record")?;
        Ok(Record { hard, boundary, cut, first, entries })
    }

    pub(crate) fn view(self) -> RecordView {
        let void_from = if self.boundary.as_ref().is_some_and(|b| b.reset) {
            Some(0)
        } else {
            self.cut.into_iter().chain(self.entries.first().map(|e| e.index)).min()
        };
        RecordView {
            protocol: Protocol::Zab,
            term: self.hard.accepted,
            supports: self.hard.leader,
            commit: self.hard.commit,
            boundary: self.boundary.map(|b| b.meta),
            void_from,
            entries: self.entries.iter().map(|e| (e.term, e.clone())).collect(),
        }
    }
}

/// What the records of an earlier life add up to.
pub(super) struct Replayed {
    pub hard: HardState,
    pub start: SnapshotMeta,
    pub entries: Vec<Entry>,
}

/// Boundary and history as the records left them.
struct Found {
    hard: HardState,
    start: Option<SnapshotMeta>,
    log: BTreeMap<u64, Entry>,
}

fn read_all(records: Vec<Bytes>) -> Result<Found, RecoverError> {
    let mut found = Found { hard: HardState::default(), start: None, log: BTreeMap::new() };
    for (i, bytes) in records.into_iter().enumerate() {
        let record =
            Record::decode(bytes).map_err(|error| RecoverError::Malformed { record: i, error })?;
        found.hard = record.hard;
        if let Some(Boundary { meta, reset }) = record.boundary.map(|b| *b) {
            if reset {
                found.log.clear();
            }
            found.start = Some(meta);
        }
        if let Some(from) = record.cut {
            found.log.split_off(&from);
        }
        if !record.entries.is_empty() {
            found.log.split_off(&record.first);
            found.log.extend(record.entries.iter().map(|e| (e.index, e.clone())));
        }
    }
    Ok(found)
}

pub(super) fn replay(recovered: Recovered) -> Result<Replayed, RecoverError> {
    let Found { mut hard, start, mut log } = read_all(recovered.records)?;
    let snapshot = recovered.snapshot;
    let start = match start {
        Some(boundary) if boundary.index >= snapshot.index => boundary,
        boundary => {
            // A snapshot installed just before a crash may be newer than the
            // journal and replace a history that conflicts with it.
            let at = boundary.filter(|b| b.index == snapshot.index).map(|b| b.term);
            let known = log.get(&snapshot.index).map(|e| e.term).or(at);
            if known.is_some_and(|term| term != snapshot.term) {
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
    // An epoch seen in the history is over for everybody else.
    let seen = entries.last().map_or(start.term, |e| e.term);
    if seen > hard.accepted {
        (hard.accepted, hard.leader) = (seen, None);
    }
    hard.commit = hard.commit.min(last).max(start.index).max(recovered.applied);
    Ok(Replayed { hard, start, entries })
}
