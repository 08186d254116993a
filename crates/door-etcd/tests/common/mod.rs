//! Members with their doors, in this process, on free ports.

#![allow(dead_code)] // each test uses a part

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use synod_cell::CellLimits;
use synod_door_etcd::{Door, DoorConfig, Serving};
use synod_host::{ClusterState, Config, Handle};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

/// A port that nobody had a moment ago, below those that the kernel gives to
/// outgoing connections.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id().wrapping_mul(101);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_240 + (own.wrapping_add(step) % 22_000) as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("its address");
        }
    }
}

/// What a member is started with; starting it again takes up its data.
pub struct Plan {
    pub dir: TempDir,
    pub name: String,
    pub peer: SocketAddr,
    pub first: Vec<(String, String)>,
    pub state: ClusterState,
    pub cell: CellLimits,
}

impl Plan {
    /// The only member of a new cluster.
    pub fn alone() -> Plan {
        Plan::new("n1", free(), Vec::new(), ClusterState::New)
    }

    pub fn new(
        name: &str,
        peer: SocketAddr,
        mut first: Vec<(String, String)>,
        state: ClusterState,
    ) -> Plan {
        first.push((name.into(), format!("http://{peer}")));
        let dir = tempfile::tempdir().expect("a directory");
        Plan { dir, name: name.into(), peer, first, state, cell: CellLimits::default() }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.peer)
    }

    pub async fn start(&self) -> Node {
        let config = Config {
            name: self.name.clone(),
            data_dir: self.dir.path().to_owned(),
            listen_peers: vec![self.peer],
            peer_urls: vec![self.url()],
            client_urls: vec![format!("http://{}.invalid:1", self.name)],
            initial_cluster: self.first.clone(),
            cluster_state: self.state,
            token: "test".into(),
            protocol: None,
            cell: self.cell.clone(),
            lease_ttl_min: 1,
            cache_bytes: 8 << 20,
            segment_bytes: 1 << 20,
            feed_bytes: 1 << 20,
            check_ms: 0,
            rebuild: false,
        };
        let handle = synod_host::start(config).await.expect("the member starts");
        let door = Door::new(handle.clone(), DoorConfig::default());
        let any = "127.0.0.1:0".parse().expect("an address");
        let serving = synod_door_etcd::serve(door, &[any], None).await.expect("the door opens");
        Node { handle, serving }
    }
}

/// A member that runs.
pub struct Node {
    pub handle: Handle,
    serving: Serving,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.close();
        self.handle.stop();
    }
}

impl Node {
    pub fn address(&self) -> SocketAddr {
        self.serving.addresses[0]
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address()));
        endpoint.expect("an endpoint").connect().await.expect("the door answers")
    }

    /// Until it knows a leader and the cluster knows its addresses.
    pub async fn ready(&self) {
        let known = || {
            let published = self.handle.published();
            let own = published.members().get(&self.handle.id());
            self.handle.leader().is_some() && own.is_some_and(|m| !m.client_urls.is_empty())
        };
        until("a leader that knows this member", || async { known() }).await;
    }

    /// One request over HTTP/1: (status, body).
    pub async fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.send(method, path, "", body).await
    }

    /// A POST with more header lines.
    pub async fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        self.send("POST", path, headers, body).await
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address()).await.expect("the door answers");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             {headers}Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
    }
}

/// Waits until it is so.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let begun = Instant::now();
    while !is().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Three members that start together, and what they were started with.
pub async fn three() -> (Vec<Plan>, Vec<Node>) {
    let all: Vec<_> = ["n1", "n2", "n3"].into_iter().map(|name| (name, free())).collect();
    let plans: Vec<Plan> = all
        .iter()
        .map(|(name, at)| {
            let others = all.iter().filter(|(n, _)| n != name);
            let first = others.map(|(n, at)| ((*n).to_owned(), format!("http://{at}"))).collect();
            Plan::new(name, *at, first, ClusterState::New)
        })
        .collect();
    let (a, b, c) = tokio::join!(plans[0].start(), plans[1].start(), plans[2].start());
    let nodes = vec![a, b, c];
    for node in &nodes {
        node.ready().await;
    }
    (plans, nodes)
}
