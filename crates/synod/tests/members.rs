//! Members come and go: a real fourth process joins as a learner, votes, and is
//! removed, by etcdctl and by the Rust client.

mod common;

use common::load::{Load, check};
use common::{Cluster, block_on, etcdctls, output, peers};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use synod_etcd_proto::etcdserverpb as pb;

fn ctl(program: &Path, endpoints: &str, args: &[&str]) -> (bool, String) {
    let mut all = vec!["--endpoints", endpoints];
    all.extend(args);
    let (ok, out, err) = output(program, &all);
    (ok, out + &err)
}

/// Runs it again and again until it succeeds.
fn until(program: &Path, endpoints: &str, args: &[&str]) {
    let begun = Instant::now();
    loop {
        let (ok, text) = ctl(program, endpoints, args);
        if ok {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{args:?}: {text}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Reads a key of one node as it is there: (value, the answer's revision).
fn local(cluster: &Cluster, i: usize, key: &str) -> Option<(Vec<u8>, i64)> {
    block_on(async {
        let key = key.to_owned().into();
        let get = pb::RangeRequest { key, serializable: true, ..Default::default() };
        let answer = cluster.kv(i).range(get).await.ok()?.into_inner();
        Some((answer.kvs.first()?.value.to_vec(), answer.header?.revision))
    })
}

#[test]
fn a_learner_joins_is_promoted_and_removed() {
    for program in &etcdctls() {
        let mut cluster = Cluster::start(3);
        let three = cluster.endpoints();
        let load = Load::start(&cluster, Duration::from_millis(5));
        load.wait_writes(100);
        // What the newcomer has to be brought.
        let (ok, text) = ctl(program, &three, &["put", "before", "it came"]);
        assert!(ok, "{text}");
        let new = cluster.add_node();
        let url = format!("--peer-urls={}", cluster.peer_url(new));
        let name = cluster.nodes[new].name.clone();
        let (ok, added) = ctl(program, &three, &["member", "add", &name, &url, "--learner"]);
        assert!(ok, "{added}");
        let id = added.split_whitespace().nth(1).expect("an id").to_owned();
        cluster.spawn_joining(new);
        cluster.wait_node(new);
        // A learner has the data, and answers only for itself.
        let begun = Instant::now();
        while local(&cluster, new, "before").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the learner got no data");
            std::thread::sleep(Duration::from_millis(20));
        }
        let alone = cluster.endpoint(new);
        let (ok, text) = ctl(program, &alone, &["get", "before"]);
        assert!(!ok && text.contains("rpc not supported for learner"), "{text}");
        until(program, &three, &["member", "promote", &id]);
        until(program, &alone, &["put", "through", "the new one"]);
        let (ok, text) = ctl(program, &alone, &["member", "list"]);
        assert!(ok && text.lines().count() == 4 && !text.contains("true"), "{text}");
        // It counts: with one of the old ones dead, three of four go on.
        let victim = (cluster.leader() + 1) % 3;
        cluster.kill(victim);
        load.wait_writes(100);
        cluster.spawn(victim);
        cluster.wait_node(victim);
        let (ok, text) = ctl(program, &three, &["member", "remove", &id]);
        assert!(ok, "{text}");
        assert!(cluster.wait_end(new, Duration::from_secs(20)), "a removed member goes on");
        cluster.nodes.pop();
        load.wait_writes(100);
        let (ok, text) = ctl(program, &three, &["member", "list"]);
        assert!(ok && text.lines().count() == 3, "{text}");
        let history = load.finish();
        check(&cluster, history);
    }
}

#[test]
fn the_rust_client() {
    let program = peers().join("rust/debug/rust-client");
    assert!(program.exists(), "{} is missing: run `cargo xtask peers`", program.display());
    let mut cluster = Cluster::start(3);
    let three = cluster.endpoints();
    let new = cluster.add_node();
    let mut child = Command::new(program)
        .args([&three, &cluster.peer_url(new)])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut said = Vec::new();
    for line in lines {
        let line = line.expect("a line");
        if line == "added" {
            cluster.spawn_joining(new);
        }
        said.push(line);
    }
    assert!(child.wait().expect("its end").success() && said == ["added", "done"], "{said:?}");
}
