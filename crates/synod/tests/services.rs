//! Services with real agents: one active instance, health, failover.

mod common;

#[path = "../../client/examples/services.rs"]
mod example;

use common::http::http;
use common::shell::{run, synod, text, until};
use common::{Cluster, block_on};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::lock_client::LockClient;

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

/// Each is promoted with a greater token, and after the one before it was stopped. What
/// was interrupted while it was promoted is demoted without having said more.
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
            "demoted" => {
                let of_another = serving.take().is_some_and(|s| s != words[1]);
                assert!(!of_another, "{line}: {log:?}");
            }
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
    until("its refusal", || with(&at, "failing: could not be promoted: exit 9") == ["broken"]);
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

/// What a hook started does not go on when its agent gives the office back, or is killed.
#[test]
fn a_hook_that_is_cut_short_ends_with_all_that_it_started() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let hook = r#"echo begun >>"$LOG"; sh -c 'sleep 2; echo "promoted late" >>"$LOG"'; true"#;
    let mut agent = Agent::start(&at, dir.path(), "a", &["--on-promote", hook]);
    until("its hook", || !log(dir.path()).is_empty());
    agent.kill();
    let agent = Agent::start(&at, dir.path(), "a", &["--on-promote", hook]);
    until("its next hook", || log(dir.path()).iter().filter(|l| *l == "begun").count() == 2);
    drop(agent);
    std::thread::sleep(Duration::from_millis(2_500));
    let log = log(dir.path());
    assert!(!log.contains(&"promoted late".to_owned()), "{log:?}");
}

/// The second agent of an instance that is there is refused; so is one that wants another
/// mode. What is there stays as it is.
#[test]
fn an_instance_is_there_once_and_a_service_has_one_mode() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let _a = Agent::start(&at, dir.path(), "a", &[]);
    until("a", || active(&at).as_deref() == Some("a"));
    let refused = |args: &[&str], why: &str| {
        let all = [&["service", "register", "web", "--instance"][..], args].concat();
        let begun = Instant::now();
        let done = run(&at, &all);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        assert!(text(&done.stderr).contains(why), "{done:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    };
    refused(&["a", "--", "sleep", "60"], "is this instance");
    refused(
        &["b", "--mode", "active/active", "--", "sleep", "60"],
        "the service is active/passive",
    );
    refused(&["b/c"], "printable");
    assert_eq!(active(&at).as_deref(), Some("a"));
    let health = run(&at, &["service", "health", "web"]);
    assert_eq!(text(&health.stdout), "1 active, 1 healthy, 1 instances\n");
    // Nor is what is healthy meant by `web` what another service of such a name has.
    assert_eq!(text(&run(&at, &["service", "list", "we"]).stdout), "");
}

/// Whoever gave the office back, its holder is not active any longer.
#[test]
fn an_active_instance_that_loses_the_office_stops() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let promoted = format!(r#"{PROMOTED}; echo "$SYNOD_SEQUENCER" >"$LOG.sequencer""#);
    let more = ["--on-promote", &promoted[..], "--ttl", "60"];
    let _a = Agent::start(&at, dir.path(), "a", &more);
    until("a", || active(&at).as_deref() == Some("a"));
    let _b = Agent::start(&at, dir.path(), "b", &more);
    until("b", || with(&at, " healthy").len() == 2);
    let sequencer = std::fs::read_to_string(dir.path().join("log.sequencer")).expect("its own");
    let release = v1::LockReleaseRequest { sequencer: sequencer.trim().to_owned() };
    block_on(async { LockClient::new(cluster.channel(0)).release(release).await.expect("free") });
    until("b is active", || active(&at).as_deref() == Some("b"));
    until("a is passive", || log(dir.path()).contains(&"demoted a".to_owned()));
    let beat = || std::fs::read_to_string(dir.path().join("log.a")).expect("a's heartbeat");
    let last = beat();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(beat(), last, "a's command runs on");
}

/// After an operator's handover, those that made room for it are there again.
#[test]
fn a_handover_leaves_no_hole() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let mut a = Agent::start(&at, dir.path(), "a", &[]);
    until("a", || active(&at).as_deref() == Some("a"));
    let _b = Agent::start(&at, dir.path(), "b", &[]);
    until("b is healthy", || with(&at, " healthy").len() == 2);
    assert!(run(&at, &["service", "failover", "web", "--to", "b"]).status.success());
    assert!(run(&at, &["service", "failover", "web", "--to", "a"]).status.success());
    std::thread::sleep(Duration::from_millis(500));
    a.kill();
    let begun = Instant::now();
    until("b", || active(&at).as_deref() == Some("b"));
    assert!(begun.elapsed() < Duration::from_millis(3_500), "{:?}", begun.elapsed());
}

/// What is no answer has another exit code than the answer no, and comes in time.
#[test]
fn a_cluster_without_a_quorum_is_not_a_service_without_an_instance() {
    let mut cluster = Cluster::start(3);
    let at = cluster.endpoints();
    let code = |args: &[&str]| {
        let begun = Instant::now();
        let done = run(&at, args).status.code();
        assert!(begun.elapsed() < Duration::from_secs(9), "{args:?}: {:?}", begun.elapsed());
        done
    };
    assert_eq!(code(&["service", "health", "web"]), Some(1));
    assert_eq!(code(&["service", "failover", "web"]), Some(1));
    cluster.kill(0);
    cluster.kill(1);
    for what in ["health", "list", "failover"] {
        assert_eq!(code(&["service", what, "web", "--timeout", "2",]), Some(69), "{what}");
    }
}

/// A silence needs no further failures, however many `--fall` asks for; and the list
/// tells the latest reason.
#[test]
fn a_silence_is_believed_at_once_and_reasons_are_kept_up_to_date() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let more = ["--check", "ttl:60", "--fall", "600", "--rise", "1"];
    let _agent = Agent::start(&at, dir.path(), "a", &more);
    until("its record", || !with(&at, "passive").is_empty());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(synod_client::Client::connect([&at])).expect("an endpoint");
    let report = |health: Result<(), &str>| {
        runtime.block_on(client.report("web", "a", health)).expect("reported");
    };
    until("its office", || {
        std::thread::sleep(Duration::from_millis(80));
        report(Ok(()));
        active(&at).is_some()
    });
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        report(Ok(()));
    }
    let begun = Instant::now();
    until("its silence", || with(&at, "failing: its reports have stopped") == ["a"]);
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    report(Err("ill"));
    until("its reason", || with(&at, "failing: it reports: ill") == ["a"]);
    report(Err("disk full"));
    until("its next reason", || with(&at, "failing: it reports: disk full") == ["a"]);
}

/// The client crate's calls, and the same over JSON.
#[test]
fn services_without_an_agent() {
    let cluster = Cluster::start(1);
    block_on(example::show(&[cluster.endpoint(0)])).expect("the example");
    let ask = |path: &str, body: &str| -> serde_json::Value {
        let path = format!("/synod/v1/{path}");
        let (_, answer) = http(&cluster.endpoint(0), "POST", &path, body);
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{path}: {answer:?}: {e}"))
    };
    let session =
        ask("session/open", r#"{"ttl_s": 60}"#)["session"].as_str().expect("an id").to_owned();
    let register = |more: &str| {
        let own = format!(r#"{{"service": "web", "instance": "a", "session": "{session}"{more}}}"#);
        ask("service/register", &own)
    };
    let done = register(r#", "mode": "ACTIVE_ACTIVE", "health": "HEALTHY", "active": true"#);
    assert!(done["header"].is_object(), "{done}");
    let list = ask("service/list", "{}");
    assert_eq!(list["instances"][0]["mode"], "ACTIVE_ACTIVE", "{list}");
    assert_eq!(list["instances"][0]["active"], true, "{list}");
    assert_eq!(ask("service/health", r#"{"service": "web"}"#)["healthy"], 1);
    let moved = ask("service/failover", r#"{"service": "web"}"#);
    assert!(moved["message"].as_str().is_some_and(|m| m.contains("active/active")), "{moved}");
    let nobody = ask(
        "service/register",
        r#"{"service": "web", "instance": "b", "session": "7", "mode": "ACTIVE_ACTIVE"}"#,
    );
    assert!(nobody["message"].as_str().is_some_and(|m| m.contains("no session")), "{nobody}");
}

/// An agent whose reader goes away goes on, and its instance can be demoted.
#[test]
fn an_agent_outlives_the_reader_of_what_it_says() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let healthy = dir.path().join("a.up");
    std::fs::write(&healthy, "").expect("a file");
    let check = format!("exec:test -e {}", healthy.display());
    let args = ["service", "register", "web", "--instance", "a", "--check", &check];
    let more = ["--every", "50", "--on-demote", "echo demoted >>\"$LOG\""];
    let mut command = synod(&at, &[&args[..], &more].concat());
    command.env("LOG", dir.path().join("log")).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut agent = Agent { child: command.spawn().expect("it starts"), healthy };
    let mut line = String::new();
    let said = agent.child.stderr.take().expect("piped");
    BufReader::new(said).read_line(&mut line).expect("a line");
    assert!(line.contains("is healthy"), "{line}");
    until("its office", || active(&at).is_some());
    std::fs::remove_file(&agent.healthy).expect("removed");
    until("its demotion", || log(dir.path()) == ["demoted"]);
    until("its failure", || with(&at, "failing") == ["a"]);
    assert!(agent.child.try_wait().expect("its state").is_none(), "it has ended");
}

/// An agent with a command of its own.
fn agent_of(at: &str, dir: &Path, name: &str, more: &[&str], command: &str) -> Agent {
    let args = [&["service", "register", "web", "--instance", name], more];
    let mut process = synod(at, &[&args.concat()[..], &["--", "sh", "-c", command]].concat());
    process.env("LOG", dir.join("log")).stdout(Stdio::null()).stderr(Stdio::null());
    Agent { child: process.spawn().expect("it starts"), healthy: PathBuf::new() }
}

/// The number in a file, once it is there.
fn number(path: &Path) -> u32 {
    let read = || std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
    until("a number in a file", || read().is_some());
    read().and_then(|text| text.trim().parse().ok()).expect("a number")
}

fn is_alive(process: u32) -> bool {
    // A zombie has ended.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| !after.trim_start().starts_with('Z'))
}

/// When others may be active, nothing that the command started goes on.
#[test]
fn a_lost_session_ends_what_has_left_the_commands_group() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let work = r#"setsid sh -c 'echo $$ >"$LOG.$SYNOD_SESSION"; exec sleep 1000' & wait"#;
    let _a = agent_of(&at, dir.path(), "a", &["--ttl", "60"], work);
    until("a", || active(&at).is_some());
    let list = run(&at, &["service", "list", "web", "--output", "json"]);
    let a: serde_json::Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let session = a["session"].as_str().expect("a session");
    let below = number(&dir.path().join(format!("log.{session}")));
    let id = i64::from_str_radix(session, 16).expect("a number");
    let body = format!(r#"{{"session": "{id}"}}"#);
    http(&cluster.endpoint(0), "POST", "/synod/v1/session/close", &body);
    until("its end", || !is_alive(below));
}

/// One that takes its time to end has none left when another may be active.
#[test]
fn an_instance_that_is_deposed_while_it_ends_is_killed_at_once() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let stubborn = r#"trap 'echo asked >"$LOG"' TERM; echo "$SYNOD_SEQUENCER" >"$LOG.sequencer"
        echo $$ >"$LOG.pid"; while :; do sleep 0.05; done"#;
    let _a = agent_of(&at, dir.path(), "a", &["--ttl", "60"], stubborn);
    let process = number(&dir.path().join("log.pid"));
    let _b = Agent::start(&at, dir.path(), "b", &[]);
    until("b", || with(&at, " healthy").len() == 2);
    let mut moving = synod(&at, &["service", "failover", "web"]);
    let mut moving = moving.stdout(Stdio::null()).spawn().expect("it starts");
    until("a word", || log(dir.path()) == ["asked"]);
    let asked = Instant::now();
    let sequencer = std::fs::read_to_string(dir.path().join("log.sequencer")).expect("its own");
    let release = v1::LockReleaseRequest { sequencer: sequencer.trim().to_owned() };
    block_on(async { LockClient::new(cluster.channel(0)).release(release).await.expect("free") });
    until("its end", || !is_alive(process));
    // The time that it would have had otherwise is five seconds.
    assert!(asked.elapsed() < Duration::from_millis(4_500), "{:?}", asked.elapsed());
    moving.wait().expect("its end");
}

/// What could not be made active once is tried again.
#[test]
fn one_of_many_that_could_not_be_promoted_tries_again() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let more = ["--mode", "active/active", "--on-promote", "test -f \"$LOG.ok\""];
    let _a = Agent::start(&at, dir.path(), "a", &more);
    until("its refusal", || with(&at, "failing: could not be promoted") == ["a"]);
    std::fs::write(dir.path().join("log.ok"), "").expect("a file");
    until("its turn", || with(&at, " active ") == ["a"] && with(&at, " healthy") == ["a"]);
}

/// Whatever ends an agent in order, its instance is demoted.
#[test]
fn an_agent_whose_terminal_goes_away_demotes_its_instance() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    for name in ["HUP", "QUIT"] {
        let mut agent = Agent::start(&at, dir.path(), name, &[]);
        until("its turn", || active(&at).as_deref() == Some(name));
        let kill = Command::new("kill").args(["-s", name, &agent.child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        assert_eq!(agent.child.wait().expect("its end").code(), Some(0), "{name}");
        assert_eq!(log(dir.path()).last(), Some(&format!("demoted {name}")));
    }
}

/// Of wishes that follow one another at once, the last counts: nobody steps aside for
/// one that is meant no longer.
#[test]
fn operators_who_change_their_minds_leave_no_hole() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let _all: Vec<Agent> =
        ["a", "b", "c"].iter().map(|name| Agent::start(&at, dir.path(), name, &[])).collect();
    until("all", || with(&at, " healthy").len() == 3 && active(&at).is_some());
    let first = active(&at).expect("an active one");
    let other = if first == "c" { "b" } else { "c" };
    // Who stepped aside in vain does so for five seconds.
    for to in [&["--to", other][..], &["--to", &first], &[], &[], &[]] {
        let moved = run(&at, &[&["service", "failover", "web", "--within", "4"], to].concat());
        assert!(moved.status.success(), "{to:?}: {moved:?}");
    }
}

/// Who cannot follow is not waited for.
#[test]
fn an_operator_is_told_that_a_promotion_failed() {
    let cluster = Cluster::start(1);
    let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
    let _a = Agent::start(&at, dir.path(), "a", &[]);
    until("a", || active(&at).as_deref() == Some("a"));
    let _b = Agent::start(&at, dir.path(), "b", &["--on-promote", "exit 9"]);
    until("b", || with(&at, " healthy").len() == 2);
    let moved = run(&at, &["service", "failover", "web", "--to", "b", "--within", "60"]);
    assert_eq!(moved.status.code(), Some(1));
    let words = text(&moved.stderr);
    assert!(words.contains("b has not followed: failing: could not be promoted"), "{words}");
    until("a again", || active(&at).as_deref() == Some("a"));
}

/// The first line that an agent says.
fn first_word(at: &str, more: &[&str]) -> String {
    let args = [&["service", "register", "web", "--instance", "x"][..], more].concat();
    let mut command = synod(at, &args);
    let child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut agent = Agent { child, healthy: PathBuf::new() };
    let mut line = String::new();
    let said = agent.child.stderr.take().expect("piped");
    BufReader::new(said).read_line(&mut line).expect("a line");
    line
}

#[test]
fn an_agent_says_why_it_is_no_instance() {
    let mut cluster = Cluster::start(3);
    let at = cluster.endpoints();
    // What will never be granted is not tried again.
    let done = run(&at, &["service", "register", "web", "--ttl", "99999999999999"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    // Whatever stands in a record, a line of the list is an instance.
    let body = r#"{"ttl_s": 60}"#;
    let (_, opened) = http(&cluster.endpoint(0), "POST", "/synod/v1/session/open", body);
    let opened: serde_json::Value = serde_json::from_str(&opened).expect("JSON");
    let session = opened["session"].as_str().expect("an id");
    let own = format!(
        r#"{{"service": "web", "instance": "a", "session": "{session}", "health": "FAILING",
            "address": "x\nweb b", "why": "y\nweb c\u001b[2J"}}"#
    );
    http(&cluster.endpoint(0), "POST", "/synod/v1/service/register", &own);
    let list = text(&run(&at, &["service", "list", "web"]).stdout);
    assert!(list.lines().count() == 1 && !list.contains('\u{1b}'), "{list:?}");
    cluster.kill(0);
    cluster.kill(1);
    let line = first_word(&at, &[]);
    assert!(line.contains("the cluster does not answer"), "{line}");
}
