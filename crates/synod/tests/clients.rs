//! etcd's own clients against a three-node cluster.

mod common;

use common::{Cluster, etcdctls, output, peers};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

struct Ctl<'a> {
    program: &'a Path,
    endpoints: String,
}

impl Ctl<'_> {
    fn try_run(&self, args: &[&str]) -> (bool, String, String) {
        let mut all = vec!["--endpoints", self.endpoints.as_str()];
        all.extend(args);
        output(self.program, &all)
    }

    fn run(&self, args: &[&str]) -> String {
        let (ok, out, err) = self.try_run(args);
        assert!(ok, "{} {args:?}: {out}{err}", self.program.display());
        out
    }

    fn fails(&self, args: &[&str], with: &str) {
        let (ok, out, err) = self.try_run(args);
        assert!(!ok && err.contains(with), "{args:?}: {out}{err}");
    }
}

#[test]
fn etcdctl_of_both_versions() {
    let cluster = Cluster::start(3);
    for program in &etcdctls() {
        let ctl = Ctl { program, endpoints: cluster.endpoints() };
        keyspace(&ctl);
        watch(&ctl);
        leases(&ctl);
        lock_and_election(&ctl);
        maintenance(&ctl, &cluster);
        members(&ctl, &cluster);
        ctl.run(&["del", "", "--prefix"]);
    }
}

fn keyspace(ctl: &Ctl) {
    assert_eq!(ctl.run(&["put", "a", "1"]), "OK\n");
    assert_eq!(ctl.run(&["put", "a", "2", "--prev-kv"]), "OK\na\n1\n");
    assert_eq!(ctl.run(&["get", "a"]), "a\n2\n");
    for i in 0..5 {
        ctl.run(&["put", &format!("r/{i}"), &i.to_string()]);
    }
    let range = ctl.run(&["get", "r/", "--prefix", "--keys-only", "--limit", "2"]);
    assert_eq!(range.split_whitespace().collect::<Vec<_>>(), ["r/0", "r/1"]);
    let sorted = ctl.run(&["get", "r/", "--prefix", "--order", "DESCEND", "--print-value-only"]);
    assert_eq!(sorted.split_whitespace().collect::<String>(), "43210");
    assert_eq!(ctl.run(&["del", "r/", "--prefix"]), "5\n");
    ctl.fails(&["get", "a", "--rev", "99999999"], "required revision is a future revision");
    let mut child = Command::new(ctl.program)
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &ctl.endpoints, "txn"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("etcdctl txn");
    let script = "value(\"a\") = \"2\"\n\nput t yes\nget a\n\nput t no\n\n";
    std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), script.as_bytes())
        .expect("script");
    let out = child.wait_with_output().expect("txn ends");
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("SUCCESS"));
    assert_eq!(ctl.run(&["get", "t", "--print-value-only"]), "yes\n");
}

fn revision(ctl: &Ctl) -> i64 {
    let json = ctl.run(&["get", "a", "-w", "json"]);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    value["header"]["revision"].as_i64().expect("a revision")
}

fn watch(ctl: &Ctl) {
    let from = revision(ctl) + 1;
    ctl.run(&["put", "w", "1"]);
    ctl.run(&["put", "w", "2"]);
    let child = Command::new(ctl.program)
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &ctl.endpoints, "watch", "w", "--rev", &from.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("etcdctl watch");
    std::thread::sleep(Duration::from_millis(700));
    ctl.run(&["put", "w", "3"]);
    ctl.run(&["del", "w"]);
    std::thread::sleep(Duration::from_millis(500));
    let id = child.id().to_string();
    // Not an interrupt: a shell that runs the tests in the background has it ignored.
    Command::new("kill").args(["-TERM", &id]).status().expect("kill");
    let out = child.wait_with_output().expect("watch ends");
    let seen =
        String::from_utf8_lossy(&out.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(seen, "PUT w 1 PUT w 2 PUT w 3 DELETE w");
}

fn leases(ctl: &Ctl) {
    let granted = ctl.run(&["lease", "grant", "2"]);
    let id = granted.split_whitespace().nth(1).expect("an id").to_owned();
    ctl.run(&["put", "l", "v", "--lease", &id]);
    assert!(ctl.run(&["lease", "timetolive", &id, "--keys"]).contains("attached keys([l])"));
    assert!(ctl.run(&["lease", "list"]).contains(&id));
    assert!(ctl.run(&["lease", "keep-alive", "--once", &id]).contains("keepalived with TTL(2)"));
    std::thread::sleep(Duration::from_millis(3_500));
    assert_eq!(ctl.run(&["get", "l"]), "");
    ctl.fails(&["put", "l", "v", "--lease", &id], "requested lease not found");
    let granted = ctl.run(&["lease", "grant", "100"]);
    let id = granted.split_whitespace().nth(1).expect("an id").to_owned();
    ctl.run(&["put", "l", "v", "--lease", &id]);
    ctl.run(&["lease", "revoke", &id]);
    assert_eq!(ctl.run(&["get", "l"]), "");
}

fn lock_and_election(ctl: &Ctl) {
    assert_eq!(ctl.run(&["lock", "mutex", "echo", "held"]), "held\n");
    let mut leader = Command::new(ctl.program)
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &ctl.endpoints, "elect", "who", "me"])
        .stdout(Stdio::null())
        .spawn()
        .expect("etcdctl elect");
    std::thread::sleep(Duration::from_millis(800));
    let key = ctl.run(&["get", "who/", "--prefix", "--print-value-only"]);
    assert_eq!(key, "me\n");
    leader.kill().expect("kill");
    leader.wait().expect("wait");
}

fn maintenance(ctl: &Ctl, cluster: &Cluster) {
    let file = cluster.folder().join("snapshot.db");
    let file = file.to_string_lossy().into_owned();
    let one = Ctl { program: ctl.program, endpoints: cluster.endpoint(0) };
    one.run(&["snapshot", "save", &file]);
    assert!(std::fs::metadata(&file).expect("the snapshot").len() % 512 == 32);
    std::fs::remove_file(&file).expect("remove");
    let at = revision(ctl);
    ctl.run(&["compact", &at.to_string()]);
    ctl.fails(&["get", "a", "--rev", "2"], "required revision has been compacted");
    ctl.fails(&["compact", "2"], "required revision has been compacted");
    assert_eq!(ctl.run(&["alarm", "list"]), "");
    ctl.run(&["defrag"]);
    let health = ctl.run(&["endpoint", "health"]);
    assert!(!health.contains("unhealthy"), "{health}");
    let hashes = ctl.run(&["endpoint", "hashkv"]);
    let mut values: Vec<&str> = hashes.lines().filter_map(|l| l.split(", ").nth(1)).collect();
    values.dedup();
    assert_eq!(values.len(), 1, "{hashes}");
    ctl.fails(&["auth", "enable"], "not built");
}

fn members(ctl: &Ctl, cluster: &Cluster) {
    assert_eq!(ctl.run(&["member", "list"]).lines().count(), 3);
    let url = "--peer-urls=http://127.0.0.1:1";
    let added = ctl.run(&["member", "add", "extra", url, "--learner"]);
    let id = added.split_whitespace().nth(1).expect("an id").to_owned();
    ctl.fails(&["member", "add", "extra2", url, "--learner"], "Peer URLs already exists");
    ctl.fails(&["member", "promote", &id], "in sync with leader");
    assert!(ctl.run(&["member", "list"]).contains("true"));
    ctl.run(&["member", "remove", &id]);
    ctl.fails(&["member", "remove", &id], "member not found");
    assert_eq!(ctl.run(&["member", "list"]).lines().count(), 3);
    // Leadership can be moved, and only by the leader.
    let leader = cluster.leader();
    let list = ctl.run(&["member", "list"]);
    let target = list
        .lines()
        .find(|l| !l.contains(&format!(" {}, ", cluster.nodes[leader].name)))
        .and_then(|l| l.split(',').next())
        .expect("a follower");
    let at_leader = Ctl { program: ctl.program, endpoints: cluster.endpoint(leader) };
    at_leader.run(&["move-leader", target]);
    assert_ne!(cluster.leader(), leader);
}

const PYTHON: &str = r#"
import sys, threading, time
import etcd3
client = etcd3.client(host='127.0.0.1', port=int(sys.argv[1]), timeout=10)
client.put('py/a', 'one')
assert client.get('py/a')[0] == b'one'
events, cancel = client.watch('py/w')
for i in range(3):
    client.put('py/w', str(i))
assert [next(events).value for _ in range(3)] == [b'0', b'1', b'2']
cancel()
ok, _ = client.transaction(
    compare=[client.transactions.value('py/a') == 'one'],
    success=[client.transactions.put('py/a', 'two')],
    failure=[client.transactions.put('py/a', 'lost')])
assert ok and client.get('py/a')[0] == b'two'
lease = client.lease(60)
client.put('py/l', 'x', lease=lease)
assert lease.remaining_ttl > 50 and lease.keys == [b'py/l']
lease.refresh()
lease.revoke()
assert client.get('py/l')[0] is None
held = []
def worker(n):
    c = etcd3.client(host='127.0.0.1', port=int(sys.argv[1]), timeout=10)
    for _ in range(3):
        with c.lock('py/lock', ttl=20):
            held.append(n)
            assert len(held) == 1, held
            time.sleep(0.01)
            held.remove(n)
threads = [threading.Thread(target=worker, args=(n,)) for n in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
assert [v for v, _ in client.get_prefix('py/', sort_order='descend', sort_target='key')] 
assert len(list(client.members)) == 3
assert client.status().version
client.delete_prefix('py/')
assert client.get('py/a')[0] is None
print('done')
"#;

#[test]
fn the_python_client() {
    let cluster = Cluster::start(3);
    let python = peers().join("py/bin/python");
    let port = cluster.nodes[1].client.to_string();
    let (ok, out, err) = output(&python, &["-c", PYTHON, &port]);
    assert!(ok && out.contains("done"), "{out}{err}");
}
