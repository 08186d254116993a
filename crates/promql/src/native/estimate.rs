//! What a histogram tells of the observations: quantiles, shares, their spread. Within an
//! exponential bucket they are taken to be spread evenly over the logarithm, within others
//! evenly.

use super::{Bucket, Histogram};

impl Histogram {
    /// Of a histogram with nothing below zero the zero bucket begins at zero, and likewise
    /// ends there. A custom bucket without a lower bound begins at zero if it can.
    fn narrowed(&self, mut bucket: Bucket) -> Bucket {
        if self.is_custom() {
            if bucket.lower == f64::NEG_INFINITY && bucket.upper > 0.0 {
                bucket.lower = 0.0;
            }
        } else if bucket.lower < 0.0 && bucket.upper > 0.0 {
            match (self.negative.is_empty(), self.positive.is_empty()) {
                (true, false) => bucket.lower = 0.0,
                (false, true) => bucket.upper = 0.0,
                _ => {}
            }
        }
        bucket
    }

    fn is_even(&self, bucket: &Bucket) -> bool {
        self.is_custom() || bucket.lower <= 0.0 && bucket.upper >= 0.0
    }

    pub(crate) fn quantile(&self, q: f64) -> f64 {
        if q < 0.0 {
            return f64::NEG_INFINITY;
        }
        if q > 1.0 {
            return f64::INFINITY;
        }
        if self.count == 0.0 || q.is_nan() {
            return f64::NAN;
        }
        // Observations of NaN are in no bucket: then it has to be counted from below.
        let upwards = self.sum.is_nan() || q < 0.5;
        let mut rank = if upwards { q * self.count } else { (1.0 - q) * self.count };
        let (mut count, mut last) = (0.0, None);
        let mut reaches = |bucket: Bucket| {
            count += bucket.count;
            last = Some(bucket);
            count >= rank
        };
        let _ = if upwards {
            self.buckets().any(&mut reaches)
        } else {
            self.buckets().rev().any(&mut reaches)
        };
        let Some(bucket) = last.map(|bucket| self.narrowed(bucket)) else { return f64::NAN };
        if self.is_custom() && bucket.lower == f64::NEG_INFINITY {
            return bucket.upper;
        }
        if self.is_custom() && bucket.upper == f64::INFINITY {
            return bucket.lower;
        }
        let count = count.min(self.count);
        if count < rank {
            return if self.sum.is_nan() { f64::NAN } else { bucket.upper };
        }
        rank = if upwards { rank - (count - bucket.count) } else { count - rank };
        self.within(&bucket, rank / bucket.count)
    }

    /// The value below which a share of a bucket's observations is.
    fn within(&self, bucket: &Bucket, share: f64) -> f64 {
        if self.is_even(bucket) {
            return bucket.lower + (bucket.upper - bucket.lower) * share;
        }
        let (lower, upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
        if bucket.lower > 0.0 {
            (lower + (upper - lower) * share).exp2()
        } else {
            -(upper + (lower - upper) * (1.0 - share)).exp2()
        }
    }

    /// Which share of a bucket's observations is below a value in it.
    fn share(&self, bucket: &Bucket, value: f64) -> f64 {
        if self.is_even(bucket) {
            if bucket.lower == f64::NEG_INFINITY {
                return 1.0;
            }
            return (value - bucket.lower) / (bucket.upper - bucket.lower);
        }
        let (lower, upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
        let value_log = value.abs().log2();
        if value > 0.0 {
            (value_log - lower) / (upper - lower)
        } else {
            1.0 - (value_log - upper) / (lower - upper)
        }
    }

    /// How many observations are below a value.
    fn rank(&self, value: f64) -> f64 {
        let mut rank = 0f64;
        for bucket in self.buckets().map(|bucket| self.narrowed(bucket)) {
            if bucket.lower >= value {
                return rank.min(self.count);
            }
            if bucket.upper > value {
                let part = bucket.count * self.share(&bucket, value);
                return (rank + part).min(self.count);
            }
            rank += bucket.count;
        }
        self.count
    }

    pub(crate) fn fraction(&self, lower: f64, upper: f64) -> f64 {
        if self.count == 0.0 || lower.is_nan() || upper.is_nan() {
            return f64::NAN;
        }
        if lower >= upper {
            return 0.0;
        }
        (self.rank(upper) - self.rank(lower)) / self.count
    }

    /// The variance, if each observation were in the middle of its bucket.
    pub(crate) fn variance(&self) -> f64 {
        let mean = self.sum / self.count;
        let of = |bucket: Bucket| {
            let middle = if self.is_custom() {
                (bucket.lower + bucket.upper) / 2.0
            } else if self.is_even(&bucket) {
                0.0
            } else {
                (bucket.lower * bucket.upper).sqrt().copysign(bucket.upper)
            };
            bucket.count * (middle - mean) * (middle - mean)
        };
        self.buckets().map(of).sum::<f64>() / self.count
    }
}
