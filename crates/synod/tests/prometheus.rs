//! Monitoring beside the real thing: a real Prometheus, promtool, and the Pushgateway's
//! client library, against real nodes.

mod common;

use common::http::{http, http_with};
use common::{Cluster, free_ports, output, peers};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Quick scrapes, so that nobody waits long.
const SETTINGS: [&str; 4] = ["--monitor-scrape-ms", "200", "--monitor-sync-ms", "200"];

fn program(name: &str) -> PathBuf {
    let program = peers().join("deb/prometheus/usr/bin").join(name);
    assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
    program
}

/// A real Prometheus; ended when dropped.
struct Prometheus {
    process: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(config: &str) -> Prometheus {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("prometheus.yml"), config).expect("written");
        let address = format!("127.0.0.1:{}", free_ports(1)[0]);
        let process = Command::new(program("prometheus"))
            .current_dir(dir.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .args(["--web.enable-remote-write-receiver", "--log.level=warn"])
            .arg("--enable-feature=native-histograms,exemplar-storage")
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).expect("a log"))
            .spawn()
            .expect("prometheus starts");
        let server = Prometheus { process, address, dir };
        let begun = Instant::now();
        while std::net::TcpStream::connect(&server.address).is_err()
            || http(&server.address, "GET", "/-/ready", "").0 != 200
        {
            let log = || std::fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "prometheus is not ready: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The first value of a query, at anything that speaks the API.
fn ask(address: &str, query: &str) -> (Option<String>, Value) {
    let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let (_, body) = http(address, "GET", &format!("/api/v1/query?query={query}"), "");
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let value = answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned);
    (value, answer)
}

fn until(address: &str, query: &str, wanted: &str) {
    let begun = Instant::now();
    loop {
        let (value, answer) = ask(address, query);
        if value.as_deref() == Some(wanted) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{query} is not {wanted}: {answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_real_prometheus_scrapes_federates_writes_and_reads() {
    let cluster = Cluster::with_settings(3, &SETTINGS);
    let targets: Vec<String> = (0..3).map(|n| format!("\"{}\"", cluster.endpoint(n))).collect();
    let first = cluster.endpoint(0);
    let prometheus = Prometheus::start(&format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 400ms, external_labels: {{from: real}}}}\n\
         scrape_configs:\n\
         - job_name: synod\n  static_configs: [{{targets: [{}]}}]\n\
         - job_name: federate\n  honor_labels: true\n  metrics_path: /federate\n  \
           params: {{'match[]': ['{{job=\"synod-etcd\"}}']}}\n  static_configs: [{{targets: [\"{first}\"]}}]\n\
         remote_write: [{{url: \"http://{first}/api/v1/write\", queue_config: {{batch_send_deadline: 200ms}}}}]\n\
         remote_read: [{{url: \"http://{first}/api/v1/read\", read_recent: true, \
           required_matchers: {{job: pushed}}}}]\n",
        targets.join(", ")
    ));
    let real = &prometheus.address;
    until(real, "count(up{job=\"synod\"} == 1)", "3");
    until(real, "sum(etcd_server_is_leader{job=\"synod\"})", "1");
    // By federation: what the node has scraped of all three.
    until(real, "count(etcd_server_has_leader{job=\"synod-etcd\"})", "3");
    // By remote-write: what it sends is here, with its label.
    until(&first, "count(up{job=\"synod\",from=\"real\"} == 1)", "3");
    // By remote-read: what was pushed here only (it asks for its external labels, too).
    let (status, told) = http(&first, "PUT", "/metrics/job/pushed/from/real", "only_here 42\n");
    assert_eq!(status, 200, "{told}");
    until(real, "only_here{job=\"pushed\"}", "42");
    // Whichever node is asked, it answers for all.
    let typed = "# TYPE typed_here counter\n# HELP typed_here So.\ntyped_here 1\n";
    assert_eq!(http(&first, "PUT", "/metrics/job/pushed/typed/yes", typed).0, 200);
    for node in 0..3 {
        let ask = |path: &str| http(&cluster.endpoint(node), "GET", path, "").1;
        let page = ask("/federate?match%5B%5D=only_here");
        assert!(page.lines().any(|l| l.starts_with("only_here{") && l.contains(" 42 ")), "{page}");
        let known = ask("/api/v1/metadata?metric=typed_here");
        assert!(known.contains(r#"{"type":"counter","help":"So.","unit":""}"#), "{known}");
    }
}

#[test]
fn synod_scrapes_and_writes_to_a_real_prometheus() {
    let prometheus = Prometheus::start("global: {scrape_interval: 1s}\n");
    let real = prometheus.address.clone();
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("prometheus.yml").to_string_lossy().into_owned();
    let text = format!(
        "global: {{scrape_interval: 500ms, external_labels: {{from: synod}}}}\n\
         scrape_configs: [{{job_name: real, static_configs: [{{targets: [\"{real}\"]}}]}}]\n\
         remote_write: [{{url: \"http://{real}/api/v1/write\", queue_config: {{batch_send_deadline: 200ms}}}}]\n"
    );
    std::fs::write(&config, text).expect("written");
    let (checked, _, told) = output(&program("promtool"), &["check", "config", &config]);
    assert!(checked, "{told}");
    let settings = [&SETTINGS[..], &["--monitor-config", &config]].concat();
    let cluster = Cluster::with_settings(1, &settings);
    let node = cluster.endpoint(0);
    until(&node, "count(prometheus_build_info{job=\"real\"})", "1");
    until(&real, "count(prometheus_build_info{job=\"real\",from=\"synod\"})", "1");
    until(&real, "count(etcd_server_has_leader{job=\"synod-etcd\"})", "1");
    // The same configuration, changed and read again on a signal.
    let text = std::fs::read_to_string(&config)
        .expect("there")
        .replace("job_name: real", "job_name: other");
    std::fs::write(&config, text).expect("written");
    cluster.signal(0, "-HUP");
    until(&node, "count(up{job=\"other\"} == 1)", "1");
    // A mistake in it does not end the node.
    std::fs::write(&config, "scrape_configs: 1").expect("written");
    cluster.signal(0, "-HUP");
    let begun = Instant::now();
    while !cluster.log(0).contains("the monitor's configuration stays as it was") {
        assert!(begun.elapsed() < PATIENCE, "{}", cluster.log(0));
        std::thread::sleep(Duration::from_millis(50));
    }
    until(&node, "count(up{job=\"other\"} == 1)", "1");
}

#[test]
fn promtool_asks_a_node() {
    let cluster = Cluster::with_settings(1, &SETTINGS);
    let node = cluster.endpoint(0);
    until(&node, "count(up)", "1");
    let url = format!("http://{node}");
    let run = |args: &[&str]| {
        let (ok, out, told) = output(&program("promtool"), args);
        assert!(ok, "{args:?}: {out}{told}");
        out
    };
    assert!(run(&["query", "instant", &url, "up"]).contains("up{"));
    assert!(run(&["query", "range", "--step=1s", &url, "up"]).contains("up{"));
    assert!(run(&["query", "series", "--match=up", &url]).contains("instance="));
    assert!(run(&["query", "labels", &url, "job"]).contains("synod-etcd"));
    let (ok, _, told) = output(&program("promtool"), &["query", "instant", &url, "rate(up)"]);
    assert!(!ok && told.contains("expected type range vector"), "{told}");
    let (status, page) = http(&node, "GET", "/metrics", "");
    assert_eq!(status, 200);
    // Its linter has opinions on names; that it can be read is what counts.
    let mut lint = Command::new(program("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    std::io::Write::write_all(&mut lint.stdin.take().expect("its input"), page.as_bytes())
        .expect("written");
    let told = lint.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.contains("error while linting"), "{told}");
}

#[test]
fn the_pushgateways_client_pushes() {
    let cluster = Cluster::with_settings(1, &SETTINGS);
    let node = cluster.endpoint(0);
    let script = "\
import sys\n\
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram\n\
from prometheus_client import push_to_gateway, pushadd_to_gateway, delete_from_gateway\n\
r = CollectorRegistry()\n\
Counter('runs', 'Runs.', ['kind'], registry=r).labels('full').inc(3)\n\
Gauge('left', 'Left.', registry=r).set(7)\n\
Histogram('took', 'Took.', registry=r).observe(0.3)\n\
at = sys.argv[1]\n\
push_to_gateway(at, job='batch', registry=r, grouping_key={'path': '/var/tmp', 'none': ''})\n\
r = CollectorRegistry()\n\
Gauge('left', 'Left.', registry=r).set(8)\n\
pushadd_to_gateway(at, job='batch', registry=r, grouping_key={'path': '/var/tmp', 'none': ''})\n\
push_to_gateway(at, job='gone', registry=r)\n\
delete_from_gateway(at, job='gone')\n";
    let (ok, out, told) = output(&peers().join("py/bin/python"), &["-c", script, &node]);
    assert!(ok, "{out}{told}");
    until(&node, "runs_total{kind=\"full\",path=\"/var/tmp\",job=\"batch\"}", "3");
    until(&node, "left{job=\"batch\"}", "8");
    until(&node, "took_bucket{le=\"0.5\",job=\"batch\"}", "1");
    assert_eq!(ask(&node, "left{job=\"gone\"}").0, None);
}

#[test]
fn a_query_asks_all_nodes_and_says_which_did_not_answer() {
    let mut cluster = Cluster::with_settings(3, &SETTINGS);
    for node in 0..3 {
        until(&cluster.endpoint(node), "count(up{job=\"synod-etcd\"} == 1)", "3");
    }
    let (status, told) = http(&cluster.endpoint(0), "PUT", "/metrics/job/x", "only_here 42\n");
    assert_eq!(status, 200, "{told}");
    for node in 0..3 {
        until(&cluster.endpoint(node), "only_here", "42");
        // Each node sees each member's own series: once.
        until(&cluster.endpoint(node), "count(up{job=\"synod-etcd\"} == 1)", "3");
    }
    let there = cluster.endpoint(1);
    let local = http(&there, "GET", "/api/v1/query?query=only_here&nodes=local", "").1;
    assert!(local.contains("\"result\":[]"), "{local}");
    for path in
        ["/api/v1/labels", "/api/v1/label/__name__/values", "/api/v1/series?match[]=only_here"]
    {
        let (status, body) = http(&there, "GET", path, "");
        let wanted = if path.ends_with("labels") { "job" } else { "only_here" };
        assert!(
            status == 200 && body.contains(wanted) && !body.contains("warnings"),
            "{path}: {body}"
        );
    }
    // A group is what was pushed last, to whichever node; and is gone when it is deleted
    // at any of them.
    let push = |node: usize, method: &str, body: &str| {
        let (status, told) = http(&cluster.endpoint(node), method, "/metrics/job/y", body);
        assert!((200..300).contains(&status), "{told}");
    };
    push(0, "PUT", "moving 1\nstaying 5\n");
    push(1, "POST", "moving 2\n");
    for node in 0..3 {
        until(&cluster.endpoint(node), "moving", "2");
        until(&cluster.endpoint(node), "staying", "5");
        until(&cluster.endpoint(node), "count(push_time_seconds{job=\"y\"})", "1");
    }
    push(2, "DELETE", "");
    for node in 0..3 {
        until(&cluster.endpoint(node), "count({job=\"y\"}) or vector(0)", "0");
    }
    cluster.kill(0);
    let begun = Instant::now();
    loop {
        let (value, answer) = ask(&there, "only_here");
        let warnings = answer["warnings"].to_string();
        if value.is_none() && warnings.contains("node n0") && warnings.contains("did not answer") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let told = Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(["query", "only_here", "--endpoints", &there])
        .output()
        .expect("synod runs");
    assert!(String::from_utf8_lossy(&told.stderr).contains("node n0"), "{told:?}");
}

/// A histogram of six observations, as an OpenTelemetry SDK sends one.
fn push_native(node: &str) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let at = now.expect("after 1970").as_nanos().to_string();
    let point = serde_json::json!({
        "timeUnixNano": at, "count": "6", "sum": 9.5, "scale": 0, "zeroCount": "1",
        "positive": {"offset": -1, "bucketCounts": ["2", "1", "2"]},
    });
    let body = serde_json::json!({"resourceMetrics": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
        "scopeMetrics": [{"metrics": [{"name": "took", "unit": "s", "exponentialHistogram":
            {"aggregationTemporality": 2, "dataPoints": [point]}}]}],
    }]});
    let (path, kind) = ("/api/v1/otlp/v1/metrics", "Content-Type: application/json\r\n");
    let (status, told) = http_with(node, "POST", path, kind, &body.to_string());
    assert_eq!((status, &*told), (200, "{}"));
}

/// What `synod query` prints.
fn printed(node: &str, args: &[&str]) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(["query", "--endpoints", node])
        .args(args)
        .output()
        .expect("synod runs");
    assert!(run.status.success(), "{args:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).expect("text")
}

#[test]
fn native_histograms_are_shown_and_federated() {
    let cluster = Cluster::with_settings(1, &SETTINGS);
    let node = cluster.endpoint(0);
    until(&node, "count(up)", "1");
    push_native(&node);
    let fine = "{count:6, sum:9.5, [-1e-128,1e-128]:1, (0.5,1]:2, (1,2]:1, (2,4]:2}";
    let shown = printed(&node, &["took_seconds"]);
    assert_eq!(shown, format!("took_seconds{{job=\"shop\"}}  {fine}\n"));
    let drawn = printed(&node, &["took_seconds", "--range", "30s", "--step", "1s"]);
    assert!(drawn.contains("counts of histograms: 6 to 6, last 6"), "{drawn}");

    let job = |more: &str| {
        format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 400ms}}\nscrape_configs:\n- job_name: f\n  \
             honor_labels: true\n  metrics_path: /federate\n  \
             params: {{'match[]': ['took_seconds', 'up']}}\n  \
             static_configs: [{{targets: [\"{node}\"]}}]\n{more}"
        )
    };
    // By a real Prometheus, and by another Synod, which has them coarser.
    let prometheus = Prometheus::start(&job(""));
    until(&prometheus.address, "histogram_count(took_seconds{job=\"shop\"})", "6");
    until(&prometheus.address, "histogram_sum(took_seconds{job=\"shop\"})", "9.5");
    until(&prometheus.address, "count(up{job=\"synod-etcd\"})", "1");
    let config = tempfile::NamedTempFile::new().expect("a file");
    let bounds = "  scrape_native_histograms: true\n  native_histogram_min_bucket_factor: 4\n";
    std::fs::write(config.path(), job(bounds)).expect("written");
    let path = config.path().to_str().expect("a path");
    let settings = [&SETTINGS[..], &["--monitor-config", path]].concat();
    let other = Cluster::with_settings(1, &settings);
    let other = other.endpoint(0);
    until(&other, "histogram_count(took_seconds{job=\"shop\"})", "6");
    // An empty label of the page is no reason to put in the target's.
    let coarse = "{count:6, sum:9.5, [-1e-128,1e-128]:1, (0.25,1]:2, (1,4]:3}";
    let shown = printed(&other, &["took_seconds"]);
    assert_eq!(shown, format!("took_seconds{{job=\"shop\"}}  {coarse}\n"));
}
