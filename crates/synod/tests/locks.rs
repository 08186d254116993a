//! Locks and sessions with real processes: holders that are paused or cut off,
//! leaders that are killed, and other servers.

mod common;

#[path = "../../client/examples/locks.rs"]
mod example;

use common::shell::{run, synod, text, until};
use common::{Cluster, Etcd, block_on, etcdctls};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use synod_client::{
    Client, Error, LockOptions, Newest, Session, SessionOptions, SessionState, Wait,
};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::lease_client::LeaseClient;

/// Signals a process group: the command and all that it started.
fn signal_group(leader: u32, name: &str) {
    // It may have ended.
    let mut kill = Command::new("kill");
    let _ = kill.args(["-s", name, "--", &format!("-{leader}")]).stderr(Stdio::null()).status();
}

/// A process that starts a group of its own, ended when dropped.
struct Group(Child);

impl Group {
    fn start(mut command: Command) -> Group {
        use std::os::unix::process::CommandExt;
        Group(command.process_group(0).stdout(Stdio::piped()).spawn().expect("it starts"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_command_runs_while_the_lock_is_held() {
    let cluster = Cluster::start(3);
    let at = cluster.endpoints();
    let said = run(
        &at,
        &["lock", "l", "--owner", "me", "--", "sh", "-c", "echo $SYNOD_LOCK_NAME $SYNOD_SEQUENCER"],
    );
    let said = text(&said.stdout);
    let (name, sequencer) = said.trim().split_once(' ').expect("two words");
    assert!(
        name == "l" && sequencer.contains(":exclusive:") && sequencer.ends_with(":l"),
        "{said}"
    );
    // The exit code is the command's.
    assert_eq!(run(&at, &["lock", "l", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    let missing = run(&at, &["lock", "l", "--", "/no/such/program"]);
    assert!(!missing.status.success() && text(&missing.stderr).contains("cannot run"));

    let mut held =
        Group::start(synod(&at, &["lock", "l", "--owner", "first", "--lock-delay", "30"]));
    until("the lock", || text(&run(&at, &["lock", "l", "--show"]).stdout).contains("holds"));
    let refused = run(&at, &["lock", "l", "--try", "--", "true"]);
    let why = text(&refused.stderr);
    assert!(!refused.status.success() && why.contains("is held by first (session"), "{why}");
    let late = run(&at, &["lock", "l", "--wait=1", "--", "true"]);
    assert!(text(&late.stderr).contains("waited"), "{}", text(&late.stderr));
    let list = text(&run(&at, &["session", "list"]).stdout);
    assert!(list.contains("first") && list.contains("l/"), "{list}");
    // Interrupted, it gives the lock back: no lock-delay for the next.
    signal_group(held.0.id(), "TERM");
    assert!(held.0.wait().expect("its end").success());
    let begun = Instant::now();
    assert!(run(&at, &["lock", "l", "--", "true"]).status.success());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(text(&run(&at, &["lock", "l", "--show"]).stdout).contains("free"));
}

/// Two share, one waits for both.
#[test]
fn shared_and_exclusive() {
    let cluster = Cluster::start(1);
    let at = cluster.endpoints();
    let sharers: Vec<Group> =
        (0..2).map(|_| Group::start(synod(&at, &["lock", "s", "--shared"]))).collect();
    let holders = || text(&run(&at, &["lock", "s", "--show"]).stdout).matches("holds").count();
    until("two holders", || holders() == 2);
    assert!(!run(&at, &["lock", "s", "--try", "--", "true"]).status.success());
    assert!(run(&at, &["lock", "s", "--shared", "--try", "--", "true"]).status.success());
    for sharer in &sharers {
        signal_group(sharer.0.id(), "TERM");
    }
    assert!(run(&at, &["lock", "s", "--", "true"]).status.success());
}

/// etcdctl makes its queue itself, key by key.
#[test]
fn etcdctl_and_synod_wait_for_each_other() {
    let cluster = Cluster::start(3);
    let at = cluster.endpoints();
    for etcdctl in etcdctls() {
        let etcdctl_lock = |args: &[&str]| {
            let mut command = Command::new(&etcdctl);
            command.env("ETCDCTL_API", "3").args(["--endpoints", &at, "lock", "both"]).args(args);
            command.stdin(Stdio::null());
            command
        };
        let holders = || text(&run(&at, &["lock", "both", "--show"]).stdout);
        let theirs = Group::start(etcdctl_lock(&[]));
        until("etcdctl's lock", || holders().contains("(an etcd client)"));
        assert!(!run(&at, &["lock", "both", "--try", "--", "true"]).status.success());
        signal_group(theirs.0.id(), "TERM");
        let ours = Group::start(synod(&at, &["lock", "both", "--shared", "--owner", "us"]));
        until("our lock", || holders().contains("us"));
        let mut waits = Group::start(etcdctl_lock(&["true"]));
        until("etcdctl in the queue", || holders().contains("waits"));
        std::thread::sleep(Duration::from_millis(300));
        assert!(waits.0.try_wait().expect("a child").is_none(), "it waits for us");
        signal_group(ours.0.id(), "TERM");
        assert!(waits.0.wait().expect("its end").success(), "{}", etcdctl.display());
    }
}

/// What a holder does: every write carries its sequencer; a refusal ends it.
const WRITER: &str = r#"
i=0
while synod put data "$SYNOD_TOKEN" --sequencer "$SYNOD_SEQUENCER" 2>>"$LOG"; do
  i=$((i+1)); echo "$i" >"$LOG.count"; sleep 0.05
done
exit 3
"#;

fn writer(at: &str, log: &Path) -> Command {
    let bin = Path::new(env!("CARGO_BIN_EXE_synod")).parent().expect("a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = synod(at, &["lock", "jobs", "--ttl", "2", "--", "sh", "-c", WRITER]);
    command
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("SYNOD_ENDPOINTS", at)
        .env("LOG", log)
        .stderr(Stdio::null());
    command
}

/// Process ids whose parent is this one.
fn children(parent: u32) -> Vec<u32> {
    let out = Command::new("ps").args(["-o", "pid=", "--ppid", &parent.to_string()]).output();
    text(&out.expect("ps runs").stdout).split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

#[test]
fn the_clients_example_runs() {
    let cluster = Cluster::start(3);
    let at: Vec<String> = (0..3).map(|i| cluster.endpoint(i)).collect();
    block_on(example::show(&at)).expect("it runs to its end");
}

#[test]
fn a_paused_holder_wakes_up_and_cannot_write() {
    let cluster = Cluster::start(3);
    let at = cluster.endpoints();
    let dir = tempfile::tempdir().expect("a folder");
    let (log, other) = (dir.path().join("first"), dir.path().join("second"));
    let mut first = Group::start(writer(&at, &log));
    let count = |log: &Path| std::fs::read_to_string(log.with_extension("count")).is_ok();
    until("the first holder's writes", || count(&log));
    // All stop, as on a machine that stands still: the one that holds the lock, its
    // command and all below it, and the watchdog.
    let below = children(first.0.id());
    // Its watchdog was there before it.
    let command = below.last().copied().expect("its command");
    signal_group(first.0.id(), "STOP");
    below.iter().for_each(|process| signal_group(*process, "STOP"));
    let second = Group::start(writer(&at, &other));
    until("the second holder's writes", || count(&other));
    let token = || text(&run(&at, &["get", "data"]).stdout);
    let now = token();
    // The holder's command wakes first: nothing has told it that the lock is lost.
    signal_group(command, "CONT");
    until("the refusal", || {
        std::fs::read_to_string(&log).is_ok_and(|l| l.contains("the sequencer is stale"))
    });
    signal_group(first.0.id(), "CONT");
    let code = first.0.wait().expect("its end").code();
    assert!(code.is_some_and(|c| c != 0), "{code:?}");
    assert_eq!(token(), now, "the second holder's writes stand");
    drop(second);
}

/// Only the holder stands still: its watchdog ends the command before anybody else
/// can have the lock.
#[test]
fn the_command_of_a_paused_or_killed_holder_is_ended_in_time() {
    let cluster = Cluster::start(3);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let work = "while :; do date +%s%N >\"$LOG.new\"; mv \"$LOG.new\" \"$LOG\"; sleep 0.02; done";
    for signal in ["STOP", "KILL"] {
        let log = dir.path().join(signal);
        let mut holder = synod(&at, &["lock", "l", "--ttl", "2", "--", "sh", "-c", work]);
        let mut holder = Group::start({
            holder.env("LOG", &log);
            holder
        });
        let beat = || std::fs::read_to_string(&log).unwrap_or_default();
        until("work", || !beat().is_empty());
        signal_group(holder.0.id(), signal);
        let next = run(&at, &["lock", "l", "--", "date", "+%s%N"]);
        std::thread::sleep(Duration::from_millis(200));
        let time = |text: &str| text.trim().parse::<u64>().expect("a time");
        assert!(time(&beat()) < time(&text(&next.stdout)), "{signal}: it worked on");
        signal_group(holder.0.id(), "CONT");
        assert!(!holder.0.wait().expect("its end").success());
    }
}

/// Every holder's token is its own, and greater than those before.
#[test]
fn a_killed_leader_takes_no_locks_with_it() {
    let mut cluster = Cluster::start(3);
    let endpoints: Vec<String> = (0..3).map(|i| cluster.endpoint(i)).collect();
    let leader = cluster.leader();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(Client::connect(&endpoints)).expect("endpoints");
    let held = runtime.block_on(async {
        let mut held = Vec::new();
        for s in 0..40 {
            let options = SessionOptions { ttl: Duration::from_secs(5), ..Default::default() };
            let session = client.open_session(options).await.expect("a session");
            let mut locks = Vec::new();
            for l in 0..5 {
                locks.push(session.lock(&format!("many/{s}/{l}")).await.expect("free"));
            }
            held.push((session, locks));
        }
        held
    });
    cluster.kill(leader);
    // Longer than they live without a sign of life.
    std::thread::sleep(Duration::from_secs(7));
    runtime.block_on(async {
        for (session, locks) in &held {
            assert_eq!(*session.state().borrow(), SessionState::Safe);
            for lock in locks {
                assert!(client.is_good(lock.sequencer()).await.expect("an answer"));
                let name = text(&lock.sequencer().name);
                let wait = LockOptions { wait: Wait::Never, ..LockOptions::default() };
                let other = held[0].0.id();
                if session.id() != other {
                    let twice = held[0].0.lock_with(&name, wait).await;
                    assert!(matches!(twice, Err(Error::Held(_))), "{name} was given twice");
                }
            }
        }
        for (session, locks) in held {
            for lock in locks {
                lock.release().await.expect("it was held");
            }
            session.close().await.expect("closed");
        }
        assert!(client.sessions().await.expect("a list").is_empty());
    });
}

/// A session that is cut off is in jeopardy, and safe again when the cluster is back
/// in time; without grace it is over.
#[test]
fn jeopardy_and_back() {
    let mut cluster = Cluster::start(3);
    let endpoints: Vec<String> = (0..3).map(|i| cluster.endpoint(i)).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(Client::connect(&endpoints)).expect("endpoints");
    let (patient, hasty) = runtime.block_on(async {
        let ttl = Duration::from_secs(2);
        let patient = SessionOptions { ttl, ..Default::default() };
        let hasty = SessionOptions { ttl, grace: Duration::ZERO, ..Default::default() };
        let open = async |options| client.open_session(options).await.expect("a session");
        (open(patient).await, open(hasty).await)
    });
    let lock = runtime.block_on(patient.lock("kept")).expect("free");
    (0..3).for_each(|i| cluster.kill(i));
    let state = |session: &Session| *session.state().borrow();
    until("jeopardy", || state(&patient) == SessionState::Jeopardy);
    until("the end", || state(&hasty) == SessionState::Expired);
    (0..3).for_each(|i| cluster.spawn(i));
    cluster.wait_ready();
    until("safety", || state(&patient) == SessionState::Safe);
    assert!(runtime.block_on(client.is_good(lock.sequencer())).expect("an answer"));
    runtime.block_on(async {
        lock.release().await.expect("it was held all the time");
        patient.close().await.expect("closed");
    });
}

#[test]
fn on_a_real_etcd_there_is_etcds_lock_and_no_sequencer() {
    let etcd = Etcd::start();
    block_on(etcd.channel());
    let at = format!("127.0.0.1:{}", etcd.client);
    let locked = run(&at, &["lock", "l", "--", "sh", "-c", "echo $SYNOD_LOCK_KEY"]);
    assert!(text(&locked.stdout).starts_with("l/"), "{locked:?}");
    assert!(text(&locked.stderr).contains("no fencing token"));
    assert!(run(&at, &["elect", "e", "me", "--", "true"]).status.success());
    let shared = run(&at, &["lock", "l", "--shared", "--", "true"]);
    assert!(text(&shared.stderr).contains("only etcd's lock"), "{shared:?}");
    let put = run(&at, &["put", "k", "v", "--sequencer", "5:exclusive:1f:l"]);
    assert!(text(&put.stderr).contains("does not check sequencers"), "{put:?}");
    assert_eq!(text(&run(&at, &["get", "k"]).stdout), "");
    assert!(text(&run(&at, &["session", "list"]).stderr).contains("it is not Synod"));
    assert_eq!(text(&run(&at, &["elect", "e", "--show"]).stdout), "nobody leads\n");
    let agent = run(&at, &["service", "register", "s"]);
    assert!(text(&agent.stderr).contains("it is not Synod"), "{agent:?}");
}

/// A caller that stops waiting and tries again gets the lock, and keeps it.
#[test]
fn a_call_that_was_dropped_takes_nothing_from_the_next() {
    let cluster = Cluster::start(3);
    let endpoints: Vec<String> = (0..3).map(|i| cluster.endpoint(i)).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(&endpoints).await.expect("endpoints");
        let open = async || client.open_session(SessionOptions::default()).await.expect("open");
        let (one, two) = (open().await, open().await);
        for round in 0..20 {
            let first = one.lock("x").await.expect("free");
            let short = Duration::from_millis(5 + round);
            assert!(tokio::time::timeout(short, two.lock("x")).await.is_err());
            let releasing = tokio::spawn(first.release());
            let second = two.lock("x").await.expect("its turn");
            releasing.await.expect("the task").expect("it was held");
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(client.is_good(second.sequencer()).await.expect("an answer"), "{round}");
            let twice = two.lock("x").await;
            assert!(twice.is_err_and(|e| e.to_string().contains("has a place")));
            let dropped = tokio::time::timeout(Duration::from_micros(500), two.lock("x")).await;
            assert!(!matches!(dropped, Ok(Ok(_))));
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(client.is_good(second.sequencer()).await.expect("an answer"), "{round}");
            second.release().await.expect("it was held");
        }
    });
}

/// A waiter outlives the member that it waits at.
#[test]
fn a_waiter_goes_on_at_another_member() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let endpoints = [cluster.endpoint(follower), cluster.endpoint(leader)];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let open = || async {
        let client = Client::connect(&endpoints).await.expect("endpoints");
        client.open_session(SessionOptions::default()).await.expect("open")
    };
    let (one, two) = (runtime.block_on(open()), runtime.block_on(open()));
    let first = runtime.block_on(one.lock("x")).expect("free");
    let second = runtime.spawn(async move {
        let lock = two.lock("x").await;
        (lock, two)
    });
    std::thread::sleep(Duration::from_millis(300));
    cluster.kill(follower);
    std::thread::sleep(Duration::from_millis(500));
    runtime.block_on(async {
        first.release().await.expect("it was held");
        let (second, session) = second.await.expect("the task");
        second.expect("its turn").release().await.expect("it was held");
        session.close().await.expect("closed");
    });
}

/// Who follows what holders write knows a late one by what it has seen.
#[test]
fn a_recipient_of_a_watch_refuses_a_late_holder_without_a_call() {
    let cluster = Cluster::start(1);
    block_on(async {
        let client = Client::connect([cluster.endpoint(0)]).await.expect("endpoints");
        let open = async || client.open_session(SessionOptions::default()).await.expect("open");
        let (one, two) = (open().await, open().await);
        let mut ledger = client.follow("ledger");
        let first = one.lock("l").await.expect("free");
        let late = first.sequencer().to_string();
        let mut newest = Newest::default();
        let mut writes = async |what: String| {
            let (seen, written) = tokio::join!(ledger.next(), async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                client.put("ledger", what, 0).await
            });
            written.expect("written");
            let seen = text(&seen.expect("an event"));
            newest.admit(&seen.parse().expect("a sequencer"))
        };
        assert!(writes(late.clone()).await);
        first.release().await.expect("it held");
        let second = two.lock("l").await.expect("free");
        assert!(writes(second.sequencer().to_string()).await);
        // It comes late, and nothing has checked it on the way.
        assert!(!writes(late).await);
    });
}

/// Whose place is gone while its session lives hears of it at once.
#[test]
fn a_holder_hears_that_its_lock_was_taken_from_it() {
    let mut cluster = Cluster::start(3);
    let endpoints: Vec<String> = (0..3).map(|i| cluster.endpoint(i)).collect();
    let at = cluster.endpoints();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(Client::connect(&endpoints)).expect("endpoints");
    let session = runtime.block_on(client.open_session(SessionOptions::default())).expect("open");
    let soon = |lock: &synod_client::Lock, within| {
        runtime.block_on(async { tokio::time::timeout(within, lock.lost()).await.is_ok() })
    };
    let (short, long) = (Duration::from_millis(700), Duration::from_secs(10));
    let lock = runtime.block_on(session.lock("x")).expect("free");
    assert!(!soon(&lock, short), "it is held");
    // Another member goes on telling.
    let waits = runtime.spawn(async move {
        lock.lost().await;
        lock
    });
    std::thread::sleep(short);
    cluster.kill(0);
    std::thread::sleep(short);
    assert!(!waits.is_finished(), "it is held");
    let key = format!("x/{:x}", session.id());
    assert!(run(&at, &["del", &key]).status.success());
    let waited = async { tokio::time::timeout(long, waits).await };
    let lock = runtime.block_on(waited).expect("in time").expect("the task");
    assert!(soon(&lock, long), "it stays lost");
    // Taken again, it is another acquisition.
    let again = runtime.block_on(session.lock("x")).expect("free");
    assert!(soon(&lock, long) && !soon(&again, short));
    // Written over, its key is nobody's: writes by its sequencer would be refused.
    let other = runtime.block_on(session.lock("y")).expect("free");
    assert!(run(&at, &["put", &format!("y/{:x}", session.id()), "junk"]).status.success());
    assert!(soon(&other, long));
    runtime.block_on(async {
        // The session's end, by others, is told long before its deadline.
        let revoke = pb::LeaseRevokeRequest { id: session.id() };
        LeaseClient::new(cluster.channel(1)).lease_revoke(revoke).await.expect("revoked");
    });
    assert!(soon(&again, Duration::from_secs(5)));
    let doubt = session.closer_than(Duration::ZERO);
    let doubt = async { tokio::time::timeout(Duration::from_secs(9), doubt).await };
    runtime.block_on(doubt).expect("by the next renewal");
}
