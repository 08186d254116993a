//! The three protocols beside each other.

use super::servers::Side;
use super::{Sample, build, gap, load, machine, mean, seconds, write_part};
use std::path::Path;

const PROTOCOLS: [&str; 3] = ["raft", "paxos", "zab"];

const ROWS: [(&str, &[&str]); 3] = [
    ("put, 64 clients", &["put"]),
    ("put, 256 clients", &["put", "--clients", "256"]),
    ("get, linearizable, 64 clients", &["get"]),
];

const KILLS: usize = 7;

/// `cargo xtask compare protocols [--seconds S]`.
pub fn protocols(root: &Path, args: &[&str]) -> Result<(), String> {
    let seconds = seconds(args)?;
    let synod = build(root)?;
    let side = |which: usize| Side::Synod(synod.clone(), PROTOCOLS[which]);
    let mut text = format!(
        "Machine: {}; three nodes and the load on it. Values of 256 bytes, {seconds} s a run after a warm-up, \
         two runs each, interleaved (raft, paxos, zab, zab, paxos, raft).\n\n\
         | | raft | paxos | zab |\n|---|---|---|---|\n",
        machine()
    );
    for (name, args) in ROWS {
        let mut samples: [Vec<Sample>; 3] = Default::default();
        for which in [0, 1, 2, 2, 1, 0] {
            let servers = side(which).start(root, 3)?;
            samples[which].push(load(&synod, args, 3, seconds, &servers)?);
        }
        let cell = |s: &Vec<Sample>| {
            let cpu = mean(s, |s| s.cpu_s_per_1000);
            let (rate, p99) = (mean(s, |s| s.per_second), mean(s, |s| s.p99_ms));
            format!("{rate:.0}/s, p99 {p99:.1} ms, CPU {cpu:.3} s per 1,000")
        };
        let line = format!("| {name} | {} |\n", samples.each_ref().map(cell).join(" | "));
        eprint!("{line}");
        text += &line;
    }
    let mut gaps: [Vec<f64>; 3] = Default::default();
    for _ in 0..KILLS {
        for (which, gaps) in gaps.iter_mut().enumerate() {
            gaps.push(gap(&synod, &mut side(which).start(root, 3)?)?);
        }
    }
    let cell = |gaps: &Vec<f64>| {
        let mut sorted = gaps.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[0], sorted[KILLS - 1]);
        format!("{:.0} ms ({low:.0} to {high:.0})", sorted[KILLS / 2])
    };
    let line = format!(
        "| no writes after `kill -9` of the leader, median of {KILLS} | {} |\n",
        gaps.each_ref().map(cell).join(" | ")
    );
    eprint!("{line}");
    write_part(&root.join("docs/protocols.md"), "compare protocols", &(text + &line))
}
