//! What other systems read: remote-read (samples, not streamed chunks), and federation.

use crate::form::Form;
use crate::json::plain;
use crate::push::histogram::written;
use crate::push::unpacked;
use crate::push::wire::{
    Label, LabelMatcher, QueryResult, ReadRequest, ReadResponse, TimeSeries, WrittenSample,
};
use crate::store::{Monitor, now_ms};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use prost::Message;
use std::fmt::Write;
use synod_promql::{Labels, Matcher, NAME, STALE, Series, Source, parse_selector, quoted};

const TEXT: &str = "text/plain; charset=utf-8";
/// The exposition format that federation answers in.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Samples of an answer, at most.
const SAMPLES_MAX: usize = 20_000_000;

type Told = (StatusCode, String);

fn bad(why: String) -> Told {
    (StatusCode::BAD_REQUEST, why)
}

/// Answers `POST /api/v1/read`.
pub(crate) fn remote(monitor: &Monitor, request: &Request<Bytes>) -> Response<Bytes> {
    match read(monitor, request) {
        Ok(body) => Response::builder()
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::CONTENT_ENCODING, "snappy")
            .body(body)
            .unwrap_or_default(),
        Err((status, why)) => plain(status, TEXT, why + "\n"),
    }
}

fn read(monitor: &Monitor, request: &Request<Bytes>) -> Result<Bytes, Told> {
    let body = unpacked(request.body())?;
    let asked = ReadRequest::decode(&*body).map_err(|e| bad(e.to_string()))?;
    let (mut results, mut count) = (Vec::new(), 0);
    for query in asked.queries {
        let matchers: Result<Vec<Matcher>, String> = query.matchers.iter().map(matcher).collect();
        let matchers = matchers.map_err(bad)?;
        let (from, to) = (query.start_timestamp_ms, query.end_timestamp_ms);
        let found = monitor.select(&matchers, from, to);
        let mut found = found.map_err(|why| (StatusCode::INTERNAL_SERVER_ERROR, why))?;
        found.sort_by(|a, b| a.labels.cmp(&b.labels));
        count += found.iter().map(Series::weight).sum::<usize>();
        if count > SAMPLES_MAX {
            return Err(bad(format!("the answer would have more than {SAMPLES_MAX} samples")));
        }
        results.push(QueryResult { timeseries: found.into_iter().map(time_series).collect() });
    }
    let body = ReadResponse { results }.encode_to_vec();
    let packed = snap::raw::Encoder::new().compress_vec(&body);
    packed.map(Bytes::from).map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

fn matcher(asked: &LabelMatcher) -> Result<Matcher, String> {
    let op = match asked.kind {
        0 => "=",
        1 => "!=",
        2 => "=~",
        3 => "!~",
        other => return Err(format!("matcher type {other} is not known")),
    };
    Matcher::new(&asked.name, op, &asked.value)
}

pub(crate) fn time_series(series: Series) -> TimeSeries {
    let label = |(n, v): (&str, &str)| Label { name: n.to_owned(), value: v.to_owned() };
    let samples = series.samples.iter();
    let samples = samples.map(|s| WrittenSample { value: s.value, timestamp: s.at }).collect();
    TimeSeries {
        labels: series.labels.iter().map(label).collect(),
        samples,
        exemplars: vec![],
        histograms: series.histograms.iter().map(written).collect(),
    }
}

/// Answers `GET /federate`: the latest sample of each series that is asked for, with its
/// time, for another Prometheus to scrape.
pub(crate) fn federate(monitor: &Monitor, form: &Form) -> Response<Bytes> {
    match federated(monitor, form) {
        Ok(page) => plain(StatusCode::OK, EXPOSITION, page),
        Err((status, why)) => plain(status, TEXT, why + "\n"),
    }
}

fn federated(monitor: &Monitor, form: &Form) -> Result<String, Told> {
    let now = now_ms();
    let from = now - monitor.0.settings.query.lookback;
    let mut latest: Vec<(Labels, i64, f64)> = Vec::new();
    for text in form.all("match[]") {
        let matchers = parse_selector(text).map_err(|e| bad(format!("{text}: {e}")))?;
        let found = monitor.select(&matchers, from + 1, now);
        for series in found.map_err(|why| (StatusCode::INTERNAL_SERVER_ERROR, why))? {
            let last = series.samples.last().filter(|s| s.value.to_bits() != STALE.to_bits());
            if let Some(last) = last {
                latest.push((series.labels, last.at, last.value));
            }
        }
    }
    latest.sort_by(|a, b| (a.0.get(NAME), &a.0).cmp(&(b.0.get(NAME), &b.0)));
    latest.dedup_by(|a, b| a.0 == b.0);
    let external = monitor.config();
    let meanings = monitor.meanings();
    let (mut out, mut family) = (String::new(), String::new());
    for (labels, at, value) in &latest {
        let name = labels.get(NAME);
        if name != family {
            family = name.to_owned();
            // Other kinds of OpenMetrics would make the whole page unreadable.
            let known = ["counter", "gauge", "histogram", "summary"];
            let kind = meanings.get(name).map(|m| &*m.kind).filter(|k| known.contains(k));
            let _ = writeln!(out, "# TYPE {} {}", classic(name), kind.unwrap_or("untyped"));
        }
        let mut shown = labels.nameless();
        for (n, v) in &external.external_labels {
            if shown.get(n).is_empty() {
                shown = shown.with(n, v);
            }
        }
        // Whoever scrapes this honours the labels; an instance that there is not is said
        // to be empty, so that it is not made one.
        let instance = if shown.get("instance").is_empty() { ",instance=\"\"" } else { "" };
        let pairs: Vec<String> =
            shown.iter().map(|(n, v)| format!("{}={}", classic(n), quoted(v))).collect();
        let pairs = format!("{}{instance}", pairs.join(","));
        let value = crate::json::value_text(*value);
        let pairs = pairs.trim_start_matches(',');
        let _ = writeln!(out, "{}{{{pairs}}} {value} {at}", classic(name));
    }
    Ok(out)
}

/// A name as the text format can have it: underscores for what it cannot.
fn classic(name: &str) -> String {
    let fits = |(i, c): (usize, char)| {
        let may = c == '_' || c == ':' || c.is_ascii_alphabetic() || i > 0 && c.is_ascii_digit();
        if may { c } else { '_' }
    };
    name.chars().enumerate().map(fits).collect()
}
