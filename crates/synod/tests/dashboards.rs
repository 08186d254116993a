//! What the program shows of itself: the page of metrics is true, and every query of the
//! dashboards, ours and etcd's, answers on a live cluster.

mod common;

use common::Cluster;
use common::http::http;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const SETTINGS: [&str; 2] = ["--monitor-scrape-ms", "200"];
const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `docs/metrics.md` is made of the tables that the page is made of.
#[test]
fn the_page_of_metrics_is_true() {
    let mut text = String::from(
        "# Metrics\n\nWhat `/metrics` shows on each node's client port and http port. etcd's names are there so that \
         its dashboards\nand alerts work. This page is generated; a test says when it is old (`SYNOD_REWRITE=1` \
         writes it).\n\n| name | type | meaning |\n|---|---|---|\n",
    );
    for family in synod_door_etcd::METRICS.iter().chain(synod_door_prom::METRICS) {
        text += &format!("| `{}` | {} | {} |\n", family.name, family.kind, family.help);
    }
    text += "\nEach scrape adds `up`, `scrape_duration_seconds`, `scrape_samples_scraped`,\n\
             `scrape_samples_post_metric_relabeling` and `scrape_series_added`, with the target's labels.\n";
    let path = root().join("docs/metrics.md");
    if std::env::var_os("SYNOD_REWRITE").is_some() {
        std::fs::write(&path, text).expect("written");
        return;
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(have == text, "docs/metrics.md is old: run this test with SYNOD_REWRITE=1");
}

/// A command of a client.
fn run(cluster: &Cluster, args: &[&str]) {
    let done = Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(args)
        .env("SYNOD_ENDPOINTS", cluster.endpoints())
        .output()
        .expect("synod runs");
    assert!(done.status.success(), "{args:?}: {done:?}");
}

/// What rates need again and again: they forget within seconds.
fn little(cluster: &Cluster) {
    run(cluster, &["put", "a", "1"]);
    run(cluster, &["get", "a"]);
    run(cluster, &["lock", "x", "--", "true"]);
    run(cluster, &["file", "set", "f", "1"]);
}

/// A little of everything that dashboards show.
fn load(cluster: &Cluster) {
    let run = |args: &[&str]| run(cluster, args);
    little(cluster);
    run(&["bench", "put", "--clients", "4", "--seconds", "1"]);
    run(&["bench", "txn", "--clients", "2", "--seconds", "1"]);
    run(&["bench", "lease", "--clients", "2", "--seconds", "1"]);
    run(&["del", "a"]);
}

/// The answer to a range query over the last half minute: how many series, or an error.
fn ask(cluster: &Cluster, query: &str) -> Result<usize, String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs_f64();
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("query", query)
        .append_pair("start", &(now - 30.0).to_string())
        .append_pair("end", &now.to_string())
        .append_pair("step", "1");
    let path = format!("/api/v1/query_range?{}", form.finish());
    let (_, body) = http(&cluster.endpoint(0), "GET", &path, "");
    let answer: Value = serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))?;
    match answer["error"].as_str() {
        Some(why) => Err(why.to_owned()),
        None => Ok(answer["data"]["result"].as_array().map_or(0, Vec::len)),
    }
}

/// Asks until there is data.
fn has_data(cluster: &Cluster, query: &str) {
    let begun = Instant::now();
    loop {
        match ask(cluster, query) {
            Err(why) => panic!("{query}: {why}"),
            Ok(0) => assert!(begun.elapsed() < PATIENCE, "{query} finds nothing"),
            Ok(_) => return,
        }
        little(cluster);
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Names of metrics in a query of ours: they all stand before a brace.
fn names(query: &str) -> BTreeSet<&str> {
    let before = query.match_indices('{').map(|(at, _)| &query[..at]);
    let name = |text: &'_ str| {
        let from = text.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        from.map_or(0, |at| at + 1)
    };
    before.map(|text| &text[name(text)..]).collect()
}

/// What failures show: with luck there is none.
const MAY_BE_EMPTY: [&str; 2] = ["grpc_code!~", "etcd_server_quota_backend_bytes"];

#[test]
fn every_query_of_the_dashboards_answers() {
    let cluster = Cluster::with_settings(3, &SETTINGS);
    load(&cluster);
    let exported: BTreeSet<&str> = synod_door_etcd::METRICS
        .iter()
        .chain(synod_door_prom::METRICS)
        .map(|f| f.name)
        .chain(["up", "scrape_duration_seconds"])
        .collect();
    let mut queries = 0;
    for entry in std::fs::read_dir(root().join("dashboards")).expect("dashboards") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("text");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let expr = target["expr"].as_str().expect("a query");
                for name in names(expr) {
                    let family = ["_bucket", "_sum", "_count"]
                        .iter()
                        .find_map(|suffix| name.strip_suffix(suffix))
                        .filter(|base| exported.contains(base));
                    assert!(exported.contains(family.unwrap_or(name)), "{name} in {expr}");
                }
                let query = expr
                    .replace("$cluster", ".*")
                    .replace("$node", ".*")
                    .replace("$__rate_interval", "10s");
                queries += 1;
                if MAY_BE_EMPTY.iter().any(|part| query.contains(part)) {
                    ask(&cluster, &query).unwrap_or_else(|why| panic!("{query}: {why}"));
                } else {
                    has_data(&cluster, &query);
                }
            }
        }
        // What the variables at the top ask.
        for label in ["cluster", "node"] {
            let path = format!("/api/v1/label/{label}/values?match[]=etcd_server_has_leader");
            let (status, body) = http(&cluster.endpoint(0), "GET", &path, "");
            assert!(status == 200 && !body.contains("[]"), "{body}");
        }
    }
    assert!(queries > 60, "only {queries} queries");
}

/// What etcd's own dashboard asks, in its shapes.
const ETCD: [&str; 22] = [
    "sum(etcd_server_has_leader{job=~\".*etcd.*\"})",
    "sum(rate(grpc_server_started_total{job=~\".*etcd.*\",grpc_type=\"unary\"}[10s]))",
    "sum(rate(grpc_server_handled_total{job=~\".*etcd.*\",grpc_type=\"unary\",grpc_code=\"OK\"}[10s]))",
    "sum(grpc_server_started_total{grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}) - \
     sum(grpc_server_handled_total{grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"})",
    "sum(grpc_server_started_total{grpc_service=\"etcdserverpb.Lease\",grpc_type=\"bidi_stream\"}) - \
     sum(grpc_server_handled_total{grpc_service=\"etcdserverpb.Lease\",grpc_type=\"bidi_stream\"})",
    "etcd_mvcc_db_total_size_in_bytes{job=~\".*etcd.*\"}",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "histogram_quantile(0.99, sum(rate(etcd_disk_wal_fsync_duration_seconds_bucket[10s])) by (instance, le))",
    "histogram_quantile(0.99, sum(rate(etcd_disk_backend_commit_duration_seconds_bucket[10s])) by (instance, le))",
    "process_resident_memory_bytes{job=~\".*etcd.*\"}",
    "rate(etcd_network_client_grpc_received_bytes_total[10s])",
    "rate(etcd_network_client_grpc_sent_bytes_total[10s])",
    "sum(rate(etcd_network_peer_received_bytes_total[10s])) by (instance)",
    "sum(rate(etcd_network_peer_sent_bytes_total[10s])) by (instance)",
    "changes(etcd_server_leader_changes_seen_total[1d])",
    "histogram_quantile(0.99, sum by (instance, le) (rate(etcd_network_peer_round_trip_time_seconds_bucket[10s])))",
    "sum(rate(etcd_server_proposals_failed_total[10s]))",
    "sum(etcd_server_proposals_pending)",
    "sum(rate(etcd_server_proposals_committed_total[10s]))",
    "sum(rate(etcd_server_proposals_applied_total[10s]))",
    "etcd_server_id",
    "sum by (server_version) (etcd_server_version)",
];

#[test]
fn etcds_own_dashboard_works() {
    let cluster = Cluster::with_settings(3, &SETTINGS);
    load(&cluster);
    for query in ETCD {
        has_data(&cluster, query);
    }
}
