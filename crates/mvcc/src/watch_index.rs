//! Which watchers a change of a key concerns.
//!
//! Watches of one key are in a map by key. Watches of ranges are in an interval
//! map: the key line is cut at every start and end, and each piece knows the
//! watchers that cover it whole; a lookup is one search, and costs nothing for
//! ranges elsewhere. Overlapping ranges share pieces: adding a range costs the
//! number of cuts inside it, which for watches of prefixes is small.
//!
//! **Invariants**
//! - A piece lasts from its cut to the next one; before the first cut nobody watches.
//! - A cut is there exactly while some range starts or ends at it (`edges`).

use crate::records::bounds;
use crate::types::KeyRange;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

struct Cut<Id> {
    edges: usize,
    covered_by: BTreeSet<Id>,
}

/// See the file's header.
pub struct WatchIndex<Id> {
    watches: BTreeMap<Id, KeyRange>,
    keys: BTreeMap<Bytes, BTreeSet<Id>>,
    cuts: BTreeMap<Bytes, Cut<Id>>,
}

impl<Id: Copy + Ord> Default for WatchIndex<Id> {
    fn default() -> Self {
        WatchIndex { watches: BTreeMap::new(), keys: BTreeMap::new(), cuts: BTreeMap::new() }
    }
}

impl<Id: Copy + Ord> WatchIndex<Id> {
    /// An empty index.
    pub fn new() -> Self {
        WatchIndex::default()
    }

    /// How many watches there are.
    pub fn len(&self) -> usize {
        self.watches.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// Adds a watch; one with the same id is replaced.
    pub fn add(&mut self, id: Id, range: KeyRange) {
        self.remove(id);
        match bounds(&range) {
            None => {
                self.keys.entry(range.key.clone()).or_default().insert(id);
            }
            Some((from, to)) if to.is_none_or(|to| from < to) => {
                let (from, to) = (range.key.clone(), to.map(|_| range.end.clone()));
                self.cut(from.clone());
                if let Some(to) = &to {
                    self.cut(to.clone());
                }
                for (_, cut) in self.cuts.range_mut(pieces(&from, &to)) {
                    cut.covered_by.insert(id);
                }
            }
            Some(_) => {} // An empty range watches nothing.
        }
        self.watches.insert(id, range);
    }

    /// Removes a watch; an unknown one is fine.
    pub fn remove(&mut self, id: Id) {
        let Some(range) = self.watches.remove(&id) else {
            return;
        };
        match bounds(&range) {
            None => {
                if let Some(ids) = self.keys.get_mut(&range.key) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.keys.remove(&range.key);
                    }
                }
            }
            Some((from, to)) if to.is_none_or(|to| from < to) => {
                let (from, to) = (range.key.clone(), to.map(|_| range.end.clone()));
                for (_, cut) in self.cuts.range_mut(pieces(&from, &to)) {
                    cut.covered_by.remove(&id);
                }
                self.uncut(&from);
                if let Some(to) = &to {
                    self.uncut(to);
                }
            }
            Some(_) => {}
        }
    }

    /// Calls `found` for every watch that a change of `key` concerns, once each.
    pub fn matches(&self, key: &[u8], found: &mut dyn FnMut(Id)) {
        if let Some(ids) = self.keys.get(key) {
            ids.iter().for_each(|id| found(*id));
        }
        let before = (Bound::Unbounded, Bound::Included(key));
        if let Some((_, cut)) = self.cuts.range::<[u8], _>(before).next_back() {
            cut.covered_by.iter().for_each(|id| found(*id));
        }
    }

    /// Cuts at `at`: the new piece is covered as the one that it was part of.
    fn cut(&mut self, at: Bytes) {
        if let Some(cut) = self.cuts.get_mut(&at) {
            cut.edges += 1;
            return;
        }
        let before = self.cuts.range(..at.clone()).next_back();
        let covered_by = before.map(|(_, cut)| cut.covered_by.clone()).unwrap_or_default();
        self.cuts.insert(at, Cut { edges: 1, covered_by });
    }

    /// Joins the piece at `at` with the one before once no range ends there.
    fn uncut(&mut self, at: &Bytes) {
        if let Some(cut) = self.cuts.get_mut(at) {
            cut.edges -= 1;
            if cut.edges == 0 {
                self.cuts.remove(at);
            }
        }
    }
}

fn pieces(from: &Bytes, to: &Option<Bytes>) -> (Bound<Bytes>, Bound<Bytes>) {
    let to = to.clone().map_or(Bound::Unbounded, Bound::Excluded);
    (Bound::Included(from.clone()), to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::contains;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(0u8..4, 0..3).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn like_looking_at_every_watch(
            steps in prop::collection::vec((0u32..20, prop::option::of((key(), key()))), 1..80),
            probes in prop::collection::vec(key(), 8),
        ) {
            let mut index = WatchIndex::new();
            let mut naive = BTreeMap::new();
            for (id, step) in steps {
                match step {
                    Some((key, end)) => {
                        let range = KeyRange { key, end };
                        index.add(id, range.clone());
                        naive.insert(id, range);
                    }
                    None => {
                        index.remove(id);
                        naive.remove(&id);
                    }
                }
                for probe in &probes {
                    let mut got = Vec::new();
                    index.matches(probe, &mut |id| got.push(id));
                    got.sort_unstable();
                    let want = naive.iter().filter(|(_, r)| contains(r, probe));
                    prop_assert_eq!(got, want.map(|(id, _)| *id).collect::<Vec<_>>());
                }
            }
            for id in naive.keys() {
                index.remove(*id);
            }
            prop_assert!(index.cuts.is_empty() && index.keys.is_empty());
        }
    }
}
