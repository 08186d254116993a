//! Measurements side by side in one run, interleaved, at equal durability. The
//! tables go to the pages under `docs/`.

mod cores;
mod etcd;
mod locks;
mod protocols;
mod series;
mod servers;

pub use cores::cores;
pub use etcd::etcd;
pub use locks::locks;
pub use protocols::protocols;
pub use series::series;

use servers::{Servers, endpoints};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What one run of `synod bench` saw.
struct Sample {
    per_second: f64,
    p99_ms: f64,
    cpu_s_per_1000: f64,
}

fn mean(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    samples.iter().map(of).sum::<f64>() / samples.len() as f64
}

/// `--seconds S`, if given.
fn seconds<'a>(args: &[&'a str]) -> Result<&'a str, String> {
    match args {
        ["--seconds", s] => Ok(s),
        [] => Ok("5"),
        _ => Err("usage: compare etcd|locks|protocols [--seconds S]".into()),
    }
}

fn build(root: &Path) -> Result<std::path::PathBuf, String> {
    crate::run(root, "cargo", &["build", "--release", "--locked", "--package", "synod"])?;
    Ok(root.join("target/release/synod"))
}

fn bench(synod: &Path, args: &[&str], nodes: usize) -> Result<serde_json::Value, String> {
    let out = Command::new(synod)
        .arg("bench")
        .args(args)
        .args(["--output", "json", "--endpoints"])
        .arg(endpoints(nodes))
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    let line = text.lines().last().and_then(|l| serde_json::from_str(l).ok());
    line.ok_or_else(|| format!("{args:?}: {}", String::from_utf8_lossy(&out.stderr)))
}

/// One run; the servers have been warmed up by one before it.
fn load(
    synod: &Path,
    args: &[&str],
    nodes: usize,
    seconds: &str,
    servers: &Servers,
) -> Result<Sample, String> {
    bench(synod, &[args, &["--seconds", "1"]].concat(), nodes)?;
    let before = servers.cpu();
    // What is not counted must not be in the CPU time either (the keys that a read load
    // writes first still are, on all sides alike).
    let warm: &[&str] = if args == ["watch"] { &[] } else { &["--warmup", "0"] };
    let line = bench(synod, &[args, &["--seconds", seconds], warm].concat(), nodes)?;
    let number = |name: &str| line[name].as_f64().unwrap_or(0.0);
    let cpu = servers.cpu() - before;
    Ok(Sample {
        per_second: number("per_second"),
        p99_ms: number("p99_ms"),
        cpu_s_per_1000: cpu * 1_000.0 / number("ok").max(1.0),
    })
}

/// The longest time without a write around a `kill -9` of the leader, in ms.
fn gap(synod: &Path, servers: &mut Servers) -> Result<f64, String> {
    let child = Command::new(synod)
        .args(["bench", "failover", "--seconds", "4", "--output", "json", "--endpoints"])
        .arg(endpoints(3))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    std::thread::sleep(Duration::from_millis(1_500));
    servers.kill_leader()?;
    let out = child.wait_with_output().map_err(|e| e.to_string())?;
    let line: serde_json::Value =
        serde_json::from_slice(&out.stdout).map_err(|e| format!("bench failover: {e}"))?;
    line["longest_gap_ms"].as_f64().ok_or_else(|| "bench failover told no gap".into())
}

/// Machine, system and what was measured.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<_> = kernel.split(['.', '-']).take(2).collect();
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = commit.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).into_owned());
    format!(
        "{cores} cores, {}, {} GiB, Linux {}; Synod {} at {}",
        model.trim_start_matches([' ', '\t', ':']),
        (kib + (1 << 19)) >> 20,
        kernel.join("."),
        env!("CARGO_PKG_VERSION"),
        commit.trim()
    )
}

/// Puts `text` between the marks of `name` on a page.
fn write_part(path: &Path, name: &str, text: &str) -> Result<(), String> {
    let (begin, end) = (format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->"));
    let old = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (Some(a), Some(b)) = (old.find(&begin), old.find(&end)) else {
        return Err(format!("{} lacks the marks of {name:?}", path.display()));
    };
    let page = format!("{}{begin}\n{text}{}", &old[..a], &old[b..]);
    std::fs::write(path, page).map_err(|e| format!("{}: {e}", path.display()))
}
