//! OTLP's exponential histograms, which are native ones: its scale is their schema, and its
//! buckets are numbered one lower.

use super::otlp_wire::{KeyValue, PointExemplar};
use prost::Message;
use synod_promql::{BUCKETS_MAX, Histogram, NoHistogram, ResetHint, SCHEMAS};

/// What is nearer to zero is in the zero bucket if a point does not say how wide that is.
const ZERO_THRESHOLD: f64 = 1e-128;

/// `ExponentialHistogram`.
#[derive(Message)]
pub(crate) struct Exponentials {
    #[prost(message, repeated, tag = "1")]
    pub data_points: Vec<ExponentialPoint>,
    #[prost(int32, tag = "2")]
    pub temporality: i32,
}

/// `ExponentialHistogramDataPoint`.
#[derive(Message)]
pub(crate) struct ExponentialPoint {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
    #[prost(fixed64, tag = "3")]
    pub time_unix_nano: u64,
    #[prost(fixed64, tag = "4")]
    pub count: u64,
    #[prost(double, optional, tag = "5")]
    pub sum: Option<f64>,
    #[prost(sint32, tag = "6")]
    pub scale: i32,
    #[prost(fixed64, tag = "7")]
    pub zero_count: u64,
    #[prost(message, optional, tag = "8")]
    pub positive: Option<ExponentialBuckets>,
    #[prost(message, optional, tag = "9")]
    pub negative: Option<ExponentialBuckets>,
    #[prost(uint32, tag = "10")]
    pub flags: u32,
    #[prost(message, repeated, tag = "11")]
    pub exemplars: Vec<PointExemplar>,
    #[prost(double, tag = "14")]
    pub zero_threshold: f64,
}

/// `Buckets`: counts from an index on.
#[derive(Message)]
pub(crate) struct ExponentialBuckets {
    #[prost(sint32, tag = "1")]
    pub offset: i32,
    #[prost(uint64, repeated, tag = "2")]
    pub bucket_counts: Vec<u64>,
}

/// The point as a native histogram, coarser if it is finer than those can be.
pub(crate) fn native(point: &ExponentialPoint) -> Result<Histogram, NoHistogram> {
    if point.scale < *SCHEMAS.start() || point.scale > 52 {
        return Err(NoHistogram(format!("the scale {} cannot be kept", point.scale)));
    }
    let buckets = |of: &Option<ExponentialBuckets>| {
        let Some(of) = of else { return Ok(Vec::new()) };
        if of.bucket_counts.len() > BUCKETS_MAX {
            let count = of.bucket_counts.len();
            return Err(NoHistogram(format!("{count} buckets; the limit is {BUCKETS_MAX}")));
        }
        let first = of.offset.checked_add(1);
        let fits = |first: &i32| first.checked_add(of.bucket_counts.len() as i32).is_some();
        let Some(first) = first.filter(fits) else {
            return Err(NoHistogram("an index overflows".into()));
        };
        let all = (first..).zip(&of.bucket_counts).filter(|(_, count)| **count > 0);
        Ok(all.map(|(index, count)| (index, *count as f64)).collect())
    };
    let histogram = Histogram {
        hint: ResetHint::Unknown,
        schema: point.scale,
        zero_threshold: match point.zero_threshold {
            0.0 => ZERO_THRESHOLD,
            threshold => threshold,
        },
        zero_count: point.zero_count as f64,
        count: point.count as f64,
        sum: point.sum.unwrap_or(0.0),
        positive: buckets(&point.positive)?,
        negative: buckets(&point.negative)?,
        bounds: Vec::new(),
    };
    let histogram = histogram.reduced(*SCHEMAS.end());
    histogram.check()?;
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_numbered_one_higher_and_as_coarse_as_need_be() {
        let mut point = ExponentialPoint {
            count: 10,
            sum: Some(3.5),
            scale: 1,
            zero_count: 1,
            positive: Some(ExponentialBuckets { offset: -1, bucket_counts: vec![2, 0, 3] }),
            negative: Some(ExponentialBuckets { offset: 4, bucket_counts: vec![4] }),
            ..ExponentialPoint::default()
        };
        let h = native(&point).expect("sound");
        assert_eq!((h.schema, h.zero_threshold, h.count), (1, 1e-128, 10.0));
        assert_eq!((h.positive, h.negative), (vec![(0, 2.0), (2, 3.0)], vec![(5, 4.0)]));
        point.scale = 10;
        let h = native(&point).expect("sound");
        // Four of its buckets are one.
        assert_eq!((h.schema, h.positive), (8, vec![(0, 2.0), (1, 3.0)]));
        point.scale = -5;
        assert!(native(&point).expect_err("too coarse").0.contains("-5"));
        point.scale = 0;
        point.positive = Some(ExponentialBuckets { offset: i32::MAX, bucket_counts: vec![9] });
        assert!(native(&point).expect_err("no such bucket").0.contains("overflows"));
    }
}
