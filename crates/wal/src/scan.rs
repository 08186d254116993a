//! Reading a segment back, and telling a torn tail from damage.
//!
//! One append is in flight at a time, and the next begins only when it is
//! durable. So behind the last good batch `n` there may be pieces of batch
//! `n + 1` (torn by a crash, never acknowledged), but nothing of `n + 2`. Torn it
//! is only if some sector of it was not written (`sectors.rs`).

use crate::format::{
    FOOTER_CELL, Place, RECORD_HEADER_LEN, Record, SEGMENT_HEADER_LEN, SegmentHeader,
    UnknownVersion, u32_at, u64_at,
};
use crate::sectors::{SECTOR, Sectors, physical};
use bytes::Bytes;
use synod_base::CellId;

/// The file of a segment.
pub fn segment_name(segment: u64) -> String {
    format!("{segment:016x}.seg")
}

pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".seg")?;
    if hex.len() != 16 {
        return None;
    }
    u64::from_str_radix(hex, 16).ok()
}

/// One whole batch.
#[derive(Clone, Debug)]
pub struct ScannedBatch {
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its records.
    pub records: Vec<Record>,
}

/// How a segment ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tail {
    /// Nothing of this segment's life follows the last batch.
    Clean,
    /// Pieces of one more batch follow that was never whole: cut them.
    Torn {
        /// Where they begin.
        offset: u64,
    },
    /// Something that was acknowledged cannot be read.
    Damaged {
        /// Where.
        offset: u64,
        /// What.
        what: String,
    },
}

/// What a segment holds.
#[derive(Clone, Debug)]
pub struct SegmentScan {
    /// The node it belongs to and its number; `None`: never begun.
    pub owner: Option<(u64, u64)>,
    /// Its whole batches, in order.
    pub batches: Vec<ScannedBatch>,
    /// How it ends.
    pub tail: Tail,
    pub(crate) header: Option<SegmentHeader>,
    pub(crate) end: usize,
    pub(crate) chain: u32,
    pub(crate) next_batch: u64,
}

impl SegmentScan {
    /// The format's version, and the release that began the segment (empty: not known).
    pub fn format(&self) -> Option<(u32, String)> {
        self.header.map(|h| (h.version, h.writer()))
    }
}

/// Reads a segment's bytes.
pub fn scan_segment(file: &[u8]) -> Result<SegmentScan, UnknownVersion> {
    let sectors = Sectors::read(file);
    let header = SegmentHeader::decode(&sectors.data)?;
    let mut scan = SegmentScan {
        owner: header.map(|h| (h.node, h.segment)),
        batches: Vec::new(),
        tail: Tail::Clean,
        header,
        end: SEGMENT_HEADER_LEN,
        chain: 0,
        next_batch: 0,
    };
    let Some(header) = header else {
        return Ok(scan);
    };
    scan.chain = header.prev;
    scan.next_batch = header.first_batch;
    let place = Place { node: header.node, segment: header.segment };
    while read_batch(&sectors.data, place, &mut scan) {}
    scan.tail = judge_tail(&sectors, place, &scan);
    let whole = u64::from(header.sectors) * SECTOR as u64;
    if (file.len() as u64) < whole && matches!(scan.tail, Tail::Clean | Tail::Torn { .. }) {
        let what = format!("the file ends here, and was of {whole} bytes");
        scan.tail = Tail::Damaged { offset: file.len() as u64, what };
    }
    Ok(scan)
}

/// Reads one batch at `scan.end`; false when there is none that is whole.
fn read_batch(bytes: &Bytes, place: Place, scan: &mut SegmentScan) -> bool {
    let (mut at, mut chain) = (scan.end, scan.chain);
    let mut records = Vec::new();
    loop {
        let Some(raw) = place.get(bytes, at) else {
            return false;
        };
        if raw.batch != scan.next_batch || raw.prev != chain {
            return false;
        }
        chain = raw.crc;
        at = raw.next;
        let payload = bytes.slice(raw.payload.0..raw.payload.1);
        if raw.cell != FOOTER_CELL {
            records.push(Record { cell: CellId(raw.cell), bytes: payload });
            continue;
        }
        let whole = payload.len() == 8
            && u32_at(&payload, 0) as usize == records.len()
            && u32_at(&payload, 4) == scan.chain;
        if !whole {
            return false;
        }
        scan.batches.push(ScannedBatch {
            number: scan.next_batch,
            offset: physical(scan.end) as u64,
            records,
        });
        scan.end = at;
        scan.chain = chain;
        scan.next_batch += 1;
        return true;
    }
}

/// What stands behind the last whole batch?
fn judge_tail(sectors: &Sectors, place: Place, scan: &SegmentScan) -> Tail {
    let bytes = &sectors.data;
    let damaged = |at: usize, what: String| Tail::Damaged { offset: physical(at) as u64, what };
    let mut pieces = false;
    let mut at = scan.end;
    while at < bytes.len() {
        let Some(raw) = place.get_since(bytes, at, scan.next_batch) else {
            at += 8;
            continue;
        };
        if raw.batch > scan.next_batch {
            let what = format!(
                "batch {} cannot be read but batch {} behind it can",
                scan.next_batch, raw.batch
            );
            return damaged(scan.end, what);
        }
        pieces |= raw.batch == scan.next_batch;
        at = raw.next;
    }
    if let Some(at) = first_damage(sectors, place, scan) {
        let what = format!("a record of batch {} was written and cannot be read", scan.next_batch);
        return damaged(at, what);
    }
    // Any of its sectors, not only the first: one that stayed would pass for a piece
    // of the batch that takes this number next.
    let begun = sectors.any_written(scan.end, scan.next_batch);
    match pieces || begun {
        true => Tail::Torn { offset: physical(scan.end) as u64 },
        false => Tail::Clean,
    }
}

/// The first record of the unfinished batch that cannot be read, if all of it
/// was written: then it has been damaged since.
fn first_damage(sectors: &Sectors, place: Place, scan: &SegmentScan) -> Option<usize> {
    let batch = scan.next_batch;
    let mut at = scan.end;
    let readable = |at| {
        let raw = place.get(&sectors.data, at).filter(|raw| raw.batch == batch)?;
        (raw.cell != FOOTER_CELL).then_some(raw.next)
    };
    while let Some(next) = readable(at) {
        at = next;
    }
    let head = at + RECORD_HEADER_LEN;
    if !sectors.written(at, head, batch) {
        return None;
    }
    // Its own length is to be believed if the rest of its header fits.
    let len = u32_at(sectors.data.get(at..head)?, 0) as usize;
    let ours = u64_at(&sectors.data[at..head], 8) == batch;
    let end = if ours { head.saturating_add(len) } else { head };
    (end > sectors.data.len() || sectors.written(at, end, batch)).then_some(at)
}
