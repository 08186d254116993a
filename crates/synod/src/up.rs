//! `synod up`: a whole cluster on this machine, each node a process.

use crate::Outcome;
use clap::Args;
use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Ports of one node are this far from those of the one before.
const PORT_STEP: u16 = 20_000;
/// Where the fourth node's ports begin: further steps would pass 65535.
const CLIENT_PORT: u16 = 2_379;
const HTTP_PORT: u16 = 7_070;
const NODES_MAX: usize = 9;
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Arguments of `synod up`.
#[derive(Args)]
pub struct UpArgs {
    /// How many nodes (an odd number survives more than the even one above it)
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    nodes: usize,
    /// Where the nodes keep their data; found again at the next start
    #[arg(long, default_value = "synod-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Start over: remove what earlier runs left in the data directory
    #[arg(long)]
    fresh: bool,
    /// What the cell runs: raft, paxos or zab; for a new one raft, for one that is
    /// there what it was made with
    #[arg(long, value_name = "NAME")]
    protocol: Option<synod_consensus::Protocol>,
    /// Further settings for every node, as `synod server` takes them (after --)
    #[arg(last = true, value_name = "SETTINGS")]
    settings: Vec<String>,
}

struct Node {
    name: String,
    client: u16,
    peer: u16,
    http: u16,
    dir: PathBuf,
}

/// `synod up`.
pub fn run(args: UpArgs) -> Outcome {
    if args.nodes == 0 || args.nodes > NODES_MAX {
        return Err(format!("--nodes is 1 to {NODES_MAX}"));
    }
    let nodes: Vec<Node> = (0..args.nodes).map(|i| node(i, &args.data_dir)).collect();
    check_ports(&nodes)?;
    prepare_dirs(&args, &nodes)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start a runtime: {e}"))?;
    runtime.block_on(supervise(&args, &nodes))
}

fn node(i: usize, data_dir: &Path) -> Node {
    let name = format!("n{}", i + 1);
    // Three to a column: 2379, 22379, 32379, then 2479, 22479, 32479, ...
    let (row, column) = ((i / 3) as u16 * 100, (i % 3) as u16);
    let step = if column == 0 { 0 } else { PORT_STEP + (column - 1) * 10_000 };
    Node {
        client: CLIENT_PORT + row + step,
        peer: CLIENT_PORT + 1 + row + step,
        http: HTTP_PORT + row + step,
        dir: data_dir.join(&name),
        name,
    }
}

fn check_ports(nodes: &[Node]) -> Outcome {
    for node in nodes {
        for (what, port) in [("clients", node.client), ("peers", node.peer), ("http", node.http)] {
            if let Err(e) = TcpListener::bind(("127.0.0.1", port)) {
                return Err(format!(
                    "port {port} ({what} of {}) is not free: {e}; is another cluster or an etcd \
                     running here? Stop it first (`ss -ltnp 'sport = :{port}'` names it)",
                    node.name
                ));
            }
        }
    }
    Ok(())
}

fn prepare_dirs(args: &UpArgs, nodes: &[Node]) -> Outcome {
    if args.fresh && args.data_dir.exists() {
        // Only what nodes left: the directory may have been named by mistake.
        for i in 0..NODES_MAX {
            let dir = node(i, &args.data_dir).dir;
            if dir.join("LOCK").exists() {
                std::fs::remove_dir_all(&dir)
                    .map_err(|e| format!("cannot remove {}: {e}", dir.display()))?;
            }
        }
    }
    let extra = node(nodes.len(), &args.data_dir).dir;
    if extra.join("member.json").exists() {
        return Err(format!(
            "{} holds a cluster of more nodes than {}: start it with as many, or begin again with \
             --fresh",
            args.data_dir.display(),
            nodes.len()
        ));
    }
    let made = nodes.iter().filter(|n| n.dir.join("member.json").exists()).count();
    if made > 0 && made < nodes.len() && !nodes[made..].iter().all(|n| n.dir.exists()) {
        return Err(format!(
            "{} holds a cluster of {made} nodes: start it with --nodes {made}, or begin again with \
             --fresh",
            args.data_dir.display(),
        ));
    }
    for node in nodes {
        std::fs::create_dir_all(&node.dir)
            .map_err(|e| format!("cannot make {}: {e}", node.dir.display()))?;
    }
    Ok(())
}

/// What `synod` is given to run a node.
fn server_args(node: &Node, nodes: &[Node], args: &UpArgs) -> Vec<String> {
    let members: Vec<_> =
        nodes.iter().map(|n| format!("{}=http://127.0.0.1:{}", n.name, n.peer)).collect();
    let mut all = vec!["server".to_owned()];
    let mut give = |name: &str, value: String| all.extend([format!("--{name}"), value]);
    give("name", node.name.clone());
    give("data-dir", node.dir.display().to_string());
    give("listen-client-urls", format!("http://127.0.0.1:{}", node.client));
    give("listen-peer-urls", format!("http://127.0.0.1:{}", node.peer));
    give("listen-http-urls", format!("http://127.0.0.1:{}", node.http));
    give("initial-cluster", members.join(","));
    if let Some(protocol) = args.protocol {
        give("protocol", protocol.to_string());
    }
    all.extend(args.settings.iter().cloned());
    all
}

fn start(node: &Node, nodes: &[Node], args: &UpArgs) -> Outcome<Child> {
    let program = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
    let log = node.dir.join("log");
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|e| format!("cannot open {}: {e}", log.display()))?;
    let mut command = Command::new(program);
    command
        .args(server_args(node, nodes, args))
        .arg("--with-parent")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C reaches the whole group; the nodes are stopped one by one.
        .process_group(0)
        .kill_on_drop(true);
    command.spawn().map_err(|e| format!("cannot start {}: {e}", node.name))
}

async fn supervise(args: &UpArgs, nodes: &[Node]) -> Outcome {
    let begun = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    // The terminal was closed.
    let mut hangup = signal(SignalKind::hangup()).map_err(|e| e.to_string())?;
    let mut children = Vec::new();
    for node in nodes {
        children.push(start(node, nodes, args)?);
    }
    let mut told = vec![false; nodes.len()];
    let ended = tokio::select! {
        ready = wait_ready(nodes, &mut children) => ready.err(),
        _ = interrupt.recv() => Some(String::new()),
        _ = terminate.recv() => Some(String::new()),
        _ = hangup.recv() => Some(String::new()),
    };
    if let Some(why) = ended {
        stop(&mut children).await;
        return if why.is_empty() { Ok(()) } else { Err(why) };
    }
    banner(args, nodes, &mut children, begun.elapsed());
    loop {
        tell_ended(args, nodes, &mut children, &mut told);
        if told.iter().all(|t| *t) {
            return Err("all nodes have ended; their logs say why".into());
        }
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
    }
    say("stopping");
    stop(&mut children).await;
    Ok(())
}

/// A node that ends by itself (or is killed for practice) is told, not mourned:
/// the others go on.
fn tell_ended(args: &UpArgs, nodes: &[Node], children: &mut [Child], told: &mut [bool]) {
    for ((node, child), told) in nodes.iter().zip(children).zip(told) {
        if let (false, Ok(Some(status))) = (*told, child.try_wait()) {
            *told = true;
            say(&last_words(node, &status));
            let again: Vec<_> = server_args(node, nodes, args).iter().map(|a| quoted(a)).collect();
            say(&format!("start it again:  {} {}", this_program(), again.join(" ")));
        }
    }
}

fn last_words(node: &Node, status: &std::process::ExitStatus) -> String {
    let log = node.dir.join("log");
    // One that was killed had nothing to say.
    let said = match status.code() {
        Some(_) => why(&std::fs::read_to_string(&log).unwrap_or_default(), 3),
        None => String::new(),
    };
    format!("{} has ended ({status}):\n{said}  (its log: {})", node.name, log.display())
}

/// The lines of a log that say why it ends: from the last that names an error, or the very
/// last ones.
fn why(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    let names =
        |l: &&str| l.starts_with("error:") || l.starts_with("synod:") || l.contains(" ERROR ");
    let from = lines.iter().rposition(names).unwrap_or(lines.len().saturating_sub(count));
    lines[from..].iter().take(count).map(|l| format!("  {l}\n")).collect()
}

/// Until every node that runs answers and knows a leader. A minority may have ended: a
/// damaged member is no reason to be without the others.
async fn wait_ready(nodes: &[Node], children: &mut [Child]) -> Outcome {
    let begun = Instant::now();
    let mut ready = vec![false; nodes.len()];
    loop {
        let mut ended = Vec::new();
        for ((node, child), ready) in nodes.iter().zip(children.iter_mut()).zip(&mut ready) {
            if let Ok(Some(status)) = child.try_wait() {
                ended.push(last_words(node, &status));
                *ready = true;
            } else if !*ready {
                *ready = knows_leader(node).await;
            }
        }
        if ended.len() * 2 >= nodes.len() {
            return Err(ended.remove(0));
        }
        if ready.iter().all(|ready| *ready) {
            return Ok(());
        }
        if begun.elapsed() > READY_WITHIN {
            let late = nodes.iter().zip(&ready).filter(|(_, ready)| !**ready);
            let names: Vec<_> = late.map(|(node, _)| &*node.name).collect();
            return Err(format!("{} not ready after {READY_WITHIN:?}", names.join(", ")));
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn knows_leader(node: &Node) -> bool {
    let Ok(mut client) =
        MaintenanceClient::connect(format!("http://127.0.0.1:{}", node.client)).await
    else {
        return false;
    };
    let status = client.status(pb::StatusRequest {}).await;
    status.is_ok_and(|s| s.into_inner().leader != 0)
}

fn banner(args: &UpArgs, nodes: &[Node], children: &mut [Child], after: Duration) {
    let list = |port: fn(&Node) -> u16| {
        nodes.iter().map(|n| format!("127.0.0.1:{}", port(n))).collect::<Vec<_>>().join("  ")
    };
    let up = children.iter_mut().filter_map(|child| child.try_wait().ok()).filter(Option::is_none);
    let (up, after) = (up.count(), after.as_secs_f64());
    match up == nodes.len() {
        true => say(&format!("{up} nodes are up after {after:.1} s")),
        false => say(&format!("{up} of {} nodes are up after {after:.1} s", nodes.len())),
    }
    say(&format!("  etcd clients  {}", list(|n| n.client)));
    say(&format!("  http          {}  (/metrics, /health)", list(|n| n.http)));
    say(&format!("  data, logs    {}", args.data_dir.display()));
    let synod = this_program();
    say(&format!("try   {synod} put greeting hello"));
    say(&format!("      {synod} watch --prefix '' --from 1"));
    say(&format!("      {synod} status"));
    say("Ctrl-C stops them; the data stay.");
}

/// To whoever reads: the nodes go on without.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// What a shell takes for this program: its name if that is how it is found, else its path.
fn this_program() -> String {
    let Ok(program) = std::env::current_exe() else { return "synod".into() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("synod")).find(|p| p.exists());
    match found.and_then(|found| found.canonicalize().ok()) == program.canonicalize().ok() {
        true => "synod".into(),
        false => quoted(&program.display().to_string()),
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

async fn stop(children: &mut [Child]) {
    for child in children.iter_mut() {
        if let (Ok(None), Some(id)) = (child.try_wait(), child.id()) {
            terminate(id);
        }
    }
    for child in children {
        let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
        if ended.is_err() {
            let _ = child.kill().await;
        }
    }
}

fn terminate(id: u32) {
    let Ok(id) = i32::try_from(id) else { return };
    if let Some(pid) = rustix::process::Pid::from_raw(id) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

#[cfg(test)]
mod tests {
    use super::{quoted, why};

    #[test]
    fn words_for_a_shell() {
        for (word, wanted) in
            [("n1", "n1"), ("a b", "'a b'"), ("", "''"), ("it's", "'it'\\''s'"), ("$x", "'$x'")]
        {
            assert_eq!(quoted(word), wanted);
        }
    }

    #[test]
    fn what_names_the_error_is_shown() {
        let wrong_flag = "error: unexpected argument '--x' found\n\nUsage: a\n\nFor more, try b.\n";
        assert!(why(wrong_flag, 3).starts_with("  error: unexpected argument '--x' found\n"));
        assert_eq!(why("INFO a\nsynod: no room\n", 3), "  synod: no room\n");
        assert_eq!(why("1\n2\n3\n4\n", 3), "  2\n  3\n  4\n");
        assert_eq!(why("", 3), "");
    }
}
