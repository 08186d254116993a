//! The bytes of a segment. See `docs/journal.md`; keep both in step.
//!
//! A segment is a header and then records, each padded to 8 bytes, laid out over
//! stamped sectors (`sectors.rs`). A batch is the records of one append, closed by
//! a footer record. All integers are little-endian, all offsets logical.

use bytes::Bytes;
use synod_base::{CellId, crc32c_append};

/// Version of the format, in every segment's header.
pub const VERSION: u32 = 2;
/// Bytes before the first record.
pub const SEGMENT_HEADER_LEN: usize = 64;
pub(crate) const RECORD_HEADER_LEN: usize = 24;
pub(crate) const FOOTER_CELL: u32 = u32::MAX;
pub(crate) const FOOTER_LEN: usize = RECORD_HEADER_LEN + 8;
const MAGIC: &[u8; 8] = b"SYNODWAL";

/// One record of one cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Whose.
    pub cell: CellId,
    /// What the cell wrote.
    pub bytes: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub node: u64,
    pub segment: u64,
    pub first_batch: u64,
    pub prev: u32,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut b = [0u8; SEGMENT_HEADER_LEN];
        b[..8].copy_from_slice(MAGIC);
        b[8..12].copy_from_slice(&VERSION.to_le_bytes());
        b[12..20].copy_from_slice(&self.node.to_le_bytes());
        b[20..28].copy_from_slice(&self.segment.to_le_bytes());
        b[28..36].copy_from_slice(&self.first_batch.to_le_bytes());
        b[36..40].copy_from_slice(&self.prev.to_le_bytes());
        let crc = crc32c_append(&[&b[..60]]);
        b[60..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// `Ok(None)`: nothing was begun here. `Err(version)`: another version.
    pub fn decode(b: &[u8]) -> Result<Option<SegmentHeader>, u32> {
        let Some(b) = b.get(..SEGMENT_HEADER_LEN) else {
            return Ok(None);
        };
        if &b[..8] != MAGIC || crc32c_append(&[&b[..60]]) != u32_at(b, 60) {
            return Ok(None);
        }
        let version = u32_at(b, 8);
        if version != VERSION {
            return Err(version);
        }
        Ok(Some(SegmentHeader {
            node: u64_at(b, 12),
            segment: u64_at(b, 20),
            first_batch: u64_at(b, 28),
            prev: u32_at(b, 36),
        }))
    }
}

/// The place that a record's checksum is bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub node: u64,
    pub segment: u64,
}

impl Place {
    fn crc(self, offset: u64, head: &[u8], payload: &[u8]) -> u32 {
        crc32c_append(&[
            &self.node.to_le_bytes(),
            &self.segment.to_le_bytes(),
            &offset.to_le_bytes(),
            head,
            payload,
        ])
    }

    /// Appends a record that will stand at `base + out.len()`; gives its checksum.
    pub fn put(
        self,
        out: &mut Vec<u8>,
        base: u64,
        batch: u64,
        prev: u32,
        cell: u32,
        payload: &[u8],
    ) -> u32 {
        let offset = base + out.len() as u64;
        let start = out.len();
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&cell.to_le_bytes());
        out.extend_from_slice(&batch.to_le_bytes());
        out.extend_from_slice(&prev.to_le_bytes());
        let crc = self.crc(offset, &out[start..], payload);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(payload);
        out.resize(start + padded(RECORD_HEADER_LEN + payload.len()), 0);
        crc
    }

    /// The record at `offset` of a segment's bytes, if its checksum holds there.
    pub fn get(self, segment: &[u8], offset: usize) -> Option<Raw> {
        let head = segment.get(offset..offset + RECORD_HEADER_LEN)?;
        let len = u32_at(head, 0) as usize;
        let from = offset + RECORD_HEADER_LEN;
        let payload = segment.get(from..from.checked_add(len)?)?;
        let crc = u32_at(head, 20);
        if self.crc(offset as u64, &head[..20], payload) != crc {
            return None;
        }
        Some(Raw {
            cell: u32_at(head, 4),
            batch: u64_at(head, 8),
            prev: u32_at(head, 16),
            crc,
            payload: (from, from + len),
            next: offset + padded(RECORD_HEADER_LEN + len),
        })
    }
}

/// A record whose own checksum holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub cell: u32,
    pub batch: u64,
    pub prev: u32,
    pub crc: u32,
    pub payload: (usize, usize),
    pub next: usize,
}

/// The size that a record of `len` payload bytes takes.
pub(crate) fn record_size(len: usize) -> usize {
    padded(RECORD_HEADER_LEN + len)
}

fn padded(len: usize) -> usize {
    (len + 7) & !7
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}
