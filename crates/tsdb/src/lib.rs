//! Series of numbers over time: those of the last hours in memory and in a log, those
//! before them in blocks.
//!
//! **What it is**: a [`Head`] of series with compressed chunks (Gorilla, VLDB'15) and an
//! index of their labels, of which those that are full are in files ([`Spill`]); a
//! [`SeriesLog`] that makes what was appended durable, and brings it back after a crash,
//! with the help of these files; and [`Blocks`], in Prometheus's format, to which the head's
//! samples go when they are old enough.
//!
//! **Why a crate**: it owns its format of log records and is not consensus: each node keeps
//! what it saw itself, and answers when there is no quorum.
//!
//! **Invariants**
//! - A series' samples ascend in time; what does not is refused, and told, or kept apart
//!   until a block is written ([`Limits::out_of_order`]).
//! - A sample leaves the head, and its segment the log, when a block that is durable has it.
//! - A block appears under its name whole or not at all; nothing in it changes after.
//! - The log is the journal of `synod-wal`: a torn tail is cut, a corrupt middle is an error.
//! - Each record of the log can be read with the segment before it: series are named again
//!   in each segment, so segments go when their samples are in blocks.
//! - What is in files of full chunks is in the log too, and counts only if it fits it.
//! - Series, and bytes of their labels and chunks, are bounded by [`Limits`].
//!
//! **Must not know**: HTTP, scraping, clocks, threads.
//!
//! **Absences**: native histograms that come late (they are refused), deletion of series (but
//! that of others is honoured).

mod bits;
mod block;
mod blocks;
mod chunk;
mod chunk_file;
mod compact;
mod cut;
mod exemplars;
mod found;
mod head;
mod held;
mod histogram_chunk;
mod index;
mod late;
mod limits;
mod log;
mod native;
mod replay;
mod spill;
mod varint;

pub use block::Block;
pub use block::bytes::{Fault, FileAt, ReadAt};
pub use block::index::{ChunkRef, IndexReader, SeriesEntry};
pub use block::meta::{BlockId, BlockStats, Compaction, Meta, Parent};
pub use block::write::{Files, OutFile, RealFiles};
pub use blocks::{BlockEvent, Blocks, OnEvent, stored, united};
pub use chunk::{Chunk, Corrupt, Sealed, samples};
pub use cut::trim;
pub use exemplars::{EXEMPLAR_CHARS_MAX, Exemplar, Exemplars, NoExemplar};
pub use head::{Head, SeriesId, Stats, Taken};
pub use held::select;
pub use limits::{Limits, Refused};
pub use log::{Batch, Gather, Recovered, SeriesLog};
pub use spill::Spill;
