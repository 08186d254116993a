//! Which series have which labels.

use std::collections::BTreeMap;
use std::sync::Arc;
use synod_promql::{Labels, Matcher};

/// Numbers of series, ascending.
type Numbers = Vec<u32>;

/// Label name, value, the series that have it.
#[derive(Default, Debug)]
pub(crate) struct Index(BTreeMap<Arc<str>, BTreeMap<Arc<str>, Numbers>>);

impl Index {
    /// Numbers are given out in ascending order.
    pub fn add(&mut self, number: u32, labels: &Labels) {
        for (name, value) in labels.iter() {
            let values = match self.0.get_mut(name) {
                Some(values) => values,
                None => self.0.entry(name.into()).or_default(),
            };
            match values.get_mut(value) {
                Some(numbers) => numbers.push(number),
                None => drop(values.insert(value.into(), vec![number])),
            }
        }
    }

    pub fn remove(&mut self, number: u32, labels: &Labels) {
        for (name, value) in labels.iter() {
            let Some(values) = self.0.get_mut(name) else { continue };
            if let Some(numbers) = values.get_mut(value) {
                numbers.retain(|n| *n != number);
                if numbers.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.0.remove(name);
            }
        }
    }

    /// The series that may pass: those that pass the matcher with the fewest. `None`: all may.
    pub fn candidates(&self, matchers: &[Matcher]) -> Option<Numbers> {
        // A matcher that takes the empty value also takes series without the label.
        let telling = matchers.iter().filter(|m| !m.takes(""));
        telling.map(|m| self.passing(m)).min_by_key(Vec::len)
    }

    fn passing(&self, matcher: &Matcher) -> Numbers {
        let Some(values) = self.0.get(&*matcher.name) else { return Vec::new() };
        if let Some(value) = matcher.equal_to() {
            return values.get(value).cloned().unwrap_or_default();
        }
        let passing = values.iter().filter(|(value, _)| matcher.takes(value));
        let mut all: Numbers = passing.flat_map(|(_, numbers)| numbers).copied().collect();
        all.sort_unstable();
        all
    }

    /// All label names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }

    /// All values of a label, ascending.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flat_map(|values| values.keys().map(|v| &**v))
    }
}
