//! The HTTP API, shape by shape, as Grafana, promtool and remote-write senders use it.

mod common;

use common::{Door, now_ms};
use http::{Method, StatusCode};
use prost::Message;
use serde_json::{Value, json};

/// Messages of remote-write 1.0, from its specification.
#[derive(Clone, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, Message)]
struct TimeSeries {
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
    timestamp: i64,
}

fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> TimeSeries {
    let label = |(n, v): &(&str, &str)| Label { name: (*n).into(), value: (*v).into() };
    let sample = |(timestamp, value): &(i64, f64)| Sample { value: *value, timestamp: *timestamp };
    TimeSeries {
        labels: labels.iter().map(label).collect(),
        samples: samples.iter().map(sample).collect(),
    }
}

/// What these tests send.
trait Sends {
    /// As Grafana sends it.
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, String);
    async fn write(&self, all: Vec<TimeSeries>) -> (StatusCode, String);
}

impl Sends for Door {
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, String) {
        let mut text = form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(form);
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        let answer = self.send(Method::POST, path, &kind, text.finish().into_bytes()).await;
        (answer.status(), String::from_utf8(answer.body().to_vec()).expect("text"))
    }

    async fn write(&self, all: Vec<TimeSeries>) -> (StatusCode, String) {
        let body = WriteRequest { timeseries: all }.encode_to_vec();
        let body = snap::raw::Encoder::new().compress_vec(&body).expect("compressed");
        let headers = [("content-type", "application/x-protobuf"), ("content-encoding", "snappy")];
        let answer = self.send(Method::POST, "/api/v1/write", &headers, body).await;
        (answer.status(), String::from_utf8_lossy(answer.body()).into_owned())
    }
}

/// Ten minutes of two counters, a sample every fifteen seconds.
async fn fill(door: &Door) -> i64 {
    let end = now_ms() / 1_000 * 1_000;
    let samples = |each: f64| -> Vec<(i64, f64)> {
        (0..=40).map(|i| (end - (40 - i) * 15_000, i as f64 * each)).collect()
    };
    let all = vec![
        series(&[("__name__", "requests_total"), ("code", "200")], &samples(30.0)),
        series(&[("__name__", "requests_total"), ("code", "500")], &samples(3.0)),
    ];
    assert_eq!(door.write(all).await, (StatusCode::NO_CONTENT, String::new()));
    end
}

#[tokio::test]
async fn what_grafana_asks_is_answered_in_its_shapes() {
    let door = Door::open("");
    let end = fill(&door).await / 1_000;
    // The data source's check of health.
    let (status, sum) = door.post("/api/v1/query", &[("query", "1+1"), ("time", "4")]).await;
    let told = "{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[4,\"2\"]}}";
    assert_eq!((status, &*sum), (StatusCode::OK, told));
    let (_, info) = door.get("/api/v1/status/buildinfo").await;
    assert!(info["data"]["version"].is_string() && info["data"]["features"].is_null(), "{info}");

    let (start, end) = ((end - 60).to_string(), end.to_string());
    let range =
        [("query", "rate(requests_total[1m])"), ("start", &start), ("end", &end), ("step", "15")];
    let (status, text) = door.post("/api/v1/query_range", &range).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    // Clients read the type before the result.
    assert!(text.find("resultType") < text.find("\"result\""), "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let found = answer["data"]["result"].as_array().expect("series");
    assert_eq!((found.len(), &found[0]["metric"]), (2, &json!({"code": "200"})));
    assert_eq!(found[0]["values"].as_array().map(Vec::len), Some(5));
    let rate: f64 = found[0]["values"][4][1].as_str().expect("a text").parse().expect("a number");
    assert!((rate - 2.0).abs() < 1e-9, "{rate}");

    let (_, names) = door.get("/api/v1/labels").await;
    assert_eq!(names["data"], json!(["__name__", "code"]));
    let (_, codes) = door.get("/api/v1/label/code/values?match%5B%5D=requests_total").await;
    assert_eq!(codes["data"], json!(["200", "500"]));
    let (_, some) = door.get("/api/v1/label/code/values?limit=1").await;
    assert_eq!(some["data"], json!(["200"]));
    let (_, found) = door.get("/api/v1/series?match[]=%7Bcode=~%225..%22%7D").await;
    assert_eq!(found["data"], json!([{"__name__": "requests_total", "code": "500"}]));
    for (path, empty) in [
        ("/api/v1/rules", json!({"groups": []})),
        ("/api/v1/alerts", json!({"alerts": []})),
        ("/api/v1/metadata", json!({})),
    ] {
        assert_eq!(door.get(path).await.1["data"], empty, "{path}");
    }
    let stats = door.get("/api/v1/status/tsdb").await.1;
    assert_eq!(stats["data"]["headStats"]["numSeries"], 2);
}

#[tokio::test]
async fn an_answer_says_what_its_reader_should_know() {
    let door = Door::open("");
    fill(&door).await;
    let (_, answer) = door.get("/api/v1/query?query=quantile(2,requests_total)").await;
    assert_eq!(
        answer["warnings"],
        json!(["PromQL warning: quantile value should be between 0 and 1, got 2 (1:10)"])
    );
    assert_eq!(answer["infos"], Value::Null);
    let (_, answer) = door.get("/api/v1/format_query?query=sum(a)by(b)%2B1").await;
    assert_eq!(answer["data"], "sum by (b) (a) + 1");
}

#[tokio::test]
async fn errors_say_what_where_and_why() {
    let door = Door::open("");
    let end = fill(&door).await / 1_000;
    let kind = |v: &Value| v["errorType"].as_str().unwrap_or_default().to_owned();
    for (path, status, expected, words) in [
        ("/api/v1/query?query=sum(", 400, "bad_data", "1:5: parse error"),
        ("/api/v1/query?query=1&time=soon", 400, "bad_data", "\"time\""),
        ("/api/v1/query_range?query=1&start=0&end=11001&step=1", 400, "bad_data", "11000 points"),
        ("/api/v1/query_range?query=1&start=2&end=1&step=1", 400, "bad_data", "before start"),
        ("/api/v1/query_range?query=up[1m]&start=1&end=2&step=1", 400, "bad_data", "range vector"),
        ("/api/v1/series", 400, "bad_data", "match[]"),
        ("/api/v1/nowhere", 404, "not_found", "/api/v1/nowhere"),
        ("/api/v1/parse_query?query=sum(", 400, "bad_data", "\"query\": 1:5: parse error"),
        ("/api/v1/status/walreplay", 404, "not_found", "no such path"),
    ] {
        let (got, value) = door.get(path).await;
        let why = value["error"].as_str().unwrap_or_default();
        assert_eq!((got.as_u16(), &*kind(&value)), (status, expected), "{path}: {value}");
        assert!(why.contains(words), "{path}: {why}");
    }
    let twice = "requests_total * on() group_left() requests_total";
    let (status, text) =
        door.post("/api/v1/query", &[("query", twice), ("time", &end.to_string())]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        text.contains("\"errorType\":\"execution\"") && text.contains("many-to-many"),
        "{text}"
    );
}

#[tokio::test]
async fn expressions_are_laid_out_and_taken_apart() {
    let door = Door::open("");
    let query = "sum by(job)(rate(up{a=\"b\"}[5m]))>1";
    let (_, laid_out) = door.post("/api/v1/format_query", &[("query", query)]).await;
    let laid_out: Value = serde_json::from_str(&laid_out).expect("JSON");
    assert_eq!(laid_out["data"], "sum by (job) (rate(up{a=\"b\"}[5m])) > 1");
    let (status, posted) = door.post("/api/v1/parse_query", &[("query", query)]).await;
    assert_eq!(status, StatusCode::OK);
    let posted: Value = serde_json::from_str(&posted).expect("JSON");
    let (_, got) =
        door.get("/api/v1/parse_query?query=sum+by(job)(rate(up{a=%22b%22}[5m]))%3E1").await;
    assert_eq!((&got, &got["status"]), (&posted, &"success".into()));
    let tree = &got["data"];
    assert_eq!((&tree["type"], &tree["op"]), (&"binaryExpr".into(), &">".into()));
    assert_eq!(tree["rhs"]["val"], "1");
    let range = &tree["lhs"]["expr"]["args"][0];
    assert_eq!((&range["type"], &range["range"]), (&"matrixSelector".into(), &300_000.into()));
}

#[tokio::test]
async fn what_is_pushed_is_taken_or_refused_with_its_reason() {
    let door = Door::open("");
    let now = now_ms();
    let one = |at: i64, value: f64| vec![series(&[("__name__", "m"), ("a", "b")], &[(at, value)])];
    assert_eq!(door.write(one(now, 1.0)).await.0, StatusCode::NO_CONTENT);
    // Sent again, as after a lost answer.
    assert_eq!(door.write(one(now, 1.0)).await.0, StatusCode::NO_CONTENT);
    for (all, words) in [
        (one(now, 2.0), "duplicate sample"),
        (one(now - 1, 1.0), "out of order sample"),
        (one(now + 3_600_000, 1.0), "too far in the future"),
        (vec![series(&[("a", "b")], &[(now, 1.0)])], "has no name"),
    ] {
        let (status, why) = door.write(all).await;
        assert!(status == StatusCode::BAD_REQUEST && why.contains(words), "{status} {why}");
    }
    let newer = [("content-type", "application/x-protobuf;proto=io.prometheus.write.v9.Request")];
    let answer = door.send(Method::POST, "/api/v1/write", &newer, Vec::new()).await;
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let garbage = door.send(Method::POST, "/api/v1/write", &[], vec![0xff; 40]).await;
    assert_eq!(garbage.status(), StatusCode::BAD_REQUEST);
    // A body that says it is larger than it may be is not decoded.
    let huge =
        door.send(Method::POST, "/api/v1/write", &[], vec![0xff, 0xff, 0xff, 0xff, 0x0f]).await;
    assert_eq!(huge.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn what_was_pushed_is_there_after_a_restart() {
    let mut door = Door::open("");
    let end = (fill(&door).await / 1_000).to_string();
    let ask = [("query", "sum(requests_total)"), ("time", &*end)];
    let before = door.post("/api/v1/query", &ask).await;
    assert!(before.1.contains("\"1320\""), "{}", before.1);
    door.restart();
    assert_eq!(door.post("/api/v1/query", &ask).await, before);
}
