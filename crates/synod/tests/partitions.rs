//! Real clusters whose peers' links are cut silently, one way or both, delayed
//! and healed, under load.

mod common;

use common::load::{Load, check, put, read};
use common::net::{Net, is_timeout};
use common::{Cluster, block_on};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use synod_base::Rng;
use synod_etcd_proto::etcdserverpb as pb;

/// Far above what an election takes, and far below a time-out of the kernel's.
const GAP_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `true`.
fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    begun.elapsed()
}

/// Whether a write through this node is acknowledged within a moment.
fn writes(cluster: &Cluster, i: usize, value: u64) -> bool {
    block_on(async {
        let mut kv = cluster.kv(i);
        let done = tokio::time::timeout(Duration::from_millis(400), put(&mut kv, 99, value));
        done.await == Ok(Ok(()))
    })
}

/// Whom this node holds for the leader: its number.
fn leader_by(cluster: &Cluster, i: usize) -> Option<usize> {
    let leader = cluster.status(i)?.leader;
    (0..cluster.nodes.len())
        .find(|n| cluster.status(*n).is_some_and(|s| s.header.expect("header").member_id == leader))
}

/// How long no write went through these nodes once `fault` was there.
fn gap(cluster: &Cluster, through: &[usize], fault: impl Fn(&Net)) -> Duration {
    assert!(writes(cluster, through[0], 1));
    fault(cluster.net());
    let begun = Instant::now();
    // A forwarded write may still be acknowledged by what was on its way; the
    // gap ends when a new leader answers to everyone here.
    within(GAP_MAX, "writes go on", || through.iter().all(|i| writes(cluster, *i, 2)));
    begun.elapsed()
}

#[test]
fn a_silent_partition_of_the_leader() {
    let cluster = Cluster::with_net(3);
    let load = Load::start(&cluster, PAUSE);
    load.wait_writes(40);
    let old = cluster.leader();
    let others = [(old + 1) % 3, (old + 2) % 3];
    let gap = gap(&cluster, &others, |net| others.iter().for_each(|o| net.cut_both(old, *o)));
    println!("no writes for {} ms after the leader was cut off", gap.as_millis());
    load.wait_writes(40);
    let down = within(GAP_MAX, "the old leader stands down", || {
        cluster.status(old).is_some_and(|s| s.leader == 0)
    });
    println!("the old leader was down {} ms later", down.as_millis());
    // What it knows is old: it says so to who asks for that, and nobody else.
    assert!(writes(&cluster, others[0], 12_345));
    let fresh = block_on(async { read(&mut cluster.kv(others[1]), 99).await });
    assert_eq!(fresh, Ok(12_345));
    let ask = |serializable| {
        block_on(async {
            let key = "f/99".into();
            let get = pb::RangeRequest { key, serializable, ..Default::default() };
            let mut kv = cluster.kv(old);
            let answer = tokio::time::timeout(Duration::from_secs(2), kv.range(get)).await;
            answer.ok().and_then(Result::ok).map(|a| a.into_inner().kvs[0].value.clone())
        })
    };
    let stale = ask(true).expect("a serializable read needs nobody");
    assert_ne!(stale, "12345", "the partition has a hole");
    assert_eq!(ask(false), None, "a linearizable read without a quorum");
    cluster.net().heal();
    within(GAP_MAX, "the old leader follows", || writes(&cluster, old, 3));
    assert_eq!(leader_by(&cluster, old), leader_by(&cluster, others[0]));
    load.wait_writes(40);
    let history = load.finish();
    check(&cluster, history);
}

#[test]
fn a_leader_that_sends_but_does_not_hear() {
    asymmetric(|net, leader, other| net.cut(other, leader));
}

#[test]
fn a_leader_that_hears_but_cannot_send() {
    asymmetric(|net, leader, other| net.cut(leader, other));
}

fn asymmetric(cut: impl Fn(&Net, usize, usize)) {
    let cluster = Cluster::with_net(3);
    let load = Load::start(&cluster, PAUSE);
    load.wait_writes(40);
    let old = cluster.leader();
    let others = [(old + 1) % 3, (old + 2) % 3];
    let gap = gap(&cluster, &others, |net| others.iter().for_each(|o| cut(net, old, *o)));
    println!("no writes for {} ms", gap.as_millis());
    let new = within(GAP_MAX, "another leads", || {
        leader_by(&cluster, others[0]).is_some_and(|l| l != old)
    });
    println!("another leads {} ms later", new.as_millis());
    within(GAP_MAX, "the old leader stands down", || {
        cluster.status(old).is_some_and(|s| s.leader != s.header.expect("header").member_id)
    });
    // It stays so: a node that hears half does not unseat the new leader again and again.
    let term = cluster.status(others[0]).expect("status").raft_term;
    load.wait_writes(200);
    std::thread::sleep(Duration::from_millis(1_500));
    let later = cluster.status(others[0]).expect("status").raft_term;
    assert!(later <= term + 2, "terms {term} to {later} without another fault");
    cluster.net().heal();
    within(GAP_MAX, "everyone writes", || (0..3).all(|i| writes(&cluster, i, 3)));
    let history = load.finish();
    check(&cluster, history);
}

#[test]
fn two_nodes_that_do_not_hear_each_other_and_a_third_that_hears_both() {
    let cluster = Cluster::with_net(3);
    let load = Load::start(&cluster, PAUSE);
    load.wait_writes(40);
    for third in 0..3 {
        let (a, b) = ((third + 1) % 3, (third + 2) % 3);
        let before = cluster.status(third).expect("status").raft_term;
        let gap = gap(&cluster, &[third], |net| net.cut_both(a, b));
        load.wait_writes(200);
        std::thread::sleep(Duration::from_millis(1_500));
        // A leader that a majority hears stays; the one that misses it does not
        // unseat it by asking for votes.
        let status = cluster.status(third).expect("status");
        println!("no writes for {} ms; terms {before} to {}", gap.as_millis(), status.raft_term);
        assert!(status.leader != 0, "no leader: {status:?}");
        assert!(status.raft_term <= before + 2, "from term {before} to {}", status.raft_term);
        cluster.net().heal();
        within(GAP_MAX, "everyone writes", || (0..3).all(|i| writes(&cluster, i, 3)));
    }
    let history = load.finish();
    check(&cluster, history);
}

#[test]
fn random_cuts_and_delays() {
    for seed in 1..=3 {
        random(seed);
    }
}

fn random(seed: u64) {
    let mut rng = Rng::new(seed);
    let cluster = Cluster::with_net(3);
    let load = Load::start(&cluster, PAUSE);
    load.wait_writes(40);
    for _ in 0..12 {
        for _ in 0..rng.between(1, 3) {
            let from = rng.below(3) as usize;
            let to = (from + rng.between(1, 2) as usize) % 3;
            match rng.below(4) {
                0 => cluster.net().delay(from, to, Duration::from_millis(rng.between(1, 120))),
                1 => cluster.net().cut_both(from, to),
                _ => cluster.net().cut(from, to),
            }
        }
        std::thread::sleep(Duration::from_millis(rng.between(50, 900)));
        if rng.one_in(2) {
            cluster.net().heal();
            std::thread::sleep(Duration::from_millis(rng.between(0, 400)));
        }
    }
    cluster.net().heal();
    let after = within(GAP_MAX, "everyone writes", || (0..3).all(|i| writes(&cluster, i, 3)));
    println!("seed {seed}: everyone writes {} ms after the last fault", after.as_millis());
    load.wait_writes(40);
    let history = load.finish();
    check(&cluster, history);
}

/// A proxy between two ends that are not Synod: what a cut swallows does not
/// arrive, what a delay holds arrives late, and after healing a new connection
/// carries again.
#[test]
fn the_network_cuts_delays_and_heals() {
    let echo = TcpListener::bind("127.0.0.1:0").expect("a port");
    let net = Net::before(&[echo.local_addr().expect("bound").port()]);
    net.learn(7, 1);
    net.learn(8, 0);
    std::thread::spawn(move || {
        for mut stream in echo.incoming().flatten() {
            std::thread::spawn(move || {
                let mut copy = stream.try_clone().expect("a socket");
                let _ = std::io::copy(&mut stream, &mut copy);
            });
        }
    });
    let dial = || {
        let mut stream = TcpStream::connect(("127.0.0.1", net.ports[0])).expect("the proxy");
        let json = br#"{"from":7}"#;
        stream.write_all(b"MAGIC...").expect("magic");
        stream.write_all(&(json.len() as u32).to_le_bytes()).expect("length");
        stream.write_all(json).expect("opening");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out");
        stream
    };
    let mut answer = [0u8; 22];
    let mut stream = dial();
    stream.read_exact(&mut answer).expect("the opening comes back");
    net.delay(1, 0, Duration::from_millis(100));
    let begun = Instant::now();
    stream.write_all(b"late").expect("write");
    stream.read_exact(&mut answer[..4]).expect("late");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    net.cut(1, 0);
    stream.write_all(b"lost").expect("a cut does not refuse");
    assert!(is_timeout(&stream.read(&mut answer).expect_err("nothing comes back")));
    let mut second = dial();
    assert!(is_timeout(&second.read(&mut answer).expect_err("nor on a new connection")));
    net.heal();
    assert_eq!(stream.read(&mut answer).expect("closed"), 0, "it lost bytes");
    dial().read_exact(&mut answer).expect("healed");
    // The other direction: what goes there arrives, what comes back does not.
    net.cut(0, 1);
    assert!(is_timeout(&dial().read(&mut answer).expect_err("cut on the way back")));
}
