//! Federation: the latest sample of each series that is asked for, of all nodes, with its
//! time, for another Prometheus to scrape. Native histograms are in the protobuf form only.

use crate::form::Form;
use crate::json::{plain, value_text};
use crate::protobuf::{KIND, is_native};
use crate::push::families::{Histogram as Shown, LabelPair, Metric, MetricFamily, Single};
use crate::push::histogram::{WrittenSpan, written};
use crate::store::{Monitor, now_ms};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use prost::Message;
use std::fmt::Write;
use synod_promql::{
    Histogram, HistogramSample, Labels, NAME, ResetHint, STALE, Series, Source, parse_selector,
    quoted,
};

/// The text form.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The protobuf form.
const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                        encoding=delimited";
/// The numbers of protobuf's types.
const UNTYPED: i32 = 3;
const HISTOGRAM: i32 = 4;
const GAUGE_HISTOGRAM: i32 = 5;

type Told = (StatusCode, String);

/// Answers `GET /federate`.
pub(crate) fn answer(monitor: &Monitor, request: &Request<Bytes>) -> Response<Bytes> {
    let form = Form::of(request, &[]);
    let latest = match latest(monitor, &form) {
        Ok(latest) => latest,
        Err((status, why)) => return plain(status, "text/plain; charset=utf-8", why + "\n"),
    };
    if !wants_protobuf(request.headers()) {
        return plain(StatusCode::OK, TEXT, as_text(monitor, &latest));
    }
    let mut response = Response::new(as_protobuf(monitor, &latest).into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    response
}

/// Whether the protobuf form is what a client likes best of what there is.
fn wants_protobuf(headers: &HeaderMap) -> bool {
    let (mut protobuf, mut text) = (0.0_f32, 0.0_f32);
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    for kind in accept.flat_map(|value| value.split(',')) {
        let mut parts = kind.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let parts: Vec<_> = parts.filter_map(|p| p.split_once('=')).collect();
        let of = |name: &str| parts.iter().find(|p| p.0 == name).map(|p| p.1.trim_matches('"'));
        let weight = of("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
        let delimited = of("encoding") == Some("delimited");
        match name {
            KIND if delimited && of("proto") == Some("io.prometheus.client.MetricFamily") => {
                protobuf = protobuf.max(weight);
            }
            "text/plain" | "text/*" => text = text.max(weight),
            _ => {}
        }
    }
    protobuf > 0.0 && protobuf >= text
}

/// A series' latest sample.
struct Latest {
    labels: Labels,
    at: i64,
    value: Value,
}

enum Value {
    Number(f64),
    Native(HistogramSample),
}

/// What is asked for, by name.
fn latest(monitor: &Monitor, form: &Form) -> Result<Vec<Latest>, Told> {
    let now = now_ms();
    let from = now - monitor.0.settings.query.lookback;
    let source = monitor.fan(form, monitor.0.settings.query_timeout);
    let source = source.map_err(|e| (e.status, e.why))?;
    let mut all: Vec<Latest> = Vec::new();
    for text in form.all("match[]") {
        let matchers =
            parse_selector(text).map_err(|e| (StatusCode::BAD_REQUEST, format!("{text}: {e}")))?;
        let found = source.select(&matchers, from + 1, now);
        let found = found.map_err(|why| (StatusCode::INTERNAL_SERVER_ERROR, why))?;
        all.extend(found.into_iter().filter_map(latest_of));
    }
    all.sort_by(|a, b| (a.labels.get(NAME), &a.labels).cmp(&(b.labels.get(NAME), &b.labels)));
    all.dedup_by(|a, b| a.labels == b.labels);
    for why in source.warnings() {
        // The form has no place for it.
        tracing::warn!(error = why, "what is federated lacks what a node has seen");
    }
    Ok(all)
}

/// None of a series that has ended.
fn latest_of(series: Series) -> Option<Latest> {
    let (number, native) = (series.samples.last(), series.histograms.last());
    let labels = series.labels;
    match (number, native) {
        (number, Some(native)) if number.is_none_or(|n| n.at < native.at) => {
            Some(Latest { labels, at: native.at, value: Value::Native(native.clone()) })
        }
        (Some(number), _) if number.value.to_bits() != STALE.to_bits() => {
            Some(Latest { labels, at: number.at, value: Value::Number(number.value) })
        }
        _ => None,
    }
}

/// The labels of a series besides its name, as others are to have them.
fn shown(monitor: &Monitor, labels: &Labels) -> Labels {
    let mut shown = labels.nameless();
    for (name, value) in &monitor.config().external_labels {
        if shown.get(name).is_empty() {
            shown = shown.with(name, value);
        }
    }
    shown
}

fn as_text(monitor: &Monitor, latest: &[Latest]) -> String {
    let meanings = monitor.meanings();
    let (mut out, mut family) = (String::new(), String::new());
    for Latest { labels, at, value } in latest {
        // The text has no native histograms.
        let Value::Number(value) = value else { continue };
        let name = labels.get(NAME);
        if name != family {
            family = name.to_owned();
            // Other kinds of OpenMetrics would make the whole page unreadable.
            let known = ["counter", "gauge", "histogram", "summary"];
            let kind = meanings.get(name).map(|m| &*m.kind).filter(|k| known.contains(k));
            let _ = writeln!(out, "# TYPE {} {}", classic(name), kind.unwrap_or("untyped"));
        }
        let shown = shown(monitor, labels);
        // Whoever scrapes this honours the labels; an instance that there is not is said
        // to be empty, so that it is not made one.
        let instance = if shown.get("instance").is_empty() { ",instance=\"\"" } else { "" };
        let pairs: Vec<String> =
            shown.iter().map(|(n, v)| format!("{}={}", classic(n), quoted(v))).collect();
        let pairs = format!("{}{instance}", pairs.join(","));
        let pairs = pairs.trim_start_matches(',');
        let _ = writeln!(out, "{}{{{pairs}}} {} {at}", classic(name), value_text(*value));
    }
    out
}

/// A family for each name and type. Numbers have none, as Prometheus has it, and histograms
/// with bounds of their own, for which this form has no place, are left out.
fn as_protobuf(monitor: &Monitor, latest: &[Latest]) -> Vec<u8> {
    let mut families: Vec<MetricFamily> = Vec::new();
    for Latest { labels, at, value } in latest {
        let (kind, untyped, histogram) = match value {
            Value::Number(value) => (UNTYPED, Some(Single { value: *value }), None),
            Value::Native(sample) if sample.value.is_custom() => continue,
            Value::Native(sample) => (kind_of(&sample.value), None, Some(native(sample))),
        };
        let pair = |(name, value): (&str, &str)| LabelPair {
            name: classic(name),
            value: value.to_owned(),
        };
        let mut label: Vec<LabelPair> = shown(monitor, labels).iter().map(pair).collect();
        if label.iter().all(|l| l.name != "instance") {
            label.push(pair(("instance", "")));
        }
        let timestamp_ms = Some(*at);
        let metric = Metric { label, untyped, histogram, timestamp_ms, ..Metric::default() };
        let name = classic(labels.get(NAME));
        match families.last_mut().filter(|f| f.name == name && f.kind == kind) {
            Some(family) => family.metric.push(metric),
            None => families.push(MetricFamily {
                name,
                help: String::new(),
                kind,
                metric: vec![metric],
            }),
        }
    }
    families.iter().flat_map(Message::encode_length_delimited_to_vec).collect()
}

fn kind_of(histogram: &Histogram) -> i32 {
    if histogram.hint == ResetHint::Gauge { GAUGE_HISTOGRAM } else { HISTOGRAM }
}

/// A native histogram as this form has it.
fn native(sample: &HistogramSample) -> Shown {
    let w = written(sample);
    let empty = !is_native(&w);
    let mut shown = Shown {
        count: w.count_int.unwrap_or(0),
        count_float: w.count_float.unwrap_or(0.0),
        sum: w.sum,
        schema: w.schema,
        zero_threshold: w.zero_threshold,
        zero_count: w.zero_count_int.unwrap_or(0),
        zero_count_float: w.zero_count_float.unwrap_or(0.0),
        negative_span: w.negative_spans,
        negative_delta: w.negative_deltas,
        negative_count: w.negative_counts,
        positive_span: w.positive_spans,
        positive_delta: w.positive_deltas,
        positive_count: w.positive_counts,
        ..Shown::default()
    };
    if empty {
        // A span of no buckets says that it is a native one.
        shown.positive_span.push(WrittenSpan { offset: 0, length: 0 });
    }
    shown
}

/// A name as these forms can have it: underscores for what it cannot.
fn classic(name: &str) -> String {
    let fits = |(i, c): (usize, char)| {
        let may = c == '_' || c == ':' || c.is_ascii_alphabetic() || i > 0 && c.is_ascii_digit();
        if may { c } else { '_' }
    };
    name.chars().enumerate().map(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::{ACCEPT, read};
    use std::sync::Arc;
    use synod_promql::read_histogram;

    #[test]
    fn the_protobuf_form_is_for_those_who_like_it_best() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a header"));
            wants_protobuf(&headers)
        };
        let family = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily";
        assert!(wants(ACCEPT) && wants(&format!("{family};encoding=delimited,text/plain;q=0.5")));
        assert!(!wants(&format!("{family};encoding=text")) && !wants("*/*") && !wants(family));
        assert!(!wants(&format!("{family};encoding=delimited;q=0.2,text/plain;q=0.5")));
        assert!(!wants_protobuf(&HeaderMap::new()));
    }

    #[test]
    fn histograms_are_read_back_as_they_were() {
        for text in [
            "{{schema:3 count:14 sum:-5 z_bucket:2 z_bucket_w:0.01 buckets:[1 0 9] offset:-4 \
             n_buckets:[2]}}",
            "{{schema:0 count:1.5 sum:1 z_bucket:0.5 buckets:[0.25 0.75] n_offset:3}}",
            "{{schema:2 count:3 sum:2 buckets:[1 2] counter_reset_hint:gauge}}",
            "{{schema:1 count:0 sum:0}}",
        ] {
            let value = Arc::new(read_histogram(text).expect(text).0);
            let sample = HistogramSample { at: 7, value: value.clone() };
            let metric = Metric { histogram: Some(native(&sample)), ..Metric::default() };
            let (name, kind) = ("h".to_owned(), kind_of(&value));
            let family = MetricFamily { name, kind, help: String::new(), metric: vec![metric] };
            let (_, found) = read(&family.encode_length_delimited_to_vec(), false).expect(text);
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(found[0].value, value, "{text}");
        }
    }
}
