//! The commands as a person types them.

mod common;

use common::http::http;
use common::{Cluster, free_ports, output};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn synod(args: &[&str]) -> (bool, String, String) {
    output(Path::new(env!("CARGO_BIN_EXE_synod")), args)
}

/// Runs a client command against a cluster; panics if it fails.
fn run(cluster: &Cluster, args: &[&str]) -> String {
    let endpoints = cluster.endpoints();
    let mut all = args.to_vec();
    // Before `--`, behind which stands a command of its own.
    let at = all.iter().position(|a| *a == "--").unwrap_or(all.len());
    all.splice(at..at, ["--endpoints", endpoints.as_str()]);
    let (ok, out, err) = synod(&all);
    assert!(ok, "{args:?}: {out}{err}");
    out
}

#[test]
fn a_watch_goes_on_with_another_member() {
    let mut cluster = Cluster::start(3);
    let endpoints = cluster.endpoints();
    let args = ["watch", "k", "--prefix", "--events", "20", "--endpoints", &endpoints];
    let watch = Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a watch");
    let watches = || http(&cluster.endpoint(0), "GET", "/metrics", "").1;
    while !watches().contains("etcd_debugging_mvcc_watcher_total 1") {
        std::thread::sleep(Duration::from_millis(20));
    }
    let all = cluster.endpoints();
    let put = |n: usize| {
        let begun = Instant::now();
        while !synod(&["put", &format!("k{n:02}"), "v", "--endpoints", &all]).0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "no put");
        }
    };
    (0..10).for_each(put);
    // The first that it was given.
    cluster.kill(0);
    (10..20).for_each(put);
    let out = watch.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let keys: Vec<_> =
        said.lines().filter_map(|l| l.split(' ').nth(2)?.split('\t').next()).collect();
    let wanted: Vec<_> = (0..20).map(|n| format!("k{n:02}")).collect();
    assert!(out.status.success() && keys == wanted, "{said}");
}

#[test]
fn the_client() {
    let cluster = Cluster::start(3);
    assert_eq!(run(&cluster, &["put", "greeting", "hello"]).split(' ').next(), Some("revision"));
    assert_eq!(run(&cluster, &["get", "greeting"]), "hello\n");
    let json = run(&cluster, &["get", "greeting", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["key"], &json["value"]), (&"greeting".into(), &"hello".into()));
    // What is no text can still be told from what looks like it.
    let post = |body| http(&cluster.endpoint(0), "POST", "/v3/kv/put", body);
    assert_eq!(post(r#"{"key":"AWJpbg==","value":"/wA="}"#).0, 200);
    let json = run(&cluster, &["get", "\u{1}bin", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let bytes = serde_json::json!({ "base64": "/wA=" });
    assert_eq!((&json["key"], &json["value"]), (&"\u{1}bin".into(), &bytes));
    let (ok, _, err) = synod(&["get", "nothing", "--endpoints", &cluster.endpoints()]);
    assert!(!ok && err.contains("there is no key"), "{err}");
    let txn = [
        "txn",
        "--if",
        "value(greeting)=hello",
        "--then",
        "put greeting bye now",
        "--else",
        "get greeting",
    ];
    assert_eq!(run(&cluster, &txn), "then\n");
    assert_eq!(run(&cluster, &txn), "else\ngreeting\tbye now\n");
    let watched = run(&cluster, &["watch", "greeting", "--from", "2", "--events", "2"]);
    assert!(watched.contains("put greeting\thello\n") && watched.contains("bye now"), "{watched}");
    let lease = run(&cluster, &["lease", "grant", "100"]);
    let id = lease.split_whitespace().next().expect("an id").to_owned();
    run(&cluster, &["put", "leased", "x", "--lease", &id]);
    assert!(run(&cluster, &["lease", "show", &id]).contains("keys: leased"));
    run(&cluster, &["lease", "revoke", &id]);
    assert_eq!(run(&cluster, &["get", "leased", "--prefix"]), "");
    assert_eq!(run(&cluster, &["lock", "l", "--", "echo", "locked"]), "locked\n");
    assert_eq!(run(&cluster, &["elect", "e", "me", "--", "echo", "elected"]), "elected\n");
    assert_eq!(run(&cluster, &["del", "greeting"]), "1 deleted\n");
    assert_eq!(run(&cluster, &["member", "list"]).lines().count(), 3);
    let status = run(&cluster, &["status"]);
    assert!(status.contains("leader") && status.contains("follower"), "{status}");
    nobody_reads_on(&cluster);
    assert!(status.contains(" since "), "no reason for the last change of leader: {status}");
    let (ok, _, err) = synod(&["get", "x", "--endpoints", "127.0.0.1:1"]);
    assert!(!ok && err.contains("no endpoint answers"), "{err}");
}

/// `synod status | head -0`: it ends without a word.
fn nobody_reads_on(cluster: &Cluster) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(["status", "--endpoints", &cluster.endpoints()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("synod starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn snapshot_and_restore_never_rewind() {
    let mut cluster = Cluster::start(1);
    for i in 0..=20 {
        run_quiet(&cluster, &["put", &format!("k/{i}"), "v"]);
    }
    let file = cluster.folder().join("saved");
    let file = file.to_str().expect("a path").to_owned();
    run(&cluster, &["snapshot", "save", &file]);
    let (ok, out, err) = synod(&["snapshot", "status", &file]);
    assert!(ok && out.contains("revision 22"), "{out}{err}");
    // What was written after the snapshot is not in it.
    run_quiet(&cluster, &["put", "later", "v"]);
    let mut damaged = std::fs::read(&file).expect("the file");
    damaged[100] ^= 1;
    let bad = format!("{file}.bad");
    std::fs::write(&bad, damaged).expect("write");
    let (ok, _, err) = synod(&["snapshot", "status", &bad]);
    assert!(!ok && err.contains("SHA-256"), "{err}");

    cluster.kill(0);
    std::fs::remove_dir_all(&cluster.nodes[0].dir).expect("wipe");
    let dir = cluster.nodes[0].dir.to_str().expect("a path").to_owned();
    let initial = format!("n0=http://127.0.0.1:{}", cluster.nodes[0].peer);
    let restore = [
        "snapshot",
        "restore",
        &file,
        "--data-dir",
        &dir,
        "--name",
        "n0",
        "--initial-cluster",
        &initial,
    ];
    let (ok, out, err) = synod(&restore);
    assert!(ok && out.contains("at revision 1000000022"), "{out}{err}");
    let (ok, _, err) = synod(&restore);
    assert!(!ok && err.contains("already holds"), "{err}");
    cluster.spawn(0);
    cluster.wait_node(0);
    assert_eq!(run(&cluster, &["get", "k/", "--prefix", "--count"]), "21\n");
    assert_eq!(run(&cluster, &["get", "later", "--prefix"]), "");
    assert_eq!(run(&cluster, &["put", "next", "v"]), "revision 1000000023\n");
    let endpoint = cluster.endpoint(0);
    let (ok, _, err) = synod(&["watch", "k/0", "--from", "5", "--endpoints", &endpoint]);
    assert!(!ok && err.contains("compacted"), "{err}");
}

fn run_quiet(cluster: &Cluster, args: &[&str]) {
    run(cluster, args);
}

#[test]
fn the_journal_can_be_looked_at() {
    let mut cluster = Cluster::start(1);
    run(&cluster, &["put", "a", "b"]);
    cluster.kill(0);
    let dir = cluster.nodes[0].dir.to_str().expect("a path").to_owned();
    let (ok, out, err) = synod(&["journal", "verify", &dir]);
    assert!(ok && out.contains("1 segments"), "{out}{err}");
    let (ok, out, _) = synod(&["journal", "dump", &dir]);
    assert!(ok && out.contains("batch 1"), "{out}");
    let (ok, _, err) = synod(&["journal", "verify", "/nowhere"]);
    assert!(!ok && err.contains("cannot read"), "{err}");
}

#[test]
fn a_script_that_starts_etcd_starts_synod() {
    let (ok, out, _) = synod(&["etcd", "--version"]);
    assert!(ok && out.starts_with("etcd Version: 3."), "{out}");
    let (ok, _, err) = synod(&["etcd", "--cert-file=x"]);
    assert!(!ok && err.contains("TLS is not built yet"), "{err}");
    let dir = tempfile::tempdir().expect("a folder");
    let ports = free_ports(2);
    let (client, peer) = (ports[0], ports[1]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(["etcd", "--name", "one", "-max-wals=3"])
        .arg("--data-dir")
        .arg(dir.path().join("one"))
        .env("ETCD_LISTEN_CLIENT_URLS", format!("http://127.0.0.1:{client}"))
        .env("ETCD_ADVERTISE_CLIENT_URLS", format!("http://127.0.0.1:{client}"))
        .args([format!("--listen-peer-urls=http://127.0.0.1:{peer}")])
        .args([format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}")])
        .args([format!("--initial-cluster=one=http://127.0.0.1:{peer}")])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().expect("log")));
    let begun = Instant::now();
    let mut noted = false;
    loop {
        let line = lines.next().expect("a line").expect("text");
        noted |= line.contains("a flag has no effect here flag=\"max-wals\"");
        if line.contains("ready to serve client requests") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    assert!(noted);
    let (ok, out, err) = synod(&["put", "a", "b", "--endpoints", &format!("127.0.0.1:{client}")]);
    assert!(ok, "{out}{err}");
    child.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn errors_say_what_to_do() {
    // Either this binds the port or somebody else has it.
    let _taken = std::net::TcpListener::bind("127.0.0.1:2379");
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().to_str().expect("a path");
    let (ok, _, err) = synod(&["up", "--data-dir", dir]);
    assert!(!ok && err.contains("port 2379") && err.contains("is not free"), "{err}");
    let (ok, _, err) = synod(&["server", "--election-ms", "10"]);
    assert!(!ok && err.contains("three times heartbeat-ms"), "{err}");
    let (ok, _, err) = synod(&["server", "--protocol", "viewstamped", "--data-dir", dir]);
    assert!(!ok && err.contains("raft, paxos or zab"), "{err}");
    let (ok, out, _) = synod(&["server", "--print-config", "--name", "x"]);
    assert!(ok && out.contains("data-dir = \"x.synod\""), "{out}");
}

/// Without a cluster a command names whom it asked and what came of it; an agent, which
/// goes on trying, says so once.
#[test]
fn a_cluster_that_is_away_is_named() {
    let [port] = free_ports(1)[..] else { panic!("one port") };
    let away = format!("127.0.0.1:{port}");
    for args in
        [&["lock", "l"][..], &["elect", "e", "v"], &["session", "list"], &["file", "get", "f"]]
    {
        let (ok, _, err) = synod(&[args, &["--endpoints", &away]].concat());
        assert!(!ok && err.contains(&away) && err.contains("refused"), "{args:?}: {err}");
    }
    let register = ["service", "register", "s", "--instance", "i", "--endpoints", &away];
    let agent = Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(register)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    std::thread::sleep(Duration::from_secs(2));
    let id = agent.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().is_ok_and(|s| s.success()));
    let told = agent.wait_with_output().expect("its end").stderr;
    let told = String::from_utf8_lossy(&told);
    assert_eq!(told.matches("has no session").count(), 1, "{told}");
    assert!(told.contains(&away), "{told}");
}

#[test]
fn a_configuration_is_checked_without_a_server() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    write(
        "rules.yml",
        "groups: [{name: g, rules: [{record: a, expr: up}, {record: b, expr: a}]}]\n",
    );
    write("wrong.yml", "groups: [{name: g, rules: [{record: a, expr: up(}]}]\n");
    let good = write(
        "good.yml",
        "rule_files: [rules.yml, 'more/*.yml']\nscrape_configs:\n- job_name: a\n  \
         consul_sd_configs: [{server: 'a:1'}]\n- job_name: b\n  \
         static_configs: [{targets: ['b:1']}]\n",
    );
    let (ok, out, _) = synod(&["config", "check", &good]);
    assert!(ok && out.contains("SUCCESS: 2 scrape jobs, 1 rule files"), "{out}");
    assert!(out.contains("rules.yml: 2 rules found"), "{out}");
    assert!(out.contains("WARNING: rule_files: no file is named"), "{out}");
    assert!(out.contains("no effect: scrape_configs[0] (a).consul_sd_configs"), "{out}");
    for (text, why) in [
        ("scrape_configs:\n- job_name: a\n  nonsense: 1\n", ": line 3 column 3: "),
        (
            "scrape_configs:\n- job_name: a\n\n- job_name: b\n  scrape_timeout: 2m\n",
            ": line 4: scrape_configs[1] (b): scrape_timeout is longer than scrape_interval",
        ),
        (
            "remote_write:\n- url: http://a/\n  write_relabel_configs: [{action: sing}]\n",
            ": line 2: remote_write[0]: write_relabel_configs[0]: action \"sing\" is not known",
        ),
        ("rule_files: [wrong.yml]\n", "wrong.yml: 1:"),
        ("rule_files: [none.yml]\n", "none.yml is not there"),
        (
            "scrape_configs: [{job_name: a, basic_auth: {username: u, password_file: none}}]\n",
            "scrape_configs (a): ",
        ),
    ] {
        let file = write("bad.yml", text);
        let (ok, out, err) = synod(&["config", "check", &good, &file]);
        assert!(!ok && out.contains("FAILED:") && out.contains(why), "{text}: {out}");
        assert!(err.contains("1 of 2 files cannot be used"), "{err}");
    }
}
