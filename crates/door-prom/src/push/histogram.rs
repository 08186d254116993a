//! Native histograms as remote-write and remote-read have them.

use prost::Message;
use std::sync::Arc;
use synod_promql::{Histogram, HistogramSample, NoHistogram, ResetHint, Span};

/// `prometheus.Histogram`, and that of remote-write 2.0. Either the whole numbers are there,
/// of buckets as differences, or the others.
#[derive(Clone, Message)]
pub struct WrittenHistogram {
    /// Observations.
    #[prost(uint64, optional, tag = "1")]
    pub count_int: Option<u64>,
    /// Observations.
    #[prost(double, optional, tag = "2")]
    pub count_float: Option<f64>,
    /// Their sum.
    #[prost(double, tag = "3")]
    pub sum: f64,
    /// How fine the buckets are.
    #[prost(sint32, tag = "4")]
    pub schema: i32,
    /// Where the zero bucket ends.
    #[prost(double, tag = "5")]
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    #[prost(uint64, optional, tag = "6")]
    pub zero_count_int: Option<u64>,
    /// Observations in the zero bucket.
    #[prost(double, optional, tag = "7")]
    pub zero_count_float: Option<f64>,
    /// Which negative buckets there are.
    #[prost(message, repeated, tag = "8")]
    pub negative_spans: Vec<WrittenSpan>,
    /// How many more observations than in the one before.
    #[prost(sint64, repeated, tag = "9")]
    pub negative_deltas: Vec<i64>,
    /// How many observations.
    #[prost(double, repeated, tag = "10")]
    pub negative_counts: Vec<f64>,
    /// Which positive buckets there are.
    #[prost(message, repeated, tag = "11")]
    pub positive_spans: Vec<WrittenSpan>,
    /// How many more observations than in the one before.
    #[prost(sint64, repeated, tag = "12")]
    pub positive_deltas: Vec<i64>,
    /// How many observations.
    #[prost(double, repeated, tag = "13")]
    pub positive_counts: Vec<f64>,
    /// 0: nothing is known of a reset, 1: there was one, 2: there was none, 3: no counter.
    #[prost(int32, tag = "14")]
    pub reset_hint: i32,
    /// When, ms.
    #[prost(int64, tag = "15")]
    pub timestamp: i64,
    /// Bounds of custom buckets.
    #[prost(double, repeated, tag = "16")]
    pub custom_values: Vec<f64>,
}

/// `prometheus.BucketSpan`.
#[derive(Clone, Message)]
pub struct WrittenSpan {
    /// How many buckets are left out before it.
    #[prost(sint32, tag = "1")]
    pub offset: i32,
    /// How many buckets it has.
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

/// Counts of buckets that spans name.
fn buckets(
    spans: &[WrittenSpan],
    deltas: &[i64],
    counts: &[f64],
) -> Result<Vec<(i32, f64)>, NoHistogram> {
    let spans = spans.iter().map(|s| Span { offset: s.offset, length: s.length });
    let indices = Histogram::indices(spans)?;
    let counts: Vec<f64> = if counts.is_empty() {
        let mut sum = 0i64;
        let added = deltas.iter().map(|delta| {
            sum = sum.wrapping_add(*delta);
            sum as f64
        });
        added.collect()
    } else {
        counts.to_vec()
    };
    if indices.len() != counts.len() {
        let (named, there) = (indices.len(), counts.len());
        return Err(NoHistogram(format!("spans name {named} buckets, but there are {there}")));
    }
    Ok(indices.into_iter().zip(counts).collect())
}

/// A histogram that somebody sent, if it is sound.
pub(crate) fn received(w: &WrittenHistogram) -> Result<Histogram, NoHistogram> {
    let number = |whole: Option<u64>, float: Option<f64>| {
        float.or(whole.map(|count| count as f64)).unwrap_or(0.0)
    };
    let histogram = Histogram {
        hint: match w.reset_hint {
            1 => ResetHint::Reset,
            2 => ResetHint::NoReset,
            3 => ResetHint::Gauge,
            _ => ResetHint::Unknown,
        },
        schema: w.schema,
        zero_threshold: w.zero_threshold,
        zero_count: number(w.zero_count_int, w.zero_count_float),
        count: number(w.count_int, w.count_float),
        sum: w.sum,
        positive: buckets(&w.positive_spans, &w.positive_deltas, &w.positive_counts)?,
        negative: buckets(&w.negative_spans, &w.negative_deltas, &w.negative_counts)?,
        bounds: w.custom_values.clone(),
    };
    if !histogram.is_stale() {
        histogram.check()?;
    }
    Ok(histogram)
}

/// A histogram as it is sent.
pub(crate) fn written(sample: &HistogramSample) -> WrittenHistogram {
    let h: &Arc<Histogram> = &sample.value;
    let spans = |buckets: &[(i32, f64)]| {
        let spans = Histogram::spans(buckets).into_iter();
        spans.map(|s| WrittenSpan { offset: s.offset, length: s.length }).collect()
    };
    let counts = |buckets: &[(i32, f64)]| buckets.iter().map(|b| b.1).collect::<Vec<f64>>();
    let whole = |v: f64| (0.0..=(1u64 << 53) as f64).contains(&v) && v.fract() == 0.0;
    let all = h.positive.iter().chain(&h.negative).map(|b| b.1);
    let is_whole = all.chain([h.count, h.zero_count]).all(whole);
    let mut written = WrittenHistogram {
        sum: h.sum,
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        negative_spans: spans(&h.negative),
        positive_spans: spans(&h.positive),
        reset_hint: match h.hint {
            ResetHint::Unknown => 0,
            ResetHint::Reset => 1,
            ResetHint::NoReset => 2,
            ResetHint::Gauge => 3,
        },
        timestamp: sample.at,
        custom_values: h.bounds.clone(),
        ..WrittenHistogram::default()
    };
    if is_whole {
        let deltas = |buckets: &[(i32, f64)]| {
            let mut before = 0;
            let of = |b: &(i32, f64)| b.1 as i64 - std::mem::replace(&mut before, b.1 as i64);
            buckets.iter().map(of).collect()
        };
        (written.count_int, written.zero_count_int) =
            (Some(h.count as u64), Some(h.zero_count as u64));
        (written.positive_deltas, written.negative_deltas) =
            (deltas(&h.positive), deltas(&h.negative));
    } else {
        (written.count_float, written.zero_count_float) = (Some(h.count), Some(h.zero_count));
        (written.positive_counts, written.negative_counts) =
            (counts(&h.positive), counts(&h.negative));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_promql::read_histogram;

    #[test]
    fn what_is_written_is_what_is_received() {
        for text in [
            "{{schema:3 count:14 sum:-5 z_bucket:2 z_bucket_w:0.01 buckets:[1 0 9] offset:-4 \
             n_buckets:[2] counter_reset_hint:not_reset}}",
            "{{schema:0 count:1.5 sum:1 z_bucket:0.5 buckets:[0.25 0.75] n_offset:3}}",
            "{{schema:-53 count:3 sum:2 buckets:[1 1 1] custom_values:[0.5 7]}}",
            "{{schema:2 count:-3 sum:2 buckets:[-1 -2] counter_reset_hint:gauge}}",
        ] {
            let value = Arc::new(read_histogram(text).expect(text).0);
            let sample = HistogramSample { at: 7, value };
            let bytes = written(&sample).encode_to_vec();
            let again = WrittenHistogram::decode(&*bytes).expect("a message");
            assert_eq!((again.timestamp, received(&again)), (7, Ok(sample.value.as_ref().clone())));
        }
        let bad = WrittenHistogram {
            positive_spans: vec![WrittenSpan { offset: 0, length: 3 }],
            positive_deltas: vec![1],
            count_int: Some(1),
            ..WrittenHistogram::default()
        };
        assert!(received(&bad).expect_err("too few").0.contains("3 buckets, but there are 1"));
        let many = WrittenSpan { offset: 0, length: u32::MAX };
        let bad = WrittenHistogram { positive_spans: vec![many], ..bad };
        assert!(received(&bad).expect_err("too many").0.contains("10000"));
    }
}
