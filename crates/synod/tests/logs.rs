//! The log of real nodes, as the programs read it that collect logs.

mod common;

use common::Cluster;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// A node's entries, each a JSON object of its own.
fn entries(cluster: &Cluster, node: usize) -> Vec<Value> {
    let log = cluster.log(node);
    // The last line may be in the middle of being written.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let entry = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    whole.lines().map(entry).collect()
}

/// Until a node has such an entry; gives its fields.
fn until(cluster: &Cluster, node: usize, is: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        if let Some(found) = entries(cluster, node).into_iter().find(|e| is(&e["fields"])) {
            return found["fields"].clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", cluster.log(node));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The fields that the page lists.
fn listed() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/logs.md");
    let text = std::fs::read_to_string(page).expect("the page");
    let name = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    text.lines().filter_map(name).collect()
}

#[test]
fn every_line_is_an_object_with_fields_of_the_list() {
    let config = tempfile::NamedTempFile::new().expect("a file");
    let write = |text: &str| std::fs::write(config.path(), text).expect("written");
    write("global: {scrape_interval: 1s, query_log_file: x}\n");
    let path = config.path().to_str().expect("a path");
    let settings = ["--log-format", "json", "--log-level", "debug", "--monitor-config", path];
    let mut cluster = Cluster::with_settings(3, &settings);
    let ready = until(&cluster, 0, |f| f["message"] == "ready to serve client requests");
    assert_eq!((&ready["node"], ready["member"].is_string()), (&"n0".into(), true), "{ready}");
    let ignored = until(&cluster, 0, |f| f["message"] == "a setting has no effect here");
    assert_eq!((&ignored["file"], ignored["setting"].is_string()), (&path.into(), true));

    // Decisions have what they are about as fields.
    let old = cluster.leader();
    let id = cluster.status(old).expect("status").header.expect("header").member_id;
    cluster.kill(old);
    let new = cluster.leader();
    let led = until(&cluster, new, |f| f["event"] == "became_leader");
    let (term, index) = (led["term"].as_u64(), led["index"].as_u64());
    assert!(term.is_some_and(|t| t > 0) && index.is_some_and(|i| i > 0), "{led}");
    let follower = (0..3).find(|i| *i != old && *i != new).expect("one of three");
    let suspected = until(&cluster, follower, |f| f["event"] == "peer_suspected");
    assert_eq!(suspected["peer"], format!("{id:x}"), "{suspected}");
    assert!(suspected["silence_ms"].as_u64().is_some_and(|ms| ms > 0), "{suspected}");

    // What is wrong is in a field, and the message is the same whatever it is.
    write("global: {scrape_interval: soon}\n");
    cluster.signal(new, "-HUP");
    let refused =
        until(&cluster, new, |f| f["message"] == "the monitor's configuration stays as it was");
    assert!(refused["error"].as_str().is_some_and(|e| e.contains("soon")), "{refused}");

    let (listed, mut count) = (listed(), 0);
    for node in 0..3 {
        for entry in entries(&cluster, node) {
            for name in ["timestamp", "level", "target"] {
                assert!(entry[name].is_string(), "{name} of {entry}");
            }
            // Libraries have names of their own.
            if !entry["target"].as_str().is_some_and(|t| t.starts_with("synod")) {
                continue;
            }
            let fields = entry["fields"].as_object().expect("an object");
            assert!(fields["message"].as_str().is_some_and(|m| !m.is_empty()), "{entry}");
            let mut names = fields.keys().filter(|name| *name != "message");
            assert!(names.all(|name| listed.contains(name)), "{entry}");
            count += 1;
        }
    }
    assert!(count > 20, "only {count} entries");
}
