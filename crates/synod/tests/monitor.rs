//! A cluster that watches itself: real processes, and what each of them saw.

mod common;

use common::Cluster;
use common::http::{http, http_with};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// Quick scrapes, so that nobody waits long.
const SETTINGS: [&str; 4] = ["--monitor-scrape-ms", "200", "--monitor-sync-ms", "200"];

/// The value of a query that has one, at this node.
fn ask(cluster: &Cluster, node: usize, query: &str) -> Option<f64> {
    let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let path = format!("/api/v1/query?query={query}");
    let (status, body) = http(&cluster.endpoint(node), "GET", &path, "");
    if status == 503 {
        return None; // It reads its log.
    }
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

fn until(cluster: &Cluster, node: usize, query: &str, wanted: f64) {
    let begun = Instant::now();
    loop {
        let got = ask(cluster, node, query);
        if got == Some(wanted) {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "n{node}: {query} is {got:?}, not {wanted}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn synod(cluster: &Cluster, node: usize, args: &[&str]) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(args)
        .args(["--endpoints", &cluster.endpoint(node)])
        .output()
        .expect("synod runs");
    assert!(run.status.success(), "{args:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).expect("text")
}

#[test]
fn every_node_sees_all_and_answers_without_a_quorum() {
    let mut cluster = Cluster::with_settings(3, &SETTINGS);
    for node in 0..3 {
        until(&cluster, node, "count(up{job=\"synod-etcd\"} == 1)", 3.0);
        until(&cluster, node, "sum(etcd_server_is_leader)", 1.0);
    }
    assert_eq!(synod(&cluster, 1, &["query", "count(etcd_server_has_leader)"]), "{}  3\n");
    let drawn = synod(&cluster, 1, &["query", "up{node=\"n1\"}", "--range", "1m"]);
    assert!(drawn.contains("▁") && drawn.contains("last 1"), "{drawn}");
    // The others may have told of a target that this node has not scraped yet.
    let begun = Instant::now();
    loop {
        let targets = synod(&cluster, 1, &["targets"]);
        if targets.lines().filter(|l| l.starts_with("up ")).count() == 3 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{targets}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (_, ready) = http(&cluster.endpoint(0), "GET", "/-/ready", "");
    assert_eq!(ready, "Synod is Ready.\n");

    let top = synod(&cluster, 1, &["top", "--once"]);
    assert!(top.contains("3 of 3 nodes up, leader n") && top.contains("reads/s"), "{top}");
    assert!(top.lines().any(|l| l.starts_with("n0 ") && l.contains("n1 n2")), "{top}");

    let json = synod(&cluster, 1, &["top", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let nodes = json["nodes"].as_array().expect("nodes");
    assert!(nodes.len() == 3 && nodes.iter().all(|n| n["up"] == true), "{json}");
    assert!(nodes.iter().any(|n| n["node"] == json["leader"] && n["role"] == "leader"), "{json}");
    assert!(nodes[0]["memory_bytes"].as_f64() > Some(1e6), "{json}");

    cluster.kill(1);
    cluster.kill(2);
    until(&cluster, 0, "count(up == 0)", 2.0);
    // What they showed has ended, at once.
    until(&cluster, 0, "count(etcd_server_has_leader)", 1.0);
    until(&cluster, 0, "sum(etcd_server_has_leader)", 0.0);
    let top = synod(&cluster, 0, &["top", "--once"]);
    assert!(top.contains("1 of 3 nodes up, no leader"), "{top}");
    assert_eq!(top.matches("DOWN").count(), 2, "{top}");
}

#[test]
fn series_outlive_a_kill_but_for_what_was_not_synced() {
    let mut cluster = Cluster::with_settings(1, &SETTINGS);
    let begun = Instant::now();
    let count = "count_over_time(up[10m])";
    let mut before = 0.0;
    while before < 15.0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{before} samples");
        std::thread::sleep(Duration::from_millis(100));
        before = ask(&cluster, 0, count).unwrap_or(0.0);
    }
    cluster.kill(0);
    cluster.spawn(0);
    cluster.wait_node(0);
    // 200 ms without a sync, a scrape every 200 ms; a busy machine may take longer.
    let mut after = None;
    while after.is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the log is not back");
        std::thread::sleep(Duration::from_millis(20));
        after = ask(&cluster, 0, count);
    }
    let after = after.unwrap_or(0.0);
    assert!(after >= before - 5.0, "{after} of {before} samples are left");
    until(&cluster, 0, "up", 1.0);
}

#[test]
fn blocks_outlive_kills_at_any_moment() {
    // Blocks of two seconds, cut and compacted all the time.
    let settings = [&SETTINGS[..], &["--monitor-block-s", "2"]].concat();
    let mut cluster = Cluster::with_settings(1, &settings);
    let begun = Instant::now();
    let blocks = cluster.nodes[0].dir.join("series/blocks");
    let written = || {
        let entries = std::fs::read_dir(&blocks).into_iter().flatten().flatten();
        entries.filter(|e| e.path().join("meta.json").exists()).count()
    };
    let seconds = "count_over_time(up[10m])";
    let mut before = 0.0;
    for life in 0..8 {
        // Each life ends at another moment of the work.
        let alive = Duration::from_millis(2_500 + 270 * life);
        let born = Instant::now();
        while born.elapsed() < alive {
            std::thread::sleep(Duration::from_millis(50));
            if let Some(count) = ask(&cluster, 0, seconds) {
                // What a crash may take is what was not synced; never a block.
                assert!(count >= before - 8.0, "life {life}: {count} samples of {before}");
                before = count.max(before);
            }
        }
        cluster.kill(0);
        cluster.spawn(0);
        cluster.wait_node(0);
    }
    while written() == 0 || ask(&cluster, 0, seconds).is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no blocks");
        std::thread::sleep(Duration::from_millis(50));
    }
    let after = ask(&cluster, 0, seconds).unwrap_or(0.0);
    assert!(after >= before - 8.0 && after > 50.0, "{after} of {before}");
    // Nothing was damaged by it, and nothing half-written stays.
    let names = std::fs::read_dir(&blocks).expect("the folder").flatten();
    let names: Vec<String> = names.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert!(!names.iter().any(|n| n.starts_with("damaged")), "{names:?}");
}

#[test]
fn deltas_add_up_whichever_nodes_they_come_to() {
    let cluster = Cluster::with_settings(3, &SETTINGS);
    for node in 0..3 {
        until(&cluster, node, "count(up{job=\"synod-etcd\"} == 1)", 3.0);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_nanos() as u64;
    // As by a balancer that gives each point to the next node: 1 + 2 + … + 9.
    for (i, value) in (1..=9u64).enumerate() {
        let at = now + value * 1_000_000;
        let point = serde_json::json!({"timeUnixNano": at.to_string(), "asDouble": value});
        let sum = serde_json::json!({
            "isMonotonic": true, "aggregationTemporality": 1, "dataPoints": [point],
        });
        let body = serde_json::json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [
            {"name": "orders", "sum": sum},
        ]}]}]});
        let (at, kind) = (cluster.endpoint(i % 3), "Content-Type: application/json\r\n");
        let path = "/api/v1/otlp/v1/metrics";
        let (status, told) = http_with(&at, "POST", path, kind, &body.to_string());
        assert_eq!((status, &*told), (200, "{}"));
    }
    for node in 0..3 {
        until(&cluster, node, "sum(orders_total)", 45.0);
        until(&cluster, node, "orders_total{synod_node=\"n1\"}", 2.0 + 5.0 + 8.0);
    }
}

#[test]
fn a_node_that_is_not_to_watch_says_so() {
    let cluster = Cluster::with_settings(1, &["--monitor", "false"]);
    assert_eq!(http(&cluster.endpoint(0), "GET", "/api/v1/query?query=up", "").0, 404);
}
