//! The series of one test.

use crate::Observed;
use crate::group::Store;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use synod_promql::{
    Histogram, HistogramSample, Labels, Matcher, NAME, Sample, Series, Source, all_take,
};

/// Series by their names, so that a selector looks at few.
#[derive(Default)]
pub(crate) struct MemoryStore(RefCell<BTreeMap<String, BTreeMap<Labels, Series>>>);

impl Source for MemoryStore {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<Vec<Series>, String> {
        let all = self.0.borrow();
        let named = matchers.iter().find(|m| m.name == NAME).and_then(Matcher::equal_to);
        let groups: Vec<_> = match named {
            Some(name) => all.get(name).into_iter().collect(),
            None => all.values().collect(),
        };
        let mut out = Vec::new();
        for (labels, series) in groups.into_iter().flatten() {
            if !all_take(matchers, labels) {
                continue;
            }
            let Series { samples, histograms, .. } = series;
            let first = samples.partition_point(|s| s.at < from);
            let samples = &samples[first..samples.partition_point(|s| s.at <= to)];
            let first = histograms.partition_point(|h| h.at < from);
            let histograms = &histograms[first..histograms.partition_point(|h| h.at <= to)];
            if !samples.is_empty() || !histograms.is_empty() {
                out.push(Series {
                    labels: labels.clone(),
                    samples: samples.to_vec(),
                    histograms: histograms.to_vec(),
                });
            }
        }
        Ok(out)
    }
}

impl MemoryStore {
    /// Takes a sample, unless its series has one that is as new; says whether it did.
    pub fn put(&self, at: i64, labels: &Labels, observed: Observed) -> bool {
        let mut all = self.0.borrow_mut();
        let named = all.entry(labels.get(NAME).to_owned()).or_default();
        let new = || Series::new(labels.clone(), Vec::new());
        let series = named.entry(labels.clone()).or_insert_with(new);
        let last = series.samples.last().map(|s| s.at);
        if last.max(series.histograms.last().map(|h| h.at)).is_some_and(|last| last >= at) {
            return false;
        }
        match observed {
            Observed::Number(value) => series.samples.push(Sample { at, value }),
            Observed::Histogram(value) => series.histograms.push(HistogramSample { at, value }),
        }
        true
    }
}

impl Store for MemoryStore {
    fn append(&self, at: i64, samples: &[(Labels, f64)]) -> usize {
        let put = |(labels, value): &&(Labels, f64)| self.put(at, labels, Observed::Number(*value));
        samples.iter().filter(|one| !put(one)).count()
    }

    fn append_histograms(&self, at: i64, all: &[(Labels, Arc<Histogram>)]) -> usize {
        let put = |(labels, histogram): &&(Labels, Arc<Histogram>)| {
            self.put(at, labels, Observed::Histogram(histogram.clone()))
        };
        all.iter().filter(|one| !put(one)).count()
    }
}
