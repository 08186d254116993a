//! Sending on: one monitor to another, by both versions, over a receiver's failures.

mod common;

use common::{Door, serve};
use http::{Method, Response, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use synod_door_prom::{Monitor, ReceiverStatus};

/// A receiver that hands on to this monitor, after so many failures.
async fn receiver(monitor: Monitor, failures: usize, asked: Arc<AtomicUsize>) -> String {
    let runtime = tokio::runtime::Handle::current();
    let at = serve(move |request| {
        let empty = |status: StatusCode| {
            Response::builder().status(status).body(bytes::Bytes::new()).expect("a response")
        };
        // The name and the password of the address come as a header.
        let basic = request.headers().get("authorization").map(|v| v.as_bytes());
        assert_eq!(basic, Some(&b"Basic dTpw"[..]));
        if request.uri().path() == "/moved" {
            let mut moved = empty(StatusCode::PERMANENT_REDIRECT);
            moved.headers_mut().insert("location", "/api/v1/write".parse().expect("a value"));
            return moved;
        }
        if asked.fetch_add(1, Ordering::Relaxed) < failures {
            return empty(StatusCode::SERVICE_UNAVAILABLE);
        }
        let answering = monitor.answer(request);
        tokio::task::block_in_place(|| runtime.block_on(answering))
    })
    .await;
    format!("http://u:p@{at}/moved")
}

/// The first receiver, once the sender has read its configuration and it looks so; what it
/// took is counted when the sender has its answer.
async fn status(door: &Door, so: impl Fn(&ReceiverStatus) -> bool) -> ReceiverStatus {
    let begun = Instant::now();
    loop {
        let all = door.monitor.receivers();
        if let Some(status) = all.iter().find(|status| so(status)) {
            return status.clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{all:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn samples_are_sent_on_relabelled_and_tried_again() {
    for message in ["prometheus.WriteRequest", "io.prometheus.write.v2.Request"] {
        let (far, asked) = (Door::open(""), Arc::new(AtomicUsize::new(0)));
        let url = receiver(far.monitor.clone(), 3, asked.clone()).await;
        let door = Door::open(&format!(
            "global: {{external_labels: {{region: eu}}}}\nremote_write:\n- url: \"{url}\"\n  name: far\n  \
             protobuf_message: {message}\n  queue_config: {{batch_send_deadline: 100ms}}\n  \
             write_relabel_configs:\n  - {{source_labels: [__name__], regex: 'push_.*', action: drop}}\n"
        ));
        status(&door, |_| true).await;
        let push = door.send(Method::PUT, "/metrics/job/x", &[], "a{l=\"1\"} 5\nb 6\n").await;
        assert_eq!(push.status(), StatusCode::OK);
        let wanted = "{\"__name__\":\"a\",\"job\":\"x\",\"l\":\"1\",\"region\":\"eu\"}";
        far.sees("a", &[(wanted, "5")]).await;
        far.sees("sum(b)", &[("{}", "6")]).await;
        assert!(far.query("{__name__=~\"push_.*\"}").await.is_empty());
        assert!(asked.load(Ordering::Relaxed) > 3, "{message}");
        let status = status(&door, |status| status.pending == 0 && status.sent > 1).await;
        assert_eq!((&*status.name, status.sent, status.refused), ("far", 2, 0), "{status:?}");
        assert_eq!((status.dropped, status.pending, status.retried), (0, 0, 3), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exemplars_are_sent_on_if_the_receiver_is_to_have_them() {
    let messages = ["prometheus.WriteRequest", "io.prometheus.write.v2.Request"];
    for (message, send) in messages.into_iter().flat_map(|m| [(m, true), (m, false)]) {
        let far = Door::open("");
        let url = receiver(far.monitor.clone(), 0, Arc::default()).await;
        let door = Door::open(&format!(
            "global: {{external_labels: {{region: eu}}}}\nremote_write:\n- url: \"{url}\"\n  \
             protobuf_message: {message}\n  send_exemplars: {send}\n  \
             queue_config: {{batch_send_deadline: 50ms}}\n"
        ));
        status(&door, |_| true).await;
        let at = common::now_ms();
        let nanos = (at * 1_000_000).to_string();
        let body = serde_json::json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [
            {"name": "n", "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [
                {"timeUnixNano": nanos, "asInt": 5, "exemplars": [
                    {"timeUnixNano": nanos, "asDouble": 1.5, "traceId": "0a1b",
                     "filteredAttributes": [{"key": "user", "value": {"stringValue": "u1"}}]}]}]}}
        ]}]}]});
        let json = [("content-type", "application/json")];
        let answer =
            door.send(Method::POST, "/api/v1/otlp/v1/metrics", &json, body.to_string()).await;
        assert_eq!((answer.status(), answer.body().as_ref()), (StatusCode::OK, &b"{}"[..]));
        // Behind it: once that is there, so is all before.
        door.send(Method::PUT, "/metrics/job/x", &[], "last 1\n").await;
        far.sees("last", &[("{\"__name__\":\"last\",\"job\":\"x\",\"region\":\"eu\"}", "1")]).await;
        let (_, found) = far.get("/api/v1/query_exemplars?query=n_total").await;
        let all = found["data"].as_array().expect("a list");
        assert_eq!(all.len(), usize::from(send), "{message} {found}");
        if send {
            assert_eq!(all[0]["seriesLabels"]["region"], "eu");
            let exemplar = &all[0]["exemplars"][0];
            assert_eq!(exemplar["labels"], serde_json::json!({"trace_id": "0a1b", "user": "u1"}));
            assert_eq!(exemplar["value"], "1.5");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_receiver_refuses_is_not_tried_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let at = serve(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Response::builder().status(400).body("no\n".into()).expect("a response")
    })
    .await;
    let door = Door::open(&format!(
        "remote_write: [{{url: \"http://{at}/\", queue_config: {{batch_send_deadline: 50ms}}}}]\n"
    ));
    status(&door, |_| true).await;
    door.send(Method::PUT, "/metrics/job/x", &[], "a 5\n").await;
    status(&door, |status| status.refused >= 3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn native_histograms_are_sent_on_if_the_receiver_is_to_have_them() {
    for (more, sent) in [
        ("protobuf_message: io.prometheus.write.v2.Request", true),
        ("send_native_histograms: true", true),
        ("name: without", false),
    ] {
        let far = Door::open("");
        let url = receiver(far.monitor.clone(), 0, Arc::default()).await;
        let door = Door::open(&format!(
            "remote_write:\n- url: \"{url}\"\n  queue_config: {{batch_send_deadline: 50ms}}\n  {more}\n"
        ));
        status(&door, |_| true).await;
        let at = (common::now_ms() * 1_000_000).to_string();
        let body = serde_json::json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [
            {"name": "took", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [
                {"timeUnixNano": at, "count": 5, "sum": 4.5, "scale": 1,
                 "positive": {"offset": 0, "bucketCounts": [2, 3]}}]}},
            {"name": "load", "gauge": {"dataPoints": [{"timeUnixNano": at, "asDouble": 1}]}}
        ]}]}]});
        let json = [("content-type", "application/json")];
        let answer =
            door.send(Method::POST, "/api/v1/otlp/v1/metrics", &json, body.to_string()).await;
        assert_eq!((answer.status(), answer.body().as_ref()), (StatusCode::OK, &b"{}"[..]));
        far.sees("load", &[("{\"__name__\":\"load\"}", "1")]).await;
        let wanted: &[(&str, &str)] = if sent { &[("{}", "5")] } else { &[] };
        far.sees("histogram_count(took)", wanted).await;
        let count = if sent { 2 } else { 1 };
        status(&door, |status| (status.sent, status.pending) == (count, 0)).await;
    }
}
