//! One value a step. Histograms are beside the numbers, so that where there are none,
//! nothing looks for them.

use super::{ABSENT, Query, Sample, Series, is_stale};
use crate::labels::Labels;
use crate::native::{Histogram, HistogramSample};
use std::sync::Arc;

/// One value a step, for one series.
#[derive(Clone, Debug)]
pub struct Column {
    pub(crate) labels: Labels,
    pub(crate) values: Vec<f64>,
    /// Empty, or as long as the values; where there is one, there is no number.
    histograms: Vec<Option<Arc<Histogram>>>,
}

/// What a column has at a step.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Nothing,
    Number(f64),
    Histogram(Arc<Histogram>),
}

impl From<Option<f64>> for Content {
    fn from(number: Option<f64>) -> Content {
        number.map_or(Content::Nothing, Content::Number)
    }
}

impl From<Histogram> for Content {
    fn from(histogram: Histogram) -> Content {
        Content::Histogram(Arc::new(histogram))
    }
}

impl Column {
    /// Of numbers alone.
    pub(crate) fn new(labels: Labels, values: Vec<f64>) -> Column {
        Column { labels, values, histograms: Vec::new() }
    }

    /// Of both.
    pub(crate) fn mixed(labels: Labels, contents: impl IntoIterator<Item = Content>) -> Column {
        let contents = contents.into_iter();
        let mut column = Column::new(labels, Vec::with_capacity(contents.size_hint().0));
        for content in contents {
            column.values.push(match &content {
                Content::Number(value) => *value,
                _ => ABSENT,
            });
            if let Content::Histogram(histogram) = content {
                column.histograms.resize(column.values.len() - 1, None);
                column.histograms.push(Some(histogram));
            }
        }
        if !column.histograms.is_empty() {
            column.histograms.resize(column.values.len(), None);
        }
        column
    }

    pub(crate) fn has_histograms(&self) -> bool {
        !self.histograms.is_empty()
    }

    pub(crate) fn histogram(&self, step: usize) -> Option<&Arc<Histogram>> {
        self.histograms.get(step)?.as_ref()
    }

    /// Whether it has either at this step.
    pub(crate) fn has(&self, step: usize) -> bool {
        !is_stale(self.values[step]) || self.histogram(step).is_some()
    }

    pub(crate) fn content(&self, step: usize) -> Content {
        match self.histogram(step) {
            Some(histogram) => Content::Histogram(histogram.clone()),
            None => Some(self.values[step]).filter(|v| !is_stale(*v)).into(),
        }
    }

    pub(crate) fn contents(&self) -> impl Iterator<Item = Content> + '_ {
        (0..self.values.len()).map(|step| self.content(step))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.iter().all(|v| is_stale(*v)) && self.histograms.iter().all(Option::is_none)
    }

    /// Forgets what it has at a step.
    pub(crate) fn clear(&mut self, step: usize) {
        self.values[step] = ABSENT;
        if let Some(histogram) = self.histograms.get_mut(step) {
            *histogram = None;
        }
    }

    /// Without its histograms.
    pub(crate) fn numbers(mut self) -> Column {
        self.histograms = Vec::new();
        self
    }

    /// Takes what another has at a step.
    pub(crate) fn take_from(&mut self, other: &Column, step: usize) {
        self.values[step] = other.values[step];
        if let Some(histogram) = other.histogram(step) {
            self.histograms.resize(self.values.len(), None);
            self.histograms[step] = Some(histogram.clone());
        }
    }

    /// Takes all that another has; says whether there was nothing in its way.
    pub(crate) fn join(&mut self, other: Column) -> bool {
        for step in 0..self.values.len() {
            if other.has(step) {
                if self.has(step) {
                    return false;
                }
                self.take_from(&other, step);
            }
        }
        true
    }

    /// Makes others of its histograms.
    pub(crate) fn each_histogram(&mut self, of: impl Fn(Histogram) -> Histogram) {
        for histogram in self.histograms.iter_mut().flatten() {
            *histogram = Arc::new(of(Histogram::clone(histogram)));
        }
    }

    /// As an answer has it.
    pub(crate) fn series(self, query: Query) -> Series {
        let values = self.values.into_iter().enumerate().filter(|(_, v)| !is_stale(*v));
        let samples = values.map(|(i, value)| Sample { at: query.at(i), value }).collect();
        let histograms = self.histograms.into_iter().enumerate();
        let histograms =
            histograms.filter_map(|(i, h)| Some(HistogramSample { at: query.at(i), value: h? }));
        Series { labels: self.labels, samples, histograms: histograms.collect() }
    }
}
