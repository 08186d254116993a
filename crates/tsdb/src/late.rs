//! Samples of a series that came after later ones.

use crate::chunk::{Chunk, Corrupt, Sealed, count, each};
use crate::head::Taken;
use crate::limits::Refused;
use synod_promql::Sample;

/// Samples that are kept in order before they become a chunk.
const BUFFER: usize = 32;
/// Samples of a chunk that was put together from others.
const CHUNK_SAMPLES: usize = 240;

/// See the file's header. Chunks may overlap.
#[derive(Default, Debug)]
pub(crate) struct Late {
    /// Ascending.
    buffer: Vec<Sample>,
    chunks: Vec<Sealed>,
    /// How many of the chunks the cut under way writes.
    cut: usize,
    /// Samples of buffer and chunks.
    count: usize,
}

impl Late {
    pub fn insert(&mut self, sample: Sample) -> Result<Taken, Refused> {
        let at = self.buffer.partition_point(|s| s.at < sample.at);
        match self.buffer.get(at) {
            Some(s) if s.at == sample.at && s.value.to_bits() == sample.value.to_bits() => {
                return Ok(Taken::Again);
            }
            Some(s) if s.at == sample.at => return Err(Refused::Duplicate),
            _ => self.buffer.insert(at, sample),
        }
        self.count += 1;
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
        Ok(Taken::Late)
    }

    /// Bytes that its samples take, at most.
    pub fn bytes(&self) -> usize {
        self.count * size_of::<Sample>()
    }

    fn recount(&mut self) {
        let chunks = self.chunks.iter().map(|c| count(&c.data));
        self.count = self.buffer.len() + chunks.sum::<usize>();
    }

    fn flush(&mut self) {
        self.chunks.extend(packed(std::mem::take(&mut self.buffer), i64::MAX));
    }

    /// All that is here now is written by the cut that begins. Gives the times of the
    /// chunks' ends.
    pub fn begin_cut(&mut self) -> impl Iterator<Item = &Sealed> {
        self.flush();
        self.cut = self.chunks.len();
        self.chunks.iter()
    }

    /// What the cut under way writes, of the times in `from..to`.
    pub fn of_cut(&self, from: i64, to: i64, out: &mut Vec<Sample>) -> Result<(), Corrupt> {
        within(&self.chunks[..self.cut], from, to - 1, out)
    }

    /// The cut is written: what is older than `until` of what it took goes.
    pub fn end_cut(&mut self, until: i64) {
        let later = self.chunks.split_off(self.cut);
        let mut stay = Vec::new();
        // Chunks are made here; one that cannot be read has nothing to keep.
        let _ = within(&self.chunks, until, i64::MAX, &mut stay);
        stay.sort_by_key(|s| s.at);
        stay.dedup_by_key(|s| s.at);
        self.chunks = packed(stay, i64::MAX);
        self.chunks.extend(later);
        self.cut = 0;
        self.recount();
    }

    /// Drops chunks of which all is older.
    pub fn drop_before(&mut self, oldest: i64) {
        self.chunks.retain(|c| c.last >= oldest);
        self.buffer.retain(|s| s.at >= oldest);
        // A cut that failed begins anew.
        self.cut = 0;
        self.recount();
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.chunks.is_empty()
    }

    /// Its samples in `from..=to`, in any order; but of two of one time the one that came
    /// first is first.
    pub fn samples(&self, from: i64, to: i64, out: &mut Vec<Sample>) -> Result<(), Corrupt> {
        within(&self.chunks, from, to, out)?;
        out.extend(self.buffer.iter().filter(|s| (from..=to).contains(&s.at)));
        Ok(())
    }

    /// Whether there may be samples in `from..=to`.
    pub fn overlaps(&self, from: i64, to: i64) -> bool {
        self.buffer.iter().any(|s| (from..=to).contains(&s.at))
            || self.chunks.iter().any(|c| c.first <= to && c.last >= from)
    }
}

fn within(chunks: &[Sealed], from: i64, to: i64, out: &mut Vec<Sample>) -> Result<(), Corrupt> {
    for chunk in chunks.iter().filter(|c| c.first <= to && c.last >= from) {
        each(&chunk.data, |sample| {
            if (from..=to).contains(&sample.at) {
                out.push(sample);
            }
        })?;
    }
    Ok(())
}

/// Samples of several sources as one run: ascending, of two of one time the first.
pub(crate) fn merged(mut samples: Vec<Sample>) -> Vec<Sample> {
    if !samples.is_sorted_by(|a, b| a.at < b.at) {
        samples.sort_by_key(|s| s.at);
        samples.dedup_by_key(|s| s.at);
    }
    samples
}

/// Chunks of ascending samples; none goes over a multiple of `range`.
pub(crate) fn packed(samples: Vec<Sample>, range: i64) -> Vec<Sealed> {
    let mut chunks = Vec::new();
    let mut open: Option<Chunk> = None;
    for sample in samples {
        let fits = |chunk: &Chunk| {
            chunk.len() < CHUNK_SAMPLES
                && chunk.first_at().div_euclid(range) == sample.at.div_euclid(range)
        };
        match &mut open {
            Some(chunk) if fits(chunk) => chunk.push(sample),
            _ => chunks.extend(open.replace(Chunk::new(sample)).map(Chunk::seal)),
        }
    }
    chunks.extend(open.map(Chunk::seal));
    chunks
}
