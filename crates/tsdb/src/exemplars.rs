//! Exemplars: examples of what was counted, with labels of their own (a trace, say). The
//! newest of all series, so many and no more.

use std::collections::{BTreeMap, VecDeque};
use synod_promql::{Labels, Matcher, all_take};

/// Characters of an exemplar's labels, at most (OpenMetrics has this limit).
pub const EXEMPLAR_CHARS_MAX: usize = 128;

/// See the file's header.
#[derive(Clone, Debug)]
pub struct Exemplar {
    /// Its own labels.
    pub labels: Labels,
    /// The value that was counted.
    pub value: f64,
    /// When, ms.
    pub at: i64,
}

impl PartialEq for Exemplar {
    fn eq(&self, other: &Exemplar) -> bool {
        let bits = |e: &Exemplar| (e.value.to_bits(), e.at);
        bits(self) == bits(other) && self.labels == other.labels
    }
}

/// Why one was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoExemplar {
    /// Its labels are too long.
    TooLong,
    /// The series has a later one.
    OutOfOrder,
}

impl std::fmt::Display for NoExemplar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoExemplar::TooLong => {
                write!(
                    f,
                    "label length for exemplar exceeds maximum of {EXEMPLAR_CHARS_MAX} characters"
                )
            }
            NoExemplar::OutOfOrder => f.write_str("out of order exemplar"),
        }
    }
}

impl std::error::Error for NoExemplar {}

/// The newest exemplars.
#[derive(Debug)]
pub struct Exemplars {
    most: usize,
    /// In the order in which they came.
    ring: VecDeque<(Labels, Exemplar)>,
    /// The newest of each series in the ring.
    newest: BTreeMap<Labels, Exemplar>,
}

impl Exemplars {
    /// None yet; there will be `most` at most.
    pub fn new(most: usize) -> Exemplars {
        Exemplars { most, ring: VecDeque::new(), newest: BTreeMap::new() }
    }

    /// Takes one of a series; gives whether it is new. The same one again is taken as done:
    /// pages show it until there is another.
    pub fn add(&mut self, series: &Labels, exemplar: Exemplar) -> Result<bool, NoExemplar> {
        let chars = exemplar.labels.iter().map(|(n, v)| n.chars().count() + v.chars().count());
        if chars.sum::<usize>() > EXEMPLAR_CHARS_MAX {
            return Err(NoExemplar::TooLong);
        }
        if let Some(newest) = self.newest.get(series) {
            if *newest == exemplar {
                return Ok(false);
            }
            if exemplar.at < newest.at {
                return Err(NoExemplar::OutOfOrder);
            }
        }
        if self.ring.len() >= self.most
            && let Some((series, oldest)) = self.ring.pop_front()
            && self.newest.get(&series) == Some(&oldest)
        {
            self.newest.remove(&series);
        }
        self.newest.insert(series.clone(), exemplar.clone());
        self.ring.push_back((series.clone(), exemplar));
        Ok(true)
    }

    /// Those of `from..=to` of series that all matchers of one of the sets take, by series,
    /// oldest first.
    pub fn select(
        &self,
        sets: &[Vec<Matcher>],
        from: i64,
        to: i64,
    ) -> Vec<(Labels, Vec<Exemplar>)> {
        let mut found = BTreeMap::<&Labels, Vec<Exemplar>>::new();
        let within = self.ring.iter().filter(|(_, e)| (from..=to).contains(&e.at));
        for (series, exemplar) in within {
            if sets.iter().any(|set| all_take(set, series)) {
                found.entry(series).or_default().push(exemplar.clone());
            }
        }
        found.into_iter().map(|(series, all)| (series.clone(), all)).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exemplar(trace: &str, at: i64) -> Exemplar {
        Exemplar { labels: Labels::new([("trace_id", trace)]), value: 1.5, at }
    }

    #[test]
    fn the_newest_stay_and_are_found_by_their_series() {
        let mut all = Exemplars::new(3);
        let series = |n: &str| Labels::new([("__name__", "m"), ("n", n)]);
        for at in 0..5 {
            let one = exemplar(&format!("t{at}"), at);
            assert_eq!(all.add(&series(if at % 2 == 0 { "a" } else { "b" }), one), Ok(true));
        }
        assert_eq!(all.add(&series("a"), exemplar("t4", 4)), Ok(false), "the same again");
        assert_eq!(all.add(&series("a"), exemplar("x", 3)), Err(NoExemplar::OutOfOrder));
        let long = exemplar(&"x".repeat(121), 9);
        assert_eq!(all.add(&series("a"), long), Err(NoExemplar::TooLong));
        assert_eq!(all.len(), 3);
        let of = |value: &str, from, to| {
            let set = vec![Matcher::new("n", "=~", value).expect("a matcher")];
            let found = all.select(&[set], from, to);
            let times = |(_, e): (Labels, Vec<Exemplar>)| e.iter().map(|e| e.at).collect();
            found.into_iter().map(times).collect::<Vec<Vec<i64>>>()
        };
        assert_eq!(of(".*", 0, 9), [vec![2, 4], vec![3]]);
        assert_eq!(of("a", 3, 9), [vec![4]]);
        assert!(of("c", 0, 9).is_empty());
    }

    #[test]
    fn a_series_whose_exemplars_are_gone_begins_anew() {
        let mut all = Exemplars::new(1);
        let (a, b) = (Labels::new([("n", "a")]), Labels::new([("n", "b")]));
        all.add(&a, exemplar("late", 100)).expect("taken");
        all.add(&b, exemplar("t", 1)).expect("taken");
        assert_eq!(all.add(&a, exemplar("early", 5)), Ok(true));
    }
}
