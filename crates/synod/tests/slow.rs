//! A slow request is found again: from its exemplar, by an id, in the log and among the events.

mod common;

use common::http::{http, http_with};
use common::{Cluster, peers};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SETTINGS: [&str; 6] =
    ["--monitor-scrape-ms", "200", "--slow-request-ms", "150", "--log-format", "json"];
const PATIENCE: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OPENMETRICS: &str = "Accept: application/openmetrics-text;version=1.0.0\r\n";

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// The exemplars of calls of Put that a node knows: (labels of the series, exemplar).
fn exemplars(cluster: &Cluster, node: usize, from: f64) -> Vec<(Value, Value)> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("query", "grpc_server_handling_seconds_bucket{grpc_method=\"Put\"}")
        .append_pair("start", &from.to_string())
        .append_pair("end", &(now() + 1.0).to_string());
    let path = format!("/api/v1/query_exemplars?{}", form.finish());
    let (status, body) = http(&cluster.endpoint(node), "GET", &path, "");
    if status == 503 {
        return Vec::new(); // It reads its log.
    }
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    let series = answer["data"].as_array().expect("a list").iter();
    let each = series.flat_map(|s| {
        let all = s["exemplars"].as_array().into_iter().flatten();
        all.map(|e| (s["seriesLabels"].clone(), e.clone()))
    });
    each.collect()
}

/// A put that has to wait until the others go on.
fn slow_put(cluster: &Cluster, leader: usize, headers: &str) {
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    others.iter().for_each(|i| cluster.signal(*i, "-STOP"));
    let at = cluster.endpoint(leader);
    std::thread::scope(|scope| {
        let body = r#"{"key":"c2xvdw==","value":"MQ=="}"#;
        let put = scope.spawn(move || http_with(&at, "POST", "/v3/kv/put", headers, body));
        std::thread::sleep(Duration::from_millis(1_200));
        others.iter().for_each(|i| cluster.signal(*i, "-CONT"));
        // Done, or refused since the leader was lost meanwhile.
        put.join().expect("an answer");
    });
}

/// The lines of a node's log about slow requests, as JSON objects.
fn told(cluster: &Cluster, node: usize) -> Vec<Value> {
    let log = cluster.log(node);
    let lines = log.lines().map(|l| serde_json::from_str::<Value>(l).expect("a JSON object"));
    lines.filter(|l| l["target"] == "synod::slow").map(|l| l["fields"].clone()).collect()
}

#[test]
fn a_slow_request_is_found_again() {
    let cluster = Cluster::with_settings(3, &SETTINGS);
    let (leader, begun) = (cluster.leader(), now());
    let traced = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n");
    slow_put(&cluster, leader, &traced);
    let lines = told(&cluster, leader);
    let line = lines.iter().find(|l| l["trace_id"] == TRACE).expect("a line of the log");
    let took = line["seconds"].as_f64().expect("a number");
    assert!(took >= 1.0, "{line}");
    assert_eq!((&line["method"], &line["key"]), (&"/etcdserverpb.KV/Put".into(), &"slow".into()));

    // Among the events it stands with what was decided while it ran.
    let at = cluster.endpoint(leader);
    let (status, events) = http(&at, "GET", &format!("/synod/events?id={TRACE}"), "");
    assert_eq!(status, 200, "{events}");
    let id = format!("trace_id={TRACE}");
    assert!(events.lines().any(|l| l.contains("slow request") && l.contains(&id)), "{events}");
    assert!(events.lines().count() > 1, "nothing was decided meanwhile: {events}");
    let (_, all) = http(&at, "GET", "/synod/events", "");
    assert!(all.contains(&id) && all.lines().count() > events.lines().count(), "{all}");
    assert_eq!(http(&at, "GET", "/synod/events?id=nonsense", "").0, 404);

    // Every node that scrapes it has its exemplar.
    for node in 0..3 {
        let waited = Instant::now();
        let (series, exemplar) = loop {
            let all = exemplars(&cluster, node, begun);
            if let Some(found) = all.into_iter().find(|(_, e)| e["labels"]["trace_id"] == TRACE) {
                break found;
            }
            assert!(waited.elapsed() < PATIENCE, "n{node} has no exemplar of it");
            std::thread::sleep(Duration::from_millis(100));
        };
        assert_eq!(series["node"], cluster.nodes[leader].name, "{series}");
        let value: f64 = exemplar["value"].as_str().expect("text").parse().expect("a number");
        assert!((value - took).abs() < 1e-6, "{exemplar} is not {took}");
        let at = exemplar["timestamp"].as_f64().expect("a time");
        assert!((begun..=now()).contains(&at), "{exemplar}");
        let bound = series["le"].as_str().expect("a bound");
        assert!(bound == "+Inf" || value <= bound.parse().expect("a number"), "{series}");
    }
}

#[test]
fn one_without_a_trace_gets_an_id() {
    let cluster = Cluster::with_settings(3, &SETTINGS);
    let leader = cluster.leader();
    slow_put(&cluster, leader, "");
    let lines = told(&cluster, leader);
    let line = lines.iter().find(|l| l["key"] == "slow").expect("a line of the log");
    let id = line["request_id"].as_str().expect("an id");
    assert!(line["trace_id"].is_null(), "{line}");
    let at = cluster.endpoint(leader);
    let (_, page) = http_with(&at, "GET", "/metrics", OPENMETRICS, "");
    assert!(page.contains(&format!(" # {{request_id=\"{id}\"}} ")), "{id} is on no bucket");
    let (_, events) = http(&at, "GET", &format!("/synod/events?id={id}"), "");
    assert!(events.contains(id), "{events}");
    reads_as_openmetrics(&page, id);
    let (_, text) = http(&at, "GET", "/metrics", "");
    assert!(text.ends_with('\n') && !text.contains("# EOF") && !text.contains("request_id"));
}

/// The page as Python's client library reads it, which is strict.
fn reads_as_openmetrics(page: &str, id: &str) {
    const READ: &str = "\
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read
for family in read(sys.stdin.read()):
    for sample in family.samples:
        e = sample.exemplar
        print(family.type, sample.name, dict(e.labels)['request_id'] if e else '-')
";
    let mut python = Command::new(peers().join("py/bin/python"))
        .args(["-c", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let (mut input, text) = (python.stdin.take().expect("piped"), page.to_owned());
    let writes = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let done = python.wait_with_output().expect("Python ends");
    writes.join().expect("no panic").expect("the page is written");
    let read = String::from_utf8(done.stdout).expect("text");
    assert!(done.status.success(), "the page cannot be read; as far as it could:\n{read}");
    let bucket = format!("histogram grpc_server_handling_seconds_bucket {id}\n");
    assert!(read.contains(&bucket), "{read}");
    assert!(read.contains("counter synod_slow_requests_total -\n"), "{read}");
    // Of both parts of the page.
    assert!(read.contains("counter synod_monitor_samples_total -\n"), "{read}");
}
