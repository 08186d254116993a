//! Series of numbers over time: those of the last hours, in memory and in a log.
//!
//! **What it is**: a [`Head`] of series with compressed chunks (Gorilla, VLDB'15) and an
//! index of their labels; and a [`SeriesLog`] that makes what was appended durable, and
//! brings it back after a crash.
//!
//! **Why a crate**: it owns its format of chunks and of log records, and is not consensus:
//! each node keeps what it saw itself, and answers when there is no quorum.
//!
//! **Invariants**
//! - A series' samples ascend in time; what does not is refused, and told.
//! - The log is the journal of `synod-wal`: a torn tail is cut, a corrupt middle is an error.
//! - Each record of the log can be read with the segment before it: series are named again
//!   in each segment, so segments go when their samples are too old.
//! - Series, and bytes of their labels, are bounded by [`Limits`].
//!
//! **Must not know**: HTTP, scraping, clocks, threads.
//!
//! **Absences**: blocks on disk (what is older than the retention is dropped), native
//! histograms, exemplars, samples out of order.

mod chunk;
mod head;
mod index;
mod log;

pub use chunk::{Chunk, Corrupt};
pub use head::{Head, Limits, Refused, SeriesId, Stats};
pub use log::{Batch, Gather, Recovered, SeriesLog};
