//! The journal: what a node must remember before it answers. One journal
//! serves all cells of a node, so one fsync serves them all (group commit).
//!
//! **Why a crate**: the file format and its recovery rules stand alone; the
//! page `docs/journal.md` describes the bytes.
//!
//! **Invariants**
//! - A record is returned by recovery only if its checksum holds for *this*
//!   place (node, segment, offset) and it follows its predecessor.
//! - A batch counts only with its footer: an append is all or nothing.
//! - [`Journal::append`] returns only after the data are durable; after an
//!   error the journal refuses everything (a failed fsync is never retried).
//! - A torn tail is cut; a bad record with a later valid batch behind it is
//!   [`JournalError::Damaged`], never skipped.
//! - So is a segment in which something was acknowledged and that is gone, empty or cut
//!   short: a mark beside the segments tells how far the journal had come.
//!
//! **Must not know**: what a record means, what consensus is, threads, and
//! which file system is beneath ([`Disk`]).

mod disk;
mod error;
mod format;
mod journal;
mod mark;
mod retention;
mod scan;
mod sectors;
#[cfg(test)]
mod tests;

pub use disk::{Disk, MemDisk};
pub use error::JournalError;
pub use format::{Record, SEGMENT_HEADER_LEN, UnknownVersion, VERSION, VERSION_OLDEST};
pub use journal::{Journal, Options, Recovery};
pub use mark::{MARK_FILE, Mark};
pub use retention::Retention;
pub use scan::{ScannedBatch, SegmentScan, Tail, scan_segment, segment_name};
pub use sectors::SECTOR;
