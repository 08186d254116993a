//! The simulator can fail: each bug that is planted on purpose is found within
//! its budget of seeds. Needs `--features planted`.
//!
//! The table of what found which, after how many seeds, is `docs/planted-bugs.md`;
//! `SYNOD_REWRITE=1` writes it anew; `SYNOD_BUG=text` looks only for those
//! whose names contain it.

#![cfg(feature = "planted")]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use synod_consensus::Protocol;
use synod_sim::{Scenario, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds within which a bug must be found.
const BUDGET: u64 = 4_000;

/// What is planted, and on which protocol it is looked for. What only a rare
/// chance would show in a whole cluster (a vote or a promise that is not
/// durable, figure 8, a change of members without a quorum of the old ones) is
/// held by the transcripts of the cores.
const BUGS: &[(&str, Protocol)] = &[
    ("raft: any log gets a vote", Protocol::Raft),
    ("raft: leads without a quorum of votes", Protocol::Raft),
    ("raft: an append is acknowledged before it is durable", Protocol::Raft),
    ("raft: a conflict is not cut off", Protocol::Raft),
    ("raft: a leader counts itself before its own write", Protocol::Raft),
    ("raft: a read before the own first commit", Protocol::Raft),
    ("raft: a read without a barrier", Protocol::Raft),
    ("paxos: leads without a quorum of promises", Protocol::Paxos),
    ("paxos: a value of a lower ballot is proposed again", Protocol::Paxos),
    ("paxos: a hole is not filled", Protocol::Paxos),
    ("paxos: a leader counts itself before its own write", Protocol::Paxos),
    ("paxos: a report is taken for whole too early", Protocol::Paxos),
    ("paxos: values of earlier ballots keep no order", Protocol::Paxos),
    ("paxos: a value is acknowledged before it is durable", Protocol::Paxos),
    ("paxos: a watermark covers what an earlier ballot accepted", Protocol::Paxos),
    ("paxos: a read before the own first slot is chosen", Protocol::Paxos),
    ("paxos: a read without a barrier", Protocol::Paxos),
    ("zab: an epoch is not bumped", Protocol::Zab),
    ("zab: accepted epoch is not persisted", Protocol::Zab),
    ("zab: the newest history is not chosen", Protocol::Zab),
    ("zab: a truncation is skipped", Protocol::Zab),
    ("zab: NEWLEADER is acknowledged before the history is durable", Protocol::Zab),
    ("zab: a proposal is acknowledged before it is durable", Protocol::Zab),
    ("zab: a proposal is committed without a quorum", Protocol::Zab),
    ("zab: a gap in the proposals is taken", Protocol::Zab),
    ("zab: a read without a barrier", Protocol::Zab),
    ("journal: a batch is not synced", Protocol::Raft),
    ("journal: damage in the middle is cut off as a torn tail", Protocol::Raft),
    ("journal: a segment is dropped too early", Protocol::Raft),
    ("cell: messages do not wait for the disk", Protocol::Raft),
    ("cell: a forwarded request is taken twice", Protocol::Raft),
    ("cell: an open request is proposed again too early", Protocol::Raft),
    ("cell: an installed snapshot forgets its place", Protocol::Raft),
    ("cell: a read does not wait for the state", Protocol::Raft),
    ("lease: a new leader's clock is ahead of the stamps", Protocol::Raft),
    ("lease: ended by a clock that runs fast", Protocol::Raft),
    ("lease: a renewal does not save a lease", Protocol::Raft),
    ("lease: its keys outlive it", Protocol::Raft),
    ("state: the applied index is stored apart from the data", Protocol::Raft),
    ("state: a lock is given twice", Protocol::Raft),
    ("state: a compaction takes a live pair", Protocol::Raft),
    ("lock: sharers and one alone hold together", Protocol::Raft),
    ("lock: a guard keeps nobody out", Protocol::Paxos),
    ("lock: a sharer looks only at the one before it", Protocol::Zab),
    ("lock: a write is not fenced", Protocol::Raft),
    ("lock: a queue that is not empty counts as empty", Protocol::Raft),
    ("file: a write does not wait for caches", Protocol::Raft),
    ("file: a new name does not wait for caches", Protocol::Paxos),
    ("file: absence is cached without a registration", Protocol::Zab),
    ("file: what ends with a session is cached", Protocol::Raft),
    ("file: a release takes a newer registration", Protocol::Paxos),
    ("file: a cache outlives its session", Protocol::Zab),
    ("file: a cache keeps what it gives up", Protocol::Raft),
    ("file: an answer that was overtaken is kept", Protocol::Paxos),
    ("election: priorities do not count", Protocol::Raft),
    ("election: a candidate's health does not count", Protocol::Paxos),
    ("election: the candidates may have changed since", Protocol::Zab),
    ("service: active without the office", Protocol::Raft),
    ("watch: an event is dropped", Protocol::Raft),
    ("watch: history begins one revision late", Protocol::Raft),
];

fn nodes(seed: u64) -> u64 {
    [3, 5, 3][seed as usize % 3]
}

/// The number of seeds that it took, and which rule was seen broken.
fn look_for(bug: &'static str, protocol: Protocol) -> Option<(u64, &'static str)> {
    (0..BUDGET).find_map(|seed| {
        synod_base::plant(bug);
        let report = run(&Scenario::of_seed(protocol, nodes(seed), seed));
        synod_base::plant("");
        let violation = report.violation?;
        let without = run(&Scenario::of_seed(protocol, nodes(seed), seed)).violation;
        match without {
            None => Some((seed + 1, violation.rule)),
            Some(v) => {
                println!("seed {seed} ({} nodes) fails by itself: {v:?}", nodes(seed));
                Some((0, "a seed fails without it too"))
            }
        }
    })
}

#[test]
fn every_planted_bug_is_found() {
    // Many of them are found by an assertion of the core: that is no news.
    std::panic::set_hook(Box::new(|_| {}));
    let only = std::env::var("SYNOD_BUG").unwrap_or_default();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some((bug, protocol)) = BUGS.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !bug.contains(&only) {
                continue;
            }
            found.push((*bug, *protocol, look_for(bug, *protocol)));
        }
        found
    };
    let mut all = std::thread::scope(|s| {
        let other = s.spawn(work);
        let mut all = work();
        all.extend(other.join().expect("the other half"));
        all
    });
    all.sort_by_key(|(bug, _, _)| BUGS.iter().position(|(b, ..)| b == bug));
    let _ = std::panic::take_hook();
    let mut table = String::from(
        "# Planted bugs\n\nEach is compiled in on purpose (feature `planted`), one at a time, and \
         looked for in simulated\nclusters under all faults. A bug that is not found within 4,000 \
         seeds fails the run. Written by\n`SYNOD_REWRITE=1 cargo test --profile sim -p synod-sim \
         --features planted --test planted`.\n\n\
         | planted | cell runs | seeds needed | rule that was seen broken |\n|---|---|---|---|\n",
    );
    let mut missed = Vec::new();
    for (bug, protocol, found) in all {
        match found {
            Some((0, why)) => {
                missed.push(format!("{bug}: {why}"));
            }
            Some((seeds, rule)) => {
                let _ = writeln!(table, "| {bug} | {protocol} | {seeds} | {rule} |");
            }
            None => missed.push(bug.to_owned()),
        }
    }
    println!("{table}");
    assert!(missed.is_empty(), "not found within {BUDGET} seeds: {missed:#?}");
    if !only.is_empty() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/planted-bugs.md");
    if std::env::var_os("SYNOD_REWRITE").is_some() {
        std::fs::write(&path, &table).expect("the table can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let names = |t: &str| -> Vec<String> {
        let rows = t.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| planted"));
        rows.filter_map(|l| l.split(" | ").next().map(str::to_owned)).collect()
    };
    assert_eq!(names(&written), names(&table), "docs/planted-bugs.md lists other bugs");
}
