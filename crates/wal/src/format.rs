//! The bytes of a segment. See `docs/journal.md`; keep both in step.
//!
//! A segment is a header and then records, each padded to 8 bytes, laid out over
//! stamped sectors (`sectors.rs`). A batch is the records of one append, closed by
//! a footer record. All integers are little-endian, all offsets logical.

use bytes::Bytes;
use std::fmt;
use synod_base::{CellId, crc32c_append, planted};

/// Version of the format that is written, in every segment's header.
pub const VERSION: u32 = 3;
/// The oldest version that is read.
pub const VERSION_OLDEST: u32 = 2;
/// Bytes before the first record.
pub const SEGMENT_HEADER_LEN: usize = 64;
pub(crate) const RECORD_HEADER_LEN: usize = 24;
pub(crate) const FOOTER_CELL: u32 = u32::MAX;
pub(crate) const FOOTER_LEN: usize = RECORD_HEADER_LEN + 8;
/// Bytes of a header that name a release.
const WRITER_LEN: usize = 16;
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
    pub version: u32,
    pub node: u64,
    pub segment: u64,
    pub first_batch: u64,
    pub prev: u32,
    /// Since version 3: the release of the program that began it, in ASCII.
    pub writer: [u8; WRITER_LEN],
    /// Sectors of the file, at least; 0: not known.
    pub sectors: u32,
}

/// This program's release, as headers have it.
pub(crate) fn this_release() -> [u8; WRITER_LEN] {
    let mut writer = [0; WRITER_LEN];
    let release = env!("CARGO_PKG_VERSION").bytes();
    writer.iter_mut().zip(release).for_each(|(to, from)| *to = from);
    writer
}

/// The release in a header's bytes, in words.
fn in_words(writer: &[u8]) -> String {
    let text = writer.split(|b| *b == 0).next().unwrap_or_default();
    text.iter().filter(|b| b.is_ascii_graphic()).map(|b| char::from(*b)).collect()
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut b = [0u8; SEGMENT_HEADER_LEN];
        b[..8].copy_from_slice(MAGIC);
        b[8..12].copy_from_slice(&self.version.to_le_bytes());
        b[12..20].copy_from_slice(&self.node.to_le_bytes());
        b[20..28].copy_from_slice(&self.segment.to_le_bytes());
        b[28..36].copy_from_slice(&self.first_batch.to_le_bytes());
        b[36..40].copy_from_slice(&self.prev.to_le_bytes());
        if self.version >= 3 {
            b[40..40 + WRITER_LEN].copy_from_slice(&self.writer);
        }
        b[56..60].copy_from_slice(&self.sectors.to_le_bytes());
        let crc = crc32c_append(&[&b[..60]]);
        b[60..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// `Ok(None)`: nothing was begun here.
    pub fn decode(b: &[u8]) -> Result<Option<SegmentHeader>, UnknownVersion> {
        let Some(b) = b.get(..SEGMENT_HEADER_LEN) else {
            return Ok(None);
        };
        if &b[..8] != MAGIC || crc32c_append(&[&b[..60]]) != u32_at(b, 60) {
            return Ok(None);
        }
        let version = u32_at(b, 8);
        let writer = b[40..40 + WRITER_LEN].try_into().expect("as many bytes");
        if !(VERSION_OLDEST..=VERSION).contains(&version) {
            return Err(UnknownVersion { version, writer: in_words(&b[40..40 + WRITER_LEN]) });
        }
        if version != VERSION
            && planted("journal: a segment of the older version is taken for an empty one")
        {
            return Ok(None);
        }
        Ok(Some(SegmentHeader {
            version,
            writer,
            node: u64_at(b, 12),
            segment: u64_at(b, 20),
            first_batch: u64_at(b, 28),
            prev: u32_at(b, 36),
            sectors: u32_at(b, 56),
        }))
    }

    /// Which release began it; empty: not known.
    pub fn writer(&self) -> String {
        in_words(&self.writer)
    }
}

/// A segment that this program cannot read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownVersion {
    /// Of its format.
    pub version: u32,
    /// The release that wrote it, if it says so.
    pub writer: String,
}

impl fmt::Display for UnknownVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of format version {}", self.version)?;
        if !self.writer.is_empty() {
            write!(f, ", written by synod {}", self.writer)?;
        }
        write!(f, "; this program reads {VERSION_OLDEST} to {VERSION}")
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
        self.get_since(segment, offset, 0)
    }

    /// The same, if it is of a batch from `since` on: nothing else costs a checksum.
    pub fn get_since(self, segment: &[u8], offset: usize, since: u64) -> Option<Raw> {
        let head = segment.get(offset..offset + RECORD_HEADER_LEN)?;
        if u64_at(head, 8) < since {
            return None;
        }
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
