//! Answers in the shapes of Prometheus's HTTP API. Written by hand where order counts:
//! some clients read `resultType` before they can read `result`.

use bytes::Bytes;
use http::{Response, StatusCode};
use std::fmt::Write;
use std::time::Duration;
use synod_promql::{Answer, Counts, HistogramSample, Labels, Query, Sample, Series};

/// An answer that is an error.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub status: StatusCode,
    pub kind: &'static str,
    pub why: String,
}

impl Failure {
    pub fn bad_data(why: impl Into<String>) -> Failure {
        Failure { status: StatusCode::BAD_REQUEST, kind: "bad_data", why: why.into() }
    }

    pub fn internal(why: impl Into<String>) -> Failure {
        Failure { status: StatusCode::INTERNAL_SERVER_ERROR, kind: "internal", why: why.into() }
    }
}

impl Failure {
    /// Of a query.
    pub fn of_query(e: &synod_promql::Error, query: &str) -> Failure {
        use synod_promql::ErrorKind;
        let (status, kind) = match e.kind {
            ErrorKind::Parse => (StatusCode::BAD_REQUEST, "bad_data"),
            ErrorKind::Execution => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
            ErrorKind::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            ErrorKind::Source => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        let place = match e.kind {
            ErrorKind::Parse => "invalid parameter \"query\": ",
            _ => "",
        };
        Failure { status, kind, why: format!("{place}{}", e.told(query)) }
    }
}

pub(crate) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A number as Prometheus writes it.
pub(crate) fn value_text(v: f64) -> String {
    if v.is_nan() {
        "NaN".into()
    } else if v.is_infinite() {
        if v > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        v.to_string()
    }
}

/// A number with an exponent of two digits at least.
pub(crate) fn with_exponent(v: f64) -> String {
    let text = format!("{v:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// A number as Prometheus's answers have it: the very small and the very large ones with an
/// exponent.
pub(crate) fn number(out: &mut String, v: f64) {
    let plain = v == 0.0 || !v.is_finite() || (1e-6..1e21).contains(&v.abs());
    let text = if plain { value_text(v) } else { with_exponent(v) };
    let _ = write!(out, "\"{text}\"");
}

/// Seconds with as many decimals as there are.
pub(crate) fn time(out: &mut String, ms: i64) {
    let _ = match ms.rem_euclid(1_000) {
        0 => write!(out, "{}", ms / 1_000),
        _ => write!(out, "{}", ms as f64 / 1_000.0),
    };
}

fn sample(out: &mut String, s: Sample) {
    out.push('[');
    time(out, s.at);
    out.push(',');
    number(out, s.value);
    out.push(']');
}

fn histogram(out: &mut String, h: &HistogramSample) {
    out.push('[');
    time(out, h.at);
    out.push_str(",{\"count\":");
    number(out, h.value.count);
    out.push_str(",\"sum\":");
    number(out, h.value.sum);
    let mut buckets = h.value.buckets().peekable();
    if buckets.peek().is_some() {
        out.push_str(",\"buckets\":");
        list(out, buckets, |out, bucket| {
            // Which of the bounds belong to it.
            let rule = match (bucket.lower_within, bucket.upper_within) {
                (false, true) => 0,
                (true, false) => 1,
                (false, false) => 2,
                (true, true) => 3,
            };
            let _ = write!(out, "[{rule},");
            number(out, bucket.lower);
            out.push(',');
            number(out, bucket.upper);
            out.push(',');
            number(out, bucket.count);
            out.push(']');
        });
    }
    out.push_str("}]");
}

pub(crate) fn labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (i, (name, value)) in labels.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(out, "{comma}{}:{}", text(name), text(value));
    }
    out.push('}');
}

/// Joined by commas, in brackets.
pub(crate) fn list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut one: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        one(out, item);
    }
    out.push(']');
}

/// `data` of a query.
pub(crate) fn answer(answer: &Answer, query: Query, range: bool) -> String {
    let mut out = String::new();
    let kind = match answer {
        Answer::Scalar(_) | Answer::Vector(_) if range => "matrix",
        Answer::Scalar(_) => "scalar",
        Answer::Text(_) => "string",
        Answer::Vector(_) => "vector",
        Answer::Matrix(_) => "matrix",
    };
    let _ = write!(out, "{{\"resultType\":\"{kind}\",\"result\":");
    match answer {
        Answer::Scalar(values) if range => {
            let samples = values.iter().enumerate();
            let samples = samples.map(|(i, v)| Sample { at: query.at(i), value: *v }).collect();
            let series = [Series::new(Labels::default(), samples)];
            list(&mut out, &series, |out, s| series_of(out, s, true));
        }
        Answer::Scalar(values) => {
            let value = values.first().copied().unwrap_or(f64::NAN);
            sample(&mut out, Sample { at: query.start, value });
        }
        Answer::Text(t) => {
            out.push('[');
            time(&mut out, query.start);
            let _ = write!(out, ",{}]", text(t));
        }
        Answer::Vector(all) => list(&mut out, all, |out, s| series_of(out, s, range)),
        Answer::Matrix(all) => list(&mut out, all, |out, s| series_of(out, s, true)),
    }
    out.push('}');
    out
}

fn series_of(out: &mut String, series: &Series, many: bool) {
    out.push_str("{\"metric\":");
    labels(out, &series.labels);
    if many {
        if !series.samples.is_empty() || series.histograms.is_empty() {
            out.push_str(",\"values\":");
            list(out, &series.samples, |out, s| sample(out, *s));
        }
        if !series.histograms.is_empty() {
            out.push_str(",\"histograms\":");
            list(out, &series.histograms, histogram);
        }
    } else if let Some(s) = series.samples.first() {
        out.push_str(",\"value\":");
        sample(out, *s);
    } else if let Some(h) = series.histograms.first() {
        out.push_str(",\"histogram\":");
        histogram(out, h);
    }
    out.push('}');
}

/// What a query took.
#[derive(Default)]
pub(crate) struct Stats {
    pub queued: Duration,
    pub prepared: Duration,
    pub evaluated: Duration,
    pub sorted: Duration,
    pub counts: Counts,
}

impl Stats {
    /// As a further member of an object.
    pub fn put(&self, out: &mut String) {
        let total = self.prepared + self.evaluated + self.sorted;
        let _ = write!(
            out,
            ",\"stats\":{{\"timings\":{{\"evalTotalTime\":{},\"resultSortTime\":{},\
             \"queryPreparationTime\":{},\"innerEvalTime\":{},\"execQueueTime\":{},\
             \"execTotalTime\":{}}},\"samples\":{{\"totalQueryableSamples\":{},\"peakSamples\":{}}}}}",
            total.as_secs_f64(),
            self.sorted.as_secs_f64(),
            self.prepared.as_secs_f64(),
            self.evaluated.as_secs_f64(),
            self.queued.as_secs_f64(),
            (self.queued + total).as_secs_f64(),
            self.counts.looked_at,
            self.counts.peak,
        );
    }
}

/// What is answered: data as JSON, and what a person should know of it.
pub(crate) struct Success {
    pub data: String,
    pub warnings: Vec<String>,
    pub infos: Vec<String>,
}

impl From<String> for Success {
    fn from(data: String) -> Success {
        Success { data, warnings: Vec::new(), infos: Vec::new() }
    }
}

pub(crate) fn respond(result: Result<Success, Failure>) -> Response<Bytes> {
    let (status, body) = match result {
        Ok(Success { data, warnings, infos }) => {
            let mut body = format!("{{\"status\":\"success\",\"data\":{data}");
            for (name, notes) in [("warnings", &warnings), ("infos", &infos)] {
                if !notes.is_empty() {
                    let _ = write!(body, ",\"{name}\":");
                    list(&mut body, notes, |out, note| out.push_str(&text(note)));
                }
            }
            (StatusCode::OK, body + "}")
        }
        Err(f) => {
            let (kind, why) = (f.kind, text(&f.why));
            let body = format!("{{\"status\":\"error\",\"errorType\":\"{kind}\",\"error\":{why}}}");
            (f.status, body)
        }
    };
    plain(status, "application/json", body)
}

pub(crate) fn plain(status: StatusCode, kind: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_does() {
        for (v, text) in [
            (0.0, "0"),
            (-1.5, "-1.5"),
            (1e-6, "0.000001"),
            (-1e-128, "-1e-128"),
            (2.5e-7, "2.5e-07"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            let mut out = String::new();
            number(&mut out, v);
            assert_eq!(out, format!("\"{text}\""));
        }
    }
}
