//! What requests to the HTTP API may ask for besides: statistics, limits, compression; and
//! what is said of requests that are none.

mod common;

use bytes::Bytes;
use common::{Door, now_ms, serve};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::io::Read;
use std::time::{Duration, Instant};
use synod_door_prom::packed_write;
use synod_promql::Labels;

const TRUNCATED: &str = "results truncated due to limit";

/// Twenty series with five samples each, a second apart.
async fn fill(door: &Door) -> i64 {
    let end = now_ms() / 1_000 * 1_000;
    let series = |n: i64| {
        let labels = Labels::new([("__name__", "m"), ("n", &*format!("{n:02}"))]);
        (labels, (0..5).map(|i| (end - (4 - i) * 1_000, n as f64)).collect())
    };
    let kind = [("content-type", "application/x-protobuf")];
    let body = packed_write((0..20).map(series));
    let answer = door.send(Method::POST, "/api/v1/write", &kind, body).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    end / 1_000
}

#[tokio::test]
async fn a_query_tells_what_it_took_if_it_is_asked_to() {
    let door = Door::open("");
    let end = fill(&door).await;
    let (_, answer) = door.get(&format!("/api/v1/query?query=m&time={end}")).await;
    assert_eq!(answer["data"]["stats"], Value::Null);
    let samples = async |path: String| {
        let (status, answer) = door.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let stats = &answer["data"]["stats"];
        let names = [
            "evalTotalTime",
            "resultSortTime",
            "queryPreparationTime",
            "innerEvalTime",
            "execQueueTime",
            "execTotalTime",
        ];
        let times = names.map(|name| stats["timings"][name].as_f64().expect(name));
        assert!(times.iter().all(|t| (0.0..60.0).contains(t)), "{stats}");
        assert!(times[5] >= times[0] && times[0] >= times[3] && times[3] > 0.0, "{stats}");
        assert!(stats["samples"]["peakSamples"].as_u64() > Some(0), "{stats}");
        stats["samples"]["totalQueryableSamples"].as_u64()
    };
    assert_eq!(samples(format!("/api/v1/query?query=m&time={end}&stats=all")).await, Some(20));
    // All samples of a window count, and at each step.
    let rate = format!("/api/v1/query?query=rate(m[3s])&time={end}&stats=1");
    assert_eq!(samples(rate).await, Some(60));
    let range = format!("start={}&end={end}&step=1&stats=all", end - 1);
    assert_eq!(samples(format!("/api/v1/query_range?query=rate(m[3s])&{range}")).await, Some(120));
}

#[tokio::test]
async fn what_is_beyond_a_limit_is_left_out_and_that_is_told() {
    let door = Door::open("");
    let end = fill(&door).await;
    let range = format!("start={}&end={end}&step=1", end - 2);
    for path in [
        format!("/api/v1/query?query=m&time={end}"),
        format!("/api/v1/query_range?query=m&{range}"),
        "/api/v1/series?match[]=m".into(),
        "/api/v1/labels?x=1".into(),
        "/api/v1/label/n/values?x=1".into(),
    ] {
        let of = async |limit: &str| {
            let (status, answer) = door.get(&format!("{path}&limit={limit}")).await;
            let data = &answer["data"];
            let all = data["result"].as_array().or(data.as_array()).map(Vec::len);
            let warned = answer["warnings"] == json!([TRUNCATED]);
            (status, all, warned)
        };
        let all = of("0").await.1;
        assert!(all >= Some(2), "{path}");
        assert_eq!(of("1").await, (StatusCode::OK, Some(1), true), "{path}");
        for enough in ["0", "20", "100"] {
            assert_eq!(of(enough).await, (StatusCode::OK, all, false), "{path}");
        }
        assert_eq!(of("-1").await.0, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn long_answers_are_compressed_for_those_who_take_it() {
    let door = Door::open("");
    let end = fill(&door).await;
    let path = format!("/api/v1/query_range?query=m&start={}&end={end}&step=1", end - 4);
    let path = &*path;
    let plain = door.send(Method::GET, path, &[], Bytes::new()).await;
    assert_eq!(plain.headers().get("content-encoding"), None);
    assert_eq!(plain.headers()["vary"], "accept-encoding");
    let gzip = [("accept-encoding", "deflate, gzip;q=0.9")];
    let packed = door.send(Method::GET, path, &gzip, Bytes::new()).await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.body().len() * 2 < plain.body().len());
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(&packed.body()[..]).read_to_end(&mut body).expect("gzip");
    assert_eq!(Bytes::from(body), plain.body());
    let short = door.send(Method::GET, "/api/v1/query?query=1", &gzip, Bytes::new()).await;
    assert_eq!(short.headers().get("content-encoding"), None);
}

#[tokio::test]
async fn what_is_no_request_of_the_api_is_told() {
    let door = Door::open("");
    for (method, path, allow) in [
        (Method::DELETE, "/api/v1/query", "GET, POST"),
        (Method::POST, "/api/v1/targets", "GET"),
        (Method::GET, "/api/v1/write", "POST"),
        (Method::GET, "/-/reload", "POST, PUT"),
        (Method::POST, "/-/healthy", "GET, HEAD"),
        (Method::POST, "/api/v1/label/n/values", "GET"),
        (Method::GET, "/metrics/job/j", "PUT, POST, DELETE"),
        (Method::POST, "/federate", "GET"),
    ] {
        let answer = door.send(method, path, &[], Bytes::new()).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(answer.headers()["allow"], allow, "{path}");
    }
    for path in ["/api/v1/nothing", "/api/v1/label/a/b/values", "/-/quit"] {
        let answer = door.send(Method::PATCH, path, &[], Bytes::new()).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let (status, answer) = door.get("/api/v1/label//values").await;
    assert_eq!((status, &answer["errorType"]), (StatusCode::BAD_REQUEST, &json!("bad_data")));
    assert_eq!(answer["error"], "invalid label name: \"\"");
    let kind = [("content-type", "multipart/form-data; boundary=x")];
    let answer = door.send(Method::POST, "/api/v1/query", &kind, "--x\r\n").await;
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let told = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(
        told.contains("multipart/form-data") && told.contains("x-www-form-urlencoded"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_say_what_their_metrics_are() {
    let page = |text: &'static str| {
        let page = Response::builder().header("content-type", "text/plain");
        page.body(Bytes::from(text)).expect("a page")
    };
    let a = serve(move |_| {
        page("# HELP x What it is.\n# TYPE x counter\nx_total 1\n# TYPE y gauge\ny 1\n")
    });
    let b = serve(move |_| page("# TYPE y gauge\ny 2\n"));
    let (a, b) = (a.await, b.await);
    let door = Door::open(&format!(
        "scrape_configs:\n- job_name: a\n  scrape_interval: 100ms\n  static_configs: [{{targets: [\"{a}\"]}}]\n\
         - job_name: b\n  scrape_interval: 100ms\n  static_configs: [{{targets: [\"{b}\"]}}]\n"
    ));
    let begun = Instant::now();
    while door.query("y").await.len() < 2 || door.query("x_total").await.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "they are not scraped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, pools) = door.get("/api/v1/scrape_pools").await;
    assert_eq!(pools["data"]["scrapePools"].as_array().map(|all| all.len() >= 2), Some(true));
    let of = async |query: &str| {
        let (status, answer) = door.get(&format!("/api/v1/targets/metadata{query}")).await;
        (status, answer["data"].as_array().cloned().unwrap_or_default())
    };
    let target =
        |job: &str, at: std::net::SocketAddr| json!({"instance": at.to_string(), "job": job});
    let x = json!({"target": target("a", a), "metric": "x", "type": "counter",
        "help": "What it is.", "unit": ""});
    let y = |job: &str, at| json!({"target": target(job, at), "metric": "y", "type": "gauge", "help": "", "unit": ""});
    let (status, all) = of("").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(all, [x.clone(), y("a", a), y("b", b)]);
    assert_eq!(of("?match_target=%7Bjob=%22b%22%7D").await.1, [y("b", b)]);
    assert_eq!(of("?limit=1").await.1, [x]);
    // Whoever names the metric knows it.
    let mut named = y("a", a);
    named.as_object_mut().expect("an object").remove("metric");
    assert_eq!(of("?metric=y&limit=1").await.1, [named]);
    assert_eq!(of("?metric=none").await.0, StatusCode::NOT_FOUND);
    assert_eq!(of("?match_target=%7B").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn status_is_as_prometheus_has_it() {
    let door = Door::open("");
    fill(&door).await;
    let (_, info) = door.get("/api/v1/status/runtimeinfo").await;
    assert_eq!(info["data"]["storageRetention"], "15d or 1GiB");
    assert_eq!(info["data"]["reloadConfigSuccess"], true);
    for time in ["startTime", "serverTime", "lastConfigTime"] {
        let text = info["data"][time].as_str().expect(time);
        assert!(humantime::parse_rfc3339(text).is_ok(), "{text}");
    }
    let (_, flags) = door.get("/api/v1/status/flags").await;
    assert_eq!(flags["data"]["query.lookback-delta"], "5m");
    assert_eq!(flags["data"]["storage.tsdb.retention.time"], "15d");
    let (_, tsdb) = door.get("/api/v1/status/tsdb").await;
    let data = &tsdb["data"];
    assert_eq!(data["headStats"]["numLabelPairs"], 21);
    assert_eq!(data["seriesCountByMetricName"], json!([{"name": "m", "value": 20}]));
    let values = json!([{"name": "n", "value": 20}, {"name": "__name__", "value": 1}]);
    assert_eq!(data["labelValueCountByLabelName"], values);
    // Bytes of values, once for each series.
    let bytes = json!([{"name": "n", "value": 40}, {"name": "__name__", "value": 20}]);
    assert_eq!(data["memoryInBytesByLabelName"], bytes);
    let pairs = data["seriesCountByLabelValuePair"].as_array().expect("a list");
    assert_eq!((pairs.len(), &pairs[0]), (10, &json!({"name": "__name__=m", "value": 20})));
    let (_, tsdb) = door.get("/api/v1/status/tsdb?limit=2").await;
    assert_eq!(tsdb["data"]["seriesCountByLabelValuePair"].as_array().map(Vec::len), Some(2));
    let (status, _) = door.get("/api/v1/status/tsdb?limit=0").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}
