//! What `synod snapshot` tells of files, and what it says to those that come from
//! an etcd.

mod common;

use common::{Cluster, Etcd, block_on, etcdctls, output};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn synod(args: &[&str]) -> (bool, String, String) {
    output(Path::new(env!("CARGO_BIN_EXE_synod")), args)
}

fn json(args: &[&str]) -> Value {
    let (ok, out, err) = synod(&[args, &["--output", "json"]].concat());
    assert!(ok, "{args:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// The same in JSON from all three, and it is what the cluster holds.
#[test]
fn scripts_can_read_what_a_file_holds() {
    let cluster = Cluster::start(1);
    let endpoint = cluster.endpoint(0);
    let run = |args: &[&str]| {
        let (ok, _, err) = synod(&[args, &["--endpoints", &endpoint]].concat());
        assert!(ok, "{args:?}: {err}");
    };
    for i in 0..12 {
        run(&["put", &format!("k/{i}"), "v"]);
    }
    run(&["put", "k/3", "again"]);
    run(&["del", "k/7"]);
    let file = cluster.folder().join("saved").to_str().expect("a path").to_owned();
    let saved = json(&["snapshot", "save", &file, "--endpoints", &endpoint]);
    assert_eq!((&saved["file"], &saved["revision"]), (&file.as_str().into(), &15.into()));
    let held = json(&["snapshot", "status", &file]);
    for (name, value) in held.as_object().expect("an object") {
        assert_eq!(value, &saved[name], "{name}");
    }
    assert_eq!((&held["keys"], &held["compacted"]), (&11.into(), &0.into()), "{held}");
    let bytes = std::fs::read(&file).expect("the file");
    assert_eq!(held["bytes"], bytes.len());
    let end: String = bytes[bytes.len() - 32..].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(held["sha256"], end);
    let (ok, out, err) = synod(&["snapshot", "status", &file]);
    assert!(ok && out.contains("revision 15,") && out.contains("keys 11,"), "{out}{err}");
    assert!(out.contains(&end) && out.contains(&format!("bytes {},", bytes.len())), "{out}");

    let dir = cluster.folder().join("restored").to_str().expect("a path").to_owned();
    let restored = json(&["snapshot", "restore", &file, "--data-dir", &dir]);
    let told = (&restored["revision"], &restored["keys"], &restored["data_dir"]);
    assert_eq!(told, (&1_000_000_015_i64.into(), &11.into(), &dir.as_str().into()));
    assert_eq!(restored["initial_cluster"], "default=http://127.0.0.1:2380");

    // With a name alone, where `synod server` with that name alone looks.
    let done = Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(["snapshot", "restore", &file, "--name", "j", "--output", "json"])
        .current_dir(cluster.folder())
        .output()
        .expect("synod starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let named: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let told = (&named["data_dir"], &named["initial_cluster"]);
    assert_eq!(told, (&"j.synod".into(), &"j=http://127.0.0.1:2380".into()));
    assert!(cluster.folder().join("j.synod").is_dir());
}

/// Whoever brings a file of etcd's is told whose it is and how to move; moving so works.
#[test]
fn a_file_of_etcds_is_named_and_the_way_over_works() {
    let (cluster, etcd) = (Cluster::start(1), Etcd::start());
    block_on(etcd.channel());
    let theirs = format!("127.0.0.1:{}", etcd.client);
    let [old, new] = &etcdctls()[..] else { panic!("two etcdctls") };
    for i in 0..20 {
        let (ok, _, err) = output(new, &["--endpoints", &theirs, "put", &format!("k/{i}"), "v"]);
        assert!(ok, "{err}");
    }
    // Any client serves to bind a key to a lease.
    let granted = json(&["lease", "grant", "600", "--endpoints", &theirs]);
    let lease = granted["id"].as_str().expect("an id");
    let (ok, _, err) = synod(&["put", "k/0", "v", "--lease", lease, "--endpoints", &theirs]);
    assert!(ok, "{err}");
    assert_eq!(json(&["get", "k/0", "--endpoints", &theirs])["lease"], lease);
    let path = |name: &str| cluster.folder().join(name).to_str().expect("a path").to_owned();
    let (saved, raw, dir) = (path("etcd.db"), path("db"), path("data"));
    let (ok, _, err) = output(new, &["--endpoints", &theirs, "snapshot", "save", &saved]);
    assert!(ok, "{err}");
    // As it stands in a data directory: without the hash that saving puts at its end.
    let bytes = std::fs::read(&saved).expect("the file");
    std::fs::write(&raw, &bytes[..bytes.len() - 32]).expect("written");
    for file in [&saved, &raw] {
        let restore = ["snapshot", "restore", file, "--data-dir", &dir];
        for args in [&["snapshot", "status", file][..], &restore] {
            let (ok, _, err) = synod(args);
            assert!(!ok && err.contains("etcd's database"), "{args:?}: {err}");
            assert!(err.contains("make-mirror SYNOD"), "{args:?}: {err}");
        }
    }
    assert!(!Path::new(&dir).exists(), "something was made of it");

    for ctl in [old, new] {
        let prefix = format!("from/{}/", ctl.display());
        let mut mirror = Command::new(ctl)
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &theirs, "make-mirror", "--prefix", "k/"])
            .args(["--dest-prefix", &prefix, &cluster.endpoint(0)])
            .stdout(Stdio::null())
            .spawn()
            .expect("etcdctl starts");
        let begun = Instant::now();
        let count = ["get", "--prefix", &prefix, "--count", "--endpoints", &cluster.endpoint(0)];
        let mut told = String::new();
        while told != "20\n" && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(100));
            told = synod(&count).1;
        }
        mirror.kill().expect("kill");
        mirror.wait().expect("wait");
        assert_eq!(told, "20\n");
        let key = format!("{prefix}0");
        let copied = json(&["get", &key, "--endpoints", &cluster.endpoint(0)]);
        assert!(copied["value"] == "v" && copied["lease"].is_null(), "{copied}");
    }
}
