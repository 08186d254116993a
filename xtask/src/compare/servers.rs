//! Clusters of either side on loopback, and what can be seen of them from outside.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const PORTS: [u16; 3] = [2379, 22379, 32379];

/// The first `nodes` client addresses.
pub fn endpoints(nodes: usize) -> String {
    PORTS[..nodes].iter().map(|p| format!("127.0.0.1:{p}")).collect::<Vec<_>>().join(",")
}

/// A server program.
#[derive(Clone)]
pub enum Side {
    /// Ours, running this protocol.
    Synod(PathBuf, &'static str),
    /// etcd's.
    Etcd(PathBuf),
    /// A tonic server that does nothing.
    Nothing(PathBuf),
}

/// Server processes; ended when dropped.
pub struct Servers {
    side: Side,
    nodes: usize,
    children: Vec<Child>,
    dir: PathBuf,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.kill_all();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Servers {
    fn launch(&mut self) -> Result<(), String> {
        for i in 0..self.nodes {
            let (program, args) = self.side.command(&self.dir, i, self.nodes);
            let log = self.dir.join(format!("log{i}"));
            self.children.push(spawn(program, &args, &log)?);
        }
        ready(self.nodes)
    }

    /// CPU seconds of all of them so far.
    pub fn cpu(&self) -> f64 {
        self.children.iter().map(|c| cpu_of(c.id())).sum()
    }

    /// Anonymous memory and memory with mapped files of all of them, in MiB.
    pub fn memory_mib(&self) -> (f64, f64) {
        let of = |name: &str| -> f64 {
            let kib = self.children.iter().map(|c| status_kib(c.id(), name)).sum::<f64>();
            kib / 1024.0
        };
        (of("RssAnon:"), of("VmRSS:"))
    }

    /// `kill -9` for all, as a loss of power would.
    pub fn kill_all(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts those again that were killed; the time until all take writes.
    pub fn start_again(&mut self) -> Result<Duration, String> {
        let begun = Instant::now();
        self.launch()?;
        Ok(begun.elapsed())
    }

    /// `kill -9` for the leader.
    pub fn kill_leader(&mut self) -> Result<(), String> {
        let leads = |port: &u16| page(*port).contains("\netcd_server_is_leader 1");
        let leader = PORTS[..self.nodes].iter().position(leads).ok_or("nobody leads")?;
        let child = &mut self.children[leader];
        child.kill().and_then(|()| child.wait()).map(drop).map_err(|e| e.to_string())
    }
}

/// The metrics of the server at a client port.
fn page(port: u16) -> String {
    let mut text = String::new();
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return text };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.read_to_string(&mut text);
    text
}

pub(super) fn status_kib(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
}

pub(super) fn cpu_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |s| s.1).split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // Clock ticks are hundredths of a second on Linux.
    (ticks(11) + ticks(12)) / 100.0
}

pub(super) fn spawn(program: &Path, args: &[String], log: &Path) -> Result<Child, String> {
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

pub(super) fn fresh_dir(root: &Path, name: &str) -> Result<PathBuf, String> {
    let dir = root.join("target/compare").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    Ok(dir)
}

/// Both take etcd's names for these flags.
fn flags(dir: &Path, i: usize, nodes: usize) -> Vec<String> {
    let ports = PORTS;
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

impl Side {
    /// Starts a fresh cluster and waits until every node takes writes.
    pub fn start(&self, root: &Path, nodes: usize) -> Result<Servers, String> {
        let name = match self {
            Side::Synod(..) => "synod",
            Side::Etcd(_) => "etcd",
            Side::Nothing(_) => "nothing",
        };
        let dir = fresh_dir(root, name)?;
        let mut servers = Servers { side: self.clone(), nodes, children: Vec::new(), dir };
        servers.launch()?;
        Ok(servers)
    }

    fn command(&self, dir: &Path, i: usize, nodes: usize) -> (&Path, Vec<String>) {
        let flags = flags(dir, i, nodes);
        match self {
            Side::Synod(program, protocol) => {
                let own = ["server", "--listen-http-urls=", "--protocol", protocol];
                (program, own.map(str::to_owned).into_iter().chain(flags).collect())
            }
            Side::Nothing(program) => {
                let listen = format!("127.0.0.1:{}", PORTS[i]);
                (program, ["bench", "nothing", "--listen", &listen].map(str::to_owned).to_vec())
            }
            Side::Etcd(program) => {
                let own = ["--log-level=error", "--quota-backend-bytes=8589934592"];
                (program, flags.into_iter().chain(own.map(str::to_owned)).collect())
            }
        }
    }
}

/// Until a write through every node succeeds.
fn ready(nodes: usize) -> Result<(), String> {
    let begun = Instant::now();
    let synod = crate::root().join("target/release/synod");
    for port in &PORTS[..nodes] {
        let endpoint = format!("127.0.0.1:{port}");
        loop {
            let out = Command::new(&synod)
                .args(["bench", "put", "--clients", "1", "--connections", "1", "--requests", "1"])
                .args(["--warmup", "0", "--seconds", "2", "--endpoints", &endpoint])
                .output()
                .map_err(|e| e.to_string())?;
            if out.status.success() {
                break;
            }
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(format!("the server at {endpoint} is not ready after a minute"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}
