//! Native histograms: how many observations lie in which bucket, where the bounds of the
//! buckets grow by a constant factor, or are given.
//!
//! Buckets are held as pairs of an index and a count; spans, which say which indices follow
//! one another, are a matter of what is written (see [`Histogram::spans`]).

mod arithmetic;
mod estimate;
mod text;

pub use arithmetic::Unlike;
pub use text::read as read_histogram;

use std::fmt;
use std::sync::Arc;

/// The schema of buckets with bounds of their own.
pub const CUSTOM: i32 = -53;
/// The schemas of buckets that grow by 2^(2^-schema).
pub const SCHEMAS: std::ops::RangeInclusive<i32> = -4..=8;
/// Buckets of a histogram from outside, at most.
pub const BUCKETS_MAX: usize = 10_000;

/// What is known of a counter's reset between a histogram and the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ResetHint {
    /// Nothing.
    #[default]
    Unknown,
    /// There was one.
    Reset,
    /// There was none.
    NoReset,
    /// It is no counter.
    Gauge,
}

/// Counts of observations in buckets; see the file's header.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Histogram {
    /// Whether it was reset.
    pub hint: ResetHint,
    /// How fine the buckets are: bucket `i` ends at 2^(i × 2^-schema); or [`CUSTOM`].
    pub schema: i32,
    /// Observations whose size is at most this are in the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// Observations in all.
    pub count: f64,
    /// Sum of all observations.
    pub sum: f64,
    /// Buckets of positive values, or all custom ones: indices and counts, ascending.
    pub positive: Vec<(i32, f64)>,
    /// Buckets of negative values, likewise, away from zero.
    pub negative: Vec<(i32, f64)>,
    /// Upper bounds of custom buckets, ascending; one without a bound follows.
    pub bounds: Vec<f64>,
}

/// A histogram and when: Unix time, ms.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSample {
    /// When.
    pub at: i64,
    /// What.
    pub value: Arc<Histogram>,
}

/// Observations between two bounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bucket {
    /// Where it begins.
    pub lower: f64,
    /// Where it ends.
    pub upper: f64,
    /// Whether what equals the lower bound is in it.
    pub lower_within: bool,
    /// Whether what equals the upper bound is in it.
    pub upper_within: bool,
    /// How many observations.
    pub count: f64,
}

/// Buckets whose indices follow one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Of the first one its index; of others how many are left out before.
    pub offset: i32,
    /// How many buckets.
    pub length: u32,
}

/// Why something from outside is no histogram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoHistogram(pub String);

impl fmt::Display for NoHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoHistogram {}

fn no<T>(why: impl Into<String>) -> Result<T, NoHistogram> {
    Err(NoHistogram(why.into()))
}

/// Where a bucket ends.
pub(crate) fn bound(index: i32, schema: i32) -> f64 {
    if schema <= 0 {
        let exponent = i64::from(index) << -schema;
        // The last one before infinity has all numbers that there are.
        return if exponent == 1_024 { f64::MAX } else { power(exponent) };
    }
    let exponent = i64::from(index >> schema);
    let part = index & ((1 << schema) - 1);
    if part == 0 && exponent == 1_024 {
        return f64::MAX;
    }
    let fraction = (f64::from(part) / f64::from(1 << schema)).exp2();
    fraction * power(exponent)
}

fn power(exponent: i64) -> f64 {
    f64::exp2(exponent.clamp(-2_000, 2_000) as f64)
}

impl Histogram {
    /// Whether its buckets have bounds of their own.
    pub fn is_custom(&self) -> bool {
        self.schema == CUSTOM
    }

    /// How many buckets it has, the zero bucket not counted.
    pub fn len(&self) -> usize {
        self.positive.len() + self.negative.len()
    }

    /// Whether it has no buckets.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many samples of a number take as much memory.
    pub fn weight(&self) -> usize {
        8 + self.len() + self.bounds.len() / 2
    }

    /// Whether it says that its series ended.
    pub fn is_stale(&self) -> bool {
        crate::is_stale(self.sum)
    }

    /// Whether it could have been observed: what is from outside is checked.
    pub fn check(&self) -> Result<(), NoHistogram> {
        if !SCHEMAS.contains(&self.schema) && !self.is_custom() {
            return no(format!("the schema {} is not known", self.schema));
        }
        if self.len() + self.bounds.len() > BUCKETS_MAX {
            let count = self.len() + self.bounds.len();
            return no(format!("{count} buckets and bounds; the limit is {BUCKETS_MAX}"));
        }
        for buckets in [&self.positive, &self.negative] {
            if !buckets.is_sorted_by(|a, b| a.0 < b.0) {
                return no("the buckets are not in order");
            }
        }
        if self.is_custom() {
            self.check_custom()?;
        } else if !self.bounds.is_empty() {
            return no("bounds of custom buckets beside a schema of exponential ones");
        }
        if !(self.zero_threshold >= 0.0 && self.zero_threshold.is_finite()) {
            return no(format!("the zero bucket cannot be {} wide", self.zero_threshold));
        }
        let counts = self.positive.iter().chain(&self.negative).map(|(_, count)| *count);
        let all = counts.chain([self.zero_count]);
        if self.hint != ResetHint::Gauge && all.chain([self.count]).any(|count| count < 0.0) {
            return no("a bucket has fewer than no observations");
        }
        self.check_count()
    }

    fn check_custom(&self) -> Result<(), NoHistogram> {
        let ascending = self.bounds.is_sorted_by(|a, b| a < b);
        if !ascending || self.bounds.iter().any(|bound| !bound.is_finite()) {
            return no("the bounds of custom buckets are not ascending numbers");
        }
        let last = self.positive.last().map_or(0, |(index, _)| *index);
        let first = self.positive.first().map_or(0, |(index, _)| *index);
        if first < 0 || last as usize > self.bounds.len() {
            return no("a custom bucket has no bound");
        }
        if !self.negative.is_empty() || self.zero_count != 0.0 || self.zero_threshold != 0.0 {
            return no("custom buckets have no part for negative values or zero");
        }
        Ok(())
    }

    /// Observations of NaN are in no bucket; else the buckets have all that there are.
    fn check_count(&self) -> Result<(), NoHistogram> {
        let counts = self.positive.iter().chain(&self.negative).map(|(_, count)| *count);
        let total: f64 = counts.sum::<f64>() + self.zero_count;
        let (more, near) = (total - self.count, 1e-9 * total.abs().max(self.count.abs()));
        if more > near || !self.sum.is_nan() && more < -near {
            return no(format!("{} observations, but {total} in the buckets", self.count));
        }
        Ok(())
    }

    /// Its buckets from the lowest on, those with observations alone.
    pub fn buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> + '_ {
        let negative = self.negative.iter().rev().map(|&(index, count)| Bucket {
            lower: -bound(index, self.schema),
            upper: -bound(index.saturating_sub(1), self.schema),
            lower_within: true,
            upper_within: false,
            count,
        });
        let zero = (self.zero_count > 0.0).then_some(Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_within: true,
            upper_within: true,
            count: self.zero_count,
        });
        let positive = self.positive.iter().map(|&(index, count)| Bucket {
            lower: self.ends(index.saturating_sub(1)),
            upper: self.ends(index),
            lower_within: self.is_custom() && index == 0,
            upper_within: true,
            count,
        });
        negative.chain(zero).chain(positive).filter(|bucket| bucket.count != 0.0)
    }

    /// Where a positive bucket ends.
    fn ends(&self, index: i32) -> f64 {
        match usize::try_from(index) {
            _ if !self.is_custom() => bound(index, self.schema),
            Ok(index) => self.bounds.get(index).copied().unwrap_or(f64::INFINITY),
            Err(_) => f64::NEG_INFINITY,
        }
    }

    /// Which indices these buckets have.
    pub fn spans(buckets: &[(i32, f64)]) -> Vec<Span> {
        let (mut spans, mut next) = (Vec::<Span>::new(), 0i32);
        for (index, _) in buckets {
            match spans.last_mut() {
                Some(last) if *index == next => last.length += 1,
                _ => spans.push(Span { offset: index.wrapping_sub(next), length: 1 }),
            }
            next = index.wrapping_add(1);
        }
        spans
    }

    /// The indices that spans name. Spans come from outside.
    pub fn indices(spans: impl IntoIterator<Item = Span>) -> Result<Vec<i32>, NoHistogram> {
        let (mut indices, mut next) = (Vec::new(), 0i32);
        for (i, span) in spans.into_iter().enumerate() {
            if i > 0 && span.offset < 0 {
                return no("a span begins before the one before it ends");
            }
            if indices.len() + span.length as usize > BUCKETS_MAX || i > BUCKETS_MAX {
                return no(format!("more than {BUCKETS_MAX} buckets"));
            }
            let begin = next.checked_add(span.offset);
            let end = begin.and_then(|begin| begin.checked_add_unsigned(span.length));
            let (Some(begin), Some(end)) = (begin, end) else { return no("an index overflows") };
            indices.extend(begin..end);
            next = end;
        }
        Ok(indices)
    }
}

#[cfg(test)]
mod tests;
