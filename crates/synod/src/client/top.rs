//! `synod top`: the cluster, live, from the series of whichever node answers. It needs no
//! quorum; what nobody saw is left blank.

use super::Connect;
use super::query::{ask_noted, spark, word};
use crate::Outcome;
use clap::Args;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};

/// Width where no terminal says.
const WIDTH: usize = 100;
/// What a line of bars shows, s.
const PAST: f64 = 60.0;
/// Values that are shown as they are, by node.
const NOW: &str = "{__name__=~\"up|etcd_server_(is_leader|id|proposals_(committed|applied)_total)|\
    synod_(consensus_(term|role|peer_lag_entries)|peer_connected)|process_resident_memory_bytes|\
    etcd_debugging_mvcc_(watcher_total|current_revision)\",job=\"synod-etcd\"}";
const PUTS: &str =
    "sum by (node) (rate(grpc_server_handled_total{grpc_method=\"Put\",grpc_code=\"OK\"}[10s]))";
const READS: &str = "sum by (node) (rate(etcd_mvcc_range_total[10s]))";
const CPU: &str = "sum by (node) (rate(process_cpu_seconds_total{job=\"synod-etcd\"}[10s]))";
const SYNC: &str = "histogram_quantile(0.99, sum by (node, le) \
    (rate(etcd_disk_wal_fsync_duration_seconds_bucket[30s])))";

/// Arguments of `synod top`.
#[derive(Args)]
pub struct TopArgs {
    /// Show it once and end, as --output json does too
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    every: f64,
    #[command(flatten)]
    connect: Connect,
}

impl TopArgs {
    pub async fn run(self) -> Outcome {
        if !(0.1..=3_600.0).contains(&self.every) {
            return Err("--every must be from 0.1 to 3600 seconds".into());
        }
        if self.connect.json() {
            println!("{}", Seen::look(&self.connect).await?.json());
            return Ok(());
        }
        if self.once || !std::io::stdout().is_terminal() {
            let seen = Seen::look(&self.connect).await?;
            print!("{}", frame(&seen, width()));
            return Ok(());
        }
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let _screen = Screen::open();
        let mut ticker = tokio::time::interval(Duration::from_secs_f64(self.every));
        loop {
            let look = async {
                ticker.tick().await;
                Seen::look(&self.connect).await
            };
            let seen = tokio::select! {
                seen = look => seen,
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
            };
            draw(&seen.map_or_else(|why| format!("{why}\n"), |seen| frame(&seen, width())));
        }
    }
}

/// The terminal's second screen, until it is dropped.
struct Screen;

impl Screen {
    fn open() -> Screen {
        print!("\x1b[?1049h\x1b[?25l");
        Screen
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print!("\x1b[?25h\x1b[?1049l");
        // The terminal may be gone.
        let _ = std::io::stdout().flush();
    }
}

/// Over what stood there, line by line: no flicker.
fn draw(text: &str) {
    let mut out = String::from("\x1b[H");
    for line in text.lines() {
        let _ = write!(out, "{line}\x1b[K\r\n");
    }
    out.push_str("\x1b[J");
    print!("{out}");
    let _ = std::io::stdout().flush();
}

fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    size.map(|s| usize::from(s.ws_col)).filter(|w| *w >= 40).unwrap_or(WIDTH)
}

/// What is known of a node.
#[derive(Default)]
struct Node {
    up: Option<f64>,
    id: String,
    role: String,
    committed: Option<f64>,
    applied: Option<f64>,
    memory: Option<f64>,
    watches: Option<f64>,
    links: Vec<(String, bool)>,
    puts: Option<f64>,
    reads: Option<f64>,
    cpu: Option<f64>,
    sync: Option<f64>,
}

/// What one look found.
#[derive(Default)]
struct Seen {
    cluster: String,
    nodes: BTreeMap<String, Node>,
    leader: Option<String>,
    /// By id: entries that a member lacks, as the leader knows it.
    lags: BTreeMap<String, f64>,
    term: f64,
    revision: f64,
    puts: Vec<f64>,
    reads: Vec<f64>,
    alerts: Vec<(String, String, String)>,
    warnings: BTreeSet<String>,
}

impl Seen {
    async fn look(connect: &Connect) -> Outcome<Seen> {
        let mut seen = Seen::default();
        let (now, (puts, reads, cpu, sync), puts_past, reads_past, alerts) = tokio::try_join!(
            instant(connect, NOW),
            async {
                tokio::try_join!(
                    instant(connect, PUTS),
                    instant(connect, READS),
                    instant(connect, CPU),
                    instant(connect, SYNC)
                )
            },
            past(connect, PUTS),
            past(connect, READS),
            ask_noted(connect, "/api/v1/alerts", &[]),
        )?;
        for (labels, value) in seen.note(now) {
            seen.take(&labels, value);
        }
        for (which, found) in [puts, reads, cpu, sync].into_iter().enumerate() {
            for (labels, value) in seen.note(found) {
                let node = seen.nodes.entry(word(&labels["node"]).to_owned()).or_default();
                let field = match which {
                    0 => &mut node.puts,
                    1 => &mut node.reads,
                    2 => &mut node.cpu,
                    _ => &mut node.sync,
                };
                *field = Some(value).filter(|v| v.is_finite());
            }
        }
        seen.puts = seen.note(puts_past);
        seen.reads = seen.note(reads_past);
        let alerts = seen.note(alerts);
        for alert in alerts["alerts"].as_array().into_iter().flatten() {
            let labels = &alert["labels"];
            let summary = word(&alert["annotations"]["summary"]);
            let name = word(&labels["alertname"]).to_owned();
            seen.alerts.push((word(&alert["state"]).to_owned(), name, summary.to_owned()));
        }
        seen.alerts.sort();
        seen.alerts.dedup();
        Ok(seen)
    }

    /// Entries that a node lacks, or has and did not apply.
    fn behind(&self, node: &Node) -> Option<f64> {
        let waiting = node.committed.zip(node.applied).map(|(c, a)| (c - a).max(0.0));
        let lacks = self.lags.get(&node.id).copied();
        lacks.map(|l| l + waiting.unwrap_or(0.0)).or(waiting)
    }

    /// As JSON, in base units; what nobody saw is null.
    fn json(&self) -> Value {
        let of = |(name, node): (&String, &Node)| {
            let links: BTreeMap<&str, bool> =
                node.links.iter().map(|(to, is)| (&**to, *is)).collect();
            json!({
                "node": name,
                "up": node.up.map(|up| up == 1.0),
                "role": Some(&node.role).filter(|role| !role.is_empty()),
                "puts_per_second": node.puts,
                "reads_per_second": node.reads,
                "cpu_cores": node.cpu,
                "memory_bytes": node.memory,
                "behind_entries": self.behind(node),
                "sync_p99_seconds": node.sync,
                "watches": node.watches,
                "reaches": links,
            })
        };
        let alert = |(state, name, says): &(String, String, String)| json!({"state": state, "name": name, "summary": says});
        json!({
            "cluster": self.cluster,
            "leader": self.leader,
            "term": self.term as u64,
            "revision": self.revision as u64,
            "nodes": self.nodes.iter().map(of).collect::<Vec<_>>(),
            "puts_per_second": self.puts.last(),
            "reads_per_second": self.reads.last(),
            "alerts": self.alerts.iter().map(alert).collect::<Vec<_>>(),
            "warnings": self.warnings,
        })
    }

    /// Keeps the warnings of an answer.
    fn note<T>(&mut self, (data, warnings): Noted<T>) -> T {
        self.warnings.extend(warnings);
        data
    }

    fn take(&mut self, labels: &Value, value: f64) {
        let name = word(&labels["node"]).to_owned();
        if name.is_empty() {
            return;
        }
        self.cluster = word(&labels["cluster"]).to_owned();
        let node = self.nodes.entry(name.clone()).or_default();
        match word(&labels["__name__"]) {
            "up" => node.up = Some(value),
            "etcd_server_is_leader" if value == 1.0 => self.leader = Some(name),
            "etcd_server_id" => node.id = word(&labels["server_id"]).to_owned(),
            "synod_consensus_peer_lag_entries" => {
                self.lags.insert(word(&labels["peer"]).trim_start_matches('n').to_owned(), value);
            }
            "etcd_server_proposals_committed_total" => node.committed = Some(value),
            "etcd_server_proposals_applied_total" => node.applied = Some(value),
            "synod_consensus_term" => self.term = self.term.max(value),
            "synod_consensus_role" if value == 1.0 => node.role = word(&labels["role"]).to_owned(),
            "synod_peer_connected" => {
                node.links.push((word(&labels["name"]).to_owned(), value == 1.0));
            }
            "process_resident_memory_bytes" => node.memory = Some(value),
            "etcd_debugging_mvcc_watcher_total" => node.watches = Some(value),
            "etcd_debugging_mvcc_current_revision" => self.revision = self.revision.max(value),
            _ => {}
        }
    }
}

/// An answer, and what it does not hold.
type Noted<T> = (T, Vec<String>);

/// Labels and value of each series now.
async fn instant(connect: &Connect, query: &str) -> Outcome<Noted<Vec<(Value, f64)>>> {
    let params = [("query", query.to_owned())];
    let (data, warnings) = ask_noted(connect, "/api/v1/query", &params).await?;
    let found = data["result"].as_array().cloned().unwrap_or_default();
    let one = |s: &Value| Some((s["metric"].clone(), word(&s["value"][1]).parse().ok()?));
    Ok((found.iter().filter_map(one).collect(), warnings))
}

/// The sum over all nodes, over the last minute.
async fn past(connect: &Connect, query: &str) -> Outcome<Noted<Vec<f64>>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let params = [
        ("query", format!("sum({query})")),
        ("start", (now - PAST).to_string()),
        ("end", now.to_string()),
        ("step", "1".to_owned()),
    ];
    let (data, warnings) = ask_noted(connect, "/api/v1/query_range", &params).await?;
    let values = data["result"][0]["values"].as_array().cloned().unwrap_or_default();
    Ok((values.iter().filter_map(|v| word(&v[1]).parse().ok()).collect(), warnings))
}

/// The picture, each line no wider than this.
fn frame(seen: &Seen, width: usize) -> String {
    let mut lines = Vec::new();
    let up = seen.nodes.values().filter(|n| n.up == Some(1.0)).count();
    let leader = seen.leader.as_deref().map_or("no leader".to_owned(), |l| format!("leader {l}"));
    lines.push(format!(
        "cluster {}: {up} of {} nodes up, {leader}, term {}, revision {}",
        seen.cluster,
        seen.nodes.len(),
        seen.term,
        seen.revision
    ));
    lines.push(String::new());
    lines.push(format!(
        "{:<10} {:<12} {:>9} {:>9} {:>7} {:>9} {:>8} {:>9} {:>8}  {}",
        "node",
        "role",
        "puts/s",
        "reads/s",
        "cpu",
        "memory",
        "behind",
        "sync p99",
        "watches",
        "reaches"
    ));
    for (name, node) in &seen.nodes {
        lines.push(row(name, node, seen.behind(node)));
    }
    lines.push(String::new());
    for (name, values) in [("puts", &seen.puts), ("reads", &seen.reads)] {
        let most = values.iter().copied().fold(0.0, f64::max);
        let last = values.last().map_or("?".to_owned(), |v| format!("{v:.0}"));
        let room = width.saturating_sub(30).clamp(10, values.len().max(10));
        let shown = &values[values.len().saturating_sub(room)..];
        lines.push(format!("{name:<6} {} {last}/s", spark(shown, 0.0, most)));
    }
    lines.push(String::new());
    match seen.alerts.as_slice() {
        [] => lines.push("no alert is pending or firing".into()),
        all => {
            lines.extend(all.iter().map(|(state, name, says)| format!("{state:<8} {name}: {says}")))
        }
    }
    lines.extend(seen.warnings.iter().cloned());
    // What others named must not steer this terminal.
    let shown = |c: char| if c.is_control() { '?' } else { c };
    let cut = |line: String| line.chars().take(width).map(shown).collect::<String>() + "\n";
    lines.into_iter().map(cut).collect()
}

fn row(name: &str, node: &Node, behind: Option<f64>) -> String {
    let show = |v: Option<f64>, how: fn(f64) -> String| v.map_or("?".to_owned(), how);
    let role = match node.up {
        Some(1.0) => node.role.as_str(),
        Some(_) => "DOWN",
        None => "?",
    };
    let links: Vec<String> = node
        .links
        .iter()
        .map(|(to, is)| if *is { to.clone() } else { format!("not {to}") })
        .collect();
    format!(
        "{name:<10} {role:<12} {:>9} {:>9} {:>7} {:>9} {:>8} {:>9} {:>8}  {}",
        show(node.puts, |v| format!("{v:.0}")),
        show(node.reads, |v| format!("{v:.0}")),
        show(node.cpu, |v| format!("{:.1} %", v * 100.0)),
        show(node.memory, |v| format!("{:.0} MiB", v / f64::from(1 << 20))),
        show(behind, |v| format!("{v:.0}")),
        show(node.sync, |v| format!("{:.1} ms", v * 1e3)),
        show(node.watches, |v| format!("{v:.0}")),
        links.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_shows_who_leads_who_is_down_and_fits() {
        let mut seen = Seen::default();
        let mut take = |node: &str, name: &str, more: (&str, &str), value: f64| {
            let mut labels = json!({"__name__": name, "node": node, "cluster": "c1"});
            labels[more.0] = json!(more.1);
            seen.take(&labels, value);
        };
        take("n1", "up", ("", ""), 1.0);
        take("n1", "etcd_server_is_leader", ("", ""), 1.0);
        take("n1", "synod_consensus_role", ("role", "leader"), 1.0);
        take("n1", "synod_consensus_role", ("role", "follower"), 0.0);
        take("n1", "etcd_server_proposals_committed_total", ("", ""), 120.0);
        take("n1", "etcd_server_proposals_applied_total", ("", ""), 118.0);
        take("n1", "synod_peer_connected", ("name", "n2"), 0.0);
        take("n2", "up", ("", ""), 0.0);
        seen.puts = vec![1.0, 2.0, 4.0];
        seen.alerts = vec![("firing".into(), "NodeDown".into(), "n2 is \x1bgone".into())];
        seen.warnings.insert("node n2 did not answer".into());
        let text = frame(&seen, 120);
        assert!(text.contains("cluster c1: 1 of 2 nodes up, leader n1"), "{text}");
        let line = |name: &str| text.lines().find(|l| l.starts_with(name)).expect("a line");
        assert!(line("n1").contains("leader") && line("n1").ends_with("not n2"), "{text}");
        assert!(line("n1").split_whitespace().any(|w| w == "2"), "two behind: {text}");
        assert!(line("n2").contains("DOWN") && line("n2").contains('?'), "{text}");
        assert!(line("puts").contains("▃▅█ 4/s"), "{text}");
        assert!(text.contains("firing   NodeDown: n2 is ?gone"), "{text}");
        assert!(text.ends_with("node n2 did not answer\n"), "{text}");
        let json = seen.json();
        assert_eq!((&json["leader"], &json["puts_per_second"]), (&json!("n1"), &json!(4.0)));
        let (n1, n2) = (&json["nodes"][0], &json["nodes"][1]);
        assert_eq!((&n1["role"], &n1["behind_entries"]), (&json!("leader"), &json!(2.0)));
        assert_eq!((&n1["up"], &n1["reaches"]), (&json!(true), &json!({"n2": false})));
        let unseen = [&n2["role"], &n2["memory_bytes"], &n2["behind_entries"]];
        assert_eq!((&n2["up"], unseen), (&json!(false), [&Value::Null; 3]));
        assert_eq!(json["alerts"][0]["name"], "NodeDown");
        assert_eq!(json["warnings"], json!(["node n2 did not answer"]));
        assert!(frame(&seen, 40).lines().all(|l| l.chars().count() <= 40));
    }
}
