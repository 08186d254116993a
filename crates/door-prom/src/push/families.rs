//! Families of metrics, and Prometheus's own protobuf form of them
//! (`io.prometheus.client.MetricFamily`), which some pushers use.

use crate::json::value_text;
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
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Single>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Single>,
    #[prost(message, optional, tag = "4")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "5")]
    untyped: Option<Single>,
    #[prost(int64, optional, tag = "6")]
    timestamp_ms: Option<i64>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Message)]
struct Single {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(Message)]
struct Summary {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(double, tag = "2")]
    sum: f64,
    #[prost(message, repeated, tag = "3")]
    quantile: Vec<Pair>,
}

#[derive(Message)]
struct Pair {
    #[prost(double, tag = "1")]
    bound: f64,
    #[prost(double, tag = "2")]
    value: f64,
}

#[derive(Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(double, tag = "2")]
    sum: f64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
}

#[derive(Message)]
struct Bucket {
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

fn samples(name: &str, metric: Metric, out: &mut Vec<(Labels, f64)>) {
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
