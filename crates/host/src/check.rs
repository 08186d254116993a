//! Do all members hold the same? The leader compares hashes of the keyspace at
//! one revision: soon after it is elected, and then on a schedule.

use crate::handle::Handle;
use std::collections::BTreeMap;
use synod_base::{NodeId, Tick};

/// Wait after an election before the first comparison.
const FIRST_AFTER_MS: u64 = 5_000;

pub(crate) struct Checker {
    every_ms: u64,
    id: NodeId,
    next: Option<Tick>,
    led: bool,
    revision: i64,
    told: BTreeMap<NodeId, (u32, i64)>,
}

impl Checker {
    /// Compares every `every_ms`; 0: only after elections.
    pub fn new(id: NodeId, every_ms: u64) -> Checker {
        Checker { every_ms, id, next: None, led: false, revision: 0, told: BTreeMap::new() }
    }

    /// The revision to compare at, when it is time.
    pub fn due(&mut self, now: Tick, leads: bool, handle: &Handle) -> Option<i64> {
        if leads != self.led {
            self.led = leads;
            self.next = leads.then(|| now.plus(FIRST_AFTER_MS));
        }
        if self.next.is_none_or(|at| now < at) {
            return None;
        }
        self.next = (self.every_ms > 0).then(|| now.plus(self.every_ms));
        self.told.clear();
        self.revision = handle.published().revision();
        Some(self.revision)
    }

    /// The own hash is there.
    pub fn own(&mut self, revision: i64, hash: Option<(u32, i64)>) -> Vec<NodeId> {
        self.told(self.id, revision, hash)
    }

    /// A member's hash is there: who is now known to differ?
    pub fn told(&mut self, peer: NodeId, revision: i64, hash: Option<(u32, i64)>) -> Vec<NodeId> {
        let Some(hash) = hash.filter(|_| revision == self.revision) else { return Vec::new() };
        self.told.insert(peer, hash);
        // Only hashes over the same compacted past can be compared.
        let mut counts: BTreeMap<(u32, i64), usize> = BTreeMap::new();
        for hash in self.told.values() {
            *counts.entry(*hash).or_default() += 1;
        }
        let Some((&best, &votes)) = counts.iter().max_by_key(|(_, n)| **n) else {
            return Vec::new();
        };
        let differs = |hash: &(u32, i64)| hash.1 == best.1 && hash.0 != best.0;
        if votes >= 2 {
            self.told.iter().filter(|(_, h)| differs(h)).map(|(id, _)| *id).collect()
        } else {
            // One against one: nobody can say who is wrong, so both are named.
            let split = self.told.values().any(differs);
            if split { self.told.keys().copied().collect() } else { Vec::new() }
        }
    }
}
