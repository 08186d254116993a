//! Pushing: the Pushgateway's API, OTLP, remote-write 2.0; and reading what is there by
//! remote-read and federation.

mod common;

use bytes::Bytes;
use common::{Door, now_ms};
use http::{Method, StatusCode};
use prost::Message;
use serde_json::json;

const PUSH: &str = "# TYPE done counter\ndone{l=\"1\"} 3\n# TYPE took histogram\n\
                    took_bucket{le=\"+Inf\"} 2\ntook_sum 5\ntook_count 2\n";

fn text(body: &Bytes) -> String {
    String::from_utf8_lossy(body).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_pushed_replaced_kept_and_deleted() {
    let mut door = Door::open("");
    let push = async |door: &Door, method: Method, path: &str, body: &'static str| {
        let answer = door.send(method, path, &[], body).await;
        (answer.status(), text(answer.body()))
    };
    let at = "/metrics/job/batch/instance/a";
    assert_eq!(push(&door, Method::PUT, at, PUSH).await, (StatusCode::OK, String::new()));
    let done = "{\"__name__\":\"done\",\"instance\":\"a\",\"job\":\"batch\",\"l\":\"1\"}";
    door.sees("done", &[(done, "3")]).await;
    door.sees(
        "took_count",
        &[("{\"__name__\":\"took_count\",\"instance\":\"a\",\"job\":\"batch\"}", "2")],
    )
    .await;
    door.sees("count(time() - push_time_seconds{job=\"batch\"} < 60)", &[("{}", "1")]).await;
    door.sees("sum(push_failure_time_seconds)", &[("{}", "0")]).await;
    // POST replaces metrics of the same names only.
    let (status, _) = push(&door, Method::POST, at, "# TYPE done counter\ndone{l=\"2\"} 4\n").await;
    assert_eq!(status, StatusCode::OK);
    door.sees("sum by (l) (done)", &[("{\"l\":\"2\"}", "4")]).await;
    door.sees("count(took_sum)", &[("{}", "1")]).await;
    // What is wrong is told, noted, and changes nothing.
    for (body, why) in [
        ("done 1 1234\n", "must not have timestamps"),
        ("done 1\ndone 2\n", "is pushed twice"),
        ("done x\n", "is no number"),
    ] {
        let (status, told) = push(&door, Method::PUT, at, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(told.contains(why), "{told}");
    }
    let (status, told) =
        push(&door, Method::PUT, "/metrics/job/other", "# TYPE done gauge\ndone 1\n").await;
    assert!(status == StatusCode::BAD_REQUEST && told.contains("in another group"), "{told}");
    door.sees("count(push_failure_time_seconds{job=\"batch\"} > 0)", &[("{}", "1")]).await;
    door.sees("sum by (l) (done)", &[("{\"l\":\"2\"}", "4")]).await;
    // It outlives the process: acknowledged means on disk.
    door.restart();
    let again = door;
    let done = "# TYPE other counter\nother 1\n";
    assert_eq!(push(&again, Method::POST, at, done).await.0, StatusCode::OK);
    again.sees("sum by (l) (done)", &[("{\"l\":\"2\"}", "4")]).await;
    again.sees("sum(other)", &[("{}", "1")]).await;
    assert_eq!(push(&again, Method::DELETE, at, "").await.0, StatusCode::ACCEPTED);
    again.sees("{job=\"batch\"}", &[]).await;
    // PUT of nothing empties a group, and leaves its times.
    assert_eq!(push(&again, Method::PUT, "/metrics/job/x", "y 1\n").await.0, StatusCode::OK);
    assert_eq!(push(&again, Method::PUT, "/metrics/job/x", "").await.0, StatusCode::OK);
    again.sees("count({job=\"x\"})", &[("{}", "2")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_client_pushes_protobuf() {
    // As the client writes it: one family behind its length. name, help, type, one metric
    // with a label and a counter of 2.5.
    let metric = [
        &[0x0a, 0x06, 0x0a, 0x01, b'l', 0x12, 0x01, b'v'][..],
        &[0x1a, 0x09, 0x09],
        &2.5f64.to_le_bytes(),
    ]
    .concat();
    let mut family = vec![0x0a, 0x01, b'c', 0x12, 0x01, b'h', 0x18, 0x00, 0x22, metric.len() as u8];
    family.extend(&metric);
    let mut body = vec![family.len() as u8];
    body.extend(&family);
    let kind = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    let door = Door::open("");
    let answer = door.send(Method::PUT, "/metrics/job/go", &[("content-type", kind)], body).await;
    assert_eq!(answer.status(), StatusCode::OK, "{}", text(answer.body()));
    door.sees("c", &[("{\"__name__\":\"c\",\"job\":\"go\",\"l\":\"v\"}", "2.5")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_is_taken_as_json_and_delta_is_added_up() {
    let door = Door::open("");
    let now = now_ms() as u64 * 1_000_000;
    let attribute = |k: &str, v: &str| json!({"key": k, "value": {"stringValue": v}});
    let body = |at: u64| {
        json!({"resourceMetrics": [{
        "resource": {"attributes": [attribute("service.name", "shop"), attribute("service.namespace", "eu"),
            attribute("service.instance.id", "i1"), attribute("host.name", "h")]},
        "scopeMetrics": [{"metrics": [
            {"name": "http.requests", "unit": "{request}", "sum": {"isMonotonic": true,
                "aggregationTemporality": 2,
                "dataPoints": [{"timeUnixNano": at.to_string(), "asInt": "7",
                    "attributes": [attribute("http.route", "/a")]}]}},
            {"name": "delta", "sum": {"isMonotonic": true, "aggregationTemporality":
                "AGGREGATION_TEMPORALITY_DELTA",
                "dataPoints": [{"timeUnixNano": at, "asDouble": 2.0}]}},
            {"name": "load", "unit": "1", "gauge": {"dataPoints": [{"timeUnixNano": at, "asDouble": 0.5}]}},
            {"name": "took", "unit": "s", "histogram": {"aggregationTemporality": 2, "dataPoints": [
                {"timeUnixNano": at, "count": "3", "sum": 4.5, "bucketCounts": ["1", "1", 1],
                 "explicitBounds": [0.5, 1]}]}},
            {"name": "q", "summary": {"dataPoints": [{"timeUnixNano": at, "count": 2, "sum": 3,
                 "quantileValues": [{"quantile": 0.5, "value": 1.5}]}]}},
            {"name": "native", "unit": "s", "exponentialHistogram": {"aggregationTemporality": 2,
                "dataPoints": [{"timeUnixNano": at.to_string(), "count": "6", "sum": 9.5,
                    "scale": 0, "zeroCount": "1",
                    "positive": {"offset": -1, "bucketCounts": ["2", "3"]}}]}},
            {"name": "odd", "exponentialHistogram": {"aggregationTemporality": 1,
                "dataPoints": [{"timeUnixNano": at}]}}
        ]}]}]})
        .to_string()
    };
    let json = [("content-type", "application/json")];
    let answer =
        door.send(Method::POST, "/api/v1/otlp/v1/metrics", &json, body(now - 2_000_000)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let told = text(answer.body());
    assert!(
        told.contains("\"rejectedDataPoints\":\"1\"") && told.contains("exponential"),
        "{told}"
    );
    let base = "\"instance\":\"i1\",\"job\":\"eu/shop\"";
    let is = async |query: &str, labels: String, value: &str| {
        door.sees(query, &[(&format!("{{{labels}}}"), value)]).await;
    };
    is(
        "http_requests_total",
        format!("\"__name__\":\"http_requests_total\",\"http_route\":\"/a\",{base}"),
        "7",
    )
    .await;
    is("load_ratio", format!("\"__name__\":\"load_ratio\",{base}"), "0.5").await;
    is("target_info", format!("\"__name__\":\"target_info\",\"host_name\":\"h\",{base}"), "1")
        .await;
    is("sum(took_seconds_bucket{le=\"1\"})", String::new(), "2").await;
    is("sum(took_seconds_bucket{le=\"+Inf\"})", String::new(), "3").await;
    is("sum(took_seconds_sum)", String::new(), "4.5").await;
    is("sum(q{quantile=\"0.5\"})", String::new(), "1.5").await;
    is("sum(delta_total)", String::new(), "2").await;
    is("sum(histogram_count(native_seconds))", String::new(), "6").await;
    is("histogram_fraction(1, 2, sum(native_seconds))", String::new(), "0.5").await;
    // The same again is no news; later ones are added.
    let again = door.send(Method::POST, "/api/v1/otlp/v1/metrics", &json, body(now)).await;
    assert_eq!(again.status(), StatusCode::OK);
    is("sum(delta_total)", String::new(), "4").await;
    let old = door.send(Method::POST, "/api/v1/otlp/v1/metrics", &json, body(now)).await;
    assert!(text(old.body()).contains("not later than the one before"), "{old:?}");
    is("sum(delta_total)", String::new(), "4").await;
    for (kind, body, status) in [
        ("application/json", "{", StatusCode::BAD_REQUEST),
        ("application/json", "{\"resourceMetrics\": 1}", StatusCode::BAD_REQUEST),
        ("application/x-protobuf", "\u{1}", StatusCode::BAD_REQUEST),
        ("text/plain", "", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("application/x-protobuf", "", StatusCode::OK),
    ] {
        let headers = [("content-type", kind)];
        let answer = door.send(Method::POST, "/api/v1/otlp/v1/metrics", &headers, body).await;
        assert_eq!(answer.status(), status, "{kind} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_counts_the_points_that_it_rejects_and_takes_exemplars() {
    let door = Door::open("");
    let now = now_ms() as u64;
    let host = json!({"key": "host.name", "value": {"stringValue": "h"}});
    let service = json!({"key": "service.name", "value": {"stringValue": "s"}});
    // A histogram has seven series here, and its resource one more.
    let body = |at: u64, exemplars: serde_json::Value| {
        json!({"resourceMetrics": [{"resource": {"attributes": [host, service]},
            "scopeMetrics": [{"metrics": [{"name": "took", "histogram": {
                "aggregationTemporality": 2, "dataPoints": [{"timeUnixNano": at * 1_000_000,
                "count": 6, "sum": 4, "bucketCounts": [1, 2, 3, 0], "explicitBounds": [0.5, 1, 2],
                "exemplars": exemplars}]}}]}]}]})
        .to_string()
    };
    let attribute = |k: &str, v: String| json!({"key": k, "value": {"stringValue": v}});
    let exemplars = json!([
        {"timeUnixNano": now * 1_000_000, "asDouble": 0.75, "traceId": "5b8efff798038103",
         "spanId": "eee19b7ec3c1b174"},
        {"timeUnixNano": now * 1_000_000, "asInt": "3", "traceId": "ff",
         "filteredAttributes": [attribute("a", "y".into()), attribute("long", "x".repeat(128))]},
    ]);
    let json = [("content-type", "application/json")];
    let send = async |body: String| {
        let answer = door.send(Method::POST, "/api/v1/otlp/v1/metrics", &json, body).await;
        (answer.status(), text(answer.body()))
    };
    assert_eq!(send(body(now, exemplars)).await, (StatusCode::OK, "{}".into()));
    let (_, found) = door.get("/api/v1/query_exemplars?query=took_bucket").await;
    let of = |le: &str| {
        let all = found["data"].as_array().expect("a list");
        let series = all.iter().find(|s| s["seriesLabels"]["le"] == le);
        series.map(|s| s["exemplars"].clone()).unwrap_or_default()
    };
    let labels = json!({"trace_id": "5b8efff798038103", "span_id": "eee19b7ec3c1b174"});
    assert_eq!((&of("1")[0]["labels"], &of("1")[0]["value"]), (&labels, &json!("0.75")), "{found}");
    assert_eq!(of("+Inf")[0]["labels"], json!({"trace_id": "ff", "a": "y"}), "{found}");
    // An older point is one that is refused, however many series it has; what the resource
    // says is none.
    let (status, told) = send(body(now - 60_000, json!([]))).await;
    assert_eq!(status, StatusCode::OK);
    assert!(told.contains("\"rejectedDataPoints\":\"1\"") && told.contains("out of"), "{told}");
    let (status, _) = send(body(now, json!([{"traceId": "5"}]))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let only_older_info = json!({"resourceMetrics": [{"resource": {"attributes": [host, service]},
        "scopeMetrics": [{"metrics": [{"name": "other", "gauge": {"dataPoints": [
            {"timeUnixNano": (now - 30_000) * 1_000_000, "asInt": 1}]}}]}]}]});
    assert_eq!(send(only_older_info.to_string()).await, (StatusCode::OK, "{}".into()));
}

/// Remote-write 2.0, from its specification.
#[derive(Clone, Message)]
struct Request2 {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    timeseries: Vec<Series2>,
}

#[derive(Clone, Message)]
struct Series2 {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_write_2_counts_what_it_took() {
    let door = Door::open("");
    let headers = [
        ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
        ("content-encoding", "snappy"),
    ];
    let symbols = ["", "__name__", "w", "l", "v"].map(str::to_owned).to_vec();
    let now = now_ms();
    let send = async |symbols: Vec<String>, refs: &[u32], at: &[i64]| {
        let samples = at.iter().map(|timestamp| Sample { value: 1.5, timestamp: *timestamp });
        let series = Series2 { labels_refs: refs.to_vec(), samples: samples.collect() };
        let body = Request2 { symbols, timeseries: vec![series] }.encode_to_vec();
        let body = snap::raw::Encoder::new().compress_vec(&body).expect("compressed");
        let answer = door.send(Method::POST, "/api/v1/write", &headers, body).await;
        let count = answer.headers().get("x-prometheus-remote-write-samples-written");
        let count = count.and_then(|c| c.to_str().ok()).unwrap_or("none").to_owned();
        (answer.status(), count, text(answer.body()))
    };
    let all = [1, 2, 3, 4];
    let (status, count, _) = send(symbols.clone(), &all, &[now - 2_000, now - 1_000]).await;
    assert_eq!((status, &*count), (StatusCode::NO_CONTENT, "2"));
    door.sees("w", &[("{\"__name__\":\"w\",\"l\":\"v\"}", "1.5")]).await;
    // What is too far ahead is refused, and the rest taken.
    let (status, count, why) = send(symbols.clone(), &all, &[now, now + 3_600_000]).await;
    assert_eq!((status, &*count), (StatusCode::BAD_REQUEST, "1"));
    assert!(why.contains("too far in the future"), "{why}");
    for (symbols, refs, why) in [
        (symbols.clone(), &[1u32, 2, 3][..], "without a value"),
        (symbols.clone(), &[1, 9], "there is no symbol 9"),
        (vec!["x".into()], &[], "symbols[0]"),
    ] {
        let (status, _, told) = send(symbols, refs, &[now]).await;
        assert!(status == StatusCode::BAD_REQUEST && told.contains(why), "{told}");
    }
}

#[derive(Clone, prost::Message)]
struct Request1 {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<Series1>,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<Metadata1>,
}

#[derive(Clone, prost::Message)]
struct Series1 {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label1>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, prost::Message)]
struct Label1 {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, prost::Message)]
struct Metadata1 {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    metric_family_name: String,
    #[prost(string, tag = "4")]
    help: String,
    #[prost(string, tag = "5")]
    unit: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_write_1_says_what_a_metric_is_and_no_label_twice() {
    let door = Door::open("");
    let series = |labels: &[(&str, &str)]| Series1 {
        labels: labels
            .iter()
            .map(|(n, v)| Label1 { name: (*n).to_owned(), value: (*v).to_owned() })
            .collect(),
        samples: vec![Sample { value: 2.5, timestamp: now_ms() }],
    };
    let request = Request1 {
        timeseries: vec![
            series(&[("__name__", "good"), ("a", "1")]),
            series(&[("__name__", "bad"), ("a", "1"), ("a", "2")]),
        ],
        metadata: vec![Metadata1 {
            kind: 2,
            metric_family_name: "good".into(),
            help: "What is good.".into(),
            unit: String::new(),
        }],
    };
    let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).expect("packed");
    let answer = door.send(Method::POST, "/api/v1/write", &[], body).await;
    let why = text(answer.body());
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{why}");
    assert!(why.contains("a series of \"bad\" has two labels \"a\""), "{why}");
    door.sees("good", &[("{\"__name__\":\"good\",\"a\":\"1\"}", "2.5")]).await;
    door.sees("bad", &[]).await;
    let known = text(door.send(Method::GET, "/api/v1/metadata", &[], "").await.body());
    let wanted = r#""good":[{"type":"gauge","help":"What is good.","unit":""}]"#;
    assert!(known.contains(wanted), "{known}");
}

/// Where an alert's link leads.
#[tokio::test(flavor = "multi_thread")]
async fn an_expression_of_a_link_is_shown() {
    let door = Door::open("");
    let answer = door.send(Method::GET, "/graph?g0.expr=up+%3D%3D+0&g0.tab=1", &[], "").await;
    assert_eq!(answer.status(), StatusCode::FOUND);
    let to = answer.headers()["location"].to_str().expect("text").to_owned();
    let shown = text(door.send(Method::GET, &to, &[], "").await.body());
    assert!(shown.contains(r#""status":"success""#), "{to}: {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_read_by_federation_and_remote_read() {
    let door = Door::open("global: {external_labels: {region: eu}}\n");
    let push = door.send(Method::PUT, "/metrics/job/x", &[], PUSH).await;
    assert_eq!(push.status(), StatusCode::OK);
    let match_ = "match%5B%5D=%7Bjob%3D%22x%22%7D&match%5B%5D=done";
    let page = door.send(Method::GET, &format!("/federate?{match_}"), &[], "").await;
    assert_eq!(page.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let page = text(page.body());
    let line = page.lines().find(|l| l.starts_with("done{")).expect("a line");
    assert!(line.starts_with("done{job=\"x\",l=\"1\",region=\"eu\",instance=\"\"} 3 1"), "{page}");
    assert_eq!(page.matches("# TYPE done counter").count(), 1);
    // What another Prometheus could not read is written so that it can.
    let odd = "# TYPE st stateset\nst 1\n{\"with.dots\",\"l.x\"=\"v\"} 2\n";
    let push = door.send(Method::PUT, "/metrics/job/odd", &[], odd).await;
    assert_eq!(push.status(), StatusCode::OK, "{}", text(push.body()));
    let path = "/federate?match%5B%5D=%7Bjob%3D%22odd%22%7D";
    let page = text(door.send(Method::GET, path, &[], "").await.body());
    assert!(page.contains("# TYPE st untyped\n"), "{page}");
    assert!(page.contains("with_dots{job=\"odd\",l_x=\"v\""), "{page}");
    let bad = door.send(Method::GET, "/federate?match%5B%5D=%7B", &[], "").await;
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
    let body = snap::raw::Encoder::new().compress_vec(b"\x0a\x00").expect("compressed");
    let answer = door.send(Method::POST, "/api/v1/read", &[], body).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-encoding"], "snappy");
}
