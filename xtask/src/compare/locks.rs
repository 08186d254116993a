//! Synod's locks beside ZooKeeper's.

use super::servers::{Side, cpu_of, endpoints, fresh_dir, spawn};
use super::{Sample, bench, build, machine, mean, seconds, write_part};
use crate::peers;
use std::fmt::Write;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// ZooKeeper's ports: clients, peers, elections.
const PORTS: [[u16; 3]; 3] =
    [[12_181, 12_888, 13_888], [22_181, 22_888, 23_888], [32_181, 32_888, 33_888]];
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Both sides are warm after it; a virtual machine has compiled what it runs often.
const WARM_UP: &str = "5";
const CLIENTS: &str = "64";
/// The clients, in Python. Another process: the figures are of its kind.
const SCRIPT: &str = include_str!("locks.py");

/// What asks: our load tool for both, or Python for both.
#[derive(Clone, Copy, PartialEq)]
enum Tool {
    Bench,
    Python,
}

struct Ensemble {
    children: Vec<Child>,
    dir: PathBuf,
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn zookeepers() -> String {
    PORTS.map(|[client, ..]| format!("127.0.0.1:{client}")).join(",")
}

impl Ensemble {
    /// Three fresh servers with default settings, but for where they are.
    fn start(root: &Path, zookeeper: &peers::ZooKeeper) -> Result<Ensemble, String> {
        let mut all = Ensemble { children: Vec::new(), dir: fresh_dir(root, "zookeeper")? };
        for (i, [client, ..]) in PORTS.iter().enumerate() {
            let dir = all.dir.join(format!("n{i}"));
            std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
            let mut settings = format!(
                "tickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\nadmin.enableServer=false\n\
                 4lw.commands.whitelist=srvr\nclientPortAddress=127.0.0.1\nclientPort={client}\ndataDir={}\n",
                dir.display()
            );
            for (n, [_, peer, election]) in PORTS.iter().enumerate() {
                let _ = writeln!(settings, "server.{}=127.0.0.1:{peer}:{election}", n + 1);
            }
            let file = dir.join("zoo.cfg");
            let written = std::fs::write(&file, settings)
                .and_then(|()| std::fs::write(dir.join("myid"), format!("{}\n", i + 1)));
            written.map_err(|e| format!("{}: {e}", dir.display()))?;
            let main = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
            let args = ["-cp", &zookeeper.jars, main, &file.to_string_lossy()].map(str::to_owned);
            all.children.push(spawn(&zookeeper.java, &args, &all.dir.join(format!("log{i}")))?);
        }
        all.ready()?;
        Ok(all)
    }

    /// Until each says that it leads or follows.
    fn ready(&self) -> Result<(), String> {
        let begun = Instant::now();
        for [client, ..] in PORTS {
            while !told(client).contains("\nMode: ") {
                if begun.elapsed() > READY_WITHIN {
                    return Err(format!(
                        "the ZooKeeper at port {client} is not ready after a minute"
                    ));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    fn cpu(&self) -> f64 {
        self.children.iter().map(|c| cpu_of(c.id())).sum()
    }
}

/// What a ZooKeeper says of itself.
fn told(port: u16) -> String {
    let mut text = String::new();
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return text };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = stream.write_all(b"srvr");
    let _ = stream.read_to_string(&mut text);
    text
}

/// What the loads run with.
struct With<'a> {
    root: &'a Path,
    synod: &'a Path,
    zookeeper: &'a peers::ZooKeeper,
    seconds: &'a str,
}

/// `cargo xtask compare locks [--seconds S]`.
pub fn locks(root: &Path, args: &[&str]) -> Result<(), String> {
    let seconds = seconds(args)?;
    let zookeeper = peers::zookeeper(&peers::fetch(root)?)?;
    let synod = build(root)?;
    let with = With { root, synod: &synod, zookeeper: &zookeeper, seconds };
    let mut text = format!(
        "Machine: {}; clients and all servers on it. Peer: ZooKeeper 3.8.0 (Debian's packages, OpenJDK 17, default \
         settings). {CLIENTS} contenders, each with a session and a connection of its own, three servers; each takes a \
         lock, by random choice of the names, and gives it back; {seconds} s a run after {WARM_UP} s that are not counted, two \
         runs a side, interleaved A B B A; the spread is that of the four ratios. Both sides sync their logs before they \
         acknowledge. \"The load tool\" is `synod bench` on both sides: Synod's own calls, and ZooKeeper's lock recipe on \
         its wire (create in order, list, watch the one before, delete). \"Python\" is kazoo 2.11.0's `Lock` against the same \
         loop over Synod's JSON door by `http.client`, in four processes of threads (`xtask/src/compare/locks.py`): what \
         an application in Python sees, and for the most part the cost of Python.\n\n\
         | who asks | names | Synod pairs/s | ZooKeeper pairs/s | ratio (spread) | p99 ms: Synod, ZooKeeper | ratio of p99 | \
         server CPU s per 1,000: Synod, ZooKeeper | bars |\n|---|---|---|---|---|---|---|---|---|\n",
        machine()
    );
    for tool in [Tool::Bench, Tool::Python] {
        for names in ["1", "64"] {
            let line = row(&with, tool, names)?;
            eprint!("{line}");
            text += &line;
        }
    }
    write_part(&root.join("docs/benchmarks.md"), "compare locks", &text)
}

fn row(with: &With, tool: Tool, names: &str) -> Result<String, String> {
    let mut samples: [Vec<Sample>; 2] = [Vec::new(), Vec::new()];
    for which in [0, 1, 1, 0] {
        let sample = if which == 0 { ours(with, tool, names) } else { theirs(with, tool, names) };
        samples[which].push(sample?);
    }
    let (a, b) = (&samples[0], &samples[1]);
    let ratio = |i: usize, j: usize| a[i].per_second / b[j].per_second;
    let all = [ratio(0, 0), ratio(0, 1), ratio(1, 0), ratio(1, 1)];
    let (low, high) = all.iter().fold((f64::MAX, 0f64), |(l, h), r| (l.min(*r), h.max(*r)));
    let rate = |samples: &[Sample]| mean(samples, |s| s.per_second);
    let p99 = |samples: &[Sample]| mean(samples, |s| s.p99_ms);
    let cpu = |samples: &[Sample]| mean(samples, |s| s.cpu_s_per_1000);
    Ok(format!(
        "| {} | {names} | {:.0} | {:.0} | **{:.2}** ({low:.2} to {high:.2}) | {:.1}, {:.1} | {:.2} | {:.3}, {:.3} | \
         3, p99 0.5 |\n",
        if tool == Tool::Bench { "the load tool" } else { "Python" },
        rate(a),
        rate(b),
        rate(a) / rate(b),
        p99(a),
        p99(b),
        p99(a) / p99(b),
        cpu(a),
        cpu(b),
    ))
}

fn ours(with: &With, tool: Tool, names: &str) -> Result<Sample, String> {
    let servers = Side::Synod(with.synod.to_owned(), "raft").start(with.root, 3)?;
    counted(
        |seconds| match tool {
            Tool::Python => python(with, "synod", &endpoints(3), names, seconds),
            // 22 for each of the three: one for each client.
            Tool::Bench => {
                let load = ["fenced-lock", "--keys", names, "--clients", CLIENTS];
                let how = ["--connections", "22", "--warmup", "0", "--seconds", seconds];
                bench(with.synod, &[&load[..], &how[..]].concat(), 3)
            }
        },
        || servers.cpu(),
        with.seconds,
    )
}

fn theirs(with: &With, tool: Tool, names: &str) -> Result<Sample, String> {
    let servers = Ensemble::start(with.root, with.zookeeper)?;
    counted(
        |seconds| match tool {
            Tool::Python => python(with, "kazoo", &zookeepers(), names, seconds),
            Tool::Bench => zookeeper_bench(with, names, seconds),
        },
        || servers.cpu(),
        with.seconds,
    )
}

/// A run that is not counted, and one that is.
fn counted(
    run: impl Fn(&str) -> Result<serde_json::Value, String>,
    cpu: impl Fn() -> f64,
    seconds: &str,
) -> Result<Sample, String> {
    run(WARM_UP)?;
    let before = cpu();
    let line = run(seconds)?;
    let spent = cpu() - before;
    let number = |name: &str| line[name].as_f64().unwrap_or(0.0);
    if number("failed") > 0.0 {
        return Err(format!("some clients failed: {line}"));
    }
    Ok(Sample {
        per_second: number("per_second"),
        p99_ms: number("p99_ms"),
        cpu_s_per_1000: spent * 1_000.0 / number("ok").max(1.0),
    })
}

fn zookeeper_bench(with: &With, names: &str, seconds: &str) -> Result<serde_json::Value, String> {
    let load = ["bench", "zookeeper-lock", "--keys", names, "--clients", CLIENTS];
    let how = ["--warmup", "0", "--seconds", seconds, "--output", "json", "--endpoints"];
    let mut command = Command::new(with.synod);
    answer(command.args(load).args(how).arg(zookeepers()))
}

fn python(
    with: &With,
    kind: &str,
    hosts: &str,
    names: &str,
    seconds: &str,
) -> Result<serde_json::Value, String> {
    let mut command = Command::new(&with.zookeeper.python);
    answer(command.args(["-c", SCRIPT, kind, hosts, CLIENTS, names, "0", seconds]))
}

/// The last line that a program writes, which is JSON.
fn answer(command: &mut Command) -> Result<serde_json::Value, String> {
    let out = command.output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    let line = text.lines().last().and_then(|l| serde_json::from_str(l).ok());
    line.ok_or_else(|| format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr)))
}
