//! A failing scenario made smaller while it still fails: fewer machines,
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
            if let Some(violation) = run(&candidate).violation {
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
