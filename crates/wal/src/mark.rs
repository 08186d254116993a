//! Which segments a journal has, in a file beside them: so that one that is lost or emptied is
//! not taken for one that was never written.
//!
//! **Invariants**
//! - A segment is marked after its first batch is durable, and before that batch is
//!   acknowledged.
//! - A segment is dropped after the mark says that another is the first.

use crate::disk::Disk;
use crate::error::JournalError;
use crate::format::{u32_at, u64_at};
use crate::journal::io_error;
use crate::scan::segment_name;
use crate::sectors::SECTOR;
use synod_base::{crc32c_append, planted};

/// The name of the file.
pub const MARK_FILE: &str = "reached";
const MAGIC: &[u8; 8] = b"SYNODMRK";
/// Magic, node, first segment, last segment, checksum.
const LEN: usize = 36;

/// What such a file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Whose journal it is.
    pub node: u64,
    /// The oldest segment that is needed.
    pub first: u64,
    /// The last segment in which something was acknowledged; 0: none yet.
    pub reached: u64,
}

impl Mark {
    /// Reads the bytes of such a file. One that was made and never written says nothing.
    pub fn decode(bytes: &[u8], node: u64) -> Result<Mark, JournalError> {
        if bytes.len() == SECTOR && bytes.iter().all(|b| *b == 0) {
            return Ok(Mark { node, first: 0, reached: 0 });
        }
        let whole = bytes.len() == SECTOR
            && bytes.starts_with(MAGIC)
            && crc32c_append(&[&bytes[..LEN - 4]]) == u32_at(bytes, LEN - 4);
        if !whole {
            return Err(damaged(MARK_FILE.into(), "it does not say what segments there are"));
        }
        Ok(Mark { node: u64_at(bytes, 8), first: u64_at(bytes, 16), reached: u64_at(bytes, 24) })
    }

    /// Reads the mark in `disk`, whose files are `names`; makes it if there is none.
    pub(crate) fn open(
        disk: &mut impl Disk,
        names: &[String],
        node: u64,
    ) -> Result<Mark, JournalError> {
        if !names.iter().any(|name| name == MARK_FILE) {
            let making = format!("{MARK_FILE}.making");
            disk.create(&making, SECTOR as u64).map_err(io_error("creating", &making))?;
            disk.rename(&making, MARK_FILE).map_err(io_error("naming", &making))?;
            return Ok(Mark { node, first: 0, reached: 0 });
        }
        let mark =
            Mark::decode(&disk.read(MARK_FILE).map_err(io_error("reading", MARK_FILE))?, node)?;
        if mark.node != node {
            let what = format!("the journal of node {:x}, not of {node:x}", mark.node);
            return Err(JournalError::Foreign { file: MARK_FILE.into(), what });
        }
        // The sync behind its last write may have failed: see the journal's tail.
        if mark.reached > 0 || mark.first > 0 {
            mark.write(disk)?;
        }
        Ok(mark)
    }

    /// Whether something was acknowledged in this segment.
    pub fn has_reached(&self, segment: u64) -> bool {
        segment <= self.reached && !planted("journal: an emptied segment is taken for a new one")
    }

    /// Whether the first and the last of the segments are there. Those between know it of each
    /// other.
    pub fn check(&self, segments: &[u64]) -> Result<(), JournalError> {
        let needed =
            [self.first, self.reached].map(|n| (n > 0 && self.has_reached(n)).then_some(n));
        let (first, last) = (segments.first().copied(), segments.last().copied());
        match needed {
            [Some(n), _] if first.is_none_or(|first| first > n) => Err(gone(n)),
            [_, Some(n)] if last.is_none_or(|last| last < n) => Err(gone(n)),
            _ => Ok(()),
        }
    }

    /// Something in this segment is durable.
    pub(crate) fn reach(&mut self, disk: &mut impl Disk, segment: u64) -> Result<(), JournalError> {
        let first = if self.first == 0 { segment } else { self.first };
        self.set(disk, first, self.reached.max(segment))
    }

    /// This segment is to be the first.
    pub(crate) fn begin_at(
        &mut self,
        disk: &mut impl Disk,
        segment: u64,
    ) -> Result<(), JournalError> {
        self.set(disk, self.first.max(segment), self.reached)
    }

    fn set(&mut self, disk: &mut impl Disk, first: u64, reached: u64) -> Result<(), JournalError> {
        if (first, reached) == (self.first, self.reached) {
            return Ok(());
        }
        (self.first, self.reached) = (first, reached);
        self.write(disk)
    }

    fn write(self, disk: &mut impl Disk) -> Result<(), JournalError> {
        let mut bytes = MAGIC.to_vec();
        [self.node, self.first, self.reached]
            .iter()
            .for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
        bytes.extend_from_slice(&crc32c_append(&[&bytes]).to_le_bytes());
        disk.write_at(MARK_FILE, 0, &bytes).map_err(io_error("writing", MARK_FILE))?;
        disk.sync(MARK_FILE).map_err(io_error("syncing", MARK_FILE))
    }
}

fn damaged(file: String, what: &str) -> JournalError {
    JournalError::Damaged { file, offset: 0, what: what.into() }
}

fn gone(segment: u64) -> JournalError {
    damaged(segment_name(segment), "the segment is gone, and something in it was acknowledged")
}
