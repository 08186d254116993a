//! A failing scenario made smaller while it still breaks the same rule: fewer machines,
//! clients, kinds of fault, scheduled faults, less time.

use crate::run::{Violation, run};
use crate::scenario::{Faults, Scenario};
use crate::schedule::draw;

/// The smallest failing scenario found within `budget` runs, with what it breaks.
pub fn shrink(scenario: &Scenario, budget: usize) -> Option<(Scenario, Violation)> {
    let mut best = (scenario.clone(), run(scenario).violation?);
    let mut left = budget;
    loop {
        let mut smaller = false;
        for candidate in candidates(&best.0, best.1.at_ms) {
            if left == 0 {
                return Some(best);
            }
            left -= 1;
            // Another rule would be another story.
            let same = run(&candidate).violation.filter(|v| v.rule == best.1.rule);
            if let Some(violation) = same {
                best = (candidate, violation);
                smaller = true;
                break;
            }
        }
        if !smaller {
            return Some(best);
        }
    }
}

/// Steps down from a scenario, the largest first.
fn candidates(s: &Scenario, failed_ms: u64) -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |change: &dyn Fn(&mut Scenario)| {
        let mut smaller = s.clone();
        change(&mut smaller);
        if smaller != *s {
            all.push(smaller);
        }
    };
    if s.nodes > 3 {
        add(&|c| c.nodes = 3);
    }
    if failed_ms + 1 < s.ms {
        add(&|c| c.ms = failed_ms + 1);
    }
    add(&|c| c.ms = (s.ms / 2).max(1_000).min(s.ms));
    add(&|c| c.clients = (s.clients / 2).max(1));
    add(&|c| c.file_clients = 0);
    add(&|c| c.file_clients = s.file_clients / 2);
    if s.without.is_empty() {
        for fault in &s.faults.0 {
            add(&|c| {
                c.faults = Faults(s.faults.0.iter().copied().filter(|f| f != fault).collect())
            });
        }
    }
    let acts = draw(s).len();
    let there: Vec<usize> = (0..acts).filter(|n| !s.without.contains(n)).collect();
    let mut size = there.len().div_ceil(2);
    while size > 0 {
        for some in there.chunks(size) {
            add(&|c| c.without.extend(some));
        }
        size /= 2;
    }
    all
}

#[test]
fn a_smaller_one_has_fewer_of_everything() {
    let scenario = Scenario::of_seed(synod_consensus::Protocol::Raft, 5, 4);
    let smaller = candidates(&scenario, 3_000);
    for what in [
        &(|c: &Scenario| c.nodes < 5) as &dyn Fn(&Scenario) -> bool,
        &|c| c.ms <= 3_001,
        &|c| c.clients < scenario.clients,
        &|c| c.file_clients == 0,
        &|c| c.faults.0.len() < scenario.faults.0.len(),
        &|c| !c.without.is_empty(),
    ] {
        assert!(smaller.iter().any(what));
    }
    assert!(!smaller.contains(&scenario));
    // One that breaks no rule has no smaller one.
    let calm = Scenario { faults: Faults::default(), ms: 1_000, file_clients: 0, ..scenario };
    assert!(shrink(&calm, 5).is_none());
}
