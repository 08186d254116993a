//! The histograms that both sides get, and a real Prometheus that gets them.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use prost::Message;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use synod_door_prom::{Monitor, Settings, Surroundings};

/// Between two samples, ms.
const BASE_STEP: i64 = 15_000;
/// Blocks of ten minutes: nobody waits two hours.
const RANGE: i64 = 600_000;

/// Messages of remote-write 1.0, from its specification.
#[derive(Clone, Message)]
pub struct Written {
    #[prost(message, repeated, tag = "1")]
    pub series: Vec<OneSeries>,
}

#[derive(Clone, Message)]
pub struct OneSeries {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    pub histograms: Vec<Histogram>,
}

#[derive(Clone, Message)]
pub struct Label {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, Message)]
pub struct Sample {
    #[prost(double, tag = "1")]
    pub value: f64,
    #[prost(int64, tag = "2")]
    pub at: i64,
}

#[derive(Clone, Message)]
pub struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub count_float: Option<f64>,
    #[prost(double, tag = "3")]
    pub sum: f64,
    #[prost(sint32, tag = "4")]
    pub schema: i32,
    #[prost(double, tag = "5")]
    pub zero_threshold: f64,
    #[prost(uint64, optional, tag = "6")]
    pub zero: Option<u64>,
    #[prost(double, optional, tag = "7")]
    pub zero_float: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    pub negative: Vec<Span>,
    #[prost(sint64, repeated, tag = "9")]
    pub negative_deltas: Vec<i64>,
    #[prost(message, repeated, tag = "11")]
    pub positive: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    pub positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "13")]
    pub positive_counts: Vec<f64>,
    #[prost(int32, tag = "14")]
    pub hint: i32,
    #[prost(int64, tag = "15")]
    pub at: i64,
}

#[derive(Clone, Message)]
pub struct Span {
    #[prost(sint32, tag = "1")]
    pub offset: i32,
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

/// `io.prometheus.client.MetricFamily` and what is in it.
#[derive(Clone, Message)]
pub struct Family {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int32, tag = "3")]
    pub kind: i32,
    #[prost(message, repeated, tag = "4")]
    pub metrics: Vec<Metric>,
}

#[derive(Clone, Message)]
pub struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(message, optional, tag = "7")]
    pub histogram: Option<Scraped>,
}

#[derive(Clone, Message)]
pub struct Scraped {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "2")]
    pub sum: f64,
    #[prost(sint32, tag = "5")]
    pub schema: i32,
    #[prost(double, tag = "6")]
    pub zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    pub zero: u64,
    #[prost(message, repeated, tag = "12")]
    pub positive: Vec<Span>,
    #[prost(sint64, repeated, tag = "13")]
    pub positive_deltas: Vec<i64>,
}

fn deltas(counts: &[i64]) -> Vec<i64> {
    let mut before = 0;
    counts.iter().map(|count| count - std::mem::replace(&mut before, *count)).collect()
}

fn series(labels: &[(&str, &str)]) -> OneSeries {
    let label =
        |(name, value): &(&str, &str)| Label { name: (*name).into(), value: (*value).into() };
    OneSeries { labels: labels.iter().map(label).collect(), ..OneSeries::default() }
}

/// A counter's histogram at a turn: it grows, gets further buckets, and is reset once.
fn counter(turn: i64, seed: i64, schema: i32, reset: bool) -> Histogram {
    let full = turn + 400 + if reset && turn > 130 { -230 } else { 0 };
    let count = |bucket: i64| full * (3 + (bucket * 7 + seed) % 11) + bucket;
    // Two spans; the second begins later.
    let mut counts: Vec<i64> = (0..4).map(count).collect();
    let mut spans = vec![Span { offset: -2, length: 4 }];
    if turn > 60 {
        counts.extend((6..9).map(count));
        spans.push(Span { offset: 2, length: 3 });
    }
    let zero = full * 2;
    let total = counts.iter().sum::<i64>() + zero;
    Histogram {
        count: Some(total as u64),
        sum: total as f64 * 0.73 + seed as f64,
        schema,
        zero_threshold: 0.001,
        zero: Some(zero as u64),
        positive: spans,
        positive_deltas: deltas(&counts),
        ..Histogram::default()
    }
}

/// One hour in requests of a minute.
pub fn data(base: i64) -> Vec<Written> {
    (0..60).map(|minute| Written { series: minute_of(base, minute) }).collect()
}

fn minute_of(base: i64, minute: i64) -> Vec<OneSeries> {
    let turns = minute * 4..minute * 4 + 4;
    let mut all = Vec::new();
    let mut add = |labels: &[(&str, &str)], of: &dyn Fn(i64) -> Histogram| {
        let mut one = series(labels);
        let shift = 337 + 7 * all.len() as i64;
        for turn in turns.clone() {
            let at = base + turn * BASE_STEP + shift;
            one.histograms.push(Histogram { at, ..of(turn) });
        }
        all.push(one);
    };
    for (i, (instance, zone)) in [("a", "x"), ("b", "x"), ("c", "y")].into_iter().enumerate() {
        let labels = [("__name__", "rpc"), ("instance", instance), ("zone", zone)];
        add(&labels, &|turn| counter(turn, i as i64, 0, instance == "b"));
    }
    add(&[("__name__", "fine"), ("zone", "x")], &|turn| counter(turn, 5, 3, false));
    add(&[("__name__", "below")], &|turn| {
        let negative: Vec<i64> = (0..3).map(|i| (turn + 300) * (i + 2)).collect();
        let total = negative.iter().sum::<i64>();
        let mut h = counter(turn, 3, 2, false);
        h.count = Some(h.count.unwrap_or(0) + total as u64);
        h.sum -= 3.0 * total as f64;
        h.negative = vec![Span { offset: 0, length: 1 }, Span { offset: 1, length: 2 }];
        h.negative_deltas = deltas(&negative);
        h
    });
    // A gauge, of counts that are not whole.
    add(&[("__name__", "level")], &|turn| {
        let count = |i: i64| ((turn * 37 + i * 11) % 50) as f64 / 4.0 + 0.3;
        let counts: Vec<f64> = (0..5).map(count).collect();
        Histogram {
            count_float: Some(counts.iter().sum::<f64>() + 1.5),
            sum: (turn % 17) as f64 - 3.5,
            schema: 1,
            zero_threshold: 2f64.powi(-128),
            zero_float: Some(1.5),
            positive: vec![Span { offset: -1, length: 5 }],
            positive_counts: counts,
            hint: 3,
            ..Histogram::default()
        }
    });
    let numbers = |name: &str, instance: &str, shift: i64| {
        let mut one = series(&[("__name__", name), ("instance", instance)]);
        let sample = |turn: i64| Sample {
            value: (turn * 3 % 100) as f64,
            at: base + turn * BASE_STEP + shift,
        };
        one.samples = turns.clone().map(sample).collect();
        one
    };
    all.push(numbers("flags", "a", 611));
    // A series that is of numbers first, and of histograms then.
    let mut both = series(&[("__name__", "both")]);
    for turn in turns.clone() {
        let at = base + turn * BASE_STEP + 777;
        match turn / 40 % 2 {
            0 => both.samples.push(Sample { value: turn as f64, at }),
            _ => both.histograms.push(Histogram { at, ..counter(turn, 1, 0, false) }),
        }
    }
    all.push(both);
    all
}

pub fn begin(dir: &Path) -> Monitor {
    let mut settings = Settings::in_dir(&dir.join("series"));
    settings.sync_every = Duration::from_millis(20);
    settings.limits.block_range = RANGE;
    let monitor = Monitor::start(settings, Surroundings::none()).expect("it starts");
    until("the log is back", || monitor.is_ready());
    monitor
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not yet: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

fn packed(request: &Written) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).expect("compressed")
}

pub async fn write(monitor: &Monitor, request: &Written) -> (StatusCode, String) {
    let built = Request::builder().method(Method::POST).uri("/api/v1/write");
    let request = built.body(Bytes::from(packed(request))).expect("a request");
    let answer = monitor.answer(request).await;
    (answer.status(), String::from_utf8_lossy(answer.body()).into_owned())
}

pub async fn ask(monitor: &Monitor, path: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(form);
    let request = Request::builder().uri(format!("{path}?{}", query.finish()));
    let answer = monitor.answer(request.body(Bytes::new()).expect("a request")).await;
    (answer.status(), serde_json::from_slice(answer.body()).expect("JSON"))
}

/// Waits until what is older is in blocks alone.
pub async fn leaves_the_head(monitor: &Monitor, until: i64) {
    let begun = Instant::now();
    loop {
        let (_, stats) = ask(monitor, "/api/v1/status/tsdb", &[]).await;
        let oldest = stats["data"]["headStats"]["minTime"].as_i64().expect("a time");
        if oldest >= until {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "no blocks: {oldest}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("copied")),
        }
    }
}

/// A real Prometheus; ended when dropped.
pub struct Prometheus {
    process: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Prometheus {
    /// Begins empty, or with copies of these blocks.
    pub fn start(blocks: Option<&Path>) -> Prometheus {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("prometheus.yml"), "global: {}\n").expect("the settings");
        if let Some(blocks) = blocks {
            copy(blocks, &dir.path().join("data"));
            let _ = std::fs::remove_dir_all(dir.path().join("data/wal"));
        }
        let port = free_port();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let program = root.join("target/peers/deb/prometheus/usr/bin/prometheus");
        assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let process = Command::new(program)
            .current_dir(dir.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .args(["--enable-feature=native-histograms", "--web.enable-admin-api"])
            .args(["--web.enable-remote-write-receiver", "--storage.tsdb.retention.time=100y"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts");
        let mut server = Prometheus { process, port, dir };
        server.wait();
        server
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        loop {
            let ended = self.process.try_wait().expect("the process");
            let ready = self.send("GET", "/-/ready", "", b"").is_ok_and(|a| a.contains("Ready"));
            if ready && ended.is_none() {
                return;
            }
            if ended.is_some() || begun.elapsed() > Duration::from_secs(30) {
                let log = std::fs::read_to_string(self.dir.path().join("log"));
                panic!("prometheus is not ready: {ended:?}: {}", log.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where it is.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends samples.
    pub fn write(&self, request: &Written) {
        let kind = "Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n\
                    X-Prometheus-Remote-Write-Version: 0.1.0\r\n";
        let answer = self.send("POST", "/api/v1/write", kind, &packed(request)).expect("an answer");
        assert!(answer.starts_with("HTTP/1.0 204"), "{answer}");
    }

    /// Its JSON answer to a form.
    pub fn json(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
        let answer = self.send("POST", path, kind, body.finish().as_bytes()).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    /// Writes all that it has into blocks in this folder.
    pub fn snapshot(&self, to: &Path) {
        let answer = self.json("/api/v1/admin/tsdb/snapshot", &[]);
        let name = answer["data"]["name"].as_str().unwrap_or_else(|| panic!("{answer}"));
        copy(&self.dir.path().join("data/snapshots").join(name), to);
    }

    /// HTTP/1.0: an answer ends where the connection ends.
    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n{kind}Content-Length: {length}\r\n\r\n"
        );
        connection.write_all(head.as_bytes())?;
        connection.write_all(body)?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that was free a moment ago, below those of outgoing connections.
fn free_port() -> u16 {
    let first = std::process::id().wrapping_mul(103);
    let ports = (0..22_000).map(|i| 10_240 + (first.wrapping_add(i) % 22_000) as u16);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.into_iter().find(free).expect("a free port")
}
