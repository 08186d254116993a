//! All automation: `cargo xtask <command>`.

mod compare;
mod dashboards;
mod licences;
mod logs;
mod peers;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask <command>

  test [-- ARGS]   everything a change must pass but lints: fetches the real clients, runs all tests
  verify           the one gate: format, clippy, docs, and `test`
  tidy             layers, banned calls, the map, sizes, licences (also a part of the tests)
  dashboards       write dashboards/*.json for Grafana
  peers            fetch the real clients and servers that the tests use into target/peers
  compare etcd     measure Synod and etcd in one run; writes docs/benchmarks.md
  compare locks    measure Synod's locks and ZooKeeper's in one run; writes docs/benchmarks.md
  compare protocols  measure the three protocols in one run; writes docs/protocols.md
  compare series   measure monitoring beside Prometheus and VictoriaMetrics; writes docs/benchmarks.md
  bench cores      measure the protocols' cores and others' in one process; writes docs/benchmarks.md
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", rest @ ..] => test(rest.strip_prefix(&["--"]).unwrap_or(rest)),
        ["verify"] => verify(),
        ["tidy"] => tidy::run(&root()),
        ["dashboards"] => dashboards::write(&root(), false),
        ["peers"] => peers::fetch(&root()).map(drop),
        ["compare", "etcd", rest @ ..] => compare::etcd(&root(), rest),
        ["compare", "locks", rest @ ..] => compare::locks(&root(), rest),
        ["compare", "protocols", rest @ ..] => compare::protocols(&root(), rest),
        ["compare", "series"] => compare::series(&root()),
        ["bench", "cores", rest @ ..] => compare::cores(&root(), rest),
        _ => {
            print!("{HELP}");
            return if words.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Runs a program and says what failed.
pub fn run(dir: &Path, program: &str, args: &[&str]) -> Result<(), String> {
    run_with(dir, program, args, &[])
}

fn run_with(dir: &Path, program: &str, args: &[&str], env: &[(&str, &str)]) -> Result<(), String> {
    let set: String = env.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    eprintln!("+ {set}{program} {}", args.join(" "));
    let mut command = Command::new(program);
    // What `cargo xtask` says about xtask itself; a build script that watches it would
    // run again, and all above it, whenever Cargo is called this way and then directly.
    for (name, _) in std::env::vars_os() {
        let about_xtask = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if name.to_str().is_some_and(|name| about_xtask.iter().any(|a| name.starts_with(a))) {
            command.env_remove(name);
        }
    }
    let status = command
        .args(args)
        .envs(env.iter().copied())
        .current_dir(dir)
        .status()
        .map_err(|e| format!("cannot run {program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {} failed", args.join(" "))) }
}

fn test(args: &[&str]) -> Result<(), String> {
    let root = root();
    peers::fetch(&root)?;
    let mut all = vec!["test", "--workspace", "--locked", "--no-fail-fast"];
    all.extend(args);
    run(&root, "cargo", &all)?;
    // Every door on every protocol: the same clients and faults once more.
    for protocol in ["paxos", "zab"] {
        let env = [("SYNOD_PROTOCOL", protocol)];
        let suites = [
            "clients",
            "members",
            "faults",
            "partitions",
            "locks",
            "elections",
            "services",
            "scale",
            "suspicion",
            "snapshots",
            "starts",
            "slow",
            "files",
            "up",
            "commands",
            "differential",
        ]
        .map(|s| ["--test", s]);
        let door = ["test", "-p", "synod", "--locked", "--no-fail-fast"];
        run_with(&root, "cargo", &[&door[..], suites.as_flattened()].concat(), &env)?;
    }
    // Whole clusters under faults, optimised but with assertions; and the proof
    // that the simulator finds bugs.
    let sim = ["test", "--profile", "sim", "--locked", "-p", "synod-sim"];
    run(&root, "cargo", &sim)?;
    let planted = ["--features", "planted", "--test", "planted"];
    run(&root, "cargo", &[&sim[..], &planted[..]].concat())?;
    let explorer = ["-p", "synod-consensus", "--features", "planted", "--test", "explore_planted"];
    run(&root, "cargo", &[&["test", "--profile", "sim", "--locked"], &explorer[..]].concat())
}

fn verify() -> Result<(), String> {
    let root = root();
    run(&root, "cargo", &["fmt", "--all", "--check"])?;
    for outside in ["benches/cores", "peers/rust", "fuzz"] {
        run(&root.join(outside), "cargo", &["fmt", "--check"])?;
    }
    tidy::run(&root)?;
    run(
        &root,
        "cargo",
        &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    )?;
    run(&root, "cargo", &["doc", "--workspace", "--no-deps", "--locked"])?;
    test(&[])
}
