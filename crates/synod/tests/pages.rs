//! The JSON gateway and the pages, over bare HTTP/1.

mod common;

use common::http::http;
use common::{Cluster, Etcd, block_on};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn gateway_and_pages() {
    let cluster = Cluster::start(1);
    let at = cluster.endpoint(0);
    let (status, put) = http(&at, "POST", "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#);
    assert_eq!(status, 200, "{put}");
    let json: serde_json::Value = serde_json::from_str(&put).expect("JSON");
    assert!(json["header"]["cluster_id"].is_string() && json["header"]["revision"] == "2", "{put}");
    let (_, got) = http(&at, "POST", "/v3/kv/range", r#"{"key":"Zm9v"}"#);
    let json: serde_json::Value = serde_json::from_str(&got).expect("JSON");
    assert_eq!(json["kvs"][0]["value"], "YmFy", "{got}");
    assert_eq!((&json["count"], &json["kvs"][0]["mod_revision"]), (&"1".into(), &"2".into()));
    let (status, bad) = http(&at, "POST", "/v3/kv/range", r#"{"key":""}"#);
    let json: serde_json::Value = serde_json::from_str(&bad).expect("JSON");
    assert_eq!((status, &json["code"]), (400, &3.into()));
    assert_eq!(json["error"], "etcdserver: key is not provided");
    let (status, _) = http(&at, "POST", "/v3/kv/put", "{not json");
    assert_eq!(status, 400);
    let (status, _) = http(&at, "POST", "/v3/nowhere", "{}");
    assert_eq!(status, 404);

    let (status, health) = http(&at, "GET", "/health", "");
    assert_eq!((status, health.as_str()), (200, r#"{"health":"true","reason":""}"#));
    let (status, ready) = http(&at, "GET", "/readyz?verbose", "");
    assert!(status == 200 && ready.contains("[+]linearizable_read ok"), "{ready}");
    assert_eq!(http(&at, "GET", "/livez", "").0, 200);
    assert_eq!(http(&at, "GET", "/readyz/nonsense", "").0, 404);
    let (_, version) = http(&at, "GET", "/version", "");
    assert!(version.contains("\"etcdserver\":\"3.7.0\""), "{version}");
    let (_, metrics) = http(&at, "GET", "/metrics", "");
    for name in [
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "etcd_mvcc_put_total",
        "process_resident_memory_bytes",
        "grpc_server_handled_total",
        "synod_journal_bytes_total",
    ] {
        assert!(metrics.contains(name), "{name} is missing");
    }
}

#[test]
fn a_watch_over_json() {
    let cluster = Cluster::start(1);
    let at = cluster.endpoint(0);
    let mut stream = TcpStream::connect(&at).expect("connect");
    let body = r#"{"create_request":{"key":"dw=="}}"#;
    let request = format!(
        "POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("request");
    let mut seen = String::new();
    let mut buffer = [0u8; 4096];
    let mut read_until = |what: &str, seen: &mut String| {
        while !seen.contains(what) {
            let n = stream.read(&mut buffer).expect("read");
            assert!(n > 0, "the stream ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    };
    read_until("\"created\":true", &mut seen);
    http(&at, "POST", "/v3/kv/put", r#"{"key":"dw==","value":"MQ=="}"#);
    read_until("\"value\":\"MQ==\"", &mut seen);
    assert!(seen.contains("{\"result\":{"), "{seen}");
}

/// Fields that this version does not know are passed over in etcd's calls, as etcd's own
/// gateway does: a newer client may send them. Our own interface names the mistake.
#[test]
fn unknown_fields_are_taken_as_etcd_takes_them() {
    let (cluster, etcd) = (Cluster::start(1), Etcd::start());
    block_on(etcd.channel());
    let requests = [
        ("/v3/kv/put", r#"{"key":"YQ==","value":"Yg==","bogus":1}"#),
        ("/v3/kv/put", r#"{"key":"YQ==","bogus":{"a":[1,null,{"b":"c"}]}}"#),
        ("/v3/kv/range", r#"{"bogus":null,"key":"YQ==","more":"x"}"#),
        ("/v3/kv/txn", r#"{"success":[{"request_range":{"key":"YQ==","bogus":true}}],"x":[]}"#),
        ("/v3/kv/range", r#"{"key":"YQ==","limit":{"bogus":1}}"#),
        ("/v3/kv/range", r#"{"key":"YQ==","limit":"many"}"#),
        // What is called as nothing is called is a mistake, and no default.
        ("/v3/kv/range", r#"{"key":"YQ==","sort_order":"FOO"}"#),
        ("/v3/kv/range", r#"{"key":"YQ==","sort_target":"VERSIN"}"#),
        ("/v3/kv/range", r#"{"key":"YQ==","sortOrder":"DESCEND","sort_target":1}"#),
        (
            "/v3/kv/txn",
            r#"{"compare":[{"key":"YQ==","result":"GREATERR"}],"success":[{"request_put":{"key":"YQ=="}}]}"#,
        ),
        ("/v3/maintenance/alarm", r#"{"action":"DEACTIVATEE"}"#),
    ];
    for (path, request) in requests {
        let (theirs, said) = http(&format!("127.0.0.1:{}", etcd.client), "POST", path, request);
        let (ours, answer) = http(&cluster.endpoint(0), "POST", path, request);
        assert_eq!(ours, theirs, "{request}: {answer}, and etcd: {said}");
    }
    let (_, got) = http(&cluster.endpoint(0), "POST", "/v3/kv/range", r#"{"key":"YQ=="}"#);
    assert!(got.contains(r#""version":"2""#), "{got}");
    let (status, why) =
        http(&cluster.endpoint(0), "POST", "/synod/v1/file/get", r#"{"path":"f","bogus":1}"#);
    assert!(status == 400 && why.contains("bogus"), "{status}: {why}");
}

/// Pages of other origins may ask, as with etcd, unless that is forbidden.
#[test]
fn browsers_are_told_who_may_ask() {
    let cluster = Cluster::with_settings(1, &["--cors", "http://a.example"]);
    let (all, etcd) = (Cluster::start(1), Etcd::start());
    block_on(etcd.channel());
    let rules = |at: &str, request: &str| {
        let mut stream = TcpStream::connect(at).expect("connect");
        let head = "Host: x\r\nOrigin: http://b.example\r\nConnection: close\r\n\r\n";
        stream.write_all(format!("{request} HTTP/1.1\r\n{head}").as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let head = answer.split("\r\n\r\n").next().unwrap_or_default().to_lowercase();
        let mut rules: Vec<_> =
            head.lines().filter(|l| l.starts_with("access-control")).map(str::to_owned).collect();
        rules.sort();
        (head.split(' ').nth(1).map(str::to_owned), rules)
    };
    let etcd = format!("127.0.0.1:{}", etcd.client);
    for request in ["OPTIONS /v3/kv/put", "GET /version", "GET /health"] {
        assert_eq!(rules(&all.endpoint(0), request), rules(&etcd, request), "{request}");
        assert_eq!(rules(&cluster.endpoint(0), request).1, [""; 0], "{request}");
    }
}

/// What etcd counts as puts, deletes and transactions, whoever was asked.
#[test]
fn writes_are_counted_as_etcd_counts_them() {
    let (cluster, etcd) = (Cluster::start(3), Etcd::start());
    block_on(etcd.channel());
    let put = r#"{"key":"YQ==","value":"Yg=="}"#;
    let two = r#"{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"Yg=="}}]}"#;
    let one = r#"{"success":[{"request_delete_range":{"key":"YQ=="}}]}"#;
    let mixed = r#"{"failure":[],"success":[{"request_range":{"key":"YQ=="}},
        {"request_txn":{"success":[{"request_put":{"key":"Yw=="}}]}}]}"#;
    let requests = [
        ("put", put),
        ("put", put),
        ("put", "{}"),
        ("txn", two),
        ("txn", one),
        ("txn", mixed),
        ("deleterange", r#"{"key":"bm9uZQ=="}"#),
        ("deleterange", r#"{"key":"YQ==","range_end":"eg=="}"#),
    ];
    let etcd = format!("127.0.0.1:{}", etcd.client);
    for (n, (call, request)) in requests.into_iter().enumerate() {
        let path = format!("/v3/kv/{call}");
        let ours = http(&cluster.endpoint(n % 3), "POST", &path, request);
        let theirs = http(&etcd, "POST", &path, request);
        assert_eq!(ours.0, theirs.0, "{request}: {} and {}", ours.1, theirs.1);
    }
    let read = |at: &str, name: &str| {
        let page = http(at, "GET", "/metrics", "").1;
        let line =
            page.lines().find_map(|l| l.strip_prefix(&format!("{name} ")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name}"))
    };
    for name in ["etcd_mvcc_put_total", "etcd_mvcc_delete_total", "etcd_mvcc_txn_total"] {
        let wanted = read(&etcd, name);
        for node in 0..3 {
            let begun = Instant::now();
            // A follower applies a moment later.
            while read(&cluster.endpoint(node), name) != wanted {
                let (ours, late) = (read(&cluster.endpoint(node), name), begun.elapsed());
                assert!(late < Duration::from_secs(5), "{name}: {ours}, and etcd {wanted}");
            }
        }
    }
}

/// A key that the store could not hold ends nobody, whatever asks for it, and is in no log.
#[test]
fn too_long_keys_are_refused_everywhere() {
    let mut cluster = Cluster::start(1);
    let at = cluster.endpoint(0);
    let key = "YWFh".repeat(70_000 / 3);
    let post = |path: &str, body: String| http(&at, "POST", path, &body);
    let long = format!(r#"{{"key":"{key}"}}"#);
    let (status, said) = post("/v3/kv/put", long.clone());
    assert!(status == 400 && said.contains("key is too long"), "{status}: {said}");
    let put = format!(r#"{{"success":[{{"request_put":{long}}}]}}"#);
    let (status, said) = post("/v3/kv/txn", put);
    assert!(status == 400 && said.contains("key is too long"), "{status}: {said}");
    for (path, body) in [
        ("/v3/kv/range", long.clone()),
        ("/v3/kv/range", format!(r#"{{"key":"YQ==","range_end":"{key}"}}"#)),
        ("/v3/kv/deleterange", long.clone()),
        (
            "/v3/kv/txn",
            format!(
                r#"{{"compare":[{{"key":"{key}","target":"VERSION"}}],
                    "success":[{{"request_put":{{"key":"YQ=="}}}}]}}"#
            ),
        ),
    ] {
        let (status, said) = post(path, body);
        assert_eq!(status, 200, "{path}: {said}");
    }
    for path in ["/v3/lock/lock", "/v3/election/campaign", "/synod/v1/lock/acquire"] {
        let (status, said) = post(path, format!(r#"{{"name":"{key}","value":"YQ=="}}"#));
        assert!(status >= 400, "{path}: {said}");
    }
    cluster.kill(0);
    cluster.spawn(0);
    cluster.wait_node(0);
    assert_eq!(post("/v3/kv/put", r#"{"key":"YQ=="}"#.into()).0, 200);
}
