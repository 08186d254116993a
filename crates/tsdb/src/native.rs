//! The histograms of a series in the head, beside its numbers. Their chunks stay in memory
//! until they are in a block. They are taken in order only.

use crate::chunk::{Corrupt, Sealed};
use crate::head::{Entry, Head, SeriesId, Taken};
use crate::held::Held;
use crate::histogram_chunk::{Decoded, FLOAT, HistogramChunk, WHOLE, each};
use crate::limits::Refused;
use std::sync::Arc;
use synod_base::codec::{Malformed, Reader, put_varint};
use synod_promql::{Histogram, HistogramSample, ResetHint, STALE, Sample};

/// A chunk of histograms that is read, with its encoding.
pub(crate) type Coded = (u8, Held);

/// See the file's header.
#[derive(Debug, Default)]
pub(crate) struct Native {
    open: Option<HistogramChunk>,
    /// Oldest first, with their encodings.
    sealed: Vec<(u8, Sealed)>,
}

impl Native {
    pub fn first_at(&self) -> Option<i64> {
        let open = self.open.as_ref().map(HistogramChunk::first_at);
        self.sealed.first().map(|(_, c)| c.first).or(open)
    }

    pub fn last_at(&self) -> Option<i64> {
        let open = self.open.as_ref().map(HistogramChunk::last_at);
        open.or(self.sealed.last().map(|(_, c)| c.last))
    }

    /// How many chunks, and bytes of memory that they take.
    pub fn size(&self) -> (usize, usize) {
        let sealed = self.sealed.iter().map(|(_, c)| c.data.len()).sum::<usize>();
        let open = self.open.as_ref().map_or(0, HistogramChunk::memory);
        (self.sealed.len() + usize::from(self.open.is_some()), sealed + open)
    }

    /// What comes next goes into another chunk.
    fn close(&mut self) {
        self.sealed.extend(self.open.take().map(HistogramChunk::seal));
    }

    fn push(&mut self, at: i64, histogram: &Arc<Histogram>, block: i64) {
        if let Some(open) = &mut self.open
            && open.first_at() >= block
            && open.push(at, histogram) == Ok(true)
        {
            return;
        }
        self.close();
        self.open = Some(HistogramChunk::new(at, histogram.clone()));
    }

    /// What is known of a reset before the next: what its sender says of one counts; that
    /// there was none does not, since something between may be lost.
    fn hinted(&self, mut next: Arc<Histogram>) -> Arc<Histogram> {
        if matches!(next.hint, ResetHint::Gauge | ResetHint::Reset) {
            return next;
        }
        let before = self.open.as_ref().map(HistogramChunk::last);
        let unknown = Histogram { hint: ResetHint::Unknown, ..Histogram::clone(&next) };
        let hint = match before {
            Some(before) if unknown.is_reset_since(before) => ResetHint::Reset,
            Some(_) => ResetHint::NoReset,
            None => ResetHint::Unknown,
        };
        if next.hint != hint {
            next = Arc::new(Histogram { hint, ..unknown });
        }
        next
    }

    /// Copies of the chunks that lie in `from..=to`, or whole within it.
    pub fn chunks(&self, from: i64, to: i64, whole: bool) -> Vec<Coded> {
        let open = self.open.iter().map(|c| (c.kind(), c.first_at(), c.last_at(), c.data()));
        let sealed = self.sealed.iter().map(|(kind, c)| (*kind, c.first, c.last, &*c.data));
        let inside = |first: i64, last: i64| match whole {
            true => first >= from && last <= to,
            false => first <= to && last >= from,
        };
        let all = sealed.chain(open).filter(|(_, first, last, _)| inside(*first, *last));
        all.map(|(kind, first, last, data)| (kind, Held::new(first, last, data))).collect()
    }

    /// Whether there may be samples in `from..=to`.
    pub fn overlaps(&self, from: i64, to: i64) -> bool {
        let open = self.open.iter().any(|c| c.first_at() <= to && c.last_at() >= from);
        open || self.sealed.iter().any(|(_, c)| c.first <= to && c.last >= from)
    }

    /// Where its chunks begin.
    pub fn firsts(&self) -> impl Iterator<Item = i64> + '_ {
        let open = self.open.iter().map(HistogramChunk::first_at);
        self.sealed.iter().map(|(_, c)| c.first).chain(open)
    }

    /// Drops chunks of which all is older. Gives how many, and bytes, are gone.
    pub fn trim(&mut self, until: i64) -> (usize, usize) {
        let before = self.size();
        self.sealed.retain(|(_, c)| c.last >= until);
        self.open.take_if(|c| c.last_at() < until);
        let after = self.size();
        (before.0 - after.0, before.1 - after.1)
    }
}

impl Entry {
    /// The newest sample's time of either kind, late ones not counted.
    fn last_at(&self) -> Option<i64> {
        let open = self.open.as_ref().map(|c| c.last().at);
        let number = open.or(self.sealed.last().map(|c| c.last));
        number.max(self.native.as_ref().and_then(|native| native.last_at()))
    }

    /// Before a number is appended to a series that has histograms. Gives how many bytes of
    /// memory are free by that.
    pub(crate) fn before_number(&mut self, at: i64) -> Result<usize, Refused> {
        if self.open.is_none() && self.last_at().is_some_and(|last| at <= last) {
            return Err(Refused::OutOfOrder);
        }
        if let Some(native) = &mut self.native {
            if native.last_at().is_some_and(|last| at <= last) {
                return Err(Refused::OutOfOrder);
            }
            // Chunks of one series are not to overlap.
            let before = native.size().1;
            native.close();
            return Ok(before - native.size().1);
        }
        Ok(0)
    }
}

impl Head {
    /// Appends a histogram. One that comes late is refused.
    pub fn append_histogram(
        &mut self,
        id: SeriesId,
        at: i64,
        histogram: &Arc<Histogram>,
    ) -> Result<Taken, Refused> {
        let (bound, block) = (self.in_order_from(), self.limits().block_of(at));
        let full = self.is_full();
        let entry = self.entry_mut(id).ok_or(Refused::Gone)?;
        let last = entry.last_at();
        let native = entry.native.get_or_insert_default();
        if last == Some(at) {
            let same =
                native.open.as_ref().is_some_and(|c| c.last_at() == at && c.last().same(histogram));
            return if same { Ok(Taken::Again) } else { Err(Refused::Duplicate) };
        }
        if at < bound {
            return Err(Refused::OutOfBounds);
        }
        if last.is_some_and(|last| at < last) {
            return Err(Refused::LateHistogram);
        }
        if let Some(most) = full {
            return Err(Refused::Full(most));
        }
        // Chunks of one series are not to overlap.
        let closed = entry.open.take();
        let before = native.size();
        let histogram = native.hinted(histogram.clone());
        native.push(at, &histogram, block);
        let after = native.size();
        let freed = closed.as_ref().map_or(0, |c| c.capacity());
        let sealed = closed.map(|c| Held::from(c.seal()));
        let grown = sealed.as_ref().map_or(0, Held::memory);
        entry.sealed.extend(sealed);
        self.grow(at, after.0 - before.0, after.1 + grown, before.1 + freed);
        Ok(Taken::InOrder)
    }
}

/// The samples of chunks of histograms in `from..=to`; where the series ended goes to the
/// numbers. Says whether all could be read.
pub(crate) fn read(
    chunks: &[(u8, &[u8])],
    (from, to): (i64, i64),
    histograms: &mut Vec<HistogramSample>,
    numbers: &mut Vec<Sample>,
) -> Result<bool, Corrupt> {
    let mut known = true;
    for (kind, data) in chunks {
        known &= each(*kind, data, |sample| match sample {
            Decoded::Histogram(h) if (from..=to).contains(&h.at) => histograms.push(h),
            Decoded::End(at) if (from..=to).contains(&at) => {
                numbers.push(Sample { at, value: STALE });
            }
            _ => {}
        })?;
    }
    Ok(known)
}

/// Whether an encoding is one of histograms.
pub(crate) fn is_native(encoding: u8) -> bool {
    encoding == WHOLE || encoding == FLOAT
}

/// Histograms of several sources as one run: ascending, of two of one time the first. What
/// was known of resets is not known any more where they were put together.
pub(crate) fn merged(mut all: Vec<HistogramSample>) -> Vec<HistogramSample> {
    if !all.is_sorted_by(|a, b| a.at < b.at) {
        all.sort_by_key(|h| h.at);
        all.dedup_by_key(|h| h.at);
        for sample in &mut all {
            if sample.value.hint == ResetHint::NoReset {
                let value = Histogram::clone(&sample.value);
                sample.value = Arc::new(Histogram { hint: ResetHint::Unknown, ..value });
            }
        }
    }
    all
}

/// Chunks of ascending histograms, with their encodings.
pub(crate) fn packed(histograms: &[HistogramSample]) -> Vec<(u8, Sealed)> {
    let mut native = Native::default();
    for sample in histograms {
        native.push(sample.at, &native.hinted(sample.value.clone()), i64::MIN);
    }
    native.close();
    native.sealed
}

/// As the log has one.
pub(crate) fn put(out: &mut Vec<u8>, h: &Histogram) {
    let zigzag = |v: i32| u64::from(((v << 1) ^ (v >> 31)) as u32);
    out.push(match h.hint {
        ResetHint::Unknown => 0,
        ResetHint::NoReset => 1,
        ResetHint::Reset => 2,
        ResetHint::Gauge => 3,
    });
    put_varint(out, zigzag(h.schema));
    for v in [h.zero_threshold, h.zero_count, h.count, h.sum] {
        put_number(out, v);
    }
    put_varint(out, h.bounds.len() as u64);
    h.bounds.iter().for_each(|bound| put_number(out, *bound));
    for buckets in [&h.positive, &h.negative] {
        put_varint(out, buckets.len() as u64);
        let mut before = 0;
        for (index, count) in buckets {
            put_varint(out, zigzag(index.wrapping_sub(before)));
            put_number(out, *count);
            before = *index;
        }
    }
}

/// Its bytes with the lowest ones left out that are zero, and before them how many are left.
fn put_number(out: &mut Vec<u8>, v: f64) {
    let len = 8 - v.to_bits().trailing_zeros() as usize / 8;
    out.push(len as u8);
    out.extend_from_slice(&v.to_bits().to_be_bytes()[..len]);
}

fn get_number(r: &mut Reader) -> Result<f64, Malformed> {
    let mut bits = 0;
    for place in (0..8).rev().take(usize::from(r.u8("length")?)) {
        bits |= u64::from(r.u8("number")?) << (8 * place);
    }
    Ok(f64::from_bits(bits))
}

/// Reads one of the log.
pub(crate) fn get(r: &mut Reader) -> Result<Histogram, Malformed> {
    let unzigzag = |raw: u64| (raw as u32 >> 1) as i32 ^ -((raw & 1) as i32);
    let mut h = Histogram {
        hint: match r.u8("reset")? {
            1 => ResetHint::NoReset,
            2 => ResetHint::Reset,
            3 => ResetHint::Gauge,
            _ => ResetHint::Unknown,
        },
        schema: unzigzag(r.varint("schema")?),
        zero_threshold: get_number(r)?,
        zero_count: get_number(r)?,
        count: get_number(r)?,
        sum: get_number(r)?,
        ..Histogram::default()
    };
    for _ in 0..r.count("bounds")? {
        h.bounds.push(get_number(r)?);
    }
    for buckets in [&mut h.positive, &mut h.negative] {
        let mut index = 0i32;
        for _ in 0..r.count("buckets")? {
            index = index.wrapping_add(unzigzag(r.varint("bucket")?));
            buckets.push((index, get_number(r)?));
        }
    }
    Ok(h)
}

#[cfg(test)]
mod tests;
