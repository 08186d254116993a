//! What `synod snapshot` tells of files, and what it says to those that come from
//! an etcd.

mod common;

use common::{Cluster, output};
use serde_json::Value;
use std::path::Path;

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
}
