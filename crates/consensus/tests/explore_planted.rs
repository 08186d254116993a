//! The explorer can fail: it finds each of these, which are planted on purpose. Needs
//! `--features planted`. `docs/explorer.md` tells where, and in how many events.

#![cfg(feature = "planted")]

mod support;

use support::explorer::{self, explore};
use support::scenarios;
use synod_consensus::Protocol;

const BUGS: &[(&str, Protocol)] = &[
    ("raft: a vote is not persisted", Protocol::Raft),
    ("raft: any log gets a vote", Protocol::Raft),
    ("raft: an append is acknowledged before it is durable", Protocol::Raft),
    ("raft: an entry of an old term is committed directly", Protocol::Raft),
    ("raft: a change needs no quorum of the old voters", Protocol::Raft),
    ("paxos: a promise is not persisted", Protocol::Paxos),
    ("paxos: a value is acknowledged before it is durable", Protocol::Paxos),
    ("zab: accepted epoch is not persisted", Protocol::Zab),
    ("zab: a proposal is committed without a quorum", Protocol::Zab),
    ("zab: a change needs no quorum of the old voters", Protocol::Zab),
];

/// Where it was found, and in how many events. The scripted beginnings first.
fn look_for(bug: &'static str, protocol: Protocol) -> Option<(&'static str, usize)> {
    scenarios::of(protocol).into_iter().rev().find_map(|scenario| {
        synod_base::plant(bug);
        let found = explore(&scenario);
        synod_base::plant("");
        found.err().map(|path| (scenario.name, path.len()))
    })
}

#[test]
fn every_planted_bug_is_found() {
    let only = std::env::var("SYNOD_BUG").unwrap_or_default();
    let (mut missed, mut unknown) = (Vec::new(), Vec::new());
    for (bug, protocol) in BUGS.iter().filter(|(bug, _)| bug.contains(&only)) {
        let Some((scenario, events)) = look_for(bug, *protocol) else {
            missed.push(*bug);
            continue;
        };
        let row = format!("| {bug} | {scenario} | {events} |");
        println!("{row}");
        if !explorer::documented(&row) {
            unknown.push(row);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:#?}");
    assert!(unknown.is_empty(), "not in docs/explorer.md: {unknown:#?}");
}
