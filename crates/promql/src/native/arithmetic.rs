//! Histograms added, subtracted and scaled, and what a reset of one is. Two that are not
//! equally fine are brought to the coarser of their layouts first.

use super::{CUSTOM, Histogram, ResetHint, bound};

/// One has exponential buckets and the other custom ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unlike;

/// What happened beside an addition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Remarks {
    /// One is known to have been reset and the other not to.
    pub collision: bool,
    /// Custom buckets had other bounds: only those of both are left.
    pub fewer_bounds: bool,
}

/// The bucket of a coarser schema in which one lies.
fn coarser(index: i32, by: u32) -> i32 {
    // Of a difference beyond this nothing but the sign is left.
    (index.wrapping_sub(1) >> by.min(31)).wrapping_add(1)
}

/// Adds up those of one index; they are in order.
fn gathered(buckets: impl IntoIterator<Item = (i32, f64)>) -> Vec<(i32, f64)> {
    let mut all: Vec<(i32, f64)> = Vec::new();
    for (index, count) in buckets {
        match all.last_mut() {
            Some(last) if last.0 == index => last.1 += count,
            _ => all.push((index, count)),
        }
    }
    all
}

/// Both together, those of the second by a factor.
fn added(a: &[(i32, f64)], b: &[(i32, f64)], factor: f64) -> Vec<(i32, f64)> {
    let mut all = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let (left, right) = (a.peek().map(|x| x.0), b.peek().map(|x| x.0));
        let index = match (left, right) {
            (None, None) => return all,
            (Some(x), Some(y)) => x.min(y),
            (Some(x), None) | (None, Some(x)) => x,
        };
        let mut count = a.next_if(|x| x.0 == index).map_or(0.0, |x| x.1);
        count += b.next_if(|x| x.0 == index).map_or(0.0, |x| x.1 * factor);
        all.push((index, count));
    }
}

/// The bounds that both have.
fn common(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().filter(|bound| b.binary_search_by(|x| x.total_cmp(bound)).is_ok()).copied().collect()
}

impl Histogram {
    /// With coarser exponential buckets; as it is if they are not coarser.
    pub fn reduced(mut self, schema: i32) -> Histogram {
        if self.schema > schema && self.schema != CUSTOM && schema != CUSTOM {
            let by = self.schema.abs_diff(schema);
            for buckets in [&mut self.positive, &mut self.negative] {
                *buckets = gathered(buckets.iter().map(|(i, count)| (coarser(*i, by), *count)));
            }
            self.schema = schema;
        }
        self
    }

    /// With these bounds, all of which it has.
    fn rebound(mut self, bounds: &[f64]) -> Histogram {
        let place = |index: i32| match self.bounds.get(index.max(0) as usize) {
            Some(bound) => bounds.partition_point(|b| b < bound) as i32,
            None => bounds.len() as i32,
        };
        self.positive = gathered(self.positive.iter().map(|(i, count)| (place(*i), *count)));
        self.bounds = bounds.to_vec();
        self
    }

    /// The zero bucket if it were this wide, and how wide it is then: no bucket with
    /// observations is divided.
    fn wider_zero(&self, threshold: f64) -> (f64, f64) {
        let mut wide = threshold;
        loop {
            let (mut count, before) = (self.zero_count, wide);
            for buckets in [&self.positive, &self.negative] {
                let inner = |index: i32| bound(index.saturating_sub(1), self.schema);
                for &(index, of) in buckets.iter().take_while(|b| inner(b.0) < wide) {
                    count += of;
                    let outer = bound(index, self.schema);
                    if outer > wide {
                        if of != 0.0 {
                            wide = outer;
                        }
                        break;
                    }
                }
            }
            if wide == before {
                return (count, wide);
            }
        }
    }

    /// Makes the zero bucket this wide, or wider.
    fn widen_zero(&mut self, threshold: f64) {
        if threshold <= self.zero_threshold || self.is_custom() {
            return;
        }
        (self.zero_count, self.zero_threshold) = self.wider_zero(threshold);
        let (wide, schema) = (self.zero_threshold, self.schema);
        self.positive.retain(|(index, _)| bound(*index, schema) > wide);
        self.negative.retain(|(index, _)| bound(*index, schema) > wide);
    }

    /// Adds another, by a factor.
    fn add_by(&mut self, other: &Histogram, factor: f64) -> Result<Remarks, Unlike> {
        if self.is_custom() != other.is_custom() {
            return Err(Unlike);
        }
        let mut remarks = Remarks { collision: self.join_hint(other.hint), ..Remarks::default() };
        self.count += other.count * factor;
        self.sum += other.sum * factor;
        if self.is_custom() && self.bounds != other.bounds {
            let bounds = common(&self.bounds, &other.bounds);
            *self = std::mem::take(self).rebound(&bounds);
            let other = other.clone().rebound(&bounds);
            self.positive = added(&self.positive, &other.positive, factor);
            remarks.fewer_bounds = true;
            return Ok(remarks);
        }
        if self.schema == other.schema && self.zero_threshold == other.zero_threshold {
            self.add_buckets(other, factor);
            return Ok(remarks);
        }
        // Each may have to give way to the other, again and again.
        let mut other = other.clone();
        while self.zero_threshold != other.zero_threshold {
            other.widen_zero(self.zero_threshold);
            self.widen_zero(other.zero_threshold);
        }
        let schema = self.schema.min(other.schema);
        *self = std::mem::take(self).reduced(schema);
        self.add_buckets(&other.reduced(schema), factor);
        Ok(remarks)
    }

    fn add_buckets(&mut self, other: &Histogram, factor: f64) {
        self.zero_count += other.zero_count * factor;
        self.positive = added(&self.positive, &other.positive, factor);
        self.negative = added(&self.negative, &other.negative, factor);
    }

    /// What is known of a sum; says whether the two contradict each other.
    fn join_hint(&mut self, other: ResetHint) -> bool {
        use ResetHint::{Gauge, Unknown};
        let (joined, collision) = match (self.hint, other) {
            (a, b) if a == b => (a, false),
            (Gauge, _) | (_, Gauge) => (Gauge, false),
            (Unknown, _) | (_, Unknown) => (Unknown, false),
            _ => (Unknown, true),
        };
        self.hint = joined;
        collision
    }

    /// Both together, or one without the other; `None`: one has custom buckets alone.
    pub fn joined(mut self, other: &Histogram, subtract: bool) -> Option<Histogram> {
        self.add_by(other, if subtract { -1.0 } else { 1.0 }).ok().map(|_| self)
    }

    pub(crate) fn add(&mut self, other: &Histogram) -> Result<Remarks, Unlike> {
        self.add_by(other, 1.0)
    }

    pub(crate) fn subtract(&mut self, other: &Histogram) -> Result<Remarks, Unlike> {
        self.add_by(other, -1.0)
    }

    /// Each count and the sum, as a function has it.
    fn each(&mut self, of: impl Fn(f64) -> f64) {
        let buckets = self.positive.iter_mut().chain(&mut self.negative).map(|(_, count)| count);
        let all = buckets.chain([&mut self.zero_count, &mut self.count, &mut self.sum]);
        all.for_each(|count| *count = of(*count));
    }

    pub(crate) fn times(mut self, factor: f64) -> Histogram {
        self.each(|count| count * factor);
        if factor < 0.0 {
            self.hint = ResetHint::Gauge;
        }
        self
    }

    pub(crate) fn divided(mut self, by: f64) -> Histogram {
        self.each(|count| count / by);
        if by == 0.0 {
            self.positive.clear();
            self.negative.clear();
        } else if by < 0.0 {
            self.hint = ResetHint::Gauge;
        }
        self
    }

    /// Without empty buckets.
    pub fn compacted(mut self) -> Histogram {
        self.positive.retain(|(_, count)| *count != 0.0);
        self.negative.retain(|(_, count)| *count != 0.0);
        self
    }

    /// Whether both hold the same observations in the same buckets.
    pub fn same(&self, other: &Histogram) -> bool {
        let number = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
        let filled = |buckets: &[(i32, f64)]| -> Vec<(i32, f64)> {
            buckets.iter().filter(|(_, count)| *count != 0.0).copied().collect()
        };
        self.schema == other.schema
            && self.bounds == other.bounds
            && self.zero_threshold == other.zero_threshold
            && number(self.zero_count, other.zero_count)
            && number(self.count, other.count)
            && number(self.sum, other.sum)
            && filled(&self.positive) == filled(&other.positive)
            && filled(&self.negative) == filled(&other.negative)
    }

    /// Whether the counter was reset since the one before.
    pub fn is_reset_since(&self, before: &Histogram) -> bool {
        match self.hint {
            ResetHint::Reset => return true,
            ResetHint::NoReset => return false,
            _ => {}
        }
        let finer = self.schema > before.schema || self.zero_threshold < before.zero_threshold;
        if self.count < before.count || self.is_custom() != before.is_custom() {
            return true;
        }
        if self.is_custom() {
            let bounds = common(&self.bounds, &before.bounds);
            let (now, before) = (self.clone().rebound(&bounds), before.clone().rebound(&bounds));
            return falls(&now.positive, &before.positive);
        }
        if finer {
            return true;
        }
        let mut before = before.clone();
        before.widen_zero(self.zero_threshold);
        // It is wider only if a bucket that had observations would be divided.
        if before.zero_threshold != self.zero_threshold || self.zero_count < before.zero_count {
            return true;
        }
        let before = before.reduced(self.schema);
        falls(&self.positive, &before.positive) || falls(&self.negative, &before.negative)
    }
}

/// Whether a bucket has less than before.
fn falls(now: &[(i32, f64)], before: &[(i32, f64)]) -> bool {
    before.iter().any(|(index, count)| {
        let found = now.binary_search_by_key(index, |(i, _)| *i);
        found.map_or(0.0, |at| now[at].1) < *count
    })
}
