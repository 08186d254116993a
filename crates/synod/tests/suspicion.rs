//! Silences: which node suspects which, by the rhythm of its heartbeats, and which
//! instances' agents are taken to be silent.

mod common;

use common::{Cluster, output};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn synod(at: &str, args: &[&str]) -> (bool, String, String) {
    let all = [args, &["--endpoints", at]].concat();
    output(Path::new(env!("CARGO_BIN_EXE_synod")), &all)
}

/// Waits until `true`; for how long.
fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

fn get(at: &str, path: &str) -> String {
    let url = format!("http://{at}{path}");
    let (_, page, _) = output(Path::new("curl"), &["-s", "--max-time", "5", &url]);
    page
}

/// What a node says of another by this number of its metrics page.
fn told(cluster: &Cluster, by: usize, of: usize, name: &str) -> f64 {
    let member = cluster.status(of).map_or(0, |s| s.header.expect("a header").member_id);
    let page = get(&cluster.endpoint(by), "/metrics");
    let begins = format!("{name}{{peer=\"{member:x}\"");
    let line = page.lines().find(|l| l.starts_with(&begins));
    let value = line.and_then(|l| l.rsplit(' ').next());
    value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no {begins} on {page}"))
}

fn suspects(cluster: &Cluster, by: usize, of: usize) -> bool {
    told(cluster, by, of, "synod_peer_suspected") == 1.0
}

const PAIRS: [(usize, usize); 6] = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];

#[test]
fn nodes_that_do_not_hear_each_other_suspect_each_other() {
    let cluster = Cluster::with_net(3);
    let limit = Duration::from_secs(20);
    within(limit, "all hear all", || PAIRS.iter().all(|(by, of)| !suspects(&cluster, *by, *of)));
    // A rhythm is learnt.
    std::thread::sleep(Duration::from_secs(3));
    cluster.net().cut_both(0, 1);
    let both = || suspects(&cluster, 0, 1) && suspects(&cluster, 1, 0);
    let after = within(limit, "they suspect each other", both);
    println!("suspected {after:?} after the cut");
    assert!(told(&cluster, 0, 1, "synod_peer_phi") >= 8.0);
    for (by, of) in [(2, 0), (2, 1), (0, 2), (1, 2)] {
        assert!(!suspects(&cluster, by, of), "{by} suspects {of}, whom it hears");
    }
    let at = cluster.endpoint(0);
    let (ok, status, _) = synod(&at, &["status"]);
    assert!(ok && status.contains(" suspects "), "{status}");
    let (_, json, _) = synod(&at, &["status", "--output", "json"]);
    assert!(json.contains("\"suspected\":true") && json.contains("\"usual_ms\""), "{json}");
    let events = get(&at, "/synod/events");
    let why =
        events.lines().find(|l| l.contains(" suspects ")).unwrap_or_else(|| panic!("{events}"));
    assert!(why.contains("silent for") && why.contains("phi"), "{why}");

    cluster.net().heal();
    within(limit, "they hear each other", || {
        PAIRS.iter().all(|(by, of)| !suspects(&cluster, *by, *of))
    });
    let events = get(&at, "/synod/events");
    assert!(events.contains(" again after "), "{events}");
    let (_, status, _) = synod(&at, &["status"]);
    assert!(!status.contains(" suspects "), "{status}");
}

#[test]
fn a_node_that_was_paused_suspects_nobody_for_it() {
    let cluster = Cluster::start(3);
    let paused = (cluster.leader() + 1) % 3;
    let other = (paused + 1) % 3;
    let third = (paused + 2) % 3;
    let limit = Duration::from_secs(20);
    within(limit, "all hear all", || PAIRS.iter().all(|(by, of)| !suspects(&cluster, *by, *of)));
    std::thread::sleep(Duration::from_secs(3));
    let member = cluster.status(paused).expect("it answers").header.expect("one").member_id;
    let wrong = |of| told(&cluster, paused, of, "synod_peer_suspicions_total");
    let before = (wrong(other), wrong(third));
    cluster.signal(paused, "-STOP");
    within(limit, "it is suspected", || {
        let page = get(&cluster.endpoint(other), "/metrics");
        let line = format!("synod_peer_suspected{{peer=\"{member:x}\"");
        page.lines().any(|l| l.starts_with(&line) && l.ends_with(" 1"))
    });
    std::thread::sleep(Duration::from_secs(1));
    cluster.signal(paused, "-CONT");
    within(limit, "it is heard again", || !suspects(&cluster, other, paused));
    assert_eq!((wrong(other), wrong(third)), before, "its own pause was held against others");
}

/// An agent, with a session that is much longer than its heartbeats' rhythm.
struct Agent(Child);

impl Agent {
    fn start(at: &str, instance: &str, mode: &str) -> Agent {
        let args = ["service", "register", "web", "--instance", instance, "--mode", mode];
        let child = Command::new(env!("CARGO_BIN_EXE_synod"))
            .args(args)
            .args(["--ttl", "30", "--endpoints", at])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Agent(child.expect("it starts"))
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.0.id().to_string()]).status();
        assert!(sent.is_ok_and(|s| s.success()));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Active, healthy and registered instances.
fn counts(at: &str) -> (u64, u64, u64) {
    let (_, json, told) = synod(at, &["service", "health", "web", "--output", "json"]);
    let line = json.lines().last().unwrap_or_default();
    let value: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{json} {told}: {e}"));
    let count = |name: &str| value[name].as_u64().expect("a number");
    (count("active"), count("healthy"), count("instances"))
}

/// Of instances that are all active, one whose agent is silent is taken out long before
/// its session ends, and is back when it is heard.
#[test]
fn a_silent_instance_is_taken_out_and_comes_back() {
    let cluster = Cluster::start(3);
    let at = cluster.endpoints();
    let agents: Vec<Agent> =
        ["a", "b", "c"].iter().map(|i| Agent::start(&at, i, "active/active")).collect();
    let limit = Duration::from_secs(20);
    within(limit, "all are active", || counts(&at) == (3, 3, 3));
    std::thread::sleep(Duration::from_secs(3));
    agents[1].signal("-STOP");
    let after = within(Duration::from_secs(10), "it is taken out", || counts(&at) == (2, 2, 3));
    println!("taken out {after:?} after its agent stood still; its session lives 30 s");
    let (_, list, _) = synod(&at, &["service", "list", "web"]);
    let line = list.lines().find(|l| l.contains(" b ")).unwrap_or_else(|| panic!("{list}"));
    assert!(line.contains("passive") && line.contains("silent: its agent"), "{line}");
    let (ok, _, why) = synod(&at, &["service", "failover", "web"]);
    assert!(!ok && why.contains("active/active"), "{why}");
    agents[1].signal("-CONT");
    within(limit, "it is back", || counts(&at) == (3, 3, 3));
    // A new leader judges the same, and what the old one said is taken back.
    agents[2].signal("-STOP");
    within(Duration::from_secs(10), "it is taken out", || counts(&at) == (2, 2, 3));
    let mut cluster = cluster;
    let leader = cluster.leader();
    cluster.kill(leader);
    agents[2].signal("-CONT");
    within(limit, "it is back under a new leader", || counts(&at) == (3, 3, 3));
}

/// A silent agent of the active one of active/passive keeps its office until its session
/// ends; a silent passive one is not chosen by an operator.
#[test]
fn a_silence_takes_no_office_away() {
    let cluster = Cluster::start(3);
    let at = cluster.endpoints();
    let limit = Duration::from_secs(20);
    let first = Agent::start(&at, "a", "active/passive");
    within(limit, "it is active", || counts(&at) == (1, 1, 1));
    let second = Agent::start(&at, "b", "active/passive");
    within(limit, "both are healthy", || counts(&at) == (1, 2, 2));
    std::thread::sleep(Duration::from_secs(3));
    second.signal("-STOP");
    within(limit, "the passive one is silent", || counts(&at) == (1, 1, 2));
    let (ok, _, why) = synod(&at, &["service", "failover", "web", "--to", "b"]);
    assert!(!ok && why.contains("no healthy instance b"), "{why}");
    second.signal("-CONT");
    within(limit, "it is heard", || counts(&at) == (1, 2, 2));
    first.signal("-STOP");
    within(limit, "the active one is silent", || counts(&at) == (1, 1, 2));
    let (_, list, _) = synod(&at, &["service", "list", "web"]);
    let active: Vec<&str> = list.lines().filter(|l| l.contains(" active ")).collect();
    let [line] = active[..] else { panic!("{list}") };
    assert!(line.contains(" a ") && line.contains("silent: "), "{line}");
    first.signal("-CONT");
    within(limit, "it is heard", || counts(&at) == (1, 2, 2));
}
