//! Remote-write 1.0: what other Prometheus servers and agents push.

use crate::json::plain;
use crate::store::{Monitor, now_ms};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use prost::Message;
use std::collections::BTreeMap;
use synod_promql::{Labels, NAME};
use synod_tsdb::SeriesId;

/// Bytes of a body, decoded.
const BODY_BYTES_MAX: usize = 32 << 20;
/// How far ahead of this node's clock a sample may be, ms.
const AHEAD_MAX: i64 = 600_000;

/// `prometheus.WriteRequest`, as far as it is read.
#[derive(Message)]
pub(crate) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub timeseries: Vec<TimeSeries>,
}

/// `prometheus.TimeSeries`.
#[derive(Message)]
pub(crate) struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<WrittenSample>,
    /// Native histograms, which are not stored.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub histograms: Vec<Vec<u8>>,
}

/// `prometheus.Label`.
#[derive(Message)]
pub(crate) struct Label {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `prometheus.Sample`.
#[derive(Message)]
pub(crate) struct WrittenSample {
    #[prost(double, tag = "1")]
    pub value: f64,
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
}

type Told = (StatusCode, String);

/// Answers `POST /api/v1/write`.
pub(crate) fn write(monitor: &Monitor, request: &Request<Bytes>) -> Response<Bytes> {
    match take(monitor, request) {
        Ok(()) => plain(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", String::new()),
        Err((status, why)) => plain(status, "text/plain; charset=utf-8", why + "\n"),
    }
}

fn take(monitor: &Monitor, request: &Request<Bytes>) -> Result<(), Told> {
    let header =
        |name| request.headers().get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
    let kind = header(header::CONTENT_TYPE).unwrap_or("application/x-protobuf");
    let unsupported = |why: String| (StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
    let mut parts = kind.split(';').map(str::trim);
    if parts.next() != Some("application/x-protobuf") {
        return Err(unsupported(format!("{kind:?}: only application/x-protobuf is read")));
    }
    let proto = parts.find_map(|p| p.strip_prefix("proto=")).unwrap_or("prometheus.WriteRequest");
    if proto != "prometheus.WriteRequest" {
        return Err(unsupported(format!("{proto}: only remote-write 1.0 is built so far")));
    }
    match header(header::CONTENT_ENCODING) {
        None | Some("snappy") => {}
        Some(other) => return Err(unsupported(format!("{other:?}: only snappy is read"))),
    }
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let length = snap::raw::decompress_len(request.body()).map_err(|e| bad(e.to_string()))?;
    if length > BODY_BYTES_MAX {
        let why = format!("the body is {length} bytes when decoded; the limit is {BODY_BYTES_MAX}");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    let body = snap::raw::Decoder::new().decompress_vec(request.body());
    let body = body.map_err(|e| bad(e.to_string()))?;
    let written = WriteRequest::decode(&*body).map_err(|e| bad(e.to_string()))?;
    append(monitor, written).map_err(bad)
}

/// Takes what can be taken; the error tells the first of what cannot.
fn append(monitor: &Monitor, written: WriteRequest) -> Result<(), String> {
    let latest = now_ms() + AHEAD_MAX;
    let mut by_time: BTreeMap<i64, Vec<(SeriesId, f64)>> = BTreeMap::new();
    let (mut first, mut count) = (None, 0usize);
    let mut refuse = |why: String| {
        count += 1;
        first.get_or_insert(why);
    };
    for series in written.timeseries {
        let labels = Labels::new(series.labels.iter().map(|l| (&*l.name, &*l.value)));
        if labels.get(NAME).is_empty() {
            refuse(format!("series {labels} has no name"));
            continue;
        }
        if !series.histograms.is_empty() {
            refuse(format!("series {labels}: native histograms are not built yet"));
        }
        match monitor.series(&labels) {
            Err(why) => refuse(format!("series {labels}: {why}")),
            Ok(id) => {
                for s in series.samples {
                    if s.timestamp > latest {
                        refuse(format!("series {labels}: a sample is too far in the future"));
                    } else {
                        by_time.entry(s.timestamp).or_default().push((id, s.value));
                    }
                }
            }
        }
    }
    for (at, samples) in by_time {
        for (id, why) in monitor.append(at, &samples) {
            let labels = monitor.head().labels(id).cloned().unwrap_or_default();
            refuse(format!("series {labels}: {why}"));
        }
    }
    match first {
        None => Ok(()),
        Some(why) => Err(format!("{why} ({count} refused in all; the rest was taken)")),
    }
}
