//! Faults with real processes under load: every acknowledged write is there
//! afterwards, on every node, and what clients saw is linearizable.

mod common;

use common::linear::{Kind, Op, is_linearizable};
use common::{Cluster, block_on};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::Channel;

const KEYS: u64 = 8;

/// Clients that write and read a few keys, and remember what they saw.
struct Load {
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<BTreeMap<u64, Vec<Op>>>>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(cluster: &Cluster, pause: Duration) -> Load {
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
    fn finish(self) -> BTreeMap<u64, Vec<Op>> {
        self.stop.store(true, Ordering::Relaxed);
        for t in self.threads {
            t.join().expect("a client");
        }
        std::mem::take(&mut *self.history.lock().expect("lock"))
    }

    /// Waits until so many more writes were acknowledged.
    fn wait_writes(&self, count: u64) {
        let (from, begun) = (self.acknowledged.load(Ordering::Relaxed), Instant::now());
        while self.acknowledged.load(Ordering::Relaxed) < from + count {
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

async fn put(kv: &mut KvClient<Channel>, key: u64, value: u64) -> Result<(), ()> {
    let put = pb::PutRequest {
        key: format!("f/{key}").into(),
        value: value.to_string().into(),
        ..Default::default()
    };
    kv.put(put).await.map(drop).map_err(drop)
}

async fn read(kv: &mut KvClient<Channel>, key: u64) -> Result<u64, bool> {
    let get = pb::RangeRequest { key: format!("f/{key}").into(), ..Default::default() };
    let answer = kv.range(get).await.map_err(|_| false)?.into_inner();
    let value = answer.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
    Ok(value.map_or(0, |v| v.parse().expect("a number")))
}

/// Adds a last read of each key through each node, checks every history, and
/// that all nodes hold the same.
fn check(cluster: &Cluster, mut history: BTreeMap<u64, Vec<Op>>) {
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

fn hash(cluster: &Cluster, i: usize, revision: i64) -> u32 {
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

/// A member that came back without its data takes its old place once it is in
/// sync: three members, none a learner.
fn wait_all_vote(cluster: &Cluster) {
    let begun = Instant::now();
    loop {
        let members = block_on(async {
            let mut client = pb::cluster_client::ClusterClient::new(cluster.channel(0));
            let list = client.member_list(pb::MemberListRequest::default()).await;
            list.map(|l| l.into_inner().members).unwrap_or_default()
        });
        if members.len() == 3 && members.iter().all(|m| !m.is_learner) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{members:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn kill_minus_nine_in_a_loop() {
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, Duration::from_millis(4));
    for round in 0..6 {
        load.wait_writes(40);
        let leader = cluster.leader();
        let victim = if round % 2 == 0 { leader } else { (leader + 1) % 3 };
        cluster.kill(victim);
        load.wait_writes(40);
        cluster.spawn(victim);
        cluster.wait_node(victim);
    }
    let history = load.finish();
    check(&cluster, history);
}

#[test]
fn all_killed_at_once_and_started_again() {
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, Duration::from_millis(4));
    for _ in 0..2 {
        load.wait_writes(60);
        (0..3).for_each(|i| cluster.kill(i));
        (0..3).for_each(|i| cluster.spawn(i));
        cluster.wait_ready();
    }
    load.wait_writes(30);
    let history = load.finish();
    check(&cluster, history);
}

#[test]
fn a_paused_leader_wakes_up_to_another() {
    let cluster = Cluster::start(3);
    let load = Load::start(&cluster, Duration::from_millis(4));
    for _ in 0..2 {
        load.wait_writes(40);
        let leader = cluster.leader();
        cluster.signal(leader, "-STOP");
        std::thread::sleep(Duration::from_millis(1_500));
        cluster.signal(leader, "-CONT");
        load.wait_writes(40);
    }
    let history = load.finish();
    check(&cluster, history);
}

#[test]
fn a_wiped_follower_comes_back_as_a_new_member() {
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, Duration::from_millis(4));
    load.wait_writes(40);
    let victim = (cluster.leader() + 1) % 3;
    cluster.kill(victim);
    std::fs::remove_dir_all(&cluster.nodes[victim].dir).expect("wipe");
    load.wait_writes(40);
    cluster.spawn(victim);
    cluster.wait_node(victim);
    wait_all_vote(&cluster);
    load.wait_writes(40);
    let history = load.finish();
    check(&cluster, history);
}

#[test]
fn a_journal_with_a_flipped_bit_is_named_and_rebuilt() {
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, Duration::from_millis(2));
    load.wait_writes(200);
    let victim = (cluster.leader() + 1) % 3;
    cluster.kill(victim);
    let journal = cluster.nodes[victim].dir.join("journal");
    let mut segments: Vec<_> = std::fs::read_dir(&journal)
        .expect("journal")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).expect("segment");
    bytes[4_000] ^= 0x10;
    std::fs::write(&segments[0], &bytes).expect("damage");
    cluster.spawn(victim);
    assert!(cluster.wait_end(victim, Duration::from_secs(20)), "it started on a damaged journal");
    let log = cluster.nodes[victim].dir.with_extension("log");
    let log = std::fs::read_to_string(log).expect("log");
    assert!(log.contains(".seg is damaged at byte") && log.contains("--rebuild"), "{log}");
    cluster.spawn_with(victim, &["--rebuild", "true"]);
    cluster.wait_node(victim);
    wait_all_vote(&cluster);
    load.wait_writes(40);
    let history = load.finish();
    check(&cluster, history);
}

/// A node's directory on a small file system of its own.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(dir: &std::path::Path, size: &str) -> Mounted {
        std::fs::create_dir_all(dir).expect("folder");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir)
            .status()
            .expect("mount");
        assert!(mounted.success(), "this test mounts a tmpfs, which needs root");
        Mounted(dir.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_a_node_and_loses_nothing() {
    let mut cluster = Cluster::with_settings(3, &["--segment-bytes", "8388608"]);
    let load = Load::start(&cluster, Duration::from_millis(3));
    load.wait_writes(40);
    let leader = cluster.leader();
    let victim = (leader + 1) % 3;
    cluster.kill(victim);
    std::fs::remove_dir_all(&cluster.nodes[victim].dir).expect("wipe");
    let _mounted = Mounted::new(&cluster.nodes[victim].dir, "512m");
    cluster.spawn(victim);
    cluster.wait_node(victim);
    wait_all_vote(&cluster);
    // Full to the last block; then more is written than a segment holds.
    let filler = cluster.nodes[victim].dir.join("filler");
    let mut file = std::fs::File::create(&filler).expect("filler");
    while std::io::Write::write_all(&mut file, &[7u8; 1 << 16]).is_ok() {}
    drop(file);
    block_on(async {
        let mut kv = cluster.kv(leader);
        for i in 0..400 {
            let put = pb::PutRequest {
                key: format!("big/{}", i % 10).into(),
                value: vec![b'x'; 100 << 10].into(),
                ..Default::default()
            };
            // The leader may change on the way; the load says whether writes go on.
            let _ = kv.put(put).await;
        }
    });
    assert!(cluster.wait_end(victim, Duration::from_secs(20)), "it went on without space");
    assert!(cluster.log(victim).contains("No space left"), "{}", cluster.log(victim));
    load.wait_writes(40);
    std::fs::remove_file(&filler).expect("free the disk");
    cluster.spawn(victim);
    cluster.wait_node(victim);
    load.wait_writes(40);
    let history = load.finish();
    check(&cluster, history);
    // Before the file system goes.
    cluster.kill(victim);
}
