//! Families of metrics, and Prometheus's own protobuf form of them
//! (`io.prometheus.client.MetricFamily`), which some pushers use.

use super::histogram::{WrittenHistogram, WrittenSpan};
use crate::json::value_text;
use crate::protobuf::is_native;
use prost::Message;
use std::collections::BTreeMap;
use synod_promql::{Labels, NAME};

/// Metrics of one name.
#[derive(Clone, Default, Debug)]
pub(crate) struct Family {
    pub kind: String,
    pub help: String,
    pub samples: Vec<(Labels, f64)>,
}

/// The family that a series of this name belongs to; `kind` gives what a name was said to
/// be.
pub(crate) fn family_of<'a>(name: &str, kind: impl Fn(&str) -> Option<&'a str>) -> String {
    for suffix in ["_bucket", "_sum", "_count", "_total", "_created", "_info"] {
        if let Some(base) = name.strip_suffix(suffix) {
            let of = kind(base).unwrap_or_default();
            let belongs = match suffix {
                "_bucket" => of.ends_with("histogram"),
                "_sum" | "_count" => of.ends_with("histogram") || of == "summary",
                "_created" => !matches!(of, "" | "gauge"),
                "_total" => of == "counter",
                _ => of == "info",
            };
            if belongs {
                return base.to_owned();
            }
        }
    }
    name.to_owned()
}

#[derive(Message)]
pub(crate) struct MetricFamily {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub help: String,
    #[prost(int32, tag = "3")]
    pub kind: i32,
    #[prost(message, repeated, tag = "4")]
    pub metric: Vec<Metric>,
}

#[derive(Message)]
pub(crate) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub gauge: Option<Single>,
    #[prost(message, optional, tag = "3")]
    pub counter: Option<Single>,
    #[prost(message, optional, tag = "4")]
    pub summary: Option<Summary>,
    #[prost(message, optional, tag = "5")]
    pub untyped: Option<Single>,
    #[prost(int64, optional, tag = "6")]
    pub timestamp_ms: Option<i64>,
    #[prost(message, optional, tag = "7")]
    pub histogram: Option<Histogram>,
}

#[derive(Message)]
pub(crate) struct LabelPair {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Message)]
pub(crate) struct Single {
    #[prost(double, tag = "1")]
    pub value: f64,
}

#[derive(Message)]
pub(crate) struct Summary {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "2")]
    pub sum: f64,
    #[prost(message, repeated, tag = "3")]
    pub quantile: Vec<Pair>,
}

#[derive(Message)]
pub(crate) struct Pair {
    #[prost(double, tag = "1")]
    pub bound: f64,
    #[prost(double, tag = "2")]
    pub value: f64,
}

#[derive(Message)]
pub(crate) struct Histogram {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "2")]
    pub sum: f64,
    #[prost(message, repeated, tag = "3")]
    pub bucket: Vec<Bucket>,
    #[prost(double, tag = "4")]
    pub count_float: f64,
    #[prost(sint32, tag = "5")]
    pub schema: i32,
    #[prost(double, tag = "6")]
    pub zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    pub zero_count: u64,
    #[prost(double, tag = "8")]
    pub zero_count_float: f64,
    #[prost(message, repeated, tag = "9")]
    pub negative_span: Vec<WrittenSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "10")]
    pub negative_delta: Vec<i64>,
    #[prost(double, repeated, packed = "false", tag = "11")]
    pub negative_count: Vec<f64>,
    #[prost(message, repeated, tag = "12")]
    pub positive_span: Vec<WrittenSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub positive_delta: Vec<i64>,
    #[prost(double, repeated, packed = "false", tag = "14")]
    pub positive_count: Vec<f64>,
}

impl Histogram {
    /// Its native part, if it has one.
    pub fn native(&self, gauge: bool) -> Option<WrittenHistogram> {
        let float = self.count_float > 0.0 || self.zero_count_float > 0.0;
        let written = WrittenHistogram {
            count_int: (!float).then_some(self.count),
            count_float: float.then_some(self.count_float),
            sum: self.sum,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count_int: (!float).then_some(self.zero_count),
            zero_count_float: float.then_some(self.zero_count_float),
            negative_spans: self.negative_span.clone(),
            negative_deltas: self.negative_delta.clone(),
            negative_counts: self.negative_count.clone(),
            positive_spans: self.positive_span.clone(),
            positive_deltas: self.positive_delta.clone(),
            positive_counts: self.positive_count.clone(),
            reset_hint: if gauge { 3 } else { 0 },
            ..WrittenHistogram::default()
        };
        is_native(&written).then_some(written)
    }
}

#[derive(Message)]
pub(crate) struct Bucket {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(double, tag = "2")]
    bound: f64,
}

/// Families one after the other, each behind its length.
pub(crate) fn decode(mut body: &[u8]) -> Result<BTreeMap<String, Family>, String> {
    let mut all: BTreeMap<String, Family> = BTreeMap::new();
    while !body.is_empty() {
        let read = MetricFamily::decode_length_delimited(&mut body).map_err(|e| e.to_string())?;
        if read.name.is_empty() {
            return Err("a family without a name".into());
        }
        let kinds = ["counter", "gauge", "summary", "untyped", "histogram"];
        let kind = usize::try_from(read.kind).ok().and_then(|k| kinds.get(k));
        let kind = kind.ok_or_else(|| format!("{}: type {} is not read", read.name, read.kind))?;
        let family = all.entry(read.name.clone()).or_default();
        family.kind = (*kind).to_owned();
        family.help = read.help;
        for metric in read.metric {
            if metric.timestamp_ms.is_some_and(|t| t != 0) {
                return Err("pushed metrics must not have timestamps".into());
            }
            samples(&read.name, metric, &mut family.samples);
        }
    }
    Ok(all)
}

pub(crate) fn samples(name: &str, metric: Metric, out: &mut Vec<(Labels, f64)>) {
    let pairs = metric.label.iter().map(|l| (&*l.name, &*l.value));
    let labels = Labels::new(pairs.chain([(NAME, name)]));
    let suffixed = |suffix: &str| labels.with(NAME, &format!("{name}{suffix}"));
    for single in [&metric.gauge, &metric.counter, &metric.untyped].into_iter().flatten() {
        out.push((labels.clone(), single.value));
    }
    if let Some(summary) = metric.summary {
        for q in &summary.quantile {
            out.push((labels.with("quantile", &value_text(q.bound)), q.value));
        }
        out.push((suffixed("_sum"), summary.sum));
        out.push((suffixed("_count"), summary.count as f64));
    }
    if let Some(histogram) = metric.histogram {
        let buckets = suffixed("_bucket");
        for b in &histogram.bucket {
            out.push((buckets.with("le", &value_text(b.bound)), b.count as f64));
        }
        if histogram.bucket.last().is_none_or(|b| b.bound != f64::INFINITY) {
            out.push((buckets.with("le", "+Inf"), histogram.count as f64));
        }
        out.push((suffixed("_sum"), histogram.sum));
        out.push((suffixed("_count"), histogram.count as f64));
    }
}
