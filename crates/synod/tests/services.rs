//! Services with real agents: one active instance, health, failover.

mod common;

use common::Cluster;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn synod(endpoints: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synod"));
    // Before `--`, behind which all is the command's.
    command.arg(args[0]).args(["--endpoints", endpoints]).args(&args[1..]).stdin(Stdio::null());
    command
}

fn run(endpoints: &str, args: &[&str]) -> Output {
    synod(endpoints, args).output().expect("synod runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An agent whose instance is healthy while its file is there, and which notes
/// what becomes of it in a log that all agents share.
struct Agent {
    child: Child,
    healthy: PathBuf,
}

/// Writes a heartbeat as long as it runs, then (asked to end) a farewell.
const WORK: &str = r#"
trap 'echo "stopped $SYNOD_INSTANCE $SYNOD_TOKEN" >>"$LOG"; exit 0' TERM
while :; do date +%s%N >"$LOG.$SYNOD_INSTANCE"; sleep 0.05; done
"#;

const PROMOTED: &str = r#"echo "promoted $SYNOD_INSTANCE $SYNOD_TOKEN" >>"$LOG""#;

impl Agent {
    fn start(at: &str, dir: &Path, name: &str, more: &[&str]) -> Agent {
        let (healthy, log) = (dir.join(format!("{name}.up")), dir.join("log"));
        std::fs::write(&healthy, "").expect("a file");
        let check = format!("exec:test -e {}", healthy.display());
        let mut args = vec!["service", "register", "web", "--instance", name, "--check", &check];
        args.extend(["--every", "100", "--address", "127.0.0.1:1"]);
        if !more.contains(&"--on-promote") {
            args.extend(["--on-promote", PROMOTED]);
        }
        args.extend(["--on-demote", "echo \"demoted $SYNOD_INSTANCE\" >>\"$LOG\""]);
        args.extend(more);
        args.extend(["--", "sh", "-c", WORK]);
        let child =
            synod(at, &args).env("LOG", log).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Agent { child: child.expect("it starts"), healthy }
    }

    fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("its end");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let term = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        if term.is_ok_and(|s| s.success()) {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(10) {
                if self.child.try_wait().is_ok_and(|s| s.is_some()) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The instances with this role.
fn with(at: &str, role: &str) -> Vec<String> {
    let list = text(&run(at, &["service", "list", "web"]).stdout);
    let is = |l: &&str| l.contains(role);
    list.lines().filter(is).filter_map(|l| l.split_whitespace().nth(1)).map(str::to_owned).collect()
}

fn active(at: &str) -> Option<String> {
    let active = with(at, " active ");
    assert!(active.len() <= 1, "{active:?}");
    active.into_iter().next()
}

fn log(dir: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// Each is promoted with a greater token, and after the one before it was stopped.
fn in_order(log: &[String], killed: &[&str]) {
    let (mut serving, mut last): (Option<String>, i64) = (None, 0);
    for line in log {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "promoted" => {
                let token: i64 = words[2].parse().expect("a token");
                let before = serving.replace(words[1].to_owned());
                let lost = before.as_deref().is_none_or(|b| killed.contains(&b));
                assert!(lost && token > last, "{line}: {log:?}");
                last = token;
            }
            "demoted" => assert_eq!(serving.take().as_deref(), Some(words[1]), "{log:?}"),
            _ => {}
        }
    }
}

#[test]
fn one_instance_is_active_and_another_follows() {
    let cluster = Cluster::start(3);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let dir = dir.path();
    let health = || run(&at, &["service", "health", "web"]);
    assert_eq!(health().status.code(), Some(1));
    let mut a = Agent::start(&at, dir, "a", &[]);
    until("a", || active(&at).as_deref() == Some("a"));
    let b = Agent::start(&at, dir, "b", &[]);
    let c = Agent::start(&at, dir, "c", &[]);
    until("all healthy", || with(&at, "healthy").len() == 3);
    assert!(health().status.success() && active(&at).as_deref() == Some("a"));

    // The agent dies: its command with it, and another takes over.
    a.kill();
    until("another", || active(&at).is_some_and(|n| n != "a"));
    let beat = || std::fs::read_to_string(dir.join("log.a")).expect("a's heartbeat");
    std::thread::sleep(Duration::from_millis(200));
    let last = beat();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(beat(), last, "the command of a killed agent runs on");

    // It comes back as a passive one.
    let a = Agent::start(&at, dir, "a", &[]);
    until("a's return", || with(&at, "passive").contains(&"a".to_owned()));
    until("all healthy", || with(&at, "healthy").len() == 3);

    // The active one fails its checks, and comes back as a passive one.
    let all = [("a", &a), ("b", &b), ("c", &c)];
    let failing = active(&at).expect("an active one");
    let (_, agent) = all.iter().find(|(n, _)| *n == failing).expect("one of them");
    std::fs::remove_file(&agent.healthy).expect("removed");
    until("another", || active(&at).is_some_and(|n| n != failing));
    until("its failure", || with(&at, "failing").contains(&failing));
    std::fs::write(&agent.healthy, "").expect("a file");
    until("its recovery", || with(&at, "healthy").len() == 3);
    assert_ne!(active(&at).as_deref(), Some(failing.as_str()), "it takes nothing back");

    // An operator moves it.
    let before = active(&at).expect("an active one");
    let to = all.iter().map(|(n, _)| *n).find(|n| **n != before).expect("another");
    let moved = run(&at, &["service", "failover", "web", "--to", to]);
    assert!(moved.status.success(), "{}", text(&moved.stderr));
    assert!(text(&moved.stdout).starts_with(&format!("{to} is active by token")), "{moved:?}");
    assert_eq!(active(&at).as_deref(), Some(to));
    let again = run(&at, &["service", "failover", "web", "--to", to]);
    assert!(text(&again.stderr).contains("is active already"), "{again:?}");
    let nobody = run(&at, &["service", "failover", "web", "--to", "x"]);
    assert!(text(&nobody.stderr).contains("no healthy instance x"), "{nobody:?}");
    drop((a, b, c));
    assert_eq!(text(&run(&at, &["service", "list"]).stdout), "");
    in_order(&log(dir), &["a"]);
}

#[test]
fn all_healthy_instances_are_active_if_that_is_wanted() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let more = ["--mode", "active/active"];
    let agents: Vec<Agent> =
        ["a", "b"].iter().map(|n| Agent::start(&at, dir.path(), n, &more)).collect();
    until("both", || with(&at, " active ").len() == 2);
    std::fs::remove_file(&agents[0].healthy).expect("removed");
    until("one", || with(&at, " active ") == ["b"]);
    let stuck = run(&at, &["service", "failover", "web"]);
    assert!(text(&stuck.stderr).contains("active/active"), "{stuck:?}");
}

/// What cannot be promoted lets another try.
#[test]
fn an_instance_whose_promotion_fails_steps_aside() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let broken = Agent::start(&at, dir.path(), "broken", &["--on-promote", "exit 9"]);
    until("its place", || with(&at, "healthy").len() == 1);
    let _whole = Agent::start(&at, dir.path(), "whole", &[]);
    until("the other", || active(&at).as_deref() == Some("whole"));
    drop(broken);
}

/// An application that reports itself, by the command and over JSON; when it falls
/// silent, that is noticed by its rhythm, long before its time to live is over.
#[test]
fn an_instance_that_reports_itself() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let more = ["--check", "ttl:60", "--phi-pause", "300"];
    let _agent = Agent::start(&at, dir.path(), "a", &more);
    until("its record", || !with(&at, "passive").is_empty());
    assert!(active(&at).is_none(), "it has not reported yet");
    let report = |what: &str| {
        let done = run(&at, &["service", "report", "web", "--instance", "a", what, "--why", "ill"]);
        assert!(done.status.success(), "{done:?}");
    };
    let beat = |times: usize, what: &str| {
        for _ in 0..times {
            report(what);
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    beat(20, "healthy");
    until("its office", || {
        report("healthy");
        active(&at).is_some()
    });
    report("unhealthy");
    until("its failure", || with(&at, "failing: it reports: ill") == ["a"]);
    assert!(active(&at).is_none());
    until("its recovery", || {
        report("healthy");
        active(&at).is_some()
    });
    beat(20, "healthy");
    let begun = Instant::now();
    until("its silence", || with(&at, "failing: its reports have stopped") == ["a"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let stranger = run(&at, &["service", "report", "web", "--instance", "x", "healthy"]);
    assert!(text(&stranger.stderr).contains("no instance"), "{stranger:?}");
}

/// Takes two seconds, longer than its session lives, to end in order.
const SLOW: &str = r#"
trap 'sleep 2; echo "stopped $SYNOD_INSTANCE" >>"$LOG"; exit 0' TERM
echo "begun $SYNOD_INSTANCE" >>"$LOG"
while :; do sleep 0.05; done
"#;

/// A command that is asked to end has time for it, and nobody else begins before.
#[test]
fn a_command_ends_in_order_before_the_next_begins() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let start = |name: &str| {
        let args = ["service", "register", "web", "--instance", name, "--", "sh", "-c", SLOW];
        let mut command = synod(&at, &args);
        command.env("LOG", dir.path().join("log")).stdout(Stdio::null()).stderr(Stdio::null());
        Agent { child: command.spawn().expect("it starts"), healthy: PathBuf::new() }
    };
    let _a = start("a");
    until("a is active", || active(&at).as_deref() == Some("a"));
    let _b = start("b");
    until("b is healthy", || with(&at, " healthy").len() == 2);
    let done = run(&at, &["service", "failover", "web"]);
    assert!(done.status.success(), "{done:?}");
    until("b has begun", || log(dir.path()).len() >= 3);
    assert_eq!(log(dir.path())[..3], ["begun a", "stopped a", "begun b"]);
}

/// What a hook started does not go on when its agent gives the office back.
#[test]
fn a_hook_that_is_cut_short_ends_with_all_that_it_started() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let hook = r#"echo begun >>"$LOG"; sh -c 'sleep 2; echo "promoted late" >>"$LOG"'; true"#;
    let agent = Agent::start(&at, dir.path(), "a", &["--on-promote", hook]);
    until("its hook", || !log(dir.path()).is_empty());
    drop(agent);
    std::thread::sleep(Duration::from_millis(2_500));
    let log = log(dir.path());
    assert!(!log.contains(&"promoted late".to_owned()), "{log:?}");
}
