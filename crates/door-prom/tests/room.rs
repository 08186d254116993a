//! What monitoring does not take, so that others have room: of the disk, and of memory.

mod common;

use bytes::Bytes;
use common::{Door, now_ms, serve, start_with};
use http::{Method, Response, StatusCode};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use synod_door_prom::config::Job;
use synod_door_prom::{INTERVAL, Surroundings, packed_write};
use synod_promql::Labels;

const MIB: u64 = 1 << 20;

fn page() -> Response<Bytes> {
    let text = Response::builder().header("content-type", "text/plain");
    text.body(Bytes::from("x 1\n")).expect("a page")
}

/// A write of one sample of a series with this name.
fn one(name: &str) -> Bytes {
    packed_write([(Labels::new([("__name__", name)]), vec![(now_ms(), 1.0)])])
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether samples of this series came in the last two seconds.
async fn comes(door: &Door, series: &str) -> bool {
    let found = door.query(&format!("count_over_time({series}[2s])")).await;
    found.first().is_some_and(|(_, count)| count != "1")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_keyspace_needs_of_the_disk_is_left_to_it() {
    let (own, others) = (serve(|_| page()).await, serve(|_| page()).await);
    let free = Arc::new(AtomicU64::new(2_000 * MIB));
    let disk = free.clone();
    let member = Labels::new([("__address__", &*own.to_string()), (INTERVAL, "100ms")]);
    let around = Surroundings {
        job: Job::new("own", Duration::from_millis(100)),
        members: Arc::new(move || vec![member.clone()]),
        disk: Arc::new(move || Some((100_000 * MIB, disk.load(Ordering::Relaxed)))),
        ..Surroundings::none()
    };
    let config = format!(
        "scrape_configs:\n- job_name: theirs\n  scrape_interval: 100ms\n  static_configs:\n  \
         - targets: [\"{others}\"]\n"
    );
    let door = Door::within(&config, around);
    let push = async |path: &str, method: Method, kind: &str, body: Bytes| {
        let answer = door.send(method, path, &[("content-type", kind)], body).await;
        (answer.status(), String::from_utf8_lossy(answer.body()).into_owned())
    };
    let all = async || {
        [
            push("/api/v1/write", Method::POST, "application/x-protobuf", one("w")).await,
            push("/metrics/job/j", Method::PUT, "text/plain", "p 1\n".into()).await,
            push("/api/v1/otlp/v1/metrics", Method::POST, "application/json", "{}".into()).await,
        ]
    };
    let (own, theirs) = ("x{job=\"own\"}", "x{job=\"theirs\"}");
    until("both are scraped", async || comes(&door, own).await && comes(&door, theirs).await).await;
    assert!(all().await.iter().all(|(status, _)| status.is_success()));
    assert_eq!(door.shows("synod_monitor_disk_reserve_bytes"), (1 << 30) as f64);
    // Below the reserve only what the cluster says of itself is taken.
    free.store(1_000 * MIB, Ordering::Relaxed);
    until("it is seen", async || door.shows("synod_monitor_disk_short") == 1.0).await;
    for (status, why) in all().await {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(why.contains("1048576000 bytes free") && why.contains("monitor-reserve-bytes"));
    }
    until("the job's target says why", async || {
        let (_, answer) = door.get("/api/v1/targets?scrapePool=theirs").await;
        let target = &answer["data"]["activeTargets"][0];
        let told = target["lastError"].as_str().is_some_and(|e| e.contains("monitor-reserve"));
        told && target["health"] == "down"
    })
    .await;
    until("theirs end", async || !comes(&door, theirs).await).await;
    assert!(comes(&door, own).await);
    let before = door.shows("synod_monitor_disk_refusals_total");
    assert!(before >= 4.0, "{before}");
    // Below half of it nothing is.
    free.store(100 * MIB, Ordering::Relaxed);
    until("nothing is taken", async || !comes(&door, own).await).await;
    assert_eq!(door.shows("synod_monitor_disk_short"), 2.0);
    // All of it goes on by itself.
    free.store(1_500 * MIB, Ordering::Relaxed);
    until("both are back", async || comes(&door, own).await && comes(&door, theirs).await).await;
    assert!(all().await.iter().all(|(status, _)| status.is_success()));
    assert_eq!(door.shows("synod_monitor_disk_short"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_limit_of_series_drops_none_and_refusals_are_counted() {
    let mut door = Door::open("");
    let write = async |door: &Door, name: &str| {
        let headers = [("content-type", "application/x-protobuf")];
        door.send(Method::POST, "/api/v1/write", &headers, one(name)).await.status()
    };
    for n in 0..20 {
        assert_eq!(write(&door, &format!("s{n}")).await, StatusCode::NO_CONTENT);
    }
    door.monitor.close();
    door.monitor =
        start_with(door.dir.path(), Surroundings::none(), |settings| settings.limits.series = 10);
    let there = door.query("count({__name__=~\"s.*\"})").await;
    assert_eq!(there, [("{}".to_owned(), "20".to_owned())]);
    assert_eq!(door.shows("synod_monitor_recovery_skipped_samples_total"), 0.0);
    assert_eq!(door.shows("synod_monitor_series_refused_total"), 0.0);
    assert_eq!(write(&door, "s3").await, StatusCode::NO_CONTENT);
    assert_eq!(write(&door, "new").await, StatusCode::BAD_REQUEST);
    assert_eq!(door.shows("synod_monitor_series_refused_total"), 1.0);
    let (_, answer): (_, Value) = door.get("/api/v1/status/tsdb").await;
    assert_eq!(answer["data"]["headStats"]["numSeries"], 20);
}
