//! Monitoring beside Prometheus and VictoriaMetrics: the same fleet pushed to each, the
//! same page scraped by each, the same queries.

use super::servers::{cpu_of, fresh_dir, spawn, status_kib};
use super::{build, machine, write_part};
use crate::peers;
use std::fmt::Write;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The fleet: 1,000 hosts of 100 series, a sample a minute for 170 minutes. No longer:
/// Synod watches itself, and what is older than three hours then is out of its bounds.
const HOSTS: &str = "1000";
const SAMPLES: &str = "170";
/// How long the page is scraped, every second: what the server does besides should not count.
const SCRAPED: Duration = Duration::from_secs(30);
/// How long after the push memory is looked at: allocators keep what was freed for a while.
const SETTLED: Duration = Duration::from_secs(30);
const PAGE_PORT: u16 = 19_191;
/// How long anything may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// A dashboard's worth of queries over the three hours.
const QUERIES: [&str; 20] = [
    "sum(rate(fleet_things_0_total[5m]))",
    "sum by (zone) (rate(fleet_things_1_total[5m]))",
    "topk(5, sum by (instance) (rate(fleet_things_2_total[5m])))",
    "avg(fleet_level_5)",
    "max by (zone) (fleet_level_6)",
    "quantile(0.9, fleet_level_7)",
    "sum(increase(fleet_things_3_total[1h]))",
    "count(fleet_level_8 > 500)",
    "fleet_level_5{instance=\"host-0007.example:9100\"}",
    "rate(fleet_things_0_total{instance=~\"host-000.*\"}[5m])",
    "avg_over_time(fleet_level_15{zone=\"zone-1\",instance=~\"host-01.*\"}[30m])",
    "max(max_over_time(fleet_level_16[10m]))",
    "sum(rate(fleet_things_10_total[5m])) / sum(rate(fleet_things_11_total[5m]))",
    "fleet_level_5{instance=~\"host-00[0-4].*\"} - fleet_level_6{instance=~\"host-00[0-4].*\"}",
    "stddev by (zone) (fleet_level_25)",
    "count by (zone) ({__name__=\"fleet_level_9\"})",
    "sum by (zone) (irate(fleet_things_12_total[5m]))",
    "bottomk(3, fleet_level_26)",
    "histogram_quantile(0.9, label_replace(fleet_things_13_total{instance=~\"host-000.*\"}, \"le\", \"1\", \"\", \"\"))",
    "sum(fleet_level_27) by (zone) > bool 0",
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Synod,
    Prometheus,
    Victoria,
}

struct Server {
    kind: Kind,
    program: PathBuf,
    dir: PathBuf,
    child: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What was measured of one.
struct Measured {
    name: &'static str,
    per_second: f64,
    per_cpu_second: f64,
    kib_a_series: f64,
    bytes_a_sample: f64,
    queries_s: f64,
    ready_s: f64,
    scraped_per_cpu_second: f64,
}

/// `cargo xtask compare series`.
pub fn series(root: &Path) -> Result<(), String> {
    let dir = peers::fetch(root)?;
    // No test wants it.
    peers::debian(&dir, "victoria-metrics", "1.79.")?;
    let synod = build(root)?;
    let prometheus = dir.join("deb/prometheus/usr/bin/prometheus");
    let victoria = dir.join("deb/victoria-metrics/usr/bin/victoria-metrics");
    let sides = [
        (Kind::Synod, "Synod", synod.clone()),
        (Kind::Prometheus, "Prometheus 2.42", prometheus),
        (Kind::Victoria, "VictoriaMetrics 1.79", victoria),
    ];
    let mut all = Vec::new();
    for (kind, name, program) in sides {
        eprintln!("{name}");
        all.push(measure(root, &synod, kind, name, &program)?);
    }
    let mut text = format!(
        "Machine: {}; load and server on it, one server at a time. A fleet of 1,000 hosts with 100 series each \
         (half counters, three in ten wandering gauges, two constant), a sample a minute for 170 minutes, \
         pushed by remote-write 1.0 over four connections in requests of 2,000 samples \
         (`synod bench series`); 20 range queries over the three hours in steps of 60 s (the median of three rounds, \
         after one that is not counted); `kill -9`, then a start until a query has its answer; a page of 100,000 samples \
         scraped every second for half a minute, by a server that does nothing else. CPU is the server's. \
         Memory is what the process holds half a minute after the push, without mapped files, less what it \
         holds when it is empty. Bytes a sample: of blocks with their index if half of the samples are in some by then (a block of two hours is cut an \
         hour after its end), else of all that is in memory and files (Prometheus: of a snapshot with its index; \
         VictoriaMetrics: of its data after a flush).\n\n\
         | | samples/s | samples per CPU s | KiB a series | bytes a sample | 20 queries, s | ready after kill -9, s | \
         samples scraped per CPU s |\n|---|---|---|---|---|---|---|---|\n",
        machine()
    );
    for m in &all {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} |",
            m.name,
            m.per_second,
            m.per_cpu_second,
            m.kib_a_series,
            m.bytes_a_sample,
            m.queries_s,
            m.ready_s,
            m.scraped_per_cpu_second
        );
    }
    let (ours, theirs, victoria) = (&all[0], &all[1], &all[2]);
    let _ = writeln!(
        text,
        "\nSynod ÷ Prometheus: ingestion per CPU second {:.2} (bar 2), memory a series {:.2} (bar 0.5), bytes a \
         sample {:.2} (bar 1; ÷ VictoriaMetrics {:.2}, bar 1.5), queries {:.2} (bar 0.5), restart {:.2} (bar 0.5), scraping per \
         CPU second {:.2} (bar 2).",
        ours.per_cpu_second / theirs.per_cpu_second,
        ours.kib_a_series / theirs.kib_a_series,
        ours.bytes_a_sample / theirs.bytes_a_sample,
        ours.bytes_a_sample / victoria.bytes_a_sample,
        ours.queries_s / theirs.queries_s,
        ours.ready_s / theirs.ready_s,
        ours.scraped_per_cpu_second / theirs.scraped_per_cpu_second,
    );
    write_part(&root.join("docs/benchmarks.md"), "compare series", &text)
}

fn measure(
    root: &Path,
    synod: &Path,
    kind: Kind,
    name: &'static str,
    program: &Path,
) -> Result<Measured, String> {
    let mut server = Server::start(root, kind, program, None)?;
    std::thread::sleep(Duration::from_secs(3));
    let (empty, before) = (server.memory_kib(), server.cpu());
    let url = format!("http://127.0.0.1:{}/api/v1/write", server.port());
    let pushed = Command::new(synod)
        .args(["bench", "series", "--hosts", HOSTS, "--samples", SAMPLES, "--url", &url])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| e.to_string())?;
    let told: serde_json::Value = serde_json::from_slice(&pushed.stdout)
        .map_err(|e| format!("bench series to {name}: {e}"))?;
    // What is still to be written belongs to it; what is freed goes back to the system.
    std::thread::sleep(SETTLED);
    let cpu = server.cpu() - before;
    let samples = told["samples"].as_f64().unwrap_or(0.0);
    let series = HOSTS.parse::<f64>().unwrap_or(1.0) * 100.0;
    let kib_a_series = (server.memory_kib() - empty) / series;
    let queries_s = server.queries()?;
    let bytes_a_sample = server.bytes_a_sample(samples)?;
    server.kill();
    let begun = Instant::now();
    server.launch(None)?;
    while server.count()? < series / 100.0 {
        if begun.elapsed() > READY_WITHIN {
            return Err(format!("{name} is not ready after a kill"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let ready_s = begun.elapsed().as_secs_f64();
    drop(server);
    Ok(Measured {
        name,
        per_second: told["per_second"].as_f64().unwrap_or(0.0),
        per_cpu_second: samples / cpu,
        kib_a_series,
        bytes_a_sample,
        queries_s,
        ready_s,
        scraped_per_cpu_second: scraped(root, synod, kind, program)?,
    })
}

/// Samples scraped for a second of CPU.
fn scraped(root: &Path, synod: &Path, kind: Kind, program: &Path) -> Result<f64, String> {
    let listen = format!("127.0.0.1:{PAGE_PORT}");
    let page = Command::new(synod)
        .args(["bench", "page", "--listen", &listen, "--hosts", HOSTS])
        .stdin(Stdio::null())
        .spawn();
    let mut page = page.map_err(|e| e.to_string())?;
    let result = (|| {
        let server = Server::start(root, kind, program, Some(&listen))?;
        // The first scrapes make the series.
        std::thread::sleep(Duration::from_secs(12));
        let (before, count) = (server.cpu(), server.scrapes()?);
        std::thread::sleep(SCRAPED);
        let (cpu, scrapes) = (server.cpu() - before, server.scrapes()? - count);
        Ok(scrapes * 100_000.0 / cpu)
    })();
    let _ = page.kill();
    let _ = page.wait();
    result
}

impl Server {
    fn start(
        root: &Path,
        kind: Kind,
        program: &Path,
        scrape: Option<&str>,
    ) -> Result<Server, String> {
        let dir = fresh_dir(root, "series")?;
        let program = program.to_owned();
        let mut server = Server { kind, program, dir, child: None };
        server.launch(scrape)?;
        Ok(server)
    }

    fn port(&self) -> u16 {
        match self.kind {
            Kind::Synod => 12_379,
            Kind::Prometheus => 19_090,
            Kind::Victoria => 18_428,
        }
    }

    fn launch(&mut self, scrape: Option<&str>) -> Result<(), String> {
        let scrape = scrape.map_or(String::new(), |at| {
            format!(
                "scrape_configs:\n- job_name: page\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  \
                 static_configs: [{{targets: [\"{at}\"]}}]\n"
            )
        });
        let config = self.dir.join("prometheus.yml");
        std::fs::write(&config, scrape).map_err(|e| e.to_string())?;
        let (config, data) = (config.display(), self.dir.join("data"));
        let (data, port) = (data.display(), self.port());
        let args: Vec<String> = match self.kind {
            Kind::Synod => vec![
                "server".into(),
                format!("--data-dir={data}"),
                format!("--listen-client-urls=http://127.0.0.1:{port}"),
                format!("--listen-peer-urls=http://127.0.0.1:{}", port + 1),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{}", port + 1),
                format!("--initial-cluster=default=http://127.0.0.1:{}", port + 1),
                "--listen-http-urls=".into(),
                "--monitor-series=300000".into(),
                format!("--monitor-config={config}"),
            ],
            Kind::Prometheus => vec![
                format!("--config.file={config}"),
                format!("--storage.tsdb.path={data}"),
                format!("--web.listen-address=127.0.0.1:{port}"),
                "--web.enable-remote-write-receiver".into(),
                "--web.enable-admin-api".into(),
            ],
            Kind::Victoria => vec![
                format!("-storageDataPath={data}"),
                format!("-httpListenAddr=127.0.0.1:{port}"),
                format!("-promscrape.config={config}"),
                "-promscrape.maxScrapeSize=268435456".into(),
                "-search.latencyOffset=0s".into(),
            ],
        };
        self.child = Some(spawn(&self.program, &args, &self.dir.join("log"))?);
        let begun = Instant::now();
        let page = if self.kind == Kind::Victoria { "/health" } else { "/-/ready" };
        while !ask(self.port(), page).is_ok_and(|a| a.starts_with("HTTP/1.1 200")) {
            if begun.elapsed() > READY_WITHIN {
                return Err(format!("{} does not start", self.program.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    fn cpu(&self) -> f64 {
        cpu_of(self.id())
    }

    fn memory_kib(&self) -> f64 {
        status_kib(self.id(), "RssAnon:")
    }

    fn json(&self, path: &str) -> Result<serde_json::Value, String> {
        let answer = ask(self.port(), path)?;
        let from = answer.find('{').ok_or_else(|| format!("{path}: {answer}"))?;
        let to = answer.rfind('}').map_or(answer.len(), |at| at + 1);
        // Chunks of HTTP/1.1 have their lengths between them: HTTP/1.0 has none.
        serde_json::from_str(&answer[from..to]).map_err(|e| format!("{path}: {e}"))
    }

    fn number(&self, query: &str) -> Result<f64, String> {
        let answer = self.json(&format!("/api/v1/query?query={}", escaped(query)))?;
        let value = answer["data"]["result"][0]["value"][1].as_str();
        Ok(value.and_then(|v| v.parse().ok()).unwrap_or(0.0))
    }

    /// Series of one name that a query finds.
    fn count(&self) -> Result<f64, String> {
        self.number("count(last_over_time(fleet_level_5[30m]))")
    }

    fn scrapes(&self) -> Result<f64, String> {
        self.number("count_over_time(scrape_samples_scraped{job=\"page\"}[1h])")
    }

    /// Seconds for all queries, the median of three rounds.
    fn queries(&self) -> Result<f64, String> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let end = now.map_err(|e| e.to_string())?.as_secs() / 60 * 60;
        let mut rounds = Vec::new();
        for _ in 0..4 {
            let begun = Instant::now();
            for query in QUERIES {
                let path = format!(
                    "/api/v1/query_range?query={}&start={}&end={end}&step=60&nocache=1",
                    escaped(query),
                    end - 3 * 3_600
                );
                let answer = self.json(&path)?;
                if answer["status"] != "success" {
                    return Err(format!("{query}: {answer}"));
                }
            }
            rounds.push(begun.elapsed().as_secs_f64());
        }
        rounds.remove(0);
        rounds.sort_by(f64::total_cmp);
        Ok(rounds[1])
    }

    fn bytes_a_sample(&self, samples: f64) -> Result<f64, String> {
        let data = self.dir.join("data");
        match self.kind {
            Kind::Victoria => {
                ask(self.port(), "/internal/force_flush")?;
                ask(self.port(), "/internal/force_merge")?;
                std::thread::sleep(Duration::from_secs(10));
                let bytes = folder_bytes(&data.join("data")) + folder_bytes(&data.join("indexdb"));
                Ok(bytes as f64 / samples)
            }
            Kind::Prometheus => {
                post(self.port(), "/api/v1/admin/tsdb/snapshot")?;
                blocks(&data.join("snapshots")).map(|(bytes, held)| bytes / held)
            }
            // Of blocks, if half of the samples are in some; else of all that there is, copies of
            // chunks that were not full among it.
            Kind::Synod => {
                let folder = data.join("series/blocks");
                if let Ok((bytes, held)) = blocks(&folder)
                    && held * 2.0 >= samples
                {
                    return Ok(bytes / held);
                }
                let page = ask(self.port(), "/metrics")?;
                let line = page.lines().find_map(|l| l.strip_prefix("synod_monitor_chunk_bytes "));
                let bytes: f64 = line.and_then(|l| l.trim().parse().ok()).unwrap_or(0.0);
                let series = data.join("series");
                let files = ["head", "blocks"].map(|folder| folder_bytes(&series.join(folder)));
                Ok((bytes + files.iter().sum::<u64>() as f64) / samples)
            }
        }
    }
}

/// Bytes and samples of the blocks in a folder, at any depth.
fn blocks(dir: &Path) -> Result<(f64, f64), String> {
    let (mut bytes, mut samples) = (0, 0.0);
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        if let Ok(text) = std::fs::read_to_string(folder.join("meta.json")) {
            let meta: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            samples += meta["stats"]["numSamples"].as_f64().unwrap_or(0.0);
            bytes += folder_bytes(&folder);
            continue;
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(entries.map(|e| e.path()).filter(|p| p.is_dir()));
    }
    if samples == 0.0 {
        Err(format!("no block in {}", dir.display()))
    } else {
        Ok((bytes as f64, samples))
    }
}

fn folder_bytes(dir: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        bytes += match path.is_dir() {
            true => folder_bytes(&path),
            false => entry.metadata().map_or(0, |m| m.len()),
        };
    }
    bytes
}

fn escaped(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

fn ask(port: u16, path: &str) -> Result<String, String> {
    request(port, "GET", path)
}

fn post(port: u16, path: &str) -> Result<String, String> {
    request(port, "POST", path)
}

fn request(port: u16, method: &str, path: &str) -> Result<String, String> {
    let told = |e: std::io::Error| format!("127.0.0.1:{port}{path}: {e}");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(told)?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).map_err(told)?;
    let head = format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).map_err(told)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(told)?;
    Ok(String::from_utf8_lossy(&answer).replacen("HTTP/1.0", "HTTP/1.1", 1))
}
