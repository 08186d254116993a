//! Pages, metrics and the JSON gateway, over HTTP/1.

mod common;

use common::{Node, Plan, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use synod_door_etcd::METRICS;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::watch_client::WatchClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;

async fn start() -> (Plan, Node) {
    let plan = Plan::alone();
    let node = plan.start().await;
    node.ready().await;
    (plan, node)
}

async fn post(node: &Node, path: &str, body: Value) -> (u16, Value) {
    let (status, text) = node.http("POST", path, &body.to_string()).await;
    (status, serde_json::from_str(&text).expect("JSON"))
}

/// The value of a series.
fn series(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_for_probes() {
    let (_plan, node) = start().await;
    let healthy = (200, r#"{"health":"true","reason":""}"#.to_owned());
    assert_eq!(node.http("GET", "/health", "").await, healthy);
    assert_eq!(node.http("GET", "/health?serializable=true", "").await, healthy);
    let version: Value =
        serde_json::from_str(&node.http("GET", "/version", "").await.1).expect("JSON");
    for key in ["etcdserver", "etcdcluster", "storage"] {
        assert_eq!(version[key], synod_door_etcd::ETCD_VERSION);
    }
    let (status, text) = node.http("GET", "/livez?verbose", "").await;
    assert_eq!((status, &*text), (200, "[+]serializable_read ok\nok\n"));
    let (_, text) = node.http("GET", "/readyz?verbose", "").await;
    for check in ["data_corruption", "serializable_read", "linearizable_read", "non_learner"] {
        assert!(text.contains(&format!("[+]{check} ok\n")), "{text}");
        assert_eq!(node.http("GET", &format!("/readyz/{check}"), "").await.0, 200);
    }
    assert_eq!(node.http("GET", "/livez/linearizable_read", "").await.0, 404);
    assert_eq!(node.http("POST", "/health", "").await.0, 405);
    let (status, text) = node.http("GET", "/nowhere", "").await;
    assert!(status == 404 && text.contains("/nowhere"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_as_etcds_gateway_has_it() {
    let (_plan, node) = start().await;
    let put = json!({"key": "Zm9v", "value": "YmFy"});
    assert_eq!(post(&node, "/v3/kv/put", put.clone()).await.0, 200);
    let (_, got) = post(&node, "/v3beta/kv/range", json!({"key": "Zm9v"})).await;
    let pair = json!({"key": "Zm9v", "value": "YmFy", "create_revision": "2",
                      "mod_revision": "2", "version": "1"});
    assert_eq!((&got["kvs"], &got["count"]), (&json!([pair]), &json!("1")));
    assert!(got["header"]["cluster_id"].is_string() && got.get("more").is_none(), "{got}");

    let txn = json!({
        "compare": [{"key": "Zm9v", "target": "MOD", "mod_revision": "2"}],
        "success": [{"request_put": put}],
        "failure": [{"request_range": {"key": "Zm9v"}}]});
    let (_, done) = post(&node, "/v3/kv/txn", txn.clone()).await;
    assert_eq!((&done["succeeded"], &done["header"]["revision"]), (&json!(true), &json!("3")));
    let (_, done) = post(&node, "/v3/kv/txn", txn).await;
    let range = &done["responses"][0]["response_range"];
    assert!(done.get("succeeded").is_none() && range["count"] == "1", "{done}");

    // Names and paths that surprise.
    let (_, lease) = post(&node, "/v3/lease/grant", json!({"TTL": "60", "ID": 7})).await;
    assert_eq!((&lease["ID"], &lease["TTL"]), (&json!("7"), &json!("60")));
    let (_, left) = post(&node, "/v3/kv/lease/timetolive", json!({"ID": "7"})).await;
    assert_eq!(left["grantedTTL"], "60");
    let (_, list) = post(&node, "/v3/cluster/member/list", json!({})).await;
    assert_eq!(list["members"][0]["peerURLs"].as_array().map(Vec::len), Some(1));
    let kept = node.http("POST", "/v3/lease/keepalive", r#"{"ID": "7"}"#).await.1;
    assert!(kept.contains(r#"{"result":{"#) && kept.contains(r#""TTL":"60""#), "{kept}");

    let refusal = |text: &str, code: i32| json!({"error": text, "message": text, "code": code});
    let answer = post(&node, "/v3/kv/range", json!({"key": ""})).await;
    assert_eq!(answer, (400, refusal("etcdserver: key is not provided", 3)));
    let answer = post(&node, "/v3/lease/revoke", json!({"ID": "9"})).await;
    assert_eq!(answer, (404, refusal("etcdserver: requested lease not found", 5)));
    let target = json!({"targetID": "9"});
    let answer = post(&node, "/v3/maintenance/transfer-leadership", target).await;
    assert_eq!(answer, (400, refusal("etcdserver: bad leader transferee", 9)));
    assert_eq!(node.http("POST", "/v3/kv/put", "{no").await.0, 400);
    assert_eq!(node.http("POST", "/v3/kv/put", r#"{"kee": "Zm9v"}"#).await.0, 400);
    assert_eq!(node.http("GET", "/v3/kv/range", "").await.0, 405);
    assert_eq!(post(&node, "/v3/nowhere", json!({})).await.0, 404);
    let large = json!({"key": "Zm9v", "value": "A".repeat(4 << 20)});
    let answer = post(&node, "/v3/kv/put", large).await;
    assert_eq!(answer, (400, refusal("etcdserver: request is too large", 3)));
    let large = json!({"key": "Zm9v", "value": "A".repeat(3 << 20)});
    let (status, answer) = post(&node, "/v3/kv/put", large).await;
    assert_eq!((status, &answer["code"]), (429, &json!(8)), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_post_streams_lines() {
    let (_plan, node) = start().await;
    let mut stream = TcpStream::connect(node.address()).await.expect("the door answers");
    let body = r#"{"create_request": {"key": "dw=="}}"#;
    let length = body.len();
    let request =
        format!("POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let (mut seen, mut buffer) = (String::new(), [0; 4096]);
    for wanted in ["\"created\":true", "\"value\":\"MQ==\""] {
        while !seen.contains(wanted) {
            let n = stream.read(&mut buffer).await.expect("more");
            assert!(n > 0, "the stream ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        post(&node, "/v3/kv/put", json!({"key": "dw==", "value": "MQ=="})).await;
    }
    assert_eq!(seen.matches("{\"result\":{").count(), seen.matches("}\n").count());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened() {
    let (_plan, node) = start().await;
    let channel = node.channel().await;
    let mut kv = KvClient::new(channel.clone());
    for _ in 0..3 {
        let request = pb::PutRequest { key: "a".into(), ..Default::default() };
        kv.put(request).await.expect("a put");
    }
    kv.put(pb::PutRequest::default()).await.expect_err("no key");
    post(&node, "/v3/kv/put", json!({"key": "YQ=="})).await;
    post(&node, "/v3/lease/revoke", json!({"ID": "9"})).await;
    let create = pb::WatchCreateRequest { key: "a".into(), ..Default::default() };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    tx.send(pb::WatchRequest { request_union: Some(create) }).await.expect("room");
    let requests = ReceiverStream::new(rx);
    let mut watch = WatchClient::new(channel).watch(requests).await.expect("a watch").into_inner();
    watch.message().await.expect("an answer");

    let page = node.http("GET", "/metrics", "").await.1;
    let call = |family: &str, code: &str, method: &str, service: &str, kind: &str| {
        let labels = format!(
            "{code}grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\""
        );
        series(&page, &format!("grpc_server_{family}{{{labels}}}"))
    };
    let handled = |code: &str, method: &str, service: &str| {
        call("handled_total", &format!("grpc_code=\"{code}\","), method, service, "unary")
    };
    // The gateway's calls count as those of gRPC do.
    assert_eq!(handled("OK", "Put", "etcdserverpb.KV"), Some(4.0));
    assert_eq!(handled("InvalidArgument", "Put", "etcdserverpb.KV"), Some(1.0));
    assert_eq!(handled("NotFound", "LeaseRevoke", "etcdserverpb.Lease"), Some(1.0));
    let put = call("handling_seconds_count", "", "Put", "etcdserverpb.KV", "unary");
    assert_eq!(put, Some(5.0));
    let watches = call("started_total", "", "Watch", "etcdserverpb.Watch", "bidi_stream");
    assert_eq!(watches, Some(1.0));
    for (name, value) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 1.0),
        ("etcd_debugging_mvcc_current_revision", 5.0),
        ("etcd_debugging_mvcc_watcher_total", 1.0),
        ("etcd_mvcc_put_total", 4.0),
    ] {
        assert_eq!(series(&page, name), Some(value), "{name}");
    }
    for name in [
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_disk_backend_commit_duration_seconds_count",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_server_proposals_applied_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(series(&page, name).is_some_and(|v| v > 0.0), "{name}");
    }
    // No series twice, and each under its family's head.
    let mut seen = BTreeSet::new();
    let mut heads = BTreeSet::new();
    for line in page.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            assert!(heads.insert(head.split(' ').next().expect("a name")), "{line}");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(seen.insert(name), "twice: {line}");
            value.parse::<f64>().expect("a number");
        }
    }

    // A watch whose client has said everything ends with its trailers.
    drop(tx);
    while watch.message().await.expect("an orderly end").is_some() {}
    until("the watch to be counted as ended", || async {
        let page = node.http("GET", "/metrics", "").await.1;
        let ended = page.lines().filter(|l| {
            l.starts_with("grpc_server_handled_total{")
                && l.contains("grpc_method=\"Watch\"")
                && l.contains("etcdserverpb.Watch")
        });
        ended.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() == 1.0
    })
    .await;
}

/// The table tells every family that the page has, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_metrics_is_the_page() {
    let (_plan, node) = start().await;
    let page = node.http("GET", "/metrics", "").await.1;
    let told: Vec<String> =
        METRICS.iter().map(|f| format!("{} {} {}", f.name, f.kind, f.help)).collect();
    let mut helps = page.lines().filter_map(|l| l.strip_prefix("# HELP "));
    let mut types = page.lines().filter_map(|l| l.strip_prefix("# TYPE "));
    let mut shown: Vec<String> = Vec::new();
    while let (Some(help), Some(kind)) = (helps.next(), types.next()) {
        let (name, help) = help.split_once(' ').expect("a meaning");
        shown.push(format!("{kind} {help}"));
        assert!(kind.starts_with(name), "{kind}");
    }
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    assert_eq!(sorted(shown), sorted(told));
}
