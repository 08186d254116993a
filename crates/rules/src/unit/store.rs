//! The series of one test.

use crate::group::Store;
use std::cell::RefCell;
use std::collections::BTreeMap;
use synod_promql::{Labels, Matcher, NAME, Sample, Series, Source, all_take};

/// Series by their names, so that a selector looks at few.
#[derive(Default)]
pub(crate) struct MemoryStore(RefCell<BTreeMap<String, BTreeMap<Labels, Vec<Sample>>>>);

impl Source for MemoryStore {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, String> {
        let all = self.0.borrow();
        let named = matchers.iter().find(|m| m.name == NAME).and_then(Matcher::equal_to);
        let groups: Vec<_> = match named {
            Some(name) => all.get(name).into_iter().collect(),
            None => all.values().collect(),
        };
        let mut out = Vec::new();
        for (labels, samples) in groups.into_iter().flatten() {
            if !all_take(matchers, labels) {
                continue;
            }
            let first = samples.partition_point(|s| s.at < from);
            let end = samples.partition_point(|s| s.at <= to);
            if first < end {
                let samples = samples[first..end].to_vec();
                out.push(Series::new(labels.clone(), samples));
            }
        }
        Ok(out)
    }
}

impl Store for MemoryStore {
    fn append(&self, at: i64, samples: &[(Labels, f64)]) -> usize {
        let mut refused = 0;
        let mut all = self.0.borrow_mut();
        for (labels, value) in samples {
            let named = all.entry(labels.get(NAME).to_owned()).or_default();
            let series = named.entry(labels.clone()).or_default();
            if series.last().is_some_and(|s| s.at >= at) {
                refused += 1;
            } else {
                series.push(Sample { at, value: *value });
            }
        }
        refused
    }
}
