//! What others push: remote-write 1.0 and 2.0 here, the Pushgateway's API and OTLP beside.

pub(crate) mod families;
pub(crate) mod gateway;
pub(crate) mod histogram;
pub(crate) mod otlp;
mod otlp_exponential;
mod otlp_json;
mod otlp_names;
mod otlp_wire;
pub(crate) mod wire;

use crate::json::plain;
use crate::store::Monitor;
use bytes::Bytes;
use histogram::WrittenHistogram;
use http::{Request, Response, StatusCode, header};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_promql::{Histogram, Labels, NAME};
use synod_tsdb::{Exemplar, SeriesId};
use wire::{WriteRequest, WriteRequest2};

/// Bytes of a body, decoded.
const BODY_BYTES_MAX: usize = 32 << 20;
const TEXT: &str = "text/plain; charset=utf-8";
/// The message of remote-write 1.0, as a content type names it.
pub(crate) const VERSION1: &str = "prometheus.WriteRequest";
/// That of 2.0.
pub(crate) const VERSION2: &str = "io.prometheus.write.v2.Request";

type Told = (StatusCode, String);

/// What was done with a request.
#[derive(Default)]
struct Done {
    samples: usize,
    histograms: usize,
    exemplars: usize,
    refused: usize,
    /// Why the first of what was refused was.
    why: Option<String>,
}

impl Done {
    fn refuse(&mut self, why: String) {
        self.refused += 1;
        self.why.get_or_insert(why);
    }
}

/// Answers `POST /api/v1/write`.
pub(crate) fn write(monitor: &Monitor, request: &Request<Bytes>) -> Response<Bytes> {
    let (done, version2) = match take(monitor, request) {
        Ok(done) => done,
        Err((status, why)) => return plain(status, TEXT, why + "\n"),
    };
    let mut response = match &done.why {
        None => plain(StatusCode::NO_CONTENT, TEXT, String::new()),
        Some(why) => {
            let why = format!("{why} ({} refused in all; the rest was taken)\n", done.refused);
            plain(StatusCode::BAD_REQUEST, TEXT, why)
        }
    };
    if version2 {
        let counts = [
            ("x-prometheus-remote-write-samples-written", done.samples),
            ("x-prometheus-remote-write-histograms-written", done.histograms),
            ("x-prometheus-remote-write-exemplars-written", done.exemplars),
        ];
        for (name, count) in counts {
            response.headers_mut().insert(name, count.into());
        }
    }
    response
}

fn take(monitor: &Monitor, request: &Request<Bytes>) -> Result<(Done, bool), Told> {
    let header =
        |name| request.headers().get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
    let kind = header(header::CONTENT_TYPE).unwrap_or("application/x-protobuf");
    let unsupported = |why: String| (StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
    let mut parts = kind.split(';').map(str::trim);
    if parts.next() != Some("application/x-protobuf") {
        return Err(unsupported(format!("{kind:?}: only application/x-protobuf is read")));
    }
    let proto = parts.find_map(|p| p.strip_prefix("proto=")).unwrap_or(VERSION1);
    let version2 = match proto {
        VERSION1 => false,
        VERSION2 => true,
        other => return Err(unsupported(format!("{other} is neither {VERSION1} nor {VERSION2}"))),
    };
    match header(header::CONTENT_ENCODING) {
        None | Some("snappy") => {}
        Some(other) => return Err(unsupported(format!("{other:?}: only snappy is read"))),
    }
    // Nothing of it is taken, so that the sender may try it again as it is.
    monitor.has_room(false).map_err(|why| (StatusCode::SERVICE_UNAVAILABLE, why))?;
    let body = unpacked(request.body())?;
    let bad = |e: prost::DecodeError| (StatusCode::BAD_REQUEST, e.to_string());
    let mut done = Done::default();
    let batch = if version2 {
        of_version2(monitor, WriteRequest2::decode(&*body).map_err(bad)?, &mut done)
            .map_err(|why| (StatusCode::BAD_REQUEST, why))?
    } else {
        of_version1(monitor, WriteRequest::decode(&*body).map_err(bad)?, &mut done)
    };
    append(monitor, batch, &mut done);
    Ok((done, version2))
}

/// A body in snappy's block format.
pub(crate) fn unpacked(body: &[u8]) -> Result<Vec<u8>, Told> {
    let bad = |e: snap::Error| (StatusCode::BAD_REQUEST, e.to_string());
    let length = snap::raw::decompress_len(body).map_err(bad)?;
    if length > BODY_BYTES_MAX {
        let why = format!("the body is {length} bytes when decoded; the limit is {BODY_BYTES_MAX}");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    snap::raw::Decoder::new().decompress_vec(body).map_err(bad)
}

/// A series with its samples: time and value.
struct Series {
    labels: Labels,
    samples: Vec<(i64, f64)>,
    histograms: Vec<(i64, Histogram)>,
    exemplars: Vec<Exemplar>,
}

/// Those of the histograms of a series that can be taken.
fn sound(labels: &Labels, all: &[WrittenHistogram], done: &mut Done) -> Vec<(i64, Histogram)> {
    let mut found = Vec::with_capacity(all.len());
    for written in all {
        match histogram::received(written) {
            Ok(histogram) => found.push((written.timestamp, histogram)),
            Err(why) => done.refuse(format!("series {labels}: no sound histogram: {why}")),
        }
    }
    found
}

/// The labels of a series; `None`: one is named twice, so that nobody knows which series it
/// is.
fn once_each<'a>(pairs: &[(&'a str, &'a str)], done: &mut Done) -> Option<Labels> {
    let mut names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
        let metric = pairs.iter().find(|(name, _)| *name == NAME).map_or("", |(_, name)| name);
        done.refuse(format!("a series of {metric:?} has two labels {:?}", twice[0]));
        return None;
    }
    Some(Labels::new(pairs.iter().copied()))
}

/// What a request of either version says of a metric.
fn learn(monitor: &Monitor, name: &str, kind: i32, help: &str, unit: &str) {
    let kind = usize::try_from(kind).ok().and_then(|kind| wire::KINDS.get(kind)).copied();
    let says = [("TYPE", kind.unwrap_or_default()), ("HELP", help), ("UNIT", unit)];
    for (what, says) in says.into_iter().filter(|(_, says)| !says.is_empty()) {
        monitor.learn(what, name, says);
    }
}

fn of_version1(monitor: &Monitor, written: WriteRequest, done: &mut Done) -> Vec<Series> {
    for meta in written.metadata.iter().filter(|meta| !meta.name.is_empty()) {
        learn(monitor, &meta.name, meta.kind, &meta.help, &meta.unit);
    }
    let mut all = Vec::with_capacity(written.timeseries.len());
    for series in written.timeseries {
        let pairs: Vec<_> = series.labels.iter().map(|l| (&*l.name, &*l.value)).collect();
        let Some(labels) = once_each(&pairs, done) else { continue };
        let histograms = sound(&labels, &series.histograms, done);
        let samples = series.samples.iter().map(|s| (s.timestamp, s.value)).collect();
        let exemplar = |e: &wire::WrittenExemplar| Exemplar {
            labels: Labels::new(e.labels.iter().map(|l| (&*l.name, &*l.value))),
            value: e.value,
            at: e.timestamp,
        };
        let exemplars = series.exemplars.iter().map(exemplar).collect();
        all.push(Series { labels, samples, histograms, exemplars });
    }
    all
}

/// A request of version 2.0 names each text once, and refers to it by its number.
fn of_version2(
    monitor: &Monitor,
    written: WriteRequest2,
    done: &mut Done,
) -> Result<Vec<Series>, String> {
    let symbols = &written.symbols;
    if symbols.first().is_some_and(|first| !first.is_empty()) {
        return Err("symbols[0] is not empty".into());
    }
    let symbol = |at: u32| {
        let found = symbols.get(at as usize);
        found.map(|s| &**s).ok_or_else(|| format!("there is no symbol {at}"))
    };
    let labels_of = |refs: &[u32]| {
        if !refs.len().is_multiple_of(2) {
            return Err("a series refers to a label without a value".to_owned());
        }
        let pair = |pair: &[u32]| Ok((symbol(pair[0])?, symbol(pair[1])?));
        refs.chunks_exact(2).map(pair).collect::<Result<Vec<(&str, &str)>, String>>()
    };
    let mut all = Vec::with_capacity(written.timeseries.len());
    for series in written.timeseries {
        let Some(labels) = once_each(&labels_of(&series.labels_refs)?, done) else { continue };
        let histograms = sound(&labels, &series.histograms, done);
        if let Some(meta) = &series.metadata {
            let (help, unit) = (symbol(meta.help_ref)?, symbol(meta.unit_ref)?);
            learn(monitor, labels.get(NAME), meta.kind, help, unit);
        }
        let samples = series.samples.iter().map(|s| (s.timestamp, s.value)).collect();
        let mut exemplars = Vec::with_capacity(series.exemplars.len());
        for e in &series.exemplars {
            let labels = Labels::new(labels_of(&e.labels_refs)?);
            exemplars.push(Exemplar { labels, value: e.value, at: e.timestamp });
        }
        all.push(Series { labels, samples, histograms, exemplars });
    }
    Ok(all)
}

/// Histograms by their times.
type Natives = BTreeMap<i64, Vec<(SeriesId, Arc<Histogram>)>>;

/// Takes what can be taken.
fn append(monitor: &Monitor, batch: Vec<Series>, done: &mut Done) {
    let mut by_time: BTreeMap<i64, Vec<(SeriesId, f64)>> = BTreeMap::new();
    let (mut exemplars, mut natives) = (Vec::new(), Natives::new());
    for Series { labels, samples, histograms, exemplars: own } in batch {
        if labels.get(NAME).is_empty() {
            done.refuse(format!("series {labels} has no name"));
            continue;
        }
        match monitor.series(&labels) {
            Err(why) => done.refuse(format!("series {labels}: {why}")),
            Ok(id) => {
                exemplars.extend(own.into_iter().map(|e| (labels.clone(), e)));
                for (at, value) in samples {
                    by_time.entry(at).or_default().push((id, value));
                }
                for (at, histogram) in histograms {
                    natives.entry(at).or_default().push((id, Arc::new(histogram)));
                }
            }
        }
    }
    // In the order of their times, whatever they are.
    let times: BTreeSet<i64> = by_time.keys().chain(natives.keys()).copied().collect();
    for at in times {
        let mut refused = Vec::new();
        if let Some(samples) = by_time.get(&at) {
            refused = monitor.append(at, samples);
            done.samples += samples.len() - refused.len();
        }
        if let Some(histograms) = natives.get(&at) {
            let mut more = monitor.append_histograms(at, histograms);
            done.histograms += histograms.len() - more.len();
            refused.append(&mut more);
        }
        for (id, why) in refused {
            let labels = monitor.head().labels(id).unwrap_or_default();
            done.refuse(format!("series {labels}: {why}"));
        }
    }
    for (labels, exemplar) in exemplars {
        match monitor.exemplar(&labels, exemplar) {
            Ok(()) => done.exemplars += 1,
            // As Prometheus has it: samples count, exemplars are a help.
            Err(why) => tracing::debug!(series = %labels, error = %why, "an exemplar was refused"),
        }
    }
}
