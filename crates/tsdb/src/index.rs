//! Which series have which labels: each pair of name and value once, with the series that
//! have it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_promql::{Labels, Matcher};

/// Numbers of series, ascending.
pub(crate) type Numbers = Vec<u32>;

/// A pair's number, for as long as a series has it.
pub(crate) type PairId = u32;

#[derive(Debug)]
struct Pair {
    name: Arc<str>,
    value: Arc<str>,
    series: Numbers,
}

/// See the file's header.
#[derive(Default, Debug)]
pub(crate) struct Index {
    names: BTreeMap<Arc<str>, BTreeMap<Arc<str>, PairId>>,
    /// By number; one without series is free.
    pairs: Vec<Pair>,
    free: Vec<PairId>,
}

impl Index {
    /// Notes a series; gives its pairs, in the order of its labels.
    pub fn add(&mut self, number: u32, labels: &Labels) -> Box<[PairId]> {
        let mut pairs = Vec::with_capacity(labels.len());
        for (name, value) in labels.iter() {
            let id = self.pair(name, value);
            let series = &mut self.pairs[id as usize].series;
            match series.last() {
                Some(last) if *last >= number => {
                    let at = series.partition_point(|n| *n < number);
                    series.insert(at, number);
                }
                _ => series.push(number),
            }
            pairs.push(id);
        }
        pairs.into()
    }

    fn pair(&mut self, name: &str, value: &str) -> PairId {
        if let Some(id) = self.names.get(name).and_then(|values| values.get(value)) {
            return *id;
        }
        let known = self.names.get_key_value(name).map(|(name, _)| name.clone());
        let name = known.unwrap_or_else(|| name.into());
        let value: Arc<str> = value.into();
        let pair = Pair { name: name.clone(), value: value.clone(), series: Vec::new() };
        let id = match self.free.pop() {
            Some(id) => {
                self.pairs[id as usize] = pair;
                id
            }
            None => {
                self.pairs.push(pair);
                self.pairs.len() as PairId - 1
            }
        };
        self.names.entry(name).or_default().insert(value, id);
        id
    }

    /// Forgets series; `pairs` are all pairs that they had.
    pub fn remove(&mut self, gone: &BTreeSet<u32>, pairs: &BTreeSet<PairId>) {
        for id in pairs {
            let pair = &mut self.pairs[*id as usize];
            pair.series.retain(|number| !gone.contains(number));
            if !pair.series.is_empty() {
                continue;
            }
            pair.series = Vec::new();
            if let Some(values) = self.names.get_mut(&pair.name) {
                values.remove(&pair.value);
                if values.is_empty() {
                    self.names.remove(&pair.name);
                }
            }
            self.free.push(*id);
        }
    }

    /// A pair's name and value.
    pub fn text(&self, id: PairId) -> (&Arc<str>, &Arc<str>) {
        let pair = &self.pairs[id as usize];
        (&pair.name, &pair.value)
    }

    /// The labels that pairs make.
    pub fn labels(&self, pairs: &[PairId]) -> Labels {
        Labels::sorted(pairs.iter().map(|id| {
            let (name, value) = self.text(*id);
            (name.clone(), value.clone())
        }))
    }

    /// Whether pairs are these labels.
    pub fn same(&self, pairs: &[PairId], labels: &Labels) -> bool {
        let texts = pairs.iter().map(|id| {
            let pair = &self.pairs[*id as usize];
            (&*pair.name, &*pair.value)
        });
        pairs.len() == labels.len() && texts.eq(labels.iter())
    }

    /// Whether all matchers take the labels that pairs make.
    pub fn all_take<'a>(
        &self,
        mut matchers: impl Iterator<Item = &'a Matcher>,
        pairs: &[PairId],
    ) -> bool {
        matchers.all(|matcher| {
            let mut found = pairs.iter().map(|id| &self.pairs[*id as usize]);
            let pair = found.find(|pair| *pair.name == *matcher.name);
            matcher.takes(pair.map_or("", |pair| &pair.value))
        })
    }

    /// The series that pass all matchers that do not take an empty value: such a one also
    /// takes series without the label. `None`: there is no such matcher.
    pub fn candidates(&self, matchers: &[Matcher]) -> Option<Numbers> {
        let telling = matchers.iter().filter(|m| !m.takes(""));
        let mut sets: Vec<Numbers> = telling.map(|m| self.passing(m)).collect();
        sets.sort_by_key(Vec::len);
        sets.into_iter().reduce(intersection)
    }

    fn passing(&self, matcher: &Matcher) -> Numbers {
        let Some(values) = self.names.get(&*matcher.name) else { return Vec::new() };
        let series = |id: &PairId| &self.pairs[*id as usize].series;
        if let Some(value) = matcher.equal_to() {
            return values.get(value).map(|id| series(id).clone()).unwrap_or_default();
        }
        let passing = values.iter().filter(|(value, _)| matcher.takes(value));
        let mut all: Numbers = passing.flat_map(|(_, id)| series(id)).copied().collect();
        all.sort_unstable();
        all
    }

    /// All label names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|name| &**name)
    }

    /// All values of a label, ascending.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.names.get(name).into_iter().flat_map(|values| values.keys().map(|v| &**v))
    }

    /// How many pairs there are.
    pub fn pairs(&self) -> usize {
        self.pairs.len() - self.free.len()
    }
}

/// What is in both.
pub(crate) fn intersection(few: Numbers, many: Numbers) -> Numbers {
    let mut at = 0;
    let mut both = few;
    both.retain(|number| {
        // Doubling steps: the other may be much longer.
        let (mut step, mut low) = (1, at);
        while at < many.len() && many[at] < *number {
            low = at;
            at += step;
            step *= 2;
        }
        let high = at.min(many.len());
        at = low + many[low..high].partition_point(|n| n < number);
        many.get(at) == Some(number)
    });
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_intersection_is_what_both_have(
            a in prop::collection::btree_set(0u32..300, 0..60),
            b in prop::collection::btree_set(0u32..300, 0..200),
        ) {
            let both: Numbers = a.intersection(&b).copied().collect();
            let (a, b): (Numbers, Numbers) = (a.into_iter().collect(), b.into_iter().collect());
            prop_assert_eq!(intersection(a, b), both);
        }
    }
}
