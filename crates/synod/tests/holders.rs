//! The process that holds a lock for a command: whatever becomes of it, its watchdog,
//! its terminal or its place, the command never runs on without the lock.

mod common;

use common::Cluster;
use common::shell::{from_a_shell, run, synod, text, until};
use std::io::{BufRead, BufReader, Write};

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn signal(process: u32, name: &str) {
    let process = process.to_string();
    let mut kill = Command::new("kill");
    let _ = kill.args(["-s", name, &process]).stderr(Stdio::null()).status();
}

fn is_alive(process: u32) -> bool {
    // A zombie has ended.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| !after.trim_start().starts_with('Z'))
}

/// Process ids of a process's children, with their commands.
fn children(parent: u32) -> Vec<(u32, String)> {
    let out = Command::new("ps").args(["-o", "pid=,args=", "--ppid", &parent.to_string()]).output();
    let line = |line: &str| {
        let (pid, args) = line.trim().split_once(' ')?;
        Some((pid.parse().ok()?, args.to_owned()))
    };
    text(&out.expect("ps runs").stdout).lines().filter_map(line).collect()
}

fn watchdog(holder: u32) -> Option<u32> {
    children(holder).into_iter().find(|(_, args)| args.ends_with(" watchdog")).map(|(pid, _)| pid)
}

/// The number in a file, once it is there.
fn number(path: &Path) -> u32 {
    let read = || std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
    until("a number in a file", || read().is_some());
    read().and_then(|text| text.trim().parse().ok()).expect("a number")
}

/// A process, ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn code(process: &mut Process) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if let Some(status) = process.0.try_wait().expect("a child") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("it did not end");
}

/// Notes its process, and works until it is ended.
const WORK: &str = "echo $$ >\"$LOG\"; while :; do sleep 0.05; done";

struct Bench {
    cluster: Cluster,
    at: String,
    dir: tempfile::TempDir,
}

impl Bench {
    fn of(nodes: usize) -> Bench {
        let cluster = Cluster::start(nodes);
        let (at, dir) = (cluster.endpoints(), tempfile::tempdir().expect("a folder"));
        Bench { cluster, at, dir }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn hold(&self, args: &[&str], log: &Path) -> Command {
        let mut command = synod(&self.at, args);
        command.env("LOG", log).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Runs a shell's script on a terminal; what is written to its input is typed there.
    fn typed(&self, script: &str) -> Process {
        let bin = Path::new(env!("CARGO_BIN_EXE_synod")).parent().expect("a folder");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        // Whoever waits for a line waits for this.
        let mut command = from_a_shell("timeout");
        command.args(["--foreground", "60", "script"]);
        command.args(["-qefc", script, "/dev/null"]).env("SHELL", "/bin/sh");
        command.env("PATH", path).env("SYNOD_ENDPOINTS", &self.at).env("DIR", self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Process(command.spawn().expect("script starts"))
    }
}

#[test]
fn a_killed_watchdog_is_followed_by_another() {
    let b = Bench::of(1);
    let log = b.log("work");
    let lock = ["lock", "l", "--ttl", "2", "--", "sh", "-c", WORK];
    let mut holder = Process(b.hold(&lock, &log).spawn().expect("it starts"));
    let work = number(&log);
    let first = watchdog(holder.0.id()).expect("a watchdog");
    signal(first, "KILL");
    until("another watchdog", || watchdog(holder.0.id()).is_some_and(|pid| pid != first));
    std::thread::sleep(Duration::from_secs(3));
    assert!(is_alive(work), "the holder lives, and so does the lock");
    // The new one does what the first was for.
    signal(holder.0.id(), "KILL");
    until("the command's end", || !is_alive(work));
    let _ = holder.0.wait();
}

#[test]
fn a_holder_outlives_its_readers() {
    let b = Bench::of(1);
    let log = b.log("lock");
    let lock = ["lock", "l", "--ttl", "2", "--", "sh", "-c", WORK];
    let mut command = b.hold(&lock, &log);
    let mut holder = Process(command.stdout(Stdio::piped()).spawn().expect("it starts"));
    drop((holder.0.stdout.take(), holder.0.stderr.take()));
    let work = number(&log);
    // It has something to say, and nobody reads it.
    signal(watchdog(holder.0.id()).expect("a watchdog"), "KILL");
    std::thread::sleep(Duration::from_secs(3));
    assert!(is_alive(work) && is_alive(holder.0.id()));
    signal(holder.0.id(), "TERM");
    assert_eq!(code(&mut holder), Some(128 + 15));

    // One that only says what it holds goes on, too.
    let mut command = synod(&b.at, &["elect", "e", "me"]);
    let mut leader = Process(command.stdout(Stdio::piped()).spawn().expect("it starts"));
    drop(leader.0.stdout.take());
    until("a leader", || text(&run(&b.at, &["elect", "e", "--show"]).stdout).starts_with("leads"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(is_alive(leader.0.id()));
    signal(leader.0.id(), "TERM");
    assert_eq!(code(&mut leader), Some(0));
}

#[test]
fn signals_are_the_commands() {
    let b = Bench::of(1);
    let work = "for s in INT TERM HUP QUIT; do trap \"echo $s >\\\"$LOG.got\\\"; exit 9\" $s; done; \
                trap 'echo USR >>\"$LOG.got\"' USR1 USR2; \
                echo $$ >\"$LOG\"; while :; do sleep 0.05; done";
    for name in ["INT", "TERM", "HUP", "QUIT"] {
        let log = b.log(name);
        let lock = ["lock", "l", "--ttl", "20", "--", "sh", "-c", work];
        let mut holder = Process(b.hold(&lock, &log).spawn().expect("it starts"));
        number(&log);
        signal(holder.0.id(), name);
        assert_eq!(code(&mut holder), Some(9), "{name}");
        let got = std::fs::read_to_string(log.with_extension("got")).expect("a signal");
        assert_eq!(got.trim(), name);
    }
    // What means something else ends nothing.
    let log = b.log("USR");
    let lock = ["lock", "l", "--ttl", "20", "--", "sh", "-c", work];
    let mut holder = Process(b.hold(&lock, &log).spawn().expect("it starts"));
    number(&log);
    for (times, name) in [(1, "USR1"), (2, "USR2")] {
        signal(holder.0.id(), name);
        until(name, || {
            let got = std::fs::read_to_string(log.with_extension("got")).unwrap_or_default();
            got.lines().count() == times
        });
    }
    // Each gave the lock back: nobody waits for a ttl.
    signal(holder.0.id(), "HUP");
    assert_eq!(code(&mut holder), Some(9));
    assert!(run(&b.at, &["lock", "l", "--try", "--", "true"]).status.success());
    // Who waits is ended by them, and holds nobody up.
    let mut first = Process(synod(&b.at, &["lock", "l"]).stdout(Stdio::null()).spawn().expect("x"));
    let shown = || text(&run(&b.at, &["lock", "l", "--show"]).stdout);
    until("the lock", || shown().contains("holds"));
    let mut waits = Process(b.hold(&["lock", "l", "--", "true"], &log).spawn().expect("it starts"));
    until("a waiter", || shown().contains("waits"));
    signal(waits.0.id(), "HUP");
    assert_eq!(code(&mut waits), Some(1));
    assert!(!shown().contains("waits"));
    signal(first.0.id(), "QUIT");
    assert_eq!(code(&mut first), Some(0));
}

/// A lock that was taken from a holder, by its own command's sequencer or by hand.
#[test]
fn who_loses_its_place_is_stopped() {
    let b = Bench::of(1);
    let log = b.log("first");
    let lock = ["lock", "l", "--", "sh", "-c", WORK];
    let mut holder = Process(b.hold(&lock, &log).spawn().expect("it starts"));
    let work = number(&log);
    let found = text(&run(&b.at, &["get", "--prefix", "l/"]).stdout);
    let key = found.split_whitespace().next().expect("its key").to_owned();
    assert!(run(&b.at, &["del", &key]).status.success());
    assert_eq!(code(&mut holder), Some(1));
    assert!(!is_alive(work));
    let mut words = String::new();
    let mut said = holder.0.stderr.take().expect("its words");
    std::io::Read::read_to_string(&mut said, &mut words).expect("its words");
    assert!(words.contains("taken from it"), "{words}");

    // Of two with equal priorities, a deposed one stands again, and somebody leads.
    let logs = [b.log("a"), b.log("b")];
    let elect = |log: &PathBuf| {
        let elect = ["elect", "boss", "--", "sh", "-c", WORK];
        Process(b.hold(&elect, log).stderr(Stdio::null()).spawn().expect("it starts"))
    };
    let _a = elect(&logs[0]);
    let first = number(&logs[0]);
    let _b = elect(&logs[1]);
    let office = || -> serde_json::Value {
        let shown = run(&b.at, &["elect", "--output", "json", "boss", "--show"]);
        serde_json::from_slice(&shown.stdout).expect("JSON")
    };
    until("both", || office()["candidates"].as_array().is_some_and(|all| all.len() == 2));
    let leader = office()["leader"].clone();
    let key = format!("boss/{}", leader["session"].as_str().expect("a session"));
    assert!(run(&b.at, &["del", &key]).status.success());
    until("the end of its command", || !is_alive(first));
    until("another term", || {
        let now = office()["leader"].clone();
        now["token"].as_i64() > leader["token"].as_i64()
    });
    assert_eq!(office()["candidates"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_a_shell_learns_from_the_exit_code() {
    let b = Bench::of(1);
    let codes = |args: &[&str]| run(&b.at, args).status.code();
    assert_eq!(codes(&["lock", "l", "--", "/no/such/program"]), Some(127));
    assert_eq!(codes(&["lock", "l", "--", "/etc/passwd"]), Some(126));
    assert_eq!(codes(&["elect", "e", "--", "/no/such/program"]), Some(127));
    let _holder = Process(synod(&b.at, &["lock", "l"]).stdout(Stdio::null()).spawn().expect("x"));
    until("the lock", || text(&run(&b.at, &["lock", "l", "--show"]).stdout).contains("holds"));
    assert_eq!(codes(&["lock", "l", "--try", "--", "true"]), Some(75));
    assert_eq!(codes(&["lock", "l", "--wait=1", "--", "true"]), Some(75));
    assert_eq!(codes(&["lock", "l", "--ttl", "0", "--", "true"]), Some(2));
    for wrong in [["--ttl", "0"], ["--heartbeat", "0"], ["--phi", "nan"], ["--phi", "-1"]] {
        let args = [&["service", "register", "s"][..], &wrong, &["--", "true"]].concat();
        assert_eq!(codes(&args), Some(2), "{wrong:?}");
    }
}

/// The command reads from the terminal, and its group is ended with it.
#[test]
fn a_command_on_a_terminal_takes_all_its_own_with_it() {
    let b = Bench::of(1);
    // Itself ends, is interrupted, or loses its lock: what it started must be gone.
    let work = "sleep 1000 & echo $! >$DIR/below.new; mv $DIR/below.new $DIR/below; \
                read line; echo got-$line; exit 3";
    let script =
        format!("synod lock l -- sh -c '{work}'; echo code-$?; read line; echo then-$line; exit 0");
    let mut typed = b.typed(&script);
    let below = number(&b.log("below"));
    let mut input = typed.0.stdin.take().expect("its input");
    writeln!(input, "one").expect("typed");
    let mut lines = BufReader::new(typed.0.stdout.take().expect("its output")).lines();
    let mut wait = |wanted: &str| {
        lines.by_ref().map(|l| l.expect("a line")).find(|l| l.trim() == wanted).expect("the line")
    };
    wait("got-one");
    wait("code-3");
    assert!(!is_alive(below), "it outlived the lock");
    // The terminal is the shell's again.
    writeln!(input, "two").expect("typed");
    wait("then-two");
    assert_eq!(code(&mut typed), Some(0));
}

/// Ctrl-C is for all of a job: the command, what it started, and the script that it is
/// held in.
#[test]
fn an_interrupted_command_ends_and_its_script_with_it() {
    let b = Bench::of(1);
    let work = "sleep 1000 & echo $! >$DIR/below.new; mv $DIR/below.new $DIR/below; wait";
    let lock = format!("synod lock l -- sh -c '{work}'");
    // A shell that goes on after an interruption, and one that does not.
    for (trap, shown) in [("trap : INT; ", true), ("", false)] {
        let mut typed = b.typed(&format!("{trap}{lock}; echo code-$?; exit 0"));
        let below = number(&b.log("below"));
        let mut input = typed.0.stdin.take().expect("its input");
        input.write_all(b"\x03").expect("typed");
        let lines = BufReader::new(typed.0.stdout.take().expect("its output")).lines();
        let said: Vec<String> = lines.map(|l| l.unwrap_or_default().trim().to_owned()).collect();
        let goes_on = said.iter().any(|l| l.contains("code-"));
        assert_eq!(goes_on, shown, "{said:?}");
        assert!(!shown || said.iter().any(|l| l.ends_with("code-130")), "{said:?}");
        until("the end of what it started", || !is_alive(below));
        std::fs::remove_file(b.log("below")).expect("removed");
        assert!(run(&b.at, &["lock", "l", "--wait=30", "--", "true"]).status.success());
        drop(input);
        code(&mut typed);
    }
}

/// The lines of a terminal, up to one that ends so.
fn wait_for(lines: &mut impl Iterator<Item = std::io::Result<String>>, wanted: &str) {
    let mut said = Vec::new();
    for line in lines {
        said.push(line.unwrap_or_default());
        if said.last().is_some_and(|line| line.trim().ends_with(wanted)) {
            return;
        }
    }
    panic!("no {wanted}: {said:?}");
}

/// In a pipeline any part may read from the terminal, as passwords and pagers do.
#[test]
fn a_pipeline_shares_its_terminal() {
    let b = Bench::of(1);
    let asks = "echo $$ >$DIR/asks; read x; read y </dev/tty; echo got-$x-$y";
    let mut typed = b.typed(&format!("echo data | synod lock l -- sh -c '{asks}'; exit 0"));
    number(&b.log("asks"));
    let mut input = typed.0.stdin.take().expect("its input");
    writeln!(input, "one").expect("typed");
    let mut lines = BufReader::new(typed.0.stdout.take().expect("its output")).lines();
    wait_for(&mut lines, "got-data-one");
    assert_eq!(code(&mut typed), Some(0));

    let pager = "read y </dev/tty; cat; echo end-$y";
    let work = "echo $$ >$DIR/work; sleep 3; echo done";
    let mut typed =
        b.typed(&format!("synod lock l --ttl 2 -- sh -c '{work}' | sh -c '{pager}'; exit 0"));
    number(&b.log("work"));
    let mut input = typed.0.stdin.take().expect("its input");
    writeln!(input, "two").expect("typed");
    let mut lines = BufReader::new(typed.0.stdout.take().expect("its output")).lines();
    wait_for(&mut lines, "done");
    wait_for(&mut lines, "end-two");
    assert_eq!(code(&mut typed), Some(0));
}

/// The state of a process: `T` when it is stopped.
fn state(process: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[test]
fn a_command_is_stopped_and_goes_on_with_its_holder() {
    let b = Bench::of(1);
    let work = "echo $PPID >$DIR/holder; echo $$ >$DIR/work; read line; echo got-$line; exit 3";
    let lock = format!("synod lock l --ttl 60 -- sh -c '{work}'");
    let mut typed = b.typed(&format!("set -m; {lock}; echo stopped; read go; fg; echo code-$?"));
    let (holder, work) = (number(&b.log("holder")), number(&b.log("work")));
    let mut input = typed.0.stdin.take().expect("its input");
    let mut lines = BufReader::new(typed.0.stdout.take().expect("its output")).lines();
    input.write_all(b"\x1a").expect("typed");
    wait_for(&mut lines, "stopped");
    assert_eq!((state(holder), state(work)), (Some('T'), Some('T')));
    writeln!(input).expect("typed");
    until("its going on", || state(holder) != Some('T') && state(work) != Some('T'));
    writeln!(input, "two").expect("typed");
    wait_for(&mut lines, "got-two");
    wait_for(&mut lines, "code-3");
    drop(input);
    code(&mut typed);

    // One that does not stop keeps its holder.
    let work = "trap \"\" TSTP; echo $PPID >$DIR/holder; echo $$ >$DIR/deaf; read line; exit 4";
    std::fs::remove_file(b.log("holder")).expect("removed");
    let mut typed = b.typed(&format!("synod lock l --ttl 60 -- sh -c '{work}'; echo code-$?"));
    number(&b.log("deaf"));
    let holder = number(&b.log("holder"));
    let mut input = typed.0.stdin.take().expect("its input");
    let mut lines = BufReader::new(typed.0.stdout.take().expect("its output")).lines();
    input.write_all(b"\x1a").expect("typed");
    std::thread::sleep(Duration::from_millis(500));
    assert_ne!(state(holder), Some('T'));
    writeln!(input).expect("typed");
    wait_for(&mut lines, "code-4");
    drop(input);
    code(&mut typed);
}

/// What is stopped would not hear that it is to end.
#[test]
fn a_command_that_is_stopped_ends_when_it_is_asked_to() {
    let b = Bench::of(1);
    let log = b.log("work");
    let work = "echo $$ >\"$LOG\"; kill -STOP $$; sleep 1000";
    let mut holder =
        Process(b.hold(&["lock", "l", "--", "sh", "-c", work], &log).spawn().expect("it starts"));
    let work = number(&log);
    until("its stop", || state(work) == Some('T'));
    signal(holder.0.id(), "TERM");
    assert_eq!(code(&mut holder), Some(128 + 15));
}

#[test]
fn a_watchdog_that_was_stopped_believes_what_it_was_told_meanwhile() {
    let b = Bench::of(1);
    let log = b.log("work");
    let lock = ["lock", "l", "--ttl", "2", "--", "sh", "-c", WORK];
    let mut holder = Process(b.hold(&lock, &log).spawn().expect("it starts"));
    let work = number(&log);
    let watched = watchdog(holder.0.id()).expect("a watchdog");
    // Its name is not the one by which all holders can be killed.
    let name = || std::fs::read_to_string(format!("/proc/{watched}/comm")).expect("its name");
    until("its own name", || !name().contains("synod"));
    signal(watched, "STOP");
    std::thread::sleep(Duration::from_secs(3));
    signal(watched, "CONT");
    std::thread::sleep(Duration::from_secs(1));
    assert!(is_alive(work) && is_alive(watched));

    // Of a holder that stands still it hears nothing.
    signal(holder.0.id(), "STOP");
    until("the command's end", || !is_alive(work));
    signal(holder.0.id(), "CONT");
    assert_eq!(code(&mut holder), Some(1));
    let mut words = String::new();
    let mut said = holder.0.stderr.take().expect("its words");
    std::io::Read::read_to_string(&mut said, &mut words).expect("its words");
    assert!(words.contains("sh was killed"), "{words}");
    assert!(words.contains("the watchdog killed the command"), "{words}");
}

/// Twelve seconds without a quorum: who waited holds nothing that could be lost.
#[test]
fn waiters_wait_on_over_a_loss_of_quorum() {
    let mut b = Bench::of(3);
    let log = b.log("waiter");
    let mut holder =
        Process(synod(&b.at, &["lock", "l"]).stdout(Stdio::null()).spawn().expect("x"));
    let shown = |what: &str| text(&run(&b.at, &["lock", "l", "--show"]).stdout).contains(what);
    until("the lock", || shown("holds"));
    let waits = ["lock", "l", "--ttl", "2", "--grace", "1", "--", "sh", "-c", WORK];
    let _waiter = Process(b.hold(&waits, &log).stderr(Stdio::null()).spawn().expect("it starts"));
    until("a waiter", || shown("waits"));
    let others = b.log("candidate");
    let elect = ["elect", "l", "--ttl", "2", "--grace", "1", "--", "sh", "-c", WORK];
    let _candidate = Process(b.hold(&elect, &others).stderr(Stdio::null()).spawn().expect("x"));
    std::thread::sleep(Duration::from_secs(1));
    b.cluster.kill(0);
    b.cluster.kill(1);
    // The holder ends before its deadline, and the waiters' sessions with theirs.
    assert_eq!(code(&mut holder), Some(1));
    std::thread::sleep(Duration::from_secs(2));
    b.cluster.spawn(0);
    b.cluster.spawn(1);
    b.cluster.wait_ready();
    // Both wait for the same lock: one has it, and the other after it.
    until("one", || log.exists() || others.exists());
    let (one, other) = if log.exists() { (&log, &others) } else { (&others, &log) };
    signal(number(one), "KILL");
    until("the other", || other.exists());
}

#[test]
fn who_waits_for_what_nobody_ends_is_told_so() {
    let b = Bench::of(1);
    assert!(run(&b.at, &["put", "nightly/last", "ok"]).status.success());
    let lock = ["lock", "nightly", "--wait=3", "--", "true"];
    let waited = run(&b.at, &lock);
    assert_eq!(waited.status.code(), Some(75));
    let words = text(&waited.stderr);
    assert!(words.contains("key \"nightly/last\" is in the way"), "{words}");
    // Another lock's keys are in nobody's way.
    assert!(run(&b.at, &["del", "nightly/last"]).status.success());
    assert!(run(&b.at, &["put", "nightly/other/last", "ok"]).status.success());
    assert!(run(&b.at, &lock).status.success());
}
