//! Every order of events in the smallest cells, from where scripts have led: see
//! `support/explorer.rs` and `support/scenarios.rs`. How far it goes and what it has seen is
//! `docs/explorer.md`; that it can fail is shown by `explore_planted.rs`.
//!
//! `SYNOD_DEPTH=n` goes n events deeper than the default.

mod support;

use support::explorer::{self, explore};
use support::scenarios;
use synod_consensus::Protocol;

fn explore_all(protocol: Protocol) {
    let deeper = std::env::var("SYNOD_DEPTH").ok().and_then(|d| d.parse().ok()).unwrap_or(0);
    let mut unknown = Vec::new();
    for mut scenario in scenarios::of(protocol) {
        scenario.depth += deeper;
        let name = scenario.name;
        let row = format!("| {protocol} | {name} | {} |", scenario.depth);
        match explore(&scenario) {
            Ok(states) => {
                println!("{row} {states} |");
                assert!(states > 100, "{protocol}, {name}: {states} states are too few");
            }
            Err(path) => panic!("{protocol}, {name}: a rule is broken by {path:?}"),
        }
        if deeper == 0 && !explorer::documented(&row) {
            unknown.push(row);
        }
    }
    assert!(unknown.is_empty(), "not in docs/explorer.md: {unknown:#?}");
}

#[test]
fn paxos() {
    explore_all(Protocol::Paxos);
}

#[test]
fn raft() {
    explore_all(Protocol::Raft);
}

#[test]
fn zab() {
    explore_all(Protocol::Zab);
}
