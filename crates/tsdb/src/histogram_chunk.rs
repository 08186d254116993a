//! A run of histograms in few bits, in the codes of Prometheus's chunks of integer and of
//! float histograms. All of a chunk have the same buckets, which stand at its beginning; then
//! come, of counts that are whole, the changes of their changes, and of others the bits that
//! differ. Within a chunk of counters no counter is reset.

use crate::bits::{Bits, Reader, Window};
use crate::chunk::{Corrupt, Sealed};
use std::sync::Arc;
use synod_promql::{
    BUCKETS_MAX, CUSTOM, Histogram, HistogramSample, ResetHint, SCHEMAS, Sample, Span, is_stale,
};

/// The encoding of a chunk whose counts are whole numbers.
pub(crate) const WHOLE: u8 = 2;
/// The encoding of a chunk of any counts.
pub(crate) const FLOAT: u8 = 3;
/// Samples of a chunk, at most; fewer if they take many bytes.
const SAMPLES_MAX: usize = 240;
const SAMPLES_MIN: usize = 10;
const BYTES: usize = 2_048;
/// Bytes before a chunk's bits: the count of samples, and what is known of resets.
const HEAD: usize = 3;
/// Whole numbers up to here are themselves as floats.
const WHOLE_MAX: f64 = (1u64 << 53) as f64;
/// The finest schema that there will be; finer ones than ours are made coarser.
const FINEST: i64 = 52;

/// What all histograms of a chunk have alike.
#[derive(Clone, PartialEq, Debug)]
struct Layout {
    schema: i32,
    zero_threshold: f64,
    bounds: Vec<f64>,
    positive: Vec<i32>,
    negative: Vec<i32>,
}

/// A number of a chunk, with what is needed to write the next.
#[derive(Clone, Copy, Debug, Default)]
struct Field {
    /// Of whole numbers: the last, and by how much it was more than the one before.
    last: i64,
    change: i64,
    /// Of others.
    value: f64,
    window: Window,
}

impl Field {
    fn put(&mut self, bits: &mut Bits, kind: u8, value: f64) {
        if kind == FLOAT {
            self.window.put(bits, self.value, value);
            self.value = value;
            return;
        }
        let change = (value as i64).wrapping_sub(self.last);
        bits.signed(change.wrapping_sub(self.change));
        (self.last, self.change) = (value as i64, change);
    }

    fn get(&mut self, read: &mut Reader<'_>, kind: u8) -> Result<(), Corrupt> {
        if kind == FLOAT {
            self.value = self.window.get(read, self.value)?;
            return Ok(());
        }
        self.change = self.change.wrapping_add(read.signed()?);
        self.last = self.last.wrapping_add(self.change);
        Ok(())
    }
}

/// A chunk that is appended to.
#[derive(Clone, Debug)]
pub(crate) struct HistogramChunk {
    kind: u8,
    bits: Bits,
    layout: Layout,
    first_at: i64,
    last_at: i64,
    last: Arc<Histogram>,
    distance: i64,
    sum: Window,
    /// Of all, of the zero bucket, of the positive and of the negative buckets.
    fields: Vec<Field>,
}

fn is_whole(h: &Histogram) -> bool {
    let whole = |v: f64| (0.0..=WHOLE_MAX).contains(&v) && v.fract() == 0.0;
    let buckets = h.positive.iter().chain(&h.negative);
    whole(h.count) && whole(h.zero_count) && buckets.into_iter().all(|(_, count)| whole(*count))
}

fn union(layout: &[i32], buckets: &[(i32, f64)]) -> Vec<i32> {
    let mut all: Vec<i32> = layout.iter().copied().chain(buckets.iter().map(|b| b.0)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The counts of these buckets, zero where there is none.
fn counts<'a>(indices: &'a [i32], buckets: &'a [(i32, f64)]) -> impl Iterator<Item = f64> + 'a {
    let mut next = buckets.iter().peekable();
    indices.iter().map(move |i| next.next_if(|b| b.0 == *i).map_or(0.0, |b| b.1))
}

impl HistogramChunk {
    /// A chunk with its first sample.
    pub fn new(at: i64, first: Arc<Histogram>) -> HistogramChunk {
        let layout = Layout {
            schema: first.schema,
            zero_threshold: first.zero_threshold,
            bounds: first.bounds.clone(),
            positive: union(&[], &first.positive),
            negative: union(&[], &first.negative),
        };
        let kind = if is_whole(&first) { WHOLE } else { FLOAT };
        HistogramChunk::with(kind, layout, at, first)
    }

    fn with(kind: u8, layout: Layout, at: i64, first: Arc<Histogram>) -> HistogramChunk {
        let flags = match first.hint {
            ResetHint::Unknown => 0,
            ResetHint::NoReset => 1,
            ResetHint::Reset => 2,
            ResetHint::Gauge => 3,
        };
        let mut bits = Bits::begin(&[0, 1, flags << 6]);
        layout.put(&mut bits);
        bits.signed(at);
        let mut chunk = HistogramChunk {
            kind,
            bits,
            layout,
            first_at: at,
            last_at: at,
            last: first.clone(),
            distance: 0,
            sum: Window::NONE,
            fields: Vec::new(),
        };
        let values: Vec<f64> = chunk.layout.values(kind, &first).collect();
        for (place, value) in values.into_iter().enumerate() {
            // The sum stands behind the two counts.
            if place == 2 {
                chunk.bits.put(first.sum.to_bits(), 64);
            }
            match (kind, place) {
                (FLOAT, _) => chunk.bits.put(value.to_bits(), 64),
                (_, 0 | 1) => chunk.bits.unsigned(value as u64),
                _ => chunk.bits.signed(value as i64),
            }
            let field = Field { last: value as i64, change: 0, value, window: Window::NONE };
            chunk.fields.push(field);
        }
        if chunk.fields.len() == 2 {
            chunk.bits.put(first.sum.to_bits(), 64);
        }
        chunk
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        crate::chunk::count(&self.bits.bytes)
    }

    pub fn first_at(&self) -> i64 {
        self.first_at
    }

    pub fn last_at(&self) -> i64 {
        self.last_at
    }

    pub fn last(&self) -> &Arc<Histogram> {
        &self.last
    }

    pub fn kind(&self) -> u8 {
        self.kind
    }

    pub fn data(&self) -> &[u8] {
        &self.bits.bytes
    }

    /// Bytes of memory, about.
    pub fn memory(&self) -> usize {
        self.bits.bytes.capacity()
            + self.fields.capacity() * size_of::<Field>()
            + self.last.weight() * size_of::<Sample>()
    }

    /// Nothing more will come.
    pub fn seal(self) -> (u8, Sealed) {
        let data = self.bits.bytes.into_boxed_slice();
        (self.kind, Sealed { first: self.first_at, last: self.last_at, data })
    }

    /// Appends a later one, if it belongs into this chunk.
    pub fn push(&mut self, at: i64, next: &Arc<Histogram>) -> Result<bool, Corrupt> {
        let gauge = |h: &Histogram| h.hint == ResetHint::Gauge;
        let belongs = next.schema == self.layout.schema
            && next.zero_threshold == self.layout.zero_threshold
            && next.bounds == self.layout.bounds
            && gauge(next) == gauge(&self.last)
            && next.hint != ResetHint::Reset
            && (self.kind == FLOAT || is_whole(next))
            && self.len() < SAMPLES_MAX
            && (self.len() < SAMPLES_MIN || self.bits.bytes.len() < BYTES);
        if !belongs || !gauge(next) && next.is_reset_since(&self.last) {
            return Ok(false);
        }
        let positive = union(&self.layout.positive, &next.positive);
        let negative = union(&self.layout.negative, &next.negative);
        let wider = (positive.len(), negative.len())
            != (self.layout.positive.len(), self.layout.negative.len());
        if wider {
            self.widen(positive, negative)?;
        }
        self.append(at, next);
        Ok(true)
    }

    /// Writes all again, with more buckets.
    fn widen(&mut self, positive: Vec<i32>, negative: Vec<i32>) -> Result<(), Corrupt> {
        let layout = Layout { positive, negative, ..self.layout.clone() };
        let mut all = Vec::with_capacity(self.len());
        let flags = self.bits.bytes[2];
        each(self.kind, self.data(), |sample| all.push(sample))?;
        let mut all = all.into_iter();
        let Some(Decoded::Histogram(first)) = all.next() else { return Err(Corrupt) };
        let mut chunk = HistogramChunk::with(self.kind, layout, first.at, first.value);
        chunk.bits.bytes[2] = flags;
        for sample in all {
            let Decoded::Histogram(sample) = sample else { return Err(Corrupt) };
            chunk.append(sample.at, &sample.value);
        }
        chunk.last = self.last.clone();
        *self = chunk;
        Ok(())
    }

    fn append(&mut self, at: i64, next: &Arc<Histogram>) {
        let distance = at.wrapping_sub(self.last_at);
        self.bits.signed(distance.wrapping_sub(self.distance));
        for (place, value) in self.layout.values(self.kind, next).enumerate() {
            self.fields[place].put(&mut self.bits, self.kind, value);
            if place == 1 {
                self.sum.put(&mut self.bits, self.last.sum, next.sum);
            }
        }
        (self.last_at, self.last, self.distance) = (at, next.clone(), distance);
        let count = self.len() as u16 + 1;
        self.bits.bytes[..2].copy_from_slice(&count.to_be_bytes());
    }
}

impl Layout {
    fn put(&self, bits: &mut Bits) {
        put_zero_threshold(bits, self.zero_threshold);
        bits.signed(i64::from(self.schema));
        for indices in [&self.positive, &self.negative] {
            let buckets: Vec<(i32, f64)> = indices.iter().map(|i| (*i, 0.0)).collect();
            let spans = Histogram::spans(&buckets);
            bits.unsigned(spans.len() as u64);
            for span in spans {
                bits.unsigned(u64::from(span.length));
                bits.signed(i64::from(span.offset));
            }
        }
        if self.schema == CUSTOM {
            bits.unsigned(self.bounds.len() as u64);
            self.bounds.iter().for_each(|bound| put_bound(bits, *bound));
        }
    }

    /// `None`: of a schema that is not known.
    fn get(read: &mut Reader<'_>) -> Result<Option<Layout>, Corrupt> {
        let zero_threshold = match read.get(8)? {
            0 => 0.0,
            255 => f64::from_bits(read.get(64)?),
            exponent => f64::exp2(exponent as f64 - 244.0),
        };
        let schema = read.signed()?;
        if !(i64::from(*SCHEMAS.start())..=FINEST).contains(&schema) && schema != i64::from(CUSTOM)
        {
            return Ok(None);
        }
        let (positive, negative) = (indices(read)?, indices(read)?);
        let mut bounds = Vec::new();
        if schema == i64::from(CUSTOM) {
            let count = read.unsigned()?;
            if count > BUCKETS_MAX as u64 {
                return Err(Corrupt);
            }
            for _ in 0..count {
                bounds.push(match read.unsigned()? {
                    0 => f64::from_bits(read.get(64)?),
                    thousandths => (thousandths - 1) as f64 / 1_000.0,
                });
            }
        }
        Ok(Some(Layout { schema: schema as i32, zero_threshold, bounds, positive, negative }))
    }

    /// The numbers of a histogram, as a chunk has them: of whole numbers that of a bucket is
    /// how many more it has than the one before it.
    fn values<'a>(&'a self, kind: u8, h: &'a Histogram) -> impl Iterator<Item = f64> + 'a {
        let differences = move |counts: Vec<f64>| {
            let mut before = 0.0;
            counts.into_iter().map(move |count| match kind {
                FLOAT => count,
                _ => count - std::mem::replace(&mut before, count),
            })
        };
        let positive = differences(counts(&self.positive, &h.positive).collect());
        let negative = differences(counts(&self.negative, &h.negative).collect());
        [h.count, h.zero_count].into_iter().chain(positive).chain(negative)
    }

    fn histogram(&self, kind: u8, hint: ResetHint, sum: f64, fields: &[Field]) -> Histogram {
        let value = |field: &Field| if kind == FLOAT { field.value } else { field.last as f64 };
        let buckets = |indices: &[i32], fields: &[Field]| -> Vec<(i32, f64)> {
            let mut count = 0.0;
            let each = indices.iter().zip(fields).map(|(index, field)| {
                count = if kind == FLOAT { field.value } else { count + field.last as f64 };
                (*index, count)
            });
            each.collect()
        };
        let (positive, negative) = fields[2..].split_at(self.positive.len());
        let histogram = Histogram {
            hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: value(&fields[1]),
            count: value(&fields[0]),
            sum,
            positive: buckets(&self.positive, positive),
            negative: buckets(&self.negative, negative),
            bounds: self.bounds.clone(),
        };
        histogram.reduced(*SCHEMAS.end())
    }
}

fn put_zero_threshold(bits: &mut Bits, threshold: f64) {
    if threshold == 0.0 {
        return bits.put(0, 8);
    }
    // Powers of two from 2^-243 to 2^10 are told by their exponent.
    let exponent = (threshold.to_bits() >> 52) as i64 - 1_023;
    if f64::exp2(exponent as f64) == threshold && (-243..=10).contains(&exponent) {
        return bits.put((exponent + 244) as u64, 8);
    }
    bits.put(255, 8);
    bits.put(threshold.to_bits(), 64);
}

fn put_bound(bits: &mut Bits, bound: f64) {
    let thousandths = (bound * 1_000.0).round();
    if (0.0..=33_554_430.0).contains(&thousandths) && thousandths / 1_000.0 == bound {
        return bits.unsigned(thousandths as u64 + 1);
    }
    bits.put(0, 1);
    bits.put(bound.to_bits(), 64);
}

fn indices(read: &mut Reader<'_>) -> Result<Vec<i32>, Corrupt> {
    let count = read.unsigned()?;
    let mut spans = Vec::new();
    for _ in 0..count {
        let length = u32::try_from(read.unsigned()?).map_err(|_| Corrupt)?;
        let offset = i32::try_from(read.signed()?).map_err(|_| Corrupt)?;
        spans.push(Span { offset, length });
    }
    Histogram::indices(spans).map_err(|_| Corrupt)
}

/// A sample of a chunk.
pub(crate) enum Decoded {
    Histogram(HistogramSample),
    /// The series ended then.
    End(i64),
}

/// Hands out the samples of a chunk's bytes; says whether its schema is known.
pub(crate) fn each(kind: u8, data: &[u8], mut take: impl FnMut(Decoded)) -> Result<bool, Corrupt> {
    let count = crate::chunk::count(data);
    if data.len() < HEAD {
        return Err(Corrupt);
    }
    if count == 0 {
        return Ok(true);
    }
    let flags = data[2] >> 6;
    let mut read = Reader::at(data, HEAD);
    let Some(layout) = Layout::get(&mut read)? else { return Ok(false) };
    let mut at = read.signed()?;
    let mut fields = vec![Field::default(); 2 + layout.positive.len() + layout.negative.len()];
    let (mut sum, mut window, mut distance) = (0.0, Window::default(), 0i64);
    for number in 0..count {
        if number > 0 {
            distance = distance.wrapping_add(read.signed()?);
            at = at.wrapping_add(distance);
        }
        for (place, field) in fields.iter_mut().enumerate() {
            match (number, kind, place) {
                (1.., ..) => field.get(&mut read, kind)?,
                (0, FLOAT, _) => field.value = f64::from_bits(read.get(64)?),
                (0, _, 0 | 1) => field.last = read.unsigned()? as i64,
                _ => field.last = read.signed()?,
            }
            if place == 1 {
                sum = match number {
                    0 => f64::from_bits(read.get(64)?),
                    _ => window.get(&mut read, sum)?,
                };
                // Nothing is written of the buckets then.
                if is_stale(sum) && number > 0 {
                    break;
                }
            }
        }
        if is_stale(sum) {
            take(Decoded::End(at));
            continue;
        }
        let hint = match (flags, number) {
            (3, _) => ResetHint::Gauge,
            (_, 1..) => ResetHint::NoReset,
            (2, _) => ResetHint::Reset,
            _ => ResetHint::Unknown,
        };
        let value = Arc::new(layout.histogram(kind, hint, sum, &fields));
        take(Decoded::Histogram(HistogramSample { at, value }));
    }
    Ok(true)
}
