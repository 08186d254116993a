//! Faults with real processes under load: every acknowledged write is there
//! afterwards, on every node, and what clients saw is linearizable.

mod common;

use common::load::{Load, check};
use common::{Cluster, block_on, flip_bits};
use std::time::{Duration, Instant};
use synod_etcd_proto::etcdserverpb as pb;

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
fn paused_followers_catch_up_when_they_wake() {
    let cluster = Cluster::start(3);
    let load = Load::start(&cluster, Duration::from_millis(4));
    load.wait_writes(40);
    // One at a time: the other two are a quorum, and the leader stays.
    for round in 1..=2 {
        let follower = (cluster.leader() + round) % 3;
        cluster.signal(follower, "-STOP");
        load.wait_writes(200);
        cluster.signal(follower, "-CONT");
        cluster.wait_node(follower);
    }
    // Both: nothing is acknowledged without them.
    let leader = cluster.leader();
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    followers.iter().for_each(|f| cluster.signal(*f, "-STOP"));
    // What they had sent before may still count.
    std::thread::sleep(Duration::from_millis(300));
    let before = load.acknowledged();
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(load.acknowledged(), before, "writes without a quorum");
    followers.iter().for_each(|f| cluster.signal(*f, "-CONT"));
    load.wait_writes(40);
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
    flip_bits(&cluster.nodes[victim].dir);
    cluster.spawn(victim);
    assert!(cluster.wait_end(victim, Duration::from_secs(20)), "it started on a damaged journal");
    let log = cluster.nodes[victim].dir.with_extension("log");
    let log = std::fs::read_to_string(log).expect("log");
    assert!(log.contains(".seg is damaged at byte") && log.contains("--rebuild"), "{log}");
    cluster.spawn_with(victim, &["--rebuild"]);
    cluster.wait_node(victim);
    wait_all_vote(&cluster);
    load.wait_writes(40);
    let history = load.finish();
    check(&cluster, history);
}

/// What a file system that a crash left damaged may do to files: a member that may have voted
/// with what is lost must not vote without it.
#[test]
fn a_lost_journal_is_named_and_rebuilt() {
    type Loss = fn(&std::path::Path);
    fn newest(dir: &std::path::Path) -> Option<std::path::PathBuf> {
        let all = std::fs::read_dir(dir.join("journal")).expect("a journal").flatten();
        all.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "seg")).max()
    }
    let losses: [(&str, Loss); 4] = [
        ("the journal is gone", |dir| {
            std::fs::remove_dir_all(dir.join("journal")).expect("removed");
        }),
        ("is damaged at byte 0", |dir| {
            std::fs::write(newest(dir).expect("a segment"), b"").expect("emptied");
        }),
        ("is gone", |dir| {
            std::fs::remove_file(newest(dir).expect("a segment")).expect("removed");
        }),
        ("no member.json", |dir| {
            std::fs::remove_file(dir.join("member.json")).expect("removed");
        }),
    ];
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, Duration::from_millis(2));
    for (word, lose) in losses {
        load.wait_writes(100);
        let victim = (cluster.leader() + 1) % 3;
        cluster.kill(victim);
        lose(&cluster.nodes[victim].dir);
        cluster.spawn(victim);
        assert!(cluster.wait_end(victim, Duration::from_secs(20)), "it started: {word}");
        let log = cluster.log(victim);
        assert!(log.contains(word) && log.contains("--rebuild"), "{word}: {log}");
        cluster.spawn_with(victim, &["--rebuild"]);
        cluster.wait_node(victim);
        wait_all_vote(&cluster);
    }
    let history = load.finish();
    check(&cluster, history);
}

#[test]
fn whole_data_are_not_set_aside_and_a_lost_majority_makes_no_new_cluster() {
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, Duration::from_millis(2));
    load.wait_writes(200);
    drop(load.finish());
    for node in 0..3 {
        cluster.kill(node);
    }
    let aside = |cluster: &Cluster, node: usize| cluster.nodes[node].dir.join("damaged-1").exists();
    flip_bits(&cluster.nodes[0].dir);
    flip_bits(&cluster.nodes[1].dir);
    cluster.spawn_with(0, &["--rebuild"]);
    cluster.spawn_with(1, &["--rebuild"]);
    let waits = |cluster: &Cluster, node| {
        let begun = std::time::Instant::now();
        while !cluster.log(node).contains("restore a snapshot") {
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", cluster.log(node));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    // They are two of three, and still know that there was a cluster.
    for node in [0, 1] {
        waits(&cluster, node);
        assert!(aside(&cluster, node) && cluster.status(node).is_none());
    }
    // Nor do they forget it by a start without the flag.
    cluster.kill(0);
    cluster.spawn(0);
    std::thread::sleep(Duration::from_secs(2));
    assert!(cluster.status(0).is_none() && cluster.status(1).is_none());
    // The third has the data, and nobody to agree with. It is whole, whatever it is told.
    cluster.spawn_with(2, &["--rebuild"]);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!aside(&cluster, 2));
    assert!(cluster.log(2).contains("the data are whole"), "{}", cluster.log(2));
    assert_eq!(cluster.status(2).map_or(0, |s| s.leader), 0);
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
