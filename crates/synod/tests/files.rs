//! Small files with real processes: the commands, the client's cache while its process
//! stands still or the leader is killed, and events over a change of leader.

mod common;

#[path = "../../client/examples/files.rs"]
mod example;

use common::Cluster;
use common::shell::{run, synod};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use synod_client::{Client, Error, Expect, FileEventKind, Session, SessionOptions, SetOptions};

fn said(endpoints: &str, args: &[&str]) -> String {
    let output = run(endpoints, args);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {failed}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn refused(endpoints: &str, args: &[&str], why: &str) {
    let output = run(endpoints, args);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains(why), "{args:?}: {words}");
}

fn endpoints(cluster: &Cluster) -> Vec<String> {
    (0..cluster.nodes.len()).map(|i| cluster.endpoint(i)).collect()
}

async fn session(at: &[String], ttl_s: u64) -> Session {
    let client = Client::connect(at).await.expect("endpoints");
    let ttl = Duration::from_secs(ttl_s);
    let session = client.open_session(SessionOptions { ttl, ..Default::default() }).await;
    session.expect("a session")
}

#[test]
fn the_clients_example_runs() {
    let cluster = Cluster::start(3);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(example::show(&endpoints(&cluster))).expect("it runs to its end");
}

#[test]
fn files_by_commands() {
    let cluster = Cluster::start(1);
    let at = cluster.endpoints();
    refused(&at, &["file", "get", "a/b"], "there is no file");
    refused(&at, &["file", "set", "a/b", "x"], "no node above");
    let first = said(&at, &["file", "set", "a/b", "hello", "--parents"]);
    let generation = first.strip_prefix("generation ").expect("its generation");
    assert_eq!(said(&at, &["file", "get", "a/b"]), "hello");
    let stat = said(&at, &["file", "get", "a/b", "--stat"]);
    // CRC-32C of "hello".
    assert!(stat.contains("9a71bb4c") && stat.contains(generation), "{stat}");
    assert_eq!(said(&at, &["file", "list"]), "a");
    assert_eq!(said(&at, &["file", "list", "a"]), "b");
    refused(&at, &["file", "set", "a/b", "x", "--new"], "is there");
    refused(&at, &["file", "set", "a/b", "x", "--generation", "1"], "is of generation");
    said(&at, &["file", "set", "a/b", "again", "--generation", generation]);
    let json = said(&at, &["file", "--output", "json", "get", "a/b"]);
    let about: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&about["contents"], &about["writes"]), (&"again".into(), &2.into()));
    assert_eq!(about["session"], serde_json::Value::Null);
    // It ends with the lock's session, and is written only while the lock is held.
    let held = "synod file set members/me here --parents --session $SYNOD_SESSION && \
                synod file set a/b fenced --sequencer $SYNOD_SEQUENCER && \
                synod file list members && synod file get members/me --stat && \
                echo $SYNOD_SEQUENCER";
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_synod")).parent().expect("a folder");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut lock = synod(&at, &["lock", "l", "--", "sh", "-c", held]);
    let output = lock.env("PATH", path).env("SYNOD_ENDPOINTS", &at).output().expect("it runs");
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && words.contains("me\n"), "{output:?}");
    assert!(words.contains("with session"), "{words}");
    let sequencer = words.trim().lines().last().expect("the sequencer").to_owned();
    refused(&at, &["file", "set", "a/b", "late", "--sequencer", &sequencer], "is stale");
    // What is refused leaves nothing behind, not even the nodes above.
    let late = ["file", "set", "p/q/r", "late", "--parents"];
    refused(&at, &[&late[..], &["--sequencer", &sequencer]].concat(), "is stale");
    refused(&at, &[&late[..], &["--generation", "7"]].concat(), "there is no node");
    refused(&at, &[&late[..], &["--session", "7b"]].concat(), "there is no session");
    refused(&at, &["file", "get", "p"], "there is no file");
    assert_eq!(said(&at, &["file", "get", "a/b"]), "fenced");
    assert_eq!(said(&at, &["file", "list", "members"]), "");
    refused(&at, &["file", "del", "a"], "has children");
    said(&at, &["file", "del", "a/b"]);
    refused(&at, &["file", "del", "a/b"], "there is no node");
    let watch = synod(&at, &["file", "watch", "a", "--events", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    std::thread::sleep(Duration::from_secs(1));
    said(&at, &["file", "set", "a/c", ""]);
    let seen = watch.wait_with_output().expect("its end");
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains(" begun ") && seen.contains(" child-added c"), "{seen}");
    // etcd's own commands leave them alone.
    refused(&at, &["put", "synod/file/node/01/a", "x"], "File calls only");
    refused(&at, &["del", "--prefix", ""], "nothing was deleted");
}

/// The process with the cache stands still past the end of its session.
#[test]
fn a_paused_cache_tells_nothing_old() {
    let cluster = Cluster::start(3);
    let at = endpoints(&cluster);
    let (cached_tx, cached) = std::sync::mpsc::channel();
    let (written_tx, written) = std::sync::mpsc::channel::<()>();
    let reader = std::thread::spawn({
        let at = at.clone();
        move || {
            // One thread for all of it: while it waits here, nothing of it runs.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let session = session(&at, 2).await;
                let files = session.files();
                assert_eq!(files.get("config").await.expect("a read"), None);
                assert_eq!(files.get("config").await.expect("a read"), None);
                assert_eq!(files.stats().negative_hits, 1);
                cached_tx.send(()).expect("the writer");
                written.recv().expect("the writer");
                let node = files.get("config").await.expect("a read").expect("it was written");
                assert_eq!((&node.contents[..], files.stats().hits), (&b"new"[..], 1));
            });
        }
    });
    cached.recv().expect("the reader");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let session = session(&at, 10).await;
        let files = session.files();
        let wait = Some(Duration::from_millis(200));
        let hasty = SetOptions { wait, ..SetOptions::default() };
        let done = files.set_with("config", "hasty", hasty).await;
        assert!(matches!(done, Err(Error::Cached(_))), "{done:?}");
        assert_eq!(files.get("config").await.expect("a read"), None);
        let begun = Instant::now();
        files.set("config", "new").await.expect("written when the session is over");
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    });
    written_tx.send(()).expect("the reader");
    reader.join().expect("the reader");
}

/// Readers read through caches all the time, one writes, and the leader is killed: no
/// read tells a number below one that was acknowledged before it began.
#[test]
fn caches_stay_coherent_while_leaders_are_killed() {
    let mut cluster = Cluster::start(3);
    let at = endpoints(&cluster);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (at, acknowledged, stop) = (at.clone(), acknowledged.clone(), stop.clone());
            runtime.spawn(async move {
                let session = session(&at, 3).await;
                let files = session.files();
                while !stop.load(Ordering::Relaxed) {
                    let least = acknowledged.load(Ordering::SeqCst);
                    match files.get("number").await {
                        Ok(node) => {
                            let text = node.map_or("0".into(), |n| n.contents);
                            let text = String::from_utf8_lossy(&text).into_owned();
                            let number: u64 = text.parse().expect("a number");
                            assert!(number >= least, "{number} after {least}");
                        }
                        Err(Error::Unavailable(_)) => {}
                        Err(e) => panic!("{e}"),
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                files.stats()
            })
        })
        .collect();
    let writer = {
        let (at, acknowledged, stop) = (at.clone(), acknowledged.clone(), stop.clone());
        runtime.spawn(async move {
            let session = session(&at, 3).await;
            let files = session.files();
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                // A write of which nobody knows the end may come late: but not after
                // another, since it expects what it found.
                let Ok(found) = files.get("number").await else { continue };
                let before = found.as_ref().map_or("0".into(), |n| n.contents.clone());
                let before: u64 = String::from_utf8_lossy(&before).parse().expect("a number");
                let expect = found.map_or(Expect::Absent, |n| Expect::Generation(n.generation));
                let options = SetOptions { expect, ..SetOptions::default() };
                let number = (before + 1).to_string();
                match files.set_with("number", number, options).await {
                    Ok(_) => {
                        acknowledged.store(before + 1, Ordering::SeqCst);
                        written += 1;
                    }
                    Err(Error::Unavailable(_) | Error::Cached(_) | Error::Changed(_)) => {}
                    Err(e) => panic!("{e}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            written
        })
    };
    for _ in 0..2 {
        std::thread::sleep(Duration::from_secs(3));
        let leader = cluster.leader();
        cluster.kill(leader);
        std::thread::sleep(Duration::from_secs(3));
        cluster.spawn(leader);
        cluster.wait_node(leader);
    }
    std::thread::sleep(Duration::from_secs(2));
    stop.store(true, Ordering::Relaxed);
    let written = runtime.block_on(writer).expect("the writer");
    assert!(written > 20, "{written} writes");
    for reader in readers {
        let stats = runtime.block_on(reader).expect("a reader");
        assert!(stats.hits > 50 && stats.invalidations > 10, "{stats:?}");
    }
}

#[test]
fn events_tell_of_another_leader_and_go_on() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let at = [cluster.endpoint(one), cluster.endpoint(other)];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let session = runtime.block_on(session(&at, 10));
    // It begins to listen for writers.
    let _on_a_runtime = runtime.enter();
    let files = session.files();
    let mut events = files.events("n");
    let mut next = || {
        let next = async { tokio::time::timeout(Duration::from_secs(20), events.next()).await };
        runtime.block_on(next).expect("in time").expect("an event").kind()
    };
    runtime.block_on(files.set("n", "1")).expect("written");
    assert_eq!(next(), FileEventKind::Begun);
    assert_eq!(cluster.leader(), leader, "it leads still");
    cluster.kill(leader);
    assert_eq!(next(), FileEventKind::FailedOver);
    runtime.block_on(files.set("n", "2")).expect("written");
    assert_eq!(next(), FileEventKind::Changed);
    // Its server is lost: it goes on at the other, and begins there.
    cluster.spawn(leader);
    cluster.wait_node(leader);
    cluster.kill(one);
    assert_eq!(next(), FileEventKind::Begun);
}

/// A member whose process stands still is there for the system, and for nobody else.
#[test]
fn a_member_that_stands_still_is_passed_by() {
    let cluster = Cluster::start(3);
    let still = (cluster.leader() + 1) % 3;
    let mut order: Vec<String> = (0..3).map(|i| cluster.endpoint(i)).collect();
    order.rotate_left(still);
    let at = order.join(",");
    said(&at, &["file", "set", "f", "x"]);
    cluster.signal(still, "-STOP");
    let quick = |args: &[&str]| {
        let begun = Instant::now();
        said(&at, args);
        assert!(begun.elapsed() < Duration::from_secs(3), "{args:?}: {:?}", begun.elapsed());
    };
    quick(&["file", "get", "f"]);
    quick(&["session", "list"]);
    quick(&["put", "k", "v"]);
    quick(&["lock", "l", "--", "true"]);
    quick(&["service", "list"]);
    cluster.signal(still, "-CONT");
}

/// The commands that follow something go on when their member is lost.
#[test]
fn watches_of_the_commands_go_on_at_another_member() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let at = [one, other, leader].map(|i| cluster.endpoint(i)).join(",");
    let follow = |args: &[&str]| {
        let child = synod(&at, args).stdout(Stdio::piped()).spawn().expect("it starts");
        Following::of(child)
    };
    let mut file = follow(&["file", "watch", "n"]);
    let mut boss = follow(&["elect", "boss"]);
    let word = |line: &str, n| line.split_whitespace().nth(n).unwrap_or_default().to_owned();
    assert_eq!(word(&file.line(), 1), "begun");
    said(&at, &["elect", "boss", "first", "--", "true"]);
    assert_eq!(word(&boss.line(), 1), "-");
    assert_eq!(word(&boss.line(), 1), "first");
    // The leader is lost: it tells so. Its own member is lost: another goes on.
    cluster.kill(leader);
    assert_eq!(word(&file.line(), 1), "failed-over");
    cluster.spawn(leader);
    cluster.wait_node(leader);
    cluster.kill(one);
    assert_eq!(word(&file.line(), 1), "begun");
    said(&at, &["file", "set", "n", "x"]);
    until_word(&mut file, "created");
    said(&at, &["elect", "boss", "second", "--", "sleep", "1"]);
    until_word(&mut boss, "second");
}

/// A command that goes on printing, ended when dropped.
struct Following {
    child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Following {
    fn of(mut child: std::process::Child) -> Following {
        use std::io::{BufRead, BufReader};
        let out = BufReader::new(child.stdout.take().expect("its output"));
        let (tx, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|line| tx.send(line))
        });
        Following { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.recv_timeout(Duration::from_secs(20)).expect("a line in time")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until_word(following: &mut Following, word: &str) {
    while !following.line().split_whitespace().any(|w| w == word) {}
}
