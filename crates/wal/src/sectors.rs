//! Sectors that say which batch wrote them last.
//!
//! A loss of power in the midst of an append leaves any of its sectors written
//! and any not. Each sector ends in a stamp, the number of the batch that wrote
//! it last: an unreadable record all of whose sectors carry its batch's stamp
//! was written and has been damaged since, any other is what a crash left.
//!
//! Offsets are *logical* (into the data, without the stamps) or *physical*
//! (into the file).

use bytes::Bytes;

/// The unit that a disk writes whole.
pub const SECTOR: usize = 512;
const STAMP: usize = 4;
/// What a sector holds besides its stamp.
pub(crate) const DATA: usize = SECTOR - STAMP;

/// Where a logical offset is in the file.
pub(crate) fn physical(logical: usize) -> usize {
    logical / DATA * SECTOR + logical % DATA
}

/// How many logical bytes a file of `bytes` holds.
pub(crate) fn capacity(bytes: usize) -> usize {
    bytes / SECTOR * DATA
}

fn stamp(batch: u64) -> [u8; STAMP] {
    (batch as u32).to_le_bytes()
}

/// What to write at `physical(at)` so that `data` stands at `at`: through the
/// end of the last sector, zeros behind the data, every sector stamped.
pub(crate) fn lay_out(out: &mut Vec<u8>, at: usize, mut data: &[u8], batch: u64) {
    out.clear();
    let mut room = DATA - at % DATA;
    loop {
        let (now, rest) = data.split_at(room.min(data.len()));
        out.extend_from_slice(now);
        out.resize(out.len() + room - now.len(), 0);
        out.extend_from_slice(&stamp(batch));
        if rest.is_empty() {
            return;
        }
        (data, room) = (rest, DATA);
    }
}

/// A file taken apart.
pub(crate) struct Sectors {
    /// The data of all sectors.
    pub data: Bytes,
    stamps: Vec<u32>,
}

impl Sectors {
    pub fn read(file: &[u8]) -> Sectors {
        let mut data = Vec::with_capacity(capacity(file.len()));
        let mut stamps = Vec::with_capacity(file.len() / SECTOR);
        for sector in file.chunks(SECTOR) {
            // A piece of a sector at the end was never written by a journal.
            data.extend_from_slice(&sector[..sector.len().min(DATA)]);
            stamps.push(sector.get(DATA..SECTOR).map_or(0, |s| crate::format::u32_at(s, 0)));
        }
        Sectors { data: data.into(), stamps }
    }

    /// Whether any sector from `from` (logical) on was written by `batch`.
    pub fn any_written(&self, from: usize, batch: u64) -> bool {
        self.stamps.iter().skip(from / DATA).any(|s| *s == batch as u32)
    }

    /// Whether every sector from `from` to `to` (logical, at least one) was
    /// written by `batch` or the one after it.
    pub fn written(&self, from: usize, to: usize, batch: u64) -> bool {
        let (first, last) = (from / DATA, to.max(from + 1).saturating_sub(1) / DATA);
        let by = |s: &u32| *s == batch as u32 || *s == (batch + 1) as u32;
        self.stamps.get(first..=last).is_some_and(|all| all.iter().all(by))
    }
}
