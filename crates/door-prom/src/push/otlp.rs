//! OTLP metrics over HTTP, protobuf or JSON (opentelemetry.proto.collector.metrics.v1).
//!
//! Names become Prometheus's: underscores for what its names cannot have, the unit and
//! `_total` as suffixes. A resource's `service.namespace/service.name` becomes `job`,
//! `service.instance.id` becomes `instance`, and its other attributes `target_info`. Points
//! of delta temporality are added up here, from zero at each start of this node, and their
//! series have its name as a label: points of one sender may come to several nodes, each of
//! which knows its own part only.

use crate::json::value_text;
use crate::push::otlp_exponential::{ExponentialPoint, native};
use crate::push::otlp_json;
use crate::push::otlp_names::{label_name, metric_name};
use crate::push::otlp_wire::{
    Answer, AnyValue, Data, Exported, HistogramPoint, Histograms, KeyValue, Metric, Numbers,
    PartialSuccess, PointExemplar, SummaryPoint, Value,
};
use crate::store::{Monitor, now_ms};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use synod_promql::{Histogram, Labels, NAME, STALE};
use synod_tsdb::{EXEMPLAR_CHARS_MAX, Exemplar, SeriesId};

/// Bytes of a body, decoded.
const BODY_BYTES_MAX: u64 = 32 << 20;
/// Delta series that are added up, at most.
const SUMS_MAX: usize = 200_000;

/// Running sums of series of delta temporality, each with the end of its latest point.
#[derive(Default)]
pub(crate) struct Sums(Mutex<HashMap<Labels, (i64, f64)>>);

const DELTA: i32 = 1;
/// The label by which nodes' parts of what was added up are told apart.
const NODE: &str = "synod_node";
/// A point says that there is no value any more.
const NO_VALUE: u32 = 1;

/// Answers `POST /api/v1/otlp/v1/metrics`.
pub(crate) fn answer(monitor: &Monitor, request: &Request<Bytes>) -> Response<Bytes> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let json = kind.is_some_and(|k| k.starts_with("application/json"));
    let told =
        |status, why: String| crate::json::plain(status, "text/plain; charset=utf-8", why + "\n");
    if !json && kind.is_some_and(|k| !k.starts_with("application/x-protobuf")) {
        let why = format!("{:?}: only application/x-protobuf and application/json are read", kind);
        return told(StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
    }
    if let Err(why) = monitor.has_room(false) {
        return told(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    let exported = body(request).and_then(|body| match json {
        true => otlp_json::read(&body),
        false => Exported::decode(&*body).map_err(|e| e.to_string()),
    });
    let (rejected, why) = match exported {
        Ok(exported) => take(monitor, exported),
        Err(why) => return told(StatusCode::BAD_REQUEST, why),
    };
    let partial = (rejected > 0)
        .then_some(PartialSuccess { rejected_data_points: rejected, error_message: why });
    let (kind, body) = if json {
        let body = match &partial {
            None => "{}".to_owned(),
            Some(p) => serde_json::json!({"partialSuccess": {
                "rejectedDataPoints": p.rejected_data_points.to_string(),
                "errorMessage": p.error_message,
            }})
            .to_string(),
        };
        ("application/json", Bytes::from(body))
    } else {
        let body = Answer { partial_success: partial }.encode_to_vec();
        ("application/x-protobuf", Bytes::from(body))
    };
    let response = Response::builder().header(header::CONTENT_TYPE, kind).body(body);
    response.unwrap_or_default()
}

fn body(request: &Request<Bytes>) -> Result<Bytes, String> {
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    match encoding.map(|e| e.as_bytes()) {
        None | Some(b"" | b"identity") => Ok(request.body().clone()),
        Some(b"gzip") => {
            let mut out = Vec::new();
            let decoder = flate2::read::GzDecoder::new(&request.body()[..]);
            let read = decoder.take(BODY_BYTES_MAX + 1).read_to_end(&mut out);
            read.map_err(|e| format!("gzip: {e}"))?;
            if out.len() as u64 > BODY_BYTES_MAX {
                return Err(format!("the body is larger than {BODY_BYTES_MAX} bytes when decoded"));
            }
            Ok(out.into())
        }
        Some(other) => Err(format!("encoding {:?} is not read", String::from_utf8_lossy(other))),
    }
}

/// A data point of a request, by its place there; `None`: what is said besides.
type Point = Option<u32>;

/// What is gathered from a request.
#[derive(Default)]
struct Taken {
    by_time: BTreeMap<i64, Vec<(Labels, f64, Point)>>,
    histograms: BTreeMap<i64, Vec<(Labels, Histogram, Point)>>,
    exemplars: Vec<(Labels, Exemplar, Point)>,
    /// How many points were begun: the last is the one that is being read.
    points: u32,
    rejected: BTreeSet<u32>,
    why: String,
}

impl Taken {
    /// What follows is of the next point.
    fn begin(&mut self) {
        self.points += 1;
    }

    /// Rejects a point; it counts once, however many series it has.
    fn reject(&mut self, point: Point, why: impl FnOnce() -> String) {
        if self.why.is_empty() {
            self.why = why();
        }
        self.rejected.extend(point);
    }

    fn reject_this(&mut self, why: impl FnOnce() -> String) {
        self.reject(Some(self.points), why);
    }

    fn add(&mut self, at: i64, labels: Labels, value: f64) {
        self.by_time.entry(at).or_default().push((labels, value, Some(self.points)));
    }

    /// Exemplars of the point that is being read, of series with these labels.
    fn exemplify(&mut self, at: i64, all: &[PointExemplar], series: impl Fn(f64) -> Labels) {
        let point = Some(self.points);
        for one in all {
            let exemplar = exemplar(one, at);
            self.exemplars.push((series(exemplar.value), exemplar, point));
        }
    }
}

/// With the trace and the span as labels, and of the attributes those that there is room for.
fn exemplar(one: &PointExemplar, at: i64) -> Exemplar {
    let hex = |id: &[u8]| id.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (trace, span) = (hex(&one.trace_id), hex(&one.span_id));
    let mut labels = Labels::new([("trace_id", &*trace), ("span_id", &*span)]);
    let chars = |n: &str, v: &str| n.chars().count() + v.chars().count();
    let mut used: usize = labels.iter().map(|(n, v)| chars(n, v)).sum();
    for (name, value) in labelled(&Labels::default(), &one.filtered_attributes).iter() {
        used += chars(name, value);
        if used > EXEMPLAR_CHARS_MAX {
            break;
        }
        labels = labels.with(name, value);
    }
    let value = one.as_double.or(one.as_int.map(|i| i as f64)).unwrap_or(0.0);
    let at = if one.time_unix_nano == 0 { at } else { ms(one.time_unix_nano) };
    Exemplar { labels, value, at }
}

/// Takes what can be taken; gives how many points were not, and why.
fn take(monitor: &Monitor, exported: Exported) -> (i64, String) {
    let mut taken = Taken::default();
    for resource in exported.resource_metrics {
        let attributes = resource.resource.map(|r| r.attributes).unwrap_or_default();
        let (base, info) = of_resource(&attributes);
        let mut latest = 0;
        for metric in resource.scope_metrics.into_iter().flat_map(|s| s.metrics) {
            latest = latest.max(one(monitor, &mut taken, &base, metric));
        }
        if let Some(info) = info.filter(|_| latest > 0) {
            taken.by_time.entry(latest).or_default().push((info, 1.0, None));
        }
    }
    let (by_time, histograms) =
        (std::mem::take(&mut taken.by_time), std::mem::take(&mut taken.histograms));
    let times: BTreeSet<i64> = by_time.keys().chain(histograms.keys()).copied().collect();
    for at in times {
        let numbers = by_time.get(&at).map_or(&[][..], |all| all);
        let histograms = histograms.get(&at).map_or(&[][..], |all| all);
        append(monitor, &mut taken, at, numbers, histograms);
    }
    for (series, exemplar, point) in std::mem::take(&mut taken.exemplars) {
        if point.is_some_and(|point| taken.rejected.contains(&point)) {
            continue;
        }
        if let Err(why) = monitor.exemplar(&series, exemplar) {
            tracing::debug!(%series, error = %why, "an exemplar was refused");
        }
    }
    (taken.rejected.len() as i64, taken.why)
}

/// Appends what is of one time.
fn append(
    monitor: &Monitor,
    taken: &mut Taken,
    at: i64,
    numbers: &[(Labels, f64, Point)],
    histograms: &[(Labels, Histogram, Point)],
) {
    let mut points: HashMap<SeriesId, Point> = HashMap::new();
    let mut refuse = |labels: &Labels, point: Point, why: &dyn std::fmt::Display| {
        // Of what is said besides the points nobody is told.
        if point.is_some() {
            taken.reject(point, || format!("series {labels}: {why}"));
        }
    };
    let mut known = Vec::with_capacity(numbers.len());
    for (labels, value, point) in numbers {
        match monitor.series(labels) {
            Ok(id) => {
                points.insert(id, *point);
                known.push((id, *value));
            }
            Err(why) => refuse(labels, *point, &why),
        }
    }
    let mut natives = Vec::with_capacity(histograms.len());
    for (labels, histogram, point) in histograms {
        match monitor.series(labels) {
            Ok(id) => {
                points.insert(id, *point);
                natives.push((id, Arc::new(histogram.clone())));
            }
            Err(why) => refuse(labels, *point, &why),
        }
    }
    let refused = monitor.append(at, &known);
    for (id, why) in refused.into_iter().chain(monitor.append_histograms(at, &natives)) {
        let labels = monitor.head().labels(id).unwrap_or_default();
        refuse(&labels, points.get(&id).copied().flatten(), &why);
    }
}

/// The labels of all series of a resource, and its `target_info`.
fn of_resource(attributes: &[KeyValue]) -> (Labels, Option<Labels>) {
    let get = |key: &str| {
        let found = attributes.iter().find(|a| a.key == key);
        found.and_then(|a| a.value.as_ref()).map(text).unwrap_or_default()
    };
    let (space, name) = (get("service.namespace"), get("service.name"));
    let job = if space.is_empty() { name } else { format!("{space}/{name}") };
    let base = Labels::new([("job", job), ("instance", get("service.instance.id"))]);
    let known = ["service.namespace", "service.name", "service.instance.id"];
    let rest: Vec<KeyValue> =
        attributes.iter().filter(|a| !known.contains(&&*a.key)).cloned().collect();
    let info = (!rest.is_empty() && !base.is_empty())
        .then(|| labelled(&base, &rest).with(NAME, "target_info"));
    (base, info)
}

/// These labels and the attributes; those that become one name are joined by a semicolon.
fn labelled(base: &Labels, attributes: &[KeyValue]) -> Labels {
    let mut sorted: Vec<&KeyValue> = attributes.iter().collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    let mut labels = Labels::default();
    for attribute in sorted {
        let name = label_name(&attribute.key);
        let value = attribute.value.as_ref().map(text).unwrap_or_default();
        let value = match labels.get(&name) {
            "" => value,
            before => format!("{before};{value}"),
        };
        labels = labels.with(&name, &value);
    }
    for (name, value) in base.iter() {
        labels = labels.with(name, value);
    }
    labels
}

/// A value as text: numbers as they are, lists and maps as JSON.
fn text(value: &AnyValue) -> String {
    match &value.value {
        None => String::new(),
        Some(Value::Text(text)) => text.clone(),
        _ => json(value, 0).to_string(),
    }
}

/// Nesting of values that is shown, at most.
const DEPTH_MAX: usize = 16;

fn json(value: &AnyValue, depth: usize) -> serde_json::Value {
    use base64::Engine;
    use serde_json::Value as Json;
    if depth > DEPTH_MAX {
        return Json::Null;
    }
    match &value.value {
        None => Json::Null,
        Some(Value::Text(t)) => t.clone().into(),
        Some(Value::Bool(b)) => (*b).into(),
        Some(Value::Int(i)) => (*i).into(),
        Some(Value::Double(d)) => (*d).into(),
        Some(Value::Bytes(b)) => base64::engine::general_purpose::STANDARD.encode(b).into(),
        Some(Value::Array(a)) => a.values.iter().map(|v| json(v, depth + 1)).collect(),
        Some(Value::Map(m)) => {
            let pair = |kv: &KeyValue| {
                let value = kv.value.as_ref().map_or(Json::Null, |v| json(v, depth + 1));
                (kv.key.clone(), value)
            };
            Json::Object(m.values.iter().map(pair).collect())
        }
    }
}

fn ms(nanos: u64) -> i64 {
    (nanos / 1_000_000) as i64
}

/// Takes one metric; gives the time of its latest point.
fn one(monitor: &Monitor, taken: &mut Taken, base: &Labels, metric: Metric) -> i64 {
    let Metric { name, description, unit, data } = metric;
    let Some(data) = data else { return 0 };
    let kind = match &data {
        Data::Gauge(_) => "gauge",
        Data::Sum(s) if s.monotonic => "counter",
        Data::Sum(_) => "gauge",
        Data::Histogram(_) => "histogram",
        Data::Summary(_) => "summary",
        Data::Exponential(e) if e.temporality == DELTA => {
            for _ in &e.data_points {
                taken.begin();
                taken.reject_this(|| {
                    format!("{name}: exponential histograms of delta temporality are not read")
                });
            }
            return 0;
        }
        Data::Exponential(_) => "histogram",
    };
    let full = metric_name(&name, &unit, kind);
    monitor.learn("TYPE", &full, kind);
    for (what, says) in [("HELP", &description), ("UNIT", &unit)] {
        if !says.is_empty() {
            monitor.learn(what, &full, says);
        }
    }
    let base = base.with(NAME, &full);
    let sums = monitor.sums();
    let base = match &data {
        Data::Sum(Numbers { temporality: DELTA, .. })
        | Data::Histogram(Histograms { temporality: DELTA, .. }) => base.with(NODE, monitor.node()),
        _ => base,
    };
    match data {
        Data::Gauge(n) => numbers(taken, &base, &n, None),
        Data::Sum(n) if n.temporality == DELTA => numbers(taken, &base, &n, Some(sums)),
        Data::Sum(n) => numbers(taken, &base, &n, None),
        Data::Histogram(h) => {
            let sums = (h.temporality == DELTA).then_some(sums);
            let points = h.data_points.iter();
            points.map(|p| histogram(taken, &base, &full, p, sums)).max().unwrap_or(0)
        }
        Data::Summary(s) => {
            let points = s.data_points.iter();
            points.map(|p| summary(taken, &base, &full, p)).max().unwrap_or(0)
        }
        Data::Exponential(e) => {
            let points = e.data_points.iter();
            points.map(|p| exponential(taken, &base, p)).max().unwrap_or(0)
        }
    }
}

fn numbers(taken: &mut Taken, base: &Labels, numbers: &Numbers, sums: Option<&Sums>) -> i64 {
    let mut latest = 0;
    for point in &numbers.data_points {
        taken.begin();
        let at = ms(point.time_unix_nano);
        latest = latest.max(at);
        let labels = labelled(base, &point.attributes);
        let value = point.as_double.or(point.as_int.map(|i| i as f64)).unwrap_or(0.0);
        taken.exemplify(at, &point.exemplars, |_| labels.clone());
        put(taken, at, labels, value, point.flags, sums);
    }
    latest
}

fn put(taken: &mut Taken, at: i64, labels: Labels, value: f64, flags: u32, sums: Option<&Sums>) {
    if flags & NO_VALUE != 0 {
        return taken.add(at, labels, STALE);
    }
    match sums {
        None => taken.add(at, labels, value),
        Some(sums) => match sums.add(&labels, at, value) {
            Ok(sum) => taken.add(at, labels, sum),
            Err(why) => taken.reject_this(|| format!("series {labels}: {why}")),
        },
    }
}

fn histogram(
    taken: &mut Taken,
    base: &Labels,
    name: &str,
    point: &HistogramPoint,
    sums: Option<&Sums>,
) -> i64 {
    taken.begin();
    let at = ms(point.time_unix_nano);
    let labels = labelled(base, &point.attributes);
    if !point.bucket_counts.is_empty()
        && point.bucket_counts.len() != point.explicit_bounds.len() + 1
    {
        taken.reject_this(|| format!("{name}: the numbers of buckets and bounds do not fit"));
        return at;
    }
    let suffixed = |suffix: &str| labels.with(NAME, &format!("{name}{suffix}"));
    let buckets = suffixed("_bucket");
    let le = |value: f64| {
        let bound = point.explicit_bounds.iter().find(|bound| value <= **bound);
        bound.map_or("+Inf".to_owned(), |bound| value_text(*bound))
    };
    taken.exemplify(at, &point.exemplars, |value| buckets.with("le", &le(value)));
    let mut cumulative = 0u64;
    for (count, le) in point.bucket_counts.iter().zip(&point.explicit_bounds) {
        cumulative = cumulative.saturating_add(*count);
        let le = buckets.with("le", &value_text(*le));
        put(taken, at, le, cumulative as f64, point.flags, sums);
    }
    put(taken, at, buckets.with("le", "+Inf"), point.count as f64, point.flags, sums);
    put(taken, at, suffixed("_count"), point.count as f64, point.flags, sums);
    if let Some(sum) = point.sum {
        put(taken, at, suffixed("_sum"), sum, point.flags, sums);
    }
    at
}

fn exponential(taken: &mut Taken, base: &Labels, point: &ExponentialPoint) -> i64 {
    taken.begin();
    let at = ms(point.time_unix_nano);
    let labels = labelled(base, &point.attributes);
    if point.flags & NO_VALUE != 0 {
        taken.add(at, labels, STALE);
        return at;
    }
    match native(point) {
        Ok(histogram) => {
            taken.exemplify(at, &point.exemplars, |_| labels.clone());
            let of = Some(taken.points);
            taken.histograms.entry(at).or_default().push((labels, histogram, of));
        }
        Err(why) => taken.reject_this(|| format!("series {labels}: exponential histogram: {why}")),
    }
    at
}

fn summary(taken: &mut Taken, base: &Labels, name: &str, point: &SummaryPoint) -> i64 {
    taken.begin();
    let at = ms(point.time_unix_nano);
    let labels = labelled(base, &point.attributes);
    let suffixed = |suffix: &str| labels.with(NAME, &format!("{name}{suffix}"));
    for q in &point.quantile_values {
        put(
            taken,
            at,
            labels.with("quantile", &value_text(q.quantile)),
            q.value,
            point.flags,
            None,
        );
    }
    put(taken, at, suffixed("_sum"), point.sum, point.flags, None);
    put(taken, at, suffixed("_count"), point.count as f64, point.flags, None);
    at
}

impl Sums {
    /// Adds a delta; gives the sum so far. A point again, or an earlier one, is not counted.
    fn add(&self, labels: &Labels, at: i64, value: f64) -> Result<f64, String> {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sums.len() >= SUMS_MAX && !sums.contains_key(labels) {
            // Those not heard of for longest are forgotten: a counter that begins anew.
            let oldest = now_ms() - 3_600_000;
            sums.retain(|_, (at, _)| *at > oldest);
            if sums.len() >= SUMS_MAX {
                return Err(format!("there are {SUMS_MAX} delta series already"));
            }
        }
        let (last, sum) = sums.entry(labels.clone()).or_insert((i64::MIN, 0.0));
        if at <= *last {
            return Err("a delta point is not later than the one before".into());
        }
        (*last, *sum) = (at, *sum + value);
        Ok(*sum)
    }
}
