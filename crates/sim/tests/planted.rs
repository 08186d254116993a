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

const RAFT: &[Protocol] = &[Protocol::Raft];
const PAXOS: &[Protocol] = &[Protocol::Paxos];
const ZAB: &[Protocol] = &[Protocol::Zab];
const EACH: &[Protocol] = &[Protocol::Raft, Protocol::Paxos, Protocol::Zab];

/// What is planted, and on which protocols it is looked for: what coordination rests on,
/// on each. What only a rare chance would show in a whole cluster (a vote or a promise that
/// is not durable, figure 8, a change of members without a quorum of the old ones) the
/// explorer finds (`crates/consensus/tests/explore_planted.rs`).
const BUGS: &[(&str, &[Protocol])] = &[
    ("raft: any log gets a vote", RAFT),
    ("raft: leads without a quorum of votes", RAFT),
    ("raft: an append is acknowledged before it is durable", RAFT),
    ("raft: a conflict is not cut off", RAFT),
    ("raft: a leader counts itself before its own write", RAFT),
    ("raft: a read before the own first commit", RAFT),
    ("raft: a read without a barrier", RAFT),
    ("paxos: leads without a quorum of promises", PAXOS),
    ("paxos: a value of a lower ballot is proposed again", PAXOS),
    ("paxos: a hole is not filled", PAXOS),
    ("paxos: a leader counts itself before its own write", PAXOS),
    ("paxos: a report is taken for whole too early", PAXOS),
    ("paxos: values of earlier ballots keep no order", PAXOS),
    ("paxos: a value is acknowledged before it is durable", PAXOS),
    ("paxos: a watermark covers what an earlier ballot accepted", PAXOS),
    ("paxos: a read before the own first slot is chosen", PAXOS),
    ("paxos: a read without a barrier", PAXOS),
    ("zab: an epoch is not bumped", ZAB),
    ("zab: accepted epoch is not persisted", ZAB),
    ("zab: the newest history is not chosen", ZAB),
    ("zab: a truncation is skipped", ZAB),
    ("zab: NEWLEADER is acknowledged before the history is durable", ZAB),
    ("zab: a proposal is acknowledged before it is durable", ZAB),
    ("zab: a proposal is committed without a quorum", ZAB),
    ("zab: a gap in the proposals is taken", ZAB),
    ("zab: a read without a barrier", ZAB),
    ("journal: a batch is not synced", RAFT),
    ("journal: what a failed sync left is believed after a restart", RAFT),
    ("journal: damage in the middle is cut off as a torn tail", RAFT),
    ("journal: an emptied segment is taken for a new one", RAFT),
    ("journal: a segment is dropped too early", RAFT),
    ("journal: a segment of the older version is taken for an empty one", RAFT),
    ("cell: messages do not wait for the disk", RAFT),
    ("cell: a forwarded request is taken twice", RAFT),
    ("cell: an open request is proposed again too early", RAFT),
    ("cell: an installed snapshot forgets its place", RAFT),
    ("cell: a read does not wait for the state", RAFT),
    ("lease: a new leader's clock is ahead of the stamps", EACH),
    ("lease: ended by a clock that runs fast", EACH),
    ("lease: a renewal does not save a lease", EACH),
    ("lease: its keys outlive it", EACH),
    ("state: the applied index is stored apart from the data", RAFT),
    ("state: a lock is given twice", RAFT),
    ("state: a compaction takes a live pair", RAFT),
    ("lock: sharers and one alone hold together", EACH),
    ("lock: a guard keeps nobody out", EACH),
    ("lock: a sharer looks only at the one before it", EACH),
    ("lock: a write is not fenced", EACH),
    ("lock: a queue that is not empty counts as empty", EACH),
    ("file: a write does not wait for caches", EACH),
    ("file: a new name does not wait for caches", EACH),
    ("file: absence is cached without a registration", EACH),
    ("file: what ends with a session is cached", EACH),
    ("file: a release takes a newer registration", EACH),
    ("file: a cache outlives its session", EACH),
    ("file: a cache keeps what it gives up", EACH),
    ("file: an answer that was overtaken is kept", EACH),
    ("election: priorities do not count", EACH),
    ("election: a candidate's health does not count", EACH),
    ("election: the candidates may have changed since", EACH),
    ("service: active without the office", EACH),
    ("session: no grace is given", EACH),
    ("session: a renewal counts from its answer", EACH),
    ("watch: an event is dropped", RAFT),
    ("watch: history begins one revision late", RAFT),
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
        while let Some((bug, protocols)) = BUGS.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !bug.contains(&only) {
                continue;
            }
            let seen: Vec<_> = protocols.iter().map(|p| (*p, look_for(bug, *p))).collect();
            found.push((*bug, seen));
        }
        found
    };
    let mut all = std::thread::scope(|s| {
        let other = s.spawn(work);
        let mut all = work();
        all.extend(other.join().expect("the other half"));
        all
    });
    all.sort_by_key(|(bug, _)| BUGS.iter().position(|(b, ..)| b == bug));
    let _ = std::panic::take_hook();
    let mut table = String::from(
        "# Planted bugs\n\nEach is compiled in on purpose (feature `planted`), one at a time, and \
         looked for in simulated\nclusters under all faults. A bug that is not found within 4,000 \
         seeds fails the run. Written by\n`SYNOD_REWRITE=1 cargo test --profile sim -p synod-sim \
         --features planted --test planted`.\n\n\
         | planted | cell runs | seeds needed | rule that was seen broken |\n|---|---|---|---|\n",
    );
    let mut missed = Vec::new();
    for (bug, seen) in all {
        let (mut cells, mut needed, mut rules) = (Vec::new(), Vec::new(), Vec::new());
        for (protocol, found) in seen {
            match found {
                Some((0, why)) => missed.push(format!("{bug}: {why}")),
                Some((seeds, rule)) => {
                    cells.push(protocol.to_string());
                    needed.push(seeds.to_string());
                    if !rules.contains(&rule) {
                        rules.push(rule);
                    }
                }
                None => missed.push(format!("{bug}: {protocol}")),
            }
        }
        let (cells, needed, rules) = (cells.join(", "), needed.join(", "), rules.join("; "));
        let _ = writeln!(table, "| {bug} | {cells} | {needed} | {rules} |");
    }
    println!("{table}");
    assert!(missed.is_empty(), "not found within {BUDGET} seeds: {missed:#?}");
    if !only.is_empty() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/planted-bugs.md");
    let mut written = std::fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("SYNOD_REWRITE").is_some() {
        // What stands below the table is not written here.
        let below = written.find("\n## ").map_or("", |at| &written[at..]);
        written = format!("{table}{below}");
        std::fs::write(&path, &written).expect("the table can be written");
    }
    let names = |t: &str| -> Vec<String> {
        let rows = t.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| planted"));
        rows.filter_map(|l| l.split(" | ").next().map(str::to_owned)).collect()
    };
    assert_eq!(names(&written), names(&table), "docs/planted-bugs.md lists other bugs");
}
