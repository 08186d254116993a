//! Sets of slots: what a peer has accepted, what is to be written.

/// Slots as ranges in order, neither touching nor overlapping: as long as
/// messages keep their order it is one.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds the slots from `first` to `last`.
    pub fn insert(&mut self, first: u64, last: u64) {
        let from = self.0.partition_point(|r| r.1 + 1 < first);
        let to = from + self.0[from..].partition_point(|r| r.0 <= last + 1);
        if from == to {
            return self.0.insert(from, (first, last));
        }
        self.0[from] = (first.min(self.0[from].0), last.max(self.0[to - 1].1));
        self.0.drain(from + 1..to);
    }

    /// The last slot of the unbroken row that begins with `from`; the one
    /// before `from` if that is not there.
    pub fn reach(&self, from: u64) -> u64 {
        let range = self.0.iter().find(|r| r.1 >= from).filter(|r| r.0 <= from);
        range.map_or(from - 1, |r| r.1)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + Clone {
        self.0.iter().copied()
    }

    /// Forgets ranges that end at or below `upto`.
    pub fn drop_to(&mut self, upto: u64) {
        let gone = self.0.partition_point(|r| r.1 <= upto);
        self.0.drain(..gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ranges_are_a_set(parts: Vec<(u8, u8)>, upto in 0..64u64) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (first, more) in parts {
                let (first, last) = (u64::from(first % 64) + 1, u64::from(first % 64 + more % 8) + 1);
                ranges.insert(first, last);
                set.extend(first..=last);
                prop_assert!(ranges.0.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{:?}", ranges);
            }
            let reach = |from: u64| (from..).find(|s| !set.contains(s)).map(|end| end - 1);
            for from in 1..80 {
                prop_assert_eq!(Some(ranges.reach(from)), reach(from));
            }
            ranges.drop_to(upto);
            for from in upto + 1..80 {
                prop_assert_eq!(Some(ranges.reach(from)), reach(from));
            }
        }
    }
}
