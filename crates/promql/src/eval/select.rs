//! Series to columns and windows.

use super::{ABSENT, Column, Content, Eval, Query, Sample, Series, Value, Windows, is_stale};
use crate::ast::{Expr, Node, Selector, When};
use crate::native::HistogramSample;
use crate::{Error, ErrorKind};

impl Eval<'_> {
    fn fetch(&self, selector: &Selector, from: i64, to: i64) -> Result<Vec<Series>, Error> {
        let found = self.source.select(&selector.matchers, from, to);
        let found = found.map_err(|why| Error { kind: ErrorKind::Source, span: None, why })?;
        self.take(found.iter().map(Series::weight).sum())?;
        Ok(found)
    }

    /// The first and the last moment that a selector looks at.
    fn reach(&self, when: &When, query: Query) -> (i64, i64) {
        let last = query.at(query.steps().saturating_sub(1));
        (self.time(when, query.start), self.time(when, last))
    }

    /// The newest value within the lookback, which is open at its old end.
    pub(super) fn instant(&self, selector: &Selector, query: Query) -> Result<Vec<Column>, Error> {
        self.newest(selector, query, |s| s.value, |h| Content::Histogram(h.value.clone()))
    }

    /// As [`Eval::instant`], but the samples' times, s.
    pub(super) fn timestamps(&self, s: &Selector, query: Query) -> Result<Vec<Column>, Error> {
        let seconds = |at: i64| at as f64 / 1_000.0;
        self.newest(s, query, |s| seconds(s.at), |h| Content::Number(seconds(h.at)))
    }

    fn newest(
        &self,
        selector: &Selector,
        query: Query,
        of: impl Fn(&Sample) -> f64,
        of_histogram: impl Fn(&HistogramSample) -> Content,
    ) -> Result<Vec<Column>, Error> {
        let (first, last) = self.reach(&selector.time, query);
        let lookback = self.limits.lookback;
        let steps = query.steps();
        let found = self.fetch(selector, first.saturating_sub(lookback) + 1, last)?;
        self.take(found.len().saturating_mul(steps))?;
        let column = |series: Series| {
            if !series.histograms.is_empty() {
                let times = (0..steps).map(|step| self.time(&selector.time, query.at(step)));
                return newest_of_both(series, times, lookback, &of, &of_histogram);
            }
            let mut next = 0;
            let mut values = Vec::with_capacity(steps);
            for step in 0..steps {
                let at = self.time(&selector.time, query.at(step));
                while series.samples.get(next).is_some_and(|s| s.at <= at) {
                    next += 1;
                }
                let newest = next.checked_sub(1).map(|i| &series.samples[i]);
                let fresh = newest.filter(|s| s.at > at - lookback && !is_stale(s.value));
                values.push(fresh.map_or(ABSENT, &of));
            }
            Column::new(series.labels, values)
        };
        let columns: Vec<Column> =
            found.into_iter().map(column).filter(|c| !c.is_empty()).collect();
        self.see(|| {
            let steps = |c: &Column| (0..steps).filter(|step| c.has(*step)).count() as u64;
            columns.iter().map(steps).sum()
        });
        Ok(columns)
    }

    /// What a range function looks at.
    pub(super) fn windows(&self, node: &Node, query: Query) -> Result<Windows, Error> {
        match &node.expr {
            Expr::Paren(inner) => self.windows(inner, query),
            Expr::Matrix { selector, range, .. } => {
                let (first, last) = self.reach(&selector.time, query);
                let series = self.fetch(selector, first.saturating_sub(*range) + 1, last)?;
                Ok(self.sorted(series, *range, &selector.time, query))
            }
            Expr::Subquery { inner, range, step, time, .. } => {
                let step = step.unwrap_or(self.limits.subquery_step);
                let (first, last) = self.reach(time, query);
                // Steps sit on multiples of the step, wherever the query begins.
                let start = (first - range).div_euclid(step) * step + step;
                let inner_query = Query { start, end: last, step };
                let series = match self.value(inner, inner_query)? {
                    Value::Vector(columns) => {
                        columns.into_iter().map(|c| c.series(inner_query)).collect()
                    }
                    _ => return Err(Error::execution("a subquery needs an instant vector")),
                };
                Ok(self.sorted(series, *range, time, query))
            }
            _ => Err(Error::execution("a range vector is expected")),
        }
    }

    fn sorted(&self, mut series: Vec<Series>, range: i64, when: &When, query: Query) -> Windows {
        for one in &mut series {
            one.samples.retain(|s| !is_stale(s.value));
            one.histograms.retain(|h| !h.value.is_stale());
        }
        let ends = (0..query.steps()).map(|i| self.time(when, query.at(i))).collect();
        let windows = Windows { series, range, ends };
        self.see(|| windows.looked_at());
        windows
    }
}

/// The newest sample of either kind at each time, if it is fresh.
fn newest_of_both(
    series: Series,
    times: impl Iterator<Item = i64>,
    lookback: i64,
    of: impl Fn(&Sample) -> f64,
    of_histogram: impl Fn(&HistogramSample) -> Content,
) -> Column {
    let Series { labels, samples, histograms } = series;
    let contents: Vec<Content> = times
        .map(|at| {
            let number = samples.partition_point(|s| s.at <= at).checked_sub(1);
            let number = number.map(|i| &samples[i]).filter(|s| s.at > at - lookback);
            let histogram = histograms.partition_point(|h| h.at <= at).checked_sub(1);
            let histogram = histogram.map(|i| &histograms[i]).filter(|h| h.at > at - lookback);
            match (number, histogram) {
                (Some(s), Some(h)) if s.at < h.at && !h.value.is_stale() => of_histogram(h),
                (None, Some(h)) if !h.value.is_stale() => of_histogram(h),
                (Some(s), h) if h.is_none_or(|h| h.at < s.at) && !is_stale(s.value) => {
                    Content::Number(of(s))
                }
                _ => Content::Nothing,
            }
        })
        .collect();
    Column::mixed(labels, contents)
}

/// What a range function sees of a series at one step.
pub(super) struct Window<'a> {
    pub(super) step: usize,
    pub(super) end: i64,
    pub(super) range: i64,
    pub(super) numbers: &'a [Sample],
    pub(super) histograms: &'a [HistogramSample],
}

impl Windows {
    /// The samples of all windows.
    fn looked_at(&self) -> u64 {
        let of = |s: &Series| {
            let (mut numbers, mut histograms) = (Slide::default(), Slide::default());
            let window = |end: &i64| {
                let numbers = numbers.to(&s.samples, *end, self.range, |s| s.at);
                let histograms = histograms.to(&s.histograms, *end, self.range, |h| h.at);
                (numbers.len() + histograms.len()) as u64
            };
            self.ends.iter().map(window).sum::<u64>()
        };
        self.series.iter().map(of).sum()
    }

    /// Computes a value of each window that has one; names go unless `named`. Windows with
    /// histograms have a function of their own.
    pub(super) fn each(
        self,
        named: bool,
        of: impl Fn(usize, &[Sample], i64) -> Option<f64>,
        of_mixed: impl Fn(&crate::Labels, Window<'_>) -> Content,
    ) -> Vec<Column> {
        let Windows { series, range, ends } = self;
        let column = |s: Series| {
            let mut numbers = Slide::default();
            if !s.histograms.is_empty() {
                let mut histograms = Slide::default();
                let contents = ends.iter().enumerate().map(|(step, &end)| {
                    let numbers = numbers.to(&s.samples, end, range, |s| s.at);
                    let histograms = histograms.to(&s.histograms, end, range, |h| h.at);
                    match (numbers.is_empty(), histograms.is_empty()) {
                        (true, true) => Content::Nothing,
                        (false, true) => of(step, numbers, end).into(),
                        _ => of_mixed(&s.labels, Window { step, end, range, numbers, histograms }),
                    }
                });
                let contents: Vec<Content> = contents.collect();
                let labels = if named { s.labels } else { s.labels.nameless() };
                return Column::mixed(labels, contents);
            }
            let values = ends.iter().enumerate().map(|(step, &end)| {
                let window = numbers.to(&s.samples, end, range, |s| s.at);
                if window.is_empty() { ABSENT } else { of(step, window, end).unwrap_or(ABSENT) }
            });
            let values = values.collect();
            Column::new(if named { s.labels } else { s.labels.nameless() }, values)
        };
        series.into_iter().map(column).filter(|c| !c.is_empty()).collect()
    }
}

/// A window that moves over samples. With `@` all windows are one; else they only move on.
#[derive(Default)]
struct Slide {
    from: usize,
    to: usize,
}

impl Slide {
    fn to<'a, T>(
        &mut self,
        samples: &'a [T],
        end: i64,
        range: i64,
        at: impl Fn(&T) -> i64,
    ) -> &'a [T] {
        while samples.get(self.to).is_some_and(|s| at(s) <= end) {
            self.to += 1;
        }
        while self.from < self.to && at(&samples[self.from]) <= end - range {
            self.from += 1;
        }
        &samples[self.from..self.to]
    }
}
