//! Pulling by a `prometheus.yml`: targets from everywhere, relabelling, limits, authority.

mod common;

use common::{Door, page, serve, start};
use http::{Response, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use synod_door_prom::Surroundings;
use synod_door_prom::config::Job;
use synod_promql::Labels;

const PAGE: &str = "# TYPE a counter\na{x=\"1\"} 5\na{x=\"2\"} 6\nb{job=\"theirs\"} 7\n";

/// A configuration with one job of this address.
fn job(address: impl std::fmt::Display, more: &str) -> String {
    format!(
        "scrape_configs:\n- job_name: t\n  scrape_interval: 200ms\n  static_configs: \
         [{{targets: [\"{address}\"], labels: {{env: prod}}}}]\n  {}\n",
        more.replace('\n', "\n  ")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_are_pulled_relabelled_and_honoured() {
    let at = serve(|_| page(PAGE)).await;
    let door = Door::open(&job(
        at,
        "relabel_configs: [{target_label: instance, replacement: one}]\n\
         metric_relabel_configs:\n\
         - {source_labels: [x], regex: '2', action: drop}\n\
         - {source_labels: [x], regex: '(.+)', target_label: y, replacement: 'v$1'}",
    ));
    door.sees(
        "a",
        &[("{\"__name__\":\"a\",\"env\":\"prod\",\"instance\":\"one\",\"job\":\"t\",\"x\":\"1\",\"y\":\"v1\"}", "5")],
    )
    .await;
    let exported = "{\"__name__\":\"b\",\"env\":\"prod\",\"exported_job\":\"theirs\",\"instance\":\"one\",\"job\":\"t\"}";
    door.sees("b", &[(exported, "7")]).await;
    for (series, value) in [
        ("scrape_samples_scraped", "3"),
        ("scrape_samples_post_metric_relabeling", "2"),
        ("up", "1"),
    ] {
        door.sees(&format!("sum({series})"), &[("{}", value)]).await;
    }
    // The page's own labels count if the job says so; what is gone from a configuration ends.
    let config = job(at, "honor_labels: true");
    std::fs::write(door.dir.path().join("prometheus.yml"), config).expect("written");
    let told = door.send(http::Method::POST, "/-/reload", &[], "").await;
    assert_eq!(told.status(), StatusCode::OK, "{told:?}");
    let instance = format!("\"instance\":\"{at}\"");
    door.sees(
        "b",
        &[(&format!("{{\"__name__\":\"b\",\"env\":\"prod\",{instance},\"job\":\"theirs\"}}"), "7")],
    )
    .await;
    door.sees("count(a)", &[("{}", "2")]).await;
    // A mistake leaves all as it was.
    std::fs::write(door.dir.path().join("prometheus.yml"), "x: y").expect("written");
    let told = door.send(http::Method::POST, "/-/reload", &[], "").await;
    assert_eq!(told.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(String::from_utf8_lossy(told.body()).contains("unknown field"), "{told:?}");
    let (_, targets) = door.get("/api/v1/targets").await;
    let target = &targets["data"]["activeTargets"][0];
    assert_eq!(target["scrapePool"], "t", "{targets}");
    assert_eq!(target["discoveredLabels"]["__address__"], at.to_string());
    assert_eq!(target["scrapeInterval"], "200ms");
}

/// A server whose page is this, compressed; whoever does not take it so gets another.
async fn packing(body: &'static str) -> std::net::SocketAddr {
    serve(move |request| {
        let taken = request.headers().get("accept-encoding").is_some_and(|how| how == "gzip");
        let mut response = page("a 1\n");
        if taken {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            std::io::Write::write_all(&mut packed, body.as_bytes()).expect("in memory");
            *response.body_mut() = packed.finish().expect("in memory").into();
            response.headers_mut().insert("content-encoding", "gzip".parse().expect("a header"));
        }
        response
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_may_be_compressed() {
    for (more, sum) in [("honor_labels: true", "11"), ("enable_compression: false", "1")] {
        let door = Door::open(&job(packing(PAGE).await, more));
        door.sees("sum(a)", &[("{}", sum)]).await;
    }
    // What is behind few bytes is bounded too.
    let many: &'static str = Box::leak(" \n".repeat(200_000).into_boxed_str());
    let door = Door::open(&job(packing(many).await, "body_size_limit: 64KB"));
    door.sees("max(up)", &[("{}", "0")]).await;
    let (_, targets) = door.get("/api/v1/targets").await;
    let told = targets["data"]["activeTargets"][0]["lastError"].as_str().unwrap_or_default();
    assert!(told.contains("body size limit exceeded"), "{targets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_make_a_scrape_fail_and_say_so() {
    for (limit, why) in [
        ("sample_limit: 2", "sample limit exceeded"),
        ("label_limit: 3", "label_limit exceeded"),
        ("label_value_length_limit: 4", "label_value_length_limit exceeded"),
        ("label_name_length_limit: 5", "label_name_length_limit exceeded"),
        ("body_size_limit: 10B", "body size limit exceeded"),
        ("metrics_path: /none", "404"),
        ("metrics_path: /kind", "no content type"),
        // The last: it keeps threads that others want.
        ("scrape_timeout: 1ms\nmetrics_path: /slow", "no answer within 0.001 s"),
    ] {
        let at = serve(|request| match request.uri().path() {
            "/none" => Response::builder().status(404).body("".into()).expect("a response"),
            "/kind" => Response::new(PAGE.into()),
            "/slow" => {
                // So long that no pause of this process lets the answer be there first.
                std::thread::sleep(Duration::from_secs(1));
                page(PAGE)
            }
            _ => page(PAGE),
        })
        .await;
        let door = Door::open(&job(at, limit));
        door.sees("sum(up)", &[("{}", "0")]).await;
        assert!(door.query("a").await.is_empty(), "{limit}");
        // A page that is refused makes no series either: five are the scrape's own.
        let (_, status) = door.get("/api/v1/status/tsdb").await;
        assert_eq!(status["data"]["headStats"]["numSeries"], 5, "{limit}");
        let (_, targets) = door.get("/api/v1/targets?state=active").await;
        let error = targets["data"]["activeTargets"][0]["lastError"].to_string();
        assert!(error.contains(why), "{limit}: {error}");
    }
    let at = serve(|_| Response::new(PAGE.into())).await;
    let door = Door::open(&job(at, "fallback_scrape_protocol: PrometheusText0.0.4"));
    door.sees("sum(up)", &[("{}", "1")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_come_from_files_http_the_registry_and_relabelling() {
    let at = serve(|_| page(PAGE)).await;
    let list = format!("[{{\"targets\": [\"{at}\"], \"labels\": {{\"from\": \"http\"}}}}]");
    let failing = Arc::new(AtomicUsize::new(0));
    let asked = failing.clone();
    let sd = serve(move |_| {
        // It answers once, and fails from then on: what it said stays.
        let answer = Response::builder().header("content-type", "application/json");
        match asked.fetch_add(1, Ordering::Relaxed) {
            0 => answer.body(list.clone().into()).expect("a response"),
            _ => answer.status(500).body("".into()).expect("a response"),
        }
    })
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("sd")).expect("a folder");
    let config = format!(
        "global: {{scrape_interval: 200ms}}\nscrape_configs:\n\
         - job_name: files\n  file_sd_configs: [{{files: [\"sd/*.yml\"], refresh_interval: 1s}}]\n\
         \x20 relabel_configs: [{{source_labels: [__meta_filepath], regex: '.*/(.*)', target_label: file}}]\n\
         - job_name: http\n  http_sd_configs: [{{url: \"http://{sd}/\", refresh_interval: 1s}}]\n\
         - job_name: registry\n  synod_sd_configs: [{{services: [web], refresh_interval: 1s}}]\n\
         \x20 relabel_configs:\n\
         \x20 - {{source_labels: [__meta_synod_healthy], regex: 'true', action: keep}}\n\
         \x20 - {{source_labels: [__meta_synod_instance], target_label: instance}}\n\
         - job_name: dns\n  dns_sd_configs: [{{names: [localhost], type: A, port: {}}}]\n",
        at.port()
    );
    std::fs::write(dir.path().join("prometheus.yml"), config).expect("written");
    let registry = move |service: &str| {
        let labels = |name: &str, healthy: &str| {
            Labels::new([
                ("__address__", &*at.to_string()),
                ("__meta_synod_service", service),
                ("__meta_synod_instance", name),
                ("__meta_synod_healthy", healthy),
            ])
        };
        Ok(vec![labels("a", "true"), labels("b", "false")])
    };
    let around = Surroundings { registry: Arc::new(registry), ..Surroundings::none() };
    let door = Door { monitor: start(dir.path(), around), dir };
    let file = door.dir.path().join("sd/one.yml");
    let write = |text: String| std::fs::write(&file, text).expect("written");
    write(format!("- targets: [\"{at}\"]\n  labels: {{from: file}}\n"));
    door.sees("count(up{job=\"files\",from=\"file\",file=\"one.yml\"})", &[("{}", "1")]).await;
    door.sees("count(up{job=\"http\",from=\"http\"})", &[("{}", "1")]).await;
    door.sees("count(up{job=\"registry\",instance=\"a\"})", &[("{}", "1")]).await;
    door.sees("count(up{job=\"registry\"})", &[("{}", "1")]).await;
    door.sees("count(up{job=\"dns\"} == 1)", &[("{}", "1")]).await;
    // A file that cannot be read leaves its targets; one that is empty ends them.
    write("nonsense: [".into());
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(door.query("up{job=\"files\"}").await.len(), 1);
    write("[]".into());
    door.sees("count(up{job=\"files\"})", &[]).await;
    assert!(failing.load(Ordering::Relaxed) > 1);
    assert_eq!(door.query("up{job=\"http\"}").await.len(), 1);
    let (_, targets) = door.get("/api/v1/targets?state=dropped").await;
    assert_eq!(targets["data"]["droppedTargetCounts"]["registry"], 1, "{targets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_says_who_it_is_and_follows_redirects() {
    let at = serve(|request| {
        let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
        let is = |name, value: &str| header(name) == Some(value);
        if request.uri().path() == "/old" {
            let moved =
                Response::builder().status(302).header("location", "/new?module=a&module=b");
            return moved.body("".into()).expect("a response");
        }
        // The parameters of the first address went with it; the second brings its own.
        let known = is("authorization", "Basic dTpwYXNz") && is("x-tenant", "one");
        let asked = request.uri().query() == Some("module=a&module=b");
        let status = if known && asked { 200 } else { 401 };
        let (mut parts, body) = page(PAGE).into_parts();
        parts.status = StatusCode::from_u16(status).expect("a status");
        Response::from_parts(parts, body)
    })
    .await;
    let more = "metrics_path: /METRICS\nparams: {module: [a, b]}\nbasic_auth: {username: u, password_file: pw}\n\
                http_headers: {X-Tenant: {values: [one]}}";
    for path in ["/metrics", "/old"] {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("pw"), "pass\n").expect("written");
        let config = job(at, &more.replace("/METRICS", path));
        std::fs::write(dir.path().join("prometheus.yml"), config).expect("written");
        let door = Door { monitor: start(dir.path(), Surroundings::none()), dir };
        door.sees("sum(up)", &[("{}", "1")]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_around_is_scraped_without_being_told() {
    let at = serve(|_| page("v 1\n")).await;
    let dir = tempfile::tempdir().expect("a folder");
    let members = move || vec![Labels::new([("__address__", &*at.to_string()), ("node", "n1")])];
    let job = Job::new("own", Duration::from_millis(200));
    let around = Surroundings { job, members: Arc::new(members), ..Surroundings::none() };
    let door = Door { monitor: start(dir.path(), around), dir };
    door.sees("count(up{job=\"own\",node=\"n1\"} == 1)", &[("{}", "1")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exemplars_on_a_page_are_kept() {
    const PAGE: &str = "# TYPE took histogram\ntook_bucket{le=\"1\"} 3 # {trace=\"abc\"} 0.7 1700000000.5\n\
                        took_bucket{le=\"+Inf\"} 4 # {trace=\"def\"} 2.5\ntook_count 4\ntook_sum 5\n# EOF\n";
    let at = serve(|_| {
        let page = Response::builder()
            .header("content-type", "application/openmetrics-text; version=1.0.0");
        page.body(PAGE.into()).expect("a response")
    })
    .await;
    let door = Door::open(&job(at, ""));
    door.sees("sum(took_count)", &[("{}", "4")]).await;
    let (_, found) = door
        .get("/api/v1/query_exemplars?query=rate(took_bucket[5m])&start=0&end=99999999999")
        .await;
    let all = found["data"].as_array().expect("a list");
    assert_eq!(all.len(), 2, "{found}");
    let first = all.iter().find(|s| s["seriesLabels"]["le"] == "1.0").expect("there");
    assert_eq!(first["seriesLabels"]["job"], "t");
    let exemplar = &first["exemplars"][0];
    assert_eq!(exemplar["labels"]["trace"], "abc", "{found}");
    assert_eq!(
        (&exemplar["value"], &exemplar["timestamp"]),
        (&"0.7".into(), &1_700_000_000.5.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_targets_than_allowed_are_all_down() {
    let at = serve(|_| page(PAGE)).await;
    let door = Door::open(&format!(
        "scrape_configs:\n- job_name: t\n  scrape_interval: 200ms\n  target_limit: 1\n  static_configs: \
         [{{targets: [\"{at}\", \"localhost:{}\"]}}]\n",
        at.port()
    ));
    door.sees("count(up == 0)", &[("{}", "2")]).await;
    let (_, targets) = door.get("/api/v1/targets").await;
    assert!(targets.to_string().contains("target_limit exceeded"), "{targets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_label_that_is_honoured_stays_empty() {
    let at = serve(|_| page("a{instance=\"\",job=\"orig\"} 1\n")).await;
    let door = Door::open(&job(at, "honor_labels: true"));
    door.sees("a", &[("{\"__name__\":\"a\",\"env\":\"prod\",\"job\":\"orig\"}", "1")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_of_the_far_future_do_no_harm() {
    let at =
        serve(|_| page("now 1\nfar 1 9223372036854775807\npast 1 -9223372036854775808\n")).await;
    let door = Door::open(&job(at, ""));
    door.sees("sum(now)", &[("{}", "1")]).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    door.sees("sum(now)", &[("{}", "1")]).await;
    let (_, status) = door.get("/api/v1/status/tsdb").await;
    let newest = status["data"]["headStats"]["maxTime"].as_i64().expect("a time");
    assert!(newest < common::now_ms() + 600_000, "{newest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_not_carried_to_others() {
    let seen = Arc::new(std::sync::Mutex::new(String::new()));
    let kept = seen.clone();
    let other = serve(move |request| {
        *kept.lock().expect("whole") = format!("{:?}", request.headers());
        page(PAGE)
    })
    .await;
    let at = serve(move |request| {
        let to = match request.uri().path() {
            "/metrics" => "further/on".to_owned(),
            _ => format!("http://{other}/there"),
        };
        let moved = Response::builder().status(302).header("location", to);
        moved.body("".into()).expect("a response")
    })
    .await;
    let more = "bearer_token: hush\nhttp_headers: {X-Token: {secrets: [hush]}}";
    let door = Door::open(&job(at, more));
    door.sees("sum(up)", &[("{}", "1")]).await;
    let seen = seen.lock().expect("whole").clone();
    assert!(
        seen.contains("user-agent") && !seen.contains("hush") && !seen.contains("authorization"),
        "{seen}"
    );
}
