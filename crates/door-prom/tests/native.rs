//! Native histograms: the same ones sent to us and to a real Prometheus, and the same
//! queries; then our blocks read by that, and its blocks by us.
//!
//! The peer is Prometheus 2.42, whose histograms were an experiment; ours follow 3.x. What
//! differs is in [`NEWER`], with the reason.

mod common;
mod native_peer;

use common::{Door, serve};
use http::{Response, StatusCode};
use native_peer::{
    Family, Label, Metric, Prometheus, Scraped, Span, ask, begin, data, leaves_the_head, now_ms,
    write,
};
use prost::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Relative difference of two values that are taken for one.
const TOLERANCE: f64 = 1e-9;
/// Rows with values that have to be compared, at least.
const ROWS_MIN: usize = 400;

/// Queries of which both give the same.
const QUERIES: [&str; 66] = [
    "rpc",
    "rpc{instance=\"b\"}",
    "{__name__=~\"rpc|fine\"}",
    "rpc offset 5m",
    "rpc @ end()",
    "below",
    "level",
    "both",
    "rpc[40s]",
    "level[40s]",
    "below[40s]",
    "both[70s]",
    "rate(rpc[1m])",
    "rate(rpc[5m])",
    "rate(rpc{instance=\"b\"}[10m])",
    "increase(rpc[2m])",
    "increase(rpc[10m])",
    "increase(below[5m])",
    "rate(fine[3m])",
    "delta(level[3m])",
    "rate(rpc[5m] offset 3m)",
    "rate(rpc[5m] @ end())",
    "sum(rpc)",
    "sum by (instance) (rpc)",
    "sum without (instance) (rpc)",
    "sum by (zone) (rpc)",
    "sum(rate(rpc[2m]))",
    "sum by (zone) (rate(rpc[5m]))",
    "sum(increase(rpc[5m]))",
    "sum({__name__=~\"rpc|fine\"})",
    "sum(below)",
    "sum(rate(below[3m]))",
    "histogram_count(rpc)",
    "histogram_sum(rpc)",
    "histogram_count(below)",
    "histogram_sum(below)",
    "histogram_count(level)",
    "histogram_count(rate(rpc[1m]))",
    "histogram_sum(rate(rpc[2m]))",
    "histogram_count(sum(rate(rpc[2m])))",
    "histogram_sum(sum by (zone) (rpc))",
    "histogram_sum(rate(rpc[2m])) / histogram_count(rate(rpc[2m]))",
    "histogram_count(increase(rpc[4m])) > 10",
    "histogram_fraction(-Inf, +Inf, rpc)",
    "histogram_fraction(0.001, +Inf, rpc)",
    "histogram_fraction(1, 2, rpc)",
    "histogram_fraction(0, 4, sum(rpc))",
    "histogram_fraction(2, 1, rpc)",
    "histogram_fraction(-2, 0.5, below)",
    "histogram_quantile(0, below)",
    "histogram_quantile(1, rpc)",
    "histogram_quantile(1.5, rpc)",
    "histogram_quantile(-1, rpc)",
    "histogram_quantile(1, rate(rpc[5m]))",
    "histogram_count(rpc) + histogram_sum(rpc)",
    "histogram_count(rpc) and on (instance) histogram_sum(rpc)",
    "rpc and on (instance) flags",
    "rpc unless on (instance) flags",
    "flags or rpc",
    "count_over_time(rpc[5m])",
    "present_over_time(rpc[5m])",
    "rate(fine[5m])",
    "histogram_quantile(1, below)",
    "histogram_count(both)",
    "sum by (zone) ({__name__=~\"rpc|fine\"})",
    "timestamp(rpc)",
];

/// Queries that 3.x, and ours, answer in another way than 2.42, and why.
const NEWER: [(&str, &str); 13] = [
    ("last_over_time(rpc[2m])", "2.42 gives 0 for a histogram"),
    ("histogram_quantile(0.9, rpc)", "2.42 interpolates linearly in all buckets"),
    ("histogram_fraction(0, 0.7, rpc)", "2.42 interpolates linearly in all buckets"),
    ("avg(rpc)", "2.42 has no mean of histograms"),
    ("max(rpc)", "2.42 takes a histogram for 0"),
    ("rpc * 2", "2.42 takes a histogram for 0"),
    ("-rpc", "2.42 takes a histogram for 0"),
    ("rpc - rpc", "2.42 takes a histogram for 0"),
    ("abs(rpc)", "2.42 takes a histogram for 0"),
    ("irate(rpc[2m])", "2.42 takes a histogram for 0"),
    ("sum_over_time(rpc[2m])", "2.42 takes a histogram for 0"),
    ("resets(rpc[1h])", "2.42 takes a histogram for 0"),
    ("histogram_avg(rpc)", "newer than 2.42"),
];

/// A value at a time: a number, or count, sum and buckets of a histogram.
type Row = BTreeMap<i64, Vec<f64>>;

fn number(value: &Value) -> f64 {
    value.as_str().and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no number: {value}"))
}

/// A histogram as numbers: buckets with their rules and bounds.
fn flat(value: &Value) -> Vec<f64> {
    if value.is_string() {
        return vec![number(value)];
    }
    let mut all = vec![number(&value["count"]), number(&value["sum"])];
    for bucket in value["buckets"].as_array().into_iter().flatten() {
        all.push(bucket[0].as_f64().expect("a rule"));
        all.extend((1..4).map(|i| number(&bucket[i])));
    }
    all
}

fn rows(answer: &Value) -> Result<BTreeMap<String, Row>, String> {
    if answer["status"] != "success" {
        return Err(answer["error"].to_string());
    }
    let pair = |p: &Value| ((p[0].as_f64().expect("a time") * 1_000.0).round() as i64, flat(&p[1]));
    let mut all = BTreeMap::new();
    for series in answer["data"]["result"].as_array().expect("series") {
        let mut row = Row::new();
        for one in ["value", "histogram"] {
            row.extend(series.get(one).map(pair));
        }
        for many in ["values", "histograms"] {
            row.extend(series.get(many).and_then(Value::as_array).into_iter().flatten().map(pair));
        }
        all.insert(series["metric"].to_string(), row);
    }
    Ok(all)
}

fn close(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

fn difference(ours: &Value, theirs: &Value, compared: &mut usize) -> Option<String> {
    let (a, b) = match (rows(ours), rows(theirs)) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(_), Err(_)) => return None,
        (a, b) => return Some(format!("ours {a:?}, theirs {b:?}")),
    };
    if !a.keys().eq(b.keys()) {
        return Some(format!("ours {:?}, theirs {:?}", a.keys(), b.keys()));
    }
    for (labels, row) in &a {
        let other = &b[labels];
        if !row.keys().eq(other.keys()) {
            return Some(format!("{labels}: {} steps, theirs {}", row.len(), other.len()));
        }
        for (at, values) in row {
            let theirs = &other[at];
            *compared += 1;
            let same = values.len() == theirs.len()
                && values.iter().zip(theirs).all(|(x, y)| close(*x, *y));
            if !same {
                return Some(format!("{labels} at {at}: ours {values:?}\ntheirs {theirs:?}"));
            }
        }
    }
    None
}

/// Compares the queries at some moments.
async fn compare(
    monitor: &synod_door_prom::Monitor,
    server: &Prometheus,
    moments: &[i64],
    wrong: &mut Vec<String>,
) -> usize {
    let text = |ms: i64| format!("{}.{:03}", ms / 1_000, ms % 1_000);
    let mut compared = 0;
    for (i, query) in QUERIES.iter().enumerate() {
        for &at in moments {
            let at = text(at);
            let form = [("query", *query), ("time", &at)];
            let (_, ours) = ask(monitor, "/api/v1/query", &form).await;
            let theirs = server.json("/api/v1/query", &form);
            if let Some(why) = difference(&ours, &theirs, &mut compared) {
                wrong.push(format!("{query} at {at}: {why}"));
            }
        }
        let (start, end) = (text(moments[0]), text(moments[moments.len() - 1]));
        let step = ["97", "61"][i % 2];
        let form = [("query", *query), ("start", &start), ("end", &end), ("step", step)];
        let (_, ours) = ask(monitor, "/api/v1/query_range", &form).await;
        let theirs = server.json("/api/v1/query_range", &form);
        if let Some(why) = difference(&ours, &theirs, &mut compared) {
            wrong.push(format!("{query}, a range: {why}"));
        }
    }
    compared
}

#[tokio::test(flavor = "multi_thread")]
async fn histograms_answer_as_in_prometheus_from_memory_and_from_each_others_blocks() {
    let dir = tempfile::tempdir().expect("a folder");
    let monitor = begin(dir.path());
    let server = Prometheus::start(None);
    let base = (now_ms() - 3_600_000) / 60_000 * 60_000;
    for request in data(base) {
        let (status, why) = write(&monitor, &request).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{why}");
        server.write(&request);
    }
    let moments = [310, 900, 1_777, 2_405, 3_500].map(|s| base + s * 1_000 + 13);
    let mut wrong = Vec::new();
    let compared = compare(&monitor, &server, &moments, &mut wrong).await;
    println!("{} queries, {compared} rows compared", QUERIES.len());
    assert!(wrong.is_empty(), "{} differ:\n\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(compared > ROWS_MIN, "{compared}");
    for (query, why) in NEWER {
        let at = format!("{}", moments[4] / 1_000);
        let form = [("query", query), ("time", &at)];
        let (status, ours) = ask(&monitor, "/api/v1/query", &form).await;
        assert_eq!(status, StatusCode::OK, "{query}: {ours}");
        let differs = difference(&ours, &server.json("/api/v1/query", &form), &mut 0);
        assert!(differs.is_some(), "{query} does not differ any more: {why}");
    }

    // Our blocks, read by another of theirs: what is old enough to be in them.
    let oldest = base + 40 * 60_000;
    leaves_the_head(&monitor, oldest).await;
    monitor.close();
    let theirs = Prometheus::start(Some(&dir.path().join("series/blocks")));
    let early: Vec<i64> = moments.iter().copied().filter(|at| *at < oldest - 120_000).collect();
    let again = begin(dir.path());
    let compared = compare(&again, &theirs, &early, &mut wrong).await;
    println!("our blocks: {compared} rows compared");
    assert!(wrong.is_empty(), "{} differ:\n\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(compared > ROWS_MIN / 2, "{compared}");
    again.close();

    // And theirs, read by us: without the gauge, of which 2.42 cannot make a block (it takes
    // what falls for a counter's reset that should not be).
    let server = Prometheus::start(None);
    for mut request in data(base) {
        request.series.retain(|s| s.labels[0].value != "level");
        server.write(&request);
    }
    let other = tempfile::tempdir().expect("a folder");
    server.snapshot(&other.path().join("series/blocks"));
    let ours = begin(other.path());
    let compared = compare(&ours, &server, &moments, &mut wrong).await;
    println!("their blocks: {compared} rows compared");
    assert!(wrong.is_empty(), "{} differ:\n\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(compared > ROWS_MIN, "{compared}");
    ours.close();
}

fn job(address: impl std::fmt::Display, more: &str) -> String {
    format!(
        "scrape_configs:\n- job_name: t\n  scrape_interval: 200ms\n  static_configs: \
         [{{targets: [\"{address}\"]}}]\n  {more}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_scraped_in_the_protobuf_form_if_that_is_asked_for() {
    let gone = Arc::new(AtomicBool::new(false));
    let is_gone = gone.clone();
    let at = serve(move |request| {
        let accept = request.headers()["accept"].to_str().expect("text").to_owned();
        let answer = Response::builder();
        if !accept.starts_with("application/vnd.google.protobuf") {
            let answer = answer.header("content-type", "text/plain; version=0.0.4");
            return answer.body("took_count 5\n".into()).expect("a response");
        }
        let native = Metric {
            labels: vec![Label { name: "path".into(), value: "/a".into() }],
            histogram: Some(Scraped {
                count: 7,
                sum: 3.5,
                schema: 1,
                zero_threshold: 0.001,
                zero: 1,
                positive: vec![Span { offset: 0, length: 2 }],
                positive_deltas: vec![2, 2],
            }),
        };
        let family = Family { name: "took".into(), kind: 4, metrics: vec![native] };
        let body = match is_gone.load(Ordering::Relaxed) {
            true => Vec::new(),
            false => family.encode_length_delimited_to_vec(),
        };
        let kind = "application/vnd.google.protobuf; \
                    proto=io.prometheus.client.MetricFamily; encoding=delimited";
        answer.header("content-type", kind).body(body.into()).expect("a response")
    })
    .await;
    let door = Door::open(&job(at, "metric_relabel_configs: [{target_label: y, replacement: z}]"));
    door.sees("sum(took_count)", &[("{}", "5")]).await;
    drop(door);
    let more = "scrape_native_histograms: true\n  \
                metric_relabel_configs: [{target_label: y, replacement: z}]";
    let door = Door::open(&job(at, more));
    let labels = format!("{{\"instance\":\"{at}\",\"job\":\"t\",\"path\":\"/a\",\"y\":\"z\"}}");
    door.sees("histogram_count(took)", &[(&labels, "7")]).await;
    door.sees("histogram_fraction(1, 2, took)", &[(&labels, &(4.0 / 7.0).to_string())]).await;
    door.sees("sum(scrape_samples_scraped)", &[("{}", "1")]).await;
    door.sees("count(took_bucket)", &[]).await;
    // What is not on the page any more has ended.
    gone.store(true, Ordering::Relaxed);
    door.sees("histogram_count(took)", &[]).await;
    drop(door);
    let door = Door::open(&job(at, "scrape_protocols: [PrometheusText0.0.4]"));
    door.sees("sum(took_count)", &[("{}", "5")]).await;
    drop(door);
    // The page of a real one.
    let server = Prometheus::start(None);
    let door = Door::open(&job(server.address(), "scrape_protocols: [PrometheusProto]"));
    door.sees("count(prometheus_build_info)", &[("{}", "1")]).await;
    door.sees("sum(up)", &[("{}", "1")]).await;
    door.sees(
        "count(count by (le) (prometheus_http_request_duration_seconds_bucket)) > bool 5",
        &[("{}", "1")],
    )
    .await;
}
