//! Clients that load a cluster and remember what they saw, and the checks of it.

use super::{Cluster, block_on};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use synod_sim::check::linear::{Kind, Op, is_linearizable};
use tonic::transport::Channel;

const KEYS: u64 = 8;

/// Clients that write and read a few keys, and remember what they saw.
pub struct Load {
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<BTreeMap<u64, Vec<Op>>>>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(cluster: &Cluster, pause: Duration) -> Load {
        let load = Load {
            stop: Arc::default(),
            history: Arc::default(),
            acknowledged: Arc::default(),
            threads: Vec::new(),
        };
        let (clock, value) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(1)));
        let mut threads = Vec::new();
        for i in 0..cluster.nodes.len() * 2 {
            let url = format!("http://{}", cluster.endpoint(i % cluster.nodes.len()));
            let (stop, history) = (load.stop.clone(), load.history.clone());
            let (clock, value) = (clock.clone(), value.clone());
            let acknowledged = load.acknowledged.clone();
            threads.push(std::thread::spawn(move || {
                block_on(async move {
                    let channel = Channel::from_shared(url)
                        .expect("a URL")
                        .connect_timeout(Duration::from_millis(300))
                        .timeout(Duration::from_secs(3))
                        .connect_lazy();
                    let mut kv = KvClient::new(channel);
                    let mut n = i as u64;
                    while !stop.load(Ordering::Relaxed) {
                        n += 1;
                        let key = n % KEYS;
                        let written = value.fetch_add(1, Ordering::Relaxed);
                        let start = clock.fetch_add(1, Ordering::SeqCst);
                        let kind = if n.is_multiple_of(3) {
                            read(&mut kv, key).await.map(Kind::Read)
                        } else {
                            let put = put(&mut kv, key, written).await;
                            Ok(Kind::Write(written)).filter_ok(put)
                        };
                        let end = clock.fetch_add(1, Ordering::SeqCst);
                        let op = match kind {
                            Ok(kind) => {
                                if matches!(kind, Kind::Write(_)) {
                                    acknowledged.fetch_add(1, Ordering::Relaxed);
                                }
                                Some(Op { start, end: Some(end), kind })
                            }
                            Err(wrote) => {
                                tokio::time::sleep(Duration::from_millis(20)).await;
                                let kind = Kind::Write(written);
                                wrote.then_some(Op { start, end: None, kind })
                            }
                        };
                        if let Some(op) = op {
                            history.lock().expect("lock").entry(key).or_default().push(op);
                        }
                        tokio::time::sleep(pause).await;
                    }
                });
            }));
        }
        Load { threads, ..load }
    }

    /// Ends the load; gives each key's history.
    pub fn finish(self) -> BTreeMap<u64, Vec<Op>> {
        self.stop.store(true, Ordering::Relaxed);
        for t in self.threads {
            t.join().expect("a client");
        }
        std::mem::take(&mut *self.history.lock().expect("lock"))
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes were acknowledged.
    pub fn wait_writes(&self, count: u64) {
        let (from, begun) = (self.acknowledged(), Instant::now());
        while self.acknowledged() < from + count {
            assert!(begun.elapsed() < Duration::from_secs(60), "writes do not go on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

trait FilterOk {
    fn filter_ok(self, done: Result<(), ()>) -> Result<Kind, bool>;
}

impl FilterOk for Result<Kind, bool> {
    /// A write that failed may still take effect.
    fn filter_ok(self, done: Result<(), ()>) -> Result<Kind, bool> {
        done.map_err(|()| true).and(self)
    }
}

pub async fn put(kv: &mut KvClient<Channel>, key: u64, value: u64) -> Result<(), ()> {
    let put = pb::PutRequest {
        key: format!("f/{key}").into(),
        value: value.to_string().into(),
        ..Default::default()
    };
    kv.put(put).await.map(drop).map_err(drop)
}

pub async fn read(kv: &mut KvClient<Channel>, key: u64) -> Result<u64, bool> {
    let get = pb::RangeRequest { key: format!("f/{key}").into(), ..Default::default() };
    let answer = kv.range(get).await.map_err(|_| false)?.into_inner();
    let value = answer.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
    Ok(value.map_or(0, |v| v.parse().expect("a number")))
}

/// Adds a last read of each key through each node, checks every history, and
/// that all nodes hold the same.
pub fn check(cluster: &Cluster, mut history: BTreeMap<u64, Vec<Op>>) {
    cluster.wait_ready();
    let writes: usize = history.values().map(Vec::len).sum();
    assert!(writes > 50, "too little happened: {writes}");
    let late = u64::MAX / 2;
    for (i, _) in cluster.nodes.iter().enumerate() {
        for key in 0..KEYS {
            let value = block_on(async { read(&mut cluster.kv(i), key).await });
            let at = late + (i as u64) * 2;
            let value = value.expect("a read after the faults");
            let op = Op { start: at, end: Some(at + 1), kind: Kind::Read(value) };
            history.entry(key).or_default().push(op);
        }
    }
    for (key, ops) in &history {
        if let Some(dir) = std::env::var_os("SYNOD_HISTORIES") {
            let path = std::path::Path::new(&dir).join(format!("{}-{key}.txt", std::process::id()));
            std::fs::write(path, format!("{ops:#?}")).expect("write the history");
        }
        assert!(is_linearizable(ops), "key {key} is not linearizable: {ops:?}");
    }
    let mut hashes = Vec::new();
    let revision = block_on(async { status(cluster, 0).await });
    for i in 0..cluster.nodes.len() {
        hashes.push(hash(cluster, i, revision));
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "the nodes differ at revision {revision}: {hashes:?}");
}

async fn status(cluster: &Cluster, i: usize) -> i64 {
    let mut client = MaintenanceClient::new(cluster.channel(i));
    let status = client.status(pb::StatusRequest {}).await.expect("status").into_inner();
    status.header.expect("header").revision
}

pub fn hash(cluster: &Cluster, i: usize, revision: i64) -> u32 {
    let begun = Instant::now();
    loop {
        let answer = block_on(async {
            let mut client = MaintenanceClient::new(cluster.channel(i));
            client.hash_kv(pb::HashKvRequest { revision }).await
        });
        match answer {
            Ok(answer) => return answer.into_inner().hash,
            // It may not have applied so far yet.
            Err(e) => assert!(begun.elapsed() < Duration::from_secs(10), "{e}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
