//! Remote-read: samples, not streamed chunks; of all nodes, unless `nodes=local` asks for this
//! one's, as the nodes ask each other.

use crate::form::Form;
use crate::json::plain;
use crate::push::histogram::written;
use crate::push::unpacked;
use crate::push::wire::{
    Label, LabelMatcher, QueryResult, ReadRequest, ReadResponse, TimeSeries, WrittenSample,
};
use crate::store::Monitor;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use prost::Message;
use synod_promql::{Matcher, Series, Source};

const TEXT: &str = "text/plain; charset=utf-8";
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
    let form = Form::of(request, &[]);
    let source = monitor.fan(&form, monitor.0.settings.query_timeout);
    let source = source.map_err(|e| (e.status, e.why))?;
    let (mut results, mut count) = (Vec::new(), 0);
    for query in asked.queries {
        let matchers: Result<Vec<Matcher>, String> = query.matchers.iter().map(matcher).collect();
        let matchers = matchers.map_err(bad)?;
        let (from, to) = (query.start_timestamp_ms, query.end_timestamp_ms);
        let found = source.select(&matchers, from, to);
        let mut found = found.map_err(|why| (StatusCode::INTERNAL_SERVER_ERROR, why))?;
        found.sort_by(|a, b| a.labels.cmp(&b.labels));
        count += found.iter().map(Series::weight).sum::<usize>();
        if count > SAMPLES_MAX {
            return Err(bad(format!("the answer would have more than {SAMPLES_MAX} samples")));
        }
        results.push(QueryResult { timeseries: found.into_iter().map(time_series).collect() });
    }
    for why in source.warnings() {
        // The form has no place for it.
        tracing::warn!(error = why, "what is read lacks what a node has seen");
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
