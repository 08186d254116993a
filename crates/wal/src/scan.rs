//! Reading a segment back, and telling a torn tail from damage.
//!
//! One append is in flight at a time, and the next begins only when it is
//! durable. So behind the last good batch `n` there may be pieces of batch
//! `n + 1` (torn by a crash, never acknowledged), but nothing of `n + 2`.

use crate::format::{FOOTER_CELL, Place, Record, SEGMENT_HEADER_LEN, SegmentHeader, u32_at};
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
    /// Where it begins in the segment.
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

/// Reads a segment's bytes; `Err` names an unknown format version.
pub fn scan_segment(bytes: Bytes) -> Result<SegmentScan, u32> {
    let header = SegmentHeader::decode(&bytes)?;
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
    while read_batch(&bytes, place, &mut scan) {}
    scan.tail = judge_tail(&bytes, place, &scan);
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
            offset: scan.end as u64,
            records,
        });
        scan.end = at;
        scan.chain = chain;
        scan.next_batch += 1;
        return true;
    }
}

/// What stands behind the last whole batch?
fn judge_tail(bytes: &[u8], place: Place, scan: &SegmentScan) -> Tail {
    let offset = scan.end as u64;
    let mut pieces = false;
    let mut at = scan.end;
    while at < bytes.len() {
        let Some(raw) = place.get(bytes, at) else {
            at += 8;
            continue;
        };
        if raw.batch > scan.next_batch {
            let what = format!(
                "batch {} cannot be read but batch {} behind it can",
                scan.next_batch, raw.batch
            );
            return Tail::Damaged { offset, what };
        }
        if raw.batch == scan.next_batch {
            if raw.cell == FOOTER_CELL {
                let what = format!(
                    "batch {} has its footer but not all of its records: it may have been \
                     acknowledged",
                    raw.batch
                );
                return Tail::Damaged { offset, what };
            }
            pieces = true;
        }
        at = raw.next;
    }
    if pieces { Tail::Torn { offset } } else { Tail::Clean }
}
