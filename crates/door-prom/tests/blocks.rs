//! Blocks that a running monitor writes: Prometheus's tools read them, and so does the
//! next life of the monitor.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use synod_door_prom::{Monitor, Settings, Surroundings};
use synod_promql::Labels;
use synod_tsdb::Exemplar;

/// Blocks of a minute: nobody waits two hours.
const RANGE: i64 = 60_000;
const SERIES: usize = 20;

/// Messages of remote-write 1.0, from its specification.
#[derive(Clone, Message)]
struct Written {
    #[prost(message, repeated, tag = "1")]
    series: Vec<OneSeries>,
}

#[derive(Clone, Message)]
struct OneSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    at: i64,
}

fn begin(dir: &Path) -> Monitor {
    let mut settings = Settings::in_dir(&dir.join("series"));
    settings.sync_every = Duration::from_millis(20);
    settings.limits.block_range = RANGE;
    let config = dir.join("prometheus.yml");
    settings.config = config.exists().then_some(config);
    let monitor = Monitor::start(settings, Surroundings::none()).expect("it starts");
    until("the log is back", || monitor.is_ready());
    monitor
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not yet: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// One sample of each series at a time.
async fn write(monitor: &Monitor, at: i64, value: f64) -> (StatusCode, String) {
    let one = |n: usize| OneSeries {
        labels: [("__name__", "m".to_owned()), ("n", n.to_string())]
            .map(|(name, value)| Label { name: name.into(), value })
            .to_vec(),
        samples: vec![Sample { value: value + n as f64, at }],
    };
    let body = Written { series: (0..SERIES).map(one).collect() }.encode_to_vec();
    let body = snap::raw::Encoder::new().compress_vec(&body).expect("compressed");
    let request = Request::builder().method(Method::POST).uri("/api/v1/write");
    let answer = monitor.answer(request.body(Bytes::from(body)).expect("a request")).await;
    (answer.status(), String::from_utf8_lossy(answer.body()).into_owned())
}

async fn ask(monitor: &Monitor, path: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(form);
    let request = Request::builder().uri(format!("{path}?{}", query.finish()));
    let answer = monitor.answer(request.body(Bytes::new()).expect("a request")).await;
    (answer.status(), serde_json::from_slice(answer.body()).expect("JSON"))
}

/// All samples of a series since a time.
async fn samples(monitor: &Monitor, n: usize, from: i64) -> Vec<(i64, f64)> {
    let now = now_ms();
    let query = format!("m{{n=\"{n}\"}}[{}ms]", now - from);
    let time = format!("{}.{:03}", now / 1_000, now % 1_000);
    let form = [("query", &*query), ("time", &*time)];
    let (status, answer) = ask(monitor, "/api/v1/query", &form).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let list = answer["data"]["result"][0]["values"].as_array().cloned().unwrap_or_default();
    let one = |pair: &Value| {
        let at = (pair[0].as_f64().expect("a time") * 1_000.0).round() as i64;
        (at, pair[1].as_str().expect("a value").parse().expect("a number"))
    };
    list.iter().map(one).collect()
}

/// The folders of blocks.
fn blocks(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("series/blocks")).expect("the folder");
    let paths = entries.map(|e| e.expect("an entry").path());
    paths.filter(|path| path.join("meta.json").exists()).collect()
}

/// Ten minutes of samples, until their blocks are written; gives when they begin.
async fn fill(dir: &Path, monitor: &Monitor) -> i64 {
    let first = now_ms() - 600_000;
    for round in 0..600 {
        let (status, why) = write(monitor, first + round * 1_000, round as f64).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{why}");
    }
    leaves_the_head(monitor, first + 600_000 - 2 * RANGE).await;
    assert!(!blocks(dir).is_empty());
    first
}

/// Waits until what is older is in blocks alone.
async fn leaves_the_head(monitor: &Monitor, until: i64) {
    let begun = Instant::now();
    loop {
        let (_, stats) = ask(monitor, "/api/v1/status/tsdb", &[]).await;
        let oldest = stats["data"]["headStats"]["minTime"].as_i64().expect("a time");
        if oldest >= until {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "no blocks: {oldest}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn promtool(args: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = root.join("target/peers/deb/prometheus/usr/bin/promtool");
    assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
    let run = Command::new(program).args(args).output().expect("promtool runs");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{args:?}: {out}{err}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_reads_what_a_monitor_wrote_and_so_does_its_next_life() {
    let dir = tempfile::tempdir().expect("a folder");
    let monitor = begin(dir.path());
    let first = fill(dir.path(), &monitor).await;
    let wanted: Vec<(i64, f64)> = (0..600).map(|r| (first + r * 1_000, (r + 7) as f64)).collect();
    assert_eq!(samples(&monitor, 7, first - 1).await, wanted);
    let span = [("start", (first / 1_000).to_string()), ("end", (first / 1_000 + 30).to_string())];
    let span = span.each_ref().map(|(name, value)| (*name, &**value));
    let (_, names) = ask(&monitor, "/api/v1/labels", &span).await;
    assert_eq!(names["data"], json!(["__name__", "n"]));
    let (_, values) = ask(&monitor, "/api/v1/label/n/values", &span).await;
    assert_eq!(values["data"].as_array().map(Vec::len), Some(SERIES));
    let selector = [("match[]", "{n=~\"1.\"}"), span[0], span[1]];
    let (_, series) = ask(&monitor, "/api/v1/series", &selector).await;
    assert_eq!(series["data"].as_array().map(Vec::len), Some(10));
    monitor.close();

    let folder = dir.path().join("series/blocks");
    let folder = folder.to_str().expect("a name");
    let listed = promtool(&["tsdb", "list", folder]).lines().count() - 1;
    assert_eq!(listed, blocks(dir.path()).len());
    let mut dumped = BTreeMap::<String, Vec<(i64, f64)>>::new();
    for line in promtool(&["tsdb", "dump", folder]).lines() {
        let (name, rest) = line.rsplit_once("} ").expect("labels");
        let (value, at) = rest.split_once(' ').expect("a time");
        let sample = (at.parse().expect("a time"), value.parse().expect("a number"));
        dumped.entry(name.to_owned()).or_default().push(sample);
    }
    assert_eq!(dumped.len(), SERIES);
    let seventh = &dumped["{__name__=\"m\", n=\"7\""];
    assert!(seventh.len() >= 600 - 2 * 60, "{} are in blocks", seventh.len());
    assert_eq!(seventh[..], wanted[..seventh.len()]);

    let monitor = begin(dir.path());
    assert_eq!(samples(&monitor, 7, first - 1).await, wanted, "after a restart");
    monitor.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_set_aside_and_the_blocks_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    let monitor = begin(dir.path());
    let first = fill(dir.path(), &monitor).await;
    monitor.close();
    let files = std::fs::read_dir(dir.path().join("series")).expect("the folder");
    let is_segment = |p: &std::path::PathBuf| p.extension().is_some_and(|e| e == "seg");
    for file in files.map(|e| e.expect("an entry").path()).filter(is_segment) {
        let mut bytes = std::fs::read(&file).expect("a segment");
        bytes[200..600].fill(0x55);
        std::fs::write(&file, bytes).expect("a segment");
    }
    let monitor = begin(dir.path());
    let aside = std::fs::read_dir(dir.path()).expect("the folder");
    let mut names = aside.map(|e| e.expect("an entry").file_name().into_string().expect("text"));
    assert!(names.any(|name| name.starts_with("series.damaged-")));
    let left = samples(&monitor, 7, first - 1).await;
    assert!((600 - 2 * 60..600).contains(&left.len()), "{} are left", left.len());
    assert_eq!(monitor.log_failure(), None, "a new log is begun");
    let (status, why) = write(&monitor, now_ms(), 1.0).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{why}");
    monitor.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_is_told_and_tried_until_it_can() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("series"), "in the way").expect("a file");
    let monitor = begin(dir.path());
    assert!(monitor.log_failure().is_some() && monitor.blocks_failure().is_some());
    let first = now_ms() - 10_000;
    assert_eq!(write(&monitor, first, 1.0).await.0, StatusCode::NO_CONTENT);
    assert_eq!(samples(&monitor, 0, first - 1).await, [(first, 1.0)]);
    std::fs::remove_file(dir.path().join("series")).expect("gone");
    until("both are written", || {
        monitor.log_failure().is_none() && monitor.blocks_failure().is_none()
    });
    assert_eq!(write(&monitor, first + 1, 2.0).await.0, StatusCode::NO_CONTENT);
    monitor.close();
    // What was taken meanwhile is durable, too.
    let monitor = begin(dir.path());
    assert_eq!(samples(&monitor, 0, first - 1).await, [(first, 1.0), (first + 1, 2.0)]);
    assert_eq!(monitor.blocks_failure(), None);
    monitor.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn late_samples_are_taken_within_the_window_of_the_configuration() {
    let dir = tempfile::tempdir().expect("a folder");
    let monitor = begin(dir.path());
    let first = fill(dir.path(), &monitor).await;
    let (status, why) = write(&monitor, first + 500, 0.5).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(why.contains("out of bounds"), "{why}");
    let (_, why) = write(&monitor, first + 599_500, 0.5).await;
    assert_eq!(why, "", "in order");
    let (_, why) = write(&monitor, first + 598_500, 0.5).await;
    assert!(why.contains("out of order sample"), "{why}");
    monitor.close();

    let text =
        "storage: {tsdb: {out_of_order_time_window: 9m, retention: {time: 1d, size: 1GB}}}\n";
    std::fs::write(dir.path().join("prometheus.yml"), text).expect("written");
    let monitor = begin(dir.path());
    let (_, why) = write(&monitor, first + 500, 0.5).await;
    assert!(why.contains("too old sample"), "{why}");
    for at in [598_500, 300_500, 100_500] {
        assert_eq!(
            write(&monitor, first + at, at as f64).await,
            (StatusCode::NO_CONTENT, String::new())
        );
    }
    let all = samples(&monitor, 0, first - 1).await;
    assert_eq!(all.len(), 600 + 4);
    assert!(all.is_sorted_by(|a, b| a.0 < b.0) && all.contains(&(first + 300_500, 300_500.0)));
    monitor.close();
    // They are in the log; and when the head is cut, in blocks.
    let monitor = begin(dir.path());
    assert_eq!(samples(&monitor, 0, first - 1).await, all, "after a restart");
    for round in 0..5 {
        // Ahead of the clock, but not too far.
        assert_eq!(write(&monitor, first + 600_000 + round * RANGE, 1.0).await.1, "");
    }
    // The head keeps a span and a half; late samples go into blocks with what it cuts off.
    leaves_the_head(&monitor, first + 600_000 + 2 * RANGE).await;
    let again = samples(&monitor, 0, first - 1).await;
    assert_eq!(again[..all.len()], all[..]);
    monitor.close();
    let folder = dir.path().join("series/blocks");
    let found = promtool(&["tsdb", "dump", folder.to_str().expect("a name")]);
    let late = format!("n=\"3\"}} 300503 {}", first + 300_500);
    assert!(found.contains(&late), "{late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exemplars_are_found_by_the_series_of_a_query() {
    let dir = tempfile::tempdir().expect("a folder");
    let monitor = begin(dir.path());
    let series =
        |job: &str| Labels::new([("__name__", "requests_bucket"), ("job", job), ("le", "1")]);
    let exemplar =
        |trace: &str, at| Exemplar { labels: Labels::new([("trace_id", trace)]), value: 0.25, at };
    monitor.exemplar(&series("a"), exemplar("x1", 1_600_000_000_500)).expect("taken");
    monitor.exemplar(&series("a"), exemplar("x2", 1_600_000_060_000)).expect("taken");
    monitor.exemplar(&series("b"), exemplar("y1", 1_600_000_000_500)).expect("taken");
    let query = "histogram_quantile(0.9, sum by (le) (rate(requests_bucket{job=\"a\"}[5m])))";
    let form = [("query", query), ("start", "1600000000"), ("end", "1600000050.5")];
    let (status, answer) = ask(&monitor, "/api/v1/query_exemplars", &form).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let wanted = json!([{
        "seriesLabels": {"__name__": "requests_bucket", "job": "a", "le": "1"},
        "exemplars": [{"labels": {"trace_id": "x1"}, "value": "0.25", "timestamp": 1600000000.5}],
    }]);
    assert_eq!(answer, json!({"status": "success", "data": wanted}));
    let (_, all) = ask(&monitor, "/api/v1/query_exemplars", &[("query", "requests_bucket")]).await;
    assert_eq!(all["data"].as_array().map(Vec::len), Some(2));
    let (status, _) = ask(&monitor, "/api/v1/query_exemplars", &[("query", "sum(")]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let backwards = [("query", "up"), ("start", "10"), ("end", "5")];
    assert_eq!(
        ask(&monitor, "/api/v1/query_exemplars", &backwards).await.0,
        StatusCode::BAD_REQUEST
    );
    monitor.close();
}
